"""Ray casting for `rooms`: which solid every pixel sees first, and how far away it is.

Every solid is an affine map from the camera's frame to its unit box, unit cylinder or unit ball. A
ray enters it where the last of the box's slabs is entered (Kay and Kajiya 1986), cut by the quadric
of curved solids. Rays advance one metre along the optical axis, so the ray parameter *is* the
planar depth. Rays go in tiles of 8x8; a tile asks only the solids that its frustum can meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spdlib.data.rooms.furniture import BALL, BOX
from spdlib.data.rooms.layout import Pose, Room
from spdlib.geometry import Camera

TILE = 8
FAR = 1e9
"""Depth of rays that meet nothing."""


@dataclass(frozen=True)
class View:
    """Solids as seen from V viewpoints, padded to the same number P.

    Attributes:
        turn: [V, P, 3, 3] from camera directions to the solid's unit coordinates.
        start: [V, P, 3] the camera in unit coordinates.
        corners: [V, P, 8, 3] corners of the solid's box in the camera frame, metres.
        shape: [V, P] BOX, CYLINDER or BALL.
    """

    turn: Tensor
    start: Tensor
    corners: Tensor
    shape: Tensor


def own_axes(room: Room) -> np.ndarray:
    """Axes [P, 3, 3] of a room's solids as rows, in room coordinates."""
    yaw = np.array([solid.yaw for solid in room.solids])
    tilt = np.array([solid.tilt for solid in room.solids])
    cy, sy, ct, st = np.cos(yaw), np.sin(yaw), np.cos(tilt), np.sin(tilt)
    rows = [(cy, 0 * cy, -sy), (sy * st, ct, cy * st), (sy * ct, -st, cy * ct)]
    return np.stack([np.stack(row, -1) for row in rows], 1)


def view_arrays(room: Room, poses: Sequence[Pose], chosen: np.ndarray) -> list[np.ndarray]:
    """`View`'s arrays [V, P, ...], float64, for the chosen solids of one room."""
    axes, half = own_axes(room)[chosen], np.array([s.half for s in room.solids])[chosen]
    centre = np.array([solid.centre for solid in room.solids])[chosen]
    camera = np.array([pose.axes() for pose in poses])  # [V, 3, 3]
    eye = np.array([pose.position for pose in poses])
    seen = axes @ camera[:, None].swapaxes(-1, -2)  # own axes in the camera frame, [V, P, 3, 3]
    turn = seen / half[:, :, None]
    offset = (centre - eye[:, None]) @ camera.swapaxes(-1, -2)  # [V, P, 3]
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = offset[:, :, None] + (signs * half[:, None]) @ seen
    shape = np.array([solid.shape for solid in room.solids])[chosen]
    start = -(turn @ offset[..., None])[..., 0]
    return [turn, start, corners, np.broadcast_to(shape, (len(poses), len(shape)))]


