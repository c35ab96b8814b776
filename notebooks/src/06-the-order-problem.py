# %% [markdown] slideshow={"slide_type": "slide"}
# # 6. The order problem
#
# **What does attention know about the order of words, and what must be added?**
#
# When you have worked through this notebook you can
#
# - tell *equivariant* from *invariant*, and measure both;
# - say which sentences a model without positions confuses, and which it does not;
# - say what a causal mask alone tells a model about order, and why;
# - name the places where order can enter a model, and judge a list of "requirements".
#
# *You need:* [notebook 1](01-one-head.ipynb) and [notebook 2](02-many-heads.ipynb).
# *To study:* 70 minutes. *To lecture:* 40 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import itertools
from collections import Counter

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import attnlab
from attnlab import plots, positions, tasks
from attnlab.exercises import check
from attnlab.explorers import ShuffleExplorer
from attnlab.pretrained import load_encoder
from attnlab.teach import claim, figure, predict, progress
from attnlab.train import fit

torch.manual_seed(0);

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Shuffle the tokens
#
# A **permutation** puts $n$ things into another order. As a matrix $P$, of shape $(n, n)$, it has a
# single 1 in every row and every column, and $PX$ has the rows of $X$ in the new order. In code it is
# a list of indices: `x[order]` has at place $p$ the row that stood at place `order[p]`.
#
# Two words for two ways in which a function $f$ can treat a shuffled input:
#
# | word | meaning | example |
# |---|---|---|
# | **invariant** | $f(PX) = f(X)$: the result does not change | the mean of the rows |
# | **equivariant** | $f(PX) = P\,f(X)$: the result is shuffled in the same way | doubling each row |
#
# Attention, written $\mathrm{Att}(Q, K, V)$, takes three inputs, each of shape $(n, d_k)$. Let us
# shuffle them.

# %%
generator = torch.Generator().manual_seed(0)
n, d_k = 12, 32
Q, K, V = torch.randn(3, n, d_k, generator=generator, dtype=torch.float64)
order = torch.randperm(n, generator=generator)


def attention(q, k, v, causal=False):
    """(n, d_k) each -> (n, d_k)"""
    q, k, v = (t[None, None] for t in (q, k, v))
    return attnlab.scaled_dot_product_attention(q, k, v, causal=causal)[0, 0]


def largest(difference):
    return difference.abs().max().item()


out = attention(Q, K, V)  # (12, 32)

# %%
guess = predict(
    "We shuffle the rows of Q, K and V in the same way, which is what happens when the words of a "
    "sentence are shuffled. The output …",
    ["stays the same: attention is invariant", "is shuffled in the same way",
     "has other numbers in every row"],
    id="06-all-three",
)
guess

# %%
all_three = attention(Q[order], K[order], V[order])
against_same, against_shuffled = largest(all_three - out), largest(all_three - out[order])
print(f"difference from the old output          {against_same:.1e}")
print(f"difference from the old output shuffled {against_shuffled:.1e}")

# %%
guess.reveal(
    0 if against_same < 1e-12 else 1 if against_shuffled < 1e-12 else 2,
    "Every token still meets the same tokens, so it gets the same output, and takes it along to its "
    "new place. That is equivariance.",
)

# %%
claim("Attention is equivariant: Att(PQ, PK, PV) = P·Att(Q, K, V) (largest difference).",
      against_shuffled, below=1e-12, source="Lee et al. 2019 (Set Transformer), section 3", id=1)
claim("Attention is not invariant: Att(PQ, PK, PV) is not Att(Q, K, V) (largest difference).",
      against_same, above=0.1, source="this cell", id=42)

# %% [markdown]
# Many texts write the formula $\mathrm{Att}(PQ, PK, PV) = P\cdot\mathrm{Att}(Q, K, V)$ and call it
# "permutation *invariance*". The formula is right and the word is wrong. You will see below that the
# difference matters.
#
# What if only some of the three are shuffled?

# %%
guess = predict(
    "Now only K and V are shuffled (alike); Q stays as it is. The output …",
    ["stays the same", "is shuffled in the same way", "has other numbers in every row"],
    id="06-keys-and-values",
)
guess

# %%
keys_values = attention(Q, K[order], V[order])
queries = attention(Q[order], K, V)
only_values = attention(Q, K, V[order])
print("shuffled     differs from the old output by   from the old output shuffled by")
for name, result in (("Q, K, V", all_three), ("K, V", keys_values), ("Q", queries),
                     ("V", only_values)):
    print(f"{name:10} {largest(result - out):20.1e} {largest(result - out[order]):30.1e}")

# %%
guess.reveal(
    0 if largest(keys_values - out) < 1e-12
    else 1 if largest(keys_values - out[order]) < 1e-12 else 2,
    "A query adds up weight times value over all keys. A sum does not care in which order its terms "
    "come, as long as each key keeps its value.",
)

# %%
claim("Shuffling K and V together changes nothing.", largest(keys_values - out), below=1e-12,
      source="this cell", id=1)
claim("Shuffling Q alone shuffles the rows of the output.", largest(queries - out[order]),
      below=1e-12, source="this cell", id=1)
claim("Shuffling V alone does neither (smaller difference): keys get the values of others.",
      min(largest(only_values - out), largest(only_values - out[order])), above=0.1,
      source="this cell", id=1)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Why: three lines
#
# With $S = QK^\top/\sqrt{d_k}$, of shape (query, key), and $P^\top P = I$ (shuffling back):
#
# 1. scores: $(PQ)(PK)^\top/\sqrt{d_k} = P S P^\top$. Rows and columns are shuffled.
# 2. weights: the softmax works on each row by itself and on all keys alike, so
#    $\mathrm{softmax}(PSP^\top) = P A P^\top$ with $A = \mathrm{softmax}(S)$.
# 3. output: $P A P^\top\, P V = P\,(A V)$.
#
# Everything else in a transformer layer (the projections, the residual connection, *LayerNorm*,
# which shifts and scales the numbers of one token's vector, and the *feed-forward part*, a small
# network applied to each token's vector) works on each token by itself, in the same way at every
# place, and such a function is equivariant. So a whole
# stack of layers is, as long as nobody tells it where the tokens stand.

