// The Bias Explorer: maps of bias and weight for one head, curves against the offset for all.

function biasPicture(model, host) {
  const signed = (o) => (o > 0 ? `+${o}` : String(o).replace("-", "−"));
  const short = (v) => String(Number(v.toPrecision(3))).replace("-", "−");
  let view = null;
  let query = null;
  let key = null;
  let marked = null;

  function squareMap(name, what) {
    const caption = make("p", { class: "al-caption" });
    const rows = axis("rows");
    const columns = axis("columns");
    const canvas = make("canvas", { class: "al-map", role: "img", width: 1, height: 1 });
    const cursor = make("div", { class: "al-cursor", hidden: true });
    const plot = make("div", {
      class: "al-plot", tabIndex: 0, role: "group", ...OWN_KEYS,
      "aria-label": `${name}. Arrow keys move over queries and keys, Escape leaves them.`,
    }, canvas, cursor);
    const scale = legend(what);
    const node = make("div", { class: "al-large" }, caption,
      make("div", { class: "al-axes" },
        make("span", { class: "al-title-rows" }, "query"), rows.node, plot,
        columns.node, make("span", { class: "al-title-columns" }, "key")),
      scale.node);
    const inside = (i) => Math.max(0, Math.min(view.n - 1, i));
    plot.addEventListener("pointermove", (event) => {
      if (view) point(...cellAt(event, plot, view.n, view.n));
    });
    plot.addEventListener("pointerleave", () => point(null, null));
    plot.addEventListener("keydown", (event) => {
      const step = ARROWS[event.key];
      if (!view || (!step && event.key !== "Escape")) return;
      event.preventDefault();
      if (!step) point(null, null);
      else if (query === null) point(view.query, view.query);
      else point(inside(query + step[0]), inside(key + step[1]));
    });
    return { node, caption, rows, columns, canvas, cursor, plot, scale, paint: heatmap(canvas) };
  }

  const bias = squareMap("Map of the bias", "bias");
  const weight = squareMap("Map of the weights", "weight");
  const readout = make("p", { class: "al-readout", "aria-live": "polite" });
  const overOffset = (x) => {
    query = key = null;
    mark(x === null ? null : Math.round(x));
  };
  const biasLines = linePlot(overOffset);
  const weightLines = linePlot(overOffset);
  const thick = make("p", { class: "al-notes" });
  host.append(
    make("div", { class: "al-maps al-even" }, bias.node, weight.node), readout,
    make("div", { class: "al-maps al-even" }, biasLines.node, weightLines.node), thick);

  function point(q, k) {
    if (q === query && k === key) return;
    [query, key] = [q, k];
    mark(q === null ? null : k - q);
  }

  function mark(offset) {
    marked = offset;
    repaint();
  }

  function words() {
    const { n, numbers } = view;
    if (query !== null) {
      const cell = query * n + key;
      const told = `query ${query}, key ${key}: offset ${signed(key - query)}, `;
      if (numbers[cell] < 0) return `${told}masked`;
      const value = view.bottom + numbers[cell] * (view.top - view.bottom);
      return `${told}bias ${short(value)}, weight ${numbers[n * n + cell].toFixed(4)}`;
    }
    if (marked !== null) {
      const at = 2 * n * n + view.head * view.offsets + marked - view.first;
      if (marked < view.first || marked >= view.first + view.offsets) return "\u00a0";
      const j = view.query + marked;
      const w = numbers[2 * n * n + view.heads * view.offsets + view.head * n + j];
      const told = j < 0 || j >= n ? "no such key" : `weight ${w.toFixed(4)}`;
      return `offset ${signed(marked)}, head ${view.head}: bias ${short(numbers[at])}, ${told}`;
    }
    return "Point at a map or a curve, or use the arrow keys on it.";
  }

  const describe = whenQuiet(() => {
    const what = `${view.scheme}, head ${view.head} of ${view.heads}, ${view.n} tokens`;
    setAttribute(bias.canvas, "aria-label",
      `Bias for every query and key: ${what}; from ${short(view.bottom)} to ${short(view.top)}.`);
    setAttribute(weight.canvas, "aria-label",
      `Weights if all q·k are 0: ${what}; at most ${short(view.most)}.`);
    biasLines.describe(`Bias against offset, all heads: ${what}.`);
    weightLines.describe(
      `Weight of query ${view.query} against offset, all heads: ${what}. ${view.notes.join(" ")}`);
  }, 200);

  function draw(next) {
    view = next;
    const { n, heads, head, offsets, numbers } = view;
    if (query !== null && (query >= n || key >= n)) query = key = marked = null;
    setText(bias.caption, `Bias of head ${head}`);
    setText(weight.caption, `Weights of head ${head} if all q·k = 0`);
    bias.paint(numbers, 0, n, n, 1);
    weight.paint(numbers, n * n, n, n, view.most);
    bias.scale.show(short(view.top), view.masked, short(view.bottom));
    weight.scale.show(short(view.most), view.masked);
    const tokens = Array.from({ length: n }, (_, i) => String(i));
    for (const map of [bias, weight]) {
      const cell = map.plot.clientWidth / n;
      map.rows.show(tokens, cell);
      map.columns.show(tokens, cell);
      map.cursor.hidden = query === null;
      if (query !== null) {
        map.cursor.style.top = `${(100 * query) / n}%`;
        map.cursor.style.left = `${(100 * key) / n}%`;
        map.cursor.style.width = map.cursor.style.height = `max(8px, ${100 / n}%)`;
      }
    }
    const curves = 2 * n * n;
    const rows = curves + heads * offsets;
    const x = [view.first - 0.5, view.first + offsets - 0.5];
    const lines = (start, size, first) => Array.from({ length: heads }, (_, h) => ({
      x: first, y: numbers.subarray(start + h * size, start + (h + 1) * size), strong: h === head,
    }));
    const [low, high] = view.range;
    const room = 0.04 * (high - low);
    const common = { x, xLabel: "offset = key − query (tokens)", borders: view.borders, marked };
    biasLines.draw({
      ...common, lines: lines(curves, offsets, view.first), y: [low - room, high + room],
      yLabel: "bias",
    });
    weightLines.draw({
      ...common, lines: lines(rows, n, -view.query), y: [0, 1.04 * view.highest],
      yLabel: `weight, query ${view.query}`,
    });
    setText(readout, words());
    setText(thick, heads > 1
      ? `Thick: head ${head}. Thin: the other ${heads - 1}.` : "One head.");
    describe();
  }
  const repaint = onceAFrame(() => view && draw(view));
  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Bias Explorer", biasPicture),
};
