"""Protocols: how a frame is shown, where it is queried, and what the answers are scored by.

A protocol is one small class, registered by name; its scores stand under its name and that of the
truth, for instance "eigen/inpainted". To add one, derive from `Protocol` or from a protocol that is
nearly right, for instance to align predictions before they are scored (`Protocol.scored`), to
average with the mirrored image or to change the picture (`Protocol.view`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spdlib.data.augment import AugmentConfig, augment
from spdlib.data.frames import Frame
from spdlib.data.queries import (
    EIGEN_POINTS,
    PointSample,
    edge_mask,
    eigen_mask,
    evaluation_points,
    recorded_points,
    seeded_generator,
)
from spdlib.geometry import Camera, Size
from spdlib.plugins import Registry
from spdlib.scene import GROUP
from spdlib.study.metrics import Accumulator, EigenMetrics, RecordedMetrics


@dataclass(frozen=True, eq=False)
class View:
    """One image as a network or a baseline sees it."""

    image: np.ndarray | Tensor
    """uint8 [H, W, 3] or float [3, H, W] in 0..1."""
    camera: Camera
    frame_camera: Camera
    """Of the whole frame that the image shows, or shows a part of."""
    mirrored: bool = False
    """Show the image's mirror image too, and take the mean of both answers."""

    def equals(self, other: View) -> bool:
        """Whether a network has the same answers to both."""
        settings = [(v.camera, v.mirrored, type(v.image)) for v in (self, other)]
        one, two = torch.as_tensor(self.image), torch.as_tensor(other.image)
        return settings[0] == settings[1] and (one is two or torch.equal(one, two))


class Sites(NamedTuple):
    """Where a view is queried, and the truth there."""

    points: Tensor | None
    """[K, 2] (u, v) in pixels of the view; None for every pixel."""
    truth: Tensor
    """Metres, [K], or [H, W] of every pixel."""
    valid: Tensor
    """bool like `truth`, the sites that count."""
    edges: Tensor | None = None
    """bool like `truth`, those near depth edges; None if they are not told apart."""


@dataclass(frozen=True)
class Protocol(ABC):
    """One way to score depth."""

    name: ClassVar[str]
    image_size: Size
    """Height, width in pixels of the images that the network is trained on."""
    crop: str = "fit"
    """How a frame is brought to that size: "fit", "native" or "squash"."""
    recorded_points: int = 128
    """Points a frame with which the network's scores were recorded."""

    @abstractmethod
    def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
        """What is shown of a frame, and the truth [H, W] in metres of its pixels."""

    @abstractmethod
    def sites(self, depth: Tensor, frame_id: str) -> Mapping[str, Sites]:
        """Kinds of sites by name, usually "points" and "dense", for the truth [H, W] of `view`.

        Random points take their seed from `frame_id`.
        """

    @abstractmethod
    def accumulator(self, sites: str) -> Accumulator:
        """Empty scores for one kind of sites."""

    @abstractmethod
    def note(self, truth: str, frame: Frame) -> str:
        """What was done, in words; `frame` is the first of the set."""

    def scored(self, depth: Tensor, sites: Sites) -> Tensor:
        """Predictions (metres, like `sites.truth`) as they are scored: here, as they are."""
        return depth


PROTOCOLS = Registry[type[Protocol]]("protocol")
protocol = PROTOCOLS.register
"""Class decorator: `@protocol("name")`."""


@protocol("eigen")
class Eigen(Protocol):
    """The frame as it is: 1,024 fixed points and all pixels, inside the Eigen crop, per image."""

    def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
        """The whole frame at its own size."""
        return View(frame.image, frame.camera, frame.camera), torch.from_numpy(frame.truth(truth))

    def sites(self, depth: Tensor, frame_id: str) -> dict[str, Sites]:
        """The frame's fixed points, and its pixels; edges are those of the whole map."""
        sample, edges = evaluation_points(depth, frame_id), edge_mask(depth)
        columns, rows = sample.points.long().unbind(-1)
        return {
            "points": Sites(*sample, edges[rows, columns]),
            "dense": Sites(None, depth, eigen_mask(depth), edges),
        }

    def accumulator(self, sites: str) -> EigenMetrics:
        """Scores per image; at the points also those that pool all frames."""
        return EigenMetrics(pooled=sites == "points")

    def note(self, truth: str, frame: Frame) -> str:
        """Crop, depth range, means and points."""
        height, width = frame.camera.size
        scaled = "" if (height, width) == (480, 640) else f", scaled to {height}x{width}"
        return (
            f"truth: {truth}, {height}x{width}; rows 45-470, columns 41-600{scaled}; 1e-3 < g < "
            "10 m, prediction clamped to that; per image, then the mean; SILog factor 1, x100; "
            f"points: {EIGEN_POINTS} fixed a frame in groups of {GROUP}"
        )


@protocol("recorded")
class Recorded(Protocol):
    """The frame at the network's size: seeded points with replacement and all pixels, pooled."""

    def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
        """The frame resized and cropped to the network's size, and its depth alike."""
        image, depth, camera = augment(
            torch.from_numpy(frame.image).permute(2, 0, 1),
            torch.from_numpy(frame.truth(truth)),
            frame.camera,
            AugmentConfig(crop=self.crop),
            torch.Generator(),
            self.image_size,
        )
        return View(image, camera, frame.camera), depth

    def sites(self, depth: Tensor, frame_id: str) -> dict[str, Sites]:
        """As many points as the network was recorded with, and all measured pixels."""
        generator = seeded_generator("recorded", frame_id)
        sample: PointSample = recorded_points(depth, self.recorded_points, generator)
        return {"points": Sites(*sample), "dense": Sites(None, depth, depth > 0)}

    def accumulator(self, sites: str) -> RecordedMetrics:
        """Scores that pool all frames; at the points also each frame's AbsRel."""
        return RecordedMetrics(by_frame=sites == "points")

    def note(self, truth: str, frame: Frame) -> str:
        """Size, points and clamping."""
        h, w = self.image_size
        return (
            f"truth: {truth}; frame brought to {h}x{w} ({self.crop}); {self.recorded_points} "
            "seeded points a frame with replacement, pooled; SILog factor 1/2; clamped from below "
            "only"
        )
