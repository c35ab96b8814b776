"""Costs against torch's own counters, over every encoding, kind of head, back end and work."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count

from attnlab import MultiHeadAttention, cost, positions
from attnlab.cost import Layer
from attnlab.measure import peak_bytes
from attnlab.roofline import workload
from attnlab.windows import Window

HEADS = [{}, {"n_kv_heads": 1}, {"n_kv_heads": 2, "d_head": 10}]


def counted(layer, n, work, batch=1):
    """FLOPs by torch's counter, which sees only plain products: so the fused kernel is replaced by
    torch's own plain one."""
    once = workload(layer, n, work, batch)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        once()
    return counter.get_total_flops()


def test_every_encoding_has_its_costs():
    assert list(cost.ENCODINGS) == positions.names()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("d_model, n_heads, d_head, n_kv_heads", [
    (64, 8, None, None), (64, 8, None, 2), (48, 5, 7, 1), (512, 8, 64, 8),
])  # fmt: skip
def test_parameters_are_those_of_the_module(d_model, n_heads, d_head, n_kv_heads, bias):
    mha = MultiHeadAttention(d_model, n_heads, d_head=d_head, n_kv_heads=n_kv_heads, bias=bias)
    number = sum(p.numel() for p in mha.parameters())
    assert cost.attention_parameters(d_model, n_heads, d_head, n_kv_heads, bias) == number


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("name", positions.names())
def test_parameters_with_an_encoding_are_those_of_the_module(name, heads):
    layer = Layer(48, 4, encoding=name, max_len=77, **heads)
    encoding = positions.make(name, d_model=48, n_heads=4, d_head=layer.d_head, max_len=77)
    module = MultiHeadAttention(48, 4, encoding=encoding, **heads)
    number = sum(p.numel() for p in module.parameters())
    assert cost.layer_parameters(layer) == number


@pytest.mark.parametrize("n_kv_heads", [1, 2, 8])
def test_flops_are_those_torch_counts(n_kv_heads):
    mha = MultiHeadAttention(64, 8, n_kv_heads=n_kv_heads)
    mha.backend = "dense"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mha(torch.randn(1, 33, 64))
    flops = cost.attention_flops(33, 64, 8, n_kv_heads=n_kv_heads)
    assert flops["total"] == counter.get_total_flops()


