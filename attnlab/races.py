"""The race of notebook 12: one small model, eight encodings, two tasks, some seeds.

    model = load("modes", "rope", seed=0)

    python -m attnlab.races             # trains all that is shipped, anew
    python -m attnlab.races --out there # writes elsewhere than into the package

All models are trained on texts of TRAINED_LEN tokens, with the same data for all encodings of a
seed. Their parameters are in data/race.safetensors, in 16 bits; data/race.json says how they were
made. Training may be stopped: the models that are ready are kept in a folder race-parts beside
these files, and the next call goes on from there.
"""

import argparse
import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attnlab import positions, trained
from attnlab.files import log_as_json, write_whole
from attnlab.models import TinyTransformer
from attnlab.tasks import Modes, Needle
from attnlab.train import one_thread
from attnlab.trained import DATA, Recipe

TRAINED_LEN = 32  # tokens
LONGEST = 512  # rows of the learned table, of which training reaches the first TRAINED_LEN
SEEDS = (0, 1, 2)
TASKS = {"modes": Modes(), "needle": Needle()}
ENCODINGS = ("none", "sinusoidal", "learned", "shaw", "t5", "rope", "alibi", "sandwich")
SIZES = {"d_model": 32, "n_heads": 4, "n_layers": 2, "d_ff": 128, "causal": True}


def encoding_of(name: str) -> positions.Encoding:
    """The encoding as it runs in the race: as `positions.make` builds it, but for T5, which gets
    buckets for keys on one side only, all of them reached within the training length."""
    if name == "t5":
        return positions.T5Bias(
            SIZES["n_heads"], n_buckets=16, max_distance=TRAINED_LEN, causal=True
        )
    return positions.make(
        name, d_model=SIZES["d_model"], n_heads=SIZES["n_heads"], max_len=LONGEST
    )


def modes_loss(
    model: TinyTransformer, generator: torch.Generator, size: int = 32, length: int = TRAINED_LEN
) -> Float[Tensor, ""]:
    """Cross-entropy of the next token, in nats."""
    device = model.words.weight.device
    ids = TASKS["modes"].batch(size, length + 1, generator)[0].to(device)
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def needle_loss(
    model: TinyTransformer, generator: torch.Generator, size: int = 64
) -> Float[Tensor, ""]:
    """Cross-entropy of the value that the last token asks for."""
    ids, values, _ = TASKS["needle"].batch(size, TRAINED_LEN, generator)
    device = model.words.weight.device
    return F.cross_entropy(model(ids.to(device))[:, -1], values.to(device))


@torch.no_grad()
def excess(
    model: TinyTransformer, ids: Tensor, best: Tensor, chunk: int = 8
) -> Float[Tensor, "size n"]:
    """Loss above the best possible one, in nats, for each token of `Modes` texts but the first:
    column t is the loss on token t + 1."""
    with one_thread():
        logits = torch.cat([model(part) for part in ids[:, :-1].split(chunk)])
    return F.cross_entropy(logits.mT, ids[:, 1:], reduction="none") - best[:, 1:]


@torch.no_grad()
def found(model: TinyTransformer, ids: Tensor, values: Tensor, chunk: int = 8) -> Tensor:
    """For each text of `Needle`, True where the model names the value that is asked for."""
    with one_thread():
        said = torch.cat([model(part)[:, -1].argmax(-1) for part in ids.split(chunk)])
    return said == values


def _scores(task: str, model: TinyTransformer) -> dict[str, float]:
    """How well it does at the training length and at eight times that."""
    generator = torch.Generator().manual_seed(10_000)
    if task == "modes":
        over = excess(model, *TASKS[task].batch(32, 8 * TRAINED_LEN + 1, generator))
        first, last = over[:, :TRAINED_LEN].mean(), over[:, -TRAINED_LEN:].mean()
        return {"excess": first.item(), "excess_8": last.item()}
    right = [
        found(model, *TASKS[task].batch(200, k * TRAINED_LEN, generator)[:2]).float().mean()
        for k in (1, 8)
    ]
    return {"found": right[0].item(), "found_8": right[1].item()}


def recipe(task: str, encoding: str, device: str = "cpu") -> Recipe:
    """How the models of one task and encoding are made.

    Raises:
        ValueError: for a task or an encoding that does not race.
    """
    for what, name, known in (("task", task, TASKS), ("encoding", encoding, ENCODINGS)):
        if name not in known:
            raise ValueError(f"no {what} {name!r} in the race; there are {', '.join(known)}")
    language = TASKS[task]
    n_out = language.vocab_size if task == "modes" else language.n_values

    def model() -> TinyTransformer:
        return TinyTransformer(
            language.vocab_size, n_out, encoding=encoding_of(encoding), **SIZES
        ).to(device)

    return Recipe(
        f"{task}/{encoding}", model, modes_loss if task == "modes" else needle_loss,
        lambda model: _scores(task, model), steps=1_000 if task == "modes" else 600, lr=3e-3,
        seeds=SEEDS, sizes={"vocab_size": language.vocab_size, "n_out": n_out, **SIZES},
    )  # fmt: skip


