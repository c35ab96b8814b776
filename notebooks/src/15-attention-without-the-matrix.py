# %% [markdown] slideshow={"slide_type": "slide"}
# # 15. Attention without the matrix
#
# **The weights of one layer for one long text do not fit into this machine's memory. Can we still know exactly
# what its heads do?**
#
# When you have worked through this notebook you can
#
# - get a head's entropy, attended distance and mass on chosen keys from a kernel that never shows a weight;
# - merge two halves of a row of scores, which is how such kernels work inside;
# - compare two heads by inner products, and take terms of the score apart, without an n × n matrix;
# - name the four places where rounding spoils these numbers, and what to do about each;
# - measure trained heads on 16,384 tokens, on this machine, in memory that grows with $n$ and not $n^2$.
#
# The exercises stand where they are needed, not at the end.
#
# *You need:* [notebook 1](01-one-head.ipynb), [notebook 3](03-what-heads-learn.ipynb),
# [notebook 9](09-four-terms.ipynb), [notebook 12](12-beyond-training-length.ipynb) and
# [notebook 14](14-what-attention-costs.ipynb). *To study:* 80 minutes. *To lecture:* 45 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from attnlab import attention_weights, decompose, plots, positions, races, stats
from attnlab.attention import MultiHeadAttention
from attnlab.decompose import Parts
from attnlab.exercises import check
from attnlab.explorers import MemoryExplorer
from attnlab.measure import peak_bytes
from attnlab.stats import summary
from attnlab.teach import claim, figure, predict, progress

torch.manual_seed(0)
CPU = torch.device("cpu");

# %% [markdown] slideshow={"slide_type": "slide"}
# ## How large is the matrix?
#
# Notebook 3 read everything about a head off its weights: a matrix with a row for each query and a column
# for each key. Now take a text of $n$ = 131,072 tokens and one layer with 16 heads.

# %%
guess = predict(
    "How much memory do the weights of these 16 heads need, in float32?",
    ["1 GiB", "32 GiB", "1 TiB (1,024 GiB)", "16 TiB"],
    id="15-size",
)
guess

# %%
n_long = 131_072
gib = 16 * n_long**2 * 4 / 2**30
print(f"{gib:,.0f} GiB; the queries and keys themselves, d_head = 64: {2 * 16 * n_long * 64 * 4 / 2**30:,.0f} GiB")

# %%
guess.reveal({1: 0, 32: 1, 1024: 2, 16384: 3}[round(gib)],
             "16 heads × n² weights × 4 bytes. Twice the tokens need four times as much.")

# %% [markdown]
# The layer itself runs all the same. Its kernel (`scaled_dot_product_attention`, notebook 14) makes the
# weights piece by piece and throws each piece away. But a number like the entropy is a number about weights.
# So it seems that we must choose: long texts, or seeing what heads do. We need not choose.
#
# Our example for all derivations: two heads, 512 tokens, float64, so that what remains of an error is a
# wrong formula and not rounding. $d$ is the size of a head here, $d_k$ elsewhere. $s$ are scores,
# $a$ weights, shape (batch, heads, query, key). We form them here, for comparison only. Errors of
# formulas are rounded to nine decimals: 0 is below $10^{-9}$.

# %%
n, d = 512, 64
q, k = torch.randn(2, 1, 2, n, d, dtype=torch.float64)  # (batch, heads, n, d_head) each
q[:, 1] = 2 * q[:, 1]  # the second head is sharper
s = q @ k.mT / d**0.5  # (1, 2, n, n)
a = s.softmax(-1)  # what we want to do without


def error(found, meant):
    """Largest difference."""
    return (found - meant).abs().max()


# %% [markdown] slideshow={"slide_type": "slide"}
# ## One number for a row of scores
#
# A row of scores has a number of its own, the **logsumexp** (exercise 14.5):
#
# $$\text{lse}_i = \log \sum_j e^{s_{ij}}, \qquad\text{so that}\qquad a_{ij} = \frac{e^{s_{ij}}}{\sum_{j'} e^{s_{ij'}}} = e^{s_{ij} - \text{lse}_i}
# \qquad\text{and}\qquad \log a_{ij} = s_{ij} - \text{lse}_i .$$
#
# Put that into the entropy:
#
# $$H_i = -\sum_j a_{ij} \log a_{ij} = -\sum_j a_{ij}\,(s_{ij} - \text{lse}_i) = \text{lse}_i - \sum_j a_{ij} s_{ij} .$$
#
# The entropy is **lse minus the mean score**. And the mean score is
#
# $$\sum_j a_{ij} \frac{q_i \cdot k_j}{\sqrt d} = \frac{q_i \cdot \bar k_i}{\sqrt d}, \qquad \bar k_i = \sum_j a_{ij} k_j ,$$
#
# the query against its **mean key**. A weighted mean of vectors is what an attention kernel returns: we only
# have to hand it the keys in place of the values, $V := K$.

# %% [markdown]
# ### Exercise 15.1: entropy without weights &nbsp; (●●○, 12 minutes)
#
# You get queries, keys, both (batch, heads, n, d), and lse, (batch, heads, n). Return the entropies in nats,
# without forming n × n numbers.

# %% tags=["exercise"]
def entropy(q, k, lse):
    """H of each query, (batch, heads, n)."""
    # BEGIN SOLUTION
    mean_key = F.scaled_dot_product_attention(q, k, k)  # (batch, heads, n, d)
    return lse - (q * mean_key).sum(-1) / q.shape[-1] ** 0.5
    # END SOLUTION


# %%
check("15.1", entropy)

# %% [markdown] tags=["hint"]
# `F.scaled_dot_product_attention(q, k, v)` divides the scores by √d itself and returns the mean of `v`.

