"""Profiles: what a machine can afford (decisions 8).

An experiment fixes the network, its options and its loss. A profile fixes data, encoder, image
size, batch, steps, learning rates, supervision and the number of points. `resolve` merges both into
one `RunConfig`; `deviations` lists where that differs from the recorded run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import timm
import torch

from spdlib.data.augment import STYLES, AugmentConfig
from spdlib.disk import file_hash
from spdlib.errors import ConfigError, did_you_mean
from spdlib.geometry import Size
from spdlib.models import CONVNEXT_V2_TINY, counts, list_models, network_class, network_options
from spdlib.study.config import RunConfig, augment_config, check_types, plain, tuples
from spdlib.study.experiments import EXPERIMENTS, FIXED, Experiment

HALVES = (0.5, 0.5, 0.5)
RECORDED_SIZE = (256, 320)
"""Image size that the networks' numbers of routed cells belong to."""
NOT_RECORDED = frozenset(
    {
        "experiment", "profile", "seed", "train_frames", "selection_frames", "test_frames",
        "room_size",
    }
)  # fmt: skip
"""`RunConfig` fields without a recorded counterpart: names, a seed that is not on record, and sizes
of rooms, which `data` stands for."""

SMOKE: Mapping[str, Any] = MappingProxyType(
    {
        "data": "rooms",
        "train_frames": 8,
        "selection_frames": 2,
        "test_frames": 2,
        "encoder": "mobilenetv2_035",
        "image_size": (64, 96),
        "batch_size": 4,
        "steps": 6,
        "evaluate_every": 3,
        "encoder_lr": 1e-3,
        "decoder_lr": 1e-3,
        "supervision": "points",
        "points": 64,
        "augment": STYLES["none"],
    }
)

DEMO: Mapping[str, Any] = MappingProxyType(
    {
        "data": "rooms",
        "train_frames": 600,
        "selection_frames": 30,
        "test_frames": 60,
        "encoder": "resnet10t",
        "image_size": (96, 128),
        "batch_size": 8,
        "steps": 950,
        "evaluate_every": 190,
        "encoder_lr": 2e-3,
        "decoder_lr": 2e-3,
        "supervision": "points",
        "points": 64,  # an encoder without weights gains more from pictures than from points
        "ema_decay": 0.99,
        "augment": STYLES["flip"],
    }
)

NYU_LABELED: Mapping[str, Any] = MappingProxyType(
    {
        "data": "nyu_labeled",
        "batch_size": 8,
        "steps": 2610,  # 30 epochs of the 699 frames: later ones only fit them closer
        "weight_decay": 0.05,
        "supervision": "points",
        "points": 256,
        "ema_decay": 0.998,
        "evaluate_every": 174,
        "augment": STYLES["strong"],
    }
)

SMALL_ENCODER: Mapping[str, Any] = MappingProxyType(
    {
        "encoder": "mobilenetv2_100",
        "image_size": (240, 320),
        "encoder_lr": 2e-4,
        "decoder_lr": 1e-3,
    }
)
"""What `nyu_labeled` trains on a CPU."""

TENSORFLOW_MOBILENETV2 = "d1c4bc12039020118b6d4e97f1c9903e2b8a8c2e3b279dfd235d67d5548a1b4a"
"""SHA-256 of ImageNet weights converted from TensorFlow's MobileNetV2: they take RGB in -1..1 and
TensorFlow's padding, and the file does not say so."""

GPU_RATES: Mapping[str, Any] = MappingProxyType(
    {"pretrained": True, "encoder_lr": 1e-5, "decoder_lr": 3e-4}
)
SHEET_ENCODERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "vit_small_patch14_dinov2": {**GPU_RATES, "padding": "patch", "image_size": (252, 336)},
        CONVNEXT_V2_TINY: {**GPU_RATES, "padding": None, "image_size": (240, 320)},
    }
)
"""What `nyu_labeled` trains on a GPU, by the encoder of the experiment's sheet. Images are 240x320,
for the ViT the multiples of its patch nearest above, same aspect."""

EQUAL_TERMS: Mapping[str, Any] = MappingProxyType(
    {
        **SMALL_ENCODER,
        "precision": "float32",
        "loss": "silog",
        "silog_lambda": 0.5,
        "reduction": "per_image",
        "auxiliary_weight": 0.0,  # dense truth would be more supervision than others have
        "steps": 2000,
        "evaluate_every": 200,
    }
)
"""What `equal_terms` changes in `nyu_labeled`, the same on every machine: only networks differ."""

PROFILES = ("smoke", "demo", "nyu_labeled", "equal_terms", "paper")


def resolve(
    experiment: str = "v15_2",
    profile: str = "demo",
    *,
    device: str | None = None,
    **overrides: Any,
) -> RunConfig:
    """Merge an experiment, a profile and overrides into one config.

    Args:
        experiment: key of `EXPERIMENTS`.
        profile: one of `PROFILES`.
        device: "cpu" or "cuda"; decides the encoder on real frames. Default: what torch sees.
        overrides: `RunConfig` fields that win over both, and options of the network by their own
            names. `augment` also takes the name of an augmentation or a dictionary of changes to
            the profile's. Unless overridden, warm-up is 2 % of the steps, and a randomly
            initialised encoder trains at the decoder's rate and learns its BatchNorm statistics.

    Raises:
        ConfigError: an unknown name or field, or settings that contradict each other.
    """
    if experiment not in EXPERIMENTS:
        raise ConfigError(f"unknown experiment {experiment!r}; known: {sorted(EXPERIMENTS)}")
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile {profile!r}; choose from {list(PROFILES)}")
    chosen = EXPERIMENTS[experiment]
    settings = _sorted_out(chosen, overrides)
    fixed = {name: chosen.settings[name] for name in FIXED}
    values = {**fixed, **_profile_values(chosen, profile, device, settings)}
    values.update({key: tuples(value) for key, value in settings.items() if key != "augment"})
    if "augment" in settings:
        values["augment"] = augment_config(
            values.get("augment", AugmentConfig()), settings["augment"]
        )
    _derive(values, settings)
    if profile in ("smoke", "demo"):
        routed = _routing(chosen.network, values["image_size"])
        values["options"] = {**routed, **values["options"]}
    return RunConfig(experiment=experiment, profile=profile, **values)


