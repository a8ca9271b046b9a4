"""The three sets of a config: which frames, and which of their arrays are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from spdlib.data.frames import Frame, Frames, Subset
from spdlib.data.rooms import Rooms
from spdlib.data.store import pack
from spdlib.errors import DataError, RunError
from spdlib.study.datasets import DataSets, InMemory, open_data, open_data_of
from spdlib.study.profiles import resolve
from spdlib.study.runs import Run, describe_frames, publish, store_of, write_json
from tests.records import RUNNING


class Measured:
    """Rooms whose depth is given twice, as raw and as in-painted."""

    def __init__(self, count: int) -> None:
        self.rooms = Rooms(count, size=(24, 32))

    @property
    def ids(self) -> list[str]:
        return self.rooms.ids

    def __len__(self) -> int:
        return len(self.rooms)

    def __getitem__(self, index: int) -> Frame:
        frame = self.rooms[index]
        depths = {"raw": frame.truth() + 1, "inpainted": frame.truth()}
        return replace(frame, depths=depths)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and three test frames."""
    path = tmp_path_factory.mktemp("datasets") / "store.h5"
    frames = Measured(15)
    pack({"train": Subset(frames, range(12)), "test": Subset(frames, range(12, 15))}, path)
    return path


def opened(store: Path, truth: str | None) -> DataSets:
    return open_data(resolve("v15_2", "nyu_labeled", device="cpu", truth=truth), store)


@pytest.mark.parametrize(
    ("truth", "read"), [(None, "inpainted"), ("inpainted", "inpainted"), ("raw", "raw")]
)
def test_training_reads_one_depth_and_the_test_all(
    store: Path, truth: str | None, read: str
) -> None:
    data = opened(store, truth)
    for frames in (data.train, data.selection):
        assert set(frames[0].depths) == {read}
    assert set(data.test[0].depths) == {"inpainted", "raw"}


def test_a_store_is_shared_out(store: Path) -> None:
    data = opened(store, None)
    assert [len(frames) for frames in data] == [11, 1, 3]
    assert len({name for frames in data for name in frames.ids}) == 15


def test_the_first_shard_is_the_first_frames_by_name(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Suspected fault F2."""
    monkeypatch.setattr("spdlib.study.datasets.SHARD", 4)
    config = resolve("v15_2", "nyu_labeled", device="cpu", data="nyu_full")
    whole = open_data(config, store)
    shard = open_data(config.but(train_subset="first_shard"), store)
    assert list(shard.train.ids) == list(whole.train.ids)[:4]
    assert list(shard.selection.ids) == list(whole.selection.ids)


def test_what_a_store_lacks_is_named(store: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no 'exact' depth but"):
        opened(store, "exact")
    frames: Frames = Measured(4)
    pack({"train": frames}, tmp_path / "train.h5")
    with pytest.raises(DataError, match="no frames in split 'test'"):
        opened(tmp_path / "train.h5", None)


def test_a_store_must_be_named(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    monkeypatch.delenv("SPD_DATA", raising=False)
    config = resolve("v15_2", "nyu_labeled", device="cpu")
    with pytest.raises(RunError, match=r"--data STORE.h5"):
        open_data(config)
    monkeypatch.setenv("SPD_DATA", str(store))
    assert len(open_data(config).test) == 3


def test_a_run_finds_the_frames_it_learned_from(
    monkeypatch: pytest.MonkeyPatch, store: Path, tmp_path: Path
) -> None:
    monkeypatch.delenv("SPD_DATA", raising=False)
    config = resolve("v15_2", "nyu_labeled", device="cpu")
    run, data = Run(tmp_path / "run"), open_data(config, store)
    write_json(run.config_path, config.to_dict())
    described = describe_frames(data.train)
    run.update_record({**RUNNING, "data": {"train": described, "selection": described}})
    with pytest.raises(RunError, match=rf"fingerprint {described['fingerprint']}.*--data STORE"):
        open_data_of(run)
    run.remember_store(store_of(data.train))
    assert open_data_of(run).test.ids == data.test.ids
    other = tmp_path / "other.h5"
    pack({"train": Subset(Measured(4), range(3)), "test": Subset(Measured(4), [3])}, other)
    with pytest.raises(RunError, match=r"learned from 'nyu_labeled' frames .*but .*other\.h5 has"):
        open_data_of(run, other)
    run.write_table("metrics", pd.DataFrame({"value": [1.0]}))
    assert publish(run, tmp_path / "public") == ["config.json", "metrics.csv", "record.json"]


def test_rooms_are_shared_out_without_overlap() -> None:
    config = resolve(
        "v15_2", "smoke", room_size=(24, 32), train_frames=4, selection_frames=2, test_frames=3
    )
    data = open_data(config)
    assert [len(frames) for frames in data] == [4, 2, 3]
    assert len({name for frames in data for name in frames.ids}) == 9
    assert all(isinstance(frames, InMemory) for frames in data)


def test_processes_make_the_same_copy_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = InMemory(Rooms(5, size=(24, 32)))
    monkeypatch.setattr("spdlib.study.datasets.ENOUGH_TO_SHARE", 5)
    shared = InMemory(Rooms(5, size=(24, 32)))
    assert shared.fingerprint == alone.fingerprint
    assert [shared[index].id for index in range(5)] == alone.ids


def test_a_store_that_rooms_would_not_read_is_refused() -> None:
    with pytest.raises(RunError, match=r"learns from rooms and reads no store, but own\.h5"):
        open_data(resolve("v15_2", "smoke"), "own.h5")