# %% [markdown] tags=["hint"]
# With `v = k` it returns the mean key. Multiply with `q`, sum over the last axis, divide by √d.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Where does lse come from?
#
# The kernel computes lse inside, but torch's public function does not return it. We can still read it off.
# Put **one key more** in front, of which we know the score: a zero vector has the score 0 with every query.
# It gets the weight
#
# $$w_i = \frac{e^0}{e^0 + \sum_j e^{s_{ij}}} = \frac{1}{1 + e^{\text{lse}_i}} \qquad\Longrightarrow\qquad \text{lse}_i = \log(1 - w_i) - \log w_i .$$
#
# To read $w_i$ from the output, give this key the value 1 and all others 0. (The other means are then too
# small by $1 - w_i$: divide.)
#
# One caution. On a CPU, torch uses its kernel only if values are as wide as queries and keys. If not, it **forms the
# matrix** and says nothing. So we fill up the narrower ones with zeros, which change no score.

# %%
def kernel(q, k, v, causal=False):
    """softmax(q kᵀ / √d) v for v of any width, without n × n numbers."""
    d, d_v = q.shape[-1], v.shape[-1]
    q, k, v = (F.pad(x, (0, max(d, d_v) - x.shape[-1])) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=d**-0.5)[..., :d_v]


def with_lse(q, k, v):
    """The mean of v, (1, heads, n, d_v), and lse, (1, heads, n), from one call of the kernel."""
    first = (0, 0, 1, 0)  # a row of zeros in front
    values = F.pad(F.pad(v, first), (0, 1))  # and a channel behind ...
    values[..., 0, -1] = 1  # ... that is 1 for the key in front
    out = kernel(q, F.pad(k, first), values)
    w = out[..., -1]
    return out[..., :-1] / (1 - w)[..., None], (1 - w).log() - w.log()


mean_key, lse = with_lse(q, k, k)
H = lse - (q * mean_key).sum(-1) / d**0.5
claim("lse from the weight of a known key: largest error.", error(lse, s.logsumexp(-1)).round(decimals=9),
      below=1e-9, source="this notebook", id="16.1")
claim("Entropy as lse minus mean score, against -Σ a log a.", error(H, stats.entropy(a)).round(decimals=9),
      below=1e-9, source="this notebook", id="16.1")
q_long, k_long = torch.randn(2, 1, 2, 2048, d)  # float32
share = peak_bytes(lambda: with_lse(q_long, k_long, k_long), CPU) / (2 * 2048**2 * 4)
claim("with_lse, 2,048 tokens: memory held beyond queries and keys, as a share of one matrix for each head.",
      round(share, 2), below=0.6, source="this notebook")

# %% [markdown]
# (If $\text{lse}_i$ is far above 0, $w$ underflows; far below, $1-w$ loses its digits. `attnlab.stats` gives the
# extra key a score $c_i$ near $\text{lse}_i$ instead, by one more channel of the queries. The formula then
# begins with $c_i + \ldots$)
#
# From lse alone comes one more number. $\sum_j a_{ij}^2$ is 1 for a head that looks at one key, and $1/m$ for one
# that looks at $m$ keys alike:
#
# $$\sum_j a_{ij}^2 = \sum_j e^{2 s_{ij} - 2\,\text{lse}_i} = e^{\text{lse}_i(2s) - 2\,\text{lse}_i(s)} ,$$
#
# where $\text{lse}(2s)$ is what the kernel gives for doubled queries.

# %%
_, lse_twice = with_lse(2 * q, k, k)
claim("Σ a² from two lse, largest error.", error((lse_twice - 2 * lse).exp(), a.square().sum(-1)).round(decimals=9),
      below=1e-9, source="this notebook", id="16")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Where does a head look?
#
# The values are ours to choose. With $V :=$ the number of each token, one channel, the kernel returns the mean
# position $\sum_j a_{ij}\, j$. With $V :=$ 1 for some keys and 0 for the others it returns the mass on these keys (on the
# first key: the weight of a sink, notebook 3). We want the **attended distance** of notebook 3,
# $\sum_j a_{ij} |i - j|$, of heads without a causal mask.
#
# In general we want $\sum_j a_{ij} f_{ij}$. If $f_{ij} = \sum_c x_{ic}\, y_{jc}$ with a few channels $c$, then one call with
# the values $y_{jc}$ does it: multiply what comes out by $x_{ic}$ and add up. The fewest channels are the **rank** of $f$.

# %%
guess = predict(
    "512 tokens. Which of these can be written with at most three channels?",
    [
        "Σ a·(i − j)² and Σ a·|i − j|",
        "Σ a·(i − j)² only",
        "Σ a·|i − j| only",
        "neither",
    ],
    id="15-one-call",
)
guess

# %%
j = torch.arange(n, dtype=torch.float64)
i = j[:, None]  # queries stand where keys do
ranks = [torch.linalg.matrix_rank(f).item() for f in ((i - j) ** 2, (i - j).abs())]
print("rank of (i - j)²:", ranks[0], "  rank of |i - j|:", ranks[1])

# %%
few = [rank <= 3 for rank in ranks]
guess.reveal(
    {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}[tuple(few)],
    "(i − j)² = i² − 2ij + j²: channels 1, j and j². |i − j| depends on who comes first. It would need "
    "n channels, and n × n numbers are what we cannot hold.",
)

# %%
values = torch.stack([j, j**2], -1).expand(1, 2, n, 2)  # channel 1 is known: weights sum to 1
place, squares = kernel(q, k, values).unbind(-1)  # (1, 2, n) each
claim("Mean (i - j)² from one call, largest error in tokens².",
      error(j**2 - 2 * j * place + squares, (a * (i - j) ** 2).sum(-1)).round(decimals=6), below=1e-6,
      source="this notebook", id="16.2")
