# %% [markdown] slideshow={"slide_type": "slide"}
# # 1. One head
#
# **What can a single attention head do, and what can it not do, however long you train it?**
#
# When you have worked through this notebook you can
#
# - compute scaled dot-product attention by hand and in code, and give the shape of every array;
# - say along which axis the softmax runs and what the tokens compete for;
# - explain where $\sqrt{d_k}$ comes from, and when the explanation stops being true;
# - show with an experiment a task that one head fails and two heads of the same total width solve;
# - tell a limit of the scores (their rank) from a limit of the weights.
#
# *You need:* matrix products, softmax, Python. *To study:* 75 minutes. *To lecture:* 40 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import attnlab
from attnlab import plots, stats, tasks
from attnlab.exercises import check
from attnlab.explorers import AttentionExplorer
from attnlab.teach import claim, figure, predict, progress
from attnlab.train import fit

torch.manual_seed(0);

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A token asks, the others answer
#
# A sentence is a list of $n$ tokens; token $i$ is a vector $x_i$ of $d_{model}$ numbers. Stacked as
# rows they are the matrix $X$, of shape $(n, d_{model})$.
#
# An attention head lets every token collect information from all tokens, itself included. It has
# three matrices of parameters, each of shape $(d_{model}, d_k)$, and every token uses them to play
# three parts:
#
# | part | formula | meaning |
# |---|---|---|
# | query | $q_i = x_i W^Q$ | what token $i$ is looking for |
# | key | $k_j = x_j W^K$ | what token $j$ has to offer |
# | value | $v_j = x_j W^V$ | what token $j$ hands over when it is chosen |
#
# A query, a key and a value have $d_k$ entries each. Code calls this number `d_head`.
#
# With them, three steps lead to the output:
#
# $$\underbrace{s_{ij} = \frac{q_i \cdot k_j}{\sqrt{d_k}}}_{\text{score}} \qquad
# \underbrace{a_{ij} = \frac{e^{s_{ij}}}{\sum_{j'} e^{s_{ij'}}}}_{\text{weight}} \qquad
# \underbrace{o_i = \sum_j a_{ij}\, v_j}_{\text{output}}$$
#
# A *score* is any real number. A *weight* lies between 0 and 1. Query $i$ belongs to a row, key $j$
# to a column. Stack the queries as the rows of a matrix $Q$, the keys as those of $K$, the values as
# those of $V$. Then for all tokens at once
# $O = \mathrm{softmax}\!\left(QK^\top/\sqrt{d_k}\right)V$, with the softmax taken row by row.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### By hand, with three tokens
#
# Three tokens, $d_k = 2$, and numbers small enough to check on paper. To keep it short we write
# down queries, keys and values directly.

# %%
tokens = ["She", "eats", "fish"]
q = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])  # (3 queries, d_k = 2)
k = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # (3 keys,    d_k = 2)
v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])  # (3 values,  d_k = 2)

scores = q @ k.T / math.sqrt(2)  # (3 queries, 3 keys)
weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)  # (3 queries, 3 keys)
out = weights @ v  # (3 queries, d_k)
print("scores\n", scores.numpy().round(2))
print("weights\n", weights.numpy().round(2))
print("output\n", out.numpy().round(2))

# %% [markdown]
# Check one number yourself. Token "eats" has the query $(1, 1)$. Its products with the three keys
# are $2, 1, 2$; divided by $\sqrt 2$ they are $1.41, 0.71, 1.41$. The exponentials are
# $4.11, 2.03, 4.11$, their sum is $10.25$, and so the weights are $0.40, 0.20, 0.40$: the middle row.

# %% slideshow={"slide_type": "subslide"}
figure(
    plots.weight_maps(weights[None], tokens, numbers=True),
    alt="A 3 by 3 table of weights for the tokens She, eats, fish: each row is a query, each "
    "column a key. The row of eats holds 0.40, 0.20 and 0.40.",
)

# %% [markdown]
# The picture reads row by row: a row belongs to one token that asks, and shows how it divides its
# attention. Bright is much, dark is little.
#
# ### The same thing in a library
#
# `attnlab` adds two axes in front, since a model works on many sentences and many heads at once:
# every tensor is `(batch, heads, tokens, d_head)` and the weights are `(batch, heads, query, key)`.
# Here both are 1. PyTorch has its own implementation; all three must agree.

