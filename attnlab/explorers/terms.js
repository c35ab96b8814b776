// The Terms Explorer: the terms of a head's scores small, each with a switch, and the weights that
// the chosen ones make, large.

function termsPicture(model, host, send) {
  const map = tokenMap("Weights.", () => repaintDetail());
  const readout = make("p", { class: "al-readout", "aria-live": "polite" });
  const title = make("p", { class: "al-heads-title" });
  const grid = make("div", { class: "al-terms al-boxes" });
  const scale = legend("score");
  const moved = make("p", { class: "al-best" });
  host.append(
    make("div", { class: "al-maps al-even" },
      make("div", {}, map.node, readout),
      make("div", {}, title, grid, scale.node, moved)));

  let view = null; // what Python sent: terms of all heads, their shares
  let small = []; // the maps of the terms
  let weights = new Float32Array(0);

  const head = () => Math.max(0, Math.min(view.heads - 1, model.get("head")));
  const keep = () => view.switches.map((name) => model.get(name));
  const seen = (query, key) => !view.causal || key <= query;
  const start = (term) => (term * view.heads + head()) * view.n * view.n;
  const percent = (share) =>
    share === null ? "–" : `${String(Math.round(100 * share) || 0).replace("-", "−")} %`;

  function addTerm(name, control) {
    const canvas = make("canvas", { class: "al-map", "aria-hidden": "true", width: 1, height: 1 });
    const bar = make("i");
    const share = make("span");
    const button = make("button", { type: "button", class: "al-head al-term", ...OWN_KEYS },
      make("span", { class: "al-term-name" }, name),
      make("span", { class: "al-term-map" }, canvas),
      make("span", { class: "al-term-share" }, make("span", { class: "al-term-bar" }, bar), share));
    button.addEventListener("click", () => send({ [control]: !model.get(control) }));
    return { name, button, bar, share, paint: heatmap(canvas) };
  }

  // The softmax of the terms that are on, row by row; −1 marks a masked cell.
  function weightsOf(on) {
    const n = view.n;
    const starts = on.flatMap((kept, term) => (kept ? [start(term)] : []));
    const found = new Float32Array(n * n).fill(-1);
    for (let q = 0; q < n; q++) {
      const last = view.causal ? q : n - 1;
      const row = new Float64Array(last + 1);
      for (const at of starts)
        for (let k = 0; k <= last; k++) row[k] += view.numbers[at + q * n + k];
      let top = -Infinity;
      for (const score of row) if (score > top) top = score;
      let sum = 0;
      for (let k = 0; k <= last; k++) sum += row[k] = Math.exp(row[k] - top);
      for (let k = 0; k <= last; k++) found[q * n + k] = row[k] / sum;
    }
    return found;
  }

  // A term as it is shown: its row means taken off if wanted.
  function shown(term) {
    const n = view.n;
    const at = start(term);
    const found = view.numbers.slice(at, at + n * n);
    if (!model.get("centred")) return found;
    for (let q = 0; q < n; q++) {
      const last = view.causal ? q : n - 1;
      let mean = 0;
      for (let k = 0; k <= last; k++) mean += found[q * n + k] / (last + 1);
      for (let k = 0; k <= last; k++) found[q * n + k] -= mean;
    }
    return found;
  }

  function drawTerms(on) {
    if (small.length !== view.names.length) {
      small = view.names.map((name, i) => addTerm(name, view.switches[i]));
      grid.replaceChildren(...small.map((term) => term.button));
    }
    const n = view.n;
    const maps = small.map((_, term) => shown(term));
    let top = 0;
    for (const numbers of maps)
      for (let i = 0; i < n * n; i++)
        if (seen(Math.floor(i / n), i % n)) top = Math.max(top, Math.abs(numbers[i]));
    top = roundUp(top);
    const shares = view.shares[model.get("centred") ? "centred" : "raw"];
    small.forEach((term, i) => {
      // The painter takes 0 … 2 top, and negative for masked.
      const shifted = maps[i].map((value, at) =>
        (seen(Math.floor(at / n), at % n) ? Math.max(0, value + top) : -1));
      term.paint(shifted, 0, n, n, 2 * top);
      const share = shares[i][head()];
      setText(term.share, percent(share));
      term.bar.style.width = `${Math.min(100, Math.abs(100 * (share ?? 0)))}%`;
      term.bar.className = share < 0 ? "al-against" : "";
      setAttribute(term.button, "aria-pressed", String(on[i]));
      setAttribute(term.button, "aria-label",
        `${term.name}, ${on[i] ? "on" : "off"}, share ${percent(share)}`);
    });
    scale.show(top, view.causal, -top);
    setText(title, "The terms of the scores (query–key), on one scale, and their shares of the " +
      "variance of the scores" + (model.get("centred") ? ", row means taken off" : "") +
      ". A hatched bar works against the others.");
  }

  const names = (on) => view.names.filter((_, i) => on[i]).join(" + ") || "no term: all keys alike";

  function drawDetail() {
    map.drawDetail();
    setText(readout, map.words());
    say();
  }

  const say = whenQuiet(() => {
    setAttribute(map.canvas, "aria-label",
      `Weights of head ${head()}${view.where}, ${view.n} tokens, from ${names(keep())}. ` +
      `${moved.textContent} ${map.query === null ? "" : map.words()} ${view.notes.join(" ")}`);
  }, 200);

  function draw(next) {
    view = next;
    const on = keep();
    weights = weightsOf(on);
    const whole = weightsOf(on.map(() => true));
    let change = 0;
    let top = 0;
    for (let i = 0; i < weights.length; i++) {
      change += Math.abs(weights[i] - whole[i]) / 2 / view.n;
      if (weights[i] > top) top = weights[i];
    }
    map.draw(weights, 0, view.tokens, roundUp(top), view.causal);
    setText(map.caption, `head ${head()}${view.where}: ${names(on)}`);
    setText(moved, `${percent(change)} of the weight lies on other keys than with all five terms.`);
    drawTerms(on);
    drawDetail();
  }
  const repaint = onceAFrame(() => view && draw(view));
  const repaintDetail = onceAFrame(() => view && drawDetail());

  const local = ["head", "centred", "cc", "cp", "pc", "pp", "rest"].map((n) => `change:${n}`);
  for (const event of local) model.on(event, repaint);
  return {
    draw,
    close() {
      for (const event of local) model.off(event, repaint);
    },
  };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Terms Explorer", termsPicture),
};
