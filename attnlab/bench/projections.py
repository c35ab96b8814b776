"""Queries, keys and values of all heads by one product, by three, and by one for each head."""

import torch
from torch import Tensor, nn

from attnlab.bench.parts import Progress, Setting, Table, both_passes, share_of

SIZES = {  # d_model, n_heads, lengths; length 1 is a step of decoding
    "tiny": (16, 2, (1, 8)),
    "cpu": (512, 8, (1, 512)),
    "gpu": (2048, 16, (1, 8192)),
}


class OneProduct(nn.Module):
    """x W with W = [W_Q W_K W_V], (d_model, 3 d_model): "fused"."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.w = nn.Linear(d_model, 3 * d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w(x)


class ThreeProducts(nn.Module):
    """x W_Q, x W_K and x W_V."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.w = nn.ModuleList(nn.Linear(d_model, d_model, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([w(x) for w in self.w], dim=-1)


class EachHead(nn.Module):
    """x W_Q_i, x W_K_i and x W_V_i for each head i, put side by side with torch.cat: often called
    fused."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.w = nn.ModuleList(
            nn.Linear(d_model, d_model // n_heads, bias=False) for _ in range(3 * n_heads)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([w(x) for w in self.w], dim=-1)


WAYS = {"one product": OneProduct, "three products": ThreeProducts, "each head": EachHead}


def measure(setting: Setting, progress: Progress) -> Table:
    """Each way, in ratios to one product."""
    d_model, n_heads, lengths = SIZES[setting.scale]
    dtype = torch.bfloat16 if setting.scale == "gpu" else torch.float32
    at = {"device": setting.device, "dtype": dtype}
    table = Table({"d_model": d_model, "n_heads": n_heads, "batch": 1, "dtype": str(dtype)[6:]})
    for i, n in enumerate(lengths):
        works = {way: make(d_model, n_heads).to(**at) for way, make in WAYS.items()}
        found = both_passes(
            works, (torch.randn(1, n, d_model, **at),), setting,
            share_of(progress, i, len(lengths)), base="one product",
        )  # fmt: skip
        table.rows += [{"way": way, "n": n, **found[way]} for way in works]
    return table
