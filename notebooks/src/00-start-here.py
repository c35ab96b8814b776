# %% [markdown] slideshow={"slide_type": "slide"}
# # Heads & Positions
# ## 0. Start here
#
# **What does a trained language model look at when it reads your sentence?**
#
# When you have worked through this notebook you can
#
# - run a notebook of this course, make a prediction, read a claim, answer an exercise;
# - follow one sentence through a layer of attention and name the shape of every array;
# - look into a trained model with the Attention Explorer and say what one of its heads does;
# - find your way through the sixteen notebooks.
#
# *You need:* some Python, and that you have seen a matrix product. *To study:* 40 minutes.
# *To lecture:* 15 minutes.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## How this course works
#
# A notebook is a list of cells. Click on one and press <kbd>Shift</kbd>+<kbd>Enter</kbd> to run it,
# or choose *Run → Run All Cells*: every notebook runs from top to bottom without your doing anything.
#
# | you will meet | what to do |
# |---|---|
# | a **prediction** | choose an answer, then run the cells below it: they measure who is right. Their results stay folded until you run them |
# | a **claim** | a statement with its measurement. If it did not hold, the notebook would stop there. Those that test a popular or disputed statement bear its number ("claim 11 of the ledger"); the [index of claims](CLAIMS.md) lists all of them |
# | an **explorer** | move its controls, point at the picture, use the arrow keys |
# | an **exercise** | replace the line `raise NotImplementedError(...)` or `...`, run the cell, then the check below |
#
# No later cell needs your answers, and nothing that you try can break anything. If you are lost,
# *Kernel → Restart Kernel and Run All Cells* brings everything back.
#
# First, what are we running on? The course needs nothing but a CPU and 2 GB of memory.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import platform

import torch
import torch.nn.functional as F

import attnlab
from attnlab import plots, positions
from attnlab.exercises import check
from attnlab.explorers import AttentionExplorer
from attnlab.pretrained import load_encoder
from attnlab.teach import claim, figure, predict, your_progress

# %% slideshow={"slide_type": "skip"}
gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
print(f"Python {platform.python_version()}, PyTorch {torch.__version__}, attnlab "
      f"{attnlab.__version__}, {torch.get_num_threads()} CPU threads")
print(f"GPU: {gpu}" if gpu else "no GPU: all right, everything here runs on the CPU")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A real model
#
# The next cell loads a small language model that was trained on English sentences,
# **all-MiniLM-L6-v2**: 6 layers with 12 attention heads each, 72 heads in all. The first time, it
# fetches 84 MB; after that it needs no network. It was rebuilt from this course's own parts, and a
# test makes sure that it computes what the original computes.

# %%
encoder = load_encoder()
trained = not encoder.is_random
untrained = "" if trained else "this needs the trained parameters, and they could not be fetched"
warning = "" if trained else "\nRANDOM PARAMETERS: the pattern means nothing"
print(encoder.note)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## One sentence through one attention layer
#
# The sentence is `The cat sat on the mat.` Keep it for now: the measurements below are for it. Your
# own sentence comes in the explorer.
#
# ### Text becomes tokens, tokens become vectors
#
# The text is cut into **tokens** from a list of 30,522: words, pieces of words (they begin with
# `##`) and signs. Two special tokens, the **marks**, stand at the beginning, `[CLS]`, and at the
# end, `[SEP]`.

# %%
text = "The cat sat on the mat."
ids, tokens = encoder.tokenize(text)
for number, token in zip(ids[0].tolist(), tokens, strict=True):
    print(f"{number:6}  {token}")

# %% [markdown]
# Each token is looked up in a table: it becomes a vector of $d_{model} = 384$ numbers. Another
# vector, one for each position, is added, so that the model knows where a token stands. All vectors
# together are $X$, of shape `(batch, tokens, d_model)`; a batch is a number of sentences, here one.

# %%
with torch.no_grad():
    x = encoder.model.embed(ids)
print("X", tuple(x.shape))

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Queries, keys, values
#
# In each head, each token makes three short vectors out of its $X$: a **query** (what am I looking
# for?), a **key** (what have I to offer?) and a **value** (what do I hand over?). There are 12 heads
# and the vectors have $384 / 12 = 32$ numbers: `(batch, heads, tokens, d_head)`.

# %%
layer = encoder.model.layers[0].attention
with torch.no_grad():
    q, k, v = layer.heads(x)
