"""v13 and v13.1: counts, the network written out, two forms of one function, options, refusals."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from spdlib.errors import ConfigError, ModelError
from spdlib.inspection import CellAttention, Reads, Shares
from spdlib.models import DepthModel, create_model
from spdlib.models.attention import Attention
from spdlib.models.base import EXECUTIONS, count_parameters
from spdlib.models.layers import fourier_code, position_table, standardised
from spdlib.models.necks import PlanNeck
from spdlib.models.sampling import gather_rows
from spdlib.models.v13 import V13, V13LogDepth, V13Plan
from spdlib.models.v13_1 import V131
from spdlib.models.v13_blocks import Queries
from spdlib.scene import Maps

SIZE = (64, 96)
TINY, TINY_VIT = "test_convnext", "vit_tiny_patch16_224"
ROUTES: dict[str, dict[str, int]] = {
    "v13_plan": {"routed_l4": 4},
    "v13_calibrated": {},
    "v13_log_depth": {"routed_l4": 4},
    "v13_1": {"routed_l3": 5, "routed_l4": 4},
}
"""Networks, and the routes that fit 64x96 images, which have 4x6 cells on L3 and 2x3 on L4."""

Equal = Callable[[Tensor, Tensor], None]

all_networks = pytest.mark.parametrize("name", ROUTES)
all_rules = pytest.mark.parametrize("rule", ["half_pixel", "recorded"])
both_forms = pytest.mark.parametrize("execution", EXECUTIONS)


def build(name: str, execution: str = "fast", **options: Any) -> V13:
    """A network for 64x96 images, float32, random weights, evaluation mode."""
    encoder = TINY_VIT if name == "v13_plan" else TINY
    network = create_model(name, encoder, image_size=SIZE, **{**ROUTES[name], **options})
    assert isinstance(network, V13)
    network.execution = execution
    return network.eval()


def exact(name: str, **options: Any) -> Any:
    """The same in float64, whatever starts at zero or one in the decoder moved away from it."""
    network = build(name, **options).double()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if not key.startswith("encoder.") and (parameter.dim() == 1 or not parameter.any()):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def twin(network: V13, **options: Any) -> V13:
    """The same weights under other options, or in another form."""
    other = build(network.config.network, **{**network.config.options, **options})
    other.to(network.dtype).load_state_dict(network.state_dict())
    return other


def some_maps(network: V13) -> Maps:
    """Maps of two random images, in the network's type."""
    with torch.no_grad():
        return network.maps(torch.rand(2, 3, *SIZE, dtype=network.dtype))


@pytest.fixture
def few(points: Tensor) -> Tensor:
    """Points [2, 12, 2], float64, corners and edges first."""
    return points[:, :12]


# parameters


@functools.cache
def shapes(name: str) -> DepthModel:
    """The default network without memory for its weights."""
    with torch.device("meta"):
        return create_model(name)


CONVNEXT = {"encoder": 27_864_960, "neck": 401_664, "level4_attention": 3_548_928}
LOCAL = {"b1": 139_472, "b2": 890_112}
COUNTS = {
    "v13_plan": {
        "encoder": 22_056_192, "neck": 297_216, "precompute": 506_114, **LOCAL, "b3": 741_504,
        "b4": 159_384, "b5": 1_409_473 - 74_497, "head": 74_497, "total": 22_056_192 + 4_143_275,
    },
    "v13_calibrated": {
        **CONVNEXT, "precompute": 506_114, **LOCAL, "b3": 741_504, "head": 74_497,
        "total": 34_167_251,
    },
    "v13_log_depth": {
        **CONVNEXT, "precompute": 505_344, **LOCAL, "b3": 741_504, "b4": 159_384,
        "b5": 1_410_241 - 74_497, "head": 74_497, "total": 35_661_609,
    },
    "v13_1": {
        "encoder": 27_864_960, "level3_attention": 3_548_928, "neck": 401_664,
        "level4_attention": 3_548_928, "precompute": 690_624, "b1": 140_048, "b2": 890_112,
        "b3a": 741_504, "b3b": 741_504, "b5": 1_410_625 - 74_497, "head": 74_497,
        "total": 39_978_897,
    },
}  # fmt: skip


@all_networks
def test_counts(name: str) -> None:
    network = shapes(name)
    table = network.parameter_table()
    assert dict(zip(table["component"], table["parameters"], strict=True)) == COUNTS[name]
    assert network.config.image_size == ((518, 518) if name == "v13_plan" else (256, 320))
    if name != "v13_plan":
        assert network.config.encoder.name == "convnextv2_tiny.fcmae_ft_in22k_in1k"


