"""What students do to explorers: every one that attnlab.explorers exports, in one page."""

import pytest
from all_explorers import DIFFERENCE, STORMS, WRONG_CONTROLS, run_all
from lab import WIDGET_TROUBLE
from test_notebooks import MOVE

from explorer_samples import NAMES

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WEEKLY = pytest.mark.weekly


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=WEEKLY) for s in range(1, 5))])
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
        # Structure keeps three clicks, each with its answer, beside what is on its way: 6 were
        # seen. A backlog would have most of the 40 events.
        if late.count(name) > 10:
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


SILENT = "No answer from the kernel yet. If nothing runs, run this cell again."


def test_a_second_window_of_the_notebook(shown, browser):
    """Pictures of both move, each counts its changes anew, and neither waits for answers to what
    the other one asked."""
    shown.run("e = one['StructureExplorer']\ne.kind, e.example = 'graph', 'ring'\ne.reset()")
    shown.page.evaluate("() => notebook.context.save()")
    other = browser.page()
    try:
        shown.lab.open(other, "all.ipynb")
        other.evaluate("() => notebook.content.scrollToItem(1)")
        here, there = (p.locator("[aria-label='Structure Explorer']") for p in (shown.page, other))
        nodes = [place.first.locator(".al-stage [role=radio]") for place in (here, there)]
        shown.until(lambda: [of.count() for of in nodes] == [8, 8])
        for n, place in enumerate((here, here, there, here), 9):
            place.first.locator(".al-stage button").first.click()  # adds a node
            shown.until(lambda n=n: [of.count() for of in nodes] == [n, n])
        other.wait_for_timeout(7000)  # a page that waits says so after 6 seconds
        for page in (shown.page, other):
            assert SILENT not in page.locator(".attnlab .al-message").all_inner_texts()
        assert other.errors == []
    finally:
        other.context.close()


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
    messages = shown.page.locator(".attnlab .al-message")
    shown.until(lambda: all(m == SILENT for m in messages.all_inner_texts()))
    run_all(shown)
    for name in NAMES:
        control = shown.root(name).locator("[data-control]:enabled").first
        shown.acts(shown.root(name), control.evaluate, MOVE)
    shown.quiet()
    for name in NAMES:
        assert SILENT not in shown.root(name).locator(".al-message").inner_text()


@pytest.mark.parametrize("alive", [pytest.param(True, marks=WEEKLY), False])
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
