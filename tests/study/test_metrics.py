from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spdlib.errors import DataError
from spdlib.study import metrics
from spdlib.study.metrics import (
    FRAME_METRICS,
    Accumulator,
    EigenMetrics,
    LogSample,
    PooledMetrics,
    RecordedMetrics,
    bin_name,
    frame_scores,
    merge_processes,
)
from tests.study.conftest import TwoProcesses

# four points: exact, 10 % too far, twice too far, half
TRUTH = torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
PREDICTION = torch.tensor([[1.0, 2.2, 8.0, 4.0]], dtype=torch.float64)
ALL = torch.ones(1, 4, dtype=torch.bool)
LOGS = np.log([1.0, 1.1, 2.0, 0.5])


def random_batch(seed: int, shape: tuple[int, ...] = (3, 50)) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed)).double()
    return 0.5 + 9 * draw[0], 0.5 + 9 * draw[1], draw[2] > 0.2


def add(
    total: Accumulator,
    prediction: Tensor,
    truth: Tensor,
    valid: Tensor,
    frames: Iterable[int],
    edges: Tensor | None = None,
) -> None:
    """Add a batch of images."""
    for i, frame in enumerate(frames):
        near = None if edges is None else edges[i]
        total.update(prediction[i], truth[i], valid[i], frame, near)


def test_eigen_scores_by_hand() -> None:
    scores = dict(zip(FRAME_METRICS, frame_scores(PREDICTION[0], TRUTH[0]).tolist(), strict=True))
    assert scores["abs_rel"] == pytest.approx((0 + 0.1 + 1 + 0.5) / 4)
    assert scores["sq_rel"] == pytest.approx((0 + 0.04 / 2 + 16 / 4 + 16 / 8) / 4)
    assert scores["rmse"] == pytest.approx(math.sqrt((0 + 0.04 + 16 + 16) / 4))
    assert scores["rmse_log"] == pytest.approx(math.sqrt((LOGS**2).mean()))
    assert scores["silog"] == pytest.approx(100 * math.sqrt((LOGS**2).mean() - LOGS.mean() ** 2))
    assert scores["log10"] == pytest.approx(np.abs(np.log10([1, 1.1, 2, 0.5])).mean())
    assert (scores["delta1"], scores["delta2"], scores["delta3"]) == (0.5, 0.5, 0.5)


def test_delta_is_strict() -> None:
    truth = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    prediction = truth * torch.tensor([1.25, 1.25**2, 1.2499], dtype=torch.float64)
    scores = frame_scores(prediction[0], truth[0])
    deltas = dict(zip(FRAME_METRICS, scores.tolist(), strict=True))
    assert deltas["delta1"] == pytest.approx(1 / 3)
    assert deltas["delta2"] == pytest.approx(2 / 3)
    assert deltas["delta3"] == 1


def test_eigen_clamps_predictions_on_both_sides() -> None:
    prediction = torch.tensor([[20.0, -3.0]], dtype=torch.float64)
    truth = torch.tensor([[8.0, 1.0]], dtype=torch.float64)
    total = EigenMetrics()
    add(total, prediction, truth, torch.ones(1, 2, dtype=torch.bool), [0])
    assert total.compute()["abs_rel"] == pytest.approx((2 / 8 + 0.999) / 2)


def test_eigen_is_the_mean_of_images_not_of_points() -> None:
    truth = torch.full((2, 4), 2.0)
    prediction = torch.stack([truth[0] * 1.1, truth[1] * 1.5])
    valid = torch.tensor([[True, True, True, True], [True, False, False, False]])
    total = EigenMetrics()
    add(total, prediction, truth, valid, [0, 1])
    assert total.compute()["abs_rel"] == pytest.approx((0.1 + 0.5) / 2)
    assert total.compute()["frames"] == 2
    bins = total.bin_table().set_index("bin")
    assert bins.loc["[2, 5)", "abs_rel"] == pytest.approx((4 * 0.1 + 0.5) / 5)
    assert bins.loc["[2, 5)", "count"] == 5 and bins.loc["[2, 5)", "delta1"] == 0.8
    assert bins["abs_rel"].isna().tolist() == [True, False, True]
    assert bins["count"].tolist() == [0, 5, 0]


def test_edges_and_interior_are_scored_apart() -> None:
    edges = torch.tensor([[True, False, True, False]])
    total = EigenMetrics()
    add(total, PREDICTION, TRUTH, ALL, [0], edges)
    result = total.compute()
    assert result["abs_rel_edge"] == pytest.approx((0 + 1) / 2)
    assert result["abs_rel_interior"] == pytest.approx((0.1 + 0.5) / 2)


