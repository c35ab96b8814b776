# %% [markdown] slideshow={"slide_type": "slide"}
# # 14. What attention costs
#
# **Where do the operations, the bytes and the time of an attention layer go, and which of them can you
# save?**
#
# When you have worked through this notebook you can
#
# - count parameters, operations and memory of a layer, forward, in training and in decoding;
# - say what each positional encoding adds in operations, bytes and memory;
# - tell fused from merely concatenated, and repair a cache that is broken in six ways;
# - compute attention in half precision without overflow;
# - say for your own device whether a layer waits for arithmetic or for memory.
#
# *You need:* [notebook 2](02-many-heads.ipynb); [notebook 5](05-sharing-and-scales.ipynb),
# [notebook 10](10-relative-positions.ipynb) and [notebook 11](11-rope.ipynb) help.
# *To study:* 90 minutes. *To lecture:* 50 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import statistics
from collections import Counter

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import attnlab
from attnlab import bench, cost, positions, roofline
from attnlab.exercises import check
from attnlab.explorers import CostExplorer
from attnlab.measure import Clock, peak_bytes
from attnlab.teach import claim, figure, predict
from attnlab.train import one_thread

torch.manual_seed(0)
CPU = torch.device("cpu");

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Operations
#
# A product of shapes $(a, b)$ and $(b, c)$ takes $2abc$ floating-point operations, **FLOPs**: a
# multiplication and an addition for each of the $abc$ terms. For $n$ tokens and $h$ heads of $d_k$
# numbers, with $d = d_{model} = h\,d_k$, one layer of attention takes
#
# | product | shapes | FLOPs |
# |---|---|---|
# | $Q, K, V$ | $(n, d)\,(d, 3d)$ | $6nd^2$ |
# | scores $QK^\top$, all heads | $h$ times $(n, d_k)\,(d_k, n)$ | $2n^2d$ |
# | weights times $V$ | $h$ times $(n, n)\,(n, d_k)$ | $2n^2d$ |
# | output $W^O$ | $(n, d)\,(d, d)$ | $2nd^2$ |
#
# Together $8nd^2 + 4n^2d$. One often reads $O(h\,n^2 d_k + h\,n\,d_{model}\,d_k)$, which is the
# same in orders of growth if $d_v$ is about $d_k$. Orders of growth do not say who wins at your
# $n$.

# %%
guess = predict(
    "One attention layer, d_model = 512, a text of 512 tokens. Which share of its FLOPs are the scores "
    "and the weights times V, the part with n²?",
    ["under a tenth", "about a third", "about two thirds", "nearly all: attention dominates"],
    id="14-share",
)
guess

