"""One style for every figure, and the pieces that figures share.

Networks have colours that colour-blind readers tell apart, image-free baselines are grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator

WIDTH = 10.5
"""Inches that fill a notebook's column."""
INK, FAINT = "#2b2b2b", "#8c8c8c"
BASELINE_GREYS = {"constant": "#b8b8b8", "pixel_map": "#828282"}
NAMES = {"constant": "best constant", "pixel_map": "best per-pixel map"}
"""How figures call the image-free baselines."""
METRICS = {
    "abs_rel": "AbsRel",
    "rmse": "RMSE [m]",
    "delta1": "δ1",
    "silog": "SILog",
    "s_star": "s*",
    "scaled_abs_rel": "AbsRel × s*",
}
"""Scores of an evaluation and their names for people."""
SCORES = {
    **METRICS,
    "train_loss": "training loss",
    "dense_abs_rel": "AbsRel, dense path",
    "silog": "SILog (factor ½)",
    "scaled_abs_rel": "AbsRel after scaling by s*",
    "abs_rel_0_2m": "AbsRel, 0–2 m",
    "abs_rel_2_5m": "AbsRel, 2–5 m",
    "abs_rel_5_10m": "AbsRel, 5–10 m",
    "pred_min": "smallest prediction [m]",
    "pred_max": "largest prediction [m]",
    "gt_min": "smallest truth [m]",
    "gt_max": "largest truth [m]",
    "scale_gap": "scale gap [%]",
    "log_std": "deviation of ln p",
    "unique_l3": "cells of L3 routed to",
}
"""Scores of the log, likewise."""
AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Where a label may stand beside its place, the best first: (right, up)."""
AFTER = tuple((1, side * step / 4) for step in range(13) for side in (-1, 1))
"""Where the label of a line's end may stand: right of it, higher or lower."""

STYLE: Any = {
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
"""The matplotlib settings of every figure here; `plt.rcParams.update` takes them for others."""
styled = mpl.rc_context(STYLE)
"""Decorates functions that draw under `STYLE`; the caller's settings stay."""


def figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure as wide as a notebook, `height` inches high, and its axes; `options` of `subplots`.

    pyplot forgets it, so that it shows only once.
    """
    options = {"figsize": (WIDTH, height), "layout": "constrained", **options}
    fig, axes = plt.subplots(rows, columns, **options)
    plt.close(fig)
    return fig, axes


def colour(index: int) -> str:
    """A colour of the palette."""
    return sns.color_palette("colorblind").as_hex()[index]


def colour_map(name: str) -> Colormap:
    """A colour map that shows NaN in grey."""
    return mpl.colormaps[name].with_extremes(bad="#dcdcdc")


def model_colours(models: Sequence[str]) -> dict[str, Any]:
    """One colour a model: greys for image-free baselines, the palette in order for the rest."""
    palette = iter(sns.color_palette("colorblind", max(1, len(models))))
    return {name: BASELINE_GREYS.get(name) or next(palette) for name in models}


def model_name(model: str) -> str:
    """A model's name for people."""
    return NAMES.get(model, model)


def few_ticks(ax: Axes) -> None:
    """Whole numbers below, such as epochs."""
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.margins(x=0.04)


def above(ax: Axes, x: float, y: float, text: str) -> None:
    """A small label over a point."""
    ax.annotate(text, (x, y), (0, 8), textcoords="offset points", ha="center", fontsize="small")


def outline(colour: str = "white", width: float = 3) -> list[Any]:
    """A rim that keeps text readable on pictures and lines."""
    return [withStroke(linewidth=width, foreground=colour)]


def label_points(
    ax: Axes,
    places: Any,
    labels: Sequence[str],
    colours: Sequence[Any],
    obstacles: Any = (),
    sides: Sequence[tuple[float, float]] = AROUND,
    distances: Sequence[float] = (7, 16, 28),
    **look: Any,
) -> None:
    """Write a label beside each place so that it covers no other label, place or obstacle.

    Places [N, 2] and obstacles [..., 2] are in the units of the axes, whose limits are final. Of
    the sides (`AROUND` or `AFTER`) and distances, in points, the first that is free is taken.
    `look` are settings of `Axes.annotate` for all labels; they are bold.
    """
    figure: Any = ax.get_figure(root=True)
    figure.draw_without_rendering()  # fixes the layout, and with it all sizes
    places = np.asarray(places, float).reshape(-1, 2)
    others = np.asarray(obstacles, float).reshape(-1, 2)
    marks, lines = ax.transData.transform(places), ax.transData.transform(others)
    points, taken = figure.dpi / 72, np.empty((0, 4))
    look |= {"textcoords": "offset points", "fontweight": "bold"}
    for place, mark, text, colour in zip(places, marks, labels, colours, strict=True):
        label = ax.annotate(text, place, (0, 0), color=colour, **look)
        label.set_in_layout(False)
        half = np.array(label.get_window_extent().size) / 2
        steps = [np.array(side) * (half + points * far) for far in distances for side in sides]
        centres = mark + np.stack(steps)
        boxes = np.concatenate([centres - half, centres + half], axis=1)
        cost = _covered(boxes, taken, marks, lines, np.array(ax.bbox.extents))
        best = int(np.argmin(cost + 0.05 * np.arange(len(boxes))))
        taken = np.concatenate([taken, boxes[best : best + 1]])
        label.set(ha="center", va="center", position=steps[best] / points)


def along(x: Any, y: Any, count: int = 200) -> np.ndarray:
    """Places [count, 2] along a line, which labels leave free."""
    steps = np.linspace(0, len(x) - 1, count)
    return np.stack([np.interp(steps, np.arange(len(x)), values) for values in (x, y)], axis=1)


def _covered(
    boxes: np.ndarray, taken: np.ndarray, marks: np.ndarray, lines: np.ndarray, border: np.ndarray
) -> np.ndarray:
    """How bad each box [N, 4] is: it covers labels, marks or lines, or the border cuts it."""
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)

    def shared(other: np.ndarray) -> np.ndarray:
        low = np.maximum(boxes[:, None, :2], other[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], other[None, :, 2:])
        return np.prod((high - low).clip(0), axis=2) / area[:, None]

    def inside(places: np.ndarray) -> np.ndarray:
        found = (places > boxes[:, None, :2] - 2) & (places < boxes[:, None, 2:] + 2)
        return found.all(2).sum(1)

    cut = 1 - shared(border[None])[:, 0]
    return 10 * shared(taken).sum(1) + inside(marks) + 0.1 * inside(lines) + 20 * cut
