"""How fast attention is, measured: `python -m attnlab.bench`.

Every part of it times some pieces of work against each other: in every round each runs once, in
random order, and ratios are taken within the round. Tables show medians over the rounds. On a CPU
the time is that of the process alone, on a GPU that of the finished kernels. On a CPU, work that
builds large tensors (the dense back end) was seen to take twice as long early in a process, where
memory still comes page by page from the system, as after others: compare it within one run.

    python -m attnlab.bench                               # a layer with each encoding
    python -m attnlab.bench --parts kernels training      # some parts
    python -m attnlab.bench --all --json FILE             # everything that the course quotes
    python -m attnlab.bench.plots FILE                    # figures of it

Parts:
    encodings     a whole layer with every encoding, against a layer without and other libraries
    projections   queries, keys and values by one product, by three, by one for each head
    dtypes        float32, bfloat16 and float16: speed, memory, error
    back ends     dense, fused and the others, with biases and windows
    decoding      one new token against a cache, with shared keys and values
    training      a step of a whole transformer
    statistics    what heads do, with and without the n x n matrix, against other libraries
    kernels       attention with each encoding against the fastest kernels without

Results of devices that were measured are stored with the course: `stored()`, `best()`,
and for a roofline `rates(best())`.
"""

from attnlab.bench.parts import Setting
from attnlab.bench.results import Result, best, rates, stored, table
from attnlab.bench.run import PARTS, measure

__all__ = ["PARTS", "Result", "Setting", "best", "measure", "plot", "rates", "stored", "table"]


def plot(result: Result, part: str | None = None):
    """The figures of a result by part, {part: Figure}, or of one part the figure.

    Raises:
        ValueError: for a part that the result does not have, or that has no figure.
    """
    from attnlab.bench import plots  # matplotlib only where it is needed

    return plots.figures(result) if part is None else plots.figure(result, part)
