"""The Structure Explorer without a browser: edits, numbers, combinations, bad input, the still."""

import io
import itertools
import json
import struct

import networkx
import numpy as np
import pytest
import torch
from PIL import Image

from attnlab import positions
from attnlab.explorers import StructureExplorer
from attnlab.explorers.structure import ARITY, DEPTH, EXAMPLES, HEADS, MAPS, MOST, move


def sent(explorer):
    """What the page gets: the head, and the numbers cut into the parts of structure.js."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    head = json.loads(explorer._view[4 : 4 + length])
    numbers = np.frombuffer(explorer._view, np.float32, offset=4 + length + -length % 4)
    numbers = torch.tensor(numbers.copy())
    if not len(numbers):
        return head, ()
    n, features = head["n"], len(head["features"])
    place, pairs, weights = numbers.split((n * features, n * n, n * n))
    return head, (place.view(n, features), pairs.view(n, n), weights.view(n, n))


def edit(explorer, what, node=None, other=None):
    """As the page's buttons do it."""
    number = (explorer._edit or [0])[0] + 1
    explorer._edit = [number, what, node, other]


def test_positions_and_steps_are_attnlabs():
    tree = StructureExplorer("tree", example="binary", decay=0.5)
    parents = [-1, 0, 0, 1, 1, 2, 2]
    code = positions.TreePaths(2, ARITY, DEPTH, decay=0.5)
    stack = code.stack(positions.tree_paths(parents))
    torch.testing.assert_close(tree.positions, stack.detach())
    assert tree.steps[3].tolist() == [2, 1, 3, 0, 2, 4, 4]
    graph = StructureExplorer("graph", example="path", n_vectors=3)
    vectors = positions.laplacian_vectors(networkx.path_graph(8), 3)
    torch.testing.assert_close(graph.positions, vectors, atol=1e-5, rtol=0)


def test_the_bias_of_steps_is_that_of_graph_distance():
    explorer = StructureExplorer("graph", example="two rings", sharpness=0.5)
    assert explorer.bias[0].tolist() == [0, -0.5, -1, -0.5, -4.5, -4.5, -4.5, -4.5]
    torch.testing.assert_close(explorer.weights, explorer.bias.softmax(-1))
    explorer.head, explorer.sharpness = "neighbours", 4.0
    assert explorer.weights[0, [1, 3]].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


@pytest.mark.parametrize("example", EXAMPLES["tree"])
def test_a_head_finds_parents_children_and_siblings(example):
    explorer = StructureExplorer("tree", example=example, sharpness=4.0, head="parent")
    parents = explorer.structure.parents
    for node, parent in enumerate(parents):
        assert explorer.weights[node].argmax() == (parent if parent >= 0 else 0)
    explorer.head = "child"
    for node in range(len(parents)):
        if node in parents:
            assert explorer.weights[node].argmax() == parents.index(node)
    explorer.head = "sibling"
    for node, parent in enumerate(parents):
        later = [i for i, p in enumerate(parents) if p == parent and i > node]
        if later:
            assert explorer.weights[node].argmax() == later[0]


def test_moves_are_affine():
    paths = positions.tree_paths([-1, 0, 0, 0, 1, 1, 2, 3, 4])
    stack = positions.TreePaths(2, ARITY, DEPTH, 0.7).stack(paths).detach()
    for way in ("parent", "child", "sibling"):
        one, two, three = (move(x[None], way, ARITY, 0.7)[0] for x in stack[[1, 5, 8]])
        mixed = move((stack[1] + stack[5] - stack[8])[None], way, ARITY, 0.7)[0]
        torch.testing.assert_close(mixed, one + two - three)


def test_editing_a_tree():
    explorer = StructureExplorer("tree", example="binary")
    edit(explorer, "add", 0)
    assert explorer.structure.parents == (-1, 0, 0, 1, 1, 2, 2, 0)
    assert explorer.structure.labels[-1] == "h" and explorer.selected == 7
    assert "path 2" in explorer.words[7]
    edit(explorer, "add", 0)
    assert explorer.message == "a node has at most 3 children here"
    assert sent(explorer)[0]["state"] == "" and len(explorer.words) == 8
    edit(explorer, "remove", 1)  # with its children; the second child becomes the first
    assert explorer.structure.labels == ("a", "c", "f", "g", "h") and explorer.selected == 0
    assert "c: path 0;" in explorer.words[1] and explorer.message == ""
    edit(explorer, "remove", 0)
    assert "root stays" in explorer.message
    edit(explorer, "connect", 0, 1)
    assert "choose graph" in explorer.message
    edit(explorer, "undo")
    assert len(explorer.structure.labels) == 8
    edit(explorer, "undo")
    assert len(explorer.structure.labels) == 7 and not sent(explorer)[0]["can"]["undo"]
    edit(explorer, "undo")
    assert explorer.message == "nothing to undo"
    edit(explorer, "add", 3)
    edit(explorer, "reset")
    assert explorer.structure.parents == (-1, 0, 0, 1, 1, 2, 2) and explorer.selected == 0


