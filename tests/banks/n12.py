"""Right and wrong answers to the exercises of notebook 12."""

import math
from statistics import mean, median, pstdev, stdev, variance

import torch

from banks import Bank


def blocks(loss, best, width):
    n = loss.shape[1] // width
    return (loss - best)[:, : n * width].unflatten(1, (n, width)).mean(dim=(0, 2))


def blocks_by_loop(loss, best, width):
    over = (loss - best).mean(dim=0)
    return torch.stack(
        [over[i : i + width].mean() for i in range(0, len(over) - width + 1, width)]
    )


def blocks_by_unfold(loss, best, width):
    return (loss - best).unfold(1, width, width).mean(dim=(0, 2))


def keeps_the_rest(loss, best, width):
    over = (loss - best).mean(dim=0)
    return torch.stack([part.mean() for part in over.split(width)])


def interleaved(loss, best, width):
    n = loss.shape[1] // width
    return (loss - best)[:, : n * width].unflatten(1, (width, n)).mean(dim=(0, 1))


def running(loss, best, width):
    over = loss - best
    return torch.stack(
        [over[:, : (i + 1) * width].mean() for i in range(over.shape[1] // width)]
    )


def squeeze(n, trained):
    return torch.arange(n) / max(1.0, n / trained)


def squeeze_by_ends(n, trained):
    """The last position lands on the last trained one."""
    return torch.arange(n) * min(1.0, (trained - 1) / (n - 1))


def squeeze_by_cases(n, trained):
    place = torch.arange(n, dtype=torch.float32)
    return place if n <= trained else place * trained / n


def exact(m, share):
    return -math.log(1 - share) / m


def reach_by_counting(m, share):
    whole, total, n = 1 / (1 - math.exp(-m)), 0.0, 0
    while total < share * whole:
        total += math.exp(-m * n)
        n += 1
    return n


def reach_by_tensor(m, share):
    weights = torch.exp(-m * torch.arange(20_000, dtype=torch.float64))
    return int((weights.cumsum(0) / weights.sum() < share).sum()) + 1


def by_seed(a, b):
    wins = [x < y for x, y in zip(a, b, strict=False)]
    return "A" if all(wins) else "B" if not any(wins) else "open"


def weighed(ahead):
    """A verdict by a rule that says whether the first list is ahead of the second."""
    return lambda a, b: "A" if ahead(a, b) else "B" if ahead(b, a) else "open"


def spreads_apart(spread):
    return weighed(lambda a, b: mean(a) + spread(a) < mean(b) - spread(b))


def standard_error(a, b):
    return math.sqrt(variance(a) / len(a) + variance(b) / len(b))


def verdict(a, b):
    if max(a) < min(b):
        return "A"
    return "B" if max(b) < min(a) else "open"


def verdict_by_pairs(a, b):
    if all(x < y for x in a for y in b):
        return "A"
    return "B" if all(y < x for x in a for y in b) else "open"


def verdict_by_sorting(a, b):
    if max(a) == min(b) or max(b) == min(a):
        return "open"
    names = "".join(name for _, name in sorted([(x, "A") for x in a] + [(x, "B") for x in b]))
    return {"A" * len(a) + "B" * len(b): "A", "B" * len(b) + "A" * len(a): "B"}.get(names, "open")


BANK = {
    "12.1": Bank(
        right=[blocks, blocks_by_loop, blocks_by_unfold],
        wrong={
            "best-loss-ignored": lambda loss, best, w: blocks(loss, torch.zeros_like(best), w),
            "sign": lambda loss, best, w: blocks(best, loss, w),
            "every-third-token": interleaved,
            "texts-kept-apart": lambda loss, best, w: (loss - best).unfold(1, w, w).mean(-1),
            "one-number-for-all": lambda loss, best, w: (loss - best).mean(),
            "one-number-for-each-token": lambda loss, best, w: (loss - best).mean(0),
            "sum-instead-of-mean": lambda loss, best, w: (loss - best).unfold(1, w, w).sum((0, 2)),
            "running-total": running,
            "a-ratio": lambda loss, best, w: (loss / best).unfold(1, w, w).mean((0, 2)),
            "last-block-not-left-out": keeps_the_rest,
            "last-block-not-left-out#2": lambda loss, best, w: (
                (loss - best).view(len(loss), -1, w).mean((0, 2))
            ),
            "blocks-too-wide": lambda loss, best, w: torch.stack(
                [part.mean() for part in (loss - best).chunk(loss.shape[1] // w, dim=1)]
            ),
            "first-tokens-left-out": lambda loss, best, w: (
                blocks(loss.flip(1), best.flip(1), w).flip(0)
            ),
            "width-taken-for-the-number-of-blocks": lambda loss, best, w: torch.stack(
                [part.mean() for part in (loss - best).chunk(w, dim=1)]
            ),
        },
    ),
    "12.2": Bank(
        right=[squeeze, squeeze_by_ends, squeeze_by_cases],
        wrong={
            "not-squeezed": lambda n, trained: torch.arange(n, dtype=torch.float32),
            "stretched": lambda n, trained: torch.arange(n) * max(1.0, n / trained),
            "rounded": lambda n, trained: torch.arange(n) * trained // max(n, trained),
            "rounded#2": lambda n, trained: squeeze(n, trained).round(),
            "rounded#3": lambda n, trained: squeeze(n, trained).ceil(),
            "counted-from-1": lambda n, trained: squeeze(n, trained) + min(1.0, trained / n),
            "cut-off": lambda n, trained: torch.arange(n).clamp(max=trained - 1),
            "wrapped-around": lambda n, trained: torch.arange(n) % trained,
            "divided-by-trained": lambda n, trained: torch.arange(n) / trained,
            "divided-by-n": lambda n, trained: torch.arange(n) / n,
            "short-texts-changed": lambda n, trained: torch.arange(n) * trained / n,
            "whole-factors-only": lambda n, trained: torch.arange(n) / max(1, n // trained),
            "whole-factors-only#2": lambda n, trained: torch.arange(n) / max(1, -(-n // trained)),
        },
    ),
    "12.3": Bank(
        right=[
            lambda m, share: math.ceil(-math.log(1 - share) / m), reach_by_counting,
            reach_by_tensor,
        ],
        wrong={
            "not-rounded-up": exact,
            "one-too-few": lambda m, share: int(exact(m, share)),
            "rounded-to-the-nearest": lambda m, share: round(exact(m, share)),
            "one-too-few#2": lambda m, share: math.ceil(exact(m, share)) - 1,
            "one-too-many": lambda m, share: math.ceil(exact(m, share)) + 1,
            "share-of-the-largest-weight": lambda m, share: math.ceil(-math.log(share) / m),
            "mean-lookback": lambda m, share: math.ceil(1 / m),
            "base-2": lambda m, share: math.ceil(-math.log2(1 - share) / m),
            "base-10": lambda m, share: math.ceil(-math.log10(1 - share) / m),
            "slope-multiplied": lambda m, share: math.ceil(-math.log(1 - share) * m),
            "always-90": lambda m, share: math.ceil(exact(m, 0.9)),
        },
    ),
    "12.4": Bank(
        right=[
            lambda n, a: math.log(a / (1 - a) * (n - 1)),
            lambda n, a: torch.logit(torch.tensor(a, dtype=torch.float64)) + math.log(n - 1),
        ],
        wrong={
            "n-instead-of-n-1": lambda n, a: math.log(a / (1 - a) * n),
            "logarithm-forgotten": lambda n, a: a / (1 - a) * (n - 1),
            "odds-upside-down": lambda n, a: math.log((1 - a) / a * (n - 1)),
            "other-tokens-forgotten": lambda n, a: math.log(a / (1 - a)),
            "sign": lambda n, a: -math.log(a / (1 - a) * (n - 1)),
            "weight-for-odds": lambda n, a: math.log(a * (n - 1)),
            "base-2": lambda n, a: math.log2(a / (1 - a) * (n - 1)),
            "divided-by-n-1": lambda n, a: math.log(a / (1 - a) / (n - 1)),
        },
    ),
    "12.5": Bank(
        right=[verdict, verdict_by_pairs, verdict_by_sorting],
        wrong={
            "higher-wins": lambda a, b: verdict(b, a),
            "averages-compared": lambda a, b: "A" if mean(a) < mean(b) else "B",
            "averages-compared#2": lambda a, b: "A" if median(a) < median(b) else "B",
            "seed-by-seed": by_seed,
            "best-or-worst-alone": lambda a, b: (
                "A" if max(a) < max(b) and min(a) >= min(b) or max(a) < min(b)
                else "B" if max(b) < min(a) else "open"
            ),
            "best-or-worst-alone#2": lambda a, b: "A" if min(a) < min(b) else "B",
            "best-or-worst-alone#3": lambda a, b: "A" if max(a) < max(b) else "B",
            "runs-weighed-not-compared": spreads_apart(stdev),
            "runs-weighed-not-compared#2": spreads_apart(pstdev),
            "runs-weighed-not-compared#3": weighed(
                lambda a, b: mean(b) - mean(a) > 2 * standard_error(a, b)
            ),
            "runs-weighed-not-compared#4": weighed(
                lambda a, b: mean(b) - mean(a) > max(max(a) - min(a), max(b) - min(b))
            ),
            "runs-weighed-not-compared#5": weighed(
                lambda a, b: sum(x < y for x in a for y in b) >= 0.9 * len(a) * len(b)
            ),
            "a-margin-asked-for": weighed(lambda a, b: max(a) < min(b) - 0.05),
            "a-tie-won": lambda a, b: (
                "A" if max(a) <= min(b) else "B" if max(b) <= min(a) else "open"
            ),
            "only-one-side-checked": lambda a, b: "A" if max(a) < min(b) else "B" if (
                min(b) < min(a) and max(b) < max(a) and max(b) - min(a) <= 0.2
            ) else "open",
            "not-one-of-the-three-words": lambda a, b: max(a) < min(b),
        },
    ),
    "12.6": Bank(
        right=[
            lambda n: -torch.arange(1.0, n + 1).log(),  # as in Sandwich
            lambda n: (-torch.arange(n) / 8).clamp(min=-5),  # as T5: one number for all that is far
            lambda n: torch.logaddexp(-torch.arange(n) / 10, torch.full((n,), -5.0)),  # two slopes
        ],
        wrong={
            "no-bias": lambda n: torch.zeros(n),
            "distance-rewarded": lambda n: torch.arange(n) / 8,
            "depends-on-the-length": lambda n: -8 * torch.arange(n) / n,
            "too-steep": lambda n: -torch.arange(n) / 8,  # ALiBi
            "too-steep#2": lambda n: torch.where(torch.arange(n) < 64, 0.0, -1e4),  # a window
            "too-steep#3": lambda n: -3 * torch.arange(1.0, n + 1).log(),
            "too-flat": lambda n: -torch.arange(n) / 2000,
            "too-flat#2": lambda n: -torch.arange(1.0, n + 1).log() / 2,
            "neither-near-nor-far": lambda n: torch.where(torch.arange(n) < 500, 0.0, -20.0),
            "infinite-values": lambda n: -torch.arange(n).log(),
            "wrong-shape": lambda n: -(torch.arange(n)[:, None] - torch.arange(n)).abs() / 8,
            "not-a-tensor": lambda n: -1 / 8,
        },
    ),
}  # fmt: skip
