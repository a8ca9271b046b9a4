"""`fit`: one training loop for every network, on a CPU, one GPU or several processes.

Everything random derives from (seed, step, frame), so that a run that was stopped, or killed in the
middle of an epoch, continues from its last checkpoint as if nothing had happened: bit for bit on
one machine with the same threads and versions (decisions 9). The loss is that of the whole batch on
every process (see `losses`), so the number of processes changes nothing but rounding. The exception
is BatchNorm in training mode (`train_batchnorm`): its statistics are per process, and those of
process 0 are evaluated and kept.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import signal
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
import torch.nn.functional as F
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from spdlib.data.augment import AugmentConfig
from spdlib.data.frames import Frames
from spdlib.data.queries import lattice_truth, stable_seed
from spdlib.data.samples import EpochBatches, SampleConfig, TrainingSamples
from spdlib.disk import file_hash
from spdlib.errors import ConfigError, RunError
from spdlib.geometry import Camera
from spdlib.machine import code_version, keep_freed_memory, origin, usable_cores
from spdlib.models import DepthModel, create_model, load
from spdlib.study.config import RunConfig
from spdlib.study.diagnostics import gradient_coverage
from spdlib.study.evaluation import selection_scores
from spdlib.study.losses import LossValue, dense_auxiliary, named_loss
from spdlib.study.preflight import PreflightError, check
from spdlib.study.profiles import deviations
from spdlib.study.runs import (
    Run,
    describe_frames,
    hash_of,
    write_bytes,
    write_json,
)

HISTORY_COLUMNS = (
    "step", "epoch", "train_loss", "lr_encoder", "lr_decoder", "grad_norm", "sel_abs_rel",
    "sel_rmse", "sel_delta1", "sel_s_star", "sel_unique_l3", "pred_min", "pred_max", "gt_min",
    "gt_max", "data_wait_share", "seconds", "skipped",
)  # fmt: skip
DTYPES = {
    "bf16": torch.float32,  # weights; autocast computes in bf16
    "bf16_cpu": torch.float32,
    "float32": torch.float32,
    "float64": torch.float64,
}
SAME_DATA = ("frames", "ids_hash", "fingerprint")
"""Parts of a description of frames that must not change while a run is continued."""


def fit(
    config: RunConfig,
    train: Frames,
    selection: Frames,
    folder: str | Path,
    *,
    resume: bool = True,
    device: str | None = None,
    deterministic: bool = True,
    workers: int | None = None,
    checkpoint_every: int = 0,
    tensorboard: bool = False,
    progress: bool = True,
) -> Run:
    """Train a network and keep the weights that score best on the selection set.

    Args:
        config: everything that decides the outcome.
        train: frames to learn from.
        selection: held-out frames that choose the weights to keep; never test frames.
        folder: of the run; see `Run`. A finished run with this config is returned as it is, an
            unfinished one is continued; either only with the frames and encoder weights it had.
        resume: False refuses a folder that already holds a run.
        device: "cpu" or "cuda"; default a GPU if there is one.
        deterministic: on a CPU, use deterministic algorithms only.
        workers: processes that prepare samples; default one less than the usable cores.
        checkpoint_every: steps between checkpoints besides those at every evaluation.
        tensorboard: also log to `folder`/tensorboard.
        progress: print one line an evaluation, and a bar on terminals.

    Returns:
        The finished run.

    Raises:
        RunError: the folder cannot be written or holds a run with another config or other data, a
            pre-flight check fails, the loss or the selection score is no longer finite, or a
            checkpoint cannot be written.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the state is saved.
    """
    run = Run(Path(folder))
    found = _claim(run, config, resume)
    if found != "new":
        _require_same_data(run, config, {"train": train, "selection": selection})
    if found == "finished":
        _warn_of_other_code(run)
        return run
    accelerator = make_accelerator(device)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    with _deterministic(deterministic and accelerator.device.type == "cpu"):
        trainer = _Trainer(config, train, selection, run, accelerator, progress)
        if found == "unfinished":
            trainer.restore()
        trainer.start(deterministic, workers)
        trainer.train(_worker_count(workers), checkpoint_every, tensorboard)
    return run


def make_accelerator(device: str | None = None) -> Accelerator:
    """The processes and the device at work: GPUs if there are any, else the CPU.

    Args:
        device: "cpu" or "cuda" to insist.

    Raises:
        RunError: "cuda" was asked for where there is none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise RunError('device="cuda" was asked for but PyTorch sees no CUDA device; use "cpu"')
    kind = "cuda" if available and device != "cpu" else "cpu"
    begun = PartialState._shared_state
    if begun and begun["device"].type != kind and begun["num_processes"] == 1:
        # accelerate keeps the first device that a process asked for, whatever it asks later
        AcceleratorState._reset_state(reset_partial_state=True)
    # Without cpu=True accelerate takes several CPU processes for several single ones.
    accelerator = Accelerator(cpu=kind == "cpu")
    if accelerator.device.type != kind:
        raise RunError(
            f"{kind!r} was asked for, but these processes work on {accelerator.device}; "
            "start them anew with one device"
        )
    return accelerator


