# %% [markdown] slideshow={"slide_type": "slide"}
# # 7. Sinusoidal positions
#
# **How can $d$ waves tell a model where a token stands, and what do they not tell it?**
#
# When you have worked through this notebook you can
#
# - write down the sinusoidal code of any position, and read the table of codes as a picture;
# - prove that no two positions share a code, and say when a computer breaks the proof;
# - move a code by $k$ positions with a matrix, and say what that does for attention;
# - derive distance and dot product of two codes, and describe the shape of both curves;
# - tell what the code can do from what a trained head does with it.
#
# *You need:* [notebook 1](01-one-head.ipynb) and [notebook 6](06-the-order-problem.ipynb); sines,
# cosines, $2\times 2$ matrices. *To study:* 80 minutes. *To lecture:* 45 minutes.

# %% tags=["setup"] slideshow={"slide_type": "skip"}
import math
import time
from collections import Counter

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from attnlab import plots
from attnlab.exercises import check
from attnlab.explorers import WavesExplorer
from attnlab.positions import Sinusoidal
from attnlab.teach import claim, figure, predict, progress
from attnlab.train import fit

torch.manual_seed(0);

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The definition
#
# Notebook 6 ended with five places where order can enter a model. This notebook takes the first, the
# input. Its encoding gives position $p = 0, 1, 2, \dots$ a vector $PE_p$ of $d = d_{model}$ numbers,
# its *code*, and adds it to the token's vector $x_p$.
#
# The numbers of a code come in pairs. Pair $i$ holds a sine and a cosine of the same angle:
#
# $$PE_{p,\,2i} = \sin(p\,\omega_i),\qquad PE_{p,\,2i+1} = \cos(p\,\omega_i),\qquad
# \omega_i = 10000^{-2i/d},\qquad i = 0, \dots, \tfrac d2 - 1$$
#
# - $i$ counts *pairs*, not features: it ends at $d/2 - 1$. The code has $d$ *features*, numbered
#   $0$ to $d - 1$.
# - $\omega_i$ is the *frequency* of the pair, in radians per position: a power of the *base*
#   10000. Pair 0 is the fastest, $\omega_0 = 1$.
# - The codes of $n$ positions are the rows of a table of shape $(n, d)$. With the token vectors as
#   the rows of $X$, also $(n, d)$, the input of the model is $X$ + table. (Vaswani et al. 2017,
#   section 3.4, first multiply $X$ by $\sqrt d$.)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### A sum with four numbers
#
# An illustration of "word + position" has $d = 4$: the word is $[0.1, 0.3, 0.2, 0.4]$,
# position 0 is $[0.5, 0.1, 0.3, 0.6]$, and the sum is $[0.6, 0.4, 0.5, 1.0]$.

# %%
guess = predict(
    "Of which position is [0.5, 0.1, 0.3, 0.6] the sinusoidal code, with d = 4?",
    ["of none", "of some other position", "of position 0"],
    id="07-toy",
)
guess

# %%
word, toy = torch.tensor([0.1, 0.3, 0.2, 0.4]), torch.tensor([0.5, 0.1, 0.3, 0.6])
codes = Sinusoidal(4).table(torch.arange(10_001))  # (10001 positions, d = 4)
nearest = (codes - toy).norm(dim=-1).min(dim=0)
print("word + toy vector:", (word + toy).numpy().round(2))
print("code of position 0:", codes[0].numpy())
print(f"nearest code among 10,001 positions: position {nearest.indices}, "
      f"{nearest.values:.2f} away")

# %%
guess.reveal(
    0 if nearest.values > 1e-3 else 2 if nearest.indices == 0 else 1,
    "sin 0 = 0 and cos 0 = 1: position 0 has the code [0, 1, 0, 1]. And no other position can have "
    "these numbers, since in every pair sin² + cos² = 1.",
)

# %%
claim("The sum itself is right (largest error).",
      (word + toy - torch.tensor([0.6, 0.4, 0.5, 1.0])).abs().max(), below=1e-6,
      source="arithmetic", id=112)
claim("The squares of a pair of the toy vector do not add up to 1 (sums of its two pairs).",
      toy.view(2, 2).square().sum(dim=-1), below=0.5, source="this cell", id=112)
claim("No position up to 10,000 has a code near it (distance of the nearest).", nearest.values,
      above=0.5, source="this cell", id=112)
print("word + code of position 0:          ", (word + codes[0]).numpy().round(2))
print("word times √d + code of position 0: ", (word * 2 + codes[0]).numpy().round(2))

# %% [markdown]
# The toy vector would do for a *learned* code, which may hold any numbers
# ([notebook 8](08-putting-positions-in.ipynb)).
#
# ### The same formula three times
#
# First entry by entry, as it is written; then with complex numbers, as
# $e^{\mathrm i p\omega} = \cos p\omega + \mathrm i \sin p\omega$; then `attnlab`.

