"""Readers of the layouts in which people keep NYU Depth V2 or frames of their own (decisions 6).

Each reader is a `Frames`: it lists its files when made, refuses what does not pair up, and decodes
a frame when asked. Truth names say what the depth is: "raw" (holes are 0), "inpainted", "exact".
`open_source` recognises the layout of a path.
"""

from __future__ import annotations

import csv
import inspect
import io
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from PIL import Image

from spdlib.data.files import (
    MILLIMETRES,
    LazyHDF5,
    check_frame,
    millimetres_to_metres,
    nyu_box,
    nyu_camera,
    open_hdf5,
    own_array,
    read_depth_npy,
    read_depth_png,
    read_image,
)
from spdlib.data.frames import TRUTHS, Frame, Frames
from spdlib.data.mat5 import read_mat5
from spdlib.data.store import PackedFrames, info, is_store
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import NYU_CAMERA, Camera

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_FOCAL_TOLERANCE = 0.02


# -------------------- shared by the readers


class _Listed:
    """Frames behind a list of items that each know their id."""

    def __init__(self, items: list[Any], where: str) -> None:
        if not items:
            raise DataError(f"{where}: no frames found; see data/README.md for the layouts")
        self._items = items

    @property
    def ids(self) -> list[str]:
        """Frame names in order."""
        return [item.id for item in self._items]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Frame:
        return self._read(self._items[index])

    def _read(self, item: Any) -> Frame:
        raise NotImplementedError


def _refuse_duplicates(found: Iterable[tuple[str, Any]], where: str) -> None:
    """DataError that names both places if an id occurs twice among pairs (id, where it is)."""
    places: dict[str, Any] = {}
    for name, place in found:
        if name in places:
            raise DataError(
                f"{where}: frame id {name!r} occurs twice, in {places[name]} and in {place}; "
                "rename or drop one of them"
            )
        places[name] = place


def _refuse_truth(truth: str) -> str:
    if truth not in TRUTHS:
        raise ConfigError(f"truth is {truth!r}; choose one of {', '.join(TRUTHS)}")
    return truth


def _nyu_frame(
    name: str,
    image: np.ndarray,
    depths: Mapping[str, np.ndarray],
    where: str,
    labels: np.ndarray | None = None,
) -> Frame:
    """Frame with NYU's camera and white border, checked."""
    size = image.shape[:2]
    frame = Frame(name, image, depths, nyu_camera(size, where), labels, nyu_box(size))
    return check_frame(frame, where)


# -------------------- BTS folders


@dataclass(frozen=True)
class _Pair:
    """Files of one frame."""

    id: str
    image: Path
    depth: Path


