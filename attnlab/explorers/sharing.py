"""The Sharing Explorer: which query head reads which key/value head, how far each sees, and what
both choices cost."""

import torch
import traitlets
from jaxtyping import Bool
from matplotlib.figure import Figure
from torch import Tensor

from attnlab import cost
from attnlab.explorers._base import COLOUR_MAP, Explorer, Picture, bundle, check_names, setting
from attnlab.windows import Window, Windows, hierarchical, offset_visible, receptive_field

CONTROLS = ("n_heads", "n_kv_heads", "kind", "width", "n_layers", "n_tokens", "causal", "context")
KINDS = {
    "global": "global",
    "local": "local",
    "dilated": "dilated, steps of 2",
    "mixed": "half local, half global",
    "hierarchical": "hierarchical",
}
D_HEAD, BYTES = 64, 2
LIMITS = {
    "n_heads": (1, 16), "n_kv_heads": (1, 16), "width": (1, 16), "n_layers": (1, 6),
    "n_tokens": (8, 64), "context": (1, 2**20),
}  # fmt: skip


def windows_of(kind: str, n_heads: int, width: int) -> Windows:
    """The window of each head. A dilated head sees as many keys as a local one, twice as far."""
    if kind == "global":
        return [None] * n_heads
    if kind == "local":
        return [Window(width)] * n_heads
    if kind == "dilated":
        return [Window(2 * width, 2)] * n_heads
    if kind == "mixed":
        return [Window(width) if h < n_heads / 2 else None for h in range(n_heads)]
    return hierarchical(n_heads, width)


def words_of(window: Window | None) -> str:
    if window is None:
        return "all"
    return f"w = {window.width}" + (f", steps of {window.dilation}" if window.dilation > 1 else "")


def readable(number: float, units: tuple[str, ...], base: int) -> str:
    """12345678 -> "11.8 MiB" or "12.3 M"."""
    at = 0
    while number >= base and at < len(units) - 1:
        number /= base
        at += 1
    return f"{number:.3g} {units[at]}" if number < 999.5 else f"{number:.0f} {units[at]}"


def in_bytes(number: float) -> str:
    return readable(number, ("B", "KiB", "MiB", "GiB", "TiB"), 1024)


def in_counts(number: float) -> str:
    return readable(number, ("", "thousand", "million", "billion", "trillion", "10^15"), 1000)


