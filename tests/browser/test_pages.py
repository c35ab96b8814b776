"""Pages without Python in a real browser without network: every explorer answers, from the pictures
that attnlab computed."""

import json
import os

import numpy as np
import pytest
from test_notebooks import LOOK, MOVE

from attnlab.explorers import ShapesExplorer, ShuffleExplorer
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


def unpack(data):
    data = bytes(data)
    length = int.from_bytes(data[:4], "little")
    return json.loads(data[4 : 4 + length]), np.frombuffer(data[4 + length + -length % 4 :], "<f4")


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
    head, numbers = unpack(data)
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


def test_the_nearest_picture_says_so(browser, small):
    page = open_page(browser, small)
    (data, traits) = page.evaluate(ANSWER, ["w1", {"n_tokens": 10**6}])
    head, _ = unpack(data)
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
    page.keyboard.press("PageDown")
    assert page.locator("main > section:visible .attnlab").count() == 2
    assert page.url.endswith("#slide-3") and page.locator(".counter").inner_text() == "3 / 3"
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


# Each takes about a minute, since it runs its notebook: three every day, all of them once a week.
DAILY = ("01", "06", "11")
WEEKLY = os.environ.get("ATTNLAB_WEEKLY", "") not in ("", "0")
CHOSEN = [source for source in SOURCES if WEEKLY or source.stem[:2] in DAILY]


@pytest.mark.parametrize("source", CHOSEN, ids=lambda path: path.stem)
def test_every_explorer_of_a_page(browser, tmp_path, source):
    """Each notebook's page, as it is published: every control changes what is to be seen."""
    size = publish.publish(source, tmp_path, [source])
    assert size < publish.MOST_BYTES
    page = open_page(browser, tmp_path / f"{source.stem}.html")
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
            before = root.evaluate(LOOK)
            control.evaluate(MOVE)
            handle = root.element_handle()
            page.wait_for_function(f"([e, before]) => ({LOOK})(e) !== before", arg=[handle, before],
                                   timeout=20_000)  # fmt: skip
            moved += 1
        assert moved
    close(page)
