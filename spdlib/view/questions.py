"""Questions that notebooks put to a network: at which points, of which frames, how fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from timeit import Timer
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from spdlib.data.frames import Frame, Frames, evenly_spaced
from spdlib.data.queries import evaluation_points
from spdlib.data.rooms import Rooms
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import NYU_CAMERA, Camera, lattice_points
from spdlib.models import DepthModel, load
from spdlib.scene import GROUP
from spdlib.study.datasets import open_data
from spdlib.study.experiments import DEFAULT
from spdlib.study.profiles import resolve
from spdlib.study.runs import DEFAULT_ROOT, Run, hash_of
from spdlib.study.training import fit
from spdlib.view.report import project_root, run_folder

QUICK: Mapping[str, Mapping[str, Any]] = {
    "demo": {"train_frames": 160, "selection_frames": 8, "test_frames": 1, "steps": 200},
    "smoke": {},
}
"""Changes to a profile that make a network to look at in about a minute."""
UNSEEN_ROOM = 1_000_000
"""Number of a room that no profile trains on."""


class Picture(NamedTuple):
    """An image, uint8 [H, W, 3] RGB, with its camera and how its focal length is known (`lens`).

    `truth` is [H, W] metres, 0 where unknown; None where nothing is known.
    """

    image: np.ndarray
    camera: Camera
    truth: np.ndarray | None
    lens: str


def any_network(model: str, profile: str, seed: int) -> tuple[DepthModel, str]:
    """A trained network, in evaluation mode, and a sentence that says where it comes from.

    `model` is the folder of a saved network; empty takes the demo's if `make demo` has run, else
    trains one from `seed`: for a minute (profile "demo"), or for a few steps ("smoke").

    ConfigError: another profile.
    ModelError: `model` holds no network.
    """
    if profile not in QUICK:
        raise ConfigError(f"profile must be one of {list(QUICK)} here; got {profile!r}")
    demo = Run(project_root() / DEFAULT_ROOT / f"06_{DEFAULT}")
    if model:
        return load(project_root() / model), f"This is the network in {model}."
    if profile == "demo" and demo.finished:
        error = demo.record["best_sel_abs_rel"]
        return load(demo.best), f"This is the demo's network (AbsRel {error:.3f} on other rooms)."
    config = resolve(DEFAULT, profile, seed=seed, **QUICK[profile])
    data = open_data(config)
    print(f"no trained network here: training one for {config.schedule.steps} steps")
    # other settings, another folder: each seed has its own network
    folder = run_folder("", f"00_start_here_{hash_of(config.to_dict())}", profile)
    run = fit(config, data.train, data.selection, folder, progress=False)
    return load(run.best), (
        f"This network saw {config.data.train_frames} rooms for {config.schedule.steps} steps, "
        "which is next to nothing: take its depths as a demonstration. `make demo` trains a better "
        "one."
    )


def look_at(image: str, focal: float, seed: int) -> Picture:
    """A user's picture, or, without one, the room of a seed that no network was trained on.

    `focal` is the picture's focal length in pixels; 0 assumes NYU's field of view.

    DataError: the file cannot be read as a picture.
    """
    if not image:
        room = Rooms(1, start=UNSEEN_ROOM + seed, size=(240, 320))[0]
        return Picture(room.image, room.camera, room.truth(), "known")
    try:
        opened = ImageOps.exif_transpose(Image.open(project_root() / image)).convert("RGB")
    except OSError as error:
        raise DataError(
            f"{image} cannot be read as a picture ({error}); give a JPEG or PNG"
        ) from error
    lens = "as you gave it" if focal else "only assumed: that of NYU's field of view"
    focal = focal or NYU_CAMERA.focal * opened.height / NYU_CAMERA.height
    return Picture(np.asarray(opened), Camera.from_focal(focal, *opened.size), None, lens)


def grid(camera: Camera, columns: int, rows: int) -> Tensor:
    """Points [rows * columns, 2] at the centres of equal rectangles that fill the image."""
    return lattice_points((rows, columns), camera.size)


def depths_of(frames: Frames, truth: str | None = None) -> np.ndarray:
    """All measured depths [N] in metres of at most 64 frames, evenly spaced."""
    maps = [frames[index].truth(truth) for index in evenly_spaced(len(frames), 64)]
    return np.concatenate([depth[depth > 0] for depth in maps])


def near_and_far(frame: Frame, truth: str | None = None) -> tuple[Tensor, int, int]:
    """The eigen protocol's first points [256, 2] of a frame; its nearest and farthest valid one."""
    sample = evaluation_points(torch.from_numpy(frame.truth(truth)), frame.id, GROUP)
    near = torch.where(sample.valid, sample.truth, torch.inf).argmin()
    far = torch.where(sample.valid, sample.truth, -torch.inf).argmax()
    return sample.points, int(near), int(far)


def time_answers(
    model: DepthModel, image: Any, camera: Camera | None, counts: Sequence[int]
) -> pd.DataFrame:
    """Time to encode an image, to answer K random queries for each of `counts`, and a whole map.

    Of five measurements, after one to warm up, the median counts. Image and camera are those
    of `encode`.

    Returns:
        operation, queries, milliseconds until results are there: "encode the image, once", without
        queries; "queries", a row for each K; and "whole map", every pixel of the encoded image.
    """
    scene = model.encode(image, camera)
    height, width = scene.image_size
    generator = torch.Generator().manual_seed(0)
    corner = torch.tensor([width - 1.0, height - 1.0])
    points = {k: torch.rand(k, 2, generator=generator) * corner for k in counts}
    work: list[tuple[str, int, Callable[[], object]]] = [
        ("encode the image, once", 0, lambda: model.encode(image, camera)),
        *(("queries", k, lambda k=k: scene.depth_at(points[k]).cpu()) for k in counts),
        ("whole map", height * width, lambda: scene.dense().cpu()),
    ]

    wait = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None

    def milliseconds(run: Callable[[], object]) -> float:
        return 1e3 * median(Timer(lambda: (run(), wait())).repeat(6, number=1)[1:])

    rows = [(operation, k, milliseconds(run)) for operation, k, run in work]
    return pd.DataFrame(rows, columns=["operation", "queries", "milliseconds"])
