"""Small rooms and a small config that several tests of the study share."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from spdlib.data.frames import Frames
from spdlib.data.rooms import Rooms
from spdlib.study.config import RunConfig
from spdlib.study.datasets import InMemory
from spdlib.study.evaluation import Evaluation
from spdlib.study.profiles import resolve
from spdlib.study.runs import Run
from spdlib.study.training import fit

Fit = Callable[..., Run]
TwoProcesses = Callable[[Callable[[Any], Any]], list[Any]]


class OneOfTwo(NamedTuple):
    """What an accelerator says about two processes."""

    process_index: int
    num_processes: int = 2


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> TwoProcesses:
    """Runs a function of `OneOfTwo` in two threads that gather objects as processes do."""
    parts, barrier, here = [b"", b""], threading.Barrier(2), threading.local()

    def gather(objects: list[Any]) -> list[Any]:
        parts[here.rank] = pickle.dumps(objects)
        barrier.wait(60)
        whole = [each for part in parts for each in pickle.loads(part)]
        barrier.wait(60)
        return whole

    def process(work: Callable[[Any], Any], rank: int) -> Any:
        here.rank = rank
        return work(OneOfTwo(rank))

    def run(work: Callable[[Any], Any]) -> list[Any]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(process, [work] * 2, range(2)))

    monkeypatch.setattr("accelerate.utils.gather_object", gather)
    return run


def score_of(
    result: Evaluation, model: str, protocol: str, metric: str, sites: str = "points"
) -> float:
    """One score of an evaluation."""
    keys = ["model", "protocol", "sites", "metric"]
    return float(result.metrics.set_index(keys)["value"][model, protocol, sites, metric])


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
