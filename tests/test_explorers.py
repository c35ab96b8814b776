"""The explorers without a browser: state, bad input, the still picture, the numbers."""

import io
import itertools
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

import explorer_samples
from attnlab import attention, cost, explorers, positions, stats
from attnlab.explorers import AttentionExplorer, ShapesExplorer
from attnlab.explorers import _sources as sources

TEXT = "The cat sat on the mat."


@pytest.fixture(scope="module")
def encoder():
    return explorer_samples.encoder(3, std=0.5)


def sent(explorer):
    """What the page gets: the head, and the numbers."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    head = json.loads(explorer._view[4 : 4 + length])
    numbers = np.frombuffer(explorer._view, np.float32, offset=4 + length + -length % 4)
    return head, torch.tensor(numbers.copy())


def sent_scores(explorer):
    head, numbers = sent(explorer)
    return numbers.view(head["heads"], head["n"], head["n"])


@pytest.mark.parametrize("encoding", positions.names())
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_weights_of_the_model_are_those_of_a_forward_pass(encoder, encoding, causal, temperature):
    # The forward pass knows nothing of the explorer: the encoder with this encoding everywhere,
    # mask and temperature in layer 1 only.
    explorer = AttentionExplorer(
        TEXT, model=encoder, layer=1, encoding=encoding, causal=causal, temperature=temperature
    )
    assert explorer.message == ""
    model = encoder.model
    place = model.encoding if encoding == "learned" else sources.make_encoding(encoding, 24, 4, 6)
    layer = model.layers[1]
    with sources.swapped(model, place), torch.no_grad():
        try:
            layer.causal, layer.attention.temperature = causal, temperature
            with attention.capture(model) as seen:
                model(encoder.tokenize(TEXT).ids)
        finally:
            layer.causal, layer.attention.temperature = False, 1.0
    expected = seen["layers.1.attention"][0]
    # float32, fused kernels before layer 1 here and dense ones there
    torch.testing.assert_close(explorer.weights, expected, atol=1e-5, rtol=0)
    entropy = stats.entropy(expected).mean(-1)
    torch.testing.assert_close(explorer.entropy, entropy, atol=1e-4, rtol=0)
    assert explorer.tokens == encoder.tokenize(TEXT).tokens


def test_the_page_gets_scores_from_which_the_weights_follow(encoder):
    explorer = AttentionExplorer(TEXT, model=encoder, layer=2, causal=True, temperature=0.5)
    scores = sent_scores(explorer) / 0.5
    n = scores.shape[-1]
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    torch.testing.assert_close(explorer.weights, expected, atol=1e-6, rtol=0)


def test_random_projections_have_unit_scores_and_no_memory():
    words = " ".join(f"word{i}" for i in range(64))
    explorer = AttentionExplorer(words, source="random", n_heads=16, d_model=512)
    scores = sent_scores(explorer)
    assert scores.std() == pytest.approx(1, abs=0.1)
    assert scores.mean() == pytest.approx(0, abs=0.1)
    again = AttentionExplorer(words, source="random", n_heads=16, d_model=512)
    assert torch.equal(explorer.weights, again.weights)
    torch.randn(3)  # the global generator plays no part
    assert torch.equal(again.weights, AttentionExplorer(
        words, source="random", n_heads=16, d_model=512).weights)  # fmt: skip


def test_the_same_word_gets_the_same_vector():
    explorer = AttentionExplorer("a rose is a rose", source="random", encoding="none")
    w = explorer.weights
    assert torch.equal(w[:, 0], w[:, 3]) and torch.equal(w[:, 1], w[:, 4])
    explorer.encoding = "sinusoidal"
    assert not torch.allclose(explorer.weights[:, 0], explorer.weights[:, 3])


def test_every_combination_of_settings_answers(encoder):
    explorer = AttentionExplorer(TEXT, source="random")
    for heads, d_model, d_head, name, causal, temperature in itertools.product(
        (1, 3, 4, 16), (8, 64, 512), (None, 1, 5, 128), positions.names(), (False, True),
        (1 / 16, 16.0),
    ):  # fmt: skip
        with explorer.hold_trait_notifications():
            explorer.n_heads, explorer.d_model, explorer.d_head = heads, d_model, d_head
            explorer.encoding, explorer.causal = name, causal
            explorer.temperature = temperature
        setting = (heads, d_model, d_head, name, causal, temperature)
        size = d_model / heads if d_head is None else d_head
        fits = size == int(size) and not (name == "rope" and size % 2)
        assert (explorer.message == "") == fits, (setting, explorer.message)
        head, _ = sent(explorer)
        assert head["state"] == ("" if fits else "wrong"), setting
        if fits:
            assert explorer.weights.shape == (heads, 7, 7), setting
            torch.testing.assert_close(explorer.weights.sum(-1), torch.ones(heads, 7))
            assert not causal or explorer.weights.triu(1).abs().max() == 0, setting


BAD = {
    "n_heads": (3, "3 heads do not divide d_model = 64"),
    "d_model": (100_000, "at most 512"),
    "d_head": (0, "at least 1"),
    "encoding": ("roap", "unknown encoding 'roap'"),
    "temperature": (0.0, "temperature must be above 0"),
    "text": (" \n ", "type a text"),
    "source": ("elsewhere", "unknown source 'elsewhere'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_a_message_and_the_picture_stays(name):
    explorer = AttentionExplorer(TEXT, source="random")
    good, before = getattr(explorer, name), explorer.weights
    bad, words = BAD[name]
    setattr(explorer, name, bad)
    assert words in explorer.message
    head, numbers = sent(explorer)
    assert head["message"] == explorer.message and head["state"] == "wrong"
    assert numbers.numel() == 8 * 7 * 7  # the last good picture
    setattr(explorer, name, good)
    assert explorer.message == "" and sent(explorer)[0]["state"] == ""
    assert torch.equal(explorer.weights, before)


def test_a_bad_value_from_the_start_shows_no_picture_until_it_is_mended():
    explorer = AttentionExplorer("", source="random", n_heads=0)
    assert explorer.message and sent(explorer)[1].numel() == 0
    assert explorer._repr_mimebundle_()[0]["image/png"]
    explorer.text, explorer.n_heads = "now there is text", 4
    assert explorer.message == "" and explorer.weights.shape == (4, 4, 4)


def test_an_odd_d_head_with_rope_is_explained():
    explorer = AttentionExplorer(TEXT, source="random", encoding="rope", d_head=5)
    assert "d_head must be even" in explorer.message


def test_unknown_names_in_the_constructor_say_what_is_known():
    with pytest.raises(ValueError, match="unknown control 'tempature'; known: text, source"):
        AttentionExplorer(source="random", controls=("tempature",))
    with pytest.raises(ValueError, match="unknown source 'modle'; known: model, random"):
        AttentionExplorer(source="modle")
    with pytest.raises(traitlets.TraitError, match="finite"):
        AttentionExplorer(source="random").temperature = float("inf")


def test_an_error_nobody_foresaw_is_a_message_too(monkeypatch):
    explorer = AttentionExplorer(TEXT, source="random")
    monkeypatch.setattr(sources, "from_random", lambda *_, **__: 1 / 0)
    explorer.causal = True
    assert explorer.message == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("source", ["random", "model"])
@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "مرحبا بالعالم", "नमस्ते दुनिया",
     "👩‍👩‍👧 👍🏽 naïve", "\ud83d half", "a\x00b\tc", "$x_1$ %",
     "word " * 10_000, "x" * 50_000],
)  # fmt: skip
def test_any_text_is_text(encoder, source, text):
    explorer = AttentionExplorer(text, source=source, model=encoder)
    assert sent(explorer)[0]["state"] == ""
    assert explorer.weights.isfinite().all() and 0 < len(explorer.tokens) <= 64
    for label, token in zip(sent(explorer)[0]["tokens"], explorer.tokens, strict=True):
        assert label == token or (len(label) == 24 and token.startswith(label[:23]))
    data, _ = explorer._repr_mimebundle_()
    json.dumps(data, default=lambda png: len(png), ensure_ascii=False).encode()
    assert len(data["text/plain"]) < 400


def test_a_long_text_shows_its_first_tokens_and_says_so(encoder):
    explorer = AttentionExplorer("word " * 10_000, source="random")
    assert explorer.message == "Showing the first 64 of 10,000 tokens."
    assert explorer.tokens == ["word"] * 64
    explorer = AttentionExplorer("word " * 100, model=encoder)
    assert explorer.message == "Showing the first 64 of 102 tokens."
    assert explorer.tokens[0] == "[CLS]" and explorer.tokens[-1] == "[SEP]"


def test_words_keep_their_marks():
    family = "👩‍👩‍👧"
    assert sources.split_words("It's naïve, isn't it?") == [
        "It", "'", "s", "naïve", ",", "isn", "'", "t", "it", "?",
    ]  # fmt: skip
    assert sources.split_words(f"{family}👍🏽x") == [family, "👍🏽", "x"]
    assert sources.split_words("नमस्ते cafe\u0301") == ["नमस्ते", "cafe\u0301"]
    assert sources.split_words("") == []


def test_a_random_model_says_so_in_every_picture(encoder):
    explorer = AttentionExplorer(TEXT, model=encoder)
    for layer in range(3):
        explorer.layer = layer
        head, _ = sent(explorer)
        assert head["where"] == f", layer {layer} — RANDOM PARAMETERS"
        assert "made for a test" in head["notes"][0]
    assert "RANDOM PARAMETERS" in explorer._repr_mimebundle_()[1]["image/png"]["alt"]


def test_a_replaced_encoding_leaves_the_model_as_it_was(encoder):
    own = encoder.model.encoding
    explorer = AttentionExplorer(TEXT, model=encoder, layer=2, encoding="rope")
    assert encoder.model.encoding is own
    assert "trained with learned" in " ".join(explorer.notes)
    explorer.layer = 7
    assert explorer.message == "The model has no layer 7: take 0 … 2."


def test_controls_that_mean_nothing_are_disabled_and_say_why(encoder):
    def controls(explorer):
        return {spec["name"]: spec for spec in explorer._ui["controls"]}

    explorer = AttentionExplorer(TEXT, model=encoder, controls=None)
    shown = controls(explorer)
    assert shown["n_heads"]["fixed"] == 4 and shown["d_model"]["fixed"] == 24
    assert "trained" in shown["n_heads"]["why"] and "why" not in shown["layer"]
    assert shown["layer"]["max"] == 2
    explorer.source = "random"
    shown = controls(explorer)
    assert "why" not in shown["n_heads"] and "real model" in shown["layer"]["why"]
    assert "d_head" not in shown
    few = AttentionExplorer(TEXT, source="random", controls=("d_head", "temperature"))
    assert list(controls(few)) == ["d_head", "temperature"]


def test_changing_the_source_takes_its_usual_encoding(encoder):
    explorer = AttentionExplorer(TEXT, model=encoder)
    assert explorer.encoding == "learned"
    explorer.source = "random"
    assert explorer.encoding == "none"
    explorer.source = "model"
    assert explorer.encoding == "learned" and explorer.message == ""


def test_still_picture_and_repr_are_the_same_in_every_run(encoder):
    first, second = (AttentionExplorer(TEXT, model=encoder, layer=1, head=3) for _ in range(2))
    (data, metadata), (again, _) = (e._repr_mimebundle_() for e in (first, second))
    assert data["text/plain"] == repr(second) and "0x" not in repr(second)
    assert data["image/png"] == again["image/png"]
    image = np.asarray(Image.open(io.BytesIO(data["image/png"])).convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 30  # something is drawn
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == first.model_id
    assert metadata["image/png"]["alt"].startswith("Heat maps of the attention weights of 4 heads")
    first.layer = 2
    assert first._repr_mimebundle_()[0]["image/png"] != data["image/png"]


def test_what_the_page_can_draw_itself_sends_nothing(encoder):
    explorer = AttentionExplorer(TEXT, source="random")
    views = []
    explorer.observe(lambda change: views.append(change.new), "_view")
    explorer.temperature, explorer.causal = 0.5, True
    assert views == []
    assert explorer.weights[0, 0, 0] == 1  # Python's own weights follow all the same
    explorer.set_state({"text": TEXT + " ", "_asked": 7})
    # the same words: the page hears at least that it was heard, and what is set now
    assert views == [] and explorer._heard["asked"] == 7
    assert explorer._heard["settings"].items() >= {"text": TEXT + " ", "temperature": 0.5}.items()
    explorer.d_model = 72
    assert len(views) == 1


def test_the_model_loads_in_the_background(encoder, monkeypatch):
    import threading

    started, allowed = threading.Event(), threading.Event()

    def load(progress):
        started.set()
        progress(20 * 2**20, 80 * 2**20)
        assert allowed.wait(30)
        return encoder

    monkeypatch.setattr("attnlab.pretrained.load_encoder", load)
    monkeypatch.setattr(sources, "PRETRAINED", sources.Loader())
    explorer = AttentionExplorer(TEXT)
    assert started.wait(30)
    assert explorer.message.startswith("Loading the model")
    assert sent(explorer)[0]["state"] == "wait"
    explorer.source = "random"  # meanwhile everything else works
    assert explorer.message == "" and len(explorer.weights) == 8
    explorer.source = "model"
    assert explorer.message == "Loading the model … 20 of 80 MB"
    allowed.set()
    explorer._repr_mimebundle_()  # waits for it
    assert explorer.message == "" and len(explorer.weights) == 4


def test_a_model_that_does_not_load_is_a_message_and_can_be_tried_again(encoder, monkeypatch):
    answers = [MemoryError("not enough memory"), encoder]

    def load(progress):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("attnlab.pretrained.load_encoder", load)
    monkeypatch.setattr(sources, "PRETRAINED", sources.Loader())
    explorer = AttentionExplorer(TEXT)
    explorer._wait()
    assert explorer.message == "MemoryError: not enough memory"
    explorer.text = "another try"
    explorer._wait()
    assert explorer.message == "" and explorer.tokens[0] == "[CLS]"


def test_shapes_are_those_of_the_layer():
    explorer = ShapesExplorer(n_tokens=5, d_model=32, n_heads=4, d_head=6)
    layer = attention.MultiHeadAttention(32, 4, d_head=6, bias=False)
    assert explorer.parameters == sum(p.numel() for p in layer.parameters())
    x = torch.zeros(1, 5, 32)
    out, weights = layer(x, return_weights=True)
    q, k, v = layer.heads(x)
    side_by_side = (5, 4 * 6)
    assert explorer.shapes == {
        "X": x[0].shape, "Q_0": q[0, 0].shape, "K_0ᵀ": k[0, 0].T.shape, "V_0": v[0, 0].shape,
        "A_0": weights[0, 0].shape, "head_0": (weights @ v)[0, 0].shape, "out": out[0].shape,
        "W_Q": layer.w_q.transpose(0, 1).flatten(1).shape, "W_K": (32, 24), "W_V": (32, 24),
        "W_O": layer.w_o.flatten(0, 1).shape,
        "Q": side_by_side, "K": side_by_side, "V": side_by_side, "concat": side_by_side,
    }  # fmt: skip
    assert explorer.flops == cost.attention_flops(5, 32, 4, 6)
    assert "4 · 6 = 24, not d_model = 32" in explorer.message
    head, _ = sent(explorer)
    assert head["state"] == "" and head["flops"][-1] == ["total", explorer.flops["total"]]
    assert head["parameters"].endswith(f"{explorer.parameters:,}")


def test_shapes_flag_sizes_that_do_not_fit():
    explorer = ShapesExplorer()
    assert explorer.message == "" and explorer.parameters == 4 * 512**2
    explorer.n_heads = 7
    assert "7 does not divide d_model = 512" in explorer.message
    assert sent(explorer)[0]["state"] == "wrong"
    explorer.d_head = 64
    assert "7 · 64 = 448, not d_model = 512" in explorer.message
    assert sent(explorer)[0]["state"] == ""
    explorer.n_tokens = 0
    assert explorer.message == "n_tokens = 0 is not in 1 … 256"
    explorer.n_tokens, explorer.d_head, explorer.n_heads = 16, None, 8
    assert explorer.message == "" and explorer.parameters == 4 * 512**2


def test_shapes_still_picture():
    data, metadata = ShapesExplorer(n_tokens=4)._repr_mimebundle_()
    assert data["image/png"] == ShapesExplorer(n_tokens=4)._repr_mimebundle_()[0]["image/png"]
    assert "W_O 512 × 512" in metadata["image/png"]["alt"]
    assert data["text/plain"] == "ShapesExplorer(n_tokens=4, d_model=512, n_heads=8, d_head=None)"


@pytest.mark.parametrize("name", [n for n in explorers.__all__ if n.endswith("Explorer")])
def test_scripts_are_complete_and_load_nothing_from_elsewhere(name):
    script = getattr(explorers, name)._esm
    assert script.count("export default") == 1 and "__COLOURS__" not in script
    script = script.replace("http://www.w3.org/2000/svg", "")  # a name, not a place
    for word in ("import ", "http:", "https:", "innerHTML", "eval("):
        assert word not in script, word


def test_no_two_stylesheets_speak_of_the_same_class():
    """A page with several explorers has all their styles, each with explorer.css before it, in the
    order in which they came: of two equally strong rules the last one would hold."""
    folder = Path(explorers.__file__).parent
    rules = {}
    for file in sorted(folder.glob("*.css")):
        for name in set(re.findall(r"(?m)^\s*(\.al-[\w-]+) \{", file.read_text("utf-8"))):
            rules.setdefault(name, []).append(file.name)
    assert len(rules) > 50
    assert {name: files for name, files in rules.items() if len(files) > 1} == {}
