"""v14: counts, the decoder written out layer by layer, set dependence, and what its options do."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.errors import ConfigError, ModelError
from spdlib.geometry import GridRule, Size, pixels_to_cells
from spdlib.inspection import CanvasStep, Gate, Number, Reads
from spdlib.models import DepthModel, create_model
from spdlib.models.attention import SelfAttention, head_count
from spdlib.models.base import count_parameters
from spdlib.models.layers import LEVELS, fourier_code, position_table
from spdlib.models.v14 import V14, V14Plan
from spdlib.models.v14_layers import (
    CanvasRead,
    CanvasWrite,
    DeformableRead,
    GlobalRead,
    Grid,
    Layer,
    Queries,
    QueryAttention,
    SharedCanvas,
)
from spdlib.scene import Maps

SIZE = (64, 96)
NETWORKS = ("v14_plan", "v14_dual", "v14_triple")
RULES = ("half_pixel", "recorded")
TINY = "test_convnext"

Equal = Callable[[Tensor, Tensor], None]

all_networks = pytest.mark.parametrize("name", NETWORKS)
all_rules = pytest.mark.parametrize("rule", RULES)


def build(
    name: str, encoder: str = TINY, image_size: Size = SIZE, execution: str = "fast", **options: Any
) -> V14:
    """A network for 64x96 images, float32, random weights, evaluation mode."""
    network = create_model(name, encoder, image_size=image_size, focal=70.0, **options).eval()
    assert isinstance(network, V14)
    network.execution = execution
    return network


def exact(name: str, **options: Any) -> V14:
    """The same in float64, every decoder weight moved so that none is zero."""
    network = build(name, **options).double()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if not key.startswith("encoder."):
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return network


def some_maps(network: V14) -> Maps:
    """Maps of two random images, in the network's type."""
    with torch.no_grad():
        return network.maps(torch.rand(2, 3, *SIZE, dtype=network.dtype))


def twin(network: V14, **options: Any) -> V14:
    """The same weights under other options, or in another form."""
    other = build(network.config.network, **{**network.config.options, **options})
    other.to(network.dtype).load_state_dict(network.state_dict())
    return other


# parameters


@functools.cache
def shapes(name: str) -> DepthModel:
    """The default network without memory for its weights."""
    with torch.device("meta"):
        return create_model(name)


COUNTS = {
    "v14_plan": {
        "encoder": 27_864_960, "level3_attention": 3_548_928, "neck": 401_664,
        "level4_attention": 3_548_928, "values": 111_168, "b3a_tokens": 148_224,
        "b3b_tokens": 295_680, "seed": 160_512, "msda": 1_726_563, "b3a": 1_113_986,
        "b3b": 1_113_986, "canvas": 77_952, "head": 74_498, "neck_depth": 322,
        "total": 40_187_371,
    },
    "v14_dual": {
        "encoder": 27_864_960, "neck": 278_784, "level4_attention": 889_728,
        "b3b_tokens": 148_224, "seed": 160_512, "msda": 2_100_963, "b3b": 1_363_586,
        "head": 74_498, "neck_depth": 386, "total": 32_881_641,
    },
    "v14_triple": {
        "encoder": 27_864_960, "neck": 278_784, "level4_attention": 889_728,
        "b3b_tokens": 148_224, "seed": 160_512, "msda": 2_352_675, "b3b": 1_531_394,
        "head": 74_498, "neck_depth": 386, "total": 33_301_161,
    },
}  # fmt: skip


@all_networks
def test_counts(name: str) -> None:
    network = shapes(name)
    table = network.parameter_table()
    assert dict(zip(table["component"], table["parameters"], strict=True)) == COUNTS[name]
    assert network.config.encoder.name == "convnextv2_tiny.fcmae_ft_in22k_in1k"
    assert network.config.image_size == (256, 320)


