"""Tables, lists, archives and names that parsers choke on: one error each, never a traceback."""

from __future__ import annotations

import csv
import io
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from PIL import Image

from spdlib.data.sources import (
    BTSFolder,
    FastDepthFolder,
    LabelledMat,
    PlainFolder,
    TarShards,
    open_source,
)
from spdlib.errors import DataError

if TYPE_CHECKING:
    from conftest import Layouts

HEADER = "frame,fx,fy,cx,cy,split"


def one_line(caught: pytest.ExceptionInfo[DataError], name: object) -> None:
    """The message names its file and is short."""
    message = str(caught.value)
    assert str(name) in message and "\n" not in message and len(message) < 1000


# -------------------- cameras.csv


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("view 0,nan,61,31,23.5,train", "line 2: fx is 'nan', not a positive number of pixels"),
        ("view 0,60,inf,31,23.5,train", "line 2: fy is 'inf', not a positive number"),
        ("view 0,60,61,-inf,23.5,train", "line 2: cx is '-inf', not a finite number"),
        ("view 0,60,61,31," + "9" * 5000 + ",train", "line 2: cy is '99999.*', not a finite"),
        ("view 0,6\0,61,31,23.5,train", r"line 2: fx is '6\\x00', not a positive"),
        ("view 0,,61,31,23.5,train", "line 2: fx is '', not a positive number"),
        ("view 0,60,61,31,23.5,train,more", "line 2: has 7 columns, not 6; correct it"),
        ("view 0,60,61,31", "line 2: has 4 columns, not 6; correct it"),
        ("view 0,60,61,31,23.5,tr\0ain", r"line 2: 'tr\\x00ain' cannot name a frame or a split"),
        ("view 3.7,60,61,31,23.5,train", "line 2: rgb has no file 'view 3.7'; add it or drop"),
        ('"view 0' + "x" * 200_000 + '",60,61,31,23.5,train', "field larger than field limit"),
    ],
)
def test_rows_of_cameras(layouts: Layouts, row: str, message: str) -> None:
    root = layouts.plain(count=1)
    (root / "cameras.csv").write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(DataError, match=rf"cameras.csv(, |: ).*{message}") as caught:
        open_source(root)
    one_line(caught, root / "cameras.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "lacks the columns"),
        (b"\n\n", "lacks the columns"),
        (b"frame,fx,fy,cx,cy,fx\nview 0,1,1,1,1,1", "names a column twice; drop one of them"),
        (b"frame,fx,fy,cx,cy\nview \xff,1,1,1,1", "is no text file .*; write it as CSV in UTF-8"),
        (b"\xff\xfe" + "frame,fx".encode("utf-16-le"), "is no text file"),
        (bytes(1000), "lacks the columns"),
    ],
)
def test_tables_that_are_none(layouts: Layouts, text: bytes, message: str) -> None:
    root = layouts.plain(count=1)
    (root / "cameras.csv").write_bytes(text)
    with pytest.raises(DataError, match=f"cameras.csv: {message}") as caught:
        PlainFolder(root)
    one_line(caught, root / "cameras.csv")


def test_empty_lines_are_passed_over(layouts: Layouts) -> None:
    root = layouts.plain(count=2)
    rows = (root / "cameras.csv").read_text().splitlines()
    (root / "cameras.csv").write_text("\ufeff" + "\r\n\r\n".join(rows) + "\r\n\r\n", "utf-8")
    assert PlainFolder(root).ids == ["view 0", "view 1"]


@pytest.mark.parametrize("name", [b"a\nb", b"a\x01", b"a\xff"])
def test_files_whose_name_no_store_holds(layouts: Layouts, name: bytes) -> None:
    """As ids of frames they are refused when listed, not after hours of packing."""
    root = layouts.fastdepth() / "train" / "kitchen_0028b"
    (root / "00001.h5").rename(root / os.fsdecode(name + b".h5"))
    with pytest.raises(
        DataError, match=r"split 'train'\): 'kitchen.* cannot name a frame"
    ) as caught:
        FastDepthFolder(layouts.root / "nyudepthv2", "train")
    one_line(caught, layouts.root)
    str(caught.value).encode()  # can be printed


