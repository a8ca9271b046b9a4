"""v15.0 and v15.1: behind v15's global path, a local path of convolutions as DPT has it.

Upsampled twice and refined, s8, L2 and L1 become a depth map four times finer than L1. A query is
answered in three ways:

* `dense`: the whole map, read bilinearly. `execution = "reference"` answers queries so.
* `at`: the four sites around a query alone, through windows of the maps. The same number, for
  13.4 M MACs a query. `execution = "fast"`.
* `recorded`: patches around fractional centres, which the experiments were scored with. Cheaper,
  and another function than was trained (F18): `query_path = "recorded"`.

DPT puts each 1x1 convolution after the upsampling. The two commute (bilinear weights sum to one),
so it runs before, on a quarter of the cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.geometry import Size, grid_size, pixels_to_cells, size_of
from spdlib.models.base import Caption, DepthModel
from spdlib.models.encoders import CONVNEXT_V2_TINY
from spdlib.models.layers import (
    MEDIAN_DEPTH,
    ResidualConvUnit,
    channels_last,
    full_precision,
    resize,
    start_at,
)
from spdlib.models.necks import CAPTIONS, PyramidNeck, ViTNeck
from spdlib.models.options import ModelConfig, Options
from spdlib.models.registry import register
from spdlib.models.sampling import bilinear_cells, bilinear_points, interval, square
from spdlib.models.v15 import WIDTH, GlobalPath
from spdlib.models.windows import Window, below
from spdlib.scene import Answer, Maps

SITES_A_QUERY = 525
"""Sites of the dense map that cost as many MACs as one query."""
TOGETHER = 256
"""Queries whose windows are computed at a time, for memory."""


class ConvLocalPath(nn.Module):
    """Two fusions and a head of convolutions (331,489 parameters).

    It reads the maps "s8" and "L2", [B, h2, w2, C], and "L1", [B, 2 h2, 2 w2, C].
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.unit_s8 = ResidualConvUnit(width)
        self.unit_level2 = ResidualConvUnit(width)
        self.out2 = nn.Conv2d(width, width, 1)
        self.unit_fused = ResidualConvUnit(width)
        self.unit_level1 = ResidualConvUnit(width)
        self.out1 = nn.Conv2d(width, width, 1)
        self.narrow = nn.Conv2d(width, width // 2, 3, padding=1)
        self.refine = nn.Conv2d(width // 2, width // 2, 3, padding=1)
        self.last = nn.Conv2d(width // 2, 1, 1)

    def number(self, refined: Tensor) -> Tensor:
        """What depth is made of, [N, h, w] of refined features [N, C / 2, h, w]; full precision."""
        wide, no_autocast = full_precision(refined)
        with no_autocast:
            return self.last(F.relu(wide)).squeeze(1)

    def dense(self, maps: Maps) -> Tensor:
        """The number [B, 4 h1, 4 w1] at all sites."""
        s8, level2, level1 = (maps[name].permute(0, 3, 1, 2) for name in ("s8", "L2", "L1"))
        height, width = size_of(level1)
        fused = resize(self.out2(self.unit_s8(s8) + self.unit_level2(level2)), (height, width))
        fused = self.out1(self.unit_fused(fused) + self.unit_level1(level1))
        narrow = self.narrow(resize(fused, (2 * height, 2 * width)))
        return self.number(self.refine(resize(narrow, (4 * height, 4 * width))))

    def at(self, maps: Maps, start: Tensor) -> Tensor:
        """The number [B K, 2, 2] at 2x2 sites of the dense map, from sites [B, K, 2] (x, y) on."""
        level1 = maps["L1"]
        flat = start.flatten(0, 1)
        # how far each step reads the step before: 2 sites, through a 3x3 convolution 4, ...
        refined, refined_count = flat - 1, 4
        narrow, narrow_count = below(refined, refined_count)
        fused, fused_count = below(narrow - 1, narrow_count + 2)
        units, units_count = fused - 2, fused_count + 4
        coarse, coarse_count = below(units, units_count)

        def cut(level: Tensor, first: Tensor, count: int) -> Window:
            return Window.cut(level, first.view(start.shape), count)

        s8, level2 = (cut(maps[name], coarse - 2, coarse_count + 4) for name in ("s8", "L2"))
        window = (s8.unit(self.unit_s8) + level2.unit(self.unit_level2)).conv(self.out2)
        window = window.upsampled(units, units_count).unit(self.unit_fused)
        window = window + cut(level1, units, units_count).unit(self.unit_level1)
        window = window.conv(self.out1).upsampled(narrow - 1, narrow_count + 2).conv(self.narrow)
        window = window.upsampled(refined, refined_count).conv(self.refine)
        return self.number(window.cells)

    def recorded(self, maps: Maps, points: Tensor, image_width: int) -> Tensor:
        """The number [B, K] at points [B, K, 2], from 9x9 and 7x7 patches, as on record (F18).

        A patch is read around u / t and v / t, for t pixels a cell, with zeros outside. Nothing in
        it is padded, and upsampling it spreads its corners to the new ones: it shrinks a little.
        After each upsampling the half that the query lies in is kept.
        """
        coarse, fine = (image_width / maps[name].shape[2] for name in ("s8", "L1"))
        where = points.flatten(0, 1)
        patches = [
            _patch(maps[name], points, stride, side)
            for name, stride, side in (("s8", coarse, 9), ("L2", coarse, 9), ("L1", fine, 7))
        ]
        units = (self.unit_s8, self.unit_level2, self.unit_level1)
        s8, level2, level1 = map(_unpadded_unit, units, patches)
        x = self.out2(_recentred(_doubled(s8 + level2), where, coarse, 7))
        x = _recentred(_doubled(_unpadded_unit(self.unit_fused, x) + level1), where, fine, 5)
        x = _unpadded(self.narrow, self.out1(x))
        x = _unpadded(self.refine, _recentred(_doubled(x), where, fine / 2, 3))
        return self.number(x).view(points.shape[:2])


@dataclass(frozen=True)
class ConvOptions(Options):
    """Options of v15.0 and v15.1.

    Attributes:
        query_path: queries are read off the trained map ("exact"), or from patches ("recorded"),
            which differ from it (F18).
        head_bias: untrained answers are near 2.5 m ("median"), or the head starts at 0 (F17c).
    """

    query_path: Literal["exact", "recorded"] = "exact"
    head_bias: Literal["median", "zero"] = "median"


class ConvV15(DepthModel):
    """Encoder, neck, global path, local path of convolutions; see `V150` and `V151`."""

    Options = ConvOptions
    has_dense = True
    median_number: ClassVar[float]
    """What the head starts with, so that it answers the median depth."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        neck = ViTNeck if self.encoder.is_vit else PyramidNeck
        self.neck = neck(self.encoder.channels, WIDTH)
        self.global_path = GlobalPath(WIDTH)
        self.local_path = ConvLocalPath(WIDTH)
        if self.options.head_bias == "median":
            start_at(self.local_path.last, self.median_number)

    def activation(self, number: Tensor) -> Tensor:
        """Depth in metres of the head's numbers."""
        raise NotImplementedError

    def maps(self, images: Tensor) -> Maps:
        """Padded images [B, 3, H, W] -> "s8", "L2" and "L1", channels-last."""
        level1, level2, level3, level4 = self.neck(self.encoder(images))
        levels = {"s8": self.global_path(level2, level3, level4), "L2": level2, "L1": level1}
        return {name: channels_last(level) for name, level in levels.items()}

    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """Depth [B, K] at points [B, K, 2] in pixels of the padded image."""
        if self.options.query_path == "recorded":
            return Answer(self.activation(self.local_path.recorded(maps, points, image_size[1])))
        height, width = (4 * side for side in grid_size(maps["L1"]))
        # not in evaluation, where an answer must not change, by rounding, with its company
        many = self.training and points.shape[1] * SITES_A_QUERY > height * width
        if many or not self.fast:
            lattice = self.decode_lattice(maps).unsqueeze(-1)
            return Answer(bilinear_points(lattice, points, image_size).squeeze(-1))
        cells = pixels_to_cells(points, image_size, (height, width))
        return Answer(torch.cat([self._at(maps, part) for part in cells.split(TOGETHER, 1)], 1))

    def _at(self, maps: Maps, cells: Tensor) -> Tensor:
        """Depth [B, K] at fractional cells [B, K, 2] of the dense map."""
        limits = (4 * side for side in reversed(grid_size(maps["L1"])))
        (x, across), (y, down) = map(interval, cells.unbind(-1), limits)
        number = self.local_path.at(maps, torch.stack([x, y], -1))
        depth = self.activation(number).view(*cells.shape[:2], 2, 2)
        upper, lower = torch.lerp(depth[..., 0], depth[..., 1], across.unsqueeze(-1)).unbind(-1)
        return torch.lerp(upper, lower, down)

    def decode_lattice(self, maps: Maps) -> Tensor:
        """Depth [B, 4 h1, 4 w1], for encoders with a stride of 4 at every pixel."""
        return self.activation(self.local_path.dense(maps))

    def captions(self) -> dict[str, Caption]:
        """What a diagram says of the parts."""
        return {
            **super().captions(),
            **CAPTIONS,
            "global_path": ("global path", "DPT fusion of L4 and L3: s8"),
            "local_path": ("local path", "convolutions on s8, L2, L1"),
        }


@register("v15_0", encoder=CONVNEXT_V2_TINY, image_size=(352, 480))
class V150(ConvV15):
    """v15.0: the local path's numbers are logarithms of depth (28,519,265 with its encoder)."""

    idea = "DPT in two halves: coarse levels once per image, convolutions around the query"
    median_number = math.log(MEDIAN_DEPTH)

    def activation(self, number: Tensor) -> Tensor:
        """Depth in metres: exp."""
        return number.exp()


@register("v15_1", encoder="vit_small_patch14_dinov2", image_size=(350, 476))
class V151(ConvV15):
    """v15.1: a plain ViT, and softplus for exp (decoder 779,425)."""

    idea = "as v15.0, on a plain ViT and with softplus instead of exp"
    median_number = math.log(math.expm1(MEDIAN_DEPTH))

    def activation(self, number: Tensor) -> Tensor:
        """Depth in metres: softplus."""
        return F.softplus(number)


def _patch(level: Tensor, points: Tensor, stride: float, side: int) -> Tensor:
    """Patches [B K, C, side, side] of a map [B, h, w, C] around points / stride; zeros outside."""
    cells = (points / stride).unsqueeze(2)
    rows = bilinear_cells(level, cells + square(side, cells), zeros=True)
    return rows.unflatten(2, (side, side)).flatten(0, 1).permute(0, 3, 1, 2)


def _unpadded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution without its padding."""
    return F.conv2d(x, layer.weight, layer.bias)


def _unpadded_unit(layer: ResidualConvUnit, x: Tensor) -> Tensor:
    """A residual unit without padding, [N, C, n, n] -> [N, C, n - 4, n - 4]."""
    inner = _unpadded(layer.conv1, layer.activation(x))
    return x[..., 2:-2, 2:-2] + _unpadded(layer.conv2, layer.activation(inner))


def _doubled(x: Tensor) -> Tensor:
    """A patch at twice its cells, corners on corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def _recentred(x: Tensor, points: Tensor, stride: float, side: int) -> Tensor:
    """The `side` x `side` cells of doubled patches [N, C, n, n] on the side of points [N, 2]."""
    first = x.shape[-1] // 2 - 1 - side // 2
    right, down = (points % stride >= stride / 2)[..., None, None, None].unbind(1)
    near, far = slice(first, first + side), slice(first + 1, first + 1 + side)
    x = torch.where(right, x[..., far], x[..., near])
    return torch.where(down, x[..., far, :], x[..., near, :])
