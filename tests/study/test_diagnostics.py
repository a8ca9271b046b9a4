from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from spdlib.data.frames import Subset
from spdlib.data.rooms import Rooms
from spdlib.errors import DataError
from spdlib.inspection import CellAttention, Reads
from spdlib.models import create_model
from spdlib.study.diagnostics import (
    _reads,
    _routing,
    _verdict,
    alarms,
    gradient_coverage,
    head_spread_verdict,
    look_inside,
    per_bin_table,
    range_table,
)
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
    for frame, (p, g) in enumerate(zip(prediction, truth, strict=True)):
        total.update(p, g, g > 0, frame)
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


def test_a_missing_column_is_named_with_its_table() -> None:
    with pytest.raises(DataError, match=r"history table lacks \['gt_max'\]; it has \['epoch'"):
        range_table(pd.DataFrame(columns=["epoch", "pred_min", "pred_max", "gt_min"]))
    with pytest.raises(DataError, match=r"bins table lacks \['abs_rel'\]"):
        per_bin_table(pd.DataFrame(columns=["model", "protocol", "sites", "bin"]))


# inside a network


def test_routing_counts_different_cells_and_judges_how_evenly_all_are_seen() -> None:
    even = torch.full((1, 3, 4, 5), 1 / 20)
    own = torch.eye(4).view(1, 4, 2, 2)  # every query looks at one cell of its own
    routed = torch.tensor([[[0, 1], [1, 2], [2, 0]]])
    seen = [CellAttention("a", "L3", even, routed), CellAttention("b", "L4", own)]
    notes = {(name, part): value for name, part, value in _routing(seen)}
    assert notes["routed cells", "L3"] == 3
    assert notes["share of cells routed to", "L3"] == pytest.approx(3 / 20)
    assert notes["routed cells over one query's", "L3"] == 1.5
    for level, of_one in (("L3", 1), ("L4", 0)):
        assert notes["evenness of attention of a query", level] == pytest.approx(of_one)
        assert notes["evenness of attention of all queries", level] == pytest.approx(1)
    assert ("routed cells", "L4") not in notes


def test_only_freely_chosen_reads_are_judged() -> None:
    pixels, weights = torch.zeros(1, 1, 4, 2), torch.full((1, 1, 4), 0.25)
    offsets, outside = torch.randn(1, 1, 4, 2), torch.tensor([[[True, True, False, False]]])
    fixed = Reads("B2", "around", pixels, weights, ["L1"] * 4)
    chosen = replace(fixed, part="layer 2", offsets=offsets, outside=outside)
    notes = {(name, part): value for name, part, value in _reads([fixed, chosen])}
    assert notes == {
        ("spread of reads", "layer 2"): pytest.approx(offsets.std().item()),
        ("reads outside the map", "layer 2"): 0.5,
    }


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        (("routed cells over one query's", 29 / 20), "collapsed: below 1.5"),
        (("routed cells over one query's", 15 / 10), ""),
        (("canvas write", 0.001), "idle: below 1%"),
        (("canvas change", 0.001), "idle: below 1%"),
        (("reads outside the map", 0.41), "wild: above 20%"),
        (("gate", 0.0), ""),
    ],
)
def test_alarms_of_the_inside(note: tuple[str, float], expected: str) -> None:
    assert _verdict(*note) == expected


def test_a_canvas_network_is_seen_through() -> None:
    torch.manual_seed(0)
    model = create_model("v14_dual", "mobilenetv2_035", image_size=(64, 96), focal=70.0)
    table = look_inside(model, Rooms(2, size=(64, 96))).set_index(["diagnostic", "part"])["value"]
    assert table["set dependence", "answers"] > 1e-4
    assert table["scale of ln depth", "head"] == 1
    assert 0 < table["canvas reliance", "answers"] < 1
    assert len(table["gate"]) == 5
    assert table["gate"].between(0, 1).all()
    layers = {f"L{level}, layer {number}" for level in (2, 3) for number in range(1, 6)}
    assert set(table["canvas change"].index) == set(table["canvas write"].index) == layers
    assert table["reads outside the map"].between(0, 1).all()
    assert model.training


def test_independent_queries_depend_on_no_company() -> None:
    model = create_model("v15_2", "mobilenetv2_035", image_size=(64, 96), focal=70.0)
    table = look_inside(model, Rooms(2, size=(64, 96)))
    assert table["diagnostic"].tolist() == ["set dependence"]
    assert table["value"].item() < 1e-6
    with pytest.raises(DataError, match="no frames"):
        look_inside(model, Subset(Rooms(1, size=(64, 96)), []))


def test_gradients_are_missed_where_none_arrives() -> None:
    model = create_model("v14_dual", "mobilenetv2_035", image_size=(64, 64))
    points = torch.rand(1, 8, 2) * 60
    model(torch.rand(1, 3, 64, 64), points).depth.sum().backward()
    reached = gradient_coverage(model).set_index("component")["reached"]
    assert reached["neck_depth"] == 0  # its loss is left out
    assert reached["encoder"] > 0.99
    assert reached["head"] == 1
