# %% [markdown] slideshow={"slide_type": "slide"}
# # 2. Many heads
#
# **What exactly happens between "split into heads" and "concatenate", and what does it cost?**
#
# When you have worked through this notebook you can
#
# - follow two heads through "She eats fish" with pencil and paper;
# - write the three steps of multi-head attention with the shape of every array;
# - show that the output is a *sum over heads*, and give each head its rows of $W^O$;
# - count parameters and operations for any $d_{model}$, $h$ and $d_k$;
# - explain why heads become different although nothing tells them to.
#
# *You need:* [notebook 1](01-one-head.ipynb). *To study:* 75 minutes. *To lecture:* 40 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import attnlab
from attnlab import cost, plots
from attnlab.exercises import check
from attnlab.explorers import AttentionExplorer, ShapesExplorer
from attnlab.teach import claim, figure, predict, progress
from attnlab.train import fit

torch.manual_seed(0);

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Two heads on "She eats fish"
#
# In notebook 1 one head had to report two things. Here are two heads, small enough to follow by hand:
# we choose every number. Token vectors have $d_{model} = 4$ entries:
#
# | token | pronoun | verb | noun | how animate |
# |---|---|---|---|---|
# | She | 1 | 0 | 0 | 1 |
# | eats | 0 | 1 | 0 | 0 |
# | fish | 0 | 0 | 1 | 0.5 |
#
# There are $h = 2$ heads, each with $d_k = d_{model}/2 = 2$. In this notebook $i$ counts heads,
# from 0. (Where $i$ is needed for queries, as in notebook 1, an index $h$ counts heads.)
# Head $i$ has its own $W^Q_i$, $W^K_i$, $W^V_i$ of shape $(4, 2)$. Head 0 lets verbs ask for pronouns,
# head 1 lets verbs ask for nouns.

# %%
tokens = ["She", "eats", "fish"]
x = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0.5]])  # (3 tokens, d_model = 4)

# the rows of each matrix: pronoun, verb, noun, how animate
verb_asks = torch.tensor([[0.0, 0], [4, 0], [0, 0], [0, 0]])  # a verb's query is (4, 0)
pronoun_answers = torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 0]])  # a pronoun's key is (1, 0)
noun_answers = torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 0]])  # a noun's key is (1, 0)
kind = torch.tensor([[1.0, 0], [0, 0], [0, 1], [0, 0]])  # value: (pronoun?, noun?)
animate = torch.tensor([[0.0, 0], [0, 0], [0, 1], [1, 0]])  # value: (how animate, noun?)

w_q = torch.stack([verb_asks, verb_asks])  # (2 heads, 4, 2)
w_k = torch.stack([pronoun_answers, noun_answers])  # (2 heads, 4, 2)
w_v = torch.stack([kind, animate])  # (2 heads, 4, 2)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Step 1: project
#
# Each head makes its own queries, keys and values:
#
# $$Q_i = X W^Q_i,\qquad K_i = X W^K_i,\qquad V_i = X W^V_i \qquad (n, d_k)$$
#
# ### Step 2: attend
#
# Each head does what notebook 1 did, without looking at the other:
#
# $$A_i = \mathrm{softmax}\!\left(\frac{Q_i K_i^\top}{\sqrt{d_k}}\right)\ (n, n),\qquad
# \mathrm{head}_i = A_i V_i\ (n, d_k)$$

# %%
guess = predict(
    "In head 1 'eats' puts 0.89 of its weight on 'fish'. And 'fish' on 'eats', in the same head?",
    ["one third", "0.05: its weight is on 'She'", "0.89 too: the head links the two words"],
    id="02-directed",
)
guess

# %%
q, k, v = x @ w_q, x @ w_k, x @ w_v  # each (2 heads, 3 tokens, 2)
weights = (q @ k.mT / math.sqrt(2)).softmax(dim=-1)  # (2 heads, 3 queries, 3 keys)
heads = weights @ v  # (2 heads, 3 tokens, 2)
figure(
    plots.weight_maps(weights, tokens, titles=["head 0", "head 1"], numbers=True),
    alt="Weights of two heads for She eats fish. In the row of eats, head 0 puts 0.89 on She and "
    "head 1 puts 0.89 on fish. All other rows are one third each.",
)
back = weights[1, 2, 1].item()  # head 1, query "fish", key "eats"

# %%
guess.reveal(
    min(range(3), key=lambda i: abs((1 / 3, 0.05, 0.89)[i] - back)),
    "Who asks and who answers are two roles. 'fish' asks for nothing here: its query is zero.",
)

# %%
claim("A weight has a direction: in head 1 'fish' puts a third on 'eats', not 0.89.", back,
      expect=1 / 3, atol=1e-6, source="this cell")

