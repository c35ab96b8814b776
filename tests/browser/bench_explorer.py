"""How fast the explorers follow the hand, beside interact + matplotlib, in one run.

    python tests/browser/bench_explorer.py [--rounds 3] [--others] [--json results.json]

With --others, one slider of each other explorer beside the Attention Explorer's. There a picture is
new when the page writes it, in the same frame as its pixels: reading the pixels of all their
canvases back in every frame took longer than drawing them, and what was measured was the reading.

All show 8 heads x 64 tokens in JupyterLab in headless Chromium: "interact" draws the explorer's
picture without its arcs, "maps" only the eight heat maps with a caption each, "explorer" all of
it. A "step" is the time from a key pressed on a slider to the first changed pixels; a "drag" moves
the mouse along a slider for 3 seconds and counts new pictures; it "settles" from its end to the
last change. The rounds alternate, so that all meet the same machine.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from lab import Browser, Lab, notebook  # noqa: E402

TEXT = " ".join(
    f"{word}{i}" for i in range(8) for word in "the cat sat on the mat and slept".split()
)
EXPLORER = f"""
from attnlab.explorers import AttentionExplorer
explorer = AttentionExplorer({TEXT!r}, source="random")
explorer
"""
MATPLOTLIB = f"""
%matplotlib inline
import matplotlib.pyplot as plt
from ipywidgets import FloatSlider, IntSlider, Layout, interact
from attnlab.explorers._sources import from_random
from attnlab.stats import entropy

def heat_map(ax, weights, title):
    ax.imshow(weights, cmap="cividis", vmin=0)
    ax.set_title(f"{{title}}  {{entropy(weights).mean():.2f}} nats")

def maps(looks, weights):
    fig, axes = plt.subplots(2, 4, figsize=(10, 5.3))
    for h, ax in enumerate(axes.flat):
        ax.axis("off")
        if h < len(weights):
            heat_map(ax, weights[h], f"head {{h}}")

def interact_(looks, weights):
    fig = plt.figure(figsize=(13, 6.5))
    left, right = fig.subfigures(1, 2)
    for h, ax in enumerate(left.subplots(3, 3).flat):
        ax.axis("off")
        if h < len(weights):
            heat_map(ax, weights[h], h)
    ax = right.subplots()
    heat_map(ax, weights[0], "head 0")
    ax.set_xticks(range(0, 64, 2), looks.tokens[::2], rotation=90, fontsize=7)
    ax.set_yticks(range(0, 64, 2), looks.tokens[::2], fontsize=7)
    fig.colorbar(ax.images[0], ax=ax, label="weight")

def show(temperature, d_model, n_heads):
    looks = from_random({TEXT!r}, d_model=d_model, n_heads=n_heads, d_head=None, encoding="none")
    weights = looks.weights(temperature, causal=False)
    DRAW(looks, weights)
    plt.show()

wide = Layout(width="700px")
interact(show,
    temperature=FloatSlider(value=1, min=0.1, max=4.1, step=0.02, layout=wide),
    d_model=IntSlider(value=64, min=8, max=512, step=8, layout=wide),
    n_heads=IntSlider(value=8, min=1, max=8, layout=wide));
