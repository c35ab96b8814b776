"""Checks of notebook 04, which heads matter."""

import torch

from attnlab.exercises.n01 import close
from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("4.1", "What is left", minutes=5, difficulty=1)
def parameters_left(answer):
    for d, h, removed in ((64, 8, 3), (512, 8, 6), (96, 12, 0), (64, 4, 4)):
        value = require_number(call(answer, d, h, removed))
        d_head, left = d // h, h - removed
        mistakes = {
            "what is gone: count the heads that stay, not those removed": 4 * d * d_head * removed,
            "three matrices: W_O loses rows too, and counts": 3 * d * d_head * left,
            "one matrix: there are four, W_Q, W_K, W_V and W_O": d * d_head * left,
            "d_model of the heads left: pruning keeps d_model; X still has that width": (
                4 * (d_head * left) ** 2
            ),
            "nothing removed: a pruned head takes its columns and rows with it": 4 * d * d,
            "d_head squared: each head's part of a matrix is d_model × d_head": (
                4 * d_head * d_head * left
            ),
            "W_O left whole: the rows of a pruned head go too": 3 * d * d_head * left + d * d,
        }
        expected = 4 * d * d_head * left
        for name, wrong in mistakes.items():
            require(value != wrong or wrong == expected, name)
        require(value == expected, f"not the number: with d_model = {d}, {h} heads and {removed} "
                f"removed, {left} heads keep four pieces of {d} × {d_head}")  # fmt: skip


