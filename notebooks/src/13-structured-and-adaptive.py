# %% [markdown] slideshow={"slide_type": "slide"}
# # 13. Structured and adaptive positions
#
# **So far a position was a number on a line. What is it in a text of words and sentences, in a tree,
# in a graph, and can it depend on the content?**
#
# When you have worked through this notebook you can
#
# - say why adding the codes of several levels mixes them up, and mend it in two ways;
# - give each node of a tree a code from which the parent's code follows by one matrix;
# - say what shortest paths and Laplacian vectors tell about a node of a graph, and what they cannot;
# - tell a code that depends on the token from one that depends on the context;
# - compare a structured encoding with a flat one fairly: same information, several seeds, more layers.
#
# *You need:* [notebook 7](07-sinusoidal.ipynb), [notebook 8](08-putting-positions-in.ipynb),
# [notebook 10](10-relative-positions.ipynb) and [notebook 11](11-rope.ipynb). *To study:* 80 minutes. *To lecture:* 45 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import itertools

import matplotlib.pyplot as plt
import networkx
import torch
import torch.nn.functional as F
from torch import nn

from attnlab import plots, positions, structures, tasks
from attnlab.exercises import check
from attnlab.explorers import StructureExplorer
from attnlab.positions import Contextual, FunctionOfPosition, Levels, Sinusoidal, TreePaths
from attnlab.teach import claim, figure, predict
from attnlab.train import fit
from attnlab.trained import train

torch.manual_seed(0);

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Several levels
#
# A letter has a place in its word, the word a place in its sentence, the sentence a place in the text.
# The position becomes a **triple** $(c, w, s)$: letter in word, word in sentence, sentence in text, each
# counted from 0. In "ab cd. ef" the letter *d* has the triple $(1, 1, 0)$ and *f* has $(1, 0, 1)$.
#
# One often reads
#
# $$PE_{total} = PE_{char} + PE_{word} + PE_{sent}$$
#
# Let us do that with the sinusoidal code of [notebook 7](07-sinusoidal.ipynb) in all three places,
# 48 features wide, and give it the triples of 10 letters × 12 words × 8 sentences, 960 in all.

# %%
guess = predict(
    "How many different codes do the 960 triples get?",
    ["960: a code for each", "480: half as many", "320: a third", "28: one for each sum c + w + s"],
    id="13-codes",
)
guess

# %%
triples = torch.tensor(list(itertools.product(range(10), range(12), range(8))))  # (960, 3)
one = Sinusoidal(48)
added = sum(one.table(triples[:, level], torch.float64) for level in range(3))  # (960, 48)


def different(codes):
    """How many rows are not the same but for rounding."""
    near = torch.cdist(codes, codes) < 1e-6  # (rows, rows)
    return len({tuple(row.nonzero().flatten().tolist()) for row in near})


n_added = different(added)
print(f"{len(triples)} triples, {n_added} codes")

# %%
guess.reveal(
    {960: 0, 480: 1, 320: 2, 28: 3}[n_added],
    "A sum does not know which level a number came from: (2, 5, 0), (5, 2, 0) and (0, 2, 5) all get "
    "the same code. Still it knows more than c + w + s.",
)

# %%
code_of = dict(zip(map(tuple, triples.tolist()), added, strict=True))
claim("The codes of (2, 5, 0) and (5, 2, 0): largest difference.",
      (code_of[2, 5, 0] - code_of[5, 2, 0]).abs().max(), below=1e-12, source="addition", id=82)
claim("The sum gives 960 triples so many codes.", n_added, equals=320, source="this notebook", id=82)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Two ways to mend it
#
# - **Disjoint**: each level has features of its own, side by side: $[PE(c)\ \ PE(w)\ \ PE(s)]$,
#   here 16 features each.
# - **Rotated**: $PE(c)\,R_1 + PE(w)\,R_2 + PE(s)\,R_3$, each $R_l$ a fixed random rotation
#   (an orthogonal matrix, $48 \times 48$). All levels use all features, each in its own directions.
#
# (A third way is a learned table for each level. BERT does so with its segments.)

# %%
for how in ("sum", "disjoint", "rotated"):
    codes = Levels(48, 3, how).table(triples, torch.float64)  # (960, 48)
    apart = torch.cdist(codes, codes).fill_diagonal_(torch.inf)
    print(f"{how:9} {different(codes):4} codes, smallest distance of two triples {apart.min():.2f}")
    if how != "sum":
        claim(f"{how}: a code for each of the 960 triples.", different(codes), equals=960,
              source="attnlab", id=82)
        claim(f"{how}: smallest distance of two codes.", apart.min(), above=0.3, source="attnlab",
              id=82)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### What a triple says, and what not
#
# The task `tasks.Letters` makes random texts out of random letters, and knows the triple of each token.
# It can, since it made the words. For a real text somebody must find words and sentences first, and a
# tokenizer that cuts rare words into pieces does not hand them over.

# %%
texts = tasks.Letters().batch(300, torch.Generator().manual_seed(0))
letters = "abcdefghij ."
print("".join(letters[i] for i in texts.ids[0]))
print("triples of the first tokens:", [tuple(t) for t in texts.pos[0, :9].tolist()])
here = (texts.pos == torch.tensor([0, 0, 1])).all(-1)  # (300, 48): the first letter of sentence 1
at = here.nonzero()[:, 1]  # where it stands in its text
print(f"the triple (0, 0, 1) stands at token {at.min()} to {at.max()} of its text")

# %%
claim("The triple does not tell the place in the text: tokens between the earliest and the latest "
      "place of (0, 0, 1).", at.max() - at.min(), above=5, source="this notebook", id=83)
disjoint = Levels(48, 3).table(texts.pos.flatten(0, 1), torch.float64)
read = [
    torch.cdist(disjoint[:, 16 * level : 16 * level + 16],
                Sinusoidal(16).table(torch.arange(12), torch.float64)).argmin(-1)
    for level in range(3)
]
claim("From the disjoint code each level is read back without a mistake (share right).",
      (torch.stack(read, -1) == texts.pos.flatten(0, 1)).double().mean(), equals=1.0,
      source="this notebook", id=83)

