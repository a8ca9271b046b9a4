"""Pictures: images with query points, depth and error maps, points in space, depth histograms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from spdlib.view.plots.style import (
    INK,
    WIDTH,
    colour,
    colour_map,
    figure,
    label_points,
    outline,
    styled,
)

DEPTH_COLOURS, ERROR_COLOURS = "viridis_r", "YlOrRd"
TIGHT: Any = {"w_pad": 0.02, "h_pad": 0.02, "wspace": 0.01, "hspace": 0.01}
NYU_DEPTH_SHARES = np.fromstring(
    "0 2.9 10.7 16.6 18.1 14.7 11.3 8.1 5.8 3.9 2.4 1.8 1.2 0.8 0.5 0.4 0.3 0.2 0.2 0.2", sep=" "
)
"""Percent of the in-painted pixels of NYU's 795 labelled training frames, in steps of 0.5 m."""


@styled
def points_picture(
    image: Any, points: Any, depths: Any, truth: Any = None, title: str = ""
) -> Figure:
    """An image, uint8 [H, W, 3] RGB, with points [K, 2] in pixels and their depths [K] in metres.

    Near points are bright. In brackets stands the truth [K] in metres; 0 or None where unknown.
    """
    picture = np.asarray(image)
    places, answers = np.asarray(points, float), np.asarray(depths, float)
    known = np.zeros_like(answers) if truth is None else np.asarray(truth, float)
    size = (9.0, 9.0 * picture.shape[0] / picture.shape[1])
    fig, ax = figure(1, 1, 0, figsize=size, layout=None)
    ax.set_position((0, 0, 1, 1))
    ax.imshow(picture, interpolation="bicubic", aspect="auto")
    ax.axis("off")
    look: Any = {"cmap": DEPTH_COLOURS, "edgecolor": "white", "linewidth": 2, "zorder": 3}
    ax.scatter(*places.T, s=170, c=answers, **look)
    labels = [
        f"{metres:.2f} m" + (f" ({real:.2f})" if real > 0 else "")
        for metres, real in zip(answers, known, strict=True)
    ]
    words: Any = {"fontsize": 17, "zorder": 4, "path_effects": outline("#101010", 3.5)}
    label_points(ax, places, labels, ["white"] * len(labels), distances=(11, 20, 32), **words)
    if title:
        ax.set_title(title, fontsize=13)
    return fig


@styled
def contact_sheet(images: Sequence[Any], depths: Sequence[Any], columns: int = 6) -> Figure:
    """Images, uint8 [H, W, 3] RGB, each above its depth, [H, W] metres, 0 where not measured."""
    rows = math.ceil(len(images) / columns)
    shape = np.shape(depths[0])
    height = 2 * rows * (0.92 * WIDTH / columns) * shape[0] / shape[1] + 0.2
    layout = ConstrainedLayoutEngine(compress=True, **TIGHT)
    fig, axes = figure(2 * rows, columns, height, squeeze=False, layout=layout)
    norm = _shared_depth(depths)
    for ax in axes.flat:
        ax.axis("off")
    for i, (image, depth) in enumerate(zip(images, depths, strict=True)):
        row, column = divmod(i, columns)
        axes[2 * row, column].imshow(np.asarray(image), interpolation="antialiased")
        shown = _show_depth(axes[2 * row + 1, column], depth, norm)
    bar: dict[str, Any] = {"extend": "both", "shrink": 0.8, "aspect": 30, "pad": 0.02}
    fig.colorbar(shown, ax=axes, label="depth [m]", **bar)
    return fig


