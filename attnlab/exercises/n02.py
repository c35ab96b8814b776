"""Checks of notebook 02, many heads."""

import torch

from attnlab import scaled_dot_product_attention
from attnlab.exercises.n01 import close
from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("2.1", "Count the parameters", minutes=4, difficulty=1)
def n_parameters(answer):
    value = require_number(answer)
    d = 768
    mistakes = {
        "biases forgotten: each of the four projections has one": 4 * d * d,
        "three projections: W_O, back to d_model, is the fourth": 3 * d * d + 3 * d,
        "three projections: W_O, back to d_model, is the fourth; and there are biases": 3 * d * d,
        "one head only: that is a single head's share of W_Q, W_K, W_V and W_O": 4 * d * 64,
        "one head only: that is a single head's share, with biases": 4 * d * 64 + 4 * 64,
        "counted per head too often: each head is 64 wide, not 768": 12 * (4 * d * d + 4 * d),
        "counted per head too often: each head is 64 wide; and there are biases": 48 * d * d,
        "bias of W_O too short: it has d_model entries": 4 * d * d + 3 * d + 64,
        "bias of W_O forgotten: all four projections have one": 4 * d * d + 3 * d,
        "biases per head too short: the 12 heads have 64 entries each": 4 * d * d + 3 * 64 + d,
    }
    for name, number in mistakes.items():
        require(value != number, name)
    require(value == 4 * d * d + 4 * d, "not the count: add four weight matrices and four biases")


@exercise("2.2", "Split and merge", minutes=10, difficulty=2)
def split_and_merge(split, merge):
    batch, n, n_heads, d_head = 2, 5, 3, 4
    y = torch.arange(batch * n * n_heads * d_head, dtype=torch.float32)
    y = y.view(batch, n, n_heads * d_head)
    expected = y.view(batch, n, n_heads, d_head).transpose(1, 2).contiguous()
    got = require_tensor(call(split, y, n_heads))
    require(
        tuple(got.shape) != (batch, n, n_heads, d_head),
        "no transpose: heads must come before tokens, (batch, n_heads, tokens, d_head)",
    )
    require(
        tuple(got.shape) != (batch, n_heads, d_head, n),
        "tokens last: the axes must be (batch, n_heads, tokens, d_head)",
    )
    require_tensor(got, tuple(expected.shape))
    require(
        not torch.equal(got, y.reshape(batch, n_heads, n, d_head)),
        "view without transpose: the shape is right, but tokens are mixed into heads; cut the "
        "last axis first, then change places",
    )
    require(
        not torch.equal(got, y.view(batch, n, d_head, n_heads).permute(0, 3, 1, 2)),
        "features dealt out in turn: the d_head features of a head lie side by side",
    )
    require(torch.equal(got, expected), "split mixes entries: look at y[0, 0] and at head 0")
    back = require_tensor(call(merge, expected))
    require(
        tuple(back.shape) != (batch, n_heads * n, d_head),
        "heads stacked as tokens: the features grow, not the number of tokens",
    )
    require_tensor(back, (batch, n, n_heads * d_head))
    require(
        not torch.equal(back, expected.reshape(batch, n, n_heads * d_head)),
        "merge without transpose: tokens must come before heads when the last axes are glued",
    )
    require(
        not torch.equal(back, expected.permute(0, 2, 3, 1).reshape(batch, n, -1)),
        "features interleaved: the features of one head must stay side by side",
    )
    require(torch.equal(back, y), "merge does not undo split: compare merge(split(y)) with y")
    y = torch.randn(1, 3, 10)
    try:
        parts = call(split, y, 2)
        back = call(merge, y.view(1, 3, 2, 5).transpose(1, 2).contiguous())
    except RuntimeError:
        parts = back = None
    require(
        all(isinstance(t, torch.Tensor) for t in (parts, back))
        and torch.equal(parts, y.view(1, 3, 2, 5).transpose(1, 2)) and torch.equal(back, y),
        "right for one size only: take batch, tokens and d_head from the shape of the input",
    )


@exercise("2.3", "What did each head add?", minutes=10, difficulty=2)
def contributions(answer):
    n_heads, n, d_head, d_model = 3, 5, 4, 12
    heads, w_o = torch.randn(n_heads, n, d_head), torch.randn(n_heads * d_head, d_model)
    got = require_tensor(call(answer, heads, w_o))
    require(
        tuple(got.shape) != (n, d_model),
        "summed already: return one (tokens, d_model) matrix for each head",
    )
    require_tensor(got, (n_heads, n, d_model))
    expected = torch.stack([heads[i] @ w_o[4 * i : 4 * i + 4] for i in range(n_heads)])
    columns = torch.stack([heads[i] @ w_o[:, 4 * i : 4 * i + 4].T for i in range(n_heads)])
    strided = torch.stack([heads[i] @ w_o[i::n_heads] for i in range(n_heads)])
    first = torch.stack([heads[i] @ w_o[:4] for i in range(n_heads)])
    whole = torch.cat(list(heads), dim=-1) @ w_o
    require(not close(got, columns), "columns instead of rows: head i owns rows of W_O")
    require(not close(got, strided), "every third row: the rows of a head lie side by side")
    require(not close(got, first), "same rows for all heads: head i starts at row i * d_head")
    require(
        not close(got, (whole / n_heads).expand(n_heads, n, d_model)),
        "the total divided up: heads do not add equal shares",
    )
    require(not close(got, whole.expand_as(got)), "the total for every head: use one head's block")
    require(
        not close(got, expected.flip(0)), "heads in reverse order: block i belongs to head i"
    )
    require(close(got.sum(0), whole), "the parts do not add up: their sum must be concat @ W_O")
    require(close(got, expected), "right sum, wrong parts: head i goes through rows of its own")
    heads, w_o = torch.randn(2, 3, 5), torch.randn(10, 7)
    try:
        got = call(answer, heads, w_o)
    except (RuntimeError, IndexError):
        got = None
    require(
        isinstance(got, torch.Tensor) and close(got, heads @ w_o.view(2, 5, 7)),
        "right for one size only: take n_heads and d_head from the shape of `heads`",
    )


