"""Right and wrong answers to the exercises of notebook 07."""

import math

import torch

from banks import Bank


def frequencies(d, base):
    return base ** (-torch.arange(0, d, 2) / d)


def codes(p, d, base, omega=None):
    angles = p[:, None] * (frequencies(d, base) if omega is None else omega)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def codes_by_slices(p, d, base):
    table = torch.zeros(len(p), d)
    angles = torch.outer(p, torch.exp(-math.log(base) * torch.arange(0, d, 2) / d))
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table


def codes_by_phase(p, d, base):
    """A cosine is a sine a quarter turn ahead."""
    column = torch.arange(d)
    angles = p[:, None] * base ** (-(column - column % 2) / d)
    return (angles + (column % 2) * math.pi / 2).sin()


def codes_by_column(p, d, base, step):
    column = torch.arange(d)
    angles = p[:, None] * base ** (-step * column / d)
    return torch.where(column % 2 == 0, angles.sin(), angles.cos())


def shift(k, d, base, block=None, omega=None):
    block = block or (lambda c, s: [[c, s], [-s, c]])
    omega = frequencies(d, base) if omega is None else omega
    parts = [torch.tensor(block(math.cos(k * w), math.sin(k * w))) for w in omega.tolist()]
    return torch.block_diag(*parts)


def shift_by_solving(k, d, base):
    """Find the matrix from codes before and after: positions are spread over the slow waves."""
    p = torch.arange(0, 40_000, 7).double()
    before = codes(p, d, base, frequencies(d, base).double())
    after = codes(p + k, d, base, frequencies(d, base).double())
    return torch.linalg.lstsq(before, after).solution.T


def shift_in_halves(k, d, base):
    c, s = (k * frequencies(d, base)).cos().diag(), (k * frequencies(d, base)).sin().diag()
    return torch.cat([torch.cat([c, s], 1), torch.cat([-s, c], 1)], 0)


def squares(most, d, base, shift=0):
    k = torch.arange(most + 1)[:, None] + shift
    return (k * frequencies(d, base)).cos().sum(-1)


def curve(most, d, base):
    return (d - 2 * squares(most, d, base)).clamp(min=0).sqrt()


def curve_by_half_angles(most, d, base):
    k = torch.arange(most + 1)[:, None]
    return 2 * (k * frequencies(d, base) / 2).sin().norm(dim=-1)


def curve_without_clamp(most, d, base):
    """What rounding may do at k = 0: slightly below zero."""
    return (d - 1e-6 - 2 * squares(most, d, base)).sqrt()


def fitted(back, d, base):
    """The W that least squares finds from the codes of the first 24 positions."""
    p = torch.arange(back, 64)
    here, there = codes(p, d, base), codes(p - back, d, base)
    return torch.linalg.lstsq(here + 0.01 * torch.randn(here.shape), there).solution


def one_pair(back, d, base):
    """The fastest pair alone: no two positions share it."""
    keep = torch.zeros(d, d)
    keep[:2, :2] = shift(back, d, base)[:2, :2]
    return keep


