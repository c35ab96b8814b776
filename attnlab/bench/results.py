"""Results as files and as text: what is stored, which is the best device, tables."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

from attnlab.roofline import Rates
from attnlab.trained import DATA

Result = dict[str, Any]


def stored(data: Path = DATA) -> list[Result]:
    """Every result that comes with the course, from data/bench-*.json, the best device first."""
    return sorted(_read(data), key=_order)


@cache
def _read(data: Path) -> tuple[Result, ...]:
    return tuple(json.loads(file.read_text("utf-8")) for file in sorted(data.glob("bench-*.json")))


def best(data: Path = DATA) -> Result:
    """The result of the best device that was measured so far: a GPU before a processor, then the
    one with the highest rate of matrix products.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = stored(data)
    if not found:
        raise FileNotFoundError(
            f"no bench-*.json in {data}: python -m attnlab.bench --all --json FILE measures one"
        )
    return found[0]


def _order(result: Result) -> tuple:
    rates = (result.get("rates") or {}).get("matrix_flops_per_second") or {}
    return (result["device_type"] == "cpu", -max(rates.values(), default=0.0), result["device"])


def rates(result: Result) -> Rates:
    """The measured rates of the device of a result, for `attnlab.roofline.time_limits`.

    Raises:
        ValueError: if the result has none.
    """
    kept = result["rates"]
    if not kept:
        raise ValueError("this result has no rates: measure with --all")
    matrix = {getattr(torch, name): r for name, r in kept["matrix_flops_per_second"].items()}
    return Rates(
        result["device"], kept["threads"], matrix, kept["copy_bytes_per_second"], kept["quartiles"]
    )


def seconds_text(seconds: float) -> str:
    """Milliseconds with three digits."""
    return f"{seconds * 1e3:.3g}" if seconds < 0.9995 else f"{seconds * 1e3:.0f}"


NUMBERS = {  # of a measured pass: (heading, text)
    "seconds": ("ms", seconds_text),
    "ratio": ("x base", "{:.2f}".format),
    "ratio_quartiles": ("", lambda two: f"{two[0]:.2f}-{two[1]:.2f}"),
    "speed": ("speed", "{:.2f}".format),
    "flops_per_second": ("TFLOP/s", lambda rate: f"{rate / 1e12:.3g}"),
    "of_matrix_rate": ("of rate", "{:.0%}".format),
    "bytes_per_second": ("GB/s", lambda rate: f"{rate / 1e9:.3g}"),
    "tokens_per_second": ("tokens/s", "{:.3g}".format),
    "relative_error": ("error", "{:.1e}".format),
    "peak_bytes": ("peak MiB", lambda held: f"{held / 2**20:.1f}"),
}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of a part as text: what was measured, then for each pass what was found."""
    words = [key for key in _keys(rows) if not any(isinstance(row.get(key), dict) for row in rows)]
    passes = [key for key in _keys(rows) if key not in words]
    columns = [[key, *(_plain(row.get(key)) for row in rows)] for key in words]
    above = [""] * len(words)
    for p in passes:
        cells = [row.get(p) or {} for row in rows]
        shown = [key for key in NUMBERS if any(cell.get(key) is not None for cell in cells)]
        if not shown:
            shown = ["seconds"]
        for i, key in enumerate(shown):
            heading, text = NUMBERS[key]
            column = [heading]
            for cell in cells:
                missing = "left out" if "left_out" in cell and i == 0 else "-"
                column.append(missing if cell.get(key) is None else text(cell[key]))
            columns.append(column)
            above.append(p if i == 0 else "")
    widths = [max(map(len, column)) for column in columns]
    lines = [_line(above, widths, len(words))]
    for r in range(len(rows) + 1):
        lines.append(_line([column[r] for column in columns], widths, len(words)))
    return "\n".join(lines)


def _line(cells: list[str], widths: list[int], n_words: int) -> str:
    """Words to the left, numbers to the right of their columns."""
    text = ""
    for i, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        if i < n_words:
            text += f"{cell:{width}s}  "
        else:
            room = max(0, len(text) - sum(widths[:i]) - 2 * i)  # a long heading takes from the next
            text += f"{cell:>{max(0, width - room)}s}  "
    return text.rstrip()


def _keys(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
