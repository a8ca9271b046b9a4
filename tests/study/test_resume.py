"""Stopped and killed runs continue bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from spdlib.errors import RunError
from spdlib.study.config import RunConfig
from spdlib.study.runs import Run
from spdlib.study.training.loop import Loop
from spdlib.study.training.state import HISTORY_COLUMNS, State

Fit = Callable[..., Run]

TIMES = ("seconds", "data_wait_share")

KILLED = """
import json, os, signal, sys
import torch
from spdlib.data.rooms import Rooms
from spdlib.study.datasets import InMemory
from spdlib.errors import RunError
from spdlib.study.config import RunConfig
from spdlib.study.training.loop import Loop, fit

folder, config, threads = sys.argv[1], RunConfig.from_dict(json.loads(sys.argv[2])), sys.argv[3]
torch.set_num_threads(int(threads))
step = Loop.step

def step_then_die(loop, batch):
    step(loop, batch)
    if loop.state.counters.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)

Loop.step = step_then_die
fit(config, InMemory(Rooms(10, size=(48, 64))), InMemory(Rooms(3, size=(48, 64), start=10)), folder,
    device="cpu", workers=1, checkpoint_every=3, progress=False)
"""


@pytest.fixture(scope="module")
def config(small: RunConfig) -> RunConfig:
    """Five steps an epoch, so that steps 3 and 4 lie in the middle of one."""
    return small.but(batch_size=2, steps=7)


@pytest.fixture(scope="module")
def whole(config: RunConfig, run_fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run, never stopped; its samples come from other processes."""
    return run_fit(config, tmp_path_factory.mktemp("whole"), workers=2)


def assert_same_outcome(run: Run, whole: Run) -> None:
    for path in ("best/model.safetensors", "last/model.safetensors"):
        ours = safetensors.torch.load_file(run.folder / path)
        theirs = safetensors.torch.load_file(whole.folder / path)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), path
    same = [column for column in HISTORY_COLUMNS if column not in TIMES]
    assert run.history[same].equals(whole.history[same])
    assert run.record["status"] == whole.record["status"] == "finished"


def continued_at(run: Run) -> list[int]:
    return [each["step"] for each in run.record["continued_at"]]


def interrupt(patched: pytest.MonkeyPatch, number: int, after: int) -> None:
    """Send this process and its workers a signal at the step that is its `after`-th.

    A terminal's Ctrl-C and `timeout` reach the whole group, workers included.
    """
    step = Loop.step

    def step_under_signal(loop: Loop, batch: Any) -> None:
        if loop.state.counters.step == after - 1:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or os.getpid(), number)
            os.kill(os.getpid(), number)
        step(loop, batch)

    patched.setattr(Loop, "step", step_under_signal)


def test_killed_in_mid_epoch(config: RunConfig, run_fit: Fit, whole: Run, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    words = [sys.executable, "-c", KILLED, str(folder), json.dumps(config.to_dict())]
    process = subprocess.run([*words, str(torch.get_num_threads())], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert Run.open(folder).record["status"] == "running"
    run = run_fit(config, folder)
    assert continued_at(run) == [3]
    assert_same_outcome(run, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(
    config: RunConfig, run_fit: Fit, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:  # fmt: skip
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        interrupt(patched, number, after=4)
        with pytest.raises(KeyboardInterrupt, match=r"after step 4 of 7.*same command again"):
            run_fit(config, tmp_path / "run", workers=1)
    assert signal.getsignal(number) == before
    stopped = Run.open(tmp_path / "run")
    assert stopped.record["status"] == "interrupted"
    assert stopped.record["steps_done"] == 4
    run = run_fit(config, tmp_path / "run")
    assert continued_at(run) == [4]
    assert_same_outcome(run, whole)


def test_interrupted_under_autocast(
    config: RunConfig, run_fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = config.but(precision="bf16_cpu", steps=4)
    whole = run_fit(half, tmp_path / "whole")
    with monkeypatch.context() as patched:
        interrupt(patched, signal.SIGTERM, after=2)
        with pytest.raises(KeyboardInterrupt):
            run_fit(half, tmp_path / "run")
    run = run_fit(half, tmp_path / "run")
    assert continued_at(run) == [2]
    assert_same_outcome(run, whole)
    full = run_fit(config.but(steps=4), tmp_path / "full")
    assert list(full.history["train_loss"]) != list(run.history["train_loss"])


def test_killed_before_the_first_checkpoint_starts_again(
    config: RunConfig, run_fit: Fit, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "step", die)
        with pytest.raises(MemoryError):
            run_fit(config, tmp_path / "run")
    assert_same_outcome(run_fit(config, tmp_path / "run"), whole)


def test_later_rows_of_the_history_are_written_again(
    config: RunConfig, run_fit: Fit, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history is ahead of the state when a run dies between the two."""
    save = State.save

    def die_at_the_epochs_end(state: State, run: Run) -> None:
        if state.counters.step == 5:
            raise MemoryError
        save(state, run)

    with monkeypatch.context() as patched:
        patched.setattr(State, "save", die_at_the_epochs_end)
        with pytest.raises(MemoryError):
            run_fit(config, tmp_path / "run", checkpoint_every=2)
    assert list(Run.open(tmp_path / "run").history["step"]) == [5]
    run = run_fit(config, tmp_path / "run")
    assert continued_at(run) == [4]
    assert_same_outcome(run, whole)


def test_a_second_training_in_the_folder_is_refused(
    config: RunConfig, run_fit: Fit, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks of one process exclude each other as those of several do."""
    step, refusals = Loop.step, list[str]()

    def step_beside_another(loop: Loop, batch: Any) -> None:
        if not refusals:
            refusals.append("")
            with pytest.raises(RunError, match=rf"process {os.getpid()} on .*another folder") as no:
                run_fit(config, tmp_path / "run")
            refusals[0] = str(no.value)
        step(loop, batch)

    monkeypatch.setattr(Loop, "step", step_beside_another)
    run = run_fit(config, tmp_path / "run", workers=1)
    assert refusals[0].startswith(f"{run.folder}: another process works there")
    assert_same_outcome(run, whole)
    assert [path.name for path in run.folder.glob(".*")] == [".training"]
