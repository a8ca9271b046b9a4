"""HDF5 above a disk that may fill."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any


class Disk(io.FileIO):
    """The file below HDF5. A failed write (a full disk) is kept for `check`, not shown to HDF5.

    HDF5 cannot close a file whose writes fail, and crashes the process when it ends. So from the
    first failure on, writes stay in memory: HDF5 closes in good order, then `check` raises.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._kept: dict[int, bytes] = {}
        self._error: OSError | None = None

    def check(self) -> None:
        """Raises the first failure of a write (OSError), if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Writes all of `data`, to the disk as long as that works."""
        view, start, done = memoryview(data).cast("B"), self.tell(), 0
        try:
            self.check()
            while done < len(view):  # near the end of a disk a write may be partial
                done += os.pwrite(self.fileno(), view[done:], start + done)
        except OSError as error:
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
        except OSError as error:
            self._error = error
        return size
