"""The packed store: one HDF5 file, written once, read fast by many workers.

Layout, for N frames of one size H x W (images and depth have one frame per chunk):

    image        uint8   [N, H, W, 3]  RGB
    depth/NAME   uint16  [N, H, W]     millimetres, where that is exact for every frame
                 float32 [N, H, W]     metres, otherwise
    camera       float64 [N, 7]        fx, fy, cx, cy, skew, width, height
    valid_box    int32   [N, 4]        top, left, bottom, right (inclusive); -1 for none
    id, split    text    [N]           UTF-8, at most 256 bytes
    checksum     uint8   [N, 32]       SHA-256 of everything above, frame by frame
    crc32        uint32  [N, 1 + D]    CRC-32 of the image and of each of D depths in metres

Attributes: `format`, `version`, `provenance` (JSON), and `index`, the SHA-256 of the provenance and
all arrays but images and depths. Opening a store checks `index`, reading a frame `crc32`, `verify`
all of it. Depth comes back bit for bit as the source gave it. A store is written under a temporary
name, synced and renamed, so a failure leaves the file that was there before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from spdlib.data.files import (
    LONGEST_NAME,
    check_frame,
    check_name,
    metres_to_millimetres,
    millimetres_to_metres,
    scaled_box,
)
from spdlib.data.frames import TRUTHS, Frame, Frames
from spdlib.data.hdf5 import Disk, LazyHDF5, open_hdf5, own_array, own_member
from spdlib.disk import replacing
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import Camera
from spdlib.pictures import LARGEST_PICTURE
from spdlib.reading import reading
from spdlib.version import __version__

FORMAT, VERSION = "spd-store", 2
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "lzf": {"compression": "lzf", "shuffle": True},
    "gzip": {"compression": "gzip", "shuffle": True, "compression_opts": 4},
}
"""HDF5's filters of images and depths."""
_NO_BOX = (-1, -1, -1, -1)
_INDEX = ("camera", "valid_box", "id", "split", "checksum", "crc32")
"""Arrays that are read whole when a store is opened."""
_TEXT = h5py.string_dtype("utf-8", LONGEST_NAME)


def pack(
    splits: Mapping[str, Frames],
    path: str | Path,
    provenance: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    compression: str = "none",
    progress: bool = False,
) -> None:
    """Writes every frame into one HDF5 file.

    Args:
        splits: the frames by split; all of one size unless `size` is given, all with the same
            truths.
        path: the store to write; an existing one is replaced only when the new one is complete.
        provenance: what the source was; counts, truths with holes, date and version are added.
        size: height, width to resize to (`resize_frame`); None keeps the frames as they are.
        compression: "none" (fastest to train from), "lzf" or "gzip" (smallest).
        progress: show a progress bar.

    Raises:
        DataError: bad, unreadable or duplicate frame, bad name of a split, no frames, unwritable
            folder, full disk.
        ConfigError: unknown compression.
    """
    path = Path(path)
    if compression not in COMPRESSIONS:
        raise ConfigError(f"compression is {compression!r}; choose one of {list(COMPRESSIONS)}")
    if os.path.isfile(path) and _is_other(path):
        raise DataError(f"{path}: is there, and no packed store; choose another name or delete it")
    places = [(split, frames, i) for split, frames in splits.items() for i in range(len(frames))]
    if not places:
        raise DataError(f"{path}: nothing to pack, the source is empty")
    for split in splits:
        check_name(split, str(path))
    with (
        replacing(path, DataError) as temporary,
        Disk(temporary) as disk,
        h5py.File(disk, "w", libver="v110") as file,
    ):
        writer = _Writer(file, len(places), compression)
        for split, frames, i in tqdm(places, "packing", disable=not progress, mininterval=2):
            # a source that cannot be read must not pass for a store that cannot be written
            with reading(f"frame {i} of {split!r}", remedy="restore its file, then pack again"):
                frame = frames[i]
            writer.add(frame if size is None else resize_frame(frame, size), split)
            disk.check()
            if len(writer.ids) == 1 and compression == "none":
                _check_space(path, sum(file[name].nbytes for name in _names(file)))
        made = {
            **(provenance or {}),
            "counts": dict(Counter(split for split, _, _ in places)),
            "spdlib": __version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "resized_to": list(size) if size else None,
            "compression": compression,
            "holes": sorted(writer.holes),
        }
        notes = {"format": FORMAT, "provenance": json.dumps(made)}
        file.attrs.update({name: np.bytes_(text.encode()) for name, text in notes.items()})
        file.attrs.update(version=VERSION, index=index_hash(file))


