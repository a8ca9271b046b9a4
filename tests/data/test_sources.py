"""Readers: every layout, round trips, and what each refuses."""

from __future__ import annotations

import csv
import io
import os
import pickle
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spdlib.data.files import check_depth, scaled_box
from spdlib.data.frames import NYU_VALID_BOX, Frame
from spdlib.data.sources import (
    BTSFolder,
    FastDepthFolder,
    LabelledMat,
    PlainFolder,
    TarShards,
    open_source,
)
from spdlib.data.store import PackedFrames, pack
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import NYU_CAMERA

if TYPE_CHECKING:
    from conftest import Layouts

TRAIN, TEST = (0, 2, 3), (1, 4, 5)


def metres(millimetres: np.ndarray) -> np.ndarray:
    return millimetres.astype(np.float32) / np.float32(1000)


def close_images(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to what a JPEG of quality 95 changes in a smooth image."""
    return float(np.abs(a.astype(int) - b.astype(int)).mean()) < 4.0


# -------------------- BTS folders


def test_bts_reads_official_splits(layouts: Layouts) -> None:
    for split, indices in (("train", TRAIN), ("test", TEST)):
        frames = BTSFolder(layouts.bts(), split)
        assert frames.ids == [f"{i:05d}" for i in indices]
        for position, index in enumerate(indices):
            frame = frames[position]
            assert set(frame.depths) == {"raw"}
            np.testing.assert_array_equal(frame.depths["raw"], metres(layouts.raw[index]))
            assert close_images(frame.image, layouts.images[index])
            assert frame.camera == NYU_CAMERA.resized(48, 64)
            assert frame.valid_box == (1, 1, 46, 62)


def test_bts_truth_can_be_declared_inpainted(layouts: Layouts) -> None:
    assert set(BTSFolder(layouts.bts(), "train", truth="inpainted")[0].depths) == {"inpainted"}
    with pytest.raises(ConfigError, match="truth is 'dense'"):
        BTSFolder(layouts.bts(), "train", truth="dense")


def test_bts_reads_the_split_folder_itself(layouts: Layouts) -> None:
    assert len(BTSFolder(layouts.bts() / "official_splits", "test")) == 3


def test_bts_sync_ids_name_the_scene(layouts: Layouts) -> None:
    frames = BTSFolder(layouts.sync(), "sync")
    assert frames.ids[:2] == ["kitchen_0028b/00000", "kitchen_0028b/00001"]
    assert len(frames) == 6


def test_bts_list_selects_and_orders(layouts: Layouts) -> None:
    root = layouts.sync()
    frames = BTSFolder(root, "sync", list_file=root / "nyudepthv2_train_files_with_gt.txt")
    assert frames.ids == ["office_0001a/00001", "kitchen_0028b/00001"]
    np.testing.assert_array_equal(frames[0].truth("raw"), BTSFolder(root, "sync")[4].truth("raw"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/../secret/rgb_0.jpg /../secret/sync_depth_0.png 518.8579", "leaves the data folder"),
        ("/none/rgb_0.jpg /none/sync_depth_0.png 518.8579", "is missing"),
        ("/kitchen_0028b/rgb_00000.jpg", "expected 'rgb depth focal'"),
        ("a/rgb_0.jpg a/sync_depth_0.png 721.5", "focal length 721.5 is not NYU's"),
        ("a/rgb_0.jpg a/sync_depth_0.png none", "not a number"),
    ],
)
def test_bts_list_refuses(layouts: Layouts, line: str, message: str) -> None:
    root = layouts.sync()
    (root / "list.txt").write_text(line)
    with pytest.raises(DataError, match=f"list.txt, line 1: .*{message}"):
        BTSFolder(root, "sync", list_file=root / "list.txt")


# -------------------- the labelled file


TEST_LIST = "nyudepthv2_test_files_with_gt.txt"


def test_mat_with_a_list_of_test_frames(layouts: Layouts) -> None:
    splits = open_source(layouts.mat(), split_file=layouts.root / TEST_LIST)
    assert {name: frames.ids for name, frames in splits.items()} == {
        "train": [f"{i:05d}" for i in TRAIN],
        "test": [f"{i:05d}" for i in TEST],
    }
    frame = splits["test"][1]
    np.testing.assert_array_equal(frame.image, layouts.images[4])
    np.testing.assert_array_equal(frame.depths["inpainted"], metres(layouts.inpainted[4]))
    np.testing.assert_array_equal(frame.depths["raw"], metres(layouts.raw[4]))


def test_mat_has_the_official_split(tmp_path: Path) -> None:
    """NYU's splits.mat counts from 1: its test frames begin 1, 2, 9, 14 and end with 1449."""
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    with h5py.File(path, "w") as file:
        for name, shape, dtype in (
            ("images", (1449, 3, 4, 3), np.uint8),
            ("depths", (1449, 4, 3), np.float32),
            ("rawDepths", (1449, 4, 3), np.float32),
        ):
            file.create_dataset(name, shape, dtype)
    splits = open_source(path)
    train, test = splits["train"].ids, splits["test"].ids
    assert (len(train), len(test)) == (795, 654)
    assert test[:4] == ["00000", "00001", "00008", "00013"] and test[-1] == "01448"
    assert sorted(train + test) == [f"{i:05d}" for i in range(1449)]
    assert train == sorted(train) and test == sorted(test)


def test_mat_of_another_length_needs_a_list(layouts: Layouts) -> None:
    with pytest.raises(DataError, match="has 6 frames, the official split is of 1449; give --spl"):
        open_source(layouts.mat())
    with pytest.raises(ConfigError, match="split is 'val'"):
        LabelledMat(layouts.root / "nyu_depth_v2_labeled.mat", "val")


def test_mat_agrees_with_bts(layouts: Layouts) -> None:
    mat = LabelledMat(layouts.mat(), "train", layouts.root / TEST_LIST)
    bts = BTSFolder(layouts.bts(), "train")
    assert mat.ids == bts.ids
    np.testing.assert_array_equal(mat[2].depths["raw"], bts[2].depths["raw"])


def test_mat_survives_pickling(layouts: Layouts) -> None:
    frames = LabelledMat(layouts.mat(), "test", layouts.root / TEST_LIST)
    first = frames[0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(frames))[0].image, first.image)


