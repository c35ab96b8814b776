"""The Shuffle Explorer without a browser: numbers, messages, the still picture."""

import io
import itertools
import json
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from attnlab import positions
from attnlab.explorers import ShuffleExplorer
from attnlab.explorers.shuffle import MOST_WORDS, RandomStack, compare, number, random_stack
from attnlab.models import Encoder, EncoderConfig
from attnlab.pretrained import PretrainedEncoder, WordTokenizer

TEXT = "the cat chased the mouse"
SWAPPED = [0, 4, 2, 3, 1]


@pytest.fixture(scope="module")
def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = EncoderConfig(vocab_size=2000, n_layers=3, d_model=24, n_heads=4, d_ff=32,
                               max_len=128)  # fmt: skip
        model = Encoder(config).eval()
        model.reset_parameters(std=0.3)
    return PretrainedEncoder(model, WordTokenizer(2000), "made for a test", is_random=True)


def sent(explorer):
    """What the page gets: the head, and the numbers."""
    length = struct.unpack("<I", explorer._view[:4])[0]
    head = json.loads(explorer._view[4 : 4 + length])
    numbers = np.frombuffer(explorer._view, np.float32, offset=4 + length + -length % 4)
    return head, torch.tensor(numbers.copy())


def test_without_positions_words_keep_their_outputs_and_places_do_not():
    for order in itertools.permutations(range(5)):
        explorer = ShuffleExplorer(TEXT, order=order, n_layers=2)
        assert explorer.by_word.max() < 1e-12 and explorer.pooled < 1e-12
        words = TEXT.split()
        for place, i in enumerate(order):
            moved = explorer.by_place[place] > 1e-3
            assert moved == (words[i] != words[place]), (order, place)
    assert explorer.now == [words[i] for i in order]


@pytest.mark.parametrize("name", [n for n in positions.names() if n != "none"])
def test_every_encoding_moves_words(name):
    explorer = ShuffleExplorer(TEXT, order=SWAPPED, encoding=name)
    assert explorer.message == ""
    assert explorer.by_word.min() > 1e-3 and explorer.pooled > 1e-3


def test_a_mirror_image_is_invisible_to_symmetric_distances():
    explorer = ShuffleExplorer(TEXT, order=[4, 3, 2, 1, 0], encoding="alibi", n_layers=2)
    assert explorer.by_word.max() < 1e-12
    explorer.causal = True
    assert explorer.by_word.max() > 0.1


def test_causal_mask_a_word_moves_when_others_stand_before_it():
    text = "the cat chased the mouse ."
    order = [0, 4, 2, 3, 1, 5]
    explorer = ShuffleExplorer(text, order=order, causal=True)
    assert explorer.by_word[0] < 1e-12 and explorer.by_word[1:5].min() > 0.01
    assert explorer.by_word[5] < 1e-12, "one layer: the last word sees the same bag"
    explorer.n_layers = 2
    assert explorer.by_word[0] < 1e-12 and explorer.by_word[5] > 0.01


def test_the_page_gets_what_attnlab_computes():
    explorer = ShuffleExplorer(TEXT, order=SWAPPED, encoding="rope", causal=True, n_layers=2,
                               n_heads=2, d_model=32)  # fmt: skip
    stack = random_stack("rope", 32, 2, 16)
    from attnlab.explorers._sources import word_vector

    def outputs(words):
        x = torch.stack([word_vector(w)[:32] for w in words])[None].double()
        for layer in stack.layers[:2]:
            x = x + layer(x, causal=True)
        return x[0].detach()

    before, after = outputs(TEXT.split()), outputs(explorer.now)
    length = before.norm(dim=-1).mean()
    expected = torch.cat([
        (after - before[SWAPPED]).norm(dim=-1), (after - before).norm(dim=-1),
        (after.mean(0) - before.mean(0)).norm()[None],
    ]) / length  # fmt: skip
    head, numbers = sent(explorer)
    torch.testing.assert_close(numbers, expected.float(), atol=1e-6, rtol=1e-5)
    assert head["order"] == SWAPPED and head["words"] == TEXT.split() and head["state"] == ""
    torch.testing.assert_close(explorer.by_word, expected[:5])
    torch.testing.assert_close(explorer.by_place, expected[5:10])
    assert explorer.pooled == pytest.approx(expected[10].item())


