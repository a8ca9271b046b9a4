"""Objectives: sums by hand, and new ones that train without another line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from spdlib.errors import ConfigError
from spdlib.study.config import RunConfig
from spdlib.study.objectives import (
    OBJECTIVES,
    Batch,
    LossValue,
    Objective,
    Pairs,
    Regression,
    create_objective,
    huber_inverse_depth,
    objective,
    silog,
    silog_weight,
    truth_at,
)
from spdlib.study.runs import Run
from spdlib.study.training.loop import Loop

Fit = Callable[..., Run]


@objective("l1_log")
class L1Log(Objective):
    """An objective of its own from network to loss."""

    def __init__(self, silog_lambda: float = 0.5, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, model: nn.Module, batch: Batch) -> LossValue:
        depth, _ = model(batch["image"], batch["points"])
        valid = batch["valid"]
        error = (depth.log() - batch["truth"].clamp(min=0.1).log()).abs() * valid
        value = self.scale * error.sum() / valid.sum()
        return LossValue(value, valid.any(1).sum(), valid.sum())


@objective("berhu")
class BerHu(Regression):
    """Any loss on depth, at any kind of truth: here the reverse Huber loss."""

    def loss(self, depth: Tensor, truth: Tensor, valid: Tensor | None) -> LossValue:
        mask = truth > 0 if valid is None else valid
        residual = (depth - truth).abs()[mask]
        c = residual.detach().quantile(0.8).clamp(min=1e-6)
        loss = torch.where(residual <= c, residual, (residual.square() + c * c) / (2 * c))
        return LossValue(loss.mean(), mask.any(1).sum(), mask.sum())


@objective("kendall")
class Kendall(Regression):
    """Two losses, weighed by uncertainties that are learned with the network."""

    weights = MappingProxyType({"huber": 1.0, "silog": 1.0})

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.log_variances = nn.Parameter(torch.zeros(2))

    def loss(self, depth: Tensor, truth: Tensor, valid: Tensor | None) -> LossValue:
        found, s = super().loss(depth, truth, valid), self.log_variances
        losses = torch.stack(list(found.parts.values()))
        return found._replace(value=((-s).exp() * losses + s).sum())


@objective("distilled")
class Distilled(Regression):
    """A teacher's answers in the place of the truth."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.teacher = nn.Conv2d(3, 1, 1).requires_grad_(False)

    def forward(self, model: nn.Module, batch: Batch) -> LossValue:
        level = 2 + self.teacher(batch["image"]).mean((1, 2, 3))[:, None].abs()
        return super().forward(model, {**batch, "truth": level.expand_as(batch["truth"])})

    def loss(self, depth: Tensor, truth: Tensor, valid: Tensor | None) -> LossValue:
        return silog(depth, truth, valid)


@truth_at("first_point", "points", "truth", "valid")
def first_point(model: nn.Module, batch: Batch) -> Pairs:
    """Truth at the first query point alone."""
    depth, auxiliary = model(batch["image"], batch["points"][:, :1])
    return Pairs(depth, batch["truth"][:, :1], batch["valid"][:, :1], auxiliary)


