// The Mixing Explorer: one head's weights, and beside them what its scores are made of.

function mixingPicture(model, host) {
  const map = tokenMap("Weights.", () => view && detail());
  const readout = make("p", { class: "al-readout", "aria-live": "polite" });
  map.node.append(readout);

  const body = make("tbody");
  const energy = make("p", { class: "al-parameters" });
  const ratio = make("p", { class: "al-notes" });
  const shares = make("div", { class: "al-boxes" },
    make("table", { class: "al-shares" },
      make("thead", {}, make("tr", {},
        make("th", { scope: "col", colSpan: 3 }, "Share of the variance of the scores (query–key)"))),
      body),
    energy, ratio);
  host.append(make("div", { class: "al-maps al-even" }, map.node, shares));

  let view = null;

  function detail() {
    map.drawDetail();
    setText(readout, map.words());
  }

  const percent = (share) => `${String(Math.round(100 * share) || 0).replace("-", "−")} %`;

  const describe = whenQuiet(() => {
    const told = view.terms.map((t, i) => `${t} ${percent(view.numbers[view.n * view.n + i])}`);
    setAttribute(map.canvas, "aria-label", `Weights of head 0, layer ${view.layer}, ${view.n} tokens; ` +
      `${view.way}. Shares of the variance of the scores: ${told.join(", ")}. ${map.words()}`);
  }, 200);

  function draw(next) {
    view = next;
    const { n, numbers } = view;
    const top = numbers.subarray(0, n * n).reduce((a, b) => Math.max(a, b), 0);
    map.draw(numbers, 0, view.tokens, roundUp(top), false);
    setText(map.caption, `Head 0, layer ${view.layer}: ${view.way}`);
    body.replaceChildren(...view.terms.map((term, i) => {
      const share = numbers[n * n + i];
      const bar = make("i", { class: share < 0 ? "al-against" : "" });
      bar.style.width = `${Math.min(100, Math.abs(100 * share))}%`;
      return make("tr", {}, make("th", { scope: "row" }, term),
        make("td", { class: "al-share-bar" }, bar), make("td", {}, percent(share)));
    }));
    const [word, place] = view.energy;
    setText(energy, `Energy: words ${word.toLocaleString("en")}, ` +
      `positions ${place.toLocaleString("en")}`);
    setText(ratio, "Mean squared length of what this layer reads, before LayerNorm. A share below " +
      "0 (hatched) works against the others.");
    detail();
    describe();
  }

  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Mixing Explorer", mixingPicture),
};