def _claim(run: Run, config: RunConfig, resume: bool) -> str:
    """Make the folder this config's; "new", "unfinished" or "finished"."""
    if not run.exists or not (run.state_path.is_file() or run.finished):
        write_json(run.config_path, config.to_dict())  # nothing was learnt here so far
        return "new"
    if not resume:
        raise RunError(
            f"{run.folder} already holds a run; choose another folder, or continue it "
            "(resume=True; without --no-resume on the command line)"
        )
    # Both read back: stored configs name a file of weights without its folder.
    theirs, ours = run.config.settings(), RunConfig.from_dict(config.to_dict()).settings()
    differing = [name for name in ours if theirs[name] != ours[name]]
    if differing:
        changes = "; ".join(f"{name}: {theirs[name]!r} -> {ours[name]!r}" for name in differing)
        raise RunError(
            f"{run.folder} holds a run with another config ({changes}); "
            "choose another folder, delete this one, or go back to its settings"
        )
    return "finished" if run.finished else "unfinished"


def _warn_of_other_code(run: Run) -> None:
    began = run.record.get("code", {}).get("source_hash")
    if began is not None and began != code_version()["source_hash"]:
        warnings.warn(
            f"{run.folder} is the finished run of another version of spdlib ({began}); to train "
            "with the present one, delete the folder or choose another",
            stacklevel=3,
        )


def _require_same_data(run: Run, config: RunConfig, sets: dict[str, Frames]) -> None:
    """RunError says how frames or encoder weights differ from those that the run began with."""
    record = run.record
    changes = []
    for name, frames in sets.items():
        was, now = record.get("data", {}).get(name, {}), describe_frames(frames)
        changes += [
            f"{name} {key}: {was[key]} -> {now.get(key)}"
            for key in SAME_DATA
            if key in was and was[key] != now.get(key)
        ]
    began = record.get("encoder_weights_sha256")
    # The file may be gone: a started run carries its encoder.
    weights = config.model.encoder.weights
    if began is not None and weights is not None and Path(weights).is_file():
        found = file_hash(weights)
        changes += [f"encoder weights: {began} -> {found}"] if began != found else []
    if changes:
        raise RunError(
            f"{run.folder} holds a run on other data ({'; '.join(changes)}); "
            "choose another folder or give it the data it began with"
        )


def learning_rate(config: RunConfig, step: int, peak: float) -> float:
    """Rate of one step (counted from 0): linear warm-up, then a cosine towards `final_lr`."""
    schedule = config.schedule
    if step < schedule.warmup_steps:
        start = schedule.warmup_from
        return peak * (start + (1 - start) * step / schedule.warmup_steps)
    whole = schedule.cosine_steps or schedule.steps
    done = (step - schedule.warmup_steps) / (whole - schedule.warmup_steps)
    floor = min(schedule.final_lr, peak)
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * done))


def build_model(config: RunConfig, train: Frames) -> DepthModel:
    """The config's network with seeded fresh weights, told the frames' effective focal length."""
    torch.manual_seed(config.seed)
    model = create_model(
        config.model.network,
        encoder=config.model.encoder,
        image_size=config.model.image_size,
        focal=effective_focal(train, config.sample_config()),
        **config.model.options,
    )
    return model.to(DTYPES[config.optimizer.precision]).train()


