"""The packed store: exactness, checksums, failures in writing, workers, resizing, command line."""

from __future__ import annotations

import argparse
import errno
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch.utils.data import DataLoader

from spdlib.data import cli, hdf5, store
from spdlib.data.frames import Frame, Frames
from spdlib.data.sources import BTSFolder, LabelledMat, PlainFolder, TarShards, open_source
from spdlib.data.store import PackedFrames, info, pack, resize_frame, verify
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import Camera

if TYPE_CHECKING:
    from conftest import Layouts


class ListFrames:
    """Frames held in memory."""

    def __init__(self, frames: list[Frame]) -> None:
        self.frames = frames

    @property
    def ids(self) -> list[str]:
        return [frame.id for frame in self.frames]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[index]


def frame(name: str = "a", depth: np.ndarray | None = None, **changes: Any) -> Frame:
    """A 6x8 frame whose depth is 2.345 m, or a given one."""
    image = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    depth = np.full((6, 8), 2.345, np.float32) if depth is None else depth
    camera = Camera(8.0, 9.0, 3.5, 2.5, 8, 6)
    return replace(Frame(name, image, {"raw": depth}, camera), **changes)


def irregular(seed: int = 0) -> np.ndarray:
    """Depth [6, 8] that no whole millimetres hold."""
    return np.random.default_rng(seed).uniform(1, 5, (6, 8)).astype(np.float32)


def assert_same(a: Frame, b: Frame) -> None:
    assert (a.id, a.camera, a.valid_box) == (b.id, b.camera, b.valid_box)
    np.testing.assert_array_equal(a.image, b.image)
    assert set(a.depths) == set(b.depths)
    for kind, depth in a.depths.items():
        assert b.depths[kind].dtype == np.float32
        np.testing.assert_array_equal(depth, b.depths[kind])


def types(path: Path) -> dict[str, str]:
    return dict(info(path)["truths"])


# -------------------- what goes in comes out


@pytest.mark.parametrize("compression", ["none", "lzf", "gzip"])
def test_frames_come_back_exactly(layouts: Layouts, compression: str) -> None:
    tests = layouts.mat().with_name("nyudepthv2_test_files_with_gt.txt")
    for name, source in (
        ("bts", BTSFolder(layouts.bts(), "train")),
        ("mat", LabelledMat(layouts.root / "nyu_depth_v2_labeled.mat", "test", tests)),
        ("own", PlainFolder(layouts.plain(".npy"))),
    ):
        path = layouts.root / f"{name}.h5"
        pack({"train": source}, path, compression=compression)
        stored = PackedFrames(path)
        assert stored.ids == source.ids
        for index in range(len(source)):
            assert_same(stored[index], source[index])
        assert verify(path)["compression"] == compression


def test_box_and_several_truths(tmp_path: Path) -> None:
    depths = {"raw": np.full((6, 8), 1.5, np.float32), "inpainted": irregular()}
    frames = [
        frame("a", depths=depths, valid_box=(1, 1, 4, 6)),
        frame("b", depths=depths),
    ]
    pack({"train": ListFrames(frames)}, tmp_path / "s.h5")
    stored = PackedFrames(tmp_path / "s.h5")
    for index, original in enumerate(frames):
        assert_same(stored[index], original)
    assert types(tmp_path / "s.h5") == {"inpainted": "float32", "raw": "uint16"}


def test_only_what_is_asked_is_read(tmp_path: Path) -> None:
    depths = {"raw": irregular(), "inpainted": irregular(1)}
    whole = frame(depths=depths)
    pack({"train": ListFrames([whole])}, tmp_path / "s.h5")
    chosen = PackedFrames(tmp_path / "s.h5", "train", ["raw"])
    assert_same(chosen[0], replace(whole, depths={"raw": depths["raw"]}))
    assert_same(PackedFrames(tmp_path / "s.h5")[0], whole)
    with pytest.raises(DataError, match=r"s.h5: has no 'exact' depth but \['inpainted', 'raw'\]"):
        PackedFrames(tmp_path / "s.h5", truths=["exact"])


