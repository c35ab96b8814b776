"""The interface of every encoding: one method for each place where a position can enter."""

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type to compute scores, angles and biases in: float32, or float64 for float64 input."""
    return torch.promote_types(dtype, torch.float32)


def constants(
    values: Sequence[float], dtype: torch.dtype, device: torch.device
) -> Float[Tensor, " n"]:
    """The values as a tensor, which a device is handed only once: each time it would wait."""
    if torch.compiler.is_compiling():
        return torch.tensor(values, dtype=dtype, device=device)
    return _constants(tuple(values), dtype, device)


@lru_cache(maxsize=64)
def _constants(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


# The last table of each encoding: kept beside the modules, so that it is not copied or saved with
# them.
_last: "WeakKeyDictionary[nn.Module, tuple]" = WeakKeyDictionary()


def remembered(owner: nn.Module, pos: Tensor, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """make(), or what it returned when owner last asked with the same positions and key.

    The same positions are the very same tensor, unchanged since: attention hands in one tensor
    call after call. The result must depend on pos and key alone, not on parameters. Nothing is
    kept in inference mode, while torch compiles, or where gradients flow to the positions.
    """
    if torch.compiler.is_compiling() or pos.requires_grad or pos.is_inference():
        return make()
    key = (key, pos._version)
    last = _last.get(owner)
    if last is not None and last[0] is pos and last[1] == key:
        return last[2]
    result = make()
    if not torch.is_inference_mode_enabled():
        _last[owner] = (pos, key, result)
    return result


class Encoding(nn.Module):
    """No encoding at all, and the base of all others: an encoding overrides what it uses.

    Attention and the models call these methods and know no encoding by name.

    Attributes:
        slopes: one number m for each head if `relative_bias` is -m |offset| and nothing else:
            compiled kernels then compute it where others read a table. None for all others.
    """

    slopes: Sequence[float] | None = None

    def embed(
        self, x: Float[Tensor, "batch n d_model"], pos: Real[Tensor, " n"]
    ) -> Float[Tensor, "batch n d_out"]:
        """At the input: token vectors in, token vectors that know their positions out."""
        return x

    def at_layer(
        self, x: Float[Tensor, "batch n d_model"], pos: Real[Tensor, " n"], layer: int
    ) -> Float[Tensor, "batch n d_model"]:
        """At the input of layer number `layer`, counted from 0."""
        return x

    def after_layer(
        self, x: Float[Tensor, "batch n d_model"], pos: Real[Tensor, " n"], layer: int
    ) -> Float[Tensor, "batch n d_model"]:
        """At the output of layer number `layer`, counted from 0."""
        return x

    def qk(
        self,
        q: Float[Tensor, "batch n_heads n_q d_head"],
        k: Float[Tensor, "batch n_kv_heads n_k d_head"],
        q_pos: Real[Tensor, " n_q"],
        k_pos: Real[Tensor, " n_k"],
    ) -> tuple[Tensor, Tensor]:
        """At the queries and keys, after projection."""
        return q, k

    def relative_bias(self, offset: Int[Tensor, "..."]) -> Float[Tensor, "n_heads ..."] | None:
        """At the scores, for a bias that depends on offset = key position - query position only.

        Returns what is added to q·k * scale, one number for each head and offset, or None.
        """
        return None

    def bias(
        self,
        q: Float[Tensor, "batch n_heads n_q d_head"],
        k: Float[Tensor, "batch n_kv_heads n_k d_head"],
        q_pos: Real[Tensor, " n_q"],
        k_pos: Real[Tensor, " n_k"],
    ) -> Float[Tensor, "#batch #n_heads n_q n_k"] | None:
        """At the scores: a tensor to add to q·k * scale, or None. Default: `relative_bias`.

        q and k are those that `qk` returned; n_heads / n_kv_heads queries in a row share a key
        head.
        """
        table = self.relative_bias(k_pos[None, :] - q_pos[:, None])
        return None if table is None else table[None]

    def values(
        self,
        weights: Float[Tensor, "batch n_heads n_q n_k"],
        q_pos: Real[Tensor, " n_q"],
        k_pos: Real[Tensor, " n_k"],
    ) -> Float[Tensor, "batch n_heads n_q d_head"] | None:
        """At the output of the heads: what is added to weights @ v, or None."""
        return None

    def for_heads(self, heads: Sequence[int]) -> "Encoding":
        """The same encoding for some of its heads, by their numbers: for a layer that was pruned.

        An encoding with something of its own for each head overrides this.
        """
        return self

    @property
    def needs_weights(self) -> bool:
        """Whether attention must form the weights for this encoding (it overrides `values`)."""
        return type(self).values is not Encoding.values

    def extra_repr(self) -> str:
        return "none" if type(self) is Encoding else ""
