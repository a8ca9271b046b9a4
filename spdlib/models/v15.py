"""v15: a DPT decoder split into a dense global path and a per-query local path.

The global path fuses the two coarse levels into the map s8 once per image. The local path of v15.2
starts a query as s8's value there and lets it read 5x5 neighbourhoods by cross-attention: first of
s8 and L2 (50 tokens), then of L1 (25 tokens). It exists in three forms of one function:

* `plain`: tokens are read, keys and values projected, per query. `execution = "reference"`.
* `folded`: the key projection moves into the query and the value projection behind the weighted
  sum, and each neighbourhood is read as one block of 6x6 cells. `execution = "fast"`.
* `lattice`: all sites of L1's grid at once, keys and values projected at the maps' own size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.geometry import Size, cells_to_pixels, grid_size, pixels_to_cells, size_of
from spdlib.inspection import Probe, Reads, Stage
from spdlib.models.base import Caption, DepthModel
from spdlib.models.base import count_parameters as count
from spdlib.models.layers import (
    MEDIAN_DEPTH,
    FeedForward,
    ResidualConvUnit,
    channels_last,
    full_precision,
    resize,
    start_at,
)
from spdlib.models.necks import CAPTIONS, PyramidNeck, ViTNeck
from spdlib.models.options import ModelConfig, Options
from spdlib.models.registry import register
from spdlib.models.sampling import (
    bilinear_points,
    block,
    interpolate_block,
    neighbourhood,
    scatter_block,
    square,
)
from spdlib.scene import Answer, Maps

WIDTH, HEADS, SIDE = 64, 4, 5


class GlobalPath(nn.Module):
    """DPT fusion of L4 and L3 into the map s8 at L2's size (229,888 parameters).

    DPT puts each 1x1 convolution after the upsampling. The two commute (bilinear weights sum
    to one), so it runs before, on a quarter of the cells.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.rcu4 = ResidualConvUnit(width)
        self.out4 = nn.Conv2d(width, width, 1)
        self.rcu3 = ResidualConvUnit(width)
        self.rcu3_merge = ResidualConvUnit(width)
        self.out3 = nn.Conv2d(width, width, 1)

    def forward(self, level2: Tensor, level3: Tensor, level4: Tensor) -> Tensor:
        """Levels [B, C, h, w] -> s8 [B, C, h2, w2]."""
        r4 = resize(self.out4(self.rcu4(level4)), size_of(level3))
        merged = self.rcu3_merge(self.rcu3(level3) + r4)
        return resize(self.out3(merged), size_of(level2))


class CrossAttention(nn.Module):
    """x += MHA(LN x, keys); x += FFN(LN x): 4 heads of 16, keys not normalised (49,984).

    `plain`, `folded` and `lattice` are one attention in three execution forms. A stage's S source
    maps lie side by side in the channels; its tokens are the 25 cells, and in each cell the
    sources: 25 S tokens, with one embedding ("code") each.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm_q = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = FeedForward(width)

    def plain(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Queries x [B, K, C], tokens [B, K, T, C] with codes -> x, weights [B, K, heads, T]."""
        keys, values = self._split(self.key(tokens)), self._split(self.value(tokens))
        weights = torch.einsum("bkhd,bkthd->bkht", self._query(x), keys).softmax(-1)
        return self._finish(x, torch.einsum("bkht,bkthd->bkhd", weights, values)), weights

    def folded(self, x: Tensor, rows: Tensor, fractions: Tensor, codes: Tensor) -> Tensor:
        """Queries x [B, K, C] read blocks of unprojected cells: rows [B, K, 36, S C], see `block`.

        The key projection goes into the query, the value projection behind the weighted sum; codes
        [25 S, C] and biases are the same for all queries and are projected once.
        """
        cells = rows.unflatten(-1, (-1, x.shape[-1])).flatten(2, 3)  # [B, K, 36 S, C]
        query = self._query(x)
        folded = torch.einsum("bkhd,hdc->bkhc", query, self._per_head(self.key))
        on_cells = (folded @ cells.mT).unflatten(-1, (SIDE + 1, SIDE + 1, -1))
        scores = interpolate_block(on_cells, fractions).flatten(3)
        scores = scores + torch.einsum("bkhd,thd->bkht", query, self._split(self.key(codes)))
        weights = scores.softmax(-1)  # [B, K, heads, 25 S]
        shares = scatter_block(weights.unflatten(-1, (SIDE, SIDE, -1)), fractions).flatten(3)
        attended = torch.einsum("bkhc,hdc->bkhd", shares @ cells, self._per_head(self.value))
        constant = torch.einsum("bkht,thd->bkhd", weights, self._split(self.value(codes)))
        return self._finish(x, attended + constant)

    def lattice(self, x: Tensor, maps: Tensor, codes: Tensor) -> Tensor:
        """Queries x [B, h, w, C] at all lattice sites read maps of this or half the size at once.

        Keys and values are projected at the maps' own size, then upsampled; neighbours are shifted
        views, taken one at a time, so that no map is copied 25 times, in training neither.
        """
        ratio = x.shape[1] // maps.shape[1]
        query = self._query(x)
        offsets = torch.einsum("byxhd,thd->bthyx", query, self._split(self.key(codes)))
        query = query.permute(0, 3, 4, 1, 2).contiguous()  # [B, heads, 16, h, w]
        scores = [(query * key).sum(2) for key in _shifts(maps, self.key.weight, ratio)]
        weights = (torch.stack(scores, 1) + offsets).softmax(1)  # [B, tokens, heads, h, w]
        attended = torch.zeros_like(query)
        values = _shifts(maps, self.value.weight, ratio)
        for value, weight in zip(values, weights.unbind(1), strict=True):
            attended = attended + weight.unsqueeze(2) * value
        constant = torch.einsum("bthyx,thd->byxhd", weights, self._split(self.value(codes)))
        return self._finish(x, attended.permute(0, 3, 4, 1, 2) + constant)

    def _query(self, x: Tensor) -> Tensor:
        """Scaled per-head queries [..., heads, 16] of x [..., C]."""
        query = self._split(self.query(self.norm_q(x)))
        return query / math.sqrt(query.shape[-1])

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attended values [..., heads, 16] and the feed-forward to x [..., C]."""
        x = x + self.out(attended.flatten(-2))
        return x + self.ffn(self.norm_ffn(x))

    def _split(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., heads, 16]."""
        return x.unflatten(-1, (HEADS, -1))

    def _per_head(self, layer: nn.Linear) -> Tensor:
        """Weight [heads, 16, C] of a projection, without its bias."""
        return layer.weight.unflatten(0, (HEADS, -1))


