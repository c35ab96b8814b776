"""Attention on a GPU: every back end, type and encoding against float64 on the CPU.

Run with `pytest -m gpu tests/test_gpu.py`. A failure names the tensor, its largest error, what is
allowed and where it stands. The flex tests compile about 40 kernels on their first run: minutes.
"""

import pytest
import torch

from attnlab import MultiHeadAttention, backends, flex, positions, scaled_dot_product_attention
from attnlab.measure import peak_bytes
from attnlab.positions import rotary
from attnlab.windows import Window

DEVICE = "cuda" if torch.cuda.is_available() else "mps"
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]  # the compilers' own warnings
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA, not just a GPU")

# Largest error allowed, as a share of 1 + the largest number expected. Input is rounded before the
# float64 reference sees it: what is left is one rounding of the output and, in the fused kernels of
# half precision, one of the weights. Gradients pass through two such products more: four times.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
DTYPES = [pytest.param(dtype, id=str(dtype).removeprefix("torch.")) for dtype in TOLERANCE]


def check(what, got, expected, dtype, factor=1.0):
    assert got.isfinite().all(), f"{what}: {(~got.isfinite()).sum()} numbers are not finite"
    error = (got.detach().cpu().double() - expected).abs()
    allowed = factor * TOLERANCE[dtype] * (1 + expected.abs().max().item())
    worst = error.max().item()
    assert worst <= allowed, (
        f"{what}: error {worst:.2e}, allowed {allowed:.2e}, at "
        f"{tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))} of "
        f"{tuple(error.shape)}; {(error > allowed).double().mean():.1%} of it is off"
    )


def against_reference(name, dtype, backend, n_kv_heads=4, n_q=300, n_k=300, d_head=64, **options):
    """Output and gradients on the GPU against the dense formula in float64 on the CPU."""
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=4 * d_head, n_heads=4, d_head=d_head)
    if backend != "dense" and encoding.needs_weights:
        encoding.value_table = None  # what is left of Shaw is a bias
    shapes = ((4, n_q), (n_kv_heads, n_k), (n_kv_heads, n_k))
    tokens = [torch.randn(2, heads, n, d_head).to(dtype) for heads, n in shapes]
    up = torch.randn(2, 4, n_q, d_head).to(dtype)
    runs = []
    for device, kind, how in (("cpu", torch.float64, "dense"), (DEVICE, dtype, backend)):
        own = encoding.to(device)
        leaves = [t.to(device, kind).requires_grad_() for t in tokens]
        trained = []
        if backends.adds_to_scores(own):
            trained = [p for p in own.parameters() if p.requires_grad]
        out = scaled_dot_product_attention(
            *leaves, encoding=own, backend=how,
            **{key: t.to(device) if torch.is_tensor(t) else t for key, t in options.items()},
        )  # fmt: skip
        found = torch.autograd.grad((out * up.to(device, kind)).sum(), [*leaves, *trained])
        runs.append((out, *(g.cpu() if device == "cpu" else g for g in found)))
    assert runs[1][0].dtype == dtype and runs[1][0].device.type == DEVICE
    names = ["output", "gradient of q", "gradient of k", "gradient of v"]
    names += [f"gradient of parameter {i}" for i in range(len(runs[0]) - 4)]
    for what, expected, got in zip(names, *runs, strict=True):
        check(what, got, expected.detach().double(), dtype, 1 if what == "output" else 4)


def acts_in_attention(name):
    encoding, at = positions.make(name, d_model=64, n_heads=4), torch.arange(5)
    q = torch.ones(1, 4, 5, 16)
    turned, _ = encoding.qk(q, q, at, at)
    return not torch.equal(turned, q) or encoding.bias(q, q, at, at) is not None


IN_ATTENTION = [name for name in positions.names() if name == "none" or acts_in_attention(name)]
SETTINGS = {
    "plain": {},
    "causal": {"causal": True},
    "grouped": {"n_kv_heads": 2, "causal": True, "temperature": 1.5},
    "windows": {"windows": [3, None, Window(12, 4), 200], "n_kv_heads": 1},
    "window-causal": {"windows": 40, "causal": True},
}


@pytest.mark.parametrize("name", IN_ATTENTION)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("backend", ["dense", "fused", "auto"])
def test_back_ends_are_the_reference(name, dtype, options, backend):
    against_reference(name, dtype, backend, **options)


