"""Where the explorers' queries and keys come from: random projections, or a real encoder."""

import concurrent.futures
import contextlib
import functools
import threading
import unicodedata
import weakref
import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnlab import positions
from attnlab.attention import MultiHeadAttention, attention_scores, attention_weights
from attnlab.models import EncoderConfig
from attnlab.positions import Encoding

MOST_TOKENS = 64  # in one picture
MOST_CHARACTERS = 100_000  # of a text that is looked at
MOST_HEADS, MOST_D_MODEL, MOST_D_HEAD = 16, 512, 128


@dataclass
class Looks:
    """Queries and keys of one layer, ready for attnlab.

    Attributes:
        tokens: at most MOST_TOKENS of them.
        n_text: number of tokens of the whole text.
        where: what to add to "head 3": which layer, whether its weights are random.
        notes: sentences for below the picture.
    """

    q: Float[Tensor, "1 n_heads n d_head"]
    k: Float[Tensor, "1 n_kv_heads n d_head"]
    encoding: Encoding
    tokens: list[str]
    n_text: int
    where: str = ""
    notes: tuple[str, ...] = ()
    windows: object = None
    scale: float | None = None

    def _options(self) -> dict:
        return {"encoding": self.encoding, "windows": self.windows, "scale": self.scale}

    def scores(self) -> Float[Tensor, "n_heads n n"]:
        """Scores before temperature and causal mask."""
        return attention_scores(self.q, self.k, **self._options())[0]

    def weights(self, temperature: float, causal: bool) -> Float[Tensor, "n_heads n n"]:
        return attention_weights(
            self.q, self.k, temperature=temperature, causal=causal, **self._options()
        )[0]


def split_words(text: str) -> list[str]:
    """Words and single punctuation marks. Marks that combine stay with what they combine with:
    accents, Indic vowels, the parts of an emoji."""
    words: list[str] = []
    joins = in_word = False  # does the next character belong to the last word?
    for c in text:
        kind = unicodedata.category(c)
        if kind[0] == "M" or "\U0001f3fb" <= c <= "\U0001f3ff" or c == "\u200d":
            if words:
                words[-1] += c
            joins = c == "\u200d"
        elif kind[0] in "ZC":  # space, control, half a surrogate pair
            joins = in_word = False
        else:
            letter = kind[0] in "LN" or c == "_"
            if words and (joins or (letter and in_word)):
                words[-1] += c
            else:
                words.append(c)
            joins, in_word = False, letter
    return words


@functools.lru_cache(maxsize=4096)
def word_vector(word: str) -> Float[Tensor, " 512"]:
    """The word's own random vector, independent entries of variance 1: the same in every run."""
    generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
    return torch.randn(MOST_D_MODEL, generator=generator)


