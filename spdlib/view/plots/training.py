"""Figures of training: curves, depth ranges, and what the log recorded beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spdlib.errors import RunError
from spdlib.study.comparison import EPOCHS
from spdlib.view.plots.style import (
    AROUND,
    FAINT,
    SCORES,
    along,
    colour,
    few_ticks,
    figure,
    label_points,
    outline,
    styled,
)

COMPARED = ("abs_rel", "delta1", "s_star", "unique_l3")
"""Metrics that have a panel in `recorded_beside`."""
RECORDED = 1
"""Colour of the log's record."""
RUN_COLOURS = (0, 2, 4, 5, 6)
"""Colours of measured runs beside it."""
ABOVE = ((0, 1), (0, -1), *AROUND)


@styled
def learning_curves(history: pd.DataFrame) -> Figure:
    """Training loss, and AbsRel and δ1 on the selection frames, over the epochs of history.csv."""
    fig, axes = figure(1, 3, 3.1)
    marker = "o" if len(history) <= 30 else ""
    best = history.iloc[int(history["sel_abs_rel"].argmin())]
    columns = {
        "train_loss": ("training loss", "loss"),
        "sel_abs_rel": (f"selection AbsRel, best {best['sel_abs_rel']:.3f}", "AbsRel"),
        "sel_delta1": (f"selection δ1, {best['sel_delta1']:.3f} there", "share with δ < 1.25"),
    }
    for ax, (column, (title, label)) in zip(axes, columns.items(), strict=True):
        ax.plot(history["epoch"], history[column], marker=marker, markersize=4, color=colour(0))
        ax.set(title=title, xlabel="epoch", ylabel=label)
        few_ticks(ax)
        if column.startswith("sel_"):
            _ring(ax, best["epoch"], best[column], colour(1))
    axes[0].set_ylim(bottom=0)
    note = "selection frames: eigen protocol, at points"
    fig.supxlabel(note, fontsize="small", color=FAINT)
    return fig


@styled
def depth_ranges(history: pd.DataFrame) -> Figure:
    """Predicted depth range against the true one, and s*, over the epochs of history.csv."""
    fig, (left, right) = figure(1, 2, 3.2, width_ratios=(1.6, 1))
    epochs = history["epoch"]
    for name, label, shade in (("gt", "truth", FAINT), ("pred", "prediction", colour(0))):
        low, high = history[f"{name}_min"], history[f"{name}_max"]
        left.fill_between(epochs, low, high, color=shade, alpha=0.22, linewidth=0, label=label)
        left.plot(epochs, low, color=shade, linewidth=1.6)
        left.plot(epochs, high, color=shade, linewidth=1.6)
    left.set(title="smallest to largest depth", xlabel="epoch", ylabel="depth [m]")
    left.set_ylim(bottom=0)
    left.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)
    right.axhline(1.0, color=FAINT, linestyle="--", linewidth=1.2)
    right.plot(epochs, history["sel_s_star"], color=colour(0))
    right.set(title="scale factor s*", xlabel="epoch", ylabel="median of truth / prediction")
    for ax in (left, right):
        few_ticks(ax)
    return fig


