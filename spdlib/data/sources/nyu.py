"""NYU Depth V2 as BTS's scripts extract it, and as its authors publish it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from spdlib.data.files import millimetres_to_metres, read_depth_png, read_image
from spdlib.data.frames import Frame, Frames
from spdlib.data.hdf5 import LazyHDF5, open_hdf5, own_array
from spdlib.data.sources.base import IMAGE_SUFFIXES, Item, Source, nyu_frame, refuse_duplicates
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import NYU_CAMERA
from spdlib.reading import read_text, reading

LABELLED_FRAMES = 1449
_FOCAL_TOLERANCE = 0.02
_SCENES = {
    "train": ("official_splits/train", "train"),
    "test": ("official_splits/test", "test"),
    "sync": ("sync", "."),
}
"""Folders below a BTS folder that may hold the scenes of each split."""


class BTSFolder(Source):
    """JPEG and PNG pairs as BTS's extraction scripts write them.

    `split` "train" and "test" read `official_splits/<split>/<scene>/rgb_NNNNN.jpg` with
    `sync_depth_NNNNN.png` (uint16 millimetres); ids are NNNNN, the 0-based index in the labelled
    file. `split` "sync" reads the raw training video, `sync/<scene>/...`; ids are "scene/NNNNN".

    Args:
        path: the folder that holds `official_splits` and `sync`, or one of these two.
        split: "train", "test" or "sync".
        truth: what the depth is; BTS extracts "raw".
        list_file: published list with lines "rgb depth focal"; only its frames are read, in its
            order.

    Raises:
        DataError: missing folder, missing pair, duplicate id, empty split, or bad list.
    """

    expects = "a BTS folder (official_splits/ or sync/)"

    def __init__(
        self, path: str | Path, split: str, truth: str = "raw", list_file: str | Path | None = None
    ) -> None:
        root = _bts_scenes(Path(path), split)
        if root is None:
            raise DataError(
                f"{path}: split {split!r} is empty; expected {_SCENES[split][0]}/<scene>/"
                "rgb_NNNNN.jpg with sync_depth_NNNNN.png"
            )
        pairs = _pairs_in(root) if list_file is None else _listed_pairs(root, Path(list_file))
        items = []
        for image, depth in pairs:
            scene = f"{image.parent.name}/" if split == "sync" else ""
            items.append(Item(scene + _index_of(image), str(depth), (image, depth)))
        if list_file is None:
            items.sort()
        super().__init__(items, f"{root} (split {split!r})", truth)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether any split has images."""
        return any(_bts_scenes(path, split) for split in _SCENES)

    @classmethod
    def open_splits(
        cls, path: Path, truth: str = "raw", list_file: str | Path | None = None
    ) -> Mapping[str, Frames]:
        """The official splits; a listed `sync`, or one alone, takes the place of "train"."""
        held = {split for split in _SCENES if _bts_scenes(path, split)}
        frames: dict[str, Frames] = {}
        if list_file is not None or ("sync" in held and "train" not in held):
            frames["train"] = cls(path, "sync", truth, list_file)
        elif "train" in held:
            frames["train"] = cls(path, "train", truth)
        if "test" in held:
            frames["test"] = cls(path, "test", truth)
        return frames

    def _read(self, item: Item) -> Frame:
        image, depth = item.content
        metres = millimetres_to_metres(read_depth_png(depth))
        return nyu_frame(item, read_image(image), {str(self.truth): metres})


def _bts_scenes(path: Path, split: str) -> Path | None:
    """The folder of the scenes of a split; None if there is none."""
    if split not in _SCENES:
        raise ConfigError(f"split is {split!r}; a BTS folder has {', '.join(_SCENES)}")
    folders = (path / name for name in _SCENES[split])
    return next((folder for folder in folders if any(folder.glob("*/rgb_*"))), None)


def _index_of(path: Path) -> str:
    return path.stem.rsplit("_", 1)[-1]


def _pairs_in(root: Path) -> list[tuple[Path, Path]]:
    """Every image with its depth; DataError if one lacks the other."""
    images = [path for path in root.glob("*/rgb_*") if path.suffix.lower() in IMAGE_SUFFIXES]
    pairs = [(image, image.with_name(f"sync_depth_{_index_of(image)}.png")) for image in images]
    depths = set(root.glob("*/sync_depth_*.png"))
    for image, depth in pairs:
        if depth not in depths:
            raise DataError(f"{image}: no {depth.name} beside it; copy the pair or remove the rgb")
    for orphan in sorted(depths.difference(depth for _, depth in pairs)):
        raise DataError(f"{orphan}: no rgb_{_index_of(orphan)}.jpg beside it; copy or remove it")
    return pairs


