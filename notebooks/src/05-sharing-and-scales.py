# %% [markdown] slideshow={"slide_type": "slide"}
# # 5. Sharing and scales
#
# **Must every head have its own keys and values, and must every head see the whole text?**
#
# When you have worked through this notebook you can
#
# - say what a decoder keeps of the text it has read, and count its bytes;
# - share keys and values among query heads (grouped-query, multi-query), and tell which query head
#   reads which;
# - name what sharing saves, what it does not save, and what it can cost in quality;
# - turn a trained layer into one that shares;
# - give heads windows of different size, and say why a mask alone saves nothing.
#
# *You need:* [notebook 2](02-many-heads.ipynb); [notebook 3](03-what-heads-learn.ipynb) and
# [notebook 4](04-which-heads-matter.ipynb) help. *To study:* 80 minutes. *To lecture:* 45 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import copy
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import attnlab
from attnlab import cost, heads, plots, races, trained
from attnlab.cache import KVCache
from attnlab.exercises import check
from attnlab.explorers import SharingExplorer
from attnlab.teach import claim, figure, predict, progress
from attnlab.train import fit, one_thread
from attnlab.windows import Window, blocked_attention, hierarchical, receptive_field

torch.manual_seed(0);

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What a decoder keeps
#
# A causal model reads a text of $n$ tokens. Token $i$ looks at the keys and values of tokens
# $0 \ldots i$. Now one more token arrives. Its query is new, but the keys and values of all earlier
# tokens are what they were: under a causal mask nothing that comes later changes them. So they are
# computed once and kept, in the **KV cache**.
#
# - **Prefill**: the given text goes through the layer at once.
# - **Decoding**: then one token at a time, each with a single query, against all kept keys.

# %%
mha = attnlab.MultiHeadAttention(d_model=64, n_heads=8, bias=False).double()
x = torch.randn(1, 20, 64, dtype=torch.float64)  # (batch, tokens, d_model)

cache = KVCache()
with torch.no_grad():
    prefill = mha(x[:, :12], causal=True, cache=cache)  # 12 tokens at once
    decoded = [mha(x[:, i : i + 1], causal=True, cache=cache) for i in range(12, 20)]  # then 8
    at_once = mha(x, causal=True)
claim("Token by token with a cache gives what one pass gives (largest difference).",
      (torch.cat([prefill, *decoded], dim=1) - at_once).abs().max(), below=1e-12,
      source="Shazeer 2019, section 2.4", id=38)
print(cache)

# %% [markdown]
# Transformers are said to work "without sequential computation". A small trained model (one of
# [notebook 12](12-beyond-training-length.ipynb)) has read 12 tokens and shall write 8 more, each time the
# likeliest. Token by token that takes 8 steps. Now all in one pass: we fill the 8 free places with copies
# of the last token, and read off which token is likeliest at each.

# %%
guess = predict(
    "How many of the 8 tokens are the same as those written one by one?",
    ["all 8: a Transformer handles all tokens at once", "the first one for sure, others by luck", "none"],
    id="05-at-once",
)
guess

# %%
writer = races.load("modes", "rope")
texts = races.TASKS["modes"].batch(8, 33, torch.Generator().manual_seed(5))[0][:, :12]  # (8 texts, 12)
with torch.no_grad():
    written = texts
    for _ in range(8):  # one after the other: each needs the one before it
        written = torch.cat([written, writer(written)[:, -1:].argmax(-1)], dim=1)
    blank = torch.cat([texts, texts[:, -1:].expand(-1, 8)], dim=1)  # something must stand there
    blind, known = (writer(text)[:, 11:19].argmax(-1) for text in (blank, written))
fits, fits_known = (found == written[:, 12:] for found in (blind, known))  # (8 texts, 8 tokens)
hits = fits.sum(dim=1)  # (8 texts)
print("right out of 8, from one pass:", hits.tolist())

# %%
guess.reveal(
    0 if (hits == 8).all() else 1 if fits[:, 0].all() else 2,
    "Each place is predicted from what stands before it, and that is not written yet.",
)

# %%
claim("Writing is sequential: one pass leaves some of the 8 tokens wrong (right ones, 8 texts).", hits,
      below=7, source="this cell", id=116)
claim("The first is right in all 8 texts: it needs only what has been read.",
      fits[:, 0], equals=True, source="this cell", id=116)
claim("Reading is not: over a text that is there, one pass predicts all 8 (right ones, 8 texts).",
      fits_known.sum(dim=1), equals=8, source="this cell; Shazeer 2019", id=116)

# %% [markdown]
# How large is the cache? For every token and every head a key and a value of $d_k$ numbers:
#
# $$\text{bytes} = 2 \cdot L \cdot n \cdot h \cdot d_k \cdot b$$
#
# with $L$ layers, $n$ tokens, $h$ heads, and $b$ bytes for each number. The 2 is for keys *and*
# values. $b$ is 8 in float64 (as above), 4 in float32, 2 in bfloat16.

# %%
guess = predict(
    "A model of 32 layers with 32 heads of d_k = 128 has read one text of 4,096 tokens. Its KV "
    "cache in bfloat16 takes …",
    ["about 2 GB", "about 0.3 GB", "about 67 MB", "about 2 MB"],
    id="05-cache-size",
)
guess

# %%
one_layer = KVCache()
keys = torch.zeros(1, 32, 4096, 128, dtype=torch.bfloat16)  # (batch, heads, tokens, d_k)
one_layer.append(keys, keys)
gigabytes = 32 * one_layer.nbytes / 1e9
print(f"one layer: {one_layer.nbytes:,} bytes, 32 layers: {gigabytes:.2f} GB")

# %%
sizes = [2.0, 0.3, 0.067, 0.002]
guess.reveal(
    min(range(4), key=lambda i: abs(gigabytes / sizes[i] - 1)),
    "For one text. Twenty texts at a time need twenty such caches, and each new token reads its "
    "text's cache from beginning to end.",
)

