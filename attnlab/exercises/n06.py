"""Checks of notebook 06, the order problem."""

import itertools
import math

import torch

from attnlab import scaled_dot_product_attention
from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("6.1", "The same to a bag", minutes=5, difficulty=1)
def same_to_a_bag(answer):
    def says(first: str, second: str) -> bool:
        got = call(answer, first.split(), second.split())
        if hasattr(got, "item") and getattr(got, "shape", None) in ((), (1,)):
            got = got.item()  # torch's and NumPy's truth values
        require(isinstance(got, bool), "not a truth value: return True or False")
        return got

    chased = "the cat chased the mouse"
    require(
        not (says("a b", "c d") and not says("a b", "a b")),
        "the wrong way round: True means that the model cannot tell the two apart",
    )
    require(says(chased, chased), "differs from itself: a sentence is the same bag as itself")
    require(
        says(chased, "the mouse chased the cat"),
        "order seen: without positions the order of the words plays no part",
    )
    require(
        says("The cat sat", "Sat the cat"),
        "capitals seen: the model reads lower case, so 'The' and 'the' are one token",
    )
    require(
        not says("the cat sat", "the dog sat"),
        "different words overlooked: the words themselves must agree, not only their number",
    )
    require(
        not says("the dog saw the cat", "the dog saw cat cat"),
        "counts lost: a bag holds how often each word occurs; a set does not",
    )
    require(
        not says("the cat sat on the mat", "the cat sat on mat"),
        "counts lost: a bag holds how often each word occurs; a set does not",
    )
    require(
        not says("the cat sat on mat", "the cat sat on the mat")
        and not says("the cat sat", "the cat sat ."),
        "one side only: a token that the second sentence has too many counts as well, a '.' too",
    )
    require(
        not says("on top", "no pot") and not says("a tap", "a pat"),
        "letters shuffled: a token is a whole word; 'tap' and 'pat' are two tokens",
    )
    require(
        says("Sat the on cat the mat .", "the Cat sat on the mat ."),
        "not the bag: compare the words in lower case with how often each occurs",
    )


@exercise("6.2", "A test for equivariance", minutes=8, difficulty=1)
def equivariance_gap(answer):
    x = torch.randn(5, 3)
    order = [2, 0, 3, 4, 1]  # a cycle: it differs from the way back
    back = torch.tensor(order).argsort().tolist()
    calls = []

    def summed(x):
        calls.append(tuple(x.shape))
        return -2.5 * x.cumsum(dim=0).tanh()  # depends on the order of the rows

    def gap(f, x, order):
        return (f(x[order]) - f(x)[order]).abs()

    got = call(answer, summed, x, order)
    if isinstance(got, torch.Tensor) and got.numel() == 1:
        got = got.detach().flatten()[0]
    require(
        not isinstance(got, torch.Tensor) or got.dim() == 0,
        "not one number: reduce the differences to the largest one",
    )
    got = require_number(got)
    require(bool(calls), "f never called: compare what f does with shuffled rows")

    def is_like(value) -> bool:
        return math.isclose(got, float(value), rel_tol=1e-4, abs_tol=1e-6)

    f = summed
    full = gap(f, x, order)
    there = f(x[order]) - f(x)[order]
    require(
        not is_like((f(x[order]) - f(x)).abs().max()),
        "invariance measured: compare f(PX) with P f(X), not with f(X)",
    )
    require(
        not is_like((f(x)[order] - f(x)).abs().max()),
        "f of the shuffled rows missing: one of the two calls must get x[order]",
    )
    for wrong in ((f(x[order]) - f(x)[back]).abs(), (f(x[back]) - f(x)[order]).abs()):
        require(
            not is_like(wrong.max()),
            "shuffled back instead of alike: use the same order on both sides",
        )
    require(
        is_like(full.max())
        or not any(map(is_like, (full.mean(), full.sum(), full.norm(), (full**2).mean()))),
        "not the largest: take the maximum of the absolute differences, not a mean or a sum",
    )
    require(
        is_like(full.max()) or not any(map(is_like, (there.max(), there.min(), -there.min()))),
        "sign kept: take the absolute value before the maximum, or a large negative one is lost",
    )
    require(
        is_like(full.max()) or not is_like(gap(f, x, back).max()),
        "shuffled back instead of alike: use x[order], not the way back",
    )
    require(
        not is_like(full.max() / f(x).abs().max()),
        "a ratio: the difference itself is asked for, not its share of the output",
    )
    require(is_like(full.max()), "not the gap: the largest entry of |f(PX) - P f(X)|")
    mean = require_number(call(answer, lambda x: x - x.mean(0), x, order))
    require(abs(mean) < 1e-5, "gap where there is none: subtracting the mean row is equivariant")
    for sign in (1, -1):  # the largest difference is once above 0, once below

        def first(x, sign=sign):
            return torch.cat([sign * x[:1].abs() * 3, 0 * x[1:]])

        value = require_number(call(answer, first, x.abs(), order))
        require(
            math.isclose(value, gap(first, x.abs(), order).max().item(), rel_tol=1e-4),
            "sign kept: take the absolute value before the maximum",
        )
    x, order = torch.randn(7, 2), [1, 2, 3, 4, 5, 6, 0]
    try:
        value = require_number(call(answer, summed, x, order))
    except (IndexError, RuntimeError):
        value = math.inf
    require(
        math.isclose(value, gap(summed, x, order).max().item(), rel_tol=1e-4),
        "right for one size only: there may be any number of rows",
    )