@styled
def error_maps(
    images: Sequence[Any], truths: Sequence[Any], predictions: Sequence[Any], title: str = ""
) -> Figure:
    """A row per frame: image, truth, prediction and relative error, with shared colour scales.

    Images are uint8 [H, W, 3] RGB; depths are [H, W] metres, true ones 0 where not measured.
    """
    count, shape = len(images), np.shape(truths[0])
    height = count * (WIDTH / 4 - 0.06) * shape[0] / shape[1]
    grid: Any = {"height_ratios": [height / count] * count + [0.1], "squeeze": False}
    layout = ConstrainedLayoutEngine(**TIGHT)
    fig, axes = figure(count + 1, 4, height + 1.15, layout=layout, **grid)
    errors = [relative_error(p, g) for p, g in zip(predictions, truths, strict=True)]
    norm, error_norm = _shared_depth([*truths, *predictions]), _shared_error(errors)
    for row, *maps in zip(axes[:-1], images, truths, predictions, errors, strict=True):
        row[0].imshow(np.asarray(maps[0]), interpolation="antialiased")
        _show_depth(row[1], maps[1], norm)
        depth = _show_depth(row[2], maps[2], norm)
        look = {"cmap": colour_map(ERROR_COLOURS), "norm": error_norm}
        error = row[3].imshow(maps[3], interpolation="nearest", **look)
        corner: dict[str, Any] = {"transform": row[3].transAxes, "va": "top", "color": "white"}
        corner |= {"fontweight": "bold", "path_effects": outline("#101010")}
        row[3].text(0.02, 0.97, f"AbsRel {np.nanmean(maps[3]):.3f}", **corner)
    names = ("image", "truth", "prediction", "relative error")
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name)
    for ax in axes[:-1].flat:
        ax.axis("off")
    for ax in axes[-1]:
        ax.remove()
    # colour bars in the last row: depth under two columns, error under one
    cells = axes[-1, 0].get_subplotspec().get_gridspec()
    bar: dict[str, Any] = {"orientation": "horizontal"}
    fig.colorbar(depth, fig.add_subplot(cells[-1, 1:3]), label="depth [m]", extend="both", **bar)
    label = "|prediction − truth| / truth"
    fig.colorbar(error, fig.add_subplot(cells[-1, 3]), label=label, extend="max", **bar)
    if title:
        fig.suptitle(f"{title}\n", fontsize="medium", x=0.004, ha="left", linespacing=0.5)
    return fig


def relative_error(prediction: Any, truth: Any) -> np.ndarray:
    """|prediction - truth| / truth [H, W]; NaN where nothing was measured."""
    p, g = np.asarray(prediction, float), np.asarray(truth, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(g > 0, np.abs(p - g) / g, np.nan)


@styled
def points_in_space(xyz: Any, colours: Any, title: str = "") -> Figure:
    """3-D points with their colours, uint8 [K, 3] RGB: obliquely, and from above.

    `xyz` are [K, 3] metres in the camera frame (x right, y down, z forward).
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
    above.plot(0, 0, marker="^", color=colour(1), markersize=10)
    above.annotate("camera", (0, 0), (8, -3), textcoords="offset points", fontsize="small")
    above.set(aspect="equal", xlabel="right [m]", ylabel="forward [m]", title="from above")
    return fig


@styled
def depth_histogram(depths: Mapping[str, Any]) -> Figure:
    """How often each depth occurs in sets of frames, beside NYU's labelled training frames.

    `depths` are metres of any shape by the set's name, 0 where nothing was measured.
    """
    fig, ax = figure(1, 1, 2.9, figsize=(7.2, 2.9))
    edges = np.linspace(0, 10, len(NYU_DEPTH_SHARES) + 1)
    for i, (name, values) in enumerate(depths.items()):
        metres = np.asarray(values, float).ravel()
        metres = metres[metres > 0]
        shares = np.histogram(metres, edges)[0] * (100 / max(1, metres.size))
        label = f"{name}: median {np.median(metres):.2f} m" if metres.size else f"{name}: empty"
        ax.stairs(shares, edges, fill=True, alpha=0.2, color=colour(i))
        ax.stairs(shares, edges, color=colour(i), linewidth=2, label=label)
    look = {"color": INK, "linestyle": "--", "linewidth": 1.4}
    ax.stairs(NYU_DEPTH_SHARES, edges, label="NYU, labelled", **look)
    ax.set(title="depth of the pixels", xlim=(0, 10))
    ax.set(xlabel="depth [m], steps of 0.5 m", ylabel="share of pixels [%]")
    ax.legend()
    return fig


def _shared_depth(depths: Sequence[Any]) -> Normalize:
    """The range that holds 99 % of all measured pixels, in whole half metres."""
    known = np.concatenate([np.asarray(d, float)[np.asarray(d) > 0].ravel() for d in depths])
    low, high = np.quantile(known, [0.005, 0.995]) if known.size else (0.0, 1.0)
    return Normalize(math.floor(2 * low) / 2, max(0.5, math.ceil(2 * high) / 2))


def _shared_error(errors: Sequence[np.ndarray]) -> Normalize:
    """From 0 to where 95 % of the errors end, in whole tenths, 1 at most."""
    known = np.concatenate([error[np.isfinite(error)] for error in errors])
    end = np.quantile(known, 0.95) if known.size else 0.0
    return Normalize(0, min(1.0, max(0.1, math.ceil(round(10 * end, 3)) / 10)))


def _show_depth(ax: Axes, depth: Any, norm: Normalize) -> AxesImage:
    metres = np.asarray(depth, float)
    masked = np.where(metres > 0, metres, np.nan)
    return ax.imshow(masked, cmap=colour_map(DEPTH_COLOURS), norm=norm, interpolation="nearest")
