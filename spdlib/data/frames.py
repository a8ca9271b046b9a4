"""What every data source yields: an RGB frame with its depth and its camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spdlib.errors import DataError
from spdlib.geometry import Camera

TRUTHS = ("inpainted", "raw", "exact")
NYU_VALID_BOX = (7, 7, 473, 631)
"""Top, left, bottom and right (inclusive) of NYU's 480x640 RGB frames inside their white border."""

SELECTION_BLOCKS = ((100, 120), (300, 320), (500, 520), (700, 720))
"""Positions of the selection set among NYU's 795 sorted training frames."""
GUARD = 2
"""Frames left out on each side of a block, as neighbours often show the same scene."""
LEAST_TRAINING = 4
"""Frames that can be divided into some to train and one to select by."""


@dataclass(frozen=True)
class Frame:
    """One RGB image with the depths measured for it.

    Attributes:
        id: unique name of the frame in its source.
        image: uint8 [H, W, 3], RGB.
        depths: truth name ("inpainted", "raw" or "exact") -> float32 [H, W] in metres,
            0 where nothing was measured.
        camera: the pinhole camera of `image`.
        valid_box: top, left, bottom, right (inclusive) of the pixels that count; None for all.
    """

    id: str
    image: np.ndarray
    depths: Mapping[str, np.ndarray]
    camera: Camera
    valid_box: tuple[int, int, int, int] | None = None

    def truth(self, kind: str | None = None) -> np.ndarray:
        """Depth [H, W] in metres, 0 outside `valid_box`; DataError if the frame lacks it.

        None takes the first that the frame has of `TRUTHS`.
        """
        available = [name for name in TRUTHS if name in self.depths]
        if not available or kind not in (None, *available):
            raise DataError(f"frame {self.id!r} has no {kind or 'any'!r} depth; it has {available}")
        depth = self.depths[kind or available[0]]
        if self.valid_box is None:
            return depth
        inside = np.zeros_like(depth)
        inside[self.valid] = depth[self.valid]
        return inside

    @property
    def valid(self) -> tuple[slice, slice]:
        """Rows and columns of `valid_box`."""
        if self.valid_box is None:
            return slice(None), slice(None)
        top, left, bottom, right = self.valid_box
        return slice(top, bottom + 1), slice(left, right + 1)


class Frames(Protocol):
    """A sequence of frames: a source, a packed store or procedural rooms."""

    @property
    def ids(self) -> list[str]:
        """Frame names in order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...


class Subset:
    """The frames of another source at the given positions, in that order."""

    def __init__(self, frames: Frames, indices: Sequence[int]) -> None:
        self.frames = frames
        self.indices = [int(index) for index in indices]
        ids = frames.ids
        self.ids = [ids[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[self.indices[index]]


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """At most `wanted` positions, evenly spaced over `count` frames, in order."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, wanted))]


def hold_out(
    count: int, blocks: Sequence[tuple[int, int]] | None = None
) -> tuple[list[int], list[int]]:
    """Positions of (kept, held out) frames among `count` sorted frames.

    Neighbouring frames often show the same scene, so whole blocks (start, stop) are held out, the
    last tenth if none are given, and of 40 frames or more two on each side of a block are left out.
    """
    blocks = blocks or ((count - max(1, count // 10), count),)
    held = [i for start, stop in blocks for i in range(start, stop)]
    guard = GUARD if count >= 40 else 0
    near = {i for start, stop in blocks for i in range(start - guard, stop + guard)}
    return [i for i in range(count) if i not in near], held


def selection_split(count: int) -> tuple[list[int], list[int]]:
    """Positions of (training, selection) frames among `count` sorted training frames.

    NYU's 795 frames give up four blocks of 20, other counts their last tenth (`hold_out`);
    DataError for fewer than four frames.
    """
    if count < LEAST_TRAINING:
        raise DataError(
            f"{count} training frames are too few to hold out a selection set; "
            f"bring at least {LEAST_TRAINING}"
        )
    return hold_out(count, SELECTION_BLOCKS if count == 795 else None)
