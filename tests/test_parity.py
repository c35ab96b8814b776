"""attnlab against independent implementations; where one of them is wrong, the paper's formula,
written anew in float64, says who is right."""

import math

import pytest
import torch
import torch.nn.functional as F

from attnlab import MultiHeadAttention, attention_scores, positions, scaled_dot_product_attention

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

HEADS = (1, 2, 3, 4, 6, 8, 12, 14, 16, 20, 32)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def rms(error) -> float:
    return error.double().square().mean().sqrt().item()


def paper_angles(pos, d, base=10_000.0):
    """pos * base^(-2i/d) in float64, one number at a time."""
    rows = [[p * base ** (-2 * i / d) for i in range(d // 2)] for p in pos]
    return torch.tensor(rows, dtype=torch.float64)


def paper_rotation(x, pos, base=10_000.0):
    """The half-split rotation of Su et al. in float64."""
    angle = paper_angles(pos, x.shape[-1], base)
    a, b = x.double().chunk(2, dim=-1)
    return torch.cat(
        [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1
    )


# --- Hugging Face: RoPE and its scalings ---


def llama_config(d_head, scaling, factor, trained_len, base):
    from transformers import LlamaConfig

    kind = {"none": "default", "linear": "linear", "ntk": "dynamic", "yarn": "yarn"}[scaling]
    rope = {"rope_type": kind, "rope_theta": base}
    if scaling != "none":
        rope["factor"] = factor
    if scaling == "yarn":
        rope["original_max_position_embeddings"] = trained_len
    return LlamaConfig(
        hidden_size=2 * d_head, num_attention_heads=2, rope_parameters=rope,
        max_position_embeddings=int(trained_len * (factor if scaling == "yarn" else 1)),
    )  # fmt: skip


@pytest.mark.parametrize("d_head", [8, 64, 128])
@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
@pytest.mark.parametrize("scaling, factor", [
    ("none", 1.0), ("linear", 2.0), ("linear", 7.5), ("ntk", 4.0), ("yarn", 1.5), ("yarn", 16.0),
])  # fmt: skip
def test_rope_equals_hugging_faces_llama(d_head, base, scaling, factor):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    trained_len = 256
    config = llama_config(d_head, scaling, factor, trained_len, base)
    rope = positions.RoPE(
        d_head, base=base, scaling=scaling, factor=factor, trained_len=trained_len
    )
    n = 64
    if scaling == "none":
        theirs = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    elif scaling == "ntk":
        # "dynamic" grows its base with the length; at this length its growth is our factor
        length = trained_len * (2 * factor - 1) / factor
        theirs = ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=length)
    else:
        theirs = ROPE_INIT_FUNCTIONS[scaling](config, "cpu")
    torch.testing.assert_close(rope.frequencies().float(), theirs[0], rtol=3e-6, atol=0)
    assert rope.amplitude == pytest.approx(theirs[1], rel=1e-12)
    if scaling == "ntk":
        return
    q, k = torch.randn(2, 1, 2, n, d_head)
    cos, sin = LlamaRotaryEmbedding(config)(q, torch.arange(n)[None])
    pos = torch.arange(n)
    for own, other in zip(
        rope.qk(q, k, pos, pos), apply_rotary_pos_emb(q, k, cos, sin), strict=True
    ):
        torch.testing.assert_close(own, other, atol=5e-5, rtol=1e-5)


def test_a_layer_with_rope_equals_hugging_faces_llama_attention():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    d, h, n = 32, 4, 11
    for n_kv in (4, 2, 1):  # grouped heads stand side by side, not tiled
        config = LlamaConfig(hidden_size=d, num_attention_heads=h, num_key_value_heads=n_kv)
        config._attn_implementation = "eager"
        theirs = LlamaAttention(config, 0)
        ours = MultiHeadAttention(
            d, h, n_kv_heads=n_kv, bias=False, encoding=positions.RoPE(d // h)
        )
        with torch.no_grad():
            projections = (theirs.q_proj, theirs.k_proj, theirs.v_proj)
            ours.in_proj.weight.copy_(torch.cat([p.weight for p in projections]))
            ours.out_proj.weight.copy_(theirs.o_proj.weight)
        x = torch.randn(2, n, d)
        hidden = torch.full((n, n), -torch.inf).triu(1)[None, None]
        at = LlamaRotaryEmbedding(config)(x, torch.arange(n)[None])
        torch.testing.assert_close(
            ours(x, causal=True), theirs(x, at, hidden)[0], atol=1e-6, rtol=1e-4
        )


def paper_yarn(d, base, factor, trained_len):
    """YaRN's frequencies as its authors' code has them, pair by pair in Python floats."""

    def pair(turns):  # the pair that turns so often within the trained length
        return d * math.log(trained_len / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = max(math.floor(pair(32)), 0), min(math.ceil(pair(1)), d - 1)
    out = []
    for i in range(d // 2):
        omega = base ** (-2 * i / d)
        ramp = min(max((i - first) / max(last - first, 0.001), 0.0), 1.0)
        out.append((1 - ramp) * omega + ramp * omega / factor)
    return out


@pytest.mark.parametrize("d", [16, 64, 128])
def test_scalings_are_the_formulas_written_anew(d):
    base, s, length = 10_000.0, 8.0, 2048
    plain = [base ** (-2 * i / d) for i in range(d // 2)]
    wanted = {
        "none": plain,
        "linear": [w / s for w in plain],
        "ntk": [(base * s ** (d / (d - 2))) ** (-2 * i / d) for i in range(d // 2)],
        "yarn": paper_yarn(d, base, s, length),
    }
    for scaling, omega in wanted.items():
        rope = positions.RoPE(
            d, base, scaling=scaling, factor=1.0 if scaling == "none" else s, trained_len=length
        )
        assert rope.frequencies().tolist() == pytest.approx(omega, rel=1e-12)
    # what each promises: the slowest pair is stretched s times, NTK and YaRN leave the fastest
    assert wanted["ntk"][-1] == pytest.approx(plain[-1] / s, rel=1e-12)
    assert wanted["yarn"][-1] == pytest.approx(plain[-1] / s, rel=1e-12)
    assert wanted["ntk"][0] == wanted["yarn"][0] == 1.0
    assert positions.RoPE(d, scaling="yarn", factor=s).amplitude == 0.1 * math.log(s) + 1


# --- other RoPEs: the interleaved layout ---


def test_interleaved_rope_equals_rotary_embedding_torch_and_x_transformers():
    from rotary_embedding_torch import RotaryEmbedding
    from x_transformers.x_transformers import RotaryEmbedding as XRotary
    from x_transformers.x_transformers import apply_rotary_pos_emb

    n, d = 40, 16
    x, pos = torch.randn(2, 3, n, d), torch.arange(n)
    ours = positions.RoPE(d, layout="interleaved").rotate(x, pos)
    torch.testing.assert_close(
        ours, RotaryEmbedding(d).rotate_queries_or_keys(x), atol=2e-5, rtol=1e-5
    )
    freqs, _ = XRotary(d).forward_from_seq_len(n)
    torch.testing.assert_close(ours, apply_rotary_pos_emb(x, freqs), atol=2e-5, rtol=1e-5)
    # part of the channels, and stretched
    part = positions.RoPE(d, d_rotary=8, layout="interleaved").rotate(x, pos)
    freqs, _ = XRotary(8).forward_from_seq_len(n)
    torch.testing.assert_close(part, apply_rotary_pos_emb(x, freqs), atol=2e-5, rtol=1e-5)
    wide = positions.RoPE(d, layout="interleaved", scaling="ntk", factor=4.0)
    torch.testing.assert_close(
        wide.rotate(x, pos), RotaryEmbedding(d, theta_rescale_factor=4.0).rotate_queries_or_keys(x),
        atol=2e-5, rtol=1e-5,
    )  # fmt: skip
    near = positions.RoPE(d, layout="interleaved", scaling="linear", factor=4.0)
    torch.testing.assert_close(
        near.rotate(x, pos), RotaryEmbedding(d, interpolate_factor=4.0).rotate_queries_or_keys(x),
        atol=2e-5, rtol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("n_heads, d_head, d_rotary", [(1, 8, 8), (3, 8, 4), (2, 6, 6)])
def test_converted_weights_give_the_same_scores_in_the_other_layout(n_heads, d_head, d_rotary):
    d, n = 10, 7
    x, pos = torch.randn(1, n, d).double(), torch.arange(n)
    w_q, w_k = torch.randn(2, n_heads * d_head, d).double()
    b_q = torch.randn(n_heads * d_head).double()

    def scores(layout, w_q, b_q, w_k):
        rope = positions.RoPE(d_head, layout=layout, d_rotary=d_rotary)
        q, k = (
            F.linear(x, w, b).unflatten(-1, (n_heads, d_head)).transpose(1, 2)
            for w, b in ((w_q, b_q), (w_k, None))
        )
        return attention_scores(q, k, encoding=rope, q_pos=pos, k_pos=pos)

    def converted(to, *parameters):
        return [positions.convert_layout(p, n_heads, to, d_rotary) for p in parameters]

    before = scores("interleaved", w_q, b_q, w_k)
    after = scores("half", *converted("half", w_q, b_q, w_k))
    torch.testing.assert_close(before, after, atol=1e-12, rtol=0)
    assert (scores("half", w_q, b_q, w_k) - before).abs().max() > 0.1 or d_rotary == 2
    there_and_back = converted("interleaved", *converted("half", w_q, b_q))
    assert torch.equal(there_and_back[0], w_q) and torch.equal(there_and_back[1], b_q)


def test_hugging_face_converts_llamas_weights_as_we_do():
    """The permutation of the script that turned Meta's checkpoints into Hugging Face's."""
    n_heads, d_head, d = 4, 6, 10
    w = torch.randn(n_heads * d_head, d)
    theirs = w.view(n_heads, d_head // 2, 2, d).transpose(1, 2).reshape(n_heads * d_head, d)
    assert torch.equal(positions.convert_layout(w, n_heads, "half"), theirs)


# --- after .bfloat16() ---


def test_rope_is_exact_after_bfloat16_where_peers_round_their_angles():
    from rotary_embedding_torch import RotaryEmbedding
    from x_transformers.x_transformers import RotaryEmbedding as XRotary
    from x_transformers.x_transformers import apply_rotary_pos_emb

    n, d = 2048, 64
    x = torch.randn(1, 1, n, d).bfloat16()
    exact = paper_rotation(x, range(n))
    ours = positions.RoPE(d).bfloat16().rotate(x, torch.arange(n))
    ideal = rms(exact.bfloat16() - exact)
    assert ours.dtype == torch.bfloat16 and rms(ours - exact) < 1.01 * ideal
    # the same rotation in the interleaved layout, for those who know only that one
    order = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])
    y = torch.empty_like(x)
    y[..., order] = x
    mixed = positions.RoPE(d, layout="interleaved").bfloat16().rotate(y, torch.arange(n))
    assert rms(mixed[..., order] - exact) < 1.01 * ideal
    peer = RotaryEmbedding(d).bfloat16()
    assert rms(peer.rotate_queries_or_keys(y)[..., order] - exact) > 50 * ideal
    # and its cache now holds the rounded angles also for float32
    poisoned = peer.rotate_queries_or_keys(y.float())[..., order]
    assert rms(poisoned - exact) > 1e4 * rms(
        positions.RoPE(d).rotate(x.float(), torch.arange(n)) - exact
    )
    freqs, _ = XRotary(d).bfloat16().forward_from_seq_len(n)
    assert rms(apply_rotary_pos_emb(y, freqs)[..., order] - exact) > 50 * ideal


def test_hugging_faces_llama_rope_rounds_its_frequencies_under_bfloat16():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    n, d = 2048, 64
    x = torch.randn(1, 1, n, d).bfloat16()
    exact = paper_rotation(x, range(n))
    rope = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=d, num_attention_heads=1, max_position_embeddings=n)
    ).bfloat16()
    theirs, _ = apply_rotary_pos_emb(x, x, *rope(x, torch.arange(n)[None]))
    ours = positions.RoPE(d).bfloat16().rotate(x, torch.arange(n))
    assert rms(theirs - exact) > 20 * rms(ours - exact)


def test_alibi_slopes_are_exact_after_bfloat16_where_a_peer_rounds_them():
    from x_transformers.x_transformers import AlibiPositionalBias

    h = 12
    paper = [2 ** (-8 * (i + 1) / 8) for i in range(8)] + [2 ** (-(i + 0.5)) for i in range(4)]
    ours = positions.ALiBi(h).bfloat16().relative_bias(torch.tensor([-1000]))
    assert ours.flatten().tolist() == pytest.approx([-1000 * m for m in paper], rel=1e-7)
    theirs = AlibiPositionalBias(h).bfloat16()
    assert theirs.slopes.flatten().tolist() != pytest.approx(paper, rel=1e-4)
    # its distances are rounded too: past 256 neighbours get the same bias
    n = 1024
    assert len(theirs(n, n)[0, 0].unique()) < 0.6 * n
    assert len(positions.ALiBi(h).bfloat16().relative_bias(torch.arange(n))[0].unique()) == n


# --- ALiBi ---


def test_alibi_slopes_equal_bloom_mpt_and_x_transformers():
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
    from x_transformers.x_transformers import AlibiPositionalBias

    for h in HEADS:
        ours = positions.ALiBi(h).slopes
        assert AlibiPositionalBias._get_slopes(h) == pytest.approx(ours, rel=1e-12)
        bloom = build_alibi_tensor(torch.ones(1, 2), h, torch.float32)[:, 0, 1]
        assert bloom.tolist() == pytest.approx(ours, rel=1e-6)
        mpt = -build_mpt_alibi_tensor(h, 2)[:, 0, 0]
        assert mpt.tolist() == pytest.approx(ours, rel=1e-6)


def test_alibi_scores_equal_bloom_under_a_causal_mask_and_x_transformers_without():
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from x_transformers.x_transformers import AlibiPositionalBias

    h, n, d = 6, 9, 4
    q, k = torch.randn(2, 1, h, n, d)
    plain = q @ k.mT / d**0.5
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    bloom = plain + build_alibi_tensor(torch.ones(1, n), h, torch.float32)[None]
    ours = attention_scores(q, k, encoding=positions.ALiBi(h), causal=True)
    # Bloom's bias is slope * key position: each row differs from the paper's by a constant
    torch.testing.assert_close(
        ours.softmax(-1), bloom.masked_fill(hidden, -torch.inf).softmax(-1), atol=1e-6, rtol=1e-5
    )
    both_sides = attention_scores(q, k, encoding=positions.ALiBi(h))
    torch.testing.assert_close(both_sides, plain + AlibiPositionalBias(h)(n, n))


# --- T5 ---


@pytest.mark.parametrize("causal", [False, True])
def test_t5_equals_hugging_face_and_x_transformers_for_the_sizes_that_t5_has(causal):
    from transformers.models.t5.modeling_t5 import T5Attention, T5Config
    from x_transformers.x_transformers import RelativePositionBias

    offset = torch.arange(-3000, 3001)
    ours = positions.t5_bucket(offset, causal=causal)
    theirs = T5Attention._relative_position_bucket(offset, bidirectional=not causal)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, RelativePositionBias._relative_position_bucket(offset, causal=causal))

    h, d, n = 4, 16, 40
    config = T5Config(
        d_model=d, num_heads=h, d_kv=d // h, is_decoder=causal, dropout_rate=0.0
    )
    config._attn_implementation = "eager"
    layer = T5Attention(config, has_relative_attention_bias=True, layer_idx=0, is_causal=causal)
    encoding = positions.T5Bias(h, causal=causal)
    # T5 does not divide by sqrt(d_head): that is scale=1.0
    mine = MultiHeadAttention(d, h, bias=False, encoding=encoding, scale=1.0)
    with torch.no_grad():
        encoding.weight.copy_(layer.relative_attention_bias.weight)
        mine.in_proj.weight.copy_(torch.cat([layer.q.weight, layer.k.weight, layer.v.weight]))
        mine.out_proj.weight.copy_(layer.o.weight)
    pos = torch.arange(n)
    torch.testing.assert_close(
        encoding.bias(torch.zeros(1), torch.zeros(1), pos, pos), layer.compute_bias(n, n)
    )
    x = torch.randn(2, n, d)
    hidden = torch.full((n, n), -torch.inf).triu(1)[None, None] if causal else None
    torch.testing.assert_close(
        mine(x, causal=causal), layer(x, mask=hidden)[0], atol=1e-5, rtol=1e-4
    )


def paper_bucket(distance, side, top):
    """One side of T5's buckets; the logarithms are compared as whole powers, so nothing rounds."""
    own = side // 2
    if distance < own:
        return distance
    steps = side - own
    return own + max(
        s for s in range(steps) if top**s * own ** (steps - s) <= distance**steps
    )


@pytest.mark.parametrize("n_buckets", [8, 16, 32, 48, 64, 128])
@pytest.mark.parametrize("top", [65, 128, 243, 1000])
def test_t5_boundaries_are_exact(n_buckets, top):
    ours = positions.t5_bucket(-torch.arange(1100), n_buckets, top, causal=True)
    assert ours.tolist() == [paper_bucket(d, n_buckets, top) for d in range(1100)]


# --- grouped heads ---


def test_grouped_heads_are_those_of_torch_and_not_tiled():
    q, k, v = torch.randn(1, 6, 5, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    ours = scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    # the paper's groups (Ainslie et al. 2023): query heads 0, 1, 2 share key head 0
    for i in range(6):
        head = (q[0, i] @ k[0, i // 3].T / 2).softmax(-1) @ v[0, i // 3]
        torch.testing.assert_close(ours[0, i], head)
    tiled = F.scaled_dot_product_attention(q, k.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1))
    assert (ours - tiled).abs().max() > 0.1


def test_x_transformers_tiles_its_grouped_heads():
    from x_transformers.x_transformers import Attention

    d, h, n_kv = 12, 6, 2
    theirs = Attention(d, heads=h, kv_heads=n_kv, dim_head=4)
    ours = MultiHeadAttention(d, h, n_kv_heads=n_kv, d_head=4, bias=False)
    with torch.no_grad():
        projections = (theirs.to_q, theirs.to_k, theirs.to_v)
        ours.in_proj.weight.copy_(torch.cat([p.weight for p in projections]))
        ours.out_proj.weight.copy_(theirs.to_out.weight)
        x = torch.randn(1, 5, d)
        assert (ours(x) - theirs(x)).abs().max() > 1e-3
        # their query head i reads key head i mod n_kv: sort the query heads so, and all agree
        order = torch.arange(h).view(-1, n_kv).T.flatten()
        rows = theirs.to_q.weight.unflatten(0, (h, 4))[order].flatten(0, 1)
        ours.in_proj.weight[: h * 4] = rows
        columns = theirs.to_out.weight.unflatten(1, (h, 4))[:, order].flatten(1, 2)
        ours.out_proj.weight.copy_(columns)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-4)


# --- absolute encodings ---


def test_sinusoidal_equals_hugging_face_and_x_transformers_up_to_the_order_of_channels():
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
    from x_transformers.x_transformers import ScaledSinusoidalEmbedding

    n, d = 300, 32
    ours = positions.Sinusoidal(d).table(torch.arange(n))
    order = torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])  # sines, then cosines
    marian = MarianSinusoidalPositionalEmbedding(n, d).create_weight()
    torch.testing.assert_close(ours[:, order], marian, atol=1e-6, rtol=0)
    x_table = ScaledSinusoidalEmbedding(d)
    theirs = x_table(torch.zeros(1, n, d)) / x_table.scale
    torch.testing.assert_close(ours[:, order], theirs.detach(), atol=5e-5, rtol=0)
    # float32 angles drift with the position; ours are computed in float64
    far = torch.arange(100_000, 100_008)
    angle = paper_angles(far.tolist(), d)
    exact = torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
    assert (positions.Sinusoidal(d).table(far) - exact).abs().max() < 1e-7
    theirs = (x_table(torch.zeros(1, 8, d), pos=far) / x_table.scale).detach()
    assert (theirs - exact[:, order]).abs().max() > 1e-3


# --- Shaw ---


def test_shaw_equals_hugging_faces_key_side():
    from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import (
        Wav2Vec2BertConfig,
        Wav2Vec2BertSelfAttention,
    )

    d, h, n, clip = 16, 2, 9, 3
    config = Wav2Vec2BertConfig(
        hidden_size=d, num_attention_heads=h, attention_dropout=0.0,
        position_embeddings_type="relative_key", left_max_position_embeddings=clip,
        right_max_position_embeddings=clip,
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = Wav2Vec2BertSelfAttention(config)
    shaw = positions.Shaw(d // h, clip=clip, value_side=False)
    ours = MultiHeadAttention(d, h, encoding=shaw)
    with torch.no_grad():
        shaw.key_table.copy_(theirs.distance_embedding.weight)
        parts = (theirs.linear_q, theirs.linear_k, theirs.linear_v)
        ours.in_proj.weight.copy_(torch.cat([p.weight for p in parts]))
        ours.in_proj.bias.copy_(torch.cat([p.bias for p in parts]))
        ours.out_proj.weight.copy_(theirs.linear_out.weight)
        ours.out_proj.bias.copy_(theirs.linear_out.bias)
    x = torch.randn(2, n, d)
    torch.testing.assert_close(ours(x), theirs(x)[0], atol=1e-6, rtol=1e-4)
