"""Ctrl-C in the middle of long work: it was seen to go on, it ends at once and leaves nothing half
written. The work runs in a process of its own, with a terminal to show its progress in."""

import os
import select
import signal
import subprocess
import sys
import time

import pytest

pty = pytest.importorskip("pty", reason="needs a Unix terminal")

COMMANDS = {  # name: (arguments, what the progress says, file that it writes)
    "trained": (["attnlab.trained", "tiny-english", "--out", "{}"], "of 700",
                "tiny-english.json"),
    "races": (["attnlab.races", "--device", "cpu", "--out", "{}"], "of 1,000", "race.json"),
    "structures": (["attnlab.structures", "letters", "--out", "{}/structures.json"], "of 400",
                   "structures.json"),
    "bench": (["attnlab.bench", "--parts", "decoding", "--scale", "tiny", "--seconds", "300",
               "--json", "{}/bench.json"], "decoding: ", "bench.json"),
}  # fmt: skip


def read_until(terminal: int, words: str, process: subprocess.Popen, seconds: float = 60) -> str:
    """What the terminal shows, up to these words."""
    shown, end = "", time.monotonic() + seconds
    while words not in shown:
        assert time.monotonic() < end and process.poll() is None, f"no {words!r} in {shown!r}"
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupted_command_shows_progress_and_leaves_the_old_file(name, tmp_path):
    arguments, words, written = COMMANDS[name]
    old = tmp_path / written
    old.write_text('{"recipes": {}}')
    terminal, side = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "ATTNLAB_QUIET"}
    process = subprocess.Popen(
        [sys.executable, "-m", *(a.format(tmp_path) for a in arguments)], stderr=side,
        stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    os.close(side)
    try:
        read_until(terminal, words, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert old.read_text() == '{"recipes": {}}'
    assert [path.name for path in tmp_path.iterdir()] == [written]
