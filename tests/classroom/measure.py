"""How many students a server carries: a class on a real JupyterHub, on this machine.

    python tests/classroom/measure.py --students 1 2 4 8
    python tests/classroom/measure.py --students 1 2 4 8 --update    # and write what came out

Each of N students logs in, starts a server, opens notebook 02 and runs all of it, all N at once;
then all N drag the slider d_model of its last explorer at once, for 60 steps, 20 a second if the
answers allow. --update stores the results in tests/classroom/results.json and writes the section
"Classroom" of notebooks/TEACHING.md anew. With --weigh every notebook is run, one after another,
for its memory and its processor time (about ten minutes more); otherwise what is stored stays.

The hub's environment is made once, in the user's cache (or --env FOLDER), from PyPI and npm;
nothing is installed into the course's own. Students, hub and this program share the machine, so
that a class on other machines sees somewhat better times. For numbers that are to stay, let nothing
else run.
"""

import argparse
import asyncio
import math
import os
import re
import resource
import signal
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import hub as hubs  # noqa: E402
import psutil  # noqa: E402
import report  # noqa: E402
from hub import Hub  # noqa: E402
from student import Student  # noqa: E402

NOTEBOOK = "notebooks/02-many-heads.ipynb"
TRAITS = ("d_model", "temperature")  # the Attention Explorer has both
PAUSE = 0.05  # seconds between two values of a slider in a moving hand


class Failed(RuntimeError):
    """A lesson went wrong; the message says for whom and where."""


def values(steps: int) -> list[int]:
    """What the slider shows on its way: 16, 24, 32, … up to its end and back."""
    way = [*range(16, 513, 8), *range(504, 16, -8)]
    return [way[i % len(way)] for i in range(steps)]


# --------------------------------------------------------------------------------------------
# One lesson
# --------------------------------------------------------------------------------------------


