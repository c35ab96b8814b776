"""Windows per head, the blocked path, the key/value cache, and sharing heads: equal to the dense
masked path, and as cheap as they say."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attnlab import backends, cost, heads, positions
from attnlab.attention import MultiHeadAttention, scaled_dot_product_attention
from attnlab.cache import KVCache
from attnlab.models import TinyTransformer
from attnlab.windows import (
    LEAST_BLOCK,
    Window,
    blocked_attention,
    blocks_of,
    checked_windows,
    hierarchical,
    offset_visible,
    products,
    receptive_field,
)

BY_OFFSET = [name for name in positions.names() if name != "shaw"]  # Shaw needs the weights
WIDE = 300  # tokens: enough for several blocks and for the automatic choice


def masked(n, window, causal):
    """Which pairs a window leaves, from its definition, pair by pair."""
    visible = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            near = window is None or (
                abs(j - i) <= window.width and (j - i) % window.dilation == 0
            )
            visible[i, j] = near and (j <= i or not causal)
    return visible


def draw_qkv(n, n_heads=2, n_kv=None, d=4, batch=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, h, n, d) for h in (n_heads, n_kv or n_heads, n_kv or n_heads)]
    return [
        torch.randn(*s, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
        for s in shapes
    ]


def gradients(out, leaves):
    generator = torch.Generator().manual_seed(1)
    toward = torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out.dtype)
    return torch.autograd.grad((out * toward).sum(), leaves, allow_unused=True)


def assert_same(one, other, **tolerance):
    """Outputs and gradients of two runs agree."""
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, **tolerance)


# --- windows ---------------------------------------------------------------------------------


@given(
    n=st.integers(0, 12), width=st.integers(0, 14), dilation=st.integers(1, 5), causal=st.booleans()
)
def test_a_window_is_its_definition(n, width, dilation, causal):
    window = Window(width, dilation)
    pos = torch.arange(n)
    visible = offset_visible(pos[None, :] - pos[:, None], 1, causal, window)
    assert torch.equal(visible[0], masked(n, window, causal))


def test_hierarchical_heads_do_equal_work_at_doubling_distances():
    windows = hierarchical(4, 3)
    assert windows == [Window(3, 1), Window(6, 2), Window(12, 4), Window(24, 8)]
    row = offset_visible(torch.arange(-40, 41), 4, False, windows)
    assert row.sum(-1).tolist() == [7, 7, 7, 7]


@pytest.mark.parametrize("bad", [
    -1, 2.5, True, "3", [1], [1, 2, 3], [1, "2"], Window(2, 0), Window(-1, 1), Window(2.0, 1),
    Window(2, True), [None, 1.0],
])  # fmt: skip
def test_a_bad_window_is_named(bad):
    with pytest.raises(ValueError, match="half-width >= 0, Window"):
        checked_windows(bad, 2)


def test_one_window_serves_all_heads():
    assert checked_windows(3, 2) == [Window(3), Window(3)]
    assert checked_windows(Window(4, 2), 2) == [Window(4, 2)] * 2
    assert checked_windows(None, 2) == [None, None]
    assert checked_windows((1, None), 2) == [Window(1), None]


@given(n=st.integers(1, 14), depth=st.integers(0, 4), seed=st.integers(0, 10**6),
       causal=st.booleans())  # fmt: skip
@settings(max_examples=30)
def test_the_receptive_field_is_where_gradients_reach(n, depth, seed, causal):
    pick = torch.Generator().manual_seed(seed)
    choices = [None, 0, 1, 3, Window(4, 2)]
    layers = [
        [choices[i] for i in torch.randint(len(choices), (2,), generator=pick)]
        for _ in range(depth)
    ]
    field = receptive_field(n, layers, 2, causal)
    torch.manual_seed(seed)
    x = torch.randn(1, n, 8, dtype=torch.float64, requires_grad=True)
    out = x
    for windows in layers:
        layer = MultiHeadAttention(8, 2, windows=windows).double()
        layer.backend = "dense"
        out = out + layer(out, causal=causal)
    for i in range(n):
        (grad,) = torch.autograd.grad(out[0, i].sum(), x, retain_graph=True)
        assert torch.equal(grad[0].abs().sum(-1) > 0, field[i])


@given(w=st.integers(0, 5), depth=st.integers(0, 4))
def test_windows_in_layers_reach_as_far_as_they_say(w, depth):
    n = 2 * w * depth + 3
    both = receptive_field(n, [w] * depth, 1)
    assert both[n // 2].sum() == 2 * w * depth + 1
    assert receptive_field(n, [w] * depth, 1, causal=True)[-1].sum() == w * depth + 1


# --- the blocked path ------------------------------------------------------------------------


@given(
    n=st.integers(0, 150), width=st.integers(0, 200), dilation=st.integers(1, 170),
    causal=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=80)
def test_blocks_equal_the_mask_forward_and_backward(n, width, dilation, causal, seed):
    window = Window(width, dilation)
    leaves = draw_qkv(n, seed=seed)
    blocked = blocked_attention(*leaves, window, causal=causal)
    dense = scaled_dot_product_attention(*leaves, windows=window, causal=causal, backend="dense")
    assert blocked.shape == dense.shape
    assert_same([blocked, *gradients(blocked, leaves)], [dense, *gradients(dense, leaves)],
                atol=1e-10, rtol=1e-8)  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 129, 200])
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_at_the_edges_of_a_block(n, causal):
    for window in (Window(0), Window(1), Window(64), Window(65), Window(6, 3), Window(1000, 7),
                   Window(3, 1000)):  # fmt: skip
        leaves = draw_qkv(n, n_heads=1, batch=1)
        blocked = blocked_attention(*leaves, window, causal=causal)
        dense = scaled_dot_product_attention(
            *leaves, windows=window, causal=causal, backend="dense"
        )
        torch.testing.assert_close(blocked, dense, atol=1e-10, rtol=1e-8)


SETTINGS = {
    "local": 5, "one each": [3, Window(20, 4), None, 0], "hierarchical": hierarchical(4, 4),
    "nearly all": [2, 2, WIDE - 2, Window(9, 3)],
}  # fmt: skip


@pytest.mark.parametrize("name", BY_OFFSET)
@pytest.mark.parametrize("windows", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n_kv", [4, 2, 1])
def test_every_encoding_is_the_same_in_blocks(name, windows, causal, n_kv):
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=32, n_heads=4).double()
    for p in encoding.parameters():  # a bias table that starts at 0 would show nothing
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(2))
    leaves = [*draw_qkv(WIDE, 4, n_kv, d=8, batch=1), *encoding.parameters()]
    runs = []
    for backend in ("dense", "blocked", "auto"):
        out = scaled_dot_product_attention(
            *leaves[:3], windows=windows, causal=causal, encoding=encoding, backend=backend,
            temperature=1.3, scale=0.3,
        )  # fmt: skip
        runs.append([out, *gradients(out, leaves)])
    assert_same(runs[1], runs[0], atol=1e-9, rtol=1e-7)
    assert_same(runs[2], runs[0], atol=1e-9, rtol=1e-7)


@given(
    n=st.integers(0, 260), n_heads=st.sampled_from([1, 2, 4]), causal=st.booleans(),
    name=st.sampled_from(BY_OFFSET), data=st.data(),
)  # fmt: skip
@settings(max_examples=60)
def test_the_automatic_choice_never_changes_the_numbers(n, n_heads, causal, name, data):
    one = st.none() | st.integers(0, 300) | st.builds(
        Window, st.integers(0, 300), st.integers(1, 40))  # fmt: skip
    windows = data.draw(st.lists(one, min_size=n_heads, max_size=n_heads))
    n_kv = data.draw(st.sampled_from([k for k in (1, 2, 4) if n_heads % k == 0]))
    encoding = positions.make(name, d_model=8 * n_heads, n_heads=n_heads).double()
    qkv = draw_qkv(n, n_heads, n_kv, d=8, batch=1)
    with torch.no_grad():
        dense, auto, blocked = (
            scaled_dot_product_attention(
                *qkv, windows=windows, causal=causal, encoding=encoding, backend=backend
            )
            for backend in ("dense", "auto", "blocked")
        )
    torch.testing.assert_close(auto, dense, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(blocked, dense, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("name", ["none", "rope", "alibi", "t5"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_exact_in_blocks_as_without(name, dtype):
    encoding = positions.make(name, d_model=16, n_heads=2)
    qkv = draw_qkv(WIDE, dtype=dtype, d=8)
    with torch.no_grad():
        exact = scaled_dot_product_attention(
            *(t.double() for t in qkv), windows=[4, Window(12, 3)], causal=True,
            encoding=copy.deepcopy(encoding).double(), backend="dense",
        )  # fmt: skip
        for backend in ("blocked", "auto", "fused"):
            out = scaled_dot_product_attention(
                *qkv, windows=[4, Window(12, 3)], causal=True, encoding=encoding, backend=backend
            )
            assert out.dtype == dtype
            assert (out.double() - exact).abs().max() < 6 * torch.finfo(dtype).eps


def test_values_of_another_width():
    q, k, _ = draw_qkv(WIDE)
    v = torch.randn(2, 2, WIDE, 7, dtype=torch.float64)
    runs = [
        scaled_dot_product_attention(q, k, v, windows=6, causal=True, backend=b)
        for b in ("dense", "blocked")
    ]
    torch.testing.assert_close(*runs)


def chosen(monkeypatch, **call):
    """Whether "auto" went through blocks."""
    ran = []
    original = backends.blocked_attention
    monkeypatch.setattr(
        backends, "blocked_attention", lambda *a, **k: ran.append(1) or original(*a, **k)
    )
    scaled_dot_product_attention(**call)
    return bool(ran)


def test_blocks_are_chosen_where_they_save(monkeypatch):
    q, k, v = draw_qkv(600, n_heads=2)
    call = {"q": q, "k": k, "v": v}
    assert chosen(monkeypatch, **call, windows=8)
    assert chosen(monkeypatch, **call, windows=8, causal=True)
    assert chosen(monkeypatch, **call, windows=[Window(1, 10**6), Window(10**6, 10**5)])
    assert not chosen(monkeypatch, **call)
    assert not chosen(monkeypatch, **call, windows=500)
    assert not chosen(monkeypatch, **call, windows=[1, None])
    assert not chosen(monkeypatch, **call, windows=8, backend="fused")
    assert not chosen(monkeypatch, **call, windows=8, mask=torch.ones(600, 600).bool())
    assert not chosen(monkeypatch, **call, windows=8, q_pos=torch.arange(600))
    assert not chosen(monkeypatch, **call, windows=8, return_weights=True)
    few = [t[:, :, :40] for t in (q, k, v)]
    assert not chosen(monkeypatch, q=few[0], k=few[1], v=few[2], windows=1)


def test_one_far_seeing_head_does_not_spoil_the_others(monkeypatch):
    # A head whose window is nearly the text goes the usual way; the three others go in blocks.
    q, k, v = draw_qkv(600, n_heads=4)
    assert chosen(monkeypatch, q=q, k=k, v=v, windows=[4, 4, 4, 590])


def test_what_the_blocked_path_cannot_do_is_said():
    q, k, v = draw_qkv(8, d=8)
    shaw = positions.make("shaw", d_model=16, n_heads=2).double()
    for more, words in [
        ({"mask": torch.ones(8, 8).bool()}, "without a mask"),
        ({"q_pos": torch.arange(8)}, "whole texts in order"),
        ({"encoding": shaw}, "needs the weights"),
        ({"return_weights": True}, "never forms the weights"),
        ({"encoding": positions.make("alibi", d_model=24, n_heads=3)}, "built for 3 heads"),
    ]:
        with pytest.raises(ValueError, match=words):
            scaled_dot_product_attention(q, k, v, windows=2, backend="blocked", **more)
    with pytest.raises(ValueError, match="whole texts in order"):
        scaled_dot_product_attention(q[:, :, :3], k, v, windows=2, backend="blocked")


# --- what it costs ---------------------------------------------------------------------------


def flops(n, windows, backend, d=16, **options):
    """As counted by torch, which sees the products of its plain kernel only."""
    qkv = draw_qkv(n, n_heads=2, d=d, batch=1, dtype=torch.float32)
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        scaled_dot_product_attention(*qkv, windows=windows, backend=backend, **options)
    return counter.get_total_flops()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [Window(16), Window(100), Window(64, 4)])
def test_blocks_cost_in_proportion_to_the_text(window, causal):
    counted = {n: flops(n, window, "blocked", causal=causal) for n in (128, 256, 1024, 4096)}
    for n, got in counted.items():
        assert got == 2 * 4 * 16 * products(n, window, causal)  # 2 heads, QK and AV
        counts = cost.attention_flops(n, 32, 2, windows=window, causal=causal)
        assert got == counts["scores"] + counts["values"]
    assert counted[4096] < 4.2 * counted[1024]
    assert flops(1024, window, "dense", causal=causal) == 2 * 4 * 16 * 1024**2
    steps = window.width // window.dilation
    for n in (1024, 4096):  # at most twice the pairs of windows and one block around each query
        sides = 1 if causal else 2
        assert blocks_of(n, window, causal).products <= (
            1.25 * n * (sides * steps + max(steps, LEAST_BLOCK))
        )


@given(n=st.integers(1, 2000), width=st.integers(0, 10**9), dilation=st.integers(1, 10**9),
       causal=st.booleans())  # fmt: skip
def test_no_window_makes_blocks_larger_than_a_few_texts(n, width, dilation, causal):
    cut = blocks_of(n, Window(width, dilation), causal)
    assert cut.step * cut.length < 2 * n
    assert cut.n_blocks * cut.block < 2 * cut.length
    assert cut.span <= 3 * cut.length
    assert cut.products < 12 * n * n


def test_a_mask_saves_no_flops():
    n = 512
    assert flops(n, 8, "dense") == flops(n, None, "dense")
    assert flops(n, 8, "fused") == flops(n, None, "fused")


def peak_bytes(run):
    """The most memory that torch's CPU allocator held during run(), beyond what it held before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        run()
    events, stack = [], list(profiler.profiler.kineto_results.experimental_event_tree())
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag.name == "Allocation":
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    held = most = 0
    for _, size in sorted(events, key=lambda e: e[0]):
        held += size
        most = max(most, held)
    return most


