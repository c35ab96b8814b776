"""Rotary encoding: queries and keys are turned by an angle proportional to their position."""

import math

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from attnlab.compiled import compiled, compiler_problem
from attnlab.positions.absolute import frequencies
from attnlab.positions.base import Encoding, remembered, working_dtype

LAYOUTS = ("half", "interleaved")
SCALINGS = ("none", "linear", "ntk", "yarn")
COMPILE_FROM = 2**20  # numbers to turn from which a GPU is busier with memory than with launching


def channel_order(d_head: int) -> Int[Tensor, " d_head"]:
    """The order of channels that turns the interleaved layout into the half-split one.

    half.rotate(x[..., order]) = interleaved.rotate(x)[..., order]
    """
    return torch.cat([torch.arange(0, d_head, 2), torch.arange(1, d_head, 2)])


def convert_layout(
    weight: Float[Tensor, "heads_times_d_head ..."], n_heads: int, to: str,
    d_rotary: int | None = None,
) -> Float[Tensor, "heads_times_d_head ..."]:  # fmt: skip
    """Query or key parameters that were trained with one RoPE layout, for the layout `to`.

    Convert the queries' and the keys' parameters, and the scores stay what they were. (Values are
    not turned and need nothing.)

    Args:
        weight: a projection (n_heads * d_head, d_model), as in nn.Linear, or its bias. For shared
            heads give the number of key heads.
        d_rotary: how many channels of a head turn. Default all.

    Raises:
        ValueError: for an unknown layout, or rows that do not split into heads of pairs.
    """
    if to not in LAYOUTS:
        raise ValueError(f"unknown RoPE layout {to!r}; known: {', '.join(LAYOUTS)}")
    if n_heads < 1 or len(weight) % n_heads:
        raise ValueError(f"{len(weight)} rows do not split into {n_heads} heads")
    d_head = len(weight) // n_heads
    d_rotary = d_head if d_rotary is None else d_rotary
    if d_rotary % 2 or not 2 <= d_rotary <= d_head:
        raise ValueError(f"{d_rotary} of {d_head} channels a head do not split into pairs")
    order = channel_order(d_rotary)
    if to == "interleaved":
        order = order.argsort()
    order = torch.cat([order, torch.arange(d_rotary, d_head)])
    return weight.unflatten(0, (n_heads, d_head))[:, order.to(weight.device)].flatten(0, 1)


def partners(x: Float[Tensor, "... d_rotary"], layout: str) -> Float[Tensor, "... d_rotary"]:
    """Every channel's partner: (a, b) -> (b, a) in each pair."""
    if layout == "half":
        return x.roll(x.shape[-1] // 2, dims=-1)
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def turned(
    x: Float[Tensor, "... n d_head"], cos: Float[Tensor, "n d_rotary"],
    sin: Float[Tensor, "n d_rotary"], layout: str,
) -> Float[Tensor, "... n d_head"]:  # fmt: skip
    """The first d_rotary channels turned, in the type of the tables; the others as they are.

    sin has the sign that the channel takes it with.
    """
    turning, staying = x.split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], dim=-1)
    pairs = turning.to(cos.dtype)
    # (a, b) cos + (b, a) (-sin, sin) = (a cos - b sin, b cos + a sin)
    out = torch.addcmul(pairs * cos, partners(pairs, layout), sin).to(x.dtype)
    return torch.cat([out, staying], dim=-1) if staying.shape[-1] else out


def compiling_pays(x: Tensor) -> bool:
    """Whether to turn x in one pass over memory: eager PyTorch makes five on a GPU, which for long
    texts take as long as attention itself. On a CPU they fit into the cache."""
    return (
        x.device.type == "cuda" and x.numel() >= COMPILE_FROM
        and not torch.compiler.is_compiling() and compiler_problem("cuda") is None
    )  # fmt: skip


