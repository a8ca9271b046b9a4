"""Checks before the first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import PartialState

from spdlib.data.frames import Frame, Frames, Subset
from spdlib.models import DepthModel
from spdlib.study.config import RunConfig
from spdlib.study.datasets import open_data
from spdlib.study.evaluation import selection_scores
from spdlib.study.experiments import EXPERIMENTS
from spdlib.study.profiles import resolve
from spdlib.study.training import build_model, fit
from spdlib.study.training.preflight import PreflightError, check


class Scaled:
    """Frames whose depth is in another unit, or missing."""

    def __init__(self, frames: Frames, factor: float) -> None:
        self.frames, self.factor, self.ids = frames, factor, frames.ids

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        frame = self.frames[index]
        depths = {name: np.float32(self.factor) * d for name, d in frame.depths.items()}
        return replace(frame, depths=depths)


@pytest.fixture(scope="module")
def model(small: RunConfig, rooms: Frames) -> DepthModel:
    return build_model(small, rooms)


def rows(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["check"], table["ok"], strict=True))


def test_good_run_passes_with_a_full_table(
    model: DepthModel, rooms: Frames, held_out: Frames, small: RunConfig
) -> None:
    table = check(model, rooms, held_out, small)
    assert list(table.columns) == ["check", "value", "allowed", "ok"]
    assert set(table["ok"]) == {"yes", "info"}
    for name in (
        "target median", "valid share", "focal ratio validation / training", "first prediction",
        "order (rank correlation)", "encoder displacement per level", "frames in both sets",
        "SILog of the constant predictor",
    ):  # fmt: skip
        assert name in rows(table)
    assert model.training


def test_unknown_displacement_is_said(
    rooms: Frames, held_out: Frames, small: RunConfig, model: DepthModel
) -> None:
    branched = build_model(small.but(encoder="resnet10t"), rooms)
    for network, text in ((branched, "unknown unknown unknown unknown px"), (model, "-15.5 px")):
        table = check(network, rooms, held_out, small).set_index("check")
        assert str(table.loc["encoder displacement per level", "value"]).endswith(text)


@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_another_unit_is_refused(
    model: DepthModel, rooms: Frames, held_out: Frames, small: RunConfig, factor: float
) -> None:
    kept: list[pd.DataFrame] = []
    with pytest.raises(PreflightError, match="target median"):
        check(model, Scaled(rooms, factor), held_out, small, keep=kept.append)
    assert rows(kept[0])["target median"] == "NO"


def test_missing_depth_is_refused(
    model: DepthModel, rooms: Frames, held_out: Frames, small: RunConfig
) -> None:
    with pytest.raises(PreflightError, match="valid share"):
        check(model, Scaled(rooms, 0.0), held_out, small)


class Seen:
    """Frames through other lenses: the i-th camera's focal lengths times the i-th factor."""

    def __init__(self, frames: Frames, factors: list[float]) -> None:
        self.source, self.factors, self.ids = frames, factors, frames.ids

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Frame:
        frame, factor = self.source[index], self.factors[index]
        camera = frame.camera
        camera = replace(camera, fx=factor * camera.fx, fy=factor * camera.fy)
        return replace(frame, camera=camera)


def test_training_through_two_lenses_is_refused_unless_allowed(
    model: DepthModel, rooms: Frames, held_out: Frames, small: RunConfig
) -> None:
    two = Seen(rooms, [1.0] * 9 + [1.1])
    with pytest.raises(PreflightError, match=r"focal ratio within training is 1\.1"):
        check(model, two, held_out, small)
    check(model, two, held_out, small.but(focal_mismatch=True))


def test_selection_frames_are_looked_at_as_the_network_will_see_them(
    small: RunConfig, rooms: Frames, held_out: Frames
) -> None:
    model = build_model(small, rooms)
    longer = Seen(held_out, [1.0, 1.0, 1.3])
    # Told its focal length, the network resizes the third frame to it; not told, it cannot.
    table = check(model, rooms, longer, small).set_index("check")
    ratio = float(str(table.loc["focal ratio validation / training", "value"]))
    assert ratio == pytest.approx(1, 0.02)
    model.config = replace(model.config, focal=None)
    with pytest.raises(PreflightError, match="focal ratio validation / training is"):
        check(model, rooms, longer, small)


def test_selection_frame_that_cannot_be_scored_is_refused(
    model: DepthModel, rooms: Frames, held_out: Frames, small: RunConfig
) -> None:
    far = Scaled(held_out, 1000.0)
    with pytest.raises(PreflightError, match="scored pixels of a selection frame is 0"):
        check(model, rooms, far, small)


def test_no_selection_frame_is_refused(model: DepthModel, rooms: Frames, small: RunConfig) -> None:
    with pytest.raises(PreflightError, match="frames training / selection is 10 / 0"):
        check(model, rooms, Subset(rooms, []), small)


def test_another_focal_length_is_refused_unless_allowed(
    small: RunConfig, rooms: Frames, held_out: Frames
) -> None:
    model = build_model(small, rooms)
    assert model.config.focal is not None
    model.config = replace(model.config, focal=1.05 * model.config.focal)
    with pytest.raises(PreflightError, match="focal ratio"):
        check(model, rooms, held_out, small)
    check(model, rooms, held_out, small.but(focal_mismatch=True))


def test_squashed_validation_is_another_lens_and_scores_otherwise(
    model: DepthModel, rooms: Frames, held_out: Frames, small: RunConfig
) -> None:
    """F1: frames of 48x64 pressed into 32x64 show things smaller than a crop of them does."""
    squashed = small.but(validation="squash")
    with pytest.raises(PreflightError, match=r"focal ratio validation / training.*0\.8"):
        check(model, rooms, held_out, squashed)
    check(model, rooms, held_out, squashed.but(focal_mismatch=True))
    process = PartialState(cpu=True)
    scores = [
        selection_scores(model, held_out, None, process, squash=squash) for squash in (False, True)
    ]
    assert scores[0]["gt_max"] == scores[1]["gt_max"]
    assert scores[0]["pred_max"] != scores[1]["pred_max"]


def test_frames_in_both_sets_are_refused(
    model: DepthModel, rooms: Frames, small: RunConfig
) -> None:
    with pytest.raises(PreflightError, match="frames in both sets is 2"):
        check(model, rooms, Subset(rooms, [1, 2]), small)


def test_first_prediction_that_is_not_finite_is_refused(
    small: RunConfig, rooms: Frames, held_out: Frames
) -> None:
    model = build_model(small, rooms)
    for bias in (torch.nan, 1e6):
        with torch.no_grad():
            next(reversed(list(model.parameters()))).fill_(bias)
        with pytest.raises(PreflightError, match="first prediction"):
            check(model, rooms, held_out, small)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if "_" not in name])
def test_the_logs_experiments_may_start_with_all_their_faults(name: str) -> None:
    config = resolve(name, "smoke", device="cpu")
    data = open_data(config)
    table = check(build_model(config, data.train), data.train, data.selection, config)
    assert "first prediction" in rows(table)


def test_violation_stops_a_run_and_leaves_its_table(
    tmp_path: Path, rooms: Frames, small: RunConfig
) -> None:
    with pytest.raises(PreflightError, match="frames in both sets"):
        fit(small, rooms, Subset(rooms, [0]), tmp_path, device="cpu", workers=0, progress=False)
    assert "NO" in set(pd.read_csv(tmp_path / "preflight.csv")["ok"])
    assert not (tmp_path / "history.csv").exists()
