"""The Waves Explorer without a browser: its numbers, its messages, its still picture."""

import io
import itertools
import json
import math
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab.explorers import WavesExplorer
from attnlab.positions import Sinusoidal


def sent(explorer):
    """What the page gets: the head, and the numbers."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    head = json.loads(explorer._view[4 : 4 + length])
    numbers = np.frombuffer(explorer._view, np.float32, offset=4 + length + -length % 4)
    return head, torch.tensor(numbers.copy())


@pytest.mark.parametrize("d", [2, 8, 64, 512])
@pytest.mark.parametrize("base", [1.0, 2.0, 10_000.0, 1e6])
@pytest.mark.parametrize("length", [2, 100])
def test_numbers_are_those_of_the_encoding(d, base, length):
    explorer = WavesExplorer(d, base=base, length=length, position=1, offset=1, pair=0)
    assert explorer.message.startswith("" if length > 2 else "Position p + k = 2 lies below")
    codes = Sinusoidal(d, base).table(torch.arange(length), torch.float64)
    head, numbers = sent(explorer)
    table, distances, products = numbers.split([length * d, length, length])
    torch.testing.assert_close(2 * table.view(length, d) - 1, codes.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(explorer.distances, (codes - codes[0]).norm(dim=-1), rtol=0,
                               atol=1e-7)  # fmt: skip
    torch.testing.assert_close(explorer.products, codes @ codes[0], rtol=0, atol=1e-9 * d)
    torch.testing.assert_close(distances.double(), explorer.distances, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(products.double(), explorer.products, rtol=1e-6, atol=1e-4)
    assert (head["n"], head["d"], head["state"]) == (length, d, "")
    second = Sinusoidal(d, base).table(torch.tensor([2]))[0, :2]
    torch.testing.assert_close(torch.tensor(head["second"]), second)


def test_wavelength_is_one_turn_of_the_pair():
    explorer = WavesExplorer(64, pair=3)
    encoding = Sinusoidal(64)
    here, there = encoding.table(torch.tensor([5.0, 5.0 + explorer.wavelength]), torch.float64)
    torch.testing.assert_close(here[6:8], there[6:8])
    assert WavesExplorer(64, pair=0).wavelength == pytest.approx(2 * math.pi)


def test_every_place_of_the_sliders_is_a_picture():
    explorer = WavesExplorer()
    ends = {c["name"]: (c["min"], c["max"]) for c in explorer._controls()}
    ends["base"] = (2, 2**20)
    for d, base, length in itertools.product(ends["d_model"], ends["base"], ends["length"]):
        explorer.d_model, explorer.base, explorer.length = d, base, length
        now = {c["name"]: (c["min"], c["max"]) for c in explorer._controls()}
        for p, k, i in itertools.product(now["position"], now["offset"], now["pair"]):
            explorer.position, explorer.offset, explorer.pair = p, k, i
            assert sent(explorer)[0]["state"] == "", explorer.message
            if p + k >= length:
                assert "below the part of the table" in explorer.message or "Shown" in (
                    explorer.message)  # fmt: skip


def test_settings_beyond_the_table_are_shown_at_its_edge():
    explorer = WavesExplorer(64, length=100, position=90, offset=5, pair=20)
    assert explorer.message == ""
    explorer.d_model = 8
    assert explorer.message == ("Pairs go up to 3, positions and offsets to 99. "
                                "Shown: pair 20 → 3.")  # fmt: skip
    explorer.length = 50
    assert "pair 20 → 3, position 90 → 49" in explorer.message
    explorer.d_model, explorer.length = 64, 100
    assert explorer.message == ""
    explorer.offset = 20
    assert explorer.message.startswith("Position p + k = 110 lies below")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("d_model", 7, "needs an even d_model"),
        ("d_model", 0, "d_model = 0 is not in 2 … 512"),
        ("d_model", 514, "d_model = 514 is not in 2 … 512"),
        ("base", 0.0, "base must be above 0"),
        ("base", -3.0, "base must be above 0"),
        ("base", math.inf, "base = inf is not in"),
        ("base", math.nan, "base = nan is not in"),
        ("length", 1, "length = 1 is not in 2 … 256"),
        ("length", 10**6, "length = 1000000 is not in 2 … 256"),
        ("position", -1, "position = -1 is not in 0, 1, …"),
        ("offset", -1, "offset = -1 is not in 0, 1, …"),
        ("pair", -1, "pair = -1 is not in 0, 1, …"),
    ],
)
def test_bad_values_are_a_message_and_the_last_picture_stays(name, value, message):
    explorer = WavesExplorer()
    before = sent(explorer)[1]
    good = getattr(explorer, name)
    setattr(explorer, name, value)
    assert message in explorer.message and "\n" not in explorer.message
    head, after = sent(explorer)
    assert head["state"] == "wrong" and torch.equal(before, after)
    setattr(explorer, name, good)
    assert explorer.message == "" and sent(explorer)[0]["state"] == ""


def test_controls():
    explorer = WavesExplorer(controls=("base", "offset"))
    assert [c["name"] for c in explorer._ui["controls"]] == ["base", "offset"]
    with pytest.raises(ValueError, match="unknown control 'text'"):
        WavesExplorer(controls=("text",))
    assert {c["name"]: c["max"] for c in WavesExplorer(8)._ui["controls"]}["pair"] == 3


def test_still_picture_and_repr_are_the_same_in_every_run():
    first, second = WavesExplorer(16), WavesExplorer(16)
    (data, metadata), (again, _) = (e._repr_mimebundle_() for e in (first, second))
    assert data["text/plain"] == repr(second) == (
        "WavesExplorer(d_model=16, base=10000.0, length=128, position=20, offset=5, pair=4)"
    )
    assert data["image/png"] == again["image/png"]
    image = np.asarray(Image.open(io.BytesIO(data["image/png"])).convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 30
    assert "offset 5 marked" in metadata["image/png"]["alt"]
    assert "distance 1.93, dot product 6.14" in first.alt()
    first.position = 30
    assert first._repr_mimebundle_()[0]["image/png"] != data["image/png"]
