"""Who is scored: networks, and baselines that never look at the image.

Called with a view, everything that answers points gives `Answers`, and is scored alike. The
constant and the per-pixel map that minimise the training frames' AbsRel, mean |c - g| / g, are
medians weighted by 1 / g. Depth is counted in whole millimetres, which makes the constant a matter
of one histogram and lets the map be sorted as 16-bit numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spdlib.data.frames import TRUTHS, Frame, Frames, Subset, evenly_spaced
from spdlib.data.queries import lattice_truth
from spdlib.data.store import PackedFrames
from spdlib.errors import DataError
from spdlib.geometry import Size, lattice_points, size_of
from spdlib.models import DepthModel
from spdlib.scene import Scene
from spdlib.study.protocols import View

MILLIMETRES = 1000.0
DEPTH_VALUES = 2**16
"""Depths are whole millimetres below this; farther ones count as 65.535 m."""
FRAMES = 2000
"""Frames that a fit looks at, at most: medians over more hardly move; 1.2 GB of 480x640 pixels."""
BLOCK_BYTES = 64 * 2**20
"""Memory of one block of rows of all frames."""


class Answers(Protocol):
    """Depth of one view."""

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Depth [K] in metres at points [K, 2] in pixels of the view, `group` in one pass."""
        ...

    def dense(self) -> Tensor | None:
        """Depth [H, W] in metres of every pixel; None where there is no dense path."""
        ...


class Entrant(Protocol):
    """Whoever answers from elsewhere than a network's weights here, such as from files."""

    name: str
    """In tables."""
    told: str
    """Where the answers come from, in words, for the protocols' notes."""

    def __call__(self, frame: Frame) -> Callable[[View], Answers]:
        """What answers the frame as it is: a view of the whole of it."""
        ...


class SceneAnswers:
    """Answers of one scene, on the CPU.

    They are remembered: figures and sweeps cost nothing where the scores have queried.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._known: dict[Any, Tensor] = {}

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Depth [K] in metres at points [K, 2]; `group` as for `Scene.depth_at`."""
        key = points.cpu().numpy().tobytes(), group
        if key not in self._known:
            self._known[key] = self.scene.depth_at(points, group=group).cpu()
        return self._known[key]

    def dense(self) -> Tensor | None:
        """Depth [H, W] in metres."""
        if not self.scene.model.has_dense:
            return None
        if "dense" not in self._known:
            self._known["dense"] = self.scene.dense()[0].cpu()
        return self._known["dense"]

    @torch.no_grad()
    def lattice(self) -> tuple[Tensor, Tensor]:
        """Depth [N] by the sparse and by the dense path at the sites of the network's lattice."""
        model, maps, padded = self.scene.model, self.scene.maps, self.scene.padded
        dense = model.decode_lattice(maps)
        sites = lattice_points(size_of(dense), padded, dtype=dense.dtype, device=dense.device)
        sparse = model.answer(maps, sites[None], padded).depth
        return sparse.flatten().cpu(), dense.flatten().cpu()


class MeanAnswers(SceneAnswers):
    """The mean of the answers to an image and to its mirror image, turned back."""

    def __init__(self, plain: SceneAnswers, mirrored: SceneAnswers) -> None:
        super().__init__(plain.scene)  # the lattice is that of the image as it is
        self.plain, self.mirrored = plain, mirrored

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Depth [K] in metres at points [K, 2]."""
        last = self.scene.image_size[1] - 1
        other = torch.stack([last - points[..., 0], points[..., 1]], -1)
        return (self.plain.depth_at(points, group) + self.mirrored.depth_at(other, group)) / 2

    def dense(self) -> Tensor | None:
        """Depth [H, W] in metres."""
        plain, mirrored = self.plain.dense(), self.mirrored.dense()
        return None if plain is None or mirrored is None else (plain + mirrored.flip(-1)) / 2


class ModelPredictor:
    """A network in evaluation mode in front of one frame; no view is encoded twice.

    `flip` averages all answers with those to the mirrored image; `squash` presses views into the
    training size (F1).
    """

    def __init__(self, model: DepthModel, flip: bool = False, squash: bool = False) -> None:
        self.model, self.flip, self.squash = model, flip, squash
        self._known: list[tuple[View, SceneAnswers]] = []

    def __call__(self, view: View) -> SceneAnswers:
        """The answers to a view; those of an equal one, if there was one."""
        return self._answers(replace(view, mirrored=view.mirrored or self.flip))

    def _answers(self, view: View) -> SceneAnswers:
        for known, answers in self._known:
            if view.equals(known):
                return answers
        if view.mirrored:  # of the image as it is there may be answers already
            answers = MeanAnswers(self._answers(replace(view, mirrored=False)), self._mirror(view))
        else:
            answers = SceneAnswers(self.model.encode(view.image, view.camera, squash=self.squash))
        self._known.append((view, answers))
        return answers

    def _mirror(self, view: View) -> SceneAnswers:
        """The answers to the mirror image."""
        image: Any = view.image
        array = isinstance(image, np.ndarray)
        flipped = np.ascontiguousarray(image[:, ::-1]) if array else image.flip(-1)
        return SceneAnswers(self.model.encode(flipped, view.camera.flipped(), squash=self.squash))


@dataclass(frozen=True)
class PixelMap:
    """Answers every image with one fixed map."""

    depth: Tensor
    """float32 [h, w] metres, stretched over any image under the half-pixel rule."""
    fitted_to: str = ""
    """The frames it was fitted to, in words; empty if it was not."""

    def __call__(self, view: View) -> MapAnswers:
        """The map where the view lies in its frame."""
        return MapAnswers(self, view)

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


@dataclass(frozen=True)
class MapAnswers:
    """Answers of a fixed map of whole frames to a view of one."""

    depth_map: PixelMap
    view: View

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Read the map where the whole frame shows what the view shows at the points."""
        camera, frame = self.view.camera, self.view.frame_camera
        rays = camera.back_project(points.double(), torch.ones(points.shape[:-1]).double())
        return self.depth_map.depth_at(frame.project(rays), frame.size).float()

    def dense(self) -> Tensor:
        """Depth [H, W] in metres of every pixel."""
        size = self.view.camera.size
        if self.view.camera == self.view.frame_camera:
            return self.depth_map.dense(size)
        return self.depth_at(lattice_points(size, size)).view(size)


