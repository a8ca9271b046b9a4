"""Figures of a network at work: where one query looks, and what its parts do.

They show the probes of `Scene.explain` and what `diagnostics.look_inside` measures, of any network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spdlib.errors import QueryError, RunError
from spdlib.inspection import CellAttention, Reads, Shares
from spdlib.scene import Scene
from spdlib.view.plots.style import WIDTH, figure, styled

ALARM = "#b3261e"
MARK = 170.0
"""Area of a read's dot in square points if it had all the weight."""

LEVELS = ("L1", "L2", "L3", "L4")
"""Levels that have the same colour in every figure."""

Panel = tuple[str, Callable[[Axes], None]]
"""Title, and what draws under it."""


@styled
def where_it_looks(image: Any, scene: Scene, points: Any, index: int = 0) -> Figure:
    """Where one query reads the image and by which weights, a panel per block or layer.

    Dots are bilinear reads, larger with more weight; heat is attention over
    all cells of a level, with the cells that the query is routed to outlined; bars are what the
    last block attends to.

    Args:
        image: uint8 [H, W, 3], RGB, which the scene was made of.
        scene: of one image.
        points: queries [K, 2] in pixels that are asked together.
        index: which of them is shown.

    Raises:
        QueryError: the network does not tell where it looks.
    """
    query = np.asarray(points, float)[index]
    picture = np.asarray(image)
    over = partial(_over, picture, query)
    panels: list[Panel] = []
    for probe in scene.explain(points):
        if isinstance(probe, Reads):
            panels.append(_reads(probe, index, over))
        elif isinstance(probe, CellAttention):
            panels.append(_heat(probe, index, scene, over))
        elif isinstance(probe, Shares):
            panels.append(_bars(probe, index))
    if not panels:
        raise QueryError(f"{type(scene.model).__name__} does not tell where it looks: no `probes`")
    height = WIDTH / len(panels) * picture.shape[0] / picture.shape[1] + 0.9
    fig, axes = figure(1, len(panels), max(2.6, height), squeeze=False)
    for ax, (title, draw) in zip(axes[0], panels, strict=True):
        draw(ax)
        ax.set_title(title, fontsize="small")
    together = len(np.asarray(points))
    depth = float(scene.depth_at(points, group=together).flatten()[index])
    fig.suptitle(
        f"query ({query[0]:.0f}, {query[1]:.0f}), among {together}: {depth:.2f} m",
        x=0.004, ha="left", fontsize="medium",
    )  # fmt: skip
    return fig


View = tuple[np.ndarray, np.ndarray]
"""Left top and right bottom corner in pixels."""


def _over(
    picture: np.ndarray,
    query: np.ndarray,
    draw: Callable[[Axes], None],
    view: View | None,
    ax: Axes,
) -> None:
    """Something drawn over the faded image, with the query's cross; the view is a part of it."""
    ax.imshow(picture.mean(-1), cmap="gray", alpha=0.6, interpolation="antialiased")
    whole = ax.get_xlim(), ax.get_ylim()
    draw(ax)
    ax.plot(*query, "+", color="black", markersize=13, markeredgewidth=3.4)
    ax.plot(*query, "+", color="white", markersize=12, markeredgewidth=1.4)
    if view is not None:
        (left, top), (right, bottom) = view
        whole = (left, right), (bottom, top)
    ax.set(xlim=whole[0], ylim=whole[1])
    ax.axis("off")


def _reads(probe: Reads, index: int, over: Any) -> Panel:
    """Bilinear reads, a colour a map; close up where they lie around the query."""
    places = probe.pixels[0, index].cpu().numpy()
    weights = probe.weights[0, index].cpu().numpy()
    levels = np.array(probe.levels)

    def draw(ax: Axes) -> None:
        for number, level in enumerate(dict.fromkeys(probe.levels)):
            own = levels == level
            colour = LEVELS.index(level) if level in LEVELS else number
            x, y = places[own].T
            area = MARK * np.sqrt(weights[own])  # in proportion to weights, most dots would vanish
            ax.scatter(x, y, area, color=_colour(colour), label=level, alpha=0.75, linewidth=0)
        _legend(ax)

    view = (places.min(0) - 8, places.max(0) + 8) if probe.close else None
    title = f"{probe.part}: {probe.about}" + (", close up" if probe.close else "")
    return title, partial(over, draw, view)


