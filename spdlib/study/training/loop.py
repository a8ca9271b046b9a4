"""`fit`: one training loop for every network, read from top to bottom.

Everything random derives from (seed, step, frame), so that a run that was stopped or killed goes on
from its last checkpoint bit for bit, on one machine with the same threads and versions. The number
of processes changes nothing but rounding, and BatchNorm in training mode (`train_batchnorm`): its
statistics are per process, and those of process 0 are evaluated and kept.
"""

from __future__ import annotations

import contextlib
import math
import textwrap
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spdlib.data.frames import Frames
from spdlib.data.queries import stable_seed
from spdlib.data.samples import EpochBatches, TrainingSamples
from spdlib.data.workers import PATIENCE, from_workers, leave_signals_to_parent, working
from spdlib.errors import ConfigError, RunError
from spdlib.study.config import RunConfig
from spdlib.study.diagnostics import gradient_coverage
from spdlib.study.evaluation import selection_scores
from spdlib.study.runs import Run, store_of, write_json
from spdlib.study.training import setup
from spdlib.study.training.preflight import check
from spdlib.study.training.report import Report, stop_requests
from spdlib.study.training.state import State, Window, learning_rate


def fit(
    config: RunConfig,
    train: Frames,
    selection: Frames,
    folder: str | Path,
    *,
    resume: bool = True,
    init_from: str | Path | None = None,
    device: str | None = None,
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
            One training at a time works there; evaluating and publishing do not ask.
        resume: False refuses a folder that already holds a run.
        init_from: folder of a run whose best weights a new run of the same network starts from.
        device: "cpu", where only deterministic algorithms are used, or "cuda"; default a GPU if
            there is one.
        workers: processes that prepare samples; default one less than the usable cores.
        checkpoint_every: steps between checkpoints besides those at every evaluation; 0 for none.
        tensorboard: also log to `folder`/tensorboard.
        progress: print one line an evaluation, and a bar on terminals.

    Returns:
        The finished run.

    Raises:
        ConfigError: negative `workers` or `checkpoint_every`.
        RunError: the folder cannot be written, is another training's at this time, or holds a run
            with another config or other data, a pre-flight check fails, the loss or the selection
            score is no longer finite, or a checkpoint cannot be written.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the state is saved.
    """
    workers = setup.worker_count(workers)
    if checkpoint_every < 0:
        raise ConfigError(f"checkpoint_every must not be negative; got {checkpoint_every}")
    run, sets = Run(Path(folder)), {"train": train, "selection": selection}
    accelerator = setup.make_accelerator(device)
    with setup.from_main(accelerator, setup.claim(run, config, resume)) as found:
        state = setup.started(run, config, sets, found, init_from, accelerator)
        if state is None:
            return run
        on_cpu = accelerator.device.type == "cpu"
        how = {
            "device": accelerator.device.type,
            "processes": accelerator.num_processes,
            "deterministic": on_cpu,
            "workers": workers,
        }
        with setup.deterministic_algorithms(on_cpu):
            loop = Loop(state, sets, run, accelerator, progress)
            loop.begin(how, init_from)
            loop.train(workers, checkpoint_every, tensorboard)
    return run


class Loop:
    """One run at work: its state, and everything around it that a step needs."""

    def __init__(
        self,
        state: State,
        sets: dict[str, Frames],
        run: Run,
        accelerator: Accelerator,
        progress: bool,
    ) -> None:
        self.state, self.sets, self.run, self.accelerator = state, sets, run, accelerator
        self.config, self.objective = config, objective = state.config, state.objective
        self.report = Report(progress and accelerator.is_main_process)
        idle = state.model.has_auxiliary and not objective.auxiliary  # heads without a loss
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=idle)
        self.network = accelerator.prepare_model(state.model)
        self.batches = EpochBatches(
            len(sets["train"]),
            config.schedule.batch_size,
            config.seed,
            steps=config.schedule.steps,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        self.since = time.perf_counter()

    def begin(self, how: dict[str, Any], init_from: str | Path | None) -> None:
        """Check a new run, and write down all that is known before the next step."""
        step, main = self.state.counters.step, self.accelerator.is_main_process
        if step == 0:
            keep = partial(self.run.write_table, "preflight") if main else None
            train, selection = self.sets["train"], self.sets["selection"]
            check(self.state.model, train, selection, self.config, self.objective, keep)
            record = {**setup.describe(self.config, self.state.model, self.sets), **how}
            if init_from is not None:
                record["init_from_sha256"] = setup.best_weights(init_from)[1]
        elif main:
            record, changes = setup.continued(self.run.record, step)
            for change in changes:
                self.report.line(f"not bit for bit as begun: {change}")
        if main:
            write_json(self.run.record_path, {**record, "status": "running"})
            self.run.remember_store(store_of(self.sets["train"]))
        self.accelerator.wait_for_everyone()
        done = f", continued at step {step}" if step else ""
        self.report.line(
            f"{self.run.folder}: {self.config.schedule.steps} steps on {how['device']}{done}"
        )
        if step == 0 and record["deviations"]:
            fields = [each["field"] for each in record["deviations"]]
            text = f"{len(fields)} deviations from the recorded run (record.json): "
            text = textwrap.fill(text + ", ".join(fields), 100, subsequent_indent="  ")
            self.report.line(text)

    # -- the loop -----------------------------------------------------------------------------

    def train(self, workers: int, checkpoint_every: int, tensorboard: bool) -> None:
        """Run the remaining steps."""
        state, counters = self.state, self.state.counters
        wanted = tensorboard and self.accelerator.is_main_process
        logs = self.run.folder / "tensorboard" if wanted else None
        with (
            self.report.tensorboard(logs, counters.step),
            stop_requests() as stop,
            self.report.bar(counters.step, self.config.schedule.steps) as bar,
            contextlib.closing(self.timed_batches(workers)) as batches,
            from_workers(),  # one may be killed at any time, which the main thread hears at once
        ):
            for batch in () if counters.stopped_early else batches:
                self.step(batch)
                state.window.elapsed += self.tick()
                bar.update()
                if self.due(counters.step):
                    self.evaluate()
                elif checkpoint_every and counters.step % checkpoint_every == 0:
                    self.save()
                if counters.stopped_early or counters.step >= self.config.schedule.steps:
                    break
                if self.anyone(stop.is_set()):
                    self.save()
                    self.interrupt()
        if self.accelerator.is_main_process:
            ended = {"status": "finished", "finished": setup.time_now()}
            self.run.update_record({**ended, **counters.outcome()})
        self.accelerator.wait_for_everyone()

    def timed_batches(self, workers: int) -> Generator[dict[str, Tensor], None, None]:
        """Batches on the device; the time spent waiting for them goes to the window."""
        self.since = time.perf_counter()
        with working(self._loader(workers)) as batches:
            while True:
                began = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    return
                self.state.window.waited += time.perf_counter() - began
                moved = setup.prepared(batch, self.state.model, self.objective)
                yield {**moved, "index": batch["index"]}

    def _loader(self, workers: int) -> DataLoader[dict[str, Tensor]]:
        self.batches.start_step = self.state.counters.step
        return DataLoader(
            TrainingSamples(self.sets["train"], self.config.sample_config()),
            batch_sampler=self.batches,
            num_workers=workers,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=leave_signals_to_parent,
            prefetch_factor=4 if workers else None,
            timeout=PATIENCE if workers else 0,
            # Without its own generator the loader would draw its seed from torch's.
            generator=torch.Generator().manual_seed(self.config.seed),
        )

    def step(self, batch: dict[str, Tensor]) -> None:
        """One step of the optimizer."""
        config, state, world = self.config, self.state, self.accelerator
        state.set_rates()
        # Dropout depends on the step alone, so that no generator state needs saving.
        seed = stable_seed("step", config.seed, state.counters.step, world.process_index)
        torch.manual_seed(seed)
        with setup.precision_of(config, world.device.type):
            loss = self.objective(self.network, batch)
        world.backward(loss.value)
        if self.due(state.counters.step + 1) and world.is_main_process:
            self.run.write_table("gradients", gradient_coverage(state.model))
        length = nn.utils.clip_grad_norm_(state.parameters, config.optimizer.clip or math.inf)
        # One transfer: each makes a GPU wait for all its queued work.
        numbers = (loss.value, length, loss.images, *loss.parts.values())
        value, norm, images, *parts = torch.stack([x.detach().double() for x in numbers]).tolist()
        self._require_finite("loss", value, batch["index"])
        self._require_finite("gradient norm", norm, batch["index"])
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.counters.step += 1
        state.average()
        named = dict(zip(loss.parts, parts, strict=True))
        state.window.add(value, norm, config.schedule.batch_size - int(images), named)

    def _require_finite(self, what: str, value: float, index: Tensor) -> None:
        if not math.isfinite(value):
            ids = self.sets["train"].ids
            names = [ids[i] for i in index.tolist()]
            raise RunError(
                f"the {what} is {value} at step {self.state.counters.step} with frames {names}; "
                "check these frames with `data verify`, or lower the learning rate. The run's last "
                f"checkpoint in {self.run.last} is untouched"
            )

    def tick(self) -> float:
        """Add the time since the last tick to the run's, and return it."""
        now = time.perf_counter()
        passed, self.since = now - self.since, now
        self.state.counters.seconds += passed
        return passed

    def anyone(self, flag: bool) -> bool:
        """Whether any process says so; every process gets the same answer."""
        if self.accelerator.num_processes == 1:
            return flag
        votes = torch.tensor([int(flag)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(votes).item())

    def save(self) -> None:
        """Write the state."""
        if self.accelerator.is_main_process:
            self.state.save(self.run)
        self.accelerator.wait_for_everyone()

    def interrupt(self) -> None:
        """End after a request to stop; the state is saved.

        KeyboardInterrupt: always; it says how to go on.
        """
        counters = self.state.counters
        if self.accelerator.is_main_process:
            self.run.update_record({"status": "interrupted", **counters.outcome()})
        message = (
            f"stopped after step {counters.step} of {self.config.schedule.steps}; "
            f"run the same command again to continue {self.run.folder}"
        )
        self.report.line(message)
        raise KeyboardInterrupt(message)

    # -- evaluating ---------------------------------------------------------------------------

    def due(self, step: int) -> bool:
        """Whether the run is evaluated after so many steps."""
        every = self.config.evaluation.evaluate_every or self.batches.steps_per_epoch
        return step % every == 0 or step == self.config.schedule.steps

    def evaluate(self) -> None:
        """Score the selection set, add a row to the history, keep the best weights, save."""
        state = self.state
        if self.accelerator.num_processes > 1:
            # BatchNorm in training follows each process's own part of the batches: process 0 counts
            broadcast(list(state.model.buffers()))
        scores = selection_scores(
            state.scored,
            self.sets["selection"],
            self.config.data.truth,
            self.accelerator,
            squash=self.config.data.validation == "squash",
        )
        self._require_score(scores["sel_abs_rel"])
        step, peaks = state.counters.step, self.config.optimizer
        row = {
            "step": step,
            "epoch": round(step / self.batches.steps_per_epoch, 3),
            "lr_encoder": learning_rate(self.config, step - 1, peaks.encoder_lr),
            "lr_decoder": learning_rate(self.config, step - 1, peaks.decoder_lr),
            "seconds": state.counters.seconds,
            **state.window.means(),
            **scores,
        }
        state.history.append(row)
        state.window = Window()
        better = state.counters.judge(row["sel_abs_rel"], self.config.evaluation.patience)
        if self.accelerator.is_main_process:
            self.run.write_table("history", state.history_table())
            if better:
                state.scored.save(self.run.best)
        self.tick()  # evaluating counts as time of the run, not as a step
        self.save()
        self.report.evaluation(row, self.config.schedule.steps)

    def _require_score(self, abs_rel: float) -> None:
        if not math.isfinite(abs_rel):
            raise RunError(
                f"the selection AbsRel is {abs_rel} at step {self.state.counters.step}: the "
                "network's depth is not finite (lower the learning rate), or the selection frames "
                "have no valid pixel inside the eigen crop (check them with `data verify`). The "
                f"run's last checkpoint in {self.run.last} is untouched"
            )
