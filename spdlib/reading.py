"""Where reading meets the outside: whatever a parser raises becomes one of the project's errors.

Parsers of images, HDF5, NumPy, CSV, tar, JSON and notebooks raise exceptions of many kinds at
damaged input, and some wait for ever at a pipe. Everything that comes from outside is read here or
inside `reading`, so bad input reads the same everywhere: one error that names the file, what is
wrong with it and the remedy.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from spdlib.errors import DataError, SPDError

LARGEST_FRAME = 1 << 28
"""Bytes of a file, or of one read of an array, that holds a frame; 4000x3000 floats have 48 MB."""
LARGEST_TEXT = 1 << 26
"""Bytes of a text file (a configuration, a table, a list) beyond which it is none."""
_LONGEST_REASON = 200
_OF_THE_MACHINE = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
"""Failures that say nothing about a file's content: permissions, open files, the disk itself."""


@contextmanager
def reading(
    where: str | Path,
    problem: str = "cannot be read",
    remedy: str = "copy or download it again",
    error: type[SPDError] = DataError,
) -> Iterator[None]:
    """Turns what a parser raises into `error`: "WHERE: PROBLEM (reason); REMEDY".

    The project's own errors pass. The block holds the parser and nothing else, as every exception
    in it counts as bad input.
    """
    try:
        yield
    except SPDError:
        raise
    except FileNotFoundError as failure:
        missing = f" {failure.filename}" if str(failure.filename or where) != str(where) else ""
        raise error(f"{where}: no such file{missing}; check the path") from failure
    except Exception as failure:
        if isinstance(failure, MemoryError) or getattr(failure, "errno", 0) in _OF_THE_MACHINE:
            problem, remedy = "cannot be read", "mend that, then try again"
        raise error(f"{where}: {problem} ({reason(failure)}); {remedy}") from failure


@contextmanager
def reading_settings(
    path: Path, problem: str, remedy: str, error: type[SPDError]
) -> Iterator[None]:
    """`reading` of values whose own errors name no file: they become `error` too."""
    with reading(path, problem, remedy, error):
        try:
            yield
        except SPDError as failure:
            raise error(f"{path}: {problem} ({failure}); {remedy}") from failure


def reason(failure: BaseException) -> str:
    """What an exception says, in one line that is no page long."""
    text = " ".join(str(failure).split()) or type(failure).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


def regular_file(path: str | Path, error: type[SPDError], largest: int | None = None) -> Path:
    """The path, if it is a file with content of its own: no folder, pipe or device.

    Args:
        path: what to look at; links are followed.
        error: what to raise.
        largest: bytes that it may have; None for any number.

    Raises:
        error: missing, of another kind, too large, or a name that no file can have.
    """
    with reading(path, "is no path of a file", "check its name", error):
        found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise error(f"{path}: is {kind}, not a file; check the path")
    if largest is not None and found.st_size > largest:
        raise error(
            f"{path}: has {found.st_size / 1e6:,.0f} MB, more than the {largest / 1e6:,.0f} MB "
            "that such a file may have; check that it is the right one"
        )
    return Path(path)


def read_text(
    path: str | Path, error: type[SPDError], remedy: str = "write it as text in UTF-8"
) -> str:
    """A text file's content, without a byte order mark; `error` if it is none."""
    file = regular_file(path, error, LARGEST_TEXT)
    with reading(path, "is no text file", remedy, error):
        return file.read_text("utf-8-sig")


def read_json(
    path: str | Path, error: type[SPDError], remedy: str = "restore or delete it"
) -> dict[str, Any]:
    """The JSON object in a file; `error` if it holds anything else."""
    text = read_text(path, error, remedy)
    with reading(path, "cannot be read as JSON", remedy, error):
        value = json.loads(text)
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise error(f"{path}: holds a {kind}, not a JSON object; {remedy}")
    return value


def read_tensors(
    path: str | Path, error: type[SPDError], remedy: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; `error` if it is none."""
    file = regular_file(path, error)
    with (
        reading(path, "is no readable safetensors file", remedy, error),
        safe_open(file, framework="pt") as opened,
    ):
        tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
        return tensors, dict(opened.metadata() or {})