# %% [markdown]
# Check the row of "eats" in head 0. Its query is $(4, 0)$, the keys are $(1, 0)$ for "She" and
# $(0, 0)$ for the others. The scores are $4/\sqrt 2 = 2.83$, $0$ and $0$; the exponentials $16.9$,
# $1$, $1$; the weights $0.89$, $0.05$, $0.05$. "She" and "fish" ask for nothing: their queries are
# zero, so their rows are uniform.
#
# A weight has a direction. "eats" singles out "fish" in head 1, and "fish" does not single out "eats".

# %%
claim(
    "Attention is directed: in head 1, eats looks at fish far more than fish looks at eats "
    "(ratio of the two weights).",
    weights[1, 1, 2] / weights[1, 2, 1],
    above=2.0,
    source="this cell",
    id=21,
)
causal = (q @ k.mT / math.sqrt(2)).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
causal = causal.softmax(dim=-1)
claim(
    "Under a causal mask 'eats' cannot look at 'fish' in any head, and 'She' sees only itself.",
    [*causal[:, 1, 2].tolist(), *causal[:, 0, 1:].flatten().tolist()],
    equals=0.0,
    source="Vaswani et al. 2017, section 3.2.3",
    id=21,
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Step 3: concatenate and project
#
# The outputs of the heads are set **side by side**, and one matrix $W^O$ of shape
# $(h\,d_k, d_{model})$ mixes them:
#
# $$\mathrm{MultiHead}(X) = [\mathrm{head}_0\ \ \mathrm{head}_1\ \cdots]\; W^O \qquad (n, d_{model})$$
#
# Some texts write $[\mathrm{head}_0; \mathrm{head}_1]$. A semicolon usually stacks rows; here the
# tokens stay and the *features*, the entries of each token's vector, grow: `torch.cat(..., dim=-1)`.
# Our $W^O$ simply adds the two "noun?" entries into one and leaves the others alone.

# %%
w_o = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]])  # (4, 4)
concatenated = torch.cat([heads[0], heads[1]], dim=-1)  # (3 tokens, 2 heads * 2)
print("heads of 'eats', side by side:", concatenated[1].numpy().round(2))
print("         (pronoun? noun? from head 0, how animate? noun? from head 1)")
print("times W_O:", (concatenated @ w_o)[1].numpy().round(2), "(pronoun, noun, -, how animate)")
other_order = x[[2, 1, 0]]  # fish eats She
q_o, k_o, v_o = other_order @ w_q, other_order @ w_k, other_order @ w_v
heads_o = (q_o @ k_o.mT / math.sqrt(2)).softmax(dim=-1) @ v_o
claim(
    "These two heads do not see the order: 'eats' gets the same numbers in 'fish eats She'.",
    (heads_o[:, 1] - heads[:, 1]).abs().max(),
    below=1e-6,
    source="this cell",
    id=44,
)
claim(
    "Concatenation keeps the tokens and widens the features.",
    concatenated.shape,
    equals=(3, 4),
    source="Vaswani et al. 2017, section 3.2.2",
    id=16,
)

# %% [markdown]
# Side by side, "eats" holds in separate places that there is a pronoun (first entry, 0.89) and a noun
# (last entry, 0.89). These heads ask for a *kind* of word, not for a place: "fish eats She" would give
# the same numbers. To ask for a place, tokens must carry their positions, as in experiment 2 of
# notebook 1. (Real layers also add the token's own vector to the result, the *residual connection*,
# so that "eats" still knows that it is "eats".)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The standard configuration, with shapes
#
# The usual sizes: $d_{model} = 512$, $h = 8$ heads, $d_k = d_v = 512/8 = 64$. ($d_v$ is the number of
# entries of a value; it could differ from $d_k$ and hardly ever does.) `attnlab` keeps the parameters
# of all heads in two big matrices and lets you look at them head by head.

# %%
mha = attnlab.MultiHeadAttention(d_model=512, n_heads=8, bias=False).double()
x = torch.randn(2, 10, 512, dtype=torch.float64)  # (batch, tokens, d_model)
for name in ("w_q", "w_k", "w_v", "w_o"):
    print(f"{name}: {tuple(getattr(mha, name).shape)}")

# %%
by_head = []
for i in range(8):
    q_i, k_i, v_i = x @ mha.w_q[i], x @ mha.w_k[i], x @ mha.w_v[i]  # (2, 10, 64) each
    a_i = (q_i @ k_i.mT / math.sqrt(64)).softmax(dim=-1)  # (2, 10 queries, 10 keys)
    by_head.append(a_i @ v_i)  # (2, 10, 64)
concatenated = torch.cat(by_head, dim=-1)  # (2, 10, 512)
w_o = mha.w_o.flatten(0, 1)  # (8 heads * 64, 512)
output = concatenated @ w_o  # (2, 10, 512)