claim("But the distance of the mean position is not the attended distance: keys on both sides cancel. Off by, in tokens.",
      error((place - j).abs(), stats.attention_distance(a)), above=10, source="this notebook", id="16.2")

# %% [markdown]
# Under a causal mask there is nothing to do: $j \le i$, so $|i - j| = i - j$. Without one, use a causal call
# **as well**. It has the same scores, but sees the keys $j \le i$ only, so its weights are larger:
#
# $$a^c_{ij} = e^{s_{ij} - \text{lse}^c_i} = a_{ij}\; e^{\text{lse}_i - \text{lse}^c_i} \qquad (j \le i).$$
#
# And $|i - j| = (j - i) + 2\,(i - j)$ for $j \le i$, $|i-j| = j - i$ for the others. So
#
# $$\sum_j a_{ij} |i - j| = \sum_j a_{ij} (j - i) + 2 \sum_{j \le i} a_{ij} (i - j) .$$

# %% [markdown]
# ### Exercise 15.2: the distance, both ways &nbsp; (●●●, 12 minutes)
#
# From the full call you have the mean positions `place` and `lse`, from the causal call `place_behind` and
# `lse_behind`, all of shape (n,). Query number i stands at i = 0, 1, ... Return the attended
# distances.

# %% tags=["exercise"]
def distance(place, lse, place_behind, lse_behind):
    """sum_j a_ij |i - j| of each query, (n,)."""
    # BEGIN SOLUTION
    i = torch.arange(len(place), dtype=place.dtype)
    share = (lse_behind - lse).exp()  # how much of the weight lies on keys j <= i
    return place - i + 2 * share * (i - place_behind)
    # END SOLUTION


# %%
check("15.2", distance)

# %% [markdown] tags=["hint"]
# The first sum is `place - i`. The second one is over $j \le i$ with the weights $a$, but `place_behind` was made
# with the weights $a^c$.

# %% [markdown] tags=["hint"]
# $a_{ij} = a^c_{ij}\, e^{\text{lse}^c_i - \text{lse}_i}$: multiply `i - place_behind` by that.

# %%
hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
s_behind = s.masked_fill(hidden, -torch.inf)  # for comparison; the kernel has is_causal=True
place_behind = kernel(q, k, values, causal=True)[..., 0]
share = (s_behind.logsumexp(-1) - s.logsumexp(-1)).exp()
both_ways = place - j + 2 * share * (j - place_behind)
claim("Mean |i - j| from a full and a causal call, largest error in tokens.",
      error(both_ways, stats.attention_distance(a)).round(decimals=9), below=1e-8, source="this notebook", id="16.2")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## How the kernel itself does it
#
# Why does the kernel need no n × n memory? Because **two parts of a row can be merged**. Say one part of the keys gave the mean
# value $m_1$ and the logsumexp $\text{lse}_1$, the rest $m_2$ and $\text{lse}_2$. Together the exponentials sum to
# $e^{\text{lse}_1} + e^{\text{lse}_2}$, and each part counts by its share of that sum. So a row can be read in
# blocks of keys, each merged with all before it; only $m$ and lse are kept (Milakov and Gimelshein 2018; Dao et al. 2022).
# Exercise 14.5 merged lse; now the means too.

# %% [markdown]
# ### Exercise 15.3: merge two halves &nbsp; (●●●, 15 minutes)
#
# Merge two parts: means (n, d), lse (n,). Return the mean and the lse of all keys together. Scores of 500 must
# do no harm, though $e^{500}$ is infinite.

# %% tags=["exercise"]
def merge(mean_1, lse_1, mean_2, lse_2):
    """mean, (n, d), and lse, (n,), of both parts together."""
    # BEGIN SOLUTION
    lse = torch.logaddexp(lse_1, lse_2)
    share_1, share_2 = (lse_1 - lse).exp(), (lse_2 - lse).exp()
    return share_1[:, None] * mean_1 + share_2[:, None] * mean_2, lse
    # END SOLUTION


# %%
check("15.3", merge)

# %% [markdown] tags=["hint"]
# `torch.logaddexp(x, y)` is log(eˣ + eʸ), computed safely.

# %% [markdown] tags=["hint"]
# The share of the first part is $e^{\text{lse}_1 - \text{lse}}$: a difference, at most 0, whose exponential cannot
# overflow.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Two heads
#
# To compare two heads with weights $a$ and $a'$ we need sums of products. In one row:
#
# $$\sum_j a_{ij} a'_{ij} = \sum_j e^{s_{ij} + s'_{ij} - \text{lse}_i - \text{lse}'_i} = e^{\text{lse}_i(s + s') - \text{lse}_i - \text{lse}'_i} .$$
#
# And $s + s'$ is again a score, of a head whose query is $q$ and $q'$ side by side, and likewise its key:
# $[q\ \ q'] \cdot [k\ \ k'] = q \cdot k + q' \cdot k'$. So the kernel gives its lse too.

# %%
one, two = q[:, :1], q[:, 1:]
wide_q = torch.cat([one, two], -1) * 2**0.5  # (1, 1, n, 128): the kernel divides by √128 in place of √64
wide_k = torch.cat([k[:, :1], k[:, 1:]], -1)
_, lse_both = with_lse(wide_q, wide_k, wide_k)
products = (lse_both[:, 0] - lse[:, 0] - lse[:, 1]).exp()  # (1, n)
claim("Σ a a' of each row from lse of the concatenated heads, largest error.",
      error(products, (a[:, 0] * a[:, 1]).sum(-1)).round(decimals=9), below=1e-9, source="this notebook", id="16.3")