# %%
d, length = 6, 50
by_entry = torch.zeros(length, d, dtype=torch.float64)
for p in range(length):
    for i in range(d // 2):
        omega = 10_000 ** (-2 * i / d)
        by_entry[p, 2 * i] = math.sin(p * omega)
        by_entry[p, 2 * i + 1] = math.cos(p * omega)

p = torch.arange(length, dtype=torch.float64)
omega = 10_000 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)  # (d/2,)
z = torch.polar(torch.ones(length, d // 2, dtype=torch.float64), p[:, None] * omega)
by_complex = torch.stack([z.imag, z.real], dim=-1).flatten(-2)  # (length, d)
from_attnlab = Sinusoidal(d).table(p, torch.float64)  # (length, d)
print("positions 0 to 3:\n", by_entry[:4].numpy().round(3))
claim("Formula, complex numbers and attnlab give the same table.",
      [(by_entry - from_attnlab).abs().max(), (by_complex - from_attnlab).abs().max()],
      below=1e-12, source="Vaswani et al. 2017, section 3.5", id=49)

# %% [markdown]
# Each pair is a point on a circle of radius 1. So all codes have the same length: the squares of a
# code add up to 1 for each of $d/2$ pairs.

# %%
squares = Sinusoidal(512).table(torch.tensor([0, 1, 500, 10**6]), torch.float64).square().sum(dim=-1)
claim("The squares of a code add up to d/2 at any position (d = 512; p = 0, 1, 500, a million).",
      squares, expect=256.0, atol=1e-9, source="sin² + cos² = 1", id=49)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The table as a picture

# %%
figure(
    plots.encoding_map(Sinusoidal(128), 100),
    alt="The sinusoidal table of 100 positions, from top to bottom, and 128 features. The features "
    "at the left run through fast waves, further right ever slower ones; the right third shows "
    "constant stripes.",
)
still = []
for d in (128, 512):
    table = Sinusoidal(d).table(torch.arange(100))
    still.append((table.amax(dim=0) - table.amin(dim=0) < 0.1).float().mean().item())
claim("A third of the features move by less than 0.1 over 100 positions (share; d = 128, 512).",
      still, between=(0.30, 0.36), source="this cell", id=51)

# %% [markdown]
# Each row is a code; positions run downwards, as tokens do in all tables of this course. The left
# columns flicker, the right ones hardly move: a third of the features look constant over a text of
# 100 tokens.
#
# Pairs need an even $d$. A function that fills `table[:, 0::2]` and `table[:, 1::2]` from the same
# angles fails on an odd one with a message about shapes. `attnlab` says what is wrong:

# %%
refused = ""
try:
    plots.encoding_map(Sinusoidal(511), 100)
except ValueError as error:
    refused = str(error)
    print(refused)
angles = torch.rand(100, 256)
try:
    torch.zeros(100, 511)[:, 1::2] = angles.cos()  # 255 columns for 256 cosines
    slices = "it ran"
except RuntimeError as error:
    slices = "RuntimeError"
    print("slices:", str(error).splitlines()[0])
claim("With an odd d the usual two slices do not fit; attnlab asks for an even d.",
      (slices, "even d" in refused), equals=("RuntimeError", True),
      source="255 columns for 256 cosines", id=102)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Wavelengths
#
# The *wavelength* $\lambda_i$ of a pair is the number of positions that it takes for one full turn.

# %%
guess = predict(
    "The wavelengths of the pairs, for d = 512, run from …",
    ["2 to 512 positions", "1 to 10,000 positions", "2π to 10,000 positions",
     "2π to about 60,000 positions"],
    id="07-wavelengths",
)
guess

# %% [markdown]
# Measure it: a sine is positive for half a turn and then becomes negative. We look for that place in
# the first pair, between the integers too, and in the last.

# %%
encoding = Sinusoidal(512)
fine, coarse = torch.arange(1, 6000) / 1000, torch.arange(5, 40_000, 5)
shortest = 2 * fine[encoding.table(fine)[:, 0] < 0][0].item()
longest = 2 * coarse[encoding.table(coarse)[:, 510] < 0][0].item()
print(f"shortest wavelength {shortest:.2f}, longest about {longest:,.0f} positions")

# %%
options = [(2, 512), (1, 10_000), (2 * math.pi, 10_000), (2 * math.pi, 60_000)]
miss = [abs(math.log(shortest / a)) + abs(math.log(longest / b)) for a, b in options]
guess.reveal(
    miss.index(min(miss)),
    "An angle grows by ω per position and a turn is 2π, so λ = 2π/ω. The numbers from 1 to about "
    "10,000 are 1/ω: positions per radian, not per turn.",
)

# %% [markdown]
# $$\lambda_i = \frac{2\pi}{\omega_i} = 2\pi\cdot 10000^{2i/d},\qquad
# 2\pi \le \lambda_i \le 2\pi\cdot 10000^{1 - 2/d}$$
#
# The longest has exponent $1 - 2/d$, because the last pair is number $d/2 - 1$. "$2\pi$ to
# $10000\cdot 2\pi$", as the paper puts it, is the limit for large $d$.

# %%
for d in (4, 16, 64, 512):
    print(f"d = {d:3}: longest wavelength {2 * math.pi * 10_000 ** (1 - 2 / d):9,.0f} positions")
print(f"limit:   {2 * math.pi * 10_000:26,.0f}")

p = torch.arange(20, dtype=torch.float64)
errors = []
for i in (0, 1, 100, 255):
    turn = 2 * math.pi * 10_000 ** (2 * i / 512)
    here, there = (encoding.table(q, torch.float64)[:, 2 * i : 2 * i + 2] for q in (p, p + turn))
    errors.append((here - there).abs().max())
claim("After λ = 2π·10000^(2i/d) positions a pair is back where it was (pairs 0, 1, 100, 255).",
      errors, below=1e-9, source="Vaswani et al. 2017, section 3.5", id=50)
claim("The longest wavelength for d = 512 is far above 10,000 positions and below 2π·10,000.",
      longest, between=(60_000, 62_831), source="measured above", id=51)
slow = sum(2 * math.pi * 10_000 ** (2 * i / 512) > 512 for i in range(256))
claim("Of 256 pairs, those that do not finish one turn in a text of 512 tokens.", slow, equals=133,
      source="λ > 512", id=51)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Does every position have its own code?
#
# You may read as a proof: "different frequencies make unique patterns". It proves nothing: here are
# two different frequencies, one turn in 4 positions and one in 6.

# %%
p = torch.arange(13, dtype=torch.float64)
angles = p[:, None] * torch.tensor([2 * math.pi / 4, 2 * math.pi / 6], dtype=torch.float64)
pattern = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (13, 4)
claim("Two different frequencies, and yet positions 0 and 12 have the same code (difference).",
      (pattern[0] - pattern[12]).abs().max(), below=1e-12, source="this cell", id=52)

# %% [markdown]
# A proof needs only pair 0, with $\omega_0 = 1$. Suppose positions $p \ne q$ have the same pair 0:
# $\sin p = \sin q$ and $\cos p = \cos q$. Then $p - q = 2\pi m$ for an integer $m \ne 0$, and
# $\pi = (p - q)/(2m)$ would be a fraction of integers. But $\pi$ is irrational. So no two positions
# share even their first pair, and therefore no two share a code. ∎
#
# The proof says *different*. It does not say by how much.

# %%
guess = predict(
    "d = 2: only pair 0 is left. How near do the codes of two of the first 20,001 positions come?",
    ["they are equal", "less than 0.001 apart", "0.001 to 0.1 apart", "more than 0.1 apart"],
    id="07-near",
)
guess

# %% [markdown]
# How far two codes are from each other depends on their offset only (we derive it below), so 20,000
# offsets stand for all pairs of positions.

# %%
closest = {}
for d in (2, 4, 8, 16, 64, 512):
    distances, _ = plots.encoding_distances(Sinusoidal(d), 20_000)
    value, k = distances[1:].min(dim=0)
    closest[d] = (value.item(), k.item() + 1)
    print(f"d = {d:3}: nearest two codes {value:.2g} apart, offset {k + 1}")

# %%
near = closest[2][0]
guess.reveal(
    0 if near == 0 else 1 if near < 1e-3 else 2 if near <= 0.1 else 3,
    f"710 positions are 113 turns almost exactly: 113·2π = {113 * 2 * math.pi:.5f}. Different, as "
    f"proved, but by {near:.5f}.",
)

# %%
claim("With one pair, positions 710 apart are hardly to be told apart (distance).",
      closest[2][0], between=(1e-6, 1e-3), source="710 is near a multiple of 2π", id=52)
claim("From d = 16 on, the nearest two codes are those of neighbours (offset; d = 16, 64, 512).",
      [closest[d][1] for d in (16, 64, 512)], equals=1, source="all offsets up to 20,000", id=52)

# %% [markdown]
# So the other pairs are there for *distance*, not for uniqueness: they pull apart what the first pair
# leaves close together.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### On a computer
#
# The proof speaks of real numbers. Models often compute in 16 bits. `bfloat16` keeps 8 significant
# bits of a number, `float16` keeps 11.

# %%
guess = predict(
    "We compute the angles p·ω in bfloat16, and then their sines and cosines. Of 10,000 positions, "
    "how many different codes remain (d = 64)?",
    ["fewer than 100", "about 900", "about 5,000", "10,000"],
    id="07-bf16",
)
guess

# %%
POSITIONS, D = torch.arange(10_000), 64
OMEGA = 10_000 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)


def different_rows(table):
    """How many different rows a table of 16-bit numbers has."""
    return len({row.tobytes() for row in table.view(torch.int16).numpy()})


different = {}
for dtype in (torch.bfloat16, torch.float16):
    angles = POSITIONS.to(dtype)[:, None] * OMEGA.to(dtype)  # rounded before the sine
    early = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    late = Sinusoidal(D).table(POSITIONS, dtype)  # attnlab: exact angles, the result is rounded
    different[dtype] = different_rows(early), different_rows(late)
    print(f"{dtype}: angles rounded {different[dtype][0]:,} codes, "
          f"only the result rounded {different[dtype][1]:,} codes")

# %%
few = different[torch.bfloat16][0]
guess.reveal(
    min(range(4), key=lambda i: abs(math.log(few / (50, 900, 5_000, 10_000)[i]))),
    "With 8 significant bits the positions themselves collapse: 257 is rounded to 256, and from "
    "8,192 on, about 64 positions in a row become one number.",
)

# %%
rounded = {t: len(POSITIONS.to(t).unique()) for t in different}
claim("With rounded angles there are as many codes as rounded positions (bfloat16, float16).",
      (few, different[torch.float16][0]), equals=tuple(rounded.values()),
      source="distinct values among 0 … 9,999 after rounding", id=52)
claim("In bfloat16 that is fewer than a tenth.", few, below=1000, source="this cell", id=52)
claim("If only the finished sines and cosines are rounded, all 10,000 codes stay different.",
      [late for _, late in different.values()], equals=10_000, source="attnlab's table", id=52)
single = POSITIONS.float()[:, None] * torch.exp(
    torch.arange(0, D, 2).float() * (-math.log(10_000.0) / D)
)
exact = POSITIONS[:, None] * OMEGA
claim("Even angles in float32 are off a little (largest error of a sine, positions 0 to 9,999).",
      (single.sin() - exact.sin()).abs().max(), between=(1e-5, 1e-2), source="this cell", id=102)

# %% [markdown]
# Round late: compute angles in float32 or better, whatever the type of the model.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Moving a code by $k$ positions
#
# The addition theorems are two lines; both are needed.
#
# $$\sin(p\omega + k\omega) = \cos(k\omega)\,\sin(p\omega) + \sin(k\omega)\,\cos(p\omega)$$
# $$\cos(p\omega + k\omega) = -\sin(k\omega)\,\sin(p\omega) + \cos(k\omega)\,\cos(p\omega)$$
#
# So the pair of position $p + k$ is the pair of position $p$, multiplied by a $2\times 2$ matrix that
# knows $k$ but not $p$. It is a rotation. Set $d/2$ such blocks on the diagonal of a matrix $M_k$ of
# shape $(d, d)$. With codes as columns,
#
# $$PE_{p+k} = M_k\,PE_p,\qquad
# M_k = \mathrm{blockdiag}_i \begin{pmatrix} \cos k\omega_i & \sin k\omega_i\\
# -\sin k\omega_i & \cos k\omega_i\end{pmatrix}$$

# %%
def moved(k, d=64):
    """M_k, built from its blocks: (d, d)."""
    blocks = []
    for i in range(d // 2):
        a = k * 10_000 ** (-2 * i / d)
        blocks.append(torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]],
                                   dtype=torch.float64))
    return torch.block_diag(*blocks)


