"""Run folders: what is recorded, and that files are replaced whole or not at all."""

from __future__ import annotations

import errno
import getpass
import json
import os
import platform
from pathlib import Path

import pandas as pd
import pytest

from spdlib.data.frames import Frames, Subset
from spdlib.data.rooms import Rooms
from spdlib.data.store import PackedFrames, pack
from spdlib.errors import RunError
from spdlib.study import runs
from spdlib.study.comparison import BEST
from spdlib.study.datasets import InMemory
from spdlib.study.runs import (
    Run,
    code_version,
    compare,
    describe_frames,
    machine,
    source_hash,
    write_bytes,
)


def test_machine_names_hardware_and_versions_only() -> None:
    described = machine()
    assert described["cores"] >= 1
    assert described["libraries"]["torch"]
    text = json.dumps(described)
    assert platform.node() not in text or len(platform.node()) < 3
    assert str(Path.home()) not in text
    assert len(getpass.getuser()) < 5 or getpass.getuser() not in text


def test_written_file_is_complete_and_leaves_no_temporary(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "a.bin", b"one")
    write_bytes(tmp_path / "deep" / "a.bin", b"two")
    assert (tmp_path / "deep" / "a.bin").read_bytes() == b"two"
    assert len(list((tmp_path / "deep").iterdir())) == 1


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_full_disk_keeps_the_previous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "state.bin"
    write_bytes(path, b"previous")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.os, broken, full)
    with pytest.raises(RunError, match=r"state\.bin.*No space left.*previous file is kept"):
        write_bytes(path, b"next")
    assert path.read_bytes() == b"previous"
    assert os.listdir(tmp_path) == ["state.bin"]


def test_frame_names_stay_names(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_table("frames", pd.DataFrame({"frame": ["00000", "00001"], "abs_rel": [0.1, 0.2]}))
    assert run.frames["frame"].tolist() == ["00000", "00001"]
    assert run.frames["abs_rel"].tolist() == [0.1, 0.2]


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file/run/a\.json.*nothing was written"):
        write_bytes(tmp_path / "file" / "run" / "a.json", b"{}")


def test_opening_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        Run.open(tmp_path)


def test_tables_come_back(tmp_path: Path) -> None:
    run = Run(tmp_path)
    table = pd.DataFrame({"step": [1, 2], "train_loss": [0.5, 0.25]})
    run.write_table("history", table)
    pd.testing.assert_frame_equal(run.history, table)
    with pytest.raises(RunError, match=r"no table .metrics.*history"):
        _ = run.metrics


def test_record_grows_and_damage_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.update_record({"seed": 1, "status": "running"})
    run.update_record({"status": "finished"})
    assert run.record == {"seed": 1, "status": "finished"}
    assert run.finished
    run.record_path.write_text("{ not json")
    with pytest.raises(RunError, match=r"record\.json cannot be read"):
        _ = run.record
    run.record_path.write_text("[1]")
    with pytest.raises(RunError, match="list"):
        _ = run.record


def test_frames_are_described_by_content_not_by_path(tmp_path: Path, rooms: Frames) -> None:
    store = tmp_path / "store.h5"
    pack(Subset(rooms, [0, 1, 2]), store, "train", {"source": "rooms"})
    described = describe_frames(Subset(PackedFrames(store, "train"), [0, 1]))
    assert described["frames"] == 2
    assert len(described["fingerprint"]) == 64
    assert described["provenance"]["source"] == "rooms"
    assert str(tmp_path) not in json.dumps(described)
    other = describe_frames(Subset(PackedFrames(store, "train"), [0, 2]))
    assert other["ids_hash"] != described["ids_hash"]


def test_copies_in_memory_are_described_by_content() -> None:
    described = [
        describe_frames(Subset(InMemory(Rooms(2, size=size)), [0, 1]))
        for size in ((24, 32), (24, 32), (30, 40))
    ]
    assert described[0] == described[1]
    assert described[0]["fingerprint"] != described[2]["fingerprint"]
    assert described[0]["ids_hash"] == described[2]["ids_hash"]


def test_changed_source_has_another_hash(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "inner" / "b.py").write_text("y = 2\n")
    before = source_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("not code")
    assert source_hash(tmp_path) == before
    (tmp_path / "inner" / "b.py").write_text("y = 3\n")
    assert source_hash(tmp_path) != before
    assert code_version()["source_hash"] == source_hash(Path(runs.__file__).parents[1])


def test_committed_runs_stand_beside_the_record(repository: Path) -> None:
    folders = [repository / "results" / "measured" / f"v15_2_nyu_labeled{end}"
               for end in ("", "_lambda085")]  # fmt: skip
    table = compare([Run(folders[0]), str(folders[1])], "exp13", ["abs_rel"])
    assert list(table["run"].unique()) == [folder.name for folder in folders]
    best = table[table["pairing"] == BEST]
    assert best["measured"].round(3).tolist() == [0.171, 0.168]
    assert not table["fair"].any()
    assert "699 frames (log: nyu_full, 47,584 frames)" in best["trained_otherwise"].iloc[0]
    assert table.groupby("run")["trained_otherwise"].nunique().eq(1).all()
    pd.testing.assert_frame_equal(compare(folders[0], "exp13"), compare([folders[0]], "exp13"))


def test_runs_of_one_name_are_told_apart(repository: Path, tmp_path: Path) -> None:
    committed = repository / "results" / "measured" / "v15_2_nyu_labeled"
    copy = tmp_path / committed.name
    copy.mkdir()
    for name in ("config.json", "record.json", "history.csv"):
        (copy / name).write_bytes((committed / name).read_bytes())
    table = compare([committed, copy], "exp13", ["abs_rel"])
    parents = ["measured", tmp_path.name]
    assert list(table["run"].unique()) == [f"{parent}/{copy.name}" for parent in parents]


def test_comparing_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        compare(tmp_path, "exp13")