def _is_other(path: Path) -> bool:
    """Whether a file is no store. One that HDF5 cannot open may be a damaged store."""
    if not h5py.is_hdf5(path):
        return True
    try:
        return not PackedFrames.recognises(path)
    except DataError:
        return False


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(
            f"{path}: needs {needed / 1e6:,.3f} MB but its disk has {free / 1e6:,.3f} MB free; "
            "free space, choose another folder, or pack smaller frames (size, compression)"
        )


class _Writer:
    """Fills a store frame by frame, refusing what does not fit the frames before."""

    def __init__(self, file: h5py.File, count: int, compression: str) -> None:
        self.file, self.count, self.filters = file, count, COMPRESSIONS[compression]
        self.ids: set[str] = set()
        self.holes: set[str] = set()

    def add(self, frame: Frame, split: str) -> None:
        """Writes one frame; DataError if it is bad, a duplicate, or of another kind."""
        check_frame(frame, f"frame {frame.id!r}")
        if frame.id in self.ids:
            raise DataError(f"frame id {frame.id!r} occurs twice; ids in a store are unique")
        arrays = _arrays(frame, split)
        if self.ids:
            self._check_like_first(frame, arrays)
        for name, value in arrays.items():
            stored = self._depth(name, value) if name.startswith("depth/") else value
            data = self.file[name] if name in self.file else self._create(name, stored)
            data[len(self.ids)] = stored
        self.ids.add(frame.id)
        self.holes |= {kind for kind, d in frame.depths.items() if not d[frame.valid].all()}

    def _check_like_first(self, frame: Frame, arrays: Mapping[str, Any]) -> None:
        expected = self.file["image"].shape[1:3]
        if frame.image.shape[:2] != expected:
            raise DataError(
                f"frame {frame.id!r} is {frame.image.shape[0]}x{frame.image.shape[1]}, the ones "
                f"before {expected[0]}x{expected[1]}; give a size to pack them all at"
            )
        have, want = set(arrays), set(_names(self.file))
        if have != want:
            raise DataError(
                f"frame {frame.id!r} has {sorted(have - want) or 'no'} arrays that others lack "
                f"and lacks {sorted(want - have) or 'none'} of theirs; pack such frames apart"
            )

    def _depth(self, name: str, depth: np.ndarray) -> np.ndarray:
        """The depth in the type of its array, which becomes float32 when millimetres lose."""
        if name in self.file and self.file[name].dtype == np.float32:
            return depth
        values = metres_to_millimetres(depth)
        if values is not None:
            return values
        if name in self.file:  # what is stored so far becomes metres, once per array at most
            self.file.move(name, "millimetres")
            old, new = self.file["millimetres"], self._create(name, depth)
            for index in range(len(self.ids)):
                new[index] = millimetres_to_metres(old[index])
            del self.file["millimetres"]
        return depth

    def _create(self, name: str, like: Any) -> h5py.Dataset:
        shape = (self.count, *np.shape(like))
        if len(shape) < 3:
            dtype = _TEXT if isinstance(like, str) else like.dtype
            return self.file.create_dataset(name, shape, dtype)
        chunks = (1, *like.shape)
        return self.file.create_dataset(name, shape, like.dtype, chunks=chunks, **self.filters)


def _arrays(frame: Frame, split: str) -> dict[str, Any]:
    """Everything that is stored of a frame, by the name of its array."""
    arrays: dict[str, Any] = {"image": np.ascontiguousarray(frame.image)}
    for kind in sorted(frame.depths):
        arrays[f"depth/{kind}"] = np.ascontiguousarray(frame.depths[kind], dtype=np.float32)
    crc32 = [zlib.crc32(pixels) for pixels in arrays.values()]
    arrays["camera"] = frame.camera.to_tensor().numpy()
    arrays["valid_box"] = np.array(frame.valid_box or _NO_BOX, dtype=np.int32)
    arrays["id"], arrays["split"] = frame.id, split
    arrays["checksum"] = _checksum(arrays)
    arrays["crc32"] = np.array(crc32, np.uint32)
    return arrays


