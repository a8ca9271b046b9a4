"""Small rooms and a small config that several tests of the study share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spdlib.data.frames import Frames
from spdlib.data.rooms import Rooms
from spdlib.study.config import RunConfig
from spdlib.study.datasets import InMemory
from spdlib.study.profiles import resolve
from spdlib.study.runs import Run
from spdlib.study.training import fit

Fit = Callable[..., Run]


@pytest.fixture(scope="session")
def rooms() -> Frames:
    """Ten rooms of 48x64 pixels."""
    return InMemory(Rooms(10, size=(48, 64)))


@pytest.fixture(scope="session")
def held_out() -> Frames:
    """Three other rooms of the same size."""
    return InMemory(Rooms(3, size=(48, 64), start=10))


@pytest.fixture(scope="session")
def small() -> RunConfig:
    """Six steps in two and a half epochs, seconds on one core."""
    return resolve(
        "v15_2", "smoke", image_size=(32, 64), steps=6, evaluate_every=0, batch_size=4, points=32,
        ema_decay=0.9, augment="bts",
    )  # fmt: skip


@pytest.fixture(scope="session")
def run_fit(rooms: Frames, held_out: Frames) -> Fit:
    """`fit` on the rooms, on the CPU, without worker processes or output."""

    def call(config: RunConfig, folder: Path, **options: object) -> Run:
        settings = {"device": "cpu", "workers": 0, "progress": False, **options}
        return fit(config, rooms, held_out, folder, **settings)  # type: ignore[arg-type]

    return call
