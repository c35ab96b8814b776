# %% [markdown] slideshow={"slide_type": "slide"}
# # 8. Putting positions in
#
# **There is a vector for every word and a vector for every position. How do they come together, and
# does one of them get lost?**
#
# When you have worked through this notebook you can
#
# - use a learned table of positions, say which of its rows are trained, and stretch it;
# - show that adding is a special case of concatenating, and count what concatenating costs;
# - tell when positions drown in the words, or words in the positions, by comparing energies;
# - say what learned factors α, β and λ can change, and what they cannot;
# - compare the ways by measurement instead of by reputation.
#
# *You need:* [notebook 2](02-many-heads.ipynb), and from [notebook 7](07-sinusoidal.ipynb) the
# sinusoidal table. *To study:* 75 minutes. *To lecture:* 40 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import attnlab
from attnlab import cost, decompose, plots, positions, tasks
from attnlab.exercises import check
from attnlab.explorers import MixingExplorer
from attnlab.models import Encoder, EncoderConfig
from attnlab.pretrained import load_encoder
from attnlab.teach import claim, figure, predict, progress
from attnlab.train import fit

torch.manual_seed(0);

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A learned table
#
# The sinusoidal table is computed. The other simple way is to **learn** it: a matrix of parameters
# $E$ of shape $(L, d)$, a row for each of $L$ positions, $d = d_{model}$ numbers in a row. The
# vector of position $pos$ is that row:
#
# $$PE_{pos} = E[pos] \qquad (d)$$
#
# (Some texts write $PE = \mathrm{Embedding}(pos) \in \mathbb R^{L\times d}$. The table has that
# shape; a position gets one row of it.) The rows start as random numbers and are trained like any
# other parameters. We give the table $L = 512$ rows, train on sentences of 64 tokens, and look at the
# gradient of one step.

# %%
guess = predict(
    "512 rows, sentences of 64 tokens. How many rows get a gradient?",
    ["64", "512", "one for each different word"],
    id="08-rows",
)
guess

# %%
table = positions.Learned(max_len=512, d_model=64)
attention = attnlab.MultiHeadAttention(64, 4)
x = torch.randn(8, 64, 64)  # (batch, tokens, d): word vectors of 8 sentences
y = attention(table.embed(x, torch.arange(64)))  # adds row 0 to token 0, row 1 to token 1, ...
y.square().mean().backward()
with_gradient = (table.weight.grad.abs().sum(dim=-1) > 0).sum().item()
print("shape of the table:", tuple(table.weight.shape), "- of one row:", tuple(table.weight[3].shape))
print("rows with a gradient:", with_gradient)

# %%
guess.reveal(
    {64: 0, 512: 1}.get(with_gradient, 2),
    "A row is reached only by a token that stands there. Rows 64 to 511 stay the random numbers that "
    "they were.",
)

# %%
claim("The vector of a position is one row of d numbers.",
      (table.weight.shape, table.weight[3].shape), equals=((512, 64), (64,)),
      source="this cell; Gehring et al. 2017, section 3.1", id=60)
claim("Only the rows of positions that occur in training get a gradient.", with_gradient, equals=64,
      source="autograd", id=61)
try:
    table.table(torch.tensor([512]))
    beyond = "a row"
except ValueError as error:
    beyond = "ValueError"
    print("position 512:", error)
claim("A row L does not exist.", beyond, equals="ValueError", source="attnlab", id=61)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Stretching
#
# So a learned table ends. But it can be **stretched**: read it at $pos/s$ instead of $pos$, with
# $s > 1$. Between two rows, take a share of each (linear interpolation). With $s = 2$, position 3 lies
# in the middle of rows 1 and 2, and a table of 512 rows serves positions up to 1022.

# %%
stretched = positions.Learned(512, 64, stretch=2.0)
stretched.weight = table.weight  # the same numbers, read at half the speed
row = stretched.table(torch.tensor([3, 4, 1022]))  # (3 positions, 64)
expected = torch.stack([(table.weight[1] + table.weight[2]) / 2, table.weight[2], table.weight[511]])
claim("At stretch 2, positions 3, 4 and 1022 are half of rows 1 and 2, row 2 and row 511 "
      "(largest difference).", (row - expected).abs().max(), below=1e-6,
      source="Dosovitskiy et al. 2021, section 3.2 (for images)", id=61)

# %% [markdown]
# "Cannot go beyond its length" is therefore too strong. The interpolated vectors exist. Whether a
# trained model can use them is a question for [notebook 12](12-beyond-training-length.ipynb), where
# lengths are measured.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### What it costs
#
# $L \times d$ parameters. Take BERT-base: 12 layers, $d = 768$, $L = 512$, and 30,522 rows for words.

# %%
guess = predict(
    "Which share of BERT-base's parameters is its table of positions?",
    ["0.4 %", "4 %", "12 %", "25 %"],
    id="08-share",
)
guess

# %%
with torch.device("meta"):  # shapes without numbers
    bert = Encoder(EncoderConfig(n_layers=12, d_model=768, n_heads=12, d_ff=3072, max_len=512))
bert_total = sum(p.numel() for p in bert.parameters())
bert_share = 512 * 768 / bert_total
# GPT-2: 50,257 words, L = 1024, 12 layers of 12·d² + 13·d parameters, 2·d at the end
gpt2_total = 50_257 * 768 + 1024 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
gpt2_share = 1024 * 768 / gpt2_total
print(f"BERT-base: {512 * 768:,} of {bert_total:,} = {bert_share:.2%}")
print(f"GPT-2:     {1024 * 768:,} of {gpt2_total:,} = {gpt2_share:.2%}")

# %%
guess.reveal(
    min(range(4), key=lambda i: abs(math.log(bert_share / (0.004, 0.04, 0.12, 0.25)[i]))),
    "512 rows against 30,522 for words, and the layers are larger still.",
)

# %%
claim("The position table is 0.36 % of BERT-base.", bert_share, expect=0.0036, atol=0.00005,
      source="sizes from Devlin et al. 2019, counted on attnlab's encoder", id=62)
claim("And 0.63 % of GPT-2.", gpt2_share, expect=0.0063, atol=0.00005,
      source="sizes from Radford et al. 2019", id=62)

# %% [markdown]
# "More parameters" is true and hardly matters. "More flexible" and "may overfit" are said as often;
# Vaswani et al. (Table 3, row E) trained both and report 25.7 BLEU with a
# learned table, 25.8 with the sinusoidal one. Our own comparison is at the end of this notebook.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Add or concatenate
#
# $X$ holds the word vectors of a sentence, shape $(n, d)$; $P$ the vectors of its $n$ positions, shape
# $(n, d_{pe})$. Their rows are $x_i$ and $p_i$ (notebook 7 wrote $PE_i$ for $p_i$). Two ways to
# bring them together:
#
# - **add**, if $d_{pe} = d$: $\;X + P$, shape $(n, d)$;
# - **concatenate**: $\;[X\ \ P]$, side by side, shape $(n, d + d_{pe})$.
#
# The first thing a layer does is to multiply by a matrix $W$. For the concatenation $W$ has
# $d + d_{pe}$ rows: the first $d$, call them $W_x$, meet the words, the others, $W_p$, the positions:
#
# $$[X\ \ P]\begin{bmatrix}W_x\\W_p\end{bmatrix} = X W_x + P W_p
# \qquad\text{against}\qquad (X + P)\,W = XW + PW$$

# %%
generator = torch.Generator().manual_seed(0)
n, d, d_k = 20, 16, 8
words = torch.randn(n, d, generator=generator, dtype=torch.float64)  # (20 tokens, 16)
places = positions.Sinusoidal(d).table(torch.arange(n), torch.float64)  # (20 tokens, 16)
w_x, w_p = torch.randn(2, d, d_k, generator=generator, dtype=torch.float64)  # (16, 8) each
joined = torch.cat([words, places], dim=-1) @ torch.cat([w_x, w_p])  # (20, 32) times (32, 8)
claim("Projecting [X P] is projecting both and adding (largest difference).",
      (joined - (words @ w_x + places @ w_p)).abs().max(), below=1e-12, source="block matrices",
      id=79)
tied = torch.cat([words, places], dim=-1) @ torch.cat([w_x, w_x])
claim("With W_x = W_p it is addition (largest difference).",
      (tied - (words + places) @ w_x).abs().max(), below=1e-12, source="block matrices", id=79)

# %% [markdown]
# **Addition is concatenation with one matrix for both.** What concatenating adds is freedom: positions
# get projections of their own.
#
# Now the scores. With "query first", four kinds of products are possible: content–content,
# content–position, position–content and position–position. Two of them multiply a word with a position.

# %%
guess = predict(
    "Concatenation keeps words and positions in features of their own. Which of the four products are "
    "left in the scores?",
    ["two: content–content and position–position", "all four", "only content–content"],
    id="08-cross",
)
guess

# %% [markdown]
# Write it out: $q_i = x_i W^Q_x + p_i W^Q_p$, and $k_j$ likewise. Multiply, and measure each product.

# %%
w_q, w_k = torch.randn(2, 2 * d, d_k, generator=generator, dtype=torch.float64)  # (32, 8) each
content = torch.cat([words, torch.zeros_like(places)], dim=-1)  # [X 0]
position = torch.cat([torch.zeros_like(words), places], dim=-1)  # [0 P]
terms = decompose.four_terms(content @ w_q, position @ w_q, content @ w_k, position @ w_k)
scores = (content + position) @ w_q @ ((content + position) @ w_k).T / math.sqrt(d_k)
spread = terms.std(dim=(-2, -1)) / scores.std()  # (4 terms)
for name, s in zip(decompose.TERMS, spread, strict=True):
    print(f"{name:18} standard deviation {s:.2f} of that of the scores")

# %%
left = (spread > 0.05).tolist()
guess.reveal(
    {(True, False, False, True): 0, (True,) * 4: 1, (True, False, False, False): 2}[tuple(left)],
    "W_Q and W_K mix all features of a token into one query and one key. To be rid of the mixed "
    "products a model must learn matrices that avoid them.",
)

# %%
claim("The four terms add up to the scores (largest difference).",
      (terms.sum(0) - scores).abs().max(), below=1e-12, source="attnlab.decompose", id=79)
mixed = [content @ w_q @ (position @ w_k).T, position @ w_q @ (content @ w_k).T]
claim("The two terms in the middle are content–position and position–content (largest difference).",
      (terms[1:3] - torch.stack(mixed) / math.sqrt(d_k)).abs().max(), below=1e-12,
      source="attnlab.decompose", id=79)
claim("Word-position products remain after concatenation (standard deviation of the two mixed terms, "
      "against the scores').", spread[1:3], above=0.05, source="this cell", id=79)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The price of width

# %%
guess = predict(
    "d_pe = d, and the model stays 2d wide from then on. Its attention parameters, against the model "
    "of width d, are …",
    ["the same", "2 times as many", "4 times as many", "8 times as many"],
    id="08-width",
)
guess

