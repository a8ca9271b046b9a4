"""The log's experiments, one record each: what was run, and where ours cannot be the same.

`exp01` to `exp13` are as recorded, faults included; `exp01_corrected` to `exp13_corrected` are the
same with every named fault off, for comparisons. `v13_plan` and `v14_plan` were designed and never
trained; `v15_2` takes the settings of the last run on record, experiment 13 of v15.1. `dav2_s`, the
dense baseline, is not of the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from spdlib.data.augment import STYLES, AugmentConfig
from spdlib.faults import FAULTS, recorded_values
from spdlib.models import CONVNEXT_V2_TINY
from spdlib.models.encoders import IMAGENET_MEAN, IMAGENET_STD
from spdlib.models.registry import network_defaults
from spdlib.study.config import SETTINGS, RunConfig

Recipe = Mapping[str, Any]
"""Settings of a run by their own names, such as steps=500; what it leaves out keeps its default."""

SHARD = 4133
"""Frames of the first shard, the whole training set of experiments 1 to 10 (F2)."""


class Departure(NamedTuple):
    """A difference from the record that no setting undoes: what, how it was, how it is here."""

    field: str
    recorded: str
    used: str


@dataclass(frozen=True)
class Experiment:
    """What an experiment is, independent of the machine it runs on."""

    name: str
    title: str
    recipe: Recipe
    """How it is run with the `paper` profile."""
    recorded: Recipe | None = None
    """The recipe on record; None if there is no record to depart from."""
    departures: tuple[Departure, ...] = ()
    """Differences from the record besides those of the two recipes."""
    small: Mapping[str, Recipe] = field(default_factory=dict)
    """What profiles for small machines change for it, by the profile's name."""

    @property
    def network(self) -> str:
        """Name for `create_model`."""
        return str(self.recipe["network"])

    @property
    def record(self) -> RunConfig | None:
        """The recipe on record with all its defaults."""
        named = {"experiment": self.name, "profile": "paper"}
        return None if self.recorded is None else RunConfig.of({**named, **self.recorded})

    def but(
        self, name: str, title: str, small: Mapping[str, Recipe] | None = None, /, **changes: Any
    ) -> Experiment:
        """The next experiment of the log: this one with changes."""
        recipe = {**self.recipe, **changes}
        return Experiment(name, title, recipe, recipe, departures_of(name), small or self.small)

    def corrected(self, **changes: Any) -> Experiment:
        """The same with every named fault off, and other changes of its fields."""
        return replace(self, recipe=put_right(self.recipe), **changes)


def put_right(recipe: Recipe) -> Recipe:
    """A recipe with every named fault off."""
    off = {fault.option: fault.off for fault in FAULTS if fault.option in SETTINGS}
    views = dict(focal_mismatch=False, augment=replace(recipe["augment"], crop="fit"))
    return {**recipe, **off, **views, "options": {}}


DEPARTURES = """
exp0 exp10 | schedule | the cosine moves once an epoch | the cosine moves every step
exp | selection | best epoch on the 654 test frames | best weights on selection frames
exp0 exp10 | last batch of an epoch | incomplete: 517 steps of 8 in the shard's 4,133 frames
    | left out: 516 steps, so that as many steps are a little more than as many epochs
exp01 exp02 exp03 exp04 | resizing of images | bicubic (PIL) | bilinear, antialiased
exp01 | batch | 8, later 12; the commit says 4 | 12
exp10 | batch and data | the log infers about 92 of the full set, which cannot be (F3)
    | 8 of the first shard
exp10 | image size, augmentation and validation | not stated | those of experiment 8
v15_2 | network | v15_1 | v15_2, of which no run is on record
v15_2 | grid_rule | v15.1's patches: u/t at fractional centres, align_corners=True, zero padding
    | half_pixel, border padding
exp11 | objective | the log's text says lambda 0.50, its code 0.85 | 0.85
exp11 | head | the log's text says ReLU + 1e-6, its code exp | exp
exp11 exp12 | epochs | 5 and 10 planned, 2 run | as planned
exp12 | attempts | ReLU + 1e-6 (dead: 0 m for 3,000 steps); softplus; softplus at half the
    encoder's rate, stopped | the second
exp13 | epochs | 10 planned, 7 run | as planned
exp11 exp12 exp13 | grid_rule | maps resized with align_corners=True | half_pixel
v15_2 | head bias | none: training starts near 0.69 m | training starts at 2.5 m
v15_2 | embeddings | none in v15.1; N(0, 1) in v15.2's code | N(0, 0.02^2)
exp09 exp11 exp12 exp13 v15_2 | augmentation order | the unscaled frame is rotated, then cropped
    | the crop is rotated; its corners lose what the frame still shows
v13_plan | grid_rule | 2p/size - 1 with align_corners=False, zeros outside
    | half_pixel: 2(p + 0.5)/size - 1, border repeated (F9)
v14_plan | smooth_init | PyTorch's default, in one convolution that all seven layers share
    | the identity, for by the default first answers leave every range
v14_plan | msda_init | offsets near zero | every head looks its own way (F16)
v13_plan v14_plan | training frames | about 24,000 | all 47,584 of the full set
v13_plan v14_plan | augmentation | hue within 0.1 and resized crops of scale 0.8 to 1.2 too
    | neither
"""
"""Experiments ("exp": all of them) | what differs | how it was | how it is here."""


