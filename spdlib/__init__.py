"""SPD: metric depth at the pixels you ask for.

An encoder runs once per RGB image; a light decoder then answers depth queries at points (u, v),
in metres.
"""

import os

# Read by PyTorch's OpenMP when it is loaded. By default its threads spin for milliseconds when they
# wait: where another process is busy, training took ten times as long. On an idle machine a short
# spin costs at most 2 %.
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
