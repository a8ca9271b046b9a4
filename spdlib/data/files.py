"""Reading single files and judging single frames, with errors that name the file and the remedy.

Every reader and the packed store build on these functions, so bad input reads the same everywhere:
one `DataError`, never a guess and never a silently repaired frame.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from spdlib.data.frames import Frame
from spdlib.errors import DataError
from spdlib.pictures import orientation, read_picture
from spdlib.reading import LARGEST_FRAME, reading, regular_file

Box = tuple[int, int, int, int]
PLAUSIBLE_MEDIAN = (0.1, 20.0)
"""Metres between which the median depth of an indoor frame lies; outside, the unit is wrong."""
MEASURABLE = (0.001, 60.0)
"""Metres between which every measurement lies. Indoors laser scanners reach some 50 m, structured
light and time of flight 10 m. What marks missing measurements lies beyond: 65.535 (uint16), 65504
(half floats), 100, 1000."""
MILLIMETRES = 0.001
"""Metres per step of a uint16 depth file, unless the caller says otherwise."""
LONGEST_NAME = 256
"""Bytes of a frame's id or a split's name in UTF-8."""
_HOLES = "write 0 where nothing was measured"
_NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def read_image(path: Path) -> np.ndarray:
    """RGB image uint8 [H, W, 3] of a JPEG or PNG file; DataError if it cannot be used as it is."""
    image = _unrotated(path, ("JPEG", "PNG"))
    if image.mode != "RGB" or "transparency" in image.info:
        transparent = " with a transparent colour" if image.mode == "RGB" else ""
        raise DataError(
            f"{path}: image mode is {image.mode!r}{transparent}, not 'RGB' (grey, palette and "
            "transparent images are refused); convert it to 8-bit RGB"
        )
    return np.array(image)


def _unrotated(path: Path, formats: tuple[str, ...]) -> Image.Image:
    """A picture whose pixels lie as they are seen."""
    picture = read_picture(path, DataError, formats)
    if orientation(picture) != 1:
        raise DataError(
            f"{path}: the EXIF data ask for a rotation, which image and depth would not share; "
            "save it upright and without EXIF orientation"
        )
    return picture


def read_depth_png(path: Path) -> np.ndarray:
    """Stored values uint16 [H, W] of a 16-bit one-channel PNG, 0 where nothing was measured.

    Raises:
        DataError: any other file, or values that mark missing measurements, or with shifted bits.
    """
    image = _unrotated(path, ("PNG",))
    # Pillow before 11 opens 16-bit PNGs in mode "I"
    if image.mode not in ("I;16", "I;16B", "I"):
        raise DataError(
            f"{path}: depth has mode {image.mode!r}, not 16 bits in one channel; 8-bit depth "
            "cannot hold millimetres: export uint16 millimetres"
        )
    values = np.array(image)
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise DataError(f"{path}: depth values leave 0..65535; export uint16 millimetres")
    _refuse_codes(values, path)
    return values.astype(np.uint16)


def _refuse_codes(values: np.ndarray, path: Path) -> None:
    """Refuses what passes for depth in any unit: marks of missing measurements, shifted bits."""
    counts = np.bincount(values.ravel(), minlength=1 << 16)
    none = "which marks missing measurements"
    # Kinect's raw disparities end at 1091 (10 m). No room has such gaps below its last wall.
    for code, gap, meaning in (
        (65535, 0, none),
        (2047, 946, "so this is a Kinect's raw disparity; convert it to millimetres"),
        (32767, 3000, none),
    ):
        # a few far pixels may have any value by chance
        least = 1 if code == 65535 else values.size // 1000 + 1
        alone = not counts[code - gap : code].any() and not counts[code + 1 :].any()
        if counts[code] >= least and alone:
            raise DataError(f"{path}: {counts[code]:,} pixels hold {code}, {meaning}; {_HOLES}")
    # nothing is nearer than 0.3 m to such cameras, so shifted by 3 bits nothing is below 2400
    held = np.flatnonzero(counts[1:]) + 1
    if len(held) >= 64 and held[0] >= 2400 and not (held % 8).any():
        raise DataError(
            f"{path}: all values are multiples of 8, so the bits are shifted by 3 (SUN RGB-D, "
            "Kinect SDK); write (value >> 3) | (value << 13) as uint16 millimetres"
        )


def read_depth_npy(path: Path) -> np.ndarray:
    """Depth float32 [H, W] of a .npy file of floats; DataError for any other."""
    file = regular_file(path, DataError, LARGEST_FRAME)
    with reading(path, "not a readable .npy file", "save it again with numpy.save"):
        values = np.lib.format.open_memmap(file, mode="r")  # maps no more than the file holds
    return as_metres(values, str(path))


def as_metres(values: np.ndarray, where: str) -> np.ndarray:
    """float32 [H, W] of metres in floats of any width; DataError for other arrays."""
    if values.ndim != 2 or values.dtype.kind != "f":
        raise DataError(
            f"{where}: depth is {values.dtype} {list(values.shape)}, not floating-point metres "
            "[H, W]; convert it"
        )
    with np.errstate(over="ignore"):  # to infinity, which is refused later
        metres = np.array(values, np.float32)
    if np.count_nonzero(metres) != np.count_nonzero(values):
        raise DataError(f"{where}: depth is too small for float32; {_HOLES}")
    return metres


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
        DataError: an id that cannot be stored, wrong type or shape, image and depth of different
            sizes, NaN, negative or no depth, or depth that no indoor frame has (a wrong unit).
    """
    check_name(frame.id, where)
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
            turned = tuple(size) == image.shape[1::-1]
            raise DataError(
                f"{where}: image is {image.shape[0]}x{image.shape[1]} but {name} is "
                f"{'x'.join(map(str, size))} (height x width); "
                f"{'transpose one of them' if turned else 'give both at the same size'}"
            )
    height, width = image.shape[:2]
    top, left, bottom, right = frame.valid_box or (0, 0, 0, 0)
    if not (0 <= top <= bottom < height and 0 <= left <= right < width):
        raise DataError(
            f"{where}: the valid box {frame.valid_box} (top, left, bottom, right, all inside) "
            f"leaves the {height}x{width} image; correct it"
        )
    for kind in frame.depths:
        check_depth(frame.truth(kind), f"{where} ({kind} depth)")
    return frame


