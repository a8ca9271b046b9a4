"""Reading maps at points: bilinear points, neighbourhoods, 6x6 blocks, deformable reads.

Maps are channels-last, [B, h, w, C], so that one cell is one contiguous row of C numbers. Reads
outside a map return its border, or zero with `zeros`, as recorded (F9). Every gather is an
`index_select` on rows or a `weighted_rows`, whose backward is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spdlib.geometry import GridRule, Size, grid_size, pixels_to_cells


def gather_rows(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Rows [B, ..., C] of a map [B, h, w, C] at integer cells x, y [B, ...], clamped to the map."""
    batch, height, width, channels = maps.shape
    first = torch.arange(batch, device=maps.device).view(-1, *[1] * (x.dim() - 1)) * height
    index = (first + y.clamp(0, height - 1)) * width + x.clamp(0, width - 1)
    rows = maps.reshape(-1, channels).index_select(0, index.reshape(-1))
    return rows.view(*index.shape, channels)


@dataclass(frozen=True)
class Places:
    """Where bilinear reads of all maps of one size find their corners.

    Attributes:
        index: the corners' rows [N, 4] in the map as rows, [B h w, C].
        shares: of the corners, [N, 4].
        shape: (B, ...) of the reads, N in all.
        zeros: cells outside the map count as zero: a border of zeros, which is repeated.
    """

    index: Tensor
    shares: Tensor
    shape: torch.Size
    zeros: bool

    @classmethod
    def of(cls, cells: Tensor, size: Size, zeros: bool = False) -> Places:
        """Places of reads at fractional cells [B, ..., 2] (x, y) of maps of a size."""
        height, width = size
        if zeros:
            cells, height, width = cells + 1, height + 2, width + 2
        (x, fx), (y, fy) = map(interval, cells.flatten(1, -2).unbind(-1), (width, height))
        right, down = min(width - 1, 1), min(height - 1, 1) * width
        image = torch.arange(len(cells), device=cells.device).unsqueeze(-1)
        first = (image * height + y) * width + x
        index = torch.stack([first, first + right, first + down, first + (down + right)], -1)
        gx, gy = 1 - fx, 1 - fy
        shares = torch.stack([gy * gx, gy * fx, fy * gx, fy * fx], -1)
        return cls(index.view(-1, 4), shares.view(-1, 4), cells.shape[:-1], zeros)

    def read(self, maps: Tensor) -> Tensor:
        """Values [B, ..., C] of a map [B, h, w, C]; corners are summed on the way, not stored."""
        rows = self.rows(maps, maps.shape[-1])
        return weighted_rows(rows, self.index, self.shares).view(*self.shape, -1)

    def rows(self, maps: Tensor, width: int) -> Tensor:
        """A map [B, h, w, C], with a border of zeros where it takes one, as rows of a width."""
        level = F.pad(maps, (0, 0, 1, 1, 1, 1)) if self.zeros else maps
        return level.reshape(-1, width)


def bilinear_cells(maps: Tensor, cells: Tensor, zeros: bool = False) -> Tensor:
    """Bilinear values [B, ..., C] of a map [B, h, w, C] at fractional cells [B, ..., 2] (x, y)."""
    return Places.of(cells, grid_size(maps), zeros).read(maps)


def grid_sampled(maps: Tensor, cells: Tensor, zeros: bool = False) -> Tensor:
    """`bilinear_cells` by PyTorch's `grid_sample`: its reference form, in the type of the cells."""
    size = cells.new_tensor(grid_size(maps)[::-1])
    grid = ((2 * cells + 1) / size - 1).reshape(len(maps), 1, -1, 2)
    level, padding = maps.permute(0, 3, 1, 2).to(cells.dtype), "zeros" if zeros else "border"
    read = F.grid_sample(level, grid, padding_mode=padding, align_corners=False)
    return read[:, :, 0].mT.reshape(*cells.shape[:-1], -1)


def bilinear_points(
    maps: Tensor, points: Tensor, image_size: Size, rule: GridRule = GridRule.HALF_PIXEL
) -> Tensor:
    """Bilinear values [B, K, C] of a map [B, h, w, C] at pixel points [B, K, 2]."""
    cells = pixels_to_cells(points, image_size, grid_size(maps), rule)
    return bilinear_cells(maps, cells, rule.zeros)


def neighbourhood(maps: Tensor, points: Tensor, image_size: Size, size: int = 5) -> Tensor:
    """Bilinear size x size neighbourhoods [B, K, size**2, C], one cell apart, row by row.

    They are read on a map [B, h, w, C] around points [B, K, 2] in pixels; `size` is odd.
    """
    cells = pixels_to_cells(points, image_size, grid_size(maps))
    return bilinear_cells(maps, cells.unsqueeze(2) + square(size, cells))


def square(size: int, like: Tensor) -> Tensor:
    """Offsets (x, y) [size**2, 2] of a size x size neighbourhood's cells, row by row."""
    offsets = torch.arange(size, device=like.device, dtype=like.dtype) - size // 2
    return torch.cartesian_prod(offsets, offsets).flip(-1)


