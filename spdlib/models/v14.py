"""v14: deformable reads, a spatial canvas, attention between the queries (sheet v14).

A query starts as what the four neck levels hold at its point. Every decoder layer then does four
things to it, in this order:

1. cross-read: three layers read all levels where the query wants to (`DeformableRead`, the sheet's
   MSDA), the later ones all tokens of one coarse level (`GlobalRead`: B3a of L3, B3b of L4);
2. canvas: a copy of a neck level that the queries write to and read, so that each sees what those
   around it have found (`CanvasWrite`, `CanvasRead`);
3. Q2Q: all queries of the image attend to each other (`QueryAttention`);
4. FFN.

An answer therefore depends on which other points are asked with it. Three networks share this:
`V14Plan` (sheet column a: one canvas on L3, read before it is written), `V14Dual` (b) and
`V14Triple` (c), which write, smooth, then read.

A scene's maps, channels-last: "L1".."L4" (the neck); in the plan "V1", "V2", "V4", what deformable
reads see of these levels; and "b3a_keys", "b3a_values", "b3b_keys", "b3b_values", both layers of a
group side by side. Canvases start as copies of the neck's levels in every call.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spdlib.errors import ModelError
from spdlib.geometry import GridRule, Size, nearest_cell, pixels_to_cells
from spdlib.models.base import DepthModel, ModelConfig, evaluating, refuse_plain_vit
from spdlib.models.encoders import STRIDES, padded_size
from spdlib.models.layers import (
    HEAD_BIAS,
    Attention,
    FeedForward,
    GlobalTokens,
    MapAttention,
    NumberHead,
    fourier_code,
    full_precision,
    head_count,
)
from spdlib.models.necks import project
from spdlib.models.sampling import Places, deformable_read, literal_deformable_read
from spdlib.scene import Maps

LEVELS = ("L1", "L2", "L3", "L4")
WIDTH, HEADS, READS, BANDS, DROPOUT = 192, 6, 4, 8, 0.1

Canvases = dict[str, Tensor]
"""Canvases [B, h, w, C] by level."""


@dataclass(frozen=True)
class Grid:
    """Map units, in which points and reads are placed: -1..1 across every map (sheet v14, 1).

    Under the default rule they run from edge to edge of image and map, so that a point has one
    place on all levels. Under the recorded rule they run from the first cell's centre to the last
    one's (`align_corners=True`), and reads outside are zero (F9, F17a).

    Attributes:
        rule: decisions 1.
        per_level: under the recorded rule, place a point on each level by u / stride (sheet
            column a) instead of once for all levels by u / (W - 1) (columns b and c).
    """

    rule: GridRule
    per_level: bool

    @property
    def zeros(self) -> bool:
        """Whether cells outside a map count as zero; else its border is repeated."""
        return self.rule is GridRule.RECORDED

    def reference(self, points: Tensor, image_size: Size, map_size: Size) -> Tensor:
        """Points [..., 2] in pixels -> map units [..., 2]."""
        size = points.new_tensor([image_size[1], image_size[0]])
        if self.rule is GridRule.HALF_PIXEL:
            return 2 * (points + 0.5) / size - 1
        if self.per_level:
            cells = pixels_to_cells(points, image_size, map_size, self.rule)
            return cells / self.cells_per_unit(cells, map_size) - 1
        return 2 * points / (size - 1) - 1

    def cells(self, units: Tensor, map_size: Size) -> Tensor:
        """Map units [..., 2] -> fractional cells [..., 2]."""
        cells = (units + 1) * self.cells_per_unit(units, map_size)
        return cells if self.rule is GridRule.RECORDED else cells - 0.5

    def written(self, points: Tensor, image_size: Size, map_size: Size) -> Tensor:
        """Row [B K] of a map [B h w, C] that points [B, K, 2] in pixels write to.

        Under the recorded rule that is floor(u / stride) (sheet 2).
        """
        shift = 0.5 if self.rule is GridRule.RECORDED else 0.0
        x, y = nearest_cell(points - shift, image_size, map_size).unbind(-1)
        image = torch.arange(len(points), device=points.device).unsqueeze(-1)
        return ((image * map_size[0] + y) * map_size[1] + x).flatten()

    def pixels(self, units: Tensor, image_size: Size, map_size: Size) -> Tensor:
        """Map units [..., 2] -> pixels [..., 2]: the inverse of `reference`."""
        size = units.new_tensor([image_size[1], image_size[0]])
        if self.rule is GridRule.HALF_PIXEL:
            return (units + 1) / 2 * size - 0.5
        if self.per_level:
            stride = size / size.new_tensor([map_size[1], map_size[0]])
            return self.cells(units, map_size) * stride
        return (units + 1) / 2 * (size - 1)

    def cells_per_unit(self, like: Tensor, map_size: Size) -> Tensor:
        """Cells [2] (x, y) in one map unit: half a map, which spans two units."""
        cells = like.new_tensor([map_size[1], map_size[0]])
        return (cells - 1) / 2 if self.rule is GridRule.RECORDED else cells / 2


@dataclass(frozen=True)
class Asked:
    """What every layer knows of one call: the maps, and where its K queries lie on them.

    Attributes:
        maps: of the scene.
        grid: the rule that places points and reads.
        reference: the queries in map units by level, [B, K, 2].
        places: the queries' bilinear reads by level.
        cells: the cell that each query writes to by canvas level, [B K].
        shares: of each query in its cell's change by canvas level, [B K, 1].
        positions: the queries' position code for Q2Q, [B, K, C].
        write: the canvas write that all layers share; None where each has its own.
    """

    maps: Maps
    grid: Grid
    reference: Mapping[str, Tensor]
    places: Mapping[str, Places]
    cells: Mapping[str, Tensor]
    shares: Mapping[str, Tensor]
    positions: Tensor
    write: CanvasWrites | None

    def read(self, level: str, values: Tensor) -> Tensor:
        """Bilinear values [B, K, C] of a map of this level, [B, h, w, C], at the queries."""
        return self.places[level].read(values)


class Seed(nn.Module):
    """h = LN(Linear[levels at the query; code]), and Q2Q's positions (sheet 1; 160,512)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.Linear(sum(widths) + 4 * BANDS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.position = nn.Linear(4 * BANDS, WIDTH)

    def forward(self, found: Tensor, code: Tensor) -> Tensor:
        """Values of all levels [B, K, 800 - 32] and codes [B, K, 32] -> queries [B, K, C]."""
        h = self.norm(self.project(torch.cat([found, code], -1)))
        return full_precision(h)[0]  # what the layers add up stays in float32 under autocast


