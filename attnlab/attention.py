"""Scaled dot-product attention and the multi-head module.

Four back ends compute the same numbers: "dense", below, forms scores and weights and shows them.
"fused" hands the work to torch's kernels and never forms the weights, "blocked" computes only the
scores that windows let a head see, "flex" compiles a kernel for the mask and bias at hand (see
`attnlab.backends`). "auto" takes dense where weights are asked for; on CUDA, flex for long texts
with a window or a bias by offset; blocked where windows leave less than half of the work; and fused
otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn

from attnlab import backends, flex
from attnlab.backends import (
    Mask,
    checked_mask,
    consecutive,
    encoded,
    group_size,
    per_group,
    per_head,
    visible_pairs,
)
from attnlab.cache import KVCache
from attnlab.positions.base import Encoding, working_dtype
from attnlab.windows import Windows, checked_windows

BACKENDS = ("auto", "dense", "fused", "blocked", "flex")

Queries = Float[Tensor, "batch n_heads n_q d_head"]
Keys = Float[Tensor, "batch n_kv_heads n_k d_head"]
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
    n_heads, n_kv_heads = q.shape[1], k.shape[1]
    q, k, bias = encoded(q, k, at, encoding)
    wide = working_dtype(q.dtype)
    scores = per_head(per_group(q.to(wide), n_kv_heads) @ k.to(wide).mT, n_heads) * scale
    if bias is not None:
        scores = scores + bias
    if temperature != 1:
        scores = scores / temperature
    visible = visible_pairs(q.shape, k.shape[-2], mask, causal, windows, *at)
    return scores if visible is None else scores.masked_fill(~visible, -torch.inf)


def softmax(scores: Weights) -> Weights:
    """Softmax over the keys; a row with nothing to attend (all -inf) gives zeros, not NaN."""
    if scores.shape[-1] == 0:
        return scores
    nothing = scores.detach().amax(dim=-1, keepdim=True) == -torch.inf
    # To look would make a GPU wait; on a CPU the usual case is three times as fast.
    look = scores.device.type == "cpu" and not torch.compiler.is_compiling()
    if look and not nothing.any():
        return scores.softmax(dim=-1)
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
        ValueError: as `attention_scores`; for an unknown back end; for weights from any other than
            dense; for what a back end that was asked for by name cannot do.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown back end {backend!r}; known: {', '.join(BACKENDS)}")
    fast = backend not in ("auto", "dense")
    if return_weights and fast:
        raise ValueError(f"the {backend} back end never forms the weights: use backend='dense'")
    if v.dim() != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"k {tuple(k.shape)} and v {tuple(v.shape)} must agree in batch, heads and tokens"
        )
    needs_weights = encoding is not None and encoding.needs_weights
    if needs_weights and fast:
        raise ValueError(
            f"{type(encoding).__name__} adds to the values and so needs the weights, which the "
            f"{backend} back end never forms: use backend='dense'"
        )
    _check(q, k, temperature)
    at = _positions(q, k, causal, windows, encoding, q_pos, k_pos)
    rest = (causal, windows, encoding)
    if backend == "dense" or return_weights or needs_weights:
        with torch.autocast(q.device.type, enabled=False):
            weights = softmax(_scores(q, k, at, mask, *rest, scale, temperature))
            out = per_head(per_group(weights, v.shape[1]) @ v.to(weights.dtype), q.shape[1])
            if needs_weights:
                out = out + encoding.values(weights, *at)
        return (out.to(v.dtype), weights) if return_weights else out.to(v.dtype)

    scale = q.shape[-1] ** -0.5 if scale is None else scale
    empty = 0 in (*q.shape, *k.shape)
    in_order = q_pos is None and k_pos is None and mask is None and not empty
    by_offset = in_order and backends.is_by_offset(encoding)
    if backend == "auto":
        backend = backends.chosen(
            q, k, v, by_offset=by_offset, causal=causal, windows=windows, encoding=encoding
        )
    elif empty:
        backend = "fused"
    elif backend == "blocked" and not (by_offset and q.shape[-2] == k.shape[-2]):
        raise ValueError(
            "the blocked back end takes whole texts in order, without a mask, and encodings whose "
            "bias depends on the offset alone: use backend='fused' or 'dense'"
        )
    elif backend == "flex":
        problem = (
            "it takes texts in order, causal or windows but no mask, and biases by offset alone"
        )
        if by_offset:
            trained = () if encoding is None else encoding.parameters()
            problem = flex.problem(q, k, v, *trained)
        if problem:
            raise ValueError(f"no flex back end here: {problem}. Use backend='fused' or 'dense'")
    with torch.autocast(q.device.type, enabled=False):
        if backend == "blocked":
            out = backends.blocked(q, k, v, at, *rest, scale, temperature)
        elif backend == "flex":
            out = backends.by_flex(q, k, v, at, *rest, scale, temperature)
        else:
            out = backends.fused(q, k, v, at, mask, by_offset, *rest, scale, temperature)
    return out.to(v.dtype)


def _check(q: Tensor, k: Tensor, temperature: float) -> None:
    for name, t in (("q", q), ("k", k)):
        if t.dim() != 4:
            raise ValueError(f"{name} must be (batch, heads, tokens, d_head), got {tuple(t.shape)}")
    if q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in batch or d_head")
    group_size(q.shape[1], k.shape[1])
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
