"""`RunConfig`: everything that decides a run's outcome, each setting in the part it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from spdlib.data.augment import AugmentConfig
from spdlib.data.samples import SampleConfig, Sampling
from spdlib.errors import ConfigError, unknown_name
from spdlib.models import ModelConfig, network_class, network_options
from spdlib.settings import Settings, Share, plain, read, require
from spdlib.study.objectives import OBJECTIVES, TRUTH_KINDS


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which frames a run learns from, chooses its weights by and is scored on."""

    source: Literal["rooms", "nyu_labeled", "nyu_full"]
    train_subset: Literal["all", "first_shard"] = "all"
    """All frames, or the first shard of the full set that experiments 1 to 10 were given (F2)."""
    validation: Literal["aspect", "squash"] = "aspect"
    """Selection and test frames undistorted at the training focal length, or pressed into the
    training size (F1)."""
    truth: str | None = None
    """Depth to learn from ("inpainted", "raw", "exact"); None takes the frame's first."""
    train_frames: NonNegativeInt = 0
    selection_frames: NonNegativeInt = 0
    test_frames: NonNegativeInt = 0
    """How many rooms the three sets have; 0 for stored frames."""
    room_size: tuple[PositiveInt, PositiveInt] | None = None
    """Height, width that rooms are rendered at; None takes the model's image size."""
    focal_mismatch: bool = False
    """Allow training and selection frames of different effective focal length."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rooms = (self.train_frames, self.selection_frames, self.test_frames)
        require(
            self.train_subset == "all" or self.source == "nyu_full",
            f"train_subset={self.train_subset!r}: data={self.source!r} has no shards; keep 'all'",
        )
        require(
            (self.source == "rooms") == (min(rooms) > 0),
            f"data={self.source!r} contradicts the frame counts {rooms}: rooms need all three, "
            "stored frames none (set them to 0)",
        )


@dataclass(frozen=True)
class SamplingConfig(Settings):
    """Which points of a training frame are queried, and how frames vary."""

    supervision: str
    """A kind of truth: `points` random points, the network's own dense sites ("lattice"), or the
    dense map resized to the truth ("dense")."""
    points: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Random points a frame, 0 for a kind of truth that takes none."""
    sampling: Sampling = "uniform"
    """Where the points lie: anywhere, 30 % of them near depth edges, or anywhere with repeats, as
    recorded."""
    jitter: bool = True
    """Sub-pixel points; False takes pixel centres."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        TRUTH_KINDS.find(self.supervision)
        require(
            self.at_points == (self.points > 0),
            f"supervision={self.supervision!r} contradicts points={self.points}: "
            "give points > 0 with truth at points, points=0 with any other",
        )
        require(
            self.at_points or self.sampling == "uniform",
            f"sampling={self.sampling!r} needs supervision='points'",
        )

    @property
    def at_points(self) -> bool:
        """Whether the truth lies at random points, not on the network's dense path."""
        return "points" in TRUTH_KINDS[self.supervision].inputs


@dataclass(frozen=True)
class ObjectiveConfig(Settings):
    """What training minimises."""

    loss: str = "silog"
    """Name of an objective, see `objectives`."""
    silog_lambda: Share = 0.5
    """Lambda of SILog: 1 - lambda weighs the error of scale."""
    reduction: Literal["per_image", "pooled"] = "per_image"
    auxiliary_weight: Share = 0.0
    """Of SILog on the network's auxiliary maps; 0 leaves them out."""
    aux_target: Literal["masked", "bilinear"] = "masked"
    """How depth is reduced to the size of auxiliary maps (F17d)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        OBJECTIVES.find(self.loss)


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """AdamW, what it steps with, and the arithmetic it is given."""

    encoder_lr: NonNegativeFloat
    decoder_lr: PositiveFloat
    """Peak learning rates."""
    weight_decay: NonNegativeFloat = 0.01
    clip: NonNegativeFloat = 1.0
    """Largest gradient norm; 0 never clips."""
    ema_decay: Share = 0.0
    """Of the averaged weights that are evaluated and kept; 0 keeps the plain ones."""
    precision: Literal["bf16", "bf16_cpu", "float32", "float64"] = "bf16"
    """"bf16" is autocast on GPUs and float32 on CPUs, "bf16_cpu" autocast on CPUs too, for those
    that multiply it in hardware."""


@dataclass(frozen=True)
class ScheduleConfig(Settings):
    """How long a run trains, and how its learning rates move: linear warm-up, then a cosine."""

    batch_size: PositiveInt
    """Images a step, over all processes together."""
    steps: PositiveInt
    """Optimizer steps."""
    warmup_steps: NonNegativeInt = 0
    warmup_from: Share = 0.01
    """Fraction of the peak rate at the first step of the warm-up."""
    cosine_steps: NonNegativeInt = 0
    """Steps that the cosine takes to `final_lr`; 0 for all of them."""
    final_lr: NonNegativeFloat = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.warmup_steps < self.steps,
            f"warmup_steps={self.warmup_steps} leaves nothing of steps={self.steps}; lower it",
        )
        require(
            self.cosine_steps == 0 or self.cosine_steps >= self.steps,
            f"cosine_steps={self.cosine_steps} would end before steps={self.steps}; give as many "
            "or more, or 0",
        )


@dataclass(frozen=True)
class EvaluationConfig(Settings):
    """When a run is scored on its selection frames."""

    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations; 0 for once an epoch."""
    patience: NonNegativeInt = 0
    """Evaluations without a better AbsRel before stopping; 0 never stops early."""


