"""Attention with each encoding against the fastest kernels without one.

What is wanted is the speed of the same call without an encoding. "speed" is that: the least time
of all kernels without encoding, divided by the time of the row; 1 is as fast, 0.5 takes twice as
long. The bar is 0.90.

Floating-point operations are counted as usual for attention: 4 n^2 d_head for each head forward
(half of it with a causal mask), 2.5 times as many backward, where the scores are formed once more.

Source: Dao 2024 (FlashAttention-2), section 4.1, for the counting.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from attnlab import positions
from attnlab.attention import BACKENDS, scaled_dot_product_attention
from attnlab.bench.parts import Progress, Setting, Table, both_passes, share_of
from attnlab.measure import reason

BAR = 0.90
SIZES = {  # tokens, widths of a head, width of all heads together
    "tiny": (64, (16,), 32),
    "cpu": (1024, (64,), 512),
    "gpu": (8192, (64, 128), 2048),
}
ENCODINGS = ("none", "rope", "alibi", "t5")
KERNELS = {
    "cpu": ("FLASH_ATTENTION", "MATH"),
    "cuda": ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"),
}
CHECKED = 64  # queries, the last ones, whose output is compared with the dense back end


def flops(n: int, n_heads: int, d_head: int, causal: bool, backward: bool) -> float:
    """Of one call, forward only or forward and backward."""
    one = 4 * n * n * d_head * n_heads * (0.5 if causal else 1.0)
    return one * (3.5 if backward else 1.0)


def with_kernel(kernel: str, causal: bool) -> Callable[..., Tensor]:
    """torch's scaled_dot_product_attention by this kernel or not at all."""

    def call(q, k, v):
        with sdpa_kernel([getattr(SDPBackend, kernel)]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return call


def with_mask(encoding: positions.Encoding, causal: bool) -> Callable[..., Tensor]:
    """torch's scaled_dot_product_attention with bias and causal mask as one n x n matrix a head."""

    def call(q, k, v):
        pos = torch.arange(q.shape[-2], device=q.device)
        offset = pos[None, :] - pos[:, None]
        bias = encoding.relative_bias(offset)
        if causal:
            bias = bias.masked_fill(offset > 0, -torch.inf)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype))

    return call


def users_flex(q: Tensor, k: Tensor, v: Tensor, score_mod, block_mask) -> Tensor:
    return flex_attention(q, k, v, score_mod=score_mod, block_mask=block_mask)


def with_flex(
    name: str, encoding: positions.Encoding, causal: bool, n: int, compiled: bool,
    device: torch.device,
) -> Callable[..., Tensor]:  # fmt: skip
    """torch's flex_attention as its users write it."""
    attend = torch.compile(users_flex, dynamic=False) if compiled else users_flex
    mask = None
    if causal:
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, n, n, device=str(device))
    offset = torch.arange(1 - n, n, device=device)

    def call(q, k, v):
        if q.requires_grad and q.device.type == "cpu":
            raise NotImplementedError("flex_attention has no backward pass on a CPU")
        score_mod = None
        if name != "none":
            table = encoding.relative_bias(offset).float()  # parameters may have changed
            slopes = -table[:, n]  # offset 1

            def alibi(score, b, h, i, j):
                return score - slopes[h] * (i - j).abs()

            def by_table(score, b, h, i, j):
                return score + table[h, j - i + n - 1]

            score_mod = alibi if name == "alibi" else by_table
        with warnings.catch_warnings():
            if not compiled:  # where it builds the matrix is no matter in the smallest sizes
                warnings.simplefilter("ignore")
            return attend(q, k, v, score_mod, mask)

    return call


def turned(
    turn: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], attend: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """Attention after another library turned queries and keys."""
    return lambda q, k, v: attend(*turn(q, k), v)


def hugging_face_rope(n: int, d_head: int, like: Tensor) -> Callable:
    """Llama's rotation."""
    from transformers.models.llama.modeling_llama import (
        LlamaConfig,
        LlamaRotaryEmbedding,
        apply_rotary_pos_emb,
    )

    config = LlamaConfig(hidden_size=2 * d_head, num_attention_heads=2, max_position_embeddings=n)
    rope = LlamaRotaryEmbedding(config).to(like.device)
    cos, sin = rope(like, torch.arange(n, device=like.device)[None])
    return lambda q, k: apply_rotary_pos_emb(q, k, cos, sin)