def test_quoted_names_with_line_breaks(layouts: Layouts) -> None:
    root = layouts.plain(count=1)
    for folder in ("rgb", "depth"):
        (root / folder / "view 0.png").rename(root / folder / "a\nb.png")
    with (root / "cameras.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER.split(","), ["a\nb", 60, 61, 31, 23, "train"]])
    with pytest.raises(DataError, match=r"'a\\nb' cannot name a frame"):
        PlainFolder(root)


# -------------------- lists


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a/rgb_0.jpg a/sync_depth_0.png nan", "focal length nan is not NYU's"),
        ("a/rgb_0.jpg a/sync_depth_0.png inf", "focal length inf is not NYU's"),
        ("a/rgb_0.jpg a/sync_depth_0.png " + "9" * 5000, "focal length inf is not NYU's"),
        ("a/rgb_0.jpg a/sync_depth_0.png 0x", "the focal length is not a number"),
        (f"{'a' * 5000} b 518.8", "names no file .*; fix the list"),
        ("a\0/rgb_0.jpg a/sync_depth_0.png 518.8", "is missing; copy it or remove the line"),
        ("x" * 100_000, "expected 'rgb depth focal', got 'xxx"),
    ],
)
def test_lines_of_bts_lists(layouts: Layouts, line: str, message: str) -> None:
    root = layouts.sync()
    (root / "list.txt").write_text(line)
    with pytest.raises(DataError, match=f"list.txt, line 1: .*{message}") as caught:
        BTSFolder(root, "sync", list_file=root / "list.txt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rgb_3.7", "expected a name rgb_NNNNN, got 'rgb_3.7'; fix the list"),
        ("rgb_-3.jpg", "expected a name rgb_NNNNN"),
        ("rgb_" + "9" * 5000, "expected a name rgb_NNNNN, got 'rgb_999"),
        ("rgb_999999999.jpg", "names frame 999999999, the data have 6"),
        ("rgb_1.jpg\nrgb_00001.jpg", "'00001' occurs twice"),
    ],
)
def test_lines_of_lists_of_test_frames(layouts: Layouts, line: str, message: str) -> None:
    (layouts.root / "list.txt").write_text(line)
    with pytest.raises(DataError, match=f"list.txt.*{message}") as caught:
        LabelledMat(layouts.mat(), "train", layouts.root / "list.txt")
    one_line(caught, layouts.root / "list.txt")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: p.symlink_to("/dev/zero")])
def test_only_files_are_lists(layouts: Layouts, make: object) -> None:
    path, mat = layouts.root / "list.txt", layouts.mat()
    make(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"list.txt: is a .*, not a file; check the path"):
        LabelledMat(mat, "train", path)
    path.rmdir() if path.is_dir() else path.unlink()
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match=r"list.txt: is no text file .*; write it as text in UTF-8"):
        LabelledMat(mat, "train", path)


# -------------------- MATLAB


def test_older_and_damaged_mat_files(tmp_path: Path) -> None:
    path = tmp_path / "nyu.mat"
    for content in (
        b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x01IM" + bytes(400),
        b"",
        bytes(2000),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"nyu.mat: not a readable HDF5 file .*: download or"):
            open_source(path)


@pytest.mark.parametrize("shape", [(6,), (6, 4), (6, 3, 4, 3, 1)])
def test_mat_arrays_of_other_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "nyu.mat"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(shape, np.uint8)
        file["depths"] = file["rawDepths"] = np.ones(shape, np.float32)
    with pytest.raises(DataError, match=r"nyu.mat: sizes do not match .*; expected images \(N"):
        LabelledMat(path, "train")


@pytest.mark.parametrize(("value", "shown"), [(65.535, "65.535"), (1e-7, "1e-07")])
def test_mat_depth_that_no_camera_measures(layouts: Layouts, value: float, shown: str) -> None:
    path = layouts.mat()
    with h5py.File(path, "a") as file:
        file["rawDepths"][1, 20, 20:23] = value
    frames = LabelledMat(path, "test", layouts.root / "nyudepthv2_test_files_with_gt.txt")
    with pytest.raises(DataError, match=rf"frame 00001\) \(raw depth\): 3 pixels hold {shown} m"):
        frames[0]