def test_compare_follows_the_words():
    x = torch.eye(3, 4)
    order = torch.tensor([2, 0, 1])
    by_word, by_place, pooled = compare(x, x[order], order)
    assert by_word.max() == 0 and pooled < 1e-7
    torch.testing.assert_close(by_place, torch.full((3,), 2**0.5))


def test_the_model_gives_what_its_forward_pass_gives(encoder):
    explorer = ShuffleExplorer(TEXT, order=SWAPPED, source="model", n_layers=3, model=encoder)
    assert explorer.encoding == "learned" and explorer.message == ""
    with torch.no_grad():
        before, after = encoder(TEXT)[0], encoder(" ".join(explorer.now))[0]
    words, moved = before[1:-1], after[1:-1]
    length = words.norm(dim=-1).mean()
    expected = (moved - words[SWAPPED]).norm(dim=-1) / length
    torch.testing.assert_close(explorer.by_word.float(), expected, atol=1e-5, rtol=1e-4)
    pooled = (after.mean(0) - before.mean(0)).norm() / length
    assert explorer.pooled == pytest.approx(pooled.item(), rel=1e-3)
    explorer.encoding = "none"
    assert explorer.by_word.max() < 1e-5 and explorer.pooled < 1e-5
    explorer.causal = True
    assert explorer.by_word.max() > 1e-3
    assert not any(layer.causal for layer in encoder.model.layers), "left as it was"
    assert type(encoder.model.encoding) is positions.Learned
    assert "RANDOM PARAMETERS." in explorer.notes
    explorer.n_layers = 4
    assert explorer.message == "The model has 3 layers, not 4."


def test_another_source_goes_back_to_its_own_encoding(encoder):
    explorer = ShuffleExplorer(TEXT, order=SWAPPED, model=encoder)
    assert explorer.encoding == "none"
    explorer.source = "model"
    assert explorer.encoding == "learned" and explorer.message == ""
    explorer.source = "random"
    assert explorer.encoding == "none"


