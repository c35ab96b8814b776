"""Checks of notebook 09, four terms."""

import math

import torch

from attnlab.exercises._watch import Largest
from attnlab.exercises.n01 import close
from attnlab.teach import call, exercise, require, require_tensor


@exercise("9.1", "One term", minutes=8, difficulty=1)
def content_position(answer):
    x, p = torch.randn(2, 6, 9)
    w_q, w_k = torch.randn(2, 9, 4)
    got = require_tensor(call(answer, x, p, w_q, w_k), (6, 6))
    right = (x @ w_q) @ (p @ w_k).T / 2
    backwards = (p @ w_q) @ (x @ w_k).T / 2
    mistakes = {
        "not divided: the scores are divided by √d_k": 2 * right,
        "divided by d_k: its root was meant": right / 2,
        "divided by √d: d_k is the width of a query, w_q.shape[1]": 2 * right / 3,
        "divided by √n: d_k is the width of a query, w_q.shape[1]": 2 * right / math.sqrt(6),
        "the other mixed term: there the place asks for a word; here the word asks for a place": (
            backwards
        ),
        "keys in the rows: row i belongs to query i": right.T,
        "matrices exchanged: queries are made by w_q, keys by w_k": (x @ w_k) @ (p @ w_q).T / 2,
        "content–content: the key must be made from the place": (x @ w_q) @ (x @ w_k).T / 2,
        "position–position: the query must be made from the word": (p @ w_q) @ (p @ w_k).T / 2,
        "the whole score: only one of its four terms was asked for": (
            ((x + p) @ w_q) @ ((x + p) @ w_k).T / 2
        ),
        "both mixed terms: only the one in which a word asks for a place was asked for": (
            right + backwards
        ),
        "weights: a term is a part of the scores, before any softmax": right.softmax(-1),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(close(got, right), "not the term: multiply the queries x W_Q with the keys p W_K")
    x, p = torch.randn(2, 3, 5)
    w_q, w_k = torch.randn(2, 5, 9)
    got = require_tensor(call(answer, x, p, w_q, w_k), (3, 3))
    require(
        close(got, (x @ w_q) @ (p @ w_k).T / 3),
        "right for one size only: take d_k from the shape of w_q",
    )


@exercise("9.2", "Shares", minutes=12, difficulty=2)
def shares(answer):
    weight = torch.tensor([1.5, 1.0, 0.7, 0.4])[:, None, None]
    terms = weight * torch.randn(4, 7, 7) + torch.randn(4, 7, 1) + torch.randn(4, 1, 7)
    terms[3] -= 0.5 * terms[0]  # it works against the others: its share is below 0
    got = require_tensor(call(answer, terms))
    require(tuple(got.shape) != (4, 7), "a share for each query: sum over the queries too")
    require(tuple(got.shape) != (4, 7, 7), "not summed: a share is one number for each term")
    require_tensor(got, (4,))

    def of(mean_of, score_of=lambda t: t.sum(0)):
        centred = terms - mean_of(terms)
        return (centred * score_of(centred)).sum((-2, -1)), centred, score_of(centred)

    rows, centred, score = of(lambda t: t.mean(-1, keepdim=True))
    total = score.square().sum()
    own = centred.square().sum((-2, -1))
    columns, _, column_score = of(lambda t: t.mean(-2, keepdim=True))
    everything, _, whole_score = of(lambda t: t.mean((-2, -1), keepdim=True))
    both, _, both_score = of(
        lambda t: t.mean(-1, keepdim=True) + t.mean(-2, keepdim=True)
        - t.mean((-2, -1), keepdim=True)
    )  # fmt: skip
    bare, _, bare_score = of(torch.zeros_like)
    weights = torch.softmax(terms, -1).var((-2, -1))
    mistakes = {
        "column means taken off: the softmax does not see what is the same for all keys of one "
        "query, a row": columns / column_score.square().sum(),
        "rows and columns taken off: the softmax sees what differs between keys": (
            both / both_score.square().sum()
        ),
        "only the overall mean taken off: row by row was meant": (
            everything / whole_score.square().sum()
        ),
        "nothing taken off: the row means are invisible to the softmax": (
            bare / bare_score.square().sum()
        ),
        "variances instead of covariances: they do not add up to 1, as terms vary together": (
            own / total
        ),
        "variances made to add up: a term that works against the others must come out below 0": (
            own / own.sum()
        ),
        "absolute values: a share may be below 0": rows.abs() / rows.abs().sum(),
        "not divided: divide by the variance of the score": rows,
        "not divided: divide by the variance of the score, not by the number of pairs": rows / 49,
        "correlations: divide by the variance of the score, not by both deviations": (
            rows / (own * total).sqrt()
        ),
        "standard deviation: divide by the variance of the score": rows / 49 / (total / 49).sqrt(),
        "weights: shares are of the scores, before any softmax": weights / weights.sum(),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(
        close(got, rows / total), "not the shares: Cov(term, score) / Var(score), row means off"
    )
    many = torch.randn(2, 5, 5)
    seen = many - many.mean(-1, keepdim=True)
    expected = (seen * seen.sum(0)).sum((1, 2)) / seen.sum(0).square().sum()
    got = require_tensor(call(answer, many), (2,))
    require(close(got, expected), "right for four terms only: there may be any number of them")


@exercise("9.3", "LayerNorm, part by part", minutes=12, difficulty=2)
def norm_parts(answer):
    content, position = torch.randn(5, 8) + 0.5, 2 * torch.randn(5, 8) - 1
    g, b, eps = 1 + torch.rand(8), torch.randn(8), 0.1
    got = call(answer, content, position, g, b, eps)
    if isinstance(got, torch.Tensor) and got.dim() == 3:
        got = tuple(got)  # all parts in one tensor
    require(
        isinstance(got, (tuple, list)) and len(got) == 3,
        "not three parts: return content, position and rest",
    )
    for part in got[:2]:
        require_tensor(part, (5, 8))
    rest = require_tensor(got[2])
    require(
        tuple(rest.shape) in ((5, 8), (8,), (1, 8)),
        "a rest of another shape: it is b for every token",
    )
    got = (got[0], got[1], rest.expand(5, 8))
    z = content + position

    def sigma(t, e=eps, correction=0, axis=-1):
        return (t.var(axis, keepdim=True, correction=correction) + e).sqrt()

    def split(s_c, s_p=None, gain=g, centre=lambda t: t.mean(-1, keepdim=True)):
        s_p = s_c if s_p is None else s_p
        return tuple(gain * (t - centre(t)) / s for t, s in ((content, s_c), (position, s_p)))

    c, p = split(sigma(z))
    constant = b.expand(5, 8)
    mistakes = {
        "each its own σ: both parts are divided by the σ of the sum": (
            split(sigma(content), sigma(position)),
        ),
        "σ of the content alone: the sum is what LayerNorm divides by": (split(sigma(content)),),
        "σ of the position alone: the sum is what LayerNorm divides by": (split(sigma(position)),),
        "not divided: each part is divided by the σ of the sum": (split(torch.ones(5, 1)),),
        "variance instead of σ: take the root": (split(sigma(z) ** 2),),
        "divided by d − 1: LayerNorm's variance divides by d, correction=0": (
            split(sigma(z, correction=1)),
        ),
        "eps forgotten: it is added to the variance, under the root": (split(sigma(z, 0.0)),),
        "eps outside the root: it is added to the variance": (split(sigma(z, 0.0) + eps),),
        "g forgotten: every part is multiplied by it": (split(sigma(z), gain=1.0),),
        "means left in: each part loses its own mean": (
            split(sigma(z), centre=lambda t: torch.zeros(5, 1)),
        ),
        "mean of the sum taken off twice: each part loses its own mean": (
            split(sigma(z), centre=lambda t: z.mean(-1, keepdim=True)),
        ),
        "half of the mean of the sum: each part loses its own mean": (
            split(sigma(z), centre=lambda t: z.mean(-1, keepdim=True) / 2),
        ),
        "means over the tokens: LayerNorm works on each token by itself": (
            split(sigma(z, axis=0), centre=lambda t: t.mean(0)),
        ),
    }
    for name, ((w_c, w_p),) in mistakes.items():
        require(not (close(got[0], w_c) and close(got[1], w_p)), name)
    for name, wrong in {
        "b in the content: it belongs to the rest": (c + b, p, None),
        "b in the position: it belongs to the rest": (c, p + b, None),
        "b shared out: it belongs to the rest": (c + b / 2, p + b / 2, None),
        "b in every part: it would be counted more than once": (c + b, p + b, None),
        "parts exchanged: content first, then position": (p, c, None),
        "rest forgotten: it is b, for every token": (c, p, torch.zeros(5, 8)),
        "b multiplied by g: it is added as it is": (c, p, constant * g),
        "the whole result as the rest: the three parts must add up to LayerNorm": (
            c, p, c + p + constant,
        ),
        "b divided by σ: it is added after the division": (c, p, constant / sigma(z)),
    }.items():  # fmt: skip
        same = all(w is None or close(part, w) for part, w in zip(got, wrong, strict=True))
        require(not same, name)
    right = all(close(part, w) for part, w in zip(got, (c, p, constant), strict=True))
    gap = (sum(got) - torch.nn.functional.layer_norm(z, (8,), g, b, eps)).abs().max()
    require(
        right or gap > 1e-4,
        "not these parts: their sum is right, but each part must be g · (its own value − its own "
        "mean) / σ of the sum, and the rest b",
    )
    require(right, f"not the parts: their sum is off LayerNorm by up to {gap:.2g}")
    content, position = torch.randn(2, 3, 6)
    g, b, eps = 1 + torch.rand(6), torch.randn(6), 0.01
    got = [require_tensor(part) for part in call(answer, content, position, g, b, eps)]
    root = ((content + position).var(-1, keepdim=True, correction=0) + eps).sqrt()
    require(
        all(part.shape == t.shape and close(part, g * (t - t.mean(-1, keepdim=True)) / root)
            for part, t in zip(got[:2], (content, position), strict=True)),
        "right for one size only: take d from the input",
    )  # fmt: skip


@exercise("9.4", "No n × n matrix", minutes=15, difficulty=3)
def inner_product(answer):
    n, d = 60, 4
    q1, k1, q2, k2 = torch.randn(4, n, d) + 0.7
    with Largest() as largest:
        got = call(answer, q1, k1, q2, k2)
    if isinstance(got, float):
        got = torch.tensor(got)
    got = require_tensor(got)
    require(
        tuple(got.shape) != (d, d), "not summed: add up the products of the two (d, d) matrices"
    )
    require_tensor(got, ())
    c1, c2 = k1 - k1.mean(0), k2 - k2.mean(0)
    one, two = q1 @ k1.T, q2 @ k2.T

    def centred(matrix, axis):
        return matrix - matrix.mean(axis, keepdim=True)

    right = ((q1.T @ q2) * (c1.T @ c2)).sum()
    plain = ((q1.T @ q2) * (k1.T @ k2)).sum()
    mistakes = {
        "row means left in: take the mean key off all keys": plain,
        "column means taken off: that is the mean query; row means go with the keys": (
            centred(one, 0) * centred(two, 0)
        ).sum(),
        "mean of all pairs taken off: row means were meant": (
            (one - one.mean()) * (two - two.mean())
        ).sum(),
        "queries centred too: only the keys are": (
            ((q1 - q1.mean(0)).T @ (q2 - q2.mean(0))) * (c1.T @ c2)
        ).sum(),
        "mean over the features: the mean key is a mean over the tokens": (
            (q1.T @ q2)
            * ((k1 - k1.mean(1, keepdim=True)).T @ (k2 - k2.mean(1, keepdim=True)))
        ).sum(),
        "queries multiplied with keys: pair Q_1 with Q_2 and K_1 with K_2": (
            (q1.T @ c1) * (q2.T @ c2)
        ).sum(),
        "matrix product instead of entry by entry: the trace needs a transpose": (
            (q1.T @ q2) @ (c1.T @ c2)
        ).sum(),
        "matrix product and trace: one of the two must be transposed": (
            ((q1.T @ q2) @ (c1.T @ c2)).trace()
        ),
        "averaged: the sum over all pairs was asked for": right / n**2,
        "averaged: the sum over all entries was asked for": right / d**2,
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(
        close(got, right), "not the sum: compare with (q1 @ k1.T) and (q2 @ k2.T), row means off"
    )
    require(
        largest.numbers <= 4 * n * d,
        f"n × n numbers: your code held a tensor of {largest.numbers:,} numbers for n = {n}, more "
        f"than all its inputs together; {d} by {d} are enough",
    )
    q1, k1, q2, k2 = torch.randn(4, 7, 3)
    c1, c2 = k1 - k1.mean(0), k2 - k2.mean(0)
    got = call(answer, q1, k1, q2, k2)
    require(
        close(torch.as_tensor(got), ((q1.T @ q2) * (c1.T @ c2)).sum()),
        "right for one size only: take n and d from the input",
    )
