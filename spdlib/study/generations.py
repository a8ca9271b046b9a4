"""Networks on equal terms: scores of several runs side by side, every pair with its interval.

Same frames, steps, points, loss, seed and order; only the networks differ. What else differs
between the given runs is an error, so that no unfair table is written by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from spdlib.errors import DataError, RunError
from spdlib.models import network_class, network_options, words
from spdlib.study.runs import Run, write_table
from spdlib.study.tables import SCORE, TEXT, read_table

SCORES = ("abs_rel", "rmse", "delta1", "silog", "s_star")
CURVE = ["step", "epoch", "seconds", "sel_abs_rel", "train_loss"]
SAMPLES = 10_000
"""Of the frames, for an interval."""


class Comparison(NamedTuple):
    """Mean difference (first - second) with its 95 % interval, and what follows for the first."""

    difference: float
    low: float
    high: float
    verdict: str


class EqualTerms(NamedTuple):
    """Tables of a comparison."""

    networks: pd.DataFrame
    """A row a run and protocol: network, experiment, protocol, parameters, decoder_parameters,
    steps, minutes of these steps, `SCORES`, sel_abs_rel (of the kept weights on the selection
    frames), abs_rel_at_equal_minutes (there too, after as many minutes as the fastest network
    takes; NaN if that was before the first evaluation, or the minutes are of different machines),
    machine, commit."""
    pairs: pd.DataFrame
    """A row a pair of networks and protocol: first, second, protocol, difference (of mean AbsRel,
    first less second), low, high, verdict (on the first). Intervals are of frames: how far another
    seed would move a run they do not know. Networks that a protocol queries in different ways are
    no pair."""
    curves: pd.DataFrame
    """A row an evaluation: network, step, epoch, minutes, sel_abs_rel, train_loss."""

    def save(self, path: str | Path) -> list[Path]:
        """Write PATH.csv, PATH_pairs.csv and PATH_curves.csv."""
        files = files_of(path)
        for file, table in zip(files, self, strict=True):
            write_table(file, table)
        return files

    @classmethod
    def read(cls, path: str | Path) -> EqualTerms:
        """Inverse of `save`. RunError: a file is missing or cannot be read."""
        remedy = "write it with `python -m spdlib equal-terms`"
        return cls(*(read_table(file, remedy=remedy) for file in files_of(path)))


def files_of(path: str | Path) -> list[Path]:
    """Paths of the three tables that a path stands for. RunError: it names no file."""
    if Path(path).name in ("", ".."):
        raise RunError(f"{str(path)!r} names no file to write; give a name, such as out/terms")
    stem = Path(path).with_suffix("")
    return [stem.with_name(f"{stem.name}{ending}.csv") for ending in ("", "_pairs", "_curves")]


def step_seconds(path: str | Path, points: int) -> dict[str, float]:
    """Seconds of each network's training step with so many points a frame, on an idle machine.

    From a table of `benchmarks/training.py`, of one device and number of threads.

    RunError: the table cannot be read, or has no step, or several of one network.
    """
    remedy = "write it with `python -m spdlib bench training`"
    columns = {"network": TEXT, "operation": TEXT, "k": SCORE, "milliseconds": SCORE}
    table = read_table(path, columns, remedy)
    steps = table[(table["operation"] == "step") & (table["k"] == points)]
    seconds = steps.set_index("network")["milliseconds"] / 1000
    if bad := [name for name, each in seconds.items() if not 0 < each < np.inf]:
        raise RunError(f"{path} has no positive time of a step of {bad[0]}; {remedy}")
    if seconds.empty or not seconds.index.is_unique:
        raise RunError(
            f"{path} has {len(seconds)} steps of {points} points for {seconds.index.nunique()} "
            "networks; a comparison takes one each, of one machine"
        )
    return dict(seconds)


def equal_terms(
    runs: Sequence[Run | str | Path], seconds: Mapping[str, float] | None = None
) -> EqualTerms:
    """Set evaluated runs of different networks, or their folders, side by side.

    Minutes are counted from the `seconds` of each network's step, which `step_seconds` reads; by
    default by each run's own clock, which also tells what else its machine did.

    RunError: fewer than two runs, one that was not evaluated, a network that occurs twice or has no
    step among `seconds`, or settings, data or test frames that differ.
    """
    opened = [each if isinstance(each, Run) else Run.open(each) for each in runs]
    if len(opened) < 2:
        raise RunError(f"a comparison takes two runs or more; got {len(opened)}")
    _require_equal(opened)
    curves = {run.config.model.network: _curve(run, seconds) for run in opened}
    comparable = seconds is not None or len({_machine(run) for run in opened}) == 1
    shortest = min(curve["minutes"].max() for curve in curves.values()) if comparable else np.nan
    rows = [row for run in opened for row in _rows(run, curves[run.config.model.network], shortest)]
    frames = pd.concat([_own_points(run, run.frames) for run in opened], ignore_index=True)
    networks = pd.DataFrame(rows)
    protocols = {run.config.model.network: run.record["evaluation"]["protocols"] for run in opened}
    pairs = [
        (first, second, protocol, *compare_frames(frames, first, second, protocol))
        for protocol in networks["protocol"].unique()
        for first, second in combinations(networks["network"].unique(), 2)
        if (asked := protocols[first].get(protocol)) and asked == protocols[second].get(protocol)
    ]
    columns = ["first", "second", "protocol", "difference", "low", "high", "verdict"]
    table = pd.concat(curves.values(), ignore_index=True)
    return EqualTerms(networks, pd.DataFrame(pairs, columns=columns), table)


def compare_frames(
    frames: pd.DataFrame, first: str, second: str, protocol: str, sites: str = "points"
) -> Comparison:
    """AbsRel of two models in a table of frames, paired by frame; see `paired_bootstrap`.

    Frames whose score is NaN for both had nothing to score and are left out.

    RunError: the table lacks one of them, or frames that both have.
    DataError: the score of a frame is NaN for one of them.
    """
    chosen = frames[(frames["protocol"] == protocol) & (frames["sites"] == sites)]
    have = sorted(set(chosen["model"]))
    if not {first, second} <= set(have):
        raise RunError(f"{protocol}/{sites} has frames of {have}, not of both {first}, {second}")
    pair = [
        chosen[chosen["model"] == model].set_index("frame")["abs_rel"] for model in (first, second)
    ]
    both = pd.concat(pair, axis=1, keys=["first", "second"], join="inner").dropna(how="all")
    if both.empty:
        raise RunError(f"{protocol}/{sites} has no AbsRel of frames that both models share")
    return paired_bootstrap(both["first"].to_numpy(), both["second"].to_numpy())


def paired_bootstrap(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray
) -> Comparison:
    """Compare two networks' errors on the same frames, one a frame, by `SAMPLES` samples of these.

    The difference is first less second, its ends the 2.5th and 97.5th percentile. The first is
    "better" or "worse"; 0 between the ends is a "tie".

    DataError: the errors differ in number, are not finite or are missing.
    """
    a, b = (np.asarray(errors, dtype=np.float64) for errors in (first, second))
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise DataError(f"paired scores need one length above 0; got {a.shape} and {b.shape}")
    difference = a - b
    if (bad := np.flatnonzero(~np.isfinite(difference))).size:
        raise DataError(f"the score of frame {bad[0]} is not finite; leave it out in both networks")
    generator = np.random.default_rng(0)
    block = max(1, 2_000_000 // a.size)  # samples at a time, for memory's sake
    means = [
        difference[generator.integers(0, a.size, (min(block, SAMPLES - done), a.size))].mean(1)
        for done in range(0, SAMPLES, block)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    verdict = "better" if high < 0 else "worse" if low > 0 else "tie"
    return Comparison(float(difference.mean()), float(low), float(high), verdict)


def _require_equal(runs: Sequence[Run]) -> None:
    first = runs[0]
    names = [run.config.model.network for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"{twice[0]} occurs twice among the runs; give one run of each network")
    for run in runs:
        if "evaluation" not in run.record:
            raise RunError(f"{run.folder} was not evaluated; `python -m spdlib evaluate` does it")
        if not run.finished:
            raise RunError(f"{run.folder} holds a run that has not finished; train it to its end")
        _require_own_options(run)
        ours = _terms(run)
        for name, theirs in _terms(first).items():
            if theirs != ours.get(name):
                raise RunError(
                    f"not on equal terms: {name} is {theirs!r} in {first.folder} and "
                    f"{ours.get(name)!r} in {run.folder}"
                )


def _terms(run: Run) -> dict[str, Any]:
    """What must not differ: settings but the network's own, frames, encoder weights."""
    own, record = ("experiment", "network", "options"), run.record
    terms = {name: value for name, value in run.config.settings().items() if name not in own}
    sets = {**record["data"], "test": record["evaluation"]["test"]}
    terms |= {name: (each["ids_hash"], each.get("fingerprint")) for name, each in sets.items()}
    return terms | {"encoder_weights_sha256": record.get("encoder_weights_sha256")}


