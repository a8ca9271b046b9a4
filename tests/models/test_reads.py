"""Corners, weighted rows and deformable reads against PyTorch's `grid_sample` and indexing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spdlib.models.sampling import (
    Places,
    deformable_read,
    reference_deformable_read,
    weighted_rows,
)

HEADS = 3
RULES = pytest.mark.parametrize("zeros", [False, True])


@pytest.fixture
def level() -> Tensor:
    """Channels-last [2, 5, 7, 12], float64."""
    return torch.randn(2, 5, 7, 12, dtype=torch.float64)


@pytest.fixture
def cells() -> Tensor:
    """Fractional cells [2, 9, 3 heads, 4, 2], a third of them outside of a 5x7 map."""
    return torch.rand(2, 9, HEADS, 4, 2, dtype=torch.float64) * torch.tensor([11, 8]) - 2


@pytest.fixture
def weights() -> Tensor:
    """Weights [2, 9, 3, 4] of these reads."""
    return torch.randn(2, 9, HEADS, 4, dtype=torch.float64)


def sampled(level: Tensor, cells: Tensor, zeros: bool) -> Tensor:
    """`grid_sample` at cells [B, N, M, 2]: [B, N, M, C]."""
    size = torch.tensor([level.shape[2], level.shape[1]], dtype=cells.dtype)
    grid = (2 * cells + 1) / size - 1
    padding = "zeros" if zeros else "border"
    read = F.grid_sample(level.permute(0, 3, 1, 2), grid, padding_mode=padding, align_corners=False)
    return read.permute(0, 2, 3, 1)


def literal(level: Tensor, cells: Tensor, weights: Tensor, zeros: bool) -> Tensor:
    """Read all channels, cut the head's own, weigh, lay heads side by side."""
    width = level.shape[-1] // HEADS
    own = [
        (sampled(level, cells[:, :, k], zeros)[..., k * width : (k + 1) * width]
         * weights[:, :, k, :, None]).sum(2)
        for k in range(HEADS)
    ]  # fmt: skip
    return torch.cat(own, -1)


@RULES
def test_deformable_read_is_the_literal_one(
    level: Tensor, cells: Tensor, weights: Tensor, zeros: bool
) -> None:
    """Values and all gradients."""
    inputs = [x.requires_grad_() for x in (level, cells, weights)]
    found = deformable_read(level, cells, weights, zeros)
    expected = literal(level, cells, weights, zeros)
    assert (found - expected).abs().max() < 1e-12
    assert (reference_deformable_read(level, cells, weights, zeros) - expected).abs().max() < 1e-12
    pull = torch.randn_like(expected)
    ours = torch.autograd.grad(found, inputs, pull)
    theirs = torch.autograd.grad(expected, inputs, pull)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() < 1e-12


@RULES
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1)])
def test_maps_of_one_row_or_column_are_read(size: tuple[int, int], zeros: bool) -> None:
    level = torch.randn(1, *size, 6, dtype=torch.float64)
    cells = torch.rand(1, 20, HEADS, 4, 2, dtype=torch.float64) * 6 - 2
    weights = torch.rand(1, 20, HEADS, 4, dtype=torch.float64)
    found = deformable_read(level, cells, weights, zeros)
    assert (found - literal(level, cells, weights, zeros)).abs().max() < 1e-12


def test_places_by_hand() -> None:
    """Inside, left of the map, on its last cell, and beyond it."""
    cells = torch.tensor([[[2.25, 0.5], [-0.5, 2.0], [4.0, 3.0], [9.0, 9.0]]])
    places = Places.of(cells, (4, 5))
    assert places.index.tolist() == [
        [2, 3, 7, 8],
        [10, 11, 15, 16],
        [13, 14, 18, 19],
        [13, 14, 18, 19],
    ]
    assert places.shares.tolist() == [
        [0.375, 0.125, 0.375, 0.125], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1],
    ]  # fmt: skip
    assert Places.of(cells[:, :1], (1, 5)).index.tolist() == [[2, 3, 2, 3]]


def test_weighted_rows_by_indexing() -> None:
    rows = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[0, 5, 5], [2, 0, 4]])  # rows 1 and 3 are never read
    weights = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(
        weighted_rows(rows, index, weights), (weights[..., None] * rows[index]).sum(1)
    )
    assert torch.autograd.gradcheck(lambda r, w: weighted_rows(r, index, w), (rows, weights))
    weighted_rows(rows, index, weights).sum().backward()
    assert rows.grad is not None
    assert rows.grad[[1, 3]].abs().max() == 0


def test_weighted_rows_take_the_type_of_the_rows() -> None:
    rows = torch.randn(50, 8).bfloat16().requires_grad_()
    weights = torch.rand(10, 3, requires_grad=True)
    found = weighted_rows(rows, torch.randint(0, 50, (10, 3)), weights)
    assert found.dtype == torch.bfloat16
    found.float().square().sum().backward()
    assert rows.grad is not None
    assert weights.grad is not None
    assert (rows.grad.dtype, weights.grad.dtype) == (torch.bfloat16, torch.float32)
    assert weights.grad.isfinite().all()


def test_gradients_of_low_precision_weights_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch has no kernel for them on a GPU."""
    plain = F.embedding_bag

    def on_a_gpu(*arguments: Any, **options: Any) -> Tensor:
        weights = options["per_sample_weights"]
        differentiated = weights.requires_grad and torch.is_grad_enabled()
        assert weights.dtype == torch.float32 or not differentiated
        return plain(*arguments, **options)

    monkeypatch.setattr(F, "embedding_bag", on_a_gpu)
    rows = torch.randn(6, 4, dtype=torch.bfloat16, requires_grad=True)
    weights = torch.rand(3, 2, dtype=torch.bfloat16, requires_grad=True)
    index = torch.tensor([[0, 1], [2, 2], [5, 0]])
    weighted_rows(rows, index, weights).float().square().sum().backward()
    assert weights.grad is not None
    read = (rows[index] * weights[..., None]).sum(1)
    expected = (2 * read[:, None] * rows[index]).sum(-1)
    torch.testing.assert_close(weights.grad, expected, rtol=0.05, atol=0.05)


def test_reads_repeat_bit_for_bit() -> None:
    """Many reads of few cells: sums of the gradient always run in one order."""
    level = torch.randn(2, 3, 4, 12, requires_grad=True)
    cells = (torch.rand(2, 400, HEADS, 4, 2) * 4).requires_grad_()
    weights = torch.rand(2, 400, HEADS, 4, requires_grad=True)

    def run() -> list[Tensor]:
        read = deformable_read(level, cells, weights)
        return [read, *torch.autograd.grad(read.square().sum(), [level, cells, weights])]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))
