"""Statistics of the weights from the attention kernel itself, which never forms the weights.

The kernel returns weighted means of the values, for any values. With the keys as values it returns
each query's mean score; with positions, its mean position; and with one key more whose score is
known, how large the sum of all exponentials is.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attnlab.backends import adds_to_scores
from attnlab.positions.base import working_dtype

LEAST = {torch.float32: 1e-30, torch.float64: 1e-290}  # a weight below has lost its digits


def why_not_fused(
    q: Tensor, k: Tensor, *, causal=False, mask=None, windows=None, encoding=None, q_pos=None,
    k_pos=None,
) -> str | None:  # fmt: skip
    """What keeps these scores from `fused_statistics`, in words; None if nothing does.

    Takes the options of `attnlab.attention_scores`.
    """
    if q.device.type not in ("cpu", "cuda"):
        return f"no fused kernel on {q.device.type}"
    if mask is not None or windows is not None:
        return "a mask or windows"
    if q_pos is not None or k_pos is not None:
        return "positions that were given"
    if q.shape[-2] != k.shape[-2]:
        return f"{q.shape[-2]} queries on {k.shape[-2]} keys"
    if adds_to_scores(encoding):
        return f"the bias of {type(encoding).__name__}"
    return None


Heads = Float[Tensor, "batch n_heads n d_head"]


@torch.no_grad()
def fused_statistics(
    q: Heads, k: Heads, *, causal: bool, scale: float, sinks: int = 1, distance: bool = True
) -> dict[str, Float[Tensor, "batch n_heads n"]] | None:
    """lse, entropy, distance and sink_mass of softmax(q k^T * scale), as in `Summary`, from one
    call of `torch.nn.functional.scaled_dot_product_attention` (two for bidirectional distances).

    With lse = log sum_j exp s_ij, log a_ij = s_ij - lse, and so the entropy is lse - sum_j a_ij
    s_ij. The kernel does not return lse; a key in front whose score c_i is known betrays it by its
    weight w_i = e^c / (e^c + e^lse): lse = c + log(1 - w) - log w. c is the larger of two numbers
    that lse is never below, the query's score with its own key and log(number of keys) + mean
    score; so w <= 1/2, and 1 - w has all its digits.

    |i - j| is no mean over something that belongs to key j. Under a causal mask it is i - j.
    Without one, a full and a causal pass give it: sum_j a |i - j| = sum_j a (j - i) + 2 sum_{j<=i}
    a (i - j); the weights of the causal pass are larger by exp(lse - lse_causal).

    Returns None where some query is so sharp that w has no digits left (lse - c above 69 in
    float32, above 667 in float64).
    """
    wide = working_dtype(q.dtype)
    q, k = q.to(wide) * scale, k.to(wide)
    mean_key = k.mean(-2, keepdim=True)
    moved = (q @ mean_key.mT).squeeze(-1)  # what a centred key loses: the same for all keys
    k = k - mean_key
    n = q.shape[-2]
    pos = torch.arange(n, device=q.device)
    count = pos + 1 if causal else torch.full_like(pos, n)
    whole = _pass(q, k, causal, sinks)
    if whole is None:
        return None
    lse, mean_score, place, sink_mass = whole
    found = {
        "lse": lse + moved,
        "entropy": (lse - mean_score).clamp(min=0).minimum(count.to(wide).log()),
        "sink_mass": sink_mass,
    }
    if distance and causal:
        found["distance"] = (pos - place).clamp(min=0)
    elif distance:
        behind = _pass(q, k, True, sinks)
        if behind is None:
            return None
        lse_behind, _, place_behind, _ = behind
        share = (lse_behind - lse).exp()
        found["distance"] = (place - pos + 2 * share * (pos - place_behind)).clamp(min=0)
    return found


def _pass(q: Tensor, k: Tensor, causal: bool, sinks: int) -> tuple[Tensor, ...] | None:
    """lse, mean score, mean position and mass on the first `sinks` keys, for each query."""
    n, d = q.shape[-2:]
    count = torch.arange(1, n + 1, device=q.device, dtype=q.dtype)
    mean_key = k.cumsum(-2).div_(count[:, None]) if causal else k.mean(-2, keepdim=True)
    count = count if causal else count[-1]
    c = torch.linalg.vecdot(q, k).maximum(torch.linalg.vecdot(q, mean_key) + count.log())
    del mean_key  # as large as the keys

    more = -(d + 3) % 8 + 3  # channels beside the keys: three are used, kernels like multiples of 8
    queries = F.pad(q, (0, more, 1, 0))  # a row in front that only keeps the causal mask in step
    queries[..., 1:, d] = c
    keys = F.pad(k, (0, more, 1, 0))
    keys[..., 0, d] = 1  # the first key's score is c: no other key has this channel
    values = keys.clone()  # channel d of the result is the weight of the first key
    middle = (n - 1) / 2
    values[..., 1:, d + 1] = torch.arange(n, device=q.device, dtype=q.dtype) - middle
    values[..., 1 : 1 + sinks, d + 2] = 1
    out = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal, scale=1.0)
    mean_key_seen, (w, place, sink_mass) = out[..., 1:, :d], out[..., 1:, d : d + 3].unbind(-1)
    if not bool((w > LEAST[q.dtype]).all()):  # nor is NaN
        return None
    rest = 1 - w
    lse = c + rest.log() - w.log()
    mean_score = torch.linalg.vecdot(q, mean_key_seen) / rest
    return lse, mean_score, place / rest + middle, sink_mass / rest
