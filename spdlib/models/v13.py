"""v13: five blocks, B1 to B5, answer every query by itself.

B1 reads 91 tokens around the query. B2 attends to them, B3 to all cells of L4, and the query is
routed to the cells that B3 looked at most. B4 reads the image there, deformably, and B5 attends to
all of it. Three networks are made of these blocks:

* `V13Calibrated`: experiments 1 and 2, B1-B3 on a ConvNeXt V2-T, calibrated inverse depth.
* `V13LogDepth`: experiments 3 and 4, B1-B5 on a ConvNeXt V2-T, log-depth.
* `V13Plan`: as it was designed, B1-B5 on a frozen ViT, calibrated inverse depth; never trained.

A scene's maps, channels-last: "L1".."L4", what B1 reads; "b3_keys", "b3_values", both layers side
by side; "anchors" and "V2".."V4", what B4 reads; "calibration", two numbers of the image.

In the fast form L2, L4 and the anchors are projected before they are read: a scene belongs to the
form of execution that encoded it. The blocks themselves are in `v13_blocks`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from spdlib.errors import ModelError
from spdlib.geometry import GridRule, Size, size_of
from spdlib.inspection import Probe
from spdlib.models.attention import MapAttention
from spdlib.models.base import Caption, DepthModel, refuse_plain_vit
from spdlib.models.encoders import CONVNEXT_V2_TINY, padded_size
from spdlib.models.layers import HEAD_BIAS, LEVELS, NumberHead, channels_last, start_at
from spdlib.models.necks import CAPTIONS, PlanNeck, PyramidNeck
from spdlib.models.options import Count, ModelConfig, Options, counts
from spdlib.models.registry import register
from spdlib.models.v13_blocks import (
    B1,
    B2,
    B3,
    B4,
    B5,
    CHANNELS,
    CODE_UNIT,
    HEADS,
    WIDTH,
    Calibration,
    Precompute,
    Queries,
)
from spdlib.scene import Answer, Maps


@dataclass(frozen=True)
class V13Options(Options):
    """Options of all v13 networks. The first value is right, others are faults on record.

    Attributes:
        grid_rule: how pixels find cells (F9). The plan never ran; its recorded rule is that of the
            networks that did.
        offset_code: B1 codes an offset in units of 16 cells ("scaled"), or in whole cells, which
            all have one code (F10).
        token_positions: whether cells that attend to each other, or that B3 reads, carry a code of
            their place (F11).
        head_dtype: of the head; "bfloat16" rounds its numbers (F7).
    """

    grid_rule: Literal["half_pixel", "recorded"] = "half_pixel"
    offset_code: Literal["scaled", "recorded"] = "scaled"
    token_positions: Literal["sincos", "none"] = "sincos"
    head_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class V13PlanOptions(V13Options):
    """Options of v13_plan: also to how many cells of L4 a query is routed."""

    routed_l4: Count = 32


@dataclass(frozen=True)
class V13LogDepthOptions(V13PlanOptions):
    """Options of v13_log_depth: its head also starts at NYU's "median" depth or at 1 m (F17c)."""

    head_bias: Literal["median", "zero"] = "median"


