"""Questions to a network: which points, which frames, which network, how fast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import spdlib
from spdlib.data.frames import Frame
from spdlib.errors import ConfigError, DataError, ModelError
from spdlib.geometry import NYU_CAMERA
from spdlib.study.runs import Run
from spdlib.view import questions
from tests.records import FINISHED


class Slopes:
    """Frames whose depth grows to the right and whose pictures are noise."""

    def __init__(self) -> None:
        self.ids = ["slope_0", "slope_1", "slope_2"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Frame:
        image = np.random.default_rng(index).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        depth = np.tile(np.linspace(1, 4 + index, 96, dtype=np.float32), (64, 1))
        return Frame(self.ids[index], image, {"exact": depth}, NYU_CAMERA.resized(64, 96))


@pytest.fixture(scope="module")
def model() -> spdlib.models.DepthModel:
    torch.manual_seed(0)
    focal = NYU_CAMERA.resized(64, 96).focal
    made = spdlib.create_model("v15_2", "mobilenetv2_035", image_size=(64, 96), focal=focal)
    return made.eval()


def test_times_cover_the_encoding_and_every_count(model: spdlib.models.DepthModel) -> None:
    frame = Slopes()[0]
    times = questions.time_answers(model, frame.image, frame.camera, (1, 16))
    assert times["operation"].tolist() == [
        "encode the image, once",
        "queries",
        "queries",
        "whole map",
    ]
    assert times["queries"].tolist() == [0, 1, 16, 64 * 96]
    assert (times["milliseconds"] > 0).all()


def test_pictures_are_unseen_rooms_or_the_users_own(tmp_path: Path) -> None:
    room = questions.look_at("", 0, 3)
    assert room.lens == "known"
    assert room.truth is not None and room.truth.shape == room.image.shape[:2] == room.camera.size
    assert not np.array_equal(room.image, questions.look_at("", 0, 4).image)
    Image.new("RGBA", (40, 30), (10, 20, 30, 255)).save(tmp_path / "photo.png")
    own = questions.look_at(str(tmp_path / "photo.png"), 33.0, 0)
    assert own.image.shape == (30, 40, 3) and own.truth is None
    assert own.lens == "as you gave it"
    assert (own.camera.fx, own.camera.cx, own.camera.cy) == (33.0, 19.5, 14.5)
    assumed = questions.look_at(str(tmp_path / "photo.png"), 0, 0)
    assert "assumed" in assumed.lens
    assert assumed.camera.focal / 30 == pytest.approx(NYU_CAMERA.focal / 480)


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"photo\.jpg cannot be read as a picture"):
        questions.look_at(str(tmp_path / "photo.jpg"), 0, 0)


def test_a_grid_lies_at_the_centres_of_equal_rectangles() -> None:
    camera = NYU_CAMERA.resized(60, 80)
    points = questions.grid(camera, columns=4, rows=3)
    assert points[:2].tolist() == [[9.5, 9.5], [29.5, 9.5]]
    assert points[-1].tolist() == [69.5, 49.5]


def test_depths_leave_unmeasured_pixels_out() -> None:
    depths = questions.depths_of(Slopes())
    assert depths.shape == (3 * 64 * 96,) and depths.min() == 1


def test_a_given_network_is_taken(model: spdlib.models.DepthModel, tmp_path: Path) -> None:
    model.save(tmp_path / "best")
    network, origin = questions.any_network(str(tmp_path / "best"), "demo", 0)
    assert network.fingerprint() == model.fingerprint()
    assert "best" in origin
    of_run, _ = questions.any_network(str(tmp_path), "demo", 0)
    assert of_run.fingerprint() == model.fingerprint()
    with pytest.raises(ModelError, match=r"config\.json"):
        questions.any_network(str(tmp_path / "nowhere"), "demo", 0)
    with pytest.raises(ConfigError, match="profile must be one of"):
        questions.any_network("", "paper", 0)


def test_the_demos_network_is_found(
    model: spdlib.models.DepthModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "results" / "runs" / "06_v15_2")
    model.save(run.best)
    run.update_record(FINISHED)
    network, origin = questions.any_network("", "demo", 0)
    assert network.fingerprint() == model.fingerprint()
    assert "AbsRel 0.200" in origin