def departures_of(experiment: str) -> tuple[Departure, ...]:
    """The rows of `DEPARTURES` that name an experiment."""
    rows = [row.split(" | ") for row in DEPARTURES.replace("\n   ", "").strip().splitlines()]
    return tuple(
        Departure(*row) for names, *row in rows if experiment.startswith(tuple(names.split()))
    )


SHORT_DEMO = dict(
    train_frames=200, selection_frames=16, test_frames=24, points=32, steps=150, evaluate_every=30
)
"""A demo of three minutes: a step of these networks costs two to three times one of v15.2."""
UNCROWDED = dict(points=16)
"""Small images of `smoke` have few cells: more queries would crowd v14's canvases there, whose sum
as recorded then leaves every range."""
PLAIN_VIT = dict(encoder="vit_tiny_patch16_224", padding="patch")

# Settings as recorded: named faults that are options of the networks.
COMMON_FAULTS = ("grid_rule", "token_positions", "head_dtype")
V13_FAULTS = recorded_values((*COMMON_FAULTS, "offset_code"))
V14_FAULTS = recorded_values((*COMMON_FAULTS, "msda_init", "canvas_write", "head_bias"))
V15_FAULTS = recorded_values(("query_path", "head_bias"))

FIRST: Recipe = (
    dict(network="v13_calibrated", options=V13_FAULTS, image_size=(256, 320))
    | dict(encoder=CONVNEXT_V2_TINY, pretrained=True)
    | dict(input_mean=IMAGENET_MEAN, input_std=IMAGENET_STD, input_norm="none")
    | dict(data="nyu_full", train_subset="first_shard", truth="inpainted", validation="squash")
    | dict(supervision="points", points=256, sampling="with_replacement", jitter=False)
    | dict(augment=AugmentConfig(crop="squash"))
    | dict(loss="huber", silog_lambda=0.85, reduction="pooled")
    | dict(encoder_lr=1e-5, decoder_lr=1e-4)
    | dict(batch_size=12, steps=10 * 345, cosine_steps=30 * 345, warmup_steps=0)
)
EXP01 = Experiment(
    "exp01",
    "v13, B1 to B3, calibrated inverse depth, L_point",
    FIRST,
    FIRST,
    departures_of("exp01"),
    {"demo": SHORT_DEMO},
)
EXP02 = EXP01.but("exp02", "as 1, with half of SILog added", loss="huber_silog")
EXP03 = EXP02.but(
    "exp03",
    "v13, B1 to B5, log-depth, L_point and half of SILog",
    network="v13_log_depth",
    options=V13_FAULTS | recorded_values(["head_bias"]),
    **dict(batch_size=8, steps=10 * 517, cosine_steps=30 * 517),
)
EXP04 = EXP03.but("exp04", "as 3, SILog alone", loss="silog", cosine_steps=0)
EXP05 = EXP04.but(
    "exp05",
    "v13.1: self-attention on L3 and L4, routing over L3 and L4",
    network="v13_1",
    options=V13_FAULTS | recorded_values(["inserted_attention"]),
    silog_lambda=0.5,
)
EXP06 = EXP05.but(
    "exp06",
    "as 5, images normalised and varied, SILog per image",
    input_norm="weights",
    augment=replace(STYLES["flip_jitter"], crop="squash"),
    reduction="per_image",
)
EXP07 = EXP06.but("exp07", "as 6, with more weight on scale", silog_lambda=0.15)
EXP08 = EXP07.but(
    "exp08",
    "v14 with canvases on L2 and L3",
    {"smoke": UNCROWDED, "demo": SHORT_DEMO},
    network="v14_dual",
    options=V14_FAULTS,
    **dict(auxiliary_weight=0.5, aux_target="bilinear"),
)
EXP09 = EXP08.but(
    "exp09",
    "v14 with canvases on L2, L3 and L4, larger crops of unscaled frames",
    network="v14_triple",
    silog_lambda=0.5,
    **dict(image_size=(416, 544), augment=STYLES["bts_native"], focal_mismatch=True),
    **dict(batch_size=4, steps=10 * 1034),
)
EXP10 = EXP08.but("exp10", "logged as 8 with more data; a repeat that is poorly described")

