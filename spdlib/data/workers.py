"""Processes that prepare frames and samples: how they start, fail and end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from spdlib.errors import RunError, SPDError
from spdlib.reading import reason

PATIENCE = 120
"""Seconds to wait for a batch from the processes that prepare them."""


def leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C, and SIGTERM to a whole group, reach workers too; the parent ends them by itself.

    A worker that died of the signal would end the run before its state is saved. Workers whose
    parent is gone notice within seconds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def working(loader: DataLoader[Any]) -> Iterator[Iterator[Any]]:
    """A loader's batches. The processes that prepare them end with the block.

    They ignore SIGTERM, so Python, which ends them so when it exits, would wait for ever for one
    that hangs, or whose loader an error's traceback still holds.
    """
    batches: Any = iter(loader)
    try:
        yield batches
    finally:
        if loader.num_workers:
            batches._shutdown_workers()
            for worker in batches._workers:
                worker.kill()
                worker.join()


@contextlib.contextmanager
def from_workers() -> Iterator[None]:
    """Errors of processes that prepare samples, as the errors that they are.

    SPDError: a sample's own, without the traceback that PyTorch puts before its message.
    RunError: such a process was killed, or hangs.
    """
    try:
        yield
    except SPDError as error:
        if not str(error).startswith("Caught "):
            raise
        last = str(error).rstrip().splitlines()[-1]  # "spdlib.errors.DataError: ..."
        raise type(error)(last.partition(": ")[2]) from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader"):
            raise
        raise RunError(
            f"a process that prepares samples ended or hangs ({reason(error)}); give it memory (a "
            "container's --shm-size), or prepare them without one (--workers 0), then start the "
            "same command again: it goes on from the last checkpoint"
        ) from error