@pytest.mark.filterwarnings("ignore")  # the profiler's own
@pytest.mark.parametrize("name", ["none", "alibi"])
def test_blocks_never_hold_a_matrix_of_all_pairs(name):
    encoding = positions.make(name, d_model=8, n_heads=1)
    most = {}
    for n in (2048, 8192):
        qkv = [t.detach() for t in draw_qkv(n, n_heads=1, d=8, batch=1, dtype=torch.float32)]

        def run(qkv=qkv):
            with torch.no_grad():
                scaled_dot_product_attention(*qkv, windows=16, causal=True, encoding=encoding)

        run()
        most[n] = peak_bytes(run)
    assert 0 < most[8192] < 8192**2 / 8  # not even the mask, at a byte for each pair
    assert most[8192] < 4.5 * most[2048]


# --- the cache -------------------------------------------------------------------------------


def decode(layer, x, sizes, cache, causal=True):
    """The layer's outputs when tokens arrive in portions of these sizes."""
    outs, start = [], 0
    for size in sizes:
        outs.append(layer(x[:, start : start + size], causal=causal, cache=cache))
        start += size
    assert start == x.shape[1]
    return torch.cat(outs, 1)


@pytest.mark.parametrize("name", positions.names())
@pytest.mark.parametrize("n_kv", [4, 2, 1])
@pytest.mark.parametrize("sizes", [[1] * 11, [5, 1, 1, 4], [11], [1, 10]])
def test_decoding_equals_one_pass(name, n_kv, sizes):
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=32, n_heads=4)
    layer = MultiHeadAttention(32, 4, n_kv_heads=n_kv, encoding=encoding).double()
    x = torch.randn(2, 11, 32, dtype=torch.float64)
    with torch.no_grad():
        cache = KVCache()
        torch.testing.assert_close(
            decode(layer, x, sizes, cache), layer(x, causal=True), atol=1e-11, rtol=1e-9
        )
    assert len(cache) == cache.seen == 11


