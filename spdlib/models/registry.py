"""The registry: networks by name, made, built again and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from spdlib.errors import ConfigError, ModelError
from spdlib.geometry import Size
from spdlib.models.base import DepthModel
from spdlib.models.checkpoint import configuring, load_weights, read_config
from spdlib.models.encoders import EncoderConfig
from spdlib.models.options import ModelConfig, read_options
from spdlib.plugins import Registry, import_plugins
from spdlib.reading import reading

NETWORKS = Registry[type[DepthModel]]("network", ModelError)

Network = TypeVar("Network", bound=type[DepthModel])


def register(name: str, *, encoder: str, image_size: Size) -> Callable[[Network], Network]:
    """Class decorator that makes a network known to `create_model` by name.

    `encoder` (a timm name) and `image_size` (height, width in pixels) are its defaults.

    Raises:
        ModelError: another class has this name, or the class has no `idea`.
    """

    def enter(network: Network) -> Network:
        if not getattr(network, "idea", ""):
            raise ModelError(
                f"{network.__qualname__} has no `idea`: say it in one line, for tables"
            )
        NETWORKS.enter(name, network)
        network.defaults = encoder, image_size
        return network

    return enter


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` takes, of those that match a pattern such as "v14*"."""
    import_plugins()
    return sorted(name for name in NETWORKS if fnmatchcase(name, pattern))


def network_class(name: str) -> type[DepthModel]:
    """The class of a network. ModelError: there is none of this name."""
    return NETWORKS.find(name)


def network_defaults(name: str) -> tuple[str, Size]:
    """A network's own encoder and image size. ModelError: there is no network of this name."""
    return NETWORKS.find(name).defaults


def network_options(name: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A network's own settings: those that are given, and the default of every other.

    Raises:
        ModelError: unknown network.
        ConfigError: a setting or value the network does not have; the message lists those it has.
    """
    return asdict(read_options(network_class(name).Options, given or {}, name))


def create_model(
    name: str,
    encoder: str | EncoderConfig | None = None,
    *,
    pretrained_encoder: bool = False,
    image_size: Size | None = None,
    focal: float | None = None,
    **options: Any,
) -> DepthModel:
    """Build a network with fresh decoder weights.

    Args:
        name: one of `list_models()`.
        encoder: timm name or configuration; None takes the network's own.
        pretrained_encoder: load timm's weights of the encoder, and only of the encoder; otherwise
            nothing is fetched. The same as `EncoderConfig(..., pretrained=True)`.
        image_size: height, width of training images; None takes the network's own.
        focal: focal length in pixels of training images.
        options: the network's own settings.

    Raises:
        ModelError: unknown network or encoder, or unreachable weights.
        ConfigError: contradictory settings.
    """
    own_encoder, own_size = network_defaults(name)
    if not isinstance(encoder, EncoderConfig):
        encoder = EncoderConfig(encoder or own_encoder)
    if "pretrained" in options:
        raise ConfigError("only the encoder comes pretrained: write pretrained_encoder=True")
    if pretrained_encoder:
        encoder = replace(encoder, pretrained=True)
    config = ModelConfig(
        name, encoder, own_size if image_size is None else image_size, focal, options
    )
    return network_class(name)(config)


def load(folder: str | Path) -> DepthModel:
    """A saved network, in evaluation mode; nothing is fetched and no encoder file is needed.

    Of a run's folder the best weights are taken.

    Raises:
        ModelError: a missing or damaged file, weights of another network, or a configuration that
            was changed after they were saved.
    """
    import_plugins()
    remedy = "give the one that `save` or a training run wrote"
    with reading(str(folder), "is no folder of a saved network", remedy, ModelError):
        folder = Path(folder)
        if not (folder / "model.safetensors").is_file() and (folder / "best").is_dir():
            folder = folder / "best"
        config = read_config(folder)
    with configuring(folder):
        random_encoder = replace(config.encoder, pretrained=False, weights=None)
        model = network_class(config.network)(replace(config, encoder=random_encoder))
    model.trained = load_weights(model, config, folder)
    model.config = config
    return model.eval()
