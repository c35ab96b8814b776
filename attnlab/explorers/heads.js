// The Heads Explorer: every head of a model small in a layer x head matrix, one large with its
// tokens, and the gold links in both.

const HEAD_COLOURS = {
  weights: "weight",
  entropy: "entropy / its maximum",
  distance: "attended distance in tokens",
  gold: "gold mass",
};

function headsPicture(model, host, send) {
  const title = make("p", { class: "al-heads-title" });
  const grid = make("div", {
    class: "al-headgrid al-boxes", role: "radiogroup",
    "aria-label": "Head to enlarge: left and right for heads, up and down for layers",
  });
  const scale = legend("weight");
  const label = scale.node.firstChild;
  const best = make("p", { class: "al-best" });
  const map = tokenMap("Enlarged head.", () => repaintDetail());
  const gold = make("div", { class: "al-gold al-boxes", "aria-hidden": "true" });
  const band = make("div", { class: "al-band", hidden: true });
  map.plot.append(gold, band);
  const goldKey = make("span", { class: "al-gold-key" }, make("i"), "gold link");
  map.node.lastChild.append(goldKey);
  const readout = make("p", { class: "al-readout", "aria-live": "polite" });
  host.append(
    make("div", { class: "al-maps al-headmaps" },
      make("div", {}, title, make("div", { class: "al-scroll" }, grid), scale.node, best),
      make("div", {}, map.node, readout)));

  let view = null; // what Python sent: weights, tokens, and numbers of each head
  let starts = []; // number of the first head of each layer
  let tops = []; // of each head's weights
  let heads = []; // of the grid: [layer][head]
  let shape = ""; // which heads the grid has
  let thumbs = null; // what the small maps show

  const size = () => view.n * view.n;
  const within = (i, count) => Math.max(0, Math.min(count - 1, i));
  const chosen = () => {
    const layer = within(model.get("layer"), view.layers.length);
    return [layer, within(model.get("head"), view.layers[layer])];
  };
  const relation = () => view.relations.find((r) => r.name === model.get("relation"));
  const digits = (value, count) => (value === null ? "–" : value.toFixed(count));

  const choose = (layer, head) => send({ layer, head });

  function addHead(layer, head) {
    const small = make("canvas", { class: "al-map", "aria-hidden": "true", width: 1, height: 1 });
    const numbers = ["H", "d", "g"].map((letter) => {
      const value = make("span");
      return { value, node: make("span", {}, make("i", {}, letter), value) };
    });
    const button = make("button", {
      type: "button", role: "radio", class: "al-head al-thumb", ...OWN_KEYS,
    }, make("span", { class: "al-thumb-map" }, small),
      make("span", { class: "al-thumb-numbers" }, ...numbers.map((n) => n.node)));
    button.addEventListener("click", () => choose(layer, head));
    return { button, numbers, paint: heatmap(small) };
  }

  function build() {
    const key = JSON.stringify(view.layers);
    if (key === shape) return;
    shape = key;
    const columns = Math.max(...view.layers);
    const hidden = (text, name) => make("span", { class: name, "aria-hidden": "true" }, text);
    heads = view.layers.map((count, layer) =>
      Array.from({ length: count }, (_, head) => addHead(layer, head)));
    grid.style.setProperty("--al-columns", columns);
    grid.replaceChildren(
      hidden("head", "al-headgrid-layer al-headgrid-corner"),
      ...Array.from({ length: columns }, (_, head) => hidden(String(head), "al-headgrid-head")),
      ...heads.flatMap((row, layer) => [
        hidden(String(layer), "al-headgrid-layer"),
        ...row.map((head) => head.button),
        ...Array.from({ length: columns - row.length }, () => make("span")),
      ]));
  }

  // A new text: where each head begins, and the largest weight of each.
  function read(next) {
    view = next;
    starts = view.layers.map((_, layer) =>
      view.layers.slice(0, layer).reduce((sum, count) => sum + count, 0));
    tops = view.entropy.map((_, i) => {
      let top = 0;
      for (let at = i * size(); at < (i + 1) * size(); at++)
        if (view.numbers[at] > top) top = view.numbers[at];
      return top;
    });
    build();
  }

  // A dot on every link: one picture, laid over all small maps.
  function dots(links) {
    const radius = Math.max(0.22, view.n / 40);
    const circles = links.map(([q, k]) =>
      `<circle cx="${k + 0.5}" cy="${q + 0.5}" r="${radius}"/>`).join("");
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${view.n} ${view.n}">` +
      `<g fill="#fff" stroke="#000" stroke-width="${view.n / 90}">${circles}</g></svg>`;
    return links.length ? `url("data:image/svg+xml,${encodeURIComponent(svg)}")` : "none";
  }

  function drawThumbs() {
    const colour = model.get("colour");
    const shown = relation();
    const links = shown && model.get("gold_links") ? shown.links : [];
    const now = [view, colour, shown, links.length];
    if (thumbs && now.every((part, i) => part === thumbs[i])) return;
    thumbs = now;
    const values = { entropy: view.entropy, distance: view.distance, gold: shown?.mass }[colour];
    const all = colour === "weights" ? tops : (values ?? []).filter((v) => v !== null);
    const top = colour === "entropy" ? 1 : roundUp(Math.max(0.001, ...all));
    heads.forEach((row, layer) => row.forEach((head, h) => {
      const i = starts[layer] + h;
      if (colour === "weights") head.paint(view.numbers, i * size(), view.n, view.n, top);
      else head.paint([values?.[i] ?? -1], 0, 1, 1, top);
      setText(head.numbers[0].value, digits(view.entropy[i], 2));
      setText(head.numbers[1].value, digits(view.distance[i], 1));
      head.numbers[2].node.hidden = !shown;
      if (shown) setText(head.numbers[2].value, digits(shown.mass[i], 2));
      setAttribute(head.button, "aria-label", `layer ${layer} head ${h}: ${describe(i, shown)}`);
    }));
    grid.style.setProperty("--al-dots", colour === "weights" ? dots(links) : "none");
    setText(label, HEAD_COLOURS[colour] ?? "weight");
    scale.show(top, colour === "weights" && view.numbers.some((w) => w < 0));
    setText(title, "All heads, layer by layer. H: entropy, 0 to 1; d: attended distance in tokens" +
      (shown ? "; g: gold mass." : "."));
    const none = colour === "gold" ? "This text has no such gold links." : "";
    setText(best, shown ? mostGold(shown) : none);
  }

  function describe(i, shown) {
    return `entropy ${digits(view.entropy[i], 2)} of its maximum, ` +
      `distance ${digits(view.distance[i], 1)} tokens` +
      (shown ? `, gold mass ${digits(shown.mass[i], 2)}` : "");
  }

  function mostGold(shown) {
    const most = shown.mass.indexOf(Math.max(...shown.mass));
    const layer = starts.findLastIndex((start) => start <= most);
    const count = shown.links.length;
    const name = shown.name === "all" ? "all relations" : shown.name;
    return `Most gold mass (${name}, ${count} ${count === 1 ? "link" : "links"}): layer ` +
      `${layer} head ${most - starts[layer]}, ${shown.mass[most].toFixed(2)}; a uniform head has ` +
      `${shown.uniform.toFixed(2)}.`;
  }

  function words() {
    const { query, key } = map;
    if (query === null || key === null) return map.words() + goldWords(query);
    return `${map.cellWords(query, key)} · strongest: ${map.strongest(query)}${goldWords(query)}`;
  }

  function goldWords(query) {
    const links = query === null || !model.get("gold_links") ? [] : relation()?.links ?? [];
    const keys = links.filter(([q]) => q === query).map(([, k]) => k);
    if (!keys.length) return "";
    return ` · gold: ${keys.map((k) =>
      `${map.quoted(k)} ${Math.max(0, map.weight(query, k)).toFixed(2)}`).join(", ")}`;
  }

  function drawGold() {
    const links = (model.get("gold_links") && relation()?.links) || [];
    goldKey.hidden = !links.length;
    const key = JSON.stringify([view.n, links]);
    if (gold.__key === key) return;
    gold.__key = key;
    gold.replaceChildren(...links.map(([q, k]) => {
      const box = make("i");
      box.style.cssText = `left: ${(100 * k) / view.n}%; top: ${(100 * q) / view.n}%; ` +
        `width: ${100 / view.n}%; height: ${100 / view.n}%`;
      return box;
    }));
  }

  function drawDetail() {
    map.drawDetail();
    band.hidden = map.query === null || map.key === null;
    if (!band.hidden) {
      band.style.top = `${(100 * map.query) / view.n}%`;
      band.style.height = `${100 / view.n}%`;
    }
    setText(readout, words());
    say();
  }

  const say = whenQuiet(() => {
    const [layer, head] = chosen();
    setAttribute(map.canvas, "aria-label",
      `Attention weights of layer ${layer} head ${head}${view.where}, ${view.n} tokens; ` +
      `${describe(starts[layer] + head, relation())}. ` +
      `${map.query === null ? "" : words()} ${view.notes.join(" ")}`);
  }, 200);

  function draw(next) {
    if (next !== view) read(next);
    drawThumbs();
    const [layer, head] = chosen();
    heads.forEach((row, l) => row.forEach(({ button }, h) => {
      const on = l === layer && h === head;
      setAttribute(button, "aria-checked", String(on));
      button.tabIndex = on ? 0 : -1;
    }));
    const i = starts[layer] + head;
    const start = i * size();
    const masked = view.numbers.subarray(start, start + size()).some((w) => w < 0);
    map.draw(view.numbers, start, view.tokens, roundUp(tops[i]), masked);
    setText(map.caption, `layer ${layer} head ${head}${view.where}: ${describe(i, relation())}`);
    drawGold();
    drawDetail();
  }
  const repaint = onceAFrame(() => view && draw(view));
  const repaintDetail = onceAFrame(() => view && drawDetail());

  grid.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (!step || !view) return;
    event.preventDefault();
    const [layer, head] = chosen();
    const to = within(layer + step[0], view.layers.length);
    const next = within(head + step[1], view.layers[to]);
    choose(to, next);
    heads[to][next].button.focus();
  });
  const local = ["layer", "head", "colour", "relation", "gold_links"].map((n) => `change:${n}`);
  for (const event of local) model.on(event, repaint);
  return {
    draw,
    close() {
      for (const event of local) model.off(event, repaint);
    },
  };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Heads Explorer", headsPicture),
};
