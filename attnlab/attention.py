"""Scaled dot-product attention and the multi-head module.

Three back ends compute the same numbers: "dense" forms scores and weights and shows them, "fused"
hands the work to torch's kernels and never forms the weights, "blocked" computes only the scores
that windows let a head see. "auto" takes dense where weights are asked for, blocked where windows
leave less than half of the work, and fused otherwise.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn

from attnlab.cache import KVCache
from attnlab.positions.base import Encoding, working_dtype
from attnlab.windows import (
    Windows,
    blocked_attention,
    blocks_of,
    checked_windows,
    in_blocks,
    offset_visible,
)

BACKENDS = ("auto", "dense", "fused", "blocked")
CAUSAL_BLOCK = 256  # query rows that share one call of the kernel, where that saves work


def consecutive(start: int, stop: int, device: torch.device) -> Int[Tensor, " n"]:
    """start ... stop - 1; the same tensor call after call, so that encodings know it again."""
    if torch.compiler.is_compiling():
        return torch.arange(start, stop, device=device)
    return _consecutive(start, stop, device)


@lru_cache(maxsize=64)
def _consecutive(start: int, stop: int, device: torch.device) -> Int[Tensor, " n"]:
    with torch.inference_mode(False):
        return torch.arange(start, stop, device=device)


Queries = Float[Tensor, "batch n_heads n_q d_head"]
Keys = Float[Tensor, "batch n_kv_heads n_k d_head"]
Mask = Bool[Tensor, "*#batch_n_heads #n_q #n_k"]
Weights = Float[Tensor, "batch n_heads n_q n_k"]


def attention_scores(
    q: Queries,
    k: Keys,
    *,
    mask: Mask | None = None,
    causal: bool = False,
    windows: Windows = None,
    encoding: Encoding | None = None,
    q_pos: Real[Tensor, " n_q"] | None = None,
    k_pos: Real[Tensor, " n_k"] | None = None,
    scale: float | None = None,
    temperature: float = 1.0,
) -> Weights:
    """S = (q k^T * scale + bias) / temperature, and -inf where a query may not look.

    q has n_heads heads and k has n_kv_heads; query head i reads key head i // (n_heads /
    n_kv_heads). Scores are computed in float32 also for half-precision input.

    Args:
        mask: boolean, True = may attend; broadcast to (batch, n_heads, n_q, n_k).
        causal: a query sees keys at its own position and before.
        windows: half-width w: a query sees keys at most w positions away; or a
            `attnlab.windows.Window` with a dilation. One for all heads, or one per head (None = no
            limit).
        encoding: a positional encoding; None is no encoding.
        q_pos, k_pos: positions. Default: keys 0 ... n_k - 1, and the queries are the last n_q of
            them, as when new tokens are decoded after a stored past.
        scale: default 1/sqrt(d_head).
        temperature: above 1 flattens the weights, below 1 sharpens them.

    Source: Vaswani et al. 2017, equation 1.

    Raises:
        ValueError: for shapes that do not fit, a mask that is not boolean, or a temperature that
            is not positive.
    """
    _check(q, k, temperature)
    at = _positions(q, k, causal, windows, encoding, q_pos, k_pos)
    with torch.autocast(q.device.type, enabled=False):
        return _scores(q, k, at, mask, causal, windows, encoding, scale, temperature)


def _scores(q, k, at, mask, causal, windows, encoding, scale, temperature) -> Weights:
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, bias = _encode(q, k, at, encoding)
    wide = working_dtype(q.dtype)
    scores = q.to(wide) @ k.to(wide).mT * scale
    if bias is not None:
        scores = scores + bias
    if temperature != 1:
        scores = scores / temperature
    visible = _visible(q.shape, k.shape[-2], mask, causal, windows, *at)
    return scores if visible is None else scores.masked_fill(~visible, -torch.inf)


def softmax(scores: Weights) -> Weights:
    """Softmax over the keys; a row with nothing to attend (all -inf) gives zeros, not NaN."""
    if scores.shape[-1] == 0:
        return scores
    nothing = scores.detach().amax(dim=-1, keepdim=True) == -torch.inf
    if not torch.compiler.is_compiling() and not nothing.any():
        return scores.softmax(dim=-1)  # the usual case, and three times as fast
    return scores.masked_fill(nothing, 0.0).softmax(dim=-1).masked_fill(nothing, 0.0)


def attention_weights(q: Queries, k: Keys, **options) -> Weights:
    """A = softmax(S) over the keys; takes the options of `attention_scores`.

    Each row sums to 1, or is 0 where a query has nothing to attend.
    """
    return softmax(attention_scores(q, k, **options))


def scaled_dot_product_attention(
    q: Queries,
    k: Keys,
    v: Float[Tensor, "batch n_kv_heads n_k d_v"],
    *,
    mask: Mask | None = None,
    causal: bool = False,
    windows: Windows = None,
    encoding: Encoding | None = None,
    q_pos: Real[Tensor, " n_q"] | None = None,
    k_pos: Real[Tensor, " n_k"] | None = None,
    scale: float | None = None,
    temperature: float = 1.0,
    backend: str = "auto",
    return_weights: bool = False,
) -> Float[Tensor, "batch n_heads n_q d_v"] | tuple[Tensor, Weights]:
    """softmax(S) v, with S from `attention_scores`, whose options it takes.

    A query with nothing to attend gives zeros, with gradient zero, on every back end. Weights
    come in float32 (float64 for float64 input), the output in the type of v, under autocast too.
    Dense shows a NaN in its input as NaN; torch's CPU kernel behind fused may hide it. Second
    derivatives need dense.

    Source: Vaswani et al. 2017, equation 1.

    Raises:
        ValueError: as `attention_scores`; for an unknown back end; for weights from "fused".
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown back end {backend!r}; known: {', '.join(BACKENDS)}")
    if return_weights and backend in ("fused", "blocked"):
        raise ValueError(f"the {backend} back end never forms the weights: use backend='dense'")
    if v.dim() != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"k {tuple(k.shape)} and v {tuple(v.shape)} must agree in batch, heads and tokens"
        )
    needs_weights = encoding is not None and encoding.needs_weights
    if needs_weights and backend in ("fused", "blocked"):
        raise ValueError(
            f"{type(encoding).__name__} adds to the values and so needs the weights, which the "
            f"{backend} back end never forms: use backend='dense'"
        )
    _check(q, k, temperature)
    at = _positions(q, k, causal, windows, encoding, q_pos, k_pos)
    v_heads = _share_heads(v, q.shape[1])
    rest = (causal, windows, encoding)
    if backend == "dense" or return_weights or needs_weights:
        with torch.autocast(q.device.type, enabled=False):
            weights = softmax(_scores(q, k, at, mask, *rest, scale, temperature))
            out = weights @ v_heads.to(weights.dtype)
            if needs_weights:
                out = out + encoding.values(weights, *at)
        return (out.to(v.dtype), weights) if return_weights else out.to(v.dtype)

    scale = (q.shape[-1] ** -0.5 if scale is None else scale) / temperature
    by_offset = encoding is None or type(encoding).bias is Encoding.bias
    empty = 0 in (*q.shape, *k.shape)
    in_order = q_pos is None and k_pos is None and mask is None and not empty
    blockable = in_order and by_offset and q.shape[-2] == k.shape[-2]
    if backend == "blocked" and not blockable and not empty:
        raise ValueError(
            "the blocked back end takes whole texts in order, without a mask, and encodings whose "
            "bias depends on the offset alone: use backend='fused' or 'dense'"
        )
    with torch.autocast(q.device.type, enabled=False):
        saves = backend == "auto" and blockable and _windows_save(windows, q.shape, causal)
        if saves or (backend == "blocked" and blockable):
            out = _blocked(q, k, v_heads, at, *rest, scale, temperature)
        elif in_order and by_offset and q.device.type == "cpu":
            out = _fused_by_offset(q, k, v_heads, at, *rest, scale, temperature)
        else:
            out = _fused_by_mask(q, k, v_heads, at, mask, *rest, scale, temperature)
    return out.to(v.dtype)


