"""The Structure Explorer: a tree or a graph to edit; positions, bias and weights follow."""

import math
from dataclasses import dataclass, field

import torch
import traitlets
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from attnlab import positions
from attnlab.attention import softmax
from attnlab.explorers._base import COLOUR_MAP, Explorer, Picture, bundle, check_names, setting

ARITY, DEPTH, MOST, MAX_DISTANCE = 3, 4, 12, 8
KINDS = {"tree": "tree", "graph": "graph"}
TREES = {  # labels and parents
    "sentence": ("S NP VP the cat sees NP₂ the₂ mouse".split(), (-1, 0, 0, 1, 1, 2, 2, 6, 6)),
    "binary": (list("abcdefg"), (-1, 0, 0, 1, 1, 2, 2)),
    "chain": (list("abcde"), (-1, 0, 1, 2, 3)),
}
GRAPHS = {  # number of nodes and edges
    "ring": (8, [(i, (i + 1) % 8) for i in range(8)]),
    "path": (8, [(i, i + 1) for i in range(7)]),
    "star": (7, [(0, i) for i in range(1, 7)]),
    "bridge": (8, [(0, 1), (1, 2), (2, 0), (0, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 5)]),
    "two rings": (8, [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4)]),
}
EXAMPLES = {
    "tree": {
        "sentence": "a sentence", "binary": "binary, 7 nodes", "chain": "a chain of 5",
    },
    "graph": {
        "ring": "a ring of 8", "path": "a path of 8", "star": "a star of 7",
        "bridge": "two triangles, bridged", "two rings": "two rings, not joined",
    },
}  # fmt: skip
HEADS = {
    "tree": {
        "near": "near nodes", "parent": "its parent", "child": "its first child",
        "sibling": "its next sibling",
    },
    "graph": {"near": "near nodes", "neighbours": "its neighbours"},
}  # fmt: skip
MAPS = {"steps": "steps between nodes", "bias": "bias: what is added to the scores"}
CONTROLS = ("kind", "example", "head", "sharpness", "pairs", "decay", "n_vectors")


@dataclass(frozen=True)
class Structure:
    """A tree (parents) or a graph (edges) with a label for each node."""

    labels: tuple[str, ...]
    parents: tuple[int, ...] = ()
    edges: tuple[tuple[int, int], ...] = ()

    def graph(self):
        """As a networkx graph, nodes in order."""
        import networkx

        graph = networkx.empty_graph(len(self.labels))
        graph.add_edges_from((p, i) for i, p in enumerate(self.parents) if p >= 0)
        graph.add_edges_from(self.edges)
        return graph

    def keep(self, nodes: list[int]) -> "Structure":
        """Only these nodes, in this order."""
        new = {old: i for i, old in enumerate(nodes)} | {-1: -1}
        return Structure(
            tuple(self.labels[i] for i in nodes),
            tuple(new[self.parents[i]] for i in nodes) if self.parents else (),
            tuple((new[a], new[b]) for a, b in self.edges if a in new and b in new),
        )

    def free_label(self) -> str:
        letters = (chr(ord("a") + i) for i in range(26))
        return next(letter for letter in letters if letter not in self.labels)


@dataclass
class History:
    """What is shown of one kind, which example it began as, and what it was before."""

    example: str
    now: Structure
    past: list[Structure] = field(default_factory=list)


def example(kind: str, name: str) -> Structure:
    """One of the structures to begin with."""
    if kind == "tree":
        labels, parents = TREES[name]
        return Structure(tuple(labels), parents=tuple(parents))
    n, edges = GRAPHS[name]
    return Structure(tuple("abcdefgh"[:n]), edges=tuple(sorted((min(e), max(e)) for e in edges)))


