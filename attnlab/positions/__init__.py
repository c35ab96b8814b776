"""Every positional encoding of the course, behind one interface and found by name.

A new encoding is one class in one file of this folder and one line in `REGISTRY`; explorers,
tests, benchmarks and notebooks find it there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from attnlab.positions.absolute import Absolute, Learned, Sinusoidal
from attnlab.positions.adaptive import FIRE, Contextual, FunctionOfPosition
from attnlab.positions.base import Encoding
from attnlab.positions.biases import ALiBi, Sandwich, T5Bias, t5_bucket
from attnlab.positions.combine import Concatenated, LayerWise, Mixed, SinusoidalThenLearned
from attnlab.positions.rotary import RoPE, convert_layout
from attnlab.positions.shaw import Shaw
from attnlab.positions.structured import (
    GraphDistance,
    Levels,
    TreePaths,
    graph_distances,
    laplacian_vectors,
    tree_paths,
)

__all__ = [
    "ALiBi", "Absolute", "Concatenated", "Contextual", "Encoding", "FIRE", "FunctionOfPosition",
    "GraphDistance", "LayerWise", "Learned", "Levels", "Mixed", "RoPE", "Sandwich", "Shaw",
    "Sinusoidal", "SinusoidalThenLearned", "T5Bias", "TreePaths", "convert_layout",
    "graph_distances", "laplacian_vectors", "make", "names", "t5_bucket", "tree_paths",
]


@dataclass(frozen=True)
class Dims:
    """The sizes that an encoding may ask for."""

    d_model: int
    n_heads: int
    d_head: int
    max_len: int


REGISTRY: dict[str, Callable[[Dims], Encoding]] = {
    "none": lambda dims: Encoding(),
    "sinusoidal": lambda dims: Sinusoidal(dims.d_model),
    "learned": lambda dims: Learned(dims.max_len, dims.d_model),
    "sinusoidal-learned": lambda dims: SinusoidalThenLearned(dims.max_len, dims.d_model),
    "shaw": lambda dims: Shaw(dims.d_head),
    "t5": lambda dims: T5Bias(dims.n_heads),
    "alibi": lambda dims: ALiBi(dims.n_heads),
    "sandwich": lambda dims: Sandwich(dims.n_heads),
    "rope": lambda dims: RoPE(dims.d_head),
}


def names() -> list[str]:
    """The names that `make` knows, "none" first."""
    return list(REGISTRY)


def make(
    name: str, *, d_model: int, n_heads: int, d_head: int | None = None, max_len: int = 512
) -> Encoding:
    """Build an encoding by name for a model of these sizes (d_head defaults to d_model / n_heads).

    Raises:
        ValueError: for a name that is not in the registry (the message lists the known names), or
            sizes that the encoding cannot serve.
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown encoding {name!r}; known: {', '.join(REGISTRY)}")
    if d_head is None:
        d_head = d_model // n_heads
    return REGISTRY[name](Dims(d_model, n_heads, d_head, max_len))