# %%
claim("The bytes of a cache are 2·L·n·h·d_k·b (counted / formula, the two caches above).",
      [cache.nbytes / (2 * 1 * 20 * 8 * 8 * 8),
       32 * one_layer.nbytes / cost.kv_cache_bytes(4096, 32, 128, n_layers=32)],
      equals=1.0, source="counted from the stored tensors", id=36)
del keys, one_layer

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Sharing: grouped heads
#
# Keep all $h$ query heads, but give them only $g$ key/value heads. You may read "grouped multi-head
# attention"; the usual name is **grouped-query attention**, GQA. With $i$ counting query heads,
#
# $$\mathrm{head}_i = \mathrm{Attention}\big(XW^Q_i,\; XW^K_{G(i)},\; XW^V_{G(i)}\big),\qquad
# G(i) \in \{0, \ldots, g-1\}$$
#
# - $g = h$: ordinary multi-head attention, MHA;
# - $g = 1$: **multi-query attention**, MQA: all query heads read the same keys and values.
#
# Queries are (batch, $h$, $n$, $d_k$), keys and values (batch, $g$, $n$, $d_k$). Which query head reads
# which key/value head, the function $G$, has to be agreed on.

# %%
guess = predict(
    "8 query heads, 2 key/value heads, counted from 0; PyTorch's function. Which query heads read "
    "key/value head 1?",
    ["1, 3, 5, 7: they are dealt out in turn", "4, 5, 6, 7: neighbours share",
     "all of them, half of their numbers each"],
    id="05-which-head",
)
guess

# %%
q = torch.randn(1, 8, 6, 16)  # (batch, query heads, tokens, d_k)
k, v = torch.randn(1, 2, 6, 16), torch.randn(1, 2, 6, 16)  # (batch, key/value heads, tokens, d_k)
grouped = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
changed_v = v.clone()
changed_v[:, 1] += 1.0  # only key/value head 1
change = F.scaled_dot_product_attention(q, k, changed_v, enable_gqa=True) - grouped
readers = [i for i in range(8) if change[0, i].abs().max() > 1e-4]
print("query heads that notice:", readers)

# %%
guess.reveal(
    {(1, 3, 5, 7): 0, (4, 5, 6, 7): 1}.get(tuple(readers), 2),
    "G(i) = i // (h/g): the first h/g query heads read key/value head 0, the next h/g head 1. "
    "PyTorch, Hugging Face and attnlab agree on this.",
)

# %%
neighbours = [t.repeat_interleave(4, dim=1) for t in (k, v)]  # heads 0 0 0 0 1 1 1 1
in_turn = [t.repeat(1, 4, 1, 1) for t in (k, v)]  # heads 0 1 0 1 0 1 0 1
claim("Grouped attention is ordinary attention with every key/value head repeated for its "
      "neighbours; PyTorch and attnlab agree.",
      [(grouped - F.scaled_dot_product_attention(q, *neighbours)).abs().max(),
       (grouped - attnlab.scaled_dot_product_attention(q, k, v)).abs().max()],
      below=1e-5, source="Ainslie et al. 2023", id=35)
claim("Heads repeated in turn give another function (largest difference).",
      (grouped - F.scaled_dot_product_attention(q, *in_turn)).abs().max(), above=0.1,
      source="this cell", id=35)

# %% [markdown]
# Both conventions exist: the library x-transformers deals heads out in turn. Parameters trained in one
# and loaded into the other raise no error and give wrong numbers. The mending is to reorder the query
# heads (and, in a layer, their blocks of $W^O$ with them).
#
# You may read that sharing is for "related heads within groups". Nothing in the formula asks for
# relatives: groups are whatever heads stand next to each other.

# %%
order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])  # first those that read head 0 in turn, then head 1
reordered = F.scaled_dot_product_attention(q[:, order], k, v, enable_gqa=True)
claim("With the query heads reordered, one convention gives the other's numbers.",
      (reordered - F.scaled_dot_product_attention(q, *in_turn)[:, order]).abs().max(),
      below=1e-5, source="heads are exchangeable, notebook 2", id=40)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What sharing saves
#
# Three gains are usually named: fewer parameters, fewer computations, faster inference.

# %%
guess = predict(
    "d_model = 512, 8 query heads. We go from 8 key/value heads to 1. What falls to one eighth?",
    ["the cache only", "cache and operations", "parameters and cache",
     "parameters, cache and operations"],
    id="05-what-is-saved",
)
guess

# %%
def counted(run, *inputs, **options):
    """Floating-point operations of run(...), by PyTorch's counter (it sees plain products only)."""
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        run(*inputs, **options)
    return counter.get_total_flops()


saved = {}
text = torch.randn(1, 64, 512)
for g in (8, 4, 2, 1):
    layer = attnlab.MultiHeadAttention(512, 8, n_kv_heads=g, bias=False)
    qkv = layer.heads(text)  # queries (1, 8, 64, 64), keys and values (1, g, 64, 64)
    cache = KVCache()
    with torch.no_grad():
        for i in range(64):
            layer(text[:, i : i + 1], causal=True, cache=cache)
    saved[g] = {
        "parameters": sum(p.numel() for p in layer.parameters()),
        "cache bytes": cache.nbytes,
        "operations, whole layer": counted(layer, text),
        "operations, scores and values": counted(
            attnlab.scaled_dot_product_attention, *qkv, backend="dense"),
    }
for g, row in saved.items():
    told = ", ".join(f"{name} {value:,}" for name, value in row.items())
    print(f"g = {g}: {told}")

# %%
falls = {name: saved[1][name] / saved[8][name] == 1 / 8 for name in saved[8]}
operations = falls["operations, whole layer"]
guess.reveal(
    3 if falls["parameters"] and operations else 2 if falls["parameters"]
    else 1 if operations else 0,
    "Only W_K and W_V shrink, W_Q and W_O stay. And each query head still meets every key: there "
    "are as many scores as before.",
)

