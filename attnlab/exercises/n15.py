"""Checks of notebook 15, attention without the matrix."""

import math

import torch

from attnlab.exercises._watch import Largest
from attnlab.exercises.n01 import close
from attnlab.teach import call, exercise, require, require_number, require_tensor


def _without_matrix(answer, n: int, *given):
    """The answer's result, and whether it formed n x n numbers on the way."""
    with Largest() as largest:
        result = call(answer, *given)
    return result, largest.numbers >= n**2


@exercise("15.1", "Entropy without weights", minutes=12, difficulty=2)
def entropy(answer):
    torch.manual_seed(0)
    n, d = 40, 16
    q, k = 2 * torch.randn(2, 1, 1, n, d)
    s = q @ k.mT / d**0.5
    lse, a = s.logsumexp(-1), s.softmax(-1)
    got, formed = _without_matrix(answer, n, q, k, lse)
    got = require_tensor(got, (1, 1, n))
    mean = (a * s).sum(-1)
    mistakes = {
        "sign turned round: log a = s - lse, so H is lse minus the mean score": mean - lse,
        "scale forgotten: scores are divided by sqrt(d), so is the mean score": lse - mean * d**0.5,
        "scaled twice: the kernel has divided the scores already, but the mean key is no score: "
        "divide q · mean key once": lse - mean / d**0.5,
        "all keys weighed alike: the mean key must be that of the weights": lse - s.mean(-1),
        "mean score only: H = lse - mean score": mean,
        "lse only: H = lse - mean score": lse,
        "added: H = lse - mean score": lse + mean,
        "in bits: natural logarithms, please": (lse - mean) / math.log(2),
        "keys' own scores: q meets the mean key, not its own": lse - (q * k).sum(-1) / d**0.5,
        "averaged over the queries: one number for each query": (
            (lse - mean).mean().expand(1, 1, n)
        ),
        "normalised: H itself, not H / log n": (lse - mean) / math.log(n),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(close(got, lse - mean), "not the entropy: for scores all alike it is log n")
    require(not formed, "matrix formed: right, but with n × n numbers on the way; let the kernel "
            "average the keys")  # fmt: skip
    q, k = torch.randn(2, 2, 3, 7, 4)
    s = q @ k.mT / 2
    lse = s.logsumexp(-1)
    require(
        close(call(answer, q, k, lse), lse - (s.softmax(-1) * s).sum(-1)),
        "right for one size only: d is the last number in the shape of q",
    )


def both_passes(n):
    """Weights, positions, and what the full and the causal call give."""
    s = 1.5 * torch.randn(n, n)
    i = torch.arange(n, dtype=torch.float32)
    behind = s.masked_fill(i > i[:, None], -torch.inf)
    a, b = s.softmax(-1), behind.softmax(-1)
    return a, i, (a @ i, s.logsumexp(-1), b @ i, behind.logsumexp(-1))


@exercise("15.2", "The distance, both ways", minutes=12, difficulty=3)
def distance(answer):
    torch.manual_seed(0)
    n = 30
    a, i, (place, lse, place_behind, lse_behind) = both_passes(n)
    got = require_tensor(call(answer, place, lse, place_behind, lse_behind), (n,))
    share = (lse_behind - lse).exp()
    mistakes = {
        "share forgotten: weights of the causal pass are larger by exp(lse - lse_behind)": (
            place - i + 2 * (i - place_behind)
        ),
        "share turned round: the keys behind have the share exp(lse_behind - lse), at most 1": (
            place - i + 2 * (i - place_behind) / share
        ),
        "counted once: what lies behind enters E[j] - i with a minus, so add it twice": (
            place - i + share * (i - place_behind)
        ),
        "ahead alone: keys behind the query are missing": place - i,
        "behind alone: keys after the query are missing": share * (i - place_behind),
        "distance of the mean place: keys on both sides cancel": (place - i).abs(),
        "signs turned round: a distance cannot be negative": -(
            place - i + 2 * share * (i - place_behind)
        ),
        "offset of the mean: subtract i from E[j], not E[j] from i": (
            i - place + 2 * share * (i - place_behind)
        ),
        "lse not exponentiated: the share is exp(lse_behind - lse)": (
            place - i + 2 * (lse_behind - lse) * (i - place_behind)
        ),
        "counted from 1: the first token stands at 0": (
            place - (i + 1) + 2 * share * (i + 1 - place_behind)
        ),
        "sides not weighed: what is ahead has the share 1 - exp(lse_behind - lse), and a mean "
        "place of its own": share * (i - place_behind) + (1 - share) * (place - i),
        "divided: the share is exp(lse_behind - lse)": (
            place - i + 2 * lse_behind / lse * (i - place_behind)
        ),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    meant = (a * (i[:, None] - i).abs()).sum(-1)
    require(close(got, meant), "not the distance: sum_j a_ij |i - j| = sum_j a_ij (j - i) + "
            "2 sum_(j <= i) a_ij (i - j)")  # fmt: skip
    a, i, given = both_passes(9)
    try:
        got = call(answer, *given)
    except RuntimeError:
        got = None
    require(
        isinstance(got, torch.Tensor) and close(got, (a * (i[:, None] - i).abs()).sum(-1)),
        "right for one size only: take n from the input",
    )


@exercise("15.3", "Merge two halves", minutes=15, difficulty=3)
def merge(answer):
    torch.manual_seed(0)
    n = 12
    s, values = 2 * torch.randn(n, 20), torch.randn(20, 5)
    first, second = s[:, :14], s[:, 14:]

    def pass_(scores, values):
        return scores.softmax(-1) @ values, scores.logsumexp(-1)

    (mean_1, lse_1), (mean_2, lse_2) = pass_(first, values[:14]), pass_(second, values[14:])
    got = call(answer, mean_1, lse_1, mean_2, lse_2)
    require(isinstance(got, (tuple, list)) and len(got) == 2, "not two results: return mean, lse")
    require([tuple(getattr(t, "shape", ())) for t in got] != [(n,), (n, 5)],
            "lse first: return the mean, then lse")  # fmt: skip
    mean, lse = require_tensor(got[0], (n, 5)), require_tensor(got[1], (n,))
    meant_mean, meant_lse = pass_(s, values)
    share = torch.sigmoid(lse_1 - lse_2)[:, None]
    for name, wrong in {
        "half and half: each half counts by its share of the exponentials": (mean_1 + mean_2) / 2,
        "means added up: they must be weighted by shares that sum to 1": mean_1 + mean_2,
        "shares exchanged: the first mean belongs to exp(lse_1)": (
            (1 - share) * mean_1 + share * mean_2
        ),
        "keys counted: shares are of exponentials, not of numbers of keys": (
            (14 * mean_1 + 6 * mean_2) / 20
        ),
        "lse as shares: exponentiate first": (
            (lse_1[:, None] * mean_1 + lse_2[:, None] * mean_2) / (lse_1 + lse_2)[:, None]
        ),
        "not divided: the shares must sum to 1": (
            lse_1.exp()[:, None] * mean_1 + lse_2.exp()[:, None] * mean_2
        ),
    }.items():
        require(not close(mean, wrong), name)
    require(close(mean, meant_mean), "not the mean of all keys: weigh the halves by exp(lse_1) "
            "and exp(lse_2)")  # fmt: skip
    for name, wrong in {
        "lse added up: add exponentials, then take the logarithm": lse_1 + lse_2,
        "larger lse only: the other half adds to it": torch.maximum(lse_1, lse_2),
        "lse averaged: add exponentials, then take the logarithm": (lse_1 + lse_2) / 2,
        "logarithm forgotten: lse is log(exp(lse_1) + exp(lse_2))": lse_1.exp() + lse_2.exp(),
    }.items():
        require(not close(lse, wrong), name)
    require(close(lse, meant_lse), "not lse: it is log(exp(lse_1) + exp(lse_2))")
    far = call(answer, mean_1, lse_1 + 500, mean_2, lse_2 + 499)
    require(
        isinstance(far, (tuple, list)) and all(t.isfinite().all() for t in far),
        "overflow: exp(500) is infinite; use differences of the two, or torch.logaddexp",
    )
    share = torch.sigmoid(lse_1 - lse_2 + 1)[:, None]
    require(close(far[0], share * mean_1 + (1 - share) * mean_2),
            "overflow: wrong where scores are large")  # fmt: skip
    (m_1, m_2), (x_1, x_2) = torch.randn(2, 4, 3), torch.randn(2, 4)
    share = torch.sigmoid(x_1 - x_2)[:, None]
    try:
        got = call(answer, m_1, x_1, m_2, x_2)
    except RuntimeError:
        got = None
    require(
        got is not None and close(got[0], share * m_1 + (1 - share) * m_2)
        and close(got[1], torch.logaddexp(x_1, x_2)),
        "right for one size only: there may be any number of queries",
    )


@exercise("15.4", "Correlation from inner products", minutes=8, difficulty=2)
def correlation(answer):
    torch.manual_seed(0)
    n = 24
    visible = torch.ones(n, n).tril().bool()
    a, b = torch.randn(2, n, n).masked_fill(~visible, -torch.inf).softmax(-1)
    s_ab, s_aa, s_bb = ((x * y).sum().item() for x, y in ((a, b), (a, a), (b, b)))
    got = require_number(call(answer, s_ab, s_aa, s_bb, n))
    count = n * (n + 1) / 2

    def pearson(mean):
        return (s_ab - mean) / math.sqrt((s_aa - mean) * (s_bb - mean))

    mistakes = {
        "cosine: the means were not taken off": pearson(0),
        "all entries: hidden pairs are not counted here, so it is n² / N and not 1": pearson(1),
        "mean weight taken off: N times the mean squared is n² / N": pearson(n / count),
        "rows counted instead of sums: the sum of all weights is n": pearson(1 / count),
        "n instead of n² / N: the mean is n / N, squared and times N": pearson(n),
        "root forgotten: divide by the root of the product": (s_ab - n**2 / count)
        / ((s_aa - n**2 / count) * (s_bb - n**2 / count)),
        "covariance only: divide by the root of the two variances": s_ab - n**2 / count,
        "baseline of each row: sum_i 1 / (i + 1) is for the uniform baseline": pearson(
            sum(1 / (i + 1) for i in range(n))
        ),
        "strictly below the diagonal: a query sees its own key, N = n (n + 1) / 2": pearson(
            n**2 / (n * (n - 1) / 2)
        ),
    }
    for name, wrong in mistakes.items():
        require(not math.isclose(got, wrong, rel_tol=1e-4), name)
    require(
        math.isclose(got, pearson(n**2 / count), rel_tol=1e-4),
        "not the correlation: (S_ab - m) / root((S_aa - m) (S_bb - m)), m = n² / N",
    )
    twice = call(answer, s_aa, s_aa, s_aa, n)
    require(abs(float(twice) - 1) < 1e-6, "not 1 for a head with itself")
    m = 100 / 55
    require(
        math.isclose(call(answer, 2.0, 3.0, 4.0, 10), (2 - m) / math.sqrt((3 - m) * (4 - m)),
                     rel_tol=1e-4),
        "right for one size only: use the argument n",
    )  # fmt: skip


@exercise("15.5", "Inner product of two scores", minutes=10, difficulty=2)
def inner(answer):
    torch.manual_seed(0)
    n, d = 60, 4
    q_1, k_1, q_2, k_2 = torch.randn(4, n, d) + 0.3
    got, formed = _without_matrix(answer, n, q_1, k_1, q_2, k_2)
    got = require_number(got)
    s_1, s_2 = q_1 @ k_1.T, q_2 @ k_2.T
    mistakes = {
        "vectors compared: q_1 · k_1 of each token leaves out all other pairs": (
            ((q_1 * k_1).sum(-1) * (q_2 * k_2).sum(-1)).sum()
        ),
        "trace of the product: multiply the two Gram matrices entry by entry; the trace of their "
        "product takes one of them transposed": ((q_1.T @ q_2) @ (k_1.T @ k_2)).trace(),
        "product of the sums: multiply entry by entry before adding": (
            (q_1.T @ q_2).sum() * (k_1.T @ k_2).sum()
        ),
        "traces multiplied: multiply entry by entry, off the diagonal too": (
            (q_1.T @ q_2).trace() * (k_1.T @ k_2).trace()
        ),
        "queries met keys: the Gram matrices are of queries with queries, keys with keys": (
            (q_1.T @ k_1) * (q_2.T @ k_2)
        ).sum(),
        "crossed: q_1 meets q_2, k_1 meets k_2": ((q_1.T @ k_2) * (k_1.T @ q_2)).sum(),
        "mean: the sum is asked for": (s_1 * s_2).mean(),
        "norms multiplied: that is only a bound": s_1.norm() * s_2.norm(),
        "sums of scores: multiply pair by pair": s_1.sum() * s_2.sum(),
    }
    for name, wrong in mistakes.items():
        require(not math.isclose(got, wrong.item(), rel_tol=1e-3), name)
    require(math.isclose(got, (s_1 * s_2).sum().item(), rel_tol=1e-3),
            "not the inner product: the sum over i, j of (q_1i · k_1j)(q_2i · k_2j)")  # fmt: skip
    require(not formed, "matrix formed: right, but with n × n numbers on the way; d × d are enough")
    few = torch.randn(4, 7, 3)
    right = ((few[0] @ few[1].T) * (few[2] @ few[3].T)).sum().item()
    require(
        math.isclose(require_number(call(answer, *few)), right, rel_tol=1e-3, abs_tol=1e-4),
        "right for one size only: take n and d from the input",
    )


@exercise("15.6", "What to hand over", minutes=5, difficulty=1)
def values_for(answer):
    for n, m in ((9, 4), (6, 2), (5, 1)):
        got = require_tensor(call(answer, n, m))
        require(
            tuple(got.shape) != (3, n), "transposed: a row for each key, a column for each mean"
        )
        got = require_tensor(got, (n, 3))
        require(got.is_floating_point(), "whole numbers: a kernel wants floating-point values")
        place = torch.arange(n, dtype=torch.float32)
        first, last = (place == 0).float(), (place >= n - m).float()
        mistakes = {
            "counted from 1: the first key stands at 0": (place + 1, first, last),
            "divided by n: the weights of a query sum to 1 already": (place / n, first, last),
            "columns exchanged: the first key, then the last m": (place, last, first),
            "mean instead of sum: the weight on m keys is the sum of theirs": (
                place, first, last / m,
            ),
            "the first m: the last m keys are meant": (place, first, (place < m).float()),
            "the last one only: all of the last m keys count": (
                place, first, (place == n - 1).float(),
            ),
            "one key too few: the last m begin with key n - m": (
                place, first, (place > n - m).float(),
            ),
            "one key too many: the last m begin with key n - m": (
                place, first, (place >= n - m - 1).float(),
            ),
        }  # fmt: skip
        right = torch.stack([place, first, last], -1)
        for name, columns in mistakes.items():
            wrong = torch.stack(columns, -1)
            require(close(wrong, right) or not close(got, wrong), name)
        require(
            close(got, right),
            "not these values: with 1 for some keys and 0 for the others, the kernel returns the "
            "weight on the former",
        )
