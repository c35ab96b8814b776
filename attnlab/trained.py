"""Small trained models that come with the course, and how they were made.

    model = load_tiny_english(seed=0)

    python -m attnlab.trained                 # trains everything that is shipped, anew
    python -m attnlab.trained tiny-english    # one recipe
    python -m attnlab.trained --out there     # writes elsewhere than into the package

A recipe's models, one for each seed, are in data/NAME.safetensors; data/NAME.json says how they
were made and how it went: seeds, sizes, losses on the way, scores at the end, versions, the
command.
To add a recipe, write its parts beside those of tiny-english and add it to RECIPES.
"""

import argparse
import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.files import log_as_json, write_whole
from attnlab.models import TinyTransformer
from attnlab.tasks import Roles, Texts, TinyEnglish
from attnlab.train import fit, one_thread

DATA = Path(__file__).parent / "data"
LOG_EVERY = 10  # steps between two losses in the log


@dataclass(frozen=True)
class Recipe:
    """How one kind of model is made.

    Attributes:
        model: gives a model with random parameters, drawn from torch's global generator.
        loss: (model, generator) -> the loss on fresh examples drawn from the generator.
        scores: model -> its accuracies on examples that are the same for all seeds.
        sizes: the arguments of the model, for the log.
        parameters: whether the trained parameters are shipped, or only the log.
    """

    name: str
    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, torch.Generator], Tensor]
    scores: Callable[[nn.Module], dict[str, float]]
    steps: int
    lr: float
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    sizes: dict[str, Any] = field(default_factory=dict)
    parameters: bool = True


