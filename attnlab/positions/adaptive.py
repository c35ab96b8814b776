"""Positions that are not fixed beforehand: counted from the content, or a trained function."""

import math

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from attnlab.positions.absolute import Absolute, frequencies
from attnlab.positions.base import Encoding, working_dtype


class Contextual(Encoding):
    """Contextual positions: a query counts only the tokens that matter to it.

    Query i opens a gate g_ij = sigmoid(q_i·k_j / sqrt(d_head)) at each key up to its own place. The
    position of key j is then the number of open gates from j to i, p_ij = sum_{m=j..i} g_im: "the
    third noun back" where all gates but those at nouns are shut. p lies between whole numbers, so
    the bias q_i·e[p_ij] is interpolated between two rows of a trained table e of max_position + 1
    rows. Counts stop at max_position. Keys after the query get p = 0.

    It needs all gates of a row at once: dense and masked paths only. Padding in the midst of a text
    would be counted too.

    Source: Golovneva et al. 2024 (CoPE), section 4.
    """

    def __init__(self, d_head: int, max_position: int = 32, std: float = 0.1):
        super().__init__()
        if max_position < 1:
            raise ValueError(f"max_position must be at least 1, got {max_position}")
        self.table = nn.Parameter(std * torch.randn(max_position + 1, d_head))

    def count(
        self, q: Tensor, k: Tensor, q_pos: Tensor, k_pos: Tensor
    ) -> Float[Tensor, "batch n_heads n_q n_k"]:
        """p_ij: how many gates are open from key j to query i. Keys stand in order."""
        wide = working_dtype(q.dtype)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # heads that share keys
        gates = (q.to(wide) @ k.to(wide).mT * q.shape[-1] ** -0.5).sigmoid()
        gates = gates.masked_fill(k_pos[None, :] > q_pos[:, None], 0.0)
        return gates.flip(-1).cumsum(-1).flip(-1).clamp(max=len(self.table) - 1)

    def bias(
        self, q: Tensor, k: Tensor, q_pos: Tensor, k_pos: Tensor
    ) -> Float[Tensor, "batch n_heads n_q n_k"]:
        if q.shape[-1] != self.table.shape[1]:
            raise ValueError(f"built for d_head {self.table.shape[1]}, got {q.shape[-1]}")
        p = self.count(q, k, q_pos, k_pos)
        by_position = q.to(p.dtype) @ self.table.to(p.dtype).T  # (batch, heads, n_q, rows)
        below = p.detach().floor()
        low = by_position.gather(-1, below.long())
        high = by_position.gather(-1, p.detach().ceil().long())
        return torch.lerp(low, high, p - below)

    def extra_repr(self) -> str:
        return f"d_head={self.table.shape[1]}, max_position={len(self.table) - 1}"


FEATURES = ("raw", "fourier")


class FunctionOfPosition(Absolute):
    """PE(pos) = MLP(features of pos), added to the token vectors.

    "raw" features are the number pos / scale itself: the function is then slow to learn anything
    that oscillates, and a straight line beyond the training length. "fourier" features are sines
    and cosines of pos at d_model / 2 frequencies, all between -1 and 1.

    Source: the formula as one meets it, PE = MLP(features), leaves the features open; Tancik et al.
    2020 for Fourier features, Rahaman et al. 2019 for what raw ones cannot do.

    Raises:
        ValueError: for unknown features, or an odd d_model with "fourier".
    """

    def __init__(
        self, d_model: int, features: str = "fourier", hidden: int = 64, scale: float = 100.0
    ):
        super().__init__()
        if features not in FEATURES:
            raise ValueError(f"unknown features {features!r}; known: {', '.join(FEATURES)}")
        if features == "fourier" and d_model % 2:
            raise ValueError(f"fourier features come in pairs: d_model must be even, got {d_model}")
        self.features, self.d_model, self.scale = features, d_model, scale
        self.mlp = nn.Sequential(
            nn.Linear(1 if features == "raw" else d_model, hidden), nn.ReLU(),
            nn.Linear(hidden, d_model),
        )  # fmt: skip

    def inputs(self, pos: Real[Tensor, " n"]) -> Float[Tensor, "n features"]:
        """What the MLP reads."""
        if self.features == "raw":
            return (pos / self.scale)[:, None].float()
        angle = pos.double()[:, None] * frequencies(self.d_model, 10_000.0, pos.device)
        return torch.cat([angle.sin(), angle.cos()], dim=-1).float()

    def table(
        self, pos: Real[Tensor, " n"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "n d_model"]:
        return self.mlp(self.inputs(pos).to(self.mlp[0].weight.dtype)).to(dtype)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, features={self.features!r}"


class FIRE(Encoding):
    """Bias MLP_h(log(c |i - j| + 1) / log(c max(i, L) + 1)), with trained c and L: a function of
    the distance as a share of what the query has before it.

    The input stays between 0 and 1 at every length (for causal attention), so that a longer text is
    nothing new to the MLP.

    Source: Li et al. 2024 (FIRE), section 3.2, equations 7 and 8.
    """

    def __init__(self, n_heads: int, hidden: int = 32, length: float = 64.0):
        super().__init__()
        self.log_c = nn.Parameter(torch.tensor(math.log(0.1)))
        self.length = nn.Parameter(torch.tensor(float(length)))
        self.mlp = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, n_heads))

    def bias(
        self, q: Tensor, k: Tensor, q_pos: Tensor, k_pos: Tensor
    ) -> Float[Tensor, "1 n_heads n_q n_k"]:
        wide = working_dtype(self.log_c.dtype)
        c, length = self.log_c.to(wide).exp(), self.length.to(wide).abs()
        distance = (q_pos[:, None] - k_pos[None, :]).abs().to(wide)
        most = torch.maximum(q_pos.to(wide), length)[:, None]
        share = (c * distance + 1).log() / (c * most + 1).log()
        out = self.mlp(share[..., None].to(self.mlp[0].weight.dtype))
        return out.movedim(-1, 0)[None]

    def extra_repr(self) -> str:
        return f"n_heads={self.mlp[-1].out_features}"