def test_mat_refuses_other_files(layouts: Layouts) -> None:
    other = layouts.root / "other.mat"
    with h5py.File(other, "w") as file:
        file["images"] = np.zeros((2, 3, 4, 3), np.uint8)
    with pytest.raises(DataError, match=r"other.mat: has no readable array 'depths'"):
        LabelledMat(other, "train")
    with h5py.File(other, "a") as file:
        file["depths"] = np.ones((2, 3, 4), np.float64)
    with pytest.raises(DataError, match=r"other.mat: has no float32 array 'depths'"):
        LabelledMat(other, "train")
    with h5py.File(other, "a") as file:
        del file["depths"]
        file["depths"] = file["rawDepths"] = np.ones((2, 3, 4), np.float32)
    with pytest.raises(DataError, match="sizes do not match"):
        LabelledMat(other, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kitchen/rgb_00009.jpg", "line 1: names frame 9, the data have 6"),
        (
            "a/rgb_00001.jpg\nb/rgb_00001.jpg",
            r"'00001' occurs twice, in .*, line 1 and in",
        ),
        ("00001", "expected a name rgb_NNNNN"),
        ("\n".join(f"rgb_{i:05d}.jpg" for i in range(6)), "no frames found"),
    ],
)
def test_mat_refuses_bad_test_lists(layouts: Layouts, text: str, message: str) -> None:
    (layouts.root / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(layouts.mat(), split_file=layouts.root / "list.txt")


def test_mat_refuses_a_list_that_is_not_there(layouts: Layouts) -> None:
    with pytest.raises(DataError, match=r"absent.txt: no such file"):
        LabelledMat(layouts.mat(), "train", layouts.root / "absent.txt")


# -------------------- FastDepth files and shards


@pytest.mark.parametrize("layout", ["fastdepth", "shards"])
def test_h5_frames(layouts: Layouts, layout: str) -> None:
    splits = open_source(getattr(layouts, layout)())
    assert {name: len(frames) for name, frames in splits.items()} == {"train": 3, "test": 3}
    assert splits["test"].ids == ["official/00002", "official/00005", "official/00006"]
    assert sorted(splits["train"].ids) == [f"kitchen_0028b/{i + 1:05d}" for i in TRAIN]
    frame = splits["test"][2]
    np.testing.assert_array_equal(frame.image, layouts.images[5])
    np.testing.assert_array_equal(frame.depths["inpainted"], metres(layouts.inpainted[5]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("depth", None, "has no readable array 'depth'"),
        ("rgb", np.uint8(3), "'rgb' is not an array"),
        ("rgb", np.zeros((48, 64), np.uint8), r"'rgb' is uint8 \[48, 64\], not uint8 \[3, H, W\]"),
        ("depth", np.full((48, 64), 2000, np.uint16), r"depth is uint16 .*, not floating-point"),
        ("depth", np.full((48, 64), np.nan, np.float32), "NaN or infinite depth"),
    ],
)
def test_h5_frames_refuse(
    layouts: Layouts, name: str, value: np.ndarray | None, message: str
) -> None:
    path = layouts.fastdepth() / "train/kitchen_0028b/00001.h5"
    with h5py.File(path, "a") as file:
        del file[name]
        if value is not None:
            file[name] = value
    with pytest.raises(DataError, match=rf"00001.h5.*{message}"):
        FastDepthFolder(layouts.root / "nyudepthv2", "train")[0]


def lend(kind: str, file: h5py.File, name: str, secret: Path, values: np.ndarray) -> None:
    """Replaces an array by one whose values lie in another file."""
    shape, dtype = values.shape, values.dtype
    del file[name]
    if kind == "external":
        file.create_dataset(name, shape, dtype, external=[(str(secret), 0, values.nbytes)])
    elif kind == "virtual":
        layout = h5py.VirtualLayout(shape, dtype)
        layout[...] = h5py.VirtualSource(str(secret) + ".h5", "x", shape)
        file.create_virtual_dataset(name, layout)
    elif kind == "link":
        file[name] = h5py.ExternalLink(str(secret) + ".h5", "x")
    elif kind == "soft link":
        file["elsewhere"] = h5py.ExternalLink(str(secret) + ".h5", "x")
        file[name] = h5py.SoftLink("/elsewhere")


def lend_from(kind: str, path: Path, name: str) -> None:
    """Makes the array `name` of an HDF5 file borrow from a file that is not part of the data."""
    secret = path.parent.parent / "secret"
    with h5py.File(path, "r+") as file:
        values = file[name][()]
        secret.write_bytes(values.tobytes())
        with h5py.File(f"{secret}.h5", "w") as other:
            other["x"] = values
        lend(kind, file, name, secret, values)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file[name][()], values)  # HDF5 itself would hand it out