def _heat(probe: CellAttention, index: int, scene: Scene, over: Any) -> Panel:
    """Attention over all cells of a map, with the cells that the query is routed to framed."""
    weights = probe.weights[0, index].cpu().numpy()
    # the padded image, which the cells share evenly, in pixels of the given one
    height, width = (
        n * p / r for n, p, r in zip(scene.image_size, scene.padded, scene.resized, strict=True)
    )
    down, across = height / weights.shape[0], width / weights.shape[1]
    routed = [] if probe.routed is None else probe.routed[0, index].tolist()

    def draw(ax: Axes) -> None:
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        # from zero, so that attention which hardly differs looks alike
        ax.imshow(
            weights, cmap="rocket", alpha=0.55, extent=extent, interpolation="nearest", vmin=0
        )
        for cell in routed:
            row, column = divmod(cell, weights.shape[1])
            corner = (column * across - 0.5, row * down - 0.5)
            ax.add_patch(Rectangle(corner, across, down, fill=False, edgecolor="white", lw=1.1))

    framed = ", routed cells framed" if routed else ""
    title = (
        f"{probe.part}: {probe.level}{framed}\n{weights.min():.1%} to {weights.max():.1%} a cell"
    )
    return title, partial(over, draw, None)


def _bars(probe: Shares, index: int) -> Panel:
    """What a block attends to, by source."""
    sums = [float(share[0, index]) for share in probe.shares.values()]
    names = [f"{name} ({probe.tokens[name]})" for name in probe.shares]

    def draw(ax: Axes) -> None:
        bars = ax.barh(names, sums, color=_colour(0))
        ax.bar_label(bars, [f"{share:.0%}" for share in sums], padding=3, fontsize="small")
        ax.set(xlim=(0, 1.25 * max(sums)), xticks=[])
        ax.invert_yaxis()
        ax.spines["bottom"].set_visible(False)
        ax.grid(visible=False)

    return f"{probe.part}: attention by source (tokens)", draw


def _legend(ax: Axes) -> None:
    legend = ax.legend(loc="lower left", ncols=4, handletextpad=0, columnspacing=0.6, frameon=True)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set(sizes=[28])


def _colour(index: int) -> str:
    return sns.color_palette("colorblind").as_hex()[(0, 1, 2, 4)[index]]


# -- layer by layer ---------------------------------------------------------------------------


@styled
def layers_at_work(inside: pd.DataFrame) -> Figure:
    """Diagnostics that every layer has, a panel each; what alarms is red.

    Args:
        inside: of `diagnostics.look_inside`.

    Raises:
        RunError: the network has no such layers.
    """
    parts = inside[inside["part"].str.contains("layer")]
    names = list(dict.fromkeys(parts["diagnostic"]))
    if not names:
        raise RunError("no diagnostic of this network goes by layers; show its table instead")
    most = int(parts.groupby("diagnostic")["part"].count().max())
    fig, axes = figure(1, len(names), 0.8 + 0.22 * most, squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        rows = parts[parts["diagnostic"] == name]
        colours = [ALARM if verdict else _colour(0) for verdict in rows["verdict"]]
        bars = ax.barh(rows["part"], rows["value"], color=colours)
        ax.bar_label(bars, fmt="%.3g", padding=3, fontsize="small")
        ax.set(title=name, xlim=(0, 1.35 * max(rows["value"].max(), 1e-9)), xticks=[],
               ylim=(most - 0.5, -0.5))  # fmt: skip
        ax.spines["bottom"].set_visible(False)
        ax.grid(visible=False)
    return fig
