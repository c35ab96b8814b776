"""What each encoding of the registry adds to a layer, operation by operation as attnlab does it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

CLIP, BUCKETS, SANDWICH = 16, 32, 128  # the defaults of Shaw, T5Bias and Sandwich
INDEX, EXACT = 8, 8  # bytes of a position (int64), and of the float64 in which tables are made


class Shape(NamedTuple):
    """How many texts, how many queries of each, and how many keys each query meets."""

    batch: int
    n_queries: int
    n_keys: int


@dataclass(frozen=True)
class EncodingCost:
    """What an encoding adds to the forward pass of one layer.

    Attributes:
        parameters: trained numbers.
        products: FLOPs of matrix products; elementwise: other operations.
        moved: bytes read and written.
        tables: bytes that stay while the layer runs: positions, sines, a bias.
        copies: bytes of the input with positions added.
        turned: bytes beside queries and keys that attention needs: turned or reordered ones.
        saved: bytes more that training holds.
        bias: bytes of the matrix that the dense back end adds to the scores.
        making: bytes that the layer holds while tables are made or queries and keys turned.
    """

    parameters: int = 0
    products: int = 0
    elementwise: int = 0
    moved: int = 0
    tables: int = 0
    copies: int = 0
    turned: int = 0
    saved: int = 0
    bias: int = 0
    making: int = 0


def _none(layer, shape: Shape) -> EncodingCost:
    return EncodingCost()


def _added(layer, shape: Shape, rows: int = 0) -> EncodingCost:
    """x + table: n d additions, whether the table is computed (rows = 0) or trained."""
    numbers, table = shape.n_queries * layer.d_model, shape.n_queries * layer.d_model * layer.score
    widened = 0 if layer.number == layer.score else shape.batch * layer.score
    return EncodingCost(
        parameters=rows * layer.d_model,
        elementwise=shape.batch * numbers,
        # The sum reads x and the table and writes; rows that are looked up are copied first.
        moved=2 * shape.batch * numbers * layer.number + table * (3 if rows else 1),
        tables=0 if rows else table,
        copies=shape.batch * numbers * layer.number,
        # angles, sines and cosines (half as many each), then all, in float64
        making=0 if rows else numbers * (5 * EXACT // 2 + widened),
    )


def _sinusoidal(layer, shape: Shape) -> EncodingCost:
    return _added(layer, shape)


def _learned(layer, shape: Shape) -> EncodingCost:
    return _added(layer, shape, layer.max_len)


def _sinusoidal_learned(layer, shape: Shape) -> EncodingCost:
    """The sine table before the layer and the trained one after it, when the sum is done with."""
    before, after = _added(layer, shape), _added(layer, shape, layer.max_len)
    return EncodingCost(
        parameters=after.parameters,
        elementwise=before.elementwise + after.elementwise,
        moved=before.moved + after.moved,
        tables=before.tables,
        copies=before.copies,
        saved=after.parameters * layer.number,  # the gradient of the later table comes first
        making=before.making,
    )


def _rope(layer, shape: Shape) -> EncodingCost:
    """a cos + b sin for every number of q and k: three operations. The cache keeps keys as they
    leave the projection, so decoding turns all of them at every step."""
    keys = shape.n_keys * layer.narrow
    turned = shape.batch * (shape.n_queries * layer.wide + keys)
    positions = shape.n_keys + (shape.n_queries if shape.n_queries != shape.n_keys else 0)
    table = 2 * positions * layer.d_head * layer.score  # a cosine and a sine for each channel
    # While the keys turn, the queries have: keys times cosines, partners, sum; and in float32.
    made = shape.batch * shape.n_queries * 2 * (layer.wide + layer.narrow) * layer.number
    steps = 3 if layer.number == layer.score else 4
    turning = made + table + steps * shape.batch * keys * layer.score
    in_float64 = positions * layer.d_head * 11 * EXACT // 2 + table
    return EncodingCost(
        elementwise=3 * turned,
        moved=7 * turned * layer.score + table,  # partner: 2, times cos: 2, plus times sin: 3
        tables=table,
        turned=turned * layer.number,
        making=max(turning, in_float64),
    )


def _bias(
    layer, shape: Shape, parameters: int, *, dense: int, by_offset: int, making: int = 0
) -> EncodingCost:
    """A number for each head, query and key. Dense holds it as a matrix; the others need only one
    number for each head and offset, and queries in reverse order to read it off.

    dense, by_offset: bytes of what is kept, by pair and by offset.
    """
    n_q, n_k, h = shape.n_queries, shape.n_keys, layer.n_heads
    pairs = h * n_q * n_k
    if layer.backend == "dense":
        matrix, scores = pairs * layer.score, shape.batch * pairs * layer.score
        return EncodingCost(
            parameters=parameters, elementwise=shape.batch * pairs, tables=dense, bias=matrix,
            # the bias is made, written and read; the scores are read, their sum is written
            moved=dense + 2 * matrix + 2 * scores, making=making,
        )  # fmt: skip
    table = h * (n_q + n_k - 1) * layer.score
    turned = shape.batch * n_q * layer.wide * layer.score
    widened = 0 if layer.number == layer.score else 2 * shape.batch * n_k * layer.wide * layer.score
    return EncodingCost(
        parameters=parameters, elementwise=shape.batch * layer.pairs(shape), tables=by_offset,
        moved=by_offset + 2 * table + 4 * turned + 2 * widened, making=making,
        turned=3 * turned + table + widened, saved=-turned,  # one is done with before the way back
    )  # fmt: skip


def _alibi(layer, shape: Shape) -> EncodingCost:
    n_q, n_k, h = shape.n_queries, shape.n_keys, layer.n_heads
    return _bias(
        layer, shape, 0,
        dense=(EXACT * h + INDEX) * n_q * n_k, by_offset=(EXACT * h + INDEX) * (n_q + n_k - 1),
    )  # fmt: skip


def _t5(layer, shape: Shape) -> EncodingCost:
    n_q, n_k = shape.n_queries, shape.n_keys
    return _bias(  # offsets and their buckets are kept; the bias is read off anew each time
        layer, shape, BUCKETS * layer.n_heads,
        dense=2 * INDEX * n_q * n_k, by_offset=2 * INDEX * (n_q + n_k - 1),
    )  # fmt: skip


def _sandwich(layer, shape: Shape) -> EncodingCost:
    n_q, n_k = shape.n_queries, shape.n_keys
    offsets = n_q * n_k if layer.backend == "dense" else n_q + n_k - 1
    angles = 2 * (SANDWICH // 2) * EXACT * offsets  # and their cosines, before they are summed
    return _bias(
        layer, shape, 0,
        dense=(EXACT + INDEX) * n_q * n_k, by_offset=(EXACT + INDEX) * (n_q + n_k - 1),
        making=angles,
    )  # fmt: skip


def _shaw(layer, shape: Shape) -> EncodingCost:
    """q times the table of keys, read off along the diagonals; the weights of each offset, summed,
    times the table of values. Both tables have a row for each offset up to +-CLIP."""
    rows = 2 * CLIP + 1
    queries = shape.batch * layer.n_heads * shape.n_queries
    pairs = queries * shape.n_keys
    index = INDEX * shape.n_queries * shape.n_keys
    by_offset = queries * rows * layer.score
    return EncodingCost(
        parameters=2 * rows * layer.d_head,
        products=2 * 2 * queries * layer.d_head * rows,
        elementwise=queries * layer.d_head + 2 * pairs,
        moved=2 * index + 4 * by_offset + 5 * pairs * layer.score,
        saved=index + 2 * by_offset + queries * layer.d_head * layer.score,
        bias=pairs * layer.score,
    )


ENCODINGS: dict[str, Callable] = {
    "none": _none,
    "sinusoidal": _sinusoidal,
    "learned": _learned,
    "sinusoidal-learned": _sinusoidal_learned,
    "shaw": _shaw,
    "t5": _t5,
    "alibi": _alibi,
    "sandwich": _sandwich,
    "rope": _rope,
}


def encoding_cost(layer, shape: Shape) -> EncodingCost:
    """What the encoding of a `attnlab.cost.Layer` adds to a forward pass over so many texts,
    queries and keys."""
    return ENCODINGS[layer.encoding](layer, shape)
