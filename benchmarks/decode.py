"""Latency of encoding and of queries, in the fast and in the reference form of every network.

v15_2 (encoding, queries, the dense path) stands beside DAv2-S as well. Left out is v13_plan, whose
decoder is that of v13_log_depth behind a ViT at 518x518. All weights are random, the same in both
forms of a network; both forms must give the same answers.

Operations take turns, so that a busy moment of the machine does not count against one of them;
medians over the rounds are shown, also as multiples of their floor (see `_timing`).
Floors of v15_2's queries and dense maps are by formula, all others by counting.

    python -m spdlib bench decode [--device cuda] [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
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
AIMS = {"v13": "reference", "v14": "reference reads"}
"""What of a generation should be faster by `LEAST`."""
LEAST = {"reference": 3, "reference reads": 2}
TOLERANCE = 1e-3
"""Largest relative difference between two forms in float32, where a query may be routed to either
of two cells that it looks at alike."""

WIDTH, HIDDEN, HEAD = 64, 256, 128
TOKENS, BLOCKS, BLOCK, HEADS = 75, 3, 36, 4
BILINEAR = 4
"""MACs that one bilinearly interpolated value counts, as in the formulas below."""
PER_QUERY = 2 * (2 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN) + WIDTH * HEAD + HEAD
"""Query and output projections and feed-forwards of both stages, and the head: 90,240."""


def reference_query_macs() -> int:
    """MACs of one query of v15_2 in the reference form: 733,440.

    Keys and values of 75 tokens, both attention products, and the bilinear reads of the tokens.
    """
    return PER_QUERY + 2 * TOKENS * WIDTH * WIDTH + 2 * TOKENS * WIDTH + BILINEAR * TOKENS * WIDTH


def fast_query_macs() -> int:
    """MACs of one query of v15_2 in the fast form: 171,232.

    Both projections folded in each of two stages; scores and sums over three blocks of 36 cells;
    their interpolation for 4 heads; the tokens' codes, positions and sources apart; s8 at the
    point. Our code projects the codes' 75 sums instead: 2,944 more, in fewer steps.
    """
    folds = 2 * 2 * WIDTH * WIDTH
    cells = BLOCKS * 2 * HEADS * BLOCK * WIDTH
    between = BLOCKS * 2 * HEADS * 25 * BILINEAR
    codes = 2 * WIDTH * (25 + 2) + 2 * WIDTH * 25
    return PER_QUERY + folds + cells + between + codes + BILINEAR * WIDTH


def dense_macs(lattice: Size, image: Size) -> int:
    """MACs of v15_2's dense path: 1,543.0 M for 100x136 sites in a 350x476 image.

    Keys and values of s8 and L2 at their own size, four times fewer cells, then upsampled together
    with s8; attention over 75 tokens a site; the resize to the image.
    """
    sites = lattice[0] * lattice[1]
    projections = 2 * sites * WIDTH * WIDTH + 4 * (sites // 4) * WIDTH * WIDTH
    upsampling = 5 * sites * WIDTH * BILINEAR
    attention = sites * (PER_QUERY + 2 * TOKENS * WIDTH)
    return projections + upsampling + attention + image[0] * image[1] * BILINEAR


@dataclass(frozen=True)
class Subject:
    """A network to measure.

    Attributes:
        network: its name.
        encoder: timm name.
        size: height, width of the image.
        ks: numbers of queries.
    """

    network: str
    encoder: str
    size: Size
    ks: tuple[int, ...]

    @property
    def label(self) -> str:
        """Name in the tables."""
        return f"{self.network}, {self.encoder}, {self.size[0]}x{self.size[1]}"


OLDER = ("v13_calibrated", "v13_log_depth", "v13_1", "v14_dual", "v14_triple", "v14_plan")
FULL = (
    Subject("v15_2", "vit_small_patch14_dinov2", (350, 476), (1, 16, 64, 256, 1024, 4096)),
    Subject("v15_2", "mobilenetv2_100", (240, 320), (1, 16, 64, 256, 1024, 4096)),
    *(Subject(name, CONVNEXT_V2_TINY, (256, 320), (1, 64, TOGETHER, 1024)) for name in OLDER),
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
    """What is timed of a network."""
    pair = Pair.of(subject, device)
    return v15_operations(pair) if subject.network == "v15_2" else older_operations(pair)


def encoding(pair: Pair) -> Operation:
    """Encoding the image in the faster form."""
    model = pair.model
    macs = counted_macs(lambda: model.maps(model.pad(pair.image)))
    return Operation(pair.subject.label, "encode", 0, lambda: model.encode(pair.image), macs)


def asking(pair: Pair, form: str, points: Tensor, macs: int | None = None) -> Operation:
    """Queries of one form; their MACs are counted if they are not given."""
    scene = pair.scenes[form]

    def run() -> Tensor:
        return scene.depth_at(points)

    counted = counted_macs(run) if macs is None else macs
    difference = None if form == "fast" else pair.difference(points)
    label, k = pair.subject.label, len(points)
    return Operation(label, form, k, run, counted, gathered_bytes(run), difference)


def v15_operations(pair: Pair) -> list[Operation]:
    """Encoding, queries in both forms and the dense path of v15_2."""
    subject, scene, model = pair.subject, pair.scenes["fast"], pair.model
    encode, many = encoding(pair), pair.points(TOGETHER)
    lattice = (scene.maps["L1"].shape[1], scene.maps["L1"].shape[2])
    together = encode.macs + TOGETHER * fast_query_macs()
    sets = [pair.points(k) for k in subject.ks]
    return [
        encode,
        Operation(
            subject.label, "encode + queries", TOGETHER,
            lambda: model.encode(pair.image).depth_at(many), together,
        ),
        Operation(subject.label, "dense", 0, scene.dense, dense_macs(lattice, subject.size)),
        *(asking(pair, "reference", p, len(p) * reference_query_macs()) for p in sets),
        *(asking(pair, "fast", p, len(p) * fast_query_macs()) for p in sets),
    ]  # fmt: skip


def older_operations(pair: Pair) -> list[Operation]:
    """Encoding, fast queries, and as many in the reference form as are compared, of v13 and v14."""
    sets = {k: pair.points(k) for k in pair.subject.ks}
    most = sets[compared(pair.subject)]
    return [
        encoding(pair),
        asking(pair, "reference", most),
        *(asking(pair, "fast", points) for points in sets.values()),
        *(
            reading(pair, form, most)
            for form in ("reference", "fast")
            if hasattr(pair.model, "msda")
        ),
    ]


def reading(pair: Pair, form: str, points: Tensor) -> Operation:
    """The deformable layers of a v14 alone, all fed the same queries."""
    scene = pair.scenes[form]
    model: Any = scene.model
    with torch.no_grad():
        h, known = model.seeded(scene.maps, points[None], scene.padded)

    @torch.no_grad()
    def run() -> list[Tensor]:
        return [layer.cross(h, known) for layer in model.msda]

    k, macs = len(points), counted_macs(run)
    return Operation(pair.subject.label, f"{form} reads", k, run, macs, gathered_bytes(run))


def compared(subject: Subject) -> int:
    """How many queries both forms are compared at."""
    wanted = 1024 if subject.network == "v15_2" else TOGETHER
    return wanted if wanted in subject.ks else max(subject.ks)


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

    return Operation(DAV2, "dense", 0, run, counted_macs(run))


Known = Mapping[tuple[str, str, int], Any]
"""Rows of a table by network, operation and number of queries."""


def known(table: pd.DataFrame, column: str) -> Known:
    """A column of one run's table."""
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
    table = table[table["network"].isin([subject.label, DAV2])]
    values = (v15_ratios if subject.network == "v15_2" else older_ratios)(table, subject)
    return [
        {"network": subject.label, "what": what, "value": float(value), "aim": aim}
        for what, value, aim in values
    ]


