"""attnlab.heads: scores against their definitions, pruning against gates, sharing against means."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attnlab import MultiHeadAttention, heads, positions
from attnlab.cache import KVCache
from attnlab.models import Encoder, EncoderConfig, TinyTransformer
from attnlab.train import fit
from attnlab.windows import Window, hierarchical


def layer_and_losses(n_heads=4, batch=6, n=5, d_model=8, seed=0, **options):
    """A float64 layer, and the squared error of each example against random targets."""
    torch.manual_seed(seed)
    layer = MultiHeadAttention(d_model, n_heads, **options).double()
    x, y = torch.randn(2, batch, n, d_model, dtype=torch.float64)
    return layer, lambda: (layer(x) - y).square().sum((1, 2))


def tiny(seed=0, encoding="rope", **options):
    torch.manual_seed(seed)
    options = {"d_model": 16, "n_heads": 4, "n_layers": 2, **options}
    return TinyTransformer(11, 3, encoding=encoding, **options).double()


IDS = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(5))


def outputs(layer):
    """The heads' outputs as they enter W_O, (batch, n, heads * d_head), kept for their gradient."""
    kept = []

    def keep(_module, arguments):
        kept.append(arguments[0])
        arguments[0].retain_grad()

    return kept, layer.out_proj.register_forward_pre_hook(keep)


# --- importance -------------------------------------------------------------------------------


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_gate_importance_is_the_inner_product_of_output_and_gradient(n_kv_heads):
    layer, losses = layer_and_losses(n_kv_heads=n_kv_heads)
    kept, hook = outputs(layer)
    losses().sum().backward()
    hook.remove()
    product = (kept[0] * kept[0].grad).unflatten(-1, (4, -1)).sum((1, 3))  # (batch, heads)
    found = heads.gate_importance(layer, losses)[""]
    torch.testing.assert_close(found, product.abs().mean(0))
    norms = kept[0].grad.unflatten(-1, (4, -1)).square().sum((1, 3)).sqrt().mean(0)
    torch.testing.assert_close(heads.gradient_norm(layer, losses)[""], norms)


def test_gate_importance_is_the_slope_of_each_loss_in_its_gate():
    layer, losses = layer_and_losses()
    found, step = heads.gate_importance(layer, losses)[""], 1e-5
    for head in range(4):
        ends = []
        for sign in (1, -1):
            gate = torch.ones(4, dtype=torch.float64)
            gate[head] += sign * step
            with heads.gated(layer, {"": gate}), torch.no_grad():
                ends.append(losses())
        slope = (ends[0] - ends[1]) / (2 * step)  # one for each example
        torch.testing.assert_close(found[head], slope.abs().mean(), rtol=1e-6, atol=0)


def test_the_signed_mean_is_what_the_output_matrix_feels():
    layer, losses = layer_and_losses(bias=False)
    gates = torch.ones(4, dtype=torch.float64, requires_grad=True)
    with heads.gated(layer, {"": gates}):
        losses().mean().backward()
    weight = layer.out_proj.weight
    by_head = (weight * weight.grad).unflatten(1, (4, -1)).sum((0, 2))
    torch.testing.assert_close(gates.grad, by_head)


@settings(max_examples=25)
@given(
    factors=st.lists(st.floats(-3, 3), min_size=4, max_size=4), n_kv_heads=st.sampled_from([2, 4]),
    seed=st.integers(0, 10),
)  # fmt: skip
def test_a_rescaling_that_changes_nothing_leaves_gate_importance_alone(factors, n_kv_heads, seed):
    layer, losses = layer_and_losses(n_kv_heads=n_kv_heads, bias=False, seed=seed)
    gate, norm = (s(layer, losses)[""] for s in (heads.gate_importance, heads.gradient_norm))
    before = losses()
    group = 4 // n_kv_heads
    with torch.no_grad():
        for kv in range(n_kv_heads):
            layer.w_v[kv].mul_(2.0 ** factors[kv])
            layer.w_o[kv * group : (kv + 1) * group].div_(2.0 ** factors[kv])
    torch.testing.assert_close(losses(), before)
    torch.testing.assert_close(heads.gate_importance(layer, losses)[""], gate)
    scale = torch.tensor(factors[:n_kv_heads], dtype=torch.float64).repeat_interleave(group)
    torch.testing.assert_close(heads.gradient_norm(layer, losses)[""], norm / 2.0**scale)


def test_a_dead_head_has_a_gradient_and_no_importance():
    layer, losses = layer_and_losses(bias=False)
    with torch.no_grad():
        layer.w_v[1].zero_()
    assert heads.gate_importance(layer, losses)[""][1] == 0
    assert heads.ablation(layer, lambda: losses().mean())[""][1] == 0
    assert heads.gradient_norm(layer, losses)[""][1] > 0.1


def test_normalised_scores_have_length_one_in_each_layer():
    model = tiny()
    scores = heads.gate_importance(
        model, lambda: model(IDS).square().mean((1, 2)), normalise=True
    )
    assert list(scores) == ["layers.0.attention", "layers.1.attention"]
    for score in scores.values():
        assert score.norm().item() == pytest.approx(1)


@pytest.mark.parametrize("score", [heads.gate_importance, heads.gradient_norm])
def test_scores_need_one_loss_for_each_example(score):
    layer, losses = layer_and_losses()
    for wrong in (lambda: losses().mean(), lambda: losses()[:0], lambda: losses()[None]):
        with pytest.raises(ValueError, match="one loss for each example"):
            score(layer, wrong)
    assert layer.gates is None and not layer.out_proj._forward_pre_hooks


@pytest.mark.parametrize("score", [heads.gate_importance, heads.gradient_norm])
def test_layers_that_the_loss_does_not_use_score_zero(score):
    layer, losses = layer_and_losses()
    both = nn.ModuleDict({"used": layer, "idle": MultiHeadAttention(8, 2).double()})
    found = score(both, losses)
    assert found["idle"].tolist() == [0, 0] and (found["used"] > 0).all()


@pytest.mark.parametrize("score", [heads.gate_importance, heads.gradient_norm])
def test_scores_leave_parameters_and_gradients_as_they_were(score):
    layer, losses = layer_and_losses()
    for p in layer.parameters():
        p.requires_grad_(False)
    before = copy.deepcopy(layer.state_dict())
    found = score(layer, losses)[""]
    assert (found > 0).all() and not found.requires_grad
    assert all(p.grad is None for p in layer.parameters())
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


# --- gates, ablation, order -------------------------------------------------------------------


def test_ablation_is_the_loss_without_the_rows_of_w_o():
    layer, losses = layer_and_losses()
    whole = losses().mean()
    for head in range(4):
        cut = copy.deepcopy(layer.w_o.detach())
        with torch.no_grad():
            layer.w_o[head].zero_()
            without = losses().mean()
            layer.w_o[head].copy_(cut[head])
        found = heads.ablation(layer, lambda: losses().mean())[""][head]
        assert found.item() == pytest.approx((without - whole).item(), rel=1e-5)


def test_gates_are_put_back_also_after_an_error():
    model = tiny()
    first = model.layers[0].attention
    first.gates = torch.tensor([1.0, 0.5, 1.0, 1.0])
    with pytest.raises(RuntimeError), heads.without(model, [("layers.0.attention", 0)]):
        assert first.gates.tolist() == [0.0, 0.5, 1.0, 1.0]
        raise RuntimeError
    assert first.gates.tolist() == [1.0, 0.5, 1.0, 1.0] and model.layers[1].attention.gates is None


def test_unknown_heads_are_named():
    model = tiny()
    for use in (heads.prune, lambda m, h: heads.without(m, h).__enter__()):
        with pytest.raises(ValueError, match="no attention layer 'layer'; there are layers.0.att"):
            use(model, [("layer", 0)])
        with pytest.raises(ValueError, match=r"has heads 0 \.\.\. 3, not 4"):
            use(model, [("layers.1.attention", 4)])
    with pytest.raises(ValueError, match="no attention layer"), heads.gated(model, {"x": IDS}):
        pass


def test_ranking_puts_the_least_important_first_and_keeps_ties_in_order():
    scores = {"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([1.0, 0.0])}
    assert heads.ranking(scores) == [("b", 1), ("a", 1), ("b", 0), ("a", 2), ("a", 0)]


def test_random_order_has_every_head_once_and_follows_its_generator():
    model = tiny()
    first, again = (heads.random_order(model, torch.Generator().manual_seed(3)) for _ in "ab")
    assert first == again and sorted(first) == sorted(heads.all_heads(model))
    assert first != heads.all_heads(model)


# --- pruning ----------------------------------------------------------------------------------

ENCODINGS = ("none", "learned", "sinusoidal", "rope", "alibi", "t5", "sandwich", "shaw")


@st.composite
def prunings(draw):
    """A tiny model, and heads of it, as many from each group or whole groups."""
    n_kv_heads = draw(st.sampled_from([1, 2, 4]))
    group = 4 // n_kv_heads
    gone = []
    for name in ("layers.0.attention", "layers.1.attention"):
        stay = draw(st.integers(1, group))  # query heads that stay in each group that stays
        for kv in range(n_kv_heads):
            members = draw(st.permutations(range(kv * group, (kv + 1) * group)))
            whole = draw(st.booleans())
            gone += [(name, h) for h in (members if whole else members[stay:])]
    windows = draw(st.sampled_from([
        None, 2, Window(4, 2), (None, 1, 2, 3), [Window(2), None, Window(4, 2), 1],
        hierarchical(4, 1),
    ]))  # fmt: skip
    options = {
        "n_kv_heads": n_kv_heads, "windows": windows, "encoding": draw(st.sampled_from(ENCODINGS)),
        "bias": draw(st.booleans()), "causal": draw(st.booleans()),
        "d_ff": draw(st.sampled_from([0, 8])), "d_head": draw(st.sampled_from([None, 6])),
    }  # fmt: skip
    return tiny(draw(st.integers(0, 5)), **options), gone


@settings(max_examples=150)
@given(prunings())
def test_a_pruned_model_computes_what_the_gated_one_does(problem):
    model, gone = problem
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad(), heads.without(model, gone):
        expected = model(IDS)
    state = torch.get_rng_state()
    small = heads.prune(model, gone)
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        torch.testing.assert_close(small(IDS), expected, atol=1e-10, rtol=0)
    assert len(heads.all_heads(small)) == len(heads.all_heads(model)) - len(gone)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    small(IDS).sum().backward()  # it can be trained on
    assert all(p.grad is None for p in model.parameters())


def test_float32_agrees_to_a_millionth():
    model = tiny().float()
    gone = [("layers.0.attention", 1), ("layers.1.attention", 3), ("layers.1.attention", 0)]
    with torch.no_grad(), heads.without(model, gone):
        expected = model(IDS)
    with torch.no_grad():
        torch.testing.assert_close(heads.prune(model, gone)(IDS), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
def test_a_head_takes_its_share_of_four_matrices_with_it(bias):
    layer = MultiHeadAttention(16, 4, bias=bias)
    small = heads.prune(layer, [("", 2)])

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(layer) - count(small) == 4 * 16 * 4 + bias * 3 * 4
    for name in ("w_q", "w_k", "w_v", "w_o"):
        assert torch.equal(getattr(small, name), getattr(layer, name)[[0, 1, 3]])


def test_a_key_value_head_goes_with_its_last_reader():
    layer = MultiHeadAttention(16, 4, n_kv_heads=2)
    assert heads.prune(layer, [("", 0), ("", 1)]).n_kv_heads == 1
    assert heads.prune(layer, [("", 0), ("", 3)]).n_kv_heads == 2
    with pytest.raises(ValueError, match=r"unlike numbers of query heads \(\{0: 1, 1: 2\}\)"):
        heads.prune(layer, [("", 0)])


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_may_lose_all_heads(bias):
    layer = MultiHeadAttention(16, 4, bias=bias)
    nn.init.normal_(layer.out_proj.weight)
    if bias:
        nn.init.normal_(layer.out_proj.bias)
    x = torch.randn(2, 3, 16)
    small = heads.prune(layer, heads.all_heads(layer))
    with heads.without(layer, heads.all_heads(layer)):
        torch.testing.assert_close(small(x), layer(x))
    assert sum(p.numel() for p in small.parameters()) == 16 * bias
    assert heads.all_heads(small) == []


@pytest.mark.parametrize("encoding", ["rope", "learned"])
def test_decoding_with_caches_goes_on_after_pruning_a_whole_layer(encoding):
    model = tiny(encoding=encoding)
    small = heads.prune(model, [("layers.0.attention", h) for h in range(4)])
    caches = [KVCache() for _ in small.layers]
    with torch.no_grad():
        steps = [small(IDS[:, t : t + 1], caches=caches) for t in range(IDS.shape[1])]
        torch.testing.assert_close(torch.cat(steps, 1), small(IDS))


def test_settings_of_a_layer_stay():
    layer = MultiHeadAttention(16, 4, scale=0.3, windows=[1, 2, 3, None]).eval()
    layer.temperature, layer.backend = 2.0, "dense"
    layer.gates = torch.tensor([0.1, 0.2, 0.3, 0.4])
    layer.in_proj.weight.requires_grad_(False)
    small = heads.prune(layer, [("", 1)])
    assert (small.scale, small.temperature, small.backend) == (0.3, 2.0, "dense")
    assert small.windows == [1, 3, None] and not small.training
    torch.testing.assert_close(small.gates, torch.tensor([0.1, 0.3, 0.4]))
    assert not small.in_proj.weight.requires_grad and small.out_proj.weight.requires_grad


def test_an_encoding_of_the_model_stays_the_models():
    small = heads.prune(tiny(encoding="learned"), [("layers.0.attention", 0)])
    assert small.layers[0].attention.encoding is small.encoding
    assert not any("attention.encoding" in name for name, _ in small.named_parameters())
    alibi = heads.prune(tiny(encoding="alibi"), [("layers.0.attention", 0)])
    slopes = alibi.encoding.slopes
    assert alibi.layers[0].attention.encoding.slopes == slopes[1:]
    assert alibi.layers[1].attention.encoding.slopes == slopes


def test_a_layer_used_twice_is_pruned_in_both_places():
    layer = MultiHeadAttention(16, 4)
    model = nn.Sequential(layer, nn.LayerNorm(16), layer)
    x = torch.randn(2, 5, 16)
    with heads.without(model, [("0", 1)]):
        expected = model(x)
    small = heads.prune(model, [("0", 1)])
    assert small[0] is small[2]
    torch.testing.assert_close(small(x), expected)


def test_the_real_models_encoder_can_be_pruned():
    config = EncoderConfig(vocab_size=11, n_layers=2, d_model=16, n_heads=4, d_ff=8, max_len=16)
    torch.manual_seed(0)
    model = Encoder(config).eval()
    gone = [heads.all_heads(model)[i] for i in (0, 5, 6)]
    with torch.no_grad(), heads.without(model, gone):
        expected = model(IDS)
    with torch.no_grad():
        torch.testing.assert_close(heads.prune(model, gone)(IDS), expected, atol=1e-5, rtol=0)


def test_pruning_nothing_or_twice():
    model = tiny()
    same = heads.prune(model, [])
    assert same is not model and torch.equal(same(IDS), model(IDS))
    name = "layers.0.attention"
    once = heads.prune(model, [(name, 0), (name, 2), (name, 2)])
    twice = heads.prune(heads.prune(model, [(name, 0)]), [(name, 1)])  # 2 is called 1 by then
    assert torch.equal(once(IDS), twice(IDS))


# --- in steps ---------------------------------------------------------------------------------


def duplicates():
    """Three heads; the first two are one head, twice. The target is what they compute."""
    layer, _ = layer_and_losses(n_heads=3, d_model=12, bias=False)
    with torch.no_grad():
        for name in ("w_q", "w_k", "w_v", "w_o"):
            getattr(layer, name)[1].copy_(getattr(layer, name)[0])
        layer.w_o[2].mul_(0.3)
        x = torch.randn(6, 5, 12, dtype=torch.float64)
        y = layer(x) + 0.1 * torch.randn(6, 5, 12, dtype=torch.float64)
    return layer, lambda: (layer(x) - y).square().sum((1, 2))


def test_duplicates_score_alike_and_one_will_do_if_doubled():
    layer, losses = duplicates()
    for scores in (
        heads.gate_importance(layer, losses), heads.gradient_norm(layer, losses),
        heads.ablation(layer, lambda: losses().mean()),
    ):  # fmt: skip
        assert scores[""][0].item() == pytest.approx(scores[""][1].item())
    whole = losses()
    with heads.gated(layer, {"": torch.tensor([2.0, 0.0, 1.0])}):
        torch.testing.assert_close(losses(), whole)


def test_steps_measure_anew():
    layer, losses = duplicates()

    def score(model, losses):
        return heads.ablation(model, lambda: losses().mean())

    order = heads.prune_in_steps(layer, losses, 3, score=score)
    scores, expected = score(layer, losses), []
    while len(expected) < 3:
        with heads.without(layer, expected):
            now = score(layer, losses)
        expected.append(next(h for h in heads.ranking(now) if h not in expected))
    assert order == expected and sorted(order) == heads.all_heads(layer)
    with heads.without(layer, [("", 0)]):
        assert score(layer, losses)[""][1] > 1.5 * scores[""][1]


@given(n=st.integers(0, 8), step=st.integers(1, 9))
@settings(max_examples=20)
def test_steps_of_any_size_remove_each_head_once(n, step):
    model = tiny()

    def losses():
        return model(IDS).square().mean((1, 2))

    order = heads.prune_in_steps(model, losses, n, step)
    assert len(set(order)) == len(order) == n
    first = heads.ranking(heads.gate_importance(model, losses))[: min(n, step)]
    assert order[:step] == first
    assert all(layer.gates is None for layer in heads.attention_layers(model).values())


def test_steps_refuse_what_cannot_be():
    layer, losses = duplicates()
    for n, step in ((4, 1), (-1, 1), (2, 0)):
        with pytest.raises(ValueError, match="cannot remove"):
            heads.prune_in_steps(layer, losses, n, step)


def test_fine_tuning_a_pruned_model_lowers_its_loss():
    model = tiny().float()
    target = torch.randn(3, 7, 3, generator=torch.Generator().manual_seed(0))
    small = heads.prune(model, [("layers.0.attention", 0), ("layers.1.attention", 2)])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    history = fit(small, lambda: (small(IDS) - target).square().mean(), steps=30, lr=0.01)
    assert history[-1] < 0.8 * history[0]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# --- sharing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [None, positions.RoPE(4), positions.ALiBi(4)])
@pytest.mark.parametrize("bias", [False, True])
def test_sharing_keys_and_values_takes_their_means(bias, encoding):
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 4, bias=bias, encoding=encoding, windows=[1, 2, None, 3])
    layer = layer.double()
    nn.init.normal_(layer.in_proj.weight)
    state = torch.get_rng_state()
    shared = heads.share_heads(layer, 2)
    assert torch.equal(state, torch.get_rng_state())
    for name in ("w_k", "w_v"):
        means = getattr(layer, name).unflatten(0, (2, 2)).mean(1)
        torch.testing.assert_close(getattr(shared, name), means)
    assert torch.equal(shared.w_q, layer.w_q) and torch.equal(shared.w_o, layer.w_o)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(heads.share_heads(layer, 4)(x), layer(x), atol=1e-14, rtol=0)
    assert (shared(x) - layer(x)).abs().max() > 1e-3


def test_sharing_heads_that_are_the_same_changes_nothing():
    layer = MultiHeadAttention(16, 4).double()
    with torch.no_grad():
        for name in ("w_k", "w_v"):
            getattr(layer, name)[1].copy_(getattr(layer, name)[0])
            getattr(layer, name)[3].copy_(getattr(layer, name)[2])
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(heads.share_heads(layer, 2)(x), layer(x))


def test_a_shared_layer_stores_no_encoding_that_belongs_to_the_model():
    model = tiny(encoding="learned")
    names = set(model.state_dict())
    model.layers[0].attention = heads.share_heads(model.layers[0].attention, 1)
    assert set(model.state_dict()) == names
    assert model.layers[0].attention.encoding is model.encoding


@pytest.mark.parametrize("n", [0, 3, 8])
def test_sharing_needs_a_divisor(n):
    with pytest.raises(ValueError, match="does not divide the layer's 4"):
        heads.share_heads(MultiHeadAttention(16, 4), n)
