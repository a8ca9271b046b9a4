"""v13: five blocks B1-B5 answer every query by itself (sheet v13).

B1 reads 91 tokens around the query. B2 attends to them, B3 to all cells of L4, and the query is
routed to the cells that B3 looked at most. B4 reads the image there, deformably, and B5 attends to
all of it. Three networks are made of these blocks:

* `V13Calibrated`: experiments 1 and 2, B1-B3 on a ConvNeXt V2-T, calibrated inverse depth.
* `V13LogDepth`: experiments 3 and 4, B1-B5 on a ConvNeXt V2-T, log-depth.
* `V13Plan`: document 002, B1-B5 on a frozen ViT, calibrated inverse depth; never trained.

Each exists in two forms of one function. "literal" is the sheet, word by word. "fast" (the default)
projects maps instead of the tokens read from them, sums the corners of bilinear reads without
storing them, reads a head's own channels only, projects none of a query's own tokens to keys and
values (audit 5.5), and standardises each of them once, for the norms of all layers that read it.

A scene's maps, channels-last: "L1".."L4" (the neck; fast, L2 and L4 as B1 projects them);
"b3_keys", "b3_values", both layers side by side; "anchors", the sheet's g, and "V2".."V4", what B4
reads of L2 to L4; "calibration", two numbers of the image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.errors import ModelError
from spdlib.geometry import GridRule, Size, cells_to_pixels, pixels_to_cells
from spdlib.models.base import (
    DepthModel,
    ModelConfig,
    evaluating,
    refuse_plain_vit,
)
from spdlib.models.encoders import padded_size
from spdlib.models.layers import (
    HEAD_BIAS,
    Attention,
    ChannelLayerNorm,
    FeedForward,
    GlobalTokens,
    MapAttention,
    NumberHead,
    fourier_code,
    full_precision,
    resize,
    standardised,
)
from spdlib.models.necks import PyramidNeck
from spdlib.models.sampling import (
    bilinear_cells,
    deformable_read,
    gather_rows,
    grid_sampled,
    literal_deformable_read,
    square,
)
from spdlib.scene import Maps

LEVELS = ("L1", "L2", "L3", "L4")
CHANNELS = (64, 128, 192, 384)
"""Widths of the four levels behind the neck."""

WIDTH, HEADS = 192, 6
SIDE, CENTRE = 5, 12
LEARNED, REACH = 8, 6
"""Learned offsets of B1, and how many cells of L1 they reach."""
CODE_UNIT = 16
"""Cells of L1 that an offset's code takes for one turn. Offsets span 2 x 6 cells: in units of fewer
than 12, some that differ would have one code (+3 and -3, +6 and -6 in units of 6)."""

LOCAL_BANDS, PLACE_BANDS = 4, 8
READS = 4
SPREADS = {"V2": 4.0, "V3": 2.0, "V4": 1.0}
"""How many of its cells B4's offsets reach on each value map."""


class Asked(NamedTuple):
    """What every block knows of one call: the maps, and how its K queries read them.

    Attributes:
        maps: of the scene.
        points: the queries [B, K, 2] in pixels of the padded image.
        image_size: height, width of that image.
        rule: decisions 1.
        fast: the form of the reads.
    """

    maps: Maps
    points: Tensor
    image_size: Size
    rule: GridRule
    fast: bool

    def size(self, name: str) -> Size:
        """Height, width of a map."""
        return self.maps[name].shape[1], self.maps[name].shape[2]

    def extent(self) -> Tensor:
        """Width, height of the image [2]."""
        return self.points.new_tensor([self.image_size[1], self.image_size[0]])

    def stride(self, name: str) -> Tensor:
        """Pixels from one cell of a map to the next [2]."""
        height, width = self.size(name)
        return self.extent() / self.points.new_tensor([width, height])

    def code(self, pixels: Tensor) -> Tensor:
        """Fourier code [..., 32] of pixels [..., 2] in units of the image."""
        return fourier_code(pixels / self.extent(), PLACE_BANDS).to(self.maps["L1"].dtype)

    def read(self, name: str, places: Tensor) -> Tensor:
        """Bilinear values [B, K, n, C] of a map at pixels [B, K, n, 2]."""
        read = bilinear_cells if self.fast else grid_sampled
        return read(self.maps[name], *self._cells(name, places))

    def read_heads(self, name: str, places: Tensor, weights: Tensor) -> Tensor:
        """Weighted reads [B, N, C] of a map, every head of its own channels.

        Args:
            name: of the map.
            places: pixels [B, N, heads, n, 2].
            weights: of the reads, [B, N, heads, n].
        """
        read = deformable_read if self.fast else literal_deformable_read
        cells, zeros = self._cells(name, places)
        return read(self.maps[name], cells, weights, zeros)

    def _cells(self, name: str, places: Tensor) -> tuple[Tensor, bool]:
        """Cells [..., 2] of a map at pixels [..., 2], and whether those outside count as zero."""
        cells = pixels_to_cells(places, self.image_size, self.size(name), self.rule)
        return cells, self.rule is GridRule.RECORDED


