"""What every explorer shares: settings, one picture, one message line, and a still image.

An explorer is an anywidget. Its settings are traits that the page's controls move; when one
changes, `_picture` computes what to show with attnlab, and the result goes to the page as one
binary trait. An error never escapes: its text stands in the message line, the last good picture
stays, dimmed, and the next setting is tried as if nothing had happened.
"""

import io
import json
import reprlib
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anywidget
import matplotlib
import torch
import traitlets
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

COLOUR_MAP = "cividis"  # even in lightness, and the same to colour-blind eyes


def bundle(*names: str) -> str:
    """The JavaScript or CSS files of this folder joined into one: no build step, no network."""
    folder = Path(__file__).parent
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    return text.replace("__COLOURS__", "".join(f"{r:02x}{g:02x}{b:02x}" for r, g, b in colours()))


def colours() -> list[tuple[int, int, int]]:
    """The 256 colours of the heat maps, as bytes."""
    table = matplotlib.colormaps[COLOUR_MAP](range(256), bytes=True)
    return [(int(r), int(g), int(b)) for r, g, b, _ in table]


def setting(trait: traitlets.TraitType) -> traitlets.TraitType:
    """A trait that a control moves. The page knows what it sent: no echo, which would cost a drag
    half its speed and pull the slider back under the hand. (`Explorer.set_state` tells it once it
    is at rest.)"""
    return trait.tag(sync=True, echo_update=False)


@dataclass
class Picture:
    """What the page draws.

    Attributes:
        head: what the page needs, as JSON.
        numbers: a float32 tensor beside it; what it means is a matter between `_picture` and its
            JavaScript.
        notes: sentences that belong to the picture and stand below it ("random parameters").
        message: for the message line, when there is something to say but nothing is wrong.
    """

    head: dict = field(default_factory=dict)
    numbers: Float[Tensor, "..."] = field(default_factory=lambda: torch.zeros(0))
    notes: list[str] = field(default_factory=list)
    message: str = ""


class NotYet(Exception):
    """Raised by `_picture` when the picture will come later by itself; the text says why."""


class Explorer(anywidget.AnyWidget):
    """Base of the explorers. A subclass names its settings and implements `_picture`, `_controls`,
    `_draw_still` and `_alt`.

    Attributes:
        message: what the message line says, "" when all is well.
        notes: the sentences below the picture.
    """

    SETTINGS: tuple[str, ...] = ()  # traits on which the picture depends

    _ui = traitlets.Dict().tag(sync=True)
    _view = traitlets.Bytes().tag(sync=True)
    _asked = setting(traitlets.Int())  # the page counts its changes
    _heard = traitlets.Dict({"asked": 0, "settings": {}}).tag(sync=True)  # the answer to them

    def __init__(self, **settings):
        self._lock = threading.RLock()  # JupyterLab runs widget messages in a thread of their own
        self._last: Picture | None = None
        self._drawn: tuple | None = None
        self.message = ""
        super().__init__(**settings)
        self._update()
        self.observe(self._update, list(self.SETTINGS))

    def _picture(self) -> Picture:
        """Compute the picture of the present settings; ValueError's text goes to the reader."""
        raise NotImplementedError

    def _controls(self) -> list[dict]:
        """The controls to show: name (of the trait), label, kind, and what the kind needs; `why`
        disables a control and says why, `fixed` is the value it shows meanwhile."""
        raise NotImplementedError

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        """Draw the picture for places where the widget cannot run."""
        raise NotImplementedError

    def _alt(self, picture: Picture) -> str:
        """The picture in words."""
        raise NotImplementedError

    @property
    def notes(self) -> list[str]:
        return list(self._last.notes) if self._last else []

    def _update(self, _change=None) -> None:
        """Draw the present settings, once, however many of them changed together."""
        with self._lock:
            settings = tuple(getattr(self, name) for name in self.SETTINGS)
            if settings == self._drawn:
                return
            self._drawn = settings
            state = ""
            threads = torch.get_num_threads()
            try:
                # Small arrays: a second thread made a picture 20 times slower when measured.
                torch.set_num_threads(1)
                self._last = self._picture()
                self.message = self._last.message
            except NotYet as later:
                self.message, state = str(later), "wait"
            except ValueError as error:
                self.message, state = str(error), "wrong"
            except Exception as error:  # no traceback may reach a widget
                self.message, state = f"{type(error).__name__}: {error}", "wrong"
            finally:
                torch.set_num_threads(threads)
            ui = {"controls": self._controls()}
            view = self._pack(state)
            with self.hold_sync():  # what changed, in one message
                self._ui, self._view = ui, view

    def set_state(self, sync_data) -> None:
        """The page's changes. It hears all that came of them in one message, with the settings as
        they are now: one change may cause another while a third is on its way."""
        with self._lock, self.hold_sync():
            super().set_state(sync_data)
            names = [n for n in self.traits(sync=True, echo_update=False) if n[0] != "_"]
            settings = {name: getattr(self, name) for name in names}
            self._heard = {"asked": self._asked, "settings": settings}

    def _again(self) -> None:
        """Draw although no setting changed."""
        with self._lock:
            self._drawn = None
            self._update()

    def _pack(self, state: str) -> bytes:
        """4 bytes length of the head, the head as JSON, zeros to a multiple of 4, float32 numbers.

        state is "" (all well), "wait" or "wrong"; in the last two the picture is an older one.
        """
        picture = self._last or Picture()
        head = {
            **picture.head, "notes": picture.notes, "message": self.message, "state": state,
            "empty": self._last is None,
        }  # fmt: skip
        text = json.dumps(head, separators=(",", ":"), allow_nan=False).encode()
        numbers = picture.numbers.detach().to("cpu", torch.float32).contiguous().numpy()
        return b"".join(
            (len(text).to_bytes(4, "little"), text, bytes(-len(text) % 4), numbers.tobytes())
        )

    def _wait(self) -> None:
        """Give what loads in the background a moment before the still image is drawn."""

    def _repr_mimebundle_(self, **kwargs):
        """The widget, and beside it a PNG of what it shows now, for GitHub, nbviewer and paper."""
        self._wait()
        data, metadata = super()._repr_mimebundle_(**kwargs)
        with self._lock:
            data = {**data, "text/plain": repr(self), "image/png": self.still()}
            return data, {**metadata, "image/png": {"alt": self.alt()}}

    def alt(self) -> str:
        """The picture in words, with the message and the notes."""
        words = self._alt(self._last) if self._last else ""
        return " ".join(part for part in (words, *self.notes, self.message) if part)

    def still(self) -> bytes:
        """A PNG of the present picture."""
        figure = Figure(figsize=(10, 5), dpi=100, layout="constrained", facecolor="white")
        if self._last:
            self._draw_still(figure, self._last)
        lines = "\n".join([*self.notes, self.message]).strip()
        if lines:
            figure.supxlabel(lines, fontsize=11, wrap=True, parse_math=False)
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no glyph for an emoji: a box does
            figure.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()

    def __repr__(self) -> str:
        """Settings only, no addresses: the same in every run."""
        values = ", ".join(f"{name}={reprlib.repr(getattr(self, name))}" for name in self.SETTINGS)
        return f"{type(self).__name__}({values})"


def check_names(what: str, given: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple, or a ValueError that says which are unknown and which there are."""
    given = (given,) if isinstance(given, str) else tuple(given)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"unknown {what} {unknown[0]!r}; known: {', '.join(known)}")
    return given
