"""The Cost Explorer: operations, bytes and memory of one layer, and which of two limits holds."""

import contextlib
import statistics
import threading

import torch
import traitlets
from matplotlib.figure import Figure

from attnlab import bench, cost, positions, roofline
from attnlab.explorers._base import Explorer, NotYet, Picture, bundle, check_names, setting
from attnlab.explorers.sharing import in_bytes, in_counts
from attnlab.measure import Clock
from attnlab.train import one_thread

CONTROLS = (
    "work", "n_tokens", "d_model", "n_heads", "n_kv_heads", "batch", "encoding", "backend", "dtype",
    "device",
)  # fmt: skip
WORK = {
    "forward": "forward pass", "training": "training step", "decoding": "decoding, one new token",
}  # fmt: skip
BACKENDS = {"dense": "dense (weights)", "fused": "fused (no weights)"}
DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
ROUND, HERE = "round", "here"
LIMITS = {
    "n_tokens": (1, 2**17), "d_model": (64, 4096), "n_heads": (1, 64), "n_kv_heads": (1, 64),
    "batch": (1, 256),
}  # fmt: skip
MOST_SECONDS, MOST_BYTES = 0.25, 2**30  # of work that is timed without being asked
PARTS = {
    "projections": "Q, K, V projections", "scores": "scores QKᵀ", "softmax": "softmax",
    "values": "weights · V", "attention": "attention, one kernel", "encoding": "encoding",
    "output": "output projection", "backward": "backward",
}  # fmt: skip
HOLDS = {"activations": "Q, K, V, heads", "scores": "scores, weights", "encoding": "encoding",
         "gradients": "gradients", "cache": "KV cache"}  # fmt: skip


def round_numbers() -> roofline.Rates:
    """A device that does not exist: 100 TFLOP/s in every type, 1 TB/s."""
    every = {getattr(torch, name): 100e12 for name in DTYPES}
    return roofline.Rates("round numbers, no real device", None, every, 1e12)


def stored_rates() -> dict[str, roofline.Rates]:
    """The rates of the devices whose results come with the course."""
    found = {}
    for result in bench.stored():
        with contextlib.suppress(ValueError, KeyError):
            found[result["device"]] = bench.rates(result)
    return found


