"""`fit`: schedule, history, checkpoints, refusals."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import spdlib
from spdlib.data.frames import Frame, Frames, Subset
from spdlib.data.rooms import Rooms
from spdlib.data.samples import TrainingSamples
from spdlib.disk import file_hash
from spdlib.errors import ConfigError, ModelError, RunError
from spdlib.models import DepthModel
from spdlib.reading import read_tensors
from spdlib.study import objectives
from spdlib.study.config import RunConfig
from spdlib.study.datasets import InMemory
from spdlib.study.evaluation import evaluate, selection_scores
from spdlib.study.objectives import LossValue, silog
from spdlib.study.profiles import resolve
from spdlib.study.runs import Run
from spdlib.study.training import build_model, effective_focal, fit, loop, state
from spdlib.study.training.report import Report
from spdlib.study.training.setup import build_objective, prepared
from spdlib.study.training.state import HISTORY_COLUMNS, learning_rate
from tests.study.conftest import score_of

Fit = Callable[..., Run]


@pytest.fixture(scope="module")
def output() -> io.StringIO:
    """What the finished run prints."""
    return io.StringIO()


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, small: RunConfig, run_fit: Fit, output: io.StringIO
) -> Run:
    """A finished run with averaged weights, logged to TensorBoard."""
    pytest.importorskip("tensorboard")
    with contextlib.redirect_stdout(output):
        folder = tmp_path_factory.mktemp("finished")
        return run_fit(small, folder, tensorboard=True, progress=True)


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    """A copy of the finished run, to be changed."""
    return Run(Path(shutil.copytree(finished.folder, tmp_path / "copied")))


@pytest.mark.parametrize("when", ["opening", "logging"])
def test_a_full_disk_under_tensorboard_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    """Its own thread, which meets the disk, prints nothing."""
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    report, row = Report(shown=False), {**dict.fromkeys(HISTORY_COLUMNS, 1.0), "step": 1}
    before = threading.excepthook

    def log() -> None:
        with report.tensorboard(tmp_path / "tensorboard", 0):
            report.evaluation(row, 5)
            monkeypatch.setattr(writer, "write", _no_space)
            report.evaluation(row, 5)

    if when == "opening":
        monkeypatch.setattr(writer, "write", _no_space)
    with pytest.raises(RunError, match=r"cannot write .*tensorboard: .*No space left.*; free disk"):
        log()
    assert capsys.readouterr() == ("", "")
    assert threading.excepthook is before


def test_rate_warms_up_linearly_then_follows_a_cosine() -> None:
    config = resolve("v15_2", "paper")
    peak = config.optimizer.decoder_lr
    assert learning_rate(config, 0, peak) == pytest.approx(0.01 * peak)
    assert learning_rate(config, 250, peak) == pytest.approx((0.01 + 0.99 / 2) * peak)
    assert learning_rate(config, 500, peak) == pytest.approx(peak)
    middle = 500 + (config.schedule.steps - 500) // 2
    assert learning_rate(config, middle, peak) == pytest.approx((peak + 1e-6) / 2, rel=1e-4)
    assert learning_rate(config, config.schedule.steps, peak) == pytest.approx(1e-6)


def test_rate_follows_a_cosine_that_outlasts_the_run() -> None:
    config = resolve("v15_2", "demo", steps=100, warmup_steps=0, cosine_steps=300)
    whole = config.but(steps=300, cosine_steps=0)
    rates = [[learning_rate(c, step, 1e-3) for step in (0, 50, 99)] for c in (config, whole)]
    assert rates[0] == rates[1]


def test_rate_never_rises_to_the_final_one() -> None:
    config = resolve("v15_2", "demo", final_lr=1e-2)
    assert learning_rate(config, config.schedule.steps, 1e-3) == pytest.approx(1e-3)


def test_run_leaves_everything_needed_to_repeat_it(
    finished: Run, output: io.StringIO, small: RunConfig, rooms: Frames
) -> None:
    history = finished.history
    assert list(history.columns) == list(HISTORY_COLUMNS)
    assert list(history["step"]) == [2, 4, 6]
    assert list(history["epoch"]) == [1.0, 2.0, 3.0]
    assert history.pop("sel_unique_l3").isna().all()  # v15_2 routes nothing
    assert history.notna().all(axis=None)
    record = finished.record
    assert record["status"] == "finished"
    assert record["steps_done"] == 6
    assert record["data"]["train"]["frames"] == 10
    assert record["parameters"]["total"] == sum(
        count for name, count in record["parameters"].items() if name != "total"
    )
    assert {"commit", "dirty", "source_hash"} == set(record["code"])
    assert record["encoder_weights_sha256"] is None
    encoder = build_model(small, rooms).encoder
    assert record["encoder_state_sha256"] == encoder.fingerprint()
    assert {row["field"] for row in record["deviations"]} >= {"encoder", "steps", "image_size"}
    assert finished.config == small
    reached = finished.gradients.set_index("component")["reached"]
    assert reached["encoder"] > 0.99
    assert reached["local_path"] == 1
    printed = output.getvalue().splitlines()
    assert sum(line.startswith("epoch ") for line in printed) == 3
    for folder in (finished.best, finished.last):
        assert spdlib.load(folder).config.image_size == small.model.image_size
    assert list((finished.folder / "tensorboard").glob("events*"))


def test_model_knows_the_focal_length_it_was_trained_at(
    finished: Run, small: RunConfig, rooms: Frames
) -> None:
    model = spdlib.load(finished.best)
    assert model.config.focal == effective_focal(rooms, small.sample_config())
    assert model.config.focal == pytest.approx(rooms[0].camera.focal)


def test_finished_run_is_returned_as_it_is(finished: Run, small: RunConfig, run_fit: Fit) -> None:
    stamp = os.stat(finished.state_path).st_mtime_ns
    assert run_fit(small, finished.folder) == finished
    assert os.stat(finished.state_path).st_mtime_ns == stamp


def test_a_runs_folder_loads_its_best_weights(finished: Run, tmp_path: Path) -> None:
    assert spdlib.load(finished.folder).fingerprint() == spdlib.load(finished.best).fingerprint()
    shutil.copy(finished.config_path, tmp_path)
    with pytest.raises(ModelError, match="is a run without weights"):
        spdlib.load(tmp_path)


def test_a_folder_of_other_files_is_left_alone(
    small: RunConfig, run_fit: Fit, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / ".hidden").write_text("no matter")
    with pytest.raises(RunError, match=r"holds no run but other files, such as thesis\.tex"):
        run_fit(small, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_other_config_is_refused_by_field(finished: Run, small: RunConfig, run_fit: Fit) -> None:
    with pytest.raises(RunError, match=r"silog_lambda: 0\.5 -> 0\.85"):
        run_fit(small.but(silog_lambda=0.85), finished.folder)
    with pytest.raises(RunError, match="already holds a run"):
        run_fit(small, finished.folder, resume=False)


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_other_data_are_refused_by_name(
    copied: Run, small: RunConfig, held_out: Frames, status: str
) -> None:
    copied.update_record({"status": status})
    larger = InMemory(Rooms(10, size=(60, 80)))  # the same names, other pixels
    with pytest.raises(RunError, match=r"other data \(train fingerprint: .* -> .*another folder"):
        fit(small, larger, held_out, copied.folder, device="cpu")
    fewer = Subset(larger, [0, 1])
    with pytest.raises(RunError, match=r"train frames: 10 -> 2; train ids_hash: "):
        fit(small, fewer, held_out, copied.folder, device="cpu")


def test_other_encoder_weights_are_refused(tmp_path: Path, small: RunConfig, run_fit: Fit) -> None:
    file = tmp_path / "encoder.safetensors"
    body = build_model(small, InMemory(Rooms(1, size=(48, 64)))).encoder.body
    state = {name: tensor.contiguous() for name, tensor in body.state_dict().items()}
    known = {"mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5", "padding": "symmetric"}
    safetensors.torch.save_file(state, file, known)
    config = small.but(weights=str(file), steps=2)
    run_fit(config, tmp_path / "run")
    safetensors.torch.save_file(state, file, {**known, "of": "elsewhere"})
    with pytest.raises(RunError, match="encoder weights: "):
        run_fit(config, tmp_path / "run")
    file.unlink()  # a run carries its encoder
    assert run_fit(config, tmp_path / "run").finished


def test_a_run_starts_from_another_ones_best_weights(
    tmp_path: Path, finished: Run, small: RunConfig, run_fit: Fit
) -> None:
    # nothing learns, so that the first weights are still there at the end
    still = small.but(
        steps=1, decoder_lr=1e-30, encoder_lr=0.0, train_batchnorm=False, weight_decay=0.0,
        final_lr=0.0, pretrained=True,
    )  # fmt: skip
    run = run_fit(still, tmp_path, init_from=finished.folder)
    first, last = (spdlib.load(each.best).state_dict() for each in (finished, run))
    assert all(torch.allclose(first[name], last[name], rtol=1e-5) for name in first)
    assert run.record["init_from_sha256"] == file_hash(finished.best / "model.safetensors")
    assert run_fit(still, tmp_path, init_from=finished.folder) == run
    with pytest.raises(RunError, match="first weights: "):
        run_fit(still, tmp_path, init_from=run.folder)


def test_weights_of_another_network_or_of_no_finished_run_are_refused(
    tmp_path: Path, copied: Run, small: RunConfig, run_fit: Fit
) -> None:
    other = small.but(encoder="resnet10t")
    with pytest.raises(RunError, match=r"is a run of encoder 'mobilenetv2_035', not 'resnet10t';"):
        run_fit(other, tmp_path / "run", init_from=copied.folder)
    copied.update_record({"status": "interrupted"})
    with pytest.raises(RunError, match="has not finished"):
        run_fit(small, tmp_path / "run", init_from=copied.folder)


@pytest.mark.parametrize("name", ["workers", "checkpoint_every"])
def test_numbers_below_zero_are_refused(
    tmp_path: Path, small: RunConfig, run_fit: Fit, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name} must not be negative; got -5"):
        run_fit(small, tmp_path / "run", **{name: -5})
    assert not (tmp_path / "run").exists()


def test_other_devices_are_refused(tmp_path: Path, small: RunConfig, run_fit: Fit) -> None:
    with pytest.raises(ConfigError, match=r"device is 'tpu'; choose 'cpu', 'cuda'"):
        run_fit(small, tmp_path / "run", device="tpu")


def test_another_experiment_does_not_take_weights_without_state_for_a_beginning(
    copied: Run, small: RunConfig, run_fit: Fit
) -> None:
    """A run killed between its first best weights and its first state."""
    before = (copied.best / "model.safetensors").read_bytes()
    copied.update_record({"status": "running"})
    shutil.rmtree(copied.last)
    with pytest.raises(RunError, match=r"another config \(silog_lambda: 0.5 -> 0.85"):
        run_fit(small.but(silog_lambda=0.85), copied.folder)
    assert (copied.best / "model.safetensors").read_bytes() == before
    assert run_fit(small, copied.folder).finished


def test_a_finished_run_without_its_weights_is_no_success(
    tmp_path: Path, copied: Run, small: RunConfig, run_fit: Fit
) -> None:
    shutil.rmtree(copied.best)
    with pytest.raises(RunError, match=r"best.config\.json: is gone.*delete the folder"):
        run_fit(small, copied.folder)
    with pytest.raises(RunError, match=r"best.config\.json: is gone"):
        run_fit(small, tmp_path / "run", init_from=copied.folder)


def test_score_that_is_not_finite_stops_the_run(
    tmp_path: Path, small: RunConfig, run_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*args: Any, **options: Any) -> dict[str, float]:
        return {**selection_scores(*args, **options), "sel_abs_rel": math.nan}

    monkeypatch.setattr(loop, "selection_scores", nothing)
    with pytest.raises(RunError, match=r"selection AbsRel is nan at step 2.*learning rate"):
        run_fit(small, tmp_path)
    assert not Run.open(tmp_path).finished


def test_change_of_machine_is_told(
    copied: Run, small: RunConfig, run_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = copied.record["machine"]
    older = {**machine["libraries"], "torch": "1.0"}
    newer = older.popitem()[0]
    copied.update_record({"status": "interrupted", "machine": {**machine, "libraries": older}})
    run_fit(small, copied.folder, progress=True)
    told = capsys.readouterr().out
    assert "not bit for bit as begun: torch: '1.0' -> " in told
    assert f"not bit for bit as begun: {newer}: None -> " in told
    (continued,) = copied.record["continued_at"]
    assert set(continued) == {"step", "code", "machine"}
    assert continued["machine"] == machine


def test_finished_runs_of_other_code_are_told(
    copied: Run, small: RunConfig, run_fit: Fit, recwarn: pytest.WarningsRecorder
) -> None:
    run_fit(small, copied.folder)
    assert not [w for w in recwarn if "another version of spdlib" in str(w.message)]
    copied.update_record({"code": {**copied.record["code"], "source_hash": "0123"}})
    with pytest.warns(UserWarning, match=r"another version of spdlib \(0123\).* delete the folder"):
        run_fit(small, copied.folder)


def collated(frames: Frames, config: RunConfig) -> dict[str, torch.Tensor]:
    """A batch of the first two frames."""
    samples = TrainingSamples(frames, config.sample_config())
    parts = [samples[0, 0], samples[0, 1]]
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def test_only_what_an_objective_reads_goes_to_the_device(small: RunConfig, rooms: Frames) -> None:
    model = build_model(small, rooms)
    points = {"image", "points", "truth", "valid"}
    for changes, expected in (
        ({}, points),
        ({"supervision": "dense", "points": 0}, {"image", "depth"}),
        ({"supervision": "lattice", "points": 0}, {"image", "depth"}),
    ):
        config = small.but(**changes)
        batch = prepared(collated(rooms, config), model, build_objective(config))
        assert set(batch) == expected
    auxiliary = resolve("exp08_corrected", "smoke")
    assert build_objective(auxiliary).inputs == {"points", "truth", "valid", "depth"}


def test_auxiliary_maps_join_the_loss_if_they_are_weighed(rooms: Frames) -> None:
    config = resolve("exp08_corrected", "smoke", image_size=(64, 64), batch_size=2, points=16)
    assert config.objective.auxiliary_weight == 0.5
    model = build_model(config, rooms)
    batch = collated(rooms, config)

    def loss(**changes: Any) -> float:
        torch.manual_seed(0)  # of dropout
        return build_objective(config.but(**changes))(model, batch).value.item()

    alone = loss(auxiliary_weight=0.0)
    assert loss() - alone == pytest.approx(5 * (loss(auxiliary_weight=0.1) - alone), rel=1e-3)
    assert loss() > alone
    assert loss(aux_target="bilinear") != loss()


def test_unwritable_folder_is_refused_before_training(
    tmp_path: Path, small: RunConfig, run_fit: Fit
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot write"):
        run_fit(small, tmp_path / "file" / "run")


def test_loss_that_is_not_finite_names_step_and_frames(
    tmp_path: Path, small: RunConfig, run_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*args: Any) -> LossValue:
        calls.append(1)
        loss = silog(*args)
        return loss._replace(value=loss.value * math.nan) if len(calls) == 5 else loss

    monkeypatch.setattr(objectives, "silog", broken)  # called before training, too
    with pytest.raises(RunError, match=r"loss is nan at step 3 with frames \['room_0_"):
        run_fit(small, tmp_path)
    assert list(Run.open(tmp_path).history["step"]) == [2]


def test_full_disk_at_a_checkpoint_keeps_the_previous_one(
    tmp_path: Path, finished: Run, small: RunConfig, run_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes, saved = state.write_bytes, []

    def full(path: Path, data: bytes) -> None:
        saved.append(path)
        if len(saved) == 2:
            monkeypatch.setattr("os.fsync", _no_space)
        write_bytes(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(state, "write_bytes", full)
        with pytest.raises(RunError, match=r"state\.safetensors.*previous file is kept"):
            run_fit(small, tmp_path / "run")
    monkeypatch.undo()
    run = run_fit(small, tmp_path / "run")
    assert [each["step"] for each in run.record["continued_at"]] == [2]
    assert _same_weights(run, finished)


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _same_weights(one: Run, other: Run) -> bool:
    a, b = (spdlib.load(run.last).state_dict() for run in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


def test_damaged_state_is_named(copied: Run, small: RunConfig, run_fit: Fit) -> None:
    copied.update_record({"status": "running"})
    copied.state_path.write_bytes(copied.state_path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"state\.safetensors: is no readable .*; delete"):
        run_fit(small, copied.folder)


def _other(path: Path, **metadata: str) -> None:
    tensors, _ = read_tensors(path, RunError, "")
    safetensors.torch.save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    "damage",
    [
        _other,
        partial(_other, state="[" * 10**5),
        partial(_other, state='{"counters": [], "window": 5}'),
        partial(_other, state='{"counters": {"step": "2"}, "window": {}}'),
        lambda path: safetensors.torch.save_file({"model.a": torch.zeros(2)}, path),
    ],
)
def test_other_damage_to_a_state_is_named(
    copied: Run, small: RunConfig, run_fit: Fit, damage: Callable[[Path], None]
) -> None:
    copied.update_record({"status": "running"})
    damage(copied.state_path)
    with pytest.raises(RunError, match=r"state\.safetensors: ") as raised:
        run_fit(small, copied.folder)
    assert "\n" not in str(raised.value)


def test_damage_to_the_history_is_named(copied: Run, small: RunConfig, run_fit: Fit) -> None:
    copied.update_record({"status": "running"})
    history = copied.folder / "history.csv"
    header, first, *_ = history.read_text().splitlines()
    for text in ("a,b\n1,2\n", "step,b\nx,2\n", header, f"{header}\n{first}\n"):
        history.write_text(text)
        with pytest.raises(
            RunError, match=r"history\.csv: (has no|column|is not the history).*restore it"
        ):
            run_fit(small, copied.folder)


@pytest.mark.parametrize(
    "gone",
    ["best/model.safetensors", "best/config.json", "history.csv", "last/config.json"],
)
def test_a_run_is_not_continued_without_what_it_kept(
    copied: Run, small: RunConfig, run_fit: Fit, gone: str
) -> None:
    copied.update_record({"status": "running"})
    (copied.folder / gone).unlink()
    with pytest.raises(RunError, match=rf"{gone}: is gone; restore it, or delete the folder"):
        run_fit(small, copied.folder)
    assert not (copied.folder / gone).exists()


def test_early_stopping_waits_for_its_patience(
    tmp_path: Path, small: RunConfig, run_fit: Fit
) -> None:
    # After the first evaluation nothing moves any more, so nothing gets better.
    config = small.but(
        steps=40, evaluate_every=1, patience=2, decoder_lr=1e-30, encoder_lr=0.0,
        train_batchnorm=False, weight_decay=0.0, ema_decay=0.0, final_lr=0.0,
    )  # fmt: skip
    run = run_fit(config, tmp_path)
    assert run.record["stopped_early"]
    assert run.record["best_step"] == 1
    assert list(run.history["step"]) == [1, 2, 3]


@pytest.mark.parametrize("supervision", ["lattice", "dense"])
def test_dense_supervision_trains(
    tmp_path: Path, small: RunConfig, run_fit: Fit, supervision: str
) -> None:
    run = run_fit(small.but(supervision=supervision, points=0, steps=2), tmp_path)
    assert 0 < run.history["train_loss"].iloc[-1] < 2


def test_images_without_truth_are_left_out_and_counted(
    tmp_path: Path, small: RunConfig, rooms: Frames, held_out: Frames
) -> None:
    class Holes:
        ids = rooms.ids

        def __len__(self) -> int:
            return len(rooms)

        def __getitem__(self, index: int) -> Frame:
            frame = rooms[index]
            gone = {name: 0 * d for name, d in frame.depths.items()}
            return replace(frame, depths=gone) if index % 2 else frame

    config = small.but(steps=4, evaluate_every=4)
    run = fit(config, Holes(), held_out, tmp_path, device="cpu", workers=0, progress=False)
    assert 0 < run.history["skipped"].iloc[-1] < 16
    assert math.isfinite(run.history["train_loss"].iloc[-1])


def test_the_history_states_the_rates_of_the_config_whatever_a_networks_groups(
    tmp_path: Path, small: RunConfig, run_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = DepthModel.parameter_groups
    monkeypatch.setattr(DepthModel, "parameter_groups", lambda *args: ours(*args)[::-1])
    row = run_fit(small.but(encoder_lr=2e-4, steps=2), tmp_path).history.iloc[-1]
    assert row["lr_encoder"] == pytest.approx(row["lr_decoder"] / 5, rel=0.01)


def test_averaged_weights_are_kept(
    tmp_path: Path, finished: Run, small: RunConfig, run_fit: Fit
) -> None:
    plain = run_fit(small.but(ema_decay=0.0), tmp_path)
    assert not _same_weights(plain, finished)
    # Averaging never touches training itself.
    assert list(plain.history["train_loss"]) == list(finished.history["train_loss"])


@pytest.mark.gpu
def test_gpu_trains_like_a_cpu(
    tmp_path: Path, small: RunConfig, rooms: Frames, held_out: Frames
) -> None:
    config = small.but(precision="float32")
    runs = [
        fit(config, rooms, held_out, tmp_path / device, device=device, workers=0, progress=False)
        for device in ("cpu", "cuda")
    ]
    assert [run.record["device"] for run in runs] == ["cpu", "cuda"]
    losses = [run.history["train_loss"] for run in runs]
    assert losses[1].to_numpy() == pytest.approx(losses[0].to_numpy(), rel=0.02)
    half = small.but(precision="bf16")
    run = fit(half, rooms, held_out, tmp_path / "bf16", device="cuda", workers=2, progress=False)
    assert run.history["train_loss"].to_numpy() == pytest.approx(losses[0].to_numpy(), rel=0.1)
    model = spdlib.load(run.best).to("cuda")
    result = evaluate(model, held_out)
    assert math.isfinite(score_of(result, "v15_2", "eigen/exact", "abs_rel", "dense"))


class Deadly:
    """Rooms of which one, read by another process, ends it."""

    def __init__(self, frames: Frames, process: int) -> None:
        self.frames, self.ids, self.process = frames, frames.ids, process

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        if os.getpid() != self.process:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.frames[index]


def test_a_killed_worker_is_one_clear_error(
    tmp_path: Path, small: RunConfig, rooms: Frames, held_out: Frames
) -> None:
    frames = Deadly(rooms, os.getpid())
    with pytest.raises(RunError, match=r"ended or hangs .*--shm-size.*--workers 0.*same command"):
        fit(small, frames, held_out, tmp_path / "run", device="cpu", workers=1, progress=False)
    assert not multiprocessing.active_children()


FAILING = """
import sys
import threading
from spdlib.data.rooms import Rooms
from spdlib.errors import DataError
from spdlib.study.profiles import resolve
from spdlib.study.training import fit

class Damaged(Rooms):
    read = 0
    def __getitem__(self, index):
        self.read += 1
        if self.read > 6:  # past the pre-flight checks
            raise DataError(f"{self.ids[index]}: is damaged; pack it again")
        return super().__getitem__(index)

config = resolve("v15_2", "smoke", image_size=(32, 64), batch_size=4, points=32)
rooms = [Damaged(8, size=(32, 64)), Rooms(2, size=(32, 64), start=8)]
fit(config, *rooms, sys.argv[1], device="cpu", workers=1, progress=False)
"""


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_workers_error_is_a_line_and_ends_the_script(tmp_path: Path) -> None:
    """Uncaught, its traceback holds the loader; the script ends all the same."""
    words = [sys.executable, "-c", FAILING, str(tmp_path / "run")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r"spdlib\.errors\.DataError: room_\w+: is damaged; pack it again", last)