Baselines = Mapping[str, Mapping[str, PixelMap]]
"""Name of a truth -> name of a baseline -> its map."""


IMAGE_FREE = ("constant", "pixel_map")
"""Names of the baselines of `fit_image_free`, which no other entrant may have."""


def constant(depth: float, fitted_to: str = "") -> PixelMap:
    """The map that answers one depth in metres everywhere."""
    return PixelMap(torch.full((1, 1), depth), fitted_to)


def fit_image_free(frames: Frames) -> dict[str, dict[str, PixelMap]]:
    """Fit both baselines to training frames, once for each truth that the frames have.

    Of a packed store every depth is read, whichever of them `frames` learns from. Above `FRAMES`
    training frames that many of them, evenly spaced, are used.

    Returns:
        Truth -> "constant" and "pixel_map", of the first frame's size. Pixels that no frame
        measures take the constant.

    Raises:
        DataError: no frame, or no measured pixel in any frame.
    """
    if not len(frames):
        raise DataError("the image-free baselines need at least one training frame")
    first = _reading(frames)[0]
    chosen = [name for name in TRUTHS if name in first.depths]
    return {truth: _fit(_reading(frames, truth), first.camera.size, truth) for truth in chosen}


def _reading(frames: Frames, truth: str | None = None) -> Frames:
    """The same frames; of a packed store this depth is read, or every one."""
    if isinstance(frames, Subset):
        return Subset(_reading(frames.frames, truth), frames.indices)
    if isinstance(frames, PackedFrames):
        return PackedFrames(frames.path, frames.split, truth and [truth])
    return frames


def _fit(frames: Frames, size: Size, truth: str) -> dict[str, PixelMap]:
    used = Subset(frames, evenly_spaced(len(frames), FRAMES))
    stack = np.empty((len(used), *size), dtype=np.uint16)  # whole millimetres
    histogram = np.zeros(DEPTH_VALUES, dtype=np.int64)
    for index, row in enumerate(stack):
        depth = torch.from_numpy(np.ascontiguousarray(used[index].truth(truth)))
        millimetres = MILLIMETRES * lattice_truth(depth, size).numpy()
        row[:] = np.rint(millimetres).clip(0, DEPTH_VALUES - 1)
        histogram += np.bincount(row.ravel(), minlength=DEPTH_VALUES)
    weights = (histogram[1:] / np.arange(1, DEPTH_VALUES)).cumsum()
    if weights[-1] == 0:
        raise DataError("no training frame has a measured pixel; check the depth files")
    best = 1 + int(np.searchsorted(weights, weights[-1] / 2))
    fitted = _map_of_medians(stack)
    fitted[fitted == 0] = best
    depth_map = torch.from_numpy(fitted.astype(np.float32) / np.float32(MILLIMETRES))
    words = f"{len(used)} of {len(frames)} training frames ({truth})"
    maps = constant(best / MILLIMETRES, words), PixelMap(depth_map, words)
    return dict(zip(IMAGE_FREE, maps, strict=True))


def weighted_medians(millimetres: np.ndarray) -> np.ndarray:
    """For each row, the depth that minimises the mean of |c - g| / g over its measured entries.

    uint16 [P, N] millimetres, 0 where nothing was measured -> [P], 0 for rows without measurement.
    """
    ordered = np.sort(millimetres, axis=1)
    # zeros come first and weigh nothing
    weights = np.divide(1.0, ordered, out=np.zeros(ordered.shape), where=ordered > 0)
    cumulated = weights.cumsum(axis=1)
    middle = (cumulated < cumulated[:, -1:] / 2).sum(axis=1)
    return np.take_along_axis(ordered, middle[:, None], axis=1)[:, 0]


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
