"""What holds on a CPU holds on a GPU: `make gpu-check` runs these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import spdlib
from spdlib.data.rooms import render_rooms

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


@pytest.fixture
def model() -> spdlib.models.DepthModel:
    encoder = spdlib.EncoderConfig("mobilenetv2_100", padding="same")
    return spdlib.create_model("v15_2", encoder, image_size=SIZE).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, *SIZE)


@pytest.fixture
def points() -> Tensor:
    return torch.rand(2, 64, 2) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])


def test_answers_are_those_of_the_cpu(
    model: spdlib.models.DepthModel, images: Tensor, points: Tensor
) -> None:
    here = model.encode(images)
    expected = here.depth_at(points), here.dense()
    there = model.cuda().encode(images.cuda())
    found = there.depth_at(points.cuda()), there.dense()
    for one, other in zip(found, expected, strict=True):
        assert one.is_cuda
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-4)


def test_points_may_come_from_the_cpu(model: spdlib.models.DepthModel, images: Tensor) -> None:
    scene = model.cuda().encode(images[0])
    assert scene.depth_at([[3.5, 4.0], [60.0, 50.0]]).is_cuda


def test_a_saved_network_answers_alike_on_both_devices(
    model: spdlib.models.DepthModel, images: Tensor, points: Tensor, tmp_path: Path
) -> None:
    model.cuda().save(tmp_path)
    expected = model.encode(images.cuda()).depth_at(points.cuda()).cpu()
    found = spdlib.load(tmp_path).encode(images).depth_at(points)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_depth_and_gradients_stay_float32_under_bfloat16(
    model: spdlib.models.DepthModel, images: Tensor, points: Tensor
) -> None:
    model.cuda().train()
    with torch.autocast("cuda", torch.bfloat16):
        prediction = model(images.cuda(), points.cuda())
    assert prediction.depth.dtype == torch.float32
    prediction.depth.log().mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_rooms_are_the_same_on_both_devices() -> None:
    here, there = (render_rooms([0, 1], size=SIZE, device=device) for device in ("cpu", "cuda"))
    difference = (there.depths.cpu() - here.depths).abs()
    # a ray that just meets or misses an edge may fall on either side of it
    assert (difference > 1e-3).float().mean() < 0.005