@pytest.mark.parametrize(
    ("name", "part", "count"),
    [
        ("v14_plan", "msda.0", 575_521),
        ("v14_plan", "msda.1.cross", 93_024),
        ("v14_plan", "msda.2.canvas", 37_633),
        ("v14_plan", "b3a.0", 556_993),
        ("v14_plan", "b3b.1", 556_993),
        ("v14_plan", "b3a.1.cross", 74_496),
        ("v14_plan", "canvas.write.levels.L3.write", 37_056),
        ("v14_plan", "canvas.write.levels.L3.smooth", 3_840),
        ("v14_plan", "canvas.final", 37_056),
        ("v14_plan", "neck_depth.heads.L2", 129),
        ("v14_dual", "msda.0", 700_321),
        ("v14_dual", "b3b.0", 681_793),
        ("v14_dual", "msda.0.canvas", 162_433),
        ("v14_dual", "msda.0.canvas.write.levels.L2.smooth", 9_984),
        ("v14_dual", "msda.0.canvas.write.levels.L3.smooth", 3_840),
        ("v14_dual", "msda.0.canvas.read.gate", 193),
        ("v14_dual", "msda.0.canvas.read.norm", 384),
        ("v14_dual", "msda.0.canvas.read.read", 73_920),
        ("v14_triple", "msda.0", 784_225),
        ("v14_triple", "b3b.0", 765_697),
        ("v14_triple", "msda.0.canvas", 246_337),
        ("v14_triple", "msda.0.canvas.write.levels.L3.smooth", 9_984),
        ("v14_triple", "msda.0.canvas.write.levels.L4.smooth", 3_840),
        ("v14_triple", "msda.0.canvas.read.read", 110_784),
    ],
)
def test_counts_inside_the_layers(name: str, part: str, count: int) -> None:
    assert count_parameters(shapes(name).get_submodule(part)) == count


def test_every_layer_spends_the_same_on_q2q_and_ffn() -> None:
    for layer in shapes("v14_dual").get_submodule("msda").children():
        parts = [layer.get_submodule(part) for part in ("q2q", "norm_ffn", "ffn")]
        assert sum(count_parameters(part) for part in parts) == 444_864


@all_networks
def test_swapped_encoders(name: str) -> None:
    """Widths behind the neck stay; the inserted attention takes the encoder's (48: heads of 16)."""
    network = build(name, "mobilenetv2_050")
    answer = network.encode(torch.rand(3, *SIZE)).depth_at([[3.0, 4.0], [70.5, 33.3]])
    assert answer.isfinite().all()
    if isinstance(network, V14Plan):
        assert count_parameters(network.level3_attention) == 2 * (12 * 48**2 + 13 * 48)


def test_heads_of_an_encoders_own_width() -> None:
    assert [head_count(channels) for channels in (384, 160, 96, 48, 24)] == [6, 5, 3, 3, 3]


# the networks written out, without shared tricks


def units(network: V14, points: Tensor, level: Tensor) -> Tensor:
    """Reference points on a level [B, h, w, C]."""
    size = torch.tensor([SIZE[1], SIZE[0]])
    cells = torch.tensor([level.shape[2], level.shape[1]])
    if network.options.grid_rule == "half_pixel":
        return 2 * (points + 0.5) / size - 1
    if isinstance(network, V14Plan):
        return 2 * (points / (size / cells)) / (cells - 1) - 1
    return 2 * points / (size - 1) - 1


def grid_read(network: V14, level: Tensor, places: Tensor) -> Tensor:
    """A level [B, h, w, C] at places [B, K, 2]: [B, K, C]."""
    recorded = network.options.grid_rule == "recorded"
    read = F.grid_sample(
        level.permute(0, 3, 1, 2), places[:, None], align_corners=recorded,
        padding_mode="zeros" if recorded else "border",
    )  # fmt: skip
    return read[:, :, 0].mT


