"""Latency of encoding and of queries, in the fast and in the reference form of every network.

A network with a dense path (v15_2) stands beside DAv2-S as well. Left out is v13_plan, whose
decoder is that of v13_log_depth behind a ViT at 518x518. All weights are random, the same in both
forms of a network; both forms must give the same answers.

Operations take turns, so that a busy moment of the machine does not count against one of them;
medians over the rounds are shown, also as multiples of their floor (see `_timing`), whose MACs and
bytes are counted while the operation runs (see `spdlib.models.counting`).

    python -m spdlib bench decode [--device cuda] [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks._timing import PRODUCT, Operation, floors, measure, timings
from spdlib.errors import ConfigError, ModelError, SPDError
from spdlib.geometry import Size
from spdlib.machine import code_version, machine
from spdlib.models import CONVNEXT_V2_TINY, create_model
from spdlib.models.base import EXECUTIONS
from spdlib.models.counting import counted_macs, gathered_bytes
from spdlib.scene import Scene
from spdlib.study.runs import write_json, write_table

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "measured" / "bench_decode.csv"
DAV2 = "DAv2-S (Hugging Face)"
TOGETHER = 256
"""Queries asked right after encoding, as an application would."""

FASTER = {"reference": "fast", "reference reads": "fast reads"}
"""The faster form of each reference; v14's `reads` are its deformable layers alone, whose form is
all that differs."""
AIMS = {
    ("v13", "reference"): ">= 3",
    ("v14", "reference reads"): ">= 2",
    ("v15", "reference"): ">= 3",
    ("v15", "one query"): "< 2",
    ("v15", "encode + queries"): "<= 1.10",
}
"""By generation and what `ratios` measures; other networks have no aims."""
TOLERANCE = 1e-3
"""Largest relative difference between two forms in float32, where a query may be routed to either
of two cells that it looks at alike."""


@dataclass(frozen=True)
class Subject:
    """A network to measure.

    Attributes:
        network: its name.
        encoder: timm name.
        size: height, width of the image.
        ks: numbers of queries.
        compared: those at which both forms are timed; the last one is judged.
    """

    network: str
    encoder: str
    size: Size
    ks: tuple[int, ...]
    compared: tuple[int, ...] = (16,)

    @property
    def label(self) -> str:
        """Name in the tables."""
        return f"{self.network}, {self.encoder}, {self.size[0]}x{self.size[1]}"


OLDER = ("v13_calibrated", "v13_log_depth", "v13_1", "v14_dual", "v14_triple", "v14_plan")
MANY, FEWER = (1, 16, 64, 256, 1024, 4096), (1, 64, TOGETHER, 1024)
FULL = (
    Subject("v15_2", "vit_small_patch14_dinov2", (350, 476), MANY, MANY[:5]),
    Subject("v15_2", "mobilenetv2_100", (240, 320), MANY, MANY[:5]),
    *(Subject(name, CONVNEXT_V2_TINY, (256, 320), FEWER, (TOGETHER,)) for name in OLDER),
)
QUICK = (
    Subject("v15_2", "vit_tiny_patch16_224", (64, 96), (1, 16)),
    Subject("v15_2", "mobilenetv3_small_050", (60, 90), (1, 16)),
    *(Subject(name, "mobilenetv3_small_050", (192, 256), (1, 16)) for name in OLDER),
)
DAV2_INPUT = f"DAv2-S at {FULL[0].size[0]}x{FULL[0].size[1]}"
"""It stays at v15_2's size, whatever the size of the network beside it."""