LENT = pytest.mark.parametrize("kind", ["external", "virtual", "link", "soft link"])


@LENT
@pytest.mark.parametrize("name", ["rgb", "depth"])
def test_arrays_of_other_files_are_refused(layouts: Layouts, kind: str, name: str) -> None:
    path = layouts.fastdepth() / "train/kitchen_0028b/00001.h5"
    lend_from(kind, path, name)
    with pytest.raises(DataError, match=rf"00001.h5: '{name}' is not stored in the file but"):
        FastDepthFolder(layouts.root / "nyudepthv2", "train")[0]
    shard = layouts.root / "train-000000.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(path, "train/kitchen_0028b/00001.h5")
    with pytest.raises(DataError, match=rf"train-000000.tar .*: '{name}' is not stored in the"):
        TarShards(layouts.root, "train")[0]


@LENT
@pytest.mark.parametrize("name", ["images", "rawDepths"])
def test_mat_refuses_arrays_of_other_files(layouts: Layouts, kind: str, name: str) -> None:
    path = layouts.mat()
    lend_from(kind, path, name)
    with pytest.raises(DataError, match=rf"labeled.mat: '{name}' is not stored in the file but"):
        LabelledMat(path, "train")


def test_links_are_refused_before_they_are_followed(layouts: Layouts) -> None:
    path, pipe = layouts.fastdepth() / "train/kitchen_0028b/00001.h5", layouts.root / "pipe"
    os.mkfifo(pipe)  # opening it would wait for ever
    with h5py.File(path, "r+") as file:
        del file["rgb"]
        file["rgb"] = h5py.ExternalLink(str(pipe), "x")
    with pytest.raises(DataError, match="'rgb' is not stored in the file"):
        FastDepthFolder(layouts.root / "nyudepthv2", "train")[0]


