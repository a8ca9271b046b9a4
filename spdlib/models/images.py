"""The door for images: what `encode` accepts becomes float [B, 3, H, W] in 0..1."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spdlib.errors import QueryError
from spdlib.geometry import size_of
from spdlib.pictures import read_picture, upright
from spdlib.reading import reading


def as_images(image: Any) -> Tensor:
    """Any accepted image -> float [B, 3, H, W] in 0..1.

    Raises:
        QueryError: wrong shape, channels, type or range; the message says what was given.
    """
    if isinstance(image, list | tuple):
        images = [as_images(each) for each in image]
        sizes = [size_of(each) for each in images]
        if len(set(sizes)) != 1:
            raise QueryError(f"a list holds images of one size, at least one; got sizes {sizes}")
        return torch.cat([each.to(images[0].device) for each in images])
    if isinstance(image, str | Path):
        path, image = image, read_picture(image, QueryError)
        if image.mode.startswith(("I", "F")):
            raise QueryError(
                f"{path}: holds {image.mode} values, not 8-bit colours; convert it to RGB"
            )
        image = upright(image).convert("RGB")
    if isinstance(image, Image.Image):
        if image.mode != "RGB":
            raise QueryError(f"the image is {image.mode}, not RGB; use image.convert('RGB')")
        with reading("the image", "cannot be decoded", "open its file again", QueryError):
            image = np.array(upright(image))  # an opened file is decoded here
    if isinstance(image, np.ndarray):
        try:
            # the caller's may be read-only, reversed, or of another byte order
            image = torch.from_numpy(image.astype(image.dtype.newbyteorder("=")))
        except TypeError:
            raise QueryError(f"images are uint8 or float in 0..1; got {image.dtype}") from None
    if not isinstance(image, Tensor):
        kind = type(image).__name__
        raise QueryError(f"an image is a path, a PIL image, an array or a tensor; got {kind}")
    shape, tensor = list(image.shape), image
    if image.dtype == torch.uint8:
        tensor = (image.movedim(-1, 0) if image.dim() == 3 else image).float().div_(255)
    elif not image.is_floating_point():
        raise QueryError(f"images are uint8 or float in 0..1; got {image.dtype}")
    if tensor.dim() == 3:
        tensor = tensor.unsqueeze(0)
    if tensor.dim() != 4 or tensor.shape[1] != 3 or 0 in tensor.shape:
        swapped = len(shape) == 3 and shape[2] == 3
        remedy = "Convert grey or RGBA images to RGB"
        if swapped:
            remedy = "Move the channels first: array.transpose(2, 0, 1), tensor.permute(2, 0, 1)"
        raise QueryError(
            "images are RGB: uint8 [H, W, 3], float [3, H, W] or [B, 3, H, W]; got shape "
            f"{shape}. {remedy}"
        )
    low, high = tensor.min().item(), tensor.max().item()
    if math.isnan(low):
        raise QueryError("the image holds NaN; images are finite, float in 0..1 or uint8")
    if not (low >= 0 and high <= 1):
        raise QueryError(
            f"float images lie in 0..1; this one spans {low:.3g}..{high:.3g}. Rescale it, or give "
            "uint8"
        )
    return tensor
