"""Figures of a result: `python -m attnlab.bench.plots FILE` writes one for each part."""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from attnlab.bench.results import Result
from attnlab.plots import COLOURS

MARKS = "osD^vP*X<>hp"
Row = dict[str, Any]


@dataclass(frozen=True)
class Dots:
    """A part as dots: a line for each combination of `line`, a mark for each value of `mark`, a
    column of panels for each combination of `panel`, and a row of panels for each pass."""

    line: tuple[str, ...]
    mark: str | None = None
    panel: tuple[str, ...] = ()
    value: str = "ratio"
    xlabel: str = "time, base = 1"
    scale: str = "log"
    bar: float | None = None


@dataclass(frozen=True)
class Curves:
    """A part as curves over the number of tokens: time in the upper panel, memory in the lower, a
    column for each combination of `panel`."""

    curve: tuple[str, ...]
    panel: tuple[str, ...] = ()


PARTS: dict[str, Dots | Curves] = {
    "encodings": Dots(("encoding",), "whose", ("n",), xlabel="time, layer without positions = 1"),
    "projections": Dots(("way",), None, ("n",), xlabel="time, one product = 1"),
    "dtypes": Dots(("what",), "dtype", xlabel="time, float32 = 1"),
    "back ends": Dots(
        ("encoding", "window"), "backend", ("n",), xlabel="time, fused without encoding = 1"
    ),
    "decoding": Dots(("n_kv_heads",), None, ("n",), xlabel="time, keys of its own per head = 1"),
    "training": Dots(
        ("encoding", "dtype"), "whose", xlabel="time, attnlab without encoding in float32 = 1"
    ),
    "statistics": Curves(("route", "bias"), ("causal",)),
    "kernels": Dots(
        ("encoding",), "whose", ("d_head", "causal"), "speed",
        "speed, fastest kernel without encoding = 1", "linear", 0.9,
    ),
}  # fmt: skip


def figures(result: Result) -> dict[str, Figure]:
    """A figure for each part of a result that has rows."""
    return {
        part: figure(result, part)
        for part in PARTS
        if part in result["parts"] and result["parts"][part]["rows"]
    }


def figure(result: Result, part: str) -> Figure:
    """The figure of one part.

    Raises:
        ValueError: for a part that the result does not have.
    """
    if part not in PARTS or not result["parts"].get(part, {}).get("rows"):
        known = ", ".join(name for name in PARTS if name in result["parts"])
        raise ValueError(f"no {part!r} in this result; there are {known}")
    rows, how = result["parts"][part]["rows"], PARTS[part]
    fig = _dots(rows, how) if isinstance(how, Dots) else _curves(rows, how)
    fig.suptitle(f"{part}: {result['device']}", fontsize=10)
    return fig


def passes_of(rows: list[Row]) -> list[str]:
    """What was timed, such as "forward"."""
    found = (key for row in rows for key, value in row.items() if isinstance(value, dict))
    return list(dict.fromkeys(found))


def _label(row: Row, keys: Iterable[str]) -> str:
    """The row's values under these keys; numbers with their names."""
    said = []
    for key in keys:
        value = row.get(key)
        if isinstance(value, bool):
            said.append(key if value else f"not {key}")
        elif isinstance(value, str):
            said.append(value)
        elif value is not None:
            said.append(f"{key} = {value}")
    return ", ".join(said)


def _distinct(rows: list[Row], keys: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(_label(row, keys) for row in rows))


