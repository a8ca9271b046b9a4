"""What every network shares: its configuration, input door, checkpoints and parameter table."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.disk import write_bytes
from spdlib.errors import ConfigError, ModelError, QueryError
from spdlib.geometry import Camera, Size
from spdlib.models.encoders import Encoder, EncoderConfig, add_state, padded_size
from spdlib.scene import Maps, Scene, refuse_outside

MAX_SIDE = 4096
"""Longest side, in pixels, that `encode` resizes an image to before it doubts the camera."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a network again.

    Attributes:
        network: registered name, for instance "v15_2".
        encoder: the encoder and its input.
        image_size: height, width in pixels of the images it is trained on.
        focal: focal length in pixels of those images; None until it is known.
        options: the network's own settings, for instance {"init": "recorded"}.
    """

    network: str
    encoder: EncoderConfig
    image_size: Size
    focal: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size: Any = self.image_size
        whole = isinstance(size, tuple | list) and all(type(side) is int for side in size)
        if not whole or len(size) != 2 or min(size) < 1:
            raise ConfigError(
                f"image_size must be height and width in whole pixels, both positive; got {size!r}"
            )
        if self.focal is not None and not self.focal > 0:
            raise ConfigError(f"focal must be a positive length in pixels; got {self.focal}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Inverse of `to_dict` after a trip through JSON."""
        encoder = EncoderConfig.from_dict(values["encoder"])
        return cls(**{**values, "encoder": encoder, "image_size": tuple(values["image_size"])})


class Prediction(NamedTuple):
    """What `forward` returns: depth in metres (float32) and auxiliary maps by name."""

    depth: Tensor
    auxiliary: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Version:
    """A network's configuration and weights at one moment, told from others without reading all.

    Writing into a tensor raises its version number, except by fused optimizers: one number of each
    parameter shows their steps. Anything else moves a tensor to other memory. A few numbers
    written through `.data` or NumPy may go unseen.

    Attributes:
        config: the configuration.
        tensors: address and version number of every parameter and buffer.
        sample: the first number of every parameter, on their device.
        memory: what the addresses are of, held so that nothing else can take them.
    """

    config: ModelConfig
    tensors: tuple[tuple[int, int], ...]
    sample: Tensor
    memory: tuple[Any, ...] = field(repr=False)

    @classmethod
    def of(cls, model: DepthModel) -> Version:
        """The present version of a network."""
        parameters = tuple(model.parameters())
        tensors = (*parameters, *model.buffers())
        # tensors made in inference mode have no version number
        numbers = ((x.data_ptr(), -1 if x.is_inference() else x._version) for x in tensors)
        sample = torch.cat([x.detach().as_strided((1,), (1,)) for x in parameters])
        memory = tuple(x.untyped_storage() for x in tensors)
        return cls(model.config, tuple(numbers), sample, memory)

    def __eq__(self, other: object) -> bool:
        """Whether neither configuration nor weights have changed in between."""
        return (
            isinstance(other, Version)
            and (self.config, self.tensors) == (other.config, other.tensors)
            and torch.equal(self.sample, other.sample)
        )


