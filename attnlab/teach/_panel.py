"""The progress panel: every exercise of the course, and which are done."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from attnlab.exercises import of_notebook
from attnlab.teach import _record
from attnlab.teach._cards import rich

NOTEBOOKS = (
    "00-start-here", "01-one-head", "02-many-heads", "03-what-heads-learn",
    "04-which-heads-matter", "05-sharing-and-scales", "06-the-order-problem", "07-sinusoidal",
    "08-putting-positions-in", "09-four-terms", "10-relative-positions", "11-rope",
    "12-beyond-training-length", "13-structured-and-adaptive", "14-what-attention-costs",
    "15-attention-without-the-matrix",
)  # fmt: skip
SIGNS = {"correct": "✅", "mistake": "❌", "error": "💥", "": "✏️"}
WORDS = {"correct": "done", "mistake": "tried", "error": "tried", "": "open"}

ESM = """
function make(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

function render({ model, el }) {
  const root = make("div", { className: "attnlab-done" });
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Your progress");
  const total = make("p");
  total.setAttribute("role", "status");
  const bar = make("progress", { max: 1 });
  bar.setAttribute("aria-label", "Exercises done");
  const body = make("tbody");
  const button = (text, act) => {
    const node = make("button", { type: "button", textContent: text });
    node.dataset.lmSuppressShortcuts = "true";
    node.addEventListener("click", act);
    return node;
  };
  const ask = (what) => {
    model.set("_wish", { what, count: model.get("_wish").count + 1 });
    model.save_changes();
  };
  const yes = button("Yes, forget everything", () => { sure(false); ask("forget"); });
  const no = button("No", () => sure(false));
  const reset = button("Start again …", () => sure(true));
  const sure = (open) => {
    yes.hidden = no.hidden = !open;
    reset.hidden = open;
    if (open) no.focus();
  };
  sure(false);
  root.append(total, bar, make("table", {}, body),
    make("p", {}, button("Look again", () => ask("look")), reset, yes, no));
  el.append(root);

  function draw() {
    const { rows, text, share } = model.get("_state");
    total.textContent = text;
    bar.value = share;
    body.replaceChildren(...rows.map((row) => make("tr", {},
      make("th", { scope: "row" }, make("a", { href: row.href, textContent: row.name })),
      make("td", {}, ...row.exercises.map((e) => {
        const mark = make("span", { textContent: e.sign, title: e.title });
        mark.setAttribute("role", "img");
        mark.setAttribute("aria-label", e.title);
        return mark;
      })),
      make("td", { textContent: row.left }))));
  }
  model.on("change:_state", draw);
  draw();
  return () => model.off("change:_state", draw);
}

export default { render };
"""

CSS = """
.attnlab-done {
  color: var(--jp-content-font-color1, inherit);
  font-family: var(--jp-content-font-family, inherit);
  font-size: var(--jp-content-font-size1, inherit);
}
.attnlab-done progress { width: 100%; accent-color: var(--jp-brand-color1, #1976d2); }
.attnlab-done table { border-collapse: collapse; margin: 8px 0; }
.attnlab-done th { text-align: left; font-weight: normal; padding: 2px 16px 2px 0; }
.attnlab-done td { padding: 2px 16px 2px 0; }
.attnlab-done td span { cursor: help; margin-right: 3px; }
.attnlab-done a { color: var(--jp-content-link-color, #1565c0); }
.attnlab-done button { font: inherit; margin-right: 8px; padding: 2px 10px; }
"""


class YourProgress(anywidget.AnyWidget):
    """Every exercise of the course with what the checks said of your answers.

    It reads the record when it is made and when asked to look again; "Start again" empties it. The
    record is a small file on your own disk, see `attnlab.teach.progress_file`.
    """

    _esm = ESM
    _css = CSS
    _state = traitlets.Dict().tag(sync=True)
    _wish = traitlets.Dict({"what": "", "count": 0}).tag(sync=True)

    def __init__(self):
        super().__init__()
        self.look()

    def look(self) -> None:
        """Read the record again."""
        known, rows, n_done, n_all, minutes = _record.done(), [], 0, 0, 0
        for number, file in enumerate(NOTEBOOKS):
            found = of_notebook(number)
            exercises = {n: found[n] for n in sorted(found, key=lambda n: int(n.split(".")[1]))}
            open_minutes = sum(e.minutes for n, e in exercises.items() if known.get(n) != "correct")
            n_done += sum(known.get(n) == "correct" for n in exercises)
            n_all += len(exercises)
            minutes += open_minutes
            left = f"about {open_minutes} min left" if open_minutes else "all done"
            left = left if exercises else ""
            rows.append({
                "name": f"{number} {file[3:].replace('-', ' ')}", "href": f"{file}.ipynb",
                "left": left,
                "exercises": [
                    {"sign": SIGNS[known.get(n, "")],
                     "title": f"{n} {e.title}, {e.minutes} min: {WORDS[known.get(n, '')]}"}
                    for n, e in exercises.items()
                ],
            })  # fmt: skip
        text = f"{n_done} of {n_all} exercises done"
        text += f"; about {minutes} minutes of exercises left." if minutes else ". Well done!"
        self._state = {"rows": rows, "text": text, "share": n_done / n_all}

    @traitlets.observe("_wish")
    def _wished(self, change: dict) -> None:
        if change["new"].get("what") == "forget":
            try:
                _record.forget()
            except OSError as error:
                self._state = {**self._state, "text": f"The record cannot be emptied: {error}"}
                return
        self.look()

    def __repr__(self) -> str:
        lines = [
            f"{row['name']:34}{''.join(e['sign'] for e in row['exercises'])}  {row['left']}"
            for row in self._state["rows"]
        ]
        return "\n".join([self._state["text"], *lines])

    def _repr_mimebundle_(self, **kwargs: Any):
        """The widget; for pages without widgets what there is to do; and text."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        lines = [
            f"{row['name']:34}{len(row['exercises'])} exercises"
            for row in self._state["rows"] if row["exercises"]
        ]  # fmt: skip
        page = "<p>Nothing is run here. In the notebook this shows what you have done.</p><pre>"
        page += "\n".join(map(rich, lines)) + "</pre>"
        return {**data, "text/html": page, "text/plain": repr(self)}, metadata
