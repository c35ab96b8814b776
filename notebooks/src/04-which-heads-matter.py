# %% [markdown] slideshow={"slide_type": "slide"}
# # 4. Which heads matter
#
# **A trained model has eight heads. Which of them can go, how can one tell, and what is gained?**
#
# When you have worked through this notebook you can
#
# - turn a head down with a gate, write the importance of a head as a mean of $|dL/d\xi|$, and say
#   why the absolute value stands inside the mean;
# - test a score with a rescaling that leaves the model's function as it is;
# - compare scores with what happens when a head really goes, and with chance;
# - prune a head so that its parameters are gone, and count what that saves;
# - say what one-at-a-time scores cannot see.
#
# *You need:* [notebook 2](02-many-heads.ipynb) (the output as a sum over heads); after
# [notebook 3](03-what-heads-learn.ipynb) it makes more sense. *To study:* 80 minutes.
# *To lecture:* 45 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import copy
from itertools import combinations

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import attnlab
from attnlab import heads, tasks
from attnlab.exercises import check
from attnlab.explorers import PruningExplorer, pruning_table
from attnlab.models import TinyTransformer
from attnlab.teach import claim, figure, predict, progress
from attnlab.train import fit
from attnlab.trained import load_tiny_english

torch.manual_seed(0)
torch.set_num_threads(1);  # small arrays: a second thread would only wait

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A model with eight heads
#
# The task of [notebook 1](01-one-head.ipynb), with four words to report. A sentence has ten words:
# a verb, the two words before it and the two after it, which say who did what, and random fillers.
# All four role words come from the same 20, so only the place tells them apart. The model reads out
# all four at the verb.
#
# It has one layer: 8 heads, $d_{model} = 64$, so $d_k = 8$, and a feed-forward part (the small
# network of notebook 0 that works on each token by itself). Positions are a learned table. We train
# five models that differ only in the seed of their random numbers.

# %%
task = tasks.Roles(n_words=20, offsets=(-2, -1, 1, 2))
SEEDS = range(5)


def read(model, ids, verb):
    """Scores of every word for every role, (batch, 4 roles, 20 words), read at the verb."""
    return model(ids)[torch.arange(len(ids)), verb].unflatten(-1, (4, 20))


def losses(model, sentences):
    """One cross-entropy for each sentence, (batch,)."""
    ids, verb, roles = sentences
    scores = read(model, ids, verb).flatten(0, 1)  # (batch * 4, 20)
    each = F.cross_entropy(scores, roles.flatten(), reduction="none")
    return each.unflatten(0, (-1, 4)).mean(-1)


@torch.no_grad()
def accuracy(model, sentences):
    """Share of the role words that are right."""
    ids, verb, roles = sentences
    return (read(model, ids, verb).argmax(-1) == roles).float().mean().item()


def on_probe(model):
    """A function that runs the model on the sentences that heads are scored with."""
    return lambda: losses(model, probe)


def train_model(seed):
    torch.manual_seed(seed)
    model = TinyTransformer(
        task.vocab_size, 4 * 20, d_model=64, n_heads=8, n_layers=1, d_ff=256, encoding="learned",
        causal=False, max_len=task.length,
    )
    generator = torch.Generator().manual_seed(100 + seed)
    fit(model, lambda: losses(model, task.batch(48, generator)).mean(), steps=600, lr=5e-3)
    return model.eval()


models = {seed: train_model(seed) for seed in progress(SEEDS, "models trained")}
probe = task.batch(300, torch.Generator().manual_seed(77))  # sentences to score heads with
test = task.batch(120, torch.Generator().manual_seed(9))  # 480 answers to measure accuracy with
whole = [accuracy(models[seed], test) for seed in SEEDS]
claim("All five models solve the task (share of role words that are right; guessing gives 0.05).",
      whole, above=0.98, source="this notebook, 5 seeds")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Turn a head off
#
# The output of the heads is a sum (notebook 2; from here on $h$ counts heads). Put a number
# $\xi_h$, a **gate**, before each term:
#
# $$\mathrm{out} = \sum_{h} \xi_h\; \mathrm{head}_h W^O_h, \qquad \mathrm{head}_h\ (n, d_k),\quad
# W^O_h\ (d_k, d_{model})$$
#
# $\xi_h = 1$ is the model as trained, $\xi_h = 0$ silences head $h$. What the loss rises by when one
# head is silenced is its **ablation cost**, and it is what we want to know: what happens if this
# head goes?

# %%
guess = predict(
    "Eight heads, four words to report. One head is silenced. How much accuracy is lost?",
    ["about the same whichever head it is, over 0.04", "under 0.04, whichever head it is",
     "under 0.04 for one head, over 0.1 for another"],
    id="04-ablate",
)
guess

# %%
drops = {}
for seed in SEEDS:
    model = models[seed]
    minus_accuracy = heads.ablation(model, lambda model=model: -accuracy(model, test))
    drops[seed] = minus_accuracy["layers.0.attention"]  # (8 heads,)
    print(f"seed {seed}: accuracy lost without head 0 ... 7:", drops[seed].numpy().round(2))

# %%
least = [drops[seed].min().item() for seed in SEEDS]
most = [drops[seed].max().item() for seed in SEEDS]
differs = max(least) < 0.04 and min(most) > 0.1
guess.reveal(
    2 if differs else 1 if max(most) < 0.04 else 0,
    f"The least costly head of each model costs {min(least):.2f} to {max(least):.2f}, the most costly "
    f"{min(most):.2f} to {max(most):.2f}. Which head it is changes with the seed.",
)

# %%
claim("In each of five models there is a head whose silence costs over 0.1 of accuracy.", most,
      above=0.1, source="this notebook, 5 seeds")
claim("And one whose silence changes it by less than 0.04.", least, between=(-0.04, 0.04),
      source="this notebook, 5 seeds; Michel et al. 2019, section 3.2")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A gradient as a score
