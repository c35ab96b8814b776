"""What a class needs, in words and in tables, from what was measured.

    python tests/classroom/report.py      # the block in notebooks/TEACHING.md, anew

Only what stands between two marks of that page is written; every number there comes from
results.json.
"""

import json
import math
import re
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "notebooks" / "TEACHING.md"
BEGIN = "<!-- measured: python tests/classroom/measure.py --update -->"
END = "<!-- end of what was measured -->"

NOTEBOOK = "02-many-heads"  # the one that the classes run
CLASS = 30
PROMPT = 100  # ms: such a picture still follows the hand
PACE = 20  # steps of a slider in a second
FOR_THE_SYSTEM = 2  # GB: operating system, page cache
MEMORY = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # sizes of servers, GB
CORES = (2, 4, 8, 16, 32, 64)


def stored() -> dict:
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}


def as_json(results: dict) -> str:
    return json.dumps(results, indent=1, ensure_ascii=False) + "\n"


def line(row: dict) -> str:
    """One class, for the screen."""
    drag, memory = row["drag"], row["memory_mb"]
    return (
        f"{row['students']:3} students: all have run the notebook in {row['run_all']['seconds']} s,"
        f" {memory['student']} MB each, slider {drag['median_ms']} ms, 95 % within"
        f" {drag['p95_ms']} ms, other work {others(row)} cores"
    )