def test_frames_without_truth_are_left_out_but_nan_predictions_are_not_hidden() -> None:
    total = EigenMetrics()
    add(total, PREDICTION, TRUTH, ~ALL, [0])
    add(total, PREDICTION, TRUTH, ALL, [1])
    assert total.compute()["frames"] == 1 and math.isfinite(total.compute()["abs_rel"])
    assert math.isnan(total.compute()["abs_rel_edge"])
    add(total, PREDICTION * torch.nan, TRUTH, ALL, [2])
    assert math.isnan(total.compute()["abs_rel"])
    assert EigenMetrics().compute()["frames"] == 0


def test_nan_at_edges_is_not_taken_for_no_edges() -> None:
    edges = torch.tensor([[True, False, True, False]])
    broken = PREDICTION.clone()
    broken[0, 0] = torch.nan
    total = EigenMetrics()
    add(total, PREDICTION, TRUTH, ALL, [0], edges)
    add(total, PREDICTION, TRUTH, ALL, [1], ~ALL)  # no edges
    assert total.compute()["abs_rel_edge"] == pytest.approx((0 + 1) / 2)
    add(total, broken, TRUTH, ALL, [2], edges)
    assert math.isnan(total.compute()["abs_rel_edge"])
    assert math.isfinite(total.compute()["abs_rel_interior"])


def test_eigen_batches_maps_and_repeated_frames_change_nothing() -> None:
    p, g, valid = random_batch(0, (3, 5, 10))
    whole, parts = EigenMetrics(), EigenMetrics()
    add(whole, p, g, valid, [4, 2, 7])
    add(parts, p[2:].flatten(1), g[2:].flatten(1), valid[2:].flatten(1), [7])
    other = EigenMetrics()
    add(other, p[:2], g[:2], valid[:2], [4, 2])
    parts.merge(other)
    parts.merge(other)  # as a sampler repeats frames to fill its last batch
    assert parts.compute() == pytest.approx(whole.compute(), nan_ok=True)
    assert parts.bin_table().equals(whole.bin_table())
    table = whole.frame_table(["a", "b", "c", "d", "e", "f", "g", "h"])
    assert table["frame"].tolist() == ["c", "e", "h"]
    scores = frame_scores(p[0][valid[0]], g[0][valid[0]])
    assert np.allclose(table.iloc[1, 1:].astype(float), scores, equal_nan=True)


