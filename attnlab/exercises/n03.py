"""Checks of notebook 03, what heads learn."""

import math

import torch

from attnlab.teach import call, exercise, require, require_number, require_tensor


def _causal(n: int, std: float = 1.0) -> torch.Tensor:
    scores = std * torch.randn(n, n)
    return scores.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf).softmax(-1)


@exercise("3.1", "The fixed-offset baseline", minutes=8, difficulty=1)
def best_offset(answer):
    offsets = torch.tensor([-7, -1, -1, -4, -1, -7, -1, 2, -9, -6])  # the last is no median
    query = torch.tensor([12, 9, 14, 20, 11, 30, 17, 4, 10, 8])
    pairs = torch.stack([query, query + offsets], dim=1)
    got = call(answer, pairs)
    require(
        isinstance(got, tuple | list) and len(got) == 2,
        "not two things: return the offset and the share",
    )
    offset, share = require_number(got[0]), require_number(got[1])
    require(
        not math.isclose(offset, 0.4, abs_tol=1e-5),
        "share first: return the offset, then the share",
    )
    require(
        offset != 1,
        "wrong sign: the offset is key − query, negative for a key that stands before",
    )
    require(
        not (offset == -7 and math.isclose(share, 0.2, abs_tol=1e-5)),
        "first link: count how often each offset occurs among all of them",
    )
    mistakes = {
        "mean offset: a head looks at one place; take the offset that occurs most often": -3.5,
        "median offset: take the offset that occurs most often": -4,
        "farthest offset: take the one that occurs most often": -9,
        "largest offset: take the one that occurs most often": 2,
    }
    for name, wrong in mistakes.items():
        require(not math.isclose(offset, wrong, abs_tol=1e-4), name)
    require(offset == -1, "not the offset that fits most links: count how often each one occurs")
    require(share != 4, "count, not share: divide by the number of links")
    require(not math.isclose(share, 40, abs_tol=1e-3), "percent: a share lies between 0 and 1")
    require(
        not math.isclose(share, 4 / 6, abs_tol=1e-5),
        "share of the different offsets: divide by the number of links",
    )
    require(math.isclose(share, 0.4, abs_tol=1e-5), "not the share: 4 of the 10 links fit")
    ahead = torch.tensor([[4, 5], [3, 5], [1, 3]])
    got = call(answer, ahead)
    require(
        require_number(got[0]) == 2,
        "right for one direction only: keys may also stand behind the query",
    )
    require(
        math.isclose(require_number(got[1]), 2 / 3, abs_tol=1e-5),
        "share right for one example only: the links with that offset, by all links",
    )


@exercise("3.2", "Entropy of a causal head", minutes=10, difficulty=2)
def causal_entropy(answer):
    n = 12
    w = _causal(n)
    h = torch.special.entr(w).sum(-1)
    seen = torch.arange(1, n + 1)
    expected = (h[1:] / seen[1:].log()).mean().item()
    columns = torch.special.entr(w).sum(0)
    got = call(answer, w)
    if isinstance(got, torch.Tensor) and got.dim() == 1:
        require(
            tuple(got.shape) != (n,) and tuple(got.shape) != (n - 1,),
            "not averaged: return one number, the mean over the queries",
        )
    if isinstance(got, torch.Tensor) and got.dim() == 0:
        require(
            not bool(got.isnan()),
            "NaN in the result: computed, 0 · log 0 is NaN, and so is 0 / log 1 of the first row",
        )
    value = require_number(got)
    mistakes = {
        "not normalised: divide each row by the log of the keys it may see": h[1:].mean(),
        "not normalised: divide each row by the log of the keys it may see; and leave out the "
        "first query": h.mean(),
        "log n for every query: query i sees i + 1 keys, not n": (h[1:] / math.log(n)).mean(),
        "log n for every query: query i sees i + 1 keys, and the first has no choice": (
            h / math.log(n)
        ).mean(),
        "first query counted: it has one key and no choice, leave it out": (
            (h[1:] / seen[1:].log()).sum() / n
        ),
        "sign lost: entropy is minus the sum": -expected,
        "one key too many: counted from 0, query i sees i + 1 keys": (
            h[1:] / (seen[1:] + 1).log()
        ).mean(),
        "one key too few: counted from 0, query i sees i + 1 keys, itself included": (
            h[2:] / (seen[2:] - 1).log()
        ).mean(),
        "ratio of the means: divide each row by its own maximum first, then take the mean": (
            h[1:].mean() / seen[1:].log().mean()
        ),
        "wrong axis: the weights of a query stand in a row": (
            columns[1:] / seen[1:].log()
        ).mean(),
        "entropy of the mean row: first the entropy of each row, then the mean": (
            torch.special.entr(w.mean(0)).sum() / math.log(n)
        ),
        "mixed logarithms: take the same logarithm above and below": expected / math.log(2),
        "sum over the queries: take the mean": expected * (n - 1),
    }
    for name, wrong in mistakes.items():
        require(not math.isclose(value, float(wrong), rel_tol=1e-4, abs_tol=1e-5), name)
    require(
        math.isclose(value, expected, rel_tol=1e-4, abs_tol=1e-5),
        "not the entropy: a uniform causal head must give 1, a head that points 0",
    )
    pointing = torch.zeros(5, 5)
    pointing[:, 0] = 1
    got = call(answer, pointing)
    require(
        not (isinstance(got, torch.Tensor) and bool(got.isnan().any())),
        "NaN where a weight is 0: 0 log 0 counts as 0",
    )
    require(
        abs(require_number(got)) < 1e-4, "wrong where weights are 0: all weight on one key gives 0"
    )


