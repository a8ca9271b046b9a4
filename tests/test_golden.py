"""The golden record: what every experiment computes, and what every published run means.

A change of structure must keep all of this. A change of results must say so, and writes the record
again: `python tests/test_golden.py`.

Training is recorded in float64. In float32, processors round differently and six steps of AdamW
make far more of that than the 1e-5 that is allowed here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from spdlib.data.queries import seeded_generator
from spdlib.models import DepthModel, load
from spdlib.study.config import RunConfig
from spdlib.study.datasets import DataSets, open_data
from spdlib.study.evaluation import evaluate
from spdlib.study.experiments import EXPERIMENTS
from spdlib.study.generations import equal_terms, step_seconds
from spdlib.study.profiles import PROFILES, resolve
from spdlib.study.training import build_model, fit

REPOSITORY = Path(__file__).resolve().parents[1]
MEASURED = REPOSITORY / "results" / "measured"
GOLDEN = Path(__file__).with_name("golden")
POINTS = 64
TOLERANCE = 1e-5
ALWAYS = {
    *("exp02", "exp04_corrected", "exp07", "exp08_corrected", "exp09"),
    *("v13_plan", "v14_plan", "exp11", "exp13_corrected", "v15_2", "dav2_s"),
}
"""An experiment of each network, some with faults."""

Record = dict[str, Any]


@functools.cache
def rooms() -> DataSets:
    """The rooms of profile `smoke`, which all experiments share; fewer to score on."""
    return open_data(resolve("v15_2", "smoke", selection_frames=1, test_frames=1))


def record_of(experiment: str, precision: str = "float64") -> Record:
    """Six steps of an experiment: losses, answers before and after, scores of both protocols."""
    config = resolve(experiment, "smoke", precision=precision, evaluate_every=6)
    data = rooms()
    untrained = build_model(config, data.train)
    with tempfile.TemporaryDirectory() as folder, losses_of_steps() as losses:
        run = fit(
            config, data.train, data.selection, folder, device="cpu", workers=0, progress=False
        )
        trained = load(run.last)
    result = evaluate(trained, data.test, k_sweep=False, inside=False, examples=0)
    return {
        "losses": losses,
        "untrained": answers(untrained, data),
        "trained": answers(trained, data),
        "scores": scores(result.metrics),
    }


@contextlib.contextmanager
def losses_of_steps() -> Iterator[list[float]]:
    """The loss of every step that is trained meanwhile."""
    losses: list[float] = []
    backward = Accelerator.backward

    def noted(self: Accelerator, loss: Tensor, **options: Any) -> None:
        losses.append(loss.item())
        backward(self, loss, **options)

    with mock.patch.object(Accelerator, "backward", noted):
        yield losses


def answers(model: DepthModel, data: DataSets) -> list[float]:
    frame = data.test[0]
    limits = torch.tensor([frame.camera.width, frame.camera.height])
    generator = seeded_generator("golden", frame.id)
    points: Tensor = torch.rand(POINTS, 2, generator=generator) * limits - 0.5
    depth: list[float] = model.eval().encode(frame.image, frame.camera).depth_at(points).tolist()
    return depth


def scores(metrics: pd.DataFrame) -> dict[str, float]:
    names = metrics["protocol"] + " " + metrics["sites"] + " " + metrics["metric"]
    return dict(zip(names, metrics["value"].tolist(), strict=True))


def published() -> list[Path]:
    return sorted(path.parent for path in MEASURED.rglob("config.json"))


RENAMED = {
    "model.encoder.name": "encoder",
    "model.encoder.mean": "input_mean",
    "model.encoder.std": "input_std",
    "data.source": "data",
}
NOT_OF_A_RUN = {"model.focal", "model.encoder.taps", "model.encoder.weights_sha256"}


def flat(values: Mapping[str, Any], part: str = "") -> Record:
    """A config's settings by their own names, wherever they are nested."""
    record: Record = {}
    for name, value in values.items():
        path = f"{part}{name}"
        if isinstance(value, dict) and name not in ("options", "augment"):
            record |= flat(value, f"{path}.")
        elif path not in NOT_OF_A_RUN:
            record[RENAMED.get(path, name)] = value
    return record


def settings(experiment: str, profile: str) -> Record:
    config = flat(resolve(experiment, profile, device="cpu").to_dict())
    if profile == "nyu_labeled":
        del config["precision"]  # the machine's own
    config["options"].pop("sparse", None)  # how a network runs is no part of what it is
    return config


def meaning(folder: Path) -> Record:
    """What a published run's config says, with the defaults of its time."""
    values = json.loads((folder / "config.json").read_text())
    config = flat(RunConfig.from_dict(values).to_dict())
    config["options"].pop("sparse", None)
    return config


def some_always() -> list[Any]:
    """All experiments; those of `ALWAYS` in every test run, the others in long ones."""
    long = {name: [] if name in ALWAYS else [pytest.mark.long] for name in sorted(EXPERIMENTS)}
    return [pytest.param(name, marks=marks) for name, marks in long.items()]


def golden(name: str) -> Record:
    record: Record = json.loads((GOLDEN / f"{name}.json").read_text())
    return record


@pytest.mark.slow
@pytest.mark.parametrize("experiment", some_always())
def test_six_steps_end_where_they_did(experiment: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found, expected = record_of(experiment), golden("steps")[experiment]
    finally:
        torch.set_num_threads(threads)
    assert found["losses"] == pytest.approx(expected["losses"], rel=TOLERANCE)
    assert found["untrained"] == pytest.approx(expected["untrained"], rel=TOLERANCE)
    assert found["trained"] == pytest.approx(expected["trained"], rel=TOLERANCE)
    assert found["scores"] == pytest.approx(expected["scores"], rel=TOLERANCE, nan_ok=True)


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS))
def test_profiles_resolve_as_they_did(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPD_WEIGHTS", raising=False)
    expected = golden("settings")[experiment]
    for profile in PROFILES:
        assert settings(experiment, profile) == expected[profile], profile


@pytest.mark.parametrize("folder", published(), ids=lambda path: path.name)
def test_published_runs_mean_what_they_did(folder: Path) -> None:
    assert meaning(folder) == golden("published")[str(folder.relative_to(MEASURED))]


def test_tables_of_equal_terms_are_made_again_from_the_published_runs(tmp_path: Path) -> None:
    table = MEASURED / "generations_nyu_labeled"
    order = pd.read_csv(f"{table}.csv")["network"].drop_duplicates()
    runs = [MEASURED / "generations" / name for name in order]
    seconds = step_seconds(MEASURED / "bench_training.csv", points=256)
    for file in equal_terms(runs, seconds).save(tmp_path / table.name):
        assert file.read_bytes() == (MEASURED / file.name).read_bytes(), file.name


def write(name: str, record: Record) -> None:
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def main(precision: str = "float64", folder: str = "") -> None:
    """Write the record again; another folder than the committed one keeps another precision's."""
    torch.set_num_threads(1)
    if folder:
        globals()["GOLDEN"] = Path(folder)
    write("steps", {name: record_of(name, precision) for name in sorted(EXPERIMENTS)})
    write(
        "settings",
        {n: {p: settings(n, p) for p in PROFILES} for n in sorted(EXPERIMENTS)},
    )
    write("published", {str(f.relative_to(MEASURED)): meaning(f) for f in published()})


if __name__ == "__main__":
    main(*sys.argv[1:])
