"""The command line: `spdlib COMMAND`, or `python -m spdlib COMMAND`.

Each command lives in the module that does its work, which is imported only when it is chosen, so
that help comes at once. That is why the standard argparse stays: libraries that read typed
functions, such as tyro or jsonargparse, import all of them, and PyTorch with them, to print help.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pkgutil
import runpy
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from spdlib.errors import ConfigError, SPDError, unknown_name
from spdlib.version import __version__

COMMANDS = {
    "data": ("spdlib.data.cli:add_data", "pack, verify or describe training data"),
    "train": (
        "spdlib.study.cli:add_train",
        "train an experiment; the same command continues an interrupted run",
    ),
    "evaluate": (
        "spdlib.study.cli:add_evaluate",
        "score a run's best weights and the image-free baselines on the test frames",
    ),
    "score": (
        "spdlib.study.cli:add_score",
        "score any network's depth maps or points, from files, by the same protocols",
    ),
    "publish": (
        "spdlib.study.cli:add_publish",
        "copy a run's record, tables and figures without frames to a folder to commit",
    ),
    "equal-terms": (
        "spdlib.view.generations:add_equal_terms",
        "set evaluated runs of several networks side by side, with intervals for every pair",
    ),
    "run": ("spdlib.view.workbook:add_run", "execute a notebook without a browser"),
    "bench": ("spdlib.__main__:add_bench", "run one of the measured comparisons"),
}
"""Name: (function that adds the command's arguments and sets `command`, help)."""

OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
"""What PyTorch's errors say then, on a CPU and on a GPU."""

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser with every command; only the chosen one has its arguments.

    Raises:
        ConfigError: there is no such command.
    """
    parser = argparse.ArgumentParser(
        prog="spdlib", description="Encode an image once, ask the depth of any point."
    )
    parser.add_argument("--version", action="version", version=f"spdlib {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (place, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            pkgutil.resolve_name(place)(command)
    if chosen is not None and chosen not in COMMANDS:
        raise ConfigError(unknown_name("command", chosen, COMMANDS))
    return parser


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bench`."""
    parser.add_argument("name", help="a file of benchmarks/, without .py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="handed to the benchmark")
    parser.set_defaults(command=_bench)


def _bench(arguments: argparse.Namespace) -> None:
    known = sorted(path.stem for path in BENCHMARKS.glob("[!_]*.py"))
    if not known:
        raise ConfigError(f"there are no benchmarks in {BENCHMARKS}; use a checkout of the project")
    if arguments.name not in known:
        raise ConfigError(unknown_name("benchmark", arguments.name, known))
    script = BENCHMARKS / f"{arguments.name}.py"
    sys.argv = [str(script), *arguments.arguments]
    sys.path.insert(0, str(BENCHMARKS.parent))
    runpy.run_path(str(script), run_name="__main__")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    0 is success, 1 a notebook whose cell failed, 2 something to mend in the command, the data or
    the settings (one line on standard error says what). As shells report them: 130 an interruption,
    141 that nobody reads what is printed.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _sigterm_as_ctrl_c():
            chosen = next((word for word in words[:1] if not word.startswith("-")), None)
            parsed = build_parser(chosen).parse_args(words)
            status = int(parsed.command(parsed) or 0)
            if sys.stdout is not None:  # a full disk is heard here, not after the last word
                sys.stdout.flush()
            return status
    except BrokenPipeError:  # as in `spdlib ... | head`: what it prints is no longer read
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (SPDError, OSError, MemoryError) as error:
        _tell(f"error: {' '.join(str(error).split()) or 'out of memory'}")
        return 2
    except RuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        _tell("error: out of memory; choose smaller images, fewer points or a smaller batch")
        return 2
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130


def _tell(line: str) -> None:
    """Print a line to standard error, if anything can be printed there."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """What ends a command on request: it puts its temporaries away first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
