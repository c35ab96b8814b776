"""Measuring: seconds and bytes of a piece of work, their spread, and on what it was measured.

compare({"mine": lambda: f(x), "theirs": lambda: g(x)}, x.device, base="theirs")
"""

import contextlib
import importlib.metadata
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import torch

PACKAGES = (  # of which a measurement may depend
    "torch", "triton", "transformers", "x-transformers", "rotary-embedding-torch", "flash-attn",
    "transformer-lens", "bertviz",
)  # fmt: skip


class Clock:
    """Seconds of work: of this process on a CPU, of the finished kernels on a GPU."""

    def __init__(self, device: torch.device):
        self.wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type)
        self.read = time.process_time if self.wait is None else time.perf_counter

    def __call__(self, work: Callable[[], object], times: int = 1) -> float:
        """Seconds of one run of work, the mean of so many in a row."""
        for wait in filter(None, [self.wait]):
            wait()
        start = self.read()
        for _ in range(times):
            work()
        for wait in filter(None, [self.wait]):
            wait()
        return (self.read() - start) / times


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """The most memory that work holds at once beyond what was there before, as torch allocates.

    None on a device where torch does not tell.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    if device.type != "cpu":
        return None
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler writes to stderr
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def compare(
    works: dict[Hashable, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int = 7,
    seconds: float = 0.0,
    base: Hashable | None = None,
    prepare: Callable[[Hashable], object] = lambda key: None,
    progress: Callable[[float], object] = lambda share: None,
) -> dict[Hashable, dict]:
    """Time some pieces of work against each other: in every round each runs once, in random order.

    What changes on the machine meanwhile changes all of them, and ratios are taken within a round.

    Args:
        rounds: how often each is timed; more while `seconds` are not over.
        base: the work whose time the ratios divide by.
        prepare: called with its key before each run of a work; not timed.
        progress: told the share of all that is done, 0 to 1.

    Returns:
        For each key "seconds" and "seconds_quartiles" of one run (the median over the rounds and
        the quartiles), "peak_bytes", "rounds", and with a base "ratio" and "ratio_quartiles". A
        work that raises an error has nothing but "left_out", the error in a line: memory that is
        not there, a kernel that the device lacks.

    Raises:
        RuntimeError: if the base itself raises an error.
    """
    clock, order = Clock(device), random.Random(0)
    times: dict[Hashable, list[float]] = {}
    repeat, peak, left_out = {}, {}, {}

    def leave_out(key: Hashable, error: Exception) -> None:
        """One that cannot run must not take the others with it."""
        left_out[key] = reason(error)
        times.pop(key, None)
        if key == base:
            raise RuntimeError(f"{key}, the base of all ratios: {left_out[key]}") from error
        if device.type == "cuda":
            torch.cuda.empty_cache()

    for i, (key, work) in enumerate(works.items()):
        try:
            prepare(key)
            once = clock(work)  # with whatever is built, compiled or cached on the first call
            prepare(key)
            start = time.monotonic()
            peak[key] = peak_bytes(work, device)
            once = min(once, time.monotonic() - start)
            if once < 0.1:
                prepare(key)
                once = min(clock(work) for _ in range(3))
            repeat[key] = max(1, round(0.02 / max(once, 1e-6)))  # no clock reads microseconds
            times[key] = []
        except Exception as error:
            leave_out(key, error)
        progress((i + 1) / len(works) * 0.2)
    start, done = time.monotonic(), 0
    while times and (done < rounds or (time.monotonic() - start < seconds and done < 1000)):
        for key in order.sample(list(times), len(times)):
            try:
                prepare(key)
                times[key].append(clock(works[key], repeat[key]))
            except Exception as error:
                leave_out(key, error)
        done += 1
        by_time = (time.monotonic() - start) / seconds if seconds else 1.0
        progress(0.2 + 0.8 * min(done / rounds, by_time if done >= rounds else 1.0, 1.0))
    found = {}
    for key in works:
        if key in left_out:
            found[key] = {"left_out": left_out[key]}
            continue
        found[key] = {
            "seconds": statistics.median(times[key]),
            "seconds_quartiles": quartiles(times[key]),
            "peak_bytes": peak[key],
            "rounds": done,
        }
        if base is not None:
            ratios = [a / b for a, b in zip(times[key], times[base], strict=True)]
            found[key]["ratio"] = statistics.median(ratios)
            found[key]["ratio_quartiles"] = quartiles(ratios)
    return found


def reason(error: BaseException) -> str:
    """Why something could not be measured, in a line."""
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "out of memory"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def quartiles(values: Sequence[float]) -> list[float]:
    """The values that a quarter and three quarters lie below."""
    if len(values) < 2:
        return [values[0]] * 2
    return statistics.quantiles(values, n=4, method="inclusive")[::2]


def device_name(device: torch.device) -> str:
    """In words: which GPU, or which processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """The version of Python and of each package, None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
