"""What a notebook takes: seconds and memory of Run All, for every notebook.

    python notebooks/weigh.py            # all of them, one after another
    python notebooks/weigh.py 03 15      # some

The course promises a minute and 1 GB for each notebook, a minute and a half and 2 GB where models
are trained. Seconds depend on the machine and are only shown; too much memory is an error. The
promise is for PyTorch without CUDA: with it, `import torch` alone takes 0.28 GB more.
"""

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import build
import nbformat
import torch

HERE = Path(__file__).resolve().parent
CUDA = 0.28 if torch.version.cuda else 0.0  # its libraries, loaded whether a GPU is there or not
MOST = 1.0 + CUDA  # GB of the kernel
MOST_TRAINING = 2.0 + CUDA
# Linux counts the parent's memory into a child's ru_maxrss: there, ask the kernel's own table.
ASK = """import pathlib, re, resource, sys
status = pathlib.Path("/proc/self/status")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak *= 1 if sys.platform == "darwin" else 1024
if status.exists():
    peak = int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]) * 1024
print(peak)"""


class Weight(NamedTuple):
    """Seconds of Run All, the kernel's largest memory in GB (10^9 bytes), whether it trains."""

    seconds: float
    gigabytes: float
    trains: bool

    @property
    def too_much(self) -> bool:
        return self.gigabytes > (MOST_TRAINING if self.trains else MOST)


def weigh(path: Path) -> Weight:
    """Run a notebook in a kernel of its own."""
    notebook = nbformat.read(path, as_version=4)
    trains = any(re.search(r"train import .*\bfit\b", c.source) for c in notebook.cells)
    notebook.cells.append(nbformat.v4.new_code_cell(ASK))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        build.run(notebook, Path(folder), timeout=600)
    seconds = time.monotonic() - start
    return Weight(seconds, int(notebook.cells[-1].outputs[0].text) / 1e9, trains)


def main(arguments: list[str] | None = None, folder: Path = HERE) -> int:
    parser = argparse.ArgumentParser(prog="weigh.py", description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", metavar="NN", help="numbers; all if none is given")
    chosen = parser.parse_args(arguments).notebooks
    paths = sorted(folder.glob("[0-9][0-9]-*.ipynb"))
    unknown = [n for n in chosen if not any(p.name.startswith(n) for p in paths)]
    if unknown:
        parser.error(f"no notebook {unknown[0]}")
    print(f"{'notebook':36}{'seconds':>8}{'GB':>7}")
    status = 0
    for path in paths:
        if chosen and not any(path.name.startswith(n) for n in chosen):
            continue
        try:
            weight = weigh(path)
        except build.BuildError as error:
            status = 1
            print(f"{path.stem:36}FAILED: {error}", flush=True)
            continue
        status = status or int(weight.too_much)
        note = "  trains" if weight.trains else ""
        note += "  TOO MUCH MEMORY" if weight.too_much else ""
        print(f"{path.stem:36}{weight.seconds:8.0f}{weight.gigabytes:7.2f}{note}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
