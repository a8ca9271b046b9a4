"""Frames as real RGB-D cameras write them: read with exact values, or one clear error.

Scenes are NYU's where SPD_NYU_DIR names them, and procedural rooms everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spdlib.data.frames import Frame
from spdlib.data.rooms import Rooms
from spdlib.data.sources import BTSFolder, PlainFolder
from spdlib.data.store import PackedFrames, pack, verify
from spdlib.errors import DataError


@pytest.fixture(scope="module", params=["rooms", "nyu"])
def scene(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 [H, W, 3] and its depth in whole millimetres uint16 [H, W] without holes."""
    if request.param == "nyu":
        frame: Frame = BTSFolder(request.getfixturevalue("nyu_dir"), "train")[100]
    else:
        frame = Rooms(1, size=(48, 64))[0]
    return frame.image, np.rint(frame.truth() * 1000).astype(np.uint16)


def write(root: Path, image: np.ndarray, depth: np.ndarray, image_suffix: str = ".png") -> Path:
    """A folder of one frame; floats are saved as .npy, integers as PNG."""
    for name in ("rgb", "depth"):
        (root / name).mkdir(parents=True)
    Image.fromarray(image).save(root / "rgb" / f"a{image_suffix}")
    if depth.dtype.kind == "f":
        np.save(root / "depth" / "a.npy", depth)
    else:
        Image.fromarray(depth).save(root / "depth" / "a.png")
    height, width = image.shape[:2]
    camera = f"a,{width},{width},{(width - 1) / 2},{(height - 1) / 2},train"
    (root / "cameras.csv").write_text(f"frame,fx,fy,cx,cy,split\n{camera}\n")
    return root


