"""The benchmark's parts, tables, files and figures; missing peers; coarse bars on the ratios."""

import json
import sys

import matplotlib.pyplot as plt
import pytest
import torch

from attnlab import bench, positions
from attnlab.attention import BACKENDS
from attnlab.bench import command, encodings, kernels, plots, results, run
from attnlab.bench.command import main
from attnlab.bench.layers import Sizes
from attnlab.bench.parts import PASSES, Setting, Table

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CPU = torch.device("cpu")
SMALL = ["--lengths", "8", "17", "--rounds", "2", "--d-model", "16", "--heads", "2"]
TINY = Setting(CPU, "tiny", rounds=2)
# What a CPU cannot do, in the words of those who say so.
CANNOT = ("no flex back end here: on a CPU it has no backward pass",
          "flex_attention has no backward pass on a CPU")  # fmt: skip


def quiet(share: float) -> None:
    pass


@pytest.mark.peers
def test_every_encoding_is_in_the_table_and_in_the_json(tmp_path, capsys):
    file = tmp_path / "out.json"
    threads = torch.get_num_threads()
    assert main([*SMALL, "--json", str(file)]) == 0
    assert torch.get_num_threads() == threads
    out = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    assert report["device"] and report["device_type"] == "cpu" and report["scale"] == "cpu"
    assert report["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    part = report["parts"]["encodings"]
    assert part["command"].startswith("python -m attnlab.bench --lengths 8 17")
    assert part["threads"] == 1 and len(part["load"]) == 2 and part["left_out"] == []
    ours = {(r["encoding"], r["n"]) for r in part["rows"] if r["whose"] == "attnlab"}
    assert ours == {(name, n) for name in positions.names() for n in (8, 17)}
    for row in part["rows"]:
        for p in PASSES:
            low, high = row[p]["ratio_quartiles"]
            assert row[p]["rounds"] == 2 and row[p]["seconds"] > 0 and 0 < low <= high
            assert low <= row[p]["ratio"] <= high and row[p]["peak_bytes"] > 0
        if row["whose"] == "base":
            assert row["forward"]["ratio"] == 1
        assert any(
            line.split()[0] == row["encoding"] and row["whose"] in line
            for line in out.splitlines() if line
        )  # fmt: skip


@pytest.mark.peers
def test_peers_that_are_installed_take_part():
    sizes = Sizes(d_model=16, n_heads=2, max_len=32, causal=False)
    layers, notes = encodings.build(["none", "rope", "alibi", "t5", "shaw"], sizes, peers=True)
    assert notes == []
    assert {"nn.MultiheadAttention", "x-transformers", "Hugging Face"} <= {
        whose for name, whose in layers if name == "none"
    }
    assert ("rope", "rotary-embedding-torch") in layers
    assert {("alibi", "Hugging Face"), ("t5", "Hugging Face"), ("shaw", "Hugging Face")} <= {
        *layers
    }
    for layer in layers.values():
        assert layer(torch.randn(2, 9, 16)).shape == (2, 9, 16)


@pytest.mark.peers
@pytest.mark.parametrize("causal", [False, True])
def test_every_layer_is_causal_when_asked(causal):
    """A change of the last token must reach the first output, or not."""
    sizes = Sizes(d_model=16, n_heads=2, max_len=8, causal=causal)
    names = [n for n in positions.names() if n != "shaw"] if causal else positions.names()
    layers, _ = encodings.build(names, sizes, peers=True)  # Wav2Vec2-BERT has no causal form
    x = torch.randn(1, 8, 16)
    y = x.clone()
    y[:, -1] += 3
    for key, layer in layers.items():
        with torch.no_grad():
            moved = (layer.eval()(x) - layer(y))[:, 0].abs().max() > 1e-5
        assert moved != causal, key


@pytest.mark.peers
def test_missing_peers_are_named_and_left_out(monkeypatch, capsys):
    for module in ("x_transformers", "x_transformers.x_transformers", "rotary_embedding_torch"):
        monkeypatch.setitem(sys.modules, module, None)  # import raises ImportError
    options = ["--lengths", "8", "--rounds", "1", "--d-model", "16", "--heads", "2"]
    assert main([*options, "--encodings", "rope"]) == 0
    out = capsys.readouterr().out
    assert "x-transformers is not installed and left out: pip install x-transformers" in out
    assert "rotary-embedding-torch is not installed" in out
    assert "Hugging Face" in out and "x-transformers flash" not in out


def test_what_needs_too_much_memory_is_left_out(capsys):
    options = ["--lengths", "300", "--rounds", "1", "--d-model", "16", "--heads", "2"]
    assert main([*options, "--encodings", "shaw", "--memory", "0.002"]) == 0
    out = capsys.readouterr().out
    assert "shaw: n = 300 would hold up to" in out and "left out (see --memory)" in out
    assert "none" in out


@pytest.mark.parametrize("wrong, words", [
    (["--encodings", "rotary"], "unknown encoding 'rotary'; known: none"),
    (["--lengths", "0"], "must be at least 1"),
    (["--heads", "3"], "heads must divide d-model"),
    (["--json", "/no/such/folder/x.json"], "no folder"),
    (["--device", "abacus"], "device 'abacus'"),
    (["--parts", "speed"], "no part 'speed'; there are 'encodings'"),
    (["--update"], "which file?"),
])  # fmt: skip
def test_bad_options_say_what_is_wrong(wrong, words, capsys):
    with pytest.raises(SystemExit):
        main(wrong)
    assert words in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- parts


@pytest.fixture(scope="module")
def tiny():
    """A result of all parts but those that compile, in the smallest sizes."""
    chosen = [part for part in run.PARTS if part not in ("encodings", "back ends", "kernels")]
    return bench.measure(chosen, TINY, "a command")


@pytest.mark.parametrize("part", [p for p in run.PARTS if p not in ("encodings", "back ends",
                                                                    "kernels")])  # fmt: skip
def test_a_part_measures_all_its_rows(tiny, part):
    measured = tiny["parts"][part]
    assert measured["left_out"] == [] and measured["rows"], measured["left_out"]
    for row in measured["rows"]:
        timed = [value for value in row.values() if isinstance(value, dict)]
        assert timed and all(value["seconds"] > 0 for value in timed)
    assert len(bench.table(measured["rows"]).splitlines()) == len(measured["rows"]) + 2
    json.dumps(tiny)


def test_the_rates_of_the_device_can_be_read_back(tiny):
    rates = bench.rates(tiny)
    assert rates.device == tiny["device"] and rates.copy > 0
    assert rates.ridge(torch.float32) == rates.matrix[torch.float32] / rates.copy
    with pytest.raises(ValueError, match="no rates"):
        bench.rates({**tiny, "rates": {}})


def test_lower_precision_shows_as_error(tiny):
    error = {
        (row["what"], row["dtype"]): row["forward"]["relative_error"]
        for row in tiny["parts"]["dtypes"]["rows"]
    }
    for what in ("softmax", "attention", "layer", "layer, autocast"):
        assert error[what, "float32"] < 1e-6 < error[what, "float16"] < 5e-3
        assert error[what, "float16"] < error[what, "bfloat16"] < 5e-2


def test_shared_keys_make_the_cache_smaller(tiny):
    rows = tiny["parts"]["decoding"]["rows"]
    assert [row["cache_bytes"] // rows[-1]["cache_bytes"] for row in rows] == [8, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["back ends", pytest.param("kernels", marks=pytest.mark.peers)])
def test_parts_that_compile(part):
    """Nothing may be missing but what a CPU cannot do, and every kernel gives the same numbers."""
    measured = bench.measure([part], TINY)["parts"][part]
    unexpected = [line for line in measured["left_out"] if not any(w in line for w in CANNOT)]
    assert unexpected == [] and measured["rows"]
    if part == "back ends":
        cases = {(row["encoding"], row["backend"]) for row in measured["rows"]}
        names = ("none", "rope", "alibi", "t5")
        assert cases == {(n, b) for n in names for b in BACKENDS[1:]} | {("shaw", "dense")}
    else:
        assert all(row["largest_error"] < 1e-4 for row in measured["rows"])
        ours = {(row["encoding"], row["causal"]) for row in measured["rows"]
                if row["whose"] == "attnlab auto"}  # fmt: skip
        assert ours == {(name, c) for name in kernels.ENCODINGS for c in (True, False)}
        bars = kernels.bars(measured)
        assert {key[0] for key in bars} == {"rope", "alibi", "t5"} and len(bars) == 12
        for row in measured["rows"]:
            if row["encoding"] == "none":
                assert row["forward"].get("speed", 0) <= 1


def test_a_kernel_that_is_wrong_is_seen():
    qkv = tuple(torch.randn(3, 1, 2, 32, 16))
    alibi = positions.make("alibi", d_model=32, n_heads=2)
    right = kernels.Work(kernels.with_mask(alibi, True), alibi)
    wrong = kernels.Work(kernels.plain(True), alibi)
    assert kernels.largest_error(right, True, qkv) < 1e-5
    assert kernels.largest_error(wrong, True, qkv) > 0.1


def test_flops_of_attention_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    q, k, v = (t.requires_grad_() for t in torch.randn(3, 1, 2, 64, 16))
    counts = {}
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter:
            out = kernels.with_kernel("MATH", False)(q, k, v)
            if backward:
                out.sum().backward()
        counts[backward] = counter.get_total_flops()
    assert counts[False] == kernels.flops(64, 2, 16, False, False)
    # torch's plain path keeps the scores: four products backward, not five
    assert counts[True] == kernels.flops(64, 2, 16, False, True) * 6 / 7
    assert kernels.flops(64, 2, 16, True, True) == kernels.flops(64, 2, 16, False, True) / 2


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("part", list(run.PARTS))
def test_every_part_runs_on_a_gpu(part):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    measured = bench.measure([part], Setting(torch.device("cuda"), "tiny", 2))["parts"][part]
    own = [line for line in measured["left_out"] if "attnlab" in line or part in line]
    assert measured["rows"] and own == [], measured["left_out"]


# ----------------------------------------------------------------------------------------- files


def row(**found):
    return {"way": "one", "n": 1, "forward": {"seconds": 0.5, "ratio": 1.0, **found}}


@pytest.fixture
def small(monkeypatch):
    """Two parts that take no time; the second may be told to fail or to be interrupted."""
    failing = {}

    def one(setting, progress):
        progress(1.0)
        return Table({"size": 1}, [row()])

    def two(setting, progress):
        if failing:
            raise failing["error"]
        return Table({"size": 2}, [row(), {"way": "other", "n": 1,
                                           "forward": {"left_out": "out of memory"}}])  # fmt: skip

    monkeypatch.setattr(run, "PARTS", {"one": one, "two": two})
    monkeypatch.setattr(command, "PARTS", run.PARTS)
    monkeypatch.setattr(run, "rates", lambda setting, progress: {})
    return failing


def test_all_parts_go_into_one_file(small, tmp_path, capsys):
    file = tmp_path / "bench.json"
    assert main(["--all", "--scale", "tiny", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert list(report["parts"]) == ["one", "two"]
    assert report["parts"]["two"]["left_out"] == [
        "other, forward: left out of 1 row(s), out of memory"
    ]
    assert report["parts"]["one"]["command"].endswith(f"--all --scale tiny --json {file}")
    out = capsys.readouterr().out
    assert "one: size 1" in out and "left out" in out


def test_a_part_that_fails_is_noted_and_the_others_go_on(small, tmp_path):
    small["error"] = RuntimeError("no such kernel\nand more")
    file = tmp_path / "bench.json"
    assert main(["--parts", "two", "one", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["parts"]["two"]["left_out"] == ["two: left out, RuntimeError: no such kernel"]
    assert len(report["parts"]["one"]["rows"]) == 1


def test_an_interrupt_writes_nothing_or_with_update_what_is_finished(small, tmp_path, capsys):
    small["error"] = KeyboardInterrupt()
    file = tmp_path / "bench.json"
    assert main(["--all", "--json", str(file)]) == 130
    assert "interrupted: nothing was written" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
    assert main(["--all", "--json", str(file), "--update"]) == 130
    assert "finished parts are in the file" in capsys.readouterr().err
    assert list(json.loads(file.read_text())["parts"]) == ["one"]
    small.clear()
    assert main(["--parts", "two", "--json", str(file), "--update"]) == 0
    assert list(json.loads(file.read_text())["parts"]) == ["one", "two"]


def test_parts_of_another_machine_are_not_mixed_in(small, tmp_path, capsys):
    file = tmp_path / "bench.json"
    assert main(["--parts", "one", "--json", str(file)]) == 0
    file.write_text(json.dumps({**json.loads(file.read_text()), "device": "an abacus"}))
    with pytest.raises(SystemExit):
        main(["--parts", "two", "--json", str(file), "--update"])
    assert "was measured with another device (an abacus, now" in capsys.readouterr().err
    assert main(["--parts", "two", "--json", str(file)]) == 0
    assert list(json.loads(file.read_text())["parts"]) == ["two"]


def test_the_best_device_comes_first(tmp_path):
    def store(name, kind, rate):
        found = {"device": name, "device_type": kind, "parts": {},
                 "rates": {"matrix_flops_per_second": {"bfloat16": rate}}}  # fmt: skip
        (tmp_path / f"bench-{name}.json").write_text(json.dumps(found))

    with pytest.raises(FileNotFoundError, match="--all --json FILE"):
        bench.best(tmp_path / "nothing")
    store("fast", "cpu", 9e12)
    store("slow", "cpu", 1e11)
    store("card", "cuda", 5e12)
    assert [r["device"] for r in bench.stored(tmp_path)] == ["card", "fast", "slow"]
    assert bench.best(tmp_path)["device"] == "card"


def test_the_stored_results_are_whole():
    found = bench.stored()
    assert found and bench.best() is found[0]
    for result in found:
        assert list(result["parts"]) == list(run.PARTS)
        assert result["device"] and result["versions"]["torch"] and bench.rates(result).copy > 0
        for part in result["parts"].values():
            assert part["command"].startswith("python -m attnlab.bench") and part["rows"]


def test_a_table_says_what_is_missing():
    lines = bench.table([row(), {"way": "other", "n": 12, "forward": {"left_out": "why"}}])
    assert lines.splitlines()[1].split() == ["way", "n", "ms", "x", "base"]
    assert lines.splitlines()[2].split() == ["one", "1", "500", "1.00"]
    assert lines.splitlines()[3].split() == ["other", "12", "left", "out", "-"]
    assert [results.seconds_text(s) for s in (1.234e-5, 0.01234, 12.34)] == [
        "0.0123", "12.3", "12340"
    ]  # fmt: skip


# --------------------------------------------------------------------------------------- figures


def test_every_stored_part_has_a_figure():
    for result in bench.stored():
        figures = bench.plot(result)
        assert list(figures) == [part for part in plots.PARTS if result["parts"][part]["rows"]]
        for figure in figures.values():
            assert result["device"] in figure.get_suptitle()
            assert any(line.get_xdata().size for ax in figure.axes for line in ax.get_lines())
            plt.close(figure)


def test_figures_are_written_beside_the_file(tiny, tmp_path, capsys):
    file = tmp_path / "bench-mine.json"
    command.write(file, tiny)
    assert json.loads(file.read_text()) == json.loads(json.dumps(tiny))
    assert plots.main([str(file)]) == 0
    written = sorted(path.name for path in tmp_path.glob("*.png"))
    assert written == sorted(f"bench-mine-{part}.png" for part in tiny["parts"])
    with pytest.raises(ValueError, match="no 'kernels' in this result; there are projections"):
        bench.plot(tiny, "kernels")
    with pytest.raises(SystemExit):
        plots.main([str(tmp_path / "none.json")])


# ------------------------------------------------------------------------------------------ bars


@pytest.mark.slow
def test_no_encoding_has_become_slow():
    """Far wider than what is measured on a quiet machine, so that only a regression fails: Shaw
    by tables of n x n x d numbers costs 11 and 8 times the base, T5 by a gathered matrix 3."""
    names = ["none", "sinusoidal", "learned", "rope", "alibi", "t5", "shaw"]
    layers, _ = encodings.build(names, Sizes(512, 8, 1024, False), peers=False)
    rows = encodings.time_layers(layers, torch.randn(1, 1024, 512), Setting(CPU), quiet)
    ratios = {r["encoding"]: [r[p]["ratio"] for p in PASSES] for r in rows if r["whose"] != "base"}
    bars = {"t5": (2.4, 2.4), "shaw": (6.0, 5.0)}
    for name, got in ratios.items():
        for ratio, bar in zip(got, bars.get(name, (1.6, 1.6)), strict=True):
            assert ratio < bar, f"{name}: {got}"