Answer = dict[str, Tensor]
"""Depth [B, K] under "depth", and what else `V13.explain` tells."""


class PlanNeck(nn.Module):
    """Taps of a ViT x4, x2, x1 and x1/2, each through Conv1x1 + LN (sheet section 2; 297,216).

    The sheet resizes first. A 1x1 convolution commutes with the bilinear resize (its weights sum to
    one), so it runs before, on a sixteenth of L1's cells. L4 averages the patches under each of its
    cells, 2x2 of an even grid; of an odd one, as 37x37, 2 or 3 a side that may overlap, so that its
    cells stay on the grid rule (audit C-co-10).
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = list(zip(channels, CHANNELS, strict=True))
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c, width in pairs)
        self.norm = nn.ModuleList(ChannelLayerNorm(width) for width in CHANNELS)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        """Four taps [B, C, h, w] -> [B, 64, 4h, 4w], [128, 2h, 2w], [192, h, w], [384, h/2, w/2].

        Raises:
            ModelError: fewer than 2x2 patches.
        """
        height, width = taps[0].shape[-2:]
        if min(height, width) < 2:
            raise ModelError(
                f"v13_plan's L4 averages 2x2 patches; this image has {height}x{width}. Use larger "
                "images"
            )
        halved = F.adaptive_avg_pool2d(taps[3], (height // 2, width // 2))
        levels = [layer(x) for layer, x in zip(self.project, [*taps[:3], halved], strict=True)]
        levels[0] = resize(levels[0], (4 * height, 4 * width))
        levels[1] = resize(levels[1], (2 * height, 2 * width))
        return [norm(level) for norm, level in zip(self.norm, levels, strict=True)]


class Calibration(nn.Module):
    """depth = 1 / (softplus(scale answer + shift) + 1e-6), both of the image's mean L4 (770)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(CHANNELS[3], 1)
        self.shift = nn.Linear(CHANNELS[3], 1)

    def forward(self, level4: Tensor) -> Tensor:
        """L4 [B, h, w, 384] -> scale, positive, and shift [B, 1, 1, 2], at least float32."""
        wide, no_autocast = full_precision(level4)
        with no_autocast:
            mean = wide.mean((1, 2), keepdim=True)
            return torch.cat([F.softplus(self.scale(mean)), self.shift(mean)], -1)

    @staticmethod
    def depth(answer: Tensor, calibration: Tensor) -> Tensor:
        """Depth [B, K] in metres of answers [B, K], at least float32."""
        scale, shift = calibration.to(answer.dtype).flatten(1).unsqueeze(1).unbind(-1)
        return 1 / (F.softplus(answer * scale + shift) + 1e-6)


class Precompute(nn.Module):
    """What is projected once per image but for B1 (505,344; 506,114 with calibration).

    Args:
        coded: B3's keys tell the place of their cell (F11).
        calibrated: whether there is a `Calibration`.
    """

    def __init__(self, coded: bool, calibrated: bool) -> None:
        super().__init__()
        self.b3_tokens = GlobalTokens(CHANNELS[3], WIDTH, positions=coded)
        self.anchors = nn.Linear(CHANNELS[3], WIDTH)  # the sheet's W_g
        self.values = value_layers()
        if calibrated:
            self.calibration = Calibration()


