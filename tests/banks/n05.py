"""Right and wrong answers to the exercises of notebook 05."""

import math

import torch
import torch.nn.functional as F

from attnlab.exercises.n05 import dilated
from banks import Bank

RIGHT = 2 * 48 * 4096 * 8 * 128 * 2


def by_loop(n, w, s):
    mask = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(i, -1, -s):
            if i - j <= w:
                mask[i, j] = True
    return mask


def by_diagonals(n, w, s):
    total = torch.zeros(n, n)
    for offset in range(0, min(w, n - 1) + 1, s):
        total += torch.diag(torch.ones(n - offset), -offset)
    return total > 0


def wrong_mask(**how):
    return lambda n, w, s: dilated(n, w, s, **how)


def by_steps(n, w):
    first, layers = n - 1, 0
    while first > 0:
        first, layers = first - w, layers + 1
    return layers


def by_powers(n, w):
    return 0 if n == 1 else math.ceil(round(math.log(n) / math.log(w + 1), 9))


def pooled(w, n_kv):
    return w.unflatten(0, (n_kv, -1)).mean(1)


def pooled_by_loop(w, n_kv):
    size = len(w) // n_kv
    return torch.stack([sum(w[g * size : (g + 1) * size]) / size for g in range(n_kv)])


def pooled_by_matrix(w, n_kv):
    groups = F.one_hot(torch.arange(len(w)) // (len(w) // n_kv), n_kv).float()
    return torch.einsum("hg,hde->gde", groups / groups.sum(0), w)


BANK = {
    "5.1": Bank(
        right=[
            lambda i, h, g: i // (h // g),
            lambda i, h, g: i * g // h,
            lambda i, h, g: torch.arange(g).repeat_interleave(h // g)[i],
        ],
        wrong={
            "dealt-out-in-turn": lambda i, h, g: i % g,
            "place-within-the-group": lambda i, h, g: i % (h // g),
            "divided-by-the-number-of-groups": lambda i, h, g: i // g,
            "its-own": lambda i, h, g: i,
            "not-a-whole-number": lambda i, h, g: i * g / h,
            "not-a-whole-number#2": lambda i, h, g: i / (h // g),
            "no-such-head": lambda i, h, g: i // (h // g) + 1,
            "not-the-groups": lambda i, h, g: g - 1 - i // (h // g),
        },
    ),
    "5.2": Bank(
        right=[RIGHT, 4096 * 48 * 8 * 128 * 4, 3 * 2**28, torch.tensor(RIGHT)],
        wrong={
            "half-of-it": RIGHT // 2,
            "a-quarter-of-it": RIGHT // 4,
            "query-heads": RIGHT * 5,
            "query-heads-and-half-of-it": RIGHT * 5 // 2,
            "bits": RIGHT * 8,
            "four-bytes": RIGHT * 2,
            "one-layer": RIGHT // 48,
            "one-token": RIGHT // 4096,
            "one-head": RIGHT // 8,
            "mib-not-bytes": 768,
            "megabytes-not-bytes": RIGHT / 1e6,
            "megabytes-not-bytes#2": 805.3,  # rounded
            "gib-not-bytes": 0.75,
            "gigabytes-not-bytes": 0.805,
            "kib-not-bytes": RIGHT / 1024,
            "not-the-count": RIGHT + 1,
        },
    ),
    "5.3": Bank(
        right=[dilated, by_loop, by_diagonals],
        wrong={
            "the-wrong-way-round": lambda n, w, s: ~dilated(n, w, s),
            "not-boolean": lambda n, w, s: dilated(n, w, s).float(),
            "not-boolean#2": lambda n, w, s: torch.where(dilated(n, w, s), 0.0, -math.inf),
            "width-in-steps": wrong_mask(steps=True),
            "not-causal": wrong_mask(causal=False),
            "not-causal-and-width-in-steps": wrong_mask(causal=False, steps=True),
            "one-too-few": wrong_mask(strict=True),
            "without-itself": wrong_mask(swap=True),
            "fixed-grid": wrong_mask(grid=True),
            "looks-ahead": wrong_mask(forward=True),
            "no-dilation": lambda n, w, s: dilated(n, w, 1),
            "no-width": lambda n, w, s: dilated(n, n, s),
            "not-the-mask": lambda n, w, s: dilated(n, w + 1, s),
        },
    ),
    "5.4": Bank(
        right=[lambda n, w: math.ceil((n - 1) / w), lambda n, w: (n + w - 2) // w, by_steps],
        wrong={
            "reach-multiplied": by_powers,
            "itself-forgotten": lambda n, w: math.ceil(n / w),
            "rounded-down": lambda n, w: (n - 1) // w,
            "not-a-whole-number": lambda n, w: (n - 1) / w,
            "both-sides": lambda n, w: math.ceil((n - 1) / (2 * w)),
            "w-1-per-layer": lambda n, w: math.ceil(n / (w + 1)),
            "2w-1-per-layer": lambda n, w: math.ceil(n / (2 * w + 1)),
            "itself-forgotten#2": lambda n, w: (n - 1) // w + 1,
            "not-the-number": lambda n, w: n // w,
        },
    ),
    "5.5": Bank(
        right=[pooled, pooled_by_loop, pooled_by_matrix],
        wrong={
            "as-many-heads-as-before": lambda w, g: pooled(w, g).repeat_interleave(len(w) // g, 0),
            "sum": lambda w, g: pooled(w, g) * (len(w) // g),
            "divided-by-all-heads": lambda w, g: pooled(w, g) / g,
            "heads-dealt-out-in-turn": lambda w, g: w.unflatten(0, (-1, g)).mean(0),
            "heads-dealt-out-in-turn#2": lambda w, g: torch.stack(
                [w[i::g].mean(0) for i in range(g)]
            ),
            "all-heads-pooled-into-one": lambda w, g: (
                w if g == len(w) else w.mean(0).expand(g, -1, -1)
            ),
            "first-heads-of-all": lambda w, g: w[:g],
            "first-head-of-each-group": lambda w, g: w[:: len(w) // g],
            "maximum": lambda w, g: w.unflatten(0, (g, -1)).amax(1),
            "changed-although-nothing-is-shared": lambda w, g: (
                pooled(w, g) * 2 if g == len(w) else pooled(w, g)
            ),
            "wrong-shape": lambda w, g: w.mean(0),
            "not-the-means": lambda w, g: w if g == len(w) else pooled(w, g).roll(1, -1),
        },
    ),
}
