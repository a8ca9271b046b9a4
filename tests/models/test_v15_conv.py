"""v15.0 and v15.1: counts, the dense map and its sites one by one, the recorded patches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spdlib.geometry import lattice_points
from spdlib.models import DepthModel, create_model
from spdlib.models.base import count_parameters
from spdlib.models.counting import counted_macs, macs_per_query
from spdlib.models.v15_conv import SITES_A_QUERY, ConvLocalPath

SIZE = (32, 64)
UPSAMPLED = 2**2 * (5 * 5 * 64 + 3 * 3 * 64 + 3 * 3 * 32)
"""Values that the recorded path makes by doubling patches."""

Equal = Callable[[Tensor, Tensor], None]


@pytest.fixture(
    params=[("v15_0", "mobilenetv3_small_050"), ("v15_1", "vit_tiny_patch16_224")],
    ids=["v15_0", "v15_1"],
)
def exact_network(request: pytest.FixtureRequest) -> DepthModel:
    """A small one in float64, every decoder weight moved so that none is zero, one or tiny."""
    name, encoder = request.param
    network = create_model(name, encoder, image_size=SIZE).double().eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if not key.startswith("encoder."):
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return network


def local_path(network: DepthModel) -> ConvLocalPath:
    path = network.local_path
    assert isinstance(path, ConvLocalPath)
    return path


def recorded(network: DepthModel) -> DepthModel:
    """The same weights, asked from patches."""
    config = network.config
    twin = create_model(
        config.network, config.encoder, image_size=config.image_size, query_path="recorded"
    )
    twin.load_state_dict(network.state_dict())
    return twin.to(network.dtype).eval()


def test_counts() -> None:
    with torch.device("meta"):
        tables = [create_model(name).parameter_table() for name in ("v15_0", "v15_1")]
        path = ConvLocalPath()
    first, second = (
        dict(zip(table["component"], table["parameters"], strict=True)) for table in tables
    )
    shared = {"global_path": 229_888, "local_path": 331_489}
    assert first == {"encoder": 27_864_960, "neck": 92_928, **shared, "total": 28_519_265}
    assert second == {"encoder": 22_056_192, "neck": 218_048, **shared, "total": 22_835_617}
    units = (path.unit_s8, path.unit_level2, path.unit_fused, path.unit_level1)
    assert [count_parameters(unit) for unit in units] == [73_856] * 4
    narrow = (path.out2, path.out1, path.narrow, path.refine, path.last)
    assert [count_parameters(layer) for layer in narrow] == [4_160, 4_160, 18_464, 9_248, 33]


# one function


@torch.no_grad()
def test_the_dense_path_is_written_out(
    exact_network: DepthModel, images: Tensor, equal: Equal
) -> None:
    """DPT's order: each 1x1 convolution after its upsampling."""
    maps, path = exact_network.maps(images.double()), local_path(exact_network)
    s8, level2, level1 = (maps[name].permute(0, 3, 1, 2) for name in ("s8", "L2", "L1"))

    def doubled(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear")

    rn2 = path.out2(doubled(path.unit_s8(s8) + path.unit_level2(level2)))
    rn1 = path.out1(doubled(path.unit_fused(rn2) + path.unit_level1(level1)))
    number = path.last(F.relu(path.refine(doubled(path.narrow(rn1)))))[:, 0]
    depth = number.exp() if exact_network.config.network == "v15_0" else F.softplus(number)
    assert depth.std() > 1e-2
    equal(exact_network.decode_lattice(maps), depth)


@torch.no_grad()
def test_queries_are_the_dense_map_at_every_site(
    exact_network: DepthModel, images: Tensor, equal: Equal
) -> None:
    """A frame of sites at the borders, and a block in the middle, whose sites differ in phase."""
    maps = exact_network.maps(images.double())
    dense = exact_network.decode_lattice(maps)
    height, width = dense.shape[1:]
    assert (height, width) == tuple(4 * side for side in maps["L1"].shape[1:3])
    sites = lattice_points((height, width), SIZE, dtype=torch.float64).view(height, width, 2)
    chosen = torch.zeros(height, width, dtype=torch.bool)
    chosen[:3], chosen[-3:], chosen[:, :3], chosen[:, -3:] = True, True, True, True
    chosen[height // 2 :, width // 2 :][:12, :12] = True
    points = sites[chosen].expand(2, -1, -1)
    equal(exact_network.decode(maps, points, SIZE).depth, dense[:, chosen])


@torch.no_grad()
def test_queries_between_sites_are_the_map_read_there(
    exact_network: DepthModel, images: Tensor, points: Tensor, equal: Equal
) -> None:
    maps = exact_network.maps(images.double())
    fast = exact_network.decode(maps, points, SIZE).depth
    exact_network.execution = "reference"
    equal(fast, exact_network.decode(maps, points, SIZE).depth)


def test_gradients_agree(
    exact_network: DepthModel, images: Tensor, points: Tensor, equal: Equal
) -> None:
    """Of the maps, the points and every parameter of the local path."""
    with torch.no_grad():
        maps = exact_network.maps(images.double())
    maps = {name: level.requires_grad_() for name, level in maps.items()}
    few = points[:, :12].requires_grad_()
    inputs = [*maps.values(), few, *local_path(exact_network).parameters()]
    gradients = []
    for form in ("fast", "reference"):
        exact_network.execution = form
        depth = exact_network.decode(maps, few, SIZE).depth
        gradients.append(torch.autograd.grad(depth.sum(), inputs))
    for fast, reference in zip(*gradients, strict=True):
        equal(fast, reference)


def test_an_encoder_of_stride_four_is_answered_at_every_pixel() -> None:
    network = create_model("v15_0", "mobilenetv3_small_050", image_size=SIZE)
    assert network.decode_lattice(network.maps(torch.rand(1, 3, *SIZE))).shape == (1, *SIZE)


# as recorded


def test_the_recorded_path_costs_what_is_on_record() -> None:
    """Convolutions are counted; each upsampled value is priced at 4 MACs, patches at none."""
    network = create_model("v15_1", query_path="recorded").eval()
    level = torch.zeros(1, 50, 68, 64)
    maps = {"s8": level, "L2": level, "L1": torch.zeros(1, 100, 136, 64)}
    points = torch.rand(1, 16, 2) * 300
    with torch.no_grad():
        convolutions = counted_macs(lambda: network.decode(maps, points, (350, 476))) / 16
        dense = counted_macs(lambda: network.decode_lattice(maps))
    assert convolutions == 8_440_864
    assert convolutions + 4 * UPSAMPLED == 8_480_288
    # 5,800.3 M on record; the 1x1 convolutions run before their upsampling, on a quarter
    assert dense == 5_800_345_600 - 3 * (100 * 136 + 200 * 272) // 4 * 64 * 64


def test_the_exact_path_costs_half_as_much_again() -> None:
    """Convolutions of windows of 10, 9, 6 and 4 cells, and the products that upsample them."""
    network = create_model("v15_1", "mobilenetv2_100", image_size=(240, 320))
    units = 2 * (8 * 8 + 6 * 6 + 7 * 7 + 5 * 5) * 9 * 64 * 64
    others = (6 * 6 + 5 * 5) * 64 * 64 + 9 * 32 * (4 * 4 * 64 + 2 * 2 * 32) + 2 * 2 * 32
    upsampled = sum(c * (m * n * n + m * n * m) for c, n, m in ((64, 6, 9), (64, 5, 6), (32, 4, 4)))
    assert macs_per_query(network) == units + others + upsampled
    maps = {"s8": torch.zeros(1, 30, 40, 64), "L2": torch.zeros(1, 30, 40, 64)}
    maps["L1"] = torch.zeros(1, 60, 80, 64)
    dense = counted_macs(lambda: network.decode_lattice(maps))
    assert macs_per_query(network) / (dense / (240 * 320)) == pytest.approx(SITES_A_QUERY, abs=1)


@torch.no_grad()
def test_many_queries_of_training_read_the_whole_map(images: Tensor) -> None:
    """Its local path costs less then than their windows."""
    network = create_model("v15_1", "mobilenetv3_small_050", image_size=SIZE).train()
    maps = network.maps(images)
    few, many = (torch.rand(2, count, 2) * 30 for count in (3, 4))  # 2,048 sites
    windows = counted_macs(lambda: network.decode(maps, few, SIZE))
    lattice = counted_macs(lambda: network.decode(maps, many, SIZE))
    assert lattice == counted_macs(lambda: network.decode_lattice(maps)) < windows * 4 / 3
    assert network.eval().decode(maps, many, SIZE).depth.shape == (2, 4)


@torch.no_grad()
def test_recorded_patches_are_related_to_the_map_but_not_the_map(
    exact_network: DepthModel, images: Tensor
) -> None:
    maps, twin = exact_network.maps(images.double()), recorded(exact_network)
    points = torch.rand(2, 200, 2, dtype=torch.float64) * torch.tensor([48.0, 16.0]) + 8
    exact = exact_network.decode(maps, points, SIZE).depth.log().flatten()
    patches = twin.decode(maps, points, SIZE).depth.log().flatten()
    assert 0.3 < torch.corrcoef(torch.stack([exact, patches]))[0, 1] < 0.99


@torch.no_grad()
def test_recorded_patches_agree_where_maps_do_not_change() -> None:
    """All cells equal: nothing depends on where a patch lies, but for zeros outside the map."""
    network = create_model("v15_0", "mobilenetv3_small_050", image_size=SIZE).double().eval()
    row = torch.randn(64, dtype=torch.float64)
    maps = {"s8": row.expand(1, 30, 40, 64), "L2": -row.expand(1, 30, 40, 64)}
    maps["L1"] = row.flip(0).expand(1, 60, 80, 64)
    points = torch.tensor([[[160.0, 120.0], [161.3, 117.9]]], dtype=torch.float64)
    exact = network.decode(maps, points, (240, 320)).depth
    patches = recorded(network).decode(maps, points, (240, 320)).depth
    assert (exact - patches).abs().max() < 1e-12


# options


@pytest.mark.parametrize("name", ["v15_0", "v15_1"])
def test_fresh_answers(name: str, images: Tensor) -> None:
    points = torch.rand(2, 40, 2) * 30
    answers = {}
    for bias in ("median", "zero"):
        network = create_model(name, "mobilenetv3_small_050", image_size=SIZE, head_bias=bias)
        answers[bias] = network(images, points).depth
    assert 1.5 < answers["median"].min() < answers["median"].max() < 4
    expected = 1.0 if name == "v15_0" else 0.693
    assert answers["zero"].mean().item() == pytest.approx(expected, abs=0.2)
