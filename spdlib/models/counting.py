"""Multiply-accumulates (MACs) and gathered bytes of a network, counted while it runs.

MACs are those of matrix products, convolutions and attention. Bilinear reads, normalisation,
softmax and activations are not counted: they take time, but no product of two matrices. Reads of
maps at points are counted in bytes instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from spdlib.geometry import Size, size_of
from spdlib.models.base import DepthModel, evaluating

QUERIES = 256
"""Queries that are counted together; those that see each other cost more together."""


def _convolution_backward(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any
) -> int:
    """FLOPs of a convolution's gradients by its input and weight, each as many as forward.

    PyTorch 2.15 counts those by the weight once for each pair of groups.
    """
    transposed, wanted = rest[4], rest[7]
    forward = math.prod(x if transposed else grad) * math.prod(weight[1:])
    return 2 * forward * sum(wanted[:2])


RULES = {torch.ops.aten.convolution_backward: _convolution_backward}


def counted_macs(run: Callable[[], object], gradients: bool = False) -> int:
    """MACs of a call; those of its backward pass too if it makes `gradients`."""
    with (
        torch.set_grad_enabled(gradients),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=RULES) as counter,
    ):
        run()
    return int(counter.get_total_flops()) // 2


class _Gathers(TorchDispatchMode):
    """Adds up the bytes of all rows that are gathered from maps while it is on."""

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name.startswith("_embedding_bag"):  # weights of the rows, then their numbers
            self.total += args[1].numel() * args[0][0].nbytes
        elif name == "index_select":
            self.total += result.nbytes
        elif name == "grid_sampler_2d":
            self.total += 4 * result.nbytes  # four corners make one value
        return result


def gathered_bytes(run: Callable[[], object]) -> int:
    """Bytes of the rows that a call gathers: `embedding_bag`, `index_select`, `grid_sample`."""
    with torch.no_grad(), _Gathers() as gathers:
        run()
    return gathers.total


def macs_per_image(model: DepthModel, size: Size | None = None) -> int:
    """MACs of encoding one image of the training size or another one, padded as `encode` would."""
    images, network = model.blank(size), evaluating(model)
    return counted_macs(lambda: network.maps(images))


def macs_per_query(model: DepthModel, size: Size | None = None, queries: int = QUERIES) -> int:
    """MACs of one query among `queries` of one image; `size` as for `macs_per_image`."""
    images = model.blank(size)
    covered = size_of(images)
    limits = images.new_tensor(covered[::-1])
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, queries, 2, generator=generator).to(limits) * limits - 0.5
    network = evaluating(model)
    with torch.no_grad():
        maps = network.maps(images)
        return counted_macs(lambda: network.decode(maps, points, covered)) // queries
