// Line plots on a canvas: several lines over one horizontal axis, one of them strong, thin dotted
// borders, and a marked place. Colours and font come from the page's theme.

// Round numbers between low and high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((s) => s * power >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++)
    found.push(Number((i * step).toPrecision(12)));
  return found;
}

// A short piece of a line, for tables.
function lineSwatch(colour, dash) {
  const SVG = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(SVG, "svg");
  const stroke = document.createElementNS(SVG, "line");
  const set = (node, values) =>
    Object.entries(values).forEach(([name, value]) => node.setAttribute(name, value));
  set(svg, { width: 34, height: 10, "aria-hidden": "true" });
  set(stroke, { x1: 0, x2: 34, y1: 5, y2: 5, stroke: colour, "stroke-width": 3 });
  if (dash.length) set(stroke, { "stroke-dasharray": dash.join(" ") });
  svg.append(stroke);
  return svg;
}

// `place(x)` is told where the pointer is, or where the arrow keys are (null: nowhere). draw() takes
// { lines: [{ x, y, strong, dash }], x: [low, high], y: [low, high], xLabel, yLabel, borders,
// marked, xTicks, yTicks, xText, yText };
// x of a line is its first place, the others follow in steps of one, or it is the list of all places;
// NaN leaves a gap. A line may have a colour of its own, and a band { low, high } of that colour.
// xText and yText say what stands at a tick (for logarithmic axes), else its number does.
function linePlot(place) {
  const canvas = make("canvas", { class: "al-lines", role: "img" });
  const keys = place && {
    tabIndex: 0, role: "group", ...OWN_KEYS,
    "aria-label": "Plot. The left and right arrow keys read values, Escape ends it.",
  };
  const node = make("div", { class: "al-line-plot", ...keys }, canvas);
  let shown = null;
  const sides = { left: 58, right: 18, top: 10, bottom: 40 };

  function draw(plot) {
    shown = plot;
    sides.left = plot.yText ? 88 : 58;
    const plain = (t) => String(t).replace("-", "−");
    const [xText, yText] = [plot.xText ?? plain, plot.yText ?? plain];
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const style = getComputedStyle(node);
    const colour = (name) => style.getPropertyValue(name);
    const inner = { w: width - sides.left - sides.right, h: height - sides.top - sides.bottom };
    const [x0, x1] = plot.x;
    const [y0, y1] = plot.y[0] < plot.y[1] ? plot.y : [plot.y[0] - 1, plot.y[1] + 1];
    const px = (x) => sides.left + (inner.w * (x - x0)) / (x1 - x0 || 1);
    const py = (y) => sides.top + inner.h * (1 - (y - y0) / (y1 - y0));

    c.font = `14px ${style.fontFamily}`;
    c.strokeStyle = c.fillStyle = style.color;
    c.lineWidth = 1;
    c.strokeRect(sides.left, sides.top, inner.w, inner.h);
    c.textAlign = "center";
    c.textBaseline = "top";
    for (const t of plot.xTicks ?? ticks(x0, x1, Math.max(2, inner.w / 80))) {
      c.fillText(xText(t), px(t), sides.top + inner.h + 5);
      c.fillRect(px(t), sides.top + inner.h, 1, 4);
    }
    c.fillText(plot.xLabel, sides.left + inner.w / 2, height - 17);
    c.textAlign = "right";
    c.textBaseline = "middle";
    for (const t of plot.yTicks ?? ticks(y0, y1, Math.max(2, inner.h / 40))) {
      c.fillText(yText(t), sides.left - 7, py(t));
      c.fillRect(sides.left - 4, py(t), 4, 1);
    }
    c.save();
    c.translate(13, sides.top + inner.h / 2);
    c.rotate(-Math.PI / 2);
    c.textAlign = "center";
    c.fillText(plot.yLabel, 0, 0);
    c.restore();

    c.save();
    c.beginPath();
    c.rect(sides.left, sides.top, inner.w, inner.h);
    c.clip();
    c.strokeStyle = colour("--al-quiet");
    c.setLineDash([2, 3]);
    for (const b of plot.borders ?? []) stroke([[b, y0], [b, y1]]);
    c.setLineDash([]);
    if (plot.marked != null) {
      c.strokeStyle = colour("--al-accent");
      stroke([[plot.marked, y0], [plot.marked, y1]]);
    }
    for (const strong of [false, true])
      for (const line of plot.lines) {
        if (Boolean(line.strong) !== strong) continue;
        c.strokeStyle = c.fillStyle = line.colour ?? colour(strong ? "--al-ahead" : "--al-quiet");
        const at = (i) => (Array.isArray(line.x) ? line.x[i] : line.x + i);
        if (line.band) {
          c.globalAlpha = 0.18;
          area(Array.from(line.y, (_, i) => [at(i), line.band.low[i], line.band.high[i]]));
        }
        c.globalAlpha = strong ? 1 : 0.65;
        c.lineWidth = strong ? 3 : 1.2;
        c.setLineDash(line.dash ?? []);
        if (line.y.length === 1) {
          c.beginPath();
          c.arc(px(at(0)), py(line.y[0]), strong ? 4 : 2.5, 0, 7);
          c.fill();
        } else stroke(Array.from(line.y, (y, i) => [at(i), y]));
      }
    c.restore();

    function area(points) {
      const shown = points.filter(([, low, high]) => !Number.isNaN(low + high));
      c.beginPath();
      for (const [x, low] of shown) c.lineTo(px(x), py(low));
      for (const [x, , high] of shown.reverse()) c.lineTo(px(x), py(high));
      c.fill();
    }
    function stroke(points) {
      c.beginPath();
      let pen = false;
      for (const [x, y] of points) {
        if (Number.isNaN(y)) pen = false;
        else if (pen) c.lineTo(px(x), py(y));
        else {
          c.moveTo(px(x), py(y));
          pen = true;
        }
      }
      c.stroke();
    }
  }
  // The nearest place of a line's point to the left or to the right of the mark.
  function beside(step) {
    const places = shown.lines.flatMap((line) =>
      Array.from(line.y, (_, i) => (Array.isArray(line.x) ? line.x[i] : line.x + i)));
    const inside = places.filter((x) => x >= shown.x[0] && x <= shown.x[1]);
    if (shown.marked == null) return step > 0 ? Math.min(...inside) : Math.max(...inside);
    const further = inside.filter((x) => step * (x - shown.marked) > 1e-9);
    if (!further.length) return shown.marked;
    return step > 0 ? Math.min(...further) : Math.max(...further);
  }

  node.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!place || !shown || (!step && event.key !== "Escape")) return;
    event.preventDefault();
    place(step ? beside(step) : null);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!place || !shown) return;
    const box = canvas.getBoundingClientRect();
    const at = ((event.clientX - box.left) * canvas.clientWidth) / box.width; // slides are zoomed
    const share = (at - sides.left) / (canvas.clientWidth - sides.left - sides.right);
    place(share < 0 || share > 1 ? null : shown.x[0] + share * (shown.x[1] - shown.x[0]));
  });
  canvas.addEventListener("pointerleave", () => place?.(null));
  return { node, draw, describe: (text) => setAttribute(canvas, "aria-label", text) };
}
