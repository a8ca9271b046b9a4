"""The log's experiments, one record each: what was run, and what is put right (decisions 3 and 8).

`exp01` to `exp10` are as recorded, faults included; `exp01_corrected` to `exp10_corrected` are the
same with every named fault off, for comparisons. `v13_plan` and `v14_plan` were designed and never
trained; `v15_2` takes the settings of the last run on record, experiment 13 of v15.1. Sheets v13
(section 4), v13_1 (3), v14 (5) and v15 (5) are the sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from spdlib.data.augment import STYLES, AugmentConfig
from spdlib.models import CONVNEXT_V2_TINY
from spdlib.models.encoders import IMAGENET_MEAN, IMAGENET_STD

SHARD = 4133
"""Frames that experiments 1 to 10 were trained on: 517 steps of 8 an epoch (F2)."""


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
    """What an experiment is, independent of the machine it runs on.

    Attributes:
        name: key in `EXPERIMENTS`.
        title: one line for people.
        settings: how it is run with the `paper` profile, by `RunConfig` field. Those of `FIXED`
            hold in every profile that does not set them itself.
        recorded: settings of the run on record; empty if there was none.
        departures: other differences from the recorded run.
        small: what the profiles `smoke` and `demo` change for it.
        demo: what `demo` changes besides.
    """

    name: str
    title: str
    settings: Mapping[str, Any]
    recorded: Mapping[str, Any]
    departures: tuple[Departure, ...] = ()
    small: Mapping[str, Any] = field(default_factory=dict)
    demo: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> str:
        """Name for `create_model`."""
        return str(self.settings["network"])


FIXED = (
    "network", "options", "loss", "silog_lambda", "reduction", "auxiliary_weight", "aux_target",
    "input_norm", "validation",
)  # fmt: skip
"""Settings that make an experiment what it is."""


def _settings(*parts: Mapping[str, Any], **changes: Any) -> Mapping[str, Any]:
    """The parts' settings, later ones first, with changes."""
    merged: dict[str, Any] = {}
    for part in (*parts, changes):
        merged.update(part)
    return MappingProxyType(merged)


# v13 and v14: experiments 1 to 10

SQUASHED = AugmentConfig(crop="squash")
COLOURS = replace(STYLES["flip_jitter"], crop="squash")

V13_FAULTS = MappingProxyType(
    {
        "grid_rule": "recorded", "offset_code": "recorded", "token_positions": "none",
        "head_dtype": "bfloat16",
    }
)  # fmt: skip
V14_FAULTS = MappingProxyType(
    {
        "grid_rule": "recorded", "msda_init": "default", "canvas_write": "sum",
        "head_bias": "zero", "head_dtype": "bfloat16", "token_positions": "none",
    }
)  # fmt: skip

COMMON = _settings(
    encoder=CONVNEXT_V2_TINY, pretrained=True, weights=None, padding=None, train_batchnorm=False,
    input_mean=IMAGENET_MEAN, input_std=IMAGENET_STD, input_norm="weights", image_size=(256, 320),
    data="nyu_full", train_subset="first_shard", truth="inpainted", validation="squash",
    focal_mismatch=False, batch_size=8, steps=10 * 517, cosine_steps=0, encoder_lr=1e-5,
    decoder_lr=1e-4, warmup_steps=0, warmup_from=0.01, final_lr=1e-6, weight_decay=0.01, clip=1.0,
    precision="bf16", loss="silog", silog_lambda=0.5, reduction="per_image", auxiliary_weight=0.0,
    aux_target="masked", supervision="points", points=256, sampling="with_replacement",
    jitter=False, augment=SQUASHED, ema_decay=0.0, evaluate_every=0, patience=0,
)  # fmt: skip
"""What experiments 1 to 10 have in common."""

