"""The layers that are timed against each other: the base, attnlab's, other libraries'."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab import positions
from attnlab.attention import MultiHeadAttention, consecutive


@dataclass(frozen=True)
class Sizes:
    """What every layer of a run has in common."""

    d_model: int
    n_heads: int
    max_len: int
    causal: bool

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads


class Base(nn.Module):
    """The yardstick: fused projections and a bare scaled_dot_product_attention."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.in_proj = nn.Linear(sizes.d_model, 3 * sizes.d_model)
        self.out_proj = nn.Linear(sizes.d_model, sizes.d_model)

    def turn(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q, k

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.sizes.n_heads, -1)).transpose(1, 2)
            for t in self.in_proj(x).chunk(3, dim=-1)
        )
        q, k = self.turn(q, k)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=self.sizes.causal)
        return self.out_proj(heads.transpose(1, 2).flatten(-2))


class Ours(nn.Module):
    """attnlab's layer, with everything that the encoding does before, in and after it."""

    def __init__(self, sizes: Sizes, name: str):
        super().__init__()
        self.causal = sizes.causal
        self.encoding = positions.make(
            name, d_model=sizes.d_model, n_heads=sizes.n_heads, max_len=sizes.max_len
        )
        self.attention = MultiHeadAttention(sizes.d_model, sizes.n_heads, encoding=self.encoding)

    def forward(self, x: Tensor) -> Tensor:
        pos = consecutive(0, x.shape[1], x.device)
        x = self.encoding.at_layer(self.encoding.embed(x, pos), pos, 0)
        return self.encoding.after_layer(self.attention(x, causal=self.causal), pos, 0)


