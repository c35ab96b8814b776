"""Every notebook in a real JupyterLab: run all, no error anywhere, every control of every explorer
does something that can be seen."""

import shutil
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
EVERY_DAY = ("00", "02", "06")  # nbval runs all of them every day, without a page

# What an explorer shows: its pixels, its boxes, and its message.
LOOK = """(root) => [
    ...[...root.querySelectorAll('.al-stage canvas')].map((c) => c.toDataURL()),
    ...[...root.querySelectorAll('.al-stage .al-boxes')].map((s) => s.outerHTML),
    root.querySelector('.al-message').textContent,
].join('|')"""

# Moves a control as a hand does. A slider goes to an end, or to the other one if it stands there;
# a text gets one more word.
MOVE = """(e) => {
    const fire = (type) => e.dispatchEvent(new Event(type, {bubbles: true}));
    if (e.type === 'range') {
        e.value = e.value === e.max ? e.min : e.max;
        fire('input');
    } else if (e.type === 'checkbox') e.click();
    else if (e.tagName === 'SELECT') {
        e.selectedIndex = (e.selectedIndex + 1) % e.options.length;
        fire('change');
    } else {
        e.value += ' again';
        fire('input');
        fire('change');
    }
}"""


def test_there_are_notebooks():
    assert NOTEBOOKS, f"no notebooks in {FOLDER}: run notebooks/build.py"


def move(page, root, control):
    """Move one control and see the picture change; a disabled control must say why."""
    name = control.get_attribute("data-control")
    if control.is_disabled():
        node = root.locator(".al-control").filter(has=page.locator(f'[data-control="{name}"]'))
        assert node.locator(".al-why").inner_text().strip(), f"{name} is disabled without a reason"
        return
    before = root.evaluate(LOOK)
    control.evaluate(MOVE)
    for _ in range(400):
        if root.evaluate(LOOK) != before:
            return
        page.wait_for_timeout(50)
    pytest.fail(f"moving {name} changed nothing in 20 s")


def of_its_day(path):
    marks = () if path.stem[:2] in EVERY_DAY else pytest.mark.long
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", list(map(of_its_day, NOTEBOOKS)))
def test_notebook(lab, root, page, path):
    shutil.copy(path, root / path.name)
    lab.open(page, path.name)
    assert lab.run_all(page) == []
    explorers = 0
    for i in range(page.evaluate("() => notebook.content.widgets.length")):
        # Outputs far from the window are not drawn before they come near it.
        page.evaluate("async (i) => { await notebook.content.scrollToItem(i); }", i)
        page.wait_for_timeout(100)
        cell = page.locator(".jp-Notebook .jp-Cell").nth(i)
        for root_ in cell.locator(".attnlab").all():
            explorers += 1
            root_.scroll_into_view_if_needed()
            root_.locator(".al-stage :is(canvas, .al-box):visible").first.wait_for()
            for control in root_.locator("[data-control]").all():
                move(page, root_, control)
    used = sum("attnlab.explorers" in str(cell.get("source", "")) for cell in page.evaluate(
        "() => notebook.content.model.toJSON().cells") if cell["cell_type"] == "code")  # fmt: skip
    assert explorers or not used, "the notebook imports explorers, and the page shows none"
    assert page.errors == []
    assert page.locator(".jp-Dialog").count() == 0