SHORT_DEMO = MappingProxyType(
    {
        "train_frames": 200, "selection_frames": 16, "test_frames": 24, "steps": 150,
        "evaluate_every": 30, "points": 32,
    }
)  # fmt: skip
"""A demo of three minutes: a step of these networks costs two to three times one of v15.2."""
UNCROWDED = MappingProxyType({"points": 16})
"""Small images of `smoke` have few cells: more queries would crowd v14's canvases there, whose sum
as recorded then leaves every range."""
PLAIN_VIT = MappingProxyType({"encoder": "vit_tiny_patch16_224", "padding": "patch"})

V13_0 = _settings(
    COMMON, network="v13_log_depth", options={**V13_FAULTS, "head_bias": "zero"},
    input_norm="none", reduction="pooled", silog_lambda=0.85,
)  # fmt: skip
CALIBRATED = _settings(V13_0, network="v13_calibrated", options=V13_FAULTS)
V13_1 = _settings(
    COMMON, network="v13_1", options={**V13_FAULTS, "inserted_attention": "random"},
)  # fmt: skip
V14 = _settings(
    COMMON, options=V14_FAULTS, augment=COLOURS, silog_lambda=0.15, auxiliary_weight=0.5,
    aux_target="bilinear",
)  # fmt: skip

SCHEDULE = Departure("schedule", "the cosine moves once an epoch", "the cosine moves every step")
FROM_V14_PLAN = (
    Departure(
        "smooth_init",
        "PyTorch's default, in one convolution that all seven layers share",
        "the identity, for by the default first answers leave every range",
    ),
    Departure("canvas_write", "queries of one cell add up", "their mean (F17a)"),
    Departure("grid_rule", "align_corners=True, zeros outside", "half_pixel, border repeated (F9)"),
    Departure("msda_init", "offsets near zero", "every head looks its own way (F16)"),
    Departure("token_positions", "none", "coarse tokens carry a code of their place (F11)"),
)
"""Where v14_plan as we train it is not the design (sheet v14, sections 1 and 2)."""
RESIZING = Departure("resizing of images", "bicubic (PIL)", "bilinear, antialiased")
SELECTION = Departure(
    "selection", "best epoch on the 654 test frames", "best weights on selection frames"
)
BATCH_1 = Departure("batch", "8, later 12; the commit says 4", "12")
BATCH_10 = Departure(
    "batch and data", "the log infers about 92 of the full set, which cannot be (F3)",
    "8 of the first shard",
)  # fmt: skip
INPUT_10 = Departure(
    "image size, augmentation and validation", "not stated", "those of experiment 8"
)

LOG = (
    (
        "exp01", "v13, B1 to B3, calibrated inverse depth, L_point",
        _settings(CALIBRATED, loss="huber", batch_size=12, steps=10 * 345, cosine_steps=30 * 345),
        (SCHEDULE, SELECTION, RESIZING, BATCH_1),
    ),
    (
        "exp02", "as 1, with half of SILog added",
        _settings(
            CALIBRATED, loss="huber_silog", batch_size=12, steps=10 * 345, cosine_steps=30 * 345
        ),
        (SCHEDULE, SELECTION, RESIZING),
    ),
    (
        "exp03", "v13, B1 to B5, log-depth, L_point and half of SILog",
        _settings(V13_0, loss="huber_silog", cosine_steps=30 * 517),
        (SCHEDULE, SELECTION, RESIZING),
    ),
    ("exp04", "as 3, SILog alone", V13_0, (SCHEDULE, SELECTION, RESIZING)),
    (
        "exp05", "v13.1: self-attention on L3 and L4, routing over L3 and L4",
        _settings(V13_1, reduction="pooled", input_norm="none"),
        (SCHEDULE, SELECTION),
    ),
    (
        "exp06", "as 5, images normalised and varied, SILog per image",
        _settings(V13_1, augment=COLOURS),
        (SCHEDULE, SELECTION),
    ),
    (
        "exp07", "as 6, with more weight on scale",
        _settings(V13_1, augment=COLOURS, silog_lambda=0.15),
        (SCHEDULE, SELECTION),
    ),
    (
        "exp08", "v14 with canvases on L2 and L3",
        _settings(V14, network="v14_dual"),
        (SCHEDULE, SELECTION),
    ),
    (
        "exp09", "v14 with canvases on L2, L3 and L4, larger crops of unscaled frames",
        _settings(
            V14, network="v14_triple", image_size=(416, 544), batch_size=4, steps=10 * 1034,
            augment=STYLES["bts_native"], silog_lambda=0.5, focal_mismatch=True,
        ),
        (SCHEDULE, SELECTION),
    ),
    (
        "exp10", "logged as 8 with more data; a repeat that is poorly described",
        _settings(V14, network="v14_dual"),
        (SCHEDULE, SELECTION, BATCH_10, INPUT_10),
    ),
)  # fmt: skip
"""Name, title, recorded settings and departures of the log's experiments 1 to 10."""


