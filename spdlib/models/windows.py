"""Windows: the squares of cells around queries, through which convolutions of a whole map pass.

A convolution's value in one cell depends on few cells of the maps below. Where few queries are
asked, computing those alone is cheaper, and the same: cells outside a map count as zero before a
convolution and repeat the border in an upsampling, as they do for the whole map.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.geometry import Size, grid_size
from spdlib.models.layers import ResidualConvUnit
from spdlib.models.sampling import gather_rows


@dataclass(frozen=True)
class Window:
    """The same number of cells of one map for each of N queries.

    Attributes:
        cells: [N, C, n, n]; those outside the map may hold anything.
        start: first cell (x, y) of every query [N, 2], whole numbers, perhaps outside the map.
        size: of the map.
    """

    cells: Tensor
    start: Tensor
    size: Size

    @classmethod
    def cut(cls, maps: Tensor, start: Tensor, count: int) -> Window:
        """`count` x `count` cells of a map [B, h, w, C] from cells [B, K, 2] on; N is B K."""
        steps = torch.arange(count, device=maps.device)
        x, y = start[..., None, None].unbind(2)  # [B, K, 1, 1]
        rows = gather_rows(maps, x + steps, y + steps[:, None])  # [B, K, n, n, C]
        return cls(rows.flatten(0, 1).permute(0, 3, 1, 2), start.flatten(0, 1), grid_size(maps))

    @property
    def count(self) -> int:
        """Cells along a side."""
        return self.cells.shape[-1]

    def conv(self, layer: nn.Conv2d) -> Window:
        """The window after a convolution that pads its map with zeros; it loses the kernel's rim.

        A 1x1 convolution reads no neighbours, so what lies outside the map may stay.
        """
        reach = layer.kernel_size[0] // 2
        cells = self.cells * self._inside() if reach else self.cells
        cells = F.conv2d(cells, layer.weight, layer.bias)
        return replace(self, cells=cells, start=self.start + reach)

    def unit(self, layer: ResidualConvUnit) -> Window:
        """The window after a residual unit; it loses two cells at every side."""
        inner = self
        for conv in (layer.conv1, layer.conv2):
            inner = replace(inner, cells=layer.activation(inner.cells)).conv(conv)
        return replace(inner, cells=inner.cells + self.cells[..., 2:-2, 2:-2])

    def __add__(self, other: Window) -> Window:
        """The sum of two windows of the same cells."""
        return replace(self, cells=self.cells + other.cells)

    def upsampled(self, start: Tensor, count: int) -> Window:
        """`count` x `count` cells of the map's bilinear resize to twice its size, from `start` on.

        This window must hold what they read: see `below`.
        """
        height, width = self.size
        across = self._lerp(start[:, :1], count, width, self.start[:, :1])
        down = self._lerp(start[:, 1:], count, height, self.start[:, 1:])
        cells = torch.einsum("nyi,ncij,nxj->ncyx", down, self.cells, across)
        return Window(cells, start, (2 * height, 2 * width))

    def _lerp(self, start: Tensor, count: int, length: int, first: Tensor) -> Tensor:
        """Shares [N, count, n] of the window's cells in fine cells along one axis."""
        fine = start + torch.arange(count, device=start.device)
        cells = ((fine.to(self.cells) + 0.5) / 2 - 0.5).clamp(0, length - 1) - first
        own = torch.arange(self.count, device=start.device)
        return (1 - (cells.unsqueeze(-1) - own).abs()).clamp(min=0)

    def _inside(self) -> Tensor:
        """1 for cells of the map, 0 for others, [N, 1, n, n]."""
        cells = self.start.unsqueeze(-1) + torch.arange(self.count, device=self.start.device)
        limits = cells.new_tensor(self.size[::-1]).unsqueeze(-1)
        x, y = ((cells >= 0) & (cells < limits)).unbind(1)  # [N, n]
        return (y.unsqueeze(-1) & x.unsqueeze(-2)).unsqueeze(1).to(self.cells)


def below(start: Tensor, count: int) -> tuple[Tensor, int]:
    """First cells and number of cells of a map that `count` cells of its double read."""
    return (start - 1).div(2, rounding_mode="floor"), count // 2 + 2
