"""The Race Explorer: encodings against each other, at lengths that training never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import traitlets
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from attnlab.explorers._base import Explorer, Picture, bundle, check_names, setting
from attnlab.plots import ENCODING_LOOKS as LOOKS
from attnlab.races import ENCODINGS, TRAINED_LEN

LABELS = {"none": "none", "sinusoidal": "sinusoidal", "learned": "learned", "shaw": "Shaw",
          "t5": "T5", "rope": "RoPE", "alibi": "ALiBi", "sandwich": "Sandwich"}  # fmt: skip
SCALINGS = {"plain": "as trained", "linear": "interpolated", "ntk": "NTK-aware", "yarn": "YaRN"}
CONTROLS = ("task", "show", "scaling", *ENCODINGS)


@dataclass(frozen=True)
class Curves:
    """One picture of the race.

    Attributes:
        x: where the points stand, in tokens.
        values: for each encoding (seeds, points); "rope, ntk" is RoPE with that scaling. NaN where
            there is no value.
        y_label: what was measured, with its unit.
        y: the lowest and the highest value shown; default from the values.
        columns: numbers of the points that the table shows.
    """

    x: Sequence[float]
    values: Mapping[str, Float[Tensor, "seeds points"]]
    x_label: str
    y_label: str
    columns: Sequence[int]
    y: tuple[float, float] | None = None


class RaceExplorer(Explorer):
    """Curves of the encodings that are switched on, over the seeds or for one of them, and the
    same numbers in a table.

    Args:
        tasks: the pictures to choose from, by name, all with the same seeds.
        task: which one is shown, default the first.
        show: "mean", with a band from the lowest to the highest seed, or "seed 0" ...
        scaling: how the encodings that can be scaled are read, a key of SCALINGS.
        on: the encodings that are switched on; default all.
        controls: names of the controls to show, from CONTROLS; default all.

    Attributes:
        lines: what is drawn: {encoding: (value, lowest, highest) of each point}.
        message, notes: as in `Explorer`.

    Raises:
        ValueError: for an unknown control or encoding, or without tasks. Any other bad value
            becomes a message in the widget.
    """

    _esm = bundle("dom.js", "controls.js", "lines.js", "race.js")
    _css = bundle("explorer.css", "race.css")

    SETTINGS = CONTROLS

    task = setting(traitlets.Unicode())
    show = setting(traitlets.Unicode())
    scaling = setting(traitlets.Unicode())
    none = setting(traitlets.Bool())
    sinusoidal = setting(traitlets.Bool())
    learned = setting(traitlets.Bool())
    shaw = setting(traitlets.Bool())
    t5 = setting(traitlets.Bool())
    rope = setting(traitlets.Bool())
    alibi = setting(traitlets.Bool())
    sandwich = setting(traitlets.Bool())

    def __init__(
        self,
        tasks: Mapping[str, Curves],
        *,
        task: str | None = None,
        show: str = "mean",
        scaling: str = "plain",
        on: Sequence[str] = ENCODINGS,
        controls: Sequence[str] = CONTROLS,
    ):
        if not tasks:
            raise ValueError("no tasks: give at least one name with its Curves")
        self._tasks = dict(tasks)
        self._n_seeds = min(len(v) for curves in tasks.values() for v in curves.values.values())
        self._shown = check_names("control", controls, CONTROLS)
        on = check_names("encoding", on, ENCODINGS)
        self.lines: dict[str, Float[Tensor, "3 points"]] = {}
        super().__init__(
            task=next(iter(tasks)) if task is None else task, show=show, scaling=scaling,
            **{name: name in on for name in ENCODINGS},
        )  # fmt: skip

    def _ways(self) -> dict[str, str]:
        seeds = {f"seed {s}": f"seed {s} alone" for s in range(self._n_seeds)}
        return {"mean": f"mean of {self._n_seeds} seeds, lowest to highest", **seeds}

    def _picture(self) -> Picture:
        check_names("task", self.task, list(self._tasks))
        check_names("way to show", self.show, list(self._ways()))
        check_names("scaling", self.scaling, list(SCALINGS))
        curves = self._tasks[self.task]
        lines, names, scaled = {}, [], []
        for name in ENCODINGS:
            key = f"{name}, {self.scaling}"
            if not getattr(self, name) or name not in curves.values:
                continue
            if key in curves.values:
                scaled.append(name)
            values = curves.values[key if key in curves.values else name].float()
            if self.show == "mean":
                lines[name] = torch.stack([values.mean(0), values.amin(0), values.amax(0)])
            else:
                one = values[int(self.show.removeprefix("seed "))]
                lines[name] = torch.stack([one, one, one])
            names.append(LABELS[name] + (f", {SCALINGS[self.scaling]}" if name in scaled else ""))
        self.lines = lines
        known = torch.cat([v.flatten() for v in curves.values.values()])
        known = known[known.isfinite()]
        low, high = curves.y or (min(0.0, known.min().item()), known.max().item())
        rows = [
            [
                self._cell(*line[:, column].tolist()) for column in curves.columns
            ]
            for line in lines.values()
        ]  # fmt: skip
        head = {
            "x": list(curves.x), "names": names, "looks": [LOOKS[name] for name in lines],
            "rows": rows, "columns": [f"{curves.x[c]:g}" for c in curves.columns],
            "xLabel": curves.x_label, "yLabel": curves.y_label, "y": [low, high],
            "borders": [TRAINED_LEN], "band": self.show == "mean",
        }  # fmt: skip
        notes = [f"Dotted: the training length, {TRAINED_LEN} tokens."]
        if not lines:
            notes.append("Switch an encoding on.")
        elif self.show == "mean":
            notes.append("Where two bands overlap, the seeds do not tell the two apart.")
        numbers = torch.cat([line.flatten() for line in lines.values()] or [torch.zeros(0)])
        return Picture(head, numbers, notes)

    def _cell(self, value: float, low: float, high: float) -> str:
        if value != value:
            return "–"
        return f"{value:.2f} [{low:.2f}, {high:.2f}]" if self.show == "mean" else f"{value:.2f}"

    def _controls(self) -> list[dict]:
        curves = self._tasks.get(self.task)
        scalable = curves and any(
            f"{name}, {self.scaling}" in curves.values or f"{name}, linear" in curves.values
            for name in ENCODINGS if getattr(self, name)
        )  # fmt: skip
        specs = [
            {"name": "task", "label": "task", "kind": "choice",
             "options": [(name, name) for name in self._tasks]},
            {"name": "show", "label": "show", "kind": "choice",
             "options": list(self._ways().items())},
            {"name": "scaling", "label": "RoPE", "kind": "choice",
             "options": list(SCALINGS.items())},
            *({"name": name, "label": LABELS[name], "kind": "check"} for name in ENCODINGS),
        ]  # fmt: skip
        if not scalable:
            specs[2]["why"] = "nothing that is on can be scaled here"
        return [spec for spec in specs if spec["name"] in self._shown]

    def _alt(self, picture: Picture) -> str:
        head = picture.head
        told = "; ".join(
            f"{name} " + ", ".join(f"{cell} at {at}" for cell, at in zip(row, head["columns"],
                                                                       strict=True))
            for name, row in zip(head["names"], head["rows"], strict=True)
        )  # fmt: skip
        return (
            f"Lines of the encodings, {self.task}: {head['yLabel']} against {head['xLabel']}, "
            f"{self._ways()[self.show]}. {told or 'No encoding is switched on'}."
        )

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        head = picture.head
        ax = figure.subplots()
        for name, label in zip(self.lines, head["names"], strict=True):
            colour, dash = LOOKS[name]
            value, low, high = self.lines[name]
            ax.plot(head["x"], value, color=colour, ls=(0, dash) if dash else "-", lw=2,
                    label=label)  # fmt: skip
            if head["band"]:
                ax.fill_between(head["x"], low, high, color=colour, alpha=0.18, lw=0)
        ax.axvline(TRAINED_LEN, color="#555555", lw=1, ls=":")
        low, high = head["y"]
        ax.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
        ax.set_xlabel(head["xLabel"])
        ax.set_ylabel(head["yLabel"])
        ax.set_title(self.task)
        if self.lines:
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3.5)
