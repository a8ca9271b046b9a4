"""What a network is made from: its configuration, and options that its annotations check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import Field

from spdlib.errors import ConfigError, unknown_name
from spdlib.geometry import Size
from spdlib.models.encoders import EncoderConfig
from spdlib.settings import Settings, check, read, shown

Count = Annotated[int, Field(ge=1)]
"""A whole number from 1."""

MAX_SIDE = 4096
"""Longest side, in pixels, of images that a network is trained on or `encode` resizes one to."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build a network again.

    Attributes:
        network: registered name, for instance "v15_2".
        encoder: the encoder and its input.
        image_size: height, width in pixels of the images it is trained on.
        focal: focal length in pixels of those images; None until it is known.
        options: the network's own settings, for instance {"init": "recorded"}.
    """

    network: str
    encoder: EncoderConfig
    image_size: Size
    focal: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size: Any = self.image_size
        whole = isinstance(size, tuple | list) and all(type(side) is int for side in size)
        if not whole or len(size) != 2 or min(size) < 1 or max(size) > MAX_SIDE:
            raise ConfigError(
                "image_size must be height and width in whole pixels, both positive and at most "
                f"{MAX_SIDE}, such as [96, 128]; got {shown(size)}"
            )
        object.__setattr__(self, "image_size", tuple(size))
        check(self)
        if self.focal is not None and not self.focal > 0:
            raise ConfigError(f"focal must be a positive length in pixels; got {self.focal}")


@dataclass(frozen=True)
class Options(Settings):
    """No options. Those of a network are words (`Literal`), counts, or dataclasses of these."""


Kind = TypeVar("Kind")


def read_options(kind: type[Kind], given: Mapping[str, Any], network: str) -> Kind:
    """An instance of the dataclass `kind`: what is given, and the default of every other field.

    Raises:
        ConfigError: an option or value the network does not have; the message lists those it has.
    """
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    for name in given.keys() - set(known):
        raise ConfigError(unknown_name(f"option of {network}", name, known))
    try:
        return read(kind, given)
    except ConfigError as error:
        raise ConfigError(f"{network} option {error}") from None


def words(kind: type) -> dict[str, tuple[str, ...]]:
    """Allowed values of every option that is a word, the default first."""
    hints = get_type_hints(kind)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def counts(kind: Any) -> dict[str, int]:
    """The default of every option that is a whole number."""
    return {each.name: each.default for each in fields(kind) if type(each.default) is int}
