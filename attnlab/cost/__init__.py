"""What a layer of attention costs, computed from its sizes alone.

    layer = Layer(d_model=512, n_heads=8, encoding="rope", backend="fused")
    layer_cost(layer, n_tokens=2048, work="training")

`sizes` has the layer, its parameters and its products, `encodings` what an encoding adds, `memory`
the bytes that pass between processor and memory and the bytes held at once. `attnlab.roofline`
turns counts into limits on time for a device.
"""

from attnlab.cost.encodings import ENCODINGS, EncodingCost, encoding_cost
from attnlab.cost.memory import bytes_moved, kv_cache_bytes, peak_memory
from attnlab.cost.sizes import (
    WORK,
    Layer,
    attention_flops,
    attention_parameters,
    elementwise_flops,
    layer_flops,
    layer_parameters,
)
from attnlab.cost.total import Cost, layer_cost

__all__ = [
    "ENCODINGS", "WORK", "Cost", "EncodingCost", "Layer", "attention_flops", "attention_parameters",
    "bytes_moved", "elementwise_flops", "encoding_cost", "kv_cache_bytes", "layer_cost",
    "layer_flops", "layer_parameters", "peak_memory",
]  # fmt: skip
