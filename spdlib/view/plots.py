"""Figures for notebooks. Each takes tables or arrays and returns a matplotlib Figure.

Depth is drawn in metres with one perceptually even colour map (bright is near), errors with
another, models with colours that colour-blind readers tell apart, image-free baselines in greys.
Figures are not registered with pyplot: a cell shows one when it is the cell's last value.
"""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from spdlib.errors import RunError
from spdlib.study.comparison import EPOCHS, fairness

WIDTH = 10.5
"""Inches that fill a notebook's column."""
NOTE_WIDTH, NOTE_LINE = 145, 0.16
"""Signs in a line of the notes under figures, and its height in inches."""
RUN_COLOURS = (0, 2, 4, 5, 6)
"""Colours of measured runs beside the recorded one."""
INK, FAINT = "#2b2b2b", "#8c8c8c"
BASELINE_GREYS = {"constant": "#b8b8b8", "pixel_map": "#828282"}
NAMES = {"constant": "best constant", "pixel_map": "best per-pixel map"}
"""How figures call the image-free baselines."""
METRICS = {
    "abs_rel": "AbsRel", "rmse": "RMSE [m]", "delta1": "δ1", "silog": "SILog", "s_star": "s*",
    "scaled_abs_rel": "AbsRel × s*",
}  # fmt: skip
"""Scores and their names for people."""
SERIES = {**METRICS, "unique_l3": "cells of L3 routed to"}
"""What can stand beside the log epoch by epoch."""
DEPTH_COLOURS, ERROR_COLOURS = "viridis_r", "rocket_r"
UNMEASURED = "#dcdcdc"
ERROR_LIMIT = 0.5
"""AbsRel at which error maps end; above it the colour stays."""
DELTA = 1.25

NYU_DEPTH_SHARES = (
    0.0,
    2.9,
    10.7,
    16.6,
    18.1,
    14.7,
    11.3,
    8.1,
    5.8,
    3.9,
    2.4,
    1.8,
    1.2,
    0.8,
    0.5,
    0.4,
    0.3,
    0.2,
    0.2,
    0.2,
)
"""Percent of the in-painted pixels of NYU's 795 labelled training frames, in steps of 0.5 m."""

P = ParamSpec("P")


def style() -> dict[str, Any]:
    """The matplotlib settings of every figure here; give them to `plt.rcParams.update` for more."""
    return {
        **sns.axes_style("whitegrid"),
        **sns.plotting_context("notebook", font_scale=0.85),
        "axes.prop_cycle": cycler(color=sns.color_palette("colorblind").as_hex()),
        "axes.edgecolor": "#c4c4c4",
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlepad": 9.0,
        "axes.titleweight": "bold",
        "figure.dpi": 110,
        "grid.color": "#ececec",
        "legend.frameon": False,
        "legend.fontsize": "small",
        "lines.linewidth": 2.0,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under `style()` without changing the caller's settings."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        settings: Any = style()
        with plt.rc_context(settings):
            return draw(*args, **kwargs)

    return drawn


def figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure as wide as a notebook and its axes; pyplot forgets it, so that it shows only once.

    Args:
        rows: rows of axes.
        columns: columns of axes.
        height: of the figure in inches.
        options: of `plt.subplots`.
    """
    options = {"figsize": (WIDTH, height), "layout": "constrained", **options}
    fig, axes = plt.subplots(rows, columns, **options)
    plt.close(fig)
    return fig, axes


def model_colours(models: Sequence[str]) -> dict[str, Any]:
    """One colour a model: greys for image-free baselines, the palette in order for the rest."""
    palette = iter(sns.color_palette("colorblind", max(1, len(models))))
    return {name: BASELINE_GREYS.get(name) or next(palette) for name in models}


def model_name(model: str) -> str:
    """A model's name for people."""
    return NAMES.get(model, model)


# -- training ---------------------------------------------------------------------------------


@styled
def learning_curves(history: pd.DataFrame, protocol: str = "eigen") -> Figure:
    """Training loss, and AbsRel and delta1 on the selection set, over epochs.

    Args:
        history: history.csv of a run.
        protocol: of the selection scores, for the titles.
    """
    fig, axes = figure(1, 3, 3.1)
    epochs = history["epoch"]
    marker = "o" if len(history) <= 30 else ""
    best = history.iloc[int(history["sel_abs_rel"].argmin())]
    columns = (
        ("train_loss", "training loss", "SILog"),
        ("sel_abs_rel", f"selection AbsRel, best {best['sel_abs_rel']:.3f}", "AbsRel"),
        ("sel_delta1", f"selection δ1, {best['sel_delta1']:.3f} there", "share with δ < 1.25"),
    )
    for ax, (column, title, label) in zip(axes, columns, strict=True):
        ax.plot(epochs, history[column], marker=marker, markersize=4, color=_colour(0))
        ax.set(title=title, xlabel="epoch", ylabel=label)
        _few_ticks(ax)
    axes[0].set_ylim(bottom=0)
    for ax, column in ((axes[1], "sel_abs_rel"), (axes[2], "sel_delta1")):
        ax.plot(best["epoch"], best[column], "o", markersize=10, markerfacecolor="none",
                markeredgecolor=_colour(1), markeredgewidth=2)  # fmt: skip
    note = f"selection frames: {protocol} protocol, at points"
    fig.supxlabel(note, fontsize="small", color=FAINT)
    return fig


@styled
def depth_ranges(history: pd.DataFrame) -> Figure:
    """Predicted depth range against the true one, and s*, over epochs (pooled selection points).

    Args:
        history: history.csv of a run.
    """
    fig, (left, right) = figure(1, 2, 3.2, width_ratios=(1.6, 1))
    epochs = history["epoch"]
    for name, label, colour in (("gt", "truth", FAINT), ("pred", "prediction", _colour(0))):
        low, high = history[f"{name}_min"], history[f"{name}_max"]
        left.fill_between(epochs, low, high, color=colour, alpha=0.22, linewidth=0, label=label)
        left.plot(epochs, low, color=colour, linewidth=1.6)
        left.plot(epochs, high, color=colour, linewidth=1.6)
    left.set(title="smallest to largest depth", xlabel="epoch", ylabel="depth [m]")
    left.set_ylim(bottom=0)
    left.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)
    right.axhline(1.0, color=FAINT, linestyle="--", linewidth=1.2)
    right.plot(epochs, history["sel_s_star"], color=_colour(0))
    right.set(title="s*: factor the predictions lack", xlabel="epoch")
    right.set_ylabel("median of truth / prediction")
    for ax in (left, right):
        _few_ticks(ax)
    return fig