def heads(x: Tensor) -> Tensor:
    """[B, N, 192] -> [B, 6, N, 32]."""
    return x.unflatten(-1, (6, 32)).transpose(1, 2)


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Softmax attention of six heads, [B, N, 192] each."""
    weights = (heads(query) @ heads(keys).mT / math.sqrt(32)).softmax(-1)
    return (weights @ heads(values)).transpose(1, 2).flatten(2)


def plain_cross(network: V14, part: nn.Module, h: Tensor, maps: Maps, points: Tensor) -> Tensor:
    """MSDA head by head and read by read, or B3a / B3b."""
    if isinstance(part, GlobalRead):
        share = slice(192 * part.number, 192 * part.number + 192)
        keys, values = (
            maps[f"{part.group}_{kind}"].flatten(1, 2)[..., share] for kind in ("keys", "values")
        )
        found = attend(part.attention.query(part.norm(h)), keys, values)
        return h + part.attention.out(found)
    assert isinstance(part, DeformableRead)
    offsets = part.offsets(part.norm(h)).view(*h.shape[:2], 6, 4, 4, 2)
    weights = part.weights(part.norm(h)).view(*h.shape[:2], 6, 16).softmax(-1)
    found = torch.zeros_like(h)
    for k in range(6):
        own = slice(32 * k, 32 * k + 32)
        for number, (level, name) in enumerate(zip(LEVELS, network.value_maps, strict=True)):
            reference = units(network, points, maps[level])
            for m in range(4):
                read = grid_read(network, maps[name], reference + offsets[:, :, k, number, m])
                found[..., own] += weights[:, :, k, 4 * number + m, None] * read[..., own]
    return h + part.out(found)


def plain_write(
    network: V14, part: CanvasWrite, canvas: Tensor, h: Tensor, points: Tensor
) -> Tensor:
    """Query after query adds to its cell; then both depth-wise convolutions.

    The cell is floor(u / stride) as recorded, floor((u + 1/2) / stride) by default.
    """
    changes, half = part.write(h), 0.0 if network.options.grid_rule == "recorded" else 0.5
    size, stride = canvas.shape[1:3], SIZE[0] // canvas.shape[1]
    written = canvas.clone()
    for image in range(len(h)):
        inside = ((points[image].flip(-1) + half) // stride).clamp(min=torch.zeros(2))
        inside = inside.minimum(torch.tensor(size) - 1)
        found = [(int(y), int(x)) for y, x in inside]
        for number, cell in enumerate(found):
            count = found.count(cell) if network.options.canvas_write == "mean" else 1
            written[image][cell] += changes[image, number] / count
    first, _, second = part.smooth
    level = written.permute(0, 3, 1, 2)
    for convolution in (first, second):
        assert isinstance(convolution, nn.Conv2d)
        reach = convolution.kernel_size[0] // 2
        level = F.conv2d(level, convolution.weight, convolution.bias, padding=reach, groups=192)
        level = F.gelu(level) if convolution is first else level
    return written + level.permute(0, 2, 3, 1)


def plain_read(
    network: V14, part: CanvasRead, canvases: dict[str, Tensor], h: Tensor, points: Tensor
) -> Tensor:
    found = [grid_read(network, x, units(network, points, x)) for x in canvases.values()]
    return h + torch.sigmoid(part.gate(part.norm(h))) * part.read(torch.cat(found, -1))


def plain_q2q(part: QueryAttention, h: Tensor, positions: Tensor) -> Tensor:
    z = part.norm(h)
    inputs = (z + positions, z + positions, z)
    weights, biases = part.attention.in_proj_weight.chunk(3), part.attention.in_proj_bias.chunk(3)
    projected = [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
    return h + part.attention.out_proj(attend(*projected))


def decoder_layers(network: V14) -> list[Layer]:
    """All but the plan's last read of its canvas."""
    return [layer for layer in network.layers() if isinstance(layer, Layer)]


def plain(network: V14, maps: Maps, points: Tensor) -> Tensor:
    """The decoder written out: depth [B, K]."""
    code = fourier_code(points / torch.tensor([SIZE[1], SIZE[0]]), 8)
    seen = [grid_read(network, maps[n], units(network, points, maps[n])) for n in LEVELS]
    h = network.seed.norm(network.seed.project(torch.cat([*seen, code], -1)))
    positions = network.seed.position(code)
    canvases = {level: maps[level] for level in network.kernels}

    def write(parts: Any) -> dict[str, Tensor]:
        return {n: plain_write(network, parts[n], canvases[n], h, points) for n in canvases}

    layer: Any
    for layer in decoder_layers(network):
        h = plain_cross(network, layer.cross, h, maps, points)
        if isinstance(network, V14Plan):
            h = plain_read(network, layer.canvas.read, canvases, h, points)
            canvases = write(network.canvas.write.levels)
        else:
            canvases = write(layer.canvas.write.levels)
            h = plain_read(network, layer.canvas.read, canvases, h, points)
        h = plain_q2q(layer.q2q, h, positions)
        h = h + layer.ffn(layer.norm_ffn(h))
    if isinstance(network, V14Plan):
        final = grid_read(network, canvases["L3"], units(network, points, canvases["L3"]))
        h = h + network.canvas.final(final)
    return torch.exp(network.head.layers(h).squeeze(-1) * torch.exp(network.head.scale))


@torch.no_grad()
@all_networks
@pytest.mark.parametrize(
    "options",
    [{}, {"execution": "reference"}, {"grid_rule": "recorded", "canvas_write": "sum"}],
    ids=["default", "reference", "recorded"],
)
def test_decode_is_the_network_written_out(
    name: str, options: dict[str, str], points: Tensor, equal: Equal
) -> None:
    network = exact(name, **options)
    maps, points = some_maps(network), points[:, :20]
    expected = plain(network, maps, points)
    assert expected.log().std() > 1e-2  # or the comparison would say little
    equal(network.decode(maps, points, SIZE).depth, expected)