# %% [markdown]
# So the triple counts three times from 0, and forgets where in the document it is. Who needs that adds a
# fourth level.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Does it help?
#
# The task: at each letter, say the first letter of its word and the first letter of its sentence. The
# model has one layer with 6 heads, $d_{model} = 48$, and sees the whole text (no causal mask). It gets
# its positions in one of three ways: the flat sinusoidal code of the token number, the triples in disjoint
# features, or the triples summed (all with base 100 in place of 10,000). The flat model has all the information too: spaces and stops stand in
# the text.

# %%
guess = predict(
    "After 400 steps, which share of first letters of the sentence is right (mean of 5 seeds)?",
    [
        "all three above 0.9",
        "both kinds of triples above 0.9, flat below",
        "disjoint above 0.9, flat and sum below 0.6",
        "disjoint above 0.9, sum below 0.6, flat between",
    ],
    id="13-letters",
)
guess

# %% [markdown]
# Five trainings of each take a few minutes, so they were made beforehand, with
# `python -m attnlab.structures`, and the results came with the course. We train one of the models here
# as well, to see that it can be believed.

# %%
def mean(values):
    return sum(values) / len(values)


def show(task):
    """The stored results of a task: way -> what was asked -> one share for each seed."""
    found = {way.replace("rope", "RoPE"): asked for way, asked in structures.results(task).items()}
    for way, asked in found.items():
        print(f"{way:25}", "   ".join(
            f"{what}: {mean(v):.2f} [{min(v):.2f} to {max(v):.2f}], {len(v)} seeds"
            for what, v in asked.items()))  # fmt: skip
    return found


by_levels = show("letters")
recipe = structures.RECIPES["letters/disjoint"]
model, losses = train(recipe, seed=0, label="training disjoint, seed 0")
again = recipe.scores(model)
print("trained here:", {what: round(share, 1) for what, share in again.items()})

# %%
first = {way: asked["sentence"] for way, asked in by_levels.items()}
d, s, f = (mean(first[way]) for way in ("disjoint", "sum", "flat"))
guess.reveal(
    0 if min(d, s, f) > 0.9 else 1 if min(d, s) > 0.9 else 2 if max(s, f) < 0.6 else 3,
    f"Disjoint {d:.2f}, sum {s:.2f}, flat {f:.2f}. With w and c in features of their own, 'the token "
    "of my sentence with w = 0 and c = 0' is one match of a query and a key. The sum cannot ask "
    "for it, and the flat code would first have to find the stop before the sentence.",
)

# %% slideshow={"slide_type": "subslide"}
figure(
    plots.by_seed({way.replace(", ", ",\n"): v for way, v in first.items()}, "share right",
                  "first letter of the sentence (dots: seeds, line: mean)"),
    alt="Share of first letters of the sentence that are right. "
    + ", ".join(f"{way} {mean(v):.2f}" for way, v in first.items()) + ".",
)

# %%
claim("Disjoint levels: share of sentences' first letters right, 5 seeds.", first["disjoint"], above=0.9,
      source="python -m attnlab.structures letters", id=82)
claim("The same, trained here.", again["sentence"], above=0.9, source="this notebook", id=82)
claim("The plain sum of the same triples, 5 seeds.", first["sum"], below=0.6,
      source="python -m attnlab.structures letters", id=82)
claim("One flat layer, 5 seeds.", first["flat"], below=0.6,
      source="python -m attnlab.structures letters", id=82)
claim("Two flat layers and 2.5 times the steps, 5 seeds.", first["flat, 2 layers"], above=0.9,
      source="python -m attnlab.structures letters")

# %% [markdown]
# The last line matters. With **two** layers and 1,000 steps the flat model does it too: one layer finds
# the borders, the next one uses them. So the levels do not make the task possible. They save layers or
# training. (Layers and steps were raised together: this does not tell which of them was needed.) And the plain sum did worse than being told nothing about levels at all, for the first
# letter of the word as well: see the table. (For the disjoint model that letter is the harder question: the key must have the query's own s **and** its
# own w, for the sentence only its own s. After 400 steps it is still learning it.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Trees
#
# A sentence has a syntax tree, a web page has nested parts, a program has an expression tree. The
# position of a node is a function of its way from the root:
#
# $$PE_{tree}(node) = f(\text{path from the root to the node})$$
#
# What is a path? Two readings: the **child numbers**, "first child, then second child", or the **labels**
# on the way, "S, then VP, then NP". Take a binary tree with 63 nodes on 6 levels. All nodes of one level
# have the same label.

# %%
guess = predict(
    "How many different label paths do the 63 nodes have?",
    ["63", "32: one for each leaf", "6: one for each level", "2: left and right"],
    id="13-label-paths",
)
guess