def recorded(*batches: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    total = RecordedMetrics()
    for batch in batches:
        add(total, *batch, range(len(batch[0])))
    return total.compute()


def test_recorded_scores_by_hand() -> None:
    result = recorded((PREDICTION, TRUTH, ALL))
    half = math.sqrt((LOGS**2).mean() - 0.5 * LOGS.mean() ** 2 + 1e-8)
    assert result["silog"] == pytest.approx(half)
    assert result["rmse"] == pytest.approx(math.sqrt((0.04 + 16 + 16) / 4))
    assert result["abs_rel"] == pytest.approx(0.4)
    # g / p = 1, 1/1.1, 1/2, 2: the lower middle value is 1/1.1
    scale = 1 / 1.1
    assert result["s_star"] == pytest.approx(scale)
    scaled = np.abs(scale * PREDICTION.numpy() - TRUTH.numpy()) / TRUTH.numpy()
    assert result["scaled_abs_rel"] == pytest.approx(scaled.mean())
    gap = 100 * (0.4 - scaled.mean()) / (0.4 + 1e-8)
    assert result["scale_gap"] == pytest.approx(gap)
    assert result["ratio_median"] == pytest.approx(1.0)  # of 0.5, 1, 1.1, 2
    assert result["ratio_mean"] == pytest.approx(1.15)
    assert result["within_2x"] == 0.5  # strictly between one half and two
    assert (result["points"], result["frames"], result["nonfinite"]) == (4, 1, 0)


def test_pooled_scores_are_eigens_of_all_points_at_once() -> None:
    truth = torch.tensor([1.0, 2.0, 4.0, 8.0, 5.0], dtype=torch.float64)
    prediction = torch.tensor([1.0, 2.2, 8.0, 40.0, -1.0], dtype=torch.float64)
    pooled, one = PooledMetrics(), torch.ones(5, dtype=torch.bool)
    pooled.update(prediction[:2], truth[:2], one[:2], 0)
    pooled.update(prediction[2:], truth[2:], one[2:], 1)
    whole = frame_scores(prediction.clamp(1e-3, 10), truth)
    expected = dict(zip(FRAME_METRICS, whole.tolist(), strict=True))
    found = pooled.compute()
    for name in ("abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "log10", "delta1", "delta3"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9)
    assert (found["pred_min"], found["pred_max"], found["frames"]) == (1e-3, 10, 2)
    assert pooled.frame_table(["a", "b"]).empty
    pooled.update(prediction * torch.nan, truth, one, 2)
    assert math.isnan(pooled.compute()["abs_rel"]) and math.isnan(pooled.compute()["silog"])


def test_recorded_distributions_match_numpy() -> None:
    p, g, valid = random_batch(1)
    result = recorded((p, g, valid))
    for name, values in (("pred", p[valid].numpy()), ("gt", g[valid].numpy())):
        std = values.std(ddof=1)
        assert result[f"{name}_mean"] == pytest.approx(values.mean())
        assert result[f"{name}_std"] == pytest.approx(std)
        assert result[f"{name}_cv"] == pytest.approx(std / values.mean())
        assert result[f"{name}_min"] == values.min() and result[f"{name}_max"] == values.max()
        assert result[f"{name}_median"] == torch.from_numpy(values).median()
    logs = np.log(p[valid].numpy())
    assert result["log_std"] == pytest.approx(logs.std(ddof=1))
    assert (result["log_min"], result["log_max"]) == (logs.min(), logs.max())
    spreads = [p[i][valid[i]].std().item() for i in range(3)]
    assert result["intra_std_mean"] == pytest.approx(np.mean(spreads))
    assert result["intra_std_min"] == pytest.approx(min(spreads))
    ratio = (g / p)[valid]
    assert result["s_star"] == pytest.approx(ratio.median().item(), rel=1e-12)


def test_recorded_clamps_from_below_only() -> None:
    prediction = torch.tensor([[-1.0, 30.0]], dtype=torch.float64)
    truth = torch.tensor([[1.0, 10.0]], dtype=torch.float64)
    result = recorded((prediction, truth, torch.ones(1, 2, dtype=torch.bool)))
    assert (result["pred_min"], result["pred_max"]) == (1e-3, 30.0)
    assert result["abs_rel"] == pytest.approx((0.999 + 2) / 2)


def test_recorded_counts_what_is_not_finite_and_shows_it() -> None:
    broken = PREDICTION.clone()
    broken[0, 1] = torch.nan
    result = recorded((broken, TRUTH, ALL))
    assert result["nonfinite"] == 1
    assert all(math.isnan(result[name]) for name in ("abs_rel", "s_star", "pred_std", "log_std"))


@pytest.mark.parametrize("first", [0, 1])
def test_recorded_least_spread_shows_nan_in_any_order(first: int) -> None:
    images = [PREDICTION, PREDICTION * torch.nan]
    batches = [(images[i], TRUTH, ALL) for i in (first, 1 - first)]
    assert math.isnan(recorded(*batches)["intra_std_min"])
    parts = [RecordedMetrics(), RecordedMetrics()]
    for part, batch in zip(parts, batches, strict=True):
        add(part, *batch, [0])
    parts[0].merge(parts[1])
    assert math.isnan(parts[0].compute()["intra_std_min"])


def test_recorded_keeps_the_score_of_each_frame() -> None:
    p, g, _ = random_batch(5)
    valid = torch.ones_like(p, dtype=torch.bool)
    valid[1] = False
    whole, other = RecordedMetrics(), RecordedMetrics()
    add(whole, p[1:], g[1:], valid[1:], [1, 2])
    add(other, p[:1], g[:1], valid[:1], [0])
    whole.merge(other)
    table = whole.frame_table(["a", "b", "c"])
    assert table["frame"].tolist() == ["a", "c"]  # b has no point
    expected = ((p - g).abs() / g).mean(1)[[0, 2]]
    assert np.allclose(table["abs_rel"], expected)
    assert table["abs_rel"].mean() == pytest.approx(whole.compute()["abs_rel"], rel=1e-12)


def test_recorded_without_points_is_nan() -> None:
    result = recorded((PREDICTION, TRUTH, ~ALL), (PREDICTION, TRUTH * 0, ALL))
    assert result["points"] == 0 and result["frames"] == 0
    assert all(math.isnan(result[name]) for name in ("abs_rel", "s_star", "pred_min", "silog"))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(0, 3))
def test_recorded_batches_and_merging_change_nothing(seed: int, cut: int) -> None:
    p, g, valid = random_batch(seed)
    whole = RecordedMetrics()
    add(whole, p, g, valid, range(3))
    first, second = RecordedMetrics(), RecordedMetrics()
    add(first, p[:cut], g[:cut], valid[:cut], range(cut))
    add(second, p[cut:], g[cut:], valid[cut:], range(cut, 3))
    first.merge(second)
    assert first.compute() == pytest.approx(whole.compute(), rel=1e-12)
    assert np.allclose(first.bin_table().iloc[:, 1:], whole.bin_table().iloc[:, 1:])


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.2, 5.0))
def test_one_global_factor_is_found(scale: float) -> None:
    _, g, valid = random_batch(3)
    result = recorded((g / scale, g, valid))
    assert result["s_star"] == pytest.approx(scale)
    assert result["scaled_abs_rel"] == pytest.approx(0, abs=1e-9)