def test_depth_type_is_chosen_without_loss(tmp_path: Path) -> None:
    """Whole millimetres take two bytes; the first frame that needs more makes all float32."""
    regular, other = frame("a"), frame("c", irregular())
    pack({"train": ListFrames([regular, frame("b")])}, tmp_path / "mm.h5")
    assert types(tmp_path / "mm.h5") == {"raw": "uint16"}
    pack({"train": ListFrames([regular, frame("b"), other, frame("d")])}, tmp_path / "m.h5")
    assert types(tmp_path / "m.h5") == {"raw": "float32"}
    stored = PackedFrames(tmp_path / "m.h5")
    for index, original in enumerate([regular, frame("b"), other, frame("d")]):
        assert_same(stored[index], original)
    verify(tmp_path / "m.h5")


@settings(deadline=None)
@given(arrays(np.float32, (4, 4), elements=st.floats(0, 70, width=32)))
def test_millimetres_are_used_only_where_exact(depth: np.ndarray) -> None:
    values = store.metres_to_millimetres(depth)
    if values is not None:
        np.testing.assert_array_equal(store.millimetres_to_metres(values), depth)


def test_every_millimetre_survives() -> None:
    everything = np.arange(65536, dtype=np.uint16)
    back = store.metres_to_millimetres(store.millimetres_to_metres(everything))
    np.testing.assert_array_equal(back, everything)


def test_splits_and_cameras(packed: Path) -> None:
    assert PackedFrames(packed, "train").ids == ["00000", "00002", "00003"]
    test = PackedFrames(packed, "test")
    assert test.ids == ["00001", "00004", "00005"] and len(PackedFrames(packed)) == 6
    assert [test[index].id for index in range(3)] == test.ids
    with pytest.raises(DataError, match=r"no frames in split 'night'; it has \['test', 'train'\]"):
        PackedFrames(packed, "night")


def test_info_and_provenance(packed: Path) -> None:
    report = info(packed)
    assert report["frames"] == 6 and report["splits"] == {"train": 3, "test": 3}
    assert report["size"] == (48, 64) and report["focal"][0] == pytest.approx(51.916, abs=1e-3)
    provenance = report["provenance"]
    assert provenance["layout"] == "BTSFolder" and provenance["counts"] == report["splits"]
    assert {"spdlib", "date", "resized_to", "compression"} <= set(provenance)


def test_equal_frames_have_equal_fingerprints(layouts: Layouts) -> None:
    source = BTSFolder(layouts.bts(), "train")
    for name, compression in (("a", "none"), ("b", "gzip")):
        pack({"train": source}, layouts.root / f"{name}.h5", compression=compression)
    pack({"test": source}, layouts.root / "c.h5")
    a, b, c = (info(layouts.root / f"{name}.h5")["fingerprint"] for name in "abc")
    assert a == b != c


def test_fingerprints_never_change(tmp_path: Path) -> None:
    """Records of published runs name them: one of each store version is the same for ever."""
    image = np.arange(144, dtype=np.uint8).reshape(6, 8, 3)
    depth = np.linspace(1, 5, 48, dtype=np.float32).reshape(6, 8)
    frames = [frame("a", image=image), frame("b", depth, image=image, valid_box=(1, 1, 4, 6))]
    pack({"train": ListFrames(frames)}, tmp_path / "s.h5")
    expected = "aafa1d451d76e83c2c2def3fdcbbea5b400cbada59e29475e7ad6743d1c070ad"
    assert info(tmp_path / "s.h5")["fingerprint"] == expected


