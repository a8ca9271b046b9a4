"""`evaluate`: a network and the image-free baselines, scored alike by any protocols.

`score` does the same to predictions from elsewhere.

Each frame is encoded once: scores, the K sweep (does an answer depend on how many points are
queried together?), the answers at points and the examples of figures come from the same scenes.
Protocols are always named with their truth, for instance "eigen/inpainted".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from spdlib.data.frames import TRUTHS, Frame, Frames, evenly_spaced
from spdlib.data.queries import EIGEN_POINTS, PointSample, evaluation_points
from spdlib.errors import ConfigError, RunError
from spdlib.inspection import CellAttention
from spdlib.machine import origin
from spdlib.models import DepthModel
from spdlib.models.base import evaluating
from spdlib.scene import GROUP
from spdlib.study.config import differences
from spdlib.study.diagnostics import look_inside, of_kind
from spdlib.study.entrants import Answers, Baselines, Entrant, ModelPredictor, SceneAnswers
from spdlib.study.metrics import Accumulator, Alone, EigenMetrics, merge_processes, of_all_processes
from spdlib.study.protocols import PROTOCOLS, Protocol, Sites, View
from spdlib.study.runs import Arrays, Run, describe_frames

SWEEP = (1, 64, 256, 1024)
"""Group sizes of the K sweep: how many points are queried together."""
SWEEP_SINGLES = 64
"""How many of a frame's points are queried one by one."""
SWEEP_FRAMES = 16
"""Frames of the K sweep, evenly spaced. Few will do for its means, which compare the same points;
its largest change of an answer grows with their number."""
INDEPENDENT_SWEEP_FRAMES = 4
"""Frames that are enough where queries are independent by construction."""

Key = tuple[str, str, str]
KEYS = ["model", "protocol", "sites"]


