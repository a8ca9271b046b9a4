"""`RunConfig`: types, contradictions, the way through JSON."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from spdlib.errors import ConfigError
from spdlib.models import network_options
from spdlib.study.config import RunConfig
from spdlib.study.profiles import resolve


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("steps", "abc", "int"),
        ("steps", 10.5, "int"),
        ("batch_size", "8", "int"),
        ("batch_size", True, "int"),
        ("image_size", 5, r"tuple\[int, int\]"),
        ("image_size", (96, 128, 3), r"tuple\[int, int\]"),
        ("jitter", "no", "bool"),
        ("jitter", 1, "bool"),
        ("decoder_lr", None, "float"),
        ("weights", 7, r"str \| None"),
        ("input_mean", (0.5, 0.5), r"tuple\[float, float, float\] \| None"),
    ],
)
def test_wrong_types_are_refused_by_field(name: str, value: Any, expected: str) -> None:
    shown = re.escape(f"{name}={value!r} is {type(value).__name__}; it must be ")
    with pytest.raises(ConfigError, match=shown + expected):
        replace(resolve("v15_2", "demo"), **{name: value})


def test_wrong_types_of_the_augmentation_are_refused() -> None:
    with pytest.raises(ConfigError, match="flip_p='often' is str; it must be float"):
        resolve("v15_2", "demo", augment={"flip_p": "often"})
    with pytest.raises(ConfigError, match="zoom=2 is int"):
        resolve("v15_2", "demo", augment={"zoom": 2})


def test_whole_numbers_are_numbers() -> None:
    assert resolve("v15_2", "demo", clip=1).clip == 1


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
        ({"pretrained": True, "weights": "file.safetensors"}, "contradict"),
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
        ({"options": {"grid_rule": "recorded"}}, "v15_2 has no option 'grid_rule'"),
        ({"options": 3}, "options=3 is int"),
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
    assert values["options"] == network_options("v14_dual", {"msda_init": "default"})
    del values["options"]["canvas_write"]
    assert RunConfig.from_dict(values).options["canvas_write"] == "mean"


def test_stored_config_with_unknown_or_missing_fields_is_refused() -> None:
    values = resolve("v15_2", "smoke").to_dict()
    with pytest.raises(ConfigError, match="colour"):
        RunConfig.from_dict({**values, "colour": "blue"})
    del values["steps"]
    with pytest.raises(ConfigError, match="steps"):
        RunConfig.from_dict(values)
