"""HDF5 files: read from this very file alone, and written to a disk that may fill."""

from __future__ import annotations

import io
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any, BinaryIO, Self

import h5py

from spdlib.errors import DataError
from spdlib.reading import LARGEST_FRAME, reading, regular_file

MOST_CHUNKS = 100_000
"""Chunks of one read; HDF5 looks for each of them, stored or not."""
MOST_FRAMES = 1_000_000
"""Frames of one file; NYU's whole raw video has 400,000."""
_REMEDY = "download or pack it again"


class LazyHDF5:
    """An HDF5 file that each process opens for itself, when it first reads.

    HDF5 handles do not survive a fork (two processes would share one file position) and cannot be
    pickled for a spawn. A copy in a worker therefore opens its own handle.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._arrays: dict[str, h5py.Dataset] = {}
        self._pid = -1

    def array(self, name: str) -> h5py.Dataset:
        """An array of frames (`own_array`), open for reading in this process.

        DataError: the file cannot be opened, or `own_array` refuses the array.
        """
        if self._file is None or self._pid != os.getpid():
            self._arrays = {}
            if self._file is not None:  # it came through a fork; the parent keeps its own handle
                self._file.close()
            self._file, self._pid = open_hdf5(self.path), os.getpid()
        if name not in self._arrays:  # opening and checking one takes longer than reading a frame
            self._arrays[name] = own_array(self._file, name, str(self.path), by_frame=True)
        return self._arrays[name]

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_file": None, "_arrays": {}, "_pid": -1}


def open_hdf5(source: str | Path | BinaryIO, name: str = "") -> h5py.File:
    """Opens an HDF5 file for reading, without locking it (read-only disks refuse locks).

    `name` stands for it in the DataError of a missing, truncated or other file.
    """
    remedy = "it is truncated or of another format: download or pack it again"
    if isinstance(source, str | Path):
        regular_file(source, DataError)
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
        DataError: missing, damaged, borrowed, or beyond `LARGEST_FRAME`, `MOST_CHUNKS` or
            `MOST_FRAMES`.
    """
    data = own_member(file, name, where)
    if not isinstance(data, h5py.Dataset) or not data.shape:
        raise DataError(f"{where}: {name!r} is not an array; {_REMEDY}")
    with reading(where, f"has no readable array {name!r}", _REMEDY):
        kind, borrowed, chunk = data.dtype, data.external or data.is_virtual, data.chunks
    if borrowed:
        raise _borrowed(where, name)
    frames, *frame = data.shape if by_frame else (1, *data.shape)
    chunk = chunk or [max(1, n) for n in frame]  # a chunk is read whole for any part of it
    chunks = math.prod(-(-n // c) for n, c in zip(frame[::-1], chunk[::-1], strict=False))
    size = max(math.prod(frame), math.prod(chunk)) * kind.itemsize
    if size > LARGEST_FRAME or chunks > MOST_CHUNKS or frames > MOST_FRAMES:
        raise DataError(
            f"{where}: array {name!r} is {kind} {list(data.shape)} in chunks of {list(chunk)}, "
            f"larger than any frame or data set; the file is damaged: {_REMEDY}"
        )
    return data


def own_member(file: h5py.File, name: str, where: str) -> h5py.HLObject:
    """An array or group that lies in this very file; DataError as `own_array` raises."""
    node = file
    with reading(where, f"has no readable array {name!r}", _REMEDY):
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


class Disk(io.FileIO):
    """The file below HDF5. A failed write (a full disk) is kept for `check`, not shown to HDF5.

    HDF5 cannot close a file whose writes fail, and crashes the process when it ends. So from the
    first failure on, writes stay in memory: HDF5 closes in good order, then leaving the disk's
    `with` block raises. Ctrl-C and SIGTERM are kept as well: raised while HDF5 writes, they are
    lost, and a frame with them. A second one acts at once, but the block still ends with the first.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._kept: dict[int, bytes] = {}
        self._error: OSError | KeyboardInterrupt | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others hear no signals
            kinds = (signal.SIGINT, signal.SIGTERM)
            self._before = {kind: signal.signal(kind, self._interrupted) for kind in kinds}
        return self

    def _interrupted(self, number: int, frame: object) -> None:
        self._error = self._error or KeyboardInterrupt()
        self._hear_again()

    def _hear_again(self) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def __exit__(self, kind: object, *failure: object) -> None:
        self._hear_again()
        self.close()
        if kind is None:  # else what ended the block is the news
            self.check()

    def check(self) -> None:
        """Raises the first failure of a write (OSError) or interruption, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Writes all of `data`, to the disk as long as that works."""
        view, start, done = memoryview(data).cast("B"), self.tell(), 0
        try:
            self.check()
            while done < len(view):  # near the end of a disk a write may be partial
                done += os.pwrite(self.fileno(), view[done:], start + done)
        except (OSError, KeyboardInterrupt) as error:
            self._error = error
            self._kept[start] = bytes(view)
        self.seek(start + len(view))
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Reads what was written, from the disk and from what is kept."""
        view, start = memoryview(buffer).cast("B"), self.tell()
        end = start + len(view)
        view[:] = os.pread(self.fileno(), len(view), start).ljust(len(view), b"\0")
        for offset, kept in self._kept.items():
            low, high = max(offset, start), min(offset + len(kept), end)
            if low < high:
                view[low - start : high - start] = kept[low - offset : high - offset]
        return self.seek(end) - start

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to an offset from the start, or from the end of all that was written."""
        position = super().seek(offset, whence)
        if whence == os.SEEK_END:
            ends = [start + len(kept) + offset for start, kept in self._kept.items()]
            position = super().seek(max([position, *ends]))
        return position

    def truncate(self, size: int | None = None) -> int:
        """Sets the length of the file, as long as writes work."""
        size = self.tell() if size is None else size
        try:
            self.check()
            super().truncate(size)
        except (OSError, KeyboardInterrupt) as error:
            self._error = error
        return size
