"""A file is written whole or not at all."""

import json

import pytest

from attnlab import files


def test_bytes_and_text_are_written_as_they_are(tmp_path):
    file = tmp_path / "file"
    for content, stored in ((b"\x00\r\n", b"\x00\r\n"), ("ä\n", "ä\n".encode())):
        files.write_whole(file, content)
        assert file.read_bytes() == stored and [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("where", ["chmod", "replace"])
def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path, monkeypatch, where):
    file = tmp_path / "out.json"
    file.write_text("old")

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_whole(file, "new")
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files.write_whole(tmp_path / "nowhere" / "file", "new")


def test_a_log_has_a_line_for_each_entry_and_reads_back():
    log = {"seeds": [0, 1], "runs": {"0": {"losses": [1.5, 1.0]}, "1": {"losses": [2.0]}}}
    text = files.log_as_json(log)
    assert json.loads(text) == log
    assert ' "seeds": [0, 1],' in text.splitlines() and text.endswith("}\n")
    assert sum('"losses"' in line for line in text.splitlines()) == 2
