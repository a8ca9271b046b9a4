"""Ways to damage a file: any of its bytes, or its parts with their lengths and checksums put right.

Damaged bytes are what disks and downloads make. A changed part is what a broken program or a
hostile person writes: a header that claims another size, a value of another kind.
"""

from __future__ import annotations

import csv
import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

HEAD = 4096
"""Bytes at a file's start where half of all damage falls, as its structure lies there."""
NUMBERS = (0, 1, 3.7, -1, 2**31 - 1, 2**31, 2**63 - 1, 2**64, 10**30, 1e308, float("nan"))
NESTED = "[" * 50 + "]" * 50
ODD: tuple[Any, ...] = (
    *(*NUMBERS, float("inf"), True, None, "", "a", "\0", "\ud800", "1" * 5000, "../x", "/dev/zero"),
    *([], {}, [[]], {"a": {}}, json.loads(NESTED), [0] * 1000, "nan", "-1", "1e999"),
)
"""Values that stand where something else is expected."""


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes after one to four damages of any kind."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        chance.choice(_DAMAGES)(result, chance)
    return bytes(result)


def _place(data: bytearray, chance: random.Random, length: int = 1) -> int:
    """Where damage begins, so that `length` bytes follow if there are as many."""
    last = max(0, len(data) - length)
    return chance.randint(0, min(last, HEAD) if chance.random() < 0.5 else last)


def _flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _overwrite(data: bytearray, chance: random.Random) -> None:
    length = chance.choice((1, 1, 2, 4, 16, 64))
    start = _place(data, chance, length)
    fill = chance.choice((b"\0", b"\xff", b"0", bytes([chance.randrange(256)])))
    data[start : start + length] = (fill * length)[: len(data) - start]


def _number(data: bytearray, chance: random.Random) -> None:
    """Writes a whole number that often ends a range, as files of both byte orders hold them."""
    size = chance.choice((1, 2, 4, 8))
    bits = 8 * size
    value = chance.choice((0, 1, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 255, 65535))
    start = _place(data, chance, size)
    order = chance.choice(("little", "big"))
    written = (value % 2**bits).to_bytes(size, order)
    data[start : start + size] = written[: len(data) - start]


def _insert(data: bytearray, chance: random.Random) -> None:
    start, length = _place(data, chance), chance.choice((1, 2, 8, 100))
    data[start:start] = chance.randbytes(length)


def _remove(data: bytearray, chance: random.Random) -> None:
    length = chance.choice((1, 2, 8, 100))
    start = _place(data, chance, length)
    del data[start : start + length]


def _repeat(data: bytearray, chance: random.Random) -> None:
    length = chance.choice((1, 4, 32, 256))
    start, target = _place(data, chance, length), _place(data, chance)
    data[target:target] = data[start : start + length]


def _swap(data: bytearray, chance: random.Random) -> None:
    length = chance.choice((1, 4, 32, 256))
    a, b = sorted((_place(data, chance, length), _place(data, chance, length)))
    if b - a >= length:
        data[a : a + length], data[b : b + length] = data[b : b + length], data[a : a + length]


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


_DAMAGES = (_flip, _flip, _overwrite, _number, _number, _insert, _remove, _repeat, _swap, _cut)


# -- parts of a file, changed by hypothesis ------------------------------------------------------

Structured = Callable[[bytes], st.SearchStrategy[bytes]]
"""Of a valid file: files of the same format with one to three odd parts."""

values = st.one_of(st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=8))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(each, (*path, key))


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The JSON value with another one at a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _changed(copy[path[0]], path[1:], new)
    return copy


def odd_json(data: bytes) -> st.SearchStrategy[bytes]:
    """JSON with another value at some place, written as Python writes it."""
    tree = json.loads(data)
    paths = st.sampled_from(list(_places(tree)))
    written = st.builds(lambda path, new: json.dumps(_changed(tree, path, new)), paths, values)
    return written.map(str.encode)


def odd_table(data: bytes) -> st.SearchStrategy[bytes]:
    """CSV with other cells."""
    rows = list(csv.reader(io.StringIO(data.decode())))
    cells = [(r, c) for r, row in enumerate(rows) for c in range(len(row))]

    def write(changes: list[tuple[tuple[int, int], Any]]) -> bytes:
        copy = [list(row) for row in rows]
        for (row, column), new in changes:
            copy[row][column] = str(new)
        stream = io.StringIO()
        csv.writer(stream).writerows(copy)
        return stream.getvalue().encode("utf-8", "surrogatepass")

    return st.lists(st.tuples(st.sampled_from(cells), values), min_size=1, max_size=3).map(write)


def odd_lines(data: bytes) -> st.SearchStrategy[bytes]:
    """A text list with other words."""
    words = data.decode().split(" ")

    def write(changes: list[tuple[int, Any]]) -> bytes:
        copy = list(words)
        for place, new in changes:
            copy[place] = str(new)
        return " ".join(copy).encode("utf-8", "surrogatepass")

    place = st.integers(0, len(words) - 1)
    return st.lists(st.tuples(place, values), min_size=1, max_size=3).map(write)


