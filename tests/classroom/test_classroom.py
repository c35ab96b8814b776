"""Two students in a real JupyterHub: each has a server, notebooks and answers of their own, the
link that hands out the notebooks keeps what a student wrote, and nothing is left at the end.

The heavy tests run once a week (ATTNLAB_WEEKLY=1, or -m weekly): they install a hub and take
minutes.
"""

import asyncio
import copy
import importlib
import json
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MOST_MB = 1500  # of a student: server and kernel
NOTEBOOK = "notebooks/02-many-heads.ipynb"
PASSED_ON = "heads-and-positions"  # the folder that nbgitpuller makes

pytestmark = pytest.mark.timeout(1800)


def heavy(test):
    """Installs a hub and takes minutes."""
    for mark in (pytest.mark.weekly, pytest.mark.slow, pytest.mark.network):
        test = mark(test)
    return test


def beside(name):
    """A file of this folder as a module."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    return importlib.import_module(name)


def finish(coroutine):
    """What a coroutine returns. In a thread of its own: Playwright has a loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


# --------------------------------------------------------------------------------------------
# Every day: the page says what was measured
# --------------------------------------------------------------------------------------------


def test_the_guide_says_what_was_measured():
    report = beside("report")
    page = report.PAGE.read_text("utf-8")
    assert report.written(page, report.stored()) == page, "run tests/classroom/report.py"


def test_other_measurements_make_another_page():
    report = beside("report")
    page, results = report.PAGE.read_text("utf-8"), copy.deepcopy(report.stored())
    results["classes"][-1]["drag"]["p95_ms"] = 77.4
    peaks = {"hub": 60, "proxy": 40, "server": 500, "kernel": 1500}  # MB
    for row in results["classes"]:
        row["memory_mb"]["peak"] = peaks
    block = report.written(page, results)
    assert "| 77 ms |" in block
    # 0.1 + 30 × (0.5 + 1.5) = 60.1 GB, and 2 for the system: the next server has 64.
    assert "| notebook 02 | 2.00 | 60 | 64 |" in block
    with pytest.raises(ValueError, match="once each"):
        report.written(page.replace(report.END, ""), results)


# --------------------------------------------------------------------------------------------
# Every week: a class
# --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub():
    hubs = beside("hub")
    if hubs.problem():
        pytest.skip(hubs.problem())
    with hubs.Hub(hubs.make_environment()) as hub:
        yield hub
    assert hub.left_behind == []


@pytest.fixture(scope="module")
def students(hub):
    """Ada and Bob, logged in, each with a running server."""
    both = [beside("student").Student(hub.url, name) for name in ("ada", "bob")]
    for student in both:
        student.log_in(hub.password)
        student.start_server()
    return both


@heavy
def test_a_class_of_two_runs_the_notebook_and_drags(hub):
    """The lesson that `measure.py` measures; it fails at an error in any cell, and at a step of a
    slider that brings no new picture."""
    row = finish(beside("measure").lesson(hub, count=2, steps=20))
    assert row["drag"]["steps"] == 2 * 20
    assert 0 < row["memory_mb"]["student"] < MOST_MB
    assert row["memory_mb"]["peak"]["server"] + row["memory_mb"]["peak"]["kernel"] < MOST_MB


@heavy
def test_each_step_is_answered_by_its_own_picture_in_order(hub, students):
    """Two students at once, with different sliders in their hands."""
    from attnlab.explorers import AttentionExplorer

    settings = {"source": "random", "encoding": "none"}
    ways = [[128, 256, 128, 64], [512, 64, 72, 80]]

    async def one(student, values):
        kernel = await student.open(NOTEBOOK)
        code = f"from attnlab.explorers import *; AttentionExplorer('She eats fish', **{settings})"
        _, error = await kernel.run(code)
        drag = await kernel.drag(kernel.explorer("d_model"), "d_model", values, pause=0.02)
        await kernel.close()
        return error, drag

    async def both():
        return await asyncio.gather(*map(one, students, ways))

    for values, (error, drag) in zip(ways, finish(both()), strict=True):
        assert (error, drag.wrong, len(drag.milliseconds)) == ("", [], len(values))
        assert min(drag.milliseconds) > 0
        for value, picture in zip(values, drag.pictures, strict=True):
            assert AttentionExplorer("She eats fish", d_model=value, **settings)._view == picture


@heavy
def test_a_step_that_changes_nothing_is_reported(hub, students):
    async def run():
        kernel = await students[0].open(NOTEBOOK)
        await kernel.run("from attnlab.explorers import *; ShapesExplorer()")
        drag = await kernel.drag(kernel.explorer("n_heads"), "n_heads", [4, 4], pause=0)
        await kernel.close()
        return drag.wrong

    assert finish(run()) == ["ada: no picture for n_heads = 4"]


