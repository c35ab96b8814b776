"""The Shuffle Explorer: move the words of a sentence and see whose output vectors change."""

import functools

import torch
import traitlets
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor, nn

from attnlab import positions
from attnlab.attention import MultiHeadAttention
from attnlab.explorers import _sources
from attnlab.explorers._base import (
    COLOUR_MAP,
    Picture,
    bundle,
    check_names,
    setting,
)
from attnlab.explorers._sources import MOST_D_MODEL, MOST_HEADS
from attnlab.explorers._texts import SOURCES, SourceExplorer

CONTROLS = ("text", "source", "encoding", "causal", "n_layers", "n_heads", "d_model")
MOST_WORDS, MOST_LAYERS = 16, 6
TOP = 1.5  # end of the colour scale: two unrelated vectors of one length differ by √2 lengths
NOTHING = 1e-5  # below it a difference is rounding (float32 in the real model)


class ShuffleExplorer(SourceExplorer):
    """A sentence before and after its words were moved, and how far each output vector moved.

    Two comparisons, because "permutation invariant" and "permutation equivariant" are two things:
    the output at a *place* before and after (0 everywhere would be invariance), and the output of
    a *word*, wherever it went (0 everywhere is equivariance). And the mean over all outputs, which
    is what a pooled read-out sees. Differences are lengths of vectors, divided by the mean length
    of an output before.

    Args:
        text: its first 16 words are used.
        order: which word of the text stands at each place now, counted from 0; None: as typed.
        source: "random" gives each word a fixed random vector and adds n_layers layers of
            attention with random projections, x <- x + attention(x); "model" is the pretrained
            encoder, cut after n_layers layers.
        encoding: a name from `attnlab.positions.names()`. Default: "none" for random projections,
            what the model was trained with for "model". Changing the source goes back to it.
        causal: a word sees itself and what stands before it, in every layer.
        n_layers, n_heads, d_model: sizes (the last two of the random projections only).
        controls: names of the controls to show, from CONTROLS; default all.
        model: another encoder to use as "model", as in `AttentionExplorer`.

    Attributes:
        words, now: the words as typed, and in their present order.
        by_word: (n,) how far the output of the word that now stands at each place moved.
        by_place: (n,) how far the output at each place moved.
        pooled: how far the mean of all outputs moved.
        message, notes: as in `Explorer`.

    Raises:
        ValueError: for an unknown source or control. Any other bad value becomes a message in the
            widget.
    """

    _esm = bundle("dom.js", "controls.js", "heatmap.js", "shuffle.js")
    _css = bundle("explorer.css", "shuffle.css")

    SETTINGS = ("text", "order", "source", "encoding", "causal", "n_layers", "n_heads", "d_model")

    order = setting(traitlets.List(traitlets.Int()))
    causal = setting(traitlets.Bool())
    n_layers = setting(traitlets.Int())
    n_heads = setting(traitlets.Int())
    d_model = setting(traitlets.Int())

    def __init__(
        self,
        text: str = "the cat chased the mouse",
        *,
        order=None,
        source: str = "random",
        encoding: str | None = None,
        causal: bool = False,
        n_layers: int = 1,
        n_heads: int = 4,
        d_model: int = 64,
        controls=CONTROLS,
        model=None,
    ):
        check_names("source", (source,), list(SOURCES))
        self._shown = check_names("control", controls, CONTROLS)
        self._own_model = model
        self.words: list[str] = []
        self.by_word: Float[Tensor, " n"] = torch.zeros(0)
        self.by_place: Float[Tensor, " n"] = torch.zeros(0)
        self.pooled = 0.0
        self._order: list[int] = []
        super().__init__(
            text=text, order=list(range(len(read(text)[0]))) if order is None else list(order),
            source=source, encoding=self._usual_encoding(source) if encoding is None else encoding,
            causal=causal, n_layers=n_layers, n_heads=n_heads, d_model=d_model,
        )  # fmt: skip

    @property
    def now(self) -> list[str]:
        return [self.words[i] for i in self._order]

    @traitlets.observe("text")
    def _other_text(self, change) -> None:
        """What was moved stays moved, as far as the new text reaches."""
        if self.words:  # not while the explorer is made
            n = len(read(change.new)[0])
            self.order = [i for i in self.order if i < n] + list(range(len(self.order), n))

    def _picture(self) -> Picture:
        words, n_text = read(self.text)
        if not words:
            raise ValueError("No words yet: type a sentence.")
        n, order = len(words), list(self.order)
        if sorted(order) != list(range(n)):
            raise ValueError(
                f"The order of {n} words must hold each of 0 … {n - 1} once, got {order}"
            )
        if not 1 <= self.n_layers <= MOST_LAYERS:
            raise ValueError(f"n_layers = {self.n_layers} is not in 1 … {MOST_LAYERS}")
        if self.source == "random":
            outputs, notes = self._from_random(words)
        elif self.source == "model":
            outputs, notes = self._from_model(words)
        else:
            raise ValueError(f"unknown source {self.source!r}; known: {', '.join(SOURCES)}")
        before, mean_before = outputs(words)
        after, mean_after = outputs([words[i] for i in order])
        by_word, by_place, pooled = compare(before, after, torch.tensor(order))
        length = before.norm(dim=-1).mean()
        if mean_before is not None:  # the model's mean takes in [CLS] and [SEP]
            pooled = (mean_after - mean_before).norm() / length
        self.words, self._order = words, order
        self.by_word, self.by_place, self.pooled = by_word, by_place, pooled.item()
        message = ""
        if n_text > MOST_WORDS:
            message = f"Using the first {MOST_WORDS} of {n_text:,} words."
        elif order == list(range(n)):
            message = "Nothing moved yet: click two words to swap them, or use the buttons."
        head = {
            "n": n, "order": order, "words": [short(w) for w in words], "top": TOP,
            "nothing": NOTHING, "verdict": self._verdict(),
        }  # fmt: skip
        numbers = torch.cat([by_word, by_place, pooled[None]]).float()
        return Picture(head, numbers, notes, message)

    def _from_random(self, words):
        d_head = _sources.check_sizes(self.d_model, self.n_heads, None)
        stack = random_stack(self.encoding, self.d_model, self.n_heads, d_head)
        notes = ["Random projections: what is seen comes from the mechanism, nothing is learned."]
        if any(True for _ in stack.encoding.parameters()):
            notes.append("What this encoding would learn is random, too.")

        @torch.no_grad()
        def outputs(words):
            x = torch.stack([_sources.word_vector(w)[: self.d_model] for w in words])[None]
            return stack(x.double(), self.n_layers, self.causal)[0], None

        return outputs, notes

    def _from_model(self, words):
        encoder = self._encoder()
        model, config = encoder.model, encoder.model.config
        if self.n_layers > len(model.layers):
            raise ValueError(f"The model has {len(model.layers)} layers, not {self.n_layers}.")
        notes = [
            f"Model: {encoder.note.rstrip('.')}.",
            "A word of several pieces counts as the mean of its pieces; [CLS] and [SEP] stay at "
            "the ends and count in the mean.",
        ]
        if encoder.is_random:
            notes.insert(0, "RANDOM PARAMETERS.")
        place = model.encoding
        if self.encoding != config.encoding:
            place = _sources.make_encoding(
                self.encoding, config.d_model, config.n_heads, config.d_model // config.n_heads
            )
            notes.append(
                f"Positions replaced ({self.encoding}); the model was trained with "
                f"{config.encoding} ones and never saw these."
            )

        @torch.no_grad()
        def outputs(words):
            pieces = [encoder.tokenize(w).ids[0] for w in words]  # each [CLS] … [SEP]
            ids = torch.cat([pieces[0][:1], *[p[1:-1] for p in pieces], pieces[0][-1:]])[None]
            if ids.shape[1] > config.max_len:
                raise ValueError(
                    f"{ids.shape[1]} pieces of words are more than the model's {config.max_len}."
                )
            layers = model.layers[: self.n_layers]
            masks = [layer.causal for layer in layers]
            try:
                for layer in layers:
                    layer.causal = self.causal
                with _sources.swapped(model, place.to(ids.device)):
                    x, pos = model.embed(ids), torch.arange(ids.shape[1], device=ids.device)
                    for i, layer in enumerate(layers):
                        x = layer(model.encoding.at_layer(x, pos, i))
                        x = model.encoding.after_layer(x, pos, i)
            finally:
                for layer, mask in zip(layers, masks, strict=True):
                    layer.causal = mask
            ends = torch.tensor([len(p) - 2 for p in pieces]).cumsum(0).tolist()
            starts = [0, *ends[:-1]]
            rows = [x[0, 1 + a : 1 + b].mean(0) for a, b in zip(starts, ends, strict=True)]
            return torch.stack(rows).double().cpu(), x[0].mean(0).double().cpu()

        return outputs, notes

    def _verdict(self) -> str:
        if self._order == list(range(len(self._order))):
            return "Nothing moved."

        def moved(changes, noun: str) -> str:
            count, n = int((changes > NOTHING).sum()), len(changes)
            if 0 < count < n:
                return f"{count} of {n} {noun}s"
            return f"{'every' if count else 'no'} {noun}"

        mean = "changed" if self.pooled > NOTHING else "did not change"
        return (
            f"The output changed at {moved(self.by_place, 'place')}, and for "
            f"{moved(self.by_word, 'word')}, followed to where it stands now. The mean of all "
            f"outputs {mean}."
        )

    def _controls(self) -> list[dict]:
        sizes, slider = self._sizes(), self._slider
        specs = [
            {"name": "text", "label": "sentence", "kind": "text"},
            self._source_control(),
            self._encoding_control(),
            {"name": "causal", "label": "causal mask", "kind": "check"},
            slider("n_layers", "layers", 1, MOST_LAYERS, 1),
            slider("n_heads", "heads", 1, MOST_HEADS, 1, sizes.n_heads),
            slider("d_model", "d_model", 8, MOST_D_MODEL, 8, sizes.d_model),
        ]  # fmt: skip
        return [spec for spec in specs if spec["name"] in self._shown]

    def _alt(self, picture: Picture) -> str:
        def listed(changes):
            pairs = zip(self.now, changes.tolist(), strict=True)
            return ", ".join(f"{short(word)} {number(value)}" for word, value in pairs)

        return (
            f"Before: {' '.join(map(short, self.words))}. Now: {' '.join(map(short, self.now))}. "
            f"{self._verdict()} How far each output moved, as a share of a vector's length, "
            f"following the word: {listed(self.by_word)}; at the place: {listed(self.by_place)}; "
            f"mean of all: {number(self.pooled)}."
        )

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        n = len(self.words)
        upper, lower = figure.subplots(2, 1, height_ratios=(1, 1.1))
        size = 15 if n <= 8 else 9
        upper.set_axis_off()
        upper.set_xlim(-0.5, n - 0.5)
        upper.set_ylim(-0.35, 1.35)
        for at, word in enumerate(self.words):
            upper.text(at, 1.12, short(word), ha="center", fontsize=size, parse_math=False)
        for at, (i, word) in enumerate(zip(self._order, self.now, strict=True)):
            colour = "#b8860b" if i != at else "#8a8a8a"
            upper.plot([i, at], [1.05, 0.12], color=colour, lw=2 if i != at else 1)
            upper.text(at, 0.0, short(word), ha="center", va="top", fontsize=size,
                       parse_math=False)  # fmt: skip
        rows = torch.stack([self.by_word, self.by_place])
        image = lower.imshow(rows.numpy(), vmin=0, vmax=TOP, cmap=COLOUR_MAP, aspect="auto")
        for r in range(2):
            for at in range(n):
                value = rows[r, at].item()
                lower.text(at, r, number(value), ha="center", va="center", fontsize=size,
                           color="black" if value > 0.55 * TOP else "white")  # fmt: skip
        lower.set_xticks([])
        lower.set_yticks([0, 1], ["same word", "same place"], fontsize=12)
        lower.set_xlabel(f"mean of all outputs moved by {number(self.pooled)}", fontsize=13)
        figure.colorbar(image, ax=[upper, lower], label="moved by (lengths)", shrink=0.6)
        figure.suptitle(self._verdict(), fontsize=11, wrap=True)