def _windows_save(windows: Windows, q_shape, causal: bool) -> bool:
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


def _blocked(q, k, v, at, causal, windows, encoding, scale, temperature) -> Tensor:
    """Heads with the same window together, in blocks; heads that see (nearly) all as always."""
    n_heads, n, bias = q.shape[1], q.shape[2], None
    if encoding is not None:
        q, k = encoding.qk(q, k, *at)
        bias = _relative_bias(encoding, n_heads)
        if bias(consecutive(0, 1, q.device)) is None:
            bias = None
        else:  # it must not be rounded
            q, k, v = (t.to(working_dtype(t.dtype)) for t in (q, k, v))
    k = _share_heads(k, n_heads)
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
            out = _by_offset(*part, group_bias, causal, window, scale)
        else:
            out = blocked_attention(
                *part, window, causal=causal, relative_bias=group_bias, scale=scale
            )
        for head, of_head in zip(heads, out.unbind(1), strict=True):
            outputs[head] = of_head
    return torch.stack(outputs, dim=1)


def _fused_by_offset(q, k, v, at, causal, windows, encoding, scale, temperature) -> Tensor:
    """For texts in order, where mask and bias depend on the offset alone."""
    bias = None
    if encoding is not None:
        q, k = encoding.qk(q, k, *at)
        table_of = _relative_bias(encoding, q.shape[1])

        def bias(offset):
            table = table_of(offset)
            return None if table is None else table / temperature

    return _by_offset(q, _share_heads(k, q.shape[1]), v, bias, causal, windows, scale)


