"""HDF5 above a disk that may fill."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any


class Disk(io.RawIOBase):
    """The file below HDF5. A failed write (a full disk) is kept for `check`, not shown to HDF5.

    HDF5 cannot close a file whose writes fail, and crashes the process when it ends. So from the
    first failure on, writes stay in memory: HDF5 closes in good order, then `check` raises.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._position = 0
        self._kept: dict[int, bytes] = {}
        self._error: OSError | None = None

    def check(self) -> None:
        """Raises the first failure of a write (OSError), if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Writes all of `data`, to the disk as long as that works."""
        view = memoryview(data).cast("B")
        try:
            self.check()
            self._write_all(view)
        except OSError as error:
            self._error = error
            self._kept[self._position] = bytes(view)
        self._position += len(view)
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        done = 0
        while done < len(view):  # near the end of a disk a write may be partial
            done += os.pwrite(self._file.fileno(), view[done:], self._position + done)

    def readinto(self, buffer: Any) -> int:
        """Reads what was written, from the disk and from what is kept."""
        view = memoryview(buffer).cast("B")
        start, end = self._position, self._position + len(view)
        view[:] = os.pread(self._file.fileno(), len(view), start).ljust(len(view), b"\0")
        for offset, kept in self._kept.items():
            low, high = max(offset, start), min(offset + len(kept), end)
            if low < high:
                view[low - start : high - start] = kept[low - offset : high - offset]
        self._position = end
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to an offset from the start or the end."""
        if whence == os.SEEK_END:
            ends = [start + len(kept) for start, kept in self._kept.items()]
            offset += max([os.fstat(self._file.fileno()).st_size, *ends])
        self._position = offset
        return offset

    def tell(self) -> int:
        """Current offset."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Sets the length of the file, as long as writes work."""
        size = self._position if size is None else size
        try:
            self.check()
            os.ftruncate(self._file.fileno(), size)
        except OSError as error:
            self._error = error
        return size

    def close(self) -> None:
        """Closes the file on disk."""
        self._file.close()
        super().close()
