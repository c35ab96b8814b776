"""Checks of notebook 07, sinusoidal positions."""

import math

import torch

from attnlab.exercises.n01 import close
from attnlab.positions import Sinusoidal
from attnlab.positions.absolute import frequencies
from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("7.1", "The slowest pair", minutes=4, difficulty=1)
def longest_wavelength(answer):
    value = require_number(answer)
    d, turn = 128, 2 * math.pi
    mistakes = {
        "positions per radian: a whole turn is 2π times as long": 10_000 ** (1 - 2 / d),
        "the base is no wavelength: start from the frequency of the last pair": 10_000,
        "the limit for large d: the last pair is number d/2 - 1, its exponent is 1 - 2/d": (
            turn * 10_000
        ),
        "i counts pairs: the exponent of pair i is 2i/d, not i/d": turn * 10_000 ** (63 / d),
        "i counts pairs: there are 64, and the exponent of the last is 2·63/d": (
            turn * 10_000 ** (1 - 1 / d)
        ),
        "the fastest pair: you took i = 0": turn,
        "a frequency: you have radians per position; the turn is 2π divided by it": (
            10_000 ** -(1 - 2 / d)
        ),
        "upside down: divide 2π by the frequency": 10_000 ** -(1 - 2 / d) / turn,
        "half a turn: the sine is back after 2π, not π": math.pi * 10_000 ** (1 - 2 / d),
    }
    for name, number in mistakes.items():
        require(abs(value / number - 1) > 0.004, name)
    right = turn * 10_000 ** (1 - 2 / d)
    require(abs(value - right) < 1, "not the wavelength: 2π/ω of the last pair, to a whole number")


