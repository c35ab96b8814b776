"""The keys and values of what was read so far, so that decoding computes each of them once."""

from jaxtyping import Float
from torch import Tensor

NewKeys = Float[Tensor, "batch n_kv_heads n_new d_head"]
AllKeys = Float[Tensor, "batch n_kv_heads n d_head"]


class KVCache:
    """Keys and values of one attention layer, appended to as tokens arrive.

        cache = KVCache()
        for token in text:                                  # (batch, 1, d_model) each
            out = layer(token, causal=True, cache=cache)

    Keys are kept as they leave the projection; an encoding turns them by their positions when they
    are used. Keys and values carry no gradients: a cache is for decoding, not for training.

    Args:
        last: keep only so many tokens, the newest; a new token sees them and itself. Causal heads
            of window w need the last w. Without a limit everything is kept.

    Attributes:
        seen: how many tokens arrived. The kept ones are numbers seen - len(cache) ... seen - 1.

    Source: Shazeer 2019, section 2.4 (incremental); last: Jiang et al. 2023 (Mistral 7B), section 2
    (rolling buffer cache).

    Raises:
        ValueError: if last is below 1; for keys of another shape, type or device than those in the
            cache.
    """

    def __init__(self, last: int | None = None):
        if last is not None and last < 1:
            raise ValueError(f"a cache keeps at least the last 1 token, got last={last}")
        self.last, self.seen = last, 0
        self._kept: tuple[Tensor, Tensor] | None = None  # room for more than is filled
        self._first = self._end = 0

    def append(self, k: NewKeys, v: NewKeys) -> tuple[AllKeys, AllKeys]:
        """Add new tokens; return the keys and values that these tokens may look at: the kept past
        and all of the new."""
        k, v = k.detach(), v.detach()
        if self._kept is not None:
            old = self._kept[0]
            if old.shape[:2] != k.shape[:2] or old.shape[-1] != k.shape[-1]:
                raise ValueError(
                    f"the cache holds keys (batch, n_kv_heads, tokens, d_head) = "
                    f"{tuple(old.shape[:2])} x {len(self)} tokens x {old.shape[-1]}, "
                    f"got {tuple(k.shape)}: start a new KVCache for a new text"
                )
            if (old.dtype, old.device) != (k.dtype, k.device):
                raise ValueError(
                    f"the cache holds {old.dtype} on {old.device}, got {k.dtype} on {k.device}: "
                    "start a new KVCache"
                )
        n = k.shape[-2]
        if self._kept is None or self._end + n > self._kept[0].shape[-2]:
            self._grow(k, v)
        for kept, new in zip(self._kept, (k, v), strict=True):
            kept[..., self._end : self._end + n, :] = new
        self._end += n
        self.seen += n
        visible = tuple(t[..., self._first : self._end, :] for t in self._kept)
        if self.last is not None:
            self._first = max(self._first, self._end - self.last)
        return visible

    def _grow(self, k: Tensor, v: Tensor) -> None:
        """Twice the room, so that the cost of copying stays in proportion to the tokens."""
        past, n = len(self), k.shape[-2]
        room = past + n + (past if self.last is None else self.last)
        grown = tuple(t.new_empty(*t.shape[:2], room, t.shape[-1]) for t in (k, v))
        if self._kept is not None:
            for new, old in zip(grown, self._kept, strict=True):
                new[..., :past, :] = old[..., self._first : self._end, :]
        self._kept, self._first, self._end = grown, 0, past

    def __len__(self) -> int:
        """The number of tokens kept."""
        return self._end - self._first

    @property
    def nbytes(self) -> int:
        """Bytes of the kept keys and values (the room for more not counted)."""
        if self._kept is None:
            return 0
        return sum(len(self) * t[..., :1, :].numel() * t.element_size() for t in self._kept)

    def __repr__(self) -> str:
        return f"KVCache({len(self)} of {self.seen} tokens, {self.nbytes} bytes)"
