"""Which exercises are done: kept in one small file on the student's own disk.

The file is $ATTNLAB_PROGRESS, or progress.jsonl in the user's folder for data; "off" keeps nothing.
Each line says what a check said: {"exercise": "1.2", "status": "correct"}; the newest line counts,
except that what was correct once stays so. Nothing of the answers is kept, and nothing is sent.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

STATUS = ("correct", "mistake", "error")


def progress_file() -> Path | None:
    """Where the record is kept, or None where nothing is kept."""
    wanted = os.environ.get("ATTNLAB_PROGRESS", "")
    if wanted == "off":
        return None
    if wanted:
        return Path(wanted).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "attnlab" / "progress.jsonl"


def record(exercise: str, status: str) -> None:
    """Note what a check said, if it is news. A disk that cannot be written is no reason to stop."""
    file = progress_file()
    if file is None or status not in STATUS or done().get(exercise) in ("correct", status):
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:  # several notebooks may write at once
            lines.write(json.dumps({"exercise": exercise, "status": status}) + "\n")
    except OSError:
        pass


def done() -> dict[str, str]:
    """What is known of each exercise: "correct", or what the last check said. Lines that cannot be
    read count for nothing."""
    found: dict[str, str] = {}
    try:
        text = progress_file().read_text(encoding="utf-8", errors="replace")
    except (OSError, AttributeError):  # no file yet, or nothing is kept
        return found
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            exercise, status = entry["exercise"], entry["status"]
        except (ValueError, TypeError, KeyError):
            continue
        if isinstance(exercise, str) and status in STATUS and found.get(exercise) != "correct":
            found[exercise] = status
    return found


def forget() -> None:
    """Begin anew. The old record stays beside it as progress.jsonl.old until the next time.

    Raises:
        OSError: if the file cannot be moved.
    """
    file = progress_file()
    if file is not None and file.exists():
        file.replace(file.with_name(file.name + ".old"))