@dataclass(frozen=True)
class RunConfig(Settings):
    """Everything that decides a run's outcome. Equal configs on equal data give equal weights."""

    experiment: str
    profile: str
    model: ModelConfig
    """The network with all its options, its encoder, and the size of training images. The focal
    length is measured from the training frames."""
    data: DataConfig
    sampling: SamplingConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    evaluation: EvaluationConfig
    seed: int = 0
    """Of initial weights, sample order, augmentation and points."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name, supervision = self.model.network, self.sampling.supervision
        options = network_options(name, self.model.options)
        object.__setattr__(self, "model", replace(self.model, options=options))
        network, weight = network_class(name), self.objective.auxiliary_weight
        require(
            self.sampling.at_points or network.has_dense,
            f"supervision={supervision!r} but {name} has no dense path; it learns from 'points'",
        )
        require(
            weight == 0 or network.has_auxiliary,
            f"auxiliary_weight={weight} but {name} has no auxiliary maps; set it to 0",
        )

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> RunConfig:
        """A config from settings by their own names, such as steps=500, whatever their part.

        ConfigError: a setting is unknown, missing, wrong or contradicts another.
        """
        nested: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in SETTINGS:
                raise ConfigError(unknown_name("setting", name, sorted(SETTINGS)))
            *parts, last = SETTINGS[name].split(".")
            place = nested
            for part in parts:
                place = place.setdefault(part, {})
            place[last] = value
        return read(cls, nested)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Inverse of `to_dict`; also reads the flat form of the first published runs.

        ConfigError: a field is unknown, missing or contradicts another.
        """
        if "model" in values:
            return read(cls, values)
        # `grid_rule` and the option `sparse` changed nothing that a config has to say now
        flat = {name: value for name, value in values.items() if name != "grid_rule"}
        options = flat.get("options", {}).items()
        return cls.of({**flat, "options": {key: v for key, v in options if key != "sparse"}})

    def to_dict(self) -> dict[str, Any]:
        """JSON form. The weights file appears by its name alone, never with a folder."""
        values: dict[str, Any] = plain(asdict(self))
        encoder = values["model"]["encoder"]
        if encoder["weights"] is not None:
            encoder["weights"] = Path(encoder["weights"]).name
        return values

    def settings(self) -> dict[str, Any]:
        """Every setting by its own name, whatever its part."""
        return {name: attrgetter(path)(self) for name, path in SETTINGS.items()}

    def but(self, **changes: Any) -> RunConfig:
        """The same with some settings, given by their own names, changed."""
        return RunConfig.of({**self.settings(), **changes})

    def sample_config(self) -> SampleConfig:
        """What one training sample holds."""
        settings = self.settings()
        return SampleConfig(**{each.name: settings[each.name] for each in fields(SampleConfig)})

    @property
    def headline(self) -> str:
        """What runs, in one line: a profile may replace the network's own encoder and size."""
        model, schedule, (height, width) = self.model, self.schedule, self.model.image_size
        return (
            f"{self.experiment}, profile {self.profile}: {model.network} with {model.encoder.name} "
            f"at {height}x{width}, {schedule.steps} steps of {schedule.batch_size} frames, "
            f"seed {self.seed}"
        )

    @property
    def crop(self) -> str:
        """How the recorded protocol brings frames to the size of the network."""
        return "squash" if self.data.validation == "squash" else self.sampling.augment.crop


OTHER_NAMES = {
    "model.encoder.name": "encoder",
    "model.encoder.mean": "input_mean",
    "model.encoder.std": "input_std",
    "data.source": "data",
}
"""Settings whose own name would say nothing outside their part."""


def _paths(kind: type, prefix: str = "") -> dict[str, str]:
    """Where every setting lies, by its own name; an augmentation is one setting."""
    paths: dict[str, str] = {}
    for name, hint in get_type_hints(kind).items():
        path = f"{prefix}{name}"
        if is_dataclass(hint) and hint is not AugmentConfig:
            paths |= _paths(hint, f"{path}.")  # type: ignore[arg-type]
        else:
            paths[OTHER_NAMES.get(path, name)] = path
    return paths


SETTINGS: Mapping[str, str] = _paths(RunConfig)


def differences(ours: ModelConfig, theirs: ModelConfig) -> list[str]:
    """In which way networks of one config could not take the weights of another's, in words."""
    sides = {
        "network": (ours.network, theirs.network),
        "encoder": (ours.encoder.name, theirs.encoder.name),
        "options": (ours.options, theirs.options),
    }
    return [f"{name} {b!r}, not {a!r}" for name, (a, b) in sides.items() if a != b]