def test_arrays_larger_than_any_frame_are_refused(layouts: Layouts) -> None:
    path = layouts.fastdepth() / "train/kitchen_0028b/00001.h5"
    with h5py.File(path, "r+") as file:
        del file["rgb"]  # 1 TB that takes no room in the file
        file.create_dataset("rgb", (3, 600_000, 600_000), np.uint8, chunks=(1, 64, 64))
    with pytest.raises(DataError, match=r"00001.h5: array 'rgb' is uint8 .* larger than any frame"):
        FastDepthFolder(layouts.root / "nyudepthv2", "train")[0]


def test_shards_write_nothing(layouts: Layouts) -> None:
    root = layouts.shards()
    before = sorted(root.rglob("*"))
    assert TarShards(root, "train")[0].depths
    assert sorted(root.rglob("*")) == before


def tar_with(path: Path, member: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(member, io.BytesIO(b"x" * member.size))


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("/etc/00001.h5", tarfile.REGTYPE, ""),
        ("train/../../00001.h5", tarfile.REGTYPE, ""),
        ("train\\..\\00001.h5", tarfile.REGTYPE, ""),
        ("train/a/00001.h5", tarfile.SYMTYPE, "/etc/passwd"),
        ("train/a/00001.h5", tarfile.LNKTYPE, "../x.h5"),
        ("train/a/00001.h5", tarfile.CHRTYPE, ""),
        ("train/a/00001.h5", tarfile.FIFOTYPE, ""),
    ],
)
def test_shards_refuse_members_that_escape(
    tmp_path: Path, name: str, kind: bytes, link: str
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 3 if kind == tarfile.REGTYPE else 0
    tar_with(tmp_path / "train-000000.tar", member)
    with pytest.raises(DataError, match=r"train-000000.tar: member .* is not a plain file below"):
        TarShards(tmp_path, "train")


def test_shards_refuse_truncation_and_compression(layouts: Layouts) -> None:
    root = layouts.shards()
    shard = root / "data" / "val-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 3])
    with pytest.raises(DataError, match=r"val-000000.tar.*download it again"):
        TarShards(root, "test")[0]
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        last = archive.getmembers()[-1]
    shard.write_bytes(content[: last.offset])  # whole members, without the last
    with pytest.raises(DataError, match=r"val-000000.tar: damaged or truncated at byte"):
        TarShards(root, "test")
    with tarfile.open(shard, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    with pytest.raises(DataError, match=r"val-000000.tar: not a complete, uncompressed tar"):
        TarShards(root, "test")


# -------------------- a user's own folder


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_plain_folder(layouts: Layouts, suffix: str) -> None:
    splits = open_source(layouts.plain(suffix))
    assert splits["train"].ids == [f"view {i}" for i in TRAIN]
    frame = splits["test"][1]
    np.testing.assert_array_equal(frame.image, layouts.images[4])
    np.testing.assert_allclose(frame.truth("raw"), metres(layouts.raw[4]), rtol=1e-6)
    assert (frame.camera.fx, frame.camera.cx, frame.camera.size) == (60.5, 35.0, (48, 64))
    assert frame.valid_box is None


def test_plain_depth_scale(layouts: Layouts) -> None:
    root = layouts.plain()
    frames = open_source(root, depth_scale=0.0005)["train"]
    np.testing.assert_allclose(frames[0].truth(), metres(layouts.raw[0]) / 2, rtol=1e-6)
    with pytest.raises(ConfigError, match="depth_scale is 1000"):
        PlainFolder(root, depth_scale=1000)


def rewrite_cameras(root: Path, change: Callable[[list[list[str]]], None]) -> None:
    with (root / "cameras.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    change(rows)
    with (root / "cameras.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def set_cell(row: int, column: int, value: str) -> Callable[[list[list[str]]], None]:
    def change(rows: list[list[str]]) -> None:
        rows[row][column] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_cell(1, 1, "wide"), "line 2: fx is 'wide', not a positive number"),
        (set_cell(1, 1, "nan"), "line 2: fx is 'nan', not a positive number"),
        (set_cell(1, 1, "-5"), "line 2: fx is '-5', not a positive number"),
        (set_cell(0, 3, "centre"), r"lacks the columns \['cx'\]"),
        (set_cell(1, 0, "../view 0"), r"rgb has no file '../view 0'"),
        (set_cell(1, 0, "view 1"), "cameras.csv: frame id 'view 1' .*line 2 and in .*line 3"),
        (lambda rows: rows.pop(1), "view 0.png: has no row in cameras.csv"),
        (lambda rows: rows.__delitem__(slice(1, None)), "has no row in cameras.csv"),
    ],
)
def test_plain_refuses_bad_tables(
    layouts: Layouts, change: Callable[[list[list[str]]], None], message: str
) -> None:
    root = layouts.plain()
    rewrite_cameras(root, change)
    with pytest.raises(DataError, match=message):
        PlainFolder(root)[0]


def drop_splits(rows: list[list[str]]) -> None:
    """Takes the column split out of the table."""
    for row in rows:
        del row[5:]


def test_plain_folder_without_splits_is_divided_by_blocks(layouts: Layouts) -> None:
    root = layouts.plain(count=60)
    rewrite_cameras(root, drop_splits)
    splits = open_source(root)
    names = [f"view {i}" for i in range(60)]  # 2 before 10, as in a recording
    assert splits["train"].ids == names[:52] and splits["test"].ids == names[54:]
    assert PlainFolder(root).ids == names
    said = "of 60 sorted frames the first 52 train, the last 6 test, 2 between them are left out"
    assert [frames.split_by for frames in splits.values()] == [said, said]  # type: ignore[attr-defined]


def test_plain_folder_too_small_to_divide(layouts: Layouts) -> None:
    root = layouts.plain(count=4)
    rewrite_cameras(root, drop_splits)
    with pytest.raises(DataError, match=r"own.png: 4 frames are too few .* bring at least 5"):
        open_source(root)


def test_plain_folder_with_a_split_for_some(layouts: Layouts) -> None:
    root = layouts.plain()
    rewrite_cameras(root, set_cell(3, 5, ""))
    with pytest.raises(DataError, match=r"cameras.csv, line 4: only some frames name a split"):
        open_source(root)


# -------------------- detection


def test_open_source_finds_the_layout(layouts: Layouts) -> None:
    for path, reader in (
        (layouts.bts(), BTSFolder),
        (layouts.sync(), BTSFolder),
        (layouts.mat(), LabelledMat),
        (layouts.fastdepth(), FastDepthFolder),
        (layouts.shards(), TarShards),
        (layouts.plain(), PlainFolder),
    ):
        options = {"split_file": layouts.root / TEST_LIST} if reader is LabelledMat else {}
        assert {type(frames) for frames in open_source(path, **options).values()} == {reader}
    store = layouts.root / "store.h5"
    pack({"train": BTSFolder(layouts.bts(), "train")}, store)
    assert isinstance(open_source(store)["train"], PackedFrames)


def test_open_source_names_what_it_expects(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no layout that SPD knows; expected .* BTS folder"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "absent")


def test_open_source_refuses_options_of_other_layouts(layouts: Layouts) -> None:
    with pytest.raises(ConfigError, match="has no option split_file"):
        open_source(layouts.bts(), split_file="list.txt")


# -------------------- bad input


def first(layouts: Layouts, split: str = "train") -> Frame:
    return BTSFolder(layouts.root / "bts", split)[0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["rgb_00000.jpg", "sync_depth_00000.png"])
@pytest.mark.parametrize(
    "damage", [truncate, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"no image")]
)
def test_truncated_images(layouts: Layouts, name: str, damage: Callable[[Path], None]) -> None:
    path = layouts.bts() / "official_splits/train/home_office" / name
    damage(path)
    with pytest.raises(
        DataError, match=rf"{name}: (cannot be decoded|is no picture) .*copy or download it again"
    ):
        first(layouts)


def test_truncated_hdf5(layouts: Layouts) -> None:
    path = layouts.fastdepth() / "train/kitchen_0028b/00001.h5"
    truncate(path)
    with pytest.raises(
        DataError, match=r"00001.h5: (not a readable HDF5|has no readable|.*cannot be read)"
    ):
        FastDepthFolder(layouts.root / "nyudepthv2", "train")[0]
    mat = layouts.mat()
    truncate(mat)
    with pytest.raises(DataError, match=r"labeled.mat: not a readable HDF5 file"):
        LabelledMat(mat, "train")


def test_truncated_npy(layouts: Layouts) -> None:
    root = layouts.plain(".npy")
    truncate(root / "depth" / "view 0.npy")
    with pytest.raises(DataError, match=r"view 0.npy: not a readable .npy file"):
        PlainFolder(root)[0]
    np.save(root / "depth" / "view 0.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"view 0.npy: not a readable .npy file"):
        PlainFolder(root)[0]


def save_depth(layouts: Layouts, depth: np.ndarray) -> None:
    folder = layouts.bts() / "official_splits/train/home_office"
    Image.fromarray(depth).save(folder / "sync_depth_00000.png")


def test_depth_in_metres_read_as_millimetres(layouts: Layouts) -> None:
    save_depth(layouts, np.full(layouts.size, 3, np.uint16))
    with pytest.raises(
        DataError,
        match=r"sync_depth_00000.png .*median depth is 0.003 m.*metres read as millimetres",
    ):
        first(layouts)


def test_depth_in_millimetres_read_as_metres(layouts: Layouts) -> None:
    root = layouts.plain(".npy")
    np.save(root / "depth" / "view 0.npy", layouts.inpainted[0].astype(np.float32))
    with pytest.raises(DataError, match=r"view 0.npy .*millimetres read as metres"):
        PlainFolder(root)[0]


def test_8_bit_depth(layouts: Layouts) -> None:
    save_depth(layouts, np.full(layouts.size, 120, np.uint8))
    with pytest.raises(
        DataError, match=r"sync_depth_00000.png: .*8-bit depth cannot hold millimetres"
    ):
        first(layouts)
    save_depth(layouts, np.full(layouts.size, 60, np.uint16))  # 8 bits in a 16-bit file
    with pytest.raises(DataError, match="or 8-bit depth"):
        first(layouts)


def test_image_and_depth_of_different_size(layouts: Layouts) -> None:
    save_depth(layouts, np.full((24, 32), 2000, np.uint16))
    with pytest.raises(DataError, match=r"image is 48x64 but raw is 24x32 \(height x width\)"):
        first(layouts)


def test_no_valid_pixel(layouts: Layouts) -> None:
    depth = np.zeros(layouts.size, np.uint16)
    depth[0, 0] = 2000  # on the white border, which counts for nothing
    save_depth(layouts, depth)
    with pytest.raises(DataError, match=r"sync_depth_00000.png .*no valid pixel"):
        first(layouts)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5])
