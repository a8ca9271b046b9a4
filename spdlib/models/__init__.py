"""The registry: `create_model`, `list_models`, `load` (decisions 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from spdlib.errors import ModelError
from spdlib.geometry import Size
from spdlib.models.base import (
    DepthModel,
    ModelConfig,
    Prediction,
    load_weights,
    read_config,
    read_options,
)
from spdlib.models.encoders import Encoder, EncoderConfig
from spdlib.models.v13 import V13Calibrated, V13LogDepth, V13Plan
from spdlib.models.v13_1 import V131
from spdlib.models.v14 import V14Dual, V14Plan, V14Triple
from spdlib.models.v15 import V152

__all__ = [
    "DepthModel", "Encoder", "EncoderConfig", "ModelConfig", "Prediction", "create_model",
    "list_models", "load", "network_class", "network_options",
]  # fmt: skip


class _Entry(NamedTuple):
    network: type[DepthModel]
    encoder: str
    image_size: Size


CONVNEXT_V2_TINY = "convnextv2_tiny.fcmae_ft_in22k_in1k"
"""The encoder of the networks before v15 (sheets v13 and v14)."""

_REGISTRY = {
    "v13_plan": _Entry(V13Plan, "vit_small_patch14_dinov2", (518, 518)),
    "v13_calibrated": _Entry(V13Calibrated, CONVNEXT_V2_TINY, (256, 320)),
    "v13_log_depth": _Entry(V13LogDepth, CONVNEXT_V2_TINY, (256, 320)),
    "v13_1": _Entry(V131, CONVNEXT_V2_TINY, (256, 320)),
    "v14_plan": _Entry(V14Plan, CONVNEXT_V2_TINY, (256, 320)),
    "v14_dual": _Entry(V14Dual, CONVNEXT_V2_TINY, (256, 320)),
    "v14_triple": _Entry(V14Triple, CONVNEXT_V2_TINY, (256, 320)),
    "v15_2": _Entry(V152, "vit_small_patch14_dinov2", (350, 476)),
}


def list_models() -> list[str]:
    """Names that `create_model` takes."""
    return sorted(_REGISTRY)


def network_class(name: str) -> type[DepthModel]:
    """The class of a network. ModelError: there is none of this name."""
    return _entry(name).network


def network_options(name: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A network's own settings: those that are given, and the default of every other.

    Raises:
        ModelError: unknown network.
        ConfigError: a setting or value the network does not have; the message lists those it has.
    """
    network = network_class(name)
    return read_options(name, given or {}, network.choices, network.counts)


def create_model(
    name: str,
    encoder: str | EncoderConfig | None = None,
    *,
    pretrained: bool = False,
    image_size: Size | None = None,
    focal: float | None = None,
    **options: Any,
) -> DepthModel:
    """Build a network with fresh decoder weights.

    Args:
        name: one of `list_models()`.
        encoder: timm name or configuration; None takes the sheet's.
        pretrained: load timm's encoder weights; nothing is fetched otherwise. The same as
            `EncoderConfig(..., pretrained=True)`.
        image_size: height, width of training images; None takes the sheet's.
        focal: focal length in pixels of training images.
        options: the network's own settings.

    Raises:
        ModelError: unknown network or encoder, or unreachable weights.
        ConfigError: contradictory settings.
    """
    entry = _entry(name)
    if not isinstance(encoder, EncoderConfig):
        encoder = EncoderConfig(encoder or entry.encoder)
    if pretrained:
        encoder = replace(encoder, pretrained=True)
    return build(ModelConfig(name, encoder, image_size or entry.image_size, focal, options))


def build(config: ModelConfig) -> DepthModel:
    """The network of a configuration, its encoder loaded as the configuration says."""
    return _entry(config.network).network(config)


def load(folder: str | Path) -> DepthModel:
    """A saved network, in evaluation mode; nothing is fetched and no encoder file is needed.

    Args:
        folder: of a saved network, or of a run, whose best weights are taken.

    Raises:
        ModelError: a missing or damaged file, or weights of another network.
    """
    folder = Path(folder)
    if not (folder / "model.safetensors").is_file() and (folder / "best").is_dir():
        folder = folder / "best"
    config = read_config(folder)
    random_encoder = replace(config.encoder, pretrained=False, weights=None)
    model = build(replace(config, encoder=random_encoder))
    load_weights(model, folder)
    model.config = config
    return model.eval()


def _entry(name: str) -> _Entry:
    if name not in _REGISTRY:
        raise ModelError(f"no network {name!r}; there are {list_models()}")
    return _REGISTRY[name]
