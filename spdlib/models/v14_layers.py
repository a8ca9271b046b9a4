"""v14's decoder layers: deformable reads, reads of all tokens, canvases, attention of queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spdlib.geometry import GridRule, Size, grid_size, nearest_cell
from spdlib.inspection import CanvasStep, Gate, Probe, Reads
from spdlib.models.attention import Attention, layer_tokens
from spdlib.models.layers import (
    LEVELS,
    FeedForward,
    NumberHead,
    fourier_code,
    full_precision,
    start_at_zero,
)
from spdlib.models.sampling import Places, deformable_read, reference_deformable_read
from spdlib.scene import Maps

WIDTH, HEADS, READS, BANDS, DROPOUT = 192, 6, 4, 8, 0.1

Canvases = dict[str, Tensor]
"""Canvases [B, h, w, C] by level."""


@dataclass(frozen=True)
class Grid:
    """Map units, in which points and reads are placed: -1..1 across every map.

    Under the default rule they run from edge to edge of image and map, so that a point has one
    place on all levels. Under the recorded rule they run from the first cell's centre to the last
    one's (`align_corners=True`), and reads outside are zero (F9, F17a).

    Attributes:
        rule: how pixels find cells.
        per_level: under the recorded rule, place a point on each level by u / stride (the plan)
            instead of once for all levels by u / (W - 1) (as run).
        mean: queries of one cell share its change; else each adds its own in full (F17a).
    """

    rule: GridRule
    per_level: bool
    mean: bool = True

    @property
    def shift(self) -> float:
        """Pixels or cells from the edge, where map units begin, to the first centre."""
        return 0.0 if self.rule is GridRule.RECORDED else 0.5

    def reference(self, points: Tensor, image_size: Size, map_size: Size) -> Tensor:
        """Points [..., 2] in pixels -> map units [..., 2]."""
        return (points + self.shift) / self._pixels_per_unit(points, image_size, map_size) - 1

    def pixels(self, units: Tensor, image_size: Size, map_size: Size) -> Tensor:
        """Map units [..., 2] -> pixels [..., 2]: the inverse of `reference`."""
        return (units + 1) * self._pixels_per_unit(units, image_size, map_size) - self.shift

    def cells(self, units: Tensor, map_size: Size) -> Tensor:
        """Map units [..., 2] -> fractional cells [..., 2]."""
        return (units + 1) * self.cells_per_unit(units, map_size) - self.shift

    def cells_per_unit(self, like: Tensor, map_size: Size) -> Tensor:
        """Cells [2] (x, y) in one map unit: half a map, which spans two units."""
        cells = like.new_tensor(map_size[::-1])
        return (cells - 1) / 2 if self.rule is GridRule.RECORDED else cells / 2

    def _pixels_per_unit(self, like: Tensor, image_size: Size, map_size: Size) -> Tensor:
        image = like.new_tensor(image_size[::-1])
        if self.rule is GridRule.HALF_PIXEL:
            return image / 2
        if self.per_level:
            return image / like.new_tensor(map_size[::-1]) * self.cells_per_unit(like, map_size)
        return (image - 1) / 2

    def written(self, points: Tensor, image_size: Size, map_size: Size) -> Tensor:
        """Row [B K] of a map [B h w, C] that points [B, K, 2] in pixels write to.

        The recorded rule takes the cell floor(u / stride).
        """
        x, y = nearest_cell(points + (self.shift - 0.5), image_size, map_size).unbind(-1)
        image = torch.arange(len(points), device=points.device).unsqueeze(-1)
        return ((image * map_size[0] + y) * map_size[1] + x).flatten()

    def shares(self, cells: Tensor, dtype: torch.dtype) -> Tensor:
        """Share [B K, 1] that each query has in the change of its cell [B K]."""
        ones = torch.ones_like(cells, dtype=torch.promote_types(dtype, torch.float32))
        shares = ones / torch.bincount(cells).index_select(0, cells) if self.mean else ones
        return shares.unsqueeze(-1)


@dataclass(frozen=True)
class Queries:
    """What every layer knows of one call: the maps, and where its K queries lie on them.

    Attributes:
        maps: of the scene.
        points: the queries [B, K, 2] in pixels of the padded image.
        image_size: height, width of that image.
        grid: the rule that places points and reads.
        reference: the queries in map units by level, [B, K, 2].
        places: the queries' bilinear reads by level.
        cells: the cell that each query writes to by canvas level, [B K].
        shares: of each query in its cell's change by canvas level, [B K, 1].
        fast: the form of execution.
        shared_write: the canvas write of all layers; None where each has its own.
        positions: the queries' position code for Q2Q, [B, K, C], which the seed makes.
        layer: name of the layer at work.
        probes: what the layers did, if it is wanted.
    """

    maps: Maps
    points: Tensor
    image_size: Size
    grid: Grid
    reference: Mapping[str, Tensor]
    places: Mapping[str, Places]
    cells: Mapping[str, Tensor]
    shares: Mapping[str, Tensor]
    fast: bool
    shared_write: CanvasWrites | None = None
    positions: Tensor | None = None
    layer: str = ""
    probes: list[Probe] | None = None

    def record(self, probe: Callable[[], Probe]) -> None:
        """Keep what a layer did if it is wanted; else it is not even computed."""
        if self.probes is not None:
            self.probes.append(probe())

    def read(self, level: str, values: Tensor) -> Tensor:
        """Bilinear values [B, K, C] of a map of this level, [B, h, w, C], at the queries."""
        return self.places[level].read(values)


class Seed(nn.Module):
    """h = LN(Linear[levels at the query; code]), and Q2Q's positions (160,512)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.Linear(sum(widths) + 4 * BANDS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.position = nn.Linear(4 * BANDS, WIDTH)

    def forward(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """Seeds h and positions of the queries, [B, K, C] each."""
        places = queries.points / queries.points.new_tensor(queries.image_size[::-1])
        code = fourier_code(places, BANDS).to(queries.maps["L1"].dtype)
        found = [queries.read(level, queries.maps[level]) for level in LEVELS]
        h = self.norm(self.project(torch.cat([*found, code], -1)))
        # what the layers add up stays in float32 under autocast
        return full_precision(h)[0], self.position(code)


class DeformableRead(nn.Module):
    """Multi-scale deformable attention: each head reads 4 points of 4 levels (93,024).

    Offsets are in map units and unbounded, alike on all levels. Head k reads channels 32 k to
    32 k + 31 of the four value maps and weighs its 16 reads by one softmax.
    """

    def __init__(self, levels: Sequence[str]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.norm = nn.LayerNorm(WIDTH)
        self.offsets = nn.Linear(WIDTH, HEADS * len(LEVELS) * READS * 2)
        self.weights = nn.Linear(WIDTH, HEADS * len(LEVELS) * READS)
        self.out = nn.Linear(WIDTH, WIDTH)

    def start_directional(self, offsets: Tensor) -> None:
        """Fresh reads lie at offsets [6, 4, 4, 2] in map units, whatever the query (F16)."""
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(offsets.flatten())

    def forward(self, h: Tensor, queries: Queries) -> Tensor:
        """Queries [B, K, C] -> [B, K, C]."""
        offsets, weights = self.choose(h)
        queries.record(lambda: _chosen(queries, offsets, weights))
        read = deformable_read if queries.fast else reference_deformable_read
        found = []
        for n, (level, name) in enumerate(zip(LEVELS, self.levels, strict=True)):
            values, places = queries.maps[name], queries.reference[level][:, :, None, None]
            cells = queries.grid.cells(places + offsets[:, :, :, n], grid_size(values))
            found.append(read(values, cells, weights[:, :, :, n], queries.grid.rule.zeros))
        return h + self.out(torch.stack(found).sum(0))

    def choose(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets [B, K, 6, 4 levels, 4, 2] in map units and weights [B, K, 6, 4 levels, 4]."""
        z = self.norm(h)
        offsets = self.offsets(z).unflatten(-1, (HEADS, len(LEVELS), READS, 2))
        weights = self.weights(z).unflatten(-1, (HEADS, -1)).softmax(-1)
        return offsets, weights.unflatten(-1, (len(LEVELS), READS))


def _chosen(queries: Queries, offsets: Tensor, weights: Tensor) -> Reads:
    """A layer's reads [B, K, 6, 4 levels, 4] as one list."""
    units, pixels = [], []
    for level, offset in zip(LEVELS, offsets.unbind(3), strict=True):
        size = grid_size(queries.maps[level])
        units.append(queries.reference[level][:, :, None, None] + offset)
        pixels.append(queries.grid.pixels(units[-1], queries.image_size, size))
    return Reads(
        queries.layer,
        "reads of its choice",
        torch.stack(pixels, 3).flatten(2, 4),
        weights.flatten(2) / HEADS,
        [level for level in LEVELS for _ in range(READS)] * HEADS,
        offsets=offsets.flatten(2, 4),
        outside=(torch.stack(units, 3).abs() > 1).any(-1).flatten(2),
    )


class GlobalRead(nn.Module):
    """A layer of B3a or B3b: attention over all `GlobalTokens` of one level (74,496).

    It reads the keys and values of its group, "b3a" or "b3b", by its number there.
    """

    def __init__(self, group: str, number: int) -> None:
        super().__init__()
        self.group, self.number = group, number
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = Attention(WIDTH, HEADS, dropout=DROPOUT)

    def forward(self, h: Tensor, queries: Queries) -> Tensor:
        """Queries [B, K, C] -> [B, K, C]."""
        tokens = layer_tokens(queries.maps, self.group)[self.number]
        return h + self.attention.read(self.norm(h), *tokens)


class CanvasWrite(nn.Module):
    """Queries add to the cells they lie in, then the canvas smooths itself.

    37,056 for the write; 3,840 or 9,984 for two depth-wise convolutions of size 3 or 5.
    """

    def __init__(self, level: str, kernel: int) -> None:
        super().__init__()
        self.level = level
        self.write = nn.Linear(WIDTH, WIDTH)
        first, last = (
            nn.Conv2d(WIDTH, WIDTH, kernel, padding=kernel // 2, groups=WIDTH) for _ in range(2)
        )
        self.smooth = nn.Sequential(first, nn.GELU(), last)

    def forward(self, canvas: Tensor, h: Tensor, queries: Queries) -> Tensor:
        """Canvas [B, h, w, C] and queries [B, K, C] -> a new canvas [B, h, w, C]."""
        written = self.written(canvas, h, queries)
        changed = written + self.smooth(written.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

        def step() -> CanvasStep:
            parts = (written - canvas, changed - canvas, canvas)
            write, change, before = (x.flatten(1).norm(dim=1) for x in parts)
            return CanvasStep(queries.layer, self.level, write / before, change / before)

        queries.record(step)
        return changed

    def written(self, canvas: Tensor, h: Tensor, queries: Queries) -> Tensor:
        """The canvas after the write alone; the given one stays as it is (F17b)."""
        change = self.write(h).flatten(0, 1) * queries.shares[self.level]
        cells, change = canvas.flatten(0, 2), change.to(canvas.dtype)
        return cells.index_add(0, queries.cells[self.level], change).view_as(canvas)


class CanvasWrites(nn.Module):
    """A `CanvasWrite` for each canvas; `kernels` by level."""

    def __init__(self, kernels: Mapping[str, int]) -> None:
        super().__init__()
        self.levels = nn.ModuleDict({level: CanvasWrite(level, n) for level, n in kernels.items()})

    def start_as_identity(self) -> None:
        """Fresh canvases are not smoothed yet."""
        level: Any
        for level in self.levels.values():
            start_at_zero(level.smooth[-1])

    def forward(self, canvases: Canvases, h: Tensor, queries: Queries) -> Canvases:
        """Canvases and queries [B, K, C] -> new canvases."""
        return {level: write(canvases[level], h, queries) for level, write in self.levels.items()}


class CanvasRead(nn.Module):
    """h += gate(LN h) Linear[canvases at the query]; the norm serves the gate only."""

    def __init__(self, canvases: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.gate = nn.Linear(WIDTH, 1)
        self.read = nn.Linear(canvases * WIDTH, WIDTH)

    def forward(self, h: Tensor, canvases: Canvases, queries: Queries) -> Tensor:
        """Queries [B, K, C] -> [B, K, C]."""
        found = [queries.read(level, canvas) for level, canvas in canvases.items()]
        opening = self.gate(self.norm(h)).sigmoid()
        queries.record(lambda: Gate(queries.layer, opening.squeeze(-1)))
        return h + opening * self.read(torch.cat(found, -1))


class Canvas(nn.Module):
    """A layer's canvas step: write, smooth, read.

    The plan reads first, then writes and smooths by weights that all layers share (37,633).
    """

    def __init__(self, kernels: Mapping[str, int], shared: bool) -> None:
        super().__init__()
        if not shared:
            self.write = CanvasWrites(kernels)
        self.read = CanvasRead(len(kernels))

    def forward(self, h: Tensor, canvases: Canvases, queries: Queries) -> tuple[Tensor, Canvases]:
        """Queries [B, K, C] and canvases -> both, changed."""
        if queries.shared_write is None:
            canvases = self.write(canvases, h, queries)
            return self.read(h, canvases, queries), canvases
        h = self.read(h, canvases, queries)
        return h, queries.shared_write(canvases, h, queries)


class SharedCanvas(nn.Module):
    """What the plan's layers share: write and smoothing, and the read before the head (77,952)."""

    def __init__(self, kernels: Mapping[str, int]) -> None:
        super().__init__()
        self.write = CanvasWrites(kernels)
        self.final = nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor, canvases: Canvases, queries: Queries) -> tuple[Tensor, Canvases]:
        """As a last layer: queries [B, K, C] that have read the canvas, which stays as it is."""
        return h + self.final(queries.read("L3", canvases["L3"])), canvases


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
    """A decoder layer: a cross-read (deformable or global), canvas step, Q2Q, FFN."""

    def __init__(self, cross: nn.Module, canvas: nn.Module) -> None:
        super().__init__()
        self.cross = cross
        self.canvas = canvas
        self.q2q = QueryAttention()
        self.norm_ffn = nn.LayerNorm(WIDTH)
        self.ffn = FeedForward(WIDTH)

    def forward(self, h: Tensor, canvases: Canvases, queries: Queries) -> tuple[Tensor, Canvases]:
        """Queries [B, K, C] and canvases -> both, changed."""
        h = self.cross(h, queries)
        h, canvases = self.canvas(h, canvases, queries)
        h = self.q2q(h, queries.positions)
        return h + self.ffn(self.norm_ffn(h)), canvases


class DepthHead(nn.Module):
    """depth = exp(e^s Linear(384 -> 1) GELU Linear(192 -> 384) h), s learnt from 0 (74,498)."""

    def __init__(self, low: bool) -> None:
        super().__init__()
        self.layers = NumberHead(WIDTH, low)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        """Queries [..., C] -> depth [...] in metres, at least float32."""
        return self.layers(h, self.scale.exp()).exp().squeeze(-1)


class NeckDepth(nn.Module):
    """Depth maps of the neck's L2 and L3 for training's auxiliary loss: exp(Conv1x1)."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        # on a channels-last map a 1x1 convolution is a Linear
        self.heads = nn.ModuleDict({name: nn.Linear(widths[name], 1) for name in ("L2", "L3")})

    def forward(self, maps: Maps) -> dict[str, Tensor]:
        """Depth [B, h, w] in metres by level, at least float32."""
        depth = {}
        for level, head in self.heads.items():
            wide, no_autocast = full_precision(maps[level])
            with no_autocast:
                depth[level] = head(wide).squeeze(-1).exp()
        return depth