# %%
parents = [-1] + [(i - 1) // 2 for i in range(1, 63)]  # node i has the children 2i + 1, 2i + 2
paths = positions.tree_paths(parents)  # (63, 5): child numbers from the root, -1 where it has ended
depth = (paths >= 0).sum(-1).tolist()  # steps from the root
labels = [f"label of level {d}" for d in depth]


def way(node):
    """The labels from the root to the node."""
    return (*(way(parents[node]) if node else ()), labels[node])


label_paths = {way(node) for node in range(63)}
print("the path of node 12:", [c for c in paths[12].tolist() if c >= 0])
print(len(set(map(tuple, paths.tolist()))), "child paths,", len(label_paths), "label paths,",
      len(set(depth)), "depths")

# %%
guess.reveal(
    {63: 0, 32: 1, 6: 2, 2: 3}[len(label_paths)],
    "Siblings with the same label have the same label path, and so have their children.",
)

# %%
claim("63 nodes: different child paths.", len(set(map(tuple, paths.tolist()))), equals=63,
      source="attnlab.positions.tree_paths", id=84)
claim("Different label paths, if labels are the same on each level.", len(label_paths), equals=6,
      source="this notebook", id=84)
claim("Different depths.", len(set(depth)), equals=6, source="this notebook", id=84)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### A code in which "parent" is a matrix
#
# Shiv and Quirk (2019) write the path as a **stack**: one block of features for each step, the last
# step first. A block is one-hot: which child was it? In a binary tree the path "first, second" is
#
# $$[\underbrace{0,\ 1}_{\text{last step: second}},\ \underbrace{a,\ 0}_{\text{before: first}},\ 0, 0, \ldots]$$
#
# Steps farther from the node are weakened by a factor $a$ each ($a = 0.8$ here, a parameter). To go to
# the parent, take the first block off and move the others up. To go to a child, push one on top. The
# first is multiplying by a matrix, the same for all nodes; the second is a matrix and a constant.

# %%
code = TreePaths(d_model=48, arity=2, depth=5)  # arity: how many children a node may have
stacks = code.stack(paths).detach().double()  # (63 nodes, 2 * 5 features)
nodes = torch.arange(1, 63)  # all but the root
child, parent = stacks[nodes], stacks[torch.tensor(parents)[nodes]]
up = torch.linalg.lstsq(child, parent).solution  # (10, 10): the best matrix for child @ up = parent
claim("One matrix takes the code of each of 62 nodes to that of its parent (largest error).",
      (child @ up - parent).abs().max().round(decimals=9), below=1e-9, source="Shiv and Quirk 2019, section 3", id=84)
try:
    code.table(torch.tensor([[0, 1, 0, 1, 0, 1]]))
    deeper = "a code"
except ValueError as error:
    deeper = "ValueError"
    print("a deeper node:", error)
claim("But the depth is bounded: a path of 6 steps does not fit.", deeper, equals="ValueError",
      source="attnlab", id=84)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Try it: a tree
#
# 1. Select a node, by clicking or with the arrow keys. Its path stands below the picture. Press *add
#    child*: where does its row come in, and whose rows stay as they are?
# 2. Remove the node NP with all below. The path of VP changes, though nobody touched it. Why? (Undo.)
# 3. The head looks for *its parent*. It has no content to go by: its move turns the query's code into the
#    parent's, and the score is the higher, the nearer a key's code is to that. Raise the sharpness. Now *its next sibling*.
# 4. Choose *map of pairs: bias* and look for *near nodes*: this is a number for each step, as in
#    "As a bias, the distance says more" below.

# %%
StructureExplorer("tree", example="sentence", head="parent", sharpness=2.0, selected=5)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Does it help?
#
# `tasks.Trees` makes random binary trees with random labels, their nodes listed depth first. Asked at each
# node: the parent's label, and the sibling's. The flat model sees the list. That is not fair: the list
# of labels alone does not say what the tree is. So there is another one, that sees the list with brackets,
# "( 3 ( 1 ) ( 4 ) )".

# %%
guess = predict(
    "One layer, 400 steps, sinusoidal code, and brackets in the text. How many parents does it get right?",
    ["above 0.9", "0.5 to 0.9", "below 0.5"],
    id="13-brackets",
)
guess

# %%
by_tree = show("trees")
recipe = structures.RECIPES["trees/paths"]
model, losses = train(recipe, seed=0, label="training paths, seed 0")
again = recipe.scores(model)
print("trained here:", {what: round(share, 1) for what, share in again.items()})

# %%
bracketed = mean(by_tree["flat, brackets"]["parent"])
guess.reveal(
    0 if bracketed > 0.9 else 1 if bracketed > 0.5 else 2,
    f"{bracketed:.2f}. Half of the children are first children, whose parent is the label just before: they are "
    "easy. For the others brackets must be matched. With a second layer and more steps it works: see the table.",
)

# %% slideshow={"slide_type": "subslide"}
figure(
    plots.by_seed({way.replace(", ", ",\n"): v["parent"] for way, v in by_tree.items()},
                  "share right", "label of the parent (dots: seeds, line: mean)"),
    alt="Share of parents' labels that are right. "
    + ", ".join(f"{way} {mean(v['parent']):.2f}" for way, v in by_tree.items()) + ".",
)

# %%
claim("Paths: share of parents right, 5 seeds.", by_tree["paths"]["parent"], above=0.98,
      source="python -m attnlab.structures trees", id=84)
claim("Paths: share of siblings right, 5 seeds.", by_tree["paths"]["sibling"], above=0.98,
      source="python -m attnlab.structures trees", id=84)
claim("Paths, trained here: parents and siblings.", list(again.values()), above=0.95,
      source="this notebook", id=84)
claim("Flat, without brackets: parents.", by_tree["flat"]["parent"], below=0.75,
      source="python -m attnlab.structures trees", id=84)
claim("Flat, with brackets, a second layer and 1,000 steps: parents, 5 seeds.",
      by_tree["flat, brackets, 2 layers"]["parent"], above=0.9,
      source="python -m attnlab.structures trees")

# %% [markdown]
# The same lesson as above: with brackets, a second layer and more steps, the flat model gets there. (Again both were
# raised together: do not conclude that the second layer was needed.) Where the tree is known beforehand, paths
# give it for one layer and few steps. Where it must be guessed from the text, as in language, somebody has to parse first, and mistakes of the parser become
# mistakes of the positions.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Graphs
#
# In a graph (atoms and bonds, people and friendships) there is no root and no first child. What remains is
# how far two nodes are apart: the number of steps on the shortest path. It is often written
#
# $$PE_{graph}(v) = g(\text{shortest paths from } v)$$
#
# Nodes have no order, so $g$ must not depend on one: it sees the *list of distances*, how many nodes are
# 1 step away, how many 2, and so on. Does that tell nodes apart? And graphs?
#
# Here are two graphs of 16 nodes. In the *rook's graph* the nodes are the squares of a 4 × 4 board, joined
# if they share a row or a column. In the *Shrikhande graph* the squares of a board that wraps around are
# joined to their neighbours in the row, in the column, and along one diagonal. They are different: no
# renaming of nodes makes one the other (networkx checks it).

# %%
guess = predict(
    "How many different lists of distances do the 32 nodes of both graphs have?",
    ["32", "16", "2: one for each graph", "1"],
    id="13-rook",
)
guess

# %%
rook = networkx.line_graph(networkx.complete_bipartite_graph(4, 4))  # a node is a pair (row, column)
steps_ = [(1, 0), (0, 1), (1, 1), (-1, 0), (0, -1), (-1, -1)]
shrikhande = networkx.Graph(
    [((i, j), ((i + a) % 4, (j + b) % 4)) for i in range(4) for j in range(4) for a, b in steps_]
)


def distance_lists(graph):
    """For each node how many nodes are 0, 1, 2, ... steps away."""
    return [tuple(row.bincount().tolist()) for row in positions.graph_distances(graph)]


lists = set(distance_lists(rook) + distance_lists(shrikhande))
same = networkx.is_isomorphic(rook, shrikhande)
print("one graph in two drawings:", same, "- lists of distances:", lists)

# %%
guess.reveal(
    {32: 0, 16: 1, 2: 2, 1: 3}[len(lists)],
    "Each of the 32 nodes has itself at 0 steps, 6 nodes at 1 step and 9 at 2.",
)

# %%
claim("The two graphs are the same but for names.", same, equals=False, source="networkx", id=85)
claim("All 32 nodes: numbers of nodes at 0, 1 and 2 steps.", tuple(lists), equals=((1, 6, 9),),
      source="networkx; Zhu et al. 2023", id=85)
ring = networkx.cycle_graph(8)
claim("Lists of distances in a ring of 8.", len(set(distance_lists(ring))), equals=1,
      source="this notebook", id=85)

# %% [markdown]
# So a code made from distances alone need not be a name for a node. In a ring that is no fault: its nodes *are*
# alike, and a code that tells them apart must break the tie by chance. But here two different graphs look
# the same, and that is a loss.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### As a bias, the distance says more
#
# Graphormer (Ying et al. 2021) does not add a vector to each node. It adds a number to each score:
#
# $$s^h_{ij} = \frac{q_i \cdot k_j}{\sqrt{d_k}} + b_h[\text{steps between } i \text{ and } j]$$
#
# with a trained number $b_h[\cdot]$ for each head and number of steps, and one more for pairs that no
# path joins. It is T5's bias of [notebook 10](10-relative-positions.ipynb) with steps in place of
# offsets. A pair is not a node: in the ring all nodes are alike, but node 0 still knows its two
# neighbours from the others. What it does not mend: mark one node of each board with another
# colour, draw $b$ at random, and compare what the nodes of both boards get.

# %%
torch.manual_seed(0)
blind = structures.RECIPES["graphs/distance"].model()
nn.init.normal_(blind.encoding.weight)
said = []
for graph in (rook, shrikhande, networkx.cycle_graph(16)):
    blind.encoding.distance = positions.graph_distances(graph)
    with torch.no_grad():
        said.append(blind((torch.arange(16) == 0).long()[None])[0].sort(0).values)  # (16 nodes, 2)
claim("Rook's graph against Shrikhande, seen through a distance bias: largest difference.",
      (said[0] - said[1]).abs().max().round(decimals=3), below=0.002, source="this notebook", id=85)
claim("The same for rook's graph against a ring of 16.", (said[0] - said[2]).abs().max(), above=0.005,
      source="this notebook")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Laplacian vectors
#
# The other way gives each node a vector. Let $A$ be the matrix of edges, shape $(n, n)$, 1 where two nodes are
# joined, and $D$ the diagonal matrix of degrees (numbers of neighbours). The normalised Laplacian is
#
# $$L = I - D^{-1/2} A\, D^{-1/2}$$
#
# Its eigenvectors with small eigenvalues change slowly from node to node along the edges. Node $v$ gets its
# entries in the first $k$ of them (without the very first). What does that give on a path of 40 nodes, which is
# a line, as in a text?

# %%
guess = predict(
    "The Laplacian vectors of a path are, along the path, ...",
    ["straight lines of different slope", "cosines of different wavelength", "one-hot: a node each"],
    id="13-path",
)
guess

# %%
n = 40
vectors = positions.laplacian_vectors(networkx.path_graph(n), 5).double()  # (40 nodes, 5 vectors)
place = torch.arange(n, dtype=torch.float64)
ends = torch.ones(n, dtype=torch.float64).index_fill_(0, torch.tensor([0, n - 1]), 0.5).sqrt()


def as_near_as(shapes):
    """1 if each vector is a multiple of its shape (size of the cosine between them, the least)."""
    return F.cosine_similarity(vectors, shapes, dim=0).abs().min().item()


like = [
    as_near_as((place - place.mean())[:, None].expand(-1, 5)),
    as_near_as(torch.stack([torch.cos(torch.pi * k * place / (n - 1)) * ends for k in range(1, 6)], 1)),
    as_near_as(torch.eye(n, dtype=torch.float64)[:, :5]),
]
fig, ax = plt.subplots(figsize=(8, 3), layout="constrained")
for k, (colour, style) in enumerate(zip(("#00224e", "#b8860b", "#7c7b78"), ("-", "--", ":"), strict=True)):
    ax.plot(vectors[:, k], style, color=colour, lw=2.5, label=f"vector {k + 1}")
ax.set(xlabel="node along the path", ylabel="entry")
ax.legend()
figure(fig, alt="The first three Laplacian vectors of a path of 40 nodes: half a wave, a whole wave, and one "
       "and a half waves of a cosine.")

# %%
guess.reveal(
    max(range(3), key=lambda i: like[i]),
    f"Vector k is a multiple of cos(π·k·node / {n - 1}), except that the two ends, with one neighbour each, are smaller by "
    "√2.",
)

# %%
claim("Laplacian vectors of a path against cosines (size of the cosine similarity, least of 5).", like[1],
      expect=1.0, atol=1e-6, source="this notebook", id=85)
minus = -vectors
edges = torch.tensor(networkx.to_numpy_array(networkx.path_graph(n)))
scale = edges.sum(-1) ** -0.5
laplacian = torch.eye(n) - scale[:, None] * edges * scale
values = (vectors * (laplacian @ vectors)).sum(0)
claim("With the opposite sign they are eigenvectors as good (largest error of L u = λ u).",
      (laplacian @ minus - minus * values).abs().max().round(decimals=6), below=1e-5, source="linear algebra", id=85)

# %% [markdown]
# So they are to a path what the sinusoidal code is to a text: waves of several lengths. Not the same waves: their
# lengths depend on the length of the path. And a text has a direction, a path has none. The sign of each vector is arbitrary, and in a ring even
# which two waves you get is: a model must not rely on it. In training one flips the signs at random.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Try it: a graph
#
# 1. A path of 8. Move *vectors* up: waves of shorter and shorter length. Whose distances are the same?
#    (The line below the drawing says it.)
# 2. Connect *a* and *h*: now it is a ring. All nodes have the same distances. Look at the bias: every row
#    is the first one, turned. (Undo.)
# 3. Disconnect two nodes in the middle. Which nodes have no path, and what becomes of their weights?
# 4. Let the head look for *its neighbours*: this is the head that the next task needs.
# 5. *Begin with* two triangles, bridged. Which nodes are alike?

# %%
StructureExplorer("graph", example="path", pairs="bias", selected=2,
                  controls=("kind", "example", "head", "sharpness", "pairs", "n_vectors"))

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Does it help?
#
# `tasks.Graphs` makes random graphs of 14 nodes, coloured 0 or 1 at random. Asked at each node: which colour
# have most of its neighbours? Four models of one layer: the distance bias; 8 Laplacian vectors (less than the whole graph) with signs
# flipped at random; a flat code of the node's number in the list, which does not know the edges and can only
# guess from the colours at large; and, to be fair, a flat code that gets the same information: the node's
# number and its row of the matrix $A$.

# %%
guess = predict(
    "After 400 steps, which are above 0.98 (mean of 5 seeds)?",
    [
        "only the distance bias",
        "only the Laplacian vectors",
        "all three that know the edges",
        "others, or none",
    ],
    id="13-graphs",
)
guess

# %%
by_graph = show("graphs")
recipe = structures.RECIPES["graphs/distance"]
model, losses = train(recipe, seed=0, label="training distance, seed 0")
again = recipe.scores(model)["colour"]
print(f"trained here: {again:.1f}")
print("b[steps] of the heads, 0 to 6 steps and no path, each against its mean:")
for row in (model.encoding.weight - model.encoding.weight.mean(0)).T.tolist():
    print("  ", [round(b) + 0 for b in row])

# %%
colour = {way: asked["colour"] for way, asked in by_graph.items()}
bias_, waves, rows, flat = (
    mean(colour[way]) for way in ("distance", "Laplacian", "flat, rows of edges", "flat")
)
known = (bias_, waves, rows)
guess.reveal(
    {(True, False, False): 0, (False, True, False): 1, (True, True, True): 2}.get(
        tuple(share > 0.98 for share in known), 3),
    f"Distance bias {bias_:.2f}, Laplacian vectors {waves:.2f}, rows of edges {rows:.2f}, flat {flat:.2f}. "
    "'One step away' is a single number of the bias. The others must build it from products of queries and "
    "keys.",
)

# %% slideshow={"slide_type": "subslide"}
figure(
    plots.by_seed({way.replace(", ", ",\n"): v for way, v in colour.items()}, "share right",
                  "colour of most neighbours (dots: seeds, line: mean)"),
    alt="Share of colours that are right. "
    + ", ".join(f"{way} {mean(v):.2f}" for way, v in colour.items()) + ".",
)

# %%
claim("Distance bias: share right, 5 seeds.", colour["distance"], above=0.98,
      source="python -m attnlab.structures graphs", id=85)
claim("The same, trained here.", again, above=0.95, source="this notebook", id=85)
claim("Laplacian vectors, 5 seeds.", colour["Laplacian"], between=(0.8, 0.98),
      source="python -m attnlab.structures graphs", id=85)
claim("Flat, without the edges: guessing, 5 seeds.", colour["flat"], below=0.8,
      source="python -m attnlab.structures graphs", id=85)
claim("Rows of edges after 1,200 steps against the distance bias after 400: how far behind, means of 5 seeds.",
      bias_ - mean(colour["flat, rows, longer"]), below=0.05,
      source="python -m attnlab.structures graphs")

# %% [markdown]
# With three times the steps the flat code that is told the edges nearly catches up. Its
# parameters belong to node numbers, though: there is a feature for each of the 14, and none for a 15th. The bias
# knows no numbers, and does not care in which order the nodes are listed.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Positions from the content
#
# "The third noun before this one": here the place is counted among certain tokens. How many words lie
# between does not matter. One proposal is
#
# $$PE_i = f(x_i,\ pos_i)$$
#
# with a trained function $f$ of the token's vector $x_i$ and its position $pos_i$. It is sometimes called
# "context-sensitive". Let $f$ be a small network with random parameters, and look at one word at one place
# in two different sentences.

# %%
guess = predict(
    "The word 'bank' stands at position 3 of two sentences with different other words. Its two codes are ...",
    ["the same", "different: they depend on the context", "the same only after training"],
    id="13-context",
)
guess

# %%
generator = torch.Generator().manual_seed(0)
words = torch.randn(50, 16, generator=generator)  # word vectors of a vocabulary of 50
f = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))  # reads x_i beside PE(pos_i)
place = Sinusoidal(16).table(torch.arange(6))  # (6 positions, 16)
river, money = torch.tensor([[1, 2, 3, 7, 4, 5], [11, 12, 13, 7, 14, 15]])  # 7 = "bank", position 3
codes = [f(torch.cat([words[ids], place], dim=-1))[3] for ids in (river, money)]  # (16,) each
fit(f, lambda: f(torch.cat([words[river], place], dim=-1)).square().mean(), steps=20, lr=0.01)
later = [f(torch.cat([words[ids], place], dim=-1))[3] for ids in (river, money)]
apart = [(a - b).abs().max().item() for a, b in (codes, later)]
print("largest difference of the two codes:", apart[0], "- after some training:", apart[1])