for name, array in (("queries", q), ("keys", k), ("values", v)):
    print(f"{name:8}", tuple(array.shape))

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Scores, weights, output
#
# The dot product of each query with each key, divided by $\sqrt{32}$ (notebook 1 says why), is a
# **score** for this pair of tokens. A softmax turns the scores of one query into **weights** that
# sum to 1: `(batch, heads, query, key)`. The head's output at a token is the weighted average of
# all values. The outputs of the 12 heads are set side by side and multiplied by one more matrix,
# $W^O$.
#
# In this course *weight* always means such an attention weight. The numbers that training changes
# are called *parameters*.

# %%
with torch.no_grad():
    scores = q @ k.mT / 32**0.5
    weights = scores.softmax(dim=-1)
    heads = weights @ v
    concatenated = heads.transpose(1, 2).flatten(-2)
    output = layer.out_proj(concatenated)
    at_once = layer(x)
for name, array in (("scores", scores), ("weights", weights), ("heads", heads),
                    ("side by side", concatenated), ("output", output)):
    print(f"{name:13}", tuple(array.shape))
claim(
    "These five lines are the attention layer: they give what the layer itself gives.",
    (output - at_once).abs().max(),
    below=1e-5,
    source="Vaswani et al. 2017, section 3.2",
)
claim(
    "The weights of each query sum to 1 (all heads, all tokens).",
    weights.sum(dim=-1).flatten(),
    expect=1.0,
    atol=1e-5,
    source="definition of softmax",
    id=7,
)

# %% [markdown]
# That was all of attention, and the rest of the course is about what these few lines do. (A full
# layer of the model also has a small network that works on each token by itself. It mixes no tokens,
# and we leave it out.) A **claim** like the two above shows what was measured, what was expected, and
# where the statement comes from.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What does a head look at?
#
# Here are the weights of head 2 of the first layer (we count from 0). Each row is a token that asks;
# bright squares show where it looks.

# %%
figure(
    plots.weight_maps(weights[0, [2]], tokens, titles=[f"layer 0, head 2{warning}"]),
    alt="Heat map of the weights of head 2 in layer 0. A bright line runs just below the diagonal: "
    "each token looks at the one before it."
    if trained
    else "Heat map of the weights of a head with random parameters: no pattern.",
)

# %%
guess = predict(
    "This head puts nearly everything on the token just before. How many of the model's 72 heads "
    "give more than nine tenths of their weight to the token before, on average?",
    ["1", "about 10", "about 30", "most"],
    id="00-previous",
)
guess

# %%
all_weights = torch.stack(encoder.weights(text))  # (6 layers, 12 heads, query, key)
here = torch.arange(1, len(tokens))
on_previous = all_weights[:, :, here, here - 1].mean(dim=-1)  # (6 layers, 12 heads)
count = int((on_previous > 0.9).sum())
print(f"{count} of {on_previous.numel()} heads; the next best gives "
      f"{on_previous.flatten().sort().values[-2]:.2f}")

# %%
if trained:
    guess.reveal(
        min(range(4), key=lambda i: abs((1, 10, 30, 50)[i] - count)),
        "A head that does one simple thing perfectly is rare. Most heads mix.",
    )
claim(
    "Layer 0, head 2 looks at the token before: smallest weight over all tokens but the first.",
    all_weights[0, 2, here, here - 1].min(),
    above=0.9,
    source="all-MiniLM-L6-v2, measured here",
    skip=untrained,
)

# %%
guess = predict(
    "Which of these receives the largest share of the weight, over all 72 heads?",
    ["the two nouns", "the token before and the token after", "the two marks, [CLS] and [SEP]",
     "the full stop"],
    id="00-marks",
)
guess

# %%
is_noun = torch.tensor([t in ("cat", "mat") for t in tokens])
is_mark = torch.tensor([t in ("[CLS]", "[SEP]") for t in tokens])
is_stop = torch.tensor([t == "." for t in tokens])
received = all_weights.mean(dim=(0, 1))  # (query, key): mean over all heads
distance = (torch.arange(len(tokens))[:, None] - torch.arange(len(tokens))).abs()
shares = {
    "nouns": received[:, is_noun].sum(dim=-1).mean().item(),
    "neighbours": received[distance == 1].sum().item() / len(tokens),
    "marks": received[:, is_mark].sum(dim=-1).mean().item(),
    "full stop": received[:, is_stop].sum(dim=-1).mean().item(),
}
for kind, share in shares.items():
    print(f"{kind:10} {share:.0%}")

# %%
if trained:
    guess.reveal(
        list(shares.values()).index(max(shares.values())),
        "Many heads park their weight on the marks when they have nothing to say. A bright column "
        "is not yet a sign of importance; notebook 3 comes back to it.",
    )
