"""Positions on levels, in trees and graphs, and positions that depend on the content."""

import itertools
import math

import networkx
import pytest
import torch

from attnlab import MultiHeadAttention, positions
from attnlab.attention import scaled_dot_product_attention
from attnlab.models import TinyTransformer

TRIPLES = torch.tensor(list(itertools.product(range(10), range(12), range(8))))  # 960


def distinct(table: torch.Tensor) -> int:
    """How many rows differ by more than rounding."""
    apart = torch.cdist(table.double(), table.double())
    return len({tuple((row < 1e-4).nonzero().flatten().tolist()) for row in apart})


@pytest.mark.parametrize("how, codes", [("disjoint", 960), ("rotated", 960), ("sum", 320)])
def test_only_the_plain_sum_of_levels_collides(how, codes):
    assert distinct(positions.Levels(48, 3, how).table(TRIPLES)) == codes


def test_the_notes_collision():
    sum_, apart = (positions.Levels(24, 3, how) for how in ("sum", "disjoint"))
    two = torch.tensor([[2, 5, 0], [5, 2, 0]])
    assert torch.allclose(*sum_.table(two)) and not torch.allclose(*apart.table(two))


def test_levels_by_hand():
    one = positions.Sinusoidal(8)
    pos = torch.tensor([[[3, 1], [0, 7]]])  # (batch, tokens, levels)
    found = positions.Levels(16, 2).embed(torch.zeros(1, 2, 16), pos)
    meant = torch.cat([one.table(pos[0, :, 0]), one.table(pos[0, :, 1])], -1)
    torch.testing.assert_close(found[0], meant)


def test_levels_errors():
    with pytest.raises(ValueError, match="3 levels need a d_model that 6 divides, got 16"):
        positions.Levels(16, 3)
    with pytest.raises(ValueError, match="unknown way 'plus'; known: disjoint, sum, rotated"):
        positions.Levels(16, 2, "plus")
    with pytest.raises(ValueError, match=r"levels = 2\), got \(4, 3\)"):
        positions.Levels(16, 2).table(torch.zeros(4, 3))


def test_tree_paths_of_a_binary_tree():
    paths = positions.tree_paths([-1] + [(i - 1) // 2 for i in range(1, 63)])
    assert len({tuple(p) for p in paths.tolist()}) == 63
    assert paths[0].tolist() == [-1] * 5 and paths[1].tolist() == [0, -1, -1, -1, -1]
    assert paths[6].tolist() == [1, 1, -1, -1, -1]
    assert len({(p >= 0).sum().item() for p in paths}) == 6  # depth alone tells six apart


def test_the_parent_of_every_node_is_one_linear_map():
    encoding = positions.TreePaths(8, arity=2, depth=5)
    parents = [-1] + [(i - 1) // 2 for i in range(1, 63)]
    stack = encoding.stack(positions.tree_paths(parents)).detach()
    nodes = torch.arange(1, 63)
    of_parents = stack[torch.tensor(parents)[nodes]]
    solution = torch.linalg.lstsq(stack[nodes].double(), of_parents.double()).solution
    torch.testing.assert_close(stack[nodes].double() @ solution, of_parents.double())


def test_tree_errors():
    encoding = positions.TreePaths(8, arity=2, depth=2)
    with pytest.raises(ValueError, match="child numbers must lie in 0 ... 1"):
        encoding.table(torch.tensor([[2, -1]]))
    with pytest.raises(ValueError, match="paths of 3 steps do not fit in depth 2"):
        encoding.table(torch.tensor([[0, 0, 0]]))
    with pytest.raises(ValueError, match="node 0 is its own ancestor"):
        positions.tree_paths([1, 0])
    with pytest.raises(ValueError, match="node 0 has the parent 7; there are nodes 0 ... 1"):
        positions.tree_paths([7, -1])
    assert positions.tree_paths([]).shape == (0, 0)


def test_a_tiny_transformer_takes_the_positions_of_a_tree():
    torch.manual_seed(0)
    encoding = positions.TreePaths(16, arity=2, depth=3)
    model = TinyTransformer(5, 4, d_model=16, encoding=encoding, causal=False)
    paths = positions.tree_paths([-1, 0, 0, 1])
    ids = torch.zeros(1, 4, dtype=torch.long)
    out = model(ids, pos=paths[None])
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(ids, pos=paths[order][None]), out[:, order])
    assert (out[:, 1] - out[:, 2]).abs().max() > 1e-3


def test_graph_distances():
    graph = networkx.Graph([("a", "b"), ("b", "c")])
    graph.add_node("d")
    meant = [[0, 1, 2, -1], [1, 0, 1, -1], [2, 1, 0, -1], [-1, -1, -1, 0]]
    assert positions.graph_distances(graph).tolist() == meant


def test_a_graph_bias_knows_nothing_but_the_graph():
    torch.manual_seed(0)
    graph = networkx.gnp_random_graph(7, 0.4, seed=1)
    encoding = positions.GraphDistance(2, max_distance=3)
    torch.nn.init.normal_(encoding.weight)
    layer = MultiHeadAttention(8, 2, encoding=encoding)
    x, order = torch.randn(1, 7, 8), torch.randperm(7)
    encoding.distance = positions.graph_distances(graph)
    out = layer(x)
    encoding.distance = encoding.distance[order][:, order]
    torch.testing.assert_close(layer(x[:, order]), out[:, order])
    half = encoding.for_heads([1])
    torch.testing.assert_close(half.bias(x[None], x[None], None, None),
                               encoding.bias(x[None], x[None], None, None)[:, 1:])  # fmt: skip


def test_graph_bias_errors():
    encoding = positions.GraphDistance(2)
    layer = MultiHeadAttention(8, 2, encoding=encoding)
    with pytest.raises(ValueError, match="say how far apart the nodes are"):
        layer(torch.zeros(1, 3, 8))
    encoding.distance = torch.zeros(4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"distance must be \(3, 3\) or \(1, 3, 3\), got \(4, 4\)"):
        layer(torch.zeros(1, 3, 8))


def test_shortest_paths_do_not_tell_all_graphs_apart():
    rook = networkx.line_graph(networkx.complete_bipartite_graph(4, 4))
    steps = [(1, 0), (0, 1), (1, 1), (-1, 0), (0, -1), (-1, -1)]
    shrikhande = networkx.Graph([
        ((i, j), ((i + a) % 4, (j + b) % 4)) for i in range(4) for j in range(4) for a, b in steps
    ])  # fmt: skip
    assert not networkx.is_isomorphic(rook, shrikhande)
    profiles = {
        tuple(row.bincount().tolist())
        for graph in (rook, shrikhande)
        for row in positions.graph_distances(graph)
    }
    assert profiles == {(1, 6, 9)}


def test_laplacian_vectors_of_a_path_are_cosines():
    n = 40
    vectors = positions.laplacian_vectors(networkx.path_graph(n), 5).double()
    i, k = torch.arange(n), torch.arange(1, 6)
    degree = torch.tensor([1.0] + [2.0] * (n - 2) + [1.0]).double()
    meant = torch.cos(math.pi * i[:, None] * k / (n - 1)) * degree.sqrt()[:, None]
    meant = meant / meant.norm(dim=0)
    torch.testing.assert_close(vectors.abs(), meant.abs(), rtol=0, atol=1e-5)
    # cosines of odd number are largest at both ends, with opposite signs: the first end counts
    small = positions.laplacian_vectors(networkx.path_graph(8), 7)
    ties = small.abs() > small.abs().amax(0) - 1e-6
    assert (small.gather(0, ties.byte().argmax(0, keepdim=True)) > 0).all()


def test_laplacian_vectors_of_small_graphs():
    assert positions.laplacian_vectors(networkx.path_graph(2), 4).shape == (2, 4)
    lonely = networkx.empty_graph(1)
    assert positions.laplacian_vectors(lonely, 2).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="k must be at least 1"):
        positions.laplacian_vectors(lonely, 0)


def test_contextual_positions_by_loops():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 6, 4, dtype=torch.float64) for _ in range(3))
    encoding = positions.Contextual(4, max_position=3).double()
    e = encoding.table.detach()
    scores = torch.full((2, 6, 6), -torch.inf, dtype=torch.float64)
    for h in range(2):
        for i in range(6):
            gates = [torch.sigmoid(q[0, h, i] @ k[0, h, j] / 2) for j in range(i + 1)]
            for j in range(i + 1):
                p = min(float(sum(gates[j:])), 3.0)
                low, high = math.floor(p), math.ceil(p)
                row = e[low] + (p - low) * (e[high] - e[low])
                scores[h, i, j] = q[0, h, i] @ k[0, h, j] / 2 + q[0, h, i] @ row
    meant = scores.softmax(-1) @ v[0]
    for backend in ("dense", "fused"):
        found = scaled_dot_product_attention(
            q, k, v, causal=True, encoding=encoding, backend=backend
        )
        torch.testing.assert_close(found[0], meant, rtol=0, atol=1e-9)