def test_nan_or_negative_depth(layouts: Layouts, value: float) -> None:
    root = layouts.plain(".npy")
    depth = metres(layouts.inpainted[0])
    depth[3, 5] = value
    np.save(root / "depth" / "view 0.npy", depth)
    with pytest.raises(DataError, match=r"view 0.npy .*(NaN or infinite|negative) depth"):
        PlainFolder(root)[0]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA"])
def test_images_without_three_channels(layouts: Layouts, mode: str) -> None:
    root = layouts.plain()
    Image.fromarray(layouts.images[0]).convert(mode).save(root / "rgb" / "view 0.png")
    with pytest.raises(DataError, match=rf"view 0.png: image mode is '{mode}', not 'RGB'"):
        PlainFolder(root)[0]


def test_image_with_exif_rotation(layouts: Layouts) -> None:
    root = layouts.plain()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(layouts.images[0]).save(root / "rgb" / "view 0.png", exif=exif)
    with pytest.raises(DataError, match=r"view 0.png: the EXIF data ask for a rotation"):
        PlainFolder(root)[0]


def test_image_of_another_camera(layouts: Layouts) -> None:
    root = layouts.bts() / "official_splits/train/home_office"
    Image.fromarray(layouts.images[0][:, :48]).save(root / "rgb_00000.jpg")
    with pytest.raises(DataError, match=r"image is 48x48, but NYU frames are 480x640"):
        first(layouts)


