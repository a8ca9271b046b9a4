"""Small valid inputs of every kind that the package reads; the trials damage copies of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import safetensors.torch
import torch
from PIL import Image

from spdlib.data.frames import Frames, Subset
from spdlib.data.rooms import Rooms
from spdlib.data.sources import PlainFolder
from spdlib.data.store import PackedFrames, pack
from spdlib.geometry import Camera
from spdlib.models import DepthModel, create_model
from spdlib.scene import Scene
from spdlib.study.datasets import InMemory
from spdlib.study.peers import points_to_answer
from spdlib.study.profiles import resolve
from spdlib.study.training import fit
from tests.data.conftest import Layouts

SIZE = (12, 16)
"""Of images in files: so small that damage often meets a file's structure."""
NETWORK_SIZE = (32, 64)
ENCODER = "test_efficientnet"
PICTURES = ("png", "jpg", "webp", "tiff", "bmp", "gif")


class Valid:
    """Writes valid files below a folder, each kind when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def layouts(self) -> Layouts:
        """Six frames of 12x16 pixels."""
        return Layouts(self.root, SIZE)

    @cached_property
    def pictures(self) -> Path:
        """photo.png, photo.jpg and so on, and 16-bit depth.png and depth.npy of the same size."""
        folder = self.root / "pictures"
        folder.mkdir()
        for suffix in PICTURES:
            Image.fromarray(self.layouts.images[0]).save(folder / f"photo.{suffix}")
        Image.fromarray(self.layouts.raw[0]).save(folder / "depth.png")
        np.save(folder / "depth.npy", self.layouts.metres(self.layouts.raw)[0])
        return folder

    @cached_property
    def own(self) -> Path:
        """A user's own folder."""
        return self.layouts.plain()

    @cached_property
    def bts(self) -> Path:
        """BTS's official splits."""
        return self.layouts.bts()

    @cached_property
    def sync(self) -> Path:
        """BTS's raw training video and a list of it."""
        return self.layouts.sync()

    @cached_property
    def labelled(self) -> Path:
        """The labelled .mat, beside it a list of its test frames."""
        folder = self.root / "labelled"
        folder.mkdir()
        layouts = Layouts(folder, SIZE)
        return layouts.mat()

    @cached_property
    def fastdepth(self) -> Path:
        """FastDepth's folders."""
        return self.layouts.fastdepth()

    @cached_property
    def shards(self) -> Path:
        """Tar shards."""
        return self.layouts.shards()

    @cached_property
    def store(self) -> Path:
        """A packed store of five training frames and one test frame."""
        frames = PlainFolder(self.own)
        splits: dict[str, Frames] = {"train": Subset(frames, range(5)), "test": Subset(frames, [5])}
        path = self.root / "packed" / "store.h5"
        pack(splits, path, {"layout": "PlainFolder"})
        return path

    @cached_property
    def maps(self) -> Path:
        """A folder with somebody's depth map, in metres, of the store's one test frame."""
        folder = self.root / "maps"
        folder.mkdir()
        (name,) = PackedFrames(self.store, "test").ids
        np.save(folder / f"{name}.npy", np.full(SIZE, 2.5, np.float32))
        return folder

    @cached_property
    def answers(self) -> Path:
        """Somebody's table of the points at which that frame is scored."""
        path = self.root / "answers" / "points.csv"
        path.parent.mkdir()
        asked = points_to_answer(PackedFrames(self.store, "test"))
        asked.assign(depth=2.5).to_csv(path, index=False, float_format="%g")
        return path

    @cached_property
    def network(self) -> DepthModel:
        """A network that says it was trained, so that it answers without a warning."""
        torch.manual_seed(0)
        model = create_model("v15_2", ENCODER, image_size=NETWORK_SIZE, focal=60.0).eval()
        model.trained = "nothing, for tests"
        return model

    @cached_property
    def model(self) -> Path:
        """The folder of a saved network."""
        self.network.save(self.root / "model")
        return self.root / "model"

    @cached_property
    def weights(self) -> Path:
        """A file of encoder weights in timm's names."""
        path = self.root / "weights" / "encoder.safetensors"
        path.parent.mkdir()
        body = self.network.encoder.body
        state = {name: each.contiguous() for name, each in body.state_dict().items()}
        safetensors.torch.save_file(state, path)
        return path

    @cached_property
    def scene(self) -> Path:
        """A saved scene of the network, with a camera."""
        path = self.root / "scene" / "scene.safetensors"
        camera = Camera.from_focal(60.0, NETWORK_SIZE[1], NETWORK_SIZE[0])
        self.network.encode(torch.rand(3, *NETWORK_SIZE), camera).save(path)
        return path

    @cached_property
    def still(self) -> Scene:
        """A scene of the network, of an image of 40x60 pixels, without a camera."""
        return self.network.encode(torch.rand(3, 40, 60))

    @cached_property
    def rooms(self) -> tuple[Frames, Frames]:
        """Four rooms to train on and two to select by."""
        train, select = Rooms(4, size=NETWORK_SIZE), Rooms(2, size=NETWORK_SIZE, start=4)
        return InMemory(train), InMemory(select)

    @cached_property
    def run(self) -> Path:
        """The folder of a finished run of two steps on rooms."""
        config = resolve(
            "v15_2", "smoke", encoder=ENCODER, image_size=NETWORK_SIZE, steps=2, batch_size=2,
            points=8, evaluate_every=1,
        )  # fmt: skip
        folder = self.root / "run"
        fit(config, *self.rooms, folder, device="cpu", workers=0, progress=False)
        return folder

    @cached_property
    def notebook(self) -> Path:
        """A notebook with a cell of parameters and one of work."""
        node = nbformat.v4.new_notebook()
        source = 'steps = 3\nname = "a"\nrate = 1e-3'
        parameters = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
        node.cells = [parameters, nbformat.v4.new_code_cell("print(steps, name, rate)")]
        path = self.root / "notebook" / "small.ipynb"
        path.parent.mkdir()
        path.write_text(nbformat.writes(node))
        return path


def digest(values: Iterable[Any]) -> str:
    """A hash of arrays, tensors and anything that JSON holds."""
    found = hashlib.sha256()
    for value in values:
        array = value.numpy() if isinstance(value, torch.Tensor) else value
        if isinstance(array, np.ndarray):
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
        else:
            found.update(json.dumps(value, default=str, sort_keys=True).encode())
    return found.hexdigest()


def content_of(frames: Frames) -> Iterable[Any]:
    """All that frames hold, read one by one."""
    for index, name in enumerate(frames.ids):
        frame = frames[index]
        yield [name, frame.valid_box, str(frame.camera), sorted(frame.depths)]
        yield frame.image
        yield from (frame.depths[kind] for kind in sorted(frame.depths))
