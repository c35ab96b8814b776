"""Transformers put together from this package's own parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn

from attnlab import positions
from attnlab.attention import MultiHeadAttention, consecutive
from attnlab.cache import KVCache
from attnlab.windows import Windows


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of an `Encoder`. The defaults are those of all-MiniLM-L6-v2."""

    vocab_size: int = 30_522
    n_layers: int = 6
    d_model: int = 384
    n_heads: int = 12
    d_ff: int = 1_536  # width between the two matrices of the feed-forward part
    max_len: int = 512  # tokens; the size of a learned table of positions
    n_types: int = 2  # segments (BERT's sentence A and B); this course uses only the first
    layer_norm_eps: float = 1e-12
    encoding: str = "learned"  # a name that `attnlab.positions.make` knows


class EncoderLayer(nn.Module):
    """Attention mixes the tokens, then two matrices work on each token by itself:

        x <- LayerNorm(x + Attention(x))
        x <- LayerNorm(x + W_2 gelu(W_1 x))

    Attributes:
        causal: True lets a token see only itself and what stands before it. An encoder is trained
            without (False); set it to see what the mask does. Temperature and back end are
            attributes of `attention`.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.attention = MultiHeadAttention(config.d_model, config.n_heads)
        self.attention_norm = nn.LayerNorm(config.d_model, config.layer_norm_eps)
        self.w_1 = nn.Linear(config.d_model, config.d_ff)
        self.w_2 = nn.Linear(config.d_ff, config.d_model)
        self.feed_forward_norm = nn.LayerNorm(config.d_model, config.layer_norm_eps)
        self.causal = False

    def forward(
        self, x: Float[Tensor, "batch n d_model"], padding: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch n d_model"]:
        attended = self.attention(x, padding=padding, causal=self.causal)
        x = self.attention_norm(x + attended)
        return self.feed_forward_norm(x + self.w_2(F.gelu(self.w_1(x))))


def _look_at(attention: MultiHeadAttention, encoding: positions.Encoding) -> None:
    """Let a layer use the encoding of the model around it, past torch's bookkeeping: it is a part
    of the model, once. Else its parameters would be stored once per layer."""
    del attention.encoding
    object.__setattr__(attention, "encoding", encoding)


class Encoder(nn.Module):
    """A stack of layers in which every token sees every other (BERT's architecture).

        x_0 = LayerNorm(token vectors + type vector + positions)
        x_l = layer_l(x_{l-1})

    There is no dropout: this encoder is for looking, and for small repairs, not for pretraining.

    Attributes:
        layers: `layers[i].attention` is a `MultiHeadAttention`; its weights are seen through
            `attnlab.attention.capture(encoder)` under the name f"layers.{i}.attention".
        encoding: the positional encoding. Assign another one to swap it everywhere,

                encoder.encoding = positions.make("rope", d_model=384, n_heads=12)

            What it does at the input happens in `embed`, what it does around a layer in
            `hidden_states`, what it does to queries, keys or scores in every layer.

    Source: Vaswani et al. 2017, section 3; Devlin et al. 2019 (BERT), section 3 and its released
    configuration.

    Raises:
        ValueError: for sizes that do not fit together, or an unknown encoding.
        TypeError: if something else than an `attnlab.positions` encoding is assigned to encoding.
    """

    def __init__(self, config: EncoderConfig | None = None):
        super().__init__()
        self.config = config = config or EncoderConfig()
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.type_embedding = nn.Embedding(config.n_types, config.d_model)
        self.embedding_norm = nn.LayerNorm(config.d_model, config.layer_norm_eps)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layers))
        self.encoding = positions.make(
            config.encoding, d_model=config.d_model, n_heads=config.n_heads, max_len=config.max_len
        )
        self.reset_parameters()

    def reset_parameters(self, std: float = 0.02) -> None:
        """BERT's start: every matrix normal with this standard deviation, every bias zero."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def __setattr__(self, name: str, value) -> None:
        if name == "encoding" and not isinstance(value, positions.Encoding):
            raise TypeError(
                f"encoding must come from attnlab.positions, such as positions.make('rope', ...), "
                f"got {value!r}"
            )
        super().__setattr__(name, value)
        if name == "encoding":
            for layer in self.layers:
                _look_at(layer.attention, value)

    def embed(self, ids: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n d_model"]:
        """x_0: what the first layer reads.

        Raises:
            ValueError: for ids that are not (batch, n) integers of the vocabulary, and for texts
                longer than a learned table of positions.
        """
        if ids.dim() != 2 or ids.shape[1] == 0 or ids.is_floating_point():
            raise ValueError(
                f"ids must be integers (batch, tokens) with at least one token, "
                f"got {ids.dtype} {tuple(ids.shape)}"
            )
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.vocab_size:
            raise ValueError(
                f"ids must lie in 0 ... {self.config.vocab_size - 1}, "
                f"got {int(ids.min())} ... {int(ids.max())}"
            )
        x = self.token_embedding(ids) + self.type_embedding.weight[0]
        x = self.encoding.embed(x, consecutive(0, ids.shape[1], ids.device))
        return self.embedding_norm(x)

    def hidden_states(
        self, ids: Int[Tensor, "batch n"], padding: Bool[Tensor, "batch n"] | None = None
    ) -> list[Float[Tensor, "batch n d_model"]]:
        """[x_0, x_1, ..., x_n_layers]: item l is what layer l reads, the last is the output."""
        x, states = self.embed(ids), []
        pos = consecutive(0, ids.shape[1], ids.device)
        for number, layer in enumerate(self.layers):
            states.append(self.encoding.at_layer(x, pos, number))
            x = self.encoding.after_layer(layer(states[-1], padding), pos, number)
        return [*states, x]

    def forward(
        self, ids: Int[Tensor, "batch n"], padding: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch n d_model"]:
        """A vector for each token, in its context.

        Args:
            padding: True = a real token, False = padding, which no token looks at. Default: all
                real.

        Raises:
            ValueError: as `embed`, and for padding of another shape or type.
        """
        return self.hidden_states(ids, padding)[-1]


class TinyTransformer(nn.Module):
    """The small model that the notebooks train: a stack of layers with the norms before the parts,

        x <- x + Attention(LayerNorm(x))
        x <- x + W_2 gelu(W_1 LayerNorm(x))       (left out with d_ff = 0)

    and at the end a linear read-out of LayerNorm(x): n_out numbers for each token.

    Args:
        encoding: a name that `attnlab.positions.make` knows, or an encoding; shared by the layers.
        d_ff: width of the feed-forward part; 0 leaves attention alone.
        n_kv_heads, d_head, windows: as in `MultiHeadAttention`.

    Attributes:
        layers: `layers[i].attention` is a `MultiHeadAttention`.

    Source: Xiong et al. 2020 (pre-norm); without the feed-forward part, the attention-only models
    of Elhage et al. 2021.

    Raises:
        ValueError: for sizes that do not fit together, or an unknown encoding.
    """

    def __init__(
        self,
        vocab_size: int,
        n_out: int,
        *,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        d_ff: int = 0,
        encoding: str | positions.Encoding = "rope",
        causal: bool = True,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        windows: Windows = None,
        bias: bool = False,
        max_len: int = 512,
    ):
        super().__init__()
        if isinstance(encoding, str):
            encoding = positions.make(
                encoding, d_model=d_model, n_heads=n_heads, d_head=d_head, max_len=max_len
            )
        self.vocab_size, self.causal = vocab_size, causal
        self.words = nn.Embedding(vocab_size, d_model)
        self.encoding = encoding
        self.layers = nn.ModuleList(
            TinyLayer(
                MultiHeadAttention(
                    d_model, n_heads, n_kv_heads=n_kv_heads, d_head=d_head, windows=windows,
                    bias=bias,
                ),
                d_ff,
            )
            for _ in range(n_layers)
        )  # fmt: skip
        for layer in self.layers:
            _look_at(layer.attention, encoding)
        self.norm = nn.LayerNorm(d_model)
        self.read = nn.Linear(d_model, n_out)

    def forward(
        self,
        ids: Int[Tensor, "batch n"],
        *,
        padding: Bool[Tensor, "batch n"] | None = None,
        caches: Sequence[KVCache] | None = None,
        pos: Real[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "batch n n_out"]:
        """The read-out of each token.

        Args:
            padding: True = a real token; default all.
            caches: one for each layer; ids then go on where the caches end.
            pos: positions for an encoding at the input that wants others than 0 ... n - 1, such as
                the paths of a tree, (batch, n, depth).

        Raises:
            ValueError: for ids that are not whole numbers (batch, n) of the vocabulary.
        """
        if ids.dim() != 2 or ids.is_floating_point():
            raise ValueError(f"ids must be integers (batch, tokens), got {ids.dtype} {ids.shape}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ValueError(
                f"ids must lie in 0 ... {self.vocab_size - 1}, "
                f"got {int(ids.min())} ... {int(ids.max())}"
            )
        if pos is None:
            start = caches[0].seen if caches else 0
            pos = consecutive(start, start + ids.shape[1], ids.device)
        x = self.encoding.embed(self.words(ids), pos)
        for number, layer in enumerate(self.layers):
            x = self.encoding.at_layer(x, pos, number)
            x = layer(x, self.causal, padding, caches[number] if caches else None)
            x = self.encoding.after_layer(x, pos, number)
        return self.read(self.norm(x))


class TinyLayer(nn.Module):
    """One layer of a `TinyTransformer`."""

    def __init__(self, attention: MultiHeadAttention, d_ff: int):
        super().__init__()
        d_model = attention.d_model
        self.attention, self.attention_norm = attention, nn.LayerNorm(d_model)
        self.feed_forward = None
        if d_ff:
            self.feed_forward = nn.Sequential(
                nn.LayerNorm(d_model), nn.Linear(d_model, d_ff), nn.GELU(),
                nn.Linear(d_ff, d_model),
            )  # fmt: skip

    def forward(self, x, causal, padding, cache) -> Float[Tensor, "batch n d_model"]:
        x = x + self.attention(
            self.attention_norm(x), causal=causal, padding=padding, cache=cache
        )
        return x if self.feed_forward is None else x + self.feed_forward(x)