class BTSFolder(_Listed):
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
        labels: folder of `labels_NNNNN.png` (uint8) to read with the frames.

    Raises:
        DataError: missing folder, missing pair, duplicate id, empty split, or bad list.
    """

    def __init__(
        self,
        path: str | Path,
        split: str,
        truth: str = "raw",
        list_file: str | Path | None = None,
        labels: str | Path | None = None,
    ) -> None:
        self.truth = _refuse_truth(truth)
        self.labels = Path(labels) if labels is not None else None
        root, scenes_in_id = _bts_root(Path(path), split), split == "sync"
        if list_file is None:
            pairs = _bts_pairs(root, scenes_in_id)
        else:
            pairs = _bts_listed(root, Path(list_file), scenes_in_id)
        where = f"{root} (split {split!r})"
        _refuse_duplicates(((pair.id, pair.image) for pair in pairs), where)
        super().__init__(pairs, where)

    def _read(self, item: _Pair) -> Frame:
        image = read_image(item.image)
        depth = millimetres_to_metres(read_depth_png(item.depth))
        return _nyu_frame(item.id, image, {self.truth: depth}, str(item.depth), self._labels(item))

    def _labels(self, item: _Pair) -> np.ndarray | None:
        if self.labels is None:
            return None
        path = self.labels / f"labels_{_index_of(item.image)}.png"
        try:
            with Image.open(path) as image:
                labels = np.array(image)
        except (OSError, SyntaxError) as error:
            raise DataError(f"{path}: cannot be read ({error}); copy the labels again") from error
        if labels.dtype != np.uint8 or labels.ndim != 2:
            raise DataError(f"{path}: labels need 8 bits in one channel; export class numbers")
        return labels


def _bts_root(path: Path, split: str) -> Path:
    """Folder of the scenes of a split."""
    if split not in ("train", "test", "sync"):
        raise ConfigError(f"split is {split!r}; a BTS folder has 'train', 'test' and 'sync'")
    candidates = [path / "sync", path] if split == "sync" else []
    if split != "sync":
        candidates = [path / "official_splits" / split, path / split]
    for folder in candidates:
        if _has(folder, "*/rgb_*"):
            return folder
    raise DataError(
        f"{path}: split {split!r} is empty; expected {candidates[0].relative_to(path)}/<scene>/"
        "rgb_NNNNN.jpg with sync_depth_NNNNN.png"
    )


def _has(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def _index_of(path: Path) -> str:
    return path.stem.rsplit("_", 1)[-1]


def _bts_id(image: Path, scenes_in_id: bool) -> str:
    index = _index_of(image)
    return f"{image.parent.name}/{index}" if scenes_in_id else index


def _bts_pairs(root: Path, scenes_in_id: bool) -> list[_Pair]:
    """Every image with its depth, sorted by id; DataError if one lacks the other."""
    pairs = []
    depths = set(root.glob("*/sync_depth_*.png"))
    for image in root.glob("*/rgb_*"):
        if image.suffix.lower() not in _IMAGE_SUFFIXES:
            continue
        depth = image.with_name(f"sync_depth_{_index_of(image)}.png")
        if depth not in depths:
            raise DataError(f"{image}: no {depth.name} beside it; copy the pair or remove the rgb")
        pairs.append(_Pair(_bts_id(image, scenes_in_id), image, depth))
    orphans = depths - {pair.depth for pair in pairs}
    if orphans:
        orphan = min(orphans)
        raise DataError(f"{orphan}: no rgb_{_index_of(orphan)}.jpg beside it; copy or remove it")
    return sorted(pairs, key=lambda pair: pair.id)


def _bts_listed(root: Path, list_file: Path, scenes_in_id: bool) -> list[_Pair]:
    """Pairs named by a published list; paths are relative to `root` and stay in it."""
    pairs = []
    for number, line in enumerate(_lines(list_file), 1):
        where = f"{list_file}, line {number}"
        fields = line.split()
        if len(fields) < 2:
            raise DataError(f"{where}: expected 'rgb depth focal', got {line!r}")
        _check_focal(fields[2:], where)
        image, depth = (_inside(root, field, where) for field in fields[:2])
        for path in (image, depth):
            if not path.is_file():
                raise DataError(f"{where}: {path} is missing; copy it or remove the line")
        pairs.append(_Pair(_bts_id(image, scenes_in_id), image, depth))
    return pairs


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a text list ({error})") from error


def _check_focal(fields: list[str], where: str) -> None:
    """A listed focal length must be that of NYU's camera, which the reader attaches."""
    try:
        focal = float(fields[0]) if fields else NYU_CAMERA.fx
    except ValueError:
        raise DataError(f"{where}: focal length {fields[0]!r} is not a number") from None
    if abs(focal / NYU_CAMERA.fx - 1) > _FOCAL_TOLERANCE:
        raise DataError(
            f"{where}: focal length {focal:g} is not NYU's {NYU_CAMERA.fx:g}; bring other cameras "
            "as a plain folder with cameras.csv"
        )


def _inside(root: Path, name: str, where: str) -> Path:
    """`root`/`name`, refused if it leads out of `root`; lists start their paths with '/'."""
    parts = PurePosixPath(name.lstrip("/")).parts
    if ".." in parts:
        raise DataError(f"{where}: path {name!r} leaves the data folder; fix the list")
    return root.joinpath(*parts)


# -------------------- the labelled .mat


@dataclass(frozen=True)
class _Row:
    """Position of one frame in the labelled file."""

    id: str
    index: int


