"""The Heads Explorer: all heads of a model at a glance, and one of them large."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
import traitlets
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor, nn

from attnlab import heads, stats, tasks
from attnlab.attention import capture
from attnlab.explorers import _sources
from attnlab.explorers._base import (
    COLOUR_MAP,
    Picture,
    bundle,
    check_names,
    setting,
)
from attnlab.explorers._sources import MOST_TOKENS
from attnlab.explorers._texts import ModelsExplorer
from attnlab.explorers.attention import label
from attnlab.windows import offset_visible

COLOURS = {"weights": "weights", "entropy": "entropy", "distance": "distance",
           "gold": "gold mass"}  # fmt: skip
CONTROLS = ("source", "example", "text", "layer", "head", "colour", "relation", "gold_links")
ALL = "all"  # the relation that stands for every link
OWN = ""  # the example that stands for the reader's own text


@dataclasses.dataclass(frozen=True)
class Example:
    """A text that can be picked: as a string for a tokenizer, or as tokens and ids."""

    name: str
    text: str
    tokens: list[str] | None
    ids: Int[Tensor, " n"] | None
    links: dict[str, list[tuple[int, int]]]


class HeadsExplorer(ModelsExplorer):
    """Every head of a model as a small heat map in a layer × head matrix, one of them large.

    Under each small map stand its entropy (0: one key, 1: all visible keys alike), its mean
    distance in tokens and, where the text has gold links, its gold mass: the mean weight from each
    link's query to its gold key. Gold links are outlined in the large map and ringed in the small
    ones.

        HeadsExplorer("The cat sat on the mat.")                      # the real model
        HeadsExplorer(model=encoder)                                  # the notebook's own encoder
        HeadsExplorer(model=model, language=english, texts=english.batch(8, generator))
        HeadsExplorer(model={"trained": model, "untrained": fresh}, texts=[
            {"tokens": ["the", "dog", "barks"], "ids": ids, "links": {"verb -> subject": [(2, 1)]}},
        ])

    Args:
        text: a text for the model's tokenizer; default the first of `texts`.
        model: a `PretrainedEncoder`, or any module whose attention layers are
            `MultiHeadAttention` and which takes ids (1, n), such as a `TinyTransformer`. A dict
            name -> model shows several in turn. Default: the real model, loaded in the background.
        texts: texts to pick from. Each is a str; or a dict with "text", or with "tokens" (n
            strings) and "ids" (n), and, if wanted, "links" and "name"; or all of them are an
            `attnlab.tasks.Texts`. Default for an encoder: the sentences of `attnlab.links`.
        links: gold links of `text`: a dict relation -> (query, key) pairs of token numbers,
            counted from 0, [CLS] included. (Links of `texts` stand in their dicts.)
        language: splits texts for a module without tokenizer: anything with encode(text) -> ids
            (1, n) and decode(ids) -> n words, such as `attnlab.tasks.TinyEnglish`. With it there
            is a text box.
        layer, head: the head enlarged, counted from 0.
        colour: what colours the small maps: "weights", or one number for each head: "entropy",
            "distance", "gold".
        relation: whose links are shown and counted; "all" are all of the text.
        gold_links: whether links are drawn.
        controls: names of the controls to show, from CONTROLS; default all that mean something.

    Attributes:
        source: name of the model shown, if a dict was given.
        example: name of the text picked, "" for a text of the reader's own.
        weights: for each layer (n_heads, n, n) float32, row i says where token i looks. As all
            the others here, of the last settings that made sense.
        entropy, distance: for each layer (n_heads,): means over the queries of
            `stats.normalised_entropy` (queries with a choice) and `stats.attention_distance`.
        gold_mass: for each relation of the text, and "all": for each layer (n_heads,).
        tokens, links: of the text shown, at most 64 tokens.
        message, notes: as in `Explorer`.

    The weights go to the page once for each text, exact (float32); everything but source, example
    and text is drawn there without asking again. After training the model further, call
    `refresh`.

    Raises:
        ValueError: for an unknown control or colour, or texts and links that do not fit. Any
            other bad value becomes a message in the widget.
    """

    _esm = bundle("dom.js", "controls.js", "heatmap.js", "tokenmap.js", "heads.js")
    _css = bundle("explorer.css", "heads.css")

    SETTINGS = ("source", "example", "text", "layer", "head", "colour", "relation", "gold_links")

    example = setting(traitlets.Unicode())
    layer = setting(traitlets.Int())
    head = setting(traitlets.Int())
    colour = setting(traitlets.Unicode())
    relation = setting(traitlets.Unicode())
    gold_links = setting(traitlets.Bool())

    def __init__(
        self,
        text: str | None = None,
        *,
        model=None,
        texts=None,
        links: Mapping | None = None,
        language=None,
        layer: int = 0,
        head: int = 0,
        colour: str = "weights",
        relation: str = ALL,
        gold_links: bool = True,
        controls=None,
    ):
        check_names("colour", (colour,), list(COLOURS))
        self._shown = check_names("control", CONTROLS if controls is None else controls, CONTROLS)
        source = self._take(model, language)
        self.weights: list[Float[Tensor, "n_heads n n"]] = []
        self.entropy: list[Float[Tensor, " n_heads"]] = []
        self.distance: list[Float[Tensor, " n_heads"]] = []
        self.gold_mass: dict[str, list[Float[Tensor, " n_heads"]]] = {}
        self.tokens: list[str] = []
        self.links: dict[str, list[tuple[int, int]]] = {}
        self._kept: Picture | None = None
        self._visible: list[Tensor] = []
        examples = self._examples(texts)
        if text is not None:
            own = next((e for e in examples.values() if e.text == text), None)
            if links is not None or own is None:
                own = _example({"text": text, "links": links or {}}, examples)
                if own.links:
                    examples = {own.name: own, **examples}
        elif links is not None:
            raise ValueError("links are those of `text`: give it, or links in each of `texts`")
        self._texts = examples
        self._relations = list(dict.fromkeys(r for e in examples.values() for r in e.links))
        if text is None:
            first = next(iter(examples.values()), None)
            example, text = (OWN, "The cat sat on the mat.") if first is None else (
                first.name, first.text)  # fmt: skip
        else:
            example = own.name if own.name in examples else OWN
        super().__init__(
            source=source, example=example, text=text, layer=layer, head=head,
            colour=colour, relation=relation, gold_links=gold_links,
        )  # fmt: skip

    def _examples(self, texts) -> dict[str, Example]:
        if texts is None:
            return _sentences() if any(map(_has_tokenizer, self._models.values())) else {}
        if isinstance(texts, tasks.Texts):
            if self._language is None:
                raise ValueError("texts of a small language: give the language too")
            texts = _of_language(texts, self._language)
        if isinstance(texts, str | Mapping):
            texts = [texts]
        found: dict[str, Example] = {}
        for given in texts:
            example = _example(given, found)
            found[example.name] = example
        return found

    def _tokenizer(self, model):
        """text -> (ids (1, n), tokens, number of tokens of the whole text); or None."""
        if _has_tokenizer(model):
            return lambda text: _sources.read(model, text)
        if self._language is None:
            return None
        return lambda text: self._read_language(text, MOST_TOKENS)

    @traitlets.observe("text")
    def _typed(self, change) -> None:
        at = self._texts.get(self.example)
        if at is None or at.text != change.new:
            same = (e.name for e in self._texts.values() if e.text == change.new)
            self.example = next(same, OWN)

    @traitlets.observe("example")
    def _picked(self, change) -> None:
        if change.new in self._texts:
            self.text = self._texts[change.new].text

    def _picture(self) -> Picture:
        model = self._model()
        check_names("colour", (self.colour,), list(COLOURS))
        check_names("relation", (self.relation,), [ALL, *self._relations])
        if self.example != OWN:
            check_names("example", (self.example,), list(self._texts))
        now = (self.source, self.example, self.text)
        if now != self._computed:
            self._kept = self._look(model)
            self._computed = now
        layers = [len(w) for w in self.weights]
        if not 0 <= self.layer < len(layers):
            raise ValueError(f"The model has no layer {self.layer}: take 0 … {len(layers) - 1}.")
        if not 0 <= self.head < max(layers):
            raise ValueError(f"No layer has a head {self.head}: take 0 … {max(layers) - 1}.")
        return self._kept

    def _look(self, model) -> Picture:
        """Run the model on the text and measure its heads."""
        example = self._texts.get(self.example)
        if example is not None and example.ids is not None:
            n_text = len(example.ids)
            ids, tokens = example.ids[None, :MOST_TOKENS], example.tokens[:MOST_TOKENS]
        else:
            tokenizer = self._tokenizer(model)
            if tokenizer is None:
                raise ValueError("This model reads only the texts that are given: pick one.")
            ids, tokens, n_text = tokenizer(self.text)
        found = weights_of(getattr(model, "model", model), ids)
        links = {} if example is None else _inside(example.links, n_text, len(tokens))
        with_links = {ALL: [link for of in links.values() for link in of], **links}
        visible = [v for _, v in found]
        weights = [w for w, _ in found]
        self.weights, self.tokens, self.links = weights, list(tokens), links
        self._visible = visible
        self.entropy = [stats.normalised_entropy(w, v).nanmean(-1) for w, v in found]
        self.distance = [stats.attention_distance(w).mean(-1) for w in weights]
        self.gold_mass = {
            name: [stats.gold_mass(w, torch.tensor(of)) for w in weights]
            for name, of in with_links.items() if of
        }  # fmt: skip
        anyone = torch.cat(visible).any(0, keepdim=True)
        uniform = anyone / anyone.sum(-1, keepdim=True).clamp(min=1)
        notes = [f"Model: {model.note.rstrip('.')}."] if hasattr(model, "note") else []
        message = ""
        if n_text > MOST_TOKENS:
            message = f"Showing the first {MOST_TOKENS} of {n_text:,} tokens."
        head = {
            "n": len(tokens), "tokens": list(map(label, tokens)), "where": self._where(model),
            "layers": [len(w) for w in weights],
            "entropy": _flat(self.entropy), "distance": _flat(self.distance),
            "relations": [
                {"name": name, "links": with_links[name], "mass": _flat(mass),
                 "uniform": stats.gold_mass(uniform, torch.tensor(with_links[name])).item()}
                for name, mass in self.gold_mass.items()
            ],
        }  # fmt: skip
        numbers = torch.cat([w.masked_fill(~v, -1.0).flatten() for w, v in found])
        return Picture(head, numbers, notes, message)

    def _where(self, model) -> str:
        name = f", {self.source}" if len(self._models) > 1 else ""
        return name + (" — RANDOM PARAMETERS" if getattr(model, "is_random", False) else "")

    def _layers(self) -> list[int]:
        """Heads of each layer of the model shown, as far as they are known."""
        model = self._models.get(self.source)
        if model is None:
            if self._kept is not None:
                return self._kept.head["layers"]
            sizes = _sources.PRETRAINED_SIZES
            return [sizes.n_heads] * sizes.n_layers
        inner = getattr(model, "model", model)
        return [layer.n_heads for layer in heads.attention_layers(inner).values()] or [1]

    def _controls(self) -> list[dict]:
        layers = self._layers()

        def slider(name, count):
            held = {} if count > 1 else {"why": f"the model has one {name}", "fixed": 0}
            return {"name": name, "label": name, "kind": "range", "min": 0, "max": count - 1,
                    "step": 1, "local": True, **held}  # fmt: skip

        model = self._models.get(self.source)
        reads = model is None or self._tokenizer(model) is not None
        some_read = self._language is not None or any(map(_has_tokenizer, self._models.values()))
        here = self.links
        none = "" if here else "this text has no gold links"
        colours = dict(COLOURS)
        if not self._relations:
            del colours["gold"]
        options = [(ALL, "all relations")]
        options += [(r, r + ("" if r in here else " (not in this text)")) for r in self._relations]
        specs = {
            "source": {"label": "model", "kind": "choice",
                       "options": [(name, name) for name in self._models]},
            "example": {"label": "sentence", "kind": "choice", "options": [
                *([(OWN, "(your own text)")] if some_read else []),
                *((name, name) for name in self._texts)]},
            "text": {"label": "your text", "kind": "text",
                     "why": "" if reads else "this model reads only the given texts"},
            "layer": slider("layer", len(layers)),
            "head": slider("head", max(layers)),
            "colour": {"label": "colour by", "kind": "choice", "local": True,
                       "options": list(colours.items())},
            "relation": {"label": "relation", "kind": "choice", "local": True,
                         "options": options, "why": none},
            "gold_links": {"label": "gold links", "kind": "check", "local": True, "why": none},
        }  # fmt: skip
        useless = {
            "source": len(self._models) < 2, "example": not self._texts, "text": not some_read,
            "relation": not self._relations, "gold_links": not self._relations,
        }  # fmt: skip
        return [
            {"name": name, **spec} for name, spec in specs.items()
            if name in self._shown and not useless.get(name)
        ]  # fmt: skip

    def _shown_head(self) -> tuple[int, int]:
        layer = max(0, min(self.layer, len(self.weights) - 1))
        return layer, max(0, min(self.head, len(self.weights[layer]) - 1))

    def _alt(self, picture: Picture) -> str:
        layer, head = self._shown_head()
        tokens = picture.head["tokens"]
        best = self.weights[layer][head].argmax(-1).tolist()
        looks = ", ".join(f"{q} to {tokens[k]}" for q, k in zip(tokens[:8], best, strict=False))
        masses = []
        for name, mass in self.gold_mass.items():
            value, at, h = max(
                (m.item(), at, h) for at, of in enumerate(mass) for h, m in enumerate(of)
            )
            masses.append(f"{name} layer {at} head {h} with {value:.2f}")
        gold = f" Most mass on the gold links: {'; '.join(masses)}." if masses else ""
        return (
            f"Heat maps of the attention weights of {sum(map(len, self.weights))} heads in "
            f"{len(self.weights)} layers{picture.head['where']} over {len(tokens)} tokens. "
            f"Enlarged: layer {layer} head {head}, {self._numbers(layer, head)}; its queries look "
            f"most {looks}{', …' if len(tokens) > 8 else ''}.{gold}"
        )

    def _numbers(self, layer: int, head: int) -> str:
        parts = [f"entropy {written(self.entropy[layer][head], 2)} of its maximum",
                 f"distance {written(self.distance[layer][head], 1)} tokens"]  # fmt: skip
        if self.relation in self.gold_mass:
            mass = self.gold_mass[self.relation][layer][head]
            parts.append(f"gold mass {written(mass, 2)}")
        return ", ".join(parts)

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        layer, head = self._shown_head()
        n, columns = len(self.tokens), max(map(len, self.weights))
        maps = [
            w.masked_fill(~v, torch.nan).numpy()
            for w, v in zip(self.weights, self._visible, strict=True)
        ]
        figure.get_layout_engine().set(rect=(0, 0.05, 1, 0.89))  # notes may have two lines
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        links = self.links if self.gold_links else {}
        if self.relation != ALL:
            links = {self.relation: links.get(self.relation, [])}
        pairs = [link for of in links.values() for link in of]
        left.set_aspect("equal")
        values, top = self._colouring()
        size = max(5, min(9, 70 / columns))
        for at, of_layer in enumerate(maps):
            for h, weights in enumerate(of_layer):
                box = (h + 0.04, h + 0.96, 1.32 * at + 0.92, 1.32 * at)
                picture_of = weights if values is None else [[values[at][h]]]
                left.imshow(picture_of, cmap=COLOUR_MAP, vmin=0, vmax=top, extent=box,
                            interpolation="nearest")  # fmt: skip
                left.text(h + 0.5, 1.32 * at + 0.98, written(self.entropy[at][h], 2),
                          fontsize=size, ha="center", va="top")  # fmt: skip
        left.add_patch(_frame(head, 1.32 * layer - 0.04, 1, 1, "#d55e00", 2))
        left.set_xlim(-0.05, columns + 0.05)
        left.set_ylim(1.32 * len(maps), -0.08)
        left.set_xticks([h + 0.5 for h in range(columns)], range(columns))
        left.set_yticks([1.32 * i + 0.46 for i in range(len(maps))], range(len(maps)))
        left.tick_params(length=0)
        left.spines[:].set_visible(False)
        left.set_xlabel("head")
        left.set_ylabel("layer")
        by = "" if self.colour == "weights" else f"; colour: {COLOURS[self.colour]}"
        if self.colour == "gold" and self.relation not in self.gold_mass:
            by += " (no links here)"
        left.set_title(f"all heads, with their entropy (of its maximum){by}", fontsize=10)
        image = right.imshow(maps[layer][head], cmap=COLOUR_MAP, vmin=0)
        for q, k in pairs:
            right.add_patch(_frame(k - 0.45, q - 0.45, 0.9, 0.9, "black", 3))
            right.add_patch(_frame(k - 0.45, q - 0.45, 0.9, 0.9, "white", 1.5))
        every = -(-n // 24)
        places, labels = range(0, n, every), picture.head["tokens"][::every]
        size = 11 if n <= 12 else 8
        right.set_xticks(places, labels, rotation=90, fontsize=size, parse_math=False)
        right.set_yticks(places, labels, fontsize=size, parse_math=False)
        right.set_xlabel("key: is looked at" + (" (outlined: gold links)" if pairs else ""))
        right.set_ylabel("query: looks")
        where = picture.head["where"]
        right.set_title(
            f"layer {layer} head {head}{where}" + ("\n" if where else ": ")
            + self._numbers(layer, head).replace(" of its maximum", ""),
            fontsize=9, parse_math=False,
        )  # fmt: skip
        figure.colorbar(image, ax=right, label="weight", shrink=0.7)

    def _colouring(self) -> tuple[list[Float[Tensor, " n_heads"]] | None, float]:
        """One number for each head, or None where the weights are the colours; and the top."""
        if self.colour == "weights":
            return None, max(w.max().item() for w in self.weights)
        nothing = [torch.full((len(w),), torch.nan) for w in self.weights]
        values = {"entropy": self.entropy, "distance": self.distance,
                  "gold": self.gold_mass.get(self.relation, nothing)}[self.colour]  # fmt: skip
        if self.colour == "entropy":
            return values, 1.0
        return values, max(1e-3, torch.cat(values).nan_to_num(0).max().item())


@torch.no_grad()
def weights_of(model: nn.Module, ids: Int[Tensor, "1 n"]) -> list[tuple[Tensor, Tensor]]:
    """For each attention layer the weights (n_heads, n, n), and which of them could be more than
    0: below the diagonal in a causal model, inside the heads' windows."""
    layers = heads.attention_layers(model)
    if not layers:
        raise ValueError("This model has no MultiHeadAttention inside.")
    device = next((p.device for p in model.parameters()), ids.device)
    with capture(model) as seen:
        model(ids.to(device))
    pos = torch.arange(ids.shape[1])
    offset = pos - pos[:, None]
    found = []
    for name, layer in layers.items():
        weights = seen[name][0].float().cpu()
        causal = not weights.triu(1).any()  # no head looks ahead: the mask's doing
        visible = offset_visible(offset, layer.n_heads, causal, layer.windows)
        visible = torch.ones_like(offset, dtype=torch.bool) if visible is None else visible
        found.append((weights, visible.expand(weights.shape)))
    return found