@pytest.mark.parametrize("value", [65.535, 65504.0, 5e-324, 1e-7])
def test_h5_depth_that_no_camera_measures(layouts: Layouts, value: float) -> None:
    path = layouts.fastdepth() / "train/kitchen_0028b/00001.h5"
    with h5py.File(path, "a") as file:
        depth = file["depth"][:].astype(np.float64)
        depth[20, 20:25] = value
        del file["depth"]
        file["depth"] = depth
    with pytest.raises(DataError, match=r"00001.h5.*(5 pixels hold|too small).*write 0 where"):
        FastDepthFolder(layouts.root / "nyudepthv2", "train")[0]


# -------------------- tar


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member's block whose size is written as base-256 numbers are."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\x80" if size >= 0 else b"\xff") + (size % 256**11).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [-512, -1024, 10**12, 1025, 2**62])
@pytest.mark.parametrize("pax", [False, True])
def test_sizes_of_tar_members(tmp_path: Path, size: int, pax: bool) -> None:
    path = tmp_path / "train-000000.tar"
    good = header("train/scene/00000.h5", 512) + bytes(512)
    content = header("train/scene/00001.h5", size)
    if pax:
        record = f" size={size}\n"
        record = f"{len(record) + 2}{record}"
        block = record.encode().ljust(512, b"\0")
        content = header("x", len(record), tarfile.XHDTYPE) + block + header("train/s/00001.h5", 0)
    path.write_bytes(good + content + bytes(1024))
    with pytest.raises(DataError, match=r"train-000000.tar: member .* has .* bytes by its header"):
        TarShards(tmp_path, "train")


def test_a_member_larger_than_any_frame(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    path.write_bytes(header("train/scene/00001.h5", 1 << 29))
    with path.open("r+b") as stream:
        stream.truncate(1 << 30)  # takes no room on the disk
    with pytest.raises(DataError, match=r"has 536,870,912 bytes by its header, more than the file"):
        TarShards(tmp_path, "train")


def test_a_damaged_header_is_not_the_end(layouts: Layouts) -> None:
    root = layouts.shards()
    path = root / "data" / "val-000000.tar"
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[1].offset
    content = bytearray(path.read_bytes())
    content[offset + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"val-000000.tar: damaged or truncated at byte {offset:,}; do"
    ):
        TarShards(root, "test")


@pytest.mark.parametrize("member", ["train/a\nb/1.h5", "train/a/\udcff.h5"])
def test_names_of_tar_members(tmp_path: Path, member: str) -> None:
    with tarfile.open(tmp_path / "train-000000.tar", "w") as archive:
        info = tarfile.TarInfo(member)
        archive.addfile(info, io.BytesIO())
    with pytest.raises(DataError, match="cannot name a frame"):
        TarShards(tmp_path, "train")


# -------------------- places


@pytest.mark.parametrize("place", ["rgb/view 0.png", "depth/view 0.png", "cameras.csv"])
def test_pipes_among_a_users_files(layouts: Layouts, place: str) -> None:
    root = layouts.plain()
    (root / place).unlink()
    os.mkfifo(root / place)
    with pytest.raises(DataError, match=r"is a pipe or a device|no layout that SPD knows"):
        open_source(root)["train"][0]


@pytest.mark.parametrize("name", ["train/kitchen_0028b/00001.h5", "train-000000.tar"])
def test_pipes_among_h5_files(layouts: Layouts, name: str) -> None:
    root = layouts.fastdepth()
    path = root / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(DataError, match=rf"{path.name}: is a pipe or a device, not a file"):
        (FastDepthFolder if path.suffix == ".h5" else TarShards)(root, "train")[0]


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b", "\udcff", "/dev/zero"])
def test_paths_of_no_data_set(path: str) -> None:
    with pytest.raises(DataError, match=r"is no path of a data set|does not exist|no layout that"):
        open_source(path)


def test_images_of_no_pixels(layouts: Layouts) -> None:
    root = layouts.plain(count=1)
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(root / "depth" / "view 0.png")
    with pytest.raises(DataError, match=r"no valid pixel \(all depth is 0\); drop the frame"):
        PlainFolder(root)[0]
