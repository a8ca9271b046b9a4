"""Both protocols, baselines, bins, the K sweep and examples."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from torch import Tensor

from spdlib.data.frames import Frame, Frames, Subset
from spdlib.errors import DataError, RunError
from spdlib.geometry import NYU_CAMERA, Size
from spdlib.models import DepthModel, create_model
from spdlib.scene import Scene
from spdlib.study.config import RunConfig
from spdlib.study.diagnostics import wide_scores
from spdlib.study.entrants import ModelPredictor, PixelMap, constant, fit_image_free
from spdlib.study.evaluation import (
    Evaluation,
    KSweep,
    evaluate,
    evaluate_run,
    selection_scores,
)
from spdlib.study.generations import compare_frames
from spdlib.study.metrics import Alone
from spdlib.study.protocols import View
from spdlib.study.runs import Run
from spdlib.study.training import build_model
from tests.records import RUNNING
from tests.study.conftest import TwoProcesses, score_of

CONSTANT = 2.5


@pytest.fixture(scope="module")
def model(small: RunConfig, rooms: Frames) -> DepthModel:
    return build_model(small, rooms).eval()


@pytest.fixture(scope="module")
def result(model: DepthModel, rooms: Frames, held_out: Frames) -> Evaluation:
    fitted = fit_image_free(rooms)["exact"]
    baselines = {"exact": {**fitted, "constant": constant(CONSTANT)}}
    return evaluate(model, held_out, baselines=baselines)


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
    assert score_of(result, *dense, "abs_rel", "dense") == pytest.approx(np.mean(abs_rel), rel=1e-5)
    assert score_of(result, *dense, "rmse", "dense") == pytest.approx(np.mean(rmse), rel=1e-5)


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
    assert small.model.image_size == (32, 64)
    assert score_of(result, *dense, "silog", "dense") == pytest.approx(silog, rel=1e-5)
    assert score_of(result, *dense, "points", "points") == 128 * len(held_out)


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
    table = wide_scores(result.metrics, ["abs_rel", "rmse"])
    assert len(table) == 12
    assert list(table)[:4] == ["protocol", "sites", "model", "abs_rel"]


def test_group_size_changes_nothing_for_independent_queries(result: Evaluation) -> None:
    sweep = result.k_sweep
    assert list(sweep["k"]) == [1, 64, 256, 1024]
    assert list(sweep["points"]) == [64, 1024, 1024, 1024]
    assert sweep["independent"].all()
    assert sweep["max_abs_difference"].max() < 1e-5
    abs_rel = sweep["abs_rel"].to_numpy()
    assert abs_rel[1:] == pytest.approx(
        score_of(result, "v15_2", "eigen/exact", "abs_rel"), rel=1e-5
    )


def test_single_queries_stand_beside_the_same_points(result: Evaluation) -> None:
    sweep = result.k_sweep.set_index("k")
    assert sweep["abs_rel"].to_numpy() == pytest.approx(sweep["abs_rel_same_points"], rel=1e-5)
    assert sweep["abs_rel"][1] != pytest.approx(sweep["abs_rel"][256], rel=1e-3)


class GroupSize:
    """Answers the number of points asked together; alone it fails, if told."""

    def __init__(self, alone: float = 1.0) -> None:
        self.alone = alone

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        sizes = [len(part) for part in points.split(group or len(points))]
        return torch.tensor(
            [size if size > 1 else self.alone for size in sizes for _ in range(size)]
        )

    def dense(self) -> None:
        return None


@pytest.mark.parametrize("alone", [1.0, np.nan])
def test_sweep_asks_dependent_queries_in_groups_of_k(
    held_out: Frames, alone: float, two_processes: TwoProcesses
) -> None:
    def swept(processes: Any) -> pd.DataFrame:
        sweep = KSweep(range(len(held_out)), "exact")
        for index in range(processes.process_index, len(held_out), processes.num_processes):
            sweep.add(held_out[index], index, lambda _: GroupSize(alone))
        return sweep.table(processes, independent=False)

    table = swept(Alone())
    changes = [256 - alone, 192, 0, 768]
    np.testing.assert_equal(table["max_abs_difference"].to_numpy(), changes)
    assert table["abs_rel_same_points"].notna().all()
    assert np.isnan(table["abs_rel"][0]) == np.isnan(alone)
    for part in two_processes(swept):
        pd.testing.assert_frame_equal(part, table, rtol=1e-12)


def test_comparison_is_paired_by_frame(result: Evaluation) -> None:
    comparison = compare_frames(result.frames, "v15_2", "v15_2", "eigen/exact")
    assert comparison.difference == 0
    assert comparison.verdict == "tie"
    with pytest.raises(RunError, match="not of both v15_2, nobody"):
        compare_frames(result.frames, "v15_2", "nobody", "eigen/exact")


def test_comparison_refuses_a_score_that_only_one_lacks(result: Evaluation) -> None:
    pair = ("v15_2", "constant", "eigen/exact")
    table = result.frames.copy()
    first = table.index[(table["model"] == "v15_2") & (table["frame"] == table["frame"][0])]
    table.loc[first, "abs_rel"] = np.nan
    with pytest.raises(DataError, match="not finite"):
        compare_frames(table, *pair)
    table.loc[table["frame"] == table["frame"][0], "abs_rel"] = np.nan  # nothing to score
    assert np.isfinite(compare_frames(table, *pair).difference)
    with pytest.raises(RunError, match="eigen/exact/points has no AbsRel of frames"):
        compare_frames(table.assign(abs_rel=np.nan), *pair)


def test_recorded_scores_of_frames_average_to_the_pooled_score(result: Evaluation) -> None:
    rows = result.frames[result.frames["protocol"] == "recorded/exact"]
    assert set(rows["sites"]) == {"points"}
    for name, part in rows.groupby("model"):
        pooled = score_of(result, str(name), "recorded/exact", "abs_rel")
        assert part["abs_rel"].mean() == pytest.approx(pooled, rel=1e-9)


def test_pooled_eigen_scores_are_clamped(model: DepthModel, held_out: Frames) -> None:
    far = {"exact": {"far": constant(1000.0), "near": constant(1e-6)}}
    result = evaluate(model, held_out, baselines=far, k_sweep=False, dense=False, inside=False)
    assert score_of(result, "far", "eigen/exact", "pred_max") == 10
    assert score_of(result, "near", "eigen/exact", "pred_min") == pytest.approx(1e-3)
    median = score_of(result, "far", "eigen/exact", "gt_median")
    assert score_of(result, "far", "eigen/exact", "s_star") == pytest.approx(median / 10, rel=1e-6)
    assert score_of(result, "far", "recorded/exact", "pred_max") == 1000


def test_selection_scores_are_clamped(
    model: DepthModel, held_out: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scene, "depth_at", lambda _, points: torch.full((len(points),), 1000.0))
    scores = selection_scores(model, held_out, "exact", Alone())
    assert scores["pred_min"] == scores["pred_max"] == 10
    assert scores["sel_s_star"] < 1


def test_selection_scores_count_the_cells_that_queries_are_routed_to(
    model: DepthModel, held_out: Frames
) -> None:
    options: dict[str, Any] = {"routed_l3": 3, "routed_l4": 2}
    routing = create_model("v13_1", "mobilenetv2_035", image_size=(64, 96), focal=70.0, **options)
    unique = selection_scores(routing.eval(), held_out, None, Alone())["sel_unique_l3"]
    assert 3 <= unique <= 4 * 6
    assert math.isnan(selection_scores(model, held_out, None, Alone())["sel_unique_l3"])


def test_rows_without_any_number_stay_in_the_wide_table() -> None:
    rows = [("b", "p", "points", "rmse", np.nan), ("a", "p", "points", "rmse", 1.0)]
    metrics = pd.DataFrame(rows, columns=["model", "protocol", "sites", "metric", "value"])
    assert wide_scores(metrics, ["rmse", "delta1"])["model"].tolist() == ["b", "a"]


def test_two_processes_evaluate_like_one(
    model: DepthModel, held_out: Frames, result: Evaluation, two_processes: TwoProcesses
) -> None:
    quick = partial(evaluate, model, held_out, k_sweep=False, inside=False)
    for part in two_processes(lambda processes: quick(processes=processes)):
        for name in ("metrics", "bins", "frames"):
            table, whole = getattr(part, name), getattr(result, name)
            whole = whole[whole["model"] == "v15_2"].reset_index(drop=True)
            pd.testing.assert_frame_equal(table, whole, rtol=1e-12)
        assert list(part.examples) == held_out.ids
        assert part.answers().equals(result.answers())


def test_answers_are_those_that_were_scored(result: Evaluation, held_out: Frames) -> None:
    answers = result.answers()
    assert answers["frame"].unique().tolist() == held_out.ids
    error = (answers["prediction"].clip(1e-3, 10) - answers["truth"]).abs() / answers["truth"]
    table = result.frames.set_index(["model", "protocol", "sites", "frame"])["abs_rel"]
    scored = table.loc["v15_2", "eigen/exact", "points"]
    assert error.groupby(answers["frame"]).mean().to_numpy() == pytest.approx(scored, rel=1e-6)
    assert answers[["prediction", "truth"]].dtypes.unique() == [np.float32]
    with pytest.raises(RunError, match=r"against 'raw', but against \['exact'"):
        result.answers("raw")


def test_both_paths_agree_at_the_examples_lattice(
    model: DepthModel, result: Evaluation, held_out: Frames
) -> None:
    pairs = result.sparse_and_dense()
    lattice = pairs[pairs["where"] == "lattice sites"]
    height, width = model.encode(held_out[0].image, held_out[0].camera).padded
    assert len(lattice) == (height // 4) * (width // 4) * len(held_out)
    assert np.allclose(lattice["sparse"], lattice["dense"], rtol=1e-5)
    assert (pairs["where"] == "image pixels").sum() == 1024 * len(held_out)


def test_each_view_is_encoded_once(
    model: DepthModel, held_out: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, seen = DepthModel.encode, list[Size]()

    def counted(self: DepthModel, image: Any, *args: Any, **options: Any) -> Scene:
        seen.append(tuple(image.shape))
        return encode(self, image, *args, **options)

    monkeypatch.setattr(DepthModel, "encode", counted)
    monkeypatch.setattr("spdlib.study.evaluation.SWEEP_SINGLES", 2)
    evaluate(model, TwoTruths(Subset(held_out, [0])), inside=False)
    assert seen == [(48, 64, 3), (3, 32, 64)]  # for two truths, the sweep and an example


def test_a_failed_evaluation_leaves_the_training_mode(rooms: Frames, small: RunConfig) -> None:
    class Broken(Subset):
        def __getitem__(self, index: int) -> Frame:
            if index:
                raise DataError("broken")
            return super().__getitem__(index)

    model = build_model(small, rooms).train()
    with pytest.raises(DataError, match="broken"):
        evaluate(model, Broken(rooms, [0, 1]), dense=False, k_sweep=False, inside=False)
    assert model.training


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
    answers = depth_map(View(np.zeros((32, 56, 3), np.uint8), cut, frame))
    dense = answers.dense()
    assert dense is not None
    torch.testing.assert_close(dense, depth_map.depth[8:40, 4:60], atol=1e-2, rtol=0)


class TwoTruths:
    """Frames whose raw depth has holes and is 0.4 of the in-painted one."""

    def __init__(self, frames: Frames) -> None:
        self.source, self.ids = frames, frames.ids

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Frame:
        frame = self.source[index]
        exact = frame.truth()
        raw = np.where(np.arange(64) % 2 == 0, np.float32(0.4) * exact, np.float32(0))
        return replace(frame, depths={"inpainted": exact, "raw": raw})


def test_baselines_are_fitted_to_the_truth_that_they_are_scored_against(
    model: DepthModel, rooms: Frames, held_out: Frames
) -> None:
    fitted = fit_image_free(TwoTruths(rooms))
    swapped = {"inpainted": fitted["raw"], "raw": fitted["inpainted"]}
    score = partial(evaluate, model, TwoTruths(held_out), k_sweep=False, inside=False)
    both, crossed = score(baselines=fitted), score(baselines=swapped, dense=False)
    alone = score(baselines=fitted, truths=["raw"], dense=False)
    for truth in ("inpainted", "raw"):
        for protocol in (f"eigen/{truth}", f"recorded/{truth}"):
            assert f"10 of 10 training frames ({truth})" in both.notes[protocol]
            assert score_of(both, "constant", protocol, "abs_rel", "dense") > 0
            for name in ("constant", "pixel_map"):
                best, other = (
                    score_of(each, name, protocol, "abs_rel") for each in (both, crossed)
                )
                assert best < other
    for name in ("v15_2", "constant", "pixel_map"):
        for protocol in ("eigen/raw", "recorded/raw"):
            one = (name, protocol, "abs_rel")
            assert score_of(both, *one) == score_of(alone, *one)
    with pytest.raises(RunError, match=r"'raw' is scored, but the baselines are for \['inpainted'"):
        score(baselines={"inpainted": fitted["inpainted"]})


def test_all_truths_of_the_frames_are_scored_by_name(model: DepthModel, held_out: Frames) -> None:
    result = evaluate(model, TwoTruths(held_out), k_sweep=False, dense=False, inside=False)
    protocols = {f"{p}/{t}" for p in ("eigen", "recorded") for t in ("inpainted", "raw")}
    assert set(result.notes) == set(result.metrics["protocol"]) == protocols
    assert result.k_sweep.empty
    with pytest.raises(DataError, match="exact"):
        evaluate(model, TwoTruths(held_out), truths=["exact"])


def test_no_frames_are_refused(model: DepthModel, held_out: Frames) -> None:
    with pytest.raises(RunError, match="no frames"):
        evaluate(model, Subset(held_out, []))


def test_the_network_of_another_run_is_refused(
    tmp_path: Path, model: DepthModel, held_out: Frames, small: RunConfig
) -> None:
    run = Run(tmp_path)
    other = small.but(network="v13_1", options={})
    run.config_path.write_text(json.dumps(other.to_dict()))
    run.update_record(RUNNING)
    with pytest.raises(RunError, match=r"no run of this network \(network 'v15_2', not 'v13_1'"):
        evaluate_run(run, model, held_out)
    assert not (tmp_path / "metrics.csv").exists()


def test_run_keeps_tables_and_examples(
    tmp_path: Path, model: DepthModel, held_out: Frames, small: RunConfig
) -> None:
    run = Run(tmp_path)
    run.update_record(RUNNING)
    run.config_path.write_text(json.dumps(small.to_dict()))
    result = evaluate_run(run, model, held_out, examples=2, k_sweep=False)
    for name in ("metrics", "bins", "frames", "inside"):
        assert len(run.table(name)) == len(getattr(result, name))
    assert list(run.table("inside")["diagnostic"]) == ["set dependence"]
    assert run.record["evaluation"]["test"]["frames"] == len(held_out)
    with safe_open(tmp_path / "examples.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["ids"]) == [held_out.ids[0], held_out.ids[2]]
        names = [name for name in file.keys() if name.startswith("0.")]  # noqa: SIM118
        first = {name.removeprefix("0."): file.get_tensor(name) for name in names}
    np.testing.assert_array_equal(first["image"], held_out[0].image)
    assert first["dense"].shape == first["truth"].shape == (48, 64)
    assert len(first["points"]) == len(first["point_depth"]) == len(first["point_truth"])
    answers = load_file(tmp_path / "answers.safetensors")
    for number, kept in enumerate(result.points.values()):
        for name, values in kept.items():
            np.testing.assert_array_equal(answers[f"{number}.{name}"], values)
