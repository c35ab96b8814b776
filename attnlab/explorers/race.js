// The Race Explorer: a line and a band for each encoding, and a table of the same numbers.

function racePicture(model, host) {
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

  const line = (i, part) => {
    const n = view.x.length;
    return view.numbers.subarray((3 * i + part) * n, (3 * i + part + 1) * n);
  };

  function words() {
    if (at === null) return "Point at the plot to read values, or use the arrow keys on it.";
    const told = view.names
      .map((name, i) => [name, line(i, 0)[at]])
      .filter(([, y]) => !Number.isNaN(y))
      .map(([name, y]) => `${name} ${y.toFixed(2).replace("-", "−")}`);
    return `${view.xLabel}, ${view.x[at]}: ${told.join(", ")}`;
  }

  let listed = "";
  function draw(next) {
    view = next;
    if (at !== null && at >= view.x.length) at = null;
    const [low, high] = view.y;
    const room = 0.03 * (high - low);
    setText(caption, `${view.yLabel} against ${view.xLabel}`);
    plot.draw({
      lines: view.names.map((_, i) => ({
        x: view.x, y: line(i, 0), strong: true, colour: view.looks[i][0], dash: view.looks[i][1],
        band: view.band ? { low: line(i, 1), high: line(i, 2) } : null,
      })),
      x: [0, view.x[view.x.length - 1]], y: [low - room, high + room],
      xLabel: view.xLabel, yLabel: view.yLabel, borders: view.borders,
      marked: at === null ? null : view.x[at],
    });
    setText(readout, words());
    const rows = JSON.stringify([view.names, view.rows, view.columns]);
    if (rows !== listed) {
      listed = rows;
      header.replaceChildren(make("th", { scope: "col" }, "encoding"),
        ...view.columns.map((x) => make("th", { scope: "col" }, `at ${x}`)));
      body.replaceChildren(...view.names.map((name, i) =>
        make("tr", {}, make("th", { scope: "row" }, lineSwatch(...view.looks[i]), ` ${name}`),
          ...view.rows[i].map((cell) => make("td", {}, cell)))));
    }
    describe();
  }
  const repaint = onceAFrame(() => view && draw(view));
  const describe = whenQuiet(() => plot.describe(
    `${view.yLabel} against ${view.xLabel}: ${view.names.join(", ")}. The table below has the ` +
    "numbers."), 200);
  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Race Explorer", racePicture),
};