class LabelledMat(_Listed):
    """`nyu_depth_v2_labeled.mat`: MATLAB 7.3, which is HDF5 with every axis reversed.

    `images` (N, 3, W, H) uint8, `depths` (in-painted) and `rawDepths` (N, W, H) float32 metres.
    Frames have both truths. Ids are the 0-based index as NNNNN, as in BTS folders. The file's 894
    object classes do not fit the workbook's 8-bit labels and are not read.

    Args:
        path: the .mat file.
        split: "train" or "test", which need `split_file`; None for all frames.
        split_file: NYU's `splits.mat`, or a text list of the test frames (lines that name
            rgb_NNNNN, as BTS's published list); all other frames are then training frames.

    Raises:
        DataError: truncated or unexpected file, bad split file, empty split.
    """

    def __init__(
        self, path: str | Path, split: str | None = None, split_file: str | Path | None = None
    ) -> None:
        self.path = Path(path)
        self._file = LazyHDF5(path)
        count = _checked_mat(self._file.get(), self.path)
        self._file.close()
        splits = read_split(Path(split_file), count) if split_file is not None else {}
        if split is not None and split not in splits:
            raise DataError(
                f"{path}: the file itself has no split {split!r}; give split_file= (NYU's "
                "splits.mat or BTS's test list), or split=None for all frames"
            )
        chosen = splits[split] if split is not None else list(range(count))
        super().__init__([_Row(f"{index:05d}", index) for index in chosen], str(path))

    def _read(self, item: _Row) -> Frame:
        file, where = self._file.get(), f"{self.path} (frame {item.id})"
        try:
            image, raw, inpainted = (
                own_array(file, name, where, by_frame=True)[item.index].T
                for name in ("images", "rawDepths", "depths")
            )
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error}); download it again") from error
        depths = {"inpainted": np.ascontiguousarray(inpainted), "raw": np.ascontiguousarray(raw)}
        return _nyu_frame(item.id, np.ascontiguousarray(image), depths, where)


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
    count, channels, *size = shapes["images"]
    if channels != 3 or any(shapes[name] != (count, *size) for name in ("depths", "rawDepths")):
        raise DataError(
            f"{path}: sizes do not match ({shapes}); expected images (N, 3, W, H) and depth "
            "(N, W, H)"
        )
    return int(count)


def read_split(path: Path, count: int) -> dict[str, list[int]]:
    """Sorted 0-based "train" and "test" indices from `splits.mat` or a list of the test frames.

    Raises:
        DataError: unreadable, an index outside 0..count-1, or a frame in both splits.
    """
    if path.suffix.lower() == ".mat":
        arrays = read_mat5(path)
        names = {"train": "trainNdxs", "test": "testNdxs"}
        missing = set(names.values()) - set(arrays)
        if missing:
            raise DataError(f"{path}: lacks {sorted(missing)}; give the splits.mat of NYU")
        # MATLAB counts from 1
        splits = {key: [int(i) - 1 for i in arrays[name].flat] for key, name in names.items()}
    else:
        test = _listed_indices(path)
        splits = {"train": sorted(set(range(count)) - set(test)), "test": test}
    everything = [(index, name) for name, split in splits.items() for index in split]
    _refuse_duplicates(((f"{index:05d}", name) for index, name in everything), str(path))
    if not all(0 <= index < count for index, _ in everything):
        raise DataError(
            f"{path}: names frames up to {max(everything)[0]}, the data have {count}; "
            "give the split file of this data set"
        )
    return {name: sorted(split) for name, split in splits.items()}


def _listed_indices(path: Path) -> list[int]:
    indices = []
    for number, line in enumerate(_lines(path), 1):
        match = re.search(r"rgb_(\d+)", line)
        if match is None:
            raise DataError(f"{path}, line {number}: expected a name rgb_NNNNN, got {line!r}")
        indices.append(int(match.group(1)))
    return indices


# -------------------- FastDepth .h5 files and shards


@dataclass(frozen=True)
class _H5File:
    """One .h5 frame on disk."""

    id: str
    path: Path


