"""What a training step minimises: losses as plain functions, and objectives by name.

Every loss works in float32 (float64 for float64 predictions) outside autocast and leaves out points
without truth; a batch without any gives exactly 0 with gradient exactly 0. With several processes
every one must call the loss, and every one returns that of the whole batch: sums and counts are
added up, with gradient, before the root. The adjoint of that sum adds up the processes' gradients,
so the mean that DDP takes over processes is exactly the gradient of a single process.

A new objective is a class under `@objective`, whose constructor declares its settings: those of a
run reach it by their names. A kind of truth (at query points, at the network's own lattice, at all
pixels) is a function under `@truth_at`, which pairs the network's depth with the truth.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from spdlib.data.queries import lattice_truth
from spdlib.geometry import size_of
from spdlib.plugins import Registry
from spdlib.settings import require

EPSILON = 1e-8
"""Added inside SILog's root, whose gradient is infinite at 0 otherwise."""

Batch = Mapping[str, Tensor]
T = TypeVar("T")


class LossValue(NamedTuple):
    """A loss over the whole batch, all processes together."""

    value: Tensor
    """Scalar with gradient."""
    images: Tensor
    """int64 scalar, images with at least one valid point."""
    points: Tensor
    """int64 scalar, valid points; 0 means that `value` is 0 without meaning."""
    parts: Mapping[str, Tensor] = MappingProxyType({})
    """The terms of a sum by name, before their weights; empty for a single loss."""


class _SumOverProcesses(torch.autograd.Function):
    """Sum over processes; its adjoint is the same sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.apply(gradient)


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

    Prediction and truth are metres [B, ...], the prediction positive; `valid` is bool [B, ...]
    or None. A truth above 0 is required in any case.

    ConfigError: `lam` is outside 0..1, or there is no such reduction.
    """
    require(0 <= lam <= 1, f"lambda of SILog must lie in 0..1; got {lam}")
    brackets = {"pooled": _pooled_bracket, "per_image": _per_image_bracket}
    bracket = _chosen("reduction", reduction, brackets)
    with torch.autocast(prediction.device.type, enabled=False):
        p, g, mask = _flat_points(prediction, truth, valid)
        delta = p.clamp(min=torch.finfo(p.dtype).tiny).log() - g.log()
        images, points = _counts(mask)
        root = (bracket(delta, mask, lam) + EPSILON).sqrt()
        return LossValue(root * (points > 0), images, points)


def huber_inverse_depth(
    prediction: Tensor, truth: Tensor, valid: Tensor | None = None
) -> LossValue:
    """Huber loss on inverse depth, mean over all valid points (the log's L_point).

    The tensors are those of `silog`; a residual of 1/m is where it turns linear.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        p, g, mask = _flat_points(prediction, truth, valid)
        inverse = p.clamp(min=torch.finfo(p.dtype).tiny).reciprocal()
        loss = F.smooth_l1_loss(inverse, g.reciprocal(), reduction="none")
        total = torch.where(mask, loss, 0.0).sum()
        images, points = _counts(mask)
        return LossValue(_over_processes(total) / points.clamp(min=1), images, points)


def dense_auxiliary(
    maps: Sequence[Tensor],
    depth: Tensor,
    lam: float = 0.5,
    reduction: str = "per_image",
    target: str = "masked",
) -> Tensor:
    """Sum over maps [B, h, w] of their `silog` against the depth [B, H, W] reduced to their size.

    All are metres, the depth 0 where nothing was measured; `lam` and `reduction` are those of
    `silog`; the target is "masked" (`masked_average`) or "bilinear" (`bilinear_target`).

    ConfigError: there are no maps, or no such target.
    """
    require(len(maps) > 0, "this network has no auxiliary maps; set auxiliary_weight=0")
    reduce = _chosen("target", target, {"masked": masked_average, "bilinear": bilinear_target})
    truths = [reduce(depth, size_of(level)) for level in maps]
    losses = [silog(*pair, None, lam, reduction) for pair in zip(maps, truths, strict=True)]
    return torch.stack([loss.value for loss in losses]).sum()


def masked_average(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean of the measured pixels of [B, H, W] metres in each cell of a grid [B, h, w].

    0 is what was not measured, and the mean where a cell has nothing else.
    """
    share = F.adaptive_avg_pool2d((depth > 0).to(depth.dtype), size)
    mean = F.adaptive_avg_pool2d(depth, size)
    return torch.where(share > 0, mean / share.clamp(min=torch.finfo(depth.dtype).tiny), 0.0)


