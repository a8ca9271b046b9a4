"""Profiles: what a machine can afford, as functions from an experiment's recipe to one to train.

A profile keeps network, options and objective, and chooses data, encoder, image size, batch, steps,
learning rates and points.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import timm
import torch

from spdlib.data.augment import STYLES, AugmentConfig, augmentation
from spdlib.disk import file_hash
from spdlib.errors import ConfigError, unknown_name
from spdlib.models import list_models, network_class, network_options
from spdlib.plugins import plugin_hint
from spdlib.settings import plain, read, require, shown
from spdlib.study.config import SETTINGS, ObjectiveConfig, RunConfig
from spdlib.study.experiments import DEFAULT, EXPERIMENTS, Experiment, Recipe, plain_recipe
from spdlib.study.objectives import TRUTH_KINDS

HALVES = (0.5, 0.5, 0.5)
RECORDED_SIZE = (256, 320)
"""Image size that the networks' numbers of routed cells belong to."""
NEVER_STATED = (
    *("experiment", "profile", "seed", "room_size"),
    *("train_frames", "selection_frames", "test_frames"),
)
"""Settings that no record states."""
TENSORFLOW_MOBILENETV2 = "d1c4bc12039020118b6d4e97f1c9903e2b8a8c2e3b279dfd235d67d5548a1b4a"
"""SHA-256 of ImageNet weights converted from TensorFlow's MobileNetV2: they take RGB in -1..1 and
TensorFlow's padding, and the file does not say so."""


def essence(recipe: Recipe) -> dict[str, Any]:
    """What makes an experiment what it is, in every profile: network, objective, faults."""
    names = ("network", "options", "input_norm", "validation", *vars(ObjectiveConfig()))
    return {name: recipe[name] for name in names if name in recipe}


def smoke(recipe: Recipe, device: str) -> Recipe:
    """A handful of rooms and a tiny encoder: seconds, for tests."""
    return (
        essence(recipe)
        | dict(data="rooms", train_frames=8, selection_frames=2, test_frames=2)
        | dict(encoder="mobilenetv2_035", image_size=(64, 96), encoder_lr=1e-3, decoder_lr=1e-3)
        | dict(batch_size=4, steps=6, evaluate_every=3, supervision="points", points=64)
    )


def demo(recipe: Recipe, device: str) -> Recipe:
    """Rooms and a small encoder without weights: minutes on a fresh machine with two cores.

    An encoder without weights gains more from pictures than from points.
    """
    return (
        essence(recipe)
        | dict(data="rooms", train_frames=600, selection_frames=30, test_frames=60)
        | dict(encoder="resnet10t", image_size=(96, 128), encoder_lr=2e-3, decoder_lr=2e-3)
        | dict(batch_size=8, steps=950, evaluate_every=190, supervision="points", points=64)
        | dict(ema_decay=0.99, augment=STYLES["flip"])
    )


def nyu_labeled(recipe: Recipe, device: str) -> Recipe:
    """The labelled frames of NYU: the recipe's encoder on a GPU, a small one on a CPU.

    Its weights are those of the file SPD_WEIGHTS, if that is set. 2,610 steps are 30 epochs of the
    699 frames: later ones only fit them closer. Images are half of 480x640; for patches of 14 their
    multiples next above, at the same aspect.
    """
    weights = os.environ.get("SPD_WEIGHTS") or None
    if device.startswith("cuda"):
        padding = recipe.get("padding")
        size = (252, 336) if padding == "patch" else (240, 320)
        encoder = dict(encoder=recipe["encoder"], padding=padding, image_size=size)
        encoder |= dict(encoder_lr=1e-5, decoder_lr=3e-4)
    else:
        encoder = dict(encoder="mobilenetv2_100", image_size=(240, 320), encoder_lr=2e-4)
        encoder |= dict(decoder_lr=1e-3, precision=cpu_precision())
    return (
        essence(recipe)
        | dict(data="nyu_labeled", augment=STYLES["strong"], supervision="points", points=256)
        | dict(pretrained=weights is None, weights=weights)
        | encoder
        | dict(batch_size=8, steps=2610, evaluate_every=174, weight_decay=0.05, ema_decay=0.998)
    )


def cpu_precision() -> str:
    """The faster precision of this CPU: "bf16_cpu" if it multiplies bf16 in hardware.

    Without such units bf16 takes about 1.4 times as long as float32.
    """
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in old PyTorch
    bf16 = able.get("amx_bf16") or able.get("avx512_bf16")
    return "bf16_cpu" if bf16 else "float32"


def equal_terms(recipe: Recipe, device: str) -> Recipe:
    """The same on every machine, so that only networks differ.

    No auxiliary maps: dense truth would be more supervision than others have.
    """
    return (
        dict(nyu_labeled(recipe, "cpu"))
        | dict(loss="silog", silog_lambda=0.5, reduction="per_image", auxiliary_weight=0.0)
        | dict(steps=2000, evaluate_every=200, precision="float32")
    )


def paper(recipe: Recipe, device: str) -> Recipe:
    """As recorded, for a GPU."""
    return recipe


PROFILES: Mapping[str, Callable[[Recipe, str], Recipe]] = MappingProxyType(
    {each.__name__: each for each in (smoke, demo, nyu_labeled, equal_terms, paper)}
)


