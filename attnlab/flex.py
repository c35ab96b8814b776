"""Attention by torch's flex_attention: masks and biases are worked out inside the compiled kernel.

What a mask or bias adds to a score depends here on the head and on the offset of the two tokens:
a table (n_heads, n_q + n_k - 1) says it all. The kernel reads it score by score; blocks of scores
that nobody may see are never computed, and no n_q x n_k matrix exists at any time.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attnlab.compiled import compiled, compiler_problem
from attnlab.positions.base import constants
from attnlab.windows import Window, Windows, checked_windows, offset_visible

if TYPE_CHECKING:  # torch's module takes a third of a second to load: only where it is needed
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # queries, and keys, that are skipped or computed together


def problem(q: Tensor, k: Tensor, v: Tensor, *trained: Tensor) -> str | None:
    """Why flex_attention cannot take these tensors here, or None if it can.

    Args:
        trained: parameters behind the bias, which may want gradients too.
    """
    device, sizes = q.device.type, (q.shape[-1], v.shape[-1])
    if device not in ("cuda", "cpu"):
        return f"it does not run on {device}"
    if q.dtype == torch.float64:
        return "it computes in float32, not in float64"
    if device == "cuda" and not (16 <= min(sizes) and max(sizes) <= 256):
        return f"its kernels take heads of 16 to 256 numbers, not {sizes}"
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, *trained))
    if device == "cpu" and wanted:
        return "on a CPU it has no backward pass: call it under torch.no_grad()"
    return compiler_problem(device)


def attention(
    q: Float[Tensor, "batch n_heads n_q d_head"],
    k: Float[Tensor, "batch n_kv_heads n_k d_head"],
    v: Float[Tensor, "batch n_kv_heads n_k d_v"],
    *,
    table: Float[Tensor, "n_heads n_offsets"] | None = None,
    slopes: Float[Tensor, " n_heads"] | None = None,
    causal: bool = False,
    windows: Windows = None,
    scale: float,
    temperature: float = 1.0,
) -> Float[Tensor, "batch n_heads n_q d_v"]:
    """softmax((q k^T scale + bias) / temperature) v; the queries are the last n_q of the keys.

    Args:
        table: the bias at the offsets (key position - query position) 1 - n_k ... n_q - 1.
            Gradients flow to it.
        slopes: instead of a table, the bias -slope |offset|: nothing needs to be read.

    Source: Dong et al. 2024 (Flex Attention), arXiv 2412.05496.
    """
    n_q, n_k = q.shape[-2], k.shape[-2]
    bias = None
    if slopes is not None:
        past = number(n_k - n_q, q.device)

        def bias(h, i, j):
            return -slopes[h] * (j - i - past).abs()

    elif table is not None:
        zero = number(n_q - 1, q.device)  # query 0 finds key 0 in this place of its row

        def bias(h, i, j):
            return table[h, j - i + zero]

    cold = None if temperature == 1 else constants((1 / temperature,), torch.float32, q.device)[0]

    def score_mod(score, b, h, i, j):
        if bias is not None:
            score = score + bias(h, i, j)
        return score if cold is None else score * cold

    return kernel(q.device.type)(
        q, k, v, scale=scale, enable_gqa=q.shape[1] != k.shape[1],
        score_mod=None if bias is None and cold is None else score_mod,
        block_mask=block_mask(n_q, n_k, q.shape[1], causal, windows, q.device),
    )  # fmt: skip


def kernel(device: str):
    """flex_attention, compiled: as it is, it would build the n_q x n_k matrix.

    On a CPU every length has its own: torch 2.13 writes C++ with an undeclared name where mask and
    bias both read tables and the length is left open.
    """
    from torch.nn.attention.flex_attention import flex_attention

    return compiled(flex_attention, every_length_its_own=device == "cpu")


def block_mask(
    n_q: int, n_k: int, n_heads: int, causal: bool, windows: Windows, device: torch.device
) -> "BlockMask | None":
    """Which blocks of scores are hidden, seen in part or seen as a whole; None: all are seen.

    Needs n_q * n_k / BLOCK^2 numbers for each head with a window of its own.
    """
    each = tuple(checked_windows(windows, n_heads))
    if not any(each):
        if not causal or n_q == 1:  # the last query sees all
            return None
        each = None
    return _block_mask(n_q, n_k, n_heads, causal, each, device)


@lru_cache(maxsize=16)
def _block_mask(
    n_q: int, n_k: int, n_heads: int, causal: bool, windows: tuple[Window | None, ...] | None,
    device: torch.device,
) -> "BlockMask":  # fmt: skip
    from torch.nn.attention.flex_attention import BlockMask

    with torch.inference_mode(False):
        offset = torch.arange(1 - n_k, n_q, device=device)
        visible = offset_visible(offset, n_heads, causal, windows)
        if windows is None or len(set(windows)) == 1:
            visible = visible[:1]  # the same for all heads
        # A block of queries and a block of keys meet at consecutive offsets, lowest to highest:
        # how many of them are visible is the difference of two running sums.
        until = F.pad(visible.cumsum(-1), (1, 0))
        (q_first, q_last), (k_first, k_last) = (_ends(n, device) for n in (n_q, n_k))
        lowest = k_first - q_last[:, None] + n_q - 1
        highest = k_last - q_first[:, None] + n_q - 1
        seen = until[:, highest + 1] - until[:, lowest]  # (heads, blocks of q, blocks of k)
        whole = seen == 2 * BLOCK - 1  # never at the ragged end: its blocks have fewer offsets
        part = (seen > 0) & ~whole
        table = visible.expand(n_heads, -1)
        zero = number(n_q - 1, device)
        return BlockMask.from_kv_blocks(
            *_listed(part), *_listed(whole), BLOCK_SIZE=BLOCK, seq_lengths=(n_q, n_k),
            mask_mod=lambda b, h, i, j: table[h, j - i + zero],
        )  # fmt: skip


def _ends(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first and the last token of each block."""
    first = torch.arange(0, n, BLOCK, device=device)
    return first, (first + BLOCK - 1).clamp(max=n - 1)


def _listed(blocks: Tensor) -> tuple[Int[Tensor, "1 heads rows"], Int[Tensor, "1 heads rows cols"]]:
    """How many blocks of each row are marked, and which: their numbers first, in order."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None], order.int()[None]


def number(value: int, device: torch.device) -> Int[Tensor, ""]:
    """A whole number as the kernel's input. A Python number would be compiled into the kernel, and
    every other length would need one of its own."""
    return constants((value,), torch.int32, device)[0]
