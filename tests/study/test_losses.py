from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from spdlib.errors import ConfigError
from spdlib.study.objectives import (
    LossValue,
    bilinear_target,
    dense_auxiliary,
    huber_inverse_depth,
    masked_average,
    silog,
)

Loss = Callable[[Tensor, Tensor, Tensor], LossValue]
LOSSES: dict[str, Loss] = {
    "silog per image": lambda p, g, v: silog(p, g, v, 0.5, "per_image"),
    "silog pooled": lambda p, g, v: silog(p, g, v, 0.85, "pooled"),
    "huber": huber_inverse_depth,
}


def batch(seed: int = 0, shape: tuple[int, ...] = (4, 7)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
    prediction = (0.5 + 4 * draw[0]).requires_grad_()
    return prediction, 0.5 + 4 * draw[1], draw[2] > 0.3


def test_wrong_settings_are_named_with_what_would_do() -> None:
    prediction, truth, _ = batch()
    maps, depth = [truth.reshape(4, 1, 7)], truth.reshape(4, 1, 7)
    with pytest.raises(ConfigError, match=r"lambda of SILog must lie in 0\.\.1; got 1\.5"):
        silog(prediction, truth, lam=1.5)
    with pytest.raises(ConfigError, match="one of pooled, per_image; got 'mean'"):
        silog(prediction, truth, reduction="mean")
    with pytest.raises(ConfigError, match="one of masked, bilinear; got 'mean'"):
        dense_auxiliary(maps, depth, target="mean")
    with pytest.raises(ConfigError, match="no auxiliary maps; set auxiliary_weight=0"):
        dense_auxiliary([], depth)


def gradient(loss: LossValue, prediction: Tensor) -> Tensor:
    return torch.autograd.grad(loss.value, prediction)[0]


def test_silog_of_two_points_by_hand() -> None:
    prediction = torch.tensor([[math.e, math.e**3]], dtype=torch.float64)
    truth = torch.ones(1, 2, dtype=torch.float64)
    # d = 1, 3: mean d^2 = 5, (mean d)^2 = 4
    for lam, expected in ((0.0, 5.0), (0.5, 3.0), (1.0, 1.0)):
        for reduction in ("pooled", "per_image"):
            value = silog(prediction, truth, None, lam, reduction).value
            assert value.item() == pytest.approx(math.sqrt(expected + 1e-8), rel=1e-12)


def test_pooling_charges_opposite_scale_errors_and_the_image_form_discounts_them() -> None:
    """Suspected fault F14."""
    truth = torch.full((2, 5), 2.0, dtype=torch.float64)
    prediction = truth * torch.tensor([[2.0], [0.5]], dtype=torch.float64)
    expected = math.log(2) ** 2
    pooled = silog(prediction, truth, None, 0.85, "pooled").value
    images = silog(prediction, truth, None, 0.85, "per_image").value
    assert pooled.item() == pytest.approx(math.sqrt(expected + 1e-8))
    assert images.item() == pytest.approx(math.sqrt(0.15 * expected + 1e-8))


@pytest.mark.parametrize("reduction", ["pooled", "per_image"])
def test_silog_equals_its_plain_formula(reduction: str) -> None:
    p, g, valid = batch()
    delta = p.log() - g.log()
    groups = (
        [delta[valid]]
        if reduction == "pooled"
        else [d[v] for d, v in zip(delta, valid, strict=True)]
    )
    brackets = [(d**2).mean() - 0.3 * d.mean() ** 2 for d in groups]
    plain = (torch.stack(brackets).mean() + 1e-8).sqrt()
    loss = silog(p, g, valid, 0.3, reduction)
    assert loss.value.item() == pytest.approx(plain.item(), rel=1e-12)
    assert loss.points == valid.sum() and loss.images == 4
    (expected,) = torch.autograd.grad(plain, p)
    assert (gradient(loss, p) - expected).abs().max() < 1e-12


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.1, 10), lam=st.sampled_from([0.0, 0.15, 0.85, 1.0]))
def test_one_minus_lambda_weighs_the_scale_error(scale: float, lam: float) -> None:
    truth = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    value = silog(scale * truth, truth, None, lam).value.item()
    expected = math.sqrt((1 - lam) * math.log(scale) ** 2 + 1e-8)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right(name: str) -> None:
    p, g, valid = batch()

    def value(prediction: Tensor) -> Tensor:
        return LOSSES[name](prediction, g, valid).value

    assert gradcheck(value, (p,))


@pytest.mark.parametrize("name", LOSSES)
def test_no_valid_point_gives_zero_with_zero_gradient(name: str) -> None:
    p, g, _ = batch()
    for truth, valid in ((g, torch.zeros_like(g, dtype=torch.bool)), (g * 0, g > 0)):
        loss = LOSSES[name](p, truth, valid)
        assert loss.value.item() == 0 and loss.points == 0 and loss.images == 0
        assert torch.equal(gradient(loss, p), torch.zeros_like(p))