def odd_safetensors(data: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file whose header says something else."""
    (length,) = struct.unpack("<Q", data[:8])
    body = data[8 + length :]
    headers = odd_json(data[8 : 8 + length])
    return headers.map(lambda header: struct.pack("<Q", len(header)) + header + body)


def odd_npy(data: bytes) -> st.SearchStrategy[bytes]:
    """A .npy file of another type, order or shape."""
    body = data[10 + struct.unpack("<H", data[8:10])[0] :]
    kinds = ("<f4", "<f8", "<f2", ">f4", "<u2", "<i8", "|O", "|V0", "<c8", "<U9", "f")
    types = st.sampled_from(kinds)
    sides = st.one_of(st.integers(-2, 40), st.sampled_from((2**31, 2**62, 10**12)))
    shapes = st.lists(sides, max_size=4).map(tuple)

    def write(kind: str, order: Any, shape: Any) -> bytes:
        header = f"{{'descr': {kind!r}, 'fortran_order': {order!r}, 'shape': {shape!r}, }}\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body

    return st.builds(write, types, st.sampled_from((True, False, 2)), shapes)


def odd_png(data: bytes) -> st.SearchStrategy[bytes]:
    """A PNG with other chunks whose checksums are right."""
    chunks, start = [], 8
    while start < len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        chunks.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        start += 12 + length
    extra = [b"tRNS", b"PLTE", b"eXIf", b"IDAT", b"IHDR", b"acTL", b"zTXt", b"iCCP", b"gAMA"]
    seeds = st.integers(0, 2**32)

    def write(place: int, how: str, seed: int, kind: bytes) -> bytes:
        chance, copy = random.Random(seed), list(chunks)
        name, content = copy[place]
        if how == "damage":
            copy[place] = (name, damaged(content, chance))
        elif how == "insert":
            copy.insert(place, (kind, chance.randbytes(chance.choice((0, 1, 6, 300)))))
        elif how == "repeat":
            copy.insert(place, (name, content))
        else:
            del copy[place]
        return data[:8] + b"".join(png_chunk(*each) for each in copy)

    ways = st.sampled_from(("damage", "damage", "damage", "insert", "repeat", "remove"))
    return st.builds(write, st.integers(0, len(chunks) - 1), ways, seeds, st.sampled_from(extra))


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def odd_tar(data: bytes) -> st.SearchStrategy[bytes]:
    """A tar file with other fields in its first headers, whose checksums are right."""
    fields = {"name": (0, 100), "size": (124, 12), "type": (156, 1), "link": (157, 100)}
    fields |= {"magic": (257, 8), "prefix": (345, 155), "mode": (100, 8), "mtime": (136, 12)}
    texts = st.sampled_from(
        (b"", b"../x.h5", b"/x.h5", b"x\0y.h5", b"7" * 11, b"\x80" + b"\xff" * 11, b"-1", b"9")
    )
    types = st.sampled_from([bytes([kind]) for kind in b"0123456LKSxgDVNM\0"])
    contents = st.one_of(texts, types)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        headers = [member.offset for member in archive.getmembers()]

    def write(at: int, field: str, content: bytes) -> bytes:
        start, length = fields[field]
        copy = bytearray(data)
        copy[at + start : at + start + length] = content[:length].ljust(length, b"\0")
        copy[at + 148 : at + 156] = b" " * 8
        copy[at + 148 : at + 156] = b"%06o\0 " % sum(copy[at : at + 512])
        return bytes(copy)

    return st.builds(write, st.sampled_from(headers), st.sampled_from(sorted(fields)), contents)


def odd_hdf5(data: bytes) -> st.SearchStrategy[bytes]:
    """An HDF5 file with one array of another type, size or kind, or an attribute that is odd."""
    names: list[str] = []
    with h5py.File(io.BytesIO(data), "r") as file:
        file.visit(names.append)
        attributes = [*file.attrs, "format"]
    kinds = st.sampled_from(("u1", "i4", "u2", "f2", "f4", "f8", "c8", "S5", h5py.string_dtype()))
    sides = st.one_of(st.integers(0, 40), st.sampled_from((2**20, 2**31, 2**40)))
    shapes = st.lists(sides, max_size=4).map(tuple)
    simple = st.one_of(
        st.integers(-(2**63), 2**63 - 1), st.floats(), st.just("a"), st.just("[" * 9)
    )

    def write(name: str, how: str, kind: Any, shape: Any, value: Any) -> bytes:
        stream = io.BytesIO(data)
        with h5py.File(stream, "r+") as file:
            if how == "attribute":
                file.attrs[attributes[zlib.crc32(name.encode()) % len(attributes)]] = value
            elif how == "values" and isinstance(file[name], h5py.Dataset):
                _scramble(file[name], value)
            else:
                del file[name]
                _replace(file, name, how, kind, shape)
        return stream.getvalue()

    ways = ("array", "array", "chunks", "values", "attribute", "group", "soft", "external", "gone")
    return st.builds(write, st.sampled_from(names), st.sampled_from(ways), kinds, shapes, simple)


def _scramble(data: h5py.Dataset, value: Any) -> None:
    if data.dtype.kind in "uif":
        with np.errstate(all="ignore"):
            old = data[...]
            flat = old.reshape(-1)
            if flat.size:
                number = np.asarray(float(zlib.crc32(repr(value).encode()))).astype(old.dtype)
                flat[: max(1, flat.size // 3)] = number
            data[...] = old


def _replace(file: h5py.File, name: str, how: str, kind: Any, shape: Any) -> None:
    if how == "array":
        file.create_dataset(name, shape, kind, chunks=True if shape and min(shape) else None)
    elif how == "chunks":
        side = max(shape, default=1) or 1
        chunk = min(side, 2**31 // max(1, np.dtype("f4").itemsize) - 1)
        file.create_dataset(name, (1, chunk), "f4", chunks=(1, chunk), compression="gzip")
    elif how == "group":
        file.create_group(name)
    elif how == "soft":
        file[name] = h5py.SoftLink("/elsewhere")
    elif how == "external":
        file[name] = h5py.ExternalLink("/dev/zero", "/x")
