// The Sharing Explorer: lines from query heads to key/value heads, what each head sees, how far
// that reaches through the layers, and the costs.

function sharingPicture(model, host) {
  const SVG = "http://www.w3.org/2000/svg";
  function draw_(tag, attributes, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }
  const colour = (share) => {
    const pixel = COLOURS[colourIndex(share, 1)]; // bytes r, g, b, opaque
    const [r, g, b] = new Uint8Array(Uint32Array.of(pixel).buffer);
    return `rgb(${r}, ${g}, ${b})`;
  };

  const links = make("div", { class: "al-boxes al-sharing", role: "img" });
  const patterns = make("div", { class: "al-heads al-patterns" });
  const rows = axis("rows");
  const reach = make("canvas", { class: "al-map", role: "img", width: 1, height: 1 });
  const plot = make("div", { class: "al-plot" }, reach);
  const columns = axis("columns");
  const caption = make("p", { class: "al-caption" });
  const told = make("p", { class: "al-readout", "aria-live": "polite" });
  const body = make("tbody");
  const whole = make("th", { scope: "col" }, "beside");
  host.append(
    make("div", { class: "al-maps al-even" },
      make("div", {},
        make("p", { class: "al-caption" }, "Which key/value head each query head reads"), links,
        make("p", { class: "al-caption" }, "What each head sees (a row for each query)"),
        patterns),
      make("div", {}, caption,
        make("div", { class: "al-axes al-reach" },
          make("span", { class: "al-title-rows" }, "layers"), rows.node, plot, columns.node,
          make("span", { class: "al-title-columns" }, "token")),
        told,
        make("div", { class: "al-boxes" },
          make("table", { class: "al-costs al-short" },
            make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "cost"),
              make("th", { scope: "col" }, "here"), whole, make("th", { scope: "col" }, "share"))),
            body)))));

  const heads = [];
  const paintReach = heatmap(reach);
  let view = null;

  function drawLinks() {
    const width = Math.max(200, links.clientWidth);
    const svg = draw_("svg", { viewBox: `0 0 ${width} 120`, "aria-hidden": "true" });
    const query = (i) => ((i + 0.5) * width) / view.heads;
    const key = (i) => ((i + 0.5) * width) / view.kv;
    view.reads.forEach((kv, i) =>
      svg.append(draw_("line", { x1: query(i), y1: 24, x2: key(kv), y2: 88 })));
    view.reads.forEach((kv, i) => svg.append(draw_("text", { x: query(i), y: 18 }, `Q${i}`)));
    for (let kv = 0; kv < view.kv; kv++) {
      svg.append(draw_("rect", {
        x: key(kv) - 14, y: 84, width: 28, height: 12, fill: colour((kv + 0.5) / view.kv),
      }));
      svg.append(draw_("text", { x: key(kv), y: 114 }, `KV${kv}`));
    }
    links.replaceChildren(svg);
    setAttribute(links, "aria-label",
      view.reads.map((kv, i) => `Query head ${i} reads key/value head ${kv}.`).join(" "));
  }

  function draw(next) {
    view = next;
    const { n, numbers } = view;
    drawLinks();
    while (heads.length < view.heads) {
      const canvas = make("canvas", { class: "al-map", role: "img", width: 1, height: 1 });
      const label = make("span", { class: "al-head-caption" });
      const node = make("div", { class: "al-head" }, label, canvas);
      heads.push({ canvas, label, node, paint: heatmap(canvas) });
    }
    patterns.replaceChildren(...heads.slice(0, view.heads).map((head) => head.node));
    patterns.style.setProperty("--al-columns", view.heads > 8 ? 8 : 4);
    heads.slice(0, view.heads).forEach((head, i) => {
      head.paint(numbers, i * n * n, n, n, 1);
      setText(head.label, view.heads > 8 ? `Q${i}` : `Q${i}: ${view.windows[i]}`);
      setAttribute(head.canvas, "aria-label",
        `Query head ${i} reads key/value head ${view.reads[i]} and sees ${view.windows[i]}.`);
    });
    paintReach(numbers, view.heads * n * n, view.layers, n, 1);
    plot.style.setProperty("--al-rows", view.layers);
    setText(caption, `Bright: the tokens that token ${view.from} has heard of`);
    const cell = plot.clientWidth / n;
    rows.show(view.reached.map((_, i) => String(i + 1)), 18);
    columns.show(Array.from({ length: n }, (_, i) => String(i)), cell);
    setText(told, `${view.reached.join(", ")} of the ${n} tokens`);
    setAttribute(reach, "aria-label",
      `Token ${view.from} has heard of ${view.reached.join(", ")} tokens after 1 to ` +
      `${view.layers} layers.`);
    body.replaceChildren(...view.costs.map(([name, here, all, share]) =>
      make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, here),
        make("td", {}, all),
        make("td", {}, share === null ? "–" : `${Number(share.toPrecision(3))} %`))));
  }
  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Sharing Explorer", sharingPicture),
};
