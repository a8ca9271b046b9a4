"""Blocks that the networks share: channel LayerNorm, residual convolution unit, feed-forward."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.geometry import Size


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualConvUnit(nn.Module):
    """x + Conv3x3(GELU(Conv3x3(GELU x))), DPT's RCU with GELU (sheet v15): 73,856 at width 64."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        return x + self.conv2(F.gelu(self.conv1(F.gelu(x))))


class FeedForward(nn.Sequential):
    """Linear(C -> ratio C), GELU, Linear(ratio C -> C)."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        hidden = ratio * channels
        super().__init__(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))


def resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear resize of [B, C, h, w] to `size` under the half-pixel rule."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def full_precision(x: Tensor) -> tuple[Tensor, contextlib.AbstractContextManager[None]]:
    """The tensor in at least float32 and a context without autocast (decisions 2, depth heads)."""
    wide = x if x.dtype == torch.float64 else x.float()
    return wide, torch.autocast(x.device.type, enabled=False)
