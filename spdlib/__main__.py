"""The command line: `python -m spdlib COMMAND`, from data and training to notebooks.

Each sub-command lives in the module that owns its work; this one only gathers them and turns
errors that a user can mend into one line.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from spdlib.data import cli as data_cli
from spdlib.errors import ConfigError, SPDError, did_you_mean
from spdlib.study import cli as study_cli
from spdlib.view import generations, workbook

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
INTERRUPTED = 130
"""What a shell reports for a program ended by Ctrl-C."""


def build_parser() -> argparse.ArgumentParser:
    """The parser with every sub-command."""
    parser = argparse.ArgumentParser(
        prog="python -m spdlib",
        description="Sparse-query depth: encode an image once, ask the depth of any point.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for owner in (data_cli, study_cli, generations, workbook):
        owner.add_parser(commands)
    _add_bench(commands)
    return parser


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("bench", help="run one of the measured comparisons")
    parser.add_argument("name", help="a file of benchmarks/, without .py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="handed to the benchmark")
    parser.set_defaults(command=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    known = sorted(path.stem for path in BENCHMARKS.glob("[!_]*.py"))
    if arguments.name not in known:
        raise ConfigError(_unknown_benchmark(arguments.name, known))
    script = BENCHMARKS / f"{arguments.name}.py"
    sys.argv = [str(script), *arguments.arguments]
    sys.path.insert(0, str(BENCHMARKS.parent))
    runpy.run_path(str(script), run_name="__main__")
    return 0


def _unknown_benchmark(name: str, known: list[str]) -> str:
    if not known:
        return "there is no benchmarks/ folder beside the package; use a checkout of the project"
    return f"unknown benchmark {name!r}; {did_you_mean(name, known)}There are: {', '.join(known)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command and return its exit status.

    0 is success, 1 a notebook whose cell failed, 2 something to mend in the command, the data or
    the settings (one line on standard error says what), 130 an interruption.
    """
    try:
        parsed = build_parser().parse_args(arguments)
        return int(parsed.command(parsed) or 0)
    except SPDError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
