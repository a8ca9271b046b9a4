"""Training losses as plain functions of prediction and truth; `objectives` makes steps of them.

Every loss works in float32 (float64 for float64 predictions) outside autocast and leaves out points
without truth. A batch without any valid point gives exactly 0 with gradient exactly 0.

With several processes every one must call the loss, and every one returns that of the whole batch:
sums and counts are added up, with gradient, before the root. The adjoint of that sum adds up the
processes' gradients, so the mean that DDP takes over processes is exactly the gradient of a single
process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from spdlib.errors import ConfigError

EPSILON = 1e-8
"""Added inside SILog's root, whose gradient is infinite at 0 otherwise."""
REDUCTIONS = ("pooled", "per_image")
AUXILIARY_TARGETS = ("masked", "bilinear")


class LossValue(NamedTuple):
    """A loss over the whole batch, all processes together.

    Attributes:
        value: scalar with gradient.
        images: int64 scalar, images with at least one valid point.
        points: int64 scalar, valid points; 0 means that `value` is 0 without meaning.
        parts: the terms of a sum by name, before their weights; empty for a single loss.
    """

    value: Tensor
    images: Tensor
    points: Tensor
    parts: Mapping[str, Tensor] = MappingProxyType({})


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes; its adjoint is the same sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def silog(
    prediction: Tensor,
    truth: Tensor,
    valid: Tensor | None = None,
    lam: float = 0.5,
    reduction: str = "per_image",
) -> LossValue:
    """Scale-invariant log loss: sqrt(mean d^2 - lam (mean d)^2 + 1e-8), d = ln p - ln g.

    1 - lam weighs the scale error. "pooled" takes the means over all points of the batch;
    "per_image" forms the bracket for each image and takes the root of its mean over images.

    Args:
        prediction: [B, ...] positive metres.
        truth: [B, ...] metres, of the same shape.
        valid: [B, ...] bool; None means truth > 0, which is asked for in any case.
        lam: 0..1.
        reduction: "pooled" or "per_image".

    Raises:
        ConfigError: `lam` outside 0..1 or an unknown reduction.
    """
    if not 0.0 <= lam <= 1.0:
        raise ConfigError(f"SILog's lambda must lie in 0..1; got {lam}")
    if reduction not in REDUCTIONS:
        raise ConfigError(f"reduction must be one of {REDUCTIONS}; got {reduction!r}")
    with torch.autocast(prediction.device.type, enabled=False):
        p, g, mask = _flat_points(prediction, truth, valid)
        delta = p.clamp(min=torch.finfo(p.dtype).tiny).log() - g.log()
        bracket = _pooled_bracket if reduction == "pooled" else _per_image_bracket
        images, points = _counts(mask)
        root = (bracket(delta, mask, lam) + EPSILON).sqrt()
        return LossValue(root * (points > 0), images, points)


