"""Recorded against measured: which figures stand beside which, and whether that is fair.

A run's history gives its scores epoch by epoch, at the eigen points of its selection frames: here
test frames choose nothing. Its evaluation gives those of the kept weights on the test frames under
the recorded protocol. What recorded.csv says of an experiment is held against the run's config and
record; no verdict is written down anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from spdlib.data.augment import STYLES, AugmentConfig
from spdlib.data.queries import EIGEN_POINTS
from spdlib.errors import RunError
from spdlib.models.layers import MEDIAN_DEPTH
from spdlib.study.config import RunConfig
from spdlib.study.metrics import BINS, bin_name
from spdlib.study.objectives import silog_weight
from spdlib.study.recorded import CORRECTED, SCORES, recorded, recorded_facts
from spdlib.study.runs import Run

EPOCHS = "epoch by epoch"
SAME, LAST, BEST = "final, same epoch", "final, last epoch on record", "final, best epoch on record"
"""What is paired: a run's history with the record's epochs; its final scores with the epoch of the
run's weights or, where the record lacks that, with its last, and with its best, which the log
quotes."""
HISTORY = {
    **{name: name for name in ("train_loss", "pred_min", "pred_max", "gt_min", "gt_max")},
    **{name: f"sel_{name}" for name in ("abs_rel", "rmse", "delta1", "s_star", "unique_l3")},
}
"""Scores that a run's history has, and their columns."""
ESSENTIAL = (
    *("network", "data", "train_images", "image_size"),
    *("val_frames", "val_view", "val_points", "chosen_on"),
)
"""Facts of the record without which no comparison is fair."""
NOT_STATED = "not stated"
VIEWS = {"squash": "squashed", "native": "unscaled crop", "fit": "scaled to fit"}
"""How frames are brought to a network's size, by the record's and `AugmentConfig`'s names."""

Facts = Mapping[str, float | str]
Scores = dict[str, float]


class Measured(NamedTuple):
    """What a run's folder tells; `Run` describes the parts."""

    name: str
    config: RunConfig
    record: Mapping[str, Any]
    history: pd.DataFrame
    metrics: pd.DataFrame | None
    bins: pd.DataFrame | None


class _Series(NamedTuple):
    """One side of a comparison: scores by epoch, and how they came about, in words."""

    network: str
    data: str
    """The frames it learned from."""
    protocol: str
    """"recorded" or "eigen"."""
    truth: str
    """The depth that counts, behind a slash; "" where that is not on record."""
    points: str
    """How many of each frame."""
    frames: str
    """Those that were scored."""
    view: str
    """How they are brought to the network's size."""
    chosen_on: str
    """The split that chooses the epoch to quote."""
    epochs: dict[float | None, Scores]
    """Scores of each epoch; None is an epoch that is not on record."""

    def columns(self, epoch: float | None, metric: str) -> dict[str, Any]:
        """One score and what stands beside it, by what follows the side in a column's name."""
        protocol, frames = self._measuring(metric, self.truth)
        return {
            "_epoch": epoch if epoch is not None and epoch in self.epochs else math.nan,
            "": self.epochs.get(epoch, {}).get(metric, math.nan),
            "_network": self.network,
            "_protocol": protocol,
            "_set": frames,
            "_data": self.data,
        }

    def aspects(self, pairing: str, epoch: float | None, metric: str) -> dict[str, str]:
        """How one score was measured, in words."""
        protocol, frames = self._measuring(metric)
        aspects = {"protocol": protocol, "scored on": frames}
        if not metric.startswith("train_loss"):
            aspects["frames"] = self.view
        if pairing != EPOCHS:
            aspects["epoch"] = _word(epoch)
        if pairing == BEST:
            aspects["epoch chosen on"] = f"{self.chosen_on} frames"
        return aspects

    def _measuring(self, metric: str, truth: str = "") -> tuple[str, str]:
        """Protocol and sites, and the frames, that are behind a metric."""
        if metric.startswith("train_loss"):
            return "training loss", "training frames"
        sites = "all pixels" if metric.startswith("dense_") else f"{self.points} points"
        return f"{self.protocol}{truth}, {sites}", self.frames


