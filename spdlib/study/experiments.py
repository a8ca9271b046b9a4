"""Every experiment as one frozen record; profiles set what a machine can afford (decisions 8).

An experiment fixes network, loss, lambda, reduction and grid rule. A profile fixes data, encoder,
image size, batch, steps, learning rates, supervision and the number of points. `resolve` merges
both into one `RunConfig`; `deviations` lists where that differs from the recorded run.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

import pandas as pd
import timm
import torch

from spdlib.data.augment import STYLES, AugmentConfig, augmentation
from spdlib.data.samples import SAMPLERS, SampleConfig
from spdlib.disk import file_hash
from spdlib.errors import ConfigError
from spdlib.geometry import GridRule
from spdlib.models import EncoderConfig
from spdlib.models.encoders import IMAGENET_MEAN, IMAGENET_STD, PADDINGS

LOSSES = ("silog",)
REDUCTIONS = ("per_image", "pooled")
SUPERVISION = ("points", "lattice", "dense")
PRECISIONS = ("bf16", "bf16_cpu", "float32", "float64")
DATA = ("rooms", "nyu_labeled", "nyu_full")
HALVES = (0.5, 0.5, 0.5)
NOT_RECORDED = frozenset(
    {
        "experiment", "profile", "seed", "train_frames", "selection_frames", "test_frames",
        "room_size",
    }
)  # fmt: skip
"""`RunConfig` fields without a recorded counterpart: names, a seed that is not on record, and sizes
of rooms, which `data` stands for."""


@dataclass(frozen=True)
class Departure:
    """A difference from the recorded run that no setting undoes.

    Attributes:
        field: what differs.
        recorded: how the log's run did it.
        used: how it is done here.
    """

    field: str
    recorded: str
    used: str


@dataclass(frozen=True)
class Experiment:
    """What an experiment of the log is, independent of the machine it runs on.

    Attributes:
        name: key in `EXPERIMENTS`.
        title: one line for people.
        network: name for `create_model`.
        loss: training loss.
        silog_lambda: lambda of SILog; 1 - lambda weighs the scale error.
        reduction: "per_image" (root after averaging over images) or "pooled".
        grid_rule: how pixels find cells (decisions 1).
        recorded: the log's settings, by `RunConfig` field.
        departures: other differences from the recorded run.
    """

    name: str
    title: str
    network: str
    loss: str
    silog_lambda: float
    reduction: str
    grid_rule: str
    recorded: Mapping[str, Any]
    departures: tuple[Departure, ...]


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's outcome. Equal configs on equal data give equal weights.

    Attributes:
        experiment: name of the experiment.
        profile: name of the profile.
        network: name for `create_model`.
        encoder: timm name of the encoder.
        pretrained: download timm's weights of that name.
        weights: safetensors file of encoder weights in timm's keys, or None.
        input_mean, input_std: RGB statistics of the images behind the weights; None takes timm's.
        padding: convolution padding that belongs to the weights; None takes the usual one.
        train_batchnorm: let the encoder's BatchNorm learn its statistics; fine-tuning keeps those
            of the weights, an encoder with random weights has none.
        image_size: height, width of the training image in pixels.
        data: "rooms", "nyu_labeled" or "nyu_full".
        truth: depth to learn from ("inpainted", "raw", "exact"); None takes the frame's first.
        train_frames, selection_frames, test_frames: sizes of the three sets of rooms.
        room_size: height, width that rooms are rendered at; None takes image_size.
        seed: of initial weights, sample order, augmentation and points.
        batch_size: images a step, over all processes together.
        steps: optimizer steps.
        encoder_lr, decoder_lr: peak learning rates.
        warmup_steps: steps of linear warm-up.
        warmup_from: fraction of the peak rate at the first step.
        final_lr: rate that the per-step cosine ends at.
        weight_decay: of AdamW.
        clip: largest gradient norm; 0 never clips.
        precision: "bf16" (autocast on GPUs, float32 on CPUs), "bf16_cpu" (autocast on CPUs too,
            for those that multiply it in hardware), "float32" or "float64".
        loss: training loss.
        silog_lambda: lambda of SILog.
        reduction: "per_image" or "pooled".
        grid_rule: "half_pixel" or "recorded".
        supervision: "points" (K random points), "lattice" (the network's own dense sites) or
            "dense" (the dense map resized to the truth).
        points: K, points a frame with supervision "points".
        sampling: "uniform", or "edge_aware" with 30 % of the points near depth edges.
        jitter: ask at random sub-pixel places; False asks at pixel centres.
        augment: changes of image, depth and camera.
        ema_decay: of the averaged weights that are evaluated and kept; 0 keeps the plain ones.
        evaluate_every: steps between evaluations on the selection set; 0 for once an epoch.
        patience: evaluations without a better AbsRel before stopping; 0 never stops early.
        focal_mismatch: allow training and selection frames of different effective focal length.
    """

    experiment: str
    profile: str
    network: str
    encoder: str
    image_size: tuple[int, int]
    data: str
    batch_size: int
    steps: int
    encoder_lr: float
    decoder_lr: float
    warmup_steps: int
    supervision: str
    silog_lambda: float
    pretrained: bool = False
    weights: str | None = None
    input_mean: tuple[float, float, float] | None = None
    input_std: tuple[float, float, float] | None = None
    padding: str | None = None
    train_batchnorm: bool = False
    truth: str | None = None
    train_frames: int = 0
    selection_frames: int = 0
    test_frames: int = 0
    room_size: tuple[int, int] | None = None
    seed: int = 0
    warmup_from: float = 0.01
    final_lr: float = 1e-6
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: str = "bf16"
    loss: str = "silog"
    reduction: str = "per_image"
    grid_rule: str = GridRule.HALF_PIXEL.value
    points: int = 0
    sampling: str = "uniform"
    jitter: bool = True
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    ema_decay: float = 0.0
    evaluate_every: int = 0
    patience: int = 0
    focal_mismatch: bool = False

    def __post_init__(self) -> None:
        _check_types(RunConfig, vars(self))
        _check_choices(self)
        _check_numbers(self)
        _check_consistency(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON form. The weights file appears by its name alone, never with a folder."""
        values = asdict(self)
        values["weights"] = None if self.weights is None else Path(self.weights).name
        return {key: _plain(value) for key, value in values.items()}

    def encoder_config(self) -> EncoderConfig:
        """The encoder and its input, as `create_model` takes it."""
        return EncoderConfig(
            name=self.encoder,
            pretrained=self.pretrained,
            weights=self.weights,
            mean=self.input_mean,
            std=self.input_std,
            padding=self.padding,
            train_batchnorm=self.train_batchnorm,
        )

    def sample_config(self) -> SampleConfig:
        """What one training sample holds."""
        return SampleConfig(
            image_size=self.image_size,
            points=max(1, self.points),
            seed=self.seed,
            augment=self.augment,
            sampling=self.sampling,
            jitter=self.jitter,
            supervision=self.supervision,
            truth=self.truth,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Inverse of `to_dict`.

        Raises:
            ConfigError: a field is unknown, missing or contradicts another.
        """
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown fields in a run's config: {unknown}")
        try:
            return cls(**_typed(dict(values)))
        except TypeError as error:
            raise ConfigError(f"a run's config is incomplete: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    """Lists back to tuples and the augmentation back to its class."""
    augment = values.get("augment")
    typed = {key: _tuples(value) for key, value in values.items()}
    if isinstance(augment, Mapping):
        typed["augment"] = _augment(AugmentConfig(), augment)
    return typed


def _augment(
    base: AugmentConfig, changes: AugmentConfig | str | Mapping[str, Any]
) -> AugmentConfig:
    """An augmentation given as such, by name, or as changes to `base`."""
    if isinstance(changes, AugmentConfig):
        return changes
    if isinstance(changes, str):
        return augmentation(changes)
    known = {f.name for f in fields(AugmentConfig)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise ConfigError(f"unknown augmentation fields {unknown}; known: {sorted(known)}")
    values = {key: _tuples(value) for key, value in changes.items()}
    _check_types(AugmentConfig, values)
    return replace(base, **values)


def _check_types(kind: type, values: Mapping[str, Any]) -> None:
    """ConfigError names the first value that is not of its field's type in the dataclass `kind`."""
    for name, hint in get_type_hints(kind).items():
        if name in values and not _fits(values[name], hint):
            raise ConfigError(
                f"{name}={values[name]!r} is {type(values[name]).__name__}; "
                f"it must be {inspect.formatannotation(hint)}"
            )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; int passes for float, bool for nothing else."""
    parts = get_args(hint)
    if get_origin(hint) is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(parts)
            and all(_fits(item, part) for item, part in zip(value, parts, strict=True))
        )
    if parts:
        return any(_fits(value, part) for part in parts)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _check_choices(config: RunConfig) -> None:
    choices = {
        "data": DATA, "loss": LOSSES, "reduction": REDUCTIONS, "supervision": SUPERVISION,
        "precision": PRECISIONS, "padding": (None, *PADDINGS), "sampling": tuple(SAMPLERS),
        "grid_rule": tuple(rule.value for rule in GridRule),
    }  # fmt: skip
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ConfigError(
                f"{name}={getattr(config, name)!r} is unknown; choose from {list(allowed)}"
            )


def _check_numbers(config: RunConfig) -> None:
    for name in ("batch_size", "steps", "decoder_lr"):
        if getattr(config, name) <= 0:
            raise ConfigError(f"{name} must be positive; got {getattr(config, name)}")
    not_negative = (
        "encoder_lr", "warmup_steps", "final_lr", "weight_decay", "clip", "points", "patience",
        "evaluate_every", "train_frames", "selection_frames", "test_frames",
    )  # fmt: skip
    for name in not_negative:
        if getattr(config, name) < 0:
            raise ConfigError(f"{name} must not be negative; got {getattr(config, name)}")
    for name in ("silog_lambda", "ema_decay", "warmup_from"):
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{name} must lie in 0..1; got {getattr(config, name)}")
    if len(config.image_size) != 2 or min(config.image_size) < 1:
        raise ConfigError(f"image_size must be (height, width) in pixels; got {config.image_size}")


def _check_consistency(config: RunConfig) -> None:
    if config.pretrained and config.weights is not None:
        raise ConfigError(
            "pretrained=True and a weights file contradict each other; "
            f"set pretrained=False to use {config.weights!r}, or weights=None to download"
        )
    if (config.supervision == "points") != (config.points > 0):
        raise ConfigError(
            f"supervision={config.supervision!r} contradicts points={config.points}: "
            "give points > 0 with 'points' and points=0 otherwise"
        )
    if config.grid_rule != GridRule.HALF_PIXEL.value and config.network.startswith("v15"):
        raise ConfigError(
            f"{config.network} has no grid_rule={config.grid_rule!r}: only v13 and v14 were "
            "recorded with it; keep 'half_pixel'"
        )
    if config.sampling != "uniform" and config.supervision != "points":
        raise ConfigError(f"sampling={config.sampling!r} needs supervision='points'")
    if config.warmup_steps >= config.steps:
        raise ConfigError(
            f"warmup_steps={config.warmup_steps} leaves nothing of steps={config.steps}; lower it"
        )
    rooms = (config.train_frames, config.selection_frames, config.test_frames)
    if (config.data == "rooms") != (min(rooms) > 0):
        raise ConfigError(
            f"data={config.data!r} contradicts the frame counts {rooms}: "
            "rooms need all three, stored frames none"
        )


EXP13 = MappingProxyType(
    {
        "encoder": "vit_small_patch14_dinov2",
        "pretrained": True,
        "weights": None,
        "input_mean": IMAGENET_MEAN,
        "input_std": IMAGENET_STD,
        "padding": "patch",
        "image_size": (350, 476),
        "data": "nyu_full",
        "truth": "inpainted",
        "batch_size": 2,
        "steps": 10 * 23_792,
        "encoder_lr": 5e-6,
        "decoder_lr": 1e-4,
        "warmup_steps": 500,
        "warmup_from": 0.01,
        "final_lr": 1e-6,
        "weight_decay": 0.01,
        "clip": 1.0,
        "precision": "bf16",
        "loss": "silog",
        "silog_lambda": 0.5,
        "reduction": "per_image",
        "supervision": "dense",
        "points": 0,
        "sampling": "uniform",
        "jitter": False,
        "ema_decay": 0.0,
        "evaluate_every": 0,
        "patience": 0,
        "focal_mismatch": False,
        "train_batchnorm": False,
        "augment": STYLES["bts_native"],
    }
)
"""Recorded settings of Exp 13 (sheet v15, section 5); no run of v15.2 itself is on record."""

FROM_V15_1 = (
    Departure("network", "v15_1", "v15_2"),
    Departure(
        "grid_rule",
        "v15.1's patches: u/t at fractional centres, align_corners=True, zero padding",
        "half_pixel, border padding",
    ),
    Departure("head bias", "none: training starts near 0.69 m", "training starts at 2.5 m"),
    Departure("embeddings", "none in v15.1; N(0, 1) in v15.2's code", "N(0, 0.02^2)"),
    Departure(
        "augmentation order",
        "the unscaled frame is rotated, then cropped",
        "the crop is rotated; its corners lose what the frame still shows",
    ),
)
"""What separates every run of v15.2 from Exp 13 besides its settings (sheet v15, sections 3-5)."""

EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        "v15_2": Experiment(
            name="v15_2",
            title="DPT global path, cross-attention local path; a query costs 0.17 M MACs",
            network="v15_2",
            loss="silog",
            silog_lambda=0.5,
            reduction="per_image",
            grid_rule=GridRule.HALF_PIXEL.value,
            recorded=EXP13,
            departures=FROM_V15_1,
        )
    }
)

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

SHEET_ENCODER: Mapping[str, Any] = MappingProxyType(
    {
        "encoder": "vit_small_patch14_dinov2",
        "pretrained": True,
        "padding": "patch",
        "image_size": (252, 336),
        "encoder_lr": 1e-5,
        "decoder_lr": 3e-4,
    }
)
"""What `nyu_labeled` trains on a GPU: multiples of the patch nearest above 240x320, same aspect."""

PROFILES = ("smoke", "demo", "nyu_labeled", "paper")


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
        profile: "smoke", "demo", "nyu_labeled" or "paper".
        device: "cpu" or "cuda"; decides the encoder of `nyu_labeled`. Default: what torch sees.
        overrides: `RunConfig` fields that win over both. `augment` also takes the name of an
            augmentation or a dictionary of changes to the profile's. Unless overridden, warm-up is
            2 % of the steps, and a randomly initialised encoder trains at the decoder's rate and
            learns its BatchNorm statistics.

    Raises:
        ConfigError: an unknown name or field, or settings that contradict each other.
    """
    if experiment not in EXPERIMENTS:
        raise ConfigError(f"unknown experiment {experiment!r}; known: {sorted(EXPERIMENTS)}")
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile {profile!r}; choose from {list(PROFILES)}")
    known = {f.name for f in fields(RunConfig)} - {"experiment", "profile"}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise ConfigError(f"unknown settings {unknown}; known: {sorted(known)}")
    chosen = EXPERIMENTS[experiment]
    values = {**_experiment_values(chosen), **_profile_values(chosen, profile, device, overrides)}
    values.update({key: _tuples(value) for key, value in overrides.items() if key != "augment"})
    if "augment" in overrides:
        values["augment"] = _augment(values.get("augment", AugmentConfig()), overrides["augment"])
    _derive(values, overrides)
    return RunConfig(experiment=experiment, profile=profile, **values)


def _experiment_values(experiment: Experiment) -> dict[str, Any]:
    names = ("network", "loss", "silog_lambda", "reduction", "grid_rule")
    return {name: getattr(experiment, name) for name in names}


def _profile_values(
    experiment: Experiment, profile: str, device: str | None, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    if profile == "smoke":
        return dict(SMOKE)
    if profile == "demo":
        return dict(DEMO)
    if profile == "paper":
        return dict(experiment.recorded)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.startswith("cuda")
    encoder = SHEET_ENCODER if gpu else {**SMALL_ENCODER, "precision": cpu_precision()}
    return {**NYU_LABELED, **encoder, **_encoder_weights(overrides)}


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
        was = _plain(asdict(value)) if isinstance(value, AugmentConfig) else _plain(value)
        if isinstance(was, dict):
            rows += [(f"{name}.{key}", was[key], used[name][key]) for key in was]
        else:
            rows.append((name, was, used[name]))
    rows = [row for row in rows if row[1] != row[2]]
    rows += [(each.field, each.recorded, each.used) for each in experiment.departures]
    return pd.DataFrame(rows, columns=["field", "recorded", "used"], dtype=object)


def _spelled_out(config: RunConfig) -> dict[str, Any]:
    """The config's values with words or numbers for those that None leaves to others."""
    used = config.to_dict()
    used["truth"] = used["truth"] or "the frame's first"
    known = timm.get_pretrained_cfg(config.encoder) if config.weights is None else None
    for name, theirs in (("input_mean", "mean"), ("input_std", "std")):
        if used[name] is None:
            used[name] = list(getattr(known, theirs)) if known else "as the weights say"
    return used