@pytest.mark.parametrize("name", positions.names())
@pytest.mark.parametrize("windows", [3, [0, 1, 3, Window(2, 2)], Window(3, 3)])
@pytest.mark.parametrize("sizes", [[1] * 30, [7, 1, 1, 1, 10, 1, 9]])
def test_a_rolling_cache_of_the_window_equals_one_pass(name, windows, sizes):
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=32, n_heads=4)
    layer = MultiHeadAttention(32, 4, n_kv_heads=2, encoding=encoding, windows=windows).double()
    x = torch.randn(1, 30, 32, dtype=torch.float64)
    widest = max(w.width for w in checked_windows(windows, 4))
    with torch.no_grad():
        whole = layer(x, causal=True)
        cache = KVCache(last=widest)
        torch.testing.assert_close(
            decode(layer, x, sizes, cache), whole, atol=1e-11, rtol=1e-9
        )
        assert (len(cache), cache.seen) == (widest, 30)
        short = decode(layer, x, [1] * 30, KVCache(last=widest - 1))
    assert (short - whole).abs().max() > 1e-4  # one less is too few


@pytest.mark.parametrize("windows", [None, 4])
def test_a_model_decodes_with_a_cache_for_each_layer(windows):
    torch.manual_seed(0)
    model = TinyTransformer(20, 20, d_model=32, n_heads=4, n_kv_heads=2, windows=windows).double()
    ids = torch.randint(20, (2, 17))
    caches = [KVCache(last=windows) for _ in model.layers]
    with torch.no_grad():
        steps = [model(ids[:, i : i + 1], caches=caches) for i in range(17)]
        torch.testing.assert_close(torch.cat(steps, 1), model(ids), atol=1e-11, rtol=1e-9)