@all_networks
@all_rules
def test_fast_and_reference_reads_agree(name: str, rule: str, points: Tensor, equal: Equal) -> None:
    """Depth, and its gradients by every map, parameter and point."""
    fast = exact(name, grid_rule=rule)
    reference = twin(fast, execution="reference")
    with torch.no_grad():  # of the size that training gives them: about one per pixel of the image
        maps = {n: level.requires_grad_() for n, level in some_maps(fast).items()}
    points = points[:, 4:24].clone().requires_grad_()  # off the border, where the slope jumps
    found = {}
    for kind, network in (("fast", fast), ("reference", reference)):
        depth = network.decode(maps, points, SIZE).depth
        decoder = [p for n, p in network.named_parameters() if _is_decoder(n)]
        inputs = [*maps.values(), points, *decoder]
        found[kind] = [depth, *torch.autograd.grad(depth.log().sum(), inputs)]
    for value, expected in zip(found["fast"], found["reference"], strict=True):
        assert expected.isfinite().all()
        equal(value, expected)


def _is_decoder(name: str) -> bool:
    """Whether `decode` uses a parameter."""
    used = ("seed.", "msda.", "b3a.", "b3b.", "canvas.", "head.")
    return name.startswith(used)


# once per image


def multi_head(layer: SelfAttention, x: Tensor, positions: Tensor | None, count: int) -> Tensor:
    """A self-attention layer by PyTorch's own attention; x [B, C, h, w]."""
    theirs = nn.MultiheadAttention(x.shape[1], count, batch_first=True).to(x)
    own = layer.attention
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([own.query.bias, own.key.bias, own.value.bias]))
        theirs.out_proj.load_state_dict(own.out.state_dict())
    tokens = x.flatten(2).mT
    z = layer.norm(tokens)
    placed = z if positions is None else z + positions
    tokens = tokens + theirs(placed, placed, z, need_weights=False)[0]
    tokens = tokens + layer.ffn(layer.norm_ffn(tokens))
    return tokens.mT.unflatten(-1, x.shape[2:])


@torch.no_grad()
@all_networks
@pytest.mark.parametrize("code", ["sincos", "none"])
def test_maps_are_written_out(name: str, code: str, equal: Equal) -> None:
    """Stage by stage: encoder, inserted attention, neck, L4's attention, projections."""
    network = exact(name, token_positions=code)
    images = torch.rand(2, 3, *SIZE, dtype=torch.float64)

    def attended(layers: nn.Module, x: Tensor, count: int) -> Tensor:
        table = position_table((x.shape[2], x.shape[3]), x.shape[1], x)
        for layer in layers.children():
            assert isinstance(layer, SelfAttention)
            x = multi_head(layer, x, table if code == "sincos" else None, count)
        return x

    x, levels = (images - network.encoder.mean) / network.encoder.std, []
    for key, stage in network.encoder.body.items():  # type: ignore[operator]
        hooks, stage._forward_hooks = stage._forward_hooks, type(stage._forward_hooks)()
        x = stage(x)
        stage._forward_hooks = hooks
        if key == "stages_2" and isinstance(network, V14Plan):
            x = attended(network.level3_attention, x, head_count(x.shape[1]))
        if key.startswith("stages"):
            levels.append(x)
    necks = [project(level) for project, level in zip(network.neck, levels, strict=True)]
    necks[3] = attended(network.level4_attention, necks[3], 6)
    maps = network.maps(images)
    for level, neck in zip(LEVELS, necks, strict=True):
        equal(maps[level], neck.permute(0, 2, 3, 1))
    groups = {"b3a": "L3", "b3b": "L4"} if isinstance(network, V14Plan) else {"b3b": "L4"}
    for group, level in groups.items():
        tokens, cells = network.get_submodule(f"{group}_tokens"), maps[level]
        table = position_table((cells.shape[1], cells.shape[2]), cells.shape[3], cells)
        placed = cells + table.view_as(cells[0]) if code == "sincos" else cells
        equal(maps[f"{group}_keys"], tokens.get_submodule("keys")(placed))
        equal(maps[f"{group}_values"], tokens.get_submodule("values")(cells))
    if isinstance(network, V14Plan):
        for level in ("L1", "L2", "L4"):
            layer = network.values[level]
            weight = layer.weight[..., None, None]  # type: ignore[index]
            values = F.conv2d(maps[level].permute(0, 3, 1, 2), weight, layer.bias)  # type: ignore[arg-type]
            equal(maps[f"V{level[1]}"], values.permute(0, 2, 3, 1))


def test_maps_are_named() -> None:
    levels = {"L1": (16, 24), "L2": (8, 12), "L3": (4, 6), "L4": (2, 3)}
    maps = some_maps(build("v14_plan"))
    assert {n: tuple(m.shape[1:]) for n, m in maps.items()} == {
        "L1": (16, 24, 64), "L2": (8, 12, 128), "L3": (4, 6, 192), "L4": (2, 3, 384),
        "V1": (16, 24, 192), "V2": (8, 12, 192), "V4": (2, 3, 192),
        "b3a_keys": (4, 6, 384), "b3a_values": (4, 6, 384),
        "b3b_keys": (2, 3, 384), "b3b_values": (2, 3, 384),
    }  # fmt: skip
    maps = some_maps(build("v14_dual"))
    assert {n: tuple(m.shape[1:]) for n, m in maps.items()} == {
        **{n: (*size, 192) for n, size in levels.items()},
        "b3b_keys": (2, 3, 384), "b3b_values": (2, 3, 384),
    }  # fmt: skip


