"""A layer's sizes, its parameters and its floating-point operations."""

from dataclasses import dataclass

import torch

from attnlab.cost.encodings import ENCODINGS, Shape, encoding_cost
from attnlab.positions.base import working_dtype
from attnlab.windows import Windows, checked_windows, products

WORK = ("forward", "training", "decoding")
BACKENDS = ("dense", "fused", "blocked")


def _widths(d_model: int, n_heads: int, d_head: int | None, n_kv_heads: int | None):
    """Width of all query heads together, and of all key heads."""
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    if n_kv_heads < 1 or n_heads % n_kv_heads:
        raise ValueError(f"n_kv_heads = {n_kv_heads} does not divide n_heads = {n_heads}")
    if d_head is None:
        if d_model % n_heads:
            raise ValueError(
                f"n_heads = {n_heads} does not divide d_model = {d_model}: give d_head"
            )
        d_head = d_model // n_heads
    return n_heads * d_head, n_kv_heads * d_head


def attention_parameters(
    d_model: int,
    n_heads: int,
    d_head: int | None = None,
    n_kv_heads: int | None = None,
    bias: bool = False,
) -> int:
    """Number of parameters of one multi-head layer: W_Q, W_K, W_V and W_O, and their biases.

    4 * d_model^2 in the usual case: n_heads * d_head = d_model, no shared heads, no biases.

    Source: Vaswani et al. 2017, section 3.2.2; for n_kv_heads, Ainslie et al. 2023.

    Raises:
        ValueError: if d_head is not given and n_heads does not divide d_model, or n_kv_heads does
            not divide n_heads.
    """
    wide, narrow = _widths(d_model, n_heads, d_head, n_kv_heads)
    weights = d_model * wide + 2 * d_model * narrow + wide * d_model
    return weights + (wide + 2 * narrow + d_model if bias else 0)


