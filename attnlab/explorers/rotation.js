// The Rotation Explorer: one pair of channels on a circle, the score against the offset, and the
// wavelengths of all pairs. Python sends every number; here they are only drawn.

function rotationPicture(model, host, send) {
  const mark = (colour, text, dashed) => {
    const line = make("i", { class: dashed ? "al-key al-key-dashed" : "al-key" });
    line.style.color = `var(--al-${colour})`;
    return make("span", {}, line, ` ${text}`);
  };
  const circle = make("canvas", { class: "al-circle", role: "img" });
  const curve = linePlot();
  const waves = make("canvas", { class: "al-waves", role: "img" });
  const title = make("p", { class: "al-caption" });
  const turns = make("p", { class: "al-caption" });
  const facts = make("p", { class: "al-facts" });
  const unscaled = mark("ink", "without scaling");
  host.append(
    make("div", { class: "al-turning" },
      make("div", {}, title, circle, make("p", { class: "al-notes" },
        mark("back", "query"), mark("ahead", "key"),
        make("span", {}, "dashed: before turning"))),
      make("div", {}, make("p", { class: "al-caption" }, "Score of this query and this key"),
        curve.node, make("p", { class: "al-notes" }, mark("ahead", "score q·k / √d_head"),
          mark("quiet", "this pair's part"), mark("accent", "chosen offset")))),
    facts, turns, waves,
    make("p", { class: "al-notes" }, mark("back", "completes a turn within L"),
      mark("ahead", "does not"), unscaled,
      make("span", {}, "▼ chosen pair (click a bar to choose it)")));

  let view = null;

  // The canvas at its size on the screen, empty; its units are CSS pixels.
  const fit = (canvas) => {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const c = canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    c.lineWidth = 1; // as the last drawing did not leave it
    c.font = `14px ${getComputedStyle(host).fontFamily}`;
    return { c, width, height };
  };

  const arrow = (c, [x, y], colour, name) => {
    const length = Math.hypot(x, y);
    const angle = Math.atan2(-y, x);
    c.save();
    c.rotate(angle);
    c.strokeStyle = c.fillStyle = colour;
    c.lineWidth = name ? 4 : 2;
    c.setLineDash(name ? [] : [5, 5]);
    const tip = name ? Math.min(16, length) : 0;
    c.beginPath();
    c.moveTo(0, 0);
    c.lineTo(length - 0.7 * tip, 0);
    c.stroke();
    if (name) {
      c.beginPath();
      c.moveTo(length, 0);
      c.lineTo(length - tip, -0.4 * tip);
      c.lineTo(length - tip, 0.4 * tip);
      c.fill();
      c.translate(length + 14, 0);
      c.rotate(-angle);
      c.font = `bold 19px ${getComputedStyle(host).fontFamily}`;
      c.textAlign = "center";
      c.textBaseline = "middle";
      c.fillText(name, 0, 0);
    }
    c.restore();
  };

  function drawCircle(colour) {
    const { c, width, height } = fit(circle);
    const radius = Math.max(0, Math.min(width, height) / 2 - 26); // 0 while it is hidden
    const longest = Math.max(...view.arrows.map((v) => Math.hypot(...v)), 1e-9);
    const [q, k, qTurned, kTurned] = view.arrows.map((v) => v.map((x) => (x * radius) / longest));
    c.translate(width / 2, height / 2);
    c.strokeStyle = colour("quiet");
    c.globalAlpha = 0.5;
    c.beginPath();
    c.moveTo(-radius, 0);
    c.lineTo(radius, 0);
    c.moveTo(0, -radius);
    c.lineTo(0, radius);
    c.stroke();
    for (const [v, name] of [[qTurned, "back"], [kTurned, "ahead"]]) {
      c.strokeStyle = colour(name);
      c.beginPath();
      c.arc(0, 0, Math.hypot(...v), 0, 7);
      c.stroke();
    }
    // The angle from q to k. A canvas counts angles clockwise.
    const from = -Math.atan2(qTurned[1], qTurned[0]);
    const by = (-view.between * Math.PI) / 180;
    c.fillStyle = colour("quiet");
    c.beginPath();
    c.moveTo(0, 0);
    c.arc(0, 0, 0.3 * radius, from, from + by, by < 0);
    c.fill();
    c.globalAlpha = 1;
    arrow(c, q, colour("back"));
    arrow(c, k, colour("ahead"));
    const together = Math.abs(view.between) < 10;
    arrow(c, qTurned, colour("back"), together ? " " : "q");
    arrow(c, kTurned, colour("ahead"), together ? "q, k" : "k");
    setText(title, `Pair ${view.pair}: m = ${view.position}, n = ${view.keyPosition}, `
      + `angle ${view.between.toFixed(0)}°`.replaceAll("-", "−"));
    setAttribute(circle, "aria-label", `Arrows of query and key. ${view.lines[1]}`);
  }

  function drawCurve() {
    const n = 2 * view.reach + 1;
    const scores = view.numbers.subarray(0, n);
    const ofPair = view.numbers.subarray(n, 2 * n);
    const [low, high] = [Math.min(0, ...scores, ...ofPair), Math.max(0, ...scores, ...ofPair)];
    const room = 0.06 * (high - low) + 1e-6;
    curve.draw({
      lines: [{ x: -view.reach, y: scores, strong: true }, { x: -view.reach, y: ofPair }],
      x: [-view.reach, view.reach], y: [low - room, high + room], xLabel: "offset n − m (key − query)",
      yLabel: "score", borders: [0], marked: view.offset,
    });
    curve.describe(`Score for offsets ${-view.reach} to ${view.reach}: between `
      + `${Math.min(...scores).toFixed(2)} and ${Math.max(...scores).toFixed(2)}. ${view.lines[2]}`);
  }

  const left = 100; // room for the numbers beside the bars

  function drawWaves(colour) {
    const { c, width, height } = fit(waves);
    const start = 2 * (2 * view.reach + 1);
    const wave = view.numbers.subarray(start, start + view.pairs);
    const plain = view.numbers.subarray(start + view.pairs, start + 2 * view.pairs);
    const bottom = height - 40;
    const top = Math.log10(2 * Math.max(view.length, ...wave, ...plain));
    const low = Math.log10(4); // below the shortest wavelength, 2 pi
    const y = (v) => bottom - ((Math.log10(v) - low) / (top - low)) * (bottom - 8);
    const step = (width - left - 8) / view.pairs;
    const x = (i) => left + (i + 0.5) * step;
    c.fillStyle = c.strokeStyle = colour("ink");
    c.textAlign = "right";
    c.textBaseline = "middle";
    const every = Math.ceil((top - low) / 7);
    for (let p = 1; p < top; p += every) {
      c.fillText((10 ** p).toLocaleString("en"), left - 8, y(10 ** p));
      c.fillRect(left - 5, y(10 ** p), 5, 1);
    }
    c.textAlign = "center";
    c.save();
    c.translate(12, bottom / 2);
    c.rotate(-Math.PI / 2);
    c.fillText("positions for a turn", 0, 0);
    c.restore();
    c.textBaseline = "top";
    for (const i of ticks(0, view.pairs - 1, Math.min(view.pairs, (width - left) / 60)))
      if (Number.isInteger(i)) c.fillText(String(i), x(i), bottom + 4);
    c.fillText("pair i", (left + width) / 2, bottom + 22);
    for (let i = 0; i < view.pairs; i++) {
      const full = wave[i] <= view.length;
      const box = [x(i) - 0.38 * step, y(wave[i]), 0.76 * step, bottom - y(wave[i])];
      c.fillStyle = c.strokeStyle = colour(full ? "back" : "ahead");
      c.globalAlpha = full ? 1 : 0.3;
      c.fillRect(...box);
      c.globalAlpha = 1;
      c.strokeRect(...box);
      c.fillStyle = colour("ink");
      if (view.scaled) c.fillRect(box[0], y(plain[i]) - 1.5, box[2], 3);
    }
    c.strokeStyle = c.fillStyle = colour("ink");
    c.strokeRect(left, 8, width - left - 8, bottom - 8);
    c.lineWidth = 2;
    c.setLineDash([3, 4]);
    c.beginPath();
    c.moveTo(left, y(view.length));
    c.lineTo(width - 8, y(view.length));
    c.stroke();
    c.setLineDash([]);
    c.textAlign = "left";
    c.textBaseline = "bottom";
    c.fillText(`L = ${view.length.toLocaleString("en")}`, left + 8, y(view.length) - 3);
    const tip = y(wave[view.pair]) - 3;
    c.beginPath();
    c.moveTo(x(view.pair), tip);
    c.lineTo(x(view.pair) - 8, tip - 13);
    c.lineTo(x(view.pair) + 8, tip - 13);
    c.fill();
    unscaled.hidden = !view.scaled;
    setText(turns, view.turns);
    setAttribute(waves, "aria-label", `Positions for a full turn of each pair. ${view.turns}`);
  }

  // The slider does the same from the keyboard.
  waves.addEventListener("click", (event) => {
    const box = waves.getBoundingClientRect();
    const at = ((event.clientX - box.left) * waves.clientWidth) / box.width; // slides are zoomed
    const i = Math.floor(((at - left) / (waves.clientWidth - left - 8)) * view.pairs);
    if (i >= 0 && i < view.pairs) send({ pair: i });
  });

  function draw(next) {
    view = next;
    const style = getComputedStyle(host);
    const colour = (name) => style.getPropertyValue(`--al-${name}`);
    drawCircle(colour);
    drawCurve();
    drawWaves(colour);
    const text = JSON.stringify(view.lines);
    if (facts.dataset.text !== text)
      facts.replaceChildren(...view.lines.map((each) => make("span", {}, each)));
    facts.dataset.text = text;
  }
  return { draw };
}

export default {
  render: ({ model, el }) => explorer(model, el, "Rotation Explorer", rotationPicture),
};