# %% [markdown]
# Likewise $KL(a\,\|\,a')_i = \sum_j a_{ij} \log (a_{ij} / a'_{ij}) = \text{lse}'_i - \text{lse}_i + \sum_j a_{ij}(s_{ij} - s'_{ij})$:
# the last sum is a mean score of the first head's query, minus the second head's query against the mean of
# **its** keys under the first head's weights.

# %%
mean_other = F.scaled_dot_product_attention(one, k[:, :1], k[:, 1:])[:, 0]  # V := the other head's keys
mean_own = mean_key[:, 0]
scores_1 = (one[:, 0] * mean_own).sum(-1) / d**0.5
scores_2 = (two[:, 0] * mean_other).sum(-1) / d**0.5
kl = lse[:, 1] - lse[:, 0] + scores_1 - scores_2
claim("KL between two heads, row by row, largest error.",
      error(kl, (a[:, 0] * (a[:, 0] / a[:, 1]).log()).sum(-1)).round(decimals=9), below=1e-9, source="this notebook",
      id="16")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Correlation
#
# Now call the second head's weights $b$. Let $S_{ab} = \sum_{ij} a_{ij} b_{ij}$ be the inner product of both heads over all
# queries, and $S_{aa}$, $S_{bb}$ those of each with itself. The Pearson correlation over $N$ entries takes the mean off:
# $\sum (a - \bar a)(b - \bar b) = S_{ab} - N\,\bar a\,\bar b$.
# Rows sum to 1, so all entries together sum to $n$, whatever the head: $\bar a = \bar b = n / N$. Without a mask
# $N = n^2$; over the visible entries of a causal head $N = n(n+1)/2$.

# %% [markdown]
# ### Exercise 15.4: correlation from inner products &nbsp; (●●○, 8 minutes)
#
# Return the correlation of two **causal** heads over the visible entries, from their three inner products and n.

# %% tags=["exercise"]
def correlation(s_ab, s_aa, s_bb, n):
    """Pearson correlation over the entries with key <= query."""
    # BEGIN SOLUTION
    common = n**2 / (n * (n + 1) / 2)
    return (s_ab - common) / ((s_aa - common) * (s_bb - common)) ** 0.5
    # END SOLUTION


# %%
check("15.4", correlation)

# %% [markdown] tags=["hint"]
# $N \bar a \bar b = N\,(n/N)^2$.

# %% [markdown] tags=["hint"]
# That is $n^2/N$ with $N = n(n+1)/2$. Take it off all three inner products; then as always: covariance over the root of the
# product of the variances.

# %%
found = summary(q, k, causal=True)
b = attention_weights(q, k, causal=True)[0]  # (2, n, n)
visible = stats.causal_visible(n)
claim("Correlation of two causal heads over visible entries, against torch.corrcoef.",
      error(found.correlation_visible[0], torch.corrcoef(b[:, visible])).round(decimals=9), below=1e-9,
      source="attnlab.stats.summary", id="16.3")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The way back
#
# So far each number belonged to a query, a row of the matrix. The kernel also has a backward pass.

# %%
guess = predict(
    "Give the kernel values v of zeros, one number each, add up all its outputs, and ask for the gradient with respect "
    "to v_j. What is it?",
    ["0, since v is 0", "Σ_i a_ij: all weights on key j", "1: all weights of query j", "a_jj: the weight of query j on key j"],
    id="15-gradient",
)
guess

# %%
v = torch.zeros(1, 2, n, 1, dtype=torch.float64, requires_grad=True)
kernel(q, k, v).sum().backward()
gradient = v.grad[..., 0]  # (1, 2, n)
candidates = [torch.zeros_like(gradient), a.sum(-2), torch.ones_like(gradient), a.diagonal(dim1=-2, dim2=-1)]
errors = [error(gradient, c).item() for c in candidates]

# %%
guess.reveal(min(range(4), key=lambda c: errors[c]),
             "Output i is Σ_j a_ij v_j. Its derivative with respect to v_j is a_ij, whatever v is, and the sum over "
             "i adds them up.")

# %% [markdown]
# So this is a column of the matrix: the attention that key $j$ **receives** from all queries together.

# %%
claim("Attention received, as a gradient: largest error.", round(errors[1], 9), below=1e-9, source="this notebook",
      id="16")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Terms of the score
#
# Notebook 9 took scores apart: content with content, content with position, and so on, each term a product
# $T = Q K^\top$ of its own. Which share of the score's variance is which term's? That needs inner products of two such matrices,
# and for them not even a kernel is needed. With the terms $T^1_{ij} = q^1_i \cdot k^1_j$ and $T^2_{ij} = q^2_i \cdot k^2_j$
# (1 and 2 are numbers of the terms, not powers; $x$ and $y$ are channels)
#
# $$\sum_{ij} T^1_{ij}\, T^2_{ij} = \sum_{ij} \sum_{x, y} q^1_{ix} k^1_{jx}\, q^2_{iy} k^2_{jy}
# = \sum_{x,y} \Big(\sum_i q^1_{ix} q^2_{iy}\Big) \Big(\sum_j k^1_{jx} k^2_{jy}\Big) .$$
#
# The two brackets are the **Gram matrices** of notebook 9, d × d numbers. Their size does not depend on the text at all.

# %% [markdown]
# ### Exercise 15.5: inner product of two scores &nbsp; (●●○, 10 minutes)
#
# Return $\sum_{ij} T^1_{ij}\, T^2_{ij}$ for queries and keys of shape (n, d), without n × n numbers.

# %% tags=["exercise"]
def inner(q_1, k_1, q_2, k_2):
    """The sum over all i and j of (q_1i · k_1j)(q_2i · k_2j)."""
    # BEGIN SOLUTION
    return ((q_1.T @ q_2) * (k_1.T @ k_2)).sum()
    # END SOLUTION


# %%
check("15.5", inner)

