"""Both notebooks through the runner in profile `smoke`, as `make test` and CI see them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import nbformat
import pytest

from spdlib.study.runs import Run
from spdlib.view.workbook import NotebookError, run_notebook

pytestmark = pytest.mark.timeout(600)

TABLES = {
    "metrics", "bins", "frames", "k_sweep", "history", "preflight", "parameters", "deviations",
    "improvements", "beside_recorded",
    "inside", "gradients",
}  # fmt: skip
FIGURES = {
    "frames", "depths", "network", "learning_curves", "depth_ranges", "scores", "improvements",
    "bins", "predicted_against_true", "error_maps", "sparse_and_dense", "accuracy_at_k",
    "recorded_beside",
}  # fmt: skip


def outputs(notebook: Path) -> list[Any]:
    cells = nbformat.read(str(notebook), as_version=4).cells
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]


def shown(notebook: Path) -> str:
    """All text that a reader sees."""
    texts = []
    for output in outputs(notebook):
        data = output.get("data", {})
        table = re.sub(r"<style.*?</style>|<[^>]+>", " ", data.get("text/html", ""), flags=re.S)
        plain = data.get("text/markdown") or table or data.get("text/plain", "")
        texts.append(output.get("text") or plain)
    return "\n".join(texts)


def pictures(notebook: Path) -> list[Any]:
    encoded = [o.data["image/png"] for o in outputs(notebook) if "image/png" in o.get("data", {})]
    return [matplotlib.image.imread(io.BytesIO(base64.b64decode(text))) for text in encoded]


@pytest.mark.parametrize(("name", "figures"), [("00_start_here", 4), ("06_v15_2", len(FIGURES))])
def test_notebooks_run_clean_and_show_every_figure(
    executed_notebook: Callable[[str], Path], name: str, figures: int
) -> None:
    notebook = executed_notebook(name)
    assert [o for o in outputs(notebook) if o.get("name") == "stderr"] == []
    drawn = pictures(notebook)
    assert len(drawn) == figures
    assert all(picture[..., :3].std() > 0.01 for picture in drawn)
    assert notebook.with_suffix(".html").is_file()


def test_v15_2_leaves_a_run_that_tells_everything(
    executed_notebook: Callable[[str], Path],
) -> None:
    text = shown(executed_notebook("06_v15_2"))
    found = re.search(r"^run: (.+)$", text, re.MULTILINE)
    assert found, "the notebook must end with the folder of its run"
    run = Run.open(found.group(1))
    assert run.finished
    assert {path.stem for path in run.folder.glob("*.csv")} == TABLES
    assert {path.stem for path in (run.folder / "figures").glob("*.png")} == FIGURES
    assert set(run.metrics["model"]) == {"v15_2", "constant", "pixel_map"}
    assert {"eigen/exact", "recorded/exact"} == set(run.metrics["protocol"])


def test_v15_2_does_not_judge_a_run_of_six_steps(
    executed_notebook: Callable[[str], Path],
) -> None:
    text = shown(executed_notebook("06_v15_2"))
    assert "Too short to judge" in text
    assert "v15_1, exp13, epoch 6 (recorded)" in text


def test_start_here_says_that_its_network_is_hardly_trained(
    executed_notebook: Callable[[str], Path],
) -> None:
    text = shown(executed_notebook("00_start_here"))
    assert "next to nothing" in text
    assert "answers the same after loading: True" in text
    assert "lies outside the 240x320 image" in text


def test_a_misspelt_file_stops_start_here(repository: Path, tmp_path: Path) -> None:
    notebook = repository / "notebooks" / "00_start_here.ipynb"
    values = {"profile": "smoke", "model": str(tmp_path)}
    with pytest.raises(NotebookError, match=r"no config\.json"):
        run_notebook(notebook, values, tmp_path / "out.ipynb", log=io.StringIO())
