"""Two processes train and evaluate like one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from spdlib.disk import held
from spdlib.errors import RunError
from spdlib.study.config import RunConfig
from spdlib.study.profiles import resolve
from spdlib.study.training.setup import LOCK

WORKER = """
import json, os, sys
import torch
torch.set_num_threads(1)
import spdlib
from spdlib.data.rooms import Rooms
from spdlib.study.datasets import InMemory
from spdlib.study.evaluation import evaluate_run
from spdlib.study.config import RunConfig
from spdlib.study.entrants import constant
from spdlib.study.training import fit, make_accelerator

config = RunConfig.from_dict(json.loads(sys.argv[2]))
train, selection = InMemory(Rooms(8, size=(48, 64))), InMemory(Rooms(3, size=(48, 64), start=8))
run = fit(config, train, selection, sys.argv[1], device="cpu", workers=0, progress=False)
accelerator = make_accelerator("cpu")
assert accelerator.num_processes == int(os.environ.get("WORLD_SIZE", "1"))
model = spdlib.load(run.best).double()
baselines = {"exact": {"constant": constant(2.5)}}
evaluate_run(run, model, selection, baselines, processes=accelerator)
accelerator.end_training()
"""


NOTED = """
from pathlib import Path
from spdlib.study.training import loop
scores = loop.selection_scores

def noted(model, frames, truth, processes, **options):
    name = f"scored_{processes.num_processes}_{processes.process_index}"
    Path(sys.argv[1]).with_name(name).write_text(model.fingerprint())
    return scores(model, frames, truth, processes, **options)

loop.selection_scores = noted
"""
"""Before the training: note which network each process scores."""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launch(
    folder: Path, config: RunConfig, world: int, worker: str = WORKER, status: int = 0
) -> list[str]:
    """Run the worker in `world` processes, as a launcher does; what each wrote as errors."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(world)}
    processes = []
    for rank in range(world):
        ranks = {**address, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
        words = [sys.executable, "-c", worker, str(folder), json.dumps(config.to_dict())]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **ranks}
        processes.append(
            subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
        )
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [status] * world, errors
    return errors


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    # No BatchNorm, no dropout, float64: what remains is the order of sums.
    config = resolve(
        "v15_2", "smoke", encoder="convnextv2_atto", image_size=(32, 64), precision="float64",
        steps=3, evaluate_every=3, batch_size=4, points=32, ema_decay=0.9, augment="bts",
    )  # fmt: skip
    for world in (1, 2):
        launch(tmp_path / str(world), config, world)
    weights = [
        safetensors.torch.load_file(tmp_path / str(world) / "last" / "model.safetensors")
        for world in (1, 2)
    ]
    for name, one in weights[0].items():
        two = weights[1][name]
        assert one.dtype == torch.float64
        scale = max(1e-3, float(one.abs().max()))
        assert float((one - two).abs().max()) <= 1e-10 * scale, name
    record = json.loads((tmp_path / "2" / "record.json").read_text())
    assert record["processes"] == 2
    assert_same_tables(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_processes_score_one_network_though_batchnorm_learns(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config = resolve(
        "v15_2", "smoke", image_size=(32, 64), steps=3, evaluate_every=3, batch_size=4, points=32,
        ema_decay=0.9,
    )  # fmt: skip
    assert config.model.encoder.train_batchnorm
    worker = WORKER.replace("\nconfig =", f"{NOTED}\nconfig =", 1)
    launch(tmp_path / "run", config, 2, worker.replace("workers=0", "workers=0, tensorboard=True"))
    first, second = ((tmp_path / f"scored_2_{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert len(list((tmp_path / "run" / "tensorboard").glob("events*"))) == 1


@pytest.mark.slow
def test_all_processes_of_a_second_run_are_refused(tmp_path: Path) -> None:
    config = resolve("v15_2", "smoke", image_size=(32, 64))
    with held(tmp_path / LOCK, RunError):
        for error in launch(tmp_path, config, 2, status=1):
            assert (
                f"RunError: {tmp_path}: another process works there (process {os.getpid()}" in error
            )
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def assert_same_tables(one: Path, two: Path) -> None:
    for name, keys in (("history", ["step"]), ("frames", ["frame"]), ("metrics", ["metric"])):
        a, b = (pd.read_csv(folder / f"{name}.csv") for folder in (one, two))
        assert a[keys].equals(b[keys])
        numbers = a.select_dtypes("number").columns.difference(["seconds", "data_wait_share"])
        assert len(numbers)
        np.testing.assert_allclose(a[numbers], b[numbers], rtol=1e-8)