def _sorted_out(experiment: Experiment, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides with those that are options of the network put among its options."""
    known = {f.name for f in fields(RunConfig)} - {"experiment", "profile"}
    own = set(network_options(experiment.network))
    unknown = sorted(set(overrides) - known - own)
    if unknown:
        hint = did_you_mean(unknown[0], known | own)
        raise ConfigError(
            f"unknown settings {unknown}; {hint}known: {sorted(known)}, and of "
            f"{experiment.network}: {sorted(own)}"
        )
    settings = {name: value for name, value in overrides.items() if name in known}
    check_types(RunConfig, {k: tuples(v) for k, v in settings.items() if k != "augment"})
    options = {name: value for name, value in overrides.items() if name in own}
    if options:
        given = settings.get("options", experiment.settings["options"])
        settings["options"] = {**given, **options}
    return settings


def _profile_values(
    experiment: Experiment, profile: str, device: str | None, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    if profile == "smoke":
        return {**SMOKE, **experiment.small}
    if profile == "demo":
        return {**DEMO, **experiment.small, **experiment.demo}
    if profile == "paper":
        return dict(experiment.settings)
    weights = _encoder_weights(overrides)
    if profile == "equal_terms":
        return {**NYU_LABELED, **EQUAL_TERMS, **weights}
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):
        name = str(experiment.settings["encoder"])
        return {**NYU_LABELED, "encoder": name, **SHEET_ENCODERS[name], **weights}
    return {**NYU_LABELED, **SMALL_ENCODER, "precision": cpu_precision(), **weights}


def _routing(network: str, image_size: Size) -> dict[str, int]:
    """Cells that a query is routed to: as large a share of small images as of the recorded ones."""
    share = math.prod(image_size) / math.prod(RECORDED_SIZE)
    return {
        name: max(1, round(share * count))
        for name, count in counts(network_class(network).Options).items()
    }


def cpu_precision() -> str:
    """The faster precision of this CPU: "bf16_cpu" if it multiplies bf16 in hardware.

    Without such units bf16 takes about 1.4 times as long as float32.
    """
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in old PyTorch
    bf16 = able.get("amx_bf16") or able.get("avx512_bf16")
    return "bf16_cpu" if bf16 else "float32"


def _encoder_weights(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's weights: a file (argument or SPD_WEIGHTS), else timm's download.

    What a file's weights expect of their input comes with it: from its metadata, from the
    overrides, or for one known file from here. Nothing is assumed of any other.
    """
    path = overrides.get("weights") or os.environ.get("SPD_WEIGHTS")
    if not path:
        return {"pretrained": True}
    values: dict[str, Any] = {"weights": path, "pretrained": False, "padding": None}
    if Path(path).is_file() and file_hash(path) == TENSORFLOW_MOBILENETV2:
        values |= {"input_mean": HALVES, "input_std": HALVES, "padding": "same"}
    return values


def _derive(values: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Fill in what follows from other settings unless it was given."""
    if values.get("weights") is not None:
        values["weights"] = str(values["weights"])
    if "warmup_steps" not in overrides and "warmup_steps" not in values:
        values["warmup_steps"] = round(0.02 * values["steps"])
    random_encoder = not values.get("pretrained") and values.get("weights") is None
    if random_encoder:
        values.setdefault("train_batchnorm", True)
        if "encoder_lr" not in overrides:
            values["encoder_lr"] = values["decoder_lr"]
    if "supervision" in overrides and values["supervision"] != "points":
        values["points"] = overrides.get("points", 0)


def deviations(config: RunConfig) -> pd.DataFrame:
    """Where a run differs from its experiment's recorded one: settings, then all departures.

    Returns:
        DataFrame with columns field, recorded, used.
    """
    experiment = EXPERIMENTS[config.experiment]
    used = _spelled_out(config)
    rows = []
    for name, value in experiment.recorded.items():
        was = plain(asdict(value)) if isinstance(value, AugmentConfig) else plain(value)
        if name == "options":
            was = _all_options(str(experiment.recorded["network"]), was)
        if isinstance(was, dict):
            rows += [(f"{name}.{key}", was[key], used[name].get(key)) for key in was]
        else:
            rows.append((name, was, used[name]))
    rows = [row for row in rows if row[1] != row[2]]
    rows += [(each.field, each.recorded, each.used) for each in experiment.departures]
    return pd.DataFrame(rows, columns=["field", "recorded", "used"], dtype=object)


def _all_options(network: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A network's options with its defaults; the given ones of one that is only on record."""
    return network_options(network, given) if network in list_models() else dict(given)


def _spelled_out(config: RunConfig) -> dict[str, Any]:
    """The config's values with words or numbers for those that None leaves to others."""
    used = config.to_dict()
    used["truth"] = used["truth"] or "the frame's first"
    known = timm.get_pretrained_cfg(config.encoder) if config.weights is None else None
    for name, theirs in (("input_mean", "mean"), ("input_std", "std")):
        if used[name] is None:
            used[name] = list(getattr(known, theirs)) if known else "as the weights say"
    return used
