// The Pruning Explorer: accuracy against heads kept, and the heads as buttons.

function pruningPicture(model, host, send) {
  const fact = make("p", { class: "al-readout", "aria-live": "polite" });
  const lines = linePlot((x) => {
    pointed = x === null || !view ? null : Math.max(0, Math.min(view.n, Math.round(x)));
    repaint();
  });
  lines.node.firstChild.style.height = "330px";
  const key = make("p", { class: "al-notes" });
  const title = make("p", { class: "al-caption" });
  const buttons = make("div", {
    class: "al-pruning-heads", role: "group", "aria-label": "Heads: pressed ones are kept",
  });
  const body = make("tbody");
  const column = make("th", { scope: "col" });
  const tunedColumn = make("th", { scope: "col" }, "fine-tuned");
  const table = make("table", { class: "al-pruning-table" },
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "order"), column, tunedColumn)),
    body);
  host.append(fact, make("div", { class: "al-maps al-even" },
    make("div", {}, lines.node, key),
    make("div", { class: "al-boxes" }, title, buttons, table)));

  let view = null;
  let pointed = null; // a number of heads under the pointer
  let built = "";

  function toggle(h) {
    // A click before the last one was answered must not undo it.
    const shown = view.random ? 2 ** view.n - 1 : view.choice;
    const before = model.get("criterion") === "own" ? model.get("own") : shown;
    send({ own: before ^ (1 << h), criterion: "own" });
  }

  function build() {
    const layout = JSON.stringify(view.heads);
    if (layout === built) return;
    built = layout;
    buttons.style.setProperty("--al-columns", Math.max(...view.heads.map(([, h]) => h)) + 1);
    buttons.replaceChildren(...view.heads.map(([layer, h], i) => {
      const bar = make("span", { class: "al-pruning-bar" }, make("i"));
      const node = make("button", { type: "button", class: "al-pruning-head", ...OWN_KEYS },
        make("b", {}, `${layer}.${h}`), bar, make("small"));
      node.style.gridRow = layer + 1;
      node.style.gridColumn = h + 1;
      node.addEventListener("click", () => toggle(i));
      return node;
    }));
  }

  function draw(next) {
    view = next;
    const { n, kept, criterion, rows, choice } = view;
    build();
    setText(fact, view.fact);
    const at = pointed ?? kept;
    const dots = [{ x: kept, y: [view.accuracy], strong: true }];
    for (const [name, k, y] of view.tuned) dots.push({ x: k, y: [y], strong: name === criterion });
    lines.draw({
      lines: [...rows.map(([name, , y]) => ({
        x: 0, y, strong: name === criterion, dash: name === "best" || name === "worst" ? [6, 4] : [],
      })), ...dots],
      x: [-0.2, n + 0.2], y: [0, 1.04], xLabel: "heads kept", yLabel: "accuracy", marked: at,
      xTicks: Array.from({ length: n + 1 }, (_, k) => k),
    });
    setText(key, "Thick: the order chosen. Thin: the others. Dashed: the best and the worst of all " +
      `choices.${view.tuned.length ? " Small dots: after fine-tuning." : ""}`);
    setText(title, `Heads (layer.head), bars: ${view.scoreName}`);
    [...buttons.children].forEach((node, i) => {
      const stays = Boolean(choice >> i & 1);
      setAttribute(node, "aria-pressed", view.random ? "mixed" : String(stays));
      node.querySelector("i").style.height = `${100 * view.scores[i]}%`;
      const place = view.order.indexOf(i);
      const words = view.random ? "" : stays ? "kept" : place < 0 ? "out" : `out ${place + 1}`;
      setText(node.querySelector("small"), words || "\u00a0");
      setAttribute(node, "aria-label",
        `Head ${view.heads[i].join(".")}, ${words || "by chance"}, ${view.scoreName} ` +
        `${Math.round(100 * view.scores[i])} % of the largest`);
    });
    setText(column, `${at} of ${n} heads`);
    tunedColumn.hidden = !view.tuned.length;
    const own = view.own && at === kept ? [["own", "your own choice", null]] : [];
    body.replaceChildren(...[...rows, ...own].map(([name, text, y]) => {
      const value = y ? y[at] : view.accuracy;
      const tuned = view.tuned.find(([of, k]) => of === name && k === at);
      return make("tr", { class: name === criterion ? "al-chosen" : "" },
        make("th", { scope: "row" }, text), make("td", {}, value.toFixed(2)),
        make("td", { hidden: !view.tuned.length }, tuned ? tuned[2].toFixed(2) : ""));
    }));
    describe();
  }
  const repaint = onceAFrame(() => view && draw(view));
  const describe = whenQuiet(() => {
    const curve = view.rows.find(([name]) => name === view.criterion);
    const told = curve ? ` ${curve[1]}: ${curve[2].map((y, k) => `${k} heads ${y.toFixed(2)}`).join(", ")}.` : "";
    lines.describe(`Accuracy against heads kept.${told} ${view.fact}`);
  }, 200);
  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Pruning Explorer", pruningPicture),
};
