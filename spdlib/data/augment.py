"""Augmentation of image, depth and camera together.

One window of the frame is resized to the network's size in one call; rotation and flip follow at
that size; colours change last, through a table of 256 values per channel. The camera follows every
geometric step. Depth is resampled by the nearest neighbour, so that no depth is invented.

Zoom keeps the focal length: a window 1/z of the size, resized up, shows the same scene with every
depth divided by z. X and Y of each 3-D point stay, Z becomes Z/z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import torch
import torchvision.transforms.v2.functional as TF
from pydantic import Field
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode

from spdlib.data.queries import lattice_truth
from spdlib.errors import ConfigError, DataError
from spdlib.geometry import Camera, Size
from spdlib.settings import Settings, Share, require

Range = tuple[float, float]
CROPS = ("fit", "native", "squash")


@dataclass(frozen=True)
class AugmentConfig(Settings):
    """How training frames vary. The default changes nothing but the size.

    Attributes:
        crop: "fit" scales the frame, keeping its aspect, until it just covers the output size
            (the effective focal length is focal * scale); "native" cuts a window of the output
            size out of the unscaled frame, as the log's last runs do; "squash" presses the
            whole frame into it, as experiments 1 to 8.
        random_crop: place the window at random; False puts it in the centre.
        flip_p: probability of a left-right flip.
        rotate_degrees: largest rotation in either direction; corners become black, depth 0.
        rotate_p: probability of a rotation.
        zoom: range of the zoom, at least 1; depth is divided by it.
        zoom_p: probability of a zoom; a zoomed window is always placed at random.
        gamma: range of the exponent on the image in 0..1.
        brightness: range of a factor on the whole image.
        channel_gain: range of a factor on each colour channel.
        contrast: range of the contrast; 0 is the image's mean grey, 1 leaves it.
        saturation: range of the colour saturation; 0 is grey, 1 leaves it.
        colour_p: probability of the colour changes, of all five together.
        colours_apart: each colour change happens by itself with that probability.

    Raises:
        ConfigError: a probability outside 0..1, an empty or impossible range, an unknown crop.
    """

    crop: str = "fit"
    random_crop: bool = False
    flip_p: Share = 0.0
    rotate_degrees: Annotated[float, Field(ge=0, le=45)] = 0.0
    rotate_p: Share = 0.0
    zoom: Range = (1.0, 1.0)
    zoom_p: Share = 0.0
    gamma: Range = (1.0, 1.0)
    brightness: Range = (1.0, 1.0)
    channel_gain: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    colour_p: Share = 0.0
    colours_apart: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.crop in CROPS, f"crop must be one of {CROPS}; got {self.crop!r}")
        lowest = {"zoom": 1.0, "gamma": 0.1}
        for name in ("zoom", "gamma", "brightness", "channel_gain", "contrast", "saturation"):
            least, (low, high) = lowest.get(name, 0.0), getattr(self, name)
            require(
                least <= low <= high < math.inf,
                f"{name} must be a range low <= high from {least} up; got {low, high}",
            )


_ANY = AugmentConfig(random_crop=True, flip_p=0.5, rotate_p=0.5, colour_p=0.5)
BTS = replace(
    _ANY, rotate_degrees=2.5, gamma=(0.9, 1.1), brightness=(0.75, 1.25), channel_gain=(0.9, 1.1)
)
"""The augmentation of BTS and of the log's last runs, on frames scaled to the network's size."""
_JITTER = AugmentConfig(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2))
_STRONG = replace(BTS, gamma=(0.8, 1.25), brightness=(0.7, 1.3), saturation=(0.6, 1.4))

STYLES: dict[str, AugmentConfig] = {
    "none": AugmentConfig(),
    "flip": AugmentConfig(flip_p=0.5),
    "flip_jitter": replace(_JITTER, flip_p=0.5, colour_p=0.5, colours_apart=True),
    "bts": BTS,
    "bts_native": replace(BTS, crop="native"),
    "strong": replace(_STRONG, rotate_degrees=5.0, zoom=(1.0, 1.5), zoom_p=0.7, colour_p=0.8),
}
"""Augmentations by name. "flip_jitter" is that of experiments 6 to 8; "strong" varies more than
"bts" and zooms, too."""


def augmentation(name: str) -> AugmentConfig:
    """The named augmentation; ConfigError lists the names if there is none."""
    if name not in STYLES:
        raise ConfigError(f"no augmentation {name!r}; choose one of {sorted(STYLES)}")
    return STYLES[name]


class Draw(NamedTuple):
    """The random numbers of one sample, already mapped to their ranges.

    `place` holds the window's position in 0..1 of the free rows and columns.
    """

    zoom: float
    place: tuple[float, float]
    flip: bool
    degrees: float
    gamma: float
    gains: tuple[float, float, float]
    contrast: float
    saturation: float


def draw(config: AugmentConfig, generator: torch.Generator) -> Draw:
    """Draw one sample's changes.

    The count of random numbers does not depend on the configuration, so that two configurations
    with the same seed differ only in what they change.
    """
    u = torch.rand(14, generator=generator, dtype=torch.float64).tolist()
    zoomed, rotated = u[0] < config.zoom_p, u[1] < config.rotate_p
    moves = config.random_crop or zoomed
    # More numbers, but none of `generator`: points are drawn from it next, and stay as they were.
    more = torch.Generator().manual_seed(int(u[2] * 2**53))
    *apart, u_contrast = torch.rand(6, generator=more, dtype=torch.float64).tolist()
    chances = apart if config.colours_apart else 5 * [u[2]]

    def colour(number: int, bounds: Range, u: float) -> float:
        return _within(bounds, u) if chances[number] < config.colour_p else 1.0

    brightness = colour(0, config.brightness, u[8])
    gains = [brightness * colour(1, config.channel_gain, x) for x in u[9:12]]
    return Draw(
        zoom=_within(config.zoom, u[3]) if zoomed else 1.0,
        place=(u[4], u[5]) if moves else (0.5, 0.5),
        flip=u[6] < config.flip_p,
        degrees=config.rotate_degrees * (2 * u[13] - 1) if rotated else 0.0,
        gamma=colour(2, config.gamma, u[7]),
        gains=(gains[0], gains[1], gains[2]),
        contrast=colour(3, config.contrast, u_contrast),
        saturation=colour(4, config.saturation, u[12]),
    )


def augment(
    image: Tensor,
    depth: Tensor,
    camera: Camera,
    config: AugmentConfig,
    generator: torch.Generator,
    out_size: Size,
) -> tuple[Tensor, Tensor, Camera]:
    """Bring a frame to the network's size and vary it.

    Args:
        image: uint8 [3, H, W].
        depth: float32 [H, W] metres, 0 where nothing was measured.
        camera: of both.
        config: what may change.
        generator: gives 14 numbers.
        out_size: height, width of the result.

    Returns:
        Image float32 [3, h, w] in 0..1, depth [h, w] in metres, camera of both.

    Raises:
        DataError: image, depth and camera differ in size, the image is not uint8 [3, H, W], or it
            is smaller than a native crop.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise DataError(f"image must be uint8 [3, H, W]; got {image.dtype} {list(image.shape)}")
    if image.shape[1:] != depth.shape or camera.size != tuple(depth.shape):
        raise DataError(
            f"image {tuple(image.shape[1:])}, depth {tuple(depth.shape)} and camera {camera.size} "
            "must have one size"
        )
    changes = draw(config, generator)
    picture, truth, camera = _window(image, depth, camera, config.crop, changes, out_size)
    if changes.degrees:
        picture = TF.rotate(picture, changes.degrees, interpolation=InterpolationMode.BILINEAR)
        truth = TF.rotate(truth, changes.degrees)
        camera = camera.rotated(changes.degrees)
    if changes.flip:
        picture, truth = TF.horizontal_flip(picture), TF.horizontal_flip(truth)
        camera = camera.flipped()
    return _colours(picture.as_subclass(Tensor), changes), truth.as_subclass(Tensor)[0], camera


