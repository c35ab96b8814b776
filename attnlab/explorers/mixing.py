"""The Mixing Explorer: words and positions brought together in four ways, and what the scores of a
head are then made of."""

import functools
import math

import torch
import traitlets
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from attnlab import decompose, positions
from attnlab.attention import MultiHeadAttention
from attnlab.explorers._base import COLOUR_MAP, Picture, bundle, check_names, setting
from attnlab.explorers._sources import MOST_CHARACTERS, split_words, word_vector
from attnlab.explorers._texts import TextExplorer
from attnlab.explorers.attention import label
from attnlab.positions import Encoding

CONTROLS = ("text", "way", "table", "scale", "alpha", "beta", "d_pe", "strength", "layer",
            "layer_norm")  # fmt: skip
WAYS = {
    "add": "add: X + P",
    "concatenate": "concatenate: [X P]",
    "mix": "mix: αX + βP",
    "layer-wise": "at every layer: H + λP",
}
TABLES = {"sinusoidal": "sinusoidal", "learned": "learned (untrained)"}
D_WORD, N_HEADS, N_LAYERS, MOST_TOKENS, MOST_D_PE = 64, 4, 4, 32, 64
LIMITS = {
    "scale": (0.001, 100), "alpha": (0, 100), "beta": (0, 100), "d_pe": (2, MOST_D_PE),
    "strength": (0, 100), "layer": (0, N_LAYERS - 1),
}  # fmt: skip