def test_without_a_causal_mask_tokens_see_their_own_portion():
    layer = MultiHeadAttention(8, 2).double()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        out = decode(layer, x, [4, 5], KVCache(), causal=False)
        torch.testing.assert_close(out[:, :4], layer(x[:, :4]))
        torch.testing.assert_close(out[:, 4:], layer(x)[:, 4:])


def test_padding_covers_what_is_kept_and_what_is_new():
    layer = MultiHeadAttention(8, 2).double()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    real = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
    with torch.no_grad():
        cache = KVCache()
        outs = [
            layer(x[:, i : i + 1], causal=True, cache=cache, padding=real[:, : i + 1])
            for i in range(6)
        ]
        torch.testing.assert_close(
            torch.cat(outs, 1), layer(x, causal=True, padding=real), atol=1e-12, rtol=1e-9
        )


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    last=st.none() | st.integers(1, 7),
)
def test_a_cache_keeps_the_newest_and_hands_out_what_is_visible(sizes, last):
    cache, whole = KVCache(last), torch.randn(2, 3, sum(sizes), 4)
    at, handed = 0, []
    for size in sizes:
        before = len(cache)
        k, v = cache.append(whole[:, :, at : at + size], -whole[:, :, at : at + size])
        at += size
        assert torch.equal(k, whole[:, :, at - size - before : at])
        assert torch.equal(v, -k)
        assert (cache.seen, len(cache)) == (at, at if last is None else min(at, last))
        handed.append((k, k.clone()))
    assert all(torch.equal(k, then) for k, then in handed)  # never overwritten