@exercise("4.2", "The importance of a head", minutes=12, difficulty=2)
def importance_of_heads(answer):
    batch, h = 30, 4
    a, b = torch.randn(2, batch, h)
    a = a + torch.tensor([0.5, -3.0, 1.0, -2.0])
    c = torch.randn(h, h) / 2

    def losses_of(gates):
        """Curved in the gates, so that the slope at 1 differs from that elsewhere."""
        require(
            isinstance(gates, torch.Tensor) and gates.shape[-1:] == (h,),
            f"gates of another shape: one for each of the {h} heads is the last dimension",
        )
        gates = gates.to(a)
        return (gates * a).sum(-1) + ((gates * b) @ c).square().sum(-1)

    def slopes(at):
        gates = torch.full((batch, h), at, requires_grad=True)
        (found,) = torch.autograd.grad(losses_of(gates).sum(), gates)
        return found

    slope = slopes(1.0)
    expected = slope.abs().mean(0)
    got = require_tensor(call(answer, losses_of, batch, h))
    require(
        tuple(got.shape) != (batch, h),
        "no mean over the examples: one number for each head is wanted",
    )
    got = require_tensor(got, (h,)).detach()
    softened = torch.ones(batch, h, requires_grad=True)
    (through,) = torch.autograd.grad(losses_of(h * softened.softmax(-1)).sum(), softened)
    softer = torch.ones(batch, h, requires_grad=True)
    (through_one,) = torch.autograd.grad(losses_of(softer.softmax(-1)).sum(), softer)
    with torch.no_grad():
        whole, off = losses_of(torch.ones(batch, h)), torch.ones(h, batch, h)
        off[torch.arange(h), :, torch.arange(h)] = 0
        ablated = torch.stack([losses_of(g) - whole for g in off])  # (h, batch)
    mistakes = {
        "no absolute value: at a minimum the slopes of the examples cancel": slope.mean(0),
        "no absolute value: and a sum where the mean over the examples is wanted": slope.sum(0),
        "absolute value outside the mean: take it for each example, before the mean": (
            slope.mean(0).abs()
        ),
        "absolute value outside the sum: one gate for all examples sums their slopes; give each "
        "example gates of its own, (batch, n_heads)": slope.sum(0).abs(),
        "sum instead of mean: divide by the number of examples": slope.abs().sum(0),
        "divided twice: the loss's own mean has divided by the batch already; differentiate the "
        "sum": slope.abs().mean(0) / batch,
        "slope at the wrong end: the gates of the trained model are 1": slopes(0.0).abs().mean(0),
        "softmaxed gates: gates are independent numbers, each 1, not weights that sum to 1": (
            through.abs().mean(0)
        ),
        "root mean square: the mean of absolute values is wanted": slope.square().mean(0).sqrt(),
        "norm over the batch: the mean of absolute values is wanted": slope.norm(dim=0),
        "squared: the mean of absolute values is wanted": slope.square().mean(0),
        "ablation: that is the true cost with the gate at 0; the slope at 1 is wanted": (
            ablated.mean(1)
        ),
        "normalised: return the means as they are": expected / expected.sum(),
        "normalised: return the means as they are, not over their l2 norm": (
            expected / expected.norm()
        ),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(not close(got, ablated.abs().mean(1)), "ablation: that is the true cost with the gate "
            "at 0; the slope at 1 is wanted")  # fmt: skip
    require(
        not close(got, through_one.abs().mean(0)),
        "softmaxed gates: gates are independent numbers, each 1, not weights that sum to 1",
    )
    require(close(got, expected), "not the mean of |dL/dξ|: compare with the code of the notebook")
    few = torch.randn(3, 2)
    try:
        got = call(answer, lambda gates: (gates * few).sum(-1), 3, 2)
    except RuntimeError:
        got = None
    require(
        isinstance(got, torch.Tensor) and close(got.detach(), few.abs().mean(0)),
        "right for one size only: make gates of shape (batch, n_heads)",
    )


@exercise("4.3", "Who goes first", minutes=8, difficulty=2)
def first_to_go(answer):
    scores = torch.tensor([
        [0.9, 0.2, 0.7, 0.8, 0.95], [0.1, 0.3, 0.05, 0.15, 0.6], [0.5, 0.4, 0.85, 0.65, 0.75],
    ])  # fmt: skip
    k = 4
    pairs = [divmod(i, 5) for i in scores.flatten().argsort().tolist()]
    expected = pairs[:k]
    got = call(answer, scores, k)
    flat = scores.flatten().argsort()
    if isinstance(got, torch.Tensor):
        got = got.tolist()

    def whole(number):
        number = number.item() if hasattr(number, "item") else number
        require(int(number) == float(number), "not whole numbers: head number i is in layer "
                "i // n_heads, rounded down")  # fmt: skip
        return int(number)

    try:
        got = [tuple(whole(n) for n in pair) for pair in got]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        numbers = [n for n in got if isinstance(n, int)] if isinstance(got, (list, tuple)) else []
        require(numbers != flat[:k].tolist(), "numbers, not pairs: head number 7 of layers of 5 "
                "heads is head 2 of layer 1")  # fmt: skip
        require(False, "not pairs: return a list of (layer, head)")
    require(all(len(pair) == 2 for pair in got), "not pairs: return a list of (layer, head)")
    by_layer = [(layer, int(h)) for layer in range(3) for h in scores[layer].argsort()[:k]]
    ranks = flat.argsort()
    mistakes = {
        "most important first: the least important heads go first": pairs[::-1][:k],
        "most important: the heads with the largest scores were to stay": pairs[-k:],
        "the ones that stay: return the heads to prune": pairs[k:],
        "head before layer: a pair is (layer, head)": [(h, layer) for layer, h in expected],
        "order reversed: the right heads, but the least important one comes first": expected[::-1],
        "all heads: return k of them": pairs,
        "in the order of the model: the least important one comes first": sorted(expected),
        "layer by layer: compare the heads of all layers with each other": by_layer,
        "layer by layer: compare the heads of all layers, k in all": by_layer[:k],
        "ranks for positions: argsort once says who comes first; twice says who has which place": [
            divmod(int(i), 5) for i in ranks[:k]
        ],
        "divided by the number of layers: head number i is in layer i // n_heads": [
            divmod(i, 3) for i in flat[:k].tolist()
        ],
    }
    for name, wrong in mistakes.items():
        require(got != wrong, name)
    require(len(got) == k, f"another number of heads: k = {k} are wanted, got {len(got)}")
    require(got == expected, f"not the least important: expected {expected}, got {got}")
    wide = torch.tensor([[3.0, 1.0], [2.0, 5.0], [4.0, 0.0]])
    got = [tuple(whole(n) for n in pair) for pair in call(answer, wide, 3)]
    require(got == [(2, 1), (0, 1), (1, 0)], "right for one shape only: layers may be fewer or "
            "more, and so may heads")  # fmt: skip


@exercise("4.4", "Turn a ranking over", minutes=10, difficulty=2)
def upside_down(answer):
    for norms in (
        torch.tensor([0.7, 2.0, 0.3, 1.1, 0.9]), torch.tensor([5.0, 4.0, 30.0, 1e-3]),
        torch.rand(12) + 0.1, torch.tensor([0.30, 0.31]),
    ):  # fmt: skip
        c = require_tensor(call(answer, norms), tuple(norms.shape)).to(norms.dtype)
        require((c != 0).all(), "zero: dividing W_O by 0 is no rescaling")
        require((c > 0).all(), "negative: positive numbers are wanted")
        now = norms / c
        order = norms.argsort()
        equal = torch.isclose(now[:, None], now, rtol=1e-4).sum() > len(now)
        require(not torch.allclose(c, torch.ones(())), "nothing changed: with c = 1 all is as it "
                "was")  # fmt: skip
        require(not torch.allclose(now, now.mean()), "all equal: c = ‖G‖ makes every norm 1; go "
                "further")  # fmt: skip
        require(not torch.equal(now.argsort(), order), "the same order: the new norm is ‖G‖ / c, "
                "so a larger norm needs a larger c, and more than in proportion")  # fmt: skip
        require(not equal, "ties: some heads have equal norms afterwards")
        require(torch.equal(now.argsort(), order.flip(0)), "not reversed: compute ‖G‖ / c and "
                "compare its order with that of ‖G‖")  # fmt: skip


@exercise("4.5", "Prune by hand", minutes=15, difficulty=3)
def prune_matrices(answer):
    d, h, d_head, keep = 14, 4, 3, [3, 1]  # so that each mistake below takes other columns
    w_q, w_k, w_v = torch.randn(3, d, h * d_head)
    w_o = torch.randn(h * d_head, d)
    got = call(answer, w_q, w_k, w_v, w_o, h, list(keep))
    require(
        isinstance(got, (tuple, list)) and len(got) == 4,
        "not four matrices: return W_Q, W_K, W_V and W_O, in this order",
    )
    got = [require_tensor(part) for part in got]
    require(all(part.dim() == 2 for part in got), "not matrices: each of the four has rows and "
            "columns")  # fmt: skip

    def columns(which):
        return torch.cat([torch.arange(i * d_head, (i + 1) * d_head) for i in which])

    here, wide = columns(keep), len(keep) * d_head
    shapes = [tuple(part.shape) for part in got]
    require(
        not all(s == tuple(w.shape) for s, w in zip(shapes, (w_q, w_k, w_v, w_o), strict=True)),
        "nothing is smaller: heads that are zeroed or left keep their parameters; cut them out",
    )
    require(
        shapes[3] != tuple(w_o.shape),
        "W_O left whole: the heads that are gone have rows there, which nothing feeds any more",
    )
    require(
        not (shapes[3][0] == h * d_head and shapes[3][1] < d),
        "wrong side of W_O: a head has rows of W_O; its columns are the features of the output",
    )
    require(
        not any(s[0] < d and s[1] == h * d_head for s in shapes[:3]),
        "wrong side of W_Q, W_K and W_V: a head has columns there; the rows meet the features of X",
    )
    require(
        any(s == (d, wide) for s in shapes[:3]),
        f"wrong size: two of four heads keep {wide} columns of W_Q, got shapes {shapes}",
    )
    for name, part in zip(("W_Q", "W_K", "W_V"), shapes, strict=False):
        require(part == (d, wide), f"{name} forgotten: it loses the same columns as the others")
    require(shapes[3] == (wide, d), f"wrong shape of W_O: expected {(wide, d)}, got {shapes[3]}")

    def taken(i):
        return w_q[:, i], w_k[:, i], w_v[:, i], w_o[i]

    def same(expected):
        return all(close(g, e) for g, e in zip(got, expected, strict=True))

    mistakes = {
        "the first heads: keep those in keep, wherever they stand": columns([0, 1]),
        "order changed: the heads come in the order of keep": columns(sorted(keep)),
        "the others: keep the heads in keep, and drop the rest": columns([0, 2]),
        "every h-th column: a head's columns lie side by side": torch.cat(
            [torch.arange(i, h * d_head, h) for i in keep]
        ),
        "every d_head-th column: a head's columns lie side by side": torch.arange(h * d_head)
        .view(h, d_head).T.flatten()[here],
        "one too early: head h begins at column h · d_head": columns([2, 0]),
    }  # fmt: skip
    for name, which in mistakes.items():
        require(not same(taken(which)), name)
    right = taken(here)
    require(
        not (close(got[0], right[1]) and close(got[1], right[0])),
        "W_Q and W_K swapped: return them in the order in which they came",
    )
    if not close(got[3], right[3]):
        require(
            not all(close(g, e) for g, e in zip(got[:3], right[:3], strict=True)),
            "other rows of W_O: they must be those of the same heads, in the same order",
        )
    require(same(right), "not the heads in keep: compare the columns that you took with those of "
            "head h, from h · d_head on")  # fmt: skip
    got = call(answer, w_q, w_k, w_v, w_o, h, [1, 2, 3])
    i = columns([1, 2, 3])
    require(
        all(g.shape == e.shape and close(g, e) for g, e in zip(got, taken(i), strict=True)),
        "right for two heads only: keep may have any length",
    )
    w_q, w_k, w_v, w_o = *torch.randn(3, 6, 10), torch.randn(10, 6)
    i = torch.arange(5, 10)
    try:
        got = call(answer, w_q, w_k, w_v, w_o, 2, [1])
    except (IndexError, RuntimeError):
        got = None
    require(
        got is not None and all(close(g, e) for g, e in zip(got, taken(i), strict=True)),
        "right for one size only: d_head is the width of W_Q divided by n_heads",
    )