@functools.lru_cache(maxsize=MOST_HEADS)
def projections(head: int) -> Float[Tensor, "2 512 d"]:
    """W_Q and W_K of one head, independent entries of variance 1, as wide as any setting needs.

    Smaller sizes are slices of it, so that a slider changes the picture gradually.
    """
    wide = max(MOST_D_HEAD, MOST_D_MODEL // (head + 1))
    generator = torch.Generator().manual_seed(head)
    return torch.randn(2, MOST_D_MODEL, wide, generator=generator)


@functools.lru_cache(maxsize=256)
def check_sizes(d_model: int, n_heads: int, d_head: int | None) -> int:
    """d_head, after the core has accepted these sizes.

    Raises:
        ValueError: from `MultiHeadAttention`, or for sizes beyond this picture's.
    """
    for name, value, most in (
        ("n_heads", n_heads, MOST_HEADS), ("d_model", d_model, MOST_D_MODEL),
        ("d_head", d_head or 1, MOST_D_HEAD),
    ):  # fmt: skip
        if value > most:
            raise ValueError(f"{name} = {value} is more than this picture takes: at most {most}")
    with torch.device("meta"):  # sizes without storage
        return MultiHeadAttention(d_model, n_heads, d_head=d_head).d_head


@functools.lru_cache(maxsize=64)
def make_encoding(name: str, d_model: int, n_heads: int, d_head: int) -> Encoding:
    """The encoding by name; what it would learn is random, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return positions.make(name, d_model=d_model, n_heads=n_heads, d_head=d_head).eval()


@torch.no_grad()
def from_random(
    text: str, *, n_heads: int, d_model: int, d_head: int | None, encoding: str
) -> Looks:
    """Each word a fixed random vector, projected by random W_Q and W_K (variance 1/d_model).

    Raises:
        ValueError: for a text without words, or sizes that do not fit.
    """
    words = split_words(text[:MOST_CHARACTERS])
    if not words:
        raise ValueError("No words yet: type a text.")
    tokens = words[:MOST_TOKENS]
    d_head = check_sizes(d_model, n_heads, d_head)
    place = make_encoding(encoding, d_model, n_heads, d_head)
    x = torch.stack([word_vector(word)[:d_model] for word in tokens])[None]
    x = place.embed(x, torch.arange(len(tokens)))
    w = torch.stack([projections(h)[:, :d_model, :d_head] for h in range(n_heads)], dim=1)
    q, k = x @ (w * d_model**-0.5)
    notes = ["Random projections: what is seen comes from the mechanism, nothing is learned."]
    if any(True for _ in place.parameters()):
        notes.append("What this encoding would learn is random, too.")
    return Looks(q[None], k[None], place, tokens, len(words), notes=tuple(notes))


_ONE_AT_A_TIME = threading.RLock()  # widgets are answered in a thread beside the cells


@contextlib.contextmanager
def swapped(model, encoding: Encoding):
    """The model with another positional encoding while the block runs."""
    with _ONE_AT_A_TIME:
        own = model.encoding
        model.encoding = encoding
        try:
            yield
        finally:
            model.encoding = own


def read(encoder, text: str) -> tuple[Int[Tensor, "1 n"], list[str], int]:
    """Ids and tokens of a text, at most MOST_TOKENS, and how many tokens the whole text has.

    Raises:
        ValueError: for an empty text.
    """
    if not text.strip():
        raise ValueError("No words yet: type a text.")
    ids, tokens = found = encoder.tokenize(text[:MOST_CHARACTERS])
    n_text = getattr(found, "truncated_from", None) or len(tokens)
    if len(tokens) > MOST_TOKENS:  # the last one, [SEP], ends every text that the model was shown
        keep = torch.tensor([*range(MOST_TOKENS - 1), len(tokens) - 1], device=ids.device)
        ids, tokens = ids[:, keep], [*tokens[: MOST_TOKENS - 1], tokens[-1]]
    return ids, tokens, n_text


@torch.no_grad()
def from_model(encoder, text: str, *, layer: int, encoding: str) -> Looks:
    """Queries and keys of one layer of an encoder that read the text.

    Raises:
        ValueError: for an empty text, or a layer that the model does not have.
    """
    model = encoder.model
    last = len(model.layers) - 1
    if not 0 <= layer <= last:
        raise ValueError(f"The model has no layer {layer}: take 0 … {last}.")
    ids, tokens, n_text = read(encoder, text)
    notes = [f"Model: {encoder.note.rstrip('.')}."]
    attention = model.layers[layer].attention
    if encoding == model.config.encoding:
        place = model.encoding
    else:
        place = make_encoding(
            encoding, attention.d_model, attention.n_heads, attention.d_head
        ).to(ids.device)
        notes.append(
            f"Positions replaced ({encoding}); the model was trained with "
            f"{model.config.encoding} ones and never saw these."
        )
    with swapped(model, place):
        x, pos = model.embed(ids), torch.arange(ids.shape[1], device=ids.device)
        for number, before in enumerate(model.layers[:layer]):
            x = place.after_layer(before(place.at_layer(x, pos, number)), pos, number)
        q, k, _ = attention.heads(place.at_layer(x, pos, layer))
    where = f", layer {layer}" + (" — RANDOM PARAMETERS" if encoder.is_random else "")
    return Looks(
        q, k, place, tokens, n_text, where, tuple(notes), attention.windows, attention.scale
    )


class Loader:
    """The pretrained encoder, loaded once a process, in the background."""

    def __init__(self):
        self._lock = threading.Lock()
        self._future: concurrent.futures.Future | None = None
        self._thread: threading.Thread | None = None
        self._waiting: weakref.WeakSet = weakref.WeakSet()
        self.progress = ""

    def get(self, explorer):
        """The encoder; or None, and explorer._again() is called when there is news.

        Raises:
            Exception: what kept the encoder from loading. The next call tries again.
        """
        with self._lock:
            if self._future is None:
                self._future = concurrent.futures.Future()
                self._thread = threading.Thread(target=self._load, daemon=True)
                self._thread.start()
            if not self._future.done():
                self._waiting.add(explorer)
                return None
            return self._future.result()

    def wait(self, seconds: float) -> None:
        """Until it is loaded and everybody who asked has drawn it, but not for ever."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _load(self) -> None:
        from attnlab.pretrained import load_encoder

        future = self._future
        try:
            done = functools.partial(future.set_result, load_encoder(progress=self._tell))
        except Exception as failure:
            done = functools.partial(future.set_exception, failure)
        with self._lock:  # else `get` could see "not done" and miss the news
            done()
        self._news()
        if future.exception():
            with self._lock:
                self._future = None

    def _tell(self, done: int, total: int) -> None:
        text = f" {done / 2**20:.0f} of {total / 2**20:.0f} MB"
        if text != self.progress:
            self.progress = text
            self._news()

    def _news(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for explorer in waiting:
            explorer._again()


PRETRAINED = Loader()
PRETRAINED_SIZES = EncoderConfig()
