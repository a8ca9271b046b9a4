"""Sealed files: tensors and a text, with a hash of both that tells damage from content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from spdlib.errors import SPDError
from spdlib.reading import read_tensors


def seal(tensors: Mapping[str, Tensor], key: str, text: str) -> bytes:
    """A safetensors file of the tensors, the text under its key, and the hash of both."""
    held = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    return safetensors.torch.save(held, {key: text, "sha256": state_hash(held, text)})


def unseal(
    path: str | Path, key: str, error: type[SPDError], remedy: str, earlier: bool = False
) -> tuple[dict[str, Tensor], str]:
    """Tensors and text of a file that `seal` made.

    Args:
        path: the file.
        key: of the text.
        error: what to raise.
        remedy: what to do about a file that cannot be used.
        earlier: whether a file without a hash, as earlier versions wrote them, will do.

    Raises:
        error: no such file, damaged, or of another kind.
    """
    tensors, metadata = read_tensors(path, error, remedy)
    if key not in metadata:
        raise error(f"{path}: is another kind of file (it has no {key!r}); {remedy}")
    unhashed = earlier and metadata.keys() == {key}
    if not unhashed and metadata.get("sha256") != state_hash(tensors, metadata[key]):
        raise error(f"{path}: is damaged, or of an earlier version (another SHA-256); {remedy}")
    return tensors, metadata[key]


def state_hash(state: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of a text, then names and bytes of tensors: about a second for each GB."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        held = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(held.view(torch.uint8).numpy().data)
    return digest.hexdigest()