@pytest.mark.parametrize("name", ["rgb_00000.jpg", "sync_depth_00000.png"])
def test_missing_pair(layouts: Layouts, name: str) -> None:
    other = {"rgb_00000.jpg": "sync_depth_00000.png", "sync_depth_00000.png": "rgb_00000.jpg"}
    (layouts.bts() / "official_splits/train/home_office" / name).unlink()
    with pytest.raises(DataError, match=rf"{other[name]}: no {name} beside it"):
        first(layouts)


def test_duplicate_id(layouts: Layouts) -> None:
    source = layouts.bts() / "official_splits/train/home_office"
    other = source.with_name("bedroom")
    other.mkdir()
    for name in ("rgb_00002.jpg", "sync_depth_00002.png"):
        (other / name).write_bytes((source / name).read_bytes())
    with pytest.raises(DataError, match="frame id '00002' occurs twice") as caught:
        first(layouts)
    for folder in (source, other):
        assert f"in {folder / 'sync_depth_00002.png'}" in str(caught.value)


def test_duplicate_id_in_shards(layouts: Layouts) -> None:
    root = layouts.shards()
    first, second = (root / "data" / f"train-{number:06d}.tar" for number in (0, 1))
    with tarfile.open(second, "a") as archive:
        archive.addfile(tarfile.TarInfo("again/kitchen_0028b/00001.h5"))
    with pytest.raises(DataError, match="frame id 'kitchen_0028b/00001' occurs twice") as caught:
        TarShards(root, "train")
    assert f"in {first} (train/kitchen_0028b/00001.h5)" in str(caught.value)
    assert f"in {second} (again/kitchen_0028b/00001.h5)" in str(caught.value)


