"""Bad data sets of every layout, and bad packed stores."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from tests.data.conftest import add_member
from tests.hostile.bench import (
    AGAIN,
    BINARY,
    DIGITS,
    INF,
    NAN,
    Bad,
    Bench,
    attribute,
    content,
    cut,
    exchanged,
    flip,
    hdf5,
    huge_png,
    npy,
    photo,
    replaced,
    small_picture,
    values,
)

# -- data sets -----------------------------------------------------------------------------------


def _own(change: Any, file: str = "cameras.csv") -> Callable[[Bench], Path]:
    return lambda b: b.damaged("own", change, file)


def _depth(array: np.ndarray, pickled: bool = False) -> Callable[[Bench], Path]:
    """The folder with one frame's depth as a .npy file."""

    def made(bench: Bench) -> Path:
        folder = bench.without("own", "depth/view 0.png")
        (folder / "depth" / "view 0.npy").write_bytes(npy(array, pickled))
        return folder

    return made


def _png(array: np.ndarray, **options: Any) -> Any:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png", **options)
    return content(stream.getvalue())


def _with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return small_picture("RGB", "jpeg", exif=exif)


def _spotted(value: float) -> np.ndarray:
    """Depth of two metres with some pixels of another value."""
    depth = np.full((12, 16), 2.0, np.float32)
    depth[3, :5] = value
    return depth


def _metres(value: float) -> np.ndarray:
    return np.full((12, 16), value, np.float32)


RGB, DEPTH = "rgb/view 0.png", "depth/view 0.png"
BIG_NPY = npy(np.zeros((2, 2), np.float32)).replace(b"(2, 2)", b"(9999999, 99999)")