encoding = Sinusoidal(64)
p = torch.arange(5000)
table = encoding.table(p, torch.float64)  # (5000, 64), codes as rows: multiply by the transpose
claim("One matrix moves every code by k (largest error over 5,000 positions; k = 1, 7, 100, 1000).",
      [(table @ moved(k).T - encoding.table(p + k, torch.float64)).abs().max()
       for k in (1, 7, 100, 1000)],
      below=1e-10, source="Vaswani et al. 2017, section 3.5; addition theorems", id=53)
eye = torch.eye(64, dtype=torch.float64)
claim("M_k is a rotation: its transpose undoes it (k = 1, 7, 100).",
      [(moved(k).T @ moved(k) - eye).abs().max() for k in (1, 7, 100)], below=1e-12,
      source="this cell", id=53)
claim("Moving by a, then by b, is moving by a + b: M_b M_a = M_(a+b).",
      [(moved(b) @ moved(a) - moved(a + b)).abs().max() for a, b in ((1, 2), (30, 70), (9, -9))],
      below=1e-12, source="this cell", id=53)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### A formula to test
#
# You may meet the property in another form: $PE_{p+k} = A_k\,PE_p + B_k\,PE_{p+\pi/2}$, with
# $\cos k\omega_i$ on the diagonal of $A_k$ and $\sin k\omega_i$ on that of $B_k$ (each twice, for the
# two features of the pair).

# %%
guess = predict(
    "This formula with position p + π/2 is …",
    ["exact for every k", "nearly exact for small k (error below 0.01 at k = 1)",
     "wrong for every k, for k = 1 too"],
    id="07-shift",
)
guess

# %%
omega = 10_000 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)  # (32,)
quarter = encoding.table(p.double() + math.pi / 2, torch.float64)  # between integers: no problem
errors = {}
for k in (1, 7, 100, 1000):
    a, b = ((k * omega).cos().repeat_interleave(2), (k * omega).sin().repeat_interleave(2))
    errors[k] = (a * table + b * quarter - encoding.table(p + k, torch.float64)).abs()
    print(f"k = {k:4}: largest error {errors[k].max():.2f}; in pair 0 alone "
          f"{errors[k][:, :2].max():.0e}")

# %%
worst = {k: e.max().item() for k, e in errors.items()}
guess.reveal(
    0 if max(worst.values()) < 1e-6 else 1 if worst[1] < 0.01 else 2,
    "π/2 is a quarter turn of the angle. As a step in positions it is a quarter turn for pair 0 "
    "only, where ω = 1; pair i needs π/(2ω) positions. The partner that the theorem asks for is "
    "already there: the cosine of the same pair.",
)

