from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spdlib.data.frames import NYU_VALID_BOX, Frame, Subset
from spdlib.data.queries import eigen_mask
from spdlib.data.store import PackedFrames, pack
from spdlib.errors import DataError
from spdlib.geometry import NYU_CAMERA, Camera, lattice_points
from spdlib.study import entrants
from spdlib.study.entrants import PixelMap, constant, fit_image_free, weighted_medians
from spdlib.study.metrics import EigenMetrics


class Stack:
    """Frames with given depths and black images, which remembers who was looked at."""

    def __init__(self, depths: np.ndarray, **others: np.ndarray) -> None:
        self.depths = {
            name: each.astype(np.float32) for name, each in {"exact": depths, **others}.items()
        }
        self.ids = [str(i) for i in range(len(depths))]
        self.asked: set[int] = set()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Frame:
        self.asked.add(index)
        depths = {name: each[index] for name, each in self.depths.items()}
        height, width = depths["exact"].shape
        image = np.zeros((height, width, 3), np.uint8)
        camera = Camera(50, 50, width / 2, height / 2, width, height)
        return Frame(self.ids[index], image, depths, camera)


def abs_rel(value: float, depths: np.ndarray) -> float:
    measured = depths[depths > 0].astype(np.float64)
    return float(np.mean(np.abs(value - measured) / measured))


def test_weighted_median_minimises_the_relative_error() -> None:
    rng = np.random.default_rng(0)
    depths = rng.integers(500, 9000, (20, 31)).astype(np.uint16)
    depths[:, :10][rng.random((20, 10)) < 0.5] = 0
    for row, best in zip(depths, weighted_medians(depths), strict=True):
        errors = [abs_rel(float(value), row) for value in row[row > 0]]
        assert abs_rel(float(best), row) == pytest.approx(min(errors), rel=1e-12)
    assert weighted_medians(np.zeros((1, 4), np.uint16))[0] == 0


@pytest.mark.parametrize("block", [1, 2**26])
def test_both_baselines_minimise_training_abs_rel(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrants, "BLOCK_BYTES", block)
    depths = np.round(np.random.default_rng(1).uniform(0.5, 9, (25, 6, 8)), 3)
    depths[np.random.default_rng(2).random(depths.shape) < 0.2] = 0
    depths[:, 2, 3] = 0
    fitted = fit_image_free(Stack(depths))["exact"]
    best = float(fitted["constant"].depth)
    for other in (best - 0.002, best + 0.002, best * 1.1, best * 0.9):
        assert abs_rel(best, depths) <= abs_rel(other, depths) + 1e-9
    for row in range(6):
        for column in range(8):
            value, column_depths = (
                float(fitted["pixel_map"].depth[row, column]),
                depths[:, row, column],
            )
            if not column_depths.any():
                assert value == pytest.approx(best)
                continue
            least = min(abs_rel(d, column_depths) for d in column_depths[column_depths > 0])
            assert abs_rel(value, column_depths) == pytest.approx(least, rel=1e-6)


def test_the_map_answers_points_and_dense_under_the_half_pixel_rule() -> None:
    ramp = PixelMap(torch.arange(8.0).expand(6, 8).contiguous())
    sites = lattice_points((6, 8), (48, 64)).reshape(2, 24, 2)
    assert torch.allclose(ramp.depth_at(sites, (48, 64)).flatten(), ramp.depth.flatten(), atol=1e-5)
    pixels = lattice_points((48, 64), (48, 64))
    dense = ramp.dense((48, 64))
    assert dense.shape == (48, 64)
    assert torch.allclose(ramp.depth_at(pixels, (48, 64)), dense.flatten(), atol=1e-5)
    assert torch.equal(constant(2.5).depth_at(pixels[:5], (48, 64)), torch.full((5,), 2.5))


def test_other_sizes_read_the_nearest_pixel() -> None:
    larger = np.full((4, 8), 3, np.float32)
    larger[:, :4] = 1
    frames = Stack(np.ones((2, 2, 4)))
    depths: Any = [np.zeros((2, 4), np.float32), larger]
    frames.depths["exact"] = depths
    fitted = fit_image_free(frames)["exact"]
    assert fitted["pixel_map"].depth.tolist() == [[1.0, 1.0, 3.0, 3.0]] * 2


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one"):
        fit_image_free(Stack(np.zeros((0, 4, 4))))
    with pytest.raises(DataError, match="measured"):
        fit_image_free(Stack(np.zeros((2, 4, 4))))