# %%
torch.manual_seed(0)
tiny = attnlab.models.EncoderConfig(vocab_size=50, n_layers=3, d_model=32, n_heads=4, d_ff=64,
                                    encoding="none")
stack = attnlab.models.Encoder(tiny).double()
stack.reset_parameters(std=0.2)
ids = torch.randperm(50)[None, :n]  # (batch = 1, 12 tokens)
with torch.no_grad():
    gap = largest(stack(ids[:, order]) - stack(ids)[:, order])
    changed = largest(stack(ids[:, order]) - stack(ids))
print(f"three whole layers: differs from the old output by {changed:.2f}, "
      f"from the old output shuffled by {gap:.0e}")
claim("A stack of three whole layers without positions is equivariant (largest difference).", gap,
      below=1e-11, source="Yun et al. 2020, on permutation equivariance", id=1)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Sentences
#
# Three sentences that are often named as indistinguishable:
#
# > The cat chased the mouse
# >
# > The mouse chased the cat
# >
# > Chased the cat mouse the
#
# In a model without positions and without a mask a token sees the **bag** of the tokens: which ones
# there are and how often, without their order. We give each token a random vector and send the
# sentences through two layers of attention without positions.

# %%
torch.manual_seed(1)
layers = [attnlab.MultiHeadAttention(32, 4, bias=False).double() for _ in range(2)]
vectors = {}  # one random vector for each token


def outputs(sentence, causal=False, depth=2):
    """One output vector for each token of the sentence: (n, 32)."""
    for token in sentence.split():
        if token not in vectors:
            vectors[token] = torch.randn(32, dtype=torch.float64)
    x = torch.stack([vectors[token] for token in sentence.split()])[None]  # (1, n, 32)
    with torch.no_grad():
        for layer in layers[:depth]:
            x = x + layer(x, causal=causal)
    return x[0]


chase = ["The cat chased the mouse", "The mouse chased the cat", "Chased the cat mouse the"]
sat = ["The cat sat on the mat .", "Sat the on cat the mat ."]

# %%
guess = predict(
    "The mean over the outputs of all tokens is all we get to see (a pooled read-out). Which of "
    "the three sentences, as they are written above, can it tell apart?",
    ["none of them: all three have the same mean", "the third from the first two",
     "the second from the first", "all three from each other"],
    id="06-three",
)
guess

# %%
def bag(sentence):
    return Counter(sentence.split())


def pooled_difference(first, second, pool=lambda x: x.mean(dim=0), **options):
    return largest(pool(outputs(first, **options)) - pool(outputs(second, **options)))


table = {}
for a, b in ((chase[0], chase[1]), (chase[0], chase[2]), (sat[0], sat[1])):
    print(f"{a}  |  {b}")
    for name, x, y in (("as written", a, b), ("lower case", a.lower(), b.lower())):
        table[a, b, name] = pooled_difference(x, y)
        print(f"   {name}: same bag {bag(x) == bag(y)!s:5}  pooled difference "
              f"{table[a, b, name]:.1e}")
apart = {pair: table[*pair, "as written"] > 1e-12
         for pair in ((chase[0], chase[1]), (chase[0], chase[2]))}

# %%
guess.reveal(
    {(False, False): 0, (False, True): 1, (True, False): 2, (True, True): 3}[
        apart[chase[0], chase[1]], apart[chase[0], chase[2]]],
    "'The' and 'the' are two tokens, as are 'Chased' and 'chased'. The third sentence holds "
    "'Chased' and 'the' twice: another bag. In lower case all three are one bag.",
)

# %%
same_bag = [table[chase[0], chase[1], "as written"], *(
    value for (a, b, name), value in table.items() if name == "lower case")]
claim("One bag, one pooled output: who chased whom, and all pairs in lower case (differences).",
      same_bag, below=1e-12, source="equivariance, then a mean", id=44)
claim("As written, 'Chased the cat mouse the' is another bag (pooled difference from the first).",
      table[chase[0], chase[2], "as written"], above=0.1, source="this cell", id=44)
claim("As written, 'Sat the on cat the mat .' is another bag than 'The cat sat on the mat .'",
      table[sat[0], sat[1], "as written"], above=0.1, source="this cell", id=45)
claim("A maximum over the tokens instead of the mean is as blind (pooled difference, lower case).",
      pooled_difference(chase[0].lower(), chase[2].lower(), pool=lambda x: x.amax(dim=0)),
      below=1e-12, source="this cell", id=1)

# %% [markdown]
# So "these sentences are the same to the model" is true *if* the tokens are the same (many models
# read lower case only), *if* every token may see every other, and *if* the read-out has no order
# either. The pooled output is what is invariant: equivariant layers, then a mean.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### One word, two roles
#
# Without a pooled read-out, is all well? The rows of the output come in another order, after all.
# We measure distances in **lengths**: 1 is the mean length of an output vector.

# %%
guess = predict(
    "We look only at the output of the token 'cat': once in 'the cat chased the mouse', once in 'the "
    "mouse chased the cat'. How far apart are the two vectors?",
    ["far: in one it hunts, in the other it is hunted", "a little: the same words, at other places",
     "not at all: it is the same vector"],
    id="06-cat",
)
guess

# %%
first, second = (outputs(s.lower()) for s in chase[:2])  # (5, 32) each
apart = torch.cdist(first, second) / first.norm(dim=-1).mean()  # (5, 5), in lengths of an output
names = [s.lower().split() for s in chase[:2]]
cat = apart[names[0].index("cat"), names[1].index("cat")].item()
print(f"'cat' as subject and 'cat' as object: {cat:.1e} lengths apart")