@styled
def recorded_beside(
    compared: pd.DataFrame, metrics: Sequence[str] = ("abs_rel", "delta1", "s_star", "unique_l3")
) -> Figure:
    """What the log recorded against what runs measured, epoch by epoch, a panel per metric.

    A diamond is a run's final score under the recorded protocol, the ring marks the epoch that the
    log quotes. Underneath stands what of it is a fair comparison, and what is not and why.

    Args:
        compared: of `comparison.compare`.
        metrics: which of its metrics; those that it lacks are left out.

    Raises:
        RunError: it lacks all of them.
    """
    shown = [metric for metric in metrics if metric in set(compared["metric"])]
    if not shown:
        have = list(compared["metric"].unique())
        raise RunError(f"the comparison has none of {list(metrics)}; choose from {have}")
    compared = compared[compared["metric"].isin(shown)]
    note = _fairness_lines(fairness(compared))
    heights = (3.0, NOTE_LINE * len(note))
    legend = 0.22 * (1 + 2 * compared["run"].nunique())
    fig, axes = figure(2, len(shown), sum(heights) + legend + 0.2, squeeze=False,
                       height_ratios=heights)  # fmt: skip
    panels = axes[0]
    for ax, metric in zip(panels, shown, strict=True):
        _recorded_panel(ax, compared[compared["metric"] == metric])
        ax.set(title=SERIES.get(metric, metric), xlabel="epoch")
        ax.sharex(panels[0])
        ax.margins(0.07, 0.14)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    named: dict[str, Any] = {}
    for ax in panels:
        lines, labels = ax.get_legend_handles_labels()
        named |= dict(zip(labels, lines, strict=True))
    fig.legend(named.values(), named, loc="outside upper left")
    _write_below(fig, axes[1], note)
    return fig


def _recorded_panel(ax: Axes, rows: pd.DataFrame) -> None:
    """One metric: the record's line, and every run's line and diamond."""
    _recorded_line(ax, rows[rows["run"] == rows["run"].iloc[0]])
    for i, (_, own) in enumerate(rows.groupby("run", sort=False)):
        _measured_line(ax, own, _colour(RUN_COLOURS[i % len(RUN_COLOURS)]), odd=i % 2 == 1)
    if rows["metric"].iloc[0] == "s_star":
        ax.axhline(1.0, color=FAINT, linestyle="--", linewidth=1.2, zorder=0)


