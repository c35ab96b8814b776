"""Right and wrong answers to the exercises of notebook 06."""

import math
from collections import Counter

import numpy as np
import torch

from banks import Bank


def lower(words):
    return [w.lower() for w in words]


def counted(first, second):
    return Counter(map(str.lower, first)) == Counter(map(str.lower, second))


def crossed_out(first, second):
    rest = lower(second)
    for word in lower(first):
        if word not in rest:
            return False
        rest.remove(word)
    return not rest


def lengths(first, second):
    return sorted(map(len, first)) == sorted(map(len, second))


def gap(f, x, order):
    return (f(x[order]) - f(x)[order]).abs().max()


def gap_with_a_matrix(f, x, order):
    p = torch.eye(len(x))[order]
    return float(((p @ f(x)) - f(p @ x)).abs().max())


def way_back(order):
    return torch.tensor(order).argsort().tolist()


def by_place(outputs):
    return torch.arange(1.0, len(outputs) + 1) @ outputs


def powers(outputs):
    total = torch.zeros_like(outputs[0])
    for row in outputs:
        total = total / 2 + row
    return total


def numbers(n, first):
    v = torch.zeros(n, 1)
    v[0] = first
    return v


def flat(n):
    return torch.zeros(n, 2), torch.zeros(n, 2), numbers(n, 1.0)


def with_key(n, score, d=1):
    k = torch.zeros(n, d)
    k[0] = score / d
    return torch.ones(n, d), k, numbers(n, 1.0)


def others_lower(n):
    """Three channels, one of them used; the first score is 0, the others are lower."""
    q, k = torch.zeros(n, 3), torch.randn(1, 3).repeat(n, 1)
    q[:, 1], k[:, 1] = math.sqrt(3), -math.log(4)
    k[0, 1] = 0
    return q, k, numbers(n, 1.0)