@dataclass(frozen=True)
class Evaluation:
    """Tables of one evaluation."""

    metrics: pd.DataFrame
    """model, protocol, sites, metric, value, frames."""
    bins: pd.DataFrame
    """model, protocol, sites, bin, abs_rel, delta1, count."""
    frames: pd.DataFrame
    """model, protocol, sites, frame, its scores (of the recorded protocol: AbsRel at points)."""
    k_sweep: pd.DataFrame
    """k, points, abs_rel, abs_rel_same_points (of the row's points in groups of 256), rmse, delta1,
    max_abs_difference (metres, to groups of 256), frames, independent. With independent queries all
    rows are one line: the same answers. K = 1 is measured at fewer points, so that only
    abs_rel_same_points may be set against its abs_rel."""
    inside: pd.DataFrame
    """What `look_inside` tells of the network; empty if that was switched off."""
    notes: Mapping[str, str]
    """Protocol name -> what was done, in words."""
    examples: Arrays
    """A few frames for figures, by frame id: image (uint8 [H, W, 3]), truth [H, W] metres, points
    [K, 2], point_truth [K] and point_depth [K] metres; for networks with a dense path also dense
    [H, W] metres, and lattice_sparse and lattice_dense [N] metres: both paths at the sites of the
    network's lattice."""
    points: Arrays
    """The network's answers at the eigen points of every frame, by frame id: "TRUTH.prediction" and
    "TRUTH.truth", float32 [K] metres."""

    def answers(self, truth: str | None = None) -> pd.DataFrame:
        """The network's answers at the eigen points of every frame, beside a truth by its name.

        Columns frame, prediction, truth (metres), one row a point whose truth is known. None takes
        the truth that was scored first.

        RunError: no frame was scored against that truth.
        """
        kinds = list(dict.fromkeys(n.split(".")[0] for each in self.points.values() for n in each))
        kind = truth or next(iter(kinds), None)
        if kind not in kinds:
            raise RunError(f"no answers were scored against {kind!r}, but against {kinds}")
        columns = ("prediction", "truth")
        parts = [
            pd.DataFrame({"frame": frame, **{name: each[f"{kind}.{name}"] for name in columns}})
            for frame, each in self.points.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def sparse_and_dense(self) -> pd.DataFrame:
        """Both paths' answers at the same places of the examples, of a network with a dense path.

        Columns where, sparse, dense (metres): all sites of the network's own lattice, where both
        paths compute the same function, and pixels, where the dense map is interpolated.
        """
        parts = []
        for each in self.examples.values():
            u, v = each["points"].astype(np.int64).T
            pairs = {
                "lattice sites": (each["lattice_sparse"], each["lattice_dense"]),
                "image pixels": (each["point_depth"], each["dense"][v, u]),
            }
            for where, (sparse, dense) in pairs.items():
                parts.append(pd.DataFrame({"where": where, "sparse": sparse, "dense": dense}))
        return pd.concat(parts, ignore_index=True)

    def save(self, run: Run) -> None:
        """Write the tables, each as NAME.csv, the examples and the answers into a run."""
        for name in ("metrics", "bins", "frames", "k_sweep", "inside"):
            run.write_table(name, getattr(self, name))
        run.write_arrays("examples", self.examples)
        run.write_arrays("answers", self.points)


def evaluate(
    model: DepthModel,
    frames: Frames,
    *,
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
) -> Evaluation:
    """Score a network and the image-free baselines on the same frames and points.

    Args:
        model: the network, on the device that shall compute.
        frames: test frames.
        baselines: of `fit_image_free`; each stands in the tables of the truth it was fitted to.
        protocols: registered names, in the order of the tables.
        truths: which depths count; default all that the frames have.
        dense: also score every pixel, if the network has a dense path.
        k_sweep: also query points of a few frames in groups of 1 (64 of them), 64, 256 and 1,024.
        inside: also watch the network at work on a few frames.
        flip: average the network's answers with those to the mirrored image.
        crop: how *recorded* brings frames to the network's size: "fit", "native" or "squash".
        squash: show the network every frame pressed into its training size (F1).
        examples: frames, evenly spaced, whose predictions are kept for figures.
        processes: an accelerator, to share the frames out; every process gets all tables.

    Raises:
        RunError: no frames, or no baselines for one of the truths.
        ConfigError, DataError: no such protocol; the frames lack one of `truths`.
    """
    first, processes = _first_of(frames), processes or Alone()
    truths = list(truths or [name for name in TRUTHS if name in first.depths])
    settings = model.config.image_size, crop, model.recorded_points
    chosen = [PROTOCOLS.find(each)(*settings) for each in protocols]
    given = _of_each_truth(baselines, truths)
    board = _Board(model.config.network, chosen, truths, given, dense and model.has_dense)
    swept = INDEPENDENT_SWEEP_FRAMES if model.queries_are_independent else SWEEP_FRAMES
    sweep = KSweep(evenly_spaced(len(frames), swept if k_sweep else 0), truths[0])
    kept = _Kept(evenly_spaced(len(frames), examples), truths)
    network = evaluating(model)
    for index in _share(len(frames), processes):
        frame, predictor = frames[index], ModelPredictor(network, flip, squash)
        for part in (board, sweep, kept):
            part.add(frame, index, predictor)
    return Evaluation(
        *board.tables(frames.ids, processes),
        sweep.table(processes, model.queries_are_independent) if k_sweep else pd.DataFrame(),
        look_inside(model, frames, squash=squash) if inside else pd.DataFrame(),
        board.notes(first, partial(_how_shown, flip, squash)),
        *kept.by_frame(frames.ids, processes),
    )


def score(
    entrant: Entrant,
    frames: Frames,
    *,
    protocols: Sequence[str] = ("eigen",),
    truths: Sequence[str] | None = None,
) -> Evaluation:
    """Score predictions that were made elsewhere, by the same rules and in the same tables.

    Args:
        entrant: answers to the frames as they are, such as `peers.StoredMaps`.
        frames: test frames.
        protocols: registered names of protocols that show the whole frame.
        truths: which depths count; default all that the frames have.

    Raises:
        RunError: no frames.
        ConfigError: no such protocol, or one that shows something else than the whole frame.
        DataError: the frames lack one of `truths`, or a prediction cannot be used.
    """
    chosen, truths = showing_whole_frames(frames, protocols, truths)
    board = _Board(entrant.name, chosen, truths, _of_each_truth(None, truths), dense=True)
    for index in _share(len(frames), Alone()):
        frame = frames[index]
        board.add(frame, index, entrant(frame))
    none = pd.DataFrame()
    tables = board.tables(frames.ids, Alone())
    notes = board.notes(frames[0], lambda view: entrant.told)
    return Evaluation(*tables, none, none, notes, {}, {})


def showing_whole_frames(
    frames: Frames, names: Sequence[str], truths: Sequence[str] | None
) -> tuple[list[Protocol], list[str]]:
    """Protocols by name that predictions for whole frames can answer, and the truths to score.

    RunError: no frames. ConfigError: a protocol shows something else.
    """
    first = _first_of(frames)
    truths = list(truths or [name for name in TRUTHS if name in first.depths])
    chosen = [PROTOCOLS.find(name)(first.camera.size) for name in names]
    whole = View(first.image, first.camera, first.camera)
    for protocol in chosen:
        if not protocol.view(first, truths[0])[0].equals(whole):
            raise ConfigError(
                f"protocol {protocol.name!r} shows a network something else than the frame as it "
                "is, so that predictions for the frame do not answer it; leave it out"
            )
    return chosen, truths


def _first_of(frames: Frames) -> Frame:
    """The first frame; RunError: there is none."""
    if not len(frames):
        raise RunError("there are no frames to evaluate; check the split's name")
    return frames[0]


def _share(frames: int, processes: Any) -> Iterable[int]:
    """Numbers of the frames of this process, with a progress bar on terminals."""
    indices = range(processes.process_index, frames, processes.num_processes)
    return tqdm(indices, "evaluating", unit="frame", disable=None)


def _how_shown(flip: bool, squash: bool, view: View) -> str:
    """What is done to a view before the network sees it, for the protocols' notes."""
    shown = "averaged with the mirrored image" if flip or view.mirrored else "no flip"
    return shown + ("; frames squashed to the training size" if squash else "")


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


def evaluate_run(
    run: Run, model: DepthModel, test: Frames, baselines: Baselines | None = None, **options: Any
) -> Evaluation:
    """Evaluate a run's network, write the tables into its folder and a note into its record.

    The network is usually `spdlib.load(run.best)`; `options` are further arguments of `evaluate`.
    Unlike `fit`, this does not keep the folder to itself: whole tables replace whole tables.

    RunError: the network is not the run's, or as `evaluate` says.
    """
    config = run.config
    if differing := differences(config.model, model.config):
        raise RunError(
            f"{run.folder} is no run of this network ({'; '.join(differing)}); evaluate the one "
            "that the run trained: restore its best/ if another is there"
        )
    _ = run.record  # a damaged one is heard before the work
    options.setdefault("squash", config.data.validation == "squash")
    options.setdefault("crop", config.crop)
    result = evaluate(model, test, baselines=baselines, **options)
    processes = options.get("processes") or Alone()
    if processes.process_index == 0:
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
    model: DepthModel, frames: Frames, truth: str | None, processes: Any, squash: bool = False
) -> dict[str, float]:
    """Scores on the selection set, in the history's names; frames are shared out over processes.

    All follow the eigen protocol at its fixed 1,024 points a frame; s* and the ranges are pooled.
    "sel_unique_l3", of networks that route queries to cells of L3, is the mean number of different
    ones among those of 256 points.
    """
    total = EigenMetrics(pooled=True)
    unique: dict[int, int] = {}
    model = evaluating(model)
    for index in range(processes.process_index, len(frames), processes.num_processes):
        frame = frames[index]
        sample = _eigen_sample(frame, truth)
        scene = model.encode(frame.image, frame.camera, squash=squash)
        depth = scene.depth_at(sample.points).cpu()
        total.update(depth, sample.truth.to(depth), sample.valid, index)
        if "L3" in model.routed_levels:
            cells = of_kind(scene.explain(sample.points[:GROUP]), CellAttention)
            routed = [p.routed for p in cells if p.level == "L3" and p.routed is not None]
            unique[index] = sum(each.unique().numel() for each in routed)
    scores = merge_processes({"": total}, processes)[""].compute()
    counts = [count for part in of_all_processes(unique, processes) for count in part.values()]
    return {
        **{f"sel_{name}": scores[name] for name in ("abs_rel", "rmse", "delta1", "s_star")},
        "sel_unique_l3": float(torch.tensor(counts, dtype=torch.float32).mean()),
        **{name: scores[name] for name in ("pred_min", "pred_max", "gt_min", "gt_max")},
    }