@pytest.mark.parametrize("work", cost.WORK)
@pytest.mark.parametrize("backend", ["dense", "fused"])
@pytest.mark.parametrize("name", positions.names())
def test_products_of_every_encoding_are_those_torch_counts(name, backend, work):
    if name == "shaw" and backend == "fused":
        with pytest.raises(ValueError, match="needs the weights: backend='dense'"):
            Layer(48, 4, encoding=name, backend=backend)
        return
    for heads in HEADS:
        layer = Layer(48, 4, encoding=name, backend=backend, **heads)
        flops = cost.layer_flops(layer, 33, work, batch=2)
        # torch's plain kernel keeps the weights, so it forms no scores a second time
        assert flops["total"] - flops.get("recomputed", 0) == counted(layer, 33, work, batch=2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("windows", [3, [3, None, 3, None], Window(40, 2)])
@pytest.mark.parametrize("work", ["forward", "training"])
def test_products_of_windows_are_those_torch_counts(windows, causal, work):
    for backend in ("dense", "blocked"):
        layer = Layer(48, 4, backend=backend, windows=windows, causal=causal)
        flops = cost.layer_flops(layer, 300, work)
        assert flops["total"] - flops.get("recomputed", 0) == counted(layer, 300, work)


def test_a_layer_and_the_short_form_count_alike():
    for options in ({}, {"windows": 20, "causal": True}):
        layer = Layer(64, 8, n_kv_heads=2, backend="blocked", **options)
        short = cost.attention_flops(500, 64, 8, n_kv_heads=2, **options)
        long = cost.layer_flops(layer, 500)
        assert all(long[part] == number for part, number in short.items())


def test_the_backward_pass_is_twice_the_forward_pass_and_a_fused_kernel_forms_scores_again():
    forward = cost.layer_flops(Layer(64, 4), 50)["total"]
    for layer in (Layer(64, 4), Layer(64, 4, backend="fused")):
        flops = cost.layer_flops(layer, 50, "training")
        assert flops["backward"] == 2 * forward
        shape = (1, layer.n_heads, 50, layer.d_head)
        of_attention = 2 * (flops["scores"] + flops["values"]) + flops["recomputed"]
        if layer.backend == "fused":
            assert of_attention == sdpa_backward_flop_count(shape, shape, shape, shape)
        else:
            assert flops["recomputed"] == 0


def test_a_fused_kernel_leaves_out_what_is_hidden_and_dense_does_not():
    dense, fused = (
        cost.layer_flops(Layer(64, 4, backend=b, causal=True), 1000) for b in ("dense", "fused")
    )
    assert fused["scores"] == dense["scores"] * 1001 // 2000
    assert dense["scores"] == cost.layer_flops(Layer(64, 4), 1000)["scores"]


def close(layer, n, work, batch=1, share=0.15, slack=2**20):
    """Whether the predicted peak is the measured one within this share and the working space of
    torch's kernels."""
    measured = peak_bytes(workload(layer, n, work, batch), torch.device("cpu"))
    predicted = cost.peak_memory(layer, n, work, batch)
    mine = predicted["total"] - predicted["cache"]  # the cache was there before
    assert abs(mine - measured) <= share * measured + slack, (mine / 2**20, measured / 2**20)


# Dense Sandwich holds 128 float64 numbers for each pair of positions while its bias is made: 200
# tokens are enough of it.
LENGTHS = {("sandwich", "dense"): 200}


@pytest.mark.parametrize("work", ["forward", "training"])
@pytest.mark.parametrize("backend", ["dense", "fused"])
@pytest.mark.parametrize("name", positions.names())
def test_memory_of_every_encoding_is_what_torch_allocates(name, backend, work):
    if name == "shaw" and backend == "fused":
        return
    n = LENGTHS.get((name, backend), 1024)
    close(Layer(256, 4, encoding=name, backend=backend, max_len=n), n, work)


@pytest.mark.parametrize("options", [
    {"n_kv_heads": 1}, {"causal": True}, {"d_head": 32}, {"dtype": torch.bfloat16}, {"windows": 50},
], ids=lambda options: "-".join(options))  # fmt: skip
@pytest.mark.parametrize("work", ["forward", "training"])
@pytest.mark.parametrize("name", ["none", "rope", "alibi"])
def test_memory_of_every_kind_of_head_is_what_torch_allocates(name, work, options):
    close(Layer(256, 4, encoding=name, **options), 512, work, batch=2)
    if "windows" in options:
        close(Layer(256, 4, encoding=name, backend="blocked", **options), 1024, work, share=0.25)
    else:
        close(Layer(256, 4, encoding=name, backend="fused", **options), 512, work, batch=2)


@pytest.mark.parametrize("options", [{}, {"n_kv_heads": 1}, {"dtype": torch.bfloat16}])
@pytest.mark.parametrize("name", ["none", "sinusoidal", "t5", "rope", "alibi", "shaw"])
def test_memory_of_decoding_is_what_torch_allocates(name, options):
    close(Layer(256, 4, encoding=name, max_len=2048, **options), 2048, "decoding", slack=2**16)


def test_only_dense_memory_grows_with_the_square_of_the_tokens():
    for work in ("forward", "training"):
        dense, fused = (
            [cost.peak_memory(Layer(512, 8, backend=b), n, work)["total"] for n in (2**14, 2**15)]
            for b in ("dense", "fused")
        )
        assert dense[1] / dense[0] > 3.9 and 1.9 < fused[1] / fused[0] <= 2.0


def test_the_cache_of_decoding_is_that_of_the_cache_formula():
    layer = Layer(64, 8, n_kv_heads=2, dtype=torch.bfloat16)
    assert cost.peak_memory(layer, 100, "decoding")["cache"] == cost.kv_cache_bytes(100, 2, 8)
    local = Layer(64, 8, n_kv_heads=2, windows=9, causal=True)
    # the last 9 tokens are kept, the newest brings its own
    assert cost.layer_flops(local, 100, "decoding")["scores"] == 2 * 8 * 8 * 10


def test_moved_bytes_by_hand():
    # d_model 4, one head, 3 tokens, float32: x, W and Q, K, V; the matrix is 3 x 3
    moved = cost.bytes_moved(Layer(4, 1), 3)
    assert moved["projections"] == 4 * (3 * 4 + 4 * 12 + 3 * 12)
    assert moved["scores"] == 4 * (3 * 4 + 3 * 4 + 9) == moved["values"]
    assert moved["softmax"] == 4 * 5 * 9
    assert moved["output"] == 4 * (3 * 4 + 4 * 4 + 3 * 4)
    fused = cost.bytes_moved(Layer(4, 1, backend="fused"), 3)
    assert (fused["scores"], fused["softmax"], fused["values"]) == (0, 0, 4 * 4 * 12)
    # decoding reads all parameters and the cache for one token
    step = cost.bytes_moved(Layer(4, 1, backend="fused"), 1000, "decoding")
    assert step["values"] == 4 * (4 + 2 * 4000 + 4)
    assert step["projections"] == 4 * (4 + 4 * 12 + 12)


def test_cost_puts_all_together():
    layer = Layer(64, 4, encoding="rope", backend="fused", dtype=torch.bfloat16)
    total = cost.layer_cost(layer, 100, "training", batch=3)
    assert total.flops == cost.layer_flops(layer, 100, "training", 3)
    assert total.elementwise == cost.elementwise_flops(layer, 100, "training", 3)
    assert total.moved == cost.bytes_moved(layer, 100, "training", 3)
    assert total.peak == cost.peak_memory(layer, 100, "training", 3)
    assert total.parameters == 4 * 64 * 64 + 4 * 64
    assert total.intensity == total.flops["total"] / total.moved["total"]
    for parts in (total.flops, total.elementwise, total.moved, total.peak):
        assert sum(parts.values()) == 2 * parts["total"]


def test_rope_has_few_operations_and_sines_need_no_parameters():
    layer = Layer(512, 8, encoding="rope")
    share = cost.elementwise_flops(layer, 2048)["encoding"] / (
        cost.layer_flops(layer, 2048)["projections"] + cost.layer_flops(layer, 2048)["output"]
    )
    assert share == pytest.approx(6 / (8 * 512))
    assert cost.layer_parameters(layer) == cost.layer_parameters(Layer(512, 8))


def test_cost_errors_say_what_to_do():
    with pytest.raises(ValueError, match="n_heads = 3 does not divide d_model = 64: give d_head"):
        cost.attention_parameters(64, 3)
    with pytest.raises(ValueError, match="n_kv_heads = 3 does not divide n_heads = 8"):
        cost.attention_flops(10, 64, 8, n_kv_heads=3)
    with pytest.raises(ValueError, match="n_kv_heads = 0 does not divide"):
        cost.attention_parameters(64, 0)
    with pytest.raises(ValueError, match="unknown encoding 'rotary'; known: none"):
        Layer(64, 8, encoding="rotary")
    with pytest.raises(ValueError, match="unknown back end 'flash'; known: dense"):
        Layer(64, 8, backend="flash")
    with pytest.raises(ValueError, match="must be at least 1"):
        Layer(64, 0)
    with pytest.raises(ValueError, match="windows needs"):
        Layer(64, 8, windows=[1, 2])
    with pytest.raises(ValueError, match="unknown work 'inference'; known: forward"):
        cost.layer_cost(Layer(64, 8), 10, "inference")
    with pytest.raises(ValueError, match="n_tokens and batch must be at least 1"):
        cost.layer_cost(Layer(64, 8), 0)
