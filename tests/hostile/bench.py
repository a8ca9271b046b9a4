"""Where a bad input is made and tried: copies of valid files, and the doors of the package."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import safetensors.numpy
from PIL import Image

from spdlib.__main__ import main
from spdlib.data.files import read_depth_npy, read_depth_png, read_image
from spdlib.data.sources import BTSFolder, open_source
from spdlib.data.store import PackedFrames, info, pack, verify
from spdlib.errors import ConfigError, DataError, ModelError, QueryError, RunError, SPDError
from spdlib.models import create_model, load
from spdlib.models.encoders import EncoderConfig
from spdlib.scene import Scene
from spdlib.study.cli import parse_settings
from spdlib.study.evaluation import score
from spdlib.study.peers import open_predictions
from spdlib.study.profiles import resolve
from spdlib.study.runs import Run, publish
from spdlib.study.training import fit
from spdlib.study.training.setup import LOCK
from spdlib.view.workbook import notebook_parameters, run_notebook
from tests.hostile.mutations import png_chunk
from tests.hostile.valid import ENCODER, NETWORK_SIZE, Valid, content_of

NAN, INF = math.nan, math.inf
DIGITS = "1" * 5000
DEEP = "[" * 20_000 + "]" * 20_000
BINARY = bytes(range(256)) * 4
AGAIN = "copy or download it again"
WEIGHTS = "model.safetensors"

Change = Callable[[bytes], bytes]


class Bench:
    """One test's own folder, with copies of the valid files that it damages."""

    def __init__(self, valid: Valid, root: Path) -> None:
        self.valid, self.root = valid, root

    def copy(self, kind: str) -> Path:
        """A copy of the valid files of a kind, an attribute of `Valid`."""
        source: Path = getattr(self.valid, kind)
        folder = source if source.is_dir() else source.parent
        target = self.root / folder.name
        shutil.copytree(folder, target, dirs_exist_ok=True)
        return target if source.is_dir() else target / source.name

    def damaged(self, kind: str, change: Change, file: str = "") -> Path:
        """The copy after a change of one file below it; the path of that file if none is named."""
        place = self.copy(kind)
        target = next(place.glob(file)) if file else place
        target.write_bytes(change(target.read_bytes()))
        return place

    def written(self, name: str, content: bytes | str) -> Path:
        """A new file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def pipe(self, name: str) -> Path:
        """A named pipe that nobody writes to: whoever reads it waits for ever."""
        path = self.root / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        return path

    def piped(self, kind: str, file: str) -> Path:
        """A copy in which one file is such a pipe."""
        place = self.copy(kind)
        self.pipe(str(next(place.glob(file)).relative_to(self.root)))
        return place

    def without(self, kind: str, file: str) -> Path:
        """A copy in which one file is missing."""
        place = self.copy(kind)
        next(place.glob(file)).unlink()
        return place

    def snapshot(self) -> dict[str, str]:
        """A hash of every file in the folder, hidden ones too, but for a training's lock."""
        found = sorted(self.root.rglob("*"))
        files = [path for path in found if path.is_file() and path.name != LOCK]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Bad(NamedTuple):
    """A bad input.

    Attributes:
        door: where it comes in, of `DOORS`.
        what: what is wrong with it.
        made: makes it on a bench.
        says: pattern of the error's message: the file or value, what is wrong, the remedy.
    """

    door: str
    what: str
    made: Callable[[Bench], Any]
    says: str


# -- changes of a file's bytes -------------------------------------------------------------------


def cut(share: float) -> Change:
    """Only the first part."""
    return lambda data: data[: int(len(data) * share)]


def flip(share: float) -> Change:
    """One bit at a place."""

    def change(data: bytes) -> bytes:
        place = int(len(data) * share)
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


def content(data: bytes | str) -> Change:
    """Something else altogether."""
    return lambda _: data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data


def replaced(old: str, new: str) -> Change:
    """A text with some words replaced."""

    def change(data: bytes) -> bytes:
        assert old.encode() in data, f"{old!r} is not in the file"
        return data.replace(old.encode(), new.encode("utf-8", "surrogatepass"), 1)

    return change


def entry(value: Any, *path: Any) -> Change:
    """JSON with another value at a path."""

    def change(data: bytes) -> bytes:
        tree = json.loads(data)
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return json.dumps(tree).encode()

    return change


def hdf5(edit: Callable[[h5py.File], object]) -> Change:
    """An HDF5 file after an edit."""

    def change(data: bytes) -> bytes:
        stream = io.BytesIO(data)
        with h5py.File(stream, "r+") as file:
            edit(file)
        return stream.getvalue()

    return change


def exchanged(name: str, data: Any = None, **options: Any) -> Change:
    """An HDF5 file with another array in an array's place."""

    def edit(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=data, **options)

    return hdf5(edit)


def values(name: str, edit: Callable[[Any], Any]) -> Change:
    """An HDF5 file with other values in an array."""

    def change(file: h5py.File) -> None:
        file[name][...] = edit(file[name][...])

    return hdf5(change)