@exercise("3.3", "Choose here, score there", minutes=8, difficulty=2)
def held_out(answer):
    in_a = torch.tensor([True, False] * 6)
    hits = torch.zeros(12, 4)
    hits[in_a, 0], hits[~in_a, 0] = torch.tensor([[1.0, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1]])
    hits[in_a, 1], hits[~in_a, 1] = torch.ones(6), torch.tensor([0.0, 0, 0, 1, 1, 0])
    hits[~in_a, 2] = torch.tensor([1.0, 1, 1, 0, 0, 0])
    hits[in_a, 3] = torch.tensor([1.0, 1, 0, 0, 0, 0])
    # chosen on A: head 1 (6/6), on B 2/6; best on B and overall: head 0 (4/6, 5/6)
    got = call(answer, hits, in_a)
    require(
        isinstance(got, tuple | list) and len(got) == 2,
        "not two things: return the head and its share on the other half",
    )
    head, share = require_number(got[0]), require_number(got[1])
    require(
        not (share == 1 and math.isclose(head, 1 / 3, abs_tol=1e-5)),
        "share first: return the head, then its share",
    )
    near = {name: math.isclose(share, x, abs_tol=1e-5) for name, x in
            {"a": 1.0, "b": 1 / 3, "all": 8 / 12, "zero": 4 / 6}.items()}  # fmt: skip
    require(
        not (head == 0 and near["zero"]),
        "halves swapped: choose where in_a is True, score where it is False (or chosen on all)",
    )
    require(
        head != 0,
        "chosen with the help of the other half: only sentences with in_a may choose",
    )
    require(head == 1, "not the best head on the half that chooses")
    require(not near["a"], "scored where it was chosen: score on the other half")
    require(not near["all"], "scored on all sentences: leave out those that chose the head")
    require(
        not math.isclose(share, 5 / 6, abs_tol=1e-5),
        "share of another head: that is the best share on the other half; score the head you chose",
    )
    require(not math.isclose(share, 100 / 3, abs_tol=1e-3), "percent: a share lies between 0 and 1")
    require(share != 2, "hits counted: return the share, not the number")
    require(
        not math.isclose(share, 2 / 12, abs_tol=1e-5),
        "divided by all sentences: divide by the number of the other half",
    )
    require(near["b"], "not its share of hits on the other half")
    few = torch.tensor([False, True, True, True, False, True])
    uneven = torch.tensor([[1.0, 1, 1], [0, 1, 0], [0, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    got = call(answer, uneven, few)  # chosen: head 1 (4 of 4); on the other two sentences 1 of 2
    require(
        require_number(got[0]) == 1 and math.isclose(require_number(got[1]), 0.5, abs_tol=1e-5),
        "right for these halves only: take them from in_a, and divide by the number of sentences "
        "that score",
    )


@exercise("3.4", "Correlation without the mask", minutes=15, difficulty=3)
def causal_correlation(answer):
    n = 10
    a, b = _causal(n), _causal(n)
    b = 0.6 * b + 0.4 * a
    seen = torch.ones(n, n).tril()
    rows = (1 / torch.arange(1.0, n + 1))[:, None]
    u = seen / seen.sum(-1, keepdim=True)
    inside = seen.bool()

    def corr(x, y):
        return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].item()

    expected = corr((a - u)[inside], (b - u)[inside])
    strictly = torch.ones(n, n).tril(-1).bool()
    got = call(answer, a, b)
    require(
        not (isinstance(got, torch.Tensor) and tuple(got.shape) == (2, 2)),
        "the whole matrix: torch.corrcoef gives (2, 2); the correlation stands at [0, 1]",
    )
    if isinstance(got, torch.Tensor) and got.dim() > 0:
        require_tensor(got, ())
    value = require_number(got)
    x, y = (a - u)[inside], (b - u)[inside]
    mistakes = {
        "baseline not removed: take the uniform causal head, 1/(i + 1) in row i, off each (taking "
        "the same number off everywhere changes no correlation)": corr(a[inside], b[inside]),
        "baseline not removed: take the uniform head off, and leave out what is masked": corr(a, b),
        "uniform head on the masked pairs too: it has 1/(i + 1) where visible, 0 elsewhere": corr(
            a - rows, b - rows
        ),
        "uniform head wrong way round: row i has 1/(i + 1), and rows go down": corr(
            (a - u.T)[inside], (b - u.T)[inside]
        ),
        "baseline taken off one head only: both have it": corr(x, b[inside]),
        "baseline taken off one head only: both have it, and a is one of them": corr(a[inside], y),
        "baseline added: take it off": corr((a + u)[inside], (b + u)[inside]),
        "divided by the baseline: subtract it": corr((a / u)[inside], (b / u)[inside]),
        "covariance: divide by both standard deviations": torch.cov(torch.stack([x, y]))[
            0, 1
        ].item(),
        "diagonal left out: a query sees itself": corr((a - u)[strictly], (b - u)[strictly]),
        "upper triangle: the visible pairs stand below the diagonal": corr(
            (a - u)[inside.T], (b - u)[inside.T]
        ),
    }
    for name, wrong in mistakes.items():
        if not math.isclose(wrong, expected, abs_tol=1e-4):
            require(not math.isclose(value, wrong, abs_tol=1e-5), name)
    require(
        math.isclose(value, expected, abs_tol=1e-5),
        "not the correlation: of a head with itself it is 1, of A and 2U − A it is −1",
    )
    c, d = _causal(5, 0.5), _causal(5, 2.0)
    v = torch.ones(5, 5).tril()
    w = v / v.sum(-1, keepdim=True)
    other = corr((c - w)[v.bool()], (d - w)[v.bool()])
    require(
        math.isclose(require_number(call(answer, c, d)), other, abs_tol=1e-5),
        "right for one size only: take n from the input",
    )
