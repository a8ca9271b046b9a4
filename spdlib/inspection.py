"""How a network describes itself: stages for its diagram, probes for diagnostics and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Stage:
    """One thing a network does, once per image or for every query.

    Attributes:
        when: "image" or "query".
        title: what it is called.
        detail: what it does, in a few short lines.
        parameters: how many it has; 0 says nothing of them.
        maps: shapes (channels, height, width) of the maps that it leaves to the queries, by name.
    """

    when: Literal["image", "query"]
    title: str
    detail: str = ""
    parameters: int = 0
    maps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """What a part of a network, such as "B2" or "layer 3", did with K queries of B images."""

    part: str


@dataclass(frozen=True)
class Reads(Probe):
    """Bilinear reads of maps.

    Attributes:
        about: what is read, in a few words.
        pixels: sampling locations [B, K, n, 2] in pixels of the image; they may lie outside it.
        weights: attention weights of the reads [B, K, n], one in sum.
        levels: which map each of the n reads is of.
        close: the reads lie around the query.
        offsets: of the reads [B, K, n, 2] in map units, of which a map spans two; None where
            queries do not choose them freely.
        outside: whether a read lies outside the map, [B, K, n]; None as for `offsets`.
    """

    about: str
    pixels: Tensor
    weights: Tensor
    levels: Sequence[str]
    close: bool = False
    offsets: Tensor | None = None
    outside: Tensor | None = None


@dataclass(frozen=True)
class CellAttention(Probe):
    """Attention over all cells of a map.

    Attributes:
        level: the map.
        weights: [B, K, h, w], one in sum, mean of the heads.
        routed: numbers row * w + column [B, K, R] of the cells that a query is routed to, most
            looked at first; None without routing.
    """

    level: str
    weights: Tensor
    routed: Tensor | None = None


@dataclass(frozen=True)
class Shares(Probe):
    """Attention by source: weights [B, K] that sum to one, and the number of tokens of each."""

    shares: Mapping[str, Tensor]
    tokens: Mapping[str, int]


@dataclass(frozen=True)
class Gate(Probe):
    """How far queries open to a canvas: [B, K] in 0..1."""

    opening: Tensor


@dataclass(frozen=True)
class CanvasStep(Probe):
    """How far a layer changes the canvas of a level, by norm over that of the canvas before, [B].

    `write` is what the queries write, `change` the whole change, smoothing included.
    """

    level: str
    write: Tensor
    change: Tensor


@dataclass(frozen=True)
class Number(Probe):
    """A named number that belongs to the network, not to a query."""

    name: str
    value: float
