"""Necks: the four encoder levels -> the widths and sizes a decoder wants (sheet v15)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from spdlib.models.layers import ChannelLayerNorm


def project(in_channels: int, width: int) -> nn.Sequential:
    """Conv1x1 to `width` channels, then LayerNorm over them."""
    return nn.Sequential(nn.Conv2d(in_channels, width, 1), ChannelLayerNorm(width))


class PyramidNeck(nn.Module):
    """Neck of hierarchical encoders: Conv1x1 + LN per level (v15.0; 92,928 for ConvNeXt V2-T).

    Args:
        channels: of the encoder's levels.
        width: of all levels behind the neck, or of each.
    """

    def __init__(self, channels: Sequence[int], width: int | Sequence[int] = 64) -> None:
        super().__init__()
        widths = [width] * len(channels) if isinstance(width, int) else width
        pairs = zip(channels, widths, strict=True)
        self.project = nn.ModuleList(project(c, own) for c, own in pairs)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Four levels [B, C_l, h_l, w_l] -> four levels [B, width_l, h_l, w_l]."""
        return [layer(level) for layer, level in zip(self.project, levels, strict=True)]


class ViTNeck(nn.Module):
    """Neck of plain ViTs: Conv1x1 + LN per tap, then x4, x2, x1 and x1/2 (v15.1/2; 218,048)."""

    def __init__(self, channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.project = nn.ModuleList(project(c, width) for c in channels)
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(width, width, 4, stride=4),
                nn.ConvTranspose2d(width, width, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(width, width, 3, stride=2, padding=1),
            ]
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Four taps [B, C, h, w] -> [B, width, 4h, 4w], [2h, 2w], [h, w], [ceil h/2, ceil w/2]."""
        projected = [layer(level) for layer, level in zip(self.project, levels, strict=True)]
        return [layer(level) for layer, level in zip(self.resize, projected, strict=True)]
