"""Frames: which of them are looked at."""

from __future__ import annotations

import pytest

from spdlib.data.frames import evenly_spaced


@pytest.mark.parametrize(
    ("count", "wanted", "positions"),
    [(3, 12, [0, 1, 2]), (100, 3, [0, 49, 99]), (5, 1, [0]), (5, 0, []), (0, 4, [])],
)
def test_positions_are_spread_evenly(count: int, wanted: int, positions: list[int]) -> None:
    assert evenly_spaced(count, wanted) == positions


def test_wanting_all_gives_all() -> None:
    assert evenly_spaced(654, 654) == list(range(654))
