"""Runs a notebook from the command line: `spdlib run NOTEBOOK -p name value`.

papermill does the work, and runs the same notebooks by itself. Added is what a long headless run
needs: unknown parameters and values of the wrong kind are refused before anything starts, progress
bars become single lines, the kernel is the interpreter that runs the command, and the output file
only ever holds a complete run.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TextIO

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from papermill.inspection import _infer_parameters
from papermill.iorw import LocalHandler, load_notebook_node, papermill_io
from traitlets import default

from spdlib.disk import DEFAULT_ROOT, write_bytes
from spdlib.errors import ConfigError, RunError, unknown_name
from spdlib.reading import LARGEST_TEXT, reading, reason, regular_file
from spdlib.settings import shown

TRACEBACK_LINES = 12
_WHOLE = "whole:"
"""Before a path: papermill writes it by `WholeFiles`."""
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class NotebookError(RunError):
    """A cell of the notebook failed; `report` shows the cell and its traceback's last lines."""

    def __init__(self, message: str, report: str = "") -> None:
        super().__init__(message)
        self.report = report


class RunningInterpreter(AsyncKernelManager):
    """Starts the kernel in the interpreter that runs this process.

    Kernels registered under the same name are not looked at, and the shell's choice of a matplotlib
    backend does not swallow the figures.
    """

    @default("kernel_spec_manager")
    def _only_this_interpreter(self) -> KernelSpecManager:
        return KernelSpecManager(parent=self, kernel_dirs=[])

    def start_kernel(self, *positional: Any, **options: Any) -> Any:
        """Start the kernel with inline figures; arguments and awaitable as in the base class."""
        environment = dict(options.pop("env", None) or os.environ)
        environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        # the debugger's remark about frozen modules says nothing to a reader of the log
        environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        # nor do its warnings about the loopback connection; errors of cells arrive as outputs
        arguments = [*options.pop("extra_arguments", []), "--IPKernelApp.log_level=CRITICAL"]
        options |= {"env": environment, "extra_arguments": arguments}
        return super().start_kernel(*positional, **options)


class WholeFiles(LocalHandler):
    """Lets papermill save a notebook by rename: what it saved before survives a full disk."""

    def write(self, text: str, path: str) -> None:
        """Write a notebook's JSON; RunError where that fails."""
        path, notebook = path.removeprefix(_WHOLE), json.loads(text)
        notebook["metadata"]["papermill"]["output_path"] = path
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        write_bytes(path, text.encode(), RunError)


papermill_io.register(_WHOLE, WholeFiles())


class LineLog:
    """Writes whole lines to a stream; of a line that was redrawn only its last state.

    A progress bar redraws itself with carriage returns, which would fill a log. It becomes one
    line when it ends.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._open_line = ""

    def write(self, text: str) -> None:
        """Take any piece of text."""
        *lines, self._open_line = (self._open_line + text).split("\n")
        for line in lines:
            state = line.rstrip("\r").rpartition("\r")[2]
            if state.strip():
                self.stream.write(state + "\n")

    def flush(self) -> None:
        """Flush the stream; an unfinished line waits for its end."""
        self.stream.flush()

    def close(self) -> None:
        """End an unfinished line; the stream stays open."""
        self.write("\n")
        self.flush()


def notebook_parameters(notebook: str | Path) -> dict[str, Any]:
    """Names and defaults in the cell tagged `parameters`, in order.

    papermill reads its lines `name = value`, also `name: Optional[int] = value`. A computed default
    is None here and takes values of every kind.

    ConfigError: the file is missing or no notebook.
    """
    path = regular_file(notebook, ConfigError, LARGEST_TEXT)
    with reading(notebook, "not a readable notebook", "save it again in Jupyter", ConfigError):
        node = load_notebook_node(str(path))
        nbformat.validate(node)
        for part in (node, *node.cells):  # papermill writes into it, and no schema knows it
            if not isinstance(part.metadata.papermill, dict):
                raise ValueError(f"metadata.papermill is {part.metadata.papermill!r}")
        nbformat.writes(node).encode()  # half of a surrogate pair is no text
        # not `inspect_notebook`, which refuses notebooks that name no kernel; ours is always Python
        found = _infer_parameters(node, name="python3", language="python")
    return {each.name: _literal(each.default, None) for each in found}


def _first_line(text: object) -> str:
    return (str(text).strip().splitlines() or [""])[0]


def _literal(text: str, other: Any) -> Any:
    """A Python literal (`1e-3`, `None`, `[1, 2]`) or a JSON one (`true`), or else `other`."""
    for read in (ast.literal_eval, json.loads):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return read(text.strip())
    return other


def parse_parameters(
    notebook: str | Path, given: Iterable[tuple[str, str]], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Values for a notebook's parameters, `known` with their defaults, from given (name, text).

    A text is a Python or JSON literal, or else a string.

    ConfigError: an unknown or repeated name, or a value of another kind than the default.
    """
    values: dict[str, Any] = {}
    for name, text in given:
        if name in values:
            raise ConfigError(f"{notebook}: parameter {name!r} is given twice; give it once")
        value = _literal(text, text)
        # "007" is a text where the default is one; None still means that nothing is given
        values[name] = text if isinstance(known.get(name), str) and value is not None else value
    return check_parameters(notebook, values, known)


