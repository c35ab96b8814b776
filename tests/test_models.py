"""The encoder: equal to transformers.BertModel, and open to being taken apart; the tiny model."""

import copy

import pytest
import torch

from attnlab import positions
from attnlab.attention import MultiHeadAttention, capture
from attnlab.cache import KVCache
from attnlab.models import Encoder, EncoderConfig, TinyTransformer
from attnlab.pretrained import read_model
from bert_reference import largest_differences, small_bert

SIZES = {"d_model": 24, "n_heads": 4}
SMALL = EncoderConfig(vocab_size=60, n_layers=3, d_ff=40, max_len=16, **SIZES)


@pytest.fixture
def encoder():
    """Small and random, with weights large enough for the attention to be far from uniform."""
    torch.manual_seed(0)
    encoder = Encoder(SMALL).eval()
    encoder.reset_parameters(std=0.4)
    return encoder


@pytest.fixture
def ids():
    return torch.randint(60, (2, 9), generator=torch.Generator().manual_seed(1))


def weights_of(encoder, ids, padding=None):
    with capture(encoder) as seen, torch.no_grad():
        encoder(ids, padding)
    return list(seen.values())


@pytest.mark.parametrize("backend", ["dense", "fused", "auto"])
@pytest.mark.parametrize("padded", [False, True])
def test_equals_bert(tmp_path, ids, backend, padded):
    bert = small_bert()
    bert.save_pretrained(tmp_path)
    encoder = read_model(tmp_path)
    for layer in encoder.layers:
        layer.attention.backend = backend
    padding = None
    if padded:
        padding = torch.ones(2, 9, dtype=torch.bool)
        padding[0, 5:] = False
    assert max(largest_differences(encoder, bert, ids, padding)) < 1e-5
    exact = largest_differences(encoder.double(), bert.double(), ids, padding)
    assert max(exact) < 1e-12


def test_the_comparison_with_bert_can_fail(tmp_path, ids):
    bert = small_bert()
    bert.save_pretrained(tmp_path)
    encoder = read_model(tmp_path)
    encoder.layers[1].attention.temperature = 1.01
    assert min(largest_differences(encoder, bert, ids)) > 1e-4


def test_padding_changes_nothing_for_the_real_tokens(encoder, ids):
    longer = torch.cat([ids, torch.randint(60, (2, 4))], dim=1)
    padding = torch.arange(13) < 9
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(longer, padding.expand(2, -1))[:, :9], encoder(ids), atol=1e-5, rtol=0
        )


def test_each_layer_reads_what_the_one_below_wrote(encoder, ids):
    with torch.no_grad():
        states = encoder.hidden_states(ids)
        assert len(states) == SMALL.n_layers + 1
        torch.testing.assert_close(states[0], encoder.embed(ids))
        for i, layer in enumerate(encoder.layers):
            torch.testing.assert_close(layer(states[i]), states[i + 1])
        torch.testing.assert_close(encoder(ids), states[-1])


@pytest.mark.parametrize("name", positions.names())
def test_every_encoding_can_be_swapped_in(encoder, ids, name):
    """Without an encoding, shuffled tokens give shuffled outputs; with one they do not, whether it
    acts at the input or inside the layers."""
    encoder.encoding = positions.make(name, **SIZES, max_len=16)
    assert all(layer.attention.encoding is encoder.encoding for layer in encoder.layers)
    order = torch.tensor([3, 0, 8, 1, 7, 2, 6, 4, 5])
    with torch.no_grad():
        difference = (encoder(ids[:, order]) - encoder(ids)[:, order]).abs().max()
    assert (difference < 1e-4) == (name == "none")


@pytest.mark.parametrize("name", ["rope", "alibi"])
def test_a_relative_encoding_reaches_every_layer(encoder, name):
    """All tokens alike: what an attention row sees can depend on the position only."""
    same = torch.full((1, 9), 7)
    encoder.encoding = positions.make("none", **SIZES)
    assert all((w - 1 / 9).abs().max() < 1e-5 for w in weights_of(encoder, same))
    encoder.encoding = positions.make(name, **SIZES)
    assert all((w - 1 / 9).abs().max() > 1e-3 for w in weights_of(encoder, same))


def test_the_encoding_is_stored_once(encoder, ids):
    assert [n for n in encoder.state_dict() if "encoding" in n] == ["encoding.weight"]
    twin = copy.deepcopy(encoder)
    assert twin.encoding is not encoder.encoding
    assert all(layer.attention.encoding is twin.encoding for layer in twin.layers)
    # Even if one layer had an encoding of its own before.
    encoder.layers[1].attention.encoding = positions.make("learned", **SIZES)
    encoder.encoding = positions.make("rope", **SIZES)
    assert not [n for n in encoder.state_dict() if "encoding" in n]
    assert encoder.layers[1].attention.encoding is encoder.encoding


@pytest.mark.parametrize("wrong", ["rope", None, torch.nn.Identity()])
def test_only_an_encoding_can_be_swapped_in(encoder, wrong):
    with pytest.raises(TypeError, match="positions.make"):
        encoder.encoding = wrong
    assert isinstance(encoder.encoding, positions.Learned)


def test_a_causal_layer_does_not_look_ahead(encoder, ids):
    before = weights_of(encoder, ids)
    encoder.layers[1].causal = True
    after = weights_of(encoder, ids)
    ahead = torch.ones(9, 9).triu(1).bool()
    assert before[1][..., ahead].min() > 0
    assert (after[1][..., ahead] == 0).all()
    torch.testing.assert_close(after[0], before[0])
    assert (after[2][..., ahead]).max() > 0


