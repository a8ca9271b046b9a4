"""v13's blocks, B1 to B5 in the order in which a query passes them.

Each knows both forms of execution. The reference form projects every token that a query has read.
The fast form projects maps before they are read, or nothing at all (see `Attention.read_own`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.geometry import GridRule, Size, cells_to_pixels, grid_size, pixels_to_cells
from spdlib.inspection import CellAttention, Probe, Reads
from spdlib.models.attention import CrossLayer, GlobalTokens, layer_tokens
from spdlib.models.layers import fourier_code, full_precision
from spdlib.models.sampling import (
    bilinear_cells,
    deformable_read,
    gather_rows,
    grid_sampled,
    reference_deformable_read,
    square,
)
from spdlib.scene import Maps

CHANNELS = (64, 128, 192, 384)
"""Widths of the four levels behind the neck."""

WIDTH, HEADS = 192, 6
SIDE, CENTRE = 5, 12
LEARNED, REACH = 8, 6
"""Learned offsets of B1, and how many cells of L1 they reach."""
CODE_UNIT = 16
"""Cells of L1 that an offset's code takes for one turn. Offsets span 2 x 6 cells: in units of fewer
than 12, some that differ would have one code (+3 and -3, +6 and -6 in units of 6)."""
LOCAL_BANDS, PLACE_BANDS = 4, 8
READS = 4
TOKENS = {"L1": SIDE**2 - 1 + LEARNED, "L2": SIDE**2, "L3": SIDE**2, "L4": 9}
"""B1's tokens by level, in order."""
VALUE_REACH = {"V2": 4.0, "V3": 2.0, "V4": 1.0}
"""How many of its cells B4's offsets reach on each value map."""


class Queries(NamedTuple):
    """What every block knows of one call: the maps, and how its K queries read them.

    Attributes:
        maps: of the scene.
        points: the queries [B, K, 2] in pixels of the padded image.
        image_size: height, width of that image.
        rule: how pixels find cells.
        fast: the form of execution.
        probes: what the blocks did, if it is wanted.
    """

    maps: Maps
    points: Tensor
    image_size: Size
    rule: GridRule
    fast: bool
    probes: list[Probe] | None = None

    def record(self, probe: Callable[[], Probe]) -> None:
        """Keep what a block did if it is wanted; else it is not even computed."""
        if self.probes is not None:
            self.probes.append(probe())

    def record_attention(
        self, part: str, level: str, weights: Tensor, routed: Tensor | None
    ) -> None:
        """A B3's weights [B, K, cells] on a level, and the cells [B, K, R] it routes to."""
        size = self.size(level)
        self.record(lambda: CellAttention(part, level, weights.unflatten(-1, size), routed))

    def size(self, name: str) -> Size:
        """Height, width of a map."""
        return grid_size(self.maps[name])

    def extent(self) -> Tensor:
        """Width, height of the image [2]."""
        return self.points.new_tensor(self.image_size[::-1])

    def stride(self, name: str) -> Tensor:
        """Pixels from one cell of a map to the next [2]."""
        return self.extent() / self.points.new_tensor(self.size(name)[::-1])

    def code(self, pixels: Tensor) -> Tensor:
        """Fourier code [..., 32] of pixels [..., 2] in units of the image."""
        return fourier_code(pixels / self.extent(), PLACE_BANDS).to(self.maps["L1"].dtype)

    def read(self, name: str, pixels: Tensor) -> Tensor:
        """Bilinear values [B, K, n, C] of a map at pixels [B, K, n, 2]."""
        read = bilinear_cells if self.fast else grid_sampled
        return read(self.maps[name], self._cells(name, pixels), self.rule.zeros)

    def read_heads(self, name: str, pixels: Tensor, weights: Tensor) -> Tensor:
        """Sums [B, N, C] of a map's values at sampling locations [B, N, heads, n, 2] in pixels.

        Every head reads its own channels, weighted by [B, N, heads, n].
        """
        read = deformable_read if self.fast else reference_deformable_read
        return read(self.maps[name], self._cells(name, pixels), weights, self.rule.zeros)

    def _cells(self, name: str, pixels: Tensor) -> Tensor:
        return pixels_to_cells(pixels, self.image_size, self.size(name), self.rule)


