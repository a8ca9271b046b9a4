"""The log's experiments: every record is whole, and says what the log says."""

from __future__ import annotations

import re

import pytest

from spdlib.data.samples import EpochBatches
from spdlib.errors import ConfigError
from spdlib.models import network_options
from spdlib.models.registry import network_defaults
from spdlib.study.experiments import EXPERIMENTS, SHARD, plain_recipe
from spdlib.study.profiles import deviations, find_experiment, resolve

PLANS = ("v13_plan", "v14_plan")
LOG = [f"exp{number:02d}" for number in range(1, 11)]
FAULTS = {
    "grid_rule": ("recorded", "half_pixel"),
    "offset_code": ("recorded", "scaled"),
    "token_positions": ("none", "sincos"),
    "inserted_attention": ("random", "zero"),
    "msda_init": ("default", "directional"),
    "canvas_write": ("sum", "mean"),
    "head_bias": ("zero", "median"),
    "head_dtype": ("bfloat16", "float32"),
}
"""Named faults that are options of networks: on, and off."""
NEVER_ON = {("v13_1", "head_bias")}
"""v13.1 set ln 2.5."""


@pytest.mark.parametrize("name", [*LOG, "v15_2", *PLANS])
def test_every_record_is_a_whole_run(name: str) -> None:
    record = EXPERIMENTS[name].record
    assert record is not None
    assert record.model.network == EXPERIMENTS[name].network


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_only_an_experiment_on_record_can_depart_from_it(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment.record is not None or not experiment.departures


@pytest.mark.parametrize("name", LOG)
def test_every_experiment_of_the_log_stands_twice(name: str) -> None:
    recorded, right = EXPERIMENTS[name], EXPERIMENTS[f"{name}_corrected"]
    assert recorded.recipe == recorded.recorded == right.recorded
    assert recorded.network == right.network
    for experiment, corrected in ((recorded, False), (right, True)):
        options = network_options(experiment.network, experiment.recipe["options"])
        named = [option for option in FAULTS if option in options]
        assert len(named) >= 4
        for option in named:
            off = corrected or (experiment.network, option) in NEVER_ON
            assert options[option] == FAULTS[option][off], option


@pytest.mark.parametrize(
    ("name", "network", "loss", "lam", "reduction"),
    [
        ("exp01", "v13_calibrated", "huber", 0.85, "pooled"),
        ("exp02", "v13_calibrated", "huber_silog", 0.85, "pooled"),
        ("exp03", "v13_log_depth", "huber_silog", 0.85, "pooled"),
        ("exp04", "v13_log_depth", "silog", 0.85, "pooled"),
        ("exp05", "v13_1", "silog", 0.5, "pooled"),
        ("exp06", "v13_1", "silog", 0.5, "per_image"),
        ("exp07", "v13_1", "silog", 0.15, "per_image"),
        ("exp08", "v14_dual", "silog", 0.15, "per_image"),
        ("exp09", "v14_triple", "silog", 0.5, "per_image"),
        ("exp10", "v14_dual", "silog", 0.15, "per_image"),
    ],
)
def test_records_say_what_the_log_says(
    name: str, network: str, loss: str, lam: float, reduction: str
) -> None:
    config = resolve(name, "paper")
    objective, sampling, schedule = config.objective, config.sampling, config.schedule
    assert config.model.network == network
    assert (objective.loss, objective.silog_lambda, objective.reduction) == (loss, lam, reduction)
    assert (sampling.points, sampling.sampling) == (256, "with_replacement")
    assert resolve(f"{name}_corrected", "paper").sampling.sampling == "with_replacement"
    assert sampling.augment.colours_apart == (name in ("exp06", "exp07", "exp08", "exp10"))
    assert (config.model.encoder.input_norm == "none") == (name <= "exp05")
    assert config.data.train_subset == "first_shard"
    assert config.model.image_size == ((416, 544) if name == "exp09" else (256, 320))
    assert schedule.batch_size == {"exp01": 12, "exp02": 12, "exp09": 4}.get(name, 8)
    assert objective.auxiliary_weight == (0.5 if name >= "exp08" else 0.0)
    assert schedule.cosine_steps == (3 * schedule.steps if name <= "exp03" else 0)
    assert list(deviations(config).field) == [each.field for each in EXPERIMENTS[name].departures]


def test_a_plan_departs_from_its_design() -> None:
    fields = {name: set(deviations(resolve(name, "paper")).field) for name in PLANS}
    assert {"validation", "augment.crop", "grid_rule", "augmentation"} < fields["v13_plan"]
    assert {"aux_target", "smooth_init", "options.canvas_write"} < fields["v14_plan"]
    designed = resolve("v13_plan", "paper")
    assert designed.objective.loss == "huber_silog"
    assert designed.model.image_size == (518, 518)
    assert resolve("v14_plan", "paper").model.image_size == (480, 640)
    assert designed.schedule.steps * designed.schedule.batch_size == 30 * 47_584


def test_an_epoch_of_the_shard_leaves_its_last_frames_out() -> None:
    """As the departure says."""
    batches = EpochBatches(SHARD, 8, seed=0, steps=1)
    assert batches.steps_per_epoch == 516
    departures = {each.field: each.used for each in EXPERIMENTS["exp04"].departures}
    assert "516 steps" in departures["last batch of an epoch"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v15.2", "did you mean 'v15_2'"),
        ("exp8", "did you mean 'exp08'"),
        ("v14_dual", "experiments that train it: exp08, exp08_corrected, exp10, exp10_corrected"),
        ("V14 dual", "did you mean 'v14_dual'"),
        ("v99", "known: exp01, exp01_corrected"),
    ],
)
def test_a_wrong_name_gets_a_suggestion(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_experiment(name)


def test_a_network_without_experiment_is_trained_with_its_own_encoder_and_size() -> None:
    recipe = plain_recipe("v15_2")
    assert (recipe["encoder"], recipe["image_size"]) == network_defaults("v15_2")
    assert recipe["input_mean"] is None  # its own encoder's


def test_the_dense_baseline_learns_from_all_pixels() -> None:
    """Besides, it is trained as any network without an experiment."""
    recipe = EXPERIMENTS["dav2_s"].recipe
    own = {"supervision": "dense", "sampling": "uniform", "padding": "patch"}
    assert recipe == {**plain_recipe("dav2_s"), **own}
    config = resolve("dav2_s", "paper")
    assert (config.sampling.supervision, config.sampling.points) == ("dense", 0)
    assert config.model.options == {"max_depth": 20}
    assert deviations(config).empty
