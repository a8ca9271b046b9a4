"""Both protocols, baselines, bins, the K sweep and examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spdlib.data.frames import Frame, Frames, Subset
from spdlib.errors import DataError, RunError
from spdlib.geometry import NYU_CAMERA
from spdlib.models import DepthModel
from spdlib.study.evaluation import (
    Evaluation,
    MapPredictor,
    ModelPredictor,
    View,
    evaluate,
    evaluate_run,
    load_examples,
)
from spdlib.study.experiments import RunConfig
from spdlib.study.image_free import PixelMap, constant, fit_image_free
from spdlib.study.runs import Run
from spdlib.study.training import build_model

CONSTANT = 2.5


@pytest.fixture(scope="module")
def model(small: RunConfig, rooms: Frames) -> DepthModel:
    return build_model(small, rooms).eval()


@pytest.fixture(scope="module")
def result(model: DepthModel, rooms: Frames, held_out: Frames) -> Evaluation:
    baselines = {"constant": constant(CONSTANT), **pixel_map(rooms)}
    return evaluate(model, held_out, baselines=baselines, progress=False)


def pixel_map(rooms: Frames) -> dict[str, PixelMap]:
    return {"pixel_map": fit_image_free(rooms)["pixel_map"]}


def inside_crop(depth: np.ndarray) -> np.ndarray:
    """The Eigen crop of 480x640 on 48x64, by hand: pixel centres at 10 i + 4.5."""
    rows, columns = np.arange(48) * 10 + 4.5, np.arange(64) * 10 + 4.5
    crop = ((rows > 44.5) & (rows < 470.5))[:, None] & ((columns > 40.5) & (columns < 600.5))
    return crop & (depth > 1e-3) & (depth < 10)


def test_dense_eigen_scores_of_a_constant_by_hand(result: Evaluation, held_out: Frames) -> None:
    abs_rel, rmse = [], []
    for index in range(len(held_out)):
        depth = held_out[index].truth()
        g = depth[inside_crop(depth)].astype(np.float64)
        abs_rel.append(np.mean(np.abs(CONSTANT - g) / g))
        rmse.append(np.sqrt(np.mean((CONSTANT - g) ** 2)))
    dense = ("constant", "eigen/exact")
    assert result.value(*dense, "abs_rel", "dense") == pytest.approx(np.mean(abs_rel), rel=1e-5)
    assert result.value(*dense, "rmse", "dense") == pytest.approx(np.mean(rmse), rel=1e-5)


def test_recorded_scores_of_a_constant_by_hand(
    result: Evaluation, held_out: Frames, small: RunConfig
) -> None:
    truths = []
    for index in range(len(held_out)):
        depth = held_out[index].truth()  # 48x64 covers 32x64: the middle 32 rows are cut out
        truths.append(depth[8:40].ravel())
    g = np.concatenate(truths).astype(np.float64)
    e = np.log(CONSTANT) - np.log(g)
    silog = np.sqrt(np.mean(e**2) - 0.5 * np.mean(e) ** 2 + 1e-8)
    dense = ("constant", "recorded/exact")
    assert small.image_size == (32, 64)
    assert result.value(*dense, "silog", "dense") == pytest.approx(silog, rel=1e-5)
    assert result.value(*dense, "points", "points") == 128 * len(held_out)


def test_every_table_is_complete(result: Evaluation, held_out: Frames) -> None:
    assert list(result.metrics) == ["model", "protocol", "sites", "metric", "value", "frames"]
    assert set(result.metrics["protocol"]) == {"eigen/exact", "recorded/exact"}
    assert set(result.metrics["model"]) == {"v15_2", "constant", "pixel_map"}
    assert set(result.metrics["frames"]) == {len(held_out)}
    assert set(result.bins["bin"]) == {"[0, 2)", "[2, 5)", "[5, 10)"}
    assert list(result.frames)[:4] == ["model", "protocol", "sites", "frame"]
    assert set(result.frames["frame"]) == set(held_out.ids)
    assert {"s_star", "scale_gap", "log_std", "pred_max", "gt_max"} <= set(result.metrics["metric"])
    assert {"abs_rel_edge", "abs_rel_interior"} <= set(result.metrics["metric"])
    assert set(result.notes) == {"eigen/exact", "recorded/exact"}
    assert "scaled to 48x64" in result.notes["eigen/exact"]
    assert "no flip" in result.notes["recorded/exact"]


def test_summary_has_a_row_for_each_model_and_protocol(result: Evaluation) -> None:
    table = result.summary()
    assert len(table) == 12
    assert list(table)[:4] == ["protocol", "sites", "model", "abs_rel"]


def test_group_size_changes_nothing_for_independent_queries(result: Evaluation) -> None:
    sweep = result.k_sweep
    assert list(sweep["k"]) == [1, 64, 256, 1024]
    assert list(sweep["points"]) == [64, 1024, 1024, 1024]
    assert sweep["independent"].all()
    assert sweep["max_abs_difference"].max() < 1e-5
    abs_rel = sweep["abs_rel"].to_numpy()
    assert abs_rel[1:] == pytest.approx(result.value("v15_2", "eigen/exact", "abs_rel"), rel=1e-5)


def test_comparison_is_paired_by_frame(result: Evaluation) -> None:
    comparison = result.compare("v15_2", "v15_2", "eigen/exact")
    assert comparison.difference == 0
    assert comparison.verdict == "tie"
    with pytest.raises(RunError, match="not of both v15_2, nobody"):
        result.compare("v15_2", "nobody", "eigen/exact")


def test_unknown_score_is_refused(result: Evaluation) -> None:
    with pytest.raises(RunError, match="no score 'beauty'"):
        result.value("v15_2", "eigen/exact", "beauty")


def test_model_is_asked_at_the_frames_own_pixels(model: DepthModel, held_out: Frames) -> None:
    frame = held_out[0]
    answers = ModelPredictor(model)(View(frame.image, frame.camera, frame.camera))
    points = torch.tensor([[0.0, 0.0], [63.0, 47.0], [20.3, 11.8]])
    expected = model.encode(frame.image, frame.camera).depth_at(points)
    assert torch.equal(answers.depth_at(points), expected)


def test_flip_averages_with_the_mirrored_image(model: DepthModel, held_out: Frames) -> None:
    frame = held_out[0]
    mirrored = np.ascontiguousarray(frame.image[:, ::-1])
    one = ModelPredictor(model, flip=True)(View(frame.image, frame.camera, frame.camera))
    other = ModelPredictor(model, flip=True)(
        View(mirrored, frame.camera.flipped(), frame.camera.flipped())
    )
    points = torch.tensor([[3.0, 4.0], [40.5, 20.0]])
    swapped = torch.stack([63 - points[:, 0], points[:, 1]], -1)
    torch.testing.assert_close(one.depth_at(points), other.depth_at(swapped))
    a, b = one.dense(), other.dense()
    assert a is not None and b is not None
    torch.testing.assert_close(a, b.flip(-1))


def test_baseline_stays_at_its_pixels_in_a_crop() -> None:
    depth_map = PixelMap(torch.arange(48 * 64, dtype=torch.float32).reshape(48, 64))
    frame = NYU_CAMERA.resized(48, 64)
    cut = frame.cropped(8, 4, 32, 56)
    answers = MapPredictor(depth_map)(View(np.zeros((32, 56, 3), np.uint8), cut, frame))
    dense = answers.dense()
    assert dense is not None
    torch.testing.assert_close(dense, depth_map.depth[8:40, 4:60], atol=1e-2, rtol=0)


def test_all_truths_of_the_frames_are_scored_by_name(model: DepthModel, held_out: Frames) -> None:
    class TwoTruths:
        ids = held_out.ids

        def __len__(self) -> int:
            return len(held_out)

        def __getitem__(self, index: int) -> Frame:
            frame = held_out[index]
            exact = frame.truth()
            holes = np.where(np.arange(64) % 2 == 0, exact, np.float32(0))
            return replace(frame, depths={"inpainted": exact, "raw": holes})

    result = evaluate(model, TwoTruths(), k_sweep=False, dense=False, progress=False)
    protocols = {f"{p}/{t}" for p in ("eigen", "recorded") for t in ("inpainted", "raw")}
    assert set(result.notes) == set(result.metrics["protocol"]) == protocols
    assert result.k_sweep.empty
    with pytest.raises(DataError, match="exact"):
        evaluate(model, TwoTruths(), truths=["exact"], progress=False)


def test_no_frames_are_refused(model: DepthModel, held_out: Frames) -> None:
    with pytest.raises(RunError, match="no frames"):
        evaluate(model, Subset(held_out, []), progress=False)


def test_run_keeps_tables_and_examples(
    tmp_path: Path, model: DepthModel, held_out: Frames, small: RunConfig
) -> None:
    run = Run(tmp_path)
    run.update_record({"status": "finished"})
    runs_config = tmp_path / "config.json"
    runs_config.write_text("{}")
    result = evaluate_run(run, model, held_out, examples=2, progress=False)
    for name in ("metrics", "bins", "frames", "k_sweep"):
        assert len(run.table(name)) == len(getattr(result, name))
    assert run.record["evaluation"]["test"]["frames"] == len(held_out)
    examples = load_examples(run)
    assert list(examples) == [held_out.ids[0], held_out.ids[2]]
    first = examples[held_out.ids[0]]
    np.testing.assert_array_equal(first["image"], held_out[0].image)
    assert first["dense"].shape == first["truth"].shape == (48, 64)
    assert len(first["points"]) == len(first["point_depth"]) == len(first["point_truth"])
    (tmp_path / "examples.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match="damaged"):
        load_examples(run)