# -------------------- what is refused when packing


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "nothing to pack"),
        ([frame("a"), frame("a")], "frame id 'a' occurs twice"),
        ([frame("a", np.zeros((6, 8), np.float32))], "frame 'a' .*no valid pixel"),
        ([frame("a", depths={})], "frame 'a' has no depth"),
        ([frame("a", image=np.zeros((6, 8), np.uint8))], r"image is uint8 \[6, 8\]"),
        ([frame("a"), frame("b", depths={"inpainted": irregular()})], "lacks .'depth/raw'. of"),
        (
            [frame("a"), frame("b", depths={"raw": irregular(), "inpainted": irregular()})],
            r"frame 'b' has \['depth/inpainted'\] arrays that others lack",
        ),
        ([frame("a"), resize_frame(frame("b"), (3, 4))], "'b' is 3x4, the ones before 6x8; give"),
    ],
)
def test_bad_frames_leave_the_previous_store(
    packed: Path, frames: list[Frame], message: str
) -> None:
    before = packed.read_bytes()
    with pytest.raises(DataError, match=message):
        pack({"train": ListFrames(frames)}, packed)
    assert_untouched(packed, before)


def assert_untouched(path: Path, before: bytes) -> None:
    """The previous store is whole and nothing temporary is left beside it."""
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*tmp"))
    verify(path)


@pytest.mark.parametrize("name", ["a\nb", "a\0", "\udc80", "", "é" * 129])
def test_names_that_cannot_be_stored_are_refused(tmp_path: Path, name: str) -> None:
    for splits in ({"train": ListFrames([frame(name)])}, {name: ListFrames([frame("a")])}):
        with pytest.raises(DataError, match=r"cannot name a frame or a split .*; rename it"):
            pack(splits, tmp_path / "s.h5")
    longest = "é" * 128
    pack({longest: ListFrames([frame(longest)])}, tmp_path / "s.h5")
    assert verify(tmp_path / "s.h5")["splits"] == {longest: 1}
    assert PackedFrames(tmp_path / "s.h5").ids == [longest]


@pytest.mark.parametrize(
    ("value", "times", "shown"), [(65.535, 7, "65.535"), (65504, 30, "65504"), (1e-7, 3, "1e-07")]
)
def test_depth_that_no_camera_measures_is_not_packed(
    tmp_path: Path, value: float, times: int, shown: str
) -> None:
    depth = irregular()
    depth.flat[:times] = value
    message = rf"frame 'a' \(raw depth\): {times} pixels hold {shown} m, .*; write 0 where"
    with pytest.raises(DataError, match=message):
        pack({"train": ListFrames([frame("a", depth)])}, tmp_path / "s.h5")


def test_unknown_compression(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compression is 'zip'"):
        pack({"train": ListFrames([frame("a")])}, tmp_path / "s.h5", compression="zip")


class Interrupted(ListFrames):
    """Fails at its third frame."""

    def __init__(self, frames: list[Frame], error: BaseException) -> None:
        super().__init__(frames)
        self.error = error

    def __getitem__(self, index: int) -> Frame:
        if index == 2:
            raise self.error
        return super().__getitem__(index)


def test_a_source_that_cannot_be_read_is_not_called_a_failure_to_write(
    packed: Path, layouts: Layouts
) -> None:
    before = packed.read_bytes()
    frames = TarShards(layouts.shards(), "test")
    (layouts.root / "hub" / "data" / "val-000000.tar").unlink()
    with pytest.raises(DataError, match=r"^\S*val-000000.tar \(val/official/00002.h5\): no such"):
        pack({"test": frames}, packed)
    assert_untouched(packed, before)
    lost = FileNotFoundError(errno.ENOENT, "No such file or directory", "view.jpg")
    with pytest.raises(DataError, match=r"^frame 2 of 'train': no such file view.jpg"):
        pack({"train": Interrupted([frame(n) for n in "abcd"], lost)}, packed)
    assert_untouched(packed, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("bad frame"), MemoryError()])
def test_interruption_leaves_the_previous_store(packed: Path, error: BaseException) -> None:
    before = packed.read_bytes()
    # out of memory, an unreadable frame is named
    with pytest.raises(DataError if isinstance(error, MemoryError) else type(error)):
        pack({"train": Interrupted([frame(n) for n in "abcd"], error)}, packed)
    assert_untouched(packed, before)


