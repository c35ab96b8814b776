"""Right and wrong answers to the exercises of notebook 11."""

import math

import torch

from attnlab.positions import RoPE
from banks import Bank


def omega(d, base=10_000.0):
    return base ** (-torch.arange(0, d, 2) / d)


def rotate(x, pos, base=10_000.0):
    angle = pos[:, None] * omega(x.shape[-1], base)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def rotate_half(x, pos, base=10_000.0):
    """As most libraries write it."""
    angle = torch.outer(pos.to(x.dtype), omega(x.shape[-1], base)).repeat(1, 2)
    a, b = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-b, a], dim=-1) * angle.sin()


def rotate_complex(x, pos, base=10_000.0):
    z = torch.complex(*(half.contiguous() for half in x.chunk(2, dim=-1)))
    angle = pos[:, None] * omega(x.shape[-1], base)
    z = z * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], dim=-1)


def with_angles(angles):
    """The right rotation by other angles: angles(pos (n, 1), i (d/2,), d, base)."""

    def answer(x, pos, base=10_000.0):
        d = x.shape[-1]
        angle = angles(pos[:, None], torch.arange(d // 2), d, base)
        a, b = x.chunk(2, dim=-1)
        c, s = angle.cos(), angle.sin()
        return torch.cat([a * c - b * s, b * c + a * s], dim=-1)

    return answer


def with_halves(mix):
    """The right angles in another mixture: mix(a, b, cos, sin) -> what comes back."""

    def answer(x, pos, base=10_000.0):
        angle = pos[:, None] * omega(x.shape[-1], base)
        a, b = x.chunk(2, dim=-1)
        return mix(a, b, angle.cos(), angle.sin())

    return answer


def interleaved(x, pos, base=10_000.0):
    angle = pos[:, None] * omega(x.shape[-1], base)
    a, b = x[..., 0::2], x[..., 1::2]
    c, s = angle.cos(), angle.sin()
    return torch.stack([a * c - b * s, b * c + a * s], dim=-1).flatten(-2)


def halves_by_neighbours(x, pos, base=10_000.0):
    """Half-split rotation with the angles of interleaved pairs."""
    angle = (pos[:, None] * omega(x.shape[-1], base)).repeat_interleave(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-b, a], dim=-1) * angle.sin()


def neighbours_by_halves(x, pos, base=10_000.0):
    """Interleaved rotation with the angles of half-split pairs."""
    angle = (pos[:, None] * omega(x.shape[-1], base)).repeat(1, 2)
    turned = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    return x * angle.cos() + turned * angle.sin()


def overwritten(a, b, c, s):
    a = a * c - b * s
    b = b * c + a * s
    return torch.cat([a, b], dim=-1)


def cat(*parts):
    return torch.cat(parts, dim=-1)


def head(x, w_q, w_k, w_v, turn, pos, *, q=None, k=None, v=None, scale=None, dim=-1, out=None):
    """A right head; q, k, v say what else is done to them, as functions of (turn, x, w, pos)."""

    def right(turn, x, w, pos):
        return turn(x @ w, pos)

    def still(turn, x, w, pos):
        return x @ w

    q, k, v = (
        f(turn, x, w, pos)
        for f, w in zip((q or right, k or right, v or still), (w_q, w_k, w_v), strict=True)
    )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    y = (q @ k.T * scale).softmax(dim) @ v
    return y if out is None else out(turn, y, pos)


def before(turn, x, w, pos):
    return turn(x, pos) @ w


def after(turn, x, w, pos):
    return turn(x @ w, pos)


def never(turn, x, w, pos):
    return x @ w


def backwards(turn, x, w, pos):
    return turn(x @ w, -pos)


def by_row(turn, x, w, pos):
    return turn(x @ w, torch.arange(len(x)))


def head_of_offsets(x, w_q, w_k, w_v, turn, pos):
    """Turns only keys, by the offset to each query: the relative property used in earnest."""
    q, k, v = x @ w_q, x @ w_k, x @ w_v
    rows = [torch.stack([q[i] @ turn(k, pos - pos[i])[j] for j in range(len(x))])
            for i in range(len(x))]  # fmt: skip
    return (torch.stack(rows) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def to_half_split(w, n_heads):
    d = len(w) // n_heads
    w = w.view(n_heads, d // 2, 2, -1)
    return w.transpose(1, 2).reshape(n_heads * d, -1)


def by_lists(w, n_heads):
    d = len(w) // n_heads
    rows = []
    for h in range(n_heads):
        rows += [h * d + i for i in range(0, d, 2)] + [h * d + i for i in range(1, d, 2)]
    return w[rows]


def to_interleaved(w, n_heads):
    d = len(w) // n_heads
    return w.view(n_heads, 2, d // 2, -1).transpose(1, 2).reshape(n_heads * d, -1)


def key_for(q, back):
    return RoPE(len(q)).rotate(q[None, None, None], torch.tensor([back]))[0, 0, 0]


def key_by_hand(q, back):
    return 3 * rotate(q[None], torch.tensor([back]))[0]


BANK = {
    "11.1": Bank(
        right=[-2.0, -2, 2 * math.cos(math.pi)],
        wrong={
            "wrong-sign": 2.0,
            "not-turned": 0.0,
            "angles-added": 1.0,
            "query-turned-only": 2 * math.cos(math.radians(30)),
            "key-turned-only": -1.0,
            "divided-by-d": -math.sqrt(2),
            "an-angle": 180.0,
            "not-the-score": 5.0,
        },
    ),
    "11.2": Bank(
        right=[rotate, rotate_half, rotate_complex],
        wrong={
            "frequency-multiplied": with_angles(lambda p, i, d, base: p * base ** (2 * i / d)),
            "frequency-multiplied#2": with_angles(lambda p, i, d, base: p / base ** (-2 * i / d)),
            "mixed-layouts": interleaved,
            "turned-clockwise": lambda x, pos, base=1e4: rotate(x, -pos, base),
            "turned-clockwise#2": with_halves(lambda a, b, c, s: cat(a * c + b * s, b * c - a * s)),
            "i-d-in-the-exponent": with_angles(lambda p, i, d, base: p * base ** (-i / d)),
            "d-2-instead-of-d-in-the-exponent": with_angles(
                lambda p, i, d, base: p * base ** (-2 * i / (d / 2))
            ),
            "pairs-counted-from-1": with_angles(
                lambda p, i, d, base: p * base ** (-2 * (i + 1) / d)
            ),
            "positions-ignored": lambda x, pos, base=1e4: rotate(
                x, torch.arange(x.shape[-2]), base
            ),
            "positions-counted-from-1": lambda x, pos, base=1e4: rotate(x, pos + 1, base),
            "one-frequency-for-all-pairs": with_angles(
                lambda p, i, d, base: p * torch.ones(d // 2)
            ),
            "degrees": with_angles(
                lambda p, i, d, base: torch.deg2rad(p * base ** (-2 * i / d))
            ),
            "first-half-overwritten": with_halves(overwritten),
            "signs-of-the-sines": with_halves(lambda a, b, c, s: cat(a * c - b * s, b * c - a * s)),
            "signs-of-the-sines#2": with_halves(
                lambda a, b, c, s: cat(a * c + b * s, b * c + a * s)
            ),
            "cosine-and-sine-exchanged": with_halves(
                lambda a, b, c, s: cat(a * s - b * c, b * s + a * c)
            ),
            "halves-shuffled": with_halves(
                lambda a, b, c, s: torch.stack([a * c - b * s, b * c + a * s], -1).flatten(-2)
            ),
            "only-the-cosines": with_halves(lambda a, b, c, s: cat(a * c, b * c)),
            "mixed-layouts#2": halves_by_neighbours,
            "mixed-layouts#3": neighbours_by_halves,
            "not-turned": lambda x, pos, base=1e4: x.clone(),
            "not-a-rotation": with_halves(lambda a, b, c, s: cat(a + c, b + s)),
            "not-these-angles": with_angles(lambda p, i, d, base: p / (1 + i)),
            "right-for-one-size-only": with_angles(lambda p, i, d, base: p * base ** (-2 * i / 8)),
            "base-ignored": lambda x, pos, base=1e4: rotate(x, pos),
        },
    ),
    "11.3": Bank(
        right=[head, head_of_offsets],
        wrong={
            "rotation-before-projection": lambda *a: head(*a, q=before, k=before, v=before),
            "rotation-before-projection#2": lambda *a: head(*a, q=before, k=before),
            "values-turned-too": lambda *a: head(*a, v=after),
            "keys-not-turned": lambda *a: head(*a, k=never),
            "queries-not-turned": lambda *a: head(*a, q=never),
            "nothing-turned": lambda *a: head(*a, q=never, k=never),
            "only-the-values-turned": lambda *a: head(*a, q=never, k=never, v=after),
            "keys-turned-the-other-way": lambda *a: head(*a, k=backwards),
            "the-output-turned": lambda *a: head(
                *a, q=never, k=never, out=lambda turn, y, pos: turn(y, pos)
            ),
            "missing-d": lambda *a: head(*a, scale=1.0),
            "root-of-d-model": lambda *a: head(*a, scale=a[0].shape[1] ** -0.5),
            "softmax-over-the-wrong-axis": lambda *a: head(*a, dim=0),
            "positions-ignored": lambda *a: head(*a, q=by_row, k=by_row),
            "not-the-head": lambda *a: 2 * head(*a),
            "right-for-one-size-only": lambda *a: head(*a) * (1.0 if len(a[0]) == 5 else 2.0),
        },
    ),
    "11.4": Bank(
        right=[to_half_split, by_lists],
        wrong={
            "mixed-layouts": lambda w, h: w.clone(),
            "the-wrong-way-round": to_interleaved,
            "mixed-across-heads": lambda w, h: torch.cat([w[0::2], w[1::2]]),
            "mixed-across-heads#2": lambda w, h: to_interleaved(w, 1),
            "columns-instead-of-rows": lambda w, h: torch.cat([w[:, 0::2], w[:, 1::2]], 1),
            "columns-instead-of-rows#2": lambda w, h: to_half_split(w.T, h).T,
            "odd-channels-first": lambda w, h: torch.cat(
                [torch.cat([part[1::2], part[0::2]]) for part in w.chunk(h)]
            ),
            "heads-in-a-new-order": lambda w, h: w.view(h, len(w) // h, -1)
            .transpose(0, 1).reshape(w.shape),
            "heads-left-apart": lambda w, h: to_half_split(w, h).view(h, len(w) // h, -1),
            "not-the-order": lambda w, h: w.flip(0),
            "right-for-one-size-only": lambda w, h: to_half_split(w, h) * (1 if h == 3 else 2),
        },
    ),
    "11.5": Bank(
        right=[key_for, key_by_hand],
        wrong={
            "wrong-sign": lambda q, back: key_for(q, -back),
            "not-turned": lambda q, back: q.clone(),
            "not-turned#2": lambda q, back: key_for(q, 0) * (1 + back),
            "mixed-layouts": lambda q, back: interleaved(q[None], torch.tensor([back]))[0],
            "off-by-one": lambda q, back: key_for(q, back + 1),
            "off-by-one#2": lambda q, back: key_for(q, back - 1),
            "points-away": lambda q, back: -key_for(q, back),
            "another-offset": lambda q, back: key_for(q, 2 * back),
            "another-offset#2": lambda q, back: key_for(q, 5),
            "no-key-at-all": lambda q, back: torch.zeros(64),
        },
    ),
}  # fmt: skip