# %%
guess.reveal(
    1 if apart[1] > 0 else 0 if apart[0] == 0 else 2,
    "f reads one token and one number. Nothing of the other words enters it. The code depends on the token: "
    "that is content, but not context.",
)

# %%
claim("PE = f(x_i, pos_i): same word, same place, other context: difference of the codes.", apart,
      equals=0.0, source="this cell", id=86)
another = f(torch.cat([words[8], place[3]]))  # (16,)
claim("Another word at that place has another code (largest difference).",
      (later[0] - another).abs().max().item(), above=0.02, source="this cell", id=86)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Counting what matters
#
# **Contextual positions** (CoPE, Golovneva et al. 2024) do look at the context. Query $i$ opens a **gate**
# (not one of [notebook 4](04-which-heads-matter.ipynb): here a number from 0 to 1) at each key up
# to its own place, and the position of key $j$ is the number of open gates from $j$ to $i$:
#
# $$g_{ij} = \mathrm{sigmoid}\!\left(\frac{q_i \cdot k_j}{\sqrt{d_k}}\right), \qquad
#   p_{ij} = \sum_{m = j}^{i} g_{im}$$
#
# If gates are open at nouns only, $p_{ij} = 3$ is the third noun back (and what stands between it and
# the fourth). The bias is $q_i \cdot e[p_{ij}]$ with a trained table $e$. $p_{ij}$ need not be whole; between two
# rows of $e$ one interpolates, as in [notebook 8](08-putting-positions-in.ipynb). By hand: gates
# open at A, shut at dots.

