"""Depth Anything V2 Small: the dense baseline, which computes a whole depth map for every image.

A ViT is read after four blocks, and DPT fuses what it says into one map of depths at the size of
the image (Yang et al. 2024, arXiv 2406.09414; DPT: Ranftl et al. 2021, arXiv 2103.13413). A query
only reads this map. Layers, their order and their alignment are those of the published metric
networks, whose weights `load_published` reads.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.errors import ConfigError, ModelError, unknown_name
from spdlib.geometry import Size, size_of
from spdlib.inspection import Probe, Reads, Stage
from spdlib.models.base import Caption, DepthModel
from spdlib.models.encoders import EncoderConfig
from spdlib.models.layers import (
    MEDIAN_DEPTH,
    ResidualConvUnit,
    full_precision,
    start_at,
)
from spdlib.models.layouts import Layout, behind, copy_tensors, find_layout, read_weights
from spdlib.models.necks import four_sizes
from spdlib.models.options import Count, ModelConfig, Options
from spdlib.models.registry import create_model, register
from spdlib.models.sampling import bilinear_points
from spdlib.reading import read_json, reading
from spdlib.scene import Answer, Maps
from spdlib.settings import shown

WIDTH = 64
REASSEMBLED = (48, 96, 192, 384)
"""Channels of the four maps that the taps of a ViT become, fine to coarse."""


def aligned(x: Tensor, size: Size) -> Tensor:
    """Bilinear resize of [B, C, h, w] that keeps corners on corners, as the published network does.

    The house's own rule is `layers.resize`, by half pixels.
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class Reassembly(nn.Module):
    """Taps of a ViT at four sizes: Conv1x1, then x4, x2, x1 and x1/2 (1,678,560 for ViT-S)."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = zip(channels, REASSEMBLED, strict=True)
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c, width in pairs)
        self.resize = four_sizes(REASSEMBLED)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Taps [B, C, h, w] -> [B, 48, 4h, 4w], [96, 2h, 2w], [192, h, w], [384, ceil h/2, ...]."""
        layers = zip(self.project, self.resize, taps, strict=True)
        return [resize(project(tap)) for project, resize, tap in layers]


class Neck(nn.Module):
    """Four levels of 64 channels: Conv3x3 without bias each (2,093,280 for ViT-S).

    Taps of a plain ViT are reassembled first; the levels of other encoders have their sizes.
    """

    def __init__(self, channels: Sequence[int], vit: bool) -> None:
        super().__init__()
        self.reassemble = Reassembly(channels) if vit else nn.Identity()
        widths = REASSEMBLED if vit else channels
        self.convs = nn.ModuleList(nn.Conv2d(c, WIDTH, 3, padding=1, bias=False) for c in widths)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The encoder's levels [B, C_l, h_l, w_l], fine to coarse -> levels [B, 64, h_l, w_l]."""
        return [conv(x) for conv, x in zip(self.convs, self.reassemble(levels), strict=True)]


