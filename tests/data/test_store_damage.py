"""Damaged, foreign and forged stores: one error each, when opened, when read, or from `verify`."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from spdlib.data.store import PackedFrames, index_hash, info, millimetres_to_metres, verify
from spdlib.errors import DataError

OPENING = (PackedFrames, verify, info)


def seal(path: Path) -> None:
    """Gives a changed store the CRC-32 and the index hash of what it holds."""
    with h5py.File(path, "a") as file:
        for row in range(len(file["image"])):
            image, depth = file["image"][row], millimetres_to_metres(file["depth/raw"][row])
            file["crc32"][row] = zlib.crc32(image.tobytes()), zlib.crc32(depth.tobytes())
        file.attrs["index"] = index_hash(file)


def flip_byte(path: Path, name: str, row: int) -> None:
    with h5py.File(path) as file:
        offset = file[name].id.get_chunk_info(row).byte_offset
    with path.open("r+b") as stream:
        stream.seek(offset + 100)
        byte = stream.read(1)[0]
        stream.seek(offset + 100)
        stream.write(bytes([byte ^ 1]))


# -------------------- pixels


@pytest.mark.parametrize("name", ["image", "depth/raw"])
def test_reading_finds_a_flipped_bit(packed: Path, name: str) -> None:
    verify(packed)
    flip_byte(packed, name, 1)
    frames = PackedFrames(packed)
    assert frames[0].id == "00000"
    with pytest.raises(DataError, match=rf"store.h5: frame '00002': {name} is damaged; run data v"):
        frames[1]
    with pytest.raises(DataError, match=rf"store.h5: 1 problems: frame '00002': {name} is damaged"):
        verify(packed)


def test_only_what_is_read_is_checked(packed: Path) -> None:
    with h5py.File(packed, "a") as file:
        file["depth/inpainted"] = file["depth/raw"][:]
        crc32 = np.insert(file["crc32"][:], 1, 7, axis=1)  # before that of the raw depth
        del file["crc32"]
        file["crc32"] = crc32
        file.attrs["index"] = index_hash(file)
    assert PackedFrames(packed, truths=["raw"])[3].truth("raw").any()
    with pytest.raises(DataError, match="depth/inpainted is damaged"):
        PackedFrames(packed)[3]


def test_a_lost_chunk_is_found(packed: Path) -> None:
    """HDF5 fills what was never written with zeros."""
    with h5py.File(packed, "a") as file:
        images = file["image"][:]
        del file["image"]
        file.create_dataset("image", images.shape, np.uint8, chunks=(1, *images.shape[1:]))
    with pytest.raises(DataError, match="frame '00000': image is damaged"):
        PackedFrames(packed)[0]


def test_verify_finds_implausible_and_changed_frames(packed: Path) -> None:
    with h5py.File(packed, "a") as file:
        file["depth/raw"][0] = 3
        file["depth/raw"][1] = 65535
        file["depth/raw"][3, :2] = 65535
        file["depth/raw"][4, 5, 5] += 1
    seal(packed)
    message = (
        r"store.h5: 4 problems: frame '00000' .*metres read as millimetres.*; frame '00002' .*"
        r"median depth is 65.54 m.*; frame '00001' .*62 pixels hold 65.535 m.*; "
        r"frame '00004' differs from its checksum. Pack it again"
    )
    with pytest.raises(DataError, match=message) as caught:
        verify(packed)
    assert "\n" not in str(caught.value)


# -------------------- the index


@pytest.mark.parametrize(
    ("name", "value"),
    [("camera", 50.0), ("valid_box", 2), ("split", b"train2"), ("id", b"00009"),
     ("checksum", 3), ("crc32", 3)],
)  # fmt: skip
def test_opening_finds_changed_metadata(packed: Path, name: str, value: Any) -> None:
    with h5py.File(packed, "a") as file:
        file[name][3 if file[name].ndim == 1 else (3, 0)] = value
    for function in OPENING:
        with pytest.raises(
            DataError, match=r"store.h5: damaged store \(its index differs from its"
        ):
            function(packed)


def test_verify_finds_metadata_that_differ_from_the_checksum(packed: Path) -> None:
    with h5py.File(packed, "a") as file:
        file["camera"][3, 0] = 50.0
    seal(packed)
    with pytest.raises(DataError, match="1 problems: frame '00001' differs from its checksum"):
        verify(packed)


def set_rows(name: str, value: Any, place: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][place] = value

    return change


def remove(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_rows("camera", 63.0, (2, 5)), "camera of frame '00003' is not one of its image"),
        (set_rows("camera", np.nan, (2, 0)), "camera of frame '00003' is not one of its image"),
        (set_rows("camera", 0.0, (2, 1)), "camera of frame '00003' is not one of its image"),
        (set_rows("camera", np.nan, (2, 6)), "camera of frame '00003' is not one of its image"),
        (set_rows("valid_box", 48, (1, 2)), r"valid box .* of frame '00002' leaves the image"),
        (set_rows("valid_box", -2, (1, 0)), r"valid box .* of frame '00002' leaves the image"),
        (set_rows("id", b"00000", 4), "the id '00000' occurs twice"),
        (set_rows("id", b"a\nb", 4), r"'a.*nb' cannot name a frame"),
        (set_rows("id", b"", 4), "'' cannot name a frame"),
        (set_rows("id", b"\xff\xfe", 4), "can't decode byte 0xff"),
        (set_rows("split", b"a\x01", 4), "cannot name a frame or a split"),
        (attribute("provenance", np.bytes_(b"[1]")), "its provenance is no JSON object"),
        (attribute("provenance", np.bytes_(b"{")), "damaged store .*; pack it again"),
        (attribute("provenance", [1, 2]), "damaged store .*; pack it again"),
        (lambda file: file.attrs.__delitem__("provenance"), "damaged store .*; pack it again"),
        (attribute("version", 1), "store version 1, this SPD reads 2; pack it again"),
        (attribute("version", [1, 2]), "store version .*; pack it again"),
        (attribute("version", "2"), "store version unknown, .*; pack it again"),
        (attribute("format", [1, 2]), "not a packed store; make one with"),
        (remove("depth/raw"), r"it has the depths \[\], not some of"),
        (remove("checksum"), "has no readable array 'checksum'"),
        (remove("depth"), "has no readable array 'depth'"),
    ],
)
def test_opening_refuses_forged_stores(
    packed: Path, change: Callable[[h5py.File], None], message: str
) -> None:
    with h5py.File(packed, "a") as file:
        change(file)
        if "checksum" in file:
            file.attrs["index"] = index_hash(file)
    for function in OPENING:
        with pytest.raises(DataError, match=message) as caught:
            function(packed)
        assert str(packed) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("image", np.zeros((6, 48, 64, 4), np.uint8), r"uint8 .*, not uint8 \[6, 48, 64, 3"),
        ("image", np.zeros((6, 48), np.uint8), r"image is uint8 \[6, 48\], not"),
        ("image", np.zeros((6, 48, 64, 3), np.float32), "image is float32"),
        ("depth/raw", np.ones((6, 48, 63), np.uint16), r"not uint16 or float32 \[6, 48, 64\]"),
        ("depth/raw", np.ones((6, 48, 64), np.float64), "depth/raw is float64"),
        ("camera", np.ones((6, 6)), r"camera is float64 \[6, 6\], not float64 \[6, 7\]"),
        ("camera", np.ones((5, 7)), r"camera is float64 \[5, 7\], not float64 \[6, 7\]"),
        ("valid_box", np.ones((6, 4), np.int64), "valid_box is int64"),
        ("id", np.arange(6), "id is int64"),
        ("crc32", np.ones((6, 3), np.uint32), r"crc32 is uint32 \[6, 3\], not uint32 \[6, 2\]"),
        ("depth", np.ones(6), "'depth' is not a group of arrays"),
        ("depth/other", np.ones((6, 48, 64), np.uint16), r"the depths \['other', 'raw'\], not"),
    ],
)  # fmt: skip
def test_opening_refuses_other_arrays(
    packed: Path, name: str, values: np.ndarray, message: str
) -> None:
    with h5py.File(packed, "a") as file:
        if name in file:
            del file[name]
        file[name] = values
        file.attrs["index"] = index_hash(file)
    for function in OPENING:
        with pytest.raises(
            DataError, match=rf"store.h5: damaged store \(.*{message}.*pack it again"
        ):
            function(packed)


def test_a_store_without_frames_is_refused(packed: Path) -> None:
    with h5py.File(packed, "a") as file:
        for name in (
            "image",
            "depth/raw",
            "camera",
            "valid_box",
            "id",
            "split",
            "checksum",
            "crc32",
        ):
            empty = file[name][:0]
            del file[name]
            file[name] = empty
        file.attrs["index"] = index_hash(file)
    for function in OPENING:
        with pytest.raises(DataError, match=r"store.h5: damaged store \(it has no frames\)"):
            function(packed)


# -------------------- other files


def test_truncated_store(packed: Path) -> None:
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    for function in OPENING:
        with pytest.raises(DataError, match=r"store.h5: not a readable HDF5 file .*pack it again"):
            function(packed)


def test_other_files_are_not_stores(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = [1]
    with pytest.raises(DataError, match=r"other.h5: not a packed store"):
        PackedFrames(tmp_path / "other.h5")
    with pytest.raises(DataError, match=r"absent.h5: no such file"):
        PackedFrames(tmp_path / "absent.h5")
    with pytest.raises(DataError, match="is a folder, not a file"):
        PackedFrames(tmp_path)


def test_damage_anywhere_is_found_or_harmless(packed: Path) -> None:
    """Bytes overwritten in 40 places: the project's error or the frames as they were, no other."""
    good, frames = packed.read_bytes(), PackedFrames(packed)
    expected = [(frame.image, frame.truth("raw")) for frame in map(frames.__getitem__, range(6))]
    generator = np.random.default_rng(0)
    for start in generator.integers(0, len(good) - 8, 40):
        packed.write_bytes(good[:start] + generator.bytes(8) + good[start + 8 :])
        try:
            damaged = PackedFrames(packed)
            for index, (image, depth) in enumerate(expected):
                frame = damaged[index]
                np.testing.assert_array_equal(frame.image, image)
                np.testing.assert_array_equal(frame.truth("raw"), depth)
        except DataError as error:
            assert str(packed) in str(error)


