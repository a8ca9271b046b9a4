"""Blocks that the networks share: normalisation, convolution, attention, position codes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.geometry import Size

HEAD_BIAS = {"zero": 0.0, "median": math.log(2.5)}
"""First bias of a log-depth head by name: 1 m, or 2.5 m, near the median of NYU (F17c)."""


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-5)

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


class Attention(nn.Module):
    """Multi-head attention with biased projections; the caller normalises its inputs.

    Args:
        width: channels of queries and of the result.
        heads: each has width / heads channels; scores are scaled by the root of that.
        tokens: channels of the tokens that `forward` projects; None if keys and values always come
            projected, to `read`.
        dropout: on the attention weights, in training.
    """

    def __init__(
        self, width: int, heads: int, tokens: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        if tokens is not None:
            self.key = nn.Linear(tokens, width)
            self.value = nn.Linear(tokens, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Queries [..., Q, C] read tokens [..., T, D] -> [..., Q, C]."""
        return self.read(x, self.key(tokens), self.value(tokens))

    def read(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries [..., Q, C] read projected keys and values [..., T, C] -> [..., Q, C]."""
        asked, keys, values = (self._split(t) for t in (self.query(x), keys, values))
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(asked, keys, values, dropout_p=dropout)
        return self.out(found.transpose(-3, -2).flatten(-2))

    def weights(self, x: Tensor, keys: Tensor) -> Tensor:
        """Attention weights [..., heads, Q, T] of queries [..., Q, C] on keys [..., T, C].

        They are computed in at least float32: routing by bfloat16 weights would meet many ties.
        """
        asked, no_autocast = full_precision(self._split(self.query(x)))
        with no_autocast:
            scores = asked @ self._split(keys).to(asked.dtype).mT / math.sqrt(asked.shape[-1])
            return scores.softmax(-1)

    def read_weighted(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """`read`, and its weights [..., heads, Q, T] before dropout, which routing needs."""
        weights = self.weights(x, keys)
        kept = F.dropout(weights, self.dropout, self.training).to(values.dtype)
        found = kept @ self._split(values)
        return self.out(found.transpose(-3, -2).flatten(-2)), weights

    def read_own(
        self, x: Tensor, tokens: Sequence[Tensor], norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """Every query reads tokens of its own, none of which is projected (audit 5.5).

        The key projection goes into the query, the value projection behind the weighted sum, and
        into both what the norm does to standardised tokens: with n = norm(all tokens) it is
        `read_weighted(x.unsqueeze(-2), key(n), value(n))` in fewer products.

        Args:
            x: queries [..., C].
            tokens: `standardised` [..., T_i, D], T in sum; nothing is gained by joining them.
            norm: of the tokens.

        Returns:
            [..., C] and the weights [..., heads, T] before dropout.
        """
        key, key_bias = self._behind(norm, self.key)
        value, value_bias = self._behind(norm, self.value)
        asked = self._per_head(self.query(x))
        asked = asked / math.sqrt(asked.shape[-1])
        constant = (asked * key_bias).sum(-1, keepdim=True)
        folded = torch.einsum("...hd,hdc->...hc", asked, key)
        scores = torch.cat([folded @ part.mT for part in tokens], -1)
        weights = (scores + constant).softmax(-1)
        kept = F.dropout(weights, self.dropout, self.training)
        shares = kept.split([part.shape[-2] for part in tokens], -1)
        sums = [share @ part for share, part in zip(shares, tokens, strict=True)]
        found = torch.einsum("...hc,hdc->...hd", torch.stack(sums).sum(0), value)
        # dropped weights do not sum to one
        found = found + kept.sum(-1, keepdim=True) * value_bias
        return self.out(found.flatten(-2)), weights

    def _behind(self, norm: nn.LayerNorm, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """Weight [heads, C / heads, D] and bias [heads, C / heads] of a norm's end and a layer."""
        weight, bias = layer.weight * norm.weight, layer.bias + layer.weight @ norm.bias
        return weight.unflatten(0, (self.heads, -1)), self._per_head(bias)

    def _per_head(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., heads, C / heads]."""
        return x.unflatten(-1, (self.heads, -1))

    def _split(self, x: Tensor) -> Tensor:
        """[..., N, C] -> [..., heads, N, C / heads]."""
        return self._per_head(x).transpose(-3, -2)


def head_count(channels: int) -> int:
    """Heads of an attention over an encoder's own channels: 64 wide if that divides them, else 32.

    That is decisions 3; widths that neither divides (48 in mobilenetv2_050) take the largest
    smaller power of two that does.
    """
    return channels // next(width for width in (64, 32, 16, 8, 4, 2, 1) if channels % width == 0)


class SelfAttention(nn.Module):
    """x += attention(LN x); x += FFN(LN x) over all cells of a map (v13_1 section 2).

    Args:
        channels: of the map.
        heads: of the attention.
        zero: start as the identity, so that what follows keeps its trained input (F13).
        dropout: on the attention weights, in training.
    """

    def __init__(self, channels: int, heads: int, zero: bool = False, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(channels, heads, tokens=channels, dropout=dropout)
        self.norm_ffn = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels)
        if zero:
            for last in (*self.attention.out.parameters(), *self.ffn[-1].parameters()):
                nn.init.zeros_(last)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Map [B, C, h, w] -> [B, C, h, w]; positions [h w, C] join queries and keys only."""
        size = x.shape[-2:]
        tokens = x.flatten(2).mT
        inside = self.norm(tokens)
        placed = inside if positions is None else inside + positions
        keys, values = self.attention.key(placed), self.attention.value(inside)
        tokens = tokens + self.attention.read(placed, keys, values)
        tokens = tokens + self.ffn(self.norm_ffn(tokens))
        return tokens.mT.unflatten(-1, size)


class MapAttention(nn.ModuleList):
    """Self-attention layers on one map.

    Args:
        channels: of the map.
        heads: of the attention.
        positions: cells tell their place to the attention (F11).
        layers: how many.
        zero: see `SelfAttention`.
        dropout: see `SelfAttention`.
    """

    def __init__(
        self, channels: int, heads: int, *, positions: bool, layers: int = 2, zero: bool = False,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(SelfAttention(channels, heads, zero, dropout) for _ in range(layers))
        self.positions = positions

    def forward(self, level: Tensor) -> Tensor:
        """Map [B, C, h, w] -> [B, C, h, w]."""
        channels, *size = level.shape[1:]
        table = position_table((size[0], size[1]), channels, level) if self.positions else None
        for layer in self:
            level = layer(level, table)
        return level


class GlobalTokens(nn.Module):
    """Keys and values of all cells of a map for the layers that read them, once per image.

    148,224 parameters for two layers of width 192 from 192 channels, 295,680 from 384.

    Args:
        channels: of the map.
        width: of the layers that read it.
        positions: keys tell the place of their cell (F11).
        layers: how many read it.
    """

    def __init__(self, channels: int, width: int, *, positions: bool, layers: int = 2) -> None:
        super().__init__()
        self.positions = positions
        self.keys = nn.Linear(channels, layers * width)
        self.values = nn.Linear(channels, layers * width)

    def forward(self, level: Tensor, name: str) -> dict[str, Tensor]:
        """Map [B, h, w, C] -> maps "<name>_keys", "<name>_values", the layers' side by side."""
        placed = level
        if self.positions:
            height, width, channels = level.shape[1:]
            table = position_table((height, width), channels, level)
            placed = level + table.view(height, width, channels)
        return {f"{name}_keys": self.keys(placed), f"{name}_values": self.values(level)}


class NumberHead(nn.Sequential):
    """Linear(C -> 2 C), GELU, Linear(2 C -> 1): the number a query ends in (74,497 at 192).

    It is computed in at least float32, outside autocast.

    Args:
        channels: of the queries.
        bias: of the last layer at the start; None leaves it to PyTorch.
        low: round the number to bfloat16, as recorded (F7).
    """

    def __init__(self, channels: int, bias: float | None, low: bool) -> None:
        last = nn.Linear(2 * channels, 1)
        if bias is not None:
            nn.init.constant_(last.bias, bias)
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

    Args:
        x: (x, y), best within 0..1: whole numbers all have one code (F10).
        bands: l runs from 0 to bands - 1.
    """
    rates = 2 * math.pi * 2.0 ** torch.arange(bands, device=x.device, dtype=x.dtype)
    angles = x.unsqueeze(-1) * rates  # [..., 2, bands]
    return torch.stack([angles.sin(), angles.cos()], -2).flatten(-3)


def position_table(size: Size, channels: int, like: Tensor) -> Tensor:
    """Fixed code [h w, C] of a map's cells, row by row: sines and cosines of their row and column.

    Half of the channels tell the column, half the row, with wavelengths from 2 pi to 10,000 * 2 pi
    cells (Vaswani et al. 2017, section 3.5, once per axis); up to three that are left over tell
    nothing. It has no parameters.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)  # bfloat16 cannot count past 256 cells
    rates = 10_000 ** -torch.linspace(0, 1, channels // 4, device=like.device, dtype=dtype)
    y, x = (torch.arange(n, device=like.device, dtype=dtype)[:, None] * rates for n in size)
    rows = torch.cat([y.sin(), y.cos()], -1)[:, None].expand(-1, size[1], -1)
    columns = torch.cat([x.sin(), x.cos()], -1)[None].expand(size[0], -1, -1)
    code = torch.cat([columns, rows], -1).flatten(0, 1)
    return F.pad(code, (0, channels % 4)).to(like.dtype)


def resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear resize of [B, C, h, w] to `size` under the half-pixel rule."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def full_precision(x: Tensor) -> tuple[Tensor, contextlib.AbstractContextManager[None]]:
    """The tensor in at least float32 and a context without autocast (decisions 2, depth heads)."""
    wide = x if x.dtype == torch.float64 else x.float()
    return wide, torch.autocast(x.device.type, enabled=False)
