"""What heads do, in numbers: with the n x n matrix of weights, without it, in other libraries.

All rows of one length find the entropy and the attended distance of every query of every head, from
the queries and keys of one layer; other libraries get the weights from a model of one such layer.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab import positions, stats
from attnlab.attention import attention_weights
from attnlab.bench.parts import Progress, share_of
from attnlab.measure import compare, peak_bytes, reason

HEADS = {"cpu": 2, "cuda": 16}
D_HEAD = 64
PROBES = (256, 512)  # lengths at which a route shows how much memory a pair of tokens costs it
ROUNDS = 3
BASE = "attention"
ASKED = ("entropy", "distance")

Work = Callable[[], object]


def dense(q: Tensor, k: Tensor, **options) -> tuple[Tensor, Tensor]:
    """Entropy and distance as they are defined, from all weights at once."""
    with torch.no_grad():
        return read(attention_weights(q, k, **options))


def read(weights: Tensor) -> tuple[Tensor, Tensor]:
    return stats.entropy(weights), stats.attention_distance(weights)


def routes(n: int, n_heads: int, causal: bool, device: torch.device) -> dict[tuple, Work]:
    """{(what, bias): work}, the fused attention of the same size first."""
    q, k, v = torch.randn(3, 1, n_heads, n, D_HEAD, device=device)
    t5 = positions.T5Bias(n_heads).to(device)
    attend = F.scaled_dot_product_attention

    def summary(**options) -> Work:
        return lambda: stats.summary(q, k, causal=causal, **options)

    return {
        (BASE, "none"): lambda: attend(q, k, v, is_causal=causal),
        ("fused", "none"): summary(only=ASKED, route="fused"),
        ("rows", "none"): summary(only=ASKED, route="rows"),
        ("rows, all statistics", "none"): summary(),
        ("rows", "t5"): summary(only=ASKED, encoding=t5),
        ("dense", "none"): lambda: dense(q, k, causal=causal),
        ("dense", "t5"): lambda: dense(q, k, causal=causal, encoding=t5),
    }


def hugging_face(n: int, n_heads: int, causal: bool, device: torch.device) -> Callable[[], Tensor]:
    """The weights that output_attentions hands out."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=64, hidden_size=n_heads * D_HEAD, num_hidden_layers=1,
        num_attention_heads=n_heads, intermediate_size=n_heads * D_HEAD,
        max_position_embeddings=n, attn_implementation="eager", is_decoder=causal,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval().to(device)
    ids = torch.zeros(1, n, dtype=torch.long, device=device)

    def weights() -> Tensor:
        with torch.no_grad():
            return model(ids, output_attentions=True, use_cache=False).attentions[0]

    return weights


def transformer_lens(
    n: int, n_heads: int, causal: bool, device: torch.device
) -> Callable[[], Tensor]:
    """The weights that run_with_cache keeps."""
    sizes = dict(
        n_layers=1, d_model=n_heads * D_HEAD, n_heads=n_heads, d_head=D_HEAD, n_ctx=n, d_vocab=64,
        attn_only=True, attention_dir="causal" if causal else "bidirectional", device=str(device),
    )  # fmt: skip
    try:  # version 4 on
        from transformer_lens.model_bridge.sources.native import boot

        model = boot(sizes, device=device)
    except ImportError:
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        model = HookedTransformer(HookedTransformerConfig(**sizes))
    ids = torch.zeros(1, n, dtype=torch.long, device=device)
    name = "blocks.0.attn.hook_pattern"

    def weights() -> Tensor:
        with torch.no_grad():
            return model.run_with_cache(ids, names_filter=name, return_type=None)[1][name]

    return weights


def bertviz(n: int, n_heads: int, causal: bool, device: torch.device) -> Callable[[], Tensor]:
    """The page of weights that the head view makes, from those of Hugging Face."""
    from bertviz import head_view

    of = hugging_face(n, n_heads, causal, device)

    def weights() -> Tensor:
        found = of()
        head_view([found.cpu()], [str(i) for i in range(n)], html_action="return")
        return found

    return weights


PEERS = {"Hugging Face": hugging_face, "TransformerLens": transformer_lens, "BertViz": bertviz}


def with_peers(n: int, n_heads: int, causal: bool, device: torch.device) -> dict[tuple, Work]:
    """The routes, and the peers that are installed."""
    works = routes(n, n_heads, causal, device)
    for name, make in PEERS.items():
        try:
            weights = make(n, n_heads, causal, device)
        except ImportError:
            continue
        works[name, "none"] = lambda weights=weights: read(weights())
    return works


def needs(n_heads: int, causal: bool, device: torch.device) -> Callable[[tuple, int], float]:
    """A function that says how many bytes a route will hold for n tokens, if what it holds grows
    with n^2: as it did between two short lengths."""
    held = []
    for n in PROBES:
        works = with_peers(n, n_heads, causal, device)
        for work in works.values():
            work()  # what is built once must not count
        held.append({key: peak_bytes(work, device) or 0 for key, work in works.items()})
    short, long = PROBES

    def bytes_for(key: tuple, n: int) -> float:
        of_pair = (held[1][key] - held[0][key]) / (long**2 - short**2)
        return of_pair * n**2

    return bytes_for


def measure(
    lengths: Sequence[int], device: torch.device, memory_gib: float, progress: Progress
) -> list[dict]:
    """A row for each length, mask and route: {"route", "bias", "causal", "n", "n_heads", "pass"}.

    "pass" is what `attnlab.measure.compare` finds: seconds, the ratio to one forward pass of fused
    attention of the same size, peak bytes; or "left_out", as for routes that would hold more than
    memory_gib and libraries that are not installed. The n x n routes hold what two short lengths
    say, times n^2.

    Args:
        progress: told the share of the work that is done.
    """
    n_heads = HEADS.get(device.type, HEADS["cpu"])
    rows: list[dict] = []
    settings = [(n, causal) for causal in (True, False) for n in lengths]
    need = {}
    for i, (n, causal) in enumerate(settings):
        if causal not in need:
            need[causal] = needs(n_heads, causal, device)
        left_out = {}
        try:
            works = with_peers(n, n_heads, causal, device)
        except Exception as error:  # a peer that cannot be built for so many tokens
            works = routes(n, n_heads, causal, device)
            left_out[("other libraries", "none")] = reason(error)
        for name, bias in list(works):
            gib = need[causal]((name, bias), n) / 2**30
            if (name == "dense" or name in PEERS) and gib > memory_gib:
                left_out[name, bias] = f"would need {gib:.1f} GiB"
                del works[name, bias]
        found = compare(
            works, device, rounds=ROUNDS, base=(BASE, "none"),
            progress=share_of(progress, i, len(settings)),
        )  # fmt: skip
        found |= {key: {"left_out": why} for key, why in left_out.items()}
        for (name, bias), values in found.items():
            row = {"route": name, "bias": bias, "causal": causal, "n": n, "n_heads": n_heads}
            rows.append({**row, "pass": values})
        del works
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows
