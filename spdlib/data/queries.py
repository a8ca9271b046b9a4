"""Where depth is queried: training points, fixed evaluation points, depth edges.

Points are `(u, v)` in pixels of the depth map they are drawn for. The truth of a point is the depth
of the valid pixel it falls into, never an interpolated one.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spdlib.errors import QueryError

EIGEN_MIN_DEPTH, EIGEN_MAX_DEPTH = 1e-3, 10.0
"""Depth range of the eigen protocol in metres; both ends are excluded from the truth."""
EIGEN_CROP = (45, 470, 41, 600)
"""First and last row, first and last column (inclusive) of the Eigen crop of a 480x640 frame."""
EIGEN_POINTS = 1024
EDGE_SHARE = 0.3
"""Share of the points that `edge_aware_points` puts near depth edges."""
# A jitter of +-0.5 could round to the neighbouring pixel in float32 (spacing 6e-5 at u = 640).
_JITTER = 1.0 - 2.0**-10


class PointSample(NamedTuple):
    """Points with their truth.

    Attributes:
        points: [K, 2] float32, (u, v) in pixels.
        truth: [K] float32 metres; 0 where `valid` is False.
        valid: [K] bool; False marks padding (points that stand before it once more, or, if there
            is none, the image's centre).
    """

    points: Tensor
    truth: Tensor
    valid: Tensor


def stable_seed(*parts: object) -> int:
    """63-bit seed from the text of `parts`; equal in every process, machine and Python version."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seeded_generator(*parts: object) -> torch.Generator:
    """CPU generator seeded with `stable_seed(*parts)`."""
    return torch.Generator().manual_seed(stable_seed(*parts))


def uniform_points(
    depth: Tensor, k: int, generator: torch.Generator, jitter: bool = True
) -> PointSample:
    """Draw K points uniformly, without replacement, over the valid pixels of a depth map.

    Args:
        depth: [H, W] metres, 0 where nothing was measured.
        k: fewer valid pixels than that leave padding at the end.
        generator: CPU generator.
        jitter: move every point by U(-0.5, 0.5) in u and v, inside its pixel.

    Raises:
        QueryError: `depth` is not [H, W] or `k` is negative.
    """
    pixels = _shuffled(_valid_pixels(depth, k), generator)[:k]
    return _sample(depth, pixels, k, generator if jitter else None)


def edge_aware_points(
    depth: Tensor, k: int, generator: torch.Generator, jitter: bool = True
) -> PointSample:
    """As `uniform_points`, but 30 % of the points lie near depth edges, if there are enough."""
    pixels = _shuffled(_valid_pixels(depth, k), generator)
    uniform, rest = pixels.tensor_split([k - round(EDGE_SHARE * k)])
    near_edge = edge_mask(depth).flatten()[rest]
    pixels = torch.cat([uniform, rest[near_edge], rest[~near_edge]])[:k]
    return _sample(depth, pixels, k, generator if jitter else None)


def recorded_points(
    depth: Tensor, k: int, generator: torch.Generator, jitter: bool = False
) -> PointSample:
    """As `uniform_points`, with replacement: so recorded runs and the recorded protocol draw."""
    pixels = _valid_pixels(depth, k)
    if pixels.numel():
        pixels = pixels[torch.randint(pixels.numel(), (k,), generator=generator)]
    return _sample(depth, pixels, k, generator if jitter else None)


def evaluation_points(depth: Tensor, frame_key: str, k: int = EIGEN_POINTS) -> PointSample:
    """The fixed integer pixels at which the eigen protocol scores a frame of depth [H, W] metres.

    They depend on the frame's id and on which pixels count, on nothing else, so that every network
    answers the same queries. Philox's raw stream is the same in every NumPy version.
    """
    _check(depth, k)
    height, width = depth.shape
    ranks = np.random.Philox(key=stable_seed("evaluation_points", frame_key)).random_raw(
        height * width
    )
    candidates = torch.nonzero(eigen_mask(depth).flatten()).flatten().cpu().numpy()
    ranks = ranks[candidates]
    if candidates.size > k:
        lowest = np.argpartition(ranks, k)[:k] if k else np.empty(0, dtype=np.int64)
        candidates, ranks = candidates[lowest], ranks[lowest]
    pixels = torch.from_numpy(candidates[np.argsort(ranks)]).to(depth.device)
    return _sample(depth, pixels, k, None)


def eigen_mask(depth: Tensor) -> Tensor:
    """Pixels of depth [..., H, W] that the eigen protocol scores: in the crop, 1e-3 < depth < 10 m.

    Sizes other than 480x640 scale the crop with the image: a pixel counts when its centre lies
    inside the crop's outline.
    """
    height, width = depth.shape[-2:]
    rows = (torch.arange(height, device=depth.device) + 0.5) * (480 / height) - 0.5
    columns = (torch.arange(width, device=depth.device) + 0.5) * (640 / width) - 0.5
    top, bottom, left, right = EIGEN_CROP
    in_rows = (rows > top - 0.5) & (rows < bottom + 0.5)
    in_columns = (columns > left - 0.5) & (columns < right + 0.5)
    in_range = (depth > EIGEN_MIN_DEPTH) & (depth < EIGEN_MAX_DEPTH)
    return in_range & in_rows[:, None] & in_columns


def edge_mask(depth: Tensor, radius: int = 3) -> Tensor:
    """Measured pixels [H, W] near a depth edge: the steepest tenth of log depth, dilated.

    Args:
        depth: [H, W] metres. Where one of the 3x3 neighbours is not measured the slope is unknown
            and the pixel does not start an edge.
        radius: dilation in pixels (a square of 2 * radius + 1).
    """
    _check(depth, 0)
    measured = depth > 0
    slope = _sobel_magnitude(torch.where(measured, depth, 1.0).log())
    known = F.max_pool2d((~measured)[None].float(), 3, stride=1, padding=1)[0] == 0
    if not bool(known.any()):
        return torch.zeros_like(measured)
    slopes = slope[known]
    rank = max(1, slopes.numel() - int(0.1 * slopes.numel()))
    steep = known & (slope > slopes.kthvalue(rank).values)
    near = F.max_pool2d(steep[None].float(), 2 * radius + 1, stride=1, padding=radius)[0] > 0
    return near & measured


def truth_at(depth: Tensor, points: Tensor) -> Tensor:
    """Depth [K] of the pixels of depth [H, W] that points (u, v) [K, 2] inside it fall into."""
    height, width = depth.shape
    cells = torch.floor(points + 0.5).long()
    columns, rows = cells[:, 0].clamp(0, width - 1), cells[:, 1].clamp(0, height - 1)
    return depth.flatten().index_select(0, rows * width + columns)


def lattice_truth(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Depth [..., h, w] of the pixels of depth [..., H, W] under the centres of h x w sites."""
    batch = depth.reshape(-1, 1, *depth.shape[-2:])
    return F.interpolate(batch, size, mode="nearest-exact").reshape(*depth.shape[:-2], *size)


def _check(depth: Tensor, k: int) -> None:
    if depth.ndim != 2:
        raise QueryError(f"depth must be [H, W]; got shape {tuple(depth.shape)}")
    if k < 0:
        raise QueryError(f"the number of points must not be negative; got {k}")


def _valid_pixels(depth: Tensor, k: int) -> Tensor:
    """Flat indices [N] of all measured pixels."""
    _check(depth, k)
    return torch.nonzero(depth.flatten() > 0).flatten()


def _shuffled(pixels: Tensor, generator: torch.Generator) -> Tensor:
    return pixels[torch.randperm(pixels.numel(), generator=generator)]


def _sample(
    depth: Tensor, pixels: Tensor, k: int, generator: torch.Generator | None
) -> PointSample:
    """Points at flat pixel indices [N <= K], jittered if a generator is given, padded to K."""
    height, width = depth.shape
    count = pixels.numel()
    points = torch.stack([pixels % width, pixels // width], -1).float()
    if generator is not None:
        shift = torch.rand(k, 2, generator=generator) - 0.5
        points += _JITTER * shift[:count].to(points)
    if count == 0:
        points = points.new_tensor([[width // 2, height // 2]])
    # padding repeats points, so that dependent queries read nothing but points of the sample
    points = points[torch.arange(k) % len(points)]
    truth = depth.new_zeros(k, dtype=torch.float32)
    truth[:count] = depth.flatten().index_select(0, pixels).float()
    return PointSample(points, truth, torch.arange(k, device=depth.device) < count)


def _sobel_magnitude(image: Tensor) -> Tensor:
    """Length [H, W] of the Sobel gradient of an image [H, W], borders replicated."""
    padded = F.pad(image[None, None], (1, 1, 1, 1), mode="replicate")
    kernel = image.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    gradient = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])[0]
    return torch.hypot(gradient[0], gradient[1])
