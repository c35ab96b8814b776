"""What a head does, in numbers: from its weights, or exactly and without ever forming them.

`dense` reads a matrix of weights, n x n numbers for each head. `summary` needs queries and keys
only, and memory in proportion to n.
"""

from attnlab.stats.dense import (
    attention_distance,
    causal_visible,
    entropy,
    gold_accuracy,
    gold_mass,
    head_correlation,
    js_distance,
    key_mass,
    norm_weights,
    normalised_entropy,
    offset_mass,
    offset_share,
    output_similarity,
)
from attnlab.stats.fused import fused_statistics, why_not_fused
from attnlab.stats.streaming import FIELDS, Summary, summary

__all__ = [
    "FIELDS", "Summary", "attention_distance", "causal_visible", "entropy", "fused_statistics",
    "gold_accuracy", "gold_mass", "head_correlation", "js_distance", "key_mass", "norm_weights",
    "normalised_entropy", "offset_mass", "offset_share", "output_similarity", "summary",
    "why_not_fused",
]  # fmt: skip
