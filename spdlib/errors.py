"""Errors a caller can cause. Each message names the offending value or file and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping


class SPDError(ValueError):
    """Base of every error that SPD raises on purpose."""


class DataError(SPDError):
    """A frame, file or data set cannot be used as it is."""


class ModelError(SPDError):
    """A network, its weights or its input size cannot be used as asked."""


class QueryError(SPDError):
    """Points or an image cannot be answered."""


class ConfigError(SPDError):
    """A configuration contradicts itself or names something unknown."""


class RunError(SPDError):
    """A training or evaluation run cannot start, continue or be read."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint for an error message at a misspelt name, with a space behind it; "" without one."""
    closest = closest_name(name, known, cutoff)
    return f"did you mean {closest!r}? " if closest else ""


def closest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like a given one; case, dashes, dots and spaces do not count."""
    spelt = {_plain(each): each for each in known}
    closest = difflib.get_close_matches(_plain(name), spelt, n=1, cutoff=cutoff)
    return spelt[closest[0]] if closest else None


def unknown_name(
    kind: str, name: object, known: Iterable[str], meant: Mapping[str, str] | None = None
) -> str:
    """An error's message about a name that is not known.

    Args:
        kind: what it should name, for instance "experiment".
        name: as it was given.
        known: all names of this kind. They are listed only if none of them is close.
        meant: names of something else, each with the known name that was probably meant: for
            instance networks, each with the experiment that trains it.
    """
    known, meant = list(known), meant or {}
    closest = closest_name(str(name), [*known, *meant])
    if closest is None:
        return f"unknown {kind} {name!r}; known: {', '.join(known) or 'none'}"
    return f"unknown {kind} {name!r}; did you mean {meant.get(closest, closest)!r}?"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip()).lower()
