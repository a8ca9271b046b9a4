"""Executed notebooks as a person sees them: their pages in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.image
import nbformat
import pytest

from spdlib.view.workbook import run_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

FIGURES = ".jp-OutputArea-output img"
ERRORS = "[data-mime-type='application/vnd.jupyter.error']"
WARNINGS = "[data-mime-type='application/vnd.jupyter.stderr']"


def open_page(page: Page, notebook: Path) -> None:
    page.goto(notebook.with_suffix(".html").as_uri(), wait_until="load")


def figure_widths(page: Page) -> list[int]:
    """Pixel width of every figure; 0 where the picture could not be decoded."""
    return page.eval_on_selector_all(FIGURES, "figures => figures.map(f => f.naturalWidth)")


def screenshot(page: Page, path: Path) -> Path:
    page.screenshot(path=path, full_page=True)
    return path


def test_the_page_of_a_tiny_notebook_shows_its_figure(page: Page, tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# A tiny notebook"),
        nbformat.v4.new_code_cell("steps = 2", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "import matplotlib.pyplot as plt\n"
            "plt.bar(range(steps), range(1, steps + 1))\n"
            "plt.show()\n"
            "print(steps, 'bars')"
        ),
    ]
    source = tmp_path / "tiny.ipynb"
    nbformat.write(notebook, str(source))
    open_page(page, run_notebook(source, {"steps": 5}, tmp_path / "out.ipynb", html=True))
    assert page.locator("h1").first.inner_text().startswith("A tiny notebook")
    assert page.get_by_text("5 bars", exact=True).count() == 1
    assert min(figure_widths(page)) > 0
    assert page.locator(ERRORS).count() == 0
    picture = matplotlib.image.imread(screenshot(page, tmp_path / "page.png"))
    assert picture.std() > 0.01  # something is drawn


@pytest.mark.slow
@pytest.mark.timeout(600)  # executes the notebook first, if no other test has
def test_start_here_shows_every_figure_and_no_error(
    page: Page, executed_notebook: Callable[[str], Path], tmp_path: Path
) -> None:
    open_page(page, executed_notebook("00_start_here"))
    widths = figure_widths(page)
    assert widths
    assert min(widths) > 0
    assert page.locator(ERRORS).count() == 0
    assert page.locator(WARNINGS).all_inner_texts() == []
    screenshot(page, tmp_path / "00_start_here.png")