def _dots(rows: list[Row], how: Dots) -> Figure:
    passes, panels = passes_of(rows), _distinct(rows, how.panel)
    lines = _distinct(rows, how.line)
    marks = _distinct(rows, (how.mark,)) if how.mark else [""]
    shades = plt.get_cmap(COLOURS)
    size = (2.4 + 3.6 * len(panels), 1.3 + (0.28 * len(lines) + 0.7) * len(passes))
    fig, axes = plt.subplots(
        len(passes), len(panels), figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    for r, p in enumerate(passes):
        for c, panel in enumerate(panels):
            ax = axes[r][c]
            for m, mark in enumerate(marks):
                ours = [
                    row for row in rows
                    if _label(row, how.panel) == panel and how.value in row[p]
                    and (not how.mark or _label(row, (how.mark,)) == mark)
                ]  # fmt: skip
                x = [row[p][how.value] for row in ours]
                y = [lines.index(_label(row, how.line)) for row in ours]
                spread = [row[p].get("ratio_quartiles", [v, v]) for row, v in zip(ours, x)]  # noqa: B905
                colour = shades(0.95 * m / max(1, len(marks) - 1))
                if how.value == "ratio":
                    ax.hlines(y, [s[0] for s in spread], [s[1] for s in spread], color=colour)
                ax.plot(
                    x, y, MARKS[m % len(MARKS)], color=colour, mec="black", mew=0.5, ms=6,
                    label=mark,
                )  # fmt: skip
            ax.set_xscale(how.scale)
            if how.scale == "log":
                ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
                ax.xaxis.set_minor_formatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else "")
            ax.axvline(1, color="grey", lw=1)
            if how.value == "speed":
                ax.set_xlim(left=0)
            if how.bar:
                ax.axvline(how.bar, color="grey", lw=1, ls="--")
            ax.set_yticks(range(len(lines)), lines)
            ax.set_ylim(len(lines) - 0.5, -0.5)
            ax.grid(alpha=0.3)
            ax.set_title(f"{p}, {panel}" if panel else p, fontsize=9)
            if r == len(passes) - 1:
                ax.set_xlabel(how.xlabel, fontsize=9)
    if how.mark:
        fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return fig


def _curves(rows: list[Row], how: Curves) -> Figure:
    (p,), panels, names = passes_of(rows), _distinct(rows, how.panel), _distinct(rows, how.curve)
    shades = plt.get_cmap(COLOURS)
    fig, axes = plt.subplots(
        2, len(panels), figsize=(2.6 + 4.2 * len(panels), 6), squeeze=False, sharex=True,
        sharey="row", layout="constrained",
    )  # fmt: skip
    for (above, below), panel in zip(axes.T, panels, strict=True):
        for m, name in enumerate(names):
            ours = [
                (row["n"], row[p]["seconds"], row[p]["peak_bytes"])
                for row in rows
                if _label(row, how.panel) == panel and _label(row, how.curve) == name
                and "seconds" in row[p]
            ]  # fmt: skip
            style = {"marker": MARKS[m % len(MARKS)], "mec": "black", "mew": 0.5,
                     "color": shades(0.95 * m / max(1, len(names) - 1))}  # fmt: skip
            above.plot([n for n, _, _ in ours], [s for _, s, _ in ours], label=name, **style)
            below.plot(
                [n for n, _, b in ours if b], [b / 2**20 for _, _, b in ours if b], **style
            )  # fmt: skip
        above.set_title(panel, fontsize=9)
        for ax in (above, below):
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.xaxis.set_major_formatter(lambda n, _: f"{n:,.0f}")
            ax.grid(alpha=0.3)
        below.set_xlabel("tokens")
    axes[0][0].set_ylabel("seconds")
    axes[1][0].set_ylabel("MiB above the inputs")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return fig


def main(arguments: list[str] | None = None) -> int:
    """Write the figures of a result as PNG beside it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m attnlab.bench.plots", description="Draw what the benchmark measured."
    )
    parser.add_argument("file", type=Path, help="as python -m attnlab.bench --json wrote it")
    parser.add_argument("--out", type=Path, help="folder (default: the file's)")
    options = parser.parse_args(arguments)
    try:
        result = json.loads(options.file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{options.file}: {error}")
    folder = options.out or options.file.parent
    folder.mkdir(parents=True, exist_ok=True)
    for part, drawn in figures(result).items():
        path = folder / f"{options.file.stem}-{part.replace(' ', '-')}.png"
        drawn.savefig(path, dpi=150)
        plt.close(drawn)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
