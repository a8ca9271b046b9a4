"""A user's own frames."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spdlib.data.files import (
    MILLIMETRES,
    check_name,
    millimetres_to_metres,
    read_depth_npy,
    read_depth_png,
    read_image,
)
from spdlib.data.frames import LEAST_TRAINING, Frame, Frames, hold_out
from spdlib.data.sources.base import IMAGE_SUFFIXES, Item, Source, refuse_duplicates
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import Camera
from spdlib.reading import read_text, reading

_COLUMNS = ("frame", "fx", "fy", "cx", "cy")


class PlainFolder(Source):
    """A user's own frames: `rgb/NAME.jpg|png`, `depth/NAME.png|npy` and `cameras.csv`.

    `cameras.csv` has the columns frame, fx, fy, cx, cy (pixels, integers are pixel centres) and
    optionally split; each row's `frame` is a NAME, and every file needs a row. Frames are sorted by
    name, numbers by their value. Without a split column their last tenth tests (`hold_out`).

    Args:
        path: the folder.
        split: the frames to read; None for all.
        truth: what the depth is.
        depth_scale: metres per step of a depth PNG.

    Raises:
        DataError: missing pair or row, bad number, duplicate frame, empty split, too few frames to
            divide.
    """

    expects = "a folder with rgb/, depth/ and cameras.csv"

    def __init__(
        self,
        path: str | Path,
        split: str | None = None,
        truth: str = "raw",
        depth_scale: float = MILLIMETRES,
    ) -> None:
        if not 0 < depth_scale < 1:
            raise ConfigError(f"depth_scale is {depth_scale}; give metres per PNG step, e.g. 0.001")
        self.depth_scale = depth_scale
        items, splits = _own_frames(Path(path))
        items.sort(key=_natural_order)
        if split is not None and items and not splits:
            splits = self._divided(items, str(path))
        self.splits = sorted(set(splits.values()))
        chosen = [item for item in items if split in (None, splits.get(item.id))]
        super().__init__(chosen, f"{path} (split {split!r} of {self.splits})", truth)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether there is a table of cameras."""
        return (path / "cameras.csv").is_file()

    @classmethod
    def open_splits(
        cls, path: Path, truth: str = "raw", depth_scale: float = MILLIMETRES
    ) -> Mapping[str, Frames]:
        """The splits that the table names, or else "train" and "test"."""
        splits = cls(path, None, truth, depth_scale).splits or ["train", "test"]
        return {split: cls(path, split, truth, depth_scale) for split in splits}

    def _divided(self, items: list[Item], where: str) -> dict[str, str]:
        """The split of each frame that trains or tests, where the table names none."""
        count = len(items)
        if count <= LEAST_TRAINING:
            raise DataError(
                f"{where}: {count} frames are too few to set some apart for testing; bring at "
                f"least {LEAST_TRAINING + 1}"
            )
        train, test = hold_out(count)
        self.split_by = (
            f"of {count} sorted frames the first {len(train)} train, the last {len(test)} test, "
            f"{count - len(train) - len(test)} between them are left out"
        )
        return {items[i].id: "train" for i in train} | {items[i].id: "test" for i in test}

    def _read(self, item: Item) -> Frame:
        image_file, depth_file, intrinsics = item.content
        image = read_image(image_file)
        if depth_file.suffix == ".npy":
            depth = read_depth_npy(depth_file)
        elif self.depth_scale == MILLIMETRES:
            depth = millimetres_to_metres(read_depth_png(depth_file))
        else:
            depth = read_depth_png(depth_file).astype(np.float32) * np.float32(self.depth_scale)
        camera = Camera(**intrinsics, width=image.shape[1], height=image.shape[0])
        if camera.doubt:
            table = image_file.parents[1] / "cameras.csv"
            raise DataError(f"{table}, frame {item.id!r}: {camera.doubt}")
        return Frame(item.id, image, {str(self.truth): depth}, camera)


def _natural_order(item: Item) -> str:
    """Sorts "view 2" before "view 10", so that neighbours in a recording stay neighbours."""
    return re.sub(r"\d+", lambda number: number.group().zfill(20), item.id)


def _own_frames(root: Path) -> tuple[list[Item], dict[str, str]]:
    """Rows of cameras.csv joined with the files of `rgb` and `depth`; their splits, if named."""
    table = root / "cameras.csv"
    rows = _camera_rows(table)
    refuse_duplicates(((row["frame"], where) for where, row in rows.items()), str(table))
    suffixes = {"rgb": IMAGE_SUFFIXES, "depth": (".png", ".npy")}
    files = {folder: _by_stem(root / folder, allowed) for folder, allowed in suffixes.items()}
    items, splits = [], {}
    for where, row in rows.items():
        name = row["frame"]
        for folder, by_name in files.items():
            if name not in by_name:
                raise DataError(f"{where}: {folder} has no file {name!r}; add it or drop the row")
        intrinsics = {key: _pixels(row, key, where) for key in _COLUMNS[1:]}
        depth = files["depth"][name]
        items.append(Item(name, str(depth), (files["rgb"][name], depth, intrinsics)))
        if row.get("split"):
            check_name(row["split"], where)
            splits[name] = row["split"]
        if len(splits) not in (0, len(items)):
            raise DataError(f"{where}: only some frames name a split; fill the column or drop it")
    for by_name in files.values():
        for name in sorted(set(by_name) - {item.id for item in items}):
            raise DataError(f"{by_name[name]}: has no row in {table.name}; add one or remove it")
    return items, splits


def _pixels(row: dict[str, str], key: str, where: str) -> float:
    """A finite number of the table, above 0 for a focal length."""
    value, least = math.nan, 0.0 if key in ("fx", "fy") else -math.inf
    with contextlib.suppress(ValueError):
        if row[key].isascii() and "_" not in row[key]:  # Python reads "6_0" as 60
            value = float(row[key])
    if not least < value < math.inf:
        kind = "finite" if least else "positive"
        raise DataError(
            f"{where}: {key} is {row[key][:80]!r}, not a {kind} number of pixels; correct it"
        )
    return value


def _camera_rows(table: Path) -> dict[str, dict[str, str]]:
    """Rows of the table by "FILE, line N"."""
    text = read_text(table, DataError, "write it as CSV in UTF-8")
    with reading(table, remedy="write it as CSV in UTF-8"):
        columns, *rows = [*csv.reader(io.StringIO(text))] or [[]]
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise DataError(f"{table}: lacks the columns {missing}; it needs frame,fx,fy,cx,cy[,split]")
    if len(set(columns)) < len(columns):
        raise DataError(f"{table}: names a column twice; drop one of them")
    found = {f"{table}, line {number}": row for number, row in enumerate(rows, 2) if row}
    for where, row in found.items():
        if len(row) != len(columns):
            raise DataError(f"{where}: has {len(row)} columns, not {len(columns)}; correct it")
    return {where: dict(zip(columns, row, strict=True)) for where, row in found.items()}


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """File name without suffix -> path."""
    files = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in suffixes]
    refuse_duplicates(((path.stem, path) for path in files), str(folder))
    return {path.stem: path for path in files}
