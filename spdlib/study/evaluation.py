"""`evaluate`: both protocols, the baselines, bins, edges and the K sweep (decisions 7).

Everything that answers points is scored alike: a `Predictor` is given a view (an image with its
camera) and returns something with `depth_at`. A network answers through `encode`, an image-free
baseline from its map. Protocols are always named with their truth, for instance "eigen/inpainted":

* eigen: the frame as it is, its fixed 1,024 points in groups of 256, and all pixels of `dense()`;
* recorded: the frame at the network's size, 128 seeded points with replacement, and all pixels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from spdlib.data.augment import AugmentConfig, augment
from spdlib.data.frames import TRUTHS, Frame, Frames, spread
from spdlib.data.queries import (
    EIGEN_MAX_DEPTH,
    EIGEN_MIN_DEPTH,
    EIGEN_POINTS,
    PointSample,
    edge_mask,
    eigen_mask,
    evaluation_points,
    recorded_points,
    seeded_generator,
)
from spdlib.errors import RunError
from spdlib.geometry import Camera, Size
from spdlib.machine import origin
from spdlib.models import DepthModel
from spdlib.models.base import evaluating
from spdlib.scene import GROUP, Scene
from spdlib.study.diagnostics import look_inside
from spdlib.study.image_free import Baselines, PixelMap
from spdlib.study.metrics import (
    Comparison,
    EigenMetrics,
    RecordedMetrics,
    gather,
    merge_processes,
    paired_bootstrap,
)
from spdlib.study.runs import Run, describe_frames, write_bytes

SWEEP = (1, 64, 256, 1024)
SWEEP_SINGLES = 64
"""How many of a frame's points are asked one by one."""
SWEEP_FRAMES = 16
"""Frames of the K sweep, evenly spread. Few will do for its means, which compare the same points;
its largest change of an answer grows with their number."""
INDEPENDENT_SWEEP_FRAMES = 4
"""Frames that are enough where queries are independent by construction."""
RECORDED_POINTS = {"v13": 256, "v14": 256, "v15": 128}
"""Points a frame of the recorded protocol by generation; later networks take v15's."""
POOLED_EIGEN = (
    "s_star", "scaled_abs_rel", "scale_gap", "pred_mean", "pred_std", "pred_min", "pred_median",
    "pred_max", "gt_mean", "gt_std", "gt_min", "gt_median", "gt_max", "within_2x", "log_std",
)  # fmt: skip
"""Scores pooled over the eigen points, reported beside the per-image means."""
SUMMARY = ("abs_rel", "rmse", "delta1", "silog", "s_star", "scaled_abs_rel")
EXAMPLES_FILE = "examples.safetensors"

Key = tuple[str, str, str]
"""Model, protocol, sites."""


@dataclass(frozen=True)
class View:
    """One image to be asked about.

    Attributes:
        image: uint8 [H, W, 3] or float [3, H, W] in 0..1.
        camera: the image's camera.
        frame_camera: camera of the whole frame that the image shows, or shows a part of.
    """

    image: np.ndarray | Tensor
    camera: Camera
    frame_camera: Camera


class Answers(Protocol):
    """Depth of one view."""

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Depth [K] in metres at points [K, 2] in pixels of the view, asked `group` at a time."""
        ...

    def dense(self) -> Tensor | None:
        """Depth [H, W] in metres of every pixel; None where there is no dense path."""
        ...


class Predictor(Protocol):
    """Anything that can be scored."""

    def __call__(self, view: View) -> Answers:
        """Look at a view."""
        ...


@dataclass(frozen=True)
class SceneAnswers:
    """Answers of one scene, or the mean of a scene and its mirror image."""

    scene: Scene
    mirrored: Scene | None = None

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Depth [K] in metres on the CPU at points [K, 2]; `group` as for `Scene.depth_at`."""
        depth = self.scene.depth_at(points, group=group)
        if self.mirrored is not None:
            last = self.scene.image_size[1] - 1
            other = torch.stack([last - points[..., 0], points[..., 1]], -1)
            depth = (depth + self.mirrored.depth_at(other, group=group)) / 2
        return depth.cpu()

    def dense(self) -> Tensor | None:
        """Depth [H, W] in metres on the CPU."""
        if not self.scene.model.has_dense:
            return None
        depth = self.scene.dense()[0]
        if self.mirrored is not None:
            depth = (depth + self.mirrored.dense()[0].flip(-1)) / 2
        return depth.cpu()


