"""Pages without Python in a real browser without network: every explorer answers, from the pictures
that attnlab computed."""


import numpy as np
import pytest
from test_notebooks import LOOK, MOVE

from attnlab.explorers import ShapesExplorer, ShuffleExplorer, StructureExplorer
from explorer_samples import unpack
from notebook_build import SOURCES
from notebook_publish import SOURCE, publish

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ANSWER = """async ([name, moves]) => {
    const {model} = document.querySelector(`[data-widget="${name}"]`);
    const heard = model.get('_heard');
    for (const [trait, value] of Object.entries(moves)) model.set(trait, value);
    model.set('_asked', model.get('_asked') + 1);
    model.save_changes();
    while (model.get('_heard') === heard) await new Promise((done) => setTimeout(done, 5));
    const view = model.get('_view');
    const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    const traits = Object.keys(model.state).filter((key) => !key.startsWith('_'));
    return [[...bytes], Object.fromEntries(traits.map((key) => [key, model.get(key)]))];
}"""


HEARD = """(name) => document.querySelector(`[data-widget="${name}"]`).model.get('_heard').asked"""
VIEW = """(name) => {
    const view = document.querySelector(`[data-widget="${name}"]`).model.get('_view');
    return [...new Uint8Array(view.buffer, view.byteOffset, view.byteLength)];
}"""


