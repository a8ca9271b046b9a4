"""Protocols: how a frame is shown, where it is queried, and what the answers are scored by.

A protocol is one small class, registered by name; its scores stand under its name and that of the
truth, for instance "eigen/inpainted". To add one, derive from `Protocol` or from a protocol that is
nearly right, for instance to align predictions before they are scored (`Protocol.scored`), to
average with the mirrored image or to change the picture (`Protocol.view`).

`SAME_PREDICTIONS` names twelve that differ in what is done to the same predictions before and while
they are scored: aligned or not, averaged with the mirrored image or not, per image or pooled.
`SAME_PIXELS` names four that score the same pixels and differ in what is shown around them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    uniform_points,
)
from spdlib.geometry import Camera, Size
from spdlib.plugins import Registry
from spdlib.scene import GROUP
from spdlib.study.alignment import by_log_fit, by_median
from spdlib.study.metrics import Accumulator, EigenMetrics, PooledMetrics, RecordedMetrics


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
        if settings[0] != settings[1] or self.image is other.image:
            return settings[0] == settings[1]
        return torch.equal(torch.as_tensor(self.image), torch.as_tensor(other.image))


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

    @classmethod
    def label(cls) -> str:
        """What sets it apart, in a few words, for tables and figures: here, its name."""
        return cls.name


PROTOCOLS = Registry[type[Protocol]]("protocol")
protocol = PROTOCOLS.register
"""Class decorator: `@protocol("name")`."""


def label_of(name: str) -> str:
    """`Protocol.label` of the protocol in a name such as "eigen/raw"; the name if it is unknown."""
    known = PROTOCOLS.get(name.partition("/")[0])
    return name if known is None else known.label()


@protocol("eigen")
class Eigen(Protocol):
    """The frame as it is: 1,024 fixed points and all pixels, inside the Eigen crop, per image."""

    mirrored: ClassVar[bool] = False
    """Whether answers are averaged with those to the mirror image. Image-free baselines, which look
    at neither, answer as ever."""
    aligned: ClassVar[str] = ""
    """How predictions are brought to the truth before they are scored; "" where they are not."""
    averaged: ClassVar[str] = "per image"
    """Over what errors are averaged."""

    def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
        """The whole frame at its own size."""
        view = View(frame.image, frame.camera, frame.camera, self.mirrored)
        return view, torch.from_numpy(frame.truth(truth))

    def sites(self, depth: Tensor, frame_id: str) -> dict[str, Sites]:
        """The frame's fixed points, and its pixels; edges are those of the whole map."""
        for known_id, known_depth, sites in tuple(_EIGEN_SITES):
            if known_id == frame_id and torch.equal(known_depth, depth):
                return dict(sites)
        sample, edges = evaluation_points(depth, frame_id), edge_mask(depth)
        columns, rows = sample.points.long().unbind(-1)
        sites = {
            "points": Sites(*sample, edges[rows, columns]),
            "dense": Sites(None, depth, eigen_mask(depth), edges),
        }
        _EIGEN_SITES.append((frame_id, depth, sites))
        return dict(sites)

    def accumulator(self, sites: str) -> Accumulator:
        """Scores per image; at the points also those that pool all frames."""
        return EigenMetrics(pooled=sites == "points")

    def note(self, truth: str, frame: Frame) -> str:
        """Alignment, crop, depth range, means and points."""
        height, width = frame.camera.size
        scaled = "" if (height, width) == (480, 640) else f", scaled to {height}x{width}"
        aligned = f"{self.aligned}; " if self.aligned else ""
        means = ", then the mean" if self.averaged == Eigen.averaged else ""
        return (
            f"{aligned}truth: {truth}, {height}x{width}; rows 45-470, columns 41-600{scaled}; "
            "1e-3 < g < 10 m, prediction clamped to that; "
            f"{self.averaged}{means}; SILog factor 1, x100; "
            f"points: {EIGEN_POINTS} fixed a frame in groups of {GROUP}"
        )

    @classmethod
    def label(cls) -> str:
        """Alignment, mirror image and means."""
        mirrored = "mean with the mirror image, " if cls.mirrored else ""
        return f"{mirrored}{cls.aligned or 'as predicted'}, {cls.averaged}"