# %%
claim("A layer that shares has d²·(2 + 2g/h) parameters (counted / formula, g = 8, 4, 2, 1).",
      [saved[g]["parameters"] / (512**2 * (2 + 2 * g / 8)) for g in saved], equals=1.0,
      source="Ainslie et al. 2023; counted", id=36)
claim("The cache shrinks by g/h (counted while decoding, relative to g = 8).",
      [saved[g]["cache bytes"] / saved[8]["cache bytes"] * 8 / g for g in saved], equals=1.0,
      source="Shazeer 2019", id=36)
claim("The operations of scores and values do not change at all (relative to g = 8).",
      [saved[g]["operations, scores and values"] / saved[8]["operations, scores and values"]
       for g in saved], equals=1.0, source="counted by PyTorch", id=37)
layer_parts = 12 * 512**2  # attention 4 d², feed-forward 8 d²
claim("Of a whole transformer layer (12·d² parameters, 8 heads) multi-query saves about a seventh.",
      (saved[8]["parameters"] - saved[1]["parameters"]) / layer_parts, expect=0.146, atol=0.001,
      source="this cell", id=36)
flops = {g: cost.attention_flops(4096, 512, 8, n_kv_heads=g)["total"] for g in (8, 2, 1)}
claim("At 4,096 tokens and d_model = 512 the attention layer saves less than a tenth of its "
      "operations (g = 2, g = 1).",
      [1 - flops[g] / flops[8] for g in (2, 1)], between=(0.05, 0.10),
      source="attnlab.cost", id=37)
claim("attnlab.cost counts as PyTorch does (the four layers above, 64 tokens: one / other).",
      [cost.attention_flops(64, 512, 8, n_kv_heads=g)["total"] / row["operations, whole layer"]
       for g, row in saved.items()], equals=1.0, source="this cell", id=37)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### When is it faster?
#
# One decoding step has one query for each head. Against $n$ kept tokens it takes $4\,n\,h\,d_k$
# operations for scores and values, and to do so it must **read** the cache: $2\,n\,g\,d_k\,b$ bytes.
# So there are $2h/(g\,b)$ operations for each byte. With $g = h$ and bfloat16 that is 1, and a
# processor that can do more than one operation while it fetches a byte waits for memory. Sharing
# leaves the operations and divides the bytes.
#
# To profit, the key/value head must be read once for its whole group, not copied for each query
# head. A simple way: at decoding the $h/g$ queries of a group become rows of one small matrix.

# %%
guess = predict(
    "One key/value head instead of 8, on this processor. What takes clearly less time: the prefill of 1,024 "
    "tokens, or a decoding step after 16,384?",
    ["the decoding step only", "the prefill only", "neither", "both: fewer keys and values to compute with"],
    id="05-faster",
)
guess

