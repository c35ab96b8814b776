"""Every explorer that attnlab.explorers exports, in one JupyterLab page: what students do to it.

Each stands twice in the page: `one[name]` is moved, `two[name]` beside it must not change.
"""

import json
import os
from pathlib import Path

import pytest
from lab import notebook

import explorer_samples
from explorer_samples import NAMES

pytestmark = pytest.mark.browser

WEEKLY = os.environ.get("ATTNLAB_WEEKLY", "") not in ("", "0")

SETUP = f"""
import sys
sys.path.insert(0, {str(Path(explorer_samples.__file__).parent)!r})
import base64, json, time
from explorer_samples import NAMES, make, measured_device
measured_device().__enter__()  # nothing is timed
from attnlab.explorers._base import Explorer
pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
Explorer.still = lambda self: base64.b64decode(pixel)  # matplotlib would take half of the time

starts = []  # when each picture of `one` was begun, and whose
def slow(name, seconds):
    def slowly():
        starts.append((name, time.time()))
        time.sleep(seconds)
        return type(one[name])._picture(one[name])
    one[name]._picture = slowly

def unpack(view):
    length = int.from_bytes(view[:4], "little")
    return json.loads(view[4 : 4 + length]), view[4 + length + -length % 4 :]

def copy(old, new):
    for _ in range(2):  # one setting may move another one
        with new.hold_trait_notifications():
            for name in old.traits(sync=True, echo_update=False):
                if name[0] != "_":
                    setattr(new, name, getattr(old, name))
    if hasattr(old, "_kinds"):  # edited trees and graphs
        new._kinds = old._kinds
        new._again()

def compare(name):
    # What is wrong with the picture of one[name], beside that of a new one with its settings.
    old, new = one[name], make(name)
    copy(old, new)
    copy(old, two[name])
    (head, numbers), (fresh, fresh_numbers) = unpack(old._view), unpack(new._view)
    keys = ["message", "state"] if head["state"] else list(head)  # else: the last good picture
    wrong = [[key, head[key], fresh.get(key)] for key in keys if head[key] != fresh.get(key)]
    if not head["state"] and numbers != fresh_numbers:
        wrong.append("numbers")
    specs = [{{**spec, "value": spec.get("fixed", getattr(old, spec["name"]))}}
             for spec in old._controls()]
    return json.dumps({{"wrong": wrong, "specs": specs, "state": head["state"],
                       "message": head["message"]}})
"""
SHOW = """
one, two = ({name: make(name) for name in NAMES} for _ in range(2))
for name in NAMES:
    display(one[name], two[name])
"""

# Fires `count` random events at the controls and buttons of an explorer, a few milliseconds apart.
STORM = """async ([i, seed, count]) => {
    const root = document.querySelectorAll('.attnlab')[i];
    const random = () => {  // mulberry32
        seed = (seed + 0x6D2B79F5) | 0;
        let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
        t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
        return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    const any = (list) => list[Math.floor(random() * list.length)];
    const texts = ['the fox eats grapes .', 'one two', '', '<b>bold</b>', '👍🏽 مرحبا', 'a '.repeat(40)];
    for (let at = 0; at < count; at++) {
        const e = any([...root.querySelectorAll(
            '[data-control]:enabled, .al-stage button:enabled')]);
        const fire = (type) => e.dispatchEvent(new Event(type, {bubbles: true}));
        if (e.type === 'range') {
            const steps = Math.round((e.max - e.min) / e.step);
            e.value = Number(e.min) + Number(e.step) * Math.floor(random() * (steps + 1));
            fire('input');
        } else if (e.tagName === 'SELECT') {
            e.value = any([...e.options]).value;
            fire('change');
        } else if (e.type === 'text') {
            e.value = any(texts);
            fire('input');
        } else e.click();
        await new Promise((go) => setTimeout(go, 40 * random()));
    }
    return Date.now() / 1000;
}"""
STORMS = f"""async ([seed, count]) => Math.max(...await Promise.all(
    Array.from(document.querySelectorAll('.attnlab'), (_, i) =>
        i % 2 ? 0 : ({STORM})([i, 1000 * seed + i, count]))))"""

