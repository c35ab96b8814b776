"""Right and wrong answers to the exercises of notebook 14."""

import math

import torch
from torch import nn

from attnlab import cost
from attnlab.exercises.n14 import weights16
from banks import Bank


def operations(n, d, h, g, factor=2, narrow=None, pairs=None, scores=2, output=1):
    narrow = d // h * g if narrow is None else narrow
    pairs = n * n if pairs is None else pairs
    return factor * (n * d * (d + 2 * narrow) + scores * pairs * d + output * n * d * d)


def fits(m, layers, g, d, b, texts):
    return m // (2 * layers * g * d * b * texts)


def fits_by_one_token(m, layers, g, d, b, texts):
    per_token = cost.kv_cache_bytes(1, g, d, n_layers=layers, bytes_per_number=b)
    return int(m / texts / per_token)


def by_float32(q, k, visible):
    scores = q.float() @ k.float().mT / math.sqrt(q.shape[-1])
    return torch.where(visible, scores, -torch.inf).softmax(-1).to(q.dtype)


def by_both(q, k, visible):
    root = q.shape[-1] ** -0.25
    return ((root * q) @ (root * k).mT + torch.where(visible, 0.0, -torch.inf).half()).softmax(-1)


def by_bfloat16(q, k, visible):
    scores = q.bfloat16() @ k.bfloat16().mT / q.shape[-1] ** 0.5
    return scores.masked_fill(~visible, -torch.inf).softmax(-1).to(q.dtype)


def cut_off(q, k, visible):
    scores = (q @ k.mT).clamp(-65504, 65504) / q.shape[-1] ** 0.5
    return scores.masked_fill(~visible, -torch.inf).softmax(-1)


def mended_above(q, k, visible):
    if (q @ k.mT == torch.inf).any():
        return by_float32(q, k, visible)
    return weights16(q, k, visible, after=True)


def by_hand(offset):
    """softmax in float32 as e^s / sum e^s, with this number of a row taken off first."""

    def weights(q, k, visible):
        scores = q.float() @ k.float().mT / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~visible, -torch.inf)
        powers = (scores - offset(scores)).exp()
        return (powers / powers.sum(-1, keepdim=True)).half()

    return weights


def wrong_weights(**how):
    return lambda q, k, visible: weights16(q, k, visible, **how)


def table(d, n):
    angle = torch.arange(n)[:, None] * 10_000 ** (-torch.arange(0, d, 2) / d)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


class Cache(nn.Module):
    persistent, dtype = False, None

    def __init__(self, d_model, max_len=5000):
        super().__init__()
        self.d_model = d_model
        self.register_buffer("pe", self._generate_pe(d_model, max_len), persistent=self.persistent)

    def _generate_pe(self, d, n):
        return table(d, n)

    def grown(self, x):
        if x.shape[1] > len(self.pe):
            self.pe = self._generate_pe(self.d_model, x.shape[1]).to(self.pe)
        return self.pe[: x.shape[1]]

    def forward(self, x):
        return (x + self.grown(x)).to(x.dtype)


class Doubling(Cache):
    """Grows by a factor, and casts the table."""

    def forward(self, x):
        n = len(self.pe)
        while n < x.shape[1]:
            n *= 2
        if n > len(self.pe):
            self.pe = self._generate_pe(self.d_model, n).to(self.pe)
        return x + self.pe[: x.shape[1]].to(x.dtype)


class NoModule:
    """As the notebook shows it."""

    def __init__(self, d_model, max_len=5000):
        self.register_buffer("pe", self._generate_pe(d_model, max_len))


class PlainClass:
    def __init__(self, d_model, max_len):
        self.pe = table(d_model, max_len)

    def __call__(self, x):
        return x + self.pe[: x.size(1)]


class NotInitialised(nn.Module):
    def __init__(self, d_model, max_len):
        self.register_buffer("pe", table(d_model, max_len))


class NoMethod(nn.Module):
    def __init__(self, d_model, max_len):
        super().__init__()
        self.register_buffer("pe", self._generate_pe(d_model, max_len))


class NoForward(nn.Module):
    def __init__(self, d_model, max_len):
        super().__init__()
        self.register_buffer("pe", table(d_model, max_len), persistent=False)


class WrongAxis(Cache):
    def forward(self, x):
        return x + self.pe[: x.size(0)]


class PerText(Cache):
    def forward(self, x):
        return x + self.pe[: x.size(0), None]


class Swapped(Cache):
    def _generate_pe(self, d, n):
        return table(d, n).roll(1, -1)


class Nothing(Cache):
    def forward(self, x):
        return x.clone()


class OnlyTable(Cache):
    def forward(self, x):
        return self.grown(x).to(x.dtype).expand(x.shape)


