// The Memory Explorer: lines over the length of a text, both axes logarithmic, and a table.

function memoryPicture(model, host) {
  const caption = make("p", { class: "al-caption" });
  let view = null;
  let at = null; // number of the point under the pointer
  const plot = linePlot((x) => {
    const near = (best, v, i) => (Math.abs(v - x) < Math.abs(view.x[best] - x) ? i : best);
    at = x === null || !view ? null : view.x.reduce(near, 0);
    repaint();
  });
  const readout = make("p", { class: "al-readout", "aria-live": "polite" });
  const header = make("tr", {});
  const body = make("tbody");
  const table = make("div", { class: "al-boxes" },
    make("table", { class: "al-race" }, make("thead", {}, header), body));
  host.append(caption, plot.node, readout, table);

  const line = (i) => view.numbers.subarray(i * view.x.length, (i + 1) * view.x.length);
  const units = (value, list) => {
    const [size, unit] = list.find(([size]) => value >= size) ?? list[list.length - 1];
    return `${Number((value / size).toPrecision(3))}${unit}`;
  };
  const tokens = (p) => units(2 ** p, [[2 ** 20, "M"], [2 ** 10, "k"], [1, ""]]);
  const bytes = [[2 ** 40, " TiB"], [2 ** 30, " GiB"], [2 ** 20, " MiB"], [2 ** 10, " KiB"]];
  const amount = (p) => view.yUnit === "bytes"
    ? units(2 ** p, bytes)
    : `${Number((2 ** p).toPrecision(2))} ${view.yUnit}`;

  function marks([low, high], most) {
    const step = [1, 2, 4, 5, 10].find((s) => (high - low) / s <= most) ?? 10;
    const found = [];
    for (let p = Math.ceil(low / step) * step; p <= high; p += step) found.push(p);
    return found;
  }

  function words() {
    if (at === null) return "Point at the plot to read values, or use the arrow keys on it.";
    const told = view.names
      .map((name, i) => [name, line(i)[at]])
      .filter(([, y]) => !Number.isNaN(y))
      .map(([name, y]) => `${name} ${amount(y)}`);
    return `${tokens(view.x[at])} tokens: ${told.join(", ")}`;
  }

  let listed = "";
  function draw(next) {
    view = next;
    if (at !== null && at >= view.x.length) at = null;
    setText(caption, `${view.told}.` + (view.border === null ? "" :
      ` Dotted across: ${view.borderText} of memory. Dotted upright: the text.`));
    const x = [view.x[0], view.x[view.x.length - 1]];
    const limit = view.border === null ? [] :
      [{ x, y: [view.border, view.border], dash: [2, 3], strong: false }];
    plot.draw({
      lines: [...limit, ...view.names.map((_, i) => ({
        x: view.x, y: line(i), strong: true, colour: view.looks[i][0], dash: view.looks[i][1],
      }))],
      x, y: view.y, xLabel: "tokens", yLabel: view.yLabel, borders: [view.at],
      xTicks: marks(x, Math.min(9, plot.node.clientWidth / 60)), xText: tokens,
      yTicks: marks(view.y, 8), yText: amount,
      marked: at === null ? null : view.x[at],
    });
    setText(readout, words());
    const rows = JSON.stringify([view.columns, view.rows, view.names, view.looks]);
    if (rows !== listed) {
      listed = rows;
      header.replaceChildren(...view.columns.map((name) => make("th", { scope: "col" }, name)));
      body.replaceChildren(...view.rows.map(([name, ...cells]) => {
        const i = view.names.indexOf(name);
        return make("tr", {}, make("th", { scope: "row" }, lineSwatch(...view.looks[i]), ` ${name}`),
          ...cells.map((cell) => make("td", {}, cell)));
      }));
    }
    describe();
  }
  const repaint = onceAFrame(() => view && draw(view));
  const describe = whenQuiet(() => plot.describe(
    `${view.told}: ${view.names.join(", ")}. The table below has the numbers.`), 200);
  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Memory Explorer", memoryPicture),
};