def holes(depth: np.ndarray, mark: float) -> tuple[np.ndarray, np.ndarray]:
    """The depth with a blind left border and a hole that hold `mark`, and where they are."""
    blind = np.zeros(depth.shape, bool)
    blind[:, : depth.shape[1] // 12] = True  # the other camera's view ends here
    blind[10:30, 20:40] = True  # a window
    return np.where(blind, np.array(mark, depth.dtype), depth), blind


def read(root: Path, image: np.ndarray, **options: float) -> np.ndarray:
    """Depth of the frame in metres, the same from the folder and from a store packed of it."""
    frames = PlainFolder(root, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(frames[0].image, image)
    pack({"train": frames}, root / "store.h5")
    verify(root / "store.h5")
    depth = frames[0].truth("raw")
    np.testing.assert_array_equal(PackedFrames(root / "store.h5")[0].truth("raw"), depth)
    return depth


def refused(root: Path, message: str) -> None:
    """One line that names the file and the remedy, from reading and from packing."""
    with pytest.raises(DataError, match=message) as caught:
        PlainFolder(root)[0]
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match=message):
        pack({"train": PlainFolder(root)}, root / "store.h5")
    assert not (root / "store.h5").exists()


Scene = tuple[np.ndarray, np.ndarray]


# -------------------- read exactly


def test_azure_and_scannet_millimetres(tmp_path: Path, scene: Scene) -> None:
    """uint16 millimetres, 0 where nothing was measured."""
    image, millimetres = scene
    stored, _ = holes(millimetres, 0)
    depth = read(write(tmp_path / "a", image, stored), image)
    np.testing.assert_array_equal(depth, stored.astype(np.float32) / np.float32(1000))


def test_tum_fifths_of_millimetres(tmp_path: Path, scene: Scene) -> None:
    """5,000 steps a metre, 0 where nothing was measured; 65535 would be 13.1 m."""
    image, millimetres = scene
    stored, blind = holes(millimetres.astype(np.uint16) * np.uint16(5), 0)
    depth = read(write(tmp_path / "a", image, stored), image, depth_scale=1 / 5000)
    np.testing.assert_allclose(depth, np.where(blind, 0, millimetres / 1000), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_metres(tmp_path: Path, scene: Scene, dtype: type) -> None:
    """ARKit's floats and half floats, holes as 0."""
    image, millimetres = scene
    stored, _ = holes((millimetres / 1000).astype(dtype), 0)
    depth = read(write(tmp_path / "a", image, stored), image)
    np.testing.assert_array_equal(depth, stored.astype(np.float32))


def test_registered_depth_of_few_pixels(tmp_path: Path, scene: Scene) -> None:
    """Registered to a wider colour camera: black borders, and most of the rest is missing."""
    image, millimetres = scene
    stored = np.zeros_like(millimetres)
    inner = (slice(12, -12), slice(16, -16))
    stored[inner] = millimetres[inner]
    stored[np.random.default_rng(0).random(stored.shape) < 0.7] = 0
    assert 0.02 < np.count_nonzero(stored) / stored.size < 0.3
    depth = read(write(tmp_path / "a", image, stored), image)
    np.testing.assert_array_equal(depth, stored.astype(np.float32) / np.float32(1000))


# -------------------- refused, with the remedy


Change = Callable[[np.ndarray], np.ndarray]


def raw_kinect(millimetres: np.ndarray) -> np.ndarray:
    """A Kinect's disparity of 11 bits: about 1091 - 349000 / millimetres."""
    return holes((1091.5 - 348_000 / millimetres.clip(500)).astype(np.uint16), 2047)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (raw_kinect, r"pixels hold 2047, .* Kinect's raw disparity; convert it to millimetres"),
        (lambda mm: holes(mm, 65535)[0], "pixels hold 65535, which marks missing .*; write 0"),
        (lambda mm: holes(mm * np.uint16(5), 65535)[0], "pixels hold 65535, which marks missing"),
        (lambda mm: holes(mm / 1000, np.nan)[0], r"NaN or infinite depth in [\d,]+ pixels; w"),
        (lambda mm: holes(mm / 1000, np.inf)[0], r"NaN or infinite depth in [\d,]+ pixels; w"),
        (lambda mm: holes((mm / 1000).astype(np.float16), 65504)[0], "hold 65504 m, .*; write 0"),
        (lambda mm: holes(mm / 1000, 65.535)[0], "pixels hold 65.535 m, .*; write 0 where"),
        (lambda mm: holes(mm / 1000, 1000.0)[0], "pixels hold 1000 m, .*; write 0 where"),
        (lambda mm: holes(mm / 1000, 1e-7)[0], "pixels hold 1e-07 m, .*; write 0 where"),
        (lambda mm: holes(mm / 1000, -1)[0], "negative depth .*; write 0 where"),
        (lambda mm: mm << 3 | mm >> 13, r"depth is \d+\.?\d* m, outside|multiples of 8|hold 6\d"),
        (lambda mm: mm.astype(float), "millimetres read as metres"),
        (lambda mm: (mm // 1000).astype(np.uint16), "metres read as millimetres"),
        (lambda mm: (mm // 40).astype(np.uint8), "8-bit depth cannot hold millimetres"),
        (lambda mm: mm.T, r"raw is \d+x\d+ \(height x width\); transpose one of them"),
        (lambda mm: mm[::2, ::2], r"raw is \d+x\d+ \(height x width\); give both at the same size"),
    ],
    ids=["kinect-2047", "mm-65535", "tum-65535", "nan", "inf", "half-max", "65.535", "1000", "tiny",
         "minus", "sun-rgbd", "mm-floats", "metres", "8-bit", "transposed", "smaller"],
)  # fmt: skip
def test_marks_and_units_that_are_no_depth(
    tmp_path: Path, scene: Scene, change: Change, message: str
) -> None:
    image, millimetres = scene
    refused(write(tmp_path / "a", image, np.ascontiguousarray(change(millimetres))), message)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_phones_that_store_pictures_on_their_side(
    tmp_path: Path, scene: Scene, suffix: str
) -> None:
    image, millimetres = scene
    root = write(tmp_path / "a", image, millimetres, suffix)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(root / "rgb" / f"a{suffix}", exif=exif)
    refused(root, r"the EXIF data ask for a rotation, .*; save it upright and without EXIF")


# -------------------- no real frame is refused


def test_every_tenth_nyu_frame_is_read(nyu_dir: Path) -> None:
    for split in ("train", "test"):
        frames = BTSFolder(nyu_dir, split)
        for index in range(0, len(frames), 10):
            assert 0.5 < frames[index].truth().max() < 10.5
