"""The network as a picture, its map sizes and parameter counts read from the model itself."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from spdlib.errors import ModelError
from spdlib.geometry import Size
from spdlib.models import DepthModel, counts
from spdlib.models.base import count_parameters, evaluating
from spdlib.models.v13 import V13, V13Calibrated, V13LogDepth, V13Plan
from spdlib.models.v13_1 import V131
from spdlib.models.v14 import V14, V14Plan
from spdlib.models.v15 import SIDE, V152
from spdlib.view.plots.style import FAINT, INK, WIDTH, styled

ONCE, QUERY, MAPS, PLAIN = "#d7e6f2", "#fae3c8", "#ffffff", "#f4f4f4"
BLUE, ORANGE = "#0173b2", "#c2660a"
LEVELS = ("L1", "L2", "L3", "L4")


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
def network_diagram(model: DepthModel, image_size: Size | None = None) -> Figure:
    """What runs once per image and what per query, with sizes and parameter counts.

    Args:
        model: the network.
        image_size: height, width in pixels of the image to draw it for; None takes the training
            size. It is padded as `encode` would.

    Raises:
        ModelError: there is no drawing of this kind of network.
    """
    fig = plt.figure(figsize=(WIDTH, 4.75))
    plt.close(fig)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 126), ylim=(0, 57))
    ax.axis("off")
    size = image_size or model.config.image_size
    if isinstance(model, V152):
        note = f" ({_codes(model)} are codes of source and place)"
        _v15(ax, model, size)
    elif isinstance(model, V13 | V14):
        note = ""
        _steps(ax, model, size)
    else:
        raise ModelError(f"there is no drawing of {type(model).__name__} yet")
    decoder = count_parameters(model) - count_parameters(model.encoder)
    ax.text(1.5, 1.6, f"{model.config.network}: {_count(model)} parameters, {decoder:,} of them "
            f"outside the encoder{note}; maps are channels × height × width",
            fontsize=8, color=FAINT, va="center")  # fmt: skip
    return fig


# -- v15.2 ------------------------------------------------------------------------------------


def _v15(ax: Axes, model: V152, size: Size) -> None:
    boxes = _once_per_image(model, size) | _per_query(model)
    _band(ax, (0.5, 81), ONCE, BLUE, "once per image")
    _band(ax, (82, 125.5), QUERY, ORANGE, f"per query: {_count(model.local_path)} parameters")
    for box in boxes.values():
        _draw(ax, box)
    _arrows(ax, boxes)


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
    path = f"DPT\n\n{_count(model.global_path)}"
    return _pyramid(model, size, shapes) | {
        "global": Box(64, 15.25, 9, 20, "global\npath", path, PLAIN, BLUE),
        "s8": Box(75.2, 15.25, 10.6, 8, "s8", shapes["s8"]),
    }


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
    _pyramid_arrows(ax, b)
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


# -- v13 and v14: a chain of steps ------------------------------------------------------------

Said = tuple[str, str]
"""Title and lines of a step."""


def _steps(ax: Axes, model: V13 | V14, size: Size) -> None:
    """Once per image: the pyramid and what is projected of it. Per query: steps in two columns."""
    shapes = _kept(model, size)
    levels = {name: shape for name, shape in shapes.items() if name in LEVELS}
    rest = "\n".join(f"{name}: {shape}" for name, shape in shapes.items() if name not in LEVELS)
    boxes = _pyramid(model, size, levels)
    boxes["projected"] = Box(68.4, 26.75, 18, 30, "projected for\nall queries", rest, PLAIN, BLUE)
    _band(ax, (0.5, 78), ONCE, BLUE, "once per image")
    _band(ax, (79, 125.5), QUERY, ORANGE, "per query")
    for box in boxes.values():
        _draw(ax, box)
    _pyramid_arrows(ax, boxes)
    for name in LEVELS:
        shift = (boxes[name].y - boxes["projected"].y) * 0.75
        _arrow(ax, boxes[name].side("right"), boxes["projected"].side("left", shift), BLUE)
    if isinstance(model, V14):
        layers, inside = _v14_layers(model)
        _column(ax, 90.6, layers)
        _column(ax, 114.2, inside, "every layer:")
    else:
        chain = _v13_chain(model)
        half = (len(chain) + 1) // 2
        left, right = _column(ax, 90.6, chain[:half]), _column(ax, 114.2, chain[half:])
        _arrow(ax, left[-1].side("right"), right[0].side("left"), ORANGE)


def _kept(model: DepthModel, size: Size) -> dict[str, str]:
    """Shapes "C × h × w" of a scene's maps, by running the network on a blank image."""
    with torch.no_grad(), evaluating(model):
        maps = model.maps(model.pad(torch.zeros(1, 3, *size, device=model.device)))
    shapes = {
        name: (level.shape[3], level.shape[1], level.shape[2]) for name, level in maps.items()
    }
    return {name: " × ".join(map(str, shape)) for name, shape in shapes.items()}