twin = nn.MultiheadAttention(512, 8, bias=False, batch_first=True).double()
twin.in_proj_weight, twin.out_proj.weight = mha.in_proj.weight, mha.out_proj.weight
claim(
    "A loop over heads, attnlab's module and PyTorch's module with the same parameters agree.",
    [(output - mha(x)).abs().max(), (output - twin(x, x, x)[0]).abs().max()],
    below=1e-12,
    source="Vaswani et al. 2017, section 3.2.2",
    id=13,
)

# %%
guess = predict(
    "Which of the 512 numbers of a token does head 0 read?",
    ["all 512", "the first 64", "64 of them, chosen in training"],
    id="02-slice",
)
guess

# %%
reads = []
for feature in range(512):
    changed = x.clone()
    changed[..., feature] += 1.0
    reads.append(((changed - x) @ mha.w_q[0]).abs().max().item() > 0)
sliced = x.unflatten(-1, (8, 64))[..., 0, :]  # the popular bug: cut the token into slices
print(f"numbers of the token that change the query of head 0: {sum(reads)}")

# %%
guess.reveal(
    {512: 0, 64: 1}[sum(reads)],
    f"Changing any one of {sum(reads)} numbers changes the query of head 0. W_Q has 512 rows for "
    "every head; it is its result that is short, 64 numbers.",
)