class DepthModel(nn.Module, ABC):
    """An encoder, a neck and a decoder that fill and read a `Scene`.

    A network implements `maps` (once per image), `decode` (per query) and, if it has one,
    `decode_lattice` (its own dense path).

    Attributes:
        idea: the network in one line, for tables.
        has_dense: whether there is a dense path.
        queries_are_independent: whether a point's depth is the same in any company.
        has_auxiliary: whether there are `auxiliary` maps.
        choices: allowed values of each of the network's options, the default first.
        counts: default of each option that is a whole number.
        order: names of the parts as `components` lists them; empty for the order of their making.
        options: the values of this network.
    """

    idea: ClassVar[str]
    has_dense: ClassVar[bool] = False
    queries_are_independent: ClassVar[bool] = True
    has_auxiliary: ClassVar[bool] = False
    choices: ClassVar[Mapping[str, Sequence[str]]] = {}
    counts: ClassVar[Mapping[str, int]] = {}
    order: ClassVar[Sequence[str]] = ()
    encoder: Encoder

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.options = read_options(config.network, config.options, self.choices, self.counts)
        self.encoder = Encoder(config.encoder)
        # with all options: a checkpoint means the same when a default has changed
        self.config = replace(config, encoder=self.encoder.config, options=self.options)

    @abstractmethod
    def maps(self, images: Tensor) -> Maps:
        """Padded images [B, 3, H, W] in 0..1 -> channels-last maps by name."""

    @abstractmethod
    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Tensor:
        """Depth [B, K] in metres at points [B, K, 2] in pixels of the padded image."""

    def decode_lattice(self, maps: Maps) -> Tensor:
        """Depth [B, h, w] in metres at the network's own dense sites."""
        raise ModelError(f"{self.config.network} has no dense path; ask its points instead")

    def auxiliary(self, maps: Maps) -> dict[str, Tensor]:
        """Depth maps [B, h, w] in metres by name that training's losses read besides the answers.

        `forward` asks for them in training mode only; most networks have none.
        """
        return {}

    def forward(self, images: Tensor, points: Tensor | None = None) -> Prediction:
        """Training's path: encode and decode without a scene.

        Args:
            images: [B, 3, H, W] in 0..1, H and W multiples of the encoder's (`pad` them).
            points: [B, K, 2] pixels of these images; None asks the network's dense sites.

        Returns:
            Prediction with depth [B, K], or [B, h, w] without points, and in training mode the
            `auxiliary` maps; metres, float32.

        Raises:
            ModelError: a size that is not a multiple of the encoder's.
            QueryError: points of another shape, or outside the images.
        """
        size = (images.shape[-2], images.shape[-1])
        if size != padded_size(size, self.encoder.multiple):
            raise ModelError(
                f"{self.config.network} with {self.config.encoder.name} takes sizes that are "
                f"multiples of {self.encoder.multiple}; got {size[0]}x{size[1]}. "
                "Use `pad` or `encode`"
            )
        if points is not None:
            _check_points(points, len(images), size)
        maps = self.maps(images)
        depth = self.decode_lattice(maps) if points is None else self.decode(maps, points, size)
        return Prediction(depth, self.auxiliary(maps) if self.training else {})

    def pad(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] replicate-padded right and bottom to the encoder's multiple."""
        height, width = padded_size((images.shape[-2], images.shape[-1]), self.encoder.multiple)
        padding = (0, width - images.shape[-1], 0, height - images.shape[-2])
        return F.pad(images, padding, mode="replicate") if any(padding) else images

    @torch.no_grad()
    def encode(self, image: Any, camera: Camera | None = None, *, squash: bool = False) -> Scene:
        """Encode an image, or a batch of equal size, once; the scene answers depth queries.

        The aspect is kept. With a camera the image is resized so that its focal length in pixels
        matches the one this network was trained with; without, so that its height does
        (`scene.camera_assumed` says what that assumes). Points stay in the caller's pixels.

        Args:
            image: PIL image, uint8 [H, W, 3], float [3, H, W] or [B, 3, H, W] in 0..1; RGB.
            camera: the image's pinhole camera.
            squash: press the image into the training size, whatever its aspect and focal length:
                the recorded fault F1, for ablations.

        Raises:
            QueryError: a grey or RGBA image, values outside 0..1, a camera of another size, or a
                resized image longer than `MAX_SIDE` or smaller than the encoder's multiple.
        """
        images = as_images(image).to(self.device, self.dtype)
        size = (images.shape[-2], images.shape[-1])
        resized, assumed = self._network_size(size, camera)
        if squash:
            resized, assumed = self.config.image_size, "squashed to the training size, as recorded"
        if resized != size:
            images = F.interpolate(images, size=resized, mode="bilinear", antialias=True)
        padded = self.pad(images).contiguous(memory_format=torch.channels_last)
        with evaluating(self):
            # under autocast too: a scene is asked later, perhaps outside it
            maps = {name: level.to(self.dtype) for name, level in self.maps(padded).items()}
        covered = (padded.shape[-2], padded.shape[-1])
        return Scene(self, maps, size, resized, covered, camera, assumed, self.version())

    def _network_size(self, size: Size, camera: Camera | None) -> tuple[Size, str | None]:
        """Size to resize an image to, and what had to be assumed about its camera."""
        if not (camera is None or isinstance(camera, Camera)):
            kind = type(camera).__name__
            raise QueryError(f"a camera is one spdlib.Camera for all images of a batch; got {kind}")
        if camera is not None and camera.size != size:
            raise QueryError(
                f"the camera is of a {camera.height}x{camera.width} image, the image is "
                f"{size[0]}x{size[1]}; use camera.resized or camera.cropped as the image was"
            )
        focal, scale = self.config.focal, self.config.image_size[0] / size[0]
        assumed: str | None = "scale unknown: the network was not told its training focal length"
        if camera is not None and focal is not None:
            scale, assumed = focal / camera.focal, None
        elif focal is not None:
            assumed = f"focal length {focal / scale:.1f} px, as in training at this height"
        resized = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        least = self.encoder.multiple
        if max(resized) > MAX_SIDE or min(resized) < least:
            limit = f"beyond {MAX_SIDE}" if max(resized) > MAX_SIDE else f"below {least}"
            wanted = f"the image would be resized to {resized[0]}x{resized[1]} to match training"
            remedy = f"is the focal length of {camera} in pixels?" if camera else "crop it"
            raise QueryError(f"{wanted}, {limit} px a side; {remedy}")
        return resized, assumed

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return next(self.parameters()).dtype

    def components(self) -> dict[str, nn.Module]:
        """Named parts of the network, in order of use (`order`, or that of their making)."""
        parts = dict(self.named_children())
        return {name: parts[name] for name in self.order or parts if name in parts}

    def parameter_table(self) -> pd.DataFrame:
        """DataFrame with columns component, parameters; the last row is the total."""
        counts = {name: count_parameters(part) for name, part in self.components().items()}
        counts["total"] = count_parameters(self)
        return pd.DataFrame({"component": list(counts), "parameters": list(counts.values())})

    def parameter_groups(
        self, encoder_lr: float, decoder_lr: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Optimiser groups "encoder" and "decoder" of the trainable parameters."""
        inside = {id(p) for p in self.encoder.parameters()}
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        decoder = [p for p in self.parameters() if id(p) not in inside and p.requires_grad]
        common = {"weight_decay": weight_decay}
        return [
            {"name": "encoder", "params": encoder, "lr": encoder_lr, **common},
            {"name": "decoder", "params": decoder, "lr": decoder_lr, **common},
        ]

    def fingerprint(self) -> str:
        """SHA-256 of the configuration and all weights, in hexadecimal."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        add_state(digest, self)
        return digest.hexdigest()

    def version(self) -> Version:
        """Configuration and weights as they are now; equal to an earlier one if neither changed."""
        return Version.of(self)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder, each by rename.

        Raises:
            ModelError: the folder cannot be written; files already there stay as they were.
        """
        folder = Path(folder)
        config = json.dumps(self.config.to_dict(), indent=2)
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        weights = safetensors.torch.save(state, {"config": config})
        write_bytes(folder / "model.safetensors", weights, ModelError)
        write_bytes(folder / "config.json", config.encode(), ModelError)


def load_weights(model: DepthModel, folder: Path) -> None:
    """Load `model.safetensors` strictly, in the floating type of the file.

    Raises:
        ModelError: missing or damaged file, or weights of another network.
    """
    path = folder / "model.safetensors"
    try:
        state = safetensors.torch.load_file(path)
        kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
        if len(kinds) == 1:
            model.to(kinds.pop())
        model.load_state_dict(state, strict=True)
    except FileNotFoundError:
        raise ModelError(f"no model.safetensors in {folder}; is it a saved model?") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}); take another checkpoint") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} holds the weights of another network than its config.json says "
            f"({model.config.network!r} with {model.config.encoder.name!r}): {reason}"
        ) from None


def read_config(folder: Path) -> ModelConfig:
    """The `config.json` of a saved model; ModelError names the file if it cannot be used."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())
        if "experiment" in values:
            raise ModelError(
                f"{folder} is a run without weights; train it, or take another run's folder"
            )
        return ModelConfig.from_dict(values)
    except FileNotFoundError:
        raise ModelError(f"no config.json in {folder}; is it a saved model?") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a model configuration ({error}); take another checkpoint"
        ) from None


