"""Tables of runs: read whole and of the right kinds, or refused with the file's name."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from spdlib.errors import RunError
from spdlib.reading import read_text, reading

TEXT, NUMBER, SCORE = "text", "a number", "a number or nothing"
_KEYS = {"model": TEXT, "protocol": TEXT, "sites": TEXT}
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "history": dict.fromkeys(("step", "epoch", "seconds", "train_loss", "sel_abs_rel"), NUMBER),
    "metrics": {**_KEYS, "metric": TEXT, "value": SCORE, "frames": NUMBER},
    "bins": {**_KEYS, "bin": TEXT, "abs_rel": SCORE, "delta1": SCORE, "count": NUMBER},
    "frames": {**_KEYS, "frame": TEXT, "abs_rel": SCORE},
}
"""What readers rely on in the tables of a run that others are compared by."""
AGAIN = "train or evaluate the run again"


def read_table(
    path: str | Path, columns: Mapping[str, str] | None = None, remedy: str = AGAIN
) -> pd.DataFrame:
    """A CSV file with at least these columns, each of its kind: `TEXT`, `NUMBER` or `SCORE`.

    RunError: it is missing, no table, has no row, or a column is missing or of another kind.
    """
    text = read_text(path, RunError, remedy)
    with reading(path, "is no readable table", remedy, RunError):
        table = pd.read_csv(StringIO(text), dtype={"frame": str})  # "00000" is a name
    if columns and table.empty:
        raise RunError(f"{path}: has no row; {remedy}")
    for name, kind in (columns or {}).items():
        if name not in table:
            raise RunError(f"{path}: has no column {name!r}; {remedy}")
        if (bad := _bad(table[name], kind)) is not None:
            raise RunError(f"{path}: column {name!r} holds {bad!r}, not {kind}; {remedy}")
    return table


def _bad(column: pd.Series, kind: str) -> object:
    """The first value that is not of the kind; None if there is none."""
    if kind == TEXT:
        wrong = ~column.map(lambda value: isinstance(value, str))
    elif is_numeric_dtype(column) and not is_bool_dtype(column):
        wrong = column.isna() & (kind == NUMBER)
    else:  # booleans, or a word somewhere
        wrong = column.map(lambda value: isinstance(value, bool) or not _is_number(value))
    return next(iter(column[wrong].tolist()), None)


def _is_number(value: object) -> bool:
    return pd.notna(pd.to_numeric(pd.Series([value]), errors="coerce")).item()


def require_all_frames(path: Path, frames: pd.DataFrame, metrics: pd.DataFrame) -> None:
    """RunError: a table of frames holds fewer or more of them than the scores are of."""
    keys = list(_KEYS)
    scored = {key: set(counts) for key, counts in metrics.groupby(keys)["frames"]}
    for key, own in frames.groupby(keys):
        found, wanted = len(own), sorted(scored.get(key, {0}))
        if wanted != [found]:
            raise RunError(
                f"{path}: holds {found} frames of {' '.join(map(str, key))}, but metrics.csv "
                f"has scores of {wanted[0]}; {AGAIN}"
            )
