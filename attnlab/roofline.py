"""Which limit holds on a device: how fast it multiplies matrices, or how fast it moves bytes.

    rates = measure_rates(torch.device("cpu"))
    time_limits(cost.layer_cost(layer, n_tokens=2048), rates)

A layer can take no less time than its FLOPs at the matrix rate, and no less than its bytes at the
copy rate. The longer of the two is a floor, not a forecast: no layer runs faster, most run slower.

Source: Williams et al. 2009 (Roofline).
"""

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnlab import positions
from attnlab.attention import MultiHeadAttention
from attnlab.cache import KVCache
from attnlab.cost import Cost, Layer
from attnlab.measure import Clock, device_name, quartiles
from attnlab.train import one_thread

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Rows of the square matrices, and bytes of the copied tensor: larger than the caches of the kind.
SIZES = {"cpu": (768, 2**26), "cuda": (8192, 2**30), "mps": (4096, 2**28)}
LEAST = 0.02  # seconds of one timing


@dataclass(frozen=True)
class Rates:
    """What a device does at most.

    Attributes:
        device: its name; threads: how many of a processor's were measured, None for a GPU.
        matrix: {type: FLOP/s of a large square matrix product}, a multiply-add counted as two.
        copy: bytes/s of a large copy, reading and writing both counted.
        spread: {what: quartiles over the rounds}; "copy", or the name of a type.
    """

    device: str
    threads: int | None
    matrix: dict[torch.dtype, float]
    copy: float
    spread: dict[str, list[float]] = field(default_factory=dict)

    def ridge(self, dtype: torch.dtype) -> float:
        """FLOPs per byte at which both limits take the same time."""
        if dtype not in self.matrix:
            known = ", ".join(map(short, self.matrix))
            raise ValueError(f"no matrix rate was measured for {short(dtype)}; known: {known}")
        return self.matrix[dtype] / self.copy


@dataclass(frozen=True)
class Limits:
    """Two lower limits on the time of a piece of work.

    Attributes:
        compute: seconds of its matrix products at the device's matrix rate.
        memory: seconds of its bytes at the device's copy rate.
        intensity: its FLOPs per byte; ridge: the device's.
    """

    compute: float
    memory: float
    intensity: float
    ridge: float

    @property
    def which(self) -> str:
        """The limit that holds: "compute" or "memory"."""
        return "compute" if self.intensity > self.ridge else "memory"

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.compute, self.memory)


def short(dtype: torch.dtype) -> str:
    """torch.float32 -> "float32"."""
    return str(dtype).removeprefix("torch.")


def _product(rows: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A matrix product that was done once, ready to be done again."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(rows, rows, generator=generator).to(device, dtype) for _ in range(2))
    out = a @ b
    return lambda: torch.mm(a, b, out=out)


def measure_rates(
    device: torch.device | str = "cpu",
    dtypes: Sequence[torch.dtype] = DTYPES,
    *,
    rounds: int = 7,
    size: int | None = None,
    n_bytes: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Rates:
    """Measure this device's matrix and copy rates: medians over rounds, after one round unmeasured.

    A processor is measured on one thread, by the time of this process alone, as all timings of the
    course are; a GPU until its kernels are done. A type in which the device cannot multiply is
    left out. On CUDA, float32 is multiplied as torch is set to (in full precision by default).

    Args:
        size: rows of the square matrices; n_bytes: of the tensor that is copied. Defaults: `SIZES`.
        progress: told the share of the work that is done.

    Raises:
        ValueError: for fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    device = torch.device(device)
    default_size, default_bytes = SIZES.get(device.type, SIZES["cpu"])
    size, n_bytes = size or default_size, n_bytes or default_bytes
    clock = Clock(device)
    work: dict[str | torch.dtype, tuple[Callable[[], object], float]] = {}
    for dtype in dtypes:
        try:
            once = clock(_product(size // 4, dtype, device))
        except RuntimeError:
            continue
        # 64 times as many operations: where that takes long, the rate shows in small matrices too
        rows = size if 64 * once < 10 * LEAST else size // 4
        work[dtype] = (_product(rows, dtype, device), 2 * rows**3)
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    work["copy"] = (lambda: target.copy_(source), 2 * n_bytes)

    found: dict = {what: [] for what in work}
    with one_thread(), torch.no_grad():
        times = {
            what: max(1, round(LEAST / max(clock(run), 1e-6))) for what, (run, _) in work.items()
        }
        for done in range(rounds):
            for what, (run, amount) in work.items():  # in turn: a slow moment hits all alike
                found[what].append(amount / clock(run, times[what]))
            progress((done + 1) / rounds)
    rate = {what: statistics.median(values) for what, values in found.items()}
    spread = {
        what if what == "copy" else short(what): quartiles(values) for what, values in found.items()
    }
    threads = 1 if device.type == "cpu" else None
    return Rates(device_name(device), threads, rate, rate.pop("copy"), spread)


def workload(
    layer: Layer, n_tokens: int, work: str = "forward", batch: int = 1, device="cpu"
) -> Callable[[], None]:
    """A function that does once what `layer_cost` counts: on a layer with random parameters, random
    input, and in decoding a cache that holds the past and has room for the new token.

    Raises:
        ValueError: as `attnlab.cost.layer_cost`.
    """
    layer.shape(n_tokens, work, batch)  # are the sizes possible?
    encoding = positions.make(
        layer.encoding, d_model=layer.d_model, n_heads=layer.n_heads, d_head=layer.d_head,
        max_len=max(layer.max_len, n_tokens),
    )  # fmt: skip
    attention = MultiHeadAttention(
        layer.d_model, layer.n_heads, d_head=layer.d_head, n_kv_heads=layer.n_kv_heads,
        encoding=encoding, windows=layer.windows, bias=layer.bias,
    ).to(device, layer.dtype)  # fmt: skip
    attention.backend = layer.backend
    x = torch.randn(batch, n_tokens, layer.d_model, device=device, dtype=layer.dtype)
    pos = torch.arange(n_tokens, device=device)

    def run(x: Tensor, pos: Tensor, cache: KVCache | None = None) -> Tensor:
        x = encoding.at_layer(encoding.embed(x, pos), pos, 0)
        return encoding.after_layer(attention(x, causal=layer.causal, cache=cache), pos, 0)

    def forward() -> None:
        with torch.no_grad():
            run(x, pos)

    def training() -> None:
        attention.zero_grad(set_to_none=True)
        run(x.detach().requires_grad_(), pos).sum().backward()

    if work != "decoding":
        return {"forward": forward, "training": training}[work]
    with torch.no_grad():
        _, keys, values = attention.heads(x[:, :-1])

    def filled() -> KVCache:
        cache = KVCache(last=None if layer.windows is None else layer.kept(n_tokens) - 1 or None)
        half = (n_tokens - 1) // 2  # in two pieces: then there is room for more
        for part in (slice(0, half), slice(half, None)):
            cache.append(keys[:, :, part], values[:, :, part])
        return cache

    past = filled()

    def decoding() -> None:
        with torch.no_grad():  # a copy, so that each step appends to the same past
            run(x[:, -1:], pos[-1:], copy.copy(past))

    return decoding


def time_limits(cost: Cost, rates: Rates) -> Limits:
    """Which limit holds for this work on this device.

    Raises:
        ValueError: if the device's matrix rate was not measured for the work's type.
    """
    ridge = rates.ridge(cost.dtype)
    return Limits(
        compute=cost.flops["total"] / rates.matrix[cost.dtype],
        memory=cost.moved["total"] / rates.copy,
        intensity=cost.intensity,
        ridge=ridge,
    )