class RandomStack(nn.Module):
    """Layers of attention with random projections: x <- x + attention(x)."""

    def __init__(self, encoding: str, d_model: int, n_heads: int, d_head: int):
        super().__init__()
        self.encoding = positions.make(encoding, d_model=d_model, n_heads=n_heads, d_head=d_head)
        self.layers = nn.ModuleList(
            MultiHeadAttention(d_model, n_heads, d_head=d_head, bias=False, encoding=self.encoding)
            for _ in range(MOST_LAYERS)
        )

    def forward(self, x: Tensor, n_layers: int, causal: bool) -> Tensor:
        pos = torch.arange(x.shape[1])
        x = self.encoding.embed(x, pos)
        for i, layer in enumerate(self.layers[:n_layers]):
            x = self.encoding.at_layer(x, pos, i)
            x = self.encoding.after_layer(x + layer(x, causal=causal), pos, i)
        return x


@functools.lru_cache(maxsize=16)
def random_stack(encoding: str, d_model: int, n_heads: int, d_head: int) -> RandomStack:
    """In float64, and the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return RandomStack(encoding, d_model, n_heads, d_head).double().eval()


def compare(
    before: Float[Tensor, "n d"], after: Float[Tensor, "n d"], order: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, ""]]:
    """How far outputs moved, in mean lengths of an output before: of the word now at each place,
    at each place, and of the mean over all. order[p] is the old place of the word now at p."""
    length = before.norm(dim=-1).mean()
    by_word = (after - before[order]).norm(dim=-1) / length
    by_place = (after - before).norm(dim=-1) / length
    pooled = (after.mean(0) - before.mean(0)).norm() / length
    return by_word, by_place, pooled


def read(text: str) -> tuple[list[str], int]:
    """The words that are used, and how many the text has."""
    words = _sources.split_words(text[: _sources.MOST_CHARACTERS])
    return words[:MOST_WORDS], len(words)


def number(value: float) -> str:
    """Two digits; 0 for what is rounding."""
    return "0" if value < NOTHING else f"{value:.2f}" if value >= 0.005 else f"{value:.0e}"


def short(word: str) -> str:
    return word if len(word) <= 14 else word[:13] + "…"
