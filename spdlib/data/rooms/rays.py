"""Ray casting for `rooms`: which solid every pixel sees first, and how far away it is.

Every solid is an affine map from the camera's frame to its unit box, unit cylinder or unit ball. A
ray enters it where the last of the box's slabs is entered (Kay and Kajiya 1986), cut by the quadric
of curved solids. Rays advance one metre along the optical axis, so the ray parameter *is* the
planar depth. Rays go in tiles of 8x8, which are tested against the solids in their frustum only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spdlib.data.rooms.furniture import BALL, BOX, Solid
from spdlib.data.rooms.layout import Pose
from spdlib.geometry import Camera

TILE = 8
FAR = 1e9
"""Depth of rays that meet nothing."""


class View(NamedTuple):
    """P solids as seen from V viewpoints.

    Attributes:
        turn: [V, P, 3, 3] from camera directions to the solid's unit coordinates.
        start: [V, P, 3] the camera in unit coordinates.
        corners: [V, P, 8, 3] corners of the solid's box in the camera frame, metres.
        shape: [P] BOX, CYLINDER or BALL.
    """

    turn: Tensor
    start: Tensor
    corners: Tensor
    shape: Tensor


def view_from(poses: Sequence[Pose], solids: Sequence[Solid]) -> View:
    """Solids as seen from viewpoints; computed in float64, kept in float32."""
    yaw, tilt = np.array([s.yaw for s in solids]), np.array([s.tilt for s in solids])
    cy, sy, ct, st = np.cos(yaw), np.sin(yaw), np.cos(tilt), np.sin(tilt)
    rows = [(cy, 0 * cy, -sy), (sy * st, ct, cy * st), (sy * ct, -st, cy * ct)]
    axes = np.stack([np.stack(row, -1) for row in rows], 1)  # own axes in the room, [P, 3, 3]
    half = np.array([solid.half for solid in solids])
    camera = np.array([pose.axes() for pose in poses])  # [V, 3, 3]
    eye = np.array([pose.position for pose in poses])
    own = axes @ camera[:, None].swapaxes(-1, -2)  # own axes in the camera frame, [V, P, 3, 3]
    turn = own / half[:, :, None]
    centre = np.array([solid.centre for solid in solids]) - eye[:, None]
    offset = centre @ camera.swapaxes(-1, -2)  # [V, P, 3]
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = offset[:, :, None] + (signs * half[:, None]) @ own
    start = -(turn @ offset[..., None])[..., 0]
    shape = torch.tensor([solid.shape for solid in solids])
    turn, start, corners = (torch.from_numpy(array).float() for array in (turn, start, corners))
    return View(turn, start, corners, shape)


def directions(camera: Camera, shift: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """X/Z [W'] and Y/Z [H'] of pixel centres plus a shift, padded to whole tiles."""
    width, height = -(-camera.width // TILE) * TILE, -(-camera.height // TILE) * TILE
    x = (torch.arange(width, dtype=torch.float64) + shift[0] - camera.cx) / camera.fx
    y = (torch.arange(height, dtype=torch.float64) + shift[1] - camera.cy) / camera.fy
    return x.float(), y.float()


def crossing(start: Tensor, direction: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Ray parameters [N, ...] at which rays enter and leave unit solids; a miss enters last.

    Start and direction [3, N, ...] are in the solids' unit coordinates; the start's trailing sizes
    may be 1.
    """
    inverse = 1 / (direction + 1e-12)  # never 1 / 0: a ray inside a slab would lose its way
    middle, reach = -start * inverse, inverse.abs()
    near, far = (middle - reach).amax(0), (middle + reach).amin(0)
    curved = (shape != BOX).nonzero()[:, 0]
    if curved.numel():
        enters, leaves = quadric(start[:, curved], direction[:, curved], shape[curved] == BALL)
        near[curved] = torch.maximum(near[curved], enters)
        far[curved] = torch.minimum(far[curved], leaves)
    return near, far


def quadric(start: Tensor, direction: Tensor, ball: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave unit balls, or endless upright cylinders where `ball` is False."""
    weight = torch.ones_like(start)
    weight[1] = ball.to(start).view(-1, *[1] * (start.ndim - 2))
    a = (weight * direction * direction).sum(0)
    b = (weight * start * direction).sum(0)
    c = (weight * start * start).sum(0) - 1
    square = b * b - a * c
    root = square.clamp(min=0).sqrt()
    missed = square < 0
    return torch.where(missed, FAR, (-b - root) / a), torch.where(missed, -FAR, (root - b) / a)


def tile_pairs(scene: View, x: Tensor, y: Tensor) -> Tensor:
    """Which tile may see which solid: [N, 4] view, tile row, tile column and solid, in this order.

    The directions of the tiles' columns are x [C, 8], those of their rows y [R, 8].
    """
    cx, cy, cz = scene.corners[:, :, None].unbind(-1)  # [V, P, 1, 8]

    def within(position: Tensor, rays: Tensor) -> Tensor:
        low, high = rays.amin(-1)[:, None], rays.amax(-1)[:, None]
        return ((position - low * cz).amax(-1) >= 0) & ((position - high * cz).amin(-1) <= 0)

    columns, rows = within(cx, x) & (cz.amax(-1) > 0), within(cy, y)  # [V, P, C], [V, P, R]
    return (rows[:, :, :, None] & columns[:, :, None]).permute(0, 2, 3, 1).nonzero()


def trace(scene: View, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Depth [V, 8 R, 8 C] in metres and number of the first solid along every ray of V views.

    Rays go to X/Z = x [8 C] and Y/Z = y [8 R]; FAR and 0 where they meet nothing.
    """
    x, y = x.view(-1, TILE), y.view(-1, TILE)
    view, row, column, solid = tile_pairs(scene, x, y).unbind(1)
    turn = scene.turn[view, solid].permute(1, 2, 0)[..., None, None]  # [3, 3, N, 1, 1]
    start = scene.start[view, solid].T[..., None, None]
    across, down = x[column][:, None, :], y[row][:, :, None]
    direction = (turn[:, 0] * across + turn[:, 2]) + turn[:, 1] * down  # [3, N, 8, 8]
    near, far = crossing(start, direction, scene.shape[solid])
    near = torch.where((near < far) & (near > 0), near, FAR).flatten(1)
    views, rows, columns = len(scene.start), len(y), len(x)
    tile = ((view * rows + row) * columns + column)[:, None].expand_as(near)
    depth = near.new_full((views * rows * columns, TILE * TILE), FAR)
    depth = depth.scatter_reduce(0, tile, near, "amin")
    first = torch.where(near == depth.gather(0, tile), solid[:, None], 0)
    owner = torch.zeros_like(depth, dtype=torch.long).scatter_reduce(0, tile, first, "amax")

    def untiled(values: Tensor) -> Tensor:
        tiles = values.view(views, rows, columns, TILE, TILE).transpose(2, 3)
        return tiles.reshape(views, rows * TILE, columns * TILE)

    return untiled(depth), untiled(owner)