# the canvas


def write_of(network: V14, level: str) -> CanvasWrite:
    part = network.msda[0].get_submodule(f"canvas.write.levels.{level}")
    assert isinstance(part, CanvasWrite)
    return part


def ask(network: V14, points: Tensor) -> Queries:
    return network.queries(some_maps(network), points, SIZE)


CELL = [(17.0, 20.0), (22.4, 16.0), (23.4, 23.4), (40.0, 8.0)]
"""Three points in cell (2, 2) of L2's 8x12 cells (stride 8), one in cell (5, 1)."""


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mean", "sum"])
def test_queries_write_to_the_cell_they_lie_in(kind: str, equal: Equal) -> None:
    network = exact("v14_dual", canvas_write=kind)
    points = torch.tensor([CELL, CELL], dtype=torch.float64)
    part, queries = write_of(network, "L2"), ask(network, points)
    canvas, h = torch.randn(2, 8, 12, 192).double(), torch.randn(2, 4, 192).double()
    before = canvas.clone()
    written = part.written(canvas, h, queries)
    changes = part.write(h)
    expected = canvas.clone()
    expected[:, 2, 2] += changes[:, :3].mean(1) if kind == "mean" else changes[:, :3].sum(1)
    expected[:, 1, 5] += changes[:, 3]
    equal(written, expected)
    assert torch.equal(canvas, before)  # out of place
    elsewhere = torch.ones(8, 12, dtype=torch.bool)
    elsewhere[2, 2] = elsewhere[1, 5] = False
    assert torch.equal(written[:, elsewhere], canvas[:, elsewhere])


@torch.no_grad()
def test_smoothing_reaches_two_convolutions_far() -> None:
    """Two 5x5 convolutions carry a change four cells, two 3x3 two."""
    network = exact("v14_dual")
    points = torch.tensor([[(40.0, 24.0)]], dtype=torch.float64).expand(2, -1, -1)
    queries, h = ask(network, points), torch.randn(2, 1, 192).double()
    for level, shape, cell, reach in (("L2", (8, 12), (3, 5), 4), ("L3", (4, 6), (1, 2), 2)):
        part = write_of(network, level)
        canvas = torch.randn(2, *shape, 192).double()
        change = (part(canvas, h, queries) - part(canvas, 0 * h - 1e9, queries)).abs().amax((0, 3))
        columns = (change > 0).nonzero()[:, 1]
        assert columns.min() == max(0, cell[1] - reach)
        assert columns.max() == min(shape[1] - 1, cell[1] + reach)


