"""Right and wrong answers to the exercises of notebook 03."""

import math
from collections import Counter

import torch

from attnlab import stats
from banks import Bank


def entropy_of(w):
    return -torch.where(w > 0, w * w.clamp(min=1e-30).log(), 0.0).sum(-1)


def maxima(w, extra=0):
    return torch.arange(1 + extra, len(w) + 1 + extra).float().log()


def row_by_row(w):
    total = 0.0
    for i in range(1, len(w)):
        row = [p for p in w[i].tolist() if p > 0]
        total += -sum(p * math.log(p) for p in row) / math.log(i + 1)
    return total / (len(w) - 1)


def in_bits(w):
    h = -(w * w.clamp(min=1e-20).log2()).sum(-1)
    return (h[1:] / torch.arange(2.0, len(w) + 1).log2()).mean()


def by_stats(w):
    return stats.normalised_entropy(w, stats.causal_visible(len(w))).nanmean()


def naive(w):
    h = -(w * w.log()).sum(-1)
    return (h[1:] / maxima(w)[1:]).mean()


def naive_below(w):
    """Fine where every visible weight is above 0, NaN where one is not."""
    rows = [w[i, : i + 1] for i in range(1, len(w))]
    return torch.stack([-(r * r.log()).sum() / math.log(len(r)) for r in rows]).mean()


def with_epsilon(w):
    """An epsilon that is far too large."""
    h = -(w * (w + 0.1).log()).sum(-1)
    return (h[1:] / maxima(w)[1:]).mean()


def offset(pairs):
    back = (pairs[:, 1] - pairs[:, 0]).tolist()
    best, count = Counter(back).most_common(1)[0]
    return best, count / len(back)


def offset_by_mode(pairs):
    difference = pairs[:, 1] - pairs[:, 0]
    mode = difference.mode().values
    return mode, (difference == mode).float().mean()


def picked(pairs, pick):
    difference = pairs[:, 1] - pairs[:, 0]
    best = pick(difference.float())
    return best, (difference == best).float().mean()


def choose(hits, in_a, choose_on=None, score_on=None):
    head = hits[in_a if choose_on is None else choose_on].mean(0).argmax()
    return head, hits[~in_a if score_on is None else score_on][:, head].mean()


def choose_by_loop(hits, in_a):
    best, most = 0, -1
    for h in range(hits.shape[1]):
        mine = sum(hits[s, h].item() for s in range(len(hits)) if in_a[s])
        if mine > most:
            best, most = h, mine
    other = [hits[s, best].item() for s in range(len(hits)) if not in_a[s]]
    return best, sum(other) / len(other)


def everything(hits, in_a):
    return torch.ones_like(in_a)


def pearson(x, y):
    return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]


def seen(a):
    return torch.ones_like(a).tril().bool()


def uniform(a):
    v = torch.ones_like(a).tril()
    return v / v.sum(-1, keepdim=True)


def correlation(a, b):
    return pearson((a - uniform(a))[seen(a)], (b - uniform(b))[seen(b)])


def correlation_by_hand(a, b):
    rows = 1 / torch.arange(1.0, len(a) + 1)[:, None]
    x, y = (a - rows).tril(), (b - rows).tril()  # each row sums to 0: the mean is 0
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()


def correlation_by_stats(a, b):
    return stats.head_correlation(torch.stack([a, b]), stats.causal_visible(len(a)))[0, 1]


def on_visible(change):
    return lambda a, b: pearson(change(a)[seen(a)], change(b)[seen(b)])