# %%
text = "A . A . . A . A"
wanted = torch.tensor([40.0 if t == "A" else -40.0 for t in text.split()])  # q·k at each key
at = torch.arange(len(wanted))
count = Contextual(d_head=1).count(torch.ones(1, 1, 8, 1), wanted[None, None, :, None], at, at)
print("text:               ", text)
print("counted from the end:", *[round(p) for p in count[0, 0, -1].tolist()])
other = text.replace(". A .", "A A A", 1).split()
wanted2 = torch.tensor([40.0 if t == "A" else -40.0 for t in other])
count2 = Contextual(d_head=1).count(torch.ones(1, 1, 8, 1), wanted2[None, None, :, None], at, at)
print("text:               ", *other)
print("counted from the end:", *[round(p) for p in count2[0, 0, -1].tolist()])

# %%
claim("The last token counts 4 open gates back to the first A.", count[0, 0, -1, 0], expect=4.0, atol=1e-5,
      source="Golovneva et al. 2024, section 4", id=86)
claim("Other tokens between, another position of the same key.", count2[0, 0, -1, 0], expect=6.0, atol=1e-5,
      source="this notebook", id=86)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Does it help?
#
# `tasks.Recent`: items among fillers. Asked at each place: which was the third most recent item? Models are
# trained with half of the tokens fillers, 32 tokens long, and then tested on other shares, and on 128 tokens
# with 90 % fillers. There are 8 items: guessing gives 1/8. Counting with one layer of attention alone; RoPE with the same; RoPE, and the sinusoidal
# code, with two layers and a feed-forward part.

