"""The least that a query decoder can be: read the finest level at the point, and an MLP.

It shows what the other decoders' reads of coarser levels and of more than one place are worth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spdlib.geometry import Size, cells_to_pixels, grid_size, pixels_to_cells
from spdlib.inspection import Probe, Reads
from spdlib.models.base import Caption, DepthModel
from spdlib.models.encoders import CONVNEXT_V2_TINY
from spdlib.models.layers import HEAD_BIAS, channels_last, full_precision, start_at
from spdlib.models.options import ModelConfig
from spdlib.models.registry import register
from spdlib.models.sampling import bilinear_points
from spdlib.scene import Answer, Maps

HIDDEN = 384


@register("lookup_mlp", encoder=CONVNEXT_V2_TINY, image_size=(256, 320))
class LookupMLP(DepthModel):
    """Log-depth of L1 at the query: Linear(C -> 384), GELU, Linear(384 -> 1).

    Later parts of the encoder run, as it is made to give all its levels, but nothing reads them:
    they are frozen.
    """

    idea = "baseline: L1 at the query and a two-layer MLP"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        last = nn.Linear(HIDDEN, 1)
        self.head = nn.Sequential(nn.Linear(self.encoder.channels[0], HIDDEN), nn.GELU(), last)
        start_at(last, HEAD_BIAS["median"])
        self._freeze_unread()

    def _freeze_unread(self) -> None:
        """Freeze the parameters that L1 does not depend on."""
        parameters = [p for p in self.encoder.parameters() if p.requires_grad]
        side = 2 * self.encoder.multiple
        level = self.encoder(parameters[0].new_zeros(1, 3, side, side))[0]
        found = torch.autograd.grad(level.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.requires_grad_(gradient is not None)

    def maps(self, images: Tensor) -> Maps:
        """Padded images [B, 3, H, W] -> L1 [B, h, w, C]."""
        return {"L1": channels_last(self.encoder(images)[0])}

    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """Depth [B, K] at points [B, K, 2] in pixels of the padded image."""
        wide, no_autocast = full_precision(bilinear_points(maps["L1"], points, image_size))
        with no_autocast:
            return Answer(self.head(wide).squeeze(-1).exp())

    def probes(self, maps: Maps, points: Tensor, image_size: Size) -> list[Probe]:
        """The one place that a query reads."""
        size = grid_size(maps["L1"])
        pixels = cells_to_pixels(pixels_to_cells(points, image_size, size), image_size, size)
        weights = points.new_ones(*points.shape[:2], 1)
        return [Reads("lookup", "L1 at the query", pixels.unsqueeze(2), weights, ("L1",), True)]

    def captions(self) -> dict[str, Caption]:
        """What a diagram says of the parts."""
        return {**super().captions(), "head": ("head", "MLP on L1 at (u, v), exp")}
