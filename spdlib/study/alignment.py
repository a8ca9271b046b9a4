"""Predictions brought to the truth of the very frame that is scored.

After an alignment, scores say how well a network knows the shape of a scene, and nothing of its
metres: the answer was given a look at the truth. Both functions take the sites of one image and
return predictions of the same shape, which are scored in place of the network's own.

Predictions below a millimetre, zero and negative ones too, count as a millimetre, as they do in
every score. A NaN has no part in the fit and stays a NaN, so that scores still show it; nothing
else becomes one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spdlib.data.queries import EIGEN_MIN_DEPTH

LARGEST = 1e6
"""Metres that stand for anything beyond, so that no ratio of predictions is infinite."""
SAME = 1e-6
"""Deviation of ln p below which a prediction is constant: its float32 numbers are no finer."""


def by_median(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Predictions times one factor: the truth's median over their own, where `valid`.

    So self-supervised networks are scored, which cannot know the metre (Zhou et al., CVPR 2017).
    Of an even number the lower middle value is the median, as in s*. Without a valid site nothing
    changes.
    """
    depth = _positive(depth)
    used = _fitted_to(depth, truth, valid)
    if not used.any():
        return depth
    return depth * (truth.to(depth)[used].median() / depth[used].median())


def by_log_fit(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Predictions p as exp(a ln p + b), with the least squares of ln g - (a ln p + b), where valid.

    Two numbers an image, a scale and a shift of log depth: a factor and an exponent of depth. What
    scale and shift of inverse depth are to networks trained without metres (Ranftl et al., TPAMI
    2022). A constant prediction, or a single site, leaves a open: it stays 1, so that b alone makes
    predictions the geometric mean of the truth. Without a valid site nothing changes.
    """
    depth = _positive(depth)
    used = _fitted_to(depth, truth, valid)
    if not used.any():
        return depth
    x, y = depth[used].double().log(), truth[used].double().log()
    from_mean = x - x.mean()
    variance = from_mean.square().mean()
    constant = bool(variance <= SAME**2)
    a = 1.0 if constant else float((from_mean * (y - y.mean())).mean() / variance)
    aligned = (a * (depth.double().log() - x.mean()) + y.mean()).exp()
    return _positive(aligned).to(depth)


def _positive(depth: Tensor) -> Tensor:
    return depth.clamp(EIGEN_MIN_DEPTH, LARGEST)


def _fitted_to(depth: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    return valid & (truth > 0) & ~torch.isnan(depth)
