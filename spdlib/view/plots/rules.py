"""Figures of what the rules of scoring do to the numbers of the same networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from spdlib.view.plots.style import (
    BASELINE_GREYS,
    FAINT,
    INK,
    METRICS,
    colour,
    figure,
    outline,
    styled,
)


@styled
def same_predictions(table: pd.DataFrame, title: str = "") -> Figure:
    """How far numbers move while predictions stay: a table of `rules.under_every_protocol`.

    A panel a score, a row a protocol, a colour an alignment; hollow marks are pooled scores. Lines
    are the scores of the first row, percentages the changes from them.
    """
    scores = [name for name in METRICS if name in table and table[name].notna().any()]
    groups = [(str(name), part) for name, part in table.groupby("aligned", sort=False)]
    rows = len(table) + len(groups)
    fig, axes = figure(1, len(scores), 1.2 + 0.27 * rows, sharey=True, squeeze=False)
    for ax, score in zip(axes[0], scores, strict=True):
        first = table[score].iloc[0]
        ax.axvline(first, color=FAINT, linewidth=1.2)
        ticks, place = {}, 0
        for number, (_, part) in enumerate(groups):
            for row in part.to_dict("records"):
                place += 1
                look = {"markerfacecolor": "white"} if row["averaged"] != "per image" else {}
                ax.plot(row[score], place, "o", color=colour(number), markersize=7, **look)
                _beside(ax, row[score], place, _changed(row[score], first))
                ticks[place] = _rule_in_words(row)
            place += 1
        ax.set_yticks(list(ticks), list(ticks.values()), fontsize="small")
        ax.set_title(METRICS[score])
        _room_at_the_right(ax, table[score])
    axes[0, 0].set_ylim(rows - 0.3, -0.7)
    _headings(axes[0, 0], axes[0, -1], groups)
    fig.suptitle(title)
    fig.supxlabel(
        "lines and percentages: against the first row; hollow: pooled",
        fontsize="small",
        color=FAINT,
    )
    return fig


def _headings(first: Axes, last: Axes, groups: list[tuple[str, pd.DataFrame]]) -> None:
    """Names of the groups over their rows, across all panels."""
    place = 0
    across = blended_transform_factory(first.transAxes, last.transData)
    for name, part in groups:
        look: dict[str, Any] = {
            "transform": across,
            "va": "center",
            "path_effects": outline(),
            "clip_on": False,
        }
        last.text(0.04, place, name, **look).set_in_layout(False)
        place += len(part) + 1


def _rule_in_words(row: dict[Any, Any]) -> str:
    mirrored = "with mirror image, " if row["mirrored"] else ""
    return mirrored + row["averaged"].replace(" over all images", "")


def _changed(value: float, first: float) -> str:
    """A score, and by how many percent it differs from the first."""
    percent = 100 * (value / first - 1)
    change = f"  {percent:+.0f} %".replace("-", "−") if abs(percent) >= 0.5 else ""
    return f"{value:#.3g}{change}"


def _beside(ax: Axes, x: float, y: float, text: str) -> None:
    look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": "x-small"}
    look |= {"path_effects": outline(width=2)}
    ax.annotate(text, (x, y), (7, 0), color=INK, **look).set_in_layout(False)


def _room_at_the_right(ax: Axes, values: pd.Series, share: float = 1.6) -> None:
    """Limits that leave room for a text beside each value, and few ticks where the values are."""
    low, high = values.min(), values.max()
    reach = max(high - low, 0.02 * abs(high))
    left = low - 0.15 * reach
    ax.set_xlim(left, high + share * reach)
    steps = MaxNLocator(2).tick_values(left, high)
    ax.set_xticks([step for step in steps if left <= step <= high + 0.3 * reach])
    ax.tick_params(axis="x", labelsize="small")
    ax.grid(visible=False, axis="y")


@styled
def same_pixels(table: pd.DataFrame, models: Sequence[str] = ()) -> Figure:
    """What the metre hangs on: a table of `rules.under_every_view`, network by network.

    s* and AbsRel of the same pixels, a colour a view. `models` are drawn in this order; default all
    that look at the image.
    """
    every = [name for name in table["model"].unique() if name not in BASELINE_GREYS]
    names = list(models) or every
    views = list(table["view"].unique())
    fig, axes = figure(1, 2, 1.5 + (0.22 * len(views) + 0.25) * len(names), sharey=True)
    step = len(views) + 1.2
    for ax, score in zip(axes, ("s_star", "abs_rel"), strict=True):
        if score == "s_star":
            ax.axvline(1, color=FAINT, linewidth=1.2)
        for number, name in enumerate(names):
            own = table[table["model"] == name]
            places = [number * step + views.index(view) for view in own["view"]]
            for place, row in zip(places, own.to_dict("records"), strict=True):
                shade = colour(views.index(row["view"]))
                label = row["view"] if not number else None
                ax.plot(row[score], place, "o", color=shade, markersize=8, label=label)
                _beside(ax, row[score], place, _changed(row[score], own[score].iloc[0]))
        shown = [*table[score][table["model"].isin(names)], *([1.0] if score == "s_star" else [])]
        _room_at_the_right(ax, pd.Series(shown), 0.5)
    middles = [number * step + (len(views) - 1) / 2 for number in range(len(names))]
    axes[0].set_yticks(middles, names)
    axes[0].set_ylim(len(names) * step - 1.2, -1)
    axes[0].set_title("s*, true over predicted depth (1: the metre is right)")
    axes[1].set_title("AbsRel of the same pixels (lower is better)")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(views))
    return fig
