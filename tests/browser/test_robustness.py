"""What students do to explorers: every one that attnlab.explorers exports, in one page."""

import os

import pytest
from all_explorers import (
    CLIPPED,
    DIFFERENCE,
    FAINT,
    FOCUS,
    LOOK,
    NOTEBOOK,
    STOPS,
    STORMS,
    WRONG_CONTROLS,
    open_all,
    run_all,
)
from lab import WIDGET_TROUBLE
from test_notebooks import MOVE

from explorer_samples import NAMES

pytestmark = pytest.mark.browser

WEEKLY = os.environ.get("ATTNLAB_WEEKLY", "") not in ("", "0")


@pytest.fixture(scope="module")
def everything(browser, lab, root):
    page = browser.page()
    yield open_all(lab, root, page)
    page.context.close()
    lab.stop_kernels()


@pytest.fixture
def shown(everything):
    everything.page.errors.clear()
    yield everything
    assert everything.page.errors == []
    assert everything.page.locator(".jp-Dialog").count() == 0


@pytest.mark.parametrize("seed", range(5) if WEEKLY else [0])
def test_any_order_of_events_with_a_slow_kernel(shown, seed):
    """At all explorers at once: each waits for the pictures of the others, too."""
    shown.run("starts.clear()\nfor name in NAMES: slow(name, 0.05)")
    try:
        last = shown.page.evaluate(STORMS, [seed, 40])
        shown.quiet()
    finally:
        shown.run("for name in NAMES: del one[name]._picture")
        shown.run("one['StructureExplorer']._again()")  # what its last edit led to has been told
    late = shown.ask(f"[name for name, start in starts if start > {last}]")
    found = shown.ask("{name: compare(name) for name in NAMES}")
    shown.page.wait_for_timeout(500)  # what Python set in `two` is drawn
    wrong = {}
    for i, name in enumerate(NAMES):
        now = found[name]["wrong"]
        now += shown.page.evaluate(WRONG_CONTROLS, [2 * i, found[name]["specs"]])
        if (message := shown.root(name).locator(".al-message").inner_text()) != (
            told := found[name]["message"]
        ):
            now.append(f"the message is {message!r}, not {told!r}")
        if late.count(name) > 5:
            now.append(f"{late.count(name)} pictures after the last event")
        if not found[name]["state"] and shown.page.evaluate(DIFFERENCE, i):
            shown.page.wait_for_timeout(2000)
            now += shown.page.evaluate(DIFFERENCE, i)
        wrong |= {name: now} if now else {}
    assert wrong == {}
    assert len(shown.ask("starts")) > len(NAMES)


CLICKS = {  # presses in the picture, faster than the kernel answers; what must come of all of them
    "ShuffleExplorer": (
        "words[0].focus(); for (const _ of '123') press('ArrowRight')", "order", [1, 2, 3, 0, 4]),
    "PruningExplorer": (
        "buttons[0].click(); buttons[1].click(); buttons[3].click()", "own", 4),
    "WavesExplorer": (
        "plot.focus(); for (const _ of '123') press('ArrowDown')", "position", 13),
    "StructureExplorer": (
        "buttons[0].click(); buttons[0].click(); buttons[0].click()", "selected", 11),
}  # fmt: skip
SETTINGS = {
    "ShuffleExplorer": "e.text = 'a b c d e'; e.order = [0, 1, 2, 3, 4]",
    "PruningExplorer": "e.criterion, e.own = 'own', 15",
    "WavesExplorer": "e.length, e.d_model, e.position, e.pair = 64, 32, 10, 3",
    "StructureExplorer": "e.kind, e.example = 'tree', 'sentence'; e.reset(); e.selected = 1",
}


@pytest.mark.parametrize("name", CLICKS)
def test_no_click_is_lost_with_a_slow_kernel(shown, name):
    presses, setting, wanted = CLICKS[name]
    shown.run(f"e = one[{name!r}]\n{SETTINGS[name]}")
    shown.page.wait_for_timeout(500)
    shown.run(f"slow({name!r}, 0.3)")
    try:
        shown.root(name).evaluate(
            """(root, presses) => {
                const press = (key) => document.activeElement.dispatchEvent(
                    new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
                const words = root.querySelectorAll('.al-word');
                const buttons = root.querySelectorAll('.al-stage button');
                const plot = root.querySelector('.al-plot');
                eval(presses);
            }""",
            presses,
        )
        shown.until(lambda: shown.ask(f"one[{name!r}].{setting}") == wanted)
    finally:
        shown.run(f"del one[{name!r}]._picture")