# %%
claim(
    "Cutting a token into slices and projecting each slice is another function (largest difference "
    "from the query of head 0, on the scale of the query).",
    (sliced @ mha.w_q[0][:64] - x @ mha.w_q[0]).abs().max() / (x @ mha.w_q[0]).abs().max(),
    above=0.5,
    source="this cell",
    id=8,
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## $W^O$: the output is a sum over heads
#
# Cut $W^O$ into blocks of $d_k$ **rows**, $W^O_i$, one for each head. Multiplying the
# concatenation by $W^O$ is the same as letting every head speak through its block and adding up:
#
# $$[\mathrm{head}_0\ \cdots\ \mathrm{head}_{h-1}]\,W^O = \sum_i \mathrm{head}_i\, W^O_i$$

# %%
summed = sum(by_head[i] @ mha.w_o[i] for i in range(8))
claim("Concatenate and project equals the sum over heads through their rows of W_O.",
      (summed - output).abs().max(), below=1e-12,
      source="Elhage et al. 2021; shape algebra", id=13)

# %% [markdown]
# A common slip is $\sum_i W^O_{:,\,i}\ \mathrm{head}_i$, with *columns* of $W^O$ and the head on the
# right. We run it as it stands, and then with a transpose that makes the shapes fit.

# %%
try:
    sum(w_o[:, i * 64 : (i + 1) * 64] @ by_head[i][0] for i in range(8))
    as_it_stands = "it ran"
except RuntimeError as error:
    as_it_stands = "RuntimeError"
    print("as it stands:", str(error).splitlines()[0])
mended = sum(by_head[i] @ w_o[:, i * 64 : (i + 1) * 64].T for i in range(8))
claim("Columns instead of rows: with tokens as rows, the shapes do not even fit.", as_it_stands,
      equals="RuntimeError", source="shape algebra", id=14)
claim("A transpose makes it run, and the result is wrong (error as a share of the output).",
      (mended - output).norm() / output.norm(), above=0.5, source="this cell", id=14)

# %% [markdown] slideshow={"slide_type": "subslide"}
# How does $W^O$ combine what the heads have found? We ask for the derivative of the output at
# token 3 by every number of the concatenation.

# %%
guess = predict(
    "Through W_O, the output at token 3 depends on the outputs of …",
    ["one head: W_O has rows of its own for each", "all heads, at token 3", "all heads, at all tokens"],
    id="02-output",
)
guess

# %%
probe = torch.cat([h.detach() for h in by_head], dim=-1).requires_grad_()
(gradient,) = torch.autograd.grad((probe @ w_o.detach())[:, 3].sum(), probe)
elsewhere = gradient.clone()
elsewhere[:, 3] = 0
heard = gradient[0, 3].unflatten(-1, (8, 64)).abs().amax(dim=-1) > 0  # (8 heads)

# %%
guess.reveal(
    2 if elsewhere.any() else 1 if heard.all() else 0,
    "A sum over heads, token by token. What comes from other tokens has come in before, through the "
    "weights of each head.",
)

# %%
claim("The output at token 3 depends on no other token's head outputs (largest derivative).",
      elsewhere.abs().max(), equals=0.0, source="autograd", id=15)
claim("It depends on the outputs of all 8 heads there.", heard.sum(), equals=8, source="autograd",
      id=15)

# %%
guess = predict(
    "We shuffle the eight heads, and the blocks of W_O with them. What changes in the output?",
    ["nothing", "the features are shuffled", "everything"],
    id="02-order",
)
guess

# %%
order = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
shuffled = attnlab.MultiHeadAttention(512, 8, bias=False).double()
with torch.no_grad():
    for name in ("w_q", "w_k", "w_v", "w_o"):
        getattr(shuffled, name).copy_(getattr(mha, name)[order])
error = (shuffled(x) - mha(x)).abs().max().item()
same_features = torch.equal(shuffled(x).sort(dim=-1).values, mha(x).sort(dim=-1).values)
print(f"largest difference of the outputs: {error:.1e}")

# %%
guess.reveal(
    0 if error < 1e-12 else 1 if same_features else 2,
    "A sum does not know the order of its terms. So 'head 1 does grammar, head 2 coreference' "
    "cannot be a law: the number that a head bears means nothing.",
)

# %%
claim("Heads are exchangeable: shuffled together with their blocks of W_O, same output.",
      error, below=1e-12, source="this cell", id=20)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What it costs: parameters

# %%
guess = predict(
    "d_model stays 512 and d_k = d_model / h. We go from 8 heads to 16. The number of parameters …",
    ["doubles", "stays the same", "halves"],
    id="02-parameters",
)
guess

# %%
counts = {}
for h in (1, 2, 8, 16, 64):
    counts[h] = sum(p.numel() for p in nn.MultiheadAttention(512, h, bias=False).parameters())
    print(f"h = {h:2}, d_k = {512 // h:3}: {counts[h]:,} parameters")

# %%
guess.reveal(
    {2.0: 0, 1.0: 1, 0.5: 2}[counts[16] / counts[8]],
    "Twice as many heads, each half as wide. Each of the four projections stays 512 × 512.",
)

# %%
claim("Without biases the count is 4·d_model², whatever the number of heads.",
      list(counts.values()), equals=4 * 512**2, source="Vaswani et al. 2017, section 3.2.2",
      id=17)
claim("With biases, 4·d_model² + 4·d_model.",
      sum(p.numel() for p in nn.MultiheadAttention(512, 8).parameters()),
      equals=4 * 512**2 + 4 * 512, source="PyTorch's module", id=17)

# %% [markdown]
# That $h\,d_k = d_{model}$ is a convention; it is what keeps the count constant. Nothing forces the
# heads to fit. Each of $h$ heads has three matrices of shape $(d_{model}, d_k)$ and its $d_k$ rows of
# $W^O$, so the count is $4\,h\,d_k\,d_{model}$ for any $h$ and $d_k$.

# %%
odd = attnlab.MultiHeadAttention(512, 6, d_head=40, bias=False)
claim("6 heads of 40 on d_model = 512 have 4·h·d_k·d_model parameters.",
      sum(p.numel() for p in odd.parameters()), equals=4 * 6 * 40 * 512,
      source="sum over the matrices of all heads", id=18)
claim("A large T5 model, 128 heads of 128 on d_model = 1024, has 16 times 4·d_model².",
      cost.attention_parameters(1024, 128, d_head=128) / (4 * 1024**2), equals=16.0,
      source="sizes from Raffel et al. 2020 (T5-11B)", id=8)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What it costs: operations
#
# A product of shapes $(a, b)$ and $(b, c)$ takes $2abc$ operations (floating-point operations,
# **FLOPs**): $abc$ multiplications and about as many additions. Take $n$ tokens, and
# $d = d_{model} = h\,d_k$. Then
#
# - the four projections take $4\cdot 2nd^2 = 8nd^2$;
# - the scores of all heads take $h\cdot 2n^2d_k = 2n^2d$;
# - weights times values take as many again.
#
# Together $8nd^2 + 4n^2d$. PyTorch can count while it works; the two must agree.

# %%
plain = attnlab.MultiHeadAttention(512, 8, bias=False)
plain.backend = "dense"  # the products of the formulas, one by one
counted = []
for n in (16, 128, 512):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain(torch.randn(1, n, 512))
    counted.append(counter.get_total_flops() / (8 * n * 512**2 + 4 * n**2 * 512))
claim("One layer takes 8·n·d² + 4·n²·d operations (counted / formula, n = 16, 128, 512).", counted,
      equals=1.0, source="counted by PyTorch", id=106)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: the shapes
#
# The picture shows every array of one layer, its sides drawn in proportion. Try this:
#
# 1. Change the **head count** alone. Which boxes change, and which of the numbers below do not?
# 2. Take a head count that does not divide $d_{model}$. What would you do about it?
# 3. Set **d_head** by hand, so that $h\,d_k \ne d_{model}$. Which two numbers grow?
# 4. Raise the number of **tokens**. From which length on do scores and weights cost more than the
#    projections? (The formulas above tell; the answer is below.)

# %%
ShapesExplorer(n_tokens=16, d_model=512, n_heads=8)

# %%
crossing = next(
    n for n in range(1, 4096)
    if (f := cost.attention_flops(n, 512, 8))["scores"] + f["values"]
    > f["projections"] + f["output"]
)
claim(
    "Scores and values cost more than the four projections once n exceeds 2·d_model "
    "(first such n for d_model = 512).",
    crossing,
    equals=2 * 512 + 1,
    source="8·n·d² against 4·n²·d operations",
    id=107,
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## One product for all heads
#
# A loop over heads multiplies $X$ by small matrices. You may read that one fuses these products "into
# single operations" by concatenating their *results*. We count the products that PyTorch carries out.
# (You need not read the class; it counts calls.)

# %%
guess = predict(
    "Queries, keys and values of 8 heads, all in one `torch.cat([x @ w for w in matrices])`. How many "
    "matrix products is that?",
    ["1: concatenation fuses them", "3: one for the queries, one for the keys, one for the values",
     "24: one for each matrix"],
    id="02-fused",
)
guess

# %%
class CountProducts(TorchDispatchMode):
    """Counts the matrix products that are carried out inside the block."""

    PRODUCTS = ("mm", "bmm", "addmm")

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.counts["products"] += name in self.PRODUCTS
        return function(*args, **(kwargs or {}))


with CountProducts() as loop, torch.no_grad():
    matrices = [w[i] for w in (mha.w_q, mha.w_k, mha.w_v) for i in range(8)]
    looped = torch.cat([x[0] @ w for w in matrices], dim=-1)  # (tokens, 3 * 512)
with CountProducts() as fused, torch.no_grad():
    at_once = mha.in_proj(x[0])  # (tokens, 3 * 512)

# %%
guess.reveal(
    {1: 0, 3: 1, 24: 2}[loop.counts["products"]],
    "The results must be there before they can be joined, and the copies come on top. To fuse is to join "
    "the *matrices*, once, when the layer is built: X [W_Q W_K W_V] is a single product.",
)

# %%
claim("Projecting head by head takes 3·h products.", loop.counts["products"], equals=24,
      source="counted while it ran", id=109)
claim("The fused projection takes one.", fused.counts["products"], equals=1,
      source="counted while it ran", id=109)
claim("Both give the same queries, keys and values.", (looped - at_once).abs().max(), below=1e-12,
      source="this cell", id=109)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### `view`, then `transpose`
#
# The fused product gives `(batch, tokens, heads * d_head)`. The $d_k$ numbers of one head lie side
# by side, so the last axis is cut in two, and then the axes change places:
#
# `(batch, tokens, heads * d_head)` → view → `(batch, tokens, heads, d_head)` → transpose →
# `(batch, heads, tokens, d_head)`
#
# A direct `view(batch, heads, tokens, d_head)` has the right shape and the wrong numbers: it mixes
# tokens into heads. Nothing raises an error.

# %%
flat = torch.arange(2 * 3 * 4).view(1, 2, 3 * 4)  # 1 sentence, 2 tokens, 3 heads of 4
right = flat.view(1, 2, 3, 4).transpose(1, 2)
wrong = flat.view(1, 3, 2, 4)
print("token 0 holds the numbers 0-11, token 1 the numbers 12-23")
print("head 0, right:", right[0, 0].tolist(), "- a row from each token")
print("head 0, wrong:", wrong[0, 0].tolist(), "- both rows from token 0")
claim("A view without the transpose has the right shape and the wrong content.",
      (right.shape == wrong.shape, torch.equal(right, wrong)), equals=(True, False),
      source="this cell", id=8)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Why do heads become different?
#
# It is often said that heads focus on different relations *because each has its own parameters*.
# Own parameters allow it. Do they cause it? Give two heads their own parameters, and the same
# numbers in them at the start.
#
# The task needs two jobs. There are 12 tokens in a ring, each a random vector of 8 numbers; every
# token must report the token before it in the first half of its answer and the token after it in the
# second half. Beside its own vector, each token carries its position as a one-hot vector. Every head
# is computed by itself, so that equal numbers go through equal operations.

# %%
guess = predict(
    "Two heads start with equal numbers in their own, separate parameters. After training on this "
    "task, they …",
    ["have taken different jobs", "differ a little", "are still equal"],
    id="02-identical",
)
guess

# %%
N_TOKENS, D_WORD = 12, 8
D_MODEL = D_WORD + N_TOKENS


class Head(nn.Module):
    """One head with its block of W_O: (batch, n, D_MODEL) -> its share of the output, weights."""

    def __init__(self, d_head=16):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D_MODEL, d_head, bias=False) for _ in range(3))
        self.o = nn.Linear(d_head, 2 * D_WORD, bias=False)

    def forward(self, x):
        q, k, v = (p(x)[:, None] for p in (self.q, self.k, self.v))  # (batch, 1, n, d_head)
        out, weights = attnlab.scaled_dot_product_attention(q, k, v, return_weights=True)
        return self.o(out[:, 0]), weights[:, 0]