def written(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value == value else "–"


def _frame(x, y, width, height, colour, line):
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=line)


def _flat(values: Sequence[Tensor]) -> list[float | None]:
    """All heads' numbers in a row, None for NaN, which JSON does not have."""
    return [None if v != v else round(v, 6) for of in values for v in of.tolist()]


def _has_tokenizer(model) -> bool:
    return model is None or hasattr(model, "tokenize")


def _example(given, others: Mapping[str, Example]) -> Example:
    """A text as it was given, checked, with a name of its own."""
    given = {"text": given} if isinstance(given, str) else dict(given)
    unknown = set(given) - {"text", "tokens", "ids", "links", "name"}
    if unknown or not ("text" in given or ("tokens" in given and "ids" in given)):
        raise ValueError(
            f"a text is a str, or a dict with 'text', or with 'tokens' and 'ids', and, if wanted, "
            f"'links' and 'name'; got {', '.join(given) or 'nothing'}"
        )
    tokens, ids = given.get("tokens"), given.get("ids")
    if ids is not None:
        ids, tokens = torch.as_tensor(ids).reshape(-1), list(map(str, tokens))
        if len(ids) != len(tokens) or not tokens:
            raise ValueError(f"{len(tokens)} tokens and {len(ids)} ids: one for each is needed")
    text = str(given.get("text", " ".join(tokens or ())))
    base = label(given.get("name") or text, 70)
    name, again = base, 1
    while name in others or name == OWN:
        again += 1
        name = f"{base} ({again})"
    links = {
        str(relation): [tuple(map(int, pair)) for pair in pairs]
        for relation, pairs in (given.get("links") or {}).items()
    }
    for relation, pairs in links.items():
        for pair in pairs:
            if len(pair) != 2 or min(pair) < 0 or (tokens and max(pair) >= len(tokens)):
                raise ValueError(
                    f"a link is (query, key), numbers of tokens counted from 0; {relation!r} has "
                    f"{pair}" + (f" in a text of {len(tokens)} tokens" if tokens else "")
                )
    if ALL in links:
        raise ValueError(f"{ALL!r} is no name for a relation: it stands for all of them")
    return Example(name, text, tokens, ids, links)


