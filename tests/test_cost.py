"""Counts against torch's own counters."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnlab import MultiHeadAttention, cost


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("d_model, n_heads, d_head, n_kv_heads", [
    (64, 8, None, None), (64, 8, None, 2), (48, 5, 7, 1), (512, 8, 64, 8),
])  # fmt: skip
def test_parameters_are_those_of_the_module(d_model, n_heads, d_head, n_kv_heads, bias):
    mha = MultiHeadAttention(d_model, n_heads, d_head=d_head, n_kv_heads=n_kv_heads, bias=bias)
    counted = sum(p.numel() for p in mha.parameters())
    assert cost.attention_parameters(d_model, n_heads, d_head, n_kv_heads, bias) == counted


@pytest.mark.parametrize("n_kv_heads", [1, 2, 8])
def test_flops_are_those_torch_counts(n_kv_heads):
    mha = MultiHeadAttention(64, 8, n_kv_heads=n_kv_heads)
    mha.backend = "dense"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mha(torch.randn(1, 33, 64))
    flops = cost.attention_flops(33, 64, 8, n_kv_heads=n_kv_heads)
    assert flops["total"] == counter.get_total_flops()


def test_cost_errors_say_what_to_do():
    with pytest.raises(ValueError, match="n_heads = 3 does not divide d_model = 64: give d_head"):
        cost.attention_parameters(64, 3)
    with pytest.raises(ValueError, match="n_kv_heads = 3 does not divide n_heads = 8"):
        cost.attention_flops(10, 64, 8, n_kv_heads=3)
    with pytest.raises(ValueError, match="n_kv_heads = 0 does not divide"):
        cost.attention_parameters(64, 0)