def check_depth(depth: np.ndarray, where: str) -> None:
    """Refuses NaN, infinite, negative, empty or implausible depth [H, W] in metres (DataError)."""
    finite = np.isfinite(depth)
    if not finite.all():
        count = np.count_nonzero(~finite)
        raise DataError(f"{where}: NaN or infinite depth in {count:,} pixels; {_HOLES}")
    if depth.min() < 0:
        raise DataError(f"{where}: negative depth ({depth.min():g}); {_HOLES}")
    if not depth.any():
        raise DataError(f"{where}: no valid pixel (all depth is 0); drop the frame")
    least, most = MEASURABLE
    sample = depth[::8, ::8]
    measured = sample[(sample >= least) & (sample <= most)]
    if measured.size < 64:  # small, sparse or implausible depth: look at all of it
        measured = depth[(depth >= least) & (depth <= most)]
    doubt = doubtful_unit(measured if measured.size else depth[depth > 0])
    if doubt:
        raise DataError(
            f"{where}: {doubt} or 8-bit depth: store uint16 PNG in millimetres or floats in "
            "metres, and 0 where nothing was measured"
        )
    for extreme in (depth.min(where=depth > 0, initial=most), depth.max()):
        if not least <= extreme <= most:
            raise DataError(
                f"{where}: {np.count_nonzero(depth == extreme):,} pixels hold {extreme:.5g} m, "
                f"which no camera measures ({least:g} to {most:g} m); {_HOLES}"
            )


def check_predicted(depth: np.ndarray, where: str) -> None:
    """Refuses predictions [...] in metres that are no depth, or of a wrong unit (DataError)."""
    for wrong, kind in ((~np.isfinite(depth), "NaN or infinite"), (depth <= 0, "0 or negative")):
        if count := np.count_nonzero(wrong):
            raise DataError(
                f"{where}: {kind} depth in {count:,} places; a prediction is a number of metres "
                "above 0 everywhere, also where it is not scored"
            )
    if doubt := doubtful_unit(depth):
        raise DataError(f"{where}: {doubt}; correct the unit, or the metres of a step")


def doubtful_unit(depth: np.ndarray) -> str | None:
    """Why depth [...], all above 0, can hardly be metres of an indoor frame; None where it can."""
    (low, high), median = PLAUSIBLE_MEDIAN, float(np.median(depth))
    if low <= median <= high:
        return None
    hint = "millimetres read as metres" if median > high else "metres read as millimetres"
    return f"median depth is {median:.4g} m, outside {low} to {high} m; this looks like {hint}"


def check_name(name: str, where: str) -> None:
    """Refuses an id of a frame or a name of a split that a store could not hold (DataError)."""
    if not name or _NO_NAME.search(name) or len(name.encode()) > LONGEST_NAME:
        raise DataError(
            f"{where}: {name[:80]!r} cannot name a frame or a split (it is empty, over "
            f"{LONGEST_NAME} bytes, or has control characters or bytes that are not UTF-8); "
            "rename it"
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
