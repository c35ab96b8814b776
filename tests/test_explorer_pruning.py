"""The Pruning Explorer without a browser: its table is the gated model, bad input, the still."""

import io
import itertools
import json
import struct

import pytest
import torch
from PIL import Image

from attnlab import MultiHeadAttention, heads
from attnlab.explorers import PruningExplorer, pruning, pruning_table
from attnlab.models import TinyTransformer

N = 4
IDS = torch.randint(0, 9, (30, 6), generator=torch.Generator().manual_seed(0))


def model_of(seed, n_layers=1, n_heads=4, **options):
    torch.manual_seed(seed)
    model = TinyTransformer(9, 9, d_model=16, n_heads=n_heads, n_layers=n_layers, **options)
    for layer in model.layers:
        torch.nn.init.normal_(layer.attention.out_proj.weight)
    return model


def losses_of(model):
    return lambda: (model(IDS) - torch.nn.functional.one_hot(IDS, 9)).square().mean((1, 2))


def accuracy_of(model):
    return lambda: (model(IDS).argmax(-1) == IDS.roll(1, 1)).float().mean().item()


def table_of(model, tuned=None):
    return pruning_table(model, losses_of(model), accuracy_of(model), tuned)


MODELS = {seed: model_of(seed) for seed in (0, 3)}
TABLES = {seed: table_of(model) for seed, model in MODELS.items()}
TABLES[0].tuned["gate", 2] = 0.625


def sent(explorer):
    length = struct.unpack("<I", explorer._view[:4])[0]
    return json.loads(explorer._view[4 : 4 + length])


def test_the_table_is_what_heads_measures():
    model, table = MODELS[0], TABLES[0]
    name = "layers.0.attention"
    assert table.names == [(name, h) for h in range(N)]
    scores = heads.gate_importance(model, losses_of(model))
    assert torch.equal(table.scores["gate"], scores[name])
    assert torch.equal(table.scores["norm"], heads.gradient_norm(model, losses_of(model))[name])
    ablation = heads.ablation(model, lambda: losses_of(model)().mean().item())
    assert torch.equal(table.scores["ablation"], ablation[name])
    assert table.orders["gate"] == [h for _, h in heads.ranking(scores)]
    assert table.orders["reverse"] == table.orders["gate"][::-1]
    assert table.orders["steps"] == [h for _, h in heads.prune_in_steps(model, losses_of(model), N)]
    for choice in range(2**N):
        gone = [(name, h) for h in range(N) if not choice >> h & 1]
        small = accuracy_of(heads.prune(model, gone))
        assert table.accuracy[choice].item() == pytest.approx(small())


def test_curves_go_from_no_head_to_all_and_stay_between_best_and_worst():
    table = TABLES[3]
    curves = {name: table.curve(name) for name in (*pruning.CRITERIA, "best", "worst")}
    for name, curve in curves.items():
        assert curve.shape == (N + 1,)
        assert curve[0] == table.accuracy[0] and curve[N] == table.accuracy[-1]
        assert (curve >= curves["worst"]).all() and (curve <= curves["best"]).all(), name
    two = [c for c in range(2**N) if c.bit_count() == 2]
    assert curves["random"][2].item() == pytest.approx(table.accuracy[two].mean().item())
    kept = table.choice("gate", 1)
    assert kept == 1 << table.orders["gate"][-1]


def test_parameters_are_those_of_pruned_models():
    for bias in (False, True):
        model = model_of(0, n_layers=2, n_heads=2, bias=bias)
        table = table_of(model)
        for gone in ([], table.names[:1], table.names[1:3], table.names[1:]):
            small = heads.prune(model, gone)
            removed = sum(p.numel() for p in model.parameters()) - sum(
                p.numel() for p in small.parameters()
            )
            assert table.parameters[-1] - table.parameters[N - len(gone)] == removed
        assert table.parameters[-1] == sum(
            p.numel() for layer in model.layers for p in layer.attention.parameters()
        )


def test_one_head_and_too_many():
    alone = table_of(model_of(0, n_heads=1))
    assert alone.parameters[0] == 0 and len(alone.accuracy) == 2
    assert PruningExplorer({0: alone}, kept=0).message == ""
    with pytest.raises(ValueError, match="1 … 12 heads, not 13"):
        layer = MultiHeadAttention(16, 13, d_head=2)
        pruning_table(layer, lambda: None, lambda: 0.0)