class LocalPath(nn.Module):
    """v15.2's local path: a query, two cross-attention stages, a depth head (110,209).

    It reads two maps: "s8_L2", [B, h2, w2, 2 C], s8 and L2 side by side, so that one read fetches
    both, and "L1", [B, 2 h2, 2 w2, C].

    Fresh embeddings are N(0, 1) and the head has PyTorch's bias, as recorded; see `start_near`.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        last = nn.Linear(128, 1)
        self.source_code = nn.Parameter(torch.empty(3, width))
        self.position_code = nn.Parameter(torch.empty(SIDE * SIDE, width))
        self.coarse = CrossAttention(width)
        self.fine = CrossAttention(width)
        self.head = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), last)
        nn.init.normal_(self.source_code)
        nn.init.normal_(self.position_code)

    @torch.no_grad()
    def start_near(self, depth: float) -> None:
        """Fresh embeddings shrink to N(0, 0.02^2), so that what tokens hold outweighs their places.

        The head then starts at `depth` metres.
        """
        self.source_code.mul_(0.02)
        self.position_code.mul_(0.02)
        start_at(self.head[-1], math.log(math.expm1(depth)))

    def codes(self) -> tuple[Tensor, Tensor]:
        """Embeddings of the coarse tokens [50, C] (s8 and L2 of each cell) and the fine [25, C]."""
        coarse = self.position_code[:, None] + self.source_code[:2]
        return coarse.flatten(0, 1), self.position_code + self.source_code[2]

    def depth(self, x: Tensor) -> Tensor:
        """Depth [...] in metres of finished queries [..., C]; at least float32."""
        wide, no_autocast = full_precision(x)
        with no_autocast:
            return F.softplus(self.head(wide)).squeeze(-1)

    def plain(
        self, maps: Maps, points: Tensor, image_size: Size, probes: list[Probe] | None = None
    ) -> Tensor:
        """Depth [B, K] at points [B, K, 2]: the reference form, which may add to `probes`."""
        coarse_codes, fine_codes = self.codes()
        x = bilinear_points(_s8(maps), points, image_size)
        coarse = neighbourhood(maps["s8_L2"], points, image_size, SIDE)
        coarse = coarse.unflatten(-1, (2, -1)).flatten(2, 3)  # [B, K, 50, C]
        x, at_coarse = self.coarse.plain(x, coarse + coarse_codes)
        fine = neighbourhood(maps["L1"], points, image_size, SIDE)
        x, at_fine = self.fine.plain(x, fine + fine_codes)
        if probes is not None:
            of_coarse = _around(maps["s8_L2"], points, image_size).repeat_interleave(2, 2)
            of_fine = _around(maps["L1"], points, image_size)
            about, two = f"{SIDE}×{SIDE} cells of", ("s8", "L2")
            probes += [
                Reads("coarse", f"{about} s8 and L2", of_coarse, at_coarse.mean(2), two * 25, True),
                Reads("fine", f"{about} L1", of_fine, at_fine.mean(2), ("L1",) * 25, True),
            ]
        return self.depth(x)

    def folded(self, maps: Maps, points: Tensor, image_size: Size) -> Tensor:
        """Depth [B, K] at points [B, K, 2]: the default form."""
        coarse_codes, fine_codes = self.codes()
        rows, fractions = block(maps["s8_L2"], points, image_size, SIDE)
        x = bilinear_points(_s8(maps), points, image_size)
        x = self.coarse.folded(x, rows, fractions, coarse_codes)
        rows, fractions = block(maps["L1"], points, image_size, SIDE)
        return self.depth(self.fine.folded(x, rows, fractions, fine_codes))

    def lattice(self, maps: Maps) -> Tensor:
        """Depth [B, h1, w1] at all sites of L1's grid."""
        coarse_codes, fine_codes = self.codes()
        x = resize(_s8(maps).permute(0, 3, 1, 2), grid_size(maps["L1"])).permute(0, 2, 3, 1)
        x = self.coarse.lattice(x, maps["s8_L2"], coarse_codes)
        return self.depth(self.fine.lattice(x, maps["L1"], fine_codes))


