"""Windows of a map pass through convolutions and upsamplings as the whole map does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.models.layers import ResidualConvUnit
from spdlib.models.windows import Window, below

SIZE = (5, 7)


@pytest.fixture
def whole() -> Tensor:
    """A map [2, 3, 5, 7], float64."""
    return torch.randn(2, 3, *SIZE, dtype=torch.float64)


def starts(size: tuple[int, int], reach: int) -> Tensor:
    """Every first cell (x, y) [1, K, 2] from `reach` cells outside a map to its last cell."""
    y, x = (torch.arange(-reach, side) for side in size)
    return torch.cartesian_prod(y, x).flip(-1).unsqueeze(0)


def cut(whole: Tensor, start: Tensor, count: int) -> Window:
    return Window.cut(whole.permute(0, 2, 3, 1), start.expand(len(whole), -1, -1), count)


def same(window: Window, whole: Tensor) -> None:
    """All cells of the map that a window holds are those of the whole; it holds some."""
    of_image = window.cells.unflatten(0, (len(whole), -1))
    size, seen = whole.shape[-2:], 0
    for image, cells in zip(whole, of_image, strict=True):
        for each, (x, y) in zip(cells, window.start.tolist()[: len(cells)], strict=True):
            for i in range(max(0, -y), min(window.count, size[0] - y)):
                for j in range(max(0, -x), min(window.count, size[1] - x)):
                    assert (each[:, i, j] - image[:, y + i, x + j]).abs().max() < 1e-12
                    seen += 1
    assert seen > whole[:, 0].numel()


def test_convolutions_see_zeros_outside_the_map(whole: Tensor) -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1).double()
    window = cut(whole, starts(SIZE, 3), 6).conv(layer)
    assert window.count == 4
    same(window, layer(whole))
    unit = ResidualConvUnit(3).double()
    same(cut(whole, starts(SIZE, 4), 7).unit(unit), unit(whole))


def test_narrow_convolutions_keep_all_cells(whole: Tensor) -> None:
    layer = nn.Conv2d(3, 4, 1).double()
    window = cut(whole, starts(SIZE, 1), 3).conv(layer)
    assert window.count == 3
    same(window, layer(whole))


@pytest.mark.parametrize("count", [2, 3, 4, 6, 9])
def test_upsampling_repeats_the_border(whole: Tensor, count: int) -> None:
    """From every first cell, of either parity."""
    double = F.interpolate(whole, scale_factor=2, mode="bilinear")
    fine = starts((10, 14), count - 1)
    first, cells = below(fine, count)
    window = cut(whole, first, cells).upsampled(fine.expand(2, -1, -1).flatten(0, 1), count)
    assert window.size == (10, 14)
    same(window, double)
