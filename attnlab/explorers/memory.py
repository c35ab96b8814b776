"""The Memory Explorer: how long a text may be, with the matrix of weights and without."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import traitlets
from matplotlib.figure import Figure

from attnlab import bench
from attnlab.explorers._base import Explorer, Picture, bundle, check_names, setting
from attnlab.explorers.sharing import in_bytes

CONTROLS = ("show", "n_tokens", "n_heads", "d_head", "memory", "device")
SHOW = {"bytes": "memory held", "time": "time, measured"}
ROUTES = {  # colour, dashes: told apart without colours too
    "dense": ("all weights at once", "#d0820b", ()),
    "rows": ("some rows at a time", "#2277c4", ()),
    "fused": ("inside the kernel", "#0a8a60", (7, 4)),
    "inputs": ("queries and keys alone", "#808080", (2, 3)),
}
LOW, HIGH = 8, 22  # powers of two of tokens
NONE = "none"
NUMBER = 4  # bytes: statistics are computed in float32
SPACE = 2**21  # bytes of one matrix of some rows
LIMITS = {"n_tokens": (2**LOW, 2**HIGH), "n_heads": (1, 64), "d_head": (8, 128),
          "memory": (0.25, 256)}  # fmt: skip


def inputs(n: int, n_heads: int, d_head: int) -> int:
    """Bytes of queries and keys."""
    return 2 * n_heads * n * d_head * NUMBER


def dense(n: int, n_heads: int, d_head: int) -> int:
    """And of two matrices for each head, such as scores and weights, and of a distance and a mask
    for each pair, 12 bytes, which the heads share."""
    return inputs(n, n_heads, d_head) + (2 * n_heads * NUMBER + 12) * n * n


def rows(n: int, n_heads: int, d_head: int) -> int:
    """And of copies of both, of four matrices of some rows, and of the results: about 20 numbers
    for each query and head."""
    size = max(SPACE, 8 * n_heads * n * NUMBER)
    return 2 * inputs(n, n_heads, d_head) + 4 * size + 20 * n_heads * n * NUMBER


def fused(n: int, n_heads: int, d_head: int) -> int:
    """And of copies of both, of five matrices such as the queries with the channels beside them and
    the kernel's output, and of the results: about 10 numbers for each query and head."""
    wide = 5 * n_heads * n * (d_head + 8) * NUMBER
    return 2 * inputs(n, n_heads, d_head) + wide + 10 * n_heads * n * NUMBER


BYTES: dict[str, Callable[[int, int, int], int]] = {
    "dense": dense, "rows": rows, "fused": fused, "inputs": inputs,
}  # fmt: skip


def longest(route: str, n_heads: int, d_head: int, n_bytes: float) -> int:
    """The longest text, in tokens, whose statistics fit into so much memory by this route."""
    low, high = 0, 1
    while BYTES[route](high, n_heads, d_head) <= n_bytes:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if BYTES[route](middle, n_heads, d_head) <= n_bytes:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class Times:
    """Seconds of entropy and distance on one device, causal, without a bias: {route: {n: s}}."""

    n_heads: int
    d_head: int
    seconds: Mapping[str, Mapping[int, float]]


def stored_times(results: Sequence[dict] | None = None) -> dict[str, Times]:
    """By device, from the results that come with the course."""
    from attnlab.bench.statistics import D_HEAD

    found = {}
    for result in bench.stored() if results is None else results:
        part = result["parts"].get("statistics")
        seconds: dict[str, dict[int, float]] = {}
        for row in part["rows"] if part else ():
            if row["causal"] and row["bias"] == "none" and "seconds" in row["pass"]:
                seconds.setdefault(row["route"], {})[row["n"]] = row["pass"]["seconds"]
                n_heads = row["n_heads"]
        if seconds:
            found[result["device"]] = Times(n_heads, D_HEAD, seconds)
    return found


