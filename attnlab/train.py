"""One training loop for all the small models of the course."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attnlab.teach import progress


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block on one CPU thread: models this small lose more to waiting than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    steps: int,
    lr: float,
    label: str | None = None,
    stop: Callable[[], bool] | None = None,
    every: int = 50,
) -> list[float]:
    """Minimise loss() over the parameters of model; return the loss of every step.

    AdamW (betas 0.9 and 0.98, no weight decay), gradient norm clipped to 1, learning rate lr
    after a linear warm-up over the first tenth of the steps, then down a cosine to lr / 20. With
    a label, a progress bar. Deterministic when loss() draws its data from a seeded generator.

    Args:
        stop: asked after every `every` steps; True ends the training, such as when an accuracy on
            other data is reached. The length of the result tells how many steps were made.

    Raises:
        FloatingPointError: if the loss stops being a number.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.98), weight_decay=0.0)
    warm_up = max(1, steps // 10)

    def rate(at: int) -> float:
        if at < warm_up:
            return (at + 1) / warm_up
        done = (at - warm_up) / max(1, steps - warm_up)
        return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    history = []
    with one_thread():
        for step in progress(range(steps), label) if label else range(steps):
            value = loss()
            history.append(value.item())
            if not math.isfinite(history[-1]):
                raise FloatingPointError(
                    f"the loss is {history[-1]} after {len(history)} steps: try a smaller lr"
                )
            optimiser.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if stop is not None and (step + 1) % every == 0 and stop():
                break
    return history
