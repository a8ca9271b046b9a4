"""Predictions of other networks, from files, get the scores that the network itself would get."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from spdlib.__main__ import main
from spdlib.data.frames import Frames
from spdlib.data.store import PackedFrames, info, pack
from spdlib.disk import file_hash
from spdlib.errors import ConfigError, DataError, RunError
from spdlib.models import DepthModel
from spdlib.study.config import RunConfig
from spdlib.study.entrants import PixelMap
from spdlib.study.evaluation import Evaluation, evaluate, evaluate_run, score
from spdlib.study.generations import compare_frames
from spdlib.study.peers import (
    StoredMaps,
    metres_of,
    open_predictions,
    points_to_answer,
    save_scores,
    side_by_side,
)
from spdlib.study.protocols import View
from spdlib.study.rules import under_every_protocol
from spdlib.study.runs import Run
from spdlib.study.training import build_model
from spdlib.view import plots
from tests.records import RUNNING
from tests.study.conftest import score_of

ALIGNED = ("eigen", "eigen_median", "eigen_log_fit_pooled", "central_whole")


@pytest.fixture(scope="module")
def model(small: RunConfig, rooms: Frames) -> DepthModel:
    return build_model(small, rooms).eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, rooms: Frames, held_out: Frames) -> Path:
    path = tmp_path_factory.mktemp("store") / "rooms.h5"
    pack({"train": rooms, "test": held_out}, path)
    return path


@pytest.fixture(scope="module")
def frames(store: Path) -> PackedFrames:
    return PackedFrames(store, "test")


@pytest.fixture(scope="module")
def own(model: DepthModel, frames: Frames) -> Evaluation:
    quick = partial(evaluate, model, frames, k_sweep=False, inside=False)
    return quick(protocols=ALIGNED)


@pytest.fixture(scope="module")
def maps(model: DepthModel, frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What our own network writes of every test frame."""
    folder = tmp_path_factory.mktemp("maps") / "peer"
    folder.mkdir()
    for index, name in enumerate(frames.ids):
        frame = frames[index]
        np.save(folder / f"{name}.npy", model.encode(frame.image, frame.camera).dense()[0])
    return folder


def assert_same(found: Evaluation, expected: Evaluation, sites: str) -> None:
    """All scores at one kind of sites, by protocol and metric."""
    theirs, ours = (
        each.metrics[each.metrics["sites"] == sites].set_index(["protocol", "metric"])["value"]
        for each in (found, expected)
    )
    assert set(theirs.index) == set(ours.index) and len(theirs) > 30
    np.testing.assert_allclose(theirs[ours.index], ours, rtol=1e-6, atol=1e-6)


def test_maps_of_our_network_get_its_dense_scores(
    maps: Path, own: Evaluation, frames: Frames
) -> None:
    stored = open_predictions(maps, frames.ids, 1.0)
    result = score(stored, frames, protocols=ALIGNED)
    assert set(result.metrics["model"]) == {"peer"}
    assert_same(result, own, "dense")
    # at points they get the map's pixel there, which is not the network's answer to the point
    sparse, asked = (score_of(each, name, "eigen/exact", "abs_rel")
                     for each, name in ((result, "peer"), (own, "v15_2")))  # fmt: skip
    assert sparse == pytest.approx(asked, rel=0.05)
    assert result.notes["eigen/exact"].endswith("stored maps, 1 m a step")
    assert len(under_every_protocol(result.metrics)) == 3


def test_points_of_a_map_are_its_pixels(maps: Path, frames: Frames) -> None:
    stored, frame = StoredMaps(maps, frames.ids, 1.0, "peer"), frames[1]
    depth = torch.from_numpy(np.load(maps / f"{frame.id}.npy"))
    columns, rows = torch.tensor([0, 63, 5, 31]), torch.tensor([0, 47, 33, 7])
    points = torch.stack([columns, rows], -1).float()
    answers = stored(frame)(View(frame.image, frame.camera, frame.camera))
    assert torch.equal(answers.depth_at(points), depth[rows, columns])
    whole = answers.dense()
    assert whole is not None and torch.equal(whole, depth)