def test_causal_layers_hide_the_future(encoder, ids):
    for layer in encoder.layers:
        layer.causal = True
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % 60
    with torch.no_grad():
        a, b = encoder(ids), encoder(other)
    torch.testing.assert_close(a[:, :-1], b[:, :-1])
    assert (a[:, -1] - b[:, -1]).abs().max() > 1e-3


def test_the_temperature_of_one_layer(encoder, ids):
    before = weights_of(encoder, ids)
    encoder.layers[1].attention.temperature = 1e4
    after = weights_of(encoder, ids)
    torch.testing.assert_close(after[0], before[0])
    assert (before[1] - 1 / 9).abs().max() > 0.1
    assert (after[1] - 1 / 9).abs().max() < 1e-2


def test_every_parameter_learns(encoder, ids):
    encoder(ids).pow(3).sum().backward()
    still = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not still


def test_half_precision(encoder, ids):
    exact = encoder(ids)
    rough = encoder.to(torch.bfloat16)(ids)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().mean() < 0.1


@pytest.mark.gpu
def test_a_gpu_gives_the_same(encoder, ids):
    device = "cuda" if torch.cuda.is_available() else "mps"
    expected = weights_of(encoder, ids)
    found = weights_of(encoder.to(device), ids.to(device))
    for a, b in zip(found, expected, strict=True):
        assert a.device.type == device
        torch.testing.assert_close(a.cpu(), b, atol=1e-4, rtol=0)


def test_layers_hold_attention_modules(encoder):
    assert all(isinstance(layer.attention, MultiHeadAttention) for layer in encoder.layers)


def test_a_fresh_encoder_starts_like_bert():
    encoder = Encoder(SMALL)
    for name, parameter in encoder.named_parameters():
        if parameter.dim() > 1:
            assert 0.015 < parameter.std() < 0.025 or parameter.numel() < 100, name
        elif name.endswith("bias"):
            assert not parameter.any(), name


@pytest.mark.parametrize(
    "ids, message",
    [
        (torch.zeros(5, dtype=torch.long), "batch, tokens"),
        (torch.zeros(1, 0, dtype=torch.long), "at least one token"),
        (torch.zeros(1, 5), "integers"),
        (torch.full((1, 5), 60), r"0 \.\.\. 59"),
        (torch.full((1, 5), -1), r"0 \.\.\. 59"),
        (torch.zeros(1, 17, dtype=torch.long), "shorten the text"),
    ],
)
def test_bad_ids(encoder, ids, message):
    with pytest.raises(ValueError, match=message):
        encoder(ids)


@pytest.mark.parametrize(
    "padding", [torch.ones(2, 8, dtype=torch.bool), torch.ones(2, 9), torch.ones(9).bool()]
)
def test_bad_padding(encoder, ids, padding):
    with pytest.raises(ValueError, match="padding must be boolean"):
        encoder(ids, padding)


def test_bad_sizes():
    with pytest.raises(ValueError, match="5 heads do not divide"):
        Encoder(EncoderConfig(d_model=24, n_heads=5))
    with pytest.raises(ValueError, match="unknown encoding 'wrong'"):
        Encoder(EncoderConfig(vocab_size=9, n_layers=1, d_model=24, n_heads=4, encoding="wrong"))


@pytest.mark.parametrize("name", positions.names())
@pytest.mark.parametrize("options", [{}, {"n_kv_heads": 1, "windows": [2, None], "d_ff": 8}])
def test_a_tiny_transformer_decodes_as_it_reads(name, options):
    torch.manual_seed(0)
    model = TinyTransformer(
        9, 5, d_model=16, n_heads=2, n_layers=2, encoding=name, max_len=20, **options
    )
    ids = torch.randint(9, (3, 11))
    caches = [KVCache() for _ in model.layers]
    with torch.no_grad():
        whole = model(ids)
        parts = [model(part, caches=caches) for part in ids.split([4, 1, 1, 5], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
    assert not torch.isclose(model(ids)[:, -1], model(ids.flip(1))[:, 0]).all()


def test_a_tiny_transformer_stores_its_encoding_once():
    model = TinyTransformer(9, 5, encoding="t5")
    assert [name for name in model.state_dict() if "encoding" in name] == ["encoding.weight"]
    assert all(layer.attention.encoding is model.encoding for layer in model.layers)


def test_padding_of_a_tiny_transformer():
    torch.manual_seed(0)
    model = TinyTransformer(9, 5, causal=False)
    ids = torch.randint(9, (1, 6))
    longer = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], 1)
    real = torch.arange(9)[None] < 6
    with torch.no_grad():
        torch.testing.assert_close(model(longer, padding=real)[:, :6], model(ids))


@pytest.mark.parametrize("ids, message", [
    (torch.zeros(3, dtype=torch.long), r"ids must be integers \(batch, tokens\)"),
    (torch.zeros(1, 3), r"ids must be integers"),
    (torch.full((1, 3), 9), r"ids must lie in 0 ... 8, got 9 ... 9"),
])  # fmt: skip
def test_bad_ids_of_a_tiny_transformer(ids, message):
    with pytest.raises(ValueError, match=message):
        TinyTransformer(9, 5)(ids)
