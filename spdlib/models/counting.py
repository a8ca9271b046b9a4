"""Multiply-accumulates (MACs) of a network, counted by PyTorch while it runs.

Counted are matrix products, convolutions and attention. Bilinear reads, normalisation, softmax and
activations are not: they take time, but no product of two matrices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spdlib.geometry import Size
from spdlib.models.base import DepthModel, evaluating

QUERIES = 256
"""Queries that are counted together; those that see each other cost more in larger company."""


def counted_macs(run: Callable[[], object]) -> int:
    """MACs of a call."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def macs_per_image(model: DepthModel, size: Size | None = None) -> int:
    """MACs of encoding one image.

    Args:
        model: the network.
        size: height, width in pixels, padded as `encode` would; None takes the training size.
    """
    images = _blank(model, size)
    with evaluating(model):
        return counted_macs(lambda: model.maps(images))


def macs_per_query(model: DepthModel, size: Size | None = None, queries: int = QUERIES) -> int:
    """MACs of one query among `queries` of one image; `size` as for `macs_per_image`."""
    images = _blank(model, size)
    covered = (images.shape[-2], images.shape[-1])
    limits = images.new_tensor([covered[1], covered[0]])
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, queries, 2, generator=generator).to(limits) * limits - 0.5
    with evaluating(model), torch.no_grad():
        maps = model.maps(images)
        return counted_macs(lambda: model.decode(maps, points, covered)) // queries


def _blank(model: DepthModel, size: Size | None) -> torch.Tensor:
    shape = (1, 3, *(size or model.config.image_size))
    return model.pad(torch.zeros(shape, device=model.device, dtype=model.dtype))
