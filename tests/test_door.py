"""What a user meets first: a quick import, the command line, forgiving names."""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import torch

import spdlib
from spdlib import geometry
from spdlib.__main__ import COMMANDS, build_parser, main
from spdlib.data.rooms import Rooms
from spdlib.data.store import pack
from spdlib.errors import ModelError, unknown_name
from spdlib.models import DepthModel, create_model, load, network_class
from spdlib.version import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "timm", "torchvision", "numpy", "pandas", "matplotlib", "papermill", "h5py")


def python(code: str, **environment: str) -> str:
    """What a new interpreter prints."""
    known = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    clean = {key: value for key, value in os.environ.items() if key not in known}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environment,
        cwd=REPOSITORY,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
    )
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import spdlib; dir(spdlib), spdlib.SPDError, spdlib.__version__",
        "from spdlib.__main__ import main; main(['--help'])",
        "from spdlib.__main__ import main; main(['--version'])",
        "from spdlib.__main__ import main; main(['trian'])",
        "from spdlib.__main__ import main; main(['bench', '--help'])",
    ],
)
def test_no_heavy_library_is_imported_before_it_is_needed(code: str) -> None:
    names = "{name.partition('.')[0] for name in sys.modules}"
    report = f"import atexit, sys\natexit.register(lambda: print(*{names}))\n{code}"
    assert set(python(report).splitlines()[-1].split()).isdisjoint(HEAVY)


def test_every_public_name_is_there_and_told() -> None:
    assert set(spdlib.__all__) <= set(dir(spdlib))
    for name in spdlib.__all__:
        assert getattr(spdlib, name) is not None
    assert spdlib.Camera is geometry.Camera
    with pytest.raises(AttributeError, match="no attribute 'Kamera'"):
        getattr(spdlib, "Kamera")  # noqa: B009


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "2000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_waiting_threads_spin_briefly_unless_told_otherwise(
    given: dict[str, str], found: str
) -> None:
    """It is set when PyTorch is about to be loaded, which reads it."""
    code = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            sys.exit()