@pytest.mark.parametrize(
    ("name", "part", "count"),
    [
        ("v13_log_depth", "b1.offsets", 1_040),
        ("v13_log_depth", "b1.local", 15_552),
        ("v13_log_depth", "b1.value2", 24_768),
        ("v13_log_depth", "b1.value4", 73_920),
        ("v13_log_depth", "b1.seed", 18_624),
        ("v13_log_depth", "b4.condition", 80_064),
        ("v13_log_depth", "b4.norm", 384),
        ("v13_log_depth", "b4.offsets", 27_792),
        ("v13_log_depth", "b4.weights", 13_896),
        ("v13_log_depth", "b4.out", 37_056),
        ("v13_plan", "precompute.b3_tokens", 295_680),
        ("v13_plan", "precompute.anchors", 73_920),
        ("v13_plan", "precompute.values", 135_744),
        ("v13_plan", "precompute.calibration", 770),
        ("v13_1", "precompute.b3a_tokens", 148_224),
        ("v13_1", "precompute.b3b_tokens", 295_680),
        ("v13_1", "precompute.g3", 37_056),
        ("v13_1", "precompute.g4", 73_920),
        ("v13_1", "precompute.values", 135_744),
    ],
)
def test_counts_inside_the_blocks(name: str, part: str, count: int) -> None:
    assert count_parameters(shapes(name).get_submodule(part)) == count


def test_counts_of_codes_and_of_the_plans_levels() -> None:
    codes = {key: p.numel() for key, p in shapes("v13_1").named_parameters() if "_code" in key}
    assert codes == {
        "b1.type_code": 768, "b1.place_code": 4_800, "b1.central_code": 576, "b5.routed_code": 384,
    }  # fmt: skip
    neck = shapes("v13_plan").get_submodule("neck")
    assert isinstance(neck, PlanNeck)
    pairs = zip(neck.project, neck.norm, strict=True)
    assert [sum(map(count_parameters, pair)) for pair in pairs] == [24_768, 49_536, 74_304, 148_608]


@pytest.mark.parametrize("encoder", ["convnextv2_atto", "mobilenetv2_050"])
@pytest.mark.parametrize("name", ["v13_calibrated", "v13_log_depth", "v13_1"])
def test_swapped_encoders_keep_the_decoder(name: str, encoder: str) -> None:
    with torch.device("meta"):
        network = create_model(name, encoder)
    table = network.parameter_table()
    found = dict(zip(table["component"], table["parameters"], strict=True))
    swapped = {"encoder", "level3_attention", "neck", "total"}
    assert {k: n for k, n in found.items() if k not in swapped} == {
        k: n for k, n in COUNTS[name].items() if k not in swapped
    }
    pairs = zip(network.encoder.channels, (64, 128, 192, 384), strict=True)
    assert found["neck"] == sum(c * width + 3 * width for c, width in pairs)
    if name == "v13_1":
        channels = network.encoder.channels[2]
        assert found["level3_attention"] == 2 * (12 * channels**2 + 13 * channels)


# the networks written out, without shared tricks


def read(level: Tensor, points: Tensor, offsets: Tensor, rule: str) -> Tensor:
    """`grid_sample` [B, K, n, C] of [B, h, w, C] at points [B, K, 2] + offsets [.., n, 2] cells."""
    cells = torch.tensor([level.shape[2], level.shape[1]], dtype=points.dtype)
    stride = torch.tensor([SIZE[1], SIZE[0]], dtype=points.dtype) / cells
    if rule == "recorded":
        grid = 2 * (points[:, :, None] / stride + offsets) / (cells - 1) - 1
    else:
        grid = 2 * ((points[:, :, None] + 0.5) / stride + offsets) / cells - 1
    return sample(level, grid, rule)


def sample(level: Tensor, grid: Tensor, rule: str) -> Tensor:
    """`grid_sample` [B, K, n, C] of [B, h, w, C] at [B, K, n, 2] in -1..1."""
    recorded = rule == "recorded"
    value = F.grid_sample(
        level.permute(0, 3, 1, 2), grid, padding_mode="zeros" if recorded else "border",
        align_corners=recorded,
    )  # fmt: skip
    return value.permute(0, 2, 3, 1)