# %%
claim("The formula with p + π/2 is wrong (largest error of an entry; k = 1, 7, 100, 1000).",
      list(worst.values()), above=0.1, source="this cell", id=53)
claim("It is right in pair 0, where ω = 1 (largest error; same k).",
      [e[:, :2].max() for e in errors.values()], below=1e-10, source="this cell", id=53)
angles = p[:, None] * omega
claim("A quarter turn of the angle gives the cosine of the same pair (largest error).",
      ((angles + math.pi / 2).sin() - angles.cos()).abs().max(), below=1e-10,
      source="sin(a + π/2) = cos a", id=54)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Distance and dot product
#
# Take the dot product of the codes of two positions $p$ and $p + k$. Each pair gives
# $\sin a\sin b + \cos a\cos b = \cos(a - b)$, where $a - b = \pm k\omega_i$. So
#
# $$PE_p\cdot PE_{p+k} = g(k) = \sum_{i=0}^{d/2-1}\cos(k\,\omega_i)$$
#
# and since both codes have squared length $d/2$, their squared distance is
#
# $$D(k)^2 = \tfrac d2 + \tfrac d2 - 2 g(k) = d - 2\sum_i\cos(k\,\omega_i)$$
#
# Neither depends on $p$. That saves work. The obvious tool runs over pairs of positions up to 50
# apart and draws a dot for each. Here is its loop; is it right about "up to 50"?

# %%
encoding, n = Sinusoidal(128), 300
table = encoding.table(torch.arange(n), torch.float64)
start = time.process_time()  # of this program alone, whatever else the machine does
offsets, by_loop = [], []
for i in range(n):
    for j in range(i + 1, min(i + 50, n)):
        offsets.append(j - i)
        by_loop.append(torch.norm(table[i] - table[j]).item())
loop_time = time.process_time() - start

formula_time = math.inf
for _ in range(5):  # the fastest of five: the first one also loads what torch needs
    start = time.process_time()
    distances, _ = plots.encoding_distances(encoding, 50)  # offsets 0 ... 50
    formula_time = min(formula_time, time.process_time() - start)
print(f"loop: {len(by_loop):,} distances, largest offset {max(offsets)}; formula: "
      f"{len(distances)} distances, largest offset {len(distances) - 1}")

brute = torch.cdist(table, table, compute_mode="donot_use_mm_for_euclid_dist")  # (n, n)
apart = (torch.arange(n)[:, None] - torch.arange(n)).abs()
every, _ = plots.encoding_distances(encoding, n - 1)
claim("The formula equals the distance of every pair of 300 positions (largest error).",
      (every[apart] - brute).abs().max(), below=1e-9, source="this cell", id=56)
claim("It equals the loop (largest error).",
      (distances[offsets] - torch.tensor(by_loop, dtype=torch.float64)).abs().max(), below=1e-9,
      source="this cell", id=103)
claim("The loop stops one short: range(i + 1, i + 50) ends at offset 49.", max(offsets), equals=49,
      source="Python's range excludes its end", id=103)
claim("The formula takes less than a tenth of the loop's time.", formula_time < loop_time / 10,
      equals=True, source="both timed in this run", id=103)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The shape of the distance
#
# It is said that the distance of two codes "reflects" the distance of the positions.

# %%
guess = predict(
    "d = 128. We go from k = 0 to k = 1,000, one position at a time. The distance D(k) …",
    ["grows with every step", "grows to a peak, then falls", "grows at first; later it goes down "
     "about as often as up"],
    id="07-distance",
)
guess

# %%
falls, share = {}, {}
for d in (16, 64, 128, 512):
    distances, _ = plots.encoding_distances(Sinusoidal(d), 1000)
    down = distances[1:] < distances[:-1]  # step from k to k + 1, for k = 0 ... 999
    falls[d], share[d] = down.nonzero()[0].item(), down.double().mean().item()
    print(f"d = {d:3}: first step down from k = {falls[d]:2} to {falls[d] + 1:2}; "
          f"{share[d]:.0%} of 1,000 steps go down; D(1) = {distances[1]:.2f}, "
          f"D(10) = {distances[10]:.2f}, D(1000) = {distances[1000]:.2f}")
down = plots.encoding_distances(Sinusoidal(128), 1000)[0].diff() < 0

# %%
turns = down.int().diff().abs().sum().item()  # changes between up and down
guess.reveal(
    0 if turns == 0 else 1 if turns == 1 else 2,
    f"{turns} changes of direction in 1,000 steps. The distance depends on the offset alone, but a "
    "larger offset need not mean a larger distance.",
)

# %%
figure(
    plots.distance_curve({f"d = {d}": Sinusoidal(d) for d in (16, 128, 512)}, 200),
    alt="Distance of two codes against the offset of their positions, for 16, 128 and 512 features. "
    "All three rise steeply over the first few offsets and then level off; the line of 16 features "
    "swings widely, that of 512 a little.",
)
claim("The first step down comes early (from k; d = 16, 64, 128, 512).", tuple(falls.values()),
      equals=(3, 5, 11, 43), source="this cell", id=56)
claim("Over 1,000 steps nearly half go down (share; d = 16, 64, 128, 512).", list(share.values()),
      between=(0.40, 0.55), source="this cell", id=56)

# %% [markdown]
# For the first few offsets the distance grows with every step; a longer code makes this range longer.
# Further out, a single step says nothing.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The shape of the dot product
#
# Smooth out the wiggles and ask for the trend.

# %%
guess = predict(
    "d = 512, offsets k = 1 to 100. Which trend describes the dot product g(k) best?",
    ["a − b·ln k", "a − b·k", "a − b·k²"],
    id="07-law",
)
guess

# %%
def r_squared(y, x):
    """Share of the variance of y that the best line a + b·x explains."""
    basis = torch.stack([torch.ones_like(x), x], dim=-1)
    rest = y - basis @ torch.linalg.lstsq(basis, y).solution
    return 1 - (rest.var() / y.var()).item()


k = torch.arange(1, 101, dtype=torch.float64)
omega = 10_000 ** (-torch.arange(0, 512, 2, dtype=torch.float64) / 512)
g = (k[:, None] * omega).cos().sum(dim=-1)  # (100,)
fits = {"ln k": r_squared(g, k.log()), "k": r_squared(g, k), "k²": r_squared(g, k**2)}
print("share of the variance explained:", {name: round(r, 3) for name, r in fits.items()})