class _Pair(NamedTuple):
    """An epoch of the record beside one of a run; either side may lack its own."""

    pairing: str
    ours: _Series
    our_epoch: float | None
    their_epoch: float | None


def compare(runs: Run | str | Path | Sequence[Run | str | Path], experiment: str) -> pd.DataFrame:
    """`compare_tables` of one or several runs, or of their folders.

    RunError: a folder holds no run, or a run has no history; further errors as there.
    """
    several = [runs] if isinstance(runs, Run | str | Path) else runs
    opened = [each if isinstance(each, Run) else Run.open(each) for each in several]
    folders = [run.folder.resolve() for run in opened]
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    return compare_tables(list(map(_measured, opened, names)), experiment)


def _measured(run: Run, name: str) -> Measured:
    """A run's tables; one that was not evaluated has neither metrics nor bins."""
    evaluated = (run.folder / "metrics.csv").is_file()
    tables = (run.metrics, run.bins) if evaluated else (None, None)
    return Measured(name, run.config, run.record, run.history, *tables)


def compare_tables(runs: Sequence[Measured], experiment: str) -> pd.DataFrame:
    """Set what the log recorded of an experiment, such as "exp13", against the tables of runs.

    Returns:
        One row a run, pair of epochs and metric that is on record and was measured: experiment,
        run, pairing (`EPOCHS`, `SAME`, `LAST` or `BEST`), metric, recorded_epoch, measured_epoch,
        recorded, measured (NaN where that side has no such epoch or score), then of both sides
        network, protocol, set (the frames scored) and data (the frames learned from). `fair` is
        true where the run agrees with everything on record; else `measured_otherwise` and
        `trained_otherwise` say what differs, the log's in brackets.

    Raises:
        ConfigError: the experiment is not on record.
        DataError: recorded.csv is missing.
        RunError: no score is on both sides.
    """
    facts = dict.fromkeys(ESSENTIAL, NOT_STATED) | recorded_facts(experiment)
    theirs = _recorded_series(recorded(experiment), facts)
    table = pd.concat([_compare_one(run, theirs, facts) for run in runs])
    if table.empty:
        raise RunError(f"{experiment} and the runs have no score in common; train or evaluate them")
    table.insert(0, "experiment", experiment.removesuffix(CORRECTED))
    return table.reset_index(drop=True)


def _compare_one(run: Measured, theirs: _Series, facts: Facts) -> pd.DataFrame:
    history, final = _history_series(run), _final_series(run)
    either = sorted(epoch for epoch in theirs.epochs | history.epochs if epoch is not None)
    pairs = [_Pair(EPOCHS, history, epoch, epoch) for epoch in either]
    pairs += _final_pairs(theirs, final) if final else []
    rows = [_row(theirs, pair, metric) for pair in pairs for metric in SCORES]
    table = pd.DataFrame(rows).dropna(subset=["recorded", "measured"], how="all")
    table = table[_on_both_sides(table, ["metric"])]
    table.insert(0, "run", run.name)
    # facts on record that the run's config contradicts
    used = as_recorded(run.config, run.record["data"]["train"]["frames"])
    ours = {name: _word(used[name]) for name in facts if name in used}
    logged = {name: _word(facts[name]) for name in ours}
    if ours["data"] != logged["data"]:
        ours["data"], logged["data"] = history.data, theirs.data  # with the number of frames
    table["trained_otherwise"] = _differences(ours, logged)
    agreed = table[["measured_otherwise", "trained_otherwise"]] == ""
    return table.assign(fair=agreed.all(axis=1))


def _row(theirs: _Series, pair: _Pair, metric: str) -> dict[str, Any]:
    pairing, ours, our_epoch, their_epoch = pair
    recorded, measured = theirs.columns(their_epoch, metric), ours.columns(our_epoch, metric)
    row = {"pairing": pairing, "metric": metric}
    for ending in recorded:
        row |= {f"recorded{ending}": recorded[ending], f"measured{ending}": measured[ending]}
    aspects = ours.aspects(pairing, our_epoch, metric), theirs.aspects(pairing, their_epoch, metric)
    return {**row, "measured_otherwise": _differences(*aspects)}


