"""HDF5 arrays: what one read may cost in memory and time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from spdlib.data.hdf5 import LazyHDF5, open_hdf5, own_array
from spdlib.errors import DataError


@pytest.mark.parametrize(
    ("shape", "options", "by_frame"),
    [
        ((600_000, 600_000), {"chunks": (64, 64)}, False),
        ((4, 4), {"chunks": (20_000, 30_000), "maxshape": (None, None)}, False),  # 2.4 GB a chunk
        ((6, 4, 4), {"chunks": (6, 10_000, 10_000), "maxshape": (6, None, None)}, True),
        ((100_000_000, 7), {"chunks": (1000, 7)}, False),  # an index of 2.8 GB
        ((10**9, 4, 4), {"chunks": (100, 4, 4)}, True),
        ((5_000, 5_000), {"chunks": (1, 1)}, False),  # a minute of looking for chunks
        ((3, 900, 900), {"chunks": (1, 1, 1)}, True),
    ],
)
def test_reads_are_bounded(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], by_frame: bool
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape, np.float32, compression="gzip", **options)
    assert path.stat().st_size < 100_000
    with (
        open_hdf5(path) as file,
        pytest.raises(DataError, match=r"a.h5: array 'x' is float32 .*larger"),
    ):
        own_array(file, "x", str(path), by_frame)


def test_as_many_chunks_as_allowed_are_read_in_a_second(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (300, 300), np.float32, chunks=(1, 1))
    with open_hdf5(tmp_path / "a.h5") as file:
        started = time.perf_counter()
        assert not own_array(file, "x", "a.h5")[:].any()
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_files_are_opened(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a.h5")
    for opening in (open_hdf5, lambda path: LazyHDF5(path).array("depth")):
        with pytest.raises(DataError, match=r"a.h5: is a .*, not a file; check the path"):
            opening(tmp_path / "a.h5")


def test_other_kinds_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["empty"] = h5py.Empty(np.float32)
        file["type"] = np.dtype("f4")
        file["group/x"] = np.ones(3)
        file.create_dataset("none", (0, 4), np.float32)
        file.create_dataset("unchunked", (300, 1000, 1000), np.float32)
    with open_hdf5(path) as file:
        for name in ("empty", "type", "group"):
            with pytest.raises(DataError, match=rf"a.h5: '{name}' is not an array; download"):
                own_array(file, name, str(path))
        with pytest.raises(DataError, match=r"a.h5: has no readable array 'type/x'"):
            own_array(file, "type/x", str(path))
        assert own_array(file, "none", str(path)).shape == (0, 4)
        assert not own_array(file, "unchunked", str(path), by_frame=True)[299].any()
        with pytest.raises(DataError, match="larger than any frame"):
            own_array(file, "unchunked", str(path))
