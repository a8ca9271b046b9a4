"""Reading the tables of an evaluation: one row a model, two models on the same frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from spdlib.errors import DataError, RunError


class Comparison(NamedTuple):
    """Mean difference (first - second) with its 95 % interval, and what follows for the first."""

    difference: float
    low: float
    high: float
    verdict: str


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


def paired_bootstrap(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    higher_is_better: bool = False,
    samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two networks on the same frames.

    Args:
        first: one score per frame.
        second: the other network's scores, in the same order.
        higher_is_better: as for delta1; False for errors.
        samples: bootstrap samples of the frames.
        seed: of the samples.

    Returns:
        Difference, its 2.5th and 97.5th percentile and "better", "worse" or "tie" (0 lies inside).

    Raises:
        DataError: the scores differ in number, are not finite or are missing.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise DataError(f"paired scores need one length above 0; got {a.shape} and {b.shape}")
    difference = a - b
    if not np.isfinite(difference).all():
        bad = int(np.flatnonzero(~np.isfinite(difference))[0])
        raise DataError(f"the score of frame {bad} is not finite; leave it out in both networks")
    generator = np.random.default_rng(seed)
    means = np.concatenate([
        difference[generator.integers(0, a.size, (block, a.size))].mean(1)
        for block in _blocks(samples, max(1, 2_000_000 // a.size))
    ])  # fmt: skip
    low, high = np.percentile(means, [2.5, 97.5])
    verdict = "tie"
    if low > 0 or high < 0:
        verdict = "better" if (low > 0) == higher_is_better else "worse"
    return Comparison(float(difference.mean()), float(low), float(high), verdict)


def _blocks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