def bilinear_target(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Depth [B, H, W] read bilinearly at [B, h, w] points from corner to corner, as recorded.

    It mixes measured depth with 0, and lies up to half a cell beside the map it is for (F17d).
    """
    return F.interpolate(depth[:, None], size, mode="bilinear", align_corners=True)[:, 0]


def _chosen(what: str, name: str, known: Mapping[str, T]) -> T:
    require(name in known, f"{what} must be one of {', '.join(known)}; got {name!r}")
    return known[name]


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
    variance = _over_processes(((delta - mean) * mask).square().sum())
    return variance / count + (1.0 - lam) * mean.square()


def _per_image_bracket(delta: Tensor, mask: Tensor, lam: float) -> Tensor:
    """Mean over the images of all processes of variance + (1 - lam) mean^2."""
    count = mask.sum(1).to(delta)
    present = count > 0
    count = count.clamp(min=1.0)
    mean = delta.sum(1) / count
    variance = ((delta - mean[:, None]) * mask).square().sum(1) / count
    brackets = (variance + (1.0 - lam) * mean.square()) * present
    total = _over_processes(torch.stack([brackets.sum(), present.sum().to(delta)]))
    return total[0] / total[1].clamp(min=1.0)


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


# -- objectives -------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """A network's depth beside the truth."""

    depth: Tensor
    """[B, ...] metres."""
    truth: Tensor
    """[B, ...] metres, of the same shape; 0 where nothing was measured."""
    valid: Tensor | None
    """[B, ...] bool; None means truth > 0."""
    auxiliary: Mapping[str, Tensor]
    """The network's auxiliary maps by name."""


class TruthKind(NamedTuple):
    """How a network is queried, and the entries of a batch that this takes besides the image."""

    pairs: Callable[[nn.Module, Batch], Pairs]
    inputs: frozenset[str]


class Objective(nn.Module):
    """Base of all objectives."""

    name = ""
    """That it is registered under."""
    inputs: frozenset[str] = frozenset({"points", "truth", "valid"})
    """Entries of a batch that are read besides "image"."""
    auxiliary = False
    """Whether the network's auxiliary maps are learned from; heads without a loss have no gradient,
    which several processes must know."""

    def __init__(self) -> None:  # takes no settings: see `create_objective`
        super().__init__()

    def forward(self, model: nn.Module, batch: Batch) -> LossValue:
        """Loss of the whole batch, all processes together; images and depth are padded.

        The network takes (images, points), or images alone for its dense path.
        """
        raise NotImplementedError

    def learned(self) -> dict[str, nn.Parameter]:
        """Its own parameters that are trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


OBJECTIVES = Registry[type[Objective]]("objective")
objective = OBJECTIVES.register
"""Class decorator: `@objective("name")`, the name that a run's setting `loss` gives."""
TRUTH_KINDS = Registry[TruthKind]("supervision")
Pairing = Callable[[nn.Module, Batch], Pairs]


def truth_at(name: str, *inputs: str) -> Callable[[Pairing], Pairing]:
    """Register a kind of truth under the name that a run's setting `supervision` gives."""

    def register(pairs: Pairing) -> Pairing:
        TRUTH_KINDS[name] = TruthKind(pairs, frozenset(inputs))
        return pairs

    return register


def create_objective(loss: str, **settings: Any) -> Objective:
    """The objective of this name, with those of a run's settings that its constructor takes.

    ConfigError: there is none of this name.
    """
    kind = OBJECTIVES.find(loss)
    taken = inspect.signature(kind).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        settings = {key: value for key, value in settings.items() if key in taken}
    return kind(**settings)


def silog_weight(name: str) -> float | None:
    """Weight of SILog in an objective's sum, which the log states; None of another objective."""
    weights = getattr(OBJECTIVES.get(name), "weights", None)
    return weights.get("silog", 0.0) if weights else None


@truth_at("points", "points", "truth", "valid")
def at_points(model: nn.Module, batch: Batch) -> Pairs:
    """Truth at the sampled query points."""
    depth, auxiliary = model(batch["image"], batch["points"])
    return Pairs(depth, batch["truth"], batch["valid"], auxiliary)


@truth_at("lattice", "depth")
def at_lattice(model: nn.Module, batch: Batch) -> Pairs:
    """Truth at the sites of the network's own dense path."""
    depth, auxiliary = model(batch["image"])
    truth = lattice_truth(batch["depth"], size_of(depth))
    return Pairs(depth, truth, None, auxiliary)


@truth_at("dense", "depth")
def at_pixels(model: nn.Module, batch: Batch) -> Pairs:
    """Truth at every pixel, the network's dense map resized to it."""
    depth, auxiliary = model(batch["image"])
    size = size_of(batch["depth"])
    resized = F.interpolate(depth[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return Pairs(resized, batch["depth"], None, auxiliary)


class Regression(Objective):
    """A loss between depth and truth, and SILog on the auxiliary maps where that has a weight.

    `supervision` is a key of `TRUTH_KINDS`; `ObjectiveConfig` describes the others.
    """

    weights: Mapping[str, float] = MappingProxyType({})
    """Of the losses in the sum: names of methods that take what `loss` takes."""

    def __init__(
        self,
        supervision: str = "points",
        silog_lambda: float = 0.5,
        reduction: str = "per_image",
        auxiliary_weight: float = 0.0,
        aux_target: str = "masked",
    ) -> None:
        super().__init__()
        written = self.weights or type(self).loss is not Regression.loss
        require(bool(written), f"{type(self).__name__} has no `loss` and no `weights`: write one")
        self.truth, self.auxiliary_weight = TRUTH_KINDS[supervision], auxiliary_weight
        self.silog_lambda, self.reduction, self.aux_target = silog_lambda, reduction, aux_target
        self.auxiliary = auxiliary_weight > 0
        self.inputs = self.truth.inputs | ({"depth"} if self.auxiliary else set())

    def loss(self, depth: Tensor, truth: Tensor, valid: Tensor | None) -> LossValue:
        """Weighted sum of losses of depth [B, ...] against truth [B, ...], both in metres."""
        found = {name: getattr(self, name)(depth, truth, valid) for name in self.weights}
        total: Any = sum(weight * found[name].value for name, weight in self.weights.items())
        parts = {name: each.value for name, each in found.items()} if len(found) > 1 else {}
        return next(iter(found.values()))._replace(value=total, parts=parts)

    def silog(self, depth: Tensor, truth: Tensor, valid: Tensor | None) -> LossValue:
        """SILog under this objective's settings."""
        return silog(depth, truth, valid, self.silog_lambda, self.reduction)

    def huber(self, depth: Tensor, truth: Tensor, valid: Tensor | None) -> LossValue:
        """Huber loss on inverse depth."""
        return huber_inverse_depth(depth, truth, valid)

    def forward(self, model: nn.Module, batch: Batch) -> LossValue:
        """The loss, and that of the auxiliary maps."""
        pairs = self.truth.pairs(model, batch)
        loss = self.loss(pairs.depth, pairs.truth, pairs.valid)
        if not self.auxiliary:
            return loss
        maps, settings = list(pairs.auxiliary.values()), (self.silog_lambda, self.reduction)
        dense = dense_auxiliary(maps, batch["depth"], *settings, self.aux_target)
        parts = {**(loss.parts or {self.name: loss.value}), "auxiliary": dense}
        return loss._replace(value=loss.value + self.auxiliary_weight * dense, parts=parts)


@objective("silog")
class SILog(Regression):
    """Scale-invariant log loss."""

    weights = MappingProxyType({"silog": 1.0})


@objective("huber")
class Huber(Regression):
    """Huber loss on inverse depth."""

    weights = MappingProxyType({"huber": 1.0})


@objective("huber_silog")
class HuberSILog(Regression):
    """Both, as the first design was planned with."""

    weights = MappingProxyType({"huber": 1.0, "silog": 0.5})
