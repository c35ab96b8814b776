"""Scores split into what comes from the words (content) and what from their positions.

A name of a term says query first: content–position is what a word asks of a place.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attnlab.attention import MultiHeadAttention, consecutive
from attnlab.models import Encoder, TinyTransformer

TERMS = ("content–content", "content–position", "position–content", "position–position")
REST = "rest"

# Which of the four terms the scores of a scheme have. The position side of the relative schemes is
# a vector of the offset, not of a place; in Transformer-XL a trained vector, the same for all
# queries, asks in place of the query's own position.
VARIANTS = {
    "Vaswani et al. 2017 (added)": (True, True, True, True),
    "Dai et al. 2019 (Transformer-XL)": (True, True, True, True),
    "He et al. 2021 (DeBERTa)": (True, True, True, False),
    "Ke et al. 2021 (TUPE)": (True, False, False, True),
}


def four_terms(
    q_content: Float[Tensor, "... n_q d_head"],
    q_position: Float[Tensor, "... n_q d_head"],
    k_content: Float[Tensor, "... n_k d_head"],
    k_position: Float[Tensor, "... n_k d_head"],
    scale: float | None = None,
) -> Float[Tensor, "4 ... n_q n_k"]:
    """(q_c + q_p)·(k_c + k_p) * scale, multiplied out: one matrix for each of TERMS.

    The four add up to the scores. Default scale 1/sqrt(d_head).

    Source: Dai et al. 2019 (Transformer-XL), section 3.3; Ke et al. 2021 (TUPE), section 2.2.
    """
    scale = q_content.shape[-1] ** -0.5 if scale is None else scale
    pairs = [(q, k) for q in (q_content, q_position) for k in (k_content, k_position)]
    return torch.stack([q @ k.mT * scale for q, k in pairs])


@dataclass(frozen=True)
class Parts:
    """What the first layer reads, taken apart: content + position + rest.

    rest holds what belongs to neither: LayerNorm's bias and BERT's segment vector.
    """

    content: Float[Tensor, "batch n d_model"]
    position: Float[Tensor, "batch n d_model"]
    rest: Float[Tensor, "batch n d_model"]

    def sum(self) -> Float[Tensor, "batch n d_model"]:
        return self.content + self.position + self.rest

    def __iter__(self):
        return iter((self.content, self.position, self.rest))


def layer_norm_parts(norm: nn.LayerNorm, parts: Parts) -> Parts:
    """LayerNorm of a sum, part by part: g (x - mean x) / sigma + b.

    Taking the mean off is linear. sigma is one number for each token, that of the whole sum: kept
    at its value, it is a factor that all parts share. b goes to the rest.
    """
    whole = parts.sum()
    sigma = (whole.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()

    def share(x: Tensor) -> Tensor:
        centred = (x - x.mean(-1, keepdim=True)) / sigma
        return centred if norm.weight is None else centred * norm.weight

    content, position, rest = (share(x) for x in parts)
    return Parts(content, position, rest if norm.bias is None else rest + norm.bias)


@torch.no_grad()
def first_layer_parts(model: Encoder | TinyTransformer, ids: Int[Tensor, "batch n"]) -> Parts:
    """What the first attention layer of a model reads, as content, position and rest.

    For every encoding that brings positions in at the input by an affine map (added, mixed,
    concatenated, before every layer): position is what it makes of zero vectors, content is the
    difference. Deeper layers have no such split: there, content already depends on positions.

    Raises:
        TypeError: for another kind of model.
        ValueError: for an encoding that brings no position in at the input.
    """
    pos = consecutive(0, ids.shape[1], ids.device)
    if isinstance(model, Encoder):
        words = model.token_embedding(ids)
        segment = model.type_embedding.weight[0].expand_as(words)
    elif isinstance(model, TinyTransformer):
        words = model.words(ids)
        segment = torch.zeros_like(words)
    else:
        raise TypeError(
            f"a model of attnlab.models is needed, Encoder or TinyTransformer, got "
            f"{type(model).__name__}"
        )
    encoding = model.encoding

    def enter(parts: Parts) -> Parts:
        return _affine(lambda x: encoding.embed(x, pos), parts)

    def at_layer(parts: Parts) -> Parts:
        return _affine(lambda x: encoding.at_layer(x, pos, 0), parts)

    parts = enter(Parts(words, torch.zeros_like(words), segment))
    if isinstance(model, Encoder):  # the norm stands between the two places
        parts = at_layer(layer_norm_parts(model.embedding_norm, parts))
    else:
        parts = layer_norm_parts(model.layers[0].attention_norm, at_layer(parts))
    if not parts.position.any():
        raise ValueError(
            f"{type(encoding).__name__} brings no position in at the input: its scores have "
            "no position terms of this kind"
        )
    return parts


def _affine(of: Callable[[Tensor], Tensor], parts: Parts) -> Parts:
    """An affine map of a sum, part by part: its constant belongs to the position."""
    constant = of(torch.zeros_like(parts.content))
    return Parts(of(parts.content) - constant, of(parts.position), of(parts.rest) - constant)


def _projected(layer: MultiHeadAttention, parts: Parts) -> tuple[list[Tensor], list[Tensor]]:
    """Queries and keys of each part, (batch, n_heads, n, d_head); biases belong to the rest."""
    group = layer.n_heads // layer.n_kv_heads
    sizes = (layer.n_heads * layer.d_head, 2 * layer.n_kv_heads * layer.d_head)
    of_q, of_k = [], []
    for part, is_rest in zip(parts, (False, False, True), strict=True):
        q, k, _ = layer.heads(part)
        if not is_rest and layer.in_proj.bias is not None:
            b_q, b_kv = layer.in_proj.bias.split(sizes)
            b_k = b_kv[: layer.n_kv_heads * layer.d_head]
            q = q - b_q.view(layer.n_heads, 1, layer.d_head)
            k = k - b_k.view(layer.n_kv_heads, 1, layer.d_head)
        of_q.append(q)
        of_k.append(k.repeat_interleave(group, dim=1))
    return of_q, of_k


@torch.no_grad()
def score_terms(layer: MultiHeadAttention, parts: Parts) -> Float[Tensor, "5 batch n_heads n n"]:
    """The scores of a layer that reads these parts: the four TERMS, then the rest.

    Three parts on either side make nine products. The five with a rest in them are added up as
    "rest"; the five matrices add up to the scores, at the layer's scale and temperature, before
    masks and the encoding's own bias.

    Source: Dai et al. 2019 (Transformer-XL), section 3.3, for the four; the rest is this course's.
    """
    of_q, of_k = _projected(layer, parts)
    scale = (layer.d_head**-0.5 if layer.scale is None else layer.scale) / layer.temperature
    (q_c, q_p, q_r), (k_c, k_p, k_r) = of_q, of_k
    four = four_terms(q_c, q_p, k_c, k_p, scale)
    rest = ((q_c + q_p) @ k_r.mT + q_r @ (k_c + k_p + k_r).mT) * scale
    return torch.cat([four, rest[None]])


def keep_terms(
    terms: Float[Tensor, "terms ... n_q n_k"], keep: Iterable[bool]
) -> Float[Tensor, "... n_q n_k"]:
    """The sum of some of the terms: what the scores would be without the others."""
    keep = list(keep)
    if len(keep) != len(terms):
        raise ValueError(f"say of each of the {len(terms)} terms whether to keep it, got {keep}")
    return sum((t for t, kept in zip(terms, keep, strict=True) if kept), torch.zeros_like(terms[0]))


def variance_shares(
    terms: Float[Tensor, "terms ... n_q n_k"],
    seen_only: bool = True,
    visible: Bool[Tensor, "*#rows #n_q #n_k"] | None = None,
) -> Float[Tensor, "terms ..."]:
    """Cov(term, score) / Var(score) for each term: the shares add up to 1, and one below 0 works
    against the others.

    The score is the sum of the terms. With `seen_only`, what is the same for all keys of a query is
    taken off first: the softmax does not see it. Without, only the mean over all pairs is. NaN
    where no variation is left.

    Args:
        visible: True where the query may see the key, as under a causal mask; the other pairs do
            not count. Default: all do.
    """
    axes = (-1,) if seen_only else (-2, -1)
    if visible is None:
        centred = terms - terms.mean(axes, keepdim=True)
    else:
        counts = visible.expand(terms.shape)
        mean = (terms * counts).sum(axes, keepdim=True) / counts.sum(axes, keepdim=True).clamp(1)
        centred = (terms - mean) * counts
    score = centred.sum(0)
    return (centred * score).sum((-2, -1)) / score.square().sum((-2, -1))


@torch.no_grad()
def variance_shares_by_gram(
    layer: MultiHeadAttention, parts: Parts, seen_only: bool = True, causal: bool = False
) -> Float[Tensor, "5 batch n_heads"]:
    """`variance_shares(score_terms(layer, parts))` without any n x n matrix.

    The inner product of two terms Q_1 K_1^T and Q_2 K_2^T over all pairs is the sum over entries of
    (Q_1^T Q_2) * (K_1^T K_2): Gram matrices of d_head x d_head. Taking a query's mean over keys off
    its scores is taking the mean off the keys; the mean over all pairs is a product of two means.

    With `causal`, only pairs with key <= query count, as with `visible` = `causal_visible`. Query i
    then meets the Gram matrix of the keys up to i, which grows from query to query: O(n d_head^2).

    Source: Frobenius inner product, <A, B> = tr(A^T B); the running sum as in linear attention,
    Katharopoulos et al. 2020, section 3.3; this course.
    """
    of_q, of_k = _projected(layer, parts)
    # What is left once the means are off is a difference of large numbers: float64.
    of_q, of_k = ([t.double() for t in side] for side in (of_q, of_k))
    over = _over_pairs_so_far if causal else _over_all_pairs
    whole = sum(of_q), sum(of_k)
    terms = {(a, b): over(of_q[a], of_k[b], *whole, seen_only) for a in range(3) for b in range(3)}
    of_terms = [terms[p] for p in ((0, 0), (0, 1), (1, 0), (1, 1))]
    of_rest = sum(terms[p] for p in terms if 2 in p)
    return torch.stack([*of_terms, of_rest]) / sum(terms.values())


Side = Float[Tensor, "... n d_head"]


def _over_all_pairs(q_1: Side, k_1: Side, q_2: Side, k_2: Side, seen_only: bool) -> Tensor:
    """Sum of s_1 s_2 over all pairs, s = q k^T, each s without its mean over keys (over pairs)."""
    if seen_only:
        k_1, k_2 = (k - k.mean(-2, keepdim=True) for k in (k_1, k_2))
    found = ((q_1.mT @ q_2) * (k_1.mT @ k_2)).sum((-2, -1))
    if not seen_only:
        sum_1, sum_2 = ((q.sum(-2) * k.sum(-2)).sum(-1) for q, k in ((q_1, k_1), (q_2, k_2)))
        found = found - sum_1 * sum_2 / q_1.shape[-2] ** 2
    return found


def _over_pairs_so_far(q_1: Side, k_1: Side, q_2: Side, k_2: Side, seen_only: bool) -> Tensor:
    """The same over pairs with key <= query."""
    n, d = q_1.shape[-2:]
    if seen_only:  # moves the scores of a query alike, and keeps the numbers small
        k_1, k_2 = (k - k.mean(-2, keepdim=True) for k in (k_1, k_2))
    # In blocks of queries: all keys before a block are in one Gram matrix, those inside are masked.
    before = torch.zeros_like(k_1.mT @ k_2)
    found = before.sum((-2, -1))
    for start in range(0, n, d):
        here = slice(start, start + d)
        a_1, b_1, a_2, b_2 = (t[..., here, :] for t in (q_1, k_1, q_2, k_2))
        found = found + ((a_1 @ before) * a_2).sum((-2, -1))
        found = found + ((a_1 @ b_1.mT).tril() * (a_2 @ b_2.mT)).sum((-2, -1))
        before = before + b_1.mT @ b_2
    count = torch.arange(1, n + 1, dtype=q_1.dtype, device=q_1.device)
    row_1, row_2 = ((q * k.cumsum(-2)).sum(-1) for q, k in ((q_1, k_1), (q_2, k_2)))
    if seen_only:
        return found - (row_1 * row_2 / count).sum(-1)
    return found - row_1.sum(-1) * row_2.sum(-1) / count.sum()