class FusionStage(nn.Module):
    """Adds a level to what was fused so far, then brings it to the next size (151,872)."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = ResidualConvUnit(WIDTH, F.relu)
        self.after = ResidualConvUnit(WIDTH, F.relu)
        self.project = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, fused: Tensor, size: Size, level: Tensor | None = None) -> Tensor:
        """Maps [B, 64, h, w] -> [B, 64, *size]."""
        if level is not None:
            fused = fused + self.beside(level)
        return self.project(aligned(self.after(fused), size))


class Fusion(nn.Module):
    """DPT's fusion of four levels from coarse to fine (607,488)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(FusionStage() for _ in range(4))
        # Nothing was fused before the coarsest level: its unit (73,856) never runs. The published
        # network carries it all the same; frozen, no optimizer or process waits for its gradient.
        self.stages[0].beside.requires_grad_(False)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels [B, 64, h_l, w_l], fine to coarse -> [B, 64, 2 h_1, 2 w_1]."""
        first, *others = self.stages
        *finer, coarsest = levels
        height, width = size_of(levels[0])
        sizes = [*map(size_of, reversed(finer)), (2 * height, 2 * width)]
        fused = first(coarsest, sizes[0])
        for stage, level, size in zip(others, reversed(finer), sizes[1:], strict=True):
            fused = stage(fused, size, level)
        return fused


class Head(nn.Module):
    """Depth of every pixel of the image (27,745), in at least float32, outside autocast.

    Answers lie between 0 and `max_depth` metres.
    """

    def __init__(self, max_depth: int) -> None:
        super().__init__()
        self.max_depth = max_depth
        self.conv1 = nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(WIDTH // 2, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 1, 1)
        self.start()

    def start(self) -> None:
        """Start the last layer anew: whatever it reads, the first answers are about 2.5 m.

        Where the largest depth is below 5 m, they are half of it.
        """
        share = min(MEDIAN_DEPTH / self.max_depth, 0.5)
        nn.init.normal_(self.conv3.weight, std=1e-3)
        start_at(self.conv3, math.log(share / (1 - share)))

    def forward(self, fused: Tensor, size: Size) -> Tensor:
        """Map [B, 64, h, w] -> depth [B, *size] in metres."""
        wide, no_autocast = full_precision(fused)
        with no_autocast:
            x = self.conv2(aligned(self.conv1(wide), size))
            return self.max_depth * torch.sigmoid(self.conv3(F.relu(x))).squeeze(1)


@dataclass(frozen=True)
class DAv2Options(Options):
    """Options of dav2_s.

    Attributes:
        max_depth: metres that no answer exceeds. Published are 20 (trained on Hypersim, indoors)
            and 80 (Virtual KITTI 2, streets).
    """

    max_depth: Count = 20


# The published pipeline scales the shorter side to 518, DINOv2's own, and rounds the longer one to
# patches of 14: 480x640 becomes 518x686.
@register("dav2_s", encoder="vit_small_patch14_dinov2", image_size=(518, 686))
class DAv2(DepthModel):
    """Encoder, DPT's neck, fusion and head; the scene holds the finished depth map."""

    Options = DAv2Options
    idea = "dense baseline, Depth Anything V2 Small: a query reads the image's finished depth map"
    has_dense = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.neck = Neck(self.encoder.channels, self.encoder.is_vit)
        self.fusion = Fusion()
        self.head = Head(self.options.max_depth)

    def maps(self, images: Tensor) -> Maps:
        """Padded images [B, 3, H, W] -> "depth" [B, H, W, 1] in metres, all there is to compute."""
        fused = self.fusion(self.neck(self.encoder(images)))
        return {"depth": self.head(fused, size_of(images)).unsqueeze(-1)}

    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """Depth [B, K], read bilinearly at points [B, K, 2] in pixels of the padded image."""
        return Answer(bilinear_points(maps["depth"], points, image_size).squeeze(-1))

    def decode_lattice(self, maps: Maps) -> Tensor:
        """Depth [B, H, W] at every pixel of the padded image."""
        return maps["depth"].squeeze(-1)

    def probes(self, maps: Maps, points: Tensor, image_size: Size) -> list[Probe]:
        """The one place where a query reads."""
        pixels = points.unsqueeze(2)
        weights = torch.ones_like(pixels[..., 0])
        return [Reads("read", "the finished depth map", pixels, weights, ("depth",), close=True)]

    def stages(self, image_size: Size | None = None) -> list[Stage]:
        """As for every network, and the read."""
        read = Stage("query", "read", "bilinear, of the depth map")
        return [*super().stages(image_size), read]

    def captions(self) -> dict[str, Caption]:
        """What a diagram says of the parts."""
        resized = "×4, ×2, ×1, ×½; 3×3" if self.encoder.is_vit else "3×3"
        return {
            **super().captions(),
            "neck": ("neck", resized),
            "fusion": ("fusion", "DPT, from coarse to fine"),
            "head": ("head", "3×3, 3×3, 1×1, sigmoid"),
        }


# -- published weights ------------------------------------------------------------------------

PUBLISHED = (
    Layout(  # transformers' DepthAnythingForDepthEstimation
        (r"neck\.fusion_stage\.layers\.\d\.projection\.weight",),
        (
            (r"^neck\.reassemble\.project\.(\d)", r"neck.reassemble_stage.layers.\1.projection"),
            (r"^neck\.reassemble\.resize\.(\d)", r"neck.reassemble_stage.layers.\1.resize"),
            (r"^fusion\.stages\.", "neck.fusion_stage.layers."),
            (r"\.beside\.conv", ".residual_layer1.convolution"),
            (r"\.after\.conv", ".residual_layer2.convolution"),
            (r"\.project\.", ".projection."),
        ),
    ),
    Layout(  # the authors' own repository
        (r"depth_head\.scratch\.refinenet\d\.out_conv\.weight",),
        (
            (r"^neck\.reassemble\.project\.", "projects."),
            (r"^neck\.reassemble\.resize\.", "resize_layers."),
            *((rf"^neck\.convs\.{n}", f"scratch.layer{n + 1}_rn") for n in range(4)),
            *((rf"^fusion\.stages\.{n}", f"scratch.refinenet{4 - n}") for n in range(4)),
            (r"\.beside\.", ".resConfUnit1."),
            (r"\.after\.", ".resConfUnit2."),
            (r"\.project\.", ".out_conv."),
            (r"^head\.conv1", "scratch.output_conv1"),
            (r"^head\.conv2", "scratch.output_conv2.0"),
            (r"^head\.conv3", "scratch.output_conv2.2"),
            (r"^", "depth_head."),
        ),
    ),
)
ENCODERS_PART = r"(backbone|pretrained)\."
"""Names of the encoder's tensors in both."""
SIZES = {384: "Small", 768: "Base", 1024: "Large", 1536: "Giant"}
"""Published networks by the width of their encoders."""
OUTPUTS = ("metric", "relative")
TAPS = (3, 6, 9, 12)
"""Blocks that version 2 is read after, counted from 1. Version 1 has the same tensors, but is read
after its last four."""


