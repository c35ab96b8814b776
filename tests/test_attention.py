"""attnlab.attention against a float64 reference, torch's functions and torch's module."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from attnlab import (
    MultiHeadAttention,
    attention_scores,
    attention_weights,
    capture,
    positions,
    scaled_dot_product_attention,
)

# Largest error allowed against float64, per input type: a few units in the last place of the type.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.bfloat16: 4e-2,
    torch.float16: 5e-3,
}


def reference(q, k, v, visible, scale=None, bias=0.0, temperature=1.0):
    """One query at a time, in float64, straight from the formula."""
    q, k, v = q.double(), k.double(), v.double()
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    v = v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    s = (torch.einsum("bhid,bhjd->bhij", q, k) * scale + bias) / temperature
    rows = []
    for i in range(q.shape[2]):
        e = torch.where(visible[:, :, i], (s[:, :, i] - s[:, :, i].amax(-1, True)).exp(), 0.0)
        total = e.sum(-1, keepdim=True)
        rows.append((e / total.where(total > 0, 1.0)).unsqueeze(-2) @ v)
    return torch.cat(rows, 2)


MASKS = {
    "none": lambda b, h, q, k: None,
    "some": lambda b, h, q, k: (q, k),
    "per_head": lambda b, h, q, k: (1, h, q, k),
    "padding": lambda b, h, q, k: (b, 1, 1, k),
    "empty_rows": lambda b, h, q, k: (b, h, q, k),
    "keys": lambda b, h, q, k: (k,),
    "all_or_nothing": lambda b, h, q, k: (),
}


@st.composite
def problems(draw):
    """Random sizes, grouped heads, a mask kind, an input type and a seed."""
    n_kv_heads = draw(st.integers(1, 3))
    n_q = draw(st.integers(1, 9))
    return {
        "batch": draw(st.integers(1, 3)),
        "n_kv_heads": n_kv_heads,
        "n_heads": n_kv_heads * draw(st.integers(1, 3)),
        "n_q": n_q,
        "n_k": n_q + draw(st.integers(0, 5)),
        "d_head": 2 * draw(st.integers(1, 8)),
        "mask": draw(st.sampled_from(list(MASKS))),
        "causal": draw(st.booleans()),
        "window": draw(st.sampled_from([None, 0, 2])),
        "dtype": draw(st.sampled_from(list(TOLERANCE))),
        "temperature": draw(st.sampled_from([1.0, 0.5, 3.0])),
        "seed": draw(st.integers(0, 10_000)),
    }


def build(p):
    g = torch.Generator().manual_seed(p["seed"])

    def draw(heads, n):
        shape = (p["batch"], heads, n, p["d_head"])
        return torch.randn(shape, generator=g, dtype=torch.float64).to(p["dtype"])

    q = draw(p["n_heads"], p["n_q"])
    k, v = draw(p["n_kv_heads"], p["n_k"]), draw(p["n_kv_heads"], p["n_k"])
    full = (p["batch"], p["n_heads"], p["n_q"], p["n_k"])
    shape = MASKS[p["mask"]](*full)
    mask = None
    if shape is not None:
        mask = torch.rand(shape, generator=g) < 0.6
        if p["mask"] == "empty_rows":
            mask[:, :, 0] = False
    i = torch.arange(p["n_q"])[:, None] + p["n_k"] - p["n_q"]
    j = torch.arange(p["n_k"])[None]
    visible = torch.ones(full, dtype=torch.bool) if mask is None else mask.expand(full).clone()
    if p["causal"]:
        visible &= j <= i
    if p["window"] is not None:
        visible &= (i - j).abs() <= p["window"]
    options = {"mask": mask, "causal": p["causal"], "windows": p["window"]}
    return q, k, v, visible, options | {"temperature": p["temperature"]}


@settings(max_examples=150, deadline=None)
@given(problems())
def test_both_back_ends_equal_the_float64_reference_forward_and_backward(p):
    q, k, v, visible, options = build(p)
    leaves = [t.double().requires_grad_() for t in (q, k, v)]
    expected = reference(*leaves, visible, temperature=p["temperature"])
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    gradients = torch.autograd.grad((expected * upstream).sum(), leaves)
    tolerance = TOLERANCE[p["dtype"]]
    for backend in ("dense", "fused"):
        own = [t.clone().requires_grad_() for t in (q, k, v)]
        out = scaled_dot_product_attention(*own, backend=backend, **options)
        assert out.dtype == p["dtype"]
        assert (out.double() - expected).abs().max() <= tolerance * (1 + expected.abs().max())
        got = torch.autograd.grad((out.double() * upstream).sum(), own)
        for a, b in zip(got, gradients, strict=True):
            assert (a.double() - b).abs().max() <= 4 * tolerance * (1 + b.abs().max())


@settings(max_examples=60, deadline=None)
@given(problems())
def test_weights_are_a_distribution_over_what_is_visible(p):
    q, k, v, visible, options = build(p)
    out, weights = scaled_dot_product_attention(q, k, v, return_weights=True, **options)
    assert weights.dtype == torch.promote_types(p["dtype"], torch.float32)
    assert (weights[~visible] == 0).all()
    total = visible.any(-1).to(weights.dtype)
    torch.testing.assert_close(weights.sum(-1), total, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights, attention_weights(q, k, **options))
    scores = attention_scores(q, k, **options)
    assert torch.equal(scores == -math.inf, ~visible)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_equal_to_torch_where_torch_defines_the_same_thing(p):
    q, k, v, visible, options = build(p)
    visible = visible | ~visible.any(-1, keepdim=True)  # torch has no single answer on empty rows
    theirs = F.scaled_dot_product_attention(
        q, k, v, visible, scale=p["d_head"] ** -0.5 / p["temperature"], enable_gqa=True
    )
    ours = scaled_dot_product_attention(q, k, v, mask=visible, temperature=p["temperature"])
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE[p["dtype"]], rtol=1e-2)


@pytest.mark.parametrize("name", positions.names())
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("options", [
    {}, {"causal": True}, {"windows": [2, None, 0]}, {"causal": True, "windows": 3},
    {"temperature": 0.5}, {"mask": torch.arange(7) % 3 < 2},
    {"q_pos": torch.tensor([9, 2, 0, 4]), "causal": True},
])  # fmt: skip
def test_back_ends_agree_for_every_encoding(name, dtype, options):
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=24, n_heads=3, d_head=8)
    q = torch.randn(2, 3, 4, 8).to(dtype)
    k, v = (torch.randn(2, 3, 7, 8).to(dtype) for _ in range(2))
    if encoding.needs_weights:
        with pytest.raises(ValueError, match="backend='dense'"):
            scaled_dot_product_attention(q, k, v, encoding=encoding, backend="fused")
        encoding.value_table = None  # what is left of Shaw is a bias, which both can do
    dense, fused = (
        scaled_dot_product_attention(q, k, v, encoding=encoding, backend=b, **options)
        for b in ("dense", "fused")
    )
    assert dense.dtype == fused.dtype == dtype
    torch.testing.assert_close(dense, fused, atol=TOLERANCE[dtype], rtol=1e-2)


@pytest.mark.parametrize("backend", ["dense", "fused"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_rows_with_nothing_to_attend_give_zeros_and_zero_gradients(backend, dtype):
    q, k, v = (torch.randn(1, 2, 4, 6).to(dtype).requires_grad_() for _ in range(3))
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[2] = False
    for encoding in (None, positions.ALiBi(2)):
        out = scaled_dot_product_attention(
            q, k, v, mask=mask, encoding=encoding, backend=backend
        )
        assert (out[:, :, 2] == 0).all() and (out[:, :, 1] != 0).any()
        grads = torch.autograd.grad(out.float().square().sum(), (q, k, v))
        assert all(g.isfinite().all() for g in grads)
        assert (grads[0][:, :, 2] == 0).all()


def torch_twin(mha: MultiHeadAttention) -> torch.nn.MultiheadAttention:
    """torch's module with the same parameters."""
    has_bias = mha.in_proj.bias is not None
    twin = torch.nn.MultiheadAttention(mha.d_model, mha.n_heads, bias=has_bias, batch_first=True)
    twin.in_proj_weight, twin.out_proj.weight = mha.in_proj.weight, mha.out_proj.weight
    if has_bias:
        twin.in_proj_bias, twin.out_proj.bias = mha.in_proj.bias, mha.out_proj.bias
    return twin.to(mha.in_proj.weight.dtype)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    n=st.integers(1, 8),
    n_heads=st.sampled_from([1, 2, 4]),
    d_head=st.integers(1, 6),
    bias=st.booleans(),
    causal=st.booleans(),
    padded=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    backend=st.sampled_from(["dense", "fused"]),
    seed=st.integers(0, 1000),
)
def test_module_equals_torch_module_forward_and_gradients(
    batch, n, n_heads, d_head, bias, causal, padded, dtype, backend, seed
):
    torch.manual_seed(seed)
    mha = MultiHeadAttention(n_heads * d_head, n_heads, bias=bias).to(dtype)
    for p in mha.parameters():
        torch.nn.init.normal_(p, std=0.5)
    mha.backend, twin = backend, torch_twin(mha)
    x = torch.randn(batch, n, n_heads * d_head, dtype=dtype, requires_grad=True)
    padding = torch.rand(batch, n) < 0.7 if padded else torch.ones(batch, n, dtype=torch.bool)
    padding[:, 0] = True  # torch gives NaN where nothing is left
    own, weights = mha(x, padding=padding, causal=causal, return_weights=True)
    fast = mha(x, padding=padding, causal=causal)
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1) if causal else None
    theirs, their_weights = twin(
        x, x, x, key_padding_mask=~padding, attn_mask=hidden, average_attn_weights=False
    )
    tolerance = {"atol": 3e-5 if dtype == torch.float32 else 1e-12, "rtol": 1e-5}
    torch.testing.assert_close(own, theirs, **tolerance)
    torch.testing.assert_close(fast, theirs, **tolerance)
    torch.testing.assert_close(weights, their_weights, **tolerance)
    up = torch.randn_like(own)
    leaves = (x, *mha.parameters())
    for a, b in zip(
        torch.autograd.grad((fast * up).sum(), leaves),
        torch.autograd.grad((theirs * up).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=20 * tolerance["atol"], rtol=1e-4)


def test_cross_attention_equals_torch_module():
    torch.manual_seed(0)
    mha = MultiHeadAttention(12, 3)
    twin = torch_twin(mha)
    x, context = torch.randn(2, 9, 12), torch.randn(2, 4, 12)
    theirs, weights = twin(x, context, context, average_attn_weights=False)
    own, own_weights = mha(x, context, return_weights=True)
    torch.testing.assert_close(own, theirs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(own_weights, weights, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("encoding", ["none", "rope", "alibi"])
def test_per_head_views_share_storage_and_give_the_fused_result(n_kv_heads, encoding):
    torch.manual_seed(0)
    mha = MultiHeadAttention(
        20, 4, n_kv_heads=n_kv_heads, d_head=6,
        encoding=positions.make(encoding, d_model=20, n_heads=4, d_head=6), bias=False,
    )  # fmt: skip
    x = torch.randn(2, 5, 20)
    by_head = torch.zeros(2, 5, 20)
    for i in range(4):
        g = i // (4 // n_kv_heads)
        q, k, v = x @ mha.w_q[i], x @ mha.w_k[g], x @ mha.w_v[g]
        if encoding == "rope":
            q, k = (mha.encoding.rotate(t[:, None], torch.arange(5))[:, 0] for t in (q, k))
        scores = q @ k.mT / 6**0.5
        if encoding == "alibi":
            away = (torch.arange(5)[:, None] - torch.arange(5)).abs()
            scores = scores - mha.encoding.slopes[i] * away
        by_head += scores.softmax(-1) @ v @ mha.w_o[i]
    torch.testing.assert_close(mha(x), by_head, atol=1e-5, rtol=1e-5)
    before = mha(x)
    with torch.no_grad():
        mha.w_q[1] *= -3
        mha.w_o[0] += 1
    assert (mha(x) - before).abs().max() > 0.1


def test_gates_scale_each_heads_share_of_the_output():
    torch.manual_seed(0)
    mha = MultiHeadAttention(16, 4, bias=False)
    x = torch.randn(3, 5, 16)
    alone = []
    for i in range(4):
        mha.gates = torch.eye(4)[i]
        alone.append(mha(x))
    mha.gates = None
    torch.testing.assert_close(sum(alone), mha(x), atol=1e-6, rtol=1e-5)
    mha.gates = torch.tensor([[2.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    out = mha(x)
    torch.testing.assert_close(out[0], 2 * alone[0][0], atol=1e-6, rtol=1e-5)
    assert (out[2] == 0).all()
    mha.gates = torch.ones(3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(mha(x).square().sum(), mha.gates)
    assert gradient.shape == (3, 4) and (gradient != 0).all()


def test_windows_per_head_limit_what_each_head_sees():
    mha = MultiHeadAttention(8, 2, windows=[1, None])
    _, weights = mha(torch.randn(1, 6, 8), return_weights=True)
    away = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    assert (weights[0, 0][away > 1] == 0).all() and (weights[0, 0][away <= 1] > 0).all()
    assert (weights[0, 1] > 0).all()


def test_causal_with_fewer_queries_is_the_end_of_the_full_pass():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 8, 4) for _ in range(3))
    rope = positions.RoPE(4)
    for backend in ("dense", "fused"):
        full = scaled_dot_product_attention(
            q, k, v, causal=True, encoding=rope, backend=backend
        )
        tail = scaled_dot_product_attention(
            q[:, :, 5:], k, v, causal=True, encoding=rope, backend=backend
        )
        torch.testing.assert_close(tail, full[:, :, 5:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["none", "alibi", "t5", "rope"])
@pytest.mark.parametrize("n_q, n_k, windows", [(9, 9, None), (9, 9, 2), (5, 9, None), (8, 8, 3)])
def test_causal_blocks_are_the_whole(name, n_q, n_k, windows, monkeypatch):
    monkeypatch.setattr("attnlab.backends.CAUSAL_BLOCK", 4)
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=8, n_heads=2)
    leaves = [torch.randn(1, 2, n, 4).double().requires_grad_() for n in (n_q, n_k, n_k)]
    leaves += encoding.double().parameters()
    results = []
    for backend in ("dense", "fused"):
        out = scaled_dot_product_attention(
            *leaves[:3], encoding=encoding, causal=True, windows=windows, backend=backend
        )
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for dense, fused in zip(*results, strict=True):
        torch.testing.assert_close(dense, fused, atol=1e-12, rtol=0)


class LargestTensor(TorchDispatchMode):
    """Remembers the size in bytes of the largest tensor that any operation made."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in result if isinstance(result, tuple | list) else (result,):
            if isinstance(t, torch.Tensor):
                self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("encoding", ["none", "rope", "alibi", "t5", "sandwich"])
@pytest.mark.parametrize("options", [
    {}, {"causal": True}, {"windows": 8}, {"windows": [1, None], "causal": True},
])  # fmt: skip
def test_the_fused_path_builds_no_matrix_of_pairs(encoding, options):
    n = 1024
    q, k, v = (torch.randn(1, 2, n, 16) for _ in range(3))
    encoding = positions.make(encoding, d_model=32, n_heads=2)
    with LargestTensor() as largest, torch.no_grad():
        scaled_dot_product_attention(q, k, v, encoding=encoding, **options)
    assert largest.bytes < n * n


def test_padding_builds_no_matrix_of_pairs():
    n = 1024
    mha, x = MultiHeadAttention(32, 2), torch.randn(1, n, 32)
    with LargestTensor() as largest, torch.no_grad():
        mha(x, padding=torch.arange(n)[None] < 1000)
    assert largest.bytes < n * n


class ExtraChannel(positions.Encoding):
    """Appends a channel that says nothing: the scores must not change."""

    def qk(self, q, k, q_pos, k_pos):
        return tuple(torch.cat([t, torch.zeros_like(t[..., :1])], -1) for t in (q, k))


@pytest.mark.parametrize("backend", ["dense", "fused"])
def test_channels_added_by_an_encoding_do_not_change_the_scale(backend):
    q, k, v = (torch.randn(1, 2, 5, 4) for _ in range(3))
    plain = scaled_dot_product_attention(q, k, v, backend=backend)
    more = scaled_dot_product_attention(q, k, v, encoding=ExtraChannel(), backend=backend)
    torch.testing.assert_close(plain, more)


@pytest.mark.parametrize("backend", ["dense", "fused"])
def test_autocast_rounds_neither_scores_nor_weights(backend):
    q, k, v = (torch.randn(1, 2, 5, 4) for _ in range(3))
    exact, exact_weights = scaled_dot_product_attention(q, k, v, return_weights=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = scaled_dot_product_attention(q, k, v, backend=backend)
        weights = attention_weights(q, k)
    assert out.dtype == weights.dtype == torch.float32
    torch.testing.assert_close(out, exact)
    torch.testing.assert_close(weights, exact_weights)


def test_a_captured_model_can_be_captured_again_and_copied():
    mha, x = MultiHeadAttention(8, 2), torch.randn(1, 3, 8)
    with capture(mha) as outer:
        with capture(mha) as inner:
            mha(x)
        twin = copy.deepcopy(mha)
        assert outer[""] is not None and torch.equal(outer[""], inner[""])
        outer.clear(), inner.clear()
        mha(x)
        twin(x)
    assert list(outer) == [""] and not inner
    outer.clear()
    twin(x), mha(x)
    assert not outer


def test_capture_keeps_weights_of_every_layer_and_lets_go():
    model = torch.nn.Sequential(MultiHeadAttention(8, 2), MultiHeadAttention(8, 4))
    x = torch.randn(2, 3, 8)
    plain = model(x)
    with capture(model) as seen:
        watched = model(x)
    torch.testing.assert_close(plain, watched, atol=1e-6, rtol=1e-5)
    assert [seen[n].shape for n in ("0", "1")] == [(2, 2, 3, 3), (2, 4, 3, 3)]
    assert not seen["0"].requires_grad
    seen.clear()
    model(x)
    assert not seen


@pytest.mark.parametrize("bad, words", [
    (lambda: MultiHeadAttention(64, 3), "3 heads do not divide d_model = 64"),
    (lambda: MultiHeadAttention(64, 0), "at least 1"),
    (lambda: MultiHeadAttention(64, 8, n_kv_heads=3), "does not divide"),
    (lambda: MultiHeadAttention(8, 2)(torch.zeros(3, 8)), "must be (batch, tokens, d_model = 8)"),
    (lambda: MultiHeadAttention(8, 2)(torch.zeros(1, 3, 7)), "d_model = 8"),
    (lambda: MultiHeadAttention(8, 2)(torch.zeros(1, 3, 8), torch.zeros(2, 3, 8)), "batch"),
    (lambda: MultiHeadAttention(8, 2)(torch.zeros(1, 3, 8), padding=torch.ones(1, 3)), "boolean"),
    (lambda: MultiHeadAttention(8, 2, windows=[1]), "half-width"),
    (lambda: MultiHeadAttention(8, 2, windows=2.5), "half-width"),
    (lambda: MultiHeadAttention(8, 2, windows=True), "half-width"),
    (lambda: MultiHeadAttention(8, 2)(
        torch.zeros(2, 5, 8), mask=torch.ones(4, 5).bool(),
        padding=torch.ones(2, 5, dtype=torch.bool)), "mask (4, 5) does not fit"),
    (lambda: MultiHeadAttention(8, 2)(
        torch.zeros(2, 5, 8), mask=torch.ones(5, 5),
        padding=torch.ones(2, 5, dtype=torch.bool)), "mask must be boolean"),
    (lambda: MultiHeadAttention(8, 2)(torch.zeros(1, 3, 8), pos=torch.arange(4)), "q_pos"),
])  # fmt: skip
def test_module_errors_say_what_to_do(bad, words):
    with pytest.raises(ValueError) as caught:
        bad()
    assert words in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("change, words", [
    ({"q": torch.zeros(2, 5, 4)}, "q must be (batch, heads, tokens, d_head)"),
    ({"k": torch.zeros(1, 2, 5, 3)}, "differ in batch or d_head"),
    ({"v": torch.zeros(1, 2, 4, 4)}, "k (1, 2, 5, 4) and v (1, 2, 4, 4) must agree"),
    ({"q": torch.zeros(1, 3, 5, 4)}, "cannot share"),
    ({"mask": torch.ones(5, 5)}, "mask must be boolean"),
    ({"mask": torch.ones(4, 5).bool()}, "mask (4, 5) does not fit"),
    ({"mask": torch.ones(1, 1, 1, 5, 5).bool()}, "does not fit"),
    ({"temperature": 0.0}, "temperature must be above 0"),
    ({"temperature": math.nan}, "temperature must be above 0"),
    ({"q": torch.zeros(1, 2, 7, 4), "causal": True}, "q_pos"),
    ({"backend": "flash"}, "known: auto, dense, fused"),
    ({"backend": "fused", "return_weights": True}, "backend='dense'"),
    ({"encoding": positions.ALiBi(4)}, "ALiBi(n_heads=4) was built for 4 heads, got 2"),
    ({"encoding": positions.ALiBi(4), "mask": torch.ones(5, 5).bool()}, "4 heads, got 2"),
    ({"encoding": positions.Shaw(4), "backend": "fused"}, "backend='dense'"),
    ({"encoding": positions.RoPE(8)}, "RoPE was built for d_head 8, got 4"),
])  # fmt: skip
def test_function_errors_say_what_to_do(change, words):
    good = {n: torch.zeros(1, 2, 5, 4) for n in "qkv"}
    scaled_dot_product_attention(**good)
    with pytest.raises(ValueError) as caught:
        scaled_dot_product_attention(**(good | change))
    assert words in str(caught.value) and len(str(caught.value)) < 200
