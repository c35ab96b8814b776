// The Waves Explorer: the sinusoidal table, one pair of features as waves, and the curves of
// distance and dot product. All numbers come from attnlab.

// Labels for n rows or columns: round numbers only, the rest empty.
function roundLabels(n) {
  const labels = Array(n).fill("");
  for (const t of ticks(0, n - 1, 8)) if (Number.isInteger(t)) labels[t] = String(t);
  return labels;
}

function wavesPicture(model, host, send) {
  const caption = make("p", { class: "al-caption" });
  const rows = axis("rows");
  const columns = axis("columns");
  const canvas = make("canvas", { class: "al-map", role: "img", width: 1, height: 1 });
  const first = make("div", { class: "al-cursor" });
  const second = make("div", { class: "al-cursor" });
  second.style.borderStyle = "dashed";
  const chosen = make("div", { class: "al-cursor" });
  const plot = make("div", {
    class: "al-plot", tabIndex: 0, role: "group", ...OWN_KEYS,
    "aria-label": "Table of the encoding. Arrow keys, or a click, move position p and pair i.",
  }, canvas, first, second, chosen);
  const scale = legend("value");
  const table = make("div", { class: "al-large" }, caption,
    make("div", { class: "al-axes" },
      make("span", { class: "al-title-rows" }, "position"), rows.node, plot,
      columns.node, make("span", { class: "al-title-columns" }, "feature")),
    scale.node);

  const curve = (place) => {
    const title = make("p", { class: "al-caption" });
    const lines = linePlot(place);
    lines.node.firstChild.style.height = "178px"; // three of them are as tall as the table
    return { title, ...lines, box: make("div", {}, title, lines.node) };
  };
  const overOffset = (x) => {
    pointed = x === null || !view ? null : Math.max(0, Math.min(view.n - 1, Math.round(x)));
    repaint();
  };
  const wave = curve();
  const distance = curve(overOffset);
  const product = curve(overOffset);
  const readout = make("p", { class: "al-readout", "aria-live": "polite" });
  host.append(readout, make("div", { class: "al-maps al-even" },
    table, make("div", {}, wave.box, distance.box, product.box)));

  const paint = heatmap(canvas);
  let view = null;
  let pointed = null; // an offset under the pointer

  const short = (v) => String(Number(v.toPrecision(4))).replace("-", "−");
  const far = (k) => view.numbers[view.n * view.d + k];
  const dot = (k) => view.numbers[view.n * (view.d + 1) + k];

  function words() {
    const { position: p, offset, pair, wavelength } = view;
    const k = pointed ?? offset;
    return `p = ${p}, k = ${k}: distance of the two codes ${short(far(k))}, dot product ` +
      `${short(dot(k))}. Pair ${pair}: one turn in ` +
      `${wavelength.toLocaleString("en", { maximumFractionDigits: 1 })} positions.`;
  }

  function band(node, row, column, width) {
    const { n, d } = view;
    node.hidden = row !== null && row >= n;
    node.style.top = row === null ? "0" : `calc(${(100 * row) / n}% - 2px)`;
    node.style.height = row === null ? "100%" : `calc(${100 / n}% + 4px)`;
    node.style.left = column === null ? "0" : `calc(${(100 * column) / d}% - 2px)`;
    node.style.width = column === null ? "100%" : `calc(${(100 * width) / d}% + 4px)`;
  }

  function draw(next) {
    view = next;
    const { n, d, pair, position: p, offset: k, numbers } = view;
    paint(numbers, 0, n, d, 1);
    scale.show("1", false, "−1");
    rows.show(roundLabels(n), 22);
    columns.show(roundLabels(d), 22);
    band(first, p, null);
    band(second, p + k, null);
    band(chosen, null, 2 * pair, 2);
    setText(caption, `Table: ${n} positions, ${d} features`);

    const feature = (f) => Float32Array.from({ length: n }, (_, r) => 2 * numbers[r * d + f] - 1);
    const [sine, cosine] = [feature(2 * pair), feature(2 * pair + 1)];
    setText(wave.title, `Pair ${pair}: feature ${2 * pair}, sine (thick), and ${2 * pair + 1}, ` +
      "cosine (thin); dots at p and p + k");
    const dots = [[p, [sine[p], cosine[p]]], [p + k, view.second]]
      .flatMap(([x, pairOf]) => pairOf.map((y) => ({ x, y: [y], strong: true })));
    wave.draw({
      lines: [{ x: 0, y: cosine }, { x: 0, y: sine, strong: true }, ...dots],
      x: [0, n - 1], y: [-1.1, 1.1], xLabel: "position", yLabel: "value",
    });
    const distances = numbers.subarray(n * d, n * d + n);
    const products = numbers.subarray(n * d + n, n * d + 2 * n);
    setText(distance.title, "Distance of the codes of p and p + k");
    setText(product.title, "Dot product of the codes of p and p + k");
    const at = pointed ?? k;
    const mark = (y) => ({ x: at, y: [y], strong: true });
    const roof = Math.max(...distances) * 1.05;
    distance.draw({
      lines: [{ x: 0, y: distances, strong: true }, mark(far(at))], x: [0, n - 1], y: [0, roof],
      xLabel: "offset k", yLabel: "distance", marked: at,
    });
    product.draw({
      lines: [{ x: 0, y: products, strong: true }, mark(dot(at))], x: [0, n - 1],
      y: [Math.min(0, 1.1 * view.low), (d / 2) * 1.05], xLabel: "offset k", yLabel: "dot product",
      marked: at,
    });
    setText(readout, words());
    describe();
  }
  const repaint = onceAFrame(() => view && draw(view));

  const describe = whenQuiet(() => {
    setAttribute(canvas, "aria-label", `Heat map of the sinusoidal table, ${view.n} positions by ` +
      `${view.d} features, from −1 to 1: fast waves at the left, slow ones at the right. ${words()}`);
    wave.describe(`Waves of pair ${view.pair} over ${view.n} positions. ${words()}`);
    distance.describe(`Distance of two codes against their offset. ${words()}`);
    product.describe(`Dot product of two codes against their offset. ${words()}`);
  }, 200);

  const inside = (v, count) => Math.max(0, Math.min(count - 1, v));
  const go = (p, pair) => send({ position: inside(p, view.n), pair: inside(pair, view.d / 2) });
  plot.addEventListener("click", (event) => {
    if (!view) return;
    go(...cellAt(event, plot, view.n, view.d / 2));
  });
  plot.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (!view || !step) return;
    event.preventDefault();
    go(inside(model.get("position"), view.n) + step[0],
      inside(model.get("pair"), view.d / 2) + step[1]);
  });
  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Waves Explorer", wavesPicture),
};