class CrossLayer(nn.Module):
    """h += O MHA(LN h, tokens); h += FFN(LN h): what follows the attention (370,752).

    Args:
        tokens: channels of the tokens that are projected here: 74,112 parameters more for 192.
        dropout: on the attention weights, in training.
    """

    def __init__(self, tokens: int | None, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = Attention(WIDTH, HEADS, tokens, dropout)
        self.norm_ffn = nn.LayerNorm(WIDTH)
        self.ffn = FeedForward(WIDTH)

    def finish(self, h: Tensor, found: Tensor) -> Tensor:
        """Queries h [B, K, C] and what the attention found for them -> h."""
        h = h + found
        return h + self.ffn(self.norm_ffn(h))


class SharedLayer(CrossLayer):
    """A layer whose queries all read the same tokens, projected once per image (370,752)."""

    def __init__(self, dropout: float) -> None:
        super().__init__(None, dropout)

    def forward(self, h: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Queries h [B, K, C], keys and values [B, T, C] -> h, and the weights [B, heads, K, T]."""
        found, weights = self.attention.read_weighted(self.norm(h), keys, values)
        return self.finish(h, found), weights


class OwnLayer(CrossLayer):
    """A layer whose queries read tokens of their own (444,864).

    Args:
        dropout: on the attention weights, in training.
        fast: no token is projected; else each, to a key and a value.
    """

    def __init__(self, dropout: float, fast: bool) -> None:
        super().__init__(WIDTH, dropout)
        self.fast = fast

    def forward(
        self, h: Tensor, tokens: Sequence[Tensor], norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """Queries h [B, K, C] read their tokens.

        Args:
            h: queries.
            tokens: [B, K, T_i, C], T in sum: fast, `standardised`; literal, all in one behind the
                norm.
            norm: of the tokens.

        Returns:
            h, and the weights [B, K, heads, T].
        """
        asked, attention = self.norm(h), self.attention
        if self.fast:
            found, weights = attention.read_own(asked, tokens, norm)
        else:
            (joined,) = tokens
            keys, values = attention.key(joined), attention.value(joined)
            read = attention.read_weighted(asked.unsqueeze(-2), keys, values)
            found, weights = (x.squeeze(-2) for x in read)
        return self.finish(h, found), weights


class OwnTokens(nn.Module):
    """Layers that read a query's own tokens through LayerNorms: B2 and B5 (890,112; 1,335,744).

    Args:
        layers: how many.
        norms: LayerNorms of the tokens, one a layer; the last one serves all layers that remain.
        dropout: on the attention weights, in training.
        fast: see `OwnLayer`.
    """

    def __init__(self, layers: int, norms: int, dropout: float, fast: bool) -> None:
        super().__init__()
        self.fast = fast
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(norms))
        self.layers = nn.ModuleList(OwnLayer(dropout, fast) for _ in range(layers))

    def forward(self, h: Tensor, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Queries h [B, K, C] read their tokens, layer after layer.

        Args:
            h: queries.
            tokens: [B, K, T_i, C], T in sum; fast, `standardised`, which all norms begin with.

        Returns:
            h, and the last layer's weights [B, K, heads, T].
        """
        joined = tokens if self.fast else [torch.cat(list(tokens), 2)]
        for number, layer in enumerate(self.layers):
            if number < len(self.norms):
                norm = self.norms[number]
                seen = joined if self.fast else [norm(part) for part in joined]
            h, weights = layer(h, seen, norm)
        return h, weights


class B1(nn.Module):
    """A query's seed and the 91 tokens around it (139,472).

    32 of L1: a 5x5 neighbourhood without its centre, 8 learned offsets. 25 of L2, 25 of L3, 9 of
    L4. Fast, L2 and L4 are projected as maps, without bias: cells outside the map of the recorded
    rule are zero before it.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.fast = options["sparse"] == "fast"
        # whole cells make whole turns and all have one code (F10): the recorded fault
        self.unit = CODE_UNIT if options["offset_code"] == "scaled" else 1
        self.offsets = nn.Linear(CHANNELS[0], 2 * LEARNED)
        self.local = nn.Linear(CHANNELS[0] + 4 * LOCAL_BANDS, WIDTH)
        self.value2 = nn.Linear(CHANNELS[1], WIDTH)
        self.value4 = nn.Linear(CHANNELS[3], WIDTH)
        self.seed = nn.Linear(CHANNELS[0] + 4 * PLACE_BANDS, WIDTH)
        self.type_code = nn.Parameter(torch.zeros(4, WIDTH))
        self.place_code = nn.Parameter(torch.empty(SIDE**2, WIDTH))
        nn.init.normal_(self.place_code, std=0.02)

    def maps(self, levels: Maps) -> dict[str, Tensor]:
        """The neck's levels [B, h, w, C_l] -> the maps that B1 reads, by the same names."""
        if not self.fast:
            return dict(levels)
        level2 = F.linear(levels["L2"], self.value2.weight)
        level4 = F.linear(levels["L4"], self.value4.weight)
        return {**levels, "L2": level2, "L4": level4}

    def forward(self, asked: Asked) -> tuple[Tensor, list[Tensor], Tensor]:
        """Seeds [B, K, 192], tokens [B, K, 32/25/25/9, 192] and the pixels they are read at."""
        feature = asked.read("L1", asked.points.unsqueeze(2)).squeeze(2)
        h = self.seed(torch.cat([feature, asked.code(asked.points)], -1))
        offsets = self._offsets(feature, asked.points)
        places = {
            name: asked.points.unsqueeze(2) + offset * asked.stride(name)
            for name, offset in offsets.items()
        }
        level1, *coarse = (asked.read(name, here) for name, here in places.items())
        tokens = [self._fine(level1, offsets["L1"]), *self._coarse(*coarse)]
        # what the layers add up stays in float32 under autocast
        return full_precision(h)[0], tokens, torch.cat(list(places.values()), 2)

    def _offsets(self, feature: Tensor, points: Tensor) -> dict[str, Tensor]:
        """Where tokens lie by level, [B, K, 32, 2], [25, 2], [25, 2] and [9, 2] in its cells."""
        five, three = square(SIDE, points), square(3, points)
        fixed = torch.cat([five[:CENTRE], five[CENTRE + 1 :]]).expand(*points.shape[:2], -1, -1)
        learned = REACH * torch.tanh(self.offsets(feature)).unflatten(-1, (LEARNED, 2))
        near = torch.cat([fixed, learned.to(points.dtype)], 2)
        return {"L1": near, "L2": five, "L3": five, "L4": three}

    def _fine(self, level1: Tensor, offsets: Tensor) -> Tensor:
        """Tokens [B, K, 32, 192] of reads of L1 [B, K, 32, 64] at offsets [B, K, 32, 2]."""
        codes = fourier_code(offsets / self.unit, LOCAL_BANDS).to(level1.dtype)
        return F.gelu(self.local(torch.cat([level1, codes], -1))) + self.type_code[0]

    def _coarse(self, level2: Tensor, level3: Tensor, level4: Tensor) -> list[Tensor]:
        """Tokens [B, K, 25, 192], [B, K, 25, 192] and [B, K, 9, 192] of reads of L2 to L4."""
        inner = self.place_code.unflatten(0, (SIDE, SIDE))[1:4, 1:4].flatten(0, 1)
        places = (self.place_code, self.place_code, inner)
        code2, code3, code4 = (p + e for p, e in zip(places, self.type_code[1:], strict=True))
        if self.fast:
            code2, code4 = code2 + self.value2.bias, code4 + self.value4.bias
        else:
            level2, level4 = self.value2(level2), self.value4(level4)
        return [level2 + code2, level3 + code3, level4 + code4]


class B3(nn.Module):
    """Two layers that read all cells of a level (741,504).

    Args:
        name: of their `GlobalTokens` in the maps.
        dropout: on the attention weights, in training.
    """

    def __init__(self, name: str, dropout: float) -> None:
        super().__init__()
        self.name = name
        self.layers = nn.ModuleList(SharedLayer(dropout) for _ in range(2))

    def forward(self, h: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
        """Queries h [B, K, 192] -> h, and the last weights [B, K, cells], mean of heads."""
        keys, values = (
            maps[f"{self.name}_{kind}"].flatten(1, 2).split(WIDTH, -1)
            for kind in ("keys", "values")
        )
        for layer, key, value in zip(self.layers, keys, values, strict=True):
            h, weights = layer(h, key, value)
        return h, weights.mean(1)


class B4(nn.Module):
    """What L2, L3 and L4 hold around the routed cells, the anchors: 72 reads each (159,384).

    Args:
        bounded: offsets reach `SPREADS` cells at most; the plan's have no bound.
        fast: `condition` projects the map of anchors, the query and the code one by one.
    """

    def __init__(self, bounded: bool, fast: bool) -> None:
        super().__init__()
        self.bounded, self.fast = bounded, fast
        self.condition = nn.Linear(2 * WIDTH + 4 * PLACE_BANDS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.offsets = nn.Linear(WIDTH, HEADS * len(SPREADS) * READS * 2)
        self.weights = nn.Linear(WIDTH, HEADS * len(SPREADS) * READS)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.type_code = nn.Parameter(torch.zeros(WIDTH))

    def maps(self, anchors: Tensor) -> dict[str, Tensor]:
        """The sheet's g [B, h4, w4, 192] -> "anchors"; fast, projected as `condition` does."""
        return {"anchors": F.linear(anchors, self._parts()[1]) if self.fast else anchors}

    def forward(self, h: Tensor, routed: Tensor, asked: Asked) -> tuple[Tensor, Tensor, Tensor]:
        """Queries h [B, K, 192] read around their routed cells [B, K, R].

        Returns:
            tokens [B, K, R, 192] without their type code, the pixels of the reads
            [B, K, R, 6, 3, 4, 2] and their weights [B, K, R, 6, 3, 4].
        """
        width = asked.size("anchors")[1]
        cells = torch.stack([routed % width, routed // width], -1)
        anchors = self._centres(cells, asked)
        u = self._conditioned(h, cells, anchors, asked)
        places = anchors[..., None, None, None, :] + self._offsets(u, asked)
        weights = self.weights(u).unflatten(-1, (HEADS, -1)).softmax(-1)
        weights = weights.unflatten(-1, (len(SPREADS), READS))
        where, shares = (x.flatten(1, 2).unbind(3) for x in (places, weights))
        found = [asked.read_heads(*x) for x in zip(SPREADS, where, shares, strict=True)]
        tokens = self.out(torch.stack(found).sum(0)).unflatten(1, routed.shape[1:])
        return tokens, places, weights

    def _centres(self, cells: Tensor, asked: Asked) -> Tensor:
        """Pixels [..., 2] of cells' centres; the recorded rule has them at 32 column + 16."""
        cells = cells.to(asked.points.dtype)
        centres = cells_to_pixels(cells, asked.image_size, asked.size("anchors"))
        return centres + 0.5 if asked.rule is GridRule.RECORDED else centres

    def _conditioned(self, h: Tensor, cells: Tensor, anchors: Tensor, asked: Asked) -> Tensor:
        """LN(GELU(Linear[h ; g of the anchor ; code of its distance])), [B, K, R, 192]."""
        code = asked.code(anchors - asked.points.unsqueeze(2))
        anchor = gather_rows(asked.maps["anchors"], *cells.unbind(-1))
        if self.fast:
            of_query, _, of_code = self._parts()
            query = F.linear(h, of_query, self.condition.bias).unsqueeze(2)
            u = query + anchor + F.linear(code, of_code)
        else:
            query = h.unsqueeze(2).expand_as(anchor)
            u = self.condition(torch.cat([query, anchor, code], -1))
        return self.norm(F.gelu(u))

    def _parts(self) -> Sequence[Tensor]:
        """Weights of `condition` on the query, the anchor and the code of their distance."""
        return self.condition.weight.split([WIDTH, WIDTH, 4 * PLACE_BANDS], 1)

    def _offsets(self, u: Tensor, asked: Asked) -> Tensor:
        """Offsets [B, K, R, 6, 3, 4, 2] in pixels."""
        cells = self.offsets(u).unflatten(-1, (HEADS, len(SPREADS), READS, 2))
        cells = cells.to(asked.points.dtype)
        if self.bounded:
            cells = torch.tanh(cells) * cells.new_tensor(list(SPREADS.values())).view(-1, 1, 1)
        return cells * torch.stack([asked.stride(name) for name in SPREADS]).unsqueeze(1)


class V13(DepthModel):
    """What the v13 networks share, v13.1 included: options, levels, B1, B2 and the head.

    Options, the default first (the others are recorded faults by the names of decisions 3):
        sparse: "fast" | "literal", see the module.
        grid_rule: "half_pixel" | "recorded", how pixels find cells (F9). The plan never ran; it is
            given the rule of the networks that did.
        offset_code: "scaled" | "recorded", B1 codes an offset in units of 16 cells, or in whole
            cells, which all have one code (F10).
        token_positions: "sincos" | "none", whether the cells that attend to each other, or that a
            B3 reads, tell their place (F11).
        head_dtype: "float32" | "bfloat16" (F7).

    Raises:
        ConfigError: an option or value it does not have.
        ModelError: an encoder it cannot read, or a level with fewer cells than a query is routed
            to.
    """

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "sparse": ("fast", "literal"),
        "grid_rule": ("half_pixel", "recorded"),
        "offset_code": ("scaled", "recorded"),
        "token_positions": ("sincos", "none"),
        "head_dtype": ("float32", "bfloat16"),
    }
    order: ClassVar[Sequence[str]] = (
        "encoder", "level3_attention", "neck", "level4_attention", "precompute", "b1", "b2", "b3",
        "b3a", "b3b", "b4", "b5", "head",
    )  # fmt: skip
    dropout: ClassVar[float] = 0.0
    first_block: ClassVar[type[B1]] = B1

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        options = self.options
        self.fast = options["sparse"] == "fast"
        self.coded = options["token_positions"] == "sincos"
        self._add_neck()
        self._check_routing(config.image_size)
        self.b1 = self.first_block(options)
        self.b2 = OwnTokens(2, 1, self.dropout, self.fast)
        bias = HEAD_BIAS.get(options.get("head_bias", ""))
        self.head = NumberHead(WIDTH, bias, low=options["head_dtype"] == "bfloat16")

    def maps(self, images: Tensor) -> Maps:
        """Padded images [B, 3, H, W] -> the maps of a scene (see the module's text).

        Raises:
            ModelError: a level has fewer cells than a query is routed to.
        """
        rows = [level.permute(0, 2, 3, 1).contiguous() for level in self.levels(images)]
        self._check_routing((images.shape[-2], images.shape[-1]))
        levels = dict(zip(LEVELS, rows, strict=True))
        return {**self.b1.maps(levels), **self.projected(levels)}

    def levels(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> the neck's levels [B, 64/128/192/384, h_l, w_l].

        L4 leaves as the residual stream of its attention, not normalised (sheet section 3).
        """
        *fine, level4 = self.neck(self.encoder(images))
        return [*fine, self.level4_attention(level4)]

    @abstractmethod
    def projected(self, levels: Maps) -> dict[str, Tensor]:
        """What is projected of the neck's levels [B, h, w, C_l] once per image, but for B1."""

    @abstractmethod
    def answer(self, asked: Asked) -> Answer:
        """The network's blocks, one after the other."""

    def decode(self, maps: Maps, points: Tensor, image_size: Size) -> Tensor:
        """Depth [B, K] at points [B, K, 2] in pixels of the padded image."""
        return self.answer(self._asked(maps, points, image_size))["depth"]

    @torch.no_grad()
    def explain(self, maps: Maps, points: Tensor, image_size: Size) -> Answer:
        """Where queries look, and what they answer: `decode` in evaluation mode, with its notes.

        Args:
            maps: of the scene.
            points: [B, K, 2] in pixels of the padded image.
            image_size: height, width of the padded image.

        Returns:
            "depth" [B, K] in metres;
            "pixels" [n, B, K, 6 heads, ..., 2], where a query reads the image, and "weights"
            [n, B, K, 6, ...] of these reads, one in sum over what is left of each head: as v14's.
            With B4, [R, B, K, 6, 3 maps, 4] around R routed cells; without, [1, B, K, 6, 91] of B2
            on B1's tokens;
            "local_pixels" [B, K, 91, 2] and "local_weights" [B, K, 6, 91] of B2 on B1's tokens;
            "l4_weights" [B, K, h, w] of B3 on L4's cells, mean of its heads, and "l4_routed"
            [B, K, R], their numbers row * w + column, most looked at first; in v13.1 "l3_weights"
            and "l3_routed" too;
            "fused_weights" [B, K, 6, T] of B5 on its tokens in the order of the sheet.
            Weights are those of a block's last layer.
        """
        with evaluating(self):
            answer = self.answer(self._asked(maps, points, image_size))
        local = answer["local_pixels"].unsqueeze(2).expand(-1, -1, HEADS, -1, -1)
        return {"pixels": local[None], "weights": answer["local_weights"][None], **answer}

    def _add_neck(self) -> None:
        """Conv1x1 + LN of every level, then two self-attention layers on L4 (3,950,592)."""
        refuse_plain_vit(self)
        self.neck: nn.Module = PyramidNeck(self.encoder.channels, CHANNELS)
        self.level4_attention = MapAttention(CHANNELS[3], HEADS, positions=self.coded)

    def _asked(self, maps: Maps, points: Tensor, image_size: Size) -> Asked:
        return Asked(maps, points, image_size, GridRule(self.options["grid_rule"]), self.fast)

    def _local(self, asked: Asked) -> tuple[Tensor, list[Tensor], Answer]:
        """B1 and B2: queries [B, K, 192], their own 91 tokens by level, and notes of both."""
        h, tokens, places = self.b1(asked)
        tokens = self.own(tokens)
        h, weights = self.b2(h, tokens)
        return h, tokens, {"local_pixels": places, "local_weights": weights}

    def own(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Tokens [B, K, T_i, 192] as `OwnTokens` take them."""
        return [standardised(part) if self.fast else part for part in tokens]

    def _route(self, weights: Tensor, level: str, asked: Asked) -> tuple[Tensor, Answer]:
        """The cells [B, K, R] of a level that a B3 looks at most, [B, K, cells]; with notes."""
        routed = weights.topk(self.options[f"routed_{level}"]).indices
        size = asked.size(level.upper())
        return routed, {f"{level}_weights": weights.unflatten(-1, size), f"{level}_routed": routed}

    def _check_routing(self, image_size: Size) -> None:
        """ModelError if a level of such images has fewer cells than a query is routed to."""
        multiple = self.encoder.multiple
        coarsest = 2 * multiple if self.encoder.is_vit else multiple  # stride of L4
        strides = {"routed_l3": coarsest // 2, "routed_l4": coarsest}
        sides = padded_size(image_size, multiple)
        for option in self.counts:
            height, width = (side // strides[option] for side in sides)
            if self.options[option] > height * width:
                fewer = f" or {option}={height * width}" if height * width else ""
                raise ModelError(
                    f"{self.config.network} routes a query to {self.options[option]} cells of a "
                    f"level that has {height}x{width} = {height * width} in images of "
                    f"{image_size[0]}x{image_size[1]}; use larger images{fewer}"
                )


class V13Calibrated(V13):
    """Experiments 1 and 2 (sheet section 3): B1-B3, calibrated inverse depth; 34,167,251.

    They own W_g and the maps of B4, 209,664 parameters that nothing reads: those are frozen.
    """

    idea = "a query attends to 91 tokens around it, then to all of L4; calibrated inverse depth"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.precompute = Precompute(self.coded, calibrated=True)
        self.precompute.anchors.requires_grad_(False)
        self.precompute.values.requires_grad_(False)
        self.b3 = B3("b3", self.dropout)

    def projected(self, levels: Maps) -> dict[str, Tensor]:
        """B3's keys and values, and the calibration."""
        tokens = self.precompute.b3_tokens(levels["L4"], "b3")
        return {**tokens, "calibration": self.precompute.calibration(levels["L4"])}

    def answer(self, asked: Asked) -> Answer:
        """B1, B2, B3, and the answer calibrated."""
        h, _, notes = self._local(asked)
        h, weights = self.b3(h, asked.maps)
        depth = Calibration.depth(self.head(h).squeeze(-1), asked.maps["calibration"])
        return {"depth": depth, **notes, "l4_weights": weights.unflatten(-1, asked.size("L4"))}


class V13LogDepth(V13):
    """Experiments 3 and 4 (sheet section 3): B1-B5, log-depth; 35,661,609.

    Options: those of `V13`, and
        head_bias: the head starts at the "median" depth, or at "zero", see `layers.HEAD_BIAS`.
        routed_l4: cells of L4 that a query is routed to, 32.
    """

    idea = "as v13_calibrated, then deformable reads around 32 routed cells of L4; log-depth"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        **V13.choices, "head_bias": ("median", "zero"),
    }  # fmt: skip
    counts: ClassVar[Mapping[str, int]] = {"routed_l4": 32}
    planned: ClassVar[bool] = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.precompute = Precompute(self.coded, calibrated=self.planned)
        self.b3 = B3("b3", self.dropout)
        self.b4 = B4(bounded=not self.planned, fast=self.fast)
        self.b5 = OwnTokens(3, 1 if self.planned else 3, self.dropout, self.fast)

    def projected(self, levels: Maps) -> dict[str, Tensor]:
        """B3's keys and values, the anchors and the value maps of B4."""
        once = self.precompute
        return {
            **once.b3_tokens(levels["L4"], "b3"),
            **self.b4.maps(once.anchors(levels["L4"])),
            **value_maps(once.values, levels),
        }

    def answer(self, asked: Asked) -> Answer:
        """B1 to B5, and the answer as depth."""
        h, local, notes = self._local(asked)
        h, weights = self.b3(h, asked.maps)
        routed, more = self._route(weights, "l4", asked)
        tokens, places, shares = self.b4(h, routed, asked)
        tokens = self.pass_through(tokens, weights.gather(-1, routed)) + self.b4.type_code
        h, fused = self.b5(h, [*local, *self.own([tokens])])
        reads = {"pixels": places.movedim(2, 0), "weights": shares.movedim(2, 0)}
        depth = self.depth(self.head(h).squeeze(-1), asked.maps)
        return {"depth": depth, **notes, **more, **reads, "fused_weights": fused}

    def pass_through(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """Tokens [B, K, R, 192] of routed cells, looked at by weights [B, K, R]; as they are."""
        return tokens

    def depth(self, answer: Tensor, maps: Maps) -> Tensor:
        """Depth [B, K] in metres of the head's answers [B, K]."""
        return answer.exp()


class V13Plan(V13LogDepth):
    """Document 002 (sheet section 2): a frozen ViT, calibrated; 4,143,275 trainable parameters.

    L4 is not attended to, offsets of B4 are not bounded, B5's layers share the norm of their
    tokens, attention has dropout, and routing passes a gradient to the weights it chose by.

    Options: those of `V13`, and `routed_l4`.
    """

    idea = "v13_log_depth as designed: behind a frozen ViT, calibrated inverse depth"
    choices: ClassVar[Mapping[str, Sequence[str]]] = V13.choices
    dropout: ClassVar[float] = 0.1
    planned: ClassVar[bool] = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder.requires_grad_(False)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> the neck's levels [B, 64/128/192/384, h_l, w_l]."""
        levels: list[Tensor] = self.neck(self.encoder(images))
        return levels

    def projected(self, levels: Maps) -> dict[str, Tensor]:
        """B3's keys and values, the anchors and the value maps of B4, and the calibration."""
        calibration = self.precompute.calibration(levels["L4"])
        return {**super().projected(levels), "calibration": calibration}

    def pass_through(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """Tokens as they are; their gradient goes straight through to the weights (C-13-5)."""
        return tokens * (chosen - chosen.detach() + 1).unsqueeze(-1)

    def depth(self, answer: Tensor, maps: Maps) -> Tensor:
        """Depth [B, K] in metres of the head's answers [B, K]."""
        return Calibration.depth(answer, maps["calibration"])

    def _add_neck(self) -> None:
        if not self.encoder.is_vit:
            raise ModelError(
                f"{self.config.network} reads four taps of a plain ViT; "
                f"{self.config.encoder.name!r} is hierarchical. Choose one such as "
                "'vit_small_patch14_dinov2', or the network v13_log_depth"
            )
        self.neck = PlanNeck(self.encoder.channels)


def value_layers() -> nn.ModuleDict:
    """The layers behind "V2", "V3" and "V4" (135,744)."""
    return nn.ModuleDict(
        {name: nn.Linear(c, WIDTH) for name, c in zip(SPREADS, CHANNELS[1:], strict=True)}
    )


def value_maps(layers: nn.ModuleDict, levels: Maps) -> dict[str, Tensor]:
    """L2 to L4 [B, h, w, C_l] -> "V2", "V3" and "V4" [B, h, w, 192]."""
    return {name: layer(levels[f"L{name[1]}"]) for name, layer in layers.items()}
