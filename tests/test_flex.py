"""The flex back end: what it hands to torch's flex_attention, and what it refuses.

Its kernels train on CUDA only (tests/test_gpu.py). Here a few lines of plain PyTorch stand in for
flex_attention, which show that masks, biases, shared heads and gradients are handed over right, and
torch's own is called where a CPU can: forward, uncompiled and compiled.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention

from attnlab import backends, compiled, flex, positions, scaled_dot_product_attention
from attnlab.windows import Window, offset_visible

BY_OFFSET = [
    name for name in positions.names()
    if not (made := positions.make(name, d_model=64, n_heads=4)).needs_weights
    and backends.is_by_offset(made)
]  # fmt: skip


def block_kinds(mask):
    """Whether each block is seen in part and whether it is seen as a whole: (heads, rows, cols)."""

    def marked(count, order):
        found = torch.zeros(order.shape, dtype=torch.bool)
        for place in torch.cartesian_prod(*map(torch.arange, count.shape)).tolist():
            row = tuple(place)
            found[row][order[row][: count[row]].long()] = True
        return found[0]

    return (
        marked(mask.kv_num_blocks, mask.kv_indices),
        marked(mask.full_kv_num_blocks, mask.full_kv_indices),
    )


def plain_flex(q, k, v, *, scale, enable_gqa, score_mod, block_mask):
    """What flex_attention says that it computes, in float64 too, with gradients on every device."""
    assert enable_gqa == (q.shape[1] != k.shape[1])
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    b, h, i, j = (
        torch.arange(n).reshape([-1 if a == axis else 1 for a in range(4)])
        for axis, n in enumerate((*q.shape[:3], k.shape[2]))
    )
    scores = q @ k.mT * scale
    if score_mod is not None:
        scores = score_mod(scores, b, h, i, j)
    if block_mask is not None:
        part, whole = (
            t.repeat_interleave(flex.BLOCK, 1).repeat_interleave(flex.BLOCK, 2)
            [:, : q.shape[2], : k.shape[2]] for t in block_kinds(block_mask)
        )  # fmt: skip
        seen = whole | (part & block_mask.mask_mod(b, h, i, j))
        scores = scores.masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ v


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(flex, "kernel", lambda device: plain_flex)
    monkeypatch.setattr(flex, "problem", lambda *tensors: None)


@given(
    n_q=st.integers(1, 70), past=st.integers(0, 40), causal=st.booleans(),
    windows=st.none() | st.integers(0, 60) | st.lists(
        st.none() | st.builds(Window, st.integers(0, 90), st.integers(1, 9)),
        min_size=3, max_size=3,
    ),
)  # fmt: skip
@settings(max_examples=60)
def test_blocks_are_hidden_partly_seen_or_seen_as_the_mask_says(n_q, past, causal, windows):
    n_k = n_q + past
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex, "BLOCK", 16)
        flex._block_mask.cache_clear()
        mask = flex.block_mask(n_q, n_k, 3, causal, windows, torch.device("cpu"))
        flex._block_mask.cache_clear()
    offset = torch.arange(n_k) - torch.arange(past, n_k)[:, None]
    visible = offset_visible(offset, 3, causal, windows)
    if mask is None:
        assert visible is None or visible.all()
        return
    part, whole = block_kinds(mask)
    visible = visible.expand(3, -1, -1)
    for head in range(3):
        for row in range(part.shape[1]):
            for col in range(part.shape[2]):
                block = visible[head, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16]
                at = (head % len(part), row, col)
                assert bool(part[at] | whole[at]) == bool(block.any())
                assert not (part[at] and whole[at])
                assert not whole[at] or (block.shape == (16, 16) and block.all())
                # whole wherever that can be said, or the kernel would look at masks for nothing
                assert whole[at] or not block.all() or block.shape != (16, 16)


WINDOWS = {"none": None, "one": 40, "per-head": [3, None, Window(12, 4), 300]}


@pytest.mark.parametrize("name", BY_OFFSET)
@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n_kv_heads, n_q, n_k", [(4, 150, 150), (2, 130, 200), (1, 1, 150)])
def test_flex_is_dense_forward_and_backward(name, windows, causal, n_kv_heads, n_q, n_k, stand_in):
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=64, n_heads=4).double()
    leaves = [
        torch.randn(2, h, n, 16, dtype=torch.float64, requires_grad=True)
        for h, n in ((4, n_q), (n_kv_heads, n_k), (n_kv_heads, n_k))
    ]
    if backends.adds_to_scores(encoding):
        leaves += encoding.parameters()
    runs = []
    for backend in ("dense", "flex"):
        out = scaled_dot_product_attention(
            *leaves[:3], encoding=encoding, windows=windows, causal=causal, temperature=1.5,
            scale=0.3, backend=backend,
        )  # fmt: skip
        runs.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for dense, other in zip(*runs, strict=True):
        # biases are tables in float32, also for float64 tokens
        torch.testing.assert_close(other, dense, atol=2e-5 * dense.abs().max().item(), rtol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it while it traces
@pytest.mark.parametrize("name, n_kv_heads, options", [
    ("none", 2, {"windows": 20}),
    ("alibi", 4, {"causal": True}),
    ("t5", 1, {"causal": True, "temperature": 2.0}),
    ("sandwich", 4, {"windows": [1, None, 50, Window(8, 2)]}),
])  # fmt: skip
def test_torchs_own_takes_what_is_handed_over_and_hands_gradients_to_trained_tables(
    name, n_kv_heads, options, monkeypatch
):
    torch.compiler.reset()
    traced = torch.compile(flex_attention, backend="eager", fullgraph=True)
    monkeypatch.setattr(flex, "kernel", lambda device: traced)
    monkeypatch.setattr(flex, "problem", lambda *tensors: None)
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=64, n_heads=4)
    q, k, v = (torch.randn(2, h, 150, 16) for h in (4, n_kv_heads, n_kv_heads))
    trained, runs = list(encoding.parameters()), []
    for backend in ("dense", "flex"):
        out = scaled_dot_product_attention(q, k, v, encoding=encoding, backend=backend, **options)
        gradients = torch.autograd.grad(out.square().mean(), trained) if trained else ()
        runs.append((out.detach(), *gradients))
    for dense, other in zip(*runs, strict=True):
        torch.testing.assert_close(other, dense, atol=1e-5, rtol=0)


needs_compiler = pytest.mark.skipif(
    compiled.compiler_problem("cpu") is not None, reason="no C++ compiler for torch.compile"
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@needs_compiler
@pytest.mark.parametrize("name, n_kv_heads, n_q, options, dtype", [
    ("rope", 2, 200, {"causal": True}, torch.bfloat16),
    ("alibi", 4, 200, {"causal": True}, torch.float32),
    ("t5", 1, 130, {"causal": True, "windows": [1, None, 50, Window(8, 2)]}, torch.bfloat16),
    ("t5", 4, 200, {"temperature": 0.5}, torch.float32),
])  # fmt: skip
def test_the_compiled_kernel_on_a_cpu(name, n_kv_heads, n_q, options, dtype):
    torch.manual_seed(0)
    torch.compiler.reset()
    encoding = positions.make(name, d_model=128, n_heads=4)
    shapes = ((4, n_q), (n_kv_heads, 200), (n_kv_heads, 200))
    q, k, v = (torch.randn(2, h, n, 32).to(dtype) for h, n in shapes)
    with torch.no_grad():
        dense, fast = (
            scaled_dot_product_attention(q, k, v, encoding=encoding, backend=b, **options)
            for b in ("dense", "flex")
        )
    assert fast.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(fast, dense, atol=tolerance, rtol=0)


def test_what_flex_cannot_do_is_said():
    q, k, v = (torch.zeros(1, 2, 8, 16) for _ in range(3))
    far = torch.ones(8, 8, dtype=torch.bool)
    for more, words in [
        ({"mask": far}, "no mask"),
        ({"q_pos": torch.arange(8)}, "texts in order"),
        ({"encoding": positions.Shaw(16)}, "needs the weights"),
        ({"encoding": positions.Shaw(16, value_side=False)}, "by offset alone"),
        ({"encoding": positions.T5Bias(2)}, "no backward pass: call it under torch.no_grad"),
        ({"q": q.clone().requires_grad_()}, "no backward pass"),
        ({"q": q.double(), "k": k.double(), "v": v.double()}, "not in float64"),
        ({"return_weights": True}, "never forms the weights"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            call = {"q": q, "k": k, "v": v} | more
            scaled_dot_product_attention(**call, backend="flex")
        assert len(str(caught.value)) < 200


def test_an_encoding_for_other_heads_is_refused(stand_in):
    q, k, v = (torch.zeros(1, 2, 8, 16) for _ in range(3))
    for encoding in (positions.ALiBi(4), positions.T5Bias(4)):
        with pytest.raises(ValueError, match="built for 4 heads, got 2"):
            scaled_dot_product_attention(q, k, v, encoding=encoding, backend="flex")


@pytest.mark.parametrize("n_heads", [2, 6, 8])
def test_slopes_are_the_bias_by_offset(n_heads):
    offset = torch.arange(-40, 41)
    for name in positions.names():
        encoding = positions.make(name, d_model=96, n_heads=n_heads)
        if encoding.slopes is not None:
            bias = -torch.tensor(encoding.slopes).double()[:, None] * offset.abs()
            torch.testing.assert_close(bias, encoding.relative_bias(offset), rtol=1e-6, atol=0)


def on_cuda(n_q, n_k, n_heads=4):
    """What the choice looks at, for tensors on a GPU that is not there."""
    device = SimpleNamespace(type="cuda")
    return [SimpleNamespace(shape=(1, n_heads, n, 64), device=device) for n in (n_q, n_k, n_k)]


def test_auto_takes_flex_where_the_plain_kernel_would_need_the_matrix(monkeypatch):
    monkeypatch.setattr(flex, "problem", lambda *tensors: None)

    def choice(n_q=2048, n_k=2048, name=None, causal=False, windows=None, by_offset=True):
        encoding = None if name is None else positions.make(name, d_model=256, n_heads=4)
        return backends.chosen(
            *on_cuda(n_q, n_k), by_offset=by_offset, causal=causal, windows=windows,
            encoding=encoding,
        )  # fmt: skip

    for name in ("alibi", "t5", "sandwich"):
        assert choice(name=name) == choice(name=name, causal=True) == "flex"
        assert choice(128, 128, name) == choice(1, 2048, name) == "fused"
        assert choice(name=name, by_offset=False) == "fused"
    for name in (None, "none", "rope", "sinusoidal"):
        assert choice(name=name) == choice(name=name, causal=True) == "fused"
        assert choice(name=name, causal=True, windows=9) == "flex"
        assert choice(512, 4096, name, causal=True) == "flex"
        assert choice(1, 2**21, name, causal=True) == "fused"
    monkeypatch.setattr(flex, "problem", lambda *tensors: "no compiler")
    assert choice(name="alibi") == "fused"
    assert choice(windows=9) == "blocked"
