"""Which heads matter: scores of importance, their order, and pruning that removes parameters.

Heads are counted as (layer, head), where layer is a module's name in the model, as in
`attnlab.attention.capture`. Scores are a dict from layer name to a tensor (n_heads,).

Wherever a function asks for `losses`, it calls losses() to run the model on some examples and get
one loss for each, (batch,).
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention import MultiHeadAttention
from attnlab.cache import KVCache
from attnlab.windows import Window

Head = tuple[str, int]
Scores = dict[str, Float[Tensor, " n_heads"]]
Losses = Callable[[], Float[Tensor, " batch"]]


def attention_layers(model: nn.Module) -> dict[str, MultiHeadAttention]:
    """The attention layers inside a model by name, in the model's order. The model itself is ""."""
    return {n: m for n, m in model.named_modules() if isinstance(m, MultiHeadAttention)}


def all_heads(model: nn.Module) -> list[Head]:
    """Every (layer, head) of the model, in order."""
    return [(n, h) for n, layer in attention_layers(model).items() for h in range(layer.n_heads)]


@contextmanager
def gated(model: nn.Module, gates: dict[str, Tensor]) -> Iterator[None]:
    """Multiply heads' outputs by gates while the block runs: (n_heads,) or (batch, n_heads) by
    layer name."""
    layers = attention_layers(model)
    _known(gates, layers)
    before = {name: layers[name].gates for name in gates}
    try:
        for name, gate in gates.items():
            layers[name].gates = gate
        yield
    finally:
        for name, gate in before.items():
            layers[name].gates = gate


@contextmanager
def without(model: nn.Module, heads: Iterable[Head]) -> Iterator[None]:
    """Silence some heads while the block runs. Nothing gets faster: they are computed and
    dropped."""
    gates = {n: _gates(layer) for n, layer in attention_layers(model).items()}
    for name, head in _checked(model, heads):
        gates[name][..., head] = 0
    with gated(model, gates):
        yield


def _gates(layer: MultiHeadAttention) -> Tensor:
    """A copy of the gates as they stand."""
    if layer.gates is None:
        return layer.out_proj.weight.new_ones(layer.n_heads)
    return layer.gates.detach().clone()


def gate_importance(model: nn.Module, losses: Losses, *, normalise: bool = False) -> Scores:
    """I_h = mean over examples of |dL / dgate_h|, with the gate at 1: the first-order change of
    each example's loss when head h is taken away.

    Equal to |sum of head_h * dL/dhead_h|, so that it does not change when a head's values are
    scaled up and its output matrix down. The absolute value stands inside the mean: at a minimum
    of the loss the signed mean is 0 for every head, however vital.

    Args:
        normalise: divide each layer's scores by their l2 norm, as the paper does before it compares
            layers.

    Source: Michel et al. 2019, equation 2 and section 4.1.

    Raises:
        ValueError: if losses() is not one number for each example.
    """
    layers = attention_layers(model)
    with torch.no_grad():
        batch = _per_example(losses())
    gates = {
        n: _gates(layer).expand(batch, -1).clone().requires_grad_() for n, layer in layers.items()
    }
    with gated(model, gates):
        found = torch.autograd.grad(losses().sum(), list(gates.values()), allow_unused=True)
    scores = {
        n: torch.zeros(g.shape[1]) if grad is None else grad.abs().mean(0).cpu()
        for (n, g), grad in zip(gates.items(), found, strict=True)
    }
    if normalise:
        scores = {n: s / s.norm().clamp(min=1e-12) for n, s in scores.items()}
    return scores