# %% [markdown] tags=["hint"]
# The left bracket is $Q_1^\top Q_2$, a (d, d) matrix.

# %% [markdown] tags=["hint"]
# The two Gram matrices are multiplied **entry by entry** (`*`), and all entries added.

# %% [markdown]
# ### Exercise 15.6: what to hand over &nbsp; (●○○, 5 minutes)
#
# A look back at the values. A kernel returns $\sum_j a_{ij} v_j$. Give the values, a column for each of three statistics:
# the mean position (counted from 0), the weight on the first key, the weight on the last `m` keys.

# %% tags=["exercise"]
def values_for(n, m):
    """The values of n keys, (n, 3)."""
    # BEGIN SOLUTION
    j = torch.arange(n, dtype=torch.float32)
    return torch.stack([j, (j == 0).float(), (j >= n - m).float()], dim=-1)
    # END SOLUTION


# %%
check("15.6", values_for)

# %% [markdown] tags=["hint"]
# For a mean of something, the values are that something, key by key.

# %% [markdown] tags=["hint"]
# The weight on some keys is the mean of a value that is 1 for these keys and 0 for all others.

# %% [markdown] slideshow={"slide_type": "subslide"}
# Softmax does not see what is the same for all keys of a query. To take each row's mean off the scores, take the mean
# off the keys: $q_i \cdot (k_j - \bar k)$. Under a causal mask every query has other keys; then the Gram matrix of the keys
# grows from query to query. `decompose.variance_shares_by_gram` does both.

# %%
layer = MultiHeadAttention(64, 4).double()
parts = Parts(*torch.randn(3, 1, n, 64, dtype=torch.float64))  # content, position, rest
for causal in (False, True):
    with torch.no_grad():
        by_matrix = decompose.variance_shares(
            decompose.score_terms(layer, parts), visible=visible if causal else None)
    by_gram = decompose.variance_shares_by_gram(layer, parts, causal=causal)
    claim(f"Shares of the terms by Gram matrices, {'causal' if causal else 'no mask'}: largest error.",
          error(by_gram, by_matrix).round(decimals=9), below=1e-9, source="attnlab.decompose", id="16.4")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Any score: some rows at a time
#
# The kernel knows $q \cdot k$ and a causal mask. A T5 bias, a number for each distance, it takes only as an n × n mask, and with
# that the matrix is back. For such scores: form **some rows** of the weights, read everything off them, throw them
# away, go on. It is exact.

# %%
def by_rows(q, k, bias, rows=64):
    """Entropy and distance of causal heads, (1, heads, n) each. bias(i, j): (heads, rows, n)."""
    n, found = q.shape[-2], []
    j = torch.arange(n)
    for start in range(0, n, rows):
        i = j[start : start + rows, None]
        s = q[:, :, i[:, 0]] @ k.mT / q.shape[-1] ** 0.5 + bias(i, j)  # (1, heads, rows, n)
        a = s.masked_fill(j > i, -torch.inf).softmax(-1)
        found.append(torch.stack([torch.special.entr(a).sum(-1), (a * (i - j).abs()).sum(-1)]))
    return torch.cat(found, -1)


t5 = positions.T5Bias(n_heads=2).double()
with torch.no_grad():
    h_rows, distance_rows = by_rows(q, k, lambda i, j: t5.relative_bias(j - i))
    a_t5 = attention_weights(q, k, encoding=t5, causal=True)
claim("Entropy and distance with a T5 bias, by 64 rows at a time: largest errors.",
      [error(h_rows, stats.entropy(a_t5)).round(decimals=9),
       error(distance_rows, stats.attention_distance(a_t5)).round(decimals=9)], below=1e-9, source="this notebook")

# %% [markdown] slideshow={"slide_type": "subslide"}
# `attnlab.stats.summary` puts it all together: one call, all heads, every encoding, grouped heads, windows, masks. It
# goes through the kernel ("fused") or by rows; `route` says which. (`sink_mass` is the weight on the first key.)

# %%
found = summary(q, k, causal=True, only=("entropy", "distance", "sink_mass"))
print("no bias:", found.route)
found = summary(q, k, causal=True, encoding=t5, only=("entropy", "distance", "sink_mass"))
print("T5 bias:", found.route)
everything = summary(q, k, causal=True, encoding=t5)
for name in stats.FIELDS:
    print(f"  {name:22} {tuple(getattr(everything, name).shape)}")

# %%
q32, k32 = q.float(), k.float()
worst = []
for name in positions.names():
    encoding = positions.make(name, d_model=2 * d, n_heads=2)
    with torch.no_grad():
        dense = attention_weights(q32.double(), k32.double(), causal=True, encoding=encoding)
    worst.append(error(summary(q32, k32, causal=True, encoding=encoding).entropy, stats.entropy(dense)))
claim(f"Entropy in float32 for each of {len(worst)} encodings, against the matrix in float64: largest error in nats.",
      [round(w.item(), 6) for w in worst], below=1e-4, source="attnlab.stats.summary", id="16.1")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Four places where rounding bites
#
# The formulas are exact. Numbers in a computer are not.
#
# ### 1. A difference of large numbers
#
# $H = \text{lse} - \bar s$, with the mean score $\bar s$. For a sharp head both are large and $H$ is small. bfloat16 keeps 8 bits
# of a number (notebook 14).

# %%
guess = predict(
    "A sharp head (scores with standard deviation 30), queries and keys in bfloat16, mean key from the bfloat16 "
    "kernel. What is wrong with the entropies?",
    [
        "nothing to speak of: all errors below 0.001 nats",
        "the largest error is between 0.001 and 0.05 nats",
        "the largest error is above 0.05 nats, but all entropies are at least 0",
        "the largest error is above 0.05 nats, and some entropies are below 0",
    ],
    id="15-bf16",
)
guess

