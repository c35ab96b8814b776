"""What all tests share: one thread, and a reason for each test that cannot run here."""

import contextlib
import functools
import importlib.util
import os
import shutil
import sys

# Before torch is imported. The course's arrays are small: a second thread makes them slower, and
# makes timings depend on what else the machine does.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ATTNLAB_PROGRESS", "off")  # not the record of who runs the tests

import hypothesis
import pytest


def switched_on(variable):
    return os.environ.get(variable, "").lower() not in ("", "0", "false")


CI, WEEKLY = switched_on("CI"), switched_on("ATTNLAB_WEEKLY")

# In CI the same examples every time; by hand new ones each time. No deadline: machines differ.
hypothesis.settings.register_profile("hand", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if CI else "hand")


def find_chromium():
    """The path of Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@functools.cache
def browser_problem():
    """Why no test can drive a browser here, or None."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright not found: pip install playwright"
    if find_chromium() is None:
        return "Chromium not found: install it (Debian, Ubuntu: apt install chromium)"
    return None


@functools.cache
def gpu_problem():
    """Why no test can use a GPU here, or None."""
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return None
    return "no GPU: torch sees neither CUDA nor Apple's MPS"


@functools.cache
def peers_problem():
    """Why attnlab cannot be compared with other packages here, or None. (That those which
    requirements.txt pins are there is a test of its own, in test_run.py.)"""
    names = ("transformers", "x_transformers", "rotary_embedding_torch")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return f"nothing to compare with: {', '.join(missing)} not installed" if missing else None


@pytest.fixture(scope="session")
def thorough():
    """True where tests may take their time."""
    return CI or WEEKLY


@pytest.fixture(scope="session")
def browser():
    """The only one of this process: Playwright cannot be started twice in it."""
    sys.path.append(os.path.join(os.path.dirname(__file__), "browser"))
    from lab import Browser

    with Browser() as browser:
        yield browser


def pytest_addoption(parser):
    """On a machine without Jupyter, such as one lent for its GPU, notebooks are not run, and the
    options for it that pyproject.toml gives must not stop the tests that can."""
    for name in ("lax", "current-env", "cell-timeout", "kernel-startup-timeout"):
        with contextlib.suppress(ValueError):  # nbval is there
            parser.addoption(f"--nbval-{name}", nargs="?")


def pytest_ignore_collect(collection_path, config):
    """`-m gpu` reads only the files that have such tests: others import widgets and notebook tools,
    which a machine without Jupyter does not have."""
    if config.option.markexpr == "gpu" and collection_path.match("test_*.py"):
        return "mark.gpu" not in collection_path.read_text("utf-8") or None
    return None


def pytest_collection_modifyitems(items):
    """Browser tests first: they take longest, and two processes should end at about one time."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)


@pytest.hookimpl(optionalhook=True)  # where xdist is not installed nobody asks
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file, and the cells of a notebook, stay together and in order, whatever --dist
    says. Only the longest file, which opens every notebook in a browser, is cut up."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            whole = super()._split_scope(nodeid)
            return nodeid if whole.endswith("browser/test_notebooks.py") else whole

    return ByFile(config, log)


def kept_for_later(item):
    """Why this test is not part of this run, or None. Asking for its marker (-m long) runs it."""
    asked = item.config.option.markexpr
    if item.get_closest_marker("weekly") and not WEEKLY and "weekly" not in asked:
        return "runs weekly: ATTNLAB_WEEKLY=1, or -m weekly"
    if item.get_closest_marker("long") and not (CI or WEEKLY) and "long" not in asked:
        return "runs in CI, weekly, or with -m long"
    return None


def pytest_runtest_setup(item):
    if why := kept_for_later(item):
        pytest.skip(why)
    if item.get_closest_marker("peers") and peers_problem():
        pytest.skip(peers_problem())
    if item.get_closest_marker("browser") and browser_problem():
        if CI:  # a browser test that nobody runs would protect nothing
            pytest.fail(browser_problem() + ". In CI browser tests are not skipped.", pytrace=False)
        pytest.skip(browser_problem())
    if item.get_closest_marker("gpu") and gpu_problem():
        pytest.skip(gpu_problem())
