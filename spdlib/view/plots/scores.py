"""Figures of an evaluation: scores, depth bins, improvements, and how answers depend on K.

Where a table has several protocols or sites, its first ones decide: the eigen protocol, at points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from spdlib.view.plots.style import (
    BASELINE_GREYS,
    FAINT,
    INK,
    METRICS,
    above,
    colour,
    figure,
    model_colours,
    model_name,
    styled,
)

DECIDING = {"abs_rel": "lower is better", "rmse": "lower is better", "delta1": "higher is better"}
"""Scores that `score_bars` shows."""
ROUNDING = 1e-4
"""Metres below which a changed answer is rounding."""


@styled
def score_bars(metrics: pd.DataFrame) -> Figure:
    """AbsRel, RMSE and δ1 of every model in metrics.csv under the deciding protocol, at points.

    AbsRel of the network under the other protocols and at other sites is written below.
    """
    protocol, sites = metrics[["protocol", "sites"]].iloc[0]
    decides = (metrics["protocol"] == protocol) & (metrics["sites"] == sites)
    table = metrics[decides].pivot(index="model", columns="metric", values="value")
    table = table.loc[metrics["model"].unique()]
    fig, axes = figure(1, len(DECIDING), 2.6, sharey=True)
    colours = model_colours(list(table.index))
    for ax, (metric, better) in zip(axes, DECIDING.items(), strict=True):
        names = [model_name(model) for model in table.index]
        bars = ax.barh(names, table[metric], 0.65, color=[colours[m] for m in table.index])
        ax.bar_label(bars, fmt="%.3f", padding=3, color=INK)
        ax.set(title=METRICS[metric], xlabel=better)
        ax.grid(visible=False, axis="y")
        ax.margins(x=0.2)
    axes[0].invert_yaxis()
    notes = [f"{protocol}, {sites}, {metrics['frames'].max():,} test frames"]
    network = next(model for model in table.index if model not in BASELINE_GREYS)
    others = metrics[~decides & (metrics["model"] == network) & (metrics["metric"] == "abs_rel")]
    found = [f"{row.value:.3f} ({row.protocol}, {row.sites})" for row in others.itertuples()]
    if found:
        notes.append(f"AbsRel of {network} otherwise: {', '.join(found)}")
    fig.supxlabel("\n".join(notes), fontsize="small", color=FAINT)
    return fig


@styled
def bin_bars(bins: pd.DataFrame) -> Figure:
    """AbsRel and δ1 in bins.csv of every model under the deciding protocol, at points."""
    protocol, sites = bins[["protocol", "sites"]].iloc[0]
    part = bins[(bins["protocol"] == protocol) & (bins["sites"] == sites)]
    fig, axes = figure(1, 2, 3.3)
    models = list(part["model"].unique())
    for ax, score in zip(axes, ("abs_rel", "delta1"), strict=True):
        _grouped_bars(ax, part, score, models)
        ax.set(title=f"{METRICS[score]} by true depth", ylabel=DECIDING[score])
        ax.set_xlabel(f"true depth ({protocol}, {sites})")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(models))
    return fig


def _grouped_bars(ax: Axes, part: pd.DataFrame, score: str, models: Sequence[str]) -> None:
    names = list(part["bin"].unique())
    colours, width = model_colours(models), 0.8 / len(models)
    for i, model in enumerate(models):
        row = part[part["model"] == model].set_index("bin").reindex(names)
        places = np.arange(len(names)) + (i - (len(models) - 1) / 2) * width
        look = {"color": colours[model], "label": model_name(model)}
        bars = ax.bar(places, row[score], width * 0.94, **look)
        ax.bar_label(bars, fmt="%.2f", padding=1, fontsize="small", color=INK)
    counts = part.groupby("bin", sort=False)["count"].max()
    shares = counts / max(1, counts.sum())
    ranges = [name.strip("[)").replace(", ", "–") for name in names]
    labels = [f"{r} m\n{shares[n]:.0%} of pixels" for n, r in zip(names, ranges, strict=True)]
    ax.set_xticks(range(len(names)), labels)
    ax.grid(visible=False, axis="x")


@styled
def improvement_intervals(table: pd.DataFrame, wanted: float | None = None) -> Figure:
    """A table of `report.improvements`: by how many percent AbsRel is below each baseline's.

    `wanted` percent are drawn as a line; the verdict needs intervals to its right.
    """
    fig, ax = figure(1, 1, 0.9 + 0.42 * len(table))
    places = np.arange(len(table))
    ax.axvline(0, color=FAINT, linewidth=1.2)
    if wanted is not None:
        ax.axvline(wanted, color=colour(1), linestyle="--", linewidth=1.4)
        note = f" wanted: {wanted:g} %"
        ax.text(wanted, -0.62, note, color=colour(1), fontsize="small", va="center")
    ax.hlines(places, table["low"], table["high"], color=colour(0), linewidth=3, alpha=0.45)
    known = table["low"].notna()
    dot = {"color": colour(0), "markersize": 7}
    ax.plot(table["improvement"][known], places[known], "o", **dot)
    hollow = dot | {"fillstyle": "none", "markeredgewidth": 1.5}
    ax.plot(table["improvement"][~known], places[~known], "o", **hollow)
    ends = table["high"].fillna(table["improvement"])
    for place, end, gain in zip(places, ends, table["improvement"], strict=True):
        ax.text(end, place, f"   {gain:.1f} %", va="center", fontsize="small")
    baselines = table["baseline"].map(model_name)
    labels = baselines + "\n" + table["protocol"] + ", " + table["sites"]
    ax.set_yticks(places, labels, fontsize="small")
    ax.set(title="AbsRel below the image-free baselines", ylim=(len(table) - 0.5, -0.9))
    ax.set_xlabel("improvement [%]; bars: 95 % bootstrap interval over frames; hollow: no interval")
    ax.grid(visible=False, axis="y")
    ax.margins(x=0.12)
    return fig


@styled
def predicted_against_true(prediction: Any, truth: Any, title: str) -> Figure:
    """Two-dimensional histogram of predicted over true depth, with diagonal and the δ1 band.

    Both are metres of one shape, of which positive finite pairs count.
    """
    p, g = np.asarray(prediction, float).ravel(), np.asarray(truth, float).ravel()
    keep = (p > 0) & (g > 0) & np.isfinite(p) & np.isfinite(g)
    p, g = p[keep], g[keep]
    low, high = _depth_limits(np.concatenate([p, g]))
    edges = np.geomspace(low, high, 90)
    fig, ax = figure(1, 1, 5.2, figsize=(6.6, 5.2))
    counts, _, _ = np.histogram2d(g, p, (edges, edges))
    shown = np.where(counts > 0, counts, np.nan).T
    norm = LogNorm(1, max(2.0, counts.max()))
    mesh = ax.pcolormesh(edges, edges, shown, cmap="mako_r", norm=norm, rasterized=True)
    line = np.array([low, high])
    ax.plot(line, line, color=INK, linewidth=1.2, label="prediction = truth")
    ax.plot(line, 1.25 * line, ":", color=INK, linewidth=1.0, label="factor 1.25 (δ1)")
    ax.plot(line, line / 1.25, ":", color=INK, linewidth=1.0)
    columns = pd.DataFrame({"truth": g, "prediction": p}).groupby(np.digitize(g, edges))
    medians = columns.median()[columns.size() >= 20].to_numpy().T
    ax.plot(*medians, color=colour(1), linewidth=2.2, label="median prediction")
    _metre_axes(ax, low, high)
    ax.set(title=title, xlabel="true depth [m]", ylabel="predicted depth [m]", aspect="equal")
    ax.set(xlim=(low, high), ylim=(low, high))
    ax.legend(loc="upper left")
    fig.colorbar(mesh, ax=ax, label="points", shrink=0.85)
    return fig


@styled
def sparse_against_dense(pairs: pd.DataFrame) -> Figure:
    """`Evaluation.sparse_and_dense`: both paths at the same places, and how they differ.

    Its columns are where (a name such as "lattice sites"), sparse and dense (metres).
    """
    groups = list(pairs.groupby("where", sort=False))
    fig, axes = figure(1, 1 + len(groups), 3.3)
    limits = _depth_limits(pairs[["sparse", "dense"]].to_numpy().ravel())
    axes[0].plot(limits, limits, color=INK, linewidth=1.0)
    for i, (name, part) in enumerate(groups):
        look = {"markersize": 3, "alpha": 0.5, "color": colour(i), "label": name}
        axes[0].plot(part["dense"], part["sparse"], ".", **look)
        difference = part["sparse"] / part["dense"] - 1
        _difference_histogram(axes[1 + i], difference, str(name), colour(i))
    _metre_axes(axes[0], *limits)
    title = "both paths at the same places"
    axes[0].set(title=title, xlabel="dense path [m]", ylabel="sparse path [m]")
    axes[0].legend(markerscale=3)
    axes[1].set_ylabel("share of points [%]")
    return fig


def _difference_histogram(ax: Axes, relative: pd.Series, name: str, shade: str) -> None:
    tiny = relative.abs().max() < 1e-4
    unit, shown = ("ppm", 1e6 * relative) if tiny else ("%", 100 * relative)
    limit = max(float(shown.abs().quantile(0.995)), 1e-3)
    weights = np.full(len(shown), 100 / len(shown))
    edges = np.linspace(-limit, limit, 41).tolist()
    ax.hist(shown.clip(-limit, limit), edges, weights=weights, color=shade, edgecolor="none")
    ax.set(title=name, xlabel=f"(sparse − dense) / dense [{unit}]")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.margins(y=0.3)
    size = shown.abs()
    note = f"median {size.median():.2g} {unit}\nlargest {size.max():.2g} {unit}"
    ax.text(0.98, 0.96, note, transform=ax.transAxes, ha="right", va="top", fontsize="small")


@styled
def accuracy_at_k(k_sweep: pd.DataFrame) -> Figure:
    """How AbsRel and single answers change with K, the number of queries answered together.

    Each K of k_sweep.csv is compared with groups of 256 at the same points. Where no answer changes
    by more than rounding, the figure says so.
    """
    fig, (left, right) = figure(1, 2, 2.9)
    places = np.arange(len(k_sweep))
    change = 100 * (k_sweep["abs_rel"] / k_sweep["abs_rel_same_points"] - 1)
    largest = k_sweep["max_abs_difference"]
    left.axhline(0, color=FAINT, linewidth=1.2)
    left.plot(places, change, "o", color=colour(0), markersize=8)
    for place, percent in zip(places, change, strict=True):
        above(left, float(place), percent, f"{percent + 0:+.1f} %" if abs(percent) >= 0.05 else "0")
    limit = max(1.0, 1.4 * change.abs().max())
    left.set(title="AbsRel against K = 256, same points", ylabel="change [%]")
    left.set_ylim(-limit, limit)
    if largest.max() < ROUNDING:
        _say_independent(right, k_sweep)
    else:
        bars = right.bar(places, largest, 0.55, color=colour(2))
        labels = [f"{metres:.2f}" if metres else "reference" for metres in largest]
        right.bar_label(bars, labels, padding=2, fontsize="small")
        right.set(title="the answer that changes most, against K = 256", ylabel="change [m]")
        right.margins(y=0.15)
    ticks = [f"{row.k:,}\n{row.points:,} points" for row in k_sweep.itertuples()]
    for ax in (left, right):
        ax.set_xticks(places, ticks)
        ax.set(xlabel="K, queries answered together", xlim=(-0.6, len(places) - 0.4))
        ax.grid(visible=False, axis="x")
    return fig


def _say_independent(ax: Axes, k_sweep: pd.DataFrame) -> None:
    """Words in place of bars, which would show nothing but rounding."""
    most = 1e6 * k_sweep["max_abs_difference"].max()
    most_points = k_sweep.iloc[int(k_sweep["points"].argmax())]
    text = (
        "The queries are independent:\nevery answer is the same at every K.\n\n"
        f"Largest change: {most:.2g} µm, which is rounding.\n"
        f"AbsRel {most_points['abs_rel']:.3f} at {most_points['points']:,.0f} points of each of "
        f"{most_points['frames']:.0f} frames."
    )
    ax.text(0.02, 0.5, text, transform=ax.transAxes, va="center", linespacing=1.5)
    ax.axis("off")


@styled
def answer_times(times: pd.DataFrame) -> Figure:
    """Times of `questions.time_answers`: of an image, of K queries, of a whole map.

    Where the lines cross is marked: with more queries the whole map is the cheaper answer.
    """
    levels = times[times["operation"] != "queries"].set_index("operation")["milliseconds"]
    k, spent = times.loc[times["operation"] == "queries", ["queries", "milliseconds"]].to_numpy().T
    fig, ax = figure(1, 1, 3.6, figsize=(8.2, 3.6))
    ax.plot(k, spent, "o-", color=colour(0))
    for count, milliseconds in zip(k, spent, strict=True):
        above(ax, count, milliseconds, f"{milliseconds:.{1 if milliseconds < 10 else 0}f}")
    ax.set(title="time to answer K queries", xlabel="K, queries", ylabel="milliseconds")
    ax.set(xscale="log", yscale="log", ylim=(0.6 * times["milliseconds"].min(), None))
    ax.set_xticks(k, [f"{count:,.0f}" for count in k])
    for axis in (ax.xaxis, ax.yaxis):
        axis.minorticks_off()
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.margins(0.09, 0.18)
    for i, (name, level) in enumerate(levels.items()):
        ax.axhline(level, color=colour(1 + i), linestyle="--", linewidth=1.6)
        upper = level == levels.max()
        look: dict[str, Any] = {"color": colour(1 + i), "va": "bottom" if upper else "top"}
        look |= {"textcoords": "offset points", "xycoords": ("axes fraction", "data")}
        text = f"{name}: {level:.{1 if level < 10 else 0}f} ms"
        ax.annotate(text, (0, level), (6, 3 if upper else -3), **look)
    _mark_break_even(ax, k, spent, levels.iloc[-1])
    return fig


def _mark_break_even(ax: Axes, k: np.ndarray, spent: np.ndarray, whole: float) -> None:
    """Where the answers to K queries begin to cost as much as a whole map."""
    if not spent[0] < whole <= spent[-1]:
        return
    crossing = float(np.exp(np.interp(np.log(whole), np.log(spent), np.log(k))))
    ax.plot(crossing, whole, "o", color=INK, markersize=9, zorder=4)
    digits = 10 ** (math.floor(math.log10(crossing)) - 1)
    text = f"about {round(crossing / digits) * digits:,.0f} queries\ncost as much as a whole map"
    side = -1 if np.log(crossing) > np.log(k).mean() else 1  # where there is room
    look: dict[str, Any] = {"ha": "right", "va": "bottom"} if side < 0 else {"va": "top"}
    look |= {"textcoords": "offset points", "fontweight": "bold"}
    ax.annotate(text, (crossing, whole), (8 * side, -8 * side), **look)


def _depth_limits(metres: np.ndarray) -> tuple[float, float]:
    """Rounded ends of a logarithmic depth axis."""
    known = metres[np.isfinite(metres) & (metres > 0)]
    if not known.size:
        return 0.5, 10.0
    low, high = np.quantile(known, [0.0005, 0.9995])
    return float(max(0.05, 0.9 * low)), float(max(1.1 * high, 1.5 * low))


def _metre_axes(ax: Axes, low: float, high: float) -> None:
    """Two logarithmic axes of depth with round ticks."""
    steps = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 20, 50, 100)
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([step for step in steps if low <= step <= high])
        axis.set_major_formatter(ScalarFormatter())
        axis.minorticks_off()
