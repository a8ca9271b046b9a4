"""Timing operations that take turns, beside the floor that arithmetic and memory set.

An operation cannot be faster than its multiply-accumulates (MACs) at the speed of a large float32
matrix product, nor than its gathered rows at the speed of a copy. Both speeds are measured in the
same run, with the same threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import pandas as pd
import torch
from torch.utils.benchmark import Timer
from tqdm import tqdm

PRODUCT = 1024
"""Side of the square matrices whose product sets the floor of arithmetic."""
COPY = 2**20
"""Numbers of the copy that sets the floor of gathers: 4 MiB, as a map has that is read."""


@dataclass(frozen=True)
class Operation:
    """Something to time.

    Attributes:
        network: what it belongs to.
        name: "encode", "fast", "literal", ...
        k: queries, 0 where there are none.
        run: does it once.
        macs: multiply-accumulates.
        gathered: bytes of the rows that it gathers from maps.
        difference: largest relative difference of its answers from the faster form's, if there is
            one.
    """

    network: str
    name: str
    k: int
    run: Callable[[], object]
    macs: int
    gathered: int = 0
    difference: float | None = None


def floors(device: torch.device) -> list[Operation]:
    """The two operations that set the floors: they come first in `timings`."""
    left, right = torch.rand(2, PRODUCT, PRODUCT, device=device).unbind()
    source, target = torch.rand(2, COPY, device=device).unbind()
    moved = 2 * source.numel() * source.element_size()
    return [
        Operation("matrix product", "float32", 0, lambda: left @ right, PRODUCT**3),
        Operation("copy", "float32", 0, lambda: target.copy_(source), 0, moved),
    ]


def measure(
    operations: Sequence[Operation], rounds: int, slot: float, threads: int | None = None
) -> list[float]:
    """Median seconds of each operation; short ones are repeated to fill `slot` seconds a round.

    They take turns, so that a busy moment of the machine does not count against one of them.

    Args:
        operations: what to time.
        rounds: turns of each operation.
        slot: seconds that a turn lasts at least, after warming up.
        threads: of PyTorch; None for as many as there are.
    """
    count = threads or torch.get_num_threads()
    timers = [Timer("run()", globals={"run": op.run}, num_threads=count) for op in operations]
    seconds: list[list[float]] = [[] for _ in operations]
    for _ in tqdm(range(rounds), mininterval=5, desc="rounds"):
        for times, timer in zip(seconds, timers, strict=True):
            times.append(timer.blocked_autorange(min_run_time=slot).median)
    return [median(times) for times in seconds]


def timings(operations: Sequence[Operation], seconds: Sequence[float]) -> pd.DataFrame:
    """One row an operation, `floors` first.

    Returns:
        network, operation, k, milliseconds, macs, gathered_bytes, floor_ms, bound ("macs" or
        "bytes", whichever floor is higher), times_floor and difference.
    """
    product, copy, *_ = operations
    per_mac, per_byte = seconds[0] / product.macs, seconds[1] / copy.gathered
    rows = []
    for each, taken in zip(operations, seconds, strict=True):
        floor, bound = max((each.macs * per_mac, "macs"), (each.gathered * per_byte, "bytes"))
        row = {"network": each.network, "operation": each.name, "k": each.k}
        row |= {"milliseconds": 1e3 * taken, "macs": each.macs, "gathered_bytes": each.gathered}
        row |= {"floor_ms": 1e3 * floor, "bound": bound, "times_floor": taken / floor}
        rows.append(row | {"difference": each.difference})
    return pd.DataFrame(rows)
