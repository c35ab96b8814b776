"""The Pruning Explorer: take heads out of trained models and see what is left of their accuracy."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import traitlets
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor, nn

from attnlab import heads
from attnlab.explorers._base import Explorer, Picture, bundle, check_names, setting
from attnlab.heads import Head, Losses

CONTROLS = ("kept", "criterion", "seed")
SCORES = {"gate": "gate importance", "norm": "gradient norm", "ablation": "ablation"}
CRITERIA = {
    **SCORES,
    "steps": "gate importance, in steps",
    "random": "random (mean of all)",
    "reverse": "most important first",
}
OWN = "your own choice (click heads)"
MOST_HEADS = 12  # every choice of heads is measured: 4096 then


@dataclass(frozen=True)
class PruningTable:
    """One trained model with everything measured that the explorer shows. Heads are numbered
    through the layers, in the order of `names`; a choice of heads is a whole number whose bit h
    says whether head h stays.

    Attributes:
        names: (layer, head) for each number.
        scores: for "gate", "norm" and "ablation" one number for each head.
        orders: for each criterion but "random" the numbers of the heads, the first to go first.
        accuracy: of every choice, (2 ** n_heads,).
        parameters: of all attention layers together, with 0 ... n_heads heads.
        tuned: accuracy after fine-tuning, by (criterion, heads kept), where it was measured.
    """

    names: list[Head]
    scores: dict[str, Float[Tensor, " n_heads"]]
    orders: dict[str, list[int]]
    accuracy: Float[Tensor, " choices"]
    parameters: list[int]
    tuned: dict[tuple[str, int], float] = field(default_factory=dict)

    @property
    def n_heads(self) -> int:
        return len(self.names)

    def choice(self, criterion: str, kept: int) -> int:
        """The heads that stay when the first of this criterion's order are gone."""
        return sum(1 << h for h in self.orders[criterion][self.n_heads - kept :])

    def curve(self, criterion: str) -> Float[Tensor, " n_kept"]:
        """Accuracy with 0 ... n_heads heads kept; "random" is the mean of all choices of so many,
        "best" and "worst" are the best and the worst of them."""
        sizes = range(self.n_heads + 1)
        if criterion in ("random", "best", "worst"):
            take = {"random": torch.mean, "best": torch.max, "worst": torch.min}[criterion]
            count = torch.tensor([c.bit_count() for c in range(len(self.accuracy))])
            return torch.stack([take(self.accuracy[count == k]) for k in sizes])
        return self.accuracy[[self.choice(criterion, k) for k in sizes]]


def pruning_table(
    model: nn.Module,
    losses: Losses,
    accuracy: Callable[[], float],
    tuned: Mapping[tuple[str, int], float] | None = None,
) -> PruningTable:
    """Measure everything once: scores, orders, and the accuracy of every choice of heads.

    Args:
        losses: as `attnlab.heads` wants them: runs the model, one loss for each example.
        accuracy: runs the model and says how good it is.

    Raises:
        ValueError: for a model with no heads, or too many to try every choice.
    """
    names = heads.all_heads(model)
    n = len(names)
    if not 1 <= n <= MOST_HEADS:
        raise ValueError(f"every choice of heads is tried: 1 … {MOST_HEADS} heads, not {n}")
    scores = {
        "gate": heads.gate_importance(model, losses),
        "norm": heads.gradient_norm(model, losses),
        "ablation": heads.ablation(model, lambda: losses().mean().item()),
    }
    number = {head: i for i, head in enumerate(names)}
    order = {name: heads.ranking(of_heads) for name, of_heads in scores.items()}
    order["steps"] = heads.prune_in_steps(model, losses, n)
    order["reverse"] = order["gate"][::-1]
    found = []
    with torch.no_grad():
        for choice in range(2**n):
            gone = [head for i, head in enumerate(names) if not choice >> i & 1]
            with heads.without(model, gone):
                found.append(float(accuracy()))

    def count(modules) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    each = {count([model]) - count([heads.prune(model, [head])]) for head in names}
    if len(each) > 1:
        raise ValueError(f"the heads have unlike numbers of parameters: {sorted(each)}")
    full, each = count(heads.attention_layers(model).values()), each.pop()
    return PruningTable(
        names,
        {name: torch.cat(list(of_heads.values())) for name, of_heads in scores.items()},
        {name: [number[head] for head in of_all] for name, of_all in order.items()},
        torch.tensor(found),
        [full - each * (n - kept) for kept in range(n + 1)],
        dict(tuned or {}),
    )


