"""Timing: turns, repeats, floors."""

from __future__ import annotations

import pytest
import torch

from spdlib.study import timing
from spdlib.study.timing import COPY, PRODUCT, Operation, floors, measure, timings, using_threads

CPU = torch.device("cpu")


def operation(name: str, calls: list[str], macs: int = 0, gathered: int = 0) -> Operation:
    """An operation that notes its calls."""
    return Operation("network", name, 4, lambda: calls.append(name), macs, gathered)


def test_operations_take_turns_after_two_calls_of_each() -> None:
    calls: list[str] = []
    operations = [operation(name, calls) for name in ("a", "b")]
    seconds = measure(operations, 3, 0.0, CPU)
    assert calls == ["a", "a", "b", "b", *3 * ["a", "b"]]
    assert len(seconds) == 2 and min(seconds) >= 0


def test_short_operations_fill_their_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.01 s each by a clock of our own: five times in 0.05 s; the median is of a single call."""
    calls: list[str] = []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: 0.01 * len(calls))
    assert measure([operation("a", calls)], 2, 0.0501, CPU) == pytest.approx([0.01])
    assert len(calls) == 2 + 2 * 5


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


def test_threads_are_set_for_a_while() -> None:
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with using_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
