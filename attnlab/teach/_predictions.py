"""Predictions: the widget that asks a question before the measurement answers it."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import anywidget
import traitlets

from attnlab.teach._cards import BAD, GOOD, NEUTRAL, Card, box, rich, show

ESM = """
// Text is set as text, never as HTML; `code` between backticks becomes a <code> element.
function setText(element, text) {
  text.split("`").forEach((part, i) => {
    if (i % 2) {
      const code = document.createElement("code");
      code.textContent = part;
      element.append(code);
    } else {
      element.append(part);
    }
  });
}

let views = 0;

function render({ model, el }) {
  const group = `attnlab-predict-${Date.now()}-${views++}`;
  const fieldset = document.createElement("fieldset");
  fieldset.className = "attnlab-predict";
  const legend = document.createElement("legend");
  setText(legend, "Predict: " + model.get("question"));
  fieldset.append(legend);

  const radios = model.get("options").map((option, i) => {
    const label = document.createElement("label");
    const radio = document.createElement("input");
    radio.type = "radio";
    radio.name = group;
    radio.value = String(i);
    radio.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the keys for itself
    radio.addEventListener("change", () => {
      model.set("choice", i);
      model.save_changes();
    });
    const text = document.createElement("span");
    setText(text, String.fromCharCode(65 + i) + ". " + option);
    label.append(radio, text);
    fieldset.append(label);
    return radio;
  });

  const status = document.createElement("p");
  status.setAttribute("role", "status");
  fieldset.append(status);
  el.append(fieldset);

  // `choice` is what this page asks for, `recorded` what Python has; locked, only that counts.
  function update() {
    const locked = model.get("locked"), recorded = model.get("recorded");
    const chosen = locked ? recorded : model.get("choice");
    radios.forEach((radio, i) => {
      radio.checked = i === chosen;
      radio.disabled = locked;
    });
    let text;
    if (locked && recorded < 0) {
      text = "No prediction was made before the measurement. Run this cell again to make one.";
    } else if (locked) {
      text = "Your prediction was " + String.fromCharCode(65 + recorded) +
        ". Run this cell again to change it.";
    } else if (chosen < 0) {
      text = "Choose one, then go on. Nobody sees it but you.";
    } else if (chosen === recorded) {
      text = "Recorded: " + String.fromCharCode(65 + recorded) + ". You may still change it.";
    } else {
      text = "Not recorded yet: is this cell still to be run?";
    }
    if (status.textContent !== text) status.textContent = text;
  }
  const watched = "change:choice change:recorded change:locked";
  model.on(watched, update);
  update();
  return () => model.off(watched, update);
}

export default { render };
"""

CSS = """
.attnlab-predict {
  border: 1px solid var(--jp-border-color1, #888888);
  border-radius: 4px;
  margin: 4px 0;
  padding: 4px 12px;
  color: var(--jp-content-font-color1, inherit);
  font-family: var(--jp-content-font-family, inherit);
  font-size: var(--jp-content-font-size1, inherit);
  line-height: 1.5;
  position: relative;
  z-index: 1; /* on live slides a button of JupyterLab's lies over the left edge */
}
.attnlab-predict legend { font-weight: bold; padding: 0 4px; }
.attnlab-predict label { display: flex; gap: 8px; align-items: baseline; padding: 2px 0; }
.attnlab-predict input { accent-color: var(--jp-brand-color1, #1976d2); }
.attnlab-predict input:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); }
.attnlab-predict p { margin: 4px 0; }
"""


def _letter(index: int) -> str:
    return chr(ord("A") + index)


class Prediction(anywidget.AnyWidget):
    """A question with options to choose from; `reveal` locks it and says what was measured.

    Which option is right is no part of the widget: nothing on the page gives it away. Running the
    cell again keeps the choice (by `id`, while question and options stay the same) and unlocks it.
    """

    _esm = ESM
    _css = CSS
    question = traitlets.Unicode().tag(sync=True)
    options = traitlets.List(traitlets.Unicode()).tag(sync=True)
    choice = traitlets.Int(-1).tag(sync=True)  # what the page asks for; -1: nothing chosen
    recorded = traitlets.Int(-1).tag(sync=True)  # what counts
    locked = traitlets.Bool(False).tag(sync=True)

    _last: dict[str, Prediction] = {}

    def __init__(self, question: str, options: Iterable[str], *, id: str):
        if isinstance(options, str):
            raise ValueError("options is a list of texts, not one text")
        options = list(options)
        for text in (question, id, *options):
            if not isinstance(text, str) or not text.strip():
                raise ValueError("question, id and every option of predict are non-empty texts")
        question, options = question.strip(), [o.strip() for o in options]
        if not 2 <= len(options) <= 26:
            raise ValueError(f"predict needs 2 to 26 options, got {len(options)}")
        if len(set(options)) < len(options):
            raise ValueError("two options of predict are the same")
        before = self._last.get(id)
        same = before and (before.question, before.options) == (question, options)
        kept = before.recorded if same else -1
        super().__init__(question=question, options=options, choice=kept, recorded=kept)
        self._last[id] = self

    @traitlets.observe("choice")
    def _record(self, change: dict) -> None:
        if not self.locked and -1 <= change["new"] < len(self.options):
            self.recorded = change["new"]

    def reveal(self, correct: int | str, because: str = "") -> None:
        """Lock the question and show the prediction beside `correct`, what was measured.

        `correct` is the index or the text of the right option, better computed from the
        measurement than written down; `because` explains it. Raises ValueError if it is no option.
        """
        measured = self._index(correct)
        self.locked = True
        answer = f"{_letter(measured)}. {self.options[measured]}"
        if self.recorded < 0:
            first = "No prediction made (that is fine in Run All)."
            lines, colour = [first], NEUTRAL
        else:
            right = self.recorded == measured
            mark = "✔ as measured" if right else "✘ not what was measured"
            guess = f"{_letter(self.recorded)}. {self.options[self.recorded]}"
            lines, colour = [f"You predicted: {guess} ({mark})"], GOOD if right else BAD
        lines.append(f"The measurement says: {answer}")
        if because.strip():
            lines.append(because.strip())
        shown = [rich(lines[0]), f"<b>{rich(lines[1])}</b>", *map(rich, lines[2:])]
        show(Card(box(colour, *shown), "\n".join(lines)))

    def _index(self, correct: Any) -> int:
        known = f"the options are 0 to {len(self.options) - 1} or their texts"
        if isinstance(correct, str):
            if correct.strip() not in self.options:
                raise ValueError(f"{correct!r} is no option of this prediction; {known}")
            return self.options.index(correct.strip())
        try:
            index = -1 if isinstance(correct, bool) else operator.index(correct)
        except TypeError:
            index = -1
        if not 0 <= index < len(self.options):
            raise ValueError(f"{correct!r} is no option of this prediction; {known}")
        return index

    def __repr__(self) -> str:
        options = (f"  {_letter(i)}. {option}" for i, option in enumerate(self.options))
        return "\n".join([f"Predict: {self.question}", *options])

    def _repr_mimebundle_(self, **kwargs: Any):
        """The widget, and for pages without widgets the question as HTML and as text."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        first, *options = (rich(line) for line in repr(self).splitlines())
        page = f"<p><b>{first}</b><br>" + "<br>".join(options) + "</p>"
        return {**data, "text/html": page, "text/plain": repr(self)}, metadata
