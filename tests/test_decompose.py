"""Scores taken apart: the parts add up, the shares are shares, and both ways to them agree."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from attnlab import decompose, positions
from attnlab.attention import attention_scores, capture
from attnlab.decompose import Parts, first_layer_parts, score_terms
from attnlab.models import Encoder, EncoderConfig, TinyTransformer
from attnlab.stats import causal_visible

D, HEADS, N = 16, 4, 9


def shake(model, seed=0):
    """Random numbers in every parameter, biases and norms too, so that nothing hides behind 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            wide = 0.5 if p.dim() == 1 or "encoding" in name else p.shape[-1] ** -0.5
            p.copy_(wide * torch.randn(p.shape, generator=generator))
            if "norm" in name and name.endswith("weight"):
                p.add_(1)
    return model


def encoder(encoding=None):
    config = EncoderConfig(vocab_size=50, n_layers=2, d_model=D, n_heads=HEADS, d_ff=32, max_len=16)
    model = Encoder(config)
    if encoding is not None:
        model.encoding = encoding
    return shake(model)


def tiny(encoding, **options):
    d_model = options.pop("d_model", D)
    model = TinyTransformer(
        50, 3, d_model=d_model, n_heads=HEADS, encoding=encoding, causal=False, **options
    )
    return shake(model)


def sinusoidal():
    return positions.Sinusoidal(D, base=100.0)


def narrow(**options):
    """A model whose words are narrower than its layers: the table is set beside them."""
    model = tiny(positions.Concatenated(positions.Sinusoidal(4)), d_model=D + 4, **options)
    model.words = nn.Embedding(50, D)
    return model


MODELS = {
    "encoder, learned": encoder,
    "encoder, sinusoidal": lambda: encoder(sinusoidal()),
    "encoder, mixed": lambda: encoder(positions.Mixed(sinusoidal())),
    "encoder, before every layer": lambda: encoder(positions.LayerWise(sinusoidal(), 2)),
    "encoder, sinusoidal then learned": lambda: encoder(positions.SinusoidalThenLearned(16, D)),
    "tiny, sinusoidal": lambda: tiny("sinusoidal"),
    "tiny, learned": lambda: tiny("learned"),
    "tiny, biases": lambda: tiny("sinusoidal", bias=True),
    "tiny, 2 key heads": lambda: tiny("sinusoidal", n_kv_heads=2),
    "tiny, 1 key head, biases": lambda: tiny("learned", n_kv_heads=1, bias=True),
    "tiny, d_head 3": lambda: tiny("sinusoidal", d_head=3, bias=True),
    "tiny, mixed": lambda: tiny(positions.Mixed(sinusoidal(), 0.7, 1.3)),
    "tiny, before every layer": lambda: tiny(positions.LayerWise(sinusoidal(), 2)),
    "tiny, concatenated": lambda: narrow(bias=True),
}


def texts(batch=2, n=N):
    return torch.randint(50, (batch, n), generator=torch.Generator().manual_seed(1))


def first_layer(model):
    return model.layers[0].attention


@torch.no_grad()
def read_by_first_layer(model, ids):
    """What the model itself gives to its first attention layer."""
    seen = []
    hook = first_layer(model).register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    model(ids)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", MODELS)
def test_parts_add_up_to_what_the_first_layer_reads(name):
    model, ids = MODELS[name](), texts()
    parts = first_layer_parts(model, ids)
    torch.testing.assert_close(parts.sum(), read_by_first_layer(model, ids), atol=1e-5, rtol=0)
    assert all(part.shape == parts.content.shape for part in parts)


