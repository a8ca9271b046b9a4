"""Reading single files and judging single frames, with errors that name the file and the remedy.

Every reader and the packed store build on these functions, so bad input reads the same everywhere:
one `DataError`, never a guess and never a silently repaired frame. `reading` is the only place that
knows what parsers raise.
"""

from __future__ import annotations

import csv
import math
import os
import tarfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
from PIL import Image

from spdlib.data.frames import NYU_VALID_BOX, Frame
from spdlib.errors import DataError, SPDError
from spdlib.geometry import NYU_CAMERA

Box = tuple[int, int, int, int]
PLAUSIBLE_MEDIAN = (0.1, 20.0)
"""Metres between which the median depth of an indoor frame lies; outside, the unit is wrong."""
MILLIMETRES = 0.001
"""Metres per step of a uint16 depth file, unless the caller says otherwise."""
LARGEST_READ = 1 << 28
"""Bytes that one read of an HDF5 array may ask for; a frame of 4000x3000 floats has 48 MB."""
PARSER_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, RuntimeError),
    *(SyntaxError, csv.Error, tarfile.TarError),  # Pillow raises SyntaxError for a broken PNG
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""What the parsers of images, HDF5, NumPy, CSV and tar files raise at damaged input."""


@contextmanager
def reading(
    where: str | Path, problem: str = "cannot be read", remedy: str = "copy or download it again"
) -> Iterator[None]:
    """Turns what a parser raises into a DataError: "WHERE: PROBLEM (reason); REMEDY"."""
    try:
        yield
    except SPDError:
        raise
    except FileNotFoundError as error:
        missing = f" {error.filename}" if error.filename else ""
        raise DataError(f"{where}: no such file{missing}; check the path") from error
    except PARSER_ERRORS as error:
        raise DataError(f"{where}: {problem} ({error}); {remedy}") from error


class LazyHDF5:
    """An HDF5 file that each process opens for itself, when it first reads.

    HDF5 handles do not survive a fork (two processes would share one file position) and cannot be
    pickled for a spawn. A copy in a worker therefore opens its own handle.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1

    def get(self) -> h5py.File:
        """The file, open for reading in this process; DataError if that fails."""
        if self._file is None or self._pid != os.getpid():
            self.close()  # a handle that came through a fork; the parent keeps its own
            self._file = open_hdf5(self.path)
            self._pid = os.getpid()
        return self._file

    def close(self) -> None:
        """Closes this process's handle; the next `get` opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_file": None, "_pid": -1}


def open_hdf5(source: str | Path | BinaryIO, name: str = "") -> h5py.File:
    """Opens an HDF5 file for reading, without locking it (read-only disks refuse locks).

    `name` stands for it in the DataError of a missing, truncated or other file.
    """
    remedy = "it is truncated or of another format: download or pack it again"
    with reading(name or str(source), "not a readable HDF5 file", remedy):
        return h5py.File(source, "r", locking=False)


def own_array(file: h5py.File, name: str, where: str, by_frame: bool = False) -> h5py.Dataset:
    """An array that lies in this very file.

    HDF5 lets a file borrow its arrays from others (external storage, links, virtual data sets), so
    a data set from elsewhere could show any file of this machine as a frame; it is refused.

    Args:
        file: where it must lie.
        name: of the array, with its groups: "depth/raw".
        where: stands for the file in an error.
        by_frame: it is read one frame (row) at a time, not whole.

    Raises:
        DataError: missing, damaged, borrowed, or a read beyond `LARGEST_READ`.
    """
    data = own_member(file, name, where)
    if not isinstance(data, h5py.Dataset) or not data.shape:
        raise DataError(f"{where}: {name!r} is not an array; download or pack it again")
    if data.external or data.is_virtual:
        raise _borrowed(where, name)
    shape = data.shape[1:] if by_frame else data.shape
    if math.prod(shape) * data.dtype.itemsize > LARGEST_READ:
        raise DataError(
            f"{where}: array {name!r} is {data.dtype} {list(data.shape)}, larger than any frame; "
            "the file is damaged: download or pack it again"
        )
    return data


def own_member(file: h5py.File, name: str, where: str) -> h5py.HLObject:
    """An array or group that lies in this very file; DataError as `own_array` raises."""
    node = file
    with reading(where, f"has no readable array {name!r}", "download or pack it again"):
        for part in name.split("/"):
            # `in` and `get` would open what a link leads to before they say what kind it is
            if node.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
                raise _borrowed(where, name)
            node = node[part]
    return node


def _borrowed(where: str, name: str) -> DataError:
    return DataError(
        f"{where}: {name!r} is not stored in the file but points elsewhere (link, external or "
        "virtual array); do not trust it, or copy the array into the file (h5repack)"
    )


def read_image(path: Path) -> np.ndarray:
    """RGB image uint8 [H, W, 3] of a JPEG or PNG file; DataError if it cannot be used as it is."""
    image = _decoded(path)
    if image.mode != "RGB":
        raise DataError(
            f"{path}: image mode is {image.mode!r}, not 'RGB' (grey, palette and transparent "
            "images are refused); convert it to 8-bit RGB"
        )
    if image.getexif().get(0x0112, 1) != 1:
        raise DataError(
            f"{path}: the EXIF data ask for a rotation, which the depth would not follow; "
            "save the image upright and without EXIF orientation"
        )
    return np.array(image)


def read_depth_png(path: Path) -> np.ndarray:
    """Stored values uint16 [H, W] of a 16-bit one-channel PNG; DataError for any other."""
    image = _decoded(path)
    # Pillow before 11 opens 16-bit PNGs in mode "I"
    if image.mode not in ("I;16", "I;16B", "I"):
        raise DataError(
            f"{path}: depth has mode {image.mode!r}, not 16 bits in one channel; 8-bit depth "
            "cannot hold millimetres: export uint16 millimetres"
        )
    values = np.array(image)
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise DataError(f"{path}: depth values leave 0..65535; export uint16 millimetres")
    return values.astype(np.uint16)


def _decoded(path: Path) -> Image.Image:
    """The whole image in memory; DataError if the file cannot be decoded to its end."""
    remedy = "it is truncated or damaged: copy or download it again"
    with reading(path, "cannot be decoded", remedy), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            image.load()
            return image


def read_depth_npy(path: Path) -> np.ndarray:
    """Depth float32 [H, W] of a .npy file of floats; DataError for any other."""
    with reading(path, "not a readable .npy file", "save it again"):
        values = np.load(path, allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        raise DataError(f"{path}: needs a float array [H, W] of metres; save it with numpy.save")
    return values.astype(np.float32)


def millimetres_to_metres(values: np.ndarray) -> np.ndarray:
    """Metres float32 of whole millimetres, correctly rounded, so that the way back is exact."""
    return values.astype(np.float32) / np.float32(1000)


def metres_to_millimetres(depth: np.ndarray) -> np.ndarray | None:
    """uint16 millimetres whose metres equal `depth` bit for bit; None where there are none."""
    millimetres = np.rint(depth * np.float32(1000))
    if not (millimetres.min() >= 0 and millimetres.max() <= np.iinfo(np.uint16).max):
        return None
    values = millimetres.astype(np.uint16)
    return values if np.array_equal(millimetres_to_metres(values), depth) else None


def check_frame(frame: Frame, where: str) -> Frame:
    """Returns the frame if it can be learned from; `where` names its file in an error.

    Raises:
        DataError: wrong type or shape, image and depth of different sizes, NaN, negative or no
            depth, or a median depth that no indoor frame has (a wrong unit).
    """
    image = frame.image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(
            f"{where}: image is {image.dtype} {list(image.shape)}, not uint8 [H, W, 3]; "
            "convert it to 8-bit RGB"
        )
    if not frame.depths:
        raise DataError(f"{where}: frame {frame.id!r} has no depth; add it or drop the frame")
    sizes = {"camera": frame.camera.size} | {k: d.shape for k, d in frame.depths.items()}
    for name, size in sizes.items():
        if tuple(size) != image.shape[:2]:
            raise DataError(
                f"{where}: image is {image.shape[0]}x{image.shape[1]} but {name} is "
                f"{'x'.join(map(str, size))} (height x width); give both at the same size"
            )
    for kind in frame.depths:
        check_depth(frame.truth(kind), f"{where} ({kind} depth)")
    return frame


def check_depth(depth: np.ndarray, where: str) -> None:
    """Refuses NaN, infinite, negative, empty or implausible depth [H, W] in metres (DataError)."""
    if not np.isfinite(depth).all():
        raise DataError(f"{where}: NaN or infinite depth; write 0 where nothing was measured")
    if depth.min() < 0:
        raise DataError(
            f"{where}: negative depth ({depth.min():g}); write 0 where nothing was measured"
        )
    sample = depth[::8, ::8]
    measured = sample[sample > 0]
    if measured.size < 64:  # small or sparse depth: look at all of it
        measured = depth[depth > 0]
    if not measured.size:
        raise DataError(f"{where}: no valid pixel (all depth is 0); drop the frame")
    median, (low, high) = float(np.median(measured)), PLAUSIBLE_MEDIAN
    if not low <= median <= high:
        hint = "millimetres read as metres" if median > high else "metres read as millimetres"
        raise DataError(
            f"{where}: median depth is {median:.4g} m, outside {low} to {high} m; this looks like "
            f"{hint} or 8-bit depth: store uint16 PNG in millimetres or floats in metres"
        )


def nyu_box(size: tuple[int, ...]) -> Box:
    """Valid rows and columns of an NYU frame of this size (height, width)."""
    return scaled_box(NYU_VALID_BOX, NYU_CAMERA.size, (size[0], size[1]))


def scaled_box(box: Box, old: tuple[int, int], new: tuple[int, int]) -> Box:
    """Box (top, left, bottom, right inclusive) of the pixels wholly inside it after a resize."""
    top, left, bottom, right = box
    (old_h, old_w), (new_h, new_w) = old, new
    # pixel i covers [i, i + 1) on the image's edge-to-edge axis
    return (
        -(-top * new_h // old_h),
        -(-left * new_w // old_w),
        (bottom + 1) * new_h // old_h - 1,
        (right + 1) * new_w // old_w - 1,
    )
