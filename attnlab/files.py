"""Writing files: the whole of one or nothing, and logs that a reader can follow."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes | str) -> None:
    """The whole file or none: it gets its name only when it is complete. Text is UTF-8.

    Whatever ends it early, Ctrl-C included, leaves what was there before.

    Raises:
        OSError: if the folder is not there or cannot be written to.
    """
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:  # Ctrl-C too
        Path(scratch).unlink(missing_ok=True)
        raise


def log_as_json(log: dict[str, Any]) -> str:
    """JSON with a line for each entry of a log, and for each entry of each of its "runs"."""
    runs = ",\n".join(
        f"  {json.dumps(seed)}: {{\n"
        + ",\n".join(f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in run.items())
        + "\n  }"
        for seed, run in log["runs"].items()
    )
    rest = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in log.items() if k != "runs"]
    return "{\n" + ",\n".join([*rest, f' "runs": {{\n{runs}\n }}']) + "\n}\n"
