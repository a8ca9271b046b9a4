"""What the readers share: a checked list of items, and the frame of NYU's camera."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from spdlib.data.files import check_frame, check_name, scaled_box
from spdlib.data.frames import NYU_VALID_BOX, TRUTHS, Frame
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import NYU_CAMERA
from spdlib.reading import reading

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class Item(NamedTuple):
    """One frame of a source: its name, the place to name in an error, and what is read."""

    id: str
    where: str
    content: Any


class Source:
    """Frames behind a list of items.

    A reader also has `recognises(path)`, `open_splits(path, **options)` and `_read(item)`.

    Attributes:
        expects: the layout in words.
        truth: what the depth is, if the layout holds one kind.
        split_by: who divided the frames; "" where the layout itself does.

    Raises:
        DataError: no items, two with one id, or an id that no store could hold.
        ConfigError: an unknown truth.
    """

    expects: ClassVar[str]
    split_by = ""

    def __init__(self, items: Sequence[Item], where: str, truth: str | None = None) -> None:
        if truth not in (None, *TRUTHS):
            raise ConfigError(f"truth is {truth!r}; choose one of {', '.join(TRUTHS)}")
        if not items:
            raise DataError(f"{where}: no frames found; see data/README.md for the layouts")
        for item in items:
            check_name(item.id, where)
        refuse_duplicates(((item.id, item.where) for item in items), where)
        self._items, self.ids, self.truth = list(items), [item.id for item in items], truth

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Frame:
        item = self._items[index]
        with reading(item.where):
            return check_frame(self._read(item), item.where)

    def _read(self, item: Item) -> Frame:
        """Decodes one item; what a parser raises becomes a DataError in `__getitem__`."""
        raise NotImplementedError


def refuse_duplicates(found: Iterable[tuple[str, Any]], where: str) -> None:
    """DataError that names both places if an id occurs twice among pairs (id, where it is)."""
    places: dict[str, Any] = {}
    for name, place in found:
        if name in places:
            raise DataError(
                f"{where}: frame id {name!r} occurs twice, in {places[name]} and in {place}; "
                "rename or drop one of them"
            )
        places[name] = place


def nyu_frame(item: Item, image: np.ndarray, depths: Mapping[str, np.ndarray]) -> Frame:
    """Frame of an item with NYU's camera and white border; DataError if its shape is not 3:4."""
    height, width = image.shape[:2]
    if height * NYU_CAMERA.width != width * NYU_CAMERA.height:
        raise DataError(
            f"{item.where}: image is {height}x{width}, but NYU frames are 480x640 (or a resized "
            "copy); bring other cameras as a plain folder with cameras.csv"
        )
    camera = NYU_CAMERA.resized(height, width)
    box = scaled_box(NYU_VALID_BOX, NYU_CAMERA.size, (height, width))
    return Frame(item.id, image, depths, camera, box)