#
# Ablation needs one run of the model for each head. With hundreds of heads one would like all scores at
# once, and a gradient gives as many numbers as one asks for. One can read
#
# $$\mathrm{Importance}(\mathrm{head}_h) = \frac{\partial L}{\partial\, \mathrm{head}_h}$$
#
# with $L$ the loss of one sentence. Take it literally.

# %%
guess = predict(
    "For one sentence of 10 tokens and head 0: what is ∂L/∂head_0?",
    ["80 numbers: one for each token and entry",
     "8 numbers: one for each entry of a token's head vector", "one number"],
    id="04-shape",
)
guess


# %%
def outputs_and_gradients(model, sentences):
    """Outputs of the heads and the gradients of each sentence's loss, (batch, 8 heads, n, d_k)."""
    kept = []

    def keep(module, arguments):  # called with what goes into W_O: (batch, n, 8 * d_k)
        kept.append(arguments[0])

    hook = model.layers[0].attention.out_proj.register_forward_pre_hook(keep)
    total = losses(model, sentences).sum()  # a sentence's loss reads only its own heads
    hook.remove()
    (gradient,) = torch.autograd.grad(total, kept[0])
    return [t.detach().unflatten(-1, (8, -1)).transpose(1, 2) for t in (kept[0], gradient)]


exact = copy.deepcopy(models[0]).double()  # float64, to tell "equal" from "nearly"
out, gradient = outputs_and_gradients(exact, probe)
print("∂L/∂head for 300 sentences, 8 heads:", tuple(gradient.shape))

