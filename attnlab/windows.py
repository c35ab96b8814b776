"""Heads that see only a part of the text: local, dilated and hierarchical windows.

A window says how far a head sees and in what steps. As a mask it changes what is computed; only a
path that never forms the hidden scores, `blocked_attention`, changes what it costs.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST_BLOCK = 64  # queries that share one product; below, overhead costs more than it saves


class Window(NamedTuple):
    """Keys at most `width` positions away, in steps of `dilation`: offsets 0, ±s, ±2s, ... ±width.

    Source: Beltagy et al. 2020 (Longformer), section 3.1.
    """

    width: int
    dilation: int = 1


Windows = int | Window | None | Sequence[int | Window | None]


def hierarchical(n_heads: int, width: int) -> list[Window]:
    """One window for each head, every one twice as far and twice as coarse as the one before: with
    width 4 the offsets 1 ... 4, then 2, 4, ... 8, then 4, 8, ... 16, and so on.

    Each head does the same number of products; together they see near keys one by one and far ones
    thinned out. "Hierarchical" heads are often named without a formula: this is one.
    """
    return [Window(width * 2**h, 2**h) for h in range(n_heads)]


def checked_windows(windows: Windows, n_heads: int) -> list[Window | None]:
    """One window for each head, None = no limit; ValueError if that is not what it is."""
    one = windows is None or isinstance(windows, int | Window) or not isinstance(windows, Sequence)
    each = [windows] * n_heads if one else list(windows)
    found = [Window(w) if type(w) is int else w for w in each]

    def whole(number, least: int) -> bool:
        return type(number) is int and number >= least

    def fits(w) -> bool:
        return w is None or isinstance(w, Window) and whole(w.width, 0) and whole(w.dilation, 1)

    if len(found) != n_heads or not all(map(fits, found)):
        raise ValueError(
            f"windows needs one whole half-width >= 0, Window(width, dilation) or None for each "
            f"of {n_heads} heads, got {windows}"
        )
    return found


def offset_visible(
    offset: Int[Tensor, "..."], n_heads: int, causal: bool, windows: Windows
) -> Bool[Tensor, "#n_heads ..."] | None:
    """Which offsets (key position - query position) each head may see, or None for all."""
    visible = (offset <= 0)[None] if causal else None
    if windows is not None:
        heads = []
        for window in checked_windows(windows, n_heads):
            width, step = window if window else (torch.inf, 1)
            near = offset.abs() <= width
            heads.append(near if step == 1 else near & (offset % step == 0))
        near = torch.stack(heads)
        visible = near if visible is None else visible & near
    return visible


def receptive_field(
    n_tokens: int, layers: Sequence[Windows], n_heads: int, causal: bool = False
) -> Bool[Tensor, "n n"]:
    """Which input tokens (columns) can reach which outputs (rows) through a stack of layers.

    `layers` holds the windows of each layer; a token reaches what any of its heads sees. With one
    half-width w in L layers a row has 2 w L + 1 tokens (w L + 1 when causal), away from the ends.
    """
    pos = torch.arange(n_tokens)
    reach = torch.eye(n_tokens, dtype=torch.bool)
    for windows in layers:
        step = offset_visible(pos[None, :] - pos[:, None], n_heads, causal, windows)
        seen = torch.ones_like(reach) if step is None else step.any(0)
        reach = (seen.float() @ reach.float()) > 0
    return reach


class Blocks(NamedTuple):
    """How `blocked_attention` cuts a text of n tokens up for a window: into `step` interleaved
    texts of `length` tokens, each of them into `n_blocks` blocks of `block` queries. A block meets
    `span` keys: its own, `width` before and `after` behind."""

    step: int
    length: int
    block: int
    n_blocks: int
    width: int
    after: int

    @property
    def span(self) -> int:
        return self.width + self.block + self.after

    @property
    def products(self) -> int:
        """Query-key products of one head: about n * width / dilation, never n * n for a large n."""
        return self.step * self.n_blocks * self.block * self.span


def blocks_of(n: int, window: Window, causal: bool) -> Blocks:
    """The cut for n >= 1 tokens. Windows and dilations beyond the text count as the text's size."""
    step = min(window.dilation, n)
    length = -(-n // step)  # filled up at the end
    width = min(window.width // window.dilation, length - 1)
    block = min(max(width, LEAST_BLOCK), length)
    return Blocks(step, length, block, -(-length // block), width, 0 if causal else width)


def in_blocks(n: int, window: Window | None, causal: bool) -> bool:
    """Whether blocks save anything for this window: else its head goes the way of all others."""
    return window is not None and n > 0 and blocks_of(n, window, causal).span < n


def products(n: int, window: Window | None, causal: bool) -> int:
    """Query-key products that one head costs in a text of n tokens: n * n, or less in blocks."""
    return blocks_of(n, window, causal).products if in_blocks(n, window, causal) else n * n


Heads = Float[Tensor, "batch n_heads n d_head"]


def blocked_attention(
    q: Heads,
    k: Heads,
    v: Float[Tensor, "batch n_heads n d_v"],
    window: Window,
    *,
    causal: bool = False,
    relative_bias: Callable[[Tensor], Tensor | None] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch n_heads n d_v"]:
    """Windowed attention at a cost of n * width / dilation products instead of n * n.

    The text is cut into blocks of queries; each block meets only the keys of its own stretch and
    `width` to either side. A dilated window splits the text into `dilation` interleaved texts first
    (tokens 0, s, 2s, ... see nothing of tokens 1, s + 1, ...), in which it is an ordinary window.

    Args:
        relative_bias: what to add to the scores at each offset, as `Encoding.relative_bias`.

    Source: Beltagy et al. 2020 (Longformer), section 3.1 and appendix A.
    """
    batch, n_heads, n, _ = q.shape
    if n == 0:
        return q @ k.mT @ v
    cut = blocks_of(n, window, causal)
    step, length, block, n_blocks, width, after = cut
    span = cut.span

    def interleaved(t: Tensor) -> Tensor:
        """(batch, heads, n, d) -> (batch * step, heads, n_blocks * block, d)"""
        t = F.pad(t, (0, 0, 0, length * step - n)).unflatten(-2, (length, step))
        t = t.movedim(-2, 1).flatten(0, 1)
        return F.pad(t, (0, 0, 0, n_blocks * block - length))

    def stretches(t: Tensor) -> Tensor:
        """The keys of each block: (batch * step * n_blocks, heads, span, d)"""
        t = F.pad(interleaved(t), (0, 0, width, after))
        return t.unfold(-2, span, block).movedim(2, 1).flatten(0, 1).mT

    blocks = interleaved(q).unflatten(-2, (n_blocks, block)).movedim(2, 1).flatten(0, 1)

    row = torch.arange(block, device=q.device)
    column = torch.arange(span, device=q.device)
    offset = column[None, :] - width - row[:, None]  # in the interleaved text
    near = (offset.abs() <= width) & (offset <= after)
    # Where a key of a block stands in the whole text, and whether it is a token or filling.
    first = torch.arange(n_blocks, device=q.device) * block - width
    place = first[:, None] + column
    residue = torch.arange(step, device=q.device)[:, None, None]
    real = (place >= 0) & (place * step + residue < n)
    mask = near & real[:, :, None]  # (step, n_blocks, block, span)
    # A query that is filling may see nothing: let it see all, so that no row is empty.
    mask = mask | ~mask.any(-1, keepdim=True)
    mask = mask.flatten(0, 1)[:, None].repeat(batch, 1, 1, 1)
    each = torch.arange(1 - block - width, span - width, device=q.device)  # every offset once
    table = None if relative_bias is None else relative_bias(each * step)
    if table is not None:
        table = table[:, offset - each[0]]
        mask = table[None].to(q.dtype).masked_fill(~mask, -torch.inf)
    out = F.scaled_dot_product_attention(
        blocks, stretches(k), stretches(v), attn_mask=mask, scale=scale
    )
    out = out.unflatten(0, (batch * step, n_blocks)).movedim(1, 2).flatten(2, 3)
    out = out[..., :length, :].unflatten(0, (batch, step)).movedim(1, -2).flatten(2, 3)
    return out[..., :n, :]