"""
CELLS = {
    "interact": MATPLOTLIB.replace("DRAW", "interact_"),
    "maps": MATPLOTLIB.replace("DRAW", "maps"),
    "explorer": EXPLORER,
}
BESIDE = ("interact", "maps", "explorer")
SLIDERS = ("temperature", "d_model")
OTHERS = {  # explorer: the slider to move; its picture comes from the kernel at every step
    "AttentionExplorer": "d_model",
    "ShuffleExplorer": "d_model",
    "WavesExplorer": "d_model",
    "MixingExplorer": "scale",
    "BiasExplorer": "length",
    "RotationExplorer": "position",
}
CELLS |= {kind: f"from attnlab.explorers import {kind}\n{kind}()" for kind in OTHERS} | {
    "AttentionExplorer": EXPLORER
}

# Watches the picture once a frame, after it was drawn, and notes when its pixels change.
WATCH = """(kind) => {
    const all = (s) => [...document.querySelectorAll(s)];
    const pictures = kind === 'explorer'
        ? () => all('.attnlab .al-head:not([hidden]) canvas')
        : () => all('.jupyter-widgets .jp-RenderedImage img').filter(
              (i) => i.complete && i.naturalWidth);
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [128, 64];
    const context = canvas.getContext('2d', {willReadFrequently: true});
    const sign = () => {
        const found = pictures();
        if (!found.length) return 0;
        const columns = Math.min(4, found.length), w = 128 / columns;
        const h = 64 / Math.ceil(found.length / columns);
        found.forEach((p, i) => context.drawImage(
            p, w * (i % columns), h * Math.floor(i / columns), w, h));
        const pixels = new Uint32Array(context.getImageData(0, 0, 128, 64).data.buffer);
        let hash = 2166136261;
        for (const p of pixels) hash = Math.imul(hash ^ p, 16777619);
        return (hash >>> 0) || 1;
    };
    const watch = window.watch = {changes: [], frames: 0};
    const pixels = () => {
        let last = sign();
        const channel = new MessageChannel();
        channel.port1.onmessage = () => {
            watch.frames++;
            const now = sign();
            if (now !== last && now) watch.changes.push([performance.now(), now]);
            last = now || last;
        };
        const loop = () => { channel.port2.postMessage(0); requestAnimationFrame(loop); };
        requestAnimationFrame(loop);
    };
    if (kind.endsWith('Explorer'))
        new MutationObserver(() => watch.changes.push([performance.now(), 0])).observe(
            document.querySelector('.attnlab .al-stage'),
            {subtree: true, childList: true, characterData: true,
             attributeFilter: ['style', 'class', 'hidden', 'width', 'height']});
    else pixels();
    for (const type of ['keydown', 'pointerup', 'pointerdown'])
        addEventListener(type, (e) => { watch[type] = e.timeStamp; }, true);
    const ours = kind.endsWith('xplorer');
    watch.slider = (name, i) => ours
        ? document.querySelector(`.attnlab [data-control="${name}"]`)
        : document.querySelectorAll('.jupyter-widgets .noUi-handle')[i];
    watch.track = (name, i) => {
        const node = watch.slider(name, i), own = node.getBoundingClientRect();
        if (ours) {
            const at = (node.value - node.min) / (node.max - node.min);
            return {left: own.left + 8, right: own.right - 8, y: own.top + own.height / 2,
                    at: own.left + 8 + at * (own.width - 16)};
        }
        const base = node.closest('.noUi-base').getBoundingClientRect();
        return {left: base.left, right: base.right, y: own.top + own.height / 2,
                at: own.left + own.width / 2};
    };
}"""


class Subject:
    """One of the pictures, open in a page of its own."""

    def __init__(self, lab: Lab, browser: Browser, kind: str):
        self.kind, self.page = kind, browser.page(1400, 1300)
        self.sliders = (OTHERS[kind],) if kind in OTHERS else SLIDERS
        (lab.root / f"{kind}.ipynb").write_text(notebook(CELLS[kind]))
        lab.open(self.page, f"{kind}.ipynb")
        wrong = lab.run_all(self.page)
        if wrong:
            raise RuntimeError(f"{kind}: {wrong}")
        self.page.wait_for_timeout(2000)
        self.page.evaluate(WATCH, kind)

    def settle(self, since: float, quiet: float = 250, most: float = 3000) -> list[float]:
        """Times (ms) of the changes after `since`, once there were none for `quiet` ms."""
        end = time.monotonic() + most / 1000
        while time.monotonic() < end:
            times, now = self.page.evaluate(
                "(t) => [watch.changes.map((c) => c[0]).filter((c) => c > t), performance.now()]",
                since,
            )
            if times and now - times[-1] > quiet:
                return times
            time.sleep(0.03)
        return []

    def steps(self, name: str, count: int) -> list[float]:
        """From key to first changed pixels, in ms, for `count` single steps of a slider."""
        page, found = self.page, []
        page.bring_to_front()
        page.evaluate("([n, i]) => watch.slider(n, i).focus()", [name, self.sliders.index(name)])
        for i in range(count):
            key = "ArrowRight" if i < count // 2 else "ArrowLeft"
            before = page.evaluate("performance.now()")
            page.keyboard.press(key)
            times = self.settle(before)
            pressed = page.evaluate("watch.keydown")
            found += [times[0] - pressed] if times else []
            time.sleep(random.random() * 0.03)  # no lockstep with the frames
        return found

    def drag(self, name: str = "temperature", seconds: float = 3.0) -> dict[str, float]:
        """New pictures a second, and ms from the end of the drag to the last change."""
        page = self.page
        page.bring_to_front()
        track = page.evaluate("([n, i]) => watch.track(n, i)", [name, self.sliders.index(name)])
        page.mouse.move(track["at"], track["y"])
        page.mouse.down()
        start = time.monotonic()
        while (passed := time.monotonic() - start) < seconds:
            phase = 1.5 * passed / seconds  # to the end of the slider and half way back
            where = phase if phase < 1 else 2 - phase
            page.mouse.move(
                track["left"] + 4 + (track["right"] - track["left"] - 8) * where, track["y"]
            )
            time.sleep(max(0.0, 0.016 - (time.monotonic() - start - passed)))
        page.mouse.up()
        down, up = page.evaluate("[watch.pointerdown, watch.pointerup]")
        self.settle(down, quiet=1200)
        changes = page.evaluate("(t) => watch.changes.filter((c) => c[0] > t)", down)
        during = [t for t, _ in changes if t <= up]
        last = max((t for t, _ in changes), default=up)
        return {"fps": len(during) / seconds, "settles": max(0.0, last - up)}


def measure(
    lab: Lab, browser: Browser, rounds: int = 3, steps: int = 12, kinds: tuple[str, ...] = BESIDE
) -> dict:
    """Alternate rounds of all; medians, and the machine's load before and after."""
    result = {"load_before": os.getloadavg()[0]}
    subjects = [Subject(lab, browser, kind) for kind in kinds]
    times = {s.kind: {name: [] for name in s.sliders} for s in subjects}
    drags = {s.kind: {name: [] for name in s.sliders} for s in subjects}
    for subject in subjects:
        for name in subject.sliders:
            subject.steps(name, 2)  # warm up
    for _ in range(rounds):
        for subject in subjects:
            for name in subject.sliders:
                times[subject.kind][name] += subject.steps(name, steps)
                drags[subject.kind][name].append(subject.drag(name))
    for subject in subjects:
        kind = subject.kind
        result[kind] = {
            "step_ms": {n: statistics.median(t) for n, t in times[kind].items() if t},
            "missed": {n: rounds * steps - len(t) for n, t in times[kind].items()},
            "all": times[kind],
            "fps": {n: statistics.median(x["fps"] for x in d) for n, d in drags[kind].items()},
            "settles_ms": {
                n: statistics.median(x["settles"] for x in d) for n, d in drags[kind].items()
            },
            "drags": drags[kind],
            "errors": subject.page.errors,
        }
    if "explorer" in kinds:
        result["faster"] = {
            kind: {
                n: result[kind]["step_ms"][n] / result["explorer"]["step_ms"][n] for n in SLIDERS
            }
            for kind in kinds if kind != "explorer"
        }  # fmt: skip
    result["load_after"] = os.getloadavg()[0]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--others", action="store_true", help="the other explorers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        with Lab(Path(root)) as lab, Browser() as browser:
            kinds = tuple(OTHERS) if options.others else BESIDE
            result = measure(lab, browser, options.rounds, kinds=kinds)
    print(f"load {result['load_before']:.1f} -> {result['load_after']:.1f}")
    for kind in kinds:
        r = result[kind]
        for n, ms in r["step_ms"].items():
            print(
                f"{kind:17} {n:12} step {ms:5.0f} ms, drag {r['fps'][n]:5.1f} pictures/s, "
                f"settles in {r['settles_ms'][n]:4.0f} ms"
            )
    for kind, ratios in result.get("faster", {}).items():
        print(f"than {kind}: " + ", ".join(f"{n} {x:.1f}x faster" for n, x in ratios.items()))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
