"""Right and wrong answers to the exercises of notebook 10."""

import math

import torch

from attnlab.positions import t5_bucket
from banks import Bank


def offsets(n):
    place = torch.arange(n)
    return place[None, :] - place[:, None]


def from_table(table, index=lambda o, n: o + n - 1):
    n = (table.shape[1] + 1) // 2
    return table[:, index(offsets(n), n)]


def from_table_by_unfold(table):
    """Row i of the bias is the table from column n - 1 - i on."""
    n = (table.shape[1] + 1) // 2
    return table.unfold(1, n, 1).flip(1)


def from_table_by_loop(table):
    n = (table.shape[1] + 1) // 2
    bias = torch.empty(len(table), n, n)
    for i in range(n):
        for j in range(n):
            bias[:, i, j] = table[:, j - i + n - 1]
    return bias


def bucket(distance, n_buckets=32, max_distance=128, *, own=None, steps=None, cut=True,
           round_=torch.floor, below=math.log, start=None):  # fmt: skip
    own = n_buckets // 2 if own is None else own
    steps = n_buckets - own if steps is None else steps
    start = own if start is None else start
    x = distance.double().clamp(min=1)
    s = round_((x / own).log() / below(max_distance / start) * steps).long()
    s = s.clamp(max=steps - 1) if cut else s
    return torch.where(distance < own, distance, own + s)


def bucket_by_counting(distance, n_buckets=32, max_distance=128):
    """How many buckets begin at or before this distance."""
    own = n_buckets // 2
    starts = [*range(1, own + 1)]
    starts += [own * (max_distance / own) ** (s / own) for s in range(1, own)]
    return sum((distance >= start).long() for start in starts)


def bucket_one_by_one(distance, n_buckets=32, max_distance=128):
    def of(x):
        own = n_buckets // 2
        if x < own:
            return x
        s = int(math.log(x / own) / math.log(max_distance / own) * own)
        return min(n_buckets - 1, own + s)

    return torch.tensor([of(x) for x in distance.flatten().tolist()]).view(distance.shape)


def alibi(q, k, *, slopes=None, scale=None, sign=-1, causal=True, both=False, absolute=False,
          dim=-1, flip=False, soft=True):  # fmt: skip
    h, n, d = q.shape
    if slopes is None:
        slopes = [2 ** (-8 * i / h) for i in range(1, h + 1)]
    m = torch.tensor(slopes)[:, None, None]
    back = -offsets(n)
    scale = d**-0.5 if scale is None else scale
    s = q @ k.mT * scale + sign * m * (back.abs() if absolute else back) * (scale if both else 1)
    if causal:
        s = s.masked_fill((back > 0) if flip else (back < 0), -math.inf)
    return s.softmax(dim) if soft else s


def alibi_by_key(q, k):
    """The bias as +m·j: the rest is the same for a whole row."""
    h, n, d = q.shape
    m = 2.0 ** (-8 * torch.arange(1, h + 1) / h)
    s = q @ k.mT / math.sqrt(d) + m[:, None, None] * torch.arange(n)
    return (s + torch.full((n, n), -math.inf).triu(1)).softmax(-1)


def alibi_by_loop(q, k):
    h, n, d = q.shape
    rows = torch.zeros(h, n, n)
    for head in range(h):
        m = 1 / 2 ** (8 * (head + 1) / h)
        for i in range(n):
            s = torch.stack([q[head, i] @ k[head, j] / d**0.5 - m * (i - j) for j in range(i + 1)])
            rows[head, i, : i + 1] = s.exp() / s.exp().sum()
    return rows


def alibi_on_weights(q, k):
    h, n, d = q.shape
    m = torch.tensor([2 ** (-8 * i / h) for i in range(1, h + 1)])[:, None, None]
    s = (q @ k.mT / d**0.5).masked_fill(offsets(n) > 0, -math.inf).softmax(-1)
    return (s + m * offsets(n)).tril()


def rows_of(q, table):
    clip = (len(table) - 1) // 2
    return offsets(len(q)).clamp(-clip, clip) + clip, clip


