"""Experiments, profiles and resolved configs."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from spdlib.data.augment import STYLES
from spdlib.errors import ConfigError
from spdlib.study import cli
from spdlib.study.experiments import (
    EXPERIMENTS,
    HALVES,
    NOT_RECORDED,
    PROFILES,
    RunConfig,
    deviations,
    resolve,
)


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPD_WEIGHTS", raising=False)


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS))
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_profile_survives_json(experiment: str, profile: str, device: str) -> None:
    config = resolve(experiment, profile, device=device)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS))
def test_every_setting_is_compared_with_the_record(experiment: str) -> None:
    chosen = EXPERIMENTS[experiment]
    told = {each.field for each in chosen.departures}
    compared = set(chosen.recorded) | (told & {"network", "grid_rule"})
    assert compared == {f.name for f in fields(RunConfig)} - NOT_RECORDED


def test_paper_is_the_recorded_run() -> None:
    config = resolve("v15_2", "paper")
    table = deviations(config).set_index("field")
    assert list(table.index) == [each.field for each in EXPERIMENTS["v15_2"].departures]
    assert list(table.loc["network"]) == ["v15_1", "v15_2"]
    assert "augmentation order" in table.index
    assert config.image_size == (350, 476)
    assert config.steps == 237_920
    assert (config.encoder_lr, config.decoder_lr, config.warmup_steps) == (5e-6, 1e-4, 500)


def test_deviations_name_recorded_and_used_values() -> None:
    table = deviations(resolve("v15_2", "paper", silog_lambda=0.85, augment={"flip_p": 0.0}))
    rows = table.set_index("field")
    assert list(rows.index)[:2] == ["silog_lambda", "augment.flip_p"]
    assert len(rows) == 2 + len(EXPERIMENTS["v15_2"].departures)
    assert rows.loc["silog_lambda", "recorded"] == 0.5
    assert rows.loc["silog_lambda", "used"] == 0.85


def test_deviations_show_what_none_stands_for(tmp_path: Path) -> None:
    timms = deviations(resolve("v15_2", "nyu_labeled", device="cpu")).set_index("field")
    assert "input_mean" not in timms.index  # timm's are ImageNet's, as recorded
    assert timms.loc["jitter", "used"] is True
    weights = str(tmp_path / "mine.safetensors")
    mine = resolve("v15_2", "nyu_labeled", device="cpu", weights=weights, input_std=HALVES)
    rows = deviations(mine).set_index("field")
    assert rows.loc["weights", "used"] == "mine.safetensors"
    assert rows.loc["input_mean", "used"] == "as the weights say"
    assert rows.loc["input_std", "used"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("units", "precision"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16_cpu"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16_cpu"),
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_real_frames_are_learnt_in_the_precision_that_the_cpu_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, units: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: units, raising=False)
    assert resolve("v15_2", "nyu_labeled", device="cpu").precision == precision
    assert resolve("v15_2", "nyu_labeled", device="cuda").precision == "bf16"


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


@pytest.mark.parametrize("word", ["experiment=v15_2", "profile=smoke", "device=cpu"])
def test_arguments_are_no_settings(word: str, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    args = parser.parse_args(["train", "v15_2", "--set", word, "--out", str(tmp_path / "run")])
    with pytest.raises(ConfigError, match="is no setting; use the argument"):
        args.command(args)
    assert not (tmp_path / "run").exists()


def test_warm_up_is_two_percent_of_the_steps() -> None:
    assert resolve("v15_2", "demo", steps=1500).warmup_steps == 30
    assert resolve("v15_2", "demo", steps=1500, warmup_steps=7).warmup_steps == 7


def test_random_encoder_trains_at_the_decoders_rate() -> None:
    config = resolve("v15_2", "demo", decoder_lr=3e-3)
    assert config.encoder_lr == 3e-3
    assert config.train_batchnorm


def test_pretrained_encoder_keeps_its_own_rate_and_statistics() -> None:
    config = resolve("v15_2", "nyu_labeled", device="cpu")
    assert config.encoder_lr < config.decoder_lr
    assert config.pretrained
    assert not config.train_batchnorm


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_is_assumed_of_a_weights_file(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("SPD_WEIGHTS", "/somewhere/else/encoder.safetensors")
    config = resolve("v15_2", "nyu_labeled", device=device)
    assert (config.pretrained, config.padding, config.input_mean) == (False, None, None)
    assert config.encoder_config().weights == "/somewhere/else/encoder.safetensors"


def test_the_converted_tensorflow_weights_are_known(encoder_weights: Path) -> None:
    config = resolve("v15_2", "nyu_labeled", device="cpu", weights=str(encoder_weights))
    assert config.padding == "same"
    assert config.input_mean == config.input_std == (0.5, 0.5, 0.5)


def test_v15_refuses_a_grid_rule_it_was_never_run_with() -> None:
    with pytest.raises(ConfigError, match="v15_2 has no grid_rule='recorded'"):
        resolve("v15_2", "demo", grid_rule="recorded")


def test_records_hold_no_folder_of_the_weights() -> None:
    config = resolve(
        "v15_2", "nyu_labeled", device="cpu", weights="/somewhere/mobilenet.safetensors"
    )
    assert "/somewhere" not in json.dumps(config.to_dict())
    assert config.to_dict()["weights"] == "mobilenet.safetensors"


def test_gpu_gets_the_sheets_encoder_at_the_frames_aspect() -> None:
    config = resolve("v15_2", "nyu_labeled", device="cuda")
    height, width = config.image_size
    assert config.encoder == "vit_small_patch14_dinov2"
    assert (height % 14, width % 14) == (0, 0)
    assert width / height == pytest.approx(640 / 480)


def test_augmentation_by_name_and_by_changes() -> None:
    assert resolve("v15_2", "demo", augment="bts").augment == STYLES["bts"]
    changed = resolve("v15_2", "nyu_labeled", device="cpu", augment={"zoom": [1, 1.2]}).augment
    assert changed.zoom == (1, 1.2)
    assert changed.flip_p == STYLES["strong"].flip_p


def test_supervision_without_points_drops_the_count() -> None:
    assert resolve("v15_2", "demo", supervision="lattice").points == 0


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
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("v15_2", "demo", **changes)


@pytest.mark.parametrize(("experiment", "profile"), [("v99", "demo"), ("v15_2", "lunch")])
def test_unknown_names_list_the_known_ones(experiment: str, profile: str) -> None:
    with pytest.raises(ConfigError, match=r"demo|v15_2"):
        resolve(experiment, profile)


def test_stored_config_with_unknown_or_missing_fields_is_refused() -> None:
    values = resolve("v15_2", "smoke").to_dict()
    with pytest.raises(ConfigError, match="colour"):
        RunConfig.from_dict({**values, "colour": "blue"})
    del values["steps"]
    with pytest.raises(ConfigError, match="steps"):
        RunConfig.from_dict(values)
