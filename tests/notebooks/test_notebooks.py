"""All notebooks through the runner in profile `smoke`, as `make test` and CI see them."""

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

from spdlib.models import network_class, words
from spdlib.study.runs import Run
from spdlib.view.workbook import NotebookError, notebook_parameters, run_notebook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TABLES = {
    "metrics", "bins", "frames", "k_sweep", "history", "preflight", "parameters", "deviations",
    "improvements", "beside_recorded", "fairness", "inside", "gradients", "ranges",
}  # fmt: skip
FIGURES = {
    "frames", "depths", "network", "learning_curves", "depth_ranges", "scores", "improvements",
    "bins", "predicted_against_true", "error_maps", "sparse_and_dense", "accuracy_at_k",
    "recorded_beside",
}  # fmt: skip
STORY_FIGURES = {
    "network", "frames", "learning_curves", "depth_ranges", "improvements", "bins", "where_near",
    "where_far", "recorded_beside",
}  # fmt: skip
STORIES = {
    "01_calibration_baseline": ("v13_calibrated", STORY_FIGURES),
    "02_log_depth": ("v13_log_depth", STORY_FIGURES),
    "03_v13_1": ("v13_1", STORY_FIGURES),
    "04_v14_canvas": (
        "v14_dual",
        STORY_FIGURES | {"layers", "accuracy_at_k", "generations", "pairs"},
    ),
}  # fmt: skip
"""Notebooks of the log's generations: the network that each trains, and its figures."""
COUNTS = {"00_start_here": 4, "06_v15_2": len(FIGURES)} | {
    name: len(figures) for name, (_, figures) in STORIES.items()
}


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


@pytest.mark.parametrize(("name", "figures"), COUNTS.items())
def test_notebooks_run_clean_and_show_every_figure(
    executed_notebook: Callable[[str], Path], name: str, figures: int
) -> None:
    notebook = executed_notebook(name)
    assert [o for o in outputs(notebook) if o.get("name") == "stderr"] == []
    drawn = pictures(notebook)
    assert len(drawn) == figures
    assert all(picture[..., :3].std() > 0.01 for picture in drawn)
    assert notebook.with_suffix(".html").is_file()


def run_of(notebook: Path) -> Run:
    """The run that a notebook names in its last line."""
    found = re.search(r"^run: (.+)$", shown(notebook), re.MULTILINE)
    assert found, "the notebook must end with the folder of its run"
    return Run.open(found.group(1))


@pytest.mark.parametrize(
    ("name", "network", "tables", "figures"),
    [
        ("06_v15_2", "v15_2", TABLES, FIGURES),
        *((name, *story[:1], TABLES, story[1]) for name, story in STORIES.items()),
    ],
)
def test_notebooks_leave_a_run_that_tells_everything(
    executed_notebook: Callable[[str], Path],
    name: str,
    network: str,
    tables: set[str],
    figures: set[str],
) -> None:
    run = run_of(executed_notebook(name))
    assert run.finished
    assert {path.stem for path in run.folder.glob("*.csv")} == tables
    assert {path.stem for path in (run.folder / "figures").glob("*.png")} == figures
    assert set(run.metrics["model"]) == {network, "constant", "pixel_map"}
    assert {"eigen/exact", "recorded/exact"} == set(run.metrics["protocol"])


@pytest.mark.parametrize("name", STORIES)
def test_stories_say_what_follows_from_the_numbers(
    executed_notebook: Callable[[str], Path], name: str
) -> None:
    text = shown(executed_notebook(name))
    assert "Too short to judge" in text
    assert "of the true range" in text
    assert "Set dependence" in text
    assert "not fair" in text  # against the record, from rooms


@pytest.mark.parametrize("name", STORIES)
def test_every_named_fault_is_a_parameter(repository: Path, name: str) -> None:
    """Those of the network, and those of data and training that its experiments had."""
    known = set(notebook_parameters(repository / "notebooks" / f"{name}.ipynb"))
    networks = [STORIES[name][0], *(["v14_plan"] if name == "04_v14_canvas" else [])]
    options = {option for each in networks for option in words(network_class(each).Options)}
    assert options <= known
    assert {"validation", "train_subset", "focal_mismatch"} <= known
    assert ("input_norm" in known) == (name < "04")
    assert ("aux_target" in known) == (name > "04")


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
