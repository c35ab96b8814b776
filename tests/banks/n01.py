"""Right and wrong answers to the exercises of notebook 01."""

import math

import numpy as np
import torch

from banks import Bank


def weights(scores, mask, dim=-1):
    return scores.masked_fill(~mask, -math.inf).softmax(dim)


def naive(scores, mask):
    e = scores.exp() * mask
    return e / e.sum(-1, keepdim=True)


def max_of_hidden(scores, mask):
    """Subtracts the largest score of the row, hidden or not: nothing visible may remain."""
    e = (scores - scores.amax(-1, keepdim=True)).exp() * mask
    return e / e.sum(-1, keepdim=True)


def with_logsumexp(scores, mask):
    s = torch.where(mask, scores, torch.tensor(-math.inf))
    return (s - torch.logsumexp(s, -1, keepdim=True)).exp()


def clamped(scores, mask):
    e = scores.clamp(max=80).exp() * mask
    return e / e.sum(-1, keepdim=True)


def head(x, w_q, w_k, w_v, *, scale=None, visible="tril", late=False, dim=-1, swap=False, v=None):
    q, k = x @ w_q, x @ w_k
    q, k = (k, q) if swap else (q, k)
    v = {None: x @ w_v, "q": x @ w_q, "k": x @ w_k}[v]
    s = q @ k.T * (w_q.shape[-1] ** -0.5 if scale is None else scale)
    ones = torch.ones(len(x), len(x), dtype=torch.bool)
    see = {"tril": ones.tril(), "triu": ones.triu(), "all": ones, "before": ones.tril(-1),
           "after": ones.triu(1)}[visible]  # fmt: skip
    if late:
        return (s.softmax(dim) * see) @ v
    return s.masked_fill(~see, -math.inf).softmax(dim) @ v


def token_by_token(x, w_q, w_k, w_v):
    rows = []
    for i in range(len(x)):
        past = x[: i + 1]
        s = (x[i] @ w_q) @ (past @ w_k).T / w_k.shape[1] ** 0.5
        rows.append(torch.softmax(s, 0) @ (past @ w_v))
    return torch.stack(rows)


def only_weights(x, w_q, w_k, w_v):
    s = (x @ w_q) @ (x @ w_k).T / math.sqrt(w_q.shape[1])
    return s.masked_fill(~torch.ones_like(s).bool().tril(), -math.inf).softmax(-1)


def on_a_circle(n, shift=1, length=1e3):
    angle = 2 * math.pi * torch.arange(n) / n
    k = torch.stack([angle.cos(), angle.sin()], -1)
    return length * k.roll(shift, 0), k


def on_a_parabola(n):
    """s_ij = -(j - i + 1)^2 up to a constant of the row, which no softmax sees."""
    i = torch.arange(n, dtype=torch.float64)
    q = torch.stack([2 * (i - 1), -torch.ones(n, dtype=torch.float64)], -1)
    return 10 * q, torch.stack([i, i**2], -1)


BANK = {
    "1.1": Bank(
        right=[weights, with_logsumexp],
        wrong={
            "softmax-over-the-wrong-axis": lambda s, m: weights(s, m, 0),
            "softmax-over-the-wrong-axis#2": lambda s, m: s.softmax(0) * m,
            "softmax-over-the-whole-matrix": lambda s, m: (
                s.masked_fill(~m, -math.inf).flatten().softmax(0).view(s.shape)
            ),
            "mask-the-wrong-way-round": lambda s, m: weights(s, ~m),
            "mask-transposed": lambda s, m: weights(s, m.T),
            "mask-not-used": lambda s, m: s.softmax(-1),
            "mask-after-softmax": lambda s, m: s.softmax(-1) * m,
            "masked-scores-set-to-zero": lambda s, m: (s * m).softmax(-1),
            "overflow-or-underflow": naive,
            "overflow-or-underflow#2": max_of_hidden,
            "hidden-scores-not-low-enough": lambda s, m: s.masked_fill(~m, -100.0).softmax(-1),
            "wrong-for-large-scores": clamped,
            "not-the-softmax": lambda s, m: weights(s / 2, m),
            "not-the-softmax#2": lambda s, m: s.sigmoid() * m,
            "nothing-returned": lambda s, m: None,
            "right-for-one-size-only": lambda s, m: weights(s, m) / len(s) * 4,
        },
    ),
    "1.2": Bank(
        right=[head, token_by_token],
        wrong={
            "no-mask": lambda *a: head(*a, visible="all"),
            "missing-d": lambda *a: head(*a, scale=1.0),
            "divided-by-d-not-its-root": lambda *a: head(*a, scale=1 / a[1].shape[1]),
            "root-of-d-model": lambda *a: head(*a, scale=a[0].shape[1] ** -0.5),
            "mask-the-wrong-way-round": lambda *a: head(*a, visible="triu"),
            "mask-the-wrong-way-round#2": lambda *a: head(*a, visible="after"),
            "right-for-one-size-only": lambda *a: head(*a, scale=1 / 2),
            "off-by-one": lambda *a: head(*a, visible="before"),
            "queries-and-keys-swapped": lambda *a: head(*a, swap=True),
            "queries-used-as-values": lambda *a: head(*a, v="q"),
            "keys-used-as-values": lambda *a: head(*a, v="k"),
            "mask-after-softmax": lambda *a: head(*a, late=True),
            "masked-scores-set-to-zero": lambda x, w_q, w_k, w_v: (
                ((x @ w_q) @ (x @ w_k).T / w_q.shape[1] ** 0.5).tril().softmax(-1) @ (x @ w_v)
            ),
            "no-softmax": lambda x, w_q, w_k, w_v: (
                ((x @ w_q) @ (x @ w_k).T / w_q.shape[1] ** 0.5).tril() @ (x @ w_v)
            ),
            "softmax-over-the-wrong-axis": lambda *a: head(*a, dim=0),
            "weights-instead-of-output": only_weights,
        },
    ),
    "1.3": Bank(
        right=[3.0, torch.tensor(3), np.float32(3), np.array(3)],
        wrong={
            "variance-instead-of-standard-deviation": 9,
            "forgot-the-division": 30.0,
            "standard-deviation-of-q-overlooked": 1,
            "divided-by-d-not-its-root": 0.3,
            "terms-add-like-a-worst-case": 300,
            "variance-before-the-division": 900,
            "variance-taken-as-3": math.sqrt(3),
            "not-the-standard-deviation": 10,
            "not-a-number": "three",
        },
    ),
    "1.4": Bank(
        right=[on_a_circle, on_a_parabola, lambda n: torch.stack(on_a_circle(n))],
        wrong={
            "off-by-one": lambda n: on_a_circle(n, shift=0),
            "looks-ahead": lambda n: on_a_circle(n, shift=-1),
            "too-soft": lambda n: on_a_circle(n, length=3.0),
            "looks-ahead#2": lambda n: on_a_circle(n)[::-1],  # k returned before q
            "transposed": lambda n: tuple(t.T for t in on_a_circle(n)),
            "wrong-target": lambda n: on_a_circle(n, shift=2),
            "all-keys-alike": lambda n: (torch.zeros(n, 2), torch.zeros(n, 2)),
            "not-a-pair": lambda n: on_a_circle(n)[0],
        },
    ),
}
