"""Who is scored: networks, as they are or averaged with the mirrored image, and fixed maps.

Everything that answers points is scored alike: called with a view, a predictor gives `Answers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spdlib.geometry import lattice_points
from spdlib.models import DepthModel
from spdlib.scene import Scene
from spdlib.study.image_free import PixelMap
from spdlib.study.protocols import View


class Answers(Protocol):
    """Depth of one view."""

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Depth [K] in metres at points [K, 2] in pixels of the view, `group` in one pass."""
        ...

    def dense(self) -> Tensor | None:
        """Depth [H, W] in metres of every pixel; None where there is no dense path."""
        ...


@dataclass(frozen=True)
class SceneAnswers:
    """Answers of one scene, or the mean of a scene and its mirror image, on the CPU.

    What was answered is remembered: figures and sweeps cost nothing where the scores have asked.
    """

    scene: Scene
    mirrored: Scene | None = None
    _known: dict[tuple[bytes, int | None], Tensor] = field(default_factory=dict, repr=False)

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Depth [K] in metres at points [K, 2]; `group` as for `Scene.depth_at`."""
        key = points.cpu().numpy().tobytes(), group
        if key not in self._known:
            self._known[key] = self._ask(points, group)
        return self._known[key]

    def _ask(self, points: Tensor, group: int | None) -> Tensor:
        depth = self.scene.depth_at(points, group=group)
        if self.mirrored is not None:
            last = self.scene.image_size[1] - 1
            other = torch.stack([last - points[..., 0], points[..., 1]], -1)
            depth = (depth + self.mirrored.depth_at(other, group=group)) / 2
        return depth.cpu()

    def dense(self) -> Tensor | None:
        """Depth [H, W] in metres."""
        return self._dense if self.scene.model.has_dense else None

    @cached_property
    def _dense(self) -> Tensor:
        depth = self.scene.dense()[0]
        if self.mirrored is not None:
            depth = (depth + self.mirrored.dense()[0].flip(-1)) / 2
        return depth.cpu()

    @torch.no_grad()
    def lattice(self) -> tuple[Tensor, Tensor]:
        """Depth [N] by the sparse and by the dense path at the sites of the network's lattice.

        Of the scene as it was encoded, without its mirror image.
        """
        model, maps, padded = self.scene.model, self.scene.maps, self.scene.padded
        dense = model.decode_lattice(maps)
        size = (dense.shape[1], dense.shape[2])
        sites = lattice_points(size, padded, dtype=dense.dtype, device=dense.device)
        sparse = model.decode(maps, sites[None], padded).depth
        return sparse.flatten().cpu(), dense.flatten().cpu()


@dataclass(frozen=True)
class ModelPredictor:
    """A network that looks at views.

    Attributes:
        model: in evaluation mode, on any device.
        flip: average the answers to all views with those to the mirrored image.
        squash: press views into the training size (F1).
    """

    model: DepthModel
    flip: bool = False
    squash: bool = False

    def __call__(self, view: View) -> SceneAnswers:
        """Encode the view, and its mirror image if wanted."""
        scene = self.model.encode(view.image, view.camera, squash=self.squash)
        if not (self.flip or view.mirrored):
            return SceneAnswers(scene)
        flipped = (
            np.ascontiguousarray(view.image[:, ::-1])
            if isinstance(view.image, np.ndarray)
            else view.image.flip(-1)
        )
        mirrored = self.model.encode(flipped, view.camera.flipped(), squash=self.squash)
        return SceneAnswers(scene, mirrored)


Look = Callable[[View], SceneAnswers]
"""A network in front of one frame."""


@dataclass(frozen=True)
class Remembering:
    """A network in front of one frame: a view that it has seen is not encoded again."""

    predictor: ModelPredictor
    _seen: list[tuple[View, SceneAnswers]] = field(default_factory=list, repr=False)

    def __call__(self, view: View) -> SceneAnswers:
        """The answers of an equal view, if there was one."""
        for seen, answers in self._seen:
            if view.equals(seen):
                return answers
        self._seen.append((view, self.predictor(view)))
        return self._seen[-1][1]


@dataclass(frozen=True)
class _MapAnswers:
    depth_map: PixelMap
    view: View

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Read the map where the whole frame shows what the view shows at the points."""
        camera, frame = self.view.camera, self.view.frame_camera
        rays = camera.back_project(points.double(), torch.ones(points.shape[:-1]).double())
        return self.depth_map.depth_at(frame.project(rays), frame.size).float()

    def dense(self) -> Tensor | None:
        """Depth [H, W] in metres of every pixel."""
        if self.view.camera == self.view.frame_camera:
            return self.depth_map.dense(self.view.camera.size)
        height, width = self.view.camera.size
        v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        return self.depth_at(torch.stack([u, v], -1).reshape(-1, 2)).view(height, width)


@dataclass(frozen=True)
class MapPredictor:
    """A baseline that never looks at the image."""

    depth_map: PixelMap

    def __call__(self, view: View) -> _MapAnswers:
        """Remember the view's place in its frame."""
        return _MapAnswers(self.depth_map, view)
