"""The models that come with the course are what their log says, and can be made again."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch

from attnlab import files, trained
from attnlab.models import TinyTransformer
from attnlab.trained import RECIPES, TINY_ENGLISH, load, load_tiny_english, log, make, train

SHIPPED = [
    (name, seed) for name, r in RECIPES.items() if r.parameters for seed in r.seeds
]


@pytest.mark.parametrize("name", RECIPES)
def test_the_log_belongs_to_the_file(name):
    recipe, told = RECIPES[name], log(RECIPES[name])
    stored = trained.DATA / f"{name}.safetensors"
    assert stored.exists() == recipe.parameters  # or only the log is shipped
    if recipe.parameters:
        assert told["sha256"] == hashlib.sha256(stored.read_bytes()).hexdigest()
    assert (told["steps"], told["lr"], tuple(told["seeds"])) == (
        recipe.steps, recipe.lr, recipe.seeds,
    )  # fmt: skip
    assert told["sizes"] == recipe.sizes
    assert told["command"] == f"python -m attnlab.trained {name}"
    assert set(told["versions"]) == {"torch", "python"}
    assert list(told["runs"]) == [str(seed) for seed in recipe.seeds]


def test_all_files_are_small():
    assert sum(f.stat().st_size for f in trained.DATA.iterdir()) < 5_000_000
    mine = [f for f in trained.DATA.iterdir() if f.stem.startswith("tiny-english")]
    assert sum(f.stat().st_size for f in mine) < 2_000_000


@pytest.mark.parametrize(("name", "seed"), SHIPPED)
def test_a_shipped_model_scores_what_its_log_says(name, seed):
    recipe = RECIPES[name]
    scores = recipe.scores(load(recipe, seed))
    assert scores == pytest.approx(log(recipe)["runs"][str(seed)]["scores"], abs=0.01)
    if name.startswith("tiny-english"):
        assert min(scores.values()) > 0.98


def test_models_of_different_seeds_differ_and_loading_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = load_tiny_english(0), load_tiny_english(1)
    assert isinstance(one, TinyTransformer) and not one.training
    assert not torch.equal(one.words.weight, two.words.weight)
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        one.words.weight.zero_()
    assert load_tiny_english(0).words.weight.abs().sum() > 0


@pytest.mark.parametrize("seed", [5, -1, "0"])
def test_a_seed_that_is_not_shipped_is_named(seed):
    with pytest.raises(ValueError, match="shipped for the seeds"):
        load_tiny_english(seed)


@pytest.mark.parametrize("name", ["tiny-english", "tiny-english-stops"])
def test_training_again_begins_as_logged(name):
    recipe, steps = RECIPES[name], 41
    _, losses = train(recipe, recipe.seeds[-1], only=steps)
    told = log(recipe)["runs"][str(recipe.seeds[-1])]["losses"]
    assert len(losses) == steps
    # other processors round otherwise, and training lets that grow
    assert losses[:: trained.LOG_EVERY] == pytest.approx(told[:5], rel=0.02)


@pytest.mark.slow
def test_training_again_ends_as_logged():
    model, losses = train(TINY_ENGLISH, 2)
    told = log(TINY_ENGLISH)["runs"]["2"]
    assert sum(losses[-50:]) / 50 < 0.05 and told["last_loss"] < 0.05
    assert TINY_ENGLISH.scores(model) == pytest.approx(told["scores"], abs=0.02)


def few_steps(steps=2, seeds=(0, 7)):
    return trained.Recipe(
        "small", TINY_ENGLISH.model, TINY_ENGLISH.loss, TINY_ENGLISH.scores, steps, 1e-3, seeds
    )


def test_make_writes_both_files_and_they_are_read_back(tmp_path):
    recipe = few_steps()
    make(recipe, tmp_path, "a command")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["small.json", "small.safetensors"]
    told = json.loads((tmp_path / "small.json").read_text())
    assert told["command"] == "a command" and len(told["runs"]["7"]["losses"]) == 1
    model, _ = train(recipe, 7)
    for mine, stored in zip(
        model.parameters(), load(recipe, 7, tmp_path).parameters(), strict=True
    ):
        assert torch.equal(mine, stored)


def test_stopping_leaves_the_files_as_they_were(tmp_path, monkeypatch, capsys):
    recipe = few_steps()
    monkeypatch.setitem(RECIPES, "small", recipe)
    assert trained.main(["small", "--out", str(tmp_path)]) == 0
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    for where in ("train", "log_as_json"):
        with monkeypatch.context() as patch:
            patch.setattr(trained, where, interrupted)
            assert trained.main(["small", "--out", str(tmp_path)]) == 130
        assert "as they were" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", interrupted)
        assert trained.main(["small", "--out", str(tmp_path)]) == 130
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_an_unknown_recipe_is_named():
    told = subprocess.run(
        [sys.executable, "-m", "attnlab.trained", "none"], capture_output=True, text=True
    )
    assert told.returncode == 2 and "no recipe 'none'" in told.stderr