def test_contextual_positions_count_open_gates_only():
    encoding = positions.Contextual(1)
    k = torch.tensor([50.0, -50, 50, -50, 50])[None, None, :, None]  # open, shut, open, shut, open
    at = torch.arange(5)
    found = encoding.count(torch.ones(1, 1, 5, 1), k, at, at)
    assert found[0, 0, 4].tolist() == [3, 2, 2, 1, 1]
    with pytest.raises(ValueError, match="built for d_head 1, got 2"):
        encoding.bias(torch.ones(1, 1, 5, 2), torch.ones(1, 1, 5, 2), at, at)


def test_contextual_positions_learn():
    encoding = positions.Contextual(4)
    layer = MultiHeadAttention(8, 2, encoding=encoding)
    layer(torch.randn(2, 5, 8), causal=True).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    assert encoding.table.grad.abs().sum() > 0


def test_functions_of_position():
    far = torch.tensor([0, 1000, 1_000_000])
    fourier, raw = (positions.FunctionOfPosition(6, features) for features in ("fourier", "raw"))
    assert fourier.inputs(far).abs().max() <= 1 and raw.inputs(far).max() == 10_000
    assert fourier.table(far).shape == raw.table(far).shape == (3, 6)
    with pytest.raises(ValueError, match="unknown features 'sin'; known: raw, fourier"):
        positions.FunctionOfPosition(6, "sin")
    with pytest.raises(ValueError, match="d_model must be even, got 5"):
        positions.FunctionOfPosition(5)


def test_fire_stays_bounded_and_follows_its_formula():
    torch.manual_seed(0)
    encoding = positions.FIRE(3, length=10.0)
    at = torch.arange(200)
    q = torch.zeros(1, 3, 200, 4)
    found = encoding.bias(q, q, at, at)
    c, i, j = encoding.log_c.exp(), 150, 30
    share = torch.log(c * (i - j) + 1) / torch.log(c * max(i, 10) + 1)
    torch.testing.assert_close(found[0, :, i, j], encoding.mlp(share.reshape(1)))
    grown = encoding.bias(q, q, at + 5000, at + 5000).tril()
    assert (grown.abs() < 10 * found.tril().abs().max()).all()