@pytest.mark.parametrize("kind", ["external", "link"])
@pytest.mark.parametrize("name", ["image", "depth/raw", "camera", "checksum"])
def test_arrays_of_other_files_are_refused(packed: Path, kind: str, name: str) -> None:
    other = packed.with_name("other")
    with h5py.File(packed, "r+") as file:
        values = file[name][()]
        other.write_bytes(values.tobytes())
        del file[name]
        if kind == "external":
            place = [(str(other), 0, values.nbytes)]
            file.create_dataset(name, values.shape, values.dtype, external=place)
        else:
            file[name] = h5py.ExternalLink(str(other), "x")
    for function in OPENING:
        with pytest.raises(DataError, match=rf"store.h5: '{name}' is not stored in the file but"):
            function(packed)


def test_depth_of_another_file_is_refused(packed: Path) -> None:
    with h5py.File(packed.with_name("other.h5"), "w") as other:
        other["depth/raw"] = np.zeros((6, 48, 64), np.uint16)
    with h5py.File(packed, "r+") as file:
        del file["depth"]
        file["depth"] = h5py.ExternalLink(str(packed.with_name("other.h5")), "depth")
    with pytest.raises(DataError, match=r"store.h5: 'depth' is not stored in the file but"):
        PackedFrames(packed)
