"""What every network shares: forms of execution, encoding, training's path and its parts."""

from __future__ import annotations

import contextlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar, cast

import pandas as pd
import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.disk import write_bytes
from spdlib.errors import ConfigError, ModelError, QueryError, unknown_name
from spdlib.geometry import Camera, Size, size_of
from spdlib.inspection import Probe, Stage
from spdlib.models.encoders import Encoder, padded_size
from spdlib.models.images import as_images
from spdlib.models.options import MAX_SIDE, ModelConfig, Options, read_options
from spdlib.scene import Answer, Maps, Scene, refuse_outside
from spdlib.sealed import seal, state_hash

EXECUTIONS = ("fast", "reference")
"""Forms in which a network may compute the same answers."""

Part = TypeVar("Part", bound=nn.Module)

Caption = tuple[str, str]
"""Title of a part and what it does, in a few words."""


class Prediction(NamedTuple):
    """What `forward` returns: depth in metres (float32) and auxiliary maps by name."""

    depth: Tensor
    auxiliary: dict[str, Tensor]


class DepthModel(
    nn.Module,
    ModelHubMixin,
    ABC,
    library_name="spdlib",
    pipeline_tag="depth-estimation",
    license="apache-2.0",
):
    """An encoder, a neck and a decoder that fill and read a `Scene`.

    `push_to_hub("user/name")` publishes the files that `save` writes, with a model card, and
    `DepthModel.from_pretrained("user/name")` loads them (huggingface_hub).

    A network implements `maps` (once per image), `decode` (per query) and, if it has one,
    `decode_lattice` (its own dense path). Many have two forms of one function: "fast" does the
    same sums in another order than "reference", which is how the papers and documents write them.

    Attributes:
        Options: dataclass of the network's own settings.
        idea: the network in one line, for tables.
        defaults: its encoder, a timm name, and its image size, unless others are given.
        has_dense: whether there is a dense path.
        queries_are_independent: whether a point's depth is the same whatever points share its call.
        has_auxiliary: whether there are `auxiliary` maps.
        recorded_points: queries per frame that the recorded runs of its kind were scored with.
        routed_levels: levels to some of whose cells a query is routed.
        maps_depend_on_execution: whether the two forms read different maps.
        options: this network's settings, an instance of `Options`.
        trained: by what it was trained, for instance "v15_2, 2,000 steps"; None for random weights.
    """

    Options: ClassVar[type] = Options
    idea: ClassVar[str]
    defaults: ClassVar[tuple[str, Size]]
    has_dense: ClassVar[bool] = False
    queries_are_independent: ClassVar[bool] = True
    has_auxiliary: ClassVar[bool] = False
    recorded_points: ClassVar[int] = 128
    routed_levels: ClassVar[tuple[str, ...]] = ()
    maps_depend_on_execution: ClassVar[bool] = False
    encoder: Encoder

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.options: Any = read_options(self.Options, config.options, config.network)
        self.encoder = Encoder(config.encoder)
        # with all options: a checkpoint means the same when a default has changed
        self.config = replace(config, encoder=self.encoder.config, options=asdict(self.options))
        self._execution = EXECUTIONS[0]
        self.trained: str | None = None
        self._warned = False

    def __repr__(self) -> str:
        height, width = self.config.image_size
        state = f"trained: {self.trained}" if self.trained else "untrained"
        return f"{self.config.network}({self.config.encoder.name}, {height}x{width}, {state})"

    def warn_untrained(self, stacklevel: int) -> None:
        """Warn, once, that the depths of an untrained network mean nothing."""
        if self.trained is None and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self!r} answers from random weights: train it, or `load` a trained one",
                stacklevel=stacklevel + 1,
            )

    @property
    def execution(self) -> str:
        """How queries are computed: "fast" (the default) or "reference"; answers are the same.

        It may change at any time and is part of neither configuration nor fingerprint.
        """
        return self._execution

    @execution.setter
    def execution(self, form: str) -> None:
        """Choose how queries are computed; ConfigError: there is no such form."""
        if form not in EXECUTIONS:
            raise ConfigError(unknown_name("execution", form, EXECUTIONS))
        self._execution = form

    @property
    def fast(self) -> bool:
        """Whether queries are computed in the fast form."""
        return self._execution == "fast"

    def captions(self) -> dict[str, Caption]:
        """Title and a few words on components, for diagrams, in order of use.

        Those left out come last, under their own names.
        """
        return {"encoder": ("encoder", self.encoder.config.name.replace("_", " "))}

    def stages(self, image_size: Size | None = None) -> list[Stage]:
        """What runs once per image and what per query, found by watching the parts run.

        The image has the training size or another one, padded as `encode` would.
        """
        images, network = self.blank(image_size), self.in_evaluation()
        with torch.no_grad():
            with running(network.components()) as once:
                maps = network.maps(images)
            with running(network.components()) as each:
                network.decode(maps, images.new_zeros(1, 1, 2), size_of(images))
        captions = self.captions()
        found = []
        for name, part in self.components().items():
            if name in once | each:
                title, detail = captions.get(name, (name.replace("_", " "), type(part).__name__))
                when: Literal["image", "query"] = "query" if name in each else "image"
                found.append(Stage(when, title, detail, count_parameters(part)))
        shapes = {name: (level.shape[3], *level.shape[1:3]) for name, level in maps.items()}
        return [*found, Stage("image", "maps", maps=shapes)]

    def probes(self, maps: Maps, points: Tensor, image_size: Size) -> list[Probe]:
        """What each part reads for K queries [B, K, 2] in pixels of the padded image, if known."""
        return []

    @torch.no_grad()
    def explained(self, maps: Maps, points: Tensor, image_size: Size) -> list[Probe]:
        """`probes` in evaluation mode, as scenes ask for them."""
        return self.in_evaluation().probes(maps, points, image_size)

    def in_evaluation(self) -> Self:
        """This network in evaluation mode, without a change of its own: see `evaluating`."""
        return evaluating(self) if any(part.training for part in self.modules()) else self

    def ablations(self) -> dict[str, Callable[[], contextlib.AbstractContextManager[None]]]:
        """Parts that a trained network can do without for a while, by name."""
        return {}

    @abstractmethod
    def maps(self, images: Tensor) -> Maps:
        """Padded images [B, 3, H, W] in 0..1 -> channels-last maps by name."""

    @abstractmethod
    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """The answer, depth [B, K] in metres, at points [B, K, 2] in pixels of the padded image."""

    def answer(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """What `decode` answers. ModelError: it is no `Answer` with one depth per point."""
        answer = self.decode(maps, points, image_size)
        depth = getattr(answer, "depth", None)
        if depth is None or depth.shape != points.shape[:2]:
            got = type(answer).__name__ if depth is None else f"a depth {list(depth.shape)}"
            wanted = f"an Answer with depth {list(points.shape[:2])} for points"
            raise ModelError(
                f"{self.config.network}.decode must return {wanted} {list(points.shape)}; got {got}"
            )
        return answer

    def decode_lattice(self, maps: Maps) -> Tensor:
        """Depth [B, h, w] in metres at the network's own dense sites."""
        raise ModelError(f"{self.config.network} has no dense path; ask its points instead")

    def auxiliary(self, maps: Maps) -> dict[str, Tensor]:
        """Depth maps [B, h, w] in metres by name that losses read besides the answers, if any."""
        return {}

    def forward(self, images: Tensor, points: Tensor | None = None) -> Prediction:
        """Training's path: encode and decode without a scene.

        Images are [B, 3, H, W] in 0..1. The depth is [B, K] at points [B, K, 2] in pixels; without
        points, [B, h, w] at the network's dense sites. In training mode `auxiliary` maps join it.

        Raises:
            ModelError: a size that is not a multiple of the encoder's.
            QueryError: points of another shape, or outside the images.
        """
        size = size_of(images)
        if size != padded_size(size, self.encoder.multiple):
            raise ModelError(
                f"{self.config.network} with {self.config.encoder.name} takes sizes that are "
                f"multiples of {self.encoder.multiple}; got {size[0]}x{size[1]}. "
                "Use `pad` or `encode`"
            )
        if points is not None:
            _check_points(points, len(images), size)
        if self.training and self.trained is None:
            self.trained = "steps that were not noted"
        maps = self.maps(images)
        auxiliary = self.auxiliary(maps) if self.training else {}
        if points is None:
            return Prediction(self.decode_lattice(maps), auxiliary)
        return Prediction(self.answer(maps, points, size).depth, auxiliary)

    def pad(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] replicate-padded right and bottom to the encoder's multiple."""
        height, width = padded_size(size_of(images), self.encoder.multiple)
        padding = (0, width - images.shape[-1], 0, height - images.shape[-2])
        return F.pad(images, padding, mode="replicate") if any(padding) else images

    def blank(self, size: Size | None = None) -> Tensor:
        """A black image [1, 3, H, W] of a size, or of the training size, padded."""
        image = torch.zeros(1, 3, *(size or self.config.image_size))
        return self.pad(image.to(self.device, self.dtype))

    @torch.no_grad()
    def encode(self, image: Any, camera: Camera | None = None, *, squash: bool = False) -> Scene:
        """Encode an image, or a batch of equal size, once; the scene answers depth queries.

        The aspect is kept. With a camera the image is resized so that its focal length in pixels
        matches the one this network was trained with; without, so that its height does
        (`scene.camera_assumed` says what that assumes). Points stay in the caller's pixels.

        Args:
            image: path of a picture, RGB PIL image, uint8 [H, W, 3], float [3, H, W] in 0..1, or
                a batch [B, 3, H, W] or list of images of equal size. A PIL image or a file is
                turned upright as its EXIF orientation says; points and camera are those of the
                upright picture. Of files, palette, grey and transparent ones are made RGB.
            camera: the image's pinhole camera.
            squash: press the image into the training size, whatever its aspect and focal length:
                the recorded fault F1, for ablations.

        Raises:
            QueryError: an unreadable picture, a grey or RGBA image, values outside 0..1, images
                or a camera of another size, a camera that no picture has (`Camera.doubt`), or a
                resized image longer than `MAX_SIDE` or smaller than the encoder's multiple.
        """
        images = as_images(image).to(self.device, self.dtype)
        size = size_of(images)
        resized, assumed = self._network_size(size, camera)
        if squash:
            resized, assumed = self.config.image_size, "squashed to the training size, as recorded"
        if resized != size:
            images = F.interpolate(images, size=resized, mode="bilinear", antialias=True)
        padded = self.pad(images).contiguous(memory_format=torch.channels_last)
        form = self.execution if self.maps_depend_on_execution else None
        maps = self.encoded(padded)
        return Scene(self, maps, size, resized, size_of(padded), camera, assumed, form, padded)

    @torch.no_grad()
    def encoded(self, images: Tensor) -> Maps:
        """`maps` in evaluation mode and in the network's floating type, as scenes hold them."""
        maps = self.in_evaluation().maps(images.to(self.device, self.dtype))
        # under autocast too: a scene is queried later, perhaps outside it
        return {name: level.to(self.dtype) for name, level in maps.items()}

    def _network_size(self, size: Size, camera: Camera | None) -> tuple[Size, str | None]:
        """Size to resize an image to, and what had to be assumed about its camera."""
        if not (camera is None or isinstance(camera, Camera)):
            kind = type(camera).__name__
            raise QueryError(
                f"a camera is one spdlib.Camera for all images of a batch; got {kind}. Make "
                "it of a matrix by Camera.from_matrix"
            )
        if camera is not None and camera.doubt:
            raise QueryError(camera.doubt)
        if camera is not None and camera.size != size:
            remedy = "use camera.resized or camera.cropped as the image was"
            if camera.size == size[::-1]:
                remedy = (
                    "a camera takes the width first; where the picture's EXIF orientation turns "
                    f"it to {size[0]}x{size[1]}, give the camera of the upright picture"
                )
            raise QueryError(
                f"the camera is of a {camera.height}x{camera.width} image, the image is "
                f"{size[0]}x{size[1]} (height x width); {remedy}"
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
        """Named parts of the network in order: as in `captions`, then as they were made."""
        parts = dict(self.named_children())
        return {name: parts[name] for name in (*self.captions(), *parts) if name in parts}

    def parameter_table(self) -> pd.DataFrame:
        """DataFrame with columns component, parameters; the last row is the total.

        Parameters outside all components stand in a row "of its own".
        """
        counts = {name: count_parameters(part) for name, part in self.components().items()}
        if own := sum(p.numel() for p in self.parameters(recurse=False)):
            counts["of its own"] = own
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
        return state_hash(self.state_dict(), json.dumps(asdict(self.config), sort_keys=True))

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder, each by rename.

        The second also notes by what the network was trained. This is no part of the configuration
        or the fingerprint: weights are the same whoever made them. The first holds a copy of the
        second and a hash of all, so that `load` finds what was changed since.

        Raises:
            ModelError: a weight is NaN or infinite, or the folder cannot be written; files already
                there stay as they were.
        """
        for name, value in self.state_dict().items():
            if not value.isfinite().all():
                raise ModelError(
                    f"cannot save {self!r} in {folder}: its weight {name!r} holds NaN or infinity; "
                    "train it again, or load an earlier state"
                )
        text = json.dumps({**asdict(self.config), "trained": self.trained}, indent=2)
        weights = seal(self.state_dict(), "config", text)
        write_bytes(Path(folder) / "model.safetensors", weights, ModelError)
        write_bytes(Path(folder) / "config.json", text.encode(), ModelError)

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **given: Any) -> Self:
        """A network from a folder or a repository of the Hub; ModelError: of another class."""
        if not Path(model_id).is_dir():
            names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            settings = {name: given[name] for name in names}
            files = ["config.json", "model.safetensors"]
            model_id = snapshot_download(model_id, allow_patterns=files, **settings)
        # by name, as the registry's networks are made of this class
        model = import_module("spdlib.models.registry").load(model_id)
        if not isinstance(model, cls):
            raise ModelError(f"{model_id} holds {model}, which is no {cls.__name__}")
        return model


def _check_points(points: Tensor, images: int, size: Size) -> None:
    """QueryError unless points are [images, K, 2] inside images of a size."""
    if not isinstance(points, Tensor):
        raise QueryError(f"points are a tensor [{images}, K, 2]; got {type(points).__name__}")
    if points.dim() != 3 or points.shape[::2] != (images, 2) or points.shape[1] == 0:
        shape = list(points.shape)
        raise QueryError(f"points of {images} images are [{images}, K, 2], K > 0; got {shape}")
    refuse_outside(points, size)


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
def running(parts: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """Meanwhile the names of those parts are collected of which any module runs."""
    ran: set[str] = set()
    with contextlib.ExitStack() as hooks:
        for name, part in parts.items():
            for module in part.modules():
                handle = module.register_forward_pre_hook(lambda *_, name=name: ran.add(name))
                hooks.callback(handle.remove)
        yield ran


def evaluating(module: Part, copies: dict[nn.Module, Any] | None = None) -> Part:
    """A copy of a module in evaluation mode that shares parameters, buffers and hooks with it.

    The module keeps its own mode, so that one thread may train it while others ask it. The copy
    takes some milliseconds and follows what happens to the weights, in place or by `to`.

    Args:
        module: the module; those that its parts hold without registering them are copied too.
        copies: of modules that are copied already.
    """
    copies = {} if copies is None else copies
    if module not in copies:
        copies[module] = copy = object.__new__(type(module))
        held = {**vars(module), "training": False}
        for own in (held, children := dict(module._modules)):
            own |= {k: evaluating(x, copies) for k, x in own.items() if isinstance(x, nn.Module)}
        object.__setattr__(copy, "__dict__", {**held, "_modules": children})
    return cast(Part, copies[module])