class Calls(nn.Module):
    """Modules and the function that runs them on x: the wrapper around another library's layer."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module):
        super().__init__()
        self.parts, self.run = nn.ModuleDict(parts), run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, **self.parts)


def torch_layer(encoding: str, sizes: Sizes) -> nn.Module | None:
    """nn.MultiheadAttention; torch has no encodings but a table that one may look up."""
    layer = nn.MultiheadAttention(sizes.d_model, sizes.n_heads, batch_first=True)
    hidden = None
    if sizes.causal:
        hidden = nn.Transformer.generate_square_subsequent_mask(sizes.max_len)

    def attend(x, layer):
        n = x.shape[1]
        mask = None if hidden is None else hidden[:n, :n].to(x)
        return layer(x, x, x, need_weights=False, attn_mask=mask, is_causal=sizes.causal)[0]

    if encoding == "none":
        return Calls(attend, layer=layer)
    if encoding == "learned":
        table = nn.Embedding(sizes.max_len, sizes.d_model)
        return Calls(
            lambda x, layer, table: attend(x + table(torch.arange(x.shape[1]).to(x.device)), layer),
            layer=layer, table=table,
        )  # fmt: skip
    return None


def x_transformers_layer(encoding: str, sizes: Sizes, flash: bool) -> nn.Module | None:
    """x_transformers.Attention."""
    import x_transformers.x_transformers as xt

    layer = xt.Attention(
        sizes.d_model, heads=sizes.n_heads, dim_head=sizes.d_head, flash=flash, causal=sizes.causal
    )
    if encoding == "none":
        return Calls(lambda x, layer: layer(x), layer=layer)
    if encoding in ("sinusoidal", "learned"):
        table = (
            xt.ScaledSinusoidalEmbedding(sizes.d_model)
            if encoding == "sinusoidal"
            else xt.AbsolutePositionalEmbedding(sizes.d_model, sizes.max_len)
        )
        return Calls(lambda x, layer, table: layer(x + table(x)), layer=layer, table=table)
    if encoding == "rope":
        return Calls(
            lambda x, layer, rope: layer(x, rotary_pos_emb=rope.forward_from_seq_len(x.shape[1])),
            layer=layer, rope=xt.RotaryEmbedding(sizes.d_head),
        )  # fmt: skip
    if encoding in ("alibi", "t5"):
        bias = (
            xt.AlibiPositionalBias(sizes.n_heads)
            if encoding == "alibi"
            else xt.RelativePositionBias(
                sizes.d_head**0.5, causal=sizes.causal, heads=sizes.n_heads
            )
        )
        return Calls(lambda x, layer, bias: layer(x, rel_pos=bias), layer=layer, bias=bias)
    return None


def rotary_embedding_torch_layer(encoding: str, sizes: Sizes) -> nn.Module | None:
    """The base, with the queries and keys turned by rotary_embedding_torch."""
    if encoding != "rope":
        return None
    from rotary_embedding_torch import RotaryEmbedding

    layer = Base(sizes)
    layer.rope = RotaryEmbedding(sizes.d_head, cache_max_seq_len=max(8192, sizes.max_len))
    turn = layer.rope.rotate_queries_or_keys
    layer.turn = lambda q, k: (turn(q), turn(k))
    return layer


def transformers_layer(encoding: str, sizes: Sizes) -> nn.Module | None:
    """Hugging Face's attention layers with their scaled_dot_product_attention back end.

    Bloom's and MPT's layers have their own code; MPT's adds ALiBi along the keys, which equals
    the paper's only under a causal mask, at the same cost. Wav2Vec2-BERT has Shaw's key side only.
    """
    d, h, n, causal = sizes.d_model, sizes.n_heads, sizes.max_len, sizes.causal
    if encoding in ("none", "sinusoidal", "learned"):
        from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
        from transformers.models.opt.modeling_opt import (
            OPTAttention,
            OPTConfig,
            OPTLearnedPositionalEmbedding,
        )

        config = OPTConfig(hidden_size=d, num_attention_heads=h, attention_dropout=0.0)
        config._attn_implementation = "sdpa"
        layer = OPTAttention(config, 0)
        layer.is_causal = causal
        if encoding == "none":
            return Calls(lambda x, layer: layer(x)[0], layer=layer)
        if encoding == "learned":
            table = OPTLearnedPositionalEmbedding(n, d)

            def run(x, layer, table):
                real = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
                return layer(x + table(real))[0]

            return Calls(run, layer=layer, table=table)
        table = MarianSinusoidalPositionalEmbedding(n, d)
        table.weight.copy_(table.create_weight())
        return Calls(
            lambda x, layer, table: layer(x + table(x.shape[:2]))[0], layer=layer, table=table
        )
    if encoding == "rope":
        from transformers.models.llama.modeling_llama import (
            LlamaAttention,
            LlamaConfig,
            LlamaRotaryEmbedding,
        )

        config = LlamaConfig(
            hidden_size=d, num_attention_heads=h, num_key_value_heads=h, max_position_embeddings=n
        )
        config._attn_implementation = "sdpa"
        layer = LlamaAttention(config, 0)
        layer.is_causal = causal

        def run(x, layer, rope):
            at = rope(x, torch.arange(x.shape[1], device=x.device)[None])
            return layer(x, at, None)[0]

        return Calls(run, layer=layer, rope=LlamaRotaryEmbedding(config))
    if encoding == "t5":
        from transformers.models.t5.modeling_t5 import T5Attention, T5Config

        config = T5Config(
            d_model=d, num_heads=h, d_kv=sizes.d_head, dropout_rate=0.0, is_decoder=causal
        )
        config._attn_implementation = "sdpa"
        layer = T5Attention(config, True, layer_idx=0, is_causal=causal)
        return Calls(lambda x, layer: layer(x)[0], layer=layer)
    if encoding == "alibi":
        from transformers.models.mpt.modeling_mpt import (
            MptAttention,
            MptConfig,
            build_mpt_alibi_tensor,
        )

        layer = MptAttention(MptConfig(d_model=d, n_heads=h, max_seq_len=n))
        hidden = torch.ones(n, n, dtype=torch.bool).triu(1) if causal else None

        def run(x, layer):
            n = x.shape[1]
            bias = build_mpt_alibi_tensor(h, n, device=x.device)
            mask = None if hidden is None else hidden[:n, :n].to(x.device)
            return layer(x, bias, attention_mask=mask)[0]

        return Calls(run, layer=layer)
    if encoding == "shaw":
        from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import (
            Wav2Vec2BertConfig,
            Wav2Vec2BertSelfAttention,
        )

        clip = positions.make("shaw", d_model=d, n_heads=h).clip
        config = Wav2Vec2BertConfig(
            hidden_size=d, num_attention_heads=h, attention_dropout=0.0,
            position_embeddings_type="relative_key", left_max_position_embeddings=clip,
            right_max_position_embeddings=clip,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        return Calls(lambda x, layer: layer(x)[0], layer=Wav2Vec2BertSelfAttention(config))
    return None


# name in the table: (package that must be there, function that builds the layer)
PEERS: dict[str, tuple[str, Callable]] = {
    "nn.MultiheadAttention": ("torch", torch_layer),
    "x-transformers": (
        "x-transformers", lambda name, sizes: x_transformers_layer(name, sizes, flash=False)
    ),
    "x-transformers flash": (
        "x-transformers", lambda name, sizes: x_transformers_layer(name, sizes, flash=True)
    ),
    "rotary-embedding-torch": ("rotary-embedding-torch", rotary_embedding_torch_layer),
    "Hugging Face": ("transformers", transformers_layer),
}  # fmt: skip


def build(names: list[str], sizes: Sizes, peers: bool) -> tuple[dict, list[str]]:
    """{(encoding, whose): layer}, the base first, and a line on every peer that is missing."""
    torch.manual_seed(0)
    layers: dict[tuple[str, str], nn.Module] = {("none", "base"): Base(sizes)}
    missing: dict[str, str] = {}
    for name in names:
        layers[name, "attnlab"] = Ours(sizes, name)
        for whose, (package, make) in PEERS.items() if peers else ():
            try:
                layer = make(name, sizes)
            except ImportError:
                missing[package] = f"{package} is not installed and left out: pip install {package}"
            else:
                if layer is not None:
                    layers[name, whose] = layer
    return layers, list(missing.values())
