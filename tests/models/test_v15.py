"""v15.2: counts, one function in three execution forms, and training's path."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spdlib.geometry import lattice_points
from spdlib.models import DepthModel, create_model
from spdlib.models.base import count_parameters
from spdlib.models.v15 import CrossAttention, LocalPath
from spdlib.scene import Maps

SIZE = (64, 96)

Equal = Callable[[Tensor, Tensor], None]


def local_path(network: DepthModel) -> LocalPath:
    path = network.local_path
    assert isinstance(path, LocalPath)
    return path


def sites(maps: Maps) -> Tensor:
    """Pixel points [B, h1 * w1, 2] of L1's cells, float64."""
    batch, height, width, _ = maps["L1"].shape
    return lattice_points((height, width), SIZE, dtype=torch.float64).expand(batch, -1, -1)


def answer(network: DepthModel, form: str, maps: Maps) -> Tensor:
    """Depth [B, h1 * w1] at every lattice site by one of the three forms."""
    path = local_path(network)
    if form == "lattice":
        return path.lattice(maps).flatten(1)
    return getattr(path, form)(maps, sites(maps), SIZE)


# parameters


def counts(network: DepthModel) -> dict[str, int]:
    table = network.parameter_table()
    return dict(zip(table["component"], table["parameters"], strict=True))


def test_counts() -> None:
    with torch.device("meta"):
        network = create_model("v15_2")
    assert counts(network) == {
        "encoder": 22_056_192, "neck": 218_048, "global_path": 229_888, "local_path": 110_209,
        "total": 22_614_337,
    }  # fmt: skip
    assert network.config.encoder.name == "vit_small_patch14_dinov2"
    assert network.config.image_size == (350, 476)


def test_counts_with_a_swapped_encoder() -> None:
    with torch.device("meta"):
        network = create_model("v15_2", "convnextv2_tiny")
    assert counts(network) == {
        "encoder": 27_864_960, "neck": 92_928, "global_path": 229_888, "local_path": 110_209,
        "total": 28_297_985,
    }  # fmt: skip


def test_counts_inside_the_local_path() -> None:
    path = LocalPath()
    assert path.source_code.numel() == 192
    assert path.position_code.numel() == 1_600
    assert count_parameters(path.head) == 8_449
    for stage in (path.coarse, path.fine):
        assert count_parameters(stage) == 49_984
        for projection in (stage.query, stage.key, stage.value, stage.out):
            assert count_parameters(projection) == 4_160
        assert count_parameters(stage.norm_q) + count_parameters(stage.norm_ffn) == 256
        assert count_parameters(stage.ffn) == 33_088


# the function


def attend(stage: CrossAttention, x: Tensor, tokens: Tensor) -> Tensor:
    """One stage by PyTorch's own multi-head attention; x [N, C], tokens [N, T, C]."""
    heads = nn.MultiheadAttention(64, 4, batch_first=True).double()
    layers = (stage.query, stage.key, stage.value)
    with torch.no_grad():
        heads.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        heads.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
        heads.out_proj.load_state_dict(stage.out.state_dict())
    attended, _ = heads(stage.norm_q(x)[:, None], tokens, tokens, need_weights=False)
    x = x + attended[:, 0]
    return x + stage.ffn(stage.norm_ffn(x))


def plain(path: LocalPath, maps: Maps, points: Tensor) -> Tensor:
    """v15.2's local path with `grid_sample` and `nn.MultiheadAttention`."""
    s8, level2 = maps["s8_L2"].chunk(2, -1)
    size = torch.tensor([SIZE[1], SIZE[0]], dtype=points.dtype)

    def read(level: Tensor, dx: int, dy: int) -> Tensor:
        cells = torch.tensor([level.shape[2], level.shape[1]], dtype=points.dtype)
        grid = 2 * (points + 0.5) / size - 1 + 2 * torch.tensor([dx, dy]) / cells
        channels_first = level.permute(0, 3, 1, 2)
        value = F.grid_sample(
            channels_first, grid[:, None], padding_mode="border", align_corners=False
        )
        return value[:, :, 0].permute(0, 2, 1).flatten(0, 1)  # [B K, C]

    def patch(level: Tensor, source: int) -> Tensor:
        shifts = [(dx, dy) for dy in range(-2, 3) for dx in range(-2, 3)]
        tokens = torch.stack([read(level, dx, dy) for dx, dy in shifts], 1)
        return tokens + path.source_code[source] + path.position_code

    x = read(s8, 0, 0)
    x = attend(path.coarse, x, torch.cat([patch(s8, 0), patch(level2, 1)], 1))
    x = attend(path.fine, x, patch(maps["L1"], 2))
    return F.softplus(path.head(x)).view(points.shape[:2])


@torch.no_grad()
def test_plain_is_written_out(
    exact_network: DepthModel, images: Tensor, points: Tensor, equal: Equal
) -> None:
    maps, path = exact_network.maps(images.double()), local_path(exact_network)
    expected = plain(path, maps, points)
    assert expected.std() > 1e-3  # or the comparison would say little
    equal(path.plain(maps, points, SIZE), expected)


@torch.no_grad()
def test_folded_is_plain_at_any_point(
    exact_network: DepthModel, images: Tensor, points: Tensor, equal: Equal
) -> None:
    maps, path = exact_network.maps(images.double()), local_path(exact_network)
    equal(path.folded(maps, points, SIZE), path.plain(maps, points, SIZE))


