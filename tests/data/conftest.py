"""Makers of small data sets in every real layout."""

from __future__ import annotations

import csv
import io
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from spdlib.data.sources import BTSFolder
from spdlib.data.store import pack

COUNT = 6
SIZE = (48, 64)
TRAIN, TEST = (0, 2, 3), (1, 4, 5)
"""Split of the six frames, counted from 0."""


def smooth_image(generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A uint8 RGB image [H, W, 3] that a JPEG keeps closely."""
    small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


@dataclass
class Layouts:
    """Six frames and the folders to write them to.

    `raw` is uint16 millimetres with holes, `inpainted` the same without, both [6, H, W].
    """

    root: Path
    size: tuple[int, int] = SIZE
    images: list[np.ndarray] = field(default_factory=list)
    raw: list[np.ndarray] = field(default_factory=list)
    inpainted: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = np.random.default_rng(0)
        for _ in range(COUNT):
            self.images.append(smooth_image(generator, self.size))
            depth = generator.integers(700, 9900, self.size).astype(np.uint16)
            self.inpainted.append(depth)
            self.raw.append(np.where(generator.random(self.size) < 0.2, 0, depth).astype(np.uint16))

    def _pair(self, folder: Path, index: int, number: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.images[index]).save(folder / f"rgb_{number:05d}.jpg", quality=95)
        Image.fromarray(self.raw[index]).save(folder / f"sync_depth_{number:05d}.png")

    def bts(self, more: int = 0) -> Path:
        """What BTS's `extract_official_train_test_set_from_mat.py` writes.

        `more` training frames follow the three, as a store that is packed to train needs four.
        """
        root = self.root / "bts"
        for number in range(COUNT, COUNT + more):
            self._pair(root / "official_splits" / "train" / "kitchen", 0, number)
        for split, indices in (("train", TRAIN), ("test", TEST)):
            for index in indices:
                scene = "kitchen" if index % 2 else "home_office"
                self._pair(root / "official_splits" / split / scene, index, index)
        return root

    def sync(self) -> Path:
        """BTS's raw training video, whose frame numbers repeat from scene to scene, and a list."""
        root = self.root / "sync_root"
        lines = []
        for index in range(COUNT):
            scene, number = ("kitchen_0028b", "office_0001a")[index % 2], index // 2
            self._pair(root / "sync" / scene, index, number)
            lines.append(
                f"/{scene}/rgb_{number:05d}.jpg /{scene}/sync_depth_{number:05d}.png 518.8579"
            )
        (root / "nyudepthv2_train_files_with_gt.txt").write_text("\n".join(lines[3:1:-1]) + "\n")
        return root

    def mat(self) -> Path:
        """The labelled file as MATLAB writes it: 512 bytes before HDF5, axes reversed, deflated."""
        path = self.root / "nyu_depth_v2_labeled.mat"
        images = np.stack(self.images).transpose(0, 3, 2, 1)
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, data in (
                ("images", images),
                ("depths", self.metres(self.inpainted).transpose(0, 2, 1)),
                ("rawDepths", self.metres(self.raw).transpose(0, 2, 1)),
                ("labels", np.zeros((COUNT, *self.size[::-1]), np.uint16)),
            ):
                file.create_dataset(name, data=data, compression="gzip", chunks=True)
            scene = file.create_dataset("#refs#/a", data=np.array([[ord(c)] for c in "kitchen"]))
            reference = h5py.special_dtype(ref=h5py.Reference)
            scenes = file.create_dataset("sceneTypes", (1, COUNT), dtype=reference)
            scenes[:] = scene.ref
        with path.open("r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
        lines = [f"kitchen/rgb_{i:05d}.jpg kitchen/sync_depth_{i:05d}.png 518.8579" for i in TEST]
        (self.root / "nyudepthv2_test_files_with_gt.txt").write_text("\n".join(lines))
        return path

    def _h5(self, index: int) -> bytes:
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            file["rgb"] = self.images[index].transpose(2, 0, 1)
            file["depth"] = self.inpainted[index].astype(np.float32) / np.float32(1000)
        return stream.getvalue()

    def _h5_names(self) -> list[tuple[str, str, int]]:
        """(split, member, frame) as FastDepth names them."""
        train = [("train", f"kitchen_0028b/{i + 1:05d}.h5", i) for i in TRAIN]
        return train + [("val", f"official/{i + 1:05d}.h5", i) for i in TEST]

    def fastdepth(self) -> Path:
        """FastDepth's unpacked archive."""
        root = self.root / "nyudepthv2"
        for split, name, index in self._h5_names():
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._h5(index))
        return root

    def shards(self) -> Path:
        """The Hugging Face hub's shards: two for training, one for validation."""
        root = self.root / "hub" / "data"
        root.mkdir(parents=True)
        for position, (split, name, index) in enumerate(self._h5_names()):
            shard = root / f"{split}-{position % 2 if split == 'train' else 0:06d}.tar"
            with tarfile.open(shard, "a") as archive:
                add_member(archive, f"{split}/{name}", self._h5(index))
        return root.parent

    def plain(self, suffix: str = ".png", count: int = COUNT) -> Path:
        """A user's own folder with another camera and a split column."""
        root = self.root / f"own{suffix}"
        for folder in ("rgb", "depth"):
            (root / folder).mkdir(parents=True)
        rows: list[list[object]] = [["frame", "fx", "fy", "cx", "cy", "split"]]
        for number in range(count):
            index = number % COUNT
            Image.fromarray(self.images[index]).save(root / "rgb" / f"view {number}.png")
            depth = root / "depth" / f"view {number}{suffix}"
            if suffix == ".npy":
                np.save(depth, self.raw[index] / 1000.0)
            else:
                Image.fromarray(self.raw[index]).save(depth)
            split = "train" if index in TRAIN else "test"
            rows.append([f"view {number}", 60.5, 61.0, 31.0 + number, 23.5, split])
        with (root / "cameras.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
        return root

    def metres(self, millimetres: list[np.ndarray]) -> np.ndarray:
        """float32 metres [6, H, W]."""
        return np.stack(millimetres).astype(np.float32) / np.float32(1000)


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Appends a plain file."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="session")
def make_layouts() -> type[Layouts]:
    """The maker of layouts, for fixtures that outlive one test."""
    return Layouts


@pytest.fixture
def layouts(tmp_path: Path) -> Layouts:
    """Six frames of 48x64, to be written in any layout below `tmp_path`."""
    return Layouts(tmp_path)


@pytest.fixture(scope="session")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training and three test frames, packed once for all tests."""
    root = tmp_path_factory.mktemp("packed")
    splits = BTSFolder.open_splits(Layouts(root).bts())
    pack(splits, root / "store.h5", {"layout": "BTSFolder"})
    return root / "store.h5"


@pytest.fixture
def packed(packed_once: Path, layouts: Layouts) -> Path:
    """A copy of that store, to be damaged."""
    return Path(shutil.copy(packed_once, layouts.root))
