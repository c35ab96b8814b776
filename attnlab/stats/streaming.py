"""Statistics of the weights, exactly, in memory that grows with n and not with n^2.

A few rows of the weights are formed at a time, everything is read off them, and they are thrown
away. That serves any score; `attnlab.stats.fused` needs no rows where scores have no bias.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from attnlab.attention import _check, _positions
from attnlab.backends import checked_mask, consecutive, is_by_offset, share_heads
from attnlab.positions.base import Encoding, working_dtype
from attnlab.stats.fused import fused_statistics, why_not_fused
from attnlab.windows import Windows, checked_windows, offset_visible

PerQuery = Float[Tensor, "batch n_heads n_q"]
Pairs = Float[Tensor, "batch n_heads n_heads"]


@dataclass(frozen=True)
class Summary:
    """What `summary` found. A field that was not asked for is None.

    Attributes:
        route: "rows" or "fused": how it was computed.
        visible: how many keys each query may see; broadcasts to (batch, n_heads, n_q).
        lse: log sum_j exp s_ij, in nats; -inf where a query sees nothing.
        entropy: -sum_j a_ij log a_ij, in nats, between 0 and log visible.
        distance: sum_j a_ij |i - j|, in positions.
        distance_std: standard deviation of |i - j| under the weights, in positions.
        window_mass: sum of a_ij over |i - j| <= w, for each width w of `reach`.
        sink_mass: sum of a_ij over the first `sinks` keys.
        sum_squares: sum_j a_ij^2: 1 for one key, 1 / visible for keys alike. Its inverse is the
            number of keys that would give as much if they were alike.
        received: sum_i a_ij: the attention that each key gets from all queries.
        inner: sum_ij a_ij a'_ij of each two heads.
        correlation: Pearson correlation of each two heads' weights over all n_q * n_k entries, the
            zeros of a mask included.
        correlation_visible: the same over the visible entries only. NaN if heads see different
            keys.
        correlation_baseline: over the visible entries, after 1 / visible, the weight in a uniform
            head, was taken off: `head_correlation` with its default.
        kl: KL(a || a') = sum_j a_ij log(a_ij / a'_ij) for head a (row) and a' (column), in nats,
            the mean over the queries that see a key; inf where a sees keys that a' does not.

    The correlations are NaN, undefined, where a head's variance is less than 1000 eps of its mean
    square: nearly uniform weights of which rounding decides (eps = 1.2e-7 for float32).

    Rows that see nothing have 0 everywhere, except that lse is -inf.
    """

    route: str
    visible: Int[Tensor, "#batch #n_heads n_q"]
    lse: PerQuery | None = None
    entropy: PerQuery | None = None
    distance: PerQuery | None = None
    distance_std: PerQuery | None = None
    window_mass: Float[Tensor, "batch n_heads n_q n_reach"] | None = None
    sink_mass: PerQuery | None = None
    sum_squares: PerQuery | None = None
    received: Float[Tensor, "batch n_heads n_k"] | None = None
    inner: Pairs | None = None
    correlation: Pairs | None = None
    correlation_visible: Pairs | None = None
    correlation_baseline: Pairs | None = None
    kl: Pairs | None = None

    @property
    def normalised_entropy(self) -> PerQuery:
        """entropy / log visible; NaN where a query sees fewer than two keys."""
        most = torch.where(self.visible > 1, self.visible, torch.nan).log()
        return self.entropy / most.to(self.entropy.dtype)


FIELDS = tuple(f.name for f in fields(Summary) if f.name not in ("route", "visible"))
FUSED = {"lse", "entropy", "distance", "sink_mass"}
CORRELATIONS = ("correlation", "correlation_visible", "correlation_baseline")
ROUTES = ("auto", "rows", "fused")
BLOCK_BYTES = {"cpu": 2**21}  # of the scores of some rows; on a CPU about what a cache holds
LEAST_VARIANCE = 1000  # times eps times the mean square: below, weights count as uniform
FLOOR = -1e30  # like -inf, exp of it is 0; unlike -inf, 0 times it is 0


@torch.no_grad()
def summary(
    q: Float[Tensor, "batch n_heads n_q d_head"],
    k: Float[Tensor, "batch n_kv_heads n_k d_head"],
    *,
    mask: Bool[Tensor, "..."] | None = None,
    causal: bool = False,
    windows: Windows = None,
    encoding: Encoding | None = None,
    q_pos: Real[Tensor, " n_q"] | None = None,
    k_pos: Real[Tensor, " n_k"] | None = None,
    scale: float | None = None,
    temperature: float = 1.0,
    only: Iterable[str] = FIELDS,
    reach: Sequence[float] = (1, 8, 64),
    sinks: int = 1,
    route: str = "auto",
    rows: int | None = None,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> Summary:
    """Statistics of the attention weights of all heads, without the n_q x n_k weights.

    Scores are those of `attnlab.attention_scores`, whose options this takes. All results are exact
    up to rounding: computed in float32, in float64 for float64 input, also under autocast. Nothing
    is differentiated.

    Args:
        only: which fields of `Summary` are wanted; default all, `FIELDS`.
        reach: distances w for window_mass: the mass on keys with |i - j| <= w.
        sinks: how many of the first keys count for sink_mass.
        route: "rows" forms some rows of the weights at a time, for any score. "fused" leaves all to
            torch's attention kernel: for lse, entropy, distance and sink_mass only, of scores
            without bias, mask, windows and given positions. "auto": fused where `only` has nothing
            else, it is exact and it is faster; otherwise rows. (Bidirectional distances take two
            calls of the kernel: on a CPU rows are as fast and hold less.)
        rows: how many rows are formed at a time; default as many as keep a matrix of these rows for
            all heads within 2 MiB (512 MiB on a GPU), and at least 8. About four such matrices
            are held at once.
        progress: called with the list of blocks of rows, gives them back one by one, such as
            `lambda blocks: attnlab.teach.progress(blocks, "blocks of rows")`.

    Source: identities and their errors: section "Statistics without the matrix" of the course's
    notebook 15. Computing softmax by parts: Rabe and Staats 2021; Dao et al. 2022.

    Raises:
        ValueError: as `attention_scores`; without queries or keys; for unknown fields or routes;
            if route is "fused" where that cannot be.
    """
    only = set(only)
    if unknown := only - set(FIELDS):
        raise ValueError(f"unknown fields {sorted(unknown)}; known: {', '.join(FIELDS)}")
    if route not in ROUTES:
        raise ValueError(f"unknown route {route!r}; known: {', '.join(ROUTES)}")
    _check(q, k, temperature)
    if 0 in (*q.shape, *k.shape):
        raise ValueError(f"no queries or no keys: q {tuple(q.shape)}, k {tuple(k.shape)}")
    if rows is not None and rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    shape = (*q.shape[:3], k.shape[-2])
    if mask is not None:
        mask = checked_mask(mask, shape)
    at = _positions(q, k, causal, windows, encoding, q_pos, k_pos)
    obstacle = why_not_fused(
        q, k, causal=causal, mask=mask, windows=windows, encoding=encoding, q_pos=q_pos, k_pos=k_pos
    )
    if only - FUSED:
        obstacle = f"{', '.join(sorted(only - FUSED))}"
    if route == "fused" and obstacle:
        raise ValueError(f"not for the fused route: {obstacle}. Use route='rows'")
    scale = (q.shape[-1] ** -0.5 if scale is None else scale) / temperature
    with torch.autocast(q.device.type, enabled=False):
        if encoding is not None:
            q, k = encoding.qk(q, k, *at)
        k = share_heads(k, q.shape[1])
        slow = "distance" in only and not causal and q.device.type == "cpu"
        if not obstacle and (route == "fused" or route == "auto" and not slow):
            found = fused_statistics(
                q, k, causal=causal, scale=scale, sinks=sinks, distance="distance" in only
            )
            if found is not None:
                n = q.shape[-2]
                visible = at[0] + 1 if causal else torch.full_like(at[0], n)
                kept = {name: found[name] for name in only}
                return Summary("fused", visible.expand(1, 1, n), **kept)
            if route == "fused":
                raise ValueError("too sharp for the fused route. Use route='rows'")
        in_order = q_pos is None and k_pos is None
        scores = _Scores(q, k, at, in_order, mask, causal, windows, encoding, scale, temperature)
        return _by_rows(scores, only, reach, sinks, rows, progress)


class _Block(NamedTuple):
    """Some rows of the scores: those of `queries`, the last one first, on the keys first_key ...

    hidden: what a query may not see among the keys from number `edge` on (of these); all before
    are visible. Scores of hidden keys are -inf.
    """

    queries: Int[Tensor, " rows"]
    first_key: int
    scores: Float[Tensor, "batch n_heads rows keys"]
    edge: int
    hidden: Bool[Tensor, "#batch #n_heads rows keys_from_edge"] | None
    visible: Int[Tensor, "#batch #n_heads rows"]


class _Scores:
    """The scores of `attnlab.attention_scores`, a few rows at a time."""

    def __init__(self, q, k, at, in_order, mask, causal, windows, encoding, scale, temperature):
        self.q, self.k, (self.q_pos, self.k_pos) = q, k, at
        self.in_order, self.mask, self.causal = in_order, mask, causal
        self.encoding, self.temperature = encoding, temperature
        self.n_heads, self.n_q, self.n_k = q.shape[1], q.shape[2], k.shape[2]
        self.dtype = working_dtype(q.dtype)
        self.windows = None if windows is None else checked_windows(windows, self.n_heads)
        if self.windows is not None and len(set(self.windows)) == 1:
            self.windows = self.windows[:1]  # heads with one window hide the same keys

        # Taking the mean key off moves all scores of a query alike, which softmax does not see, and
        # keeps them small, which rounding does.
        self.scaled = q.to(self.dtype) * scale
        mean_key = k.to(self.dtype).mean(-2, keepdim=True)
        self.centred = k.to(self.dtype) - mean_key
        self.moved = (self.scaled @ mean_key.mT).squeeze(-1)

        # A bias by offset is one number for each head and offset, and its rows are views of that.
        self.table, self.other_bias = None, False
        if encoding is not None and in_order and is_by_offset(encoding):
            offset = consecutive(1 - self.n_k, self.n_q, q.device)
            table = encoding.relative_bias(offset)
            if table is not None:
                self.table = self._of_heads(table[None]).to(self.dtype) / temperature
        elif encoding is not None:
            self.other_bias = True

    def _of_heads(self, bias: Tensor) -> Tensor:
        if bias.shape[1] not in (1, self.n_heads):
            raise ValueError(
                f"{self.encoding} was built for {bias.shape[1]} heads, got {self.n_heads}"
            )
        return bias

    def block(self, start: int, stop: int) -> _Block:
        """The scores of the queries start ... stop - 1. Keys that none of them sees are left out
        where that is known from their order."""
        queries = torch.arange(stop - 1, start - 1, -1, device=self.q.device)
        past = self.n_k - self.n_q  # in order, query i stands at past + i
        first, last = 0, self.n_k
        if self.in_order and not self.other_bias:
            if self.causal:
                last = past + stop
            if self.windows is not None and None not in self.windows:
                width = max(window.width for window in self.windows)
                first = max(0, past + start - width)
                last = min(last, past + stop + width)
        keys = slice(first, last)
        scores = self.scaled[:, :, queries] @ self.centred[:, :, keys].mT
        if self.table is not None:
            # Row r is the query at past + stop - 1 - r: its offsets begin one later for each row.
            begin = first - (past + stop - 1) + self.n_k - 1
            size = last - first
            scores += self.table[..., begin : begin + size + stop - start - 1].unfold(-1, size, 1)
        elif self.other_bias:
            bias = self.encoding.bias(
                self.q[:, :, queries], self.k, self.q_pos[queries], self.k_pos
            )
            if bias is not None:
                scores += self._of_heads(bias) / self.temperature
        only_causal = self.in_order and self.windows is None and self.mask is None
        edge = past + start + 1 - first if self.causal and only_causal else 0
        sees = self._sees(queries, slice(first + edge, last))
        if sees is None:
            visible = torch.full((1, 1, stop - start), last - first, device=self.q.device)
            return _Block(queries, first, scores, 0, None, visible)
        hidden = ~sees
        scores[..., edge:].masked_fill_(hidden, -torch.inf)
        return _Block(queries, first, scores, edge, hidden, edge + sees.sum(-1))

    def near(self, block: _Block, distance: float) -> slice:
        """Columns of a block that hold all keys at most so far from any of its queries."""
        size = block.scores.shape[-1]
        if not self.in_order or distance >= size:
            return slice(0, size)
        past, w = self.n_k - self.n_q - block.first_key, math.ceil(distance)
        low, high = past + int(block.queries[-1]) - w, past + int(block.queries[0]) + w + 1
        return slice(min(max(0, low), size), max(0, min(size, high)))

    def _sees(self, queries: Tensor, keys: slice) -> Bool[Tensor, "#b #h rows keys"] | None:
        """Which of the queries may see which of the keys; None for all."""
        sees = None
        if self.causal or self.windows is not None:
            offset = self.k_pos[None, keys] - self.q_pos[queries, None]
            sees = offset_visible(
                offset, 1 if self.windows is None else len(self.windows), self.causal, self.windows
            )[None]
        if self.mask is not None:
            mask = self.mask if self.mask.shape[-2] == 1 else self.mask[..., queries, :]
            mask = mask if mask.shape[-1] == 1 else mask[..., keys]
            mask = mask.expand(*mask.shape[:-2], len(queries), keys.stop - keys.start)
            mask = mask.reshape(*[1] * (4 - mask.dim()), *mask.shape)
            sees = mask if sees is None else sees & mask
        return sees


def _by_rows(scores: _Scores, only, reach, sinks, rows, progress) -> Summary:
    q, n_q, n_k, wide = scores.q, scores.n_q, scores.n_k, scores.dtype
    size = (len(q), scores.n_heads, n_q)
    if rows is None:
        one = len(q) * scores.n_heads * n_k * torch.finfo(wide).bits // 8
        rows = max(8, BLOCK_BYTES.get(q.device.type, 2**29) // one)
    blocks = [(start, min(start + rows, n_q)) for start in range(0, n_q, rows)]
    exact = torch.float32 if q.device.type == "mps" else torch.float64  # for long sums
    received = q.new_zeros(*size[:2], n_k, dtype=exact)
    pairs = _Pairs(only, size, n_k, wide, exact, q.device)
    # Weights whose squares would be denormal numbers (1e-19 in float32) are 0 at once: they are far
    # below what rounding takes from the others. A CPU is slow with such numbers, and its exp is 20
    # times slower where it underflows, as it does for most keys of a head with a steep bias.
    least = math.log(torch.finfo(wide).tiny) / 2 + math.log(n_k)
    found: dict[str, Tensor] = {}
    for start, stop in blocks if progress is None else progress(blocks):
        block = scores.block(start, stop)
        # In place, since rows are large: scores s become s - max s = log a + log_total, and p is a.
        s = block.scores
        top = s.amax(-1, keepdim=True)
        top.masked_fill_(top == -torch.inf, 0.0)
        s.sub_(top).clamp_(min=FLOOR)
        p = F.threshold_(s.clamp(min=least).exp_(), 1.001 * math.exp(least), 0.0)
        total = p.sum(-1, keepdim=True)
        p.div_(total.clamp(min=1))  # it is at least 1, or 0 where a query sees nothing
        per_query = _per_query(scores, block, p, s, total.squeeze(-1), only, reach, sinks)
        if "lse" in only:
            lse = (top + total.log()).squeeze(-1)
            per_query["lse"] = lse + scores.moved[:, :, block.queries]
        for name, values in per_query.items():
            if name not in found:
                found[name] = values.new_zeros(*values.shape[:2], n_q, *values.shape[3:])
            found[name][:, :, block.queries] = values
        if "received" in only:
            received[..., block.first_key : block.first_key + p.shape[-1]] += p.sum(-2)
        pairs.add(block, p, s, total)
    if "received" in only:
        found["received"] = received.to(wide)
    found |= {name: values.to(wide) for name, values in pairs.found().items()}
    return Summary("rows", **found)


def _per_query(scores: _Scores, block: _Block, p, s, total, only, reach, sinks) -> dict:
    """What is read off each row of the weights p, with log p = s - log total."""
    found = {"visible": block.visible}
    if "entropy" in only:  # log total - sum_j p s: the small numbers s - max, not s
        h = total.clamp(min=1).log() - torch.linalg.vecdot(p, s)
        found["entropy"] = h.clamp(min=0).minimum(block.visible.clamp(min=1).to(h.dtype).log())
    if "sum_squares" in only:
        found["sum_squares"] = torch.linalg.vecdot(p, p)
    if "sink_mass" in only:
        found["sink_mass"] = p[..., : max(0, sinks - block.first_key)].sum(-1)
    if not {"distance", "distance_std", "window_mass"} & only:
        return found
    k_pos = scores.k_pos[block.first_key : block.first_key + p.shape[-1]]
    far = (k_pos - scores.q_pos[block.queries, None]).abs().to(p.dtype)
    if {"distance", "distance_std"} & only:
        mean = (p * far).sum(-1)
        if "distance" in only:
            found["distance"] = mean
    if "distance_std" in only:  # about the mean of each row: E[x^2] - E[x]^2 would lose all digits
        found["distance_std"] = (far - mean[..., None]).square_().mul_(p).sum(-1).sqrt()
    if "window_mass" in only:
        of_widths = []
        for w in reach:
            near = scores.near(block, w)
            of_widths.append((p[..., near] * (far[:, near] <= w)).sum(-1))
        found["window_mass"] = torch.stack(of_widths, -1)
    return found


class _Pairs:
    """Sums over queries and keys for each two heads."""

    def __init__(self, only, size: tuple[int, int, int], n_k: int, rounding, dtype, device):
        self.only, self.entries = only, size[2] * n_k
        self.least = LEAST_VARIANCE * torch.finfo(rounding).eps
        self.kl = "kl" in only
        self.moments = bool({"inner", *CORRELATIONS} & only)
        self.alike = True  # whether all heads see the same keys
        of_pairs = (size[0], size[1], size[1])

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        # sums of a a', of (a - u)(a' - u), of a log a', of a where a' is hidden; u = 1 / visible
        self.inner, self.beyond, self.cross, self.outside = (zeros(*of_pairs) for _ in range(4))
        # how many queries see something, how many pairs are visible, and the sum of u
        self.queries, self.visible, self.uniform = (zeros(*size[:2], 1) for _ in range(3))

    def add(self, block: _Block, p: Tensor, s: Tensor, total: Tensor) -> None:
        """Take some rows in; s is overwritten."""
        count = block.visible[..., None]
        u = torch.where(count > 0, 1 / count.to(self.inner.dtype), 0.0)
        self.queries += (count > 0).sum(-2)
        self.visible += count.sum(-2)
        self.uniform += u.sum(-2)
        self.alike = self.alike and (block.hidden is None or block.hidden.shape[1] == 1)
        if self.kl:
            s.sub_(total.clamp(min=1).log())
            self.cross += self._products(p, s)
            if not self.alike:
                self.outside += self._products(p, block.hidden.expand(p.shape).to(p.dtype))
        if self.moments:
            if not self.alike:
                self.inner += self._products(p, p)
            x = p - u.to(p.dtype)
            if block.hidden is not None:
                x[..., block.edge :].masked_fill_(block.hidden, 0.0)
            self.beyond += self._products(x, x)

    def _products(self, x: Tensor, y: Tensor) -> Float[Tensor, "batch n_heads n_heads"]:
        """Sum of x y over rows and keys, for each head of x and each of y. Each row is summed by
        itself, and rows in more digits: one long sum in float32 was 40 times less exact."""
        of_rows = x.transpose(1, 2) @ y.permute(0, 2, 3, 1)  # (batch, rows, n_heads, n_heads)
        return of_rows.sum(1, dtype=self.inner.dtype)

    def found(self) -> dict[str, Float[Tensor, "batch n_heads n_heads"]]:
        result = {}
        queries, visible, uniform = self.queries, self.visible, self.uniform
        if self.moments:
            # sum_j a u = u sum_j a = u, so a sum of products is that of deviations from u, plus the
            # sum of u: no digits are lost where heads are nearly uniform.
            inner = self.beyond + uniform if self.alike else self.inner
            mean_squares = inner.diagonal(dim1=-2, dim2=-1)
            mean = queries * queries.mT / self.entries
            over_all = self.beyond + (uniform - mean) if self.alike else inner - mean
            over_visible = self.beyond + (uniform - queries**2 / visible)
            if not self.alike:
                over_visible = torch.full_like(inner, torch.nan)
            result = {"inner": inner}
            for name, covariance in zip(
                CORRELATIONS, (over_all, over_visible, self.beyond), strict=True
            ):
                result[name] = _correlation(covariance, self.least * mean_squares)
        if self.kl:
            own = self.cross.diagonal(dim1=-2, dim2=-1)[..., None]
            kl = ((own - self.cross) / queries).clamp(min=0)
            result["kl"] = kl.masked_fill(self.outside > 0, torch.inf)
        return {name: values for name, values in result.items() if name in self.only}


def _correlation(covariance: Tensor, least: Float[Tensor, "batch n_heads"]) -> Tensor:
    """Covariances over the roots of the two variances; NaN where one of these is below `least`."""
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    size = torch.where(variance > least, variance, torch.nan).sqrt()
    return (covariance / (size[..., :, None] * size[..., None, :])).clamp(-1, 1)
