"""The network as a picture, its map sizes and parameter counts read from the model itself."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from spdlib.geometry import Size
from spdlib.models.base import count_parameters, evaluating
from spdlib.models.v15 import SIDE, V152
from spdlib.view.plots import FAINT, INK, WIDTH, styled

ONCE, QUERY, MAPS, PLAIN = "#d7e6f2", "#fae3c8", "#ffffff", "#f4f4f4"
BLUE, ORANGE = "#0173b2", "#c2660a"


@dataclass(frozen=True)
class Box:
    """A rounded box: centre and size in the drawing's units, what it says, its colours."""

    x: float
    y: float
    width: float
    height: float
    title: str
    lines: str = ""
    face: str = MAPS
    edge: str = FAINT

    def side(self, towards: str, shift: float = 0.0) -> tuple[float, float]:
        """Middle of the "left", "right", "top" or "bottom" side, moved along it by `shift`."""
        across, up = self.width / 2, self.height / 2
        return {
            "left": (self.x - across, self.y + shift),
            "right": (self.x + across, self.y + shift),
            "top": (self.x + shift, self.y + up),
            "bottom": (self.x + shift, self.y - up),
        }[towards]


@styled
def network_diagram(model: V152, image_size: Size | None = None) -> Figure:
    """v15.2: what runs once per image, what runs per query, with sizes and parameter counts.

    Args:
        model: the network.
        image_size: height, width in pixels of the image to draw it for; None takes the training
            size. It is padded as `encode` would.
    """
    size = image_size or model.config.image_size
    boxes = _once_per_image(model, size) | _per_query(model)
    fig = plt.figure(figsize=(WIDTH, 4.75))
    plt.close(fig)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 126), ylim=(0, 57))
    ax.axis("off")
    decoder = count_parameters(model) - count_parameters(model.encoder)
    _band(ax, (0.5, 81), ONCE, BLUE, "once per image")
    _band(ax, (82, 125.5), QUERY, ORANGE, f"per query: {_count(model.local_path)} parameters")
    for box in boxes.values():
        _draw(ax, box)
    _arrows(ax, boxes)
    ax.text(1.5, 1.6, f"{model.config.network}: {_count(model)} parameters, {decoder:,} of them "
            f"outside the encoder ({_codes(model)} are codes of source and place); maps are "
            "channels × height × width",
            fontsize=8, color=FAINT, va="center")  # fmt: skip
    return fig


def level_shapes(model: V152, image_size: Size) -> dict[str, tuple[int, ...]]:
    """Shapes (channels, height, width) of the maps L1 to L4 and s8 for one image, by running it."""
    with torch.no_grad(), evaluating(model):
        images = torch.zeros(1, 3, *image_size, device=model.device, dtype=model.dtype)
        levels: list[Tensor] = model.neck(model.encoder(model.pad(images)))
        s8 = model.global_path(*levels[1:])
    maps = {f"L{i}": level for i, level in enumerate(levels, 1)} | {"s8": s8}
    return {name: tuple(level.shape[1:]) for name, level in maps.items()}


def _once_per_image(model: V152, size: Size) -> dict[str, Box]:
    shapes = {name: " × ".join(map(str, s)) for name, s in level_shapes(model, size).items()}
    rows = {"L1": 44.0, "L2": 32.5, "L3": 21.0, "L4": 9.5}
    encoder = "\n".join(textwrap.wrap(model.encoder.config.name.replace("_", " "), 18))
    channels = ", ".join(map(str, model.encoder.channels))
    inside = f"{encoder}\n\n{channels}\nchannels\n\n{_count(model.encoder)}\nparameters"
    path = f"DPT\n\n{_count(model.global_path)}"
    boxes = {
        "image": Box(8, 26.75, 11, 12, "image", f"3 × {size[0]} × {size[1]}", PLAIN),
        "encoder": Box(24.3, 26.75, 15, 43, "encoder", inside, PLAIN, BLUE),
        "neck": Box(39.5, 26.75, 7, 43, "neck", f"1×1, LN\n\n{_count(model.neck)}", PLAIN, BLUE),
        "global": Box(64, 15.25, 9, 20, "global\npath", path, PLAIN, BLUE),
        "s8": Box(75.2, 15.25, 10.6, 8, "s8", shapes["s8"]),
    }  # fmt: skip
    return boxes | {name: Box(51.8, y, 11.6, 8, name, shapes[name]) for name, y in rows.items()}


