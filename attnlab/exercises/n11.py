"""Checks of notebook 11, rotary encoding."""

import math

import torch

from attnlab.exercises.n01 import close
from attnlab.positions import RoPE
from attnlab.positions.rotary import channel_order
from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("11.1", "Turn and multiply", minutes=5, difficulty=1)
def turned_score(answer):
    value = require_number(answer)
    mistakes = {
        "wrong sign: the key turns by n and the query by m, so n − m counts, not m − n": 2.0,
        "not turned: that is q·k before the positions come in": 0.0,
        "angles added: the turns of query and key work against each other": 1.0,
        "query turned only: the key turns too, by its own position": math.sqrt(3),
        "key turned only: the query turns too, by its own position": -1.0,
        "divided by √d: q·k itself is asked for": -math.sqrt(2),
        "an angle: the product of the two vectors is asked for": 180.0,
    }
    for name, number in mistakes.items():
        require(abs(value - number) > 0.01, name)
    require(abs(value + 2) < 0.01, "not the score: draw both arrows after turning")


def turned(x, pos, *, exponent=-1.0, base=10_000.0, layout="half", way=1.0, first=0, part=1.0):
    """The rotation of exercise 11.2, with room for each of its mistakes."""
    d = x.shape[-1]
    pair = torch.arange(d // 2, dtype=torch.float64) + first
    angle = way * pos.double()[:, None] * base ** (exponent * part * 2 * pair / d)
    c, s = angle.cos(), angle.sin()
    wide = x.double()
    if layout == "half":
        a, b = wide.chunk(2, dim=-1)
        return torch.cat([a * c - b * s, b * c + a * s], dim=-1)
    a, b = wide[..., 0::2], wide[..., 1::2]
    return torch.stack([a * c - b * s, b * c + a * s], dim=-1).flatten(-2)


@exercise("11.2", "Rotate without a matrix", minutes=15, difficulty=2)
def rotate(answer):
    x, pos = torch.randn(2, 5, 8), torch.tensor([3, 0, 7, 1, 40])
    got = require_tensor(call(answer, x, pos)).double()
    require_tensor(got, (2, 5, 8))
    right = turned(x, pos)
    a, b = x.double().chunk(2, dim=-1)
    angle = pos.double()[:, None] * 10_000 ** (-torch.arange(4, dtype=torch.float64) / 4)
    c, s = angle.cos(), angle.sin()
    small = torch.deg2rad(angle)
    each = angle.repeat_interleave(2, dim=-1)  # 0 0 1 1 2 2 …, for interleaved pairs
    twice = angle.repeat(1, 2)  # 0 1 2 … 0 1 2 …, for halves
    neighbours = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2).double()
    new_a = a * c - b * s
    rows = torch.arange(5)
    mistakes = {
        "not turned: what comes back is x itself": x.double(),
        "frequency multiplied: ω must fall with i, base to the power −2i/d; yours grows": turned(
            x, pos, exponent=1.0
        ),
        "mixed layouts: here pair i is channels i and i + d/2; yours turns 2i and 2i + 1": turned(
            x, pos, layout="interleaved"
        ),
        "mixed layouts: your halves are right, but channels 2i and 2i + 1 share an angle; in this "
        "layout i and i + d/2 do": x.double() * each.cos() + torch.cat([-b, a], -1) * each.sin(),
        "mixed layouts: your angles are right, but you turn channel 2i with 2i + 1, not i with "
        "i + d/2": x.double() * twice.cos() + neighbours * twice.sin(),
        "turned clockwise: the first entry is a·cos − b·sin": turned(x, pos, way=-1.0),
        "i/d in the exponent: with i from 0 to d/2 − 1 it is 2i/d": turned(x, pos, part=0.5),
        "d/2 instead of d in the exponent: it is 2i/d with d channels": turned(x, pos, part=2.0),
        "pairs counted from 1: pair 0 turns by 1 radian per position": turned(x, pos, first=1),
        "positions ignored: take pos, not the number of the row": turned(x, rows),
        "positions counted from 1: position 0 does not turn": turned(x, pos + 1),
        "one frequency for all pairs: pair i turns by ω_i, which depends on i": turned(
            x, pos, exponent=0.0
        ),
        "degrees: ω is in radians per position, as cos and sin want it": torch.cat(
            [a * small.cos() - b * small.sin(), b * small.cos() + a * small.sin()], -1
        ),
        "first half overwritten: the second line needs a as it was before": torch.cat(
            [new_a, b * c + new_a * s], -1
        ),
        "signs of the sines: one of the two has a minus, yours both": torch.cat(
            [new_a, b * c - a * s], -1
        ),
        "signs of the sines: one of the two has a minus, yours neither": torch.cat(
            [a * c + b * s, b * c + a * s], -1
        ),
        "cosine and sine exchanged: angle 0 must leave a vector as it is": torch.cat(
            [a * s - b * c, b * s + a * c], -1
        ),
        "halves shuffled: put the two halves one after the other again": torch.stack(
            [new_a, b * c + a * s], -1
        ).flatten(-2),
        "only the cosines: turning also mixes the two channels of a pair": torch.cat(
            [a * c, b * c], -1
        ),
    }  # fmt: skip
    for name, wrong in mistakes.items():
        # Large angles are off by 0.01 in float32: the frequency multiplied must still be known.
        require(not torch.allclose(got, wrong, atol=0.02), name)
    norms = (got.norm(dim=-1) - x.double().norm(dim=-1)).abs().max()
    require(norms < 1e-3, "not a rotation: the norm of a vector must stay")
    require(close(got, right), "not these angles: print yours for position 3, pair by pair")
    x = torch.randn(3, 4, 6)
    pos = torch.tensor([5, 2, 9, 0])
    require(
        close(call(answer, x, pos).double(), turned(x, pos)),
        "right for one size only: take d from the input",
    )
    require(
        close(call(answer, x, pos, 100.0).double(), turned(x, pos, base=100.0)),
        "base ignored: the frequencies must follow the argument `base`",
    )