def draw(generator):
    words = torch.randn(64, N_TOKENS, D_WORD, generator=generator)
    target = torch.cat([words.roll(1, 1), words.roll(-1, 1)], dim=-1)
    return torch.cat([words, torch.eye(N_TOKENS).expand(64, -1, -1)], dim=-1), target


def train_two_heads(identical, seed):
    """Final loss (0 = perfect, 1 = reporting nothing); difference of the heads; their jobs."""
    torch.manual_seed(seed)
    heads = nn.ModuleList([Head(), Head()])
    if identical:
        heads[1].load_state_dict(heads[0].state_dict())
    generator = torch.Generator().manual_seed(seed)

    def loss():
        x, target = draw(generator)
        return F.mse_loss(sum(head(x)[0] for head in heads), target)

    history = fit(heads, loss, steps=400, lr=0.02)
    x, here = draw(generator)[0], torch.arange(N_TOKENS)
    with torch.no_grad():
        jobs = [
            [head(x)[1][:, here, (here + step) % N_TOKENS].mean().item() for step in (-1, 1)]
            for head in heads
        ]
    pairs = zip(heads[0].parameters(), heads[1].parameters(), strict=True)
    apart = max((a - b).abs().max().item() for a, b in pairs)
    return sum(history[-20:]) / 20, apart, jobs


