"""The network as a picture, drawn from what it says of itself: `DepthModel.stages`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from spdlib.geometry import Size
from spdlib.inspection import Stage
from spdlib.models import DepthModel
from spdlib.models.base import count_parameters
from spdlib.view.plots.style import FAINT, INK, WIDTH, styled

ONCE, QUERY, MAPS, PLAIN = "#d7e6f2", "#fae3c8", "#ffffff", "#f4f4f4"
BLUE, ORANGE = "#0173b2", "#c2660a"
HEIGHT, TALL = 4.9, 58
"""Of the figure, in inches and in the drawing's units."""
TOP, BOTTOM, BOX, GAP = 52.4, 4.2, 22.6, 3.0
"""Top and bottom of columns, width of a box and of the space between columns."""
TITLE, ROW, MARGIN = 2.3, 1.45, 1.4
"""Heights of a title and of a line under it, and the space above and below both."""
FULL = 5
"""Boxes in a column before a second one is begun."""


@dataclass(frozen=True)
class Box:
    """A rounded box: centre and size in the drawing's units, what it says, its colours."""

    x: float
    y: float
    width: float
    height: float
    title: str
    lines: str = ""
    face: str = PLAIN
    edge: str = FAINT

    def side(self, towards: str) -> tuple[float, float]:
        """Middle of the "left", "right", "top" or "bottom" side."""
        across, up = self.width / 2, self.height / 2
        x, y = {"left": (-1, 0), "right": (1, 0), "top": (0, 1), "bottom": (0, -1)}[towards]
        return self.x + x * across, self.y + y * up


@styled
def network_diagram(model: DepthModel, image_size: Size | None = None) -> Figure:
    """What runs once per image and what per query, with sizes and parameter counts.

    Args:
        model: the network.
        image_size: height, width in pixels of the image to draw it for; None takes the training
            size. It is padded as `encode` would.
    """
    size = image_size or model.config.image_size
    stages = model.stages(size)
    image = [Stage("image", "image", f"3 × {size[0]} × {size[1]}"), *_of(stages, "image")]
    query = [Stage("query", "query (u, v)", "pixels"), *_of(stages, "query")]
    query.append(Stage("query", "depth", "metres"))
    columns = [*_columns(image), [], *_columns(query)]  # the maps stand between
    width = len(columns) * (BOX + GAP) + 3 * GAP
    fig = plt.figure(figsize=(WIDTH, HEIGHT))
    plt.close(fig)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, TALL))
    ax.axis("off")
    _fill(ax, columns, [stage for stage in stages if stage.maps])
    decoder = count_parameters(model) - count_parameters(model.encoder)
    ax.text(1.5, 1.7, f"{model.config.network}: {_count(count_parameters(model))} parameters, "
            f"{decoder:,} of them outside the encoder; maps are channels × height × width",
            fontsize=8, color=FAINT, va="center")  # fmt: skip
    return fig


def _of(stages: Sequence[Stage], when: str) -> list[Stage]:
    return [stage for stage in stages if stage.when == when and not stage.maps]


def _columns(stages: list[Stage]) -> list[list[Stage]]:
    """One column, or two of nearly equal length."""
    half = (len(stages) + 1) // 2 if len(stages) > FULL else len(stages)
    return [part for part in (stages[:half], stages[half:]) if part]