def check_parameters(
    notebook: str | Path, values: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """The values, each made the kind of its default; see `parse_parameters` for the errors."""
    for name in values:
        if not known:
            raise ConfigError(f"{notebook}: has no cell tagged 'parameters' to set {name!r} in")
        if name not in known:
            raise ConfigError(f"{notebook}: {unknown_name('parameter', name, known)}")
    for name, value in values.items():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{notebook}: parameter {name!r} takes text in UTF-8, numbers, lists and what else "
                f"JSON holds, not {shown(value)} ({reason(error)})"
            ) from None
    return {name: _of_kind(notebook, name, value, known[name]) for name, value in values.items()}


def _of_kind(notebook: str | Path, name: str, value: Any, default: Any) -> Any:
    """The value as its default's kind; ConfigError where it is of another kind."""
    kind = type(default)
    if value is None or default is None or type(value) is kind:
        return value
    kinds = {type(value), kind}
    with contextlib.suppress(ValueError, OverflowError):  # infinity, or what no float holds
        if kinds == {list, tuple} or (kinds == {int, float} and kind(value) == value):
            return kind(value)
    raise ConfigError(
        f"{notebook}: parameter {name!r} takes {kind.__name__} (default {default!r}), not {value!r}"
    )


def run_notebook(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    html: bool = False,
    log: TextIO | None = None,
) -> Path:
    """Execute a notebook in a kernel of the running interpreter; returns the output's path.

    The output, by default under `results/runs/`, replaces an earlier one only when every cell has
    run. Of a failed run the cells saved so far lie beside it, as `NAME.failed.ipynb`. `parameters`
    are values for names in the cell tagged `parameters`, `html` also writes a page beside the
    output, and the log takes what the cells print, line by line; by default it is standard error.

    ConfigError: a parameter or path that cannot be used; nothing has run.
    NotebookError: a cell failed or the kernel died.
    RunError: the output cannot be written, for example on a full disk.
    """
    notebook = Path(notebook)
    values = check_parameters(notebook, parameters or {}, notebook_parameters(notebook))
    output = _usable_output(notebook, Path(output or DEFAULT_ROOT / notebook.name))
    failed = _failed(output)
    partial = output.with_name(f".{output.stem}.partial.ipynb")
    with _cells_kept(partial, failed):
        executed = _execute(notebook, partial, values, log or sys.stderr)
        executed.metadata.papermill["output_path"] = str(output)
        write_bytes(output, nbformat.writes(executed).encode(), RunError)
    failed.unlink(missing_ok=True)
    if html:
        from nbconvert import HTMLExporter  # takes a second to import and few runs ask for a page

        remedy = "the notebook is whole; correct what its cells show, or leave --html out"
        with reading(output, "cannot be made a page", remedy, RunError):
            page = HTMLExporter().from_filename(str(output))[0].encode()
        write_bytes(output.with_suffix(".html"), page, RunError)
    return output


@contextlib.contextmanager
def _cells_kept(partial: Path, failed: Path) -> Iterator[None]:
    """Renames the saved cells to `failed` where the block ends badly; a full disk allows that."""
    try:
        yield
    except (RunError, KeyboardInterrupt) as failure:
        with contextlib.suppress(OSError):  # nothing was saved, or the folder is gone
            partial.replace(failed)
            if not isinstance(failure, (NotebookError, KeyboardInterrupt)):
                raise RunError(f"{failure}; the cells so far are in {failed}") from failure
        raise
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _failed(output: Path) -> Path:
    """Where the cells of a failed run are kept."""
    return output.with_name(f"{output.stem}.failed.ipynb")