def start(recipe: Recipe, seed: int) -> nn.Module:
    """The model as it is before training; the global random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return recipe.model()


def train(
    recipe: Recipe, seed: int, *, label: str | None = None, only: int | None = None
) -> tuple[nn.Module, list[float]]:
    """The trained model and the loss of every step. `only` ends after so many steps, which are the
    first ones of the whole training."""
    model, generator = start(recipe, seed), torch.Generator().manual_seed(seed)
    early = {} if only is None else {"stop": lambda: True, "every": only}
    losses = fit(
        model, lambda: recipe.loss(model, generator), steps=recipe.steps, lr=recipe.lr,
        label=label, **early,
    )  # fmt: skip
    return model.eval(), losses


def load(recipe: Recipe, seed: int, data: Path = DATA) -> nn.Module:
    """The trained model that is shipped for this seed.

    Raises:
        ValueError: for a seed that is not shipped.
    """
    if seed not in recipe.seeds:
        raise ValueError(f"{recipe.name} is shipped for the seeds {recipe.seeds}, not {seed!r}")
    model, stored = start(recipe, 0), _stored(data / f"{recipe.name}.safetensors")
    own = f"{seed}/"
    model.load_state_dict(
        {k.removeprefix(own): v for k, v in stored.items() if k.startswith(own)}
    )
    return model.eval()


def log(recipe: Recipe, data: Path = DATA) -> dict[str, Any]:
    """How the shipped models were made."""
    return json.loads((data / f"{recipe.name}.json").read_text())


@cache
def _stored(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


def make(recipe: Recipe, out: Path = DATA, command: str = "") -> None:
    """Train the recipe for all its seeds and write both files, when everything is done."""
    tensors, runs = {}, {}
    for seed in recipe.seeds:
        model, losses = train(recipe, seed, label=f"{recipe.name}, seed {seed}")
        scores = recipe.scores(model)
        runs[str(seed)] = {
            "losses": [round(x, 5) for x in losses[::LOG_EVERY]],
            "last_loss": round(losses[-1], 5),
            "scores": {name: round(value, 4) for name, value in scores.items()},
        }
        tensors |= {f"{seed}/{k}": v.contiguous() for k, v in model.state_dict().items()}
    parameters = safetensors.torch.save(tensors, {"recipe": recipe.name})
    written = {
        "recipe": recipe.name, "command": command, "seeds": list(recipe.seeds),
        "steps": recipe.steps, "lr": recipe.lr, "sizes": recipe.sizes,
        "parameters_of_one_seed": sum(p.numel() for p in model.parameters()),
        "sha256": hashlib.sha256(parameters).hexdigest(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "loss_every": LOG_EVERY, "runs": runs,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    if recipe.parameters:
        write_whole(out / f"{recipe.name}.safetensors", parameters)
    write_whole(out / f"{recipe.name}.json", log_as_json(written))


# --------------------------------------------------------------------------------------------
# tiny-english: two layers of four heads, attention only, on tasks.TinyEnglish. tiny-english-stops:
# the same on texts in which names end with a stop.
# --------------------------------------------------------------------------------------------

SIZES = {"d_model": 64, "n_heads": 4, "n_layers": 2, "d_ff": 0, "encoding": "rope", "causal": True}


def tiny_english_loss(
    model: nn.Module, generator: torch.Generator, language: TinyEnglish, size: int = 32
) -> Tensor:
    """Cross-entropy of the next word where it is decided, and half that of the previous word."""
    texts = language.batch(size, generator)
    after, before = model(texts.ids).chunk(2, dim=-1)  # (size, n, vocab_size) each
    asked, inside = texts.asked[:, :-1], texts.inside[:, 1:]
    next_word = F.cross_entropy(after[:, :-1][asked], texts.ids[:, 1:][asked])
    last_word = F.cross_entropy(before[:, 1:][inside], texts.ids[:, :-1][inside])
    return next_word + 0.5 * last_word


@torch.no_grad()
def tiny_english_scores(model: nn.Module, texts: Texts) -> dict[str, float]:
    """For each relation the share of its links whose answer is right: the word after the query, or
    for "previous" the word before it."""
    with one_thread():
        after, before = (half.argmax(-1) for half in model(texts.ids).chunk(2, dim=-1))
    scores = {}
    for name, links in texts.links.items():
        text, query, _ = links.unbind(1)
        said = (before if name == "previous" else after)[text, query]
        true = texts.ids[text, query + (-1 if name == "previous" else 1)]
        scores[name] = (said == true).float().mean().item()
    return scores


def _tiny_english(name: str, language: TinyEnglish, seeds: tuple[int, ...]) -> Recipe:
    """The read-out has two halves, each with a number for every word of the language: which word
    comes next, and which word came before."""
    vocab_size = language.vocab_size
    return Recipe(
        name,
        lambda: TinyTransformer(vocab_size, 2 * vocab_size, max_len=language.length, **SIZES),
        lambda model, generator: tiny_english_loss(model, generator, language),
        lambda model: tiny_english_scores(
            model, language.batch(500, torch.Generator().manual_seed(10_000))
        ),
        steps=700, lr=3e-3, seeds=seeds, sizes={"vocab_size": vocab_size, **SIZES},
    )  # fmt: skip


TINY_ENGLISH = _tiny_english("tiny-english", TinyEnglish(), (0, 1, 2, 3, 4))
TINY_ENGLISH_STOPS = _tiny_english("tiny-english-stops", TinyEnglish(stops=True), (0, 1, 2))


def load_tiny_english(seed: int = 0, stops: bool = False) -> TinyTransformer:
    """The model that is shipped for this seed, 0 ... 4 (with stops 0 ... 2).

    Its words are those of `tasks.TinyEnglish(stops)`, its layers "layers.0.attention" and
    "layers.1.attention". For each word it reads out one number for every word of the language, how
    likely it comes next, and then one for every word, how likely it came before.

    Raises:
        ValueError: for a seed that is not shipped.
    """
    return load(TINY_ENGLISH_STOPS if stops else TINY_ENGLISH, seed)


# --------------------------------------------------------------------------------------------
# sharing-*: one layer of eight query heads and fewer key/value heads, on tasks.Roles
# --------------------------------------------------------------------------------------------

ROLES = Roles(n_words=60, offsets=(-2, -1, 1, 2), length=10)


def roles_answers(
    model: nn.Module, ids: Int[Tensor, "batch n"], verb: Int[Tensor, " batch"]
) -> Float[Tensor, "batch roles words"]:
    """What the model says at the verb: a number for each role and word."""
    return model(ids)[torch.arange(len(ids)), verb].unflatten(-1, (-1, ROLES.n_words))


def roles_loss(model: nn.Module, generator: torch.Generator, size: int = 128) -> Tensor:
    """Cross-entropy of the words in the four roles."""
    ids, verb, roles = ROLES.batch(size, generator)
    return F.cross_entropy(roles_answers(model, ids, verb).flatten(0, 1), roles.flatten())


@torch.no_grad()
def roles_scores(model: nn.Module) -> dict[str, float]:
    """The share of roles, and of whole sentences, that are right in 2,000 fresh sentences."""
    ids, verb, roles = ROLES.batch(2_000, torch.Generator().manual_seed(10_000))
    with one_thread():
        right = roles_answers(model, ids, verb).argmax(-1) == roles
    return {"roles": right.float().mean().item(), "all_roles": right.all(-1).float().mean().item()}


def sharing(
    name: str, n_kv_heads: int, *, steps: int = 1_200, lr: float = 1e-2, parameters: bool = False,
    **sizes,
) -> Recipe:
    """Attention only and d_model 32, if `sizes` say nothing else."""
    sizes = {
        "d_model": 32, "n_heads": 8, "n_kv_heads": n_kv_heads, "n_layers": 1, "d_ff": 0,
        "encoding": "learned", "causal": False, "max_len": ROLES.length, **sizes,
    }  # fmt: skip
    n_out = len(ROLES.offsets) * ROLES.n_words

    def model() -> TinyTransformer:
        return TinyTransformer(ROLES.vocab_size, n_out, **sizes)

    return Recipe(
        name, model, roles_loss, roles_scores, steps=steps, lr=lr, parameters=parameters,
        sizes={"vocab_size": ROLES.vocab_size, "n_out": n_out, **sizes},
    )  # fmt: skip


SHARING = {
    recipe.name: recipe
    for recipe in (
        sharing("sharing-8", 8, parameters=True),
        sharing("sharing-4", 4),
        sharing("sharing-2", 2),
        sharing("sharing-1", 1),
        sharing("sharing-1-wide", 1, d_head=7),  # 4,032 parameters, where 8 heads of 4 have 4,096
        sharing("sharing-1-long", 1, steps=4_000),
        sharing("sharing-8-large", 8, d_model=64, d_ff=128, lr=5e-3),
        sharing("sharing-1-large", 1, d_model=64, d_ff=128, lr=5e-3),
    )
}


RECIPES = {recipe.name: recipe for recipe in (TINY_ENGLISH, TINY_ENGLISH_STOPS, *SHARING.values())}


def main(arguments: list[str] | None = None) -> int:
    """Train the named recipes, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m attnlab.trained", description="Train the models that the course ships."
    )
    parser.add_argument("recipe", nargs="*", help=f"of {', '.join(RECIPES)} (default: all)")
    parser.add_argument("--out", type=Path, default=DATA, help="folder (default: the package's)")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.recipe if name not in RECIPES]
    if unknown:
        parser.error(f"no recipe {unknown[0]!r}; there are {', '.join(RECIPES)}")
    for name in given.recipe or RECIPES:
        command = shlex.join(["python", "-m", "attnlab.trained", name])
        try:
            make(RECIPES[name], given.out, command)
        except KeyboardInterrupt:
            print(f"\nStopped; the files of {name} are as they were.", file=sys.stderr)
            return 130
        print(f"{name}: written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
