"""v14: deformable reads, a spatial canvas, attention between the queries.

A query starts as what the four neck levels hold at its point. Every decoder layer then does four
things to it, in this order:

1. cross-read: three layers read all levels where the query wants to (`DeformableRead`, multi-scale
   deformable attention), the later ones all tokens of one coarse level (`GlobalRead`: B3a of L3,
   B3b of L4);
2. canvas: a copy of a neck level that the queries write to and read, so that each sees what those
   around it have found (`CanvasWrite`, `CanvasRead`);
3. Q2Q: all queries of the image attend to each other (`QueryAttention`);
4. FFN.

An answer therefore depends on which other points are queried with it. Three networks share this:
`V14Plan` (one canvas on L3, read before it is written), `V14Dual` and `V14Triple`, which write,
smooth, then read. The layers themselves are in `v14_layers`.

A scene's maps, channels-last: "L1".."L4" (the neck); in the plan "V1", "V2", "V4", what deformable
reads see of these levels; and "b3a_keys", "b3a_values", "b3b_keys", "b3b_values", both layers of a
group side by side. Canvases start as copies of the neck's levels in every call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from spdlib.errors import ModelError
from spdlib.geometry import GridRule, Size, grid_size, size_of
from spdlib.inspection import Number, Probe
from spdlib.models.attention import GlobalTokens, MapAttention
from spdlib.models.base import Caption, DepthModel, refuse_plain_vit
from spdlib.models.encoders import CONVNEXT_V2_TINY, STRIDES, padded_size
from spdlib.models.layers import HEAD_BIAS, LEVELS, channels_last, full_precision, start_at
from spdlib.models.necks import CAPTIONS, project
from spdlib.models.options import ModelConfig, Options
from spdlib.models.registry import register
from spdlib.models.sampling import Places
from spdlib.models.v14_layers import (
    HEADS,
    READS,
    WIDTH,
    Canvas,
    CanvasRead,
    DeformableRead,
    DepthHead,
    GlobalRead,
    Grid,
    Layer,
    NeckDepth,
    Queries,
    Seed,
    SharedCanvas,
)
from spdlib.scene import Answer, Maps


@dataclass(frozen=True)
class V14Options(Options):
    """Options of all v14 networks. The first value is right, others are faults on record.

    Attributes:
        grid_rule: how points find cells (F9, F17a).
        msda_init: each head's first offsets point in a direction of its own, or lie where
            PyTorch's "default" puts them (F16).
        canvas_write: queries of one cell "mean" their changes or "sum" them (F17a).
        head_bias: heads start at the "median" depth of NYU, or at "zero", 1 m (F17c).
        head_dtype: of the head; "bfloat16" rounds ln depth (F7).
        token_positions: coarse tokens carry a "sincos" code of their place, or "none" (F11).
    """

    grid_rule: Literal["half_pixel", "recorded"] = "half_pixel"
    msda_init: Literal["directional", "default"] = "directional"
    canvas_write: Literal["mean", "sum"] = "mean"
    head_bias: Literal["median", "zero"] = "median"
    head_dtype: Literal["float32", "bfloat16"] = "float32"
    token_positions: Literal["sincos", "none"] = "sincos"


@dataclass(frozen=True)
class V14PlanOptions(V14Options):
    """Options of v14_plan: those of all v14 networks, and two.

    Attributes:
        inserted_attention: the attention on L3 starts as the identity ("zero"), so that stage 4
            keeps its trained input, or at "random" (F13).
        smooth_init: the canvas's smoothing starts as the identity ("zero"), or by PyTorch's
            "default": the same weights in all seven layers then multiply some channels seven times
            over, and first answers on real frames reach 500 m.
    """

    inserted_attention: Literal["zero", "random"] = "zero"
    smooth_init: Literal["zero", "default"] = "zero"


class V14(DepthModel):
    """What the three networks share.

    Attributes:
        widths: channels of the neck's levels.
        kernels: canvas levels, and the size of the convolutions that smooth them.
        shared_canvas: all layers write to the canvas by the same weights (see `SharedCanvas`).
        per_level: see `Grid`.
        value_maps: maps that deformable reads see of the four levels.

    Raises:
        ModelError: a plain ViT, or images with fewer than 2x2 cells on L4.
    """

    Options: ClassVar[type] = V14Options
    queries_are_independent = False
    has_auxiliary = True
    recorded_points = 256
    widths: ClassVar[tuple[int, int, int, int]] = (WIDTH,) * 4
    kernels: ClassVar[Mapping[str, int]]
    shared_canvas: ClassVar[bool] = False
    per_level: ClassVar[bool] = False
    value_maps: ClassVar[Sequence[str]] = LEVELS
    canvas: SharedCanvas

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        refuse_plain_vit(self)
        self._level_sizes(config.image_size)  # refuses images that are too small
        options = self.options
        mean = options.canvas_write == "mean"
        self.grid = Grid(GridRule(options.grid_rule), self.per_level, mean)
        self.neck = nn.ModuleList(
            project(channels, width)
            for channels, width in zip(self.encoder.channels, self.widths, strict=True)
        )
        self.coded = options.token_positions == "sincos"
        self.level4_attention = MapAttention(self.widths[3], HEADS, positions=self.coded)
        self.b3b_tokens = GlobalTokens(self.widths[3], WIDTH, positions=self.coded)
        self.seed = Seed(self.widths)
        self.msda = nn.ModuleList(self._layer(DeformableRead(self.value_maps)) for _ in range(3))
        self.b3b = nn.ModuleList(self._layer(GlobalRead("b3b", n)) for n in range(2))
        self.head = DepthHead(low=options.head_dtype == "bfloat16")
        self.neck_depth = NeckDepth(dict(zip(LEVELS, self.widths, strict=True)))
        if options.msda_init == "directional":
            layer: Any
            for layer in self.msda:
                layer.cross.start_directional(self._directions())
        for last in (self.head.layers[-1], *self.neck_depth.heads.values()):
            start_at(last, HEAD_BIAS[options.head_bias])

    def maps(self, images: Tensor) -> Maps:
        """Padded images [B, 3, H, W] -> the maps of a scene (see the module's text)."""
        self._level_sizes(size_of(images))
        levels = [layer(x) for layer, x in zip(self.neck, self.encoder(images), strict=True)]
        levels[3] = self.level4_attention(levels[3])
        maps = dict(zip(LEVELS, map(channels_last, levels), strict=True))
        return {**maps, **self.projected(maps)}

    def projected(self, maps: Maps) -> dict[str, Tensor]:
        """What is projected of the neck's levels once per image."""
        return self.b3b_tokens(maps["L4"], "b3b")

    def auxiliary(self, maps: Maps) -> dict[str, Tensor]:
        """Depth maps [B, h, w] in metres of the neck's "L2" and "L3"."""
        return self.neck_depth(maps)

    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """Depth [B, K] at points [B, K, 2] in pixels of the padded image."""
        return Answer(self.run(self.queries(maps, points, image_size)))

    def queries(self, maps: Maps, points: Tensor, image_size: Size) -> Queries:
        """The points [B, K, 2] with all that the layers know of them: see `v14_layers.Queries`."""
        grid, size, zeros = self.grid, image_size, self.grid.rule.zeros
        sizes = {n: grid_size(maps[n]) for n in LEVELS}
        reference = {n: grid.reference(points, size, sizes[n]) for n in LEVELS}
        places = {n: Places.of(grid.cells(reference[n], sizes[n]), sizes[n], zeros) for n in LEVELS}
        cells = {n: grid.written(points, size, sizes[n]) for n in self.kernels}
        shares = {n: grid.shares(cells[n], maps[n].dtype) for n in cells}
        write = self.canvas.write if self.shared_canvas else None
        return Queries(maps, points, size, grid, reference, places, cells, shares, self.fast, write)

    def run(self, queries: Queries) -> Tensor:
        """The seed, the layers in order, the head: depth [B, K]."""
        h, positions = self.seed(queries)
        # what the layers add up stays in float32 under autocast
        canvases = {level: full_precision(queries.maps[level])[0] for level in self.kernels}
        for number, layer in enumerate(self.layers(), 1):
            named = replace(queries, positions=positions, layer=f"layer {number}")
            h, canvases = layer(h, canvases, named)
        return self.head(h)

    def layers(self) -> list[nn.Module]:
        """The decoder layers in order."""
        return [*self.msda, *self.b3b]

    def probes(self, maps: Maps, points: Tensor, image_size: Size) -> list[Probe]:
        """Reads of every deformable layer, gates and canvases of every layer, the head's scale."""
        found: list[Probe] = []
        self.run(replace(self.queries(maps, points, image_size), probes=found))
        return [*found, Number("head", "scale of ln depth", float(self.head.scale.detach().exp()))]

    def ablations(self) -> dict[str, Callable[[], AbstractContextManager[None]]]:
        """A trained network can do without its canvases, to see how far it leans on them."""
        return {"canvas": self.without_canvas}

    def captions(self) -> dict[str, Caption]:
        """Titles and details of the layers, for diagrams."""
        steps = f"each: read,\ncanvas on {', '.join(self.kernels)},\nQ2Q, FFN"
        return {
            **super().captions(),
            **CAPTIONS,
            "values": ("value maps", "of L1, L2 and L4"),
            "b3a_tokens": ("tokens of L3", "keys and values"),
            "b3b_tokens": ("tokens of L4", "keys and values"),
            "seed": ("query starts", "L1 to L4 there"),
            "msda": ("3 layers: own places", f"6 × 4 × 4 reads\n{steps}"),
            "b3a": ("2 layers: all of L3", steps),
            "b3b": ("2 layers: all of L4", steps),
            "canvas": ("shared canvas", "write and smoothing of\nall layers; read at the end"),
            "head": ("head", "log-depth"),
        }

    def _layer(self, cross: nn.Module) -> Layer:
        return Layer(cross, Canvas(self.kernels, self.shared_canvas))

    def _level_sizes(self, image_size: Size) -> list[Size]:
        """Height, width of the four levels; ModelError if the coarsest is too small to be read."""
        height, width = padded_size(image_size, self.encoder.multiple)
        least = 2 * self.encoder.multiple
        if min(height, width) < least:
            raise ModelError(
                f"{self.config.network} reads between the cells of L4 (stride {STRIDES[-1]}) and "
                f"needs 2x2 of them: images of at least {least}x{least} pixels; got "
                f"{image_size[0]}x{image_size[1]}. Use larger images"
            )
        return [(height // stride, width // stride) for stride in STRIDES]

    def _directions(self) -> Tensor:
        """Initial offsets [6, 4, 4, 2] in map units: 1 to 4 cells in each head's own direction."""
        angles = torch.arange(HEADS) * (2 * math.pi / HEADS)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().amax(-1, keepdim=True)
        cells = rays[:, None] * torch.arange(1, READS + 1)[:, None]  # [6, 4, 2]
        sizes = self._level_sizes(self.config.image_size)
        return torch.stack([cells / self.grid.cells_per_unit(cells, size) for size in sizes], 1)

    @contextmanager
    def without_canvas(self) -> Iterator[None]:
        """Meanwhile no query reads a canvas, as if every gate were shut."""

        def unread(part: nn.Module, inputs: tuple[Any, ...], _: object) -> Any:
            return inputs[0] if isinstance(part, CanvasRead) else inputs[:2]

        with ExitStack() as hooks:
            for part in self.modules():
                if isinstance(part, CanvasRead | SharedCanvas):
                    hooks.callback(part.register_forward_hook(unread).remove)
            yield


@register("v14_plan", encoder=CONVNEXT_V2_TINY, image_size=(256, 320))
class V14Plan(V14):
    """v14 as designed: one canvas on L3, 3 deformable + 2 B3a + 2 B3b layers; 40,187,371.

    The canvas is read, then written and smoothed by weights that all layers share, and read once
    more before the head. Two self-attention layers sit between stages 3 and 4 of the encoder.
    """

    Options = V14PlanOptions
    idea = "v14_dual as designed: one canvas on L3, read, then written; attention to L3 too"
    widths = (64, 128, 192, 384)
    kernels: ClassVar[Mapping[str, int]] = {"L3": 3}
    shared_canvas = per_level = True
    value_maps = ("V1", "V2", "L3", "V4")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        start = self.options.inserted_attention
        self.level3_attention = MapAttention.inserted(self.encoder, start, positions=self.coded)
        widths = dict(zip(LEVELS, self.widths, strict=True))
        self.values = nn.ModuleDict({n: nn.Linear(widths[n], WIDTH) for n in ("L1", "L2", "L4")})
        self.b3a_tokens = GlobalTokens(widths["L3"], WIDTH, positions=self.coded)
        self.b3a = nn.ModuleList(self._layer(GlobalRead("b3a", n)) for n in range(2))
        self.canvas = SharedCanvas(self.kernels)
        if self.options.smooth_init == "zero":
            self.canvas.write.start_as_identity()

    def projected(self, maps: Maps) -> dict[str, Tensor]:
        """Value maps "V1", "V2", "V4", and the keys and values of B3a and B3b."""
        values = {f"V{name[1]}": layer(maps[name]) for name, layer in self.values.items()}
        return {**values, **self.b3a_tokens(maps["L3"], "b3a"), **super().projected(maps)}

    def layers(self) -> list[nn.Module]:
        """The decoder layers in order; the last reads the canvas once more."""
        return [*self.msda, *self.b3a, *self.b3b, self.canvas]


@register("v14_dual", encoder=CONVNEXT_V2_TINY, image_size=(256, 320))
class V14Dual(V14):
    """Experiments 8 and 10: canvases on L2 and L3, 3 deformable + 2 B3b layers; 32,881,641."""

    idea = "queries read deformably, meet on canvases on L2 and L3 and attend to each other"
    kernels: ClassVar[Mapping[str, int]] = {"L2": 5, "L3": 3}


@register("v14_triple", encoder=CONVNEXT_V2_TINY, image_size=(256, 320))
class V14Triple(V14):
    """Experiment 9: canvases on L2, L3 and L4, 3 deformable + 2 B3b layers; 33,301,161."""

    idea = "as v14_dual with a third canvas, on L4"
    kernels: ClassVar[Mapping[str, int]] = {"L2": 5, "L3": 5, "L4": 3}
