"""What a run's numbers, and the inside of its network, warn of.

The numbers come from `metrics.RecordedMetrics.compute`, from history.csv and from bins.csv; here
they get the verdicts of the recorded reports and the tables that notebooks show. `look_inside`
watches a network at work on a few frames: where it routes, what its gates and canvases do, how far
its reads spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import pandas as pd
import torch
from torch import Tensor

from spdlib.data.frames import Frames, evenly_spaced
from spdlib.data.queries import evaluation_points
from spdlib.errors import DataError
from spdlib.inspection import CanvasStep, CellAttention, Gate, Number, Probe, Reads
from spdlib.models import DepthModel
from spdlib.models.base import evaluating
from spdlib.scene import GROUP, Scene

ROUTED_ALARM = 1.5
"""All queries' different cells over the cells of one, below which routing has collapsed: the
recorded reports' 30 and 15 cells where a query takes 20 and 10. 1 is the same cells for all."""
CANVAS_ALARM = 0.01
"""A layer that changes its canvas by less than this share of its norm leaves it as it was."""
OUTSIDE_ALARM = 0.2
"""Share of deformable reads outside the map; the recorded initialisation starts at 0.41 (F16)."""
FRAMES = 16
"""How many frames are looked at."""
RANGE_COLUMNS = ("epoch", "pred_min", "pred_max", "gt_min", "gt_max")


def head_spread_verdict(log_std: float) -> str:
    """Judge by the standard deviation of ln p over all points whether the head is idle."""
    if not math.isfinite(log_std):
        return "not finite"
    return "not learning" if log_std < 0.1 else "barely learning" if log_std < 0.3 else "OK"


def alarms(scores: Mapping[str, float]) -> list[str]:
    """Sentences on what is wrong with scores of `RecordedMetrics`; empty if nothing is."""
    checks = {
        f"{scores['nonfinite']:.0f} predictions are not finite": scores["nonfinite"] > 0,
        f"scale bias: one global factor, s* = {scores['s_star']:.3f}, removes "
        f"{scores['scale_gap']:.0f} % of AbsRel": scores["scale_gap"] > 20,
        f"collapse: predictions vary {scores['pred_cv']:.3f} of their mean, the truth "
        f"{scores['gt_cv']:.3f}": scores["pred_cv"] < 0.3 * scores["gt_cv"],
        f"spatial collapse: one image's predictions vary by only "
        f"{scores['intra_std_min']:.4f} m": scores["intra_std_min"] < 0.01,
        f"head spread {head_spread_verdict(scores['log_std'])}: ln p varies by "
        f"{scores['log_std']:.3f}": head_spread_verdict(scores["log_std"]) != "OK",
    }
    return [sentence for sentence, wrong in checks.items() if wrong]


def range_table(history: pd.DataFrame) -> pd.DataFrame:
    """Predicted beside true depth range of a run's history, one row per evaluated epoch.

    Returns:
        `RANGE_COLUMNS` and `covered`, the share of the true range that predictions span; the last
        evaluation of an epoch counts.

    DataError: a column is missing.
    """
    _require(history, RANGE_COLUMNS, "history")
    table = history[list(RANGE_COLUMNS)].dropna().groupby("epoch", as_index=False).last()
    shared = table[["pred_max", "gt_max"]].min(axis=1) - table[["pred_min", "gt_min"]].max(axis=1)
    table["covered"] = shared.clip(lower=0) / (table["gt_max"] - table["gt_min"])
    return table


def per_bin_table(bins: pd.DataFrame) -> pd.DataFrame:
    """AbsRel of bins.csv, one row per model, protocol and sites, one column per depth bin.

    DataError: a column is missing.
    """
    keys = ["model", "protocol", "sites"]
    _require(bins, (*keys, "bin", "abs_rel"), "bins")
    table = bins.pivot_table("abs_rel", keys, columns="bin", dropna=False, sort=False)
    return table[list(bins["bin"].unique())].rename_axis(columns=None)