class MemoryExplorer(Explorer):
    """What the statistics of one layer's heads cost at every length: the memory that each route
    holds, by formula, and the longest text that fits; or the time, as it was measured.

    Args:
        show: a key of SHOW.
        n_tokens, n_heads, d_head: sizes, float32; one text.
        memory: GiB that there are.
        device: whose measured times are shown; default the best that is stored.
        times: {device: Times}; default those that come with the course.
        controls: names of the controls to show, from CONTROLS; default all.

    Attributes:
        held: {route: bytes} at n_tokens.
        longest: {route: tokens} that fit into the memory.
        message, notes: as in `Explorer`.

    Raises:
        ValueError: for an unknown control. Any other bad value becomes a message in the widget.
    """

    _esm = bundle("dom.js", "controls.js", "lines.js", "memory.js")
    _css = bundle("explorer.css", "race.css")

    SETTINGS = CONTROLS

    show = setting(traitlets.Unicode())
    n_tokens = setting(traitlets.Float())  # sliders of powers of two send numbers with a point
    n_heads = setting(traitlets.Int())
    d_head = setting(traitlets.Int())
    memory = setting(traitlets.Float())
    device = setting(traitlets.Unicode())

    def __init__(
        self,
        n_tokens: int = 16_384,
        *,
        n_heads: int = 16,
        d_head: int = 64,
        memory: float = 16.0,
        show: str = "bytes",
        device: str | None = None,
        times: Mapping[str, Times] | None = None,
        controls: Sequence[str] = CONTROLS,
    ):
        self._shown = check_names("control", controls, CONTROLS)
        self._times = dict(stored_times() if times is None else times)
        self.held: dict[str, int] = {}
        self.longest: dict[str, int] = {}
        super().__init__(
            show=show, n_tokens=n_tokens, n_heads=n_heads, d_head=d_head, memory=memory,
            device=next(iter(self._times), NONE) if device is None else device,
        )  # fmt: skip

    def _checked(self) -> int:
        check_names("way to show", self.show, list(SHOW))
        check_names("device", self.device, [*self._times, NONE])
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} = {value:g} is not in {low:g} … {high:g}")
        if self.show == "time" and not self._times:
            raise ValueError(
                "no times are stored: python -m attnlab.bench --parts statistics measures them"
            )
        return 2 ** round(math.log2(self.n_tokens))  # the slider rounds to three digits

    def _picture(self) -> Picture:
        n = self._checked()
        n_bytes, sizes = self.memory * 2**30, (self.n_heads, self.d_head)
        self.held = {route: of(n, *sizes) for route, of in BYTES.items()}
        self.longest = {route: longest(route, *sizes, n_bytes) for route in BYTES}
        if self.show == "time":
            return self._of_time(n)
        powers = list(range(LOW, HIGH + 1))
        lines = {
            route: [math.log2(of(2**p, *sizes)) for p in powers] for route, of in BYTES.items()
        }
        rows = [
            [ROUTES[route][0], in_bytes(self.held[route]), f"{self.held[route] / n_bytes:.2g}",
             f"{self.longest[route]:,}"]
            for route in BYTES
        ]  # fmt: skip
        head = {
            "columns": ["route", f"holds, {n:,} tokens", "of the memory", "longest text that fits"],
            "yLabel": "bytes held", "border": math.log2(n_bytes),
            "borderText": f"{self.memory:g} GiB", "yUnit": "bytes",
        }  # fmt: skip
        notes = [
            "By formula, in float32 on a CPU: all statistics of one text; of the kernel those that "
            "it can give."
        ]
        return self._drawn_as(head, powers, lines, rows, n, notes)

    def _of_time(self, n: int) -> Picture:
        times = self._times[self.device]
        routes = [route for route in ("dense", "rows", "fused") if route in times.seconds]
        lengths = sorted({length for route in routes for length in times.seconds[route]})
        lines, rows = {}, []
        for route in routes:
            seconds = times.seconds[route]
            lines[route] = [math.log2(seconds[m]) if m in seconds else None for m in lengths]
            last = max(seconds)
            guess = seconds[last] * (n / last) ** 2
            said = f"{seconds[n]:.3g} s" if n in seconds else f"about {guess:.3g} s"
            rows.append([ROUTES[route][0], said, f"{last:,}"])
        head = {
            "columns": ["route", f"takes, {n:,} tokens", "longest measured"],
            "yLabel": "seconds", "border": None, "borderText": "", "yUnit": "s",
        }  # fmt: skip
        notes = [
            f"Measured on {self.device}: entropy and distance of {times.n_heads} causal heads, "
            f"d_head {times.d_head}. “About”: the longest measured, times the square of the ratio "
            "of lengths."
        ]
        return self._drawn_as(head, [math.log2(m) for m in lengths], lines, rows, n, notes)

    def _drawn_as(self, head, powers, lines, rows, n, notes) -> Picture:
        known = [v for line in lines.values() for v in line if v is not None]
        if head["border"] is not None:
            known.append(head["border"])
        numbers = torch.tensor([[math.nan if v is None else v for v in line]
                                for line in lines.values()])  # fmt: skip
        head |= {
            "x": powers, "y": [min(known) - 0.5, max(known) + 0.5], "at": math.log2(n),
            "names": [ROUTES[route][0] for route in lines], "rows": rows,
            "looks": [list(ROUTES[route][1:]) for route in lines],
            "told": f"{SHOW[self.show]}, {self.n_heads} heads, {n:,} tokens",
        }  # fmt: skip
        return Picture(head, numbers, notes)

    def _controls(self) -> list[dict]:
        def slider(name, label, **more):
            low, high = LIMITS[name]
            return {"name": name, "label": label, "kind": "range", "min": low, "max": high,
                    "step": 1, **more}  # fmt: skip

        def power(name, label, low, high):
            return slider(name, label, log=True, digits=0) | {"min": low, "max": high}

        no_times = {} if self._times else {"why": "no times are stored yet"}
        by_formula = {"why": "times are those that were measured"} if self.show == "time" else {}
        one_device = (
            "no times are stored yet" if not self._times
            else "for measured times" if self.show != "time"
            else "the only one whose times are stored" if len(self._times) == 1
            else ""
        )  # fmt: skip
        specs = [
            {"name": "show", "label": "show", "kind": "choice", "options": list(SHOW.items()),
             **no_times},
            power("n_tokens", "tokens n", LOW, HIGH),
            {**slider("n_heads", "heads"), **by_formula},
            {**slider("d_head", "d_head"), "step": 8, **by_formula},
            {**power("memory", "memory (GiB)", -2, 8), "digits": 2, **by_formula},
            {"name": "device", "label": "device", "kind": "choice",
             "options": [[name, name] for name in self._times or [NONE]],
             "why": one_device},
        ]  # fmt: skip
        return [spec for spec in specs if spec["name"] in self._shown]

    def _alt(self, picture: Picture) -> str:
        head = picture.head
        told = "; ".join(
            f"{row[0]}: "
            + ", ".join(
                f"{name} {cell}" for name, cell in zip(head["columns"][1:], row[1:], strict=True)
            )
            for row in head["rows"]
        )
        return f"Lines over the number of tokens, both axes logarithmic, {head['told']}. {told}."

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        head = picture.head
        ax = figure.subplots()
        for name, (colour, dash), line in zip(
            head["names"], head["looks"], picture.numbers, strict=True
        ):
            ax.plot(head["x"], line, color=colour, ls=(0, tuple(dash)) if dash else "-", lw=2.5,
                    label=name)  # fmt: skip
        ax.axvline(head["at"], color="#555555", lw=1, ls=":")
        if head["border"] is not None:
            ax.axhline(head["border"], color="#555555", lw=1, ls=":")
            ax.text(head["x"][0], head["border"] + 0.15, head["borderText"])
        ax.set_ylim(*head["y"])
        places = [p for p in head["x"] if p % 2 == 0]
        ax.set_xticks(places, [in_tokens(2**p) for p in places])
        low, high = head["y"]
        step = 4 if high - low > 12 else 2
        marks = [p for p in range(math.ceil(low), math.floor(high) + 1) if p % step == 0]
        text = in_bytes if head["yUnit"] == "bytes" else "{:.3g}".format
        ax.set_yticks(marks, [text(2**p if p >= 0 else 2.0**p) for p in marks])
        ax.set_xlabel("tokens")
        ax.set_ylabel(head["yLabel"])
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3.5)


def in_tokens(n: float) -> str:
    """16384 -> "16k"."""
    for size, unit in ((2**20, "M"), (2**10, "k")):
        if n >= size:
            return f"{n / size:g}{unit}"
    return f"{n:g}"