class PruningExplorer(Explorer):
    """Accuracy against the number of heads kept, for every order in which heads can go, with the
    heads that are left and what they cost. Heads can be clicked in and out one by one.

    Args:
        tables: a `PruningTable` for each seed.
        kept: number of heads kept.
        criterion: a key of CRITERIA, or "own": the heads in `own`.
        seed: which of the trained models.
        own: a choice of heads as a whole number, bit h = head h stays; shown if criterion is "own".
        controls: names of the controls to show, from CONTROLS; default all.

    Attributes:
        accuracy: of what is shown.
        shown: the numbers of the heads that are kept (for "random": none in particular, empty).
        message, notes: as in `Explorer`.

    Raises:
        ValueError: for an unknown control, or tables of models with unlike numbers of heads. Any
            other bad value becomes a message in the widget.
    """

    _esm = bundle("dom.js", "controls.js", "lines.js", "pruning.js")
    _css = bundle("explorer.css", "pruning.css")

    SETTINGS = (*CONTROLS, "own")

    kept = setting(traitlets.Int())
    criterion = setting(traitlets.Unicode())
    seed = setting(traitlets.CInt())
    own = setting(traitlets.Int())

    def __init__(
        self,
        tables: Mapping[int, PruningTable],
        *,
        kept: int = 4,
        criterion: str = "gate",
        seed: int | None = None,
        own: int | None = None,
        controls: Sequence[str] = CONTROLS,
    ):
        self._shown = check_names("control", controls, CONTROLS)
        self._tables = dict(tables)
        if len({t.n_heads for t in self._tables.values()}) != 1:
            raise ValueError("tables needs at least one seed, and models with equally many heads")
        self._n = next(iter(self._tables.values())).n_heads
        self.accuracy, self.shown = math.nan, []
        super().__init__(
            kept=kept, criterion=criterion, seed=next(iter(tables)) if seed is None else seed,
            own=2**self._n - 1 if own is None else own,
        )  # fmt: skip

    def _picture(self) -> Picture:
        n = self._n
        if self.seed not in self._tables:
            known = ", ".join(map(str, self._tables))
            raise ValueError(f"no model of seed {self.seed}; there are {known}")
        check_names("criterion", self.criterion, [*CRITERIA, "own"])
        if not 0 <= self.kept <= n:
            raise ValueError(f"kept = {self.kept} is not in 0 … {n}")
        if not 0 <= self.own < 2**n:
            raise ValueError(f"own = {self.own} is no choice of {n} heads: 0 … {2**n - 1}")
        table, own = self._tables[self.seed], self.criterion == "own"
        curves = {name: table.curve(name) for name in (*CRITERIA, "best", "worst")}
        choice = 0
        if own:
            choice = self.own
        elif self.criterion != "random":
            choice = table.choice(self.criterion, self.kept)
        kept = choice.bit_count() if own else self.kept
        random = self.criterion == "random"
        value = curves["random"][kept] if random else table.accuracy[choice]
        self.accuracy, self.shown = value.item(), [h for h in range(n) if choice >> h & 1]
        score = {"norm": "norm", "ablation": "ablation"}.get(self.criterion, "gate")
        scores = table.scores[score].clamp(min=0)
        tuned = table.tuned.get((self.criterion, kept))
        share = table.parameters[kept] / table.parameters[-1]
        fact = f"{kept} of {n} heads kept: accuracy {self.accuracy:.2f}"
        if tuned is not None:
            fact += f", after fine-tuning {tuned:.2f}"
        fact += (f". Attention parameters: {table.parameters[kept]:,} of "
                 f"{table.parameters[-1]:,} ({share:.0%}).")  # fmt: skip
        names = [*CRITERIA.items(), ("best", "best of all choices"),
                 ("worst", "worst of all choices")]  # fmt: skip
        order = [] if own or random else table.orders[self.criterion]
        layers = list(dict.fromkeys(layer for layer, _ in table.names))
        head = {
            "n": n, "kept": kept, "criterion": self.criterion, "own": own, "random": random,
            "choice": choice, "fact": fact,
            "rows": [[key, text, [round(v, 4) for v in curves[key].tolist()]]
                     for key, text in names],
            "tuned": [[key, k, round(v, 4)] for (key, k), v in table.tuned.items()],
            "scores": (scores / scores.max().clamp(min=1e-12)).tolist(),
            "scoreName": SCORES[score], "order": order,
            "heads": [[layers.index(layer), h] for layer, h in table.names],
            "accuracy": round(self.accuracy, 4),
        }  # fmt: skip
        notes = []
        if random:
            notes.append("The mean of all choices of so many heads; no choice in particular.")
        elif own:
            notes.append("Click a head to take it out or put it back.")
        elif self.criterion in ("steps", "reverse"):
            notes.append("The bars are gate importance in the whole model.")
        return Picture(head, notes=notes)

    def _controls(self) -> list[dict]:
        own = self.criterion == "own"
        specs = {
            "kept": {"label": "heads kept", "kind": "range", "min": 0, "max": self._n, "step": 1,
                     **({"why": "choose heads below", "fixed": max(0, self.own).bit_count()}
                        if own else {})},
            "criterion": {"label": "order", "kind": "choice",
                          "options": [*CRITERIA.items(), ("own", OWN)]},
            "seed": {"label": "seed", "kind": "choice",
                     "options": [[str(s), str(s)] for s in self._tables]},
        }  # fmt: skip
        return [{"name": name, **specs[name]} for name in self._shown]

    def _alt(self, picture: Picture) -> str:
        head = picture.head
        at = ", ".join(f"{text} {curve[head['kept']]:.2f}" for _, text, curve in head["rows"])
        kept = ", ".join(map(str, self.shown)) or "none in particular"
        if head["kept"] == 0:
            kept = "none"
        return (
            f"Accuracy against the number of heads kept, seed {self.seed}. {head['fact']} Order: "
            f"{OWN if head['own'] else CRITERIA[self.criterion]}. Heads kept: {kept}. With "
            f"{head['kept']} heads: {at}."
        )

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        head, n = picture.head, self._n
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        for key, _, curve in head["rows"]:
            strong = key == self.criterion
            quiet = "--" if key in ("best", "worst") else "-"
            left.plot(range(n + 1), curve, color="#b84d00" if strong else "#7c7b78",
                      lw=3 if strong else 1, ls=quiet, zorder=3 if strong else 2)  # fmt: skip
        left.axvline(head["kept"], color="#0072b2")
        left.plot([head["kept"]], [self.accuracy], "o", ms=9, color="#b84d00", zorder=4)
        left.set(xlabel="heads kept", ylabel="accuracy", ylim=(0, 1.03))
        name = "your own choice" if head["own"] else CRITERIA[self.criterion]
        left.set_title(f"thick: {name}; dashed: best and worst choice", fontsize=10)
        fills = ["#b84d00" if h in self.shown else "white" for h in range(n)]
        if head["random"]:
            fills = ["#dddddd"] * n
        right.bar(range(n), head["scores"], color=fills, edgecolor="#00224e")
        right.set_xticks(range(n), [f"{layer}.{h}" for layer, h in head["heads"]])
        right.set(xlabel="layer.head (filled: kept)", yticks=[],
                  ylabel=f"{head['scoreName']} (largest: 1)")  # fmt: skip
        figure.suptitle(head["fact"], fontsize=11)
