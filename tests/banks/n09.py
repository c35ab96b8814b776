"""Right and wrong answers to the exercises of notebook 09."""

import torch
import torch.nn.functional as F

from attnlab import decompose
from banks import Bank


def term(x, p, w_q, w_k):
    return (x @ w_q) @ (p @ w_k).T / w_q.shape[1] ** 0.5


def term_by_matrix(x, p, w_q, w_k):
    return torch.einsum("id,de,je->ij", x, w_q @ w_k.T, p) / w_k.size(-1) ** 0.5


def term_by_library(x, p, w_q, w_k):
    return decompose.four_terms(x @ w_q, p @ w_q, x @ w_k, p @ w_k)[1]


def shares(terms):
    seen = terms - terms.mean(-1, keepdim=True)
    score = seen.sum(0)
    return (seen * score).sum((-2, -1)) / (score * score).sum()


def shares_by_loop(terms):
    score = terms.sum(0)
    score = score - score.mean(1, keepdim=True)
    found = []
    for t in terms:
        found.append((t * score).sum() / score.pow(2).sum())  # a centred factor is enough
    return torch.stack(found)


def shares_with(centre):
    def answer(terms):
        seen = terms - centre(terms)
        score = seen.sum(0)
        return (seen * score).sum((1, 2)) / score.square().sum()

    return answer


def variances(terms):
    seen = terms - terms.mean(-1, keepdim=True)
    return seen.var((1, 2)) / seen.sum(0).var()


def variances_to_one(terms):
    own = (terms - terms.mean(-1, keepdim=True)).var((1, 2))
    return own / own.sum()


def absolute(terms):
    found = shares(terms).abs()
    return found / found.sum()


def covariance(terms):
    seen = terms - terms.mean(-1, keepdim=True)
    return (seen * seen.sum(0)).sum((1, 2))


def correlation(terms):
    seen = terms - terms.mean(-1, keepdim=True)
    score = seen.sum(0)
    own, whole = seen.square().sum((1, 2)), score.square().sum()
    return (seen * score).sum((1, 2)) / (own * whole).sqrt()


def for_each_query(terms):
    seen = terms - terms.mean(-1, keepdim=True)
    score = seen.sum(0)
    return (seen * score).sum(-1) / score.square().sum(-1)


def of_weights(terms):
    found = terms.softmax(-1).var((1, 2))
    return found / found.sum()


def four_only(terms):
    found = shares(terms)
    return found if len(found) == 4 else found * 2


def norm_parts(content, position, g, b, eps):
    sigma = ((content + position).var(-1, keepdim=True, correction=0) + eps).sqrt()
    parts = [g * (part - part.mean(-1, keepdim=True)) / sigma for part in (content, position)]
    return *parts, b.expand_as(content)


def norm_parts_by_difference(content, position, g, b, eps):
    d = content.shape[-1]
    whole = F.layer_norm(content + position, (d,), g, b, eps)
    sigma = ((content + position).var(-1, unbiased=False, keepdim=True) + eps) ** 0.5
    mine = (content - content.mean(-1, keepdim=True)) * g / sigma
    return mine, whole - mine - b, b


def norm_parts_by_matrix(content, position, g, b, eps):
    d = content.shape[-1]
    centre = torch.eye(d) - 1 / d
    z = (content + position) @ centre
    factor = g / (z.square().mean(-1, keepdim=True) + eps).sqrt()
    return [content @ centre * factor, position @ centre * factor, b[None].repeat(len(content), 1)]


def norm_with(sigma_of, centre=lambda t: t.mean(-1, keepdim=True), gain=True):
    """The split with another σ: sigma_of(content, position, eps)."""

    def answer(content, position, g, b, eps):
        sigma = sigma_of(content, position, eps)
        sigma = sigma if isinstance(sigma, tuple) else (sigma, sigma)
        factor = g if gain else 1
        pairs = zip((content, position), sigma, strict=True)
        parts = [factor * (t - centre(t)) / s for t, s in pairs]
        return *parts, b.expand_as(content)

    return answer


