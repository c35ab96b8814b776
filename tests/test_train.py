"""The training loop: what it promises about seeds, stopping and bad losses."""

import pytest
import torch
from torch import nn

from attnlab import train


def line(seed: int = 0, steps: int = 30, **options):
    torch.manual_seed(seed)
    model = nn.Linear(3, 1)
    generator = torch.Generator().manual_seed(seed)

    def loss():
        x = torch.randn(16, 3, generator=generator)
        return (model(x).squeeze(-1) - x.sum(-1)).square().mean()

    return train.fit(model, loss, steps=steps, lr=0.1, **options)


def test_it_learns_and_repeats_itself():
    first = line(steps=200)
    assert first == line(steps=200)
    assert first[-1] < 0.01 * first[0]


def test_it_stops_when_told_and_asks_only_now_and_then():
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 3

    assert len(line(stop=stop, every=7)) == 21
    assert line(stop=lambda: False, every=7) == line()


def test_a_loss_that_is_no_number_ends_it():
    model = nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="after 1 steps: try a smaller lr"):
        train.fit(model, lambda: model.weight.sum() * float("nan"), steps=5, lr=0.1)


def test_the_number_of_threads_comes_back():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), train.one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before
