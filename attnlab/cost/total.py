"""All costs of a layer in one."""

from dataclasses import dataclass

import torch

from attnlab.cost.memory import bytes_moved, peak_memory
from attnlab.cost.sizes import Layer, elementwise_flops, layer_flops, layer_parameters


@dataclass(frozen=True)
class Cost:
    """What one layer costs for one piece of work; each dict has its parts and their "total".

    Attributes:
        dtype: of activations and parameters.
        parameters: trained numbers.
        flops: of the matrix products, a multiply-add counted as two.
        elementwise: operations that are no product, forward pass only.
        moved: bytes between processor and memory.
        peak: bytes held at once.
    """

    dtype: torch.dtype
    parameters: int
    flops: dict[str, int]
    elementwise: dict[str, int]
    moved: dict[str, int]
    peak: dict[str, int]

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: FLOPs of products for each byte moved.

        Source: Williams et al. 2009 (roofline).
        """
        return self.flops["total"] / self.moved["total"]


def layer_cost(layer: Layer, n_tokens: int, work: str = "forward", batch: int = 1) -> Cost:
    """Parameters, operations, bytes moved and memory of one layer.

    Args:
        n_tokens: tokens of each text; in decoding the one new token and those before it.
        work: "forward", "training" (forward and backward) or "decoding" (one new token).

    Raises:
        ValueError: for unknown work, or sizes below 1.
    """
    of = (layer, n_tokens, work, batch)
    return Cost(
        layer.dtype, layer_parameters(layer), layer_flops(*of), elementwise_flops(*of),
        bytes_moved(*of), peak_memory(*of),
    )  # fmt: skip
