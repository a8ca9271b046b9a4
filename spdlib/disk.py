"""Files that are whole or not there: a temporary name, a sync, a rename."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import platform
import secrets
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from spdlib.errors import SPDError

DEFAULT_ROOT = Path("results") / "runs"
"""Where runs and executed notebooks go unless another place is named."""

_TOKEN_BYTES = 8
_PATIENCE = 2.0
"""Seconds to wait for a lock: a killed process lets go only once its memory is freed."""
_FULL = "Free disk space or choose another folder"
_REMEDIES = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EFBIG: _FULL, errno.EIO: _FULL}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def replacing(path: str | Path, error: type[SPDError]) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` if the block ends well, else vanishes.

    Its folder is made if it is missing. Temporaries that killed processes left of `path` are
    removed first. Where `path` is a link, what it leads to is replaced.

    Raises:
        error: `path` is a folder, pipe or device, its folder is not writable, or writing failed
            (for example a full disk); a file that was at `path` before is untouched.
    """
    path = Path(path)
    if not path.name or "\0" in str(path):
        raise error(f"cannot write {str(path)!r}: it names no file; choose another name")
    path = Path(os.path.realpath(path)) if os.path.islink(path) else path
    if os.path.exists(path) and not path.is_file():
        raise error(f"cannot write {path}: it is a folder, a pipe or a device; choose another name")
    try:
        with _folder(path.parent):
            _remove_abandoned(path)
            with _temporary(path) as temporary:
                yield temporary
                _sync(temporary)
                os.replace(temporary, path)
            with contextlib.suppress(OSError):  # not every system syncs folders
                _sync(path.parent)
    except OSError as failure:
        kept = "the previous file is kept" if os.path.isfile(path) else "nothing was written"
        raise error(_cannot_write(path, failure, f"; {kept}")) from failure


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    """A folder that is there within the block; what had to be made goes if the block fails."""
    made = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # never made, or no longer empty
                folder.rmdir()
        raise


@contextlib.contextmanager
def held(path: str | Path, error: type[SPDError]) -> Iterator[None]:
    """Keeps a folder to this process for the length of a block, by the lock file `path` in it.

    The lock ends with the process, however it ends; processes forked meanwhile do not have it. The
    file says who held it last, and stays: another process may wait for it. Where the file system
    has no locks, a warning says so and the block runs.

    Raises:
        error: another process holds the lock, or the file cannot be written.
    """
    path = Path(path)
    lock = FileLock(path, timeout=_PATIENCE, fallback_to_soft=False, on_acquired=_sign)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as failure:
        raise error(
            f"{path.parent}: another process works there ({_signature(path)}); wait until it "
            "ends, stop it, or choose another folder"
        ) from failure
    except OSError as failure:
        if failure.errno not in _NO_LOCKS:
            raise error(_cannot_write(path, failure)) from failure
        warnings.warn(
            f"{path.parent}: its file system has no locks ({failure.strerror}); make sure that no "
            "other process works there",
            stacklevel=2,
        )
    try:
        yield
    finally:
        lock.release()


def _cannot_write(path: Path, failure: OSError, kept: str = "") -> str:
    remedy = _REMEDIES.get(failure.errno or 0, "Check the path or choose another folder")
    return (
        f"cannot write {path}: {failure.strerror or failure}{kept}. {remedy}, then start the same "
        "command again"
    )


def _sign(handle: int) -> None:
    """Write into a lock file who holds it."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {platform.node()} since {since}".encode())


def _signature(path: Path) -> str:
    with contextlib.suppress(OSError):  # it has just ended, or keeps the file to itself
        return path.read_text("utf-8", "replace") or "it has just begun"
    return "it does not say which"


def write_bytes(path: str | Path, data: bytes, error: type[SPDError]) -> None:
    """Write a whole file by rename; raises `error` as `replacing` does."""
    with replacing(path, error) as temporary:
        temporary.write_bytes(data)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, locked as long as its writer lives, gone afterwards."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}.tmp")
        # not by tempfile, whose files only their owner may read
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(handle)
        if temporary.exists():
            break
        os.close(handle)  # another process took it for abandoned before it was locked
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _remove_abandoned(path: Path) -> None:
    """Deletes the temporaries of `path` whose writer was killed: nobody holds their lock."""
    token = "[0-9a-f]" * (2 * _TOKEN_BYTES)
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.{token}.tmp"):
        with contextlib.suppress(OSError):  # finished meanwhile, or of another user
            handle = os.open(temporary, os.O_RDWR)
            try:
                if _lock(handle, wait=False):
                    temporary.unlink()
            finally:
                os.close(handle)


def _lock(handle: int, wait: bool = True) -> bool:
    """Whether the file is now locked by this process, until it closes it or dies in any way."""
    try:
        import fcntl  # here, as this module must be importable where there is none (Windows)

        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # another process holds it, or the system has no locks
        return False
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