same, different = [], []
for seed in progress(range(3), "seeds, two runs each"):
    same.append(train_two_heads(True, seed))
    different.append(train_two_heads(False, seed))
for name, runs in (("equal start", same), ("random start", different)):
    for seed, (loss, _, jobs) in enumerate(runs):
        shares = ", ".join(f"head {h} {b:.2f}/{a:.2f}" for h, (b, a) in enumerate(jobs))
        print(f"{name}, seed {seed}: loss {loss:.3f}, weight on previous/next: {shares}")

# %%
largest = max(apart for _, apart, _ in same)
guess.reveal(
    2 if largest < 1e-6 else 1 if largest < 1e-2 else 0,
    "Equal heads get equal gradients, so they take equal steps, as long as the arithmetic is the "
    "same for both. Own parameters are not enough; the random start makes the first difference.",
)

# %%
claim("Two heads that start equal stay equal (largest difference between their parameters).",
      [apart for _, apart, _ in same], below=1e-6, source="this cell", id=5)
claim("Equal heads do not solve the task (loss: 0 is perfect, 1 is reporting nothing).",
      [loss for loss, _, _ in same], above=0.3, source="this cell", id=5)
claim("Two heads with a random start solve it (loss).", [loss for loss, _, _ in different],
      below=0.1, source="this cell", id=5)

# %% [markdown]
# How small may that first difference be? A fused layer computes both heads in one product, and the
# product may round the last digit of the one differently from the other. Same task, equal start,
# `attnlab`'s fused layer in float64; what comes out depends on your processor.

# %%
torch.manual_seed(0)
layer = attnlab.MultiHeadAttention(D_MODEL, 2, d_head=16, bias=False).double()
with torch.no_grad():
    for name in ("w_q", "w_k", "w_v", "w_o"):
        getattr(layer, name)[1] = getattr(layer, name)[0]
generator = torch.Generator().manual_seed(0)


def fused_loss():
    x, target = draw(generator)
    return F.mse_loss(layer(x.double())[..., : 2 * D_WORD], target.double())


history = fit(layer, fused_loss, steps=400, lr=0.02)
apart = max((w[0] - w[1]).abs().max().item() for w in (layer.w_q, layer.w_k, layer.w_v))
print(f"loss {history[-1]:.3f}, largest difference between the heads {apart:.2g}")
print("rounding separated the heads" if apart > 1e-3 else "rounding did not separate the heads")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### How many heads?
#
# The task has two jobs. Now divide one and the same width, $h\,d_k = 16$, among 1, 2, 8 or 16 heads: the
# parameters are as many each time.

# %%
guess = predict(
    "Which layer has the lowest loss after 300 steps?",
    ["1 head: it has the longest queries and keys", "2 heads", "8 heads",
     "16 heads: more heads see more relations"],
    id="02-how-many",
)
guess