def _per_query(model: V152) -> dict[str, Box]:
    local, tokens = model.local_path, SIDE * SIDE
    window, block = f"{SIDE}×{SIDE}", "attention, FFN"
    coarse = f"{window} of s8 and L2: {2 * tokens} tokens\n{block}: {_count(local.coarse)}"
    fine = f"{window} of L1: {tokens} tokens\n{block}: {_count(local.fine)}"
    return {
        "point": Box(115.5, 15.25, 15, 8, "query (u, v)", "pixels", PLAIN, ORANGE),
        "start": Box(95, 15.25, 21, 8, "start", "s8 at (u, v)", PLAIN, ORANGE),
        "coarse": Box(95, 32.5, 21, 9, "read coarse", coarse, PLAIN, ORANGE),
        "fine": Box(95, 44, 21, 8, "read fine", fine, PLAIN, ORANGE),
        "head": Box(115.5, 44, 15, 8, "head", f"softplus: {_count(local.head)}", PLAIN, ORANGE),
        "depth": Box(115.5, 32.5, 15, 8, "depth", "metres", MAPS, ORANGE),
    }


def _arrows(ax: Axes, boxes: dict[str, Box]) -> None:
    b = boxes
    _arrow(ax, b["image"].side("right"), b["encoder"].side("left"), BLUE)
    for name in ("L1", "L2", "L3", "L4"):
        shift = b[name].y - b["encoder"].y
        _arrow(ax, b["encoder"].side("right", shift), b["neck"].side("left", shift), BLUE)
        _arrow(ax, b["neck"].side("right", shift), b[name].side("left"), BLUE)
    for name in ("L3", "L4"):
        _arrow(ax, b[name].side("right"), b["global"].side("left", b[name].y - b["global"].y), BLUE)
    _arrow(ax, b["global"].side("right"), b["s8"].side("left"), BLUE)
    _arrow(ax, b["L1"].side("right"), b["fine"].side("left"), ORANGE)
    _arrow(ax, b["L2"].side("right"), b["coarse"].side("left"), ORANGE)
    _arrow(ax, b["s8"].side("top"), b["coarse"].side("left", -2.8), ORANGE, "arc3,rad=-0.25")
    _arrow(ax, b["s8"].side("right"), b["start"].side("left"), ORANGE)
    _arrow(ax, b["point"].side("left"), b["start"].side("right"), ORANGE)
    _arrow(ax, b["start"].side("top"), b["coarse"].side("bottom"), ORANGE)
    _arrow(ax, b["coarse"].side("top"), b["fine"].side("bottom"), ORANGE)
    _arrow(ax, b["fine"].side("right"), b["head"].side("left"), ORANGE)
    _arrow(ax, b["head"].side("bottom"), b["depth"].side("top"), ORANGE)


def _draw(ax: Axes, box: Box) -> None:
    corner = (box.x - box.width / 2, box.y - box.height / 2)
    ax.add_patch(
        FancyBboxPatch(corner, box.width, box.height, boxstyle="round,pad=0,rounding_size=1",
                       facecolor=box.face, edgecolor=box.edge, linewidth=1.2, zorder=2)
    )  # fmt: skip
    rows = box.lines.count("\n") + 1 if box.lines else 0
    titles = box.title.count("\n") + 1
    top = box.y + 1.05 * rows
    ax.text(box.x, top, box.title, ha="center", va="center", fontsize=9, fontweight="bold",
            color=INK, zorder=3, linespacing=1.1)  # fmt: skip
    if rows:
        ax.text(box.x, top - 1.05 * titles - 0.4, box.lines, ha="center", va="top", fontsize=7.5,
                color=INK, zorder=3, linespacing=1.25)  # fmt: skip


def _band(ax: Axes, ends: tuple[float, float], face: str, ink: str, text: str) -> None:
    ax.add_patch(
        FancyBboxPatch((ends[0], 3.8), ends[1] - ends[0], 52.4, zorder=0, facecolor=face,
                       edgecolor="none", boxstyle="round,pad=0,rounding_size=1.5", alpha=0.55)
    )  # fmt: skip
    ax.text(ends[0] + 1.5, 53.3, text, fontsize=9.5, fontweight="bold", color=ink, va="center")


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    shape: str = "arc3,rad=0",
) -> None:
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, linewidth=1.3,
                        color=colour, connectionstyle=shape, shrinkA=0, shrinkB=0.5, zorder=1)
    )  # fmt: skip


def _count(module: torch.nn.Module) -> str:
    number = count_parameters(module)
    return f"{number / 1e6:.2f} M" if number >= 10_000_000 else f"{number:,}"


def _codes(model: V152) -> str:
    local = model.local_path
    return f"{local.source_code.numel() + local.position_code.numel():,}"