# %%
guess.reveal(
    2 if cat < 1e-6 else 1 if cat < 0.2 else 0,
    "'cat' meets the same four tokens both times. Subject or object: nothing in its vector says so, "
    "and no further layer of this kind can find it out.",
)

# %% slideshow={"slide_type": "subslide"}
def distance_map(distances, titles, rows, columns):
    """Heat maps of distances between outputs; numbers in the squares."""
    fig, axes = plt.subplots(1, len(distances), figsize=(4.9 * len(distances), 4.1), squeeze=False,
                             layout="constrained")
    for ax, matrix, title in zip(axes[0], distances, titles, strict=True):
        image = ax.imshow(matrix.numpy(), vmin=0, vmax=1.5, cmap=plots.COLOURS)
        ax.set_xticks(range(len(columns)), columns, rotation=30)
        ax.set_yticks(range(len(rows)), rows)
        ax.set_xlabel(" ".join(columns))
        ax.set_ylabel(" ".join(rows))
        ax.set_title(title)
        for i, j in itertools.product(range(len(rows)), range(len(columns))):
            value = matrix[i, j].item()
            ax.text(j, i, "0" if value < 1e-6 else f"{value:.1f}", ha="center", va="center",
                    color="black" if value > 0.8 else "white")
    fig.colorbar(image, ax=axes[0], label="distance (lengths of an output)")
    return fig


different = apart[apart > 1e-6]
figure(
    distance_map([apart], ["no positions, no mask"], *names),
    alt="Distances between the output vectors of 'the cat chased the mouse' (rows) and 'the mouse "
    "chased the cat' (columns). Equal words have distance 0 wherever they stand; different words "
    f"are {different.min():.1f} to {different.max():.1f} lengths apart.",
)
claim("'cat' as subject and 'cat' as object have the same output (distance).", cat, below=1e-12,
      source="this cell", id=44)
claim("The two 'the' of one sentence have the same output (distance).",
      (first[0] - first[3]).norm() / first.norm(dim=-1).mean(), below=1e-12, source="this cell",
      id=46)
claim("Different words have different outputs: 'cat' and 'mouse' (distance).",
      (first[1] - first[4]).norm() / first.norm(dim=-1).mean(), above=0.3, source="this cell", id=46)

# %% [markdown]
# "Without positional encoding all positions look the same" is therefore not quite it: equal *tokens*
# look the same, at whichever place.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### The same in the real model
#
# The model of [notebook 0](00-start-here.ipynb) has a learned vector for each position.
# `positions.Encoding()` is the encoding that does nothing; we put it in, look, and put the learned
# one back.

# %%
encoder = load_encoder()
trained = not encoder.is_random
untrained = "" if trained else "this needs the trained parameters, and they could not be fetched"
print(encoder.note)


def vector_of(word, sentence):
    tokens = encoder.tokenize(sentence).tokens
    return encoder(sentence)[0, tokens.index(word)]


def compare(sentence, other, word):
    """Cosine of the means, and of the vectors of a word, of two sentences."""
    with torch.no_grad():
        means = [encoder(s)[0].mean(dim=0) for s in (sentence, other)]
        words = [vector_of(word, s) for s in (sentence, other)]
    return [F.cosine_similarity(*pair, dim=0).item() for pair in (means, words)]


learned = encoder.model.encoding
with_positions = compare(*chase[:2], "cat")
encoder.model.encoding = positions.Encoding()
without_positions = compare(*chase[:2], "cat")
third_without = compare(chase[0], chase[2], "cat")
with torch.no_grad():
    one_cat, one_mouse = (vector_of(animal, chase[0]) for animal in ("cat", "mouse"))
encoder.model.encoding = learned
third_with = compare(chase[0], chase[2], "cat")
print("cosine of             the means   the vectors of 'cat'")
print(f"1 and 2, positions     {with_positions[0]:.5f}   {with_positions[1]:.5f}")
print(f"1 and 2, none          {without_positions[0]:.5f}   {without_positions[1]:.5f}")
print(f"1 and 3, positions     {third_with[0]:.5f}   {third_with[1]:.5f}")
print(f"1 and 3, none          {third_without[0]:.5f}   {third_without[1]:.5f}")

# %%
claim("Without positions the real model gives all three sentences, which it reads in lower case, "
      "the same mean and the same 'cat' (cosines).", [*without_positions, *third_without],
      expect=1.0, atol=1e-5, source="all-MiniLM-L6-v2, measured here", id=44, skip=untrained)
claim("It still tells 'cat' from 'mouse' (cosine of their vectors).",
      F.cosine_similarity(one_cat, one_mouse, dim=0), below=0.9, source="all-MiniLM-L6-v2, measured here", id=44,
      skip=untrained)
claim("With its positions the 'cat' that chases and the one that is chased differ (cosine).",
      with_positions[1], below=0.99, source="all-MiniLM-L6-v2, measured here", id=44,
      skip=untrained)

# %% [markdown]
# With positions the means of the first two sentences are still close. Do not take a high cosine for
# blindness: a sentence vector holds much that the order does not touch. 1 up to rounding is
# blindness.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: shuffle a sentence
#
# Above: the words as typed, and as they stand now. Below, two distances for each place, in lengths.
# *Same word*: from the output of this word now to its output in the sentence as typed, wherever it
# stood. *Same place*: from the output at this place now to the output at this place as typed. The
# last line does the same for the mean of all outputs. 0 means equal up to rounding; two unrelated
# vectors of length 1 are about 1.4 apart.
#
# 1. "cat" and "mouse" are swapped. Which line is 0 throughout: that of equivariance (same word), or
#    that of invariance (same place)? What about the mean?
# 2. Put the sentence back (*As typed*), then swap the two "the". What changes, and why?
# 3. *Shuffle* a few times; type a sentence of your own. Change **heads**, **d_model**, **layers**. Does
#    the first line ever leave 0?
# 4. Choose an **encoding** with "cat" and "mouse" swapped. Now the output of each word changes. With
#    which do the outputs change more, *learned* or *alibi*?
# 5. Choose the **real model** with 6 layers. With its learned positions, whose output changes most? Then
#    set the encoding to none.