# %%
def train_many(h, seed, width=16):
    """The final loss of a layer whose width is divided among h heads, and its parameters."""
    torch.manual_seed(seed)
    layer = attnlab.MultiHeadAttention(D_MODEL, h, d_head=width // h, bias=False)
    model = nn.Sequential(layer, nn.Linear(D_MODEL, 2 * D_WORD, bias=False))
    generator = torch.Generator().manual_seed(seed)

    def loss():
        x, target = draw(generator)
        return F.mse_loss(model(x), target)

    history = fit(model, loss, steps=300, lr=0.02)
    return sum(history[-20:]) / 20, sum(p.numel() for p in layer.parameters())


COUNTS = (1, 2, 8, 16)
runs = [(h, seed) for h in COUNTS for seed in range(3)]
losses, parameters = {h: [] for h in COUNTS}, {}
for h, seed in progress(runs, "layers trained"):
    loss, parameters[h] = train_many(h, seed)
    losses[h].append(loss)
for h, values in losses.items():
    print(f"{h:2} heads of {16 // h:2}: loss " + ", ".join(f"{value:.3f}" for value in values))

# %%
means = [sum(losses[h]) / 3 for h in COUNTS]
guess.reveal(
    means.index(min(means)),
    "One head has one row of weights for two jobs. With 16 heads each has d_k = 1: whatever the query, only "
    "the smallest or the largest key can win. More is not better, and fewer is not either.",
)

# %%
claim("One width, one number of parameters: 1, 2, 8 and 16 heads (against 4·16·d_model).",
      [parameters[h] / (4 * 16 * D_MODEL) for h in COUNTS], equals=1.0, source="counted", id=10)
claim("Two heads of 8 solve it (loss, 3 seeds).", losses[2], below=0.05, source="this cell", id=10)
claim("One head of 16, 8 heads of 2 and 16 heads of 1 do not, with as many parameters (loss, 3 seeds each).",
      [value for h in (1, 8, 16) for value in losses[h]], above=0.15,
      source="this cell; Vaswani et al. 2017, table 3 (A)", id=10)
claim("16 heads do worse than a single one (difference of the losses, 3 seeds).",
      [a - b for a, b in zip(losses[16], losses[1], strict=True)], above=0.1, source="this cell", id=114)

# %% [markdown]
# So "eight heads is standard" is a habit of one width and one time. How many help depends on the task,
# and on the $d_k$ that is left for each.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: more heads on the same width
#
# Random projections again, now with all heads in view. Watch two things as you raise the head count
# at a fixed $d_{model}$: the width that is left for each head, and how different the heads'
# pictures are although nothing has been trained. Then choose an **encoding**: "rope" and "alibi"
# act on queries, keys and scores of every head, "sinusoidal" and "learned" on the input. Notebooks
# 7 to 11 take them one by one.

# %%
AttentionExplorer(
    "She eats fish and the cat eats the mouse",
    source="random",
    n_heads=8,
    d_model=64,
    encoding="none",
    controls=("text", "n_heads", "d_model", "encoding", "causal", "temperature"),
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 2.1: count &nbsp; (●○○, 4 minutes)
#
# A layer has $d_{model} = 768$, 12 heads of $d_k = d_v = 64$, and biases on all four projections.
# How many parameters?

# %% tags=["exercise"]
# BEGIN SOLUTION
# BLANK: n_parameters = ...  # a whole number
n_parameters = 4 * 768**2 + 4 * 768
# END SOLUTION

# %%
check("2.1", n_parameters)

# %% [markdown] tags=["hint"]
# Three projections into the heads, one back. Which are their shapes?

# %% [markdown] tags=["hint"]
# A projection to $m$ numbers has a bias of $m$ numbers.

# %% [markdown]
# ### Exercise 2.2: split and merge &nbsp; (●●○, 10 minutes)
#
# Cut a fused projection into heads, and put the heads' outputs side by side again. `merge` must
# undo `split`.

# %% tags=["exercise"]
def split(y, n_heads):
    """(batch, tokens, n_heads * d_head) -> (batch, n_heads, tokens, d_head)."""
    # BEGIN SOLUTION
    batch, n, width = y.shape
    return y.view(batch, n, n_heads, width // n_heads).transpose(1, 2)
    # END SOLUTION


def merge(heads):
    """(batch, n_heads, tokens, d_head) -> (batch, tokens, n_heads * d_head)."""
    # BEGIN SOLUTION
    batch, n_heads, n, d_head = heads.shape
    return heads.transpose(1, 2).reshape(batch, n, n_heads * d_head)
    # END SOLUTION


# %%
check("2.2", split, merge)

# %% [markdown] tags=["hint"]
# Only neighbouring axes can be cut out of, or glued into, one axis.

# %% [markdown] tags=["hint"]
# After a transpose, `view` refuses to glue; `reshape` copies and does it.

# %% [markdown]
# ### Exercise 2.3: what did each head add? &nbsp; (●●○, 10 minutes)
#
# `heads` is `(n_heads, tokens, d_head)`, `w_o` is `(n_heads * d_head, d_model)`. Return what each
# head adds to the output: `(n_heads, tokens, d_model)`. Summed over heads it must be
# `concatenation @ w_o`.

# %% tags=["exercise"]
def contributions(heads, w_o):
    """(n_heads, tokens, d_head), (n_heads * d_head, d_model) -> (n_heads, tokens, d_model)."""
    # BEGIN SOLUTION
    n_heads, _, d_head = heads.shape
    return heads @ w_o.view(n_heads, d_head, -1)
    # END SOLUTION


# %%
check("2.3", contributions)

# %% [markdown] tags=["hint"]
# Head $i$ owns the *rows* $i\,d_k$ to $(i+1)\,d_k - 1$ of $W^O$.

# %% [markdown] tags=["hint"]
# `w_o.view(n_heads, d_head, d_model)[i]` is the block of head $i$.

# %% [markdown]
# ### Exercise 2.4: the whole layer &nbsp; (●●●, 20 minutes)
#
# Write all of multi-head self-attention, for one sentence and without mask or biases. In each third of
# `w_qkv` the heads lie one after another.

# %% tags=["exercise"]
def multi_head(x, w_qkv, w_o, n_heads):
    """x (tokens, d_model); w_qkv (d_model, 3 * d_model), queries first, then keys, then values;
    w_o (d_model, d_model) -> (tokens, d_model)."""
    # BEGIN SOLUTION
    n, d_model = x.shape
    q, k, v = (
        part.view(n, n_heads, d_model // n_heads).transpose(0, 1)
        for part in (x @ w_qkv).chunk(3, dim=-1)
    )  # (n_heads, tokens, d_head) each
    weights = (q @ k.mT / math.sqrt(d_model // n_heads)).softmax(dim=-1)
    return (weights @ v).transpose(0, 1).reshape(n, d_model) @ w_o
    # END SOLUTION


# %%
check("2.4", multi_head)

# %% [markdown] tags=["hint"]
# Which $d$ stands under the root, now that there are several heads?

# %% [markdown] tags=["hint"]
# Three parts: `(x @ w_qkv).chunk(3, dim=-1)`. Each is then split as in exercise 2.2.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | step | formula | shape |
# |---|---|---|
# | project | $Q_i = XW^Q_i$, $K_i = XW^K_i$, $V_i = XW^V_i$ | (batch, heads, tokens, $d_k$) |
# | attend | $A_i = \mathrm{softmax}(Q_iK_i^\top/\sqrt{d_k})$ | (batch, heads, query, key) |
# | | $\mathrm{head}_i = A_iV_i$ | (batch, heads, tokens, $d_k$) |
# | merge | $\sum_i \mathrm{head}_i W^O_i$ | (batch, tokens, $d_{model}$) |
#
# - Every head reads all of a token; only its result is short.
# - The output is a sum over heads, each through its own rows of $W^O$; the order of heads means
#   nothing.
# - $4\,d_{model}^2$ parameters if $h\,d_k = d_{model}$, whatever $h$.
# - Heads differ because they start different.
#
# ### Questions
#
# *How does the output projection combine information from different heads?* (Review question 3 of
# the course.) By a sum: each head through its block of $W^O$, token by token. Measured above: the
# sum equals the concatenated form to $10^{-12}$, and no derivative reaches another token.
#
# *Are more heads better?* Only up to a point. Measured above: of 1, 2, 8 and 16 heads of one total
# width, only 2 solved the task. In one published experiment the best number was in the middle, too:
# Vaswani et al. (Table 3, row A) report 24.9 BLEU (a measure of translations, higher is better) with
# one head, 25.8 with 8 or 16, 25.4 with 32, at the same cost. These are single runs.
#
# ### Common misconceptions
#
# - "The token is cut into pieces, one for each head": its *projection* is. See the slice test.
# - "More heads, more parameters": not at fixed $d_{model}$.
# - "Head 1 is the grammar head": heads are exchangeable.
# - "Each head has its own parameters, therefore they specialise": not if they start equal.
#
# ### Further reading
#
# - Vaswani et al. 2017: section 3.2.2, Table 3 (A).
# - Elhage et al. 2021, *A Mathematical Framework for Transformer Circuits*: section *Attention
#   Heads are Independent and Additive*.
# - Raffel et al. 2020, *Exploring the Limits of Transfer Learning* (T5): section 3.7, sizes with
#   $h\,d_k \ne d_{model}$.
#
# **Next:** [notebook 3](03-what-heads-learn.ipynb) asks what trained heads learn. Back
# to [the start](00-start-here.ipynb).
