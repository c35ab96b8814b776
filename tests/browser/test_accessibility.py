"""Every explorer that attnlab.explorers exports, in one page: read, zoomed, moved by keys alone,
and given text that looks like HTML."""

import pytest
from all_explorers import CLIPPED, FAINT, FOCUS, LOOK, NOTEBOOK, STOPS

from explorer_samples import NAMES

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def themed(shown):
    """A function that changes JupyterLab's theme."""

    def change(name):
        shown.page.evaluate(
            "(theme) => jupyterapp.commands.execute('apputils:change-theme', {theme})", name
        )
        shown.page.wait_for_timeout(1000)

    yield change
    change("JupyterLab Light")


def test_text_can_be_read_in_both_themes(shown, themed):
    shown.run("for name in NAMES: copy(make(name), one[name])")
    for plot in shown.page.locator(".attnlab .al-plot[tabindex]").all():
        plot.press("ArrowRight")  # chosen tokens look otherwise
    shown.root("ShuffleExplorer").locator(".al-word").first.click()
    assert shown.page.evaluate(FAINT) == []
    themed("JupyterLab Dark")
    assert shown.page.evaluate(FAINT) == []


def test_pictures_are_drawn_again_for_another_theme(shown, themed):
    """JupyterLab hides them while it changes the theme."""
    shown.quiet()
    before = shown.looks()
    themed("JupyterLab Dark")
    assert shown.looks() != before
    themed("JupyterLab Light")
    shown.until(lambda: shown.looks() == before)


@pytest.fixture
def resized(shown):
    """A function that gives the page another width, and pixels another size."""
    client = shown.page.context.new_cdp_session(shown.page)

    def change(width, ratio=1):
        size = {"width": width, "height": 900, "deviceScaleFactor": ratio, "mobile": False}
        client.send("Emulation.setDeviceMetricsOverride", size)
        shown.page.wait_for_timeout(1000)

    yield change
    client.send("Emulation.clearDeviceMetricsOverride")
    shown.page.wait_for_timeout(500)


@pytest.mark.parametrize("width", [1400, 1280, 1150])
def test_no_table_has_to_be_scrolled(shown, resized, width):
    """Of a laptop, with or without the list of files beside the notebook."""
    resized(width)
    scrolled = shown.page.evaluate(
        """() => [...document.querySelectorAll('.attnlab .al-boxes:has(table)')]
            .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth)
            .map((e) => `${e.closest('.attnlab').ariaLabel}: ${e.scrollWidth}, ${e.clientWidth}`)"""
    )
    assert scrolled == []


@pytest.mark.parametrize("width, ratio", [(700, 2), (400, 1)])
def test_nothing_is_clipped(shown, resized, width, ratio):
    """A browser zoomed to 200 % (half the width, two pixels each), and a very narrow one."""
    resized(width, ratio)
    assert shown.page.evaluate(CLIPPED) == []
    root = shown.root("AttentionExplorer")
    shown.acts(root, root.locator("[data-control=d_model]").press, "ArrowRight")
    shown.acts(root, root.locator("[data-control=d_model]").press, "ArrowLeft")


def try_keys(shown, root, kind) -> bool:
    """Whether keys do something where the focus is."""
    if kind not in ("text", "range", "group", "radio"):
        return True  # the browser's own
    for key in ("b", "Escape", "Enter"):
        shown.page.keyboard.press(key)
    shown.page.wait_for_timeout(50)  # what Escape left is not shown any more
    before = root.evaluate(LOOK)
    for key in {"text": "x", "range": ("End", "Home")}.get(kind, ("ArrowRight", "ArrowLeft")):
        shown.page.keyboard.press(key)
        for _ in range(20):
            if root.evaluate(LOOK) != before:
                return True
            shown.page.wait_for_timeout(50)
    return False


@pytest.mark.parametrize("name", NAMES)
def test_keyboard_alone(shown, name):
    """Tab reaches all that can be moved, in the order of the page, and leaves it again; the focus
    is seen and has a name; keys work, and JupyterLab takes none of them."""
    shown.run(f"copy(make({name!r}), one[{name!r}])")
    shown.page.wait_for_timeout(300)
    root = shown.root(name)
    stops, notebook = root.evaluate(STOPS), shown.page.evaluate(NOTEBOOK)
    controls = root.locator("[data-control]:enabled")
    assert {c.get_attribute("data-control") for c in controls.all()} <= set(stops)
    controls.first.focus()
    reached, wrong = [], []
    while (at := root.evaluate(FOCUS)) and len(reached) <= len(stops):
        if at["stop"]:
            reached.append(at["stop"])
            at["moved"] = try_keys(shown, root, at["kind"])
            needs = ("seen", "name", "own", "moved")
            wrong += [f"{at['stop']}: not {what}" for what in needs if not at[what]]
        shown.page.keyboard.press("Tab")
    assert wrong == []
    assert reached == stops
    assert shown.page.evaluate(NOTEBOOK) == notebook