class V13(DepthModel):
    """What the v13 networks share, v13.1 included: levels, B1, B2 and the head.

    Attributes:
        calibrated: the head answers an inverse depth that is calibrated by the image, no log-depth.
        dropout: on the decoder's attention weights, in training.
        first_block: B1's class.

    Raises:
        ModelError: an encoder it cannot read, or images of which a level has fewer cells than a
            query is routed to.
    """

    Options: ClassVar[type] = V13Options
    maps_depend_on_execution = True
    recorded_points = 256
    calibrated: ClassVar[bool] = False
    dropout: ClassVar[float] = 0.0
    first_block: ClassVar[type[B1]] = B1
    precompute: Any

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        options = self.options
        self.coded = options.token_positions == "sincos"
        self._add_neck()
        self._check_routing(config.image_size)
        self.b1 = self.first_block(CODE_UNIT if options.offset_code == "scaled" else 1)
        self.b2 = B2(self.dropout)
        self.head = NumberHead(WIDTH, low=options.head_dtype == "bfloat16")
        if not self.calibrated:
            start_at(self.head[-1], HEAD_BIAS[options.head_bias])

    def maps(self, images: Tensor) -> Maps:
        """Padded images [B, 3, H, W] -> the maps of a scene (see the module's text)."""
        self._check_routing(size_of(images))
        levels = dict(zip(LEVELS, map(channels_last, self.levels(images)), strict=True))
        maps = {**self.b1.maps(levels, self.fast), **self.projected(levels)}
        if self.calibrated:
            maps["calibration"] = self.precompute.calibration(levels["L4"])
        return maps

    def levels(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> the neck's levels [B, 64/128/192/384, h_l, w_l].

        L4 leaves as the residual stream of its attention, not normalised.
        """
        *fine, level4 = self.neck(self.encoder(images))
        return [*fine, self.level4_attention(level4)]

    @abstractmethod
    def projected(self, levels: Maps) -> dict[str, Tensor]:
        """What is projected of the neck's levels [B, h, w, C_l] once per image, but not for B1."""

    @abstractmethod
    def run(self, queries: Queries) -> Tensor:
        """The network's blocks, one after the other: depth [B, K] in metres."""

    def depth(self, h: Tensor, queries: Queries) -> Tensor:
        """Finished queries h [B, K, 192] -> depth [B, K] in metres."""
        number = self.head(h).squeeze(-1)
        if self.calibrated:
            return Calibration.depth(number, queries.maps["calibration"])
        return number.exp()

    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """Depth [B, K] at points [B, K, 2] in pixels of the padded image."""
        return Answer(self.run(self.queries(maps, points, image_size)))

    def queries(self, maps: Maps, points: Tensor, image_size: Size) -> Queries:
        """The points [B, K, 2] with all that the blocks need to read maps there."""
        return Queries(maps, points, image_size, GridRule(self.options.grid_rule), self.fast)

    def probes(self, maps: Maps, points: Tensor, image_size: Size) -> list[Probe]:
        """What each block reads for K queries; weights of its last layer, mean of the heads."""
        found: list[Probe] = []
        self.run(self.queries(maps, points, image_size)._replace(probes=found))
        return found

    def captions(self) -> dict[str, Caption]:
        """Titles and details of the blocks, for diagrams."""
        three, four = (getattr(self.options, f"routed_l{n}", None) for n in (3, 4))
        return {
            **super().captions(),
            **CAPTIONS,
            "precompute": ("projected for all", "keys and values, maps to read"),
            "b1": ("B1: look around", "91 tokens of L1 to L4"),
            "b2": ("B2: read them", "2 layers"),
            "b3": ("B3: read all of L4", f"route to {four} cells" if four else "2 layers"),
            "b3a": ("B3a: read all of L3", f"route to {three} cells"),
            "b3b": ("B3b: read all of L4", f"route to {four} cells"),
            "b4": ("B4: read around them", "6 heads, 3 maps, 4 places"),
            "b5": ("B5: read everything", "3 layers"),
            "head": ("head", "inverse depth, calibrated" if self.calibrated else "log-depth"),
        }

    def _add_neck(self) -> None:
        """Conv1x1 + LN of every level, then two self-attention layers on L4 (3,950,592)."""
        refuse_plain_vit(self)
        self.neck: nn.Module = PyramidNeck(self.encoder.channels, CHANNELS)
        self.level4_attention = MapAttention(CHANNELS[3], HEADS, positions=self.coded)

    def _check_routing(self, image_size: Size) -> None:
        """ModelError if a level of such images has fewer cells than a query is routed to."""
        multiple = self.encoder.multiple
        coarsest = 2 * multiple if self.encoder.is_vit else multiple  # stride of L4
        strides = {"routed_l3": coarsest // 2, "routed_l4": coarsest}
        sides = padded_size(image_size, multiple)
        for option in counts(self.Options):
            wanted = getattr(self.options, option)
            height, width = (side // strides[option] for side in sides)
            if wanted > height * width:
                fewer = f" or {option}={height * width}" if height * width else ""
                raise ModelError(
                    f"{self.config.network} routes a query to {wanted} cells of a level that has "
                    f"{height}x{width} = {height * width} in images of "
                    f"{image_size[0]}x{image_size[1]}; use larger images{fewer}"
                )


@register("v13_calibrated", encoder=CONVNEXT_V2_TINY, image_size=(256, 320))
class V13Calibrated(V13):
    """Experiments 1 and 2: B1-B3, calibrated inverse depth; 34,167,251.

    They own the anchors' layer and the maps of B4, 209,664 parameters that nothing reads: those are
    frozen.
    """

    idea = "a query attends to 91 tokens around it, then to all of L4; calibrated inverse depth"
    calibrated = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.precompute = Precompute(self.coded, calibrated=True)
        self.precompute.anchors.requires_grad_(False)
        self.precompute.values.requires_grad_(False)
        self.b3 = B3("b3", "L4", routed=0, dropout=self.dropout)

    def projected(self, levels: Maps) -> dict[str, Tensor]:
        """B3's keys and values."""
        return self.precompute.b3_tokens(levels["L4"], "b3")

    def run(self, queries: Queries) -> Tensor:
        """B1, B2, B3 and the head."""
        h, tokens, pixels = self.b1(queries)
        h = self.b2(h, tokens, pixels, queries)
        h, _, _ = self.b3(h, queries)
        return self.depth(h, queries)


@register("v13_log_depth", encoder=CONVNEXT_V2_TINY, image_size=(256, 320))
class V13LogDepth(V13):
    """Experiments 3 and 4: B1-B5, log-depth; 35,661,609."""

    Options: ClassVar[type] = V13LogDepthOptions
    idea = "as v13_calibrated, then deformable reads around 32 routed cells of L4; log-depth"
    planned: ClassVar[bool] = False
    routed_levels = ("L4",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.precompute = Precompute(self.coded, self.calibrated)
        self.b3 = B3("b3", "L4", self.options.routed_l4, self.dropout)
        self.b4 = B4(self.planned)
        self.b5 = B5(1 if self.planned else 3, self.dropout)

    def projected(self, levels: Maps) -> dict[str, Tensor]:
        """B3's keys and values, the anchors and the value maps of B4."""
        precompute = self.precompute
        return {
            **precompute.b3_tokens(levels["L4"], "b3"),
            **self.b4.maps(precompute.anchors(levels["L4"]), self.fast),
            **precompute.values(levels),
        }

    def run(self, queries: Queries) -> Tensor:
        """B1 to B5 and the head."""
        h, tokens, pixels = self.b1(queries)
        h = self.b2(h, tokens, pixels, queries)
        h, cells, weights = self.b3(h, queries)
        routed = self.b4(h, cells, weights, queries)
        h = self.b5(h, {**tokens, "routed L4": routed}, queries)
        return self.depth(h, queries)


@register("v13_plan", encoder="vit_small_patch14_dinov2", image_size=(518, 518))
class V13Plan(V13LogDepth):
    """v13 as designed: a frozen ViT, calibrated; 4,143,275 trainable parameters.

    L4 is not attended to, offsets of B4 are not bounded, B5's layers share the norm of their
    tokens, attention has dropout, and routing passes a gradient to the weights it chose by.
    """

    Options = V13PlanOptions
    idea = "v13_log_depth as designed: behind a frozen ViT, calibrated inverse depth"
    dropout = 0.1
    planned = calibrated = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder.requires_grad_(False)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> the neck's levels [B, 64/128/192/384, h_l, w_l]."""
        return self.neck(self.encoder(images))

    def _add_neck(self) -> None:
        if not self.encoder.is_vit:
            raise ModelError(
                f"{self.config.network} reads four taps of a plain ViT; "
                f"{self.config.encoder.name!r} is hierarchical. Choose one such as "
                "'vit_small_patch14_dinov2', or the network v13_log_depth"
            )
        self.neck = PlanNeck(self.encoder.channels, CHANNELS)