def _eigen_sample(frame: Frame, truth: str | None) -> PointSample:
    return evaluation_points(torch.from_numpy(frame.truth(truth)), frame.id)


# ------------------------------------------------------------------------- what is kept of a frame


@dataclass
class _Board:
    """Scores of every model, protocol and kind of sites."""

    name: str
    protocols: Sequence[Protocol]
    truths: Sequence[str]
    baselines: Baselines
    dense: bool
    scores: dict[Key, Accumulator] = field(default_factory=dict)

    def add(self, frame: Frame, index: int, predictor: Callable[[View], Answers]) -> None:
        """Score one frame: the same sites for the network and the baselines of each truth."""
        for protocol in self.protocols:
            for truth in self.truths:
                view, depth = protocol.view(frame, truth)
                answers: dict[str, Answers] = {self.name: predictor(view)}
                answers |= {name: each(view) for name, each in self.baselines[truth].items()}
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
        depth = protocol.scored(depth, sites)
        if key not in self.scores:
            self.scores[key] = protocol.accumulator(key[2])
        self.scores[key].update(depth, sites.truth.to(depth), sites.valid, index, sites.edges)

    def tables(
        self, ids: list[str], processes: Any
    ) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The tables metrics, bins and frames, of all processes."""
        scores = merge_processes(self.scores, processes).items()
        return (
            _of_keys({key: each.metric_table() for key, each in scores}),
            _of_keys({key: each.bin_table() for key, each in scores}),
            _of_keys({key: each.frame_table(ids) for key, each in scores}),
        )

    def notes(self, frame: Frame, shown: Callable[[View], str]) -> dict[str, str]:
        """What was done, by protocol and truth."""
        notes = {}
        for truth in self.truths:
            fitted = {each.fitted_to for each in self.baselines[truth].values()} - {""}
            ending = [f"baselines fitted to {source}" for source in sorted(fitted)]
            for protocol in self.protocols:
                view, _ = protocol.view(frame, truth)
                words = [protocol.note(truth, frame), shown(view), *ending]
                notes[f"{protocol.name}/{truth}"] = "; ".join(words)
        return notes


class KSweep:
    """The eigen points of some frames, queried in groups of different size."""

    def __init__(self, wanted: Sequence[int], truth: str) -> None:
        self.wanted, self.truth = set(wanted), truth
        # of each row's points, in groups of k and in groups of 256
        self.scores = {(k, group): EigenMetrics() for k in SWEEP for group in ("k", "256")}
        self.difference = dict.fromkeys(SWEEP, 0.0)

    def add(self, frame: Frame, index: int, predictor: Callable[[View], Answers]) -> None:
        """Query one frame's points in all groupings."""
        if index not in self.wanted:
            return
        answers = predictor(View(frame.image, frame.camera, frame.camera))
        sample = _eigen_sample(frame, self.truth)
        reference = answers.depth_at(sample.points, GROUP)
        for k in SWEEP:
            some = slice(SWEEP_SINGLES if k == 1 else len(sample.points))
            depth, same = answers.depth_at(sample.points[some], k), reference[some]
            change = float((depth - same).abs().max())
            self.difference[k] = float(np.maximum(self.difference[k], change))  # keeps NaN
            known = sample.truth[some].to(depth), sample.valid[some]
            self.scores[k, "k"].update(depth, *known, index)
            self.scores[k, "256"].update(same, *known, index)

    def table(self, processes: Any, independent: bool) -> pd.DataFrame:
        """One row per group size."""
        merged = merge_processes(self.scores, processes)
        computed = {key: scores.compute() for key, scores in merged.items()}
        differences = of_all_processes(self.difference, processes)
        return pd.DataFrame(
            {
                "k": k,
                "points": SWEEP_SINGLES if k == 1 else EIGEN_POINTS,
                "abs_rel": computed[k, "k"]["abs_rel"],
                "abs_rel_same_points": computed[k, "256"]["abs_rel"],
                **{name: computed[k, "k"][name] for name in ("rmse", "delta1")},
                "max_abs_difference": np.max([each[k] for each in differences]),
                "frames": int(computed[k, "k"]["frames"]),
                "independent": independent,
            }
            for k in SWEEP
        )