def test_recorded_bins_are_half_open() -> None:
    truth = torch.tensor([[1.0, 2.0, 4.99, 5.0, 9.99, 10.0]])
    total = RecordedMetrics()
    add(total, truth, truth, truth > 0, [0])
    assert total.bin_table()["count"].tolist() == [1, 2, 2]
    assert total.bin_table()["bin"].tolist() == ["[0, 2)", "[2, 5)", "[5, 10)"]
    assert bin_name(0.0, 2.0) == "[0, 2)"


def test_large_sets_take_their_median_from_a_histogram() -> None:
    values = torch.exp(torch.randn(20_001, generator=torch.Generator().manual_seed(0)).double())
    exact, coarse, mixed = LogSample(), LogSample(limit=5_000), LogSample(limit=5_000)
    exact.add(values)
    for chunk in values.split(3_000):
        coarse.add(chunk)
    mixed.add(values[:4_000])
    mixed.merge(LogSample(limit=5_000))
    assert coarse.median() == pytest.approx(exact.median(), rel=6e-5)
    assert coarse.mean(torch.sqrt) == pytest.approx(exact.mean(torch.sqrt), rel=1e-5)
    assert not coarse._chunks
    rest = LogSample(limit=5_000)
    rest.add(values[4_000:])
    mixed.merge(rest)
    assert mixed.median() == coarse.median()
    assert exact.median() == values.median().item()


@pytest.mark.parametrize("limit", [100, 2])
def test_samples_with_nan_have_no_median(limit: int) -> None:
    sample, merged = LogSample(limit), LogSample(limit)
    sample.add(torch.tensor([1.0, torch.nan, 4.0, 8.0]))
    merged.add(torch.tensor([2.0, 3.0, 5.0]))
    merged.merge(sample)
    for each in (sample, merged):
        assert math.isnan(each.median()) and math.isnan(each.median(upper=True))
        assert math.isnan(each.mean(torch.sqrt))


def test_even_counts_have_two_medians_in_both_forms() -> None:
    for limit in (100, 2):
        sample = LogSample(limit)
        sample.add(torch.tensor([1.0, 2.0, 4.0, 8.0]))
        assert sample.median() == pytest.approx(2.0, rel=6e-5)
        assert sample.median(upper=True) == pytest.approx(4.0, rel=6e-5)


def test_recorded_switches_to_the_histogram_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [random_batch(seed) for seed in range(4)]
    exact = recorded(*batches)
    monkeypatch.setattr(metrics.LogSample, "__init__", _limited)
    coarse = recorded(*batches)
    for name in ("s_star", "scaled_abs_rel", "ratio_median", "pred_median", "gt_median"):
        assert coarse[name] == pytest.approx(exact[name], rel=1e-3), name
    assert coarse["abs_rel"] == exact["abs_rel"]


_original_init = LogSample.__init__


def _limited(self: LogSample) -> None:
    _original_init(self, limit=100)


def test_wrong_input_is_named() -> None:
    with pytest.raises(DataError, match="one shape"):
        EigenMetrics().update(PREDICTION[:, :3], TRUTH, ALL, 0)


def filled(rows: slice) -> tuple[EigenMetrics, RecordedMetrics]:
    """Both accumulators over some of five images."""
    p, g, valid = (t[rows] for t in random_batch(8, (5, 40)))
    eigen, pooled = EigenMetrics(), RecordedMetrics()
    add(eigen, p, g, valid, list(range(5))[rows])
    add(pooled, p, g, valid, list(range(5))[rows])
    return eigen, pooled


def test_two_processes_score_like_one(two_processes: TwoProcesses) -> None:
    def process(processes: Any) -> list[dict[str, float]]:
        parts = filled(slice(0, 2) if processes.process_index == 0 else slice(2, 5))
        merged = merge_processes(dict(enumerate(parts)), processes)
        return [merged[key].compute() for key in (0, 1)]

    whole = [each.compute() for each in filled(slice(None))]
    for result in two_processes(process):
        assert result[0] == pytest.approx(whole[0], rel=1e-12, nan_ok=True)
        assert result[1] == pytest.approx(whole[1], rel=1e-12)


def test_scores_that_only_one_process_has_are_kept(two_processes: TwoProcesses) -> None:
    def process(processes: Any) -> dict[str, float]:
        mine = {"late": filled(slice(0, 2))[0]} if processes.process_index else {}
        return merge_processes(mine, processes)["late"].compute()

    for result in two_processes(process):
        assert result["frames"] == 2
