"""Timing: turns, repeats, floors."""

from __future__ import annotations

from itertools import groupby
from time import sleep

import pytest
import torch

from benchmarks._timing import COPY, PRODUCT, Operation, floors, measure, timings

CPU = torch.device("cpu")


def operation(name: str, calls: list[str], macs: int = 0, gathered: int = 0) -> Operation:
    """An operation that notes its calls."""
    return Operation("network", name, 4, lambda: calls.append(name), macs, gathered)


def test_operations_take_turns() -> None:
    calls: list[str] = []
    operations = [operation(name, calls) for name in ("a", "b")]
    seconds = measure(operations, 3, 0.0)
    assert [name for name, _ in groupby(calls)] == 3 * ["a", "b"]
    assert len(seconds) == 2 and min(seconds) >= 0


def test_seconds_are_those_of_one_call() -> None:
    (seconds,) = measure([Operation("network", "sleep", 0, lambda: sleep(0.01), 0)], 2, 0.05)
    assert 0.01 <= seconds < 0.02


def test_threads_are_set_for_a_while() -> None:
    before = torch.get_num_threads()
    counts: list[int] = []
    noted = Operation("network", "a", 0, lambda: counts.append(torch.get_num_threads()), 0)
    measure([noted], 1, 0.0, before + 1)
    assert set(counts) == {before + 1}
    assert torch.get_num_threads() == before


def test_floors_are_what_a_product_and_a_copy_take() -> None:
    product, copy = floors(CPU)
    assert (product.macs, product.gathered) == (PRODUCT**3, 0)
    assert (copy.macs, copy.gathered) == (0, 2 * 4 * COPY)
    calls: list[str] = []
    others = [
        operation("many products", calls, macs=PRODUCT**3 // 2, gathered=COPY),
        operation("many reads", calls, macs=PRODUCT, gathered=80 * COPY),
    ]
    table = timings([product, copy, *others], [0.1, 0.001, 0.2, 0.05]).set_index("operation")
    assert list(table["network"][:2]) == ["matrix product", "copy"]
    assert table["times_floor"].to_list() == pytest.approx([1, 1, 4, 5])
    assert table["bound"].to_list() == ["macs", "bytes", "macs", "bytes"]
    assert table["floor_ms"].to_list() == pytest.approx([100, 1, 50, 10])
    assert table["milliseconds"].to_list() == pytest.approx([100, 1, 200, 50])
    assert table["difference"].isna().all()