def test_room_grows_with_the_tokens_kept_not_with_the_tokens_seen():
    cache, copies = KVCache(last=16), 0
    for _ in range(1000):
        rooms = cache._kept
        cache.append(torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8))
        copies += rooms is not cache._kept
        assert cache._kept[0].shape[-2] <= 2 * 16 + 1
    assert copies <= 1000 / 16 + 6


@given(
    n=st.integers(0, 30), layers=st.integers(1, 3), n_kv=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    windows=st.sampled_from([None, 5, [1, 2, 8, Window(9, 3)], [1, None, 2, 2]]),
)  # fmt: skip
@settings(max_examples=30)
def test_bytes_are_counted_as_the_formula_says(n, layers, n_kv, dtype, windows):
    layer = MultiHeadAttention(16, 4, n_kv_heads=n_kv, windows=windows).to(dtype)
    each = checked_windows(windows, 4)
    last = None if None in each else max(w.width for w in each)
    caches = [KVCache(last) for _ in range(layers)]
    with torch.no_grad():
        for _ in range(n):
            for cache in caches:
                layer(torch.randn(1, 1, 16, dtype=dtype), causal=True, cache=cache)
    assert sum(c.nbytes for c in caches) == cost.kv_cache_bytes(
        n, n_kv, 4, n_layers=layers, bytes_per_number=dtype.itemsize, windows=windows
    )
    if n:
        k, v = caches[0]._kept
        kept = len(caches[0])
        assert caches[0].nbytes == sum(t[..., :kept, :].clone().nbytes for t in (k, v))