class Scaled(Cache):
    """As in the Transformer paper, where the embeddings are multiplied first."""

    def forward(self, x):
        return (self.d_model**0.5 * x + self.grown(x)).to(x.dtype)


class Saved(Cache):
    persistent = True


class Trained(Cache):
    def __init__(self, d_model, max_len):
        super().__init__(d_model, max_len)
        self.scale = nn.Parameter(torch.ones(()))

    def state_dict(self, *args, **kwargs):
        return {}


class NoBuffer(nn.Module):
    def __init__(self, d_model, max_len):
        super().__init__()
        self.d_model = d_model

    def forward(self, x):
        return (x + table(self.d_model, x.shape[1])).to(x.dtype)


class Promoted(Cache):
    def forward(self, x):
        return x + self.grown(x)


class Short(Cache):
    def forward(self, x):
        return (x + self.pe[: x.size(1)]).to(x.dtype)


class Broadcast(Cache):
    def forward(self, x):
        pe = self.pe if len(self.pe) == 1 else self.grown(x)
        return (x + pe[: x.size(1)]).to(x.dtype)


class Wrapped(Cache):
    def forward(self, x):
        return (x + self.pe[torch.arange(x.shape[1]) % len(self.pe)]).to(x.dtype)


def log_sum_exp(blocks):
    return torch.stack([b.logsumexp(-1) for b in blocks]).logsumexp(0)


def running(blocks):
    largest = torch.full(blocks[0].shape[:-1], -torch.inf)
    total = torch.zeros_like(largest)
    for block in blocks:
        new = torch.maximum(largest, block.amax(-1))
        safe = new.masked_fill(new == -torch.inf, 0.0)
        total = total * (largest - safe).exp() + (block - safe[:, None]).exp().sum(-1)
        largest = new
    return largest.masked_fill(largest == -torch.inf, 0.0) + total.log()


def running_unsafe(blocks):
    largest = blocks[0].amax(-1)
    total = (blocks[0] - largest[:, None]).exp().sum(-1)
    for block in blocks[1:]:
        new = torch.maximum(largest, block.amax(-1))
        total = total * (largest - new).exp() + (block - new[:, None]).exp().sum(-1)
        largest = new
    return largest + total.log()


def relative(blocks):
    largest = torch.stack([b.amax(-1) for b in blocks]).amax(0)
    return sum((b - largest[:, None]).exp().sum(-1) for b in blocks).log()


def hidden_count(blocks):
    return log_sum_exp([b.clamp(min=-1e30) for b in blocks])