def huber_inverse_depth(
    prediction: Tensor, truth: Tensor, valid: Tensor | None = None, beta: float = 1.0
) -> LossValue:
    """Huber loss on inverse depth, mean over all valid points (v13's L_point).

    Args:
        prediction: [B, ...] positive metres.
        truth: [B, ...] metres, 0 where nothing was measured.
        valid: [B, ...] bool, or None.
        beta: residual in 1/m at which the loss turns linear.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        p, g, mask = _flat_points(prediction, truth, valid)
        inverse = p.clamp(min=torch.finfo(p.dtype).tiny).reciprocal()
        loss = F.smooth_l1_loss(inverse, g.reciprocal(), reduction="none", beta=beta)
        return _masked_mean(loss, mask)


def dense_auxiliary(
    maps: Sequence[Tensor],
    depth: Tensor,
    lam: float = 0.5,
    reduction: str = "per_image",
    target: str = "masked",
) -> LossValue:
    """Sum over maps of their SILog against the depth reduced to their size.

    Args:
        maps: depth maps [B, h, w] in metres, one per supervised level.
        depth: [B, H, W] metres, 0 where nothing was measured.
        lam: as in `silog`.
        reduction: as in `silog`.
        target: "masked" averages what was measured in each cell; "bilinear" is the recorded
            reduction (see `bilinear_target`).

    Returns:
        The sum; the counts are those of the finest map.

    Raises:
        ConfigError: no maps, or an unknown target.
    """
    if not maps:
        raise ConfigError("this network has no auxiliary maps; set auxiliary_weight=0")
    if target not in AUXILIARY_TARGETS:
        raise ConfigError(f"target must be one of {AUXILIARY_TARGETS}; got {target!r}")
    reduce = masked_average if target == "masked" else bilinear_target
    losses = [
        silog(level, reduce(depth, (level.shape[-2], level.shape[-1])), None, lam, reduction)
        for level in maps
    ]
    finest = max(range(len(maps)), key=lambda i: maps[i].numel())
    total = torch.stack([loss.value for loss in losses]).sum()
    return LossValue(total, losses[finest].images, losses[finest].points)


def masked_average(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean of the measured pixels in each cell of a coarser grid; 0 where a cell has none.

    Args:
        depth: [B, H, W] metres, 0 where nothing was measured.
        size: height, width of the grid.

    Returns:
        [B, h, w] metres.
    """
    share = F.adaptive_avg_pool2d((depth > 0).to(depth.dtype), size)
    mean = F.adaptive_avg_pool2d(depth, size)
    return torch.where(share > 0, mean / share.clamp(min=torch.finfo(depth.dtype).tiny), 0.0)


def bilinear_target(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Depth [B, H, W] read bilinearly at [B, h, w] points from corner to corner, as recorded.

    It mixes measured depth with 0, and lies up to half a cell beside the map it is for (F17d).
    """
    return F.interpolate(depth[:, None], size, mode="bilinear", align_corners=True)[:, 0]


def _flat_points(
    prediction: Tensor, truth: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, truth, mask as [B, N] in at least float32, with 1 wherever the mask is False."""
    mask = truth > 0 if valid is None else valid & (truth > 0)
    dtype = torch.float64 if prediction.dtype == torch.float64 else torch.float32
    p = torch.where(mask, prediction.to(dtype), 1.0)
    g = torch.where(mask, truth.to(dtype), 1.0)
    return p.flatten(1), g.flatten(1), mask.flatten(1)


def _pooled_bracket(delta: Tensor, mask: Tensor, lam: float) -> Tensor:
    """Variance + (1 - lam) mean^2 over all points of all processes."""
    total = _over_processes(torch.stack([delta.sum(), mask.sum().to(delta)]))
    count = total[1].clamp(min=1.0)
    mean = total[0] / count
    # the variance is formed about the mean: mean d^2 - (mean d)^2 would cancel in float32
    spread = _over_processes(((delta - mean) * mask).square().sum())
    return spread / count + (1.0 - lam) * mean.square()


def _per_image_bracket(delta: Tensor, mask: Tensor, lam: float) -> Tensor:
    """Mean over the images of all processes of variance + (1 - lam) mean^2."""
    count = mask.sum(1).to(delta)
    present = count > 0
    count = count.clamp(min=1.0)
    mean = delta.sum(1) / count
    spread = ((delta - mean[:, None]) * mask).square().sum(1) / count
    brackets = (spread + (1.0 - lam) * mean.square()) * present
    total = _over_processes(torch.stack([brackets.sum(), present.sum().to(delta)]))
    return total[0] / total[1].clamp(min=1.0)


def _masked_mean(loss: Tensor, mask: Tensor) -> LossValue:
    """Mean of the losses [B, N] where the mask is True, over all processes."""
    total = torch.where(mask, loss, 0.0).sum()
    images, points = _counts(mask)
    return LossValue(_over_processes(total) / points.clamp(min=1), images, points)


def _counts(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Images with a valid point and valid points of all processes, int64 scalars."""
    counts = torch.stack([mask.any(1).sum(), mask.sum()])
    if _distributed():
        dist.all_reduce(counts)
    return counts[0], counts[1]


def _over_processes(tensor: Tensor) -> Tensor:
    return _SumOverProcesses.apply(tensor) if _distributed() else tensor


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
