"""A step of training a whole transformer: forward, backward, AdamW."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.bench.dtypes import Autocast
from attnlab.bench.parts import Progress, Setting, Table
from attnlab.measure import compare
from attnlab.models import TinyTransformer

SIZES = {  # d_model, n_heads, n_layers, batch, tokens
    "tiny": (16, 2, 1, 2, 8),
    "cpu": (256, 8, 4, 4, 256),
    "gpu": (1024, 16, 8, 4, 2048),
}
WORDS = 1000
ENCODINGS = ("none", "sinusoidal", "learned", "rope", "alibi", "t5")
STEPS = ("forward", "forward + backward", "whole step")


class TorchTransformer(nn.Module):
    """The same sizes from torch's own parts; no positions."""

    def __init__(self, d_model: int, n_heads: int, n_layers: int, n: int):
        super().__init__()
        self.words = nn.Embedding(WORDS, d_model)
        layer = nn.TransformerEncoderLayer(
            d_model, n_heads, 4 * d_model, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.norm, self.read = nn.LayerNorm(d_model), nn.Linear(d_model, WORDS)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(n))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.layers(self.words(ids), mask=self.mask, is_causal=True)
        return self.read(self.norm(x))


def models(setting: Setting) -> dict[tuple[str, str, str], nn.Module]:
    """{(encoding, whose, dtype): model}: float32, and bfloat16 by autocast."""
    d_model, n_heads, n_layers, _, n = SIZES[setting.scale]

    def ours(encoding: str) -> nn.Module:
        return TinyTransformer(
            WORDS, WORDS, d_model=d_model, n_heads=n_heads, n_layers=n_layers, d_ff=4 * d_model,
            encoding=encoding, max_len=n, bias=True,
        )  # fmt: skip

    made: dict[tuple[str, str, str], nn.Module] = {}
    for encoding in ENCODINGS:
        made[encoding, "attnlab", "float32"] = ours(encoding)
    made["rope", "attnlab", "bfloat16 autocast"] = Autocast(
        ours("rope"), setting.device, torch.bfloat16
    )
    if setting.peers:
        made["none", "nn.TransformerEncoder", "float32"] = TorchTransformer(
            d_model, n_heads, n_layers, n
        )
    return {key: model.to(setting.device) for key, model in made.items()}


def steps(model: nn.Module, ids: Tensor) -> dict:
    """The three pieces of work, each with all of the one before."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def loss() -> Tensor:
        out = model(ids)
        return F.cross_entropy(out[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())

    def forward() -> None:
        with torch.no_grad():
            loss()

    def whole() -> None:
        loss().backward()
        optimiser.step()

    return dict(zip(STEPS, (forward, lambda: loss().backward(), whole), strict=True))


def measure(setting: Setting, progress: Progress) -> Table:
    """Causal next-word prediction, in ratios to attnlab's without encoding in float32."""
    d_model, n_heads, n_layers, batch, n = SIZES[setting.scale]
    table = Table({
        "d_model": d_model, "n_heads": n_heads, "n_layers": n_layers, "d_ff": 4 * d_model,
        "words": WORDS, "batch": batch, "n": n, "causal": True,
    })  # fmt: skip
    torch.manual_seed(0)
    made = models(setting)
    ids = torch.randint(WORDS, (batch, n), device=setting.device)
    works = {key: steps(model, ids) for key, model in made.items()}
    found: dict = {key: {} for key in made}
    for i, step in enumerate(STEPS):
        timed = compare(
            {key: parts[step] for key, parts in works.items()}, setting.device,
            rounds=setting.rounds, seconds=setting.seconds / len(STEPS),
            base=("none", "attnlab", "float32"),
            prepare=lambda key: made[key].zero_grad(set_to_none=True),
            progress=lambda share, i=i: progress((i + share) / len(STEPS)),
        )  # fmt: skip
        for key, value in timed.items():
            if "seconds" in value:
                value["tokens_per_second"] = batch * n / value["seconds"]
            found[key][step] = value
    for (encoding, whose, dtype), row in found.items():
        table.rows.append({"encoding": encoding, "whose": whose, "dtype": dtype, **row})
    return table