# %%
def random_heads(n, std, dtype):
    """A head whose scores have standard deviation std, in dtype, and the same numbers in float64."""
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 1, 1, n, 64, generator=generator)
    q, k = (std * q).to(dtype), k.to(dtype)
    return q, k, q.double(), k.double()


qb, kb, qd, kd = random_heads(1024, 30.0, torch.bfloat16)
exact = summary(qd, kd, causal=True).entropy
mean_key_b = F.scaled_dot_product_attention(qb, kb, kb, is_causal=True)  # in bfloat16
lse_d = summary(qd, kd, causal=True, only=("lse",)).lse  # without any error
in_bf16 = lse_d - (qd * mean_key_b.double()).sum(-1) / 8
off, lowest = error(in_bf16, exact).item(), in_bf16.min().item()
scores_d = (lse_d - exact).mean().item()
print(f"largest error {off:.1g} nats, at mean scores of about {scores_d:.0f}; the mean of H is {exact.mean():.1g} nats")

# %%
guess.reveal(
    0 if off < 0.001 else 1 if off < 0.05 else 2 if lowest >= 0 else 3,
    f"An entropy below 0 does not exist. The error is only {off / scores_d:.1%} of a mean score, "
    "but about as large as H itself.",
)

# %%
claim("Entropy of a sharp head from the bfloat16 kernel: largest error in nats.", off, above=0.05,
      source="this notebook", id="16.1")
claim("The same bfloat16 queries and keys, computed in float32.",
      error(summary(qb, kb, causal=True).entropy, exact).item(), below=1e-4, source="attnlab.stats.summary", id="16.1")

# %% [markdown]
# Remedy: compute in float32, whatever the inputs are, and clamp to what an entropy can be, $0 \le H \le \log(\text{visible keys})$.
#
# ### 2. What softmax does not see
#
# Add the same vector to all keys: every score of a query moves by the same amount, and no weight changes. But
# the scores are large now.

# %%
qf, kf, qd, kd = random_heads(1024, 1.0, torch.float32)
kf = kf + 30
exact = summary(qf.double(), kf.double(), causal=True).entropy
big = (qf @ kf.mT / 8).masked_fill(torch.ones(1024, 1024, dtype=torch.bool).triu(1), -torch.inf)
plain = big.logsumexp(-1) - (qf * F.scaled_dot_product_attention(qf, kf, kf, is_causal=True)).sum(-1) / 8
centred = summary(qf, kf, causal=True, only=("entropy",), route="fused").entropy
claim("Keys with a common mean of 30, float32: error of the entropy, over the error when the mean is taken off first.",
      (error(plain, exact) / error(centred, exact)).round(decimals=1), above=3, source="this notebook", id="16.1")

# %% [markdown]
# Remedy: take the mean off the keys first.
#
# ### 3. The spread of distances
#
# The kernel can give the mean of $x$ and of $x^2$, and the variance is $E[x^2] - E[x]^2$. Say a query puts half of its weight
# on each of two neighbouring tokens, 3,000 tokens back: the distance has the standard deviation 1/2.

# %%
guess = predict(
    "E[x²] − E[x]² in float32: which standard deviation comes out for x = 3000 or 3001, each with weight 1/2?",
    ["0, as if both were at one place", "not 0.5, but between 0.45 and 0.55", "0.5", "another number, or none"],
    id="15-spread",
)
guess

# %%
x, half = torch.tensor([3000.0, 3001.0]), torch.tensor([0.5, 0.5])
variance = (half * x**2).sum() - (half * x).sum() ** 2  # float32
naive = variance.sqrt().item()
about_mean = (half * (x - (half * x).sum()) ** 2).sum().sqrt().item()
print(f"E[x²] - E[x]² = {variance:.3f}, about the mean: {about_mean**2:.3f}")

# %%
guess.reveal(2 if naive == 0.5 else 1 if abs(naive - 0.5) < 0.05 else 0 if naive == 0 else 3,
             "x² is nine million, and there float32, with 24 bits, has whole numbers only. The variance is 1/4.")

# %%
claim("Standard deviation about the row's own mean.", about_mean, expect=0.5, atol=1e-6, source="this notebook", id="16.2")
claim("By E[x²] - E[x]² in float32: off by.", 9.0 if naive != naive else abs(naive - 0.5), above=0.1,
      source="this notebook", id="16.2")

# %% [markdown]
# Remedy: a reference for each row, its own mean. For that the row must be there: rows, not the kernel. (Or float64 in
# the kernel.)
#
# ### 4. Nearly uniform heads
#
# A correlation divides by standard deviations. In a head that attends to all keys alike they are 0, and in one that nearly does,
# what is left of $S_{aa}$ when $n^2/N = 1$ is taken off is little more than rounding.

# %%
correlations = []
for std in (1.0, 0.03, 0.001):
    generator = torch.Generator().manual_seed(2)
    qs, ks = torch.randn(2, 1, 2, 512, 64, generator=generator)
    qs[:, 1], ks[:, 1] = qs[:, 0] + qs[:, 1], ks[:, 0]  # two heads with something in common
    qs = std * qs
    in_double = summary(qs.double(), ks.double())
    true, left = in_double.correlation[0, 0, 1].item(), in_double.inner[0, 0, 0].item() - 1
    bf16 = F.softmax((qs @ ks.mT / 8), -1).bfloat16().float()[0].flatten(1)
    rounded = torch.corrcoef(bf16)[0, 1].item()
    said = summary(qs, ks).correlation[0, 0, 1].item()
    correlations.append((true, said, rounded))
    print(f"std {std:5}, S_aa - 1 = {left:.0e}: in float64 {true:.3f}, weights rounded to bfloat16 {rounded:.3f}, "
          f"summary in float32 {said:.3f}")