sys.meta_path.insert(0, Watch())
import spdlib
spdlib.Camera
"""
    assert python(code, **given).strip() == found


def test_help_names_every_command_and_version_is_the_packages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit, match="0"):
            main([option])
    shown = capsys.readouterr().out
    assert set(COMMANDS) <= set(shown.split())
    assert shown.endswith(f"spdlib {__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_arguments_and_work(name: str) -> None:
    place, _ = COMMANDS[name]
    assert callable(pkgutil.resolve_name(place))
    with pytest.raises(SystemExit, match="0"):
        build_parser(name).parse_args([name, "--help"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "error: unknown command 'trian'; did you mean 'train'?"),
        (["Equal_Terms"], "error: unknown command 'Equal_Terms'; did you mean 'equal-terms'?"),
        (["xyz"], "error: unknown command 'xyz'; known: data, train"),
        (["bench", "decodee"], "error: unknown benchmark 'decodee'; did you mean 'decode'?"),
        (["bench", "zzz"], "error: unknown benchmark 'zzz'; known: "),
        (["train", "v15.2"], "error: unknown experiment 'v15.2'; did you mean 'v15_2'?"),
        (["train", "v14_dual"], "error: 'v14_dual' is a network; experiments that train it: exp08"),
        (["train", "v15_2", "--profile", "Smok"], "error: unknown profile 'Smok'; did you mean"),
        (["train", "v15_2", "--set", "network=x"], "error: --set network=... is no setting; use"),
        (["train", "v15_2", "--set", "image_size=96,128"], "error: image_size must be height and"),
        (["train", "v15_2", "--set", "stepz=1"], "error: unknown setting 'stepz'; did you mean"),
    ],
)
def test_a_misspelt_name_gets_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("v15.2", "did you mean 'v15_2'?"),
        ("V15-2", "did you mean 'v15_2'?"),
        (" v15 2 ", "did you mean 'v15_2'?"),
        ("v15_22", "did you mean 'v15_2'?"),
        ("nothing", "known: exp08, v15_2"),
        (None, "known: exp08, v15_2"),
    ],
)
def test_names_are_forgiven_or_listed(name: str | None, ending: str) -> None:
    message = unknown_name("experiment", name, ("exp08", "v15_2"))
    assert message == f"unknown experiment {name!r}; {ending}"


# networks


def started(*words: Any, out: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    """The command line at work in a process of its own."""
    command = [sys.executable, "-m", "spdlib", *map(str, words)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdout=out, stderr=subprocess.PIPE, bufsize=1
    )


def test_output_that_nobody_can_take_is_no_traceback(tmp_path: Path) -> None:
    store = tmp_path / "store.h5"
    pack({"test": Rooms(1, size=(12, 16))}, store)
    with Path("/dev/full").open("w") as full:
        process = started("data", "info", store, out=full)
        assert process.communicate()[1] == "error: [Errno 28] No space left on device\n"
    assert process.returncode == 2
    process = started("data", "info", store)
    assert process.stdout is not None
    process.stdout.close()  # as `| true` does
    assert process.stderr is not None and process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.parametrize("words", ["can't allocate memory: you tried", "CUDA out of memory."])
def test_too_little_memory_is_one_line(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: Any) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr("spdlib.data.cli._info", fail)
    assert main(["data", "info", "x"]) == 2
    assert capsys.readouterr().err == (
        "error: out of memory; choose smaller images, fewer points or a smaller batch\n"
    )


def test_sigterm_ends_a_command_as_ctrl_c_does(tmp_path: Path) -> None:
    """Nothing is left but the cells that ran."""
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("print('begun', flush=True)"),
            nbformat.v4.new_code_cell("import time; time.sleep(100)"),
        ]
    )
    nbformat.write(notebook, tmp_path / "slow.ipynb")
    process = started("run", tmp_path / "slow.ipynb", "-o", tmp_path / "out" / "slow.ipynb")
    assert process.stdout is not None
    assert any("begun" in line for line in process.stdout)
    process.terminate()
    assert process.communicate()[1].endswith("interrupted\n")
    assert process.returncode == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["slow.failed.ipynb"]


def network(name: str = "v15_2", **settings: Any) -> DepthModel:
    return create_model(name, "mobilenetv3_small_050", image_size=(64, 96), **settings)


def test_a_network_says_in_one_line_by_what_it_was_trained(tmp_path: Path) -> None:
    model = network()
    assert repr(model) == "v15_2(mobilenetv3_small_050, 64x96, untrained)"
    model.save(tmp_path)
    assert repr(load(tmp_path)) == repr(model)
    fingerprint = model.fingerprint()
    model.trained = "exp09, 2,000 steps"
    model.save(tmp_path)
    assert repr(load(tmp_path)).endswith(", trained: exp09, 2,000 steps)")
    assert load(tmp_path).fingerprint() == fingerprint
    config = json.loads((tmp_path / "config.json").read_text())
    del config["trained"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(tmp_path).trained == "exp09, 2,000 steps"  # the weights say it


def test_an_untrained_network_warns_once_when_it_is_first_asked() -> None:
    model, image = network().eval(), torch.rand(3, 64, 96)
    scene = model.encode(image)
    with pytest.warns(UserWarning, match="answers from random weights") as caught:
        for _ in range(2):
            scene.depth_at((3, 4))
            model.encode(image).dense(8)
    assert [Path(one.filename).name for one in caught] == ["test_door.py"]


@pytest.mark.filterwarnings("error")
def test_a_trained_network_does_not_warn() -> None:
    model, image = network(), torch.rand(1, 3, 64, 96)
    model.train()(image, torch.zeros(1, 1, 2))
    assert model.trained is not None
    model.encode(image).depth_at([[3, 4]])


def test_a_network_goes_to_the_hub_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub is a folder here: nothing is sent or fetched."""

    class Hub:
        def __init__(self, token: str | None) -> None:
            self.token = token

        def create_repo(self, repo_id: str, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return repo_id

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    model = network().eval()
    model.push_to_hub("someone/rooms")
    files = {path.name for path in (tmp_path / "someone" / "rooms").iterdir()}
    assert {"README.md", "config.json", "model.safetensors"} <= files
    again = DepthModel.from_pretrained(tmp_path / "someone" / "rooms")
    assert type(again) is type(model) and again.fingerprint() == model.fingerprint()
    with pytest.raises(ModelError, match="which is no V131"):
        network_class("v13_1").from_pretrained(str(tmp_path / "someone" / "rooms"))


def test_the_console_script_and_the_types_travel_with_the_package() -> None:
    """Hatchling packs every file under spdlib/."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    script = project["project"]["scripts"]["spdlib"]
    assert pkgutil.resolve_name(script) is main
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["spdlib"]
    assert (REPOSITORY / "spdlib" / "py.typed").is_file()
