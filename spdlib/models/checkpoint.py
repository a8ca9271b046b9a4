"""Reading a network's files, `config.json` and `model.safetensors`; `DepthModel.save` writes.

The weights carry the configuration that they were saved with and a hash of both. What was changed
since then is refused: another focal length or mean would give other depths without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spdlib.errors import ModelError
from spdlib.models.encoders import EncoderConfig
from spdlib.models.options import ModelConfig
from spdlib.reading import read_json, reading, reading_settings
from spdlib.sealed import unseal
from spdlib.settings import read

_REMEDY = "restore it or take another checkpoint"


def load_weights(network: nn.Module, config: ModelConfig, folder: Path) -> str | None:
    """Load `model.safetensors` strictly, in the floating type of the file.

    Returns:
        By what the weights were trained; None if they were not.

    Raises:
        ModelError: missing or damaged file, weights of another network or not finite, or another
            `config.json` than they were saved with.
    """
    path = folder / "model.safetensors"
    if not path.exists():
        raise ModelError(f"no model.safetensors in {folder}; is it a saved model?")
    state, text = unseal(path, "config", ModelError, _REMEDY, earlier=True)
    floating = {name: x for name, x in state.items() if x.is_floating_point()}
    kinds = {tensor.dtype for tensor in floating.values()}
    if len(kinds) == 1:
        network.to(kinds.pop())
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} holds the weights of another network than its config.json says "
            f"({config.network!r} with {config.encoder.name!r}): {reason}"
        ) from None
    saved = _unchanged(folder, text)
    for name, tensor in floating.items():
        if not tensor.sum(dtype=torch.float64).isfinite():
            raise ModelError(f"{path}: {name} holds NaN or infinity; take another checkpoint")
    return saved.get("trained", "not noted how")  # as in files of earlier versions


def _unchanged(folder: Path, text: str) -> dict[str, Any]:
    """What the weights carry; ModelError if `config.json` is another."""
    path = folder / "model.safetensors"
    with reading(path, "carries no readable configuration", _REMEDY, ModelError):
        saved = _flat(json.loads(text))
    given = _flat(read_json(folder / "config.json", ModelError, _REMEDY))
    # where a save was killed one file is older, and says that it was trained for fewer steps
    for name in sorted((saved.keys() | given.keys()) - {"trained"}):
        here, there = (values.get(name, "missing") for values in (given, saved))
        if here != there:
            raise ModelError(
                f"{folder / 'config.json'}: {name} is {here!r}, but the weights were saved with "
                f"{there!r}; {_REMEDY}"
            )
    return saved


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested dictionaries by names such as "encoder.mean"."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inside = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}": value}
    return flat


def configuring(folder: Path) -> AbstractContextManager[None]:
    """Whatever the values of a `config.json` raise becomes a ModelError that names the file."""
    return reading_settings(
        folder / "config.json", "is not a model configuration", _REMEDY, ModelError
    )


def read_config(folder: Path) -> ModelConfig:
    """The `config.json` of a saved model.

    Raises:
        ModelError: a missing or damaged file, or that of a run without weights.
    """
    path = folder / "config.json"
    if folder.is_file():
        raise ModelError(f"{folder} is a file; give the folder that holds it")
    if not path.exists():
        raise ModelError(
            f"no config.json in {folder}: give the folder that `save` or a training run wrote"
        )
    values = read_json(path, ModelError, _REMEDY)
    if "experiment" in values:
        raise ModelError(
            f"{folder} is a run without weights; train it, or take another run's folder"
        )
    with configuring(folder):
        values.pop("trained", None)  # the weights say it
        values["encoder"] = read(EncoderConfig, values["encoder"])
        values.get("options", {}).pop("sparse", None)  # the form of execution, once an option
        return read(ModelConfig, values)