def _of_language(texts: tasks.Texts, language) -> list[dict]:
    """The texts of a batch, each to its end and with its links."""
    found = []
    for t, n in enumerate(texts.lengths.tolist()):
        ids = texts.ids[t, :n]
        links = {r: of[of[:, 0] == t, 1:].tolist() for r, of in texts.links.items()}
        found.append({"tokens": language.decode(ids), "ids": ids, "links": links})
    return found


def _sentences() -> dict[str, Example]:
    """The sentences of `attnlab.links`, for a tokenizer that puts [CLS] first."""
    from attnlab import links

    found: dict[str, Example] = {}
    for sentence in links.SENTENCES:
        of = {
            name: [tuple(1 + sentence.place(sentence.roles[r]) for r in (known.query, known.key))]
            for name, known in links.RELATIONS.items() if known.kind == sentence.kind
        }  # fmt: skip
        example = _example({"text": sentence.text, "links": of}, found)
        found[example.name] = example
    return found


def _inside(links: Mapping[str, list], n_text: int, n: int) -> dict[str, list[tuple[int, int]]]:
    """The links among the n tokens shown; relations without any are left out.

    Raises:
        ValueError: for a link beyond the text.
    """
    for relation, pairs in links.items():
        for pair in pairs:
            if max(pair) >= n_text:
                raise ValueError(f"{relation!r} links {pair}, but the text has {n_text} tokens.")
    last = n if n == n_text else n - 1  # of a longer text the last shown may be its [SEP]
    inside = {r: [p for p in pairs if max(p) < last] for r, pairs in links.items()}
    return {r: pairs for r, pairs in inside.items() if pairs}