def _require(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    if missing := [column for column in columns if column not in table]:
        raise DataError(f"the {name} table lacks {missing}; it has {list(table.columns)}")


def wide_scores(metrics: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Of metrics.csv: one row per protocol, sites and model, one column for each of these names."""
    rows = metrics[metrics["metric"].isin(names)]
    keys = ["protocol", "sites", "model"]
    # pivot_table would sort or drop rows whose scores are all NaN
    wide = rows.pivot(index=keys, columns="metric", values="value")
    wide = wide.reindex(pd.MultiIndex.from_frame(rows[keys].drop_duplicates()))
    return wide[[name for name in names if name in wide]].rename_axis(columns=None).reset_index()


# -- inside a network -------------------------------------------------------------------------

Note = tuple[str, str, float]
"""Diagnostic, layer or level, value."""


def look_inside(model: DepthModel, frames: Frames, squash: bool = False) -> pd.DataFrame:
    """Watch a network answer 256 points of each of `FRAMES` frames, evenly spaced.

    Networks without probes have set dependence alone; `squash` presses every frame into the
    training size (F1).

    Returns:
        DataFrame with columns diagnostic, part (layer or level), value, deviation and verdict (""
        where the value alarms nobody): mean and population standard deviation over frames of what
        is a mean over a frame's points.

    Raises:
        DataError: there are no frames.
    """
    chosen = [frames[index] for index in evenly_spaced(len(frames), FRAMES)]
    if not chosen:
        raise DataError("there are no frames to look at; check the split's name")
    notes: list[Note] = []
    model = evaluating(model)
    with torch.no_grad():
        for frame in chosen:
            scene = model.encode(frame.image, frame.camera, squash=squash)
            depth = torch.from_numpy(frame.truth())
            points = evaluation_points(depth, frame.id, GROUP).points[None].to(model.device)
            notes += _inside(model, scene, points.to(model.dtype))
    table = pd.DataFrame(notes, columns=["diagnostic", "part", "value"])
    values = table.groupby(["diagnostic", "part"], sort=False)["value"]
    table = values.agg(value="mean", deviation=lambda x: x.std(ddof=0)).reset_index()
    judged = zip(table["diagnostic"], table["value"], strict=True)
    return table.assign(verdict=[_verdict(*row) for row in judged])


def _inside(model: DepthModel, scene: Scene, points: Tensor) -> list[Note]:
    """Diagnostics of one frame's queries [1, K, 2], in pixels of the frame."""
    probes = scene.explain(points)
    return [
        ("set dependence", "answers", set_dependence(scene, points[0])),
        *(
            (f"{name} reliance", "answers", reliance(scene, points[0], without))
            for name, without in model.ablations().items()
        ),
        *_routing(of_kind(probes, CellAttention)),
        *_canvas(of_kind(probes, Gate), of_kind(probes, CanvasStep)),
        *_reads(of_kind(probes, Reads)),
        *((number.name, number.part, number.value) for number in of_kind(probes, Number)),
    ]


Kind = TypeVar("Kind", bound=Probe)


def of_kind(probes: Sequence[Probe], kind: type[Kind]) -> list[Kind]:
    """The probes of one kind, in their order."""
    return [probe for probe in probes if isinstance(probe, kind)]


def set_dependence(scene: Scene, points: Tensor) -> float:
    """Mean relative change of depth when a third of the points [K, 2] keeps other company.

    They are answered with the second third, then with the last: as many, but others; of 256
    points 85, in a company of 170. 0 in networks whose queries are independent, up to rounding.
    """
    third = len(points) // 3
    first, *companies = points[: 3 * third].split(third)
    one, other = (
        scene.depth_at(torch.cat([first, company]), group=2 * third)[:third]
        for company in companies
    )
    return _relative_change(one, other)


def reliance(
    scene: Scene, points: Tensor, without: Callable[[], AbstractContextManager[None]]
) -> float:
    """Mean relative change of depth at points [K, 2] when the network does without a part.

    Of answers, not of their error: how far a trained network leans on that part.
    """
    read = scene.depth_at(points)
    with without():
        unread = scene.depth_at(points)
    return _relative_change(unread, read)


def _relative_change(depth: Tensor, reference: Tensor) -> float:
    return float(((depth - reference).abs() / reference).mean())


def _routing(found: Sequence[CellAttention]) -> Iterator[Note]:
    """How many cells the queries of one image are routed to, and how evenly they look at all.

    Evenness is the entropy of attention weights over its maximum, of a query (mean over queries)
    and of the mean over all: queries that each look at one cell of their own have 0 and 1.
    """
    for probe in found:
        cells, level = probe.weights.flatten(2), probe.level  # [1, K, cells]
        count = cells.shape[-1]
        if probe.routed is not None:
            unique = probe.routed.unique().numel()
            yield "routed cells", level, float(unique)
            yield "share of cells routed to", level, unique / count
            yield "routed cells over one query's", level, unique / probe.routed.shape[-1]
        for whose, shares in (("a query", cells), ("all queries", cells.mean(1))):
            entropy = torch.special.entr(shares.double()).sum(-1) / math.log(count)
            yield f"evenness of attention of {whose}", level, float(entropy.mean())


def _canvas(gates: Sequence[Gate], steps: Sequence[CanvasStep]) -> Iterator[Note]:
    for gate in gates:
        yield "gate", gate.part, float(gate.opening.mean())
    by_level = sorted(steps, key=lambda step: step.level)  # a stable sort keeps the layers' order
    for step in by_level:
        yield "canvas write", f"{step.level}, {step.part}", float(step.write.mean())
    for step in by_level:
        yield "canvas change", f"{step.level}, {step.part}", float(step.change.mean())


def _reads(found: Sequence[Reads]) -> Iterator[Note]:
    """How far queries' own choice of sampling locations spreads, and how much of it is outside."""
    for probe in found:
        if probe.offsets is not None and probe.outside is not None:
            yield "spread of reads", probe.part, float(probe.offsets.double().std())
            yield "reads outside the map", probe.part, float(probe.outside.double().mean())


def _verdict(diagnostic: str, value: float) -> str:
    if diagnostic == "routed cells over one query's" and value < ROUTED_ALARM:
        return f"collapsed: below {ROUTED_ALARM:g}"
    if diagnostic in ("canvas write", "canvas change") and value < CANVAS_ALARM:
        return f"idle: below {CANVAS_ALARM:.0%}"
    if diagnostic == "reads outside the map" and value > OUTSIDE_ALARM:
        return f"wild: above {OUTSIDE_ALARM:.0%}"
    return ""


def gradient_coverage(model: DepthModel) -> pd.DataFrame:
    """Which parameters the last backward pass has reached, by component, before it is cleared.

    Returns:
        DataFrame with columns component, parameters, reached (share of them whose tensor has a
        gradient that is not zero everywhere), norm (of the component's gradient).
    """
    rows = []
    for name, part in model.components().items():
        parameters = [p for p in part.parameters() if p.requires_grad]
        total = sum(p.numel() for p in parameters)
        given = [p for p in parameters if p.grad is not None and bool(p.grad.any())]
        squares = sum(float(p.grad.double().square().sum()) for p in given if p.grad is not None)
        reached = sum(p.numel() for p in given) / total if total else float("nan")
        rows.append((name, total, reached, squares**0.5))
    return pd.DataFrame(rows, columns=["component", "parameters", "reached", "norm"])