BANK = {
    "3.1": Bank(
        right=[offset, offset_by_mode],
        wrong={
            "not-two-things": lambda p: offset(p)[0],
            "share-first": lambda p: offset(p)[::-1],
            "wrong-sign": lambda p: offset(p.flip(1)),
            "mean-offset": lambda p: picked(p, torch.mean),
            "median-offset": lambda p: picked(p, torch.median),
            "farthest-offset": lambda p: picked(p, torch.min),
            "largest-offset": lambda p: picked(p, torch.max),
            "count-not-share": lambda p: (offset(p)[0], offset(p)[1] * len(p)),
            "share-of-the-different-offsets": lambda p: (
                offset(p)[0], offset(p)[1] * len(p) / len((p[:, 1] - p[:, 0]).unique()),
            ),
            "right-for-one-direction-only": lambda p: (
                -(p[:, 0] - p[:, 1]).abs().mode().values, offset(p)[1],
            ),
            "not-the-share": lambda p: (offset(p)[0], 1.0),
            "percent": lambda p: (offset(p)[0], 100 * offset(p)[1]),
            "first-link": lambda p: picked(p, lambda difference: difference[0]),
            "not-the-offset-that-fits-most-links": lambda p: picked(
                p, lambda difference: difference[-1]
            ),
            "share-right-for-one-example-only": lambda p: (offset(p)[0], 4 / 10),
            "share-right-for-one-example-only#2": lambda p: (
                offset(p)[0], offset(p)[1] * len(p) / 10,
            ),
            "share-right-for-one-example-only#3": lambda p: (
                offset(p)[0], (p[:, 1] - p[:, 0] == -1).float().mean(),
            ),
        },
    ),  # fmt: skip
    "3.2": Bank(
        right=[row_by_row, in_bits, by_stats],
        wrong={
            "not-normalised": lambda w: entropy_of(w)[1:].mean(),
            "not-normalised#2": lambda w: entropy_of(w).mean(),
            "log-n-for-every-query": lambda w: (entropy_of(w) / math.log(len(w))).mean(),
            "log-n-for-every-query#2": lambda w: entropy_of(w)[1:].mean() / math.log(len(w)),
            "first-query-counted": lambda w: (entropy_of(w) / maxima(w).clamp(min=1e-9)).mean(),
            "first-query-counted#2": lambda w: (entropy_of(w) / maxima(w)).nan_to_num().mean(),
            "sign-lost": lambda w: -row_by_row(w),
            "one-key-too-many": lambda w: (entropy_of(w)[1:] / maxima(w, 1)[1:]).mean(),
            "one-key-too-few": lambda w: (entropy_of(w)[2:] / maxima(w)[1:-1]).mean(),
            "ratio-of-the-means": lambda w: entropy_of(w)[1:].mean() / maxima(w)[1:].mean(),
            "wrong-axis": lambda w: (entropy_of(w.T)[1:] / maxima(w)[1:]).mean(),
            "entropy-of-the-mean-row": lambda w: entropy_of(w.mean(0)) / math.log(len(w)),
            "mixed-logarithms": lambda w: row_by_row(w) / math.log(2),
            "sum-over-the-queries": lambda w: (entropy_of(w)[1:] / maxima(w)[1:]).sum(),
            "not-averaged": lambda w: entropy_of(w)[1:] / maxima(w)[1:],
            "nan-in-the-result": naive,
            "nan-in-the-result#2": lambda w: (entropy_of(w) / maxima(w)).mean(),
            "nan-where-a-weight-is-0": naive_below,
            "not-the-entropy": with_epsilon,
        },
    ),
    "3.3": Bank(
        right=[choose, choose_by_loop],
        wrong={
            "not-two-things": lambda h, a: choose(h, a)[1],
            "halves-swapped": lambda h, a: choose(h, ~a),
            "chosen-with-the-help-of-the-other-half": lambda h, a: choose(
                h, a, choose_on=everything(h, a)
            ),
            "chosen-with-the-help-of-the-other-half#2": lambda h, a: choose(h, a, choose_on=~a),
            "chosen-with-the-help-of-the-other-half#3": lambda h, a: (
                h.mean(0).argmax(), h.mean(0).max(),
            ),
            "chosen-with-the-help-of-the-other-half#4": lambda h, a: choose(
                h, torch.arange(len(h)) < len(h) // 2
            ),
            "scored-where-it-was-chosen": lambda h, a: choose(h, a, score_on=a),
            "scored-on-all-sentences": lambda h, a: choose(h, a, score_on=everything(h, a)),
            "hits-counted": lambda h, a: (choose(h, a)[0], h[~a][:, choose(h, a)[0]].sum()),
            "divided-by-all-sentences": lambda h, a: (choose(h, a)[0], choose(h, a)[1] / 2),
            "not-the-best-head-on-the-half-that-chooses": lambda h, a: (3, h[~a, 3].mean()),
            "not-its-share-of-hits-on-the-other-half": lambda h, a: (
                choose(h, a)[0], h[~a].mean(0).max() / 2,
            ),
            "share-of-another-head": lambda h, a: (choose(h, a)[0], h[~a].mean(0).max()),
            "share-first": lambda h, a: choose(h, a)[::-1],
            "percent": lambda h, a: (choose(h, a)[0], 100 * choose(h, a)[1]),
            "right-for-these-halves-only": lambda h, a: (
                choose(h, a)[0], h[~a][:, choose(h, a)[0]].sum() / a.sum(),
            ),
            "right-for-these-halves-only#2": lambda h, a: (
                choose(h, a)[0], h[~a][:, choose(h, a)[0]].sum() / (len(h) / 2),
            ),
            "right-for-these-halves-only#3": lambda h, a: (
                choose(h, a)[0], h[~a][:, choose(h, a)[0]].sum() / 6,
            ),
            "right-for-these-halves-only#4": lambda h, a: choose(
                h, torch.arange(len(h)) % 2 == 0
            ),
        },
    ),  # fmt: skip
    "3.4": Bank(
        right=[correlation, correlation_by_hand, correlation_by_stats],
        wrong={
            "baseline-not-removed": lambda a, b: pearson(a[seen(a)], b[seen(b)]),
            "baseline-not-removed#2": lambda a, b: pearson(a, b),
            "baseline-not-removed#3": on_visible(lambda w: w - 1 / len(w)),
            "uniform-head-on-the-masked-pairs-too": lambda a, b: pearson(
                *(w - 1 / torch.arange(1.0, len(w) + 1)[:, None] for w in (a, b))
            ),
            "uniform-head-wrong-way-round": on_visible(lambda w: w - uniform(w).T),
            "baseline-taken-off-one-head-only": lambda a, b: pearson(
                (a - uniform(a))[seen(a)], b[seen(b)]
            ),
            "baseline-added": on_visible(lambda w: w + uniform(w)),
            "divided-by-the-baseline": on_visible(lambda w: w / uniform(w)),
            "covariance": lambda a, b: torch.cov(
                torch.stack([(w - uniform(w))[seen(w)] for w in (a, b)])
            )[0, 1],
            "diagonal-left-out": lambda a, b: pearson(
                *((w - uniform(w))[torch.ones_like(w).tril(-1).bool()] for w in (a, b))
            ),
            "upper-triangle": lambda a, b: pearson(
                *((w - uniform(w))[seen(w).T] for w in (a, b))
            ),
            "the-whole-matrix": lambda a, b: torch.corrcoef(
                torch.stack([(w - uniform(w))[seen(w)] for w in (a, b)])
            ),
            "not-the-correlation": lambda a, b: correlation(a, b) ** 2,
            "right-for-one-size-only": lambda a, b: (
                correlation(a, b) if len(a) == 10 else pearson(a, b)
            ),
        },
    ),
}
