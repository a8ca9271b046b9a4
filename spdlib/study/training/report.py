"""What a run tells people while it trains, and how they stop it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spdlib.errors import RunError
from spdlib.reading import reason


class Report:
    """Lines on standard output, a bar on terminals, TensorBoard on request."""

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self._writer: Any = None

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self.shown:
            tqdm.write(text)
            sys.stdout.flush()

    def bar(self, done: int, total: int) -> tqdm[Any]:
        """A bar of all steps."""
        quiet = None if self.shown else True  # None: shown on terminals
        return tqdm(total=total, initial=done, unit="step", disable=quiet)

    @contextlib.contextmanager
    def tensorboard(self, folder: Path | None, step: int) -> Iterator[None]:
        """Log evaluations to a folder for the length of a block; None logs nothing.

        RunError: TensorBoard is not installed, or the folder cannot be written.
        """
        if folder is None:
            yield
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RunError("tensorboard=True needs the package: pip install tensorboard") from error
        with _quiet_writer():
            with _writing(folder):
                self._writer = SummaryWriter(str(folder), purge_step=step)
            try:
                yield
            finally:  # every evaluation was flushed, and what failed then was said
                with contextlib.suppress(OSError):
                    self._writer.close()

    def evaluation(self, row: Mapping[str, Any], steps: int) -> None:
        """One line about an evaluation, and its numbers for TensorBoard."""
        if self._writer is not None:
            with _writing(self._writer.log_dir):
                for name in row.keys() - {"step"}:
                    self._writer.add_scalar(name, row[name], row["step"])
                self._writer.flush()
        self.line(
            f"epoch {row['epoch']:g}  step {row['step']}/{steps}  train {row['train_loss']:.4f}  "
            f"selection AbsRel {row['sel_abs_rel']:.4f} RMSE {row['sel_rmse']:.3f} m "
            f"delta1 {row['sel_delta1']:.3f} s* {row['sel_s_star']:.3f}  "
            f"waited {100 * row['data_wait_share']:.1f} %  {row['seconds'] / 60:.1f} min"
        )


@contextlib.contextmanager
def _writing(folder: str | Path) -> Iterator[None]:
    """Failures of TensorBoard's writer in the block as RunErrors that name the folder."""
    try:
        yield
    except Exception as failure:
        raise RunError(
            f"cannot write {folder}: {reason(failure)}; free disk space or train without "
            "TensorBoard, then start the same command again"
        ) from failure


@contextlib.contextmanager
def _quiet_writer() -> Iterator[None]:
    """Keeps TensorBoard's thread from printing a traceback: its failure is raised here as well."""
    before = threading.excepthook

    def heard(failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            before(failed)

    threading.excepthook = heard
    try:
        yield
    finally:
        threading.excepthook = before


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a flag; a second one acts at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def hear_again() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def request(number: int, frame: Any) -> None:
        flag.set()
        hear_again()

    for kind in before:
        signal.signal(kind, request)
    try:
        yield flag
    finally:
        hear_again()