def attribute(name: str, value: Any) -> Change:
    """An HDF5 file with another attribute; None removes it."""

    def edit(file: h5py.File) -> None:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    return hdf5(edit)


def tensors(edit: Callable[[dict[str, Any]], Any]) -> Change:
    """A safetensors file after an edit of its arrays; the metadata stay."""

    def change(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__")
        arrays = safetensors.numpy.load(data)
        edit(arrays)
        return safetensors.numpy.save(arrays, metadata)

    return change


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    """The bytes of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def huge_png() -> bytes:
    """A PNG of 100 bytes that says it has 60000x60000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100))
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*each) for each in chunks)


def small_picture(mode: str, kind: str = "png", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (16, 12)).save(stream, kind, **options)
    return stream.getvalue()


def photo(name: str, change: Any) -> Callable[[Bench], Path]:
    return lambda b: b.damaged("pictures", change, name) / name


# -- doors ---------------------------------------------------------------------------------------


class Door(NamedTuple):
    """A way into the package, and the errors it may raise."""

    errors: tuple[type[SPDError], ...]
    enter: Callable[[Bench, Any], object]


def _read_all(bench: Bench, path: Any) -> None:
    for frames in open_source(path).values():
        list(content_of(frames))


def _read_store(bench: Bench, path: Any) -> None:
    list(content_of(PackedFrames(path)))
    verify(path)


def _run(bench: Bench, folder: Any) -> None:
    run = Run.open(folder)
    run.config.to_dict()
    assert run.record
    for path in run.folder.glob("*.csv"):
        run.table(path.stem)
    load(folder)


def _command(bench: Bench, words: Any) -> None:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main([str(word) for word in words])
    lines = errors.getvalue().splitlines()
    assert status == 2, f"status {status}"
    assert lines[-1].startswith("error: "), lines
    raise SPDError(lines[-1])


def _configured(bench: Bench, settings: Any) -> None:
    given = {"experiment": "v15_2", "profile": "smoke", **settings}
    model = resolve(given.pop("experiment"), given.pop("profile"), **given).model
    create_model(model.network, model.encoder, image_size=model.image_size)


def _encoder(bench: Bench, path: Any) -> None:
    config = EncoderConfig(ENCODER, weights=str(path), mean=(0.5,) * 3, std=(0.5,) * 3)
    create_model("v15_2", config, image_size=NETWORK_SIZE)


def _resumed(bench: Bench, folder: Any) -> None:
    run = Run(folder)
    rooms = bench.valid.rooms
    fit(run.config, *rooms, folder, device="cpu", workers=0, progress=False)


def _scored(bench: Bench, given: Any) -> None:
    path, metres, options = given
    frames = PackedFrames(bench.valid.store, "test")
    score(open_predictions(path, frames.ids, metres, **options), frames)


_DATA, _MODEL = (DataError, ConfigError), (ModelError, ConfigError)

DOORS = {
    "image": Door((QueryError,), lambda bench, image: bench.valid.network.encode(image)),
    "points": Door((QueryError,), lambda bench, points: bench.valid.still.depth_at(points)),
    "asked": Door((QueryError,), lambda bench, ask: ask(bench.valid.still)),
    "camera": Door((DataError,), lambda bench, make: make()),
    "encode with camera": Door(
        (QueryError, DataError),
        lambda bench, camera: bench.valid.network.encode(np.zeros((40, 60, 3), np.uint8), camera),
    ),
    "settings": Door((ConfigError, ModelError), _configured),
    "--set": Door((ConfigError,), lambda b, words: _configured(b, parse_settings(words))),
    "encoder weights": Door(_MODEL, _encoder),
    "model": Door(_MODEL, lambda bench, folder: load(folder)),
    "scene": Door((QueryError,), lambda bench, path: Scene.load(path, bench.valid.network)),
    "rgb file": Door(_DATA, lambda bench, path: read_image(path)),
    "depth file": Door(
        _DATA,
        lambda b, path: (read_depth_npy if path.suffix == ".npy" else read_depth_png)(path),
    ),
    "data set": Door(_DATA, _read_all),
    "list": Door(_DATA, lambda b, path: BTSFolder(b.copy("sync"), "sync", list_file=path)),
    "store": Door(_DATA, _read_store),
    "pack": Door(_DATA, lambda b, source: pack(open_source(source), b.root / "out.h5")),
    "score": Door(_DATA, _scored),
    "info": Door(_DATA, lambda bench, path: info(path)),
    "run": Door((RunError, ModelError, ConfigError), _run),
    "resume": Door((RunError, ModelError, ConfigError), _resumed),
    "publish": Door((RunError,), lambda b, folder: publish(Run.open(folder), b.root / "public")),
    "notebook": Door((ConfigError,), lambda bench, path: notebook_parameters(path)),
    "run notebook": Door(
        (ConfigError, RunError), lambda b, given: run_notebook(b.copy("notebook"), **given)
    ),
    "command": Door((SPDError,), _command),
}