@pytest.mark.parametrize("name", LOSSES)
def test_points_and_images_without_truth_are_left_out(name: str) -> None:
    p, g, valid = batch()
    valid[2] = False
    loss = LOSSES[name](p, g, valid)
    rest = torch.tensor([0, 1, 3])
    alone = LOSSES[name](p[rest], g[rest], valid[rest])
    assert loss.images == 3 and loss.points == valid.sum()
    assert loss.value.item() == pytest.approx(alone.value.item(), rel=1e-12)
    broken = torch.where(valid, p, torch.nan)
    ignored = LOSSES[name](broken, torch.where(valid, g, 0.0), torch.ones_like(valid))
    assert ignored.value.item() == pytest.approx(loss.value.item(), rel=1e-12)
    assert torch.isfinite(gradient(ignored, p)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_maps_and_points_give_the_same(name: str) -> None:
    p, g, valid = batch(shape=(2, 12))
    maps = LOSSES[name](p.reshape(2, 3, 4), g.reshape(2, 3, 4), valid.reshape(2, 3, 4))
    assert maps.value.item() == LOSSES[name](p, g, valid).value.item()


def test_losses_leave_autocast() -> None:
    p, g, valid = (t.float() if t.is_floating_point() else t for t in batch())
    exact = silog(p, g, valid).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = silog(p, g, valid).value
        half = silog(p.bfloat16(), g, valid).value
    assert inside.dtype == half.dtype == torch.float32
    assert torch.equal(exact, inside)


def test_scale_free_silog_does_not_cancel_in_float32() -> None:
    truth = torch.full((1, 1000), 2.0)
    value = silog(truth * 1000, truth, None, 1.0).value
    assert torch.isfinite(value) and value < 2e-4


def test_huber_by_hand() -> None:
    prediction = torch.tensor([[1.0, 0.25]])
    truth = torch.tensor([[2.0, 1.0]])
    # residuals .5 (quadratic: .125) and 3 (linear: 2.5)
    loss = huber_inverse_depth(prediction, truth)
    assert loss.value.item() == pytest.approx((0.125 + 2.5) / 2)


def test_masked_average_leaves_holes_out() -> None:
    depth = torch.tensor([[[2.0, 0.0, 0.0, 0.0], [4.0, 0.0, 0.0, 8.0]]])
    assert masked_average(depth, (1, 2)).tolist() == [[[3.0, 8.0]]]
    assert masked_average(torch.zeros(1, 4, 4), (2, 2)).abs().sum() == 0


def test_dense_auxiliary_adds_the_levels() -> None:
    depth = torch.rand(2, 8, 8, dtype=torch.float64) + 1
    maps = [torch.rand(2, s, s, dtype=torch.float64) + 1 for s in (4, 2)]
    loss = dense_auxiliary(maps, depth, 0.15)
    parts = [
        silog(m, masked_average(depth, (s, s)), None, 0.15)
        for m, s in zip(maps, (4, 2), strict=True)
    ]
    assert loss.item() == pytest.approx(sum(p.value.item() for p in parts))


def test_the_recorded_target_mixes_depth_with_holes_and_lies_beside_the_map() -> None:
    """Suspected fault F17d."""
    depth = torch.zeros(1, 4, 9)
    depth[..., :6] = 2.0
    assert bilinear_target(depth, (1, 3))[0, 0, :2].tolist() == [2.0, 2.0]
    reduced = bilinear_target(depth, (2, 4))[0, 0]
    assert 0 < reduced[2] < 2
    assert set(masked_average(depth, (2, 4)).unique().tolist()) == {0.0, 2.0}
    ramp = torch.arange(8.0).expand(1, 8, 8) + 1
    assert bilinear_target(ramp, (2, 2))[0, 0].tolist() == [1.0, 8.0]  # centres: 2.5 and 6.5


def weighted(name: str, weight: Tensor, rows: slice) -> LossValue:
    """A loss of a model with one weight per point, on some of the batch's images."""
    p, g, valid = batch(seed=5, shape=(4, 7))
    valid[0, 1:] = False  # processes get different counts
    valid[1] = False
    prediction = p.detach() * weight.exp()
    return LOSSES[name](prediction[rows], g[rows], valid[rows])


def test_two_processes_give_the_gradient_of_one(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    processes = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(2)]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in LOSSES:
        weight = torch.linspace(-0.3, 0.3, 7, dtype=torch.float64, requires_grad=True)
        loss = weighted(name, weight, slice(None))
        (expected,) = torch.autograd.grad(loss.value, weight)
        for result in results:
            assert result[name]["value"] == pytest.approx(loss.value.item(), rel=1e-13)
            assert result[name]["counts"] == [int(loss.images), int(loss.points)]
        mean = (results[0][name]["gradient"] + results[1][name]["gradient"]) / 2
        assert (mean - expected).abs().max() < 1e-13, name


def run_process(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    result = {}
    for name in LOSSES:
        weight = torch.linspace(-0.3, 0.3, 7, dtype=torch.float64, requires_grad=True)
        loss = weighted(name, weight, slice(2 * rank, 2 * rank + 2))
        result[name] = {
            "value": loss.value.item(),
            "counts": [int(loss.images), int(loss.points)],
            "gradient": torch.autograd.grad(loss.value, weight)[0],
        }
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    run_process(Path(sys.argv[1]), int(sys.argv[2]))