@dataclass(frozen=True)
class ModelPredictor:
    """A network behind the predictor's interface.

    Attributes:
        model: in evaluation mode, on any device.
        flip: average with the answers to the mirrored image.
        squash: press views into the training size (F1).
    """

    model: DepthModel
    flip: bool = False
    squash: bool = False

    def __call__(self, view: View) -> SceneAnswers:
        """Encode the view, and its mirror image if asked."""
        scene = self.model.encode(view.image, view.camera, squash=self.squash)
        if not self.flip:
            return SceneAnswers(scene)
        image = view.image
        width_axis = 1 if isinstance(image, np.ndarray) else 2
        flipped = (
            np.ascontiguousarray(np.flip(image, width_axis))
            if isinstance(image, np.ndarray)
            else image.flip(width_axis)
        )
        mirrored = self.model.encode(flipped, view.camera.flipped(), squash=self.squash)
        return SceneAnswers(scene, mirrored)


@dataclass(frozen=True)
class _MapAnswers:
    depth_map: PixelMap
    view: View

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Read the map where the whole frame shows what the view shows at the points."""
        camera, frame = self.view.camera, self.view.frame_camera
        rays = camera.back_project(points.double(), torch.ones(points.shape[:-1]).double())
        return self.depth_map.depth_at(frame.project(rays), frame.size).float()

    def dense(self) -> Tensor | None:
        """Depth [H, W] in metres of every pixel."""
        if self.view.camera == self.view.frame_camera:
            return self.depth_map.dense(self.view.camera.size)
        height, width = self.view.camera.size
        v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        return self.depth_at(torch.stack([u, v], -1).reshape(-1, 2)).view(height, width)


@dataclass(frozen=True)
class MapPredictor:
    """An image-free baseline behind the predictor's interface."""

    depth_map: PixelMap

    def __call__(self, view: View) -> _MapAnswers:
        """Remember the view's place in its frame; its image is never looked at."""
        return _MapAnswers(self.depth_map, view)


class Processes(Protocol):
    """What `accelerate.Accelerator` says about the processes at work."""

    @property
    def num_processes(self) -> int:
        """How many there are."""
        ...

    @property
    def process_index(self) -> int:
        """Number of this one."""
        ...