def rotary_embedding_torch_rope(n: int, d_head: int, like: Tensor) -> Callable:
    from rotary_embedding_torch import RotaryEmbedding

    rope = RotaryEmbedding(d_head, cache_max_seq_len=max(8192, n)).to(like.device)
    return lambda q, k: (rope.rotate_queries_or_keys(q), rope.rotate_queries_or_keys(k))


def flash_attn_alibi(encoding: positions.Encoding, causal: bool, device: torch.device) -> Callable:
    """The kernel of the package flash-attn, which knows ALiBi."""
    from flash_attn import flash_attn_func

    slopes = torch.tensor(encoding.slopes, device=device, dtype=torch.float32)

    def call(q, k, v):
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return flash_attn_func(q, k, v, causal=causal, alibi_slopes=slopes).transpose(1, 2)

    return call


def plain(causal: bool) -> Callable[..., Tensor]:
    """torch's scaled_dot_product_attention by the kernel that it chooses."""
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal)


PEER_ROPES = {  # whose: (package, maker of the rotation, layout of the pairs)
    "Hugging Face": ("transformers", hugging_face_rope, "half"),
    "rotary-embedding-torch": (
        "rotary-embedding-torch", rotary_embedding_torch_rope, "interleaved"
    ),
}  # fmt: skip


@dataclass
class Work:
    """One way to compute attention with one encoding, and the encoding that it must agree with."""

    call: Callable[..., Tensor]
    encoding: positions.Encoding


def works_of(
    name: str, encoding: positions.Encoding, q: Tensor, causal: bool, setting: Setting
) -> tuple[dict[str, Work], list[str]]:
    """{whose: work} for one encoding, and a line on every peer that is missing.

    Everything with a causal mask; without one only attnlab's automatic choice and plain kernels,
    which say how fast it could be.
    """
    n, d_head, n_heads, device = q.shape[-2], q.shape[-1], q.shape[1], q.device
    works: dict[str, Work] = {}
    missing: list[str] = []

    def add(whose: str, package: str, make: Callable[[], Callable], like=encoding) -> None:
        try:
            works[whose] = Work(make(), like)
        except ImportError:
            missing.append(f"{package} is not installed and left out: pip install {package}")
        except Exception as error:  # another version of the library, perhaps
            missing.append(f"{whose}, {name}: left out, {reason(error)}")

    for backend in BACKENDS if causal else ("auto",):
        matrices = 24 * n_heads * n**2  # scores, weights and their gradients, in float32
        if backend == "blocked" or (backend == "dense" and not setting.fits(matrices)):
            continue

        def ours(q, k, v, backend=backend):
            return scaled_dot_product_attention(
                q, k, v, causal=causal, encoding=encoding, backend=backend
            )

        works[f"attnlab {backend}"] = Work(ours, encoding)
    if name == "none":
        works["torch"] = Work(plain(causal), encoding)
        for kernel in KERNELS.get(device.type, ()):
            if kernel != "MATH" or (causal and setting.fits(16 * n_heads * n**2)):
                works[f"torch {kernel.lower()}"] = Work(with_kernel(kernel, causal), encoding)
    if not setting.peers or not causal:
        return works, missing
    if name == "rope":
        for whose, (package, make, layout) in PEER_ROPES.items():
            add(
                whose, package, lambda make=make: turned(make(n, d_head, q), plain(causal)),
                positions.RoPE(d_head, layout=layout).to(device),
            )  # fmt: skip
    else:
        add("torch flex_attention", "torch", lambda: with_flex(
            name, encoding, causal, n, setting.scale != "tiny", device
        ))  # fmt: skip
        if name != "none" and setting.fits(4 * n_heads * n**2):
            works["torch n x n mask"] = Work(with_mask(encoding, causal), encoding)
    if name == "alibi" and device.type == "cuda":
        add("flash-attn", "flash-attn", lambda: flash_attn_alibi(encoding, causal, device))
    return works, missing


