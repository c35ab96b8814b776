# %% [markdown] slideshow={"slide_type": "slide"}
# # 10. Relative positions
#
# **Can a head be told how far apart two tokens are, without being told where they stand?**
#
# When you have worked through this notebook you can
#
# - turn a table of offsets into a bias for every query and key, and name the shapes;
# - write Shaw's key and value side without the $(n, n, d_k)$ tensor;
# - say what T5 does with $\sqrt{d_k}$ and where its buckets really end;
# - compute how far a head with ALiBi looks, and what goes wrong when the bias meets the scores in the
#   wrong place;
# - tell the published Sandwich from what is sometimes called so.
#
# *You need:* [notebook 2](02-many-heads.ipynb) (heads and shapes) and
# [notebook 7](07-sinusoidal.ipynb) (the sinusoidal code). *To study:* 80 minutes. *To lecture:* 45
# minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import attnlab
from attnlab import plots, positions, stats
from attnlab.exercises import check
from attnlab.explorers import BiasExplorer
from attnlab.positions import Encoding, t5_bucket
from attnlab.teach import claim, figure, predict, progress
from attnlab.train import fit

torch.manual_seed(0);

# %% [markdown] slideshow={"slide_type": "slide"}
# ## One number for each offset
#
# Notebooks 7 and 8 put a position into every token vector, and left it to the heads to compare two
# of them. These are **absolute encodings**: each position has a code of its own. A **relative
# encoding** skips the detour. It acts where two tokens meet: in the score of query $i$ and key $j$.
# The simplest one adds a number, the **bias**:
#
# $$s_{ij} = \frac{q_i\cdot k_j}{\sqrt{d_k}} + b_{j-i}$$
#
# The index is the **offset** = key position − query position. So −1 is the token before, 0 the token
# itself, +1 the next one. (Some texts count the other way, query − key. Both are in use; mixing them
# is a bug without an error message.) The *distance* is the offset without its sign.
#
# Sentences of $n$ tokens have offsets from $-(n-1)$ to $n-1$. Each head may have its own numbers, so
# the table is `(heads, 2n - 1)`. The bias it makes is `(heads, query, key)`, and is added alike to
# every sentence of the batch.

# %%
n, n_heads = 5, 2
table = torch.randn(n_heads, 2 * n - 1)  # (heads, 2n - 1); column n - 1 is offset 0
place = torch.arange(n)
offset = place[None, :] - place[:, None]  # (query, key): row i, column j holds j - i
bias = table[:, offset + n - 1]  # (heads, query, key)
print("offsets, a row for each query:\n", offset.numpy())
print("bias", tuple(bias.shape), "from a table", tuple(table.shape))
claim(
    "Along a diagonal, from upper left to lower right, the bias is constant "
    "(largest change from (i, j) to (i+1, j+1)).",
    (bias[:, 1:, 1:] - bias[:, :-1, :-1]).abs().max(),
    equals=0.0,
    source="b depends on j - i only",
)

# %% [markdown]
# In `attnlab` the method `relative_bias` of an encoding turns offsets into this bias. A new encoding of
# this kind needs no other method. Ours, beside the formula:

# %%
class Table(Encoding):
    """One number for each head and offset."""

    def __init__(self, table):
        super().__init__()
        self.table = table  # (heads, 2n - 1)

    def relative_bias(self, offset):
        return self.table[:, offset + (self.table.shape[1] - 1) // 2]


q, k, v = (torch.randn(1, n_heads, n, 8) for _ in range(3))  # (batch, heads, tokens, d_head)
ours = (q @ k.mT / math.sqrt(8) + bias).softmax(dim=-1)  # (batch, heads, query, key)
library = attnlab.attention_weights(q, k, encoding=Table(table))
from_torch = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
claim(
    "Our line, attnlab and PyTorch (which takes a bias as a mask) agree.",
    [(ours - library).abs().max(), (ours @ v - from_torch).abs().max()],
    below=1e-5,
    source="this cell",
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ### "Translation invariance"
#
# It is said of these encodings that they are translation invariant. We test it. Five layers with the
# same parameters, each with another encoding, read the same 12 token vectors twice: at positions
# 0 … 11 and at positions 1,000 … 1,011.

# %%
guess = predict(
    "All positions grow by 1,000. For which encodings does the output of the layer change?",
    ["for none", "for all five", "for the four relative ones only", "for sinusoidal only"],
    id="10-shift",
)
guess

# %%
def layer_with(name, seed=0):
    """A layer of 4 heads in float64; the same parameters whatever the encoding."""
    torch.manual_seed(seed)
    layer = attnlab.MultiHeadAttention(64, 4).double()
    encoding = positions.make(name, d_model=64, n_heads=4).double()
    layer.encoding = encoding
    return lambda x, pos: layer(encoding.embed(x, pos), pos=pos)


x = torch.randn(1, 12, 64, dtype=torch.float64)  # (batch, tokens, d_model)
place = torch.arange(12)
changes, stretched = {}, {}
with torch.no_grad():
    for name in ("sinusoidal", "shaw", "t5", "alibi", "sandwich"):
        layer = layer_with(name)
        here, there = layer(x, place), layer(x, place + 1000)
        changes[name] = ((there - here).norm() / here.norm()).item()
        stretched[name] = ((layer(x, 2 * place) - here).norm() / here.norm()).item()
        print(f"{name:10}: output changes by {changes[name]:.1e} of its length")

# %%
relative = [changes[name] for name in ("shaw", "t5", "alibi", "sandwich")]
moved = (changes["sinusoidal"] > 1e-6, max(relative) > 1e-6)
guess.reveal(
    {(False, False): 0, (True, True): 1, (False, True): 2, (True, False): 3}[moved],
    "A relative encoding sees offsets, and offsets do not change when everything moves together. "
    "The sinusoidal code enters each token vector, and random W_Q and W_K do not undo that.",
)

# %%
claim("Relative encodings: a shift of all positions leaves the output as it was.", relative,
      below=1e-12, source="the scores depend on j - i only", id=66)
claim("But they do see offsets: with all of them doubled the output changes (share of its length).",
      [stretched[name] for name in ("shaw", "t5", "alibi", "sandwich")], above=0.01, source="this cell",
      id=66)
claim("Sinusoidal positions at the input: the output changes.", changes["sinusoidal"], above=0.05,
      source="this cell", id=66)

# %% [markdown]
# Mind what is invariant: the layer, when the *numbering* moves. Put a sentence behind a long
# introduction, and its tokens have new keys to look at; that can change the output under every encoding.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Shaw: a vector for each offset
#
# Shaw et al. give each offset two trained *vectors* of $d_k$ numbers: $r^K$ is added to the key,
# $r^V$ to the value. The bias then depends on what the query asks for:
#
# $$s_{ij} = \frac{q_i\cdot\left(k_j + r^K_{c(j-i)}\right)}{\sqrt{d_k}} \qquad
# o_i = \sum_j a_{ij}\left(v_j + r^V_{c(j-i)}\right)$$
#
# where $a_{ij}$ are the weights and $c$ **clips** the offset: below $-C$ it is $-C$, above $C$ it is
# $C$. So each table has $2C + 1$ rows, however long the text. Ours are shared by all heads. Some summaries
# leave out the second formula, the **value side**: it tells the output from how far the content came.

# %%
n, d_k, clip = 64, 16, 8
generator = torch.Generator().manual_seed(1)
q, k, v = (torch.randn(n, d_k, generator=generator, dtype=torch.float64) for _ in range(3))
r_key, r_value = (
    torch.randn(2 * clip + 1, d_k, generator=generator, dtype=torch.float64) for _ in range(2)
)
place = torch.arange(n)
row = (place[None, :] - place[:, None]).clamp(-clip, clip) + clip  # (query, key): 0 ... 2 clip

# the formulas as they stand
vectors = r_key[row]  # (query, key, d_k)
scores = (q[:, None] * (k[None] + vectors)).sum(-1) / math.sqrt(d_k)  # (query, key)
weights = scores.softmax(dim=-1)
out = weights @ v + (weights[..., None] * r_value[row]).sum(1)  # (query, d_k)
claim("Distances 9 and 50 read the same row of the table: the key side cannot tell them apart.",
      (row[60, 51].item(), row[60, 10].item()), equals=(0, 0), source="clipping at 8", id=65)
claim("Two tables of (2·8 + 1) rows of 16 numbers: 544 parameters.",
      r_key.numel() + r_value.numel(), equals=544, source="Shaw et al. 2018, section 3.2", id=65)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### A tensor too many
#
# `vectors` holds a vector for each pair of tokens.

# %%
guess = predict(
    "How large is `vectors` for n = 2,048 tokens and d_k = 64, with 4 bytes a number?",
    ["512 KiB", "16 MiB", "1 GiB", "8 GiB"],
    id="10-tensor",
)
guess

# %%
element = torch.zeros(1)  # float32
needed = 2048 * 2048 * 64 * element.element_size()
short = 2048 * (2 * clip + 1) * element.element_size()
print(f"(query, key, d_k): {needed / 2**20:,.0f} MiB")

# %%
guess.reveal(
    [2**19, 2**24, 2**30, 2**33].index(needed),
    "2,048 · 2,048 · 64 numbers, for one head's worth of vectors. Clipping bounds the parameters, not "
    "this tensor.",
)

# %% [markdown]
# It is not needed. The term is $q_i \cdot r^K_{c(j-i)}$, and there are only $2C+1$ different $r^K$: one
# small product, `q @ r_key.T` of shape `(query, 2C + 1)`, has every number that can occur. What remains
# is to put each number where it belongs, along the diagonals. On the value side the same idea runs
# backwards: first add up the weights that go to each row of the table, then multiply once.

# %%
by_row = q @ r_key.T  # (query, 2 clip + 1)
fast_scores = (q @ k.T + by_row.gather(1, row)) / math.sqrt(d_k)  # (query, key)
weight_of_row = torch.zeros(n, 2 * clip + 1, dtype=torch.float64).scatter_add(1, row, weights)
fast_out = weights @ v + weight_of_row @ r_value  # (query, d_k)

shaw = positions.Shaw(d_k, clip=clip)
shaw.key_table.data, shaw.value_table.data = r_key, r_value
library = attnlab.scaled_dot_product_attention(
    *(t[None, None] for t in (q, k, v)), encoding=shaw
)[0, 0].detach()
print(f"n = 2,048: by_row has {short / 2**10:,.0f} KiB, vectors had {needed / 2**20:,.0f} MiB; "
      f"the scores themselves have {2048 * 2048 * element.element_size() / 2**20:.0f} MiB")  # fmt: skip
claim("Scores and outputs without the large tensor equal those with it; so do attnlab's.",
      [(fast_scores - scores).abs().max(), (fast_out - out).abs().max(),
       (library - out).abs().max()],
      below=1e-12, source="same sums, reordered; compare Huang et al. 2018, section 3.4", id=64)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Is the value side a detail?

# %%
guess = predict(
    "64 tokens, clip 8; q, k, v and both tables are random with variance 1. We drop the value side. By "
    "how much does the output change, compared with its length?",
    ["by more than half", "by about 10 %", "by about 1 %"],
    id="10-value-side",
)
guess

# %%
shares = []
for seed in range(5):
    generator = torch.Generator().manual_seed(seed)
    q_s, k_s, v_s = (torch.randn(1, 1, n, d_k, generator=generator) for _ in range(3))
    both = positions.Shaw(d_k, clip=clip)
    both.key_table.data = torch.randn(2 * clip + 1, d_k, generator=generator)
    both.value_table.data = torch.randn(2 * clip + 1, d_k, generator=generator)
    with torch.no_grad():
        full = attnlab.scaled_dot_product_attention(q_s, k_s, v_s, encoding=both)
        both.value_table = None
        dropped = attnlab.scaled_dot_product_attention(q_s, k_s, v_s, encoding=both)
    shares.append(((full - dropped).norm() / full.norm()).item())
print("change of the output, 5 seeds:", [f"{share:.0%}" for share in shares])

# %%
mean_share = sum(shares) / len(shares)
guess.reveal(
    2 if mean_share < 0.03 else 1 if mean_share < 0.5 else 0,
    "The average over many values nearly cancels; the average over r^V does not, because all keys "
    "beyond the clip share one of two rows.",
)

# %%
claim("In a random layer, dropping the value side changes the output by most of its length "
      "(share, 5 seeds).", shares, above=0.7, source="this cell", id=64)

# %% [markdown]
# A large change is not yet an important one: training can put the same facts elsewhere. In the authors'
# own translation experiments, leaving out $r^V$ cost little, leaving out both cost much (Shaw et al.
# 2018, Table 3).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## T5: a number for each bucket
#
# T5 goes back from a vector to a number. Two things in its formula are often reported wrongly:
#
# $$a_{ij} = \mathrm{softmax}_j\left(q_i\cdot k_j + b_{\mathrm{bucket}(j-i)}\right)$$
#
# There is **no** $1/\sqrt{d_k}$, and the table has a row for each *bucket* of offsets, not for each
# offset. First the root. Notebook 1 showed that scores grow like $\sqrt{d_k}$ and saturate the softmax.
# T5 takes care of it at another place: $W^Q$ starts with standard deviation
# $1/\sqrt{d_{model}\,d_k}$, and $W^K$ with $1/\sqrt{d_{model}}$.

# %%
def t5_start(seed, d_model=512, d_k=64, n=64):
    """Queries and keys of n random tokens under T5's initial parameters: each (n, d_k)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d_model, generator=generator)
    w_q = torch.randn(d_model, d_k, generator=generator) / math.sqrt(d_model * d_k)
    w_k = torch.randn(d_model, d_k, generator=generator) / math.sqrt(d_model)
    return x @ w_q, x @ w_k


spreads = [(q @ k.T).std().item() for q, k in map(t5_start, range(5))]
claim("Under T5's start, q·k itself has standard deviation 1: the root is inside W_Q.", spreads,
      expect=1.0, atol=0.15, source="Raffel et al. 2020, released code", id=68)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### T5 with a root too many
#
# Suppose somebody starts with T5's parameters in a layer that divides by $\sqrt{d_k}$ as usual. Nothing
# fails. To say how different two rows of weights $a$ and $a'$ are we use the *total variation*,
# $\frac12\sum_j |a_{ij} - a'_{ij}|$: the share of the weight that lies on other keys.

# %%
guess = predict(
    "T5's initial parameters, run with an extra 1/√64. What share of the weight lies on the wrong keys?",
    ["none: softmax does not see a common factor", "about 3 %", "about a third", "nearly all"],
    id="10-t5-scale",
)
guess

# %%
wrong_share = []
for seed in range(5):
    q, k = (t[None, None] for t in t5_start(seed))  # (1, 1, tokens, d_k)
    meant = attnlab.attention_weights(q, k, scale=1.0)
    divided = attnlab.attention_weights(q, k)  # attnlab's default scale is 1/sqrt(d_k)
    wrong_share.append(0.5 * (meant - divided).abs().sum(-1).mean().item())
print("share on the wrong keys, 5 seeds:", [round(share, 2) for share in wrong_share])

# %%
mean_wrong = sum(wrong_share) / 5
guess.reveal(
    min(range(4), key=lambda i: abs((0.0, 0.03, 1 / 3, 0.95)[i] - mean_wrong)),
    "Softmax ignores a common summand. A common factor is a temperature: divided by 8, "
    "every row is flatter.",
)

# %%
claim("T5's initial parameters with the usual division: the weight that lies on the wrong keys.",
      wrong_share, between=(0.25, 0.42), source="this cell, without the bias term", id=68)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Buckets
#
# Near distances matter one by one, far ones roughly. T5 has 32 buckets. Reading in both directions,
# each direction gets 16. Of the $B$ buckets of one side, the first $B/2$ hold one distance each,
# $0, 1, \dots, B/2 - 1$; the others grow in proportion "up to 128". Bucket $B/2 + s$ begins at the first
# whole distance that is at least
#
# $$\frac B2\left(\frac{128}{B/2}\right)^{s/(B/2)} \qquad s = 0, 1, \dots, \frac B2 - 1$$
#
# With a causal mask there is only one side, so $B = 32$.

# %%
guess = predict(
    "Both directions: from which distance on do all distances share a bucket?",
    ["from 64", "from 91", "from 113", "from 128"],
    id="10-last-bucket",
)
guess

# %%
far = torch.arange(-5000, 5001)
starts = {}
for causal in (False, True):
    bucket = t5_bucket(far, 32, 128, causal=causal)
    back = far <= 0  # offsets of the keys at or before the query
    starts[causal] = [
        far[back & (bucket == b)].abs().min().item() for b in bucket[back].unique()
    ]
    print("causal:       " if causal else "one side of 2:", starts[causal])
last_two_sided, last_causal = starts[False][-1], starts[True][-1]
used = len(t5_bucket(far).unique())

# %%
guess.reveal(
    [64, 91, 113, 128].index(last_two_sided),
    "128 is where the next bucket would begin. The last one begins a whole step before it, at the "
    f"first distance above 8·16^(7/8) = {8 * 16 ** (7 / 8):.1f}.",
)

# %%
claim("Both directions: the last bucket begins at distance 91.", last_two_sided, equals=91,
      source="Raffel et al. 2020, released code", id=68)
claim("Causal: at distance 113.", last_causal, equals=113,
      source="16·8^(15/16) = 112.4", id=68)
claim("Both directions use 31 of the 32 buckets: a key after the query is never at distance 0.",
      used, equals=31, source="this cell", id=68)

# %% [markdown]
# Each step of a staircase is a bucket; the dotted lines mark where the last one begins.

# %%
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
distances = torch.arange(0, 151)
for causal, style, name in ((False, {"color": "#00224e"}, "one side of two (16 buckets)"),
                            (True, {"color": "#b8860b", "ls": "--"}, "causal (32 buckets)")):  # fmt: skip
    ax.step(distances, t5_bucket(-distances, causal=causal), where="post", label=name, lw=2, **style)
    ax.axvline(starts[causal][-1], lw=0.8, ls=":", color=style["color"])
    ax.annotate(str(starts[causal][-1]), (starts[causal][-1] + 1, 1), color=style["color"])
ax.set_xlabel("distance to an earlier key (tokens)")
ax.set_ylabel("bucket")
ax.legend()
figure(
    fig,
    alt="Bucket number against distance from 0 to 150, two staircases that climb one by one at first "
    "and then in ever longer steps. The last step begins at distance 91 for one side of two, at 113 "
    "for causal.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# The table is `(32 buckets, heads)`, an `Embedding(32, H)` for $H$ heads in most code. T5 has
# **one** such table for all layers of a stack.

# %%
t5 = positions.T5Bias(8)
claim("T5's one table, with 8 heads: 32·8 parameters.",
      sum(p.numel() for p in t5.parameters()), equals=256, source="Raffel et al. 2020, 2.1", id=69)
claim("A number for each offset of a 512-token text would need (2n - 1)·H.",
      8 * len((torch.arange(512)[:, None] - torch.arange(512)).unique()), equals=8184,
      source="this cell", id=68)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## ALiBi: a straight line
#
# ALiBi trains nothing. With $H$ heads, head $h$ lowers each score in proportion to the distance:
#
# $$s_{ij} = \frac{q_i\cdot k_j}{\sqrt{d_k}} - m_h\,(i - j)\,,\quad j \le i\,,\qquad
# m_h = 2^{-8h/H},\ \ h = 1 \dots H$$
#
# The slopes $m_h$ are a geometric series ($H$ a power of two), fixed before training: steep heads
# look near, flat ones far. (This formula counts heads from 1; in pictures and code head 0 is the
# steepest.)
# It was made for a causal mask, so $i - j$ is never negative.

# %%
alibi = positions.ALiBi(8)
claim("With 8 heads the slopes are 1/2, 1/4, … 1/256.", alibi.slopes,
      equals=tuple(2.0**-h for h in range(1, 9)), source="Press et al. 2022, section 3", id=90)
claim("Nothing is trained.", len(list(alibi.parameters())), equals=0,
      source="Press et al. 2022, section 3", id=92)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Where does the root go?
#
# The formula is often printed without the root, score $= q\cdot k - m\,|i-j|$, in the paper too, where a
# footnote says so. Take 512 tokens,
# $d_k = 64$ and $m = 1/16$, and queries and keys with random entries of variance 1. Entropy says how
# spread out a row of weights is; the *attended distance* ([notebook 3](03-what-heads-learn.ipynb))
# is $\sum_j a_{ij}(i-j)$.

# %%
guess = predict(
    "We forget to divide q·k by √64. The rows of weights …",
    [
        "do not change",
        "become flatter, and follow the straight line more closely",
        "become sharper, and follow the straight line less",
    ],
    id="10-alibi-root",
)
guess

# %%
def alibi_rows(seed, content, n=512, d_k=64, m=1 / 16):
    """Entropy and attended distance, mean over queries; q·k is multiplied by `content`; slope m."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(n, d_k, generator=generator) for _ in range(2))
    place = torch.arange(n)
    back = place[:, None] - place[None, :]  # (query, key): i - j
    scores = (content * (q @ k.T) - m * back).masked_fill(back < 0, -math.inf)
    weights = scores.softmax(dim=-1)
    return (stats.entropy(weights).mean().item(),
            (weights * back.clamp(min=0)).sum(-1).mean().item())  # fmt: skip


measured = {}
for name, content, m in (("line alone (q·k = 0)", 0.0, 1 / 16), ("q·k / √64", 1 / 8, 1 / 16),
                         ("q·k", 1.0, 1 / 16), ("q·k, no line", 1.0, 0.0)):  # fmt: skip
    rows = [alibi_rows(seed, content, m=m) for seed in range(5)]
    measured[name] = [sum(column) / 5 for column in zip(*rows, strict=True)]
    print(f"{name:20}: entropy {measured[name][0]:.2f} nats, "
          f"attended distance {measured[name][1]:.1f} tokens")

# %%
right, without = measured["q·k / √64"], measured["q·k"]
gap = without[0] - right[0]
guess.reveal(
    0 if abs(gap) < 0.1 else 1 if gap > 0 else 2,
    "Undivided, one standard deviation of q·k is 8, worth 128 tokens of distance at slope 1/16; divided "
    "it is worth 16. Content counts for more, though the line still shortens the distance.",
)

# %%
alone = measured["line alone (q·k = 0)"][1]
claim("The line alone attends about 1/m = 16 tokens back (512 tokens: less for the first ones).",
      alone, expect=16, atol=2, source="this cell", id=90)
claim("Divided, the attended distance is nearly that, but content counts (difference in tokens).",
      right[1] - alone, between=(0.1, 2), source="this cell", id=90)
claim("Undivided, the attended distance is more than twice as long (ratio).", without[1] / right[1],
      above=2.0, source="this cell", id=90)
claim("But the line still counts: without it that distance is at least twice as long again (ratio).",
      measured["q·k, no line"][1] / without[1], above=2.0, source="this cell", id=90)
claim("Undivided, a row is far sharper (its entropy as a share of that of a divided row).",
      without[0] / right[0], below=0.4, source="Press et al. 2022, footnote 10: the bias is not scaled", id=90)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### How far does a head look?
#
# With $q\cdot k = 0$ the weights are $a_{ij} \propto e^{-m(i-j)}$, a geometric series. Its mean is
# $1/(e^m - 1)$, about $1/m$. So a slope *is* a window: a soft one.

# %%
print("   slope   attended distance   1/(e^m - 1)   90 % of the weight within")
attended, windows = [], []
distance = torch.arange(20_000, dtype=torch.float64)
for m in alibi.slopes:
    weights = (-m * distance).softmax(dim=0)  # a query with 20,000 keys before it
    attended.append((weights * distance).sum().item())
    windows.append(int((weights.cumsum(0) < 0.9).sum()) + 1)
    print(f"   1/{round(1 / m):<4}  {attended[-1]:14.1f}   {1 / math.expm1(m):13.1f}"
          f"   {windows[-1]:10} tokens")
claim("The attended distance is 1/(e^m - 1) (relative difference, 8 slopes).",
      [abs(far * math.expm1(m) - 1) for far, m in zip(attended, alibi.slopes, strict=True)],
      below=1e-9, source="mean of a geometric series", id=91)
claim("90 % of the weight lies within so many tokens, the query's own included (m = 1/2 … 1/256).",
      tuple(windows), equals=(5, 10, 19, 37, 74, 148, 295, 590), source="this cell", id=91)

# %% [markdown]
# On a longer text the windows stay as they were, and the line leaves little weight for what lies beyond
# them. Content can shift this: these windows are those of the line alone.
#
# "The weights decay like $e^{-\alpha|i-j|}$" is sometimes said of attention in general. It is a law for
# ALiBi without content. We fit a straight line to $\ln a_{ij}$ against the distance, for the last of 512
# queries and its nearest 100 keys, and report $R^2$, the share of the variance that the line explains.

# %%
def fit_line(x, y):
    """Slope of the best straight line, and R²."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    slope = (x * y).sum() / (x * x).sum()
    return slope.item(), (1 - (y - slope * x).var() / y.var()).item()


laws = {}
for name, content in (("no content", 0.0), ("random content", 1.0)):
    fits = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        q, k = (content * torch.randn(1, 8, 512, 64, generator=generator) for _ in range(2))
        row = attnlab.attention_weights(q, k, encoding=alibi, causal=True)[0, 3, -1]  # m = 1/16
        fits.append(fit_line(torch.arange(100), row.flip(0)[:100].log()))
    laws[name] = fits
    print(f"{name}: slope {fits[0][0]:.4f}, R² {[round(r, 2) for _, r in fits]}")
claim("Without content the slope of ln a is -m exactly (m = 1/16).",
      [slope for slope, _ in laws["no content"]], expect=-1 / 16, atol=1e-5,
      source="Press et al. 2022, section 3", id=99)
claim("With random content the exponential law explains only a part (R², 5 seeds).",
      [r2 for _, r2 in laws["random content"]], below=0.95, source="this cell", id=99)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### One number for each key is enough
#
# Softmax ignores a number that is added to a whole row. The bias $-m(i-j) = -mi + mj$ has such a part:
# $-mi$ is the same for all keys of query $i$. With a causal mask what remains is $+mj$, a number for
# each *key*. It fits into one more channel of the keys, with a constant in the queries. No `(query,
# key)` array of biases is needed.

# %%
n, d_k, m = 256, 64, 1 / 16
generator = torch.Generator().manual_seed(3)
q, k, v = (torch.randn(1, 1, n, d_k, generator=generator, dtype=torch.float64) for _ in range(3))
place = torch.arange(n, dtype=torch.float64)
back = place[:, None] - place[None, :]
scores = (q @ k.mT / math.sqrt(d_k) - m * back).masked_fill(back < 0, -math.inf)
by_distance = scores.softmax(dim=-1) @ v
constant = torch.full((1, 1, n, 1), math.sqrt(d_k), dtype=torch.float64)
longer_q = torch.cat([q, constant], dim=-1)  # (1, 1, query, d_k + 1)
longer_k = torch.cat([k, (m * place).view(1, 1, n, 1)], dim=-1)  # (1, 1, key, d_k + 1)
by_key = F.scaled_dot_product_attention(
    longer_q, longer_k, v, is_causal=True, scale=1 / math.sqrt(d_k)
)
claim("One extra channel in the keys, holding m·j, gives causal ALiBi exactly.",
      (by_distance - by_key).abs().max(), below=1e-12, source="softmax ignores -m·i", id=92)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Without a mask
#
# Reading in both directions, the distance $|i-j|$ takes the place of $i-j$. Turn a text around: the last
# token comes first.

# %%
guess = predict(
    "A layer with ALiBi, |i - j| and no mask reads 'the cat chased the mouse', and as a second text "
    "'mouse the chased cat the'. What happens to the output vector of 'cat'?",
    ["nothing: it is the same vector", "it changes a little", "it changes completely"],
    id="10-mirror",
)
guess

# %%
def mirror_change(encoding, causal, seed=0):
    """How much the outputs differ when the text is turned around, as a share of their length."""
    torch.manual_seed(seed)
    layer = attnlab.MultiHeadAttention(64, 4, encoding=encoding).double()
    vectors = torch.randn(4, 64, dtype=torch.float64)  # the, cat, chased, mouse
    words = vectors[[0, 1, 2, 0, 3]][None]  # (1, 5 tokens, d_model)
    with torch.no_grad():
        forwards = layer(words, causal=causal)
        backwards = layer(words.flip(1), causal=causal).flip(1)  # back in the order of the words
    return ((forwards - backwards).norm() / forwards.norm()).item()


two_sided = mirror_change(positions.ALiBi(4), causal=False)
masked = mirror_change(positions.ALiBi(4), causal=True)
signed = mirror_change(positions.T5Bias(4).double(), causal=False)
print(f"ALiBi, no mask: {two_sided:.0e}; ALiBi, causal: {masked:.2f}; T5, no mask: {signed:.2f}")

# %%
guess.reveal(
    0 if two_sided < 1e-9 else 1 if two_sided < 0.1 else 2,
    "|i - j| does not say which of the two comes first, and in the mirror all distances stay as they "
    "were. To this layer 'before' and 'after' are the same.",
)

# %%
claim("Symmetric ALiBi is blind to the mirror.", two_sided, below=1e-13, source="this cell", id=90)
claim("A causal mask, or a bias that knows the sign of the offset (T5), is not.", [masked, signed],
      above=0.05, source="this cell", id=90)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Sandwich: two things of that name
#
# *As published* (Chi et al. 2023), Sandwich is a bias. Take the sinusoidal codes $p_i$ and $p_j$ of the
# two positions, here with $\bar d = 128$ numbers each; their product is a sum of cosines of the offset.
# Head $h = 1 \dots H$ divides it by its own number:
#
# $$b_{j-i} = \frac{p_i\cdot p_j - \bar d/2}{8h/H},\qquad
# p_i\cdot p_j = \sum_{r=1}^{\bar d/2}\cos\left(\frac{j-i}{10000^{2r/\bar d}}\right)$$
#
# Subtracting $\bar d/2$ makes the bias 0 at offset 0. Nothing is trained, and no vector is added to any
# token.
#
# *Elsewhere* the name is given to $H = \mathrm{Layer}(X + PE_{sin}) + PE_{learned}$, praised as "the
# best of both". We call that the **hybrid**.

# %%
sandwich = positions.Sandwich(8)
places = torch.arange(300, dtype=torch.float64)
omega = 10_000.0 ** (-2 * torch.arange(1, 65, dtype=torch.float64) / 128)
angle = places[:, None] * omega
codes = torch.cat([angle.sin(), angle.cos()], dim=-1)  # (position, 128)
product = codes @ codes.T  # (query, key)
offset = torch.arange(300)[None, :] - torch.arange(300)[:, None]
claim("The last head's bias (8h/H = 8) is the product of two sinusoidal codes, less 64, over 8.",
      (sandwich.relative_bias(offset)[-1] - (product - 64) / 8).abs().max(), below=1e-10,
      source="Chi et al. 2023, section 4", id=93)

# %%
guess = predict(
    "The bias of the published Sandwich falls with the distance. Which shape fits it best, up to 1,024 "
    "tokens?",
    ["a straight line, as with ALiBi", "a logarithm", "a parabola"],
    id="10-sandwich-shape",
)
guess

# %%
distance = torch.arange(1, 1025).double()
sum_of_cosines = 8 * sandwich.relative_bias(-distance.long())[-1]  # undo the head's divisor
shapes = {"line": distance, "logarithm": distance.log(), "parabola": distance**2}
fits = {name: fit_line(x, sum_of_cosines) for name, x in shapes.items()}
for name, (_, r2) in fits.items():
    print(f"{name:9}: R² = {r2:.2f}")

# %%
guess.reveal(
    max(range(3), key=lambda i: list(fits.values())[i][1]),
    "A cosine falls once its angle is no longer small. The wavelengths grow in equal ratios, so each "
    "tenfold distance takes as many cosines down as the one before.",
)

# %%
claim("Sandwich against the logarithm of the distance (R²).", fits["logarithm"][1],
      between=(0.8, 0.87), source="this cell", id=93)
claim("Against the distance itself (R²).", fits["line"][1], below=0.7, source="this cell", id=93)
claim("The slope of the log law is -(d/2)/ln 10⁴ = -6.95.", fits["logarithm"][0],
      expect=-64 / math.log(10_000), atol=0.1, source="64 cosines, evenly over ln 10⁴", id=93)

# %% [markdown] slideshow={"slide_type": "subslide"}
# A bias that falls like $-c \ln|j-i|$ makes weights that fall like $|j-i|^{-c}$: a power law, with a
# longer tail than ALiBi's exponential. We compare the flattest heads of both. A power law is a straight
# line where both axes are logarithmic.

# %%
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
seen = torch.arange(0, 8193)
tails = {}
for name, said, encoding in (("alibi", "ALiBi, flattest of 8 heads (m = 1/256)", alibi),
                             ("sandwich", "Sandwich, flattest of 8 heads", sandwich)):  # fmt: skip
    weights = encoding.relative_bias(-seen)[-1].softmax(dim=0)
    tails[name] = [weights[start:].sum().item() for start in (512, 4096)]
    print(f"{said:38}: weight at 512 tokens and beyond {tails[name][0]:.2f}, "
          f"at 4,096 and beyond {tails[name][1]:.1e}")  # fmt: skip
    colour, dash = plots.ENCODING_LOOKS[name]
    ax.loglog(seen[1:], weights[1:], lw=1.5, label=said, color=colour,
              ls=(0, dash) if dash else "-")  # fmt: skip
ax.set_ylim(1e-12, 1)
ax.set_xlabel("distance (tokens)")
ax.set_ylabel("weight if all q·k = 0")
ax.legend(loc="lower left")
figure(
    fig,
    alt="Weight against distance up to 8,192 tokens, both axes logarithmic. Sandwich falls along a wavy "
    "straight line; ALiBi is nearly level at first, lies higher at some hundred tokens, and drops "
    "out of the picture beyond some thousand.",
)
claim("At 4,096 tokens and beyond Sandwich's flattest head keeps more weight than ALiBi's (ratio).",
      tails["sandwich"][1] / tails["alibi"][1], above=1000.0, source="this cell", id=93)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The hybrid
#
# `attnlab` has the hybrid too, as `SinusoidalThenLearned`. Its learned table has a row for each
# position of the training texts, here 512.

# %%
guess = predict(
    "'Extrapolation from the sinusoids, flexibility from the table.' What does the hybrid do with a text "
    "of 600 tokens?",
    ["it cannot run", "it works, without positions from 512 on", "it works: the sinusoids take over"],
    id="10-hybrid",
)
guess

# %%
torch.manual_seed(0)
hybrid = positions.SinusoidalThenLearned(max_len=512, d_model=64)
layer = attnlab.MultiHeadAttention(64, 4)


def run_hybrid(x, pos):
    """Layer(X + PE_sin) + PE_learned."""
    return hybrid.after_layer(layer(hybrid.embed(x, pos)), pos, 0)


with torch.no_grad():
    x = torch.randn(1, 12, 64)
    here, there = run_hybrid(x, torch.arange(12)), run_hybrid(x, torch.arange(12) + 300)
    hybrid_shift = ((there - here).norm() / here.norm()).item()
    try:
        out = run_hybrid(torch.ones(1, 600, 64), torch.arange(600))  # equal tokens
        outcome = "ran, places differ" if (out[0, 520] - out[0, 521]).norm() > 1e-6 else "ran"
    except ValueError as error:
        outcome = "refused"
        print("600 tokens:", error)

# %%
guess.reveal(
    {"refused": 0, "ran": 1, "ran, places differ": 2}[outcome],
    "The learned table has no row 512. A sum has the limits of both its parts, not the strengths.",
)

# %%
distant = torch.tensor([-600, -100_000])
formula = (torch.cos(distant[:, None] * omega).sum(dim=-1) - 64) / 8
claim("The hybrid refuses a text that is longer than its table.", outcome, equals="refused",
      source="this cell", id=94)
claim("And a shift of all positions by 300 changes its output (share of its length).", hybrid_shift,
      above=0.1, source="this cell", id=94)
claim("The published Sandwich has a bias for any offset: at -600 and -100,000 it is that of the formula "
      "(largest difference).", (sandwich.relative_bias(distant)[-1] - formula).abs().max(), below=1e-9,
      source="Chi et al. 2023", id=93)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: bias surfaces
#
# Above: the bias of one head for every query and key, and the weights that follow when content says
# nothing (all $q\cdot k = 0$). Below: bias and weight against the offset, for all heads at once. Try:
#
# 1. **T5**, then turn **causal mask** on. What happens to the dotted borders of the buckets? Lower
#    **max distance**: which borders move?
# 2. **ALiBi** with the causal mask. Go through the **heads** with *head shown*: how wide is the
#    bright band? Compare the mean distance below the picture with $1/m$: for which heads is the text too
#    short for them to agree? Then set the **slope** to its
#    largest, and to its smallest value.
# 3. ALiBi *without* the mask: which symmetry of the curve is the blindness to the mirror?
# 4. **Sandwich**: look for the log law in the lower left curve. Which head looks farthest?
# 5. **Shaw**: move *query shown*. Why does its curve change, while those of the other schemes stay? Move
#    **clip**: which part of the map is flat?
# 6. Any scheme: change the **length**. Does the curve of the bias change, where it was drawn before?

# %%
BiasExplorer("t5", length=64, n_heads=8, head=0)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The schemes side by side
#
# A model of 6 layers, 8 heads, $d_{model} = 512$, up to 512 tokens. We count parameters, and ask each
# scheme for a position far beyond.

# %%
layers, sizes = 6, {"d_model": 512, "n_heads": 8, "max_len": 512}
per_layer = {"shaw"}  # the others are used once, or shared by the layers
counted = {}
for name in ("sinusoidal", "learned", "shaw", "t5", "alibi", "sandwich"):
    encoding = positions.make(name, **sizes)
    copies = layers if name in per_layer else 1
    counted[name] = copies * sum(p.numel() for p in encoding.parameters())
    try:
        pos = torch.tensor([0, 5000])
        with torch.no_grad():
            encoding.embed(torch.zeros(1, 2, 512), pos)
            encoding.bias(torch.zeros(1, 8, 2, 64), torch.zeros(1, 8, 2, 64), pos, pos)
        far_away = "has a value"
    except ValueError:
        far_away = "has none"
    print(f"{name:10}: {counted[name]:7,} parameters; position 5,000: {far_away}")
claim("Parameters for positions of sinusoidal, learned, Shaw, T5, ALiBi and Sandwich.",
      tuple(counted.values()), equals=(0, 512 * 512, 6 * 2 * 33 * 64, 32 * 8, 0, 0),
      source="counted above; Shaw with clip 16", id=92)

# %% [markdown] slideshow={"slide_type": "subslide"}
# | scheme | parameters | enters at | shared by | beyond training |
# |---|---|---|---|---|
# | sinusoidal | none | input | – | has a value; new to the model |
# | learned, $L$ rows | $L\,d_{model}$ | input | – | no row |
# | Shaw | $2(2C+1)\,d_k$ a layer | keys and values | heads (ours) | as distance $C$ |
# | T5 | $32\,H$ | scores | layers | as the last bucket |
# | ALiBi | none | scores | layers | same line, same windows |
# | Sandwich | none | scores | layers | same curve |
#
# "Has a value" is not "works": whether a *trained* model does well on longer texts is measured in
# [notebook 12](12-beyond-training-length.ipynb). (Rotary encodings, [notebook 11](11-rope.ipynb),
# enter at queries and keys.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What a head can be taught
#
# A task in which the distance is everything. A text is 20 random letters out of 8. Each token must
# report three of them: the letters 1, 3 and 6 places before it. One causal layer with 4 heads, and one
# relative encoding; nothing else knows where a token stands. Guessing gets 1 in 8 right.

# %%
guess = predict(
    "With which encodings does the layer learn to report the letter 6 places back?",
    ["Shaw, T5 and ALiBi", "Shaw and T5", "Shaw only", "none of the three"],
    id="10-report",
)
guess

# %%
N_LETTERS, LENGTH, BACK = 8, 20, (1, 3, 6)
ENCODINGS = {
    "Shaw": lambda: positions.Shaw(8, clip=8),
    "T5": lambda: positions.T5Bias(4, n_buckets=16, max_distance=24, causal=True),
    "ALiBi": lambda: positions.ALiBi(4),
}


class Reporter(nn.Module):
    """Letters (batch, LENGTH) -> a guess for each place, distance and letter."""

    def __init__(self, encoding, d_model=32):
        super().__init__()
        self.letters = nn.Embedding(N_LETTERS, d_model)
        self.attention = attnlab.MultiHeadAttention(d_model, 4, encoding=encoding)
        self.read = nn.Linear(d_model, len(BACK) * N_LETTERS)

    def forward(self, ids):
        x = self.letters(ids)
        out = self.read(x + self.attention(x, causal=True))
        return out.unflatten(-1, (len(BACK), N_LETTERS))  # (batch, place, distance, letter)


def train_reporter(name, seed):
    """Share of right reports for each distance, and the trained model."""
    torch.manual_seed(seed)
    model = Reporter(ENCODINGS[name]())
    generator = torch.Generator().manual_seed(seed)

    def batch(size):
        ids = torch.randint(N_LETTERS, (size, LENGTH), generator=generator)
        return ids, torch.stack([ids.roll(b, 1) for b in BACK], dim=-1)

    def loss():
        ids, target = batch(32)
        out = model(ids)[:, max(BACK) :]  # places that have all three letters before them
        return F.cross_entropy(out.flatten(0, 2), target[:, max(BACK) :].flatten())

    fit(model, loss, steps=400, lr=0.02)
    ids, target = batch(200)
    with torch.no_grad():
        right = (model(ids).argmax(-1) == target)[:, max(BACK) :]
    return right.float().mean((0, 1)).tolist(), model


reports, trained = {name: [] for name in ENCODINGS}, {}
for seed in progress(range(5), "seeds, three runs each"):
    for name in ENCODINGS:
        shares, trained[name] = train_reporter(name, seed)
        reports[name].append(shares)
for name, runs in reports.items():
    means = [sum(column) / len(column) for column in zip(*runs, strict=True)]
    print(f"{name:5}: right at distance 1, 3, 6: " + ", ".join(f"{share:.2f}" for share in means))

# %%
can = {name: min(run[2] for run in runs) > 0.9 for name, runs in reports.items()}
guess.reveal(
    {(True, True, True): 0, (True, True, False): 1, (True, False, False): 2,
     (False, False, False): 3}[tuple(can.values())],
    "Shaw and T5 can learn a peak at any distance that has a row of its own. ALiBi's bias is largest at "
    "distance 0 and falls from there, in every head: it can prefer near to far, and not single out 6.",
)

# %%
figure(
    plots.by_seed({name: [run[2] for run in runs] for name, runs in reports.items()},
                  "right at distance 6", "encoding; a dot for each of 5 seeds"),
    alt="Share of right reports at distance 6, five seeds each: Shaw and T5 at 1.0, ALiBi near 0.3.",
)
for name in ("Shaw", "T5"):
    claim(f"{name}: every distance is reported (lowest share of the three, 5 seeds).",
          [min(run) for run in reports[name]], above=0.95, source="this cell", id=67)
claim("ALiBi: the letter 6 back is mostly missed (share right, 5 seeds).",
      [run[2] for run in reports["ALiBi"]], below=0.6, source="this cell", id=67)

# %% [markdown] slideshow={"slide_type": "subslide"}
# What did T5's table learn? Its bias for the four heads of the last seed, beside ALiBi's lines. Only the
# shape of a curve counts: softmax ignores a constant. Compare the curves at the dotted distances 1, 3
# and 6 with what is beside them. (A head may also help by *avoiding* a place.)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
back = torch.arange(0, 13)
styles = (("#00224e", "-", "o"), ("#575d6d", "--", "s"), ("#b8860b", "-", "^"), ("#7c7b78", ":", "D"))
for ax, name in zip(axes, ("T5", "ALiBi"), strict=True):
    with torch.no_grad():
        bias = trained[name].attention.encoding.relative_bias(-back)
    for h, (colour, line, marker) in enumerate(styles):
        ax.plot(back, bias[h], color=colour, ls=line, marker=marker, ms=5, label=f"head {h}")
    for b in BACK:
        ax.axvline(b, color="black", lw=0.6, ls=":")
    ax.set_title(name)
    ax.set_xlabel("distance to an earlier key (tokens)")
axes[0].set_ylabel("bias")
axes[1].legend()
figure(
    fig,
    alt="Bias against distance for four heads each. The curves of the trained T5 table jump up and "
    "down at the distances 1, 3 and 6, in each head in another way; ALiBi's four lines fall straight "
    "from distance 0.",
)

# %% [markdown]
# Do not conclude that ALiBi is the worse encoding. It was made to forget what is far, and there are tasks
# where that helps. Here the shape of its bias stood in the way.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 10.1: from a table to a bias &nbsp; (●○○, 8 minutes)
#
# `table` is `(heads, 2n - 1)`; its columns are the offsets $-(n-1), \dots, n-1$. Return the bias of shape
# `(heads, query, key)` for $n$ tokens.

# %% tags=["exercise"]
def bias_from_table(table):
    """(heads, 2n - 1) -> (heads, n queries, n keys)."""
    # BEGIN SOLUTION
    n = (table.shape[1] + 1) // 2
    place = torch.arange(n)
    return table[:, place[None, :] - place[:, None] + n - 1]
    # END SOLUTION


# %%
check("10.1", bias_from_table)

# %% [markdown] tags=["hint"]
# First the offsets: an `(n, n)` array with $j - i$ in row $i$, column $j$.

# %% [markdown] tags=["hint"]
# Python reads a negative index from the end, without an error. In which column stands offset 0?

# %% [markdown]
# ### Exercise 10.2: causal buckets &nbsp; (●●○, 15 minutes)
#
# Compute T5's bucket for distances to *earlier* keys. The first half of the buckets holds one distance
# each; the others grow in proportion up to `max_distance`; what lies beyond goes into the last.

# %% tags=["exercise"]
def causal_bucket(distance, n_buckets=32, max_distance=128):
    """Whole distances >= 0 (any shape) -> bucket numbers 0 ... n_buckets - 1, same shape."""
    # BEGIN SOLUTION
    own = n_buckets // 2
    steps = n_buckets - own
    ratio = (distance.double().clamp(min=1) / own).log() / math.log(max_distance / own)
    shared = own + (ratio * steps).floor().long().clamp(max=steps - 1)
    return torch.where(distance < own, distance, shared)
    # END SOLUTION


# %%
check("10.2", causal_bucket)

# %% [markdown] tags=["hint"]
# Let $E$ be half the buckets. Solve $x = E\,(\texttt{max}/E)^{s/E}$ for $s$, and round down.

# %% [markdown] tags=["hint"]
# `torch.where(distance < own, distance, ...)`; the logarithm of 0 must not do harm, and no bucket may
# lie beyond the last.

# %% [markdown]
# ### Exercise 10.3: ALiBi &nbsp; (●●○, 12 minutes)
#
# Write the weights of causal attention with ALiBi, the bias in the right place. The number of heads is a
# power of two; the slopes are yours to compute.

# %% tags=["exercise"]
def alibi_weights(q, k):
    """q, k (heads, tokens, d_head) -> weights (heads, query, key), causal."""
    # BEGIN SOLUTION
    n_heads, n, d_head = q.shape
    slopes = 2.0 ** (-8 * torch.arange(1, n_heads + 1) / n_heads)
    place = torch.arange(n)
    back = place[:, None] - place[None, :]
    scores = q @ k.mT / math.sqrt(d_head) - slopes[:, None, None] * back
    return scores.masked_fill(back < 0, -math.inf).softmax(dim=-1)
    # END SOLUTION


# %%
check("10.3", alibi_weights)

# %% [markdown] tags=["hint"]
# The first head is the steepest. Heads are counted from 1 in $m_h = 2^{-8h/H}$.

# %% [markdown] tags=["hint"]
# Divide $q\cdot k$ by the root first, then subtract `slopes[:, None, None] * back`, then mask.

# %% [markdown]
# ### Exercise 10.4: Shaw without the large tensor &nbsp; (●●●, 20 minutes)
#
# Write Shaw's scores (key side) for one head. The check watches the memory: no array may have as many as
# $n \cdot n \cdot d_k$ numbers.

# %% tags=["exercise"]
def shaw_scores(q, k, table):
    """q, k (tokens, d_head); table (2 clip + 1, d_head), offsets -clip ... clip -> (query, key)."""
    # BEGIN SOLUTION
    n, d_head = q.shape
    clip = (len(table) - 1) // 2
    place = torch.arange(n)
    row = (place[None, :] - place[:, None]).clamp(-clip, clip) + clip
    return (q @ k.T + (q @ table.T).gather(1, row)) / math.sqrt(d_head)
    # END SOLUTION


# %%
check("10.4", shaw_scores)

# %% [markdown] tags=["hint"]
# `q @ table.T` has every number $q_i\cdot r$ that can occur: a row for each query, a column for each row
# of the table.

# %% [markdown] tags=["hint"]
# `by_row.gather(1, row)` picks, for query $i$ and key $j$, the number `by_row[i, row[i, j]]`.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | scheme | what is added | to what |
# |---|---|---|
# | Shaw | $q_i\cdot r^K_{c(j-i)}/\sqrt{d_k}$; $r^V_{c(j-i)}$ | score; value |
# | T5 | $b_{\mathrm{bucket}(j-i)}$, per head | $q_i\cdot k_j$, *not* divided |
# | ALiBi | $-m_h\lvert j-i\rvert$ | $q_i\cdot k_j/\sqrt{d_k}$ |
# | Sandwich | $\left(p_i\cdot p_j - \bar d/2\right)/(8h/H)$ | $q_i\cdot k_j/\sqrt{d_k}$ |
#
# - A relative encoding depends on the offset: moving all positions together changes nothing.
# - Shaw needs a `(query, 2C + 1)` product, not an `(n, n, d_k)` tensor.
# - T5's last bucket begins at 91 (both directions) or 113 (causal).
# - An ALiBi slope $m$ is a soft window of about $1/m$ tokens; without a mask ALiBi cannot
#   tell a text from its mirror image.
# - Sandwich, as published, is a bias and falls like a logarithm.
#
# ### Questions
#
# *What are the trade-offs between the encodings?* (Review question 4 of the course, begun in
# [notebook 8](08-putting-positions-in.ipynb).) By the table above: tables at the input cost
# parameters or lose their meaning beyond the training length; biases are small or free, and act in
# every layer, but say only the offset; in ALiBi and Sandwich the shape is fixed as well. The task
# with the letters shows that the shape matters: a learned bias can single
# out a distance, a straight line cannot. Rotary encodings follow in
# [notebook 11](11-rope.ipynb).
#
# *When are relative encodings preferable to absolute ones?* (Review question 7 of the course, begun
# here, continued in [notebook 12](12-beyond-training-length.ipynb).) When what
# matters is how far apart two tokens are, and not where the text begins: the shift test above. Not when
# the place itself matters ("the first token", a column of a table), and not without a mask if the bias
# ignores the sign: the mirror test.
#
# ### Common misconceptions
#
# - "T5 divides by $\sqrt{d_k}$": it does not; with its initial parameters a third of the weight
#   would land on other keys.
# - "T5's last bucket begins at 128": at 91, or 113.
# - "ALiBi: $q\cdot k - m|i-j|$": the root is missing, and content outweighs the line.
# - "ALiBi's slopes are learned": they are fixed.
# - "Sandwich adds sinusoidal and learned positions": that is a hybrid, with the limits of both.
# - "Clipping makes Shaw cheap in memory": it bounds the parameters; the large tensor must be avoided too.
#
# ### Further reading
#
# - Shaw et al. 2018, *Self-Attention with Relative Position Representations*: section 3, Table 3.
# - Raffel et al. 2020 (T5): section 2.1. Huang et al. 2018 (Music Transformer): section 3.4 (skewing).
# - Press et al. 2022 (ALiBi): section 3, footnotes 9 and 10, Appendix B.
# - Chi et al. 2023, *Dissecting Transformer Length Extrapolation via the Lens of Receptive Field Analysis* (Sandwich).
#
# **Next:** [notebook 11](11-rope.ipynb) turns queries and keys instead of adding anything. Back to
# [the start](00-start-here.ipynb).