@heavy
def test_a_lesson_fails_where_a_cell_fails(hub, students):
    notebook = {"cells": [{"cell_type": "code", "source": source} for source in ("1", "1 / 0")]}

    async def run():
        kernel = await students[0].open(NOTEBOOK)
        wrong = await kernel.run_all(notebook)
        await kernel.close()
        return wrong

    assert finish(run()) == ["ada, cell 1: ZeroDivisionError: division by zero"]


@heavy
def test_the_settings_arrive_in_the_kernel(hub, students):
    code = (
        "import os, attnlab, torch; from attnlab.teach import progress_file;"
        "print(torch.get_num_threads(), os.getcwd(), progress_file(), attnlab.__file__,"
        " os.environ['JUPYTER_CONFIG_PATH'], sep='|')"
    )

    async def run():
        kernel = await students[0].open(NOTEBOOK)
        printed = await kernel.run(code)
        await kernel.close()
        return printed

    printed, error = finish(run())
    assert error == ""
    threads, folder, progress, package, settings = printed.strip().split("|")
    home = hub.students / "ada"
    assert threads == "1" and Path(folder) == home / "notebooks"
    assert Path(progress).is_relative_to(home), "each student's record lies with that student"
    assert Path(package) == ROOT / "attnlab" / "__init__.py"
    assert (Path(settings) / "jupyter_server_config.py").exists()  # makes sliders prompt


@heavy
def test_each_student_has_files_of_their_own(hub, students):
    import requests

    ada, bob = students
    before = bob.read(NOTEBOOK)["content"]
    notebook = ada.read(NOTEBOOK)["content"]
    notebook["cells"].append({**notebook["cells"][0], "id": "mine", "source": "Ada's answer"})
    ada.write(NOTEBOOK, notebook)
    ada.write("only-hers.ipynb", notebook)
    assert bob.read(NOTEBOOK)["content"] == before
    with pytest.raises(requests.HTTPError, match="404"):
        bob.read("only-hers.ipynb")
    with pytest.raises(requests.HTTPError, match="403"):
        bob.ask("GET", f"{ada.base}/api/contents/only-hers.ipynb")
    ada.stop_server()
    ada.start_server()  # tomorrow
    assert ada.read(NOTEBOOK)["content"]["cells"][-1]["source"] == "Ada's answer"
    original = json.loads((ROOT / NOTEBOOK).read_text("utf-8"))
    assert len(original["cells"]) == len(notebook["cells"]) - 1, "the course's own is untouched"


@heavy
def test_who_has_no_password_stays_out(hub):
    import requests

    for password in ("", "wrong-password"):
        with pytest.raises(requests.HTTPError, match="403"):
            beside("student").Student(hub.url, "eve").log_in(password)


# --------------------------------------------------------------------------------------------
# With a browser
# --------------------------------------------------------------------------------------------


@pytest.fixture
def page(hub, browser):
    """A page that nobody has logged in."""
    page = browser.page()
    yield page
    page.context.close()


def log_in(page, hub, name, then):
    """Through the hub's form, to an address below the hub's."""
    page.goto(f"{hub.url}/hub/login?{urlencode({'next': then})}")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(hub.password)
    page.get_by_role("button", name="Sign in").click()


@heavy
@pytest.mark.browser
def test_a_page_runs_all_and_moves_a_slider(hub, page):
    from lab import Lab
    from test_notebooks import LOOK

    log_in(page, hub, "carol", "/hub/user-redirect/lab/tree/" + NOTEBOOK)
    page.wait_for_url(f"{hub.url}/user/carol/lab/tree/{NOTEBOOK}*", timeout=180_000)
    Lab.show(page, NOTEBOOK)
    assert Lab.run_all(page) == []
    last = page.locator(".jp-Notebook .jp-Cell", has_text="AttentionExplorer(").last
    index = page.evaluate(
        "() => notebook.content.model.toJSON().cells.findLastIndex("
        "(c) => [].concat(c.source).join('').startsWith('AttentionExplorer('))"
    )
    page.evaluate("async (i) => { await notebook.content.scrollToItem(i); }", index)
    root = last.locator(".attnlab")
    root.locator(".al-stage canvas:visible").first.wait_for()
    for _ in range(3):
        before = root.evaluate(LOOK)
        root.locator('[data-control="d_model"]').press("ArrowRight")
        page.wait_for_function(
            f"([e, before]) => ({LOOK})(e) !== before", arg=[root.element_handle(), before]
        )
    assert page.errors == []


@pytest.fixture
def repository(tmp_path):
    """The address of a repository with the notebooks on its branch main, and a function that
    changes a file there as a lecturer would."""
    if shutil.which("git") is None:
        pytest.skip("git not found: nbgitpuller needs it")
    work, bare = tmp_path / "work", tmp_path / PASSED_ON
    who = ["-c", "user.name=lecturer", "-c", "user.email=lecturer@example.org"]

    def git(*arguments, folder=work):
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    shutil.copytree(ROOT / "notebooks", work / "notebooks",
                    ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))  # fmt: skip
    git("init", "-b", "main")
    git("add", "-A")
    git("commit", "-m", "the course")
    git("clone", "--bare", str(work), str(bare), folder=tmp_path)

    def change(path, old, new):
        text = (work / path).read_text("utf-8")
        assert text.count(old) == 1, f"{old!r} must stand once in {path}"
        (work / path).write_text(text.replace(old, new), encoding="utf-8")
        git("commit", "-am", "a better word")
        git("push", str(bare), "main")

    return bare.as_uri(), change