def resolve(
    experiment: str = DEFAULT, profile: str = "demo", *, device: str | None = None, **overrides: Any
) -> RunConfig:
    """Merge an experiment, a profile and overrides into one config.

    Args:
        experiment: key of `EXPERIMENTS`, or a network that none of them trains.
        profile: one of `PROFILES`.
        device: "cpu" or "cuda"; decides the encoder on real frames. Default: what torch sees.
        overrides: settings by their own names (`SETTINGS`) that win over both, and options of the
            network by theirs. `augment` also takes the name of an augmentation or a dictionary of
            changes to the profile's. Unless overridden, warm-up is 2 % of the steps, and a randomly
            initialised encoder trains at the decoder's rate and learns its BatchNorm statistics.

    Raises:
        ConfigError: an unknown name or field, or settings that contradict each other.
    """
    chosen = find_experiment(experiment)
    if profile not in PROFILES:
        raise ConfigError(unknown_name("profile", profile, PROFILES))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    recipe = {**PROFILES[profile](chosen.recipe, device), **chosen.small.get(profile, {})}
    given = _with_options(overrides.get("network", chosen.network), chosen.recipe, overrides)
    if "augment" in given:
        given["augment"] = _augmentation(recipe.get("augment", AugmentConfig()), given["augment"])
    settings = {"experiment": experiment, "profile": profile, **recipe, **given}
    with suppress(LookupError, TypeError, ValueError, OverflowError):  # `of` names what is wrong
        _derive(settings, given)
    return RunConfig.of(settings)


def find_experiment(name: str) -> Experiment:
    """An experiment by its name; a network that no experiment trains stands for itself.

    ConfigError: there is none of this name; the message suggests one.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    trained = [each.name for each in EXPERIMENTS.values() if each.network == name]
    if trained:
        raise ConfigError(f"{name!r} is a network; experiments that train it: {', '.join(trained)}")
    if name in list_models():
        return Experiment(name, network_class(name).idea, plain_recipe(name))
    raise ConfigError(
        unknown_name("experiment", name, [*EXPERIMENTS, *list_models()], plugin_hint())
    )


def _with_options(network: str, recipe: Recipe, overrides: Recipe) -> dict[str, Any]:
    """The overrides, those that are options of the network among its options."""
    known, own = SETTINGS.keys() - {"experiment", "profile"}, network_options(network).keys()
    for name in overrides.keys() - known - own:
        raise ConfigError(unknown_name("setting", name, [*sorted(known), *sorted(own)]))
    given = {name: value for name, value in overrides.items() if name in known}
    chosen = {name: value for name, value in overrides.items() if name in own}
    if chosen:
        options: Any = given.get("options", recipe.get("options", {}))
        require(isinstance(options, Mapping), f"options={shown(options)} are no names and values")
        given["options"] = {**options, **chosen}
    return given


def _augmentation(base: AugmentConfig, changes: Any) -> AugmentConfig:
    """An augmentation given as such, by name, or as changes to `base`."""
    if isinstance(changes, AugmentConfig):
        return changes
    if isinstance(changes, str):
        return augmentation(changes)
    require(
        isinstance(changes, Mapping),
        f"augment={shown(changes)} is neither a name nor changes of an augmentation",
    )
    return read(AugmentConfig, {**asdict(base), **changes})


def _derive(settings: dict[str, Any], given: Recipe) -> None:
    """Set what follows from other settings and was not given.

    What a file's weights expect of their input comes with it: from its metadata, from the
    overrides, or for one known file from here. Nothing is assumed of any other.
    """

    def follows(**values: Any) -> None:
        settings.update(values | {name: given[name] for name in values if name in given})

    if path := settings.get("weights"):
        follows(pretrained=False, padding=None)
        if os.path.isfile(path) and file_hash(path) == TENSORFLOW_MOBILENETV2:
            follows(input_mean=HALVES, input_std=HALVES, padding="same")
    elif not settings.get("pretrained"):
        follows(train_batchnorm=True, encoder_lr=settings["decoder_lr"])
    if "points" not in TRUTH_KINDS[settings["supervision"]].inputs:
        follows(points=0)
    if "warmup_steps" not in settings:
        follows(warmup_steps=round(0.02 * settings["steps"]))
    if settings["profile"] in ("smoke", "demo"):
        # Queries go to as large a share of small images' cells as of the recorded ones'.
        share = math.prod(settings["image_size"]) / math.prod(RECORDED_SIZE)
        cells = network_options(settings["network"]).items()
        routed = {name: max(1, round(share * n)) for name, n in cells if name.startswith("routed")}
        settings["options"] = {**routed, **settings.get("options", {})}


def deviations(config: RunConfig) -> pd.DataFrame:
    """Where a run differs from what is on record of its experiment: settings, then departures.

    Returns:
        DataFrame with columns field, recorded, used; empty where nothing is on record.
    """
    experiment, rows = find_experiment(config.experiment), []
    if experiment.record is not None:
        was, used = _stated(experiment.record), _stated(config)
        rows = [(name, was[name], used.get(name)) for name in was if was[name] != used.get(name)]
        rows += [(each.field, each.recorded, each.used) for each in experiment.departures]
    return pd.DataFrame(rows, columns=["field", "recorded", "used"], dtype=object)


def _stated(config: RunConfig) -> dict[str, Any]:
    """Every setting that a record may state, in words or numbers where None leaves it to others."""
    used = {name: value for name, value in config.settings().items() if name not in NEVER_STATED}
    options, augment = used.pop("options"), asdict(used.pop("augment"))
    for group, parts in (("options", options), ("augment", augment)):
        used |= {f"{group}.{name}": part for name, part in parts.items()}
    encoder = config.model.encoder
    used["truth"] = used["truth"] or "the frame's first"
    used["weights"] = encoder.weights and Path(encoder.weights).name
    known = None if encoder.weights else timm.get_pretrained_cfg(encoder.name)
    for name, theirs in (("input_mean", "mean"), ("input_std", "std")):
        used[name] = used[name] or (getattr(known, theirs) if known else "as the weights say")
    return {name: plain(value) for name, value in used.items()}
