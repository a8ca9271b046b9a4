from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from spdlib.errors import DataError
from spdlib.study.diagnostics import alarms, head_spread_verdict, per_bin_table, range_table
from spdlib.study.metrics import RecordedMetrics


@pytest.mark.parametrize(
    ("log_std", "verdict"),
    [
        (0.05, "not learning"),
        (0.1, "barely learning"),
        (0.28, "barely learning"),
        (0.3, "OK"),
        (math.nan, "not finite"),
        (math.inf, "not finite"),
    ],
)
def test_head_spread_verdicts(log_std: float, verdict: str) -> None:
    assert head_spread_verdict(log_std) == verdict


def scores(prediction: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    total = RecordedMetrics()
    total.update(prediction, truth, truth > 0)
    return total.compute()


def test_good_predictions_raise_no_alarm() -> None:
    truth = torch.rand(4, 100) * 6 + 1
    assert alarms(scores(truth * (0.9 + 0.2 * torch.rand(4, 100)), truth)) == []


def test_each_fault_raises_its_alarm() -> None:
    truth = torch.rand(4, 100) * 6 + 1
    raised = alarms(scores(truth * 1.5, truth))
    assert len(raised) == 1 and raised[0].startswith("scale bias") and "0.667" in raised[0]
    flat = alarms(scores(torch.full_like(truth, 3.0), truth))
    assert [sentence.split(":")[0] for sentence in flat] == [
        "collapse", "spatial collapse", "head spread not learning"
    ]  # fmt: skip
    broken = truth.clone()
    broken[0, 0] = torch.nan
    assert alarms(scores(broken, truth))[0] == "1 predictions are not finite"


def test_range_table_takes_the_last_evaluation_of_each_epoch() -> None:
    history = pd.DataFrame({
        "step": [10, 20, 30, 40],
        "epoch": [0, 0, 0, 1],
        "pred_min": [2.0, 1.0, math.nan, 0.5],
        "pred_max": [3.0, 4.0, math.nan, 11.0],
        "gt_min": [1.0, 1.0, math.nan, 1.0],
        "gt_max": [9.0, 9.0, math.nan, 9.0],
    })  # fmt: skip
    table = range_table(history)
    assert table["epoch"].tolist() == [0, 1]
    assert table["pred_max"].tolist() == [4.0, 11.0]
    assert table["covered"].tolist() == [3 / 8, 1.0]
    with pytest.raises(DataError, match="pred_max"):
        range_table(history.drop(columns="pred_max"))


def test_per_bin_table_keeps_the_order_of_bins_and_models() -> None:
    bins = pd.DataFrame({
        "model": ["v15_2"] * 3 + ["constant"] * 3,
        "protocol": "eigen/exact",
        "sites": "points",
        "bin": ["[0, 2)", "[2, 5)", "[5, 10)"] * 2,
        "abs_rel": [0.1, 0.2, math.nan, 0.4, 0.5, 0.6],
        "delta1": 0.5,
        "count": 10,
    })  # fmt: skip
    table = per_bin_table(bins)
    assert list(table.columns) == ["[0, 2)", "[2, 5)", "[5, 10)"]
    assert [key[0] for key in table.index] == ["v15_2", "constant"]
    assert table.iloc[1].tolist() == [0.4, 0.5, 0.6]
    assert table.isna().iloc[0].tolist() == [False, False, True]
    with pytest.raises(DataError, match="delta3"):
        per_bin_table(bins, "delta3")
