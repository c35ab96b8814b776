"""The command line of the benchmark."""

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch

import attnlab.bench
from attnlab import positions
from attnlab.bench.encodings import WIDTHS
from attnlab.bench.parts import SCALES, Setting
from attnlab.bench.results import Result, table
from attnlab.bench.run import PARTS, about, measure
from attnlab.files import write_whole


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m attnlab.bench", description=attnlab.bench.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    what = parser.add_argument_group("what is measured")
    what.add_argument("--all", action="store_true", help="all parts")
    what.add_argument(
        "--parts", nargs="+", metavar="PART", default=["encodings"],
        help=f"of {', '.join(map(repr, PARTS))} (default: encodings)",
    )  # fmt: skip
    what.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    what.add_argument("--scale", choices=SCALES, help="sizes (default: as the device is)")
    what.add_argument("--rounds", type=int, default=7, help="at least so many (default 7)")
    what.add_argument("--seconds", type=float, default=0, help="go on so long for each table")
    what.add_argument("--threads", type=int, default=1)
    what.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    what.add_argument(
        "--memory", type=float, metavar="GIB",
        help="leave out what needs more (default 6, on a GPU 0.8 of what is free)",
    )  # fmt: skip
    written = parser.add_argument_group("what is written")
    written.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    written.add_argument(
        "--update", action="store_true",
        help="keep the other parts that FILE has, and write after each part",
    )  # fmt: skip
    sizes = parser.add_argument_group("sizes of the part encodings")
    sizes.add_argument("--lengths", type=int, nargs="+", metavar="N", help="tokens")
    sizes.add_argument("--encodings", nargs="+", metavar="NAME", default=positions.names())
    sizes.add_argument("--d-model", type=int)
    sizes.add_argument("--heads", type=int)
    sizes.add_argument("--batch", type=int, default=1)
    sizes.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    sizes.add_argument("--causal", action="store_true", help="with a causal mask, base included")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    parts = list(PARTS) if options.all else list(dict.fromkeys(options.parts))
    for part in parts:
        if part not in PARTS:
            parser.error(f"no part {part!r}; there are {', '.join(map(repr, PARTS))}")
    for name in options.encodings:
        if name not in positions.names():
            parser.error(f"unknown encoding {name!r}; known: {', '.join(positions.names())}")
    if min(*(options.lengths or [1]), options.rounds, options.threads, options.batch) < 1:
        parser.error("lengths, rounds, threads and batch must be at least 1")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"no folder {options.json.absolute().parent} to write to")
    if options.update and not options.json:
        parser.error("--update: which file? Give --json FILE")
    try:
        device = torch.device(options.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"device {options.device!r}: {str(error).splitlines()[0]}")
    scale = options.scale or ("cpu" if device.type == "cpu" else "gpu")
    d_model, heads = (
        given or usual
        for given, usual in zip((options.d_model, options.heads), WIDTHS[scale], strict=True)
    )
    if heads < 1 or d_model % heads:
        parser.error("heads must divide d-model")
    setting = Setting(
        device, scale, options.rounds, options.seconds,
        options.memory or free_gib(device), not options.no_peers,
        {key: getattr(options, key)
         for key in ("lengths", "encodings", "batch", "dtype", "causal")}
        | {"d_model": d_model, "heads": heads},
    )  # fmt: skip
    start = None
    if options.update and options.json.exists():
        start = json.loads(options.json.read_text("utf-8"))
        now = about(setting)
        for what in ("format", "device", "scale", "versions"):
            if start.get(what) != now[what]:
                parser.error(
                    f"{options.json} was measured with another {what} ({start.get(what)}, now "
                    f"{now[what]}): leave --update out to replace it"
                )
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "attnlab.bench", *words])
    threads_before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with torch.enable_grad():
            run(parts, setting, command, options, start)
    except KeyboardInterrupt:
        written = "finished parts are in the file" if options.update else "nothing was written"
        print(f"\ninterrupted: {written}", file=sys.stderr)
        return 130
    finally:
        torch.set_num_threads(threads_before)
    return 0


def free_gib(device: torch.device) -> float:
    """What the work may hold if nobody says otherwise."""
    if device.type == "cuda":
        return 0.8 * torch.cuda.mem_get_info(device)[0] / 2**30
    return 6.0


def run(
    parts: list[str], setting: Setting, command: str, options: argparse.Namespace,
    start: Result | None,
) -> None:  # fmt: skip
    """Measure, print a table after each part, and write."""
    known = about(setting)
    print(
        f"{known['device']}, {options.threads} thread(s), torch {known['versions']['torch']}, "
        f"sizes for {setting.scale}",
        flush=True,
    )

    def done(part: str, result: Result) -> None:
        measured = result["parts"][part]
        sizes = ", ".join(f"{key} {value}" for key, value in measured["sizes"].items())
        load = measured["load"][0]
        print(
            f"\n{part}: {sizes}"
            + (f"; load {load:.1f}" if load is not None else "")
            + f"; {measured['seconds']:.0f} s"
        )
        if measured["rows"]:
            print(table(measured["rows"]))
        print(*measured["left_out"], sep="\n", flush=True)
        if options.update:
            write(options.json, result)

    result = measure(parts, setting, command, done, start)
    if options.json:
        write(options.json, result)
        print(f"\nwritten to {options.json}")


def write(file: Path, result: Result) -> None:
    """A line for each row, so that changes can be read."""
    parts = []
    for name, part in result["parts"].items():
        lines = [f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in part.items() if k != "rows"]
        rows = ",\n".join(f"    {json.dumps(row)}" for row in part["rows"])
        lines.append(f'   "rows": [\n{rows}\n   ]' if rows else '   "rows": []')
        parts.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    rest = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in result.items() if k != "parts"]
    whole = ",\n".join([*rest, ' "parts": {\n' + ",\n".join(parts) + "\n }"])
    write_whole(file, "{\n" + whole + "\n}\n")