def table(results: dict) -> str:
    """A row for each size of class."""
    rows = [
        "| students | all have run it after | processor time each | memory each "
        "| slider, median | slider, 95 % within | cores busy with other work |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["classes"]:
        drag, run = row["drag"], row["run_all"]
        rows.append(
            f"| {row['students']} | {run['seconds']:.0f} s | {per_student(row):.0f} s "
            f"| {row['memory_mb']['student']} MB | {drag['median_ms']:.0f} ms "
            f"| {drag['p95_ms']:.0f} ms | {others(row):.1f} |"
        )
    return "\n".join(rows)


def others(row: dict) -> float:
    """How many cores worked for somebody else during a lesson."""
    return max(row["run_all"]["others_cores"], row["drag"]["others_cores"])


def servers_cpu(stretch: dict, *kinds: str) -> float:
    """Seconds of processor time on the server's side: without this program, which on another day
    is the students' browsers."""
    used = {what: t for what, t in stretch["cpu_seconds"].items() if what != "program"}
    return sum(t for what, t in used.items() if not kinds or what in kinds)


def per_student(row: dict) -> float:
    return servers_cpu(row["run_all"]) / row["students"]


def per_step(row: dict, *kinds: str) -> float:
    """Milliseconds of processor time for a step of a slider."""
    return 1000 * servers_cpu(row["drag"], *kinds) / row["drag"]["steps"]


def next_size(needed: float, sizes: tuple[int, ...]) -> int:
    return next((size for size in sizes if size >= needed), math.ceil(needed))


def memory(results: dict) -> dict[str, float]:
    """GB: of hub and proxy together, and the largest that a student's server and a kernel of the
    notebook reached."""
    rows = [row["memory_mb"]["peak"] for row in results["classes"]]
    return {
        "hub": max(peak["hub"] + peak["proxy"] for peak in rows) / 1000,
        "server": max(peak["server"] for peak in rows) / 1000,
        "kernel": max(peak["kernel"] for peak in rows) / 1000,
    }


def for_the_class(results: dict) -> list[str]:
    """What a class of 30 needs, in paragraphs: what is measured, and what is only extrapolated."""
    gb, notebooks, rows = memory(results), results["notebooks"], results["classes"]
    heaviest = max(notebooks, key=lambda name: notebooks[name]["gb"])
    longest = max(notebooks, key=lambda name: notebooks[name]["cpu_seconds"])
    kernels = {
        f"notebook {NOTEBOOK[:2]}": gb["kernel"],
        f"the heaviest, notebook {heaviest[:2]}": notebooks[heaviest]["gb"],
        f"that one, and a kernel of {NOTEBOOK[:2]} left running": (
            notebooks[heaviest]["gb"] + gb["kernel"]
        ),
    }
    lines = ["| open in every browser | a student, GB | 30 students, GB | server, GB |",
             "|---|---|---|---|"]  # fmt: skip
    for what, kernel in kernels.items():
        student = gb["server"] + kernel
        whole = gb["hub"] + CLASS * student
        size = next_size(whole + FOR_THE_SYSTEM, MEMORY)
        lines.append(f"| {what} | {student:.2f} | {whole:.0f} | {size} |")
    cores = results["machine"]["cores"]
    prompt = [row for row in rows if row["drag"]["p95_ms"] <= PROMPT]
    each, long = max(map(per_student, rows)), notebooks[longest]["cpu_seconds"]
    step, proxy = max(map(per_step, rows)), max(per_step(row, "proxy") for row in rows)
    moving = CLASS * PACE * step / 1000
    said = [
        f"**Memory** is hub and proxy ({gb['hub']:.2f} GB) + {CLASS} × (server "
        f"{gb['server']:.2f} GB + kernel), each at the largest it reached (measured), and "
        f"{FOR_THE_SYSTEM} GB for the system; {CLASS} is extrapolated. What a kernel reaches "
        "differs from run to run: do not take a server that just fits.",
        "\n".join(lines),
        f"**Cores.** A step of a slider costs {step:.0f} ms of processor time (kernel, server, "
        f"proxy; measured). If all {CLASS} drag at once, {PACE} steps a second each, that is "
        f"{moving:.1f} cores, and {CLASS * PACE * proxy / 1000:.1f} of the proxy's only one "
        "(extrapolated).",
    ]
    if prompt:
        most = prompt[-1]["students"]
        wanted = next_size(max(moving, CLASS * cores / most), CORES)
        said[-1] += (
            f" {most} students on {cores} cores still had 95 % of their pictures within "
            f"{prompt[-1]['drag']['p95_ms']:.0f} ms (measured), so {wanted} cores should do for "
            f"{CLASS}."
        )
        waits = ", ".join(
            f"{c} cores {CLASS * each / c:.0f} s ({CLASS * long / c:.0f} s)"
            for c in (wanted // 2, wanted, 2 * wanted)
        )
        said.append(
            f"**Run All** takes {each:.0f} s of processor time for notebook {NOTEBOOK[:2]}, "
            f"{long:.0f} s for the longest, {longest[:2]} (measured, one thread). All {CLASS} at "
            f"the same moment need at least (extrapolated; the longest in brackets): {waits}. Let "
            "them run it when they come in, not all at your word."
        )
    return said


def block(results: dict) -> str:
    """What stands between the marks."""
    machine, versions = results["machine"], results["versions"]
    steps = results["classes"][0]["drag"]["steps"] // results["classes"][0]["students"]
    first = (
        f"Measured on {machine['cores']} cores ({machine['processor']}, {machine['memory_gb']:.0f} "
        f"GB) with JupyterHub {versions['jupyterhub']}, students and server on the same machine: "
        f"everybody runs notebook {NOTEBOOK[:2]} at once, then everybody drags a slider for "
        f"{steps} steps."
    )
    if max(map(others, results["classes"])) > 0.1 * machine["cores"]:
        first += (
            " Other work ran beside it: the seconds and milliseconds are longer than on a quiet "
            "machine, the memory is not larger."
        )
    paragraphs = [first, table(results), *for_the_class(results)]
    return "\n\n".join(p if p.startswith("|") else textwrap.fill(p, 100) for p in paragraphs)


def written(page: str, results: dict) -> str:
    """The page with its block made anew.

    Raises:
        ValueError: if the page does not have both marks, once each and in order.
    """
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", page)
    if parts[1::2] != [BEGIN, END]:
        raise ValueError(f"{PAGE.name} needs the lines {BEGIN} and {END}, once each")
    return f"{parts[0]}{BEGIN}\n\n{block(results)}\n\n{END}{parts[4]}"


def rewrite() -> None:
    PAGE.write_text(written(PAGE.read_text("utf-8"), stored()), encoding="utf-8")


if __name__ == "__main__":
    if not stored():
        sys.exit(f"No {RESULTS.name} yet: python tests/classroom/measure.py --update --weigh")
    rewrite()