claim("Scores of std 0.001: bfloat16 weights change the correlation by.", abs(correlations[2][2] - correlations[2][0]),
      above=0.1, source="this notebook", id="16.3")
claim("summary: error where it gives a number.", [abs(c[1] - c[0]) for c in correlations[:2]], below=1e-6,
      source="attnlab.stats.summary", id="16.3")
claim("And at std 0.001 it gives none (NaN).", correlations[2][1] != correlations[2][1], equals=True,
      source="attnlab.stats.summary", id="16.3")

# %% [markdown]
# Remedy: say "undefined" (NaN) when the variance is below 1,000 rounding units of the mean square. A number there would look
# as good as any other.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: memory and length
#
# 1. Both axes are logarithmic: a straight line of slope 2 is $n^2$, one of slope 1 is $n$. Find both slopes.
# 2. At 16 heads and 256 tokens rows hold more than the matrix. Why? (They have a block of a fixed size.)
# 3. Set the memory to that of your machine, the horizontal dotted line. How many tokens does each route allow?
# 4. Twice the memory: how many times the tokens by the matrix, how many by rows?
# 5. Raise the heads to 64. Does it spare any route?

# %%
MemoryExplorer(16_384, n_heads=16, memory=16)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A long text, here and now
#
# First the memory. Two heads, $d_{head} = 64$, causal, float32: the entropy of all queries from the matrix; entropy and
# distance from 64 rows at a time; at growing n. What torch held at most, beyond queries and keys:

# %%
def held(n, work):
    """MiB that the work holds at most, beyond queries and keys."""
    q, k = torch.randn(2, 1, 2, n, 64)
    return peak_bytes(lambda: work(q, k), CPU) / 2**20


def by_matrix(q, k):
    return stats.entropy(attention_weights(q, k, causal=True))


def by_summary(q, k):
    return summary(q, k, causal=True, only=("entropy", "distance"), route="rows", rows=64)


matrix = {n: held(n, by_matrix) for n in progress((1024, 2048, 4096), "matrix")}
rows = {n: held(n, by_summary) for n in progress((1024, 4096, 16_384), "rows")}
print("matrix:", {n: f"{m:.0f} MiB" for n, m in matrix.items()})
print("rows:  ", {n: f"{m:.0f} MiB" for n, m in rows.items()})
print(f"the matrix at 16,384 tokens would hold {matrix[4096] * 16 / 1024:.1f} GiB")

# %%
claim("Matrix: twice the tokens hold so many times the memory.", [matrix[2048] / matrix[1024], matrix[4096] / matrix[2048]],
      between=(3.8, 4.2), source="this notebook")
claim("Rows, 16,384 tokens: MiB beyond queries and keys.", rows[16_384], below=100, source="this notebook", id="16")
claim("Rows: 16 times the tokens hold so many times the memory.", rows[16_384] / rows[1024], between=(10, 17),
      source="this notebook", id="16")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### What trained heads do at 16,384 tokens
#
# The models of notebook 12 were trained on texts of **32** tokens. There we saw their losses beyond that. Now we can look
# at their heads, at 512 times the training length: 4 heads of the second layer, one model with RoPE, one with ALiBi.

# %%
guess = predict(
    "How far does the RoPE model's head that looks nearest look, on average over the last 1,000 of 16,384 queries?",
    ["more than 4,000 tokens", "501 to 4,000 tokens", "33 to 500 tokens", "at most 32 tokens, as it was trained"],
    id="15-rope",
)
guess

# %%
n_text = 16_384
ids = races.TASKS["modes"].batch(1, n_text, torch.Generator().manual_seed(0))[0]


def heads_of(name):
    """The statistics of the second layer's heads of a race model on the long text."""
    model = races.load("modes", name)
    attention, seen = model.layers[1].attention, []
    hook = attention.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    with torch.no_grad():
        model(ids)
        q, k, _ = attention.heads(seen[0])  # (1, 4, n, 8) each
    hook.remove()
    return summary(q, k, causal=True, encoding=model.encoding, only=("entropy", "distance"),
                   progress=lambda blocks: progress(blocks, f"{name}, blocks of rows"))


long = {name: heads_of(name) for name in ("rope", "alibi")}


def late(values):
    """Mean over the last 1,000 queries, for each head."""
    return values[0, :, -1000:].mean(-1)


for name, found in long.items():
    print(f"{name:6} distance of each head", [int(float(f"{x:.2g}")) if x > 10 else round(x, 1) for x in late(found.distance).tolist()],
          "entropy", [round(x, 1) for x in late(found.entropy).tolist()], "by", found.route)
even = torch.arange(1, n_text + 1.0)[-1000:]  # visible keys
print(f"all keys alike: distance {(even - 1).mean() / 2:,.0f}, entropy {even.log().mean():.1f}")
print(f"the weights of the four heads: {4 * n_text**2 * 4 / 2**30:.0f} GiB")

# %%
nearest = late(long["rope"].distance).min().item()
guess.reveal(3 if nearest <= 32 else 2 if nearest <= 500 else 1 if nearest <= 4000 else 0,
             f"About {round(nearest, -2):.0f}, nearly the distance of a head to which all keys are alike. They are not: the "
             "entropies lie far below log n. It looks at some keys, all over the text.")

# %% slideshow={"slide_type": "subslide"}
fig, ax = plt.subplots(figsize=(8, 4), layout="constrained")
edges = torch.logspace(0, 14, 57, base=2).long().unique()
for name, said in (("rope", "RoPE"), ("alibi", "ALiBi")):
    for head in range(4):
        far = long[name].distance[0, head]
        middles, means = zip(*(
            ((low * high).sqrt().item(), far[low:high].mean().item())
            for low, high in zip(edges[:-1], edges[1:], strict=True)), strict=True)  # fmt: skip
        ax.loglog(middles, means, color=plots.ENCODING_LOOKS[name][0], lw=1.8,
                  label=f"{said}, 4 heads" if head == 0 else None)
