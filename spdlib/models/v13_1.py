"""v13.1: attention inside the encoder, routing on L3 and L4, a short list of tokens.

Two self-attention layers stand between stages 3 and 4 of the encoder. B1 and B2 are v13's. B3a
reads all cells of L3 and routes the query to 20 of them, B3b reads L4 and routes it to 10. There is
no B4: B5 attends to those cells and to L2, L3 and L4 at the query itself, 33 tokens. Experiments 5
to 7 ran this.

A scene's maps: v13's "L1".."L4"; "b3a_keys", "b3a_values", "b3b_keys", "b3b_values", both layers
of a block side by side; "g3", "g4", what B5 sees of routed cells, and "V2".."V4", what it sees of
the query's own place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from spdlib.geometry import GridRule
from spdlib.models import v13_blocks
from spdlib.models.attention import GlobalTokens, MapAttention
from spdlib.models.base import Caption
from spdlib.models.encoders import CONVNEXT_V2_TINY
from spdlib.models.layers import standardised
from spdlib.models.options import Count, ModelConfig
from spdlib.models.registry import register
from spdlib.models.sampling import gather_rows
from spdlib.models.v13 import V13, V13Options
from spdlib.models.v13_blocks import B3, CHANNELS, VALUE_REACH, WIDTH, Queries, ValueMaps
from spdlib.scene import Maps


@dataclass(frozen=True)
class V131Options(V13Options):
    """Options of v13.1: those of all v13 networks, and these.

    Attributes:
        inserted_attention: the attention on L3 starts as the identity ("zero"), so that stage 4
            keeps its trained input, or at "random" (F13).
        head_bias: the head starts at the "median" depth of NYU, as run, or at "zero", 1 m (F17c).
        routed_l3, routed_l4: cells of L3 and L4 that a query is routed to.
    """

    inserted_attention: Literal["zero", "random"] = "zero"
    head_bias: Literal["median", "zero"] = "median"
    routed_l3: Count = 20
    routed_l4: Count = 10


class Precompute(nn.Module):
    """What is projected once per image, but not for B1 (690,624); `coded` as in v13."""

    def __init__(self, coded: bool) -> None:
        super().__init__()
        self.b3a_tokens = GlobalTokens(CHANNELS[2], WIDTH, positions=coded)
        self.b3b_tokens = GlobalTokens(CHANNELS[3], WIDTH, positions=coded)
        self.g3 = nn.Linear(CHANNELS[2], WIDTH)
        self.g4 = nn.Linear(CHANNELS[3], WIDTH)
        self.values = ValueMaps()

    def forward(self, levels: Maps) -> dict[str, Tensor]:
        """The neck's levels [B, h, w, C_l] -> maps by name."""
        return {
            **self.b3a_tokens(levels["L3"], "b3a"),
            **self.b3b_tokens(levels["L4"], "b3b"),
            "g3": self.g3(levels["L3"]),
            "g4": self.g4(levels["L4"]),
            **self.values(levels),
        }


class B1(v13_blocks.B1):
    """v13's B1, and the type codes of the tokens at the query itself (140,048)."""

    def __init__(self, unit: int) -> None:
        super().__init__(unit)
        self.central_code = nn.Parameter(torch.zeros(len(VALUE_REACH), WIDTH))

    def central(self, queries: Queries) -> dict[str, Tensor]:
        """Tokens [B, K, 1, 192] of L2, L3 and L4 at the query."""
        return {
            f"L{name[1]}": queries.read(name, self._place(queries, name).unsqueeze(2)) + code
            for name, code in zip(VALUE_REACH, self.central_code, strict=True)
        }

    @staticmethod
    def _place(queries: Queries, name: str) -> Tensor:
        """Pixels [B, K, 2]: the query, which the recorded rule seeks on L1's grid.

        That grid runs from the first cell's centre to the last one's, on every map.
        """
        if queries.rule is GridRule.HALF_PIXEL:
            return queries.points
        own, fine = (queries.extent() - queries.stride(level) for level in (name, "L1"))
        return queries.points * (own / fine)


class B5(v13_blocks.B5):
    """v13's B5 over the 33 tokens, and the type codes of routed cells (1,336,128)."""

    def __init__(self) -> None:
        super().__init__(norms=3, dropout=0.0)
        self.routed_code = nn.Parameter(torch.zeros(2, WIDTH))

    def routed(self, cells3: Tensor, cells4: Tensor, queries: Queries) -> dict[str, Tensor]:
        """Tokens [B, K, R, 192] of cells [B, K, R] of L3 and L4, by number: row * w + column."""
        tokens = {}
        for name, cells, code in zip(("g3", "g4"), (cells3, cells4), self.routed_code, strict=True):
            level, width = queries.maps[name], queries.size(name)[1]
            tokens[f"routed L{name[1]}"] = gather_rows(level, cells % width, cells // width) + code
        return tokens

    def read(self, h: Tensor, tokens: Sequence[Tensor], fast: bool) -> tuple[Tensor, Tensor]:
        """As v13's, but of plain tokens: so few are sooner joined than read part by part."""
        return super().read(h, [standardised(torch.cat(list(tokens), 2))], fast)


@register("v13_1", encoder=CONVNEXT_V2_TINY, image_size=(256, 320))
class V131(V13):
    """v13.1 as experiments 5 to 7 ran it; 39,978,897."""

    Options = V131Options
    idea = "attention inside the encoder; routed to cells of L3 and L4: 33 tokens instead of 123"
    first_block = B1
    routed_levels = ("L3", "L4")
    b1: B1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        options = self.options
        self.level3_attention = MapAttention.inserted(
            self.encoder, options.inserted_attention, positions=self.coded
        )
        self.precompute = Precompute(self.coded)
        self.b3a = B3("b3a", "L3", options.routed_l3, self.dropout)
        self.b3b = B3("b3b", "L4", options.routed_l4, self.dropout)
        self.b5 = B5()

    def projected(self, levels: Maps) -> dict[str, Tensor]:
        """Keys and values of B3a and B3b, and the maps of B5's tokens."""
        return self.precompute(levels)

    def run(self, queries: Queries) -> Tensor:
        """B1, B2, B3a, B3b, B5 and the head."""
        h, tokens, pixels = self.b1(queries)
        h = self.b2(h, tokens, pixels, queries)
        h, cells3, _ = self.b3a(h, queries)
        h, cells4, _ = self.b3b(h, queries)
        tokens = {**self.b1.central(queries), **self.b5.routed(cells3, cells4, queries)}
        h = self.b5(h, tokens, queries)
        return self.depth(h, queries)

    def captions(self) -> dict[str, Caption]:
        """Titles and details of the blocks, for diagrams."""
        three, four = self.options.routed_l3, self.options.routed_l4
        own = {"b5": ("B5: read all finds", f"3 + {three} + {four} tokens, 3 layers")}
        return super().captions() | own