def _relative_bias(encoding: Encoding, n_heads: int) -> Callable[[Tensor], Tensor | None]:
    """The encoding's bias by offset, once it is seen to be for so many heads."""

    def bias(offset: Tensor) -> Tensor | None:
        table = encoding.relative_bias(offset)
        if table is not None and table.shape[0] != n_heads:
            raise ValueError(f"{encoding} was built for {table.shape[0]} heads, got {n_heads}")
        return table

    return bias


def _by_offset(q, k, v, bias, causal, windows, scale) -> Tensor:
    """One number for each head and offset says all of mask and bias. With the queries in reverse
    order, row r of the n_q x n_k matrix is that table from place r on: a view, which the kernel
    reads like a matrix that was never built.
    """
    n_q, n_k = q.shape[-2], k.shape[-2]
    n_heads = q.shape[1]
    offset = consecutive(1 - n_k, n_q, q.device)  # row r, column j: offset[r + j]
    table = None if bias is None else bias(offset)
    if table is None and windows is None and (not causal or n_q == n_k):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    wide = q.dtype if table is None else working_dtype(q.dtype)  # a bias must not be rounded
    visible = offset_visible(offset, n_heads, causal, windows)
    if table is None:
        table = torch.zeros(1, len(offset), device=q.device)
    if visible is not None:
        table = table.masked_fill(~visible, -torch.inf)
    rows = table.to(wide).unfold(-1, n_k, 1)[None]
    if rows.device.type != "cpu":
        rows = rows.contiguous()  # the kernels there want aligned rows
    q, k, v = q.flip(-2).to(wide), k.to(wide), v.to(wide)
    # Row r is the query at position n_k - 1 - r: a causal one sees only n_k - r keys. In blocks of
    # rows most of the hidden half is never computed.
    size = CAUSAL_BLOCK if causal else n_q
    blocks = []
    for r in range(0, n_q, size):
        here, seen = slice(r, r + size), slice(n_k - r if causal else n_k)
        blocks.append(F.scaled_dot_product_attention(
            q[..., here, :], k[..., seen, :], v[..., seen, :], attn_mask=rows[..., here, seen],
            scale=scale,
        ))  # fmt: skip
    return torch.cat(blocks, dim=-2).flip(-2)


def _fused_by_mask(q, k, v, at, mask, causal, windows, encoding, scale, temperature) -> Tensor:
    """For everything else: the kernel gets the n_q x n_k matrix of biases and masks."""
    n_k = k.shape[-2]
    q, k, bias = _encode(q, k, at, encoding)
    visible = _visible(q.shape, n_k, mask, causal, windows, *at)
    if bias is not None:
        # The kernels want the mask in the type of q; a half-precision bias would be rounded.
        q, k, v = (t.to(working_dtype(t.dtype)) for t in (q, k, v))
        bias = bias.to(q.dtype) / temperature
    if visible is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    # Empty rows attend to everything and are zeroed after: no kernel then meets a softmax of
    # nothing, whose value and gradient differ between kernels.
    nothing = ~visible.any(dim=-1, keepdim=True)
    attend = visible | nothing
    kernel_mask = attend if bias is None else bias.masked_fill(~attend, -torch.inf)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=kernel_mask, scale=scale)
    return out.masked_fill(nothing, 0.0)


