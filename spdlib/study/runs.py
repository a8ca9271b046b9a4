"""A run's folder: what was trained, on what, by which machine, with which result.

One folder holds one run: the resolved config, a record of everything else needed to repeat it,
tidy tables, and weights as safetensors. Every file is written to a temporary name, synced and
renamed, so that a crash or a full disk leaves the previous file whole. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy

from spdlib import disk
from spdlib.data.frames import Frames
from spdlib.data.store import PackedFrames, info
from spdlib.disk import DEFAULT_ROOT as DEFAULT_ROOT
from spdlib.errors import RunError
from spdlib.reading import read_json, reading, reading_settings, regular_file
from spdlib.study.config import RunConfig
from spdlib.study.record import checked
from spdlib.study.tables import COLUMNS, read_table, require_all_frames

FIGURES_OF_FRAMES = ("frames", "error_maps", "where_near", "where_far")
"""Figures that show images of the data, which may not be redistributed."""

Arrays = Mapping[str, Mapping[str, np.ndarray]]
"""Id of a frame -> name -> array."""


def hash_of(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a JSON value, keys sorted."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe_frames(frames: Frames) -> dict[str, Any]:
    """What identifies a set of frames in a record: count, hash of the names, provenance.

    Stores and copies in memory add the fingerprint of their content. Files appear by content,
    never by path.
    """
    described: dict[str, Any] = {"frames": len(frames), "ids_hash": hash_of(list(frames.ids))}
    source = _source(frames)
    provenance = getattr(source, "provenance", None)
    if provenance is not None:
        described["provenance"] = dict(provenance)
    if isinstance(source, PackedFrames):
        described["fingerprint"] = info(source.path)["fingerprint"]
    elif hasattr(source, "fingerprint"):
        described["fingerprint"] = source.fingerprint
    return described


def store_of(frames: Frames) -> Path | None:
    """The packed store that frames are read from; None for other frames."""
    source = _source(frames)
    return Path(source.path).resolve() if isinstance(source, PackedFrames) else None


def _source(frames: Any) -> Any:
    """What a subset or a copy in memory is taken from."""
    while hasattr(frames, "frames"):
        frames = frames.frames
    return frames


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a run's file by rename.

    RunError: the file cannot be written; the previous one, if any, is untouched.
    """
    disk.write_bytes(path, data, RunError)


def write_json(path: str | Path, value: Any) -> None:
    """Write an indented JSON file by rename. Raises RunError if that is impossible."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a CSV file by rename. Raises RunError if that is impossible."""
    write_bytes(path, table.to_csv(index=False).encode())


