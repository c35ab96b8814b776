// Parts shared by all explorers. Python joins these files into one module, so nothing is imported
// or fetched. Whatever comes from the reader is set as text, never parsed as HTML.

function make(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") node.className = value;
    else if (name in node && !name.startsWith("aria")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

// JupyterLab would take arrow and letter keys ("b" inserts a cell) from anything without this.
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" };

// What an arrow key moves: [row, column].
const ARROWS = {
  ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0],
};

// The cell of a grid under the pointer: [row, column].
function cellAt(event, grid, rows, columns) {
  const box = grid.getBoundingClientRect();
  const within = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
  return [within((event.clientY - box.top) / box.height, rows),
    within((event.clientX - box.left) / box.width, columns)];
}

// Text and attributes are written only when they change: a drag redraws many times a second.
function setText(node, text) {
  if (node.__text !== text) node.textContent = node.__text = text;
}

function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// Run `draw` once in the next animation frame, however often it is asked for.
function onceAFrame(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}

// Run `act` when nothing has called for `ms`: for screen readers and for what is slow to redo.
function whenQuiet(act, ms) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, ms);
  };
}

// Run `act` when nothing has called for `quiet` ms, and while calls go on, every `most` ms.
function nowAndThen(act, quiet, most) {
  let timer;
  let since = null;
  const run = () => {
    since = null;
    act();
  };
  return () => {
    clearTimeout(timer);
    since ??= performance.now();
    timer = setTimeout(run, Math.min(quiet, Math.max(0, since + most - performance.now())));
  };
}

// What Python packed: length of a JSON head, the head, padding to 4 bytes, float32 numbers.
function unpack(bytes) {
  if (!bytes || bytes.byteLength < 4) return null;
  const length = bytes.getUint32(0, true);
  const head = JSON.parse(
    new TextDecoder().decode(new Uint8Array(bytes.buffer, bytes.byteOffset + 4, length)),
  );
  let start = bytes.byteOffset + 4 + length + (-length & 3);
  const count = (bytes.byteOffset + bytes.byteLength - start) / 4;
  const buffer = start % 4 ? bytes.buffer.slice(start) : bytes.buffer; // Float32Array must align
  if (start % 4) start = 0;
  return { ...head, numbers: new Float32Array(buffer, start, count) };
}

// The frame around every explorer: controls, a message line, the picture, notes. `picture` builds
// into its host and returns `draw(view)`, and `close()` if it listens to the model. With
// `send({ setting: value })` it changes settings itself; that returns the number that
// `_heard.asked` reaches when Python has answered.
function explorer(model, el, title, picture) {
  const controls = make("div", { class: "al-controls" });
  const message = make("p", { class: "al-message", role: "status", hidden: true });
  const stage = make("div", { class: "al-stage" });
  const notes = make("p", { class: "al-notes" });
  const root = make("div", { class: "attnlab", role: "group", "aria-label": title },
    controls, message, stage, notes);
  el.append(root);

  const panel = controlPanel(model, controls);
  const shown = picture(model, stage, panel.send);
  let view = null;
  const paint = onceAFrame(() => {
    if (!view) return;
    setText(message, view.message);
    message.hidden = !view.message;
    message.classList.toggle("al-wrong", view.state === "wrong");
    stage.classList.toggle("al-stale", view.state !== "");
    stage.hidden = view.empty; // no settings made sense yet
    setText(notes, view.notes.join(" "));
    if (!view.empty) shown.draw(view);
  });
  // A drawing depends on its size on the screen, and on the colours of JupyterLab's theme, which is
  // an attribute. While it changes JupyterLab hides everything for a moment: no size to draw to.
  const redraw = onceAFrame(() => view && !view.empty && shown.draw(view));
  const resized = new ResizeObserver(redraw);
  for (const node of [stage, ...stage.querySelectorAll("canvas, .al-plot, .al-boxes")])
    resized.observe(node);
  const themed = new MutationObserver(whenQuiet(redraw, 300));
  themed.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });

  const changed = () => {
    view = unpack(model.get("_view"));
    paint();
  };
  panel.onSilence = () => {
    message.hidden = false;
    setText(message, "No answer from the kernel yet. If nothing runs, run this cell again.");
  };
  const heard = () => {
    panel.heard();
    paint();
  };
  model.on("change:_view", changed);
  model.on("change:_heard", heard);
  changed();
  return () => {
    model.off("change:_view", changed);
    model.off("change:_heard", heard);
    resized.disconnect();
    themed.disconnect();
    panel.close();
    shown.close?.();
  };
}