def _recorded_line(ax: Axes, rows: pd.DataFrame) -> None:
    """The record's epochs with the best one ringed; a level where no epoch is known."""
    first, colour = rows.iloc[0], _colour(1)
    who = f"{first['experiment']}, {first['recorded_network']}"
    label = f"{who}: {_measuring(first, 'recorded')}"
    epochs = rows[rows["pairing"] == EPOCHS].dropna(subset=["recorded_epoch", "recorded"])
    final = rows[rows["pairing"] != EPOCHS].dropna(subset="recorded")
    if len(final) and epochs.empty:
        ax.axhline(final["recorded"].iloc[-1], linestyle=":", color=colour, label=label)
        return
    places = epochs["recorded_epoch"], epochs["recorded"]
    ax.plot(*places, "o-", markersize=4, color=colour, label=label)
    for epoch, score in final[["recorded_epoch", "recorded"]].tail(1).itertuples(index=False):
        # of the final pairs the best comes last
        ax.plot(epoch, score, "o", color=colour, markersize=10, markerfacecolor="none",
                markeredgewidth=1.6)  # fmt: skip
        _value(ax, epoch, score, colour, below=bool(score < epochs["recorded"].mean()))


def _measured_line(ax: Axes, rows: pd.DataFrame, colour: str, odd: bool) -> None:
    """A run's history, and a diamond for its final score; digits of odd runs on the other side."""
    rows = rows.dropna(subset=["measured_epoch", "measured"])
    history, final = (rows[(rows["pairing"] == EPOCHS) == epochs] for epochs in (True, False))
    who = "".join(rows["run"].head(1) + ", " + rows["measured_network"].head(1))
    if len(history):
        label = f"{who}: {_measuring(history.iloc[0], 'measured')}"
        places = history["measured_epoch"], history["measured"]
        ax.plot(*places, "o-", markersize=4, color=colour, label=label)
    if len(final):
        label = f"{who}, final: {_measuring(final.iloc[0], 'measured')}"
        epoch, score = final[["measured_epoch", "measured"]].iloc[0]
        ax.plot(epoch, score, "D", color=colour, label=label, markersize=9,
                markeredgecolor="white", zorder=4)  # fmt: skip
        under = len(history) > 0 and score < history["measured"].iloc[-1]
        _value(ax, epoch, score, colour, below=under != odd)


def _measuring(row: pd.Series, side: str) -> str:
    """Protocol and frames behind one side of a pair."""
    return f"{row[f'{side}_protocol']}, {row[f'{side}_set']}"


def _value(ax: Axes, x: float, y: float, colour: str, below: bool = False) -> None:
    """A score's digits over or under its mark, readable on top of lines."""
    digits = f"{y:.3f}" if abs(y) < 10 else f"{y:.1f}"
    ax.annotate(
        digits, (x, y), (0, -9 if below else 9), textcoords="offset points", ha="center",
        va="top" if below else "bottom", fontsize="small", fontweight="bold", color=colour,
        zorder=5, path_effects=[withStroke(linewidth=3, foreground="white")],
    )  # fmt: skip


