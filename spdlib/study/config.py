"""`RunConfig`: everything that decides a run's outcome, checked when it is made (decisions 8)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from spdlib.data.augment import AugmentConfig, augmentation
from spdlib.data.samples import SAMPLERS, SampleConfig
from spdlib.errors import ConfigError
from spdlib.models import EncoderConfig, network_class, network_options
from spdlib.models.encoders import INPUT_NORMS, PADDINGS
from spdlib.study.losses import AUXILIARY_TARGETS, LOSSES, REDUCTIONS

SUPERVISION = ("points", "lattice", "dense")
PRECISIONS = ("bf16", "bf16_cpu", "float32", "float64")
DATA = ("rooms", "nyu_labeled", "nyu_full")
TRAIN_SUBSETS = ("all", "first_shard")
VALIDATIONS = ("aspect", "squash")


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
        input_norm: "weights" normalises images as these statistics say, "none" not at all (F12).
        padding: convolution padding that belongs to the weights; None takes the usual one.
        train_batchnorm: let the encoder's BatchNorm learn its statistics; fine-tuning keeps those
            of the weights, an encoder with random weights has none.
        image_size: height, width of the training image in pixels.
        data: "rooms", "nyu_labeled" or "nyu_full".
        train_subset: "all" frames, or the "first_shard" of the full set that experiments 1 to 10
            were given (F2).
        validation: "aspect" shows selection and test frames undistorted at the training focal
            length, "squash" presses them into the training size (F1).
        truth: depth to learn from ("inpainted", "raw", "exact"); None takes the frame's first.
        train_frames, selection_frames, test_frames: sizes of the three sets of rooms.
        room_size: height, width that rooms are rendered at; None takes image_size.
        seed: of initial weights, sample order, augmentation and points.
        batch_size: images a step, over all processes together.
        steps: optimizer steps.
        cosine_steps: steps that the cosine takes to `final_lr`; 0 for all of them.
        encoder_lr, decoder_lr: peak learning rates.
        warmup_steps: steps of linear warm-up.
        warmup_from: fraction of the peak rate at the first step.
        final_lr: rate that the per-step cosine ends at.
        weight_decay: of AdamW.
        clip: largest gradient norm; 0 never clips.
        precision: "bf16" (autocast on GPUs, float32 on CPUs), "bf16_cpu" (autocast on CPUs too,
            for those that multiply it in hardware), "float32" or "float64".
        loss: name in `losses.LOSSES`.
        silog_lambda: lambda of SILog.
        reduction: "per_image" or "pooled".
        auxiliary_weight: of SILog on the network's auxiliary maps; 0 leaves them out.
        aux_target: how depth is reduced to their size, "masked" or "bilinear" (F17d).
        options: the network's own settings by name; those left out get their defaults here, so
            that a stored config means the same when a default has changed.
        supervision: "points" (K random points), "lattice" (the network's own dense sites) or
            "dense" (the dense map resized to the truth).
        points: K, points a frame with supervision "points".
        sampling: "uniform", "edge_aware" with 30 % of the points near depth edges, or
            "with_replacement", uniform as recorded.
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
    input_norm: str = "weights"
    padding: str | None = None
    train_batchnorm: bool = False
    train_subset: str = "all"
    validation: str = "aspect"
    truth: str | None = None
    train_frames: int = 0
    selection_frames: int = 0
    test_frames: int = 0
    room_size: tuple[int, int] | None = None
    seed: int = 0
    cosine_steps: int = 0
    warmup_from: float = 0.01
    final_lr: float = 1e-6
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: str = "bf16"
    loss: str = "silog"
    reduction: str = "per_image"
    auxiliary_weight: float = 0.0
    aux_target: str = "masked"
    options: Mapping[str, Any] = field(default_factory=dict)
    points: int = 0
    sampling: str = "uniform"
    jitter: bool = True
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    ema_decay: float = 0.0
    evaluate_every: int = 0
    patience: int = 0
    focal_mismatch: bool = False

    def __post_init__(self) -> None:
        check_types(RunConfig, vars(self))
        _check_choices(self)
        _check_numbers(self)
        object.__setattr__(self, "options", network_options(self.network, self.options))
        _check_consistency(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON form. The weights file appears by its name alone, never with a folder."""
        values = asdict(self)
        values["weights"] = None if self.weights is None else Path(self.weights).name
        return {key: plain(value) for key, value in values.items()}

    def encoder_config(self) -> EncoderConfig:
        """The encoder and its input, as `create_model` takes it."""
        return EncoderConfig(
            name=self.encoder,
            pretrained=self.pretrained,
            weights=self.weights,
            mean=self.input_mean,
            std=self.input_std,
            input_norm=self.input_norm,
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
        values = {key: value for key, value in values.items() if key != "grid_rule"}
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown fields in a run's config: {unknown}")
        try:
            return cls(**_typed(dict(values)))
        except TypeError as error:
            raise ConfigError(f"a run's config is incomplete: {error}") from error


def evaluation_crop(config: Mapping[str, Any]) -> str:
    """How the recorded protocol brings frames to the size of a run's network; its stored config.

    Configs of runs older than `validation` do not squash.
    """
    if config.get("validation") == "squash":
        return "squash"
    return str(config.get("augment", {}).get("crop", "fit"))


def plain(value: Any) -> Any:
    """A value as JSON has it: lists for tuples, dictionaries for mappings."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def tuples(value: Any) -> Any:
    """A value with tuples for lists."""
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    """Lists back to tuples and the augmentation back to its class."""
    augment = values.get("augment")
    typed = {key: tuples(value) for key, value in values.items()}
    if isinstance(augment, Mapping):
        typed["augment"] = augment_config(AugmentConfig(), augment)
    return typed


def augment_config(
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
    values = {key: tuples(value) for key, value in changes.items()}
    check_types(AugmentConfig, values)
    return replace(base, **values)


def check_types(kind: type, values: Mapping[str, Any]) -> None:
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
    if get_origin(hint) is Mapping:
        return isinstance(value, Mapping)
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
        "data": DATA, "loss": tuple(LOSSES), "reduction": REDUCTIONS, "supervision": SUPERVISION,
        "precision": PRECISIONS, "padding": (None, *PADDINGS), "sampling": tuple(SAMPLERS),
        "train_subset": TRAIN_SUBSETS, "validation": VALIDATIONS, "input_norm": INPUT_NORMS,
        "aux_target": AUXILIARY_TARGETS,
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
        "evaluate_every", "cosine_steps", "train_frames", "selection_frames", "test_frames",
    )  # fmt: skip
    for name in not_negative:
        if getattr(config, name) < 0:
            raise ConfigError(f"{name} must not be negative; got {getattr(config, name)}")
    for name in ("silog_lambda", "auxiliary_weight", "ema_decay", "warmup_from"):
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
    network = network_class(config.network)
    if config.supervision != "points" and not network.has_dense:
        raise ConfigError(
            f"supervision={config.supervision!r} but {config.network} has no dense path; it learns "
            "from 'points'"
        )
    if config.auxiliary_weight and not network.has_auxiliary:
        raise ConfigError(
            f"auxiliary_weight={config.auxiliary_weight} but {config.network} has no auxiliary "
            "maps; set it to 0"
        )
    if config.train_subset != "all" and config.data != "nyu_full":
        raise ConfigError(
            f"train_subset={config.train_subset!r} is a part of 'nyu_full'; data={config.data!r} "
            "has no shards: keep 'all'"
        )
    if config.sampling != "uniform" and config.supervision != "points":
        raise ConfigError(f"sampling={config.sampling!r} needs supervision='points'")
    if config.warmup_steps >= config.steps:
        raise ConfigError(
            f"warmup_steps={config.warmup_steps} leaves nothing of steps={config.steps}; lower it"
        )
    if 0 < config.cosine_steps < config.steps:
        raise ConfigError(
            f"cosine_steps={config.cosine_steps} would end before steps={config.steps}; "
            "give as many or more, or 0"
        )
    rooms = (config.train_frames, config.selection_frames, config.test_frames)
    if (config.data == "rooms") != (min(rooms) > 0):
        raise ConfigError(
            f"data={config.data!r} contradicts the frame counts {rooms}: "
            "rooms need all three, stored frames none (set them to 0)"
        )