def move(
    stack: Float[Tensor, "n features"], way: str, arity: int, decay: float
) -> Float[Tensor, "n features"]:
    """Where a step in the tree leads, by one affine map of the stacks of choices."""
    cells = stack.unflatten(-1, (-1, arity))  # (n, steps, arity)
    if way == "parent":  # the last choice off, the others one place up
        up = torch.zeros_like(cells)
        up[:, :-1] = cells[:, 1:] / decay
        return up.flatten(-2)
    if way == "child":  # all one place down, and "the first" on top
        down = torch.zeros_like(cells)
        down[:, 1:] = cells[:, :-1] * decay
        down[:, 0, 0] = 1.0
        return down.flatten(-2)
    turned = cells.clone()  # the next sibling: the last choice by one more
    turned[:, 0] = cells[:, 0].roll(1, dims=-1)
    turned[:, 0, 0] = 0.0
    return turned.flatten(-2)


class StructureExplorer(Explorer):
    """A small tree or graph that can be edited, the positions of its nodes, and what a head sees
    that goes by them.

    In a tree a node's position is its path; the map shows the stack of choices that
    `positions.TreePaths` reads, before its trained matrix. In a graph it is its Laplacian vectors.
    The head either adds a bias for the number of steps between two nodes, -sharpness for each
    (`positions.GraphDistance` with that table), or it looks for the node at which a move leads: the
    scores are then -sharpness times the squared distance of the moved stack to each node's stack.
    There is no content: all q·k are 0.

    Args:
        kind: "tree" or "graph".
        example: what to begin with, of EXAMPLES[kind]; None is the first.
        head: what the head looks for, of HEADS[kind].
        sharpness: how much is taken off the scores.
        pairs: "steps" or "bias", what the map of pairs shows beside the weights.
        decay: of `TreePaths`.
        n_vectors: number of Laplacian vectors.
        selected: number of the selected node.
        controls: names of the controls to show, from CONTROLS; default all.

    Attributes:
        structure: what is shown, with labels, and parents or edges.
        positions: (n, features); steps: (n, n), -1 where there is no path; bias, weights: (n, n).
        words: a sentence on each node.
        message, notes: as in `Explorer`.

    Raises:
        ValueError: for an unknown control. Any other bad value becomes a message in the widget.
    """

    _esm = bundle("dom.js", "controls.js", "heatmap.js", "tokenmap.js", "structure.js")
    _css = bundle("explorer.css", "structure.css")

    SETTINGS = (*CONTROLS, "selected")

    kind = setting(traitlets.Unicode())
    example = setting(traitlets.Unicode(allow_none=True))
    head = setting(traitlets.Unicode())
    sharpness = setting(traitlets.Float())
    pairs = setting(traitlets.Unicode())
    decay = setting(traitlets.Float())
    n_vectors = setting(traitlets.Int())
    selected = setting(traitlets.Int())
    _edit = setting(traitlets.List())  # [number, what, node, other node], from the page's buttons

    def __init__(
        self,
        kind: str = "tree",
        *,
        example: str | None = None,
        head: str = "near",
        sharpness: float = 1.0,
        pairs: str = "steps",
        decay: float = 0.8,
        n_vectors: int = 4,
        selected: int = 0,
        controls=CONTROLS,
    ):
        self._shown = check_names("control", controls, CONTROLS)
        self._kinds: dict[str, History] = {}
        self._told = ""
        self.positions: Float[Tensor, "n features"] = torch.zeros(0, 0)
        self.steps: Int[Tensor, "n n"] = torch.zeros(0, 0, dtype=torch.long)
        self.bias: Float[Tensor, "n n"] = torch.zeros(0, 0)
        self.weights: Float[Tensor, "n n"] = torch.zeros(0, 0)
        self.words: list[str] = []
        super().__init__(
            kind=kind, example=example, head=head, sharpness=sharpness, pairs=pairs, decay=decay,
            n_vectors=n_vectors, selected=selected,
        )  # fmt: skip
        self.observe(self._heard_edit, "_edit")

    # ------------------------------------------------------------------------------------ editing

    @property
    def structure(self) -> Structure:
        return self._history().now

    def _history(self) -> History:
        known = EXAMPLES[self.kind]
        name = self.example if self.example in known else None
        history = self._kinds.get(self.kind)
        if history is None:
            name = name or next(iter(known))
            self._kinds[self.kind] = history = History(name, example(self.kind, name))
        elif name and name != history.example:
            history.past.append(history.now)
            history.example, history.now = name, example(self.kind, name)
        return history

    def _heard_edit(self, change) -> None:
        number, what, *nodes = [*change.new, None, None][:4]
        acts = {"add": self.add, "remove": self.remove, "connect": self.connect,
                "undo": self.undo, "reset": self.reset}  # fmt: skip
        takes = {"add": 1, "remove": 1, "connect": 2}.get(what, 0)
        if what in acts and all(isinstance(node, int) for node in nodes[:takes]):
            acts[what](*nodes[:takes])

    def _show(self, new: Structure | None, selected: int, told: str = "") -> None:
        """Take over the new structure; None: it stays, and `told` says why."""
        with self._lock:
            history = self._history()
            if new is not None:
                history.past.append(history.now)
                history.now = new
            self._told = told
            if selected == self.selected:
                self._again()
            else:
                self.selected = selected
            self._told = ""

    def _node(self, node: int) -> int:
        return max(0, min(node, len(self.structure.labels) - 1))

    def add(self, node: int) -> None:
        """A new child of this node, or a new node joined to it."""
        now, node = self.structure, self._node(node)
        n, label = len(now.labels), now.free_label()
        if n >= MOST:
            return self._show(None, node, f"there is room for {MOST} nodes here")
        if self.kind == "graph":
            new = Structure((*now.labels, label), edges=(*now.edges, (node, n)))
            return self._show(new, n)
        paths = positions.tree_paths(list(now.parents))
        if now.parents.count(node) >= ARITY:
            return self._show(None, node, f"a node has at most {ARITY} children here")
        if (paths[node] >= 0).sum() >= DEPTH:
            return self._show(None, node, f"paths have at most {DEPTH} steps here")
        self._show(Structure((*now.labels, label), parents=(*now.parents, node)), n)

    def remove(self, node: int) -> None:
        """This node, and in a tree all below it."""
        now, node = self.structure, self._node(node)
        if self.kind == "graph":
            if len(now.labels) == 1:
                return self._show(None, node, "the last node stays")
            kept = [i for i in range(len(now.labels)) if i != node]
            return self._show(now.keep(kept), min(node, len(kept) - 1))
        if now.parents[node] < 0:
            return self._show(None, node, "the root stays: every path begins at it")
        gone = {node}
        for _ in now.labels:  # a child may stand before its parent
            gone |= {i for i, p in enumerate(now.parents) if p in gone}
        kept = [i for i in range(len(now.labels)) if i not in gone]
        self._show(now.keep(kept), kept.index(now.parents[node]))

    def connect(self, node: int, other: int) -> None:
        """Join two nodes of a graph, or take away the edge between them."""
        now, node, other = self.structure, self._node(node), self._node(other)
        if self.kind == "tree":
            return self._show(None, node, "a tree has no further edges: choose graph")
        if node == other:
            return self._show(None, node, "choose another node to connect with")
        edge = (min(node, other), max(node, other))
        edges = set(now.edges) ^ {edge}
        self._show(Structure(now.labels, edges=tuple(sorted(edges))), node)

    def undo(self) -> None:
        """What was before the last edit."""
        history = self._history()
        if not history.past:
            return self._show(None, self.selected, "nothing to undo")
        history.now = history.past.pop()
        self._show(None, self._node(self.selected))

    def reset(self) -> None:
        """The example as it was."""
        history = self._history()
        self._show(example(self.kind, history.example), 0)

    # ------------------------------------------------------------------------------------ picture

    def _head(self) -> str:
        return self.head if self.head in HEADS[self.kind] else "near"

    def _check(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; known: tree, graph")
        if self.example is not None and all(self.example not in e for e in EXAMPLES.values()):
            raise ValueError(
                f"unknown example {self.example!r}; known: {', '.join(EXAMPLES[self.kind])}"
            )
        if all(self.head not in heads for heads in HEADS.values()):
            raise ValueError(f"unknown head {self.head!r}; known: {', '.join(HEADS[self.kind])}")
        if self.pairs not in MAPS:
            raise ValueError(f"unknown map {self.pairs!r}; known: {', '.join(MAPS)}")
        for name, low, high in (("sharpness", 0, 10), ("decay", 0.1, 1), ("n_vectors", 1, 7)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} = {getattr(self, name)} is not in {low} … {high}")

    def _picture(self) -> Picture:
        self._check()
        import networkx

        now, head = self.structure, self._head()
        graph, n = now.graph(), len(now.labels)
        self.steps = positions.graph_distances(graph)
        if self.kind == "tree":
            paths = positions.tree_paths(list(now.parents))
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                self.positions = positions.TreePaths(2, ARITY, DEPTH, self.decay).stack(paths)
            names = ["·".join(str(c) for c in p if c >= 0) or "root" for p in paths.tolist()]
            features = [f"{s}:{c}" for s in range(1, DEPTH + 1) for c in range(ARITY)]
            places = _tree_layout(now.parents)
        else:
            self.positions = positions.laplacian_vectors(graph, self.n_vectors)
            self.positions = self.positions.double().round(decimals=5).float() + 0.0  # no −0
            names = [""] * n
            features = [f"u{i + 1}" for i in range(self.n_vectors)]
            ring = networkx.circular_layout(graph)
            found = networkx.spring_layout(graph, pos=ring, seed=0) if n > 1 else ring
            places = _fit([found[i].tolist() for i in range(n)])
        self.bias = self._bias(head)
        self.weights = softmax(self.bias)
        self.words = self._describe(now, names)
        largest = math.ceil(round(10 * self.positions.abs().max().item(), 3)) / 10
        low, high = (-largest or -1.0, largest or 1.0) if self.kind == "graph" else (0.0, 1.0)
        bottom = self.bias.min().item()
        shown = {
            "steps": self.steps.float(), "bias": (self.bias - bottom) / max(-bottom, 1e-9),
        }[self.pairs]  # fmt: skip
        top = {"steps": max(1, self.steps.max().item()), "bias": 1.0}[self.pairs]
        cells = {
            "steps": [["–" if s < 0 else str(s) for s in row] for row in self.steps.tolist()],
            "bias": [[f"{b:.1f}".replace("-", "−") for b in row] for row in
                     (self.bias + 0.0).tolist()],
        }[self.pairs]  # fmt: skip
        edges = [[min(a, b), max(a, b)] for a, b in graph.edges]
        facts = {
            "kind": self.kind, "n": n, "labels": list(now.labels), "names": names,
            "edges": edges, "places": places, "features": features,
            "selected": self._node(self.selected), "words": self.words, "low": low, "high": high,
            "pairs": MAPS[self.pairs], "cells": cells, "top": top,
            "bottom": bottom if self.pairs == "bias" else 0, "head": HEADS[self.kind][head],
            "can": {"undo": bool(self._history().past), "connect": self.kind == "graph"},
            "caption": {
                "tree": "Stacks of choices (3:2 = three steps up, the second child)",
                "graph": "Laplacian vectors u1, u2, …",
            }[self.kind],
        }  # fmt: skip
        numbers = torch.cat([
            ((self.positions - low) / (high - low)).flatten(), shown.flatten(),
            self.weights.flatten(),
        ])  # fmt: skip
        return Picture(facts, numbers, self._remarks(graph), self._told)

    def _bias(self, head: str) -> Float[Tensor, "n n"]:
        """What is added to the scores, each row shifted to a largest entry of 0."""
        n = len(self.steps)
        if head in ("near", "neighbours"):
            encoding = positions.GraphDistance(1, MAX_DISTANCE)
            rows = torch.arange(MAX_DISTANCE + 2.0)  # the last one: no path
            table = -rows if head == "near" else -4.0 * (rows != 1)
            encoding.weight.data = self.sharpness * table[:, None]
            encoding.distance = self.steps
            q = torch.zeros(1, 1, n, 1)
            with torch.no_grad():
                return encoding.bias(q, q, torch.arange(n), torch.arange(n))[0, 0] + 0.0
        aim = move(self.positions, head, ARITY, self.decay)
        apart = (aim[:, None] - self.positions).square().sum(-1)
        return -4 * self.sharpness * apart + 0.0

    def _describe(self, now: Structure, names: list[str]) -> list[str]:
        found = []
        profiles = [sorted(row) for row in self.steps.tolist()]
        for i, label in enumerate(now.labels):
            key = self.weights[i].argmax().item()
            tops = (self.weights[i] > self.weights[i, key] - 1e-6).nonzero().flatten().tolist()
            looks = ", ".join(now.labels[k] for k in tops)
            told = f"looks most at {looks} (weight {self.weights[i, key]:.2f})"
            if self.kind == "tree":
                steps = [int(c) for c in names[i].split("·")] if names[i] != "root" else []
                path = f"path {', '.join(map(str, steps))}" if steps else "the root, an empty path"
                found.append(f"{label}: {path}; {told}")
                continue
            alike = [now.labels[j] for j, p in enumerate(profiles) if p == profiles[i] and j != i]
            same = f"same distances as {', '.join(alike)}"
            same = same if alike else "no other node has its distances"
            neighbours = [now.labels[j] for j in (self.steps[i] == 1).nonzero().flatten().tolist()]
            found.append(
                f"{label}: neighbours {', '.join(neighbours) or 'none'}; {same}; {told}"
            )
        return found

    def _remarks(self, graph) -> list[str]:
        n = len(self.steps)
        if self.kind == "tree":
            paths = positions.tree_paths(list(self.structure.parents))
            depths = len(set((paths >= 0).sum(-1).tolist()))
            different = len({tuple(p) for p in paths.tolist()})
            return [f"{n} nodes: {different} different paths, {depths} different depths."]
        profiles = len({tuple(sorted(row)) for row in self.steps.tolist()})
        notes = [f"{n} nodes: {profiles} different lists of distances."]
        values = _eigenvalues(graph)
        used = values[1 : self.n_vectors + 2]
        repeated = any(abs(a - b) < 1e-5 for a, b in zip(used, used[1:], strict=False))
        if (self.steps < 0).any():
            notes.append("Some nodes are not joined by any path: the bias has a number for that.")
        if repeated:
            notes.append("An eigenvalue repeats: other vectors would do as well, and which ones "
                         "you see is chance.")  # fmt: skip
        return notes

    def _controls(self) -> list[dict]:
        kind = self.kind if self.kind in KINDS else "tree"
        history = self._kinds.get(kind)
        at = history.example if history else next(iter(EXAMPLES[kind]))
        if self.example in EXAMPLES[kind]:
            at = self.example
        head = self.head if self.head in HEADS[kind] else "near"
        specs = [
            {"name": "kind", "label": "structure", "kind": "choice",
             "options": list(KINDS.items())},
            {"name": "example", "label": "begin with", "kind": "choice",
             "options": list(EXAMPLES[kind].items()), "fixed": at},
            {"name": "head", "label": "head looks for", "kind": "choice",
             "options": list(HEADS[kind].items()), "fixed": head},
            {"name": "sharpness", "label": "sharpness", "kind": "range", "min": 0, "max": 4,
             "step": 0.25},
            {"name": "pairs", "label": "map of pairs", "kind": "choice",
             "options": list(MAPS.items())},
            {"name": "decay", "label": "decay", "kind": "range", "min": 0.2, "max": 1, "step": 0.1,
             **({} if kind == "tree" else {"why": "only paths have it"})},
            {"name": "n_vectors", "label": "vectors", "kind": "range", "min": 1, "max": 7,
             "step": 1, **({} if kind == "graph" else {"why": "only graphs have them"})},
        ]  # fmt: skip
        return [spec for spec in specs if spec["name"] in self._shown]

    def _alt(self, picture: Picture) -> str:
        facts = picture.head
        labels = facts["labels"]
        edges = ", ".join(f"{labels[a]}–{labels[b]}" for a, b in facts["edges"])
        return (
            f"A {self.kind} of {facts['n']} nodes with the edges {edges or 'none'}; its positions, "
            f"{facts['pairs']}, and the weights of a head that looks for {facts['head']}. "
            f"Selected: {facts['words'][facts['selected']]}."
        )

    def _draw_still(self, figure: Figure, picture: Picture) -> None:
        facts = picture.head
        labels, n = facts["labels"], facts["n"]
        (drawing, place), (pairs, weight) = figure.subplots(2, 2)
        for a, b in facts["edges"]:
            x, y = zip(facts["places"][a], facts["places"][b], strict=True)
            drawing.plot(x, y, color="#7c7b78", lw=1.5, zorder=1)
        for i, (x, y) in enumerate(facts["places"]):
            chosen = i == facts["selected"]
            box = {"boxstyle": "round", "fc": "#ffe08a" if chosen else "white", "ec": "#00224e"}
            drawing.text(x, y, labels[i], ha="center", va="center", bbox=box, fontsize=9,
                         parse_math=False)  # fmt: skip
        drawing.set(xlim=(-0.08, 1.08), ylim=(1.1, -0.1), title=f"the {self.kind}")
        drawing.axis("off")
        rows = [f"{a} {b}".strip() for a, b in zip(labels, facts["names"], strict=True)]
        steps = self.steps.float().masked_fill(self.steps < 0, torch.nan)
        for ax, values, title, low, names, columns in (
            (place, self.positions, facts["caption"].split(" (")[0], facts["low"], rows,
             facts["features"]),
            (pairs, steps if self.pairs == "steps" else self.bias, facts["pairs"], None, labels,
             labels),
            (weight, self.weights, f"weights: looks for {facts['head']}", 0, labels, labels),
        ):  # fmt: skip
            high = {place: facts["high"], weight: self.weights.max().item()}.get(ax)
            image = ax.imshow(values.numpy(), cmap=COLOUR_MAP, vmin=low, vmax=high, aspect="auto")
            ax.set_yticks(range(n), names, fontsize=7, parse_math=False)
            ax.set_xticks(range(len(columns)), columns, fontsize=7, rotation=90, parse_math=False)
            ax.set_title(title, fontsize=10)
            figure.colorbar(image, ax=ax)


def _eigenvalues(graph) -> list[float]:
    """Of the normalised Laplacian, from small to large."""
    import networkx

    edges = torch.tensor(networkx.to_numpy_array(graph))
    degree = edges.sum(-1)
    scale = degree.clamp(min=1) ** -0.5
    laplacian = torch.diag((degree > 0).double()) - scale[:, None] * edges * scale
    return torch.linalg.eigvalsh(laplacian).tolist()


def _tree_layout(parents: tuple[int, ...]) -> list[list[float]]:
    """Leaves side by side, parents above the middle of their children; x and y in 0 … 1."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)
    x: dict[int, float] = {}
    y: dict[int, int] = {}

    def place(node: int, depth: int) -> None:
        y[node] = depth
        below = children.get(node, [])
        for child in below:
            place(child, depth + 1)
        leaves = sum(1 for at in x if at not in children)
        x[node] = sum(x[c] for c in below) / len(below) if below else float(leaves)

    place(children[-1][0], 0)
    width, height = max(x.values()) or 1, max(y.values()) or 1
    return [
        [round(x[i] / width if max(x.values()) else 0.5, 4), round(y[i] / height, 4)]
        for i in range(len(parents))
    ]


def _fit(places: list[list[float]]) -> list[list[float]]:
    """Into the square 0 … 1, rounded so that machines agree."""
    low = [min(p[i] for p in places) for i in (0, 1)]
    size = [max(p[i] for p in places) - low[i] for i in (0, 1)]
    return [
        [round((p[i] - low[i]) / size[i], 3) if size[i] > 1e-9 else 0.5 for i in (0, 1)]
        for p in places
    ]
