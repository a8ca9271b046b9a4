"""Your own networks, objectives and protocols, from files outside the package.

The environment variable SPD_PLUGINS names Python files (several with the system's path separator).
They are imported once, before anything is looked up by name, and register what they define. So
`train`, `evaluate`, `load` and the notebooks know your network without a change to the package.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from spdlib.errors import ConfigError, SPDError, unknown_name

VARIABLE = "SPD_PLUGINS"
_imported: set[Path] = set()

Kind = TypeVar("Kind")
Entry = TypeVar("Entry", bound=Any)


class Registry(dict[str, Kind]):
    """Classes by the name that they were registered under.

    Args:
        what: what a name stands for, in error messages.
        error: what is raised when a name is taken or unknown.
    """

    def __init__(self, what: str, error: type[SPDError] = ConfigError) -> None:
        super().__init__()
        self.what, self.error = what, error

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Class decorator that makes a class known by a name, its attribute `name`; see `enter`."""

        def named(cls: Entry) -> Entry:
            self.enter(name, cls)
            cls.name = name
            return cls

        return named

    def enter(self, name: str, cls: Any) -> None:
        """Make a class known by a name; `error` if another class has this name.

        A class that is defined again, as when a notebook's cell runs twice, takes its own place.
        """
        known: Any = self.get(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise self.error(
                f"{self.what} {name!r} is registered already, by {known.__qualname__}; choose "
                f"another name for {cls.__qualname__}"
            )
        self[name] = cls

    def find(self, name: str) -> Kind:
        """What was registered under a name, also by a plugin; `error` if nothing was."""
        import_plugins()
        if not isinstance(name, str) or name not in self:
            raise self.error(unknown_name(self.what, name, self, plugin_hint()))
        return self[name]


def plugin_hint() -> str:
    """What an error about an unknown name adds while no plugin is named."""
    return "" if os.environ.get(VARIABLE) else f" (if it is your own, name its file in {VARIABLE})"


def import_plugins() -> None:
    """Import the files that the environment names, each once.

    Raises:
        ConfigError: a file is missing or fails when it is imported.
    """
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        path = Path(os.path.realpath(name))  # which, unlike Path, takes any name
        if path not in _imported:
            _imported.add(path)  # before the import, which may look something up
            try:
                _import(path)
            except ConfigError:
                _imported.discard(path)  # it may be mended and tried again
                raise


def _import(path: Path) -> None:
    name = f"spd_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise ConfigError(f"{VARIABLE} names {path}, which is no Python file; correct the path")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            f"{path}, named by {VARIABLE}, fails when it is imported: {error!r}"
        ) from error
