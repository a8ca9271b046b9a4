"""Files that are whole or not there: a temporary name, a sync, a rename (decisions 9)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spdlib.errors import SPDError


@contextlib.contextmanager
def replacing(path: str | Path, error: type[SPDError]) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` if the block ends well, else vanishes.

    Args:
        path: the file to write; its folder is made if it is missing.
        error: what to raise.

    Raises:
        error: the folder is not writable, or writing failed (for example a full disk); a file that
            was at `path` before is untouched.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp lets only its owner read
        _sync(temporary)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # not every system syncs folders
            _sync(path.parent)
    except OSError as failure:
        kept = "the previous file is kept" if path.is_file() else "nothing was written"
        raise error(
            f"cannot write {path}: {failure.strerror or failure}; {kept}. Free disk space or "
            "choose another folder, then start the same command again"
        ) from failure
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes, error: type[SPDError]) -> None:
    """Write a whole file by rename; raises `error` as `replacing` does."""
    with replacing(path, error) as temporary:
        temporary.write_bytes(data)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