# %%
guess.reveal(
    list(fits.values()).index(max(fits.values())),
    f"From k = 1 to 10 the product falls by {g[0] - g[9]:.0f}, from 10 to 100 by "
    f"{g[9] - g[99]:.0f}: each factor of 10 costs about as much as the one before, since the "
    "wavelengths are spread evenly over the logarithm.",
)

# %% [markdown]
# You may read that the product falls like $-|i-j|^2$. Near $k = 0$ it does: every cosine begins as
# $1 - (k\omega)^2/2$. But the fast pairs soon leave that parabola.
#
# The logarithm comes from counting. Slow pairs, $k\omega_i \ll 1$, add nearly 1 each; fast ones swing
# about 0. The border $k\omega_i = 1$ lies at $i = \frac d2\,\frac{\ln k}{\ln 10000}$, so about
# $\frac d2\left(1 - \frac{\ln k}{\ln 10000}\right)$ pairs are slow. With the pairs near the border
# computed exactly,
#
# $$g(k) \approx \frac d2\left(1 - \frac{\gamma + \ln k}{\ln 10000}\right)\quad
# \text{for } 1 \ll k \ll 10{,}000,\qquad \gamma = 0.577\dots \text{ (Euler's constant)}$$

# %%
parabola = 256 - k**2 * omega.square().sum() / 2
law = 256 * (1 - (0.5772156649 + k.log()) / math.log(10_000))
for at in (1, 2, 5, 10, 100):
    print(f"k = {at:3}: dot product {g[at - 1]:6.1f}, parabola {parabola[at - 1]:9.1f}, "
          f"log law {law[at - 1]:6.1f}")
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.plot(k, g, color="#00224e", lw=2.5, label="dot product g(k)")
ax.plot(k, law, "--", color="#b8860b", lw=2, label="log law")
ax.plot(k, parabola, ":", color="black", lw=2, label="parabola from k = 0")
ax.set_xscale("log")
ax.set_ylim(0, 270)
ax.set_xlabel("offset k")
ax.set_ylabel("dot product")
ax.legend()
figure(
    fig,
    alt="Dot product of two codes of 512 features against the offset from 1 to 100, on a "
    "logarithmic axis. It falls along the straight line of the log law; the parabola leaves it after "
    "two positions and drops out of the picture.",
)
claim("A logarithm explains nearly all of the trend over k = 1 … 100 (R²).", fits["ln k"],
      above=0.98, source="this cell; Chi et al. 2023 on the log shape", id=97)
claim("From k = 10 on the log law is right to a few units (largest error; g is 112 to 174 there).",
      (g - law)[9:].abs().max(), below=4, source="this cell", id=97)
claim("A parabola does not explain it (R²).", fits["k²"], below=0.7, source="this cell", id=97)
claim("At k = 10 the parabola is negative, the dot product far from it (the two values' distance).",
      g[9] - parabola[9], above=500, source="this cell", id=97)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it: waves
#
# Left the table; right the waves of one pair, then distance and dot product against the offset. A
# solid frame marks position $p$, a dashed one $p + k$. Click into the table, or walk in it with the
# arrow keys, to move $p$ and the pair.
#
# 1. Move **position p** alone. Which curves move, and which do not move at all?
# 2. Move **offset k** slowly from 0 upwards at d_model = 16, then at 256. Where does the distance take
#    its first step down?
# 3. Move **pair i** from 0 to the last. At which pair does the wave no longer finish a turn within
#    the **length**?
# 4. Pull **base** down to a small number. What happens to the right side of the table, and to the
#    distance at large offsets? Push it up: what becomes of the slow features?
# 5. Set d_model to 2. At which offset do the codes almost meet? (One turn is 6.28 positions.)

# %%
WavesExplorer(64, length=128, position=20, offset=5, pair=4)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Does attention see what is near?
#
# The code of the neighbour is the most similar code. Does a head then look at near tokens? A head
# does not compare codes; it compares a query with a key. For positions alone, the score of query
# position $i$ and key position $j$ (from here on $i$ and $j$ count positions) is
#
# $$s_{ij} \propto (PE_i W^Q)\cdot(PE_j W^K) = PE_i\,W\,PE_j^\top,\qquad
# W = W^Q (W^K)^\top \quad (d, d)$$
#
# With $W = I$, the identity, this is $g(j - i)$, and every query finds itself. In a new model $W$
# is random.

# %%
guess = predict(
    "200 positions, W_Q and W_K random. For how many queries is the best key at most 3 positions "
    "away?",
    ["few: about as many as if keys were drawn by lot", "about half",
     "nearly all: codes of neighbours are alike"],
    id="07-local",
)
guess

# %%
n, d = 200, 64
table = Sinusoidal(d).table(torch.arange(n), torch.float64)  # (200, 64)
generator = torch.Generator().manual_seed(0)
place = torch.arange(n)
offset = place[None, :] - place[:, None] + n - 1  # (query, key) -> number of the offset


def near(scores):
    """Share of queries whose best key is at most 3 positions away."""
    return ((scores.argmax(dim=-1) - place).abs() <= 3).double().mean().item()


def share_of_offset(scores):
    """Share of the variance of the scores that is a function of j - i alone."""
    total = torch.zeros(2 * n - 1, dtype=scores.dtype).index_add(0, offset.flatten(),
                                                                 scores.flatten())
    count = torch.zeros_like(total).index_add(0, offset.flatten(), torch.ones(n * n).double())
    return ((total / count)[offset].var() / scores.var()).item()


random_scores, shared = [], []
for _ in range(20):
    w_q, w_k = torch.randn(2, d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)
    random_scores.append(table @ w_q @ w_k.T @ table.T)  # (200 queries, 200 keys)
    shared.append(near(table @ w_q @ w_q.T @ table.T))  # the same matrix for queries and keys
mean, one_matrix = sum(near(s) for s in random_scores) / 20, sum(shared) / 20
by_lot = ((offset - n + 1).abs() <= 3).double().mean().item()
print(f"random W_Q and W_K: {mean:.1%} of the queries (mean of 20 draws); by lot {by_lot:.1%}; "
      f"W = I: {near(table @ table.T):.0%}")

