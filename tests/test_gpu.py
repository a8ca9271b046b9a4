"""What holds on a CPU holds on a GPU: `make gpu-check` runs these."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import spdlib
from spdlib.models import (
    DepthModel,
    EncoderConfig,
    counts,
    create_model,
    list_models,
    network_class,
)

pytestmark = pytest.mark.gpu

SIZE = (96, 128)


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Matrix products and convolutions without TensorFloat-32, so that devices can be compared."""
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.fixture(params=list_models())
def model(request: pytest.FixtureRequest) -> DepthModel:
    """A small one of every network, fresh, evaluation mode; queries are routed to four cells."""
    name = request.param
    encoder = "vit_tiny_patch16_224" if name == "v13_plan" else "test_convnext"
    options = counts(network_class(name).Options)
    routing: dict[str, Any] = {n: 4 for n in options if n.startswith("routed")}
    return create_model(name, encoder, image_size=SIZE, focal=120.0, **routing).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, *SIZE)


@pytest.fixture
def points() -> Tensor:
    return torch.rand(2, 64, 2) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])


def gradients_of(model: DepthModel, images: Tensor, points: Tensor) -> dict[str, Tensor]:
    """Gradients of all answers, auxiliary ones included, by parameter."""
    depth, auxiliary = model(images, points)
    torch.stack([x.log().mean() for x in (depth, *auxiliary.values())]).sum().backward()
    return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


def test_answers_and_gradients_are_those_of_the_cpu(
    model: DepthModel, images: Tensor, points: Tensor
) -> None:
    model, images, points = model.double(), images.double(), points.double()
    there = copy.deepcopy(model).cuda()
    with torch.no_grad():
        found = there.encode(images.cuda()).depth_at(points.cuda())
        expected = model.encode(images).depth_at(points)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=0)
    expected_gradients = gradients_of(model, images, points)
    found_gradients = gradients_of(there, images.cuda(), points.cuda())
    assert found_gradients.keys() == expected_gradients.keys()
    scale = max(value.abs().max().item() for value in expected_gradients.values())
    for key, value in expected_gradients.items():
        difference = (found_gradients[key].cpu() - value).abs().max().item()
        assert difference <= 1e-9 * scale, key


def test_single_precision_stays_close(model: DepthModel, images: Tensor, points: Tensor) -> None:
    expected = copy.deepcopy(model).double().encode(images.double()).depth_at(points.double())
    found = model.cuda().encode(images.cuda()).depth_at(points.cuda())
    ratio = found.cpu().double() / expected
    # a query may be routed to either of two cells that it looks at alike
    assert (ratio - 1).abs().quantile(0.95) < 1e-3


def test_dense_maps_are_those_of_the_cpu(images: Tensor) -> None:
    encoder = EncoderConfig("mobilenetv2_100", padding="same")
    model = create_model("v15_2", encoder, image_size=SIZE, focal=120.0).eval()
    expected = model.encode(images).dense()
    found = model.cuda().encode(images.cuda()).dense()
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_points_may_come_from_the_cpu(model: DepthModel, images: Tensor) -> None:
    scene = model.cuda().encode(images[0])
    assert scene.depth_at([[3.5, 4.0], [60.0, 50.0]]).is_cuda


def test_a_saved_network_answers_alike_on_both_devices(
    model: DepthModel, images: Tensor, points: Tensor, tmp_path: Path
) -> None:
    model.cuda().save(tmp_path)
    expected = model.encode(images.cuda()).depth_at(points.cuda()).cpu()
    found = spdlib.load(tmp_path).encode(images).depth_at(points)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_depth_stays_float32_and_gradients_finite_under_bfloat16(
    model: DepthModel, images: Tensor, points: Tensor
) -> None:
    model.cuda().train()
    with torch.autocast("cuda", torch.bfloat16):
        depth, auxiliary = model(images.cuda(), points.cuda())
        loss = torch.stack([x.log().mean() for x in (depth, *auxiliary.values())]).sum()
    assert depth.dtype == torch.float32
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
