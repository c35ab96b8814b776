"""The Memory Explorer without a browser: its formulas, its times, bad input, the still image."""

import io
import itertools
import json
import math
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab.bench import statistics
from attnlab.explorers import MemoryExplorer, memory
from attnlab.explorers.memory import BYTES, Times, longest
from attnlab.measure import peak_bytes
from attnlab.stats import summary

CPU = torch.device("cpu")
TIMES = {
    "a card": Times(16, 64, {"dense": {1024: 0.1, 2048: 0.4}, "rows": {1024: 0.2, 4096: 3.2},
                             "fused": {1024: 0.05, 2048: 0.2, 4096: 0.8}}),
    "a processor": Times(2, 64, {"rows": {1024: 0.3}}),
}  # fmt: skip


def sent(explorer):
    """What the page gets: the head, and the numbers."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    head = json.loads(explorer._view[4 : 4 + length])
    numbers = np.frombuffer(explorer._view, np.float32, offset=4 + length + -length % 4)
    return head, torch.tensor(numbers.copy())


@pytest.mark.parametrize(("n", "n_heads", "d"), [(1024, 2, 64), (2048, 4, 32)])
def test_the_formulas_are_what_the_routes_hold(n, n_heads, d):
    """Within a fifth, on a CPU."""
    q, k = torch.randn(2, 1, n_heads, n, d)
    works = {
        "dense": lambda: statistics.dense(q, k, causal=True),
        "rows": lambda: summary(q, k, causal=True),
        "fused": lambda: summary(q, k, causal=True, only=("entropy", "distance"), route="fused"),
    }
    given = memory.inputs(n, n_heads, d)
    assert given == q.nbytes + k.nbytes
    for route, work in works.items():
        held = peak_bytes(work, CPU) + given
        assert 0.8 < held / BYTES[route](n, n_heads, d) < 1.25, route


@pytest.mark.parametrize("route", BYTES)
def test_the_longest_text_is_the_last_that_fits(route):
    for n_heads, gib in ((1, 0.25), (16, 16), (64, 256)):
        n = longest(route, n_heads, 64, gib * 2**30)
        assert BYTES[route](n, n_heads, 64) <= gib * 2**30 < BYTES[route](n + 1, n_heads, 64)


def test_bytes_and_table():
    explorer = MemoryExplorer(4096, n_heads=2, d_head=32, memory=8, times={})
    head, numbers = sent(explorer)
    lines = numbers.view(4, -1)
    at = head["x"].index(12)
    for line, (route, of) in zip(lines, BYTES.items(), strict=True):
        assert explorer.held[route] == of(4096, 2, 32)
        assert 2 ** line[at].item() == pytest.approx(of(4096, 2, 32), rel=1e-4)
    assert head["border"] == 33 and head["at"] == 12
    assert head["rows"][0][3] == f"{longest('dense', 2, 32, 2**33):,}"


def test_times_are_the_measured_ones_and_a_guess_says_so():
    explorer = MemoryExplorer(2048, show="time", times=TIMES)
    head, numbers = sent(explorer)
    assert explorer.device == "a card" and head["x"] == [10, 11, 12]
    dense, rows, _ = numbers.view(3, 3)
    assert dense[:2].tolist() == pytest.approx([math.log2(0.1), math.log2(0.4)])
    assert dense[2].isnan() and rows[1].isnan()
    assert [row[1] for row in head["rows"]] == ["0.4 s", "about 0.8 s", "0.2 s"]
    explorer.device = "a processor"
    assert [row[1] for row in sent(explorer)[0]["rows"]] == ["about 1.2 s"]


def test_stored_results_are_read():
    row = {"route": "rows", "bias": "none", "causal": True, "n": 64, "n_heads": 2}
    rows = [
        {**row, "pass": {"seconds": 0.5}}, {**row, "n": 128, "pass": {"left_out": "too large"}},
        {**row, "causal": False, "pass": {"seconds": 9.0}},
        {**row, "bias": "t5", "pass": {"seconds": 9.0}},
    ]  # fmt: skip
    results = [{"device": "a card", "parts": {"statistics": {"rows": rows}}},
               {"device": "another", "parts": {}}]  # fmt: skip
    assert memory.stored_times(results) == {"a card": Times(2, 64, {"rows": {64: 0.5}})}
    assert isinstance(memory.stored_times(), dict)


@pytest.mark.parametrize("times", [TIMES, {}], ids=["times", "no times"])
def test_every_combination_of_settings_answers(times):
    explorer = MemoryExplorer(times=times)
    for show, n, heads, d, gib in itertools.product(
        memory.SHOW, (256, 16_400.0, 2**22), (1, 7, 64), (8, 128), (0.25, 256)
    ):
        with explorer.hold_trait_notifications():
            explorer.show, explorer.n_tokens, explorer.n_heads = show, n, heads
            explorer.d_head, explorer.memory = d, gib
        head, numbers = sent(explorer)
        if show == "time" and not times:
            assert head["state"] == "wrong" and "no times are stored" in explorer.message
            continue
        assert (head["state"], explorer.message) == ("", "")
        assert numbers.numel() == len(head["x"]) * len(head["names"])
        assert len(head["rows"]) == len(head["names"]) == len(head["looks"])
        assert all(len(row) == len(head["columns"]) for row in head["rows"])
    explorer.show = "bytes"
    assert explorer.message == ""


@pytest.mark.parametrize("name, bad, words", [
    ("show", "colours", "unknown way to show 'colours'"),
    ("device", "a toaster", "unknown device 'a toaster'"),
    ("n_tokens", 3, "n_tokens = 3 is not in 256 … 4.1943e+06"),
    ("n_heads", 0, "n_heads = 0 is not in 1 … 64"),
    ("memory", 1000, "memory = 1000 is not in 0.25 … 256"),
])  # fmt: skip
def test_a_bad_value_is_a_message_and_the_picture_stays(name, bad, words):
    explorer = MemoryExplorer(times=TIMES)
    good, before = getattr(explorer, name), sent(explorer)[1]
    setattr(explorer, name, bad)
    assert words in explorer.message
    head, numbers = sent(explorer)
    assert head["state"] == "wrong" and torch.equal(numbers, before)
    setattr(explorer, name, good)
    assert explorer.message == ""


def test_what_the_constructor_refuses():
    with pytest.raises(ValueError, match="unknown control 'colour'"):
        MemoryExplorer(controls=("colour",))
    assert [c["name"] for c in MemoryExplorer(controls=("memory",))._controls()] == ["memory"]


@pytest.mark.parametrize("settings", [{}, {"show": "time"}, {"n_heads": 64, "memory": 0.25}])
def test_the_still_and_its_words(settings):
    explorer = MemoryExplorer(times=TIMES, **settings)
    data, metadata = explorer._repr_mimebundle_()
    image = Image.open(io.BytesIO(data["image/png"]))
    assert image.size == (1000, 500) and len(image.convert("RGB").getcolors(10**6)) > 10
    alt = metadata["image/png"]["alt"]
    assert alt.startswith("Lines over the number of tokens") and "some rows at a time" in alt
    assert data["text/plain"] == repr(explorer) and " at 0x" not in repr(explorer)
    assert MemoryExplorer(times=TIMES, **settings).still() == data["image/png"]