def _v13_chain(model: V13) -> list[Said]:
    """What v13 does for a query, in order."""
    options = model.options
    chain = [
        ("query (u, v)", "L1 there, and its place"),
        ("B1: look around", f"91 tokens of L1 to L4\n{_count(model.b1)}"),
        ("B2: read them", f"2 layers: {_count(model.b2)}"),
    ]
    if isinstance(model, V131):
        chain += [
            ("B3a: read all of L3", f"route to {options.routed_l3} cells\n{_count(model.b3a)}"),
            ("B3b: read all of L4", f"route to {options.routed_l4} cells\n{_count(model.b3b)}"),
            ("B5: read all finds", f"{_tokens(model)} tokens, 3 layers\n{_count(model.b5)}"),
        ]
    elif isinstance(model, V13LogDepth):
        chain += [
            ("B3: read all of L4", f"route to {options.routed_l4} cells\n{_count(model.b3)}"),
            ("B4: read around them", f"6 heads, 3 maps, 4 places\n{_count(model.b4)}"),
            ("B5: read everything", f"{_tokens(model)} tokens, 3 layers\n{_count(model.b5)}"),
        ]
    elif isinstance(model, V13Calibrated):
        chain.append(("B3: read all of L4", f"2 layers: {_count(model.b3)}"))
    calibrated = isinstance(model, V13Calibrated | V13Plan)
    kind = "inverse depth, calibrated" if calibrated else "log-depth"
    return [*chain, ("head", f"{kind}\n{_count(model.head)}"), ("depth", "metres")]


def _tokens(model: V13) -> str:
    """Tokens of B5: v13.1 keeps three of its own, v13 all of B1's."""
    routed = [getattr(model.options, name) for name in counts(model.Options)]
    own = 3 if isinstance(model, V131) else 91
    return " + ".join(map(str, [own, *routed]))


def _v14_layers(model: V14) -> tuple[list[Said], list[Said]]:
    """The layers of a v14 in order, and what each of them does."""
    groups = [("3 layers: own places", f"6 × 4 × 4 reads: {_count(model.msda)}")]
    if isinstance(model, V14Plan):
        groups.append(("2 layers: all of L3", _count(model.b3a)))
    groups.append(("2 layers: all of L4", _count(model.b3b)))
    canvases = ", ".join(model.kernels)
    order = "read, then write, smooth" if isinstance(model, V14Plan) else "write, smooth, read"
    chain = [
        ("query (u, v)", f"L1 to L4 there: {_count(model.seed)}"),
        *groups,
        ("head", f"log-depth: {_count(model.head)}"),
        ("depth", "metres"),
    ]
    inside = [
        ("1  read the maps", "where this layer looks"),
        (f"2  canvas of {canvases}", f"{order}\nshared by all queries"),
        ("3  Q2Q", "queries attend to\neach other"),
        ("4  FFN", "192 → 768 → 192"),
    ]
    return chain, inside


def _column(ax: Axes, x: float, steps: list[Said], heading: str = "") -> list[Box]:
    """Boxes from the top down, an arrow from each to the next."""
    top, height = (47.6 if heading else 50.6), 41.6 if heading else 44.6
    pitch = height / len(steps)
    boxes = [
        Box(x, top - pitch * (i + 0.5), 20.4, min(8.4, pitch - 2), *said, PLAIN, ORANGE)
        for i, said in enumerate(steps)
    ]
    for box in boxes:
        _draw(ax, box)
    for upper, lower in pairwise(boxes):
        _arrow(ax, upper.side("bottom"), lower.side("top"), ORANGE)
    if heading:
        ax.text(x - 10, 49.2, heading, fontsize=8.5, fontweight="bold", color=ORANGE, va="center")
    return boxes


# -- pieces -----------------------------------------------------------------------------------


def _pyramid(model: DepthModel, size: Size, shapes: Mapping[str, str]) -> dict[str, Box]:
    """Image, encoder, neck and the four levels."""
    rows = dict(zip(LEVELS, (44.0, 32.5, 21.0, 9.5), strict=True))
    encoder = "\n".join(textwrap.wrap(model.encoder.config.name.replace("_", " "), 18))
    channels = ", ".join(map(str, model.encoder.channels))
    inside = f"{encoder}\n\n{channels}\nchannels\n\n{_count(model.encoder)}\nparameters"
    parts = model.components()
    if "level3_attention" in parts:
        inside += f"\n\nattention on L3\n{_count(parts['level3_attention'])}"
    neck = f"1×1, LN\n\n{_count(parts['neck'])}"
    if "level4_attention" in parts:
        neck += f"\n\n\nattention\non L4\n{_count(parts['level4_attention'])}"
    return {
        "image": Box(8, 26.75, 11, 12, "image", f"3 × {size[0]} × {size[1]}", PLAIN),
        "encoder": Box(24.3, 26.75, 15, 43, "encoder", inside, PLAIN, BLUE),
        "neck": Box(39.5, 26.75, 7.6, 43, "neck", neck, PLAIN, BLUE),
        **{name: Box(51.8, y, 11.6, 8, name, shapes[name]) for name, y in rows.items()},
    }


def _pyramid_arrows(ax: Axes, b: Mapping[str, Box]) -> None:
    _arrow(ax, b["image"].side("right"), b["encoder"].side("left"), BLUE)
    for name in LEVELS:
        shift = b[name].y - b["encoder"].y
        _arrow(ax, b["encoder"].side("right", shift), b["neck"].side("left", shift), BLUE)
        _arrow(ax, b["neck"].side("right", shift), b[name].side("left"), BLUE)


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