# %%
batch_q, batch_k, batch_v = (t[None, None] for t in (q, k, v))  # (1, 1, 3, 2)
library, library_weights = attnlab.scaled_dot_product_attention(
    batch_q, batch_k, batch_v, return_weights=True
)
from_torch = F.scaled_dot_product_attention(batch_q, batch_k, batch_v)
print("shapes:", tuple(library.shape), tuple(library_weights.shape))
claim(
    "Our three lines, attnlab and PyTorch compute the same output.",
    [(out - library[0, 0]).abs().max(), (out - from_torch[0, 0]).abs().max()],
    below=1e-6,
    source="Vaswani et al. 2017, equation 1",
    id=11,
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Who competes with whom?

# %%
guess = predict(
    "We raise one score: that of the query 'eats' and the key 'fish'. Which other weights change?",
    ["the rest of the row of 'eats'", "the rest of the column of 'fish'", "both", "no other"],
    id="01-rows",
)
guess

# %%
raised = scores.clone()
raised[1, 2] += 1.0  # query "eats", key "fish"
changed = (raised.softmax(dim=-1) - weights).abs() > 1e-6  # (3 queries, 3 keys)
print("changed weights\n", changed.numpy())
in_row, in_column = bool(changed[1, :2].all()), bool(changed[[0, 2], 2].any())

# %%
guess.reveal(
    {(True, False): 0, (False, True): 1, (True, True): 2, (False, False): 3}[in_row, in_column],
    "The softmax runs over the keys, the last axis (`dim=-1`): each query divides one unit of "
    "attention. What 'fish' gains, the other keys of this row lose.",
)

# %% [markdown]
# So the sums of the rows are fixed, and those of the columns are not:

# %%
row_sums, column_sums = weights.sum(dim=-1), weights.sum(dim=-2)
print("rows   ", row_sums.numpy().round(3), "\ncolumns", column_sums.numpy().round(3))
claim("Every row of the weights sums to 1 (sum of each row).", row_sums, expect=1.0, atol=1e-6,
      source="definition of softmax", id=7)
claim("The columns do not (largest distance of a column's sum from 1).",
      (column_sums - 1).abs().max(), above=0.05, source="this cell", id=11)

# %% [markdown]
# So the keys compete, once for every query: a key gains only what another key loses. A key may
# receive much from many queries, or hardly anything from anybody. Each head holds its own
# competition.
#
# How evenly does a query divide its unit? **Entropy** measures it: for the row of query $i$
#
# $$H_i = -\sum_j a_{ij} \log a_{ij}\,,$$
#
# in *nats*. It is 0 when one key gets everything, and $\log n$ when all $n$ keys get the same: then
# the row is called *uniform*. Some texts say that a single head has a "uniform attention pattern".
# Look at one, with random queries and keys:

# %%
guess = predict(
    "16 tokens, random queries and keys. What do the 16 rows of weights of one head look like?",
    ["uniform: every weight is near 1/16", "not uniform, but all rows are alike: one head, one pattern",
     "each row has a pattern of its own"],
    id="01-uniform",
)
guess

# %%
generator = torch.Generator().manual_seed(1)
random_q, random_k = (torch.randn(1, 1, 16, 8, generator=generator) for _ in range(2))
one_head = attnlab.attention_weights(random_q, random_k)[0, 0]  # (16 queries, 16 keys)
entropies = stats.entropy(one_head)
print(f"entropy of 16 rows: {entropies.min():.2f} to {entropies.max():.2f} nats; uniform would be "
      f"log 16 = {math.log(16):.2f}")
shortfall = (math.log(16) - entropies).mean()
apart = (one_head[:, None] - one_head[None, :]).abs().max()  # of two rows, at some key

# %%
guess.reveal(
    0 if shortfall < 0.05 else 1 if apart < 0.05 else 2,
    "What is one and the same for the whole head is something else: all numbers of a query's output "
    "are averaged with the same row.",
)

# %%
claim(
    "The rows of one head are not uniform: the entropy lies below log n (difference, mean over rows).",
    shortfall,
    above=0.1,
    source="definition of entropy; random queries and keys",
    id=6,
)
claim(
    "The rows of one head differ from query to query (largest difference between two rows).",
    apart,
    above=0.2,
    source="the same head",
    id=6,
)

# %% [markdown]
# What is true is this: **in one head a query has one row of weights, and every number of its output
# is averaged with these same weights.** Keep that sentence; it returns below as the bottleneck.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Why divide by $\sqrt{d_k}$?

# %%
guess = predict(
    "The 64 entries of q and of k are independent random numbers with mean 0 and variance 1. "
    "How large is q·k typically (its standard deviation)?",
    ["1", "8", "64"],
    id="01-scale",
)
guess

# %%
generator = torch.Generator().manual_seed(2)
products, spread = {}, {}
for d_k in (16, 64, 256, 1024):
    qs, ks = torch.randn(2000, d_k, generator=generator), torch.randn(256, d_k, generator=generator)
    products[d_k] = qs @ ks.T  # (2000 queries, 256 keys)
    spread[d_k] = products[d_k].std().item()
    print(f"d_k = {d_k:4}: std of q·k {spread[d_k]:5.1f}, of q·k/sqrt(d_k) "
          f"{spread[d_k] / math.sqrt(d_k):.2f}")

# %%
guess.reveal(
    min(range(3), key=lambda i: abs(math.log(spread[64] / (1, 8, 64)[i]))),
    "q·k is a sum of 64 products, each of variance 1. Variances of independent terms add up to 64, "
    "so the standard deviation is the root, 8. Dividing by the root brings it back to 1.",
)

# %%
claim(
    "For independent entries of variance 1, the standard deviation of q·k is the root of d_k "
    "(ratio of the two, for d_k = 16, 64, 256, 1024).",
    [s / math.sqrt(d) for d, s in spread.items()],
    expect=1.0,
    rtol=0.05,
    source="Vaswani et al. 2017, footnote 4",
    id=12,
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Large scores are a problem because of what the softmax does with them. The derivative of a weight
# by its own score is $a(1 - a)$, and gradients reach the scores only through such derivatives: where
# they are 0, training cannot move the scores any more. Summed over a row, $\sum_j a_{ij}(1 - a_{ij})$
# is near 1 when the weights are spread out, and near 0 when one key has everything. We call it the
# room left for learning.

# %%
room = {
    d_k: [
        (a * (1 - a)).sum(dim=-1).mean().item()
        for a in (product.softmax(dim=-1), (product / math.sqrt(d_k)).softmax(dim=-1))
    ]
    for d_k, product in products.items()
}
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
sizes = list(room)
ax.plot(sizes, [room[d][0] for d in sizes], "o-", color="#00224e", label="softmax(q·k)")
ax.plot(sizes, [room[d][1] for d in sizes], "s--", color="#b8860b", label="softmax(q·k / √d_k)")
ax.set_xscale("log", base=2)
ax.set_xticks(sizes, sizes)
ax.set_ylim(0, 1.05)
ax.set_xlabel("d_k")
ax.set_ylabel("Σ a(1 − a), mean over rows")
ax.legend()
figure(
    fig,
    alt="Room left for learning against d_k from 16 to 1024. Without the division it falls from "
    "about 0.66 to below 0.1; with the division it stays at 0.99.",
)
claim(
    "Without the division almost no room is left at d_k = 1024 (Σ a(1 − a), mean over rows).",
    room[1024][0],
    below=0.15,
    source="this cell",
    id=12,
)
claim(
    "With the division there is room at all four sizes (Σ a(1 − a), mean over rows).",
    [r[1] for r in room.values()],
    above=0.95,
    source="this cell",
    id=12,
)

# %% [markdown]
# **When this stops being true.** The argument needs independent entries, and only a fresh model has
# them. If queries and keys are alike, their product grows like $d_k$ itself and the root is too
# little. The extreme case is one shared matrix, $W^Q = W^K$: then a token's query equals its own key,
# and $q\cdot k$ is a sum of $d_k$ squares, about $d_k$ and not $\sqrt{d_k}$. For $d_k = 64$, about
# $64/\sqrt{64} = 8$ remains after the division.

# %%
generator = torch.Generator().manual_seed(3)
x = torch.randn(2000, 64, generator=generator)
w = torch.randn(64, 64, generator=generator) / 8  # so that the entries of x @ w have variance 1
tied = (x @ w) @ (x @ w).T / math.sqrt(64)  # (2000 queries, 2000 keys)
others = tied[~torch.eye(2000, dtype=torch.bool)]
print(f"score of a token with itself {tied.diag().mean():.1f}, "
      f"spread of its scores with others {others.std():.1f}")
claim(
    "With W_Q = W_K, the score of a token with itself stands several spreads above the rest, in "
    "spite of the division (in standard deviations of the others).",
    tied.diag().mean() / others.std(),
    above=4.0,
    source="Yang et al. 2022 (on scaling by 1/d for correlated q and k)",
    id=12,
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: one head under your hand
#
# Every word gets a fixed random vector; $W^Q$ and $W^K$ are random too. (You met a trained model in
# [notebook 0](00-start-here.ipynb).) Move one control at a time:
#
# 1. **Temperature** divides the scores before the softmax. Pull it down: each row collapses on its
#    largest score. Push it up: the rows go towards uniform. Watch the entropy.
# 2. **d_head** is $d_k$. The scores are divided by its root. Does the picture become sharper as
#    $d_k$ grows? What would it do without the division?
# 3. **d_model** is the number of entries of a token's vector. Does anything become sharper?
# 4. **Causal mask**: a token may look at itself and back, not ahead. What must the first row be?
#
# Point at a square, or walk there with the arrow keys, to read the weight.

# %%
AttentionExplorer(
    "She eats fish and the cat eats the mouse",
    source="random",
    n_heads=1,
    d_model=64,
    d_head=16,
    encoding="none",
    controls=("text", "d_head", "d_model", "temperature", "causal"),
)

# %% [markdown]
# Did you notice that equal words have equal rows and equal columns? Nothing here knows where a word
# stands. That is the subject of [notebook 6](06-the-order-problem.ipynb).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The bottleneck: seen, but not told apart
#
# "eats" wants to know two things: who eats, and what is eaten. One head has one row of weights, but a
# row can hold two tokens: one half on "She", one half on "fish". So what is lost?

# %%
guess = predict(
    "A head puts weight 0.5 on the place before the verb and 0.5 on the place after it. We swap "
    "the two words: 'fish eats She'. What happens to its output at 'eats'?",
    ["it changes: the first word counts more", "its two halves change places", "nothing"],
    id="01-swap",
)
guess

# %%
generator = torch.Generator().manual_seed(4)
she, eats, fish = torch.randn(3, 64, generator=generator)  # three token vectors, d_model = 64
w_v = torch.randn(64, 64, generator=generator) / 8
half = torch.tensor([0.5, 0.0, 0.5])  # the row of weights of the verb, by place
output = half @ torch.stack([she, eats, fish]) @ w_v
swapped = half @ torch.stack([fish, eats, she]) @ w_v
difference = (output - swapped).abs().max().item()
halves = (output - swapped.roll(32)).abs().max().item()  # first half against second half
print(f"largest change of an entry: {difference}")

# %%
guess.reveal(
    2 if difference == 0 else 1 if halves == 0 else 0,
    "Both words go through the same W_V and are averaged. The average of She and fish is the "
    "average of fish and She.",
)
claim(
    "A head that weighs two places alike cannot tell which word stands in which place.",
    difference,
    equals=0.0,
    source="o = (Σ a_j x_j) W_V; swapping two x_j with equal a_j",
    id=4,
)

# %% [markdown]
# The head is not blind to the words. It is blind to **which word has which role**. Vectors for
# positions, added to the words, change nothing about it: the average of all four vectors is the same.
# Two heads are not blind: each picks one place and has its own $W^V$, and their outputs stand side by
# side.
#
# "Then let it use 0.6 and 0.4", you may say. Let us see whether training finds such a way out.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The task: who did what
#
# A sentence consists of random filler words and a verb. The word before the verb is the subject,
# the word after it the object: two *roles*. **Both come from the same list of words**, so that only
# the place tells which is which. Standing at the verb, report both.

# %%
task = tasks.Roles(n_words=20)
ids, verb, roles = task.batch(3, torch.Generator().manual_seed(0))
for sentence, (subject, object_) in zip(ids.tolist(), roles.tolist(), strict=True):
    kind = [f"w{t}" if t < 20 else "·" if t < 25 else "VERB" for t in sentence]
    print(f"{' '.join(kind):50} subject w{subject}, object w{object_}")
print(f"guessing: one pair in {20 * 20}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Experiment 1: heads that look by place
#
# First, heads whose weights depend on the place alone. We leave the fillers out: a sentence is only
# the words at the places, two of them or, to make it harder, four. A head has one trained score for
# each place. Its values are vectors of the words. A linear layer, the *read-out*, gives every word a
# score for every role. One head has all 32 entries, two heads have 16 each, four heads 8: **the total
# width is the same**.

# %%
WIDTH = 32


class PlaceHeads(nn.Module):
    """Heads that see where a word stands, and hand on which word it is."""

    def __init__(self, n_words, n_places, n_heads):
        super().__init__()
        self.n_heads, self.answer = n_heads, (n_places, n_words)
        self.scores = nn.Parameter(0.1 * torch.randn(n_heads, n_places))
        self.words = nn.Embedding(n_words, WIDTH)  # the values of all heads, side by side
        self.read = nn.Linear(WIDTH, n_places * n_words)

    def forward(self, words):  # (batch, places)
        v = self.words(words).unflatten(-1, (self.n_heads, -1))  # (batch, places, heads, d_head)
        a = self.scores.softmax(dim=-1)  # (heads, places)
        heads = torch.einsum("hp,bphd->bhd", a, v)  # weighted average over the places, per head
        return self.read(heads.flatten(1)).unflatten(-1, self.answer)  # (batch, places, n_words)


def train_place_heads(n_places, n_heads, seed, n_words=20):
    """Share of sentences with every role right; share in which all read-outs name one word."""
    torch.manual_seed(seed)
    model = PlaceHeads(n_words, n_places, n_heads)
    generator = torch.Generator().manual_seed(seed)

    def draw(size):
        return torch.randint(n_words, (size, n_places), generator=generator)

    def loss():
        words = draw(256)
        return F.cross_entropy(model(words).flatten(0, 1), words.flatten())

    fit(model, loss, steps=600, lr=0.02)
    words = draw(4000)
    with torch.no_grad():
        named = model(words).argmax(-1)  # (4000, places): the word that each read-out names
    correct = (named == words).all(-1).float().mean().item()
    return correct, (named == named[:, :1]).all(-1).float().mean().item()


SEEDS = range(5)
settings = [(places, heads) for places in (2, 4) for heads in (1, 2, 4)]
place_runs = {
    setting: [train_place_heads(*setting, seed) for seed in SEEDS]
    for setting in progress(settings, "settings trained, 5 seeds each")
}
place_results = {setting: [r for r, _ in runs] for setting, runs in place_runs.items()}

# %%
for places in (2, 4):
    columns = {f"{h} head" + "s" * (h > 1): place_results[places, h] for h in (1, 2, 4)}
    ranges = ", ".join(f"{h}: {min(r):.2f} to {max(r):.2f}" for h, r in columns.items())
    figure(
        plots.by_seed(columns, "share with all roles right", f"{places} roles to report"),
        alt=f"Share of sentences with all {places} roles right, five seeds each, for 1, 2 and 4 "
        f"heads of the same total width. {ranges}.",
    )

# %% [markdown]
# A dot is one training run with its own seed; the bar is their mean. With two roles to report, one
# head stays near the bottom and two heads are perfect, every time. With four roles, two heads are
# not enough and their luck varies; four heads do it.

# %%
claim("Two roles, one head: fails in every run (share of sentences with all roles right).",
      place_results[2, 1], below=0.5, source="experiment 1", id=4)
claim("Two roles, two heads of the same total width: solved in every run (the same share).",
      place_results[2, 2], above=0.95, source="experiment 1", id=4)
claim("Four roles, one head: fails in every run (the same share).",
      place_results[4, 1], below=0.1, source="experiment 1", id=4)
claim("Four roles, four heads: solved (the same share, mean over the runs).",
      sum(place_results[4, 4]) / len(SEEDS), above=0.9, source="experiment 1", id=4)

# %% [markdown]
# Why so bad? The head sees both words, so a toss of a coin would be right every second time. See how
# often the single head's two read-outs name **the same word**:

# %%
print("both read-outs name one word:", [f"{same:.0%}" for _, same in place_runs[2, 1]])
claim("The single head's read-outs name one and the same word for both roles in most sentences.",
      [same for _, same in place_runs[2, 1]], above=0.5, source="experiment 1", id=4)

# %% [markdown]
# As long as they do, the answer is right only when subject and object happen to be the same word, in
# one sentence out of 20.
#
# **Why a single head that looks by place cannot be right on every pair.** Say the head puts weight $a$ on the subject
# and $1-a$ on the object. All that a read-out learns about the sentence is a list $u$: it has $a$ at
# the subject, $1-a$ at the object and 0 at every other word. The read-out is linear in $u$. Suppose
# the subject's read-out were right on every pair of different words.
#
# 1. Rename the words, in the sentences and in the read-out: it is still right on every pair.
# 2. Average the read-outs of all renamings: each ranks the right word first, so the average does.
# 3. The average treats all words alike, so word $w$ gets the score $c\,u_w$ plus a number that is the
#    same for all words.
# 4. If $c > 0$, the word with the larger weight wins; if $c < 0$, a word that is not in the sentence;
#    if $c = 0$, all tie. So $c > 0$.
#
# The same holds for the object's read-out, with a $c' > 0$ of its own. Both name the word with the
# larger weight (with equal weights, both words tie), so one of them is wrong after all. Weights of 0.6
# and 0.4 do not help.
#
# It also explains why training ends where it does. The loss is convex in the read-outs, so averaging
# over all renamings never raises it, and the average is just the read-out that names one word twice.
# A head could be right *more often*, by treating some words better than others: with a subject's
# read-out that prefers word 1 to word 2 to word 3 … and an object's that prefers them the other way
# round, it would have one order of each pair right. Longer training moves a little in that direction.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Experiment 2: ordinary heads
#
# Now real attention, where the weights come from queries and keys, and whole sentences with
# fillers. Each token is a word vector plus a trained vector for its position
# ([notebook 8](08-putting-positions-in.ipynb)). The proof above no longer holds, since an ordinary
# head may let its weights depend on the *words*. We use 60 words here.

# %%
task = tasks.Roles(n_words=60)


class Reporter(nn.Module):
    """Vectors for words and positions, one layer of attention from the verb, two read-outs."""

    def __init__(self, n_heads):
        super().__init__()
        self.words = nn.Embedding(task.vocab_size, WIDTH)
        self.positions = attnlab.positions.Learned(task.length, WIDTH, std=0.5)
        self.attention = attnlab.MultiHeadAttention(WIDTH, n_heads, bias=False)
        self.read = nn.Linear(WIDTH, 2 * task.n_words)

    def forward(self, ids, verb):  # (batch, n), (batch,)
        x = self.positions.embed(self.words(ids), torch.arange(ids.shape[1]))  # (batch, n, WIDTH)
        at_verb = x[torch.arange(len(ids)), verb][:, None]  # (batch, 1, WIDTH): only the verb asks
        out, weights = self.attention(at_verb, context=x, return_weights=True)
        out = at_verb + out  # the verb's own vector stays (the residual connection, notebook 2)
        return self.read(out[:, 0]).unflatten(-1, (2, task.n_words)), weights[:, :, 0]


def train_reporter(n_heads, seed):
    """What one trained model does, over 4,000 sentences."""
    torch.manual_seed(seed)
    model, generator = Reporter(n_heads), torch.Generator().manual_seed(seed)

    def loss():
        ids, verb, roles = task.batch(128, generator)
        return F.cross_entropy(model(ids, verb)[0].flatten(0, 1), roles.flatten())

    fit(model, loss, steps=1200, lr=0.01)
    ids, verb, roles = task.batch(4000, torch.Generator().manual_seed(99))
    row = torch.arange(len(ids))
    swapped = ids.clone()  # the same sentences with subject and object exchanged
    swapped[row, verb - 1], swapped[row, verb + 1] = ids[row, verb + 1], ids[row, verb - 1]
    with torch.no_grad():
        (read, weights), (_, after_swap) = model(ids, verb), model(swapped, verb)
    before, after = weights[row, :, verb - 1], weights[row, :, verb + 1]  # (4000, heads)
    prefers_before = before > after
    prefers_before_swapped = after_swap[row, :, verb - 1] > after_swap[row, :, verb + 1]
    return {
        "correct": (read.argmax(-1) == roles).all(-1).float().mean().item(),
        "smaller": torch.minimum(before, after).mean(0).tolist(),
        "larger": torch.maximum(before, after).mean(0).tolist(),
        "share out": (prefers_before[:, 0] != prefers_before[:, -1]).float().mean().item(),
        "follow the word": (prefers_before != prefers_before_swapped).float().mean().item(),
    }


runs = [(heads, seed) for heads in (1, 2) for seed in SEEDS]
reports = {run: train_reporter(*run) for run in progress(runs, "models trained")}
ordinary = {heads: [reports[heads, seed]["correct"] for seed in SEEDS] for heads in (1, 2)}
print("share of sentences with both roles right, 5 seeds:")
for heads, values in ordinary.items():
    print(f"  {heads} head(s):", [round(value, 2) for value in values])

# %%
figure(
    plots.by_seed({"1 head": ordinary[1], "2 heads": ordinary[2]}, "share with both roles right",
                  "ordinary attention, 60 words"),
    alt="Share of sentences with both roles right for ordinary attention, five seeds. "
    f"One head {min(ordinary[1]):.2f} to {max(ordinary[1]):.2f}, two heads "
    f"{min(ordinary[2]):.2f} to {max(ordinary[2]):.2f}.",
)
claim("One ordinary head has both roles right in fewer than 60 % of the sentences, in every run.",
      ordinary[1], below=0.6, source="experiment 2", id=4)
claim("Two ordinary heads of the same total width have them right in more than 80 %, in every run.",
      ordinary[2], above=0.8, source="experiment 2", id=4)

# %% [markdown] slideshow={"slide_type": "subslide"}
# What did the heads learn to look at? For each sentence, take a head's weights on the two words, and
# call them the larger and the smaller. A head that always picks one word has a smaller weight near 0.

# %%
for heads in (1, 2):
    for seed in SEEDS:
        report = reports[heads, seed]
        pairs = zip(report["larger"], report["smaller"], strict=True)
        text = ", ".join(f"head {h}: {big:.2f}/{small:.2f}" for h, (big, small) in enumerate(pairs))
        if heads == 2:
            text += (f"; share out the words in {report['share out']:.0%} of sentences, "
                     f"follow the word when the two are swapped in {report['follow the word']:.0%}")
        print(f"{heads} head{'s' * (heads > 1)}, seed {seed}: larger/smaller weight of {text}")
claim(
    "The single head divides its weight within each sentence (the smaller of the two weights, mean "
    "over sentences).",
    [reports[1, seed]["smaller"][0] for seed in SEEDS],
    above=0.25,
    source="experiment 2",
    id=4,
)
claim(
    "Each of two heads picks one word (the smaller of the two weights, mean over sentences).",
    [small for seed in SEEDS for small in reports[2, seed]["smaller"]],
    below=0.2,
    source="experiment 2",
    id=4,
)
claim(
    "Two heads share out the two words: share of sentences in which they prefer different ones.",
    [reports[2, seed]["share out"] for seed in SEEDS],
    above=0.8,
    source="experiment 2",
    id=4,
)

# %% [markdown]
# The single head divides its weight between the two words: it *sees* both. Two heads share the words
# out. *How* they do it is a matter of the seed. With some seeds a head stays with the place: swap the
# two words, and it looks at the same side as before ("follow the word" near 0 %). With others it
# follows the word: swap the two, and it looks at the other side (near 100 %). The value of a word
# also carries the vector of its position, and so the read-out can still learn where it stood.
#
# **Do not take home more than this.** The proof is about heads that look by place. An ordinary head
# did badly in the training it got here, and far better than guessing (one pair in 3,600). Depth is a
# substitute for heads: Liu et al. 2021 stack single-head layers and match multi-head models. And
# heads are not told to divide the work: they do it here because the loss rewards it and because they
# started from different random numbers ([notebook 2](02-many-heads.ipynb)).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A second limit: the rank of the scores
#
# All scores of a head are products of vectors of length $d_k$. The matrix $QK^\top$, of shape
# $(n, n)$, therefore has rank at most $d_k$, however long the text.

# %%
guess = predict(
    "64 tokens, random queries and keys with d_k = 8. The matrix of scores has rank 8. What is the "
    "rank of the matrix of weights, after the softmax?",
    ["about 64", "about 16", "8"],
    id="01-rank",
)
guess

# %%
generator = torch.Generator().manual_seed(5)
sizes = (2, 4, 8, 16, 32)
ranks = []
for d_k in sizes:
    q, k = (torch.randn(1, 1, 64, d_k, generator=generator, dtype=torch.float64) for _ in range(2))
    scores, weights = attnlab.attention_scores(q, k)[0, 0], attnlab.attention_weights(q, k)[0, 0]
    ranks.append([torch.linalg.matrix_rank(m).item() for m in (scores, weights)])
    print(f"d_k = {d_k:2}: rank of scores {ranks[-1][0]:2}, rank of weights {ranks[-1][1]:2}")

# %%
rank_weights = ranks[sizes.index(8)][1]
guess.reveal(
    min(range(3), key=lambda i: abs((64, 16, 8)[i] - rank_weights)),
    "The exponential, taken entry by entry, does not keep rank: the weights have full rank.",
)
claim("The scores of a head have rank d_k (d_k = 2, 4, 8, 16, 32).",
      [r[0] - d for r, d in zip(ranks, sizes, strict=True)], equals=0,
      source="Bhojanapalli et al. 2020", id=9)
claim("The weights have a far larger rank (d_k = 4, 8, 16, 32; 64 is the most possible).",
      [r[1] for r in ranks[1:]], above=55, source="this cell", id=9)

# %% [markdown]
# A limit remains, one step back. A weight is $e^{s_{ij}}$ divided by the sum of its row, so
# $\log a_{ij} = s_{ij} - c_i$ with one number $c_i$ for each row: the *logarithms* of the weights have
# rank at most $d_k + 1$. With a small $d_k$ a head cannot have every matrix of weights.

# %%
log_ranks = []
for d_k in sizes:
    q, k = (torch.randn(1, 1, 64, d_k, generator=generator, dtype=torch.float64) for _ in range(2))
    logarithms = attnlab.attention_weights(q, k)[0, 0].log()
    log_ranks.append(torch.linalg.matrix_rank(logarithms).item())
claim("The logarithms of the weights have rank d_k + 1 (d_k = 2, 4, 8, 16, 32).",
      [r - d for r, d in zip(log_ranks, sizes, strict=True)], equals=1,
      source="log a = s - c, one c for each row", id=9)

# %% [markdown]
# Sharp patterns are not hit by this limit. Put the keys on a circle, in two dimensions: that is
# enough to single out any one of them, if the queries are long vectors (large norm). We leave out
# the division by $\sqrt{d_k}$ here (`scale=1.0`), since it only changes the norm.

# %%
n = 64
angle = 2 * math.pi * torch.arange(n) / n
circle = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (64, d_k = 2)
target = torch.randperm(n, generator=torch.Generator().manual_seed(6))
hits = []
for norm in (10, 1_000, 10_000):
    q, k = norm * circle[target], circle
    weights = attnlab.attention_weights(q[None, None], k[None, None], scale=1.0)[0, 0]
    hits.append(weights[torch.arange(n), target].min().item())
    print(f"norm of the queries {norm:6}: at least {hits[-1]:.3f} of the weight on the target")
claim(
    "With d_k = 2, a head can send every one of 64 tokens to a target of its own (smallest weight "
    "on a target).",
    hits[-1],
    above=0.999,
    source="keys on a circle; compare Amsel et al. 2024",
    id=9,
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# Each check answers in one line and names your mistake if it knows it. Hints and a solution are
# folded below each exercise.
#
# Two of them need a **mask**. A mask says which keys a query may look at. All others get the score
# $-\infty$ before the softmax, and so the weight 0. A *causal* mask lets a token see itself and the
# tokens before it.
#
# ### Exercise 1.1: weights from scores &nbsp; (●○○, 8 minutes)
#
# `scores` is `(n, n)`, row = query. `mask` is boolean, `(n, n)`, True = may attend; every row has at
# least one True. Return the weights. Scores may be as large as 1,000.

# %% tags=["exercise"]
def weights_from_scores(scores, mask):
    """(n, n) scores and mask -> (n, n) weights; each row sums to 1 over what is visible."""
    # BEGIN SOLUTION
    scores = scores.masked_fill(~mask, -math.inf)
    e = (scores - scores.max(dim=-1, keepdim=True).values).exp()
    return e / e.sum(dim=-1, keepdim=True)
    # END SOLUTION


# %%
check("1.1", weights_from_scores)

# %% [markdown] tags=["hint"]
# The mask comes *before* the softmax: a score of minus infinity has the exponential 0, and the rest
# of the row still sums to 1.

# %% [markdown] tags=["hint"]
# `exp(1000)` overflows. Subtracting the largest score of the row from the whole row changes no
# weight. `torch.softmax(..., dim=-1)` does so for you.

# %% [markdown]
# ### Exercise 1.2: one causal head &nbsp; (●●○, 12 minutes)
#
# Write a whole head, from token vectors to outputs. It is causal.

# %% tags=["exercise"]
def causal_head(x, w_q, w_k, w_v):
    """x (n, d_model); w_q, w_k, w_v (d_model, d_k) -> output (n, d_k)."""
    # BEGIN SOLUTION
    q, k, v = x @ w_q, x @ w_k, x @ w_v
    scores = q @ k.T / math.sqrt(q.shape[-1])
    n = len(x)
    visible = torch.ones(n, n, dtype=torch.bool).tril()
    return scores.masked_fill(~visible, -math.inf).softmax(dim=-1) @ v
    # END SOLUTION


# %%
check("1.2", causal_head)

# %% [markdown] tags=["hint"]
# How many entries has a token, and how many a query? One of the two numbers is under the root.

# %% [markdown] tags=["hint"]
# `torch.ones(n, n, dtype=torch.bool).tril()` is True where column ≤ row.

# %% [markdown]
# ### Exercise 1.3: how large? &nbsp; (●○○, 3 minutes)
#
# Entries of $q$ are independent with mean 0 and **standard deviation 3**, those of $k$ with mean 0
# and standard deviation 1; $d_k = 100$. What is the standard deviation of the score
# $q\cdot k/\sqrt{d_k}$?

# %% tags=["exercise"]
# BEGIN SOLUTION
# BLANK: score_std = ...  # a number
score_std = 3.0
# END SOLUTION

# %%
check("1.3", score_std)

# %% [markdown] tags=["hint"]
# Variances multiply for a product of independent variables of mean 0, and add up over the sum.

# %% [markdown] tags=["hint"]
# The variance of an entry of $q$ is $3^2 = 9$. What is the variance of the sum of 100 products, and
# what does the division by $\sqrt{100}$ do to it?

# %% [markdown]
# ### Exercise 1.4: look back by one, in two dimensions &nbsp; (●●●, 15 minutes)
#
# Construct queries and keys with $d_k = 2$ for $n$ tokens such that, after
# $\mathrm{softmax}(QK^\top/\sqrt 2)$, every token from the second on puts at least 0.9 of its weight
# on the token before it. Any construction will do; it must work for every $n$ from 4 to 40.

# %% tags=["exercise"]
def previous_token(n):
    """Return q (n, 2) and k (n, 2)."""
    # BEGIN SOLUTION
    angle = 2 * math.pi * torch.arange(n) / n
    k = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return 1e3 * k.roll(1, dims=0), k
    # END SOLUTION


# %%
check("1.4", previous_token)

# %% [markdown] tags=["hint"]
# Put the keys on a circle, one direction for each token. Which direction must query $i$ have?

# %% [markdown] tags=["hint"]
# Neighbours on a circle of 40 are close: the cosine of their angle is 0.988. How large must the norm
# of the queries be for the softmax to tell 1 from 0.988?

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | | shape | in words |
# |---|---|---|
# | $Q, K, V$ | (batch, heads, tokens, $d_k$) | three parts that each token plays |
# | scores | (batch, heads, query, key) | $q\cdot k/\sqrt{d_k}$; rank at most $d_k$ |
# | weights | (batch, heads, query, key) | softmax over keys; each row sums to 1; rank not limited so |
# | output | (batch, heads, tokens, $d_k$) | one mixture per query, through one $W^V$ |
#
# - The keys compete for one unit of weight per query.
# - $\sqrt{d_k}$ undoes the growth of a sum of $d_k$ independent products; it is right at the start
#   of training.
# - Temperature divides the scores: below 1 it sharpens the rows, above 1 it flattens them.
# - One head sees several words at once, but hands them over through one $W^V$. If its weights depend
#   on the place alone, it cannot say which word has which role. Two heads of the same total width
#   can. An ordinary head did badly at it, two did well (experiment 2).
#
# ### Questions
#
# *Why is "a head can only look at one token" wrong?* In experiment 2 the single head divided its
# weight between two words in each sentence, in every run.
#
# *Why is $\mathrm{softmax}(QK^\top/\sqrt{d_k})V$ not "the attention weights"?* The weights are the
# softmax alone; times $V$ it is the output. The first claim above compares outputs.
#
# *Does a small $d_k$ make sharp attention impossible?* No: with $d_k = 2$ and keys on a circle each
# of 64 tokens put over 0.999 of its weight on its target. A small $d_k$ limits which *dense*
# patterns can be reached.
#
# ### Common misconceptions
#
# - "Softmax over the queries": then columns would sum to 1. Exercise 1.1 knows that mistake.
# - "A head gives the same weights to every token": its rows differ (measured above).
# - "The root of $d_{model}$": it is the number of entries of a query. Exercise 1.2 knows it.
#
# ### Further reading
#
# - Vaswani et al. 2017, *Attention Is All You Need*: section 3.2.1, footnote 4.
# - Bhojanapalli et al. 2020, *Low-Rank Bottleneck in Multi-head Attention Models*: sections 2 and 3.
# - Liu, Liu and Han 2021, *Multi-head or Single-head?* (arXiv 2106.09650): depth instead of heads.
# - Amsel, Yehudai and Bruna 2024, *On the Benefits of Rank in Attention Layers* (arXiv 2407.16153):
#   what low-rank heads cannot do.
#
# **Next:** [notebook 2](02-many-heads.ipynb) puts heads side by side. Back to
# [the start](00-start-here.ipynb).