def block(maps: Tensor, points: Tensor, image_size: Size, size: int = 5) -> tuple[Tensor, Tensor]:
    """The integer cells under a bilinear size x size neighbourhood, and the fractions between them.

    All size**2 bilinear reads of a neighbourhood share one sub-cell fraction, so they touch only
    (size + 1)**2 cells: 36 rows instead of 100 for 5x5.

    Returns:
        rows [B, K, (size + 1)**2, C] and fractions [B, K, 2] (x, y).
    """
    cells = pixels_to_cells(points, image_size, grid_size(maps))
    corner = cells.floor()
    x, y = (corner.long() - size // 2)[..., None, None].unbind(2)  # [B, K, 1, 1]
    steps = torch.arange(size + 1, device=maps.device)
    rows = gather_rows(maps, x + steps, y + steps[:, None])
    return rows.flatten(2, 3), cells - corner


def interpolate_block(values: Tensor, fractions: Tensor) -> Tensor:
    """Values on a block's cells [B, K, H, n, n, S] -> on its neighbourhood [.., n - 1, n - 1, S].

    Computed in the wider of the two types: in float32 under autocast.
    """
    dtype = torch.promote_types(values.dtype, fractions.dtype)
    fx, fy = fractions.to(dtype)[:, :, None, None, None, None].unbind(-1)
    values = values.to(dtype)
    values = torch.lerp(values[..., :-1, :], values[..., 1:, :], fx)
    return torch.lerp(values[..., :-1, :, :], values[..., 1:, :, :], fy)


def scatter_block(weights: Tensor, fractions: Tensor) -> Tensor:
    """Adjoint of `interpolate_block`: weights [B, K, H, n - 1, n - 1, S] -> [.., n, n, S].

    A cell gathers from its two neighbours what it gave them: the mirrored interpolation of the
    weights with zeros around them.
    """
    return interpolate_block(F.pad(weights, (0, 0, 1, 1, 1, 1)), 1 - fractions)


def interval(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The whole number before each fractional index among `count`, and the fraction behind it.

    The last one ends the interval before it, so that corners are always one step apart. NaN reads
    the first interval, for an index must exist, and stays NaN in its shares.
    """
    inside = x.clamp(0, count - 1)
    first = inside.nan_to_num().floor().clamp(max=max(count - 2, 0))
    return first.long(), inside - first


class _WeightedRows(torch.autograd.Function):
    """`weighted_rows`, whose gradient by the rows is a sum of weighted rows again.

    Differentiating `embedding_bag` by its rows takes 1.5 times as long on a CPU and is not
    deterministic on a GPU. Here that gradient is read with the transposed index, sorted stably.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, index, weights)
        return F.embedding_bag(index, rows, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        rows, index, weights = ctx.saved_tensors
        of_rows = of_weights = None
        if ctx.needs_input_grad[0]:
            of_rows = _gathered_back(grad.contiguous(), index, weights, len(rows))
        if ctx.needs_input_grad[2]:
            of_weights = _weights_back(grad, rows, index, weights)
        return of_rows, None, of_weights


def _weights_back(grad: Tensor, rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Gradient [M, P] of the weights: products of a sum's gradient with the rows it reads.

    In float32 at least: on a GPU PyTorch has no kernel for bfloat16.
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    with torch.enable_grad():
        own = weights.detach().to(wide).requires_grad_()
        read = F.embedding_bag(index, rows.detach().to(wide), mode="sum", per_sample_weights=own)
    (of_weights,) = torch.autograd.grad(read, own, grad.to(wide))
    return of_weights.to(weights.dtype)


def _gathered_back(grad: Tensor, index: Tensor, weights: Tensor, count: int) -> Tensor:
    """Gradient [N, C] of the rows: each gathers the sums [M, C] that read it, by their weights."""
    order = index.flatten().int().argsort(stable=True)
    readers = torch.bincount(index.flatten(), minlength=count)
    sums, starts = order // index.shape[1], readers.cumsum(0) - readers
    shares = weights.flatten().index_select(0, order)
    return F.embedding_bag(sums, grad, starts, mode="sum", per_sample_weights=shares)


def weighted_rows(rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums [M, C] of rows [N, C], without a copy of the rows that are read.

    Each sum takes P rows by their index [M, P] and weights [M, P], in the type of the rows.
    """
    return _WeightedRows.apply(rows, index, weights.to(rows.dtype))


def deformable_read(level: Tensor, cells: Tensor, weights: Tensor, zeros: bool = False) -> Tensor:
    """Weighted sums [B, K, C] of bilinear reads where every head reads its own channels only.

    Bilinear and attention weights are merged, and a head fetches C / H numbers per corner instead
    of C.

    Args:
        level: map [B, h, w, C].
        cells: sampling locations of each head, [B, K, H, P, 2] fractional cells (x, y).
        weights: of the reads [B, K, H, P].
        zeros: cells outside the map count as zero; else its border is repeated.
    """
    places = Places.of(cells, grid_size(level), zeros)
    batch, _, heads, reads = weights.shape
    channels = level.shape[-1]
    head = torch.arange(heads, device=level.device).view(-1, 1, 1)
    index = places.index.view(-1, heads, reads, 4) * heads + head
    merged = places.shares.view(*weights.shape, 4) * weights.unsqueeze(-1)
    rows = places.rows(level, channels // heads)
    read = weighted_rows(rows, index.view(-1, 4 * reads), merged.reshape(-1, 4 * reads))
    return read.view(batch, -1, channels)


def reference_deformable_read(
    level: Tensor, cells: Tensor, weights: Tensor, zeros: bool = False
) -> Tensor:
    """`deformable_read` as papers write it: read all channels, keep the head's own, weigh."""
    read = grid_sampled(level, cells, zeros)  # [B, K, H, P, C]
    own = read.unflatten(-1, (cells.shape[2], -1)).diagonal(dim1=2, dim2=4)  # [B, K, P, C / H, H]
    return torch.einsum("bkpch,bkhp->bkhc", own, weights.to(own.dtype)).flatten(2)