class B1(nn.Module):
    """B1: a query's seed and the 91 tokens around it (139,472).

    32 tokens of L1: a 5x5 neighbourhood without its centre, and 8 learned offsets. 25 of L2, 25 of
    L3, 9 of L4. A token holds what is there, of which level it is and where it lies. The fast form
    projects L2 and L4 as maps, without bias: the recorded rule has zeros outside the map before it
    is added. An offset's code takes `unit` cells of L1 for one turn: with 1 all whole cells have
    one code (F10).
    """

    def __init__(self, unit: int) -> None:
        super().__init__()
        self.unit = unit
        self.offsets = nn.Linear(CHANNELS[0], 2 * LEARNED)
        self.local = nn.Linear(CHANNELS[0] + 4 * LOCAL_BANDS, WIDTH)
        self.value2 = nn.Linear(CHANNELS[1], WIDTH)
        self.value4 = nn.Linear(CHANNELS[3], WIDTH)
        self.seed = nn.Linear(CHANNELS[0] + 4 * PLACE_BANDS, WIDTH)
        self.type_code = nn.Parameter(torch.zeros(4, WIDTH))
        self.place_code = nn.Parameter(torch.empty(SIDE**2, WIDTH))
        nn.init.normal_(self.place_code, std=0.02)

    def maps(self, levels: Maps, fast: bool) -> dict[str, Tensor]:
        """The neck's levels [B, h, w, C_l] -> the maps that B1 reads, by the same names."""
        if not fast:
            return dict(levels)
        level2 = F.linear(levels["L2"], self.value2.weight)
        level4 = F.linear(levels["L4"], self.value4.weight)
        return {**levels, "L2": level2, "L4": level4}

    def forward(self, queries: Queries) -> tuple[Tensor, list[Tensor], Tensor]:
        """Seeds [B, K, 192], tokens [B, K, 32/25/25/9, 192] and the pixels they are read at."""
        points = queries.points
        feature = queries.read("L1", points.unsqueeze(2)).squeeze(2)
        h = self.seed(torch.cat([feature, queries.code(points)], -1))
        offsets = self._offsets(feature, points)
        pixels = {
            name: points.unsqueeze(2) + offset * queries.stride(name)
            for name, offset in offsets.items()
        }
        level1, *coarse = (queries.read(name, here) for name, here in pixels.items())
        tokens = [self._fine(level1, offsets["L1"]), *self._coarse(queries.fast, *coarse)]
        # what the layers add up stays in float32 under autocast
        return full_precision(h)[0], tokens, torch.cat(list(pixels.values()), 2)

    def _offsets(self, feature: Tensor, points: Tensor) -> dict[str, Tensor]:
        """Where tokens lie by level, [B, K, 32, 2], [25, 2], [25, 2] and [9, 2] in its cells."""
        five, three = square(SIDE, points), square(3, points)
        fixed = torch.cat([five[:CENTRE], five[CENTRE + 1 :]]).expand(*points.shape[:2], -1, -1)
        learned = REACH * torch.tanh(self.offsets(feature)).unflatten(-1, (LEARNED, 2))
        near = torch.cat([fixed, learned.to(points.dtype)], 2)
        return {"L1": near, "L2": five, "L3": five, "L4": three}

    def _fine(self, level1: Tensor, offsets: Tensor) -> Tensor:
        """Tokens [B, K, 32, 192] of reads of L1 [B, K, 32, 64] at offsets [B, K, 32, 2]."""
        codes = fourier_code(offsets / self.unit, LOCAL_BANDS).to(level1.dtype)
        return F.gelu(self.local(torch.cat([level1, codes], -1))) + self.type_code[0]

    def _coarse(self, fast: bool, level2: Tensor, level3: Tensor, level4: Tensor) -> list[Tensor]:
        """Tokens [B, K, 25, 192], [B, K, 25, 192] and [B, K, 9, 192] of reads of L2 to L4."""
        inner = self.place_code.unflatten(0, (SIDE, SIDE))[1:4, 1:4].flatten(0, 1)
        places = (self.place_code, self.place_code, inner)
        code2, code3, code4 = (p + e for p, e in zip(places, self.type_code[1:], strict=True))
        if fast:
            code2, code4 = code2 + self.value2.bias, code4 + self.value4.bias
        else:
            level2, level4 = self.value2(level2), self.value4(level4)
        return [level2 + code2, level3 + code3, level4 + code4]