class FastDepthFolder(_Listed):
    """`<split>/<scene>/NNNNN.h5` with `rgb` (3, H, W) uint8 and `depth` (H, W) float metres.

    The layout of sparse-to-dense and FastDepth, whose authors in-painted the depth with NYU's
    toolbox. Ids are "scene/NNNNN". The split "test" reads the folder `val` (the official test
    frames) where there is no `test`.

    Raises:
        DataError: missing or empty split.
    """

    def __init__(self, path: str | Path, split: str, truth: str = "inpainted") -> None:
        self.truth = _refuse_truth(truth)
        root = Path(path)
        folder = next((root / n for n in _split_names(split) if (root / n).is_dir()), root / split)
        files = sorted(folder.glob("*/*.h5"))
        items = [_H5File(f"{file.parent.name}/{file.stem}", file) for file in files]
        super().__init__(items, f"{folder} (split {split!r})")

    @property
    def files(self) -> list[Path]:
        """The .h5 file of each frame."""
        return [item.path for item in self._items]

    def _read(self, item: _H5File) -> Frame:
        with open_hdf5(item.path) as file:
            return _h5_frame(file, item.id, self.truth, str(item.path))


def _split_names(split: str) -> tuple[str, ...]:
    return ("test", "val") if split == "test" else (split,)


def _h5_frame(file: h5py.File, name: str, truth: str, where: str) -> Frame:
    """Frame of an open FastDepth-style file."""
    try:
        rgb, depth = (np.asarray(own_array(file, name, where)) for name in ("rgb", "depth"))
    except (OSError, TypeError) as error:
        raise DataError(
            f"{where}: 'rgb' or 'depth' cannot be read ({error}); download it again"
        ) from error
    if rgb.ndim != 3 or rgb.shape[0] != 3 or rgb.dtype != np.uint8:
        raise DataError(f"{where}: 'rgb' is {rgb.dtype} {list(rgb.shape)}, not uint8 [3, H, W]")
    if depth.dtype.kind != "f":
        raise DataError(f"{where}: 'depth' is {depth.dtype}, not floating-point metres")
    image = np.ascontiguousarray(rgb.transpose(1, 2, 0))
    return _nyu_frame(name, image, {truth: depth.astype(np.float32)}, where)


@dataclass(frozen=True)
class _Member:
    """Where the bytes of one .h5 frame lie inside a shard, and its name there."""

    id: str
    name: str
    shard: Path
    offset: int
    size: int


class TarShards(_Listed):
    """`<split>-NNNNNN.tar` shards of FastDepth-style .h5 files, as on the Hugging Face hub.

    Members are read where they lie: nothing is unpacked to disk. Shards whose members could
    escape a folder when unpacked (absolute names, "..", links, devices) are refused as a whole.
    Ids are "scene/NNNNN". The split "test" reads `val-*.tar` where there is no `test-*.tar`.

    Raises:
        DataError: no shards, unsafe or damaged shard, duplicate id.
    """

    def __init__(self, path: str | Path, split: str, truth: str = "inpainted") -> None:
        self.truth = _refuse_truth(truth)
        folder = _shard_folder(Path(path))
        found = (sorted(folder.glob(f"{name}-*.tar")) for name in _split_names(split))
        shards = next((shards for shards in found if shards), [])
        items = [member for shard in shards for member in _members(shard)]
        where = f"{path} (split {split!r})"
        _refuse_duplicates(((item.id, f"{item.shard} ({item.name})") for item in items), where)
        super().__init__(items, where)

    def _read(self, item: _Member) -> Frame:
        where = f"{item.shard} ({item.id})"
        try:
            with item.shard.open("rb") as shard:
                shard.seek(item.offset)
                content = io.BytesIO(shard.read(item.size))
        except OSError as error:
            raise DataError(
                f"{where}: cannot be read ({error.strerror or error}); put the shard back or "
                "download it again"
            ) from error
        with open_hdf5(content, where) as file:
            return _h5_frame(file, item.id, self.truth, where)


def _shard_folder(path: Path) -> Path:
    return path / "data" if _has(path / "data", "*-*.tar") else path


def _members(shard: Path) -> Iterable[_Member]:
    """The .h5 members of an uncompressed shard; DataError on the first unsafe one."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                _refuse_unsafe(member, shard)
                name = PurePosixPath(member.name)
                if member.isfile() and name.suffix == ".h5":
                    frame = "/".join(name.with_suffix("").parts[-2:])
                    yield _Member(frame, member.name, shard, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{shard}: not a complete, uncompressed tar file ({error}); download it again"
        ) from error


def _refuse_unsafe(member: tarfile.TarInfo, shard: Path) -> None:
    name = PurePosixPath(member.name)
    escapes = name.is_absolute() or ".." in name.parts or "\\" in member.name
    plain = (member.isfile() and not member.issparse()) or member.isdir()
    if escapes or not plain:
        raise DataError(
            f"{shard}: member {member.name!r} is not a plain file below the shard's folder; "
            "do not trust this file, download it from its publisher"
        )


# -------------------- a user's own folder


@dataclass(frozen=True)
class _Own:
    """Files, intrinsics (fx, fy, cx, cy) and split of one frame of a user's folder."""

    id: str
    image: Path
    depth: Path
    intrinsics: tuple[float, float, float, float]
    split: str


