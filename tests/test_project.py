"""Rules of the house that no single module can keep: imports, notebooks, files, pinned versions."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from spdlib.faults import FAULTS, recorded_values, table
from spdlib.models import EncoderConfig, list_models, network_class, words
from spdlib.study.config import DataConfig, ObjectiveConfig
from spdlib.view.workbook import notebook_parameters

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "spdlib"
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

GROUND = {"disk", "errors", "faults", "geometry", "inspection", "machine", "plugins", "scene"}
GROUND |= {"pictures", "reading", "sealed", "settings"}

# whom each room of the package may import, besides itself; "" is the package's own __init__
MAY_IMPORT = {
    "errors": set[str](),
    "version": set[str](),
    "disk": {"errors"},
    "machine": {"errors"},
    "settings": {"errors"},
    "geometry": {"errors"},
    "faults": set[str](),
    "reading": {"errors"},
    "sealed": {"errors", "reading"},
    "pictures": {"errors", "reading"},
    "inspection": set[str](),
    "scene": {"disk", "errors", "geometry", "inspection", "reading", "sealed"},
    "plugins": {"errors"},
    "models": {
        *("disk", "errors", "geometry", "inspection", "pictures", "plugins", "reading", "scene"),
        "sealed",
        "settings",
    },
    "data": {"disk", "errors", "geometry", "pictures", "reading", "settings", "version"},
    "": {"errors", "geometry", "scene", "models", "version", "view"},  # each when it is asked for
    "study": {*GROUND, "models", "data"},
    "view": {*GROUND, "models", "data", "study"},
    "__main__": {"errors", "version"},  # a command imports its module when it is chosen
}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(path: Path) -> set[str]:
    """The modules of the package that a file imports, also inside functions and for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the module's full name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = names & MODULES.keys()
            found |= submodules
            if names - submodules:
                found.add(str(node.module))
    return {name for name in found if name.split(".")[0] == "spdlib"}