class B2(nn.Module):
    """B2, and B5: layers that read a query's own tokens (890,112; 1,335,744).

    The tokens have a LayerNorm for each layer, or fewer: the last serves all that remain.
    """

    def __init__(self, layers: int, norms: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(norms))
        readers = (CrossLayer(WIDTH, HEADS, WIDTH, dropout) for _ in range(layers))
        self.layers = nn.ModuleList(readers)

    def forward(self, h: Tensor, tokens: Sequence[Tensor], fast: bool) -> tuple[Tensor, Tensor]:
        """Queries h [B, K, C] read their tokens [B, K, T_i, C], T in sum, layer after layer.

        The tokens are `standardised`, for with this all norms begin.

        Returns:
            h, and the last layer's weights [B, K, heads, T].
        """
        layer: Any
        for number, layer in enumerate(self.layers):
            norm = self.norms[min(number, len(self.norms) - 1)]
            h, weights = layer.read_own(h, tokens, norm, fast)
        return h, weights


class B3(nn.Module):
    """B3: two layers that read all cells of a level; `name` is its `GlobalTokens`' (741,504)."""

    def __init__(self, name: str, dropout: float) -> None:
        super().__init__()
        self.name = name
        self.layers = nn.ModuleList(CrossLayer(WIDTH, HEADS, None, dropout) for _ in range(2))

    def forward(self, h: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
        """Queries h [B, K, 192] -> h, and the last weights [B, K, cells], mean of heads."""
        layer: Any
        for layer, tokens in zip(self.layers, layer_tokens(maps, self.name), strict=True):
            h, weights = layer.read_shared(h, *tokens)
        return h, weights.mean(1)


class B4(nn.Module):
    """B4: what L2, L3 and L4 hold around the routed cells, the anchors: 72 reads each (159,384).

    Bounded offsets reach `VALUE_REACH` cells at most; the plan's have no bound.
    """

    def __init__(self, bounded: bool) -> None:
        super().__init__()
        self.bounded = bounded
        self.condition = nn.Linear(2 * WIDTH + 4 * PLACE_BANDS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.offsets = nn.Linear(WIDTH, HEADS * len(VALUE_REACH) * READS * 2)
        self.weights = nn.Linear(WIDTH, HEADS * len(VALUE_REACH) * READS)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.type_code = nn.Parameter(torch.zeros(WIDTH))

    def maps(self, anchors: Tensor, fast: bool) -> dict[str, Tensor]:
        """What anchors hold [B, h4, w4, 192] -> "anchors"; fast, as `condition` projects it."""
        return {"anchors": F.linear(anchors, self._parts()[1]) if fast else anchors}

    def forward(self, h: Tensor, routed: Tensor, queries: Queries) -> Tensor:
        """Queries h [B, K, 192] and their routed cells [B, K, R] -> tokens [B, K, R, 192]."""
        width = queries.size("anchors")[1]
        cells = torch.stack([routed % width, routed // width], -1)
        anchors = self._centres(cells, queries)
        feature = self._conditioned(h, cells, anchors, queries)
        pixels = anchors[..., None, None, None, :] + self._offsets(feature, queries)
        weights = self.weights(feature).unflatten(-1, (HEADS, -1)).softmax(-1)
        weights = weights.unflatten(-1, (len(VALUE_REACH), READS))
        where, shares = (x.flatten(1, 2).unbind(3) for x in (pixels, weights))
        found = [queries.read_heads(*x) for x in zip(VALUE_REACH, where, shares, strict=True)]
        tokens = self.out(torch.stack(found).sum(0)).unflatten(1, routed.shape[1:])
        queries.record(lambda: _around(pixels, weights))
        return tokens

    def _centres(self, cells: Tensor, queries: Queries) -> Tensor:
        """Pixels [..., 2] of cells' centres; the recorded rule has them at 32 column + 16."""
        cells = cells.to(queries.points.dtype)
        centres = cells_to_pixels(cells, queries.image_size, queries.size("anchors"))
        return centres + 0.5 if queries.rule is GridRule.RECORDED else centres

    def _conditioned(self, h: Tensor, cells: Tensor, anchors: Tensor, queries: Queries) -> Tensor:
        """LN(GELU(Linear[h ; what the anchor holds ; code of its distance])), [B, K, R, 192]."""
        code = queries.code(anchors - queries.points.unsqueeze(2))
        anchor = gather_rows(queries.maps["anchors"], *cells.unbind(-1))
        if queries.fast:  # one by one: the anchors' part is a map, the query's is of all its cells
            of_query, _, of_code = self._parts()
            query = F.linear(h, of_query, self.condition.bias).unsqueeze(2)
            feature = query + anchor + F.linear(code, of_code)
        else:
            query = h.unsqueeze(2).expand_as(anchor)
            feature = self.condition(torch.cat([query, anchor, code], -1))
        return self.norm(F.gelu(feature))

    def _parts(self) -> Sequence[Tensor]:
        """Weights of `condition` on the query, the anchor and the code of their distance."""
        return self.condition.weight.split([WIDTH, WIDTH, 4 * PLACE_BANDS], 1)

    def _offsets(self, feature: Tensor, queries: Queries) -> Tensor:
        """Offsets [B, K, R, 6, 3, 4, 2] in pixels."""
        cells = self.offsets(feature).unflatten(-1, (HEADS, len(VALUE_REACH), READS, 2))
        cells = cells.to(queries.points.dtype)
        if self.bounded:
            cells = torch.tanh(cells) * cells.new_tensor(list(VALUE_REACH.values())).view(-1, 1, 1)
        return cells * torch.stack([queries.stride(name) for name in VALUE_REACH]).unsqueeze(1)


def _around(pixels: Tensor, weights: Tensor) -> Reads:
    """B4's reads [B, K, R, 6, 3, 4, 2] as one list."""
    cells = weights.shape[2]
    levels = [f"L{name[1]}" for name in VALUE_REACH for _ in range(READS)] * (cells * HEADS)
    shares = weights.flatten(2) / (cells * HEADS)
    return Reads("B4", f"reads around {cells} cells", pixels.flatten(2, 5), shares, levels)


class B5(B2):
    """B5: layers over B1's tokens and B4's, built as those of B2."""


class Precompute(nn.Module):
    """What is projected once per image, but not for B1 (505,344; 506,114 with calibration)."""

    def __init__(self, coded: bool, calibrated: bool) -> None:
        super().__init__()
        self.b3_tokens = GlobalTokens(CHANNELS[3], WIDTH, positions=coded)
        self.anchors = nn.Linear(CHANNELS[3], WIDTH)
        self.values = ValueMaps()
        if calibrated:
            self.calibration = Calibration()


class Calibration(nn.Module):
    """depth = 1 / (softplus(scale number + shift) + 1e-6), both of the image's mean L4 (770)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(CHANNELS[3], 1)
        self.shift = nn.Linear(CHANNELS[3], 1)

    def forward(self, level4: Tensor) -> Tensor:
        """L4 [B, h, w, 384] -> scale, positive, and shift [B, 1, 1, 2], at least float32."""
        wide, no_autocast = full_precision(level4)
        with no_autocast:
            mean = wide.mean((1, 2), keepdim=True)
            return torch.cat([F.softplus(self.scale(mean)), self.shift(mean)], -1)

    @staticmethod
    def depth(number: Tensor, calibration: Tensor) -> Tensor:
        """Depth [B, K] in metres of numbers [B, K], at least float32."""
        scale, shift = calibration.to(number.dtype).flatten(1).unsqueeze(1).unbind(-1)
        return 1 / (F.softplus(number * scale + shift) + 1e-6)


class ValueMaps(nn.ModuleDict):
    """L2 to L4 projected to 192 channels: "V2", "V3" and "V4" (135,744)."""

    def __init__(self) -> None:
        pairs = zip(VALUE_REACH, CHANNELS[1:], strict=True)
        super().__init__({name: nn.Linear(channels, WIDTH) for name, channels in pairs})

    def forward(self, levels: Maps) -> dict[str, Tensor]:
        """The neck's levels [B, h, w, C_l] -> value maps [B, h, w, 192] by name."""
        return {name: layer(levels[f"L{name[1]}"]) for name, layer in self.items()}