class _ThisDevice:
    """The rates of the device at hand and seconds of work on it, measured in a thread, once."""

    def __init__(self):
        self.name = "cuda" if torch.cuda.is_available() else "cpu"
        self.rates: roofline.Rates | None = None
        self.seconds: dict[tuple, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted: tuple | None = None  # the newest request: who asks, and for what

    def ask(self, explorer: Explorer, work: tuple | None) -> None:
        """Measure in the background what is not known yet; explorer._again() when it is."""
        with self._lock:
            self._wanted = (explorer, work)
            if self._thread is None:
                # No daemon: Python would end while torch still multiplies in it, and abort.
                self._thread = threading.Thread(target=self._measure)
                self._thread.start()

    def _measure(self) -> None:
        while True:
            with self._lock:
                wanted, self._wanted = self._wanted, None
                if wanted is None:
                    self._thread = None
                    return
            explorer, work = wanted
            if self.rates is None:
                self.rates = roofline.measure_rates(self.name, rounds=5)
            if work is not None and work not in self.seconds:
                self.seconds[work] = self._time(*work)
            explorer._again()

    def _time(self, *work) -> float:
        """Median seconds; NaN where the device cannot do it."""
        clock = Clock(torch.device(self.name))
        try:
            once = roofline.workload(*work, device=self.name)
            with one_thread():
                once()
                first = clock(once)
                again = max(2, min(9, int(MOST_SECONDS / max(first, 1e-3))))
                return statistics.median([first, *(clock(once) for _ in range(again))])
        except (RuntimeError, ValueError):
            return float("nan")

    def wait(self, seconds: float) -> None:
        if self._thread is not None:
            self._thread.join(seconds)


THIS_DEVICE = _ThisDevice()


def in_rate(rate: float) -> str:
    """97.9e9 -> "97.9 GFLOP/s"."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if rate >= size:
            return f"{rate / size:.3g} {unit}FLOP/s"
    return f"{rate:.3g} FLOP/s"


def in_seconds(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


class CostExplorer(Explorer):
    """What one layer of attention costs: operations, bytes moved and memory, by parts, and for a
    device which of its two limits holds, drawn as a roofline.

    Args:
        work: a key of WORK. n_tokens: tokens of a text; in decoding the new one and its past.
        encoding: a name of `attnlab.positions.names()`; backend: a key of BACKENDS; dtype: a key of
            DTYPES.
        device: "round" (round numbers), "here" (this device, measured when it is chosen), or the
            name of a device whose results are stored.
        controls: names of the controls to show, from CONTROLS; default all.

    Attributes:
        cost: the `attnlab.cost.Cost` of the settings.
        limits: the `attnlab.roofline.Limits` of the whole on the device.
        parts: {part: (FLOPs, bytes moved, which limit holds, seconds at least)}.
        message, notes: as in `Explorer`.

    Raises:
        ValueError: for an unknown control. Any other bad value becomes a message in the widget.
    """

    _esm = bundle("dom.js", "controls.js", "cost.js")
    _css = bundle("explorer.css", "shapes.css", "cost.css")

    SETTINGS = CONTROLS

    work = setting(traitlets.Unicode())
    n_tokens = setting(traitlets.Float())  # sliders of powers of two send numbers with a point
    d_model = setting(traitlets.Int())
    n_heads = setting(traitlets.Int())
    n_kv_heads = setting(traitlets.Int())
    batch = setting(traitlets.Float())
    encoding = setting(traitlets.Unicode())
    backend = setting(traitlets.Unicode())
    dtype = setting(traitlets.Unicode())
    device = setting(traitlets.Unicode())

    def __init__(
        self,
        work: str = "forward",
        n_tokens: int = 2048,
        *,
        d_model: int = 512,
        n_heads: int = 8,
        n_kv_heads: int | None = None,
        batch: int = 1,
        encoding: str = "none",
        backend: str = "dense",
        dtype: str = "float32",
        device: str = ROUND,
        controls=CONTROLS,
    ):
        self._shown = check_names("control", controls, CONTROLS)
        self._stored = stored_rates()
        self.cost: cost.Cost | None = None
        self.limits: roofline.Limits | None = None
        self.parts: dict[str, tuple[int, int, str, float]] = {}
        super().__init__(
            work=work, n_tokens=n_tokens, d_model=d_model, n_heads=n_heads,
            n_kv_heads=n_heads if n_kv_heads is None else n_kv_heads, batch=batch,
            encoding=encoding, backend=backend, dtype=dtype, device=device,
        )  # fmt: skip

    def _layer(self) -> tuple[cost.Layer, int, int]:
        for name, known in (("work", WORK), ("backend", BACKENDS), ("dtype", DTYPES),
                            ("encoding", positions.names())):  # fmt: skip
            check_names(name, getattr(self, name), list(known))
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} = {getattr(self, name):g} is not in {low} … {high}")
        d, h, g = self.d_model, self.n_heads, self.n_kv_heads
        for what, number, whole in (("heads", h, d), ("key/value heads", g, h)):
            if whole % number:
                fit = [k for k in range(1, min(whole, 64) + 1) if whole % k == 0]
                of = f"d_model = {d}" if whole is d else f"{h} heads"
                raise ValueError(
                    f"{number} {what} do not divide {of}: take {', '.join(map(str, fit))}."
                )
        n, batch = round(self.n_tokens), round(self.batch)
        if n > 999:  # the slider rounds large powers of two to three digits
            n = 2 ** round(torch.tensor(float(n)).log2().item())
        if self.encoding == "rope" and d // h % 2:
            raise ValueError(f"RoPE turns pairs of channels: d_head = {d // h} is odd.")
        layer = cost.Layer(
            d, h, n_kv_heads=g, encoding=self.encoding, backend=self.backend, max_len=n,
            dtype=getattr(torch, self.dtype),
        )  # fmt: skip
        return layer, n, batch

    def _rates(self) -> roofline.Rates:
        if self.device == HERE:
            if THIS_DEVICE.rates is None:
                THIS_DEVICE.ask(self, None)
                raise NotYet("Measuring how fast this device multiplies and copies …")
            return THIS_DEVICE.rates
        known = {ROUND: round_numbers(), **self._stored}
        check_names("device", self.device, list(known))
        return known[self.device]

    def _timed(self, layer: cost.Layer, n: int, batch: int, floor: float) -> tuple[float, str]:
        """Seconds measured here, NaN where there are none, and a note."""
        work = (layer, n, self.work, batch)
        if floor > MOST_SECONDS or self.cost.peak["total"] > MOST_BYTES:
            return float("nan"), "Too large to be timed in passing: a smaller one shows its time."
        if work not in THIS_DEVICE.seconds:
            THIS_DEVICE.ask(self, work)
            return float("nan"), "Timing …"
        seconds = THIS_DEVICE.seconds[work]
        if seconds != seconds:
            return seconds, "This device cannot do it in this type."
        rate = self.cost.flops["total"] / seconds
        return seconds, (
            f"Measured here: {in_seconds(seconds)}, {in_rate(rate)}, {seconds / floor:.2f} times "
            "the floor."
        )

    def _picture(self) -> Picture:
        layer, n, batch = self._layer()
        total = cost.layer_cost(layer, n, self.work, batch)
        rates = self._rates()
        limits = roofline.time_limits(total, rates)
        flops, moved = dict(total.flops), dict(total.moved)
        if self.backend == "fused":
            for of in (flops, moved):
                of["attention"] = of.pop("scores") + of.pop("values") + of.pop("softmax", 0)
        if "backward" in flops:
            flops["backward"] += flops.pop("recomputed")
        peak, copy = rates.matrix[layer.dtype], rates.copy
        self.parts = {}
        for part in PARTS:
            operations, n_bytes = flops.get(part, 0), moved.get(part, 0)
            if operations or n_bytes:
                times = {"compute": operations / peak, "memory": n_bytes / copy}
                which = max(times, key=times.get)
                self.parts[part] = (operations, n_bytes, which, times[which])
        self.cost, self.limits = total, limits
        floor = sum(seconds for *_, seconds in self.parts.values())
        points = [
            [PARTS[part], operations / n_bytes, which]
            for part, (operations, n_bytes, which, _) in self.parts.items() if operations
        ]  # fmt: skip
        rows = [
            [PARTS[part], in_counts(operations) if operations else "–", in_bytes(n_bytes),
             f"{operations / n_bytes:.3g}" if operations else "–", which, 100 * seconds / floor]
            for part, (operations, n_bytes, which, seconds) in self.parts.items()
        ]  # fmt: skip
        measured, timing = (
            self._timed(layer, n, batch, floor) if self.device == HERE else (float("nan"), "")
        )
        held = {HOLDS[k]: in_bytes(v) for k, v in total.peak.items() if v and k != "total"}
        head = {
            "peak": peak, "copy": copy, "ridge": limits.ridge, "device": rates.device,
            "points": points, "rows": rows, "which": limits.which,
            "total": ["whole layer", in_counts(total.flops["total"]),
                      in_bytes(total.moved["total"]), f"{total.intensity:.3g}", limits.which],
            "intensity": total.intensity,
            "achieved": None if measured != measured else total.flops["total"] / measured,
            "facts": [
                f"parameters: {in_counts(total.parameters)} "
                f"({in_bytes(total.parameters * layer.number)})",
                f"held at once beside them: {in_bytes(total.peak['total'])} "
                f"({', '.join(f'{name} {size}' for name, size in held.items())})",
                f"takes at least {in_seconds(floor)}",
            ],
            "timing": timing,
            "told": f"{WORK[self.work]}, {n:,} tokens" + (f", {batch} texts" if batch > 1 else ""),
            "ridge_text": f"ridge: {limits.ridge:.3g} FLOP/byte",
            "roof_text": in_rate(peak),
            "slope_text": f"{copy / 1e9:.4g} GB/s",
        }  # fmt: skip
        notes = [
            f"Device: {rates.device}" + (", one thread." if rates.threads == 1 else ".")
            + " FLOPs of matrix products, a multiply-add counted as two; bytes as if every "
            "operation read and wrote memory once. Shares are of the time that parts take at least."
        ]  # fmt: skip
        return Picture(head, notes=notes)

    def _controls(self) -> list[dict]:
        def slider(name, label, step=1, **more):
            low, high = LIMITS[name]
            return {"name": name, "label": label, "kind": "range", "min": low, "max": high,
                    "step": step, **more}  # fmt: skip

        def choice(name, label, options):
            return {"name": name, "label": label, "kind": "choice", "options": options}

        devices = [
            [ROUND, "round numbers"], [HERE, "this one, measured"],
            *([name, f"{name} (stored)"] for name in self._stored),
        ]  # fmt: skip
        specs = [
            choice("work", "work", list(WORK.items())),
            slider("n_tokens", "tokens n", min=0, max=17, log=True, digits=0),
            slider("d_model", "d_model", 64),
            slider("n_heads", "heads"),
            slider("n_kv_heads", "KV heads"),
            slider("batch", "texts", min=0, max=8, log=True, digits=0),
            choice("encoding", "encoding", [[name, name] for name in positions.names()]),
            choice("backend", "back end", list(BACKENDS.items())),
            choice("dtype", "type", list(DTYPES.items())),
            choice("device", "device", devices),
        ]
        return [spec for spec in specs if spec["name"] in self._shown]

    def _wait(self) -> None:
        if self.device == HERE:
            THIS_DEVICE.wait(15)

    def _alt(self, picture: Picture) -> str:
        head = picture.head
        parts = "; ".join(
            f"{name}: {operations} FLOPs, {n_bytes}, {which} limited, {share:.0f} % of the time"
            for name, operations, n_bytes, _, which, share in head["rows"]
        )
        name, operations, n_bytes, intensity, which = head["total"]
        return (
            f"Roofline of {head['device']}: {head['roof_text']}, {head['slope_text']}, "
            f"{head['ridge_text']}. {head['told']}: {operations} FLOPs, {n_bytes} moved, "
            f"{intensity} FLOP per byte: the limit is {which}. Parts: {parts}. "
            f"{'; '.join(head['facts'])}. {head['timing']}"
        ).strip()

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        head = picture.head
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        x = torch.logspace(-2, 4, 200)
        left.loglog(x, (x * head["copy"]).clamp(max=head["peak"]), color="#00224e", lw=2.5)
        left.axvline(head["ridge"], color="#777777", ls=":", lw=1)
        roof = min(head["peak"], head["intensity"] * head["copy"])
        for i, (_, intensity, _) in enumerate(head["points"]):
            left.plot(intensity, min(head["peak"], intensity * head["copy"]), "o",
                      color="#b8860b", ms=7)  # fmt: skip
            left.annotate(
                str(i + 1), (intensity, min(head["peak"], intensity * head["copy"])),
                textcoords="offset points", xytext=(9, -9 - 12 * (i % 2)), ha="center", fontsize=10,
            )  # fmt: skip
        left.plot(head["intensity"], roof, "D", color="#00224e", ms=10)
        if head["achieved"]:
            left.plot(head["intensity"], head["achieved"], "*", color="#b84d00", ms=14)
        left.set_ylim(head["copy"] / 100, 3 * head["peak"])
        left.set_xlabel("FLOPs per byte moved")
        left.set_ylabel("FLOP/s at most")
        left.set_title(f"{head['roof_text']}, {head['slope_text']}; {head['ridge_text']}",
                       fontsize=10)  # fmt: skip
        right.set_axis_off()
        right.set_title(head["told"], fontsize=12)
        columns = (0.0, 0.42, 0.62, 0.8)
        numbers = {name: str(i + 1) for i, (name, *_) in enumerate(head["points"])}
        lines = [
            ("part", "FLOPs", "bytes", "limit"),
            *((f"{numbers.get(name, '')} {name}".strip(), operations, n_bytes,
               f"{which}, {share:.0f} %")
              for name, operations, n_bytes, _, which, share in head["rows"]),
            ("whole layer (diamond)", *head["total"][1:3], head["which"]),
        ]  # fmt: skip
        for i, line in enumerate(lines):
            bold = "bold" if i in (0, len(lines) - 1) else "normal"
            for place, text in zip(columns, line, strict=True):
                right.text(place, 0.93 - 0.085 * i, text, fontsize=9, fontweight=bold,
                           transform=right.transAxes)  # fmt: skip
        told = [*head["facts"], head["timing"]]
        for i, text in enumerate(filter(None, told)):
            right.text(0, 0.93 - 0.085 * (len(lines) + 0.5) - 0.13 * i,
                       text.replace(" (", "\n    ("), fontsize=9, va="top",
                       transform=right.transAxes)  # fmt: skip
