"""All that the next step of a run depends on: it is saved, and restored bit for bit."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spdlib.errors import RunError
from spdlib.models import DepthModel
from spdlib.reading import reading
from spdlib.sealed import seal, unseal
from spdlib.study.config import RunConfig
from spdlib.study.objectives import Objective
from spdlib.study.runs import Run, write_bytes
from spdlib.study.tables import COLUMNS, read_table

HISTORY_COLUMNS = (
    *("step", "epoch", "train_loss", "lr_encoder", "lr_decoder", "grad_norm"),
    *("sel_abs_rel", "sel_rmse", "sel_delta1", "sel_s_star", "sel_unique_l3"),
    *("pred_min", "pred_max", "gt_min", "gt_max", "data_wait_share", "seconds", "skipped"),
)
"""Of history.csv. The terms of a loss that is a sum follow them."""


@dataclass
class Window:
    """Sums over the steps since the last row of the history."""

    steps: int = 0
    loss: float = 0.0
    norm: float = 0.0
    skipped: int = 0
    waited: float = 0.0
    elapsed: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    def add(self, loss: float, norm: float, skipped: int, parts: dict[str, float]) -> None:
        """Count one step."""
        self.steps += 1
        self.loss += loss
        self.norm += norm
        self.skipped += skipped
        for name, value in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """The columns of the history that these steps decide."""
        steps = max(1, self.steps)
        return {
            "train_loss": self.loss / steps,
            "grad_norm": self.norm / steps,
            "data_wait_share": self.waited / max(self.elapsed, 1e-9),
            "skipped": self.skipped,
            **{f"loss_{name}": total / steps for name, total in self.parts.items()},
        }


@dataclass
class Counters:
    """What a run has done so far."""

    step: int = 0
    best: float = math.inf
    best_step: int = 0
    worse: int = 0
    seconds: float = 0.0
    stopped_early: bool = False

    def judge(self, score: float, patience: int) -> bool:
        """Take an evaluation into account; whether it is the best so far."""
        better = score < self.best
        self.worse = 0 if better else self.worse + 1
        if better:
            self.best, self.best_step = score, self.step
        self.stopped_early = bool(patience) and self.worse >= patience
        return better

    def outcome(self) -> dict[str, Any]:
        """These numbers as they stand in a record."""
        return {
            "steps_done": self.step,
            "best_step": self.best_step,
            "best_sel_abs_rel": self.best if math.isfinite(self.best) else None,
            "stopped_early": self.stopped_early,
            "wall_seconds": round(self.seconds, 1),
        }


class State:
    """Network, averaged weights, objective, optimizer, counters and history of a run.

    Parameters that the objective learns join the optimizer at the decoder's rate, without decay.
    """

    def __init__(self, config: RunConfig, model: DepthModel, objective: Objective) -> None:
        self.config, self.model, self.objective = config, model, objective
        rates = config.optimizer
        self.averaged = copy.deepcopy(model).eval() if rates.ema_decay else None
        groups = model.parameter_groups(rates.encoder_lr, rates.decoder_lr, rates.weight_decay)
        if own := list(objective.learned().values()):
            groups.append({"params": own, "lr": rates.decoder_lr, "weight_decay": 0.0})
        self._peaks = [group["lr"] for group in groups]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.counters, self.window = Counters(), Window()
        self.history: list[dict[str, Any]] = []

    @property
    def scored(self) -> DepthModel:
        """The network that is evaluated and kept: averaged weights if there are any."""
        network = self.averaged or self.model
        if self.averaged is not None:
            for mine, theirs in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
                mine.copy_(theirs)
        network.trained = f"{self.config.experiment}, {self.counters.step:,} steps"
        return network

    def set_rates(self) -> None:
        """Set the learning rates of the next step."""
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = learning_rate(self.config, self.counters.step, peak)

    @torch.no_grad()
    def average(self) -> None:
        """Move the averaged weights towards the current ones, faster in the first steps."""
        if self.averaged is None:
            return
        step = self.counters.step
        decay = min(self.config.optimizer.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay
        )

    def history_table(self) -> pd.DataFrame:
        """The history, one row an evaluation."""
        parts = [name for name in (self.history or [{}])[-1] if name.startswith("loss_")]
        return pd.DataFrame(self.history, columns=[*HISTORY_COLUMNS, *parts])

    def save(self, run: Run) -> None:
        """Write the state; one rename makes it the run's."""
        self.scored.save(run.last)
        state = self.optimizer.state_dict()["state"]
        moments = {
            f"{i}.{name}": value for i, each in state.items() for name, value in each.items()
        }
        parts: dict[str, dict[str, Any]] = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else {},
            "objective": dict(self.objective.learned()),
            "optimizer": moments,
        }
        tensors = {
            f"{part}.{name}": tensor
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        meta = {"counters": asdict(self.counters), "window": asdict(self.window)}
        write_bytes(run.state_path, seal(tensors, "state", json.dumps(meta)))

    def restore(self, run: Run) -> None:
        """Continue from a run's state.

        RunError: the state cannot be read or belongs to another network, or the best weights or
            the history so far are gone.
        """
        path, remedy = run.state_path, f"delete {run.last} to start the run again"
        tensors, text = unseal(path, "state", RunError, remedy, earlier=True)
        with reading(path, "is not a usable state of this run", remedy, RunError):
            meta = json.loads(text)
            if not all(isinstance(value, int | float) for value in meta["counters"].values()):
                raise ValueError(f"counters {meta['counters']}")
            self.model.load_state_dict(_under("model", tensors))
            if self.averaged is not None:
                self.averaged.load_state_dict(_under("averaged", tensors))
            own = _under("objective", tensors)
            with torch.no_grad():
                for name, parameter in self.objective.learned().items():
                    parameter.copy_(own[name])
            _restore_optimizer(self.optimizer, _under("optimizer", tensors))
            self.counters = Counters(**meta["counters"])
            self.window = Window(**meta["window"])
        if self.counters.best_step:  # evaluated before: its best weights and history are there
            run.saved(run.best)
            self._restore_history(run)

    def _restore_history(self, run: Run) -> None:
        path, counters = run.require(run.folder / "history.csv"), self.counters
        remedy = f"restore it, or delete {run.last} to start the run again"
        table = read_table(path, COLUMNS["history"], remedy)
        rows = table[table["step"] <= counters.step]  # later ones will be written again
        since = (rows["step"] > counters.best_step).sum()
        if counters.best_step not in set(rows["step"]) or since != counters.worse:
            raise RunError(
                f"{path}: is not the history of {counters.step} steps of this run; {remedy}"
            )
        self.history = [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


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


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


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
