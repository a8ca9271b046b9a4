"""What a run's numbers warn of (evaluation_and_diagnostics.md sections 3 to 5).

The numbers come from `metrics.RecordedMetrics.compute`, from history.csv and from bins.csv; here
they get the verdicts of the recorded reports and the tables that notebooks show.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from spdlib.errors import DataError

NOT_LEARNING = 0.1
BARELY_LEARNING = 0.3
"""Below these standard deviations of ln p the log-depth head counts as idle, or nearly so."""
SCALE_GAP_ALARM = 20.0
CV_ALARM = 0.3
SPREAD_ALARM = 0.01
RANGE_COLUMNS = ("epoch", "pred_min", "pred_max", "gt_min", "gt_max")


def head_spread_verdict(log_std: float) -> str:
    """Judge the standard deviation of ln p over all points.

    Returns:
        "not learning" below 0.1, "barely learning" below 0.3, else "OK"; "not finite" for NaN.
    """
    if not log_std < float("inf"):
        return "not finite"
    if log_std < NOT_LEARNING:
        return "not learning"
    return "barely learning" if log_std < BARELY_LEARNING else "OK"


def alarms(scores: Mapping[str, float]) -> list[str]:
    """Sentences on what is wrong with recorded-protocol scores; empty if nothing is.

    Args:
        scores: `RecordedMetrics.compute()`.
    """
    checks = {
        f"{scores['nonfinite']:.0f} predictions are not finite": scores["nonfinite"] > 0,
        f"scale bias: one global factor, s* = {scores['s_star']:.3f}, removes "
        f"{scores['scale_gap']:.0f} % of AbsRel": scores["scale_gap"] > SCALE_GAP_ALARM,
        f"collapse: predictions vary {scores['pred_cv']:.3f} of their mean, the truth "
        f"{scores['gt_cv']:.3f}": scores["pred_cv"] < CV_ALARM * scores["gt_cv"],
        f"spatial collapse: one image's predictions vary by only "
        f"{scores['intra_std_min']:.4f} m": scores["intra_std_min"] < SPREAD_ALARM,
        f"head spread {head_spread_verdict(scores['log_std'])}: ln p varies by "
        f"{scores['log_std']:.3f}": head_spread_verdict(scores["log_std"]) != "OK",
    }
    return [sentence for sentence, wrong in checks.items() if wrong]


def range_table(history: pd.DataFrame) -> pd.DataFrame:
    """Predicted beside true depth range, one row per evaluated epoch.

    Args:
        history: history.csv with the columns of `RANGE_COLUMNS`, NaN where nothing was evaluated.

    Returns:
        Those columns and `covered`, the share of the true range that predictions span; the last
        evaluation of an epoch counts.

    Raises:
        DataError: a column is missing.
    """
    _require(history, RANGE_COLUMNS, "history")
    table = history[list(RANGE_COLUMNS)].dropna().groupby("epoch", as_index=False).last()
    shared = table[["pred_max", "gt_max"]].min(axis=1) - table[["pred_min", "gt_min"]].max(axis=1)
    table["covered"] = shared.clip(lower=0) / (table["gt_max"] - table["gt_min"])
    return table


def per_bin_table(bins: pd.DataFrame, score: str = "abs_rel") -> pd.DataFrame:
    """One row per model, protocol and sites, one column per depth bin.

    Args:
        bins: bins.csv.
        score: "abs_rel", "delta1" or "count".

    Raises:
        DataError: a column is missing.
    """
    keys = ["model", "protocol", "sites"]
    _require(bins, (*keys, "bin", score), "bins")
    order = list(dict.fromkeys(bins["bin"]))
    table = bins.pivot_table(index=keys, columns="bin", values=score, dropna=False, sort=False)
    return table[order].rename_axis(columns=None)


def _require(table: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise DataError(f"the {name} table lacks {missing}; it has {list(table.columns)}")
