"""Checks of notebook 10, relative positions."""

import math

import torch

from attnlab import attention_weights
from attnlab.exercises._watch import Largest
from attnlab.exercises.n01 import agrees, close
from attnlab.positions import ALiBi, t5_bucket
from attnlab.teach import call, exercise, require, require_tensor


@exercise("10.1", "From a table to a bias", minutes=8, difficulty=1)
def bias_from_table(answer):
    n_heads, n = 3, 6
    table = torch.randn(n_heads, 2 * n - 1)
    got = require_tensor(call(answer, table))
    place = torch.arange(n)
    offset = place[None, :] - place[:, None]
    require(
        tuple(got.shape) != (n, n, n_heads),
        "heads last: the shape must be (heads, query, key)",
    )
    require(
        tuple(got.shape) != (n_heads, 2 * n - 1, 2 * n - 1),
        "too many tokens: a table of 2n - 1 columns serves n tokens",
    )
    require_tensor(got, (n_heads, n, n))
    expected = table[:, offset + n - 1]
    mistakes = {
        "sign of the offset: it is key minus query, so row i, column j reads j - i": (
            table[:, n - 1 - offset]
        ),
        "offsets not shifted: a negative index counts from the end; offset 0 stands in column "
        "n - 1": table[:, offset],
        "distance instead of offset: keys before and after the query have different columns": (
            table[:, offset.abs() + n - 1]
        ),
        "distance counted from the first column: offset 0 stands in column n - 1": (
            table[:, offset.abs()]
        ),
        "one column too far: offset 0 stands in column n - 1, not n": (
            table[:, (offset + n) % (2 * n - 1)]
        ),
        "one column too near: offset 0 stands in column n - 1": table[:, offset + n - 2],
        "same bias for all heads: each head has its own row of the table": (
            expected[:1].expand(n_heads, n, n)
        ),
        "position instead of offset: every query reads the same columns": (
            table[:, None, n - 1 :].expand(n_heads, n, n)
        ),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(close(got, expected), "not the bias: row i, column j must hold column j - i + n - 1")
    table = torch.randn(2, 1)
    require(
        close(call(answer, table), table[:, :, None]),
        "fails for one token: a table with one column makes a bias of shape (heads, 1, 1)",
    )


@exercise("10.2", "Causal buckets", minutes=15, difficulty=2)
def causal_bucket(answer):
    distance = torch.arange(0, 300)

    def formula(own, steps, most, ratio=math.log, cut=True, up=torch.floor):
        x = distance.double().clamp(min=1)
        s = up((x / own).log() / ratio(most / own) * steps).long()
        s = s.clamp(max=steps - 1) if cut else s
        return torch.where(distance < own, distance, own + s)

    got = require_tensor(call(answer, distance), (300,))
    whole = not got.is_floating_point() or torch.equal(got, got.round())
    require(whole, "not rounded: a bucket has a whole number; round down")
    got = got.long()
    whole_log = (distance.double().clamp(min=1).log() / math.log(128) * 32).long().clamp(max=31)
    mistakes = {
        "every distance its own bucket: only the first half of the buckets holds one distance "
        "each": distance.clamp(max=31),
        "no last bucket: beyond max_distance the numbers go on; the last bucket takes all": (
            formula(16, 16, 128, cut=False)
        ),
        "no bucket is exact: the first half of the buckets holds one distance each": whole_log,
        "rounded up: a bucket begins where its formula is reached, so round down": (
            formula(16, 16, 128, up=torch.ceil)
        ),
        "rounded to the nearest: a bucket begins where its formula is reached, so round down": (
            formula(16, 16, 128, up=torch.round)
        ),
        "buckets for two directions: with a causal mask all 32 serve one side": (
            t5_bucket(-distance, causal=False)
        ),
        "logarithm to another base: divide the two logarithms by each other, both of one base": (
            formula(16, 16, 128, ratio=math.log2)
        ),
        "ratio not to half the buckets: compare max_distance with the last exact distance, not "
        "with 1": formula(16, 16, 128 * 16),
        "linear steps: the far buckets grow in proportion, by a logarithm": torch.where(
            distance < 16, distance, (16 + (distance - 16) * 16 // 112).clamp(max=31)
        ),
        "counted from the end: distance 0 has bucket 0": 31 - formula(16, 16, 128),
    }
    for name, wrong in mistakes.items():
        require(not torch.equal(got, wrong), name)
    require(
        torch.equal(got, t5_bucket(-distance, causal=True)),
        "not T5's buckets: compare distances 15, 16, 19, 112 and 113 with the list above",
    )
    # no boundary of this size is a whole number, so rounding in float32 cannot matter
    other = require_tensor(call(answer, distance, 8, 50))
    require(
        torch.equal(other.long(), t5_bucket(-distance, 8, 50, causal=True)),
        "right for 32 and 128 only: use n_buckets and max_distance",
    )
    square = call(answer, distance[:6].view(2, 3))
    require(
        isinstance(square, torch.Tensor) and tuple(square.shape) == (2, 3),
        "one shape only: the result has the shape of the distances",
    )


@exercise("10.3", "ALiBi", minutes=12, difficulty=2)
def alibi_weights(answer):
    n_heads, n, d_head = 4, 9, 16
    q, k = torch.randn(n_heads, n, d_head), torch.randn(n_heads, n, d_head)
    place = torch.arange(n)
    back = place[:, None] - place[None, :]  # (query, key)
    slopes = torch.tensor([2.0 ** (-8 * h / n_heads) for h in range(1, n_heads + 1)])
    one_off = torch.tensor([2.0 ** (-8 * h / n_heads) for h in range(n_heads)])
    content = q @ k.mT / math.sqrt(d_head)
    steep = slopes[:, None, None]

    def weights(scores, causal=True):
        return (scores.masked_fill(back < 0, -math.inf) if causal else scores).softmax(-1)

    got = call(answer, q, k)
    if isinstance(got, torch.Tensor):
        hidden = (content - steep * back).masked_fill(back < 0, -math.inf)
        mistakes = {
            "missing √d: divide q·k by the root of d_head, not the bias": (
                weights(q @ k.mT - steep * back)
            ),
            "bias divided too: add it after q·k is divided by √d": (
                weights((q @ k.mT - steep * back) / math.sqrt(d_head))
            ),
            "distance rewarded: the bias must lower the scores of far keys": (
                weights(content + steep * back)
            ),
            "no bias: subtract slope times distance": weights(content),
            "no causal mask: a query must not see later keys": weights(
                content - steep * back.abs(), causal=False
            ),
            "no causal mask: a query must not see later keys, and here they are even rewarded": (
                weights(content - steep * back, causal=False)
            ),
            "mask the wrong way round: a query sees itself and what is before it": (
                (content - steep * back).masked_fill(back > 0, -math.inf).softmax(-1)
            ),
            "slopes in reverse: the first head is the steepest": (
                weights(content - slopes.flip(0)[:, None, None] * back)
            ),
            "heads counted from 0: the first slope is 2^(-8/n_heads), not 1": (
                weights(content - one_off[:, None, None] * back)
            ),
            "slopes for eight heads: the exponent is 8h/n_heads, so it depends on how many": (
                weights(content - torch.tensor([0.5, 0.25, 0.125, 0.0625])[:, None, None] * back)
            ),
            "one slope for all heads: each head has its own": (
                weights(content - slopes[0] * back)
            ),
            "mask after softmax: the rows no longer sum to 1; hide the scores": (
                (content - steep * back).softmax(-1).tril()
            ),
            "masked scores set to zero: exp(0) is 1, so later keys keep weight; use minus "
            "infinity": (content - steep * back).tril().softmax(-1),
            "8 forgotten: the slopes are 2^(-8h/n_heads)": weights(
                content - steep.pow(1 / 8) * back
            ),
            "scores, not weights: the softmax is missing": hidden,
            "softmax over the wrong axis: it must run over the keys, the last axis": (
                hidden.softmax(1)
            ),
            "bias added to the weights: it belongs to the scores, before the softmax": (
                (weights(content) - steep * back).masked_fill(back < 0, 0.0)
            ),
        }
        for name, wrong in mistakes.items():
            require(not agrees(got.nan_to_num(neginf=-1e9), wrong.nan_to_num(neginf=-1e9)), name)
    got = require_tensor(got, (n_heads, n, n))
    options = {"encoding": ALiBi(n_heads), "causal": True}
    expected = attention_weights(q[None], k[None], **options)[0]
    require(close(got, expected), "not ALiBi: test the bias alone, with q and k all zero")
    q, k = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    expected = attention_weights(q[None], k[None], encoding=ALiBi(2), causal=True)[0]
    require(
        close(call(answer, q, k), expected),
        "right for one size only: take heads, tokens and d_head from the input",
    )
    q, k = torch.randn(2, 16, 4, 3)
    expected = attention_weights(q[None], k[None], encoding=ALiBi(16), causal=True)[0]
    require(
        close(call(answer, q, k), expected),
        "wrong for 16 heads: 8h / n_heads is no whole number there; divide with /, not //",
    )


@exercise("10.4", "Shaw without the large tensor", minutes=20, difficulty=3)
def shaw_scores(answer):
    n, d_head, clip = 12, 16, 3
    q, k = torch.randn(n, d_head), torch.randn(n, d_head)
    table = torch.randn(2 * clip + 1, d_head)
    place = torch.arange(n)
    offset = place[None, :] - place[:, None]
    row = offset.clamp(-clip, clip) + clip

    def scores(row=row, side=q, divide=True):
        term = (side[:, None] * table[row]).sum(-1)
        return (q @ k.T + term) / math.sqrt(d_head) if divide else q @ k.T + term

    got = require_tensor(call(answer, q, k, table), (n, n))
    alone = (q[:, None] * table[row]).sum(-1)
    mistakes = {
        "sign of the offset: it is key minus query": scores(2 * clip - row),
        "key instead of query: the term is the query times the table": (
            (q @ k.T + (k[None] * table[row]).sum(-1)) / math.sqrt(d_head)
        ),
        "key of the wrong token: the term is the query times the table": scores(side=k),
        "term not divided: the root of d_head divides both products": (
            q @ k.T / math.sqrt(d_head) + alone
        ),
        "missing √d: divide by the root of d_head": scores(divide=False),
        "divided by d, not its root": scores(divide=False) / d_head,
        "content forgotten: q·k is part of the score": alone / math.sqrt(d_head),
        "term forgotten: the table is not used": q @ k.T / math.sqrt(d_head),
        "clipped rows not shifted: row 0 of the table is offset -clip": (
            scores(offset.clamp(-clip, clip))
        ),
        "wrapped instead of clipped: offsets beyond the clip take the last row of their side": (
            scores((offset + clip) % (2 * clip + 1))
        ),
        "distance instead of offset: before and after the query are different rows": (
            scores(offset.abs().clamp(max=clip) + clip)
        ),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(close(got, scores()), "not Shaw's scores: compare with the formula for n = 2 by hand")
    q, k, table = torch.randn(64, 32), torch.randn(64, 32), torch.randn(5, 32)
    with Largest() as largest:
        second = require_tensor(call(answer, q, k, table), (64, 64))
    row = (torch.arange(64)[None, :] - torch.arange(64)[:, None]).clamp(-2, 2) + 2
    expected = (q @ k.T + (q[:, None] * table[row]).sum(-1)) / math.sqrt(32)
    require(
        close(second, expected),
        "right for one size only: take tokens, d_head and clip from the input",
    )
    require(
        largest.numbers < 64 * 64 * 32,
        "builds the n × n × d tensor: the scores are right; multiply q by the table first, then "
        "pick",
    )