def _check(q: Tensor, k: Tensor, temperature: float) -> None:
    for name, t in (("q", q), ("k", k)):
        if t.dim() != 4:
            raise ValueError(f"{name} must be (batch, heads, tokens, d_head), got {tuple(t.shape)}")
    if q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in batch or d_head")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")


def _positions(q, k, causal, windows, encoding, q_pos, k_pos) -> tuple[Tensor, Tensor]:
    """Positions of queries and keys: as given, or the queries as the last n_q of the keys."""
    n_q, n_k = q.shape[-2], k.shape[-2]
    if q_pos is None and n_q > n_k and (causal or windows is not None or encoding is not None):
        raise ValueError(f"{n_q} queries on {n_k} keys: say where the queries are with q_pos")
    k_pos = consecutive(0, n_k, k.device) if k_pos is None else k_pos
    q_pos = consecutive(n_k - n_q, n_k, q.device) if q_pos is None else q_pos
    for name, pos, n in (("q_pos", q_pos, n_q), ("k_pos", k_pos, n_k)):
        if pos.shape != (n,):
            raise ValueError(f"{name} must be ({n},), got {tuple(pos.shape)}")
    return q_pos, k_pos


def _encode(q, k, at, encoding) -> tuple[Tensor, Tensor, Tensor | None]:
    """Queries and keys with positions in and heads matched, and the bias."""
    n_heads = q.shape[1]
    if encoding is None:
        return q, _share_heads(k, n_heads), None
    q, k = encoding.qk(q, k, *at)
    k = _share_heads(k, n_heads)
    bias = encoding.bias(q, k, *at)
    if bias is not None and bias.shape[1] not in (1, n_heads):
        raise ValueError(f"{encoding} was built for {bias.shape[1]} heads, got {n_heads}")
    return q, k, None if bias is None else bias.to(working_dtype(q.dtype))


