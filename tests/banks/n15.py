"""Right and wrong answers to the exercises of notebook 15."""

import math

import torch
import torch.nn.functional as F

from banks import Bank


def mean_key(q, k):
    return F.scaled_dot_product_attention(q, k, k)


def entropy(q, k, lse):
    return lse - (q * mean_key(q, k)).sum(-1) / q.shape[-1] ** 0.5


def entropy_by_einsum(q, k, lse):
    return lse - torch.einsum("bhnd,bhnd->bhn", q, mean_key(q, k)) * q.shape[-1] ** -0.5


def entropy_by_rows(q, k, lse):
    rows = []
    for i in range(q.shape[-2]):
        s = q[..., i : i + 1, :] @ k.mT / q.shape[-1] ** 0.5
        rows.append(lse[..., i : i + 1] - (s.softmax(-1) * s).sum(-1))
    return torch.cat(rows, -1)


def entropy_by_matrix(q, k, lse):
    s = q @ k.mT / q.shape[-1] ** 0.5
    return lse - (s.softmax(-1) * s).sum(-1)


def mean_score(q, k):
    return (q * mean_key(q, k)).sum(-1) / q.shape[-1] ** 0.5


def order(place):
    return torch.arange(len(place), dtype=place.dtype)


def distance(place, lse, place_behind, lse_behind):
    i = order(place)
    return place - i + 2 * (lse_behind - lse).exp() * (i - place_behind)


def distance_by_sides(place, lse, place_behind, lse_behind):
    i = order(place)
    share = lse_behind.exp() / lse.exp()
    behind = share * (i - place_behind)
    ahead = place - share * place_behind - (1 - share) * i
    return behind + ahead


def merge(mean_1, lse_1, mean_2, lse_2):
    lse = torch.logaddexp(lse_1, lse_2)
    return (lse_1 - lse).exp()[:, None] * mean_1 + (lse_2 - lse).exp()[:, None] * mean_2, lse


def merge_by_softmax(mean_1, lse_1, mean_2, lse_2):
    both = torch.stack([lse_1, lse_2], -1)
    shares = both.softmax(-1)
    return shares[:, :1] * mean_1 + shares[:, 1:] * mean_2, both.logsumexp(-1)


def merge_by_max(mean_1, lse_1, mean_2, lse_2):
    top = torch.maximum(lse_1, lse_2)
    w_1, w_2 = (lse_1 - top).exp(), (lse_2 - top).exp()
    total = w_1 + w_2
    mean = (w_1[:, None] * mean_1 + w_2[:, None] * mean_2) / total[:, None]
    return mean, top + total.log()


def merge_without_max(mean_1, lse_1, mean_2, lse_2):
    w_1, w_2 = lse_1.exp()[:, None], lse_2.exp()[:, None]
    return (w_1 * mean_1 + w_2 * mean_2) / (w_1 + w_2), (w_1 + w_2).log().squeeze(-1)


def merged(mean=None, lse=None):
    """A wrong answer: one of the two results replaced."""

    def answer(mean_1, lse_1, mean_2, lse_2):
        right = merge(mean_1, lse_1, mean_2, lse_2)
        given = (mean_1, lse_1, mean_2, lse_2)
        return (
            right[0] if mean is None else mean(*given),
            right[1] if lse is None else lse(*given),
        )

    return answer


def from_mean(mean):
    """The correlation with another number in place of n² / N."""

    def answer(s_ab, s_aa, s_bb, n):
        m = mean(n)
        return (s_ab - m) / math.sqrt((s_aa - m) * (s_bb - m))

    return answer


correlation = from_mean(lambda n: n**2 / (n * (n + 1) / 2))


def correlation_short(s_ab, s_aa, s_bb, n):
    m = 2 * n / (n + 1)
    return (s_ab - m) * (s_aa - m) ** -0.5 * (s_bb - m) ** -0.5


def shifted(s, n):
    return s - 2 * n / (n + 1)


def inner(q_1, k_1, q_2, k_2):
    return ((q_1.T @ q_2) * (k_1.T @ k_2)).sum()


def inner_by_trace(q_1, k_1, q_2, k_2):
    return ((q_1.T @ q_2) @ (k_1.T @ k_2).T).trace().item()


def inner_by_einsum(q_1, k_1, q_2, k_2):
    q, k = torch.einsum("na,nb->ab", q_1, q_2), torch.einsum("na,nb->ab", k_1, k_2)
    return torch.tensordot(q, k, 2)


def handed_over(place=None, first=None, last=None):
    """Values for the kernel, with one of the three columns replaced."""

    def answer(n, m):
        j = torch.arange(n, dtype=torch.float32)
        columns = (
            j if place is None else place(j, n),
            (j == 0).float() if first is None else first(j, n),
            (j >= n - m).float() if last is None else last(j, n, m),
        )
        return torch.stack(columns, -1)

    return answer


def handed_over_by_filling(n, m):
    v = torch.zeros(n, 3)
    v[:, 0], v[0, 1], v[n - m :, 2] = torch.arange(n), 1, 1
    return v