# %%
guess.reveal(
    2 if mean > 0.8 else 1 if mean > 0.2 else 0,
    f"One random matrix used for both would keep what is near: {one_matrix:.0%}. But W_Q and W_K are "
    "two, and the query that one makes of a position is not like the key that the other makes of it. "
    "The code makes nearness possible to see; the parameters must learn to see it.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Is the score a function of the offset?
#
# By the shift property $PE_{p+k} = M_k\,PE_p$. This, it is said, lets the model learn relative positions: a
# score should then be a function of the offset $j - i$.

# %%
guess = predict(
    "W = W_Q W_Kᵀ is random. Which share of the variance of the 200 × 200 scores is a function of the offset alone?",
    ["less than a third", "about a half", "all of it: the codes are relative"],
    id="07-offset",
)
guess

# %%
random_share = sum(share_of_offset(s) for s in random_scores) / 20
print(f"share of the variance that is a function of j - i, mean of 20 draws: {random_share:.2f}")

# %%
guess.reveal(
    0 if random_share < 1 / 3 else 1 if random_share < 0.9 else 2,
    "Relative positions can be computed from the codes. Whether a score does so is up to W.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Which W see the offset?
#
# The score depends on $j - i$ alone if moving both positions changes nothing:
# $PE_{i+k}\,W\,PE_{j+k}^\top = PE_i\,W\,PE_j^\top$. With codes as rows the shift property reads
# $PE_{i+k} = PE_i M_k^\top$, so that holds when $M_k^\top W M_k = W$. Since $M_k M_k^\top = I$, this is $W M_k = M_k W$: $W$ *commutes*
# with the rotations. Blocks of the form
#
# $$a_r\begin{pmatrix}1&0\\0&1\end{pmatrix} + b_r J,\qquad J = \begin{pmatrix}0&1\\-1&0\end{pmatrix}$$
#
# on the diagonal do, one block for each pair $r$, with any numbers $a_r$, $b_r$, and zeros everywhere
# else ("blocks a + bJ" below); $M_k$ itself is of this form. A random $W$ is not.

# %%
def block_matrix(a, b):
    """(d, d) with the blocks a_r·I + b_r·J on its diagonal; a and b are (d/2,)."""
    first = torch.arange(0, 2 * len(a), 2)
    w = torch.zeros(2 * len(a), 2 * len(a), dtype=a.dtype)
    w = w.index_put((first, first), a).index_put((first + 1, first + 1), a)
    return w.index_put((first, first + 1), b).index_put((first + 1, first), -b)


a, b = torch.randn(2, d // 2, generator=generator, dtype=torch.float64)
scores = {
    "W = I": table @ table.T,
    "blocks a + bJ, random a, b": table @ block_matrix(a, b) @ table.T,
    "random W": random_scores[0],
}
shares = {name: share_of_offset(s) for name, s in scores.items()}
for name, value in shares.items():
    print(f"{name}: {value:.3f} of the variance of the scores is a function of the offset")
fig, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained", sharey=True)
for ax, (name, s) in zip(axes, scores.items(), strict=True):
    image = ax.imshow((s / s.abs().max())[:60, :60].numpy(), cmap="cividis", vmin=-1, vmax=1,
                      interpolation="nearest")
    ax.set_title(name, fontsize=11)
    ax.set_xlabel("key position j")
axes[0].set_ylabel("query position i")
fig.colorbar(image, ax=axes, label="score / largest")
figure(
    fig,
    alt="Scores of the first 60 query and key positions under three matrices W. With the identity and "
    "with blocks the pattern consists of diagonal stripes; with a random matrix it is a patchwork "
    "without diagonals.",
)
claim("With W = I and with blocks a + bJ the score is a function of the offset (share of variance).",
      [shares["W = I"], shares["blocks a + bJ, random a, b"]], above=0.999, source="this cell", id=55)
claim("With a random W it is not (share of variance, mean of 20 draws).",
      random_share, between=(0.05, 0.2), source="this cell", id=55)
claim("With random W_Q and W_K the best key is near hardly more often than by lot (share of queries, "
      "mean of 20 draws, by the share by lot).", mean / by_lot, below=2, source="this cell", id=98)
claim("With one random matrix for both, nearly all best keys are near (share of queries, 20 draws).",
      shared, above=0.9, source="this cell", id=98)
claim("Absolute positions stay readable all the same: no two codes agree (smallest distance).",
      torch.pdist(table).min(), above=0.5, source="this cell", id=2)

# %% [markdown]
# Along a diagonal of the picture $j - i$ stays the same: stripes are scores that see the offset alone.
#
# So the encoding holds both kinds of knowledge: the absolute position, since codes are unique, and
# the relative one, since a fixed matrix moves them. Whether a head uses the second depends on its
# parameters. [Notebook 10](10-relative-positions.ipynb) and [notebook 11](11-rope.ipynb) show
# encodings that leave it no choice.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Beyond the length of training
#
# The number 10,000 stands in the formula. Does the encoding end there?

# %%
guess = predict(
    "What happens to the codes at position 10,000 (d = 512)?",
    ["they begin to repeat", "neighbouring codes come closer together", "nothing"],
    id="07-beyond",
)
guess

# %%
encoding = Sinusoidal(512)
neighbours = []
for p in (0, 9_999, 10_000, 100_000, 1_000_000):
    here, there = encoding.table(torch.tensor([p, p + 1]), torch.float64)
    neighbours.append((here - there).norm().item())
    print(f"positions {p:9,} and {p + 1:9,}: distance {neighbours[-1]:.4f}")
smallest = closest[512][0]  # from the section on uniqueness
print(f"nearest two codes up to 20,000 positions apart: {smallest:.4f}")

# %%
closer = neighbours[2] < 0.99 * neighbours[0]
guess.reveal(
    0 if smallest < 0.01 else 1 if closer else 2,
    "10,000 is the base of the frequencies, not a length. The slowest pairs have not finished a "
    "single turn there, and the distance of two codes does not depend on where they are.",
)

# %%
claim("Neighbours are as far apart beyond 10,000 as at the start (distance by that of 0 and 1).",
      [x / neighbours[0] for x in neighbours], expect=1.0, atol=1e-6, source="this cell", id=57)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The code goes on. Does the head?
#
# One head that sees nothing but positions must look 3 tokens back. Its two matrices are free. It
# trains for 400 steps on positions 0 to 63, with $d = 32$; after that each query from position 3 on
# finds its key there. Then we give it 256 positions.

# %%
guess = predict(
    "Of the queries at positions 128 to 255, how many find the key 3 back?",
    ["nearly all", "a part of them", "fewer than one in ten"],
    id="07-trained",
)
guess

# %%
BACK, TRAINED, LONG = 3, 64, 256
codes = Sinusoidal(32).table(torch.arange(LONG))  # (256, 32)


class Free(nn.Module):
    """Any W = W_Q W_K^T."""

    def __init__(self):
        super().__init__()
        self.q, self.k = (nn.Parameter(torch.randn(32, 32) / 32**0.5) for _ in range(2))

    def forward(self):
        return self.q @ self.k.T / 32**0.5


class Blocks(nn.Module):
    """Only the W that commute with the rotations."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Parameter(0.1 * torch.randn(16)) for _ in range(2))

    def forward(self):
        return block_matrix(self.a, self.b)


def train_head(kind, seed):
    """Share of queries that find their key: in training, and at positions 128 to 255."""
    torch.manual_seed(seed)
    head, query = kind(), torch.arange(BACK, TRAINED)

    def loss():
        scores = codes[:TRAINED] @ head() @ codes[:TRAINED].T  # (64 queries, 64 keys)
        return F.cross_entropy(scores[query], query - BACK)

    fit(head, loss, steps=400, lr=0.02)
    with torch.no_grad():
        scores = codes @ head() @ codes.T  # (256 queries, 256 keys)
    target = torch.arange(LONG) - BACK
    known = scores[:TRAINED, :TRAINED].argmax(dim=-1) == target[:TRAINED]
    far = scores.argmax(dim=-1) == target
    return known[BACK:].double().mean().item(), far[128:].double().mean().item()


results = {"free W": [], "blocks a + bJ": []}
for seed in progress(range(3), "seeds, two heads each"):
    results["free W"].append(train_head(Free, seed))
    results["blocks a + bJ"].append(train_head(Blocks, seed))
for name, runs in results.items():
    print(f"{name}: in training {min(r[0] for r in runs):.0%}; at positions 128 to 255 "
          f"{min(r[1] for r in runs):.0%} to {max(r[1] for r in runs):.0%} over 3 seeds")

# %%
far = sum(r[1] for r in results["free W"]) / 3
guess.reveal(
    0 if far > 0.98 else 2 if far < 0.1 else 1,
    "The parameters fit the 64 codes that they saw. On other codes they err, though each of them is "
    "a rotation of one seen. A head that may only use blocks a + bJ has no such freedom, and errs "
    "nowhere.",
)

# %%
figure(
    plots.by_seed(
        {f"{name},\n{where}": [r[i] for r in runs]
         for name, runs in results.items()
         for i, where in enumerate(("in training", "far out"))},
        "share of queries that\nfind their key",
    ),
    alt="Share of queries that find the key 3 back, three seeds each. The free head has 1.0 in "
    "training and about 0.6 far out; the head made of blocks has 1.0 in both.",
)
claim("Every head finds its key at the positions of training (share of queries).",
      [r[0] for runs in results.values() for r in runs], above=0.99, source="this cell", id=57)
claim("The free head misses many keys at positions 128 to 255 (share that it finds).",
      [r[1] for r in results["free W"]], below=0.95, source="this cell", id=57)
claim("The head made of blocks finds all of them (share).",
      [r[1] for r in results["blocks a + bJ"]], above=0.999, source="this cell", id=57)

# %% [markdown]
# What ends at the length of training is not the code but what the parameters learned about it. The
# paper was careful: it says that the sinusoidal version *may* allow longer sequences, and does not
# test it. Neither "handles about 10,000 positions" nor "degrades gracefully" is in it. In
# [notebook 12](12-beyond-training-length.ipynb) whole models race beyond their training length.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What it costs
#
# There is nothing to train. Some tables then list "memory: constant" and "computed once" side by
# side. They are two different programs: *compute once* keeps a table, *keep nothing* computes again
# in every pass. `attnlab` does the second. (The class counts the sines and cosines that are computed;
# you need not read it.)

# %%
class CountSines(TorchDispatchMode):
    """Counts the sines and cosines that are computed inside the block."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in ("sin", "cos"):
            self.counts["values"] += result.numel()
        return result


encoding, x = Sinusoidal(512), torch.zeros(1, 128, 512)
with CountSines() as counter:
    for _ in range(3):
        encoding.embed(x, torch.arange(128))
claim("The encoding has neither parameters nor a stored table (numbers kept).",
      sum(t.numel() for t in [*encoding.parameters(), *encoding.buffers()]), equals=0,
      source="the module of attnlab", id=59)
claim("So it computes n·d sines and cosines in every pass (per pass, n = 128, d = 512).",
      counter.counts["values"] // 3, equals=128 * 512, source="counted in three passes", id=59)
kept = Sinusoidal(512).table(torch.arange(5000))
claim("A table kept for 5,000 positions takes 10.24 MB in float32.",
      kept.numel() * kept.element_size() / 1e6, expect=10.24, atol=1e-9,
      source="5,000 · 512 · 4 bytes", id=59, unit="MB")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Break it: multiplied instead of divided
#
# An easy slip in this formula is a sign: $\omega_i = 10000^{+2i/d}$. The angle is then
# multiplied where it should be divided. Position 0 is still $[0, 1, 0, 1, \dots]$, every code still
# has squared length $d/2$, and nothing raises an error.

# %%
p = torch.arange(100, dtype=torch.float64)
right = Sinusoidal(64).table(p, torch.float64)
angles = p[:, None] * 10_000 ** (torch.arange(0, 64, 2, dtype=torch.float64) / 64)
slip = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
likeness = {
    name: ((t[1:] * t[:-1]).sum(dim=-1) / 32).mean().item()
    for name, t in (("right", right), ("slip", slip))
}
for name, value in likeness.items():
    print(f"{name}: dot product of neighbours, by that of a code with itself: {value:.2f}")
claim("The slip keeps the length of the codes (largest error of the sum of squares).",
      (slip.square().sum(dim=-1) - 32).abs().max(), below=1e-9, source="this cell", id=49)
claim("The slip makes neighbours look like strangers: their likeness is far below the right one "
      "(difference of the two).", likeness["right"] - likeness["slip"], above=0.5,
      source="this cell", id=49)

# %% [markdown]
# Exercise 7.2 knows this slip by name.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# ### Exercise 7.1: the slowest pair &nbsp; (●○○, 4 minutes)
#
# $d_{model} = 128$, base 10,000. How many positions does the slowest pair need for one full turn?
# (To a whole position.)

# %% tags=["exercise"]
# BEGIN SOLUTION
# BLANK: longest_wavelength = ...  # in positions
longest_wavelength = 2 * math.pi * 10_000 ** (1 - 2 / 128)
# END SOLUTION

# %%
check("7.1", longest_wavelength)

# %% [markdown] tags=["hint"]
# One turn is $2\pi$ radians; the pair moves by $\omega_i$ radians per position.

# %% [markdown] tags=["hint"]
# How many pairs are there, and which number has the last one if the first is number 0?

# %% [markdown]
# ### Exercise 7.2: the table without loops &nbsp; (●●○, 10 minutes)
#
# Write the table for any positions (integers or not), any even `d` and any base. No loops.

# %% tags=["exercise"]
def sinusoidal(positions, d, base):
    """positions (n,) -> codes (n, d): sines in the even columns, cosines in the odd ones."""
    # BEGIN SOLUTION
    omega = base ** (-torch.arange(0, d, 2) / d)  # (d/2,)
    angles = positions[:, None] * omega  # (n, d/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    # END SOLUTION


# %%
check("7.2", sinusoidal)

# %% [markdown] tags=["hint"]
# `positions[:, None] * omega` has a row for each position and a column for each pair.

# %% [markdown] tags=["hint"]
# `torch.stack([sines, cosines], dim=-1)` is `(n, d/2, 2)`. Which two axes must be glued?

# %% [markdown]
# ### Exercise 7.3: move a code &nbsp; (●●○, 10 minutes)
#
# Return the matrix $M_k$ with $PE_{p+k} = M_k\,PE_p$ for every $p$, codes as columns. $k$ may be
# negative.

# %% tags=["exercise"]
def shift_matrix(k, d, base):
    """M_k, (d, d)."""
    # BEGIN SOLUTION
    m = torch.zeros(d, d)
    for i in range(d // 2):
        a = k * base ** (-2 * i / d)
        m[2 * i, 2 * i] = m[2 * i + 1, 2 * i + 1] = math.cos(a)
        m[2 * i, 2 * i + 1] = math.sin(a)
        m[2 * i + 1, 2 * i] = -math.sin(a)
    return m
    # END SOLUTION


# %%
check("7.3", shift_matrix)

# %% [markdown] tags=["hint"]
# Write the two addition theorems below each other: their coefficients are the block.

# %% [markdown] tags=["hint"]
# Pair $i$ owns the rows and columns $2i$ and $2i + 1$, and turns by its own angle $k\,\omega_i$.

# %% [markdown]
# ### Exercise 7.4: the distance tool, mended &nbsp; (●●○, 10 minutes)
#
# Return the distances $D(0), D(1), \dots, D(\text{most})$, the last one included, without building
# a single code.

# %% tags=["exercise"]
def distances(most, d, base):
    """(most + 1,) Euclidean distances of two codes whose positions are 0 ... most apart."""
    # BEGIN SOLUTION
    omega = base ** (-torch.arange(0, d, 2) / d)
    k = torch.arange(most + 1)
    squares = d - 2 * (k[:, None] * omega).cos().sum(dim=-1)
    return squares.clamp(min=0).sqrt()
    # END SOLUTION


# %%
check("7.4", distances)

# %% [markdown] tags=["hint"]
# $D(k)^2 = d - 2\sum_i\cos(k\,\omega_i)$. How many terms has the sum?

# %% [markdown] tags=["hint"]
# `torch.arange(most)` has no `most` in it. And what does `sqrt` make of a rounding error of
# $-10^{-6}$ at $k = 0$?

# %% [markdown]
# ### Exercise 7.5: look back, at any length &nbsp; (●●●, 15 minutes)
#
# The score of query position $i$ and key position $j$ is $PE_i\,W\,PE_j^\top$, codes as rows. Find the
# $W$ for which every query's best key is the one `back` positions before it (if there is one), at
# the start of a text and ten thousand positions later. Nothing is to be trained.

# %% tags=["exercise"]
def look_back(back, d, base):
    """W, (d, d)."""
    # BEGIN SOLUTION
    # The score must be PE_(i - back) · PE_j, largest at j = i - back. With codes as rows,
    # PE_(i - back) = PE_i M^T, where M = M_(-back) = M_back^T. So W = M_back.
    return shift_matrix(back, d, base)
    # END SOLUTION


# %%
check("7.5", look_back)

# %% [markdown] tags=["hint"]
# All codes have the same length. With which vector has $PE_{i-\text{back}}$ the largest dot product?

# %% [markdown] tags=["hint"]
# Which matrix turns $PE_i$, as a row, into $PE_{i-\text{back}}$? Exercise 7.3 has columns.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | what | formula | measured |
# |---|---|---|
# | code | $\sin p\omega_i,\ \cos p\omega_i$, with $\omega_i = 10000^{-2i/d}$ | squared length $d/2$ everywhere |
# | wavelength | $\lambda_i = 2\pi/\omega_i$ | $2\pi$ to $2\pi\cdot 10000^{1-2/d}$ |
# | unique | pair 0, $\pi$ irrational | yes; not with angles in bfloat16 |
# | shift | $PE_{p+k} = M_k PE_p$, $M_aM_b = M_{a+b}$ | exact to rounding |
# | dot product | $g(k) = \sum_i \cos k\omega_i$ | falls like $-\ln k$, not like $-k^2$ ($k = 1 \dots 100$) |
# | distance | $D(k) = \sqrt{d - 2g(k)}$ | nearly half of the steps go down |
# | score of positions $i$, $j$ | $PE_i W PE_j^\top$ | a function of $j - i$ if $W$ commutes with the rotations |
#
# ### Questions
#
# *Does a sinusoidal encoding let a model work beyond its training length?* (Review question 5 of
# the course, a part of it; the rest is in [notebook 12](12-beyond-training-length.ipynb).) The
# codes go on unchanged. A head with free parameters, trained on 64 positions, missed many keys
# beyond 128; a head made of blocks missed none. Whole models are measured in notebook 12.
#
# *Why a sine and a cosine, and not $d$ sines?* The addition theorem needs both: with sines alone
# position 0 would have the code 0, and no matrix moves that. One value of a sine also leaves two
# possible angles.
#
# *Why so many frequencies?* One is enough to be unique, as the proof shows. With one, positions 710
# apart are $6\cdot10^{-5}$ apart; the others make the distances large.
#
# ### Common misconceptions
#
# - "Wavelengths from 1 to 10,000": those are positions per radian. A turn is $2\pi$ times as long.
# - "$PE_{p+k} = A_kPE_p + B_kPE_{p+\pi/2}$": a quarter turn is $\pi/2$ positions in pair 0 only.
# - "The distance grows with the offset": the first step down comes at $k = 3$ for $d = 16$ and at
#   $k = 43$ for $d = 512$.
# - "The encoding makes heads look near by": not when $W^Q$ and $W^K$ are two random matrices.
# - "It works up to position 10,000": nothing happens there. What ends is what was trained.
# - "Constant memory, computed once": one or the other.
#
# ### Further reading
#
# - Vaswani et al. 2017: section 3.5 (definition, wavelengths, the shift property), Table 3 (E).
# - Yan et al. 2019, *TENER: Adapting Transformer Encoder for Named Entity Recognition*: what random
#   projections do to the distance in the codes.
# - Wang et al. 2021, *On Position Embeddings in BERT*: monotone, translation-invariant, symmetric:
#   which encodings have which property.
# - Chi et al. 2023, *Dissecting Transformer Length Extrapolation via the Lens of Receptive Field
#   Analysis*: the logarithmic shape, and Sandwich, the encoding made from it
#   ([notebook 10](10-relative-positions.ipynb)).
#
# **Next:** [notebook 8](08-putting-positions-in.ipynb) asks how a code is brought in: added,
# concatenated, scaled, at every layer. Back to [the start](00-start-here.ipynb).