@pytest.mark.parametrize("name", MODELS)
def test_terms_add_up_to_the_scores(name):
    model, ids = MODELS[name](), texts()
    layer, x = first_layer(model), read_by_first_layer(model, ids)
    with torch.no_grad():
        q, k, _ = layer.heads(x)
        scores = attention_scores(q, k)
    terms = score_terms(layer, first_layer_parts(model, ids))
    assert terms.shape == (5, 2, HEADS, N, N)
    torch.testing.assert_close(terms.sum(0), scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_their_softmax_is_the_weights_of_the_model(name):
    model, ids = MODELS[name](), texts()
    with torch.no_grad(), capture(model) as seen:
        model(ids)
    terms = score_terms(first_layer(model), first_layer_parts(model, ids))
    torch.testing.assert_close(
        terms.sum(0).softmax(-1), seen["layers.0.attention"], atol=1e-5, rtol=0
    )


def test_scale_and_temperature_belong_to_the_terms():
    model, ids = tiny("sinusoidal"), texts()
    layer, parts = first_layer(model), first_layer_parts(model, ids)
    plain = score_terms(layer, parts)
    layer.scale, layer.temperature = 0.2, 4.0
    torch.testing.assert_close(score_terms(layer, parts), plain * 0.05 * layer.d_head**0.5)


@pytest.mark.parametrize("name", MODELS)
def test_content_follows_the_words_and_position_the_places(name):
    """Without the norm's divisor, which words and positions share."""
    model, ids = MODELS[name](), texts()
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    parts = first_layer_parts(model, ids)
    moved = first_layer_parts(model, ids.flip(-1))
    torch.testing.assert_close(_direction(moved.position), _direction(parts.position))
    if not isinstance(model.encoding, positions.SinusoidalThenLearned | positions.LayerWise):
        torch.testing.assert_close(_direction(moved.content), _direction(parts.content).flip(1))
    assert norms and parts.position.any()


def _direction(part):
    return part / part.norm(dim=-1, keepdim=True)


def test_position_alone_does_not_know_the_words():
    model = tiny("sinusoidal", bias=True)
    one, two = (first_layer_parts(model, ids) for ids in (texts(), (texts() + 7) % 50))
    torch.testing.assert_close(_direction(one.position), _direction(two.position))
    torch.testing.assert_close(one.rest, two.rest)
    assert not torch.allclose(_direction(one.content), _direction(two.content))


def test_segments_and_the_norms_bias_are_the_rest():
    model = encoder()
    with torch.no_grad():
        model.embedding_norm.bias.zero_()
        model.type_embedding.weight.zero_()
    assert first_layer_parts(model, texts()).rest.abs().max() < 1e-6
    for layer in model.layers:
        nn.init.zeros_(layer.attention.in_proj.bias)
    terms = score_terms(first_layer(model), first_layer_parts(model, texts()))
    assert terms[4].abs().max() < 1e-5


@pytest.mark.parametrize("make", [tiny, narrow])
def test_biases_are_counted_once_even_if_parts_are_one_tensor(make):
    model = make("sinusoidal", bias=True) if make is tiny else make(bias=True)
    layer = first_layer(model)
    width = layer.d_model
    x, nothing = torch.randn(1, 5, width), torch.zeros(1, 5, width)
    with torch.no_grad():
        q, k, _ = layer.heads(x)
        scores = attention_scores(q, k)
    terms = score_terms(layer, Parts(x, nothing, nothing))
    torch.testing.assert_close(terms.sum(0), scores, atol=1e-5, rtol=0)
    assert terms[1:4].abs().max() < 1e-5


@pytest.mark.parametrize("encoding", ["none", "rope", "alibi", "t5", "shaw", "sandwich"])
def test_an_encoding_without_positions_at_the_input_is_refused(encoding):
    with pytest.raises(ValueError, match="brings no position in at the input"):
        first_layer_parts(tiny(encoding), texts())


def test_another_kind_of_model_is_refused():
    with pytest.raises(TypeError, match="Encoder or TinyTransformer, got Linear"):
        first_layer_parts(nn.Linear(2, 2), texts())


def test_layer_norm_part_by_part():
    norm = shake(nn.LayerNorm(D)).double()
    parts = Parts(*torch.randn(3, 2, N, D, dtype=torch.float64))
    torch.testing.assert_close(decompose.layer_norm_parts(norm, parts).sum(), norm(parts.sum()))
    plain = nn.LayerNorm(D, elementwise_affine=False).double()
    torch.testing.assert_close(decompose.layer_norm_parts(plain, parts).sum(), plain(parts.sum()))


# ------------------------------------------------------------------------------------ the terms


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 6), st.integers(0, 2**31))
def test_four_terms_of_any_sizes(n_q, n_k, d_head, seed):
    g = torch.Generator().manual_seed(seed)
    q_c, q_p = torch.randn(2, 3, n_q, d_head, generator=g, dtype=torch.float64)
    k_c, k_p = torch.randn(2, 3, n_k, d_head, generator=g, dtype=torch.float64)
    terms = decompose.four_terms(q_c, q_p, k_c, k_p)
    assert terms.shape == (4, 3, n_q, n_k) and len(decompose.TERMS) == 4
    torch.testing.assert_close(terms.sum(0), (q_c + q_p) @ (k_c + k_p).mT * d_head**-0.5)
    for term, (q, k) in zip(terms, [(q_c, k_c), (q_c, k_p), (q_p, k_c), (q_p, k_p)], strict=True):
        torch.testing.assert_close(term, attention_scores(q[None], k[None])[0])
    torch.testing.assert_close(decompose.four_terms(q_c, q_p, k_c, k_p, 1.0), terms * d_head**0.5)


def test_keep_terms():
    terms = torch.randn(5, 2, N, N)
    torch.testing.assert_close(decompose.keep_terms(terms, [True] * 5), terms.sum(0))
    torch.testing.assert_close(
        decompose.keep_terms(terms, [True, False, False, True, False]), terms[0] + terms[3]
    )
    assert not decompose.keep_terms(terms, [False] * 5).any()
    with pytest.raises(ValueError, match="each of the 5 terms"):
        decompose.keep_terms(terms, [True] * 4)