def room(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    home = room(module)
    assert home in MAY_IMPORT, f"spdlib/{home} is a new room: say in MAY_IMPORT whom it may import"
    allowed = MAY_IMPORT[home] | ({home} if home else set())
    against = [m for m in imported_modules(MODULES[module]) if room(m) not in allowed]
    assert not against, f"{module} must not import {against}"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: imported_modules(path) - {module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle of imports: {' <- '.join(error.args[1])}")


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions and classes with their dotted names, methods included."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree), f"{module} needs a docstring"
    bare = [name for name, node in public_definitions(tree.body) if not ast.get_docstring(node)]
    assert not bare, f"{module}: no docstring on {bare}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_are_clean(notebook: Path) -> None:
    for cell in nbformat.read(str(notebook), as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs, f"outputs in: {cell.source[:60]}"
            assert cell.execution_count is None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_of_a_notebook_is_read(notebook: Path) -> None:
    """papermill passes over lines that it cannot read, for instance `a: int | None = None`."""
    cells = nbformat.read(str(notebook), as_version=4).cells
    (source,) = (c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    known = notebook_parameters(notebook)
    assert len(known) == source.count("=") and "profile" in known


def own_files() -> list[Path]:
    """Files of the checkout that are tracked or would be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [REPOSITORY / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


# spelt in pieces, so that this file does not name what it forbids
FORBIDDEN = re.compile(
    "|".join(
        [
            r"py" r"pi\.org",
            r"python" r"hosted",
            r"npm" r"js\.(org|com)",
            r"deb\." r"debian",
            r"conda\." r"anaconda",
            r"/" r"(home|root|work|Users)/\w",
        ]
    )
)


def test_no_file_names_a_registry_or_a_place_on_one_machine() -> None:
    found = []
    for path in own_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or weights
        found += [f"{path.name}: {hit.group()}" for hit in FORBIDDEN.finditer(text)]
    assert not found


FAULT = r"\bF\d{1,2}[a-d]?\b"


def test_every_fault_that_is_cited_is_explained() -> None:
    explained = [fault.code for fault in FAULTS]
    assert len(explained) == len(set(explained))
    assert table() in (REPOSITORY / "docs" / "faults.md").read_text()
    told = [*PACKAGE.rglob("*.py"), *NOTEBOOKS, REPOSITORY / "README.md"]
    cited = {code for path in told for code in re.findall(FAULT, path.read_text())}
    assert len(cited) > 10
    assert cited <= set(explained), sorted(cited - set(explained))


def test_faults_are_off_by_default_and_switched_on_as_described() -> None:
    allowed = {"input_norm": words(EncoderConfig)["input_norm"]}
    for kind in (DataConfig, ObjectiveConfig):
        allowed |= words(kind)
    for name in list_models():
        allowed |= words(network_class(name).Options)
    for fault in FAULTS:
        assert not fault.option or allowed[fault.option] == (fault.off, fault.recorded), fault
    assert recorded_values(["grid_rule", "init"]) == {"grid_rule": "recorded"}


GENERATIONS = (
    r"(?<![A-Za-z0-9])[vV]1[345]|l[34]_(routed|weights)|b3[ab]?_(keys|values)|s8_L2"
    r"|canvas_(write|change)_"
)


def test_no_generation_is_named_outside_models_and_experiments() -> None:
    """Nor in docstrings. The table of faults may: it says which network had what."""
    found = []
    for module, path in MODULES.items():
        if room(module) == "models" or module.endswith((".experiments", ".faults")):
            continue
        found += [
            f"{module}: {hit}" for hit in names_and_texts(path) if re.search(GENERATIONS, hit)
        ]
    assert not found


def names_and_texts(path: Path) -> Iterator[str]:
    """Identifiers, imported modules and texts of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.alias):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif isinstance(node, ast.Constant):
            yield str(node.value)


def test_no_file_is_large() -> None:
    assert [path.name for path in own_files() if path.stat().st_size > 6 * 2**20] == []


def constraints() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin), f"not name==version: {pin!r}"
    return dict(pin.split("==") for pin in pins)


def resolved_dependencies() -> set[str]:
    """Names of everything that the package and its extras need, as far as it is installed."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    texts = [*project["dependencies"], *(text for extra in extras for text in extra)]
    waiting = [Requirement(text) for text in texts]
    seen: dict[str, set[str]] = {}
    while waiting:
        needed = waiting.pop()
        name = canonicalize_name(needed.name)
        if name in seen and needed.extras <= seen[name]:
            continue
        seen[name] = seen.get(name, set()) | needed.extras
        waiting += list(_requirements_of(name, seen[name]))
    return set(seen)


def _requirements_of(name: str, extras: set[str]) -> Iterator[Requirement]:
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return  # of an extra that is not installed here
    for needed in map(Requirement, texts):
        environments = [{"extra": extra} for extra in ("", *extras)]
        if needed.marker is None or any(map(needed.marker.evaluate, environments)):
            yield needed


def test_constraints_pin_every_dependency() -> None:
    missing = resolved_dependencies() - constraints().keys()
    assert not missing, f"add to constraints.txt: {sorted(missing)}"


def test_the_package_imports_only_what_it_declares() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared: set[str] = {
        canonicalize_name(Requirement(text).name) for text in project["dependencies"]
    }
    # come with those: image files with torchvision, the rest with papermill and jupyterlab
    declared |= {"pillow", "nbformat", "nbclient", "nbconvert", "jupyter-client", "traitlets"}
    declared |= {"ipython", "tensorboard"}  # tensorboard only on request, with a clear error
    owners = metadata.packages_distributions()
    used = {name for path in MODULES.values() for name in third_party(path)}
    undeclared = {
        name
        for name in used
        if not declared & {canonicalize_name(owner) for owner in owners.get(name, [name])}
    }
    assert not undeclared


def third_party(path: Path) -> Iterator[str]:
    """Top-level names of imports from outside the package and the standard library."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            if top != "spdlib" and top not in sys.stdlib_module_names:
                yield top