# What the controls of an explorer show instead of the kernel's values.
WRONG_CONTROLS = """([i, specs]) => {
    const root = document.querySelectorAll('.attnlab')[i];
    const wrong = [];
    for (const spec of specs) {
        const e = root.querySelector(`[data-control="${spec.name}"]`);
        const v = spec.value;
        let [shown, want] = [e.value, v];
        if (e.type === 'checkbox') shown = e.checked;
        if (e.type === 'range') {
            shown = e.getAttribute('aria-valuetext');
            want = v === null ? spec.auto : spec.log ? v.toFixed(spec.digits ?? 2) : String(v);
        }
        if (String(shown) !== String(want)) wrong.push(`${spec.name} shows ${shown}, is ${want}`);
        if (e.disabled !== Boolean(spec.why)) wrong.push(`${spec.name}: disabled ${e.disabled}`);
    }
    return wrong;
}"""

# Everything that two explorers of one class show but their controls.
LOOK = """(i) => [2 * i, 2 * i + 1].map((at) => {
    const root = document.querySelectorAll('.attnlab')[at];
    const seen = [...root.querySelectorAll('.al-stage canvas')].filter((c) => c.checkVisibility());
    return [root.innerText, ...seen.map((c) => `${c.className} ${c.toDataURL()}`)];
})"""


class Page:
    """The page with all explorers, and the kernel behind it."""

    def __init__(self, lab, page):
        self.lab, self.page = lab, page

    def run(self, code: str) -> str:
        return self.lab.execute(self.page, code).strip()

    def ask(self, expression: str):
        text = self.run(f"print(json.dumps({expression}))")
        return json.loads(text)

    def quiet(self) -> None:
        """Wait until nothing is drawn any more: no new pictures, no change in the page."""
        before = None
        for _ in range(200):
            self.page.wait_for_timeout(250)
            now = self.run("print(len(starts), [e._asked for e in one.values()])")
            if now == before:
                return
            before = now
        pytest.fail("the kernel does not come to rest")

    def until(self, expression: str, arg=None) -> None:
        self.page.wait_for_function(expression, arg=arg, timeout=30_000)


@pytest.fixture(scope="module")
def everything(browser, lab, root):
    page = browser.page()
    (root / "all.ipynb").write_text(notebook(SETUP, SHOW))
    lab.open(page, "all.ipynb")
    assert lab.run_all(page) == []
    page.wait_for_function(
        "(n) => document.querySelectorAll('.attnlab .al-stage').length === n", arg=2 * len(NAMES)
    )
    yield Page(lab, page)
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
    """All explorers at once: each waits for the pictures of all the others."""
    shown.run("starts.clear()\nfor name in NAMES: slow(name, 0.05)")
    try:
        last = shown.page.evaluate(STORMS, [seed, 40])
        shown.quiet()
    finally:
        shown.run("for name in NAMES: del one[name]._picture")
        shown.run("one['StructureExplorer']._again()")  # what the last edit led to was told
    late = shown.ask(f"[name for name, start in starts if start > {last}]")
    wrong = {}
    for i, name in enumerate(NAMES):
        found = json.loads(shown.run(f"print(compare({name!r}))"))
        now = found["wrong"] + shown.page.evaluate(WRONG_CONTROLS, [2 * i, found["specs"]])
        message = shown.page.locator(".al-message").nth(2 * i).inner_text()
        if message != found["message"]:
            now.append(message)
        if late.count(name) > 5:
            now.append(f"{late.count(name)} pictures after the last event")
        if not found["state"]:
            shown.page.wait_for_timeout(300)  # two is drawn in the next frame
            now += [
                f"{part[:300]!r}, not {other[:300]!r} as Python set it"
                for part, other in zip(*shown.page.evaluate(LOOK, i), strict=True)
                if part != other
            ]
        wrong |= {name: now} if now else {}
    assert wrong == {}
    assert len(shown.ask("starts")) > len(NAMES)