def two_truths() -> Stack:
    """Nine frames; their raw depth lacks all that is far, as a sensor's does."""
    exact = np.round(np.random.default_rng(3).uniform(1, 9, (9, 4, 8)), 3)
    return Stack(exact, raw=np.where(exact < 4, exact, 0))


def test_each_truth_has_baselines_of_its_own() -> None:
    frames = two_truths()
    fitted = fit_image_free(frames)
    assert list(fitted) == ["raw", "exact"]
    best = {truth: float(each["constant"].depth) for truth, each in fitted.items()}
    for truth, other in (("raw", "exact"), ("exact", "raw")):
        own = frames.depths[truth]
        assert abs_rel(best[truth], own) < abs_rel(best[other], own) - 0.05
        assert torch.equal(
            fitted[truth]["pixel_map"].depth, fit_image_free(Stack(own))["exact"]["pixel_map"].depth
        )


def test_of_a_store_every_truth_is_fitted_whichever_training_reads(tmp_path: Path) -> None:
    frames = two_truths()
    pack({"train": frames}, tmp_path / "store.h5")
    train = PackedFrames(tmp_path / "store.h5", "train", ["exact"])
    assert set(train[0].depths) == {"exact"}
    fitted = fit_image_free(Subset(train, range(1, 8)))
    for truth, each in fit_image_free(Subset(frames, range(1, 8))).items():
        found = fitted[truth]["pixel_map"].depth
        torch.testing.assert_close(found, each["pixel_map"].depth, atol=1e-3, rtol=0)


def test_large_sets_are_fitted_to_frames_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrants, "FRAMES", 5)
    depths = np.random.default_rng(4).uniform(1, 9, (41, 4, 8))
    frames = Stack(depths)
    fitted = fit_image_free(frames)["exact"]
    assert frames.asked == {0, 10, 20, 30, 40}
    few = fit_image_free(Stack(depths[::10]))["exact"]
    for name, each in fitted.items():
        assert torch.equal(each.depth, few[name].depth)
        assert each.fitted_to == "5 of 41 training frames (exact)"
        assert few[name].fitted_to == "5 of 5 training frames (exact)"


def test_no_file_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under a mapped file would kill the process after the whole training."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a scratch file")

    monkeypatch.setattr("numpy.memmap", refuse)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    fit_image_free(two_truths())


class NyuDepths:
    """Every n-th frame of one official split, depth only."""

    def __init__(self, folder: Path, split: str, step: int) -> None:
        pattern = f"official_splits/{split}/*/sync_depth_*.png"
        self.files = sorted(folder.glob(pattern), key=lambda file: file.name)[::step]
        self.ids = [file.stem for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Frame:
        depth = np.asarray(Image.open(self.files[index]), dtype=np.float32) / 1000
        image = np.zeros((480, 640, 3), np.uint8)
        return Frame(
            self.ids[index], image, {"inpainted": depth}, NYU_CAMERA, valid_box=NYU_VALID_BOX
        )


def test_scores_on_real_frames(nyu_dir: Path) -> None:
    """All 795 / 654 frames give 0.361 and 0.325; every eighth of them must come near."""
    fitted = fit_image_free(NyuDepths(nyu_dir, "train", 8))["inpainted"]
    answers = {name: baseline.dense((480, 640)) for name, baseline in fitted.items()}
    scores = {name: EigenMetrics() for name in fitted}
    test = NyuDepths(nyu_dir, "test", 8)
    for i in range(len(test)):
        truth = torch.from_numpy(test[i].truth())
        valid = eigen_mask(truth)[::4, ::4]
        for name, answer in answers.items():
            scores[name].update(answer[::4, ::4], truth[::4, ::4], valid, i)
    assert 0.33 < scores["constant"].compute()["abs_rel"] < 0.39
    assert 0.30 < scores["pixel_map"].compute()["abs_rel"] < 0.36
    assert 1.8 < float(fitted["constant"].depth) < 2.3
