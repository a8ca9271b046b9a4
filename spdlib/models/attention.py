"""Attention in its forms: projected tokens, a query's own tokens, all cells of a map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.models.layers import FeedForward, full_precision, position_table, start_at_zero


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
        queries, keys, values = (self._split(t) for t in (self.query(x), keys, values))
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return self.out(found.transpose(-3, -2).flatten(-2))

    def weights(self, x: Tensor, keys: Tensor) -> Tensor:
        """Attention weights [..., heads, Q, T] of queries [..., Q, C] on keys [..., T, C].

        They are computed in at least float32: routing by bfloat16 weights would meet many ties.
        """
        queries, no_autocast = full_precision(self._split(self.query(x)))
        with no_autocast:
            scores = queries @ self._split(keys).to(queries.dtype).mT
            scores = scores / math.sqrt(queries.shape[-1])
            return scores.softmax(-1)

    def read_weighted(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """`read`, and its weights [..., heads, Q, T] before dropout, which routing needs."""
        weights = self.weights(x, keys)
        kept = F.dropout(weights, self.dropout, self.training).to(values.dtype)
        found = kept @ self._split(values)
        return self.out(found.transpose(-3, -2).flatten(-2)), weights

    def read_own(
        self, x: Tensor, tokens: Sequence[Tensor], norm: nn.LayerNorm, fast: bool
    ) -> tuple[Tensor, Tensor]:
        """Every query reads tokens of its own, behind a LayerNorm.

        Args:
            x: queries [..., C].
            tokens: `standardised` [..., T_i, D], T in sum.
            norm: of the tokens, whose weight and bias are still to be applied.
            fast: no token is projected; else each, to a key and a value.

        Returns:
            [..., C] and the weights [..., heads, T] before dropout.
        """
        return (self._read_folded if fast else self._read_projected)(x, tokens, norm)

    def _read_projected(
        self, x: Tensor, tokens: Sequence[Tensor], norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """The reference form: keys and values of all tokens, then `read_weighted`."""
        joined = torch.cat(list(tokens), -2) * norm.weight + norm.bias
        found, weights = self.read_weighted(x.unsqueeze(-2), self.key(joined), self.value(joined))
        return found.squeeze(-2), weights.squeeze(-2)

    def _read_folded(
        self, x: Tensor, tokens: Sequence[Tensor], norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """The fast form: a product with 91 tokens' keys is one with the tokens and a folded query.

        The key projection goes into the query, the value projection behind the weighted sum, and
        into both the norm's weight and bias. Nothing is gained by joining the tokens.
        """
        key, key_bias = self._behind(norm, self.key)
        value, value_bias = self._behind(norm, self.value)
        query = self._per_head(self.query(x))
        query = query / math.sqrt(query.shape[-1])
        constant = (query * key_bias).sum(-1, keepdim=True)
        folded = torch.einsum("...hd,hdc->...hc", query, key)
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


class CrossLayer(nn.Module):
    """h += O MHA(LN h, tokens); h += FFN(LN h): what follows the attention.

    370,752 parameters at width 192; 444,864 if it projects tokens of 192 channels.

    Args:
        width: channels of the queries.
        heads: of the attention.
        tokens: channels of the tokens that are projected here, if any.
        dropout: on the attention weights, in training.
    """

    def __init__(self, width: int, heads: int, tokens: int | None, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, tokens, dropout)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = FeedForward(width)

    def finish(self, h: Tensor, found: Tensor) -> Tensor:
        """Queries h [B, K, C] and what the attention found for them -> h."""
        h = h + found
        return h + self.ffn(self.norm_ffn(h))


class SharedLayer(CrossLayer):
    """A layer whose queries all read the same tokens, projected once per image."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, None, dropout)

    def forward(self, h: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Queries h [B, K, C], keys and values [B, T, C] -> h, and the weights [B, heads, K, T]."""
        found, weights = self.attention.read_weighted(self.norm(h), keys, values)
        return self.finish(h, found), weights


class OwnLayer(CrossLayer):
    """A layer whose queries read tokens of their own, see `Attention.read_own`."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, width, dropout)

    def forward(
        self, h: Tensor, tokens: Sequence[Tensor], norm: nn.LayerNorm, fast: bool
    ) -> tuple[Tensor, Tensor]:
        """Queries h [B, K, C] and `standardised` tokens -> h, and the weights [B, K, heads, T]."""
        found, weights = self.attention.read_own(self.norm(h), tokens, norm, fast)
        return self.finish(h, found), weights


def head_count(channels: int) -> int:
    """Heads of an attention over an encoder's own channels: 64 wide if that divides them, else 32.

    Widths that neither divides (48 in mobilenetv2_050) take the largest smaller power of two that
    does.
    """
    return channels // next(width for width in (64, 32, 16, 8, 4, 2, 1) if channels % width == 0)


class SelfAttention(nn.Module):
    """x += attention(LN x); x += FFN(LN x) over all cells of a map.

    Args:
        channels: of the map.
        heads: of the attention.
        dropout: on the attention weights, in training.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(channels, heads, tokens=channels, dropout=dropout)
        self.norm_ffn = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels)

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
        dropout: see `SelfAttention`.
    """

    def __init__(
        self, channels: int, heads: int, *, positions: bool, layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__(SelfAttention(channels, heads, dropout) for _ in range(layers))
        self.positions = positions

    def start_as_identity(self) -> None:
        """The layers add nothing yet, so that what follows keeps its trained input (F13)."""
        for layer in self:
            start_at_zero(layer.attention.out, layer.ffn[-1])

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
