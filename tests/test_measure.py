"""The measuring tools: memory held at once, quartiles, versions, the device's name."""

import statistics

import pytest
import torch

from attnlab import measure

CPU = torch.device("cpu")


def test_peak_memory_counts_what_is_held_at_once():
    x = torch.zeros(1000, 1000)  # 4 MB

    def work():
        y = x + 1
        z = y + 1
        del y
        return z * 2 + 1

    assert 12e6 <= measure.peak_bytes(work, CPU) < 12.2e6


def test_seconds_are_those_of_one_run():
    runs = []
    seconds = measure.Clock(CPU)(lambda: runs.append(sum(range(20_000))), 5)
    assert len(runs) == 5 and seconds > 0


def test_quartiles_lie_between_the_values():
    assert measure.quartiles([3.0]) == [3.0, 3.0]
    assert measure.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 4.0]
    low, high = measure.quartiles([1.0, 9.0])
    assert 1 <= low <= statistics.median([1.0, 9.0]) <= high <= 9


def test_versions_say_what_is_not_there():
    found = measure.versions(["torch", "no-such-package"])
    assert found["torch"] == torch.__version__ and found["no-such-package"] is None
    assert found["python"].startswith("3.")


def test_the_processor_has_a_name():
    assert measure.device_name(CPU)


@pytest.mark.gpu
def test_on_a_gpu_memory_and_time_are_its_own():
    device = torch.device("cuda" if torch.cuda.is_available() else "mps")
    assert measure.device_name(device)
    x = torch.zeros(1000, 1000, device=device)
    assert measure.Clock(device)(lambda: x @ x, 3) > 0
    if device.type == "cuda":
        held = measure.peak_bytes(lambda: (x + 1) * 2, device)
        assert 8e6 <= held < 8.4e6
