"""SPD: metric depth at the pixels you ask for.

An encoder runs once per RGB image; a light decoder then answers depth queries at points (u, v),
in metres.
"""

import os

# GNU OpenMP reads it when PyTorch is loaded, so it helps only those who import spdlib first (the
# command line, and the notebooks that it runs). By default threads spin for milliseconds when they
# wait, which takes the cores from whatever else is busy, another thread of the same step included.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from spdlib.errors import SPDError
from spdlib.geometry import NYU_CAMERA, Camera, GridRule
from spdlib.models import EncoderConfig, create_model, list_models, load
from spdlib.scene import Scene
from spdlib.version import __version__

__all__ = [
    "NYU_CAMERA", "Camera", "EncoderConfig", "GridRule", "SPDError", "Scene", "__version__",
    "create_model", "list_models", "load",
]  # fmt: skip