DENSE: Recipe = (
    dict(network="v15_0", image_size=(352, 480), options=V15_FAULTS)
    | dict(encoder=CONVNEXT_V2_TINY, pretrained=True)
    | dict(input_mean=IMAGENET_MEAN, input_std=IMAGENET_STD)
    | dict(data="nyu_full", truth="inpainted", validation="squash", focal_mismatch=True)
    | dict(supervision="dense", jitter=False, augment=STYLES["bts_native"], silog_lambda=0.85)
    | dict(encoder_lr=1e-5, decoder_lr=1e-4)
    | dict(batch_size=12, steps=5 * 3_966, warmup_steps=500)
)
EXP11 = Experiment(
    "exp11",
    "v15.0: a dense DPT decoder in two halves, queries from patches",
    DENSE,
    DENSE,
    departures_of("exp11"),
)
EXP12 = EXP11.but(
    "exp12",
    "v15.1: as 11, on a plain ViT, with softplus",
    network="v15_1",
    **dict(encoder="vit_small_patch14_dinov2", padding="patch", image_size=(350, 476)),
    **dict(silog_lambda=0.5, batch_size=2, steps=10 * 23_792),
)
EXP13 = EXP12.but(
    "exp13",
    "as 12, scored on unscaled centre crops, the encoder's rate halved",
    **dict(validation="aspect", focal_mismatch=False, encoder_lr=5e-6),
)
LOG = (
    *(EXP01, EXP02, EXP03, EXP04, EXP05, EXP06, EXP07, EXP08, EXP09, EXP10),
    *(EXP11, EXP12, EXP13),
)

LATEST: Recipe = {**EXP13.recipe, "network": "v15_2", "options": {}}
V15_2 = Experiment(
    "v15_2",
    "DPT global path, cross-attention local path; a query costs 0.17 M MACs",
    LATEST,
    LATEST,
    departures_of("v15_2"),
)

# Designed, never trained: what is on record is the design, 30 epochs of the whole training set.
LONG = dict(train_subset="all", batch_size=8, steps=30 * 47_584 // 8, cosine_steps=0)
V13_PLAN = EXP02.but(
    "v13_plan",
    "v13 as designed: frozen ViT-S, B1 to B5, calibrated inverse depth",
    {"smoke": PLAIN_VIT, "demo": SHORT_DEMO | PLAIN_VIT},
    network="v13_plan",
    options=recorded_values(["offset_code", "token_positions"]),
    **dict(encoder="vit_small_patch14_dinov2", padding="patch", input_norm="weights"),
    **dict(image_size=(518, 518), augment=replace(STYLES["flip_jitter"], crop="squash")),
    **dict(sampling="uniform") | LONG,
).corrected()
V14_PLAN = EXP08.but(
    "v14_plan",
    "v14 as designed: one canvas on L3; deformable reads, then all of L3, then all of L4",
    network="v14_plan",
    options=recorded_values(["grid_rule", "canvas_write", "token_positions"]),
    **dict(image_size=(480, 640), augment=STYLES["flip_jitter"], validation="aspect"),
    **dict(sampling="uniform") | LONG,
).corrected()

PLAIN: Recipe = {
    **put_right(EXP07.recipe),
    **dict(silog_lambda=0.5, input_mean=None, input_std=None),
}
"""How a network without an experiment is trained; the network itself is missing."""
DAV2_S = Experiment(
    "dav2_s",
    "dense baseline: Depth Anything V2 Small, learns from every measured pixel",
    {
        **PLAIN,
        **dict(network="dav2_s", image_size=(518, 686)),
        **dict(encoder="vit_small_patch14_dinov2", padding="patch"),
        **dict(supervision="dense", sampling="uniform"),
    },
)

RIGHT = [e.corrected(name=f"{e.name}_corrected", title=f"{e.title}; put right") for e in LOG]
TWICE = (each for pair in zip(LOG, RIGHT, strict=True) for each in pair)
ALL = (*TWICE, V15_2, V13_PLAN, V14_PLAN, DAV2_S)
DEFAULT = "v15_2"
"""The experiment that is run where none is named."""
EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType({each.name: each for each in ALL})
"""Experiments in the log's order, its own twice: as recorded, and put right; then others."""


def plain_recipe(network: str) -> Recipe:
    """How a network without an experiment is trained: with its own encoder and image size."""
    encoder, size = network_defaults(network)
    return {**PLAIN, **dict(network=network, encoder=encoder, image_size=size)}
