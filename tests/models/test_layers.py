"""Shared blocks, necks and the global path, against formulas and counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.models.base import count_parameters
from spdlib.models.layers import (
    ChannelLayerNorm,
    FeedForward,
    ResidualConvUnit,
    full_precision,
    resize,
)
from spdlib.models.necks import PyramidNeck, ViTNeck
from spdlib.models.v15 import GlobalPath


@pytest.mark.parametrize("activation", [F.gelu, F.relu])
def test_residual_conv_unit_is_its_formula(activation: Callable[[Tensor], Tensor]) -> None:
    unit, x = ResidualConvUnit(64, activation), torch.randn(2, 64, 5, 7)
    inner = F.conv2d(activation(x), unit.conv1.weight, unit.conv1.bias, padding=1)
    outer = F.conv2d(activation(inner), unit.conv2.weight, unit.conv2.bias, padding=1)
    assert ResidualConvUnit(64).activation is F.gelu
    assert torch.allclose(unit(x), x + outer, atol=1e-6)
    assert count_parameters(unit) == 73_856


def test_channel_layer_norm_normalises_channels() -> None:
    norm, x = ChannelLayerNorm(8), torch.randn(2, 8, 3, 4)
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    assert torch.allclose(norm(x), (x - mean) / (variance + 1e-5).sqrt(), atol=1e-5)


def test_feed_forward() -> None:
    layer, x = FeedForward(64), torch.randn(3, 64)
    first, last = layer[0], layer[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    assert torch.allclose(layer(x), last(F.gelu(first(x))))
    assert count_parameters(layer) == 33_088


def test_resize_follows_the_half_pixel_rule() -> None:
    ramp = torch.tensor([[0.0, 1.0, 2.0, 3.0]])[None, None]
    found = resize(ramp, (1, 8))[0, 0, 0]
    assert torch.allclose(found, torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]))


def test_full_precision_leaves_autocast() -> None:
    layer = nn.Linear(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(torch.randn(2, 4))
        wide, no_autocast = full_precision(low)
        with no_autocast:
            high = layer(wide)
    assert (low.dtype, high.dtype) == (torch.bfloat16, torch.float32)
    assert full_precision(torch.zeros(1, dtype=torch.float64))[0].dtype == torch.float64


def test_vit_neck() -> None:
    neck = ViTNeck([384] * 4)
    assert count_parameters(neck) == 218_048
    levels = [layer for level in neck.project for layer in level.children()]
    convolutions = [count_parameters(x) for x in levels if isinstance(x, nn.Conv2d)]
    norms = [count_parameters(x) for x in levels if isinstance(x, ChannelLayerNorm)]
    assert (sum(convolutions), sum(norms)) == (98_560, 512)
    assert [count_parameters(layer) for layer in neck.resize] == [65_600, 16_448, 0, 36_928]
    maps = neck([torch.randn(1, 384, 5, 6)] * 4)
    assert [tuple(x.shape[1:]) for x in maps] == [
        (64, 20, 24), (64, 10, 12), (64, 5, 6), (64, 3, 3),
    ]  # fmt: skip


def test_vit_neck_sizes() -> None:
    levels = ViTNeck([8] * 4)([torch.randn(1, 8, 25, 34)] * 4)
    assert [tuple(x.shape[2:]) for x in levels] == [(100, 136), (50, 68), (25, 34), (13, 17)]


def test_pyramid_neck() -> None:
    widths = [96, 192, 384, 768]
    neck = PyramidNeck(widths)
    assert count_parameters(neck) == 92_928
    levels = neck([torch.randn(2, c, 8 >> i, 16 >> i) for i, c in enumerate(widths)])
    assert [tuple(x.shape[1:]) for x in levels] == [(64, 8 >> i, 16 >> i) for i in range(4)]
    assert levels[0].mean(1).abs().max() < 1e-5  # its channels are normalised


def plain_order(path: GlobalPath, level2: Tensor, level3: Tensor, level4: Tensor) -> Tensor:
    """DPT's order: each 1x1 convolution after the upsampling."""
    r4 = path.out4(resize(path.rcu4(level4), (level3.shape[-2], level3.shape[-1])))
    merged = path.rcu3_merge(path.rcu3(level3) + r4)
    return path.out3(resize(merged, (level2.shape[-2], level2.shape[-1])))


def test_global_path_is_dpts() -> None:
    """Moving the 1x1 convolutions before the upsampling changes nothing, at odd sizes too."""
    path = GlobalPath().double()
    levels = [torch.randn(1, 64, *size).double() for size in ((14, 18), (7, 9), (4, 5))]
    expected = plain_order(path, *levels)
    assert (path(*levels) - expected).abs().max() < 1e-12 * max(1, expected.abs().max().item())


@pytest.mark.parametrize(
    ("parts", "count"),
    [(("rcu4", "out4"), 78_016), (("rcu3", "rcu3_merge", "out3"), 151_872)],
)
def test_global_path_counts(parts: tuple[str, ...], count: int) -> None:
    path = GlobalPath()
    assert sum(count_parameters(path.get_submodule(part)) for part in parts) == count
    assert count_parameters(path) == 229_888
