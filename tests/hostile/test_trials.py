"""The trials of `make fuzz` and `make torture`: a small run of each, and what breaks is seen."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from spdlib.errors import DataError
from tests.hostile import fuzz, torture
from tests.hostile.readers import Reader
from tests.hostile.valid import Valid


@pytest.mark.slow
def test_small_run_of_the_fuzz(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.csv"
    assert fuzz.main(["--mutations", "120", "--only", "depth", "--out", str(out)]) == 0
    table = pd.read_csv(out)
    assert set(table["reader"]) == {"depth .png", "depth .npy", "BTS folder, depth"}
    assert (table["mutations"] == 20).all() and (table["forbidden"] == 0).all()
    outcomes = table[list(fuzz.OUTCOMES)].sum(axis=1)
    assert (outcomes == table["mutations"]).all() and table["clear_error"].sum() > 60
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["mutations"] == 120 and "commit" in record["code"]


def test_the_fuzz_sees_what_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that lets errors through, lies, dies, hangs, asks for memory, names no file."""
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    valid = Valid(tmp_path / "valid")
    valid.root.mkdir()
    good = (valid.pictures / "depth.png").read_bytes()

    def read(folder: Path) -> str:
        data = (folder / "depth.png").read_bytes()
        if data == good:
            return "good"
        kind = sum(data) % 6
        if kind == 0:
            raise KeyError("no error of the project")
        if kind == 1:
            os._exit(7)
        if kind == 2:
            time.sleep(60)
        if kind == 3:
            raise DataError("this names no file")
        if kind == 4:
            try:
                bytearray(1 << 40)
            except MemoryError as error:
                raise DataError("depth.png: needs too much") from error
        return "other"

    reader = Reader("bad", valid.pictures, "depth.png", read, "a checksum")
    queue = list(fuzz.trials([reader], 40, 0))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (row,) = fuzz.run(queue, 2, scratch, tmp_path / "kept").to_dict("records")
    seen = {name for name in fuzz.OUTCOMES if row[name]}
    assert seen >= {"other_content", "traceback", "memory", "crash", "hang"}
    assert row["forbidden"] == row["mutations"] - row["same_content"] > 30
    assert any((tmp_path / "kept").iterdir())
    assert not list(scratch.iterdir())


@pytest.mark.slow
def test_small_run_of_torture(tmp_path: Path) -> None:
    out = tmp_path / "torture.csv"
    chosen = ["--commands", "packing", "--harms", "kill -9", "limit of file sizes"]
    torture.main(["--trials", "1", *chosen, "--out", str(out)])
    table = pd.read_csv(out)
    assert list(table["harm"]) == ["kill -9", "limit of file sizes"]
    assert list(table["trials"]) == list(table["held"]) == [1, 1]
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["settings"] == {"trials": 1, "seed": 0} and "commit" in record["code"]


def test_torture_sees_what_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was there before is cut, another stays, and a process lives on."""
    command: Any = torture.Packing(tmp_path)
    command.words = lambda folder: ["-c", f"open({str(folder / 'store.h5')!r}, 'w')"]
    reference = torture.Reference("", ["store.h5"], 60.0, 100)
    trial = torture.Trial(0.5)
    trial.run(command, "SIGTERM", torture.fresh(tmp_path), reference)
    assert "not a readable HDF5 file" in trial.broken
    command.check_kept, command.outcome = lambda folder: None, lambda folder: "other"
    trial.run(command, "SIGTERM", torture.fresh(tmp_path), reference)
    assert "the outcome is another" in trial.broken
    command.outcome = lambda folder: ""
    (torture.fresh(tmp_path) / "left.tmp").touch()
    trial.run(command, "SIGTERM", tmp_path / "trial", reference)
    assert "other files are left than undisturbed: ['left.tmp']" in trial.broken
    code = "import subprocess; subprocess.Popen(['sleep', '100'], start_new_session=True)"
    command.words = lambda folder: ["-c", code]
    monkeypatch.setattr(torture, "PATIENCE", 3.0)
    trial.run(command, "SIGTERM", torture.fresh(tmp_path), reference)
    assert "left processes: ['sleep 100']" in trial.broken
    assert torture.family() == []