class DeformableRead(nn.Module):
    """MSDA: each head reads 4 points of 4 levels at places of its choice (sheet 1; 93,024).

    Offsets are in map units and unbounded, alike on all levels, as in the sheet. Head k reads
    channels 32 k to 32 k + 31 and weighs its 16 reads by one softmax.

    Args:
        levels: names of the four value maps.
        start: initial offsets [6, 4, 4, 2] in map units, with zero weights; None leaves both to
            PyTorch's initialisation (F16).
        literal: read all channels with `grid_sample`, then keep the head's own, as the sheet
            writes it; otherwise read these only.
    """

    def __init__(self, levels: Sequence[str], start: Tensor | None, literal: bool) -> None:
        super().__init__()
        self.levels, self.literal = tuple(levels), literal
        self.norm = nn.LayerNorm(WIDTH)
        self.offsets = nn.Linear(WIDTH, HEADS * len(LEVELS) * READS * 2)
        self.weights = nn.Linear(WIDTH, HEADS * len(LEVELS) * READS)
        self.out = nn.Linear(WIDTH, WIDTH)
        if start is not None:
            nn.init.zeros_(self.offsets.weight)
            with torch.no_grad():
                self.offsets.bias.copy_(start.flatten())

    def forward(self, h: Tensor, asked: Asked) -> Tensor:
        """Queries [B, K, C] -> [B, K, C]."""
        offsets, weights = self.choose(h)
        read = literal_deformable_read if self.literal else deformable_read
        found = []
        for n, (level, name) in enumerate(zip(LEVELS, self.levels, strict=True)):
            values, places = asked.maps[name], asked.reference[level][:, :, None, None]
            size = (values.shape[1], values.shape[2])
            cells = asked.grid.cells(places + offsets[:, :, :, n], size)
            found.append(read(values, cells, weights[:, :, :, n], asked.grid.zeros))
        return h + self.out(torch.stack(found).sum(0))

    def notes(self, h: Tensor, *_: Any) -> dict[str, Tensor]:
        """For `explain`: where it reads, and by which weights."""
        return dict(zip(("offsets", "weights"), self.choose(h), strict=True))

    def choose(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets [B, K, 6, 4 levels, 4, 2] in map units and weights [B, K, 6, 4 levels, 4]."""
        z = self.norm(h)
        offsets = self.offsets(z).unflatten(-1, (HEADS, len(LEVELS), READS, 2))
        weights = self.weights(z).unflatten(-1, (HEADS, -1)).softmax(-1)
        return offsets, weights.unflatten(-1, (len(LEVELS), READS))


class GlobalRead(nn.Module):
    """B3a and B3b: attention over all tokens of one level, projected once per image (74,496).

    Args:
        group: "b3a" or "b3b", whose keys and values it reads.
        number: of the layer in its group.
    """

    def __init__(self, group: str, number: int) -> None:
        super().__init__()
        self.group, self.number = group, number
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = Attention(WIDTH, HEADS, dropout=DROPOUT)

    def forward(self, h: Tensor, asked: Asked) -> Tensor:
        """Queries [B, K, C] -> [B, K, C]."""
        keys, values = (
            asked.maps[f"{self.group}_{kind}"].flatten(1, 2).split(WIDTH, -1)[self.number]
            for kind in ("keys", "values")
        )
        return h + self.attention.read(self.norm(h), keys, values)


class CanvasWrite(nn.Module):
    """Queries add to the cells they lie in, then the canvas smooths itself (sheet 2).

    37,056 for the write; 3,840 or 9,984 for two depth-wise convolutions of size 3 or 5.

    Args:
        level: of the canvas.
        kernel: size of the convolutions.
        still: smoothing starts as the identity.
    """

    def __init__(self, level: str, kernel: int, still: bool) -> None:
        super().__init__()
        self.level = level
        self.write = nn.Linear(WIDTH, WIDTH)
        first, last = _depth_wise(kernel), _depth_wise(kernel)
        self.smooth = nn.Sequential(first, nn.GELU(), last)
        if still:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, canvas: Tensor, h: Tensor, asked: Asked) -> Tensor:
        """Canvas [B, h, w, C] and queries [B, K, C] -> a new canvas [B, h, w, C]."""
        written = self.written(canvas, h, asked)
        return written + self.smooth(written.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def written(self, canvas: Tensor, h: Tensor, asked: Asked) -> Tensor:
        """The canvas after the write alone; the given one stays as it is (F17b)."""
        change = self.write(h).flatten(0, 1) * asked.shares[self.level]
        cells = canvas.flatten(0, 2)
        return cells.index_add(0, asked.cells[self.level], change.to(canvas.dtype)).view_as(canvas)

    def notes(self, canvas: Tensor, h: Tensor, asked: Asked, changed: Tensor) -> dict[str, Tensor]:
        """For `explain`: norms of the write and of the whole change, over the canvas's, [B]."""
        written = self.written(canvas, h, asked)
        sizes = [x.flatten(1).norm(dim=1) for x in (written - canvas, changed - canvas, canvas)]
        names = (f"canvas_write_{self.level}", f"canvas_change_{self.level}")
        return {name: size / sizes[-1] for name, size in zip(names, sizes, strict=False)}


class CanvasWrites(nn.Module):
    """The write and smoothing of several canvases.

    Args:
        kernels: size of the depth-wise convolutions by canvas level.
        still: see `CanvasWrite`.
    """

    def __init__(self, kernels: Mapping[str, int], still: bool = False) -> None:
        super().__init__()
        self.levels = nn.ModuleDict(
            {level: CanvasWrite(level, kernel, still) for level, kernel in kernels.items()}
        )

    def forward(self, canvases: Canvases, h: Tensor, asked: Asked) -> Canvases:
        """Canvases and queries [B, K, C] -> new canvases."""
        return {level: write(canvases[level], h, asked) for level, write in self.levels.items()}


class CanvasRead(nn.Module):
    """h += gate(LN h) Linear[canvases at the query]; the norm serves the gate only (sheet 2)."""

    def __init__(self, canvases: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.gate = nn.Linear(WIDTH, 1)
        self.read = nn.Linear(canvases * WIDTH, WIDTH)

    def forward(self, h: Tensor, canvases: Canvases, asked: Asked) -> Tensor:
        """Queries [B, K, C] -> [B, K, C]."""
        found = [asked.read(level, canvas) for level, canvas in canvases.items()]
        return h + self.opening(h) * self.read(torch.cat(found, -1))

    def opening(self, h: Tensor) -> Tensor:
        """How far each query [B, K, C] opens to the canvas: [B, K, 1] in 0..1."""
        return self.gate(self.norm(h)).sigmoid()

    def notes(self, h: Tensor, *_: Any) -> dict[str, Tensor]:
        """For `explain`: the gates, [B, K]."""
        return {"gates": self.opening(h).squeeze(-1)}


class Canvas(nn.Module):
    """A layer's own canvas step of columns b and c: write, smooth, read."""

    def __init__(self, kernels: Mapping[str, int]) -> None:
        super().__init__()
        self.write = CanvasWrites(kernels)
        self.read = CanvasRead(len(kernels))

    def forward(self, h: Tensor, canvases: Canvases, asked: Asked) -> tuple[Tensor, Canvases]:
        """Queries [B, K, C] and canvases -> both, changed."""
        canvases = self.write(canvases, h, asked)
        return self.read(h, canvases, asked), canvases


class PlanCanvas(nn.Module):
    """A layer's canvas step of column a: read, then write and smooth by shared weights (37,633)."""

    def __init__(self, kernels: Mapping[str, int]) -> None:
        super().__init__()
        self.read = CanvasRead(len(kernels))

    def forward(self, h: Tensor, canvases: Canvases, asked: Asked) -> tuple[Tensor, Canvases]:
        """Queries [B, K, C] and canvases -> both, changed."""
        assert asked.write is not None  # the plan brings one for all layers
        h = self.read(h, canvases, asked)
        return h, asked.write(canvases, h, asked)


class SharedCanvas(nn.Module):
    """What the plan's layers share: write and smoothing, and the read before the head (77,952)."""

    def __init__(self, kernels: Mapping[str, int], still: bool) -> None:
        super().__init__()
        self.write = CanvasWrites(kernels, still)
        self.final = nn.Linear(WIDTH, WIDTH)


class QueryAttention(nn.Module):
    """Q2Q: h += MHA(LN h + positions, LN h + positions, LN h) over an image's queries (148,608)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, dropout=DROPOUT, batch_first=True)

    def forward(self, h: Tensor, positions: Tensor) -> Tensor:
        """Queries [B, K, C] -> [B, K, C]."""
        z = self.norm(h)
        placed = z + positions
        return h + self.attention(placed, placed, z, need_weights=False)[0]


class Layer(nn.Module):
    """A decoder layer: cross-read, canvas, Q2Q, FFN (sheet 1).

    Args:
        cross: `DeformableRead` or `GlobalRead`.
        canvas: `Canvas` or `PlanCanvas`.
    """

    def __init__(self, cross: nn.Module, canvas: nn.Module) -> None:
        super().__init__()
        self.cross = cross
        self.canvas = canvas
        self.q2q = QueryAttention()
        self.norm_ffn = nn.LayerNorm(WIDTH)
        self.ffn = FeedForward(WIDTH)

    def forward(self, h: Tensor, canvases: Canvases, asked: Asked) -> tuple[Tensor, Canvases]:
        """Queries [B, K, C] and canvases -> both, changed."""
        h = self.cross(h, asked)
        h, canvases = self.canvas(h, canvases, asked)
        h = self.q2q(h, asked.positions)
        return h + self.ffn(self.norm_ffn(h)), canvases


class DepthHead(nn.Module):
    """depth = exp(e^s Linear(384 -> 1) GELU Linear(192 -> 384) h), s learnt from 0 (74,498).

    Args:
        bias: of the last layer at the start (F17c).
        low: round ln depth to bfloat16, as recorded (F7); else float32 outside autocast.
    """

    def __init__(self, bias: float, low: bool) -> None:
        super().__init__()
        self.layers = NumberHead(WIDTH, bias, low)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        """Queries [..., C] -> depth [...] in metres, at least float32."""
        return self.layers(h, self.scale.exp()).exp().squeeze(-1)


class NeckDepth(nn.Module):
    """Depth maps of the neck's L2 and L3 for training's auxiliary loss (sheet 4): exp(Conv1x1)."""

    def __init__(self, widths: Mapping[str, int], bias: float) -> None:
        super().__init__()
        # on a channels-last map a 1x1 convolution is a Linear
        self.heads = nn.ModuleDict({n: _log_depth(widths[n], bias) for n in ("L2", "L3")})

    def forward(self, maps: Maps) -> dict[str, Tensor]:
        """Depth [B, h, w] in metres by level, at least float32."""
        depth = {}
        for level, head in self.heads.items():
            wide, no_autocast = full_precision(maps[level])
            with no_autocast:
                depth[level] = head(wide).squeeze(-1).exp()
        return depth


class V14(DepthModel):
    """What the three networks share (sheet v14, sections 1 and 2).

    Options, the default first; every other choice but the last is a recorded fault (decisions 3):
        grid_rule: "half_pixel", one rule for all maps; "recorded": see `Grid` (F9, F17a).
        msda_init: "directional": each head starts to look in its own direction, its four reads 1
            to 4 cells away on every level of a training image (Deformable DETR, Zhu et al. 2021);
            "default": PyTorch's, with offsets of 0.58 map units (F16).
        canvas_write: queries of one cell "mean" their changes or "sum" them (F17a).
        head_bias: heads start at the "median" depth, or at "zero", see `layers.HEAD_BIAS`.
        head_dtype: "float32", or "bfloat16", in which ln depth is rounded (F7).
        token_positions: coarse tokens carry a "sincos" code of their place, or "none" (F11).
        sparse: "fast", or "literal" deformable reads as the sheet writes them; equal in value.

    Raises:
        ConfigError: an option or value it does not have.
        ModelError: a plain ViT, or images with fewer than 2x2 cells on L4.
    """

    queries_are_independent = False
    has_auxiliary = True
    widths: ClassVar[tuple[int, int, int, int]] = (WIDTH,) * 4
    """Channels of the neck."""
    kernels: ClassVar[Mapping[str, int]]
    """Canvas levels, and the size of the convolutions that smooth them."""
    per_level: ClassVar[bool] = False
    """See `Grid`."""
    value_maps: ClassVar[Sequence[str]] = LEVELS
    """Maps that deformable reads see of the four levels."""
    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "grid_rule": ("half_pixel", "recorded"),
        "msda_init": ("directional", "default"),
        "canvas_write": ("mean", "sum"),
        "head_bias": ("median", "zero"),
        "head_dtype": ("float32", "bfloat16"),
        "token_positions": ("sincos", "none"),
        "sparse": ("fast", "literal"),
    }
    order: ClassVar[Sequence[str]] = (
        "encoder", "level3_attention", "neck", "level4_attention", "values", "b3a_tokens",
        "b3b_tokens", "seed", "msda", "b3a", "b3b", "canvas", "head", "neck_depth",
    )  # fmt: skip

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        refuse_plain_vit(self)
        self._level_sizes(config.image_size)  # refuses images that are too small
        options = self.options
        self.grid = Grid(GridRule(options["grid_rule"]), self.per_level)
        self.neck = nn.ModuleList(
            project(channels, width)
            for channels, width in zip(self.encoder.channels, self.widths, strict=True)
        )
        self.coded = options["token_positions"] == "sincos"
        self.level4_attention = MapAttention(self.widths[3], HEADS, positions=self.coded)
        self.b3b_tokens = GlobalTokens(self.widths[3], WIDTH, positions=self.coded)
        self.seed = Seed(self.widths)
        start = self._directions() if options["msda_init"] == "directional" else None
        self.msda = nn.ModuleList(
            self._layer(DeformableRead(self.value_maps, start, options["sparse"] == "literal"))
            for _ in range(3)
        )
        self.b3b = nn.ModuleList(self._layer(GlobalRead("b3b", n)) for n in range(2))
        bias = HEAD_BIAS[options["head_bias"]]
        self.head = DepthHead(bias, low=options["head_dtype"] == "bfloat16")
        self.neck_depth = NeckDepth(dict(zip(LEVELS, self.widths, strict=True)), bias)

    def maps(self, images: Tensor) -> Maps:
        """Padded images [B, 3, H, W] -> the maps of a scene (see the module's text).

        Raises:
            ModelError: fewer than 2x2 cells on L4.
        """
        self._level_sizes((images.shape[-2], images.shape[-1]))
        levels = [layer(x) for layer, x in zip(self.neck, self.encoder(images), strict=True)]
        levels[3] = self.level4_attention(levels[3])
        rows = [level.permute(0, 2, 3, 1).contiguous() for level in levels]
        maps = dict(zip(LEVELS, rows, strict=True))
        return {**maps, **self.projected(maps)}

    def projected(self, maps: Maps) -> dict[str, Tensor]:
        """What is projected of the neck's levels once per image."""
        return self.b3b_tokens(maps["L4"], "b3b")

    def auxiliary(self, maps: Maps) -> dict[str, Tensor]:
        """Depth maps [B, h, w] in metres of the neck's "L2" and "L3" (sheet section 4)."""
        return self.neck_depth(maps)

    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Tensor:
        """Depth [B, K] at points [B, K, 2] in pixels of the padded image."""
        h, asked = self._ask(maps, points, image_size)
        # what the layers add up stays in float32 under autocast
        canvases = {level: full_precision(maps[level])[0] for level in self.kernels}
        for layer in self.layers():
            h, canvases = layer(h, canvases, asked)
        return self.head(self.finish(h, canvases, asked))

    def layers(self) -> list[nn.Module]:
        """The decoder layers in order."""
        return [*self.msda, *self.b3b]

    def finish(self, h: Tensor, canvases: Canvases, asked: Asked) -> Tensor:
        """What happens to the queries [B, K, C] between the last layer and the head."""
        return h

    def explain(self, maps: Maps, points: Tensor, image_size: Size) -> dict[str, Tensor]:
        """What the layers do with K queries: `decode`, watched; normal use pays nothing for it.

        Args:
            maps: of the scene.
            points: [B, K, 2] in pixels of the padded image.
            image_size: height, width of the padded image.

        Returns:
            "depth" [B, K] in metres; "scale" [], the learnt factor e^s of ln depth;
            "gates" [layers, B, K], how far each layer's queries open to the canvas;
            "canvas_write_L2" and so on [layers, B], the norm of what a layer's queries write over
            the norm of the canvas before; "canvas_change_L2" likewise, smoothing included;
            "weights" [3, B, K, 6 heads, 4 levels, 4] of the deformable reads, one in sum over the
            last two; "offsets" [3, B, K, 6, 4, 4, 2] of these reads in map units; "locations", the
            same with the queries' own places added: outside -1..1 is outside the map; "pixels",
            these in pixels of the padded image.
        """
        notes: dict[str, list[Tensor]] = defaultdict(list)
        with torch.no_grad(), evaluating(self), self._watched(notes):
            depth = self.decode(maps, points, image_size)
        found = {name: torch.stack(layers) for name, layers in notes.items()}
        locations, pixels = self._locate(maps, points, image_size, found["offsets"])
        scale = self.head.scale.detach().exp()
        return {**found, "depth": depth, "scale": scale, "locations": locations, "pixels": pixels}

    def _layer(self, cross: nn.Module) -> Layer:
        return Layer(cross, Canvas(self.kernels))

    def _shared_write(self) -> CanvasWrites | None:
        """The canvas write that all layers share, if they do."""
        return None

    def _ask(self, maps: Maps, points: Tensor, image_size: Size) -> tuple[Tensor, Asked]:
        """Seeds [B, K, C] of the queries, and what the layers know of them."""
        sizes = {level: (maps[level].shape[1], maps[level].shape[2]) for level in LEVELS}
        grid = self.grid
        reference = {n: grid.reference(points, image_size, sizes[n]) for n in LEVELS}
        places = {
            n: Places.of(grid.cells(reference[n], sizes[n]), sizes[n], grid.zeros) for n in LEVELS
        }
        cells = {n: grid.written(points, image_size, sizes[n]) for n in self.kernels}
        shares = {n: self._shares(cells[n], maps[n]) for n in cells}
        code = fourier_code(points / points.new_tensor([image_size[1], image_size[0]]), BANDS)
        code = code.to(maps["L1"].dtype)
        asked = Asked(
            maps, grid, reference, places, cells, shares, self.seed.position(code),
            self._shared_write(),
        )  # fmt: skip
        found = torch.cat([asked.read(level, maps[level]) for level in LEVELS], -1)
        return self.seed(found, code), asked

    def _shares(self, cells: Tensor, level: Tensor) -> Tensor:
        """Share [B K, 1] that each query has in the change of its cell [B K] on a level."""
        dtype = torch.promote_types(level.dtype, torch.float32)
        ones = torch.ones_like(cells, dtype=dtype).unsqueeze(-1)
        if self.options["canvas_write"] == "sum":
            return ones
        count = torch.bincount(cells, minlength=level.shape[:3].numel())
        return ones / count.index_select(0, cells).unsqueeze(-1)

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

    def _locate(
        self, maps: Maps, points: Tensor, image_size: Size, offsets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Offsets [..., B, K, 6, 4, 4, 2] -> where they lead, in map units and in pixels."""
        units, pixels = [], []
        for level, offset in zip(LEVELS, offsets.unbind(-3), strict=True):
            size = (maps[level].shape[1], maps[level].shape[2])
            reference = self.grid.reference(points, image_size, size)
            units.append(reference[:, :, None, None] + offset)
            pixels.append(self.grid.pixels(units[-1], image_size, size))
        return torch.stack(units, -3), torch.stack(pixels, -3)

    @contextmanager
    def _watched(self, notes: dict[str, list[Tensor]]) -> Iterator[None]:
        """Lets the layers' parts note what they do, by forward hooks."""

        def note(part: Any, inputs: tuple[Tensor, ...], result: Tensor) -> None:
            for name, value in part.notes(*inputs, result).items():
                notes[name].append(value)

        with ExitStack() as hooks:
            for part in self.modules():
                if isinstance(part, DeformableRead | CanvasRead | CanvasWrite):
                    hooks.callback(part.register_forward_hook(note).remove)
            yield

    @contextmanager
    def without_canvas(self) -> Iterator[None]:
        """Meanwhile no query reads a canvas, as if every gate were shut."""

        def unread(part: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
            return inputs[0] if isinstance(part, CanvasRead) else torch.zeros_like(result)

        with ExitStack() as hooks:
            for part in self.modules():
                read = part.final if isinstance(part, SharedCanvas) else part
                if isinstance(part, CanvasRead | SharedCanvas):
                    hooks.callback(read.register_forward_hook(unread).remove)
            yield


class V14Plan(V14):
    """Document 001 (sheet column a): one canvas on L3, 3 MSDA + 2 B3a + 2 B3b layers; 40,187,371.

    The canvas is read, then written and smoothed by weights that all layers share, and read once
    more before the head. Two self-attention layers sit between stages 3 and 4 of the encoder.

    Options: those of `V14`, and
        inserted_attention: that attention starts as the identity ("zero"), so that stage 4 keeps
            its trained input, or at "random" (F13).
        smooth_init: the canvas's smoothing starts as the identity ("zero"), or by PyTorch's
            "default": the same weights in all seven layers then multiply some channels seven times
            over, and first answers on real frames reach 500 m.
    """

    idea = "v14_dual as designed: one canvas on L3, read, then written; attention to L3 too"
    widths = (64, 128, 192, 384)
    kernels: ClassVar[Mapping[str, int]] = {"L3": 3}
    per_level = True
    value_maps = ("V1", "V2", "L3", "V4")
    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        **V14.choices, "inserted_attention": ("zero", "random"), "smooth_init": ("zero", "default"),
    }  # fmt: skip

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        channels = self.encoder.channels[2]
        zero = self.options["inserted_attention"] == "zero"
        self.level3_attention = MapAttention(
            channels, head_count(channels), positions=self.coded, zero=zero
        )
        self.encoder.insert(self.level3_attention)
        widths = dict(zip(LEVELS, self.widths, strict=True))
        self.values = nn.ModuleDict({n: nn.Linear(widths[n], WIDTH) for n in ("L1", "L2", "L4")})
        self.b3a_tokens = GlobalTokens(widths["L3"], WIDTH, positions=self.coded)
        self.b3a = nn.ModuleList(self._layer(GlobalRead("b3a", n)) for n in range(2))
        self.canvas = SharedCanvas(self.kernels, still=self.options["smooth_init"] == "zero")

    def projected(self, maps: Maps) -> dict[str, Tensor]:
        """Value maps "V1", "V2", "V4", and the keys and values of B3a and B3b."""
        values = {f"V{name[1]}": layer(maps[name]) for name, layer in self.values.items()}
        return {**values, **self.b3a_tokens(maps["L3"], "b3a"), **super().projected(maps)}

    def layers(self) -> list[nn.Module]:
        """The decoder layers in order."""
        return [*self.msda, *self.b3a, *self.b3b]

    def finish(self, h: Tensor, canvases: Canvases, asked: Asked) -> Tensor:
        """The final canvas joins the queries once more."""
        return h + self.canvas.final(asked.read("L3", canvases["L3"]))

    def _layer(self, cross: nn.Module) -> Layer:
        return Layer(cross, PlanCanvas(self.kernels))

    def _shared_write(self) -> CanvasWrites | None:
        return self.canvas.write


class V14Dual(V14):
    """Experiments 8 and 10 (sheet column b): canvases on L2 and L3, 3 MSDA + 2 B3b; 32,881,641."""

    idea = "queries read deformably, meet on canvases on L2 and L3 and attend to each other"
    kernels: ClassVar[Mapping[str, int]] = {"L2": 5, "L3": 3}


class V14Triple(V14):
    """Experiment 9 (sheet column c): canvases on L2, L3 and L4, 3 MSDA + 2 B3b; 33,301,161."""

    idea = "as v14_dual with a third canvas, on L4"
    kernels: ClassVar[Mapping[str, int]] = {"L2": 5, "L3": 5, "L4": 3}


def _depth_wise(kernel: int) -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, kernel, padding=kernel // 2, groups=WIDTH)


def _log_depth(channels: int, bias: float) -> nn.Linear:
    """The last layer of a head, with its bias set."""
    layer = nn.Linear(channels, 1)
    nn.init.constant_(layer.bias, bias)
    return layer