def _share_heads(t: Tensor, n_heads: int) -> Tensor:
    """Repeat each key or value head for the group of query heads that shares it."""
    if t.shape[1] == n_heads:
        return t
    if n_heads % t.shape[1]:
        raise ValueError(f"{n_heads} query heads cannot share {t.shape[1]} key/value heads evenly")
    return t.repeat_interleave(n_heads // t.shape[1], dim=1)


def _visible(q_shape, n_k, mask, causal, windows, q_pos, k_pos) -> Tensor | None:
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


# Who watches the weights of which module: kept beside the modules, so that copies of a module
# are not watched too.
_watchers: "WeakKeyDictionary[nn.Module, list]" = WeakKeyDictionary()


class MultiHeadAttention(nn.Module):
    """concat(head_1 ... head_h) W_O, where head i attends with x W_Q_i, x W_K_i and x W_V_i.

    The parameters of all heads lie in two matrices, so that one product serves all heads; the
    same numbers are seen head by head through `w_q`, `w_k`, `w_v` and `w_o`.

    Args:
        n_kv_heads: fewer key/value heads than query heads: grouped-query (1: multi-query)
            attention. Default n_heads.
        d_head: default d_model / n_heads.
        encoding: a positional encoding that acts on queries, keys or scores. (What acts on the
            input belongs to the model around this layer.)
        bias: whether the projections have biases.
        windows: as in `attention_scores`.
        scale: of the scores, default 1/sqrt(d_head).

    Attributes:
        gates: None, or a tensor (n_heads,) or (batch, n_heads) that multiplies the heads' outputs;
            it may require gradients. No parameter: it is not saved with the module.
        temperature, backend: as in `scaled_dot_product_attention`.

    Source: Vaswani et al. 2017, section 3.2.2; n_kv_heads: Ainslie et al. 2023; gates: Michel et
    al. 2019, section 2.3.

    Raises:
        ValueError: if n_heads does not divide d_model and d_head is not given, or n_kv_heads
            does not divide n_heads.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        encoding: Encoding | None = None,
        bias: bool = True,
        windows: Windows = None,
        scale: float | None = None,
    ):
        super().__init__()
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if min(d_model, n_heads, n_kv_heads) < 1 or (d_head is not None and d_head < 1):
            raise ValueError("d_model, n_heads, n_kv_heads and d_head must be at least 1")
        if d_head is None:
            if d_model % n_heads:
                fit = [h for h in range(1, min(d_model, 32) + 1) if d_model % h == 0]
                raise ValueError(
                    f"{n_heads} heads do not divide d_model = {d_model}: "
                    f"take {', '.join(map(str, fit))} heads, or give d_head"
                )
            d_head = d_model // n_heads
        if windows is not None:
            checked_windows(windows, n_heads)
        if n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads = {n_kv_heads} does not divide n_heads = {n_heads}")
        self.d_model, self.n_heads, self.n_kv_heads, self.d_head = (
            d_model, n_heads, n_kv_heads, d_head,
        )  # fmt: skip
        self.in_proj = nn.Linear(d_model, (n_heads + 2 * n_kv_heads) * d_head, bias=bias)
        self.out_proj = nn.Linear(n_heads * d_head, d_model, bias=bias)
        self.encoding, self.windows, self.scale = encoding, windows, scale
        self.gates: Tensor | None = None
        self.temperature, self.backend = 1.0, "auto"
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot-uniform weights for each of the four projections, biases zero."""
        for weight in (*self.in_proj.weight.split(self._sizes), self.out_proj.weight):
            nn.init.xavier_uniform_(weight)
        for projection in (self.in_proj, self.out_proj):
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    @property
    def _sizes(self) -> tuple[int, int, int]:
        narrow = self.n_kv_heads * self.d_head
        return self.n_heads * self.d_head, narrow, narrow

    def _rows(self, which: int) -> Float[Tensor, "heads d_model d_head"]:
        rows = self.in_proj.weight.split(self._sizes)[which]
        return rows.unflatten(0, (-1, self.d_head)).mT

    @property
    def w_q(self) -> Float[Tensor, "n_heads d_model d_head"]:
        """The query projection of each head: q_i = x @ w_q[i] (+ bias). Shares storage."""
        return self._rows(0)

    @property
    def w_k(self) -> Float[Tensor, "n_kv_heads d_model d_head"]:
        """The key projection of each key head. Shares storage."""
        return self._rows(1)

    @property
    def w_v(self) -> Float[Tensor, "n_kv_heads d_model d_head"]:
        """The value projection of each value head. Shares storage."""
        return self._rows(2)

    @property
    def w_o(self) -> Float[Tensor, "n_heads d_head d_model"]:
        """Each head's rows of W_O: output = sum_i head_i @ w_o[i] (+ bias). Shares storage."""
        return self.out_proj.weight.mT.unflatten(0, (self.n_heads, self.d_head))

    def heads(
        self, x: Float[Tensor, "batch n d_model"], context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of x, keys and values of context (default x), each (batch, heads, n, d_head)."""
        if context is None:
            parts = self.in_proj(x).split(self._sizes, dim=-1)
        else:
            sizes = (self._sizes[0], 2 * self._sizes[1])
            w_x, w_context = self.in_proj.weight.split(sizes)
            b_x, b_context = (
                (None, None) if self.in_proj.bias is None else self.in_proj.bias.split(sizes)
            )
            keys_values = F.linear(context, w_context, b_context)
            parts = (F.linear(x, w_x, b_x), *keys_values.chunk(2, dim=-1))
        # (batch, n, heads * d_head) -> (batch, n, heads, d_head) -> (batch, heads, n, d_head)
        return tuple(p.unflatten(-1, (-1, self.d_head)).transpose(1, 2) for p in parts)

    def forward(
        self,
        x: Float[Tensor, "batch n d_model"],
        context: Float[Tensor, "batch n_k d_model"] | None = None,
        *,
        mask: Mask | None = None,
        padding: Bool[Tensor, "batch n_k"] | None = None,
        causal: bool = False,
        pos: Real[Tensor, " n"] | None = None,
        cache: KVCache | None = None,
        return_weights: bool = False,
    ) -> Float[Tensor, "batch n d_model"] | tuple[Tensor, Weights]:
        """Attend from x to context (default: x itself).

        Args:
            mask: as in `attention_scores`.
            padding: True = a real token, False = padding that nobody may look at.
            pos: positions of the tokens of x, default 0 ... n - 1. Those of another context are
                always 0 ... n_k - 1.
            cache: x goes on where the cache ends; its tokens see those in the cache too. Masks then
                cover the tokens that the cache keeps and the new ones.

        Raises:
            ValueError: for shapes or masks that do not fit; for a cache with context or pos.
        """
        for name, t in (("x", x), ("context", x if context is None else context)):
            if t.dim() != 3 or t.shape[-1] != self.d_model:
                raise ValueError(
                    f"{name} must be (batch, tokens, d_model = {self.d_model}), "
                    f"got {tuple(t.shape)}"
                )
        if context is not None and context.shape[0] != x.shape[0]:
            raise ValueError(f"x has batch {x.shape[0]} and context {context.shape[0]}")
        if cache is not None and (context is not None or pos is not None):
            raise ValueError("a cache knows its positions and its context: give neither beside it")
        q, k, v = self.heads(x, context)
        if cache is not None:
            k, v = cache.append(k, v)
        n_q, n_k = q.shape[-2], k.shape[-2]
        if padding is not None:
            if padding.dtype != torch.bool or padding.shape != (len(x), n_k):
                raise ValueError(
                    f"padding must be boolean (batch, tokens) = {(len(x), n_k)}, True = real, "
                    f"got {padding.dtype} {tuple(padding.shape)}"
                )
            real = padding[:, None, None, :]
            if mask is not None:
                mask = checked_mask(mask, (len(x), self.n_heads, n_q, n_k)) & real
            else:
                mask = real
        q_pos = k_pos = None
        if cache is not None:
            if cache.seen > n_q:
                q_pos = consecutive(cache.seen - n_q, cache.seen, x.device)
                k_pos = consecutive(cache.seen - n_k, cache.seen, x.device)
        elif pos is not None or n_q != n_k:
            q_pos = consecutive(0, n_q, x.device) if pos is None else pos
            k_pos = q_pos if context is None else consecutive(0, n_k, x.device)
        watchers = _watchers.get(self, ())
        watched = return_weights or len(watchers) > 0
        result = scaled_dot_product_attention(
            q, k, v, mask=mask, causal=causal, windows=self.windows, encoding=self.encoding,
            q_pos=q_pos, k_pos=k_pos, scale=self.scale, temperature=self.temperature,
            backend="dense" if watched else self.backend, return_weights=watched,
        )  # fmt: skip
        heads, weights = result if watched else (result, None)
        for keep in watchers:
            keep(weights)
        if self.gates is not None:
            if self.gates.shape not in ((self.n_heads,), (len(x), self.n_heads)):
                raise ValueError(
                    f"gates must be (n_heads,) = ({self.n_heads},) or (batch, n_heads), "
                    f"got {tuple(self.gates.shape)}"
                )
            heads = heads * self.gates[..., None, None].to(heads)
        # back to (batch, n, heads * d_head): the concatenation of the heads
        out = self.out_proj(heads.transpose(1, 2).flatten(-2))
        return (out, weights) if return_weights else out

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, n_heads={self.n_heads}, d_head={self.d_head}" + (
            f", n_kv_heads={self.n_kv_heads}" if self.n_kv_heads != self.n_heads else ""
        )


@contextmanager
def capture(model: nn.Module) -> Iterator[dict[str, Weights]]:
    """Keep the weights of every MultiHeadAttention inside model while the block runs.

        with capture(model) as seen:
            model(x)
        seen["layers.0.attention"]    # (batch, n_heads, n_q, n_k), detached

    The layers run on the dense back end meanwhile. A layer called twice keeps its last weights; a
    layer that the model has under two names appears under the first.
    """
    seen: dict[str, Weights] = {}
    keepers = {
        module: lambda weights, name=name: seen.__setitem__(name, weights.detach())
        for name, module in model.named_modules()
        if isinstance(module, MultiHeadAttention)
    }
    try:
        for module, keep in keepers.items():
            _watchers.setdefault(module, []).append(keep)
        yield seen
    finally:
        for module, keep in keepers.items():
            _watchers[module].remove(keep)