def plain_rotate(x, pos):
    """RoPE, half-split, for one matrix of any even width."""
    return RoPE(x.shape[-1]).rotate(x[None, None], pos)[0, 0]


@exercise("11.3", "A head with RoPE", minutes=12, difficulty=2)
def rope_head(answer):
    n, d_model, d_head = 5, 12, 8
    x, pos = torch.randn(n, d_model), torch.tensor([4, 5, 6, 9, 30])
    w_q, w_k, w_v = torch.randn(3, d_model, d_head) / 2

    def turn(t, at=None):
        return plain_rotate(t, pos if at is None else at)

    def head(q=None, k=None, v=None, scale=d_head**-0.5, dim=-1):
        q = turn(x @ w_q) if q is None else q
        k = turn(x @ w_k) if k is None else k
        v = x @ w_v if v is None else v
        return (q @ k.T * scale).softmax(dim) @ v

    got = require_tensor(call(answer, x, w_q, w_k, w_v, plain_rotate, pos), (n, d_head))
    rows, y = torch.arange(n), turn(x)
    mistakes = {
        "rotation before projection: turn q and k, after W_Q and W_K, not x": head(
            y @ w_q, y @ w_k, y @ w_v
        ),
        "rotation before projection: turn q and k themselves, not the x they come from": head(
            y @ w_q, y @ w_k
        ),
        "values turned too: v stays as it is": head(v=turn(x @ w_v)),
        "keys not turned: queries and keys turn, each by its own position": head(k=x @ w_k),
        "queries not turned: queries and keys turn, each by its own position": head(q=x @ w_q),
        "nothing turned: the positions play no part": head(x @ w_q, x @ w_k),
        "only the values turned: it is the scores that must know the positions": head(
            x @ w_q, x @ w_k, turn(x @ w_v)
        ),
        "positions ignored: turn by pos, not by the number of the row": head(
            turn(x @ w_q, rows), turn(x @ w_k, rows)
        ),
        "keys turned the other way: then m + n counts instead of n − m": head(
            k=turn(x @ w_k, -pos)
        ),
        "the output turned: turn q and k, before the scores": turn(head(x @ w_q, x @ w_k)),
        "missing √d: divide the scores by the root of d_head": head(scale=1.0),
        "root of d_model: queries have d_head entries": head(scale=d_model**-0.5),
        "softmax over the wrong axis: it runs over the keys": head(dim=0),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(close(got, head()), "not the head: compare your scores for a shift of all positions")
    x, pos = torch.randn(3, 7), torch.tensor([9, 2, 7])
    w_q, w_k, w_v = torch.randn(3, 7, 4) / 2
    require(
        close(call(answer, x, w_q, w_k, w_v, plain_rotate, pos), head(scale=0.5)),
        "right for one size only: take the sizes from the input",
    )


@exercise("11.4", "From one layout to the other", minutes=10, difficulty=2)
def to_half_split(answer):
    n_heads, d_head, d_model = 3, 8, 24
    w = torch.randn(n_heads * d_head, d_model)
    order = channel_order(d_head)
    by_head = w.view(n_heads, d_head, d_model)
    right = by_head[:, order].reshape(w.shape)
    got = require_tensor(call(answer, w, n_heads))
    require(
        tuple(got.shape) != (n_heads, d_head, d_model),
        "heads left apart: put the rows of all heads into one matrix again",
    )
    require_tensor(got, tuple(w.shape))
    odd_first = torch.cat([order[d_head // 2 :], order[: d_head // 2]])
    mistakes = {
        "mixed layouts: the rows are where they were, so the pairs do not fit the rotation": w,
        "the wrong way round: yours turns half-split parameters into interleaved ones": (
            by_head[:, order.argsort()].reshape(w.shape)
        ),
        "mixed across heads: reorder the rows within each head": w[channel_order(len(w))],
        "mixed across heads: reorder the rows within each head, and the other way round": (
            w[channel_order(len(w)).argsort()]
        ),
        "columns instead of rows: the columns belong to x, which stays as it is": (
            w[:, channel_order(d_model)]
        ),
        "columns instead of rows: each row is a channel of q; the columns belong to x": (
            w.view(-1, n_heads, d_head)[..., order].reshape(w.shape)
        ),
        "odd channels first: the first half of each head holds the channels 0, 2, 4, …": (
            by_head[:, odd_first].reshape(w.shape)
        ),
        "heads in a new order: only the rows inside a head move": (
            by_head.transpose(0, 1).reshape(w.shape)
        ),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(close(got, right), "not the order: which row of w makes channel 1 of head 0?")
    w = torch.randn(2 * 6, 5)
    require(
        close(call(answer, w, 2), w.view(2, 6, 5)[:, channel_order(6)].reshape(12, 5)),
        "right for one size only: take the sizes from the input",
    )


@exercise("11.5", "A key that answers from afar", minutes=8, difficulty=3)
def key_for(answer):
    d, rope = 64, RoPE(64)
    for back, trials in ((5, 4), (1, 2), (40, 2), (0, 1)):
        for _ in range(trials):
            q = torch.randn(d)
            k = require_tensor(call(answer, q, back), (d,))
            offsets = torch.arange(-200, 201)
            keys = rope.rotate(k.float().expand(1, 1, 401, d), offsets)[0, 0]
            best = offsets[(keys @ q).argmax()].item()
            right = turned(q[None, None], torch.tensor([back]))[0, 0]
            for name, wrong in {
                "mixed layouts: you turned channels 2i and 2i + 1 together; half-split pairs "
                "channel i with i + 32": turned(
                    q[None, None], torch.tensor([back]), layout="interleaved"
                )[0, 0],
                "points away: there the score of your key is smallest, not largest": -right,
            }.items():
                alike = torch.cosine_similarity(k.double(), wrong, dim=0)
                require(back == 0 or alike < 0.999, name)
            require(
                back == 0 or abs(best + back) != 1,
                f"off by one: the score of your key is largest {-best} tokens back, not {back}",
            )
            require(bool(k.any()), "no key at all: the score of a key of zeros is always 0")
            require(
                back == 0 or best != back,
                f"wrong sign: your key is called by a query {back} tokens before it, not after it",
            )
            require(
                back == 0 or best != 0,
                "not turned: this key answers best to a query at its own position",
            )
            require(
                best == -back,
                f"another offset: the score of your key is largest {-best} tokens back, "
                f"not {back}; do your pairs fit the layout?",
            )
