"""The network as a picture, drawn from what it says of itself: `DepthModel.stages`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from spdlib.inspection import Stage
from spdlib.models import DepthModel
from spdlib.models.base import count_parameters
from spdlib.view.plots.style import FAINT, INK, figure, styled

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
SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, 1), "bottom": (0, -1)}

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rounded box: centre and height in the drawing's units, what it says, its colours."""

    x: float
    y: float
    height: float
    title: str
    lines: str
    edge: str
    face: str = PLAIN

    def side(self, towards: str) -> Point:
        """Middle of the "left", "right", "top" or "bottom" side."""
        x, y = SIDES[towards]
        return self.x + x * BOX / 2, self.y + y * self.height / 2

    def nearest(self, y: float) -> float:
        """The height nearest to y at which an arrow can meet the box."""
        reach = self.height / 2 - 1.5
        return min(max(y, self.y - reach), self.y + reach)


@styled
def network_diagram(model: DepthModel) -> Figure:
    """What runs once per training image and what per query, with sizes and parameter counts."""
    height, width = model.config.image_size
    stages = model.stages()
    image, query = (
        [stage for stage in stages if stage.when == when and not stage.maps]
        for when in ("image", "query")
    )
    image.insert(0, Stage("image", "image", f"3 × {height} × {width}"))
    query.insert(0, Stage("query", "query (u, v)", "pixels"))
    query.append(Stage("query", "depth", "metres"))
    columns = [*_columns(image), [], *_columns(query)]  # the maps stand between
    fig, ax = figure(1, 1, HEIGHT, layout=None)
    ax.set_position((0, 0, 1, 1))
    ax.set(xlim=(0, len(columns) * (BOX + GAP) + 3 * GAP), ylim=(0, TALL))
    ax.axis("off")
    _fill(ax, columns, [stage for stage in stages if stage.maps])
    total = count_parameters(model)
    decoder = total - count_parameters(model.encoder)
    said = (
        f"{model.config.network}: {_count(total)} parameters, {decoder:,} of them outside the "
        "encoder; maps are channels × height × width"
    )
    ax.text(1.5, 1.7, said, fontsize=8, color=FAINT, va="center")
    return fig


def _columns(stages: list[Stage]) -> list[list[Stage]]:
    """One column, or two of nearly equal length."""
    half = (len(stages) + 1) // 2 if len(stages) > FULL else len(stages)
    return [part for part in (stages[:half], stages[half:]) if part]


def _fill(ax: Axes, columns: list[list[Stage]], kept: list[Stage]) -> None:
    """Both bands, the chain of boxes in each, and the maps that lead from one to the other."""
    middle = columns.index([])
    pitch, left = BOX + GAP, 2 * GAP
    end = left + (middle + 1) * pitch - GAP / 2
    _band(ax, left - GAP, end, ONCE, BLUE, "once per image")
    _band(ax, end + GAP, left + len(columns) * pitch + GAP / 2, QUERY, ORANGE, "per query")
    places = [left + BOX / 2 + pitch * i + (GAP if i > middle else 0) for i in range(len(columns))]
    once = _chain(ax, places[:middle], columns[:middle], BLUE)
    each = _chain(ax, places[middle + 1 :], columns[middle + 1 :], ORANGE)
    shapes = [row for stage in kept for row in stage.maps.items()]
    lines = "\n".join(f"{name}: {' × '.join(map(str, shape))}" for name, shape in shapes)
    middle_y = (TOP + BOTTOM) / 2
    maps = Box(places[middle], middle_y, _height(lines) + MARGIN, "maps", lines, BLUE, MAPS)
    _draw(ax, maps)
    _arrow(ax, once[-1].side("right"), (maps.side("left")[0], maps.nearest(once[-1].y)), BLUE)
    readers = each[1:-2] or each[1:-1]  # the last before the depth is a head, unless it is alone
    for box in readers if len(columns) - middle == 2 else each[1:2]:
        _arrow(ax, (maps.side("right")[0], maps.nearest(box.y)), box.side("left"), ORANGE)


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
            boxes.append(Box(x, y, height, stage.title.replace("\n", " "), lines, colour))
            _draw(ax, boxes[-1])
    for upper, lower in pairwise(boxes):
        if upper.x == lower.x:
            _arrow(ax, upper.side("bottom"), lower.side("top"), colour)
        else:  # from the bottom of a column up between both to the top of the next
            (x, y), (end, top) = upper.side("right"), lower.side("left")
            between = (x + end) / 2
            ax.plot([x, between, between], [y, y, top], color=colour, linewidth=1.3, zorder=1)
            _arrow(ax, (between, top), (end, top), colour)
    return boxes


def _height(lines: str) -> float:
    return 2 * MARGIN + TITLE + ROW * (lines.count("\n") + bool(lines))


def _wrapped(text: str) -> str:
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, 27))


def _draw(ax: Axes, box: Box) -> None:
    corner = (box.x - BOX / 2, box.y - box.height / 2)
    _rounded(ax, corner, BOX, box.height, 1, facecolor=box.face, edgecolor=box.edge, zorder=2)
    top = box.y + (_height(box.lines) / 2 - MARGIN)
    look: dict[str, Any] = {"ha": "center", "va": "top", "color": INK, "zorder": 3}
    ax.text(box.x, top, box.title, fontsize=8.5, fontweight="bold", **look)
    ax.text(box.x, top - TITLE, box.lines, fontsize=7, linespacing=1.2, **look)


def _band(ax: Axes, left: float, right: float, face: str, ink: str, text: str) -> None:
    look = {"facecolor": face, "edgecolor": "none", "alpha": 0.55, "zorder": 0}
    _rounded(ax, (left, 3.6), right - left, 53.8, 1.5, **look)
    ax.text(left + 1.5, 54.3, text, fontsize=9.5, fontweight="bold", color=ink, va="center")


def _rounded(
    ax: Axes, corner: Point, width: float, height: float, rounding: float, **look: Any
) -> None:
    style = f"round,pad=0,rounding_size={rounding}"
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, linewidth=1.2, **look))


def _arrow(ax: Axes, start: Point, end: Point, colour: str) -> None:
    look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "linewidth": 1.3, "zorder": 1}
    ax.add_patch(FancyArrowPatch(start, end, color=colour, shrinkA=0, shrinkB=0.5, **look))


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 10_000_000 else f"{number:,}" if number else ""
