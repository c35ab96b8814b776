"""Checks of notebook 13, structured and adaptive positions."""

import math

import torch

from attnlab.exercises.n01 import close
from attnlab.teach import call, exercise, require, require_number, require_tensor


@exercise("13.1", "Count the codes", minutes=5, difficulty=1)
def codes(answer):
    value = require_number(answer)
    mistakes = {
        "no collisions: (0, 1, 2) and (2, 1, 0) have the same sum of codes": 64,
        "repeated numbers left out: (1, 1, 3) is a triple too": 4,
        "sums of positions counted: PE(0) + PE(3) is not PE(1) + PE(2)": 10,
        "ordered triples of different numbers: the order does not matter": 24,
        "divided by the number of orders: (1, 1, 3) has 3 orders only, (1, 1, 1) has one": 64 / 6,
        "all different or all alike only: two may be alike": 8,
        "all different left out: three different numbers are 4 more codes": 16,
        "two alike counted once: (1, 1, 3) and (1, 3, 3) are different": 14,
    }
    for name, number in mistakes.items():
        require(not math.isclose(value, number, rel_tol=0.005), name)
    require(value != 11, "divided by the number of orders: (1, 1, 3) has 3 orders only, and "
            "(1, 1, 1) has one")  # fmt: skip
    require(value == 20, "not the number of codes: how many triples are there in ascending order?")


PARENTS = [-1, 0, 0, 1, 1, 0, 5, 4, 4, 4]
PATHS = [[], [0], [1], [0, 0], [0, 1], [2], [2, 0], [0, 1, 0], [0, 1, 1], [0, 1, 2]]


@exercise("13.2", "The path of a node", minutes=10, difficulty=2)
def path(answer):
    def ask(parents, node):
        got = call(answer, parents, node)
        if hasattr(got, "tolist"):
            got = got.tolist()  # torch's and NumPy's arrays
        require(isinstance(got, (list, tuple)), "not a list: return the child numbers as a list")
        got = [x.item() if isinstance(x, torch.Tensor) and x.numel() == 1 else x for x in got]
        require(
            not any(isinstance(x, torch.Tensor) for x in got),
            "not numbers: each step of the path is one child number",
        )
        return got

    found = [ask(list(PARENTS), node) for node in range(len(PARENTS))]
    ancestors = []
    for node in range(len(PARENTS)):
        at, seen = node, []
        while PARENTS[at] >= 0:
            seen.append(at)
            at = PARENTS[at]
        ancestors.append(seen[::-1])
    mistakes = {
        "upside down: you begin at the node; the first number is the step from the root": [
            p[::-1] for p in PATHS
        ],
        "counted from 1: the first child is number 0": [[c + 1 for c in p] for p in PATHS],
        "last step only: the whole way from the root is asked for": [p[-1:] for p in PATHS],
        "last step missing: which child is the node itself?": [p[:-1] for p in PATHS],
        "node numbers: which child of its parent is it, not which node": ancestors,
        "node numbers, from the node up: which child of its parent is it, not which node": [
            a[::-1] for a in ancestors
        ],
        "parents listed: which child of its parent is each, not who the parent is": [
            [PARENTS[at] for at in a] for a in ancestors
        ],
        "parents listed, from the node up: which child of its parent is each?": [
            [PARENTS[at] for at in a[::-1]] for a in ancestors
        ],
        "root in the path: the root has no child number, its path is empty": [
            [0, *p] for p in PATHS
        ],
        "filled up: stop where the path ends": [p + [-1] * (3 - len(p)) for p in PATHS],
    }
    for name, wrong in mistakes.items():
        require(found != wrong, name)
    depths = [[len(p)] for p in PATHS]
    require(found != depths, "depth: many nodes are as deep as this one; say which child each is")
    for node, (got, meant) in enumerate(zip(found, PATHS, strict=True)):
        require(got == meant, f"not the path: for parents {PARENTS} node {node} has {meant}, "
                f"you say {got}")  # fmt: skip
    elsewhere = [1, -1, 1, 0, 0]  # the root does not stand first
    try:
        found = [ask(list(elsewhere), node) for node in range(5)]
    except (ValueError, IndexError, KeyError, RecursionError):
        found = None
    require(found == [[0], [], [1], [0, 0], [0, 1]],
            "root taken to be node 0: it is the node whose parent is -1")  # fmt: skip


