"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# before anything imports huggingface_hub: a test never waits for a network
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib
import numpy as np
import pytest
import torch
from filelock import FileLock

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

REPOSITORY = Path(__file__).resolve().parents[1]

# not the environment variable: notebook kernels would inherit it and lose their figures
matplotlib.use("Agg")
PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, min(2, (os.cpu_count() or 1) // PROCESSES))
torch.set_num_threads(THREADS)
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # of notebook kernels and other processes

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process begins one while the other is idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def nyu_dir() -> Path:
    """A folder in BTS's layout with real NYU frames, named by SPD_NYU_DIR."""
    folder = os.environ.get("SPD_NYU_DIR")
    if not folder:
        pytest.skip("SPD_NYU_DIR is not set: no real NYU frames here")
    path = Path(folder)
    assert path.is_dir(), f"SPD_NYU_DIR names no folder: {path}"
    return path


@pytest.fixture(scope="session")
def encoder_weights() -> Path:
    """The pretrained MobileNetV2 body, named by SPD_WEIGHTS."""
    file = os.environ.get("SPD_WEIGHTS")
    if not file:
        pytest.skip("SPD_WEIGHTS is not set: no pretrained encoder here")
    path = Path(file)
    assert path.is_file(), f"SPD_WEIGHTS names no file: {path}"
    return path


@pytest.fixture(scope="session")
def executed_notebook(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Executes a notebook of the repository in profile `smoke`, once for all processes.

    Takes the notebook's name, for example "00_start_here"; returns the executed notebook, with
    its page beside it as .html.
    """
    from spdlib.view.workbook import run_notebook

    shared = tmp_path_factory.getbasetemp()
    if PROCESSES > 1:
        shared = shared.parent  # of all processes' folders

    def execute(name: str) -> Path:
        output = shared / "notebooks" / f"{name}.ipynb"
        output.parent.mkdir(exist_ok=True)
        with FileLock(output.with_suffix(".lock")):
            if not output.with_suffix(".html").is_file():  # written last
                notebook = REPOSITORY / "notebooks" / output.name
                run_notebook(notebook, {"profile": "smoke"}, output, html=True, log=sys.stdout)
        return output

    return execute


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's own Chromium, headless."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no Chromium here: install the package chromium to run browser tests")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable, headless=True, args=CHROMIUM_FLAGS
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new page that reaches files and this machine only."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    opened.route("http*://**", lambda route: route.abort())
    yield opened
    opened.close()