@exercise("2.4", "The whole layer", minutes=20, difficulty=3)
def multi_head(answer):
    n, n_heads, d_head = 5, 3, 4
    d_model = n_heads * d_head
    x, w_qkv, w_o = torch.randn(n, d_model), torch.randn(d_model, 3 * d_model), torch.randn(12, 12)
    w_qkv = w_qkv / d_model**0.5
    q, k, v = ((x @ w).view(n, n_heads, d_head).transpose(0, 1) for w in w_qkv.chunk(3, dim=-1))

    def attend(q=q, k=k, v=v, **options):
        return scaled_dot_product_attention(q[None], k[None], v[None], **options)[0]

    def merge(heads):
        return heads.transpose(0, 1).reshape(n, d_model)

    got = require_tensor(call(answer, x, w_qkv, w_o, n_heads), (n, d_model))
    mixed = [(x @ w).view(n_heads, n, d_head) for w in w_qkv.chunk(3, dim=-1)]
    one = [(x @ w)[None] for w in w_qkv.chunk(3, dim=-1)]
    columns = ((q @ k.mT) / 2).softmax(1) @ v
    # each head projects a slice of x, by the block of the matrix that belongs to it on both sides
    cut = [
        torch.stack([x[:, i : i + d_head] @ w[i : i + d_head, i : i + d_head]
                     for i in range(0, d_model, d_head)])
        for w in w_qkv.chunk(3, dim=-1)
    ]  # fmt: skip
    dealt = [(x @ w).view(n, d_head, n_heads).permute(2, 0, 1) for w in w_qkv.chunk(3, dim=-1)]
    per_head = (x @ w_qkv).view(n, n_heads, 3, d_head).permute(2, 1, 0, 3)
    mistakes = {
        "x cut into heads: every head projects all of x; cut what comes out": (
            merge(attend(*cut)) @ w_o
        ),
        "features dealt out in turn: the d_head features of a head lie side by side": (
            attend(*dealt).permute(1, 2, 0).reshape(n, d_model) @ w_o
        ),
        "thirds of each head: w_qkv has all queries first, then all keys, then all values": (
            merge(attend(*per_head)) @ w_o
        ),
        "softmax over the heads: it must run over the keys, the last axis": (
            merge((q @ k.mT / 2).softmax(0) @ v) @ w_o
        ),
        "W_O and √d forgotten: divide the scores, and project the concatenation": (
            merge(attend(scale=1.0))
        ),
        "missing √d: divide the scores by the root of d_head": merge(attend(scale=1.0)) @ w_o,
        "root of d_model: each head's queries are d_head long": merge(attend(scale=12**-0.5)) @ w_o,
        "divided by d, not its root": merge(attend(scale=1 / d_head)) @ w_o,
        "W_O forgotten: project the concatenation": merge(attend()),
        "W_O transposed: multiply from the right by w_o itself": merge(attend()) @ w_o.T,
        "view without transpose: tokens are mixed into heads when splitting": (
            merge(attend(*mixed)) @ w_o
        ),
        "view without transpose: tokens are mixed into heads from splitting to merging": (
            attend(*mixed).reshape(n, d_model) @ w_o
        ),
        "merge without transpose: heads must become neighbours of their features": (
            attend().reshape(n, d_model) @ w_o
        ),
        "one head only: split before you attend": attend(*one)[0] @ w_o,
        "one head only: split before you attend, and take d_head under the root": (
            attend(*one, scale=d_head**-0.5)[0] @ w_o
        ),
        "softmax over the wrong axis: it must run over the keys": merge(columns) @ w_o,
        "parts in the wrong order: queries first, then keys, then values": (
            merge(attend(k=v, v=k)) @ w_o
        ),
        "queries and keys swapped: queries come first in w_qkv": merge(attend(q=k, k=q)) @ w_o,
        "causal mask: no mask is asked for here": merge(attend(causal=True)) @ w_o,
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(close(got, merge(attend()) @ w_o), "not the layer: test each step by its shape")
    x, w_qkv, w_o = torch.randn(3, 6), torch.randn(6, 18) / 6**0.5, torch.randn(6, 6)
    q, k, v = ((x @ w).view(3, 2, 3).transpose(0, 1) for w in w_qkv.chunk(3, dim=-1))
    require(
        close(call(answer, x, w_qkv, w_o, 2), attend(q, k, v).transpose(0, 1).reshape(3, 6) @ w_o),
        "right for one size only: take n, d_model and d_head from the input",
    )