# %%
guess = predict(
    "RoPE with two layers, as trained (half fillers), and on long texts with 90 % fillers?",
    [
        "above 0.9 in both",
        "above 0.9 as trained, below 0.5 on the long texts",
        "below 0.5 in both",
        "in between",
    ],
    id="13-items",
)
guess

# %%
by_item = show("items")
recipe = structures.RECIPES["items/counted"]
model, losses = train(recipe, seed=0, label="training counted, seed 0")
again = recipe.scores(model)
print("trained here:", {what: round(share, 1) for what, share in again.items()})

# %%
usual, far = (mean(by_item["RoPE, 2 layers"][k]) for k in ("as trained", "long, 90 % fillers"))
guess.reveal(
    0 if min(usual, far) > 0.9 else 1 if usual > 0.9 and far < 0.5 else 2 if usual < 0.5 else 3,
    f"{usual:.2f} as trained, {far:.2f} on the long texts. Counting: "
    f"{mean(by_item['counted']['as trained']):.2f} and "
    f"{mean(by_item['counted']['long, 90 % fillers']):.2f}.",
)

# %% slideshow={"slide_type": "subslide"}
figure(
    plots.by_seed({way.replace(", ", ",\n"): v["long, 90 % fillers"] for way, v in by_item.items()},
                  "share right", "128 tokens, 90 % fillers (dots: seeds, line: mean)"),
    alt="Share of items right in 128 tokens with 90 per cent fillers. "
    + ", ".join(f"{way} {mean(v['long, 90 % fillers']):.2f}" for way, v in by_item.items()) + ".",
)

# %%
claim("Counting: share right on every test, 5 seeds.",
      [v for values in by_item["counted"].values() for v in values], above=0.95,
      source="python -m attnlab.structures items", id=86)
claim("Counting, trained here, on every test.", list(again.values()), above=0.9, source="this notebook", id=86)
claim("RoPE, one layer, as trained, 5 seeds.", by_item["RoPE"]["as trained"], below=0.75,
      source="python -m attnlab.structures items", id=86)
claim("RoPE and sinusoidal, two layers, on long texts with 90 % fillers, 5 seeds.",
      by_item["RoPE, 2 layers"]["long, 90 % fillers"] + by_item["flat, 2 layers"]["long, 90 % fillers"],
      below=0.6, source="python -m attnlab.structures items", id=86)

# %% [markdown] slideshow={"slide_type": "subslide"}
# What did the gates learn? Their means over 200 texts, in the model trained here:

# %%
ids, answers = tasks.Recent().batch(200, torch.Generator().manual_seed(1))
layer = model.layers[0]
with torch.no_grad():
    x = layer.attention_norm(model.words(ids))  # (200, 32 tokens, 32)
    q, k = x[:, None] @ layer.attention.w_q, x[:, None] @ layer.attention.w_k  # (200, 2, 32, 16) each
    gates = (q @ k.mT / 4).sigmoid()  # (200, 2 heads, query, key)
seen = torch.ones(32, 32, dtype=torch.bool).tril()
opened = []
for head in range(2):
    item, filler = (
        gates[:, head][seen & kind[:, None, :]].mean().item() for kind in (ids < 8, ids >= 8)
    )
    opened.append(item - filler)
    print(f"head {head}: mean gate at items {item:.1f}, at fillers {filler:.1f}")
claim("In the head that separates most, gates are more open at items than at fillers (difference).",
      max(opened), above=0.3, source="this notebook", id=86)