def test_unwritable_folder(tmp_path: Path) -> None:
    source = ListFrames([frame()])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*file/s\.h5.*choose another folder"):
        pack({"train": source}, tmp_path / "file" / "s.h5")
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if not os.access(closed, os.W_OK):  # the superuser may write anywhere
        with pytest.raises(DataError, match=r"cannot write .*closed/s\.h5"):
            pack({"train": source}, closed / "s.h5")
    closed.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("room", [0, 900, 5_000, 20_000, 50_000])
def test_full_disk(
    packed: Path, monkeypatch: pytest.MonkeyPatch, layouts: Layouts, room: int
) -> None:
    """The disk fills after `room` bytes: one clear error, the previous store survives."""
    before, written, pwrite = packed.read_bytes(), 0, os.pwrite

    def limited(handle: int, data: memoryview, offset: int) -> int:
        nonlocal written
        part = data[: room - written]
        if len(data) and not len(part):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += len(part)
        return pwrite(handle, part, offset)

    monkeypatch.setattr(hdf5.os, "pwrite", limited)
    with pytest.raises(DataError, match=r"store.h5: .*No space left on device.*is kept"):
        pack({"test": BTSFolder(layouts.bts(), "test")}, packed)
    assert written == room
    monkeypatch.undo()
    assert_untouched(packed, before)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("method", ["seek", "write"])
def test_an_interruption_while_hdf5_writes_is_not_lost(
    layouts: Layouts,
    packed: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    kind: signal.Signals,
) -> None:
    """HDF5 drops exceptions that come from below it while it closes something."""
    before, source, whole = packed.read_bytes(), layouts.bts(), getattr(hdf5.Disk, method)
    handler, after = signal.getsignal(kind), 0

    def under_signal(*arguments: Any) -> Any:
        nonlocal after
        after -= 1
        if after == 0:
            os.kill(os.getpid(), kind)
        return whole(*arguments)

    monkeypatch.setattr(hdf5.Disk, method, under_signal)
    for calls in range(1, 1000):
        after = calls
        try:
            pack({"test": BTSFolder(source, "test")}, packed)
        except KeyboardInterrupt:
            assert_untouched(packed, before)
            assert signal.getsignal(kind) == handler
        else:
            break
    assert after > 0 and calls > 10  # it ended undisturbed, before that call


def test_what_ends_packing_is_said_though_the_disk_filled_before(
    tmp_path: Path,
) -> None:
    disk = hdf5.Disk(tmp_path / "s.h5")
    with pytest.raises(KeyboardInterrupt), disk:
        disk._error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise KeyboardInterrupt
    assert disk.closed


FILE_TOO_LARGE = """
import resource, sys
from spdlib.data.sources import BTSFolder
from spdlib.data.store import pack
from spdlib.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    pack({"test": BTSFolder(sys.argv[1], "test")}, sys.argv[2])
except DataError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is a POSIX one")
def test_refused_writes_end_the_process_in_good_order(packed: Path, layouts: Layouts) -> None:
    """The system itself refuses to write on: no crash in HDF5, no noise, the store survives."""
    before = packed.read_bytes()
    command = [sys.executable, "-c", FILE_TOO_LARGE, str(layouts.bts()), str(packed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cannot write" in done.stdout and "is kept" in done.stdout
    assert_untouched(packed, before)


def test_too_little_space_is_seen_at_once(
    packed: Path, layouts: Layouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 20_000})
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"needs 0.048 MB but its disk has 0.020 MB free"):
        pack({"train": BTSFolder(layouts.bts(), "train")}, packed)


def test_new_store_is_readable_by_others(packed: Path) -> None:
    umask = os.umask(0o022)
    os.umask(umask)
    assert stat.S_IMODE(packed.stat().st_mode) == 0o666 & ~umask


# -------------------- processes


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_the_same_frames(packed: Path, method: str) -> None:
    frames = PackedFrames(packed)
    expected = [frames[index] for index in range(len(frames))]  # leaves the file open here
    loader: DataLoader[Frame] = DataLoader(
        frames,  # type: ignore[arg-type]
        batch_size=2,
        num_workers=2 if method == "fork" else 1,  # a spawned one imports torch for seconds
        collate_fn=list,
        multiprocessing_context=method,
    )
    for _ in range(1 if method == "spawn" else 3):
        loaded = [frame for batch in loader for frame in batch]
        for a, b in zip(loaded, expected, strict=True):
            assert_same(a, b)


def test_pickles_without_the_file(packed: Path) -> None:
    frames = PackedFrames(packed, "test")
    original = frames[2]
    text = pickle.dumps(frames)
    assert len(text) < 10_000
    assert_same(pickle.loads(text)[2], original)


def test_read_only_store(packed: Path) -> None:
    packed.chmod(stat.S_IRUSR)
    assert PackedFrames(packed)[0].id == "00000"


# -------------------- resizing


def test_resize_keeps_measurements_and_camera() -> None:
    depth = irregular()
    depth[0, 0] = depth[0, 1] = depth[1, 1] = 0
    depth[2:4, 2:4] = 0
    small = resize_frame(frame("a", depth, valid_box=(1, 1, 5, 6)), (3, 4))
    assert small.image.shape == (3, 4, 3) and small.camera == frame().camera.resized(3, 4)
    assert small.valid_box == (1, 1, 2, 2)
    picked = small.depths["raw"]
    assert picked[0, 0] == depth[1, 0]  # the only measurement of its four pixels
    assert picked[1, 1] == 0  # all four are holes
    blocks = depth.reshape(3, 2, 4, 2).transpose(0, 2, 1, 3).reshape(3, 4, 4)
    assert all(
        value in block for value, block in zip(picked.flat, blocks.reshape(-1, 4), strict=True)
    )


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_resized_depth_is_a_measurement_under_its_pixel(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    rows, columns = np.indices(old)
    depth = (1 + rows * 20 + columns).astype(np.float32)
    small = store._pick(depth, new)
    for (v, u), value in np.ndenumerate(small):
        row, column = divmod(int(value) - 1, 20)
        for place, size, parts, index in ((row, old[0], new[0], v), (column, old[1], new[1], u)):
            assert place + 1 > index * size / parts and place < (index + 1) * size / parts


def test_resize_is_antialiased() -> None:
    stripes = np.zeros((48, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    source = frame(image=stripes, depths={}, camera=Camera(8.0, 9.0, 3.5, 2.5, 64, 48))
    small = resize_frame(source, (12, 16)).image[:, 1:-1]
    assert np.abs(small.astype(int) - 100).max() <= 8


def test_same_size_changes_nothing() -> None:
    original = frame("a", irregular(), valid_box=(1, 1, 4, 6))
    assert_same(resize_frame(original, (6, 8)), original)


def test_pack_resized(layouts: Layouts) -> None:
    source = BTSFolder(layouts.bts(), "train")
    path = layouts.root / "small.h5"
    pack({"train": source}, path, size=(24, 32))
    stored = PackedFrames(path)[0]
    assert stored.image.shape == (24, 32, 3) and stored.camera == source[0].camera.resized(24, 32)
    assert stored.valid_box == (1, 1, 22, 30)
    assert types(path) == {"raw": "uint16"} and verify(path)["provenance"]["resized_to"] == [24, 32]
    with pytest.raises(ConfigError, match="size is 0x4"):
        pack({"train": source}, path, size=(0, 4))


# -------------------- command line


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    cli.add_data(parser)
    parsed = parser.parse_args(arguments[1:])
    return int(parsed.command(parsed))


def test_command_line(layouts: Layouts, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = layouts.bts(more=1), layouts.root / "nyu.h5"
    arguments = ["--truth", "inpainted", "--size", "24", "32", "--compression", "gzip"]
    assert main(["data", "pack", str(source), str(out), *arguments]) == 0
    assert "read as a BTS folder (official_splits/ or sync/); 4 train, 3 test frames" in (
        capsys.readouterr().out
    )
    assert main(["data", "verify", str(out)]) == 0
    assert "all 7 frames agree with their checksums" in capsys.readouterr().out
    assert main(["data", "info", str(out)]) == 0
    assert "'inpainted': 'uint16'" in capsys.readouterr().out
    provenance = info(out)["provenance"]
    assert provenance["source"] == "bts" and provenance["options"] == {"truth": "inpainted"}
    assert provenance["holes"] == ["inpainted"]
    assert str(layouts.root) not in json.dumps(provenance)


@pytest.mark.parametrize(
    ("holes", "options", "noted"),
    [(False, [], True), (True, [], False), (False, ["--truth", "raw"], False)],
)
def test_command_line_doubts_raw_depth_without_holes(
    layouts: Layouts,
    capsys: pytest.CaptureFixture[str],
    holes: bool,
    options: list[str],
    noted: bool,
) -> None:
    layouts.raw = layouts.raw if holes else layouts.inpainted
    out = layouts.root / "nyu.h5"
    assert main(["data", "pack", str(layouts.bts(more=1)), str(out), *options]) == 0
    assert ("probably in-painted" in capsys.readouterr().out) == noted
    again = layouts.root / "again.h5"
    assert main(["data", "pack", str(out), str(again), "--size", "24", "32"]) == 0
    assert "probably in-painted" not in capsys.readouterr().out


def test_command_line_refuses_bad_data(layouts: Layouts) -> None:
    path = layouts.bts(more=1) / "official_splits/train/home_office/sync_depth_00000.png"
    Image.fromarray(np.full((48, 64), 3, np.uint16)).save(path)
    with pytest.raises(DataError, match=r"sync_depth_00000.png .*metres read as millimetres"):
        main(["data", "pack", str(layouts.root / "bts"), str(layouts.root / "x.h5")])
    assert not (layouts.root / "x.h5").exists()


@pytest.mark.parametrize(
    ("split", "message"),
    [("train", "has 3 train, 3 test frames, but .* at least 4 in 'train'"),
     ("test", "has 4 train frames, but a store needs at least 1 in 'test'")],
)  # fmt: skip
def test_command_line_refuses_splits_that_cannot_be_trained_with(
    layouts: Layouts, split: str, message: str
) -> None:
    root = layouts.bts(more=split == "test")
    if split == "test":
        shutil.rmtree(root / "official_splits" / "test")
    with pytest.raises(DataError, match=rf"bts: {message}; add frames"):
        main(["data", "pack", str(root), str(layouts.root / "x.h5")])
    assert not (layouts.root / "x.h5").exists()


# -------------------- real frames


def test_real_nyu_packs_and_verifies(nyu_dir: Path, tmp_path: Path) -> None:
    source: Frames = open_source(nyu_dir, truth="inpainted")["train"]
    frames = ListFrames([source[index] for index in (0, 400, 794)])
    pack({"train": frames}, tmp_path / "nyu.h5")
    report = verify(tmp_path / "nyu.h5")
    assert report["size"] == (480, 640) and report["truths"] == {"inpainted": "uint16"}
    stored = PackedFrames(tmp_path / "nyu.h5", "train")
    for index in range(3):
        assert_same(stored[index], frames[index])


def test_a_file_that_is_no_store_is_not_replaced(packed: Path, tmp_path: Path) -> None:
    picture = tmp_path / "photo.png"
    picture.write_bytes(b"my only copy")
    with pytest.raises(DataError, match=r"photo\.png: is there, and no packed store; choose"):
        pack({"train": ListFrames([frame()])}, picture)
    assert picture.read_bytes() == b"my only copy"
    packed.write_bytes(packed.read_bytes()[:1000])
    pack({"train": ListFrames([frame()])}, packed)
    verify(packed)
