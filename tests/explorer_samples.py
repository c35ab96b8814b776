"""One small explorer of every kind, for the tests that hold for all of them."""

import contextlib
import functools
import json
from unittest import mock

import numpy as np
import torch

from attnlab import explorers, races, tasks
from attnlab.explorers import cost, pruning_table
from attnlab.explorers.memory import Times
from attnlab.explorers.race import Curves
from attnlab.models import Encoder, EncoderConfig, TinyTransformer
from attnlab.pretrained import PretrainedEncoder, WordTokenizer

NAMES = [name for name in explorers.__all__ if name.endswith("Explorer")]
TEXT = "the cat chased the mouse"
SAYS = "anna met peter today . she sings ."  # in TinyEnglish


def unpack(view: bytes) -> tuple[dict, np.ndarray]:
    """What the page gets: the head, and the numbers."""
    length = int.from_bytes(view[:4], "little")
    numbers = view[4 + length + -length % 4 :]
    return json.loads(view[4 : 4 + length]), np.frombuffer(numbers, "<f4")


@functools.cache
def encoder(n_layers: int = 2, std: float | None = None) -> PretrainedEncoder:
    """With `std` its weights are far from uniform, so that layers and settings differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = EncoderConfig(vocab_size=2000, n_layers=n_layers, d_model=24, n_heads=4, d_ff=32,
                               max_len=128)  # fmt: skip
        model = Encoder(config).eval()
        for layer in model.layers if std else ():
            torch.nn.init.normal_(layer.attention.in_proj.weight, std=std)
    return PretrainedEncoder(model, WordTokenizer(2000), "made for a test", is_random=True)


@functools.cache
def english() -> tasks.TinyEnglish:
    return tasks.TinyEnglish()


def tiny(**options) -> TinyTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2} | options
        return TinyTransformer(english().vocab_size, english().vocab_size, **sizes)


@functools.cache
def pruned():
    """A table of four heads."""
    ids = torch.randint(0, 9, (8, 6), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TinyTransformer(9, 9, d_model=16, n_heads=4, n_layers=1)
    table = pruning_table(
        model,
        lambda: (model(ids) - torch.nn.functional.one_hot(ids, 9)).square().mean((1, 2)),
        lambda: (model(ids).argmax(-1) == ids).float().mean().item(),
    )
    table.tuned["gate", 2] = 0.5
    return table


def curves() -> dict[str, Curves]:
    generator = torch.Generator().manual_seed(0)
    loss = {name: torch.rand(3, 6, generator=generator) for name in races.ENCODINGS}
    found = {name: torch.rand(3, 4, generator=generator) for name in ("none", "t5")}
    return {
        "loss": Curves([16, 32, 48, 64, 80, 96], loss, "position", "loss", columns=(0, 3, 5)),
        "needle": Curves([1, 2, 3, 4], found, "distance", "found", columns=(0, 1), y=(0, 1)),
    }


def make(name: str, **settings):
    """A small explorer of this class; the last picture is its own, nothing loads."""
    given = {
        "AttentionExplorer": {"text": TEXT, "model": encoder(), "source": "random"},
        "HeadsExplorer": {
            "model": {"one": tiny(), "two": tiny(n_heads=4)}, "language": english(),
            "texts": [{"tokens": SAYS.split(), "ids": english().encode(SAYS)[0],
                       "links": {"subject": [(6, 4)], "pronoun": [(5, 0)]}}],
        },
        "MemoryExplorer": {"times": {"a card": Times(16, 64, {"rows": {1024: 0.2, 4096: 3.2}})}},
        "PruningExplorer": {"tables": {0: pruned(), 3: pruned()}},
        "RaceExplorer": {"tasks": curves()},
        "ShuffleExplorer": {"text": TEXT, "model": encoder()},
        "TermsExplorer": {
            "model": {"one": tiny(n_layers=1, encoding="sinusoidal"),
                      "two": tiny(n_layers=1, n_heads=4, encoding="sinusoidal", causal=True)},
            "language": english(), "text": SAYS,
        },
    }.get(name, {})  # fmt: skip
    return getattr(explorers, name)(**given | settings)


class _Timed(dict):
    """Seconds of any work."""

    def __contains__(self, work):
        return True

    def __missing__(self, work):
        return 1e-3


@contextlib.contextmanager
def measured_device():
    """The Cost Explorer's own device, measured already: nothing is timed while it is used."""
    device = cost._ThisDevice()
    device.name, device.rates, device.seconds = "cpu", cost.round_numbers(), _Timed()
    with mock.patch.object(cost, "THIS_DEVICE", device):
        yield
