"""Errors a caller can cause. Each message names the offending value or file and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    closest = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"did you mean {closest[0]!r}? " if closest else ""