claim(
    "[CLS] and [SEP] receive more than their part: their share of the weight, divided by the share "
    "of any two tokens if all weights were equal.",
    shares["marks"] / (2 / len(tokens)),
    above=1.5,
    source="all-MiniLM-L6-v2, measured here; compare Clark et al. 2019, section 3.2",
    id=29,
    skip=untrained or ("this text is too short for it" if len(tokens) < 6 else ""),
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: the Attention Explorer
#
# All heads of a layer at once, for **your own sentence**. Type one; then
#
# 1. step through the **layers**. Where do you find the head that looks back by one? Where do the
#    bright columns of the marks begin?
# 2. click on a head (or use the arrow keys). The large picture shows it with its tokens, the arcs
#    below show the same weights as lines. Point at a square to read its number.
# 3. lower the **temperature**: every row concentrates on its favourite. The number at each head is
#    its entropy: 0 means that each token looks at one token only.
# 4. switch on the **causal mask**: nobody may look ahead any more. GPT reads like that.
# 5. set the source to **random projections**: the matrices that make queries, keys and values are
#    random numbers, and you may choose the number of heads, their size, and the **encoding**, which
#    is how the model is told where a token stands.

# %%
AttentionExplorer("The cat sat on the mat because it was tired.", source="model", model=encoder)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Does the order of words matter?
#
# One half of this course is about heads, the other about positions. Why positions? We turn a
# sentence round, and compare the two as the model sees them: by the cosine between the means of
# their output vectors, which is 1 when both point the same way. (A mean forgets the order of what it
# averages. But if the model knows the order, every single output vector depends on it, and the mean
# shows that.)

# %%
def cosine(first, second):
    means = [encoder(sentence)[0].mean(dim=0) for sentence in (first, second)]
    return F.cosine_similarity(*means, dim=0).item()


pair = ("The cat chased the mouse.", "The mouse chased the cat.")
with torch.no_grad():
    with_positions = cosine(*pair)
print(f"cosine of the two sentences, with positions: {with_positions:.4f}")

# %%
guess = predict(
    "'The cat chased the mouse.' and 'The mouse chased the cat.' The cosine with positions stands "
    "above. Without the position vectors it becomes …",
    ["smaller", "exactly 1 (up to rounding)", "larger, but not 1"],
    id="00-order",
)
guess

# %%
learned_positions = encoder.model.encoding
with torch.no_grad():
    encoder.model.encoding = positions.Encoding()  # the encoding that does nothing
    without = cosine(*pair)
    encoder.model.encoding = learned_positions
print(f"with positions {with_positions:.4f}, without {without:.7f}")

# %%
guess.reveal(
    1 if abs(without - 1) < 1e-5 else 0 if without < with_positions else 2,
    "Without positions the model sees a bag of tokens, and both sentences are the same bag. "
    "Notebook 6 shows why, and where this statement needs care.",
)
claim(
    "Without positions, the model cannot tell who chased whom (cosine of the two sentences).",
    without,
    expect=1.0,
    atol=1e-5,
    source="measured here; Lee et al. 2019 for the reason",
    id=44,
)
claim(
    "With positions, the two sentences differ (cosine below 1).",
    with_positions,
    below=0.999,
    source="measured here",
    id=44,
    skip=untrained,
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 0.1: your first check &nbsp; (●○○, 3 minutes)
#
# How many attention weights does one layer compute for one sentence? Write the function. To see what
# a check does with a mistake, first try `return n_tokens * n_heads`.

# %% tags=["exercise"]
def number_of_weights(n_tokens, n_heads):
    """Attention weights in one layer for one sentence: a whole number."""
    # BEGIN SOLUTION
    return n_heads * n_tokens * n_tokens
    # END SOLUTION


# %%
check("0.1", number_of_weights)

# %% [markdown] tags=["hint"]
# The shape of the weights is `(batch, heads, query, key)`; here the batch is 1.

# %% [markdown] tags=["hint"]
# Every token is both a query and a key.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 0.2: who looks where? &nbsp; (●○○, 5 minutes)
#
# Which token does each token look at most, in one head? Write the function; `weights` has the shape
# `(heads, query, key)`. Then call it with `all_weights[0]`, `tokens` and head 2.

# %% tags=["exercise"]
def favourites(weights, tokens, head):
    """For each query the token with the largest weight: a list of strings."""
    # BEGIN SOLUTION
    return [tokens[key] for key in weights[head].argmax(dim=-1)]
    # END SOLUTION


# %%
check("0.2", favourites)

# %% [markdown] tags=["hint"]
# `weights[head]` is (query, key). `argmax(dim=-1)` gives, for each query, the number of its key.

# %% [markdown] tags=["hint"]
# `[tokens[key] for key in …]` turns numbers into tokens.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 0.3: the output by hand &nbsp; (●●○, 6 minutes)
#
# One query has a weight for each key, and each key has a value vector. What does the head put out for
# this query? `weights` is `(key,)`, `values` is `(key, d_head)`; no softmax is needed any more.

# %% tags=["exercise"]
def output_of_a_query(weights, values):
    """The output of the head for one query: (d_head,)."""
    # BEGIN SOLUTION
    return weights @ values
    # END SOLUTION


# %%
check("0.3", output_of_a_query)

# %% [markdown] tags=["hint"]
# The weighted average of the value vectors: each vector times its weight, and all of them added up.

# %% [markdown] tags=["hint"]
# For two keys it is `weights[0] * values[0] + weights[1] * values[1]`. A matrix product does it for
# all.

# %% [markdown]
# ### For your own sentence
#
# No check here, only your eyes. Type a sentence with a pronoun into the explorer above, such as
# *The trophy does not fit into the bag because it is too big.* Can you find a head in which "it"
# looks at "trophy"? Now replace "big" by "small". Does that head follow? [Notebook 3](03-what-heads-learn.ipynb) shows how to
# find out whether what you saw is more than luck.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The course
#
# | notebook | question or subject |
# |---|---|
# | **0** Start here | what does a model look at? |
# | **1** [One head](01-one-head.ipynb) | what can one head do, and what not? |
# | **2** [Many heads](02-many-heads.ipynb) | how are heads split, merged and counted? |
# | **3** [What heads learn](03-what-heads-learn.ipynb) | which heads do something that you can name? |
# | **4** [Which heads matter](04-which-heads-matter.ipynb) | which heads can go? |
# | **5** [Sharing and scales](05-sharing-and-scales.ipynb) | what is saved when heads share keys, or see only near tokens? |
# | **6** [The order problem](06-the-order-problem.ipynb) | what does attention know about order? |
# | **7** [Sinusoidal](07-sinusoidal.ipynb) | what do the waves encode? |
# | **8** [Putting positions in](08-putting-positions-in.ipynb) | add, concatenate, mix, at which layer? |
# | **9** [Four terms](09-four-terms.ipynb) | how much of a score is content, how much position? |
# | **10** [Relative positions](10-relative-positions.ipynb) | Shaw, T5, ALiBi, Sandwich |
# | **11** [RoPE](11-rope.ipynb) | rotation instead of addition |
# | **12** [Beyond the training length](12-beyond-training-length.ipynb) | which encodings survive longer texts? |
# | **13** [Structured and adaptive](13-structured-and-adaptive.ipynb) | trees, graphs, positions from content |
# | **14** [What attention costs](14-what-attention-costs.ipynb) | which limit holds: arithmetic, memory, or neither? |
# | **15** [Attention without the matrix](15-attention-without-the-matrix.ipynb) | exact statistics of very long texts |
#
# ### Your progress
#
# All exercises of the course, and what the checks said of your answers. The panel reads a small file on
# your own disk, which the checks write: nothing is sent, and "Start again" empties it. Point at a sign
# to read its exercise.

# %% slideshow={"slide_type": "skip"}
your_progress()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | array | shape | for this sentence |
# |---|---|---|
# | $X$ | (batch, tokens, d_model) | (1, 9, 384) |
# | queries, keys, values | (batch, heads, tokens, d_head) | (1, 12, 9, 32) |
# | scores, weights | (batch, heads, query, key) | (1, 12, 9, 9) |
# | output | (batch, tokens, d_model) | (1, 9, 384) |
#
# ### Questions
#
# *What can attention patterns tell us about a model?* (Review question 13 of the course, begun here,
# finished in [notebook 3](03-what-heads-learn.ipynb).) That one head looks at the token before: yes, that is measured. That a
# bright column is important: no, the largest share lies on two marks without meaning.
#
# ### Common misconceptions
#
# - "Every head has a job that one can name": one of 72 does this one cleanly; see the count above.
# - "A transformer reads from left to right": attention sees a bag; order comes from positions (or
#   from a mask).
#
# ### Further reading
#
# - Vaswani et al. 2017, *Attention Is All You Need*: sections 3.1 to 3.3.
# - Clark et al. 2019, *What Does BERT Look At?*: section 3.
# - The model: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), fine-tuned from
#   nreimers/MiniLM-L6-H384-uncased (MIT).
#
# **Next:** [notebook 1](01-one-head.ipynb).
