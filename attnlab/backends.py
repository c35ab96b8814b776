"""The fast ways to attend: torch's kernels, which never form the weights.

"fused" is torch.nn.functional.scaled_dot_product_attention with biases and masks as a matrix, or as
a view that only looks like one; "blocked" computes the stretches that windows leave; "flex" works
masks and biases out inside a compiled kernel. All take queries, keys and values as
`attnlab.attention.scaled_dot_product_attention` checked them, and give the numbers of its formula.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from attnlab import flex
from attnlab.positions.base import Encoding, constants, working_dtype
from attnlab.windows import (
    Windows,
    blocked_attention,
    blocks_of,
    checked_windows,
    in_blocks,
    offset_visible,
)

CAUSAL_BLOCK = 256  # query rows that share one call of the kernel, where that saves work
FLEX_PAIRS = 2**20  # pairs of tokens from which compiling a kernel is worth the seconds it takes

Mask = Bool[Tensor, "*#batch_n_heads #n_q #n_k"]


def consecutive(start: int, stop: int, device: torch.device) -> Int[Tensor, " n"]:
    """start ... stop - 1; the same tensor call after call, so that encodings know it again."""
    if torch.compiler.is_compiling():
        return torch.arange(start, stop, device=device)
    return _consecutive(start, stop, device)


@lru_cache(maxsize=64)
def _consecutive(start: int, stop: int, device: torch.device) -> Int[Tensor, " n"]:
    with torch.inference_mode(False):
        return torch.arange(start, stop, device=device)


# --- heads that share keys ---------------------------------------------------------------------


def group_size(n_heads: int, n_kv_heads: int) -> int:
    """How many query heads share one key head."""
    if n_heads == n_kv_heads:
        return 1
    if n_kv_heads == 0 or n_heads % n_kv_heads:
        raise ValueError(f"{n_heads} query heads cannot share {n_kv_heads} key/value heads evenly")
    return n_heads // n_kv_heads


def share_heads(t: Tensor, n_heads: int) -> Tensor:
    """Repeat each key or value head for the group of query heads that shares it."""
    group = group_size(n_heads, t.shape[1])
    return t if group == 1 else t.repeat_interleave(group, dim=1)


def per_group(t: Tensor, n_kv_heads: int) -> Tensor:
    """(batch, n_heads, n, d) -> (batch, n_kv_heads, group * n, d): the rows of a group of heads
    one below the other, as if they were more queries of the head whose keys they share."""
    group = group_size(t.shape[1], n_kv_heads)
    return t if group == 1 else t.unflatten(1, (n_kv_heads, group)).flatten(2, 3)


def per_head(t: Tensor, n_heads: int) -> Tensor:
    """The way back from `per_group`."""
    group = group_size(n_heads, t.shape[1])
    return t if group == 1 else t.unflatten(2, (group, -1)).flatten(1, 2)


def kernel(q, k, v, mask: Tensor | None = None, *, causal: bool = False, scale: float) -> Tensor:
    """torch's kernel. Keys and values that heads share are repeated in memory only where the kernel
    cannot do without: on a CPU, for many queries with masks of their own."""
    n_heads, n_kv_heads, n_q = q.shape[1], k.shape[1], q.shape[2]
    options = {"is_causal": causal, "scale": scale}
    if group_size(n_heads, n_kv_heads) == 1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
    if mask is None and n_q > 1 and q.device.type == "cuda":
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
    if mask is not None:
        mask = mask.reshape(*[1] * (4 - mask.dim()), *mask.shape)
    one_for_all = mask is None or mask.shape[1] == mask.shape[2] == 1
    if causal or not (one_for_all or n_q == 1):
        k, v = share_heads(k, n_heads), share_heads(v, n_heads)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
    if not one_for_all:
        mask = per_group(mask, n_kv_heads)
    out = F.scaled_dot_product_attention(per_group(q, n_kv_heads), k, v, mask, scale=scale)
    return per_head(out, n_heads)


# --- positions, masks and windows --------------------------------------------------------------


def encoded(q, k, at, encoding: Encoding | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Queries and keys with positions in, and the bias."""
    n_heads = q.shape[1]
    if encoding is None:
        return q, k, None
    q, k = encoding.qk(q, k, *at)
    bias = encoding.bias(q, k, *at)
    if bias is not None and bias.shape[1] not in (1, n_heads):
        raise ValueError(f"{encoding} was built for {bias.shape[1]} heads, got {n_heads}")
    return q, k, None if bias is None else bias.to(working_dtype(q.dtype))


def visible_pairs(q_shape, n_k, mask, causal, windows, q_pos, k_pos) -> Tensor | None:
    """Which query may see which key: a boolean tensor that broadcasts to the scores, or None."""
    batch, n_heads, n_q, _ = q_shape
    if mask is not None:
        mask = checked_mask(mask, (batch, n_heads, n_q, n_k))
    near = None
    if causal or windows is not None:
        near = offset_visible(k_pos[None, :] - q_pos[:, None], n_heads, causal, windows)
    if mask is None or near is None:
        return mask if near is None else near
    return mask & near


