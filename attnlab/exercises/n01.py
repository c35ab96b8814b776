"""Checks of notebook 01, one head."""

import math

import torch

from attnlab import attention_weights, scaled_dot_product_attention
from attnlab.teach import call, exercise, require, require_number, require_tensor


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal up to float32 rounding."""
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), atol=1e-4, rtol=1e-4)


def agrees(got: torch.Tensor, wrong: torch.Tensor) -> bool:
    """Whether a student's rows are those of a known mistake, but for one row of NaN.

    A wrong mask may leave a row without keys; the softmax of nothing is NaN, and would hide what
    the other rows say.
    """
    if got.shape != wrong.shape:
        return False
    rows = got.isfinite().all(dim=-1)
    return bool(rows.sum() >= len(rows) - 1) and close(got[rows], wrong[rows])


@exercise("1.1", "Weights from scores", minutes=8, difficulty=1)
def weights_from_scores(answer):
    scores = torch.tensor(
        [[1.0, 2.0, 0.5, -1.0], [0.0, 3.0, 1.0, 2.0], [2.0, -1.0, 0.3, 1.0], [1.0, 0.0, 2.0, 0.7]]
    )
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 0, 1, 1]]).bool()

    def weights(scores, mask):
        return scores.masked_fill(~mask, -math.inf).softmax(-1)

    got = call(answer, scores, mask)
    if isinstance(got, torch.Tensor):
        mistakes = {
            "mask the wrong way round: True means may attend": weights(scores, ~mask),
            "mask not used: hidden keys must get the weight 0": scores.softmax(-1),
            "mask after softmax: the rows no longer sum to 1; mask the scores, not the weights": (
                scores.softmax(-1) * mask
            ),
            "masked scores set to zero: exp(0) is 1, so hidden keys keep weight; use minus "
            "infinity": (scores * mask).softmax(-1),
            "mask transposed: row i of the mask belongs to query i": weights(scores, mask.T),
        }
        hidden = scores.masked_fill(~mask, -math.inf)
        for name, wrong in mistakes.items():
            require(not agrees(got, wrong), name)
        for axis in (scores.softmax(0), hidden.softmax(0), scores.softmax(0) * mask):
            require(
                not agrees(got, axis),
                "softmax over the wrong axis: your columns sum to 1, and the rows should; the keys "
                "are the last axis, dim=-1",
            )
        for whole in (scores, hidden):
            require(
                not agrees(got, whole.flatten().softmax(0).view(4, 4)),
                "softmax over the whole matrix: each row must sum to 1 by itself",
            )
    got = require_tensor(got, (4, 4))
    require(
        close(got, weights(scores, mask)),
        "not the softmax: the weights differ from exp(score) divided by the sum over the visible "
        "keys of the row",
    )
    everybody = torch.ones(4, 4, dtype=torch.bool)
    plain = require_tensor(call(answer, scores, everybody), (4, 4))
    require(close(plain, scores.softmax(-1)), "wrong where nothing is hidden: nothing to mask")
    wide = torch.randn(3, 3)
    got = call(answer, wide, everybody[:3, :3])
    require(
        isinstance(got, torch.Tensor) and close(got, wide.softmax(-1)),
        "right for one size only: take n from the scores",
    )
    large = call(answer, 500 * scores, mask)
    require(
        isinstance(large, torch.Tensor) and bool(large.isfinite().all()),
        "overflow or underflow: scores of 1,000 give NaN or inf; mask first, subtract the largest "
        "visible score of the row, then take exp",
    )
    require(
        close(large, weights(500 * scores, mask)),
        "wrong for large scores: the weights are right for small scores only",
    )
    require(
        close(call(answer, scores - 1000, mask), weights(scores, mask)),
        "hidden scores not low enough: a score of -1,000 must still win; use minus infinity",
    )


@exercise("1.2", "One causal head", minutes=12, difficulty=2)
def causal_head(answer):
    x, (w_q, w_k, w_v) = torch.randn(5, 6), torch.randn(3, 6, 4)
    q, k, v = (t[None, None] for t in (x @ w_q, x @ w_k, x @ w_v))

    def head(q=q, k=k, v=v, causal=True, **options):
        return scaled_dot_product_attention(q, k, v, causal=causal, **options)[0, 0]

    got = call(answer, x, w_q, w_k, w_v)
    if isinstance(got, torch.Tensor):
        require(
            got.shape != (5, 5),
            "weights instead of output: the result is (n, n); multiply the weights by the values",
        )
        ones = torch.ones(5, 5, dtype=torch.bool)
        scores = (q @ k.mT)[0, 0] / 2
        hidden = scores.masked_fill(ones.triu(1), -math.inf)
        mistakes = {
            "no mask: tokens see what comes after them": [head(causal=False)],
            "missing √d: the scores are not divided by the root of d_k": [head(scale=1.0)],
            "divided by d, not its root: the scores must be divided by √d_k": [head(scale=1 / 4)],
            "root of d_model: the number under the root is that of a query's entries, d_k": [
                head(scale=6**-0.5)
            ],
            "mask the wrong way round: your tokens see what comes after them": [
                head(causal=False, mask=ones.triu()), head(causal=False, mask=ones.triu(1)),
            ],
            "off by one: your tokens do not see themselves": [
                head(causal=False, mask=ones.tril(-1))
            ],
            "queries and keys swapped: row i of the scores belongs to query i": [head(q=k, k=q)],
            "queries used as values: the output mixes the values x @ w_v": [head(v=q)],
            "keys used as values: the output mixes the values x @ w_v": [head(v=k)],
            "mask after softmax: the rows of the weights no longer sum to 1": [
                scores.softmax(-1).tril() @ v[0, 0]
            ],
            "masked scores set to zero: exp(0) is 1, so hidden keys keep weight; use minus "
            "infinity": [scores.tril().softmax(-1) @ v[0, 0]],
            "no softmax: weights are positive and sum to 1 over the keys": [
                scores.tril() @ v[0, 0], scores @ v[0, 0],
            ],
            "softmax over the wrong axis: it must run over the keys, dim=-1": [
                hidden.softmax(0) @ v[0, 0]
            ],
        }  # fmt: skip
        for name, wrongs in mistakes.items():
            require(not any(agrees(got, wrong) for wrong in wrongs), name)
    require_tensor(got, (5, 4))
    require(close(got, head()), "not the output of the head: compare each step with the formulas")
    x, (w_q, w_k, w_v) = torch.randn(3, 7), torch.randn(3, 7, 2)
    q, k, v = (t[None, None] for t in (x @ w_q, x @ w_k, x @ w_v))
    require(
        close(call(answer, x, w_q, w_k, w_v), head(q, k, v)),
        "right for one size only: take n and d_k from the shapes of the input",
    )


@exercise("1.3", "How large is a score?", minutes=3, difficulty=1)
def score_std(answer):
    value = require_number(answer)

    def says(number: float) -> bool:
        return abs(value - number) < 0.01 * abs(number)

    require(not says(9), "variance instead of standard deviation: take the root")
    require(not says(30), "forgot the division: that is q·k before it is divided by √d_k")
    require(not says(1), "standard deviation of q overlooked: it is 3 here, not 1")
    require(not says(0.3), "divided by d, not its root: the scores are divided by √100 = 10")
    require(not says(300), "terms add like a worst case: independent terms add their variances")
    require(not says(900), "variance before the division: take the root, then divide by √d_k")
    require(
        not says(math.sqrt(3)),
        "variance taken as 3: a standard deviation of 3 is a variance of 9",
    )
    require(says(3), "not the standard deviation: variance of q·k is 100 terms times 9 times 1")


@exercise("1.4", "Look back by one", minutes=15, difficulty=3)
def previous_token(answer):
    for n in range(4, 41):
        made = call(answer, n)
        if isinstance(made, torch.Tensor) and made.dim() == 3:
            made = list(made)
        require(
            isinstance(made, tuple | list) and len(made) == 2,
            "not a pair: return q and k, in this order",
        )
        q, k = (require_tensor(t) for t in made)
        require(
            (q.shape, k.shape) != ((2, n), (2, n)),
            "transposed: tokens are rows, so q and k are (n, 2)",
        )
        q, k = require_tensor(q, (n, 2)).double(), require_tensor(k, (n, 2)).double()
        weights = attention_weights(q[None, None], k[None, None])[0, 0]
        token = torch.arange(1, n)
        on_previous = weights[token, token - 1].min().item()
        if on_previous >= 0.9:
            continue
        require(
            weights.diag()[1:].min() < 0.9,
            "off by one: your tokens look at themselves, not at the token before",
        )
        require(
            weights[token[:-1], token[:-1] + 1].min() < 0.9,
            "looks ahead: your tokens look at the next one, not at the one before (queries first?)",
        )
        require(
            (weights - 1 / n).abs().max() > 1e-6,
            "all keys alike: every weight is 1/n; give each key a direction of its own",
        )
        right = int((weights[1:].argmax(-1) == token - 1).sum())
        require(
            right < n - 1,
            f"too soft: for n = {n} the right key leads, but with a weight of only "
            f"{on_previous:.2f}; make the vectors longer",
        )
        require(
            False,
            f"wrong target: for n = {n}, {n - 1 - right} of {n - 1} tokens look elsewhere",
        )