def _require_own_options(run: Run) -> None:
    """RunError names an option that is not the network's own, a fault that is switched on."""
    network, given = run.config.model.network, run.config.model.options
    own = network_options(network)
    for name in words(network_class(network).Options):
        if given[name] != own[name]:
            raise RunError(
                f"not on equal terms: {network} has {name}={given[name]!r} in {run.folder}, "
                f"not its own {own[name]!r}"
            )


def _machine(run: Run) -> str:
    """What a run's minutes depend on, in words."""
    here = run.record["machine"]
    names = [here["cpu"], *(gpu["model"] for gpu in here["gpus"])]
    return f"{', '.join(names)}, {here['torch_threads']} threads"


def _curve(run: Run, seconds: Mapping[str, float] | None) -> pd.DataFrame:
    network = run.config.model.network
    if seconds is not None and network not in seconds:
        raise RunError(f"no cost of a step of {network}; there are those of {sorted(seconds)}")
    table, steps = run.history[CURVE], run.record["steps_done"]
    if (last := table["step"].iloc[-1]) != steps:
        raise RunError(
            f"{run.folder}/history.csv ends at step {last} of {steps}; train the run again"
        )
    spent = table["seconds"] if seconds is None else table["step"] * seconds[network]
    table = table.assign(minutes=spent / 60).drop(columns="seconds")
    table.insert(0, "network", network)
    return table