def test_two_files_of_one_name(layouts: Layouts) -> None:
    folder = layouts.plain() / "rgb"
    (folder / "view 0.jpg").write_bytes((folder / "view 0.png").read_bytes())
    with pytest.raises(DataError, match="rgb: frame id 'view 0' occurs twice") as caught:
        PlainFolder(folder.parent)
    for suffix in (".jpg", ".png"):
        assert f"in {folder / f'view 0{suffix}'}" in str(caught.value)


def test_empty_split(layouts: Layouts) -> None:
    root = layouts.bts()
    with pytest.raises(DataError, match=r"split 'sync' is empty; expected sync/<scene>/rgb"):
        BTSFolder(root, "sync")
    with pytest.raises(DataError, match=r"split 'test'\): no frames found"):
        FastDepthFolder(root, "test")
    with pytest.raises(DataError, match=r"split 'night' of \['test', 'train'\]\): no frames"):
        PlainFolder(layouts.plain(), "night")
    with pytest.raises(ConfigError, match="split is 'val'"):
        BTSFolder(root, "val")


def test_check_depth_looks_at_sparse_depth() -> None:
    """A few measurements between the sampled rows and columns are enough to tell the unit."""
    depth = np.zeros((480, 640), np.float32)
    depth[1::16, 1::16] = 2.0
    check_depth(depth, "sparse")
    with pytest.raises(DataError, match="median depth is 2000"):
        check_depth(depth * 1000, "sparse")


