"""Necks: the four encoder levels -> the widths and sizes a decoder wants."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.models.layers import ChannelLayerNorm, resize

CAPTIONS = {
    "level3_attention": ("attention on L3", "before stage 4"),
    "neck": ("neck", "1×1, LN"),
    "level4_attention": ("attention on L4", "2 layers"),
}
"""Captions in diagrams of a neck and of the attention on both its sides."""


def project(in_channels: int, width: int) -> nn.Sequential:
    """Conv1x1 to `width` channels, then LayerNorm over them."""
    return nn.Sequential(nn.Conv2d(in_channels, width, 1), ChannelLayerNorm(width))


def four_sizes(widths: Sequence[int]) -> nn.ModuleList:
    """Layers that make a pyramid of four equal taps of a ViT, as in DPT: x4, x2, x1 and x1/2."""
    first, second, _, last = widths
    return nn.ModuleList(
        [
            nn.ConvTranspose2d(first, first, 4, stride=4),
            nn.ConvTranspose2d(second, second, 2, stride=2),
            nn.Identity(),
            nn.Conv2d(last, last, 3, stride=2, padding=1),
        ]
    )


class PyramidNeck(nn.Module):
    """Neck of hierarchical encoders: Conv1x1 + LN per level (v15.0; 92,928 for ConvNeXt V2-T).

    `width` is the number of channels of every level, or a list with one number per level.
    """

    def __init__(self, channels: Sequence[int], width: int | Sequence[int] = 64) -> None:
        super().__init__()
        widths = [width] * len(channels) if isinstance(width, int) else width
        pairs = zip(channels, widths, strict=True)
        self.project = nn.ModuleList(project(c, level_width) for c, level_width in pairs)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Four levels [B, C_l, h_l, w_l] -> four levels [B, width_l, h_l, w_l]."""
        return [layer(level) for layer, level in zip(self.project, levels, strict=True)]


class ViTNeck(nn.Module):
    """Neck of plain ViTs: Conv1x1 + LN per tap, then x4, x2, x1 and x1/2 (v15.1/2; 218,048)."""

    def __init__(self, channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.project = nn.ModuleList(project(c, width) for c in channels)
        self.resize = four_sizes([width] * 4)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Four taps [B, C, h, w] -> [B, width, 4h, 4w], [2h, 2w], [h, w], [ceil h/2, ceil w/2]."""
        projected = [layer(level) for layer, level in zip(self.project, levels, strict=True)]
        return [layer(level) for layer, level in zip(self.resize, projected, strict=True)]


class PlanNeck(nn.Module):
    """Taps of a ViT x4, x2, x1 and x1/2, each through Conv1x1 + LN (v13_plan; 297,216).

    The design resizes first. A 1x1 convolution commutes with the bilinear resize (its weights sum
    to one), so it runs before, on a sixteenth of L1's cells. L4 averages the patches under each of
    its cells, 2x2 of an even grid; of an odd one, as 37x37, 2 or 3 a side that may overlap, so that
    its cells stay centred on what they cover.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        pairs = zip(channels, widths, strict=True)
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c, width in pairs)
        self.norm = nn.ModuleList(ChannelLayerNorm(width) for width in widths)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Taps [B, C, h, w] -> [B, 64, 4h, 4w], [128, 2h, 2w], [192, h, w] and [384, h/2, w/2]."""
        height, width = taps[0].shape[-2:]
        halved = F.adaptive_avg_pool2d(taps[3], (height // 2, width // 2))
        levels = [layer(x) for layer, x in zip(self.project, [*taps[:3], halved], strict=True)]
        levels[0] = resize(levels[0], (4 * height, 4 * width))
        levels[1] = resize(levels[1], (2 * height, 2 * width))
        return [norm(level) for norm, level in zip(self.norm, levels, strict=True)]
