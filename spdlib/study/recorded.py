"""What the log says it measured: `results/recorded.csv`, one figure or one word a row.

Columns: experiment ("exp01" ... "exp13", "setup" for all of the first ten, "distill_v1"), epoch
(empty where a row holds for the whole experiment or the epoch is not on record), metric (the names
of `metrics` and of `RunConfig`, shares as fractions), value, text (a word, or the figure as printed
where that says more) and source (where the figure was noted: document:line of the unpublished log).
`claimed_` marks figures that cannot be right; what the log's other pages say stands beside them.
What is no score holds for a whole experiment: settings, sizes, how it was validated (`val_`;
`chosen_on`: the split that the quoted epoch was chosen on).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from spdlib.errors import ConfigError, DataError

TABLE = "recorded.csv"
COLUMNS = ("experiment", "epoch", "metric", "value", "text", "source")
DTYPES: Mapping[str, Any] = {"epoch": "Int64", "value": float, "text": str}
SCORES = (
    *("train_loss", "train_loss_end", "abs_rel", "dense_abs_rel", "sq_rel", "rmse", "rmse_log"),
    *("silog", "delta1", "delta2", "delta3", "s_star", "scaled_abs_rel", "scale_gap", "pred_mean"),
    *("pred_std", "pred_min", "pred_max", "gt_mean", "gt_std", "gt_min", "gt_max", "log_std"),
    *("abs_rel_0_2m", "abs_rel_2_5m", "abs_rel_5_10m", "unique_l3"),
)
"""Scores under the recorded protocol and training losses, in the order of tables. All are means or
pooled over an epoch but `train_loss_end`, the loss that an epoch ends with."""
CORRECTED = "_corrected"
"""Ending of an experiment whose faults are mended; what is on record is the one with them."""


def table_path() -> Path:
    """Where recorded.csv lies: beside this module in a wheel, in a checkout under results/."""
    packed = Path(__file__).resolve().with_name(TABLE)
    return packed if packed.is_file() else packed.parents[2] / "results" / TABLE


def recorded_table() -> pd.DataFrame:
    """All of recorded.csv; epochs are whole numbers or missing, values NaN where a text stands.

    DataError: the file is missing or lacks a column.
    """
    path = table_path()
    try:
        table = pd.read_csv(path, dtype=DTYPES)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing, and with it the log's results; it belongs to the repository and "
            "to every wheel: restore it, or install spdlib again"
        ) from error
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise DataError(f"{path} lacks the columns {missing}; restore it from the repository")
    return table.fillna({"text": ""})


def recorded(experiment: str) -> pd.DataFrame:
    """An experiment's scores as the log has them; "exp08_corrected" finds exp08.

    Returns:
        One row an epoch, one column a score of `SCORES`, NaN where the log is silent. The index
        `epoch` is missing in a row whose epoch is not on record.

    Raises:
        ConfigError: the experiment is not on record.
    """
    rows = _rows_of(experiment)
    wide = rows[rows["metric"].isin(SCORES)].pivot(index="epoch", columns="metric", values="value")
    return wide[[name for name in SCORES if name in wide]].rename_axis(columns=None)


def on_record(experiment: str) -> bool:
    """Whether the log has results of an experiment; "exp08_corrected" finds exp08."""
    return experiment.removesuffix(CORRECTED) in set(recorded_table()["experiment"])


def recorded_facts(experiment: str) -> dict[str, float | str]:
    """An experiment's settings and other facts: numbers, or words where the log has no number.

    ConfigError: the experiment is not on record.
    """
    rows = _rows_of(experiment)
    facts = rows[~rows["metric"].isin(SCORES)]
    values = zip(facts["metric"], facts["value"], facts["text"], strict=True)
    return {name: text if pd.isna(value) else value for name, value, text in values}


def recorded_best(network: str) -> dict[str, Any]:
    """The epoch with a network's lowest AbsRel in the log.

    Returns:
        "experiment", "epoch" and those of `SCORES` that are on record for it; empty if the log has
        no run of the network.
    """
    table = recorded_table()
    named = table[(table["metric"] == "network") & (table["text"] == network)]
    epochs = [
        {"experiment": experiment, "epoch": epoch, **scores.dropna()}
        for experiment in named["experiment"]
        for epoch, scores in recorded(experiment).iterrows()
    ]
    scored = [each for each in epochs if "abs_rel" in each]
    return min(scored, key=lambda each: each["abs_rel"], default={})


def _rows_of(experiment: str) -> pd.DataFrame:
    table = recorded_table()
    rows = table[table["experiment"] == experiment.removesuffix(CORRECTED)]
    if rows.empty:
        known = ", ".join(table["experiment"].unique())
        raise ConfigError(f"no results of {experiment!r} are on record; choose from {known}")
    return rows
