"""What the rules of scoring do to the numbers of one and the same network."""

from __future__ import annotations

import pandas as pd

from spdlib.errors import RunError
from spdlib.study.diagnostics import wide_scores
from spdlib.study.protocols import PROTOCOLS, SAME_PIXELS, SAME_PREDICTIONS, Eigen

SCORES = ("abs_rel", "rmse", "delta1", "silog", "s_star")
"""Columns of the tables here."""
AS_PREDICTED = "as predicted"


def under_every_protocol(
    metrics: pd.DataFrame, model: str | None = None, truth: str | None = None, sites: str = "points"
) -> pd.DataFrame:
    """The scores that the same predictions have under those of `SAME_PREDICTIONS` in metrics.csv.

    Args:
        metrics: of an evaluation with `protocols=SAME_PREDICTIONS`, or with some of them.
        model: a name in the table; default its first, the network.
        truth: what was scored against; default the table's first.
        sites: "points", or "dense" for all pixels, where only pooled scores have an s*.

    Returns:
        A row a protocol, in the order of `SAME_PREDICTIONS`: protocol; aligned ("as predicted", or
        how the truth was used); mirrored (whether answers are means with the mirror image's);
        averaged ("per image" or "pooled over all images"); then `SCORES`.

    RunError: the table has no such scores.
    """
    truth = truth or _first(metrics["protocol"]).partition("/")[2]
    model = model or _first(metrics["model"])
    order = {f"{name}/{truth}": PROTOCOLS[name] for name in SAME_PREDICTIONS}
    chosen = metrics[
        metrics["protocol"].isin(order) & (metrics["model"] == model) & (metrics["sites"] == sites)
    ]
    if chosen.empty:
        raise RunError(
            f"no scores of {model!r} at {sites!r} against {truth!r} under any of "
            f"{', '.join(SAME_PREDICTIONS)}; evaluate it with protocols=SAME_PREDICTIONS"
        )
    scores = wide_scores(chosen, SCORES).set_index("protocol")
    rows = []
    for name, kind in order.items():
        if name in scores.index:
            assert issubclass(kind, Eigen)
            rule = (name, kind.aligned or AS_PREDICTED, kind.mirrored, kind.averaged)
            rows.append((*rule, *scores.loc[name].reindex(SCORES)))
    return pd.DataFrame(rows, columns=["protocol", "aligned", "mirrored", "averaged", *SCORES])


def under_every_view(
    metrics: pd.DataFrame, truth: str | None = None, sites: str = "points"
) -> pd.DataFrame:
    """s* and AbsRel at the same pixels while what is shown around them shrinks: `SAME_PIXELS`.

    Args:
        metrics: of evaluations with `protocols=SAME_PIXELS`, of one network or of several.
        truth: what was scored against; default the table's first.
        sites: "points", or "dense" for all pixels, which have no s*.

    Returns:
        A row a model and view: model, protocol, view (in words), s_star, abs_rel, rmse, delta1;
        s_star_change and abs_rel_change are in percent of the whole frame's, NaN without it.

    RunError: the table has no such scores.
    """
    truth = truth or _first(metrics["protocol"]).partition("/")[2]
    names = {f"{name}/{truth}": PROTOCOLS[name].label() for name in SAME_PIXELS}
    keys = ["model", "protocol", "sites", "metric"]
    chosen = metrics[metrics["protocol"].isin(names) & (metrics["sites"] == sites)]
    if chosen.empty:
        raise RunError(
            f"no scores at {sites!r} against {truth!r} under any of {', '.join(SAME_PIXELS)}; "
            "evaluate with protocols=SAME_PIXELS"
        )
    columns = ["s_star", "abs_rel", "rmse", "delta1"]
    scores = wide_scores(chosen.drop_duplicates(keys), columns)  # baselines come with every network
    order = {name: number for number, name in enumerate([*chosen["model"].unique(), *names])}
    scores = scores.sort_values(["model", "protocol"], key=lambda column: column.map(order))
    table = scores.reindex(columns=["model", "protocol", *columns]).reset_index(drop=True)
    table.insert(2, "view", table["protocol"].map(names))
    whole = table[table["protocol"] == next(iter(names))].set_index("model")
    for name in columns[:2]:
        table[f"{name}_change"] = 100 * (table[name] / table["model"].map(whole[name]) - 1)
    return table


def _first(column: pd.Series) -> str:
    return str(next(iter(column), ""))