def checked_mask(mask: Tensor, full: tuple[int, int, int, int]) -> Mask:
    """The mask with at least two dimensions, if it is boolean and broadcasts to scores of shape
    `full` = (batch, heads, queries, keys); otherwise a ValueError."""
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be boolean (True = may attend), got {mask.dtype}: use mask.bool()"
        )
    sizes = zip(mask.shape[::-1], full[::-1], strict=False)
    if mask.dim() > 4 or any(m not in (1, s) for m, s in sizes):
        raise ValueError(
            f"mask {tuple(mask.shape)} does not fit scores of shape "
            f"(batch, heads, queries, keys) = {full}"
        )
    return mask.reshape(*[1] * (2 - mask.dim()), *mask.shape)


def relative_bias(encoding: Encoding, n_heads: int) -> Callable[[Tensor], Tensor | None]:
    """The encoding's bias by offset, once it is seen to be for so many heads."""

    def bias(offset: Tensor) -> Tensor | None:
        table = encoding.relative_bias(offset)
        if table is not None and table.shape[0] != n_heads:
            raise ValueError(f"{encoding} was built for {table.shape[0]} heads, got {n_heads}")
        return table

    return bias


def is_by_offset(encoding: Encoding | None) -> bool:
    """Whether all that the encoding adds to the scores depends on head and offset alone."""
    return encoding is None or type(encoding).bias is Encoding.bias


def adds_to_scores(encoding: Encoding | None) -> bool:
    """Whether the encoding has a bias at all."""
    return encoding is not None and (
        type(encoding).relative_bias is not Encoding.relative_bias or not is_by_offset(encoding)
    )


# --- the choice --------------------------------------------------------------------------------


def chosen(q, k, v, *, by_offset: bool, causal, windows, encoding) -> str:
    """What "auto" is for this call, where the weights are not needed.

    Args:
        by_offset: whether head and offset alone say all of mask and bias.
    """
    n_q, n_k = q.shape[-2], k.shape[-2]
    if not by_offset:
        return "fused"
    if q.device.type == "cuda" and not torch.compiler.is_compiling():
        # There fused needs the n_q x n_k matrix for anything but the plainest mask.
        needs_matrix = (
            windows is not None or adds_to_scores(encoding) or (causal and 1 < n_q != n_k)
        )
        if needs_matrix and n_q * n_k >= FLEX_PAIRS and flex.problem(q, k, v) is None:
            return "flex"
    if n_q == n_k and windows_save(windows, q.shape, causal):
        return "blocked"
    return "fused"


def windows_save(windows: Windows, q_shape, causal: bool) -> bool:
    """Whether windows leave the blocked path less than half of the products of the fused one."""
    if windows is None:
        return False
    n_heads, n = q_shape[1:3]
    full = n * n // (2 if causal else 1)
    products = sum(
        blocks_of(n, window, causal).products if in_blocks(n, window, causal) else full
        for window in checked_windows(windows, n_heads)
    )
    return 2 * products < n_heads * full


# --- the back ends -----------------------------------------------------------------------------


def blocked(q, k, v, at, causal, windows, encoding, scale, temperature) -> Tensor:
    """Heads with the same window together, in blocks; heads that see (nearly) all as always."""
    n_heads, n, bias = q.shape[1], q.shape[2], None
    if encoding is not None:
        q, k = encoding.qk(q, k, *at)
        bias = relative_bias(encoding, n_heads)
        if bias(consecutive(0, 1, q.device)) is None:
            bias = None
        else:  # it must not be rounded
            q, k, v = (t.to(working_dtype(t.dtype)) for t in (q, k, v))
    k, v = share_heads(k, n_heads), share_heads(v, n_heads)
    groups: dict = {}
    for head, window in enumerate(checked_windows(windows, n_heads)):
        groups.setdefault(window, []).append(head)
    outputs = [None] * n_heads
    for window, heads in groups.items():

        def of_group(offset, heads=heads):
            return bias(offset)[heads] / temperature

        part = [t[:, heads] for t in (q, k, v)]
        group_bias = None if bias is None else of_group
        if not in_blocks(n, window, causal):
            out = _fused_by_offset(*part, group_bias, causal, window, scale / temperature)
        else:
            out = blocked_attention(
                *part, window, causal=causal, relative_bias=group_bias, scale=scale / temperature
            )
        for head, of_head in zip(heads, out.unbind(1), strict=True):
            outputs[head] = of_head
    return torch.stack(outputs, dim=1)


