"""Every network can learn: from random weights it knows eight frames by heart in 300 steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from spdlib.data.rooms import Rooms
from spdlib.models import counts, create_model, list_models, network_class
from spdlib.study.objectives import silog

FRAMES, SIZE, POINTS, RATE = 8, (64, 96), 32, 1e-3
STEPS = dict.fromkeys(list_models(), 200) | {"v13_plan": 300, "v13_1": 300, "dav2_s": 300}
STEPS |= {"v14_plan": 400, "v15_2": 400}
"""A frozen encoder, few tokens, or a canvas that seven layers share make a network learn slowly."""
ALWAYS = ("v13_calibrated", "v14_dual", "v15_2")
"""The quickest of each generation; the others learn in long test runs."""
ENCODERS = {"v13_plan": "vit_tiny_patch16_224"}
"""Small encoders of networks that do not read a hierarchical one."""


@pytest.fixture(scope="module")
def frames() -> tuple[Tensor, Tensor]:
    """Images [8, 3, 64, 96] in 0..1 and their depth [8, 64, 96] in metres."""
    rooms = [Rooms(FRAMES, size=SIZE)[index] for index in range(FRAMES)]
    images = torch.stack([torch.from_numpy(room.image) for room in rooms])
    depth = torch.stack([torch.from_numpy(room.truth()) for room in rooms])
    return images.permute(0, 3, 1, 2) / 255, depth


def questions(depth: Tensor) -> tuple[Tensor, Tensor]:
    """Random pixels of every frame [8, 32, 2], and their depth [8, 32]."""
    x, y = (torch.randint(side, (FRAMES, POINTS)) for side in reversed(SIZE))
    return torch.stack([x, y], -1).float(), depth[torch.arange(FRAMES)[:, None], y, x]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.long]) for n in list_models()],
)
def test_eight_frames_are_learnt_by_heart(name: str, frames: tuple[Tensor, Tensor]) -> None:
    """Judged at pixels that are drawn anew, in evaluation mode."""
    images, depth = frames
    options = counts(network_class(name).Options)
    routed: dict[str, Any] = {n: 4 for n in options if n.startswith("routed")}
    encoder = ENCODERS.get(name, "mobilenetv2_035")
    network = create_model(name, encoder, image_size=SIZE, focal=100.0, **routed).train()
    steps = STEPS[name]
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, RATE, betas=(0.9, 0.95), weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 10, 1 - step / steps)
    )
    for _ in range(steps):
        points, truth = questions(depth)
        loss = silog(network(images, points).depth, truth, truth > 0, 0.15, "pooled")
        optimizer.zero_grad()
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():  # a few hard pixels decide: eight draws, so that luck does not
        asked = [questions(depth) for _ in range(8)]
        errors = [(network(images, points).depth - truth).abs() / truth for points, truth in asked]
    assert torch.stack(errors).mean() < 0.05
