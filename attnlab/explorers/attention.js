// The Attention Explorer: all heads small, one enlarged with its tokens, arcs between tokens.

// The one piece of mathematics in the page, so that temperature and mask follow the hand without
// asking the kernel: weights = softmax(scores / temperature) over the keys a query may see. Scores
// come from attnlab; a test holds the result equal to attnlab.attention_weights. Masked cells
// become -1, and rows with nothing to see stay 0.
function attend(scores, heads, n, temperature, causal, weights) {
  const entropy = new Float64Array(heads);
  let top = 0;
  let most = 0;
  let masked = false;
  for (let row = 0; row < heads * n; row++) {
    const start = row * n;
    const query = row % n;
    const last = causal ? query : n - 1;
    let best = -Infinity;
    let seen = 0;
    for (let k = 0; k <= last; k++) {
      const score = scores[start + k];
      if (score === -Infinity) continue;
      seen++;
      if (score > best) best = score;
    }
    let sum = 0;
    for (let k = 0; k <= last; k++)
      if (scores[start + k] !== -Infinity)
        sum += weights[start + k] = Math.exp((scores[start + k] - best) / temperature);
    let nats = 0;
    for (let k = 0; k < n; k++) {
      if (k > last || scores[start + k] === -Infinity) {
        weights[start + k] = -1;
        continue;
      }
      const w = (weights[start + k] /= sum);
      if (w > top) top = w;
      if (w > 0) nats -= w * Math.log(w);
    }
    entropy[Math.floor(row / n)] += nats / n;
    if (seen) most += Math.log(seen) / (heads * n);
    masked ||= seen < n;
  }
  return { weights, entropy, top: roundUp(top), most, masked };
}

function attentionPicture(model, host, send) {
  const grid = make("div", {
    class: "al-heads", role: "radiogroup", "aria-label": "Head to enlarge",
  }, make("p", { class: "al-heads-title" }, "All heads: number, and entropy in nats"));
  const map = tokenMap("Enlarged head.", () => repaintDetail());
  const readout = make("p", { class: "al-readout", "aria-live": "polite" });
  const arcs = arcDiagram((token) => map.point(token, null));
  host.append(make("div", { class: "al-maps" }, grid, map.node), readout, arcs.node);

  const heads = [];
  let view = null; // what Python sent: scores, tokens
  let now = null; // what is shown: weights and their statistics
  let buffer = new Float32Array(0);

  const chosen = () => Math.max(0, Math.min(model.get("head"), view.heads - 1));

  function addHead() {
    const index = heads.length;
    const small = make("canvas", { class: "al-map", "aria-hidden": "true", width: 1, height: 1 });
    const entropy = make("span", { class: "al-entropy" });
    const fill = make("i");
    const button = make("button", {
      type: "button", role: "radio", class: "al-head", "aria-label": `head ${index}`, ...OWN_KEYS,
    },
      small,
      make("span", { class: "al-head-caption" }, make("b", {}, String(index)), entropy),
      make("span", { class: "al-bar", "aria-hidden": "true" }, fill));
    button.addEventListener("click", () => choose(index));
    grid.append(button);
    heads.push({ button, entropy, fill, paint: heatmap(small) });
  }

  const choose = (head) => send({ head });

  // Text and arcs cost more than the maps: with many tokens they follow a drag less often.
  function drawDetail() {
    const h = chosen();
    setText(map.caption, `head ${h}${view.where}: entropy ${now.entropy[h].toFixed(2)} of at most ` +
      `${now.most.toFixed(2)} nats`);
    for (let i = 0; i < view.heads; i++) {
      setText(heads[i].entropy, now.entropy[i].toFixed(2));
      const share = now.most ? now.entropy[i] / now.most : 0;
      heads[i].fill.style.transform = `scaleX(${share.toFixed(3)})`;
    }
    map.drawDetail();
    setText(readout, map.words());
    arcs.draw(now.weights, h, view, map.query);
    describe();
  }

  const describe = whenQuiet(() => {
    const h = chosen();
    setAttribute(map.canvas, "aria-label",
      `Attention weights of head ${h} of ${view.heads}${view.where}, ${view.n} tokens; entropy ` +
      `${now.entropy[h].toFixed(2)} nats. ${map.query === null ? "" : map.words()} ` +
      view.notes.join(" "));
  }, 200);

  function draw(next) {
    view = next;
    const { n } = view;
    const temperature = model.get("temperature");
    if (!(temperature > 0)) return; // Python says so; the picture stays
    if (buffer.length !== view.numbers.length) buffer = new Float32Array(view.numbers.length);
    now = attend(view.numbers, view.heads, n, temperature, model.get("causal"), buffer);
    const h = chosen();
    while (heads.length < view.heads) addHead();
    grid.hidden = view.heads === 1;
    grid.style.setProperty("--al-columns", Math.min(4, Math.ceil(Math.sqrt(view.heads))));
    heads.forEach((head, i) => {
      head.button.hidden = i >= view.heads;
      if (head.button.hidden) return;
      head.paint(now.weights, i * n * n, n, n, now.top);
      setAttribute(head.button, "aria-checked", String(i === h));
      head.button.tabIndex = i === h ? 0 : -1;
    });
    map.draw(now.weights, h * n * n, view.tokens, now.top, now.masked);
    if (n <= 16) drawDetail();
    else detailSoon();
  }
  const repaint = onceAFrame(() => view && draw(view));
  const repaintDetail = onceAFrame(() => now && drawDetail());
  const detailSoon = nowAndThen(drawDetail, 60, 200);

  grid.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !view) return;
    event.preventDefault();
    const next = (chosen() + step + view.heads) % view.heads;
    choose(next);
    heads[next].button.focus();
  });
  const local = ["change:temperature", "change:causal", "change:head"];
  for (const event of local) model.on(event, repaint);
  return {
    draw,
    close() {
      for (const event of local) model.off(event, repaint);
    },
  };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Attention Explorer", attentionPicture),
};