Ratio = tuple[str, float, str]


def v15_ratios(table: pd.DataFrame, subject: Subject) -> list[Ratio]:
    """What is measured, its value and its aim, for v15_2."""
    own, k = known(table, "milliseconds"), compared(subject)
    label, asked = subject.label, own[subject.label, "encode + queries", TOGETHER]
    faster = own[label, "reference", k] / own[label, "fast", k]
    return [
        (f"reference / fast at K = {k}", faster, ">= 3"),
        ("fast at K = 1, ms", own[label, "fast", 1], "< 2"),
        (f"(encode + {TOGETHER} queries) / encode", asked / own[label, "encode", 0], "<= 1.10"),
        (f"{DAV2_INPUT} / (encode + {TOGETHER} queries)", own[DAV2, "dense", 0] / asked, ""),
    ]


def older_ratios(table: pd.DataFrame, subject: Subject) -> list[Ratio]:
    """What is measured, its value and its aim, for v13 and v14."""
    own, k, label = known(table, "milliseconds"), compared(subject), subject.label
    difference = known(table, "difference")[label, "reference", k]
    aim = AIMS.get(subject.network.partition("_")[0])
    rows = [
        (
            f"{slow} / {FASTER[slow]} at K = {k}",
            own[label, slow, k] / own[label, FASTER[slow], k],
            f">= {LEAST[slow]}" if slow == aim else "",
        )
        for slow in LEAST
        if (label, slow, k) in own
    ]
    return [*rows, (f"largest relative difference at K = {k}", difference, f"<= {TOLERANCE:g}")]


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
    record = {
        "machine": here, "code": code_version(), "settings": settings, "ratios": conclusions,
    }  # fmt: skip
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