class PlainFolder(_Listed):
    """A user's own frames: `rgb/NAME.jpg|png`, `depth/NAME.png|npy` and `cameras.csv`.

    `cameras.csv` has the columns frame, fx, fy, cx, cy (pixels, integers are pixel centres) and
    optionally split; each row's `frame` is a NAME, and every file needs a row.

    Args:
        path: the folder.
        split: rows to read; None for all.
        truth: what the depth is.
        depth_scale: metres per step of a depth PNG.

    Raises:
        DataError: missing pair or row, bad number, duplicate frame, empty split.
    """

    def __init__(
        self,
        path: str | Path,
        split: str | None = None,
        truth: str = "raw",
        depth_scale: float = MILLIMETRES,
    ) -> None:
        self.truth = _refuse_truth(truth)
        if not 0 < depth_scale < 1:
            raise ConfigError(f"depth_scale is {depth_scale}; give metres per PNG step, e.g. 0.001")
        self.depth_scale = depth_scale
        items = _own_frames(Path(path))
        self.splits = sorted({item.split for item in items})
        chosen = [item for item in items if split in (None, item.split)]
        super().__init__(chosen, f"{path} (split {split!r} of {self.splits})")

    def _read(self, item: _Own) -> Frame:
        image = read_image(item.image)
        camera = Camera(*item.intrinsics, width=image.shape[1], height=image.shape[0])
        frame = Frame(item.id, image, {self.truth: self._depth(item.depth)}, camera)
        return check_frame(frame, str(item.depth))

    def _depth(self, path: Path) -> np.ndarray:
        if path.suffix == ".npy":
            return read_depth_npy(path)
        values = read_depth_png(path)
        if self.depth_scale == MILLIMETRES:
            return millimetres_to_metres(values)
        return values.astype(np.float32) * np.float32(self.depth_scale)


def _own_frames(root: Path) -> list[_Own]:
    """Rows of cameras.csv joined with the files of `rgb` and `depth`."""
    table = root / "cameras.csv"
    rows = _camera_rows(table)
    lines = ((row["frame"], f"line {number}") for number, row in enumerate(rows, 2))
    _refuse_duplicates(lines, str(table))
    images = _by_stem(root / "rgb", _IMAGE_SUFFIXES)
    depths = _by_stem(root / "depth", (".png", ".npy"))
    items = []
    for number, row in enumerate(rows, 2):
        name, where = row["frame"], f"{table}, line {number}"
        for folder, files in (("rgb", images), ("depth", depths)):
            if name not in files:
                raise DataError(f"{where}: {folder} has no file {name!r}; add it or drop the row")
        intrinsics = tuple(_number(row, key, where) for key in ("fx", "fy", "cx", "cy"))
        split = row.get("split") or "all"
        items.append(_Own(name, images[name], depths[name], intrinsics, split))  # type: ignore[arg-type]
    listed = {row["frame"] for row in rows}
    for files in (images, depths):
        for name in sorted(set(files) - listed):
            raise DataError(f"{files[name]}: has no row in {table.name}; add one or remove it")
    return items


def _camera_rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read ({error}); write it as CSV in UTF-8") from error
    missing = [name for name in ("frame", "fx", "fy", "cx", "cy") if name not in columns]
    if missing:
        raise DataError(f"{table}: lacks the columns {missing}; it needs frame,fx,fy,cx,cy[,split]")
    return rows


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """File name without suffix -> path."""
    files = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in suffixes]
    _refuse_duplicates(((path.stem, path) for path in files), str(folder))
    return {path.stem: path for path in files}


