"""The record of what is done, and the panel of notebook 00 that shows it."""

import json

import pytest

import attnlab.exercises
from attnlab.exercises import check
from attnlab.teach import _record, progress_file, your_progress
from attnlab.teach._panel import NOTEBOOKS
from notebook_build import SOURCES


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "kept" / "progress.jsonl"
    monkeypatch.setenv("ATTNLAB_PROGRESS", str(path))
    return path


@pytest.fixture
def in_a_notebook(monkeypatch):
    monkeypatch.setattr(attnlab.exercises, "in_notebook", lambda: True)


def right(n_tokens, n_heads):
    return n_heads * n_tokens**2


def test_a_verdict_is_noted_in_a_notebook(file, in_a_notebook):
    assert check("0.1", ...).status == "not attempted" and not file.exists()
    check("0.1", lambda n, h: n * h)
    assert _record.done() == {"0.1": "mistake"}
    check("0.1", lambda n, h: 1 / 0)
    assert _record.done() == {"0.1": "error"}
    check("0.1", right)
    check("0.1", lambda n, h: n * h)
    assert _record.done() == {"0.1": "correct"}, "what was done once stays done"
    assert len(file.read_text().splitlines()) == 3


def test_nothing_is_noted_outside_a_notebook_or_when_off(file, monkeypatch, in_a_notebook):
    monkeypatch.setattr(attnlab.exercises, "in_notebook", lambda: False)
    check("0.1", right)
    assert not file.exists()
    monkeypatch.setattr(attnlab.exercises, "in_notebook", lambda: True)
    monkeypatch.setenv("ATTNLAB_PROGRESS", "off")
    assert progress_file() is None
    check("0.1", right)
    assert not file.exists() and _record.done() == {}
    _record.forget()


def test_lines_that_cannot_be_read_count_for_nothing(file):
    file.parent.mkdir()
    good = json.dumps({"exercise": "1.2", "status": "correct"})
    bad = ['{"exercise": "1.3", "sta', "[]", '{"exercise": 4, "status": "correct"}', "\x00\xff",
           '{"exercise": "1.4", "status": "perfect"}', ""]  # fmt: skip
    file.write_text("\n".join([*bad, good, *bad]))
    assert _record.done() == {"1.2": "correct"}


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path, monkeypatch, in_a_notebook):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("ATTNLAB_PROGRESS", str(tmp_path / "taken" / "progress.jsonl"))
    assert check("0.1", right).status == "correct"
    assert _record.done() == {}


def test_start_again_keeps_the_old_record_once_more(file):
    _record.record("1.1", "correct")
    panel = your_progress()
    assert panel._state["share"] > 0
    panel._wish = {"what": "forget", "count": 1}
    assert _record.done() == {} and panel._state["share"] == 0
    assert "1.1" in file.with_name("progress.jsonl.old").read_text()
    panel._wish = {"what": "forget", "count": 2}  # nothing there: no error


def test_the_panel_shows_every_exercise(file):
    panel = your_progress()
    assert f"0 of {sum(len(row['exercises']) for row in panel._state['rows'])} " in repr(panel)
    _record.record("2.1", "correct")
    _record.record("2.2", "mistake")
    panel._wish = {"what": "look", "count": 1}
    signs = [e["sign"] for e in panel._state["rows"][2]["exercises"]]
    assert signs[:3] == ["✅", "❌", "✏️"] and repr(panel).startswith("1 of ")
    minutes = [row["left"] for row in panel._state["rows"]]
    assert minutes[2] != your_progress()._state["rows"][1]["left"]


def test_where_nothing_is_run_the_panel_says_so(file):
    data, _ = your_progress()._repr_mimebundle_()
    assert "Nothing is run here" in data["text/html"] and "✏️" not in data["text/html"]
    assert "1 one head" in data["text/html"]


def test_the_panel_knows_the_notebooks_by_their_names():
    assert list(NOTEBOOKS) == [source.stem for source in SOURCES]
