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

_HASH = "\nsha256 "


def seal(tensors: Mapping[str, Tensor], key: str, text: str) -> bytes:
    """A safetensors file of the tensors; under its key the text, and on a last line the hash."""
    held = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    # one entry: safetensors writes several in any order, and equal files would differ
    return safetensors.torch.save(held, {key: f"{text}{_HASH}{state_hash(held, text)}"})


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
    text, line, found = metadata[key].rpartition(_HASH)
    if earlier and not line:
        return tensors, metadata[key]
    if found != state_hash(tensors, text):
        raise error(f"{path}: is damaged, or of an earlier version (another SHA-256); {remedy}")
    return tensors, text


def state_hash(state: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of a text, then names and bytes of tensors: about a second for each GB."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        held = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(held.view(torch.uint8).numpy().data)
    return digest.hexdigest()
