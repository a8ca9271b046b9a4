"""Reading single files and judging single frames, with errors that name the file and the remedy.

Every reader and the packed store build on these functions, so bad input reads the same everywhere:
one `DataError`, never a guess and never a silently repaired frame.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spdlib.data.frames import Frame
from spdlib.errors import DataError
from spdlib.pictures import orientation, read_picture
from spdlib.reading import reading

Box = tuple[int, int, int, int]
PLAUSIBLE_MEDIAN = (0.1, 20.0)
"""Metres between which the median depth of an indoor frame lies; outside, the unit is wrong."""
MILLIMETRES = 0.001
"""Metres per step of a uint16 depth file, unless the caller says otherwise."""


def read_image(path: Path) -> np.ndarray:
    """RGB image uint8 [H, W, 3] of a JPEG or PNG file; DataError if it cannot be used as it is."""
    image = read_picture(path, DataError, ("JPEG", "PNG"))
    if image.mode != "RGB":
        raise DataError(
            f"{path}: image mode is {image.mode!r}, not 'RGB' (grey, palette and transparent "
            "images are refused); convert it to 8-bit RGB"
        )
    if orientation(image) != 1:
        raise DataError(
            f"{path}: the EXIF data ask for a rotation, which the depth would not follow; "
            "save the image upright and without EXIF orientation"
        )
    return np.array(image)


def read_depth_png(path: Path) -> np.ndarray:
    """Stored values uint16 [H, W] of a 16-bit one-channel PNG; DataError for any other."""
    image = read_picture(path, DataError, ("PNG",))
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