def by_flex(q, k, v, at, causal, windows, encoding, scale, temperature) -> Tensor:
    """The kernel that torch compiles for this mask and bias."""
    n_q, n_k, n_heads = q.shape[-2], k.shape[-2], q.shape[1]
    bias = {}
    if encoding is not None:
        q, k = encoding.qk(q, k, *at)
        offset = consecutive(1 - n_k, n_q, q.device)
        if encoding.slopes is None:
            table = relative_bias(encoding, n_heads)(offset)
            bias["table"] = None if table is None else table.float().contiguous()
        elif len(encoding.slopes) != n_heads:
            raise ValueError(
                f"{encoding} was built for {len(encoding.slopes)} heads, got {n_heads}"
            )
        else:
            bias["slopes"] = constants(encoding.slopes, torch.float32, q.device)
    return flex.attention(
        q, k, v, causal=causal, windows=windows, scale=scale, temperature=temperature, **bias
    )


def fused(q, k, v, at, mask, by_offset, causal, windows, encoding, scale, temperature) -> Tensor:
    """torch's kernel, with as little of a mask as the call allows.

    Args:
        by_offset: whether head and offset alone say all of mask and bias.
    """
    if not by_offset:
        return _fused_by_mask(q, k, v, at, mask, causal, windows, encoding, scale, temperature)
    bias = None
    if encoding is not None:
        q, k = encoding.qk(q, k, *at)
        table_of = relative_bias(encoding, q.shape[1])

        def bias(offset):
            table = table_of(offset)
            return None if table is None else table / temperature

    return _fused_by_offset(q, k, v, bias, causal, windows, scale / temperature)


def _fused_by_offset(q, k, v, bias, causal, windows, scale) -> Tensor:
    """One number for each head and offset says all of mask and bias. With the queries in reverse
    order, row r of the n_q x n_k matrix is that table from place r on: a view, which the kernel
    reads like a matrix that was never built.
    """
    n_q, n_k = q.shape[-2], k.shape[-2]
    n_heads = q.shape[1]
    causal = causal and n_q > 1  # the last query sees all
    offset = consecutive(1 - n_k, n_q, q.device)  # row r, column j: offset[r + j]
    table = None if bias is None else bias(offset)
    if table is None and windows is None and (not causal or n_q == n_k):
        return kernel(q, k, v, causal=causal, scale=scale)
    wide = q.dtype if table is None else working_dtype(q.dtype)  # a bias must not be rounded
    visible = offset_visible(offset, n_heads, causal, windows)
    if table is None:
        table = torch.zeros(1, len(offset), device=q.device)
    if visible is not None:
        table = table.masked_fill(~visible, -torch.inf)
    rows = table.to(wide).unfold(-1, n_k, 1)[None]
    on_cpu = rows.device.type == "cpu"
    if not on_cpu:
        rows = rows.contiguous()  # the kernels there want aligned rows: here is the matrix
    q, k, v = q.flip(-2).to(wide), k.to(wide), v.to(wide)
    if n_q > 1:  # once for all blocks
        k, v = share_heads(k, n_heads), share_heads(v, n_heads)
    # Row r is the query at position n_k - 1 - r: a causal one sees only n_k - r keys. In blocks of
    # rows most of the hidden half is never computed. (A GPU is faster with a single call.)
    size = CAUSAL_BLOCK if causal and on_cpu else n_q
    blocks = []
    for r in range(0, n_q, size):
        here, seen = slice(r, r + size), slice(n_k - r if causal else n_k)
        blocks.append(kernel(
            q[..., here, :], k[..., seen, :], v[..., seen, :], rows[..., here, seen], scale=scale
        ))  # fmt: skip
    return torch.cat(blocks, dim=-2).flip(-2)


def _fused_by_mask(q, k, v, at, mask, causal, windows, encoding, scale, temperature) -> Tensor:
    """For everything else: the kernel gets the n_q x n_k matrix of biases and masks."""
    n_k = k.shape[-2]
    q, k, bias = encoded(q, k, at, encoding)
    visible = visible_pairs(q.shape, n_k, mask, causal, windows, *at)
    scale = scale / temperature
    if bias is not None:
        # The kernels want the mask in the type of q; a half-precision bias would be rounded.
        q, k, v = (t.to(working_dtype(t.dtype)) for t in (q, k, v))
        bias = bias.to(q.dtype) / temperature
    if visible is None:
        return kernel(q, k, v, bias, scale=scale)
    # Empty rows attend to everything and are zeroed after: no kernel then meets a softmax of
    # nothing, whose value and gradient differ between kernels.
    nothing = ~visible.any(dim=-1, keepdim=True)
    attend = visible | nothing
    kernel_mask = attend if bias is None else bias.masked_fill(~attend, -torch.inf)
    out = kernel(q, k, v, kernel_mask, scale=scale)
    return out.masked_fill(nothing, 0.0)