def shaw(q, k, table, *, row=None, side=None, divide=None):
    index, clip = rows_of(q, table)
    index = index if row is None else row(offsets(len(q)), clip)
    term = ((q if side is None else side(q, k)) @ table.T).gather(1, index)
    root = math.sqrt(q.shape[1])
    return (q @ k.T + term) / root if divide is None else divide(q @ k.T, term, root)


def shaw_by_diagonals(q, k, table):
    index, clip = rows_of(q, table)
    by_row = q @ table.T
    term = sum(by_row[:, c : c + 1] * (index == c) for c in range(len(table)))
    return (q @ k.T + term) * q.shape[1] ** -0.5


def shaw_row_by_row(q, k, table):
    index, _ = rows_of(q, table)
    rows = [(k + table[index[i]]) @ q[i] for i in range(len(q))]
    return torch.stack(rows) / math.sqrt(q.shape[1])


def shaw_large(q, k, table):
    index, _ = rows_of(q, table)
    return torch.einsum("id,ijd->ij", q, k[None] + table[index]) / math.sqrt(q.shape[1])


def shaw_to_keys(q, k, table):
    index, _ = rows_of(q, table)
    return (q @ k.T + (k @ table.T).T.gather(0, index)) / math.sqrt(q.shape[1])


BANK = {
    "10.1": Bank(
        right=[from_table, from_table_by_unfold, from_table_by_loop],
        wrong={
            "heads-last": lambda t: from_table(t).permute(1, 2, 0),
            "too-many-tokens": lambda t: t[:, :, None] + torch.zeros(t.shape[1]),
            "sign-of-the-offset": lambda t: from_table(t, lambda o, n: n - 1 - o),
            "sign-of-the-offset#2": lambda t: from_table(t).mT,
            "offsets-not-shifted": lambda t: from_table(t, lambda o, n: o),
            "distance-instead-of-offset": lambda t: from_table(t, lambda o, n: o.abs() + n - 1),
            "distance-counted-from-the-first-column": (
                lambda t: from_table(t, lambda o, n: o.abs())
            ),
            "one-column-too-far": lambda t: from_table(t, lambda o, n: (o + n) % (2 * n - 1)),
            "one-column-too-near": lambda t: from_table(t, lambda o, n: o + n - 2),
            "same-bias-for-all-heads": lambda t: from_table(t[:1]).repeat(len(t), 1, 1),
            "position-instead-of-offset": lambda t: (
                t[:, None, t.shape[1] // 2 :].repeat(1, t.shape[1] // 2 + 1, 1)
            ),
            "not-the-bias": lambda t: from_table(t) * 2,
            "fails-for-one-token": lambda t: from_table(t) if t.shape[1] > 1 else t,
        },
    ),
    "10.2": Bank(
        right=[bucket, bucket_by_counting, bucket_one_by_one],
        wrong={
            "not-rounded": lambda d, *a: torch.where(
                d < 16, d, 16 + (d.clamp(min=1) / 16).log() / math.log(8) * 16
            ).clamp(max=31),
            "every-distance-its-own-bucket": lambda d, b=32, m=128: d.clamp(max=b - 1),
            "no-last-bucket": lambda *a: bucket(*a, cut=False),
            "no-bucket-is-exact": lambda d, b=32, m=128: (
                (d.double().clamp(min=1).log() / math.log(m) * b).long().clamp(max=b - 1)
            ),
            "rounded-up": lambda *a: bucket(*a, round_=torch.ceil),
            "rounded-to-the-nearest": lambda *a: bucket(*a, round_=torch.round),
            "buckets-for-two-directions": lambda d, b=32, m=128: t5_bucket(-d, b, m),
            "logarithm-to-another-base": lambda *a: bucket(*a, below=math.log2),
            "ratio-not-to-half-the-buckets": lambda *a: bucket(*a, start=1),
            "linear-steps": lambda d, b=32, m=128: torch.where(
                d < b // 2, d, (b // 2 + (d - b // 2) * (b // 2) // (m - b // 2)).clamp(max=b - 1)
            ),
            "counted-from-the-end": lambda d, b=32, m=128: b - 1 - bucket(d, b, m),
            "not-t5-s-buckets": lambda *a: bucket(*a, steps=8),
            "right-for-32-and-128-only": lambda d, *a: bucket(d),
            "one-shape-only": lambda d, *a: bucket(d.flatten(), *a),
        },
    ),
    "10.3": Bank(
        right=[alibi, alibi_by_key, alibi_by_loop],
        wrong={
            "missing-d": lambda q, k: alibi(q, k, scale=1.0),
            "bias-divided-too": lambda q, k: alibi(q, k, both=True),
            "distance-rewarded": lambda q, k: alibi(q, k, sign=1),
            "no-bias": lambda q, k: alibi(q, k, sign=0),
            "no-causal-mask": lambda q, k: alibi(q, k, causal=False, absolute=True),
            "no-causal-mask#2": lambda q, k: alibi(q, k, causal=False),
            "mask-the-wrong-way-round": lambda q, k: alibi(q, k, flip=True),
            "slopes-in-reverse": lambda q, k: alibi(
                q, k, slopes=[2 ** (-8 * i / len(q)) for i in range(len(q), 0, -1)]
            ),
            "heads-counted-from-0": lambda q, k: alibi(
                q, k, slopes=[2 ** (-8 * i / len(q)) for i in range(len(q))]
            ),
            "slopes-for-eight-heads": lambda q, k: alibi(
                q, k, slopes=[2.0 ** -(i + 1) for i in range(len(q))]
            ),
            "one-slope-for-all-heads": lambda q, k: alibi(
                q, k, slopes=[2 ** (-8 / len(q))] * len(q)
            ),
            "scores-not-weights": lambda q, k: alibi(q, k, soft=False),
            "softmax-over-the-wrong-axis": lambda q, k: alibi(q, k, dim=1),
            "bias-added-to-the-weights": alibi_on_weights,
            "not-alibi": lambda q, k: alibi(q, k, scale=0.1),
            "right-for-one-size-only": lambda q, k: alibi(q, k, scale=0.25),
            "mask-after-softmax": lambda q, k: alibi(q, k, causal=False).tril(),
            "masked-scores-set-to-zero": lambda q, k: (
                alibi(q, k, causal=False, soft=False).tril().softmax(-1)
            ),
            "8-forgotten": lambda q, k: alibi(
                q, k, slopes=[2 ** (-i / len(q)) for i in range(1, len(q) + 1)]
            ),
            "wrong-for-16-heads": lambda q, k: alibi(
                q, k, slopes=[2.0 ** -(8 // len(q) * i) for i in range(1, len(q) + 1)]
            ),
        },
    ),
    "10.4": Bank(
        right=[shaw, shaw_by_diagonals, shaw_row_by_row],
        wrong={
            "sign-of-the-offset": lambda *a: shaw(*a, row=lambda o, c: c - o.clamp(-c, c)),
            "key-instead-of-query": shaw_to_keys,
            "key-of-the-wrong-token": lambda *a: shaw(*a, side=lambda q, k: k),
            "term-not-divided": lambda *a: shaw(*a, divide=lambda s, t, r: s / r + t),
            "missing-d": lambda *a: shaw(*a, divide=lambda s, t, r: s + t),
            "divided-by-d-not-its-root": lambda *a: shaw(
                *a, divide=lambda s, t, r: (s + t) / r**2
            ),
            "content-forgotten": lambda *a: shaw(*a, divide=lambda s, t, r: t / r),
            "term-forgotten": lambda *a: shaw(*a, divide=lambda s, t, r: s / r),
            "clipped-rows-not-shifted": lambda *a: shaw(
                *a, row=lambda o, c: o.clamp(-c, c) % (2 * c + 1)
            ),
            "wrapped-instead-of-clipped": lambda *a: shaw(
                *a, row=lambda o, c: (o + c) % (2 * c + 1)
            ),
            "distance-instead-of-offset": lambda *a: shaw(
                *a, row=lambda o, c: o.abs().clamp(max=c) + c
            ),
            "builds-the-n-n-d-tensor": shaw_large,
            "not-shaw-s-scores": lambda *a: 2 * shaw(*a),
            "right-for-one-size-only": lambda *a: shaw(*a, row=lambda o, c: o.clamp(-3, 3) + 3)
            if len(a[2]) == 7 else shaw(*a) * 2,
        },
    ),
}