def gradient_norm(model: nn.Module, losses: Losses) -> Scores:
    """Mean over examples of ||dL / dhead_h||: the gradient taken literally, for contrast.

    It ignores the head's own size. Scale a head's values by c and its rows of W_O by 1/c: the
    function is the same, this score is not.

    Source: "importance = dL / dhead", as one often reads; compare `gate_importance`.
    """
    layers = attention_layers(model)
    inputs: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module, arguments):
            (x,) = arguments
            x = x if x.requires_grad else x.detach().requires_grad_()
            inputs[name] = x
            return (x,)

        return hook

    hooks = [m.out_proj.register_forward_pre_hook(keep(n)) for n, m in layers.items()]
    try:
        total = losses()
        _per_example(total)
        found = torch.autograd.grad(total.sum(), list(inputs.values()), allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    scores = {n: torch.zeros(layer.n_heads) for n, layer in layers.items()}
    for n, gradient in zip(inputs, found, strict=True):
        if gradient is not None:  # (batch, n, heads * d_head) -> (batch, heads, n, d_head)
            of_heads = gradient.unflatten(-1, (layers[n].n_heads, -1)).movedim(-2, 1)
            scores[n] = of_heads.flatten(2).norm(dim=-1).mean(0).cpu()
    return scores


@torch.no_grad()
def ablation(model: nn.Module, cost: Callable[[], float]) -> Scores:
    """How much cost() rises when one head is silenced, for each head: the truth that importance
    scores estimate, at the price of one run for each head.

    cost is a loss, or minus an accuracy. One head at a time says nothing of heads that stand in for
    each other: silence either of two that do the same, and little happens.
    """
    whole = float(cost())
    scores = {n: torch.zeros(layer.n_heads) for n, layer in attention_layers(model).items()}
    for name, head in all_heads(model):
        with without(model, [(name, head)]):
            scores[name][head] = float(cost()) - whole
    return scores


def ranking(scores: Scores) -> list[Head]:
    """All heads, the least important first; equal scores keep the model's order."""
    heads = [(n, h) for n, s in scores.items() for h in range(len(s))]
    return sorted(heads, key=lambda head: float(scores[head[0]][head[1]]))


def random_order(model: nn.Module, generator: torch.Generator) -> list[Head]:
    """All heads in random order: the baseline that any importance has to beat."""
    heads = all_heads(model)
    return [heads[i] for i in torch.randperm(len(heads), generator=generator)]


def prune(model: nn.Module, heads: Iterable[Head]) -> nn.Module:
    """A copy of the model without these heads: their rows of W_Q, W_K, W_V and W_O are gone, and
    the rest computes what the model does with their gates at 0.

    A key/value head goes when no query head is left that reads it; each that stays must serve the
    same number of query heads. A layer may lose all its heads: what is left is its output bias.

    Source: Michel et al. 2019, section 4.

    Raises:
        ValueError: for heads that the model has not, or groups that are no longer alike.
    """
    model = copy.deepcopy(model)
    gone = _checked(model, heads)
    for name, layer in attention_layers(model).items():
        stay = [h for h in range(layer.n_heads) if (name, h) not in gone]
        if len(stay) == layer.n_heads:
            continue
        small = _with_heads(layer, stay) if stay else NoHeads(layer)
        if name == "":
            return small
        for parent in list(model.modules()):  # a layer may be used in several places
            for last, module in parent._modules.items():
                if module is layer:
                    parent._modules[last] = small
    return model


class NoHeads(nn.Module):
    """What is left of an attention layer without heads: the bias of its output projection."""

    def __init__(self, layer: MultiHeadAttention):
        super().__init__()
        bias = layer.out_proj.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(
        self, x: Float[Tensor, "batch n d_model"], *_, cache: KVCache | None = None, **__
    ) -> Tensor:
        if cache is not None:  # it counts the tokens, for the model to know where it is
            nothing = x.new_empty(len(x), 0, x.shape[1], 0)
            cache.append(nothing, nothing)
        return torch.zeros_like(x) if self.bias is None else self.bias.expand_as(x)


def _with_heads(layer: MultiHeadAttention, stay: list[int]) -> MultiHeadAttention:
    """The same layer with these heads only."""
    group = layer.n_heads // layer.n_kv_heads
    readers = {}
    for h in stay:
        readers.setdefault(h // group, []).append(h)
    if len({len(r) for r in readers.values()}) != 1:
        counts = {kv: len(r) for kv, r in readers.items()}
        raise ValueError(
            f"key/value heads would serve unlike numbers of query heads ({counts}): remove as "
            "many heads from each group, or a whole group"
        )
    windows = layer.windows
    if isinstance(windows, Sequence) and not isinstance(windows, Window):
        windows = [windows[h] for h in stay]
    with torch.random.fork_rng(devices=[]):  # fresh parameters are drawn, then replaced
        small = MultiHeadAttention(
            layer.d_model, len(stay), n_kv_heads=len(readers), d_head=layer.d_head,
            bias=layer.in_proj.bias is not None, windows=windows, scale=layer.scale,
        )  # fmt: skip
        encoding = None if layer.encoding is None else layer.encoding.for_heads(stay)
    _give_encoding(small, encoding, layer)
    small.temperature, small.backend = layer.temperature, layer.backend
    if layer.gates is not None:
        small.gates = layer.gates[..., stay]
    keep = torch.cat([
        _rows(stay, layer.d_head),
        *(
            layer.n_heads * layer.d_head + part * layer.n_kv_heads * layer.d_head
            + _rows(list(readers), layer.d_head)
            for part in (0, 1)
        ),
    ])  # fmt: skip

    def part(whole: nn.Parameter, rows) -> nn.Parameter:
        return nn.Parameter(whole.detach()[rows].clone(), whole.requires_grad)

    old_in, old_out, everything = layer.in_proj, layer.out_proj, slice(None)
    small.in_proj.weight = part(old_in.weight, keep)
    small.out_proj.weight = part(old_out.weight, (everything, _rows(stay, layer.d_head)))
    if old_in.bias is not None:
        small.in_proj.bias = part(old_in.bias, keep)
        small.out_proj.bias = part(old_out.bias, everything)
    return small.train(layer.training)


def _give_encoding(new: MultiHeadAttention, encoding, old: MultiHeadAttention) -> None:
    """Let a new layer use an encoding as the old one used its own: one that belongs to the model
    around the layer is not stored with the layer too."""
    if encoding is None:
        return
    del new.encoding
    if encoding is old.encoding and "encoding" not in old._modules:
        object.__setattr__(new, "encoding", encoding)
    else:
        new.encoding = encoding


def _rows(heads: list[int], d_head: int) -> Tensor:
    """The rows of these heads in a matrix with d_head rows for each head."""
    return (torch.tensor(heads)[:, None] * d_head + torch.arange(d_head)).flatten()


def prune_in_steps(
    model: nn.Module, losses: Losses, n: int, step: int = 1,
    score: Callable[[nn.Module, Losses], Scores] = gate_importance,
) -> list[Head]:
    """The n heads to remove, `step` at a time, with the scores measured anew after each step: what
    is left of two heads that do the same becomes important once the other is gone.

    Returns heads of the model as it is given, in the order of removal.

    Source: Molchanov et al. 2017, section 2 (scores anew after each removal); compare Michel et al.
    2019, section 4.

    Raises:
        ValueError: if the model has fewer than n heads, or a step is below 1.
    """
    if not 0 <= n <= len(all_heads(model)) or step < 1:
        raise ValueError(f"cannot remove {n} of {len(all_heads(model))} heads in steps of {step}")
    gone: list[Head] = []
    while len(gone) < n:
        with without(model, gone):
            left = [head for head in ranking(score(model, losses)) if head not in gone]
        gone += left[: min(step, n - len(gone))]
    return gone


def share_heads(layer: MultiHeadAttention, n_kv_heads: int) -> MultiHeadAttention:
    """The layer with fewer key/value heads, each the mean of those of its group; queries and the
    output stay. A start for training on, not the same function.

    Source: Ainslie et al. 2023 (GQA), section 2.1.

    Raises:
        ValueError: if n_kv_heads does not divide the layer's number of key/value heads.
    """
    if n_kv_heads < 1 or layer.n_kv_heads % n_kv_heads:
        raise ValueError(
            f"{n_kv_heads} does not divide the layer's {layer.n_kv_heads} key/value heads"
        )
    with torch.random.fork_rng(devices=[]):  # fresh parameters are drawn, then replaced
        shared = MultiHeadAttention(
            layer.d_model, layer.n_heads, n_kv_heads=n_kv_heads, d_head=layer.d_head,
            bias=layer.in_proj.bias is not None, windows=layer.windows, scale=layer.scale,
        )  # fmt: skip
    shared.to(layer.in_proj.weight)
    _give_encoding(shared, layer.encoding, layer)

    def pooled(rows: Tensor) -> Tensor:
        """(n_kv_heads * d_head, ...) of many heads to that of few"""
        return rows.unflatten(0, (n_kv_heads, -1, layer.d_head)).mean(1).flatten(0, 1)

    with torch.no_grad():
        for kind in ("weight", "bias"):
            old, new = getattr(layer.in_proj, kind), getattr(shared.in_proj, kind)
            if old is not None:
                q, k, v = old.split(layer._sizes)
                new.copy_(torch.cat([q, pooled(k), pooled(v)]))
        shared.out_proj.load_state_dict(layer.out_proj.state_dict())
    shared.temperature, shared.backend, shared.gates = (
        layer.temperature, layer.backend, layer.gates,
    )  # fmt: skip
    return shared.train(layer.training)


def _checked(model: nn.Module, heads: Iterable[Head]) -> set[Head]:
    layers, found = attention_layers(model), set()
    for name, head in heads:
        _known([name], layers)
        if not 0 <= head < layers[name].n_heads:
            raise ValueError(
                f"layer {name!r} has heads 0 ... {layers[name].n_heads - 1}, not {head}"
            )
        found.add((name, int(head)))
    return found


def _known(names: Iterable[str], layers: dict) -> None:
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise ValueError(f"no attention layer {unknown[0]!r}; there are {', '.join(layers)}")


def _per_example(losses: Tensor) -> int:
    if losses.dim() != 1 or len(losses) == 0:
        raise ValueError(
            f"losses() must return one loss for each example, (batch,), got {tuple(losses.shape)}"
        )
    return len(losses)