@torch.no_grad()
def test_lattice_is_plain_at_all_sites(
    exact_network: DepthModel, images: Tensor, equal: Equal
) -> None:
    maps = exact_network.maps(images.double())
    dense = exact_network.decode_lattice(maps)
    assert dense.shape == (2, *maps["L1"].shape[1:3])
    equal(dense.flatten(1), answer(exact_network, "plain", maps))


def test_gradients_agree_in_all_forms(
    exact_network: DepthModel, images: Tensor, equal: Equal
) -> None:
    """Of every map and every parameter, the encoder's included."""
    names, parameters = zip(*exact_network.named_parameters(), strict=True)
    maps = exact_network.maps(images.double())
    inputs = [*maps.values(), *parameters]
    pull = torch.randn_like(answer(exact_network, "plain", maps))
    gradients = {
        form: torch.autograd.grad(
            (answer(exact_network, form, maps) * pull).sum(), inputs, retain_graph=True
        )
        for form in ("plain", "folded", "lattice")
    }
    for index, name in enumerate([*maps, *names]):
        reference = gradients["plain"][index]
        assert reference.isfinite().all(), name
        for form in ("folded", "lattice"):
            equal(gradients[form][index], reference)


def test_gradients_agree_at_any_point(
    exact_network: DepthModel, images: Tensor, points: Tensor, equal: Equal
) -> None:
    """The points' own gradients too: a depth's slope along u and v."""
    path, points = local_path(exact_network), points.requires_grad_()
    with torch.no_grad():
        maps = exact_network.maps(images.double())
    maps = {name: level.requires_grad_() for name, level in maps.items()}
    inputs = [*maps.values(), points, *path.parameters()]
    plain = torch.autograd.grad(path.plain(maps, points, SIZE).sum(), inputs)
    folded = torch.autograd.grad(path.folded(maps, points, SIZE).sum(), inputs)
    for value, reference in zip(folded, plain, strict=True):
        equal(value, reference)


def test_folded_path_by_finite_differences() -> None:
    path = LocalPath(width=8).double()
    maps = {"s8_L2": torch.randn(1, 3, 4, 16), "L1": torch.randn(1, 6, 8, 8)}
    maps = {name: level.double().requires_grad_() for name, level in maps.items()}
    points = torch.tensor([[[3.1, 2.2], [-0.3, 9.8], [14.7, 5.6]]], dtype=torch.float64)
    inputs = (*maps.values(), points.requires_grad_(), *path.parameters())  # moved in place
    assert torch.autograd.gradcheck(
        lambda *_: path.folded(maps, points, (12, 16)), inputs, fast_mode=True
    )


def test_key_biases_are_dead() -> None:
    """A bias of all keys cancels in the softmax: 128 parameters that never train."""
    path = LocalPath().double()
    maps = {"s8_L2": torch.randn(1, 4, 4, 128).double(), "L1": torch.randn(1, 8, 8, 64).double()}
    points = torch.rand(1, 9, 2).double() * 15
    before = path.folded(maps, points, (16, 16))
    with torch.no_grad():
        path.coarse.key.bias.add_(5)
        path.fine.key.bias.sub_(3)
    assert (path.folded(maps, points, (16, 16)) - before).abs().max() < 1e-12


def test_dense_training_keeps_no_copies_of_maps() -> None:
    """The lattice's backward pass holds far less than 25 copies of the projected maps."""
    path = LocalPath()
    maps = {"s8_L2": torch.randn(1, 8, 12, 128), "L1": torch.randn(1, 16, 24, 64)}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        depth = path.lattice({name: level.requires_grad_() for name, level in maps.items()})
    copies = 25 * 3 * depth.numel() * 64 * 4  # bytes of s8, L2 and L1 at every shift, once
    assert sum(kept.values()) < copies


# training's path


def test_fresh_head_answers_about_the_median_depth(network: DepthModel, images: Tensor) -> None:
    depth = network(images, torch.rand(2, 40, 2) * 60).depth
    assert 1.5 < depth.min() < depth.max() < 4


def test_a_gradient_reaches_all_of_a_vits_neck(images: Tensor) -> None:
    """Each level has layers of its own there; test_networks takes the other kind of encoder."""
    network = create_model("v15_2", "vit_tiny_patch16_224", image_size=SIZE)
    network(images, torch.rand(2, 50, 2) * 60).depth.square().sum().backward()
    for name, parameter in network.get_submodule("neck").named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("form", ["plain", "folded", "lattice"])
def test_autocast_takes_maps_of_either_type(form: str) -> None:
    """LayerNorm ends in float32 under CUDA's autocast, a convolution in bfloat16."""
    path = LocalPath()
    points = torch.rand(1, 20, 2) * 15
    for coarse, fine in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        maps = {
            "s8_L2": torch.randn(1, 4, 4, 128).to(coarse), "L1": torch.randn(1, 8, 8, 64).to(fine),
        }  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            if form == "lattice":
                depth = path.lattice(maps)
            else:
                depth = getattr(path, form)(maps, points, (16, 16))
        assert depth.dtype == torch.float32
        assert depth.isfinite().all()


# options


def test_recorded_initialisation() -> None:
    path = LocalPath()
    assert 0.9 < path.position_code.std() < 1.1
    path.start_near(2.5)
    assert path.position_code.std() < 0.03
