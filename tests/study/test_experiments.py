"""The log's experiments: every record is whole, and says what the sheets say."""

from __future__ import annotations

from dataclasses import fields

import pytest

from spdlib.models import network_options
from spdlib.study.config import RunConfig
from spdlib.study.experiments import EXPERIMENTS, FIXED
from spdlib.study.profiles import NOT_RECORDED, deviations, resolve

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
"""Named faults that are options of networks (decisions 3): on, and off."""
NEVER_ON = {("v13_1", "head_bias")}
"""v13.1 set ln 2.5 (sheet v13_1, section 2)."""


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_setting_is_compared_with_the_record(name: str) -> None:
    chosen = EXPERIMENTS[name]
    settings = {f.name for f in fields(RunConfig)} - NOT_RECORDED
    assert set(chosen.settings) == settings
    assert set(chosen.recorded) in (settings, set())
    assert set(FIXED) <= settings


@pytest.mark.parametrize("name", LOG)
def test_every_experiment_of_the_log_stands_twice(name: str) -> None:
    recorded, right = EXPERIMENTS[name], EXPERIMENTS[f"{name}_corrected"]
    assert recorded.settings == recorded.recorded == right.recorded
    assert recorded.network == right.network
    for experiment, corrected in ((recorded, False), (right, True)):
        options = network_options(experiment.network, experiment.settings["options"])
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
def test_records_say_what_the_sheets_say(
    name: str, network: str, loss: str, lam: float, reduction: str
) -> None:
    config = resolve(name, "paper")
    assert (config.network, config.loss, config.silog_lambda) == (network, loss, lam)
    assert (config.reduction, config.points) == (reduction, 256)
    assert config.sampling == resolve(f"{name}_corrected", "paper").sampling == "with_replacement"
    assert config.augment.colours_apart == (name in ("exp06", "exp07", "exp08", "exp10"))
    assert (config.input_norm == "none") == (name <= "exp05")
    assert config.train_subset == "first_shard"
    assert config.image_size == ((416, 544) if name == "exp09" else (256, 320))
    assert config.batch_size == {"exp01": 12, "exp02": 12, "exp09": 4}.get(name, 8)
    assert config.auxiliary_weight == (0.5 if name >= "exp08" else 0.0)
    assert config.cosine_steps == (3 * config.steps if name <= "exp03" else 0)
    assert list(deviations(config).field) == [each.field for each in EXPERIMENTS[name].departures]