def test_every_combination_of_settings_answers(encoder):
    explorer = ShuffleExplorer(TEXT, order=SWAPPED, model=encoder)
    for heads, d_model, layers, name, causal in itertools.product(
        (1, 3, 16), (8, 64, 512), (1, 6), positions.names(), (False, True)
    ):
        with explorer.hold_trait_notifications():
            explorer.n_heads, explorer.d_model, explorer.n_layers = heads, d_model, layers
            explorer.encoding, explorer.causal = name, causal
        setting = (heads, d_model, layers, name, causal)
        fits = d_model % heads == 0 and not (name == "rope" and (d_model // heads) % 2)
        assert (explorer.message == "") == fits, (setting, explorer.message)
        assert sent(explorer)[0]["state"] == ("" if fits else "wrong"), setting
    explorer.source = "model"
    for layers, name, causal in itertools.product((1, 3), positions.names(), (False, True)):
        with explorer.hold_trait_notifications():
            explorer.n_layers, explorer.encoding, explorer.causal = layers, name, causal
        assert explorer.message == "", (layers, name, causal, explorer.message)


BAD = {
    "text": (" \n ", "No words yet"),
    "order": ([0, 0, 1, 2, 3], "must hold each of 0 … 4 once"),
    "source": ("elsewhere", "unknown source 'elsewhere'"),
    "encoding": ("roap", "unknown encoding 'roap'"),
    "n_layers": (0, "n_layers = 0 is not in 1 … 6"),
    "n_heads": (3, "3 heads do not divide d_model = 64"),
    "d_model": (100_000, "at most 512"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_a_message_and_the_picture_stays(name):
    explorer = ShuffleExplorer(TEXT, order=SWAPPED)
    good = getattr(explorer, name)
    shown = sent(explorer)[1]
    value, words = BAD[name]
    setattr(explorer, name, value)
    assert words in explorer.message
    head, numbers = sent(explorer)
    assert head["state"] == "wrong" and torch.equal(numbers, shown)
    setattr(explorer, name, good)
    explorer.order = SWAPPED
    explorer.encoding = "none"
    assert explorer.message == "" and torch.equal(sent(explorer)[1], shown)


def test_bad_names_in_the_constructor():
    with pytest.raises(ValueError, match="unknown source 'elsewhere'"):
        ShuffleExplorer(source="elsewhere")
    with pytest.raises(ValueError, match="unknown control 'colour'"):
        ShuffleExplorer(controls=("text", "colour"))


def test_a_new_text_keeps_what_was_moved():
    explorer = ShuffleExplorer(TEXT, order=SWAPPED)
    explorer.text = TEXT + " again ."
    assert explorer.order == [*SWAPPED, 5, 6]
    explorer.text = "cats chase mice"
    assert explorer.order == [0, 2, 1] and explorer.now == ["cats", "mice", "chase"]
    explorer.order = [0, 1, 2]
    assert "Nothing moved yet" in explorer.message
    assert sent(explorer)[0]["verdict"] == "Nothing moved."
    explorer.order = [2, 1, 0]
    assert explorer.message == "" and explorer.now == ["mice", "chase", "cats"]
    explorer.text = " "
    assert "No words yet" in explorer.message
    explorer.text = "cats chase mice"
    assert explorer.message.startswith("Nothing moved yet") and explorer.order == [0, 1, 2]


def test_long_short_and_strange_texts():
    explorer = ShuffleExplorer(" ".join(f"w{i}" for i in range(40)))
    assert len(explorer.words) == MOST_WORDS
    assert explorer.message == f"Using the first {MOST_WORDS} of 40 words."
    explorer.text = "one"
    assert explorer.order == [0] and explorer.by_word.tolist() == [0.0]
    explorer.text = "<b>$x$</b> 日本 a\ud800 " + "l" * 60
    assert sent(explorer)[0]["state"] == ""
    explorer.order = explorer.order[::-1]
    assert explorer.still().startswith(b"\x89PNG")


def test_still_picture_alt_and_repr():
    explorer = ShuffleExplorer(TEXT, order=SWAPPED)
    data, metadata = explorer._repr_mimebundle_()
    again = ShuffleExplorer(TEXT, order=SWAPPED)._repr_mimebundle_()[0]
    assert data["image/png"] == again["image/png"]
    assert Image.open(io.BytesIO(data["image/png"])).size == (1000, 500)
    alt = metadata["image/png"]["alt"]
    assert "Now: the mouse chased the cat." in alt
    assert f"mouse {number(explorer.by_place[1])}, chased 0" in alt
    assert data["text/plain"] == repr(explorer) == (
        "ShuffleExplorer(text='the cat chased the mouse', order=[0, 4, 2, 3, 1], source='random', "
        "encoding='none', causal=False, n_layers=1, n_heads=4, d_model=64)"
    )


def test_numbers_as_they_are_written():
    assert [number(v) for v in (0.0, 1e-16, 0.002, 0.1, 1.318)] == [
        "0", "0", "2e-03", "0.10", "1.32"]  # fmt: skip


def test_the_random_stack_is_the_same_in_every_run():
    random_stack.cache_clear()
    torch.manual_seed(5)
    first = random_stack("learned", 16, 2, 8)
    random_stack.cache_clear()
    second = random_stack("learned", 16, 2, 8)
    assert isinstance(first, RandomStack) and first is not second
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b) and a.dtype == torch.float64
