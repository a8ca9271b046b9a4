"""Small networks of both shapes, and what "equal" means in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from spdlib.models import DepthModel, create_model

SIZE = (64, 96)
ENCODERS = {"vit": "vit_tiny_patch16_224", "hierarchical": "mobilenetv3_small_050"}

Equal = Callable[[Tensor, Tensor], None]


@pytest.fixture
def equal() -> Equal:
    """Asserts max |difference| <= 1e-12 max(1, max |reference|)."""

    def check(value: Tensor, reference: Tensor) -> None:
        assert value.shape == reference.shape
        tolerance = 1e-12 * max(1.0, reference.abs().max().item())
        assert (value - reference).abs().max().item() <= tolerance

    return check


@pytest.fixture(params=sorted(ENCODERS))
def network(request: pytest.FixtureRequest) -> DepthModel:
    """A v15_2 for 64x96 images, float32, random weights, evaluation mode."""
    return create_model("v15_2", ENCODERS[request.param], image_size=SIZE, focal=70.0).eval()


@pytest.fixture
def exact_network(network: DepthModel) -> DepthModel:
    """The same in float64, every decoder weight moved so that none is zero, one or tiny."""
    network = network.double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith("encoder."):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def size_of_module(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Height, width of a test file's images: its own SIZE, or 64x96."""
    size: tuple[int, int] = getattr(request.module, "SIZE", SIZE)
    return size


@pytest.fixture
def images(request: pytest.FixtureRequest) -> Tensor:
    """Two images [2, 3, H, W] in 0..1, float32."""
    return torch.rand(2, 3, *size_of_module(request))


@pytest.fixture
def points(request: pytest.FixtureRequest) -> Tensor:
    """Points [2, 50, 2] anywhere in such an image, float64; corners and edges first."""
    height, width = size_of_module(request)
    edges = [[-0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, 30.2], [50.7, height - 0.5]]
    anywhere = torch.rand(2, 50, 2, dtype=torch.float64) * torch.tensor([width, height]) - 0.5
    anywhere[:, : len(edges)] = torch.tensor(edges, dtype=torch.float64)
    return anywhere
