# %% [markdown] slideshow={"slide_type": "slide"}
# # 9. Four terms
#
# **A query and a key are made of a word and a place each. Which of the two makes the score?**
#
# When you have worked through this notebook you can
#
# - multiply a score out into four terms, through a LayerNorm and biases too, without a gap;
# - measure the share of each term, with and without the part that the softmax does not see;
# - say of each head of a real first layer what its scores are made of, and test it by switching terms off;
# - tell which terms Transformer-XL, DeBERTa and TUPE keep, and what that changes;
# - test what is said about near and far: attention local by nature, decay with distance, heads for each
#   distance.
#
# *You need:* [notebook 7](07-sinusoidal.ipynb) for the sinusoidal table and
# [notebook 8](08-putting-positions-in.ipynb) for adding it. *To study:* 90 minutes. *To lecture:* 45
# minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import copy
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import attnlab
from attnlab import decompose, plots, positions, stats
from attnlab.attention import capture
from attnlab.exercises import check
from attnlab.explorers import TermsExplorer
from attnlab.models import Encoder, EncoderConfig, TinyTransformer
from attnlab.pretrained import load_encoder
from attnlab.teach import claim, figure, predict, progress
from attnlab.train import fit

torch.manual_seed(0);

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The score as a formula
#
# Token $i$ has a word vector $x_i$ (the *content*) and a place with the vector $p_i$ (the
# *position*), rows of $d$ numbers each. A layer
# reads $x_i + p_i$. One often finds its score written as
#
# $$(x_i + p_i)^\top\, W^Q W^K\,(x_j + p_j)$$
#
# with projections $W^Q$ and $W^K$ of shape $(d, d_k)$. Take $d = 64$ and $d_k = 16$.

# %%
guess = predict(
    "W_Q and W_K are (64, 16) both. What is the product W_Q W_K?",
    ["a matrix (64, 64)", "a matrix (16, 16)", "an error: the shapes do not fit"],
    id="09-conformable",
)
guess

# %%
generator = torch.Generator().manual_seed(0)
w_q, w_k = torch.randn(2, 64, 16, generator=generator, dtype=torch.float64)
try:
    shape = (w_q @ w_k).shape
except RuntimeError as error:
    shape = None
    print("RuntimeError:", error)