def _check_points(points: Tensor, images: int, size: Size) -> None:
    """QueryError unless points are [images, K, 2] inside images of a size."""
    if not isinstance(points, Tensor):
        raise QueryError(f"points are a tensor [{images}, K, 2]; got {type(points).__name__}")
    if points.dim() != 3 or points.shape[::2] != (images, 2) or points.shape[1] == 0:
        shape = list(points.shape)
        raise QueryError(f"points of {images} images are [{images}, K, 2], K > 0; got {shape}")
    refuse_outside(points, size)


def read_options(
    network: str,
    given: Mapping[str, Any],
    choices: Mapping[str, Sequence[str]],
    counts: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """A network's settings: those that are given, and the first choice of every other.

    Args:
        network: its registered name, for the message.
        given: settings by name.
        choices: allowed values of every setting the network has.
        counts: default of every setting that is a whole number from 1.

    Raises:
        ConfigError: a setting or value the network does not have; the message lists those it has.
    """
    counts = counts or {}
    for name, value in given.items():
        if name not in choices and name not in counts:
            raise ConfigError(
                f"{network} has no option {name!r} (given as {value!r}); it takes "
                f"{', '.join([*choices, *counts])}"
            )
        if name in choices and value not in choices[name]:
            raise ConfigError(
                f"{network} option {name}={value!r} is not one of {', '.join(choices[name])}"
            )
        if name in counts and (type(value) is not int or value < 1):
            raise ConfigError(f"{network} option {name}={value!r} is not a whole number from 1")
    chosen = {name: str(given.get(name, values[0])) for name, values in choices.items()}
    return {**chosen, **{name: given.get(name, count) for name, count in counts.items()}}


def refuse_plain_vit(network: DepthModel) -> None:
    """ModelError if a network that reads a hierarchical encoder's levels was given a plain ViT."""
    if network.encoder.is_vit:
        raise ModelError(
            f"{network.config.network} reads levels at strides 4, 8, 16 and 32, which the plain "
            f"ViT {network.config.encoder.name!r} does not have; choose a hierarchical encoder, "
            "for instance 'convnextv2_tiny' or 'mobilenetv2_100'"
        )


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trainable or not."""
    return sum(p.numel() for p in module.parameters())


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of a block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def as_images(image: Any) -> Tensor:
    """Any accepted image -> float [B, 3, H, W] in 0..1.

    Raises:
        QueryError: wrong shape, channels, type or range; the message says what was given.
    """
    if isinstance(image, Image.Image):
        if image.mode != "RGB":
            raise QueryError(f"the image is {image.mode}, not RGB; use image.convert('RGB')")
        image = np.array(image)
    tensor = _array_to_tensor(image) if isinstance(image, np.ndarray) else image
    if not isinstance(tensor, Tensor):
        kind = type(image).__name__
        raise QueryError(f"an image is a PIL image, an array or a tensor; got {kind}")
    if tensor.dtype == torch.uint8:
        tensor = _bytes_to_float(tensor)
    elif not tensor.is_floating_point():
        raise QueryError(f"images are uint8 or float in 0..1; got {tensor.dtype}")
    if tensor.dim() == 3:
        tensor = tensor.unsqueeze(0)
    if tensor.dim() != 4 or tensor.shape[1] != 3 or 0 in tensor.shape:
        raise QueryError(
            f"images are RGB: uint8 [H, W, 3], float [3, H, W] or [B, 3, H, W]; got shape "
            f"{list(tensor.shape)}. Convert grey or RGBA images to RGB"
        )
    low, high = tensor.min().item(), tensor.max().item()
    if math.isnan(low):
        raise QueryError("the image holds NaN; images are finite, float in 0..1 or uint8")
    if not (low >= 0 and high <= 1):
        raise QueryError(f"float images lie in 0..1; this one spans {low:.3g}..{high:.3g}")
    return tensor


def _array_to_tensor(array: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(array.copy())  # the caller's array may be read-only or reversed
    except TypeError:
        raise QueryError(f"images are uint8 or float in 0..1; got {array.dtype}") from None


def _bytes_to_float(tensor: Tensor) -> Tensor:
    """uint8 [H, W, 3] or [B, 3, H, W] -> float [3, H, W] or [B, 3, H, W] in 0..1."""
    if tensor.dim() == 3 and tensor.shape[-1] == 3:
        tensor = tensor.permute(2, 0, 1)
    elif tensor.dim() != 4:
        raise QueryError(
            f"uint8 images are RGB [H, W, 3] or [B, 3, H, W]; got shape {list(tensor.shape)}. "
            "Convert grey or RGBA images to RGB"
        )
    return tensor.float() / 255
