"""Measuring some parts on one device, as a result that can be stored."""

import datetime
import importlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from attnlab.bench.parts import Progress, Setting, Table
from attnlab.bench.results import Result
from attnlab.measure import device_name, reason, versions
from attnlab.roofline import measure_rates, short
from attnlab.teach import percent

FORMAT = 1
LENGTHS = {  # of the part "statistics"
    "tiny": (64, 128),
    "cpu": (1024, 4096, 16384),
    "gpu": (8192, 32768, 131072),
}


def _statistics(setting: Setting, progress: Progress) -> Table:
    from attnlab.bench import statistics

    lengths = LENGTHS[setting.scale]
    rows = statistics.measure(lengths, setting.device, setting.memory, progress)
    return Table({"lengths": list(lengths)}, rows)


def _module(name: str) -> Callable[[Setting, Progress], Table]:
    def measure_part(setting: Setting, progress: Progress) -> Table:
        return importlib.import_module(f"attnlab.bench.{name}").measure(setting, progress)

    return measure_part


PARTS: dict[str, Callable[[Setting, Progress], Table]] = {
    "encodings": _module("encodings"),
    "projections": _module("projections"),
    "dtypes": _module("dtypes"),
    "back ends": _module("backends"),
    "decoding": _module("decoding"),
    "training": _module("training"),
    "statistics": _statistics,
    "kernels": _module("kernels"),
}


def rates(setting: Setting, progress: Progress) -> dict[str, Any]:
    """What the device does at most, as `attnlab.roofline` measures it, for JSON."""
    small = {"rounds": 1, "size": 64, "n_bytes": 2**16} if setting.scale == "tiny" else {}
    found = measure_rates(setting.device, progress=progress, **small)
    return {
        "matrix_flops_per_second": {short(dtype): rate for dtype, rate in found.matrix.items()},
        "copy_bytes_per_second": found.copy,
        "quartiles": found.spread,
        "threads": found.threads,
    }


def load() -> float | None:
    """How many processes wanted to run in the last minute; None where nobody counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def measure(
    parts: Sequence[str],
    setting: Setting,
    command: str = "",
    done: Callable[[str, Result], object] = lambda part, result: None,
    start: Result | None = None,
) -> Result:
    """Measure some parts, with a display of how far it is.

    A part that fails as a whole is noted under "left_out" and the others go on.

    Args:
        done: called after each part with its name and the result so far.
        start: a result of the same device to add to; its other parts stay.

    Raises:
        ValueError: for an unknown part.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"no part {part!r}; there are {', '.join(PARTS)}")
    result = start or about(setting)
    if not result["rates"] and set(parts) != {"encodings"}:
        with percent("rates") as tell:
            result["rates"] = rates(setting, tell)
    matrix = result["rates"].get("matrix_flops_per_second", {})
    for part in parts:
        chosen = setting
        if part == "kernels":
            dtype = "bfloat16" if setting.scale == "gpu" else "float32"
            chosen = replace(setting, options={"matrix_rate": matrix.get(dtype)})
        before, began = load(), time.monotonic()
        with percent(part) as tell:
            try:
                table = PARTS[part](chosen, tell)
            except Exception as error:  # one part must not take the others with it
                table = Table({}, [], [f"{part}: left out, {reason(error)}"])
        table.left_out += missing(table.rows)
        result["parts"][part] = {
            "command": command,
            "threads": torch.get_num_threads(),
            "rounds": setting.rounds,
            "load": [before, load()],
            "seconds": round(time.monotonic() - began, 1),
            "sizes": table.sizes,
            "left_out": table.left_out,
            "rows": table.rows,
        }
        result["parts"] = {name: result["parts"][name] for name in PARTS if name in result["parts"]}
        done(part, result)
    return result


def missing(rows: list[dict[str, Any]]) -> list[str]:
    """A line on what was left out of the rows and why, the same of several rows once."""
    found: dict[tuple[str, str, str], int] = {}
    for row in rows:
        words = ", ".join(value for value in row.values() if isinstance(value, str))
        who = row.get("whose") or row.get("backend") or row.get("route") or words
        for key, value in row.items():
            if isinstance(value, dict) and "left_out" in value:
                line = (who, key, value["left_out"])
                found[line] = found.get(line, 0) + 1
    return [f"{who}, {key}: left out of {n} row(s), {why}" for (who, key, why), n in found.items()]


def about(setting: Setting) -> Result:
    """A result without parts: the device and what runs on it."""
    return {
        "format": FORMAT,
        "device": device_name(setting.device),
        "device_type": setting.device.type,
        "scale": setting.scale,
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "rates": {},
        "parts": {},
    }