# %% [markdown]
# Nobody told the model which tokens are items. Two warnings. The task is made for counting; and CoPE needs all
# gates of a row before the first weight, so fast attention code that works through a row in pieces must be
# rewritten. And the two-layer models are no fools: what they were trained on they do nearly as well. The long
# texts ask two new things of them, more tokens and more fillers: we did not take these apart.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Positions from a network
#
# The last proposal: $PE = \mathrm{MLP}(\text{features of the position})$, a small network with trained
# parameters. "Features might include the absolute position." So feed it the number $pos/100$, and ask for
# something that a position code should be able to do, a wave: $\sin(0.5\,pos)$, for 128 positions. Compare
# with **Fourier features**, sines and cosines of $pos$ at 8 frequencies (those of notebook 7 for $d = 16$; 0.5 is none of them): always
# between −1 and 1. The network
# has 64 hidden units (ReLU) in both cases.

# %%
guess = predict(
    "After 600 steps, does it fit the 128 positions (mean squared error below 0.01)?",
    ["only Fourier features", "only the raw number", "both do", "neither"],
    id="13-mlp",
)
guess

# %%
inside, beyond = torch.arange(128), torch.arange(128, 256)
errors = {"raw": [], "fourier": []}  # of each seed: (inside, beyond)
lines, bends = {}, []
for features, seed in itertools.product(errors, range(3)):
    torch.manual_seed(seed)
    network = FunctionOfPosition(16, features)
    wave = torch.sin(0.5 * inside)[:, None]
    fit(network, lambda: F.mse_loss(network.table(inside)[:, :1], wave), steps=600, lr=0.01)  # noqa: B023
    with torch.no_grad():
        errors[features].append([
            F.mse_loss(network.table(at)[:, 0], torch.sin(0.5 * at)).item() for at in (inside, beyond)
        ])
        lines[features] = network.table(torch.arange(256))[:, 0]
        if features == "raw":
            bends.append(lines[features][140:].diff(n=2).abs().max().item())
for features, found in errors.items():
    print(f"{features:8} error inside at most {max(e[0] for e in found):.6f}, beyond at least "
          f"{min(e[1] for e in found):.1f}")

# %%
fits = [max(e[0] for e in errors[features]) < 0.01 for features in ("raw", "fourier")]
guess.reveal(
    {(False, True): 0, (True, False): 1, (True, True): 2, (False, False): 3}[tuple(fits)],
    "A network on one raw number learns slow functions first (spectral bias). 600 steps did not reach this wave.",
)

# %% slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained", sharey=True)
for ax, features in zip(axes, lines, strict=True):
    ax.plot(torch.sin(0.5 * torch.arange(256)), ":", color="#7c7b78", label="wanted")
    ax.plot(lines[features], color="#00224e" if features == "raw" else "#b8860b", lw=2, label=features)
    ax.axvline(127.5, color="black", lw=1, ls="--")
    ax.set(xlabel="position (trained left of the line)", ylim=(-3, 3))
    ax.legend()
axes[0].set_ylabel("value")
figure(fig, alt="Left, raw number: hardly a wave inside, a straight line beyond the training length. Right, "
       "Fourier features: the wave inside, a wrong curve beyond.")

# %%
claim("Raw number: mean squared error inside, 3 seeds (0.5 is as good as saying 0).",
      [e[0] for e in errors["raw"]], above=0.1, source="Rahaman et al. 2019", id=87)
claim("Fourier features: inside.", [round(e[0], 5) for e in errors["fourier"]], below=0.01,
      source="Tancik et al. 2020", id=87)
claim("Raw number, far beyond training: the largest bend, 3 seeds. ReLU networks go on as straight lines.",
      bends, below=0.01, source="Xu et al. 2021", id=87)
claim("Fourier features, beyond: the wave does not go on (error, 3 seeds).", [e[1] for e in errors["fourier"]],
      above=0.1, source="this notebook", id=87)

# %% [markdown] slideshow={"slide_type": "subslide"}
# So it is the *features* that matter. **FIRE** (Li et al. 2024) chooses one number that stays between 0 and 1 at
# every length: the distance as a share of what the query has before it, on a logarithmic scale,
#
# $$\frac{\log(c\,(i - j) + 1)}{\log(c \max(i, L) + 1)}$$
#
# with trained $c$ and $L$. An MLP makes a bias of it. A longer text then brings no input outside
# the range from 0 to 1.

# %%
fire = positions.FIRE(n_heads=1, length=64.0)
c = fire.log_c.exp().item()
for length in (64, 1024, 65536):
    i = torch.tensor(length - 1.0)  # the last query
    j = torch.linspace(0, length - 1, 64)  # 64 keys, from the first to the last
    share = torch.log(c * (i - j) + 1) / torch.log(c * i.clamp(min=64) + 1)
    print(f"{length:6} tokens: the feature lies between {share.min():.2f} and {share.max():.2f}")
caught = []
fire.mlp.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0].flatten()))
fire.bias(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 64, 2), i[None], j)
claim("attnlab's FIRE reads this feature, here at 65,536 tokens (largest difference).",
      (caught[0] - share).abs().max(), below=1e-5, source="attnlab", id=87)
claim("FIRE's feature at 65,536 tokens.", share, between=(0, 1), source="Li et al. 2024, section 3.2", id=87)

# %% [markdown]
# Bounded inputs are not yet good answers: the Fourier features were bounded too. How to measure an encoding on
# longer texts was the subject of [notebook 12](12-beyond-training-length.ipynb).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 13.1: count the codes &nbsp; (●○○, 5 minutes)
#
# Triples with entries from 0, 1, 2, 3: there are 64. How many different codes does the plain sum of three
# sinusoidal codes give them?

# %% tags=["exercise"]
# BEGIN SOLUTION
# BLANK: codes = ...  # a number
codes = 20
# END SOLUTION

# %%
check("13.1", codes)

# %% [markdown] tags=["hint"]
# Two triples get the same code if one is the other in another order. Count the triples in ascending order.

# %% [markdown] tags=["hint"]
# All three alike: 4. Two alike and one other: 4 · 3. All different: 4. Or let Python count:
# `len({tuple(sorted(t)) for t in itertools.product(range(4), repeat=3)})`.

