"""Bytes: those that pass between processor and memory, those held at once, and the KV cache."""

from collections.abc import Sequence

from attnlab.cost.encodings import Shape, encoding_cost
from attnlab.cost.sizes import Layer, keeps_weights
from attnlab.windows import Window, Windows, blocks_of, checked_windows, in_blocks


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


def bytes_moved(
    layer: Layer, n_tokens: int, work: str = "forward", batch: int = 1
) -> dict[str, int]:
    """Bytes that pass between processor and memory if every operation reads its operands from
    memory once and writes its result back: what small caches come to for large tensors.

    Returns "projections", "scores", "softmax" (scale and mask included), "values", "output",
    "encoding"; in training also "backward"; and "total". A fused kernel reads q, k and v and
    writes the heads: all is then in "values"; blocked counts as fused. Keys that fit no cache are
    read again for each block of queries, which is left out.

    Args: as `attnlab.cost.layer_flops`.

    Source: Dao et al. 2022 (FlashAttention), section 3.2 and theorem 2.
    """
    shape = layer.shape(n_tokens, work, batch)
    b, s = layer.number, layer.score
    new = batch * shape.n_queries
    scores = batch * layer.pairs(shape) * s
    x, q = new * layer.d_model * b, new * layer.wide * b
    kv = batch * shape.n_keys * layer.narrow * b  # keys; values the same: in decoding, the cache
    made = new * (layer.wide + 2 * layer.narrow) * b
    products = {
        "projections": x + layer.d_model * (layer.wide + 2 * layer.narrow) * b + made,
        "scores": 0,
        "softmax": 0,
        "values": q + 2 * kv + q,
        "output": q + layer.wide * layer.d_model * b + x,
    }
    if layer.backend == "dense":
        products |= {"scores": q + kv + scores, "values": scores + kv + q}
    masked = layer.causal or layer.windows is not None
    elementwise = {
        # scale: read, write; mask: read, write; softmax: read twice (largest, sum), write
        "softmax": (7 if masked else 5) * scores if layer.backend == "dense" else 0,
        "encoding": encoding_cost(layer, shape).moved,
    }
    parts = products | elementwise
    if work == "training":
        # C = A B: forward moves A, B and C; backward twice as much (dC, B, dA and dC, A, dB).
        # An elementwise operation moves about as much on the way back.
        parts["backward"] = 2 * sum(products.values()) + sum(elementwise.values())
    return {**parts, "total": sum(parts.values())}


def peak_memory(
    layer: Layer, n_tokens: int, work: str = "forward", batch: int = 1
) -> dict[str, int]:
    """The bytes that the layer holds when it holds most, beyond its parameters and its input, as
    attnlab computes it on a CPU.

    Returns "activations" (queries, keys, values and what is made of them), "scores" (matrices of
    n_heads * n_queries * n_keys numbers, and masks), "encoding", "gradients" (training), "cache"
    (decoding), all at that moment, and "total".

    Within 15 % of what is measured (blocked: 25 %, for one text and one window for all heads) where
    the tensors are larger than the working space of torch's kernels, about 1 MB for each thread. On
    other devices other kernels hold other things.

    Args: as `attnlab.cost.layer_flops`.

    Source: counted in attnlab's own code; compare Dao et al. 2022 (FlashAttention), theorem 1.
    """
    shape = layer.shape(n_tokens, work, batch)
    encoding = encoding_cost(layer, shape)
    moments = _training(layer, shape) if work == "training" else _forward(layer, shape)
    moments.append({"encoding": encoding.making})
    cache = 2 * batch * shape.n_keys * layer.narrow * layer.number if work == "decoding" else 0
    most = {"activations": 0, "scores": 0, "encoding": 0, "gradients": 0, "cache": cache}
    most |= max(moments, key=lambda parts: sum(parts.values()))
    return {**most, "total": sum(most.values())}


