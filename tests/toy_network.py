"""A network of a user's own, in a file of its own: the tests' plugin (see `spdlib.plugins`)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from spdlib.geometry import Size, cells_to_pixels, pixels_to_cells
from spdlib.inspection import Probe, Reads
from spdlib.models import DepthModel, ModelConfig, register
from spdlib.models.options import Count, Options
from spdlib.models.sampling import neighbourhood, square
from spdlib.scene import Answer, Maps


@dataclass(frozen=True)
class ToyOptions(Options):
    """side: cells of the neighbourhood, a side."""

    side: Count = 3


@register("toy", encoder="mobilenetv3_small_050", image_size=(64, 96))
class Toy(DepthModel):
    """Softmax-weighted mean of a neighbourhood on one level, then a linear head."""

    Options = ToyOptions
    idea = "a weighted mean of the cells around a query"
    level = "L2"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.weigh = nn.Linear(self.encoder.channels[1], 1)
        self.head = nn.Linear(self.encoder.channels[1], 1)

    def maps(self, images: Tensor) -> Maps:
        """The encoder's second level [B, h, w, C]."""
        return {self.level: self.encoder(images)[1].permute(0, 2, 3, 1).contiguous()}

    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """Depth [B, K] at points [B, K, 2]."""
        cells, weights = self.look(maps, points, image_size)
        mean = (cells * weights.unsqueeze(-1)).sum(2)
        return Answer(self.head(mean).squeeze(-1).exp())

    def look(self, maps: Maps, points: Tensor, image_size: Size) -> tuple[Tensor, Tensor]:
        """Cells [B, K, n, C] around points, and their weights [B, K, n]."""
        cells = neighbourhood(maps[self.level], points, image_size, self.options.side)
        return cells, self.weigh(cells).squeeze(-1).softmax(-1)

    def probes(self, maps: Maps, points: Tensor, image_size: Size) -> list[Probe]:
        """The neighbourhood, and how it is weighed."""
        size = (maps[self.level].shape[1], maps[self.level].shape[2])
        cells = pixels_to_cells(points, image_size, size).unsqueeze(2)
        offsets = square(self.options.side, cells)
        pixels = cells_to_pixels(cells + offsets, image_size, size)
        weights = self.look(maps, points, image_size)[1]
        return [Reads("mean", "cells around", pixels, weights, [self.level] * len(offsets))]