async def lesson(hub: Hub, count: int, steps: int) -> dict:
    """`count` students at once, from the login to the last step of the slider; what it took.

    Raises:
        Failed: if a cell fails, or a step of a slider is not answered by a new picture.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(count))
    students = [Student(hub.url, f"student-{i + 1}") for i in range(count)]
    row = {"students": count, "load_average_before": round(os.getloadavg()[0], 2)}

    async def each(function, *arguments):
        return await asyncio.gather(
            *(asyncio.to_thread(function, student, *arguments) for student in students)
        )

    with Stretch(hub) as starting:
        await each(Student.log_in, hub.password)
        await each(Student.start_server)
    notebooks = await each(lambda student: student.read(NOTEBOOK)["content"])
    kernels = await asyncio.gather(*(student.open(NOTEBOOK) for student in students))
    try:
        with Stretch(hub) as running:
            wrong = await asyncio.gather(
                *(k.run_all(n) for k, n in zip(kernels, notebooks, strict=True))
            )
        stop_if(sum(wrong, []))
        with Stretch(hub) as dragging:
            drags = await asyncio.gather(
                *(k.drag(k.explorer(*TRAITS), "d_model", values(steps), PAUSE) for k in kernels)
            )
        stop_if([problem for drag in drags for problem in drag.wrong])
        for kernel in kernels:
            there = (await kernel.state(kernel.explorer(*TRAITS)))["d_model"]
            if there != values(steps)[-1]:
                raise Failed(f"{kernel.owner}: the slider ended at {there}")
        memory = memory_of(hub, [student.name for student in students])
    finally:
        await asyncio.gather(*(kernel.close() for kernel in kernels))
    latencies = sorted(ms for drag in drags for ms in drag.milliseconds)
    return {
        **row,
        "start": starting.row(),
        "run_all": running.row(),
        "drag": {
            **dragging.row(),
            "steps": len(latencies),
            "median_ms": round(statistics.median(latencies), 1),
            "p95_ms": round(latencies[math.ceil(0.95 * len(latencies)) - 1], 1),
            "worst_ms": round(latencies[-1], 1),
        },
        "memory_mb": memory,
    }


def stop_if(problems: list[str]) -> None:
    if problems:
        raise Failed("\n".join(problems[:10]))


def kinds(hub: Hub) -> list[tuple[str, str, psutil.Process]]:
    """(whose, what, process) of all processes; what is "hub", "proxy", "server" or "kernel"."""
    found = []
    for owner, group in hub.processes().items():
        for i, process in enumerate(group):
            what = owner if owner in ("hub", "proxy") else "kernel" if i else "server"
            found.append((owner, what, process))
    return found


def memory_of(hub: Hub, names: list[str]) -> dict:
    """MB (10^6 bytes) now, with a page that several processes share counted in equal parts, and
    the largest that the system has noted of each process, with shared pages counted whole."""
    now, peaks = {}, {}
    for owner, what, process in kinds(hub):
        if owner not in ("hub", "proxy", *names):
            continue
        group = now.setdefault(what, {})
        group[owner] = group.get(owner, 0) + process.memory_full_info().pss / 1e6
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s*(\d+)", status)[1]) * 1024 / 1e6
        peaks[what] = max(peaks.get(what, 0), peak)
    each = [now["server"][name] + now["kernel"][name] for name in names]
    return {
        **{what: round(max(group.values())) for what, group in now.items()},
        "student": round(max(each)),
        "students": round(sum(each)),
        "peak": {what: round(peak) for what, peak in peaks.items()},
    }


class Stretch:
    """Seconds, and processor time by kind of process, between its beginning and its end."""

    def __init__(self, hub: Hub):
        self.hub = hub

    def __enter__(self):
        self.before, self.start = self.used(), time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.start
        self.cpu = {what: t - self.before.get(what, 0) for what, t in self.used().items()}
        self.all = self.cpu.pop("all")

    def used(self) -> dict[str, float]:
        """Processor seconds so far; "all" is what the whole machine has worked."""
        times = psutil.cpu_times()
        found = {
            "program": time.process_time(),
            "all": times.user + times.nice + times.system + times.irq + times.softirq,
        }
        for _, what, process in kinds(self.hub):
            times = process.cpu_times()
            found[what] = found.get(what, 0) + times.user + times.system
        return found

    def row(self) -> dict:
        """others_cores: how many cores worked for somebody else meanwhile."""
        ours = sum(self.cpu.values())
        return {
            "seconds": round(self.seconds, 1),
            "cpu_seconds": {what: round(t, 2) for what, t in self.cpu.items()},
            "cores": round(ours / self.seconds, 2),
            "others_cores": round(max(0.0, self.all - ours) / self.seconds, 2),
        }


# --------------------------------------------------------------------------------------------
# All of them
# --------------------------------------------------------------------------------------------


def measure(environment: Path, count: int, steps: int, threads: int = 1) -> dict:
    """A hub of its own for `count` students; its end is part of what is tried."""
    with Hub(environment, threads) as hub:
        try:
            row = asyncio.run(lesson(hub, count, steps))
        except Exception:
            print(f"The hub's log ends:\n{hub.tail()}", file=sys.stderr)
            raise
    stop_if([f"the hub left behind: {process}" for process in hub.left_behind])
    return {**row, "threads": threads}


def weigh() -> dict[str, dict]:
    """Memory and processor time of each notebook's Run All, as a hub's kernels run it."""
    sys.path.insert(0, str(hubs.ROOT / "notebooks"))
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    import weigh as scales

    found = {}
    for path in sorted((hubs.ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb")):
        before = cpu_of_children()
        weight = scales.weigh(path)
        found[path.stem] = {
            "gb": round(weight.gigabytes, 3),
            "cpu_seconds": round(cpu_of_children() - before, 1),
        }
        print(f"{path.stem:36}{found[path.stem]}", flush=True)
    return found


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine() -> dict:
    named = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": named[1] if named else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": " ".join(os.uname()[i] for i in (0, 2, 4)),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="measure.py", description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    parser.add_argument("--steps", type=int, default=60, help="of the slider, for each student")
    parser.add_argument("--threads", type=int, default=1, help="of each kernel")
    parser.add_argument("--env", type=Path, help="folder of the hub's environment")
    parser.add_argument("--weigh", action="store_true", help="run every notebook, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the results")
    parser.add_argument("--update", action="store_true", help="results.json and TEACHING.md")
    options = parser.parse_args(arguments)
    if min(options.students) < 1 or options.steps < 1 or options.threads < 1:
        parser.error("students, steps and threads are counted from 1")
    if options.update and not (options.weigh or report.stored().get("notebooks")):
        parser.error("nothing is stored yet: the first --update needs --weigh")
    given = arguments if arguments is not None else sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # take the hub down on the way out
    try:
        environment = hubs.make_environment(options.env)
        results = {
            "command": " ".join(["python tests/classroom/measure.py", *given]),
            "machine": machine(),
            "versions": hubs.versions(environment),
            "classes": [],
        }
        for count in sorted(set(options.students)):
            row = measure(environment, count, options.steps, options.threads)
            results["classes"].append(row)
            print(report.line(row), flush=True)
        results["notebooks"] = weigh() if options.weigh else report.stored().get("notebooks", {})
    except (hubs.CannotRun, Failed) as failure:
        print(f"Stopped: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped by you; the hub is down.", file=sys.stderr)
        return 130
    print("\n" + report.table(results))
    if options.json:
        options.json.write_text(report.as_json(results), encoding="utf-8")
    if options.update:
        report.RESULTS.write_text(report.as_json(results), encoding="utf-8")
        report.rewrite()
    return 0


if __name__ == "__main__":
    sys.exit(main())