# %%
ShuffleExplorer(
    "the cat chased the mouse",
    order=[0, 4, 2, 3, 1],
    model=encoder,
    controls=("text", "source", "encoding", "n_layers", "n_heads", "d_model"),
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What a mask does
#
# GPT and its relatives are causal: token $i$ sees itself and the tokens before it. A model without
# a mask is called *bidirectional*.

# %%
guess = predict(
    "Five tokens can stand in 120 orders. With a causal mask, for how many of these is attention "
    "still equivariant, Att(PQ, PK, PV) = P·Att(Q, K, V)?",
    ["all 120", "24: those that leave the first token in place", "2: as it is, and reversed",
     "1: as it is"],
    id="06-mask",
)
guess

# %%
five = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
equivariant = {}
for causal in (False, True):
    plain = attention(*five, causal=causal)
    equivariant[causal] = sum(
        largest(attention(*five[:, list(o)], causal=causal) - plain[list(o)]) < 1e-12
        for o in itertools.permutations(range(5))
    )
    print(f"causal {causal!s:5}: equivariant for {equivariant[causal]} of 120 orders")

# %%
guess.reveal(
    {120: 0, 24: 1, 2: 2, 1: 3}[equivariant[True]],
    "A token that moves back sees more, one that moves to the front sees less. Only if nobody moves "
    "does everybody see the same tokens.",
)

# %%
claim("Without a mask attention is equivariant for every order of 5 tokens (of 120).",
      equivariant[False], equals=120, source="this cell", id=43)
claim("With a causal mask only the identity remains (of 120).", equivariant[True], equals=1,
      source="this cell", id=43)

# %% [markdown]
# Step 2 of the proof needed a softmax that treats all keys alike, and a causal mask does not. So the
# two roles of "cat", and the two "the", need not look the same any more:

# %% slideshow={"slide_type": "subslide"}
first, second = (outputs(s.lower(), causal=True) for s in chase[:2])
masked = torch.cdist(first, second) / first.norm(dim=-1).mean()
figure(
    distance_map([apart, masked], ["no mask", "causal mask"], *names),
    alt="Distances between the outputs of 'the cat chased the mouse' and 'the mouse chased the cat', "
    "without positions. Without a mask equal words have distance 0. With a causal mask only the "
    "first 'the', which sees nothing but itself, has distance 0.",
)
claim("With a causal mask 'cat' as subject differs from 'cat' as object (distance).",
      masked[1, 4], above=0.1, source="this cell", id=44)
claim("And the two 'the' of one sentence differ (distance).",
      (first[0] - first[3]).norm() / first.norm(dim=-1).mean(), above=0.1, source="this cell", id=46)
claim("So does the mean of all outputs (pooled difference).",
      pooled_difference(*(s.lower() for s in chase[:2]), causal=True), above=0.05,
      source="this cell", id=44)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### A token can count those before it
#
# How can a mask tell a token its position? Take a head that gives all keys the same score, and let
# only the first token have the value 1, all others 0. Token $i$ (counted from 0) averages $i+1$
# values, of which one is 1: its output is $1/(i+1)$.

# %%
flat, marked = torch.zeros(10, 1), torch.zeros(10, 1)
marked[0] = 1.0
count = attention(flat, flat, marked, causal=True)[:, 0]
print("output ", count.numpy().round(3))
print("1/output", (1 / count).numpy().round(3))
claim("Equal scores and a marked first token: the output is 1/(i + 1) (largest difference).",
      largest(count - 1 / torch.arange(1, 11)), below=1e-6, source="the conjecture of Haviv et al. 2022, built by hand",
      id=43)

# %% [markdown]
# That head was built by hand. Does a *random* layer hold such information? Take random sentences whose
# first token is always the same (a start mark), one random layer, and a **linear probe**: the best
# linear function from a token's output to $1/(i+1)$, fitted on one half of the sentences and judged
# on the other. $R^2$ is the share of the variance that it explains: 1 is perfect, 0 is nothing.

# %%
LENGTH = 32
target = 1 / torch.arange(1.0, LENGTH + 1, dtype=torch.float64)[1:]  # the start mark left out


def probe(features):
    """R² on the second half of the sentences, and the probe's reading there."""
    ones = torch.ones(*features.shape[:2], 1, dtype=torch.float64)
    inputs = torch.cat([features, ones], dim=-1)[:, 1:]  # (sentences, LENGTH - 1, 33)
    wanted = target.expand(inputs.shape[:2])  # (sentences, LENGTH - 1)
    half = len(inputs) // 2
    solution = torch.linalg.lstsq(
        inputs[:half].flatten(0, 1), wanted[:half].flatten()[:, None]).solution
    reading = (inputs[half:] @ solution)[..., 0]
    return 1 - (wanted[half:] - reading).var().item() / wanted[half:].var().item(), reading


r2 = {"input": [], "no mask": [], "causal mask": []}
for seed in range(5):
    torch.manual_seed(seed)
    layer = attnlab.MultiHeadAttention(32, 4, bias=False).double()
    x = torch.randn(400, LENGTH, 32, dtype=torch.float64)
    x[:, 0] = torch.randn(32, dtype=torch.float64)  # the start mark, the same in every sentence
    with torch.no_grad():
        for name, features in (("input", x), ("no mask", layer(x)),
                               ("causal mask", layer(x, causal=True))):
            share, reading = probe(features)
            r2[name].append(share)
for name, values in r2.items():
    print(f"{name:12} R² over 5 seeds: " + "  ".join(f"{abs(v) if abs(v) < 0.005 else v:.2f}"
                                                     for v in values))

# %%
fig, ax = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
place = torch.arange(1, LENGTH)  # reading: of the last seed, with the causal mask
low, middle, high = reading.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), dim=0)
ax.fill_between(place, low, high, color="#b8860b", alpha=0.3, label="probe, 10 to 90 % of sentences")
ax.plot(place, middle, "--", color="#b8860b", label="probe, median")
ax.plot(place, target, color="#00224e", label="1/(i + 1)")
ax.set_xlabel("position i")
ax.set_ylabel("reading of the probe")
ax.legend()
figure(fig, alt="The probe's reading against the position, after one random causal layer (the last "
       f"seed). Its median falls with the position from {middle[0]:.2f} to {middle[-1]:.2f}, less "
       f"steeply than 1/(i + 1), from {target[0]:.2f} to {target[-1]:.2f}, with a wide band.")