# %%
def products(run):
    """FLOPs of the matrix products of run(), by PyTorch's counter."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def work(n, kind="forward", batch=1, **sizes):
    """A layer of these sizes, and a function that does the work once."""
    layer = cost.Layer(**{"d_model": 512, "n_heads": 8, **sizes})
    return layer, roofline.workload(layer, n, kind, batch)


shares, formula = {}, []
for n in (256, 512, 1024):
    total = products(work(n)[1])
    formula.append(total / (8 * n * 512**2 + 4 * n**2 * 512))
    shares[n] = 1 - 8 * n * 512**2 / total
print({n: f"{share:.0%}" for n, share in shares.items()})

# %%
guess.reveal(
    min(range(4), key=lambda i: abs(shares[512] - (0.05, 0.33, 0.67, 0.95)[i])),
    "4n²d against 8nd²: the share is n / (2d + n). Scores overtake the projections at n = 2d.",
)

# %%
claim("A layer takes 8nd² + 4n²d FLOPs (counted / formula, n = 256, 512, 1,024).", formula, equals=1.0,
      source="counted by PyTorch", id=106)
claim("The share of scores and values is n/(2d + n): 20, 33, 50 % here (counted / formula).",
      [share / (n / (2 * 512 + n)) for n, share in shares.items()], expect=1.0, atol=1e-9,
      source="counted by PyTorch", id=107)
small, n = 64, 6 * 64  # n = 6d
ffn = nn.Sequential(nn.Linear(small, 4 * small), nn.GELU(), nn.Linear(4 * small, small))
ffn_flops = products(lambda: ffn(torch.randn(n, small)))
whole_layer = products(work(n, d_model=small)[1]) + ffn_flops
claim("The feed-forward part of a transformer layer, d → 4d → d, takes 16nd². With it, scores and values "
      "are half of the layer at n = 6d (counted / formula; share).",
      [ffn_flops / (16 * n * small**2), 4 * n**2 * small / whole_layer], equals=[1.0, 0.5],
      source="counted by PyTorch", id=107)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Parameters, and what they do not tell
#
# The four matrices have $4d^2$ parameters ([notebook 2](02-many-heads.ipynb)); the feed-forward part has
# $8d^2$. Each parameter takes part in one multiplication and one addition for each token: 2 FLOPs, and
# that is the $8nd^2$. Scores have no parameters, so no parameter count shows the $4n^2d$.

# %%
counted, by_parameter = [], []
for n_kv_heads in (8, 2, 1):
    layer, run = work(1024, n_kv_heads=n_kv_heads)
    told = cost.layer_cost(layer, 1024).flops
    matrices = cost.attention_parameters(512, 8, n_kv_heads=n_kv_heads)
    counted.append(told["total"] / products(run))
    by_parameter.append((told["projections"] + told["output"]) / (2 * matrices * 1024))
claim("attnlab.cost counts what PyTorch counts; the projections take 2 FLOPs for each parameter and token "
      "(8, 2 and 1 key/value heads).", counted + by_parameter, equals=1.0, source="counted by PyTorch",
      id=106)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The way back
#
# Of memory one reads that gradients are "same as forward pass". Take the operations first.

# %%
guess = predict(
    "A training step runs forward, then backward. How many operations does the way back take, against "
    "the way forward?",
    ["half as many", "the same", "twice as many", "n times as many"],
    id="14-backward",
)
guess

# %%
back = [
    (products(work(n, "training")[1]) - products(work(n)[1])) / products(work(n)[1])
    for n in (64, 256, 1024)
]
print("backward / forward:", back)

# %%
guess.reveal({0.5: 0, 1.0: 1, 2.0: 2}.get(round(back[0], 3), 3),
             "A product C = A B needs two products on the way back: dA = dC Bᵀ and dB = Aᵀ dC.")

# %%
claim("The backward pass takes twice the FLOPs of the forward pass (n = 64, 256, 1,024).", back,
      equals=2.0, source="counted by PyTorch", id=105)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Memory
#
# What has to be held? The usual answer: attention matrices, $h\,n^2$, dominant for long sequences.
# In float32, with $n = 2048$ and $h = 8$, one such matrix has $8 \cdot 2048^2$ numbers of 4 bytes,
# 134 million bytes.
#
# There are two ways to the same output. **Dense** forms the scores and the weights as matrices. **Fused**
# is one kernel (a program that the device runs in one go): it takes the keys in blocks and forms no whole
# matrix on the way forward. [Notebook 15](15-attention-without-the-matrix.ipynb) is about it.
#
# The gradient needs the weights again, and autograd keeps what the way back will need. PyTorch lets us
# look at every tensor that is kept.

# %%
guess = predict(
    "d_model = 256, 8 heads. From 512 to 1,024 tokens, what is saved for the way back grows about …",
    ["four times, dense and fused: the gradient needs the weights", "four times dense, twice fused",
     "twice, dense and fused"],
    id="14-saved",
)
guess

# %%
def saved_bytes(n, backend):
    """Bytes of all tensors that autograd keeps for the way back, each piece of memory once."""
    attention = attnlab.MultiHeadAttention(d_model=256, n_heads=8)
    attention.backend = backend
    parameters = {p.untyped_storage().data_ptr() for p in attention.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = attention(torch.randn(1, n, 256))
    assert out.requires_grad  # the graph, and all that it keeps, lives until here
    return sum(n_bytes for n_bytes, _ in kept.values())


saved = {b: [saved_bytes(n, b) for n in (512, 1024)] for b in ("dense", "fused")}
for backend, values in saved.items():
    print(backend, [f"{value / 1e6:.1f} MB" for value in values])

# %%
growth = {b: values[1] / values[0] for b, values in saved.items()}
guess.reveal(
    0 if min(growth.values()) > 3 else 1 if growth["dense"] > 3 else 2,
    "The weights, h·n² numbers, are most of what a dense layer keeps. A fused kernel keeps queries, keys, "
    "values, heads and one number for each row, and forms the rest anew.",
)

# %%
claim("Most of what dense keeps for the way back is the weights (h·n²·4 bytes / all, n = 1,024).",
      8 * 1024**2 * 4 / saved["dense"][1], between=(0.8, 1.0), source="counted in autograd's graph",
      id=104)
claim("Fused keeps less than a sixth of it, and twice as much for twice the text.",
      [saved["fused"][1] / saved["dense"][1] < 1 / 6, 1.9 < growth["fused"] < 2.1], equals=True,
      source="counted in autograd's graph", id=88)
dense, fused = (
    cost.layer_flops(cost.Layer(512, 8, backend=b), 2048, "training") for b in ("dense", "fused")
)
claim("The price: fused forms the scores once more on the way back. At 2,048 tokens (d = 512) a training "
      "step takes 11 % more FLOPs.", fused["total"] / dense["total"], expect=1.111, atol=0.001,
      source="attnlab.cost; Dao et al. 2022, section 3.1", id=105)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The most at once
#
# What is held at the worst moment decides whether a layer fits. PyTorch reports every allocation; we add
# up and take the highest point, and compare with what `attnlab.cost` predicts from the sizes. In training
# 4 MiB of it are the gradients of the $4d^2$ parameters, however short the text.

# %%
lengths = (128, 256, 512, 1024)
peaks = {}
with one_thread():  # each thread of a kernel has working space of its own
    for kind in ("forward", "training"):
        for backend in ("dense", "fused"):
            for n in lengths:
                layer, run = work(n, kind, backend=backend)
                peaks[kind, backend, n] = (
                    peak_bytes(run, CPU), cost.peak_memory(layer, n, kind)["total"]
                )

fig, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
looks = {("training", "dense"): ("#d0820b", "o"), ("forward", "dense"): ("#d0820b", "s"),
         ("training", "fused"): ("#0a8a60", "o"), ("forward", "fused"): ("#0a8a60", "s")}
for (kind, backend), (colour, marker) in looks.items():
    measured = [peaks[kind, backend, n][0] / 2**20 for n in lengths]
    told = [peaks[kind, backend, n][1] / 2**20 for n in lengths]
    beyond = cost.peak_memory(cost.Layer(512, 8, backend=backend), 4096, kind)["total"] / 2**20
    ax.loglog((*lengths, 4096), [*told, beyond], "-" if kind == "training" else "--", color=colour, lw=2)
    ax.loglog(lengths, measured, marker, color=colour, ms=8, label=f"{backend}, {kind}")
ax.set_xticks((*lengths, 2048, 4096), [f"{n:,}" for n in (*lengths, 2048, 4096)])
ax.minorticks_off()
ax.set_xlabel("tokens n")
ax.set_ylabel("held at once (MiB)")
ax.grid(alpha=0.3)
ax.legend(title="marks: measured, lines: attnlab.cost")
figure(fig, alt="Memory held at once against tokens, 128 to 4,096, both axes logarithmic. The dense lines rise "
       "steeply, with n squared, to above 1,500 MiB in training; the fused ones with n, to below 80 MiB, in "
       "training from 5 MiB on. The marks, up to 1,024 tokens, lie on the lines or close to them.")

# %%
claim("Dense: the prediction from the sizes is right within 5 % (predicted / measured, all lengths).",
      [told / measured for (_, b, _), (measured, told) in peaks.items() if b == "dense"],
      between=(0.95, 1.05), source="PyTorch's allocations", id=104)
claim("Fused: within a fifth (a kernel needs working space).",
      [told / measured for (_, b, _), (measured, told) in peaks.items() if b == "fused"],
      between=(0.8, 1.2), source="PyTorch's allocations", id=88)
matrix = 8 * 1024**2 * 4
claim("Forward alone holds no more than two matrices of h·n² at once, scores and weights (held / h·n²·4 "
      "bytes, n = 1,024).", peaks["forward", "dense", 1024][0] / matrix, between=(2.0, 2.3),
      source="this cell", id=105)
claim("A training step holds three: the weights, their gradient, that of the scores. So 'gradients: same "
      "as forward pass' is not exact (held / h·n²·4 bytes).",
      peaks["training", "dense", 1024][0] / matrix, between=(3.0, 3.5), source="this cell", id=105)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What a mask saves
#
# Nothing by itself: the scores are computed, then hidden ([notebook 5](05-sharing-and-scales.ipynb)). To
# save, hidden blocks must be left out. `attnlab` does so where a bias has to be added to causal attention:
# each block of 256 queries meets all keys up to the last one that the block may see.

# %%
guess = predict(
    "2,048 tokens, causal, in blocks of 256 queries. Which share of the FLOPs for all pairs remains?",
    ["1/8", "1/2", "9/16", "all"],
    id="14-blocks",
)
guess

# %%
q, k, v = (torch.randn(1, 2, 2048, 64) for _ in range(3))  # (batch, heads, tokens, d_k)
alibi = positions.make("alibi", d_model=128, n_heads=2)


def attend(causal, backend, **options):
    return lambda: attnlab.scaled_dot_product_attention(
        q, k, v, causal=causal, backend=backend, **options)


with torch.no_grad():
    full, masked = (products(attend(causal, "dense")) for causal in (False, True))
    skipped = products(attend(True, "fused", encoding=alibi))
    blocked = products(attend(True, "blocked", windows=128))
    same = [
        (attend(True, "dense", **o)() - attend(True, b, **o)()).abs().max()
        for b, o in (("fused", {"encoding": alibi}), ("blocked", {"windows": 128}))
    ]
print("in blocks / all pairs:", skipped / full)

# %%
guess.reveal(min(range(4), key=lambda i: abs(skipped / full - (1 / 8, 1 / 2, 9 / 16, 1)[i])),
             "Block i of 8 meets i blocks of keys: (1 + 2 + … + 8) / 64 = 36/64.")

# %%
claim("Dense, a mask saves no FLOPs (with / without).", masked / full, equals=1.0,
      source="counted by PyTorch", id=41)
claim("In blocks of 256 queries, causal attention with ALiBi takes (1 + 256/2048)/2 of them, a window of "
      "128 an eighth.", (skipped / full, blocked / full), equals=((1 + 256 / 2048) / 2, 1 / 8),
      source="counted by PyTorch", id=41)
claim("The output is that of dense attention (largest difference).", same, below=1e-5,
      source="this cell", id=41)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What positions cost
#
# A common table compares three encodings: sinusoidal "memory $O(1)$, one-time calculation", learned
# "$O(n)$, simple lookup", RoPE "memory $O(1)$, computed on the fly".

# %%
guess = predict(
    "A learned table is looked up and added to n token vectors of d numbers. What is that work?",
    ["about n steps: one lookup for each token", "about n·d steps: every number is copied and added",
     "about n·d² steps, as a projection"],
    id="14-lookup",
)
guess

# %%
class Counted(TorchDispatchMode):
    """How often each operation runs, and how many numbers it writes (views write none)."""

    def __init__(self):
        super().__init__()
        self.calls, self.written = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.calls[name] += 1
        if isinstance(out, torch.Tensor) and out.is_floating_point() and not out._is_view():
            self.written[name] += out.numel()
        return out


def added(name, n, d):
    """What an encoding writes when it is added for the second time (its table is there)."""
    encoding = positions.make(name, d_model=d, n_heads=1, max_len=4096)
    x, pos = torch.randn(1, n, d), torch.arange(n)
    with torch.no_grad():
        encoding.embed(x, pos)
        with Counted() as seen:
            encoding.embed(x, pos)
    return seen.written


for name in ("learned", "sinusoidal"):
    print(name, dict(added(name, 100, 64)))
wider = sum(added("learned", 100, 128).values()) / sum(added("learned", 100, 64).values())

# %%
guess.reveal({1.0: 0, 2.0: 1, 4.0: 2}[wider],
             "Twice the width, twice the work: a row is d numbers. (Four times would be n·d².)")

# %%
claim("Lookup and addition write 2·n·d numbers (written / 2·n·d, three sizes).",
      [sum(added("learned", n, d).values()) / (2 * n * d) for n, d in ((100, 64), (100, 128), (300, 64))],
      equals=1.0, source="counted operation by operation", id=108)
claim("With a sinusoidal table that is there already it is n·d: the addition alone (written / n·d).",
      sum(added("sinusoidal", 100, 64).values()) / (100 * 64), equals=1.0,
      source="counted operation by operation", id=108)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The whole registry
#
# `attnlab.cost` knows what every encoding adds to one layer. FLOPs and bytes (read and written) are given
# beside those of the layer without positions, fused where the encoding allows it; the peak is all that the
# layer holds at its worst moment beyond its parameters.

# %%
guess = predict(
    "RoPE takes 0.15 % of the FLOPs of the four projections. How many bytes does it move, done operation by "
    "operation, against all the rest of a fused layer?",
    ["more than all the rest", "about 10 %", "about 0.15 %, as with FLOPs"],
    id="14-rope",
)
guess

# %%
N = 2048
plain = {b: cost.layer_cost(cost.Layer(512, 8, backend=b, max_len=N), N) for b in ("dense", "fused")}
print(f"n = {N:,}, d_model = 512, 8 heads, float32, forward\n")
print(f"{'encoding':20s}{'parameters':>11s}{'FLOPs':>9s}{'bytes':>9s}{'peak, fused':>13s}{'peak, dense':>13s}")
rows = {}
for name in positions.names():
    possible = ("dense",) if name == "shaw" else ("dense", "fused")
    of = {b: cost.layer_cost(cost.Layer(512, 8, encoding=name, backend=b, max_len=N), N) for b in possible}
    best, base = of[possible[-1]], plain[possible[-1]]
    r = rows[name] = {
        "parameters": best.parameters - base.parameters,
        "flops": (best.flops["encoding"] + best.elementwise["encoding"]) / base.flops["total"],
        "bytes": best.moved["encoding"] / base.moved["total"],
        **{b: of[b].peak["total"] / 2**20 for b in possible},
    }
    peak = [f"{r[b]:,.0f} MiB" if b in r else "-" for b in ("fused", "dense")]
    print(f"{name:20s}{r['parameters']:11,}{r['flops']:9.2%}{r['bytes']:9.0%}{peak[0]:>13s}{peak[1]:>13s}")

# %%
share = rows["rope"]["bytes"]
guess.reveal(2 if share < 0.02 else 1 if share < 0.5 else 0,
             "Each number is read and written again for every one or two operations. Where memory is what one "
             "waits for, FLOPs say little.")

# %% [markdown]
# - Few FLOPs, below 2 % everywhere, but many bytes. Every number that is turned or added is read and
#   written for one or two operations, where a product uses each number hundreds of times.
# - Sinusoidal is not free either: fused, it holds its table and the sum, $nd$ numbers or 4 MiB each.
# - RoPE has no parameters, but it is at work in every layer, on queries and keys, and keeps the turned
#   copies for the way back. "Memory $O(1)$" leaves out the table of cosines and sines too.
# - A bias depends on the offset alone: $2n - 1$ numbers for each head. Written out as a matrix (dense) it
#   is $h\,n^2$. Dense Sandwich is the largest: it makes 64 angles for each pair, and their cosines.
# - Shaw adds vectors to the values, in proportion to the weights, so it needs the weights: dense only.

# %%
rope, flops = rows["rope"], cost.layer_flops(cost.Layer(512, 8), N)
turned = cost.elementwise_flops(cost.Layer(512, 8, encoding="rope"), N)["encoding"]
claim("RoPE: no parameters, and 0.15 % of the FLOPs of the four projections.",
      [rope["parameters"], round(turned / (flops["projections"] + flops["output"]), 4)],
      equals=[0, 0.0015], source="attnlab.cost", id=76)
claim("Done operation by operation, it moves more bytes than all the rest of a fused layer (bytes / rest).",
      rope["bytes"], above=1.0, source="attnlab.cost", id=76)
with one_thread():
    held = {name: peak_bytes(work(N, "training", encoding=name, backend="fused")[1], CPU)
            for name in ("none", "rope")}
claim("RoPE's memory grows with n·d: a training step holds two more tensors of n·d numbers, and the table "
      "(more held, in n·d·4 bytes; measured).",
      (held["rope"] - held["none"]) / (N * 512 * 4), between=(2.0, 2.6),
      source="PyTorch's allocations", id=77)
step = cost.elementwise_flops(cost.Layer(512, 8, encoding="rope"), 4096, "decoding")["encoding"]
claim("In decoding it is at work at every step; attnlab keeps keys unturned and turns all of them "
      "(operations of one step / 3·(n + 1)·d, n = 4,096).", step / (3 * 4097 * 512), equals=1.0,
      source="attnlab.cost", id=76)

# %% [markdown]
# (Notebook 11 kept the keys turned, which saves this. `attnlab`'s cache serves every encoding and
# keeps keys as they leave the projection.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## "Fused" projections
#
# The word has a second use, for projections. One finds the heads combined "into single operations"
# with `torch.cat`, which joins results that are there already. To fuse is to join the *matrices*,
# once, when the layer is built ([notebook 2](02-many-heads.ipynb)):

# %%
heads = 8
x = torch.randn(512, 512)  # (tokens, d_model)
q_projections = [nn.Linear(512, 64, bias=False) for _ in range(heads)]
k_projections = [nn.Linear(512, 64, bias=False) for _ in range(heads)]
v_projections = [nn.Linear(512, 64, bias=False) for _ in range(heads)]


def joined_results(x):
    all_queries = torch.cat([q_proj(x) for q_proj in q_projections], dim=-1)
    all_keys = torch.cat([k_proj(x) for k_proj in k_projections], dim=-1)
    all_values = torch.cat([v_proj(x) for v_proj in v_projections], dim=-1)
    return all_queries, all_keys, all_values


weight = torch.cat([p.weight for p in (*q_projections, *k_projections, *v_projections)])  # (1536, 512)


def one_product(x):
    return (x @ weight.T).chunk(3, dim=-1)


with Counted() as by_head, torch.no_grad():
    separate = joined_results(x)
with Counted() as once, torch.no_grad():
    together = one_product(x)
claim("Products and concatenations: head by head, joined with torch.cat, and as one product.",
      (by_head.calls["mm"], by_head.calls["cat"], once.calls["mm"], once.calls["cat"]),
      equals=(24, 3, 1, 0), source="counted while it ran", id=109)
claim("The numbers are the same (largest difference).",
      max((a - b).abs().max() for a, b in zip(separate, together, strict=True)), below=1e-5,
      source="this cell", id=109)


def median_seconds(*runs, rounds=15, times=20):
    """Median seconds of each of several runs, in turn, on one thread."""
    clock, found = Clock(CPU), [[] for _ in runs]
    with one_thread(), torch.no_grad():
        for _ in range(rounds):
            for run, into in zip(runs, found, strict=True):
                into.append(clock(run, times))
    return [statistics.median(values) for values in found]


token = x[:1]
slow, quick = median_seconds(lambda: joined_results(token), lambda: one_product(token))
claim("For one token, as in decoding, one product takes less time than 24.",
      quick < slow, equals=True, source="timed here", id=109)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A cache, and what is wrong with it
#
# A program may compute a table of positions once and keep it. The idea is right. Here is such a
# class:

# %%
class PositionEncodingCache:
    def __init__(self, d_model, max_len=5000):
        self.register_buffer("pe", self._generate_pe(d_model, max_len))

    def forward(self, x):
        return x + self.pe[: x.size(1)]


# %%
guess = predict(
    "You copy this class, make one with d_model = 64, and call it on a text. What happens?",
    ["it works", "it works up to 5,000 tokens, then an error", "an error when it is called",
     "an error as soon as it is made"],
    id="14-cache",
)
guess

# %%
def trouble(run):
    """The error that run() raises, or "no error"."""
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return "no error"


making = trouble(lambda: PositionEncodingCache(64))
works = [trouble(lambda n=n: PositionEncodingCache(64)(torch.zeros(1, n, 64))) == "no error"
         for n in (10, 5001)]
print("making it:", making)

# %%
guess.reveal(
    3 if making != "no error" else 2 if not works[0] else 1 if not works[1] else 0,
    "And that is only the first of its faults.",
)

# %% [markdown]
# 1. It is no `nn.Module`, so it has no `register_buffer`.
# 2. As a Module, it lacks the method that makes the table.
# 3. With that, a Module must be initialised before anything is stored in it.

# %%
def sinusoids(d_model, max_len):
    angle = torch.arange(max_len)[:, None] * 10_000 ** (-torch.arange(0, d_model, 2) / d_model)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # (max_len, d_model)


class Cache2(nn.Module):  # 1 is mended
    def __init__(self, d_model, max_len=5000):
        self.register_buffer("pe", self._generate_pe(d_model, max_len))


class Cache3(nn.Module):  # 1 and 2 are mended
    def __init__(self, d_model, max_len=5000):
        self.register_buffer("pe", sinusoids(d_model, max_len))


failures = [trouble(lambda made=made: made(64)) for made in (PositionEncodingCache, Cache2, Cache3)]
print(*failures, sep="\n")

# %% [markdown]
# With that mended it runs, and is still wrong:
#
# 4. `x.size(1)` is right for (batch, tokens, d_model) only. Given (tokens, batch, d_model), nothing
#    complains.
# 5. A text longer than the table raises an error. With a table of one row it does not, and every token
#    gets position 0.
# 6. The table is float32. Half-precision input comes out as float32, and all that follows takes twice the
#    memory.

# %%
class Cache4(nn.Module):  # 1, 2 and 3 are mended
    def __init__(self, d_model, max_len=5000):
        super().__init__()
        self.register_buffer("pe", sinusoids(d_model, max_len))

    def forward(self, x):
        return x + self.pe[: x.size(1)]


cache = Cache4(64)
out = cache(torch.zeros(10, 2, 64))  # 10 tokens, 2 texts
print("tokens 0 and 5 of one text get the same position:", torch.equal(out[0, 0], out[5, 0]))
print("tokens 0 of both texts get the same position:", torch.equal(out[0, 0], out[0, 1]))
long_error = trouble(lambda: Cache4(64, max_len=8)(torch.zeros(1, 9, 64)))
short = Cache4(64, max_len=1)(torch.zeros(1, 9, 64))
print(long_error, "\none row for all:", (short == short[:, :1]).all().item())
half = cache(torch.zeros(1, 5, 64, dtype=torch.float16))
print("float16 in,", half.dtype, "out; saved with the model:", list(cache.state_dict()))

# %%
claim("The class fails three times before it runs.",
      [word in error for word, error in zip(("register_buffer", "_generate_pe", "before Module.__init__"),
                                            failures, strict=True)],
      equals=True, source="the cells above", id=110)
claim("Then it is wrong three times without a word (time first, one row for all, half precision), and "
      "raises an error where sines could go on for ever.",
      [torch.equal(out[0, 0], out[5, 0]) and not torch.equal(out[0, 0], out[0, 1]),
       (short == short[:, :1]).all(), half.dtype == torch.float32, "must match the size" in long_error],
      equals=True, source="the cell above", id=110)

# %% [markdown]
# `attnlab` keeps no buffer: it remembers the last table, with the positions and the type that it was made
# for. Exercise 14.4 asks you for the class, repaired.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Half precision
#
# float16 and bfloat16 take 2 bytes instead of 4. Whether they are also quicker depends on the type and the
# device; results follow below. They share their 16 bits differently:
#
# | type | largest number | next number after 1 |
# |---|---|---|
# | float32 | $3.4\cdot 10^{38}$ | $1 + 1.2\cdot 10^{-7}$ |
# | float16 | 65,504 | $1 + 0.00098$ |
# | bfloat16 | $3.4\cdot 10^{38}$ | $1 + 0.0078$ |
#
# A common recipe computes attention in float16: `matmul(q, k.T) / sqrt(d_k)`, then softmax.

# %%
guess = predict(
    "Four tokens; all queries and keys are 64 numbers of 40, so all scores are 64·40·40/8 = 12,800, well "
    "below 65,504. Computed in float16 as above, the weights are …",
    ["NaN", "0 and 1", "0.25 each", "an error"],
    id="14-float16",
)
guess

# %%
def weights_of(dtype, scale_first=False):
    q = torch.full((4, 64), 40.0, dtype=dtype)
    k = q.clone()
    scores = (q / 8) @ k.T if scale_first else q @ k.T / 8
    return scores, scores.softmax(-1)


for dtype in (torch.float16, torch.bfloat16):
    for first in (False, True):
        scores, weights = weights_of(dtype, first)
        print(f"{dtype}, {'scale q first' if first else 'divide after'}: score {scores[0, 0].item():g}, "
              f"weight {weights[0, 0].item():g}")

# %%
found = weights_of(torch.float16)[1][0, 0]
guess.reveal(0 if found.isnan() else 2 if abs(found - 0.25) < 0.01 else 1,
             "64·40·40 = 102,400 overflows to inf before it is divided, and softmax of inf is inf − inf. "
             "Scale the queries first, or take bfloat16, or let a fused kernel do it in float32.")

# %%
claim("Divided after the product: inf in float16, and NaN weights. Scaled first, or in bfloat16: 0.25.",
      [weights_of(torch.float16)[0].isinf().all(), weights_of(torch.float16)[1].isnan().all(),
       (weights_of(torch.float16, True)[1] == 0.25).all(), (weights_of(torch.bfloat16)[1] == 0.25).all()],
      equals=True, source="this cell", id=111)
row = torch.full((1, 1, 4, 64), 40.0, dtype=torch.float16)
claim("torch's own attention, fused, gives the right output for such float16 input: 40.",
      F.scaled_dot_product_attention(row, row, row).unique().tolist(), equals=[40.0], source="this cell",
      id=111)
mask_error = trouble(lambda: torch.zeros(2, 2, dtype=torch.float16).masked_fill(torch.eye(2) == 0, -1e9))
claim("A mask of −1e9 does not fit into float16: an error.", "overflow" in mask_error, equals=True,
      source="this cell", id=111)
print(mask_error)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### What autocast does
#
# `torch.autocast` chooses a type for each operation: products in half precision, and for some operations
# float32. Which, depends on the device. (Older code writes `torch.cuda.amp.autocast()`; that
# spelling is deprecated: `torch.autocast("cuda")`.)

# %%
with torch.autocast("cpu", dtype=torch.bfloat16):
    scores = torch.randn(8, 64) @ torch.randn(64, 8)
    on_cpu = scores.softmax(-1).dtype
    _, ours = attnlab.scaled_dot_product_attention(
        *torch.randn(3, 1, 1, 8, 64).bfloat16(), return_weights=True)
claim("On a CPU autocast multiplies in bfloat16 and leaves softmax in bfloat16.",
      [scores.dtype == torch.bfloat16, on_cpu == torch.bfloat16], equals=True, source="this cell", id=111)
claim("attnlab computes weights in float32, for bfloat16 input and under autocast too.",
      ours.dtype == torch.float32, equals=True, source="this cell", id=111)
no_cuda = "" if torch.cuda.is_available() else "There is no CUDA device here."
on_gpu = []
if not no_cuda:
    with torch.autocast("cuda"):
        gpu = torch.randn(8, 64, device="cuda") @ torch.randn(64, 8, device="cuda")
        on_gpu = [gpu.dtype == torch.float16, gpu.softmax(-1).dtype == torch.float32]
claim("On CUDA autocast multiplies in float16 and computes softmax in float32.", on_gpu, equals=True,
      source="PyTorch's list of operations; this cell", id=111, skip=no_cuda)

# %% [markdown]
# Does it matter in which type weights are stored?

# %%
exact = (3 * torch.randn(64, 512)).double().softmax(-1)
gap = torch.arange(0, 30, 0.5)  # between two scores
error, zero_from = {}, {}
for dtype in (torch.bfloat16, torch.float16):
    error[dtype] = ((exact.to(dtype).double() - exact) / exact).abs().median().item()
    smaller = torch.stack([torch.zeros_like(gap), -gap], -1).to(dtype).softmax(-1)[:, 1]
    zero_from[dtype] = gap[smaller == 0].min().item() if (smaller == 0).any() else None
    print(f"{dtype}: median relative error {error[dtype]:.1e}, weight 0 from a gap of {zero_from[dtype]}")
claim("Weights stored in bfloat16 are off by more than a thousandth (median relative error).",
      error[torch.bfloat16], between=(1e-3, 2.5e-3), source="this cell", id=111)
claim("In float16 a weight is 0 once its score is 17.5 below the largest; in bfloat16, up to 29.5, "
      "it is not.", [zero_from[torch.float16], zero_from[torch.bfloat16]], equals=[17.5, None],
      source="this cell", id=111)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Positions in half precision
#
# Angles computed in 16 bits spoil a sinusoidal table ([notebook 7](07-sinusoidal.ipynb)) and RoPE's scores
# ([notebook 11](11-rope.ipynb)) for one reason: the positions are rounded before any frequency sees them.
# bfloat16 has 8 significant bits, so from 256 on not every whole number exists.

# %%
whole = torch.arange(10_000)
omega = 10_000 ** (-torch.arange(0, 512, 2) / 512)  # (256,)
angle = whole[:, None] * omega  # float32
afterwards = torch.cat([angle.sin(), angle.cos()], -1).bfloat16()
claim("Of 10,000 positions bfloat16 tells 925 apart, float16 4,323. With angles in float32, and the table "
      "rounded afterwards, all rows differ.",
      [len(whole.bfloat16().unique()), len(whole.half().unique()), len(afterwards.unique(dim=0))],
      equals=[925, 4323, 10_000], source="this cell; compare Wang et al. 2024", id=52)
far = torch.tensor([8000, 8007]).bfloat16()
claim("RoPE would take the offset of the positions 8,000 and 8,007 in bfloat16 for 0.", far[1] - far[0],
      equals=0, source="this cell", id=73)

# %% [markdown]
# So: positions, angles and biases in float32 or more, products in half precision. `attnlab` makes its
# tables in float64.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Stable in any precision
#
# $$\mathrm{softmax}(s)_j = \frac{e^{s_j}}{\sum_k e^{s_k}} = \frac{e^{s_j - m}}{\sum_k e^{s_k - m}}
# = e^{s_j - \mathrm{lse}(s)},\qquad \mathrm{lse}(s) = \log \sum_k e^{s_k} = m + \log\sum_k e^{s_k - m}$$
#
# for any $m$. With $m = \max_k s_k$ no exponential is above 1, and at least one is 1, so the sum is
# neither infinite nor 0. Without, float32 overflows at $s = 89$.

# %%
s = torch.tensor([[100.0, 99.0, 0.0], [-200.0, -201.0, -202.0]])
naive = s.exp() / s.exp().sum(-1, keepdim=True)
claim("e⁸⁸ is a float32, e⁸⁹ is not. Without the maximum: NaN for scores near 100, and for scores near −200 "
      "(0 / 0). With it: fine.",
      [torch.tensor(88.0).exp().isfinite(), torch.tensor(89.0).exp().isinf(), naive[0].isnan().any(),
       naive[1].isnan().all(), s.softmax(-1).isfinite().all()], equals=True, source="this cell")
claim("Weights from the logsumexp are the same (largest difference).",
      ((s - s.logsumexp(-1, keepdim=True)).exp() - s.softmax(-1)).abs().max(), below=1e-5,
      source="this cell")

# %% [markdown]
# **Rows with nothing to see.** In a batch, a padded text may leave a query without any key. What is the
# softmax of nothing?

# %%
nothing = torch.full((1, 3), -torch.inf)
lowest = torch.full((1, 3), torch.finfo(torch.float32).min)
q, k, v = (torch.randn(1, 1, 3, 8) for _ in range(3))
see = torch.tensor([[True, False, False], [False, False, False], [True, True, True]])
v.requires_grad_()
ours = attnlab.scaled_dot_product_attention(q, k, v, mask=see)
ours.sum().backward()
claim("softmax of a row of −∞ is NaN; of a row of the lowest finite number, uniform: hidden keys are read.",
      [nothing.softmax(-1).isnan().all(), (lowest.softmax(-1) == lowest.softmax(-1)[0, 0]).all()],
      equals=True, source="this cell")
claim("attnlab gives zeros there, and finite gradients.",
      [(ours[0, 0, 1] == 0).all(), v.grad.isfinite().all()], equals=True, source="this cell")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What the time goes to: the roofline
#
# A device has two speeds: how many FLOPs a second it multiplies, $P$, and how many bytes a second it
# moves between processor and memory, $B$. Work of $F$ FLOPs and $M$ bytes takes no less than
#
# $$T \ge \max\!\left(\frac{F}{P}, \frac{M}{B}\right)$$
#
# **Arithmetic intensity** is $F/M$, in FLOPs per byte. Below the device's **ridge** $P/B$ the work waits
# for memory; above, for arithmetic. `attnlab.cost` counts matrix products for $F$, and $M$ as if every
# operation read its operands from memory and wrote its result: small tensors may stay in the processor and
# cost less. `attnlab.roofline` measures $P$ and $B$.

# %%
sizes = {
    "forward, 2,048 tokens, fused": (cost.Layer(512, 8, backend="fused"), 2048, "forward", 1),
    "decoding, 1 text": (cost.Layer(512, 8, backend="fused"), 4096, "decoding", 1),
    "decoding, 64 texts": (cost.Layer(512, 8, backend="fused"), 4096, "decoding", 64),
    "decoding, 64 texts, 1 key/value head":
        (cost.Layer(512, 8, n_kv_heads=1, backend="fused"), 4096, "decoding", 64),
}
whole = {name: cost.layer_cost(*options) for name, options in sizes.items()}
intensity = {name: of.intensity for name, of in whole.items()}
of = whole["forward, 2,048 tokens, fused"]
intensity["forward, the projections"] = of.flops["projections"] / of.moved["projections"]
intensity["forward, attention, dense"], intensity["forward, attention, fused"] = (
    (of.flops["scores"] + of.flops["values"])
    / (of.moved["scores"] + of.moved["softmax"] + of.moved["values"])
    for of in (plain["dense"], plain["fused"])
)
for name, value in intensity.items():
    print(f"{name:40s}{value:8.1f} FLOPs per byte")

# %%
claim("Forming the weights costs intensity: fused attention has more than 30 times as many FLOPs for each "
      "byte as dense (float32, 2,048 tokens).",
      intensity["forward, attention, fused"] / intensity["forward, attention, dense"], above=30,
      source="attnlab.cost; Dao et al. 2022", id=88)
step = products(work(1024, "decoding")[1])
claim("A decoding step takes 8d² + 4nd FLOPs, with n tokens in all (counted / formula, n = 1,024).",
      step / (8 * 512**2 + 4 * 1024 * 512), equals=1.0, source="counted by PyTorch", id=106)
claim("Decoding one text: about half a FLOP for each byte of float32. Everything is read for one token.",
      intensity["decoding, 1 text"], between=(0.4, 0.6), source="attnlab.cost", id=38)
claim("64 texts share the parameters, but each has its own cache: hardly more (64 texts / 1).",
      intensity["decoding, 64 texts"] / intensity["decoding, 1 text"], between=(1.0, 1.5),
      source="attnlab.cost", id=38)
claim("Sharing keys and values makes it seven times as much (1 key/value head / 8).",
      intensity["decoding, 64 texts, 1 key/value head"] / intensity["decoding, 64 texts"],
      between=(7.0, 7.5), source="attnlab.cost", id=38)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Your device
#
# We measure how fast *your* device multiplies and copies (a processor on one thread), and print which
# limit holds. The numbers themselves differ from device to device, and stand in the explorer below when
# you choose "this one, measured".

# %%
guess = predict(
    "Which limit holds on your device for the forward pass of 2,048 tokens (fused), and which for decoding one "
    "text?",
    ["arithmetic for the forward pass, memory for decoding", "memory for the forward pass, arithmetic for decoding",
     "arithmetic for both: attention is matrix products", "memory for both"],
    id="14-limit",
)
guess

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
rates = roofline.measure_rates(device, (torch.float32,), rounds=5)
limits = {name: roofline.time_limits(of, rates).which for name, of in whole.items()}
for name in ("forward, 2,048 tokens, fused", "decoding, 1 text"):
    print(f"{name}: limited by {limits[name]}")

# %%
both = limits["forward, 2,048 tokens, fused"], limits["decoding, 1 text"]
guess.reveal(
    [("compute", "memory"), ("memory", "compute"), ("compute", "compute"), ("memory", "memory")].index(both),
    "A device with faster products speeds up the one and leaves the other as it is: what helps depends on the "
    "limit.",
)

# %%
claim("On this device the fused forward pass of 2,048 tokens waits for arithmetic, decoding for memory.",
      (limits["forward, 2,048 tokens, fused"], limits["decoding, 1 text"]), equals=("compute", "memory"),
      source="measured here", id=38)
if device == "cpu":
    scores = torch.randn(1, 8, 1024, 1024)
    q, k = torch.randn(2, 1, 8, 1024, 64)
    seconds = median_seconds(lambda: q @ k.mT, lambda: scores.softmax(-1), rounds=7, times=2)
    size = scores.numel()
    operations = 5 * size / (2 * 64 * size)
    moved = 2 * size / (size + 2 * 8 * 1024 * 64)
    claim("Softmax, 5 operations for a score, has 4 % of those of QKᵀ, but moves 1.8 times the bytes. It "
          "takes more than 15 % of the time.",
          [round(operations, 2), round(moved, 1), seconds[1] / seconds[0] > 0.15], equals=[0.04, 1.8, True],
          source="timed here, one thread", id=106)

# %% [markdown]
# ### Results that come with the course
#
# The benchmark of this course (`python -m attnlab.bench --all`) was run on the devices below; the numbers
# are stored, not measured here. Ratios are times of a forward pass: against the first of the line, and for
# encodings against the plainest layer without positions. Is a type of half the bytes always quicker? How
# much time do RoPE's many bytes take there?

# %%
def ratios(result, part, way, **which):
    """Median time of each way against the base, of the rows of a part where `which` holds."""
    found = {row[way]: row["forward"].get("ratio") for row in result["parts"][part]["rows"]
             if all(row[key] == value for key, value in which.items())}
    return ", ".join(f"{name} {ratio:.2f}" for name, ratio in found.items() if ratio)


results = bench.stored()  # the best device first
for result in results:
    rates_there = bench.rates(result)
    threads = "" if rates_there.threads is None else f", {rates_there.threads} thread"
    print(f"{result['device']} ({result['device_type'].upper()}{threads}), run on {result['date']}")
    speeds = [f"{roofline.short(t)} {rate / 1e9:,.0f} GFLOP/s" for t, rate in rates_there.matrix.items()]
    print("matrix products:", ", ".join(speeds))
    print(f"copying: {rates_there.copy / 1e9:,.0f} GB/s; ridge in float32: "
          f"{rates_there.ridge(torch.float32):.1f} FLOPs per byte")
    for n in sorted({row["n"] for row in result["parts"]["projections"]["rows"]}):
        print(f"projections, {n:,} token{'s' * (n > 1)}:", ratios(result, "projections", "way", n=n))
    n = max(row["n"] for row in result["parts"]["encodings"]["rows"])
    short_n = result["parts"]["dtypes"]["sizes"]["n"]
    print(f"a layer, {short_n:,} tokens:", ratios(result, "dtypes", "dtype", what="layer"))
    encodings = ratios(result, "encodings", "encoding", whose="attnlab", n=n)
    print(f"a layer, {n:,} tokens:", encodings, "\n")
if not any(result["device_type"] == "cuda" for result in results):
    print("No GPU was measured: nothing here says how fast one is. On a machine with a GPU,")
    print("python -m attnlab.bench --all --device cuda --json FILE measures it.")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: what limits your layer
#
# The lines are what a device can do at most; numbers mark the parts of the layer. Try this:
#
# 1. **Back end** dense, then fused. Where does the point of the attention go? Which part has the largest
#    share of the time before and after?
# 2. **Tokens**: from which length on does attention take more time than the projections (fused)?
# 3. **Work**: decoding. Then raise **texts** to 256. What grows with them, what does not? Then lower
#    **KV heads** to 1.
# 4. **Type** bfloat16, dense, training. What is held at once: does all of it fall by half?
# 5. **Encoding** through all of them, fused: which moves the most bytes?
# 6. **Device**: this one, measured. Make the work small enough to be timed (1,024 tokens). How far
#    above the floor is your device, dense and fused? Then compare with a device whose results are stored.

# %%
CostExplorer(n_tokens=2048, d_model=512, n_heads=8, backend="dense")

# %%
explorer = CostExplorer(n_tokens=2048, d_model=512, n_heads=8, backend="dense", dtype="bfloat16",
                        work="training")
single = CostExplorer(n_tokens=2048, d_model=512, n_heads=8, backend="dense", work="training")
claim("bfloat16 halves Q, K and V, but not the scores: dense holds those in float32 (held in bfloat16 / in "
      "float32).",
      [explorer.cost.peak[what] / single.cost.peak[what] for what in ("activations", "scores")],
      equals=[0.5, 1.0], source="the explorer's numbers, attnlab.cost", id=104)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 14.1: operations of a layer &nbsp; (●○○, 8 minutes)
#
# Return the FLOPs of the matrix products of one forward pass: `n` tokens, `n_heads` query heads of
# `d_model / n_heads` numbers, which share `n_kv_heads` key/value heads. No mask.

# %% tags=["exercise"]
def flops(n, d_model, n_heads, n_kv_heads):
    """-> a whole number."""
    # BEGIN SOLUTION
    narrow = d_model // n_heads * n_kv_heads  # width of all keys, and of all values
    projections = 2 * n * d_model * (d_model + 2 * narrow)
    scores_and_values = 2 * 2 * n * n * d_model
    output = 2 * n * d_model * d_model
    return projections + scores_and_values + output
    # END SOLUTION


# %%
check("14.1", flops)

# %% [markdown] tags=["hint"]
# There are six products: queries, keys, values, scores, weights times V, output. Which of them depend on
# `n_kv_heads`?

# %% [markdown] tags=["hint"]
# Keys and values are `n_kv_heads * d_head` numbers wide. Scores and weights times V take $2n^2d$ each,
# whoever shares.

# %% [markdown]
# ### Exercise 14.2: how many tokens fit? &nbsp; (●●○, 8 minutes)
#
# A decoder reads `texts` texts at a time. After the parameters, `free` bytes are left for the KV cache. How
# many tokens may each text have?

# %% tags=["exercise"]
def tokens(free, n_layers, n_kv_heads, d_head, bytes_per_number, texts):
    """-> the largest whole number of tokens for each text."""
    # BEGIN SOLUTION
    per_token = 2 * n_layers * n_kv_heads * d_head * bytes_per_number
    return free // (per_token * texts)
    # END SOLUTION


# %%
check("14.2", tokens)

# %% [markdown] tags=["hint"]
# What does one token of one text leave in the cache of one layer?

# %% [markdown] tags=["hint"]
# A key and a value for each key/value head, `d_head` numbers each. Divide with `//`.

# %% [markdown]
# ### Exercise 14.3: weights in float16 &nbsp; (●●○, 12 minutes)
#
# Return the weights softmax$(qk^\top/\sqrt{d_k})$ in float16, for float16 queries and keys that may be as
# large as 40. Hidden keys get weight 0. (Every query sees at least one key.)

# %% tags=["exercise"]
def weights16(q, k, visible):
    """q, k (batch, heads, n, d_k) float16; visible (n, n) boolean, True = may look at -> float16."""
    # BEGIN SOLUTION
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return scores.masked_fill(~visible, -torch.inf).softmax(-1)
    # END SOLUTION


# %%
check("14.3", weights16)

# %% [markdown] tags=["hint"]
# Which number on the way is the largest? Can the division come before it?

# %% [markdown] tags=["hint"]
# Scale `q` before the product. Hide keys with `-torch.inf`: every half-precision type has it.

# %% [markdown]
# ### Exercise 14.4: the cache, repaired &nbsp; (●●●, 15 minutes)
#
# Write the class above so that it works: `PositionCache(d_model, max_len)` is a Module that keeps a
# sinusoidal table of `max_len` rows as a buffer (not saved with the model). Called with x (batch, tokens,
# d_model) it returns x + table in the type of x; for a longer text it makes a longer table. You may use
# `positions.make("sinusoidal", d_model=d_model, n_heads=1).table(torch.arange(n))`, which is (n, d_model).

# %% tags=["exercise"]
# BEGIN SOLUTION
# BLANK: PositionCache = ...  # your class instead of the dots
class PositionCache(nn.Module):
    def __init__(self, d_model, max_len=5000):
        super().__init__()
        self.sines = positions.make("sinusoidal", d_model=d_model, n_heads=1)
        self.register_buffer("pe", self.sines.table(torch.arange(max_len)), persistent=False)

    def forward(self, x):
        n = x.size(1)
        if n > len(self.pe):
            self.pe = self.sines.table(torch.arange(n)).to(self.pe.device)
        return (x + self.pe[:n]).to(x.dtype)
# END SOLUTION

# %%
check("14.4", PositionCache)

# %% [markdown] tags=["hint"]
# Go through the six points above. `register_buffer(name, tensor, persistent=False)` keeps a table out of
# `state_dict`.

# %% [markdown] tags=["hint"]
# In `forward`: if `x.size(1)` is larger than `len(self.pe)`, assign a longer table to `self.pe`. Add, then
# `.to(x.dtype)`.

# %% [markdown]
# ### Exercise 14.5: logsumexp in pieces &nbsp; (●●●, 12 minutes)
#
# The scores of some queries come in blocks of keys, because all of them at once would not fit. Return
# $\log \sum_j e^{s_{ij}}$ over the keys of all blocks, without joining them. Scores may be around 1,000, and
# a block, or all of them, may be hidden from a query ($-\infty$).

# %% tags=["exercise"]
def lse(blocks):
    """A list of (n_q, some keys) -> (n_q,)."""
    # BEGIN SOLUTION
    return torch.stack([block.logsumexp(-1) for block in blocks]).logsumexp(0)
    # END SOLUTION


# %%
check("14.5", lse)

# %% [markdown] tags=["hint"]
# One number for each block and query is enough. Which? And how do two of them make one?

# %% [markdown] tags=["hint"]
# $\log(e^a + e^b)$ is the logsumexp of the two numbers $a$ and $b$. `torch.logsumexp` knows about
# $-\infty$.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# $g$: key/value heads. $L$: rows of the learned table. $C$: Shaw's clip.
#
# | | forward | training | decoding, one step |
# |---|---|---|---|
# | FLOPs | $8nd^2 + 4n^2d$ | 3 times (fused: and the scores again) | $8d^2 + 4nd$ |
# | memory, weights formed | 2 matrices $hn^2$ | 3 matrices $hn^2$ | KV cache $2n\,g\,d_k$ |
# | memory, fused | some $nd$ | some $nd$ | KV cache $2n\,g\,d_k$ |
# | waits for | arithmetic (fused, long) | arithmetic (fused, long) | memory |
#
# | encoding | parameters | work |
# |---|---|---|
# | sinusoidal, learned | 0, $L\,d$ | $nd$ additions, once at the input |
# | RoPE | 0 | $6nd$ in every layer; in decoding at every step |
# | ALiBi, T5, Sandwich | 0, 32$h$, 0 | a bias for each head and offset; $hn^2$ if written out |
# | Shaw | $2(2C + 1)d_k$ | two small products for each query; needs the weights |
#
# ### Questions
#
# *How do grouped and multi-query attention trade efficiency against expressivity?* (Review question
# 2 of the course, begun in [notebook 5](05-sharing-and-scales.ipynb) with what it costs in
# quality.) They leave the scores as they are, and divide the cache that decoding waits for. With 64
# texts, one key/value head instead of 8 gives a step seven times as many FLOPs for each byte.
#
# *How can multi-head attention be optimised for different hardware?* (Review question 10 of the
# course.) Find out which limit holds. Where it is memory: form no $n \times n$ matrix (fused), one
# product for all projections, fewer key/value heads, half precision; more texts at a time where
# parameters, not caches, are what is read. Where it is arithmetic: a type that the device
# multiplies faster, and leave out what is hidden, in blocks.
#
# *What are the memory bottlenecks in multi-head attention, and how can they be addressed?* (Review
# question 11 of the course, continued in [notebook 15](15-attention-without-the-matrix.ipynb).) In
# training the weights, three matrices of $hn^2$ at the worst moment: a fused kernel holds none. In
# decoding the KV cache: grouped heads, windows, half precision. A bias written out as a matrix
# brings $hn^2$ back.
#
# *What matters for numerical stability?* (Review question 12 of the course.) Scale the queries
# before the product in float16. Subtract the maximum. Hide with $-\infty$ and say what an empty row
# gives. Positions, angles and biases in float32 or more.
#
# ### Common misconceptions
#
# - "Attention dominates": at $n = d$ it is a third of its own layer; of a whole transformer layer it takes
#   the larger part only beyond $n = 6d$.
# - "Attention needs quadratic memory": quadratic time; the memory is a choice.
# - "Gradients cost what the forward pass costs": twice the operations.
# - "A learned table is a free lookup": $nd$ numbers are copied, and added as with sines.
# - "RoPE costs nothing": few FLOPs, many bytes, in every layer.
# - "`torch.cat` of the heads' projections is fused": $3h$ products and three copies.
# - "A causal mask halves the work": only if hidden blocks are left out.
# - "Half the bytes, twice the speed": look up what your device does in that type.
# - "12,800 fits into float16": the product before the division does not.
#
# ### Further reading
#
# - Dao et al. 2022, *FlashAttention*: section 3.1 (the algorithm), section 3.2 (bytes moved).
# - Rabe and Staats 2021, *Self-attention Does Not Need O(n²) Memory*: section 2.
# - Shazeer 2019, *Fast Transformer Decoding*: sections 2.4 and 3.1 (bytes per operation).
# - Williams et al. 2009, *Roofline: An Insightful Visual Performance Model*.
# - Micikevicius et al. 2018, *Mixed Precision Training*: the section on arithmetic precision.
# - Wang et al. 2024, *When Precision Meets Position: BFloat16 Breaks Down RoPE*.
# - PyTorch, *Automatic Mixed Precision*: the list of operations by type.
#
# **Next:** [notebook 15](15-attention-without-the-matrix.ipynb) measures attention without its matrix.
# Back to [the start](00-start-here.ipynb).
