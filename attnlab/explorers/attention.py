"""The Attention Explorer: a text of one's own, and who looks at whom in every head."""

import math

import torch
import traitlets
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from attnlab import stats
from attnlab.explorers import _sources
from attnlab.explorers._base import (
    COLOUR_MAP,
    Picture,
    bundle,
    check_names,
    setting,
)
from attnlab.explorers._sources import MOST_D_HEAD, MOST_D_MODEL, MOST_HEADS, MOST_TOKENS
from attnlab.explorers._texts import SOURCES, SourceExplorer

CONTROLS = ("text", "source", "layer", "n_heads", "d_model", "d_head", "encoding", "temperature",
            "causal")  # fmt: skip


class AttentionExplorer(SourceExplorer):
    """Attention weights of a text: every head small, one enlarged, arcs between the tokens.

    Args:
        text: any text; the picture shows its first 64 tokens.
        source: "model" is the pretrained encoder; "random" gives each word a fixed random vector,
            and random W_Q and W_K, so that what is seen comes from the mechanism alone.
        n_heads, d_model, d_head: sizes of the random projections (a model's are fixed). d_head
            None is d_model / n_heads.
        encoding: a name from `attnlab.positions.names()`. Default: what the model was trained
            with; "none" for random projections. Changing the source goes back to the default.
        temperature, causal: act on the layer shown; the layers before it run as trained.
        layer: of the model.
        head: the one enlarged, counted from 0.
        controls: names of the controls to show, from CONTROLS; default all but d_head.
        model: another encoder to use as "model": an `attnlab.pretrained.PretrainedEncoder`, or
            anything with its tokenize, model, is_random and note.

    Attributes:
        weights: (n_heads, n, n) float32, row i says where token i looks. As all the others here,
            of the last settings that made sense.
        entropy: (n_heads,) mean over the queries, in nats.
        tokens: list of n strings.
        message, notes: as in `Explorer`.

    Raises:
        ValueError: for an unknown source or control. Any other bad value becomes a message in the
            widget.
    """

    _esm = bundle("dom.js", "controls.js", "heatmap.js", "tokenmap.js", "arcs.js", "attention.js")
    _css = bundle("explorer.css")

    SETTINGS = ("text", "source", "n_heads", "d_model", "d_head", "encoding", "temperature",
                "causal", "layer")  # fmt: skip

    n_heads = setting(traitlets.Int())
    d_model = setting(traitlets.Int())
    d_head = setting(traitlets.Int(allow_none=True))
    temperature = setting(traitlets.Float())
    causal = setting(traitlets.Bool())
    layer = setting(traitlets.Int())
    head = setting(traitlets.Int())

    def __init__(
        self,
        text: str = "The cat sat on the mat.",
        *,
        source: str = "model",
        n_heads: int = 8,
        d_model: int = 64,
        d_head: int | None = None,
        encoding: str | None = None,
        temperature: float = 1.0,
        causal: bool = False,
        layer: int = 0,
        head: int = 0,
        controls=None,
        model=None,
    ):
        check_names("source", (source,), list(SOURCES))
        if controls is None:
            controls = [name for name in CONTROLS if name != "d_head"]
        self._shown = check_names("control", controls, CONTROLS)
        self._own_model = model
        self.weights: Float[Tensor, "n_heads n n"] = torch.zeros(0, 0, 0)
        self.tokens: list[str] = []
        super().__init__(
            text=text, source=source, n_heads=n_heads, d_model=d_model, d_head=d_head,
            encoding=self._usual_encoding(source) if encoding is None else encoding,
            temperature=temperature, causal=causal, layer=layer, head=head,
        )  # fmt: skip

    @property
    def entropy(self) -> Float[Tensor, " n_heads"]:
        return stats.entropy(self.weights).mean(-1)

    @traitlets.validate("temperature")
    def _finite(self, proposal) -> float:
        if not math.isfinite(proposal.value):
            raise traitlets.TraitError(f"temperature must be finite, got {proposal.value}")
        return proposal.value

    def _picture(self) -> Picture:
        if self.source == "random":
            looks = _sources.from_random(
                self.text, n_heads=self.n_heads, d_model=self.d_model, d_head=self.d_head,
                encoding=self.encoding,
            )  # fmt: skip
        elif self.source == "model":
            looks = _sources.from_model(
                self._encoder(), self.text, layer=self.layer, encoding=self.encoding
            )
        else:
            raise ValueError(f"unknown source {self.source!r}; known: {', '.join(SOURCES)}")
        # The page draws from the scores, so that temperature and mask need no answer from here;
        # the same weights are computed here for whoever asks in Python, and to find bad values.
        weights = looks.weights(self.temperature, self.causal)
        scores = looks.scores()
        self.weights, self.tokens = weights, looks.tokens
        notes = list(looks.notes)
        if self.source == "model" and self.layer and (self.causal or self.temperature != 1):
            notes.append(
                f"Temperature and mask act on layer {self.layer}; layers before it run as trained."
            )
        message = ""
        if looks.n_text > MOST_TOKENS:
            message = f"Showing the first {MOST_TOKENS} of {looks.n_text:,} tokens."
        head = {
            "heads": len(scores), "n": len(looks.tokens), "tokens": list(map(label, looks.tokens)),
            "where": looks.where,
        }  # fmt: skip
        return Picture(head, scores, notes, message)

    def _controls(self) -> list[dict]:
        real, sizes, slider = self.source == "model", self._sizes(), self._slider
        specs = [
            {"name": "text", "label": "text", "kind": "text"},
            self._source_control(),
            slider("layer", "layer", 0, sizes.n_layers - 1,
                   **({} if real else {"why": "only the real model has layers"})),
            slider("n_heads", "heads", 1, MOST_HEADS, 1, sizes.n_heads),
            slider("d_model", "d_model", 8, MOST_D_MODEL, 8, sizes.d_model),
            slider("d_head", "d_head", 0, MOST_D_HEAD, 1, sizes.d_model // sizes.n_heads,
                   auto=f"auto: {self.d_model // max(1, self.n_heads)}"),
            self._encoding_control(),
            slider("temperature", "temperature", -4, 4, 0.05, log=True, local=True),
            {"name": "causal", "label": "causal mask", "kind": "check", "local": True},
        ]  # fmt: skip
        return [spec for spec in specs if spec["name"] in self._shown]

    def _shown_head(self) -> int:
        return max(0, min(self.head, len(self.weights) - 1))

    def _alt(self, picture: Picture) -> str:
        h = self._shown_head()
        best = self.weights[h].argmax(-1).tolist()
        tokens = picture.head["tokens"]
        looks = ", ".join(f"{q} to {tokens[k]}" for q, k in zip(tokens[:8], best, strict=False))
        return (
            f"Heat maps of the attention weights of {len(self.weights)} heads"
            f"{picture.head['where']} over {len(self.tokens)} tokens. Head {h}, enlarged, has "
            f"entropy {self.entropy[h]:.2f} nats; its queries look most {looks}"
            f"{', …' if len(self.tokens) > 8 else ''}."
        )

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        h, heads, n = self._shown_head(), len(self.weights), len(self.tokens)
        maps, top = self.weights.cpu().numpy(), self.weights.max().item()
        left, right = (
            figure.subfigures(1, 2, width_ratios=(1, 1.15)) if heads > 1 else (None, figure)
        )
        if left is not None:
            columns = min(4, int((heads - 1) ** 0.5) + 1)
            axes = left.subplots(-(-heads // columns), columns, squeeze=False).flat
            for i, ax in enumerate(axes):
                ax.set_axis_off()
                if i < heads:
                    ax.imshow(maps[i], cmap=COLOUR_MAP, vmin=0, vmax=top)
                    ax.set_title(f"{i}: {self.entropy[i]:.2f} nats", fontsize=9)
        ax = right.subplots()
        image = ax.imshow(maps[h], cmap=COLOUR_MAP, vmin=0, vmax=top)
        every = -(-n // 24)
        places, labels = range(0, n, every), picture.head["tokens"][::every]
        size = 12 if n <= 12 else 8
        ax.set_xticks(places, labels, rotation=90, fontsize=size, parse_math=False)
        ax.set_yticks(places, labels, fontsize=size, parse_math=False)
        ax.set_xlabel("key: is looked at")
        ax.set_ylabel("query: looks")
        ax.set_title(f"head {h}{picture.head['where']}: entropy {self.entropy[h]:.2f} nats")
        right.colorbar(image, ax=ax, label="weight", shrink=0.8)


def label(token: str, most: int = 24) -> str:
    """A token as it is written beside a picture: nobody reads 50,000 letters there."""
    return token if len(token) <= most else token[: most - 1] + "…"
