"""Files of `transformers` by the names that the authors' own networks have."""

from __future__ import annotations

import torch
from torch import Tensor


def as_hub(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors by the names that torch hub's `dinov2_vits14` has."""
    names = {
        "embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
        "embeddings.mask_token": "mask_token", "layernorm.weight": "norm.weight",
        "layernorm.bias": "norm.bias",
    }  # fmt: skip
    for kind in ("weight", "bias"):
        names[f"embeddings.patch_embeddings.projection.{kind}"] = f"patch_embed.proj.{kind}"
    found = {names[name]: tensor for name, tensor in tensors.items() if name in names}
    for number in range(12):
        old, new = f"encoder.layer.{number}.", f"blocks.{number}."
        for kind in ("weight", "bias"):
            qkv = [
                tensors[f"{old}attention.attention.{x}.{kind}"] for x in ("query", "key", "value")
            ]
            found[f"{new}attn.qkv.{kind}"] = torch.cat(qkv)
            found[f"{new}attn.proj.{kind}"] = tensors[f"{old}attention.output.dense.{kind}"]
            for same in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                found[f"{new}{same}.{kind}"] = tensors[f"{old}{same}.{kind}"]
        for scale in (1, 2):
            found[f"{new}ls{scale}.gamma"] = tensors[f"{old}layer_scale{scale}.lambda1"]
    return found


def as_authors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of `DepthAnythingForDepthEstimation` as depth_anything_v2_vits.pth names them."""
    backbone = {
        name.removeprefix("backbone."): tensor
        for name, tensor in tensors.items()
        if name.startswith("backbone.")
    }
    found = {f"pretrained.{name}": tensor for name, tensor in as_hub(backbone).items()}
    head = {"conv1": "output_conv1", "conv2": "output_conv2.0", "conv3": "output_conv2.2"}
    for name, tensor in tensors.items():
        part, *rest = name.split(".")
        kind = rest[-1]
        if part == "head":
            found[f"depth_head.scratch.{head[rest[0]]}.{kind}"] = tensor
        elif name.startswith("neck.convs."):
            found[f"depth_head.scratch.layer{int(rest[1]) + 1}_rn.{kind}"] = tensor
        elif name.startswith("neck.reassemble_stage."):
            where = {"projection": "projects", "resize": "resize_layers"}[rest[3]]
            found[f"depth_head.{where}.{rest[2]}.{kind}"] = tensor
        elif name.startswith("neck.fusion_stage."):
            within = rest[3].replace("projection", "out_conv")
            within = within.replace("residual_layer", "resConfUnit")
            convolution = [each.replace("convolution", "conv") for each in rest[4:-1]]
            stage = f"depth_head.scratch.refinenet{4 - int(rest[2])}"
            found[".".join([stage, within, *convolution, kind])] = tensor
    return found
