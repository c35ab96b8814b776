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


def test_works_are_compared_round_by_round():
    ran, prepared, shares = [], [], []
    works = {name: lambda name=name: ran.append(name) or sum(range(2_000)) for name in "abc"}
    works["long"] = lambda: sum(range(200_000))
    found = measure.compare(
        works, CPU, rounds=3, base="a", prepare=prepared.append, progress=shares.append
    )
    assert list(found) == ["a", "b", "c", "long"] and {*ran} == {*"abc"}
    for value in found.values():
        assert value["rounds"] == 3 and value["peak_bytes"] == 0
        low, high = value["ratio_quartiles"]
        assert low <= value["ratio"] <= high
        low, high = value["seconds_quartiles"]
        assert 0 < low <= value["seconds"] <= high
    assert found["a"]["ratio"] == 1 and found["long"]["ratio"] > 10
    assert all(prepared.count(name) >= 3 for name in works)
    assert shares == sorted(shares) and shares[-1] == 1


def test_what_cannot_run_is_left_out_and_named():
    def fails():
        raise torch.OutOfMemoryError("of 80 GiB ...")

    calls = []

    def fails_later():
        calls.append(1)
        if len(calls) == 6:
            raise NotImplementedError("no kernel\nhere")

    works = {"good": lambda: None, "large": fails, "later": fails_later}
    found = measure.compare(works, CPU, rounds=2)
    assert found["large"] == {"left_out": "out of memory"}
    assert found["later"] == {"left_out": "NotImplementedError: no kernel"}
    assert found["good"]["seconds"] > 0 and "ratio" not in found["good"]
    with pytest.raises(RuntimeError, match="large, the base of all ratios: out of memory"):
        measure.compare(works, CPU, base="large")


def test_quartiles_lie_between_the_values():
    assert measure.quartiles([3.0]) == [3.0, 3.0]
    assert measure.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 4.0]
    low, high = measure.quartiles([1.0, 9.0])
    assert 1 <= low <= statistics.median([1.0, 9.0]) <= high <= 9


def test_versions_say_what_is_not_there():
    found = measure.versions(["torch", "no-such-package"])
    # The wheel with CUDA calls itself 2.11.0+cu130 and says 2.11.0 to pip.
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["no-such-package"] is None
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
