// The widgets of a page without Python, and its slides.
//
// publish.py puts into the page: #widgets, JSON {kinds: [{esm, css}], models: {id: {kind, state}}};
// for each explorer #table-ID, what bake.py computed; and where a widget is to stand, an element
// with data-widget="ID" that holds a picture or text until then. Text is set as text, never HTML.

const NO_PYTHON = "This page has no Python: that works in the notebook only.";
const NOT_EDITED = "This page holds pictures of some edits only, and not of this one: undo an edit " +
  "or start from another structure. The notebook takes any.";

// ------------------------------------------------------------------------------------- a model

const same = (a, b) =>
  a === b || (!(a instanceof DataView) && JSON.stringify(a) === JSON.stringify(b));

// What a widget's view sees of its Python object: anywidget's model. `answer(moved)` is called with
// the names of what the view has changed, where a notebook would send them to the kernel.
class Model {
  constructor(state) {
    this.state = state;
    this.listeners = new Map();
    this.moved = new Set();
    this.answer = () => {};
  }

  get(name) {
    return this.state[name];
  }

  set(name, value) {
    if (typeof name === "object") {
      for (const [key, of] of Object.entries(name)) this.set(key, of);
    } else if (this.put(name, value)) this.moved.add(name);
  }

  // As if it came from Python: the view hears of it, and nothing is asked.
  put(name, value) {
    if (same(this.state[name], value)) return false;
    this.state[name] = value;
    for (const act of [...(this.listeners.get(`change:${name}`) ?? [])]) act(this, value);
    return true;
  }

  save_changes() {
    const moved = [...this.moved];
    this.moved.clear();
    this.answer(moved);
  }

  on(events, act) {
    for (const event of events.split(" "))
      this.listeners.set(event, [...(this.listeners.get(event) ?? []), act]);
  }

  off(events, act) {
    for (const event of events?.split(" ") ?? [...this.listeners.keys()])
      this.listeners.set(event, act
        ? (this.listeners.get(event) ?? []).filter((other) => other !== act) : []);
  }

  send() {}
}

// ------------------------------------------------------------------------------- baked explorers

