"""Run folders: what is recorded, and that files are replaced whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from spdlib.data.frames import Frames, Subset
from spdlib.data.rooms import Rooms
from spdlib.data.store import PackedFrames, pack
from spdlib.errors import RunError
from spdlib.study.datasets import InMemory
from spdlib.study.runs import Run, describe_frames, write_bytes


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

    monkeypatch.setattr(os, broken, full)
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
    with pytest.raises(RunError, match=r"record\.json: cannot be read"):
        _ = run.record
    run.record_path.write_text("[1]")
    with pytest.raises(RunError, match="list"):
        _ = run.record


def test_frames_are_described_by_content_not_by_path(tmp_path: Path, rooms: Frames) -> None:
    store = tmp_path / "store.h5"
    pack({"train": Subset(rooms, [0, 1, 2])}, store, {"source": "rooms"})
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