# %%
d = 512
ratio = cost.attention_parameters(2 * d, 8) / cost.attention_parameters(d, 8)
narrow = cost.attention_parameters(d + d // 8, 8) / cost.attention_parameters(d, 8)
print(f"d_pe = d: {ratio:.2f} times; d_pe = d/8: {narrow:.2f} times")

# %%
guess.reveal(
    {1.0: 0, 2.0: 1, 4.0: 2, 8.0: 3}[ratio],
    "Four matrices of width × width: twice the width, four times the parameters.",
)

# %%
claim("Concatenating d_pe = d features and keeping the width makes 4 times the attention parameters.",
      ratio, equals=4.0, source="attnlab.cost", id=79)
claim("With d_pe = d/8 it is 1.27 times.", narrow, expect=1.27, atol=0.005, source="attnlab.cost",
      id=79)

# %% [markdown]
# "Doubles the dimension" is a choice, then: the table may be narrower than the words. (In the real
# model below, 20 of 384 directions hold nearly all of the positions.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Does the position get lost in the sum?
#
# It is often said that addition "may lose position information". Test it in a narrow model. There are
# 1,000 word vectors of random numbers, mean 0 and variance 1, and 512 rows of the sinusoidal table, all
# with only $d = 16$ numbers. We add one of the words and one of the rows, and hand over the sum.

# %%
guess = predict(
    "Given the 16 numbers of a sum, how often can one find out both which word and which position "
    "went in?",
    ["hardly ever: a sum cannot be undone", "in about half of the cases", "practically always"],
    id="08-undo",
)
guess

# %%
def draw_sums(d, std, n_sums, seed=0):
    """1,000 words (variance std²), 512 rows, and sums of random pairs with the answers."""
    generator = torch.Generator().manual_seed(seed)
    words = std * torch.randn(1000, d, generator=generator)  # (1000, d)
    rows = positions.Sinusoidal(d).table(torch.arange(512))  # (512, d)
    word = torch.randint(0, 1000, (n_sums,), generator=generator)
    place = torch.randint(0, 512, (n_sums,), generator=generator)
    return words, rows, word, place, words[word] + rows[place]


words, rows, word, place, sums = draw_sums(d=16, std=1.0, n_sums=200)
pairs = (words[:, None] + rows).flatten(0, 1)  # all 512,000 sums, (512000, 16)
half = pairs.square().sum(-1) / 2  # |pair - s|² = 2 (half - pair·s) + |s|²
best = torch.stack([(half - pairs @ s).argmin() for s in sums])  # (200,) the nearest pair of each
both = ((best // 512 == word) & (best % 512 == place)).float().mean().item()
print(f"word and position both right: {both:.1%}")

# %%
guess.reveal(
    0 if both < 0.1 else 1 if both < 0.9 else 2,
    "Of 512,000 pairs, the nearest one is the pair that went in. Nothing was lost in these sums.",
)

# %%
claim("From the sum of a word and a sinusoidal row both can be recovered, even at d = 16 "
      "(share of 200 sums).", both, above=0.99, source="this cell", id=78)

# %% [markdown] slideshow={"slide_type": "subslide"}
# We searched all pairs. A layer cannot do that; its first step is linear. So ask what a simple **linear
# filter** finds: for each row $p_i$ of the table one number, $s\cdot p_i - |p_i|^2/2$ for the sum
# $s$. The row with the largest number is the row nearest to $s$; the word inside $s$ is noise to
# it. The same can be done for words. And since the fresh word vectors of real models are small, we
# try two sizes: standard deviation 1, and 0.02, which is how BERT and GPT-2 begin.

# %%
def filter_accuracy(d, std, seed=0):
    """Share of sums for which the linear filters find the place, and the word."""
    words, rows, word, place, sums = draw_sums(d, std, n_sums=1000, seed=seed)
    found = [(sums @ t.T - t.square().sum(-1) / 2).argmax(-1) for t in (rows, words)]
    return [(f == true).float().mean().item() for f, true in zip(found, (place, word), strict=True)]


sizes = (16, 32, 64, 128, 256, 512)
accuracy = {std: [filter_accuracy(d, std) for d in sizes] for std in (1.0, 0.02)}
for std, pairs_ in accuracy.items():
    print(f"words of standard deviation {std}:")
    for d, (p, w) in zip(sizes, pairs_, strict=True):
        print(f"  d = {d:3}: position found {p:6.1%}, word found {w:6.1%}")
fig, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
looks = {1.0: ("#00224e", "1"), 0.02: ("#b8860b", "0.02")}
for std, (colour, name) in looks.items():
    for i, (what, dash) in enumerate((("position", "o-"), ("word", "s--"))):
        ax.plot(sizes, [a[i] for a in accuracy[std]], dash, color=colour,
                label=f"{what}, words of std {name}")
ax.set_xscale("log", base=2)
ax.set_xticks(sizes, sizes)
ax.set_xlabel("d (features)")
ax.set_ylabel("share found by a linear filter")
ax.set_ylim(-0.03, 1.05)
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
figure(
    fig,
    alt="Share found by linear filters against d from 16 to 512. With words of standard deviation 1 "
    "both curves rise, that of positions more slowly, from about 0.1 to 0.9. With 0.02 positions are "
    "always found and words almost never.",
)

# %%
claim("Words of variance 1: the linear filter misses most positions at d = 16 (share found).",
      accuracy[1.0][0][0], below=0.25, source="this cell", id=78)
claim("And finds most of them at d = 512 (share found).", accuracy[1.0][-1][0], above=0.8,
      source="this cell", id=78)
claim("Words of standard deviation 0.02: every position is found, at all six sizes.",
      [p for p, _ in accuracy[0.02]], above=0.99, source="this cell", id=78)
claim("And hardly any word (share found, six sizes).", [w for _, w in accuracy[0.02]], below=0.05,
      source="this cell", id=78)

# %% [markdown]
# When the word vectors are small, it is the **words** that this filter loses. They are still there: a
# filter that leaves out the directions in which the positions are large finds them again.

# %%
words, rows, word, place, sums = draw_sums(d=512, std=0.02, n_sums=1000)
quiet_directions = torch.linalg.svd(rows).Vh[256:].T  # (512, 256): the rows are smallest there
s, t = sums @ quiet_directions, words @ quiet_directions
heard = ((s @ t.T - t.square().sum(-1) / 2).argmax(-1) == word).float().mean()
claim("Looking only at the 256 of 512 directions in which positions are smallest, a linear filter finds "
      "the words of standard deviation 0.02 (share found).", heard, above=0.95, source="this cell",
      id=78)

# %% [markdown]
# Such a filter has to be learned first. Until then the question is one of scale. To compare scales we
# use the *energy* of a vector: the sum of the squares of its entries.

# %%
guess = predict(
    "Fresh word vectors with entries N(0, 0.02²); a row of the sinusoidal table is added. The energy "
    "of the row is how many times the energy of the word vector?",
    ["about 1", "about 10", "about 100", "about 1,000"],
    id="08-energy",
)
guess

# %%
d = 512
generator = torch.Generator().manual_seed(1)
row_energy = positions.Sinusoidal(d).table(torch.arange(512)).square().sum(-1)  # (512 positions)
small = 0.02 * torch.randn(1000, d, generator=generator)
scaled = torch.randn(1000, d, generator=generator) / math.sqrt(d) * math.sqrt(d)
learned = 0.02 * torch.randn(512, d, generator=generator)  # BERT: its table begins at 0.02 too
word_energy = small.square().sum(-1).mean()
times = (row_energy.mean() / word_energy).item()
vaswani = (row_energy.mean() / scaled.square().sum(-1).mean()).item()
both_learned = (learned.square().sum(-1).mean() / word_energy).item()
print(f"energy of every sinusoidal row: {row_energy.min():.1f} to {row_energy.max():.1f} (d/2 = {d / 2:g})")
print(f"sinusoidal row / word with entries N(0, 0.02²):           {times:.0f}")
print(f"sinusoidal row / word with entries N(0, 1/d), times √d:   {vaswani:.2f}")
print(f"learned row / word, both N(0, 0.02²):                     {both_learned:.2f}")

# %%
guess.reveal(
    min(range(4), key=lambda i: abs(math.log10(times) - i)),
    "Each pair has sin² + cos² = 1, so a row has energy d/2; the word has 0.0004·d. Their ratio is "
    "1,250, whatever d.",
)

# %%
claim("Added to words of standard deviation 0.02, a sinusoidal row has 1250 times their energy.",
      times, expect=1250, rtol=0.03, source="this cell", id=78)
claim("With word vectors of variance 1/d times √d, as in the original Transformer, 0.5 times.",
      vaswani, expect=0.5, rtol=0.03,
      source="Vaswani et al. 2017, section 3.4 for √d; 1/d from the authors' code", id=78)

# %% [markdown]
# So with the factor $\sqrt{d_{model}}$ of the original Transformer, which many texts leave out, its
# words begin with twice the energy of the sines. BERT and GPT-2 do it the other way: their tables are
# learned and begin no larger than their words.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: who is heard?
#
# A small random model reads your text. Left, the weights of one head. Right, what its scores are made
# of: the share of each of the four products in the variance of the scores, after taking off what is
# the same for all keys of a query, since the softmax does not see it.
#
# 1. Pull **word scale** down to 0.02. Which share takes over? What has become of the two rows of "cat"
#    in the picture? Then push it up to 8 and compare these rows again.
# 2. Choose **mix** and set β to 0: which shares are left?
# 3. Choose **concatenate** and move **d_pe**. Do the two mixed products go away? Does the energy of
#    the positions follow d_pe?
# 4. Go to **layer** 3 with **add**, and then with **at every layer**. How large are the positions'
#    shares, though the table was added once only?
# 5. Exchange the sinusoidal **positions** for learned ones, untrained. They have about the same
#    energy. Why do their shares differ? (Compare row 0 with row 1 in either table.)

# %%
MixingExplorer()

# %% [markdown]
# In a deeper layer words and positions have passed through attention, and are mixed. They can still be
# told apart: with the weights (and the divisors of LayerNorm, explained below) as they came out, all
# else is linear, so the part that stems from the words and the part that stems from the positions can
# be followed side by side. [Notebook 9](09-four-terms.ipynb) takes this decomposition up. (A share may be a little above 100 %
# when another one is below 0. And the answer to 5: neighbouring sinusoidal rows are much alike, and
# most of a row is the same at all positions of a short text, which the softmax does not see. Random
# rows differ in everything.)

# %%
quiet, even, loud = (MixingExplorer(scale=s) for s in (0.02, 1.0, 8.0))
for explorer in (quiet, even, loud):
    shares = ", ".join(f"{round(100 * s)} %" for s in explorer.shares.tolist())
    print(f"word scale {explorer.scale:g}: shares {shares}")
cats = [(e.weights[1] - e.weights[10]).abs().max().item() for e in (quiet, loud)]
print(f"largest difference of the rows of the two cats: {cats[0]:.2f} at 0.02, {cats[1]:.2f} at 8")
claim("Word scale 0.02: position–position holds nearly all of the variance.", quiet.shares[3],
      above=0.95, source="the explorer's model", id=78)
claim("Word scale 8: content–content does.", loud.shares[0], above=0.95,
      source="the explorer's model", id=78)
varying = []
for encoding in (positions.Sinusoidal(64), positions.Learned(11, 64)):
    rows = encoding.table(torch.arange(11)).detach()  # (11 positions, 64)
    varying.append((rows - rows.mean(0)).square().sum().item() / rows.square().sum().item())
print(f"share of the energy that varies over 11 positions: sinusoidal {varying[0]:.2f}, "
      f"learned, untrained {varying[1]:.2f}")
claim("Over 11 positions most of the sinusoidal table stays the same (share of energy that varies).",
      varying[0], below=0.3, source="this cell", id=78)
claim("Of an untrained learned table nearly all varies (share of energy).", varying[1], above=0.8,
      source="this cell", id=78)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A real model: different directions
#
# all-MiniLM-L6-v2 adds a learned table, $512 \times 384$, to its word vectors. Do they get into each
# other's way? Vectors of 384 numbers can vary in 384 directions. Take the 20 directions in which the
# rows of the position table vary most (its *principal components*): they hold nearly all of the
# variance of the positions.

# %%
real = load_encoder()
print(real.note)
missing = "the parameters are random: nothing was learned" if real.is_random else ""
guess = predict(
    "Which share of the variance of the word vectors lies in these 20 directions?",
    ["nearly all of it: 98 %", "as in any 20 of 384 directions: 5 %", "less: 2 %"],
    id="08-directions",
)
guess

# %%
rows = real.model.encoding.weight.detach()  # (512 positions, 384)
words = real.model.token_embedding.weight.detach()  # (30522 words, 384)


def share_in(directions, vectors):
    """Share of the variance of `vectors` that lies in these orthonormal directions (k, 384)."""
    centred = vectors - vectors.mean(0)
    return ((centred @ directions.T).square().sum() / centred.square().sum()).item()


top = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:20]  # (20, 384)
of_positions, of_words = share_in(top, rows), share_in(top, words)
print(f"20 of 384 directions: {20 / 384:.1%} if all were alike")
print(f"variance of the positions in them: {of_positions:.1%}; of the words: {of_words:.1%}")

# %%
guess.reveal(
    min(range(3), key=lambda i: abs(math.log(of_words / (0.98, 0.052, 0.02)[i]))),
    missing or "Words vary less there than in 20 directions taken at random. Where words and positions "
    "lie in different directions, their sum is nearly as good as a concatenation.",
)

# %%
claim("The 20 leading directions hold nearly all variance of the position table.", of_positions,
      above=0.95, source="all-MiniLM-L6-v2", id=78, skip=missing)
claim("They hold less than half of the 5.2 % of word variance that 20 directions hold on average.",
      of_words, below=0.026, source="all-MiniLM-L6-v2", id=78, skip=missing)
generator = torch.Generator().manual_seed(0)
word = torch.randint(1000, len(words), (1000,), generator=generator)
place = torch.randint(0, 512, (1000,), generator=generator)
sums = words[word] + rows[place] - words.mean(0)
nearest = torch.cdist(sums @ top.T, rows @ top.T).argmin(-1)  # looking at 20 numbers only
found = (nearest == place).float().mean().item()
claim("From the sums of 1,000 random words and rows, these 20 numbers alone tell the position "
      "(share right, of 512 positions).", found, above=0.95, source="all-MiniLM-L6-v2", id=78,
      skip=missing)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Learned factors: α X + β P
#
# Why not let training choose the scale? Take $\alpha X + \beta P$ with two learned numbers.
#
# In many models a **LayerNorm** comes next: it subtracts from each token's vector its mean, and divides
# by its standard deviation.

# %%
guess = predict(
    "α and β are both doubled, and LayerNorm comes next. What does the layer after it see?",
    ["the same as before", "everything twice as large", "positions heard better than before"],
    id="08-double",
)
guess

# %%
generator = torch.Generator().manual_seed(2)
words = torch.randn(1, 32, 64, generator=generator)  # (1 sentence, 32 tokens, 64)
pos = torch.arange(32)
mixed = positions.Mixed(positions.Sinusoidal(64), alpha=1.3, beta=0.7)
double = positions.Mixed(positions.Sinusoidal(64), alpha=2.6, beta=1.4)
z, z2 = mixed.embed(words, pos).detach(), double.embed(words, pos).detach()
before, after = F.layer_norm(z, (64,)), F.layer_norm(z2, (64,))
change = ((after - before).norm() / before.norm()).item()
print(f"change after LayerNorm: {change:.1e} of what was there")

# %%
guess.reveal(
    0 if change < 1e-3 else 1 if abs(change - 1) < 0.1 else 2,
    "The division takes the common factor away. Only the ratio α/β is left (and a trace of the small "
    "number that LayerNorm adds to the variance, so as not to divide by 0).",
)

# %%
claim("Before LayerNorm a common factor of α and β changes nothing (relative change).", change,
      below=1e-4, source="this cell", id=80)
read_out = torch.randn(1, 32, 64, generator=generator)  # any loss will do
(F.layer_norm(mixed.embed(words, pos), (64,)) * read_out).sum().backward()
a, b, ga, gb = (t.item() for t in (mixed.alpha, mixed.beta, mixed.alpha.grad, mixed.beta.grad))
along, across = abs(a * ga + b * gb), abs(a * gb - b * ga)
claim("So the gradient has no part along (α, β), only across it (ratio of the two parts).",
      along / across, below=1e-3, source="autograd", id=80)

# %% [markdown]
# One of the two parameters is idle: with $\alpha > 0$, $X + (\beta/\alpha)P$ would do as well. (See it
# in the explorer: choose **mix** and double both α and β; then switch **LayerNorm** off and double them
# again.) This needs the LayerNorm to stand where *everything* passes through, as in BERT. Many models
# instead keep $z$ itself and add to it what a layer makes of LayerNorm(z). There the common factor
# counts, since it says how much a layer's contribution weighs beside $z$:

# %%
with torch.no_grad():
    out, out2 = (t + attention(F.layer_norm(t, (64,))) for t in (z, z2))
    seen, seen2 = F.layer_norm(out, (64,)), F.layer_norm(out2, (64,))
claim("With z + Attention(LayerNorm(z)), doubling α and β changes what the next layer reads "
      "(relative change).", (seen2 - seen).norm() / seen.norm(), above=0.01,
      source="this cell", id=80)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## At every layer: H + λ P
#
# $H_{l-1}$ is what layer $l$ reads, $\lambda_l$ a learned number for each layer:
#
# $$H_l = \mathrm{Layer}_l(H_{l-1} + \lambda_l P)$$
#
# Three reasons are given for it: it *refreshes* the positions, each layer can take its own strength,
# and it improves the *flow of gradients* to the positions. Take a sinusoidal $P$ and look at the third.

# %%
guess = predict(
    "P is sinusoidal and added at each of 4 layers. The gradient that reaches the table is …",
    ["4 times that of adding it once", "the same as when adding it once", "none at all"],
    id="08-flow",
)
guess

# %%
every = positions.LayerWise(positions.Sinusoidal(64), n_layers=4)
h = words
for layer in range(4):
    h = every.at_layer(h, pos, layer)
    h = h + attention(F.layer_norm(h, (64,)))
h.square().mean().backward()
reached = {name: p.grad is not None for name, p in every.named_parameters()}
of_table = sum(p.numel() for p in every.positions.parameters())
print("parameters of the encoding, and whether a gradient reaches them:", reached)
print("parameters of the table:", of_table, "- the table requires a gradient:",
      every.positions.table(pos).requires_grad)

# %%
guess.reveal(
    2 if of_table == 0 else 1,
    "A computed table has no parameters, so no gradient flows to it, however often it is added. The "
    "only parameters are the four λ.",
)

# %%
claim("A sinusoidal table has no parameters for a gradient to reach.", of_table, equals=0,
      source="this cell", id=81)
claim("The strengths λ do get a gradient (smallest of four, absolute).",
      every.strength.grad.abs().min(), above=0.0, source="autograd", id=81)

# %% [markdown] slideshow={"slide_type": "subslide"}
# What of the first reason: do positions that were added once need refreshing? In the real model they
# are added once. It reads sentences of random words, so that nothing but the position can give the
# position away. At each depth we fit a *linear probe*: linear filters, fitted by least squares on 96
# sentences to tell the 32 positions apart, and tested on 32 others.

# %%
guess = predict(
    "How well does the probe do at the last layer, compared with the input?",
    ["as by chance: positions are used up", "worse, but far above chance", "as well or better"],
    id="08-depth",
)
guess

# %%
ids = torch.randint(1000, 30_522, (128, 32), generator=torch.Generator().manual_seed(3))
with torch.no_grad():
    states = real.model.hidden_states(ids)  # 7 times (128 sentences, 32 tokens, 384)


def probe(state):
    """Share of test tokens whose position the linear filters find."""
    state = torch.cat([state, torch.ones(128, 32, 1)], dim=-1).double()
    train, test = state[:96].flatten(0, 1), state[96:]
    target = torch.eye(32, dtype=torch.float64).repeat(96, 1)
    gram = train.T @ train + 0.1 * torch.eye(train.shape[1], dtype=torch.float64)
    filters = torch.linalg.solve(gram, train.T @ target)  # (385, 32 positions)
    return ((test @ filters).argmax(-1) == torch.arange(32)).double().mean().item()


readable = [probe(state) for state in states]
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(range(7), readable, "o-", color="#00224e", label="linear probe")
ax.axhline(1 / 32, ls="--", color="#b8860b", label="chance, 1/32")
ax.set_xlabel("layers passed" + (" (RANDOM PARAMETERS)" if missing else ""))
ax.set_ylabel("share of positions found")
ax.set_ylim(0, 1.03)
ax.legend()
figure(
    fig,
    alt=f"Share of positions found by a linear probe: {readable[0]:.2f} at the input, "
    f"{readable[-1]:.2f} after six layers; chance is 0.03.",
)

# %%
guess.reveal(
    0 if readable[-1] < 2 / 32 else 1 if readable[-1] < 0.9 * readable[0] else 2,
    missing or "Each layer adds its result to what it read (the residual connection), so that positions are "
    "carried along. But they fade, most of all in the last two layers.",
)

# %%
claim("After six layers the position is still readable, at more than three times chance (share found).",
      readable[-1], above=3 / 32, source="all-MiniLM-L6-v2", id=81, skip=missing)
claim("But less than at the input (share found, as a part of that at the input).",
      readable[-1] / readable[0], below=0.9, source="all-MiniLM-L6-v2", id=81, skip=missing)

# %% [markdown]
# (Even at the input the probe finds less than the 20 numbers did above. There the table
# was given; the probe has to find its filters from examples. So compare the depths only.)
#
# There is something to refresh, then, though no layer is without positions. The Universal Transformer
# adds them at each step, and relative encodings (notebooks [10](10-relative-positions.ipynb) and
# [11](11-rope.ipynb)) act in every layer. With a computed table, the flow of gradients is no reason.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Which way learns best?
#
# The task of notebook 1: a sentence of ten words with one verb, as in "… she eats fish …". Report the
# word before the verb and the word after it. All words come from the same 20, so only the place tells
# who eats whom.
#
# The model: word vectors of $d = 32$ numbers, two layers of two heads, with LayerNorm before each and
# no feed-forward part, and a read-out at the verb. All sinusoidal tables have base 100, since the
# sentences are short. Fresh word vectors have standard deviation 0.3, and in two more rows 0.02 and 1.
# Five seeds each. We look after
# 100 steps and after 250.

# %%
guess = predict(
    "Which choice still makes a clear difference after 250 steps?",
    ["the way: add, concatenate, mix, at every layer, learned", "the scale of the fresh word vectors",
     "both", "neither"],
    id="08-race",
)
guess

# %%
task = tasks.Roles(n_words=20)
D, SEEDS, BUDGETS = 32, range(5), (100, 250)
HERE = torch.arange(task.length)


class Reporter(nn.Module):
    """Words and positions, two layers of attention, two read-outs at the verb."""

    def __init__(self, encoding, d_model, word_std):
        super().__init__()
        self.words = nn.Embedding(task.vocab_size, D)
        nn.init.normal_(self.words.weight, std=word_std)
        self.encoding = encoding
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(3))
        self.layers = nn.ModuleList(
            attnlab.MultiHeadAttention(d_model, 2, bias=False) for _ in range(2)
        )
        self.read = nn.Linear(d_model, 2 * task.n_words)

    def forward(self, ids, verb):  # (batch, n), (batch,)
        row = torch.arange(len(ids))
        x = self.encoding.embed(self.words(ids), HERE)  # (batch, n, d_model)
        x = self.encoding.at_layer(x, HERE, 0)
        x = x + self.layers[0](self.norms[0](x))
        x = self.encoding.at_layer(x, HERE, 1)
        z, x = self.norms[1](x), x[row, verb]  # only the verb reads in the last layer
        x = x + self.layers[1](z[row, verb][:, None], context=z)[:, 0]
        return self.read(self.norms[2](x)).unflatten(-1, (2, task.n_words))


def sinusoidal(d=D):
    return positions.Sinusoidal(d, base=100)


WAYS = {  # encoding, width of the model, standard deviation of the fresh word vectors
    "no positions": (positions.Encoding, D, 0.3),
    "add": (sinusoidal, D, 0.3),
    "concatenate": (lambda: positions.Concatenated(sinusoidal(16)), D + 16, 0.3),
    "mix α, β": (lambda: positions.Mixed(sinusoidal()), D, 0.3),
    "every layer": (lambda: positions.LayerWise(sinusoidal(), 2), D, 0.3),
    "add learned": (lambda: positions.Learned(task.length, D), D, 0.3),
    "add, std 0.02": (sinusoidal, D, 0.02),
    "add, std 1": (sinusoidal, D, 1.0),
}


def train_reporter(way, seed):
    """Share of sentences with both words right at each budget, and the trained model."""
    torch.manual_seed(seed)
    make, d_model, word_std = WAYS[way]
    model, generator = Reporter(make(), d_model, word_std), torch.Generator().manual_seed(seed)
    ids, verb, roles = task.batch(1000, torch.Generator().manual_seed(99))
    reached = []

    def look():
        with torch.no_grad():
            right = (model(ids, verb).argmax(-1) == roles).all(-1)
        reached.append(right.float().mean().item())

    steps = iter(range(BUDGETS[-1]))

    def loss():
        if next(steps) == BUDGETS[0]:
            look()
        ids, verb, roles = task.batch(64, generator)
        return F.cross_entropy(model(ids, verb).flatten(0, 1), roles.flatten())

    fit(model, loss, steps=BUDGETS[-1], lr=0.01)
    look()
    return reached, model


runs = {
    run: train_reporter(*run)
    for run in progress([(way, seed) for way in WAYS for seed in SEEDS], "models trained")
}
early, late = ({way: [runs[way, s][0][i] for s in SEEDS] for way in WAYS} for i in (0, 1))


def mean(values):
    return sum(values) / len(values)


for way in WAYS:
    print(f"{way:14} {BUDGETS[0]} steps: {mean(early[way]):.2f} [{min(early[way]):.2f} to "
          f"{max(early[way]):.2f}]   {BUDGETS[1]} steps: {mean(late[way]):.2f} "
          f"[{min(late[way]):.2f} to {max(late[way]):.2f}]")

# %% slideshow={"slide_type": "subslide"}
for budget, results in zip(BUDGETS, (early, late), strict=True):
    shown = {way.replace(" ", "\n", 1): values for way, values in results.items()}
    figure(
        plots.by_seed(shown, "share with both right", f"{budget} steps (dots: 5 seeds, line: mean)"),
        alt=f"Share of sentences with both words right after {budget} steps, five seeds each. "
        + ", ".join(f"{way} {mean(values):.2f}" for way, values in results.items()) + ".",
    )

# %%
ways = ("add", "concatenate", "mix α, β", "every layer", "add learned")
of_way = [mean(late[way]) for way in ways]
of_scale = [mean(late[way]) for way in ("add, std 0.02", "add", "add, std 1")]
between = [max(values) - min(values) > 0.05 for values in (of_way, of_scale)]
guess.reveal(
    {(True, False): 0, (False, True): 1, (True, True): 2, (False, False): 3}[tuple(between)],
    f"After {BUDGETS[1]} steps the means of the five ways lie between {min(of_way):.2f} and "
    f"{max(of_way):.2f}, those of the three scales between {min(of_scale):.2f} and "
    f"{max(of_scale):.2f}.",
)

# %%
claim("Without positions the task is not solved in any run (share right, 250 steps).",
      late["no positions"], below=0.6, source="this notebook, 5 seeds", id=79)
claim("All five ways solve it in every run after 250 steps (share right).",
      [v for way in ways for v in late[way]], above=0.9, source="this notebook, 5 seeds", id=79)
claim("Early, the seed matters: distance of the best and the worst run of plain addition after 100 "
      "steps.", max(early["add"]) - min(early["add"]), above=0.1,
      source="this notebook, 5 seeds", id=79)
claim("Scale matters: after 250 steps, the best run with words of standard deviation 1 is behind the "
      "worst with 0.3 or 0.02 (difference).",
      min(late["add"] + late["add, std 0.02"]) - max(late["add, std 1"]), above=0.05,
      source="this notebook, 5 seeds", id=78)

# %% [markdown]
# The differences between the ways are differences of **speed**: after 250 steps none of them can do
# what another cannot, and after 100 steps much depends on the seed. The scale of the word vectors
# decides more. Do not carry the order of the ways over to other tasks, learning rates or models: this
# is one task, and five seeds.
#
# Is it not odd that words of 0.02, which the simple filter lost, were learned, and words of 1 were
# late? That filter looked before any training. Training can leave out directions, and it changes the
# word vectors too, by steps that weigh more beside small vectors than beside large ones. So the scale
# changes two things here, the balance and the pace of the words; we have not told them apart.
#
# What did the word vectors, α, β and λ become? The last three began at 1, where a row of positions has
# over five times the energy of a word vector of standard deviation 0.3.

# %%
for way in ("add, std 0.02", "add", "add, std 1"):
    stds = [runs[way, seed][1].words.weight.std().item() for seed in SEEDS]
    print(f"{way:14} words of standard deviation {WAYS[way][2]:g} became {mean(stds):.2f}")
mixes = [runs["mix α, β", seed][1].encoding for seed in SEEDS]
strengths = [runs["every layer", seed][1].encoding.strength.tolist() for seed in SEEDS]
print("α and β of five seeds:", "; ".join(f"{m.alpha.item():.2f}, {m.beta.item():.2f}" for m in mixes))
print("λ of five seeds:      ", "; ".join(f"{a:.2f}, {b:.2f}" for a, b in strengths))
claim("Training turns the positions down against the words (β/α, began at 1).",
      [(m.beta / m.alpha).item() for m in mixes], below=0.95, source="this notebook, 5 seeds", id=80)
claim("And so does each layer (largest λ of each run, began at 1).", [max(pair) for pair in strengths],
      below=0.95, source="this notebook, 5 seeds", id=81)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### The comparison, filled in
#
# Many texts compare the ways in a table of adjectives. Here is one of measured values: the parameters
# of the encoding, the attention parameters against plain addition, the energy of the positions against
# that of the words before training, and the share right at the two budgets (mean of five seeds).

# %%
print(f"{'way':14} {'own':>4} {'attention':>9} {'energy':>7} {'100':>5} {'250':>5}")
plain = sum(p.numel() for p in runs["add", 0][1].layers.parameters())
for way in WAYS:
    make, d_model, word_std = WAYS[way]
    model = runs[way, 0][1]
    own = sum(p.numel() for p in model.encoding.parameters())
    attention_ = sum(p.numel() for p in model.layers.parameters()) / plain
    fresh, nothing = make(), torch.zeros(1, task.length, D)
    rows = fresh.at_layer(fresh.embed(nothing, HERE), HERE, 0).detach()
    energy = rows.square().sum(-1).mean().item() / (D * word_std**2)
    print(f"{way:14} {own:4} {attention_:9.2f} {energy:7.2f} {mean(early[way]):5.2f} "
          f"{mean(late[way]):5.2f}")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 8.1: balance &nbsp; (●○○, 5 minutes)
#
# Fresh word vectors have entries $N(0, 0.02^2)$. You add $\beta P$ with the sinusoidal table $P$. Which
# β gives positions the same energy as words?

# %% tags=["exercise"]
# BEGIN SOLUTION
# BLANK: beta = ...  # a number
beta = 0.02 * math.sqrt(2)
# END SOLUTION

# %%
check("8.1", beta)

# %% [markdown] tags=["hint"]
# The energy of a word vector is $0.02^2\,d$. What is that of a row, in which each pair of features
# holds a sine and a cosine of the same angle?

# %% [markdown] tags=["hint"]
# $\beta P$ has $\beta^2$ times the energy of $P$. Solve $\beta^2\, d/2 = 0.02^2\, d$.

# %% [markdown]
# ### Exercise 8.2: stretch a table &nbsp; (●●○, 12 minutes)
#
# Read a learned table at `pos / stretch`. Between two rows, take of each the share that belongs to it:
# at 1.25, three quarters of row 1 and one quarter of row 2.

# %% tags=["exercise"]
def lookup(table, pos, stretch):
    """table (L, d), pos (n,) whole numbers, stretch >= 1 -> (n, d)."""
    # BEGIN SOLUTION
    at = pos / stretch
    low, high = at.floor().long(), at.ceil().long()
    share = (at - low)[:, None]
    return (1 - share) * table[low] + share * table[high]
    # END SOLUTION


# %%
check("8.2", lookup)

# %% [markdown] tags=["hint"]
# `at.floor()` and `at.ceil()` are the rows below and above. Rows are whole numbers: `.long()`.

# %% [markdown] tags=["hint"]
# The share of the upper row is `at - at.floor()`, one number for each position; `[:, None]` lets it
# multiply whole rows. If you take `low + 1` for the upper row: does it exist for the last position?

# %% [markdown]
# ### Exercise 8.3: concatenate without concatenating &nbsp; (●●○, 8 minutes)
#
# Return $[X\ \ P]\,W$ without building $[X\ \ P]$: the table may have another width than the words.

# %% tags=["exercise"]
def project(x, p, w):
    """x (tokens, d), p (tokens, d_pe), w (d + d_pe, d_k) -> (tokens, d_k)."""
    # BEGIN SOLUTION
    d = x.shape[-1]
    return x @ w[:d] + p @ w[d:]
    # END SOLUTION


# %%
check("8.3", project)

# %% [markdown] tags=["hint"]
# Which rows of $W$ meet the entries of $X$?

# %% [markdown] tags=["hint"]
# $X W_x + P W_p$, where $W_x$ is the first `x.shape[-1]` rows of $W$.

# %% [markdown]
# ### Exercise 8.4: undo a sum &nbsp; (●●●, 20 minutes)
#
# Each row of `sums` is one row of `words` plus one row of `places`. Find out which: return two tensors,
# the rows of `words` and the rows of `places`.

# %% tags=["exercise"]
def decode(sums, words, places):
    """sums (m, d), words (V, d), places (L, d) -> word (m,), place (m,)."""
    # BEGIN SOLUTION
    pairs = words[:, None] + places  # (V, L, d): every sum there can be
    best = torch.cdist(sums, pairs.flatten(0, 1)).argmin(-1)  # (m,), the number of the pair
    return best // len(places), best % len(places)
    # END SOLUTION


# %%
check("8.4", decode)

# %% [markdown] tags=["hint"]
# Build all sums: `words[:, None] + places` has shape `(V, L, d)`. Then find the nearest,
# with `torch.cdist`.

# %% [markdown] tags=["hint"]
# Flattened, pair $(v, l)$ has number $v\,L + l$. So the word is `number // L`.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | way | formula | costs | what we measured |
# |---|---|---|---|
# | learned table | $PE_{pos} = E[pos]$ | $L\,d$ parameters, 0.36 % of BERT-base | only rows that occur are trained; can be stretched |
# | add | $X + P$ | nothing | both can be recovered; the scale decides what is easy to find |
# | concatenate | $[X\ \ P]$ | 4 times the attention parameters at $d_{pe} = d$, 1.27 times at $d/8$ | $XW_x + PW_p$; the mixed products stay |
# | mix | $\alpha X + \beta P$ | 2 parameters | before LayerNorm only $\alpha/\beta$ counts |
# | every layer | $H_{l-1} + \lambda_l P$ | one parameter a layer | a computed table gets no gradient; added once, positions fade but stay readable |
#
# ### Questions
#
# *What are the trade-offs between sinusoidal, learned and rotary encodings?* (Review question 4 of the
# course, begun here, completed by [notebook 10](10-relative-positions.ipynb) and
# [notebook 11](11-rope.ipynb).) Sinusoidal against learned: no parameters
# against $L\,d$, under 1 % of a real model; a code for every position against $L$ rows, of which only
# those seen in training mean something. After 250 steps both were equally right on our task. What
# differs from the start: random rows differ in everything, neighbouring sinusoidal rows are much alike.
#
# *How sensitive are different tasks to the choice of positional encoding scheme?* (Review question
# 15 of the course, begun in [notebook 6](06-the-order-problem.ipynb).) On our task: without
# positions about one sentence in three was right; with positions all five ways solved it. The scale of
# the word vectors made the larger difference within 250 steps. Wang et al. (2021) find for
# BERT that it depends on the task: learned absolute positions did better in classification, relative
# ones where spans of text had to be found.
#
# ### Common misconceptions
#
# - "Adding destroys information": both parts were recovered from the sum, at $d = 16$ already.
# - "Concatenating keeps words and positions apart": not in the scores, unless it is learned.
# - "Concatenating doubles the cost": at $d_{pe} = d$ four times the attention parameters; at $d/8$ a quarter more.
# - "Adding positions at each layer helps the gradient": not that of a computed table.
# - "A learned table cannot be used beyond its length": it can be stretched; how well,
#   [notebook 12](12-beyond-training-length.ipynb) measures.
#
# ### Further reading
#
# - Vaswani et al. 2017: section 3.4 (the factor $\sqrt{d_{model}}$), Table 3 (E).
# - Gehring et al. 2017: section 3.1, learned positions. Devlin et al. 2019 (BERT), section 3.
# - Ke et al. 2021, *Rethinking Positional Encoding in Language Pre-training*: sections 2 and 3,
#   the mixed products, and a model without them.
# - Wang et al. 2021, *On Position Embeddings in BERT*: tasks compared.
# - Dehghani et al. 2019, *Universal Transformers*: section 2.1, positions at every step.
#
# **Next:** [notebook 9](09-four-terms.ipynb): what happens to words and positions inside a score. Back to [the start](00-start-here.ipynb).
