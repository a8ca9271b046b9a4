"""Pictures in files: decoded whole or refused, by one rule for data and for `encode`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from spdlib.errors import SPDError
from spdlib.reading import LARGEST_FRAME, reading, reason, regular_file

LARGEST_PICTURE = 120_000_000
"""Pixels; a small file can claim to hold more than fits into memory."""
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""What is read, by Pillow's names. It knows others that start programs or run scripts."""
_ORIENTATION = 0x0112


def read_picture(
    path: str | Path, error: type[SPDError], formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """The whole picture in memory, as it is stored: its mode and EXIF orientation are kept.

    Raises:
        error: no picture of one of the `formats`, truncated, with a wrong checksum (PNG) or EXIF
            data that cannot be read, or larger than `LARGEST_PICTURE` by its header.
    """
    file = regular_file(path, error, LARGEST_FRAME)
    remedy = "it is truncated or damaged: copy or download it again"
    with reading(path, "cannot be decoded", remedy, error):
        try:
            with Image.open(file, formats=formats) as picture:
                width, height = picture.size
                if width * height > LARGEST_PICTURE:
                    raise Image.DecompressionBombError(f"it says {width}x{height} pixels")
                picture.verify()  # Pillow decodes PNGs without looking at their pixels' checksums
        except Image.DecompressionBombError as failure:  # Pillow has a limit of its own
            raise error(
                f"{path}: by its header larger than {LARGEST_PICTURE / 1e6:.0f} million pixels "
                f"({reason(failure)}); make it smaller"
            ) from failure
        except UnidentifiedImageError as failure:
            raise error(
                f"{path}: is no picture of {', '.join(formats)} (HEIC and AVIF are not read), or "
                "its beginning is damaged; convert it to PNG, or copy or download it again"
            ) from failure
        with Image.open(file, formats=formats) as picture:
            picture.load()
            orientation(picture)  # damaged EXIF data raise here
            return picture


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation: 1 where the picture is stored upright."""
    found = picture.getexif().get(_ORIENTATION, 1)
    return found if found in range(2, 9) else 1  # some cameras write 0: unknown


def upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says."""
    return picture if orientation(picture) == 1 else ImageOps.exif_transpose(picture)