# %%
guess.reveal(
    {80: 0, 8: 1, 1: 2}[gradient[0, 0].numel()],
    "A derivative by a matrix has the shape of the matrix. To rank heads it must become one number, "
    "and how is a choice.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Two ways to make it one number. Write $G_h = \partial L/\partial\,\mathrm{head}_h$, shape $(n, d_k)$.
#
# - its **norm** $\lVert G_h\rVert$: how steep the loss is around the head's output;
# - its **inner product** with the output, $\sum \mathrm{head}_h \odot G_h$ (multiply entry by entry,
#   then add up).
#
# The second has a meaning. The gate multiplies the whole output, so by the chain rule
#
# $$\frac{dL}{d\xi_h} = \sum \mathrm{head}_h \odot G_h$$
#
# It is the slope of the loss in the gate. Silencing the head takes $\xi_h$ from 1 to 0, so minus the slope
# is a first guess at its ablation cost. Michel et al. (2019) call **importance** of a head
#
# $$I_h = \frac1N \sum_{x=1}^{N}\left|\frac{dL_x}{d\xi_h}\right|$$
#
# the mean over $N$ sentences $x$ of the size of that slope. Here it is, once by gates and once by the
# inner product. For a slope of *each* sentence, each sentence needs gates of its own: shape (batch, 8).

# %%
gates = torch.ones(300, 8, dtype=torch.float64, requires_grad=True)
with heads.gated(exact, {"layers.0.attention": gates}):
    (slope,) = torch.autograd.grad(losses(exact, probe).sum(), gates)  # (300 sentences, 8 heads)
product = (out * gradient).sum(dim=(-2, -1))  # (300, 8)
importance = slope.abs().mean(dim=0)  # (8,)
claim("∂L/∂head_h is no scalar: it has the shape of the head's output, (tokens, d_k).",
      gradient[0, 0].shape, equals=(10, 8), source="this cell", id=30)
claim("The gate's slope equals the inner product of output and gradient (largest difference).",
      (slope - product).abs().max(), below=1e-12, source="chain rule; Michel et al. 2019, eq. 2",
      id=30)
by_attnlab = heads.gate_importance(exact, on_probe(exact))["layers.0.attention"]
claim("The formula and attnlab agree (largest difference).", (importance - by_attnlab).abs().max(),
      below=1e-12, source="attnlab.heads", id=30)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Is the absolute value needed?
#
# Would minus the plain mean of the slopes not do? "Without this head the loss rises by about so much, on
# average." Take a layer of four heads, 64 random inputs with random targets, and train until nothing moves
# any more.

# %%
torch.manual_seed(0)
layer = attnlab.MultiHeadAttention(16, 4, bias=False).double()
x, target = torch.randn(2, 64, 8, 16, dtype=torch.float64)  # (64 examples, 8 tokens, 16)


def errors(layer):
    return (layer(x) - target).square().sum(dim=(1, 2))  # (64,)


history = fit(layer, lambda: errors(layer).mean() / 128, steps=800, lr=0.03)
print(f"mean squared error: {history[0]:.3f} at first, {history[-1]:.3f} at the end")

# %%
guess = predict(
    "At the end, silencing any one of the four heads raises the summed squared error of an example by "
    "over 10, on average. What does minus the mean of dL/dξ over the examples say?",
    ["over 5: about what the ablation costs", "from 1 to 5: it underestimates",
     "nearly 0, for every head", "below −1: the error would fall"],
    id="04-signed",
)
guess

# %%
gates = torch.ones(64, 4, dtype=torch.float64, requires_grad=True)
with heads.gated(layer, {"": gates}):
    (slopes,) = torch.autograd.grad(errors(layer).sum(), gates)  # (64 examples, 4 heads)
signed, size = slopes.mean(dim=0), slopes.abs().mean(dim=0)
cost_of = heads.ablation(layer, lambda: errors(layer).mean())[""]
for name, values in (("mean of dL/dξ", signed), ("mean of |dL/dξ|", size), ("ablation", cost_of)):
    print(f"{name:16}", " ".join(f"{v:8.4f}" for v in values))

# %%
largest = signed.abs().max().item()
guess.reveal(
    2 if largest < 0.1 else 3 if signed.max() > 1 else 1 if largest < 5 else 0,
    "The slopes of single examples are large, with either sign. At a minimum they cancel.",
)

# %% [markdown]
# It must be so. Turning up the gate of head $h$ is the same as multiplying $W^O_h$ by a number, and at a
# minimum no change of $W^O_h$ helps, to first order:
#
# $$\frac1N\sum_x \frac{dL_x}{d\xi_h} = \sum W^O_h \odot \frac{\partial \bar L}{\partial W^O_h} = 0,
# \qquad \bar L = \frac1N\sum_x L_x$$

# %%
mean_error = errors(layer).mean()
(of_w_o,) = torch.autograd.grad(mean_error, layer.out_proj.weight)
felt = (layer.out_proj.weight * of_w_o).unflatten(1, (4, -1)).sum(dim=(0, 2))  # (4 heads,)
claim("The mean slope of a gate is ⟨W_O, ∂L/∂W_O⟩ of its head (largest difference).",
      (signed - felt).abs().max(), below=1e-10, source="this cell (Euler's identity)", id=32)
claim("At a minimum the mean slope vanishes (largest of 4 heads, against the mean of |slope|).",
      (signed.abs() / size).max(), below=0.02, source="this notebook", id=32)
claim("Yet every head is needed: error added by silencing it.", cost_of, above=10.0,
      source="this notebook", id=32)
claim("The mean of the absolute slopes does not vanish.", size, above=1.0,
      source="this notebook; Michel et al. 2019, section 4.1", id=32)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A rescaling that changes nothing
#
# Multiply the values of head $h$ by $c$ and divide its rows of $W^O$ by $c$:
#
# $$W^V_h \to c\,W^V_h, \qquad W^O_h \to W^O_h / c$$
#
# $\mathrm{head}_h$ becomes $c$ times as large, $\mathrm{head}_h W^O_h$ stays as it was. So does the
# model's every answer.

# %%
guess = predict(
    "After such a rescaling, with its own c for each head: which scores have changed?",
    ["both", "neither: the function is the same", "only gate importance", "only the gradient norm"],
    id="04-rescale",
)
guess


# %%
def scores_of(model):
    """Gate importance and gradient norm, (8,) each."""
    both = (score(model, on_probe(model)) for score in (heads.gate_importance, heads.gradient_norm))
    return [scores["layers.0.attention"] for scores in both]


before = scores_of(exact)
c = before[1] / torch.arange(1, 9)  # (8,): one number for each head
rescaled = copy.deepcopy(exact)
attention = rescaled.layers[0].attention
with torch.no_grad():
    attention.w_v.mul_(c[:, None, None])  # (8, 64, 8)
    attention.w_o.div_(c[:, None, None])  # (8, 8, 64)
    change = (read(rescaled, *probe[:2]) - read(exact, *probe[:2])).abs().max()
after = scores_of(rescaled)
print("order by gate importance, before and after:", *(s.argsort().tolist() for s in (before[0], after[0])))
print("order by gradient norm,   before and after:", *(s.argsort().tolist() for s in (before[1], after[1])))

# %%
moved = [not torch.allclose(a, b, rtol=1e-6) for a, b in zip(before, after, strict=True)]
guess.reveal(
    {(True, True): 0, (False, False): 1, (True, False): 2, (False, True): 3}[tuple(moved)],
    "The gradient by head_h is divided by c, head_h is multiplied by c. In the inner product c cancels; "
    "the norm sees one side only.",
)

# %%
claim("The rescaled model answers the same (largest difference).", change, below=1e-10,
      source="this cell", id=31)
claim("Gate importance stays (after / before, 8 heads).", after[0] / before[0], expect=1.0, atol=1e-6,
      source="Michel et al. 2019, eq. 2", id=31)
claim("The gradient norm now ranks the heads by their number: it takes any order we like.",
      after[1].argsort(), equals=torch.arange(8), source="this notebook", id=31)

# %% [markdown]
# We chose the $c_h$ so that the norms became 1 to 8. A score that takes any order while the model's answers
# stay does not measure what the heads do for the answers. An extreme case is a **dead head**, whose
# values are all zero.

# %%
dead = copy.deepcopy(exact)
with torch.no_grad():
    dead.layers[0].attention.w_v[3].zero_()
gate_score, norm_score = scores_of(dead)
ablated = heads.ablation(dead, lambda: losses(dead, probe).mean())["layers.0.attention"]
claim("A dead head: gate importance and ablation cost are exactly 0.",
      (gate_score[3], ablated[3]), equals=(0.0, 0.0), source="this cell", id=31)
claim("Its gradient norm is not: against the mean of the other heads' norms.",
      norm_score[3] / norm_score[[0, 1, 2, 4, 5, 6, 7]].mean(), above=0.3, source="this cell", id=31)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Do the scores agree with ablation?
#
# Now the trained models. Measure all scores, and for later the accuracy of every choice of heads: there
# are only $2^8 = 256$. Then compare the order of the heads by each score with the order by ablation cost
# (in loss). The **Spearman correlation** is the correlation of the ranks: 1 for the same order, −1 for the
# reverse, about 0 for orders that have nothing to do with each other.

# %%
guess = predict(
    "Spearman correlation with ablation, mean over five models. Which score is above 0.7?",
    ["both", "only gate importance", "only the gradient norm", "neither"],
    id="04-spearman",
)
guess


# %%
def spearman(a, b):
    """Correlation of the ranks."""
    ranks = torch.stack([v.argsort().argsort().double() for v in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()


tables = {}
for seed in progress(SEEDS, "models measured"):
    model = models[seed]
    tables[seed] = pruning_table(
        model, on_probe(model), lambda model=model: accuracy(model, test)
    )
agreement = {
    name: [spearman(tables[seed].scores[name], tables[seed].scores["ablation"]) for seed in SEEDS]
    for name in ("gate", "norm")
}


def mean(values):
    return sum(values) / len(values)


for name, values in agreement.items():
    print(f"{name}: mean {mean(values):.2f}, seeds", " ".join(f"{v:.2f}" for v in values))

# %%
high = tuple(mean(agreement[name]) > 0.7 for name in ("gate", "norm"))
guess.reveal(
    {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}[high],
    f"Gate importance {mean(agreement['gate']):.2f}, gradient norm {mean(agreement['norm']):.2f}; but a "
    "rescaling could give the second any order.",
)

# %%
claim("Gate importance orders heads much as ablation does (Spearman, 5 models).", agreement["gate"],
      above=0.6, source="this notebook, 5 seeds", id=31)
claim("Better than the gradient norm (difference of the means).",
      mean(agreement["gate"]) - mean(agreement["norm"]), above=0.15, source="this notebook, 5 seeds",
      id=31)
small = [(t.scores["gate"] / t.scores["ablation"]).max().item() for t in tables.values()]
claim("But it is no estimate of the cost: the largest ratio of importance to ablation cost in each "
      "model.", small, between=(0, 0.3), source="this notebook, 5 seeds", id=32)

# %% [markdown]
# The cost adds up the slopes all the way from $\xi = 1$ to $0$. It is several times the slope at 1, so the loss
# becomes steeper on the way. The importance **ranks** heads. It does not say what their loss will cost.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Take heads out for good
#
# A gate at 0 saves nothing: the head is computed and then thrown away. To **prune** a head, cut its
# columns out of $W^Q$, $W^K$ and $W^V$ and its rows out of $W^O$: four pieces of $d_{model}\times d_k$
# numbers. `heads.prune` does it and returns a smaller model.

# %%
guess = predict(
    "Four of the eight heads are cut out of the model. How much smaller is the whole model?",
    ["by half", "by a quarter", "by about a seventh", "by less than 3 %"],
    id="04-size",
)
guess

# %%
gone = [("layers.0.attention", h) for h in tables[0].orders["gate"][:4]]
small_model = heads.prune(exact, gone)
with torch.no_grad(), heads.without(exact, gone):
    difference = (read(exact, *probe[:2]) - read(small_model, *probe[:2])).abs().max()


def count(module):
    return sum(p.numel() for p in module.parameters())


def operations(model):
    """FLOPs of the attention layer's matrix products for one sentence of 10 tokens."""
    attention = model.layers[0].attention
    attention.backend = "dense"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attention(torch.zeros(1, 10, 64).to(attention.w_o))
    attention.backend = "auto"
    return counter.get_total_flops()


full, left = (count(m.layers[0].attention) for m in (models[0], small_model))
share_gone = 1 - count(small_model) / count(models[0])
print(f"attention: {full:,} parameters, after pruning {left:,}")
print(f"whole model: {count(models[0]):,}, after pruning {count(small_model):,}")

# %%
guess.reveal(
    min(range(4), key=lambda i: abs(share_gone - (0.5, 0.25, 1 / 7, 0.0)[i])),
    "The attention layer is halved. The feed-forward part, the word vectors and the read-out keep all "
    "of their parameters.",
)

# %%
claim("The pruned model computes what the gated one does (largest difference).", difference,
      below=1e-6, source="attnlab.heads", id=34)
claim("Each head takes 4 · d_model · d_k parameters with it.", full - left, equals=4 * 4 * 64 * 8,
      source="this cell", id=34)
with heads.without(exact, gone):
    silent = operations(exact)
claim("A gate at 0 saves no operation (FLOPs with gates / without).", silent / operations(exact),
      equals=1.0, source="torch's FLOP counter", id=34)
claim("Pruning half of the heads saves half of the attention layer's operations.",
      operations(small_model) / operations(exact), equals=0.5, source="torch's FLOP counter", id=34)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## How far can one go?
#
# Take heads out one after the other: least important first, by gradient norm, by ablation cost, or most
# important first. Against them stands **chance**: the mean over all choices of so many heads. A score
# that does not beat chance is worth nothing. And because we tried all 256 choices, we also know the best.

# %%
guess = predict(
    "Four of eight heads stay. How much more accuracy do the four most important ones keep, against "
    "four at random (mean of five models)?",
    ["over 0.15 more", "between 0.02 and 0.15 more", "no difference", "less"],
    id="04-curve",
)
guess

# %%
curves = {
    name: torch.stack([tables[seed].curve(name) for seed in SEEDS])  # (5 models, 0 ... 8 kept)
    for name in ("gate", "ablation", "norm", "steps", "random", "reverse", "best")
}
LOOKS = {
    "best": ("best of all choices", "#7c7b78", ":"), "gate": ("gate importance", "#00224e", "o-"),
    "norm": ("gradient norm", "#b8860b", "s--"), "random": ("random (mean of all)", "#7c7b78", "^-"),
    "reverse": ("most important first", "#b8860b", "v:"),
}
fig, ax = plt.subplots(figsize=(7.6, 4.2), layout="constrained")
for name, (label, colour, dash) in LOOKS.items():
    of_name = curves[name]
    ax.plot(range(9), of_name.mean(0), dash, color=colour, label=label, ms=6)
    if name in ("gate", "random", "reverse"):
        ax.fill_between(range(9), of_name.min(0).values, of_name.max(0).values, color=colour, alpha=0.15)
ax.set_xlabel("heads kept")
ax.set_ylabel("share of role words right")
ax.set_ylim(0, 1.03)
ax.legend(loc="lower right")
ax.set_title("mean of 5 models; bands from the worst to the best model")
kept4 = {name: curves[name][:, 4].mean().item() for name in curves}
figure(
    fig,
    alt="Share of role words right against heads kept, from 0 to 8, mean of five models. With four "
    "heads kept: " + ", ".join(f"{LOOKS[n][0]} {kept4[n]:.2f}" for n in LOOKS) + ".",
)

# %%
gain = kept4["gate"] - kept4["random"]
guess.reveal(
    0 if gain > 0.15 else 1 if gain > 0.02 else 2 if gain > -0.02 else 3,
    f"{kept4['gate']:.2f} against {kept4['random']:.2f}.",
)

# %%
at4 = {name: curves[name][:, 4] for name in curves}
claim("With four heads kept, importance beats chance in every model (difference).",
      at4["gate"] - at4["random"], above=0.03, source="this notebook, 5 seeds", id=34)
claim("And pruning the most important first is worse than chance in every model (difference).",
      at4["random"] - at4["reverse"], above=0.03, source="this notebook, 5 seeds", id=34)
claim("It is also ahead of the gradient norm (difference of the means).", kept4["gate"] - kept4["norm"],
      above=0.03, source="this notebook, 5 seeds", id=34)
sizes = torch.tensor([c.bit_count() for c in range(256)])
better = [
    int((tables[seed].accuracy[sizes == 4] > tables[seed].curve("gate")[4]).sum()) for seed in SEEDS
]
print("of the 70 choices of four heads, better than importance's choice:", *better)
print(f"means: the best choices {kept4['best']:.2f}, importance's {kept4['gate']:.2f}, "
      f"ablation's {kept4['ablation']:.2f}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### In steps
#
# All heads were scored at once, in the whole model. One can also take out the least important head, score
# the rest anew, and so on (`heads.prune_in_steps`).

# %%
print(f"four heads kept: scored at once {kept4['gate']:.2f}, in steps {kept4['steps']:.2f}")
claim("It sounds better, but these models lose by it (scored at once minus in steps, means).",
      kept4["gate"] - kept4["steps"], above=0.02, source="this notebook, 5 seeds", id=34)

# %% [markdown]
# A possible reason: with a few heads gone the model works badly, and the slopes are those of a model that
# works badly.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Fine-tuning
#
# The heads that stay can learn to do without the others. Prune to four heads, then train 60 more steps:
# with the most important four, the least important four, and four drawn at random for each model.

# %%
guess = predict(
    "After 60 steps of fine-tuning: does it still matter which four heads were kept? How far is the "
    "accuracy with the most important four ahead of that with the least important four (means)?",
    ["yes: over 0.1", "hardly: from 0.02 to 0.1", "no: under 0.02"],
    id="04-tune",
)
guess


# %%
def tuned_accuracy(seed, choice):
    """Accuracy after pruning to a choice of heads (bit h: head h stays), then 60 steps."""
    gone = [("layers.0.attention", h) for h in range(8) if not choice >> h & 1]
    model = heads.prune(models[seed], gone)
    generator = torch.Generator().manual_seed(1000 + seed)
    fit(model, lambda: losses(model, task.batch(48, generator)).mean(), steps=60, lr=2e-3)
    return accuracy(model, test)


tuned, untuned = {}, {}
four = torch.arange(256)[sizes == 4]  # the 70 choices of four heads
for seed in progress(SEEDS, "models fine-tuned"):
    drawn = four[torch.randint(70, (), generator=torch.Generator().manual_seed(seed))].item()
    chosen = {name: tables[seed].choice(name, 4) for name in ("gate", "reverse")}
    for name, choice in {**chosen, "random": drawn}.items():
        untuned[seed, name] = tables[seed].accuracy[choice].item()
        tuned[seed, name] = tuned_accuracy(seed, choice)
        if name != "random":  # the explorer's "random" is a mean of all choices
            tables[seed].tuned[name, 4] = tuned[seed, name]
began, ended = (
    {name: [found[seed, name] for seed in SEEDS] for name in ("gate", "random", "reverse")}
    for found in (untuned, tuned)
)
for name, values in ended.items():
    print(f"{name:8} before {mean(began[name]):.2f}, after: mean {mean(values):.2f}, seeds",
          " ".join(f"{v:.2f}" for v in values))

# %%
gap_before = mean(began["gate"]) - mean(began["reverse"])
gap_after = mean(ended["gate"]) - mean(ended["reverse"])
guess.reveal(
    2 if gap_after < 0.02 else 1 if gap_after < 0.1 else 0,
    f"Most against least important kept: a gap of {gap_before:.2f} before, {gap_after:.2f} after.",
)

# %%
claim("Fine-tuning mends part of the damage, whichever heads were kept (gain of the means).",
      [mean(ended[name]) - mean(began[name]) for name in ended], above=0.02, source="this notebook, 5 seeds",
      id=34)
regained = (mean(ended["gate"]) - mean(began["gate"])) / (mean(whole) - mean(began["gate"]))
claim("The most important four regain much of what was lost (share of the loss in accuracy, means).",
      regained, above=0.4, source="this notebook, 5 seeds", id=34)
claim("They stay ahead of the least important four in every model (difference).",
      [a - b for a, b in zip(ended["gate"], ended["reverse"], strict=True)], above=0.05,
      source="this notebook, 5 seeds", id=34)

# %% [markdown]
# (Chance was the mean of all 70 choices, 0.60. Here one choice is drawn for each model, and these
# five happen to be better than the mean.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Important is not the same as irreplaceable
#
# "Remove redundant heads by their importance." Test that on heads that are redundant for certain. Take
# the head whose silence costs most, and store it **four times**, each copy with a quarter of its
# rows of $W^O$. The function is the same. Three of the copies can go at once, if the fourth gets their
# share.

# %%
guess = predict(
    "Eleven heads, four of them copies. Prune the five least important ones, all scored at once, or "
    "scored anew after each. Which keeps more accuracy (mean of five "
    "models)?",
    ["scored at once", "scored anew after each", "no difference (within 0.02)"],
    id="04-copies",
)
guess


# %%
def split_head(model, head, n):
    """The same function, with `head` stored n times, each copy with 1/n of its rows of W_O."""
    wide, old = copy.deepcopy(model), model.layers[0].attention
    which = torch.tensor([*range(8), *[head] * (n - 1)])  # the head that each new head copies
    new = attnlab.MultiHeadAttention(64, len(which), d_head=8, bias=False).to(old.w_o)
    share = torch.where(which == head, 1 / n, 1.0).to(old.w_o)  # of W_O
    with torch.no_grad():
        for name in ("w_q", "w_k", "w_v", "w_o"):
            getattr(new, name).copy_(getattr(old, name)[which])
        new.w_o.mul_(share[:, None, None])
    wide.layers[0].attention = new
    return wide, [h for h, copied in enumerate(which.tolist()) if copied == head]


NAME = "layers.0.attention"
results = {"at once": [], "anew": []}
for seed in SEEDS:
    vital = tables[seed].scores["ablation"].argmax().item()
    wide, copies = split_head(models[seed], vital, 4)
    orders = {
        "at once": heads.ranking(heads.gate_importance(wide, on_probe(wide)))[:5],
        "anew": heads.prune_in_steps(wide, on_probe(wide), 5),
    }
    for name, order in orders.items():
        with heads.without(wide, order):
            results[name].append(accuracy(wide, test))
        copied = sum(head in copies for _, head in order)
        print(f"seed {seed}, {name:8} {copied} of the 4 copies go, accuracy {results[name][-1]:.2f}")

# %%
ahead = mean(results["anew"]) - mean(results["at once"])
guess.reveal(
    2 if abs(ahead) < 0.02 else 1 if ahead > 0 else 0,
    f"{mean(results['at once']):.2f} against {mean(results['anew']):.2f}. Each copy has a quarter of the "
    "importance, so all of them look dispensable, and at once all of them go. Measured anew, the last "
    "copies have become important.",
)

# %%
vital = tables[0].scores["ablation"].argmax().item()
wide, copies = split_head(exact, vital, 4)
single = scores_of(exact)[0]  # gate importance of the 8 heads
four_fold = heads.gate_importance(wide, on_probe(wide))[NAME]
one_gone = heads.ablation(wide, lambda: losses(wide, probe).mean())[NAME]
with torch.no_grad():
    shares = torch.ones(11, dtype=torch.float64)
    shares[copies] = torch.tensor([4.0, 0, 0, 0], dtype=torch.float64)
    with heads.gated(wide, {NAME: shares}):
        replaced = (losses(wide, probe) - losses(exact, probe)).abs().max()
claim("Three of four copies can go without a trace if the fourth gets their share (largest change of "
      "a loss).", replaced, below=1e-10, source="this cell", id=34)
claim("Yet each copy has a quarter of the head's importance, not 0 (copy / head).",
      four_fold[copies] / single[vital], expect=0.25, atol=1e-6, source="this cell", id=34)
claim("Nor is the ablation cost of a copy that of the head: one copy / the whole head.",
      one_gone[copies].mean() / tables[0].scores["ablation"][vital], below=0.2, source="this cell",
      id=34)
claim("Scores measured anew keep more accuracy than those measured once (difference of the means).",
      ahead, above=0.03, source="this notebook, 5 seeds", id=34)

# %% [markdown]
# A one-at-a-time score asks: what if *this* head goes and all others stay as they are? Redundancy is about
# groups. Copies share the importance of what they do, so a vital job done by many looks unimportant. And
# no score says that one of them would do, given the share of the others. Look for redundancy by comparing
# what heads *do* ([notebook 3](03-what-heads-learn.ipynb): outputs, not only weights), or prune in steps.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Two layers
#
# That was one layer and one task. The models of [notebook 3](03-what-heads-learn.ipynb) have two layers of
# four heads, no feed-forward part, and little texts with questions of three kinds (subject,
# pronoun, repeated name). (Five models, shipped trained.) Prune them the same way, with all eight
# heads in one order. Chance is again the mean of all 70 choices of four heads.

# %%
guess = predict(
    "Four of the eight heads go, the least important ones. In how many of the five models does that keep "
    "more accuracy than chance?",
    ["in all of them", "in some, not in all", "in none"],
    id="04-two-layers",
)
guess

# %%
language = tasks.TinyEnglish()
texts = language.batch(60, torch.Generator().manual_seed(5))
asked = texts.asked[:, :-1]  # True where the next word is decided


def next_word(model):
    """Scores of every word to be the next, (batch, n - 1, words)."""
    return model(texts.ids)[:, :-1, : language.vocab_size]  # the half that says the next word


def language_losses(model):
    """One loss for each text, (batch,)."""
    each = F.cross_entropy(next_word(model).mT, texts.ids[:, 1:], reduction="none") * asked
    return each.sum(1) / asked.sum(1)


@torch.no_grad()
def language_accuracy(model, gone):
    with heads.without(model, gone):
        right = next_word(model).argmax(-1) == texts.ids[:, 1:]
    return right[asked].float().mean().item()


ahead_of_chance = {
    "gate importance": [], "… over its layer's norm": [], "… in steps": [], "ablation": [],
}
ranks_agree = []
for seed in progress(SEEDS, "two-layer models"):
    model = load_tiny_english(seed)

    def text_losses(model=model):
        return language_losses(model)

    score = heads.gate_importance(model, text_losses)
    truth = heads.ablation(model, lambda: text_losses().mean().item())
    ranks_agree.append(spearman(*(torch.cat(list(s.values())) for s in (score, truth))))
    orders = (
        heads.ranking(score),
        heads.ranking(heads.gate_importance(model, text_losses, normalise=True)),
        heads.prune_in_steps(model, text_losses, 4),
        heads.ranking(truth),
    )
    chance = mean([language_accuracy(model, g) for g in combinations(heads.all_heads(model), 4)])
    for found, order in zip(ahead_of_chance.values(), orders, strict=True):
        found.append(language_accuracy(model, order[:4]) - chance)
print("Spearman of gate importance with ablation:", " ".join(f"{v:.2f}" for v in ranks_agree))
print("accuracy ahead of chance, with four heads gone (five models):")
for name, found in ahead_of_chance.items():
    print(f"  {name:24}", " ".join(f"{v:+.2f}" for v in found), f"  mean {mean(found):+.2f}")

# %%
by_gates = ahead_of_chance["gate importance"]
wins = sum(v > 0 for v in by_gates)
guess.reveal(
    0 if wins == 5 else 1 if wins > 0 else 2,
    f"In {wins} of 5; on average {mean(by_gates):+.2f}. Ablation's order is ahead in "
    f"{sum(v > 0 for v in ahead_of_chance['ablation'])} of 5, so it is the slopes that mislead.",
)

# %%
claim("In these two-layer models gate importance, scored at once, is on average not ahead of chance "
      "(difference).", mean(by_gates), below=0.03, source="this notebook, 5 seeds", id=34)
claim("In one of them it is far behind chance (difference).", min(by_gates), below=-0.1,
      source="this notebook, 5 seeds", id=34)
claim("Its order has little to do with that of ablation (mean Spearman).", mean(ranks_agree),
      between=(-0.4, 0.4), source="this notebook, 5 seeds", id=31)
claim("The order of ablation is ahead of chance in each (difference).", ahead_of_chance["ablation"],
      above=0.05, source="this notebook, 5 seeds", id=34)
claim("Divided by the norm of its layer's scores, as Michel et al. do, or measured anew after each head, "
      "importance is ahead of chance (means).",
      [mean(ahead_of_chance[name]) for name in ("… over its layer's norm", "… in steps")], above=0.03,
      source="this notebook, 5 seeds; Michel et al. 2019, section 4.1", id=34)

# %% [markdown]
# So the same score, computed in the same way, was nearly the best in one setting and no better than chance
# in another. Dividing each layer's scores by their norm helped, so part of the fault lies in comparing heads
# of different layers; measuring anew helped too. In the one-layer models the first changes no order and the
# second did not help. Ablation, which costs a run for each head, held up in both. **Always compare with
# random choices**, over several seeds.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: prune by hand
#
# All five one-layer models, all orders, every choice of heads: measured above, so each step is instant.
#
# 1. Drag *heads kept* from 8 to 0. Where does accuracy begin to fall in earnest? Is it at four heads, one
#    for each word?
# 2. Change *order* to "most important first", then to "gradient norm". Which lies nearer to chance?
# 3. Set *heads kept* to 4 and go through the *seeds*. Which heads stay? Is any number always among them?
# 4. Look at the dashed lines: how far is gate importance from the best of all choices?
# 5. Click heads out and in yourself. Can you find three heads that beat the three most important ones?
# 6. With four heads kept, compare the values before and after fine-tuning in the table.

# %%
PruningExplorer(tables)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What others found
#
# - Michel, Levy and Neubig (2019) took single heads out of a large translation model and of BERT: most
#   could go alone without a measurable change (section 3.2). Pruning in steps by the importance above,
#   without fine-tuning, they could take about 20 % of the heads of the translation model and 40 % of those
#   of BERT before performance fell clearly (section 4.2). The heads that look from the decoder at the
#   encoder suffered most (section 5).
# - Voita et al. (2019) *learned* the gates, with a penalty on each open one, while the model trained on.
#   10 of 48 encoder heads were enough for a loss of 0.15 BLEU (section 6). Heads whose role they knew
#   (one position, one syntactic relation, rare words) were the last to go.
#
# Both say how many heads their models can spare, not that any model can spare so many. Without fine-tuning
# ours, which has four different things to do, cannot give up half of its heads unpunished.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 4.1: what is left &nbsp; (●○○, 5 minutes)
#
# A layer with `n_heads` heads, $d_k = d_{model}/n_{heads}$, no biases. `removed` of its heads are
# pruned. How many parameters has it left?

# %% tags=["exercise"]
def parameters_left(d_model, n_heads, removed):
    """Number of parameters of W_Q, W_K, W_V and W_O together."""
    # BEGIN SOLUTION
    d_head = d_model // n_heads
    return 4 * d_model * d_head * (n_heads - removed)
    # END SOLUTION


# %%
check("4.1", parameters_left)

# %% [markdown] tags=["hint"]
# The heads that stay keep their $d_k$: it is that of the layer before pruning.

# %% [markdown] tags=["hint"]
# Each head has $d_{model}\times d_k$ numbers in each of four matrices.

# %% [markdown]
# ### Exercise 4.2: the importance of a head &nbsp; (●●○, 12 minutes)
#
# `losses_of(gates)` runs a model whose heads are multiplied by `gates`, of shape (batch, heads), and
# returns the loss of each example, (batch,). Return $I_h = \frac1N\sum_x |dL_x/d\xi_h|$ at $\xi = 1$.

# %% tags=["exercise"]
def importance_of_heads(losses_of, batch, n_heads):
    """losses_of: (batch, n_heads) -> (batch,); returns (n_heads,)."""
    # BEGIN SOLUTION
    gates = torch.ones(batch, n_heads, requires_grad=True)
    (slope,) = torch.autograd.grad(losses_of(gates).sum(), gates)  # (batch, n_heads)
    return slope.abs().mean(dim=0)
    # END SOLUTION


# %%
check("4.2", importance_of_heads)

# %% [markdown] tags=["hint"]
# Gates of ones, with `requires_grad=True`. `torch.autograd.grad(y, gates)` wants one number `y`: which
# one gives each example's gates the gradient of that example's loss alone?

# %% [markdown] tags=["hint"]
# The sum over the batch. First the absolute value, then the mean over the examples.

# %% [markdown]
# ### Exercise 4.3: who goes first &nbsp; (●●○, 8 minutes)
#
# `scores` has a row for each layer and a column for each head. Return the `k` heads to prune, as pairs
# (layer, head), the least important first, whichever layers they are in.

# %% tags=["exercise"]
def first_to_go(scores, k):
    """scores (n_layers, n_heads), k -> list of k pairs (layer, head)."""
    # BEGIN SOLUTION
    order = scores.flatten().argsort()[:k].tolist()
    return [divmod(number, scores.shape[1]) for number in order]
    # END SOLUTION


# %%
check("4.3", first_to_go)

# %% [markdown] tags=["hint"]
# `scores.flatten().argsort()` numbers the heads through all layers, the smallest score first.

# %% [markdown] tags=["hint"]
# Head number 10 of layers of 8 heads is head 2 of layer 1: `divmod(10, 8)`.

# %% [markdown]
# ### Exercise 4.4: turn a ranking over &nbsp; (●●○, 10 minutes)
#
# `norms` are the gradient norms $\lVert G_h\rVert$ of the heads, all different. Find positive numbers
# $c_h$ such that after $W^V_h\to c_h W^V_h$, $W^O_h\to W^O_h/c_h$ the new norms rank the heads in exactly
# the reverse order.

# %% tags=["exercise"]
def upside_down(norms):
    """norms (n_heads,), positive -> c (n_heads,), positive."""
    # BEGIN SOLUTION
    return norms**2
    # END SOLUTION


# %%
check("4.4", upside_down)

# %% [markdown] tags=["hint"]
# What becomes of $\lVert G_h\rVert$? The head's output is $c_h$ times as large and the loss is the same.

# %% [markdown] tags=["hint"]
# The new norm is $\lVert G_h\rVert / c_h$. Choose $c_h$ so that it is $1/\lVert G_h\rVert$.

# %% [markdown]
# ### Exercise 4.5: prune by hand &nbsp; (●●●, 15 minutes)
#
# The four matrices of a layer, in the convention of notebook 2: $W^Q$, $W^K$, $W^V$ are
# $(d_{model}, n_{heads}\,d_k)$, heads side by side; $W^O$ is $(n_{heads}\,d_k, d_{model})$. Return
# the four matrices of the layer that has only the heads in `keep`, in this order.

# %% tags=["exercise"]
def prune_matrices(w_q, w_k, w_v, w_o, n_heads, keep):
    """keep: list of head numbers. Returns four smaller matrices."""
    # BEGIN SOLUTION
    d_head = w_q.shape[1] // n_heads
    columns = torch.cat([torch.arange(h * d_head, (h + 1) * d_head) for h in keep])
    return w_q[:, columns], w_k[:, columns], w_v[:, columns], w_o[columns]
    # END SOLUTION


# %%
check("4.5", prune_matrices)

# %% [markdown] tags=["hint"]
# Head $h$ has the columns $h\,d_k$ to $(h+1)\,d_k - 1$ of $W^Q$, $W^K$ and $W^V$. What does it have of
# $W^O$?

# %% [markdown] tags=["hint"]
# `torch.cat([torch.arange(h * d_head, (h + 1) * d_head) for h in keep])` are the numbers of all these
# columns; the same numbers are the *rows* of $W^O$.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | score | formula | what we measured |
# |---|---|---|
# | ablation cost | loss with $\xi_h = 0$ minus loss with $\xi_h = 1$ | the truth for one head at a time; one run for each head |
# | gate importance | mean of $\lvert dL_x/d\xi_h\rvert$ | one backward pass; in one layer it ranks much as ablation does, across layers it did not; its size is no estimate of the cost |
# | mean slope | mean of $dL_x/d\xi_h$ | 0 at a minimum, however vital the head |
# | gradient norm | mean of $\lVert \partial L_x/\partial \mathrm{head}_h\rVert$ | a rescaling that changes nothing gives it any order; above 0 for a dead head |
# | chance | mean over all choices of as many heads | what each score has to beat |
#
# ### Questions
#
# *How can redundant attention heads be identified and removed without hurting performance?* (Review
# question 14 of the course.) Score heads by the gate's slope, the absolute value inside the mean;
# compare with ablation and with chance, over several seeds; cut the lowest ones out of the four
# matrices, a few at a time; fine-tune. In our one-layer models this kept clearly more accuracy than
# chance with half of the heads gone, but less than the whole model had; fine-tuning made up much of
# the rest. In our two-layer models it took scores divided by their layer's norm, or measured anew,
# to beat chance on average. And the scores find heads that are unimportant, not heads that are
# redundant: copies share the importance of what they do.
#
# ### Common misconceptions
#
# - "Importance is the gradient by the head": that is a matrix; and its norm can be changed at will without
#   changing the model.
# - "A head with gradient 0 on average does nothing": at a minimum all have.
# - "Importance says what is lost": at best it ranks; the numbers were several times too small.
# - "Low importance means redundant, high importance means irreplaceable": four copies of a vital head each
#   have a quarter of its importance, and each can be replaced.
# - "Half of the heads, half of the model": half of the attention layer's parameters.
# - "A mask or a gate prunes": it saves nothing until the matrices are smaller.
#
# ### Further reading
#
# - Michel, Levy, Neubig 2019, *Are Sixteen Heads Really Better than One?*: sections 2.3 (gates), 3, 4, 5.
# - Voita et al. 2019, *Analyzing Multi-Head Self-Attention: Specialized Heads Do the Heavy Lifting, the
#   Rest Can Be Pruned*: section 6.
# - Molchanov et al. 2017, *Pruning Convolutional Neural Networks for Resource Efficient Inference*:
#   section 2.2, where the first-order score comes from.
#
# **Next:** [notebook 5](05-sharing-and-scales.ipynb): heads that share keys and values. Back to
# [the start](00-start-here.ipynb).
