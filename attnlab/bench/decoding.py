"""One new token against the keys and values of all before it: how fast they are read."""

import torch

from attnlab.attention import scaled_dot_product_attention
from attnlab.bench.parts import Progress, Setting, Table, both_passes, share_of
from attnlab.cost import kv_cache_bytes

SIZES = {  # batch, n_heads, d_head, lengths
    "tiny": (2, 8, 8, (16,)),
    "cpu": (4, 8, 64, (1024, 4096)),
    "gpu": (16, 32, 128, (8192, 32768)),
}


def measure(setting: Setting, progress: Progress) -> Table:
    """All heads with keys of their own, four heads that share one, and all that share one."""
    batch, n_heads, d_head, lengths = SIZES[setting.scale]
    dtype = torch.bfloat16 if setting.scale == "gpu" else torch.float32
    at = {"device": setting.device, "dtype": dtype}
    table = Table({"n_heads": n_heads, "d_head": d_head, "batch": batch, "dtype": str(dtype)[6:]})
    for i, n in enumerate(lengths):
        works, inputs = {}, {}
        for n_kv_heads in (n_heads, n_heads // 4, 1):
            kv = [torch.randn(batch, n_kv_heads, n, d_head, **at) for _ in range(2)]
            inputs[n_kv_heads] = (torch.randn(batch, n_heads, 1, d_head, **at), *kv)
            works[n_kv_heads] = scaled_dot_product_attention
        found = both_passes(
            works, inputs, setting, share_of(progress, i, len(lengths)), base=n_heads,
            passes=("forward",),
        )  # fmt: skip
        for n_kv_heads, row in found.items():
            cache = batch * kv_cache_bytes(n, n_kv_heads, d_head, bytes_per_number=dtype.itemsize)
            if "seconds" in row["forward"]:
                row["forward"]["bytes_per_second"] = cache / row["forward"]["seconds"]
            table.rows.append({"n_kv_heads": n_kv_heads, "n": n, "cache_bytes": cache, **row})
    return table
