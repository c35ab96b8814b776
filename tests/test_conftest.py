"""The reasons in conftest.py: a test that cannot run here says why, and in CI it fails."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BROWSER_TEST = "import pytest\n\n@pytest.mark.browser\ndef test_page():\n    pass\n"
GPU_TEST = "import pytest\n\n@pytest.mark.gpu\ndef test_card():\n    pass\n"


@pytest.fixture
def outcome(tmp_path):
    """Runs a test file under a copy of conftest.py, without any browser in PATH."""

    def run(source, **environment):
        conftest = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
        (tmp_path / "conftest.py").write_text(conftest, encoding="utf-8")
        (tmp_path / "test_it.py").write_text(source)
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\nmarkers =\n    browser\n    gpu\n    peers\n    long\n    weekly\n"
        )
        (tmp_path / "empty").mkdir(exist_ok=True)
        env = {**os.environ, "PATH": str(tmp_path / "empty"), "CUDA_VISIBLE_DEVICES": ""}
        for variable in ("CI", "ATTNLAB_WEEKLY"):
            env.pop(variable, None)
        command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "test_it.py"]
        done = subprocess.run(
            command, cwd=tmp_path, env={**env, **environment}, capture_output=True, text=True
        )
        return done.returncode, done.stdout

    return run


def test_without_chromium_browser_tests_are_skipped_with_the_reason(outcome):
    status, text = outcome(BROWSER_TEST)
    assert status == 0 and "1 skipped" in text and "Chromium not found" in text


def test_without_chromium_browser_tests_fail_in_ci(outcome):
    status, text = outcome(BROWSER_TEST, CI="true")
    assert status == 1 and "1 error" in text and "Chromium not found" in text


def test_without_a_gpu_its_tests_are_skipped_with_the_reason(outcome):
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("Apple's GPU cannot be hidden")
    status, text = outcome(GPU_TEST, CI="true")
    assert status == 0 and "1 skipped" in text and "no GPU" in text


def test_gpu_tests_are_found_where_jupyter_is_not_installed(outcome, tmp_path):
    (tmp_path / "test_widgets.py").write_text("import a_package_that_is_not_there\n")
    options = "-p no:nbval --nbval-lax --nbval-current-env --nbval-cell-timeout=300"
    status, text = outcome(GPU_TEST, PYTEST_ADDOPTS=f"{options} -m gpu .")
    assert status == 0 and "1 skipped" in text and "error" not in text


def test_comparisons_are_skipped_where_a_peer_is_missing_and_nothing_else(outcome, tmp_path):
    source = "import pytest\n\n@pytest.mark.peers\ndef test_a():\n    pass\n"
    source += "\n\ndef test_b():\n    pass\n"
    if importlib.util.find_spec("x_transformers"):
        assert "2 passed" in outcome(source)[1]
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as i\n"
        "find = i.find_spec\n"
        "i.find_spec = lambda name, *of: None if name == 'x_transformers' else find(name, *of)\n"
    )
    status, text = outcome(source, PYTHONPATH=str(tmp_path))
    assert status == 0 and "1 passed, 1 skipped" in text and "nothing to compare with: " in text


@pytest.mark.parametrize(
    "marker, environment, runs",
    [
        ("long", {}, False),
        ("long", {"CI": "true"}, True),
        ("long", {"ATTNLAB_WEEKLY": "1"}, True),
        ("long", {"PYTEST_ADDOPTS": "-m long"}, True),
        ("weekly", {"CI": "true"}, False),
        ("weekly", {"ATTNLAB_WEEKLY": "1"}, True),
        ("weekly", {"PYTEST_ADDOPTS": "-m weekly"}, True),
    ],
)
def test_what_takes_minutes_has_its_day(outcome, marker, environment, runs):
    source = f"import pytest\n\n@pytest.mark.{marker}\ndef test_it():\n    pass\n"
    status, text = outcome(source, **environment)
    assert status == 0
    assert ("1 passed" if runs else "1 skipped") in text, text
    assert runs or "weekly" in text  # it says when it runs
