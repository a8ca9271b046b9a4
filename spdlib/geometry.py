"""Pixels, map cells and cameras.

A point is `(u, v)` in pixels, u to the right, v down; integers are pixel centres, so an image of
width W covers u from -0.5 to W - 0.5. One rule links pixels to the cells of every feature map:
index = (u + 0.5) * w / W - 0.5.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from spdlib.errors import DataError, unknown_name

Size = tuple[int, int]
"""Height and width in pixels or cells."""

WIDEST = 10.0
"""Focal lengths that a picture may span: at 10 its field of view is 157 degrees."""


class GridRule(StrEnum):
    """How a pixel finds its place on a feature map.

    HALF_PIXEL is the correct rule and the default everywhere. RECORDED is that of the earlier
    experiments (index u * w / W, zeros outside: fault F9), kept so that its cost can be measured.
    """

    HALF_PIXEL = "half_pixel"
    RECORDED = "recorded"

    @property
    def zeros(self) -> bool:
        """Whether cells outside the map count as zero; else its border is repeated."""
        return self is GridRule.RECORDED


def size_of(images: Tensor) -> Size:
    """Height, width of images or channels-first maps [..., H, W]."""
    return images.shape[-2], images.shape[-1]


def grid_size(level: Tensor) -> Size:
    """Height, width of a channels-last map [B, h, w, C]."""
    return level.shape[1], level.shape[2]


def pixels_to_cells(
    points: Tensor, image_size: Size, map_size: Size, rule: GridRule = GridRule.HALF_PIXEL
) -> Tensor:
    """Fractional map indices (x, y) [..., 2] of pixel points (u, v) [..., 2]."""
    scale = points.new_tensor([map_size[1] / image_size[1], map_size[0] / image_size[0]])
    if rule is GridRule.RECORDED:
        return points * scale
    return (points + 0.5) * scale - 0.5


def cells_to_pixels(cells: Tensor, image_size: Size, map_size: Size) -> Tensor:
    """Pixel points (u, v) [..., 2] of fractional map indices [..., 2] under the default rule."""
    scale = cells.new_tensor([image_size[1] / map_size[1], image_size[0] / map_size[0]])
    return (cells + 0.5) * scale - 0.5


def nearest_cell(points: Tensor, image_size: Size, map_size: Size) -> Tensor:
    """Integer cell (x, y) [..., 2] that a point [..., 2] falls into: floor((u + 0.5) * w / W)."""
    cells, pixels = points.new_tensor(map_size[::-1]), points.new_tensor(image_size[::-1])
    # multiplied before divided: a pixel on the edge of a cell then falls where the fraction says
    nearest = torch.floor((points + 0.5) * cells / pixels)
    return torch.minimum(nearest.clamp(min=0), cells - 1).long()


def lattice_points(
    map_size: Size,
    image_size: Size,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Pixel points [h * w, 2] of all cell centres of a map, row by row."""
    rows, columns = (torch.arange(n, dtype=dtype, device=device) for n in map_size)
    return cells_to_pixels(torch.cartesian_prod(rows, columns).flip(-1), image_size, map_size)