def open_page(browser, path, **options):
    """The page, offline, all folds open and all widgets there."""
    page = browser.page(offline=True, **options)
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("console", lambda m: m.type == "warning" and page.errors.append(m.text))
    page.goto(path.as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for host in page.locator("[data-widget]").all():
        host.scroll_into_view_if_needed()
        page.wait_for_function("(e) => e.dataset.ready", arg=host.element_handle())
        assert host.get_attribute("data-ready") == "yes"
    return page


def close(page):
    assert page.errors == []
    assert [url for url in page.requests if url.split(":")[0] not in ("file", "blob", "data")] == []
    page.context.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    source = folder / "77-small.py"
    source.write_text(SOURCE.lstrip(), encoding="utf-8")
    publish.publish(source, folder, [source])
    return folder / "77-small.html"


SHAPES = {"controls": ("n_tokens", "n_heads")}
WORDS = {"text": "<i>cats</i> chase </script> mice", "controls": ("text", "source", "causal")}


@pytest.mark.parametrize(
    "name, kind, settings, moves",
    [
        ("w1", ShapesExplorer, SHAPES, {}),
        ("w1", ShapesExplorer, SHAPES, {"n_heads": 4}),
        ("w1", ShapesExplorer, SHAPES, {"n_tokens": 256, "n_heads": 32}),
        ("w2", ShuffleExplorer, WORDS, {"causal": True}),
    ],
)
def test_the_page_shows_what_attnlab_computes(browser, small, name, kind, settings, moves):
    page = open_page(browser, small)
    data, _ = page.evaluate(ANSWER, [name, moves])
    head, numbers = unpack(bytes(data))
    want, exact = unpack(kind(**{**settings, **moves})._view)
    assert head == want
    np.testing.assert_allclose(numbers, exact, rtol=2**-12, atol=2**-12)
    close(page)


def test_a_click_in_the_picture_is_answered(browser, small):
    page = open_page(browser, small)
    root = page.locator('[data-widget="w2"] .attnlab')
    root.get_by_text("Swap first and last").click()
    page.wait_for_function("(e) => /changed|Nothing/.test(e.innerText)", arg=root.element_handle())
    order = page.evaluate(ANSWER, ["w2", {}])[1]["order"]
    assert order[0] == len(order) - 1 and order[-1] == 0
    close(page)


def test_edits_of_a_tree(browser, small):
    """The page edits as attnlab does, says where it cannot, and undoes."""
    page = open_page(browser, small)
    root = page.locator('[data-widget="w3"] .attnlab')
    explorer = StructureExplorer("tree", example="binary", controls=("head",))

    def same():
        head, numbers = unpack(bytes(page.evaluate(VIEW, "w3")))
        want, exact = unpack(explorer._view)
        free = {"selected": 0, "can": 0}
        assert head | free == want | free
        np.testing.assert_allclose(numbers, exact, rtol=2**-12, atol=2**-12)
        n = len(explorer.structure.labels)
        root.get_by_role("radio").nth(n - 1).wait_for()  # drawn in the next frame
        root.get_by_role("radio").nth(n).wait_for(state="detached")

    def press(name):
        heard = page.evaluate(HEARD, "w3")
        root.get_by_role("button", name=name).click()
        page.wait_for_function(f"(n) => ({HEARD})(n) > {heard}", arg="w3")

    same()
    press("remove with all below")  # the root
    explorer.remove(0)
    assert "the root stays" in explorer.message
    same()
    root.get_by_role("radio").nth(2).click()
    page.wait_for_timeout(300)  # else its message would clear the next one
    press("add child")
    explorer.add(2)
    same()
    press("remove with all below")
    explorer.remove(7)
    same()
    press("undo")
    explorer.undo()
    same()
    root.get_by_role("radio").last.click()
    page.wait_for_timeout(300)
    press("add child")  # the second edit
    explorer.add(7)
    same()
    press("add child")  # a third one is not there
    root.locator(".al-message", has_text="some edits only").wait_for()
    assert root.get_by_role("radio").count() == 9
    press("reset")
    explorer.reset()
    same()
    close(page)


def test_the_nearest_picture_says_so(browser, small):
    page = open_page(browser, small)
    (data, traits) = page.evaluate(ANSWER, ["w1", {"n_tokens": 10**6}])
    head, _ = unpack(bytes(data))
    assert "the nearest has" in head["message"] and "256" in head["message"]
    assert traits["n_tokens"] == 10**6  # the control stays in the hand
    _, traits = page.evaluate(ANSWER, ["w1", {"n_heads": 32}])
    assert traits["n_tokens"] == 256  # the other one goes where the picture is
    close(page)


def test_text_stays_text_and_a_prediction_is_recorded(browser, small):
    page = open_page(browser, small)
    assert page.locator("i", has_text="cats").count() == 0
    assert "<i>this</i>" in page.locator("fieldset legend").inner_text()
    page.get_by_label("A. yes").check()
    assert "Recorded: A" in page.locator("fieldset [role=status]").inner_text()
    close(page)


def test_slides(browser, small):
    page = open_page(browser, small)
    page.get_by_role("button", name="Slides").click()
    assert page.evaluate("() => document.body.classList.contains('slides')")
    page.keyboard.press("Home")
    shown = page.locator("main > section:visible")
    assert shown.count() == 1 and "77. A small page" in shown.inner_text()
    assert not shown.locator(".skip:visible, .notes:visible").count()
    page.keyboard.press("ArrowRight")
    assert page.locator("main > section:visible fieldset").count() == 1
    code = page.locator("main > section:visible .highlight:visible")
    assert code.count() and "predict(" not in "".join(code.all_inner_texts())
    page.keyboard.press("c")
    assert code.count() == 0
    page.keyboard.press("c")
    page.keyboard.press("ArrowRight")
    assert page.locator("main > section:visible .attnlab").count() == 3
    assert page.url.endswith("#slide-3") and page.locator(".counter").inner_text() == "3 / 3 ↓"
    screens = 1
    while page.locator(".counter").inner_text() != "3 / 3":
        page.keyboard.press("PageDown")  # through the long slide
        page.wait_for_timeout(50)
        screens += 1
        assert page.url.endswith("#slide-3") and screens < 20
    for _ in range(20):
        page.keyboard.press("PageUp")
    assert page.url.endswith("#slide-1")
    page.keyboard.press("End")
    page.locator(".attnlab input[type=range]").first.focus()
    page.keyboard.press("ArrowLeft")  # belongs to the slider
    assert page.url.endswith("#slide-3")
    page.locator("main").click(position={"x": 2, "y": 2})
    page.keyboard.press("Escape")
    assert page.locator("main > section:visible").count() == 3 and "#" not in page.url
    close(page)


def test_dark_theme(browser, small):
    page = open_page(browser, small, color_scheme="dark")
    paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert max(map(int, paper[4:-1].split(","))) < 60
    assert page.locator("body").get_attribute("data-jp-theme-light") == "false"
    close(page)


# What a screen reader would stumble over.
UNREADABLE = """() => {
    const all = (selector) => [...document.querySelectorAll(selector)];
    const levels = all('h1, h2, h3, h4, h5, h6').map((h) => [Number(h.tagName[1]), h]);
    const named = (e) => e.labels?.length || e.getAttribute('aria-label') || e.title ||
        e.textContent.trim();
    return [
        ...all('html:not([lang])'),
        ...all('img').filter((e) => !e.alt.trim() || /^No description/.test(e.alt)),
        ...all('input, select, button, canvas[role], svg[role], [role=radio], [role=group]')
            .filter((e) => !named(e)),
        ...levels.filter(([level], i) => level > (levels[i - 1]?.[0] ?? 0) + 1).map(([, h]) => h),
    ].map((e) => e.outerHTML.slice(0, 200));
}"""

# Each runs its notebook: the shortest every day, all of them once a week.
DAILY = ("11",)


def of_its_day(source):
    marks = () if source.stem[:2] in DAILY else pytest.mark.weekly
    return pytest.param(source, id=source.stem, marks=marks)


@pytest.mark.parametrize("source", list(map(of_its_day, SOURCES)))
def test_every_explorer_of_a_page(browser, tmp_path, source):
    """Each notebook's page, as it is published: every control changes what is to be seen."""
    size = publish.publish(source, tmp_path, [source])
    assert size < publish.MOST_BYTES
    page = open_page(browser, tmp_path / f"{source.stem}.html")
    for _ in range(100):  # pictures are put into words when nothing moves
        wrong = page.evaluate(UNREADABLE)
        if not wrong:
            break
        page.wait_for_timeout(100)
    assert wrong == []
    roots = page.locator(".attnlab").all()
    assert bool(roots) == ("attnlab.explorers" in source.read_text(encoding="utf-8"))
    for root in roots:
        root.scroll_into_view_if_needed()
        root.locator(".al-stage :is(canvas, .al-box):visible").first.wait_for()
        controls = root.locator("[data-control]").all()
        moved = 0
        for control in controls:
            name = control.get_attribute("data-control")
            if control.is_disabled():
                node = root.locator(".al-control").filter(
                    has=page.locator(f'[data-control="{name}"]')
                )
                assert node.locator(".al-why").inner_text().strip(), name
                continue
            options = control.locator("option").all_inner_texts()
            others = [o for o in options if o != "all relations" and "not in this text" not in o]
            if options and len(others) < 2:
                continue  # nothing to choose
            before = root.evaluate(LOOK)
            control.evaluate(MOVE)
            handle = root.element_handle()
            page.wait_for_function(f"([e, before]) => ({LOOK})(e) !== before", arg=[handle, before],
                                   timeout=20_000)  # fmt: skip
            moved += 1
        assert moved
    close(page)
