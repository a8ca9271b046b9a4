"""Every reader of the package: the file that is damaged, how it is read, and what guards it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spdlib.data.files import read_depth_npy, read_depth_png
from spdlib.data.queries import evaluation_points
from spdlib.data.sources import BTSFolder, FastDepthFolder, LabelledMat, PlainFolder, TarShards
from spdlib.data.store import PackedFrames, info
from spdlib.models import create_model, load
from spdlib.models.encoders import EncoderConfig
from spdlib.models.images import as_images
from spdlib.scene import Scene
from spdlib.study.peers import open_predictions
from spdlib.study.protocols import View
from spdlib.study.runs import Run
from spdlib.study.training.setup import build_objective
from spdlib.study.training.state import State
from spdlib.view.workbook import notebook_parameters
from tests.hostile import mutations as change
from tests.hostile.valid import ENCODER, NETWORK_SIZE, PICTURES, Valid, content_of, digest

FOLDERS = {"bts": "official_splits/test/*/sync_depth_*.png"}


@dataclass(frozen=True)
class Reader:
    """One reader at work on one of its files.

    Attributes:
        name: for the table.
        folder: valid files, of which the reader gets a copy.
        file: the one that is damaged, below `folder`.
        read: a hash of all that the reader makes of the folder's copy.
        guard: what tells damage from content: a checksum by its name; "" where nothing does.
        parts: changes of the format's parts, if they are tried.
        honest: whether changed parts may be other content: nothing says that they were changed.
    """

    name: str
    folder: Path
    file: str
    read: Callable[[Path], str]
    guard: str = ""
    parts: change.Structured | None = None
    honest: bool = True


def readers(valid: Valid) -> Iterator[Reader]:
    """All readers with their valid files."""
    yield from _pictures(valid)
    yield from _layouts(valid)
    yield from _predictions(valid)
    yield from _networks(valid)
    yield from _runs(valid)


def _pictures(valid: Valid) -> Iterator[Reader]:
    for suffix in PICTURES:
        file = f"photo.{suffix}"
        guarded = "CRC-32 of each chunk" if suffix == "png" else ""
        parts = change.odd_png if suffix == "png" else None
        yield Reader(
            f"picture .{suffix}",
            valid.pictures,
            file,
            lambda folder, file=file: digest([as_images(folder / file)]),  # type: ignore[misc]
            guarded,
            parts,
        )
    yield Reader(
        "depth .png",
        valid.pictures,
        "depth.png",
        lambda folder: digest([read_depth_png(folder / "depth.png")]),
        "CRC-32 of each chunk",
        change.odd_png,
    )
    yield Reader(
        "depth .npy",
        valid.pictures,
        "depth.npy",
        lambda folder: digest([read_depth_npy(folder / "depth.npy")]),
        parts=change.odd_npy,
    )


def _layouts(valid: Valid) -> Iterator[Reader]:
    yield Reader(
        "own folder, cameras.csv",
        valid.own,
        "cameras.csv",
        lambda folder: digest(content_of(PlainFolder(folder))),
        parts=change.odd_table,
    )
    bts = valid.bts
    depth = next(bts.glob(FOLDERS["bts"]))
    yield Reader(
        "BTS folder, depth",
        bts,
        str(depth.relative_to(bts)),
        lambda folder: digest(content_of(BTSFolder(folder, "test"))),
        "CRC-32 of each chunk",
        change.odd_png,
    )
    listed = "nyudepthv2_train_files_with_gt.txt"
    yield Reader(
        "BTS list",
        valid.sync,
        listed,
        lambda folder: digest(content_of(BTSFolder(folder, "sync", list_file=folder / listed))),
        parts=change.odd_lines,
    )
    mat, tests = valid.labelled, "nyudepthv2_test_files_with_gt.txt"
    yield Reader(
        "labelled .mat",
        mat.parent,
        mat.name,
        lambda folder: digest(content_of(LabelledMat(folder / mat.name, "test", folder / tests))),
        parts=change.odd_hdf5,
    )
    fast = valid.fastdepth
    yield Reader(
        "FastDepth .h5",
        fast,
        str(next(fast.glob("val/*/*.h5")).relative_to(fast)),
        lambda folder: digest(content_of(FastDepthFolder(folder, "test"))),
        parts=change.odd_hdf5,
    )
    hub = valid.shards
    yield Reader(
        "tar shard",
        hub,
        str(next(hub.glob("data/val-*.tar")).relative_to(hub)),
        lambda folder: digest(content_of(TarShards(folder, "test"))),
        parts=change.odd_tar,
    )
    yield Reader(
        "packed store",
        valid.store.parent,
        valid.store.name,
        lambda folder: digest(_stored(folder / valid.store.name)),
        "CRC-32 and SHA-256 of every frame",
        change.odd_hdf5,
        honest=False,
    )


def _stored(path: Path) -> Iterator[Any]:
    frames = PackedFrames(path)
    yield from content_of(frames)
    yield [frames.truths, {**info(path), "megabytes": 0}, frames.provenance]


def _predictions(valid: Valid) -> Iterator[Reader]:
    ids = PackedFrames(valid.store, "test").ids

    def points(folder: Path) -> str:
        stored = open_predictions(folder / valid.answers.name, ids, 1.0)
        frame = PackedFrames(valid.store, "test")[0]
        sites = evaluation_points(torch.from_numpy(frame.truth()), frame.id)
        view = View(frame.image, frame.camera, frame.camera)
        return digest([stored(frame)(view).depth_at(sites.points)])

    yield Reader(
        "predicted points",
        valid.answers.parent,
        valid.answers.name,
        points,
        parts=change.odd_table,
    )


def _networks(valid: Valid) -> Iterator[Reader]:
    def weights(folder: Path) -> str:
        model = load(folder)
        return digest([str(model.config), model.trained, *model.state_dict().values()])

    for file, parts in (("config.json", change.odd_json), ("model.safetensors", None)):
        guard = "copy in model.safetensors" if file == "config.json" else "SHA-256"
        yield Reader(f"model, {file}", valid.model, file, weights, guard, parts, honest=False)

    def scene(folder: Path) -> str:
        read = Scene.load(folder / valid.scene.name, valid.network)
        record = [read.image_size, read.resized, read.padded, str(read.camera), read.camera_assumed]
        return digest([record, *(read.maps[name] for name in sorted(read.maps))])

    parts = change.odd_safetensors
    yield Reader(
        "scene", valid.scene.parent, valid.scene.name, scene, "SHA-256", parts, honest=False
    )

    def encoder(folder: Path) -> str:
        file = str(folder / valid.weights.name)
        config = EncoderConfig(ENCODER, weights=file, mean=(0.5,) * 3, std=(0.5,) * 3)
        model = create_model("v15_2", config, image_size=NETWORK_SIZE)
        return digest(model.encoder.state_dict().values())

    yield Reader("encoder weights", valid.weights.parent, valid.weights.name, encoder, parts=parts)


def _runs(valid: Valid) -> Iterator[Reader]:
    def described(folder: Path) -> str:
        run = Run.open(folder)
        return digest([run.config.to_dict(), run.record, run.finished, str(run.store)])

    for file in ("config.json", "record.json"):
        yield Reader(f"run, {file}", valid.run, file, described, parts=change.odd_json)
    yield Reader(
        "run, history.csv",
        valid.run,
        "history.csv",
        lambda folder: digest([Run.open(folder).history.to_csv()]),
        parts=change.odd_table,
    )

    def state(folder: Path) -> str:
        run = Run.open(folder)
        restored = State(run.config, load(run.last), build_objective(run.config))
        restored.restore(run)
        counted = [vars(restored.counters), vars(restored.window)]
        return digest([counted, *restored.model.state_dict().values()])

    file = "last/state.safetensors"
    yield Reader("run, state", valid.run, file, state, "SHA-256", honest=False)
    yield Reader(
        "notebook",
        valid.notebook.parent,
        valid.notebook.name,
        lambda folder: digest([notebook_parameters(folder / valid.notebook.name)]),
        parts=change.odd_json,
    )
