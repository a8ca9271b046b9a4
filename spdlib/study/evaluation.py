"""`evaluate`: a network and the image-free baselines, scored alike by any protocols.

Each frame is asked once: scores, the K sweep, the answers at points and the examples that figures
show come from the same scenes. Protocols are always named with their truth, for instance
"eigen/inpainted".
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from spdlib.data.frames import TRUTHS, Frame, Frames, spread
from spdlib.data.queries import evaluation_points
from spdlib.errors import RunError
from spdlib.inspection import CellAttention
from spdlib.machine import origin
from spdlib.models import DepthModel
from spdlib.models.base import evaluating
from spdlib.scene import GROUP, Scene
from spdlib.study.answers import (
    ANSWERS_FILE,
    EXAMPLES_FILE,
    Arrays,
    Kept,
    points_table,
    write_arrays,
)
from spdlib.study.diagnostics import look_inside, of_kind
from spdlib.study.entrants import (
    Answers,
    Look,
    MapPredictor,
    ModelPredictor,
    Remembering,
)
from spdlib.study.image_free import Baselines
from spdlib.study.k_sweep import INDEPENDENT_SWEEP_FRAMES, SWEEP_FRAMES, KSweep
from spdlib.study.metrics import (
    Accumulator,
    Alone,
    EigenMetrics,
    merge_processes,
    of_all_processes,
)
from spdlib.study.protocols import Protocol, Sites, protocol_class
from spdlib.study.runs import Run, describe_frames
from spdlib.study.scores import wide_scores

SUMMARY = ("abs_rel", "rmse", "delta1", "silog", "s_star", "scaled_abs_rel")

Key = tuple[str, str, str]
"""Model, protocol, sites."""


@dataclass(frozen=True)
class Evaluation:
    """Tables of one evaluation.

    Attributes:
        metrics: model, protocol, sites, metric, value, frames.
        bins: model, protocol, sites, bin, abs_rel, delta1, count.
        frames: model, protocol, sites, frame and the scores of each frame; of the recorded
            protocol AbsRel at the points only.
        k_sweep: k, points, abs_rel, abs_rel_same_points (of the row's points in groups of 256),
            rmse, delta1, max_abs_difference (metres, to groups of 256), frames, independent. With
            independent queries all rows are one line: the same answers. K = 1 is asked of fewer
            points, so that only abs_rel_same_points may be set against its abs_rel.
        inside: what `look_inside` tells of the network; empty if it was not asked.
        notes: protocol name -> what was done, in words.
        examples: arrays of a few frames for figures, by frame id; see `load_examples`.
        points: the network's answers at the eigen points of every frame, by frame id; `answers`
            makes them a table.
    """

    metrics: pd.DataFrame
    bins: pd.DataFrame
    frames: pd.DataFrame
    k_sweep: pd.DataFrame
    inside: pd.DataFrame
    notes: Mapping[str, str]
    examples: Arrays
    points: Arrays

    def value(self, model: str, protocol: str, metric: str, sites: str = "points") -> float:
        """One score.

        Raises:
            RunError: there is no such score.
        """
        row = {"model": model, "protocol": protocol, "sites": sites, "metric": metric}
        chosen = self.metrics[(self.metrics[list(row)] == pd.Series(row)).all(axis=1)]
        if len(chosen) != 1:
            raise RunError(f"no score {metric!r} of {model!r} under {protocol!r} at {sites!r}")
        return float(chosen["value"].iloc[0])

    def summary(self, metrics: Sequence[str] = SUMMARY) -> pd.DataFrame:
        """One row per protocol, sites and model; one column per metric."""
        return wide_scores(self.metrics, metrics)

    def answers(self, truth: str | None = None) -> pd.DataFrame:
        """frame, prediction, truth (metres) of the network at eigen points; see `points_table`."""
        return points_table(self.points, truth)

    def save(self, run: Run) -> None:
        """Write the tables, each as NAME.csv, the examples and the answers into a run."""
        for name in ("metrics", "bins", "frames", "k_sweep", "inside"):
            run.write_table(name, getattr(self, name))
        write_arrays(run.folder / EXAMPLES_FILE, self.examples)
        write_arrays(run.folder / ANSWERS_FILE, self.points)


def evaluate(
    model: DepthModel,
    frames: Frames,
    *,
    name: str | None = None,
    baselines: Baselines | None = None,
    protocols: Sequence[str] = ("eigen", "recorded"),
    truths: Sequence[str] | None = None,
    dense: bool = True,
    k_sweep: bool = True,
    inside: bool = True,
    flip: bool = False,
    crop: str = "fit",
    squash: bool = False,
    examples: int = 6,
    processes: Any = None,
    progress: bool = True,
) -> Evaluation:
    """Score a network and the image-free baselines on the same frames and points.

    Args:
        model: the network, on the device that shall compute.
        frames: test frames.
        name: of the network in the tables; default its registered name.
        baselines: of `fit_image_free` on training frames; in the tables of each truth stand those
            that were fitted to it.
        protocols: registered names, in the order of the tables.
        truths: which depths count; default all that the frames have.
        dense: also score every pixel, if the network has a dense path.
        k_sweep: also ask the same points in groups of 1 (64 of them), 64, 256 and 1,024, on a few
            frames.
        inside: also watch the network at work on a few frames.
        flip: average the network's answers with those to the mirrored image.
        crop: how the recorded protocol brings a frame to the network's size, "fit", "native" or
            "squash".
        squash: show the network every frame pressed into its training size (F1).
        examples: frames, evenly spread, whose predictions are kept for figures.
        processes: an accelerator, to share the frames out; every process gets all tables.
        progress: show a bar on terminals.

    Raises:
        RunError: no frames, or no baselines for one of the truths.
        ConfigError: no protocol of that name.
        DataError: the frames lack a truth that was asked for.
    """
    if not len(frames):
        raise RunError("there are no frames to evaluate; check the split's name")
    first, who = frames[0], processes or Alone()
    kinds = list(truths or [kind for kind in TRUTHS if kind in first.depths])
    settings = model.config.image_size, crop, model.recorded_points
    chosen = [protocol_class(each)(*settings) for each in protocols]
    given = _of_each_truth(baselines, kinds)
    label = name or model.config.network
    board = _Board(label, chosen, kinds, given, dense and model.has_dense)
    independent = model.queries_are_independent
    swept = INDEPENDENT_SWEEP_FRAMES if independent else SWEEP_FRAMES
    sweep = KSweep(spread(len(frames), swept if k_sweep else 0), kinds[0])
    kept = Kept(spread(len(frames), examples), kinds)
    network = ModelPredictor(model, flip, squash)
    with evaluating(model):
        mine = range(who.process_index, len(frames), who.num_processes)
        for index in _progress(mine, progress):
            frame, look = frames[index], Remembering(network)
            for part in (board, sweep, kept):
                part.add(frame, index, look)
    seen = look_inside(model, frames, squash=squash) if inside else pd.DataFrame()
    shown = "averaged with the mirrored image" if flip else "no flip"
    shown += "; frames squashed to the training size" if squash else ""
    return Evaluation(
        *board.tables(frames.ids, who),
        sweep.table(who, independent) if k_sweep else pd.DataFrame(),
        seen,
        board.notes(first, shown),
        *kept.by_frame(frames.ids, who),
    )


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


def _progress(indices: range, show: bool) -> Iterator[int]:
    quiet = not (show and sys.stderr.isatty())
    yield from tqdm(indices, desc="evaluating", unit="frame", disable=quiet)


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
    who = options.get("processes") or Alone()
    if who.process_index == 0:
        result.save(run)
        note = {
            "test": describe_frames(test),
            "weights": model.fingerprint(),
            "protocols": dict(result.notes),
            **origin(),
        }
        run.update_record({"evaluation": note})
    return result


@torch.no_grad()
def selection_scores(
    model: DepthModel,
    frames: Frames,
    truth: str | None,
    processes: Any,
    squash: bool = False,
) -> dict[str, float]:
    """Scores on the selection set, in the history's names; frames are shared out over processes.

    All follow the eigen protocol at its fixed 1,024 points a frame; s* and the ranges are pooled.
    "sel_unique_l3", of networks that route queries to cells of L3, is the mean number of different
    ones among those of 256 points.
    """
    total = EigenMetrics(pooled=True)
    unique: dict[int, int] = {}
    for index in range(processes.process_index, len(frames), processes.num_processes):
        frame = frames[index]
        sample = evaluation_points(torch.from_numpy(frame.truth(truth)), frame.id)
        scene = model.encode(frame.image, frame.camera, squash=squash)
        depth = scene.depth_at(sample.points).cpu()[None]
        total.update(depth, sample.truth[None].to(depth), sample.valid[None], [index])
        if "L3" in model.routed_levels:
            unique[index] = _routed_cells(scene, sample.points[:GROUP], "L3")
    scores = merge_processes({"": total}, processes)[""].compute()
    routed = [number for part in of_all_processes(unique, processes) for number in part.values()]
    return {
        **{f"sel_{name}": scores[name] for name in ("abs_rel", "rmse", "delta1", "s_star")},
        "sel_unique_l3": float(torch.tensor(routed, dtype=torch.float32).mean()),
        **{name: scores[name] for name in ("pred_min", "pred_max", "gt_min", "gt_max")},
    }


def _routed_cells(scene: Scene, points: Tensor, level: str) -> int:
    """How many different cells of a level the queries are routed to."""
    cells = (p for p in of_kind(scene.explain(points), CellAttention) if p.level == level)
    return sum(p.routed.unique().numel() for p in cells if p.routed is not None)


# ------------------------------------------------------------------------- what a frame is asked


@dataclass
class _Board:
    """Scores of every model, protocol and kind of sites."""

    name: str
    protocols: Sequence[Protocol]
    truths: Sequence[str]
    baselines: Baselines
    dense: bool

    def __post_init__(self) -> None:
        self.scores: dict[Key, Accumulator] = {}

    def add(self, frame: Frame, index: int, look: Look) -> None:
        """Score one frame: the same sites for the network and the baselines of each truth."""
        for protocol in self.protocols:
            for truth in self.truths:
                view, depth = protocol.view(frame, truth)
                answers: dict[str, Answers] = {self.name: look(view)}
                maps = self.baselines[truth].items()
                answers |= {name: MapPredictor(depth_map)(view) for name, depth_map in maps}
                for kind, sites in protocol.sites(depth, frame.id).items():
                    for name, each in answers.items():
                        key = name, f"{protocol.name}/{truth}", kind
                        self._score(key, protocol, each, sites, index)

    def _score(
        self, key: Key, protocol: Protocol, answers: Answers, sites: Sites, index: int
    ) -> None:
        if sites.points is not None:
            depth: Tensor | None = answers.depth_at(sites.points, GROUP)
        else:
            depth = answers.dense() if self.dense else None
        if depth is None:
            return
        if key not in self.scores:
            self.scores[key] = protocol.accumulator(key[2])
        depth = protocol.scored(depth, sites)
        edges = None if sites.edges is None else sites.edges[None]
        known = sites.truth[None].to(depth), sites.valid[None]
        self.scores[key].update(depth[None], *known, [index], edges)

    def tables(
        self, ids: list[str], processes: Any
    ) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The tables metrics, bins and frames, of all processes."""
        metrics: list[tuple[Any, ...]] = []
        bins, frames = [], []
        for key, scores in merge_processes(self.scores, processes).items():
            if scores.empty:
                continue
            values = scores.compute()
            count = int(values.pop("frames"))
            metrics += [(*key, name, value, count) for name, value in values.items()]
            bins.append(_keyed(scores.bin_table(), key))
            frames.append(_keyed(scores.frame_table(ids), key))
        columns = ["model", "protocol", "sites", "metric", "value", "frames"]
        return (
            pd.DataFrame(metrics, columns=columns),
            pd.concat(bins, ignore_index=True),
            pd.concat(frames, ignore_index=True),
        )

    def notes(self, frame: Frame, shown: str) -> dict[str, str]:
        """What was done, by protocol and truth."""
        notes = {}
        for truth in self.truths:
            fitted = {each.fitted_to for each in self.baselines[truth].values()} - {""}
            ending = [shown, *(f"baselines fitted to {source}" for source in sorted(fitted))]
            for protocol in self.protocols:
                words = [protocol.note(truth, frame), *ending]
                notes[f"{protocol.name}/{truth}"] = "; ".join(words)
        return notes


def _keyed(table: pd.DataFrame, key: Key) -> pd.DataFrame:
    for name, value in zip(("sites", "protocol", "model"), reversed(key), strict=True):
        table.insert(0, name, value)
    return table