# -------------------- round trips


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_bts_round_trip(data: st.DataObject) -> None:
    """Any uint16 millimetres and any RGB come back exactly, through the reader and the store."""
    unit = data.draw(st.integers(1, 8))
    height, width = 3 * unit, 4 * unit
    seed = data.draw(st.integers(0, 2**32 - 1))
    low, high = data.draw(st.tuples(st.integers(100, 9000), st.integers(1, 11000)))
    holes = data.draw(st.floats(0, 0.9))
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    depth = generator.integers(low, low + high, (height, width)).astype(np.uint16)
    depth[generator.random((height, width)) < holes] = 0
    depth[height // 2, width // 2] = low
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "train" / "room"
        scene.mkdir(parents=True)
        Image.fromarray(image).save(scene / "rgb_00007.png")
        Image.fromarray(depth).save(scene / "sync_depth_00007.png")
        frames = BTSFolder(folder, "train")
        pack({"train": frames}, Path(folder) / "store.h5")
        stored = PackedFrames(Path(folder) / "store.h5")
        for frame in (frames[0], stored[0]):
            np.testing.assert_array_equal(frame.image, image)
            np.testing.assert_array_equal(np.rint(frame.depths["raw"] * 1000), depth)
            np.testing.assert_array_equal(frame.depths["raw"], metres(depth))
            assert frame.camera == NYU_CAMERA.resized(height, width)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 80))
def test_scaled_box_holds_only_whole_pixels(height: int, width: int) -> None:
    top, left, bottom, right = scaled_box(NYU_VALID_BOX, NYU_CAMERA.size, (height, width))
    for low, high, new, old, (start, end) in (
        (top, bottom, height, 480, (7, 474)),
        (left, right, width, 640, (7, 632)),
    ):
        assert low * old >= start * new and (high + 1) * old <= end * new
        assert (low - 1) * old < start * new and (high + 2) * old > end * new


def test_box_at_full_size() -> None:
    assert scaled_box(NYU_VALID_BOX, (480, 640), (480, 640)) == NYU_VALID_BOX
    assert scaled_box((0, 0, 47, 63), (48, 64), (24, 32)) == (0, 0, 23, 31)


# -------------------- real frames


def test_real_nyu(nyu_dir: Path) -> None:
    splits = open_source(nyu_dir, truth="inpainted")
    assert {name: len(frames) for name, frames in splits.items()} == {"train": 795, "test": 654}
    ids = splits["train"].ids + splits["test"].ids
    assert sorted(ids) == [f"{i:05d}" for i in range(1449)]
    for frames in splits.values():
        assert frames.ids == sorted(frames.ids)
        frame = frames[len(frames) // 2]
        assert frame.image.shape == (480, 640, 3) and frame.camera == NYU_CAMERA
        assert frame.valid_box == NYU_VALID_BOX
        assert 0.4 < float(np.median(frame.truth("inpainted"))) < 10