def _final_pairs(theirs: _Series, final: _Series) -> list[_Pair]:
    """A run's final scores beside the record's same or last epoch, and beside its best."""
    (kept,) = final.epochs
    same = kept is not None and kept in theirs.epochs
    beside = kept if same else list(theirs.epochs)[-1]
    errors = {epoch: scores.get("abs_rel", math.nan) for epoch, scores in theirs.epochs.items()}
    scored = [epoch for epoch in errors if not math.isnan(errors[epoch])]
    best = min(scored, key=errors.__getitem__, default=beside)
    pairs = [_Pair(SAME if same else LAST, final, kept, beside)]
    return pairs + ([_Pair(BEST, final, kept, best)] if best != beside else [])


def _on_both_sides(table: pd.DataFrame, keys: list[str]) -> pd.Series:
    """Rows of those groups in which some score is recorded and some is measured."""
    counts = table.groupby(keys)[["recorded", "measured"]].transform("count")
    return (counts > 0).all(axis=1)


def fairness(table: pd.DataFrame) -> pd.DataFrame:
    """Say what in a table of `compare_tables` is fair, and what is not for which reasons.

    Returns:
        run, comparison, verdict, because: a row for each pairing in which both sides have scores,
        epoch by epoch even if never of the same epoch (several, where its metrics were measured
        differently), then one on the run's training.
    """
    paired = table[_on_both_sides(table, ["run", "pairing", "metric"])]
    rows = []
    for run, own in paired.groupby("run", sort=False):
        trained = own["trained_otherwise"].iloc[0]
        for pairing, part in own.groupby("pairing", sort=False):
            kinds = part.groupby("measured_otherwise", sort=False)["metric"].unique()
            for found, metrics in kinds.items():
                which = f" ({', '.join(metrics)})" if len(kinds) > 1 else ""
                fair = "not fair" if found or trained else "fair"
                alike = "measured alike, trained otherwise" if trained else "measured alike"
                rows.append((run, f"{pairing}{which}", fair, found or alike))
        same = "otherwise" if trained else "alike"
        rows.append((run, "training", same, trained or "everything as on record"))
    return pd.DataFrame(rows, columns=["run", "comparison", "verdict", "because"])


# -- the three series -------------------------------------------------------------------------


def _recorded_series(record: pd.DataFrame, facts: Facts) -> _Series:
    epochs = [None if pd.isna(epoch) else float(epoch) for epoch in record.index]
    return _Series(
        network=str(facts["network"]),
        data=f"{facts['data']}, {_word(facts['train_images'])} frames",
        protocol="recorded",
        truth="",
        points=_word(facts["val_points"]),
        frames=f"{_word(facts['val_frames'])} test frames, nyu",
        view=VIEWS.get(str(facts["val_view"]), NOT_STATED),
        chosen_on=str(facts["chosen_on"]),
        epochs=_by_epoch(epochs, record),
    )


def _history_series(run: Measured) -> _Series:
    """Every evaluation on the selection frames."""
    columns = {column: name for name, column in HISTORY.items() if column in run.history}
    scores = run.history[list(columns)].rename(columns=columns)
    frames, truth = run.record["data"], run.config.data.truth
    if truth is None and run.metrics is not None:
        # a run that names none takes the frames' first, and so does its evaluation
        truth = run.metrics["protocol"].iloc[0].partition("/")[2]
    return _Series(
        network=run.config.model.network,
        data=f"{run.config.data.source}, {_word(frames['train']['frames'])} frames",
        protocol="eigen",
        truth=f"/{truth}" if truth else "",
        points=_word(EIGEN_POINTS),
        frames=_frames(run, frames["selection"]["frames"], "selection"),
        view="whole",
        chosen_on="selection",
        epochs=_by_epoch(run.history["epoch"].tolist(), scores),
    )


def _final_series(run: Measured) -> _Series | None:
    """The kept weights under the recorded protocol; None if the run was not evaluated."""
    if run.metrics is None:
        return None
    protocol, scores = recorded_scores(run.metrics, run.config.model.network)
    frames = int(run.metrics["frames"].max())
    kept = run.history[run.history["step"] == run.record.get("best_step")]
    return _history_series(run)._replace(
        protocol="recorded",
        truth=protocol.removeprefix("recorded"),
        points=_word(scores.get("points", math.nan) / frames),
        frames=_frames(run, frames, "test"),
        view=VIEWS[run.config.crop],
        epochs={next(iter(kept["epoch"]), None): scores | _other_scores(run, protocol, kept)},
    )


