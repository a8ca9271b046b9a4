"""The strict notebook runner, on notebooks written here and executed for real."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from spdlib.__main__ import main
from spdlib.errors import ConfigError, RunError
from spdlib.view.workbook import (
    LineLog,
    NotebookError,
    notebook_parameters,
    parse_parameters,
    run_notebook,
)

PARAMETERS = """\
name = "room"    # a text
steps = 3
rate: float = 1e-3
limit: 'Optional[int]' = None
sizes = [96, 128]
fast = True
"""


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "P"}
    if parameters is not None:
        cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        notebook.cells.append(cell)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(notebook, str(path))
    return path


def outputs(path: Path, kind: str) -> list[Any]:
    cells = nbformat.read(str(path), as_version=4).cells
    return [o for c in cells if c.cell_type == "code" for o in c.outputs if o.output_type == kind]


def printed(path: Path) -> str:
    return "".join(output.text for output in outputs(path, "stream"))


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write_notebook(
        tmp_path / "tiny.ipynb",
        "import sys\nprint(sys.executable)",
        "for step in range(steps):\n    print(name, step, flush=True)\nrate, limit, sizes",
    )


def test_parameters_are_read_with_their_defaults(notebook: Path) -> None:
    assert notebook_parameters(notebook) == {
        "name": "room",
        "steps": 3,
        "rate": 1e-3,
        "limit": None,
        "sizes": [96, 128],
        "fast": True,
    }


def test_a_computed_default_takes_every_kind(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", parameters="import os\nseed = os.getpid()")
    assert notebook_parameters(path) == {"seed": None}
    assert parse_parameters(path, [("seed", "4")], {"seed": None}) == {"seed": 4}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("None", None),
        ("null", None),
        ("true", True),
        ("[240, 320]", [240, 320]),
        ("'quoted'", "quoted"),
        ("vit_small", "vit_small"),
        ("a b", "a b"),
        ("/data/nyu.h5", "/data/nyu.h5"),
        ("", ""),
    ],
)
def test_values_are_literals_or_text(text: str, value: Any) -> None:
    assert parse_parameters("n.ipynb", [("any", text)], {"any": None}) == {"any": value}


def test_values_take_the_kind_of_their_default(notebook: Path) -> None:
    known = notebook_parameters(notebook)
    given = [("name", "007"), ("steps", "2e3"), ("rate", "1"), ("limit", "5"), ("fast", "false")]
    values = parse_parameters(notebook, given, known)
    assert values == {"name": "007", "steps": 2000, "rate": 1.0, "limit": 5, "fast": False}
    assert [type(value) for value in values.values()] == [str, int, float, int, bool]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [("stepz", "4")],
            r"unknown parameter 'stepz'; did you mean 'steps'\?",
        ),
        ([("zzz", "4")], "unknown parameter 'zzz'; known: name, steps"),
        ([("steps", "many")], "'steps' takes int .default 3., not 'many'"),
        ([("steps", "2.5")], "'steps' takes int"),
        ([("fast", "1")], "'fast' takes bool"),
        ([("steps", "1"), ("steps", "2")], "'steps' is given twice"),
    ],
)
def test_bad_parameters_are_refused(
    notebook: Path, given: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_parameters(notebook, given, notebook_parameters(notebook))
    assert str(notebook) in str(caught.value)


def test_parameters_of_a_notebook_without_such_a_cell_are_refused(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", "print(1)", parameters=None)
    with pytest.raises(ConfigError, match="no cell tagged 'parameters'"):
        run_notebook(path, {"steps": 1}, tmp_path / "out.ipynb")


def test_an_unknown_parameter_starts_nothing(
    notebook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "out.ipynb"
    assert main(["run", str(notebook), "-p", "stepz", "4", "-o", str(output)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "did you mean 'steps'?" in error
    assert not output.parent.exists()


def test_a_notebook_runs_with_its_parameters(
    notebook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    before = notebook.read_bytes()
    output = tmp_path / "odd {name}" / "out.ipynb"
    command = ["run", str(notebook), "-p", "name", "hall", "-p", "steps", "2"]
    assert main([*command, "-o", str(output), "--html"]) == 0
    assert notebook.read_bytes() == before
    # the running interpreter, and one stream for what was printed piece by piece
    assert printed(output).splitlines() == [sys.executable, "hall 0", "hall 1"]
    assert len(outputs(output, "stream")) == 2
    assert outputs(output, "execute_result")[0].data["text/plain"] == "(0.001, None, [96, 128])"
    page = output.with_suffix(".html").read_text()
    assert "hall 1" in page
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.html", "out.ipynb"]
    log = capsys.readouterr().out.splitlines()
    assert log[:3] == [sys.executable, "hall 0", "hall 1"]
    assert log[-1].startswith("executed in ") and str(output) in log[-1]


def test_figures_survive_the_shells_choice_of_backend(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    cell = "import matplotlib.pyplot as plt\n_ = plt.plot([0, 1])"
    output = run_notebook(write_notebook(tmp_path / "n.ipynb", cell), output=tmp_path / "o.ipynb")
    assert "image/png" in outputs(output, "display_data")[0].data


def test_plain_papermill_runs_the_same_notebook(notebook: Path, tmp_path: Path) -> None:
    output = tmp_path / "plain.ipynb"
    papermill.execute_notebook(str(notebook), str(output), {"steps": 1}, progress_bar=False)
    assert "room 0\n" in printed(output)


def test_a_failing_cell_is_shown_and_the_previous_output_survives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_notebook(
        tmp_path / "n.ipynb", "print('so far')", "depth = 3\nraise OSError('no depth: ' + name)"
    )
    output = tmp_path / "out.ipynb"
    output.write_text("previous")
    assert main(["run", str(path), "-o", str(output)]) == 1
    captured = capsys.readouterr()
    assert "so far" in captured.out
    assert "raise OSError('no depth: ' + name)" in captured.err
    assert captured.err.splitlines()[-1].endswith("failed with OSError: no depth: room")
    assert "\x1b" not in captured.err
    assert output.read_text() == "previous"
    assert "so far" in printed(tmp_path / "out.failed.ipynb")
    assert not list(tmp_path.glob(".*partial*"))


def test_a_failed_notebook_is_kept_as_it_ran_and_is_not_run_over_itself(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", "text = 'as a whole: fine'", "1 / 0")
    with pytest.raises(NotebookError):
        run_notebook(path, output=tmp_path / "out.ipynb", log=io.StringIO())
    failed = tmp_path / "out.failed.ipynb"
    kept = nbformat.read(str(failed), as_version=4)
    assert any(cell.source == "text = 'as a whole: fine'" for cell in kept.cells)
    assert kept.metadata.papermill["output_path"].endswith(".out.partial.ipynb")
    before = failed.read_bytes()
    with pytest.raises(ConfigError, match=r"out\.failed\.ipynb: is what a failed run left"):
        run_notebook(failed, output=tmp_path / "out.ipynb", log=io.StringIO())
    assert failed.read_bytes() == before


def test_a_kernel_that_dies_is_an_error(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", "import os, signal\nos.kill(os.getpid(), 9)")
    with pytest.raises(NotebookError, match="kernel died"):
        run_notebook(path, output=tmp_path / "out.ipynb")


CELL: dict[str, Any] = {
    "cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None,
}  # fmt: skip
"""Of a notebook, without source."""


def notebook_json(**changes: Any) -> str:
    head = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [{**CELL, "source": ""}]}
    return json.dumps({**head, **changes})


def no_notebooks() -> dict[str, str | bytes]:
    return {
        "empty": "",
        "cut": "{",
        "binary": bytes(range(128, 256)),
        "a list": "[]",
        "another dict": '{"cells": 3}',
        "a cell that is a number": notebook_json(cells=[3]),
        "a cell without source": notebook_json(cells=[CELL]),
        "of the future": notebook_json(nbformat=99),
        "5,000 digits": notebook_json(nbformat_minor=7).replace("7", "7" * 5000),
        "deep": "[" * 100_000 + "]" * 100_000,
    }


@pytest.mark.parametrize("kind", no_notebooks())
def test_unreadable_notebooks_are_refused(tmp_path: Path, kind: str) -> None:
    path, content = tmp_path / "n.ipynb", no_notebooks()[kind]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = rf"^{path}: not a readable notebook \(.+\); save it again in Jupyter$"
    with pytest.raises(ConfigError, match=message) as caught:
        run_notebook(path, output=tmp_path / "out.ipynb")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file; check"),
        (Path.mkdir, "is a folder"),
        (os.mkfifo, "is a pipe"),
    ],
)
def test_what_is_no_file_is_no_notebook(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "n.ipynb")
    with pytest.raises(ConfigError, match=rf"n\.ipynb: {message}"):
        run_notebook(tmp_path / "n.ipynb", output=tmp_path / "out.ipynb")


def test_a_notebook_may_lie_under_braces(tmp_path: Path) -> None:
    """papermill fills in names in braces where it is given a path to execute."""
    folder = tmp_path / "{name}"
    folder.mkdir()
    path = write_notebook(folder / "n.ipynb", "print(name)")
    assert printed(run_notebook(path, {"name": "hall"}, tmp_path / "o.ipynb")) == "hall\n"


def test_numbers_that_the_default_cannot_hold_are_refused() -> None:
    known: dict[str, Any] = {"steps": 3, "rate": 1e-3}
    for name, value in (("steps", "1e999"), ("rate", "1" + 400 * "0")):
        with pytest.raises(ConfigError, match=f"{name!r} takes"):
            parse_parameters("n.ipynb", [(name, value)], known)


def run_with_files_up_to(size: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command `run`, whose files cannot grow beyond so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    return subprocess.run(
        [sys.executable, "-m", "spdlib", "run", *map(str, words)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        timeout=120,
    )


def test_a_full_disk_keeps_the_cells_that_ran(tmp_path: Path) -> None:
    cells = "print('so far')", "print(1000 * 'more than the disk holds')", "print('not reached')"
    path = write_notebook(tmp_path / "n.ipynb", *cells, parameters=None)
    output, failed = tmp_path / "out.ipynb", tmp_path / "out.failed.ipynb"
    output.write_text("previous")
    done = run_with_files_up_to(5_000, path, "-o", output)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path}/.out.partial.ipynb: File too large; ")
    assert line.endswith(f"start the same command again; the cells so far are in {failed}")
    assert printed(failed) == "so far\n"
    assert output.read_text() == "previous"
    run_notebook(path, output=output, log=io.StringIO())
    assert "not reached" in printed(output)
    assert sorted(tmp_path.iterdir()) == [path, output]


def test_a_full_disk_under_the_page_keeps_the_notebook(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", "print('small')", parameters=None)
    done = run_with_files_up_to(50_000, path, "-o", tmp_path / "out.ipynb", "--html")
    assert done.returncode == 2, done.stderr
    assert f"error: cannot write {tmp_path}/out.html: File too large; nothing" in done.stderr
    assert printed(tmp_path / "out.ipynb") == "small\n"
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "out.ipynb"]


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", "import shutil\nshutil.rmtree(name)", "print('on')")
    output = tmp_path / "out" / "o.ipynb"
    run_notebook(path, {"name": str(output.parent)}, output, log=io.StringIO())
    assert printed(output) == "on\n"


def test_a_folder_that_turns_into_a_file_is_an_error(tmp_path: Path) -> None:
    cell = "import shutil, pathlib\nshutil.rmtree(name)\npathlib.Path(name).touch()"
    path = write_notebook(tmp_path / "n.ipynb", cell)
    output = tmp_path / "out" / "o.ipynb"
    with pytest.raises(RunError, match=r"cannot write .*nothing was written.*same command again$"):
        run_notebook(path, {"name": str(output.parent)}, output, log=io.StringIO())


def test_a_log_that_cannot_be_written_is_an_error(notebook: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    output = tmp_path / "out.ipynb"
    with suppress(OSError), Path("/dev/full").open("w", buffering=1) as log:
        message = (
            r"tiny\.ipynb: cannot go on \(.*No space left.*free disk space.*out\.failed\.ipynb$"
        )
        with pytest.raises(RunError, match=message):
            run_notebook(notebook, output=output, log=log)
    assert not output.exists()


def test_outputs_that_cannot_be_are_refused(notebook: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="notebook itself"):
        run_notebook(notebook, output=notebook)
    with pytest.raises(ConfigError, match=r"must end in \.ipynb"):
        run_notebook(notebook, output=tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        run_notebook(notebook, output=tmp_path / "file" / "out.ipynb")


def test_the_command_line_ends_with_the_status_of_the_run(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", "raise SystemExit(3)")
    command = [sys.executable, "-m", "spdlib", "run", str(path), "-o", str(tmp_path / "o.ipynb")]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert "SystemExit: 3" in done.stderr


def test_a_redrawn_line_is_logged_once() -> None:
    stream = io.StringIO()
    log = LineLog(stream)
    for piece in ("epoch", " 1\n", "\r10%", "\r50%\r", "\r100%\n", "\n", "end\r"):
        log.write(piece)
    assert stream.getvalue() == "epoch 1\n100%\n"
    log.close()
    assert stream.getvalue() == "epoch 1\n100%\nend\n"


def test_outputs_that_no_notebook_can_hold_are_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "from IPython.display import display\ndisplay({'text/plain': 5}, raw=True)"
    path = write_notebook(tmp_path / "n.ipynb", source, parameters=None)
    assert main(["run", str(path), "-o", str(tmp_path / "out.ipynb"), "--html"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: a cell shows what no notebook can hold (5 is not valid")
    assert (tmp_path / "out.failed.ipynb").is_file()


def test_outputs_that_make_no_page_keep_the_notebook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise nbformat.ValidationError("5 is not valid\nunder any schema")

    monkeypatch.setattr("nbconvert.HTMLExporter.from_filename", refused)
    path, output = write_notebook(tmp_path / "n.ipynb", "1"), tmp_path / "out.ipynb"
    assert main(["run", str(path), "-o", str(output), "--html"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {output}: cannot be made a page (5 is not valid under any sche")
    assert output.is_file()
