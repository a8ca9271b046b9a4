"""A network's options: a frozen dataclass of words and counts, checked by its annotations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import Field

from spdlib.errors import ConfigError, unknown_name
from spdlib.settings import Settings, read

Count = Annotated[int, Field(ge=1)]
"""A whole number from 1."""


@dataclass(frozen=True)
class Options(Settings):
    """No options. Those of a network are words (`Literal`), counts, or dataclasses of these."""


Kind = TypeVar("Kind")


def read_options(kind: type[Kind], given: Mapping[str, Any], network: str) -> Kind:
    """An instance of the dataclass `kind`: what is given, and the default of every other field.

    Raises:
        ConfigError: an option or value the network does not have; the message lists those it has.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
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
    return {field.name: field.default for field in fields(kind) if type(field.default) is int}