OWN = (
    Bad("data set", "no such folder", lambda b: b.root / "none", r"none: does not exist"),
    Bad("data set", "an empty folder", lambda b: b.root, r"no layout.*cameras\.csv"),
    Bad("data set", "no images", lambda b: b.without("own", RGB),
        r"no file 'view 0'.*drop the row"),
    Bad("data set", "no depth", lambda b: b.without("own", DEPTH),
        r"no file 'view 0'.*drop the row"),
    Bad("data set", "table empty", _own(content("")), r"cameras\.csv.*lacks the columns"),
    Bad("data set", "table binary", _own(content(BINARY)), r"cameras\.csv.*UTF-8"),
    Bad("data set", "table with a NUL", _own(replaced("60.5", "6\0")), r"cameras\.csv"),
    Bad("data set", "no column fx", _own(replaced("fx", "fz")), r"cameras\.csv.*'fx'.*needs"),
    Bad("data set", "two columns fx", _own(replaced("fy", "fx")), r"cameras\.csv.*(fy|twice)"),
    Bad("data set", "focal NaN", _own(replaced("60.5", "nan")), r"cameras\.csv, line 2.*nan"),
    Bad("data set", "focal inf", _own(replaced("60.5", "inf")), r"cameras\.csv, line 2.*inf"),
    Bad("data set", "focal 0", _own(replaced("60.5", "0")), r"cameras\.csv, line 2.*0"),
    Bad("data set", "focal a word", _own(replaced("60.5", "x")), r"line 2: fx is 'x'.*correct it"),
    Bad("data set", "focal missing", _own(replaced("60.5", "")), r"line 2: fx is ''.*correct it"),
    Bad("data set", "5,000 digits", _own(replaced("60.5", DIGITS)), r"cameras\.csv, line 2"),
    Bad("data set", "normalised focal", _own(replaced("60.5", "0.8")),
        r"cameras\.csv.*view 0.*normalised"),
    Bad("data set", "6_0 for 60", _own(replaced("60.5", "6_0.5")), r"cameras\.csv, line 2.*6_0"),
    Bad("data set", "a cell too many", _own(replaced("60.5", "60.5,1")), r"cameras\.csv, line 2"),
    Bad("data set", "a frame twice", _own(replaced("view 1", "view 0")), r"'view 0' occurs twice"),
    Bad("data set", "a frame without files", _own(replaced("view 1", "../x")), r"no file '\.\./x'"),
    Bad("data set", "a split for some", _own(replaced("train", "")), r"only some.*fill"),
    Bad("data set", "unpaired file",
        lambda b: (b.copy("own"), b.written("own.png/rgb/more.png", b""))[0], r"more\.png.*no row"),
    Bad("data set", "two files of one name",
        lambda b: (b.copy("own"), b.written("own.png/rgb/view 0.jpg", b""))[0], r"twice"),
    Bad("data set", "65535", _own(_png(np.full((12, 16), 65535, np.uint16)), DEPTH), r"write 0"),
    Bad("data set", "65535 here and there",
        _own(_png(np.where(_spotted(1) == 1, 65535, 2000).astype(np.uint16)), DEPTH),
        r"view 0\.png.*65535.*write 0"),
    Bad("data set", "32767 here and there",
        _own(_png(np.where(_spotted(1) == 1, 32767, 2000).astype(np.uint16)), DEPTH),
        r"view 0\.png.*32767.*write 0"),
    Bad("data set", "half float's largest here and there", _depth(_spotted(65504)), r"write 0"),
    Bad("data set", "a tenth of a millimetre here and there", _depth(_spotted(1e-4)), r"write 0"),
    Bad("data set", "1e-7 m here and there", _depth(_spotted(1e-7)), r"write 0"),
    Bad("data set", "NaN", _depth(_spotted(NAN)), r"view 0\.npy.*NaN.*write 0"),
    Bad("data set", "infinite", _depth(_spotted(INF)), r"view 0\.npy.*infinite.*write 0"),
    Bad("data set", "negative", _depth(_spotted(-1)), r"view 0\.npy.*negative.*write 0"),
    Bad("data set", "all 0", _depth(_metres(0)), r"view 0\.npy.*no valid pixel.*drop"),
    Bad("data set", "millimetres in floats", _depth(_metres(2000)), r"view 0\.npy.*millimetres"),
    Bad("data set", "kilometres", _depth(_metres(0.002)), r"view 0\.npy.*metres"),
    Bad("data set", "whole numbers in .npy", _depth(_metres(2).astype(np.int32)),
        r"int32.*floating-point metres.*convert"),
    Bad("data set", "objects in .npy", _depth(np.full((2, 2), None), True), r"view 0\.npy.*save"),
    Bad("data set", "transposed", _depth(_metres(2).T), r"12x16.*16x12|same size"),
    Bad("data set", "half as large", _depth(np.full((6, 8), 2.0)), r"12x16.*6x8.*same size"),
    Bad("data set", "8-bit depth", _own(_png(np.full((12, 16), 9, np.uint8)), DEPTH), r"16 bits"),
    Bad("data set", "depth cut", _own(cut(0.7), DEPTH), rf"view 0\.png.*{AGAIN}"),
    Bad("data set", "depth with a flipped bit", _own(flip(0.6), DEPTH), rf"view 0\.png.*{AGAIN}"),
    Bad("data set", "depth a pipe", lambda b: b.piped("own", DEPTH), r"view 0\.png.*pipe"),
    Bad("data set", "image with a flipped bit", _own(flip(0.6), RGB), rf"view 0\.png.*{AGAIN}"),
    Bad("data set", "grey image", _own(_png(np.zeros((12, 16), np.uint8)), RGB), r"'L'.*RGB"),
    Bad("data set", "RGBA", _own(content(small_picture("RGBA")), RGB), r"'RGBA'.*RGB"),
    Bad("data set", "palette", _own(content(small_picture("P")), RGB), r"'P'.*RGB"),
    Bad("data set", "one transparent colour",
        _own(content(small_picture("RGB", transparency=(0, 0, 0))), RGB), r"transparent.*RGB"),
    Bad("rgb file", "an EXIF rotation", lambda b: b.written("e.jpg", _with_exif()),
        r"EXIF.*upright"),
    Bad("rgb file", "3,600 million pixels", lambda b: b.written("b.png", huge_png()), r"smaller"),
    Bad("rgb file", "a GIF", lambda b: b.copy("pictures") / "photo.gif", r"photo\.gif"),
    Bad("rgb file", "a pipe", lambda b: b.pipe("p.png"), r"p\.png.*pipe"),
    Bad("depth file", "an RGB image", lambda b: b.copy("pictures") / "photo.png", r"16 bits"),
    Bad("depth file", "3,600 million pixels", lambda b: b.written("b.png", huge_png()),
        r"smaller"),
    Bad("depth file", "10^12 numbers by its header", lambda b: b.written("d.npy", BIG_NPY),
        r"d\.npy"),
    Bad("depth file", ".npy cut", photo("depth.npy", cut(0.6)), r"depth\.npy.*save it again"),
    Bad("depth file", ".npy empty", photo("depth.npy", content("")), r"depth\.npy.*save it again"),
    Bad("depth file", ".npz", lambda b: b.written("d.npy", b"PK\3\4" + bytes(60)), r"d\.npy"),
    Bad("depth file", "complex", lambda b: b.written("d.npy", npy(np.ones((3, 3), complex))),
        r"d\.npy.*float"),
    Bad("depth file", "a pipe", lambda b: b.pipe("p.npy"), r"p\.npy.*pipe"),
)  # fmt: skip


