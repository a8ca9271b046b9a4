"""Reading maps at points: bilinear points, neighbourhoods, 6x6 blocks, deformable reads.

Decisions 1 and 4, audit 5. Maps are channels-last, [B, h, w, C], so that one cell is one contiguous
row of C numbers. Reads outside a map return its border unless they are asked to return zero. Every
gather is an `index_select` on rows or a `weighted_rows`, whose backward is deterministic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spdlib.geometry import GridRule, Size, pixels_to_cells


def gather_rows(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Rows [B, ..., C] of a map [B, h, w, C] at integer cells x, y [B, ...], clamped to the map."""
    batch, height, width, channels = maps.shape
    first = torch.arange(batch, device=maps.device).view(-1, *[1] * (x.dim() - 1)) * height
    index = (first + y.clamp(0, height - 1)) * width + x.clamp(0, width - 1)
    rows = maps.reshape(-1, channels).index_select(0, index.reshape(-1))
    return rows.view(*index.shape, channels)


def bilinear_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """Bilinear values [B, ..., C] of a map [B, h, w, C] at fractional cells [B, ..., 2] (x, y)."""
    corner = cells.floor()
    fx, fy = (cells - corner).to(maps.dtype).unsqueeze(-1).unbind(-2)
    step = torch.arange(2, device=maps.device)
    x, y = corner.long().unbind(-1)
    four = gather_rows(maps, x[..., None, None] + step, y[..., None, None] + step[:, None])
    left, right = four.unbind(-2)  # [B, ..., 2, C]
    top, bottom = torch.lerp(left, right, fx.unsqueeze(-1)).unbind(-2)
    return torch.lerp(top, bottom, fy)


def bilinear_points(
    maps: Tensor, points: Tensor, image_size: Size, rule: GridRule = GridRule.HALF_PIXEL
) -> Tensor:
    """Bilinear values [B, K, C] of a map [B, h, w, C] at pixel points [B, K, 2].

    With `GridRule.RECORDED` cells outside the map count as zero, as recorded (F9).
    """
    cells = pixels_to_cells(points, image_size, (maps.shape[1], maps.shape[2]), rule)
    if rule is GridRule.HALF_PIXEL:
        return bilinear_cells(maps, cells)
    padded = F.pad(maps, (0, 0, 1, 1, 1, 1))
    return bilinear_cells(padded, cells + 1)


def neighbourhood(maps: Tensor, points: Tensor, image_size: Size, size: int = 5) -> Tensor:
    """Bilinear size x size neighbourhoods [B, K, size**2, C], one cell apart, row by row.

    Args:
        maps: [B, h, w, C].
        points: [B, K, 2] pixels; the neighbourhood's centre.
        image_size: height, width of the image the points live in.
        size: odd number of cells a side.
    """
    cells = pixels_to_cells(points, image_size, (maps.shape[1], maps.shape[2]))
    offsets = torch.arange(size, device=maps.device, dtype=cells.dtype) - size // 2
    dy, dx = torch.meshgrid(offsets, offsets, indexing="ij")
    around = torch.stack([dx.reshape(-1), dy.reshape(-1)], -1)  # [size**2, 2]
    return bilinear_cells(maps, cells.unsqueeze(2) + around)


def block(maps: Tensor, points: Tensor, image_size: Size, size: int = 5) -> tuple[Tensor, Tensor]:
    """The integer cells under a bilinear size x size neighbourhood, and the fractions between them.

    All size**2 bilinear reads of a neighbourhood share one sub-cell fraction, so they touch only
    (size + 1)**2 cells: 36 rows instead of 100 for 5x5 (audit 5.1 b).

    Returns:
        rows [B, K, (size + 1)**2, C] and fractions [B, K, 2] (x, y).
    """
    cells = pixels_to_cells(points, image_size, (maps.shape[1], maps.shape[2]))
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


def spread_block(weights: Tensor, fractions: Tensor) -> Tensor:
    """Adjoint of `interpolate_block`: weights [B, K, H, n - 1, n - 1, S] -> [.., n, n, S].

    A cell gathers from its two neighbours what it gave them: the mirrored interpolation of the
    weights with zeros around them.
    """
    return interpolate_block(F.pad(weights, (0, 0, 1, 1, 1, 1)), 1 - fractions)