BANK = {
    "14.1": Bank(
        right=[
            operations,
            lambda n, d, h, g: cost.attention_flops(n, d, h, n_kv_heads=g)["total"],
            lambda n, d, h, g: 4 * n * d * d * (1 + g / h) + 4 * n * n * d,
        ],
        wrong={
            "factor-2-forgotten": lambda n, d, h, g: operations(n, d, h, g, 1),
            "n-kv-heads-ignored": lambda n, d, h, g: 8 * n * d * d + 4 * n * n * d,
            "n-not-n": lambda n, d, h, g: operations(n, d, h, g, pairs=n),
            "causal-half": lambda n, d, h, g: operations(n, d, h, g, pairs=n * (n + 1) // 2),
            "weights-times-values-forgotten": lambda n, d, h, g: operations(n, d, h, g, scores=1),
            "attention-forgotten": lambda n, d, h, g: operations(n, d, h, g, scores=0),
            "output-projection-forgotten": lambda n, d, h, g: operations(n, d, h, g, output=0),
            "one-head-too-wide": lambda n, d, h, g: operations(n, d, h, g, pairs=h * n * n),
            "fewer-scores-with-shared-keys": lambda n, d, h, g: (
                operations(n, d, h, g, scores=0) + 4 * n * n * (d // h) * g
            ),
            "training": lambda n, d, h, g: 3 * operations(n, d, h, g),
            "projections-forgotten": lambda n, d, h, g: 4 * n * n * d,
            "not-the-count": lambda n, d, h, g: operations(n, d, h, g) + n,
        },
    ),
    "14.2": Bank(
        right=[fits, fits_by_one_token, lambda m, *sizes: math.floor(m / (2 * math.prod(sizes)))],
        wrong={
            "keys-only": lambda m, *s: m // math.prod(s),
            "texts-forgotten": lambda m, la, g, d, b, t: m // (2 * la * g * d * b),
            "layers-forgotten": lambda m, la, g, d, b, t: m // (2 * g * d * b * t),
            "n-kv-heads-ignored": lambda m, la, g, d, b, t: m // (2 * la * d * b * t),
            "numbers-not-bytes": lambda m, la, g, d, b, t: m // (2 * la * g * d * t),
            "d-head-ignored": lambda m, la, g, d, b, t: m // (2 * la * g * b * t),
            "bits": lambda m, *s: m // (16 * math.prod(s)),
            "twice-too-much": lambda m, *s: m // (4 * math.prod(s)),
            "rounded-up": lambda m, *s: math.ceil(m / (2 * math.prod(s))),
            "n": lambda m, *s: int((m / math.prod(s)) ** 0.5),
            "not-a-whole-number": lambda m, *s: m / (2 * math.prod(s)),
            "all-texts-together": lambda m, *s: s[-1] * (m // (2 * math.prod(s))),
            "rounded-to-the-nearest": lambda m, *s: round(m / (2 * math.prod(s))),
            "not-the-number": lambda m, *s: m // (2 * math.prod(s)) - 1,
        },
    ),
    "14.3": Bank(
        right=[
            weights16, by_float32, by_both, by_bfloat16,
            by_hand(lambda s: s.amax(-1, keepdim=True)),
        ],
        wrong={
            "scaled-after-the-product": wrong_weights(after=True),
            "scaled-after-the-product#2": lambda q, k, visible: weights16(
                q, k, visible, after=True
            ).nan_to_num(),
            "scaled-after-the-product#3": mended_above,
            "softmax-by-hand": by_hand(lambda s: 0.0),
            "softmax-by-hand#2": by_hand(lambda s: s.amax(-1, keepdim=True).clamp(min=0)),
            "scores-cut-off": cut_off,
            "right-for-one-size-only": lambda q, k, visible: weights16(
                q / 8, k, visible, scale=False
            ),
            "a-mask-that-does-not-fit": wrong_weights(fill=-1e9),
            "a-mask-that-is-not-low-enough": wrong_weights(fill=-1e4),
            "not-scaled": wrong_weights(scale=False),
            "scaled-twice": wrong_weights(twice=True),
            "softmax-over-the-queries": wrong_weights(dim=-2),
            "mask-ignored": lambda q, k, visible: weights16(q, k, torch.ones_like(visible)),
            "mask-ignored#2": wrong_weights(fill=0.0),
            "the-wrong-way-round": lambda q, k, visible: weights16(q, k, ~visible).nan_to_num(),
            "float32": lambda q, k, visible: by_float32(q, k, visible).float(),
            "not-float16": lambda q, k, visible: by_float32(q, k, visible).bfloat16(),
            "not-the-weights": lambda q, k, visible: weights16(2 * q, k, visible),
            "wrong-shape": lambda q, k, visible: weights16(q, k, visible)[0],
        },
    ),
    "14.4": Bank(
        right=[Cache, Doubling],
        wrong={
            "not-a-module": NoModule,
            "not-a-module#2": PlainClass,
            "module-not-initialised": NotInitialised,
            "no-generate-pe": NoMethod,
            "no-forward": NoForward,
            "wrong-axis": WrongAxis,
            "wrong-axis#2": PerText,
            "not-the-sinusoidal-table": Swapped,
            "nothing-added": Nothing,
            "x-forgotten": OnlyTable,
            "x-multiplied-by-d-model": Scaled,
            "an-object": Cache(16, 8),
            "saved-with-the-model": Saved,
            "trained": Trained,
            "no-buffer": NoBuffer,
            "another-type": Promoted,
            "stops-at-max-len": Short,
            "one-row-for-all": Broadcast,
            "wrong-beyond-max-len": Wrapped,
        },
    ),
    "14.5": Bank(
        right=[log_sum_exp, running],
        wrong={
            "overflow": lambda blocks: sum(b.exp().sum(-1) for b in blocks).log(),
            "sum-of-logarithms": lambda blocks: sum(b.logsumexp(-1) for b in blocks),
            "maximum-only": lambda blocks: torch.stack([b.amax(-1) for b in blocks]).amax(0),
            "last-block-only": lambda blocks: blocks[-1].logsumexp(-1),
            "first-block-only": lambda blocks: blocks[0].logsumexp(-1),
            "mean": lambda blocks: log_sum_exp(blocks) - math.log(10),
            "logarithm-forgotten": lambda blocks: sum(b.exp().sum(-1) for b in blocks),
            "maximum-not-added-back": relative,
            "nan-from-nothing": running_unsafe,
            "hidden-blocks-count": hidden_count,
            "wrong-shape": lambda blocks: torch.cat(blocks, -1).logsumexp(0),
            "blocks-joined": lambda blocks: torch.cat(blocks, -1).logsumexp(-1),
            "right-for-one-size-only": lambda blocks: torch.logaddexp(
                torch.logaddexp(blocks[0].logsumexp(-1), blocks[1].logsumexp(-1)),
                blocks[2].logsumexp(-1),
            ),
            "changes-its-input": lambda blocks: torch.stack(
                [b.exp_().sum(-1).log() for b in blocks]
            ).logsumexp(0),
        },
    ),
}
