"""Alignment by hand, and where there is little or nothing to align by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from spdlib.study.alignment import by_log_fit, by_median

Align = Callable[[Tensor, Tensor, Tensor], Tensor]
BOTH = pytest.mark.parametrize("align", [by_median, by_log_fit])


def sites(count: int = 200) -> tuple[Tensor, Tensor]:
    """A truth of 0.5 to 9.5 m, and the sites that count: two thirds."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(2, count, generator=generator)
    return 0.5 + 9 * draw[0], draw[1] > 1 / 3


def test_one_factor_brings_the_medians_together() -> None:
    truth, valid = sites()
    prediction = truth.sqrt()
    aligned = by_median(prediction, truth, valid)
    ratio = aligned / prediction
    assert torch.allclose(ratio, ratio[:1])
    assert aligned[valid].median() == pytest.approx(truth[valid].median().item())


def test_a_factor_and_an_exponent_are_found() -> None:
    truth, valid = sites()
    prediction = 0.3 * truth**0.4
    prediction[~valid] = 5.0  # what does not count has no part in the fit
    aligned = by_log_fit(prediction, truth, valid)
    torch.testing.assert_close(aligned[valid], truth[valid], rtol=1e-5, atol=0)


def test_the_fit_in_log_depth_is_that_of_numpy() -> None:
    truth, valid = sites()
    prediction = truth * torch.exp(0.3 * torch.randn(len(truth)))
    x, y = np.log(prediction[valid].double().numpy()), np.log(truth[valid].double().numpy())
    a, b = np.polyfit(x, y, 1)
    expected = np.exp(a * np.log(prediction.double().numpy()) + b)
    np.testing.assert_allclose(by_log_fit(prediction, truth, valid), expected, rtol=1e-5)


@BOTH
@pytest.mark.parametrize("factor", [0.01, 0.5, 300.0])
def test_the_metre_of_a_prediction_is_gone(align: Align, factor: float) -> None:
    truth, valid = sites()
    prediction = 1 + truth.sqrt()
    scaled = align(factor * prediction, truth, valid)
    torch.testing.assert_close(scaled, align(prediction, truth, valid), rtol=1e-4, atol=0)


@BOTH
def test_a_single_site_is_met(align: Align) -> None:
    truth, valid = sites()
    one = torch.zeros_like(valid)
    one[7] = True
    prediction = torch.full_like(truth, 2.0) + truth
    aligned = align(prediction, truth, one)
    assert aligned[7].item() == pytest.approx(truth[7].item(), rel=1e-6)
    torch.testing.assert_close(aligned / prediction, (truth / prediction)[7].expand(len(truth)))


@pytest.mark.parametrize("value", [2.5, 1e-3, 0.0, -1.0, 1e30, torch.inf])
def test_a_constant_takes_the_middle_of_the_truth(value: float) -> None:
    truth, valid = sites()
    constant = torch.full_like(truth, value)
    median, fitted = (align(constant, truth, valid) for align in (by_median, by_log_fit))
    torch.testing.assert_close(median, truth[valid].median().expand(len(truth)))
    mean = truth[valid].log().mean().exp()
    torch.testing.assert_close(fitted, mean.expand(len(truth)))


@BOTH
def test_without_a_site_nothing_changes(align: Align) -> None:
    truth, valid = sites()
    prediction = truth + 1
    assert torch.equal(align(prediction, truth, valid & False), prediction)
    assert torch.equal(align(prediction, truth * 0, valid), prediction)


@BOTH
def test_nan_stays_nan_and_makes_no_other(align: Align) -> None:
    truth, valid = sites()
    prediction = truth.sqrt()
    clean = align(prediction, truth, valid & (torch.arange(len(truth)) != 3))
    broken = prediction.clone()
    broken[3] = torch.nan
    valid[3] = True
    aligned = align(broken, truth, valid)
    assert aligned.isnan().nonzero().flatten().tolist() == [3]
    others = torch.arange(len(truth)) != 3
    torch.testing.assert_close(aligned[others], clean[others])
    assert align(broken * torch.nan, truth, valid).isnan().all()


@BOTH
def test_wild_predictions_stay_finite(align: Align) -> None:
    truth, valid = sites()
    wild = torch.tensor([0.0, -5.0, torch.inf, 1e38, 1e-38]).repeat(40)
    aligned = align(wild, truth, valid)
    assert aligned.isfinite().all() and (aligned > 0).all()


@BOTH
def test_maps_are_aligned_as_their_pixels(align: Align) -> None:
    truth, valid = sites()
    prediction = truth.sqrt()
    flat = align(prediction, truth, valid)
    assert torch.equal(
        align(prediction.view(10, 20), truth.view(10, 20), valid.view(10, 20)), flat.view(10, 20)
    )
