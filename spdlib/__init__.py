"""SPD: metric depth at the pixels you ask for.

An encoder runs once per RGB image; a light decoder then answers depth queries at points (u, v),
in metres.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spdlib.errors import SPDError
from spdlib.version import __version__

if TYPE_CHECKING:
    from spdlib.geometry import NYU_CAMERA, Camera, GridRule
    from spdlib.models import DepthModel, EncoderConfig, create_model, list_models, load
    from spdlib.scene import Scene
    from spdlib.view.session import Study, open_study

# GNU OpenMP reads it when PyTorch is loaded, so it helps only those who import spdlib first (the
# command line, and the notebooks that it runs). By default threads spin for milliseconds when they
# wait, which takes the cores from whatever else is busy, another thread of the same step included.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

_MODULES = {
    "geometry": ("NYU_CAMERA", "Camera", "GridRule"),
    "models": ("DepthModel", "EncoderConfig", "create_model", "list_models", "load"),
    "scene": ("Scene",),
    "view.session": ("Study", "open_study"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "NYU_CAMERA",
    "Camera",
    "DepthModel",
    "EncoderConfig",
    "GridRule",
    "SPDError",
    "Scene",
    "Study",
    "__version__",
    "create_model",
    "list_models",
    "load",
    "open_study",
]


if not TYPE_CHECKING:  # a type checker reads the imports above, and refuses unknown names

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used: PyTorch takes seconds to load."""
        if name in _MODULES:
            return import_module(f"spdlib.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'spdlib' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"spdlib.{_HOMES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