def _fill(ax: Axes, columns: list[list[Stage]], kept: list[Stage]) -> None:
    """Both bands, the chain of boxes in each, and the maps that lead from one to the other."""
    middle = columns.index([])
    pitch, left = BOX + GAP, 2 * GAP
    edges = (left - GAP, left + (middle + 1) * pitch - GAP / 2)
    _band(ax, edges, ONCE, BLUE, "once per image")
    _band(ax, (edges[1] + GAP, left + len(columns) * pitch + GAP / 2), QUERY, ORANGE, "per query")
    places = [left + BOX / 2 + pitch * i + (GAP if i > middle else 0) for i in range(len(columns))]
    once = _chain(ax, places[:middle], columns[:middle], BLUE)
    each = _chain(ax, places[middle + 1 :], columns[middle + 1 :], ORANGE)
    shapes = [row for stage in kept for row in stage.maps.items()]
    lines = "\n".join(f"{name}: {' × '.join(map(str, shape))}" for name, shape in shapes)
    middle_y = (TOP + BOTTOM) / 2
    maps = Box(places[middle], middle_y, BOX, _height(lines) + MARGIN, "maps", lines, MAPS, BLUE)
    _draw(ax, maps)
    _arrow(ax, once[-1].side("right"), (maps.side("left")[0], _within(maps, once[-1].y)), BLUE)
    for box in each[1:-2] if len(columns) - middle == 2 else each[1:2]:
        _arrow(ax, (maps.side("right")[0], _within(maps, box.y)), box.side("left"), ORANGE)


def _within(box: Box, y: float) -> float:
    """The height nearest to y at which an arrow can meet a box."""
    reach = box.height / 2 - 1.5
    return min(max(y, box.y - reach), box.y + reach)


def _chain(
    ax: Axes, places: Sequence[float], columns: Sequence[list[Stage]], colour: str
) -> list[Box]:
    """Boxes from the top down, column after column, an arrow from each to the next."""
    boxes: list[Box] = []
    pitch = (TOP - BOTTOM) / max(map(len, columns))
    for x, column in zip(places, columns, strict=True):
        for row, stage in enumerate(column):
            y = TOP - pitch * (row + 0.5)
            lines = "\n".join(filter(None, (_wrapped(stage.detail), _count(stage.parameters))))
            height = min(pitch - 1.5, _height(lines))
            box = Box(x, y, BOX, height, stage.title.replace("\n", " "), lines, PLAIN, colour)
            _draw(ax, box)
            boxes.append(box)
    for upper, lower in pairwise(boxes):
        if upper.x == lower.x:
            _arrow(ax, upper.side("bottom"), lower.side("top"), colour)
        else:
            _turn(ax, upper, lower, colour)
    return boxes


def _turn(ax: Axes, last: Box, first: Box, colour: str) -> None:
    """From the bottom of a column up between both to the top of the next."""
    (x, y), (end, top) = last.side("right"), first.side("left")
    between = (x + end) / 2
    ax.plot([x, between, between], [y, y, top], color=colour, linewidth=1.3, zorder=1)
    _arrow(ax, (between, top), (end, top), colour)


def _height(lines: str) -> float:
    return 2 * MARGIN + TITLE + ROW * (lines.count("\n") + bool(lines))


def _wrapped(text: str) -> str:
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, 27))


def _draw(ax: Axes, box: Box) -> None:
    corner = (box.x - box.width / 2, box.y - box.height / 2)
    ax.add_patch(
        FancyBboxPatch(corner, box.width, box.height, boxstyle="round,pad=0,rounding_size=1",
                       facecolor=box.face, edgecolor=box.edge, linewidth=1.2, zorder=2)
    )  # fmt: skip
    top = box.y + (_height(box.lines) / 2 - MARGIN)
    ax.text(box.x, top, box.title, ha="center", va="top", fontsize=8.5, fontweight="bold",
            color=INK, zorder=3)  # fmt: skip
    ax.text(box.x, top - TITLE, box.lines, ha="center", va="top", fontsize=7, color=INK,
            zorder=3, linespacing=1.2)  # fmt: skip


def _band(ax: Axes, ends: tuple[float, float], face: str, ink: str, text: str) -> None:
    ax.add_patch(
        FancyBboxPatch((ends[0], 3.6), ends[1] - ends[0], 53.8, zorder=0, facecolor=face,
                       edgecolor="none", boxstyle="round,pad=0,rounding_size=1.5", alpha=0.55)
    )  # fmt: skip
    ax.text(ends[0] + 1.5, 54.3, text, fontsize=9.5, fontweight="bold", color=ink, va="center")


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, linewidth=1.3,
                        color=colour, shrinkA=0, shrinkB=0.5, zorder=1)
    )  # fmt: skip


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 10_000_000 else f"{number:,}" if number else ""