claim("From one random causal layer a linear probe reads part of the position (R², 5 seeds).",
      r2["causal mask"], above=0.25, source="compare the probes of Haviv et al. 2022", id=43)
claim("Its input does not, nor does the same layer without a mask (R², 5 seeds each).",
      r2["input"] + r2["no mask"], below=0.03, source="this cell", id=43)

# %% [markdown]
# The median falls as $1/(i + 1)$ does, less steeply; the wide band says that the reading of a single
# sentence is rough.
#
# Causal models without any encoding exist and learn positions (Haviv et al. 2022; Kazemnejad et al.
# 2023 prove that they can). "Transformers cannot distinguish word order" holds for those without an
# encoding *and* without a mask.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it: who did it?
#
# Enough of random parameters. A small language: "the X chases the Y", with X and Y two different
# nouns out of 20 (n0 … n19), and five verbs (v0 … v4). The model must name X, the one who did it. It
# has one layer of attention, and names the noun from the mean over the outputs.
#
# We train it without an encoding and with four. *Sinusoidal* and *learned* add a vector for the
# position to each token ([notebook 7](07-sinusoidal.ipynb),
# [notebook 8](08-putting-positions-in.ipynb)). *RoPE* rotates queries and keys by their position
# ([notebook 11](11-rope.ipynb)). *T5* adds to each score a trained number that depends on how far,
# and on which side, the key stands from the query ([notebook 10](10-relative-positions.ipynb)).

# %%
task = tasks.WhoChasedWhom()
ids, chaser, chased = task.batch(3, torch.Generator().manual_seed(0))
for sentence, subject in zip(ids.tolist(), chaser.tolist(), strict=True):
    words = [f"n{t}" if t < 20 else f"v{t - 20}" if t < 25 else "the" for t in sentence]
    print(" ".join(words), " → who did it?", f"n{subject}")

# %%
WIDTH = 32


class Reader(nn.Module):
    """Word vectors, layers of attention x <- x + attention(x), a read-out over the nouns."""

    def __init__(self, task, encoding, n_layers=1, causal=False, pooled=True):
        super().__init__()
        self.words = nn.Embedding(task.vocab_size, WIDTH)
        self.encoding = positions.make(encoding, d_model=WIDTH, n_heads=4, max_len=8)
        self.layers = nn.ModuleList(
            attnlab.MultiHeadAttention(WIDTH, 4, encoding=self.encoding) for _ in range(n_layers))
        self.name = nn.Linear(WIDTH, task.n_nouns)
        self.causal, self.pooled = causal, pooled

    def forward(self, ids):  # (batch, n)
        x = self.encoding.embed(self.words(ids), torch.arange(ids.shape[1]))  # (batch, n, WIDTH)
        for layer in self.layers:
            x = x + layer(x, causal=self.causal)
        # read the mean over all tokens, or the last token
        return self.name(x.mean(dim=1) if self.pooled else x[:, -1])  # (batch, nouns)


def train(task, encoding, seed, **options):
    """Share of 2,000 new sentences with the right noun; share with one of the two nouns."""
    torch.manual_seed(seed)
    model, generator = Reader(task, encoding, **options), torch.Generator().manual_seed(seed)

    def loss():
        ids, chaser, _ = task.batch(64, generator)
        return F.cross_entropy(model(ids), chaser)

    fit(model, loss, steps=200, lr=0.01)
    ids, chaser, chased = task.batch(2000, torch.Generator().manual_seed(99))
    with torch.no_grad():
        named = model(ids).argmax(dim=-1)
    right = named == chaser
    return right.float().mean().item(), (right | (named == chased)).float().mean().item()


SEEDS = range(5)

# %%
guess = predict(
    "Without an encoding and without a mask, read from the mean: in how many sentences does the "
    "trained model name the one who did it?",
    ["nearly all", "about three quarters", "about half", "about 1 in 20: it cannot know a thing"],
    id="06-training",
)
guess

# %%
encodings = ("none", "sinusoidal", "learned", "rope", "t5")
runs = {name: [train(task, name, seed) for seed in SEEDS]
        for name in progress(encodings, "encodings trained, 5 seeds each")}
right = {name: [r for r, _ in results] for name, results in runs.items()}
for name in encodings:
    print(f"{name:10} right: {'  '.join(f'{r:.3f}' for r in right[name])}   "
          f"one of the two nouns, worst seed: {min(pair for _, pair in runs[name]):.3f}")

# %%
mean_none = sum(right["none"]) / len(SEEDS)
guess.reveal(
    min(range(4), key=lambda i: abs((1.0, 0.75, 0.5, 0.05)[i] - mean_none)),
    "It learns to name one of the two nouns that are there. Which of them is a coin toss: the bag is "
    "the same for both answers.",
)

# %%
figure(
    plots.by_seed(right, "share right", "encoding; bidirectional, one layer, mean read-out"),
    alt="Share of sentences in which the model names the right noun, five seeds for each encoding. "
    f"Without an encoding {min(right['none']):.2f} to {max(right['none']):.2f}; sinusoidal, learned, "
    "RoPE and T5 all at 1.00.",
)
claim("Without an encoding who did it is a coin toss (share right, 5 seeds).", right["none"],
      between=(0.44, 0.56), source="this training", id=43)
