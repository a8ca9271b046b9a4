"""The frames that a config names: three sets, from procedural rooms or from a packed store."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader

from spdlib.data.frames import TRUTHS, Frame, Frames, Subset, selection_split
from spdlib.data.rooms import Rooms
from spdlib.data.store import PackedFrames, info
from spdlib.data.workers import from_workers, leave_signals_to_parent
from spdlib.errors import RunError
from spdlib.machine import usable_cores
from spdlib.study.config import RunConfig
from spdlib.study.experiments import SHARD
from spdlib.study.runs import Run

ENOUGH_TO_SHARE = 64
"""Frames that are worth starting processes for."""


class DataSets(NamedTuple):
    """Frames to learn from, to choose weights by, and to report on."""

    train: Frames
    selection: Frames
    test: Frames


class InMemory:
    """A copy of all frames of a source, made once, for sources that are slow to ask.

    Many frames are made by as many processes as there are cores. `provenance` is the source's, if
    it has one; copies of one `fingerprint` hold equal frames.
    """

    def __init__(self, frames: Frames) -> None:
        self.ids = list(frames.ids)
        self.provenance: dict[str, Any] = dict(getattr(frames, "provenance", {}))
        workers = usable_cores() if len(frames) >= ENOUGH_TO_SHARE else 0
        source: Any = frames
        loader = DataLoader[Frame](
            source, batch_size=None, num_workers=workers, worker_init_fn=leave_signals_to_parent
        )
        with from_workers():
            self._frames = list(loader)
        self.fingerprint = _fingerprint(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Frame:
        return self._frames[index]


def _fingerprint(frames: list[Frame]) -> str:
    """SHA-256 of names, cameras, images and depths."""
    digest = hashlib.sha256()
    for frame in frames:
        head = [frame.id, asdict(frame.camera), sorted(frame.depths), frame.valid_box]
        digest.update(json.dumps(head).encode())
        for array in (frame.image, *(frame.depths[name] for name in sorted(frame.depths))):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def open_data(config: RunConfig, store: str | Path | None = None) -> DataSets:
    """Open the three sets of a config.

    Rooms are rendered into memory once. A store's training split is divided into training and
    selection frames by `selection_split`; only the depth to learn from is read. The first shard
    is the first 4,133 frames by name, as experiments 1 to 10 were given (F2). The test split,
    with every depth, is left alone until it is reported on.

    The packed store is needed for data other than rooms; default: the environment's SPD_DATA.

    RunError: no store is named, or one is given for rooms.
    DataError: the store cannot be read or lacks a split.
    """
    if config.data.source == "rooms":
        if store:
            raise RunError(
                f"profile {config.profile!r} learns from rooms and reads no store, but {store} is "
                "given (--data); leave it out, or choose a profile for real frames: nyu_labeled"
            )
        return _rooms(config)
    path = store or os.environ.get("SPD_DATA")
    if not path:
        raise RunError(
            f"profile {config.profile!r} learns from {config.data.source!r}: give the packed store "
            "(--data STORE.h5, or the environment's SPD_DATA); data/README.md says how to make one "
            "with `python -m spdlib data pack`"
        )
    # the one depth that is learned from: unnamed, the first that `Frame.truth` would take
    stored = [name for name in TRUTHS if name in info(path)["truths"]]
    learned = stored[:1] if config.data.truth is None else [config.data.truth]
    train = PackedFrames(path, "train", learned)
    learn, select = selection_split(len(train))
    if config.data.train_subset == "first_shard":
        learn = learn[:SHARD]
    test = PackedFrames(path, "test")
    return DataSets(Subset(train, learn), Subset(train, select), test)


def open_data_of(run: Run, store: str | Path | None = None) -> DataSets:
    """Open the three sets that a run was trained with.

    The packed store is by default the one that the run read, then the environment's SPD_DATA.

    RunError: no store is known, or it holds other frames than those that the run learned from.
    DataError: the store cannot be read or lacks a split.
    """
    if run.config.data.source == "rooms":
        return open_data(run.config, store)
    began = run.record.get("data", {}).get("train", {}).get("fingerprint")
    path = store or run.store or os.environ.get("SPD_DATA")
    wanted = f"{run.folder} learned from {run.config.data.source!r} frames of fingerprint {began}"
    if not path:
        raise RunError(
            f"{wanted}, which are not where they were; give their packed store (--data STORE.h5, "
            "or the environment's SPD_DATA)"
        )
    found = info(path)["fingerprint"]
    if began is not None and found != began:
        raise RunError(f"{wanted}, but {path} has {found}; give their packed store (--data)")
    return open_data(run.config, path)


def _rooms(config: RunConfig) -> DataSets:
    """Rooms one after the other, so that no room is in two sets."""
    data, sets, start = config.data, [], 0
    for count in (data.train_frames, data.selection_frames, data.test_frames):
        size = data.room_size or config.model.image_size
        sets.append(InMemory(Rooms(count, seed=config.seed, size=size, start=start)))
        start += count
    return DataSets(*sets)