@pytest.mark.parametrize("name", [n for n in IN_ATTENTION if n != "shaw"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [SETTINGS["windows"], SETTINGS["window-causal"]])
def test_blocks_are_the_reference(name, dtype, options):
    against_reference(name, dtype, "blocked", **options)


@cuda
@pytest.mark.parametrize("name", ["none", "rope", "alibi", "sandwich", "t5"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("setting", ["plain", "grouped", "windows"])
def test_flex_is_the_reference(name, dtype, setting):
    against_reference(name, dtype, "flex", **SETTINGS[setting])


@cuda
@pytest.mark.parametrize("name", ["none", "t5", "alibi"])
@pytest.mark.parametrize("backend", ["fused", "flex"])
@pytest.mark.parametrize("n_q", [1, 130])
def test_the_last_queries_of_a_longer_text(name, backend, n_q):
    against_reference(name, torch.bfloat16, backend, n_q=n_q, causal=True, n_kv_heads=2)


@cuda
@pytest.mark.parametrize("d_head", [16, 80, 128, 256])
def test_head_sizes_of_flex(d_head):
    against_reference("alibi", torch.bfloat16, "flex", d_head=d_head, causal=True)


@cuda
def test_heads_too_large_or_small_for_flex_are_refused_and_auto_goes_on():
    for d_head in (8, 512):
        with pytest.raises(ValueError, match="heads of 16 to 256 numbers"):
            against_reference("alibi", torch.bfloat16, "flex", d_head=d_head)
        against_reference("alibi", torch.bfloat16, "auto", d_head=d_head, n_q=1100, n_k=1100)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["dense", "fused"])
@pytest.mark.parametrize("name", ["none", "alibi"])
def test_rows_with_nothing_to_attend_give_zeros_and_zero_gradients(dtype, backend, name):
    mask = torch.rand(300, 300, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[7] = False
    against_reference(name, dtype, backend, mask=mask)
    encoding = positions.make(name, d_model=256, n_heads=4).to(DEVICE)
    q, k, v = (
        torch.randn(1, 4, 300, 64, device=DEVICE).to(dtype).requires_grad_() for _ in range(3)
    )
    out = scaled_dot_product_attention(
        q, k, v, mask=mask.to(DEVICE), encoding=encoding, backend=backend
    )
    (gradient,) = torch.autograd.grad(out.float().square().sum(), q)
    assert not out[:, :, 7].any() and not gradient[:, :, 7].any()


@pytest.mark.parametrize("name", positions.names())
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer_with_every_encoding(name, dtype):
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=64, n_heads=4)
    layer, x = MultiHeadAttention(64, 4, n_kv_heads=2, encoding=encoding), torch.randn(2, 33, 64)
    outs = []
    for device, kind in (("cpu", torch.float64), (DEVICE, dtype)):
        rounded = layer.to(torch.float32).to(dtype).to(device, kind)
        tokens = x.to(dtype).to(device, kind)
        with torch.no_grad():
            embedded = rounded.encoding.embed(tokens, torch.arange(33, device=device))
            outs.append(rounded(embedded.to(dtype).to(kind), causal=True))
        layer = layer.cpu()
    check("output", outs[1], outs[0], dtype, 4)


# --- what it costs -----------------------------------------------------------------------------


@cuda
@pytest.mark.parametrize("name, options", [
    ("none", {}), ("none", {"causal": True}), ("rope", {"causal": True}),
    ("alibi", {"causal": True}), ("alibi", {}), ("sandwich", {"causal": True}),
    ("t5", {"causal": True}), ("none", {"causal": True, "windows": 256}),
    ("alibi", {"windows": [256, None]}),
])  # fmt: skip
def test_long_texts_hold_no_matrix_of_pairs(name, options):
    n = 32_768
    encoding = positions.make(name, d_model=128, n_heads=2).to(DEVICE)
    q, k, v = (
        torch.randn(1, 2, n, 64, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )

    def run():
        out = scaled_dot_product_attention(q, k, v, encoding=encoding, **options)
        torch.autograd.grad(out.float().square().sum(), (q, k, v, *encoding.parameters()))

    run()
    held = peak_bytes(run, q.device)
    assert held < n * n / 4, f"{held / 2**20:.0f} MiB; a mask of a byte for each pair has 1024"


@cuda
def test_auto_takes_flex_on_cuda(monkeypatch):
    ran = []
    original = flex.attention
    monkeypatch.setattr(flex, "attention", lambda *a, **k: ran.append(1) or original(*a, **k))
    q = torch.randn(1, 4, 1100, 64, device=DEVICE, dtype=torch.bfloat16)
    for encoding, wanted in ((None, 0), (positions.RoPE(64), 0), (positions.ALiBi(4), 1)):
        ran.clear()
        scaled_dot_product_attention(q, q, q, encoding=encoding, causal=True)
        assert len(ran) == wanted, encoding


@cuda
@pytest.mark.parametrize("name", ["none", "alibi", "t5"])
def test_two_versions_of_the_kernel_serve_all_lengths_and_temperatures(name):
    torch.compiler.reset()
    encoding = positions.make(name, d_model=128, n_heads=2).to(DEVICE)

    def run(n, temperature, past=0):
        q, k, v = (
            torch.randn(1, 2, m, 64, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
            for m in (n, n + past, n + past)
        )
        scaled_dot_product_attention(
            q, k, v, encoding=encoding, causal=True, windows=500, temperature=temperature,
            backend="flex",
        ).float().square().sum().backward()  # fmt: skip

    run(1100, 2.0)
    run(1300, 2.0)
    with torch.compiler.set_stance("fail_on_recompile"):
        for n, temperature in ((1408, 2.0), (2049, 3.0), (1101, 0.5)):
            run(n, temperature)
    torch.compiler.reset()


@cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_long_texts_are_rotated_in_one_pass(dtype, layout):
    torch.manual_seed(0)
    rope, n = positions.RoPE(64, layout=layout), 4096
    x = torch.randn(1, n, 8, 64).to(dtype)
    moved = x.to(DEVICE).transpose(1, 2)
    assert rotary.compiling_pays(moved)
    pos = torch.arange(n, device=DEVICE)
    expected = rope.rotate(x.double().transpose(1, 2), torch.arange(n))
    check("rotated", rope.rotate(moved, pos), expected, dtype)
    size = moved.numel() * moved.element_size()
    held = peak_bytes(lambda: rope.rotate(moved, pos), moved.device)
    assert held <= 1.1 * size, f"holds {held / size:.1f} times what it returns"
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        rope.rotate(moved, pos)
        torch.cuda.synchronize()
    kernels = [
        e.key for e in profile.key_averages() for _ in range(e.count)
        if e.device_type == torch.autograd.DeviceType.CUDA
    ]  # fmt: skip
    assert len(kernels) == 1, kernels
    leaf = moved.clone().requires_grad_()
    up = torch.randn(1, 8, n, 64).to(dtype)
    (gradient,) = torch.autograd.grad((rope.rotate(leaf, pos) * up.to(DEVICE)).sum(), leaf)
    # a rotation's gradient is the rotation by the opposite angle
    back = rope.rotate(up.double(), -torch.arange(n))
    check("gradient", gradient, back, dtype)


@cuda
@pytest.mark.parametrize("backend", ["dense", "fused", "flex"])
@pytest.mark.parametrize("name", ["none", "rope", "alibi", "sandwich", "t5"])
def test_a_step_of_training_never_waits_for_the_device(backend, name):
    encoding = positions.make(name, d_model=256, n_heads=4).to(DEVICE)
    q, k, v = (torch.randn(2, 4, 300, 64, device=DEVICE, requires_grad=True) for _ in range(3))

    def run():
        scaled_dot_product_attention(
            q, k, v, encoding=encoding, causal=True, backend=backend
        ).sum().backward()

    run()
    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@cuda
@pytest.mark.parametrize("name", ["none", "alibi"])
def test_decoding_does_not_repeat_the_keys_that_heads_share(name):
    n, d, n_heads = 65_536, 64, 16
    encoding = positions.make(name, d_model=n_heads * d, n_heads=n_heads)
    q = torch.randn(1, n_heads, 1, d, device=DEVICE, dtype=torch.bfloat16)
    k, v = (torch.randn(1, 1, n, d, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    with torch.no_grad():

        def run():
            return scaled_dot_product_attention(q, k, v, encoding=encoding, causal=True)

        run()
        held = peak_bytes(run, q.device)
    # float32 copies of the one head's keys and values for the bias's sake; else biases alone
    allowed = 2 * n * d * 4 + n * n_heads * 40
    assert held <= allowed, f"{held / 2**20:.0f} MiB, allowed {allowed / 2**20:.0f}"


@cuda
@pytest.mark.parametrize("name", positions.names())
def test_torch_compile_traces_a_layer_without_a_break(name):
    torch.compiler.reset()
    encoding = positions.make(name, d_model=64, n_heads=2, max_len=1100)
    layer = MultiHeadAttention(64, 2, encoding=encoding).to(DEVICE)
    x = torch.randn(1, 1100, 64, device=DEVICE)
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x, causal=True), layer(x, causal=True), atol=1e-4, rtol=0)
