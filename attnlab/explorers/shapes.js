// The Shapes Explorer: matrices as boxes drawn to scale, their shapes, parameters and FLOPs.

const LEAST = 4; // pixels: thinner boxes could not be seen

function shapesPicture(model, host) {
  const picture = make("div", { class: "al-boxes", role: "img" });
  const ruler = make("i");
  const ruled = make("span");
  const parameters = make("p", { class: "al-parameters" });
  const table = make("tbody");
  host.append(picture,
    make("p", { class: "al-scale" }, ruler, ruled),
    parameters,
    make("table", { class: "al-costs" },
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "FLOPs"),
        make("th", { scope: "col" }, "number"), make("th", { scope: "col" }, "share"))),
      table));

  function box([name, rows, columns, stripes], scale, heads) {
    const width = Math.max(LEAST, columns * scale);
    const height = Math.max(LEAST, rows * scale);
    const node = make("div", { class: `al-box al-box-${stripes || "plain"}` });
    node.style.width = `${width}px`;
    node.style.height = `${height}px`;
    node.style.setProperty("--al-one", `${(stripes === "rows" ? height : width) / heads}px`);
    return make("div", { class: "al-matrix" }, node,
      make("b", {}, name), make("span", {}, `${rows} × ${columns}`));
  }

  let view = null;

  function draw(next) {
    view = next;
    // The seven boxes of the first line fit beside each other. The scale changes only when the
    // largest side passes a power of two: else one slider would seem to move every box.
    const side = Math.max(60, Math.min(136, (host.clientWidth - 140) / 7));
    const most = 2 ** Math.ceil(Math.log2(view.largest));
    const scale = side / most;
    picture.replaceChildren(...view.lines.map(([title, items]) =>
      make("div", { class: "al-line" }, make("p", {}, title),
        make("div", { class: "al-row" }, ...items.map((item) =>
          typeof item === "string"
            ? make("span", { class: "al-operator" }, item)
            : box(item, scale, view.heads))))));
    const say = (item) =>
      typeof item === "string" ? item : `${item[0]} (${item[1]} by ${item[2]})`;
    setAttribute(picture, "aria-label",
      view.lines.map(([title, items]) => `${title} ${items.map(say).join(" ")}`).join(" "));
    ruler.style.width = `${side / 2}px`;
    setText(ruled, `= ${most / 2} rows or columns`);
    setText(parameters, `Parameters: ${view.parameters}`);
    const total = view.flops.at(-1)[1];
    table.replaceChildren(...view.flops.map(([name, number]) => {
      const bar = make("i");
      bar.style.width = `${(100 * number) / total}%`;
      return make("tr", {}, make("th", { scope: "row" }, name),
        make("td", {}, number.toLocaleString("en")),
        make("td", { class: "al-share" }, bar,
          make("span", {}, `${((100 * number) / total).toFixed(1)} %`)));
    }));
  }
  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Shapes Explorer", shapesPicture),
};
