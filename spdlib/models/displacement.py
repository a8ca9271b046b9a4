"""Where the cells of a network's maps lie, found by following an image through it (decisions 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATEN = torch.ops.aten
_POOLS = (_ATEN.max_pool2d_with_indices, _ATEN.avg_pool2d)
_PADS = (_ATEN.constant_pad_nd, _ATEN.reflection_pad2d, _ATEN.replication_pad2d)


class _Place(NamedTuple):
    """Where a map's cells lie: pixels between neighbours, and off the grid rule (None: unknown)."""

    stride: int
    shift: float | None


class _Places(TorchDispatchMode):
    """Follows, through every operation on an image, where the cells of its maps lie.

    Convolutions, pools and padding move them by known amounts; everything else is taken to leave
    them in place. What changes a map's resolution in another way then shows at the end, in a
    stride that is not the level's. Tensors are known by their memory, which views share.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self._places: dict[int, _Place] = {}
        self._held: list[Any] = []
        self._put(image, _Place(1, 0.0))

    def of(self, tensor: Tensor) -> _Place | None:
        """Place of a map; None if it does not depend on the image."""
        return self._places.get(tensor.untyped_storage().data_ptr())

    def _put(self, tensor: Tensor, place: _Place) -> None:
        storage = tensor.untyped_storage()
        self._held.append(storage)  # no later tensor may take its address
        self._places[storage.data_ptr()] = place

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        maps = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        places = [place for x in maps if (place := self.of(x)) is not None]
        if places:
            names = {each.name: each.default_value for each in func._schema.arguments}
            said = names | dict(zip(names, args, strict=False)) | (kwargs or {})
            place = _moved(func.overloadpacket, said, _meeting(places))
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    self._put(x, place)
        return result


def displacements(network: nn.Module, image: Tensor) -> list[float | None]:
    """Displacement in pixels of each map that a network in evaluation mode makes of an image."""
    with torch.no_grad(), _Places(image) as places:
        levels = network(image)
    found = []
    for level in levels:
        place = places.of(level)
        known = place is not None and place.stride * level.shape[-1] == image.shape[-1]
        found.append(place.shift if place is not None and known else None)
    return found


def _meeting(places: Sequence[_Place]) -> _Place:
    """Where maps meet, the finest gives the cells: coarser ones are means or attended to."""
    shifts = {place.shift for place in places}
    return _Place(min(place.stride for place in places), shifts.pop() if len(shifts) == 1 else None)


def _moved(operation: Any, said: dict[str, Any], place: _Place) -> _Place:
    """Place of an operation's result; its arguments are those of PyTorch's native functions."""
    if operation is _ATEN.convolution and len(said["stride"]) == 2:
        if said["transposed"]:
            return place._replace(shift=None)
        return _windowed(place, said["weight"].shape[2:], said)
    if operation in _POOLS:
        return _windowed(place, said["kernel_size"], said)
    if operation in _PADS:
        return _padded(place, said.get("pad") or said["padding"])
    return place


def _windowed(place: _Place, kernel: Sequence[int], said: dict[str, Any]) -> _Place:
    """A window's centre lies (d (k - 1) + 1 - s)/2 - p cells off the grid rule."""
    stride = _pair(said["stride"] or kernel)
    settings = (_pair(kernel), stride, _pair(said["padding"]), _pair(said.get("dilation", 1)))
    offsets = {(d * (k - 1) + 1 - s) / 2 - p for k, s, p, d in zip(*settings, strict=True)}
    coarser = _Place(place.stride * stride[1], None)
    if place.shift is None or len(offsets) > 1:
        return coarser
    return coarser._replace(shift=place.shift + place.stride * offsets.pop())


def _padded(place: _Place, padding: Sequence[int]) -> _Place:
    """Cells added in front move the others on; elsewhere than left and above they are unknown."""
    front = set(padding[0::2])
    if front == {0}:
        return place
    if place.shift is None or len(padding) != 4 or len(front) > 1:
        return place._replace(shift=None)
    return place._replace(shift=place.shift - place.stride * front.pop())


def _pair(value: Any) -> list[int]:
    """PyTorch's setting of two axes, one number standing for both."""
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values