def stack(arrays: Sequence[np.ndarray], device: str, fill: float = 0.0) -> Tensor:
    """Arrays [P_i, ...] padded to the longest, as one tensor; floats become float32."""
    size = max(len(array) for array in arrays)
    result = np.full((len(arrays), size, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in zip(result, arrays, strict=True):
        row[: len(array)] = array
    tensor = torch.from_numpy(result)
    return (tensor.float() if tensor.is_floating_point() else tensor).to(device)


def make_views(arrays: Sequence[list[np.ndarray]], device: str) -> View:
    """One `View` of several rooms' `view_arrays`; absent solids lie behind the camera."""
    rows = [[field[i] for field in room] for room in arrays for i in range(len(room[0]))]
    turn, start, corners, shape = zip(*rows, strict=True)
    boxes = stack(corners, device, fill=-1.0)
    return View(stack(turn, device), stack(start, device), boxes, stack(shape, device))


def directions(
    camera: Camera, views: int, shift: tuple[float, float], device: str
) -> tuple[Tensor, Tensor]:
    """X/Z [V, W'] and Y/Z [V, H'] of pixel centres plus a shift, padded to whole tiles."""
    width, height = -(-camera.width // TILE) * TILE, -(-camera.height // TILE) * TILE
    x = (torch.arange(width, dtype=torch.float64) + shift[0] - camera.cx) / camera.fx
    y = (torch.arange(height, dtype=torch.float64) + shift[1] - camera.cy) / camera.fy
    return (x.float().to(device).expand(views, -1), y.float().to(device).expand(views, -1))


def crossing(start: Tensor, direction: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave unit solids.

    Args:
        start: [3, N, ...] in unit coordinates; trailing sizes may be 1.
        direction: [3, N, ...].
        shape: [N] BOX, CYLINDER or BALL.

    Returns:
        Two [N, ...] ray parameters; the ray misses where the first exceeds the second.
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
    return (torch.where(missed, FAR, (-b - root) / a), torch.where(missed, -FAR, (root - b) / a))


def tile_pairs(scene: View, x: Tensor, y: Tensor) -> Tensor:
    """Which tile may see which solid.

    Args:
        scene: V views.
        x: [V, C, 8] horizontal direction of the tiles' columns.
        y: [V, R, 8] vertical direction of the tiles' rows.

    Returns:
        [N, 4] view, tile row, tile column and solid, in this order.
    """
    cx, cy, cz = scene.corners.unbind(-1)  # [V, P, 8]

    def within(position: Tensor, rays: Tensor) -> Tensor:
        low, high = rays.amin(-1)[:, None, :, None], rays.amax(-1)[:, None, :, None]
        position, depth = position[:, :, None], cz[:, :, None]
        return ((position - low * depth).amax(-1) >= 0) & ((position - high * depth).amin(-1) <= 0)

    front = (cz.amax(-1) > 0)[:, :, None]
    columns, rows = within(cx, x) & front, within(cy, y)  # [V, P, C], [V, P, R]
    return (rows[:, :, :, None] & columns[:, :, None]).permute(0, 2, 3, 1).nonzero()


def trace(scene: View, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """First solid along every ray.

    Args:
        scene: V views.
        x: [V, 8 C] horizontal directions X/Z.
        y: [V, 8 R] vertical directions Y/Z.

    Returns:
        depth [T, 64] in metres (FAR where nothing is met) and solid [T, 64] (an index into the
        views' V * P solids, 0 where nothing is met), for T = V * R * C tiles.
    """
    views, count = scene.shape.shape
    x, y = x.view(views, -1, TILE), y.view(views, -1, TILE)
    view, row, column, solid = tile_pairs(scene, x, y).unbind(1)
    index = view * count + solid
    turn = scene.turn.view(-1, 3, 3)[index].permute(1, 2, 0)[..., None, None]  # [3, 3, N, 1, 1]
    start = scene.start.view(-1, 3)[index].T[..., None, None]
    across, down = x[view, column][:, None, :], y[view, row][:, :, None]
    direction = (turn[:, 0] * across + turn[:, 2]) + turn[:, 1] * down  # [3, N, 8, 8]
    near, far = crossing(start, direction, scene.shape.view(-1)[index])
    near = torch.where((near < far) & (near > 0), near, FAR).flatten(1)
    tiles = views * y.shape[1] * x.shape[1]
    tile = ((view * y.shape[1] + row) * x.shape[1] + column)[:, None].expand_as(near)
    depth = near.new_full((tiles, TILE * TILE), FAR).scatter_reduce(0, tile, near, "amin")
    first = torch.where(near == depth.gather(0, tile), index[:, None], 0)
    owner = torch.zeros_like(depth, dtype=torch.long).scatter_reduce(0, tile, first, "amax")
    return depth, owner


def untiled(values: Tensor, views: int, columns: int) -> Tensor:
    """[T, 64] back to images [V, 8 R, 8 C]."""
    tiles = values.view(views, -1, columns, TILE, TILE).transpose(2, 3)
    return tiles.reshape(views, -1, columns * TILE)