@dataclass(frozen=True)
class Pair:
    """One image encoded by both forms of a network.

    Attributes:
        subject: the network.
        image: [1, 3, H, W].
        scenes: of the form "fast" and of "reference", by name; each has a network of its own, with
            the same weights, for the forms may read different maps.
    """

    subject: Subject
    image: Tensor
    scenes: Mapping[str, Scene]

    @classmethod
    def of(cls, subject: Subject, device: torch.device) -> Pair:
        """A network with random weights, and a random image."""
        model = create_model(subject.network, subject.encoder, image_size=subject.size)
        image = torch.rand(1, 3, *subject.size, device=device)
        scenes = {}
        for form in EXECUTIONS:
            own = deepcopy(model).to(device).eval()
            own.execution, own.trained = form, "not: its speed is measured"
            scenes[form] = own.encode(image)
        return cls(subject, image, scenes)

    @property
    def model(self) -> Any:
        """The network in its fast form."""
        return self.scenes["fast"].model

    def points(self, k: int) -> Tensor:
        """K points [K, 2] anywhere in the image."""
        size = self.image.new_tensor([self.subject.size[1], self.subject.size[0]])
        return torch.rand(k, 2, device=size.device) * size - 0.5

    def difference(self, points: Tensor) -> float:
        """Largest difference between both forms' answers, relative to the reference's.

        Raises:
            ModelError: they do not agree.
        """
        fast, expected = (self.scenes[form].depth_at(points) for form in EXECUTIONS)
        found = ((fast - expected).abs() / expected).max().item()
        if not found <= TOLERANCE:
            raise ModelError(
                f"{self.subject.label}: the {' and the '.join(EXECUTIONS)} form differ by "
                f"{found:.1e}, more than {TOLERANCE:g}; their times cannot be compared"
            )
        return found


def operations_of(subject: Subject, device: torch.device) -> list[Operation]:
    """What is timed of a network: encoding, queries, and the dense path or the reads it has."""
    pair = Pair.of(subject, device)
    model, image, label = pair.model, pair.image, subject.label
    found = [counted(label, "encode", 0, lambda: model.encode(image))]
    if model.has_dense:
        points, dense = pair.points(TOGETHER), pair.scenes["fast"].dense
        both = counted(
            label, "encode + queries", TOGETHER, lambda: model.encode(image).depth_at(points)
        )
        found += [both, counted(label, "dense", 0, dense)]
    sets = {k: pair.points(k) for k in subject.ks}
    found += [answering(pair, "reference", sets[k]) for k in subject.compared]
    found += [answering(pair, "fast", points) for points in sets.values()]
    if hasattr(model, "msda"):
        judged = sets[subject.compared[-1]]
        found += [reading(pair, form, judged) for form in ("reference", "fast")]
    return found


def counted(
    label: str, name: str, k: int, run: Callable[[], object], difference: float | None = None
) -> Operation:
    """An operation with its MACs and gathered bytes."""
    return Operation(label, name, k, run, counted_macs(run), gathered_bytes(run), difference)


def answering(pair: Pair, form: str, points: Tensor) -> Operation:
    """Queries of one form; of the reference with its difference from the fast one."""
    scene = pair.scenes[form]
    difference = None if form == "fast" else pair.difference(points)
    label, k = pair.subject.label, len(points)
    return counted(label, form, k, lambda: scene.depth_at(points), difference)


def reading(pair: Pair, form: str, points: Tensor) -> Operation:
    """The deformable layers of a network alone, all fed the same queries."""
    scene = pair.scenes[form]
    model: Any = scene.model
    with torch.no_grad():
        known = model.queries(scene.maps, points[None], scene.padded)
        h, _ = model.seed(known)

    @torch.no_grad()
    def run() -> list[Tensor]:
        return [layer.cross(h, known) for layer in model.msda]

    return counted(pair.subject.label, f"{form} reads", len(points), run)


def depth_anything(quick: bool = False) -> Any:
    """Hugging Face's `DepthAnythingForDepthEstimation` of DAv2-S shape, random weights.

    Raises:
        ConfigError: transformers is not installed.
    """
    try:
        library: Any = import_module("transformers")
    except ImportError:
        raise ConfigError(
            "comparing with DAv2-S needs transformers: pip install '.[bench]'"
        ) from None
    layers, width = (4, 32) if quick else (12, 384)
    backbone = library.Dinov2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64 or 1,
        image_size=518, patch_size=14, reshape_hidden_states=False, apply_layernorm=True,
        out_features=[f"stage{layers * part // 4}" for part in (1, 2, 3, 4)],
    )  # fmt: skip
    config = library.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=width, patch_size=14,
        neck_hidden_sizes=[48, 96, 192, 384], fusion_hidden_size=64,
    )  # fmt: skip
    return library.DepthAnythingForDepthEstimation(config).eval()


def depth_anything_operation(device: torch.device, quick: bool) -> Operation:
    """One dense map of DAv2-S at v15_2's input size."""
    size = (70, 98) if quick else FULL[0].size
    model, image = depth_anything(quick).to(device), torch.rand(1, 3, *size, device=device)

    @torch.no_grad()
    def run() -> object:
        return model(pixel_values=image).predicted_depth

    return counted(DAV2, "dense", 0, run)


