"""A notebook with every explorer that attnlab.explorers exports, each twice, in one page.

`one[name]` is what a test moves; `two[name]` stands beside it.
"""

import json
from pathlib import Path

import pytest
from lab import notebook

import explorer_samples
from explorer_samples import NAMES

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJg"
    "gg=="
)
SETUP = f"""
import sys
sys.path.insert(0, {str(Path(explorer_samples.__file__).parent)!r})
import base64, hashlib, json, time
from explorer_samples import NAMES, make, measured_device, unpack
from attnlab.explorers._base import Explorer
measured_device().__enter__()  # nothing is timed
Explorer.still = lambda self: base64.b64decode({PIXEL!r})  # drawing takes half of the time

starts = []  # when each picture of `one` was begun, and whose
def slow(name, seconds):
    def slowly():
        starts.append((name, time.time()))
        time.sleep(seconds)
        return type(one[name])._picture(one[name])
    one[name]._picture = slowly

def copy(old, new):
    for _ in range(2):  # one setting may move another one
        with new.hold_trait_notifications():
            for name in old.traits(sync=True, echo_update=False):
                if name[0] != "_":
                    setattr(new, name, getattr(old, name))
    if hasattr(old, "_kinds"):  # edited trees and graphs
        new._kinds = old._kinds
        new._again()

def state(explorer):
    # A number for all that the page is told.
    told = {{k: v for k, v in explorer.get_state().items() if k not in ("_esm", "_css")}}
    return hashlib.md5(str(told).encode()).hexdigest()

def compare(name):
    # What is wrong with the picture of one[name], beside that of a new one with its settings.
    old, new = one[name], make(name)
    copy(old, new)
    copy(old, two[name])
    (head, numbers), (fresh, fresh_numbers) = unpack(old._view), unpack(new._view)
    keys = ["message", "state"] if head["state"] else list(head)  # else: the last good picture
    wrong = [[key, head[key], fresh.get(key)] for key in keys if head[key] != fresh.get(key)]
    if not head["state"] and numbers.tobytes() != fresh_numbers.tobytes():
        wrong.append("numbers")
    specs = [{{**spec, "value": spec.get("fixed", getattr(old, spec["name"]))}}
             for spec in old._controls()]
    return {{"wrong": wrong, "specs": specs, "state": head["state"], "message": head["message"]}}
"""
SHOW = """
one, two = ({name: make(name) for name in NAMES} for _ in range(2))
for name in NAMES:
    display(one[name], two[name])
"""

# Fires `count` random events at the controls and buttons of an explorer, a few milliseconds apart.
STORM = """async (root, seed, count) => {
    const random = () => {  // mulberry32
        seed = (seed + 0x6D2B79F5) | 0;
        let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
        t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
        return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
    const any = (list) => list[Math.floor(random() * list.length)];
    const texts = [
        'the fox eats grapes .', 'one two', '', '<b>bold</b>', '👍🏽 مرحبا', 'a '.repeat(40)];
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
# At every first explorer of a pair at once; when the last event was.
STORMS = f"""async ([seed, count]) => Math.max(...await Promise.all(
    [...document.querySelectorAll('.attnlab')].map((root, i) =>
        i % 2 ? 0 : ({STORM})(root, 1000 * seed + i, count))))"""

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
            want = v === null ? spec.auto : spec.log ? v.toFixed(spec.digits ?? 2) : v;
        }
        if (String(shown) !== String(want)) wrong.push(`${spec.name} shows ${shown}, is ${want}`);
        if (e.disabled !== Boolean(spec.why)) wrong.push(`${spec.name}: disabled ${e.disabled}`);
    }
    return wrong;
}"""

# In what the two explorers of a pair differ, their controls apart.
DIFFERENCE = """(i) => {
    const [one, two] = [2 * i, 2 * i + 1].map((at) => {
        const root = document.querySelectorAll('.attnlab')[at];
        const seen = [...root.querySelectorAll('.al-stage canvas')]
            .filter((c) => c.checkVisibility()).map((c) => `${c.className} ${c.toDataURL()}`);
        return [root.innerText, ...seen];
    });
    return one.filter((part, at) => part !== two[at]).map((part) => part.slice(0, 300));
}"""