@heavy
@pytest.mark.browser
def test_the_link_hands_out_the_notebooks_and_keeps_answers(hub, page, repository):
    """As in notebooks/TEACHING.md. The lecturer changes two notebooks after the student has written
    into one of them; the student follows the same link again."""
    address, change = repository
    urlpath = f"lab/tree/{PASSED_ON}/notebooks/00-start-here.ipynb"
    link = "/hub/user-redirect/git-pull?" + urlencode(
        {"repo": address, "branch": "main", "urlpath": urlpath}
    )
    log_in(page, hub, "dave", link)
    page.wait_for_url(f"{hub.url}/user/dave/{urlpath}*", timeout=180_000)
    page.wait_for_function("() => window.jupyterapp?.shell")
    folder = hub.students / "dave" / PASSED_ON
    for original in (ROOT / "notebooks").glob("*.ipynb"):
        copied = folder / "notebooks" / original.name
        assert copied.read_bytes() == original.read_bytes()

    answered, other = folder / NOTEBOOK, "notebooks/01-one-head.ipynb"
    text = answered.read_text("utf-8")
    assert text.count("n_parameters = ...") == 1
    answered.write_text(text.replace("n_parameters = ...", "n_parameters = 7"), "utf-8")
    deleted = folder / "notebooks" / "03-what-heads-learn.ipynb"
    deleted.unlink()
    change(NOTEBOOK, "n_parameters = ...", "n_parameters = None")
    change(NOTEBOOK, "follow two heads through", "walk with two heads through")
    change(other, "# 1. One head", "# 1. A single head")
    page.goto(hub.url + link)
    page.wait_for_url(f"{hub.url}/user/dave/{urlpath}*", timeout=180_000)
    page.wait_for_function("() => window.jupyterapp?.shell")
    now = json.dumps(json.loads(answered.read_text("utf-8")))  # still a notebook
    assert "n_parameters = 7" in now, "the student's answer is gone"
    assert "walk with two heads through" in now, "the lecturer's change has not come"
    assert deleted.exists(), "a deleted notebook comes back"
    assert "A single head" in (folder / other).read_text("utf-8")


# --------------------------------------------------------------------------------------------
# The end, and what can go wrong
# --------------------------------------------------------------------------------------------


@heavy
def test_a_hub_that_ends_leaves_nothing(hub):
    """A hub of its own, which ends while a student's kernel runs."""
    import psutil

    async def open_one(there):
        student = beside("student").Student(there.url, "frank")
        await asyncio.to_thread(student.log_in, there.password)
        await asyncio.to_thread(student.start_server)
        kernel = await student.open(NOTEBOOK)
        await kernel.run("import time; time.sleep(0)")
        working = [p for group in there.processes().values() for p in group]
        await kernel.close()
        return working

    with beside("hub").Hub(hub.environment) as there:
        working = finish(open_one(there))
        assert len(working) >= 4 and all(map(psutil.Process.is_running, working))
    assert there.left_behind == []
    assert not [p for p in working if p.is_running()]
    assert not there.folder.exists()


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    hubs = beside("hub")
    monkeypatch.setattr(hubs.shutil, "which", lambda name: None if name == "npm" else "/bin/it")
    if hubs.problem() and "Linux" in hubs.problem():
        pytest.skip(hubs.problem())
    with pytest.raises(hubs.CannotRun, match="npm not found: install Node.js"):
        hubs.make_environment(tmp_path / "environment")
    assert not (tmp_path / "environment").exists()


def test_a_folder_with_something_else_is_left_alone(monkeypatch, tmp_path):
    hubs = beside("hub")
    monkeypatch.setattr(hubs, "problem", lambda: None)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(hubs.CannotRun, match="holds something else"):
        hubs.make_environment(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_what_an_installer_says_is_handed_on():
    command = [sys.executable, "-c", "print('no route to host'); raise SystemExit(1)"]
    with pytest.raises(beside("hub").CannotRun, match="(?s)needs the network.*no route to host"):
        beside("hub").attempt("npm", command, "npm could not install JupyterHub's proxy")


@heavy
def test_a_taken_port_is_named(hub, monkeypatch):
    hubs = beside("hub")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = [other.getsockname()[1], *hubs.free_ports(2)]
        monkeypatch.setattr(hubs, "free_ports", lambda count: ports)
        with pytest.raises(hubs.CannotRun, match="took one of the hub's ports"):
            hubs.Hub(hub.environment)