def _activations(layer: Layer, shape: Shape) -> tuple[int, int, int]:
    """Bytes of the heads' outputs, of queries, keys and values, and of what is made of those before
    attention."""
    b, new, old = layer.number, shape.batch * shape.n_queries, shape.batch * shape.n_keys
    heads = new * layer.wide * b
    made = new * (layer.wide + 2 * layer.narrow) * b
    shared = layer.narrow < layer.wide
    copied = heads if shared and layer.backend == "fused" else 0  # the queries of a group together
    if layer.backend == "blocked":
        for window in checked_windows(layer.windows, layer.n_heads):
            if in_blocks(shape.n_keys, window, layer.causal):
                cut = blocks_of(shape.n_keys, window, layer.causal)
                met = cut.step * cut.n_blocks * cut.span  # keys that all blocks meet
                of_head = shape.batch * layer.d_head * b
                # the blocks' stretches of keys and of values; interleaved texts are copies, too
                copied += (2 * met + (6 * shape.n_keys if cut.step > 1 else 0)) * of_head
    if layer.backend == "dense" and b < layer.score and shape.n_queries < shape.n_keys:
        copied = old * layer.narrow * layer.score  # the cache in float32, for the scores
    return heads, made, copied


def _matrices(layer: Layer, shape: Shape) -> tuple[int, int]:
    """Bytes of one matrix of scores or weights, and of a boolean mask."""
    pairs = shape.n_queries * shape.n_keys
    each_head = layer.n_heads if layer.windows is not None else 1
    masked = layer.causal or layer.windows is not None
    all_pairs = layer.pairs(shape) if layer.backend == "blocked" else layer.n_heads * pairs
    matrix = shape.batch * all_pairs * layer.score
    return matrix, each_head * pairs if masked else 0


def _forward(layer: Layer, shape: Shape) -> list[dict[str, int]]:
    """What is held while attention runs, and while its output is made."""
    encoding = encoding_cost(layer, shape)
    heads, made, copied = _activations(layer, shape)
    matrix, mask = _matrices(layer, shape)
    stays = encoding.tables + encoding.copies
    output = shape.batch * shape.n_queries * layer.d_model * layer.number
    if layer.backend == "dense":  # scores before and after scaling, or scores and weights
        attending = {
            "activations": made + copied,
            "scores": 2 * matrix + 2 * mask,
            "encoding": stays + encoding.turned + encoding.bias,
        }
    else:
        grouped = 3 * heads if layer.backend == "blocked" else 0  # heads of one window together
        attending = {
            "activations": made + copied + grouped + heads,
            "encoding": stays + encoding.turned,
        }
    concatenated = {"activations": made + heads + max(heads, output), "encoding": stays}
    return [attending, concatenated]


def _training(layer: Layer, shape: Shape) -> list[dict[str, int]]:
    """What is held while the gradient passes through attention, and through the projections."""
    encoding = encoding_cost(layer, shape)
    heads, made, copied = _activations(layer, shape)
    matrix, mask = _matrices(layer, shape)
    stays = encoding.tables + encoding.copies + encoding.saved
    output = layer.wide * layer.d_model * layer.number  # the gradient of W_O
    if keeps_weights(layer):
        # Weights, their gradient, and that of the scores. The values are done with: turned queries
        # and keys are copies, and then nothing holds the projections any longer.
        attention = {
            "activations": (0 if encoding.turned else made) + copied,
            "scores": 3 * matrix + mask,
            "encoding": stays + encoding.turned,
            "gradients": heads + output,
        }
    else:
        attention = {
            "activations": made + copied + heads,
            "encoding": stays + encoding.turned,
            "gradients": heads + made + output,  # of the heads; of queries, keys and values
        }
    x = shape.batch * shape.n_queries * layer.d_model * layer.number
    inputs = layer.d_model * (layer.wide + 2 * layer.narrow) * layer.number
    projections = {
        "encoding": encoding.tables + encoding.saved,
        "gradients": made + x + inputs + output + encoding.parameters * layer.number,
    }
    return [attention, projections]