def known(table: pd.DataFrame, column: str) -> dict[tuple[str, str, int], Any]:
    """A column of one run's table by network, operation and number of queries."""
    keys = zip(table["network"], table["operation"], table["k"], strict=True)
    return dict(zip(keys, table[column], strict=True))


def times_faster(table: pd.DataFrame) -> list[float]:
    """How many times as long each reference form takes as the faster one; NaN for all else."""
    times = known(table, "milliseconds")
    return [
        ms / times.get((network, FASTER.get(operation, ""), k), nan)
        for (network, operation, k), ms in times.items()
    ]


def ratios(table: pd.DataFrame, subject: Subject) -> list[dict[str, Any]]:
    """What the timings of one network say, beside the aims."""
    label, k, least = subject.label, subject.compared[-1], min(subject.ks)
    generation = subject.network.partition("_")[0]
    spent, differences = known(table, "milliseconds"), known(table, "difference")
    found = [
        (slow, f"{slow} / {fast} at K = {k}", spent[label, slow, k] / spent[label, fast, k])
        for slow, fast in FASTER.items()
        if (label, slow, k) in spent
    ]
    found.append(("one query", f"fast at K = {least}, ms", spent[label, "fast", least]))
    both = spent.get((label, "encode + queries", TOGETHER))
    if both:
        what, encoding = f"(encode + {TOGETHER} queries)", spent[label, "encode", 0]
        found.append(("encode + queries", f"{what} / encode", both / encoding))
        found.append(("DAv2", f"{DAV2_INPUT} / {what}", spent[DAV2, "dense", 0] / both))
    rows = [(what, value, AIMS.get((generation, kind), "")) for kind, what, value in found]
    difference = differences[label, "reference", k]
    rows.append((f"largest relative difference at K = {k}", difference, f"<= {TOLERANCE:g}"))
    return [
        {"network": label, "what": what, "value": float(value), "aim": aim}
        for what, value, aim in rows
    ]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="on a CPU")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--slot", type=float, default=0.05, help="seconds a short operation fills")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one round: a test")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    args = parser.parse_args(given)
    if args.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"this machine has no CUDA device for --device {args.device}; use cpu")
    if args.quick:
        args.rounds, args.slot = 1, 0.0
    return args


def main(given: Sequence[str] | None = None) -> None:
    args = arguments(given)
    torch.manual_seed(0)
    device = torch.device(args.device)
    torch.backends.cudnn.allow_tf32 = False  # the floor is a float32 product's
    subjects = QUICK if args.quick else FULL
    operations = floors(device)
    for subject in subjects:
        operations += operations_of(subject, device)
    operations.append(depth_anything_operation(device, args.quick))
    tables, conclusions = [], []
    for threads in args.threads if device.type == "cpu" else [None]:
        table = timings(operations, measure(operations, args.rounds, args.slot, threads))
        table["times_faster"] = times_faster(table)
        table.insert(0, "threads", threads)
        table.insert(0, "device", device.type)
        tables.append(table)
        for subject in subjects:
            conclusions += [{"threads": threads, **row} for row in ratios(table, subject)]
    finish(pd.concat(tables), conclusions, args)


def finish(
    table: pd.DataFrame, conclusions: list[dict[str, Any]], args: argparse.Namespace
) -> None:
    """Print the table and the conclusions; write them with what they depend on."""
    here = machine()
    settings = {"rounds": args.rounds, "slot_seconds": args.slot, "quick": args.quick}
    record: dict[str, Any] = {
        "machine": here,
        "code": code_version(),
        "settings": settings,
        "ratios": conclusions,
    }
    write_table(args.out, table.round({"milliseconds": 6, "floor_ms": 6, "times_floor": 6}))
    write_json(args.out.with_suffix(".json"), record)
    floor = f"MACs as in a {PRODUCT}^3 product, or gathered bytes as in a copy"
    print(f"median of {args.rounds} rounds; random weights; floor: {floor}")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    print(pd.DataFrame(conclusions).to_string(index=False, float_format=lambda v: f"{v:.3g}"))
    devices = [gpu["model"] for gpu in here["gpus"]] if args.device != "cpu" else []
    print(", ".join([here["cpu"], f"{here['cores']} cores", *devices]))
    print(f"torch {here['libraries']['torch']}; written to {args.out}")


if __name__ == "__main__":
    try:
        main()
    except SPDError as error:
        sys.exit(f"error: {error}")