def _listed_pairs(root: Path, list_file: Path) -> list[tuple[Path, Path]]:
    """Pairs named by a published list; its paths lie below `root` and may start with "/"."""
    pairs = []
    for where, line in _lines(list_file):
        fields = line.split()
        if len(fields) < 2:
            raise DataError(f"{where}: expected 'rgb depth focal', got {line[:80]!r}; fix the list")
        with reading(where, "the focal length is not a number", "fix the list"):
            focal = float(fields[2]) if len(fields) > 2 else NYU_CAMERA.fx
        if not abs(focal / NYU_CAMERA.fx - 1) <= _FOCAL_TOLERANCE:  # NaN compares false
            raise DataError(
                f"{where}: focal length {focal:g} is not NYU's {NYU_CAMERA.fx:g}; bring other "
                "cameras as a plain folder with cameras.csv"
            )
        for name in fields[:2]:
            if ".." in PurePosixPath(name).parts:
                raise DataError(f"{where}: path {name} leaves the data folder; fix the list")
        image, depth = (root / name.lstrip("/") for name in fields[:2])
        for path in (image, depth):
            with reading(where, "names no file", "fix the list"):  # a name may be too long
                found = path.is_file()
            if not found:
                raise DataError(f"{where}: {path} is missing; copy it or remove the line")
        pairs.append((image, depth))
    return pairs


def _lines(path: Path) -> Iterable[tuple[str, str]]:
    """("FILE, line N", line) of every line of a text list that is not empty."""
    lines = read_text(path, DataError).splitlines()
    return [(f"{path}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]


class LabelledMat(Source):
    """`nyu_depth_v2_labeled.mat`: MATLAB 7.3, which is HDF5 with every axis reversed.

    `images` (N, 3, W, H) uint8, `depths` (in-painted) and `rawDepths` (N, W, H) float32 metres.
    Frames have both truths. Ids are the 0-based index as NNNNN, as in BTS folders.

    Args:
        split: "train" or "test" of the official split.
        split_file: a text list of other test frames (lines that name rgb_NNNNN, as BTS's published
            list); all other frames are then training frames.

    Raises:
        DataError: truncated or unexpected file, bad split file, empty split.
    """

    expects = "nyu_depth_v2_labeled.mat"

    def __init__(self, path: str | Path, split: str, split_file: str | Path | None = None) -> None:
        path = Path(path)
        with open_hdf5(path) as file:
            count = _checked_mat(file, path)
        self._file = LazyHDF5(path)
        rows = _mat_split(path, count, split, split_file)
        items = [Item(f"{row:05d}", f"{path} (frame {row:05d})", row) for row in rows]
        super().__init__(items, f"{path} (split {split!r})")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it is a MATLAB file."""
        return path.is_file() and path.suffix.lower() == ".mat"

    @classmethod
    def open_splits(cls, path: Path, split_file: str | Path | None = None) -> Mapping[str, Frames]:
        """The official "train" and "test", or those of a list of test frames."""
        return {split: cls(path, split, split_file) for split in ("train", "test")}

    def _read(self, item: Item) -> Frame:
        names = ("images", "rawDepths", "depths")
        arrays = map(self._file.array, names)
        image, raw, inpainted = (np.ascontiguousarray(array[item.content].T) for array in arrays)
        return nyu_frame(item, image, {"inpainted": inpainted, "raw": raw})


def _checked_mat(file: h5py.File, path: Path) -> int:
    """Number of frames; DataError if the arrays are not those of the labelled file."""
    shapes = {}
    for name, dtype in (("images", np.uint8), ("depths", np.float32), ("rawDepths", np.float32)):
        data = own_array(file, name, str(path), by_frame=True)
        if data.dtype != dtype:
            raise DataError(
                f"{path}: has no {np.dtype(dtype).name} array {name!r}; give the official "
                "nyu_depth_v2_labeled.mat"
            )
        shapes[name] = data.shape
    count, *size = shapes["rawDepths"]
    expected = {"images": (count, 3, *size), "depths": (count, *size), "rawDepths": (count, *size)}
    if len(size) != 2 or shapes != expected:
        raise DataError(
            f"{path}: sizes do not match ({shapes}); expected images (N, 3, W, H) and depth "
            "(N, W, H)"
        )
    return int(count)


def _mat_split(path: Path, count: int, split: str, split_file: str | Path | None) -> list[int]:
    """Sorted positions of one split among `count` frames; those that are not tested train."""
    if split not in ("train", "test"):
        raise ConfigError(f"split is {split!r}; the labelled file has 'train' and 'test'")
    if split_file is not None:
        test = _listed_test(Path(split_file), count)
    elif count == LABELLED_FRAMES:
        text = resources.files("spdlib.data").joinpath("nyu_test_indices.txt").read_text("utf-8")
        test = [int(word) for word in text.split()]  # the official 654, sorted, counted from 0
    else:
        raise DataError(
            f"{path}: has {count} frames, the official split is of {LABELLED_FRAMES}; give "
            "--split-file with the list of its test frames, or the official file"
        )
    return test if split == "test" else sorted(set(range(count)) - set(test))


def _listed_test(path: Path, count: int) -> list[int]:
    """Sorted indices that a list of test frames names."""
    found = []
    for where, line in _lines(path):
        match = re.search(r"rgb_(\d{1,9})(\.[a-zA-Z]+)?(\s|$)", line)
        if match is None:
            raise DataError(f"{where}: expected a name rgb_NNNNN, got {line[:80]!r}; fix the list")
        index = int(match.group(1))
        if index >= count:
            raise DataError(
                f"{where}: names frame {index}, the data have {count}; give the list of this data "
                "set"
            )
        found.append((f"{index:05d}", where))
    refuse_duplicates(found, str(path))
    return sorted(int(index) for index, _ in found)