def square(side: int) -> Tensor:
    """Offsets [side**2, 2] in cells, y outer, x inner."""
    reach = range(-(side // 2), side // 2 + 1)
    return torch.tensor([[x, y] for y in reach for x in reach], dtype=torch.float64)


def attend(attention: Attention, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-head attention of x [N, 1, C] on projected keys and values [N, T, C], head by head."""
    query, found, weights = attention.query(x), [], []
    for head in range(6):
        part = slice(32 * head, 32 * head + 32)
        score = query[..., part] @ keys[..., part].mT / 32**0.5
        weights.append(score.softmax(-1))
        found.append(weights[-1] @ values[..., part])
    return attention.out(torch.cat(found, -1)), torch.stack(weights).mean(0)


def layer_of(layer: Any, h: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """h += O MHA(LN h, ...), h += FFN(LN h), for queries [N, 1, C] with tokens [N, T, C] each."""
    found, weights = attend(layer.attention, layer.norm(h), keys, values)
    h = h + found
    return h + layer.ffn(layer.norm_ffn(h)), weights


def plain_own(block: Any, h: Tensor, tokens: Tensor) -> Tensor:
    """B2 and B5: queries [N, 1, C] attend to tokens [N, T, C]; one norm for all, or one a layer."""
    for number, layer in enumerate(block.layers):
        normed = block.norms[number if len(block.norms) > 1 else 0](tokens)
        h, _ = layer_of(layer, h, layer.attention.key(normed), layer.attention.value(normed))
    return h


def plain_b3(block: Any, tables: Any, h: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """B3: queries [N, 1, C] attend to all cells of a level [B, h, w, C]; h and the last weights."""
    cells = level.flatten(1, 2).repeat_interleave(len(h) // len(level), 0)
    size = (level.shape[1], level.shape[2])
    placed = cells + position_table(size, level.shape[3], level) if tables.positions else cells
    for number, layer in enumerate(block.layers):
        own = slice(192 * number, 192 * number + 192)
        keys, values = tables.keys(placed)[..., own], tables.values(cells)[..., own]
        h, weights = layer_of(layer, h, keys, values)
    return h, weights[:, 0]


def plain_b1(b1: Any, levels: list[Tensor], points: Tensor, rule: str, unit: int) -> Any:
    """Seed [N, 1, 192] and tokens [N, 91, 192] of N = B K queries."""
    f = read(levels[0], points, torch.zeros(1, 2, dtype=torch.float64), rule)
    place = fourier_code(points / torch.tensor([SIZE[1], SIZE[0]]), 8)
    seed = b1.seed(torch.cat([f[:, :, 0], place], -1))
    fixed = torch.cat([square(5)[:12], square(5)[13:]]).expand(*points.shape[:2], -1, -1)
    learned = 6 * torch.tanh(b1.offsets(f[:, :, 0])).unflatten(-1, (8, 2))
    offsets = torch.cat([fixed, learned], 2)
    samples = read(levels[0], points, offsets, rule)
    local = F.gelu(b1.local(torch.cat([samples, fourier_code(offsets / unit, 4)], -1)))
    e, r = b1.type_code, b1.place_code
    inner = r[[6, 7, 8, 11, 12, 13, 16, 17, 18]]
    tokens = [
        local + e[0],
        b1.value2(read(levels[1], points, square(5), rule)) + e[1] + r,
        read(levels[2], points, square(5), rule) + e[2] + r,
        b1.value4(read(levels[3], points, square(3), rule)) + e[3] + inner,
    ]
    return seed.flatten(0, 1)[:, None], torch.cat(tokens, 2).flatten(0, 1)


def plain_b4(
    network: Any, levels: list[Tensor], h: Tensor, routed: Tensor, points: Tensor, rule: str
) -> Tensor:
    """Tokens [B, K, R, 192] of B4 for queries h [B, K, 192]."""
    b4, precompute = network.b4, network.precompute
    column, row = routed % levels[3].shape[2], routed // levels[3].shape[2]
    anchor = 32.0 * torch.stack([column, row], -1) + (16 if rule == "recorded" else 15.5)
    delta = (anchor - points[:, :, None]) / torch.tensor([SIZE[1], SIZE[0]])
    g = gather_rows(precompute.anchors(levels[3]), column, row)
    query = h[:, :, None].expand_as(g)
    u = b4.norm(F.gelu(b4.condition(torch.cat([query, g, fourier_code(delta, 8)], -1))))
    offsets = b4.offsets(u).unflatten(-1, (6, 3, 4, 2))
    if not isinstance(network, V13Plan):
        offsets = torch.tanh(offsets) * torch.tensor([4.0, 2.0, 1.0])[:, None, None]
    weights = b4.weights(u).unflatten(-1, (6, 12)).softmax(-1).unflatten(-1, (3, 4))
    heads = []
    for head in range(6):
        total = torch.zeros(*routed.shape, 32, dtype=torch.float64)
        for number, layer in enumerate(precompute.values.values()):
            level = layer(levels[number + 1])[..., 32 * head : 32 * head + 32]
            for point in range(4):
                here = offsets[:, :, :, head, number, point]
                value = read(level, anchor.flatten(1, 2), here.flatten(1, 2)[:, :, None], rule)
                share = weights[:, :, :, head, number, point, None]
                total = total + share * value[:, :, 0].unflatten(1, routed.shape[1:])
        heads.append(total)
    return b4.out(torch.cat(heads, -1)) + b4.type_code


def plain_v13(network: Any, levels: list[Tensor], points: Tensor, rule: str, unit: int) -> Tensor:
    """v13's decoder: depth [B, K]."""
    h, local = plain_b1(network.b1, levels, points, rule, unit)
    h = plain_own(network.b2, h, local)
    h, weights = plain_b3(network.b3, network.precompute.b3_tokens, h, levels[3])
    if isinstance(network, V13LogDepth):
        routed = weights.topk(network.options.routed_l4).indices.unflatten(0, points.shape[:2])
        own = h[:, 0].unflatten(0, points.shape[:2])
        more = plain_b4(network, levels, own, routed, points, rule).flatten(0, 1)
        h = plain_own(network.b5, h, torch.cat([local, more], 1))
    raw = network.head[2](F.gelu(network.head[0](h))).view(points.shape[:2])
    if type(network) is V13LogDepth:
        return raw.exp()
    mean, calibration = levels[3].mean((1, 2)), network.precompute.calibration
    inverse = F.softplus(raw * F.softplus(calibration.scale(mean)) + calibration.shift(mean))
    return 1 / (inverse + 1e-6)


def plain_central(network: Any, levels: list[Tensor], points: Tensor, rule: str) -> list[Tensor]:
    """L2, L3 and L4 at the query, [B, K, 192] each; recorded, on the grid of L1's size."""
    here, found = torch.zeros(1, 2, dtype=torch.float64), []
    size = torch.tensor([SIZE[1] / 4, SIZE[0] / 4], dtype=torch.float64)
    for number, layer in enumerate(network.precompute.values.values()):
        level = layer(levels[number + 1])
        if rule == "recorded":
            value = sample(level, (2 * (points / 4) / (size - 1) - 1)[:, :, None], rule)
        else:
            value = read(level, points, here, rule)
        found.append(value[:, :, 0] + network.b1.central_code[number])
    return found


def plain_v131(network: Any, levels: list[Tensor], points: Tensor, rule: str, unit: int) -> Tensor:
    """v13.1's decoder: depth [B, K]."""
    once = network.precompute
    h, local = plain_b1(network.b1, levels, points, rule, unit)
    h = plain_own(network.b2, h, local)
    tokens = [x.flatten(0, 1)[:, None] for x in plain_central(network, levels, points, rule)]
    queries = torch.arange(len(points)).repeat_interleave(points.shape[1])[:, None]
    blocks = [
        (network.b3a, once.b3a_tokens, levels[2], once.g3, network.options.routed_l3),
        (network.b3b, once.b3b_tokens, levels[3], once.g4, network.options.routed_l4),
    ]
    for (block, tables, level, g, count), code in zip(blocks, network.b5.routed_code, strict=True):
        h, weights = plain_b3(block, tables, h, level)
        tokens.append(g(level).flatten(1, 2)[queries, weights.topk(count).indices] + code)
    h = plain_own(network.b5, h, torch.cat(tokens, 1))
    return network.head[2](F.gelu(network.head[0](h))).view(points.shape[:2]).exp()


def plain(network: Any, images: Tensor, points: Tensor, rule: str, unit: int) -> Tensor:
    """The network query by query, with `grid_sample` and no shared tricks: depth [B, K]."""
    levels = network.encoder(images)
    if isinstance(network, V13Plan):
        levels = network.neck(levels)
    else:
        levels = [layer(x) for layer, x in zip(network.neck.project, levels, strict=True)]
        levels[3] = network.level4_attention(levels[3])
    decoder = plain_v131 if isinstance(network, V131) else plain_v13
    return decoder(network, [x.permute(0, 2, 3, 1) for x in levels], points, rule, unit)


@torch.no_grad()
@all_networks
@all_rules
@both_forms
def test_both_forms_are_the_network_written_out(
    name: str, execution: str, rule: str, images: Tensor, few: Tensor, equal: Equal
) -> None:
    """By default, and as recorded: with the faults that the decoder had."""
    faults = {"grid_rule": rule, "offset_code": "recorded", "token_positions": "none"}
    network = exact(name, execution=execution, **(faults if rule == "recorded" else {}))
    unit = 1 if rule == "recorded" else 16
    expected = plain(network, images.double(), few, rule, unit)
    assert expected.std() > 1e-3  # or the comparison would say little
    equal(network(images.double(), few).depth, expected)


@pytest.mark.parametrize("patches", [(4, 6), (5, 7), (2, 2)])
def test_plan_neck_is_the_designed_order(patches: tuple[int, int], equal: Equal) -> None:
    """Resize, then Conv1x1, then LN; an odd grid is halved to the floor, as 37 to 18."""
    neck = PlanNeck([24] * 4, (64, 128, 192, 384)).double()
    taps = [torch.randn(2, 24, *patches, dtype=torch.float64) for _ in range(4)]
    found = neck(taps)
    h, w = patches
    resized = [
        F.interpolate(taps[0], scale_factor=4, mode="bilinear"),
        F.interpolate(taps[1], scale_factor=2, mode="bilinear"),
        taps[2],
        F.adaptive_avg_pool2d(taps[3], (h // 2, w // 2)),
    ]
    if h % 2 == 0 and w % 2 == 0:
        equal(resized[3], F.avg_pool2d(taps[3], 2))
    for level, value, conv, norm in zip(resized, found, neck.project, neck.norm, strict=True):
        equal(value, norm(conv(level)))


# two forms, one function


@all_networks
@all_rules
def test_fast_is_the_reference_and_so_are_its_gradients(
    name: str, rule: str, images: Tensor, few: Tensor, equal: Equal
) -> None:
    """Of the points and of every parameter, the encoder's included."""
    fast = exact(name, grid_rule=rule)
    reference = twin(fast, execution="reference")
    found = []
    for network in (fast, reference):
        at = few.clone().requires_grad_()
        depth = network(images.double(), at).depth
        inputs = [at, *(p for p in network.parameters() if p.requires_grad)]
        found.append([depth, *torch.autograd.grad(depth.log().sum(), inputs)])
    for value, expected in zip(*found, strict=True):
        assert expected.isfinite().all()
        equal(value, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["v13_calibrated", "v13_log_depth", "v13_1"])
def test_maps_of_one_cell_are_read(name: str, images: Tensor, equal: Equal) -> None:
    """The smallest image has one cell on L4, and its neighbours are itself."""
    fast = exact(name, **dict.fromkeys(ROUTES[name], 1))
    image = images[:, :, :32, :32].double()
    points = torch.rand(2, 9, 2, dtype=torch.float64) * 32 - 0.5
    equal(fast(image, points).depth, twin(fast, execution="reference")(image, points).depth)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "share"), [("v13_calibrated", 4), ("v13_log_depth", 6), ("v13_1", 3)]
)
def test_fast_answers_need_fewer_products(name: str, share: float) -> None:
    """Of matrices, at 256x320 and 256 points; bilinear reads come on top."""
    points, products = torch.rand(1, 256, 2) * torch.tensor([320, 256]) - 0.5, []
    network = create_model(name, TINY, image_size=(256, 320)).eval()
    for network.execution in EXECUTIONS:
        maps = network.maps(torch.rand(1, 3, 256, 320))
        with FlopCounterMode(display=False) as counter:
            network.decode(maps, points, (256, 320))
        products.append(counter.get_total_flops())
    assert share * products[0] < products[1]


@both_forms
def test_maps_are_named(execution: str) -> None:
    """Keys, values and projections are a scene's; fast, so are B1's projections of L2 and L4."""
    c2, c4 = (192, 192) if execution == "fast" else (128, 384)
    levels = {"L1": (16, 24, 64), "L2": (8, 12, c2), "L3": (4, 6, 192), "L4": (2, 3, c4)}
    values = {"V2": (8, 12, 192), "V3": (4, 6, 192), "V4": (2, 3, 192)}
    b3 = {"b3_keys": (2, 3, 384), "b3_values": (2, 3, 384)}
    expected = {
        "v13_calibrated": {**levels, **b3, "calibration": (1, 1, 2)},
        "v13_log_depth": {**levels, **b3, **values, "anchors": (2, 3, 192)},
        "v13_plan": {**levels, **b3, **values, "anchors": (2, 3, 192), "calibration": (1, 1, 2)},
        "v13_1": {
            **levels, **values, "g3": (4, 6, 192), "g4": (2, 3, 192), "b3a_keys": (4, 6, 384),
            "b3a_values": (4, 6, 384), "b3b_keys": (2, 3, 384), "b3b_values": (2, 3, 384),
        },
    }  # fmt: skip
    for name in ROUTES:
        maps = some_maps(build(name, execution=execution))
        assert {key: tuple(level.shape[1:]) for key, level in maps.items()} == expected[name]


# training


def route(network: Any, few: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Depth and the routed cells, if B3 looked by `weights` [2, 12, 6]."""
    network.b3.layers[-1].read_shared = lambda h, keys, values: (h, weights.unsqueeze(1))
    queries = network.queries(some_maps(network), few, SIZE)._replace(probes=[])
    depth = network.run(queries)
    (looked,) = (probe for probe in queries.probes if isinstance(probe, CellAttention))
    assert looked.routed is not None
    return depth, looked.routed


def test_gradients_go_straight_through_the_plans_routing(few: Tensor) -> None:
    """Only the weights of routed cells get one."""
    weights = torch.rand(2, 12, 6, dtype=torch.float64).softmax(-1).requires_grad_()
    depth, cells = route(exact("v13_plan"), few, weights)
    (gradient,) = torch.autograd.grad(depth.square().sum(), weights)
    routed = torch.zeros_like(weights).scatter(-1, cells, 1.0).bool()
    assert (gradient[routed] != 0).all()
    assert (gradient[~routed] == 0).all()


@pytest.mark.parametrize("name", ["v13_log_depth", "v13_1"])
def test_as_run_routing_has_no_gradient(name: str, few: Tensor) -> None:
    network = exact(name)
    weights = torch.rand(2, 12, 6, dtype=torch.float64).softmax(-1).requires_grad_()
    block = network.b3 if name == "v13_log_depth" else network.b3b
    block.layers[-1].read_shared = lambda h, keys, values: (h, weights.unsqueeze(1))
    depth = network.run(network.queries(some_maps(network), few, SIZE))
    (gradient,) = torch.autograd.grad(depth.sum(), weights, allow_unused=True)
    assert gradient is None


@both_forms
def test_only_the_plans_decoder_has_dropout(execution: str, images: Tensor, few: Tensor) -> None:
    for name, expected in (("v13_plan", 0.1), ("v13_calibrated", 0.0), ("v13_log_depth", 0.0)):
        blocks = [m for key, m in build(name).named_children() if key in ("b2", "b3", "b5")]
        found = [m.dropout for b in blocks for m in b.modules() if isinstance(m, Attention)]
        assert set(found) == {expected}
    network = build("v13_plan", execution=execution)
    still = network(images, few.float()).depth
    assert torch.equal(network(images, few.float()).depth, still)
    first, second = (network.train()(images, few.float()).depth for _ in range(2))
    assert (first - second).abs().max() > 1e-6


def test_dropped_weights_are_dropped_alike_in_both_forms(equal: Equal) -> None:
    """The value's bias counts as often as weights are kept."""
    fast = exact("v13_plan")
    h = torch.randn(2, 3, 192, dtype=torch.float64)
    tokens = torch.randn(2, 3, 91, 192, dtype=torch.float64).split([32, 25, 25, 9], 2)
    found = []
    for network in (fast, twin(fast, execution="reference")):
        torch.manual_seed(4)
        own = [standardised(part) for part in tokens]
        found.append(network.train().b2.read(h, own, network.fast)[0])
    equal(*found)


# options


def queries_of(network: V13, points: Tensor, **maps: Tensor) -> Queries:
    return network.queries({**some_maps(network), **maps}, points, SIZE)


@torch.no_grad()
@both_forms
def test_the_recorded_rule_shifts_the_reads(execution: str) -> None:
    """By (s - 1) / 2 pixels: 1.5, 3.5, 7.5, 15.5 on L1 to L4 (F9)."""
    points = torch.tensor([[[30.0, 20.0], [40.3, 31.0]]]).expand(2, -1, -1).double()
    found = {}
    for rule in ("half_pixel", "recorded"):
        network = exact("v13_log_depth", grid_rule=rule, execution=execution)
        columns = {  # maps whose one channel holds the pixel column of each cell's centre
            f"L{n}": ((torch.arange(SIZE[1] // s) + 0.5) * s - 0.5).double()
            .view(1, 1, -1, 1).expand(2, SIZE[0] // s, -1, 1)
            for n, s in enumerate((4, 8, 16, 32), 1)
        }  # fmt: skip
        query = queries_of(network, points, **columns)
        found[rule] = [query.read(name, points.unsqueeze(2))[..., 0, 0] for name in columns]
    for right, moved, shift in zip(*found.values(), (1.5, 3.5, 7.5, 15.5), strict=True):
        assert torch.allclose(right, points[..., 0])
        assert torch.allclose(moved - right, torch.full_like(right, shift))


@torch.no_grad()
@both_forms
def test_recorded_reads_fade_at_the_right_border(execution: str) -> None:
    """Where cells run off the map they count as zero; the default repeats the border."""
    points = torch.tensor([[[95.0, 30.0]]]).expand(2, -1, -1).double()
    ones = torch.ones(2, 2, 3, 1, dtype=torch.float64)
    for rule, expected in (("half_pixel", 1.0), ("recorded", 1 - 31 / 32)):
        query = queries_of(
            exact("v13_log_depth", grid_rule=rule, execution=execution), points, L4=ones
        )
        found = query.read("L4", points.unsqueeze(2))
        assert torch.allclose(found, torch.full_like(found, expected))


@torch.no_grad()
def test_the_recorded_offset_code_tells_no_offset_from_another() -> None:
    """Of one sample at all 32 places the 24 fixed tokens differ by their code alone (F10)."""
    samples = torch.randn(1, 1, 1, 64).expand(1, 1, 32, 64)
    for code, distinct in (("recorded", 1), ("scaled", 24)):
        b1: Any = build("v13_log_depth", offset_code=code).b1
        offsets = b1._offsets(samples[:, :, 0], torch.zeros(1, 1, 2))["L1"]
        tokens = b1._fine(samples, offsets)[0, 0, :24]
        same = (torch.cdist(tokens, tokens) < 1e-4).sum(0)
        assert (same == 24 // distinct).all()


@torch.no_grad()
@pytest.mark.parametrize("positions", ["sincos", "none"])
def test_token_positions_tell_cells_apart(positions: str) -> None:
    """In the keys of every B3 and in the attention of L3 and L4, not in the values (F11)."""
    same = {"L3": torch.ones(1, 4, 6, 192), "L4": torch.ones(1, 2, 3, 384)}
    levels = {"L1": torch.ones(1, 16, 24, 64), "L2": torch.ones(1, 8, 12, 128), **same}
    for name in ROUTES:
        network = build(name, token_positions=positions)
        for key, level in network.projected(levels).items():
            spread = level.flatten(1, 2).std(1).max() if level.shape[1] > 1 else 0
            assert (spread > 1e-2) == (positions == "sincos" and key.endswith("keys")), key
        for part in ("level3_attention", "level4_attention"):
            attention: Any = getattr(network, part, None)
            assert attention is None or attention.positions == (positions == "sincos")


@torch.no_grad()
@all_networks
def test_bfloat16_heads_answer_on_its_grid(name: str) -> None:
    """F7; without it hardly a number is one of bfloat16."""
    network = build(name)
    rounded, h = twin(network, head_dtype="bfloat16"), torch.randn(1, 200, 192)
    fine, coarse = network.head(h), rounded.head(h)
    assert coarse.dtype == torch.float32
    assert torch.equal(coarse, coarse.bfloat16().float())
    assert (fine == fine.bfloat16().float()).float().mean() < 0.1
    assert (fine - coarse).abs().max() < 0.01


@torch.no_grad()
@pytest.mark.parametrize("name", ["v13_log_depth", "v13_1"])
def test_heads_start_at_the_median_or_at_one_metre(name: str) -> None:
    """F17c: v13.1 set ln 2.5, v13 did not."""
    h = torch.zeros(1, 1, 192)
    for options, depth in (
        ({}, 2.5),
        ({"head_bias": "zero"}, 1),
        ({"head_bias": "median"}, 2.5),
    ):
        head: Any = build(name, **options).head
        nn.init.zeros_(head[2].weight)
        assert head(h).exp().item() == pytest.approx(depth, rel=1e-6)


# probes


@torch.no_grad()
@all_networks
@both_forms
def test_probes_tell_what_the_blocks_do(
    name: str, execution: str, few: Tensor, equal: Equal
) -> None:
    network = exact(name, execution=execution)
    found = network.train().explained(some_maps(network), few, SIZE)
    assert network.training
    expected = {
        "v13_plan": ["B2", "B3", "B4", "B5"],
        "v13_calibrated": ["B2", "B3"],
        "v13_log_depth": ["B2", "B3", "B4", "B5"],
        "v13_1": ["B2", "B3a", "B3b", "B5"],
    }
    assert [probe.part for probe in found] == expected[name]
    one = torch.ones(2, 12, dtype=torch.float64)
    for probe in found:
        if isinstance(probe, Reads):
            count = {"B2": 91, "B4": 4 * 72}[probe.part]
            assert len(probe.levels) == count
            assert probe.pixels.shape == (2, 12, count, 2)
            equal(probe.weights.sum(-1), one)
        elif isinstance(probe, CellAttention):
            assert probe.weights.shape == (2, 12, *{"L3": (4, 6), "L4": (2, 3)}[probe.level])
            equal(probe.weights.sum((-1, -2)), one)
            if name == "v13_calibrated":
                assert probe.routed is None
                continue
            assert probe.routed is not None
            assert probe.routed.shape == (2, 12, ROUTES[name][f"routed_{probe.level.lower()}"])
            weights = probe.weights.flatten(2)
            best = weights.sort(descending=True).values[..., : probe.routed.shape[-1]]
            assert torch.equal(weights.gather(-1, probe.routed), best)
        else:
            assert isinstance(probe, Shares)
            around = {"L1": 32, "L2": 25, "L3": 25, "L4": 9}
            own = {"L2": 1, "L3": 1, "L4": 1} if name == "v13_1" else around
            routed = {f"routed {key[-2:].upper()}": n for key, n in ROUTES[name].items()}
            assert probe.tokens == {**own, **routed}
            equal(torch.stack(list(probe.shares.values())).sum(0), one)


@torch.no_grad()
@all_rules
def test_probed_pixels_are_those_that_were_meant(rule: str, equal: Equal) -> None:
    """Offsets from the query, or from the anchor, whatever cells the grid rule finds there."""
    network = exact("v13_log_depth", grid_rule=rule)
    points = torch.tensor([[[41.0, 29.3], [50.2, 33.0]]]).expand(2, -1, -1).double()
    found = {p.part: p for p in network.explained(some_maps(network), points, SIZE)}
    away = found["B2"].pixels - points.unsqueeze(2)
    for (start, stop), stride in zip(pairwise((32, 57, 82, 91)), (8, 16, 32), strict=True):
        offsets = square(3 if stride == 32 else 5) * stride
        equal(away[:, :, start:stop], offsets.expand(2, 2, -1, -1))
    assert 1 < away[:, :, 24:32].abs().max() < 6 * 4
    cells = found["B3"].routed
    anchors = torch.stack([cells % 3, cells // 3], -1) * 32 + (16 if rule == "recorded" else 15.5)
    pixels = found["B4"].pixels.unflatten(2, (4, 6, 3, 4))
    away = (pixels - anchors[:, :, :, None, None, None]).abs()
    assert (away < torch.tensor([4 * 8.0, 2 * 16.0, 32.0])[:, None, None]).all()
    assert away.max() > 1


# refusals


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v13_log_depth", {"canvas_write": "sum"}),
        ("v13_log_depth", {"inserted_attention": "zero"}),
        ("v13_log_depth", {"routed_l3": 4}),
        ("v13_calibrated", {"routed_l4": 4}),
        ("v13_calibrated", {"head_bias": "median"}),
        ("v13_plan", {"head_bias": "median"}),
        ("v13_1", {"canvas_write": "mean"}),
    ],
)
def test_options_of_other_networks_are_refused(name: str, options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(ConfigError, match=f"unknown option of {name} '{option}'"):
        create_model(name, TINY, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("v13_log_depth", {}, r"32 cells of a level that has 2x3 = 6 .*routed_l4=6"),
        ("v13_1", {"routed_l3": 25}, r"25 cells of a level that has 4x6 = 24 .*routed_l3=24"),
        ("v13_1", {}, r"10 cells of a level that has 2x3 = 6 .*routed_l4=6"),
    ],
)
def test_routing_beyond_the_map_is_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        create_model(name, TINY, image_size=SIZE, **options)
    network = create_model(name, TINY, image_size=(320, 320), **options)
    with pytest.raises(ModelError, match=message):
        network.maps(torch.rand(1, 3, *SIZE))


def test_images_without_an_l4_are_refused() -> None:
    message = r"0x3 = 0 in images of 16x96; use larger images$"
    with pytest.raises(ModelError, match=message):
        create_model("v13_plan", "vit_tiny_patch16_224", image_size=(16, 96))
    with pytest.raises(ModelError, match=message):
        build("v13_plan")(torch.rand(1, 3, 16, 96), torch.zeros(1, 1, 2))
