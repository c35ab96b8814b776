// One head's weights large: tokens on both axes, the numbers where cells have room for them, and a
// cell or a whole row under the pointer, the arrow keys, or a token of the row's axis.

// The end of the colour scale: a short number not below the largest value, so that the scale does
// not flicker while a slider moves.
function roundUp(value) {
  if (value > 1 && value < 1.00001) return 1; // a weight of 1, rounded
  for (let power = 0.001; power < 1e9; power *= 10)
    for (const step of [1, 1.5, 2, 3, 4, 5, 6, 8])
      if (step * power >= value) return Number((step * power).toPrecision(2));
  return value;
}

// `changed` is called when the pointer or the keys choose something else: see `query` and `key`,
// null for nothing; a query without key is a row.
function tokenMap(label, changed) {
  const caption = make("p", { class: "al-caption" });
  const rows = axis("rows");
  const columns = axis("columns");
  const canvas = make("canvas", { class: "al-map", role: "img", width: 1, height: 1 });
  const cells = make("div", { class: "al-numbers", "aria-hidden": "true" });
  const cursor = make("div", { class: "al-cursor", hidden: true });
  const plot = make("div", {
    class: "al-plot", tabIndex: 0, role: "group", ...OWN_KEYS,
    "aria-label": `${label} Arrow keys move over queries and keys, and left of the first key to ` +
      "the whole row; Escape leaves them.",
  }, canvas, cells, cursor);
  const scale = legend("weight");
  const node = make("div", { class: "al-large" }, caption,
    make("div", { class: "al-axes" },
      make("span", { class: "al-title-rows" }, "query: looks"), rows.node, plot,
      columns.node, make("span", { class: "al-title-columns" }, "key: is looked at")),
    scale.node);
  const paint = heatmap(canvas);
  let n = 0;
  let tokens = [];
  let weights = null; // of all heads
  let start = 0; // where those of this one begin
  const inside = (i) => Math.max(0, Math.min(n - 1, i));
  const quoted = (i) => `“${tokens[i]}”`;

  // The chosen token among the labels of an axis.
  const mark = (labels, i) => {
    const now = i === null ? null : labels.node.children[i];
    const old = labels.node.querySelector(".al-chosen");
    if (now === old) return;
    old?.classList.remove("al-chosen");
    now?.classList.add("al-chosen");
  };

  const map = {
    node, plot, caption, canvas, quoted,
    query: null,
    key: null,

    point(query, key) {
      if (query === map.query && key === map.key) return;
      [map.query, map.key] = [query, key];
      changed();
    },

    weight: (query, key) => weights[start + query * n + key],

    // The map with its axes and its scale; cheap enough for every frame of a drag.
    draw(numbers, from, names, top, masked) {
      [weights, start, tokens, n] = [numbers, from, names, names.length];
      paint(weights, start, n, n, top);
      const cell = plot.clientWidth / n;
      rows.show(tokens, cell);
      columns.show(tokens, cell);
      scale.show(top, masked);
      map.top = top;
    },

    // The numbers in the cells, and what is chosen.
    drawDetail() {
      if (map.query !== null) map.query = inside(map.query);
      if (map.key !== null) map.key = inside(map.key);
      cursor.hidden = map.query === null;
      if (map.query !== null) {
        const step = 100 / n;
        cursor.style.top = `${map.query * step}%`;
        cursor.style.height = `${step}%`;
        cursor.style.left = map.key === null ? "0" : `${map.key * step}%`;
        cursor.style.width = map.key === null ? "100%" : `${step}%`;
      }
      mark(rows, map.query);
      mark(columns, map.key);
      const cell = plot.clientWidth / n;
      cells.hidden = cell < 34; // too small to read
      if (cells.hidden) return;
      const size = n * n;
      if (cells.children.length !== size) {
        cells.replaceChildren(...Array.from({ length: size }, () => make("span")));
        cells.style.gridTemplateColumns = `repeat(${n}, 1fr)`;
      }
      cells.style.fontSize = `${Math.min(20, 0.34 * cell)}px`;
      for (let i = 0; i < size; i++) {
        const w = weights[start + i];
        const span = cells.children[i];
        setText(span, w < 0 ? "" : w.toFixed(2));
        setAttribute(span, "class", onColour(colourIndex(w, map.top)));
      }
    },

    // "a" → "b": its weight
    cellWords(query, key) {
      const w = map.weight(query, key);
      return `${quoted(query)} → ${quoted(key)}: ${w < 0 ? "masked" : w.toFixed(4)}`;
    },

    // the keys with the largest weights: "b" 0.53, "c" 0.21, "d" 0.04
    strongest(query) {
      const order = [...Array(n).keys()].filter((k) => map.weight(query, k) > 0);
      order.sort((a, b) => map.weight(query, b) - map.weight(query, a));
      return order.slice(0, 3).map(
        (k) => `${quoted(k)} ${map.weight(query, k).toFixed(2)}`).join(", ");
    },

    // "a" → its strongest keys
    rowWords: (query) => `${quoted(query)} → ${map.strongest(query)}`,

    words() {
      if (map.query === null) return "Point at a cell or a token, or use the arrow keys.";
      return map.key === null ? map.rowWords(map.query) : map.cellWords(map.query, map.key);
    },
  };

  plot.addEventListener("pointermove", (event) => {
    if (n) map.point(...cellAt(event, plot, n, n));
  });
  rows.node.addEventListener("pointermove", (event) => {
    if (n) map.point(cellAt(event, rows.node, n, 1)[0], null);
  });
  for (const area of [plot, rows.node])
    area.addEventListener("pointerleave", () => map.point(null, null));
  plot.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (!n || (!step && event.key !== "Escape")) return;
    event.preventDefault();
    if (!step) return map.point(null, null);
    if (map.query === null) return map.point(0, 0);
    const key = (map.key ?? -1) + step[1]; // left of the first key is the whole row
    map.point(inside(map.query + step[0]), key < 0 ? null : inside(key));
  });
  return map;
}