@pytest.mark.parametrize("name", ["v14_dual", "v14_plan"])
def test_recorded_writes_and_reads_lie_apart(name: str) -> None:
    """Nearly a cell from one another; by default half of one at most, each way (F17a)."""
    points = torch.rand(1, 2000, 2, dtype=torch.float64) * torch.tensor([96, 64]) - 0.5
    for rule, least, most in (("half_pixel", 0.49, 0.5), ("recorded", 0.9, 1.0)):
        network = build(name, grid_rule=rule)
        cells = network.grid.written(points, SIZE, (8, 12))
        written = torch.stack([cells % 12, cells // 12], -1)
        read = network.grid.cells(network.grid.reference(points, SIZE, (8, 12)), (8, 12))
        gap = (read[0].clamp(min=0) - written).abs().amax()
        assert least < gap <= most


@torch.no_grad()
def test_the_plans_smoothing_starts_as_the_identity(points: Tensor) -> None:
    """By PyTorch's default a canvas of one value grows from layer to layer in some channels."""
    for value, still in (("zero", True), ("default", False)):
        network = build("v14_plan", smooth_init=value)
        queries, h = ask(network, points), torch.zeros(2, points.shape[1], 192)
        before = canvas = torch.ones(2, 4, 6, 192)
        write: Any = network.get_submodule("canvas.write.levels.L3")
        nn.init.zeros_(write.write.bias)
        for _ in range(7):
            canvas = write(canvas, h, queries)
        assert torch.equal(canvas, before) == still
        assert (canvas.abs().max() > 10) != still


@torch.no_grad()
def test_a_query_reads_what_it_has_just_written(equal: Equal) -> None:
    """Columns b and c read after the write and the smoothing, the plan before them."""
    points = torch.tensor([CELL, CELL], dtype=torch.float64)
    h = torch.randn(2, 4, 192).double()
    dual, plan = exact("v14_dual"), exact("v14_plan")
    queries = ask(dual, points)
    canvases = {level: torch.randn_like(queries.maps[level]) for level in ("L2", "L3")}
    canvas = dual.msda[0].get_submodule("canvas")
    found, after = canvas(h, canvases, queries)
    equal(found, canvas.get_submodule("read")(h, after, queries))
    assert not torch.equal(after["L2"], canvases["L2"])
    queries = ask(plan, points)
    canvases = {"L3": torch.randn_like(queries.maps["L3"])}
    canvas = plan.msda[0].get_submodule("canvas")
    found, after = canvas(h, canvases, queries)
    equal(found, canvas.get_submodule("read")(h, canvases, queries))
    equal(after["L3"], plan.get_submodule("canvas.write")(canvases, found, queries)["L3"])


# dependent queries


def alone(network: V14, maps: Maps, points: Tensor) -> Tensor:
    """Each point asked in a call of its own."""
    return torch.cat([network.decode(maps, point, SIZE).depth for point in points.split(1, 1)], 1)


@torch.no_grad()
@all_networks
def test_an_answer_depends_on_its_company(name: str, points: Tensor, equal: Equal) -> None:
    """Through Q2Q and through the canvas; without either, not at all."""
    network = exact(name)
    maps, points = some_maps(network), points[:, 2:4]

    def change() -> float:
        together = network.decode(maps, points, SIZE).depth
        return (together / alone(network, maps, points)).log().abs().max().item()

    assert change() > 1e-4
    q2q = [m.attention.out_proj for m in network.modules() if isinstance(m, QueryAttention)]
    writes = [m.write for m in network.modules() if isinstance(m, CanvasWrite)]
    saved = deepcopy(network.state_dict())
    for one, other in ((q2q, writes), (writes, q2q)):
        _silence(one)
        assert change() > 1e-6  # the other still speaks
        _silence(other)
        assert change() < 1e-12
        network.load_state_dict(saved)
    _silence([*q2q, *[m.read for m in network.modules() if isinstance(m, CanvasRead)]])
    if isinstance(network, V14Plan):
        _silence([network.canvas.final])
    assert change() < 1e-12  # what is written but not read is not heard


def _silence(layers: list[Any]) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


# training's path


def test_auxiliary_maps_come_in_training_only() -> None:
    network, images = build("v14_dual"), torch.rand(2, 3, *SIZE)
    points = torch.rand(2, 5, 2) * 60
    assert network(images, points).auxiliary == {}
    with torch.autocast("cpu", torch.bfloat16):
        maps = network.train()(images, points).auxiliary
    assert {name: tuple(level.shape) for name, level in maps.items()} == {
        "L2": (2, 8, 12), "L3": (2, 4, 6),
    }  # fmt: skip
    assert all(level.dtype == torch.float32 for level in maps.values())
    level2 = network.maps(images)["L2"]
    head = network.neck_depth.heads["L2"]
    expected = F.conv2d(level2.permute(0, 3, 1, 2), head.weight[..., None, None], head.bias)  # type: ignore[index, arg-type]
    assert torch.allclose(
        network.auxiliary(network.maps(images))["L2"], expected[:, 0].exp(), rtol=1e-5
    )


# options


@pytest.mark.parametrize("per_level", [False, True])
@all_rules
def test_units_cells_and_pixels_agree(rule: str, per_level: bool) -> None:
    grid = Grid(GridRule(rule), per_level)
    points = torch.rand(30, 2, dtype=torch.float64) * torch.tensor([96, 64]) - 0.5
    for size in ((16, 24), (2, 3)):
        places = grid.reference(points, SIZE, size)
        assert torch.allclose(grid.pixels(places, SIZE, size), points)
        if rule == "half_pixel" or per_level:
            expected = pixels_to_cells(points, SIZE, size, GridRule(rule))
            assert torch.allclose(grid.cells(places, size), expected)


def test_the_recorded_rule_moves_the_reads_by_the_documented_pixels() -> None:
    """Plan: (s - 1)/2 to the right of the right place; others: up to that towards the edges."""
    size = (256, 320)
    points = torch.tensor([[0.0, 0.0], [159.5, 127.5], [319.0, 255.0]], dtype=torch.float64)
    for stride in (4, 8, 16, 32):
        level = (size[0] // stride, size[1] // stride)
        right = pixels_to_cells(points, size, level)
        plan, other = Grid(GridRule.RECORDED, True), Grid(GridRule.RECORDED, False)
        shift = plan.cells(plan.reference(points, size, level), level) - right
        assert torch.allclose(stride * shift, torch.full_like(shift, (stride - 1) / 2))
        shift = other.cells(other.reference(points, size, level), level) - right
        expected = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64) * (stride - 1) / 2
        assert torch.allclose(stride * shift, expected[:, None].expand(-1, 2))


def first_reads(name: str, **options: str) -> Any:
    """The first layer's reads at the start; 256x320 pixels, as recorded."""
    size = (256, 320)
    network = build(name, "mobilenetv2_050", size, **options)
    points = torch.rand(1, 256, 2) * torch.tensor([320, 256]) - 0.5
    return network.explained(network.maps(torch.rand(1, 3, *size)), points, size)[0]


@all_networks
def test_recorded_offsets_start_wild(name: str) -> None:
    """Default start: std 0.577 map units, 41 % of the reads outside the map (F16)."""
    probe = first_reads(name, msda_init="default")
    assert 0.38 < probe.outside.float().mean() < 0.44
    centre = probe.offsets.mean(2, keepdim=True)  # they average out over a query's reads
    assert (probe.offsets - centre).std() == pytest.approx(0.577, abs=0.03)


@all_networks
@all_rules
def test_default_offsets_start_with_the_nearest_cells(name: str, rule: str) -> None:
    """Four reads 1 to 4 cells away on every level, each head in its own direction."""
    network = build(name, "mobilenetv2_050", (256, 320), grid_rule=rule)
    part = network.msda[0].get_submodule("cross")
    assert isinstance(part, DeformableRead)
    assert part.offsets.weight.abs().max() == 0
    offsets, _ = part.choose(torch.randn(1, 5, 192))
    for number, size in enumerate([(64, 80), (32, 40), (16, 20), (8, 10)]):
        cells = offsets[0, 0, :, number] * network.grid.cells_per_unit(offsets, size)
        reach = cells.abs().amax(-1)
        assert torch.allclose(reach, torch.tensor([1.0, 2, 3, 4]).expand(6, -1), atol=1e-5)
    directions = F.normalize(offsets[0, 0, :, 0, 0], dim=-1)
    assert (directions @ directions.T - 2 * torch.eye(6)).max() < 0.9
    outside = first_reads(name, grid_rule=rule).outside.unflatten(2, (6, 4, 4))
    outside = outside.float().mean((0, 1, 2, 4))
    assert outside.mean() < 0.25  # the recorded rule puts some points outside by itself
    assert outside[0] < 0.1  # most lie outside L4, of which 4 cells are half


def test_heads_start_at_the_median_or_at_one_metre() -> None:
    for value, metres in (("median", 2.5), ("zero", 1.0)):
        network = build("v14_dual", head_bias=value)
        biases = [
            network.head.layers[-1].bias,
            *(h.bias for h in network.neck_depth.heads.values()),
        ]
        assert all(bias.exp().item() == pytest.approx(metres) for bias in biases)  # type: ignore[operator]
    network = build("v14_dual")
    depth = network(torch.rand(1, 3, *SIZE), torch.rand(1, 200, 2) * 60).depth
    assert 1.5 < depth.median() < 4


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_recorded_heads_round_the_logarithm(autocast: bool) -> None:
    """Every ln depth is a bfloat16 number (F7); by default almost none is."""
    images, points = torch.rand(1, 3, *SIZE), torch.rand(1, 200, 2) * 60
    fine = build("v14_dual")
    coarse = twin(fine, head_dtype="bfloat16")

    def rounded(network: V14) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            depth = network(images, points).depth
        assert depth.dtype == torch.float32
        log = depth.log()
        return ((log - log.bfloat16().float()).abs() < 1e-6).float().mean().item()

    assert rounded(coarse) == 1
    assert rounded(fine) < 0.1


def test_tokens_without_a_code_are_their_content() -> None:
    level = torch.ones(1, 2, 3, 192)
    for value, positions in (("none", 1), ("sincos", 6)):
        keys = build("v14_dual", token_positions=value).projected({"L4": level})["b3b_keys"]
        rows = keys.flatten(0, 2)
        apart = (rows[:, None] - rows).abs().amax(-1) > 1e-4  # products of a row may be rounded
        assert apart.sum() == (30 if positions > 1 else 0)


# diagnostics


def of_kind(network: V14, maps: Maps, points: Tensor, kind: type[Any]) -> list[Any]:
    """The probes of one kind, in evaluation mode."""
    return [x for x in network.explained(maps, points, SIZE) if isinstance(x, kind)]


@torch.no_grad()
@all_networks
def test_probes_tell_what_the_layers_do(name: str, points: Tensor, equal: Equal) -> None:
    network = exact(name)
    maps, count = some_maps(network), points.shape[1]
    layers = [f"layer {number}" for number in range(1, len(decoder_layers(network)) + 1)]
    gates = of_kind(network, maps, points, Gate)
    assert [gate.part for gate in gates] == layers
    assert all(gate.opening.shape == (2, count) for gate in gates)
    assert all(((gate.opening > 0) & (gate.opening < 1)).all() for gate in gates)
    steps = of_kind(network, maps, points, CanvasStep)
    assert [(x.part, x.level) for x in steps] == [
        (layer, level) for layer in layers for level in network.kernels
    ]
    assert all(x.change.shape == (2,) and (x.change > 0).all() for x in steps)
    reads = of_kind(network, maps, points, Reads)
    assert [x.part for x in reads] == layers[:3]
    for probe in reads:
        assert probe.weights.shape == (2, count, 96)
        equal(probe.weights.sum(-1), torch.ones(2, count, dtype=torch.float64))
        for level in LEVELS:
            own = torch.tensor([each == level for each in probe.levels])
            reference = units(network, points, maps[level])[:, :, None]
            locations = reference + probe.offsets[:, :, own]
            assert torch.equal(probe.outside[:, :, own], (locations.abs() > 1).any(-1))
    (scale,) = of_kind(network, maps, points, Number)
    assert scale.value == pytest.approx(network.head.scale.exp().item())


@torch.no_grad()
@all_networks
def test_without_canvas_is_as_with_gates_shut(name: str, points: Tensor, equal: Equal) -> None:
    network = exact(name)
    maps = some_maps(network)
    read = network.decode(maps, points, SIZE).depth
    with network.without_canvas():
        unread = network.decode(maps, points, SIZE).depth
    assert torch.equal(network.decode(maps, points, SIZE).depth, read)
    assert not torch.allclose(unread, read)
    for part in network.modules():
        if isinstance(part, CanvasRead):
            nn.init.constant_(part.gate.bias, -1e4)
        elif isinstance(part, SharedCanvas):  # the plan reads once more, ungated, before its head
            nn.init.zeros_(part.final.weight)
            nn.init.zeros_(part.final.bias)
    equal(unread, network.decode(maps, points, SIZE).depth)


@torch.no_grad()
def test_probes_measure_the_canvas_change(points: Tensor) -> None:
    """Of the first layer, against its own parts; zero where nothing is written or smoothed."""
    network = exact("v14_dual")
    maps = some_maps(network)
    queries = network.queries(maps, points, SIZE)
    h = network.msda[0].get_submodule("cross")(network.seed(queries)[0], queries)
    after = write_of(network, "L3")(maps["L3"], h, queries)
    change = (after - maps["L3"]).flatten(1).norm(dim=1) / maps["L3"].flatten(1).norm(dim=1)

    def steps() -> list[CanvasStep]:
        return [x for x in of_kind(network, maps, points, CanvasStep) if x.level == "L3"]

    assert torch.allclose(steps()[0].change, change)
    parts = [m for m in network.modules() if isinstance(m, CanvasWrite)]
    _silence([m.write for m in parts])
    assert all(x.write.abs().max() == 0 < x.change.min() for x in steps())
    _silence([m.smooth for m in parts])
    assert all(x.change.abs().max() == 0 for x in steps())


@torch.no_grad()
@all_networks
@all_rules
def test_probed_pixels_lie_at_the_query_without_offsets(name: str, rule: str) -> None:
    network = exact(name, grid_rule=rule)
    _silence([m.offsets for m in network.modules() if isinstance(m, DeformableRead)])
    points = torch.rand(2, 6, 2, dtype=torch.float64) * 60
    for probe in of_kind(network.train(), some_maps(network), points, Reads):
        assert torch.allclose(probe.pixels, points[:, :, None].expand_as(probe.pixels))
    assert network.training  # as it was


# refusals


@all_networks
@pytest.mark.parametrize("size", [(32, 96), (64, 32)])
def test_images_too_small_for_a_level_are_refused(name: str, size: Size) -> None:
    with pytest.raises(ModelError, match=rf"at least 64x64 pixels; got {size[0]}x{size[1]}"):
        build(name)(torch.rand(1, 3, *size), torch.zeros(1, 1, 2))
    with pytest.raises(ModelError, match=rf"{name}.*L4 \(stride 32\) and needs 2x2"):
        create_model(name, TINY, image_size=size, msda_init="default")


@pytest.mark.parametrize(
    ("name", "options"),
    [("v14_dual", {"inserted_attention": "zero"}), ("v14_plan", {"routed_l4": 4})],
)
def test_options_of_other_networks_are_refused(name: str, options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(ConfigError, match=f"unknown option of {name} '{option}'"):
        create_model(name, TINY, **options)