def _checksum(arrays: Mapping[str, Any]) -> np.ndarray:
    """SHA-256 [32] over names, shapes and contents; depth counts as float32 metres."""
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        data = np.frombuffer(value.encode(), np.uint8) if isinstance(value, str) else value
        digest.update(f"{name}{data.shape}".encode())
        digest.update(data.tobytes() if data.dtype.kind == "S" else data.data)
    return np.frombuffer(digest.digest(), np.uint8)


def index_hash(file: h5py.File) -> np.bytes_:
    """SHA-256 over a store's provenance and all its arrays but images and depths."""
    arrays = {name: file[name][:] for name in _INDEX}
    found = _checksum({**arrays, "provenance": _note(file, "provenance")})
    return np.bytes_(found.tobytes().hex())


def _note(file: h5py.File, name: str) -> str:
    """A text or whole number among a store's attributes, as text; "" where there is none.

    Texts of variable length, as of version 1, are not read: HDF5 keeps them in a heap without a
    checksum, and where that is damaged reading may never end.
    """
    kind = file.attrs.get_id(name).dtype.kind if name in file.attrs else ""
    if kind == "S":
        return bytes(file.attrs[name]).decode()
    return str(file.attrs[name]) if kind in ("i", "u") else ""


def resize_frame(frame: Frame, size: tuple[int, int]) -> Frame:
    """The frame at another height and width; its camera and valid box follow.

    The image is filtered (antialiased bilinear). Depth takes the measurement nearest to the new
    pixel's centre among those it covers, so that holes do not spread and depths never mix.
    ConfigError for a size below 1x1 or beyond `LARGEST_PICTURE`.
    """
    height, width = size
    if height < 1 or width < 1 or height * width > LARGEST_PICTURE:
        raise ConfigError(
            f"size is {height}x{width}; give a height and width from 1, of at most "
            f"{LARGEST_PICTURE / 1e6:.0f} million pixels together"
        )
    image = Image.fromarray(frame.image).resize((width, height), Image.Resampling.BILINEAR)
    box = frame.valid_box
    return Frame(
        frame.id,
        np.asarray(image),
        {kind: _pick(depth, size) for kind, depth in frame.depths.items()},
        frame.camera.resized(height, width),
        None if box is None else scaled_box(box, frame.camera.size, size),
    )