class Fixed(nn.Module):
    """A network whose answers are given."""

    def __init__(self, depth: Tensor, **auxiliary: Tensor) -> None:
        super().__init__()
        self.depth, self.auxiliary = depth, auxiliary

    def forward(self, *_: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.depth, self.auxiliary


def answered() -> tuple[Fixed, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    depth, truth, coarse = torch.rand(3, 2, 16, generator=generator, dtype=torch.float64) + 1
    model = Fixed(depth, coarse=coarse.reshape(2, 4, 4))
    entries = {"points": torch.zeros(2, 16, 2), "truth": truth, "valid": truth < 1.9}
    return model, {"image": torch.zeros(2, 3, 4, 4), "depth": truth.reshape(2, 4, 4), **entries}


@pytest.mark.parametrize(
    ("name", "of_huber", "of_silog"), [("silog", 0, 1), ("huber", 1, 0), ("huber_silog", 1, 0.5)]
)
def test_losses_are_weighted_sums(name: str, of_huber: float, of_silog: float) -> None:
    model, batch = answered()
    pair = (model.depth, batch["truth"], batch["valid"])
    huber, second = huber_inverse_depth(*pair).value, silog(*pair, 0.85, "pooled").value
    loss = create_objective(name, silog_lambda=0.85, reduction="pooled")(model, batch)
    assert loss.value.item() == pytest.approx(float(of_huber * huber + of_silog * second))
    assert silog_weight(name) == of_silog
    assert loss.points == batch["valid"].sum()
    with_maps = create_objective(
        name, silog_lambda=0.85, reduction="pooled", auxiliary_weight=0.25
    )(model, batch)  # fmt: skip
    dense = silog(model.auxiliary["coarse"], batch["depth"], None, 0.85, "pooled").value
    assert with_maps.parts["auxiliary"].item() == pytest.approx(dense.item())
    assert (with_maps.value - loss.value).item() == pytest.approx(0.25 * dense.item())


def test_each_kind_of_truth_says_what_it_reads(small: RunConfig) -> None:
    for kind, inputs in (("points", {"points", "truth", "valid"}), ("dense", {"depth"})):
        assert create_objective("silog", supervision=kind).inputs == inputs
    dense = create_objective("silog", supervision="points", auxiliary_weight=0.5)
    assert dense.inputs == {"points", "truth", "valid", "depth"}
    with pytest.raises(ConfigError, match="points > 0"):
        small.but(supervision="first_point", points=0)


def test_an_unknown_objective_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown objective 'silgo'; did you mean 'silog'\?"):
        create_objective("silgo")


def test_settings_reach_the_objectives_that_take_them() -> None:
    toy = create_objective("l1_log", supervision="points", scale=3.0)
    assert isinstance(toy, L1Log) and toy.scale == 3.0


@pytest.mark.parametrize("name", ["l1_log", "berhu", "distilled"])
def test_a_new_objective_trains(name: str, tmp_path: Path, small: RunConfig, run_fit: Fit) -> None:
    run = run_fit(small.but(loss=name, supervision="first_point", steps=2), tmp_path)
    assert run.finished
    assert run.history["train_loss"].between(0, 10).all()


def test_what_an_objective_learns_is_trained_saved_and_restored(
    tmp_path: Path, small: RunConfig, run_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small.but(loss="kendall", steps=4)
    whole = run_fit(config, tmp_path / "whole")
    step = Loop.step

    def stopped(loop: Loop, batch: dict[str, Tensor]) -> None:
        if loop.state.counters.step == 3:
            raise MemoryError
        step(loop, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "step", stopped)
        with pytest.raises(MemoryError):
            run_fit(config, tmp_path / "run")
    run = run_fit(config, tmp_path / "run")
    assert [each["step"] for each in run.record["continued_at"]] == [2]
    learned = [log_variances(each) for each in (whole, run)]
    assert torch.equal(*learned)
    assert learned[0].abs().min() > 0
    history = run.history
    assert history["train_loss"].tolist() == whole.history["train_loss"].tolist()
    assert {"loss_huber", "loss_silog"} <= set(history.columns)
    assert history[["loss_huber", "loss_silog"]].notna().all(axis=None)


def log_variances(run: Run) -> Tensor:
    with safe_open(run.state_path, framework="pt") as file:
        tensor: Tensor = file.get_tensor("objective.log_variances")
    return tensor


def test_a_name_that_is_taken_is_refused_but_a_class_may_be_defined_again() -> None:
    with pytest.raises(ConfigError, match="objective 'silog' is registered already"):
        objective("silog")(type("Mine", (Objective,), {}))
    known = OBJECTIVES["silog"]
    again = type(known.__name__, (Objective,), {"__module__": known.__module__})
    try:
        assert objective("silog")(again) is OBJECTIVES["silog"] is again
    finally:
        OBJECTIVES["silog"] = known