claim("It does name one of the two nouns that are there (share, 5 seeds).",
      [pair for _, pair in runs["none"]], above=0.99, source="this training", id=44)
for name in encodings[1:]:
    claim(f"With {name}: solved (share right, 5 seeds).", right[name], above=0.97,
          source="this training", id=43)

# %% [markdown]
# This model needs an encoding to say *who did it*. To name *one of the two* it needs none: how much
# positions matter depends on the task.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Can the mask replace the encoding?
#
# Now causal, without an encoding. The sentence ends with a full stop, and the model answers at the
# full stop, as a language model answers at its last token. It sees the whole sentence.

# %%
guess = predict(
    "Causal mask, no encoding, read at the final '.'. Who learns to name the one who did it?",
    ["neither one layer nor two: there is no encoding", "two layers, but not one",
     "both: the mask breaks the symmetry"],
    id="06-depth",
)
guess

# %%
with_stop = tasks.WhoChasedWhom(stop=True)
by_depth = {
    depth: [train(with_stop, "none", seed, n_layers=depth, causal=True, pooled=False)[0]
            for seed in SEEDS]
    for depth in progress((1, 2), "depths trained, 5 seeds each")
}
for depth, values in by_depth.items():
    print(f"{depth} layer{'s' * (depth > 1)}: {'  '.join(f'{v:.3f}' for v in values)}")
solved = {depth: min(values) > 0.9 for depth, values in by_depth.items()}

# %%
guess.reveal(
    {(False, False): 0, (False, True): 1, (True, True): 2}[solved[1], solved[2]],
    "From the last token the mask hides nothing. With one layer its output is one query over all "
    "keys, and you have measured that shuffling K and V together changes nothing. With two layers "
    "the words have passed a masked layer before, in which each saw only those before it.",
)

# %%
claim("Causal, one layer, read at the final '.': a coin toss (share right, 5 seeds).", by_depth[1],
      between=(0.44, 0.56), source="this training", id=43)
claim("Causal, two layers: solved without any encoding (share right, 5 seeds).", by_depth[2],
      above=0.97, source="this training", id=43)
stopped = [s.lower() + " ." for s in chase[:2]]
last = {depth: largest(outputs(stopped[0], causal=True, depth=depth)[-1]
                       - outputs(stopped[1], causal=True, depth=depth)[-1]) for depth in (1, 2)}
claim("No training could help one layer: the final '.' has the same output for both sentences "
      "(difference; random parameters).", last[1], below=1e-12, source="this cell", id=1)
claim("After two layers it has not (difference; random parameters).", last[2], above=0.01,
      source="this cell", id=43)

# %% [markdown]
# **Where you read matters.** A single causal layer again, on the sentences without the full stop, but
# read at *all* tokens (the mean). The earlier noun is seen by more tokens than the later one, and that
# reaches the mean:

# %%
mean_of_one = [train(task, "none", seed, causal=True)[0] for seed in range(3)]
print("causal, one layer, mean read-out:", "  ".join(f"{v:.3f}" for v in mean_of_one))
claim("Causal, one layer, mean over all tokens: solved (share right, 3 seeds).", mean_of_one,
      above=0.97, source="this training", id=43)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Is distance enough?
#
# *ALiBi* (notebook 10) subtracts from each score a number proportional to the distance $|i-j|$
# between query $i$ and key $j$. We use it without a mask, and drop the articles of the language:
# "cats chase mice" and "mice chase cats".

# %%
guess = predict(
    "Bidirectional, with the bias -m·|i - j| (m > 0 a number for each head), mean read-out, 'cats "
    "chase mice': in how many sentences does the model name the one who did it?",
    ["about half", "about three quarters", "nearly all: each pair of words has its distance"],
    id="06-mirror",
)
guess

# %%
bare = tasks.WhoChasedWhom(articles=False)
mirror = {name: [train(bare, name, seed)[0] for seed in SEEDS]
          for name in progress(("alibi", "t5", "rope"), "encodings trained, 5 seeds each")}
for name, values in mirror.items():
    print(f"{name:6} {'  '.join(f'{v:.3f}' for v in values)}")

# %%
mean_alibi = sum(mirror["alibi"]) / len(SEEDS)
guess.reveal(
    min(range(3), key=lambda i: abs((0.5, 0.75, 1.0)[i] - mean_alibi)),
    "'mice chase cats' is 'cats chase mice' read backwards: every two words are as far apart as "
    "before, and distance does not know before from after. T5 and RoPE do, and are at 1.",
)

# %%
claim("Symmetric ALiBi with a mean read-out cannot tell a sentence from its mirror image (share "
      "right, 5 seeds).", mirror["alibi"], between=(0.44, 0.56), source="this training")
claim("T5 and RoPE can (share right, 5 seeds each).", mirror["t5"] + mirror["rope"], above=0.97,
      source="this training")
torch.manual_seed(0)
model = Reader(bare, "alibi", n_layers=2).double()
ids, _, _ = bare.batch(100, torch.Generator().manual_seed(0))
with torch.no_grad():
    difference = largest(model(ids) - model(ids.flip(1)))
claim("No training could help: a sentence and its mirror image give the same answers (difference, "
      "100 sentences, 2 layers, random parameters).", difference, below=1e-11, source="this cell")

# %% [markdown]
# This is about *mirrors*, not about order as such. With the articles, "the cat chased the mouse" read
# backwards is no sentence of the language, and exchanging the nouns changes distances:

# %%
with_articles = [train(task, "alibi", seed)[0] for seed in range(3)]
print("alibi with articles:", "  ".join(f"{v:.3f}" for v in with_articles))
claim("With articles, symmetric ALiBi does better than a coin (share right, 3 seeds).",
      with_articles, above=0.55, source="this training")

