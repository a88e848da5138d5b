"""One JupyterLab and one chromium for all browser tests; skipped, and said so, without them."""

import contextlib
import importlib.util
import os
from pathlib import Path

import pytest

from .lab_driver import CHROMIUM_ARGUMENTS, find_chromium, open_notebook, start_lab


def _missing() -> str:
    for module in ("playwright", "jupyterlab", "nbformat"):
        if importlib.util.find_spec(module) is None:
            return f"the Python package {module} is not installed"
    chromium = find_chromium()
    if chromium is None:
        return "no chromium found: install one, or name it in the environment variable CHROMIUM"
    return "" if Path(chromium).is_file() else f"CHROMIUM={chromium}: no such file"


@pytest.fixture(scope="session")
def browser():
    """Chromium, or a skip; a failure where the environment says MINIRLHF_BROWSER=required."""
    if missing := _missing():
        required = os.environ.get("MINIRLHF_BROWSER") == "required"
        (pytest.fail if required else pytest.skip)(f"no browser test: {missing}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=find_chromium(), args=CHROMIUM_ARGUMENTS
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory):
    """The server; MINIRLHF_THEME=dark shows the widgets in the dark theme."""
    theme = os.environ.get("MINIRLHF_THEME", "light")
    with start_lab(tmp_path_factory.mktemp("lab"), theme) as server:
        yield server


@pytest.fixture
def notebook(browser, lab):
    """notebook(name, cells) -> a page on which the notebook has been run."""
    with contextlib.ExitStack() as stack:
        yield lambda name, cells: stack.enter_context(open_notebook(browser, lab, name, cells))


@pytest.fixture
def shoot():
    """shoot(page, name) saves a picture into the folder MINIRLHF_SHOTS, where it is set."""
    folder = os.environ.get("MINIRLHF_SHOTS")

    def save(page, name: str) -> None:
        if folder:
            page.wait_for_timeout(400)  # let the cards finish sliding
            theme = os.environ.get("MINIRLHF_THEME", "light")
            page.screenshot(path=Path(folder) / f"{name}-{theme}.png")

    return save
