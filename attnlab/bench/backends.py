"""Attention by each of attnlab's back ends, with and without biases and windows."""

import torch

from attnlab import positions
from attnlab.attention import BACKENDS, scaled_dot_product_attention
from attnlab.bench.parts import Progress, Setting, Table, both_passes, share_of

SIZES = {  # n_heads, d_head, lengths, width of the window
    "tiny": (2, 16, (64,), 8),
    "cpu": (8, 64, (512, 2048), 64),
    "gpu": (16, 64, (2048, 8192), 256),
}
ENCODINGS = ("none", "rope", "alibi", "t5", "shaw")
BASE = ("none", "fused", None)


def cases(width: int) -> list[tuple[str, str, int | None]]:
    """(encoding, back end, window) of every row: all encodings without a window, and a window
    without an encoding."""
    chosen = [name for name in BACKENDS if name != "auto"]
    whole = [(encoding, backend, None) for encoding in ENCODINGS for backend in chosen]
    return sorted(whole, key=lambda case: case != BASE) + [
        ("none", backend, width) for backend in chosen
    ]


def measure(setting: Setting, progress: Progress) -> Table:
    """Causal, in ratios to the fused back end without encoding and window."""
    n_heads, d_head, lengths, width = SIZES[setting.scale]
    dtype = torch.bfloat16 if setting.scale == "gpu" else torch.float32
    at = {"device": setting.device, "dtype": dtype}
    table = Table({
        "n_heads": n_heads, "d_head": d_head, "batch": 1, "causal": True, "dtype": str(dtype)[6:],
    })  # fmt: skip
    for i, n in enumerate(lengths):
        works = {}
        for encoding, backend, window in cases(width):
            matrices = 6 * n_heads * n * n * 4  # scores, weights and their gradients, in float32
            if backend == "dense" and not setting.fits(matrices):
                table.left_out.append(f"dense, {encoding}: n = {n} (see --memory)")
                continue
            make = positions.make(
                encoding, d_model=n_heads * d_head, n_heads=n_heads, max_len=n
            ).to(setting.device)

            def work(q, k, v, encoding=make, backend=backend, window=window):
                return scaled_dot_product_attention(
                    q, k, v, causal=True, encoding=encoding, backend=backend, windows=window
                )

            works[encoding, backend, window] = work
        qkv = tuple(torch.randn(3, 1, n_heads, n, d_head, **at))
        found = both_passes(works, qkv, setting, share_of(progress, i, len(lengths)), base=BASE)
        for (encoding, backend, window), row in found.items():
            if "ValueError" in row["forward"].get("left_out", ""):
                continue  # a back end says of itself what it cannot do
            table.rows.append(
                {"encoding": encoding, "backend": backend, "window": window, "n": n, **row}
            )
    return table