# %% [markdown]
# ALiBi was made for causal models, where the mask gives the side. Symmetric use is what needs care.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: mask, mirror, depth
#
# The explorer again, now with the **causal mask** among its controls. It begins with a reversed
# sentence and ALiBi.
#
# 1. The line *same word* is 0 although an encoding is at work. Try t5 and rope. Then type `the cats
#    chase the mice` and press *Reverse*, with alibi: still 0? And if you only swap the two nouns?
# 2. Encoding none, **causal mask** on. Swap two words. Which words keep their output? Look at what
#    stands before each.
# 3. The same with a sentence that ends in a full stop. Move the other words and leave the stop at the
#    end: with 1 **layer** its output stays, with 2 it does not. The mean changes with both.
# 4. Causal mask, **real model**, encoding none, 6 layers: does it tell the orders apart now?

# %%
ShuffleExplorer(
    "cats chase mice", order=[2, 1, 0], encoding="alibi", model=encoder,
    controls=("text", "source", "encoding", "causal", "n_layers"),
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What does a solution need?
#
# A common list of requirements: (1) every position has a code of its own; (2) distances can be read
# off; (3) it works for longer texts than those of training; (4) it costs little. Is (1) necessary? If
# the output depended on which position each token has, it would change when all tokens move 100
# places on (`pos + 100`).

# %%
torch.manual_seed(0)
tokens = torch.randn(1, 6, WIDTH, dtype=torch.float64)  # (batch, n, d_model)
moved, changes_input = {}, {}
for name in ("sinusoidal", "learned", "rope", "t5", "alibi"):
    encoding = positions.make(name, d_model=WIDTH, n_heads=4)
    layer = attnlab.MultiHeadAttention(WIDTH, 4, encoding=encoding).double()
    with torch.no_grad():
        here, there = (
            layer(encoding.embed(tokens, pos), pos=pos)
            for pos in (torch.arange(6), torch.arange(6) + 100)
        )
        moved[name] = largest(there - here)
        changes_input[name] = largest(encoding.embed(tokens, torch.arange(6)) - tokens)
    print(f"{name:10} output changes by {moved[name]:.0e} when all move by 100; "
          f"input changed by {changes_input[name]:.1f}")

# %%
claim("With RoPE, T5 and ALiBi moving all tokens by 100 changes nothing (change of the output).",
      [moved[n] for n in ("rope", "t5", "alibi")], below=1e-9,
      source="Su et al. 2021; Raffel et al. 2020; Press et al. 2022", id=47)
claim("With a sinusoidal or a learned encoding it does (change of the output).",
      [moved[n] for n in ("sinusoidal", "learned")], above=0.01, source="this cell", id=47)
claim("'Add a vector to each word' is one way among others: RoPE, T5 and ALiBi leave the input "
      "as it is (change).", [changes_input[n] for n in ("rope", "t5", "alibi")], equals=0.0,
      source="this cell", id=48)

# %% [markdown]
# So the list is a wish list, and each wish is contested:
#
# | wish | what speaks against calling it a requirement |
# |---|---|
# | a code for each position | with RoPE, T5 and ALiBi the output does not depend on it (measured above), and RoPE and T5 solved "who did it?"; so did two causal layers with no encoding at all |
# | distances can be read off | symmetric ALiBi has distances and fails on mirrors; the side matters, too |
# | works for longer texts | a property to be measured, not built in by a formula: Press et al. 2022 show encodings that break off just past the training length; Kazemnejad et al. 2023 find causal models *without* encoding ahead on several tasks. [Notebook 12](12-beyond-training-length.ipynb) measures it |
# | cheap | a price is weighed against what it buys: Shaw's relative vectors cost more than a table of sinusoids (notebook 10) |
#
# What is *needed* can be said in one sentence: **something must break the symmetry between those
# orders that the task tells apart.** It can enter at five places:
#
# | place | what does it | notebook |
# |---|---|---|
# | the input | sinusoidal, learned: a vector added to each token | [7](07-sinusoidal.ipynb), [8](08-putting-positions-in.ipynb) |
# | queries and keys | RoPE: rotated by the position | [11](11-rope.ipynb) |
# | the scores | ALiBi: a bias by distance; T5: by distance and side; Shaw: a trained vector for each offset, added to the keys | [10](10-relative-positions.ipynb) |
# | the mask | causal attention: each token sees another set | this one |
# | the read-out | a read-out that treats places differently | exercise 6.4 |

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 6.1: the same to a bag &nbsp; (●○○, 5 minutes)
#
# `first` and `second` are sentences, as lists of words. The model reads lower case, has no positions
# and no mask, and only the mean over its outputs is seen. Return True if it *cannot* tell the two
# apart.

# %% tags=["exercise"]
def same_to_a_bag(first, second):
    """Two lists of words -> True if a pooled bidirectional model without positions confuses them."""
    # BEGIN SOLUTION
    return sorted(w.lower() for w in first) == sorted(w.lower() for w in second)
    # END SOLUTION


# %%
check("6.1", same_to_a_bag)

# %% [markdown] tags=["hint"]
# How often a word occurs matters: "the dog saw the cat" has two "the".

# %% [markdown] tags=["hint"]
# Two lists are the same bag if they are equal once sorted. Mind the capitals.

# %% [markdown]
# ### Exercise 6.2: a test for equivariance &nbsp; (●○○, 8 minutes)
#
# `f` maps `(n, d)` to `(n, d)`, `x` is `(n, d)`, `order` is a permutation of the rows as a list of
# indices. Return how far $f$ is from equivariance: the largest absolute difference between the two
# sides of $f(PX) = P f(X)$.

# %% tags=["exercise"]
def equivariance_gap(f, x, order):
    """Largest entry of |f(PX) - P f(X)|; 0 for an equivariant f."""
    # BEGIN SOLUTION
    return (f(x[order]) - f(x)[order]).abs().max()
    # END SOLUTION


# %%
check("6.2", equivariance_gap)

# %% [markdown] tags=["hint"]
# Two calls of `f`. In one the rows are shuffled before it, in the other after it.

# %% [markdown] tags=["hint"]
# `x[order]` is $PX$. `x[order.argsort()]` would be $P^\top X$, the way back.

# %% [markdown]
# ### Exercise 6.3: how many orders? &nbsp; (●●○, 5 minutes)
#
# Six different tokens, **one** causal layer, no encoding. In how many of the 720 orders has the
# *last* place the same output as in the original order? (Count the original order, too.)

# %% tags=["exercise"]
# BEGIN SOLUTION
# BLANK: orders = ...  # a whole number
orders = 5 * 4 * 3 * 2 * 1
# END SOLUTION

# %%
check("6.3", orders)

# %% [markdown] tags=["hint"]
# The last token sees all six. What may happen to the keys and values without its noticing, and what
# to the query?

# %% [markdown] tags=["hint"]
# You can count: `attention(...)` above, `itertools.permutations(range(6))`, and compare row `-1`.

# %% [markdown]
# ### Exercise 6.4: order at the read-out &nbsp; (●●○, 10 minutes)
#
# The outputs of a model without positions, `(n, d)`, come in the order of the tokens. The mean throws
# this order away. Write another read-out, from `(n, d)` to a vector of `d` numbers, that sees the
# order of the rows: for random rows, swapping any two of them must change the result. It must be
# **linear** in the outputs (no squares, no constant added), and work for each $n$ from 2 to 8.

# %% tags=["exercise"]
def ordered_read_out(outputs):
    """(n, d) -> (d,), linear in outputs; swapping two rows changes the result."""
    # BEGIN SOLUTION
    place = torch.arange(1, len(outputs) + 1, dtype=outputs.dtype)
    return place @ outputs / place.sum()
    # END SOLUTION


# %%
check("6.4", ordered_read_out)

# %% [markdown] tags=["hint"]
# The mean multiplies each row by the same number, $1/n$. What if each place had a number of its own?

# %% [markdown] tags=["hint"]
# If two places share their number, swapping the rows at these two places changes nothing. "First row
# minus last row" gives all places between them the number 0.

# %% [markdown]
# ### Exercise 6.5: count with a mask &nbsp; (●●●, 12 minutes)
#
# Far from the start the outputs $1/(i+1)$ of the head built above lie close together. They lie further
# apart there if the first token counts as *four* tokens: then token $i$ averages over $i + 4$, four of
# which have the value 1, and its output is $4/(i+4)$. Build this head. Return queries, keys and values,
# `(n, d)`, `(n, d)` and `(n, 1)`, with a `d` of your choice, for each $n$ from 2 to 64. The first token
# may be special (a start mark); **all others must be alike**, so that nothing but the mask can tell
# them apart.

# %% tags=["exercise"]
def count_with_a_mask(n):
    """q (n, d), k (n, d), v (n, 1); rows 1 ... n - 1 are equal in each; output i is 4/(i + 4)."""
    # BEGIN SOLUTION
    k, v = torch.zeros(n, 1), torch.zeros(n, 1)
    k[0] = torch.tensor(4.0).log()
    v[0] = 1.0
    return torch.ones(n, 1), k, v
    # END SOLUTION


# %%
check("6.5", count_with_a_mask)

# %% [markdown] tags=["hint"]
# The first token must get four times the weight of each other one. Which difference of two scores does
# that, if a weight is proportional to $e^{\text{score}}$?

# %% [markdown] tags=["hint"]
# $e^{\ln 4} = 4$. Attention divides $q \cdot k$ by $\sqrt{d}$; with `d = 1` that changes nothing.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | what | result |
# |---|---|
# | $Q, K, V$ shuffled alike | output shuffled alike: **equivariant** |
# | $K, V$ shuffled alike | output unchanged |
# | stack of layers, no positions, then mean or maximum | **invariant**: a bag of tokens |
# | "cat" as subject or object, no positions, no mask | one and the same vector |
# | causal mask | symmetry gone (1 of 120 orders left); a layer can count |
# | "who did it?", bidirectional | none: a coin toss; sinusoidal, learned, RoPE, T5: 1.00 |
# | the same, causal, no encoding, read at the end | one layer: a coin toss; two layers: 1.00 |
# | symmetric distances, mean read-out | blind to mirror images |
#
# ### Questions
#
# *How sensitive are different tasks to the choice of positional encoding scheme?* (Review question
# 15 of the course, begun here, continued in [notebook 8](08-putting-positions-in.ipynb).) Naming
# one of the two nouns needs none: it was done without an encoding. "Who did it?" needs something
# that breaks the symmetry, and all four encodings did. "cats chase mice" needs more than distances,
# if the mean is read.
#
# *Why does it matter whether one says invariant or equivariant?* An invariant layer would forget which
# output belongs to which word. Attention does not: it only forgets where the word stood.
#
# *Does a causal model need a positional encoding?* Not for "who did it?": two layers are enough if only
# the last token is read, and one if all are. Whether it is better with one is another question,
# which a training must answer.
#
# ### Common misconceptions
#
# - "Attention is permutation invariant": the formula says equivariant. Exercise 6.2 measures it.
# - "Without positions a transformer cannot know the order": true without a mask, if the mean is read;
#   two causal layers can.
# - "All positions look the same": equal tokens do.
# - "A relative encoding knows before from after": symmetric ALiBi does not.
#
# ### Further reading
#
# - Vaswani et al. 2017, *Attention Is All You Need*: section 3.5.
# - Lee et al. 2019, *Set Transformer*: section 3, for equivariance as a feature.
# - Yun et al. 2020, *Are Transformers Universal Approximators of Sequence-to-Sequence
#   Functions?*: on permutation equivariance.
# - Haviv et al. 2022, *Transformer Language Models without Positional Encodings Still Learn Positional
#   Information*: the probing experiments and the conjecture about predecessors.
# - Kazemnejad et al. 2023, *The Impact of Positional Encoding on Length Generalization*: Theorem 1.
#
# **Next:** [notebook 7](07-sinusoidal.ipynb): waves. Back to [the start](00-start-here.ipynb).
