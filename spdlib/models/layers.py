"""Small parts that the networks share: norms, convolutions, heads, position codes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.geometry import Size

LEVELS = ("L1", "L2", "L3", "L4")
"""Names of an encoder's maps, fine to coarse."""
MEDIAN_DEPTH = 2.5
"""Metres that untrained heads answer, near the median of NYU."""
HEAD_BIAS = {"zero": 0.0, "median": math.log(MEDIAN_DEPTH)}
"""First bias of a log-depth head by the name of the option: 1 m, or the median (F17c)."""


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualConvUnit(nn.Module):
    """x + Conv3x3(act(Conv3x3(act x))), DPT's RCU: 73,856 at width 64. DPT's own act is ReLU."""

    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        inner = self.conv1(self.activation(x))
        return x + self.conv2(self.activation(inner))


class FeedForward(nn.Sequential):
    """Linear(C -> 4 C), GELU, Linear(4 C -> C)."""

    def __init__(self, channels: int) -> None:
        hidden = 4 * channels
        super().__init__(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))


def start_at_zero(*layers: nn.Module) -> None:
    """Set all parameters of fresh layers to zero: what adds their result changes nothing yet."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def start_at(layer: Any, bias: float) -> None:
    """Set the bias of a fresh layer, often a head's last, to what its answers begin with."""
    nn.init.constant_(layer.bias, bias)


class NumberHead(nn.Sequential):
    """Linear(C -> 2 C), GELU, Linear(2 C -> 1): the number a query ends in (74,497 at 192).

    It is computed in at least float32, outside autocast; `low` rounds it to bfloat16 (F7).
    """

    def __init__(self, channels: int, low: bool) -> None:
        last = nn.Linear(2 * channels, 1)
        super().__init__(nn.Linear(channels, 2 * channels), nn.GELU(), last)
        self.low = low

    def forward(self, h: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Queries [..., C] -> numbers [..., 1], multiplied by `scale`."""
        wide, no_autocast = full_precision(h)
        with torch.autocast(h.device.type, torch.bfloat16) if self.low else no_autocast:
            number = super().forward(wide) * scale
        return number.bfloat16().to(wide.dtype) if self.low else number


def standardised(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the channels, as a LayerNorm has them before its own weights."""
    ones, zeros = x.new_ones(x.shape[-1]), x.new_zeros(x.shape[-1])
    return F.layer_norm(x, x.shape[-1:], ones, zeros)  # without them it is slower on a CPU


def fourier_code(x: Tensor, bands: int) -> Tensor:
    """Code [..., 4 bands] of positions [..., 2]: sin 2 pi 2^l x, cos, then the same of y.

    l runs from 0 to bands - 1. Positions lie best within 0..1: whole numbers share one code (F10).
    """
    rates = 2 * math.pi * 2.0 ** torch.arange(bands, device=x.device, dtype=x.dtype)
    angles = x.unsqueeze(-1) * rates  # [..., 2, bands]
    return torch.stack([angles.sin(), angles.cos()], -2).flatten(-3)


def position_table(size: Size, channels: int, like: Tensor) -> Tensor:
    """Fixed code [h w, C] of a map's cells, row by row: sines and cosines of their row and column.

    Half of the channels hold the column, half the row, with wavelengths from 2 pi to 10,000 * 2 pi
    cells (Vaswani et al. 2017, section 3.5, once per axis); up to three that are left over are 0.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)  # bfloat16 cannot count past 256 cells
    rates = 10_000 ** -torch.linspace(0, 1, channels // 4, device=like.device, dtype=dtype)
    y, x = (torch.arange(n, device=like.device, dtype=dtype)[:, None] * rates for n in size)
    rows = torch.cat([y.sin(), y.cos()], -1)[:, None].expand(-1, size[1], -1)
    columns = torch.cat([x.sin(), x.cos()], -1)[None].expand(size[0], -1, -1)
    code = torch.cat([columns, rows], -1).flatten(0, 1)
    return F.pad(code, (0, channels % 4)).to(like.dtype)


def channels_last(level: Tensor) -> Tensor:
    """[B, C, h, w] -> contiguous [B, h, w, C]."""
    return level.permute(0, 2, 3, 1).contiguous()


def resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear resize of [B, C, h, w] to `size` under the half-pixel rule."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def full_precision(x: Tensor) -> tuple[Tensor, contextlib.AbstractContextManager[None]]:
    """The tensor in at least float32 and a context without autocast, for depth heads."""
    wide = x if x.dtype == torch.float64 else x.float()
    return wide, torch.autocast(x.device.type, enabled=False)
