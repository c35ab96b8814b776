"""Encodings that add a bias to the scores: a number for each head and offset.

offset = key position - query position, so 0 is the token itself and -1 the one before.
"""

import copy
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.positions.absolute import frequencies
from attnlab.positions.base import Encoding, constants, remembered


def alibi_slopes(n_heads: int) -> list[float]:
    """One slope for each head: 2^(-8/n), 2^(-16/n), ... for n a power of two.

    For other head counts: the slopes of the next smaller power of two, then every other slope of
    twice that power, as in the authors' code.

    Source: Press et al. 2022 (ALiBi), section 3.

    Raises:
        ValueError: for fewer than one head.
    """
    if n_heads < 1:
        raise ValueError(f"n_heads must be at least 1, got {n_heads}")
    power = 2 ** math.floor(math.log2(n_heads))

    def geometric(n: int) -> list[float]:
        return [2 ** (-8 * (i + 1) / n) for i in range(n)]

    return geometric(power) + geometric(2 * power)[0::2][: n_heads - power]


def exact(values: list[float], offset: Tensor) -> Float[Tensor, "n_heads ..."]:
    """One constant for each head, in float64 where the device has it, ready to meet offsets."""
    dtype = torch.float32 if offset.device.type == "mps" else torch.float64
    return constants(values, dtype, offset.device).view(-1, *[1] * offset.dim())


class ALiBi(Encoding):
    """Bias -m_h |offset|: each head h lowers the score in proportion to the distance, with its own
    fixed slope m_h. With a causal mask this is the paper's -m_h (i - j). The bias is added after
    q·k is divided by sqrt(d_head); the slopes are not trained.

    Source: Press et al. 2022 (ALiBi), section 3.
    """

    def __init__(self, n_heads: int):
        super().__init__()
        self.slopes = alibi_slopes(n_heads)

    def relative_bias(self, offset: Tensor) -> Float[Tensor, "n_heads ..."]:
        return remembered(
            self, offset, tuple(self.slopes), lambda: -exact(self.slopes, offset) * offset.abs()
        )

    def for_heads(self, heads: Sequence[int]) -> "ALiBi":
        part = copy.copy(self)
        part.slopes = [self.slopes[h] for h in heads]
        return part

    def extra_repr(self) -> str:
        return f"n_heads={len(self.slopes)}"


def t5_bucket(
    offset: Int[Tensor, "..."], n_buckets: int = 32, max_distance: int = 128,
    causal: bool = False,
) -> Int[Tensor, "..."]:  # fmt: skip
    """The bucket of each offset: near distances have their own, far ones share, in log steps.

    Half of the buckets of a side hold one distance each, the others grow in proportion up to
    max_distance; all beyond goes into the last. Without causal, keys after the query have the
    second half of the buckets; with it, they share bucket 0.

    The boundaries are found in whole numbers, so a distance that lies on one does not depend on
    how a logarithm rounds.

    Source: Raffel et al. 2020 (T5), section 2.1, and the released code.

    Raises:
        ValueError: for an odd number of buckets without causal, or a max_distance that leaves no
            room.
    """
    side, distance = n_buckets, (-offset).clamp(min=0)
    first = torch.zeros_like(offset)
    if not causal:
        if n_buckets % 2:
            raise ValueError(f"two sides need an even number of buckets, got {n_buckets}")
        side, distance = n_buckets // 2, offset.abs()
        first = (offset > 0).to(offset.dtype) * side
    own = side // 2
    if own < 1 or max_distance <= own:
        raise ValueError(
            f"{n_buckets} buckets up to distance {max_distance} leave none to share: take at "
            "least 4 buckets (2 with causal) and a larger max_distance"
        )
    steps = side - own
    # Bucket own + s starts at the smallest distance with (distance / own)^steps >= (max / own)^s.
    starts = []
    for s in range(1, steps):
        start = math.floor(own * (max_distance / own) ** (s / steps)) - 1
        while start**steps * own**s < max_distance**s * own**steps:
            start += 1
        starts.append(start)
    edges = constants(starts, offset.dtype, offset.device)
    shared = torch.bucketize(distance.contiguous(), edges, right=True)
    return first + torch.where(distance < own, distance, own + shared)


class T5Bias(Encoding):
    """Bias b_h[bucket(offset)]: one trained number for each head and bucket of distances.

    T5 shares the table between its layers, and does not divide q·k by sqrt(d_head): give
    scale=1.0 to attention for that.

    Source: Raffel et al. 2020 (T5), section 2.1.
    """

    def __init__(
        self, n_heads: int, n_buckets: int = 32, max_distance: int = 128, causal: bool = False
    ):
        super().__init__()
        self.n_buckets, self.max_distance, self.causal = n_buckets, max_distance, causal
        t5_bucket(torch.zeros(1, dtype=torch.long), n_buckets, max_distance, causal)  # fits?
        self.weight = nn.Parameter(torch.randn(n_buckets, n_heads))

    def relative_bias(self, offset: Tensor) -> Float[Tensor, "n_heads ..."]:
        if offset.is_floating_point():
            raise ValueError("T5 buckets hold whole distances: give integer positions")
        sizes = (self.n_buckets, self.max_distance, self.causal)
        bucket = remembered(self, offset, sizes, lambda: t5_bucket(offset, *sizes))
        return self.weight.movedim(1, 0)[:, bucket]

    def for_heads(self, heads: Sequence[int]) -> "T5Bias":
        part = T5Bias(len(heads), self.n_buckets, self.max_distance, self.causal)
        part.weight = nn.Parameter(self.weight.detach()[:, list(heads)].clone())
        return part

    def extra_repr(self) -> str:
        return (
            f"n_heads={self.weight.shape[1]}, n_buckets={self.n_buckets}, "
            f"max_distance={self.max_distance}, causal={self.causal}"
        )


class Sandwich(Encoding):
    """Bias [sum_i cos(omega_i offset) - d/2] / (8 h / n_heads) for head h = 1 ... n_heads, with
    omega_i = base^(-2i/d) and i = 1 ... d/2: the product of two sinusoidal codes, nothing trained.

    Source: Chi et al. 2023 (arXiv 2212.10356), section 4; d = 128.

    Raises:
        ValueError: if d is odd.
    """

    def __init__(self, n_heads: int, d: int = 128, base: float = 10_000.0):
        super().__init__()
        if d < 2 or d % 2:
            raise ValueError(f"Sandwich needs an even d, got {d}")
        self.ratios = [8 * (h + 1) / n_heads for h in range(n_heads)]
        self.d, self.base = d, base

    def relative_bias(self, offset: Tensor) -> Float[Tensor, "n_heads ..."]:
        def make() -> Tensor:
            # frequencies() counts from i = 0, the paper from 1
            omega = frequencies(self.d, self.base, offset.device) * self.base ** (-2 / self.d)
            product = torch.cos(offset[..., None].to(omega.dtype) * omega).sum(-1) - self.d / 2
            return product / exact(self.ratios, offset)

        return remembered(self, offset, (self.d, self.base, *self.ratios), make)

    def for_heads(self, heads: Sequence[int]) -> "Sandwich":
        part = copy.copy(self)
        part.ratios = [self.ratios[h] for h in heads]
        return part

    def extra_repr(self) -> str:
        return f"n_heads={len(self.ratios)}, d={self.d}"
