"""Where cells lie: what the network's settings say against what its gradients show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import BlurPool2d, ScaledStdConv2dSame, create_pool2d
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.models.displacement import displacements


class Layers(nn.Module):
    """One level of some layers, followed by a step that is no layer."""

    def __init__(self, *layers: nn.Module, then: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.then = then or nn.Identity()

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.then(self.layers(image))]


def conv(kernel: int, stride: int = 1, padding: Any = 0, channels: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride, padding)


KNOWN: dict[str, Callable[[], nn.Module]] = {
    "patch": lambda: Layers(conv(4, 4), conv(3, 1, 1)),
    "overlapping stem": lambda: Layers(conv(7, 4, 2), conv(3, 2, 1)),
    "timm's same padding": lambda: Layers(ScaledStdConv2dSame(3, 8, 3, 2), conv(3, 2, 1, 8)),
    "pooled like TensorFlow": lambda: Layers(
        create_pool2d("avg", 3, stride=2, padding="same"), conv(1)
    ),
    "blurred": lambda: Layers(conv(3, 1, 1), BlurPool2d(3, 3, 2), BlurPool2d(3, 5, 2)),
    "averaged": lambda: Layers(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2)),
    "even window": lambda: Layers(nn.ZeroPad2d((0, 1, 0, 1)), conv(2), conv(2, 2)),
    "padded in front": lambda: Layers(nn.ZeroPad2d((2, 1, 2, 1)), conv(5, 2)),
    "channels last": lambda: Layers(
        conv(2, 2), then=lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (3,)).permute(0, 3, 1, 2)
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_displacement_is_where_the_gradient_lies(name: str) -> None:
    network = KNOWN[name]().eval()
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    (level,) = network(image)
    cell, stride = level.shape[-1] // 2, 64 // level.shape[-1]
    level[0, 0, cell, cell].backward()
    assert image.grad is not None
    columns = image.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    middle = (columns[0] + columns[-1]).item() / 2
    found = displacements(network, torch.zeros(1, 3, 64, 64))
    assert found == [middle - (cell * stride + (stride - 1) / 2)]


class Branches(nn.Module):
    """Two ways to half the size, added."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.first(image) + self.second(image)]


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "branches that disagree": lambda: Branches(conv(3, 2, 1), nn.AvgPool2d(2)),
    "every second pixel": lambda: Layers(conv(3, 1, 1), then=lambda x: x[..., ::2, ::2]),
    "interpolation": lambda: Layers(conv(3, 1, 1), then=lambda x: F.interpolate(x, scale_factor=2)),
    "transposed convolution": lambda: Layers(conv(4, 4), nn.ConvTranspose2d(3, 3, 2, 2)),
    "padded on the left alone": lambda: Layers(nn.ZeroPad2d((1, 0, 0, 1)), conv(3, 2, 1)),
    "strides that differ": lambda: Layers(nn.Conv2d(3, 3, 3, (2, 1), 1)),
    "no image": lambda: Layers(then=lambda x: torch.zeros(1, 3, 32, 32)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_displacement_that_cannot_be_known_is_none(name: str) -> None:
    assert displacements(UNKNOWN[name]().eval(), torch.zeros(1, 3, 64, 64)) == [None]


def test_a_gate_over_the_whole_image_moves_nothing() -> None:
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(1), nn.Sigmoid())
    network = Layers(conv(3, 2, 1), then=lambda x: x * gate(x))
    assert displacements(network.eval(), torch.zeros(1, 3, 64, 64)) == [-0.5]
