"""What every part of the benchmark is given and hands back."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.measure import compare

SCALES = ("tiny", "cpu", "gpu")
Progress = Callable[[float], None]  # told the share of a part that is done, 0 to 1


@dataclass(frozen=True)
class Setting:
    """What the parts of a run have in common.

    Attributes:
        scale: which sizes to take: "tiny" shows within seconds that a part runs.
        rounds: how often each piece of work is timed; more while `seconds` are not over.
        memory: GiB; what would hold more is left out.
        peers: whether other libraries take part.
        options: sizes that the user chose instead of the scale's, by name.
    """

    device: torch.device
    scale: str = "tiny"
    rounds: int = 7
    seconds: float = 0.0
    memory: float = 6.0
    peers: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def fits(self, n_bytes: float) -> bool:
        return n_bytes <= self.memory * 2**30


@dataclass
class Table:
    """What a part measured: sizes that all rows share, the rows, and a line on what is missing.

    A row's words and numbers say what was measured; its dicts hold what was found, as
    `attnlab.measure.compare` gives it: "seconds", "ratio", "peak_bytes" and so on, or "left_out".
    """

    sizes: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def forward(work: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    """Work that runs without keeping anything for gradients."""

    def run() -> None:
        with torch.no_grad():
            work(*inputs)

    return run


def forward_backward(work: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    """Work, then gradients at inputs and parameters, from random ones at the output."""
    grad: list[Tensor] = []

    def run() -> None:
        out = work(*(t.detach().requires_grad_() for t in inputs))
        if not grad:
            grad.append(torch.randn_like(out))
        out.backward(grad[0])

    return run


PASSES = {"forward": forward, "forward + backward": forward_backward}


def both_passes(
    works: dict[Any, Callable[..., Tensor]],
    inputs: tuple[Tensor, ...] | dict[Any, tuple[Tensor, ...]],
    setting: Setting,
    progress: Progress,
    base: Any = None,
    passes: tuple[str, ...] = tuple(PASSES),
) -> dict[Any, dict[str, dict]]:
    """{key: {"forward": ..., "forward + backward": ...}}: each pass in rounds of its own.

    Args:
        works: functions of the inputs; a module among them is trained in the second pass.
        inputs: the same for all, or for each key its own.
    """
    found: dict[Any, dict[str, dict]] = {key: {} for key in works}

    def prepare(key) -> None:
        if isinstance(works[key], nn.Module):
            works[key].zero_grad(set_to_none=True)

    for i, name in enumerate(passes):
        runs = {}
        for key, work in works.items():
            if isinstance(work, nn.Module):
                work.train(name != "forward")
            given = inputs[key] if isinstance(inputs, dict) else inputs
            runs[key] = PASSES[name](work, given)
        timed = compare(
            runs, setting.device, rounds=setting.rounds, seconds=setting.seconds / len(passes),
            base=base, prepare=prepare,
            progress=lambda share, i=i: progress((i + share) / len(passes)),
        )  # fmt: skip
        for key, value in timed.items():
            found[key][name] = value
            prepare(key)
    return found


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """The same random numbers in each run; those outside the block stay as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def share_of(progress: Progress, done: int, total: int) -> Progress:
    """The progress of step number `done` (from 0) of `total` steps, as one of the whole."""
    return lambda share: progress((done + share) / total)