def sd(t, eps=0.0, correction=0):
    return (t.var(-1, keepdim=True, correction=correction) + eps).sqrt()


def each_alone(content, position, g, b, eps):
    zero = torch.zeros_like(b)
    c, p = (F.layer_norm(t, b.shape, g, zero, eps) for t in (content, position))
    return c, p, b.expand_as(content)


def norm_then(change):
    """The right parts, and what happens to b."""

    def answer(content, position, g, b, eps):
        c, p, _ = norm_parts(content, position, g, b, eps)
        return change(c, p, b.expand_as(c), g)

    return answer


def sum_centred(content, position, g, b, eps):
    z = content + position
    sigma, mean = sd(z, eps), z.mean(-1, keepdim=True)
    return g * (content - mean) / sigma, g * (position - mean) / sigma, b.expand_as(content)


def half_centred(content, position, g, b, eps):
    z = content + position
    sigma, mean = sd(z, eps), z.mean(-1, keepdim=True) / 2
    return g * (content - mean) / sigma, g * (position - mean) / sigma, b.expand_as(content)


def mean_of_the_content_only(content, position, g, b, eps):
    z = content + position
    sigma, mean = sd(z, eps), z.mean(-1, keepdim=True)
    return g * (content - mean) / sigma, g * position / sigma, b.expand_as(content)


def position_alone(content, position, g, b, eps):
    whole = F.layer_norm(content + position, b.shape, g, b, eps)
    alone = F.layer_norm(position, b.shape, g, None, eps)
    return whole - alone - b, alone, b


def eight_wide(content, position, g, b, eps):
    def centred(t):
        return t - t.sum(-1, keepdim=True) / 8

    sigma = (centred(content + position).square().sum(-1, keepdim=True) / 8 + eps).sqrt()
    return g * centred(content) / sigma, g * centred(position) / sigma, b


def over_tokens(content, position, g, b, eps):
    sigma = ((content + position).var(0, correction=0) + eps).sqrt()
    return *(g * (t - t.mean(0)) / sigma for t in (content, position)), b.expand_as(content)


def whole_rest(content, position, g, b, eps):
    c, p, _ = norm_parts(content, position, g, b, eps)
    return c, p, F.layer_norm(content + position, b.shape, g, b, eps)


def b_by_sigma(content, position, g, b, eps):
    c, p, r = norm_parts(content, position, g, b, eps)
    return c, p, r / sd(content + position, eps)


def inner(q1, k1, q2, k2):
    k1, k2 = k1 - k1.mean(0), k2 - k2.mean(0)
    return ((q1.T @ q2) * (k1.T @ k2)).sum()


def inner_by_trace(q1, k1, q2, k2):
    k1 = k1 - k1.mean(0, keepdim=True)  # centring one side is enough for the sum
    return torch.trace((k2.T @ k1) @ (q1.T @ q2))


def inner_by_einsum(q1, k1, q2, k2):
    k1, k2 = k1 - k1.mean(0), k2 - k2.mean(0)
    return torch.einsum("ab,ab->", torch.einsum("ia,ib->ab", q1, q2), k1.T @ k2)


def dense(q1, k1, q2, k2):
    one, two = q1 @ k1.T, q2 @ k2.T
    return ((one - one.mean(1, keepdim=True)) * (two - two.mean(1, keepdim=True))).sum()


def dense_in_two(q1, k1, q2, k2):
    """The same, in two blocks of rows."""
    half = len(q1) // 2
    return dense(q1[:half], k1, q2[:half], k2) + dense(q1[half:], k1, q2[half:], k2)


def dense_columns(q1, k1, q2, k2):
    one, two = q1 @ k1.T, q2 @ k2.T
    return ((one - one.mean(0)) * (two - two.mean(0))).sum()


