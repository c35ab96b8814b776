"""One JupyterLab for all browser tests; the browser is in tests/conftest.py."""

import pytest
from lab import Lab


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """The folder that JupyterLab shows."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="session")
def lab(root):
    with Lab(root) as lab:
        yield lab


@pytest.fixture
def page(browser, lab):
    """A page with a fresh profile; no kernel is left behind."""
    page = browser.page()
    yield page
    page.context.close()
    lab.stop_kernels()
