"""Objectives by name: what a training step minimises.

An objective takes a network and a batch and returns a `LossValue`. Besides that, the training loop
only knows which entries of a batch it reads (`inputs`), and the parameters that it learns itself,
if any: those join the optimizer and the saved state. A new one is a class under `@objective`, whose
constructor declares its settings; settings of a run reach it by their names.

Truth can lie at query points, at the network's own lattice or at all pixels. Each kind is a
function under `@truth_at`, which pairs the network's depth with the truth.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from spdlib.data.queries import lattice_truth
from spdlib.errors import ConfigError, unknown_name
from spdlib.study.losses import LossValue, dense_auxiliary, huber_inverse_depth, silog

Batch = Mapping[str, Tensor]


class Pairs(NamedTuple):
    """A network's depth beside the truth.

    Attributes:
        depth: [B, ...] metres.
        truth: [B, ...] metres, of the same shape; 0 where nothing was measured.
        valid: [B, ...] bool; None means truth > 0.
        auxiliary: the network's auxiliary maps by name.
    """

    depth: Tensor
    truth: Tensor
    valid: Tensor | None
    auxiliary: Mapping[str, Tensor]


class TruthKind(NamedTuple):
    """How a network is asked, and the entries of a batch that this takes besides the image."""

    pairs: Callable[[nn.Module, Batch], Pairs]
    inputs: frozenset[str]


class Objective(nn.Module):
    """Base of all objectives.

    Attributes:
        name: that it is registered under.
        inputs: entries of a batch that are read besides "image".
        auxiliary: whether the network's auxiliary maps are learned from; heads without a loss have
            no gradient, which several processes must know.
    """

    name = ""
    inputs: frozenset[str] = frozenset({"points", "truth", "valid"})
    auxiliary = False

    def __init__(self) -> None:
        super().__init__()

    def forward(self, model: nn.Module, batch: Batch) -> LossValue:
        """Loss of the whole batch, all processes together.

        Args:
            model: takes (images, points), or images alone for its dense path.
            batch: collated training samples, "image" and "depth" padded to the network's size.
        """
        raise NotImplementedError

    def learned(self) -> dict[str, nn.Parameter]:
        """Its own parameters that are trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


AnyObjective = TypeVar("AnyObjective", bound=type[Objective])
OBJECTIVES: dict[str, type[Objective]] = {}
TRUTH_KINDS: dict[str, TruthKind] = {}


def objective(name: str) -> Callable[[AnyObjective], AnyObjective]:
    """Register a class under the name that a run's setting `loss` gives."""

    def register(kind: AnyObjective) -> AnyObjective:
        kind.name = name
        OBJECTIVES[name] = kind
        return kind

    return register


def truth_at(
    name: str, *inputs: str
) -> Callable[[Callable[[nn.Module, Batch], Pairs]], Callable[[nn.Module, Batch], Pairs]]:
    """Register a kind of truth under the name that a run's setting `supervision` gives."""

    def register(pairs: Callable[[nn.Module, Batch], Pairs]) -> Callable[..., Pairs]:
        TRUTH_KINDS[name] = TruthKind(pairs, frozenset(inputs))
        return pairs

    return register


def create_objective(loss: str, **settings: Any) -> Objective:
    """The objective of this name.

    Args:
        loss: its name, a key of `OBJECTIVES`.
        settings: of a run; those that the objective's constructor does not take are left out.

    Raises:
        ConfigError: there is none of this name, or a setting is out of range.
    """
    if loss not in OBJECTIVES:
        raise ConfigError(unknown_name("objective", loss, OBJECTIVES))
    taken = inspect.signature(OBJECTIVES[loss]).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        settings = {key: value for key, value in settings.items() if key in taken}
    return OBJECTIVES[loss](**settings)


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
    truth = lattice_truth(batch["depth"], (depth.shape[-2], depth.shape[-1]))
    return Pairs(depth, truth, None, auxiliary)


@truth_at("dense", "depth")
def at_pixels(model: nn.Module, batch: Batch) -> Pairs:
    """Truth at every pixel, the network's dense map resized to it."""
    depth, auxiliary = model(batch["image"])
    size = (batch["depth"].shape[-2], batch["depth"].shape[-1])
    resized = F.interpolate(depth[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return Pairs(resized, batch["depth"], None, auxiliary)


class Regression(Objective):
    """A loss between depth and truth, and SILog on the auxiliary maps where that has a weight.

    Args:
        supervision: a key of `TRUTH_KINDS`.
        silog_lambda: lambda of SILog.
        reduction: of SILog, "per_image" or "pooled".
        auxiliary_weight: of SILog on the network's auxiliary maps; 0 leaves them out.
        aux_target: how depth is reduced to their size, "masked" or "bilinear" (F17d).
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
        parts = {**(loss.parts or {self.name: loss.value}), "auxiliary": dense.value}
        return loss._replace(value=loss.value + self.auxiliary_weight * dense.value, parts=parts)


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
    """Both, as v13 was planned with."""

    weights = MappingProxyType({"huber": 1.0, "silog": 0.5})