def _corrected(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings with every named fault off (decisions 3)."""
    return _settings(
        settings, options={}, input_norm="weights", aux_target="masked", validation="aspect",
        focal_mismatch=False, train_subset="all", augment=replace(settings["augment"], crop="fit"),
    )  # fmt: skip


# v15: experiment 13

EXP13 = _settings(
    network="v15_1", options={}, encoder="vit_small_patch14_dinov2", pretrained=True, weights=None,
    padding="patch", train_batchnorm=False, input_mean=IMAGENET_MEAN, input_std=IMAGENET_STD,
    input_norm="weights", image_size=(350, 476), data="nyu_full", train_subset="all",
    truth="inpainted", validation="aspect", focal_mismatch=False, batch_size=2,
    steps=10 * 23_792, cosine_steps=0, encoder_lr=5e-6, decoder_lr=1e-4, warmup_steps=500,
    warmup_from=0.01, final_lr=1e-6, weight_decay=0.01, clip=1.0, precision="bf16", loss="silog",
    silog_lambda=0.5, reduction="per_image", auxiliary_weight=0.0, aux_target="masked",
    supervision="dense", points=0, sampling="uniform", jitter=False,
    augment=STYLES["bts_native"], ema_decay=0.0, evaluate_every=0, patience=0,
)  # fmt: skip
"""Recorded settings of experiment 13 (sheet v15, section 5); v15.2 itself has no run on record."""

FROM_V15_1 = (
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

V15_2 = Experiment(
    "v15_2",
    "DPT global path, cross-attention local path; a query costs 0.17 M MACs",
    _settings(EXP13, network="v15_2"),
    EXP13,
    FROM_V15_1,
)

# designed, not in the log

PLANS = (
    Experiment(
        "v13_plan",
        "v13 as designed: frozen ViT-S, B1 to B5, calibrated inverse depth",
        _settings(
            _corrected(V13_0),
            network="v13_plan",
            encoder="vit_small_patch14_dinov2",
            padding="patch",
            image_size=(518, 518),
            augment=AugmentConfig(),
            sampling="uniform",
        ),
        {},
        small=PLAIN_VIT,
        demo=SHORT_DEMO,
    ),
    Experiment(
        "v14_plan",
        "v14 as designed: one canvas on L3; deformable reads, then all of L3, then all of L4",
        _settings(_corrected(V14), network="v14_plan", sampling="uniform"),
        {},
        FROM_V14_PLAN,
        small=UNCROWDED,
        demo=SHORT_DEMO,
    ),
)


def _experiments() -> Iterator[Experiment]:
    """All records in the log's order, those to be put right twice."""
    for name, title, recorded, departures in LOG:
        small = UNCROWDED if recorded["network"].startswith("v14") else {}
        as_run = Experiment(name, title, recorded, recorded, departures, small, SHORT_DEMO)
        yield as_run
        yield replace(
            as_run,
            name=f"{name}_corrected",
            title=f"{title}; put right",
            settings=_corrected(recorded),
        )
    yield V15_2
    yield from PLANS


EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {each.name: each for each in _experiments()}
)
