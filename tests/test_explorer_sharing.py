"""The Sharing Explorer without a browser: its numbers are attnlab's, bad input, the still."""

import io
import itertools
import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab import cost
from attnlab.attention import MultiHeadAttention
from attnlab.cache import KVCache
from attnlab.explorers import SharingExplorer, sharing
from attnlab.windows import Window


def sent(explorer):
    """What the page gets: the head, and the numbers."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    head = json.loads(explorer._view[4 : 4 + length])
    numbers = np.frombuffer(explorer._view, np.float32, offset=4 + length + -length % 4)
    return head, torch.tensor(numbers.copy())


@pytest.mark.parametrize("kind", sharing.KINDS)
@pytest.mark.parametrize("causal", [False, True])
def test_patterns_are_what_a_layer_attends_to(kind, causal):
    explorer = SharingExplorer(4, 2, kind, width=2, n_tokens=12, causal=causal)
    layer = MultiHeadAttention(16, 4, n_kv_heads=2, windows=explorer.windows)
    with torch.no_grad():
        _, weights = layer(torch.randn(1, 12, 16), causal=causal, return_weights=True)
    assert torch.equal(explorer.visible, weights[0] > 0)
    head, numbers = sent(explorer)
    maps = numbers[: 4 * 144].view(4, 12, 12)
    assert torch.equal(maps >= 0, explorer.visible)
    assert maps[1].max() == maps[0].max() < maps[2].max()  # a colour for each key/value head
    assert head["reads"] == [0, 0, 1, 1]


@pytest.mark.parametrize("causal, expected", [(True, [4, 7, 10]), (False, [7, 13, 19])])
def test_reach_grows_by_a_window_a_layer(causal, expected):
    explorer = SharingExplorer(kind="local", width=3, n_layers=3, n_tokens=40, causal=causal)
    assert explorer.reach.sum(-1).tolist() == expected == sent(explorer)[0]["reached"]
    everything = SharingExplorer(kind="global", n_tokens=40, n_layers=2, causal=causal)
    assert everything.reach.all()


def test_windows_of_every_kind():
    assert sharing.windows_of("dilated", 2, 3) == [Window(6, 2)] * 2
    assert sharing.windows_of("mixed", 3, 4) == [Window(4), Window(4), None]
    assert sharing.windows_of("global", 2, 3) == [None, None]
    assert sharing.windows_of("hierarchical", 2, 3) == [Window(3), Window(6, 2)]


def test_costs_are_those_of_cost_and_of_a_cache():
    explorer = SharingExplorer(8, 2, "local", width=3, n_layers=3, context=300)
    costs = explorer.costs
    caches = [KVCache(last=3) for _ in range(3)]
    for cache in caches:
        k = torch.zeros(1, 2, 300, 64, dtype=torch.bfloat16)
        cache.append(k, k)
    assert costs["KV cache of all layers"][0] == sum(cache.nbytes for cache in caches)
    assert costs["KV cache of all layers"][1] == cost.kv_cache_bytes(300, 8, 64, n_layers=3)
    layer = MultiHeadAttention(512, 8, n_kv_heads=2, bias=False)
    assert costs["parameters of a layer"][0] == sum(p.numel() for p in layer.parameters())
    whole = cost.attention_flops(300, 512, 8)
    blocks = cost.attention_flops(300, 512, 8, windows=3, causal=True)
    assert costs["operations, windows as a mask"] == (2 * whole["scores"],) * 2
    assert costs["operations, windows in blocks"] == (2 * blocks["scores"], 2 * whole["scores"])
    explorer.causal = False
    assert explorer.costs["KV cache of all layers"] == (None, None)
    assert "no cache" in " ".join(explorer.notes)


def test_every_combination_of_settings_answers():
    explorer = SharingExplorer()
    for kind, h, g, width, layers, n, causal, context in itertools.product(
        sharing.KINDS, (1, 6, 16), (1, 3, 16), (1, 16), (1, 6), (8, 64), (False, True), (256, 2**17)
    ):
        with explorer.hold_trait_notifications():
            explorer.kind, explorer.n_heads, explorer.n_kv_heads = kind, h, g
            explorer.width, explorer.n_layers, explorer.n_tokens = width, layers, n
            explorer.causal, explorer.context = causal, context
        setting = (kind, h, g, width, layers, n, causal, context)
        head, numbers = sent(explorer)
        if h % g:
            assert head["state"] == "wrong" and "do not divide" in explorer.message, setting
            continue
        assert (head["state"], explorer.message) == ("", ""), setting
        assert numbers.isfinite().all() and numbers.numel() == h * n * n + layers * n
        for name, (here, whole) in explorer.costs.items():
            assert here is None or 0 < here <= whole, (setting, name)
        held = {c["name"] for c in explorer._controls() if c.get("why")}
        assert held == ({"width"} if kind == "global" else set())


BAD = {
    "n_heads": (0, "n_heads = 0 is not in 1 … 16"),
    "n_kv_heads": (3, "3 key/value heads do not divide 8 query heads: take 1, 2, 4, 8"),
    "kind": ("round", "unknown kind 'round'"),
    "width": (99, "width = 99 is not in 1 … 16"),
    "n_layers": (0, "n_layers = 0 is not in"),
    "n_tokens": (2, "n_tokens = 2 is not in"),
    "context": (float("nan"), "context = nan is not in"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_a_message_and_the_picture_stays(name):
    explorer = SharingExplorer()
    good, before = getattr(explorer, name), explorer.visible
    bad, words = BAD[name]
    setattr(explorer, name, bad)
    assert words in explorer.message
    head, numbers = sent(explorer)
    assert head["state"] == "wrong" and numbers.numel() == 8 * 24 * 24 + 3 * 24
    setattr(explorer, name, good)
    assert explorer.message == "" and torch.equal(explorer.visible, before)


def test_unknown_controls_are_named():
    with pytest.raises(ValueError, match="unknown control 'colour'"):
        SharingExplorer(controls=("colour",))
    assert [c["name"] for c in SharingExplorer(controls=("kind",))._controls()] == ["kind"]


@pytest.mark.parametrize("settings", [
    {}, {"n_heads": 16, "n_kv_heads": 4, "kind": "hierarchical"}, {"n_heads": 1, "n_kv_heads": 1},
    {"causal": False},
])  # fmt: skip
def test_the_still_and_its_words(settings):
    explorer = SharingExplorer(**settings)
    data, metadata = explorer._repr_mimebundle_()
    image = Image.open(io.BytesIO(data["image/png"]))
    assert image.size == (1000, 500) and len(image.convert("RGB").getcolors(10**6)) > 10
    alt = metadata["image/png"]["alt"]
    assert "query heads share" in alt and "tokens. Costs: KV cache" in alt
    assert data["text/plain"] == repr(explorer) and " at 0x" not in repr(explorer)
    assert SharingExplorer(**settings).still() == data["image/png"]