async function unzip(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const word = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

// The states of one explorer: which pictures there are, and which one to show.
class Table {
  static async read(base64) {
    return new Table(await unzip(base64));
  }

  constructor(bytes) {
    const length = new DataView(bytes.buffer).getUint32(0, true);
    Object.assign(this, JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length))));
    const total = this.lengths.reduce((sum, n) => sum + n, 0);
    const planes = bytes.subarray(4 + length);
    const whole = new Uint8Array(4 * total);
    for (let byte = 0; byte < 4; byte++)
      for (let i = 0; i < total; i++) whole[4 * i + byte] = planes[byte * total + i];
    let at = 0;
    this.chunks = this.lengths.map((n) => whole.subarray(at, (at += 4 * n)));
    this.asked = this.settings.map((name) => ![...this.free, ...this.soft].includes(name));
    this.known = new Map();
    const learn = (values, i) => {
      const key = this.key(values);
      if (!this.known.has(key)) this.known.set(key, i);
    };
    this.rows.forEach(([values], i) => learn(values, i));
    this.rows.forEach(([values, , , others], i) => others?.forEach((other) => // other ways there
      learn(this.settings.map((name, k) => (name in other ? other[name] : values[k])), i)));
    // Of each setting all values there are, in order, to tell near from far.
    this.values = this.settings.map((_, k) =>
      [...new Set(this.rows.map(([values]) => values[k]))].sort((a, b) => a - b));
  }

  key(values) {
    return values.filter((_, k) => this.asked[k]).map(word).join("\n");
  }

  view(row) {
    return this.views[this.rows[row][1]];
  }

  head(row) {
    return this.heads[this.view(row)[0]] ?? {}; // of an error there is none
  }

  controls(row) {
    return this.uis[this.rows[row][2]];
  }

  // From 0, the same, to 1; sliders count in places.
  apart(k, a, b) {
    if (word(a) === word(b)) return 0;
    if (Array.isArray(a) && Array.isArray(b) && a.length === b.length)
      return a.filter((v, i) => v !== b[i]).length / a.length;
    if (typeof b !== "number" || a === null || isNaN(a)) return 1;
    const place = (v) => {
      const after = this.values[k].findIndex((other) => other >= v);
      if (after < 1) return after < 0 ? this.values[k].length - 1 : 0;
      const [low, high] = [this.values[k][after - 1], this.values[k][after]];
      return after - (high - v) / (high - low);
    };
    return Math.abs(place(Number(a)) - place(b)) / this.values[k].length;
  }

  // The row for these values, or else the nearest: what was just moved counts most, what means
  // nothing there hardly, and errors are far.
  find(values, moved) {
    const exact = this.known.get(this.key(values));
    if (exact !== undefined && !moved.some((name) => this.soft.includes(name))) return exact;
    const together = moved.length > 1 && // a click in a picture
      moved.every((name) => typeof values[this.settings.indexOf(name)] === "number");
    let best = 0;
    let least = Infinity;
    this.rows.forEach(([have], row) => {
      let cost = Array.isArray(this.view(row)) ? 0 : 20;
      have.forEach((value, k) => {
        const name = this.settings[k];
        if (this.free.includes(name)) return;
        const apart = this.apart(k, values[k], value);
        const weight = name === "_made" ? 10_000 : this.soft.includes(name) ? 0.001
          : moved.includes(name) ? 100 : this.idle(row, name) ? 0.001 : 1;
        const step = together && weight === 100 ? 0 : 1; // near in both, not the same in one
        if (apart) cost += weight * (step + 3 * apart);
      });
      if (cost < least) [best, least] = [row, cost];
    });
    return best;
  }

  idle(row, name) {
    return this.controls(row).some((spec) => spec.name === name && spec.why);
  }

  // The picture as attnlab packs it, with `message` and `more` in its head; `before` is what an
  // error leaves.
  pack(row, message, before, more) {
    const view = this.view(row);
    const wrong = typeof view === "string";
    const [at, ...pieces] = wrong ? before ?? this.views.find(Array.isArray) : view;
    const head = { ...this.heads[at], ...more };
    if (wrong) Object.assign(head, { message: view, state: "wrong" });
    head.message = [head.message, message].filter(Boolean).join(" ");
    const text = new TextEncoder().encode(JSON.stringify(head));
    const start = 4 + text.length + (-text.length & 3);
    const chunks = pieces.map((i) => this.chunks[i]);
    const all = new Uint8Array(start + chunks.reduce((sum, c) => sum + c.length, 0));
    new DataView(all.buffer).setUint32(0, text.length, true);
    all.set(text, 4);
    chunks.reduce((to, c) => (all.set(c, to), to + c.length), start);
    return [new DataView(all.buffer), wrong ? before : view];
  }
}

