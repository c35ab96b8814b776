"""The comparisons of notebook 13: their parts are right, and their results are those shipped."""

import json

import networkx
import pytest
import torch

from attnlab import positions, structures
from attnlab.structures import RECIPES, make, results, spectra, steps_apart
from attnlab.tasks import Graphs
from attnlab.trained import start, train


@pytest.fixture(scope="module")
def edges():
    return Graphs().batch(20, torch.Generator().manual_seed(0))[1]


def test_steps_of_many_graphs(edges):
    meant = torch.stack([
        positions.graph_distances(networkx.from_numpy_array(e.numpy())) for e in edges
    ])  # fmt: skip
    assert torch.equal(steps_apart(edges, most=99), meant)
    assert torch.equal(steps_apart(edges, most=3), meant.clamp(max=3))


def test_spectra_are_laplacian_vectors(edges):
    for graph, found in zip(edges, spectra(edges, 14), strict=True):
        degree = graph.double().sum(-1)
        scale = degree.clamp(min=1) ** -0.5
        laplacian = torch.diag((degree > 0).double()) - scale[:, None] * graph * scale
        found = found.double()
        values = (found * (laplacian @ found)).sum(0)
        torch.testing.assert_close(laplacian @ found, found * values, atol=1e-5, rtol=0)
        torch.testing.assert_close(values, torch.linalg.eigvalsh(laplacian)[1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_and_learns_something(name):
    recipe = RECIPES[name]
    generator = torch.Generator().manual_seed(0)
    model = start(recipe, 0)
    loss = recipe.loss(model, generator)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for n, p in model.named_parameters() if "table" not in n)
    if "items" in name:  # small and quick: one score each
        assert list(recipe.scores(model)) == list(structures.ITEMS)


@pytest.mark.parametrize("name", RECIPES)
def test_the_shipped_results_belong_to_the_recipes(name):
    recipe = RECIPES[name]
    told = json.loads(structures.FILE.read_text())["recipes"][name]
    assert (told["steps"], told["lr"], told["sizes"]) == (recipe.steps, recipe.lr, recipe.sizes)
    assert list(told["scores"]) == [str(seed) for seed in recipe.seeds]
    assert told["parameters"] == sum(p.numel() for p in start(recipe, 0).parameters())
    task, way = name.split("/", 1)
    columns = results(task)[way]
    assert all(len(column) == len(recipe.seeds) for column in columns.values())


def test_results_of_an_unknown_task():
    with pytest.raises(ValueError, match="no results for 'trains'; there are graphs, items"):
        results("trains")


@pytest.mark.slow
def test_a_result_can_be_made_again(tmp_path):
    recipe = RECIPES["graphs/distance"]
    model, _ = train(recipe, 0)
    assert recipe.scores(model)["colour"] == pytest.approx(
        results("graphs")["distance"]["colour"][0], abs=0.02
    )


def test_a_recipe_writes_beside_others(tmp_path, monkeypatch):
    import dataclasses

    file = tmp_path / "there.json"
    for name in ("items/rope", "graphs/flat"):
        make(dataclasses.replace(RECIPES[name], steps=2, seeds=(0,)), file)
    assert list(json.loads(file.read_text())["recipes"]) == ["graphs/flat", "items/rope"]
    assert set(results("items", file)["rope"]) == set(structures.ITEMS)
    with pytest.raises(SystemExit):
        structures.main(["trains", "--out", str(file)])
