"""Right and wrong answers to the exercises of notebook 04."""

import torch

from banks import Bank

# --- 4.1


def left(d_model, n_heads, removed):
    return 4 * d_model * (d_model // n_heads) * (n_heads - removed)


def left_by_share(d_model, n_heads, removed):
    return 4 * d_model**2 * (n_heads - removed) / n_heads


def left_by_matrices(d_model, n_heads, removed):
    wide = d_model - removed * d_model // n_heads
    return 3 * (d_model * wide) + wide * d_model


# --- 4.2


def slope_of(losses_of, gates):
    return torch.autograd.grad(losses_of(gates).sum(), gates)[0]


def ones(*shape):
    return torch.ones(*shape, requires_grad=True)


def importance(losses_of, batch, n_heads):
    return slope_of(losses_of, ones(batch, n_heads)).abs().mean(0)


def importance_by_backward(losses_of, batch, n_heads):
    gates = ones(batch, n_heads)
    losses_of(gates).mean().backward()  # divides by the batch
    return gates.grad.abs().sum(dim=0)


def importance_by_loop(losses_of, batch, n_heads):
    gates = ones(batch, n_heads)
    each = losses_of(gates)
    total = torch.zeros(n_heads)
    for i in range(batch):
        (slope,) = torch.autograd.grad(each[i], gates, retain_graph=True)
        total += slope[i].abs()
    return total / batch


def one_gate(losses_of, batch, n_heads):
    return slope_of(losses_of, ones(n_heads)).abs()


def one_gate_mean(losses_of, batch, n_heads):
    gates = ones(n_heads)
    return torch.autograd.grad(losses_of(gates).mean(), gates)[0].abs()


def loss_mean(losses_of, batch, n_heads):
    gates = ones(batch, n_heads)
    return torch.autograd.grad(losses_of(gates).mean(), gates)[0].abs().mean(0)


def gates_of_zero(losses_of, batch, n_heads):
    gates = torch.zeros(batch, n_heads, requires_grad=True)
    return slope_of(losses_of, gates).abs().mean(0)


def softmaxed(losses_of, batch, n_heads):
    gates = ones(batch, n_heads)
    return slope_of(lambda g: losses_of(g.softmax(-1)), gates).abs().mean(0)


def softmaxed_to_one(losses_of, batch, n_heads):
    gates = ones(batch, n_heads)
    return slope_of(lambda g: losses_of(n_heads * g.softmax(-1)), gates).abs().mean(0)


def ablation(losses_of, batch, n_heads):
    whole, costs = losses_of(torch.ones(batch, n_heads)), []
    for h in range(n_heads):
        gates = torch.ones(batch, n_heads)
        gates[:, h] = 0
        costs.append((losses_of(gates) - whole).mean())
    return torch.stack(costs)


def ablation_abs(losses_of, batch, n_heads):
    whole, costs = losses_of(torch.ones(batch, n_heads)), []
    for h in range(n_heads):
        gates = torch.ones(batch, n_heads)
        gates[:, h] = 0
        costs.append((losses_of(gates) - whole).abs().mean())
    return torch.stack(costs)


def slopes(losses_of, batch, n_heads):
    return slope_of(losses_of, ones(batch, n_heads))


# --- 4.3


def first(scores, k):
    return [divmod(i, scores.shape[1]) for i in scores.flatten().argsort()[:k].tolist()]


def first_by_sorting(scores, k):
    rows, columns = scores.shape
    pairs = [(layer, head) for layer in range(rows) for head in range(columns)]
    return sorted(pairs, key=lambda pair: scores[pair].item())[:k]


def first_by_topk(scores, k):
    found = scores.flatten().topk(k, largest=False).indices
    return torch.stack([found // scores.shape[1], found % scores.shape[1]], dim=1)


def five_wide(scores, k):
    return [(i // 5, i % 5) for i in scores.flatten().argsort()[:k].tolist()]


def flat(scores):
    return scores.flatten().argsort().tolist()


# --- 4.5


def columns(d_head, which):
    return torch.cat([torch.arange(h * d_head, (h + 1) * d_head) for h in which])


def by_columns(w_q, w_k, w_v, w_o, n_heads, keep):
    i = columns(w_q.shape[1] // n_heads, keep)
    return w_q[:, i], w_k[:, i], w_v[:, i], w_o[i]


def by_unflatten(w_q, w_k, w_v, w_o, n_heads, keep):
    narrow = [w.unflatten(1, (n_heads, -1))[:, keep].flatten(1) for w in (w_q, w_k, w_v)]
    return *narrow, w_o.unflatten(0, (n_heads, -1))[keep].flatten(0, 1)


def by_slices(w_q, w_k, w_v, w_o, n_heads, keep):
    size = w_q.shape[1] // n_heads
    parts = [slice(h * size, (h + 1) * size) for h in keep]
    narrow = [torch.cat([w[:, part] for part in parts], dim=1) for w in (w_q, w_k, w_v)]
    return [*narrow, torch.cat([w_o[part] for part in parts])]


def wrong_side_of_w_o(w_q, w_k, w_v, w_o, n_heads, keep):
    i = columns(w_q.shape[1] // n_heads, keep)
    return w_q[:, i], w_k[:, i], w_v[:, i], w_o[:, [c for c in i.tolist() if c < w_o.shape[1]]]


def rows_of_all(w_q, w_k, w_v, w_o, n_heads, keep):
    i = columns(w_q.shape[1] // n_heads, keep)
    return w_q[i], w_k[i], w_v[i], w_o[i]


def zeroed(w_q, w_k, w_v, w_o, n_heads, keep):
    size = w_q.shape[1] // n_heads
    stays = torch.zeros(n_heads)
    stays[keep] = 1
    stays = stays.repeat_interleave(size)
    return w_q * stays, w_k * stays, w_v * stays, w_o * stays[:, None]


def taking(pick):
    """Prune with other numbers of columns: pick(n_heads, d_head, keep)."""

    def prune(w_q, w_k, w_v, w_o, n_heads, keep):
        i = pick(n_heads, w_q.shape[1] // n_heads, keep)
        return w_q[:, i], w_k[:, i], w_v[:, i], w_o[i]

    return prune


def w_o_of_others(w_q, w_k, w_v, w_o, n_heads, keep):
    q, k, v, o = by_columns(w_q, w_k, w_v, w_o, n_heads, keep)
    return q, k, v, w_o[: len(o)]


def keys_forgotten(w_q, w_k, w_v, w_o, n_heads, keep):
    q, _, v, o = by_columns(w_q, w_k, w_v, w_o, n_heads, keep)
    return q, w_k, v, o


def w_o_forgotten(w_q, w_k, w_v, w_o, n_heads, keep):
    return *by_columns(w_q, w_k, w_v, w_o, n_heads, keep)[:3], w_o


def two_only(w_q, w_k, w_v, w_o, n_heads, keep):
    return by_columns(w_q, w_k, w_v, w_o, n_heads, keep[:2])


def queries_and_keys_swapped(*given):
    q, k, v, o = by_columns(*given)
    return k, q, v, o


def others(n_heads, keep):
    return [h for h in range(n_heads) if h not in keep]


BANK = {
    "4.1": Bank(
        right=[left, left_by_share, left_by_matrices],
        wrong={
            "what-is-gone": lambda d, h, r: 4 * d * (d // h) * r,
            "three-matrices": lambda d, h, r: 3 * d * (d // h) * (h - r),
            "one-matrix": lambda d, h, r: d * (d // h) * (h - r),
            "d-model-of-the-heads-left": lambda d, h, r: 4 * (d // h * (h - r)) ** 2,
            "nothing-removed": lambda d, h, r: 4 * d * d,
            "d-head-squared": lambda d, h, r: 4 * (d // h) ** 2 * (h - r),
            "w-o-left-whole": lambda d, h, r: 3 * d * (d // h) * (h - r) + d * d,
            "not-the-number": lambda d, h, r: left(d, h, r) + d,
        },
    ),
    "4.2": Bank(
        right=[importance, importance_by_backward, importance_by_loop],
        wrong={
            "no-mean-over-the-examples": lambda f, b, h: slopes(f, b, h).abs(),
            "no-absolute-value": lambda f, b, h: slopes(f, b, h).mean(0),
            "no-absolute-value#2": lambda f, b, h: slopes(f, b, h).sum(0),
            "absolute-value-outside-the-mean": lambda f, b, h: slopes(f, b, h).mean(0).abs(),
            "absolute-value-outside-the-mean#2": one_gate_mean,
            "absolute-value-outside-the-sum": one_gate,
            "sum-instead-of-mean": lambda f, b, h: slopes(f, b, h).abs().sum(0),
            "divided-twice": loss_mean,
            "slope-at-the-wrong-end": gates_of_zero,
            "softmaxed-gates": softmaxed,
            "softmaxed-gates#2": softmaxed_to_one,
            "root-mean-square": lambda f, b, h: slopes(f, b, h).square().mean(0).sqrt(),
            "norm-over-the-batch": lambda f, b, h: slopes(f, b, h).norm(dim=0),
            "squared": lambda f, b, h: slopes(f, b, h).square().mean(0),
            "ablation": ablation,
            "ablation#2": ablation_abs,
            "normalised": lambda f, b, h: importance(f, b, h) / importance(f, b, h).sum(),
            "normalised#2": lambda f, b, h: importance(f, b, h) / importance(f, b, h).norm(),
            "wrong-shape": lambda f, b, h: slopes(f, b, h).abs().mean(1),
            "right-for-one-size-only": lambda f, b, h: importance(f, 30, 4),
            "gates-of-another-shape": lambda f, b, h: (
                slope_of(f, ones(b, h, 1, 1)).abs().mean((0, 2, 3))
            ),
            "not-the-mean-of-dl-d": lambda f, b, h: slopes(f, b, h).abs().amax(0),
        },
    ),
    "4.3": Bank(
        right=[first, first_by_sorting, first_by_topk],
        wrong={
            "most-important-first": lambda s, k: [
                divmod(i, s.shape[1]) for i in s.flatten().argsort(descending=True)[:k].tolist()
            ],
            "most-important": lambda s, k: [divmod(i, s.shape[1]) for i in flat(s)[-k:]],
            "the-ones-that-stay": lambda s, k: [divmod(i, s.shape[1]) for i in flat(s)[k:]],
            "numbers-not-pairs": lambda s, k: flat(s)[:k],
            "numbers-not-pairs#2": lambda s, k: s.flatten().argsort()[:k],
            "not-pairs": lambda s, k: 3,
            "not-pairs#2": lambda s, k: [f"{layer}.{head}" for layer, head in first(s, k)],
            "not-pairs#3": lambda s, k: [(f"layers.{layer}", head) for layer, head in first(s, k)],
            "not-pairs#4": lambda s, k: (None, None),
            "not-pairs#5": lambda s, k: (torch.ones(2, 2),) * 3,
            "not-pairs#6": lambda s, k: torch.ones(2, 2, dtype=torch.complex64),
            "head-before-layer": lambda s, k: [(h, layer) for layer, h in first(s, k)],
            "order-reversed": lambda s, k: first(s, k)[::-1],
            "in-the-order-of-the-model": lambda s, k: sorted(first(s, k)),
            "all-heads": lambda s, k: first(s, s.numel()),
            "layer-by-layer": lambda s, k: [
                (layer, h) for layer in range(len(s)) for h in s[layer].argsort()[:k].tolist()
            ],
            "layer-by-layer#2": lambda s, k: [(0, h) for h in s[0].argsort()[:k].tolist()],
            "ranks-for-positions": lambda s, k: [
                divmod(i, s.shape[1]) for i in s.flatten().argsort().argsort()[:k].tolist()
            ],
            "divided-by-the-number-of-layers": lambda s, k: [
                divmod(i, len(s)) for i in flat(s)[:k]
            ],
            "another-number-of-heads": lambda s, k: first(s, k - 1),
            "not-whole-numbers": lambda s, k: [
                (i / s.shape[1], i % s.shape[1]) for i in flat(s)[:k]
            ],
            "not-the-least-important": lambda s, k: [(0, h) for h in range(k)],
            "right-for-one-shape-only": five_wide,
        },
    ),
    "4.4": Bank(
        right=[
            lambda g: g**2, lambda g: g**3 / g.mean(), lambda g: g * g.exp() / 7,
            lambda g: g * (1 + g.argsort().argsort()), lambda g: g.double() ** 1.5,
        ],
        wrong={
            "all-equal": lambda g: g,
            "all-equal#2": lambda g: g / g.mean(),
            "the-same-order": lambda g: 1 / g,
            "the-same-order#2": lambda g: g.sqrt(),
            "the-same-order#3": lambda g: g**-2,
            "nothing-changed": lambda g: torch.ones_like(g),
            "negative": lambda g: -g,
            "zero": lambda g: g - g.min(),
            "wrong-shape": lambda g: (g**2).mean(),
            "not-reversed": lambda g: g.flip(0),
            "ties#2": lambda g: g.argsort().argsort() + 1,  # whole numbers
            "not-reversed#2": lambda g: torch.where(g == g.max(), 1e6, 1.0),
            "ties": lambda g: torch.where(g > g.median(), g, g * g / 7),
        },
    ),
    "4.5": Bank(
        right=[by_columns, by_unflatten, by_slices],
        wrong={
            "not-four-matrices": lambda *a: by_columns(*a)[0],
            "not-matrices": lambda *a: [part[:, 0] for part in by_columns(*a)],
            "not-matrices#2": lambda *a: [part.sum() for part in by_columns(*a)],
            "nothing-is-smaller": zeroed,
            "nothing-is-smaller#2": lambda q, k, v, o, h, keep: (q, k, v, o),
            "w-o-left-whole": w_o_forgotten,
            "wrong-side-of-w-o": wrong_side_of_w_o,
            "wrong-side-of-w-q-w-k-and-w-v": rows_of_all,
            "w-k-forgotten": keys_forgotten,
            "the-first-heads": taking(lambda h, size, keep: columns(size, range(len(keep)))),
            "order-changed": taking(lambda h, size, keep: columns(size, sorted(keep))),
            "the-others": taking(lambda h, size, keep: columns(size, others(h, keep))),
            "every-h-th-column": taking(
                lambda h, size, keep: torch.cat([torch.arange(i, h * size, h) for i in keep])
            ),
            "wrong-size": taking(lambda h, size, keep: torch.tensor(keep)),
            "w-q-and-w-k-swapped": queries_and_keys_swapped,
            "other-rows-of-w-o": w_o_of_others,
            "not-the-heads-in-keep": taking(
                lambda h, size, keep: (columns(size, keep) + 1) % (h * size)
            ),
            "right-for-two-heads-only": two_only,
            "one-too-early": taking(
                lambda h, size, keep: columns(size, [(i - 1) % h for i in keep])
            ),
            "right-for-one-size-only": taking(lambda h, size, keep: columns(3, keep)),
        },
    ),
}