def columns_exchanged(n, m):
    return handed_over()(n, m)[:, [0, 2, 1]]


BANK = {
    "15.1": Bank(
        right=[entropy, entropy_by_einsum, entropy_by_rows],
        wrong={
            "sign-turned-round": lambda q, k, lse: mean_score(q, k) - lse,
            "scale-forgotten": lambda q, k, lse: lse - (q * mean_key(q, k)).sum(-1),
            "scaled-twice": lambda q, k, lse: lse - mean_score(q, k) / q.shape[-1] ** 0.5,
            "all-keys-weighed-alike": lambda q, k, lse: (
                lse - (q * k.mean(-2, keepdim=True)).sum(-1) / q.shape[-1] ** 0.5
            ),
            "mean-score-only": lambda q, k, lse: mean_score(q, k),
            "lse-only": lambda q, k, lse: lse.clone(),
            "added": lambda q, k, lse: lse + mean_score(q, k),
            "in-bits": lambda q, k, lse: entropy(q, k, lse) / math.log(2),
            "keys-own-scores": lambda q, k, lse: lse - (q * k).sum(-1) / q.shape[-1] ** 0.5,
            "averaged-over-the-queries": lambda q, k, lse: (
                entropy(q, k, lse).mean(-1, keepdim=True).expand(lse.shape)
            ),
            "normalised": lambda q, k, lse: entropy(q, k, lse) / math.log(q.shape[-2]),
            "matrix-formed": entropy_by_matrix,
            "matrix-formed#2": lambda q, k, lse: (  # torch has no kernel for wider values
                lse - (q * F.scaled_dot_product_attention(q, k, F.pad(k, (0, 1)))[..., :-1]).sum(-1)
                / q.shape[-1] ** 0.5
            ),
            "right-for-one-size-only": lambda q, k, lse: lse - (q * mean_key(q, k)).sum(-1) / 4,
            "not-the-entropy": lambda q, k, lse: 0.5 * entropy(q, k, lse),
        },
    ),
    "15.2": Bank(
        right=[distance, distance_by_sides],
        wrong={
            "share-forgotten": lambda p, z, pb, zb: p - order(p) + 2 * (order(p) - pb),
            "share-turned-round": lambda p, z, pb, zb: (
                p - order(p) + 2 * (z - zb).exp() * (order(p) - pb)
            ),
            "counted-once": lambda p, z, pb, zb: p - order(p) + (zb - z).exp() * (order(p) - pb),
            "ahead-alone": lambda p, z, pb, zb: p - order(p),
            "behind-alone": lambda p, z, pb, zb: (zb - z).exp() * (order(p) - pb),
            "distance-of-the-mean-place": lambda p, z, pb, zb: (p - order(p)).abs(),
            "signs-turned-round": lambda p, z, pb, zb: -distance(p, z, pb, zb),
            "offset-of-the-mean": lambda p, z, pb, zb: (
                order(p) - p + 2 * (zb - z).exp() * (order(p) - pb)
            ),
            "lse-not-exponentiated": lambda p, z, pb, zb: (
                p - order(p) + 2 * (zb - z) * (order(p) - pb)
            ),
            "divided": lambda p, z, pb, zb: p - order(p) + 2 * zb / z * (order(p) - pb),
            "counted-from-1": lambda p, z, pb, zb: (
                p - order(p) - 1 + 2 * (zb - z).exp() * (order(p) + 1 - pb)
            ),
            "sides-not-weighed": lambda p, z, pb, zb: torch.lerp(
                p - order(p), order(p) - pb, (zb - z).exp()
            ),
            "right-for-one-size-only": lambda p, z, pb, zb: (
                p - torch.arange(30.0) + 2 * (zb - z).exp() * (torch.arange(30.0) - pb)
            ),
            "not-the-distance": lambda p, z, pb, zb: 2 * distance(p, z, pb, zb),
        },
    ),
    "15.3": Bank(
        right=[merge, merge_by_softmax, merge_by_max, lambda *a: list(merge(*a))],
        wrong={
            "half-and-half": merged(mean=lambda a, x, b, y: (a + b) / 2),
            "means-added-up": merged(mean=lambda a, x, b, y: a + b),
            "shares-exchanged": merged(mean=lambda a, x, b, y: merge(b, x, a, y)[0]),
            "keys-counted": merged(mean=lambda a, x, b, y: (14 * a + 6 * b) / 20),
            "lse-as-shares": merged(
                mean=lambda a, x, b, y: (x[:, None] * a + y[:, None] * b) / (x + y)[:, None]
            ),
            "not-divided": merged(
                mean=lambda a, x, b, y: x.exp()[:, None] * a + y.exp()[:, None] * b
            ),
            "not-the-mean-of-all-keys": merged(mean=lambda a, x, b, y: 2 * merge(a, x, b, y)[0]),
            "lse-added-up": merged(lse=lambda a, x, b, y: x + y),
            "larger-lse-only": merged(lse=lambda a, x, b, y: torch.maximum(x, y)),
            "lse-averaged": merged(lse=lambda a, x, b, y: (x + y) / 2),
            "logarithm-forgotten": merged(lse=lambda a, x, b, y: x.exp() + y.exp()),
            "not-lse": merged(lse=lambda a, x, b, y: -torch.logaddexp(x, y)),
            "overflow": merge_without_max,
            "overflow#2": lambda a, x, b, y: (merge(a, x, b, y)[0], (x.exp() + y.exp()).log()),
            "overflow#3": lambda a, x, b, y: merge(a, x.clamp(max=80), b, y.clamp(max=80)),
            "right-for-one-size-only": merged(
                mean=lambda a, x, b, y: merge(a, x, b, y)[0] * (12 / len(a))
            ),
            "lse-first": lambda *a: merge(*a)[::-1],
            "not-two-results": lambda a, x, b, y: merge(a, x, b, y)[0],
        },
    ),
    "15.4": Bank(
        right=[correlation, correlation_short],
        wrong={
            "cosine": from_mean(lambda n: 0),
            "all-entries": from_mean(lambda n: 1),
            "mean-weight-taken-off": from_mean(lambda n: 2 / (n + 1)),
            "rows-counted-instead-of-sums": from_mean(lambda n: 2 / (n * (n + 1))),
            "n-instead-of-n-n": lambda s_ab, s_aa, s_bb, n: (
                (s_ab - n) / math.sqrt((s_aa - n) * (s_bb - n))
            ),
            "root-forgotten": lambda s_ab, s_aa, s_bb, n: (
                shifted(s_ab, n) / (shifted(s_aa, n) * shifted(s_bb, n))
            ),
            "covariance-only": lambda s_ab, s_aa, s_bb, n: shifted(s_ab, n),
            "baseline-of-each-row": from_mean(lambda n: sum(1 / (i + 1) for i in range(n))),
            "strictly-below-the-diagonal": from_mean(lambda n: 2 * n / (n - 1)),
            "right-for-one-size-only": lambda *sums_and_n: correlation(*sums_and_n[:3], 24),
            "not-the-correlation": lambda s_ab, s_aa, s_bb, n: (
                0.5 * correlation(s_ab, s_aa, s_bb, n)
            ),
        },
    ),
    "15.5": Bank(
        right=[inner, inner_by_trace, inner_by_einsum],
        wrong={
            "vectors-compared": lambda a, b, c, d: ((a * b).sum(-1) * (c * d).sum(-1)).sum(),
            "trace-of-the-product": lambda a, b, c, d: ((a.T @ c) @ (b.T @ d)).trace(),
            "product-of-the-sums": lambda a, b, c, d: (a.T @ c).sum() * (b.T @ d).sum(),
            "traces-multiplied": lambda a, b, c, d: (a.T @ c).trace() * (b.T @ d).trace(),
            "queries-met-keys": lambda a, b, c, d: ((a.T @ b) * (c.T @ d)).sum(),
            "crossed": lambda a, b, c, d: ((a.T @ d) * (b.T @ c)).sum(),
            "trace-of-the-product#2": lambda a, b, c, d: ((a.T @ c) * (d.T @ b)).sum(),
            "mean": lambda a, b, c, d: ((a @ b.T) * (c @ d.T)).mean(),
            "norms-multiplied": lambda a, b, c, d: (a @ b.T).norm() * (c @ d.T).norm(),
            "sums-of-scores": lambda a, b, c, d: (a @ b.T).sum() * (c @ d.T).sum(),
            "matrix-formed": lambda a, b, c, d: ((a @ b.T) * (c @ d.T)).sum(),
            "matrix-formed#2": lambda a, b, c, d: torch.einsum("ia,ja,ib,jb->", a, b, c, d),
            "right-for-one-size-only": lambda a, b, c, d: inner(a, b, c, d) * len(a) / 60,
            "not-the-inner-product": lambda a, b, c, d: inner(a, b, c, d) + 1,
        },
    ),
    "15.6": Bank(
        right=[handed_over(), handed_over_by_filling, lambda n, m: handed_over()(n, m).double()],
        wrong={
            "transposed": lambda n, m: handed_over()(n, m).T,
            "whole-numbers": lambda n, m: handed_over()(n, m).long(),
            "counted-from-1": handed_over(place=lambda j, n: j + 1),
            "divided-by-n": handed_over(place=lambda j, n: j / n),
            "columns-exchanged": columns_exchanged,
            "mean-instead-of-sum": handed_over(last=lambda j, n, m: (j >= n - m) / m),
            "the-first-m": handed_over(last=lambda j, n, m: (j < m).float()),
            "the-last-one-only": handed_over(last=lambda j, n, m: (j == n - 1).float()),
            "one-key-too-few": handed_over(last=lambda j, n, m: (j > n - m).float()),
            "one-key-too-many": lambda n, m: handed_over()(n, m + 1),
            "not-these-values": handed_over(first=lambda j, n: torch.ones(n)),
            "wrong-shape": lambda n, m: handed_over()(n, m)[:, :2],
        },
    ),
}
