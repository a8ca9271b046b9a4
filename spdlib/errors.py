"""Errors a caller can cause. Each message names the offending value or file and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class SPDError(ValueError):
    """Base of every error that SPD raises on purpose."""


class DataError(SPDError):
    """A frame, file or data set cannot be used as it is."""


class ModelError(SPDError):
    """A network, its weights or its input size cannot be used in this way."""


class QueryError(SPDError):
    """Points or an image cannot be answered."""


class ConfigError(SPDError):
    """A configuration contradicts itself or names something unknown."""


class RunError(SPDError):
    """A training or evaluation run cannot start, continue or be read."""


def unknown_name(kind: str, name: object, known: Iterable[str], hint: str = "") -> str:
    """An error's message about a name that is not known: the closest one, or else all of them.

    Args:
        kind: what it should name, for instance "experiment".
        name: as it was given; case, dashes, dots and spaces do not count.
        known: all names of this kind.
        hint: what to say after either.
    """
    spelt = {_plain(each): each for each in known}
    closest = difflib.get_close_matches(_plain(str(name)), spelt, n=1)
    if closest:
        return f"unknown {kind} {name!r}; did you mean {spelt[closest[0]]!r}?{hint}"
    return f"unknown {kind} {name!r}; known: {', '.join(spelt.values()) or 'none'}{hint}"


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip()).lower()
