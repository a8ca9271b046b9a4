"""Pictures: damage that Pillow alone would pass, and sizes that only a header claims."""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spdlib.data.files import read_depth_png, read_image
from spdlib.errors import DataError
from spdlib.pictures import read_picture

Reader = Callable[[Path], object]
KINDS = pytest.mark.parametrize("kind", ["rgb", "depth"])


def picture(tmp_path: Path, kind: str, **options: object) -> tuple[Path, Reader]:
    """A good PNG of noise and its reader; noise is stored as it is, so any flipped byte decodes."""
    generator = np.random.default_rng(0)
    depth = generator.integers(900, 4000, (48, 64)).astype(np.uint16)
    image = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = tmp_path / f"{kind}.png"
    Image.fromarray(image if kind == "rgb" else depth).save(path, **options)  # type: ignore[arg-type]
    reader: Reader = read_image if kind == "rgb" else read_depth_png
    reader(path)
    return path, reader


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG with its checksum."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


@KINDS
@pytest.mark.parametrize("place", ["pixels", "checksum", "claimed"])
def test_a_false_checksum_is_refused(tmp_path: Path, kind: str, place: str) -> None:
    path, reader = picture(tmp_path, kind, compress_level=0)
    data = bytearray(path.read_bytes())
    start = data.index(b"IDAT")
    length = struct.unpack(">I", data[start - 4 : start])[0]
    if place == "claimed":  # other pixels that zlib takes, below the old checksum
        other = zlib.compress(bytes(len(zlib.decompress(data[start + 4 : start + 4 + length]))), 0)
        data[start + 4 : start + 4 + length] = other
        assert len(other) == length
    else:
        data[start + (length // 2 if place == "pixels" else length + 5)] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{kind}.png: cannot be decoded .*copy or download it"):
        reader(path)


@KINDS
def test_every_truncation_is_refused(tmp_path: Path, kind: str) -> None:
    path, reader = picture(tmp_path, kind)
    data = path.read_bytes()
    for end in (0, 8, 20, 40, 100, len(data) // 2, len(data) - 13):
        path.write_bytes(data[:end])
        with pytest.raises(DataError, match=rf"{kind}.png: (cannot be decoded|is no picture)"):
            reader(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@KINDS
@pytest.mark.parametrize("side", [11_000, 60_000])
def test_pixels_that_only_the_header_claims_take_no_memory(
    tmp_path: Path, kind: str, side: int
) -> None:
    depth, colour = (8, 2) if kind == "rgb" else (16, 0)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    started = time.perf_counter()
    with pytest.raises(
        DataError, match=r"bomb.png: by its header larger than 120 million pixels .*; make it sm"
    ):
        (read_image if kind == "rgb" else read_depth_png)(path)
    assert time.perf_counter() - started < 2


@KINDS
def test_a_picture_that_asks_for_a_rotation_is_refused(tmp_path: Path, kind: str) -> None:
    """The other one of image and depth would not follow."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(DataError, match=rf"{kind}.png: the EXIF data ask for a rotation.*upright"):
        picture(tmp_path, kind, exif=exif)


def test_damaged_exif_data_are_refused(tmp_path: Path) -> None:
    """Which way is up is not guessed."""
    with pytest.raises(DataError, match=r"rgb.png: cannot be decoded"):
        picture(tmp_path, "rgb", exif=b"Exif\0\0nonsense of no use")


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_transparent_colour_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    colour = (0, 0, 0) if mode == "RGB" else 0
    Image.new(mode, (8, 8)).save(path, transparency=colour)
    with pytest.raises(
        DataError, match=rf"a.png: image mode is '{mode}'.*transparent .*convert it"
    ):
        read_image(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link"])
def test_only_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)  # opening it would wait for ever
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")  # has no end
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=rf"{path}: is a .*, not a file; check the path"):
        read_picture(path, DataError)