def test_a_table_of_points_gets_the_networks_own_scores(
    model: DepthModel, own: Evaluation, frames: Frames, tmp_path: Path
) -> None:
    """In millimetres, rows in any order, blank lines, whatever else the table holds."""
    points = points_to_answer(frames, ALIGNED)
    parts = []
    for index, name in enumerate(frames.ids):
        frame, asked = frames[index], points[points["frame"] == name]
        depth = model.encode(frame.image, frame.camera).depth_at(asked[["u", "v"]].to_numpy())
        parts.append(asked.assign(depth=1000 * depth.double().numpy(), note="x"))
    text = pd.concat(parts).sample(frac=1, random_state=0).to_csv(index=False)
    (tmp_path / "p.csv").write_text(text.replace("\n", "\n\n", 1) + "\n")
    stored = open_predictions(tmp_path / "p.csv", frames.ids, 0.001, name="points")
    result = score(stored, frames, protocols=ALIGNED)
    assert_same(result, own, "points")
    assert result.notes["eigen/exact"].endswith("stored points, 0.001 m a step")


def test_depth_anything_writes_maps_that_are_scored(frames: Frames, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    backbone = transformers.Dinov2Config(
        **sizes, image_size=56, patch_size=14, out_indices=[1, 2], reshape_hidden_states=False
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=12, neck_hidden_sizes=[8, 8],
        reassemble_factors=[2, 1], fusion_hidden_size=8, head_hidden_size=8,
        depth_estimation_type="metric", max_depth=10,
    )  # fmt: skip
    network = transformers.DepthAnythingForDepthEstimation(config).eval()
    expected = []
    for index, name in enumerate(frames.ids):
        frame = frames[index]
        pixels = torch.from_numpy(frame.image).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            shown = torch.nn.functional.interpolate(pixels, (42, 56), mode="bilinear")
            found = network(shown).predicted_depth[:, None]
            depth = torch.nn.functional.interpolate(found, (48, 64), mode="bilinear")[0, 0]
        np.save(tmp_path / f"{name}.npy", depth.numpy())
        truth = torch.from_numpy(frame.truth())
        rows, columns = np.arange(48) * 10 + 4.5, np.arange(64) * 10 + 4.5
        crop = ((rows > 44.5) & (rows < 470.5))[:, None] & (columns > 40.5) & (columns < 600.5)
        inside = torch.from_numpy(crop) & (truth > 1e-3) & (truth < 10)
        expected.append(((depth - truth).abs() / truth)[inside].mean().item())
    stored = open_predictions(tmp_path, frames.ids, 1.0, name="depth_anything")
    result = score(stored, frames)
    found = result.frames[result.frames["sites"] == "dense"]
    assert found["abs_rel"].to_numpy() == pytest.approx(expected, rel=1e-6)


def test_maps_of_another_size_are_read_bilinearly_and_the_note_says_so(
    frames: Frames, tmp_path: Path
) -> None:
    small = {name: np.float32(1 + np.random.default_rng(n).random((24, 32)))
             for n, name in enumerate(frames.ids)}  # fmt: skip
    for name, depth in small.items():
        np.save(tmp_path / f"{name}.npy", depth)
    with pytest.raises(DataError, match=r"\.npy: is 24x32, but frame '.*' is 48x64; give --res"):
        score(open_predictions(tmp_path, frames.ids, 1.0), frames)
    stored = open_predictions(tmp_path, frames.ids, 1.0, resized=True)
    result = score(stored, frames)
    assert (
        "of other sizes, read bilinearly under the half-pixel rule" in result.notes["eigen/exact"]
    )
    name = frames.ids[0]
    expected = PixelMap(torch.from_numpy(small[name])).dense((48, 64))
    frame = frames[0]
    found = stored(frame)(View(frame.image, frame.camera, frame.camera)).dense()
    assert found is not None and torch.equal(found, expected)


def test_pngs_hold_steps(frames: Frames, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in frames.ids:
        steps = rng.integers(4000, 9000, (48, 64)).astype(np.uint16)
        Image.fromarray(steps).save(tmp_path / f"{name}.png")
    in_mm, in_fifths = (
        score(open_predictions(tmp_path, frames.ids, metres), frames) for metres in (0.001, 0.0002)
    )
    key = ["sites", "metric"]
    mean = [
        each.metrics.set_index(key)["value"]["points", "pred_mean"] for each in (in_mm, in_fifths)
    ]
    assert mean[0] == pytest.approx(5 * mean[1], rel=1e-5)
    with pytest.raises(DataError, match=r"\.png: a PNG holds whole numbers.*--unit mm"):
        score(open_predictions(tmp_path, frames.ids, 1.0), frames)


@pytest.mark.parametrize("name", ["recorded", "eigen_mirrored", "central_half"])
def test_protocols_that_show_something_else_are_refused(
    name: str, maps: Path, frames: Frames
) -> None:
    stored = open_predictions(maps, frames.ids, 1.0)
    with pytest.raises(ConfigError, match=rf"'{name}' shows .* leave it out"):
        score(stored, frames, protocols=["eigen", name])
    with pytest.raises(ConfigError, match=rf"'{name}' shows .* leave it out"):
        points_to_answer(frames, [name])


@pytest.mark.parametrize(
    ("unit", "scale", "says"),
    [
        (None, None, "say in which unit.*neither"),
        ("m", 0.001, "say in which unit.*both"),
        ("cm", None, "unit is 'cm'; choose one of m, mm"),
        (None, 0.0, "--scale is 0.0; give the metres"),
        (None, float("nan"), "--scale is nan"),
        (None, float("inf"), "--scale is inf"),
    ],
)
def test_the_unit_is_never_guessed(unit: str | None, scale: float | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        metres_of(unit, scale)
    assert (metres_of("mm", None), metres_of("m", None), metres_of(None, 0.0002)) == (1e-3, 1, 2e-4)


def test_scores_stand_beside_a_run(
    maps: Path, store: Path, frames: Frames, model: DepthModel, small: RunConfig,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["score", str(maps), "--data", str(store), "--unit", "m", "--out", str(tmp_path / "s")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "eigen/exact: truth: exact, 48x64" in said and "tables in" in said
    run = Run(tmp_path / "run")
    run.update_record(RUNNING)
    run.config_path.write_text(json.dumps(small.to_dict()))
    evaluate_run(run, model, frames, k_sweep=False, inside=False)
    record = json.loads((tmp_path / "s" / "record.json").read_text())
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "bins.csv", "frames.csv", "metrics.csv", "record.json",
    ]  # fmt: skip
    first = f"{frames.ids[0]}.npy"
    assert record["predictions"]["files"][first] == file_hash(maps / first)
    assert record["evaluation"]["test"]["fingerprint"] == info(store)["fingerprint"]
    assert {"code", "machine", "protocols"} <= set(record["evaluation"])
    assert str(tmp_path) not in json.dumps(record)
    both = side_by_side(run.folder, tmp_path / "s")
    assert list(both.metrics["model"].unique()) == ["v15_2", "peer"]
    compared = compare_frames(both.frames, "v15_2", "peer", "eigen/exact", sites="dense")
    assert compared.difference == pytest.approx(0, abs=1e-6)
    assert "peer" in [
        label.get_text() for label in plots.score_bars(both.metrics).axes[0].get_yticklabels()
    ]
    again = open_predictions(maps, frames.ids, 1.0, name="v15_2")
    save_scores(tmp_path / "t", score(again, frames), again, frames)
    named = side_by_side(run.folder, tmp_path / "t").metrics["model"].unique()
    assert list(named) == ["run", "t"]
    with pytest.raises(RunError, match="is given twice; give every folder once"):
        side_by_side(tmp_path / "t", tmp_path / "t")
    with pytest.raises(RunError, match=r"holds a run, or other files.*choose another"):
        save_scores(run.folder, score(again, frames), again, frames)
    with pytest.raises(RunError, match="holds no scores"):
        side_by_side(tmp_path)
    (tmp_path / "t" / "record.json").write_text('{"evaluation": []}')
    with pytest.raises(RunError, match=r"record\.json: is no record of scores.*score again"):
        side_by_side(tmp_path / "t")


def test_scores_on_other_frames_are_no_comparison(
    maps: Path, frames: Frames, rooms: Frames, tmp_path: Path
) -> None:
    stored = open_predictions(maps, frames.ids, 1.0)
    save_scores(tmp_path / "a", score(stored, frames), stored, frames)
    save_scores(tmp_path / "b", score(stored, frames), stored, rooms)
    with pytest.raises(RunError, match=r"b scored other test frames than .*a; score both on one"):
        side_by_side(tmp_path / "a", tmp_path / "b")


def test_the_points_to_answer_are_printed(
    store: Path, frames: Frames, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "--points-of", str(store)]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out), dtype={"frame": str})
    assert list(table) == ["frame", "u", "v"]
    assert table["frame"].unique().tolist() == frames.ids
    assert table.groupby("frame").size().max() <= 1024
    assert table["u"].dtype.kind == "i" and not table.duplicated().any()


def test_a_missing_point_is_named(frames: Frames, tmp_path: Path) -> None:
    points = points_to_answer(frames).assign(depth=2.0)
    points[1:].to_csv(tmp_path / "p.csv", index=False)
    u, v = points.loc[0, ["u", "v"]]
    stored = open_predictions(tmp_path / "p.csv", frames.ids, 1.0)
    says = rf"p\.csv: frame '.*' has no point \({u:g}, {v:g}\).*--points-of"
    with pytest.raises(DataError, match=says):
        score(stored, frames)
