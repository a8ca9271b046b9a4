"""A folder of one's own frames, from its files to a trained network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spdlib.__main__ import main
from spdlib.data.rooms import Rooms
from spdlib.data.store import info
from spdlib.study.runs import Run

SMALL = (
    "steps=1",
    "batch_size=2",
    "image_size=[64,96]",
    "points=16",
    "evaluate_every=1",
    "encoder=mobilenetv2_035",
    "pretrained=false",
)


def write_folder(root: Path, count: int) -> Path:
    """Rooms as a user would bring them: pictures, depth in millimetres, cameras, no splits."""
    rooms = Rooms(count, size=(72, 96))
    rows = ["frame,fx,fy,cx,cy"]
    for name in ("rgb", "depth"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        frame = rooms[i]
        Image.fromarray(frame.image).save(root / "rgb" / f"shot_{i}.png")
        millimetres = np.rint(frame.truth() * 1000).astype(np.uint16)
        Image.fromarray(millimetres).save(root / "depth" / f"shot_{i}.png")
        camera = frame.camera
        rows.append(f"shot_{i},{camera.fx},{camera.fy},{camera.cx},{camera.cy}")
    (root / "cameras.csv").write_text("\n".join(rows))
    return root


def test_a_folder_without_splits_is_packed_and_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPD_WEIGHTS", raising=False)  # of another encoder
    folder, store, run = write_folder(tmp_path / "own", 12), tmp_path / "own.h5", tmp_path / "run"
    assert main(["data", "pack", str(folder), str(store)]) == 0
    said = "of 12 sorted frames the first 11 train, the last 1 test, 0 between them are left out"
    assert f"the split is made here: {said}" in capsys.readouterr().out
    report = info(store)
    assert report["splits"] == {"train": 11, "test": 1}
    assert report["provenance"]["split_by"] == said
    arguments = ["train", "v15_2", "--profile", "nyu_labeled", "--device", "cpu", "--workers", "0"]
    settings = [word for item in SMALL for word in ("--set", item)]
    assert main([*arguments, *settings, "--data", str(store), "--out", str(run)]) == 0
    assert Run(run).record["data"]["train"]["provenance"]["split_by"] == said


def test_a_folder_of_too_few_frames_is_refused_when_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "own", 3)
    assert main(["data", "pack", str(folder), str(tmp_path / "own.h5")]) == 2
    assert "3 frames are too few to set some apart for testing; bring at least 5" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "own.h5").exists()


def test_a_camera_in_millimetres_is_refused_when_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_folder(tmp_path / "mine", 12) / "cameras.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([rows[0], "shot_0,4.2,4.2,47.5,35.5", *rows[2:]]))
    assert main(["data", "pack", str(tmp_path / "mine"), str(tmp_path / "store.h5")]) == 2
    assert "cameras.csv, frame 'shot_0': Camera(fx=" in capsys.readouterr().err
