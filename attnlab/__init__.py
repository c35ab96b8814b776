"""attnlab: multi-head attention and positional encodings, written to be read.

`attention` and `positions` are the subject of the course; the other modules measure, draw and
teach them. Submodules load when first used, so that `import attnlab` stays quick.
"""

import importlib

from attnlab import positions, stats
from attnlab.attention import (
    MultiHeadAttention,
    attention_scores,
    attention_weights,
    capture,
    scaled_dot_product_attention,
)

__version__ = "0.1.0"
__all__ = [
    "MultiHeadAttention",
    "attention_scores",
    "attention_weights",
    "capture",
    "positions",
    "scaled_dot_product_attention",
    "stats",
]

_LATER = {"cache", "cost", "decompose", "exercises", "explorers", "heads", "links", "models",
          "plots", "pretrained", "tasks", "teach", "train", "trained", "windows"}  # fmt: skip


def __getattr__(name: str):
    if name in _LATER:
        return importlib.import_module(f"attnlab.{name}")
    raise AttributeError(f"module 'attnlab' has no attribute {name!r}")