def attention_flops(
    n_tokens: int,
    d_model: int,
    n_heads: int,
    d_head: int | None = None,
    n_kv_heads: int | None = None,
    windows: Windows = None,
    causal: bool = False,
) -> dict[str, int]:
    """Floating-point operations of one forward pass over n_tokens, a multiply-add counted as two.

    Returns "projections" (Q, K and V), "scores" (QK^T), "values" (AV), "output" (W_O) and "total".
    The softmax, O(n_heads * n_tokens^2) but no matrix product, is not counted.

    Args:
        windows: count scores and values as `attnlab.windows.blocked_attention` computes them for
            these windows, the filling of its blocks included. A mask alone saves nothing: without
            windows all n_tokens^2 pairs of each head are counted, causal or not.
        causal: for windows: they reach back only.

    Raises:
        ValueError: as `attention_parameters`, and for bad windows.
    """
    wide, narrow = _widths(d_model, n_heads, d_head, n_kv_heads)
    pairs = sum(products(n_tokens, window, causal) for window in checked_windows(windows, n_heads))
    parts = {
        "projections": 2 * n_tokens * d_model * (wide + 2 * narrow),
        "scores": 2 * pairs * (wide // n_heads),
        "values": 2 * pairs * (wide // n_heads),
        "output": 2 * n_tokens * wide * d_model,
    }
    return {**parts, "total": sum(parts.values())}


@dataclass(frozen=True)
class Layer:
    """The sizes of a `attnlab.MultiHeadAttention` and of the encoding around it.

    Args:
        encoding: a name of `attnlab.positions.names()`; max_len: rows of a learned table.
        backend: "dense" forms scores and weights (n_heads * n^2 numbers each), "fused" never holds
            them, "blocked" computes what windows leave.
        windows, causal, bias, dtype: of `attnlab.MultiHeadAttention`. Scores and weights are held
            in float32 for smaller types too.

    Raises:
        ValueError: for sizes below 1, heads that do not fit, unknown names, or a back end that
            cannot serve the encoding.
    """

    d_model: int
    n_heads: int
    d_head: int | None = None
    n_kv_heads: int | None = None
    encoding: str = "none"
    backend: str = "dense"
    windows: Windows = None
    causal: bool = False
    bias: bool = True
    dtype: torch.dtype = torch.float32
    max_len: int = 512

    def __post_init__(self):
        sizes = (self.d_model, self.n_heads, self.max_len, self.d_head or 1)
        if min(sizes) < 1:
            raise ValueError("d_model, n_heads, d_head and max_len must be at least 1")
        wide, narrow = _widths(self.d_model, self.n_heads, self.d_head, self.n_kv_heads)
        # A frozen dataclass: the two defaults that follow from others are filled in here.
        object.__setattr__(self, "d_head", wide // self.n_heads)
        object.__setattr__(self, "n_kv_heads", narrow // self.d_head)
        checked_windows(self.windows, self.n_heads)
        for what, name, known in (
            ("encoding", self.encoding, ENCODINGS), ("back end", self.backend, BACKENDS)
        ):  # fmt: skip
            if name not in known:
                raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")
        if self.encoding == "shaw" and self.backend != "dense":
            raise ValueError("Shaw adds to the values and so needs the weights: backend='dense'")

    @property
    def wide(self) -> int:
        """Numbers of a token's queries, all heads together."""
        return self.n_heads * self.d_head

    @property
    def narrow(self) -> int:
        """Numbers of a token's keys, all heads together; of its values the same."""
        return self.n_kv_heads * self.d_head

    @property
    def number(self) -> int:
        """Bytes of a number of the activations and parameters."""
        return self.dtype.itemsize

    @property
    def score(self) -> int:
        """Bytes of a score or weight."""
        return working_dtype(self.dtype).itemsize

    def shape(self, n_tokens: int, work: str, batch: int) -> Shape:
        """How many queries meet how many keys."""
        if work not in WORK:
            raise ValueError(f"unknown work {work!r}; known: {', '.join(WORK)}")
        if min(n_tokens, batch) < 1:
            raise ValueError("n_tokens and batch must be at least 1")
        decoding = work == "decoding"
        n_keys = self.kept(n_tokens) if decoding else n_tokens
        return Shape(batch, 1 if decoding else n_tokens, n_keys)

    def kept(self, n_tokens: int) -> int:
        """Tokens that one new token attends to, itself included: all, or what the widest window
        leaves of them."""
        each = checked_windows(self.windows, self.n_heads)
        return n_tokens if None in each else min(n_tokens, max(w.width for w in each) + 1)

    def pairs(self, shape: Shape) -> int:
        """Query-key products of all heads for one text.

        Dense computes every pair and hides what a mask hides. A fused kernel leaves out the blocks
        that a causal mask hides altogether, about half.
        """
        n_q, n_k = shape.n_queries, shape.n_keys
        if self.backend == "blocked" and n_q == n_k:
            each = checked_windows(self.windows, self.n_heads)
            return sum(products(n_q, window, self.causal) for window in each)
        if self.backend == "fused" and self.causal and n_q == n_k:
            return self.n_heads * n_q * (n_q + 1) // 2
        return self.n_heads * n_q * n_k


def layer_parameters(layer: Layer) -> int:
    """Trained numbers of the four projections and of the encoding."""
    own = attention_parameters(
        layer.d_model, layer.n_heads, layer.d_head, layer.n_kv_heads, layer.bias
    )
    return own + encoding_cost(layer, Shape(1, 1, 1)).parameters


def layer_flops(
    layer: Layer, n_tokens: int, work: str = "forward", batch: int = 1
) -> dict[str, int]:
    """Floating-point operations of the matrix products, a multiply-add counted as two.

    Returns "projections", "scores", "values", "output", "encoding"; in training also "backward",
    twice the forward pass (each product C = A B needs dA = dC B^T and dB = A^T dC), and
    "recomputed", the scores that a fused kernel forms once more; and "total". Adding the biases of
    the projections is not counted.

    Args:
        n_tokens: tokens of each text; in decoding the one new token and those before it.
        work: "forward", "training" (forward and backward) or "decoding" (one new token).

    Source: Vaswani et al. 2017, Table 1 (orders of growth); recomputation: Dao et al. 2022,
    section 3.1.

    Raises:
        ValueError: for unknown work, or sizes below 1.
    """
    shape = layer.shape(n_tokens, work, batch)
    tokens, pairs = batch * shape.n_queries, batch * layer.pairs(shape)
    parts = {
        "projections": 2 * tokens * layer.d_model * (layer.wide + 2 * layer.narrow),
        "scores": 2 * pairs * layer.d_head,
        "values": 2 * pairs * layer.d_head,
        "output": 2 * tokens * layer.wide * layer.d_model,
        "encoding": encoding_cost(layer, shape).products,
    }
    if work == "training":
        parts["backward"] = 2 * sum(parts.values())
        parts["recomputed"] = 0 if keeps_weights(layer) else parts["scores"]
    return {**parts, "total": sum(parts.values())}


def keeps_weights(layer: Layer) -> bool:
    """Whether training holds all weights: dense does, and fused where a bias is trained, since
    torch's fused CPU kernel gives a bias no gradient."""
    return layer.backend == "dense" or layer.encoding == "t5"


def elementwise_flops(
    layer: Layer, n_tokens: int, work: str = "forward", batch: int = 1
) -> dict[str, int]:
    """Operations of the forward pass that are no matrix product: "softmax", "encoding", "total".

    For each score: one for the scale, five for softmax (largest, difference, exponential, sum,
    quotient), an exponential counted as one. Few beside the products, but each of them moves a
    number for one operation: on a dense back end they take more time than their count says.
    """
    shape = layer.shape(n_tokens, work, batch)
    parts = {
        "softmax": 6 * batch * layer.pairs(shape),
        "encoding": encoding_cost(layer, shape).elementwise,
    }
    return {**parts, "total": sum(parts.values())}
