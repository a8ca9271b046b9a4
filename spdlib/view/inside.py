"""Figures of a network at work: where one query looks, and what its parts do.

They show what `Scene.explain` tells of a query and what `diagnostics.look_inside` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from spdlib.errors import RunError
from spdlib.models.v13_blocks import SPREADS
from spdlib.scene import Scene
from spdlib.view.plots.style import WIDTH, figure, styled

TOKENS = {"L1": 32, "L2": 25, "L3": 25, "L4": 9}
"""B1's tokens by level, in order."""
CENTRAL = {"L2": 1, "L3": 1, "L4": 1}
"""v13.1's tokens at the query itself."""
ALARM = "#b3261e"
MARK = 170.0
"""Area of a read's dot in square points if it had all the weight."""

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
    seen = scene.explain(points)
    query = np.asarray(points, float)[index]
    picture = np.asarray(image)
    over = [*_local(seen, index), *_attention(seen, index, scene), *_reads(seen, index)]
    panels: list[Panel] = [(title, partial(_over, picture, query, draw)) for title, draw in over]
    panels += _fused(seen, index)
    height = WIDTH / len(panels) * picture.shape[0] / picture.shape[1] + 0.9
    fig, axes = figure(1, len(panels), max(2.6, height), squeeze=False)
    for ax, (title, draw) in zip(axes[0], panels, strict=True):
        draw(ax)
        ax.set_title(title, fontsize="small")
    depth = float(seen["depth"].flatten()[index])
    fig.suptitle(
        f"query ({query[0]:.0f}, {query[1]:.0f}), among {len(np.asarray(points))}: {depth:.2f} m",
        x=0.004, ha="left", fontsize="medium",
    )  # fmt: skip
    return fig


def _over(picture: np.ndarray, query: np.ndarray, draw: Callable[[Axes], None], ax: Axes) -> None:
    """Something drawn over the faded image, with the query's cross."""
    ax.imshow(picture.mean(-1), cmap="gray", alpha=0.6, interpolation="antialiased")
    draw(ax)
    ax.plot(*query, "+", color="black", markersize=13, markeredgewidth=3.4)
    ax.plot(*query, "+", color="white", markersize=12, markeredgewidth=1.4)
    ax.axis("off")


def _local(seen: Mapping[str, Tensor], index: int) -> list[Panel]:
    """B2's attention to the tokens that B1 read, close up."""
    if "local_pixels" not in seen:
        return []
    places = seen["local_pixels"][0, index].cpu().numpy()
    weights = seen["local_weights"][0, index].mean(0).cpu().numpy()

    def draw(ax: Axes) -> None:
        start = 0
        for number, (level, count) in enumerate(TOKENS.items()):
            part = slice(start, start + count)
            _dots(ax, places[part], weights[part], number, level)
            start += count
        (left, top), (right, bottom) = places.min(0) - 8, places.max(0) + 8
        ax.set(xlim=(left, right), ylim=(bottom, top))
        _legend(ax)

    return [("B2: tokens around, close up", draw)]


def _attention(seen: Mapping[str, Tensor], index: int, scene: Scene) -> list[Panel]:
    """What the B3 blocks look at, and where they route the query."""
    return [
        (_level_title(seen, index, level), _heat(seen, index, level, scene))
        for level in ("l3", "l4")
        if f"{level}_weights" in seen
    ]


def _level_title(seen: Mapping[str, Tensor], index: int, level: str) -> str:
    weights = seen[f"{level}_weights"][0, index]
    framed = ", routed cells framed" if f"{level}_routed" in seen else ""
    return f"B3: {level.upper()}{framed}\n{weights.min():.1%} to {weights.max():.1%} a cell"


