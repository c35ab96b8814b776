// The Cost Explorer: the roofline of a device with the parts of a layer on it, and a table.

function costPicture(model, host) {
  const caption = make("p", { class: "al-caption" });
  const canvas = make("canvas", { class: "al-roof", role: "img" });
  const body = make("tbody");
  const facts = make("ul", { class: "al-totals" });
  const timing = make("p", { class: "al-timing", "aria-live": "polite" });
  const heads = ["part", "FLOPs", "bytes", "FLOP/byte", "limit", "time"];
  host.append(
    make("div", { class: "al-maps al-even al-cost" },
      make("div", {}, caption, canvas, timing),
      make("div", { class: "al-boxes" },
        make("table", { class: "al-costs al-parts" },
          make("thead", {}, make("tr", {},
            ...heads.map((name) => make("th", { scope: "col" }, name)))),
          body),
        facts)));
  let view = null;
  const sides = { left: 62, right: 16, top: 12, bottom: 44 };

  // 1e9 -> "1 G"
  function short(value) {
    for (const [size, unit] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (value >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
    return String(Number(value.toPrecision(3)));
  }

  function drawRoof() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const style = getComputedStyle(host);
    const colour = (name) => style.getPropertyValue(name);
    const inner = { w: width - sides.left - sides.right, h: height - sides.top - sides.bottom };
    const log = Math.log10;
    const shown = [view.intensity, view.ridge, ...view.points.map((point) => point[1])].map(log);
    const x0 = Math.floor(Math.min(-1, ...shown));
    const x1 = Math.ceil(Math.max(3, ...shown) + 0.2);
    const roof = (x) => Math.min(log(view.peak), x + log(view.copy));
    const y1 = log(view.peak) + 0.5;
    const y0 = Math.min(roof(x0), view.achieved ? log(view.achieved) - 0.2 : Infinity);
    const px = (x) => sides.left + (inner.w * (x - x0)) / (x1 - x0);
    const py = (y) => sides.top + inner.h * (1 - (y - y0) / (y1 - y0));

    c.font = `14px ${style.fontFamily}`;
    c.lineWidth = 1;
    for (let t = x0; t <= x1; t++) {
      c.fillStyle = colour("--al-edge");
      c.globalAlpha = 0.35;
      c.fillRect(px(t), sides.top, 1, inner.h);
      c.globalAlpha = 1;
      c.fillStyle = style.color;
      c.textAlign = "center";
      c.textBaseline = "top";
      c.fillText(short(10 ** t), px(t), sides.top + inner.h + 5);
    }
    for (let t = Math.ceil(y0); t <= y1; t++) {
      c.fillStyle = colour("--al-edge");
      c.globalAlpha = 0.35;
      c.fillRect(sides.left, py(t), inner.w, 1);
      c.globalAlpha = 1;
      c.fillStyle = style.color;
      c.textAlign = "right";
      c.textBaseline = "middle";
      c.fillText(short(10 ** t), sides.left - 6, py(t));
    }
    c.textAlign = "center";
    c.textBaseline = "top";
    c.fillText("FLOPs per byte moved", sides.left + inner.w / 2, height - 18);
    c.save();
    c.translate(11, sides.top + inner.h / 2);
    c.rotate(-Math.PI / 2);
    c.textBaseline = "middle";
    c.fillText("FLOP/s at most", 0, 0);
    c.restore();

    const ridge = log(view.ridge);
    c.strokeStyle = colour("--al-quiet");
    c.setLineDash([2, 3]);
    line([[ridge, y0], [ridge, y1]]);
    c.setLineDash([]);
    c.strokeStyle = style.color;
    c.lineWidth = 3;
    line([[x0, roof(x0)], [ridge, log(view.peak)], [x1, log(view.peak)]]);
    c.font = `600 14px ${style.fontFamily}`;
    c.fillStyle = style.color;
    c.textAlign = "right";
    c.textBaseline = "bottom";
    c.fillText(view.roof_text, px(x1) - 4, py(log(view.peak)) - 4);
    c.textAlign = "left";
    c.textBaseline = "top";
    c.fillText(view.slope_text, px(x0) + 34, py(roof(x0)) - 18);

    view.points.forEach(([, intensity, which], i) => {
      const [x, y] = [px(log(intensity)), py(roof(log(intensity)))];
      c.fillStyle = colour(which === "memory" ? "--al-ahead" : "--al-back");
      c.beginPath();
      c.arc(x, y, 5, 0, 7);
      c.fill();
      c.fillStyle = style.color;
      c.textAlign = "center";
      c.textBaseline = "top";
      c.fillText(String(i + 1), x, y + 8 + 15 * (i % 2));
    });
    const [x, y] = [px(log(view.intensity)), py(roof(log(view.intensity)))];
    c.strokeStyle = style.color;
    c.lineWidth = 3;
    c.strokeRect(x - 8, y - 8, 16, 16);
    if (view.achieved) star(x, py(log(view.achieved)));

    function line(points) {
      c.beginPath();
      for (const [x, y] of points) c.lineTo(px(x), py(y));
      c.stroke();
    }
    function star(x, y) {
      c.fillStyle = colour("--al-accent");
      c.beginPath();
      for (let i = 0; i < 10; i++) {
        const [angle, r] = [(Math.PI * i) / 5, i % 2 ? 5 : 11];
        c.lineTo(x + r * Math.sin(angle), y - r * Math.cos(angle));
      }
      c.fill();
    }
  }

  function draw(next) {
    view = next;
    setText(caption, `${view.told}: limited by ${view.which}. Square: the whole layer; ` +
      "numbers: its parts" + (view.achieved ? "; star: as measured." : "."));
    drawRoof();
    const numbers = new Map(view.points.map(([name], i) => [name, `${i + 1} `]));
    body.replaceChildren(...view.rows.map(([name, flops, bytes, intensity, which, share]) =>
      make("tr", {}, make("th", { scope: "row" }, (numbers.get(name) ?? "") + name),
        make("td", {}, flops), make("td", {}, bytes), make("td", {}, intensity),
        make("td", { class: `al-${which}` }, which), make("td", { class: "al-share" },
          make("i", { style: `width: ${0.28 * share}px` }), `${Math.round(share)} %`))),
      make("tr", {}, make("th", { scope: "row" }, view.total[0]),
        ...view.total.slice(1).map((text) => make("td", {}, text)), make("td", {}, "")));
    facts.replaceChildren(...view.facts.map((fact) => make("li", {}, fact)));
    setText(timing, view.timing);
    describe();
  }
  const describe = whenQuiet(() => setAttribute(canvas, "aria-label",
    `Roofline of ${view.device}: ${view.roof_text}, ${view.slope_text}, ${view.ridge_text}. ` +
    `${view.told}: ${view.total[3]} FLOP per byte, limited by ${view.which}. ${view.timing}`), 200);
  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Cost Explorer", costPicture),
};