def test_keys_in_a_cache_carry_no_gradient():
    layer = MultiHeadAttention(8, 2, bias=False)
    x = torch.randn(1, 3, 8)
    layer(x, causal=True, cache=KVCache()).sum().backward()
    q, k, v = layer.in_proj.weight.grad.chunk(3)
    assert k.abs().max() == v.abs().max() == 0


def test_cache_errors_say_what_to_do():
    for last in (0, -3):
        with pytest.raises(ValueError, match="at least the last 1"):
            KVCache(last)
    cache = KVCache()
    cache.append(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
    for shape in [(2, 2, 1, 4), (1, 1, 1, 4), (1, 2, 1, 5)]:
        with pytest.raises(ValueError, match="start a new KVCache for a new text"):
            cache.append(torch.zeros(shape), torch.zeros(shape))
    half = torch.zeros(1, 2, 1, 4, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="torch.float32 on cpu, got torch.bfloat16"):
        cache.append(half, half)
    layer = MultiHeadAttention(8, 2)
    for more in ({"pos": torch.arange(1)}, {"context": torch.zeros(1, 2, 8)}):
        with pytest.raises(ValueError, match="knows its positions"):
            layer(torch.zeros(1, 1, 8), cache=KVCache(), **more)
    assert repr(cache) == "KVCache(3 of 3 tokens, 192 bytes)"
    assert KVCache().nbytes == 0


@pytest.mark.filterwarnings("ignore")  # the profiler's own
@pytest.mark.parametrize("name", ["none", "rope", "alibi", "shaw"])
@pytest.mark.parametrize("backend", ["auto", "dense"])
@pytest.mark.parametrize("windows", [None, [100] * 4 + [None] * 4])
def test_decoding_does_not_repeat_the_keys_that_heads_share(name, backend, windows):
    n, d, n_heads = 4096, 64, 8
    torch.manual_seed(0)
    encoding = positions.make(name, d_model=n_heads * d, n_heads=n_heads)
    q = torch.randn(1, n_heads, 1, d)
    k, v = (torch.randn(1, 1, n, d) for _ in range(2))
    options = {"encoding": encoding, "backend": backend, "causal": True, "windows": windows}
    with torch.no_grad():
        run = lambda k, v: scaled_dot_product_attention(q, k, v, **options)  # noqa: E731
        repeated = [t.expand(-1, n_heads, -1, -1).contiguous() for t in (k, v)]
        torch.testing.assert_close(run(k, v), run(*repeated), atol=1e-6, rtol=1e-5)
        held = peak_bytes(lambda: run(k, v))
        at = torch.arange(n - 1, n), torch.arange(n)
        to_turn = peak_bytes(lambda: encoding.qk(q, k, *at))  # the one key head, by its positions
    # Beyond that a few numbers for each head and key: biases, masks, weights. Copies of the keys
    # and values for each query head would be 2 * n_heads * d for each key.
    assert 0 < held <= to_turn + 4 * n * n_heads * 24


# --- sharing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_kv", [1, 2, 4, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_shared_heads_are_the_means_of_their_groups(n_kv, bias):
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 8, bias=bias, windows=[1] * 4 + [None] * 4).double()
    layer.temperature = 1.5
    shared = heads.share_heads(layer, n_kv)
    assert (shared.n_heads, shared.n_kv_heads, shared.windows) == (8, n_kv, layer.windows)
    assert shared.temperature == 1.5 and shared.in_proj.weight.dtype == torch.float64
    for name in ("w_q", "w_o"):
        assert torch.equal(getattr(shared, name), getattr(layer, name))
    for name in ("w_k", "w_v"):
        old, new = getattr(layer, name), getattr(shared, name)
        for g in range(n_kv):
            group = [h for h in range(8) if h // (8 // n_kv) == g]  # whose queries read head g
            torch.testing.assert_close(new[g], old[group].mean(0))
    assert cost.attention_parameters(16, 8, n_kv_heads=n_kv, bias=bias) == sum(
        p.numel() for p in shared.parameters()
    )


@pytest.mark.parametrize("n_kv", [1, 2])
def test_heads_that_were_equal_are_shared_without_loss(n_kv):
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 4, encoding=positions.make("rope", d_model=16, n_heads=4))
    with torch.no_grad():
        for w in (layer.w_k, layer.w_v):
            w.copy_(w[:: 4 // n_kv].repeat_interleave(4 // n_kv, 0))
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(
        heads.share_heads(layer, n_kv)(x, causal=True), layer(x, causal=True), atol=1e-6, rtol=1e-5
    )


def test_sharing_in_steps_is_sharing_at_once():
    layer = MultiHeadAttention(16, 8)
    steps = heads.share_heads(heads.share_heads(layer, 4), 2)
    torch.testing.assert_close(steps.in_proj.weight, heads.share_heads(layer, 2).in_proj.weight)


def test_a_shared_layer_in_a_model_trains_apart_from_the_old_one():
    model = TinyTransformer(9, 9, d_model=16, n_heads=4, encoding="t5")
    old = copy.deepcopy(model)
    small = copy.deepcopy(model)
    for layer in small.layers:
        layer.attention = heads.share_heads(layer.attention, 1)
    fresh = TinyTransformer(9, 9, d_model=16, n_heads=4, n_kv_heads=1, encoding="t5")
    assert small.state_dict().keys() == fresh.state_dict().keys()
    small(torch.arange(9)[None]).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        for p in small.parameters():
            p.add_(1.0)
    for name, p in model.state_dict().items():
        assert torch.equal(p, old.state_dict()[name]), name


@pytest.mark.parametrize("n_kv", [0, 3, 16])
def test_sharing_among_a_number_that_does_not_divide(n_kv):
    with pytest.raises(ValueError, match=f"{n_kv} does not divide the layer's 8"):
        heads.share_heads(MultiHeadAttention(16, 8), n_kv)