class RoPE(Encoding):
    """Each pair (a, b) of channels of q and k turns by pos * omega_i, omega_i = base^(-2i/d):

        (a cos - b sin,  b cos + a sin)

    so that the score of query position m and key position n depends on the content and on n - m
    only. Applied after projection, in every head and layer, to queries and keys, not to values.

    Args:
        layout: which channels make pair i. "half": i and i + d/2 (Llama, Hugging Face);
            "interleaved": 2i and 2i + 1 (the paper). Parameters trained with one do not fit the
            other; `convert_layout` converts them.
        d_rotary: the first d_rotary channels turn, the rest stay as they are. Default all.
        scaling, factor, trained_len: how to reach factor times the trained length.
            "linear" divides every angle by factor (position interpolation, Chen et al. 2023).
            "ntk" raises the base to base * factor^(d / (d - 2)), so that the slowest pair is
            stretched by factor and the fastest hardly (bloc97 2023; Peng et al. 2024, eq. 16).
            "yarn" keeps the pairs that turn more than 32 times within trained_len, divides the
            angles of those that turn less than once, and blends between; scores grow by
            (0.1 ln factor + 1)^2 (Peng et al. 2024, sections 3.2 to 3.4). The blend is that of
            the released code, linear in the number of the pair, with which published models were
            trained; the paper's equation is linear in the number of turns.

    Source: Su et al. 2021 (RoFormer), section 3.2 and equation 34.

    Raises:
        ValueError: for an odd number of channels, an unknown layout or scaling, or a factor
            below 1.
    """

    def __init__(
        self,
        d_head: int,
        base: float = 10_000.0,
        layout: str = "half",
        d_rotary: int | None = None,
        scaling: str = "none",
        factor: float = 1.0,
        trained_len: int = 2048,
    ):
        super().__init__()
        d_rotary = d_head if d_rotary is None else d_rotary
        if d_rotary < 2 or d_rotary % 2 or d_rotary > d_head:
            what = "d_head" if d_rotary == d_head else f"d_rotary, at most d_head = {d_head},"
            raise ValueError(
                f"RoPE turns pairs of channels, so {what} must be even, got {d_rotary}: "
                "change d_model or n_heads"
            )
        if not base > 0:
            raise ValueError(f"base must be above 0, got {base}")
        for name, value, known in (("layout", layout, LAYOUTS), ("scaling", scaling, SCALINGS)):
            if value not in known:
                raise ValueError(f"unknown RoPE {name} {value!r}; known: {', '.join(known)}")
        if not factor >= 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        if scaling == "none" and factor != 1:
            raise ValueError("a factor needs a scaling: linear, ntk or yarn")
        self.d_head, self.d_rotary, self.base, self.layout = d_head, d_rotary, base, layout
        self.scaling, self.factor, self.trained_len = scaling, factor, trained_len

    def frequencies(self, device=None) -> Float[Tensor, " d_half"]:
        """omega_i after scaling, in radians per position."""
        d = self.d_rotary
        if self.scaling == "ntk" and d > 2:
            return frequencies(d, self.base * self.factor ** (d / (d - 2)), device)
        omega = frequencies(d, self.base, device)
        if self.scaling == "linear":
            return omega / self.factor
        if self.scaling == "yarn":
            # Pair i turns trained_len * omega_i / 2 pi times. The ramp runs between the
            # (fractional) pairs that turn 32 times and once, rounded outwards.
            first, last = (
                d * math.log(self.trained_len / (turns * 2 * math.pi)) / (2 * math.log(self.base))
                for turns in (32, 1)
            )
            first, last = max(math.floor(first), 0), min(math.ceil(last), d - 1)
            pair = torch.arange(d // 2, device=device, dtype=omega.dtype)
            keep = 1 - ((pair - first) / max(last - first, 0.001)).clamp(0, 1)
            return omega * keep + omega / self.factor * (1 - keep)
        return omega

    @property
    def amplitude(self) -> float:
        """Factor on rotated queries and keys alike; 1 but for YaRN."""
        return 0.1 * math.log(self.factor) + 1.0 if self.scaling == "yarn" else 1.0

    def _cos_sin(self, pos: Tensor, dtype: torch.dtype) -> Float[Tensor, "2 n d_rotary"]:
        """For every channel the cosine, and the sine with the sign that its pair takes it with."""

        def make() -> Tensor:
            omega = self.frequencies(pos.device)
            angle = pos.to(omega.dtype)[:, None] * omega
            cos, sin = self.amplitude * angle.cos(), self.amplitude * angle.sin()
            pairs = torch.stack([torch.stack([cos, cos], -1), torch.stack([-sin, sin], -1)])
            return self._in_layout(pairs).to(dtype)

        key = (self.d_rotary, self.base, self.layout, dtype,
               self.scaling, self.factor, self.trained_len)  # fmt: skip
        return remembered(self, pos, key, make)

    def _in_layout(self, pairs: Float[Tensor, "... d_half 2"]) -> Float[Tensor, "... d_rotary"]:
        return (pairs.mT if self.layout == "half" else pairs).flatten(-2)

    def rotate(
        self, x: Float[Tensor, "batch n_heads n d_head"], pos: Real[Tensor, " n"]
    ) -> Float[Tensor, "batch n_heads n d_head"]:
        """Turn every pair of channels of x by its position's angle; without YaRN, norms stay."""
        if x.shape[-1] != self.d_head:
            raise ValueError(f"RoPE was built for d_head {self.d_head}, got {x.shape[-1]}")
        cos, sin = self._cos_sin(pos, working_dtype(x.dtype))
        turn = compiled(turned) if compiling_pays(x) else turned
        return turn(x, cos, sin, self.layout)

    def qk(self, q: Tensor, k: Tensor, q_pos: Tensor, k_pos: Tensor) -> tuple[Tensor, Tensor]:
        return self.rotate(q, q_pos), self.rotate(k, k_pos)

    def extra_repr(self) -> str:
        text = f"d_head={self.d_head}, base={self.base:g}, layout={self.layout}"
        if self.d_rotary != self.d_head:
            text += f", d_rotary={self.d_rotary}"
        return text + (f", {self.scaling} x {self.factor:g}" if self.scaling != "none" else "")
