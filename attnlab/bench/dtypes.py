"""The same work in float32, bfloat16 and float16: how fast, how much memory, how far off."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.attention import MultiHeadAttention
from attnlab.bench.parts import Progress, Setting, Table, both_passes, seeded, share_of

DTYPES = ("float32", "bfloat16", "float16")
SIZES = {  # tokens, d_model, n_heads
    "tiny": (16, 16, 2),
    "cpu": (512, 512, 8),
    "gpu": (8192, 2048, 16),
}


class Autocast(nn.Module):
    """A module with float32 parameters whose matrix products run in another type."""

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype):
        super().__init__()
        self.module, self.device, self.dtype = module, device, dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=self.dtype):
            return self.module(x)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference, as a share of that of the exact numbers (float64)."""
    exact = exact.to(found.device)
    return ((found.double() - exact).norm() / exact.norm()).item()


def works_of(dtype: torch.dtype, sizes: tuple[int, int, int], device: torch.device) -> dict:
    """{what: (work, inputs, the same in float64)}: a softmax, attention, a layer, and the layer
    under autocast."""
    n, d_model, n_heads = sizes
    d_head = d_model // n_heads
    with seeded():
        x = torch.randn(1, n, d_model)
        q, k, v = torch.randn(3, 1, n_heads, n, d_head)
        scores = torch.randn(n_heads, n // 2, n // 2)
        layer = MultiHeadAttention(d_model, n_heads)
    exact = MultiHeadAttention(d_model, n_heads).double()
    exact.load_state_dict(layer.state_dict())

    def there(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.to(device, dtype) for t in tensors)

    def softmax(t: Tensor) -> Tensor:
        return t.softmax(dim=-1)

    works: dict[str, tuple[Callable, tuple[Tensor, ...], Callable]] = {
        "softmax": (softmax, there(scores), lambda: softmax(scores[:1, :8].double())),
        "attention": (
            F.scaled_dot_product_attention, there(q, k, v),
            lambda: F.scaled_dot_product_attention(q[:, :, :8].double(), k.double(), v.double()),
        ),
        "layer": (
            MultiHeadAttention(d_model, n_heads).to(device, dtype), there(x),
            lambda: exact(x[:, :8].double(), context=x.double()),
        ),
    }  # fmt: skip
    works["layer"][0].load_state_dict(layer.state_dict())
    if dtype != torch.float32:
        whole = MultiHeadAttention(d_model, n_heads).to(device)
        whole.load_state_dict(layer.state_dict())
        works["layer, autocast"] = (
            Autocast(whole, device, dtype), (x.to(device),), works["layer"][2],
        )  # fmt: skip
    return works


def first_rows(what: str, out: Tensor) -> Tensor:
    """The part of the output that is compared with float64."""
    return {"softmax": lambda: out[:1, :8], "attention": lambda: out[:, :, :8]}.get(
        what, lambda: out[:, :8]
    )()


def measure(setting: Setting, progress: Progress) -> Table:
    """Each type in ratios to float32."""
    n, d_model, n_heads = sizes = SIZES[setting.scale]
    table = Table({
        "n": n, "d_model": d_model, "n_heads": n_heads, "batch": 1,
        "float32_matrix_products": torch.get_float32_matmul_precision(),
    })  # fmt: skip
    works = {name: works_of(getattr(torch, name), sizes, setting.device) for name in DTYPES}
    kinds = list(works["bfloat16"])
    for i, what in enumerate(kinds):
        of_kind = {
            name: of_type.get(what, of_type["layer"] if "layer" in what else None)
            for name, of_type in works.items()
        }
        found = both_passes(
            {name: work for name, (work, _, _) in of_kind.items()},
            {name: inputs for name, (_, inputs, _) in of_kind.items()},
            setting, share_of(progress, i, len(kinds)), base="float32",
        )  # fmt: skip
        with torch.no_grad():
            exact = of_kind["float32"][2]()
            for name, (work, inputs, _) in of_kind.items():
                if "left_out" not in found[name]["forward"]:
                    error = relative_error(first_rows(what, work(*inputs)), exact)
                    found[name]["forward"]["relative_error"] = error
        table.rows += [{"what": what, "dtype": name, **found[name]} for name in of_kind]
    return table
