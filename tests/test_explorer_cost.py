"""The Cost Explorer without a browser: its numbers are attnlab's, bad input, the still."""

import io
import itertools
import json
import struct

import pytest
import torch
from PIL import Image

from attnlab import bench, cost, positions, roofline
from attnlab.explorers import CostExplorer
from attnlab.explorers import cost as module

RATES = roofline.Rates("test device", 1, {torch.float32: 1e11, torch.bfloat16: 4e11}, 3e10)


def sent(explorer):
    """The head that the page gets."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    return json.loads(explorer._view[4 : 4 + length])


@pytest.fixture
def device(monkeypatch):
    """A device that was measured already."""
    device = module._ThisDevice()
    device.name, device.rates = "cpu", RATES
    monkeypatch.setattr(module, "THIS_DEVICE", device)
    return device


@pytest.mark.parametrize("backend", module.BACKENDS)
@pytest.mark.parametrize("work", module.WORK)
@pytest.mark.parametrize("encoding", positions.names())
def test_numbers_are_those_of_cost(encoding, work, backend):
    explorer = CostExplorer(work, 256, d_model=128, n_kv_heads=2, encoding=encoding,
                            backend=backend, dtype="bfloat16", batch=3)  # fmt: skip
    if encoding == "shaw" and backend == "fused":
        assert "backend='dense'" in explorer.message
        return
    assert explorer.message == ""
    layer = cost.Layer(
        128, 8, n_kv_heads=2, encoding=encoding, backend=backend, dtype=torch.bfloat16, max_len=256
    )
    expected = cost.layer_cost(layer, 256, work, 3)
    assert explorer.cost == expected
    assert sum(flops for flops, *_ in explorer.parts.values()) == expected.flops["total"]
    assert sum(moved for _, moved, *_ in explorer.parts.values()) == expected.moved["total"]
    assert explorer.limits == roofline.time_limits(expected, module.round_numbers())
    for operations, moved, which, seconds in explorer.parts.values():
        assert seconds == max(operations / 100e12, moved / 1e12)
        assert which == ("compute" if operations / 100e12 > moved / 1e12 else "memory")
    head = sent(explorer)
    assert sum(row[-1] for row in head["rows"]) == pytest.approx(100)
    assert len(head["points"]) == sum(flops > 0 for flops, *_ in explorer.parts.values())


def test_round_numbers_have_a_round_ridge():
    assert {module.round_numbers().ridge(getattr(torch, name)) for name in module.DTYPES} == {100}


def test_fused_attention_is_one_part():
    assert {"scores", "softmax", "values"} <= set(CostExplorer(backend="dense").parts)
    assert "attention" not in CostExplorer(backend="dense").parts
    fused = set(CostExplorer(backend="fused").parts)
    assert "attention" in fused and not {"scores", "softmax", "values"} & fused


def test_a_slider_of_powers_of_two_sends_rounded_numbers():
    explorer = CostExplorer()
    explorer.n_tokens = 131_000.0
    assert explorer.cost.flops["scores"] == 2 * 2**34 * 512
    explorer.n_tokens = 1.0
    assert explorer.cost.flops["scores"] == 2 * 512


@pytest.mark.parametrize("name, value, words", [
    ("n_heads", 7, "7 heads do not divide d_model = 512: take 1, 2, 4, 8"),
    ("n_kv_heads", 3, "3 key/value heads do not divide 8 heads: take 1, 2, 4, 8."),
    ("n_tokens", 0, "n_tokens = 0 is not in 1"),
    ("batch", 1000, "batch = 1000 is not in 1"),
    ("encoding", "rotary", "unknown encoding 'rotary'"),
    ("work", "sleep", "unknown work 'sleep'"),
    ("device", "abacus", "unknown device 'abacus'"),
])  # fmt: skip
def test_bad_values_are_messages_and_the_last_picture_stays(name, value, words):
    explorer = CostExplorer()
    before = sent(explorer)["rows"]
    setattr(explorer, name, value)
    assert words in explorer.message
    head = sent(explorer)
    assert head["state"] == "wrong" and head["rows"] == before
    setattr(explorer, name, getattr(CostExplorer(), name))
    assert explorer.message == "" and sent(explorer)["state"] == ""


def test_rope_needs_pairs():
    explorer = CostExplorer(d_model=64, n_heads=64, encoding="rope")
    assert "d_head = 1 is odd" in explorer.message


def test_unknown_controls_are_refused():
    with pytest.raises(ValueError, match="unknown control 'colour'"):
        CostExplorer(controls=("work", "colour"))
    names = [c["name"] for c in CostExplorer(controls="dtype")._ui["controls"]]
    assert names == ["dtype"]


def test_this_device_is_measured_when_it_is_chosen(monkeypatch):
    device = module._ThisDevice()
    monkeypatch.setattr(module, "THIS_DEVICE", device)
    monkeypatch.setattr(module.roofline, "measure_rates", lambda name, rounds: RATES)
    explorer = CostExplorer(n_tokens=16, d_model=64)
    assert device.rates is None  # not before
    explorer.device = "here"
    device.wait(60)  # the rates, and then the time of this work
    assert device.rates is RATES
    assert "Measured here" in sent(explorer)["timing"] and sent(explorer)["achieved"] > 0
    assert sent(explorer)["device"] == "test device" and explorer.message == ""
    explorer.device = "round"
    assert sent(explorer)["timing"] == "" and sent(explorer)["achieved"] is None


def test_small_work_is_timed_and_large_work_is_not(device):
    explorer = CostExplorer("decoding", 64, d_model=64, backend="fused", device="here")
    device.wait(60)
    (seconds,) = device.seconds.values()
    assert seconds > 0 and sent(explorer)["achieved"] == pytest.approx(
        explorer.cost.flops["total"] / seconds
    )
    with explorer.hold_trait_notifications():
        explorer.d_model, explorer.n_tokens = 4096, 2**17
    assert "Too large" in sent(explorer)["timing"] and len(device.seconds) == 1


def test_what_the_device_cannot_do_is_said(device, monkeypatch):
    def refuse(*work, device):
        raise RuntimeError("not implemented for this type")

    monkeypatch.setattr(module.roofline, "workload", refuse)
    explorer = CostExplorer(n_tokens=16, d_model=64, device="here")
    device.wait(60)
    assert "cannot do it in this type" in sent(explorer)["timing"]
    explorer.dtype = "float16"  # TEST RATES have none
    assert "no matrix rate was measured for float16" in explorer.message


def test_stored_devices_can_be_chosen(monkeypatch):
    monkeypatch.setattr(bench, "stored", lambda: [{"device": "Stored One"}, {"device": "Empty"}])

    def rates(result):
        if result["device"] == "Empty":
            raise ValueError("this result has no rates")
        return RATES

    monkeypatch.setattr(bench, "rates", rates)
    explorer = CostExplorer(device="Stored One")
    assert explorer.message == "" and explorer.limits.ridge == RATES.ridge(torch.float32)
    (spec,) = (c for c in explorer._ui["controls"] if c["name"] == "device")
    assert [key for key, _ in spec["options"]] == ["round", "here", "Stored One"]


def test_the_still_and_the_words():
    explorer = CostExplorer("training", encoding="t5")
    image = Image.open(io.BytesIO(explorer.still()))
    assert image.size == (1000, 500) and len(image.getcolors(1_000_000)) > 50
    assert explorer.still() == CostExplorer("training", encoding="t5").still()
    words = explorer.alt()
    assert "training step, 2,048 tokens" in words and "limit is memory" in words
    assert repr(explorer).startswith("CostExplorer(work='training', n_tokens=2048.0")
    bundle = explorer._repr_mimebundle_()
    assert bundle[1]["image/png"]["alt"] == words


def test_every_choice_and_end_of_a_slider_works():
    explorer = CostExplorer()
    controls = [c for c in explorer._ui["controls"] if c["name"] != "device"]
    ends = {
        c["name"]: [key for key, _ in c["options"]] if c["kind"] == "choice"
        else [2.0 ** c["min"], 2.0 ** c["max"]] if c.get("log") else [c["min"], c["max"]]
        for c in controls
    }  # fmt: skip
    for first, second in itertools.combinations(ends, 2):
        for a, b in itertools.product(ends[first], ends[second]):
            fresh = CostExplorer(**{first: a, second: b})
            allowed = ("", "do not divide", "backend='dense'", "pairs")
            assert any(part in fresh.message for part in allowed[1:]) or fresh.message == ""
            assert "Error" not in fresh.message