// Answers in the kernel's place.
async function bakedExplorer(model, base64) {
  const table = await Table.read(base64);
  let shown = null; // the last picture that was no error
  let stands = 0; // the row of the last picture
  const past = []; // edited structures, for undo
  const followers = Object.values(table.drives).flat();
  const texts = (name) => table.values[table.settings.indexOf(name)] ?? [];

  const show = (row, message) => {
    const can = table.leads && { can: { ...table.head(row).can, undo: past.length > 0 } };
    const [view, picture] = table.pack(row, message, shown, can);
    shown = picture;
    stands = row;
    const controls = table.controls(row).map((spec) => {
      if (spec.kind !== "text" || spec.why) return spec;
      return texts(spec.name).length > 1 && !followers.includes(spec.name)
        ? { ...spec, kind: "choice", options: texts(spec.name).map((text) => [text, text]) }
        : { ...spec, why: NO_PYTHON };
    });
    model.put("_ui", { controls });
    model.put("_view", view);
    model.put("_heard", { asked: model.get("_asked"), settings: {} });
  };

  const written = (spec, value) => {
    if (spec.kind === "check") return value ? "on" : "off";
    const option = spec.options?.find(([key]) => word(key) === word(value));
    const text = option ? option[1] : value === null ? spec.auto : word(value);
    return text.length > 30 ? `“${text.slice(0, 30)}…”` : /[.!?]$/.test(text) ? `“${text}”` : text;
  };

  // Brings the controls to the picture that is shown, but for the one in the reader's hand; in
  // words, what of the picture is not as asked for.
  const settle = (row, moved) => {
    const have = table.rows[row][0];
    const told = [];
    table.settings.forEach((name, k) => {
      if (!table.asked[k] || word(model.get(name)) === word(have[k])) return;
      const spec = table.controls(row).find((other) => other.name === name);
      if (spec && word(model.get(name)) === word(spec.fixed ?? have[k])) return;
      if (!moved.includes(name)) model.put(name, have[k]);
      if (spec && !spec.why) told.push(`${spec.label} ${written(spec, spec.fixed ?? have[k])}`);
      else if (moved.includes(name)) told.push("what was there before");
    });
    return told.length
      ? `This page holds pictures of some settings only; the nearest has ${told.join(", ")}.` : "";
  };

  // Edits a tree or graph, as far as the table knows where that leads; in words, what is to say.
  const edit = ([, what, node, other]) => {
    const made = model.get("_made");
    if (what === "undo") {
      if (!past.length) return "nothing to undo";
      model.put("_made", past.pop());
      return "";
    }
    const nodes = what === "connect" ? [Math.min(node, other), Math.max(node, other)] : [node];
    const pair = ` ${nodes.join(" ")}`;
    const lead = what === "reset" ? ["", 0, ""] : table.leads[table.stands[stands]][what + pair];
    if (!lead) return NOT_EDITED;
    const [to, chosen, remark] = lead;
    if (!remark) past.push(made);
    model.put("_made", to);
    if (chosen !== null) model.put("selected", chosen);
    return remark;
  };

  model.answer = (changed) => setTimeout(() => {
    const moved = changed.filter((name) => name !== "_asked"); // the page's own count
    let said = "";
    if (table.leads) {
      if (moved.includes("kind") || moved.includes("example")) {
        past.length = 0;
        model.put("_made", "");
      }
      if (moved.includes("_edit")) said = edit(model.get("_edit"));
    } else if (moved.some((name) => name.startsWith("_"))) said = NO_PYTHON;
    const values = table.settings.map((name) => model.get(name));
    const row = table.find(values, moved);
    const have = (name) => table.rows[row][0][table.settings.indexOf(name)];
    for (const name of moved) {
      // Of what the page draws by itself not every combination is there to be followed.
      const known = !table.soft.includes(name) ||
        table.soft.every((other) => word(have(other)) === word(model.get(other)));
      for (const follower of known ? table.drives[name] ?? [] : [])
        if (!moved.includes(follower)) model.put(follower, have(follower));
    }
    show(row, [said, settle(row, moved)].filter(Boolean).join(" "));
  });
  table.settings.forEach((name, k) => model.put(name, table.rows[0][0][k]));
  show(0, "");
}

// ------------------------------------------------------------------------------- all the widgets

const dark = matchMedia("(prefers-color-scheme: dark)"); // explorers look where JupyterLab says it
const theme = () => (document.body.dataset.jpThemeLight = String(!dark.matches));
dark.addEventListener("change", theme);
theme();

const data = JSON.parse(document.getElementById("widgets")?.textContent ?? '{"models": {}}');
const models = {};
const modules = {};

function load(kind) {
  return (modules[kind] ??= (async () => {
    const { esm, css } = data.kinds[kind];
    const style = document.createElement("style");
    style.textContent = css;
    document.head.append(style);
    const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
    const { default: widget } = await import(url);
    return typeof widget === "function" ? widget() : widget;
  })());
}

async function make(id) {
  const model = new Model(data.models[id].state);
  const table = document.getElementById(`table-${id}`);
  if (table) await bakedExplorer(model, table.textContent);
  else if ("recorded" in model.state) // a prediction: what is chosen counts
    model.answer = () => model.put("recorded", model.get("choice"));
  const widget = await load(data.models[id].kind);
  await widget.initialize?.({ model });
  return { model, widget };
}