@exercise("13.3", "A bias from steps", minutes=8, difficulty=2)
def graph_bias(answer):
    steps = torch.tensor([[0, 1, 2, 5, -1], [1, 0, 3, 4, -1], [2, 3, 0, 1, -1], [5, 4, 1, 0, -1],
                          [-1, -1, -1, -1, 0]])  # fmt: skip
    b = torch.randn(5)  # D = 3
    near, none = steps.clamp(max=3), steps < 0
    expected = b[torch.where(none, 4, near)]
    try:
        got = call(answer, steps, b)
    except IndexError:
        got = None
    require(got is not None, "far pairs left alone: 5 steps count as D, and b has no such entry")
    got = require_tensor(got, (5, 5))
    mistakes = {
        "no path taken for 0 steps: -1 is the node that cannot be reached": b[
            steps.clamp(min=0, max=3)
        ],
        "far pairs get the number for no path: more than D steps count as D": b[
            torch.where(none, 4, steps.clamp(max=4))
        ],
        "no path taken for far: the last number of b is for it": b[torch.where(none, 3, near)],
        "no path gets minus infinity: it has a number of its own in b": torch.where(
            none, -torch.inf, b[near]
        ).nan_to_num(neginf=-1e9),
        "no path gets 0: it has a number of its own in b": torch.where(none, 0.0, b[near]),
        "one step off: b[0] is for 0 steps": b[torch.where(none, 4, (steps + 1).clamp(max=3))],
        "row numbers returned: look them up in b": torch.where(none, 4, near).float(),
        "steps times a number: b is a table, look up one number for each pair": b[1] * steps,
        "wrapped around: 5 steps are not 0 or 1 again": b[torch.where(none, 4, steps % 4)],
        "far pairs wrapped around: 5 steps are not 0 again": b[steps % 5],
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong.to(got.dtype)), name)
    require(close(got, expected), "not the bias: with b of 5 numbers, 5 steps are b[3] and -1 is "
            "b[4]")  # fmt: skip
    wide = torch.randn(9)
    got = require_tensor(call(answer, steps, wide), (5, 5))
    require(close(got, wide[torch.where(none, 8, steps)]),
            "right for one D only: D is len(b) - 2")  # fmt: skip


@exercise("13.4", "Contextual positions", minutes=12, difficulty=3)
def contextual(answer):
    gates = torch.rand(6, 6)
    got = require_tensor(call(answer, gates), (6, 6))
    shut = gates.tril()

    def back(x):
        return x.flip(-1).cumsum(-1).flip(-1)

    mistakes = {
        "future counted: shut the gates of keys after the query first": back(gates),
        "future filled in: keys after the query get 0": back(gates) - gates.triu(1).sum(
            -1, keepdim=True
        ),
        "counted from the start: the sum runs from key j to the query": shut.cumsum(-1),
        "counted from the start, and future counted: the sum runs from key j to the query": (
            gates.cumsum(-1)
        ),
        "columns summed: each query adds up its own gates, along the row": shut.flip(0).cumsum(
            0
        ).flip(0),
        "columns summed, from the top: each query adds up its own gates, along the row": (
            shut.cumsum(0)
        ),
        "key left out: its own gate counts too": back(shut) - shut,
        "query left out: its own gate counts too": (
            back(shut) - shut.diagonal()[:, None]
        ).tril(),
        "not added up: p is the sum of gates, not the gate": shut,
        "one total for a row: only the gates from key j on count": (
            shut.sum(-1, keepdim=True).expand(6, 6).tril()
        ),
        "rows left turned round: flip back after adding up": shut.flip(-1).cumsum(-1),
        "distances: the gates must count, not the tokens": (
            torch.arange(6.0)[:, None] - torch.arange(6) + 1
        ).tril(),
        "wrong triangle: keep the keys up to the query": back(gates.triu()),
    }
    for name, wrong in mistakes.items():
        require(not close(got, wrong), name)
    require(not close(got, back(shut).round()), "rounded: p need not be whole")
    require(close(got, back(shut)), "not the counts: p[i, j] = gates[i, j] + ... + gates[i, i]")
    more = torch.rand(20, 20)
    require(
        close(require_tensor(call(answer, more), (20, 20)), back(more.tril())),
        "right for one size only: take n from the input, and let counts grow beyond it",
    )
