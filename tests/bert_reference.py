"""transformers' BertModel as the reference: a small random one, and the comparison."""

from typing import NamedTuple

import pytest
import torch

from attnlab.attention import capture

SENTENCES = [
    "The cat sat on the mat because it was tired.",
    "She gave him the book, and he thanked her.",
    "Attention is a weighted average.",
    "Why?",
    "",
    "The trophy does not fit into the suitcase because it is too big.",
    "Colourless green ideas sleep furiously.",
    "In 1905, Einstein published four papers; each changed physics.",
    "Prices rose by 3.75% to €1,299.00 within 24 hours.",
    "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo.",
    "Antidisestablishmentarianism and floccinaucinihilipilification",
    "The keys that the man who owns the shops lost are on the table.",
    "😀 🎉 emoji everywhere 👩‍👩‍👧",
    "שלום עולם، مرحبا بالعالم",
    "<script>alert('hello')</script>",
    "Der Fluß überquerte gestern die Straße.",
    "注意力机制 は 面白い",
    "e = mc² and ∑ xᵢ ≤ √n",
    "a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a",
    "No, no, no! " * 12,
]


def small_bert(seed: int = 0):
    """A random BERT whose attention is far from uniform, no bias 0 and no LayerNorm weight 1. Who
    asks for it where there are no transformers is skipped."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=60,
        num_hidden_layers=3,
        hidden_size=24,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in bert.named_parameters():
            parameter.normal_(std=0.4, generator=generator)
            if "LayerNorm.weight" in name:
                parameter.add_(1.0)
    return bert


class Differences(NamedTuple):
    """The largest absolute differences, over all real tokens."""

    output: float
    states: float  # of every layer
    weights: float  # of every layer


@torch.no_grad()
def largest_differences(encoder, bert, ids, padding=None) -> Differences:
    """Between an Encoder and a BertModel that read the same tokens."""
    real = torch.ones_like(ids, dtype=torch.bool) if padding is None else padding
    theirs = bert(
        ids, attention_mask=real.long(), output_hidden_states=True, output_attentions=True
    )
    states = encoder.hidden_states(ids, padding)
    with capture(encoder) as seen:
        encoder(ids, padding)
    assert len(states) == len(theirs.hidden_states)
    assert len(seen) == len(theirs.attentions) == len(encoder.layers)
    of_states = [
        (a - b)[real].abs().max().item() for a, b in zip(states, theirs.hidden_states, strict=True)
    ]
    of_weights = [
        # (batch, heads, queries, keys): the rows of real queries
        (a - b).transpose(1, 2)[real].abs().max().item()
        for a, b in zip(seen.values(), theirs.attentions, strict=True)
    ]
    return Differences(of_states[-1], max(of_states), max(of_weights))