NASTY = """<img src=x onerror="nasty = 1"><script>nasty = 1</script></script>&lt;i&gt;"""
TYPED = ["AttentionExplorer", "HeadsExplorer", "MixingExplorer", "ShuffleExplorer", "TermsExplorer"]


def test_text_of_students_is_never_html(shown):
    """Typed into an explorer: it stands there letter by letter, whole or as words."""
    with_text = [name for name in NAMES if shown.root(name).locator("[data-control=text]").count()]
    assert with_text == TYPED
    for name in with_text:
        root = shown.root(name)
        made = root.locator("*").evaluate_all("(all) => all.map((e) => e.tagName)")
        shown.acts(root, root.locator("[data-control=text]").fill, NASTY)
        root.locator("[data-control=text]").press("Enter")
        shown.until(lambda name=name: shown.ask(f"one[{name!r}].text") == NASTY)
        shown.page.wait_for_timeout(300)
        tags = set(root.locator("*").evaluate_all("(all) => all.map((e) => e.tagName)"))
        assert tags - set(made) == set()
        assert "<img" in root.inner_text() or "onerror" in root.inner_text()
    assert shown.page.evaluate("() => window.nasty") is None


NAMED = f"""
import torch
import explorer_samples as samples
from attnlab.explorers import HeadsExplorer, MemoryExplorer, RaceExplorer, TermsExplorer
from attnlab.explorers.memory import Times
from attnlab.explorers.race import Curves
from attnlab.teach import claim, exercise, predict, progress, require
nasty = {NASTY!r}
points = {{"none": torch.rand(2, 3), "t5": torch.rand(2, 3)}}
tiny = samples.tiny(encoding="sinusoidal", n_layers=1)
explorers = [
    RaceExplorer({{nasty: Curves([1, 2, 3], points, nasty, nasty, columns=(0, 2))}}),
    HeadsExplorer(model={{nasty: tiny, "other": tiny}}, texts=[{{
        "tokens": [nasty, "b"], "ids": torch.tensor([0, 1]), "links": {{nasty: [(1, 0)]}},
        "name": nasty}}]),
    TermsExplorer("anna sings .", model={{nasty: tiny, "b": tiny}}, language=samples.english()),
    MemoryExplorer(times={{nasty: Times(16, 64, {{"rows": {{1024: 0.2, 4096: 3}}}})}}, show="time"),
]
assert [explorer.message for explorer in explorers] == [""] * 4
guess = predict(nasty, [nasty, "other"], id="nasty")
display(*explorers, guess)
guess.reveal(0, nasty)
wrong = exercise("1.1", nasty, minutes=1, difficulty=1)(lambda answer: require(False, nasty))
broken = exercise("1.2", nasty, minutes=1, difficulty=1)(lambda answer: answer[nasty])
display(wrong(1), broken({{}}), list(progress([1, 2], nasty)))
claim(nasty, 1.0, equals=1.0, source=nasty, id=1)
"""


def test_names_and_answers_are_never_html(shown):
    """Names of models, texts and tasks; predictions, checks, claims and progress bars."""
    cell = shown.page.evaluate(
        """async (source) => {
            const {content} = notebook;
            content.model.sharedModel.insertCell(2, {cell_type: 'code', source});
            content.activeCellIndex = 2;
            await jupyterapp.commands.execute('notebook:run-cell');
            return content.model.cells.get(2).toJSON();
        }""",
        NAMED,
    )
    assert [o.get("evalue") for o in cell["outputs"] if o["output_type"] == "error"] == []
    output = shown.page.locator(".jp-Cell").nth(2).locator(".jp-Cell-outputArea")
    output.scroll_into_view_if_needed()
    shown.until(lambda: output.locator(".attnlab .al-stage:visible").count() == 4)
    shown.until(lambda: output.inner_text().count("onerror") >= 10)
    assert output.locator("img, script").count() == 0
    assert shown.page.evaluate("() => window.nasty") is None
    shown.page.evaluate("() => notebook.content.model.sharedModel.deleteCell(2)")