class SharingExplorer(Explorer):
    """Grouped heads and windows: which key/value head each query head reads, which keys it sees,
    how far the last token sees through several layers; and cache, parameters and FLOPs, beside
    those of as many heads that share nothing and see all.

    Args:
        n_heads, n_kv_heads: query heads, and the key/value heads that they share. d_head is 64.
        kind: a key of KINDS; width: half-width of the (narrowest) windows, in tokens.
        n_layers: layers of this kind.
        n_tokens: tokens in the picture.
        causal: whether tokens see only themselves and what stands before.
        context: tokens for which the costs are counted.
        controls: names of the controls to show, from CONTROLS; default all.

    Attributes:
        windows: of each head, as `attnlab.MultiHeadAttention` takes them.
        visible: (n_heads, n_tokens, n_tokens), who sees whom.
        reach: (n_layers, n_tokens), which tokens the last one has heard of after each layer.
        costs: {name: (here, with nothing shared and all seen)}; None where there is none.
        message, notes: as in `Explorer`.

    Raises:
        ValueError: for an unknown control. Any other bad value becomes a message in the widget.
    """

    _esm = bundle("dom.js", "controls.js", "heatmap.js", "sharing.js")
    _css = bundle("explorer.css", "shapes.css", "sharing.css")

    SETTINGS = CONTROLS

    n_heads = setting(traitlets.Int())
    n_kv_heads = setting(traitlets.Int())
    kind = setting(traitlets.Unicode())
    width = setting(traitlets.Int())
    n_layers = setting(traitlets.Int())
    n_tokens = setting(traitlets.Int())
    causal = setting(traitlets.Bool())
    context = setting(traitlets.Float())  # a slider of powers of two sends numbers with a point

    def __init__(
        self,
        n_heads: int = 8,
        n_kv_heads: int = 2,
        kind: str = "local",
        *,
        width: int = 3,
        n_layers: int = 3,
        n_tokens: int = 24,
        causal: bool = True,
        context: int = 8192,
        controls=CONTROLS,
    ):
        self._shown = check_names("control", controls, CONTROLS)
        self.windows: list[Window | None] = []
        self.visible: Bool[Tensor, "n_heads n n"] = torch.zeros(0, 0, 0, dtype=torch.bool)
        self.reach: Bool[Tensor, "n_layers n"] = torch.zeros(0, 0, dtype=torch.bool)
        self.costs: dict[str, tuple[int | None, int | None]] = {}
        super().__init__(
            n_heads=n_heads, n_kv_heads=n_kv_heads, kind=kind, width=width, n_layers=n_layers,
            n_tokens=n_tokens, causal=causal, context=context,
        )  # fmt: skip

    def _picture(self) -> Picture:
        check_names("kind", self.kind, list(KINDS))
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} = {value:g} is not in {low} … {high}")
        h, g, n, length = self.n_heads, self.n_kv_heads, self.n_tokens, int(self.context)
        if h % g:
            fit = ", ".join(str(k) for k in range(1, h + 1) if h % k == 0)
            raise ValueError(f"{g} key/value heads do not divide {h} query heads: take {fit}.")
        windows = windows_of(self.kind, h, self.width)
        pos = torch.arange(n)
        visible = offset_visible(pos[None, :] - pos[:, None], h, self.causal, windows)
        if visible is None:
            visible = torch.ones(1, n, n, dtype=torch.bool)
        visible = visible.expand(h, n, n)
        reach = torch.stack([
            receptive_field(n, [windows] * depth, h, self.causal)[-1 if self.causal else n // 2]
            for depth in range(1, self.n_layers + 1)
        ])  # fmt: skip
        d_model = h * D_HEAD

        def of(n_kv, windows):
            flops = cost.attention_flops(length, d_model, h, D_HEAD, n_kv, windows, self.causal)
            return flops["scores"] + flops["values"]

        def cached(n_kv, windows):
            return cost.kv_cache_bytes(
                length, n_kv, D_HEAD, n_layers=self.n_layers, bytes_per_number=BYTES,
                windows=windows,
            ) if self.causal else None  # fmt: skip

        self.costs = {
            "KV cache of all layers": (cached(g, windows), cached(h, None)),
            "parameters of a layer": (
                cost.attention_parameters(d_model, h, D_HEAD, g),
                cost.attention_parameters(d_model, h, D_HEAD, h),
            ),
            "operations, windows as a mask": (of(g, None), of(h, None)),
            "operations, windows in blocks": (of(g, windows), of(h, None)),
        }
        self.windows, self.visible, self.reach = windows, visible, reach
        reads = [head // (h // g) for head in range(h)]
        shade = torch.tensor([(kv + 0.5) / g for kv in reads])[:, None, None]
        maps = torch.where(visible, shade, -1.0)
        rows = [
            [name, *("–" if v is None else in_bytes(v) if "cache" in name else in_counts(v)
                     for v in pair), None if pair[0] is None else 100 * pair[0] / pair[1]]
            for name, pair in self.costs.items()
        ]  # fmt: skip
        head = {
            "n": n, "heads": h, "kv": g, "reads": reads, "layers": self.n_layers, "costs": rows,
            "windows": list(map(words_of, windows)), "kind": KINDS[self.kind],
            "from": n - 1 if self.causal else n // 2, "reached": reach.sum(-1).tolist(),
            "context": length,
        }  # fmt: skip
        notes = [
            f"Costs for a text of {length:,} tokens, d_head {D_HEAD}, d_model {d_model}; the cache "
            f"has 2 bytes per number, operations are those of QKᵀ and AV in one pass over the "
            f"text, one layer. Beside: {h} key/value heads and no windows."
        ]
        if not self.causal:
            notes.append("Without a causal mask no token can be decoded: no cache.")
        return Picture(head, torch.cat([maps.flatten(), reach.float().flatten()]), notes)

    def _controls(self) -> list[dict]:
        def slider(name, label, step=1, **more):
            low, high = LIMITS[name]
            return {"name": name, "label": label, "kind": "range", "min": low, "max": high,
                    "step": step, **more}  # fmt: skip

        why = {"why": "global heads have no width"} if self.kind == "global" else {}
        specs = [
            slider("n_heads", "query heads"),
            slider("n_kv_heads", "KV heads"),
            {"name": "kind", "label": "windows", "kind": "choice", "options": list(KINDS.items())},
            slider("width", "width w", **why),
            slider("n_layers", "layers"),
            slider("n_tokens", "tokens drawn", 4),
            {"name": "causal", "label": "causal", "kind": "check"},
            slider("context", "tokens, costs", min=8, max=17, log=True, digits=0),
        ]
        return [spec for spec in specs if spec["name"] in self._shown]

    def _cost_words(self, picture: Picture) -> str:
        return "; ".join(
            f"{name} {here}" + ("" if share is None else f", {share:.3g} % of {whole}")
            for name, here, whole, share in picture.head["costs"]
        )

    def _alt(self, picture: Picture) -> str:
        head = picture.head
        pairs = ", ".join(f"{i}→{kv}" for i, kv in enumerate(head["reads"]))
        windows = ", ".join(head["windows"])
        return (
            f"{head['heads']} query heads share {head['kv']} key/value heads ({pairs}). What each "
            f"head sees: {windows}. After {', '.join(map(str, range(1, head['layers'] + 1)))} "
            f"layers token {head['from']} has heard of {', '.join(map(str, head['reached']))} "
            f"tokens. Costs: {self._cost_words(picture)}."
        )

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        head = picture.head
        h, g = head["heads"], head["kv"]
        left, right = figure.subfigures(1, 2, width_ratios=(1, 1.1))
        columns = h if h < 4 else 4 if h <= 8 else 8
        top, bottom = left.subfigures(2, 1, height_ratios=(1, 2.2))
        ax = top.subplots()
        ax.set_axis_off()
        for i, kv in enumerate(head["reads"]):
            at = (kv + 0.5) * h / g
            ax.plot([i + 0.5, at], [0.82, 0.18], color="#555555", lw=1.5)
        for i in range(h):
            ax.text(i + 0.5, 0.9, f"Q{i}", ha="center", va="center", fontsize=10 if h <= 8 else 7)
        for kv in range(g):
            ax.text((kv + 0.5) * h / g, 0.08, f"KV{kv}", ha="center", va="center", fontsize=10,
                    fontweight="bold")  # fmt: skip
        ax.set_xlim(0, h)
        ax.set_ylim(0, 1)
        ax.set_title("which key/value head each query head reads", fontsize=11)
        grid = bottom.subplots(-(-h // columns), columns, squeeze=False).flatten()
        for ax in grid[h:]:
            ax.set_axis_off()
        for i in range(h):
            shown = torch.where(self.visible[i], (head["reads"][i] + 0.5) / g, torch.nan)
            grid[i].imshow(shown.numpy(), cmap=COLOUR_MAP, vmin=0, vmax=1)
            grid[i].set_title(f"Q{i}: {head['windows'][i]}" if h <= 8 else f"Q{i}", fontsize=8)
            grid[i].set_xticks([])
            grid[i].set_yticks([])
        up, down = right.subfigures(2, 1, height_ratios=(1, 1.2))
        ax = up.subplots()
        ax.imshow(self.reach.numpy(), cmap=COLOUR_MAP, vmin=0, vmax=1, aspect="auto")
        ax.set_yticks(range(head["layers"]), [str(i + 1) for i in range(head["layers"])])
        ax.set_ylabel("layers")
        ax.set_xlabel("token")
        ax.set_title(f"tokens that token {head['from']} has heard of (bright)", fontsize=11)
        ax = down.subplots()
        ax.set_axis_off()
        for i, (name, here, whole, share) in enumerate(head["costs"]):
            y = 0.9 - 0.24 * i
            ax.text(0, y, name, fontsize=11, transform=ax.transAxes)
            told = here if share is None else f"{here}  =  {share:.3g} % of {whole}"
            ax.text(0.04, y - 0.1, told, fontsize=11, fontweight="bold", transform=ax.transAxes)
