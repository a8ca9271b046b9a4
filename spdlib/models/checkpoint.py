"""Reading a network's files, `config.json` and `model.safetensors`; `DepthModel.save` writes."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from spdlib.errors import ModelError
from spdlib.models.encoders import EncoderConfig
from spdlib.models.options import ModelConfig
from spdlib.settings import read


def load_weights(network: nn.Module, config: ModelConfig, folder: Path) -> None:
    """Load `model.safetensors` strictly, in the floating type of the file.

    Raises:
        ModelError: missing or damaged file, or weights of another network.
    """
    path = folder / "model.safetensors"
    try:
        state = safetensors.torch.load_file(path)
        kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
        if len(kinds) == 1:
            network.to(kinds.pop())
        network.load_state_dict(state, strict=True)
    except FileNotFoundError:
        raise ModelError(f"no model.safetensors in {folder}; is it a saved model?") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}); take another checkpoint") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} holds the weights of another network than its config.json says "
            f"({config.network!r} with {config.encoder.name!r}): {reason}"
        ) from None


def read_config(folder: Path) -> tuple[ModelConfig, str | None]:
    """The `config.json` of a saved model and by what it was trained, None if it was not.

    Raises:
        ModelError: a missing or damaged file, or that of a run without weights.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())
        if "experiment" in values:
            raise ModelError(
                f"{folder} is a run without weights; train it, or take another run's folder"
            )
        trained = values.pop("trained", "not noted how")  # as in files of earlier versions
        values["encoder"] = read(EncoderConfig, values["encoder"])
        values.get("options", {}).pop("sparse", None)  # the form of execution, once an option
        return read(ModelConfig, values), trained
    except ModelError:  # it says what is wrong already, and is a ValueError
        raise
    except FileNotFoundError:
        raise ModelError(
            f"no config.json in {folder}: give the folder that `save` or a training run wrote"
        ) from None
    except NotADirectoryError:
        raise ModelError(f"{folder} is a file; give the folder that holds it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a model configuration ({error}); take another checkpoint"
        ) from None
