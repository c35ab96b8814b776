"""Limits by hand, and rates that are measured, not believed."""

import pytest
import torch

from attnlab import cost, roofline

TOY = roofline.Rates("toy", 1, {torch.float32: 100e9, torch.bfloat16: 400e9}, 10e9)


def test_limits_by_hand():
    assert TOY.ridge(torch.float32) == 10 and TOY.ridge(torch.bfloat16) == 40
    work = cost.layer_cost(cost.Layer(256, 4, backend="fused"), 1024)
    limits = roofline.time_limits(work, TOY)
    assert limits.compute == work.flops["total"] / 100e9
    assert limits.memory == work.moved["total"] / 10e9
    assert limits.intensity == work.intensity and limits.ridge == 10
    assert limits.which == "compute" and limits.seconds == limits.compute


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["dense", "fused"])
@pytest.mark.parametrize("work", cost.WORK)
def test_the_limit_is_the_longer_time(work, backend, dtype):
    layer = cost.Layer(256, 4, backend=backend, dtype=dtype)
    for n in (16, 256, 4096):
        limits = roofline.time_limits(cost.layer_cost(layer, n, work), TOY)
        longer = "compute" if limits.compute > limits.memory else "memory"
        assert limits.which == longer and limits.seconds == max(limits.compute, limits.memory)


def test_decoding_waits_for_memory_and_a_batch_helps_only_the_parameters():
    layer = cost.Layer(512, 8, backend="fused", dtype=torch.bfloat16)
    one, many = (cost.layer_cost(layer, 4096, "decoding", batch=b) for b in (1, 64))
    assert one.intensity < many.intensity < 4  # the cache is read once for each text
    assert roofline.time_limits(one, TOY).which == "memory"
    grouped = cost.Layer(512, 8, n_kv_heads=1, backend="fused", dtype=torch.bfloat16)
    shared = cost.layer_cost(grouped, 4096, "decoding", batch=64)
    assert shared.intensity > 4 * many.intensity


def test_a_type_that_was_not_measured_is_named():
    work = cost.layer_cost(cost.Layer(64, 4, dtype=torch.float16), 10)
    with pytest.raises(ValueError, match="no matrix rate was measured for float16; known: float32"):
        roofline.time_limits(work, TOY)


def test_rates_are_measured():
    told = []
    rates = roofline.measure_rates(
        "cpu", (torch.float32, torch.bfloat16), rounds=3, size=96, n_bytes=2**20,
        progress=told.append,
    )  # fmt: skip
    assert told == [1 / 3, 2 / 3, 1.0]
    assert list(rates.matrix) == [torch.float32, torch.bfloat16] and rates.threads == 1
    for name, rate in {"copy": rates.copy, "float32": rates.matrix[torch.float32]}.items():
        low, high = rates.spread[name]
        assert 0 < low <= rate <= high
    assert rates.device and torch.get_num_threads() >= 1


def test_rates_double_with_the_amount_not_the_time(monkeypatch):
    """A clock that says one second: the rate is then the amount of work."""
    for seconds, rows in ((1.0, 8), (0.001, 32)):  # where products are slow, smaller ones do
        monkeypatch.setattr(roofline, "Clock", lambda device, s=seconds: lambda run, times=1: s)
        rates = roofline.measure_rates("cpu", (torch.float32,), rounds=1, size=32, n_bytes=1000)
        assert rates.matrix[torch.float32] == pytest.approx(2 * rows**3 / seconds)
        assert rates.copy == pytest.approx(2000 / seconds)


def test_no_rounds_no_rates():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        roofline.measure_rates("cpu", rounds=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_rates_of_a_gpu():
    rates = roofline.measure_rates("cuda", rounds=3, size=4096, n_bytes=2**28)
    assert rates.threads is None
    assert rates.matrix[torch.bfloat16] > rates.matrix[torch.float32] > 0 and rates.copy > 0
