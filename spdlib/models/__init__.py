"""Networks: `create_model` makes one, `load` reads a saved one, `list_models` names them.

Every module of this package is imported, so that a network registers itself where it is written.
"""

from importlib import import_module
from pkgutil import iter_modules

from spdlib.models.base import DepthModel, Prediction
from spdlib.models.dav2 import load_published
from spdlib.models.encoders import CONVNEXT_V2_TINY, Encoder, EncoderConfig
from spdlib.models.options import ModelConfig, counts, words
from spdlib.models.registry import (
    create_model,
    list_models,
    load,
    network_class,
    network_options,
    register,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "CONVNEXT_V2_TINY",
    "DepthModel",
    "Encoder",
    "EncoderConfig",
    "ModelConfig",
    "Prediction",
    "counts",
    "create_model",
    "list_models",
    "load",
    "load_published",
    "network_class",
    "network_options",
    "register",
    "words",
]
