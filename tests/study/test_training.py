"""`fit`: schedule, history, checkpoints, refusals."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import spdlib
from spdlib.data.frames import Frame, Frames, Subset
from spdlib.data.rooms import Rooms
from spdlib.data.samples import TrainingSamples
from spdlib.errors import ModelError, RunError
from spdlib.study import training
from spdlib.study.config import RunConfig
from spdlib.study.datasets import InMemory
from spdlib.study.evaluation import evaluate, selection_scores
from spdlib.study.losses import LossValue
from spdlib.study.profiles import resolve
from spdlib.study.runs import Run
from spdlib.study.training import (
    HISTORY_COLUMNS,
    batch_loss,
    build_model,
    effective_focal,
    fit,
    learning_rate,
)

Fit = Callable[..., Run]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, small: RunConfig, rooms: Frames, held_out: Frames
) -> Run:
    """A finished run with averaged weights."""
    folder = tmp_path_factory.mktemp("finished")
    return fit(small, rooms, held_out, folder, device="cpu", workers=0, progress=False)


class Alone:
    num_processes, process_index = 1, 0


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
    tmp_path: Path,
    small: RunConfig,
    rooms: Frames,
    run_fit: Fit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = run_fit(small, tmp_path / "run", progress=True)
    history = run.history
    assert list(history.columns) == list(HISTORY_COLUMNS)
    assert list(history["step"]) == [2, 4, 6]
    assert list(history["epoch"]) == [1.0, 2.0, 3.0]
    assert history.pop("sel_unique_l3").isna().all()  # v15_2 routes nothing
    assert history.notna().all(axis=None)
    record = run.record
    assert record["status"] == "finished"
    assert record["steps_done"] == 6
    assert record["data"]["train"]["frames"] == 10
    assert record["parameters"]["total"] == sum(
        count for name, count in record["parameters"].items() if name != "total"
    )
    assert {"commit", "dirty", "source_hash"} == set(record["code"])
    assert record["encoder_weights_sha256"] is None
    encoder = training.build_model(small, rooms).encoder
    assert record["encoder_state_sha256"] == encoder.fingerprint()
    assert {row["field"] for row in record["deviations"]} >= {"encoder", "steps", "image_size"}
    assert run.config == small
    reached = run.gradients.set_index("component")["reached"]
    assert reached["encoder"] > 0.99
    assert reached["local_path"] == 1
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("epoch ") for line in printed) == 3
    for folder in (run.best, run.last):
        assert spdlib.load(folder).config.model.image_size == small.image_size


def test_model_knows_the_focal_length_it_was_trained_at(
    tmp_path: Path, small: RunConfig, run_fit: Fit, rooms: Frames
) -> None:
    model = spdlib.load(run_fit(replace(small, steps=2), tmp_path).best)
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


def test_other_config_is_refused_by_field(finished: Run, small: RunConfig, run_fit: Fit) -> None:
    with pytest.raises(RunError, match=r"silog_lambda: 0\.5 -> 0\.85"):
        run_fit(replace(small, silog_lambda=0.85), finished.folder)
    with pytest.raises(RunError, match="already holds a run"):
        run_fit(small, finished.folder, resume=False)


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_other_data_are_refused_by_name(
    tmp_path: Path, small: RunConfig, run_fit: Fit, held_out: Frames, status: str
) -> None:
    run = run_fit(replace(small, steps=2), tmp_path)
    run.update_record({"status": status})
    larger = InMemory(Rooms(10, size=(60, 80)))  # the same names, other pixels
    options = {"device": "cpu", "workers": 0, "progress": False}
    with pytest.raises(RunError, match=r"other data \(train fingerprint: .* -> .*another folder"):
        fit(replace(small, steps=2), larger, held_out, tmp_path, **options)  # type: ignore[arg-type]
    fewer = Subset(larger, [0, 1])
    with pytest.raises(RunError, match=r"train frames: 10 -> 2; train ids_hash: "):
        fit(replace(small, steps=2), fewer, held_out, tmp_path, **options)  # type: ignore[arg-type]


def test_other_encoder_weights_are_refused(tmp_path: Path, small: RunConfig, run_fit: Fit) -> None:
    file = tmp_path / "encoder.safetensors"
    body = training.build_model(small, InMemory(Rooms(1, size=(48, 64)))).encoder.body
    state = {name: tensor.contiguous() for name, tensor in body.state_dict().items()}
    known = {"mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5", "padding": "symmetric"}
    safetensors.torch.save_file(state, file, known)
    config = replace(small, weights=str(file), steps=2)
    run_fit(config, tmp_path / "run")
    safetensors.torch.save_file(state, file, {**known, "of": "elsewhere"})
    with pytest.raises(RunError, match="encoder weights: "):
        run_fit(config, tmp_path / "run")
    file.unlink()  # a run carries its encoder
    assert run_fit(config, tmp_path / "run").finished


def test_score_that_is_not_finite_stops_the_run(
    tmp_path: Path, small: RunConfig, run_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*args: Any, **options: Any) -> dict[str, float]:
        return {**selection_scores(*args, **options), "sel_abs_rel": math.nan}

    monkeypatch.setattr(training, "selection_scores", nothing)
    with pytest.raises(RunError, match=r"selection AbsRel is nan at step 2.*learning rate"):
        run_fit(small, tmp_path)
    assert not Run.open(tmp_path).finished


def test_change_of_machine_is_told(
    tmp_path: Path, small: RunConfig, run_fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_fit(small, tmp_path)
    machine = run.record["machine"]
    older = {**machine["libraries"], "torch": "1.0"}
    run.update_record({"status": "interrupted", "machine": {**machine, "libraries": older}})
    run_fit(small, tmp_path, progress=True)
    assert "not bit for bit as begun: torch 1.0 -> " in capsys.readouterr().out
    (continued,) = run.record["continued_at"]
    assert set(continued) == {"step", "code", "machine"}
    assert continued["machine"] == machine


def test_finished_runs_of_other_code_are_told(
    tmp_path: Path, small: RunConfig, run_fit: Fit, recwarn: pytest.WarningsRecorder
) -> None:
    run = run_fit(small, tmp_path)
    run_fit(small, tmp_path)
    assert not [w for w in recwarn if "another version of spdlib" in str(w.message)]
    run.update_record({"code": {**run.record["code"], "source_hash": "0123"}})
    with pytest.warns(UserWarning, match=r"another version of spdlib \(0123\).* delete the folder"):
        run_fit(small, tmp_path)


def test_points_need_no_depth_on_the_device(
    tmp_path: Path, small: RunConfig, run_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(model: Any, batch: dict[str, torch.Tensor], config: RunConfig) -> LossValue:
        seen.append(set(batch))
        return batch_loss(model, batch, config)

    monkeypatch.setattr(training, "batch_loss", noted)
    run_fit(replace(small, steps=2), tmp_path / "points")
    dense = replace(small, steps=2, supervision="dense", points=0)
    run_fit(dense, tmp_path / "dense")
    points = {"image", "points", "truth", "valid", "index"}
    assert seen == [points, points, {"image", "depth", "index"}, {"image", "depth", "index"}]


def test_auxiliary_maps_join_the_loss_if_they_are_weighed(rooms: Frames) -> None:
    config = resolve("exp08_corrected", "smoke", image_size=(64, 64), batch_size=2, points=16)
    assert config.objective.auxiliary_weight == 0.5
    model = build_model(config, rooms)
    samples = TrainingSamples(rooms, config.sample_config())
    parts = [samples[0, 0], samples[0, 1]]
    batch = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    def loss(**changes: Any) -> float:
        torch.manual_seed(0)  # of dropout
        return batch_loss(model, batch, config.but(**changes)).value.item()

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
    named_loss, calls = training.named_loss, []

    def broken(*args: Any) -> LossValue:
        calls.append(1)
        loss = named_loss(*args)
        return loss._replace(value=loss.value * math.nan) if len(calls) == 4 else loss

    monkeypatch.setattr(training, "named_loss", broken)
    with pytest.raises(RunError, match=r"loss is nan at step 3 with frames \['room_0_"):
        run_fit(small, tmp_path)
    assert list(Run.open(tmp_path).history["step"]) == [2]


def test_full_disk_at_a_checkpoint_keeps_the_previous_one(
    tmp_path: Path, finished: Run, small: RunConfig, run_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes, saved = training.write_bytes, []

    def full(path: Path, data: bytes) -> None:
        saved.append(path)
        if len(saved) == 2:
            monkeypatch.setattr("os.fsync", _no_space)
        write_bytes(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(training, "write_bytes", full)
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


def test_damaged_state_is_named(
    tmp_path: Path, finished: Run, small: RunConfig, run_fit: Fit
) -> None:
    run = Run(Path(shutil.copytree(finished.folder, tmp_path / "run")))
    run.update_record({"status": "running"})
    run.state_path.write_bytes(run.state_path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"state\.safetensors is not a usable state.*delete"):
        run_fit(small, run.folder)


def test_early_stopping_waits_for_its_patience(
    tmp_path: Path, small: RunConfig, run_fit: Fit
) -> None:
    # After the first evaluation nothing moves any more, so nothing gets better.
    config = replace(
        small, steps=40, evaluate_every=1, patience=2, decoder_lr=1e-30, encoder_lr=0.0,
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
    run = run_fit(replace(small, supervision=supervision, points=0, steps=2), tmp_path)
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

    config = replace(small, steps=4, evaluate_every=4)
    run = fit(config, Holes(), held_out, tmp_path, device="cpu", workers=0, progress=False)
    assert 0 < run.history["skipped"].iloc[-1] < 16
    assert math.isfinite(run.history["train_loss"].iloc[-1])


def test_averaged_weights_are_kept(
    tmp_path: Path, finished: Run, small: RunConfig, run_fit: Fit
) -> None:
    plain = run_fit(replace(small, ema_decay=0.0), tmp_path)
    assert not _same_weights(plain, finished)
    # Averaging never touches training itself.
    assert list(plain.history["train_loss"]) == list(finished.history["train_loss"])


def test_tensorboard_on_request(tmp_path: Path, small: RunConfig, run_fit: Fit) -> None:
    pytest.importorskip("tensorboard")
    run = run_fit(replace(small, steps=2), tmp_path, tensorboard=True)
    assert list((run.folder / "tensorboard").glob("events*"))


@pytest.mark.slow
def test_overfits_eight_frames(tmp_path: Path) -> None:
    frames = InMemory(Rooms(8, size=(96, 128)))
    config = resolve(
        "v15_2", "demo", steps=300, evaluate_every=300, batch_size=8, points=256,
        decoder_lr=2e-3, augment="none", ema_decay=0.0, silog_lambda=0.15, train_batchnorm=True,
    )  # fmt: skip
    other = InMemory(Rooms(1, size=(96, 128), start=8))
    run = fit(config, frames, other, tmp_path, device="cpu", workers=0, progress=False)
    scores = selection_scores(spdlib.load(run.last), frames, None, Alone())
    assert scores["sel_abs_rel"] < 0.05


@pytest.mark.gpu
def test_gpu_trains_like_a_cpu(
    tmp_path: Path, small: RunConfig, rooms: Frames, held_out: Frames
) -> None:
    config = replace(small, precision="float32")
    runs = [
        fit(config, rooms, held_out, tmp_path / device, device=device, workers=0, progress=False)
        for device in ("cpu", "cuda")
    ]
    assert [run.record["device"] for run in runs] == ["cpu", "cuda"]
    losses = [run.history["train_loss"] for run in runs]
    assert losses[1].to_numpy() == pytest.approx(losses[0].to_numpy(), rel=0.02)
    half = replace(small, precision="bf16")
    run = fit(half, rooms, held_out, tmp_path / "bf16", device="cuda", workers=2, progress=False)
    assert run.history["train_loss"].to_numpy() == pytest.approx(losses[0].to_numpy(), rel=0.1)
    model = spdlib.load(run.best).to("cuda")
    result = evaluate(model, held_out, progress=False)
    assert math.isfinite(result.value("v15_2", "eigen/exact", "abs_rel", "dense"))
