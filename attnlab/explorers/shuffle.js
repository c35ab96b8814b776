// The Shuffle Explorer: the words before, the words now (to be moved), and how far outputs moved.

function shufflePicture(model, host, send) {
  const button = (text, act) => {
    const node = make("button", { type: "button", class: "al-button", ...OWN_KEYS }, text);
    node.addEventListener("click", act);
    return node;
  };
  const before = make("div", { class: "al-words" });
  const lines = make("canvas", { class: "al-moves", "aria-hidden": "true" });
  const now = make("div", {
    class: "al-words", role: "group",
    "aria-label": "The words now. Enter on two words swaps them, the arrow keys move a word.",
  });
  const canvas = make("canvas", { class: "al-strip", role: "img", width: 1, height: 1 });
  const cells = make("div", { class: "al-numbers", "aria-hidden": "true" });
  const scale = legend("moved by (in lengths of an output)");
  const mean = make("i");
  const meanNumber = make("b");
  const grid = make("div", { class: "al-shuffle" },
    make("span", {}, "before"), before,
    make("span"), lines,
    make("span", {}, "now"), now,
    make("div", { class: "al-strip-names" }, make("span", {}, "same word"),
      make("span", {}, "same place")),
    make("div", { class: "al-strips" }, canvas, cells),
    make("span", {}, "mean of all"),
    make("div", { class: "al-mean" }, make("span", { class: "al-mean-bar" }, mean), meanNumber));
  const verdict = make("p", { class: "al-readout", "aria-live": "polite" });
  host.append(
    make("div", { class: "al-buttons", role: "group", "aria-label": "Move the words" },
      button("Shuffle", () => set(shuffled())),
      button("Reverse", () => set(typed().reverse())),
      button("Swap first and last", () => set(swapped(0, view.n - 1))),
      button("As typed", () => set(typed()))),
    make("p", { class: "al-arc-hint" },
      "Click two words to swap them; drag a word, or move it with ← and →."),
    make("div", { class: "al-scroll" }, grid), scale.node, verdict);

  const paint = heatmap(canvas);
  let view = null;
  let picked = null; // place of the word that waits to be swapped
  let shown = ""; // which words the buttons hold
  let dragged = null;

  function set(order) {
    if (!view) return;
    picked = null;
    send({ order });
  }

  const typed = () => view.words.map((_, i) => i);

  // The words as the next move finds them: the last one need not have been answered.
  function present() {
    const order = model.get("order");
    return (order.length === view.n ? order : view.order).slice();
  }

  function swapped(a, b) {
    const order = present();
    [order[a], order[b]] = [order[b], order[a]];
    return order;
  }

  function movedTo(from, to) {
    const order = present();
    order.splice(to, 0, ...order.splice(from, 1));
    return order;
  }

  // Another order than the present one, if there is any.
  function shuffled() {
    const [before, order] = [present(), present()];
    do {
      for (let i = order.length - 1; i > 0; i--) {
        const j = Math.floor(Math.random() * (i + 1));
        [order[i], order[j]] = [order[j], order[i]];
      }
    } while (order.length > 1 && order.every((word, i) => word === before[i]));
    return order;
  }

  function pick(place) {
    if (picked === null) picked = place;
    else if (picked === place) picked = null;
    else return set(swapped(picked, place));
    mark();
  }

  function mark() {
    [...now.children].forEach((node, i) =>
      setAttribute(node, "aria-pressed", String(i === picked)));
  }

  function word(place) {
    const node = make("button", { type: "button", class: "al-word", dir: "auto", draggable: true,
      ...OWN_KEYS });
    node.addEventListener("click", () => pick(place));
    node.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") {
        picked = null;
        mark();
      }
      if (!step) return;
      event.preventDefault();
      const to = place + step;
      if (to < 0 || to >= view.n) return;
      set(swapped(place, to));
      now.children[to].focus();
    });
    node.addEventListener("dragstart", (event) => {
      dragged = place;
      event.dataTransfer.effectAllowed = "move";
      event.dataTransfer.setData("text/plain", node.textContent);
    });
    node.addEventListener("dragend", () => (dragged = null));
    node.addEventListener("dragover", (event) => dragged !== null && event.preventDefault());
    node.addEventListener("drop", (event) => {
      if (dragged === null) return;
      event.preventDefault();
      event.stopPropagation();
      set(movedTo(dragged, place));
      dragged = null;
    });
    return node;
  }

  const written = (value) =>
    value < view.nothing ? "0" : value < 0.005 ? value.toExponential(0) : value.toFixed(2);

  function drawLines() {
    const width = lines.clientWidth;
    const height = lines.clientHeight;
    const zoom = window.devicePixelRatio || 1;
    lines.width = Math.max(1, Math.round(width * zoom));
    lines.height = Math.max(1, Math.round(height * zoom));
    const context = lines.getContext("2d");
    context.scale(zoom, zoom);
    const style = getComputedStyle(lines);
    view.order.forEach((from, to) => {
      const x = (i) => ((i + 0.5) * width) / view.n;
      context.beginPath();
      context.moveTo(x(from), 0);
      context.bezierCurveTo(x(from), height / 2, x(to), height / 2, x(to), height);
      context.strokeStyle = style.getPropertyValue(from === to ? "--al-edge" : "--al-ahead");
      context.lineWidth = from === to ? 1.5 : 3;
      context.stroke();
    });
  }

  function draw(next) {
    if (!view || next.n !== view.n) picked = null;
    view = next;
    const { n, order, numbers } = view;
    grid.style.setProperty("--al-count", n);
    while (now.children.length < n) now.append(word(now.children.length));
    while (now.children.length > n) now.lastChild.remove();
    const key = JSON.stringify(view.words);
    if (key !== shown)
      before.replaceChildren(...view.words.map((w) => make("span", { dir: "auto" }, w)));
    shown = key;
    order.forEach((i, place) => {
      const node = now.children[place];
      setText(node, view.words[i]);
      setAttribute(node, "aria-label",
        `${view.words[i]}, place ${place + 1}, was at ${i + 1}; same word moved by ` +
        `${written(numbers[place])}, same place by ${written(numbers[n + place])}`);
      node.classList.toggle("al-away", i !== place);
    });
    mark();
    paint(numbers, 0, 2, n, view.top);
    if (cells.children.length !== 2 * n)
      cells.replaceChildren(...Array.from({ length: 2 * n }, () => make("span")));
    cells.style.gridTemplateColumns = `repeat(${n}, 1fr)`;
    for (let i = 0; i < 2 * n; i++) {
      setText(cells.children[i], written(numbers[i]));
      setAttribute(cells.children[i], "class", onColour(colourIndex(numbers[i], view.top)));
    }
    const pooled = numbers[2 * n];
    mean.style.width = `${Math.min(100, (100 * pooled) / view.top)}%`;
    setText(meanNumber, written(pooled));
    scale.show(view.top, false);
    setText(verdict, view.verdict);
    setAttribute(canvas, "aria-label",
      `How far each output moved. ${view.verdict} Mean of all: ${written(pooled)}.`);
    drawLines();
  }
  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Shuffle Explorer", shufflePicture),
};
