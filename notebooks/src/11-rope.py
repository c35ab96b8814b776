# %% [markdown] slideshow={"slide_type": "slide"}
# # 11. Rotary encoding (RoPE)
#
# **How can a score know how far apart two tokens are when no vector of positions is added to anything?**
#
# When you have worked through this notebook you can
#
# - turn a query and a key by hand and say which offset their score sees, with the right sign;
# - say what is turned in a layer, at which step, and what is not;
# - convert parameters between the two channel layouts, and choose a test that finds a mix-up;
# - tell what base and scaling do to each frequency, and which angles a model has never seen;
# - count what the rotation costs, and keep its angles exact in low precision.
#
# *You need:* [notebook 2](02-many-heads.ipynb), the frequencies of [notebook 7](07-sinusoidal.ipynb).
# *To study:* 90 minutes. *To lecture:* 50 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import math

import matplotlib.pyplot as plt
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import attnlab
from attnlab.exercises import check, find
from attnlab.explorers import RotationExplorer
from attnlab.positions import RoPE, Sinusoidal
from attnlab.positions.rotary import channel_order
from attnlab.teach import claim, figure, predict

torch.manual_seed(0)
DARK, GOLD, BLUE = "#00224e", "#b8860b", "#0072b2"

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Turning a vector in the plane
#
# The matrix
#
# $$R(\varphi) = \begin{bmatrix}\cos\varphi & -\sin\varphi\\ \sin\varphi & \cos\varphi\end{bmatrix}$$
#
# turns a vector of the plane by the angle $\varphi$, counter-clockwise: $(a, b)$ becomes
# $(a\cos\varphi - b\sin\varphi,\; b\cos\varphi + a\sin\varphi)$.
#
# **Rotary encoding** (RoPE, rotary position embedding) turns a vector at position $m$ by the angle
# $m\,\omega$. The number $\omega$ is the *frequency*, in radians per position. Nothing is added. Take
# $\omega = \pi/6$, that is 30° per position, and the vector $(2, 0)$.

# %%
def turn(vector, position, omega=math.pi / 6):
    """The vector (2,) turned by position * omega."""
    c, s = math.cos(position * omega), math.sin(position * omega)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64) @ vector


vector = torch.tensor([2.0, 0.0], dtype=torch.float64)
fig, ax = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
ax.add_patch(plt.Circle((0, 0), 2, fill=False, color="#888888", lw=0.8))
for m in range(5):
    x, y = turn(vector, m).tolist()
    print(f"position {m}: ({x:5.2f}, {y:5.2f})")
    ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": DARK, "lw": 2})
    ax.annotate(f"m = {m}", (1.2 * x, 1.2 * y), ha="center", va="center")
ax.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xlabel="first entry",
       ylabel="second entry")
figure(fig, alt="The vector (2, 0) turned by 30 degrees for each position: five arrows of the same "
       "length, counter-clockwise from the right at position 0 to the upper left at position 4.")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What the score sees
#
# As in the papers on RoPE, $m$ is the position of a query here and $n$ that of a key; elsewhere in
# this course these are $i$ and $j$, and $n$ is the number of tokens.
#
# In a head the query $q$ of a token at position $m$ becomes $q_m = R_m q$, and the key $k$ of a token at
# position $n$ becomes $k_n = R_n k$. Here $R_m$ is short for $R(m\omega)$. Their score is
# $q_m\cdot k_n$. (We leave out the division by $\sqrt{d_k}$ as long as it plays no part.)

# %%
guess = predict(
    "Which matrix M makes q_m·k_n equal to qᵀ M k, for all q, k, m and n?",
    ["R_{m−n}", "R_{n−m}", "R_{m+n}", "none: m and n count one by one"],
    id="11-sign",
)
guess

# %%
generator = torch.Generator().manual_seed(1)
candidates = {"R_{m−n}": lambda m, n: m - n, "R_{n−m}": lambda m, n: n - m,
              "R_{m+n}": lambda m, n: m + n}
errors = dict.fromkeys(candidates, 0.0)
for _ in range(200):
    q, k = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    m, n = torch.randint(0, 1000, (2,), generator=generator).tolist()
    score = turn(q, m, 0.5) @ turn(k, n, 0.5)
    for name, position in candidates.items():
        error = (score - q @ turn(k, position(m, n), 0.5)).abs().item()
        errors[name] = max(errors[name], error)
for name, error in errors.items():
    print(f"largest error of qᵀ {name} k over 200 random cases: {error:.1e}")

