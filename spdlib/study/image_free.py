"""Baselines that never look at the image: what a score is worth.

The constant and the per-pixel map that minimise the training frames' AbsRel, mean |c - g| / g, are
medians weighted by 1 / g. Depth is counted in whole millimetres, which makes the constant a matter
of one histogram and lets the map be sorted as 16-bit numbers. Above `FRAMES` training frames the
medians are taken over that many, evenly spread: memory does not grow with the training set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spdlib.data.frames import TRUTHS, Frames, Subset, spread
from spdlib.data.queries import lattice_truth
from spdlib.data.store import PackedFrames
from spdlib.errors import DataError
from spdlib.geometry import Size

MILLIMETRES = 1000.0
LEVELS = 2**16
"""Depths are whole millimetres below this; farther ones count as 65.535 m."""
FRAMES = 2000
"""Frames that a fit looks at, at most: medians over more hardly move; 1.2 GB of 480x640 pixels."""
BLOCK_BYTES = 64 * 2**20
"""Memory of one block of rows of all frames."""


@dataclass(frozen=True)
class PixelMap:
    """Answers every image with one fixed map.

    Attributes:
        depth: float32 [h, w] metres, stretched over any image under the half-pixel rule.
        fitted_to: the frames it was fitted to, in words; empty if it was not.
    """

    depth: Tensor
    fitted_to: str = ""

    def depth_at(self, points: Tensor, image_size: Size) -> Tensor:
        """Depth [..., K] metres at points [..., K, 2] in pixels of an image of `image_size`."""
        grid = 2 * (points + 0.5) / points.new_tensor(image_size[::-1]) - 1
        values = F.grid_sample(
            self.depth[None, None].to(grid),
            grid.reshape(1, -1, 1, 2),
            padding_mode="border",
            align_corners=False,
        )
        return values.reshape(points.shape[:-1])

    def dense(self, image_size: Size) -> Tensor:
        """Depth [H, W] metres of every pixel."""
        return F.interpolate(self.depth[None, None], image_size, mode="bilinear")[0, 0]


Baselines = Mapping[str, Mapping[str, PixelMap]]
"""Name of a truth -> name of a baseline -> its map."""


def constant(depth: float, fitted_to: str = "") -> PixelMap:
    """The map that answers one depth in metres everywhere."""
    return PixelMap(torch.full((1, 1), depth), fitted_to)


def fit_image_free(
    frames: Frames, size: Size | None = None, truths: Sequence[str] | None = None
) -> dict[str, dict[str, PixelMap]]:
    """Fit both baselines to training frames, once for each truth that scores will be taken against.

    Of a packed store every depth is read, whichever of them `frames` learns from.

    Args:
        frames: the training frames; above `FRAMES` that many of them, evenly spread, are used.
        size: height, width of the per-pixel maps; None takes the first frame's size.
        truths: names of depths; None takes all that the frames have.

    Returns:
        Truth -> "constant" and "pixel_map". Pixels that no frame measures take the constant.

    Raises:
        DataError: no frame, no such depth, or no measured pixel in any frame.
    """
    if not len(frames):
        raise DataError("the image-free baselines need at least one training frame")
    first = _reading(frames, truths)[0]
    chosen = truths or [name for name in TRUTHS if name in first.depths]
    size = size or first.camera.size
    return {truth: _fit(_reading(frames, [truth]), size, truth) for truth in chosen}


def _reading(frames: Frames, truths: Sequence[str] | None) -> Frames:
    """The same frames; of a packed store these depths are read, None for all."""
    if isinstance(frames, Subset):
        return Subset(_reading(frames.frames, truths), frames.indices)
    if isinstance(frames, PackedFrames):
        return PackedFrames(frames.path, frames.split, truths)
    return frames


def _fit(frames: Frames, size: Size, truth: str) -> dict[str, PixelMap]:
    used = Subset(frames, spread(len(frames), FRAMES))
    stack = np.empty((len(used), *size), dtype=np.uint16)
    histogram = np.zeros(LEVELS, dtype=np.int64)
    for i, depth in enumerate(_millimetres(used, size, truth)):
        stack[i] = depth
        histogram += np.bincount(depth.ravel(), minlength=LEVELS)
    best = _weighted_median_of_histogram(histogram)
    fitted = _map_of_medians(stack)
    fitted[fitted == 0] = best
    depth_map = torch.from_numpy(fitted.astype(np.float32) / np.float32(MILLIMETRES))
    words = f"{len(used)} of {len(frames)} training frames ({truth})"
    return {
        "constant": constant(best / MILLIMETRES, words),
        "pixel_map": PixelMap(depth_map, words),
    }


def weighted_medians(millimetres: np.ndarray) -> np.ndarray:
    """For each row, the depth that minimises the mean of |c - g| / g over its measured entries.

    Args:
        millimetres: uint16 [P, N]; 0 where nothing was measured.

    Returns:
        uint16 [P]; 0 for rows without a measurement.
    """
    ordered = np.sort(millimetres, axis=1)
    # zeros come first and weigh nothing
    weights = np.divide(1.0, ordered, out=np.zeros(ordered.shape), where=ordered > 0)
    cumulated = weights.cumsum(axis=1)
    middle = (cumulated < cumulated[:, -1:] / 2).sum(axis=1)
    return np.take_along_axis(ordered, middle[:, None], axis=1)[:, 0]


def _millimetres(frames: Frames, size: Size, truth: str) -> Iterator[np.ndarray]:
    for i in range(len(frames)):
        depth = np.ascontiguousarray(frames[i].truth(truth))
        if depth.shape != size:
            depth = lattice_truth(torch.from_numpy(depth), size).numpy()
        yield np.rint(depth * MILLIMETRES).clip(0, LEVELS - 1).astype(np.uint16)


def _weighted_median_of_histogram(histogram: np.ndarray) -> int:
    weights = histogram[1:] / np.arange(1, LEVELS)
    cumulated = weights.cumsum()
    if cumulated[-1] == 0:
        raise DataError("no training frame has a measured pixel; check the depth files")
    return 1 + int(np.searchsorted(cumulated, cumulated[-1] / 2))


def _map_of_medians(stack: np.ndarray) -> np.ndarray:
    """Weighted medians [h, w] of a stack [N, h, w], a block of rows at a time."""
    count, height, width = stack.shape
    # one frame's row costs 2 bytes in the stack, and about 32 in the sorted copy and its weights
    rows = max(1, BLOCK_BYTES // (count * width * 32))
    result = np.empty((height, width), dtype=np.uint16)
    for top in range(0, height, rows):
        block = stack[:, top : top + rows].reshape(count, -1)
        medians = weighted_medians(np.ascontiguousarray(block.T))
        result[top : top + rows] = medians.reshape(-1, width)
    return result