_EIGEN_SITES: deque[tuple[str, Tensor, dict[str, Sites]]] = deque(maxlen=4)
"""Frame, truth and sites of the last few maps: to find edges takes longer than to score, and twelve
protocols ask for the same ones."""


@protocol("eigen_median")
class EigenMedian(Eigen):
    """Eigen's after predictions took one factor an image from the truth; see `by_median`."""

    aligned = "aligned by the frame's own median (uses the truth)"

    def scored(self, depth: Tensor, sites: Sites) -> Tensor:
        """Predictions times the truth's median over theirs."""
        return by_median(depth, sites.truth, sites.valid)


@protocol("eigen_log_fit")
class EigenLogFit(Eigen):
    """Eigen's after scale and shift of log depth were taken from the truth; see `by_log_fit`."""

    aligned = "aligned by the frame's own least squares in log depth (uses the truth)"

    def scored(self, depth: Tensor, sites: Sites) -> Tensor:
        """Predictions as they fit the truth best."""
        return by_log_fit(depth, sites.truth, sites.valid)


@protocol("eigen_mirrored")
class EigenMirrored(Eigen):
    """Eigen's for the mean of the answers to the frame and to its mirror image."""

    mirrored = True


@protocol("eigen_median_mirrored")
class EigenMedianMirrored(EigenMirrored, EigenMedian):
    """That mean, then aligned by the median."""


@protocol("eigen_log_fit_mirrored")
class EigenLogFitMirrored(EigenMirrored, EigenLogFit):
    """That mean, then aligned in log depth."""


@protocol("eigen_pooled")
class EigenPooled(Eigen):
    """Eigen's with the sites of all images in one pool; alignments stay those of single images."""

    averaged = "pooled over all images"

    def accumulator(self, sites: str) -> Accumulator:
        """Scores that pool all frames, otherwise by the same rules."""
        return PooledMetrics()


@protocol("eigen_median_pooled")
class EigenMedianPooled(EigenPooled, EigenMedian):
    """Aligned by the median image by image, then pooled."""


@protocol("eigen_log_fit_pooled")
class EigenLogFitPooled(EigenPooled, EigenLogFit):
    """Aligned in log depth image by image, then pooled."""


@protocol("eigen_mirrored_pooled")
class EigenMirroredPooled(EigenPooled, EigenMirrored):
    """The mean with the mirrored image, pooled."""


@protocol("eigen_median_mirrored_pooled")
class EigenMedianMirroredPooled(EigenPooled, EigenMedianMirrored):
    """The mean with the mirrored image, aligned by the median image by image, then pooled."""


@protocol("eigen_log_fit_mirrored_pooled")
class EigenLogFitMirroredPooled(EigenPooled, EigenLogFitMirrored):
    """The mean with the mirrored image, aligned in log depth image by image, then pooled."""


SAME_PREDICTIONS = tuple(name for name, cls in PROTOCOLS.items() if issubclass(cls, Eigen))
"""The twelve ways to score the same predictions, per image first; the first two views are shown."""


Window = tuple[int, int, int, int]
"""Top row, left column, height and width of a part of a frame, in its pixels."""


