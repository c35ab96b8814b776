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


@pytest.fixture(scope="module")
def everything(browser, lab, root):
    """A page with all explorers, one for all tests of a file."""
    from all_explorers import open_all  # a machine without Jupyter reads this file, too

    page = browser.page()
    yield open_all(lab, root, page)
    page.context.close()
    lab.stop_kernels()


@pytest.fixture
def shown(everything):
    """That page; a test that uses it must not leave an error."""
    everything.page.errors.clear()
    yield everything
    assert everything.page.errors == []
    assert everything.page.locator(".jp-Dialog").count() == 0