def _window(
    image: Tensor, depth: Tensor, camera: Camera, crop: str, changes: Draw, out_size: Size
) -> tuple[tv_tensors.Image, tv_tensors.Mask, Camera]:
    """Cut one window, resize it to `out_size`, and undo the zoom's focal length in the depth."""
    height, width = window_size(camera.size, out_size, crop, changes.zoom)
    top = round(changes.place[0] * (camera.height - height))
    left = round(changes.place[1] * (camera.width - width))
    box = (top, left, height, width)
    # Depth must be a Mask: v2 passes plain tensors beside an Image through unchanged.
    picture = TF.crop(tv_tensors.Image(image), *box)
    truth = TF.crop(tv_tensors.Mask(depth[None]), *box)
    picture = TF.resize(picture, list(out_size), InterpolationMode.BILINEAR, antialias=True)
    # Not TF.resize: its nearest neighbour for masks is half an output pixel off the image, and
    # whether it accepts the exact one depends on torchvision's version.
    sampled = lattice_truth(truth.as_subclass(Tensor), out_size)
    zoom = window_size(camera.size, out_size, crop, 1.0)[0] / height
    camera = camera.cropped(*box).resized(*out_size)
    camera = replace(camera, fx=camera.fx / zoom, fy=camera.fy / zoom, skew=camera.skew / zoom)
    return picture, tv_tensors.Mask(sampled / zoom), camera


def window_size(frame_size: Size, out_size: Size, crop: str, zoom: float = 1.0) -> Size:
    """Size of the part of a frame that fills the output; DataError if a native crop is larger."""
    if crop == "squash":
        height, width = (max(1, round(side / zoom)) for side in frame_size)
        return height, width
    fit = min(frame_size[0] / out_size[0], frame_size[1] / out_size[1])
    if crop == "native" and fit < 1:
        raise DataError(
            f"a native crop of {out_size} does not fit into a frame of {frame_size}; "
            "choose a smaller image size or crop='fit'"
        )
    shrink = fit if crop == "fit" else 1.0
    height, width = (max(1, round(side * shrink / zoom)) for side in out_size)
    return min(height, frame_size[0]), min(width, frame_size[1])


def _colours(image: Tensor, changes: Draw) -> Tensor:
    """Float image [3, h, w] in 0..1 of a uint8 one with its colours changed."""
    gains = torch.tensor(changes.gains, dtype=torch.float32)[:, None]
    values = torch.linspace(0.0, 1.0, 256).pow(changes.gamma)
    table = (gains * values).clamp(0.0, 1.0)
    result = table.gather(1, image.flatten(1).long()).reshape(image.shape)
    if changes.contrast != 1.0:
        result = torch.lerp(_grey(result).mean(), result, changes.contrast).clamp(0.0, 1.0)
    if changes.saturation != 1.0:
        result = torch.lerp(_grey(result), result, changes.saturation).clamp(0.0, 1.0)
    return result


def _grey(image: Tensor) -> Tensor:
    """Luma [1, h, w] of an RGB image [3, h, w]."""
    return (torch.tensor([0.299, 0.587, 0.114]) @ image.flatten(1)).reshape(1, *image.shape[1:])


def _within(bounds: Range, u: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * u
