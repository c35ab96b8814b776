"""Positions in something else than a line: several levels, trees, graphs.

Where a text is a list, position is one number. Here it is several: pos has a further axis, or the
encoding is told how far apart each two nodes are.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from attnlab.positions.absolute import Absolute, Sinusoidal
from attnlab.positions.base import Encoding

LEVELS_HOW = ("disjoint", "sum", "rotated")


class Levels(Absolute):
    """A position on several levels, such as (letter in word, word in sentence, sentence in text).

    "disjoint" gives every level d_model / n_levels features of its own: [PE(a) PE(b) PE(c)].
    "rotated" adds R_l PE(pos_l), with a fixed random rotation R_l for each level. "sum" adds the
    same PE for all levels, as one often reads: the sum does not know which level a number came
    from, and (2, 5, 0) and (5, 2, 0) get the same vector.

    pos is (..., n, n_levels).

    Source: Devlin et al. 2019 (BERT), section 3, for two levels with tables of their own; none is
    known to us for the sum.

    Raises:
        ValueError: if d_model cannot be shared out in pairs; for an unknown `how`; from `table`,
            for another number of levels.
    """

    def __init__(
        self, d_model: int, n_levels: int, how: str = "disjoint", base: float = 10_000.0,
        seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        if how not in LEVELS_HOW:
            raise ValueError(f"unknown way {how!r}; known: {', '.join(LEVELS_HOW)}")
        if how == "disjoint" and (n_levels < 1 or d_model % (2 * n_levels)):
            raise ValueError(
                f"{n_levels} levels need a d_model that {2 * n_levels} divides, got {d_model}"
            )
        self.n_levels, self.how = n_levels, how
        self.one = Sinusoidal(d_model // n_levels if how == "disjoint" else d_model, base)
        if how == "rotated":
            generator = torch.Generator().manual_seed(seed)
            square = torch.randn(n_levels, d_model, d_model, generator=generator)
            self.register_buffer("rotations", torch.linalg.qr(square).Q)

    def table(
        self, pos: Real[Tensor, "... n n_levels"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "... n d_model"]:
        if pos.shape[-1] != self.n_levels:
            raise ValueError(
                f"pos must be (..., tokens, levels = {self.n_levels}), got {tuple(pos.shape)}"
            )
        levels = [
            self.one.table(level.flatten(), dtype).unflatten(0, level.shape)
            for level in pos.unbind(-1)
        ]
        if self.how == "disjoint":
            return torch.cat(levels, dim=-1)
        if self.how == "rotated":
            levels = [x @ r.to(dtype) for x, r in zip(levels, self.rotations, strict=True)]
        return torch.stack(levels).sum(0)

    def extra_repr(self) -> str:
        return f"n_levels={self.n_levels}, how={self.how!r}"


class TreePaths(Absolute):
    """A node's position is its path from the root, as child numbers: the second child of the root's
    first child is (0, 1).

    The path is a stack of one-hot choices, the last step first, and step s from the node is
    weakened by decay^s; a trained matrix brings it to d_model. So "parent of" is the same linear
    map everywhere: take the first choice off the stack.

    pos is (..., n, depth), whole numbers, -1 where a path has ended.

    Source: Shiv and Quirk 2019, section 3 (the trained matrix in place of copies with several
    decays is this course's).

    Raises:
        ValueError: from `table`, for child numbers beyond the arity, or a deeper path.
    """

    def __init__(self, d_model: int, arity: int, depth: int, decay: float = 0.8):
        super().__init__()
        if min(arity, depth) < 1:
            raise ValueError(f"arity and depth must be at least 1, got {arity} and {depth}")
        self.arity, self.depth = arity, depth
        self.decay = nn.Parameter(torch.tensor(float(decay)))
        self.project = nn.Linear(arity * depth, d_model, bias=False)

    def stack(self, pos: Int[Tensor, "... n depth"]) -> Float[Tensor, "... n arity_times_depth"]:
        """The one-hot choices of each path, the last step first, weakened."""
        if pos.shape[-1] > self.depth:
            raise ValueError(f"paths of {pos.shape[-1]} steps do not fit in depth {self.depth}")
        if pos.numel() and not -1 <= int(pos.min()) <= int(pos.max()) < self.arity:
            raise ValueError(
                f"child numbers must lie in 0 ... {self.arity - 1} (-1: no step), "
                f"got {int(pos.min())} ... {int(pos.max())}"
            )
        steps = (pos >= 0).sum(-1, keepdim=True)  # of each path
        back = steps - 1 - torch.arange(self.depth, device=pos.device)  # the last step first
        at = F.pad(pos, (0, self.depth - pos.shape[-1]), value=-1).gather(-1, back.clamp(min=0))
        choice = torch.where(back >= 0, at, self.arity)  # a choice of its own for "no step" ...
        one_hot = F.one_hot(choice, self.arity + 1)[..., : self.arity]  # ... which is left out
        weak = self.decay ** torch.arange(self.depth, device=pos.device)
        return (one_hot * weak[:, None]).flatten(-2)

    def table(
        self, pos: Int[Tensor, "... n depth"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "... n d_model"]:
        return self.project(self.stack(pos)).to(dtype)

    def extra_repr(self) -> str:
        return f"arity={self.arity}, depth={self.depth}"


def tree_paths(parents: list[int]) -> Int[Tensor, "n depth"]:
    """The path of each node from its root, as child numbers, -1 where it has ended.

    Args:
        parents: the parent of each node, -1 for a root. Children are numbered in the order in which
            they stand.

    Raises:
        ValueError: for a parent that does not exist, or nodes that are their own ancestors.
    """
    n = len(parents)
    number, seen = [], {}
    for node, parent in enumerate(parents):
        if not -1 <= parent < n:
            raise ValueError(f"node {node} has the parent {parent}; there are nodes 0 ... {n - 1}")
        number.append(seen.get(parent, 0))
        seen[parent] = number[-1] + 1
    paths = []
    for node in range(n):
        path, at = [], node
        while parents[at] >= 0:
            path.append(number[at])
            at = parents[at]
            if len(path) > n:
                raise ValueError(f"node {node} is its own ancestor: that is no tree")
        paths.append(path[::-1])
    depth = max((len(p) for p in paths), default=0)
    filled = [p + [-1] * (depth - len(p)) for p in paths]
    return torch.tensor(filled, dtype=torch.long).reshape(n, depth)


class GraphDistance(Encoding):
    """Bias b_h[distance of the two nodes]: one trained number for each head and number of steps on
    the shortest path, up to max_distance; one more for nodes that no path joins.

    Set `distance` before the model runs: whole numbers (n, n) or (batch, n, n), -1 where there is
    no path; see `graph_distances`. The order in which nodes are listed plays no part.

    Source: Ying et al. 2021 (Graphormer), section 3.1.2.

    Raises:
        ValueError: from `bias`, if no distances are set or they are of another size.
    """

    def __init__(self, n_heads: int, max_distance: int = 8):
        super().__init__()
        if max_distance < 1:
            raise ValueError(f"max_distance must be at least 1, got {max_distance}")
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.zeros(max_distance + 2, n_heads))
        self.distance: Tensor | None = None

    def bias(
        self, q: Tensor, k: Tensor, q_pos: Tensor, k_pos: Tensor
    ) -> Float[Tensor, "#batch n_heads n n"]:
        distance, n = self.distance, q.shape[-2]
        if distance is None:
            raise ValueError("say how far apart the nodes are: encoding.distance = ...")
        if distance.dim() == 2:
            distance = distance[None]
        if distance.shape[-2:] != (n, k.shape[-2]) or distance.shape[0] not in (1, len(q)):
            raise ValueError(
                f"distance must be ({n}, {n}) or ({len(q)}, {n}, {n}), "
                f"got {tuple(self.distance.shape)}"
            )
        row = torch.where(
            distance < 0, self.max_distance + 1, distance.clamp(max=self.max_distance)
        )
        return self.weight[row].movedim(-1, 1)

    def for_heads(self, heads) -> "GraphDistance":
        part = GraphDistance(len(heads), self.max_distance)
        part.weight = nn.Parameter(self.weight.detach()[:, list(heads)].clone())
        part.distance = self.distance
        return part

    def extra_repr(self) -> str:
        return f"n_heads={self.weight.shape[1]}, max_distance={self.max_distance}"


def graph_distances(graph) -> Int[Tensor, "n n"]:
    """Steps on the shortest path between each two nodes of a networkx graph, in its order of nodes;
    -1 where there is none."""
    import networkx

    index = {node: i for i, node in enumerate(graph)}
    found = torch.full((len(index), len(index)), -1, dtype=torch.long)
    for node, to in networkx.all_pairs_shortest_path_length(graph):
        for other, steps in to.items():
            found[index[node], index[other]] = steps
    return found


def laplacian_vectors(graph, k: int) -> Float[Tensor, "n k"]:
    """A vector for each node of a networkx graph: its entries in the eigenvectors of the normalised
    Laplacian with the k smallest eigenvalues, the very first one left out (in a graph of one piece
    it says no more than the degrees), zeros where there are no more.

    The sign of an eigenvector is arbitrary, and so is the basis where an eigenvalue repeats: a
    model must not rely on them (Dwivedi and Bresson flip signs at random in training). Here the
    entry largest in size is positive, the first of them if there are several. On a path these are
    cosines: the sinusoidal code is the case of a line.

    Source: Dwivedi and Bresson 2020, section 2.1 (Laplacian positional encodings).

    Raises:
        ValueError: for k below 1.
    """
    import networkx

    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    n = graph.number_of_nodes()
    edges = torch.tensor(networkx.to_numpy_array(graph)).reshape(n, n)
    scale = edges.sum(-1).clamp(min=1) ** -0.5  # 1 / sqrt(degree)
    laplacian = torch.diag((edges.sum(-1) > 0).double()) - scale[:, None] * edges * scale
    vectors = torch.linalg.eigh(laplacian).eigenvectors[:, 1 : k + 1]
    if n > 1:  # equal sizes differ by rounding, which must not choose between them
        size = vectors.abs()
        first = (size > size.amax(0) - 1e-9).byte().argmax(0, keepdim=True)
        largest = vectors.gather(0, first)
    else:
        largest = vectors
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    return F.pad(vectors, (0, k - vectors.shape[1])).float()
