"""Reads of feature maps against PyTorch's `grid_sample`, borders included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spdlib.geometry import GridRule, lattice_points
from spdlib.models.sampling import (
    bilinear_cells,
    bilinear_points,
    block,
    gather_rows,
    interpolate_block,
    neighbourhood,
    scatter_block,
)

IMAGE = (54, 70)


@pytest.fixture
def maps() -> Tensor:
    """Channels-last [2, 9, 13, 5], float64."""
    return torch.randn(2, 9, 13, 5, dtype=torch.float64)


@pytest.fixture
def points() -> Tensor:
    """[2, 60, 2] pixels anywhere in the image, corners and edges first."""
    height, width = IMAGE
    edges = [[-0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5], [width - 0.5, 20.0]]
    anywhere = torch.rand(2, 60, 2, dtype=torch.float64) * torch.tensor([width, height]) - 0.5
    anywhere[:, : len(edges)] = torch.tensor(edges, dtype=torch.float64)
    return anywhere


def torch_read(maps: Tensor, points: Tensor, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """`grid_sample` at points, shifted by whole cells (x, y); [B, K, C]."""
    size = torch.tensor([IMAGE[1], IMAGE[0]], dtype=points.dtype)
    cells = torch.tensor([maps.shape[2], maps.shape[1]], dtype=points.dtype)
    grid = 2 * (points + 0.5) / size - 1 + 2 * torch.tensor(shift) / cells
    level = maps.permute(0, 3, 1, 2)
    read = F.grid_sample(level, grid[:, None], padding_mode="border", align_corners=False)
    return read[:, :, 0].permute(0, 2, 1)


def test_bilinear_points_is_grid_sample(maps: Tensor, points: Tensor) -> None:
    found = bilinear_points(maps, points, IMAGE)
    assert (found - torch_read(maps, points)).abs().max() < 1e-12


def test_recorded_rule_is_grid_sample_with_its_own_arguments(maps: Tensor, points: Tensor) -> None:
    """Index u w / W read with align_corners=True and zeros outside (F9)."""
    cells = torch.tensor([maps.shape[2], maps.shape[1]], dtype=torch.float64)
    index = points * cells / torch.tensor([IMAGE[1], IMAGE[0]])
    grid = 2 * index / (cells - 1) - 1
    level = maps.permute(0, 3, 1, 2)
    expected = F.grid_sample(level, grid[:, None], padding_mode="zeros", align_corners=True)
    found = bilinear_points(maps, points, IMAGE, GridRule.RECORDED)
    assert (found - expected[:, :, 0].permute(0, 2, 1)).abs().max() < 1e-12


def test_cell_centres_read_the_cells_themselves(maps: Tensor) -> None:
    sites = lattice_points((9, 13), IMAGE, dtype=torch.float64).expand(2, -1, -1)
    found = bilinear_points(maps, sites, IMAGE)
    assert (found - maps.flatten(1, 2)).abs().max() < 1e-12


def test_neighbourhood_is_twenty_five_reads(maps: Tensor, points: Tensor) -> None:
    found = neighbourhood(maps, points, IMAGE)
    shifts = [(x, y) for y in range(-2, 3) for x in range(-2, 3)]
    expected = torch.stack([torch_read(maps, points, shift) for shift in shifts], 2)
    assert found.shape == (2, 60, 25, 5)
    assert (found - expected).abs().max() < 1e-12


@pytest.mark.parametrize("size", [1, 3, 5])
def test_interpolated_block_is_the_neighbourhood(maps: Tensor, points: Tensor, size: int) -> None:
    rows, fractions = block(maps, points, IMAGE, size)
    assert rows.shape == (2, 60, (size + 1) ** 2, 5)
    cells = rows.unflatten(2, (1, size + 1, size + 1))  # the channels take the sources' place
    found = interpolate_block(cells, fractions).flatten(2, 4)
    assert (found - neighbourhood(maps, points, IMAGE, size)).abs().max() < 1e-12


def test_scattered_weights_are_the_adjoint_of_interpolation() -> None:
    values = torch.randn(2, 7, 3, 6, 6, 2, dtype=torch.float64)
    weights = torch.randn(2, 7, 3, 5, 5, 2, dtype=torch.float64)
    fractions = torch.rand(2, 7, 2, dtype=torch.float64)
    fractions[0, 0], fractions[0, 1] = 0.0, torch.tensor([0.0, 0.75])
    scattered = scatter_block(weights, fractions)
    one_way = (interpolate_block(values, fractions) * weights).sum((-1, -2, -3))
    assert (one_way - (values * scattered).sum((-1, -2, -3))).abs().max() < 1e-12
    assert (scattered.sum((-2, -3)) - weights.sum((-2, -3))).abs().max() < 1e-12


def test_low_precision_values_are_interpolated_in_float32() -> None:
    values = torch.randn(1, 1, 4, 6, 6, 1).bfloat16()
    fractions = torch.rand(1, 1, 2)
    found = interpolate_block(values, fractions)
    assert found.dtype == torch.float32
    assert torch.equal(found, interpolate_block(values.float(), fractions))


def test_maps_may_be_wider_than_points(maps: Tensor, points: Tensor) -> None:
    found = bilinear_points(maps, points.float(), IMAGE)
    assert found.dtype == torch.float64
    assert (found - bilinear_points(maps, points, IMAGE)).abs().max() < 1e-4
    rows, fractions = block(maps, points.float(), IMAGE)
    found = interpolate_block(rows.unflatten(2, (1, 6, 6)), fractions)
    assert found.dtype == torch.float64


def test_rows_come_from_their_own_image(maps: Tensor) -> None:
    x, y = torch.tensor([[3, 99], [3, -4]]), torch.tensor([[2, 99], [2, 5]])
    rows = gather_rows(maps, x, y)
    expected = [[maps[0, 2, 3], maps[0, 8, 12]], [maps[1, 2, 3], maps[1, 5, 0]]]
    assert torch.equal(rows, torch.stack([torch.stack(row) for row in expected]))


def test_gradients_of_reads(maps: Tensor) -> None:
    cells = torch.rand(2, 3, 2, dtype=torch.float64) * 6 + 0.1
    maps, cells = maps[..., :2].clone().requires_grad_(), cells.requires_grad_()
    assert torch.autograd.gradcheck(bilinear_cells, (maps, cells))