# %%
fits = [name for name, error in errors.items() if error < 1e-9]
guess.reveal(
    fits[0] if fits else "none: m and n count one by one",
    "The transpose of a rotation turns back: R_m transposed is R_{−m}. So q_m·k_n = qᵀ R_{−m} R_n k = "
    "qᵀ R_{n−m} k.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# So the score depends on the content, $q$ and $k$, and on the **offset** $n - m$: position of the key
# minus position of the query. Shift both by the same number, and both arrows turn by the same angle;
# the angle between them stays.
#
# You may also read $R_{m-n}$. With the query on the left that is the wrong sign. ($k^\top
# R_{m-n}\, q$ is right: the same number, read the other way round.)
#
# **By hand.** $q = (2, 0)$ points to 0°. Let $k$ have length 1 and point to 60°. One position is 30°.
# The query is at $m = 3$, so it turns to 90°. The key at $n = 1$ turns to $60° + 30° = 90°$. The arrows
# coincide, and the score is $2\cdot 1\cdot\cos 0° = 2$. From the formula: 60° by content, and
# $(1-3)\cdot 30° = -60°$ by offset. With the wrong sign it would be $60° + 60° = 120°$, and the score
# $-1$.

# %%
q = torch.tensor([2.0, 0.0], dtype=torch.float64)
k = torch.tensor([math.cos(math.pi / 3), math.sin(math.pi / 3)], dtype=torch.float64)
claim("The example by hand: query at 3, key at 1.", turn(q, 3) @ turn(k, 1), expect=2.0, atol=1e-12,
      source="this cell", id=72)
claim("The same pair 1,000 positions further on.", turn(q, 1003) @ turn(k, 1001), expect=2.0,
      atol=1e-9, source="this cell", id=73)

# %% [markdown]
# The offset has a sign, so the score can tell left from right. A key before the query and the same key
# after it, at the same distance, get different scores in general. (With $k = q$ they get the same.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Many pairs, many frequencies
#
# One frequency repeats itself: after a full turn the angle is the same again. So RoPE cuts the $d$
# entries of a query into $d/2$ pairs, and pair $i = 0, \dots, d/2 - 1$ gets a frequency of its own:
#
# $$\omega_i = 10000^{-2i/d}$$
#
# These are the frequencies of the sinusoidal encoding. **Here $d$ is the size of one head**, `d_head`,
# and not $d_{model}$: all heads turn alike. 10000 is the *base*.
#
# Written as one matrix of shape $(d, d)$, the rotation has the small matrices on its diagonal:
# $R_m = \mathrm{diag}(R(m\omega_0), R(m\omega_1), \dots)$. The code below says just that.

# %%
def rotation_matrix(position, d, base=10_000.0):
    """R_position, (d, d), for pairs of neighbouring channels."""
    blocks = []
    for i in range(d // 2):
        angle = position * base ** (-2 * i / d)
        c, s = math.cos(angle), math.sin(angle)
        blocks.append(torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
    return torch.block_diag(*blocks)


d, n = 64, 12
generator = torch.Generator().manual_seed(2)
x = torch.randn(n, d, generator=generator, dtype=torch.float64)  # (tokens, d_head)
pos = torch.arange(n)

by_matrix = torch.stack([rotation_matrix(m, d) @ x[m] for m in range(n)])
rope = RoPE(d, layout="interleaved")  # pairs of neighbours; another layout comes later
by_attnlab = rope.rotate(x[None, None], pos)[0, 0]  # attnlab wants (batch, heads, tokens, d_head)
pairs = torch.view_as_complex(x.unflatten(-1, (d // 2, 2)))  # (tokens, pairs): a + b·i
phase = torch.exp(1j * pos[:, None] * 10_000.0 ** (-torch.arange(0, d, 2) / d).double())
by_complex = torch.view_as_real(pairs * phase).flatten(-2)
claim(
    "The block matrix, attnlab, and a multiplication of complex numbers agree.",
    [(by_matrix - by_attnlab).abs().max(), (by_matrix - by_complex).abs().max()],
    below=1e-12,
    source="Su et al. 2021, section 3.2 and equation 34",
    id=71,
)

# %% [markdown]
# Nobody multiplies by the big matrix; it is almost all zeros. Two products for each number are enough
# (exercise 11.2).
#
# What was true of one pair is true of all, since the score is a sum over pairs:

# %% slideshow={"slide_type": "subslide"}
generator = torch.Generator().manual_seed(3)


def rotate_one(vector, position):
    return rope.rotate(vector[None, None, None], torch.tensor([position]))[0, 0, 0]


right, norms, scores, wrong = 0.0, 0.0, [], []
for _ in range(200):
    q, k = torch.randn(2, d, generator=generator, dtype=torch.float64)
    m, n = torch.randint(0, 2000, (2,), generator=generator).tolist()
    score = rotate_one(q, m) @ rotate_one(k, n)
    right = max(right, (score - q @ rotate_one(k, n - m)).abs().item())
    wrong.append(score - q @ rotate_one(k, m - n))
    scores.append(score)
    norms = max(norms, (rotate_one(q, m).norm() - q.norm()).abs().item())
claim("q_m·k_n = qᵀ R_{n−m} k (largest error of 200 random cases, d_head = 64).", right, below=1e-9,
      source="Su et al. 2021, equation 16", id=72)
claim("With R_{m−n} the error is larger than the scores themselves (ratio of their spreads).",
      torch.stack(wrong).std() / torch.stack(scores).std(), above=1.0, source="the same 200 cases",
      id=72)
one_before = (rotate_one(q, 1) @ rotate_one(k, 0)).item()
one_after = (rotate_one(q, 0) @ rotate_one(k, 1)).item()
print(f"key just before the query {one_before:.2f}, the same key just after it {one_after:.2f}")
claim("A key just before the query and the same key just after it get different scores "
      "(difference).", abs(one_before - one_after), above=0.01, source="the last of these cases",
      id=72)
claim("Turning keeps the norm (largest change).", norms, below=1e-12, source="the same cases", id=71)
claim("Turning by 7 and then by 20 is turning by 27 (largest difference).",
      (rotate_one(rotate_one(q, 7), 20) - rotate_one(q, 27)).abs().max(), below=1e-12,
      source="this cell", id=71)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Where to turn?
#
# The core idea is sometimes written as "rotate the embeddings", $f(x, m) = R_m x$. Let us be
# careful about what $x$ is. A layer computes $q = x W^Q$, $k = x W^K$, $v = x W^V$. We could turn the
# token vectors $x$, and project what comes out. Or we could project first, and turn $q$ and $k$.

# %%
guess = predict(
    "We turn x by its position and then project it to q and k; v comes from x as it was. Now all tokens "
    "move 1,000 positions to the right. The output of the heads …",
    ["changes by about its own size", "changes by about 1 %", "stays the same, up to rounding"],
    id="11-where",
)
guess

# %%
layer = attnlab.MultiHeadAttention(d_model=64, n_heads=4, bias=False).double()  # d_head = 16
x = torch.randn(1, 20, 64, dtype=torch.float64)  # (batch, tokens, d_model)
head_rope, wide_rope = RoPE(16), RoPE(64)


def attend(where, start):
    """Output of the heads, (1, heads, tokens, d_head), for tokens at start, start + 1, …"""
    pos = start + torch.arange(20)
    q, k, v = layer.heads(x)
    if where == "x, before the projections":
        q, k, _ = layer.heads(wide_rope.rotate(x[:, None], pos)[:, 0])
    else:
        q, k = head_rope.rotate(q, pos), head_rope.rotate(k, pos)
    if where == "q, k and v":
        v = head_rope.rotate(v, pos)
    return attnlab.scaled_dot_product_attention(q, k, v)


changes = {}
for where in ("q and k, after the projections", "x, before the projections", "q, k and v"):
    here, there = attend(where, 0), attend(where, 1000)
    changes[where] = ((there - here).norm() / here.norm()).item()
    print(f"turned: {where:32} relative change of the output {changes[where]:.1e}")

# %%
moved = changes["x, before the projections"]
guess.reveal(
    2 if moved < 1e-9 else 1 if moved < 0.1 else 0,
    "Between the two rotations now stand W_Q and W_K. R_{−m} and R_n no longer meet, and do not join "
    "to R_{n−m}. Each position counts by itself.",
)

# %%
claim("q and k turned after the projections: a shift of all positions by 1,000 changes nothing "
      "(relative change of the output).", changes["q and k, after the projections"], below=1e-12,
      source="Su et al. 2021, section 3.2.2", id=70)
claim("x turned before the projections to q and k: the output is another one.",
      changes["x, before the projections"], above=0.5, source="this cell", id=70)
claim("v turned too: the output is another one as well.", changes["q, k and v"], above=0.5,
      source="this cell", id=70)

# %% [markdown]
# The values stay unturned: an output is a sum of values, and nothing would turn them back. So no angle
# is handed on to the next layer, and its scores see no offset unless it turns its own queries and keys.
# Therefore **RoPE turns queries and keys in every layer**, and in every head.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Which channels make a pair?
#
# The entries of a query or key are also called its **channels** (for the whole token vector we said
# features). The paper pairs neighbours: channels $2i$ and $2i + 1$. This is the **interleaved**
# layout. Many libraries pair channel $i$ with channel $i + d/2$: the **half-split** layout. You may
# meet it as a function `rotate_half`.
#
# Both are in use, and both are called RoPE.

# %%
guess = predict(
    "A model was trained with the interleaved layout. We load its parameters into code with the "
    "half-split layout. What happens?",
    ["an error: the shapes do not fit", "the same output, up to rounding",
     "another output, and it changes when all positions are shifted",
     "another output, and it stays when all positions are shifted"],
    id="11-layout",
)
guess

# %%
trained = attnlab.MultiHeadAttention(64, 4, bias=False, encoding=RoPE(16, layout="interleaved"))
loaded = attnlab.MultiHeadAttention(64, 4, bias=False, encoding=RoPE(16, layout="half"))
trained, loaded = trained.double(), loaded.double()
pos = torch.arange(20)
try:
    loaded.load_state_dict(trained.state_dict())
    with torch.no_grad():
        meant, got, shifted = trained(x), loaded(x), loaded(x, pos=pos + 1000)
    mixed = ((got - meant).norm() / meant.norm()).item()
    invariant = ((shifted - got).norm() / got.norm()).item() < 1e-9
    print(f"relative error of the output {mixed:.2f}; unchanged by a shift of positions: {invariant}")
    outcome = 1 if mixed < 1e-9 else 3 if invariant else 2
except (RuntimeError, ValueError):
    outcome = 0

# %%
guess.reveal(
    outcome,
    "The half-split rotation is a proper RoPE too: norms stay, and only offsets count. But it turns "
    "other pairs than those that W_Q and W_K were trained for.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# The mend is a new order of channels, once, when the parameters are loaded. Within each head, put the
# even channels first and then the odd ones: `channel_order` gives this order. It must be applied to
# the channels that $W^Q$ and $W^K$ put out, and to no others. The products $q\cdot k$ do not
# change when $q$ and $k$ are put into the same new order. (`attnlab.positions.convert_layout` does
# this to a stored matrix.)

# %%
order = channel_order(16)  # 0, 2, 4, …, 1, 3, 5, …
print("channel order:", order.tolist())
with torch.no_grad():
    loaded.w_q.copy_(trained.w_q[:, :, order])  # (heads, d_model, d_head)
    loaded.w_k.copy_(trained.w_k[:, :, order])
    converted = loaded(x)
claim("Mixed layouts: the output is wrong by a large part of its size (relative error).", mixed,
      above=0.2, source="the cell before", id=71)
claim("With converted parameters both layouts give the same output.", (converted - meant).abs().max(),
      below=1e-12, source="this cell", id=71)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The same angles as the sinusoidal encoding
#
# The sinusoidal encoding *adds* $(\sin m\omega_i, \cos m\omega_i)$ to the token vectors. RoPE
# *multiplies* the same angles in. Take the simplest query and key, $(1, 0)$ in every pair. Then
# $q_m\cdot k_n = \sum_i\cos\big((n-m)\,\omega_i\big)$, and that is the product of two rows of the
# sinusoidal table, too.

# %%
pos = torch.arange(200)
ones = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(32)  # (64,): (1, 0) in every pair
turned = rope.rotate(ones.expand(1, 1, 200, 64), pos)[0, 0]  # (200, 64)
table = Sinusoidal(64).table(pos, torch.float64)  # (200, 64)
claim("The product of two rows of the sinusoidal table is the RoPE score of (1, 0), (1, 0), … "
      "(largest difference over 200 × 200 position pairs).",
      (turned @ turned.T - table @ table.T).abs().max(), below=1e-9, source="this cell", id=2)

same_token = torch.randn(1, 1, 64, dtype=torch.float64).expand(1, 20, 64)  # one token, 20 times
by_rope = attnlab.MultiHeadAttention(64, 4, bias=False, encoding=RoPE(16)).double()
with torch.no_grad():
    spread_rope = by_rope(same_token).std(dim=1).max()
    added = Sinusoidal(64).embed(same_token, torch.arange(20))
    spread_sinusoidal = layer(added).std(dim=1).max()
claim("RoPE puts nothing into the values: 20 copies of one token all get the same output (spread).",
      spread_rope, below=1e-12, source="this cell", id=70)
claim("The added encoding goes through W_V as well: with it they differ (spread).",
      spread_sinusoidal, above=0.01, source="this cell", id=2)

# %% [markdown]
# The sinusoidal vector tells a layer the *absolute* position; whether its scores use offsets is a
# matter of $W^Q$ and $W^K$ (notebook 7). RoPE gives the scores offsets, whatever the parameters are, and
# leaves absolute positions out.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Does the score fall with distance?
#
# It is often said that with RoPE distant tokens get smaller scores by themselves. Let us ask for which
# queries and keys.

# %%
guess = predict(
    "q and k are random vectors with d_head = 64. Compare the size of their scores (the standard "
    "deviation) at offset 1,000 with that at offset 0.",
    ["at most half as large", "about the same", "at least twice as large"],
    id="11-decay",
)
guess

# %%
half = RoPE(64)
generator = torch.Generator().manual_seed(4)
qs, ks = torch.randn(2, 5000, 64, generator=generator, dtype=torch.float64)
random_std = {}
for offset in (0, 10, 100, 1000, 10_000):
    turned = half.rotate(ks[None, None], torch.full((5000,), offset))[0, 0]
    random_std[offset] = ((qs * turned).sum(-1) / 8).std().item()
    print(f"offset {offset:6,}: std of the score {random_std[offset]:.2f}")

# %%
ratio = random_std[1000] / random_std[0]
guess.reveal(
    0 if ratio <= 0.5 else 2 if ratio >= 2 else 1,
    "A turned random vector is a random vector of the same kind. The offset changes which keys score "
    "high, not how high they score.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# If the key **equals** the query, each pair gives its largest score when nothing is turned, and the
# mean over pairs falls from there, but not steadily. And $q = k$ is a special case.
# Take a key that is the query turned by 5, $k = R_5 q$. Then $q^\top R_{n-m}\,k = q^\top R_{n-m+5}\,q$
# is largest where $n - m = -5$: five tokens back. Any offset can be made the favourite.

# %%
offsets = torch.arange(-60, 61)
generator = torch.Generator().manual_seed(5)
q = torch.randn(64, generator=generator, dtype=torch.float64)


def scores_at(q, k, offsets):
    """q·k / √64 for a query at 0 and the same key at each offset."""
    return half.rotate(k.expand(1, 1, len(offsets), 64), offsets)[0, 0] @ q / 8


back_5 = half.rotate(q[None, None, None], torch.tensor([5]))[0, 0, 0]
curves = {"k = q": scores_at(q, q, offsets), "k = R₅ q": scores_at(q, back_5, offsets),
          "k random": scores_at(q, ks[0], offsets)}
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
styles = (("-", DARK), ("--", GOLD), (":", BLUE))
for (name, curve), (style, colour) in zip(curves.items(), styles, strict=True):
    ax.plot(offsets, curve, style, color=colour, lw=2, label=name)
ax.axvline(0, color="#888888", lw=0.8)
ax.set(xlabel="offset n − m (positions)", ylabel="score q·k / √d_k")
ax.legend()
best = offsets[curves["k = R₅ q"].argmax()].item()
figure(fig, alt="Score against offset from -60 to 60 for three keys. For the key equal to the query "
       f"it has its peak at 0, for the key turned by 5 at {best}; for a random key it goes up and "
       "down around 0 without falling off.")

# %% [markdown]
# Now $q = k$ over longer distances, with `d_head` = 128 from here on. All pairs have equal length, so the
# score is the mean of $\cos(\omega_i\cdot\text{distance})$, times a constant.

# %%
omega = RoPE(128).frequencies()  # (64 pairs,)
distance = torch.arange(0, 5001)
mean_cosine = torch.cos(distance[:, None] * omega).mean(-1)  # (5001,)
for far in (1, 10, 100, 1000, 5000):
    print(f"q = k: score at distance {far:5,} / score at 0: {mean_cosine[far]:5.2f}")
claim("Random q and k: the spread of the scores at offsets 10 to 10,000, over that at 0.",
      [random_std[o] / random_std[0] for o in (10, 100, 1000, 10_000)], expect=1.0, atol=0.1,
      source="5,000 random pairs", id=74)
claim("q = k: of 4,096 steps away from the query, the share in which the score rises.",
      (mean_cosine[1:4097] > mean_cosine[:4096]).double().mean(), between=(0.45, 0.52),
      source="mean of cos(ω_i · distance) over the pairs", id=74)
claim("q = k: the score still falls on the whole (share left at distance 1,000).",
      mean_cosine[1000], below=0.3, source="compare Su et al. 2021, section 3.4.3: an upper bound",
      id=74)
claim("The key R_5 q is preferred five tokens back (offset of its largest score).", best, equals=-5,
      source="compare Barbero et al. 2025", id=74)

# %% [markdown]
# What falls with distance in the paper is an *upper bound*; the scores below it need not fall. To say
# "RoPE prefers near tokens" is to say something about trained parameters.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Base and wavelengths
#
# Pair $i$ has made a full turn after $\lambda_i = 2\pi/\omega_i$ positions, its *wavelength*. The
# fast pairs repeat within a few tokens. And the slow ones?

# %%
guess = predict(
    "d_head = 128, so there are 64 pairs; base 10,000; texts of L = 2,048 tokens. How many of the 64 "
    "pairs never complete a turn within the text?",
    ["none", "between 1 and 10", "between 11 and 40", "more than 40"],
    id="11-turns",
)
guess

# %%
L = 2048


def never_complete(base, length):
    return int((2 * math.pi / RoPE(128, base=base).frequencies() > length).sum())


for base, length in ((10_000.0, L), (10_000.0, 4096), (500_000.0, L), (500_000.0, 8192)):
    print(f"base {base:9,.0f}, L = {length:,}: {never_complete(base, length)} of 64 pairs do not "
          "complete a turn")
incomplete = never_complete(10_000.0, L)

# %%
guess.reveal(
    0 if incomplete == 0 else 1 if incomplete <= 10 else 2 if incomplete <= 40 else 3,
    f"{incomplete} of 64. The slowest pair needs {2 * math.pi / omega[-1].item():,.0f} positions for "
    "one turn.",
)

# %%
claim("d_head = 128, base 10,000, L = 2,048: number of pairs that never complete a turn.", incomplete,
      equals=23, source="ω_i = base^(−2i/d)", id=75)
claim("A larger base makes more of them (base 500,000, the same L).", never_complete(500_000.0, L),
      above=23, source="this cell", id=75)

# %% [markdown]
# This matters for length. An offset turns pair $i$ by $\omega_i$ times the distance (let all keys stand
# before the query, as under a causal mask). A pair that has gone all the way round has met angles all
# round the circle in training. A pair that has not knows the angles up to $\omega_i L$ **and no others**.
# In a longer text it meets angles that are new to the model.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Scaling: how to reach further
#
# Let a model be trained on texts of length $L$ and asked to read texts of $sL$; here $s = 4$. Three
# recipes change the frequencies $\omega_i$ into $\omega_i'$ so that fewer angles are new.
#
# - **Linear** (position interpolation): divide every frequency by $s$. The same as calling position
#   $m$ now $m/s$.
# - **NTK-aware**: take a larger base, $10000\cdot s^{d/(d-2)}$. The fastest pair stays, the slowest is
#   divided by $s$, those between by something between. (The name comes from the theory that inspired
#   it, the neural tangent kernel.)
# - **YaRN**: keep the pairs that turn often within $L$ (more than 32 times), divide those that never
#   complete a turn by $s$, and blend between. It also multiplies all scores by one number above 1.

# %%
guess = predict(
    f"{incomplete} of the 64 pairs know only some angles. With NTK-aware scaling for 4 L, how many of "
    "them still meet new angles in a text of 4 L?",
    ["nearly all of them", "about half of them", "none"],
    id="11-ntk",
)
guess

# %%
plain = RoPE(128).frequencies()
knows_a_part = plain * L < 2 * math.pi  # (64,): never completes a turn in training
scaled, meets_new = {"none": plain}, {}
for name in ("linear", "ntk", "yarn"):
    scaled[name] = RoPE(128, scaling=name, factor=4.0, trained_len=L).frequencies()
for name, frequency in scaled.items():
    new = knows_a_part & (frequency * 4 * L > plain * L * (1 + 1e-9))  # goes beyond ω_i L
    beyond = (frequency * 4 / plain)[knows_a_part].max().item()
    meets_new[name] = int(new.sum())
    print(f"{name:6}: {meets_new[name]:2} pairs meet new angles, up to {beyond:.2f} times the "
          "largest angle of training")

# %%
guess.reveal(
    2 if meets_new["ntk"] == 0 else 1 if meets_new["ntk"] <= 0.7 * incomplete else 0,
    "Only the slowest pair is divided by the full 4. All others are divided by less, so they go a "
    "little beyond what they know.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# The picture shows all pairs. Left: what each recipe does to the frequencies. Right: how many turns a
# pair makes in a text of 4 L. The shading ends at the turns it made in training. Where it ends above one
# full turn, the pair has seen every angle, and no curve brings it new ones. Where it ends below, a curve
# above the shading means new angles.

# %%
styles = {"none": ("#888888", "-"), "linear": (DARK, "--"), "ntk": (GOLD, "-"), "yarn": (BLUE, "-.")}
labels = {"none": "no scaling", "linear": "linear", "ntk": "NTK-aware", "yarn": "YaRN"}
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for name, frequency in scaled.items():
    colour, line = styles[name]
    left.plot(frequency / plain, line, color=colour, lw=2, label=labels[name])
    right.plot(frequency * 4 * L / (2 * math.pi), line, color=colour, lw=2, label=labels[name])
right.fill_between(range(64), plain * L / (2 * math.pi), 1e-9, color="#cccccc", label="met in training")
right.axhline(1, color="black", lw=0.8, ls=":")
left.set(xlabel="pair i", ylabel="frequency after / before scaling", ylim=(0, 1.08))
right.set(xlabel="pair i", ylabel="turns in a text of 4 L", yscale="log", ylim=(1e-2, 3e3))
right.annotate("one full turn", (1, 1.15), fontsize=9)
left.legend()
right.legend()
figure(fig, alt="Left: frequency after scaling over frequency before, against the pair. Linear is a "
       "quarter throughout; NTK-aware falls evenly from 1 to a quarter; YaRN stays at 1 up to pair "
       f"{int((scaled['yarn'] / plain > 0.999).sum()) - 1} and then falls to a quarter. Right: turns "
       "in a text of four times the trained length, on a logarithmic axis; below one full turn only "
       "linear and YaRN stay within the shaded angles of training.")

# %%
claim("Without scaling, every pair that knows only a part meets new angles at 4 L.",
      meets_new["none"], equals=incomplete, source="ω·4L against ω·L", id=75)
claim("Linear and YaRN: no pair does.", [meets_new["linear"], meets_new["yarn"]], equals=0,
      source="Chen et al. 2023; Peng et al. 2024, section 3.2", id=75)
claim("NTK-aware: all of them but the slowest.", meets_new["ntk"], equals=incomplete - 1,
      source="compare Peng et al. 2024, section 3.1", id=75)
claim("YaRN also multiplies all scores by (0.1 ln 4 + 1)².",
      RoPE(128, scaling="yarn", factor=4.0).amplitude ** 2, expect=1.2965, atol=1e-3,
      source="Peng et al. 2024, section 3.4", id=75)
claim("What linear pays: the angle between neighbours shrinks in the fastest pair too (to this share).",
      scaled["linear"][0] / plain[0], expect=0.25, atol=1e-9, source="this cell", id=75)
claim("NTK-aware and YaRN leave the fastest pair alone.",
      [(scaled[name][0] / plain[0]).item() for name in ("ntk", "yarn")], expect=1.0, atol=1e-9,
      source="this cell", id=75)

# %% [markdown]
# **What this does not say.** That no angle is new does not make a model read well at 4 L. The offsets
# are new in other ways: more tokens compete in each softmax, and the angle of an offset is no longer
# the one that the model was trained with. Plain RoPE does not go far beyond its training length
# (Press et al. 2022; Chen et al. 2023), and whether a scaling helps without further training must be
# measured on a trained model: [notebook 12](12-beyond-training-length.ipynb) does.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: turning vectors
#
# One query and one key with `d_head` random numbers each. The circles show one pair of channels, dashed
# before turning; the curve shows the score over all pairs; the bars show how many positions each pair
# needs for a turn.
#
# 1. Move **query at m** and leave the offset alone. Both arrows turn. What does the angle between them
#    do, and what does the curve do?
# 2. Move the **offset**. Which arrow turns? Follow the mark along the curve.
# 3. Step through the **pairs** and watch the thin line, this pair's part of the score: fast waves for
#    small $i$, hardly a slope for large $i$. The score is their sum.
# 4. Set **key** to "equal to the query", then to "made to answer 5 back". Where is the peak? Is the
#    curve falling steadily?
# 5. Change the **layout**. The curve changes: the same numbers, other pairs.
# 6. Shrink the **base** to 10. Which bars change? Do scores repeat? Raise it to 1,000,000: how many
#    pairs complete a turn?
# 7. Choose a **scaling** and compare the bars with the black marks, the wavelengths without it. Which
#    scaling leaves the fast pairs alone? The line above the bars says how many pairs would meet new
#    angles.

# %%
RotationExplorer()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Angles in low precision
#
# "The score depends on the offset only" is exact arithmetic. Half-precision numbers of the kind
# bfloat16 keep 8 significant bits: about two and a half decimal digits.

# %%
positions_in_bf16 = torch.arange(8000, 8256).bfloat16().unique()
print("the 256 positions from 8,000 to 8,255 become, in bfloat16:")
print(positions_in_bf16.int().tolist())

# %%
guess = predict(
    "Scores have standard deviation 1. All positions are shifted by 8,000, and the angles m·ω are "
    "computed in bfloat16. How large is the error of a score (its standard deviation)?",
    ["about as large as the scores", "about 0.03", "about 0.001"],
    id="11-bf16",
)
guess

# %%
generator = torch.Generator().manual_seed(6)
q, k = torch.randn(2, 4000, 64, generator=generator).bfloat16()  # 4,000 queries and keys
back = torch.randint(0, 256, (4000,), generator=generator)  # each key so many positions back
omega_64 = half.frequencies()  # float64


def turned_by(x, angle):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def score(shift, how):
    """4,000 scores of queries at shift + back and keys at shift."""
    result = []
    for x, pos in ((q, shift + back), (k, torch.full((4000,), shift))):
        if how == "bfloat16, angles in bfloat16":
            angle = (pos.bfloat16()[:, None] * omega_64.bfloat16()).float()
            x = turned_by(x.float(), angle).bfloat16()
        elif how == "bfloat16, angles exact":  # as attnlab does it
            x = half.rotate(x[None, None], pos)[0, 0]
        elif how == "float32 throughout":
            x = turned_by(x.float(), pos.float()[:, None] * omega_64.float())
        else:
            x = turned_by(x.double(), pos[:, None] * omega_64)
        result.append(x.double())
    return (result[0] * result[1]).sum(-1) / 8


exact = score(0, "exact")
shifts = (1000, 8000, 100_000)
ways = ("float32 throughout", "bfloat16, angles exact", "bfloat16, angles in bfloat16")
error = {how: [(score(s, how) - exact).std().item() for s in shifts] for how in ways}
print(f"standard deviation of the scores {exact.std():.2f}; of their error after a shift of")
print(" " * 30 + "".join(f"{s:10,}" for s in shifts))
for how, values in error.items():
    print(f"{how:30}" + "".join(f"{v:10.1g}" for v in values))

# %%
worst = error["bfloat16, angles in bfloat16"][1]
guess.reveal(
    min(range(3), key=lambda i: abs(math.log(worst / (1.0, 0.03, 0.001)[i]))),
    "Near 8,000 bfloat16 knows every 32nd position only, so offsets are lost. The turned vectors may "
    "be stored in bfloat16; it is the angles that must not be.",
)

# %%
claim("bfloat16 with angles in bfloat16: the error is about as large as the scores (shift 8,000; "
      "ratio of their spreads).", worst / exact.std(), between=(0.6, 1.6),
      source="compare Wang et al. 2024 (bfloat16 and RoPE)", id=73)
claim("bfloat16 with exact angles: the error stays small (shifts 1,000, 8,000, 100,000).",
      error["bfloat16, angles exact"], below=0.01, source="this cell", id=73)
claim("float32: small, and it grows with the shift (error at 100,000 over error at 1,000).",
      error["float32 throughout"][2] / error["float32 throughout"][0], above=10.0,
      source="this cell", id=73)
claim("float32 at 100,000 (error).", error["float32 throughout"][2], below=0.01, source="this cell",
      id=73)

# %% [markdown]
# So: compute angles, cosines and sines in float32 or better, whatever the model's type, and round the
# turned $q$ and $k$ at the end. `attnlab` does. Code that calls `.bfloat16()` on a whole model can
# round the stored frequencies or tables with it.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What it costs
#
# You may read that RoPE needs "no additional parameters or computations", or memory $O(1)$. We count the
# multiplications, additions and subtractions that PyTorch carries out. (You need not read the class; it
# counts numbers.)

# %%
guess = predict(
    "What does RoPE add to a layer of n tokens, beside the table of angles?",
    ["nothing", "operations, but no memory", "operations and memory, both in proportion to n·d_model",
     "operations, memory and parameters"],
    id="11-cost",
)
guess

# %%
class CountArithmetic(TorchDispatchMode):
    """Counts the numbers that are multiplied, added or subtracted inside the block."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in ("mul", "add", "sub"):
            self.operations += result.numel()
        return result


n, n_heads, d_head = 2048, 8, 64
d_model = n_heads * d_head
q, k = torch.randn(2, 1, n_heads, n, d_head)  # (batch, heads, tokens, d_head) each
angle = (torch.arange(n)[:, None] * half.frequencies()).float()  # (tokens, d_head / 2)
table = torch.stack([angle.cos(), angle.sin()])  # (2, tokens, d_head / 2): computed once
with CountArithmetic() as counter:
    q_turned, k_turned = turned_by(q, angle), turned_by(k, angle)
projections = 4 * 2 * n * d_model**2  # the four products of notebook 2
print(f"operations: RoPE {counter.operations:,}, the four projections {projections:,}")
print(f"bytes: table of cosines and sines {table.nbytes:,}, turned q and k "
      f"{q_turned.nbytes + k_turned.nbytes:,} in every layer")

# %%
new_memory = q_turned.data_ptr() != q.data_ptr() and k_turned.data_ptr() != k.data_ptr()
new_parameters = sum(p.numel() for p in half.parameters()) > 0
guess.reveal(
    3 if new_parameters else 2 if new_memory else 1 if counter.operations else 0,
    "The turned q and k are new tensors as large as q and k, in every layer.",
)

# %%
claim("RoPE has no parameters.", sum(p.numel() for p in half.parameters()), equals=0,
      source="this cell", id=76)
claim("It takes 6·n·d_model operations in every layer, for q and k together.", counter.operations,
      equals=6 * n * d_model, source="counted while it ran", id=76)
claim("That is a small share of the four projections (d_model = 512).",
      counter.operations / projections, below=0.002, source="6·n·d_model against 8·n·d_model²", id=76)
claim("The table grows with the length: 4·n·d_head bytes in float32.", table.nbytes,
      equals=4 * n * d_head, source="this cell", id=77)
claim("The turned q and k are new tensors: 8·n·d_model bytes in float32, in every layer.",
      sum(new.nbytes for new, old in ((q_turned, q), (k_turned, k)) if new.data_ptr() != old.data_ptr()),
      equals=8 * n * d_model, source="this cell", id=77)

# %% [markdown]
# So the parameters are 0, and both computation and memory are $O(n\,d_{model})$ in every layer. A small
# share of the *operations* need not be a small share of the *time*: each number is read and written for
# a few operations only, while a product of large matrices uses each number many times. (Press et al.
# 2022, table 1, measured a model that was much slower with RoPE than with the sinusoidal encoding.)
#
# In decoding ([notebook 5](05-sharing-and-scales.ipynb)) the keys of the past are kept in a cache.
# A key's angle depends on its own position
# only, so it can be stored turned, once and for all:

# %%
decoder = attnlab.MultiHeadAttention(64, 4, bias=False, encoding=RoPE(16)).double()
with torch.no_grad():
    at_once = decoder(x, causal=True)  # (1, 20, 64)
    q, k, v = decoder.heads(x)  # (1, 4, 20, 16) each
    stored, steps = [], []
    for t in range(20):
        now = torch.tensor([t])
        stored.append(RoPE(16).rotate(k[:, :, t : t + 1], now))  # turned once, then kept
        query = RoPE(16).rotate(q[:, :, t : t + 1], now)
        heads = attnlab.scaled_dot_product_attention(query, torch.cat(stored, 2), v[:, :, : t + 1])
        steps.append(decoder.out_proj(heads.transpose(1, 2).flatten(-2)))
claim("Token by token, with turned keys kept, the output is that of the full pass.",
      (torch.cat(steps, dim=1) - at_once).abs().max(), below=1e-12, source="this cell", id=77)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Break it
#
# Three bugs that are met in real code, and three tests: does turning keep the **norm**? Does a **shift**
# of all positions leave the scores alone? Are the numbers **equal** to a reference?
#
# 1. *A frequency multiplied:* $\omega_i = 10000^{+2i/d}$, where the sign of the exponent should be minus.
# 2. *Mixed layouts:* queries and keys turned in the pairs of the other layout.
# 3. *Rotation before projection:* $x$ turned, then projected.

# %%
guess = predict(
    "Which of the three bugs does the test of a shift find?",
    ["none", "the frequency alone", "the rotation before the projection alone", "all three"],
    id="11-bugs",
)
guess

# %%
def rotate_fast(x, pos):
    """Bug 1: base^(+2i/d)."""
    exponent = torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1]
    return turned_by(x, pos[:, None] * 10_000.0**exponent)


def rotate_interleaved(x, pos):
    """Bug 2: the pairs of the other layout."""
    return RoPE(x.shape[-1], layout="interleaved").rotate(x[None], pos)[0]


def rotate_right(x, pos):
    return RoPE(x.shape[-1]).rotate(x[None], pos)[0]


def scores_after(rotate, q, k, pos):
    return rotate(q, pos) @ rotate(k, pos).mT


def scores_before(rotate, x, w_q, w_k, pos):
    """Bug 3: x turned, then projected."""
    return (rotate(x, pos) @ w_q) @ (rotate(x, pos) @ w_k).mT


generator = torch.Generator().manual_seed(7)
tokens, w_q, w_k = torch.randn(3, 1, 16, 16, generator=generator, dtype=torch.float64)
q, k, pos = tokens @ w_q / 4, tokens @ w_k / 4, torch.arange(16)
reference = scores_after(rotate_right, q, k, pos)
rows = {
    "none": (rotate_right, lambda p: scores_after(rotate_right, q, k, p)),
    "frequency multiplied": (rotate_fast, lambda p: scores_after(rotate_fast, q, k, p)),
    "mixed layouts": (rotate_interleaved, lambda p: scores_after(rotate_interleaved, q, k, p)),
    "rotation before projection": (
        rotate_right, lambda p: scores_before(rotate_right, tokens, w_q / 4, w_k / 4, p)),
}
passed = {}
print(f"{'bug':28}norm   shift  equal")
for name, (rotate, scores) in rows.items():
    keeps_norm = (rotate(q, pos).norm(dim=-1) - q.norm(dim=-1)).abs().max() < 1e-6
    keeps_scores = (scores(pos + 100) - scores(pos)).abs().max() < 1e-6
    is_equal = (scores(pos) - reference).abs().max() < 1e-6
    passed[name] = [bool(test) for test in (keeps_norm, keeps_scores, is_equal)]
    print(f"{name:28}" + "".join(f"{'pass' if p else 'FAIL':7}" for p in passed[name]))

# %%
found = tuple(name for name in list(rows)[1:] if not passed[name][1])
guess.reveal(
    {(): 0, ("frequency multiplied",): 1, ("rotation before projection",): 2, tuple(rows)[1:]: 3}[found],
    "With other frequencies or other pairs it is still a RoPE: norms stay, and only offsets count. "
    "Of the three tests only the comparison with known numbers finds it.",
)

# %%
claim("A frequency multiplied and mixed layouts pass the tests of norm and shift.",
      [*passed["frequency multiplied"][:2], *passed["mixed layouts"][:2]], equals=True,
      source="this cell", id=71)
claim("Rotation before projection fails the test of shift.", passed["rotation before projection"][1],
      equals=False, source="this cell", id=70)
claim("Equality with a reference finds all three.",
      [passed[name][2] for name in list(rows)[1:]], equals=False, source="this cell", id=71)

# %% [markdown]
# Bug 1 is still a RoPE, with other frequencies: the slowest pair now turns by 1 radian per position.
# What is lost? For $q = k$, neighbours should score almost as high as the token itself:

# %%
wrong_omega = 10_000.0 ** (torch.arange(0, 64, 2, dtype=torch.float64) / 64)
neighbour = [torch.cos(w).mean().item() for w in (omega_64, wrong_omega)]
print(f"score of the neighbour / score of the token itself: {neighbour[0]:.2f} with ω = base^(−2i/d), "
      f"{neighbour[1]:.2f} with base^(+2i/d)")
claim("With the right frequencies a neighbour scores almost as high as the token itself (share).",
      neighbour[0], above=0.9, source="this cell", id=71)
claim("With the frequency multiplied, little of the score is left one token away (share).",
      abs(neighbour[1]), below=0.3, source="this cell", id=71)

# %% [markdown]
# The checks of the exercises below know these three bugs by name. Here are their answers to the broken
# code; a ❌ is what we want.

# %%
def head_before(x, w_q, w_k, w_v, rotate, pos):
    q, k = rotate(x, pos) @ w_q, rotate(x, pos) @ w_k
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(-1) @ (x @ w_v)


answers = [find("11.2")(rotate_fast), find("11.2")(rotate_interleaved), find("11.3")(head_before),
           find("11.4")(lambda w, n_heads: w)]
for answer in answers:
    print(answer)
claim("Each bug is caught and named.", [answer.mistake for answer in answers],
      equals=("frequency-multiplied", "mixed-layouts", "rotation-before-projection",
              "mixed-layouts"), source="checks 11.2, 11.3 and 11.4", id=71)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 11.1: turn and multiply &nbsp; (●○○, 5 minutes)
#
# One pair, 30° per position. $q = (2, 0)$ and $k = (0, 1)$ before turning. The query is at $m = 2$, the
# key at $n = 5$. What is $q_m\cdot k_n$? (Use paper.)

# %% tags=["exercise"]
# BEGIN SOLUTION
# BLANK: score_11 = ...  # a number
score_11 = -2.0
# END SOLUTION

# %%
check("11.1", score_11)

# %% [markdown] tags=["hint"]
# Write down where each arrow points before turning, in degrees, and add its own turn.

# %% [markdown] tags=["hint"]
# The product of two vectors is the product of their lengths times the cosine of the angle between them.

# %% [markdown]
# ### Exercise 11.2: rotate without a matrix &nbsp; (●●○, 15 minutes)
#
# Turn `x`, of shape `(n_heads, n, d)`, in the **half-split** layout: pair $i$ is channel $i$ and channel
# $i + d/2$, with $\omega_i = \mathrm{base}^{-2i/d}$. Row `t` of each head stands at position `pos[t]`.
# No matrix of shape $(d, d)$, no loop, and no look at `turned_by`.

# %% tags=["exercise"]
def rotate(x, pos, base=10_000.0):
    """x (n_heads, n, d), pos (n,) -> (n_heads, n, d), every pair turned by pos * omega_i."""
    # BEGIN SOLUTION
    d = x.shape[-1]
    omega = base ** (-torch.arange(0, d, 2) / d)  # (d / 2,)
    angle = pos[:, None] * omega  # (n, d / 2)
    a, b = x.chunk(2, dim=-1)  # the two channels of every pair
    c, s = angle.cos(), angle.sin()
    return torch.cat([a * c - b * s, b * c + a * s], dim=-1)
    # END SOLUTION


# %%
check("11.2", rotate)

# %% [markdown] tags=["hint"]
# The angles have shape `(n, d / 2)`: `pos[:, None] * omega`. They broadcast over the heads.

# %% [markdown] tags=["hint"]
# `a, b = x.chunk(2, dim=-1)` are the two halves. Compute both new halves from the *old* `a` and `b`, and
# put them side by side with `torch.cat`.

# %% [markdown]
# ### Exercise 11.3: a head with RoPE &nbsp; (●●○, 12 minutes)
#
# Write a whole head without a mask. `rotate(t, pos)` turns the rows of any `(n, d)` matrix, with `d`
# even; it is given. The positions `pos` need not be 0, 1, 2, ….

# %% tags=["exercise"]
def rope_head(x, w_q, w_k, w_v, rotate, pos):
    """x (n, d_model); w_q, w_k, w_v (d_model, d_head); pos (n,) -> output (n, d_head)."""
    # BEGIN SOLUTION
    q, k, v = rotate(x @ w_q, pos), rotate(x @ w_k, pos), x @ w_v
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v
    # END SOLUTION


# %%
check("11.3", rope_head)

# %% [markdown] tags=["hint"]
# Three projections. Which of their results are turned, and when?

# %% [markdown] tags=["hint"]
# Everything after the turning is notebook 1: scores, the root of `d_head`, softmax over the keys, values.

# %% [markdown]
# ### Exercise 11.4: from one layout to the other &nbsp; (●●○, 10 minutes)
#
# `w` holds the parameters of a query projection as PyTorch stores it, `(n_heads * d_head, d_model)`: row
# $h\cdot d_{head} + c$ makes channel $c$ of head $h$. It was trained with **interleaved** RoPE. Return the
# parameters for **half-split** RoPE, in the same shape.

# %% tags=["exercise"]
def to_half_split(w, n_heads):
    """(n_heads * d_head, d_model) -> the same rows, reordered within each head."""
    # BEGIN SOLUTION
    by_head = w.unflatten(0, (n_heads, -1))  # (n_heads, d_head, d_model)
    return torch.cat([by_head[:, 0::2], by_head[:, 1::2]], dim=1).flatten(0, 1)
    # END SOLUTION


# %%
check("11.4", to_half_split)

# %% [markdown] tags=["hint"]
# Pair $i$ was in channels $2i$ and $2i + 1$. Where do both belong now? Write the new order for
# `d_head = 6` on paper.

# %% [markdown] tags=["hint"]
# Cut the rows into heads first: `w.unflatten(0, (n_heads, -1))`. Then even rows, then odd rows, within
# each head.

# %% [markdown]
# ### Exercise 11.5: a key that answers from afar &nbsp; (●●●, 8 minutes)
#
# Given a query vector `q` with 64 entries (before turning), construct a key vector `k` (before turning)
# whose score is largest when the key stands `back` positions **before** the query, for half-split RoPE
# with base 10,000. The check tries all offsets from −200 to 200.

# %% tags=["exercise"]
def key_for(q, back):
    """q (64,), back a whole number >= 0 -> k (64,)."""
    # BEGIN SOLUTION
    return RoPE(len(q)).rotate(q[None, None, None], torch.tensor([back]))[0, 0, 0]
    # END SOLUTION


# %%
check("11.5", key_for)

# %% [markdown] tags=["hint"]
# The score is $q^\top R_{n-m}\,k$. For which vector $R_{n-m}\,k$, of a given length, is it largest?

# %% [markdown] tags=["hint"]
# At $n - m = -\mathrm{back}$ the vector $R_{-\mathrm{back}}\,k$ should point along $q$. Solve for $k$. You
# may use `RoPE(64).rotate`, which wants `(batch, heads, tokens, d_head)`.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | | | in words |
# |---|---|---|
# | rotation | $q_m = R_m q,\ k_n = R_n k$ | pair $i$ turns by $m\,\omega_i$; norms stay |
# | score | $q^\top R_{n-m}\,k$ | content, and offset key minus query |
# | place | after $W^Q$, $W^K$; every head, every layer | not $x$, not $v$ |
# | frequencies | $\omega_i = \mathrm{base}^{-2i/d}$, $d$ = `d_head` | $d/2$ pairs; the slow ones may never complete a turn |
# | layouts | $(2i, 2i{+}1)$ or $(i, i{+}d/2)$ | the same up to the order of channels; parameters must be converted |
# | precision | angles in float32 or better | bfloat16 angles lose the offset |
# | cost | 0 parameters, $6nd_{model}$ operations a layer | table of $O(n\,d_{head})$, new $q$ and $k$ in every layer |
#
# ### Questions
#
# *What are the trade-offs between sinusoidal, learned, and rotary position encodings?* (Review
# question 4 of the course, begun in [notebook 8](08-putting-positions-in.ipynb) and
# [notebook 10](10-relative-positions.ipynb).)
#
# | | sinusoidal | learned | rotary |
# |---|---|---|---|
# | where it enters | added to $x$, once | added to $x$, once | multiplied into $q$ and $k$, every layer |
# | what a score sees | absolute positions; offsets only for suitable $W$ | absolute positions | content and offset, for any $W$ |
# | reaches the values | yes (measured above) | yes: it is added in the same place | no (measured above) |
# | parameters | 0 | length × $d_{model}$ | 0 |
# | operations | one addition | one look-up and addition | $6nd_{model}$ in every layer (counted above) |
# | beyond the trained length | defined, untrained | not defined | defined; slow pairs meet new angles (counted above) |
#
# No row of this table says which one trains best; that is for experiments on a task.
#
# *Is RoPE an absolute or a relative encoding?* Each vector is turned by its absolute position. The
# score sees the offset alone: the shift by 1,000 above.
#
# ### Common misconceptions
#
# - "$q_m\cdot k_n = q^\top R_{m-n}\,k$": the sign is wrong; measured above.
# - "RoPE rotates the embeddings": it rotates queries and keys, after projection.
# - "RoPE makes scores fall with distance": not for random $q$ and $k$, and any offset can be the favourite.
# - "It extrapolates": at 4 L, 23 of 64 pairs meet angles they never saw (base 10,000, L = 2,048).
# - "No additional computation": $O(n\,d_{model})$ in every layer.
# - "My RoPE passes the relative-position test, so it is right": two of three bugs above pass it.
#
# ### Further reading
#
# - Su et al. 2021, *RoFormer*: sections 3.2 (definition), 3.4.2 (computation), 3.4.3 (the bound).
# - Chen et al. 2023, *Extending Context Window … via Positional Interpolation*: section 2.
# - Peng et al. 2024, *YaRN*: section 3.
# - Barbero et al. 2025, *Round and Round We Go!*: what fast and slow pairs are used for.
# - Wang et al. 2024, *When Precision Meets Position*: bfloat16 and RoPE.
# - Press et al. 2022, *Train Short, Test Long*: table 1 (speed), section 2 (length).
#
# **Next:** [notebook 12](12-beyond-training-length.ipynb): which encodings survive longer texts? Back to
# [the start](00-start-here.ipynb).
