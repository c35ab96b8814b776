"""What a head does, in numbers, from its weights.

Weights are (..., n_q, n_k), with heads on the third axis from the end where a function compares
heads. `visible` is a boolean tensor that broadcasts to them, True = the query may see the key;
where it is not given, every query sees every key.
"""

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

Weights = Float[Tensor, "... n_q n_k"]
OfHeads = Float[Tensor, "... n_heads n_q n_k"]
Visible = Bool[Tensor, "..."]


def causal_visible(n: int) -> Bool[Tensor, "n n"]:
    """True where query i may see key j under a causal mask: j <= i."""
    return torch.ones(n, n, dtype=torch.bool).tril()


def entropy(weights: Weights) -> Float[Tensor, "... n_q"]:
    """H_i = -sum_j a_ij log a_ij for each query i, in nats: 0 for one key, log n for n keys alike.

    A row without weights (nothing to attend) has entropy 0. To compare queries that see different
    numbers of keys, use `normalised_entropy`.

    Source: Shannon 1948; for heads, Clark et al. 2019, section 3.3.
    """
    return torch.special.entr(weights).sum(-1)


def normalised_entropy(
    weights: Weights, visible: Visible | None = None
) -> Float[Tensor, "... n_q"]:
    """H_i / log(number of keys that query i may see): 0 for one key, 1 for all visible keys alike.

    NaN where a query sees fewer than two keys: it has no choice to measure. Average over queries
    with `nanmean`.
    """
    seen = _seen(weights, visible).sum(-1)
    most = torch.where(seen > 1, seen, torch.nan).log()
    return entropy(weights) / most


def attention_distance(
    weights: Weights, q_pos: Real[Tensor, " n_q"] | None = None
) -> Float[Tensor, "... n_q"]:
    """sum_j a_ij |i - j| for each query i: how far it looks on average, in tokens.

    Positions count from 0; queries are the last n_q of the keys unless q_pos says otherwise.
    """
    n_q, n_k = weights.shape[-2:]
    k_pos = torch.arange(n_k, device=weights.device)
    q_pos = k_pos[n_k - n_q :] if q_pos is None else q_pos
    return (weights * (q_pos[:, None] - k_pos).abs()).sum(-1)


def offset_mass(weights: Weights, offset: int) -> Float[Tensor, "..."]:
    """Mean weight on the key at `offset` from the query (-1: the token before, +1: the next), over
    the queries that have such a key. NaN if none has.

    A head whose strongest key has the same offset for 90 % of the queries is called positional:
    Voita et al. 2019, section 5.1; see `offset_share`.
    """
    return weights.diagonal(offset, dim1=-2, dim2=-1).mean(-1)


def offset_share(weights: Weights, offset: int) -> Float[Tensor, "..."]:
    """Share of the queries that have a key at `offset` and give it their largest weight."""
    n_q = weights.shape[-2]
    best = weights.argmax(-1) - torch.arange(n_q, device=weights.device)
    has = weights.diagonal(offset, dim1=-2, dim2=-1).shape[-1]
    start = max(0, -offset)
    return (best[..., start : start + has] == offset).float().mean(-1)


def key_mass(weights: Weights, key: int | Int[Tensor, " k"] = 0) -> Float[Tensor, "..."]:
    """Mean weight that goes to one key (default: the first token), or to several together.

    Much more than an equal share makes the key a sink: Xiao et al. 2024 (StreamingLLM), section 3.
    Whether a sink changes the output depends on its value: see `norm_weights`.
    """
    keys = torch.as_tensor(key, device=weights.device).reshape(-1)
    return weights[..., keys].sum(-1).mean(-1)


def norm_weights(
    weights: OfHeads,
    v: Float[Tensor, "... n_heads n_k d_head"],
    w_o: Float[Tensor, "n_heads d_head d_model"] | None = None,
) -> OfHeads:
    """||a_ij v_j W_O||: how much of key j's value arrives at query i (without w_o: ||a_ij v_j||).

    Rows do not sum to 1. A sink with large weights and a small value shows as small here.

    Source: Kobayashi et al. 2020, section 3.
    """
    v = v if w_o is None else v @ w_o
    return weights * v.norm(dim=-1)[..., None, :]


def gold_mass(
    weights: OfHeads, links: Int[Tensor, "n_links 2"], batch: Int[Tensor, " n_links"] | None = None
) -> Float[Tensor, " n_heads"]:
    """Mean weight from each link's query to its gold key, for every head.

    Args:
        weights: (n_heads, n, n) of one text, or (batch, n_heads, n, n) with the text of each link
            in `batch`.
    """
    return _at_links(weights, links, batch)[0].mean(0)


