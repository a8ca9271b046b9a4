"""What the readers share: a checked list of items, and the frame of NYU's camera."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from spdlib.data.files import check_frame, nyu_box, nyu_camera, reading
from spdlib.data.frames import TRUTHS, Frame
from spdlib.errors import ConfigError, DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class Source:
    """Frames behind a list of items that each know their `id` and `where` they lie.

    A reader also has `recognises(path)`, `open_splits(path, **options)` and `_read(item)`.

    Attributes:
        expects: the layout in words.
        truth: what the depth is, if the layout holds one kind.
        split_by: who divided the frames; "" where the layout itself does.

    Raises:
        DataError: no items, or two with one id.
    """

    expects: ClassVar[str]
    truth: str | None = None
    split_by = ""

    def __init__(self, items: Sequence[Any], where: str) -> None:
        if not items:
            raise DataError(f"{where}: no frames found; see data/README.md for the layouts")
        refuse_duplicates(((item.id, item.where) for item in items), where)
        self._items = list(items)

    @property
    def ids(self) -> list[str]:
        """Frame names in order."""
        return [item.id for item in self._items]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Frame:
        item = self._items[index]
        with reading(item.where):
            return check_frame(self._read(item), item.where)

    def _read(self, item: Any) -> Frame:
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


def known_truth(truth: str) -> str:
    """The name of a truth; ConfigError if there is none of this name."""
    if truth not in TRUTHS:
        raise ConfigError(f"truth is {truth!r}; choose one of {', '.join(TRUTHS)}")
    return truth


def first_found(root: Path, patterns: Iterable[str]) -> list[Path]:
    """The sorted files of the first pattern below `root` that any file has."""
    return next((files for p in patterns if (files := sorted(root.glob(p)))), [])


def has(folder: Path, pattern: str) -> bool:
    """Whether any file below a folder has the pattern."""
    return next(folder.glob(pattern), None) is not None


def nyu_frame(
    item: Any,
    image: np.ndarray,
    depths: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
) -> Frame:
    """Frame of an item with NYU's camera and white border."""
    size = image.shape[:2]
    return Frame(item.id, image, depths, nyu_camera(size, item.where), labels, nyu_box(size))