@dataclass(frozen=True)
class Camera:
    """Pinhole camera of one image; pixel = (fx X/Z + skew Y/Z + cx, fy Y/Z + cy).

    Attributes:
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels (integers are pixel centres).
        width, height: size of the image in pixels.
        skew: shear in pixels; non-zero only after rotating a camera with fx != fy.

    Numbers of NumPy and PyTorch become Python's.

    Raises:
        DataError: what is no finite number or no whole size, or a focal length that is not
            positive. Whether a camera is likely is another question, see `doubt`.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    skew: float = 0.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = _number(each.name, getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        numbers = (self.fx, self.fy, self.cx, self.cy, self.skew)
        if not all(math.isfinite(x) for x in numbers) or self.fx <= 0 or self.fy <= 0:
            raise DataError(f"camera needs finite, positive focal lengths in pixels; got {self}")
        if self.width < 1 or self.height < 1:
            raise DataError(f"camera needs an image size of at least 1x1; got {self}")

    @classmethod
    def from_focal(cls, focal: float, width: int, height: int) -> Camera:
        """Camera with square pixels whose axis meets the middle of the image.

        The focal length is in pixels, not in millimetres, as are width and height.

        Raises:
            DataError: a focal length that is not positive, or an empty image.
        """
        width, height = _number("width", width), _number("height", height)
        return cls(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)

    @classmethod
    def from_fov(cls, degrees: float, width: int, height: int, axis: str = "horizontal") -> Camera:
        """Camera with square pixels and a given field of view, edge to edge of the image.

        It is measured along the "horizontal", "vertical" or "diagonal" axis.

        Raises:
            DataError: an impossible angle, an unknown axis, or an empty image.
        """
        width, height = _number("width", width), _number("height", height)
        degrees = _number("field of view", degrees)
        sides = {"horizontal": width, "vertical": height, "diagonal": math.hypot(width, height)}
        if axis not in sides:
            raise DataError(unknown_name("axis of a field of view", axis, sides))
        if not 0 < degrees < 180:
            raise DataError(f"a field of view lies between 0 and 180 degrees; got {degrees}")
        return cls.from_focal(sides[axis] / 2 / math.tan(math.radians(degrees) / 2), width, height)

    @classmethod
    def from_matrix(cls, matrix: Any, width: int, height: int) -> Camera:
        """Camera of an intrinsic matrix K = [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in pixels.

        K is nested lists, an array or a tensor. The centre of the upper left pixel is (0, 0):
        subtract 0.5 from cx and cy if yours is (0.5, 0.5).

        Raises:
            DataError: no such matrix, focal lengths that are not positive, or an empty image.
        """
        try:
            given = torch.as_tensor(matrix)
            if given.is_complex() or given.dtype == torch.bool:
                raise TypeError
            k = torch.as_tensor(matrix, dtype=torch.float64)
            (fx, skew, cx), (low, fy, cy), last = k.tolist()
        except (TypeError, ValueError, RuntimeError):
            got = " ".join(reprlib.repr(matrix).split())
            raise DataError(f"a camera's matrix is 3 x 3 numbers; got {got}") from None
        if low != 0 or last != [0, 0, 1]:
            raise DataError(
                f"a camera's matrix ends in the rows [0, fy, cy], [0, 0, 1]; got {k.tolist()}"
            )
        return cls(fx, fy, cx, cy, width, height, skew)

    @property
    def focal(self) -> float:
        """Geometric mean of fx and fy, in pixels."""
        return math.sqrt(self.fx * self.fy)

    @property
    def size(self) -> Size:
        """Height and width of the image."""
        return self.height, self.width

    @property
    def doubt(self) -> str | None:
        """Why no picture can have been taken so; None where it can. Asked of cameras from outside.

        One that is normalised or in millimetres fails: its picture spans more than `WIDEST` focal
        lengths, or reaches that far from the principal point. So does one whose principal point was
        left at (0, 0). Resizing and cropping keep what is right.
        """
        if (self.cx, self.cy) == (0, 0) and min(self.size) > 2:
            return (
                f"{self}: its principal point is the corner pixel, as where it was never set; give "
                "cx and cy in pixels, or half of width - 1 and height - 1 if they are unknown"
            )
        axes = ((self.fx, self.cx, self.width), (self.fy, self.cy, self.height))
        straight = abs(self.skew) <= WIDEST * self.fx
        if straight and all(
            max(side, abs(c), abs(side - c)) <= WIDEST * focal for focal, c, side in axes
        ):
            return None
        return (
            f"{self}: its focal length or principal point looks normalised or in millimetres, as "
            "no pinhole camera sees so far off its axis; give them in pixels (millimetres x image "
            "width / sensor width)"
        )

    def cropped(self, top: int, left: int, height: int, width: int) -> Camera:
        """Camera of the window that starts at row `top`, column `left`."""
        return replace(self, cx=self.cx - left, cy=self.cy - top, width=width, height=height)

    def resized(self, height: int, width: int) -> Camera:
        """Camera of the image resampled to height x width under the half-pixel rule."""
        sx, sy = width / self.width, height / self.height
        cx, cy = (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5
        return Camera(self.fx * sx, self.fy * sy, cx, cy, width, height, self.skew * sx)

    def flipped(self) -> Camera:
        """Camera of the left-right mirrored image; back-projected points have X negated."""
        return replace(self, cx=self.width - 1 - self.cx, skew=-self.skew)

    def rotated(self, degrees: float) -> Camera:
        """Camera of the image turned counter-clockwise about its centre, size kept.

        Back-projected points are the original ones turned about the optical axis by
        `roll(degrees)`; the axis leaves the image centre with the principal point.
        """
        c, s, fy, cosine, sine = self._turn(degrees)
        m00, m01 = c * self.fx, c * self.skew + s * self.fy
        u0, v0 = (self.width - 1) / 2, (self.height - 1) / 2
        du, dv = self.cx - u0, self.cy - v0
        return replace(
            self,
            fx=m00 * cosine - m01 * sine,
            fy=fy,
            cx=u0 + c * du + s * dv,
            cy=v0 - s * du + c * dv,
            skew=m00 * sine + m01 * cosine,
        )

    def roll(self, degrees: float) -> Tensor:
        """Rotation [3, 3] (float64) from this camera's points to those of `rotated(degrees)`."""
        *_, cosine, sine = self._turn(degrees)
        rows = [[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=torch.float64)

    def _turn(self, degrees: float) -> tuple[float, float, float, float, float]:
        """The turn [[c, s], [-s, c]] of [[fx, skew], [0, fy]] is upper triangular times rotation.

        Returns:
            c, s, fy of the triangle, cosine and sine of the rotation.

        DataError: degrees that are not finite.
        """
        if not math.isfinite(degrees):
            raise DataError(f"a camera is turned by a finite number of degrees; got {degrees}")
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        m10, m11 = -s * self.fx, -s * self.skew + c * self.fy
        fy = math.hypot(m10, m11)
        return c, s, fy, m11 / fy, m10 / fy

    def back_project(self, points: Tensor, depth: Tensor) -> Tensor:
        """3-D points [..., 3] in metres (x right, y down, z forward) of pixels (u, v) [..., 2].

        Depth [...] is in metres along the optical axis.
        """
        y = (points[..., 1] - self.cy) / self.fy
        x = (points[..., 0] - self.cx - self.skew * y) / self.fx
        return torch.stack([x * depth, y * depth, depth], -1)

    def project(self, xyz: Tensor) -> Tensor:
        """Pixels (u, v) [..., 2] of 3-D points [..., 3] in front of the camera."""
        x, y = xyz[..., 0] / xyz[..., 2], xyz[..., 1] / xyz[..., 2]
        return torch.stack([self.fx * x + self.skew * y + self.cx, self.fy * y + self.cy], -1)

    def to_tensor(self) -> Tensor:
        """float64 [7]: fx, fy, cx, cy, skew, width, height."""
        values = (self.fx, self.fy, self.cx, self.cy, self.skew, self.width, self.height)
        return torch.tensor(values, dtype=torch.float64)

    @classmethod
    def from_tensor(cls, values: Tensor) -> Camera:
        """Inverse of `to_tensor`."""
        fx, fy, cx, cy, skew, width, height = values.tolist()
        return cls(fx, fy, cx, cy, round(width), round(height), skew)


def _number(name: str, value: Any) -> Any:
    """A Python float, or an int for a side of the image; DataError of what is none."""
    side = name in ("width", "height")
    try:
        plain = value.item() if hasattr(value, "item") else value
        if isinstance(plain, bool) or not isinstance(plain, Real):
            raise TypeError
        number = float(plain)
        if side and not number.is_integer():
            raise ValueError
    except (TypeError, ValueError, RuntimeError, OverflowError):
        kind = "whole number of pixels" if side else "number"
        raise DataError(f"camera: {name} must be a {kind}; got {reprlib.repr(value)}") from None
    return int(number) if side else number


NYU_CAMERA = Camera(518.8579, 519.4696, 325.5824, 253.7362, 640, 480)
"""Camera of NYU Depth V2's RGB frames."""
