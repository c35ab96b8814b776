"""Right and wrong answers to the exercises of notebook 02."""

import math

import torch

from banks import Bank


def split(y, n_heads):
    batch, n, width = y.shape
    return y.view(batch, n, n_heads, width // n_heads).transpose(1, 2)


def split_by_chunks(y, n_heads):
    return torch.stack(y.chunk(n_heads, dim=-1), dim=1)


def merge(heads):
    return heads.transpose(1, 2).flatten(-2)


def merge_by_cat(heads):
    return torch.cat(list(heads.unbind(1)), dim=-1)


def contributions(heads, w_o):
    return heads @ w_o.view(len(heads), heads.shape[-1], -1)


def contributions_by_silence(heads, w_o):
    """Each head alone, all others set to zero."""
    parts = []
    for i in range(len(heads)):
        alone = torch.zeros_like(heads)
        alone[i] = heads[i]
        parts.append(torch.cat(list(alone), dim=-1) @ w_o)
    return torch.stack(parts)


def blocks(heads, w_o, block):
    return torch.stack([heads[i] @ block(w_o, i, heads.shape[-1]) for i in range(len(heads))])


def rotated_parts(heads, w_o):
    """Adds up to the right total, but gives each head a piece of the others."""
    parts = contributions(heads, w_o)
    return (parts + parts.roll(1, 0)) / 2


def layer(x, w_qkv, w_o, n_heads, *, scale=None, cut="right", glue="right", order=(0, 1, 2),
          dim=-1, causal=False, out=True, flip=False):  # fmt: skip
    n, d = x.shape
    d_head = d // n_heads
    parts = (x @ w_qkv).chunk(3, dim=-1)
    if cut == "right":
        parts = [p.view(n, n_heads, d_head).transpose(0, 1) for p in parts]
    else:
        parts = [p.reshape(n_heads, n, d_head) for p in parts]
    q, k, v = (parts[i] for i in order)
    s = q @ k.mT * (d_head**-0.5 if scale is None else scale)
    if causal:
        s = s.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
    heads = s.softmax(dim) @ v
    y = heads.transpose(0, 1).reshape(n, d) if glue == "right" else heads.reshape(n, d)
    if not out:
        return y
    return y @ (w_o.T if flip else w_o)


def x_cut(x, w_qkv, w_o, n_heads):
    """The slice of x that has the head's number, by the head's block of each matrix."""
    d = x.shape[1] // n_heads
    heads = []
    for i in range(n_heads):
        own = slice(i * d, (i + 1) * d)
        q, k, v = (x[:, own] @ w[own, own] for w in w_qkv.chunk(3, dim=-1))
        heads.append((q @ k.T / d**0.5).softmax(-1) @ v)
    return torch.cat(heads, dim=-1) @ w_o


def dealt_out(x, w_qkv, w_o, n_heads):
    q, k, v = (p.view(len(x), -1, n_heads).permute(2, 0, 1) for p in (x @ w_qkv).chunk(3, dim=-1))
    y = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return y.permute(1, 2, 0).reshape(x.shape) @ w_o


def thirds_of_each_head(x, w_qkv, w_o, n_heads):
    q, k, v = (x @ w_qkv).view(len(x), n_heads, 3, -1).permute(2, 1, 0, 3)
    y = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
    return y.transpose(0, 1).reshape(x.shape) @ w_o


def by_torch(x, w_qkv, w_o, n_heads):
    mha = torch.nn.MultiheadAttention(x.shape[1], n_heads, bias=False)
    mha.in_proj_weight.data, mha.out_proj.weight.data = w_qkv.T.contiguous(), w_o.T.contiguous()
    return mha(x, x, x, need_weights=False)[0].detach()


def head_by_head(x, w_qkv, w_o, n_heads):
    d = x.shape[1] // n_heads
    w_q, w_k, w_v = w_qkv.chunk(3, dim=-1)
    total = 0
    for i in range(n_heads):
        own = slice(i * d, (i + 1) * d)
        s = (x @ w_q[:, own]) @ (x @ w_k[:, own]).T / math.sqrt(d)
        total = total + s.softmax(-1) @ (x @ w_v[:, own]) @ w_o[own]
    return total


D = 768
BANK = {
    "2.1": Bank(
        right=[4 * D**2 + 4 * D, 4 * (D * D + D)],
        wrong={
            "biases-forgotten": 4 * D**2,
            "three-projections": 3 * D**2 + 3 * D,
            "three-projections#2": 3 * D**2,
            "one-head-only": 4 * D * 64,
            "one-head-only#2": 4 * D * 64 + 4 * 64,
            "counted-per-head-too-often": 12 * (4 * D**2 + 4 * D),
            "counted-per-head-too-often#2": 48 * D**2,
            "bias-of-w-o-too-short": 4 * D**2 + 3 * D + 64,
            "bias-of-w-o-forgotten": 4 * D**2 + 3 * D,
            "biases-per-head-too-short": 4 * D**2 + 3 * 64 + D,
            "not-the-count": 2_000_000,
        },
    ),
    "2.2": Bank(
        right=[(split, merge), (split_by_chunks, merge_by_cat)],
        wrong={
            "no-transpose": (lambda y, h: y.unflatten(-1, (h, -1)), merge),
            "tokens-last": (lambda y, h: split(y, h).mT, merge),
            "view-without-transpose": (
                lambda y, h: y.view(len(y), h, y.shape[1], -1), merge,
            ),
            "features-dealt-out-in-turn": (
                lambda y, h: y.unflatten(-1, (-1, h)).permute(0, 3, 1, 2), merge,
            ),
            "split-mixes-entries": (lambda y, h: split(y, h).flip(1), merge),
            "heads-stacked-as-tokens": (split, lambda heads: heads.flatten(1, 2)),
            "merge-without-transpose": (
                split, lambda heads: heads.reshape(len(heads), heads.shape[2], -1),
            ),
            "features-interleaved": (split, lambda heads: heads.permute(0, 2, 3, 1).flatten(-2)),
            "merge-does-not-undo-split": (split, lambda heads: merge(heads.flip(1))),
            "right-for-one-size-only": (
                lambda y, h: y.view(len(y), y.shape[1], 3, -1).transpose(1, 2), merge,
            ),
            "right-for-one-size-only#2": (
                split, lambda heads: heads.transpose(1, 2).reshape(len(heads), -1, 12),
            ),
        },
    ),
    "2.3": Bank(
        right=[contributions, contributions_by_silence],
        wrong={
            "summed-already": lambda h, w: contributions(h, w).sum(0),
            "columns-instead-of-rows": lambda h, w: blocks(
                h, w, lambda w, i, d: w[:, i * d : (i + 1) * d].T
            ),
            "every-third-row": lambda h, w: blocks(h, w, lambda w, i, d: w[i :: len(h)]),
            "same-rows-for-all-heads": lambda h, w: blocks(h, w, lambda w, i, d: w[:d]),
            "the-total-divided-up": lambda h, w: (
                contributions(h, w).mean(0).expand(len(h), -1, -1).clone()
            ),
            "the-total-for-every-head": lambda h, w: (
                contributions(h, w).sum(0).expand(len(h), -1, -1).clone()
            ),
            "heads-in-reverse-order": lambda h, w: contributions(h, w).flip(0),
            "the-parts-do-not-add-up": lambda h, w: 2 * contributions(h, w),
            "right-sum-wrong-parts": rotated_parts,
            "right-for-one-size-only": lambda h, w: torch.stack(
                [h[i] @ w[4 * i : 4 * i + 4] for i in range(3)]
            ),
        },
    ),
    "2.4": Bank(
        right=[layer, head_by_head, by_torch],
        wrong={
            "missing-d": lambda *a: layer(*a, scale=1.0),
            "root-of-d-model": lambda *a: layer(*a, scale=a[0].shape[1] ** -0.5),
            "divided-by-d-not-its-root": lambda *a: layer(*a, scale=a[3] / a[0].shape[1]),
            "w-o-forgotten": lambda *a: layer(*a, out=False),
            "w-o-transposed": lambda *a: layer(*a, flip=True),
            "view-without-transpose": lambda *a: layer(*a, cut="view"),
            "view-without-transpose#2": lambda *a: layer(*a, cut="view", glue="view"),
            "merge-without-transpose": lambda *a: layer(*a, glue="view"),
            "one-head-only": lambda x, w, o, h: layer(x, w, o, 1),
            "one-head-only#2": lambda x, w, o, h: layer(x, w, o, 1, scale=(12 // h) ** -0.5),
            "softmax-over-the-wrong-axis": lambda *a: layer(*a, dim=1),
            "parts-in-the-wrong-order": lambda *a: layer(*a, order=(0, 2, 1)),
            "queries-and-keys-swapped": lambda *a: layer(*a, order=(1, 0, 2)),
            "causal-mask": lambda *a: layer(*a, causal=True),
            "x-cut-into-heads": x_cut,
            "features-dealt-out-in-turn": dealt_out,
            "thirds-of-each-head": thirds_of_each_head,
            "softmax-over-the-heads": lambda *a: layer(*a, dim=0),
            "w-o-and-d-forgotten": lambda *a: layer(*a, scale=1.0, out=False),
            "not-the-layer": lambda *a: 2 * layer(*a),
            "right-for-one-size-only": lambda *a: layer(*a, scale=1 / 2),
        },
    ),
}