class _Alone(NamedTuple):
    num_processes: int = 1
    process_index: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Tables of one evaluation.

    Attributes:
        metrics: model, protocol, sites, metric, value, frames.
        bins: model, protocol, sites, bin, abs_rel, delta1, count.
        frames: model, protocol, sites, frame and the eigen scores of each frame; of the recorded
            protocol AbsRel at the points only.
        k_sweep: k, points, abs_rel, abs_rel_same_points (of the row's points in groups of 256),
            rmse, delta1, max_abs_difference (metres, to groups of 256), frames, independent. With
            independent queries all rows are one line: the same answers. K = 1 is asked of fewer
            points, so that only abs_rel_same_points may be set against its abs_rel.
        inside: what `look_inside` tells of the network; empty if it was not asked.
        notes: protocol name -> what was done, in words.
        examples: arrays of a few frames for figures, by frame id; see `load_examples`. Of several
            processes the first one holds them.
    """

    metrics: pd.DataFrame
    bins: pd.DataFrame
    frames: pd.DataFrame
    k_sweep: pd.DataFrame
    inside: pd.DataFrame
    notes: Mapping[str, str]
    examples: Mapping[str, Mapping[str, np.ndarray]]

    def value(self, model: str, protocol: str, metric: str, sites: str = "points") -> float:
        """One score.

        Raises:
            RunError: there is no such score.
        """
        table = self.metrics
        chosen = table[
            (table["model"] == model)
            & (table["protocol"] == protocol)
            & (table["sites"] == sites)
            & (table["metric"] == metric)
        ]
        if len(chosen) != 1:
            raise RunError(f"no score {metric!r} of {model!r} under {protocol!r} at {sites!r}")
        return float(chosen["value"].iloc[0])

    def summary(self, metrics: Sequence[str] = SUMMARY) -> pd.DataFrame:
        """One row per protocol, sites and model; one column per metric."""
        return wide_scores(self.metrics, metrics)

    def compare(
        self, first: str, second: str, protocol: str, metric: str = "abs_rel", sites: str = "points"
    ) -> Comparison:
        """Paired bootstrap of two models over the frames of one protocol; see `compare_frames`."""
        return compare_frames(self.frames, first, second, protocol, metric, sites)

    def save(self, run: Run) -> None:
        """Write the tables, each as NAME.csv, and the examples into a run."""
        for name in ("metrics", "bins", "frames", "k_sweep", "inside"):
            run.write_table(name, getattr(self, name))
        save_examples(run.folder / EXAMPLES_FILE, self.examples)


def wide_scores(metrics: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """One row per protocol, sites and model in the table's order, one column per metric.

    Args:
        metrics: metrics.csv of a run.
        names: which metrics, in the order of the columns.
    """
    rows = metrics[metrics["metric"].isin(names)]
    keys = ["protocol", "sites", "model"]
    # pivot_table would sort or drop rows whose scores are all NaN
    wide = rows.pivot(index=keys, columns="metric", values="value")
    wide = wide.reindex(pd.MultiIndex.from_frame(rows[keys].drop_duplicates()))
    return wide[[name for name in names if name in wide]].rename_axis(columns=None).reset_index()


def compare_frames(
    frames: pd.DataFrame,
    first: str,
    second: str,
    protocol: str,
    metric: str = "abs_rel",
    sites: str = "points",
) -> Comparison:
    """Paired bootstrap of two models in a table of frames, over the frames that both have.

    Frames that are NaN for both had nothing to score and are left out.

    Raises:
        RunError: the table lacks one of them, or the metric of single frames.
        DataError: the score of a frame is NaN for one of them.
    """
    chosen = frames[(frames["protocol"] == protocol) & (frames["sites"] == sites)]
    tables = [chosen[chosen["model"] == model] for model in (first, second)]
    pair = [table.set_index("frame")[metric] for table in tables]
    if not len(pair[0]) or not len(pair[1]):
        have = sorted(set(chosen["model"]))
        raise RunError(f"{protocol}/{sites} has frames of {have}, not of both {first}, {second}")
    both = pd.concat(pair, axis=1, keys=["first", "second"], join="inner").dropna(how="all")
    if both.empty:
        raise RunError(f"{protocol}/{sites} has no {metric} of frames that both models share")
    higher = metric.startswith("delta")
    return paired_bootstrap(both["first"].to_numpy(), both["second"].to_numpy(), higher)


def evaluate(
    model: DepthModel,
    frames: Frames,
    *,
    name: str | None = None,
    baselines: Baselines | None = None,
    truths: Sequence[str] | None = None,
    dense: bool = True,
    k_sweep: bool = True,
    inside: bool = True,
    flip: bool = False,
    crop: str = "fit",
    squash: bool = False,
    recorded_k: int | None = None,
    examples: int = 6,
    processes: Processes | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score a network and the image-free baselines on the same frames and points.

    Args:
        model: the network, on the device that shall compute.
        frames: test frames.
        name: of the network in the tables; default its registered name.
        baselines: of `fit_image_free` on training frames; in the tables of each truth stand those
            that were fitted to it.
        truths: which depths count; default all that the frames have.
        dense: also score every pixel, if the network has a dense path.
        k_sweep: also ask the same points in groups of 1 (64 of them), 64, 256 and 1,024, on a few
            frames.
        inside: also watch the network at work on a few frames.
        flip: average the network's answers with those to the mirrored image.
        crop: how the recorded protocol brings a frame to the network's size, "fit", "native" or
            "squash".
        squash: show the network every frame pressed into its training size (F1).
        recorded_k: points a frame of the recorded protocol; None takes what the network's
            generation was recorded with.
        examples: frames, evenly spread, whose predictions are kept for figures.
        processes: an accelerator, to share the frames out; every process gets all tables.
        progress: show a bar on terminals.

    Raises:
        RunError: no frames, or no baselines for one of the truths.
        DataError: the frames lack a truth that was asked for.
    """
    if not len(frames):
        raise RunError("there are no frames to evaluate; check the split's name")
    first = frames[0]
    dense = dense and model.has_dense
    names = list(truths or [kind for kind in TRUTHS if kind in first.depths])
    given = _of_each_truth(baselines, names)
    predictor = ModelPredictor(model, flip, squash)
    entrants = _Entrants(name or model.config.network, predictor, given)
    board = _Board(entrants, names, dense)
    if recorded_k is None:
        recorded_k = RECORDED_POINTS.get(model.config.network[:3], RECORDED_POINTS["v15"])
    recorded = _Recorded(model.config.image_size, crop, recorded_k)
    independent = model.queries_are_independent
    sweep_frames = INDEPENDENT_SWEEP_FRAMES if independent else SWEEP_FRAMES
    sweep = _Sweep(len(frames), sweep_frames) if k_sweep else None
    who = processes or _Alone()
    mine = range(who.process_index, len(frames), who.num_processes)
    wanted = spread(len(frames), examples if who.process_index == 0 else 0)
    with evaluating(model):
        for index in _progress(mine, progress):
            frame = frames[index]
            answers = _score_frame(board, entrants, frame, index, names, dense)
            _score_recorded(board, entrants, frame, index, names, dense, recorded)
            if sweep is not None and index in sweep.wanted:
                sweep.add(answers, frame, index, names[0])
        chosen = (frames[index] for index in wanted)
        kept = {frame.id: _example(entrants.network, frame, names[0]) for frame in chosen}
    tables = board.merged(who).tables(frames.ids)
    swept = sweep.table(who, independent) if sweep else pd.DataFrame()
    seen = look_inside(model, frames, squash=squash) if inside else pd.DataFrame()
    shown = "averaged with the mirrored image" if flip else "no flip"
    shown += "; frames squashed to the training size" if squash else ""
    return Evaluation(*tables, swept, seen, _notes(first, names, shown, recorded, given), kept)


def _of_each_truth(baselines: Baselines | None, truths: Sequence[str]) -> Baselines:
    """Baselines of all truths that are scored; RunError if some are given, but not for all."""
    if not baselines:
        return {truth: {} for truth in truths}
    missing = [truth for truth in truths if truth not in baselines]
    if missing:
        raise RunError(
            f"{missing[0]!r} is scored, but the baselines are for {sorted(baselines)}; use "
            "`fit_image_free` on training frames that have it, or name the truths to score"
        )
    return {truth: baselines[truth] for truth in truths}


@torch.no_grad()
def selection_scores(
    model: DepthModel,
    frames: Frames,
    truth: str | None,
    processes: Processes,
    squash: bool = False,
) -> dict[str, float]:
    """Scores on the selection set, in the history's names; frames are shared out over processes.

    AbsRel, RMSE and delta1 follow the eigen protocol at its fixed 1,024 points a frame; s* and the
    ranges are pooled over the same points, clamped alike. "sel_unique_l3", of networks that route
    queries to cells of L3, is the mean number of different ones among those of 256 points.
    """
    eigen, pooled = EigenMetrics(), RecordedMetrics()
    unique: list[int] = []
    for index in range(processes.process_index, len(frames), processes.num_processes):
        frame = frames[index]
        sample = _eigen_points(frame, truth)
        scene = model.encode(frame.image, frame.camera, squash=squash)
        depth = scene.depth_at(sample.points).cpu()
        batch = depth[None], sample.truth[None].to(depth), sample.valid[None]
        eigen.update(*batch, [index])
        pooled.update(_clamped(depth)[None], *batch[1:])
        if hasattr(model.options, "routed_l3"):
            seen = scene.explain(sample.points[:GROUP])
            unique.append(seen["l3_routed"].unique().numel())
    scores = merge_processes(eigen, processes).compute()
    ranges = merge_processes(pooled, processes).compute()
    routed = torch.cat(gather(torch.tensor(unique, dtype=torch.float32), processes))
    return {
        "sel_abs_rel": scores["abs_rel"],
        "sel_rmse": scores["rmse"],
        "sel_delta1": scores["delta1"],
        "sel_s_star": ranges["s_star"],
        "sel_unique_l3": float(routed.mean()),
        **{name: ranges[name] for name in ("pred_min", "pred_max", "gt_min", "gt_max")},
    }


def _progress(indices: range, show: bool) -> Iterator[int]:
    quiet = not (show and sys.stderr.isatty())
    yield from tqdm(indices, desc="evaluating", unit="frame", disable=quiet)


def _eigen_points(frame: Frame, truth: str | None) -> PointSample:
    return evaluation_points(torch.from_numpy(frame.truth(truth)), frame.id)


def _clamped(depth: Tensor) -> Tensor:
    """Predictions as the eigen protocol takes them; `EigenMetrics` clamps by itself."""
    return depth.clamp(EIGEN_MIN_DEPTH, EIGEN_MAX_DEPTH)


# --------------------------------------------------------------------------------------- protocols


class _Entrants(NamedTuple):
    """Who is scored: one network, and beside it the baselines that were fitted to each truth."""

    name: str
    network: Predictor
    baselines: Baselines

    def names(self, truth: str) -> list[str]:
        """Models in the tables of one truth."""
        return [self.name, *self.baselines[truth]]

    def beside(self, view: View, truth: str) -> dict[str, Answers]:
        """Answers of the baselines of one truth."""
        maps = self.baselines[truth].items()
        return {name: MapPredictor(depth_map)(view) for name, depth_map in maps}


class _Board:
    """Accumulators of every model, protocol and kind of site."""

    def __init__(self, entrants: _Entrants, truths: Sequence[str], dense: bool) -> None:
        sites = ("points", "dense") if dense else ("points",)
        keys = [
            (truth, site, model)
            for truth in truths
            for site in sites
            for model in entrants.names(truth)
        ]
        self.eigen: dict[Key, EigenMetrics] = {
            (model, f"eigen/{truth}", site): EigenMetrics() for truth, site, model in keys
        }
        self.pooled: dict[Key, RecordedMetrics] = {
            (model, f"{protocol}/{truth}", site): RecordedMetrics()
            for protocol in ("eigen", "recorded")
            for truth, site, model in keys
            if not (protocol == "eigen" and site == "dense")
        }

    def merged(self, processes: Processes) -> _Board:
        """All processes' numbers."""
        for accumulators in (self.eigen, self.pooled):
            for key, mine in accumulators.items():
                accumulators[key] = merge_processes(mine, processes)  # type: ignore[assignment]
        return self

    def tables(self, ids: list[str]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The tables metrics, bins and frames; models without a dense path have no dense rows."""
        metrics: list[tuple[Any, ...]] = []
        bins, frames = [], []
        for key, eigen in self.eigen.items():
            if not len(eigen.frame_table()):
                continue
            scores = eigen.compute()
            pooled = self.pooled[key].compute() if key in self.pooled else {}
            scores |= {name: pooled[name] for name in POOLED_EIGEN if name in pooled}
            metrics += _metric_rows(key, scores)
            bins.append(_keyed(eigen.bin_table(), key))
            frames.append(_keyed(eigen.frame_table(ids), key))
        for key, recorded in self.pooled.items():
            scores = recorded.compute()
            if key[1].startswith("recorded") and scores["points"]:
                metrics += _metric_rows(key, scores)
                bins.append(_keyed(recorded.bin_table(), key))
                frames.append(_keyed(recorded.frame_table(ids), key))
        columns = ["model", "protocol", "sites", "metric", "value", "frames"]
        return (
            pd.DataFrame(metrics, columns=columns),
            pd.concat(bins, ignore_index=True),
            pd.concat(frames, ignore_index=True),
        )


def _metric_rows(key: Key, scores: Mapping[str, float]) -> list[tuple[Any, ...]]:
    frames = int(scores["frames"])
    return [(*key, name, value, frames) for name, value in scores.items() if name != "frames"]


def _keyed(table: pd.DataFrame, key: Key) -> pd.DataFrame:
    for name, value in zip(("sites", "protocol", "model"), reversed(key), strict=True):
        table.insert(0, name, value)
    return table


def _score_frame(
    board: _Board,
    entrants: _Entrants,
    frame: Frame,
    index: int,
    truths: Sequence[str],
    dense: bool,
) -> Answers:
    """Add one frame to the eigen protocol; the network's answers, for further questions."""
    view = View(frame.image, frame.camera, frame.camera)
    own = entrants.network(view)
    own_map = own.dense() if dense else None
    for truth in truths:
        depth = torch.from_numpy(frame.truth(truth))
        sample = evaluation_points(depth, frame.id)
        edges = edge_mask(depth)
        columns, rows = sample.points.long().unbind(-1)
        beside = entrants.beside(view, truth)
        maps = {name: each.dense() if dense else None for name, each in beside.items()}
        maps[entrants.name] = own_map
        for name, each in ({entrants.name: own} | beside).items():
            predicted = each.depth_at(sample.points, GROUP)[None]
            known = sample.truth[None].to(predicted), sample.valid[None]
            key = (name, f"eigen/{truth}", "points")
            board.eigen[key].update(predicted, *known, [index], edges[rows, columns][None])
            board.pooled[key].update(_clamped(predicted), *known)
            full = maps[name]
            if full is not None:
                batch = full[None], depth[None].to(full), eigen_mask(depth)[None]
                board.eigen[name, f"eigen/{truth}", "dense"].update(*batch, [index], edges[None])
    return own


class _Recorded(NamedTuple):
    """How the recorded protocol looks at a frame."""

    size: Size
    crop: str
    points: int


def _network_view(frame: Frame, size: Size, crop: str, truth: str) -> tuple[View, Tensor]:
    """The frame as the recorded protocol sees it: at the network's size, with its depth [h, w]."""
    image, depth, camera = augment(
        torch.from_numpy(frame.image).permute(2, 0, 1),
        torch.from_numpy(frame.truth(truth)),
        frame.camera,
        AugmentConfig(crop=crop),
        torch.Generator(),
        size,
    )
    return View(image, camera, frame.camera), depth


def _score_recorded(
    board: _Board,
    entrants: _Entrants,
    frame: Frame,
    index: int,
    truths: Sequence[str],
    dense: bool,
    options: _Recorded,
) -> None:
    """Add one frame to the recorded protocol."""
    for truth in truths:
        view, depth = _network_view(frame, options.size, options.crop, truth)
        generator = seeded_generator("recorded", frame.id)
        sample = recorded_points(depth, options.points, generator)
        everyone = {entrants.name: entrants.network(view)} | entrants.beside(view, truth)
        for name, answers in everyone.items():
            predicted = answers.depth_at(sample.points, GROUP)[None]
            key = f"recorded/{truth}"
            board.pooled[name, key, "points"].update(
                predicted, sample.truth[None].to(predicted), sample.valid[None], [index]
            )
            full = answers.dense() if dense else None
            if full is not None:
                board.pooled[name, key, "dense"].update(
                    full[None], depth[None].to(full), depth[None] > 0
                )


def _notes(
    frame: Frame, truths: Sequence[str], shown: str, recorded: _Recorded, baselines: Baselines
) -> dict[str, str]:
    height, width = frame.camera.size
    scaled = "" if (height, width) == (480, 640) else f", scaled to {height}x{width}"
    h, w = recorded.size
    notes = {}
    for truth in truths:
        sources = sorted({each.fitted_to for each in baselines[truth].values()} - {""})
        ending = "".join([shown, *(f"; baselines fitted to {source}" for source in sources)])
        notes[f"eigen/{truth}"] = (
            f"truth: {truth}, {height}x{width}; rows 45-470, columns 41-600{scaled}; 1e-3 < g < "
            f"10 m, prediction clamped to that; per image, then the mean; SILog factor 1, x100; "
            f"points: {EIGEN_POINTS} fixed a frame in groups of {GROUP}; {ending}"
        )
        notes[f"recorded/{truth}"] = (
            f"truth: {truth}; frame brought to {h}x{w} ({recorded.crop}); {recorded.points} seeded "
            f"points a frame with replacement, pooled; SILog factor 1/2; clamped from below only; "
            f"{ending}"
        )
    return notes


# ----------------------------------------------------------------------------------------- K sweep


class _Sweep:
    """The same points of every frame, asked in groups of different size."""

    def __init__(self, frames: int, limit: int) -> None:
        self.wanted = set(spread(frames, limit))
        self.scores = {k: EigenMetrics() for k in SWEEP}
        self.same_points = {k: EigenMetrics() for k in SWEEP}
        self.difference = dict.fromkeys(SWEEP, 0.0)

    def add(self, answers: Answers, frame: Frame, index: int, truth: str) -> None:
        """Ask one frame's points in all groupings."""
        sample = _eigen_points(frame, truth)
        reference = answers.depth_at(sample.points, GROUP)
        for k in SWEEP:
            asked = slice(SWEEP_SINGLES if k == 1 else len(sample.points))
            depth = answers.depth_at(sample.points[asked], k)
            change = float((depth - reference[asked]).abs().max())
            self.difference[k] = float(np.maximum(self.difference[k], change))  # keeps NaN
            known = sample.truth[None, asked].to(depth), sample.valid[None, asked]
            self.scores[k].update(depth[None], *known, [index])
            self.same_points[k].update(reference[None, asked], *known, [index])

    def table(self, processes: Processes, independent: bool) -> pd.DataFrame:
        """One row per group size."""
        rows = []
        for k in SWEEP:
            scores = merge_processes(self.scores[k], processes).compute()
            same = merge_processes(self.same_points[k], processes).compute()
            rows.append(
                {
                    "k": k,
                    "points": SWEEP_SINGLES if k == 1 else EIGEN_POINTS,
                    "abs_rel": scores["abs_rel"],
                    "abs_rel_same_points": same["abs_rel"],
                    **{name: scores[name] for name in ("rmse", "delta1")},
                    "max_abs_difference": _largest(self.difference[k], processes),
                    "frames": int(scores["frames"]),
                    "independent": independent,
                }
            )
        return pd.DataFrame(rows)


def _largest(value: float, processes: Any) -> float:
    """Largest of the values that the processes hold."""
    if processes.num_processes == 1:
        return value
    mine = torch.tensor([value], dtype=torch.float64, device=processes.device)
    return float(processes.gather(mine).max())


# ---------------------------------------------------------------------------------------- examples


def _example(predictor: Predictor, frame: Frame, truth: str) -> dict[str, np.ndarray]:
    answers = predictor(View(frame.image, frame.camera, frame.camera))
    sample = _eigen_points(frame, truth)
    arrays = {
        "image": frame.image,
        "truth": frame.truth(truth).astype(np.float32),
        "points": sample.points.numpy(),
        "point_truth": sample.truth.numpy(),
        "point_depth": answers.depth_at(sample.points, GROUP).float().numpy(),
    }
    full = answers.dense()
    return arrays | ({"dense": full.float().numpy()} if full is not None else {})


def save_examples(path: str | Path, examples: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write examples to one safetensors file, by rename. RunError if that is impossible."""
    ids = list(examples)
    tensors = {
        f"{number}.{name}": torch.from_numpy(np.ascontiguousarray(array))
        for number, frame_id in enumerate(ids)
        for name, array in examples[frame_id].items()
    }
    write_bytes(path, safetensors.torch.save(tensors, {"ids": json.dumps(ids)}))


def load_examples(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """Examples of a run's evaluation, by frame id.

    Each holds image (uint8 [H, W, 3]), truth [H, W] metres, points [K, 2], point_truth [K] and
    point_depth [K] metres, and dense [H, W] metres for networks with a dense path.

    Raises:
        RunError: the run was not evaluated, or the file is damaged.
    """
    path = run.folder / EXAMPLES_FILE
    if not path.is_file():
        raise RunError(f"{run.folder} has no {EXAMPLES_FILE}; evaluate the run first")
    try:
        with safe_open(path, framework="np") as file:
            ids = json.loads((file.metadata() or {})["ids"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}); evaluate the run again") from error
    examples: dict[str, dict[str, np.ndarray]] = {frame_id: {} for frame_id in ids}
    for name, array in arrays.items():
        number, field = name.split(".", 1)
        examples[ids[int(number)]][field] = array
    return examples


def evaluate_run(
    run: Run,
    model: DepthModel,
    test: Frames,
    baselines: Baselines | None = None,
    **options: Any,
) -> Evaluation:
    """Evaluate a run's network, write the tables into its folder and a note into its record.

    Args:
        run: a finished run.
        model: usually `spdlib.load(run.best)`, on the device that shall compute.
        test: test frames.
        baselines: see `evaluate`.
        options: further arguments of `evaluate`.
    """
    config = run.config
    options.setdefault("squash", config.data.validation == "squash")
    options.setdefault("crop", config.crop)
    result = evaluate(model, test, baselines=baselines, **options)
    who = options.get("processes") or _Alone()
    if who.process_index == 0:
        result.save(run)
        run.update_record(
            {
                "evaluation": {
                    "test": describe_frames(test),
                    "weights": model.fingerprint(),
                    "protocols": dict(result.notes),
                    **origin(),
                }
            }
        )
    return result