def _usable_output(notebook: Path, output: Path) -> Path:
    """The output path, its folder made and tried; refuses to overwrite the notebook itself."""
    for path in (notebook, output):  # both are written into the output
        with reading(path, "is no name in UTF-8", "choose another", ConfigError):
            str(path).encode()
    if output.suffix != ".ipynb":
        raise ConfigError(f"{output}: the executed notebook's name must end in .ipynb")
    if output.exists() and output.samefile(notebook):
        raise ConfigError(f"{output}: is the notebook itself; choose another output with -o")
    if (failed := _failed(output)).exists() and failed.samefile(notebook):
        raise ConfigError(
            f"{notebook}: is what a failed run left, and this one would replace or remove it; "
            "rename it, or choose another output with -o"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise RunError(
            f"{output.parent}: cannot be written ({error.strerror or error}); "
            "choose another output with -o"
        ) from error
    return output


def _execute(
    notebook: Path, partial: Path, values: dict[str, Any], log: TextIO
) -> nbformat.NotebookNode:
    """The executed notebook; cells are saved to `partial` as they run."""
    try:
        with contextlib.closing(LineLog(log)) as lines:
            return papermill.execute_notebook(
                _literal_path(str(notebook)),
                _literal_path(f"{_WHOLE}{partial}"),
                values,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                stdout_file=lines,
                stderr_file=lines,
                kernel_manager_class=RunningInterpreter,
                coalesce_streams=True,
            )
    except PapermillExecutionError as error:
        raise NotebookError(
            f"{notebook}: cell {error.exec_count} failed with {error.ename}: "
            f"{_first_line(error.evalue)}",
            _failure_report(error),
        ) from error
    except nbformat.ValidationError as error:
        raise NotebookError(
            f"{notebook}: a cell shows what no notebook can hold ({reason(error)}); correct it"
        ) from error
    except RuntimeError as error:
        raise NotebookError(
            f"{notebook}: the kernel died or never answered ({reason(error)}); it may have run out "
            "of memory or been stopped"
        ) from error
    except BrokenPipeError:  # nobody reads the log
        raise
    except OSError as error:  # from the log, or the file through which the kernel is found
        raise RunError(
            f"{notebook}: cannot go on ({reason(error)}); free disk space, then start the same "
            "command again"
        ) from error


def _literal_path(path: str) -> str:
    """The path for papermill, which would fill in `{name}` from the parameters."""
    return path.replace("{", "{{").replace("}", "}}")


def _failure_report(error: PapermillExecutionError) -> str:
    trace = _ANSI.sub("", "\n".join(error.traceback)).splitlines()
    if len(trace) > TRACEBACK_LINES:
        trace = ["...", *trace[-TRACEBACK_LINES:]]
    source = [f"    {line}" for line in error.source.strip().splitlines()]
    return "\n".join([f"In cell {error.exec_count}:", *source, "", *trace])


def add_run(parser: argparse.ArgumentParser) -> None:
    """Arguments of `run`."""
    parser.add_argument("notebook", type=Path, help="the notebook; it is not changed")
    pair: dict[str, Any] = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append"}
    value = "a value for a name in the notebook's parameters cell; may be repeated"
    parser.add_argument("-p", "--parameter", default=[], help=value, **pair)
    where = f"executed notebook (default: under {DEFAULT_ROOT}/)"
    parser.add_argument("-o", "--output", type=Path, help=where)
    parser.add_argument("--html", action="store_true", help="also write a page beside it")
    parser.set_defaults(command=_command)


def _command(arguments: argparse.Namespace) -> int:
    start = time.monotonic()
    known = notebook_parameters(arguments.notebook)
    values = parse_parameters(arguments.notebook, arguments.parameter, known)
    try:
        output = run_notebook(
            arguments.notebook, values, arguments.output, html=arguments.html, log=sys.stdout
        )
    except NotebookError as error:
        if error.report:
            print(error.report, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return 1
    files = [output, output.with_suffix(".html")] if arguments.html else [output]
    print(f"executed in {time.monotonic() - start:.0f} s: {' and '.join(map(str, files))}")
    return 0