@pytest.mark.parametrize("criterion", [*pruning.CRITERIA, "own"])
def test_every_combination_of_settings_answers(criterion):
    explorer = PruningExplorer(TABLES, criterion=criterion)
    for seed, kept, own in itertools.product(TABLES, range(N + 1), (0, 1, 6, 2**N - 1)):
        with explorer.hold_trait_notifications():
            explorer.seed, explorer.kept, explorer.own = seed, kept, own
        assert explorer.message == ""
        head, table = sent(explorer), TABLES[seed]
        if criterion == "own":
            expected, n = table.accuracy[own].item(), own.bit_count()
            assert sum(1 << h for h in explorer.shown) == own
        else:
            expected, n = table.curve(criterion)[kept].item(), kept
            assert len(explorer.shown) == (0 if criterion == "random" else kept)
        assert explorer.accuracy == pytest.approx(expected)
        assert f"{n} of 4 heads kept: accuracy {expected:.2f}" in head["fact"]
        assert f"{table.parameters[n]:,} of {table.parameters[-1]:,}" in head["fact"]
        assert ("fine-tuning 0.62" in head["fact"]) == ((criterion, n, seed) == ("gate", 2, 0))
        held = {c["name"] for c in explorer._controls() if c.get("why")}
        assert held == ({"kept"} if criterion == "own" else set())
        for _, _, curve in head["rows"]:
            assert len(curve) == N + 1 and all(0 <= y <= 1 for y in curve)
        assert max(head["scores"]) == pytest.approx(1)


BAD = {
    "kept": (5, "kept = 5 is not in 0 … 4"),
    "seed": (1, "no model of seed 1; there are 0, 3"),
    "criterion": ("fame", "unknown criterion 'fame'; known: gate, norm"),
    "own": (16, "own = 16 is no choice of 4 heads: 0 … 15"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_a_message_and_the_picture_stays(name):
    explorer = PruningExplorer(TABLES, kept=2)
    good, before = getattr(explorer, name), sent(explorer)
    bad, words = BAD[name]
    setattr(explorer, name, bad)
    assert words in explorer.message
    head = sent(explorer)
    assert head["state"] == "wrong" and head["fact"] == before["fact"]
    setattr(explorer, name, good)
    assert explorer.message == "" and sent(explorer) == before
    if name != "criterion":
        setattr(explorer, name, -1)
        assert explorer.message


def test_heads_of_two_layers_are_told_apart():
    explorer = PruningExplorer({7: table_of(model_of(1, n_layers=2, n_heads=2))}, kept=3)
    assert sent(explorer)["heads"] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert explorer.seed == 7 and explorer.message == ""


def test_tables_must_fit_together():
    with pytest.raises(ValueError, match="at least one seed"):
        PruningExplorer({})
    with pytest.raises(ValueError, match="equally many heads"):
        PruningExplorer({0: TABLES[0], 1: table_of(model_of(0, n_heads=2))})


@pytest.mark.parametrize("criterion", ["gate", "random", "own"])
def test_a_still_picture_with_words_for_it(criterion):
    explorer = PruningExplorer(TABLES, kept=2, criterion=criterion, own=5)
    data, metadata = explorer._repr_mimebundle_()
    assert Image.open(io.BytesIO(data["image/png"])).size == (1000, 500)
    words = metadata["image/png"]["alt"]
    assert "2 of 4 heads kept" in words and "best of all choices" in words
    assert ("none in particular" in words) == (criterion == "random")
    assert ("Heads kept: 0, 2." in words) or criterion != "own"
    assert data["text/plain"] == repr(PruningExplorer(TABLES, kept=2, criterion=criterion, own=5))
    assert " at 0x" not in data["text/plain"]


def test_unknown_controls_say_what_is_known():
    with pytest.raises(ValueError, match="unknown control 'own'; known: kept, criterion, seed"):
        PruningExplorer(TABLES, controls=("own",))
    shown = PruningExplorer(TABLES, controls=("seed",))._ui["controls"]
    assert [c["name"] for c in shown] == ["seed"]