def projections(back, d, base):
    """W_Q moves half of the way, W_K the other half."""
    return shift(back - back // 2, d, base) @ shift(-(back // 2), d, base).T


D = 128
LONGEST = 2 * math.pi * 10_000 ** (1 - 2 / D)
BANK = {
    "7.1": Bank(
        right=[LONGEST, round(LONGEST), 2 * math.pi / 10_000 ** (-126 / 128)],
        wrong={
            "positions-per-radian": 10_000 ** (1 - 2 / D),
            "the-base-is-no-wavelength": 10_000,
            "the-limit-for-large-d": 2 * math.pi * 10_000,
            "i-counts-pairs": 2 * math.pi * 10_000 ** (63 / D),
            "i-counts-pairs#2": 2 * math.pi * 10_000 ** (127 / D),
            "the-fastest-pair": 2 * math.pi,
            "a-frequency": 10_000 ** (-126 / 128),
            "upside-down": 10_000 ** (-126 / 128) / (2 * math.pi),
            "half-a-turn": LONGEST / 2,
            "not-the-wavelength": 1000.0,
        },
    ),
    "7.2": Bank(
        right=[codes, codes_by_slices, codes_by_phase],
        wrong={
            "transposed": lambda p, d, b: codes(p, d, b).T.contiguous(),
            "half-of-the-features": lambda p, d, b: codes(p, d, b)[:, ::2],
            "pairs-not-glued": lambda p, d, b: codes(p, d, b).unflatten(-1, (-1, 2)),
            "multiplied-instead-of-divided": lambda p, d, b: codes(p, d, b, 1 / frequencies(d, b)),
            "sines-and-cosines-in-halves": lambda p, d, b: torch.cat(
                [codes(p, d, b)[:, ::2], codes(p, d, b)[:, 1::2]], dim=-1
            ),
            "cosine-first": lambda p, d, b: (
                codes(p, d, b).unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
            ),
            "2-forgotten": lambda p, d, b: codes(p, d, b, b ** (-torch.arange(d // 2) / d)),
            "2-too-many": lambda p, d, b: codes(p, d, b, b ** (-2 * torch.arange(0, d, 2) / d)),
            "a-frequency-for-each-column": lambda p, d, b: codes_by_column(p, d, b, 1),
            "a-frequency-for-each-column#2": lambda p, d, b: codes_by_column(p, d, b, 2),
            "positions-from-1": lambda p, d, b: codes(p + 1, d, b),
            "full-turns": lambda p, d, b: codes(2 * math.pi * p, d, b),
            "degrees": lambda p, d, b: codes(p.deg2rad(), d, b),
            "exponent-over-d-2-1": lambda p, d, b: codes(
                p, d, b, b ** (-torch.arange(d // 2) / (d // 2 - 1))
            ),
            "sines-only": lambda p, d, b: codes(p, d, b)[:, ::2].repeat_interleave(2, dim=-1),
            "row-numbers-instead-of-positions": lambda p, d, b: codes(
                torch.arange(len(p)).float(), d, b
            ),
            "not-the-table": lambda p, d, b: 2 * codes(p, d, b),
            "base-ignored": lambda p, d, b: codes(p, d, 10_000.0),
            "right-for-one-size-only": lambda p, d, b: codes(
                p, d, b, b ** (-torch.arange(0, d, 2) / 6)
            ),
        },
    ),
    "7.3": Bank(
        right=[shift, shift_by_solving],
        wrong={
            "moves-back": lambda k, d, b: shift(k, d, b).T.contiguous(),
            "moves-back#2": lambda k, d, b: shift(-k, d, b),
            "no-minus-sign": lambda k, d, b: shift(k, d, b, lambda c, s: [[c, s], [s, c]]),
            "both-minus-signs": lambda k, d, b: shift(k, d, b, lambda c, s: [[c, -s], [-s, c]]),
            "sine-and-cosine-changed-places": lambda k, d, b: shift(
                k, d, b, lambda c, s: [[s, c], [-c, s]]
            ),
            "layout-in-halves": shift_in_halves,
            "only-the-diagonal": lambda k, d, b: shift(k, d, b, lambda c, s: [[c, 0.0], [0.0, c]]),
            "one-step-only": lambda k, d, b: shift(1, d, b),
            "one-angle-for-all-pairs": lambda k, d, b: shift(k, d, b, omega=torch.ones(d // 2)),
            "multiplied-instead-of-divided": lambda k, d, b: shift(
                k, d, b, omega=1 / frequencies(d, b).double()
            ),
            "nothing-moves": lambda k, d, b: torch.eye(d),
            "not-m-k": lambda k, d, b: 2 * shift(k, d, b),
            "right-for-one-size-only": lambda k, d, b: shift(abs(k), d, b),
            "right-for-one-size-only#2": lambda k, d, b: shift(k, d, 10_000.0),
        },
    ),
    "7.4": Bank(
        right=[curve, curve_by_half_angles],
        wrong={
            "root-of-a-rounding-error": curve_without_clamp,
            "one-short": lambda m, d, b: curve(m, d, b)[:-1],
            "squared": lambda m, d, b: d - 2 * squares(m, d, b),
            "dot-product": squares,
            "2-forgotten": lambda m, d, b: (d - squares(m, d, b)).sqrt(),
            "half-of-it": lambda m, d, b: (d / 2 - squares(m, d, b)).clamp(min=0).sqrt(),
            "mean-instead-of-sum": lambda m, d, b: (
                (d - 2 * squares(m, d, b) / (d // 2)).clamp(min=0).sqrt()
            ),
            "offsets-from-1": lambda m, d, b: (d - 2 * squares(m, d, b, 1)).sqrt(),
            "plus-sign": lambda m, d, b: (d + 2 * squares(m, d, b)).sqrt(),
            "sines": lambda m, d, b: (
                (d - 2 * (torch.arange(m + 1)[:, None] * frequencies(d, b)).sin().sum(-1))
                .clamp(min=0)
                .sqrt()
            ),
            "complex-numbers": lambda m, d, b: curve(m, d, b) + 0j,
            "not-the-distances": lambda m, d, b: 3 * curve(m, d, b),
            "right-for-one-size-only": lambda m, d, b: curve(m, d, 10_000.0),
        },
    ),
    "7.5": Bank(
        right=[shift, projections, one_pair, lambda k, d, b: 7 * shift(k, d, b)],
        wrong={
            "looks-ahead": lambda k, d, b: shift(k, d, b).T.contiguous(),
            "looks-ahead#2": lambda k, d, b: shift(-k, d, b),
            "looks-at-itself": lambda k, d, b: torch.eye(d),
            "the-wrong-step": lambda k, d, b: shift(2 * k, d, b),
            "the-wrong-step#2": lambda k, d, b: shift(k - 1, d, b),
            "right-at-the-start-only": fitted,
            "not-always-that-key": lambda k, d, b: torch.randn(d, d),
            "right-for-one-size-only": lambda k, d, b: shift(3, d, b),
            "right-for-one-size-only#2": lambda k, d, b: shift(k, d, 10_000.0),
        },
    ),
}
