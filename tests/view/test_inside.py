"""Figures of networks at work: every network that tells where it looks can be drawn."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from pictures import drawn, words

from spdlib import create_model
from spdlib.data.rooms import Rooms
from spdlib.errors import QueryError, RunError
from spdlib.geometry import lattice_points
from spdlib.inspection import CellAttention
from spdlib.models import DepthModel
from spdlib.models.v15 import V152
from spdlib.study.diagnostics import look_inside
from spdlib.view.diagram import network_diagram
from spdlib.view.inside import ALARM, layers_at_work, where_it_looks

ROUTED: dict[str, dict[str, Any]] = {
    "v13_log_depth": {"routed_l4": 4},
    "v13_1": {"routed_l3": 5, "routed_l4": 3},
}
PANELS = {
    "v13_calibrated": ["B2: tokens around, close up", "B3: L4"],
    "v13_log_depth": [
        "B2: tokens around, close up", "B3: L4, routed cells framed", "B4: reads around 4 cells",
        "B5: attention by source (tokens)",
    ],
    "v13_1": [
        "B2: tokens around, close up", "B3a: L3, routed cells framed",
        "B3b: L4, routed cells framed", "B5: attention by source (tokens)",
    ],
    "v14_dual": [f"layer {n}: reads of its choice" for n in (1, 2, 3)],
    "v14_plan": [f"layer {n}: reads of its choice" for n in (1, 2, 3)],
    "v15_2": ["coarse: 5×5 cells of s8 and L2, close up", "fine: 5×5 cells of L1, close up"],
}  # fmt: skip


def network(name: str) -> DepthModel:
    torch.manual_seed(0)
    options = ROUTED.get(name, {})
    return create_model(
        name, "mobilenetv2_035", image_size=(96, 128), focal=110.0, **options
    ).eval()


def look(name: str, index: int = 5) -> Figure:
    frame = Rooms(1, size=(90, 120))[0]  # another size, padded
    model = network(name)
    return where_it_looks(
        frame.image, model.encode(frame.image, frame.camera), lattice_points((4, 4), (90, 120)),
        index,
    )  # fmt: skip


@pytest.mark.parametrize("name", PANELS)
def test_a_query_is_shown_block_by_block(name: str) -> None:
    figure = look(name)
    titles = [ax.get_title("left").partition("\n") for ax in figure.axes]
    assert [first for first, _, _ in titles] == PANELS[name]
    told = [bool(re.fullmatch(r"[\d.]+% to [\d.]+% a cell", rest)) for _, _, rest in titles]
    assert told == [first.startswith("B3") for first in PANELS[name]]
    assert any(said.startswith("query (44, 33), among 16: ") for said in words(figure))
    drawn(figure)


def test_routed_cells_are_framed_where_they_lie() -> None:
    frame, figure = Rooms(1, size=(90, 120))[0], look("v13_1")
    scene = network("v13_1").encode(frame.image, frame.camera)
    scale = 120 / scene.resized[1]  # cells are as wide as their stride in the network's image
    for ax, count, side in ((figure.axes[1], 5, 16), (figure.axes[2], 3, 32)):
        framed = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
        assert len(framed) == count
        assert all(cell.get_width() == pytest.approx(side * scale) for cell in framed)


def test_heat_begins_at_zero_and_its_range_is_told() -> None:
    frame, points = Rooms(1, size=(90, 120))[0], lattice_points((4, 4), (90, 120))
    _, seen = network("v13_calibrated").encode(frame.image, frame.camera).explain(points)
    assert isinstance(seen, CellAttention)
    weights = 100 * seen.weights[0, 5]
    heat = look("v13_calibrated").axes[1]
    assert heat.get_title("left").endswith(f"{weights.min():.1f}% to {weights.max():.1f}% a cell")
    assert heat.images[-1].norm.vmin == 0


def test_attention_by_source_sums_to_one() -> None:
    bars = look("v13_log_depth").axes[-1].patches
    assert sum(bar.get_width() for bar in bars if isinstance(bar, Rectangle)) == pytest.approx(1)


def test_networks_that_tell_nothing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = Rooms(1, size=(64, 96))[0]
    model = create_model("v15_2", "mobilenetv2_035", image_size=(64, 96), focal=80.0)
    monkeypatch.setattr(V152, "probes", DepthModel.probes)
    with pytest.raises(QueryError, match="does not tell where it looks"):
        where_it_looks(frame.image, model.encode(frame.image, frame.camera), [(3.0, 4.0)])


def test_layers_stand_beside_each_other_and_alarms_are_red() -> None:
    inside = look_inside(network("v14_dual"), Rooms(1, size=(96, 128)))
    idle = inside["part"] == "L2, layer 3"
    inside["verdict"] = inside["verdict"].mask(idle, "idle: below 1%")
    figure = layers_at_work(inside)
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == [
        "gate", "canvas write", "canvas change", "spread of reads", "reads outside the map",
    ]  # fmt: skip
    colours = [to_hex(bar.get_facecolor()) for bar in figure.axes[1].patches]
    assert [i for i, colour in enumerate(colours) if colour == ALARM] == [2]
    with pytest.raises(RunError, match="by layers"):
        layers_at_work(pd.DataFrame({"diagnostic": ["set dependence"], "part": ["answers"]}))


@pytest.mark.parametrize("name", [*PANELS, "v14_triple"])
def test_diagrams_say_sizes_and_counts(name: str) -> None:
    model = network(name)
    said = "\n".join(words(network_diagram(model)))
    counts = model.parameter_table().set_index("component")["parameters"]
    for component in {"encoder", "neck", "level4_attention", "head"} & set(counts.index):
        assert f"{counts[component]:,}" in said
    assert "64 × 24 × 32" in said or "192 × 24 × 32" in said  # L1
    assert ("B1: look around" in said) == name.startswith("v13")
    assert ("Q2Q" in said) == name.startswith("v14")
    assert ("read fine" in said) == (name == "v15_2")


def test_the_dense_baseline_is_drawn_and_reads_one_place() -> None:
    said = "\n".join(words(network_diagram(network("dav2_s"))))
    assert "depth: 1 × 96 × 128" in said
    assert "bilinear, of the depth map" in said and "fusion" in said
    (panel,) = look("dav2_s").axes
    assert panel.get_title("left") == "read: the finished depth map, close up"


def test_a_network_without_captions_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names of its parts, and by when they run."""
    for method in ("captions", "stages"):
        monkeypatch.setattr(V152, method, getattr(DepthModel, method))
    model = network("v15_2")
    when = {stage.title: stage.when for stage in model.stages()}
    assert when == {
        "encoder": "image", "neck": "image", "global path": "image", "local path": "query",
        "maps": "image",
    }  # fmt: skip
    figure = network_diagram(model)
    said = "\n".join(words(figure))
    assert "local path" in said
    assert "L1: 64 × 24 × 32" in said
    arrows = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 3 + 1 + 2 + 1  # along both chains, to the maps, and to what reads them