def test_editing_a_graph():
    explorer = StructureExplorer("graph", example="path")
    edit(explorer, "connect", 7, 0)
    assert "8 nodes: 1 different lists" in explorer.notes[0]  # a ring
    edit(explorer, "connect", 0, 7)
    assert explorer.structure == StructureExplorer("graph", example="path").structure
    edit(explorer, "connect", 3, 4)
    assert explorer.steps[0, 7] == -1 and "not joined" in explorer.notes[1]
    assert sent(explorer)[0]["cells"][0][7] == "–"
    edit(explorer, "connect", 2, 2)
    assert "another node" in explorer.message
    edit(explorer, "remove", 3)
    assert explorer.structure.labels == tuple("abcefgh")
    assert explorer.steps[2].tolist() == [2, 1, 0, -1, -1, -1, -1]
    edit(explorer, "add", 2)
    assert explorer.structure.labels[-1] == "d" and explorer.steps[2, 7] == 1
    for _ in range(MOST):
        edit(explorer, "add", 0)
    assert explorer.message == f"there is room for {MOST} nodes here"
    for _ in range(MOST):
        edit(explorer, "remove", 0)
    assert explorer.message == "the last node stays" and explorer.positions.shape == (1, 4)
    assert explorer._repr_mimebundle_()[0]["image/png"]


def test_a_path_has_a_greatest_depth():
    explorer = StructureExplorer("tree", example="chain")
    edit(explorer, "add", 4)
    assert explorer.message == "paths have at most 4 steps here"


def test_each_kind_keeps_its_own_and_an_example_can_be_undone():
    explorer = StructureExplorer("tree", example="chain")
    edit(explorer, "add", 0)
    explorer.kind = "graph"
    assert len(explorer.structure.labels) == 8 and not explorer.message
    explorer.kind = "tree"
    assert len(explorer.structure.labels) == 6
    explorer.example = "binary"
    assert len(explorer.structure.labels) == 7
    edit(explorer, "undo")
    assert len(explorer.structure.labels) == 6


@pytest.mark.parametrize("bad", [[], [1], [1, "explode", 0], [1, "add", "x"], [1, "connect", 0],
                                 [1, "add", 99], [1, "remove", -5]])  # fmt: skip
def test_a_strange_message_from_the_page_breaks_nothing(bad):
    explorer = StructureExplorer("graph")
    explorer._edit = [0]
    explorer._edit = bad
    explorer._update()
    assert explorer.weights.isfinite().all()


def test_every_combination_of_settings_answers():
    explorer = StructureExplorer()
    everything = itertools.chain.from_iterable(
        itertools.product([kind], EXAMPLES[kind], HEADS[kind], (0.0, 4.0), MAPS, (0.2, 1.0), (1, 7))
        for kind in EXAMPLES
    )
    for kind, example, head, sharpness, pairs, decay, n_vectors in everything:
        with explorer.hold_trait_notifications():
            explorer.kind, explorer.example, explorer.head = kind, example, head
            explorer.sharpness, explorer.pairs = sharpness, pairs
            explorer.decay, explorer.n_vectors = decay, n_vectors
        assert explorer.message == ""
        head_, (place, shown, weights) = sent(explorer)
        assert place.min() >= 0 and place.max() <= 1 + 1e-6
        assert torch.equal(weights, explorer.weights)
        assert weights.sum(-1).allclose(torch.ones(head_["n"]))
        assert len(head_["places"]) == len(head_["words"]) == head_["n"] == len(head_["cells"])


BAD = {
    "kind": ("forest", "unknown kind 'forest'; known: tree, graph"),
    "example": ("bush", "unknown example 'bush'; known: sentence, binary"),
    "head": ("cousin", "unknown head 'cousin'; known: near, parent"),
    "pairs": ("scores", "unknown map 'scores'; known: steps, bias"),
    "sharpness": (-1.0, "sharpness = -1.0 is not in 0 … 10"),
    "decay": (0.0, "decay = 0.0 is not in 0.1 … 1"),
    "n_vectors": (0, "n_vectors = 0 is not in 1 … 7"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_a_message_and_the_picture_stays(name):
    explorer = StructureExplorer("tree", example="binary")
    good, before = getattr(explorer, name), explorer.weights
    bad, words = BAD[name]
    setattr(explorer, name, bad)
    assert words in explorer.message
    head, parts = sent(explorer)
    assert head["message"] == explorer.message and head["state"] == "wrong" and len(parts) == 3
    setattr(explorer, name, good)
    assert explorer.message == "" and torch.equal(explorer.weights, before)


def test_unknown_controls_and_bad_beginnings():
    with pytest.raises(ValueError, match="unknown control 'shape'"):
        StructureExplorer(controls=("shape",))
    late = StructureExplorer("forest")
    assert late.message and late._repr_mimebundle_()[0]["image/png"]
    late.kind = "graph"
    assert late.message == "" and len(late.words) == 8
    few = StructureExplorer(controls=("head",))
    assert [spec["name"] for spec in few._ui["controls"]] == ["head"]


@pytest.mark.parametrize("kind, example", [("tree", "sentence"), ("graph", "path")])
def test_still_picture_and_repr_are_the_same_in_every_run(kind, example):
    first, second = (StructureExplorer(kind, example=example) for _ in range(2))
    (data, metadata), (again, _) = (e._repr_mimebundle_() for e in (first, second))
    assert data["text/plain"] == repr(second) and "0x" not in repr(second)
    assert data["image/png"] == again["image/png"]
    image = np.asarray(Image.open(io.BytesIO(data["image/png"])).convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 30  # something is drawn
    assert metadata["image/png"]["alt"].startswith(f"A {kind} of")
    edit(first, "add", 0)
    assert first._repr_mimebundle_()[0]["image/png"] != data["image/png"]


def test_nothing_random_is_disturbed():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    StructureExplorer("tree")
    StructureExplorer("graph")
    assert torch.equal(torch.randn(3), expected)


def test_the_script_is_complete_and_loads_nothing_from_elsewhere():
    script = StructureExplorer._esm
    assert script.count("export default") == 1 and "__COLOURS__" not in script
    for word in ("import ", "https:", "innerHTML", "eval("):
        assert word not in script, word
