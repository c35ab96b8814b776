"""The Bias Explorer without a browser: numbers, combinations, bad input, the still picture."""

import io
import itertools
import json
import math
import struct

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from attnlab import attention_weights, positions
from attnlab.explorers import BiasExplorer
from attnlab.explorers.bias import SCHEMES


def sent(explorer):
    """What the page gets: the head, and the numbers cut into the parts that bias.js expects."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    head = json.loads(explorer._view[4 : 4 + length])
    numbers = np.frombuffer(explorer._view, np.float32, offset=4 + length + -length % 4)
    numbers = torch.tensor(numbers.copy())
    if not len(numbers):
        return head, ()
    n, heads = head["n"], head["heads"]
    sizes = (n * n, n * n, heads * head["offsets"], heads * n)
    bias, weights, curves, rows = numbers.split(sizes)
    return head, (bias.view(n, n), weights.view(n, n), curves.view(heads, -1), rows.view(heads, n))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 6, 8])
@pytest.mark.parametrize("name", ["alibi", "sandwich"])
def test_bias_and_weights_of_the_fixed_schemes_are_attnlabs(name, heads, causal):
    explorer = BiasExplorer(name, length=40, n_heads=heads, causal=causal)
    encoding = positions.make(name, d_model=8 * heads, n_heads=heads)
    zero = torch.zeros(1, heads, 40, 4)
    expected = attention_weights(zero, zero, encoding=encoding, causal=causal)[0]
    torch.testing.assert_close(explorer.weights, expected)
    place = torch.arange(40)
    offset = place[None, :] - place[:, None]
    bias = encoding.relative_bias(offset).float()
    hidden = (offset > 0) & causal
    torch.testing.assert_close(explorer.bias, bias.masked_fill(hidden, -torch.inf))


def test_alibi_by_its_formula():
    explorer = BiasExplorer("alibi", length=30, n_heads=8, head=3, causal=True)
    row = explorer.weights[3, -1].double()
    expected = (torch.arange(30.0, dtype=torch.float64) / 16).softmax(0)
    torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)
    before = explorer.weights.clone()
    explorer.slope = 0.5
    assert torch.equal(explorer.weights[3], before[0])
    assert torch.equal(explorer.weights[[0, 1, 2, 4]], before[[0, 1, 2, 4]])
    assert "m = 0.5, so 1/m = 2" in explorer.notes[0]
    explorer.slope = None
    assert torch.equal(explorer.weights, before)


def test_t5_has_one_number_for_each_bucket_and_borders_between():
    explorer = BiasExplorer("t5", length=128, n_heads=2, causal=True)
    bias = explorer.bias[1]
    for (i, j), (other_i, other_j) in [((127, 0), (127, 14)), ((100, 40), (120, 60))]:
        assert bias[i, j] == bias[other_i, other_j]
    assert bias[127, 15] != bias[127, 14]  # distance 112 and 113
    assert min(explorer.borders) == -112.5 and max(explorer.borders) == -0.5
    assert len(explorer.borders) == 31
    assert "32 of 32 buckets" in explorer.notes[0] and "distance 113" in explorer.notes[0]
    explorer.causal = False
    assert min(explorer.borders) == -90.5 and max(explorer.borders) == 90.5
    assert "31 of 32 buckets" in explorer.notes[0] and "distance 91" in explorer.notes[0]


def test_shaw_clips_and_depends_on_the_query():
    explorer = BiasExplorer("shaw", length=40, clip=5)
    assert explorer.borders == [-5.5, 5.5]
    bias = explorer.bias[0]
    assert torch.equal(bias[20, :15], bias[20, :1].expand(15))
    assert torch.equal(bias[20, 26:], bias[20, 26:27].expand(14))
    assert bias[20, 21] != bias[21, 22]
    curve = sent(explorer)[1][2][0]
    explorer.query = 3
    assert not torch.equal(sent(explorer)[1][2][0], curve)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("causal", [False, True])
def test_the_page_gets_what_python_has(scheme, causal):
    explorer = BiasExplorer(scheme, length=20, n_heads=3, head=2, query=11, causal=causal)
    head, (bias, weights, curves, rows) = sent(explorer)
    hidden = explorer.bias[2] == -torch.inf
    assert hidden.any() == causal == head["masked"]
    shown = head["bottom"] + bias * (head["top"] - head["bottom"])
    torch.testing.assert_close(shown[~hidden], explorer.bias[2][~hidden], atol=1e-4, rtol=1e-5)
    assert (bias[hidden] == -1).all() and (weights[hidden] == -1).all()
    assert torch.equal(weights[~hidden], explorer.weights[2][~hidden])
    seen = ~hidden[11]
    assert torch.equal(rows[:, seen], explorer.weights[:, 11][:, seen])
    assert rows[:, ~seen].isnan().all()
    # the curve at offset j - 11 is the bias of key j
    keys = torch.arange(20)[seen]
    at = keys - 11 - head["first"]
    torch.testing.assert_close(curves[:, at], explorer.bias[:, 11][:, seen])
    torch.testing.assert_close(explorer.weights.sum(-1), torch.ones(3, 20))


def test_every_combination_of_settings_answers():
    explorer = BiasExplorer()
    for scheme, n, heads, head, query, causal, slope, buckets, most, clip in itertools.product(
        SCHEMES, (1, 2, 33), (1, 5, 16), (0, 15), (None, 0, 127), (False, True), (None, 2.0),
        (4, 32), (8, 512), (1, 32),
    ):  # fmt: skip
        with explorer.hold_trait_notifications():
            explorer.scheme, explorer.length, explorer.n_heads = scheme, n, heads
            explorer.head, explorer.query, explorer.causal = head, query, causal
            explorer.slope, explorer.n_buckets = slope, buckets
            explorer.max_distance, explorer.clip = most, clip
        setting = (scheme, n, heads, head, query, causal, slope, buckets, most, clip)
        fits = scheme != "t5" or most > (buckets // 2 if causal else buckets // 4)
        assert (explorer.message == "") == fits, (setting, explorer.message)
        assert fits or "take at least 4 buckets" in explorer.message
        if fits:
            assert explorer.weights.shape == explorer.bias.shape == (heads, n, n), setting
            assert explorer.weights.isfinite().all(), setting


BAD = {
    "scheme": ("alibye", "unknown scheme 'alibye'; known: t5, alibi"),
    "length": (0, "length = 0 is not in 1 … 128"),
    "n_heads": (99, "n_heads = 99 is not in 1 … 16"),
    "n_buckets": (7, "even number of buckets"),
    "max_distance": (5, "leave none to share"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_a_message_and_the_picture_stays(name):
    explorer = BiasExplorer("t5", length=10)
    good, before = getattr(explorer, name), explorer.weights
    bad, words = BAD[name]
    setattr(explorer, name, bad)
    assert words in explorer.message
    head, parts = sent(explorer)
    assert head["message"] == explorer.message and head["state"] == "wrong" and len(parts) == 4
    setattr(explorer, name, good)
    assert explorer.message == "" and sent(explorer)[0]["state"] == ""
    assert torch.equal(explorer.weights, before)


def test_other_bad_values():
    assert "below 0" in BiasExplorer("alibi", slope=-1.0).message
    assert "clip = 0 is not in 1 … 32" in BiasExplorer("shaw", clip=0).message
    assert BiasExplorer("alibi", clip=0).message == ""  # nobody asks for it there
    with pytest.raises(ValueError, match="unknown control 'slop'; known: scheme, length"):
        BiasExplorer(controls=("slop",))
    with pytest.raises(traitlets.TraitError, match="finite"):
        BiasExplorer().slope = math.nan
    late = BiasExplorer("t5", length=0)
    assert late.message and late._repr_mimebundle_()[0]["image/png"]
    late.length = 3
    assert late.message == "" and late.bias.shape == (8, 3, 3)


def test_controls_of_other_schemes_are_disabled_and_say_why():
    def disabled(explorer):
        return {spec["name"]: spec["why"] for spec in explorer._ui["controls"] if "why" in spec}

    explorer = BiasExplorer("alibi")
    assert disabled(explorer) == {
        "n_buckets": "only T5 has it", "max_distance": "only T5 has it", "clip": "only Shaw has it",
    }  # fmt: skip
    explorer.scheme = "shaw"
    assert set(disabled(explorer)) == {"slope", "n_buckets", "max_distance"}
    few = BiasExplorer("t5", controls=("length", "causal"))
    assert [spec["name"] for spec in few._ui["controls"]] == ["length", "causal"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_still_picture_and_repr_are_the_same_in_every_run(scheme):
    first, second = (BiasExplorer(scheme, length=24, head=1) for _ in range(2))
    (data, metadata), (again, _) = (e._repr_mimebundle_() for e in (first, second))
    assert data["text/plain"] == repr(second) and "0x" not in repr(second)
    assert data["image/png"] == again["image/png"]
    image = np.asarray(Image.open(io.BytesIO(data["image/png"])).convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 30  # something is drawn
    assert metadata["image/png"]["alt"].startswith(SCHEMES[scheme])
    first.causal = True
    assert first._repr_mimebundle_()[0]["image/png"] != data["image/png"]


def test_nothing_random_is_left_to_chance_or_disturbed():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    first = BiasExplorer("shaw", length=12)
    assert torch.equal(torch.randn(3), expected)
    assert torch.equal(first.bias, BiasExplorer("shaw", length=12).bias)
    short, long = BiasExplorer("t5", length=12), BiasExplorer("t5", length=40, n_heads=3)
    assert torch.equal(short.bias[:3], long.bias[:, :12, :12])
