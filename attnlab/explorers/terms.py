"""The Terms Explorer: the scores of a first layer taken apart, each part to switch on and off."""

import math

import torch
import traitlets
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from attnlab import decompose
from attnlab.attention import softmax
from attnlab.explorers import _sources
from attnlab.explorers._base import (
    COLOUR_MAP,
    Picture,
    bundle,
    check_names,
    setting,
)
from attnlab.explorers._texts import ModelsExplorer
from attnlab.explorers.attention import label
from attnlab.models import Encoder, TinyTransformer
from attnlab.stats import causal_visible

NAMES = (*decompose.TERMS, decompose.REST)
SWITCHES = ("cc", "cp", "pc", "pp", "rest")  # one for each of NAMES
CONTROLS = ("source", "text", "head", "preset", *SWITCHES, "centred")
OWN = "own"
MOST_TOKENS = 32  # in one picture


def _presets() -> dict[str, str]:
    """Pattern of the four terms, such as "1001" -> what the list shows. Schemes that keep the same
    terms stand in one line."""
    of_pattern: dict[tuple[bool, ...], list[str]] = {}
    for name, kept in decompose.VARIANTS.items():
        of_pattern.setdefault(kept, []).append(name)
    found = {_key(kept): "; ".join(names) for kept, names in of_pattern.items()}
    found.setdefault("1000", f"of the four only {decompose.TERMS[0]}")
    found.setdefault("0001", f"of the four only {decompose.TERMS[3]}")
    return found


def _key(kept) -> str:
    return "".join("1" if on else "0" for on in kept)


PRESETS = _presets()


