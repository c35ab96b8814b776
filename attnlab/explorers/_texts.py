"""What explorers of a text share: the text itself, and the models that read it."""

from collections.abc import Mapping

import traitlets

from attnlab import positions
from attnlab.explorers import _sources
from attnlab.explorers._base import Explorer, NotYet, check_names, setting
from attnlab.explorers._sources import MOST_CHARACTERS

REAL_MODEL = "real model"
SOURCES = {"model": REAL_MODEL, "random": "random projections"}


class TextExplorer(Explorer):
    """An explorer of a text that the reader types."""

    text = setting(traitlets.Unicode())

    @traitlets.validate("text")
    def _whole_characters(self, proposal) -> str:
        """A text box can deliver half of a surrogate pair, which no message can carry back."""
        return proposal.value.encode("utf-8", "replace").decode("utf-8")


def pretrained(explorer: Explorer):
    """The pretrained encoder; NotYet while it loads, and the explorer is drawn again then."""
    encoder = _sources.PRETRAINED.get(explorer)
    if encoder is None:
        raise NotYet(f"Loading the model …{_sources.PRETRAINED.progress}")
    return encoder


class SourceExplorer(TextExplorer):
    """Shows random projections or an encoder, whose positional encoding can be replaced.

    `_own_model` is an encoder to use instead of the pretrained one; set it before __init__.
    """

    source = setting(traitlets.Unicode())
    encoding = setting(traitlets.Unicode())

    def _encoder(self):
        return self._own_model or pretrained(self)

    def _sizes(self):
        return self._own_model.model.config if self._own_model else _sources.PRETRAINED_SIZES

    def _usual_encoding(self, source: str) -> str:
        return self._sizes().encoding if source == "model" else "none"

    @traitlets.observe("source")
    def _other_source(self, change) -> None:
        if change.old:  # not while the explorer is made
            self.encoding = self._usual_encoding(change.new)

    def _source_control(self) -> dict:
        return {"name": "source", "label": "source", "kind": "choice",
                "options": list(SOURCES.items())}  # fmt: skip

    def _encoding_control(self) -> dict:
        real = self.source == "model"
        said = {self._sizes().encoding: " (as trained)"} if real else {"learned": " (untrained)"}
        options = [(name, name + said.get(name, "")) for name in positions.names()]
        return {"name": "encoding", "label": "encoding", "kind": "choice", "options": options}

    def _slider(self, name, label, low, high, step=1, trained=None, **more) -> dict:
        """A range; `trained` is the value that it is fixed to in a trained model."""
        if self.source == "model" and trained is not None:
            more |= {"why": "fixed: the model was trained so", "fixed": trained}
        return {"name": name, "label": label, "kind": "range", "min": low, "max": high,
                "step": step, **more}  # fmt: skip

    def _wait(self) -> None:
        if self.source == "model" and self._own_model is None:
            _sources.PRETRAINED.wait(15)


class ModelsExplorer(TextExplorer):
    """Shows one of several trained models.

    A subclass calls `_take` before __init__, and keeps in `_computed` for which settings it ran the
    model last.
    """

    source = setting(traitlets.Unicode())

    def _take(self, model, language, source: str | None = None) -> str:
        """Keep the models (one, or a dict name -> model, where None stands for the pretrained
        encoder) and the language that splits texts for those without a tokenizer; the name of the
        model to begin with."""
        if not isinstance(model, Mapping):
            model = {REAL_MODEL if model is None else "model": model}
        if not model:
            raise ValueError("model is an empty dict")
        self._models, self._language = dict(model), language
        self._computed: tuple | None = None
        source = next(iter(self._models)) if source is None else source
        check_names("source", (source,), list(self._models))
        return source

    def _model(self):
        check_names("source", (self.source,), list(self._models))
        model = self._models[self.source]
        return pretrained(self) if model is None else model

    def _read_language(self, text: str, most: int):
        """ids (1, n), tokens, number of tokens of the whole text."""
        if not text.strip():
            raise ValueError("No words yet: type a text.")
        ids = self._language.encode(text[:MOST_CHARACTERS])
        if not ids.shape[1]:
            raise ValueError("This model knows none of these words.")
        return ids[:, :most], self._language.decode(ids[0, :most]), ids.shape[1]

    def refresh(self) -> None:
        """Compute the picture anew: the model's parameters have changed."""
        with self._lock:
            self._computed = None
            self._again()

    def _wait(self) -> None:
        if self._models.get(self.source, self) is None:
            _sources.PRETRAINED.wait(15)