async function stand(host) {
  const id = host.dataset.widget;
  const el = document.createElement("div");
  const before = [...host.childNodes];
  try {
    const { model, widget } = await (models[id] ??= make(id));
    host.replaceChildren(el);
    host.model = model; // for whoever wants to look into it
    await widget.render({ model, el });
    host.dataset.ready = "yes";
  } catch (error) { // its picture stays
    console.warn(error);
    host.replaceChildren(...before);
    host.dataset.ready = "no";
  }
}

const nearing = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    nearing.unobserve(target);
    stand(target);
  }
}, { rootMargin: "800px" });
for (const host of document.querySelectorAll("[data-widget]")) nearing.observe(host);

// ----------------------------------------------------------------------------------- the slides

// The address "#slide-3" shows the third slide alone; "forward" first uncovers its fragments.
const slides = [...document.querySelectorAll("main > section")];
const counter = document.querySelector(".counter");
let slide = null;

const covered = () => [...slides[slide].querySelectorAll(".fragment.covered")];

function go(to, uncover = false) {
  slide = to === null ? null : Math.max(0, Math.min(slides.length - 1, to));
  document.body.classList.toggle("slides", slide !== null);
  slides.forEach((section, i) => section.classList.toggle("now", i === slide));
  if (slide === null) {
    history.replaceState(null, "", location.pathname + location.search);
    return;
  }
  for (const cell of slides[slide].querySelectorAll(".fragment"))
    cell.classList.toggle("covered", !uncover);
  history.replaceState(null, "", `#slide-${slide + 1}`);
  scrollTo(0, 0);
  count();
}

// The number of the slide, with ↓ while there is more of it below the window.
function count() {
  if (slide === null) return;
  const more = document.documentElement.scrollHeight > scrollY + innerHeight + 2;
  counter.textContent = `${slide + 1} / ${slides.length}${more ? " ↓" : ""}`;
}
for (const event of ["scroll", "resize"]) addEventListener(event, count);
new ResizeObserver(count).observe(document.querySelector("main"));

// Down a long slide, to the first block that the window cuts off; false at its end.
function down() {
  const before = scrollY;
  const blocks = [...slides[slide].querySelectorAll(".cell > *, .output > *, p, li, pre")];
  const tops = blocks.map((block) => block.getBoundingClientRect())
    .filter(({ bottom, height }) => height && bottom > innerHeight - 50).map(({ top }) => top);
  const top = Math.min(...tops.filter((at) => at > innerHeight / 3));
  scrollBy({ top: Math.min(top - 16, 0.8 * innerHeight), behavior: "instant" });
  return scrollY > before + 1;
}

function up() {
  const before = scrollY;
  scrollBy({ top: -0.8 * innerHeight, behavior: "instant" });
  return scrollY < before - 1;
}

function forward() {
  const [next] = covered();
  if (next) next.classList.remove("covered");
  else if (slide < slides.length - 1) go(slide + 1);
}

function back() {
  if (slide > 0) go(slide - 1, true);
}

const OWN = "input, select, textarea, button, summary, a, .attnlab [tabindex]";
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest(OWN)) return;
  const act = slide === null ? null : {
    ArrowRight: forward, ArrowLeft: back, PageDown: () => down() || forward(),
    " ": () => down() || forward(), PageUp: () => up() || back(), c: code,
    Home: () => go(0), End: () => go(slides.length - 1), Escape: leave,
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

function code() {
  document.body.classList.toggle("no-code");
}

function leave() {
  const section = slides[slide];
  go(null);
  section.scrollIntoView();
}

// From the page to the slide that is in view.
function enter() {
  const at = slides.findLastIndex((section) => section.getBoundingClientRect().top < 120);
  go(Math.max(0, at));
}

for (const [name, act] of Object.entries({ enter, leave, back, forward, code }))
  for (const button of document.querySelectorAll(`[data-act="${name}"]`))
    button.addEventListener("click", () => {
      act();
      button.blur(); // or the next space would press it again
    });
const asked = () => /^#slide-(\d+)$/.exec(location.hash);
const follow = () => asked() && go(Number(asked()[1]) - 1);
window.addEventListener("hashchange", follow);
if (slides.length) follow();