def _fairness_lines(verdicts: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Lines of three columns: what is compared, the verdict, the reasons wrapped."""
    lines = []
    for run, rows in verdicts.groupby("run", sort=False):
        if verdicts["run"].nunique() > 1:
            lines.append((str(run), "", ""))
        for row in rows.itertuples():
            first, *rest = textwrap.wrap(str(row.because), NOTE_WIDTH)
            lines.append((str(row.comparison), str(row.verdict), first))
            lines += [("", "", more) for more in rest]
    return lines


def _write_below(fig: Figure, places: Any, lines: Sequence[tuple[str, str, str]]) -> None:
    """Lines of three columns in place of the last row of axes; the verdicts in colour."""
    grid = places[0].get_subplotspec().get_gridspec()
    for ax in places:
        ax.remove()
    ax = fig.add_subplot(grid[-1, :])
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(len(lines), 0))
    colours = {"fair": _colour(2), "alike": _colour(2), "not fair": _colour(3)}
    for i, (what, verdict, why) in enumerate(lines):
        look: dict[str, Any] = {"fontsize": "x-small", "va": "top", "in_layout": False}
        ax.text(0, i, what, fontweight="bold", **look)
        ax.text(0.18, i, verdict, color=colours.get(verdict, _colour(3)), fontweight="bold", **look)
        ax.text(0.25, i, why, **look)


# -- scores -----------------------------------------------------------------------------------


@styled
def score_bars(metrics: pd.DataFrame, metric: str = "abs_rel", label: str = "AbsRel") -> Figure:
    """One score of every model, a panel per protocol and sites.

    Args:
        metrics: metrics.csv of a run.
        metric: which score.
        label: its name for people.
    """
    rows = metrics[metrics["metric"] == metric]
    panels = list(rows.groupby(["protocol", "sites"], sort=False))
    fig, axes = figure(1, len(panels), 2.7, squeeze=False, sharex=True)
    colours = model_colours(list(dict.fromkeys(metrics["model"])))
    for ax, ((protocol, sites), part) in zip(axes[0], panels, strict=True):
        bars = ax.barh(
            [model_name(m) for m in part["model"]], part["value"], height=0.65,
            color=[colours[m] for m in part["model"]],
        )  # fmt: skip
        ax.bar_label(bars, fmt="%.3f", padding=3, fontsize="small", color=INK)
        ax.set(title=f"{protocol}, {sites}", xlabel=label)
        ax.invert_yaxis()
        ax.grid(False, axis="y")
        ax.margins(x=0.18)
    for ax in axes[0, 1:]:
        ax.set_yticklabels([])
    return fig


@styled
def bin_bars(bins: pd.DataFrame, score: str = "abs_rel", label: str = "AbsRel") -> Figure:
    """A score per depth bin of every model, a panel per protocol and sites.

    Args:
        bins: bins.csv of a run.
        score: "abs_rel" or "delta1".
        label: its name for people.
    """
    panels = list(bins.groupby(["protocol", "sites"], sort=False))
    fig, axes = figure(1, len(panels), 3.4, squeeze=False, sharey=True)
    models = list(dict.fromkeys(bins["model"]))
    for ax, ((protocol, sites), part) in zip(axes[0], panels, strict=True):
        _grouped_bars(ax, part, score, models)
        ax.set_title(f"{protocol}, {sites}")
    axes[0, 0].set_ylabel(label)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(models))
    return fig


def _grouped_bars(ax: Axes, part: pd.DataFrame, score: str, models: Sequence[str]) -> None:
    names = list(dict.fromkeys(part["bin"]))
    colours, width = model_colours(models), 0.8 / len(models)
    for i, model in enumerate(models):
        row = part[part["model"] == model].set_index("bin").reindex(names)
        places = np.arange(len(names)) + (i - (len(models) - 1) / 2) * width
        look = {"color": colours[model], "label": model_name(model)}
        bars = ax.bar(places, row[score], width * 0.94, **look)
        ax.bar_label(bars, fmt="%.2f", padding=1, fontsize="x-small", color=INK)
    counts = part.groupby("bin", sort=False)["count"].max()
    labels = [f"{name} m\n{_short(counts[name])}" for name in names]
    ax.set_xticks(range(len(names)), labels)
    ax.set_xlabel("true depth; number of pixels")
    ax.grid(False, axis="x")


@styled
def improvement_intervals(table: pd.DataFrame, wanted: float | None = None) -> Figure:
    """How much better than each baseline, with 95 % intervals.

    Args:
        table: baseline, protocol, sites, improvement, low, high (percent of the baseline's AbsRel).
        wanted: improvement asked for, drawn as a line.
    """
    fig, ax = figure(1, 1, 0.9 + 0.42 * len(table))
    places = np.arange(len(table))
    ax.axvline(0, color=FAINT, linewidth=1.2)
    if wanted is not None:
        ax.axvline(wanted, color=_colour(1), linestyle="--", linewidth=1.4)
        note = f" asked for: {wanted:g} %"
        ax.text(wanted, -0.62, note, color=_colour(1), fontsize="small", va="center")
    ax.hlines(places, table["low"], table["high"], color=_colour(0), linewidth=3, alpha=0.45)
    ax.plot(table["improvement"], places, "o", color=_colour(0), markersize=7)
    ends = table["high"].fillna(table["improvement"])
    for place, end, gain in zip(places, ends, table["improvement"], strict=True):
        ax.text(end, place, f"   {gain:.1f} %", va="center", fontsize="small")
    baselines = table["baseline"].map(model_name)
    labels = baselines + "\n" + table["protocol"] + ", " + table["sites"]
    ax.set_yticks(places, labels, fontsize="small")
    ax.set_title("AbsRel below the image-free baselines")
    ax.set_xlabel("improvement [%]; bars: 95 % bootstrap interval over frames")
    ax.set_ylim(len(table) - 0.5, -0.9)
    ax.grid(False, axis="y")
    ax.margins(x=0.12)
    return fig


@styled
def predicted_against_true(prediction: Any, truth: Any, title: str) -> Figure:
    """Two-dimensional histogram of predicted over true depth, with diagonal and the δ1 band.

    Args:
        prediction: metres, of any shape.
        truth: metres, of the same shape; only positive finite pairs count.
        title: names model and protocol.
    """
    p, g = np.asarray(prediction, float).ravel(), np.asarray(truth, float).ravel()
    keep = (p > 0) & (g > 0) & np.isfinite(p) & np.isfinite(g)
    p, g = p[keep], g[keep]
    low, high = _depth_limits(np.concatenate([p, g]))
    edges = np.geomspace(low, high, 90)
    fig, ax = figure(1, 1, 5.2, figsize=(6.6, 5.2))
    counts, _, _ = np.histogram2d(g, p, (edges, edges))
    mesh = ax.pcolormesh(
        edges, edges, np.where(counts > 0, counts, np.nan).T, cmap="mako_r",
        norm=LogNorm(1, max(2.0, counts.max())), rasterized=True,
    )  # fmt: skip
    line = np.array([low, high])
    ax.plot(line, line, color=INK, linewidth=1.2, label="prediction = truth")
    for factor in (DELTA, 1 / DELTA):
        label = f"factor {DELTA:g} (δ1)" if factor > 1 else None
        ax.plot(line, factor * line, color=INK, linewidth=1.0, linestyle=":", label=label)
    medians = _running_median(g, p, edges)
    ax.plot(*medians, color=_colour(1), linewidth=2.2, label="median prediction")
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal",
           title=title, xlabel="true depth [m]", ylabel="predicted depth [m]")  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        _metre_ticks(axis, low, high)
    ax.legend(loc="upper left")
    fig.colorbar(mesh, ax=ax, label="points", shrink=0.85)
    return fig


@styled
def sparse_against_dense(pairs: pd.DataFrame) -> Figure:
    """Answers at points against the dense map at the same places, and how they differ.

    Args:
        pairs: where (a name such as "lattice sites"), sparse, dense (both metres).
    """
    groups = list(pairs.groupby("where", sort=False))
    fig, axes = figure(1, 1 + len(groups), 3.3)
    limits = _depth_limits(pairs[["sparse", "dense"]].to_numpy().ravel())
    axes[0].plot(limits, limits, color=INK, linewidth=1.0)
    for i, (name, part) in enumerate(groups):
        look = {"markersize": 3, "alpha": 0.5, "color": _colour(i), "label": name}
        axes[0].plot(part["dense"], part["sparse"], ".", **look)
        difference = part["sparse"] / part["dense"] - 1
        _difference_histogram(axes[1 + i], difference, str(name), _colour(i))
    axes[0].set(xscale="log", yscale="log", title="the same places, asked twice",
                xlabel="dense path [m]", ylabel="sparse path [m]")  # fmt: skip
    for axis in (axes[0].xaxis, axes[0].yaxis):
        _metre_ticks(axis, *limits)
    axes[0].legend(markerscale=3)
    axes[1].set_ylabel("share of points [%]")
    return fig


def _difference_histogram(ax: Axes, relative: pd.Series, name: str, colour: Any) -> None:
    tiny = relative.abs().max() < 1e-4
    unit, shown = ("ppm", 1e6 * relative) if tiny else ("%", 100 * relative)
    limit = max(float(shown.abs().quantile(0.995)), 1e-3)
    weights = np.full(len(shown), 100 / len(shown))
    edges = np.linspace(-limit, limit, 41).tolist()
    ax.hist(shown.clip(-limit, limit), edges, weights=weights, color=colour, edgecolor="none")
    ax.set(title=name, xlabel=f"(sparse − dense) / dense [{unit}]")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.margins(y=0.3)
    size = shown.abs()
    ax.text(0.98, 0.96, f"median {size.median():.2g} {unit}\nlargest {size.max():.2g} {unit}",
            transform=ax.transAxes, ha="right", va="top", fontsize="small")  # fmt: skip


@styled
def accuracy_at_k(k_sweep: pd.DataFrame) -> Figure:
    """AbsRel of the same points asked in groups of K, and how far any answer moves.

    Where only some of the points were asked, no line leads to their score: a ring shows what the
    same points score in groups of 256.

    Args:
        k_sweep: k_sweep.csv of a run.
    """
    fig, (left, right) = figure(1, 2, 3.0)
    places = np.arange(len(k_sweep))
    few = (k_sweep["points"] < k_sweep["points"].max()).to_numpy()
    for part, line in ((few, "o"), (~few, "o-")):
        left.plot(places[part], k_sweep["abs_rel"][part], line, color=_colour(0))
    if few.any():
        ring = {"markersize": 13, "fillstyle": "none", "label": "same points in groups of 256"}
        same = k_sweep["abs_rel_same_points"][few]
        left.plot(places[few], same, "o", color=_colour(1), **ring)
        left.legend(loc="lower right")
    most = k_sweep["points"].max()
    for i, (value, count) in enumerate(zip(k_sweep["abs_rel"], k_sweep["points"], strict=True)):
        _above(left, i, value, f"{value:.4f}")
        if count < most:
            left.annotate(f"only {count} of\n{most} points", (i, 0), ha="center", fontsize="small")
    left.set(title="AbsRel", ylabel="AbsRel")
    left.set_ylim(0, 1.35 * k_sweep["abs_rel"].max())
    largest = k_sweep["max_abs_difference"]
    scale, unit = (1e3, "mm") if largest.max() >= 1e-3 else (1e6, "µm")
    shift = scale * largest
    bars = right.bar(places, shift, 0.55, color=_colour(2))
    right.bar_label(bars, fmt="%.3g", padding=2, fontsize="small")
    frames = k_sweep["frames"].max()
    right.set(
        title=f"largest change of an answer, {frames} frames",
        ylabel=f"{unit}, against groups of 256",
    )
    right.set_ylim(0, max(1.0, 1.25 * shift.max()))
    for ax in (left, right):
        ax.set_xticks(places, [f"{k:g}" for k in k_sweep["k"]])
        ax.set_xlabel("K, queries asked together")
        ax.set_xlim(-0.6, len(places) - 0.4)
        ax.grid(False, axis="x")
    return fig


@styled
def answer_times(times: pd.DataFrame) -> Figure:
    """Time to encode an image once and to answer K queries from it.

    Args:
        times: queries, milliseconds; the row with 0 queries is the encoding.
    """
    encode = float(times.loc[times["queries"] == 0, "milliseconds"].iloc[0])
    asked = times[times["queries"] > 0]
    fig, ax = figure(1, 1, 3.2, figsize=(7.2, 3.2))
    ax.axhline(encode, color=_colour(1), label=f"encode, once per image: {encode:.1f} ms")
    look = {"color": _colour(0), "label": "answer K queries"}
    ax.plot(asked["queries"], asked["milliseconds"], "o-", **look)
    for k, milliseconds in zip(asked["queries"], asked["milliseconds"], strict=True):
        _above(ax, k, milliseconds, f"{milliseconds:.{1 if milliseconds < 10 else 0}f} ms")
    ax.set(xscale="log", yscale="log", xlabel="K, queries", ylabel="milliseconds",
           title="encode once, ask often")  # fmt: skip
    ax.set_xticks(asked["queries"], [_thousands(k) for k in asked["queries"]])
    for axis in (ax.xaxis, ax.yaxis):
        axis.minorticks_off()
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.margins(0.09, 0.18)
    ax.legend(loc="best")
    return fig


@styled
def depth_histogram(depths: Mapping[str, Any]) -> Figure:
    """How often each depth occurs in sets of frames, beside NYU's labelled training frames.

    Args:
        depths: name -> metres of any shape, 0 where nothing was measured.
    """
    fig, ax = figure(1, 1, 2.9, figsize=(7.2, 2.9))
    edges = np.linspace(0, 10, len(NYU_DEPTH_SHARES) + 1)
    for i, (name, values) in enumerate(depths.items()):
        metres = np.asarray(values, float).ravel()
        metres = metres[metres > 0]
        shares = np.histogram(metres, edges)[0] * (100 / max(1, metres.size))
        label = f"{name}: median {np.median(metres):.2f} m" if metres.size else f"{name}: empty"
        ax.stairs(shares, edges, fill=True, alpha=0.2, color=_colour(i))
        ax.stairs(shares, edges, color=_colour(i), linewidth=2, label=label)
    ax.stairs(
        NYU_DEPTH_SHARES, edges, color=INK, linestyle="--", linewidth=1.4, label="NYU, labelled"
    )
    ax.set(title="depth of the pixels", xlim=(0, 10))
    ax.set(xlabel="depth [m], steps of 0.5 m", ylabel="share of pixels [%]")
    ax.legend()
    return fig


# -- pictures ---------------------------------------------------------------------------------


@styled
def contact_sheet(images: Sequence[Any], depths: Sequence[Any], columns: int = 6) -> Figure:
    """Frames as pictures, each above its depth.

    Args:
        images: uint8 [H, W, 3], RGB.
        depths: [H, W] metres, 0 where nothing was measured.
        columns: pictures in a row.
    """
    rows = math.ceil(len(images) / columns)
    shape = np.shape(depths[0])
    height = 2 * rows * (0.92 * WIDTH / columns) * shape[0] / shape[1] + 0.2
    fig, axes = figure(2 * rows, columns, height, squeeze=False, layout="compressed")
    _tight(fig)
    norm = _shared_depth(depths)
    for ax in axes.flat:
        ax.axis("off")
    for i, (image, depth) in enumerate(zip(images, depths, strict=True)):
        row, column = divmod(i, columns)
        axes[2 * row, column].imshow(np.asarray(image), interpolation="antialiased")
        _show_depth(axes[2 * row + 1, column], depth, norm)
    fig.colorbar(
        ScalarMappable(norm, _colours(DEPTH_COLOURS)), ax=axes, label="depth [m]", extend="both",
        shrink=0.8, aspect=30, pad=0.02,
    )  # fmt: skip
    return fig


@styled
def error_maps(
    images: Sequence[Any], truths: Sequence[Any], predictions: Sequence[Any], title: str = ""
) -> Figure:
    """A row per frame: image, truth, prediction and relative error, with shared colour scales.

    Args:
        images: uint8 [H, W, 3], RGB.
        truths: [H, W] metres, 0 where nothing was measured.
        predictions: [H, W] metres.
        title: names model and protocol.
    """
    count, shape = len(images), np.shape(truths[0])
    height = count * (WIDTH / 4 - 0.06) * shape[0] / shape[1]
    ratios = [height / count] * count + [0.1]
    fig, axes = figure(count + 1, 4, height + 1.15, squeeze=False, height_ratios=ratios)
    _tight(fig)
    norm, error_norm = _shared_depth([*truths, *predictions]), Normalize(0, ERROR_LIMIT)
    for row, image, truth, prediction in zip(axes[:-1], images, truths, predictions, strict=True):
        error = relative_error(prediction, truth)
        row[0].imshow(np.asarray(image), interpolation="antialiased")
        _show_depth(row[1], truth, norm)
        _show_depth(row[2], prediction, norm)
        row[3].imshow(error, cmap=_colours(ERROR_COLOURS), norm=error_norm, interpolation="nearest")
        _corner(row[3], f"AbsRel {np.nanmean(error):.3f}")
    for ax, name in zip(axes[0], ("image", "truth", "prediction", "|p − g| / g"), strict=True):
        ax.set_title(name)
    for ax in axes[:-1].flat:
        ax.axis("off")
    _scales_below(fig, axes[-1], norm, error_norm)
    if title:
        fig.suptitle(f"{title}\n", fontsize="medium", x=0.004, ha="left", linespacing=0.5)
    return fig


def _scales_below(fig: Figure, places: Any, norm: Normalize, error_norm: Normalize) -> None:
    """Colour bars in the last row of axes: depth under two columns, error under one."""
    for ax in places:
        ax.remove()
    grid = places[0].get_subplotspec().get_gridspec()
    depth_bar, error_bar = fig.add_subplot(grid[-1, 1:3]), fig.add_subplot(grid[-1, 3])
    scale = ScalarMappable(norm, _colours(DEPTH_COLOURS))
    fig.colorbar(scale, depth_bar, label="depth [m]", extend="both", orientation="horizontal")
    scale = ScalarMappable(error_norm, _colours(ERROR_COLOURS))
    fig.colorbar(scale, error_bar, label="relative error", extend="max", orientation="horizontal")


def relative_error(prediction: Any, truth: Any) -> np.ndarray:
    """|p - g| / g [H, W]; NaN where nothing was measured."""
    p, g = np.asarray(prediction, float), np.asarray(truth, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(g > 0, np.abs(p - g) / g, np.nan)


@styled
def query_picture(
    image: Any, points: Any, depth: Any, truth: Any = None, title: str = ""
) -> Figure:
    """The image with the asked points and their answers.

    Args:
        image: uint8 [H, W, 3], RGB.
        points: (u, v) [K, 2] in pixels.
        depth: [K] metres, the answers.
        truth: [K] metres in brackets behind them; 0 or None where unknown.
        title: above the picture.
    """
    picture = np.asarray(image)
    places, answers = np.asarray(points, float), np.asarray(depth, float)
    known = np.zeros_like(answers) if truth is None else np.asarray(truth, float)
    height = 6.8 * picture.shape[0] / picture.shape[1] + 0.3
    fig, ax = figure(1, 1, height, figsize=(7.6, height))
    ax.imshow(picture, interpolation="antialiased")
    norm = Normalize(0, max(1.0, float(np.max([answers, known]))))
    look = {"cmap": DEPTH_COLOURS, "norm": norm, "edgecolor": "white", "linewidth": 1.6}
    ax.scatter(places[:, 0], places[:, 1], s=70, c=answers, zorder=3, **look)
    for (u, v), metres, real in zip(places, answers, known, strict=True):
        text = f"{metres:.2f} m" + (f" ({real:.2f})" if real > 0 else "")
        _label_point(ax, (u, v), text, picture.shape)
    ax.axis("off")
    ax.set_title(title)
    scale = ScalarMappable(norm, DEPTH_COLOURS)
    fig.colorbar(scale, ax=ax, label="answered depth [m]", shrink=0.85, pad=0.01)
    return fig


def _label_point(ax: Axes, point: tuple[float, float], text: str, shape: tuple[int, ...]) -> None:
    """White text under a point of an image, or above it at the lower border."""
    across, down = point[0] / shape[1], point[1] / shape[0]
    side = "left" if across < 0.1 else "right" if across > 0.9 else "center"
    ax.annotate(
        text, point, (0, 9 if down > 0.92 else -9), textcoords="offset points", ha=side, zorder=4,
        va="bottom" if down > 0.92 else "top", fontsize="small", fontweight="bold", color="white",
        path_effects=[withStroke(linewidth=2.6, foreground="#101010")],
    )  # fmt: skip


@styled
def points_in_space(xyz: Any, colours: Any, title: str = "") -> Figure:
    """3-D points with their colours: obliquely, and from above.

    Args:
        xyz: [K, 3] metres in the camera frame (x right, y down, z forward).
        colours: [K, 3] uint8, RGB.
        title: above the picture.
    """
    x, y, z = np.asarray(xyz, float).T
    rgb = np.asarray(colours, float) / 255
    fig = plt.figure(figsize=(WIDTH, 4.6), layout="constrained")
    plt.close(fig)
    space: Any = fig.add_subplot(1, 2, 1, projection="3d")
    space.scatter(x, z, -y, c=rgb, s=5, depthshade=False, linewidth=0)
    space.set(xlabel="right [m]", ylabel="forward [m]", zlabel="up [m]", title=title)
    space.set_box_aspect([np.ptp(x) + 0.1, np.ptp(z) + 0.1, np.ptp(y) + 0.1], zoom=1.0)
    space.view_init(elev=22, azim=-68)
    for axis in (space.xaxis, space.yaxis, space.zaxis):
        axis.set_major_locator(MaxNLocator(4))
    above = fig.add_subplot(1, 2, 2)
    above.scatter(x, z, c=rgb, s=6, linewidth=0)
    above.plot(0, 0, marker="^", color=_colour(1), markersize=10)
    above.annotate("camera", (0, 0), (8, -3), textcoords="offset points", fontsize="small")
    above.set(aspect="equal", xlabel="right [m]", ylabel="forward [m]", title="from above")
    return fig


# -- pieces -----------------------------------------------------------------------------------


def _colour(index: int) -> str:
    return sns.color_palette("colorblind").as_hex()[index]


def _colours(name: str) -> Colormap:
    return mpl.colormaps[name].with_extremes(bad=UNMEASURED)


def _few_ticks(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.margins(x=0.04)


def _above(ax: Axes, x: float, y: float, text: str) -> None:
    """A small label over a point."""
    ax.annotate(text, (x, y), (0, 8), textcoords="offset points", ha="center", fontsize="small")


def _short(count: float) -> str:
    """A count in three digits: 950, 44 k, 96 M."""
    for unit, size in ((" M", 1e6), (" k", 1e3)):
        if count >= size:
            return f"{count / size:.0f}{unit}"
    return f"{count:.0f}"


def _thousands(count: float) -> str:
    return f"{count:,.0f}".replace(",", "\u2009")


def _depth_limits(metres: np.ndarray) -> tuple[float, float]:
    """Rounded ends of a logarithmic depth axis."""
    known = metres[np.isfinite(metres) & (metres > 0)]
    if not known.size:
        return 0.5, 10.0
    low, high = np.quantile(known, [0.0005, 0.9995])
    return float(max(0.05, 0.9 * low)), float(max(1.1 * high, 1.5 * low))


def _metre_ticks(axis: Any, low: float, high: float) -> None:
    steps = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 20, 50, 100)
    axis.set_ticks([step for step in steps if low <= step <= high])
    axis.set_major_formatter(ScalarFormatter())
    axis.minorticks_off()


def _running_median(
    g: np.ndarray, p: np.ndarray, edges: np.ndarray
) -> tuple[list[float], list[float]]:
    """Median prediction in each column of the histogram that holds at least 20 points."""
    column = np.digitize(g, edges) - 1
    groups = pd.Series(p).groupby(column).agg(["median", "size"])
    groups = groups[(groups["size"] >= 20) & (groups.index >= 0) & (groups.index < len(edges) - 1)]
    centres = np.sqrt(edges[:-1] * edges[1:])
    return [float(centres[i]) for i in groups.index], groups["median"].tolist()


def _shared_depth(depths: Sequence[Any]) -> Normalize:
    """The range that holds 99 % of all measured pixels, in whole half metres."""
    known = np.concatenate([np.asarray(d, float)[np.asarray(d) > 0].ravel() for d in depths])
    low, high = np.quantile(known, [0.005, 0.995]) if known.size else (0.0, 1.0)
    return Normalize(math.floor(2 * low) / 2, max(0.5, math.ceil(2 * high) / 2))


def _show_depth(ax: Axes, depth: Any, norm: Normalize) -> None:
    metres = np.asarray(depth, float)
    masked = np.where(metres > 0, metres, np.nan)
    ax.imshow(masked, cmap=_colours(DEPTH_COLOURS), norm=norm, interpolation="nearest")


def _tight(fig: Figure) -> None:
    engine: Any = fig.get_layout_engine()
    engine.set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)


def _corner(ax: Axes, text: str) -> None:
    ax.text(0.02, 0.97, text, transform=ax.transAxes, va="top", fontsize="small", color="white",
            path_effects=[withStroke(linewidth=2.4, foreground="#101010")])  # fmt: skip