@exercise("7.2", "The table without loops", minutes=10, difficulty=2)
def sinusoidal(answer):
    p, d, base = torch.tensor([0.0, 1.0, 2.0, 3.5, 100.0, 7.0, 11.0]), 6, 10_000.0
    got = require_tensor(call(answer, p, d, base))
    require(
        tuple(got.shape) != (d, len(p)),
        "transposed: a row for each position, a column for each feature",
    )
    require(
        tuple(got.shape) != (len(p), d // 2),
        "half of the features: each pair has a sine and a cosine",
    )
    require(
        tuple(got.shape) != (len(p), d // 2, 2),
        "pairs not glued: flatten the last two axes to (n, d)",
    )
    require_tensor(got, (len(p), d))
    i = torch.arange(0, d, 2)

    def table(omega, first="sin", p=p):
        a = p[:, None] * omega
        pair = [a.sin(), a.cos()] if first == "sin" else [a.cos(), a.sin()]
        return torch.stack(pair, dim=-1).flatten(-2)

    omega = base ** (-i / d)
    angles = p[:, None] * omega
    column = torch.arange(d)
    own = p[:, None] * base ** (-column / d)  # each column with a frequency of its own
    twice = p[:, None] * base ** (-2 * column / d)
    per_column = [torch.where(column % 2 == 0, a.sin(), a.cos()) for a in (own, twice)]
    mistakes = {
        "multiplied instead of divided: the frequencies are base to the power of -2i/d": table(
            base ** (i / d)
        ),
        "sines and cosines in halves: they alternate, sine in column 2i, cosine in 2i + 1": (
            torch.cat([angles.sin(), angles.cos()], dim=-1)
        ),
        "cosine first: the even columns hold the sines": table(omega, "cos"),
        "2 forgotten: pair i has the exponent -2i/d, and ends near -1": table(base ** (-i / 2 / d)),
        "2 too many: the numbers 0, 2, 4, … are 2i already": table(base ** (-2 * i / d)),
        "a frequency for each column: i counts pairs, a sine and its cosine share one": (
            per_column[0]
        ),
        "a frequency for each column: i counts pairs and ends at d/2 - 1": per_column[1],
        "positions from 1: position 0 has the code 0, 1, 0, 1, …": table(omega, p=p + 1),
        "full turns: the angle is p·ω in radians, without 2π": table(2 * math.pi * omega),
        "degrees: sin and cos take radians": table(omega * math.pi / 180),
        "exponent over d/2 - 1: it is divided by d, so the last pair ends short of 1/base": table(
            base ** (-torch.arange(d // 2) / (d // 2 - 1))
        ),
        "sines only: the odd columns hold the cosines of the same angles": (
            angles.sin().repeat_interleave(2, dim=-1)
        ),
        "row numbers instead of positions: use the positions that are given": table(
            omega, p=torch.arange(len(p)).float()
        ),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(close(got, table(omega)), "not the table: compare row 1 with sin and cos of 1·ω")
    other = require_tensor(call(answer, p, 8, 100.0), (len(p), 8))
    expected = Sinusoidal(8, 100.0).table(p)
    require(
        not close(other, Sinusoidal(8).table(p)),
        "base ignored: the frequencies are powers of the base that is given",
    )
    require(close(other, expected), "right for one size only: take d and base as they are given")


@exercise("7.3", "Move a code", minutes=10, difficulty=2)
def shift_matrix(answer):
    k, d, base = 3, 6, 10_000.0
    got = require_tensor(call(answer, k, d, base), (d, d)).double()
    angles = k * frequencies(d, base)

    def blocks(a, b, c, d_):
        """The 2 × 2 blocks (a b; c d_) on the diagonal; each is (d/2,)."""
        rows = torch.stack([torch.stack([a, b], -1), torch.stack([c, d_], -1)], -2)
        return torch.block_diag(*rows)

    cos, sin = angles.cos(), angles.sin()
    right = blocks(cos, sin, -sin, cos)
    halves = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])
    one = frequencies(d, base)
    first = angles[:1].expand(d // 2)
    multiplied = k / frequencies(d, base)
    mistakes = {
        "moves back: your matrix is that of -k; which row has the minus sign?": right.T,
        "no minus sign: cos(a + b) = cos a cos b - sin a sin b": blocks(cos, sin, sin, cos),
        "sine and cosine changed places: at k = 0 nothing may move": blocks(sin, cos, -cos, sin),
        "layout in halves: pair i owns the neighbouring rows 2i and 2i + 1": right[halves][
            :, halves
        ],
        "only the diagonal: each block needs its sines too": blocks(cos, 0 * sin, 0 * sin, cos),
        "one step only: the angle is k times the frequency": blocks(
            one.cos(), one.sin(), -one.sin(), one.cos()
        ),
        "one angle for all pairs: pair i turns by its own k·ω_i": blocks(
            first.cos(), first.sin(), -first.sin(), first.cos()
        ),
        "multiplied instead of divided: the frequency is base to the power of -2i/d": blocks(
            multiplied.cos(), multiplied.sin(), -multiplied.sin(), multiplied.cos()
        ),
        "nothing moves: that is the identity, M of k = 0": torch.eye(d, dtype=got.dtype),
        "both minus signs: only the sine of the lower row is negative": blocks(
            cos, -sin, -sin, cos
        ),
    }
    for name, wrong in mistakes.items():
        require((got - wrong).abs().max() > 2e-3, name)
    require((got - right).abs().max() < 1e-4, "not M_k: test PE_(p+k) = M_k PE_p for a few p")
    for k, d, base in ((-7, 8, 100.0), (0, 2, 10_000.0)):
        m = require_tensor(call(answer, k, d, base), (d, d)).double()
        p = torch.arange(10, 40)
        encoding = Sinusoidal(d, base)
        error = encoding.table(p, m.dtype) @ m.T - encoding.table(p + k, m.dtype)
        require(
            error.abs().max() < 1e-4,
            "right for one size only: take k, d and base as they are given; k may be negative",
        )


@exercise("7.4", "The distance tool, mended", minutes=10, difficulty=2)
def distances(answer):
    most, d, base = 50, 8, 10_000.0
    result = call(answer, most, d, base)
    if isinstance(result, torch.Tensor) and result.is_floating_point():
        require(
            not (result.dim() == 1 and result[:1].isnan().all() and len(result) > 1),
            "root of a rounding error: at k = 0 the sum may come out a little below 0; clamp it",
        )
    got = require_tensor(result)
    require(not got.is_complex(), "complex numbers: a distance is real")
    got = got.double()
    require(
        tuple(got.shape) != (most,),
        "one short: offsets 0 to most are most + 1 numbers, the last one included",
    )
    require_tensor(got, (most + 1,))
    k = torch.arange(most + 1, dtype=torch.float64)
    cosines = (k[:, None] * frequencies(d, base)).cos()
    g = cosines.sum(-1)
    right = (d - 2 * g).clamp_min(0).sqrt()
    with_k1 = ((k + 1)[:, None] * frequencies(d, base)).cos().sum(-1)
    mistakes = {
        "squared: the distance is the root": d - 2 * g,
        "dot product: that is the sum of cosines; the distance is asked for": g,
        "2 forgotten: D² = |a|² + |b|² - 2 a·b": (d - g).sqrt(),
        "half of it: |a|² and |b|² are d/2 each, together d": (d / 2 - g).clamp_min(0).sqrt(),
        "mean instead of sum: add up the cosines of all pairs": (d - 2 * cosines.mean(-1)).sqrt(),
        "offsets from 1: the first distance is D(0) = 0": (d - 2 * with_k1).sqrt(),
        "plus sign: D² = d - 2·(sum of cosines)": (d + 2 * g).sqrt(),
        "sines: codes are compared by the cosines of k·ω": (
            (d - 2 * (k[:, None] * frequencies(d, base)).sin().sum(-1)).clamp_min(0).sqrt()
        ),
    }
    for name, wrong in mistakes.items():
        require((got - wrong).abs().max() > 1e-3, name)
    require((got - right).abs().max() < 2e-3, "not the distances: compare D(1) with two codes")
    for most, d, base in ((0, 4, 10_000.0), (20, 16, 100.0)):
        other = require_tensor(call(answer, most, d, base), (most + 1,)).double()
        table = Sinusoidal(d, base).table(torch.arange(most + 1), torch.float64)
        expected = (table - table[0]).norm(dim=-1)
        require(
            (other - expected).abs().max() < 2e-3,
            "right for one size only: take most, d and base as they are given",
        )


@exercise("7.5", "Look back, at any length", minutes=15, difficulty=3)
def look_back(answer):
    back, d, base = 3, 32, 10_000.0
    encoding = Sinusoidal(d, base)
    w = require_tensor(call(answer, back, d, base), (d, d)).double()

    def found(w, start, encoding=encoding, n=64):
        """For each query from `start` on, how far before it its best key lies."""
        table = encoding.table(torch.arange(start, start + n), torch.float64)
        best = (table @ w @ table.T).argmax(-1)
        return torch.arange(n) - best

    early, late = found(w, 0), found(w, 10_000)
    inside = slice(8, 56)  # queries that have keys on both sides
    require(
        not (early[inside] == -back).all(),
        "looks ahead: your best key stands after the query; PE is a row here, not a column",
    )
    require(
        not (early[inside] == 0).all(),
        "looks at itself: W must move the code of the query, the identity does not",
    )
    steps = early[inside].unique()
    require(
        len(steps) > 1 or steps.item() == back,
        f"the wrong step: your best key is always {int(steps[0])} back, {back} were asked for",
    )
    require(
        not ((early[inside] == back).all() and not (late[inside] == back).all()),
        "right at the start only: at position 10,000 it misses; no fit to some positions will do, "
        "use the matrix that moves every code",
    )
    require(
        (early[inside] == back).all(),
        "not always that key: the best key is not equally far back for all queries",
    )
    for back, d, base in ((1, 16, 10_000.0), (5, 64, 10_000.0), (2, 32, 100.0)):
        w = require_tensor(call(answer, back, d, base), (d, d)).double()
        got = found(w, 0, Sinusoidal(d, base))[inside]
        require(
            (got == back).all(),
            "right for one size only: take back, d and base as they are given",
        )