class TermsExplorer(ModelsExplorer):
    """The scores of each head of a model's first layer as content–content, content–position,
    position–content, position–position and the rest: five small maps with their shares of the
    variance, and the weights that the chosen ones make.

        TermsExplorer("The cat sat on the mat.")               # the real model
        TermsExplorer(model={"real model": encoder, "trained": tiny}, language=letters)

    Args:
        text: the picture shows its first 32 tokens.
        model: a `PretrainedEncoder`, an `Encoder` or a `TinyTransformer` with an encoding that
            acts at the input; a dict name -> model shows several in turn, and None in it stands for
            the real model. Default: the real model, loaded in the background.
        language: splits texts for models without a tokenizer: anything with encode(text) -> ids
            (1, n) and decode(ids) -> n words.
        source: which of the models is shown first; default the first.
        head: counted from 0.
        cc, cp, pc, pp, rest: whether that term is kept.
        centred: take from each map, and from the shares, what is the same for all keys of a query.
        controls: names of the controls to show, from CONTROLS; default all that mean something.

    Attributes:
        preset: the pattern of the first four switches if PRESETS knows it, else "own"; setting it
            moves the switches.
        terms: (5, n_heads, n, n) scores, in the order of NAMES; they add up to the scores.
        shares: (5, n_heads) of the variance of the scores, with `centred` as it is.
        weights: (n, n) of the head, from the terms that are kept.
        moved: mean share of a query's weight that lies on other keys than with all five terms.
        tokens: list of n strings.
        message, notes: as in `Explorer`.

    The terms of all heads go to the page once for each text; switching is drawn there.

    Raises:
        ValueError: for an unknown control or source. Any other bad value becomes a message in the
            widget.
    """

    _esm = bundle("dom.js", "controls.js", "heatmap.js", "tokenmap.js", "terms.js")
    _css = bundle("explorer.css", "mixing.css", "terms.css")

    SETTINGS = ("source", "text", "head", *SWITCHES, "centred", "preset")

    head = setting(traitlets.Int())
    preset = setting(traitlets.Unicode())
    cc = setting(traitlets.Bool())
    cp = setting(traitlets.Bool())
    pc = setting(traitlets.Bool())
    pp = setting(traitlets.Bool())
    rest = setting(traitlets.Bool())
    centred = setting(traitlets.Bool())

    def __init__(
        self,
        text: str = "The cat sat on the mat because it was tired.",
        *,
        model=None,
        language=None,
        source: str | None = None,
        head: int = 0,
        cc: bool = True,
        cp: bool = True,
        pc: bool = True,
        pp: bool = True,
        rest: bool = True,
        centred: bool = True,
        controls=CONTROLS,
    ):
        self._shown = check_names("control", controls, CONTROLS)
        source = self._take(model, language, source)
        self.terms: Float[Tensor, "5 n_heads n n"] = torch.zeros(5, 1, 0, 0)
        self.shares: Float[Tensor, "5 n_heads"] = torch.zeros(5, 1)
        self.weights: Float[Tensor, "n n"] = torch.zeros(0, 0)
        self.moved = 0.0
        self.tokens: list[str] = []
        self._visible: Bool[Tensor, "n n"] = torch.ones(0, 0, dtype=torch.bool)
        self._both: dict[bool, Tensor] = {}
        self._kept: Picture | None = None
        super().__init__(
            source=source, text=text, head=head, cc=cc, cp=cp, pc=pc, pp=pp, rest=rest,
            centred=centred, preset=self._pattern((cc, cp, pc, pp)),
        )  # fmt: skip

    @property
    def keep(self) -> list[bool]:
        """Which of the five terms are on."""
        return [getattr(self, name) for name in SWITCHES]

    @staticmethod
    def _pattern(four) -> str:
        key = _key(four)
        return key if key in PRESETS else OWN

    @traitlets.observe(*SWITCHES[:4])
    def _switched(self, _change) -> None:
        self.preset = self._pattern(self.keep[:4])

    @traitlets.observe("preset")
    def _picked(self, change) -> None:
        if change.new in PRESETS:
            with self.hold_trait_notifications():
                for name, on in zip(SWITCHES, change.new, strict=False):
                    setattr(self, name, on == "1")

    def _picture(self) -> Picture:
        model = self._model()
        check_names("preset", (self.preset,), [*PRESETS, OWN])
        if (self.source, self.text) != self._computed:
            self._kept = self._look(model)
            self._computed = (self.source, self.text)
        n_heads = self.terms.shape[1]
        if not 0 <= self.head < n_heads:
            raise ValueError(f"There is no head {self.head}: take 0 … {n_heads - 1}.")
        whole, kept = (self._weights(keep) for keep in ([True] * 5, self.keep))
        self.weights, self.moved = kept, (kept - whole).abs().sum(-1).mean().item() / 2
        self.shares = self._both[self.centred]
        return self._kept

    def _weights(self, keep) -> Float[Tensor, "n n"]:
        scores = decompose.keep_terms(self.terms[:, self.head], keep)
        return softmax(scores.masked_fill(~self._visible, -torch.inf))

    def _read(self, model):
        """ids (1, n), tokens, number of tokens of the whole text."""
        if hasattr(model, "tokenize"):
            ids, tokens, n_text = _sources.read(model, self.text)
            if len(tokens) > MOST_TOKENS:  # [SEP] ends every text that the model was shown
                keep = torch.tensor([*range(MOST_TOKENS - 1), len(tokens) - 1], device=ids.device)
                ids, tokens = ids[:, keep], [tokens[i] for i in keep.tolist()]
            return ids, tokens, n_text
        if self._language is None:
            raise ValueError("This model has no tokenizer: give the explorer a language.")
        return self._read_language(self.text, MOST_TOKENS)

    def _look(self, model) -> Picture:
        """Take the scores of the first layer apart."""
        ids, tokens, n_text = self._read(model)
        inner = getattr(model, "model", model)
        if not isinstance(inner, Encoder | TinyTransformer):
            raise ValueError(f"{type(inner).__name__} is not a model that can be taken apart.")
        layer = inner.layers[0].attention
        if layer.windows is not None:
            raise ValueError("Layers with windows are not taken apart here.")
        parts = decompose.first_layer_parts(inner, ids)
        terms = decompose.score_terms(layer, parts)[:, 0].float().cpu()
        n, n_heads = len(tokens), terms.shape[1]
        causal = inner.causal if isinstance(inner, TinyTransformer) else inner.layers[0].causal
        visible = causal_visible(n) if causal else torch.ones(n, n, dtype=torch.bool)
        self._both = {
            seen: decompose.variance_shares(terms.double(), seen, visible).float()
            for seen in (True, False)
        }
        self.terms, self.tokens, self._visible = terms, list(tokens), visible
        notes = [f"Model: {model.note.rstrip('.')}."] if hasattr(model, "note") else []
        message = ""
        if n_text > MOST_TOKENS:
            message = f"Showing {MOST_TOKENS} of {n_text:,} tokens."
        where = f", {self.source}" if len(self._models) > 1 else ""
        if getattr(model, "is_random", False):
            where += " — RANDOM PARAMETERS"
        head = {
            "n": n, "heads": n_heads, "tokens": list(map(label, tokens)), "causal": causal,
            "names": list(NAMES), "switches": list(SWITCHES),
            "where": where,
            "shares": {
                "centred": _numbers(self._both[True]), "raw": _numbers(self._both[False]),
            },
        }  # fmt: skip
        return Picture(head, terms, notes, message)

    def _controls(self) -> list[dict]:
        heads = self._n_heads()
        specs = {
            "source": {"label": "model", "kind": "choice",
                       "options": [(name, name) for name in self._models]},
            "text": {"label": "text", "kind": "text"},
            "head": {"label": "head", "kind": "range", "min": 0, "max": heads - 1, "step": 1,
                     "local": True,
                     **({} if heads > 1 else {"why": "the layer has one head", "fixed": 0})},
            "preset": {"label": "keep as in", "kind": "choice",
                       "options": [*PRESETS.items(), (OWN, "(own choice)")]},
            **{switch: {"label": name, "kind": "check", "local": True}
               for switch, name in zip(SWITCHES, NAMES, strict=True)},
            "centred": {"label": "row-centred", "kind": "check", "local": True},
        }  # fmt: skip
        if len(self._models) < 2:
            del specs["source"]
        return [{"name": n, **spec} for n, spec in specs.items() if n in self._shown]

    def _n_heads(self) -> int:
        model = self._models.get(self.source)
        inner = getattr(model, "model", model)
        if isinstance(inner, Encoder | TinyTransformer):
            return inner.layers[0].attention.n_heads
        return self.terms.shape[1] if self._computed else _sources.PRETRAINED_SIZES.n_heads

    def _at(self) -> int:
        return max(0, min(self.head, self.terms.shape[1] - 1))

    def _on(self) -> str:
        return ", ".join(n for n, on in zip(NAMES, self.keep, strict=True) if on) or "none"

    def _alt(self, picture: Picture) -> str:
        of_head = zip(NAMES, self.shares[:, self._at()].tolist(), strict=True)
        shares = ", ".join(f"{n} {round(100 * s)} %" for n, s in of_head if not math.isnan(s))
        best = self.weights.argmax(-1).tolist()
        tokens = picture.head["tokens"]
        looks = ", ".join(f"{q} to {tokens[k]}" for q, k in zip(tokens[:8], best, strict=False))
        return (
            f"Heat map of the weights of head {self._at()} of the first layer"
            f"{picture.head['where']} over {len(tokens)} tokens, made by these terms of its "
            f"scores: {self._on()}. Its queries look most "
            f"{looks}{', …' if len(tokens) > 8 else ''}. Beside it a map of each term. "
            f"Shares of the variance of the scores"
            f"{', row means taken off' if self.centred else ''}: {shares or 'none'}. "
            f"{round(100 * self.moved)} % of the weight lies elsewhere than with all five."
        )

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        h, n, tokens = self._at(), len(self.tokens), picture.head["tokens"]
        figure.get_layout_engine().set(rect=(0, 0.04, 1, 0.96))
        left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
        ax = left.subplots()
        image = ax.imshow(
            self.weights.masked_fill(~self._visible, torch.nan).numpy(), cmap=COLOUR_MAP, vmin=0
        )
        size = 11 if n <= 14 else 7
        ax.set_xticks(range(n), tokens, rotation=90, fontsize=size, parse_math=False)
        ax.set_yticks(range(n), tokens, fontsize=size, parse_math=False)
        ax.set_xlabel("key: is looked at")
        ax.set_ylabel("query: looks")
        moved = f"{round(100 * self.moved)} % of the weight moved"
        ax.set_title(f"head {h}{picture.head['where']}\n{moved}", fontsize=11)
        left.colorbar(image, ax=ax, label="weight", shrink=0.7)
        maps = self.terms[:, h]
        if self.centred:
            seen = self._visible.float()
            maps = maps - (maps * seen).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
        maps = maps.masked_fill(~self._visible, torch.nan)
        top = maps.nan_to_num().abs().max().item() or 1.0
        axes = right.subplots(2, 3).flatten()
        for i, (ax, name) in enumerate(zip(axes, NAMES, strict=False)):
            on = self.keep[i]
            shown = ax.imshow(
                maps[i].numpy(), cmap=COLOUR_MAP, vmin=-top, vmax=top, alpha=1 if on else 0.25
            )
            share = self.shares[i, h].item()
            said = "" if math.isnan(share) else f"{round(100 * share)} %"
            ax.set_title(f"{name}\n{said}{'' if on else ' (off)'}", fontsize=10)
            ax.set_xticks([])
            ax.set_yticks([])
        axes[5].set_axis_off()
        right.colorbar(shown, ax=list(axes), label="score", shrink=0.7)


def _numbers(shares: Tensor) -> list[list[float | None]]:
    """As JSON, which has no NaN."""
    return [[None if math.isnan(s) else round(s, 4) for s in row] for row in shares.tolist()]
