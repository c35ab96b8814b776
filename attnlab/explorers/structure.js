// The Structure Explorer: a tree or a graph with buttons to edit it, the positions of its nodes, a
// map of pairs, and the weights.

function structurePicture(model, host, send) {
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 330;
  function shape(tag, attributes, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // A map with names on both sides and a text in each cell that has room for it.
  function plainMap(rowTitle, columnTitle, what) {
    const caption = make("p", { class: "al-caption" });
    const [rows, columns] = [axis("rows"), axis("columns")];
    const canvas = make("canvas", { class: "al-map", role: "img", width: 1, height: 1 });
    const cells = make("div", { class: "al-numbers", "aria-hidden": "true" });
    const band = make("div", { class: "al-cursor", hidden: true });
    const plot = make("div", { class: "al-plot al-plain" }, canvas, cells, band);
    const scale = legend(what);
    const node = make("div", { class: "al-large" }, caption,
      make("div", { class: "al-axes" },
        make("span", { class: "al-title-rows" }, rowTitle), rows.node, plot,
        columns.node, make("span", { class: "al-title-columns" }, columnTitle)),
      scale.node);
    const paint = heatmap(canvas);
    return {
      node, caption, scale,
      draw({ numbers, start, rowNames, columnNames, top, texts, row, label, square }) {
        const [n, m] = [rowNames.length, columnNames.length];
        paint(numbers, start, n, m, top);
        const width = plot.clientWidth;
        const tall = square ? width / n : Math.min(34, 330 / n);
        canvas.style.aspectRatio = "auto";
        canvas.style.height = `${tall * n}px`;
        rows.show(rowNames, tall);
        columns.show(columnNames, width / m);
        band.hidden = false;
        band.style.cssText =
          `left: 0; width: 100%; top: ${(100 * row) / n}%; height: ${100 / n}%`;
        setAttribute(canvas, "aria-label", label);
        cells.hidden = !texts || width / m < 26;
        if (cells.hidden) return;
        cells.style.gridTemplateColumns = `repeat(${m}, 1fr)`;
        cells.style.fontSize = `${Math.min(15, 0.4 * tall, 0.3 * (width / m))}px`;
        cells.replaceChildren(...texts.flatMap((line, i) => line.map((text, j) => {
          const value = numbers[start + i * m + j];
          const name = value < 0 ? "al-none" : onColour(colourIndex(value, top));
          return make("span", { class: name }, text);
        })));
      },
    };
  }

  const picture = make("div", {
    class: "al-boxes al-structure", role: "radiogroup",
    "aria-label": "Nodes: click one, or use the arrow keys",
  });
  const readout = make("p", { class: "al-readout al-said", "aria-live": "polite" });
  const partner = make("select", { "aria-label": "the other node", ...OWN_KEYS });
  const button = (text, what) => {
    const node = make("button", { type: "button", ...OWN_KEYS }, text);
    node.addEventListener("click", () => edit(what));
    return node;
  };
  const buttons = {
    add: button("add child", "add"),
    remove: button("remove", "remove"),
    connect: button("connect / disconnect", "connect"),
    undo: button("undo", "undo"),
    reset: button("reset", "reset"),
  };
  const joins = make("span", { class: "al-joins" }, buttons.connect, partner);
  const bar = make("div", { class: "al-buttons", role: "group", "aria-label": "Edit" },
    buttons.add, buttons.remove, joins, buttons.undo, buttons.reset);
  const place = plainMap("node", "feature", "value");
  const pairs = plainMap("from node", "to node", "value");
  const weights = tokenMap("Weights.", () => repaintDetail());
  const pointed = make("p", { class: "al-notes", "aria-live": "polite" });
  host.append(
    make("div", { class: "al-maps al-even" },
      make("div", {}, picture, bar, readout), place.node),
    make("div", { class: "al-maps al-even" },
      pairs.node, make("div", {}, weights.node, pointed)));

  let view = null;
  const waiting = []; // what was clicked while an edit is with Python, which may renumber nodes
  let edited = 0; // number of the edit that waits for an answer
  let focus = false; // a key moved the choice: the new node takes the focus

  const short = (v) => String(Number(v.toPrecision(3))).replace("-", "−");
  const chosen = () => Math.max(0, Math.min(view.n - 1, model.get("selected")));

  function goOn() {
    if (model.get("_heard").asked >= edited) edited = 0; // another window may count from 1 again
    while (waiting.length && !edited) waiting.shift()();
  }

  function soon(act) {
    if (waiting.length < 3) waiting.push(act); // a key held down must not go on for long
    if (view) goOn();
  }

  const edit = (what) => soon(() => {
    const other = partner.value === "" ? chosen() : Number(partner.value);
    edited = send({ _edit: [(model.get("_edit")[0] ?? 0) + 1, what, chosen(), other] });
  });

  const select = (i) => soon(() => send({ selected: Math.min(i, view.n - 1) }));

  function drawNodes() {
    const width = Math.max(240, picture.clientWidth);
    const [sideways, down] = [Math.min(70, 0.12 * width), 28];
    const at = view.places.map(([x, y]) =>
      [sideways + x * (width - 2 * sideways), down + y * (HEIGHT - 2 * down)]);
    const svg = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}` });
    for (const [a, b] of view.edges)
      svg.append(shape("line", { x1: at[a][0], y1: at[a][1], x2: at[b][0], y2: at[b][1] }));
    const nodes = view.labels.map((label, i) => {
      const wide = Math.max(17, 5.2 * label.length + 9);
      const [x, y] = at[i];
      const on = i === chosen();
      const node = shape("g", {
        role: "radio", tabindex: on ? 0 : -1, "aria-checked": String(on),
        "aria-label": view.words[i], "data-lm-suppress-shortcuts": "true",
      });
      node.append(
        shape("rect", { x: x - wide, y: y - 17, width: 2 * wide, height: 34, rx: 17 }),
        shape("text", { x, y: y + 5 }, label));
      node.addEventListener("click", () => {
        focus = true;
        select(i);
      });
      svg.append(node);
      return node;
    });
    focus ||= picture.contains(document.activeElement); // the drawing that had it is replaced
    picture.replaceChildren(svg);
    if (focus) nodes[chosen()].focus();
    focus = false;
  }

  function drawButtons() {
    const tree = view.kind === "tree";
    setText(buttons.add, tree ? "add child" : "add node");
    setText(buttons.remove, tree ? "remove with all below" : "remove");
    joins.hidden = !view.can.connect;
    buttons.undo.disabled = !view.can.undo;
    const others = view.labels.map((label, i) => [label, i]).filter(([, i]) => i !== chosen());
    const key = JSON.stringify(others);
    if (partner.__key === key) return;
    partner.__key = key;
    const before = partner.value;
    partner.replaceChildren(...others.map(([label, i]) => new Option(label, i)));
    if (others.some(([, i]) => String(i) === before)) partner.value = before;
  }

  function drawDetail() {
    weights.drawDetail();
    setText(pointed, weights.words());
    say();
  }
  const say = whenQuiet(() => {
    setAttribute(weights.canvas, "aria-label",
      `Weights of a head that looks for ${view.head}. ${view.words.join(". ")}.`);
  }, 200);

  function draw(next) {
    view = next;
    const { n, numbers, labels, features } = view;
    const from = n * features.length;
    drawNodes();
    drawButtons();
    const names = labels.map((label, i) => `${label}  ${view.names[i]}`.trim());
    setText(place.caption, view.caption);
    place.draw({
      numbers, start: 0, rowNames: names, columnNames: features, top: 1, row: chosen(),
      label: `Positions of the nodes: ${view.words.join(". ")}.`,
    });
    place.scale.show(view.high, false, short(view.low));
    setText(pairs.caption, view.pairs);
    pairs.draw({
      numbers, start: from, rowNames: labels, columnNames: labels, top: view.top,
      texts: view.cells, row: chosen(), square: true,
      label: `${view.pairs}, a row for each node: ` +
        view.cells.map((line, i) => `${labels[i]}: ${line.join(", ")}`).join("; "),
    });
    pairs.scale.show(view.bottom ? 0 : short(view.top), false, short(view.bottom));
    const start = from + n * n;
    let top = 0;
    for (let i = start; i < start + n * n; i++) top = Math.max(top, numbers[i]);
    weights.draw(numbers, start, labels, roundUp(top), false);
    setText(weights.caption, `Weights: the head looks for ${view.head}`);
    setText(readout, view.words[chosen()]);
    drawDetail();
    goOn();
  }
  const repaint = onceAFrame(() => view && draw(view));
  const repaintDetail = onceAFrame(() => view && drawDetail());

  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !view) return;
    event.preventDefault();
    focus = true;
    select((chosen() + step + view.n) % view.n);
  });
  model.on("change:selected", repaint);
  return {
    draw,
    close() {
      model.off("change:selected", repaint);
    },
  };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Structure Explorer", structurePicture),
};