def recorded_scores(metrics: pd.DataFrame, model: str, sites: str = "points") -> tuple[str, Scores]:
    """The recorded protocol's full name, and a network's scores under it, of an evaluation's table.

    RunError: the table has no such scores at these sites ("points" or "dense").
    """
    mine = metrics[(metrics["model"] == model) & metrics["protocol"].str.startswith("recorded")]
    if mine.empty:
        have = sorted(set(zip(metrics["model"], metrics["protocol"], strict=True)))
        raise RunError(f"no scores of {model!r} under the recorded protocol among {have}")
    protocol = str(mine["protocol"].iloc[0])
    mine = mine[(mine["protocol"] == protocol) & (mine["sites"] == sites)]
    return protocol, dict(zip(mine["metric"], mine["value"], strict=True))


def _other_scores(run: Measured, protocol: str, kept: pd.DataFrame) -> Scores:
    """Scores of the record that are no row of metrics.csv at points."""
    assert run.metrics is not None and run.bins is not None
    model, bins = run.config.model.network, run.bins
    _, dense = recorded_scores(run.metrics, model, "dense")
    own = (bins["model"] == model) & (bins["protocol"] == protocol) & (bins["sites"] == "points")
    near_to_far = bins[own].set_index("bin")["abs_rel"]
    return {
        **{f"abs_rel_{a:g}_{b:g}m": near_to_far.get(bin_name(a, b), math.nan) for a, b in BINS},
        "train_loss": kept["train_loss"].mean(),
        "dense_abs_rel": dense.get("abs_rel", math.nan),
    }


def _by_epoch(epochs: list[Any], scores: pd.DataFrame) -> dict[float | None, Scores]:
    rows: Any = scores.to_dict("records")
    return dict(zip(epochs, rows, strict=True))


def _frames(run: Measured, count: int, split: str) -> str:
    """How many frames of which split of which data, whatever the layout they came in."""
    return f"{count} {split} frames, {run.config.data.source.partition('_')[0]}"


# -- what keeps a comparison from being fair --------------------------------------------------


def as_recorded(config: RunConfig, frames: int) -> dict[str, Any]:
    """Settings of a run on so many frames, those that the log calls otherwise by its names too."""
    schedule, options = config.schedule, config.model.options
    epoch = frames / schedule.batch_size
    used = {
        **config.settings(),
        "epochs_planned": round(schedule.steps / epoch),
        "t_max": round((schedule.cosine_steps or schedule.steps) / epoch),
        "augmentation": _style(config.sampling.augment),
        "aux_weight": config.objective.auxiliary_weight,
        "silog_weight": silog_weight(config.objective.loss),
    }
    if config.data.train_subset == "first_shard":
        used["data"] = "nyu_partial"
    if "grid_rule" in options:
        used["grid_rule"] = options["grid_rule"]
    if "head_bias" in options:
        start = MEDIAN_DEPTH if options["head_bias"] == "median" else 1.0
        used["head_bias_init"] = round(math.log(start), 3)
    return used


def _style(augment: AugmentConfig) -> str:
    """Name of a run's augmentation, whether it squashes frames or not; "other" if it has none."""
    given = replace(augment, crop="fit") if augment.crop == "squash" else augment
    return next((name for name, style in STYLES.items() if style == given), "other")


def _differences(run: Mapping[str, str], record: Mapping[str, str]) -> str:
    """Aspects in which the run differs from the record, or which one of them does not state."""
    return "; ".join(
        f"{aspect} {ours} (log: {record[aspect]})"
        for aspect, ours in run.items()
        if ours != record[aspect] or NOT_STATED in (ours, record[aspect])
    )


def _word(value: Any) -> str:
    """A setting as text; equal texts are equal settings."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOT_STATED
    if isinstance(value, list | tuple):
        return "x".join(_word(item) for item in value)
    return f"{value:,g}" if isinstance(value, int | float) else str(value)
