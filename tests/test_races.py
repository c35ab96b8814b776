"""The languages of the race, its models as shipped, and its training."""

import json
import math
from dataclasses import replace

import pytest
import torch

from attnlab import positions, races, trained
from attnlab.tasks import Modes, Needle


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_modes_tables_are_probabilities_and_the_same_every_time():
    tables = Modes().tables
    assert tables.shape == (4, 16, 16)
    torch.testing.assert_close(tables.sum(-1), torch.ones(4, 16))
    assert torch.equal(tables, Modes().tables) and not torch.equal(tables, Modes(seed=6).tables)


def test_modes_knows_the_best_loss():
    """A reader who knows the tables, and computes the probabilities anew from the text."""
    language = Modes()
    ids, best = language.batch(50, 40, seeded())
    for text, losses in zip(ids.tolist(), best.tolist(), strict=True):
        assert text[0] >= 16 and losses[0] == 0
        mode, symbol = text[0] - 16, None
        for token, loss in zip(text[1:], losses[1:], strict=True):
            if token >= 16:
                assert math.isclose(loss, -math.log(0.12 / 4), rel_tol=1e-5)
                mode = token - 16
                continue
            if symbol is not None:
                p = 0.88 * language.tables[mode, symbol, token].item()
                assert math.isclose(loss, -math.log(p), rel_tol=1e-4)
            symbol = token


def test_modes_draws_what_the_tables_say():
    language = Modes()
    ids, _ = language.batch(2_000, 100, seeded())
    assert abs((ids[:, 1:] >= 16).float().mean() - 0.12) < 0.005
    follow = torch.zeros(4, 16, 16)
    place = torch.arange(100)
    last = torch.where(ids >= 16, place, 0).cummax(1).values
    mode = ids.gather(1, last) - 16
    inside = (ids[:, :-1] < 16) & (ids[:, 1:] < 16)
    for m in range(4):
        here = inside & (mode[:, 1:] == m)
        pairs = 16 * ids[:, :-1][here] + ids[:, 1:][here]
        follow[m] = pairs.bincount(minlength=256).view(16, 16)
    counted = follow.sum(-1, keepdim=True)
    often = counted[..., 0] > 500
    assert often.float().mean() > 0.5
    assert (follow / counted - language.tables)[often].abs().max() < 0.09


@pytest.mark.parametrize("language", [Modes(), Needle()])
def test_the_same_generator_gives_the_same_texts(language):
    one, two, other = (language.batch(5, 30, seeded(s))[0] for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == (5, 30) and 0 <= one.min() and one.max() < language.vocab_size


def test_needle_answers_are_in_the_text():
    language = Needle()
    ids, values, distance = language.batch(300, 40, seeded())
    for text, value, d in zip(ids.tolist(), values.tolist(), distance.tolist(), strict=True):
        pairs = [t for t in text[:-1] if t < 36]
        assert sorted(p // 6 for p in pairs) == list(range(6))
        key = text[-1] - 48
        assert 0 <= key < 6 and text[39 - d] == 6 * key + value
        assert all(36 <= t < 48 for t in text[:-1] if t >= 36)
    assert distance.min() == 1 and distance.max() == 39
    with pytest.raises(ValueError, match="do not fit in 6 tokens"):
        language.batch(1, 6, seeded())
    assert language.batch(1, 7, seeded())[0].shape == (1, 7)


@pytest.mark.parametrize("task", races.TASKS)
@pytest.mark.parametrize("encoding", races.ENCODINGS)
def test_shipped_models_do_what_their_log_says(task, encoding):
    for seed in races.SEEDS:
        model = races.load(task, encoding, seed)
        score = races.log()["runs"][f"{task}/{encoding}/{seed}"]["scores"]
        if task == "modes":
            over = races.excess(model, *races.TASKS[task].batch(64, 33, seeded(seed)))
            assert abs(over.mean() - score["excess"]) < 0.1
        else:
            ids, values, _ = races.TASKS[task].batch(64, 32, seeded(seed))
            assert races.found(model, ids, values).float().mean() > 0.9


def test_the_files_are_small_and_say_how_they_were_made():
    assert (races.DATA / "race.safetensors").stat().st_size < 5_000_000
    log = races.log()
    assert log["command"] == "python -m attnlab.races" and log["seeds"] == list(races.SEEDS)
    assert set(log["runs"]) == {
        f"{t}/{e}/{s}" for t in races.TASKS for e in races.ENCODINGS for s in races.SEEDS
    }
    assert {"device", "versions", "recipes", "sha256"} <= set(log)


def test_untrained_rows_stay_and_another_encoding_can_be_read():
    model = races.load("modes", "learned", 1)
    fresh = trained.start(races.recipe("modes", "learned"), 1).encoding.weight
    assert torch.equal(model.encoding.weight[32:].half(), fresh[32:].half())
    assert not torch.equal(model.encoding.weight[:32].half(), fresh[:32].half())
    ids = races.TASKS["modes"].batch(2, 40, seeded())[0]
    plain, same, other = (
        races.load("modes", "rope", 0, swap)
        for swap in (None, positions.RoPE(8), positions.RoPE(8, scaling="linear", factor=2))
    )
    with torch.no_grad():
        assert torch.equal(plain(ids), same(ids)) and not torch.equal(plain(ids), other(ids))


@pytest.mark.parametrize("call, words", [
    (lambda: races.recipe("chess", "rope"), "no task 'chess' in the race"),
    (lambda: races.recipe("modes", "fire"), "no encoding 'fire' in the race"),
    (lambda: races.load("modes", "rope", 7), "has the seeds"),
])  # fmt: skip
def test_what_is_not_there_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.fixture
def short(monkeypatch):
    """A race of two encodings, one seed and three steps."""
    whole = races.recipe

    def recipe(task, encoding, device="cpu"):
        how = whole(task, encoding, device)
        return replace(how, steps=3, scores=lambda model: {"nothing": 0.0})

    monkeypatch.setattr(races, "recipe", recipe)
    monkeypatch.setattr(races, "ENCODINGS", ("none", "rope"))
    monkeypatch.setattr(races, "SEEDS", (0,))


def test_training_is_repeatable_and_goes_on_where_it_stopped(short, tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    assert races.main(["--out", str(one), "--device", "cpu"]) == 0
    assert sorted(p.name for p in one.iterdir()) == ["race.json", "race.safetensors"]
    whole, calls = trained.train, []

    def stops(how, seed, **more):
        calls.append(how.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(how, seed, **more)

    monkeypatch.setattr(trained, "train", stops)
    assert races.main(["--out", str(two), "--device", "cpu"]) == 130
    assert [p.name for p in two.iterdir()] == ["race-parts"]
    assert races.main(["--out", str(two), "--device", "cpu"]) == 0
    assert len(calls) == 5  # the two that were ready are not trained again
    for name in ("race.json", "race.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    written = json.loads((one / "race.json").read_text())
    assert set(written["runs"]) == {"modes/none/0", "modes/rope/0", "needle/none/0",
                                    "needle/rope/0"}  # fmt: skip
    model = races.load("needle", "rope", 0, data=one)
    assert model(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 8, 6)
