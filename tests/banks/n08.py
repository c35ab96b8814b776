"""Right and wrong answers to the exercises of notebook 08."""

import math

import torch

from banks import Bank


def lookup(table, pos, stretch):
    at = pos / stretch
    low, high = at.floor().long(), at.ceil().long()
    return torch.lerp(table[low], table[high], (at - low)[:, None])


def lookup_by_hats(table, pos, stretch):
    """Row r counts 1 - |pos / stretch - r|, where that is positive."""
    rows = torch.arange(len(table))
    return (1 - (pos[:, None] / stretch - rows).abs()).clamp(min=0) @ table


def lookup_by_loop(table, pos, stretch):
    found = []
    for p in pos.tolist():
        row, share = int(p / stretch), p / stretch - int(p / stretch)
        after = min(row + 1, len(table) - 1)
        found.append((1 - share) * table[row] + share * table[after])
    return torch.stack(found)


def one_too_far(table, pos, stretch):
    at = pos / stretch
    low = at.floor().long()
    return torch.lerp(table[low], table[low + 1], (at - low)[:, None])


def swapped_shares(table, pos, stretch):
    at = pos / stretch
    low, high = at.floor().long(), at.ceil().long()
    return torch.lerp(table[high], table[low], (at - low)[:, None])


def halves(table, pos, stretch):
    at = pos / stretch
    return (table[at.floor().long()] + table[at.ceil().long()]) / 2


def three_only(table, pos, stretch):
    return lookup(table, pos, 3.0 if len(pos) > 3 else 1.5)


def project(x, p, w):
    d = x.shape[-1]
    return x @ w[:d] + p @ w[d:]


def project_by_split(x, p, w):
    w_x, w_p = w.split([x.shape[-1], p.shape[-1]])
    return torch.einsum("nd,dk->nk", x, w_x) + torch.einsum("nd,dk->nk", p, w_p)


def project_by_cat(x, p, w):
    return torch.cat([x, p], dim=-1) @ w


def halved(x, p, w):
    half = len(w) // 2
    return x @ w[:half] + p @ w[half:]


def decode(sums, words, places):
    pairs = (words[:, None] + places).flatten(0, 1)
    best = torch.cdist(sums, pairs).argmin(-1)
    return best // len(places), best % len(places)


def decode_place_first(sums, words, places):
    distance = torch.stack([torch.cdist(sums - place, words) for place in places])
    nearest, word = distance.min(-1)  # (places, sums)
    place = nearest.argmin(0)
    return word[place, torch.arange(len(sums))], place


def flat(sums, words, places):
    return torch.cdist(sums, (words[:, None] + places).flatten(0, 1)).argmin(-1)


def alone(sums, words, places):
    return torch.cdist(sums, words).argmin(-1), torch.cdist(sums, places).argmin(-1)


def greedy(sums, words, places):
    word = torch.cdist(sums, words).argmin(-1)
    return word, torch.cdist(sums - words[word], places).argmin(-1)


def greedy_place(sums, words, places):
    place = torch.cdist(sums, places).argmin(-1)
    return torch.cdist(sums - places[place], words).argmin(-1), place


def by_dots(sums, words, places):
    best = (sums @ (words[:, None] + places).flatten(0, 1).T).argmax(-1)
    return best // len(places), best % len(places)


def off_by_one(sums, words, places):
    word, place = decode(sums, words, places)
    return word, (place + 1) % len(places)


