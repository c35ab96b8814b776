"""Checks of notebook 05, sharing and scales."""

import torch

from attnlab.exercises.n01 import close
from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("5.1", "Which key/value head?", minutes=4, difficulty=1)
def which_head(answer):
    shapes = [(8, 2), (8, 4), (8, 8), (8, 1), (12, 3), (6, 2)]
    right = {s: [i // (s[0] // s[1]) for i in range(s[0])] for s in shapes}
    got = {}
    for h, g in shapes:
        got[h, g] = [require_number(call(answer, i, h, g)) for i in range(h)]

    def is_(rule):
        return all(got[h, g] == [rule(i, h, g) for i in range(h)] for h, g in shapes)

    require(not is_(lambda i, h, g: i % g), "dealt out in turn: neighbouring query heads share, so "
            "head 1 of 8 reads key/value head 0, not 1, when there are 2")  # fmt: skip
    require(not is_(lambda i, h, g: i % (h // g)), "place within the group: that says which query "
            "head of its group it is, not which group")  # fmt: skip
    require(not is_(lambda i, h, g: i // g), "divided by the number of groups: a group has "
            "n_heads / n_kv_heads members; with 8 and 2 yours goes up to head 3")  # fmt: skip
    require(not is_(lambda i, h, g: i), "its own: that is right only where nothing is shared")
    require(not is_(lambda i, h, g: i * g / h), "not a whole number: use //")
    for s in shapes:
        require(all(v == int(v) for v in got[s]), "not a whole number: heads are counted 0, 1, …")
        require(max(got[s]) < s[1], f"no such head: {s[1]} key/value heads are 0 … {s[1] - 1}, "
                f"yours is {max(got[s])}")  # fmt: skip
        require(got[s] == right[s], f"not the groups: for {s[0]} heads and {s[1]} you return "
                f"{got[s]}")  # fmt: skip


@exercise("5.2", "How large is the cache?", minutes=6, difficulty=1)
def cache_size(answer):
    n, layers, h, g, d, width = 4096, 48, 40, 8, 128, 2
    value = require_number(answer)
    right = 2 * layers * n * g * d * width
    mistakes = {
        "half of it: keys and values are kept, and each number takes 2 bytes": right // 2,
        "a quarter of it: keys and values are kept, and each number takes 2 bytes": right // 4,
        "query heads: only the 8 key/value heads are kept": right // g * h,
        "query heads, and half of it: 8 key/value heads are kept, of both": right // g * h // 2,
        "bits: a bfloat16 number has 16 bits, which are 2 bytes": right * 8,
        "one layer: each of the 48 layers keeps its own": right // layers,
        "four bytes: that is float32, bfloat16 has 2": right * 2,
        "one token: keys and values of all 4,096 are kept": right // n,
        "one head: 8 key/value heads are kept": right // g,
    }
    for name, number in mistakes.items():
        require(value != number, name)
    require(abs(value - right / 2**20) > 1e-9, "MiB, not bytes: the number of bytes is asked for")
    for unit, size in {"megabytes": 1e6, "GiB": 2**30, "gigabytes": 1e9, "KiB": 2**10}.items():
        require(abs(value / right * size - 1) > 1e-3, f"{unit}, not bytes: the number of bytes is "
                "asked for")  # fmt: skip
    require(value == right, "not the count: keys and values × layers × tokens × key/value heads × "
            "d_head × bytes of a number")  # fmt: skip


def dilated(n, w, s, causal=True, steps=False, grid=False, strict=False, swap=False, forward=False):
    """The mask, and the ways in which it goes wrong."""
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    back = j - i if forward else i - j
    reach = w * s if steps else w
    visible = (back.abs() < reach) if strict else (back.abs() <= reach)
    visible &= (j % s == 0) if grid else (back % s == 0)
    if causal:
        visible &= (back > 0) if swap else (back >= 0)
    return visible


@exercise("5.3", "A dilated causal window", minutes=10, difficulty=2)
def dilated_mask(answer):
    shapes = [(12, 4, 2), (9, 3, 3), (10, 2, 1), (7, 6, 2), (1, 0, 1), (15, 7, 3)]
    got = {}
    for n, w, s in shapes:
        value = call(answer, n, w, s)
        if isinstance(value, torch.Tensor):
            require(value.dtype == torch.bool, "not boolean: True = may look at")
        got[n, w, s] = require_tensor(value, (n, n))

    def is_(**how):
        return all(torch.equal(got[s], dilated(*s, **how)) for s in shapes)

    require(not all(torch.equal(got[s], ~dilated(*s)) for s in shapes),
            "the wrong way round: True = may look at")  # fmt: skip
    names = {
        "width in steps: w counts tokens; the farthest key is w tokens away, not w steps": {
            "steps": True},
        "not causal: a token must not see what comes after it": {"causal": False},
        "not causal, and width in steps: w counts tokens, and only past ones are seen": {
            "causal": False, "steps": True},
        "one too few: the key exactly w tokens back is seen": {"strict": True},
        "without itself: offset 0 is a multiple of every step": {"swap": True},
        "fixed grid: the steps count from the query, not from token 0": {"grid": True},
        "looks ahead: rows are queries, and a query sees keys before it": {"forward": True},
    }
    for name, how in names.items():
        require(not is_(**how), name)
    require(not all(torch.equal(got[n, w, s], dilated(n, w, 1)) for n, w, s in shapes),
            "no dilation: of the w tokens only every s-th is seen")  # fmt: skip
    require(not all(torch.equal(got[n, w, s], dilated(n, n, s)) for n, w, s in shapes),
            "no width: keys more than w tokens back are hidden")  # fmt: skip
    for s in shapes:
        wrong = (got[s] != dilated(*s)).nonzero()
        if len(wrong):
            i, j = wrong[0].tolist()
            require(False, f"not the mask: for n, w, s = {s} look at query {i}, key {j}")


@exercise("5.4", "How many layers?", minutes=8, difficulty=2)
def layers_needed(answer):
    cases = [(1000, 100), (1001, 100), (1002, 100), (2, 1), (1, 5), (4097, 128), (10, 4)]
    got = {(n, w): require_number(call(answer, n, w)) for n, w in cases}

    def is_(rule):
        return all(got[case] == rule(*case) for case in cases)

    def up(a, b):
        return -(-a // b)

    def by_powers(n, w):
        layers, reach = 0, 1
        while reach < n:
            layers, reach = layers + 1, reach * (w + 1)
        return layers

    require(not is_(by_powers), "reach multiplied: each layer adds w tokens, it does not multiply")
    require(not is_(lambda n, w: up(n, w)), "itself forgotten: the last token counts among the "
            "n, so only n − 1 lie before it")  # fmt: skip
    require(not is_(lambda n, w: (n - 1) // w), "rounded down: the first token is not reached yet")
    require(not is_(lambda n, w: (n - 1) / w), "not a whole number: round up")
    require(not is_(lambda n, w: up(n - 1, 2 * w)), "both sides: causal windows reach back only")
    require(not is_(lambda n, w: up(n, w + 1)), "w + 1 per layer: the token itself counts once, "
            "not once in each layer")  # fmt: skip
    require(not is_(lambda n, w: up(n, 2 * w + 1)), "2w + 1 per layer: causal windows reach back "
            "only, and the token itself counts once")  # fmt: skip
    for case in cases:
        right = up(case[0] - 1, case[1])
        require(got[case] == right, f"not the number: for n = {case[0]}, w = {case[1]} you return "
                f"{got[case]:g}")  # fmt: skip


@exercise("5.5", "From many heads to few", minutes=12, difficulty=3)
def pool(answer):
    for n_heads, n_kv, d_model, d_head in [(8, 2, 6, 3), (6, 3, 5, 2), (4, 1, 3, 2), (4, 4, 3, 2)]:
        w = torch.randn(n_heads, d_model, d_head)
        got = require_tensor(call(answer, w, n_kv))
        right = w.view(n_kv, -1, d_model, d_head).mean(1)
        dealt = w.view(-1, n_kv, d_model, d_head).mean(0)
        if n_kv == n_heads:
            require(close(got, w), "changed although nothing is shared: groups of one stay")
            continue
        require(tuple(got.shape) != (n_heads, d_model, d_head), "as many heads as before: return "
                "one matrix for each key/value head that is left")  # fmt: skip
        require_tensor(got, (n_kv, d_model, d_head))
        members = n_heads // n_kv
        require(not close(got, right * members), "sum: divide by the number of heads in a group")
        if n_kv > 1:
            require(not close(got, right * members / n_heads), "divided by all heads: a group has "
                    f"{members} heads, not {n_heads}")  # fmt: skip
            require(not close(got, dealt), "heads dealt out in turn: query heads 0, 1, … of a "
                    "group are neighbours, so pool neighbours")  # fmt: skip
            require(not close(got, w.mean(0).expand_as(right)), "all heads pooled into one: only "
                    "the heads of a group are averaged")  # fmt: skip
            require(not close(got, w.reshape(members, n_kv, d_model, d_head).mean(0)),
                    "heads dealt out in turn: pool neighbours")  # fmt: skip
            require(not close(got, w[:n_kv]), "first heads of all: group g starts at head "
                    "g · n_heads / n_kv_heads; and average its heads")  # fmt: skip
        require(not close(got, w[::members]), "first head of each group: average all its heads")
        require(not close(got, w.view(n_kv, members, d_model, d_head).amax(1)),
                "maximum: average the heads")  # fmt: skip
        require(close(got, right), "not the means: matrix g is the mean of the heads of group g")