class _Kept:
    """Answers of the network at the eigen points of every frame, and whole maps of a few frames."""

    def __init__(self, wanted: Sequence[int], truths: Sequence[str]) -> None:
        self.wanted, self.truths = wanted, truths
        self.points: dict[int, dict[str, np.ndarray]] = {}
        self.examples: dict[int, dict[str, np.ndarray]] = {}

    def add(self, frame: Frame, index: int, predictor: ModelPredictor) -> None:
        """Keep the answers to one frame."""
        answers = predictor(View(frame.image, frame.camera, frame.camera))
        kept = self.points[index] = {}
        for truth in self.truths:
            sample = _eigen_sample(frame, truth)
            depth = answers.depth_at(sample.points, GROUP)
            for name, values in (("prediction", depth), ("truth", sample.truth)):
                kept[f"{truth}.{name}"] = values.float()[sample.valid].numpy()
        if index in self.wanted:
            self.examples[index] = self._example(answers, frame)

    def _example(self, answers: SceneAnswers, frame: Frame) -> dict[str, np.ndarray]:
        truth = self.truths[0]
        sample = _eigen_sample(frame, truth)
        maps = {"point_depth": answers.depth_at(sample.points, GROUP)}
        full = answers.dense()
        if full is not None:
            sparse, dense = answers.lattice()
            maps |= {"dense": full, "lattice_sparse": sparse, "lattice_dense": dense}
        return {
            "image": frame.image,
            "truth": frame.truth(truth).astype(np.float32),
            "points": sample.points.numpy(),
            "point_truth": sample.truth.numpy(),
            **{name: values.float().numpy() for name, values in maps.items()},
        }

    def by_frame(self, ids: Sequence[str], processes: Any) -> tuple[Arrays, Arrays]:
        """Examples and points of all processes, by frame id in the frames' order."""
        kept = []
        for mine in (self.examples, self.points):
            parts = of_all_processes(mine, processes)
            whole = {index: arrays for part in parts for index, arrays in part.items()}
            kept.append({ids[index]: whole[index] for index in sorted(whole)})
        return kept[0], kept[1]


def _of_keys(tables: Mapping[Key, pd.DataFrame]) -> pd.DataFrame:
    """One table of several, with their keys as columns."""
    return pd.concat(tables, names=KEYS).reset_index(KEYS).reset_index(drop=True)
