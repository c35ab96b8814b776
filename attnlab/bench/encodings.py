"""A whole layer with every encoding, against a layer without and against other libraries.

The yardstick ("base") is a layer without positions: one product for queries, keys and values, a
bare torch.nn.functional.scaled_dot_product_attention, one product for the output.
"""

import torch
from torch import Tensor, nn

from attnlab import positions
from attnlab.bench.layers import PEERS, Base, Ours, Sizes
from attnlab.bench.parts import Progress, Setting, Table, both_passes, forward_backward, share_of
from attnlab.measure import peak_bytes, reason

LENGTHS = {"tiny": (8, 17), "cpu": (128, 1024), "gpu": (1024, 8192)}
WIDTHS = {"tiny": (16, 2), "cpu": (512, 8), "gpu": (1024, 16)}  # d_model, n_heads
BASE = ("none", "base")


def build(names: list[str], sizes: Sizes, peers: bool) -> tuple[dict, list[str]]:
    """{(encoding, whose): layer}, the base first, and a line on every peer that is missing."""
    torch.manual_seed(0)
    layers: dict[tuple[str, str], nn.Module] = {BASE: Base(sizes)}
    missing: dict[str, str] = {}
    for name in names:
        layers[name, "attnlab"] = Ours(sizes, name)
        for whose, (package, make) in PEERS.items() if peers else ():
            try:
                layer = make(name, sizes)
            except ImportError:
                missing[package] = f"{package} is not installed and left out: pip install {package}"
            except Exception as error:  # another version of the library, perhaps
                missing[f"{whose} {name}"] = f"{whose}, {name}: left out, {reason(error)}"
            else:
                if layer is not None:
                    layers[name, whose] = layer
    return layers, list(missing.values())


def affordable(layers: dict, x: Tensor, gib: float) -> tuple[dict, list[str]]:
    """The layers that hold at most so much memory, and a line on each other one.

    Judged at 256 tokens: what an n x n layer holds grows with n^2.
    """
    n, probe = x.shape[1], x[:, :256]
    growth = (n / probe.shape[1]) ** 2
    keep, notes = {}, []
    for key, layer in layers.items():
        encoding, whose = key
        try:
            need = peak_bytes(forward_backward(layer, (probe,)), x.device)
        except Exception as error:
            if key == BASE:
                raise
            notes.append(f"{whose}, {encoding}: left out, {reason(error)}")
            continue
        finally:
            layer.zero_grad(set_to_none=True)
        if need is not None and need * growth > gib * 2**30 and growth > 1:
            notes.append(
                f"{whose}, {encoding}: n = {n} would hold up to {need * growth / 2**30:.1f} GiB, "
                "left out (see --memory)"
            )
        else:
            keep[key] = layer
    return keep, notes


def time_layers(layers: dict, x: Tensor, setting: Setting, progress: Progress) -> list[dict]:
    """One row for each layer: times, ratios to the base (the first layer), and memory."""
    found = both_passes(layers, (x,), setting, progress, base=next(iter(layers)))
    return [
        {"encoding": encoding, "whose": whose, "n": x.shape[1], **found[encoding, whose]}
        for encoding, whose in layers
    ]


def measure(setting: Setting, progress: Progress) -> Table:
    """All encodings of the registry (or options["encodings"]) at some lengths."""
    chosen = setting.options
    lengths = chosen.get("lengths") or LENGTHS[setting.scale]
    d_model, n_heads = WIDTHS[setting.scale]
    dtype = chosen.get("dtype") or ("bfloat16" if setting.scale == "gpu" else "float32")
    sizes = Sizes(
        d_model=chosen.get("d_model") or d_model, n_heads=chosen.get("heads") or n_heads,
        max_len=max(lengths), causal=bool(chosen.get("causal")),
    )  # fmt: skip
    batch = chosen.get("batch") or 1
    table = Table({
        "d_model": sizes.d_model, "n_heads": sizes.n_heads, "batch": batch,
        "causal": sizes.causal, "dtype": dtype,
    })  # fmt: skip
    names = chosen.get("encodings") or positions.names()
    layers, table.left_out = build(names, sizes, setting.peers)
    at = {"device": setting.device, "dtype": getattr(torch, dtype)}
    layers = {key: layer.to(**at) for key, layer in layers.items()}
    for i, n in enumerate(lengths):
        x = torch.randn(batch, n, sizes.d_model, **at)
        small_enough, too_large = affordable(layers, x, setting.memory)
        table.left_out += too_large
        step = share_of(progress, i, len(lengths))
        table.rows += time_layers(small_enough, x, setting, step)
    return table
