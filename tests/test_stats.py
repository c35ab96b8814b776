"""The numbers about heads, each against its definition written out once more with loops."""

import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnlab import MultiHeadAttention, stats

NAN = float("nan")


def random_weights(*shape: int, seed: int = 0, visible=None) -> torch.Tensor:
    scores = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1)


def test_entropy():
    weights = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0], [0] * 4])
    expected = torch.tensor([0, math.log(4), math.log(2), 0])
    torch.testing.assert_close(stats.entropy(weights), expected)


def test_a_uniform_causal_head_has_normalised_entropy_one():
    visible = stats.causal_visible(6)
    uniform = visible / visible.sum(-1, keepdim=True)
    found = stats.normalised_entropy(uniform, visible)
    assert math.isnan(found[0])  # one key: no choice
    torch.testing.assert_close(found[1:], torch.ones(5))
    # by log n, as if all keys were visible, the same head would look focused
    assert (stats.entropy(uniform) / math.log(6)).mean() < 0.7


def test_visible_must_be_boolean():
    with pytest.raises(ValueError, match="visible must be boolean"):
        stats.normalised_entropy(torch.eye(3), torch.ones(3, 3))


@given(st.integers(1, 7), st.integers(0, 6), st.integers(0, 99))
def test_distance_by_loops(n_q, past, seed):
    n_k = n_q + past
    weights = random_weights(2, n_q, n_k, seed=seed)
    found = stats.attention_distance(weights)
    for h in range(2):
        for i in range(n_q):
            meant = sum(weights[h, i, j] * abs(past + i - j) for j in range(n_k))
            assert found[h, i] == pytest.approx(float(meant))


def test_distance_of_given_positions():
    one_hot = torch.eye(4)[None, :2]  # queries 0 and 1 on keys 0 and 1, but standing at 5 and 9
    assert stats.attention_distance(one_hot, torch.tensor([5, 9])).tolist() == [[5, 8]]


@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 3])
def test_mass_and_share_at_an_offset_by_loops(offset):
    weights = random_weights(3, 6, 6)
    pairs = [(i, i + offset) for i in range(6) if 0 <= i + offset < 6]
    for h in range(3):
        mass = numpy.mean([float(weights[h, i, j]) for i, j in pairs])
        share = numpy.mean([float(weights[h, i].argmax() == j) for i, j in pairs])
        assert float(stats.offset_mass(weights, offset)[h]) == pytest.approx(mass)
        assert float(stats.offset_share(weights, offset)[h]) == pytest.approx(share)


def test_an_offset_beyond_the_text_has_no_mass():
    assert stats.offset_mass(torch.eye(3), 5).isnan()


def test_previous_token_head():
    weights = torch.eye(5).roll(1, 0)  # row i looks at i - 1, row 0 at the last
    assert float(stats.offset_mass(weights, -1)) == 1
    assert float(stats.offset_share(weights, -1)) == 1
    assert float(stats.offset_mass(weights, 1)) == 0


def test_key_mass():
    weights = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0, 0]])
    assert float(stats.key_mass(weights)) == 0.75
    assert float(stats.key_mass(weights, torch.tensor([1, 2]))) == 0.25


def test_a_sink_with_a_small_value_arrives_as_nothing():
    layer = MultiHeadAttention(8, 2)
    x = torch.randn(1, 4, 8)
    v = layer.heads(x)[2].detach()
    v[:, :, 0] = 0
    weights = torch.zeros(1, 2, 4, 4)
    weights[..., 0], weights[..., 1] = 0.9, 0.1
    found = stats.norm_weights(weights, v, layer.w_o.detach())
    assert found.shape == weights.shape
    assert float(found[..., 0].abs().max()) == 0
    meant = (0.1 * v[0, 1, 1] @ layer.w_o[1].detach()).norm()
    torch.testing.assert_close(found[0, 1, 2, 1], meant)


def test_gold_by_hand():
    weights = torch.tensor([[[0.9, 0.1], [0.3, 0.7]], [[0.2, 0.8], [0.6, 0.4]]])
    links = torch.tensor([[0, 1], [1, 0]])
    torch.testing.assert_close(stats.gold_mass(weights, links), torch.tensor([0.2, 0.7]))
    torch.testing.assert_close(stats.gold_accuracy(weights, links), torch.tensor([0.0, 1.0]))
    both = torch.stack([weights, weights.flip(1)])
    of = torch.tensor([1, 0])  # the first link is in the second text
    torch.testing.assert_close(stats.gold_mass(both, links, of), torch.tensor([0.5, 0.5]))


def test_gold_errors():
    weights = torch.ones(2, 3, 3, 3) / 3
    with pytest.raises(ValueError, match="links must be"):
        stats.gold_mass(weights[0], torch.zeros(0, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="say in `batch`"):
        stats.gold_mass(weights, torch.zeros(1, 2, dtype=torch.long))


def test_correlation_without_baseline_is_numpys():
    weights = random_weights(4, 9, 9)
    meant = numpy.corrcoef(weights.flatten(1).numpy())
    numpy.testing.assert_allclose(stats.head_correlation(weights, baseline=False), meant, atol=1e-9)


def test_correlation_with_baseline_by_loops():
    visible = stats.causal_visible(7)
    weights = random_weights(3, 7, 7, visible=visible)
    flat = [
        [float(w[i, j]) - 1 / (i + 1) for i in range(7) for j in range(i + 1)] for w in weights
    ]
    meant = numpy.corrcoef(flat)
    numpy.testing.assert_allclose(stats.head_correlation(weights, visible), meant, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_independent_causal_heads_correlate_until_the_baseline_is_gone(seed):
    visible = stats.causal_visible(256)
    generator = torch.Generator().manual_seed(seed)
    scores = 0.3 * torch.randn(8, 256, 256, generator=generator)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    off = ~torch.eye(8, dtype=torch.bool)
    assert stats.head_correlation(weights, baseline=False)[off].min() > 0.85
    assert stats.head_correlation(weights, visible)[off].mean().abs() < 0.03


def test_a_uniform_head_correlates_with_nothing():
    visible = stats.causal_visible(33)
    scores = torch.zeros(2, 33, 33)
    scores[1] = torch.randn(33, 33)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    found = stats.head_correlation(weights, visible)
    assert found[0].isnan().all() and float(found[1, 1]) == pytest.approx(1)


def test_output_similarity():
    one = torch.randn(1, 5, 3)
    found = stats.output_similarity(torch.cat([one, 2 * one, -one, torch.zeros_like(one)]))
    torch.testing.assert_close(found[:3, :3], torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]]))
    assert found[3].isnan().all()


def test_js_distance_by_loops():
    weights = random_weights(3, 4, 6)

    def entropy(p):
        return -sum(x * math.log(x) for x in p if x > 0)

    for a in range(3):
        for b in range(3):
            js = numpy.mean([
                entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
                for p, q in zip(weights[a].numpy(), weights[b].numpy(), strict=True)
            ])  # fmt: skip
            found = float(stats.js_distance(weights)[a, b])
            assert found == pytest.approx(math.sqrt(max(js, 0)), abs=1e-7)


def test_js_distance_of_heads_that_never_meet():
    weights = torch.stack([torch.eye(4), torch.eye(4).roll(1, 0)])
    found = stats.js_distance(weights)
    torch.testing.assert_close(found, math.sqrt(math.log(2)) * (1 - torch.eye(2)))
