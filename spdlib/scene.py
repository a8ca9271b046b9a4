"""Scene: an encoded image that answers depth queries."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from spdlib.disk import write_bytes
from spdlib.errors import QueryError
from spdlib.geometry import Camera, Size, cells_to_pixels, pixels_to_cells
from spdlib.inspection import Probe, Reads
from spdlib.reading import reading
from spdlib.sealed import seal, unseal

Maps = Mapping[str, Tensor]
"""Feature maps by name, channels-last [B, h, w, C]."""

GROUP = 256
"""Queries that networks with dependent queries answer together: as many as they train with."""

CHUNK = {"cpu": 1024, "cuda": 16_384}
"""Queries decoded at a time: few enough for a CPU's cache, enough to fill a GPU."""

_SIZES = ("image_size", "resized", "padded")


class Answer(NamedTuple):
    """What a network answers at K points of B images: depth [B, K] in metres."""

    depth: Tensor


class Decoder(Protocol):
    """The part of a network that a scene needs."""

    has_dense: ClassVar[bool]
    queries_are_independent: ClassVar[bool]

    @property
    def execution(self) -> str:
        """The form in which it computes: "fast" or "reference"."""

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""

    def warn_untrained(self, stacklevel: int) -> None:
        """Warn if it was never trained."""

    def in_evaluation(self) -> Decoder:
        """It in evaluation mode; its own mode stays."""

    def encoded(self, images: Tensor) -> Maps:
        """Maps of padded images [B, 3, H, W] in evaluation mode."""

    def explained(self, maps: Maps, points: Tensor, image_size: Size) -> list[Probe]:
        """What the parts read for points, in evaluation mode."""

    def answer(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """The answer at points [B, K, 2] in pixels of the padded image."""

    def decode_lattice(self, maps: Maps) -> Tensor:
        """Depth [B, h, w] at the network's dense sites."""

    def fingerprint(self) -> str:
        """Hash of configuration and weights."""


@dataclass(frozen=True, repr=False)
class Scene:
    """One encoded image, or a batch of equal size. Immutable.

    It belongs to the weights that encoded it. Nothing watches them: when they have changed, encode
    the image again. Only `save` looks, for a file must name the weights that it belongs to.

    Attributes:
        model: the network that encoded it and answers.
        maps: its feature maps, computed once.
        image_size: height, width of the image as the caller gave it.
        resized: height, width the image was resized to.
        padded: height, width after padding right and bottom; what the maps cover.
        camera: the caller's camera, if given.
        camera_assumed: what was assumed about the camera, if it was not given.
        execution: the form whose maps these are; None where both forms read the same.
        images: what the network was shown, [B, 3, *padded]; None in a scene from a file.
        fingerprint: of the network that encoded a scene from a file; None in others.
    """

    model: Decoder
    maps: Maps
    image_size: Size
    resized: Size
    padded: Size
    camera: Camera | None = None
    camera_assumed: str | None = None
    execution: str | None = None
    images: Tensor | None = field(default=None, repr=False)
    fingerprint: str | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        height, width = self.image_size
        shapes = ", ".join(f"{name} {list(level.shape)}" for name, level in self.maps.items())
        camera = self.camera if self.camera_assumed is None else self.camera_assumed
        return f"Scene({height}x{width}, {type(self.model).__name__}, {shapes}; camera: {camera})"

    @property
    def batch(self) -> int:
        """Number of images."""
        return len(next(iter(self.maps.values())))

    def to(self, device: torch.device | str) -> Scene:
        """The scene on another device; move its network there too, by `model.to(device)`."""
        maps = {name: level.to(device) for name, level in self.maps.items()}
        images = None if self.images is None else self.images.to(device)
        return replace(self, maps=maps, images=images)

    @torch.no_grad()
    def depth_at(self, points: Any, chunk: int | None = None, group: int | None = None) -> Tensor:
        """Metric depth at pixels of the given image.

        Args:
            points: (u, v), u to the right, v down; integers are pixel centres, fractions allowed.
                One point [2] or [K, 2] for a scene of one image, [B, K, 2] for any.
            chunk: queries decoded at a time where they are independent, default `CHUNK`; changes
                memory, not results.
            group: queries that share one pass and may influence each other. Default 256 for
                networks with dependent queries, whose answers it changes; `chunk` for the others.
                What is left over is a smaller group.

        Returns:
            [], [K] or [B, K] metres, float32 (float64 from a float64 network).

        Raises:
            QueryError: no points, wrong shape, NaN, a point outside the image, or a chunk or
                group that is no whole number from 1.
        """
        _require_whole(chunk=1 if chunk is None else chunk, group=1 if group is None else group)
        queries = self._check(points)
        inside = self._to_network(queries)
        chunk = chunk or CHUNK.get(inside.device.type, CHUNK["cpu"])
        together = group or (chunk if self.model.queries_are_independent else GROUP)
        self.model.warn_untrained(stacklevel=3)  # the caller, past the no_grad wrapper
        groups, model = inside.split(together, 1), self.model.in_evaluation()
        parts = [model.answer(self.maps, part, self.padded).depth for part in groups]
        return torch.cat(parts, 1).view(queries.shape[:-1])

    def points_3d(self, points: Any, chunk: int | None = None, group: int | None = None) -> Tensor:
        """3-D points [3], [K, 3] or [B, K, 3] in metres (x right, y down, z forward).

        Arguments are those of `depth_at`.

        Raises:
            QueryError: the scene has no camera, or `depth_at` refuses the points.
        """
        if self.camera is None:
            raise QueryError("3-D points need a camera; encode the image with camera=Camera(...)")
        depth = self.depth_at(points, chunk, group)
        return self.camera.back_project(self._check(points).to(depth), depth)

    @torch.no_grad()
    def explain(self, points: Any) -> list[Probe]:
        """What the network's parts read for queries, all answered together, in evaluation mode.

        Sampling locations are in pixels of the given image (see `spdlib.inspection`). The list is
        empty for a network without probes.

        Raises:
            QueryError: `depth_at` refuses the points.
        """
        inside = self._to_network(self._check(points))
        probes = self.model.explained(self.maps, inside, self.padded)
        for number, probe in enumerate(probes):
            if isinstance(probe, Reads):
                pixels = cells_to_pixels(probe.pixels, self.image_size, self.resized)
                probes[number] = replace(probe, pixels=pixels)
        return probes

    @torch.no_grad()
    def dense(self, stride: int = 1) -> Tensor:
        """Depth map [B, ceil(H / stride), ceil(W / stride)] in metres at every stride-th pixel.

        The network's dense path computes its lattice, read bilinearly at the pixels. Networks
        without one answer pixel by pixel, which costs a query each and warns.

        Raises:
            QueryError: a stride that is no whole number from 1.
        """
        _require_whole(stride=stride)
        height, width = self.image_size
        rows, columns = torch.arange(0, height, stride), torch.arange(0, width, stride)
        if not self.model.has_dense:
            return self._dense_by_queries(rows, columns)
        self._check_form()
        self.model.warn_untrained(stacklevel=3)
        lattice = self.model.in_evaluation().decode_lattice(self.maps)
        for axis, pixels in enumerate((rows, columns)):
            resized = self.resized[axis] / self.image_size[axis]
            cells = lattice.shape[axis + 1] / self.padded[axis]
            index = (pixels.to(lattice) + 0.5) * resized * cells - 0.5
            lattice = _lerp_axis(lattice, index, axis + 1)
        return lattice

    def _dense_by_queries(self, rows: Tensor, columns: Tensor) -> Tensor:
        count = len(rows) * len(columns)
        text = f"this network has no dense path: asking {count} queries an image"
        warnings.warn(text, stacklevel=4)  # the caller of `dense`, past its no_grad wrapper
        points = torch.cartesian_prod(rows, columns).flip(-1).expand(self.batch, -1, -1)
        return self.depth_at(points).view(self.batch, len(rows), len(columns))

    def save(self, path: str | Path) -> None:
        """Write the scene to one safetensors file, by rename, with a hash of all that it holds.

        Raises:
            QueryError: the network has changed since it encoded the image, or the file cannot be
                written.
        """
        record = {
            **{name: getattr(self, name) for name in _SIZES},
            "camera": asdict(self.camera) if self.camera else None,
            "camera_assumed": self.camera_assumed,
            "execution": self.execution,
            "model": self.fingerprint or self._own_fingerprint(path),
        }
        write_bytes(path, seal(self.maps, "scene", json.dumps(record)), QueryError)

    def _own_fingerprint(self, path: str | Path) -> str:
        """The network's, if it still makes these maps of the image; else the file would lie."""
        if self.images is not None:
            self._check_form()
            again = self.model.encoded(self.images)
            if not all(_alike(again[name], level) for name, level in self.maps.items()):
                raise QueryError(
                    f"cannot write {path}: the network's weights or precision changed after it "
                    "encoded this scene; encode the image again"
                )
        return self.model.fingerprint()

    @classmethod
    def load(cls, path: str | Path, model: Any) -> Scene:
        """Read a saved scene for the network that encoded it.

        Raises:
            QueryError: no such scene, a damaged file, or another network or other weights.
        """
        if not hasattr(model, "fingerprint"):
            raise QueryError(
                "a scene belongs to the network that encoded it: give that network, as "
                f"spdlib.load returns it; got {model!r}"
            )
        remedy = "encode the image again"
        maps, text = unseal(path, "scene", QueryError, remedy)
        with reading(path, "is no readable scene", remedy, QueryError):
            record = json.loads(text)
            encoder = record["model"]
            known: dict[str, Any] = {name: tuple(record[name]) for name in _SIZES}
            known["camera"] = Camera(**record["camera"]) if record["camera"] else None
            known |= {name: record[name] for name in ("camera_assumed", "execution")}
        own = model.fingerprint()
        if encoder != own:
            raise QueryError(
                f"{path} was encoded by another network or other weights "
                f"({encoder[:12]}, not {own[:12]}); encode the image again"
            )
        maps = {name: level.to(model.device) for name, level in maps.items()}
        return cls(model, maps, **known, fingerprint=own)

    def _check_form(self) -> None:
        """QueryError if the network moved, or runs in a form that reads other maps than these."""
        ours = next(iter(self.maps.values())).device
        if ours != self.model.device:
            raise QueryError(
                f"this scene is on {ours}, its network on {self.model.device}: use scene.to or "
                "model.to"
            )
        if self.execution not in (None, self.model.execution):
            raise QueryError(
                f"this scene was encoded with execution={self.execution!r}, the network now runs "
                f"{self.model.execution!r}, which reads other maps: encode the image again, or set "
                f"model.execution = {self.execution!r}"
            )

    def _check(self, points: Any) -> Tensor:
        """Points as a tensor like the maps, [2], [K, 2] or [B, K, 2], all finite and inside."""
        self._check_form()
        like = next(iter(self.maps.values()))
        try:
            queries = points if isinstance(points, Tensor) else torch.from_numpy(np.array(points))
        except (TypeError, ValueError, RuntimeError) as error:
            raise QueryError(f"points are numbers [2], [K, 2] or [B, K, 2]; {error}") from None
        shape = list(queries.shape)
        if queries.numel() == 0:
            raise QueryError("no points were given; give at least one (u, v)")
        if len(shape) not in (1, 2, 3) or shape[-1] != 2:
            raise QueryError(
                f"points are (u, v), [2], [K, 2] or [B, K, 2]; got shape {shape}. One point is "
                "depth_at((u, v)), several are depth_at([(u, v), ...])"
            )
        if queries.is_complex() or queries.dtype == torch.bool:
            raise QueryError(f"points are pixels (u, v); got {queries.dtype}")
        images = shape[0] if len(shape) == 3 else 1
        if images != self.batch:
            raise QueryError(
                f"the scene holds {self.batch} images, the points are for {images}; "
                f"give points [{self.batch}, K, 2]"
            )
        queries = queries.to(like.device, torch.promote_types(like.dtype, torch.float32))
        refuse_outside(queries, self.image_size)
        return queries

    def _to_network(self, points: Tensor) -> Tensor:
        """Checked points in pixels of the resized (and padded) image, [B, K, 2]."""
        return pixels_to_cells(points.view(self.batch, -1, 2), self.image_size, self.resized)


def _require_whole(**values: Any) -> None:
    """QueryError names the first value that is no whole number from 1."""
    for name, value in values.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or not 1 <= value < 2**31:
            raise QueryError(f"{name} is a whole number from 1; got {value!r}")


def refuse_outside(points: Tensor, image_size: Size) -> None:
    """QueryError names the first of the points [..., 2] that is not in the image."""
    height, width = image_size
    limit = points.new_tensor([width - 0.5, height - 0.5])
    inside = ((points >= -0.5) & (points <= limit)).all(-1)  # NaN compares false
    if not inside.all():
        u, v = points[~inside][0].tolist()
        raise QueryError(
            f"point ({u:g}, {v:g}) lies outside the {height}x{width} image: "
            f"u in [-0.5, {width - 0.5}], v in [-0.5, {height - 0.5}]"
        )


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two maps are the same but for rounding."""
    return a.dtype == b.dtype and torch.allclose(
        a.to(b.device), b, rtol=0, atol=1e-5 * max(1.0, b.abs().max().item())
    )


def _lerp_axis(maps: Tensor, index: Tensor, axis: int) -> Tensor:
    """Linear interpolation of [B, h, w] along an axis at fractional indices, border outside."""
    last = maps.shape[axis] - 1
    index = index.clamp(0, last)
    low = index.floor().long()
    fraction = (index - low).view(-1, *[1] * (2 - axis))
    first = maps.index_select(axis, low)
    second = maps.index_select(axis, (low + 1).clamp(max=last))
    return torch.lerp(first, second, fraction.to(maps.dtype).expand_as(first))