BANK = {
    "8.1": Bank(
        right=[0.02 * math.sqrt(2), 0.0283],
        wrong={
            "energy-of-the-table-taken-as-d": 0.02,
            "root-forgotten": 2 * 0.02**2,
            "both-slips": 0.02**2,
            "upside-down": 1 / (0.02 * math.sqrt(2)),
            "upside-down#2": 1250,
            "factor-2-on-the-wrong-side": 0.02 / math.sqrt(2),
            "not-balanced": 1.0,
        },
    ),
    "8.2": Bank(
        right=[lookup, lookup_by_hats, lookup_by_loop],
        wrong={
            "rows-not-numbers": lambda t, p, s: lookup(t, p, s)[:, 0],
            "rounded-down": lambda t, p, s: t[(p / s).long()],
            "rounded-down#2": lambda t, p, s: t[(p // s).long()],
            "rounded-to-the-nearest-row": lambda t, p, s: t[(p / s).round().long()],
            "rounded-up": lambda t, p, s: t[(p / s).ceil().long()],
            "shares-swapped": swapped_shares,
            "half-and-half": halves,
            "stretch-ignored": lambda t, p, s: t[p.clamp(max=len(t) - 1)],
            "multiplied-instead-of-divided": lambda t, p, s: (
                t[(p * s).long().clamp(max=len(t) - 1)]
            ),
            "wrapped-around": lambda t, p, s: t[p % len(t)],
            "not-the-rows-between": lambda t, p, s: 2 * lookup(t, p, s),
            "one-row-too-far": one_too_far,
            "right-for-one-stretch-only": three_only,
        },
    ),
    "8.3": Bank(
        right=[project, project_by_split, project_by_cat],
        wrong={
            "tokens-stacked": lambda x, p, w: torch.cat([x @ w[:6], p @ w[6:]]),
            "blocks-swapped": lambda x, p, w: x @ w[p.shape[-1] :] + p @ w[: p.shape[-1]],
            "blocks-swapped#2": lambda x, p, w: torch.cat([p, x], dim=-1) @ w,
            "one-block-for-both": lambda x, p, w: (x + p) @ w[: x.shape[-1]],
            "one-block-for-both#2": lambda x, p, w: (x + p) @ w[x.shape[-1] :],
            "positions-lost": lambda x, p, w: x @ w[: x.shape[-1]],
            "words-lost": lambda x, p, w: p @ w[x.shape[-1] :],
            "averaged": lambda x, p, w: project(x, p, w) / 2,
            "rows-dealt-out-in-turn": lambda x, p, w: x @ w[0::2] + p @ w[1::2],
            "subtracted": lambda x, p, w: x @ w[: x.shape[-1]] - p @ w[x.shape[-1] :],
            "not-the-projection-of-x-p": lambda x, p, w: project(x, p, w) + x @ w[:6],
            "right-for-equal-widths-only": halved,
            "right-for-equal-widths-only#2": lambda x, p, w: x @ w[:6] + p @ w[6:12],
        },
    ),
    "8.4": Bank(
        right=[decode, decode_place_first, lambda *a: torch.stack(decode(*a))],
        wrong={
            "not-two-answers": flat,
            "answers-swapped": lambda *a: decode(*a)[::-1],
            "one-at-a-time": alone,
            "dot-product-instead-of-distance#2": lambda s, w, p: (
                (s @ w.T).argmax(-1), (s @ p.T).argmax(-1),
            ),
            "greedy": greedy,
            "greedy#2": greedy_place,
            "dot-product-instead-of-distance": by_dots,
            "pair-number-cut-up-wrongly": lambda s, w, p: (
                flat(s, w, p) // len(w), flat(s, w, p) % len(w),
            ),
            "answers-swapped#2": lambda s, w, p: (
                flat(s, w, p) % len(p), flat(s, w, p) // len(p),
            ),
            "not-the-pairs": off_by_one,
            "not-whole-numbers": lambda s, w, p: (flat(s, w, p) / len(p), flat(s, w, p) % len(p)),
            "not-the-pairs#2": lambda *a: (decode(*a)[0], alone(*a)[1]),
            "not-the-pairs#3": lambda *a: (decode(*a)[0], decode(*a)[1] + 1),
            "right-for-one-size-only": lambda s, w, p: (flat(s, w, p) // 20, flat(s, w, p) % 20),
        },
    ),
}