# %%
def one_step(q, k, v):
    """(1, h, 1, d_k) queries, (1, g, n, d_k) keys and values -> (1, h, 1, d_k)"""
    h, g = q.shape[1], k.shape[1]
    rows = q.view(1, g, h // g, -1)  # a group's queries side by side
    return F.scaled_dot_product_attention(rows, k, v).view(1, h, 1, -1)


def fastest(runs, rounds):
    """Processor seconds of the fastest of several rounds on one thread, for each run."""
    best = [float("inf")] * len(runs)
    with one_thread():
        for _ in range(rounds):
            for i, run in enumerate(runs):
                start = time.process_time()
                run()
                best[i] = min(best[i], time.process_time() - start)
    return best


N = 16_384
q = torch.randn(1, 8, 1, 64)
kept = {g: [torch.randn(1, g, N, 64) for _ in range(2)] for g in (8, 1)}
claim("Rows instead of copies: the same step (largest difference, g = 8 and 1).",
      [(one_step(q, *kept[g])
        - F.scaled_dot_product_attention(q, *kept[g], enable_gqa=True)).abs().max()
       for g in kept], below=1e-5, source="this cell", id=38)
step = fastest([lambda g=g: one_step(q, *kept[g]) for g in (8, 1)], rounds=15)
prompt = {g: [torch.randn(1, h, 1024, 64) for h in (8, g, g)] for g in (8, 1)}
prefill = fastest([
    lambda g=g: F.scaled_dot_product_attention(*prompt[g], is_causal=True, enable_gqa=True)
    for g in (8, 1)
], rounds=7)

# %%
faster = prefill[1] / prefill[0] < 0.7, step[1] / step[0] < 0.7  # prefill, decoding
guess.reveal(
    [(False, True), (True, False), (False, False), (True, True)].index(faster),
    "The operations of scores and values are the same. Only where the cache is what one waits for, less of it "
    "takes less time.",
)

# %%
claim("Multi-query decoding is faster: a step takes less than 0.7 of the time of 8 key/value heads.",
      step[1] / step[0] < 0.7, equals=True, source="timed here, 16,384 kept tokens", id=38)
claim("Prefill is not: attention over a prompt takes more than 0.7 of the time, with an eighth of the keys.",
      [prefill[1] / prefill[0] > 0.7, 8 * prompt[1][1].numel() == prompt[8][1].numel()], equals=True,
      source="timed here, 1,024 tokens", id=38)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Does one key/value head suffice?
#
# You may read that multi-query attention has "maintained expressivity: multiple query
# perspectives". Perspectives, yes: each query head still makes its own weights. But look at what
# one source token can send. With the weights fixed, token $j$ with vector $x_j$ reaches an output
# through
#
# $$x_j \cdot M,\qquad M = \sum_i a_i\, W^V_{G(i)} W^O_i \qquad (d_{model}, d_{model})$$
#
# where $a_i$ is the weight that query head $i$ puts on it (one query, one key, so no other index).
# The **rank** of $M$ says how many independent features of the token get through.

# %%
guess = predict(
    "d_model = 512, 8 query heads of 64, one key/value head. The rank of M is at most …",
    ["512, as with 8 key/value heads", "256", "64", "8"],
    id="05-rank",
)
guess

# %%
ranks = {}
weights_on_j = torch.rand(8, dtype=torch.float64)
for g in (8, 4, 2, 1):
    layer = attnlab.MultiHeadAttention(512, 8, n_kv_heads=g, bias=False).double()
    per_head = layer.w_v.repeat_interleave(8 // g, dim=0) @ layer.w_o  # (8, 512, 512)
    m = (weights_on_j[:, None, None] * per_head).sum(0)
    ranks[g] = torch.linalg.matrix_rank(m).item()
    print(f"g = {g}: rank {ranks[g]}")

# %%
guess.reveal(
    {512: 0, 256: 1, 64: 2, 8: 3}[ranks[1]],
    "M = W_V · (the sum of a_i W_O_i): everything has to pass through one W_V, 64 numbers wide.",
)

# %%
claim("The map from a source token to the output has rank g·d_k (g = 8, 4, 2, 1).",
      list(ranks.values()), equals=(512, 256, 128, 64),
      source="linear algebra; this cell", id=39)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Does it matter?
#
# A task as in notebook 1: around a verb stand four words, each in a *role* given by its place. All
# roles draw from the same 60 words; at the verb the model must name all four. One layer, attention
# only, $d_{model} = 32$: 8 query heads of 4 numbers each. A word that goes through one key/value head
# is squeezed into 4 numbers.
#
# Luck plays a part in training, so we need several models of each kind. They were trained beforehand
# with five seeds each, by `python -m attnlab.trained sharing-8` and so on; the results come with the
# package. First we repeat the beginning of two of these trainings, to see that the log is the log
# of this code.

# %%
short = 41  # steps
differences = {"0": [], "1": []}  # to the logs of seed 0, and of seed 1 for comparison
for name in ("sharing-8", "sharing-1"):
    recipe = trained.SHARING[name]
    _, losses = trained.train(recipe, 0, only=short)
    for seed, found in differences.items():
        stored = trained.log(recipe)["runs"][seed]["losses"][: short // trained.LOG_EVERY + 1]
        found.append(max(abs(a / b - 1) for a, b in
                         zip(losses[:: trained.LOG_EVERY], stored, strict=True)))
claim("The first 41 steps, made again here, have the losses of the log (largest relative "
      "difference).", differences["0"], below=0.001, source="attnlab.trained", id=39)
claim("The log of another seed would not pass.", differences["1"], above=0.003,
      source="attnlab.trained", id=39)

# %%
guess = predict(
    "1,200 steps each. The share of roles that multi-query attention gets right, on average over "
    "five seeds, against 8 key/value heads: …",
    ["equal, within 0.03", "lower by 0.03 to 0.15", "lower by more than 0.15", "higher"],
    id="05-quality",
)
guess

# %% [markdown]
# In the picture a dot is one training with its own seed, the bar is their mean; guessing gives 1 in
# 60. Four columns change something else than $g$: heads of $d_k = 7$ instead of 4; 4,000 steps
# instead of 1,200; and, twice, a *larger* model with $d_{model} = 64$, heads of 8 and a feed-forward
# part (learning rate halved).

# %%
def roles_right(name):
    """The share of roles that are right, for each seed."""
    return [run["scores"]["roles"] for run in trained.log(trained.SHARING[name])["runs"].values()]


accuracy = {name: roles_right(name) for name in trained.SHARING}
mean = {name: sum(values) / len(values) for name, values in accuracy.items()}
shown = {
    "g = 8": "sharing-8", "g = 4": "sharing-4", "g = 2": "sharing-2", "g = 1": "sharing-1",
    "g = 1,\nd_k = 7": "sharing-1-wide", "g = 1,\n4,000 steps": "sharing-1-long",
    "g = 8,\nlarger": "sharing-8-large", "g = 1,\nlarger": "sharing-1-large",
}
figure(
    plots.by_seed({label: accuracy[name] for label, name in shown.items()}, "roles right"),
    alt="Share of roles right, a dot for each of five seeds: "
    + "; ".join(f"{label.replace(chr(10), ' ')} mean {mean[name]:.2f}"
                for label, name in shown.items()) + ".",
)

# %%
lost = mean["sharing-8"] - mean["sharing-1"]
guess.reveal(
    3 if lost < -0.03 else 0 if lost <= 0.03 else 1 if lost <= 0.15 else 2,
    f"Mean {mean['sharing-8']:.2f} with 8 key/value heads, {mean['sharing-1']:.2f} with one.",
)

# %%
claim("In this small layer every multi-query model is behind every model with 8 key/value heads "
      "(worst of those minus best of these, share of roles).",
      min(accuracy["sharing-8"]) - max(accuracy["sharing-1"]), above=0.05,
      source="attnlab.trained, five seeds each", id=39)
claim("With 4,000 steps instead of 1,200 the same multi-query models get there too (each seed).",
      accuracy["sharing-1-long"], above=0.97, source="attnlab.trained, five seeds", id=39)
claim("The larger models all learn the task in 1,200 steps, multi-query or not (ten runs).",
      [*accuracy["sharing-8-large"], *accuracy["sharing-1-large"]], above=0.97,
      source="attnlab.trained, five seeds each", id=39)


def steps_needed(name):
    """Steps until the logged loss is below 0.5, on average over the seeds."""
    runs = trained.log(trained.SHARING[name])["runs"].values()
    first = [next(i for i, loss in enumerate(run["losses"]) if loss < 0.5) for run in runs]
    return trained.LOG_EVERY * sum(first) / len(first)


claim("There multi-query is at most a quarter slower (mean steps until loss < 0.5, g = 1 / g = 8).",
      steps_needed("sharing-1-large") / steps_needed("sharing-8-large"), between=(0.9, 1.25),
      source="attnlab.trained, five seeds each", id=39)
claim("Multi-query with d_k = 7 has the parameters of 8 key/value heads with d_k = 4, within 2 %.",
      cost.attention_parameters(32, 8, 7, 1) / cost.attention_parameters(32, 8, 4, 8),
      between=(0.98, 1.0), source="attnlab.cost", id=36)
claim("With g = 2, and with g = 1 and d_k = 7, the seeds differ widely (best minus worst).",
      [max(accuracy[name]) - min(accuracy[name]) for name in ("sharing-2", "sharing-1-wide")],
      above=0.2, source="attnlab.trained, five seeds each", id=39)

# %% [markdown]
# So neither "expressivity is maintained" nor "multi-query is worse" is a law. The rank falls, that is
# algebra. Here the narrower layer could still do the task, but took longer to learn it; in the larger
# model no loss shows (all are at 1.00, where a small one could not). Between the extremes luck
# decides much: five seeds do not tell $g = 2$ from $g = 1$ with $d_k = 7$. For large models, converted
# as in the next section, Ainslie et al. (2023, Table 1) give an average score of 47.2 for MHA, 47.1
# for GQA with 8 key/value heads and 46.6 for MQA, and report unstable training for MQA (appendix A).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## From a trained model with many heads to one with few
#
# Models exist that were trained with $g = h$. Ainslie et al. make them share afterwards: the new
# key/value head of a group is the **mean** of the old ones, entry by entry of $W^K$ and $W^V$;
# $W^Q$ and $W^O$ stay. Then a little more training.

# %%
guess = predict(
    "Our trained models with 8 key/value heads, all pooled into 1, no further training. Roles right "
    "(guessing: 1 in 60):",
    ["nearly as before, above 0.9", "between 0.5 and 0.9", "between 0.1 and 0.5",
     "hardly more than guessing, below 0.1"],
    id="05-pooling",
)
guess

# %%
def pooled(model, g):
    """A copy of the model whose layer has g key/value heads, each the mean of a group."""
    small = copy.deepcopy(model)
    small.layers[0].attention = heads.share_heads(small.layers[0].attention, g)
    return small


recipe = trained.SHARING["sharing-8"]
many = {seed: trained.load(recipe, seed) for seed in recipe.seeds}
before = [trained.roles_scores(model)["roles"] for model in many.values()]
after = {g: [trained.roles_scores(pooled(model, g))["roles"] for model in many.values()]
         for g in (8, 4, 2, 1)}
for g, values in after.items():
    print(f"pooled to g = {g}: " + ", ".join(f"{value:.2f}" for value in values))

# %%
right_after = sum(after[1]) / len(after[1])
guess.reveal(
    0 if right_after > 0.9 else 1 if right_after > 0.5 else 2 if right_after > 0.1 else 3,
    f"Mean {right_after:.2f}. Nothing in training had made neighbours alike, so their mean can "
    "stand for none of them.",
)

# %% [markdown]
# Is the pooled model then worth more than a new one? Both get the same 100 steps, a twelfth of the
# original training, with the same examples.

# %%
def train_on(model, seed, steps=100):
    generator = torch.Generator().manual_seed(1_000 + seed)
    fit(model, lambda: trained.roles_loss(model, generator), steps=steps, lr=1e-2)
    return trained.roles_scores(model)["roles"]


GROUPS, SEEDS = (4, 1), (0, 1)
converted, scratch = {g: [] for g in GROUPS}, {g: [] for g in GROUPS}
for g, seed in progress([(g, s) for g in GROUPS for s in SEEDS], "two runs each"):
    converted[g].append(train_on(pooled(many[seed], g), seed))
    scratch[g].append(train_on(trained.start(trained.SHARING[f"sharing-{g}"], seed), seed))
for g in GROUPS:
    for name, values in (("pooled, then trained", converted[g]), ("from scratch", scratch[g])):
        print(f"g = {g}, {name}: " + ", ".join(f"{value:.2f}" for value in values))

# %%
claim("Pooling to one head destroys what the model could (roles right, all seeds).",
      after[1], below=0.1, source="the models above, five seeds", id=40)
claim("After the same few steps the pooled model is ahead of the one from scratch (difference).",
      [a - b for g in GROUPS for a, b in zip(converted[g], scratch[g], strict=True)], above=0.05,
      source="the cell above, two seeds", id=40)
claim("By then the model with 4 key/value heads is nearly where it was (roles right, then / before).",
      [converted[4][i] / before[seed] for i, seed in enumerate(SEEDS)], above=0.8,
      source="the cell above, two seeds", id=40)
claim("The one with a single key/value head is not.",
      [converted[1][i] / before[seed] for i, seed in enumerate(SEEDS)], below=0.6,
      source="the cell above, two seeds", id=40)

# %% [markdown]
# Size matters here too: the large model of Ainslie et al. (Figure 5), pooled to 8 key/value heads,
# does reasonably well even before it is trained on; pooled to one it does not.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Scales: windows
#
# The second way to spend less: not every head needs to see everything. A **local** head with
# half-width $w$ sees the keys with $|i - j| \le w$. You may find
# $\mathrm{Attention}(Q_i, K_{i,\text{window}}, V_{i,\text{window}})$; read it so that the window
# *moves with the query*, and $i$ there counts heads. A **global** head sees all. A **dilated** head
# sees every $s$-th key within its width. Heads of one layer may differ.
#
# **Hierarchical** heads, "multi-resolution attention", are often named without a formula. `attnlab`
# takes this one: head number $r$, from 0, reaches $2^r w$ tokens in steps of $2^r$. All heads do
# equal work; near tokens are seen one by one and far ones thinned out. Head 0 is the local head. In
# the maps bright pairs are visible.

# %%
n = 33
kinds = {"local, w = 4": Window(4), "global": None}
kinds |= {f"hierarchical, head {i}": window for i, window in enumerate(hierarchical(4, 4)) if i}
layer = attnlab.MultiHeadAttention(80, len(kinds), windows=list(kinds.values()), bias=False)
x = torch.randn(1, n, 80)
with torch.no_grad():
    _, weights = layer(x, causal=True, return_weights=True)  # (1, 5 heads, query, key)
fig, axes = plt.subplots(1, 5, figsize=(13, 3.2), layout="constrained")
for ax, name, seen in zip(axes, kinds, weights[0] > 0, strict=True):
    ax.imshow(seen.numpy(), cmap="cividis")
    ax.set_title(name, fontsize=11)
    ax.set_xlabel("key")
axes[0].set_ylabel("query")
figure(fig, alt="Five maps of which query sees which key, causal: a narrow band for the local head; "
       "the lower triangle for the global one; for hierarchical heads 1 to 3 diagonal stripes 2, 4 "
       "and 8 tokens apart that reach 8, 16 and 32 tokens back.")

# %%
claim("Each hierarchical head sees as many keys as the local one, here for the last token "
      "(local, then heads 1 to 3 of the hierarchy).",
      [(weights[0, i, -1] > 0).sum().item() for i in (0, 2, 3, 4)], equals=4 + 1,
      source="counted from the weights", id=41)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### How far does a stack of layers see?
#
# In one layer a token with half-width $w$ hears from $w$ tokens to either side. Those tokens heard, in
# the layer before, from theirs. The tokens of the input that can influence an output are its
# **receptive field**.

# %%
guess = predict(
    "All heads local with w = 4, not causal, 3 layers. The receptive field of a token in the "
    "middle has …",
    ["9 tokens, whatever the depth", "25 tokens", "27 tokens", "729 tokens"],
    id="05-receptive",
)
guess

# %%
fields = [receptive_field(101, [4] * depth, n_heads=1)[50].sum().item() for depth in range(1, 6)]
print("layers 1 to 5:", fields)

# the same from gradients: which inputs change output 50 of three real layers?
stack = [attnlab.MultiHeadAttention(16, 2, windows=4).double() for _ in range(3)]
x = torch.randn(1, 101, 16, dtype=torch.float64, requires_grad=True)
y = x
for layer in stack:
    y = layer(y)
(gradient,) = torch.autograd.grad(y[0, 50].sum(), x)
reached = (gradient[0].abs().sum(-1) > 0).sum().item()

# %%
guess.reveal({9: 0, 25: 1, 27: 2, 729: 3}[fields[2]],
             "Each layer adds w tokens at either end: 2·w·L + 1 with L layers.")

# %%
claim("The receptive field grows as 2wL + 1 (L = 1 to 5, w = 4).", tuple(fields),
      equals=(9, 17, 25, 33, 41), source="Beltagy et al. 2020, section 3.1", id=41)
claim("Three layers really depend on that many tokens (counted from gradients).", reached,
      equals=25, source="autograd", id=41)
tree = [receptive_field(201, [hierarchical(4, 4)] * depth, n_heads=4)[100].sum().item()
        for depth in (1, 2, 3)]
claim("Four hierarchical heads with w = 4 hear from more than twice as many tokens (after 1, 2 and "
      "3 layers: hierarchical / local).",
      [a / b for a, b in zip(tree, fields, strict=False)], above=2.0,
      source="attnlab.windows.receptive_field", id=41)
print("hierarchical, layers 1 to 3:", tree)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### What a window saves
#
# The usual way to hide keys is a mask: scores of hidden pairs become $-\infty$, their weights 0.

# %%
guess = predict(
    "2,048 tokens, each sees only itself and the 64 before it, by a mask on all pairs. Operations for "
    "scores and values, and time, against no window at all:",
    ["both about 65/2048 of it", "operations about 65/2048, time about half",
     "the same operations, time about half", "neither is less"],
    id="05-mask",
)
guess

# %%
N, W = 2048, 64
q, k, v = (torch.randn(1, 2, N, 64) for _ in range(3))
gap = torch.arange(N)[:, None] - torch.arange(N)[None, :]  # query - key
visible = (gap >= 0) & (gap <= W)  # (query, key)

seconds = fastest([
    lambda: F.scaled_dot_product_attention(q, k, v),
    lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=visible),
    lambda: attnlab.scaled_dot_product_attention(q, k, v, causal=True, windows=W, backend="blocked"),
], rounds=5)
dense = [
    counted(F.scaled_dot_product_attention, q[:, :1], k[:, :1], v[:, :1], attn_mask=mask)
    for mask in (None, visible)
]
print(f"operations with the mask / without: {dense[1] / dense[0]:.2f}")

# %%
less_work, time_left = dense[1] / dense[0] < 0.5, seconds[1] / seconds[0]
guess.reveal(
    (0 if time_left < 0.25 else 1) if less_work else 2 if time_left < 0.75 else 3,
    "All pairs are multiplied, then most of the results are thrown away. The mask itself has to be "
    "made and read on top.",
)

# %% [markdown]
# To save, the hidden scores must never be computed. `attnlab` cuts the text into blocks of queries;
# each block meets only its own stretch of keys. A dilated window is split into $s$ interleaved texts
# first, in each of which it is an ordinary window. For long texts `attnlab` takes this path by
# itself.

# %%
masked = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
blocked = blocked_attention(q, k, v, Window(W), causal=True)
itself = attnlab.scaled_dot_product_attention(q, k, v, causal=True, windows=W)
claim("A mask saves no operations (with / without).", dense[1] / dense[0], equals=1.0,
      source="counted by PyTorch", id=41)
claim("A mask saves no time worth having: it takes more than 0.75 of the time without.",
      seconds[1] / seconds[0] > 0.75, equals=True, source="timed here, n = 2,048", id=41)
claim("In blocks the same numbers come out (largest difference; asked for, and chosen by itself).",
      [(blocked - masked).abs().max(), (itself - masked).abs().max()], below=1e-5,
      source="this cell", id=41)
claim("It did choose the blocks by itself (operations, chosen / asked for).",
      counted(attnlab.scaled_dot_product_attention, q, k, v, causal=True, windows=W)
      / counted(blocked_attention, q, k, v, Window(W), causal=True), equals=1.0,
      source="counted by PyTorch", id=41)
claim("In blocks it takes less than 0.75 of the time.", seconds[2] / seconds[0] < 0.75, equals=True,
      source="timed here, n = 2,048", id=41)

# %%
lengths = (256, 512, 1024, 2048)
in_blocks, all_pairs = [], []
for length in lengths:
    part = [t[:, :1, :length] for t in (q, k, v)]
    in_blocks.append(counted(blocked_attention, *part, Window(W), causal=True))
    all_pairs.append(counted(F.scaled_dot_product_attention, *part))
for length, block, pairs in zip(lengths, in_blocks, all_pairs, strict=True):
    print(f"n = {length:4}: all pairs {pairs:13,} operations, in blocks {block:11,}")
claim("Twice the text, twice the operations in blocks (n = 512, 1,024, 2,048).",
      [b / a for a, b in zip(in_blocks, in_blocks[1:], strict=False)], equals=2.0,
      source="counted by PyTorch", id=41)
claim("Twice the text, four times the operations for all pairs.",
      [b / a for a, b in zip(all_pairs, all_pairs[1:], strict=False)], equals=4.0,
      source="counted by PyTorch", id=41)
claim("At 2,048 tokens blocks cost 128/2048 of all pairs, not 65/2048: a block of 64 queries meets "
      "its own keys and the 64 before.", in_blocks[-1] / all_pairs[-1], equals=128 / 2048,
      source="counted by PyTorch", id=41)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### A cache that stops growing
#
# A causal local head never looks back more than $w$ tokens. So its cache may forget all but the last
# $w$: a **rolling** cache. The new token brings its own key and value. (`attnlab` keeps the same
# tokens for all heads of a layer: one head without a window, and everything is kept.)

# %%
torch.manual_seed(0)
x = torch.randn(1, 64, 64)
grown, last_output = {}, {}
for name, g, w in (("g = 8", 8, None), ("g = 2", 2, None), ("g = 1", 1, None), ("g = 8, w = 16", 8, 16)):
    layer = attnlab.MultiHeadAttention(64, 8, n_kv_heads=g, windows=w)
    caches = {"": KVCache(last=w)} | ({"one less": KVCache(last=w - 1)} if w else {})
    grown[name], outputs = [], {kind: [] for kind in caches}
    with torch.no_grad():
        for i in range(64):
            for kind, cache in caches.items():
                outputs[kind].append(layer(x[:, i : i + 1], causal=True, cache=cache))
            grown[name].append(caches[""].nbytes)
        whole = layer(x, causal=True)
    last_output[name] = {kind: (torch.cat(o, 1) - whole).abs().max() for kind, o in outputs.items()}

fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
styles = (("#00224e", "-"), ("#00224e", "--"), ("#00224e", ":"), ("#b8860b", "-"))
for (name, values), (colour, style) in zip(grown.items(), styles, strict=True):
    ax.plot(range(1, 65), [b / 1024 for b in values], style, color=colour, lw=2.5, label=name)
ax.set_xlabel("tokens read")
ax.set_ylabel("cache of one layer (KiB, float32)")
ax.grid(alpha=0.3)
ax.legend()
figure(fig, alt="Size of the cache against tokens read, 64 tokens: straight lines up to 32 KiB for 8 "
       "key/value heads, 8 for 2 and 4 for 1; with a window of 16 the line of 8 heads bends at 16 "
       "tokens and stays at 8 KiB.")

# %%
claim("Decoding with each of these caches gives what one pass gives (largest difference).",
      [errors[""] for errors in last_output.values()], below=1e-5, source="this cell", id=41)
claim("A rolling cache of w − 1 tokens is one too short: the result is wrong.",
      last_output["g = 8, w = 16"]["one less"], above=1e-3, source="this cell", id=41)
claim("The rolling cache holds w tokens however long the text (bytes at the end / formula).",
      grown["g = 8, w = 16"][-1] / (2 * 16 * 8 * 8 * 4), equals=1.0,
      source="Jiang et al. 2023, section 2; counted", id=41)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: sharing and windows
#
# 1. Move **KV heads** (key/value heads) through 1, 2, 4, 8. Lines: who reads whom. Table: which
#    numbers move, which do not?
# 2. Choose **local**, then move **width**. Which of the last two lines of the table follows?
# 3. With local windows, raise the number of **layers**, then the **width**. How many tokens has the
#    last one heard of?
# 4. **Hierarchical**, 4 query heads: how many layers until nothing of the text is missing? Are there
#    gaps on the way?
# 5. **Half local, half global**: what remains of the window's savings in the cache? With 2 key/value
#    heads, what could a separate cache for each of them forget?
# 6. Move **tokens, costs**. Which shares stay, which fall?

# %%
SharingExplorer(n_heads=8, n_kv_heads=2, kind="local", width=3)

# %%
explorer = SharingExplorer(n_heads=8, n_kv_heads=2, kind="mixed", width=3)
here, whole = explorer.costs["KV cache of all layers"]
claim("Half the heads local, half global, one cache for all: it is no smaller than sharing alone "
      "makes it (2 of 8 key/value heads).",
      here / whole, equals=0.25, source="the explorer's numbers, attnlab.cost", id=41)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 5.1: which key/value head? &nbsp; (●○○, 4 minutes)
#
# Return the number of the key/value head that query head `i` reads, when neighbours share.

# %% tags=["exercise"]
def which_head(i, n_heads, n_kv_heads):
    """Query head i (from 0) of n_heads -> the key/value head (from 0) that it reads."""
    # BEGIN SOLUTION
    return i // (n_heads // n_kv_heads)
    # END SOLUTION


# %%
check("5.1", which_head)

# %% [markdown] tags=["hint"]
# How many query heads are in a group?

# %% [markdown] tags=["hint"]
# With 8 and 2, heads 0 to 3 read 0: dividing $i$ by 4 and rounding down does it.

# %% [markdown]
# ### Exercise 5.2: how large is the cache? &nbsp; (●○○, 6 minutes)
#
# 48 layers, $d_{model} = 5120$, 40 query heads of $d_k = 128$, 8 key/value heads, bfloat16. One text
# of 4,096 tokens has been read. How many bytes does the cache hold?

# %% tags=["exercise"]
# BEGIN SOLUTION
# BLANK: n_bytes = ...  # a whole number
n_bytes = 2 * 48 * 4096 * 8 * 128 * 2
# END SOLUTION

# %%
check("5.2", n_bytes)

# %% [markdown] tags=["hint"]
# Which of the numbers above does the cache not depend on?

# %% [markdown] tags=["hint"]
# Keys and values, for each layer, token and key/value head: $d_k$ numbers of 2 bytes.

# %% [markdown]
# ### Exercise 5.3: a dilated causal window &nbsp; (●●○, 10 minutes)
#
# Return the mask of a causal head that sees keys at most `width` tokens back, in steps of `dilation`:
# itself, `dilation` back, `2 * dilation` back, and so on. True = may look at.

# %% tags=["exercise"]
def dilated_mask(n, width, dilation):
    """-> (n queries, n keys), boolean."""
    # BEGIN SOLUTION
    pos = torch.arange(n)
    back = pos[:, None] - pos[None, :]  # query - key
    return (back >= 0) & (back <= width) & (back % dilation == 0)
    # END SOLUTION


# %%
check("5.3", dilated_mask)

# %% [markdown] tags=["hint"]
# Three conditions, all on how far back the key is: query position minus key position.

# %% [markdown] tags=["hint"]
# `torch.arange(n)[:, None] - torch.arange(n)[None, :]` is that distance for all pairs.

# %% [markdown]
# ### Exercise 5.4: how many layers? &nbsp; (●●○, 8 minutes)
#
# All heads are causal and local with half-width `width`. How many layers must a model have before
# the last of `n` tokens can have heard of the first?

# %% tags=["exercise"]
def layers_needed(n, width):
    """Smallest number of layers; 0 if n is 1."""
    # BEGIN SOLUTION
    return -(-(n - 1) // width)
    # END SOLUTION


# %%
check("5.4", layers_needed)

# %% [markdown] tags=["hint"]
# How many tokens back does the information travel in one layer? How many must it travel?

# %% [markdown] tags=["hint"]
# $n - 1$ tokens, $w$ in each layer, rounded up: `-(-a // b)` or `math.ceil(a / b)`.

# %% [markdown]
# ### Exercise 5.5: from many heads to few &nbsp; (●●●, 12 minutes)
#
# `w` holds the $W^K$ (or $W^V$) of all heads, `(n_heads, d_model, d_head)`. Return what Ainslie et al.
# start from: `(n_kv_heads, d_model, d_head)`.

# %% tags=["exercise"]
def pool(w, n_kv_heads):
    """(n_heads, d_model, d_head) -> (n_kv_heads, d_model, d_head)."""
    # BEGIN SOLUTION
    return w.unflatten(0, (n_kv_heads, -1)).mean(dim=1)
    # END SOLUTION


# %%
check("5.5", pool)

# %% [markdown] tags=["hint"]
# The heads of a group are neighbours. Cut the first axis in two: groups, and members of a group.

# %% [markdown] tags=["hint"]
# `w.unflatten(0, (n_kv_heads, -1))` is `(groups, members, d_model, d_head)`.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | | key/value heads | cache | parameters of the layer | operations, scores and values |
# |---|---|---|---|---|
# | multi-head | $h$ | $2Lnh d_k b$ | $4d^2$ | $4n^2d$ |
# | grouped-query | $g$ | $\times\, g/h$ | $d^2(2 + 2g/h)$ | $4n^2d$ |
# | multi-query | 1 | $\times\, 1/h$ | $d^2(2 + 2/h)$ | $4n^2d$ |
# | causal window $w$, as a mask | any | $w$ tokens instead of $n$ | as before | $4n^2d$ |
# | causal window $w$, in blocks | any | $w$ tokens instead of $n$ | as before | grows as $n\,w$ |
#
# - Query head $i$ reads key/value head $i // (h/g)$; some libraries deal them out in turn.
# - Sharing divides what decoding must read. It leaves the operations of scores and values as they are.
# - What one source token can send has rank $g\,d_k$.
# - Receptive field: $2wL + 1$, causal $wL + 1$.
#
# ### Questions
#
# *How do grouped and multi-query attention trade efficiency against expressivity?* (Review question 2
# of the course.) They divide the cache, which every decoding step reads, by $h/g$, save parameters
# (44 % of the attention layer's with 8 heads and $g = 1$), and no operations in scores and values.
# They pay with rank: $g\,d_k$ instead of $h\,d_k$. In a small layer multi-query was slower to learn
# in every one of five seeds, and more steps made up for it; in a larger one no loss showed. A trained
# model can be converted, not for free: here pooling alone broke it, and training on mended it faster
# than starting anew. (Costs on real devices: [notebook 14](14-what-attention-costs.ipynb).)
#
# *Which models use which?* Shazeer proposed multi-query attention in 2019; Ainslie et al. proposed
# grouped-query attention in 2023 as the middle way; Mistral 7B joins grouped heads and windows.
#
# ### Common misconceptions
#
# - "Multi-query attention computes fewer scores": as many as before.
# - "The point of sharing is fewer parameters": the point is the cache.
# - "Multi-query keeps the expressivity": the rank falls to $d_k$. "So it must lose": not if the task
#   fits, and there is time to learn it.
# - "Heads in a group are related": they need only be neighbours.
# - "A local mask makes attention linear": only if hidden scores are not computed.
# - "With windows, $L$ layers see $w^L$ tokens": $2wL + 1$.
#
# ### Further reading
#
# - Shazeer 2019, *Fast Transformer Decoding: One Write-Head is All You Need*: sections 2.4 and 3.
# - Ainslie et al. 2023, *GQA*: section 2.1 (pooling), Table 1, Figure 5, appendix A.
# - Beltagy et al. 2020, *Longformer*: section 3.1 (windows, dilation), appendix A (implementation).
# - Jiang et al. 2023, *Mistral 7B*: section 2 (window and rolling cache).
#
# **Next:** [notebook 6](06-the-order-problem.ipynb) begins with positions. Back to
# [the start](00-start-here.ipynb).
