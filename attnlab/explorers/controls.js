// Controls, built from what Python says in `_ui`: native inputs with labels, so that keyboard and
// screen readers work as everywhere. A control that means nothing now stays, disabled, and says
// why.

function controlPanel(model, host) {
  const parts = new Map();
  let timer;
  const panel = {
    onSilence: null,
    // Changes settings. A `local` one is drawn by the page itself; Python hears of it when the hand
    // rests. Returns the number of the change.
    send(values, local = false) {
      const number = model.get("_asked") + 1;
      model.set({ ...values, _asked: number });
      if (local) tell();
      else ask();
      return number;
    },
    // Python has answered. If that was to the newest change, its settings are the ones that hold:
    // one change may have caused another while a third was on its way.
    heard() {
      const waiting = timer !== undefined; // else another window of the notebook asked
      clearTimeout(timer);
      timer = undefined;
      const { asked, settings } = model.get("_heard");
      if (asked !== model.get("_asked")) {
        if (waiting) wait();
        return;
      }
      const other = Object.entries(settings).filter(
        ([name, value]) => JSON.stringify(model.get(name)) !== JSON.stringify(value));
      if (!other.length) return;
      model.set(Object.fromEntries(other));
      model.save_changes();
    },
    close() {
      clearTimeout(timer);
      model.off("change:_ui", refresh);
      for (const [name, part] of parts) model.off(`change:${name}`, part.show);
    },
  };
  // ipywidgets keeps one message on its way and, behind it, the newest values only: a drag never
  // builds a backlog, and its last value always arrives.
  const ask = () => {
    model.save_changes();
    wait();
  };
  const wait = () => (timer ??= setTimeout(() => panel.onSilence?.(), 6000));
  const tell = whenQuiet(() => model.save_changes(), 150);
  const refresh = () => {
    for (const spec of model.get("_ui").controls) {
      let part = parts.get(spec.name);
      if (!part) {
        part = CONTROL[spec.kind](
          spec, (value) => panel.send({ [spec.name]: value }, part.spec.local));
        part.input.dataset.control = spec.name;
        part.show = () => part.update(part.spec.fixed ?? model.get(spec.name));
        parts.set(spec.name, part);
        host.append(part.node);
        model.on(`change:${spec.name}`, part.show);
      }
      part.spec = spec;
      part.input.disabled = Boolean(spec.why);
      setText(part.why, spec.why || "");
      part.show();
    }
  };
  model.on("change:_ui", refresh);
  refresh();
  return panel;
}

function controlNode(spec, input, ...after) {
  const why = make("small", { class: "al-why" });
  const label = make("label", {}, make("span", { class: "al-name" }, spec.label), input);
  const node = make("div", { class: `al-control al-${spec.kind}` }, label, ...after, why);
  return { node, input, why };
}

const CONTROL = {
  // A slider over `min` … `max`; with `log` its position is the base-2 logarithm of the value.
  // With `auto` the lowest position stands for "not set".
  range(spec, send) {
    const input = make("input", {
      type: "range", min: spec.min, max: spec.max, step: spec.step, ...OWN_KEYS,
    });
    const output = make("span", {
      class: spec.auto ? "al-value al-wide" : "al-value", "aria-hidden": "true",
    });
    const part = { ...controlNode(spec, input, output), spec };
    const value = () => {
      const at = Number(input.value);
      if (part.spec.auto && at === Number(part.spec.min)) return null;
      return part.spec.log ? Number((2 ** at).toPrecision(3)) : at;
    };
    const say = (v) => {
      const text = v === null ? part.spec.auto : part.spec.log ? v.toFixed(part.spec.digits ?? 2) : String(v);
      setText(output, text);
      setAttribute(input, "aria-valuetext", text);
    };
    input.addEventListener("input", () => {
      say(value());
      send(value());
    });
    part.update = (v) => {
      setAttribute(input, "max", String(part.spec.max));
      const at = v === null ? part.spec.min : part.spec.log ? Math.log2(v) : v;
      if (v !== value()) input.value = at;
      say(v);
    };
    return part;
  },

  check(spec, send) {
    const input = make("input", { type: "checkbox", ...OWN_KEYS });
    input.addEventListener("change", () => send(input.checked));
    return { ...controlNode(spec, input), spec, update: (v) => (input.checked = v) };
  },

  choice(spec, send) {
    const input = make("select", OWN_KEYS);
    const part = { ...controlNode(spec, input), spec };
    let shown = "";
    input.addEventListener("change", () => send(input.value));
    part.update = (v) => {
      const options = JSON.stringify(part.spec.options);
      if (options !== shown)
        input.replaceChildren(...part.spec.options.map(([key, text]) => new Option(text, key)));
      shown = options;
      input.value = v;
    };
    return part;
  },

  // Sent when Enter is pressed, the box is left, or typing pauses.
  text(spec, send) {
    const input = make("input", {
      type: "text", dir: "auto", spellcheck: false, autocomplete: "off", ...OWN_KEYS,
    });
    let sent = null;
    const commit = () => {
      if (input.value !== sent) send((sent = input.value));
    };
    input.addEventListener("input", whenQuiet(commit, 400));
    input.addEventListener("change", commit);
    input.addEventListener("keydown", (event) => event.key === "Enter" && commit());
    const update = (v) => {
      if (v !== sent && v !== input.value) input.value = v;
      sent = v;
    };
    return { ...controlNode(spec, input), spec, update };
  },
};