def _heat(
    seen: Mapping[str, Tensor], index: int, level: str, scene: Scene
) -> Callable[[Axes], None]:
    weights = seen[f"{level}_weights"][0, index].cpu().numpy()
    rows, columns = weights.shape
    # the padded image, which the cells share evenly, in pixels of the given one
    height, width = (
        n * p / r for n, p, r in zip(scene.image_size, scene.padded, scene.resized, strict=True)
    )
    routed = seen[f"{level}_routed"][0, index].tolist() if f"{level}_routed" in seen else []

    def draw(ax: Axes) -> None:
        limits = ax.get_xlim(), ax.get_ylim()
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        # from zero, so that attention which hardly differs looks alike
        ax.imshow(
            weights, cmap="rocket", alpha=0.55, extent=extent, interpolation="nearest", vmin=0
        )
        for cell in routed:
            corner = (cell % columns * width / columns - 0.5, cell // columns * height / rows - 0.5)
            ax.add_patch(
                Rectangle(corner, width / columns, height / rows, fill=False, edgecolor="white",
                          linewidth=1.1)
            )  # fmt: skip
        ax.set(xlim=limits[0], ylim=limits[1])

    return draw


def _reads(seen: Mapping[str, Tensor], index: int) -> list[Panel]:
    """Deformable reads: of B4 around its routed cells, or of v14's first layers."""
    weights = seen["weights"][:, 0, index].cpu().numpy() if "weights" in seen else np.empty(0)
    if weights.ndim != 4:  # [layers or cells, heads, maps, reads]
        return []
    places = seen["pixels"][:, 0, index].cpu().numpy()
    heads = weights.shape[1]
    if "local_pixels" in seen:
        cells = len(weights)
        draw = _levels(places, weights / (heads * cells), tuple(f"L{name[1]}" for name in SPREADS))
        return [(f"B4: reads around {cells} cells", draw)]
    levels = ("L1", "L2", "L3", "L4")
    return [
        (f"layer {number}: reads of its choice", _levels(place[None], weight[None] / heads, levels))
        for number, (place, weight) in enumerate(zip(places, weights, strict=True), 1)
    ]


def _levels(
    places: np.ndarray, weights: np.ndarray, levels: Sequence[str]
) -> Callable[[Axes], None]:
    """Reads [n, heads, maps, reads, 2] and their weights, a colour a map."""

    def draw(ax: Axes) -> None:
        limits = ax.get_xlim(), ax.get_ylim()
        for number, level in enumerate(levels):
            first = number + 4 - len(levels)
            where, shares = places[:, :, number].reshape(-1, 2), weights[:, :, number].ravel()
            _dots(ax, where, shares, first, level)
        ax.set(xlim=limits[0], ylim=limits[1])
        _legend(ax)

    return draw


def _fused(seen: Mapping[str, Tensor], index: int) -> list[Panel]:
    """What B5 attends to, by source."""
    if "fused_weights" not in seen:
        return []
    shares = seen["fused_weights"][0, index].mean(0).cpu().numpy()
    routed = {
        f"routed {level.upper()}": seen[f"{level}_routed"].shape[-1]
        for level in ("l3", "l4")
        if f"{level}_routed" in seen
    }
    sources = (CENTRAL if "l3_routed" in seen else TOKENS) | routed
    ends = np.cumsum(list(sources.values()))[:-1]
    sums = [part.sum() for part in np.split(shares, ends)]

    def draw(ax: Axes) -> None:
        names = [f"{name} ({count})" for name, count in sources.items()]
        bars = ax.barh(names, sums, color=_colour(0))
        ax.bar_label(bars, [f"{share:.0%}" for share in sums], padding=3, fontsize="small")
        ax.set(xlim=(0, 1.25 * max(sums)), xticks=[])
        ax.invert_yaxis()
        ax.spines["bottom"].set_visible(False)
        ax.grid(visible=False)

    return [("B5: attention by source (tokens)", draw)]


def _dots(ax: Axes, places: np.ndarray, weights: np.ndarray, colour: int, name: str) -> None:
    x, y = places.T
    area = MARK * np.sqrt(weights)  # in proportion to weights, most dots would vanish
    ax.scatter(x, y, area, color=_colour(colour), label=name, alpha=0.75, linewidth=0)


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
