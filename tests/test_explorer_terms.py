"""The Terms Explorer without a browser: its terms are the model's, switches and presets agree."""

import io
import itertools
import json
import struct

import pytest
import torch
from PIL import Image

from attnlab import decompose, positions
from attnlab.attention import capture
from attnlab.explorers import TermsExplorer, terms
from attnlab.models import TinyTransformer
from attnlab.pretrained import load_encoder

TEXT = "badcafe"


class Letters:
    """a … h as ids 0 … 7; other characters are left out."""

    def encode(self, text):
        return torch.tensor([[ord(c) - 97 for c in text if c in "abcdefgh"]]).long().reshape(1, -1)

    def decode(self, ids):
        return [chr(97 + i) for i in ids.tolist()]


def tiny(causal=False, encoding="sinusoidal", **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyTransformer(
            8, 3, d_model=16, n_heads=2, n_layers=1, encoding=encoding, causal=causal, **options
        )


def make(text=TEXT, **options):
    return TermsExplorer(text, **{"model": tiny(), "language": Letters(), **options})


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(allow_download=False)


def sent(explorer):
    """What the page gets: the head, and the numbers."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    head = json.loads(explorer._view[4 : 4 + length])
    start = 4 + length + (-length) % 4
    numbers = explorer._view[start:]
    count = len(numbers) // 4
    return head, torch.tensor(struct.unpack(f"<{count}f", numbers))


@pytest.mark.parametrize("causal", [False, True])
def test_all_terms_together_are_the_models_weights(causal):
    model = tiny(causal)
    explorer = make(model=model)
    with torch.no_grad(), capture(model) as seen:
        model(Letters().encode(TEXT))
    for head in range(2):
        explorer.head = head
        weights = seen["layers.0.attention"][0, head]
        torch.testing.assert_close(explorer.weights, weights, atol=1e-6, rtol=0)
        assert explorer.moved == pytest.approx(0, abs=1e-7)


def test_the_real_models_first_layer(encoder):
    text = "The cat sat on the mat."
    explorer = TermsExplorer(text, model=encoder, head=2)
    torch.testing.assert_close(explorer.weights, encoder.weights(text)[0][2], atol=1e-5, rtol=0)
    assert explorer.terms.shape == (5, 12, len(explorer.tokens), len(explorer.tokens))
    if not encoder.is_random:
        assert explorer.shares[3, 2] > 0.9
        explorer.preset = "0001"
        back = explorer.weights.diagonal(-1)
        assert back.mean() > 0.9, "places alone make it a previous-token head"
        explorer.preset = "1110"
        assert explorer.weights.diagonal(-1).mean() < 0.3 and explorer.moved > 0.5


@pytest.mark.parametrize("causal", [False, True])
def test_every_switch_in_every_position(causal):
    model = tiny(causal)
    explorer = make(model=model)
    parts = decompose.first_layer_parts(model, Letters().encode(TEXT))
    every = decompose.score_terms(model.layers[0].attention, parts)[:, 0]
    torch.testing.assert_close(explorer.terms, every)
    seen = torch.ones(7, 7, dtype=torch.bool).tril() if causal else torch.ones(7, 7).bool()
    for keep in itertools.product((False, True), repeat=5):
        for head, centred in itertools.product((0, 1), (False, True)):
            with explorer.hold_trait_notifications():
                explorer.head, explorer.centred = head, centred
                for name, on in zip(terms.SWITCHES, keep, strict=True):
                    setattr(explorer, name, on)
            assert explorer.message == "" and sent(explorer)[0]["state"] == ""
            chosen = sum((every[i, head] for i in range(5) if keep[i]), torch.zeros(7, 7))
            expected = chosen.masked_fill(~seen, -torch.inf).softmax(-1)
            torch.testing.assert_close(explorer.weights, expected, atol=1e-6, rtol=0)
            shares = decompose.variance_shares(every.double(), centred, seen)
            torch.testing.assert_close(explorer.shares, shares.float())
            key = "".join("01"[on] for on in keep[:4])
            assert explorer.preset == (key if key in terms.PRESETS else terms.OWN)


def test_presets_move_the_switches_and_switches_the_preset():
    explorer = make()
    assert explorer.preset == "1111"
    for preset in terms.PRESETS:
        explorer.preset = preset
        assert "".join("01"[on] for on in explorer.keep[:4]) == preset and explorer.rest
    assert {"1111", "1110", "1001"} <= set(terms.PRESETS)
    assert all(any(n in text for text in terms.PRESETS.values()) for n in decompose.VARIANTS)
    explorer.preset = "1001"
    explorer.pc = True
    assert explorer.preset == terms.OWN and explorer.keep == [True, False, True, True, True]
    explorer.preset = terms.OWN
    assert explorer.keep == [True, False, True, True, True]


def test_the_page_gets_terms_and_shares_once():
    explorer = make()
    head, numbers = sent(explorer)
    torch.testing.assert_close(numbers.view(5, 2, 7, 7), explorer.terms)
    assert head["tokens"] == list(TEXT) and head["heads"] == 2
    for name, seen_only in (("centred", True), ("raw", False)):
        expected = decompose.variance_shares(explorer.terms.double(), seen_only).float()
        torch.testing.assert_close(torch.tensor(head["shares"][name]), expected, atol=1e-4, rtol=0)
    before = explorer._view
    for name in ("cc", "pp", "rest", "centred"):
        setattr(explorer, name, False)
    explorer.head = 1
    assert explorer._view == before, "switching is drawn by the page"


def test_several_models_and_one_that_is_trained_further():
    model = tiny()
    explorer = make(model={"one": model, "causal": tiny(True)})
    assert [c["name"] for c in explorer._controls()][0] == "source"
    first = explorer.weights
    explorer.source = "causal"
    assert not explorer.weights.triu(1).any()
    explorer.source = "one"
    assert torch.equal(explorer.weights, first)
    with torch.no_grad():
        model.words.weight.mul_(3)
    explorer.refresh()
    assert not torch.equal(explorer.weights, first)


def test_no_variance_no_shares():
    explorer = make("a")
    assert explorer.message == "" and explorer.shares.isnan().all()
    assert sent(explorer)[0]["shares"]["centred"] == [[None, None]] * 5
    explorer.still()
    assert "Shares" in explorer.alt()


def test_long_texts_are_cut_and_it_is_said(encoder):
    explorer = make("abcdefgh" * 20)
    assert len(explorer.tokens) == terms.MOST_TOKENS
    assert explorer.message == "Showing 32 of 160 tokens."
    explorer = TermsExplorer("the cat " * 50, model=encoder)
    assert len(explorer.tokens) == 32 and explorer.tokens[-1] == "[SEP]"
    assert explorer.message == "Showing 32 of 102 tokens."


BAD = {
    "text": (" \n ", "type a text"),
    "head": (2, "There is no head 2: take 0 … 1."),
    "source": ("other", "unknown source 'other'"),
    "preset": ("2222", "unknown preset '2222'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_a_message_and_the_picture_stays(name):
    explorer = make()
    good, before = getattr(explorer, name), explorer.weights
    bad, words = BAD[name]
    setattr(explorer, name, bad)
    assert words in explorer.message
    head, numbers = sent(explorer)
    assert head["state"] == "wrong" and numbers.numel() == 5 * 2 * 49
    setattr(explorer, name, good)
    assert explorer.message == "" and torch.equal(explorer.weights, before)


@pytest.mark.parametrize("model, text, words", [
    (tiny(encoding="rope"), TEXT, "brings no position in at the input"),
    (torch.nn.Linear(2, 2), TEXT, "Linear is not a model that can be taken apart"),
    (tiny(windows=2), TEXT, "windows"),
    (tiny(), "xyz", "knows none of these words"),
])  # fmt: skip
def test_what_cannot_be_taken_apart_is_said(model, text, words):
    explorer = make(text, model=model)
    assert words in explorer.message and sent(explorer)[0]["empty"]
    explorer.still()


def test_without_a_language_a_module_reads_nothing():
    assert "give the explorer a language" in TermsExplorer(model=tiny()).message


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="unknown control 'colour'"):
        make(controls=("colour",))
    with pytest.raises(ValueError, match="unknown source 'x'"):
        make(source="x")
    with pytest.raises(ValueError, match="empty dict"):
        make(model={})


def test_controls_can_be_chosen():
    shown = [c["name"] for c in make(controls=("head", "cc", "pp"))._controls()]
    assert shown == ["head", "cc", "pp"]
    one = tiny()
    one.layers[0].attention = type(one.layers[0].attention)(16, 1)
    slider = next(c for c in make(model=one)._controls() if c["name"] == "head")
    assert slider["why"] == "the layer has one head"


def test_still_and_words():
    explorer = make(pc=False)
    image = Image.open(io.BytesIO(explorer.still()))
    assert image.size == (1000, 500)
    assert explorer.still() == explorer.still()
    alt = explorer.alt()
    assert "content–content, content–position, position–position, rest" in alt and "0x" not in alt
    assert repr(explorer) == repr(make(pc=False)) and "pc=False" in repr(explorer)
    assert repr(positions.Sinusoidal(4))  # nothing global was touched
