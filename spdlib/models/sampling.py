"""Reading maps at points: bilinear points, neighbourhoods, 6x6 blocks, deformable reads.

Decisions 1 and 4, audit 5. Maps are channels-last, [B, h, w, C], so that one cell is one contiguous
row of C numbers. Reads outside a map return its border. Every gather is an `index_select` on rows,
whose backward is deterministic.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    padded = torch.nn.functional.pad(maps, (0, 0, 1, 1, 1, 1))
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
    return interpolate_block(torch.nn.functional.pad(weights, (0, 0, 1, 1, 1, 1)), 1 - fractions)


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
    batch, height, width, _ = level.shape
    heads = cells.shape[2]
    corner = cells.floor()
    step = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=level.device)
    x, y = (corner.long().unsqueeze(-2) + step).unbind(-1)  # [B, K, H, P, 4]
    fx, fy = (cells - corner).unsqueeze(-2).unbind(-1)
    merged = weights.unsqueeze(-1) * torch.cat(
        [(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], -1
    )
    if zeros:
        merged = merged * ((x >= 0) & (x < width) & (y >= 0) & (y < height))
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    first = torch.arange(batch, device=level.device).view(-1, 1, 1, 1, 1) * height
    head = torch.arange(heads, device=level.device).view(-1, 1, 1)
    index = ((first + y) * width + x) * heads + head
    rows = level.reshape(-1, level.shape[-1] // heads).index_select(0, index.flatten())
    rows = rows.view(*index.shape[:3], -1, rows.shape[-1])  # [B, K, H, 4 P, C / H]
    return (merged.to(rows.dtype).flatten(3).unsqueeze(-2) @ rows).flatten(2)