@protocol("central_whole")
class CentralWhole(Eigen):
    """The whole frame, scored in its central half only, in the Eigen crop, per image.

    It and the three below score the very same pixels: `view` returns a truth that is 0 wherever
    nothing counts, so that each finds the same pixels in the same order.
    """

    shown: ClassVar[str] = "whole frame"
    """What a network sees of a frame, in a few words."""
    border: ClassVar[bool] = False
    """Whether that is about what lies around a frame's valid pixels, NYU's white border."""

    def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
        """The whole frame, and the truth of its central half."""
        view, depth = super().view(frame, truth)
        top, left, height, width = central_half(frame.camera.size)
        half = slice(top, top + height), slice(left, left + width)
        counted = torch.zeros_like(depth)
        counted[half] = torch.where(eigen_mask(depth), depth, 0)[half]
        return view, counted

    def sites(self, depth: Tensor, frame_id: str) -> dict[str, Sites]:
        """Fixed points, and all pixels of the central half; edges are not told apart."""
        generator = seeded_generator("central", frame_id)
        sample = uniform_points(depth, EIGEN_POINTS, generator, jitter=False)
        return {"points": Sites(*sample), "dense": Sites(None, depth, depth > 0)}

    def note(self, truth: str, frame: Frame) -> str:
        """What is shown, where it is scored, and Eigen's note."""
        top, left, height, width = central_half(frame.camera.size)
        rows, columns = f"{top}-{top + height - 1}", f"{left}-{left + width - 1}"
        scored = f"scored in the frame's rows {rows}, columns {columns}"
        border = _border(frame) if self.border else ""
        return f"shown: {self.shown}{border}; {scored}; {super().note(truth, frame)}"

    @classmethod
    def label(cls) -> str:
        """What is shown."""
        return cls.shown


@protocol("central_painted")
class CentralPainted(CentralWhole):
    """The frame with its border painted over.

    Each pixel outside `Frame.valid_box` takes the colour of the nearest one inside.
    """

    shown = "border painted over"
    border = True

    def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
        """The painted frame, of the same size and camera."""
        view, depth = super().view(frame, truth)
        top, left, height, width = _inside(frame)
        below, right = frame.camera.height - top - height, frame.camera.width - left - width
        margins = ((top, below), (left, right), (0, 0))
        return replace(view, image=np.pad(frame.image[frame.valid], margins, "edge")), depth


@protocol("central_cut")
class CentralCut(CentralWhole):
    """The frame without its border; the camera follows."""

    shown = "border cut away"
    border = True

    def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
        """The part inside `Frame.valid_box`."""
        return _cut(*super().view(frame, truth), _inside(frame))


@protocol("central_half")
class CentralHalf(CentralWhole):
    """The central half of the frame alone, half as high and half as wide; the camera follows."""

    shown = "central half alone"

    def view(self, frame: Frame, truth: str) -> tuple[View, Tensor]:
        """The central half."""
        return _cut(*super().view(frame, truth), central_half(frame.camera.size))


SAME_PIXELS = ("central_whole", "central_painted", "central_cut", "central_half")
"""The four that score the same pixels; what is shown around them shrinks."""


def central_half(size: Size) -> Window:
    """The window of half the height and width in the middle of a frame of this height and width."""
    height, width = size[0] // 2, size[1] // 2
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def _inside(frame: Frame) -> Window:
    """The window of a frame's valid pixels."""
    top, left, bottom, right = frame.valid_box or (0, 0, *(side - 1 for side in frame.camera.size))
    return top, left, bottom - top + 1, right - left + 1


def _border(frame: Frame) -> str:
    """Where a frame's border lies, as the end of a sentence on what is done to it."""
    if frame.valid_box is None:
        return ", but there is none: the whole frame"
    top, left, bottom, right = frame.valid_box
    return f" (all outside rows {top}-{bottom}, columns {left}-{right})"


def _cut(view: View, depth: Tensor, window: Window) -> tuple[View, Tensor]:
    """A view and its truth inside a window."""
    top, left, height, width = window
    part = slice(top, top + height), slice(left, left + width)
    image = np.ascontiguousarray(np.asarray(view.image)[part])
    return View(image, view.camera.cropped(*window), view.frame_camera, view.mirrored), depth[part]


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
