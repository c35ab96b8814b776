"""Checks of notebook 12, beyond the training length."""

import math

import torch

from attnlab.exercises.n01 import close
from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("12.1", "Excess by position", minutes=8, difficulty=1)
def excess_blocks(answer):
    best = 1 + torch.rand(3, 12)
    loss = best + torch.rand(3, 12) + torch.arange(12) / 4
    over = loss - best
    expected = over.view(3, 3, 4).mean(dim=(0, 2))
    got = require_tensor(call(answer, loss, best, 4))
    require(
        tuple(got.shape) != (3, 3) or close(got, expected),
        "texts kept apart: take the mean over the texts too",
    )
    require(tuple(got.shape) != (), "one number for all: give one for each block of positions")
    require(tuple(got.shape) != (12,), "one number for each token: take blocks of `width` tokens")
    require(
        tuple(got.shape) != (4,),
        "width taken for the number of blocks: there are n // width blocks of width tokens",
    )
    require_tensor(got, (3,))
    mistakes = {
        "best loss ignored: subtract what no model can avoid": loss.view(3, 3, 4).mean(dim=(0, 2)),
        "sign: excess is the loss minus the best": -expected,
        "every third token: a block holds tokens that stand side by side": over.view(
            3, 4, 3
        ).mean(dim=(0, 1)),
        "sum instead of mean: blocks of another width could not be compared": over.view(
            3, 3, 4
        ).sum(dim=(0, 2)),
        "summed over the tokens: take the mean over them too": over.mean(0).view(3, 4).sum(1),
        "summed over the texts: take the mean over them too": over.sum(0).view(3, 4).mean(1),
        "texts instead of positions: a block runs over positions": over.mean(1),
        "running total: block 1 begins after block 0 ends": torch.stack(
            [over[:, : 4 * (i + 1)].mean() for i in range(3)]
        ),
        "a ratio: excess is a difference": (loss / best).view(3, 3, 4).mean(dim=(0, 2)),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(close(got, expected), "not these means: compare your block 0 with tokens 0 … width − 1")
    try:
        got = call(answer, loss, best, 5)
    except RuntimeError:
        got = None
    short = torch.stack([over[:, :5].mean(), over[:, 5:10].mean()])
    if isinstance(got, torch.Tensor) and tuple(got.shape) == (2,):
        require(
            not close(got, over.view(3, 2, 6).mean(dim=(0, 2))),
            "blocks too wide: with width 5 a block holds 5 tokens, not half of the 12",
        )
        require(
            not close(got, torch.stack([over[:, 2:7].mean(), over[:, 7:].mean()])),
            "first tokens left out: block 0 begins at token 0; the rest is at the end",
        )
    require(
        isinstance(got, torch.Tensor) and tuple(got.shape) == (2,) and close(got, short),
        "last block not left out: 12 tokens hold two blocks of 5, and 2 tokens that fill none",
    )


@exercise("12.2", "Squeeze positions", minutes=8, difficulty=1)
def squeeze(answer):
    got = require_tensor(call(answer, 8, 4), (8,)).double()
    place = torch.arange(8, dtype=torch.float64)
    mistakes = {
        "not squeezed: position 7 is beyond a training range of 4": place,
        "stretched: divide by n / trained, do not multiply": 2 * place,
        "rounded: positions between whole numbers are the point": (place / 2).floor(),
        "rounded: positions between whole numbers are the point, not the nearest whole ones": (
            (place / 2).round()
        ),
        "rounded: positions between whole numbers are the point, do not round up": (
            (place / 2).ceil()
        ),
        "counted from 1: the first token stands at position 0": (place + 1) / 2,
        "cut off: far positions must stay different from each other": place.clamp(max=3),
        "wrapped around: positions 0 and 4 must not be the same": place % 4,
        "divided by trained: the factor is n / trained": place / 4,
        "divided by n: the factor is n / trained": place / 8,
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    last = 3 * place / 7
    require(close(got, place / 2) or close(got, last), "not squeezed evenly: position 2 becomes 1")
    short = require_tensor(call(answer, 3, 4), (3,)).double()
    require(close(short, place[:3]), "short texts changed: 3 tokens fit as they are")
    place = torch.arange(9, dtype=torch.float64)
    odd = require_tensor(call(answer, 9, 4), (9,)).double()
    require(
        not close(odd, place / 2) and not close(odd, place / 3),
        "whole factors only: n / trained is 2.25 for 9 tokens and 4",
    )
    require(
        close(odd, place / 2.25) or close(odd, 3 * place / 8),
        "right for one length only: the factor is n / trained",
    )


@exercise("12.3", "How far ALiBi looks", minutes=10, difficulty=2)
def reach(answer):
    cases = [(2.0**-k, share) for k in range(1, 9) for share in (0.5, 0.9, 0.99)]
    got = [require_number(call(answer, m, share)) for m, share in cases]

    def by(rule):
        return all(
            math.isclose(g, rule(m, share), rel_tol=1e-6)
            for g, (m, share) in zip(got, cases, strict=True)
        )

    def exact(m, share):
        return -math.log(1 - share) / m

    mistakes = {
        "not rounded up: there is no part of a token": exact,
        "one too few: round up, and count the query's own token": lambda m, s: math.floor(
            exact(m, s)
        ),
        "rounded to the nearest: then the share may not be reached": lambda m, s: round(
            exact(m, s)
        ),
        "one too many: the query's own token is among them already": lambda m, s: (
            math.ceil(exact(m, s)) + 1
        ),
        "share of the largest weight: where the weight has fallen to `share` is another question":
            lambda m, s: math.ceil(-math.log(s) / m),
        "mean lookback: 1/m does not depend on the share": lambda m, s: math.ceil(1 / m),
        "base 2: the weights fall by e^-m": lambda m, s: math.ceil(-math.log2(1 - s) / m),
        "base 10: the weights fall by e^-m": lambda m, s: math.ceil(-math.log10(1 - s) / m),
        "slope multiplied: a steeper slope looks less far": lambda m, s: math.ceil(
            -math.log(1 - s) * m
        ),
    }  # fmt: skip
    for name, rule in mistakes.items():
        require(not by(rule), name)
    fixed = all(
        g == math.ceil(exact(m, 0.9)) for g, (m, share) in zip(got, cases, strict=True)
    )
    require(not fixed, "always 90 %: use the argument `share`")
    require(
        by(lambda m, s: math.ceil(exact(m, s))),
        "not the smallest number: for m = 1/2 and 90 % it is 5, since 1 - e^(-5/2) is 0.92",
    )


@exercise("12.4", "A margin that keeps up", minutes=8, difficulty=2)
def margin(answer):
    cases = [(32, 0.9), (512, 0.9), (512, 0.3), (2, 0.5)]
    got = [require_number(call(answer, n, weight)) for n, weight in cases]

    def by(rule):
        return all(
            math.isclose(g, rule(n, a), rel_tol=1e-4, abs_tol=1e-6)
            for g, (n, a) in zip(got, cases, strict=True)
        )

    odds = lambda a: a / (1 - a)  # noqa: E731
    mistakes = {
        "n instead of n - 1: the token itself is not among the others": lambda n, a: math.log(
            odds(a) * n
        ),
        "logarithm forgotten: e^Δ is that large, not Δ": lambda n, a: odds(a) * (n - 1),
        "odds upside down: a larger weight needs a larger margin": lambda n, a: math.log(
            (n - 1) / odds(a)
        ),
        "other tokens forgotten: they are n - 1": lambda n, a: math.log(odds(a)),
        "sign: its score is higher, not lower": lambda n, a: -math.log(odds(a) * (n - 1)),
        "weight for odds: divide by 1 - weight": lambda n, a: math.log(a * (n - 1)),
        "base 2: the softmax has base e": lambda n, a: math.log2(odds(a) * (n - 1)),
        "base 10: the softmax has base e": lambda n, a: math.log10(odds(a) * (n - 1)),
        "divided by n - 1: more others need a larger margin": lambda n, a: math.log(
            odds(a) / (n - 1)
        ),
    }
    for name, rule in mistakes.items():
        require(not by(rule), name)
    require(
        by(lambda n, a: math.log(odds(a) * (n - 1))),
        "not that weight: put your margin into softmax and look",
    )


@exercise("12.5", "An honest verdict", minutes=8, difficulty=2)
def verdict(answer):
    def said(a, b):
        result = call(answer, list(a), list(b))
        require(
            isinstance(result, str) and result in ("A", "B", "open"),
            'not one of the three words: return "A", "B" or "open"',
        )
        return result

    apart, other = ([0.1, 0.2, 0.15], [0.3, 0.5, 0.35]), ([0.9, 1.2], [0.4, 0.5, 0.3])
    require(
        (said(*apart), said(*other)) != ("B", "A"),
        "higher wins: these are losses, and lower is better",
    )
    require(said(*apart) == "A", "no verdict for A: every run of A is below every run of B")
    require(said(*other) == "B", "no verdict for B: every run of B is below every run of A")
    overlap = ([0.6, 0.1, 0.1], [0.5, 0.5, 0.9]), ([0.3, 0.4], [0.1, 0.9]), (
        [0.1, 0.1, 0.9], [0.5, 0.5, 0.6])  # fmt: skip
    for end in (min, max):
        require(
            any(said(a, b) != ("A" if end(a) < end(b) else "B") for a, b in overlap),
            "best or worst alone: both ends of both ranges count",
        )
    for a, b in ([0.6, 0.1, 0.1], [0.5, 0.5, 0.9]), ([0.1, 0.5, 0.9], [0.6, 0.7, 0.8]):
        require(
            said(a, b) == "open",
            "averages compared: whatever mean or median say, a run of A is worse than runs of B",
        )
    require(
        said([0.1, 0.9], [0.2, 0.95]) == "open",
        "seed by seed: any run of A must be ahead of any run of B, not only of its own seed's",
    )
    require(
        said([0.3, 0.4], [0.1, 0.9]) == "open",
        "best or worst alone: both ends of both ranges count",
    )
    require(
        said([0.0] * 9 + [0.5], [0.45] + [0.95] * 9) == "open",
        "runs weighed, not compared: one run of A is worse than one of B, whatever the means, the "
        "spread or most pairs say",
    )
    require(said([0.1, 0.2], [0.21, 0.3]) == "A", "a margin asked for: every run ahead is enough")
    require(said([0.1, 0.2], [0.2, 0.3]) == "open", "a tie won: equal losses do not win")
    require(
        said([0.4, 0.9], [0.1, 0.5]) == "open",
        "only one side checked: B's worst run is behind A's best",
    )


@exercise("12.6", "A bias of your own", minutes=15, difficulty=3)
def own_bias(answer):
    made = {n: require_tensor(call(answer, n), (n,)).double() for n in (64, 1024, 4096)}
    bias = made[1024]
    require(
        (made[4096][:1024] - bias).abs().max() < 1e-4 and (bias[:64] - made[64]).abs().max() < 1e-4,
        "depends on the length: distance d must get the same number in a text of any length",
    )
    weights = bias.softmax(0)
    near = weights[:32].sum().item()
    needle = bias.clone()
    needle[900] += 9  # a key that fits the query, 900 tokens back
    found = needle.softmax(0)[900].item()
    require(
        (bias - bias[0]).abs().max() > 1e-9,
        "no bias: all distances are alike: the nearest 32 of 1,024 tokens have 3 % of the weight",
    )
    require(weights[0] >= weights[-1], "distance rewarded: near keys must get more, not less")
    require(
        near >= 0.5 or found < 0.4,
        f"too flat: the nearest 32 of 1,024 tokens have {near:.0%} of the weight, half is wanted",
    )
    require(
        found >= 0.4 or near < 0.5,
        f"too steep: a key 900 tokens back whose score is higher by 9 gets {found:.0%} of the "
        "weight, 40 % is wanted; how far may the bias fall?",
    )
    require(near >= 0.5 and found >= 0.4, "neither near nor far: half of the weight on the nearest "
            f"32 (yours: {near:.0%}), and 40 % on the needle (yours: {found:.0%})")  # fmt: skip