def _pick(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest non-zero value [h, w] under each new pixel; 0 where it covers none."""
    rows, columns = (_covered(old, new) for old, new in zip(values.shape, size, strict=True))
    result = np.zeros(size, values.dtype)
    offsets = [(dy, dx) for dy in range(len(rows)) for dx in range(len(columns))]
    for dy, dx in sorted(offsets, key=lambda o: (o[0] + 1) // 2 + (o[1] + 1) // 2):
        candidate = values[np.ix_(rows[dy], columns[dx])]
        result = np.where(result == 0, candidate, result)
    return result


def _covered(old: int, new: int) -> list[np.ndarray]:
    """Old indices [new] under each new pixel along one axis, nearest to its centre first."""
    scale = old / new
    centre = np.floor((np.arange(new) + 0.5) * scale).astype(int)
    first = np.floor(np.arange(new) * scale).astype(int)
    last = np.ceil(np.arange(1, new + 1) * scale).astype(int) - 1
    reach = int(scale // 2)
    steps = [0] + [sign * k for k in range(1, reach + 1) for sign in (-1, 1)]
    return [np.clip(centre + step, first, np.minimum(last, old - 1)) for step in steps]


class PackedFrames:
    """Frames of a packed store.

    Safe in data-loader workers (fork and spawn): the index is read when it is made, the file is
    opened by each process when it first reads a frame. Pickling keeps the index only.

    Args:
        path: the store.
        split: the split to read; None for all frames.
        truths: the depths to read, which saves time where others are stored; None for all.

    Raises:
        DataError: not a store, truncated, or without frames of this split or one of `truths`.
    """

    expects = "a packed store"

    def __init__(
        self, path: str | Path, split: str | None = None, truths: Sequence[str] | None = None
    ) -> None:
        self.path, self.split = Path(path), split
        index = _read_index(self.path)
        self._rows = [n for n, name in enumerate(index.splits) if split in (None, name)]
        if not self._rows:
            raise DataError(
                f"{path}: no frames in split {split!r}; it has {sorted(set(index.splits))}. "
                "Pack them again: without a `split` column the split is made by blocks"
            )
        self.ids = [index.ids[row] for row in self._rows]
        self._cameras, self._boxes = torch.from_numpy(index.cameras), index.boxes
        stored = list(index.truths)
        self.truths = stored if truths is None else list(truths)
        for kind in self.truths:
            if kind not in stored:
                raise DataError(
                    f"{path}: has no {kind!r} depth but {stored}; choose one of these, or pack "
                    f"a source whose depth is {kind!r} (--truth)"
                )
        self._crc32 = index.crc32[:, [0, *(1 + stored.index(kind) for kind in self.truths)]]
        self.provenance = index.provenance
        self.split_by = self.provenance.get("split_by", "")
        self._file = LazyHDF5(self.path)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the file is an HDF5 file that says it is a packed store."""
        if not path.is_file() or not h5py.is_hdf5(path):
            return False
        with open_hdf5(path) as file, reading(path, "damaged store", "pack it again"):
            return _note(file, "format") == FORMAT or _is_older(file)

    @classmethod
    def open_splits(cls, path: Path) -> Mapping[str, Frames]:
        """Every split of the store."""
        return {split: cls(path, split) for split in info(path)["splits"]}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Frame:
        row = self._rows[index]
        where = f"{self.path}: frame {self.ids[index]!r}"
        names = ("image", *(f"depth/{kind}" for kind in self.truths))
        with reading(where, remedy="run data verify and pack it again"):
            image, *depths = (self._file.array(name)[row] for name in names)
        metres = [d if d.dtype == np.float32 else millimetres_to_metres(d) for d in depths]
        for name, pixels, crc32 in zip(names, (image, *metres), self._crc32[row], strict=True):
            if zlib.crc32(pixels) != crc32:
                raise DataError(f"{where}: {name} is damaged; run data verify and pack it again")
        truths = dict(zip(self.truths, metres, strict=True))
        camera = Camera.from_tensor(self._cameras[row])
        return Frame(self.ids[index], image, truths, camera, self._boxes[row])


class _Index(NamedTuple):
    """All of a store but its pixels, checked. `boxes` are of `Frame.valid_box`."""

    cameras: np.ndarray
    boxes: list[tuple[int, int, int, int] | None]
    ids: list[str]
    splits: list[str]
    checksums: np.ndarray
    crc32: np.ndarray
    size: tuple[int, int]
    truths: dict[str, str]
    compression: str
    provenance: dict[str, Any]


def _names(file: h5py.File) -> list[str]:
    """Names of all arrays, in the form of `_arrays`."""
    return [name for name in file if name != "depth"] + [f"depth/{kind}" for kind in file["depth"]]


def _is_older(file: h5py.File) -> bool:
    """Whether it may be a store of version 1, whose texts are of variable length."""
    return {"format", "provenance"} <= set(file.attrs) and _note(file, "version") == "1"


def _read_index(path: Path) -> _Index:
    """Opens a store and checks all but its pixels; DataError if it is not a whole one."""
    with open_hdf5(path) as file, reading(path, "damaged store", "pack it again"):
        version = _note(file, "version")
        if _note(file, "format") != FORMAT and not _is_older(file):
            raise DataError(f"{path}: not a packed store; make one with: data pack SOURCE {path}")
        if version != str(VERSION):
            raise DataError(
                f"{path}: store version {version or 'unknown'}, this SPD reads {VERSION}; "
                "pack it again"
            )
        size, truths = _check_arrays(file, str(path))
        if _note(file, "index") != index_hash(file).decode():
            raise ValueError("its index differs from its SHA-256")
        index = _Index(
            cameras=file["camera"][:],
            boxes=[
                None if box == _NO_BOX else box for box in map(tuple, file["valid_box"][:].tolist())
            ],
            ids=file["id"].asstr()[:].tolist(),
            splits=file["split"].asstr()[:].tolist(),
            checksums=file["checksum"][:],
            crc32=file["crc32"][:],
            size=size,
            truths=truths,
            compression=file["image"].compression or "none",
            provenance=json.loads(_note(file, "provenance")),
        )
        _check_index(index, str(path))
    return index


def _check_arrays(file: h5py.File, where: str) -> tuple[tuple[int, int], dict[str, str]]:
    """Height and width, and the type of each depth; refuses other types, shapes and places."""
    if not isinstance(own_member(file, "depth", where), h5py.Group):
        raise ValueError("'depth' is not a group of arrays")
    kinds = sorted(file["depth"])
    if not kinds or not set(kinds) <= set(TRUTHS):
        raise ValueError(f"it has the depths {kinds}, not some of {list(TRUTHS)}")
    names = ("image", *(f"depth/{kind}" for kind in kinds), *_INDEX)
    arrays = {name: own_array(file, name, where, name not in _INDEX) for name in names}
    count, height, width = (*arrays["image"].shape, 0, 0)[:3]
    expected: dict[str, tuple[tuple[Any, ...], tuple[int, ...]]] = {
        "image": ((np.uint8,), (height, width, 3)),
        "camera": ((np.float64,), (7,)),
        "valid_box": ((np.int32,), (4,)),
        "id": ((_TEXT,), ()),
        "split": ((_TEXT,), ()),
        "checksum": ((np.uint8,), (32,)),
        "crc32": ((np.uint32,), (1 + len(kinds),)),
    }
    for name, data in arrays.items():
        dtypes, shape = expected.get(name, ((np.uint16, np.float32), (height, width)))
        if data.dtype not in dtypes or data.shape != (count, *shape):
            wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
            raise ValueError(
                f"{name} is {data.dtype} {list(data.shape)}, not {wanted} {[count, *shape]}"
            )
    return (height, width), {kind: str(arrays[f"depth/{kind}"].dtype) for kind in kinds}


def _check_index(index: _Index, where: str) -> None:
    """Refuses cameras, boxes, ids and a provenance that `pack` does not write."""
    height, width = index.size
    if not index.ids:
        raise ValueError("it has no frames")
    for name, camera, box in zip(index.ids, index.cameras, index.boxes, strict=True):
        check_name(name, where)
        finite = np.isfinite(camera).all() and min(camera[:2]) > 0
        if not finite or (camera[6], camera[5]) != index.size:
            raise ValueError(f"the camera of frame {name!r} is not one of its image")
        top, left, bottom, right = box or (0, 0, 0, 0)
        if not (0 <= top <= bottom < height and 0 <= left <= right < width):
            raise ValueError(f"the valid box {box} of frame {name!r} leaves the image")
    for split in set(index.splits):
        check_name(split, where)
    twice = [name for name, n in Counter(index.ids).items() if n > 1]
    if twice:
        raise ValueError(f"the id {twice[0]!r} occurs twice")
    if not isinstance(index.provenance, dict):
        raise ValueError("its provenance is no JSON object")


def verify(path: str | Path, progress: bool = False) -> dict[str, Any]:
    """What `info` returns, after every frame was read and judged, and its checksum recomputed.

    Raises:
        DataError: not a whole store, or one report of all damaged or implausible frames.
    """
    frames, index, problems = PackedFrames(path), _read_index(Path(path)), []
    places = tqdm(range(len(frames)), "verifying", disable=not progress, mininterval=2)
    for row, split, checksum in zip(places, index.splits, index.checksums, strict=True):
        try:
            frame = check_frame(frames[row], f"frame {frames.ids[row]!r}")
            if not np.array_equal(_arrays(frame, split)["checksum"], checksum):
                problems.append(f"frame {frame.id!r} differs from its checksum")
        except DataError as error:
            problems.append(str(error).removeprefix(f"{path}: "))
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        raise DataError(f"{path}: {len(problems)} problems: {shown}. Pack it again")
    return _described(Path(path), index)


def info(path: str | Path) -> dict[str, Any]:
    """What a store holds, without reading its pixels; DataError if it is not complete.

    Returns:
        `frames`, `splits` (name -> count), `size` (height, width), `truths` (name -> stored type),
        `focal` (smallest and largest, pixels), `megabytes`, `compression`,
        `fingerprint` (SHA-256 over all checksums: equal stores hold equal frames), `provenance`.
    """
    return _described(Path(path), _read_index(Path(path)))


def _described(path: Path, index: _Index) -> dict[str, Any]:
    focal = np.sqrt(index.cameras[:, 0] * index.cameras[:, 1])
    return {
        "frames": len(index.ids),
        "splits": dict(Counter(index.splits)),
        "size": index.size,
        "truths": index.truths,
        "focal": (float(focal.min()), float(focal.max())),
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "compression": index.compression,
        "fingerprint": hashlib.sha256(index.checksums.tobytes()).hexdigest(),
        "provenance": index.provenance,
    }
