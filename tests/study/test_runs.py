"""Run folders: what is recorded, and that files are replaced whole or not at all."""

from __future__ import annotations

import contextlib
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
from spdlib.study.profiles import resolve
from spdlib.study.runs import Run, describe_frames, write_bytes, write_json
from tests.records import FINISHED, RUNNING


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
    keys = {"model": "v15_2", "protocol": "eigen/exact", "sites": "points"}
    rows = {"frame": ["00000", "00001"], "abs_rel": [0.1, 0.2]}
    run.write_table("frames", pd.DataFrame(rows).assign(**keys))
    run.write_table(
        "metrics", pd.DataFrame([{**keys, "metric": "abs_rel", "value": 1, "frames": 2}])
    )
    assert run.frames["frame"].tolist() == ["00000", "00001"]
    assert run.frames["abs_rel"].tolist() == [0.1, 0.2]


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file/run/a\.json.*nothing was written"):
        write_bytes(tmp_path / "file" / "run" / "a.json", b"{}")


def test_opening_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, "x" * 5000, "a\0b"):
        with pytest.raises(RunError, match="holds no run"):
            Run.open(folder)


def test_tables_come_back(tmp_path: Path) -> None:
    run = Run(tmp_path)
    table = pd.DataFrame({"step": [1, 2], "train_loss": [0.5, 0.25]})
    table = table.assign(epoch=1.0, seconds=[0.5, 1.5], sel_abs_rel=0.3)
    run.write_table("history", table)
    pd.testing.assert_frame_equal(run.history, table)
    with pytest.raises(RunError, match=r"no table .metrics.*history"):
        _ = run.metrics


def test_record_grows_and_damage_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.update_record({**RUNNING, "seed": 1})
    assert not run.finished
    run.update_record(FINISHED)
    assert run.record == {**FINISHED, "seed": 1}
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


CONFIG = json.dumps(resolve("v15_2", "smoke", device="cpu").to_dict())
DEEP = "[" * 300 + "]" * 300


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "{", "\0", '{"a": ' + "9" * 5000 + "}", "[" * 10**5),
        *("{}", '{"model": 5}', '{"model": null}', '{"options": 3}', '{"encoder": {"a": 1}}'),
        CONFIG.replace('"v15_2"', "[3]"),
        CONFIG.replace('"seed": 0', '"seed": 1e999'),
        CONFIG.replace('"seed": 0', '"colour": 0'),
        CONFIG.replace('"image_size": [', f'"image_size": [{DEEP}, '),
    ],
)
def test_a_damaged_config_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json: .*; restore") as raised:
        _ = Run.open(tmp_path).config
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"a": ' + "9" * 5000 + "}"])
def test_a_damaged_record_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RunError, match=r"record\.json: .*; restore"):
        _ = Run(tmp_path).record


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(({name: None}, name) for name in ("status", "code", "machine", "data", "parameters")),
        ({"data": []}, "data"),
        ({"data": {"train": []}}, r"data\.train"),
        ({"data": {"train": {"frames": "4", "ids_hash": "a"}}}, r"data\.train\.frames.*'4'"),
        ({"code": []}, "code"),
        ({"code": {"commit": 5}}, r"code\.commit"),
        ({"machine": {**RUNNING["machine"], "gpus": [5]}}, r"machine\.gpus\.0"),
        ({"continued_at": 5}, "continued_at"),
        ({"continued_at": [5]}, "continued_at"),
        ({"evaluation": {"test": {}}}, r"evaluation\.test"),
        ({"best_sel_abs_rel": None}, "best_sel_abs_rel"),
        ({"steps_done": True}, "steps_done"),
    ],
)
def test_a_record_that_others_cannot_rely_on_is_one_error(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    """Whichever entry is of another kind, or missing."""
    record = {**FINISHED, **change}
    write_json(tmp_path / "record.json", record)
    with pytest.raises(RunError, match=rf"record\.json: .*{says}.*; restore it, or delete"):
        _ = Run(tmp_path).record
    write_json(tmp_path / "record.json", {k: v for k, v in record.items() if k not in change})
    optional = change.keys() & {"continued_at", "evaluation"}
    with contextlib.nullcontext() if optional else pytest.raises(RunError, match="Field required"):
        _ = Run(tmp_path).record


@pytest.mark.parametrize("text", ['{"store": 5}', '{"store": ["a"]}', '{"store": "a\\u0000b"}'])
def test_a_place_that_is_none_is_forgotten(tmp_path: Path, text: str) -> None:
    (tmp_path / "local.json").write_text(text)
    assert Run(tmp_path).store is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no readable table"),
        (b"\n\n", "no readable table"),
        (b"a,b\n1,2,3,4\n1,2\n1,2,3,4,5\n", "no readable table"),
        (b'a,b\n"1,2\n', "no readable table"),
        (b"a,b\n\xff\xfe,2\n", "no text file"),
    ],
)
def test_a_damaged_table_is_one_error(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "history.csv").write_bytes(data)
    with pytest.raises(RunError, match=rf"history\.csv: .*{message}.*; train or evaluate the run"):
        _ = Run(tmp_path).history


@pytest.mark.timeout(30)
def test_pipes_are_no_files_of_a_run(tmp_path: Path) -> None:
    for name in ("config.json", "record.json", "history.csv"):
        os.mkfifo(tmp_path / name)
    run = Run(tmp_path)
    for read in (lambda: run.config, lambda: run.record, lambda: run.history):
        with pytest.raises(RunError, match="is a pipe or a device"):
            read()
