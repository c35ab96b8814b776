"""Right and wrong answers to the exercises of notebook 13."""

import numpy as np
import torch

from attnlab import positions
from banks import Bank


def path(parents, node):
    steps = []
    while parents[node] >= 0:
        siblings = [i for i, p in enumerate(parents) if p == parents[node]]
        steps.append(siblings.index(node))
        node = parents[node]
    return steps[::-1]


def path_recursive(parents, node):
    above = parents[node]
    if above == -1:
        return []
    return [*path_recursive(parents, above), parents[:node].count(above)]


def path_by_table(parents, node):
    return [c for c in positions.tree_paths(parents)[node].tolist() if c >= 0]


def ancestors(parents, node):
    found = []
    while parents[node] >= 0:
        found.append(node)
        node = parents[node]
    return found


def parents_up(parents, node):
    return [parents[at] for at in ancestors(parents, node)]


def from_node_0(parents, node):
    steps = []
    while node != 0:
        steps.append([i for i, p in enumerate(parents) if p == parents[node]].index(node))
        node = parents[node]
        if len(steps) > len(parents):
            break
    return steps[::-1]


def bias(steps, b):
    most = len(b) - 2
    return b[torch.where(steps < 0, most + 1, steps.clamp(max=most))]


def bias_by_minus_one(steps, b):
    return b[steps.clamp(max=len(b) - 2)]


def bias_by_loops(steps, b):
    out = torch.empty(steps.shape)
    for i in range(len(steps)):
        for j in range(len(steps)):
            s = int(steps[i, j])
            out[i, j] = b[-1] if s < 0 else b[min(s, len(b) - 2)]
    return out


def contextual(gates):
    return gates.tril().flip(-1).cumsum(-1).flip(-1)


def contextual_by_matrix(gates):
    n = len(gates)
    return gates.tril() @ torch.ones(n, n).tril()


def contextual_by_loops(gates):
    n = len(gates)
    p = torch.zeros(n, n)
    for i in range(n):
        for j in range(i + 1):
            p[i, j] = gates[i, j : i + 1].sum()
    return p


def six_wide(gates):
    p = torch.zeros_like(gates)
    p[:6, :6] = contextual(gates[:6, :6])
    return p


def contextual_from_total(gates):
    shut = gates.tril()
    return (shut.sum(-1, keepdim=True) - shut.cumsum(-1) + shut).tril()


def back(x):
    return x.flip(-1).cumsum(-1).flip(-1)


def loop_without_own(gates):
    p = torch.zeros_like(gates)
    for i in range(len(gates)):
        for j in range(i + 1):
            p[i, j] = gates[i, j:i].sum()
    return p


BANK = {
    "13.1": Bank(
        right=[20, 20.0],
        wrong={
            "no-collisions": 64,
            "repeated-numbers-left-out": 4,
            "sums-of-positions-counted": 10,
            "ordered-triples-of-different-numbers": 24,
            "divided-by-the-number-of-orders": 64 / 6,
            "divided-by-the-number-of-orders#2": 11,
            "all-different-or-all-alike-only": 8,
            "all-different-left-out": 16,
            "two-alike-counted-once": 14,
            "not-the-number-of-codes": 21,
        },
    ),
    "13.2": Bank(
        right=[
            path, path_recursive, path_by_table,
            lambda p, n: [torch.tensor(c) for c in path(p, n)],
            lambda p, n: np.array(path(p, n), dtype=int),
        ],  # fmt: skip
        wrong={
            "upside-down": lambda p, n: path(p, n)[::-1],
            "counted-from-1": lambda p, n: [c + 1 for c in path(p, n)],
            "last-step-only": lambda p, n: path(p, n)[-1:],
            "last-step-missing": lambda p, n: path(p, n)[:-1],
            "node-numbers": lambda p, n: ancestors(p, n)[::-1],
            "node-numbers-from-the-node-up": ancestors,
            "parents-listed": lambda p, n: parents_up(p, n)[::-1],
            "parents-listed-from-the-node-up": parents_up,
            "root-in-the-path": lambda p, n: [0, *path(p, n)],
            "filled-up": lambda p, n: positions.tree_paths(p)[n],
            "depth": lambda p, n: [len(path(p, n))],
            "not-a-list": lambda p, n: len(path(p, n)),
            "not-numbers": lambda p, n: [torch.ones(2), torch.ones(2)],
            "not-the-path": lambda p, n: [0] * len(path(p, n)),
            "root-taken-to-be-node-0": from_node_0,
        },
    ),
    "13.3": Bank(
        right=[bias, bias_by_minus_one, bias_by_loops],
        wrong={
            "far-pairs-left-alone": lambda s, b: b[s],
            "no-path-taken-for-0-steps": lambda s, b: b[s.clamp(0, len(b) - 2)],
            "far-pairs-get-the-number-for-no-path": lambda s, b: b[s.clamp(max=len(b) - 1)],
            "no-path-taken-for-far": lambda s, b: b[
                torch.where(s < 0, len(b) - 2, s.clamp(max=len(b) - 2))
            ],
            "no-path-gets-0": lambda s, b: torch.where(s < 0, 0.0, bias(s, b)),
            "no-path-gets-minus-infinity": lambda s, b: torch.where(s < 0, -1e9, bias(s, b)),
            "one-step-off": lambda s, b: b[
                torch.where(s < 0, len(b) - 1, (s + 1).clamp(max=len(b) - 2))
            ],
            "row-numbers-returned": lambda s, b: torch.where(
                s < 0, len(b) - 1, s.clamp(max=len(b) - 2)
            ).float(),
            "steps-times-a-number": lambda s, b: b[1] * s,
            "wrapped-around": lambda s, b: b[torch.where(s < 0, len(b) - 1, s % (len(b) - 1))],
            "far-pairs-wrapped-around": lambda s, b: b[s % len(b)],
            "right-for-one-d-only": lambda s, b: b[s.clamp(max=3)] if len(b) == 5 else b[
                torch.where(s < 0, 4, s.clamp(max=3))
            ],
            "not-the-bias": lambda s, b: -bias(s, b),
        },
    ),
    "13.4": Bank(
        right=[contextual, contextual_by_matrix, contextual_by_loops, contextual_from_total],
        wrong={
            "future-counted": back,
            "future-filled-in": lambda g: back(g) - g.triu(1).sum(-1, keepdim=True),
            "counted-from-the-start": lambda g: g.tril().cumsum(-1),
            "counted-from-the-start-and-future-counted": lambda g: g.cumsum(-1),
            "columns-summed": lambda g: g.tril().flip(0).cumsum(0).flip(0),
            "columns-summed-from-the-top": lambda g: g.tril().cumsum(0),
            "key-left-out": lambda g: contextual(g) - g.tril(),
            "query-left-out": loop_without_own,
            "not-added-up": lambda g: g.tril(),
            "one-total-for-a-row": lambda g: g.tril().sum(-1, keepdim=True).expand(g.shape).tril(),
            "rows-left-turned-round": lambda g: g.tril().flip(-1).cumsum(-1),
            "rounded": lambda g: contextual(g).round(),
            "wrong-triangle": lambda g: back(g.triu()),
            "distances": lambda g: torch.ones_like(g).tril().flip(-1).cumsum(-1).flip(-1).tril(),
            "not-the-counts": lambda g: 2 * contextual(g),
            "right-for-one-size-only": six_wide,
            "right-for-one-size-only#2": lambda g: contextual(g).clamp(max=6),
        },
    ),
}