# %%
guess.reveal(
    {(64, 64): 0, (16, 16): 1, None: 2}[shape],
    "16 columns do not meet 64 rows. A transpose is missing: a score compares a query with a key, "
    "q·k, and so W_K enters transposed.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# With the vectors as rows, as everywhere in this course,
#
# $$s_{ij} = \frac{q_i\cdot k_j}{\sqrt{d_k}} = \frac{(x_i + p_i)\,W^Q (W^K)^\top (x_j + p_j)^\top}{\sqrt{d_k}}$$
#
# For square matrices, $d_k = d$, the form without the transpose can be computed. It is another number.

# %%
n, d = 200, 64
x = torch.randn(n, d, generator=generator, dtype=torch.float64)  # (200 tokens, 64)
square_q, square_k = torch.randn(2, d, d, generator=generator, dtype=torch.float64)
right = x @ square_q @ square_k.T @ x.T  # (query, key)
without_transpose = x @ square_q @ square_k @ x.T
alike = torch.corrcoef(torch.stack([right.flatten(), without_transpose.flatten()]))[0, 1].item()
print(f"correlation of the two forms: {alike:.3f}")
claim("W_Q W_K is not even defined for d_k below d.", shape is None, equals=True, source="this cell",
      id=95)
claim("For random square matrices the form without the transpose is another number (correlation with "
      "the scores).", alike, between=(-0.1, 0.1), source="this cell", id=95)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Multiply it out
#
# The product of two sums is a sum of four products. We name them query first:
#
# | term | formula, before dividing by $\sqrt{d_k}$ | what asks for what |
# |---|---|---|
# | content–content | $x_i W^Q (W^K)^\top x_j^\top$ | a word asks for a word |
# | content–position | $x_i W^Q (W^K)^\top p_j^\top$ | a word asks for a place |
# | position–content | $p_i W^Q (W^K)^\top x_j^\top$ | a place asks for a word |
# | position–position | $p_i W^Q (W^K)^\top p_j^\top$ | a place asks for a place |
#
# Often the second is explained as "content attending to positions" and the third as the same thing
# backwards. They are different questions: in the second the *key's* place counts, in the third the
# *query's*.
#
# In code, for all heads of a layer with random parameters. `Parts` holds what the layer reads, taken
# apart; its third part, the *rest*, is zero for now.

# %%
n, d = 1024, 256
with torch.random.fork_rng():
    torch.manual_seed(1)
    layer = attnlab.MultiHeadAttention(d, 2, d_head=64, bias=False).double()
    words = torch.randn(1, n, d, dtype=torch.float64)  # (1 text, 1024 tokens, 256)
places = positions.Sinusoidal(d).table(torch.arange(n), torch.float64)[None]  # (1, 1024, 256)
parts = decompose.Parts(words, places, torch.zeros_like(words))
terms = decompose.score_terms(layer, parts)  # (4 terms and the rest, 1 text, 2 heads, query, key)
q, k, _ = layer.heads(words + places)
scores = attnlab.attention_scores(q, k).detach()  # (1, 2 heads, query, key)
print("terms:", tuple(terms.shape), " scores:", tuple(scores.shape))
claim("Without LayerNorm and biases the four terms are the scores (largest difference).",
      (terms[:4].sum(0) - scores).abs().max(), below=1e-10,
      source="Dai et al. 2019, section 3.3; Ke et al. 2021, section 2.2", id=96)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What the softmax does not see
#
# How large is each term? Before we measure, one question. We add the same number to all keys of a query
# (to a whole *row* of scores), or the same to all queries of a key (a whole *column*), and look at the
# weights.

# %%
guess = predict(
    "What can be added to the scores without changing any weight?",
    ["a number for each query: to a whole row", "a number for each key: to a whole column", "both",
     "nothing: every score counts"],
    id="09-unseen",
)
guess

# %%
some = scores[0, 0, :32, :32]
added = torch.randn(32, generator=generator, dtype=torch.float64)
changes = {
    name: (F.softmax(some + extra, dim=-1) - F.softmax(some, dim=-1)).abs().max().item()
    for name, extra in (("rows", added[:, None]), ("columns", added[None, :]))
}
for name, change in changes.items():
    print(f"added to {name}: weights change by up to {change:.1e}")

# %%
free = tuple(change < 1e-9 for change in changes.values())
guess.reveal(
    {(True, False): 0, (False, True): 1, (True, True): 2, (False, False): 3}[free],
    "The softmax divides each row by its sum: a common factor of the row cancels. So the mean of "
    "each row of scores may be taken off; what is left is all that a head can use.",
)

# %%
claim("A number added to a row of scores changes no weight (largest change).", changes["rows"],
      below=1e-12, source="this cell", id=96)
claim("A number added to a column does.", changes["columns"], above=0.01, source="this cell", id=96)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Shares
#
# The **share** of a term in the variance of the scores $s$ is $\mathrm{Cov}(\text{term}, s) /
# \mathrm{Var}(s)$. The shares of all terms add up to 1, since the terms add up to $s$. A share below 0
# means that the term works against the others. We compute shares in two ways: of all the variance,
# over all pairs of a query and a key, and of what is left when the mean of each row is taken off, which
# is all that the softmax sees. A third number says what is lost with the row means: the part of a term's
# sum of squares.

# %%
raw = decompose.variance_shares(terms, seen_only=False)[:4, 0]  # (4 terms, 2 heads)
seen = decompose.variance_shares(terms)[:4, 0]
squares = terms[:4].square().mean((-2, -1))[:, 0]
in_rows = terms[:4].mean(-1).square().mean(-1)[:, 0] / squares  # of the row means: (4 terms, 2 heads)
print(f"mean length: word {words.norm(dim=-1).mean():.1f}, place {places.norm(dim=-1).mean():.1f}")
print(f"{'mean of 2 heads':20} share of all  share seen  lost in row means")
for t, name in enumerate(decompose.TERMS):
    print(f"{name:20} {raw[t].mean():12.2f} {seen[t].mean():11.2f} {in_rows[t].mean():18.1%}")
claim("With random parameters all four terms are there (share seen by the softmax, 2 heads).", seen.flatten(),
      above=0.02, source="this cell", id=96)
claim("Content–content has the largest share.", [r[0] - r[1:].max() for r in seen.T], above=0.1,
      source="this cell", id=96)
claim("The softmax never sees a fifth or more of both terms with a position in the key (part lost in row "
      "means, 2 heads).", in_rows[[1, 3]].flatten(), above=0.2, source="this cell", id=96)
claim("Of the terms with a word in the key it misses hardly anything.", in_rows[[0, 2]].flatten(), below=0.03,
      source="this cell", id=96)
claim("Left in, the row means raise the share of these two terms (sum of both: all less seen, 2 heads).",
      (raw - seen)[[1, 3]].sum(0), above=0.03, source="this cell", id=96)

# %% [markdown]
# Why there? All places have much in common: the slow waves of the table hardly change over a text. What
# is common to all keys goes into the row means. These random words have nothing in common. So the row
# means, left in, make the places of the keys look more important here than they are.
#
# The shares depend on the lengths, too: these words are longer than the places.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Without the big matrix
#
# Five matrices of $n \times n$ scores for each head are much for long texts. They are not needed. A term
# is $Q K^\top$ with $Q$ and $K$ of shape $(n, d_k)$. A share needs products of two terms, entry by entry,
# added up over all pairs:
#
# $$\sum_{ij} (Q_1 K_1^\top)_{ij}\,(Q_2 K_2^\top)_{ij}
# = \mathrm{tr}\big(K_1 Q_1^\top Q_2 K_2^\top\big)
# = \sum_{ab} (Q_1^\top Q_2)_{ab}\,(K_1^\top K_2)_{ab}$$
#
# $Q_1^\top Q_2$ and $K_1^\top K_2$ are **Gram matrices** of shape $(d_k, d_k)$, whatever $n$ is. And to take
# off the row means of the scores, take the mean key off all keys.

# %%
by_gram = decompose.variance_shares_by_gram(layer, parts)[:4, 0]
by_gram_raw = decompose.variance_shares_by_gram(layer, parts, seen_only=False)[:4, 0]
d_k = layer.d_head
print(f"numbers held at n = {n}: a term {n * n:,}; a Gram matrix {d_k * d_k:,}")
claim("Shares from Gram matrices are those from the n × n matrices (largest difference).",
      torch.stack([by_gram - seen, by_gram_raw - raw]).abs().max(), below=1e-9,
      source="tr(AB) = tr(BA)", id=96)
del terms, scores, q, k  # 1024 × 1024 numbers for each head and term

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Through a LayerNorm
#
# A real first layer does not read $x + p$, but a LayerNorm of it. With $z = x + p$, $\bar z$ the mean of
# the entries of $z$, $\sigma(z)$ their standard deviation (in code, with a small `eps` under its root), and
# trained vectors $g$ and $b$ of $d$ numbers:
#
# $$\mathrm{LN}(z) = g \odot \frac{z - \bar z}{\sigma(z)} + b$$
#
# ($\odot$: entry by entry.)

# %%
guess = predict(
    "Which two parts, one with x on top and one with p, add up to LN(x + p) exactly (b aside)?",
    ["LN(x) and LN(p)", "g ⊙ (x − x̄) / σ(x + p) and g ⊙ (p − p̄) / σ(x + p)", "neither of these pairs"],
    id="09-norm",
)
guess

# %%
norm = nn.LayerNorm(64).double()
with torch.no_grad():
    norm.weight.copy_(1 + 0.3 * torch.randn(64, generator=generator))
    norm.bias.copy_(0.3 * torch.randn(64, generator=generator))
    word = torch.randn(50, 64, generator=generator, dtype=torch.float64)  # (50 tokens, 64)
    place = positions.Sinusoidal(64).table(torch.arange(50), torch.float64)
    whole = norm(word + place)
    each_alone = norm(word) + norm(place) - norm.bias  # b once
    apart = decompose.layer_norm_parts(norm, decompose.Parts(word, place, torch.zeros_like(word)))
errors = [(split - whole).abs().max().item() for split in (each_alone, apart.sum())]
print(f"LN of each part alone: off by up to {errors[0]:.2f}; with the σ of the sum: {errors[1]:.1e}")

# %%
fits = [error < 1e-9 for error in errors]
guess.reveal(
    0 if fits[0] else 1 if fits[1] else 2,
    "Taking the mean off is linear. σ is one number for each token: keep it as it came out, and it is a "
    "factor that all parts share.",
)

# %%
claim("LayerNorm of each part alone does not add up (largest difference).", errors[0], above=0.1,
      source="this cell", id=96)
claim("With the σ of the sum for all parts it does.", errors[1], below=1e-12, source="this cell", id=96)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### What the shared σ means
#
# The split is exact, but the parts are not independent: σ depends on the word *and* the place. Put the
# same place behind 50 different words. The direction of its part stays the same; its length does not.

# %%
same_place = place[7].expand_as(word)
with torch.no_grad():
    part = decompose.layer_norm_parts(
        norm, decompose.Parts(word, same_place, torch.zeros_like(word))
    ).position  # (50, 64)
lengths = part.norm(dim=-1)
directions = F.normalize(part, dim=-1)
print(f"length of the part of place 7: {lengths.min():.2f} to {lengths.max():.2f}")
claim("The part of a place has one direction, whatever the word (smallest cosine).",
      (directions @ directions[0]).min(), above=1 - 1e-9, source="this cell", id=96)
claim("Its length depends on the word (longest by shortest).", lengths.max() / lengths.min(),
      above=1.1, source="this cell", id=96)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Nine products, four terms and a rest
#
# Now there are three parts: the word's, the place's, and a **rest** that belongs to neither. Into the
# rest goes $b$, into the rest of a BERT model also its *segment vector* (first or second sentence), and
# into the rest of queries and keys the biases of the projections. Three parts on either side make nine
# products. Four are our terms. The other five, those with a rest in them, we add up and call the rest
# of the score. It is not small enough to forget, as we shall see, so we always show it.
#
# (A part of it has a well-known meaning: the rest of the query times the word of the key prefers
# certain words, for all queries alike. You will meet this again in Transformer-XL.)

# %%
with torch.random.fork_rng():
    torch.manual_seed(2)
    encoder = Encoder(EncoderConfig(vocab_size=100, n_layers=1, d_model=32, n_heads=4, d_ff=64))
    tiny = TinyTransformer(100, 5, d_model=32, n_heads=4, n_kv_heads=2, encoding="sinusoidal",
                           causal=False, bias=True)
    for parameter in [*encoder.parameters(), *tiny.parameters()]:
        nn.init.normal_(parameter, std=0.3)  # no bias is zero
    ids = torch.randint(100, (2, 12))  # (2 texts, 12 tokens)
gaps = {}
for name, model in (("Encoder", encoder), ("TinyTransformer, 4 heads share 2 keys", tiny)):
    with torch.no_grad(), capture(model) as weights_of:
        model(ids)
        found = decompose.score_terms(
            model.layers[0].attention, decompose.first_layer_parts(model, ids)
        )  # (5, 2 texts, 4 heads, 12, 12)
    gaps[name] = (found.sum(0).softmax(-1) - weights_of["layers.0.attention"]).abs().max().item()
    print(f"{name}: largest rest {found[4].abs().max():.2f}, weights differ by {gaps[name]:.0e}")
claim("Four terms and the rest make the weights of a whole model's first layer: norm, biases, segments "
      "and shared keys included (largest difference).", list(gaps.values()), below=1e-5,
      source="attnlab.decompose", id=96)

# %% [markdown]
# **And deeper?** The second layer reads words that have already been mixed by attention weights, and the
# weights depended on places. There "content" holds positions too, and the split into words and places has
# no clear meaning. This is why we look at first layers. (The explorer of notebook 8 followed both through
# deeper layers with all weights held as they are: one more thing frozen.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A real first layer
#
# all-MiniLM-L6-v2 adds a learned table of positions. Its first layer has 12 heads.

# %%
real = load_encoder()
print(real.note)
missing = "the parameters are random: nothing was learned" if real.is_random else ""
guess = predict(
    "Which of the four terms has the largest share in most of the 12 heads?",
    ["content–content", "content–position", "position–content", "position–position"],
    id="09-real",
)
guess

# %%
TEXTS = [
    "The cat sat on the mat because it was tired.",
    "She eats fish and he eats bread, but neither of them cooks.",
    "The cat chased the mouse, and the mouse chased the cat.",
    "When the rain stopped, the children went out to play in the garden.",
    "A new bridge over the river will be opened in May next year.",
    "My brother says that he has never read a book to the end.",
]
first = real.model.layers[0].attention
real_shares, gaps = [], []
for text in TEXTS:
    ids, tokens = real.tokenize(text)
    parts = decompose.first_layer_parts(real.model, ids)
    found = decompose.score_terms(first, parts)  # (5, 1, 12 heads, query, key)
    with torch.no_grad():
        q, k, _ = first.heads(real.model.embed(ids))
        scores = attnlab.attention_scores(q, k)
    gaps.append(((found.sum(0) - scores).abs().max() / scores.abs().max()).item())
    real_shares.append(decompose.variance_shares(found)[:, 0])
real_shares = torch.stack(real_shares).mean(0)  # (5 terms, 12 heads), mean of the texts
names = [*decompose.TERMS, decompose.REST]
fig, ax = plt.subplots(figsize=(8.4, 2.9), layout="constrained")
image = ax.imshow(real_shares.numpy(), cmap=plots.COLOURS, vmin=0, vmax=1, aspect="auto")
for t in range(5):
    for h in range(12):
        ax.text(h, t, str(round(100 * real_shares[t, h].item())), ha="center", va="center",
                color="black" if real_shares[t, h] > 0.5 else "white")
ax.set_xticks(range(12))
ax.set_yticks(range(5), names)
ax.set_xlabel(f"head of the first layer{' (RANDOM PARAMETERS)' if missing else ''}")
fig.colorbar(image, ax=ax, label="share of variance")
figure(
    fig,
    alt="Table of the shares of the four terms and the rest in per cent, for 12 heads, mean of "
    f"{len(TEXTS)} texts. " + "; ".join(
        f"head {h}: mostly {names[i]} ({real_shares[i, h]:.0%})"
        for h, i in enumerate(real_shares.argmax(0).tolist())) + ".",
)

# %%
winners = real_shares[:4].argmax(0)
guess.reveal(
    torch.bincount(winners, minlength=4).argmax().item(),
    missing or f"Of the four terms, content–content is the largest in {(winners == 0).sum()} of 12 "
    f"heads, position–position in {(winners == 3).sum()}. The mixed terms never win.",
)

# %%
claim("Four terms and the rest are the real model's scores (largest difference, by the largest score).",
      gaps, below=1e-5, source="all-MiniLM-L6-v2", id=96)
claim("Content–content is the largest of the four in most heads (number of 12).",
      (winners == 0).sum(), above=6, source="all-MiniLM-L6-v2", id=96, skip=missing)
claim("A mixed term is the largest of the four in no head (number of heads).",
      ((winners == 1) | (winners == 2)).sum(), equals=0, source="all-MiniLM-L6-v2", id=96,
      skip=missing)
claim("On these six texts content–position is small in every head (largest absolute share).",
      real_shares[1].abs().max(), below=0.15, source="all-MiniLM-L6-v2", id=96, skip=missing)
claim("Head 2 lives on places alone (share of position–position).", real_shares[3, 2], above=0.9,
      source="all-MiniLM-L6-v2", id=96, skip=missing)
claim("The rest must not be hidden: in head 9 it is nearly everything (share).", real_shares[4, 9],
      above=0.8, source="all-MiniLM-L6-v2", id=96, skip=missing)

# %% [markdown]
# Notebook 8 found words and places in different directions of this model. $W^Q$ and $W^K$ could make
# them meet all the same; on these short texts they do so in part, from place to word. But a share is a
# description. Whether a term *matters* is seen when it is switched off.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Try it: switch terms off
#
# Left, the weights that the chosen terms make; right, the terms and their shares. A click on a small
# map switches its term too.
#
# 1. **head** 2: whom does each token look at? Switch **position–position** off, then switch all others
#    off and only that one on. What is left of the pattern in each case?
# 2. **head** 9: leave only **rest** on. Where are the larger differences, between queries or between
#    keys?
# 3. **head** 7: leave out only content–content, then only the two mixed terms (**keep as in** TUPE, a
#    paper of which more below). Which moves more of the weight?
# 4. Take **row-centred** off at head 9. What do the maps gain that the softmax does not see?
# 5. In head 0, type a sentence in which one word occurs three times. In which two maps are its three
#    columns nearly alike? Why only nearly?

# %%
TermsExplorer(TEXTS[0], model=real, head=2)

# %%
KEPT = {"all": [True] * 5, "position–position off": [True, True, True, False, True],
        "position–position alone": [False, False, False, True, False]}
before = {name: [] for name in KEPT}
for text in TEXTS:
    ids, _ = real.tokenize(text)
    found = decompose.score_terms(first, decompose.first_layer_parts(real.model, ids))[:, 0, 2]
    for name, keep in KEPT.items():  # found: (5, query, key) of head 2
        weights = decompose.keep_terms(found, keep).softmax(-1)
        before[name].append(stats.offset_mass(weights, -1).item())
for name, masses in before.items():
    print(f"head 2, {name}: mean weight on the token before, six texts:",
          " ".join(f"{mass:.2f}" for mass in masses))
claim("Head 2 looks at the token before (mean weight), and position–position alone makes it do so.",
      [*before["all"], *before["position–position alone"]], above=0.8, source="all-MiniLM-L6-v2",
      id=96, skip=missing)
claim("Without position–position it is lost.", before["position–position off"], below=0.3,
      source="all-MiniLM-L6-v2", id=96, skip=missing)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Four tasks
#
# When would a model need the mixed terms? We train small models with a sinusoidal table, one layer and
# two heads, on texts in which each of the letters a to h stands once, in random order, at the places
# 0 to 7. At every place a question is asked:
#
# - **place before**: which letter stands one place before me? (Before place 0 comes place 7.)
# - **look up**: the letter at my place is number $w$ of the alphabet (a is 0). Which letter
#   stands at place $w$?
# - **find**: I stand at place $i$. At which place is letter number $i$?
# - **partner**: a and b are partners, c and d, e and f, g and h. At which place is my partner?

# %%
guess = predict(
    "Each task gets a model of its own. In which is the content–position term needed: switched off in the "
    "trained model, most answers are wrong?",
    ["place before", "look up", "find", "partner"],
    id="09-tasks",
)
guess

# %%
N = 8  # letters, and places
TASKS = {  # ids (texts, 8 places) -> right answers (texts, 8 places)
    "partner": lambda ids: ids.argsort(1).gather(1, ids ^ 1),  # 0 ^ 1 is 1, 1 ^ 1 is 0, 2 ^ 1 is 3
    "look up": lambda ids: ids.gather(1, ids),
    "find": lambda ids: ids.argsort(1),  # where 0 stands, where 1 stands, ...
    "place before": lambda ids: ids.roll(1, 1),
}


def letters(size, generator):
    """Each row holds the numbers 0 to 7 in random order."""
    return torch.rand(size, N, generator=generator).argsort(1)


def train_on(answer, seed):
    torch.manual_seed(seed)
    encoding = positions.Sinusoidal(32, base=30)  # few places: short waves
    model = TinyTransformer(N, N, d_model=32, n_heads=2, n_layers=1, encoding=encoding, causal=False)
    generator = torch.Generator().manual_seed(seed)

    def loss():
        ids = letters(64, generator)
        return F.cross_entropy(model(ids).flatten(0, 1), answer(ids).flatten())

    held_out = letters(100, torch.Generator().manual_seed(98))

    @torch.no_grad()
    def learned():
        return (model(held_out).argmax(-1) == answer(held_out)).float().mean().item() > 0.98

    fit(model, loss, steps=700, lr=0.01, stop=learned)
    return model


SEEDS = range(3)
solvers = {
    run: train_on(TASKS[run[0]], run[1])
    for run in progress([(task, seed) for task in TASKS for seed in SEEDS], "models trained")
}

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now switch terms off. `answers` computes what a model of one layer says when only some terms make its
# scores; everything else (values, output, read-out) stays as it is.

# %%
@torch.no_grad()
def answers(model, ids, keep=(True,) * 5):
    """Read-out (texts, n, n_out) with the kept terms of the scores only."""
    layer = model.layers[0]
    terms = decompose.score_terms(layer.attention, decompose.first_layer_parts(model, ids))
    weights = decompose.keep_terms(terms, keep).softmax(-1)  # (texts, heads, query, key)
    x = model.encoding.embed(model.words(ids), torch.arange(ids.shape[1]))
    _, _, v = layer.attention.heads(layer.attention_norm(x))
    heads = (weights @ v).transpose(1, 2).flatten(-2)  # side by side
    return model.read(model.norm(x + layer.attention.out_proj(heads)))


def all_but(term):
    return [t != term for t in range(5)]


ids = letters(300, torch.Generator().manual_seed(99))
right, whole, drift = {}, {}, []
for (task, seed), model in solvers.items():
    answer = TASKS[task](ids)
    with torch.no_grad():
        drift.append((answers(model, ids) - model(ids)).abs().max().item())
    whole[task, seed] = (answers(model, ids).argmax(-1) == answer).float().mean().item()
    for t in range(5):
        said = answers(model, ids, all_but(t)).argmax(-1)
        right[task, seed, t] = (said == answer).float().mean().item()
lost = torch.tensor(
    [[[right[task, s, t] for t in range(5)] for s in SEEDS] for task in TASKS]
)  # (4 tasks, 3 seeds, 5 terms): share right without a term
claim("With all terms `answers` is the model (largest difference).", max(drift), below=1e-3,
      source="this cell")
fig, ax = plt.subplots(figsize=(7.6, 3.1), layout="constrained")
table = torch.cat([torch.tensor([[sum(whole[t, s] for s in SEEDS) / len(SEEDS)] for t in TASKS]),
                   lost.mean(1)], dim=1)  # (4 tasks, all and 5 terms off)
image = ax.imshow(table.numpy(), cmap=plots.COLOURS, vmin=0, vmax=1, aspect="auto")
for r in range(4):
    for c in range(6):
        ax.text(c, r, f"{table[r, c]:.2f}", ha="center", va="center",
                color="black" if table[r, c] > 0.5 else "white")
ax.set_xticks(range(6), ["all kept", *(f"no {n}".replace("–", "–\n") for n in names)], fontsize=9)
ax.set_yticks(range(4), list(TASKS))
fig.colorbar(image, ax=ax, label="share right")
figure(
    fig,
    alt="Share of right answers of models trained on four tasks (rows), with all terms and with each "
    "term switched off (columns), mean of 3 seeds. " + " ".join(
        f"{task}: all {table[r, 0]:.2f}, " + ", ".join(
            f"without {n} {table[r, t + 1]:.2f}" for t, n in enumerate(names)) + "."
        for r, task in enumerate(TASKS)),
)

# %%
without_cp = lost[:, :, 1].mean(1)  # (4 tasks)
guess.reveal(
    ["partner", "look up", "find", "place before"][without_cp.argmin()],
    "A word has to ask for a place there. Each of the four tasks needs one term, and a different one: see "
    "the table.",
)

# %%
diagonal = torch.stack([lost[i, :, i] for i in range(4)])  # (4 tasks, 3 seeds)
others = torch.stack([lost[i, :, t] for i in range(4) for t in range(5) if t != i])
claim("Without the one term it needs, each task is down to guessing (1/8; 4 tasks, 3 seeds).", diagonal.flatten(),
      below=0.35, source="this notebook")
claim("Without any one of the other terms most answers stay right (mean of 3 seeds; 4 tasks, 4 other "
      "terms each).", others.mean(1), above=0.5, source="this notebook")
claim("All models have learned their task (share right, all terms).", list(whole.values()), above=0.7,
      source="this notebook")

# %% [markdown]
# So all four questions can be asked by one layer, and training finds the term that the task needs. Which
# terms a head uses is a matter of what it was trained for, not of the encoding alone.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Try it: on the trained models
#
# 1. **model** "look up": which term has the structure? Switch it off. Then look at the other
#    **head**: which of the two does the work?
# 2. Swap two letters in the **text**. Which maps change with the letters, and which hardly?
# 3. **model** "place before", the head that does the work: keep only **position–position**. Which
#    queries, the first one included, still have their strongest key at the right place? How far off are
#    the others? (A term can be needed and yet not be enough alone.)
# 4. **keep as in** has the names of two papers, DeBERTa and TUPE (next section). Which task does a model
#    fail with the terms of the one, which with those of the other?

# %%
class Letters:
    """Reads the letters a to h."""

    def encode(self, text):
        return torch.tensor([[ord(c) - ord("a") for c in text if c in "abcdefgh"]], dtype=torch.long)

    def decode(self, ids):
        return [chr(ord("a") + i) for i in ids.tolist()]


shown = solvers["look up", 0]
of_heads = decompose.variance_shares_by_gram(
    shown.layers[0].attention, decompose.first_layer_parts(shown, ids)
).mean(1)  # (5 terms, 2 heads)
TermsExplorer("hbdfgace", model={task: solvers[task, 0] for task in TASKS}, language=Letters(),
              source="look up", head=of_heads[1].argmax().item())

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Variants of the literature
#
# Once the terms have names, models can be built that keep some and replace others. $r_{i-j}$ is a vector
# for how far the key stands behind the query, not for a place. (The papers count $i - j$, query
# minus key; the *offset* of this course is $j - i$.)
#
# | term | added (Vaswani et al. 2017) | Transformer-XL (Dai et al. 2019) | DeBERTa (He et al. 2021) | TUPE (Ke et al. 2021) |
# |---|---|---|---|---|
# | content–content | $q_i\cdot k_j$ | $q_i\cdot k_j$ | $q_i\cdot k_j$ | $q_i\cdot k_j$ |
# | content–position | $q_i\cdot(p_j W^K)$ | $q_i\cdot(r_{i-j} W^{K,r})$ | $q_i\cdot(r_{i-j} W^{K,r})$ | left out |
# | position–content | $(p_i W^Q)\cdot k_j$ | $u\cdot k_j$ | $(r_{j-i} W^{Q,r})\cdot k_j$ | left out |
# | position–position | $(p_i W^Q)\cdot(p_j W^K)$ | $v\cdot(r_{i-j} W^{K,r})$ | left out | $(p_i U^Q)\cdot(p_j U^K)$ |
# | divided by | $\sqrt{d_k}$ | $\sqrt{d_k}$ | $\sqrt{3 d_k}$ | $\sqrt{2 d_k}$ |
#
# Here $q_i = x_i W^Q$ and $k_j = x_j W^K$ come from words alone. $W^{K,r}$, $W^{Q,r}$, $U^Q$, $U^K$ are
# matrices for positions only; $u$ and $v$ are two trained vectors. In Transformer-XL they stand where the
# query's place stood: wherever the query is, the same $u$ asks for words and the same $v$ for offsets.
# DeBERTa leaves position–position out, since with offsets on both sides it would hold no more than
# $i - j$. TUPE leaves the mixed terms out and gives places their own projections. (It adds a bias of
# the T5 kind too, which we leave out here: notebook 10.)

# %%
for name, kept in decompose.VARIANTS.items():
    print(f"{name:34}", ", ".join(t for t, on in zip(decompose.TERMS, kept, strict=True) if on))
guess = predict(
    "The same words are moved from places 0–19 to places 5–24. In which of Transformer-XL, DeBERTa and "
    "TUPE do all scores stay the same?",
    ["in all three", "in Transformer-XL and DeBERTa", "only in TUPE", "in none"],
    id="09-shift",
)
guess

# %%
generator = torch.Generator().manual_seed(3)
n, d, d_k = 20, 32, 16


def random(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


words = random(n, d)  # (20 tokens, 32)
W_Q, W_K, W_QR, W_KR, U_Q, U_K = random(6, d, d_k) / math.sqrt(d)
u, v = random(2, d_k)
offsets = random(101, d)  # DeBERTa learns a row for each offset; row 50 is offset 0
wave = positions.Sinusoidal(d)


def variants(place):
    """place (n,) -> for each scheme its four terms, (4, n, n); a term that is left out is 0."""
    q, k, p = words @ W_Q, words @ W_K, wave.table(place, torch.float64)
    behind = place[:, None] - place  # (query, key): i - j
    r = wave.table(behind.flatten(), torch.float64).view(n, n, d)  # Transformer-XL: sinusoidal
    rel, back = offsets[50 + behind], offsets[50 - behind]  # (query, key, 32)
    nothing = torch.zeros(n, n, dtype=torch.float64)
    on_r = r @ W_KR  # (query, key, 16)
    return {
        "added": decompose.four_terms(q, p @ W_Q, k, p @ W_K),
        "Transformer-XL": torch.stack([
            q @ k.T, torch.einsum("id,ijd->ij", q, on_r), (u @ k.T).expand(n, n), on_r @ v,
        ]) / math.sqrt(d_k),
        "DeBERTa": torch.stack([
            q @ k.T, torch.einsum("id,ijd->ij", q, rel @ W_KR),
            torch.einsum("ijd,jd->ij", back @ W_QR, k), nothing,
        ]) / math.sqrt(3 * d_k),
        "TUPE": torch.stack([
            q @ k.T, nothing, nothing, (p @ U_Q) @ (p @ U_K).T,
        ]) / math.sqrt(2 * d_k),
    }


here, moved = variants(torch.arange(n)), variants(torch.arange(n) + 5)
shift = {name: (moved[name].sum(0) - here[name].sum(0)).abs().max().item() for name in here}
for name, change in shift.items():
    print(f"{name:15} scores change by up to {change:.2g}")

# %%
same = tuple(shift[name] < 1e-9 for name in ("Transformer-XL", "DeBERTa", "TUPE"))
guess.reveal(
    {(True,) * 3: 0, (True, True, False): 1, (False, False, True): 2}.get(same, 3),
    "Offsets do not change when all places move; places do. TUPE frees the places from the words, but "
    "keeps the places.",
)

# %%
claim("Transformer-XL and DeBERTa see offsets only: moving the text changes no score.",
      [shift["Transformer-XL"], shift["DeBERTa"]], below=1e-9,
      source="Dai et al. 2019, section 3.3; He et al. 2021, section 3.1", id=96)
row_3 = {"Transformer-XL": wave.table(torch.tensor([3]), torch.float64)[0], "DeBERTa": offsets[50 + 3]}
by_hand = {name: words[10] @ W_Q @ (row @ W_KR) for name, row in row_3.items()}
claim("Key 7 stands 3 behind query 10: it is scored with r₃, not with r₋₃ (difference).",
      [here["Transformer-XL"][1][10, 7] - by_hand["Transformer-XL"] / math.sqrt(d_k),
       here["DeBERTa"][1][10, 7] - by_hand["DeBERTa"] / math.sqrt(3 * d_k)], expect=0, atol=1e-9,
      source="Dai et al. 2019, section 3.3; He et al. 2021, section 3.1", id=96)
told = [here[name][1] - here[name][1].mean(1, keepdim=True) for name in ("Transformer-XL", "DeBERTa")]
claim("And they do see them: the content–position term differs from key to key (standard deviation).",
      [t.std() for t in told], above=0.1, source="this cell", id=96)
claim("With positions added, and in TUPE, it does (largest change).", [shift["added"], shift["TUPE"]],
      above=0.1, source="Ke et al. 2021, section 3.1", id=96)
rows = here["Transformer-XL"][2]
claim("Transformer-XL's position–content term is one row for all queries (largest difference).",
      (rows - rows[0]).abs().max(), below=1e-12, source="Dai et al. 2019, section 3.3", id=96)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Near and far: what is said
#
# Four statements about position–position and distance are widespread. First, that "position encodings
# naturally create local attention", as $p_i W^Q (W^K)^\top p_j^\top \propto -|i-j|^2$. Notebook 7 took this
# one apart. In short, again with $W = W^Q(W^K)^\top$:

# %%
d = 512
pos = torch.arange(200)
table = positions.Sinusoidal(d).table(pos, torch.float64)  # (200, 512)
k = torch.arange(1, 101, dtype=torch.float64)
g = (table @ table.T)[0, 1:101]  # W = I: a function of the distance k alone


def straight(x, y):
    """R² of the best straight line of y over x."""
    return (torch.corrcoef(torch.stack([x.double(), y.double()]))[0, 1] ** 2).item()


laws = {"k²": straight(k**2, g), "ln k": straight(k.log(), g)}
near = []
for _ in range(10):
    W = random(d, 64) @ random(64, d)
    near.append(((table @ W @ table.T).argmax(-1).sub(pos).abs() <= 3).double().mean().item())
print("W = I, distances 1 to 100: R² against", ", ".join(f"{a} {b:.2f}" for a, b in laws.items()))
by_lot = (pos[:, None].sub(pos).abs() <= 3).double().mean().item()
print(f"random W: best key at most 3 places away for {sum(near) / 10:.1%} of the queries, "
      f"by lot {by_lot:.1%}")
claim("With W = I the term falls with ln k (R²).", laws["ln k"], above=0.98,
      source="this cell; Chi et al. 2023", id=97)
claim("Not with k² (R²).", laws["k²"], below=0.7, source="this cell", id=97)
claim("With a random W the best key is near about as often as by lot (share of queries, mean of 10 "
      "draws).", sum(near) / 10, below=0.08, source="this cell", id=98)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Does attention decay exponentially?
#
# Second statement: the weight on a key falls as $e^{-\alpha|i-j|}$ with some $\alpha > 0$. Then its
# logarithm is a straight line over the distance. We fit that line in three cases:
#
# - **ALiBi without content**: $q\cdot k = 0$, and from each score a slope times the distance is
#   subtracted (notebook 10 is about it);
# - **sinusoidal, W = I**: scores $p_i\cdot p_j$, here with $d = 512$ and divided by 8;
# - **the real model**: 72 heads, mean weight at each distance, words only.
#
# $R^2 = 1$ means: exactly a straight line. For comparison we fit a *power law*, $|i-j|^{-\alpha}$: its
# logarithm is a straight line over $\ln|i-j|$.

# %%
guess = predict(
    "In which of the three is the decay exponential (R² above 0.99)?",
    ["in all three", "in ALiBi and the sinusoidal one", "only in ALiBi", "in none"],
    id="09-decay",
)
guess

# %%
LONG = (
    "On Monday morning the old teacher walked slowly to the small school at the end of the village. "
    "She carried a heavy bag full of books, because the children had asked her for stories about the "
    "sea. It had rained all night, and the road was wet. A dog ran beside her and barked at every bird. "
    "When she came to the bridge, she stopped for a moment and looked at the brown water below. Nobody "
    "was fishing today. The bell rang, and she began to run, for she had never been late in her life."
)
k = torch.arange(1, 61)
zero = torch.zeros(1, 8, 200, 16, dtype=torch.float64)
alibi = attnlab.attention_weights(zero, zero, encoding=positions.ALiBi(8), causal=True)[0, 3, -1]
sine = (table @ table.T / 8).softmax(-1)[0]
curves = {"ALiBi without content": alibi.flip(0)[k], "sinusoidal, W = I": sine[k]}
_, tokens = real.tokenize(LONG)
weights = torch.stack(real.weights(LONG)).flatten(0, 1)  # (72 heads, n, n)
n = len(tokens)
place = torch.arange(n)
distance = (place[:, None] - place).abs()  # (query, key)
special = torch.zeros(n, dtype=torch.bool)
special[[0, -1]] = True  # [CLS] and [SEP]
among_words = ~special[:, None] & ~special
at_distance = torch.stack(
    [weights[:, (distance == int(step)) & among_words].mean(-1) for step in k]
).T  # (72 heads, 60 distances)
lines = {name: (straight(k, w.log()), straight(k.log(), w.log())) for name, w in curves.items()}
heads = torch.tensor(
    [(straight(k, w.log()), straight(k.log(), w.log())) for w in at_distance]
)  # (72, exponential and power law)
lines["real model, median of 72 heads"] = tuple(heads.median(0).values.tolist())
for name, (exponential, power) in lines.items():
    print(f"{name:32} R²: exponential {exponential:.3f}, power law {power:.3f}")
print(f"real model: a power law fits better in {(heads[:, 1] > heads[:, 0]).sum()} of 72 heads")

# %%
straight_lines = tuple(exponential > 0.99 for exponential, _ in lines.values())
guess.reveal(
    {(True,) * 3: 0, (True, True, False): 1, (True, False, False): 2}.get(straight_lines, 3),
    "ALiBi is built so, and only its bias: words come on top. Scores that fall with ln k make weights "
    "that fall as a power of k. To the median head of the real model neither law fits well.",
)

# %%
claim("ALiBi without content decays exponentially (R²).", lines["ALiBi without content"][0],
      above=0.9999, source="Press et al. 2022, section 3", id=99)
claim("The sinusoidal term with W = I does not (R²).", lines["sinusoidal, W = I"][0], below=0.9,
      source="this cell", id=99)
claim("A power law fits it better (R²).", lines["sinusoidal, W = I"][1], above=0.97,
      source="this cell; Chi et al. 2023", id=99)
claim("For half of the real model's heads an exponential explains less than half (median R²).",
      lines["real model, median of 72 heads"][0], below=0.5, source="all-MiniLM-L6-v2", id=99,
      skip=missing)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Short distance high, long distance low?
#
# Third: "short distances: high weight; long distances: generally lower". In the text above we now keep
# two kinds of keys apart: words, and the two marks [CLS] and [SEP] at its ends.

# %%
guess = predict(
    "Mean weight of the 72 heads on a mark that is 32 tokens or more away, against the mean weight on the "
    "word next to the query:",
    ["less than a tenth", "about a half", "about the same", "at least twice as large"],
    id="09-sink",
)
guess

# %%
BINS = [(1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, n - 1)]
kinds = {"words": among_words, "[CLS] and [SEP]": ~special[:, None] & special}
by_kind = {
    kind: [weights[:, allowed & (distance >= low) & (distance <= high)].mean().item()
           for low, high in BINS]
    for kind, allowed in kinds.items()
}
sink = by_kind["[CLS] and [SEP]"][-1] / by_kind["words"][0]
ticks = [f"{low}" if low == high else f"{low}–{high}" for low, high in BINS]
fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for (kind, values), style in zip(by_kind.items(), ("o-", "s--"), strict=True):
    ax.plot(ticks, values, style, color="#00224e" if kind == "words" else "#b8860b", label=kind, lw=2)
ax.axhline(1 / n, color="grey", ls=":", label="all keys alike")
ax.set_yscale("log")
ax.set_xlabel("distance of query and key (tokens)")
ax.set_ylabel("mean weight on such a key")
ax.legend()
figure(
    fig,
    alt=f"Mean weight on a key against distance, 72 heads, {n} tokens. Words: "
    + ", ".join(f"{w:.3f} at {t}" for t, w in zip(ticks, by_kind["words"], strict=True))
    + ". The two marks: "
    + ", ".join(f"{w:.3f} at {t}" for t, w in zip(ticks, by_kind["[CLS] and [SEP]"], strict=True)) + ".",
)
print(f"a far mark against the next word: {sink:.1f} times")

# %%
guess.reveal(
    0 if sink < 0.1 else 1 if sink < 0.7 else 2 if sink < 1.5 else 3,
    missing or "For words the statement holds on average. The marks get their weight at any distance: they "
    "are sinks (notebook 3). What a head does by distance cannot be read off a mean over all keys.",
)

# %%
claim("Among words near ones get more (weight at distance 1 by that at 32 and more).",
      by_kind["words"][0] / by_kind["words"][-1], above=4, source="all-MiniLM-L6-v2", id=100,
      skip=missing)
claim("The marks get much at any distance (smallest mean weight by that of the next word).",
      min(by_kind["[CLS] and [SEP]"]) / by_kind["words"][0], above=1.5,
      source="all-MiniLM-L6-v2; Xiao et al. 2024 on sinks", id=100, skip=missing)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Heads by distance
#
# Fourth: "head 1 covers distances 1–3, head 2 distances 4–10, head 3 more than 10". Do heads share out
# distances in such an order? We give a model a reason to share: at each place it must report the letters
# 1, 3 and 8 places back, all three at once. One layer, four heads, sinusoidal positions, five seeds.

# %%
guess = predict(
    "In how many of the five models does the distance grow with the number of the head (equal ones "
    "allowed)?",
    ["in all five", "in three or four", "in two at most"],
    id="09-order",
)
guess

# %%
BACK, LENGTH = (1, 3, 8), 24
FROM = max(BACK)  # the first place where all three can be known


def report(size, generator):
    """Letters (size, 24) and the three that are asked for at each place (size, 24, 3)."""
    ids = torch.randint(N, (size, LENGTH), generator=generator)
    return ids, torch.stack([ids.roll(back, 1) for back in BACK], dim=-1)


def train_reporter(seed):
    torch.manual_seed(seed)
    model = TinyTransformer(
        N, len(BACK) * N, d_model=32, n_heads=4, n_layers=1,
        encoding=positions.Sinusoidal(32, base=30), causal=False,
    )
    generator = torch.Generator().manual_seed(seed)

    def loss():
        ids, asked = report(32, generator)
        said = model(ids).unflatten(-1, (len(BACK), N))[:, FROM:]
        return F.cross_entropy(said.flatten(0, 2), asked[:, FROM:].flatten())

    fresh = copy.deepcopy(model)
    fit(model, loss, steps=600, lr=0.01)
    return fresh, model


reporters = [train_reporter(seed) for seed in progress(range(5), "models trained")]
ids, asked = report(200, torch.Generator().manual_seed(99))


def share_right(model, keep=(True,) * 5):
    said = answers(model, ids, keep).unflatten(-1, (len(BACK), N))[:, FROM:].argmax(-1)
    return (said == asked[:, FROM:]).float().mean().item()


far = []
for seed, (_, model) in enumerate(reporters):
    with torch.no_grad(), capture(model) as weights_of:
        model(ids)
    w = weights_of["layers.0.attention"][:, :, FROM:]  # (200, 4 heads, 16 queries, 24 keys)
    far.append(stats.attention_distance(w, torch.arange(FROM, LENGTH)).mean((0, 2)))
    print(f"seed {seed}: right {share_right(model):.2f}; attended distance of heads 0 to 3:",
          "  ".join(f"{x:.1f}" for x in far[-1]))
far = torch.stack(far)  # (5 seeds, 4 heads)

# %%
in_order = int((far.round().diff(dim=1) >= 0).all(1).sum())
guess.reveal(
    0 if in_order == 5 else 1 if in_order >= 3 else 2,
    f"{in_order} of 5. The division of labour is there, and it is sharp. But four heads can cover three "
    "distances in 36 ways, of which 3 are in order, and the random start decides.",
)

# %%
nearest = (far[:, :, None] - torch.tensor(BACK)).abs().min(1).values  # (5 seeds, 3 distances)
claim("All five models report the three letters (share right).",
      [share_right(model) for _, model in reporters], above=0.95, source="this notebook", id=101)
claim("In each model every one of the three distances has a head of its own (attended distance of the "
      "nearest head, off by at most).", nearest.max(), below=1, source="this notebook", id=101)
claim("Their order is arbitrary: the far head is not the same one everywhere (number of different "
      "ones).", len(set(far.argmax(1).tolist())), above=1,
      source="this notebook", id=101)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Which terms carry this? And did the heads look there from the start?

# %%
kept, stripped, only, local = [], [], [], {"fresh": [], "trained": []}
for fresh, model in reporters:
    parts = decompose.first_layer_parts(model, ids)
    kept.append(decompose.variance_shares_by_gram(model.layers[0].attention, parts).mean(1))
    stripped.append(share_right(model, all_but(3)))
    only.append(share_right(model, [t == 3 for t in range(5)]))
    for state, which in (("fresh", fresh), ("trained", model)):
        found = decompose.score_terms(
            which.layers[0].attention, decompose.first_layer_parts(which, ids[:1])
        )[3, 0]  # position–position, (4 heads, query, key)
        back = (torch.arange(LENGTH) - found.argmax(-1))[:, FROM:]  # places back, (4 heads, 16)
        asked_for = torch.isin(back, torch.tensor(BACK)).double().mean().item()
        local[state].append(asked_for)
kept = torch.stack(kept)  # (5 seeds, 5 terms, 4 heads)
print(f"share of position–position in 20 heads: {kept[:, 3].min():.2f} to {kept[:, 3].max():.2f}")
print("share right without it:", " ".join(f"{x:.2f}" for x in stripped),
      " with it alone:", " ".join(f"{x:.2f}" for x in only))
for state, values in local.items():
    print(f"{state:8} heads whose position–position term is largest 1, 3 or 8 back (share of queries):",
          " ".join(f"{x:.2f}" for x in values))
claim("Position–position is nearly all of the variance (share, mean of the heads of each model).",
      kept[:, 3].mean(1), above=0.8, source="this notebook", id=101)
claim("Without it the models guess (1 of 8).", stripped, below=0.35, source="this notebook", id=101)
claim("It alone does most of the work (share right).", only, above=0.7, source="this notebook", id=101)
claim("Looking 1, 3 or 8 back was learned: fresh heads do it hardly more often than by lot "
      "(3 keys of 24).", local["fresh"], below=0.3, source="this notebook", id=98)
claim("Trained heads do.", local["trained"], above=0.75, source="this notebook", id=98)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 9.1: one term &nbsp; (●○○, 8 minutes)
#
# Write the content–position term: the word of the query asks for the place of the key. Divide by
# $\sqrt{d_k}$.

# %% tags=["exercise"]
def content_position(x, p, w_q, w_k):
    """x, p (n, d); w_q, w_k (d, d_k) -> (n queries, n keys)."""
    # BEGIN SOLUTION
    return (x @ w_q) @ (p @ w_k).T / w_q.shape[1] ** 0.5
    # END SOLUTION


# %%
check("9.1", content_position)

# %% [markdown] tags=["hint"]
# The query is made from `x` by `w_q`. From what is the key made?

# %% [markdown] tags=["hint"]
# `(x @ w_q) @ (p @ w_k).T` has shape `(n, n)`. $d_k$ is `w_q.shape[1]`.

# %% [markdown]
# ### Exercise 9.2: shares &nbsp; (●●○, 12 minutes)
#
# Given the terms of one head, return the share of each in the variance that the softmax sees. The shares
# must add up to 1.

# %% tags=["exercise"]
def shares(terms):
    """terms (t, n, n), row i of each belongs to query i -> (t,)."""
    # BEGIN SOLUTION
    seen = terms - terms.mean(-1, keepdim=True)
    score = seen.sum(0)
    return (seen * score).sum((-2, -1)) / (score * score).sum()
    # END SOLUTION


# %%
check("9.2", shares)

# %% [markdown] tags=["hint"]
# First take off what is the same for all keys of a query: the mean over the last axis.

# %% [markdown] tags=["hint"]
# The score is the sum of the terms. After centring, the covariance of a term with it is the mean of their
# product over all pairs; divide by the mean of the squared score.

# %% [markdown]
# ### Exercise 9.3: LayerNorm, part by part &nbsp; (●●○, 12 minutes)
#
# A LayerNorm with factors `g`, bias `b` and `eps` reads `content + position`. Return its result as three
# parts that add up to it: content, position, rest. (LayerNorm's variance divides by $d$, and `eps` is added
# to it under the root.)

# %% tags=["exercise"]
def norm_parts(content, position, g, b, eps):
    """content, position (n, d); g, b (d,) -> three tensors (n, d): content, position, rest."""
    # BEGIN SOLUTION
    sigma = ((content + position).var(-1, keepdim=True, correction=0) + eps).sqrt()
    parts = [g * (part - part.mean(-1, keepdim=True)) / sigma for part in (content, position)]
    return *parts, b.expand_as(content)
    # END SOLUTION


# %%
check("9.3", norm_parts)

# %% [markdown] tags=["hint"]
# Whose σ divides both parts? One number for each token, from the sum.

# %% [markdown] tags=["hint"]
# `sigma = ((content + position).var(-1, keepdim=True, correction=0) + eps).sqrt()`. Each part loses its
# own mean, is divided by `sigma` and multiplied by `g`. `b` belongs to neither.

# %% [markdown]
# ### Exercise 9.4: no n × n matrix &nbsp; (●●●, 15 minutes)
#
# Return $\sum_{ij} (Q_1 K_1^\top)_{ij}\,(Q_2 K_2^\top)_{ij}$ after the row means of both matrices have been
# taken off, without ever holding $n \times n$ numbers.

# %% tags=["exercise"]
def inner_product(q1, k1, q2, k2):
    """q1, k1, q2, k2 (n, d) -> a number, as a tensor without axes."""
    # BEGIN SOLUTION
    k1, k2 = k1 - k1.mean(0), k2 - k2.mean(0)
    return ((q1.T @ q2) * (k1.T @ k2)).sum()
    # END SOLUTION


# %%
check("9.4", inner_product)

# %% [markdown] tags=["hint"]
# Entry by entry, the sum is that of $(Q_1^\top Q_2)$ times $(K_1^\top K_2)$: two matrices of `d` by `d`.

# %% [markdown] tags=["hint"]
# The mean of row $i$ of $QK^\top$ is $q_i$ times the mean key. So subtract the mean key from all keys first.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | statement | what we measured |
# |---|---|
# | the score is $(x_i+p_i)^\top W^Q W^K (x_j+p_j)$ | not defined for $d_k < d$; the key's matrix enters transposed |
# | it has four terms | exact at the first layer; with LayerNorm and biases four terms and a rest, with one σ for all parts |
# | the shares of the terms | of what the softmax sees: row means off; from $d_k \times d_k$ matrices |
# | a real first layer | of the four terms, content–content is the largest in most heads, a mixed term in none; head 2 is position–position, head 9 the rest |
# | what the terms are for | four tasks, each lost without one term, each time another |
# | variants | Transformer-XL replaces, DeBERTa drops position–position, TUPE drops the mixed terms |
# | "naturally local", "exponential" | no for random $W$; only for ALiBi without content |
# | "near high, far low" | on average for words; not for sinks |
# | "head 1 near, head 3 far" | heads divide distances when the task asks for it; the order is arbitrary |
#
# ### Questions
#
# *How do different position encodings affect attention patterns?* (Review question 6 of the course.) An
# encoding that is added at the input gives a head three more terms; it does not say how they are used.
# With random parameters the best key is near about as often as by lot. After training a head may live on
# position–position alone (head 2 of the real model, our reporters), on content–position or
# position–content (our tasks), or mostly on content–content (heads 0 and 1 of the real model).
# Encodings that act on offsets (Transformer-XL, DeBERTa, and those of notebooks 10 and 11) take the
# absolute place away: scores do not change when a text is moved. ALiBi fixes the pattern from the start:
# an exponential decay; the words come on top.
#
# ### Common misconceptions
#
# - "Content–position and position–content are the same thing": they answer different tasks.
# - "LayerNorm makes the split impossible": it is exact with a shared σ; but the parts then share it.
# - "The term with the largest numbers matters most": row means can be large, and no softmax sees them.
# - "Positions make attention local": they make it possible. Training decides.
# - "A small share means useless": a share describes one set of texts; switching off is the test.
#
# ### Further reading
#
# - Dai et al. 2019, *Transformer-XL*: section 3.3, the four terms (a) to (d).
# - He et al. 2021, *DeBERTa*: section 3.1, disentangled attention.
# - Ke et al. 2021, *Rethinking Positional Encoding in Language Pre-training* (TUPE): sections 2.2 and 3.1.
# - Chi et al. 2023, *Dissecting Transformer Length Extrapolation*: the log shape of sinusoidal products.
# - Xiao et al. 2024, *Efficient Streaming Language Models with Attention Sinks*: section 3.
#
# **Next:** [notebook 10](10-relative-positions.ipynb): encodings that know only how far apart two
# tokens are. Back to [the start](00-start-here.ipynb).
