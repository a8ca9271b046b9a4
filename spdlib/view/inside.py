"""Figures of a network at work: where one query looks, and what its parts do.

They show the probes of `Scene.explain` and what `diagnostics.look_inside` measures, of any network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spdlib.errors import QueryError, RunError
from spdlib.inspection import CellAttention, Probe, Reads, Shares
from spdlib.scene import Scene
from spdlib.view.plots.style import WIDTH, colour, figure, styled

ALARM = "#b3261e"
MARK = 170.0
"""Area of a read's dot in square points if it had all the weight."""
LEVELS = {"L1": 0, "L2": 1, "L3": 2, "L4": 4}
"""Colours of levels, the same in every figure."""


class Query(NamedTuple):
    """The query that is shown: its number and its pixel, in which picture and scene."""

    number: int
    pixel: np.ndarray
    picture: np.ndarray
    scene: Scene

    @contextmanager
    def marked(self, ax: Axes) -> Iterator[None]:
        """What is drawn meanwhile lies over the faded picture and under the query's cross."""
        ax.imshow(self.picture.mean(-1), cmap="gray", alpha=0.6, interpolation="antialiased")
        limits: Any = {"xlim": ax.get_xlim(), "ylim": ax.get_ylim()}
        yield
        ax.plot(*self.pixel, "+", color="black", markersize=13, markeredgewidth=3.4)
        ax.plot(*self.pixel, "+", color="white", markersize=12, markeredgewidth=1.4)
        ax.set(**limits)
        ax.axis("off")


@styled
def where_it_looks(image: Any, scene: Scene, points: Any, index: int = 0) -> Figure:
    """Where one query reads the image and by which weights, a panel per block or layer.

    Dots are bilinear reads, larger with more weight; heat is attention over all cells of a level,
    with the cells that the query is routed to outlined; bars are what the last block attends to.

    The scene is of one image, uint8 [H, W, 3] RGB; its queries [K, 2], in pixels, are answered
    together, and the one of this index is shown.

    QueryError: the network does not tell where it looks.
    """
    query = Query(index, np.asarray(points, float)[index], np.asarray(image), scene)
    probes = [probe for probe in scene.explain(points) if type(probe) in PANELS]
    if not probes:
        raise QueryError(f"{type(scene.model).__name__} does not tell where it looks: no `probes`")
    height = WIDTH / len(probes) * query.picture.shape[0] / query.picture.shape[1] + 0.9
    fig, axes = figure(1, len(probes), max(2.6, height), squeeze=False)
    for ax, probe in zip(axes[0], probes, strict=True):
        ax.set_title(PANELS[type(probe)](ax, probe, query), fontsize="small")
    (u, v), together = query.pixel, len(points)
    depth = float(scene.depth_at(points, group=together).flatten()[index])
    said = f"query ({u:.0f}, {v:.0f}), among {together}: {depth:.2f} m"
    fig.suptitle(said, x=0.004, ha="left", fontsize="medium")
    return fig


def _reads(ax: Axes, probe: Reads, query: Query) -> str:
    """Bilinear reads, a colour a map; close up where they lie around the query."""
    places = probe.pixels[0, query.number].cpu().numpy()
    weights = probe.weights[0, query.number].cpu().numpy()
    levels = np.array(probe.levels)
    with query.marked(ax):
        for number, level in enumerate(dict.fromkeys(probe.levels)):
            own = levels == level
            x, y = places[own].T
            area = MARK * np.sqrt(weights[own])  # in proportion to weights, most dots would vanish
            shade = colour(LEVELS.get(level, number))
            ax.scatter(x, y, area, color=shade, label=level, alpha=0.75, linewidth=0)
        legend = ax.legend(
            loc="lower left", ncols=4, handletextpad=0, columnspacing=0.6, frameon=True
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set(sizes=[28])
    if not probe.close:
        return f"{probe.part}: {probe.about}"
    (left, top), (right, bottom) = places.min(0) - 8, places.max(0) + 8
    ax.set(xlim=(left, right), ylim=(bottom, top))
    return f"{probe.part}: {probe.about}, close up"


def _heat(ax: Axes, probe: CellAttention, query: Query) -> str:
    """Attention over all cells of a map, with the cells that the query is routed to framed."""
    weights, scene = probe.weights[0, query.number].cpu().numpy(), query.scene
    # the padded image, which the cells share evenly, in pixels of the given one
    height, width = (
        n * p / r for n, p, r in zip(scene.image_size, scene.padded, scene.resized, strict=True)
    )
    down, across = height / weights.shape[0], width / weights.shape[1]
    routed = [] if probe.routed is None else probe.routed[0, query.number].tolist()
    with query.marked(ax):
        look: dict[str, Any] = {"cmap": "rocket", "alpha": 0.55, "interpolation": "nearest"}
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        # from zero, so that attention which hardly differs looks alike
        ax.imshow(weights, extent=extent, vmin=0, **look)
        for cell in routed:
            row, column = divmod(cell, weights.shape[1])
            corner = (column * across - 0.5, row * down - 0.5)
            ax.add_patch(Rectangle(corner, across, down, fill=False, edgecolor="white", lw=1.1))
    framed = ", routed cells framed" if routed else ""
    reach = f"{weights.min():.1%} to {weights.max():.1%} a cell"
    return f"{probe.part}: {probe.level}{framed}\n{reach}"


def _bars(ax: Axes, probe: Shares, query: Query) -> str:
    """What a block attends to, by source."""
    sums = [float(share[0, query.number]) for share in probe.shares.values()]
    names = [f"{name} ({probe.tokens[name]})" for name in probe.shares]
    bars = ax.barh(names, sums, color=colour(0))
    ax.bar_label(bars, [f"{share:.0%}" for share in sums], padding=3, fontsize="small")
    ax.set(xlim=(0, 1.25 * max(sums)), xticks=[])
    ax.invert_yaxis()
    ax.spines["bottom"].set_visible(False)
    ax.grid(visible=False)
    return f"{probe.part}: attention by source (tokens)"


PANELS: Mapping[type[Probe], Callable[[Axes, Any, Query], str]] = {
    Reads: _reads,
    CellAttention: _heat,
    Shares: _bars,
}
"""What draws a probe and returns the panel's title; other probes are not drawn."""


@styled
def layers_at_work(inside: pd.DataFrame) -> Figure:
    """Diagnostics of inside.csv that every layer has, a panel each; what alarms is red.

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
        colours = [ALARM if verdict else colour(0) for verdict in rows["verdict"]]
        bars = ax.barh(rows["part"], rows["value"], color=colours)
        ax.bar_label(bars, fmt="%.3g", padding=3, fontsize="small")
        ax.set(title=name, xlim=(0, 1.35 * max(rows["value"].max(), 1e-9)), xticks=[])
        ax.set_ylim(most - 0.5, -0.5)
        ax.spines["bottom"].set_visible(False)
        ax.grid(visible=False)
    return fig