# %% [markdown]
# ### Exercise 13.2: the path of a node &nbsp; (●●○, 10 minutes)
#
# `parents[i]` is the parent of node i, -1 for the root. Children of a node are numbered from 0, in the order
# in which they stand in the list. Return the child numbers on the way from the root to `node`.

# %% tags=["exercise"]
def path(parents, node):
    """parents: list of whole numbers, node: a number -> list of child numbers; [] for the root."""
    # BEGIN SOLUTION
    steps = []
    while parents[node] >= 0:
        siblings = [i for i, p in enumerate(parents) if p == parents[node]]
        steps.append(siblings.index(node))
        node = parents[node]
    return steps[::-1]
    # END SOLUTION


# %%
check("13.2", path)

# %% [markdown] tags=["hint"]
# Go up from the node: which of its parent's children is it? Then ask the same of the parent, until the root.

# %% [markdown] tags=["hint"]
# Going up you find the last step first. Turn the list round at the end: `steps[::-1]`.

# %% [markdown]
# ### Exercise 13.3: a bias from steps &nbsp; (●●○, 8 minutes)
#
# `steps[i, j]` is the number of steps between two nodes, -1 where no path joins them. `b` has one number for
# 0, 1, ..., D steps and a last one for "no path". More than D steps count as D. Return the bias.

# %% tags=["exercise"]
def graph_bias(steps, b):
    """steps (n, n) whole numbers, b (D + 2,) -> (n, n)."""
    # BEGIN SOLUTION
    most = len(b) - 2
    row = torch.where(steps < 0, most + 1, steps.clamp(max=most))
    return b[row]
    # END SOLUTION


# %%
check("13.3", graph_bias)

# %% [markdown] tags=["hint"]
# First make the number of the row of `b` for each pair; then `b[row]` looks all of them up at once.

# %% [markdown] tags=["hint"]
# D is `len(b) - 2`. `steps.clamp(max=D)` leaves -1 as it is, and `b[-1]` is the last number.

# %% [markdown]
# ### Exercise 13.4: contextual positions &nbsp; (●●●, 12 minutes)
#
# `gates[i, m]` is the gate that query i opens at key m, given for all keys. Return $p_{ij}$, the sum of the
# gates from key j to key i, both included. Keys after the query get 0.

# %% tags=["exercise"]
def contextual(gates):
    """gates (n, n) between 0 and 1 -> p (n, n)."""
    # BEGIN SOLUTION
    return gates.tril().flip(-1).cumsum(-1).flip(-1)
    # END SOLUTION


# %%
check("13.4", contextual)

# %% [markdown] tags=["hint"]
# `cumsum` adds up from the left, and you need sums from the right: turn the rows round with `flip(-1)`.

# %% [markdown] tags=["hint"]
# Shut the gates after the query before you add: `gates.tril()`. Then flip, cumsum, flip back.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | structure | code | what it cannot do | what we measured |
# |---|---|---|---|
# | levels | disjoint features, or rotated | place in the whole text | the plain sum mixes levels; disjoint saves layers or steps |
# | tree | stack of child numbers | unbounded depth or arity | moves are matrices; flat with brackets got there with a second layer and more steps |
# | graph, pairs | $b_h[\text{steps}]$ | tell rook from Shrikhande | best on the neighbours; order of nodes plays no part |
# | graph, nodes | Laplacian vectors | fix signs, or bases of repeated eigenvalues | cosines on a path |
# | content | counting gates | work through a row in pieces | counts among fillers at shares never seen |
# | $f(x_i, pos_i)$ | any network | see the context | same word, same place: same code |
# | MLP of position | Fourier or bounded features | promise anything beyond training | raw numbers: no waves, straight lines beyond |
#
# ### Questions
#
# *How should position encoding be designed for hierarchical or structured data?* (Review question 8 of the
# course.) Give each level, step or distance directions of its own, so that they cannot be mixed up (960
# codes against 320). Choose what the task asks for, so that it is one match of a query and a key: "w = 0 and
# c = 0", "the parent's stack", "one step away". Where nodes have no order, use none: a bias on pairs. Then
# compare with a flat code that has the same information, more layers, or more steps: with letters and trees it
# got there, with graphs it came close, and with items only at the share of fillers that it was trained on.
# Structure saves layers or training, if it is known and right.
#
# ### Common misconceptions
#
# - "Add the codes of all levels": with one table for all, (2, 5, 0) and (5, 2, 0) are the same.
# - "A tree position is the path of labels": siblings with the same label collide.
# - "Shortest paths identify a node": in a ring all nodes have the same list, and two different graphs can.
# - "f(x, pos) is context-sensitive": it sees the token only.
# - "A network can learn any position function": which one it learns in time depends on its features.
# - "Flat encodings cannot learn structure": with a layer and steps more ours did.
#
# ### Further reading
#
# - Shiv and Quirk 2019, *Novel positional encodings to enable tree-based transformers*: section 3.
# - Ying et al. 2021, *Do Transformers Really Perform Bad for Graph Representation?* (Graphormer): section 3.1.
# - Dwivedi and Bresson 2020, *A Generalization of Transformer Networks to Graphs*: section 2.1.
# - Zhu et al. 2023, *On Structural Expressive Power of Graph Transformers*: what distances can tell apart.
# - Golovneva et al. 2024, *Contextual Position Encoding*: section 4, and section 5 for counting tasks.
# - Liu et al. 2020, *Learning to Encode Position for Transformer with Continuous Dynamical Model*
#   (FLOATER), and Chu et al. 2021, *Conditional Positional Encodings for Vision Transformers*:
#   positions made by a system, or by a convolution over the content.
# - Tancik et al. 2020, *Fourier Features Let Networks Learn High Frequency Functions*; Rahaman et al. 2019;
#   Xu et al. 2021, section 3, on straight lines beyond the data.
# - Li et al. 2024, *Functional Interpolation for Relative Positions* (FIRE): section 3.2.
#
# **Next:** [notebook 14](14-what-attention-costs.ipynb): what all of this costs. Back to
# [the start](00-start-here.ipynb).