def load_published(
    path: str | Path,
    output: Literal["metric", "relative"],
    max_depth: int | None = None,
    *,
    image_size: Size | None = None,
    focal: float | None = None,
) -> DepthModel:
    """`dav2_s` with the weights of a published Depth Anything V2 Small, in evaluation mode.

    The file is one of Hugging Face's ("Depth-Anything-V2-...-Small-hf") or the authors' own .pth,
    converted to safetensors. Metric and relative weights have the same tensors, so the caller says
    which they are; a `config.json` of Hugging Face beside the file must agree.

    Relative weights are a start of training only: they answer disparity up to an unknown scale and
    shift. Their last layer is replaced by a fresh one, with a warning.

    Args:
        path: the file, or the folder that holds it as `model.safetensors`.
        output: what the weights answer.
        max_depth: metres of the largest depth; of metric weights the one they were trained with, 20
            (Hypersim) or 80 (Virtual KITTI 2). Default for relative ones: the network's own.
        image_size: height, width of images, as for `create_model`.
        focal: focal length in pixels of the images that the weights were trained on, if known.

    Raises:
        ConfigError: an unknown output, or metric weights without their largest depth.
        ModelError: a file that is missing, damaged, of another network or size, not finite, or
            whose `config.json` contradicts the arguments.
    """
    if output not in OUTPUTS:
        raise ConfigError(unknown_name("output", output, OUTPUTS))
    if output == "metric" and max_depth is None:
        raise ConfigError(
            "metric weights need max_depth, the one that they were trained with: 20 for those of "
            "Hypersim (indoors), 80 for those of Virtual KITTI 2 (streets)"
        )
    with reading(str(path), "is no path of a file", "check its name", ModelError):
        file = Path(path, "model.safetensors") if os.path.isdir(path) else Path(path)
    tensors, _ = read_weights(file)
    layout, prefix = _published_layout(file, tensors)
    _agree(file.with_name("config.json"), output, max_depth)
    encoder = EncoderConfig(DAv2.defaults[0], weights=str(file))
    options: dict[str, Any] = {} if max_depth is None else {"max_depth": max_depth}
    model = create_model("dav2_s", encoder, image_size=image_size, focal=focal, **options)
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("encoder.")}
    remedy = "give the whole file as it was published"
    copy_tensors(own, behind(prefix, tensors), layout, file, "dav2_s", remedy, ENCODERS_PART)
    if output == "metric":
        model.trained = f"Depth Anything V2 Small, {file.name}"
    else:
        cast(DAv2, model).head.start()
        warnings.warn(
            f"{file} holds relative weights: they answer disparity up to an unknown scale and "
            "shift (larger is nearer), no metres. The head's last layer was therefore started "
            "anew and must be trained",
            stacklevel=2,
        )
    return model.eval()


def _published_layout(file: Path, tensors: Mapping[str, Tensor]) -> tuple[Layout, str]:
    """Layout and prefix of a file. ModelError: of another network, or of another size."""
    found = find_layout(tensors, PUBLISHED)
    if found is None:
        raise ModelError(
            f"{file} holds no Depth Anything V2, by the names of its tensors; give the file of "
            "'depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf' or another of its kind, or "
            "a depth_anything_v2_..._vits.pth that was converted to safetensors"
        )
    layout, prefix = found
    (first,) = layout.names("neck.reassemble.project.0.weight")
    shape = tensors[prefix + first].shape if prefix + first in tensors else ()
    if len(shape) == 4 and shape[1] != 384:
        raise ModelError(
            f"{file} holds Depth Anything V2 {SIZES.get(shape[1], 'of another size')}, whose "
            f"encoder is {shape[1]} wide; dav2_s is the Small one, 384 wide: give its file"
        )
    return found


def _agree(config: Path, output: str, max_depth: int | None) -> None:
    """ModelError: a `config.json` of Hugging Face says something else of the weights."""
    if not config.is_file():
        return
    remedy = "restore it, or take the weights to a folder of their own"
    values = read_json(config, ModelError, remedy)
    if values.get("model_type") != "depth_anything":
        return
    with reading(config, "is no configuration of Depth Anything", remedy, ModelError):
        backbone = values.get("backbone_config") or {}
        blocks = backbone.get("out_indices") or list(TAPS)
    kind = values.get("depth_estimation_type", "relative")
    said: dict[str, tuple[Any, Any]] = {"depth_estimation_type": (kind, output)}
    said["out_indices"] = blocks, list(TAPS)
    if output == "metric":
        said["max_depth"] = values.get("max_depth", 1), max_depth
    for name, (theirs, ours) in said.items():
        if theirs != ours:
            known = "Depth Anything V2 Small has" if name == "out_indices" else "the caller says"
            raise ModelError(
                f"{config}: {name} is {shown(theirs)}, but {known} {ours!r}; "
                "say what the weights are, or give the right ones"
            )