def _number(row: Mapping[str, str | None], key: str, where: str) -> float:
    try:
        return float(row[key] or "")
    except ValueError:
        raise DataError(f"{where}: {key} is {row[key]!r}, not a number of pixels") from None


# -------------------- any of the above


def open_source(path: str | Path, **options: Any) -> dict[str, Frames]:
    """Split name -> frames of a data set in any layout that this module or the store knows.

    Args:
        path: a folder, the labelled .mat, or a packed store.
        options: passed to the reader (`truth`, `split_file`, `list_file`, `labels`,
            `depth_scale`). With `list_file` a BTS folder trains on the listed `sync` frames.

    Raises:
        DataError: no known layout, or what the reader raises.
        ConfigError: an option that the recognised layout does not have.
    """
    path = Path(path)
    for matches, opener in _LAYOUTS:
        if matches(path):
            unknown = set(options) - set(inspect.signature(opener).parameters)
            if unknown:
                raise ConfigError(f"{path}: its layout has no option {', '.join(sorted(unknown))}")
            return opener(path, **options)
    state = "holds no layout that SPD knows" if path.exists() else "does not exist"
    raise DataError(
        f"{path}: {state}; expected a BTS folder (official_splits/ or sync/), "
        "nyu_depth_v2_labeled.mat, FastDepth folders (train/<scene>/*.h5), tar shards "
        "(train-000000.tar), a folder with cameras.csv, or a packed store"
    )


def _open_store(path: Path) -> dict[str, Frames]:
    return {split: PackedFrames(path, split) for split in info(path)["splits"]}


def _open_mat(path: Path, split_file: str | Path | None = None) -> dict[str, Frames]:
    if split_file is None:
        return {"all": LabelledMat(path)}
    return {split: LabelledMat(path, split, split_file) for split in ("train", "test")}


def _open_plain(
    path: Path, truth: str = "raw", depth_scale: float = MILLIMETRES
) -> dict[str, Frames]:
    splits = PlainFolder(path, None, truth, depth_scale).splits
    return {split: PlainFolder(path, split, truth, depth_scale) for split in splits}


def _open_bts(
    path: Path,
    truth: str = "raw",
    list_file: str | Path | None = None,
    labels: str | Path | None = None,
) -> dict[str, Frames]:
    roots = {split: _bts_has(path, split) for split in ("train", "test", "sync")}
    frames: dict[str, Frames] = {}
    if list_file is not None or (roots["sync"] and not roots["train"]):
        frames["train"] = BTSFolder(path, "sync", truth, list_file)
    elif roots["train"]:
        frames["train"] = BTSFolder(path, "train", truth, labels=labels)
    if roots["test"]:
        frames["test"] = BTSFolder(path, "test", truth, labels=labels)
    return frames


def _bts_has(path: Path, split: str) -> bool:
    try:
        return _bts_root(path, split).is_dir()
    except DataError:
        return False


def _splits_of(reader: Callable[..., Frames]) -> Callable[..., dict[str, Frames]]:
    """Opens "train" and "test" where they exist; an error if neither does."""

    def opener(path: Path, truth: str = "inpainted") -> dict[str, Frames]:
        found: dict[str, Frames] = {}
        for split in ("train", "test"):
            if _h5_split_exists(path, split):
                found[split] = reader(path, split, truth)
        return found

    return opener


def _h5_split_exists(path: Path, split: str) -> bool:
    patterns = [p for n in _split_names(split) for p in (f"{n}/*/*.h5", f"{n}-*.tar")]
    return any(_has(folder, p) for folder in (path, path / "data") for p in patterns)


_LAYOUTS: list[tuple[Callable[[Path], bool], Callable[..., dict[str, Frames]]]] = [
    (lambda path: path.is_file() and path.suffix.lower() == ".mat", _open_mat),
    (lambda path: path.is_file() and is_store(path), _open_store),
    (lambda path: (path / "cameras.csv").is_file(), _open_plain),
    (lambda path: any(_bts_has(path, s) for s in ("train", "test", "sync")), _open_bts),
    (lambda path: _has(_shard_folder(path), "*-*.tar"), _splits_of(TarShards)),
    (lambda path: any(_has(path, f"{n}/*/*.h5") for n in ("train", "val", "test")),
     _splits_of(FastDepthFolder)),
]  # fmt: skip