def dense_mean(q1, k1, q2, k2):
    one, two = q1 @ k1.T, q2 @ k2.T
    return ((one - one.mean()) * (two - two.mean())).sum()


def centre(t):
    return t - t.mean(0)


def centre_features(t):
    return t - t.mean(1, keepdim=True)


BANK = {
    "9.1": Bank(
        right=[term, term_by_matrix, term_by_library],
        wrong={
            "not-divided": lambda x, p, q, k: (x @ q) @ (p @ k).T,
            "divided-by-d-k": lambda x, p, q, k: (x @ q) @ (p @ k).T / q.shape[1],
            "divided-by-d": lambda x, p, q, k: (x @ q) @ (p @ k).T / len(q) ** 0.5,
            "divided-by-n": lambda x, p, q, k: (x @ q) @ (p @ k).T / len(x) ** 0.5,
            "the-other-mixed-term": lambda x, p, q, k: term(p, x, q, k),
            "keys-in-the-rows": lambda x, p, q, k: term(x, p, q, k).T,
            "matrices-exchanged": lambda x, p, q, k: term(x, p, k, q),
            "content-content": lambda x, p, q, k: term(x, x, q, k),
            "position-position": lambda x, p, q, k: term(p, p, q, k),
            "the-whole-score": lambda x, p, q, k: term(x + p, x + p, q, k),
            "both-mixed-terms": lambda x, p, q, k: term(x, p, q, k) + term(p, x, q, k),
            "weights": lambda x, p, q, k: term(x, p, q, k).softmax(-1),
            "not-the-term": lambda x, p, q, k: term(x - p, p, q, k),
            "right-for-one-size-only": lambda x, p, q, k: (x @ q) @ (p @ k).T / 2,
        },
    ),
    "9.2": Bank(
        right=[shares, shares_by_loop, decompose.variance_shares],
        wrong={
            "column-means-taken-off": shares_with(lambda t: t.mean(1, keepdim=True)),
            "rows-and-columns-taken-off": shares_with(
                lambda t: t.mean(1, keepdim=True) + t.mean(2, keepdim=True)
                - t.mean((1, 2), keepdim=True)
            ),
            "only-the-overall-mean-taken-off": shares_with(lambda t: t.mean((1, 2), keepdim=True)),
            "nothing-taken-off": shares_with(torch.zeros_like),
            "variances-instead-of-covariances": variances,
            "variances-made-to-add-up": variances_to_one,
            "absolute-values": absolute,
            "not-divided": covariance,
            "not-divided#2": lambda terms: covariance(terms) / terms[0].numel(),
            "correlations": correlation,
            "standard-deviation": lambda terms: (
                shares(terms)
                * (terms - terms.mean(-1, keepdim=True)).sum(0).square().mean().sqrt()
            ),
            "weights": of_weights,
            "a-share-for-each-query": for_each_query,
            "not-summed": lambda terms: terms / terms.sum(0),
            "not-the-shares": lambda terms: 1 - shares(terms),
            "right-for-four-terms-only": four_only,
        },
    ),
    "9.3": Bank(
        right=[
            norm_parts, norm_parts_by_difference, norm_parts_by_matrix,
            lambda *a: torch.stack(norm_parts(*a)),
        ],
        wrong={
            "each-its-own": each_alone,
            "of-the-content-alone": norm_with(lambda c, p, e: sd(c, e)),
            "of-the-position-alone": norm_with(lambda c, p, e: sd(p, e)),
            "not-divided": norm_with(lambda c, p, e: torch.ones(len(c), 1)),
            "variance-instead-of": norm_with(lambda c, p, e: sd(c + p, e) ** 2),
            "divided-by-d-1": norm_with(lambda c, p, e: sd(c + p, e, correction=1)),
            "eps-forgotten": norm_with(lambda c, p, e: sd(c + p)),
            "eps-outside-the-root": norm_with(lambda c, p, e: sd(c + p) + e),
            "g-forgotten": norm_with(lambda c, p, e: sd(c + p, e), gain=False),
            "means-left-in": norm_with(lambda c, p, e: sd(c + p, e), centre=lambda t: 0),
            "mean-of-the-sum-taken-off-twice": sum_centred,
            "half-of-the-mean-of-the-sum": half_centred,
            "means-over-the-tokens": over_tokens,
            "b-in-the-content": norm_then(lambda c, p, b, g: (c + b, p, 0 * b)),
            "b-in-the-position": norm_then(lambda c, p, b, g: (c, p + b, 0 * b)),
            "b-shared-out": norm_then(lambda c, p, b, g: (c + b / 2, p + b / 2, 0 * b)),
            "b-in-every-part": norm_then(lambda c, p, b, g: (c + b, p + b, b)),
            "parts-exchanged": norm_then(lambda c, p, b, g: (p, c, b)),
            "rest-forgotten": norm_then(lambda c, p, b, g: (c, p, 0 * b)),
            "b-multiplied-by-g": norm_then(lambda c, p, b, g: (c, p, b * g)),
            "the-whole-result-as-the-rest": whole_rest,
            "b-divided-by": b_by_sigma,
            "not-three-parts": lambda *a: norm_parts(*a)[:2],
            "a-rest-of-another-shape": lambda *a: (*norm_parts(*a)[:2], a[3].sum()),
            "not-the-parts": norm_then(lambda c, p, b, g: (2 * c, p, b)),
            "not-these-parts": mean_of_the_content_only,
            "not-these-parts#2": position_alone,
            "right-for-one-size-only": eight_wide,
        },
    ),
    "9.4": Bank(
        right=[inner, inner_by_trace, inner_by_einsum],
        wrong={
            "n-n-numbers": dense,
            "n-n-numbers#2": dense_in_two,
            "row-means-left-in": lambda q1, k1, q2, k2: ((q1.T @ q2) * (k1.T @ k2)).sum(),
            "column-means-taken-off": dense_columns,
            "column-means-taken-off#2": lambda q1, k1, q2, k2: (
                ((centre(q1).T @ centre(q2)) * (k1.T @ k2)).sum()
            ),
            "mean-of-all-pairs-taken-off": dense_mean,
            "queries-centred-too": lambda *a: inner(centre(a[0]), a[1], centre(a[2]), a[3]),
            "mean-over-the-features": lambda q1, k1, q2, k2: (
                ((q1.T @ q2) * (centre_features(k1).T @ centre_features(k2))).sum()
            ),
            "queries-multiplied-with-keys": lambda q1, k1, q2, k2: (
                ((q1.T @ centre(k1)) * (q2.T @ centre(k2))).sum()
            ),
            "matrix-product-instead-of-entry-by-entry": lambda q1, k1, q2, k2: (
                ((q1.T @ q2) @ (centre(k1).T @ centre(k2))).sum()
            ),
            "matrix-product-and-trace": lambda q1, k1, q2, k2: (
                ((q1.T @ q2) @ (centre(k1).T @ centre(k2))).trace()
            ),
            "averaged": lambda *a: inner(*a) / len(a[0]) ** 2,
            "averaged#2": lambda q1, k1, q2, k2: (
                ((q1.T @ q2) * (centre(k1).T @ centre(k2))).mean()
            ),
            "not-summed": lambda q1, k1, q2, k2: (q1.T @ q2) * (centre(k1).T @ centre(k2)),
            "not-the-sum": lambda *a: -inner(*a),
            "right-for-one-size-only": lambda *a: inner(*a) * len(a[0]) / 60,
            "n-n-numbers#3": lambda q1, k1, q2, k2: torch.einsum(  # inside einsum
                "ia,ja,ib,jb->", q1, centre(k1), q2, centre(k2)
            ),
        },
    ),
}
