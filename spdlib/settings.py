"""Settings are frozen dataclasses: checked against their annotations, read back from JSON."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from spdlib.errors import ConfigError, unknown_name

T = TypeVar("T")
Share = Annotated[float, Field(ge=0, le=1)]


class Settings:
    """Base of dataclasses whose values are checked when they are made.

    ConfigError: a value is not of its field's type, not among its choices or out of range.
    """

    def __post_init__(self) -> None:
        check(self)


def check(settings: Any) -> None:
    """Compare every value of a dataclass with its annotation: type, `Literal` choices, range.

    Nothing is converted; a whole number passes for a float, NaN and infinity for nothing.

    ConfigError: names the first value that does not fit, and what would.
    """
    for name, adapter in _adapters(settings.__class__).items():
        value = getattr(settings, name)
        if type(value) is int and value.bit_length() > 63:
            raise ConfigError(f"{name}={shown(value)}: input should have 64 bits at most")
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]  # of `str | None`, that about str
            where = "".join(f"item {i}: " for i in first["loc"] if isinstance(i, int))
            reason = f"{where}{first['msg'][0].lower()}{first['msg'][1:]}"
            raise ConfigError(f"{name}={shown(value)}: {reason}") from None


def shown(value: Any) -> str:
    """A value in an error's message, which is no page long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def require(condition: bool, message: str) -> None:
    """ConfigError with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@functools.cache
def _adapters(kind: type) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    finite = ConfigDict(allow_inf_nan=False)
    return {  # the values of a dataclass were compared when it was made
        field.name: TypeAdapter(hint, config=None if is_dataclass(hint) else finite)
        for field in fields(kind)
        for hint in [hints[field.name]]
    }


def read(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from the dictionary that JSON made of it; parts that are left out get defaults.

    ConfigError: a field is unknown, missing or has a wrong value.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise ConfigError(unknown_name(f"setting of {kind.__name__}", name, names))
    given = {name: tuples(value) for name, value in values.items()}
    for name in names:
        part = given.get(name, {})
        if is_dataclass(hints[name]) and isinstance(part, Mapping):
            given[name] = read(hints[name], part)
    try:
        return kind(**given)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__} is incomplete: {error}") from error


def tuples(value: Any) -> Any:
    """A value with tuples for lists."""
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value


def plain(value: Any) -> Any:
    """A value as JSON has it: lists for tuples, dictionaries for mappings."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value