class _Place:
    """An attribute of a run that is the path of a file or folder in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: Run, owner: type[Run]) -> Path:
        return run.folder / self.name


class _Table:
    """An attribute of a run that reads the table of its name."""

    def __set_name__(self, owner: type[Run], name: str) -> None:
        self.name = name

    def __get__(self, run: Run, owner: type[Run]) -> pd.DataFrame:
        return run.table(self.name)


@dataclass(frozen=True)
class Run:
    """The folder of one run.

    After an evaluation it also holds metrics.csv and the tables below it, examples.safetensors and
    answers.safetensors; these two show frames that may not be redistributed and are never
    published.
    """

    folder: Path

    config_path = _Place("config.json")
    """The resolved config."""
    record_path = _Place("record.json")
    """Hashes, code version, machine, data provenance, deviations, times and status."""
    best = _Place("best")
    """Weights of the best evaluation, for `spdlib.load`."""
    last = _Place("last")
    """Weights of the last checkpoint, for `spdlib.load`, and the resumable state."""
    state_path = _Place("last/state.safetensors")
    _local_path = _Place("local.json")
    """Places on this machine: no part of the record, and never published."""

    history = _Table()
    """One row an evaluation: losses, rates, selection scores, ranges, times."""
    gradients = _Table()
    """Which parameters the last evaluated step's gradient reached, by component."""
    metrics = _Table()
    """model, protocol, sites, metric, value, frames."""
    bins = _Table()
    """model, protocol, sites, bin, abs_rel, delta1, count."""

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open an existing run. RunError: the folder holds no run."""
        run = cls(Path(folder))
        if not run.exists:
            raise RunError(
                f"{folder} holds no run: {run.config_path.name} is missing; "
                "give the folder that `train` wrote"
            )
        return run

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return os.path.isfile(self.config_path)  # which, unlike Path, takes any name

    @property
    def config(self) -> RunConfig:
        """The resolved config. RunError: it is damaged, or not of this version."""
        values = read_json(self.config_path, RunError)
        with reading_settings(
            self.config_path, "is no configuration of a run", "restore it", RunError
        ):
            return RunConfig.from_dict(values)

    @property
    def record(self) -> dict[str, Any]:
        """The record as it is now. RunError: it is damaged, or lacks what others rely on."""
        return checked(self.record_path, read_json(self.record_path, RunError))

    @property
    def frames(self) -> pd.DataFrame:
        """Scores of every frame, for paired comparisons.

        RunError: not those of as many frames as the metrics say.
        """
        table = self.table("frames")
        require_all_frames(self.folder / "frames.csv", table, self.metrics)
        return table

    @property
    def store(self) -> Path | None:
        """The packed store that was learned from, where it still lies there on this machine."""
        local = read_json(self._local_path, RunError) if self._local_path.is_file() else {}
        known = local.get("store")
        return Path(known) if isinstance(known, str) and Path(known).is_file() else None

    def remember_store(self, path: Path | None) -> None:
        """Note where the packed store lies, for an evaluation on this machine."""
        write_json(self._local_path, {"store": None if path is None else str(path)})

    def require(self, path: Path) -> Path:
        """A file that training has written here. RunError: it is gone."""
        if not os.path.lexists(path):
            raise RunError(
                f"{path}: is gone; restore it, or delete the folder {self.folder} and train again"
            )
        return regular_file(path, RunError)

    def saved(self, place: Path) -> Path:
        """The folder of a network that training has saved, `best` or `last`. RunError: it is gone.

        A part of it may be, too.
        """
        for name in ("config.json", "model.safetensors"):
            self.require(place / name)
        return place

    @property
    def finished(self) -> bool:
        """Whether training ended by itself."""
        return self.record_path.is_file() and self.record.get("status") == "finished"

    def update_record(self, changes: Mapping[str, Any]) -> None:
        """Merge `changes` into record.json."""
        known = self.record if self.record_path.is_file() else {}
        write_json(self.record_path, {**known, **changes})

    def table(self, name: str) -> pd.DataFrame:
        """Read the table `name`.csv of this run. RunError: it is missing, damaged or no table."""
        path = self.folder / f"{name}.csv"
        if not path.exists():
            have = sorted(found.stem for found in self.folder.glob("*.csv"))
            raise RunError(f"{self.folder} has no table {name!r}; it has {have}")
        return read_table(path, COLUMNS.get(name))

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write the table `name`.csv of this run by rename."""
        write_table(self.folder / f"{name}.csv", table)

    def write_arrays(self, name: str, arrays: Arrays) -> None:
        """Write arrays of frames to `name`.safetensors by rename.

        Its tensors are called "NUMBER.NAME", by the frame's place in `ids`, a JSON list in the
        metadata.
        """
        tensors = {
            f"{number}.{field}": np.ascontiguousarray(array)
            for number, of_frame in enumerate(arrays.values())
            for field, array in of_frame.items()
        }
        data = safetensors.numpy.save(tensors, {"ids": json.dumps(list(arrays))})
        write_bytes(self.folder / f"{name}.safetensors", data)


def publish(run: Run, target: str | Path) -> list[str]:
    """Copy a run's config, record, tables and figures to a folder that may be committed.

    Weights, examples and figures that show frames of real data stay behind. Returns the names of
    the copied files. The run's folder is only read, whoever works there.

    RunError: the run has not been evaluated, or the folder holds something else (a configuration
        that is no run's) or cannot be written.
    """
    if (there := Run(Path(target))).exists:
        _ = there.config  # a network's or another tool's is not written over
    if not (run.folder / "metrics.csv").is_file():
        raise RunError(f"{run.folder} has no metrics.csv; evaluate the run before publishing it")
    shown = () if run.config.data.source == "rooms" else FIGURES_OF_FRAMES
    figures = (path for path in run.folder.glob("figures/*.png") if path.stem not in shown)
    files = [run.config_path, run.record_path, *run.folder.glob("*.csv"), *figures]
    contents = {}
    for path in sorted(files):  # all are read before the first is written
        with reading(path, error=RunError, remedy="remove it, or evaluate the run again"):
            contents[path] = regular_file(path, RunError).read_bytes()
    for path, data in contents.items():
        write_bytes(Path(target) / path.relative_to(run.folder), data)
    return sorted(str(path.relative_to(run.folder)) for path in files)
