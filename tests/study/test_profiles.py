"""Profiles: what `resolve` makes of an experiment, and how it tells where it deviates."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from spdlib.data.augment import STYLES
from spdlib.data.rooms import Rooms
from spdlib.errors import ConfigError
from spdlib.models import create_model, network_options
from spdlib.models.encoders import Encoder
from spdlib.study import cli
from spdlib.study.config import RunConfig
from spdlib.study.experiments import EXPERIMENTS
from spdlib.study.profiles import HALVES, PROFILES, deviations, resolve
from spdlib.study.training import build_model


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
    table = deviations(config).set_index("field")
    assert list(table.index) == [each.field for each in EXPERIMENTS["v15_2"].departures]
    assert table.loc["network", "recorded"] == "v15_1"
    assert "augmentation order" in table.index
    assert config.model.image_size == (350, 476)
    assert config.schedule.steps == 237_920
    assert (
        config.optimizer.encoder_lr,
        config.optimizer.decoder_lr,
        config.schedule.warmup_steps,
    ) == (5e-6, 1e-4, 500)


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
    assert resolve("v15_2", "nyu_labeled", device="cpu").optimizer.precision == precision
    assert resolve("v15_2", "nyu_labeled", device="cuda").optimizer.precision == "bf16"


@pytest.mark.parametrize("word", ["experiment=v15_2", "profile=smoke", "device=cpu"])
def test_arguments_are_no_settings(word: str, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    cli.add_train(parser)
    args = parser.parse_args(["v15_2", "--set", word, "--out", str(tmp_path / "run")])
    with pytest.raises(ConfigError, match="is no setting; use the argument"):
        args.command(args)
    assert not (tmp_path / "run").exists()


def test_wrong_settings_are_named_before_anything_is_derived_from_them() -> None:
    with pytest.raises(ConfigError, match="steps='abc': input should be a valid integer"):
        resolve("v15_2", "smoke", steps="abc")
    for steps in (float("nan"), float("inf"), None, [3]):
        with pytest.raises(ConfigError, match=r"steps=.*: input should be a"):
            resolve("v15_2", "smoke", steps=steps)
    for size in (5, (96,), "96x128", (float("nan"), 64)):
        with pytest.raises(ConfigError, match="image_size must be height and width"):
            resolve("v15_2", "smoke", image_size=size)
    with pytest.raises(ConfigError, match=r"'silog_lamda'; did you mean 'silog_lambda'\?"):
        resolve("v15_2", "smoke", silog_lamda=0.85)


def test_warm_up_is_two_percent_of_the_steps() -> None:
    assert resolve("v15_2", "demo", steps=1500).schedule.warmup_steps == 30
    assert resolve("v15_2", "demo", steps=1500, warmup_steps=7).schedule.warmup_steps == 7


def test_random_encoder_trains_at_the_decoders_rate() -> None:
    config = resolve("v15_2", "demo", decoder_lr=3e-3)
    assert config.optimizer.encoder_lr == 3e-3
    assert config.model.encoder.train_batchnorm


def test_pretrained_encoder_keeps_its_own_rate_and_statistics() -> None:
    config = resolve("v15_2", "nyu_labeled", device="cpu")
    assert config.optimizer.encoder_lr < config.optimizer.decoder_lr
    assert config.model.encoder.pretrained
    assert not config.model.encoder.train_batchnorm


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_is_assumed_of_a_weights_file(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setenv("SPD_WEIGHTS", "/somewhere/else/encoder.safetensors")
    config = resolve("v15_2", "nyu_labeled", device=device)
    assert (
        config.model.encoder.pretrained,
        config.model.encoder.padding,
        config.model.encoder.mean,
    ) == (False, None, None)
    assert config.model.encoder.weights == "/somewhere/else/encoder.safetensors"


def test_the_converted_tensorflow_weights_are_known(encoder_weights: Path) -> None:
    config = resolve("v15_2", "nyu_labeled", device="cpu", weights=str(encoder_weights))
    assert config.model.encoder.padding == "same"
    assert config.model.encoder.mean == config.model.encoder.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["exp01", "exp05"])
def test_recorded_runs_without_normalisation_build_with_real_weights(
    encoder_weights: Path, name: str
) -> None:
    config = resolve(name, "nyu_labeled", device="cpu", weights=str(encoder_weights))
    encoder = Encoder(config.model.encoder).config
    assert (encoder.input_norm, encoder.mean) == ("none", (0.5, 0.5, 0.5))


def test_records_hold_no_folder_of_the_weights() -> None:
    config = resolve(
        "v15_2", "nyu_labeled", device="cpu", weights="/somewhere/mobilenet.safetensors"
    )
    assert "/somewhere" not in json.dumps(config.to_dict())
    assert config.to_dict()["model"]["encoder"]["weights"] == "mobilenet.safetensors"


@pytest.mark.parametrize("name", sorted({e.network: e.name for e in EXPERIMENTS.values()}.values()))
def test_gpu_gets_the_sheets_encoder_at_the_frames_aspect(name: str) -> None:
    """One that the network can read."""
    config = resolve(name, "nyu_labeled", device="cuda", pretrained=False)
    height, width = config.model.image_size
    with torch.device("meta"):
        model = create_model(config.model.network, config.model.encoder, image_size=(height, width))
        sheets = create_model(config.model.network)
    assert model.config.encoder.name == sheets.config.encoder.name
    assert width / height == pytest.approx(640 / 480)
    if model.encoder.is_vit:
        assert (height % 14, width % 14) == (0, 0)


def test_augmentation_by_name_and_by_changes() -> None:
    assert resolve("v15_2", "demo", augment="bts").sampling.augment == STYLES["bts"]
    changed = resolve(
        "v15_2", "nyu_labeled", device="cpu", augment={"zoom": [1, 1.2]}
    ).sampling.augment
    assert changed.zoom == (1, 1.2)
    assert changed.flip_p == STYLES["strong"].flip_p


def test_supervision_without_points_drops_the_count() -> None:
    assert resolve("v15_2", "demo", supervision="lattice").sampling.points == 0


@pytest.mark.parametrize(("experiment", "profile"), [("v99", "demo"), ("v15_2", "lunch")])
def test_unknown_names_list_the_known_ones(experiment: str, profile: str) -> None:
    with pytest.raises(ConfigError, match=r"demo|v15_2"):
        resolve(experiment, profile)


def test_options_of_the_network_are_settings_by_their_own_names() -> None:
    config = resolve("exp08_corrected", "smoke", msda_init="default")
    assert config.model.options == network_options("v14_dual", {"msda_init": "default"})
    kept = resolve("exp08", "smoke", msda_init="directional").model.options
    assert kept["canvas_write"] == "sum"
    assert kept["msda_init"] == "directional"
    with pytest.raises(ConfigError, match="canvas_write"):
        resolve("v15_2", "demo", canvas_write="sum")
    allowed = "msda_init='wild': input should be 'directional' or 'default'"
    with pytest.raises(ConfigError, match=allowed):
        resolve("exp08", "demo", msda_init="wild")


def test_a_corrected_experiment_says_what_was_put_right() -> None:
    rows = deviations(resolve("exp08_corrected", "paper")).set_index("field")
    assert list(rows.loc["options.canvas_write"]) == ["sum", "mean"]
    assert list(rows.loc["aux_target"]) == ["bilinear", "masked"]
    assert list(rows.loc["augment.crop"]) == ["squash", "fit"]
    assert "silog_lambda" not in rows.index
    routed = deviations(resolve("exp07_corrected", "demo")).set_index("field")
    assert list(routed.loc["options.routed_l3"]) == [20, 3]
    started = deviations(resolve("exp07", "paper", head_bias="zero")).set_index("field")
    assert list(started.loc["options.head_bias"]) == ["median", "zero"]
    recorded = deviations(resolve("exp08", "paper"))
    assert list(recorded.field) == [each.field for each in EXPERIMENTS["exp08"].departures]


def test_equal_terms_differ_in_the_network_alone() -> None:
    """Whatever the machine."""
    wide = [name for name in EXPERIMENTS if "_corrected" in name or name in ("v14_plan", "v15_2")]
    configs = [
        resolve(name, "equal_terms", device=device).settings()
        for name in wide
        for device in ("cpu", "cuda")
    ]
    for config in configs:
        del config["experiment"], config["network"], config["options"]
    assert all(config == configs[0] for config in configs)
    terms = {"steps": 2000, "batch_size": 8, "points": 256, "silog_lambda": 0.5, "loss": "silog"}
    assert terms.items() <= configs[0].items()


def test_small_images_are_routed_to_as_large_a_share_of_their_cells() -> None:
    assert (
        resolve("exp04_corrected", "demo").model.options["routed_l4"] == 5
    )  # 32 of 80, of 12 cells
    routed = {"routed_l3": 3, "routed_l4": 2}
    assert routed.items() <= resolve("exp07_corrected", "demo").model.options.items()
    assert resolve("exp07_corrected", "demo", routed_l4=7).model.options["routed_l4"] == 7
    assert resolve("exp04_corrected", "nyu_labeled", device="cpu").model.options["routed_l4"] == 32


@pytest.mark.parametrize("profile", ["smoke", "demo"])
@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_every_experiment_can_be_built_small(name: str, profile: str) -> None:
    config = resolve(name, profile, device="cpu")
    model = build_model(config, Rooms(1, size=config.model.image_size))
    points = torch.tensor([[[5.0, 7.0], [60.0, 30.0]]])
    assert model(torch.rand(1, 3, *config.model.image_size), points).depth.isfinite().all()
