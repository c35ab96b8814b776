"""notebooks/weigh.py: how much memory a notebook takes."""

import importlib.util
import sys

import nbformat
import pytest

from notebook_build import ROOT, build

sys.modules.setdefault("build", build)  # weigh imports its neighbour by this name
spec = importlib.util.spec_from_file_location("notebook_weigh", ROOT / "notebooks" / "weigh.py")
weigh = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = weigh  # NamedTuple looks for it
spec.loader.exec_module(weigh)

NEEDS = "x = bytearray({} * 10**6)\nfor i in range(0, len(x), 4096): x[i] = 1"
TRAINS = "from attnlab.train import fit"


@pytest.fixture
def folder(tmp_path):
    for name, cells in {"01-small": ["1 + 1"], "02-large": [NEEDS.format(1300)],
                        "03-trains": [TRAINS, NEEDS.format(900)]}.items():  # fmt: skip
        cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    return tmp_path


@pytest.mark.slow
def test_what_takes_too_much_is_named(folder, capsys):
    assert weigh.main([], folder) == 1
    small, large, trains = capsys.readouterr().out.splitlines()[1:]
    assert "01-small" in small and "MEMORY" not in small
    assert "02-large" in large and "TOO MUCH MEMORY" in large
    assert "trains" in trains and "MEMORY" not in trains
    assert float(large.split()[2]) > 1 > float(small.split()[2]) > 0.01


def test_a_notebook_that_is_not_there(folder, capsys):
    with pytest.raises(SystemExit):
        weigh.main(["07"], folder)
    assert "no notebook 07" in capsys.readouterr().err


def test_a_notebook_that_fails_does_not_hide_the_others(tmp_path, capsys):
    for name, cell in {"01-broken": "1 / 0", "02-whole": "1 + 1"}.items():
        cells = [nbformat.v4.new_code_cell(cell)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    assert weigh.main([], tmp_path) == 1
    broken, whole = capsys.readouterr().out.splitlines()[1:]
    assert "FAILED" in broken and "ZeroDivisionError" in broken
    assert whole.startswith("02-whole") and "FAILED" not in whole
