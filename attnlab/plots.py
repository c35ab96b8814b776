"""Matplotlib figures that more than one notebook shows, and the numbers behind them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from attnlab.positions.absolute import Absolute, Sinusoidal, frequencies

# Light to dark, even in lightness, told apart by colour-blind readers and in grey print.
COLOURS = "cividis"
# Colour and dashes of each encoding, the same in every picture; told apart without colours too.
ENCODING_LOOKS = {
    "none": ("#808080", (2, 3)), "sinusoidal": ("#d0820b", ()), "learned": ("#d0820b", (7, 4)),
    "shaw": ("#cc5a9a", (2, 3)), "t5": ("#cc5a9a", ()), "rope": ("#0a8a60", ()),
    "alibi": ("#2277c4", ()), "sandwich": ("#2277c4", (7, 4)),
}  # fmt: skip


def weight_maps(
    weights: Float[Tensor, "n_maps n_q n_k"],
    keys: Sequence[str],
    queries: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    numbers: bool = False,
) -> Figure:
    """One heat map for each matrix of weights: a row for each query, a column for each key.

    numbers=True writes each weight into its square; for a handful of tokens.

    Raises:
        ValueError: if the labels do not match the matrices.
    """
    queries = keys if queries is None else queries
    if weights.dim() != 3 or weights.shape[1:] != (len(queries), len(keys)):
        raise ValueError(
            f"weights {tuple(weights.shape)} do not fit {len(queries)} queries, {len(keys)} keys"
        )
    n, size = len(weights), max(1.6, 0.42 * len(keys))
    fig, axes = plt.subplots(
        1, n, figsize=(n * (size + 1.1), size + 1.0), squeeze=False, layout="constrained"
    )
    for m, ax in enumerate(axes[0]):
        image = ax.imshow(weights[m].detach().cpu().numpy(), vmin=0, vmax=1, cmap=COLOURS)
        ax.set_xticks(range(len(keys)), keys, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(queries)), queries)
        ax.set_xlabel("key")
        ax.set_ylabel("query")
        if titles is not None:
            ax.set_title(titles[m])
        if numbers:
            for i in range(len(queries)):
                for j in range(len(keys)):
                    w = weights[m, i, j].item()
                    ax.text(j, i, f"{w:.2f}", ha="center", va="center",
                            color="black" if w > 0.5 else "white")  # fmt: skip
    fig.colorbar(image, ax=axes[0], label="weight")
    return fig


def by_seed(
    results: dict[str, Sequence[float]], ylabel: str, xlabel: str = ""
) -> Figure:
    """One column of dots for each setting: a dot for each seed, a bar at their mean."""
    fig, ax = plt.subplots(figsize=(1.6 + 1.3 * len(results), 3.0), layout="constrained")
    for x, values in enumerate(results.values()):
        values = list(values)
        ax.hlines(sum(values) / len(values), x - 0.3, x + 0.3, color="black", lw=2)
        spread = [x + 0.08 * (i - (len(values) - 1) / 2) for i in range(len(values))]
        ax.plot(spread, values, "o", color="#b8860b", ms=7, mec="black", mew=0.6)
    ax.set_xticks(range(len(results)), list(results))
    ax.set_xlim(-0.6, len(results) - 0.4)
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel(ylabel)
    ax.set_xlabel(xlabel)
    ax.grid(axis="y", alpha=0.3)
    return fig


def encoding_map(encoding: Absolute, n: int, first: int = 0) -> Figure:
    """The table of an absolute encoding: a row for each position, first ... first + n - 1 from top
    to bottom, and a column for each feature. The colours are symmetric about 0.

    Any width will do, odd ones too; whether there is such an encoding is for the encoding to say.

    Raises:
        ValueError: for fewer than one position, or from the encoding, for positions it cannot
            encode.
    """
    if n < 1:
        raise ValueError(f"encoding_map needs at least one position, got n = {n}")
    with torch.no_grad():
        table = encoding.table(torch.arange(first, first + n)).cpu().numpy()
    top = abs(table).max()
    fig, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
    image = ax.imshow(
        table, cmap=COLOURS, vmin=-top, vmax=top, aspect="auto", interpolation="nearest",
        extent=(-0.5, table.shape[1] - 0.5, first + n - 0.5, first - 0.5),
    )  # fmt: skip
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("feature")
    ax.set_ylabel("position")
    fig.colorbar(image, ax=ax, label="value")
    return fig


def encoding_distances(
    encoding: Absolute, max_offset: int, n: int | None = None
) -> tuple[Float[Tensor, " offsets"], Float[Tensor, " offsets"]]:
    """Smallest and largest Euclidean distance of two positions that are 0, 1, ..., max_offset
    apart: the last offset is included.

    For a sinusoidal encoding the two are equal, wherever the positions are:
    D(k) = sqrt(d - 2 sum_i cos(omega_i k)), computed as 2 sqrt(sum_i sin^2(omega_i k / 2)), which
    is the same and loses no digits at small distances; no pair of positions is visited. For any
    other table the pairs among the positions 0 ... n - 1 are compared, one offset at a time
    (default: n = 4 max_offset).

    Raises:
        ValueError: for a negative max_offset, n that does not reach it, or from the encoding.
    """
    if max_offset < 0:
        raise ValueError(f"max_offset must not be negative, got {max_offset}")
    if isinstance(encoding, Sinusoidal):
        omega = frequencies(encoding.d_model, encoding.base)
        k = torch.arange(max_offset + 1, dtype=omega.dtype)
        distance = 2 * (omega * k[:, None] / 2).sin().square().sum(-1).sqrt()
        return distance, distance
    n = max(2, 4 * max_offset) if n is None else n
    if n <= max_offset:
        raise ValueError(f"n = {n} positions are never {max_offset} apart: give a larger n")
    with torch.no_grad():
        table = encoding.table(torch.arange(n), torch.float64)
    pairs = [(table[k:] - table[: n - k]).norm(dim=-1) for k in range(max_offset + 1)]
    return torch.stack([p.min() for p in pairs]), torch.stack([p.max() for p in pairs])


def distance_curve(
    encodings: dict[str, Absolute], max_offset: int, n: int | None = None
) -> Figure:
    """Distance of two codes against the offset of their positions, from 0 to max_offset: a line
    for each encoding, or a band where the distance depends on the position too.

    Raises:
        ValueError: as `encoding_distances`.
    """
    fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
    greys = plt.get_cmap(COLOURS)
    for i, (name, encoding) in enumerate(encodings.items()):
        low, high = encoding_distances(encoding, max_offset, n)
        colour = greys(0.8 * i / max(1, len(encodings) - 1))
        dash = ("-", "--", "-.", ":")[i % 4]
        ax.plot((low + high).cpu() / 2, dash, color=colour, label=name)
        if not torch.equal(low, high):
            ax.fill_between(range(max_offset + 1), low.cpu(), high.cpu(), color=colour, alpha=0.25,
                            lw=0)  # fmt: skip
    ax.set_xlabel("offset k of the two positions")
    ax.set_ylabel("distance of their codes")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig
