"""Files of others: which of their tensors is which of ours, whatever they call them.

A layout is a few rules that make the names in a file from our names, read from top to bottom. They
know nothing of depth or width: the shape of every tensor is compared when it is copied.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from spdlib.errors import ModelError
from spdlib.reading import read_tensors

PICKLED = (".pth", ".pt", ".bin", ".ckpt")
"""Endings of files that PyTorch pickles, which may run code when they are opened."""

Rules = Sequence[tuple[str, str]]
"""Patterns in our names and what stands in their place; each works on what those above left.

A name that ends up with "{a,b}" in it stands for several tensors, stacked along their first axis.
"""


class Layout(NamedTuple):
    """How others name the tensors of a network.

    Attributes:
        marks: patterns; a file is of this layout if each is a name in it, behind one prefix such as
            "backbone." that they share.
        rules: from our names to these.
    """

    marks: tuple[str, ...] = ()
    rules: Rules = ()

    def prefix(self, names: Iterable[str]) -> str | None:
        """What stands before the layout's names in a file; None if the file is of another one."""
        names = list(names)
        found = [
            {match[1] for name in names if (match := re.fullmatch(rf"((?:\w+\.)*){mark}", name))}
            for mark in self.marks
        ]
        return min(set.intersection(*found), key=len, default=None)

    def names(self, ours: str) -> list[str]:
        """What a file calls a tensor of ours: one name, or those of the parts that make it."""
        for pattern, name in self.rules:
            ours = re.sub(pattern, name, ours)
        before, _, rest = ours.partition("{")
        parts, _, after = rest.partition("}")
        return [f"{before}{part}{after}" for part in parts.split(",")]


PLAIN = Layout()
"""Our own names; those of encoders are timm's."""
DINOV2 = (
    Layout(  # transformers' Dinov2Model
        (r"encoder\.layer\.\d+\.layer_scale1\.lambda1",),
        (
            (r"^cls_token$", "embeddings.cls_token"),
            (r"^pos_embed$", "embeddings.position_embeddings"),
            (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
            (r"^norm\.", "layernorm."),
            (r"^blocks\.", "encoder.layer."),
            (r"\.attn\.qkv\.", ".attention.attention.{query,key,value}."),
            (r"\.attn\.proj\.", ".attention.output.dense."),
            (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
        ),
    ),
    Layout((r"mask_token", r"blocks\.\d+\.ls1\.gamma")),  # torch hub's, where timm's names are from
)
"""Layouts that only DINOv2 has, whose weights take images by ImageNet's mean and std."""


def find_layout(names: Collection[str], layouts: Iterable[Layout]) -> tuple[Layout, str] | None:
    """The first layout that a file with these names has and its prefix there, if it has any."""
    for layout in layouts:
        if (prefix := layout.prefix(names)) is not None:
            return layout, prefix
    return None


def behind(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    begun = (name for name in tensors if name.startswith(prefix))
    return {name.removeprefix(prefix): tensors[name] for name in begun}


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file of others.

    ModelError: it is none; of a pickle the message says how it is converted.
    """
    remedy = "fetch it again"
    if path.suffix.lower() in PICKLED:
        remedy = (
            "a pickle may run code, so none is read. Convert it where you trust it: "
            f"safetensors.torch.save_file(torch.load({path.name!r}, 'cpu', weights_only=True), "
            f"{path.with_suffix('.safetensors').name!r})"
        )
    return read_tensors(path, ModelError, remedy)


def copy_tensors(
    own: Mapping[str, Tensor],
    file: Mapping[str, Tensor],
    layout: Layout,
    path: str | Path,
    network: str,
    remedy: str,
    spare: str = "(?!)",
) -> None:
    """Copy a file's tensors into our own: every one, each of the same shape.

    Args:
        own: tensors by our names, which change in place.
        file: tensors by the layout's names.
        layout: of the file.
        path: of the file, for error messages.
        network: whose tensors they become, for error messages.
        remedy: what to do about a file that does not fit.
        spare: pattern of names that may be left over in the file.

    Raises:
        ModelError: tensors are missing, unknown, of another shape or not finite.
    """
    names = {key: layout.names(key) for key in own}
    shapes = {
        name: [tensor.shape[0] // len(names[key]), *tensor.shape[1:]] if tensor.dim() else []
        for key, tensor in own.items()
        for name in names[key]
    }
    missing = sorted(shapes.keys() - file.keys())
    extra = sorted(name for name in file.keys() - shapes.keys() if not re.match(spare, name))
    wrong = sorted(n for n in shapes.keys() & file.keys() if list(file[n].shape) != shapes[n])
    if missing or extra or wrong:
        first = f" ({list(file[wrong[0]].shape)}, not {shapes[wrong[0]]})" if wrong else ""
        raise ModelError(
            f"{path} does not fit {network}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}, {len(wrong)} of another shape {wrong[:3]}{first}; "
            f"{remedy}"
        )
    for name in shapes:
        if not torch.isfinite(file[name].float()).all():
            raise ModelError(f"{path}: tensor {name!r} holds NaN or infinity; fetch it again")
    for key, tensor in own.items():
        parts = [file[name] for name in names[key]]
        tensor.copy_(torch.cat(parts) if len(parts) > 1 else parts[0])