BANK = {
    "6.1": Bank(
        right=[
            counted, crossed_out, lambda a, b: sorted(lower(a)) == sorted(lower(b)),
            lambda a, b: (
                len(a) == len(b) and (np.sort(lower(a)) == np.sort(lower(b))).all()  # NumPy's bool
            ),
        ],
        wrong={
            "counts-lost": lambda a, b: set(lower(a)) == set(lower(b)),
            "counts-lost#2": lambda a, b: (
                len(a) == len(b) and set(lower(a)) == set(lower(b))
            ),
            "one-side-only": lambda a, b: not Counter(lower(a)) - Counter(lower(b)),
            "one-side-only#2": lambda a, b: counted(
                filter(str.isalpha, a), filter(str.isalpha, b)
            ),
            "capitals-seen": lambda a, b: sorted(a) == sorted(b),
            "order-seen": lambda a, b: lower(a) == lower(b),
            "the-wrong-way-round": lambda a, b: not counted(a, b),
            "letters-shuffled": lambda a, b: (
                sorted("".join(a).lower()) == sorted("".join(b).lower())
            ),
            "different-words-overlooked": lengths,
            "not-a-truth-value": lambda a, b: Counter(lower(a)) - Counter(lower(b)),
            "nothing-returned": lambda a, b: None,
        },
    ),
    "6.2": Bank(
        right=[gap, gap_with_a_matrix],
        wrong={
            "invariance-measured": lambda f, x, o: (f(x[o]) - f(x)).abs().max(),
            "f-of-the-shuffled-rows-missing": lambda f, x, o: (f(x)[o] - f(x)).abs().max(),
            "shuffled-back-instead-of-alike": lambda f, x, o: (
                (f(x[o]) - f(x)[way_back(o)]).abs().max()
            ),
            "shuffled-back-instead-of-alike#2": lambda f, x, o: gap(f, x, way_back(o)),
            "not-the-largest": lambda f, x, o: (f(x[o]) - f(x)[o]).abs().mean(),
            "not-the-largest#2": lambda f, x, o: (f(x[o]) - f(x)[o]).norm(),
            "sign-kept": lambda f, x, o: (f(x[o]) - f(x)[o]).max(),
            "sign-kept#2": lambda f, x, o: (f(x)[o] - f(x[o])).max(),
            "a-ratio": lambda f, x, o: gap(f, x, o) / f(x).abs().max(),
            "not-one-number": lambda f, x, o: (f(x[o]) - f(x)[o]).abs(),
            "f-never-called": lambda f, x, o: (x[o] - x).abs().max(),
            "not-the-gap": lambda f, x, o: (f(x[o]) - f(x)).abs().sum(),
            "not-a-number": lambda f, x, o: torch.allclose(f(x[o]), f(x)[o]),
            "shuffled-back-instead-of-alike#3": lambda f, x, o: (  # it writes to its own list
                f(x[o]) - f(x)[[o.index(i) for i in range(len(o))]]
            ).abs().max(),
            "right-for-one-size-only": lambda f, x, o: max(
                gap(f, x, o) if len(x) == 5 else torch.zeros(()), torch.zeros(())
            ),
        },
    ),
    "6.3": Bank(
        right=[120, math.factorial(5), torch.tensor(120), np.int64(120), 120.0],
        wrong={
            "all-outputs-instead-of-the-last": 1,
            "query-overlooked": 720,
            "original-order-forgotten": 119,
            "6-is-the-number-of-tokens": 6,
            "5-is-the-number-of-tokens-that-may-move": 5,
            "one-token-too-few": 24,
            "counted-the-others": 600,
            "more-than-one-swap": 2,
            "not-the-number": 360,
            "not-a-number": "5!",
        },
    ),
    "6.4": Bank(
        right=[by_place, powers, lambda x: (x * torch.arange(len(x))[:, None]).sum(0)],
        wrong={
            "no-order-in-it": lambda x: x.mean(0),
            "no-order-in-it#2": lambda x: x.amax(0),
            "no-order-in-it#3": lambda x: x.sort(dim=0).values.T @ torch.arange(1.0, len(x) + 1),
            "some-places-alike": lambda x: x[0],
            "some-places-alike#2": lambda x: x[0] - x[-1],
            "some-places-alike#3": lambda x: x[::2].sum(0) - x[1::2].sum(0),
            "some-places-alike#4": lambda x: 10.0 ** torch.arange(len(x)) @ x,  # rounded away
            "some-places-alike#5": lambda x: 0.1 ** torch.arange(len(x)) @ x,
            "not-linear": lambda x: by_place(x.tanh()),
            "not-linear#2": lambda x: by_place(x) + 1,
            "rows-laid-side-by-side": lambda x: x.flatten(),
            "no-read-out": lambda x: x * torch.arange(1, len(x) + 1)[:, None],
            "no-read-out#2": lambda x: x.cumsum(0),
            "summed-over-the-wrong-axis": lambda x: x.sum(1),
            "one-number-only": lambda x: by_place(x).sum(),
        },
    ),
    "6.5": Bank(
        right=[
            lambda n: with_key(n, math.log(4)),
            lambda n: list(with_key(n, 2 * math.log(4), d=4)),
            others_lower,
        ],
        wrong={
            "positions-smuggled-in": lambda n: (
                torch.zeros(n, 1), torch.zeros(n, 1), 4 / (torch.arange(n)[:, None] + 4)
            ),
            "positions-smuggled-in#2": lambda n: (
                torch.ones(n, 1), torch.arange(n)[:, None].float(), numbers(n, 1.0)
            ),
            "positions-smuggled-in#3": lambda n: (
                torch.randn(n, 2), torch.randn(n, 2), numbers(n, 1.0)
            ),
            "nothing-to-count": lambda n: (torch.zeros(n, 1), torch.zeros(n, 1), torch.ones(n, 1)),
            "nothing-to-count#2": lambda n: (*with_key(n, 1.0)[:2], torch.ones(n, 1)),
            "counts-as-one": flat,
            "wrong-from-the-start": lambda n: (*flat(n)[:2], numbers(n, 4.0)),
            "wrong-from-the-start#2": lambda n: (
                *with_key(n, math.log(4))[:2], 1 - numbers(n, 1.0)
            ),
            "the-others-are-heard": lambda n: (
                *with_key(n, math.log(4))[:2], numbers(n, 0.5) + 0.5
            ),
            "the-wrong-way-round": lambda n: with_key(n, -math.log(4)),
            "exponential-forgotten": lambda n: with_key(n, 4.0),
            "scale-forgotten": lambda n: with_key(n, math.log(4), d=4),
            "not-four": lambda n: with_key(n, math.log2(4)),
            "not-four#2": lambda n: with_key(n, math.log10(4)),
            "not-four#3": lambda n: with_key(n, 500.0),
            "tokens-are-rows": lambda n: tuple(t.T for t in flat(n)),
            "wrong-shape": lambda n: (*flat(n)[:2], torch.zeros(n, 2)),
            "q-and-k-differ-in-width": lambda n: (torch.zeros(n, 1), *flat(n)[1:]),
            "not-three": lambda n: numbers(n, 1.0),
        },
    ),
}  # fmt: skip
