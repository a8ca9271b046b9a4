"""Experiments, profiles and resolved configs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spdlib.data.augment import STYLES
from spdlib.errors import ConfigError
from spdlib.study.experiments import EXPERIMENTS, PROFILES, RunConfig, deviations, resolve


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPD_WEIGHTS", raising=False)


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS))
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_profile_survives_json(experiment: str, profile: str, device: str) -> None:
    config = resolve(experiment, profile, device=device)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_paper_is_the_recorded_run() -> None:
    config = resolve("v15_2", "paper")
    assert deviations(config).empty
    assert config.image_size == (350, 476)
    assert config.steps == 237_920
    assert (config.encoder_lr, config.decoder_lr, config.warmup_steps) == (5e-6, 1e-4, 500)


def test_deviations_name_recorded_and_used_values() -> None:
    table = deviations(resolve("v15_2", "paper", silog_lambda=0.85, augment={"flip_p": 0.0}))
    rows = table.set_index("field")
    assert list(rows.index) == ["silog_lambda", "augment.flip_p"]
    assert rows.loc["silog_lambda", "recorded"] == 0.5
    assert rows.loc["silog_lambda", "used"] == 0.85


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


def test_weights_file_brings_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPD_WEIGHTS", "/somewhere/else/mobilenet.safetensors")
    config = resolve("v15_2", "nyu_labeled", device="cpu")
    assert config.padding == "same"
    assert config.input_mean == config.input_std == (0.5, 0.5, 0.5)
    assert not config.pretrained
    assert config.encoder_config().weights == "/somewhere/else/mobilenet.safetensors"


def test_records_hold_no_folder_of_the_weights() -> None:
    config = resolve("v15_2", "nyu_labeled", device="cpu", weights="/home/me/mobilenet.safetensors")
    assert "/home" not in json.dumps(config.to_dict())
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
