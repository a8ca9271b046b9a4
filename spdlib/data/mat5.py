"""Numeric arrays of MATLAB 5 files, enough for NYU's `splits.mat`.

Follows the "MAT-File Level 5 File Format" of MathWorks: a 128-byte header, then tagged elements,
each possibly deflated. Reading two index columns this way spares a dependency on SciPy.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spdlib.errors import DataError

_CODES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
"""NumPy's name of each numeric data type of the format."""
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES = range(6, 16)
_LARGEST = 1 << 26
"""Bytes that one deflated element may unfold to; a split file needs a few thousand."""


def read_mat5(path: str | Path) -> dict[str, np.ndarray]:
    """Name -> array of every numeric variable of a MATLAB 5 file; others are left out.

    Raises:
        DataError: missing, damaged, or another format (MATLAB 7.3 files are HDF5).
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise DataError(f"{path}: not a MATLAB 5 file; give the splits.mat that NYU publishes")
    try:
        return dict(_variables(data[128:], order))
    except (struct.error, zlib.error, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path}: damaged MATLAB file ({error}); download it again") from error


def _variables(data: bytes, order: str) -> Iterator[tuple[str, np.ndarray]]:
    for kind, content in _elements(data, order):
        if kind == _COMPRESSED:
            yield from _variables(_inflated(content), order)
        elif kind == _MATRIX:
            yield from _matrix(content, order)


def _inflated(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    data = stream.decompress(content, _LARGEST)
    if not stream.eof:
        raise ValueError("an element ends early or is too large")
    return data


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, bytes) of each element; short ones keep their data in the second half of the tag."""
    position = 0
    while position < len(data):
        kind, count = struct.unpack_from(order + "II", data, position)
        if kind >> 16:
            kind, count, start, size = kind & 0xFFFF, kind >> 16, position + 4, 8
        else:
            start = position + 8
            size = 8 + (count if kind == _COMPRESSED else -(-count // 8) * 8)
        if start + count > len(data):
            raise ValueError("an element runs past the end of the file")
        yield kind, data[start : start + count]
        position += size


def _matrix(content: bytes, order: str) -> Iterator[tuple[str, np.ndarray]]:
    """The array of one matrix element: flags, dimensions, name, then values column by column."""
    parts = list(_elements(content, order))
    if struct.unpack_from(order + "I", parts[0][1])[0] & 0xFF not in _NUMERIC_CLASSES:
        return
    _, (_, shape), (_, name), (kind, values), *_ = parts
    array = np.frombuffer(values, order + _CODES[kind])
    sizes = np.frombuffer(shape, order + "i4")
    yield name.decode("ascii", "replace"), array.reshape(sizes, order="F")
