"""The Race Explorer without a browser: its lines, bad input, the still image."""

import io
import itertools
import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab.explorers import RaceExplorer, race
from attnlab.explorers.race import Curves
from attnlab.races import ENCODINGS


def sent(explorer):
    """What the page gets: the head, and the numbers."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    head = json.loads(explorer._view[4 : 4 + length])
    numbers = np.frombuffer(explorer._view, np.float32, offset=4 + length + -length % 4)
    return head, torch.tensor(numbers.copy())


@pytest.fixture(scope="module")
def tasks():
    generator = torch.Generator().manual_seed(0)
    first = {name: torch.rand(3, 6, generator=generator) for name in ENCODINGS}
    first["rope, linear"] = torch.rand(3, 6, generator=generator)
    first["rope, linear"][:, -1] = torch.nan
    second = {name: torch.rand(3, 4, generator=generator) for name in ("none", "t5")}
    return {
        "loss": Curves([16, 32, 48, 64, 80, 96], first, "position", "loss", columns=(0, 3, 5)),
        "needle": Curves([1, 2, 3, 4], second, "distance", "found", columns=(0, 1), y=(0, 1)),
    }


def test_mean_and_band_are_those_of_the_seeds(tasks):
    explorer = RaceExplorer(tasks)
    head, numbers = sent(explorer)
    assert head["names"] == [race.LABELS[name] for name in ENCODINGS] and head["band"]
    drawn = numbers.view(8, 3, 6)
    for line, name in zip(drawn, ENCODINGS, strict=True):
        values = tasks["loss"].values[name]
        expected = torch.stack([values.mean(0), values.amin(0), values.amax(0)])
        assert torch.equal(line, expected) and torch.equal(explorer.lines[name], expected)
    value, low, high = drawn[0, :, 3].tolist()
    assert head["rows"][0][1] == f"{value:.2f} [{low:.2f}, {high:.2f}]"
    assert head["columns"] == ["16", "64", "96"]


def test_one_seed_is_that_seed(tasks):
    explorer = RaceExplorer(tasks, show="seed 1")
    head, numbers = sent(explorer)
    assert not head["band"]
    assert torch.equal(numbers.view(8, 3, 6)[3, 0], tasks["loss"].values["shaw"][1])
    assert "bands overlap" not in " ".join(explorer.notes)


def test_scaling_takes_the_place_of_rope_only(tasks):
    explorer = RaceExplorer(tasks, scaling="linear", on=("rope", "alibi"))
    head, _ = sent(explorer)
    assert head["names"] == ["RoPE, interpolated", "ALiBi"]
    assert torch.equal(explorer.lines["rope"][0, :5],
                       tasks["loss"].values["rope, linear"].mean(0)[:5])  # fmt: skip
    assert head["rows"][0][2] == "–"
    explorer.scaling = "yarn"  # not given: as trained
    assert sent(explorer)[0]["names"] == ["RoPE", "ALiBi"]
    explorer.rope = False
    assert [c["why"] for c in explorer._controls() if c.get("why")] == [
        "nothing that is on can be scaled here"
    ]


def test_every_combination_of_settings_answers(tasks):
    explorer = RaceExplorer(tasks)
    for task, show, scaling, some, other in itertools.product(
        tasks, ("mean", "seed 0", "seed 2"), race.SCALINGS, (False, True), (False, True)
    ):
        with explorer.hold_trait_notifications():
            explorer.task, explorer.show, explorer.scaling = task, show, scaling
            explorer.none = explorer.rope = explorer.alibi = some
            explorer.t5 = explorer.shaw = explorer.learned = other
            explorer.sandwich = explorer.sinusoidal = False
        head, numbers = sent(explorer)
        assert (head["state"], explorer.message) == ("", ""), (task, show, scaling)
        points = len(head["x"])
        assert numbers.numel() == 3 * points * len(head["names"]) == 3 * points * len(head["rows"])
        assert ("Switch an encoding on." in head["notes"]) == (not (some or other))


@pytest.mark.parametrize("name, bad, words", [
    ("task", "chess", "unknown task 'chess'; known: loss, needle"),
    ("show", "seed 9", "unknown way to show 'seed 9'"),
    ("scaling", "magic", "unknown scaling 'magic'"),
])  # fmt: skip
def test_a_bad_value_is_a_message_and_the_picture_stays(tasks, name, bad, words):
    explorer = RaceExplorer(tasks)
    good, before = getattr(explorer, name), sent(explorer)[1]
    setattr(explorer, name, bad)
    assert words in explorer.message
    head, numbers = sent(explorer)
    assert head["state"] == "wrong" and torch.equal(numbers, before)
    setattr(explorer, name, good)
    assert explorer.message == ""


def test_what_the_constructor_refuses(tasks):
    with pytest.raises(ValueError, match="unknown control 'colour'"):
        RaceExplorer(tasks, controls=("colour",))
    with pytest.raises(ValueError, match="unknown encoding 'fire'"):
        RaceExplorer(tasks, on=("fire",))
    with pytest.raises(ValueError, match="no tasks"):
        RaceExplorer({})
    assert [c["name"] for c in RaceExplorer(tasks, controls=("t5",))._controls()] == ["t5"]


def test_lines_can_be_told_apart_without_colours():
    assert len({(colour, tuple(dash)) for colour, dash in race.LOOKS.values()}) == len(ENCODINGS)
    assert set(race.LOOKS) == set(race.LABELS) == set(ENCODINGS)


@pytest.mark.parametrize("settings", [
    {}, {"show": "seed 0"}, {"scaling": "linear"}, {"task": "needle"}, {"on": ()},
])  # fmt: skip
def test_the_still_and_its_words(tasks, settings):
    explorer = RaceExplorer(tasks, **settings)
    data, metadata = explorer._repr_mimebundle_()
    image = Image.open(io.BytesIO(data["image/png"]))
    assert image.size == (1000, 500) and len(image.convert("RGB").getcolors(10**6)) > 10
    alt = metadata["image/png"]["alt"]
    assert alt.startswith("Lines of the encodings") and "Dotted: the training length" in alt
    assert data["text/plain"] == repr(explorer) and " at 0x" not in repr(explorer)
    assert RaceExplorer(tasks, **settings).still() == data["image/png"]
