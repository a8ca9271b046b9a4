"""Encoders: timm networks -> four feature levels.

Hierarchical networks give their levels at strides 4, 8, 16 and 32; plain ViTs give four taps at the
patch stride. Weights come from timm by name or from a local safetensors file. The input mean, std
and convolution padding belong to the weights: wrong ones load without a word and shift or rescale
every map, so they are part of `EncoderConfig` and must be said for a file that does not carry them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from huggingface_hub import constants, get_session, try_to_load_from_cache
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.disk import file_hash
from spdlib.errors import ConfigError, ModelError
from spdlib.geometry import Size
from spdlib.models.layers import full_precision
from spdlib.reading import read_tensors, reading
from spdlib.sealed import state_hash
from spdlib.settings import check, require, shown

STRIDES = (4, 8, 16, 32)
PADDINGS = {"same": 0.5, "symmetric": -0.5, "patch": 0.0}
"""Name of a padding -> displacement of a level in units of its stride less 1."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONVNEXT_V2_TINY = "convnextv2_tiny.fcmae_ft_in22k_in1k"
"""The encoder of the networks before v15."""
HUB_SECONDS = 5
"""How long the weights' host may take to answer at all."""
_PAD_TYPE_FAMILIES = ("mobilenet", "efficientnet", "tf_", "mnasnet", "fbnet", "tinynet", "lcnet")
_PADDING_OF = {
    "vit_": "patch",
    r"convnext(v2)?_(?!.*_(ols|rms))": "patch",
    "edgenext_": "patch",
    r"resnet\d+(\.|$)": "symmetric",
}
"""Families that are built in one way, by the start of their timm names. `resnet10t` is none of
them: its shortcuts average 2x2 cells, so that two centres meet."""
_HEAD_KEY = re.compile(r"(head|classifier|fc|conv_head|bn2|norm_head|norm)\.|mask_token")


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, with which weights, and the input those weights were trained on.

    Attributes:
        name: timm name, for instance "vit_small_patch14_dinov2" or "mobilenetv2_100".
        pretrained: load timm's own weights for `name` (needs a network or timm's cache).
        weights: local safetensors file with timm keys; excludes `pretrained`.
        mean, std: RGB statistics of 0..1 images; None takes timm's for `name`.
        input_norm: "weights" normalises images by these statistics, as the weights expect; "none"
            shows them as they are, which experiments 1 to 5 did (F12).
        padding: where strided convolutions centre their windows. "same": TensorFlow's padding;
            "symmetric": PyTorch's; "patch": windows that do not overlap (ViT, ConvNeXt). None
            takes the usual one of families that are trained with either, such as MobileNet.
            Others are built in one way: theirs may be left out, and is refused if it is wrong.
        taps: blocks a plain ViT is read after (0-based).
        train_batchnorm: update BatchNorm statistics in training.
        weights_sha256: hash of the file `weights` was read from; filled in when it is loaded.
    """

    name: str
    pretrained: bool = False
    weights: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    input_norm: Literal["weights", "none"] = "weights"
    padding: str | None = None
    taps: tuple[int, ...] = (2, 5, 8, 11)
    train_batchnorm: bool = False
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        check(self)
        require(
            not (self.pretrained and self.weights),
            f"encoder {self.name!r}: pretrained=True and weights={self.weights!r} exclude each "
            "other; keep one",
        )
        possible_std = self.std is None or all(1e-3 <= x <= 1e3 for x in self.std)
        possible_mean = self.mean is None or all(abs(x) <= 1e3 for x in self.mean)
        require(
            possible_std and possible_mean,
            f"mean={self.mean}, std={self.std}: an encoder's mean and std are those of RGB images "
            "in 0..1",
        )
        four = len(self.taps) == 4 and min(self.taps) >= 0
        require(four, f"a ViT is read at four taps, counted from 0; got {shown(self.taps)}")
        possible = _paddings(self.name)
        require(
            self.padding in (None, *possible),
            f"encoder {self.name!r} cannot have padding {self.padding!r}; it takes "
            + " or ".join(map(repr, possible)),
        )


class Encoder(nn.Module):
    """Four feature levels of a timm network, with its input normalisation.

    Attributes:
        config: the completed configuration: mean, std and weights hash filled in, and padding
            where it is a choice.
        channels: channels of the four levels.
        multiple: image sizes must be multiples of this: the largest stride, or a ViT's patch.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        _require_known(config.name)
        tensors, known = _read_weights(config) if config.weights else (None, _timms(config.name))
        self.config = _complete(config, known)
        self.body, self.channels, self.multiple = _build(self.config)
        self.is_vit = isinstance(self.body, VisionTransformer)
        if tensors is not None:
            _load_strictly(self.body, tensors, str(config.weights))
        for name, value in (("mean", self.config.mean), ("std", self.config.std)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """RGB images [B, 3, H, W] in 0..1 -> four levels [B, C_l, h_l, w_l], finest first."""
        if self.config.input_norm == "weights":
            images = (images - self.mean) / self.std
        if isinstance(self.body, VisionTransformer):
            return vit_taps(self.body, images, self.config.taps)
        return list(self.body(images))

    def train(self, mode: bool = True) -> Encoder:
        """Switch to training; BatchNorm stays in eval mode unless `train_batchnorm`."""
        super().train(mode)
        if not self.config.train_batchnorm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def insert(self, between: Callable[[Tensor], Tensor]) -> None:
        """Apply a module to level 3, [B, C, h, w], before stage 4.

        Raises:
            ModelError: a plain ViT, which has no stages.
        """
        if self.is_vit:
            raise ModelError(
                f"encoder {self.config.name!r} has no stages to insert a module between; "
                "choose a hierarchical one"
            )
        info: Any = self.body.feature_info
        name, known = info.module_name()[2], dict(self.body.named_modules())
        stage = known.get(name) or known[name.replace(".", "_")]  # timm may flatten "stages.2"
        object.__setattr__(stage, "between", between)  # not registered: it is the network's part
        stage.register_forward_hook(_change)

    @property
    def displacement(self) -> list[float | None]:
        """Pixels by which each level's receptive fields lie right of and below the grid rule.

        With stride s the rule expects cell i at s i + (s - 1)/2. TensorFlow padding centres it at
        s i + s - 1, symmetric padding at s i; windows that do not overlap sit on the rule. None for
        families whose padding is not known.
        """
        possible = _paddings(self.config.name)
        padding = self.config.padding or (possible[0] if len(possible) == 1 else None)
        if padding is None:
            return [None] * len(STRIDES)
        return [PADDINGS[padding] * (stride - 1) for stride in STRIDES]

    def fingerprint(self) -> str:
        """SHA-256 of all weights, in hexadecimal, wherever they came from."""
        return state_hash(self.body.state_dict())


def _change(stage: Any, _inputs: object, level: Tensor) -> Tensor:
    """What a stage's own `between` makes of its level; a copy of the network has its own."""
    return stage.between(level)


def vit_taps(vit: VisionTransformer, images: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """Feature maps [B, C, h, w] after the blocks `taps` of a timm ViT, through its final norm.

    The position table is resized bicubically to the token grid, half-pixel rule, no antialiasing,
    as `transformers` does for DINOv2; timm itself would antialias.
    """
    patch = vit.patch_embed.patch_size
    h, w = images.shape[-2] // patch[0], images.shape[-1] // patch[1]
    tokens = vit.patch_embed.norm(vit.patch_embed.proj(images).flatten(2).transpose(1, 2))
    tokens = vit.norm_pre(_add_positions(vit, tokens, (h, w)))
    levels = {}
    for number, layer in enumerate(vit.blocks[: max(taps) + 1]):
        tokens = layer(tokens)
        if number in taps:
            spatial = vit.norm(tokens)[:, vit.num_prefix_tokens :]
            levels[number] = spatial.transpose(1, 2).unflatten(2, (h, w))
    return [levels[tap] for tap in taps]


def _add_positions(vit: VisionTransformer, tokens: Tensor, grid: Size) -> Tensor:
    """Tokens [B, h * w, C] with positions added and the class and register tokens in front."""
    assert vit.pos_embed is not None  # such networks are refused when they are built
    prefix = vit.num_prefix_tokens
    embed, _ = full_precision(vit.pos_embed)
    count = 0 if vit.no_embed_class else prefix
    table = embed[:, count:].unflatten(1, vit.patch_embed.grid_size).permute(0, 3, 1, 2)
    if table.shape[-2:] != grid:
        table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
    spatial = table.flatten(2).transpose(1, 2).to(tokens.dtype)
    start = [t.expand(len(tokens), -1, -1) for t in (vit.cls_token, vit.reg_token) if t is not None]
    if not start:
        return tokens + spatial
    head = torch.cat(start, 1)
    if count:
        head = head + embed[:, :count].to(tokens.dtype)
    return torch.cat([head, tokens + spatial], 1)


def _build(config: EncoderConfig) -> tuple[nn.Module, list[int], int]:
    """Body, channels of its levels, and the multiple that image sizes must keep."""
    if config.name.startswith("vit_"):
        return _build_vit(config)
    options: dict[str, Any] = {"features_only": True, "out_indices": (-4, -3, -2, -1)}
    if config.name.startswith(_PAD_TYPE_FAMILIES):
        options["pad_type"] = "same" if config.padding == "same" else ""
    body = _create(config, **options)
    strides = tuple(body.feature_info.reduction())
    if strides != STRIDES:
        raise ModelError(f"encoder {config.name!r} has levels at strides {strides}, not {STRIDES}")
    if getattr(timm.get_pretrained_cfg(config.name), "fixed_input_size", False):
        raise ModelError(f"encoder {config.name!r} takes one image size only; choose a ConvNet")
    return body, body.feature_info.channels(), STRIDES[-1]


def _build_vit(config: EncoderConfig) -> tuple[nn.Module, list[int], int]:
    body = _create(config, num_classes=0)
    if not isinstance(body, VisionTransformer) or body.pos_embed is None:
        raise ModelError(f"encoder {config.name!r} is not a plain ViT with a position table")
    if max(config.taps) >= len(body.blocks):
        raise ModelError(
            f"encoder {config.name!r} has {len(body.blocks)} blocks; taps {config.taps} need more"
        )
    return body, [body.embed_dim] * 4, body.patch_embed.patch_size[0]


def _create(config: EncoderConfig, **options: Any) -> Any:
    """Timm's network; ModelError with the remedy if it or its weights cannot be had."""
    hub = getattr(timm.get_pretrained_cfg(config.name), "hf_hub_id", None)
    try:
        if config.pretrained and hub:
            _require_hub(hub)
        return timm.create_model(config.name, pretrained=config.pretrained, **options)
    except Exception as error:
        if not config.pretrained:
            raise ModelError(f"timm cannot build encoder {config.name!r}: {error}") from error
        raise ModelError(
            f"the weights of {config.name!r} could not be fetched ({type(error).__name__}). "
            f"Download 'model.safetensors' of '{hub or config.name}' where there is a network, and "
            "name the file with --weights or in SPD_WEIGHTS, or pass "
            f"EncoderConfig({config.name!r}, weights='model.safetensors', mean={config.mean}, "
            f"std={config.std}, padding={config.padding!r})"
        ) from error


def _require_known(name: str) -> None:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        closest = f"near ones are {near}" if near else "timm.list_models() names all"
        raise ModelError(f"timm knows no encoder {name!r}; {closest}")
    with reading(f"encoder {name!r}", "is unknown to timm", "correct it", ModelError):
        timm.get_pretrained_cfg(name)


def _require_hub(hub: str) -> None:
    """Raise within seconds where the hub cannot be reached; its own client tries for minutes."""
    files = ("model.safetensors", "pytorch_model.bin")
    kept = any(try_to_load_from_cache(hub, file) for file in files)
    if not kept and not constants.HF_HUB_OFFLINE:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)


def _paddings(name: str) -> tuple[str, ...]:
    """Paddings that may be said of a network; all of a family that is not known."""
    if name.startswith(_PAD_TYPE_FAMILIES):
        return ("same", "symmetric")
    for family, padding in _PADDING_OF.items():
        if re.match(family, name):
            return (padding,)
    return tuple(PADDINGS)


def _timms(name: str) -> dict[str, Any]:
    """Mean, std and, where it is a choice, padding that timm's weights were trained with."""
    cfg = timm.get_pretrained_cfg(name)
    known: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if cfg:
        known = {"mean": tuple(cfg.mean), "std": tuple(cfg.std)}
    if name.startswith(_PAD_TYPE_FAMILIES):
        known["padding"] = "same" if name.startswith("tf_") else "symmetric"
    return known


def _complete(config: EncoderConfig, known: dict[str, Any]) -> EncoderConfig:
    """Fill in what is known of the weights: mean, std, padding and the file's hash."""
    if config.weights:
        config = replace(config, weights=Path(config.weights).name)  # records hold no paths
    if config.name.startswith("vit_"):
        known["padding"] = "patch"
    chosen = config.name.startswith(_PAD_TYPE_FAMILIES)
    needed = ("mean", "std", "padding") if chosen else ("mean", "std")
    missing = [k for k in needed if getattr(config, k) is None and k not in known]
    if missing:
        raise ConfigError(
            f"{config.weights} does not say which {', '.join(missing)} its weights were trained "
            "with; pass them in EncoderConfig (wrong ones load silently and spoil every map)"
        )
    if config.weights or config.pretrained:
        for key in ("mean", "std", "padding"):
            if key in known and getattr(config, key) not in (None, known[key]):
                raise ConfigError(
                    f"encoder {config.name!r}: {key}={getattr(config, key)!r} contradicts its "
                    f"weights, which were trained with {known[key]!r}; leave {key} out"
                )
    return replace(config, **{k: v for k, v in known.items() if getattr(config, k) is None})


def _read_weights(config: EncoderConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of the weights file, its hash, and mean, std and padding as far as it names them."""
    path = Path(str(config.weights))
    if not os.path.exists(path):  # which, unlike Path, takes any name
        raise ModelError(
            f"no encoder weights at {path}; place a safetensors file with timm keys for "
            f"{config.name!r} there or correct the path"
        )
    tensors, metadata = read_tensors(path, ModelError, "fetch it again")
    known: dict[str, Any] = {"weights_sha256": file_hash(path)}
    known |= {key: metadata[key] for key in ("mean", "std", "padding") if key in metadata}
    for key in known.keys() & {"mean", "std"}:
        try:
            known[key] = tuple(float(x) for x in metadata[key].strip("[]() ").split(","))
        except ValueError:
            raise ConfigError(f"{path}: {key} {metadata[key]!r} is not three numbers") from None
    try:
        EncoderConfig(config.name, **known)
    except ConfigError as error:
        raise ConfigError(f"{path}: its metadata are wrong ({error}); fetch it again") from None
    return tensors, known


def _load_strictly(body: nn.Module, tensors: dict[str, Tensor], path: str) -> None:
    """Load every parameter and buffer of `body`; only a classifier's keys may be left over."""
    own = body.state_dict()
    renamed = {_feature_key(key, own): value for key, value in tensors.items()}
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - renamed.keys() - counters)
    extra = sorted(k for k in renamed.keys() - own.keys() if not _HEAD_KEY.match(k))
    wrong = sorted(k for k in own.keys() & renamed.keys() if own[k].shape != renamed[k].shape)
    if missing or extra or wrong:
        raise ModelError(
            f"{path} does not fit this encoder: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}, {len(wrong)} of another shape {wrong[:3]}; "
            "give the file of the same timm network"
        )
    for key, tensor in own.items():
        if key in renamed:
            if not torch.isfinite(renamed[key].float()).all():
                raise ModelError(f"{path}: tensor {key!r} holds NaN or infinity; fetch it again")
            tensor.copy_(renamed[key])


def _feature_key(key: str, own: dict[str, Tensor]) -> str:
    """The name `stages_0.x` that timm's feature extractors give to `stages.0.x`; both are taken."""
    flat = re.sub(r"^([^.]*)\.(\d+)\.", r"\1_\2.", key)
    return flat if key not in own and flat in own else key


def padded_size(size: Size, multiple: int) -> Size:
    """The smallest size that holds `size` and is a multiple of `multiple` both ways."""
    return math.ceil(size[0] / multiple) * multiple, math.ceil(size[1] / multiple) * multiple