@functools.lru_cache(maxsize=MOST_D_PE)
def small_model(width: int) -> list[MultiHeadAttention]:
    """N_LAYERS layers of random projections (entries of variance 1/fan-in), the same in every run.

    Models of other widths are cut from the same numbers, so that d_pe changes the picture
    gradually.
    """
    most, layers = D_WORD + MOST_D_PE, []
    for i in range(N_LAYERS):
        generator = torch.Generator().manual_seed(i)
        into = torch.randn(3, D_WORD, most, generator=generator)[:, :, :width]
        back = torch.randn(most, D_WORD, generator=generator)[:width]
        layer = MultiHeadAttention(width, N_HEADS, d_head=D_WORD // N_HEADS, bias=False)
        with torch.no_grad():
            layer.in_proj.weight.copy_(into.flatten(0, 1) * width**-0.5)
            layer.out_proj.weight.copy_(back * D_WORD**-0.5)
        layers.append(layer.requires_grad_(False).double())
    return layers


@functools.lru_cache(maxsize=MOST_D_PE)
def make_table(name: str, d: int) -> positions.Absolute:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if name == "learned":  # cut from one large table, for the same reason
            table = positions.Learned(MOST_TOKENS, D_WORD)
            table.weight.data = table.weight.data[:, :d].clone()
            return table.requires_grad_(False)
        return positions.Sinusoidal(d)


def make_encoding(
    way: str, table: str, alpha: float, beta: float, d_pe: int, strength: float
) -> Encoding:
    if way == "add":
        return make_table(table, D_WORD)
    if way == "concatenate":
        return positions.Concatenated(make_table(table, d_pe))
    if way == "mix":
        return positions.Mixed(make_table(table, D_WORD), alpha, beta)
    place = positions.LayerWise(make_table(table, D_WORD), N_LAYERS)
    place.strength.data.fill_(strength)
    return place


@torch.no_grad()
def run(
    x: Float[Tensor, "n d_word"], encoding: Encoding, layer: int, layer_norm: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Words and positions as two parts through the layers 0 ... layer.

    Each layer adds Attention(z) to what it reads, z = LayerNorm of it or itself. Given the weights
    (and LayerNorm's divisors) as they come out for the sum of the two parts, all of this is linear,
    so that the two parts can be followed separately and always add up to what the model computes.

    Returns:
        Of head 0 of the last of these layers: weights (n, n), terms (4, n, n) of the scores; and
        the two parts of what that layer reads, (n, width) each.
    """
    pos = torch.arange(x.shape[0])
    x = x[None].double()
    position = encoding.embed(torch.zeros_like(x), pos)
    content = encoding.embed(x, pos) - position
    for i, attention in enumerate(small_model(content.shape[-1])[: layer + 1]):
        both = encoding.at_layer(content + position, pos, i)
        position = encoding.at_layer(position, pos, i)
        content = both - position
        parts = [content, position]
        if layer_norm:
            divisor = (both.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            parts = [(part - part.mean(-1, keepdim=True)) / divisor for part in parts]
        (q_c, k_c, v_c), (q_p, k_p, v_p) = (attention.heads(part) for part in parts)
        terms = decompose.four_terms(q_c, q_p, k_c, k_p)  # (4, 1, heads, n, n)
        weights = terms.sum(0).softmax(-1)
        if i < layer:
            mixed = [(weights @ v).transpose(1, 2).flatten(-2) for v in (v_c, v_p)]
            content = content + attention.out_proj(mixed[0])
            position = position + attention.out_proj(mixed[1])
    return weights[0, 0], terms[:, 0, 0], content[0], position[0]


class MixingExplorer(TextExplorer):
    """A small random model that gets words and positions in one of four ways: the weights of a
    head, and the shares of its scores' variance that come from words, from positions, and from
    both.

    Args:
        text: any text; the picture shows its first 32 words.
        way: a key of WAYS.
        table: "sinusoidal", or "learned" as it starts, random rows of the same energy.
        scale: standard deviation of the entries of the word vectors.
        alpha, beta: for "mix".
        d_pe: features of the table for "concatenate"; the words keep 64.
        strength: λ of every layer, for "layer-wise".
        layer: whose head 0 is shown.
        layer_norm: whether each layer reads LayerNorm of its input (without trained factors).
        controls: names of the controls to show, from CONTROLS; default all.

    Attributes:
        weights: (n, n), row i says where token i looks.
        shares: of `attnlab.decompose.TERMS`, NaN if all scores are equal.
        energy: mean squared length of what the layer reads, from words and from positions.
        tokens: list of n strings.
        message, notes: as in `Explorer`.

    Raises:
        ValueError: for an unknown control. Any other bad value becomes a message in the widget.
    """

    _esm = bundle("dom.js", "controls.js", "heatmap.js", "tokenmap.js", "mixing.js")
    _css = bundle("explorer.css", "mixing.css")

    SETTINGS = CONTROLS

    way = setting(traitlets.Unicode())
    table = setting(traitlets.Unicode())
    scale = setting(traitlets.Float())
    alpha = setting(traitlets.Float())
    beta = setting(traitlets.Float())
    d_pe = setting(traitlets.Int())
    strength = setting(traitlets.Float())
    layer = setting(traitlets.Int())
    layer_norm = setting(traitlets.Bool())

    def __init__(
        self,
        text: str = "the cat chased the mouse and the mouse chased the cat",
        *,
        way: str = "add",
        table: str = "sinusoidal",
        scale: float = 1.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        d_pe: int = 16,
        strength: float = 1.0,
        layer: int = 0,
        layer_norm: bool = True,
        controls=CONTROLS,
    ):
        self._shown = check_names("control", controls, CONTROLS)
        self.weights: Float[Tensor, "n n"] = torch.zeros(0, 0)
        self.shares: Float[Tensor, " 4"] = torch.zeros(0)
        self.energy = (0.0, 0.0)
        self.tokens: list[str] = []
        super().__init__(
            text=text, way=way, table=table, scale=scale, alpha=alpha, beta=beta, d_pe=d_pe,
            strength=strength, layer=layer, layer_norm=layer_norm,
        )  # fmt: skip

    def _picture(self) -> Picture:
        check_names("way", self.way, list(WAYS))
        check_names("table", self.table, list(TABLES))
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} = {value} is not in {low} … {high}")
        words = split_words(self.text[:MOST_CHARACTERS])
        if not words:
            raise ValueError("No words yet: type a text.")
        tokens = words[:MOST_TOKENS]
        x = self.scale * torch.stack([word_vector(word)[:D_WORD] for word in tokens])
        place = make_encoding(
            self.way, self.table, self.alpha, self.beta, self.d_pe, self.strength
        )  # fmt: skip
        weights, terms, content, position = run(x, place, self.layer, self.layer_norm)
        self.weights, self.tokens = weights.float(), tokens
        self.shares = decompose.variance_shares(terms).float()
        if terms.abs().max() < 1e-12:
            self.shares = torch.full((4,), math.nan)
        self.energy = tuple(part.square().sum(-1).mean().item() for part in (content, position))
        message = ""
        if len(words) > MOST_TOKENS:
            message = f"Showing the first {MOST_TOKENS} of {len(words):,} words."
        if self.shares.isnan().any():
            message = "All scores of each query are equal: there is no variance to share out."
        head = {
            "n": len(tokens), "tokens": list(map(label, tokens)), "layer": self.layer,
            "terms": list(decompose.TERMS), "way": WAYS[self.way],
            "energy": [round_to(e) for e in self.energy],
        }  # fmt: skip
        notes = ["Random projections: what is seen comes from the mechanism, nothing is learned."]
        return Picture(
            head, torch.cat([self.weights.flatten(), self.shares.nan_to_num()]), notes, message
        )

    def _controls(self) -> list[dict]:
        def slider(name, label, low, high, step, way=None, **more):
            name_of_way = WAYS[way].split(":")[0] if way else ""
            why = {"why": f"only for “{name_of_way}”"} if way and self.way != way else {}
            return {"name": name, "label": label, "kind": "range", "min": low, "max": high,
                    "step": step, **more, **why}  # fmt: skip

        specs = [
            {"name": "text", "label": "text", "kind": "text"},
            {"name": "way", "label": "how", "kind": "choice", "options": list(WAYS.items())},
            {"name": "table", "label": "positions", "kind": "choice",
             "options": list(TABLES.items())},
            slider("scale", "word scale", -6, 3, 0.25, log=True),
            slider("layer", "layer", 0, N_LAYERS - 1, 1),
            slider("alpha", "α", 0, 4, 0.1, "mix"),
            slider("beta", "β", 0, 4, 0.1, "mix"),
            slider("d_pe", "d_pe", 2, MOST_D_PE, 2, "concatenate"),
            slider("strength", "λ", 0, 4, 0.1, "layer-wise"),
            {"name": "layer_norm", "label": "LayerNorm", "kind": "check"},
        ]  # fmt: skip
        return [spec for spec in specs if spec["name"] in self._shown]

    def _share_words(self) -> str:
        pairs = zip(decompose.TERMS, self.shares.tolist(), strict=True)
        return ", ".join(f"{name} {share:.0%}" for name, share in pairs if not math.isnan(share))

    def _alt(self, picture: Picture) -> str:
        return (
            f"Heat map of the attention weights of head 0, layer {self.layer}, over "
            f"{len(self.tokens)} tokens, words and positions put together by “{WAYS[self.way]}”, "
            f"word scale {self.scale:g}. Shares of the variance of its scores: "
            f"{self._share_words() or 'none'}."
        )

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
        ax = left.subplots()
        image = ax.imshow(self.weights.numpy(), cmap=COLOUR_MAP, vmin=0)
        n = len(self.tokens)
        size = 12 if n <= 12 else 8
        ax.set_xticks(range(n), picture.head["tokens"], rotation=90, fontsize=size,
                      parse_math=False)  # fmt: skip
        ax.set_yticks(range(n), picture.head["tokens"], fontsize=size, parse_math=False)
        ax.set_xlabel("key: is looked at")
        ax.set_ylabel("query: looks")
        ax.set_title(f"head 0, layer {self.layer}; {WAYS[self.way]}")
        left.colorbar(image, ax=ax, label="weight", shrink=0.8)
        ax = right.subplots()
        shares = 100 * self.shares.nan_to_num().numpy()
        ax.barh(range(4), shares, color="#00224e")
        for i, share in enumerate(shares):
            ax.text(max(share, 0) + 2, i, f"{round(share)} %", va="center", fontsize=12)
        ax.axvline(0, color="black", lw=1)
        ax.set_yticks(range(4), decompose.TERMS, fontsize=12)
        ax.invert_yaxis()
        ax.set_xlim(min(-5, shares.min() - 5), max(118, shares.max() + 18))
        ax.set_xlabel("share of the variance of the scores (%)")
        words, places = picture.head["energy"]
        ax.set_title(f"energy: words {words:g}, positions {places:g}")
        ax.spines[["top", "right"]].set_visible(False)


def round_to(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")