ax.loglog([2, n_text], [1, n_text / 2], ":", color="#7c7b78", lw=2.5, label="all keys alike")
ax.axvline(32, color="#7c7b78", lw=1)
ax.text(34, 1, "trained to here")
ax.set(xlabel="position of the query (tokens)", ylabel="attended distance (tokens)", ylim=(0.5, None))
ax.legend()
figure(fig, alt="Attended distance against the position of the query, both logarithmic, for the four heads of the "
       "RoPE model and of the ALiBi model. Up to 32 tokens all look some tokens back. Beyond, the RoPE heads follow the "
       "line of a uniform head up to 8,000 tokens, the ALiBi heads level off at some hundred tokens or less.")

# %%
claim("RoPE, last 1,000 queries: attended distance of each head, as a share of n / 2.",
      late(long["rope"].distance) / (n_text / 2), above=0.5, source="this notebook")
claim("And their entropy, in nats less than that of a uniform head.", even.log().mean() - late(long["rope"].entropy),
      above=2, source="this notebook")
slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])
claim("ALiBi: attended distance times the slope of the head, for the three flatter slopes.",
      (late(long["alibi"].distance) * slopes)[1:], between=(0.7, 1.3), source="this notebook")

# %% [markdown]
# Keep this beside the losses of notebook 12. ALiBi's bias decides how far a head looks. If content plays no part, the
# weights are in proportion to $e^{-m\,\text{distance}}$ with the slope $m$, and their attended
# distance is nearly $1/m$: 4, 16, 64, 256 tokens. Three heads are near to that; the steepest one
# looks further, so there content does play a part. None of it changes with the length of the text.
# RoPE has nothing of that kind, and its heads, taught on 32 tokens, look at keys all over 16,384.
# (Two small models of one task: that they do so is measured, that every model with RoPE would is
# not.)
#
# At no time did more than a small piece of the 4 GiB of weights exist.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | statistic | without the matrix | from |
# |---|---|---|
# | lse | $c + \log(1 - w) - \log w$ | one more key of known score $c$ |
# | entropy | lse − mean score | $V := K$ |
# | position, mass on keys | mean of $V$ | $V := j$, $V :=$ 0 or 1 |
# | distance, causal | $i - E[j]$ | $V := j$ |
# | distance, both ways | $E[j] - i + 2\,e^{\text{lse}^c - \text{lse}}(i - E^c[j])$ | a full and a causal call |
# | $\sum a^2$, $\sum a a'$ | $e^{\text{lse}(s + s') - \text{lse} - \text{lse}'}$ | heads side by side |
# | correlation | $(S_{ab} - n^2/N)/\sqrt{\ldots}$ | inner products |
# | KL | $\text{lse}' - \text{lse} + E_a[s - s']$ | $V := K$ and $V := K'$ |
# | attention received | $\partial \sum \text{out} / \partial v_j$ | the backward pass |
# | shares of terms | Gram matrices, d × d | no kernel at all |
# | any of them, any score | some rows at a time | `attnlab.stats.summary` |
#
# Rounding: compute in float32, take the mean off the keys, variances about each row's mean, "undefined" where heads
# are nearly uniform.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Questions
#
# *What are the most effective strategies for handling very long sequences?* (Review question 9 of
# the course, begun in [notebook 12](12-beyond-training-length.ipynb).) Three different problems:
# memory, work, and being right. Memory: never hold the matrix; merge blocks, as the kernel does
# (exercise 15.3), and read statistics from rows. Work stays $n^2$ with both; only heads that see
# less save it (windows, [notebook 5](05-sharing-and-scales.ipynb)). Being right beyond the training
# length is a matter of the encoding: the figure above and notebook 12.
#
# *What are the memory bottlenecks in multi-head attention, and how can they be addressed?* (Review
# question 11 of the course, with [notebook 14](14-what-attention-costs.ipynb).) The scores and
# weights of each head: $n^2$ numbers, times four for twice the tokens, measured above. A fused
# kernel holds none of them, and after this notebook looking at heads needs none of them either. In
# decoding it is the keys and values of the past, which grow with n: shared key/value heads
# (notebook 5) and notebook 14.
#
# ### Common misconceptions
#
# - "With FlashAttention one can no longer see what heads do": one cannot see single weights all at
#   once. Every statistic of this notebook is exact.
# - "These are estimates, from a sample of rows": no, all rows, all keys. Errors are rounding, and
#   were measured.
# - "The kernel saves work": it saves memory and trips to it. The $n^2$ products are still made
#   (half of them under a causal mask).
# - "The attended distance is the distance of the mean position": only if all keys lie on one side,
#   as under a causal mask.
# - "Half precision is good enough for a statistic, since it is for training": not for a difference
#   of large numbers: entropies below zero.
# - "A correlation is always a number": not that of a uniform head.
#
# ### Further reading
#
# - Milakov and Gimelshein 2018, *Online normalizer calculation for softmax*: section 3, how two parts of a row are merged.
# - Rabe and Staats 2021, *Self-attention Does Not Need O(n²) Memory*: section 2.
# - Dao et al. 2022, *FlashAttention*: section 3.1, the same with a GPU's memories in mind.
# - Katharopoulos et al. 2020, *Transformers are RNNs*: section 3.3, the running sum that causal Gram matrices are.
# - Xiao et al. 2024, *Efficient Streaming Language Models with Attention Sinks*: section 3, why the first key receives so much.
#
# **The end.** This was the last notebook. Back to [the start](00-start-here.ipynb).
