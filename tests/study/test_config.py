"""`RunConfig`: types, contradictions, the way through JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spdlib.errors import ConfigError, SPDError
from spdlib.models import network_options
from spdlib.settings import plain
from spdlib.study.cli import parse_settings
from spdlib.study.config import SETTINGS, RunConfig
from spdlib.study.profiles import resolve

PUBLISHED = sorted((Path(__file__).parents[2] / "results" / "measured").rglob("config.json"))
SAME = ("experiment", "network", "encoder", "data", "image_size", "steps", "points", "input_mean")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("steps", "abc", "should be a valid integer"),
        ("steps", 10.5, "should be a valid integer"),
        ("batch_size", "8", "should be a valid integer"),
        ("batch_size", True, "should be a valid integer"),
        ("image_size", 5, "height and width"),
        ("image_size", (96, 128, 3), "height and width"),
        ("jitter", "no", "should be a valid boolean"),
        ("jitter", 1, "should be a valid boolean"),
        ("decoder_lr", None, "should be a valid number"),
        ("weights", 7, "should be a valid string"),
        ("input_mean", (0.5, 0.5), "item 2: field required"),
    ],
)
def test_wrong_types_are_refused_by_field(name: str, value: Any, expected: str) -> None:
    config = resolve("v15_2", "demo")
    with pytest.raises(ConfigError) as caught:
        config.but(**{name: value})
    assert name.removeprefix("input_") in str(caught.value) and repr(value) in str(caught.value)
    assert expected in str(caught.value)


def test_wrong_types_of_the_augmentation_are_refused() -> None:
    with pytest.raises(ConfigError, match="flip_p='often': input should be a valid number"):
        resolve("v15_2", "demo", augment={"flip_p": "often"})
    with pytest.raises(ConfigError, match="zoom=2: input should be a valid tuple"):
        resolve("v15_2", "demo", augment={"zoom": 2})


def test_whole_numbers_are_numbers() -> None:
    assert resolve("v15_2", "demo", clip=1).optimizer.clip == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 5}, "stepz"),
        ({"steps": 0}, "steps"),
        ({"batch_size": -1}, "batch_size"),
        ({"silog_lambda": 1.5}, "silog_lambda"),
        ({"loss": "l7"}, "l7"),
        ({"supervision": "everywhere"}, "everywhere"),
        ({"supervision": "dense", "points": 64}, "contradicts points"),
        ({"points": 0}, "contradicts points"),
        ({"supervision": "dense", "sampling": "edge_aware"}, "sampling"),
        ({"warmup_steps": 5000}, "warmup_steps"),
        ({"pretrained": True, "weights": "file.safetensors"}, "exclude each other"),
        ({"train_frames": 0}, "frame counts"),
        ({"data": "nyu_labeled"}, "frame counts"),
        ({"image_size": (0, 64)}, "image_size"),
        ({"augment": "wild"}, "wild"),
        ({"augment": {"flop": 1}}, "flop"),
        ({"precision": "int4"}, "int4"),
        ({"patience": -1}, "patience"),
        ({"cosine_steps": 10}, "cosine_steps=10 would end before"),
        ({"auxiliary_weight": 0.5}, "v15_2 has no auxiliary maps"),
        ({"auxiliary_weight": -0.5}, "auxiliary_weight"),
        ({"train_subset": "first_shard"}, "has no shards"),
        ({"validation": "stretch"}, "stretch"),
        ({"aux_target": "mean"}, "mean"),
        ({"input_norm": "maybe"}, "maybe"),
        ({"grid_rule": "recorded"}, "grid_rule"),
        ({"options": {"grid_rule": "recorded"}}, "unknown option of v15_2 'grid_rule'"),
        ({"options": 3}, "options=3: input should be a valid"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("v15_2", "demo", **changes)


@pytest.mark.parametrize("supervision", ["lattice", "dense"])
def test_networks_without_a_dense_path_learn_from_points(supervision: str) -> None:
    with pytest.raises(ConfigError, match=f"{supervision}.* v13_1 has no dense path"):
        resolve("exp07_corrected", "demo", supervision=supervision)


def test_stored_config_says_all_options() -> None:
    """Not the given ones alone: defaults may change."""
    values = resolve("exp08_corrected", "smoke", msda_init="default").to_dict()
    options = values["model"]["options"]
    assert options == network_options("v14_dual", {"msda_init": "default"})
    del options["canvas_write"]
    assert RunConfig.from_dict(values).model.options["canvas_write"] == "mean"


def test_stored_config_with_unknown_or_missing_fields_is_refused() -> None:
    values = resolve("v15_2", "smoke").to_dict()
    with pytest.raises(ConfigError, match="unknown setting of RunConfig 'colour'"):
        RunConfig.from_dict({**values, "colour": "blue"})
    del values["schedule"]["steps"]
    with pytest.raises(ConfigError, match=r"ScheduleConfig is incomplete: .*'steps'"):
        RunConfig.from_dict(values)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_configs_of_published_runs_are_read(path: Path) -> None:
    """The golden record says what they mean; here, that they survive in today's form."""
    values = json.loads(path.read_text())
    config = RunConfig.from_dict(values)
    assert config == RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert "sparse" not in config.model.options
    if "model" in values:
        assert json.loads(json.dumps(config.to_dict())) == values
    else:  # runs before settings were nested
        settings = plain(config.settings())
        assert {name: settings[name] for name in SAME} == {name: values[name] for name in SAME}


RATES = ("encoder_lr", "decoder_lr", "weight_decay", "clip", "ema_decay", "final_lr", "warmup_from")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-3])
@pytest.mark.parametrize("name", [*RATES, "silog_lambda", "auxiliary_weight", "focal"])
def test_rates_are_finite_and_not_negative(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        resolve("v15_2", "demo").but(**{name: value})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps"], "--set takes FIELD=VALUE; got 'steps'"),
        (["=5"], "--set takes FIELD=VALUE"),
        (["steps=5", "steps=6"], r"--set steps=\.\.\. is given twice; keep one"),
        (["steps=" + "9" * 5000], r"--set steps='9999.*integer string conversion.*; correct it"),
        (["taps=" + "[" * 10**5], r"--set taps='\[\[.*; correct it"),
    ],
)
def test_settings_that_are_no_values_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        parse_settings(words)
    assert len(str(raised.value)) < 500


ODD = (
    *("null", "5", "-1", "1e400", "NaN", "-Infinity", "x", "", "[]", "{}", "[[1]]", '{"a": 1}'),
    *("9" * 4000, "[" * 300 + "]" * 300, '"a\\u0000"', '"\\ud800"', str([1] * 10_000), "x" * 5000),
)


@pytest.mark.parametrize("name", sorted({*SETTINGS, "init"} - {"experiment", "profile"}))
def test_odd_values_of_a_setting_are_taken_or_refused(name: str) -> None:
    """No other exception comes from what a user may write behind --set."""
    for value in ODD:
        try:
            resolve("v15_2", "smoke", device="cpu", **parse_settings([f"{name}={value}"]))
        except SPDError as error:
            assert "\n" not in str(error)
