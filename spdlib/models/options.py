"""A network's options: one frozen dataclass of words and counts, checked by its annotations.

Checked by hand, for a library's report of a wrong value takes several lines where one says it all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from spdlib.errors import ConfigError, did_you_mean

Count = Annotated[int, 1]
"""A whole number and the least that it may be."""


@dataclass(frozen=True)
class Options:
    """No options. Those of a network are words (`Literal`), counts, or dataclasses of these."""


Kind = TypeVar("Kind")


def read_options(kind: type[Kind], given: Mapping[str, Any], owner: str) -> Kind:
    """An instance of the dataclass `kind`: what is given, and the default of every other field.

    Args:
        kind: dataclass of options.
        given: values by name.
        owner: the network's name, for messages.

    Raises:
        ConfigError: an option or value the network does not have; the message lists those it has.
    """
    hints = get_type_hints(kind, include_extras=True)
    for name in given.keys() - hints.keys():
        raise ConfigError(
            f"{owner} has no option {name!r} (given as {given[name]!r}); "
            f"{did_you_mean(name, hints)}it takes {', '.join(hints) or 'none'}"
        )
    return kind(**{name: _checked(hints[name], given[name], owner, name) for name in given})


def _checked(hint: Any, value: Any, owner: str, name: str) -> Any:
    """A value that its annotation allows; ConfigError if it does not."""
    if is_dataclass(hint):
        return value if isinstance(value, hint) else read_options(hint, value, f"{owner} {name}")  # type: ignore[arg-type]
    if get_origin(hint) is Literal:
        if type(value) is not str or value not in get_args(hint):
            words = ", ".join(get_args(hint))
            raise ConfigError(f"{owner} option {name}={value!r} is not one of {words}")
        return value
    least = get_args(hint)[1]
    if type(value) is not int or value < least:
        raise ConfigError(f"{owner} option {name}={value!r} is not a whole number from {least}")
    return value


def words(kind: type) -> dict[str, tuple[str, ...]]:
    """Allowed values of every option that is a word, the default first."""
    hints = get_type_hints(kind)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def counts(kind: Any) -> dict[str, int]:
    """The default of every option that is a whole number."""
    return {f.name: f.default for f in fields(kind) if type(f.default) is int}