def load(
    task: str, encoding: str, seed: int = 0, swap: positions.Encoding | None = None,
    data: Path = DATA,
) -> TinyTransformer:
    """The trained model that is shipped for this task, encoding and seed.

    Args:
        swap: read positions with this encoding instead of the trained one, with all parameters as
            they are. For encodings without parameters of their own, such as RoPE.

    Raises:
        ValueError: for a task, encoding or seed that is not shipped.
    """
    how = recipe(task, encoding)
    if seed not in SEEDS:
        raise ValueError(f"the race has the seeds {SEEDS}, not {seed!r}")
    own = f"{how.name}/{seed}/"
    model = trained.start(how, 0)
    model.load_state_dict(
        {k.removeprefix(own): v.float() for k, v in _stored(data).items() if k.startswith(own)}
    )
    if swap is not None:
        replace_encoding(model, swap)
    return model.eval()


def replace_encoding(model: TinyTransformer, encoding: positions.Encoding) -> None:
    """Let the model read positions with another encoding; all other parameters stay."""
    model.encoding = encoding
    for layer in model.layers:
        layer.attention.encoding = encoding


def log(data: Path = DATA) -> dict:
    """How the shipped models were made."""
    return json.loads((data / "race.json").read_text())


@cache
def _stored(data: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(data / "race.safetensors")


def part(how: Recipe, seed: int, folder: Path) -> Path:
    """The trained model of one recipe and seed as a file; trained now if it is not there."""
    said = repr((how.name, how.steps, how.lr, how.sizes, TASKS[how.name.split("/")[0]]))
    mark = hashlib.sha256(said.encode()).hexdigest()[:8]
    path = folder / f"{how.name.replace('/', '-')}-{seed}-{mark}.safetensors"
    if not path.exists():
        model, losses = trained.train(how, seed, label=f"{how.name}, seed {seed}")
        model = model.cpu()
        run = {"losses": [round(x, 4) for x in losses[:: 5 * trained.LOG_EVERY]],
               "last_loss": round(sum(losses[-50:]) / 50, 4)}  # fmt: skip
        run["scores"] = {k: round(v, 4) for k, v in how.scores(model).items()}
        folder.mkdir(parents=True, exist_ok=True)
        content = safetensors.torch.save(
            {k: v.half().contiguous() for k, v in model.state_dict().items()},
            {"run": json.dumps(run)},
        )
        write_whole(path, content)
    return path


def make(
    out: Path = DATA, device: str = "cpu", tasks: Sequence[str] = tuple(TASKS), command: str = ""
) -> None:
    """Train what is not ready yet; write both files when all of the race is."""
    parts, tensors, runs = out / "race-parts", {}, {}
    for task in tasks:
        for seed in SEEDS:  # a seed of all encodings, then the next
            for encoding in ENCODINGS:
                part(recipe(task, encoding, device), seed, parts)
    if set(tasks) != set(TASKS):
        return
    for task in TASKS:
        for encoding in ENCODINGS:
            for seed in SEEDS:
                how = recipe(task, encoding)
                with safetensors.safe_open(part(how, seed, parts), "pt") as stored:
                    runs[f"{how.name}/{seed}"] = json.loads(stored.metadata()["run"])
                    for key in stored.keys():  # noqa: SIM118
                        tensors[f"{how.name}/{seed}/{key}"] = stored.get_tensor(key)
    parameters = safetensors.torch.save(tensors)
    name = torch.cuda.get_device_name() if device == "cuda" else device
    written = {
        "command": command, "device": name, "trained_len": TRAINED_LEN, "seeds": list(SEEDS),
        "encodings": list(ENCODINGS), "sizes": SIZES,
        "recipes": {
            task: {"steps": recipe(task, "none").steps, "lr": recipe(task, "none").lr,
                   "texts_per_step": 32 if task == "modes" else 64, "language": repr(language)}
            for task, language in TASKS.items()
        },
        "dtype": "float16", "sha256": hashlib.sha256(parameters).hexdigest(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "loss_every": 5 * trained.LOG_EVERY, "runs": runs,
    }  # fmt: skip
    write_whole(out / "race.safetensors", parameters)
    write_whole(out / "race.json", log_as_json(written))
    for path in parts.glob("*.safetensors"):
        path.unlink()
    parts.rmdir()


def main(arguments: list[str] | None = None) -> int:
    """Train the race."""
    parser = argparse.ArgumentParser(
        prog="python -m attnlab.races", description="Train the models of the race (notebook 12)."
    )
    parser.add_argument("--out", type=Path, default=DATA, help="folder (default: the package's)")
    parser.add_argument("--task", choices=list(TASKS), help="only train this one's models")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    given = parser.parse_args(arguments)
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    command = shlex.join(["python", "-m", "attnlab.races"])
    try:
        make(given.out, device, [given.task] if given.task else list(TASKS), command)
    except KeyboardInterrupt:
        print(f"\nStopped; what is ready is kept in {given.out}/race-parts.", file=sys.stderr)
        return 130
    print(f"race: written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