@exercise("6.3", "How many orders?", minutes=5, difficulty=2)
def orders(answer):
    value = require_number(answer)
    require(
        value != 1,
        "all outputs instead of the last: only one order keeps every output, but the last token "
        "sees all six and cares for less",
    )
    require(
        value != 720,
        "query overlooked: another token at the last place asks another question, so not all 720",
    )
    require(
        value != 119,
        "original order forgotten: count it, too",
    )
    require(value != 6, "6 is the number of tokens: count the orders of those that may move")
    require(value != 5, "5 is the number of tokens that may move: count their orders")
    require(
        value != 24,
        "one token too few: the last place sees six tokens, of which five may change places",
    )
    require(value != 600, "counted the others: these are the orders that do change the last output")
    require(value != 2, "more than one swap: any order of the first five will do")
    require(
        value == 120, "not the number: which tokens may change places without the last noticing?"
    )


@exercise("6.4", "Order at the read-out", minutes=10, difficulty=2)
def ordered_read_out(answer):
    for n in (2, 3, 5, 8):
        rows = torch.randn(n, 4)
        got = call(answer, rows)
        if isinstance(got, torch.Tensor):
            require(
                got.shape != (n, 4) or n == 4,
                "no read-out: the result still has a row for each token; reduce them to one vector",
            )
            require(
                got.numel() != n * 4,
                "rows laid side by side: that keeps the order, but has n·d numbers; the result has "
                "d, whatever n",
            )
            require(got.dim() != 0, "one number only: the result is a vector of d numbers")
            require(
                got.shape != (n,) or n == 4,
                "summed over the wrong axis: the tokens are the rows, dim=0",
            )
        got = require_tensor(got, (4,))
        swapped = [i for i in itertools.combinations(range(n), 2)
                   if _close(got, call(answer, _swap(rows, *i)))]  # fmt: skip
        pairs = n * (n - 1) // 2
        require(
            len(swapped) < pairs,
            "no order in it: swapping rows changes nothing, as with a mean, a sum or a maximum",
        )
        other = torch.randn(n, 4)
        require(
            _close(call(answer, 2 * rows - 3 * other), 2 * got - 3 * call(answer, other)),
            "not linear: the read-out of a sum must be the sum of the read-outs",
        )
        require(
            not swapped,
            f"some places alike: for n = {n}, swapping the rows at places {swapped and swapped[0]} "
            "changes nothing; give each place a number of its own, and none so small beside the "
            "others that it is lost in rounding",
        )


def _swap(rows, a, b):
    index = list(range(len(rows)))
    index[a], index[b] = b, a
    return rows[index]


def _close(a, b):
    return isinstance(b, torch.Tensor) and a.shape == b.shape and torch.allclose(
        a, b, atol=1e-5, rtol=1e-4
    )  # fmt: skip


@exercise("6.5", "Count with a mask", minutes=12, difficulty=3)
def count_with_a_mask(answer):
    for n in (4, 2, 3, 16, 64):
        made = call(answer, n)
        require(
            isinstance(made, tuple | list) and len(made) == 3,
            "not three: return q, k and v, in this order",
        )
        q, k, v = (require_tensor(t) for t in made)
        require(
            all(t.dim() == 2 and len(t) == n for t in (q, k, v)),
            "tokens are rows: q and k are (n, d), v is (n, 1)",
        )
        require_tensor(v, (n, 1))
        require(q.shape == k.shape, "q and k differ in width: both are (n, d)")
        q, k, v = (t.double() for t in (q, k, v))
        for name, t in (("queries", q), ("keys", k), ("values", v)):
            require(
                n < 3 or (t[1:] - t[1]).abs().max() < 1e-9,
                f"positions smuggled in: the {name} of the tokens after the first must be equal; "
                "only the mask may tell them apart",
            )
        out = scaled_dot_product_attention(
            *(t[None, None] for t in (q, k, v)), causal=True
        )[0, 0, :, 0]  # fmt: skip
        place = torch.arange(n, dtype=torch.float64)
        if torch.allclose(out, 4 / (place + 4), atol=1e-4):
            continue
        require(
            (v - v[0]).abs().max() > 1e-12,
            "nothing to count: all values are equal, and so is every average of them",
        )
        require(
            abs(v[0].item() - 1) < 1e-4,
            "wrong from the start: the first token sees only itself, so its output is its value, "
            f"{v[0].item():.3g}; it must be 4/4 = 1",
        )
        require(
            abs(v[1].item()) < 1e-4,
            "the others are heard: their values add to the average; only the first token has one",
        )
        scores = (q @ k.T)[1, :2] / q.shape[-1] ** 0.5  # of token 1: the first key, any other key
        more = (scores[0] - scores[1]).item()
        require(
            abs(more) > 1e-4,
            "counts as one: equal scores give 1/(i + 1); the first token needs a higher score",
        )
        require(
            abs(more + math.log(4)) > 1e-3,
            "the wrong way round: the first token counts as a quarter; raise its score instead",
        )
        require(
            abs(more - 4) > 1e-3,
            "exponential forgotten: a score higher by 4 gives e⁴ times the weight, not 4 times",
        )
        require(
            q.shape[-1] == 1 or abs(more * q.shape[-1] ** 0.5 - math.log(4)) > 1e-3,
            "scale forgotten: attention divides q·k by the root of d",
        )
        require(
            False,
            f"not four: with a score higher by {more:.3g} the first token counts as "
            f"{math.exp(min(more, 50)):.3g} tokens",
        )
