"""Slides with a live kernel: JupyterLab with the extension that notebooks/TEACHING.md names."""

import shutil
import subprocess
import sys

import pytest
from lab import Lab
from test_notebooks import FOLDER, LOOK

pytestmark = [pytest.mark.browser, pytest.mark.weekly, pytest.mark.slow, pytest.mark.network]

NAMES = ["jupyterlab-slideshow", "jupyterlab-fonts"]  # the second is what the first needs
AT = "() => notebook.content.activeCellIndex"


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """The extension in a folder of its own; what is installed stays as it is."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
    subprocess.run([*pip, "--prefix", str(tmp_path / "extension"), *NAMES], check=True)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "extension" / "share" / "jupyter"))


def cell(page, text):
    """Go to the first code cell with this text, as a lecturer would who knows where it is."""
    return page.evaluate(
        """(text) => {
            const cells = notebook.content.model.toJSON().cells;
            return notebook.content.activeCellIndex = cells.findIndex(
                (c) => c.cell_type === 'code' && [].concat(c.source).join('').includes(text));
        }""",
        text,
    )


def test_a_lecture(extension, browser, tmp_path):
    """As TEACHING.md says: run all, clear the outputs, start; forward, vote, run, move a slider."""
    (tmp_path / "root").mkdir()
    shutil.copy(FOLDER / "11-rope.ipynb", tmp_path / "root" / "lecture.ipynb")
    with Lab(tmp_path / "root") as lab:
        page = browser.page(width=1280, height=720)
        lab.open(page, "lecture.ipynb")
        assert lab.run_all(page) == []
        page.evaluate("() => jupyterapp.commands.execute('editmenu:clear-all')")
        page.evaluate("() => { notebook.content.activeCellIndex = 0; }")
        page.locator("[data-command='deck:toggle']").click()
        page.locator(".jp-Deck-Remote").wait_for()

        page.keyboard.press("Space")
        page.wait_for_function(f"() => ({AT})() > 0")
        assert page.locator(".jp-Notebook h1:visible").count() == 0  # the first slide is gone

        asked = cell(page, "predict(")
        page.keyboard.press("Shift+Enter")  # runs it and goes on
        page.wait_for_function(f"(i) => ({AT})() > i", arg=asked)
        page.locator("fieldset:visible input[type=radio]").first.check()
        page.locator("fieldset:visible [role=status]", has_text="Recorded").first.wait_for()

        cell(page, "RotationExplorer(")
        page.keyboard.press("Control+Enter")  # runs it and stays
        explorer = page.locator(".attnlab:visible")
        explorer.locator(".al-stage canvas:visible").first.wait_for()
        before = explorer.evaluate(LOOK)
        explorer.locator("input[type=range]:enabled").first.press("ArrowRight")
        page.wait_for_function(
            f"([e, before]) => ({LOOK})(e) !== before", arg=[explorer.element_handle(), before]
        )
        assert page.errors == []
        page.context.close()
