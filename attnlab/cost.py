"""What a layer of attention costs, computed from its sizes alone."""

from collections.abc import Sequence

from attnlab.windows import Window, Windows, checked_windows, products


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
    pairs = sum(
        products(n_tokens, window, causal) for window in checked_windows(windows, n_heads)
    )
    parts = {
        "projections": 2 * n_tokens * d_model * (wide + 2 * narrow),
        "scores": 2 * pairs * (wide // n_heads),
        "values": 2 * pairs * (wide // n_heads),
        "output": 2 * n_tokens * wide * d_model,
    }
    return {**parts, "total": sum(parts.values())}


def kv_cache_bytes(
    n_tokens: int,
    n_kv_heads: int,
    d_head: int,
    *,
    n_layers: int = 1,
    bytes_per_number: int = 2,
    windows: Windows = None,
) -> int:
    """Bytes of keys and values that a decoder keeps of n_tokens of one text.

    2 * n_layers * n_tokens * n_kv_heads * d_head * bytes_per_number; with windows no more than the
    newest tokens that the head with the widest window sees behind itself.

    Args:
        bytes_per_number: 2 for bfloat16 and float16, 4 for float32.
        windows: of the heads of each layer. The cache keeps the same tokens for all of them.

    Source: Shazeer 2019, section 2.4.1.

    Raises:
        ValueError: for sizes below 0, or bad windows.
    """
    if min(n_tokens, n_kv_heads, d_head, n_layers, bytes_per_number) < 0:
        raise ValueError("sizes cannot be below 0")
    several = isinstance(windows, Sequence) and not isinstance(windows, Window)
    each = checked_windows(windows, len(windows) if several else 1)
    kept = n_tokens if None in each else min(n_tokens, max(w.width for w in each))
    return 2 * n_layers * kept * n_kv_heads * d_head * bytes_per_number