@torch.no_grad()
def largest_error(work: Work, causal: bool, qkv: tuple[Tensor, ...]) -> float:
    """How far the output of the last queries is from the dense back end's in float32: the largest
    difference as a share of the root mean square."""
    last = slice(-CHECKED, None)
    q, k, v = (t.float() for t in qkv)
    exact = scaled_dot_product_attention(
        q[..., last, :], k, v, causal=causal, encoding=work.encoding, backend="dense"
    )
    found = work.call(*qkv)[..., last, :].float()
    return ((found - exact).abs().max() / exact.square().mean().sqrt()).item()


def measure(setting: Setting, progress: Progress) -> Table:
    """Forward, and forward and backward, of every encoding by every kernel that can.

    options["matrix_rate"], in FLOP/s, gives each row its share of it.
    """
    n, d_heads, width = SIZES[setting.scale]
    dtype = torch.bfloat16 if setting.scale == "gpu" else torch.float32
    at = {"device": setting.device, "dtype": dtype}
    rate = setting.options.get("matrix_rate")
    table = Table({
        "n": n, "width": width, "batch": 1, "dtype": str(dtype)[6:], "bar": BAR,
        "matrix_flops_per_second": rate,
    })  # fmt: skip
    groups = [(d_head, causal) for d_head in d_heads for causal in (True, False)]
    for i, (d_head, causal) in enumerate(groups):
        torch.compiler.reset()  # a function is compiled a limited number of times
        n_heads = width // d_head
        torch.manual_seed(0)
        qkv = tuple(torch.randn(3, 1, n_heads, n, d_head, **at))
        works: dict[tuple[str, str], Work] = {}
        for name in ENCODINGS:
            encoding = positions.make(name, d_model=width, n_heads=n_heads, max_len=n)
            of_encoding, missing = works_of(
                name, encoding.to(setting.device), qkv[0], causal, setting
            )
            works |= {(name, whose): work for whose, work in of_encoding.items()}
            table.left_out += [line for line in missing if line not in table.left_out]
        found = both_passes(
            {key: work.call for key, work in works.items()}, qkv, setting,
            share_of(progress, i, len(groups)),
        )  # fmt: skip
        for (name, whose), row in found.items():
            if "ValueError" in row["forward"].get("left_out", "") and "attnlab" in whose:
                continue  # a back end says of itself what it cannot do
            error = None
            if "seconds" in row["forward"]:
                error = largest_error(works[name, whose], causal, qkv)
            of_pass = {}
            for p, value in row.items():
                best = min(
                    other[p]["seconds"]
                    for (encoding, _), other in found.items()
                    if encoding == "none" and "seconds" in other[p]
                )
                of_pass[p] = speeds(value, best, flops(n, n_heads, d_head, causal, p != "forward"),
                                    rate)  # fmt: skip
            table.rows.append({
                "encoding": name, "whose": whose, "d_head": d_head, "causal": causal,
                "largest_error": error, **of_pass,
            })  # fmt: skip
        del works, qkv
    return table


def speeds(value: dict, best: float, n_flops: float, rate: float | None) -> dict:
    """The times of a row with its FLOP/s, their share of the matrix rate, and its speed against the
    best kernel without encoding."""
    if "seconds" not in value:
        return value
    per_second = n_flops / value["seconds"]
    share = {"of_matrix_rate": per_second / rate} if rate else {}
    return {**value, "flops_per_second": per_second, "speed": best / value["seconds"], **share}


def bars(table: dict) -> dict[tuple, float]:
    """{(encoding, d_head, causal, pass): speed} of attnlab's automatic choice, for the encodings
    that the bar is about: rope, alibi and t5. `table` is this part of a stored result."""
    return {
        (row["encoding"], row["d_head"], row["causal"], p): row[p]["speed"]
        for row in table["rows"]
        if row["whose"] == "attnlab auto" and row["encoding"] != "none"
        for p in ("forward", "forward + backward")
        if "speed" in row[p]
    }
