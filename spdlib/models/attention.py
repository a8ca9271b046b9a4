"""Attention in its forms: projected tokens, a query's own tokens, all cells of a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.models.encoders import Encoder
from spdlib.models.layers import FeedForward, full_precision, position_table, start_at_zero
from spdlib.scene import Maps


class Attention(nn.Module):
    """Multi-head attention with biased projections; the caller normalises its inputs.

    Args:
        width: channels of queries and of the result; each head has width / heads of them.
        heads: number of attention heads.
        tokens: channels of the tokens that `key` and `value` project; None if both come projected.
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

    def read(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries [..., Q, C] read projected keys and values [..., T, C] -> [..., Q, C]."""
        queries, keys, values = (self._split(t) for t in (self.query(x), keys, values))
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return self.out(found.transpose(-3, -2).flatten(-2))

    def read_weighted(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """`read`, and its weights [..., heads, Q, T] before dropout, which routing needs.

        They are computed in at least float32: routing by bfloat16 weights would meet many ties.
        """
        queries, no_autocast = full_precision(self._split(self.query(x)))
        with no_autocast:
            scores = queries @ self._split(keys).to(queries.dtype).mT
            weights = (scores / math.sqrt(queries.shape[-1])).softmax(-1)
        kept = F.dropout(weights, self.dropout, self.training).to(values.dtype)
        found = kept @ self._split(values)
        return self.out(found.transpose(-3, -2).flatten(-2)), weights

    def read_own(
        self, x: Tensor, tokens: Sequence[Tensor], norm: nn.LayerNorm, fast: bool
    ) -> tuple[Tensor, Tensor]:
        """Queries [..., C] each read tokens of their own, [..., T_i, D], T in sum.

        The tokens are `standardised`; weight and bias of their norm are still to be applied. The
        reference form projects all tokens. The fast form puts the key projection into the query and
        the value projection behind the weighted sum: a product with 91 tokens' keys becomes one
        with the tokens themselves, which need not be copied into one tensor.

        Returns:
            [..., C] and the weights [..., heads, T] before dropout.
        """
        if not fast:
            joined = torch.cat(list(tokens), -2) * norm.weight + norm.bias
            keys, values = self.key(joined), self.value(joined)
            found, weights = self.read_weighted(x.unsqueeze(-2), keys, values)
            return found.squeeze(-2), weights.squeeze(-2)
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
    """h += MHA(LN h, tokens); h += FFN(LN h). See `Attention` for the arguments.

    370,752 parameters at width 192; 444,864 if it projects tokens of 192 channels.
    """

    def __init__(self, width: int, heads: int, tokens: int | None, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, tokens, dropout)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = FeedForward(width)

    def read_shared(self, h: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All queries [B, K, C] read the same tokens, projected once per image to [B, T, C].

        Returns:
            h [B, K, C] and the weights [B, heads, K, T].
        """
        found, weights = self.attention.read_weighted(self.norm(h), keys, values)
        return self.finish(h, found), weights

    def read_own(
        self, h: Tensor, tokens: Sequence[Tensor], norm: nn.LayerNorm, fast: bool
    ) -> tuple[Tensor, Tensor]:
        """`Attention.read_own` as a layer: h [B, K, C] and the weights [B, K, heads, T]."""
        found, weights = self.attention.read_own(self.norm(h), tokens, norm, fast)
        return self.finish(h, found), weights

    def finish(self, h: Tensor, found: Tensor) -> Tensor:
        """Queries h [B, K, C] and what the attention found for them -> h."""
        h = h + found
        return h + self.ffn(self.norm_ffn(h))


class SelfAttention(CrossLayer):
    """A layer in which all cells of a map attend to each other."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads, channels, dropout=0.1)

    def forward(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Map [B, C, h, w] -> [B, C, h, w]; positions [h w, C] join queries and keys only."""
        tokens = x.flatten(2).mT
        inside = self.norm(tokens)
        placed = inside if positions is None else inside + positions
        keys, values = self.attention.key(placed), self.attention.value(inside)
        tokens = self.finish(tokens, self.attention.read(placed, keys, values))
        return tokens.mT.unflatten(-1, x.shape[-2:])


class MapAttention(nn.ModuleList):
    """Two self-attention layers on one map; with positions they know where a cell lies (F11)."""

    def __init__(self, channels: int, heads: int, *, positions: bool) -> None:
        super().__init__(SelfAttention(channels, heads) for _ in range(2))
        self.positions = positions

    @classmethod
    def inserted(cls, encoder: Encoder, start: str, *, positions: bool) -> MapAttention:
        """Attention on L3, between stages 3 and 4 of an encoder whose channels it keeps.

        With `start` "zero" it adds nothing at first, so that stage 4 keeps its trained input (F13).
        """
        channels = encoder.channels[2]
        layers = cls(channels, head_count(channels), positions=positions)
        encoder.insert(layers)
        if start == "zero":
            layer: Any
            for layer in layers:
                start_at_zero(layer.attention.out, layer.ffn[-1])
        return layers

    def forward(self, level: Tensor) -> Tensor:
        """Map [B, C, h, w] -> [B, C, h, w]."""
        channels, height, width = level.shape[1:]
        table = position_table((height, width), channels, level) if self.positions else None
        for layer in self:
            level = layer(level, table)
        return level


def head_count(channels: int) -> int:
    """Heads of an attention over an encoder's own channels, 64 wide or as near as divides them."""
    return channels // math.gcd(channels, 64)


class GlobalTokens(nn.Module):
    """Keys and values of all cells of a map for the two layers that read them, once per image.

    With positions keys hold the place of their cell (F11). 148,224 parameters for layers of width
    192 from 192 channels, 295,680 from 384.
    """

    def __init__(self, channels: int, width: int, *, positions: bool) -> None:
        super().__init__()
        self.positions = positions
        self.keys = nn.Linear(channels, 2 * width)
        self.values = nn.Linear(channels, 2 * width)

    def forward(self, level: Tensor, name: str) -> dict[str, Tensor]:
        """Map [B, h, w, C] -> maps "<name>_keys", "<name>_values", both layers' side by side."""
        placed = level
        if self.positions:
            height, width, channels = level.shape[1:]
            placed = level + position_table((height, width), channels, level).view(level.shape[1:])
        return {f"{name}_keys": self.keys(placed), f"{name}_values": self.values(level)}


def layer_tokens(maps: Maps, name: str) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [B, h w, C] of each layer that reads the `GlobalTokens` of this name."""
    sides = (maps[f"{name}_{kind}"].flatten(1, 2).chunk(2, -1) for kind in ("keys", "values"))
    return list(zip(*sides, strict=True))