# A number for all that an explorer shows, pointers and controls included.
LOOK = """(root) => {
    const all = [root.outerHTML,
        ...[...root.querySelectorAll('input, select')].map((e) => `${e.value} ${e.checked}`),
        ...[...root.querySelectorAll('canvas')].map((c) => c.toDataURL())].join('|');
    let hash = 0;
    for (let at = 0; at < all.length; at++) hash = (31 * hash + all.charCodeAt(at)) | 0;
    return hash;
}"""
LOOKS = f"() => [...document.querySelectorAll('.attnlab')].map({LOOK})"

# Text whose colour stands out less than 4.5 : 1 from what is behind it, numbers on maps included.
FAINT = """() => {
    const pixel = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const bytes = (colour) => {  // any CSS colour as r, g, b, opacity
        pixel.clearRect(0, 0, 1, 1);
        pixel.fillStyle = colour;
        pixel.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
    const behind = (e) => {
        if (!e) return [255, 255, 255];
        const own = bytes(getComputedStyle(e).backgroundColor);
        return own[3] === 1 ? own : over(own, behind(e.parentElement));
    };
    const onMap = (e) => {
        const canvas = e.closest('.al-plot, .al-strips').querySelector('canvas');
        const [box, cell] = [canvas, e].map((node) => node.getBoundingClientRect());
        const x = Math.floor((cell.x + cell.width / 2 - box.x) / box.width * canvas.width);
        const y = Math.floor((cell.y + cell.height / 2 - box.y) / box.height * canvas.height);
        const found = canvas.getContext('2d').getImageData(x, y, 1, 1).data;
        return found[3] ? [...found] : behind(canvas.parentElement);
    };
    const light = (colour) => {
        const [r, g, b] = colour.map((v) => v / 255).map(
            (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const found = [];
    for (const root of document.querySelectorAll('.attnlab'))
        for (const e of root.querySelectorAll('*')) {
            const text = e.tagName === 'SELECT' || e.type === 'text' ? e.value :
                [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join('');
            if (!text.trim() || e.matches(':disabled, :disabled *, option')) continue;
            if (!e.checkVisibility({visibilityProperty: true})) continue;
            const ground = e.closest('.al-numbers') ? onMap(e) : behind(e);
            const style = getComputedStyle(e);
            const ink = over(bytes(e instanceof SVGElement ? style.fill : style.color), ground);
            const [a, b] = [light(ink), light(ground)];
            const ratio = Math.max(a, b) / Math.min(a, b);
            if (ratio < 4.5) found.push(`${root.ariaLabel} ${e.tagName}.${
                e.getAttribute('class')} ${text.slice(0, 20)}: ${ratio.toFixed(2)}`);
        }
    return [...new Set(found)];
}"""

# What sticks out of an explorer or of the output area, and pictures without a size.
CLIPPED = """() => [...document.querySelectorAll('.attnlab')].flatMap((root) => {
    const output = root.closest('.jp-OutputArea-output');
    const {left, right} = root.getBoundingClientRect();
    const scrolls = (e) => {  // inside a part that has its own scroll bar
        for (let at = e.parentElement; at !== root; at = at.parentElement)
            if (['auto', 'scroll', 'clip'].includes(getComputedStyle(at).overflowX)) return true;
        return false;
    };
    const found = [root, output].filter((e) => e.scrollWidth > e.clientWidth)
        .map((e) => `${e.className} is ${e.scrollWidth} wide, has ${e.clientWidth}`);
    for (const e of root.querySelectorAll('canvas, input, select, button, p, svg, span, table')) {
        const box = e.getBoundingClientRect();
        if (!e.checkVisibility() || scrolls(e)) continue;
        if (box.left < left - 1 || box.right > right + 1)
            found.push(`${e.tagName}.${e.getAttribute('class')} sticks out: ${box.right - right}`);
        if (e.matches('canvas, input, select, button') && (box.width < 8 || box.height < 4))
            found.push(`${e.tagName}.${e.getAttribute('class')} is ${box.width} wide`);
        if (e.matches('p, button, .al-name, .al-value') && e.scrollWidth > e.clientWidth + 1)
            found.push(`text cut off: ${e.textContent.slice(0, 30)}`);
    }
    return found.map((what) => `${root.ariaLabel}: ${what}`);
})"""