def _rows(run: Run, curve: pd.DataFrame, minutes: float) -> list[dict[str, Any]]:
    """A run's row for each protocol, at points."""
    config, record = run.config, run.record
    parameters = record["parameters"]
    rows = []
    table = _own_points(run, run.metrics)
    for protocol in record["evaluation"]["protocols"]:
        scores = table[table["protocol"] == protocol]
        values = dict(zip(scores["metric"], scores["value"], strict=True))
        if missing := [name for name in SCORES if name not in values]:
            raise RunError(
                f"{run.folder}/metrics.csv has no {missing[0]} of {config.model.network} under "
                f"{protocol} at points; evaluate the run again"
            )
        rows.append(
            {
                "network": config.model.network,
                "experiment": config.experiment,
                "protocol": protocol,
                "parameters": parameters["total"],
                "decoder_parameters": parameters["total"] - parameters["encoder"],
                "steps": record["steps_done"],
                "minutes": curve["minutes"].iloc[-1],
                **{name: values[name] for name in SCORES},
                "sel_abs_rel": record["best_sel_abs_rel"],
                "abs_rel_at_equal_minutes": np.interp(
                    minutes, curve["minutes"], curve["sel_abs_rel"], left=np.nan
                ),
                "machine": _machine(run),
                "commit": record["code"]["commit"],
            }
        )
    return rows


def _own_points(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the run's network, at points."""
    return table[(table["model"] == run.config.model.network) & (table["sites"] == "points")]