def corners(cells: Tensor, size: Size, zeros: bool = False) -> tuple[Tensor, Tensor]:
    """The four cells under each bilinear read, and the shares they have in it.

    Args:
        cells: fractional cells (x, y) of P reads, [..., P, 2].
        size: height, width of the map.
        zeros: cells outside the map count as zero; else its border is repeated.

    Returns:
        Cell numbers y w + x and shares, both [..., 4 P]: the first corner of all reads, then the
        second, third and fourth.
    """
    x, y = cells.unbind(-1)
    columns, across = _neighbours(x, size[1], zeros)
    lines, down = _neighbours(y, size[0], zeros)
    index = torch.cat([line * size[1] + column for line in lines for column in columns], -1)
    return index, torch.cat([above * beside for above in down for beside in across], -1)


def _neighbours(x: Tensor, cells: int, zeros: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Along one axis: the two cells around positions x [...], clamped to the map, and shares."""
    low = x.floor()
    fraction = x - low
    shares = [1 - fraction, fraction]
    both = [low, low + 1]
    if zeros:
        inside = [(cell >= 0) & (cell < cells) for cell in both]
        shares = [share * known for share, known in zip(shares, inside, strict=True)]
    return [cell.clamp(0, cells - 1).long() for cell in both], shares


class _WeightedRows(torch.autograd.Function):
    """`weighted_rows`, whose gradient is a sum of weighted rows again.

    Differentiating `embedding_bag` itself takes 1.5 times as long on a CPU and is not deterministic
    on a GPU. Here the gradient of the rows is read with the transposed index, sorted stably.
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
            read = rows.index_select(0, index.flatten()).view(*index.shape, -1)
            with torch.autocast(grad.device.type, enabled=False):
                of_weights = (grad.unsqueeze(1) @ read.mT).squeeze(1)
        return of_rows, None, of_weights


def _gathered_back(grad: Tensor, index: Tensor, weights: Tensor, count: int) -> Tensor:
    """Gradient [N, C] of the rows: each gathers the sums [M, C] that read it, by their weights."""
    order = index.flatten().int().argsort(stable=True)
    readers = torch.bincount(index.flatten(), minlength=count)
    return F.embedding_bag(
        order // index.shape[1], grad, readers.cumsum(0) - readers, mode="sum",
        per_sample_weights=weights.flatten().index_select(0, order),
    )  # fmt: skip


def weighted_rows(rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows, without a copy of the rows that are read.

    Args:
        rows: [N, C].
        index: rows of each sum, [M, P].
        weights: theirs, [M, P]; taken in the type of the rows.

    Returns:
        [M, C].
    """
    return _WeightedRows.apply(rows, index, weights.to(rows.dtype))


def deformable_read(level: Tensor, cells: Tensor, weights: Tensor, zeros: bool = False) -> Tensor:
    """Weighted sums of bilinear reads where every head reads its own channels only.

    Bilinear and attention weights are merged, and a head fetches C / H numbers a corner instead of
    C (audit 5.2).

    Args:
        level: map [B, h, w, C].
        cells: where each head reads, [B, K, H, P, 2] fractional cells (x, y).
        weights: of the reads [B, K, H, P].
        zeros: cells outside the map count as zero, as recorded (F9); else its border is repeated.

    Returns:
        [B, K, C], heads side by side.
    """
    batch, height, width, channels = level.shape
    heads = cells.shape[2]
    index, shares = corners(cells, (height, width), zeros)  # [B, K, H, 4 P]
    image = torch.arange(batch, device=level.device).view(-1, 1, 1, 1) * (height * width)
    index = (image + index) * heads + torch.arange(heads, device=level.device).view(-1, 1)
    merged = shares * torch.cat([weights] * 4, -1)
    rows = level.reshape(-1, channels // heads)
    read = weighted_rows(rows, index.flatten(0, 2), merged.flatten(0, 2))
    return read.view(batch, -1, channels)
