"""Depth files: values that only look like depth, and headers that claim too much."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spdlib.data.files import as_metres, check_depth, check_name, read_depth_npy, read_depth_png
from spdlib.errors import DataError


def save(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def ramp(low: float = 700, high: float = 5000) -> np.ndarray:
    """Millimetres [48, 64] that rise from left to right."""
    return np.tile(np.linspace(low, high, 64).astype(np.uint16), (48, 1))


@pytest.mark.parametrize("times", [1, 900, 48 * 64])
def test_65535_is_no_depth(tmp_path: Path, times: int) -> None:
    values = ramp()
    values.flat[:times] = 65535
    message = rf"d.png: {times:,} pixels hold 65535, which marks missing .*; write 0 where nothing"
    with pytest.raises(DataError, match=message):
        read_depth_png(save(tmp_path / "d.png", values))


def test_raw_kinect_disparities_are_no_depth(tmp_path: Path) -> None:
    values = ramp(400, 1090)
    values[:, -9:] = 2047
    with pytest.raises(
        DataError, match=r"432 pixels hold 2047, .*raw disparity; convert it to mil"
    ):
        read_depth_png(save(tmp_path / "d.png", values))
    np.testing.assert_array_equal(
        read_depth_png(save(tmp_path / "m.png", ramp(400, 2047)))[0, -1], 2047
    )


def test_shifted_bits_are_no_depth(tmp_path: Path) -> None:
    depth = ramp(900, 2400)
    with pytest.raises(
        DataError, match=r"multiples of 8, .*write \(value >> 3\) \| \(value << 13\)"
    ):
        read_depth_png(save(tmp_path / "d.png", depth << 3 | depth >> 13))
    coarse = ramp(700, 5000) // 8 * 8  # near surfaces, so only rounded
    np.testing.assert_array_equal(read_depth_png(save(tmp_path / "c.png", coarse)), coarse)


@pytest.mark.parametrize(
    ("value", "times", "message"),
    [
        (65.535, 40, r"40 pixels hold 65.535 m, which .* \(0.001 to 60 m\); write 0"),
        (65504.0, 3000, "3,000 pixels hold 65504 m"),
        (1000.0, 1, "1 pixels hold 1000 m"),
        (1e-7, 5, "5 pixels hold 1e-07 m"),
        (0.0009, 2000, "2,000 pixels hold 0.0009 m"),
        (1e-40, 1, "1 pixels hold 9.9999e-41 m"),
        (np.nan, 1500, "NaN or infinite depth in 1,500 pixels; write 0"),
        (np.inf, 1, "NaN or infinite depth in 1 pixels"),
        (-np.inf, 2, "NaN or infinite depth in 2 pixels"),
        (-1e-40, 2, "negative depth"),
    ],
)  # fmt: skip
def test_values_that_mark_nothing_measured(value: float, times: int, message: str) -> None:
    depth = ramp().astype(np.float32) / 1000
    depth.flat[:times] = value
    with pytest.raises(DataError, match=f"frame: {message}"):
        check_depth(depth, "frame")


def test_all_that_cameras_measure_is_read() -> None:
    depth = ramp().astype(np.float32) / 1000
    depth[0, :3] = 0.001, 50, 60
    check_depth(depth, "frame")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.longdouble])
def test_npy_of_any_floats(tmp_path: Path, dtype: str) -> None:
    depth = np.array([[0, 1.5], [2.25, 4]]).astype(dtype)
    np.save(tmp_path / "d.npy", depth)
    read = read_depth_npy(tmp_path / "d.npy")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, depth)
    np.save(tmp_path / "f.npy", np.asfortranarray(depth))
    np.testing.assert_array_equal(read_depth_npy(tmp_path / "f.npy"), depth)


@pytest.mark.parametrize(
    "values",
    [
        np.ones((4, 4), np.uint16),
        np.ones((4, 4, 1)),
        np.ones(4),
        np.float64(1),
        np.ones((4, 4), "c16"),
    ],
)
def test_npy_of_other_arrays(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "d.npy", values)
    with pytest.raises(
        DataError, match=r"d.npy: (depth is .*, not floating-point metres|not a rea)"
    ):
        read_depth_npy(tmp_path / "d.npy")


def test_numbers_that_float32_does_not_hold() -> None:
    with pytest.raises(DataError, match="frame: depth is too small for float32; write 0 where"):
        as_metres(np.full((2, 2), 5e-324), "frame")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isinf(as_metres(np.full((2, 2), 1e300), "frame")).all()


@pytest.mark.parametrize(
    "shape", ["(1000000, 1000000)", "(-1, 4)", "(99999999999999999999, 2)", "(4, ", "'a'"]
)
def test_npy_headers_that_claim_what_is_not_there(tmp_path: Path, shape: str) -> None:
    header = (
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    )
    path = tmp_path / "d.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(400))
    with pytest.raises(DataError, match=r"d.npy: not a readable .npy file .*; save it again with"):
        read_depth_npy(path)


def test_npy_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "d.npy"
    with path.open("wb") as stream:
        stream.truncate(1 << 29)  # takes no room on the disk
    with pytest.raises(DataError, match=r"d.npy: has 537 MB, more than the 268 MB"):
        read_depth_npy(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"d.npy: is a pipe or a device, not a file"):
        read_depth_npy(path)
    path.unlink()
    np.savez(tmp_path / "d", depth=np.ones((4, 4)))
    (tmp_path / "d.npz").rename(path)
    with pytest.raises(DataError, match=r"d.npy: not a readable .npy file"):
        read_depth_npy(path)


@pytest.mark.parametrize("name", ["", "a\0", "a\nb", "a\x7f", "\udcff", "a" * 257, "é" * 129])
def test_names_that_cannot_be_stored(name: str) -> None:
    with pytest.raises(DataError, match=r"^place: .* cannot name a frame .*; rename it$"):
        check_name(name, "place")


@pytest.mark.parametrize("name", ["view 1", "scene/00001", "居間", "a" * 256, "..", "a\u3000b"])
def test_names_that_can_be_stored(name: str) -> None:
    check_name(name, "place")
