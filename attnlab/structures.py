"""Small models on letters, trees, graphs and items: which encoding helps, in five trainings each.

    results("letters")["disjoint"]["word"]    # shares right, one for each seed: measured before

    python -m attnlab.structures              # trains everything anew, and writes the results
    python -m attnlab.structures trees        # one task
    python -m attnlab.structures trees/paths  # one recipe
    python -m attnlab.structures --out there.json   # writes elsewhere than into the package

The results, with steps, learning rates, sizes and versions, are in data/structures.json. The
trained parameters are not kept: a training takes seconds, `attnlab.trained.train` makes it again.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn

from attnlab import positions
from attnlab.files import write_whole
from attnlab.models import TinyTransformer
from attnlab.tasks import UNASKED, Graphs, Letters, Recent, Trees
from attnlab.train import one_thread
from attnlab.trained import DATA, Recipe, train

FILE = DATA / "structures.json"
SEEDS = (0, 1, 2, 3, 4)
Run = tuple[Tensor, Tensor]  # what the model says (..., classes), and the answers (...)


class Projected(positions.Absolute):
    """Positions that are vectors already, such as Laplacian vectors: a trained matrix brings them
    to d_model. pos is (..., n, n_features)."""

    def __init__(self, n_features: int, d_model: int):
        super().__init__()
        self.project = nn.Linear(n_features, d_model, bias=False)

    def table(
        self, pos: Real[Tensor, "... n n_features"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "... n d_model"]:
        return self.project(pos.to(self.project.weight.dtype)).to(dtype)


def steps_apart(edges: Bool[Tensor, "batch n n"], most: int = 6) -> Int[Tensor, "batch n n"]:
    """Steps on the shortest path between each two nodes, at most `most`, -1 where there is none:
    `positions.graph_distances` for many graphs at once."""
    n = edges.shape[-1]
    reached = torch.eye(n, dtype=torch.bool, device=edges.device).expand_as(edges)
    found = torch.where(reached, 0, -1)
    for step in range(1, n):
        reached = (reached.float() @ edges.float() > 0) | reached
        found = torch.where((found < 0) & reached, min(step, most), found)
    return found


def spectra(edges: Bool[Tensor, "batch n n"], k: int) -> Float[Tensor, "batch n k"]:
    """`positions.laplacian_vectors` for many graphs at once, with signs as they come."""
    degree = edges.float().sum(-1)
    scale = degree.clamp(min=1) ** -0.5
    laplacian = torch.diag_embed((degree > 0).float())
    laplacian = laplacian - scale[..., None] * edges * scale[..., None, :]
    return torch.linalg.eigh(laplacian).eigenvectors[..., 1 : k + 1]


def _shares(run: Run, names: tuple[str, ...]) -> dict[str, float]:
    """The share of answers that are right; one for each name if the answers have a last axis."""
    said, answers = run[0].argmax(-1), run[1]
    if len(names) == 1:
        said, answers = said[..., None], answers[..., None]
    return {
        name: (said[..., i] == answers[..., i])[answers[..., i] != UNASKED].float().mean().item()
        for i, name in enumerate(names)
    }


def _loss(run: Run) -> Tensor:
    return F.cross_entropy(run[0].flatten(0, -2), run[1].flatten(), ignore_index=UNASKED)


def _recipe(
    name: str,
    model: Callable[[], nn.Module],
    run: Callable[[nn.Module, torch.Generator, int], Run],
    names: tuple[str, ...],
    sizes: dict[str, Any],
    *,
    steps: int,
    lr: float = 5e-3,
    size: int = 32,
    tests: dict[str, Callable] | None = None,
) -> Recipe:
    """run(model, generator, size) puts fresh examples to the model; `tests` are further ones for
    the scores, by name."""

    @torch.no_grad()
    def scores(model: nn.Module) -> dict[str, float]:
        with one_thread():
            if tests is None:
                return _shares(run(model, torch.Generator().manual_seed(10_000), 300), names)
            return {
                key: _shares(test(model, torch.Generator().manual_seed(10_000), 300), names)[
                    names[0]
                ]
                for key, test in tests.items()
            }

    return Recipe(
        name, model, lambda model, generator: _loss(run(model, generator, size)), scores,
        steps=steps, lr=lr, seeds=SEEDS, sizes=sizes, parameters=False,
    )  # fmt: skip


# Letters: the first letter of the own word and of the own sentence -----------------------------

LETTERS = Letters()


def _letters(way: str, encoding: Callable[[int], Any], *, levels: bool = True, **more) -> Recipe:
    steps = more.pop("steps", 400)
    sizes = {"d_model": 48, "n_heads": 6, "n_layers": 1, "d_ff": 192, "causal": False, **more}

    def model() -> TinyTransformer:
        return TinyTransformer(
            LETTERS.vocab_size, 2 * LETTERS.n_letters, encoding=encoding(48), **sizes
        )

    def run(model, generator, size) -> Run:
        texts = LETTERS.batch(size, generator)
        said = model(texts.ids, pos=texts.pos if levels else None)
        return said.unflatten(-1, (2, -1)), texts.answers

    return _recipe(f"letters/{way}", model, run, ("word", "sentence"), sizes, steps=steps)


# Trees: the label of the parent and of the sibling ----------------------------------------------


def _trees(way: str, encoding: Callable, *, brackets: bool = False, **more) -> Recipe:
    steps = more.pop("steps", 400)
    sizes = {"d_model": 48, "n_heads": 4, "n_layers": 1, "d_ff": 192, "causal": False, **more}
    task = Trees(brackets=brackets)

    def model() -> TinyTransformer:
        return TinyTransformer(task.vocab_size, 2 * task.n_labels, encoding=encoding(), **sizes)

    def run(model, generator, size) -> Run:
        trees = task.batch(size, generator)
        pos = trees.paths if isinstance(model.encoding, positions.TreePaths) else None
        said = model(trees.ids, padding=trees.inside, pos=pos)
        return said.unflatten(-1, (2, -1)), trees.answers

    return _recipe(f"trees/{way}", model, run, ("parent", "sibling"), sizes, steps=steps)


# Graphs: the colour that most neighbours have ---------------------------------------------------

GRAPHS = Graphs()
N_VECTORS = 8


def _graphs(way: str, encoding: Callable, give: Callable | None = None, **more) -> Recipe:
    """give(edges, training) -> the positions of the nodes."""
    steps = more.pop("steps", 400)
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 1, "d_ff": 128, "causal": False, **more}

    def model() -> TinyTransformer:
        return TinyTransformer(2, 2, encoding=encoding(), **sizes)

    def run(model, generator, size) -> Run:
        colours, edges, answers = GRAPHS.batch(size, generator)
        if isinstance(model.encoding, positions.GraphDistance):
            model.encoding.distance = steps_apart(edges)
        pos = give(edges, generator) if give else None
        return model(colours, pos=pos), answers

    return _recipe(f"graphs/{way}", model, run, ("colour",), sizes, steps=steps, size=64)


def _spectrum(edges: Tensor, generator: torch.Generator) -> Tensor:
    """Laplacian vectors with signs drawn anew each time, so that no model can rely on them."""
    vectors = 3 * spectra(edges, N_VECTORS)  # entries of size about 1, as a token's
    return vectors * (2 * torch.randint(0, 2, (len(edges), 1, N_VECTORS), generator=generator) - 1)


def _rows(edges: Tensor, generator: torch.Generator) -> Tensor:
    """For each node its number in the list, one-hot, and its row of the matrix of edges."""
    return torch.cat([torch.eye(edges.shape[-1]).expand_as(edges), edges.float()], dim=-1)


# Items: the third most recent one, among fillers ------------------------------------------------

ITEMS = {
    "as trained": Recent(),
    "few fillers": Recent(fillers=0.2),
    "many fillers": Recent(fillers=0.75),
    "long, 90 % fillers": Recent(length=128, fillers=0.9),
}


def _items(way: str, encoding: Callable, **more) -> Recipe:
    steps = more.pop("steps", 500)
    sizes = {"d_model": 32, "n_heads": 2, "n_layers": 1, "d_ff": 0, "causal": True, **more}

    def model() -> TinyTransformer:
        return TinyTransformer(16, 8, encoding=encoding(), **sizes)

    def on(task: Recent) -> Callable:
        def run(model, generator, size) -> Run:
            ids, answers = task.batch(size, generator)
            return model(ids), answers

        return run

    return _recipe(
        f"items/{way}", model, on(Recent()), ("item",), sizes, steps=steps,
        tests={key: on(task) for key, task in ITEMS.items()},
    )  # fmt: skip


def _sinusoidal(d: int = 48) -> positions.Sinusoidal:
    return positions.Sinusoidal(d, base=100.0)


def _levels(how: str) -> Callable:
    return lambda d: positions.Levels(d, 3, how, base=100.0)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _letters("disjoint", _levels("disjoint")),
        _letters("sum", _levels("sum")),
        _letters("flat", _sinusoidal, levels=False),
        _letters("flat, 2 layers", _sinusoidal, levels=False, n_layers=2, steps=1000),
        _trees("paths", lambda: positions.TreePaths(48, arity=2, depth=4)),
        _trees("flat", _sinusoidal),
        _trees("flat, brackets", _sinusoidal, brackets=True),
        _trees("flat, brackets, 2 layers", _sinusoidal, brackets=True, n_layers=2, steps=1000),
        _graphs("distance", lambda: positions.GraphDistance(4, max_distance=6)),
        _graphs("Laplacian", lambda: Projected(N_VECTORS, 32), _spectrum),
        _graphs("flat", lambda: _sinusoidal(32)),
        _graphs("flat, rows of edges", lambda: Projected(2 * GRAPHS.n_nodes, 32), _rows),
        _graphs("flat, rows, longer", lambda: Projected(2 * GRAPHS.n_nodes, 32), _rows, steps=1200),
        _items("counted", lambda: positions.Contextual(16, max_position=12)),
        _items("rope", lambda: positions.RoPE(16)),
        _items("rope, 2 layers", lambda: positions.RoPE(16), n_layers=2, d_ff=128),
        _items("flat, 2 layers", lambda: _sinusoidal(32), n_layers=2, d_ff=128),
    )
}


def results(task: str, file: Path = FILE) -> dict[str, dict[str, list[float]]]:
    """The shares right that were measured: way -> what was asked -> one for each seed.

    Raises:
        ValueError: for an unknown task.
    """
    runs = json.loads(file.read_text())["recipes"]
    found = {}
    for name, entry in runs.items():
        if name.startswith(f"{task}/"):
            scores = list(entry["scores"].values())
            found[name.split("/", 1)[1]] = {key: [s[key] for s in scores] for key in scores[0]}
    if not found:
        known = sorted({name.split("/")[0] for name in runs})
        raise ValueError(f"no results for {task!r}; there are {', '.join(known)}")
    return found


def make(recipe: Recipe, file: Path = FILE) -> dict[str, dict[str, float]]:
    """Train the recipe for all its seeds, write its results into the file, and return them."""
    scores = {}
    for seed in recipe.seeds:
        model, _ = train(recipe, seed, label=f"{recipe.name}, seed {seed}")
        scores[str(seed)] = {k: round(v, 4) for k, v in recipe.scores(model).items()}
    entry = {
        "steps": recipe.steps, "lr": recipe.lr, "sizes": recipe.sizes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "scores": scores,
    }  # fmt: skip
    old = json.loads(file.read_text())["recipes"] if file.exists() else {}
    merged = {**old, recipe.name: entry}
    ordered = {name: merged[name] for name in RECIPES if name in merged}
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in ordered.items())
    text = f'{{\n "command": "python -m attnlab.structures",\n "recipes": {{\n{lines}\n }}\n}}\n'
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text)
    return scores


def main(arguments: list[str] | None = None) -> int:
    """Train the named tasks or recipes, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m attnlab.structures",
        description="Train the models that notebook 13 compares.",
    )
    known = sorted({name.split("/")[0] for name in RECIPES})
    parser.add_argument("task", nargs="*", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--out", type=Path, default=FILE, help="file (default: the package's)")
    given = parser.parse_args(arguments)
    chosen = []
    for word in given.task or known:
        found = [r for name, r in RECIPES.items() if word in (name, name.split("/")[0])]
        if not found:
            parser.error(f"no task {word!r}; there are {', '.join(known)}")
        chosen += found
    for recipe in chosen:
        try:
            found = make(recipe, given.out)
        except KeyboardInterrupt:
            print(f"\nStopped; the results of {recipe.name} are as they were.", file=sys.stderr)
            return 130
        for seed, scores in found.items():
            print(f"{recipe.name}, seed {seed}:", scores)
    return 0


if __name__ == "__main__":
    sys.exit(main())