def test_moving_one_changes_no_other(shown):
    """Neither its controls nor the pointer in its picture, in the page or in Python; the others are
    of the same class and of all others."""
    states = "[state(e[name]) for name in NAMES for e in (one, two)]"
    shown.quiet()
    looks, before = shown.looks(), shown.ask(states)
    for i, name in enumerate(NAMES):
        root = shown.root(name)
        shown.acts(root, root.locator("[data-control]:enabled").first.evaluate, MOVE)
        picture = root.locator(".al-stage :is(canvas, .al-box):visible").first
        picture.hover()
        was = before[2 * i]
        shown.until(lambda i=i, was=was: shown.ask(f"state(one[NAMES[{i}]])") != was)
        now, after = shown.looks(), shown.ask(states)
        assert [at for at, look in enumerate(now) if look != looks[at]] == [2 * i]
        assert [at for at, told in enumerate(after) if told != before[at]] == [2 * i]
        shown.page.mouse.move(1, 1)
        shown.page.wait_for_timeout(250)  # descriptions come when all is quiet
        looks, before = shown.looks(), after
    for name in NAMES:  # the second of each pair answers, too
        root = shown.root(name, 1)
        shown.acts(root, root.locator("[data-control]:enabled").first.evaluate, MOVE)


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


@pytest.mark.parametrize("width, ratio", [(700, 2), (400, 1)])
def test_nothing_is_clipped(shown, width, ratio):
    """A browser zoomed to 200 % (half the width, two pixels each), and a very narrow one."""
    client = shown.page.context.new_cdp_session(shown.page)
    size = {"width": width, "height": 900, "deviceScaleFactor": ratio, "mobile": False}
    try:
        client.send("Emulation.setDeviceMetricsOverride", size)
        shown.page.wait_for_timeout(1000)
        assert shown.page.evaluate(CLIPPED) == []
        root = shown.root("AttentionExplorer")
        shown.acts(root, root.locator("[data-control=d_model]").press, "ArrowRight")
        shown.acts(root, root.locator("[data-control=d_model]").press, "ArrowLeft")
    finally:
        client.send("Emulation.clearDeviceMetricsOverride")
        shown.page.wait_for_timeout(500)


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


DRAG = """() => {  // the first control of every explorer, until `stopped`
    window.stopped = false;
    const controls = [...document.querySelectorAll('.attnlab')].map(
        (root) => root.querySelector('input[type=range]:enabled, select:enabled'));
    const step = () => {
        for (const e of controls) {
            const more = Number(e.value) + Number(e.step);
            if (e.type === 'range') e.value = more > e.max ? e.min : more;
            else e.selectedIndex = (e.selectedIndex + 1) % e.options.length;
            e.dispatchEvent(new Event(e.type === 'range' ? 'input' : 'change', {bubbles: true}));
        }
        if (!stopped) requestAnimationFrame(step);
    };
    step();
}"""


def test_a_kernel_restarted_in_mid_drag(shown):
    """No error; the line says what to do; after running the cell again the explorers answer."""
    shown.page.evaluate(DRAG)
    shown.page.wait_for_timeout(300)
    shown.page.evaluate("() => notebook.sessionContext.session.kernel.restart()")
    shown.page.wait_for_timeout(1000)
    shown.page.evaluate("() => { window.stopped = true; }")
    silent = "No answer from the kernel yet. If nothing runs, run this cell again."
    messages = shown.page.locator(".attnlab .al-message")
    shown.until(lambda: all(m == silent for m in messages.all_inner_texts()))
    run_all(shown)
    for name in NAMES:
        control = shown.root(name).locator("[data-control]:enabled").first
        shown.acts(shown.root(name), control.evaluate, MOVE)
    shown.quiet()
    for name in NAMES:
        assert silent not in shown.root(name).locator(".al-message").inner_text()


@pytest.mark.parametrize("alive", [True, False])
def test_a_notebook_saved_and_opened_again(shown, browser, alive):
    """With its kernel, or after that was shut down: all pictures stand, without any error, and a
    control is answered or the line says what to do."""
    shown.page.evaluate("() => notebook.context.save()")
    shown.page.goto("about:blank")
    if not alive:
        shown.lab.stop_kernels()
    shown.lab.open(shown.page, "all.ipynb")
    shown.page.evaluate("() => notebook.content.scrollToItem(1)")
    shown.page.wait_for_timeout(3000)
    found = shown.page.evaluate(
        """(trouble) => [...document.querySelectorAll('.jp-OutputArea-output')]
            .map((e) => e.textContent).filter((text) => new RegExp(trouble).test(text))""",
        WIDGET_TROUBLE,
    )
    assert found == []
    shown.until(lambda: shown.page.locator(".attnlab .al-stage:visible").count() == 2 * len(NAMES))
    for name in NAMES:
        root = shown.root(name)
        shown.acts(root, root.locator("[data-control]:enabled").first.evaluate, MOVE)
    if not alive:
        told = shown.page.locator(".al-message", has_text="run this cell")
        shown.until(lambda: told.count() == len(NAMES))