def gold_accuracy(
    weights: OfHeads, links: Int[Tensor, "n_links 2"], batch: Int[Tensor, " n_links"] | None = None
) -> Float[Tensor, " n_heads"]:
    """Share of the links whose query gives its gold key the largest weight, for every head.

    Source: Clark et al. 2019, section 4.2; Voita et al. 2019, section 5.2.1.
    """
    gold, rows = _at_links(weights, links, batch)
    key = links[:, 1].to(rows.device)[:, None]
    return (rows.argmax(-1) == key).float().mean(0)


def _at_links(weights, links, batch) -> tuple[Tensor, Tensor]:
    """The weight on each link's key (links, heads), and its query's whole row."""
    if links.dim() != 2 or links.shape[1] != 2 or len(links) == 0:
        raise ValueError(f"links must be (n_links, 2) with at least one, got {tuple(links.shape)}")
    query, key = links.to(weights.device).unbind(1)
    if weights.dim() == 3:
        rows = weights[:, query].transpose(0, 1)
    elif batch is None:
        raise ValueError("weights of several texts: say in `batch` which text each link is in")
    else:
        rows = weights[batch.to(weights.device), :, query]
    return rows.gather(-1, key[:, None, None].expand(-1, rows.shape[1], 1)).squeeze(-1), rows


def _seen(weights: Tensor, visible: Tensor | None) -> Tensor:
    if visible is None:
        return torch.ones_like(weights, dtype=torch.bool)
    if visible.dtype != torch.bool:
        raise ValueError(f"visible must be boolean (True = may see), got {visible.dtype}")
    return visible.expand(weights.shape)


def head_correlation(
    weights: OfHeads, visible: Visible | None = None, baseline: bool = True
) -> Float[Tensor, "... n_heads n_heads"]:
    """Pearson correlation of each two heads' weights, over all pairs (query, key) that are visible.

    A mask alone makes heads look alike: late queries have many keys and so small weights in every
    head. With `baseline`, what a uniform head would have, 1 / (number of visible keys), is taken
    off each row first, so that independent heads correlate 0 on average. Without it, this is the
    plain correlation of the two matrices.

    NaN for a head without any variation, such as a uniform one.

    Source: the usual correlation of two heads' weights; that masks and rows must be taken out first
    is measured in notebook 03.
    """
    seen = _seen(weights, visible)
    floor = 1e-5 * weights.flatten(-2).norm(dim=-1, keepdim=True)  # below, it is rounding
    if baseline:
        weights = weights - 1 / seen.sum(-1, keepdim=True).clamp(min=1).to(weights.dtype)
        flat = (weights * seen).flatten(-2)
        count = seen.flatten(-2).sum(-1, keepdim=True)
        flat = torch.where(seen.flatten(-2), flat - flat.sum(-1, keepdim=True) / count, 0.0)
    else:
        flat = weights.flatten(-2)
        flat = flat - flat.mean(-1, keepdim=True)
    return _cosines(flat, floor)


def output_similarity(heads: Float[Tensor, "... n_heads n d"]) -> Float[Tensor, "... h h"]:
    """Cosine of each two heads' outputs, over all tokens and dimensions.

    Equal weights do not make equal heads: the values differ. Take the heads' contributions to the
    layer's output, head_i W_O_i: the heads' own dimensions have nothing to do with each other.

    Source: Kobayashi et al. 2020, section 3, for looking at outputs and not at weights alone.
    """
    return _cosines(heads.flatten(-2))


def _cosines(flat: Tensor, floor: Tensor | float = 0.0) -> Tensor:
    """Cosine of each two rows; NaN where a row is no longer than floor."""
    size = flat.norm(dim=-1, keepdim=True)
    unit = flat / torch.where(size > floor, size, torch.nan)
    return (unit @ unit.mT).clamp(-1, 1)


def js_distance(weights: OfHeads) -> Float[Tensor, "... n_heads n_heads"]:
    """Square root of the Jensen–Shannon divergence of each two heads, the mean over queries taken
    before the root, in units of sqrt(nats): 0 for the same weights, sqrt(log 2) = 0.83 for weights
    that never meet.

    JS = H((a + b) / 2) - (H(a) + H(b)) / 2. Rows that are all zero count as equal.

    Source: Clark et al. 2019, section 6 (which sums the divergence over tokens); Endres and
    Schindelin 2003 for the root, which makes it a metric.
    """
    own = entropy(weights)  # (..., h, n_q)
    n_heads = weights.shape[-3]
    rows = []
    for h in range(n_heads):  # one head at a time: pairs at once would be n_heads times the memory
        middle = (weights + weights[..., h : h + 1, :, :]) / 2
        rows.append((entropy(middle) - (own + own[..., h : h + 1, :]) / 2).mean(-1))
    return torch.stack(rows, dim=-2).clamp(min=0).sqrt()