def test_variants_name_a_choice_of_the_four():
    assert all(len(kept) == len(decompose.TERMS) for kept in decompose.VARIANTS.values())
    assert all(kept[0] for kept in decompose.VARIANTS.values())  # words meet words in all of them


# ----------------------------------------------------------------------------------- the shares


@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 2**31), st.booleans())
def test_shares_add_up_and_ignore_what_they_should(n_q, n_k, seed, seen_only):
    g = torch.Generator().manual_seed(seed)
    terms = torch.randn(5, 2, n_q, n_k, generator=g, dtype=torch.float64)
    shares = decompose.variance_shares(terms, seen_only)
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(shares.sum(0), ones)
    shift = torch.randn(5, 2, n_q if seen_only else 1, 1, generator=g, dtype=torch.float64)
    torch.testing.assert_close(decompose.variance_shares(terms + shift, seen_only), shares)
    torch.testing.assert_close(decompose.variance_shares(-3 * terms, seen_only), shares)
    nothing = torch.cat([terms[:4], torch.zeros(1, 2, n_q, n_k, dtype=torch.float64)])
    assert not decompose.variance_shares(nothing, seen_only)[4].any()


def test_a_share_is_what_explains_the_score():
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 200, 200, generator=generator)
    shares = decompose.variance_shares(torch.stack([3 * one, two]))
    torch.testing.assert_close(shares, torch.tensor([0.9, 0.1]), atol=0.02, rtol=0)
    against = decompose.variance_shares(torch.stack([3 * one, -one]))
    torch.testing.assert_close(against, torch.tensor([1.5, -0.5]))


def test_no_variance_is_nan():
    flat = torch.ones(5, 3, 4)
    assert decompose.variance_shares(flat).isnan().all()


@pytest.mark.parametrize("seen_only", [True, False])
def test_shares_of_what_a_causal_head_sees(seen_only):
    terms = torch.randn(5, 2, N, N, dtype=torch.float64)
    seen = torch.ones(N, N, dtype=torch.bool).tril()
    hidden = terms + 100 * torch.randn(5, 2, N, N, dtype=torch.float64).triu(1)
    shares = decompose.variance_shares(terms, seen_only, seen)
    torch.testing.assert_close(decompose.variance_shares(hidden, seen_only, seen), shares)
    torch.testing.assert_close(shares.sum(0), torch.ones(2, dtype=torch.float64))
    everything = torch.ones(N, N, dtype=torch.bool)
    torch.testing.assert_close(
        decompose.variance_shares(terms, seen_only, everything),
        decompose.variance_shares(terms, seen_only),
    )
    rows = [t[..., -1:, :] for t in (terms, hidden)]  # the last query sees every key
    last = seen[-1:]
    torch.testing.assert_close(*(decompose.variance_shares(r, seen_only, last) for r in rows))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seen_only", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_shares_by_gram_matrices_are_those_of_the_matrices(name, seen_only, causal):
    model, ids = MODELS[name](), texts()
    layer, parts = first_layer(model), first_layer_parts(model, ids)
    visible = causal_visible(N) if causal else None
    by_matrix = decompose.variance_shares(score_terms(layer, parts).double(), seen_only, visible)
    by_gram = decompose.variance_shares_by_gram(layer, parts, seen_only, causal)
    assert by_gram.shape == (5, 2, HEADS)
    torch.testing.assert_close(by_gram, by_matrix, atol=1e-5, rtol=0)


@given(st.integers(2, 12), st.integers(0, 2**31), st.booleans(), st.booleans())
def test_gram_shares_of_any_parts(n, seed, seen_only, causal):
    g = torch.Generator().manual_seed(seed)
    layer = first_layer(tiny("sinusoidal", bias=True, n_kv_heads=2)).double()
    parts = Parts(*torch.randn(3, 1, n, D, generator=g, dtype=torch.float64))
    torch.testing.assert_close(
        decompose.variance_shares_by_gram(layer, parts, seen_only, causal),
        decompose.variance_shares(
            score_terms(layer, parts), seen_only, causal_visible(n) if causal else None
        ),
    )


@pytest.mark.parametrize("causal", [True, False])
def test_gram_shares_of_large_offsets(causal):
    """Parts whose means are thousands of times what varies: a float32 sum would lose it."""
    layer = first_layer(tiny("sinusoidal"))
    generator = torch.Generator().manual_seed(3)
    parts = Parts(*(1000 + torch.randn(3, 1, N, D, generator=generator)))
    exact = decompose.variance_shares(
        score_terms(layer.double(), Parts(*(part.double() for part in parts))),
        visible=causal_visible(N) if causal else None,
    )
    by_gram = decompose.variance_shares_by_gram(layer.float(), parts, causal=causal)
    torch.testing.assert_close(by_gram, exact, atol=0.05, rtol=0)
