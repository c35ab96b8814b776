"""The Heads Explorer without a browser: numbers, messages, the still picture."""

import io
import itertools
import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image

import explorer_samples
from attnlab import heads, links, stats, tasks
from attnlab.attention import capture
from attnlab.explorers import HeadsExplorer
from attnlab.explorers import _sources as sources
from attnlab.explorers.heads import COLOURS, MOST_TOKENS, weights_of
from attnlab.models import TinyTransformer
from attnlab.windows import Window

TEXT = "The cat sat on the mat."
LINKS = {"verb->subject": [(3, 2)], "noun->determiner": [(2, 1), (6, 5)]}


@pytest.fixture(scope="module")
def encoder():
    return explorer_samples.encoder(3, std=0.5)


@pytest.fixture(scope="module")
def english():
    return tasks.TinyEnglish()


def tiny(english, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2} | options
        return TinyTransformer(english.vocab_size, english.vocab_size, **sizes)


def batch(english, size=3):
    return english.batch(size, torch.Generator().manual_seed(1))


def sent(explorer):
    """What the page gets: the head, and the numbers."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    head = json.loads(explorer._view[4 : 4 + length])
    numbers = np.frombuffer(explorer._view, np.float32, offset=4 + length + -length % 4)
    return head, torch.tensor(numbers.copy())


def test_the_page_gets_the_weights_of_a_forward_pass(encoder):
    explorer = HeadsExplorer(TEXT, model=encoder, texts=[], links=LINKS)
    assert explorer.message == ""
    expected = torch.stack(encoder.weights(TEXT))
    head, numbers = sent(explorer)
    assert head["layers"] == [4, 4, 4] and head["tokens"] == encoder.tokenize(TEXT).tokens
    n = head["n"]
    torch.testing.assert_close(numbers.view(3, 4, n, n), expected, atol=0, rtol=0)
    torch.testing.assert_close(torch.stack(explorer.weights), expected, atol=0, rtol=0)
    entropy = stats.normalised_entropy(expected).mean(-1).flatten()
    distance = stats.attention_distance(expected).mean(-1).flatten()
    torch.testing.assert_close(torch.tensor(head["entropy"]), entropy, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.tensor(head["distance"]), distance, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(explorer.entropy), entropy)
    found = {r["name"]: r for r in head["relations"]}
    assert list(found) == ["all", *LINKS]
    for name, pairs in {"all": sum(LINKS.values(), []), **LINKS}.items():
        assert [tuple(p) for p in found[name]["links"]] == pairs
        mass = torch.cat([stats.gold_mass(w, torch.tensor(pairs)) for w in expected])
        torch.testing.assert_close(torch.tensor(found[name]["mass"]), mass, atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.cat(explorer.gold_mass[name]), mass)
        assert found[name]["uniform"] == pytest.approx(1 / n)


def test_a_causal_model_with_windows_hides_what_it_cannot_see(english):
    model = tiny(english, windows=[2, Window(4, dilation=2)])
    ids = batch(english).ids[:1]
    words = english.decode(ids[0])
    explorer = HeadsExplorer(model=model, texts=[{"tokens": words, "ids": ids, "links": {
        "near": [(3, 2)], "far": [(9, 0)]}}])  # fmt: skip
    n = len(words)
    head, numbers = sent(explorer)
    assert head["layers"] == [2, 2] and head["tokens"] == words and explorer.message == ""
    i, j = torch.arange(n)[:, None], torch.arange(n)
    causal = j <= i
    near = torch.stack([causal & (i - j <= 2), causal & (i - j <= 4) & ((i - j) % 2 == 0)])
    assert ((numbers.view(2, 2, n, n) == -1) == ~near).all()
    with capture(model) as seen, torch.no_grad():
        model(ids)
    for number, name in enumerate(heads.attention_layers(model)):
        torch.testing.assert_close(explorer.weights[number], seen[name][0], atol=1e-6, rtol=0)
        entropy = stats.normalised_entropy(seen[name][0], near).nanmean(-1)
        torch.testing.assert_close(explorer.entropy[number], entropy, atol=1e-5, rtol=0)
    uniform = {r["name"]: r["uniform"] for r in head["relations"]}
    assert uniform["near"] == pytest.approx(1 / 3)  # keys 1, 2, 3: in a window of some head
    assert uniform["far"] == 0 and explorer.gold_mass["far"][0].max() == 0


def test_a_small_language_gives_texts_links_and_a_text_box(english):
    texts = batch(english)
    explorer = HeadsExplorer(model=tiny(english), language=english, texts=texts)
    n = texts.lengths[0]
    assert explorer.tokens == english.decode(texts.ids[0, :n])
    for name, rows in texts.links.items():
        assert explorer.links[name] == [(q, k) for t, q, k in rows.tolist() if t == 0]
    assert explorer.text == " ".join(explorer.tokens)
    first = explorer.example
    explorer.text = "the dog eats bones ."
    assert explorer.example == "" and explorer.tokens == "the dog eats bones .".split()
    assert explorer.links == {} and explorer.gold_mass == {}
    controls = {c["name"]: c for c in explorer._ui["controls"]}
    assert "no gold links" in controls["relation"]["why"]
    explorer.text = "the dog eats stones ."
    assert explorer.message == "the word 'stones' is not in this language"
    explorer.text = " ".join(english.decode(texts.ids[0, :n]))  # an example typed is that example
    assert explorer.example == first and explorer.links["subject"]
    explorer.example = list(explorer._texts)[2]
    assert explorer.tokens == english.decode(texts.ids[2, : texts.lengths[2]])
    assert explorer.text == " ".join(explorer.tokens) and explorer.message == ""
    assert explorer._ui["controls"][0]["name"] == "example"


def test_several_models_in_turn(english):
    models = {"trained": tiny(english), "untrained": tiny(english, 1, n_layers=1, n_heads=4)}
    explorer = HeadsExplorer(model=models, language=english, texts=batch(english), layer=1)
    assert explorer.source == "trained" and sent(explorer)[0]["where"] == ", trained"
    before = sent(explorer)[1]
    explorer.source = "untrained"
    assert explorer.message == "The model has no layer 1: take 0 … 0."
    assert sent(explorer)[0]["state"] == "wrong"
    explorer.layer = 0
    head, numbers = sent(explorer)
    assert head["layers"] == [4] and head["where"] == ", untrained" and head["state"] == ""
    controls = {c["name"]: c for c in explorer._ui["controls"]}
    assert controls["layer"]["why"] == "the model has one layer"
    assert controls["head"]["max"] == 3
    explorer.source = "trained"
    assert torch.equal(sent(explorer)[1], before) and not torch.equal(numbers, before)


def test_a_pruned_model_has_rows_of_different_length(english):
    model = tiny(english, n_heads=4)
    names = list(heads.attention_layers(model))
    small = heads.prune(model, [(names[0], 1), (names[0], 3)])
    explorer = HeadsExplorer(model=small, language=english, texts=batch(english), layer=0, head=3)
    assert sent(explorer)[0]["layers"] == [2, 4]
    assert explorer.message == "" and explorer._shown_head() == (0, 1)
    assert explorer.still().startswith(b"\x89PNG") and "layer 0 head 1" in explorer.alt()


def test_the_sentences_of_the_course_come_with_their_links(encoder):
    explorer = HeadsExplorer(model=encoder)
    assert len(explorer._texts) == len(links.SENTENCES)
    assert explorer._relations and set(explorer._relations) == set(links.RELATIONS)
    for sentence, example in zip(links.SENTENCES, explorer._texts.values(), strict=True):
        assert example.text == sentence.text
        tokens = encoder.tokenize(sentence.text).tokens
        for name, [(q, k)] in example.links.items():
            relation = links.RELATIONS[name]
            assert relation.kind == sentence.kind
            assert tokens[q] == sentence.roles[relation.query].partition("#")[0].lower()
            assert tokens[k] == sentence.roles[relation.key].partition("#")[0].lower()
    explorer.example = list(explorer._texts)[-1]
    assert explorer.message == "" and explorer.text == links.SENTENCES[-1].text


def test_settings_of_the_page_send_no_weights_again(encoder, monkeypatch):
    explorer = HeadsExplorer(TEXT, model=encoder, texts=[], links=LINKS)
    views = []
    explorer.observe(views.append, "_view")
    monkeypatch.setattr("attnlab.explorers.heads.weights_of", None)  # nor are they computed
    for layer, head, colour, relation, gold in itertools.product(
        range(3), range(4), COLOURS, ["all", *LINKS], (False, True)
    ):
        with explorer.hold_trait_notifications():
            explorer.layer, explorer.head, explorer.colour = layer, head, colour
            explorer.relation, explorer.gold_links = relation, gold
        assert explorer.message == ""
    assert views == []


def test_refresh_sees_new_parameters(english):
    model = tiny(english)
    explorer = HeadsExplorer(model=model, language=english, texts=batch(english))
    before = explorer.weights[0]
    with torch.no_grad():
        model.layers[0].attention.in_proj.weight.mul_(3)
    explorer.refresh()
    assert not torch.equal(explorer.weights[0], before)
    assert explorer.message == ""


BAD = {
    "text": (" \n ", "No words yet"),
    "source": ("elsewhere", "unknown source 'elsewhere'"),
    "example": ("elsewhere", "unknown example 'elsewhere'"),
    "layer": (3, "The model has no layer 3: take 0 … 2."),
    "head": (-1, "No layer has a head -1: take 0 … 3."),
    "colour": ("red", "unknown colour 'red'"),
    "relation": ("nothing", "unknown relation 'nothing'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_a_message_and_the_picture_stays(encoder, name):
    explorer = HeadsExplorer(TEXT, model=encoder, texts=["Another text."], links=LINKS)
    good, shown = getattr(explorer, name), sent(explorer)[1]
    value, words = BAD[name]
    setattr(explorer, name, value)
    assert words in explorer.message
    head, numbers = sent(explorer)
    assert head["state"] == "wrong" and torch.equal(numbers, shown)
    setattr(explorer, name, good)
    assert explorer.message == "" and torch.equal(sent(explorer)[1], shown)


def test_bad_arguments(encoder, english):
    for arguments, words in (
        ({"colour": "red"}, "unknown colour 'red'"),
        ({"controls": ["colours"]}, "unknown control 'colours'"),
        ({"model": {}}, "empty dict"),
        ({"texts": [{"tokens": ["a"]}]}, "'tokens' and 'ids'"),
        ({"texts": [{"txt": "a"}]}, "got txt"),
        ({"texts": [{"tokens": ["a"], "ids": [1, 2]}]}, "1 tokens and 2 ids"),
        ({"texts": [{"tokens": ["a"], "ids": [1], "links": {"r": [(0, 1)]}}]}, "a text of 1 tok"),
        ({"texts": [{"text": "a", "links": {"r": [(0, -1)]}}]}, r"'r' has \(0, -1\)"),
        ({"texts": [{"text": "a", "links": {"all": [(0, 1)]}}]}, "no name for a relation"),
        ({"links": {"r": [(0, 1)]}}, "links are those of `text`"),
        ({"texts": batch(english)}, "give the language too"),
    ):
        with pytest.raises(ValueError, match=words):
            HeadsExplorer(**{"model": encoder} | arguments)
    explorer = HeadsExplorer(TEXT, model=encoder, texts=[], links={"r": [(2, 90)]})
    assert explorer.message == "'r' links (2, 90), but the text has 9 tokens."
    assert HeadsExplorer(TEXT, model=torch.nn.Linear(2, 2)).message == (
        "This model reads only the texts that are given: pick one.")  # fmt: skip
    explorer = HeadsExplorer(model=torch.nn.Linear(2, 2), texts=[{"tokens": ["a"], "ids": [0]}])
    assert explorer.message == "This model has no MultiHeadAttention inside."


def test_long_short_and_strange_texts(encoder, english):
    long = " ".join(f"w{i}" for i in range(100))
    explorer = HeadsExplorer(long, model=encoder, texts=[], links={"r": [(5, 4), (90, 5)]})
    assert explorer.message == f"Showing the first {MOST_TOKENS} of 102 tokens."
    assert explorer.tokens[-1] == "[SEP]" and explorer.links == {"r": [(5, 4)]}
    explorer.text = "<b>$x$</b> 日本 a\ud800 " + "l" * 60
    assert explorer.message == "" and sent(explorer)[0]["state"] == ""
    assert explorer.still().startswith(b"\x89PNG")
    one = HeadsExplorer(model=tiny(english), texts=[{"tokens": ["."], "ids": torch.tensor([0])}])
    head, numbers = sent(one)
    assert head["entropy"] == [None] * 4 and numbers.tolist() == [1.0] * 4 and one.message == ""
    assert "entropy – of its maximum" in one.alt() and one.still()
    same = HeadsExplorer(model=encoder, texts=[TEXT, TEXT])
    assert list(same._texts) == [TEXT, TEXT + " (2)"]


def test_every_model_loads_in_the_background(encoder, monkeypatch):
    import threading

    allowed = threading.Event()

    def load(progress):
        assert allowed.wait(30)
        return encoder

    monkeypatch.setattr("attnlab.pretrained.load_encoder", load)
    monkeypatch.setattr(sources, "PRETRAINED", sources.Loader())
    explorer = HeadsExplorer(TEXT)
    assert explorer.message.startswith("Loading the model")
    assert sent(explorer)[0]["state"] == "wait" and sent(explorer)[0]["empty"]
    assert {c["name"]: c for c in explorer._ui["controls"]}["head"]["max"] == 11
    allowed.set()
    explorer._repr_mimebundle_()  # waits for it
    assert explorer.message == "" and len(explorer.weights) == 3
    assert {c["name"]: c for c in explorer._ui["controls"]}["head"]["max"] == 3
    assert "RANDOM PARAMETERS" in explorer.alt() and "made for a test" in explorer.notes[0]


def test_still_picture_alt_and_repr(encoder):
    explorer = HeadsExplorer(TEXT, model=encoder, texts=[], links=LINKS, layer=1, head=2)
    data, metadata = explorer._repr_mimebundle_()
    again = HeadsExplorer(TEXT, model=encoder, texts=[], links=LINKS, layer=1, head=2)
    assert data["image/png"] == again._repr_mimebundle_()[0]["image/png"]
    assert Image.open(io.BytesIO(data["image/png"])).size == (1000, 500)
    alt = metadata["image/png"]["alt"]
    assert "12 heads in 3 layers" in alt and "Enlarged: layer 1 head 2, entropy 0." in alt
    mass, layer, head = max(
        (m.item(), at, h) for at, of in enumerate(explorer.gold_mass["verb->subject"])
        for h, m in enumerate(of)
    )  # fmt: skip
    assert f"verb->subject layer {layer} head {head} with {mass:.2f}" in alt
    for colour, relation in itertools.product(COLOURS, ["all", *LINKS]):
        explorer.colour, explorer.relation = colour, relation
        assert explorer.still() != data["image/png"] or (colour, relation) == ("weights", "all")
    assert data["text/plain"] == (
        "HeadsExplorer(source='model', example='The cat sat on the mat.', "
        "text='The cat sat on the mat.', layer=1, head=2, colour='weights', relation='all', "
        "gold_links=True)"
    )


def test_weights_of_leaves_the_model_as_it_was(english):
    model = tiny(english)
    ids = batch(english).ids[:1]
    before = model(ids)
    found = weights_of(model, ids)
    assert torch.equal(model(ids), before) and model.training
    assert all(not w.requires_grad and v.dtype == torch.bool for w, v in found)