def _mat(change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("labelled", change)


def _fast(change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("fastdepth", change, "val/*/*.h5")


def _shard(change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("shards", change, "data/val-*.tar")


def _tar(name: str, size: bytes | None = None, **fields: Any) -> Any:
    """A shard with one more member; `size` as its header says."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(member, field, value)
        archive.addfile(member)
        add_member(archive, "train/kitchen/00001.h5", b"no HDF5")
    data = bytearray(stream.getvalue())
    if size is not None:
        data[124:136] = size
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
    return content(bytes(data))


def _links(how: Callable[[h5py.File, str], object]) -> Any:
    """An HDF5 file whose depth points elsewhere."""

    def edit(file: h5py.File) -> None:
        del file["depth"]
        how(file, "depth")

    return hdf5(edit)


def _soft(file: h5py.File, name: str) -> None:
    file[name] = h5py.SoftLink("/rgb")


def _external(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("/etc/hostname", "/x")


def _outside(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (12, 16), "f4", external=[("/etc/passwd", 0, 768)])


LAYOUTS = (
    Bad("list", "a path that leaves", lambda b: b.written("l.txt", "/../a /../b 518.8"), r"leaves"),
    Bad("list", "a missing file", lambda b: b.written("l.txt", "/a/b.jpg /a/c.png 518.8"),
        r"missing"),
    Bad("list", "one word", lambda b: b.written("l.txt", "/a/b.jpg"), r"l\.txt, line 1.*expected"),
    Bad("list", "5,000 digits", lambda b: b.written("l.txt", f"/a /b {DIGITS}"), r"l\.txt, line 1"),
    Bad("list", "binary", lambda b: b.written("l.txt", BINARY), r"l\.txt.*UTF-8|l\.txt.*again"),
    Bad("list", "a NUL", lambda b: b.written("l.txt", "/a\0 /b 518.8"), r"l\.txt, line 1"),
    Bad("list", "empty", lambda b: b.written("l.txt", ""), r"no frames"),
    Bad("list", "a pipe", lambda b: b.pipe("l.txt"), r"l\.txt.*pipe"),
    Bad("data set", "a depth missing",
        lambda b: b.without("bts", "official_splits/test/*/sync_depth_00001.png"), r"rgb_00001"),
    Bad("data set", "an rgb missing",
        lambda b: b.without("bts", "official_splits/test/*/rgb_00001.jpg"), r"sync_depth_00001"),
    Bad("data set", ".mat cut", _mat(cut(0.5)), r"labeled\.mat.*(again|format)"),
    Bad("data set", ".mat text", _mat(content("MATLAB")), r"labeled\.mat.*(again|format)"),
    Bad("data set", ".mat of MATLAB 5",
        _mat(content(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM")),
        r"labeled\.mat"),
    Bad("data set", ".mat without its depths", _mat(hdf5(lambda f: f.pop("depths"))), r"'depths'"),
    Bad("data set", ".mat of floats", _mat(exchanged("images", np.zeros((6, 3, 16, 12)))),
        r"uint8 array 'images'"),
    Bad("data set", ".mat of other sizes", _mat(exchanged("depths", np.zeros((6, 9, 9),
        np.float32))),
        r"sizes do not match"),
    Bad("data set", ".mat of six frames without a list", lambda b: b.copy("labelled"),
        r"split-file"),
    Bad("data set", ".mat a pipe", lambda b: b.pipe("x.mat"), r"x\.mat"),
    Bad("data set", ".h5 cut", _fast(cut(0.5)), r"\.h5.*again"),
    Bad("data set", ".h5 empty", _fast(content("")), r"\.h5.*again"),
    Bad("data set", ".h5 without rgb", _fast(hdf5(lambda f: f.pop("rgb"))), r"\.h5.*'rgb'.*again"),
    Bad("data set", ".h5 with whole metres", _fast(exchanged("depth", np.ones((12, 16), int))),
        r"\.h5.*floating-point"),
    Bad("data set", ".h5 with HWC", _fast(exchanged("rgb", np.zeros((12, 16, 3), np.uint8))),
        r"\.h5.*\[3, H, W\]"),
    Bad("data set", ".h5 with a group as depth", _fast(_links(lambda f, n: f.create_group(n))),
        r"\.h5.*'depth' is not an array"),
    Bad("data set", ".h5 with a soft link", _fast(_links(_soft)), r"points elsewhere"),
    Bad("data set", ".h5 with an external link", _fast(_links(_external)), r"points elsewhere"),
    Bad("data set", ".h5 that shows another file", _fast(_links(_outside)), r"points elsewhere"),
    Bad("data set", ".h5 of 40,000 pixels a side",
        _fast(exchanged("depth", shape=(40_000, 40_000), dtype="f4", chunks=(1000, 1000))),
        r"\.h5.*larger than any frame"),
    Bad("data set", ".h5 with a chunk of 2.4 GB",
        _fast(exchanged("depth", shape=(12, 16), maxshape=(None, None), dtype="f4",
                        chunks=(24_000, 25_000), compression="gzip")),
        r"\.h5.*(chunk|larger)"),
    Bad("data set", ".h5 of another shape", _fast(exchanged("depth", np.ones((12, 12)))), r"12x12"),
    Bad("data set", ".h5 with 65504 m",
        _fast(values("depth", lambda depth: np.where(depth > 5, 65504, depth))), r"write 0"),
    Bad("data set", "tar cut", _shard(cut(0.4)), r"\.tar.*again"),
    Bad("data set", "tar compressed", _shard(zlib.compress), r"\.tar.*tar file.*again"),
    Bad("data set", "tar that climbs", _shard(_tar("../x.h5")), r"\.\./x\.h5.*do not trust"),
    Bad("data set", "tar from the root", _shard(_tar("/x.h5")), r"/x\.h5.*do not trust"),
    Bad("data set", "tar with a link", _shard(_tar("x.h5", type=tarfile.SYMTYPE, linkname="/etc")),
        r"x\.h5.*do not trust"),
    Bad("data set", "tar with a device", _shard(_tar("x.h5", type=tarfile.CHRTYPE)),
        r"do not trust"),
    Bad("data set", "tar with a size of 2^80", _shard(_tar("a/x.h5", b"\x80" + b"\xff" * 11)),
        r"\.tar"),
    Bad("data set", "tar with a size below 0", _shard(_tar("a/x.h5", b"\xff" * 12)), r"\.tar"),
    Bad("data set", "tar with a size that is text", _shard(_tar("a/x.h5", b"many bytes..")),
        r"\.tar"),
    Bad("data set", "tar beyond its end", _shard(_tar("a/x.h5", b"00077777777\0")), r"\.tar"),
    Bad("data set", "tar with a pax size", _shard(_tar("a/x.h5", pax_headers={"size": "-9"})),
        r"\.tar"),
    Bad("data set", "tar without frames", _shard(_tar("a/readme.txt")), r"\.tar|no frames"),
    Bad("pack", "a training frame missing", lambda b: b.without("own", RGB), r"no file 'view 0'"),
    Bad("pack", "a bad frame", _own(cut(0.7), RGB), rf"view 0\.png.*{AGAIN}"),
    Bad("pack", "65535 in one frame",
        _own(_png(np.where(_spotted(1) == 1, 65535, 2000).astype(np.uint16)), DEPTH), r"write 0"),
)  # fmt: skip


def _store(change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("store", change)


def _cell(row: int, column: int, value: float) -> Any:
    """The store with another number of a camera."""

    def edit(file: h5py.File) -> None:
        file["camera"][row, column] = value

    return hdf5(edit)


def _text(name: str, value: str | bytes) -> Any:
    def edit(file: h5py.File) -> None:
        file[name][0] = value

    return hdf5(edit)


STORES = (
    Bad("store", "no such file", lambda b: b.root / "none.h5", r"none\.h5.*check the path"),
    Bad("store", "a folder", lambda b: b.root, r"folder"),
    Bad("store", "a pipe", lambda b: b.pipe("s.h5"), r"s\.h5.*pipe"),
    Bad("store", "text", _store(content("a store")), r"store\.h5.*again"),
    Bad("store", "cut", _store(cut(0.5)), r"store\.h5.*again"),
    Bad("store", "another HDF5 file", lambda b: b.copy("fastdepth") / "val/official/00002.h5",
        r"00002\.h5.*data pack"),
    Bad("store", "version 1", _store(attribute("version", 1)), r"version 1.*pack it again"),
    Bad("store", "version a word", _store(attribute("version", "new")),
        r"version unknown.*pack it again"),
    Bad("store", "no provenance", _store(attribute("provenance", None)), r"store\.h5.*again"),
    Bad("store", "provenance text", _store(attribute("provenance", "{")), r"store\.h5.*again"),
    Bad("store", "provenance a list", _store(attribute("provenance", "[]")), r"store\.h5.*again"),
    Bad("store", "provenance a number", _store(attribute("provenance", 3)), r"store\.h5.*again"),
    Bad("store", "no cameras", _store(hdf5(lambda f: f.pop("camera"))), r"'camera'.*again"),
    Bad("store", "fewer cameras", _store(exchanged("camera", np.ones((3, 7)))),
        r"store\.h5.*again"),
    Bad("store", "cameras of floats32", _store(exchanged("camera", np.ones((6, 7), np.float32))),
        r"store\.h5.*again"),
    Bad("store", "images of floats", _store(exchanged("image", np.zeros((6, 12, 16, 3)))),
        r"store\.h5.*again"),
    Bad("store", "images of another shape", _store(exchanged("image", np.zeros((6, 9, 9, 3),
        "u1"))),
        r"store\.h5.*again"),
    Bad("store", "depth of bytes", _store(exchanged("depth/raw", np.ones((6, 12, 16), "i1"))),
        r"store\.h5.*again"),
    Bad("store", "depth without its group", _store(exchanged("depth", np.ones(6))), r"again"),
    Bad("store", "a soft link", _store(_links(lambda f, n: f.update({n: h5py.SoftLink("/image")}))),
        r"points elsewhere|again"),
    Bad("store", "a camera NaN", _store(_cell(0, 0, NAN)), r"store\.h5.*again"),
    Bad("store", "a camera of another size", _store(_cell(1, 5, 99)), r"store\.h5.*again"),
    Bad("store", "a camera moved", _store(_cell(1, 2, 30)), r"store\.h5.*again"),
    Bad("store", "a box outside", _store(values("valid_box", lambda box: box * 0 + 99)),
        r"store\.h5.*again"),
    Bad("store", "an id twice", _store(_text("id", "view 1")), r"store\.h5.*again"),
    Bad("store", "an id that is no text", _store(_text("id", b"\xff\xfe")), r"store\.h5.*again"),
    Bad("store", "another split", _store(_text("split", "test")), r"store\.h5.*again"),
    Bad("store", "a changed pixel", _store(values("image", lambda x: x ^ (np.arange(3) == 1))),
        r"store\.h5.*again"),
    Bad("store", "a changed depth", _store(values("depth/raw", lambda x: x + 1)),
        r"store\.h5.*again"),
    Bad("store", "a changed checksum", _store(values("checksum", lambda x: x ^ 1)),
        r"store\.h5.*again"),
    Bad("info", "cut", _store(cut(0.9)), r"store\.h5.*again"),
)  # fmt: skip


DATA = (*OWN, *LAYOUTS, *STORES)