@styled
def recorded_beside(compared: pd.DataFrame) -> Figure:
    """What the log recorded and what runs measured, epoch by epoch, a panel per metric.

    A diamond is a run's final score under the recorded protocol, a ring the epoch that the log
    quotes. `comparison.fairness` tabulates which comparisons are fair, and why others are not.

    `compared` is of `comparison.compare`. RunError: it has none of the metrics `COMPARED`.
    """
    shown = [metric for metric in COMPARED if metric in set(compared["metric"])]
    if not shown:
        have = list(compared["metric"].unique())
        raise RunError(f"the comparison has none of {list(COMPARED)}, but {have}")
    fig, axes = figure(1, len(shown), 3.2 + 0.5 * compared["run"].nunique(), squeeze=False)
    named: dict[str, Any] = {}
    for ax, metric in zip(axes[0], shown, strict=True):
        rows = compared[compared["metric"] == metric]
        _recorded_line(ax, rows[rows["run"] == rows["run"].iloc[0]])
        for i, (_, own) in enumerate(rows.groupby("run", sort=False)):
            _measured_line(ax, own, colour(RUN_COLOURS[i % len(RUN_COLOURS)]))
        if metric == "s_star":
            ax.axhline(1.0, color=FAINT, linestyle="--", linewidth=1.2, zorder=0)
        ax.set(title=SCORES.get(metric, metric), xlabel="epoch")
        ax.sharex(axes[0, 0])
        few_ticks(ax)
        ax.margins(0.12, 0.16)
        lines, labels = ax.get_legend_handles_labels()
        named |= dict(zip(labels, lines, strict=True))
    fig.legend(named.values(), named, loc="outside upper left")
    for ax in axes[0]:
        _write_scores(ax)
    return fig


def _recorded_line(ax: Axes, rows: pd.DataFrame) -> None:
    """The record's epochs with the best one ringed; a level where no epoch is known."""
    first = rows.iloc[0]
    what = f"{first['experiment']}, {first['recorded_network']}, {_measuring(first, 'recorded')}"
    look: dict[str, Any] = {"color": colour(RECORDED), "label": f"log: {what}"}
    epochs = rows[rows["pairing"] == EPOCHS].dropna(subset=["recorded_epoch", "recorded"])
    final = rows[rows["pairing"] != EPOCHS].dropna(subset="recorded")
    if len(final) and epochs.empty:
        ax.axhline(final["recorded"].iloc[-1], linestyle=":", **look)
        return
    ax.plot(epochs["recorded_epoch"], epochs["recorded"], "o-", markersize=4, **look)
    # of the final pairs the best comes last
    for epoch, score in final[["recorded_epoch", "recorded"]].tail(1).to_numpy():
        _ring(ax, epoch, score, look["color"])


def _measured_line(ax: Axes, rows: pd.DataFrame, shade: str) -> None:
    """A run's history, and a diamond for its final score."""
    rows = rows.dropna(subset=["measured_epoch", "measured"])
    history, final = (rows[(rows["pairing"] == EPOCHS) == epochs] for epochs in (True, False))
    who = ", ".join(dict.fromkeys(rows[["run", "measured_network"]].head(1).to_numpy().ravel()))
    if len(history):
        label = f"{who}: {_measuring(history.iloc[0], 'measured')}"
        places = history["measured_epoch"], history["measured"]
        ax.plot(*places, "o-", markersize=4, color=shade, label=label)
    if len(final):
        label = f"{who}, final: {_measuring(final.iloc[0], 'measured')}"
        place = final[["measured_epoch", "measured"]].iloc[0]
        look: dict[str, Any] = {"markersize": 9, "markeredgecolor": "white", "zorder": 4}
        ax.plot(*place, "D", color=shade, label=label, **look)


def _measuring(row: pd.Series, side: str) -> str:
    return f"{row[f'{side}_protocol']}, {row[f'{side}_set']}"


def _ring(ax: Axes, x: float, y: float, shade: str) -> None:
    ax.plot(x, y, "o", color=shade, markersize=10, markerfacecolor="none", markeredgewidth=1.8)


def _write_scores(ax: Axes) -> None:
    """Digits beside rings and diamonds, off the lines."""
    solid = [
        line for line in ax.lines if line.get_linestyle() == "-" and np.size(line.get_xydata())
    ]
    lines = [along(*line.get_data()) for line in solid]
    marks = [line for line in ax.lines if line.get_linestyle() == "None"]
    places = [np.asarray(line.get_xydata())[0] for line in marks]
    digits = [f"{score:.3f}" if abs(score) < 10 else f"{score:.1f}" for _, score in places]
    colours, look = [line.get_color() for line in marks], {"path_effects": outline()}
    label_points(ax, places, digits, colours, lines, ABOVE, fontsize="small", **look)