@dataclass(frozen=True)
class V152Options(Options):
    """Options of v15.2.

    Attributes:
        init: the local path starts near 2.5 m with small embeddings, or as "recorded".
    """

    init: Literal["default", "recorded"] = "default"


@register("v15_2", encoder="vit_small_patch14_dinov2", image_size=(350, 476))
class V152(DepthModel):
    """v15.2: encoder, neck, global path, local path of two cross-attention stages."""

    Options = V152Options
    idea = "coarse levels fused once per image; a query attends to 75 tokens around it"
    has_dense = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        neck = ViTNeck if self.encoder.is_vit else PyramidNeck
        self.neck = neck(self.encoder.channels, WIDTH)
        self.global_path = GlobalPath(WIDTH)
        self.local_path = LocalPath(WIDTH)
        if self.options.init == "default":
            self.local_path.start_near(MEDIAN_DEPTH)

    def maps(self, images: Tensor) -> Maps:
        """Padded images [B, 3, H, W] -> "s8_L2" and "L1", channels-last (see `LocalPath`).

        L1 is twice L2, as the dense path needs, for sizes are multiples of the encoder's.
        """
        level1, level2, level3, level4 = self.neck(self.encoder(images))
        s8 = self.global_path(level2, level3, level4)
        return {"s8_L2": channels_last(torch.cat([s8, level2], 1)), "L1": channels_last(level1)}

    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """Depth [B, K] at points [B, K, 2] in pixels of the padded image."""
        local = self.local_path
        form = local.folded if self.fast else local.plain
        return Answer(form(maps, points, image_size))

    def probes(self, maps: Maps, points: Tensor, image_size: Size) -> list[Probe]:
        """Where both stages of the local path read for K queries, and by which weights."""
        found: list[Probe] = []
        self.local_path.plain(maps, points, image_size, found)
        return found

    def stages(self, image_size: Size | None = None) -> list[Stage]:
        """As for every network, the local path in its three steps."""
        local, each = self.local_path, "tokens\nattention, FFN"
        once = [stage for stage in super().stages(image_size) if stage.when == "image"]
        return [
            *once,
            Stage("query", "start", "s8 at (u, v)"),
            Stage("query", "read coarse", f"5×5 of s8 and L2: 50 {each}", count(local.coarse)),
            Stage("query", "read fine", f"5×5 of L1: 25 {each}", count(local.fine)),
            Stage("query", "head", "softplus", count(local.head)),
        ]

    def captions(self) -> dict[str, Caption]:
        """What a diagram says of the parts."""
        return {
            **super().captions(),
            **CAPTIONS,
            "global_path": ("global path", "DPT fusion of L4 and L3: s8"),
        }

    def decode_lattice(self, maps: Maps) -> Tensor:
        """Depth [B, h1, w1] at all sites of L1's grid."""
        return self.local_path.lattice(maps)


def _around(level: Tensor, points: Tensor, image_size: Size) -> Tensor:
    """Pixels [B, K, 25, 2] of the places that `neighbourhood` reads on a map [B, h, w, C]."""
    size = grid_size(level)
    cells = pixels_to_cells(points, image_size, size).unsqueeze(2)
    return cells_to_pixels(cells + square(SIDE, cells), image_size, size)


def _s8(maps: Maps) -> Tensor:
    """The map s8 [B, h2, w2, C]."""
    return maps["s8_L2"].chunk(2, -1)[0]


def _shifts(maps: Tensor, weight: Tensor, ratio: int) -> Iterator[Tensor]:
    """Projected tokens of every lattice site, one at a time: views [B, heads, 16, h, w].

    Maps [B, h / ratio, w / ratio, S C] are upsampled, so that their neighbours are `ratio` sites
    apart: one cell of the map itself. Borders are replicated. Channels come first here: shifted
    rows then stay contiguous, which is 2 to 3 times faster on a CPU.
    """
    projected = F.linear(maps.unflatten(-1, (-1, weight.shape[1])), weight)  # [B, h, w, S, C]
    level = projected.flatten(-2).permute(0, 3, 1, 2).contiguous()
    height, width = ratio * level.shape[-2], ratio * level.shape[-1]
    if ratio > 1:
        level = resize(level, (height, width))
    reach = ratio * (SIDE // 2)
    padded = F.pad(level, (reach,) * 4, mode="replicate")
    sources = padded.unflatten(1, (projected.shape[-2], HEADS, -1)).unbind(1)
    for y in range(0, ratio * SIDE, ratio):
        for x in range(0, ratio * SIDE, ratio):
            for source in sources:
                yield source[..., y : y + height, x : x + width]