# What Tab must stop at, in order: everything that can take the focus, of a group of radio buttons
# the chosen one.
STOPS = """(root) => [...root.querySelectorAll('input, select, button, [tabindex]')]
    .filter((e) => !e.disabled && e.tabIndex >= 0 && e.checkVisibility())
    .map((e) => e.dataset.control ?? `${e.tagName} ${e.getAttribute('class')}`)"""
# Where the focus is, whether that is seen, and what it is called.
FOCUS = """(root) => {
    const e = document.activeElement;
    if (!root.contains(e)) return null;
    const style = getComputedStyle(e);
    const box = e instanceof SVGElement ? getComputedStyle(e.querySelector('rect')) : null;
    return {
        // null: a part with its own scroll bar
        stop: e.matches('input, select, button, [tabindex]')
            ? e.dataset.control ?? `${e.tagName} ${e.getAttribute('class')}` : null,
        kind: e.type ?? e.getAttribute('role'),
        own: Boolean(e.closest('[data-lm-suppress-shortcuts]')),  // keys are not JupyterLab's
        seen: box ? parseFloat(box.strokeWidth) >= 4
            : style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
        name: (e.ariaLabel ?? e.labels?.[0]?.innerText ?? e.innerText).trim(),
    };
}"""
# What JupyterLab's own keys would change.
NOTEBOOK = """() => [notebook.content.widgets.length, notebook.content.mode,
    notebook.content.activeCellIndex, notebook.content.activeCell.model.type,
    document.querySelectorAll('.jp-Dialog').length]"""


class Page:
    """The page with all explorers, and the kernel behind it."""

    def __init__(self, lab, page):
        self.lab, self.page = lab, page

    def root(self, name: str, twin: int = 0):
        return self.page.locator(".attnlab").nth(2 * NAMES.index(name) + twin)

    def run(self, code: str) -> str:
        return self.lab.execute(self.page, code).strip()

    def ask(self, expression: str):
        return json.loads(self.run(f"print(json.dumps({expression}))"))

    def acts(self, root, act, *arguments) -> None:
        """Do something and wait until this explorer shows something else."""
        before = root.evaluate(LOOK)
        act(*arguments)
        self.until(lambda: root.evaluate(LOOK) != before)

    def looks(self) -> list[int]:
        return self.page.evaluate(LOOKS)

    def until(self, what, seconds: float = 30):
        """The first true value of `what()`."""
        for _ in range(int(10 * seconds)):
            if found := what():
                return found
            self.page.wait_for_timeout(100)
        pytest.fail(f"nothing came of it in {seconds} s")

    def quiet(self) -> None:
        """Wait until every change is answered and nothing is drawn any more."""
        before = []

        def still():
            self.page.wait_for_timeout(500)  # longer than the pause after which a text is sent
            told = self.ask("[len(starts), [e._asked for e in one.values()]]")
            before.append([told, self.looks()])
            return len(before) > 1 and before[-1] == before[-2]

        self.until(still)


def open_all(lab, root, page) -> Page:
    (root / "all.ipynb").write_text(notebook(SETUP, SHOW))
    lab.open(page, "all.ipynb")
    page.evaluate("() => jupyterapp.shell.collapseLeft()")
    everything = Page(lab, page)
    run_all(everything)
    return everything


def run_all(everything: Page) -> None:
    assert everything.lab.run_all(everything.page) == []
    everything.page.wait_for_function(
        """(n) => document.querySelectorAll('.attnlab').length === n
            && [...document.querySelectorAll('.attnlab .al-stage')].every((e) => !e.hidden)""",
        arg=2 * len(NAMES),
    )
