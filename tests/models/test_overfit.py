"""The whole network can learn: eight small frames by heart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spdlib.data.rooms import Rooms
from spdlib.models import DepthModel, EncoderConfig, create_model
from spdlib.study.losses import silog

SIZE = (96, 128)
STEPS, POINTS = 300, 256
GOAL = 0.05


def eight_rooms() -> tuple[Tensor, Tensor]:
    """Images [8, 3, 96, 128] in 0..1 and depths [8, 96, 128] in metres."""
    frames = [Rooms(8, seed=3, size=SIZE)[index] for index in range(8)]
    images = torch.stack([torch.from_numpy(f.image) for f in frames]).permute(0, 3, 1, 2) / 255
    return images, torch.stack([torch.from_numpy(f.truth()) for f in frames])


def random_pixels(depth: Tensor) -> tuple[Tensor, Tensor]:
    """Points [8, K, 2] at pixel centres and the depth [8, K] there."""
    u = torch.randint(depth.shape[2], (len(depth), POINTS))
    v = torch.randint(depth.shape[1], (len(depth), POINTS))
    return torch.stack([u, v], -1).float(), depth[torch.arange(len(depth))[:, None], v, u]


def abs_rel(model: DepthModel, images: Tensor, depth: Tensor) -> float:
    """Mean |p - g| / g at 2,048 pixels of every frame, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        rounds = [random_pixels(depth) for _ in range(8)]
        errors = [(model(images, points).depth - truth).abs() / truth for points, truth in rounds]
    model.train()
    return torch.stack(errors).mean().item()


@pytest.mark.slow
def test_eight_frames_are_learnt_by_heart() -> None:
    images, depth = eight_rooms()
    encoder = EncoderConfig("mobilenetv3_small_050", train_batchnorm=True)
    model = create_model("v15_2", encoder, image_size=SIZE).train()
    groups = model.parameter_groups(2e-3, 2e-3, 0.01)
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS, pct_start=0.1)
    reached = []
    for step in range(STEPS):
        points, truth = random_pixels(depth)
        loss = silog(model(images, points).depth, truth, None, 0.5, "per_image").value
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step >= 150 and step % 25 == 24:
            reached.append(abs_rel(model, images, depth))
            if reached[-1] < GOAL:
                break
    assert min(reached) < GOAL, reached
