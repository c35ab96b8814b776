// Heat maps. A canvas has one pixel per cell and CSS enlarges it ("pixelated"): a frame costs
// n × n pixels whatever the size on the screen, and stays sharp at any zoom. Labels are HTML, so
// they follow fonts and themes.

// 256 colours as 32-bit pixels, from the hexadecimal string that Python takes from matplotlib.
function colourTable(hex) {
  const table = new Uint32Array(256);
  const bytes = new DataView(table.buffer);
  for (let i = 0; i < 256; i++)
    bytes.setUint32(4 * i, parseInt(hex.slice(6 * i, 6 * i + 6) + "ff", 16));
  return table;
}
const COLOURS = colourTable("__COLOURS__");

// The colour of a value on a scale 0 … top.
function colourIndex(value, top) {
  const i = (255 * value) / top + 0.5;
  return i > 255 ? 255 : i | 0;
}

// The class of a number on such a colour: white up to 120, black from there on. Either contrast is
// at least 4.5 : 1.
function onColour(index) {
  return index > 120 ? "al-on-bright" : "";
}

// A function that paints rows × columns numbers, from `start` on, into the canvas. Negative marks a
// masked cell, which stays transparent.
function heatmap(canvas) {
  const context = canvas.getContext("2d");
  let image, pixels;
  return (numbers, start, rows, columns, top) => {
    if (canvas.width !== columns || canvas.height !== rows || !image) {
      canvas.width = columns;
      canvas.height = rows;
      image = context.createImageData(columns, rows);
      pixels = new Uint32Array(image.data.buffer);
    }
    for (let i = 0; i < rows * columns; i++) {
      const value = numbers[start + i];
      pixels[i] = value < 0 ? 0 : COLOURS[colourIndex(value, top)];
    }
    context.putImageData(image, 0, 0);
  };
}

// A bar with the colours from `bottom` (0 if not given) to `top`, and what "masked" looks like.
function legend(label) {
  const canvas = make("canvas", { class: "al-legend-bar", "aria-hidden": "true" });
  const numbers = Float32Array.from({ length: 256 }, (_, i) => i / 255);
  heatmap(canvas)(numbers, 0, 1, 256, 1);
  const bottom = make("span");
  const top = make("span");
  const masked = make("span", { class: "al-legend-masked", hidden: true }, make("i"), "masked");
  const node = make("div", { class: "al-legend" },
    make("span", {}, label), bottom, canvas, top, masked);
  return {
    node,
    show(value, anyMasked, low = 0) {
      setText(bottom, String(low));
      setText(top, String(value));
      masked.hidden = !anyMasked;
    },
  };
}

// Labels along an axis of n cells: when cells are smaller than a readable line, only every k-th
// token is written.
function axis(kind) {
  const node = make("div", { class: `al-axis al-axis-${kind}`, "aria-hidden": "true" });
  let shown = null;
  return {
    node,
    show(tokens, cell) {
      const size = Math.max(10, Math.min(17, 0.62 * cell));
      const every = Math.max(1, Math.ceil((size * 1.05) / cell));
      const key = JSON.stringify([tokens, every, Math.round(size)]);
      if (key === shown) return;
      shown = key;
      node.style.fontSize = `${size}px`;
      node.replaceChildren(...tokens.map((token, i) =>
        make("span", { dir: "auto", class: i % every ? "al-skipped" : "" }, token)));
    },
  };
}