def effective_focal(frames: Frames, samples: SampleConfig, index: int = 0) -> float:
    """Focal length in pixels of a training image before its random changes."""
    plain = SampleConfig(samples.image_size, augment=AugmentConfig(crop=samples.augment.crop))
    camera = TrainingSamples(frames, plain)[(0, index)]["camera"]
    return Camera.from_tensor(camera).focal


def batch_loss(model: nn.Module, batch: dict[str, Tensor], config: RunConfig) -> LossValue:
    """Loss of one batch under the config's supervision (decisions 5).

    Args:
        model: takes (images, points); its images are padded already.
        batch: collated training samples; `image` padded, and `depth` to the same size. Points
            need `depth` for auxiliary maps only, the other kinds of supervision nothing else.
        config: supervision, loss, lambda, reduction and auxiliary weight.
    """
    if config.sampling.supervision == "points":
        depth, auxiliary = model(batch["image"], batch["points"])
        truth, valid = batch["truth"], batch["valid"]
    else:
        depth, auxiliary = model(batch["image"])
        truth, valid = batch["depth"], None
        if config.sampling.supervision == "lattice":
            truth = lattice_truth(truth, (depth.shape[-2], depth.shape[-1]))
        else:
            size = (truth.shape[-2], truth.shape[-1])
            depth = F.interpolate(depth[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    objective = config.objective
    lam, reduction = objective.silog_lambda, objective.reduction
    loss = named_loss(objective.loss, depth, truth, valid, lam, reduction)
    if not objective.auxiliary_weight:
        return loss
    maps = list(auxiliary.values())
    dense = dense_auxiliary(maps, batch["depth"], lam, reduction, objective.aux_target)
    return loss._replace(value=loss.value + objective.auxiliary_weight * dense.value)


def precision_of(config: RunConfig, device: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast to bf16 where a config asks for it on this kind of device ("cpu" or "cuda")."""
    wanted = ("bf16", "bf16_cpu") if device == "cuda" else ("bf16_cpu",)
    return torch.autocast(device, torch.bfloat16, enabled=config.optimizer.precision in wanted)


@dataclass
class _Window:
    """Sums since the last row of the history."""

    steps: int = 0
    loss: float = 0.0
    norm: float = 0.0
    skipped: int = 0
    waited: float = 0.0
    elapsed: float = 0.0


@dataclass
class _Counters:
    """What a run has done so far."""

    step: int = 0
    best: float = math.inf
    best_step: int = 0
    worse: int = 0
    seconds: float = 0.0
    stopped_early: bool = False


class _Trainer:
    """The objects of one run: networks, optimizer, counters."""

    def __init__(
        self,
        config: RunConfig,
        train: Frames,
        selection: Frames,
        run: Run,
        accelerator: Accelerator,
        progress: bool,
    ) -> None:
        self.config, self.run, self.accelerator = config, run, accelerator
        self.train_frames, self.selection = train, selection
        self.progress = progress and accelerator.is_main_process
        started = run.state_path.is_file()
        # A started run carries its encoder: the file or download it came from may be gone.
        plain = load(run.last).train() if started else build_model(config, train)
        plain = plain.to(accelerator.device, DTYPES[config.optimizer.precision])
        self.plain = plain.to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.plain).eval() if config.optimizer.ema_decay else None
        # heads without a loss
        idle = self.plain.has_auxiliary and not config.objective.auxiliary_weight
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=idle)
        self.model = accelerator.prepare_model(self.plain)
        groups = self.plain.parameter_groups(
            config.optimizer.encoder_lr, config.optimizer.decoder_lr, config.optimizer.weight_decay
        )
        self.peaks = [group["lr"] for group in groups]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.counters, self.window = _Counters(), _Window()
        self.history: list[dict[str, Any]] = []
        self.batches = self._batches(0)
        self._begun = time.perf_counter()

    def _batches(self, start: int) -> EpochBatches:
        world = self.accelerator
        schedule = self.config.schedule
        return EpochBatches(
            len(self.train_frames), schedule.batch_size, self.config.seed, start_step=start,
            steps=schedule.steps, rank=world.process_index, world=world.num_processes,
        )  # fmt: skip

    @property
    def scored(self) -> DepthModel:
        """The network that is evaluated and kept: averaged weights if they are asked for."""
        if self.averaged is None:
            return self.plain
        for mine, theirs in zip(self.averaged.buffers(), self.plain.buffers(), strict=True):
            mine.copy_(theirs)
        return self.averaged

    # -- starting -----------------------------------------------------------------------------

    def start(self, deterministic: bool, workers: int | None) -> None:
        """Check a new run, and write down all that is known before the first step."""
        fresh = self.counters.step == 0
        if fresh:
            self._check()
        if self.accelerator.is_main_process:
            record = self._record(deterministic, workers)
            if not fresh:
                known = self.run.record
                for change in _machine_changes(known["machine"], record["machine"]):
                    self._print(f"not bit for bit as begun: {change}")
                # The machine and code of a continued run are those that started it.
                here = {name: record[name] for name in ("code", "machine")}
                continued = [*known.get("continued_at", []), {"step": self.counters.step, **here}]
                record |= {**known, "continued_at": continued}
            write_json(self.run.record_path, {**record, "status": "running"})
        self.accelerator.wait_for_everyone()
        done = "" if fresh else f", continued at step {self.counters.step}"
        self._print(
            f"{self.run.folder}: {self.config.schedule.steps} steps on {self._device()}{done}"
        )
        if fresh:
            self._print_deviations()

    def _check(self) -> None:
        """The pre-flight table goes to the run's folder whether it stops the run or not."""
        try:
            table = check(self.plain, self.train_frames, self.selection, self.config)
        except PreflightError as error:
            if self.accelerator.is_main_process:
                self.run.write_table("preflight", error.table)
            raise
        if self.accelerator.is_main_process:
            self.run.write_table("preflight", table)

    def _record(self, deterministic: bool, workers: int | None) -> dict[str, Any]:
        encoder = self.plain.config.encoder
        table = self.plain.parameter_table()
        return {
            "experiment": self.config.experiment,
            "profile": self.config.profile,
            "config_hash": hash_of(self.config.to_dict()),
            **origin(),
            "device": self._device(),
            "processes": self.accelerator.num_processes,
            "deterministic": deterministic and self.accelerator.device.type == "cpu",
            "workers": _worker_count(workers),
            "seed": self.config.seed,
            "data": {
                "train": describe_frames(self.train_frames),
                "selection": describe_frames(self.selection),
            },
            "encoder_weights_sha256": encoder.weights_sha256,
            # Whatever their origin: downloads of one name can differ. Of the first step only.
            "encoder_state_sha256": (
                None if self.counters.step else self.plain.encoder.fingerprint()
            ),
            "parameters": dict(zip(table["component"], table["parameters"].tolist(), strict=True)),
            "deviations": deviations(self.config).to_dict("records"),
            "started": _now(),
        }

    def _device(self) -> str:
        return str(self.accelerator.device.type)

    def _print_deviations(self) -> None:
        fields = deviations(self.config)["field"]
        if len(fields):
            text = f"{len(fields)} deviations from the recorded run (record.json): "
            self._print(textwrap.fill(text + ", ".join(fields), 100, subsequent_indent="  "))

    def _print(self, line: str) -> None:
        if self.progress:
            tqdm.write(line)
            sys.stdout.flush()

    # -- state --------------------------------------------------------------------------------

    def save_state(self) -> None:
        """Write all that the next step depends on; one rename makes it the run's state."""
        if self.accelerator.is_main_process:
            self.scored.save(self.run.last)
            tensors = {
                **_prefixed("model", self.plain.state_dict()),
                **(_prefixed("averaged", self.averaged.state_dict()) if self.averaged else {}),
                **_optimizer_tensors(self.optimizer),
            }
            meta = {"counters": asdict(self.counters), "window": asdict(self.window)}
            data = safetensors.torch.save(tensors, {"state": json.dumps(meta)})
            write_bytes(self.run.state_path, data)
        self.accelerator.wait_for_everyone()

    def restore(self) -> None:
        """Continue from the run's state.

        Raises:
            RunError: the state cannot be read or belongs to another network.
        """
        path = self.run.state_path
        try:
            with safe_open(path, framework="pt") as file:
                meta = json.loads((file.metadata() or {})["state"])
            tensors = safetensors.torch.load_file(path)
            self.plain.load_state_dict(_under("model", tensors))
            if self.averaged is not None:
                self.averaged.load_state_dict(_under("averaged", tensors))
            _restore_optimizer(self.optimizer, _under("optimizer", tensors))
            self.counters = _Counters(**meta["counters"])
            self.window = _Window(**meta["window"])
        except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise RunError(
                f"{path} is not a usable state of this run ({str(error).splitlines()[0]}); "
                f"delete {self.run.last} to start the run again"
            ) from error
        self._restore_history()

    def _restore_history(self) -> None:
        """Keep the rows that the state has seen; later ones will be written again."""
        if self.counters.step and (self.run.folder / "history.csv").is_file():
            rows = self.run.history
            rows = rows[rows["step"] <= self.counters.step]
            self.history = [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]

    # -- the loop -----------------------------------------------------------------------------

    def train(self, workers: int, checkpoint_every: int, tensorboard: bool) -> None:
        """Run the remaining steps."""
        wanted = tensorboard and self.accelerator.is_main_process
        writer = _tensorboard(self.run, self.counters.step) if wanted else None
        batches = iter(()) if self.counters.stopped_early else self._timed_batches(workers)
        last_saved = self.counters.step
        with _stop_requests() as stop, self._bar() as bar:
            for batch in batches:
                self._step(batch)
                self.window.elapsed += self._tick()
                bar.update()
                if self._due(self.counters.step):
                    self._evaluate(writer)
                    last_saved = self.counters.step
                elif checkpoint_every and self.counters.step % checkpoint_every == 0:
                    self.save_state()
                    last_saved = self.counters.step
                if self.counters.stopped_early or self.counters.step >= self.config.schedule.steps:
                    break
                if self._anyone(stop.is_set()):
                    if last_saved != self.counters.step:
                        self.save_state()
                    self._interrupt()
        if writer is not None:
            writer.close()
        self._finish()

    def _bar(self) -> tqdm[Any]:
        quiet = not (self.progress and sys.stderr.isatty())
        return tqdm(
            total=self.config.schedule.steps, initial=self.counters.step, unit="step", disable=quiet
        )

    def _timed_batches(self, workers: int) -> Iterator[dict[str, Tensor]]:
        """Batches on the device; the time spent waiting for them goes to the window."""
        batches = iter(self._loader(workers))
        self._begun = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.window.waited += time.perf_counter() - asked
            yield self._to_device(batch)

    def _tick(self) -> float:
        """Add the time since the last tick to the run's, and return it."""
        now = time.perf_counter()
        passed, self._begun = now - self._begun, now
        self.counters.seconds += passed
        return passed

    def _loader(self, workers: int) -> DataLoader[dict[str, Tensor]]:
        self.batches = self._batches(self.counters.step)
        return DataLoader(
            TrainingSamples(self.train_frames, self.config.sample_config()),
            batch_sampler=self.batches,
            num_workers=workers,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=_leave_signals_to_parent,
            prefetch_factor=4 if workers else None,
            # Without its own generator the loader would draw its seed from torch's.
            generator=torch.Generator().manual_seed(self.config.seed),
        )

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        device, dtype = self.accelerator.device, DTYPES[self.config.optimizer.precision]
        wanted = {"image"}
        if self.config.sampling.supervision == "points":
            wanted |= {"points", "truth", "valid"}
        if self.config.sampling.supervision != "points" or self.config.objective.auxiliary_weight:
            wanted |= {"depth"}
        moved = {
            name: value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)
            for name, value in batch.items()
            if name in wanted
        }
        height, width = moved["image"].shape[-2:]
        image = self.plain.pad(moved["image"])
        moved["image"] = image.contiguous(memory_format=torch.channels_last)
        if "depth" in moved:
            extra = (0, image.shape[-1] - width, 0, image.shape[-2] - height)
            moved["depth"] = F.pad(moved["depth"], extra)  # 0: not measured
        return {**moved, "index": batch["index"]}

    def _step(self, batch: dict[str, Tensor]) -> None:
        step = self.counters.step
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = learning_rate(self.config, step, peak)
        # Dropout depends on the step alone, so that no generator state needs saving.
        rank = self.accelerator.process_index
        torch.manual_seed(stable_seed("step", self.config.seed, step, rank))
        with precision_of(self.config, self.accelerator.device.type):
            loss = batch_loss(self.model, batch, self.config)
        self.accelerator.backward(loss.value)
        limit = self.config.optimizer.clip or math.inf
        if self._due(step + 1) and self.accelerator.is_main_process:
            self.run.write_table("gradients", gradient_coverage(self.plain))
        length = nn.utils.clip_grad_norm_(self.parameters, limit)
        # One transfer: each makes a GPU wait for all that was asked of it so far.
        numbers = torch.stack([x.detach().double() for x in (loss.value, length, loss.images)])
        value, norm, images = numbers.tolist()
        self._require_finite("loss", value, batch["index"])
        self._require_finite("gradient norm", norm, batch["index"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.counters.step += 1
        self._average()
        self.window.steps += 1
        self.window.loss += value
        self.window.norm += norm
        self.window.skipped += self.config.schedule.batch_size - int(images)

    def _require_finite(self, what: str, value: float, index: Tensor) -> None:
        if not math.isfinite(value):
            ids = self.train_frames.ids
            names = [ids[i] for i in index.tolist()]
            raise RunError(
                f"the {what} is {value} at step {self.counters.step} with frames {names}; check "
                f"these frames with `data verify`, or lower the learning rate. The run's last "
                f"checkpoint in {self.run.last} is untouched"
            )

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the current ones, faster in the first steps."""
        if self.averaged is None:
            return
        step = self.counters.step
        decay = min(self.config.optimizer.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.plain.parameters()), 1 - decay
        )

    def _anyone(self, flag: bool) -> bool:
        """Whether any process says so; every process gets the same answer."""
        if self.accelerator.num_processes == 1:
            return flag
        votes = torch.tensor([int(flag)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(votes).item())

    # -- evaluating ---------------------------------------------------------------------------

    def _due(self, step: int) -> bool:
        """Whether the run is evaluated after so many steps."""
        every = self.config.evaluation.evaluate_every or self.batches.steps_per_epoch
        return step % every == 0 or step == self.config.schedule.steps

    def _evaluate(self, writer: Any) -> None:
        """Score the selection set, add a row to the history, keep the best weights, save."""
        self._share_statistics()
        scores = selection_scores(
            self.scored, self.selection, self.config.data.truth, self.accelerator,
            squash=self.config.data.validation == "squash",
        )  # fmt: skip
        row = self._row(scores)
        self._require_score(row["sel_abs_rel"])
        self.history.append(row)
        counters = self.counters
        better = row["sel_abs_rel"] < counters.best
        counters.worse = 0 if better else counters.worse + 1
        if better:
            counters.best, counters.best_step = row["sel_abs_rel"], counters.step
        patience = self.config.evaluation.patience
        counters.stopped_early = bool(patience) and counters.worse >= patience
        self.window = _Window()
        if self.accelerator.is_main_process:
            self.run.write_table("history", pd.DataFrame(self.history, columns=HISTORY_COLUMNS))
            if better:
                self.scored.save(self.run.best)
            if writer is not None:
                _log_scalars(writer, row)
        self._tick()  # evaluating counts as time of the run, not as a step
        self.save_state()
        self._print(_line(row, self.config.schedule.steps))

    def _share_statistics(self) -> None:
        """Give all processes the BatchNorm statistics of process 0, which it will save.

        In training mode every process follows its own part of the batches.
        """
        if self.accelerator.num_processes > 1:
            broadcast(list(self.plain.buffers()))

    def _require_score(self, abs_rel: float) -> None:
        if not math.isfinite(abs_rel):
            raise RunError(
                f"the selection AbsRel is {abs_rel} at step {self.counters.step}: the network's "
                "depth is not finite (lower the learning rate), or the selection frames have no "
                "valid pixel inside the eigen crop (check them with `data verify`). The run's last "
                f"checkpoint in {self.run.last} is untouched"
            )

    def _row(self, scores: dict[str, float]) -> dict[str, Any]:
        config, window, step = self.config, self.window, self.counters.step
        return {
            "step": step,
            "epoch": round(step / self.batches.steps_per_epoch, 3),
            "train_loss": window.loss / max(1, window.steps),
            "lr_encoder": learning_rate(config, step - 1, config.optimizer.encoder_lr),
            "lr_decoder": learning_rate(config, step - 1, config.optimizer.decoder_lr),
            "grad_norm": window.norm / max(1, window.steps),
            "data_wait_share": window.waited / max(window.elapsed, 1e-9),
            "seconds": self.counters.seconds,
            "skipped": window.skipped,
            **scores,
        }

    # -- ending -------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        if self.accelerator.is_main_process:
            self.run.update_record({"status": "interrupted", **self._outcome()})
        message = (
            f"stopped after step {self.counters.step} of {self.config.schedule.steps}; "
            f"run the same command again to continue {self.run.folder}"
        )
        self._print(message)
        raise KeyboardInterrupt(message)

    def _finish(self) -> None:
        if self.accelerator.is_main_process:
            self.run.update_record({"status": "finished", "finished": _now(), **self._outcome()})
        self.accelerator.wait_for_everyone()

    def _outcome(self) -> dict[str, Any]:
        counters = self.counters
        return {
            "steps_done": counters.step,
            "best_step": counters.best_step,
            "best_sel_abs_rel": counters.best if math.isfinite(counters.best) else None,
            "stopped_early": counters.stopped_early,
            "wall_seconds": round(counters.seconds, 1),
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _worker_count(workers: int | None) -> int:
    if workers is None:
        return max(1, min(8, usable_cores() - 1))
    if workers < 0:
        raise ConfigError(f"workers must not be negative; got {workers}")
    return workers


def _machine_changes(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What rounding depends on and is no longer as it was."""
    before, after = (
        {**m["libraries"], "processor": m["cpu"], "threads": m["torch_threads"]} for m in (was, now)
    )
    return [
        f"{name} {before.get(name)} -> {value}"
        for name, value in after.items()
        if before.get(name) != value
    ]


def _line(row: dict[str, Any], steps: int) -> str:
    """One line for people about one evaluation."""
    return (
        f"epoch {row['epoch']:g}  step {row['step']}/{steps}  train {row['train_loss']:.4f}  "
        f"selection AbsRel {row['sel_abs_rel']:.4f} RMSE {row['sel_rmse']:.3f} m "
        f"delta1 {row['sel_delta1']:.3f} s* {row['sel_s_star']:.3f}  "
        f"waited {100 * row['data_wait_share']:.1f} %  {row['seconds'] / 60:.1f} min"
    )


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors, plain in memory, under `prefix`."""
    return {f"{prefix}.{k}": v.detach().cpu().contiguous() for k, v in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    flat = {f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items()}
    return _prefixed("optimizer", flat)


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]
        if tensor.shape == like.shape:
            # Same memory layout as before: other loops may round differently.
            tensor = torch.empty_like(like).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C, and SIGTERM to a whole group, reach workers too; the parent ends them by itself.

    A worker that died of the signal would end the run before its state is saved. Workers whose
    parent is gone notice within seconds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a flag; a second one acts at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: Any) -> None:
        flag.set()
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in before:
        signal.signal(kind, request)
    try:
        yield flag
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextlib.contextmanager
def _deterministic(on: bool) -> Iterator[None]:
    """Deterministic algorithms for the length of a block."""
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    if on:
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # costs time and hides nothing here
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = fill


def _tensorboard(run: Run, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RunError("tensorboard=True needs the package: pip install tensorboard") from error
    return SummaryWriter(str(run.folder / "tensorboard"), purge_step=step)


def _log_scalars(writer: Any, row: dict[str, Any]) -> None:
    for name, value in row.items():
        if name != "step":
            writer.add_scalar(name, value, row["step"])
    writer.flush()
