"""Latency of v15_2: encoding, plain and folded queries, the dense path, and DAv2-S beside them.

All weights are random. Operations take turns, so that a busy moment of the machine does not count
against one of them; medians over the rounds are shown. Times of queries and dense maps are also
given as multiples of their floor: their multiply-accumulates (MACs) at the speed of a large float32
matrix product, measured in the same run with the same threads.

    python -m spdlib bench decode [--device cuda] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from spdlib.errors import ConfigError, SPDError
from spdlib.geometry import Size
from spdlib.models import create_model
from spdlib.models.counting import counted_macs
from spdlib.scene import Scene
from spdlib.study.runs import code_version, machine, write_json, write_table

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "measured" / "bench_decode.csv"
PRODUCT = 1024
"""Side of the square matrices whose product sets the floor."""
DAV2 = "DAv2-S (Hugging Face)"
COMPANY = 256
"""Queries asked right after encoding, as an application would."""

WIDTH, HIDDEN, HEAD = 64, 256, 128
TOKENS, BLOCKS, BLOCK, HEADS = 75, 3, 36, 4
BILINEAR = 4
"""MACs that one bilinearly interpolated value counts, as in the sheet."""
PER_QUERY = 2 * (2 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN) + WIDTH * HEAD + HEAD
"""Query and output projections and feed-forwards of both stages, and the head: 90,240."""


def plain_query_macs() -> int:
    """MACs of one plain query: 733,440 (sheet v15 section 4, audit 3.1).

    Keys and values of 75 tokens, both attention products, and the bilinear reads of the tokens.
    """
    return PER_QUERY + 2 * TOKENS * WIDTH * WIDTH + 2 * TOKENS * WIDTH + BILINEAR * TOKENS * WIDTH


def folded_query_macs() -> int:
    """MACs of one folded query: 171,232 (audit 5.1, S2).

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
    """MACs of the dense path: 1,543.0 M for 100x136 sites in a 350x476 image (audit 5.1).

    Keys and values of s8 and L2 at their own size, four times fewer cells, then upsampled together
    with s8; attention over 75 tokens a site; the resize to the image.
    """
    sites = lattice[0] * lattice[1]
    projections = 2 * sites * WIDTH * WIDTH + 4 * (sites // 4) * WIDTH * WIDTH
    upsampling = 5 * sites * WIDTH * BILINEAR
    attention = sites * (PER_QUERY + 2 * TOKENS * WIDTH)
    return projections + upsampling + attention + image[0] * image[1] * BILINEAR


@dataclass(frozen=True)
class Operation:
    """Something to time.

    Attributes:
        network: what it belongs to.
        name: "encode", "plain", "folded", "dense", ...
        k: queries, 0 where there are none.
        run: does it once.
        macs: its MACs by the formulas above, or counted.
    """

    network: str
    name: str
    k: int
    run: Callable[[], object]
    macs: int


@dataclass(frozen=True)
class Subject:
    """A v15_2 to measure: encoder, image size, numbers of queries."""

    encoder: str
    size: Size
    ks: tuple[int, ...] = (1, 16, 64, 256, 1024, 4096)

    @property
    def label(self) -> str:
        """Name in the tables."""
        return f"v15_2, {self.encoder}, {self.size[0]}x{self.size[1]}"


FULL = (
    Subject("vit_small_patch14_dinov2", (350, 476)),
    Subject("mobilenetv2_100", (240, 320)),
)
QUICK = (
    Subject("vit_tiny_patch16_224", (64, 96), (1, 16)),
    Subject("mobilenetv3_small_050", (60, 90), (1, 16)),
)


DAV2_INPUT = f"DAv2-S at {FULL[0].size[0]}x{FULL[0].size[1]}"
"""It stays at the sheet's size, whatever the size of the network beside it."""


def subject_operations(subject: Subject, device: torch.device) -> list[Operation]:
    """Encoding, queries in both forms and the dense path of one v15_2."""
    folded = create_model("v15_2", subject.encoder, image_size=subject.size).to(device).eval()
    plain = create_model("v15_2", subject.encoder, image_size=subject.size, sparse="plain")
    plain.load_state_dict(folded.state_dict())
    image = torch.rand(1, 3, *subject.size, device=device)
    scene = folded.encode(image)
    reference = replace(scene, model=plain.to(device).eval())
    encoding = counted_macs(lambda: folded.maps(folded.pad(image)))
    company = points_in(subject.size, COMPANY, device)
    lattice = (scene.maps["L1"].shape[1], scene.maps["L1"].shape[2])

    def add(name: str, k: int, run: Callable[[], object], macs: int) -> Operation:
        return Operation(subject.label, name, k, run, macs)

    return [
        add("encode", 0, lambda: folded.encode(image), encoding),
        add(
            "encode + queries", COMPANY, lambda: folded.encode(image).depth_at(company),
            encoding + COMPANY * folded_query_macs(),
        ),
        add("dense", 0, scene.dense, dense_macs(lattice, subject.size)),
        *(add("plain", k, ask(reference, k), k * plain_query_macs()) for k in subject.ks),
        *(add("folded", k, ask(scene, k), k * folded_query_macs()) for k in subject.ks),
    ]  # fmt: skip


def points_in(size: Size, k: int, device: torch.device) -> Tensor:
    """K points [K, 2] anywhere in an image."""
    return torch.rand(k, 2, device=device) * torch.tensor([size[1], size[0]], device=device) - 0.5


def ask(scene: Scene, k: int) -> Callable[[], Tensor]:
    """A call that asks the same K points of a scene."""
    points = points_in(scene.image_size, k, next(iter(scene.maps.values())).device)
    return lambda: scene.depth_at(points)


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
    """One dense map of DAv2-S at the sheet's input size."""
    size = (70, 98) if quick else FULL[0].size
    model, image = depth_anything(quick).to(device), torch.rand(1, 3, *size, device=device)

    @torch.no_grad()
    def run() -> object:
        return model(pixel_values=image).predicted_depth

    return Operation(DAV2, "dense", 0, run, counted_macs(run))


def product_operation(device: torch.device) -> Operation:
    """The matrix product whose speed sets the floor."""
    left, right = torch.rand(2, PRODUCT, PRODUCT, device=device).unbind()
    return Operation("matrix product", "float32", 0, lambda: left @ right, PRODUCT**3)


def measure(
    operations: Sequence[Operation], rounds: int, slot: float, device: torch.device
) -> list[float]:
    """Median seconds of each operation; short ones are repeated to fill `slot` seconds a round.

    Two calls of each, not counted, warm up and tell how often it is repeated.
    """
    warm = [min(elapsed(operation.run, 1, device) for _ in range(2)) for operation in operations]
    repeats = [max(1, min(200, int(slot / seconds))) for seconds in warm]
    seconds: list[list[float]] = [[] for _ in operations]
    for _ in tqdm(range(rounds), mininterval=5, desc="rounds"):
        for times, operation, count in zip(seconds, operations, repeats, strict=True):
            times.append(elapsed(operation.run, count, device))
    return [median(times) for times in seconds]


def elapsed(run: Callable[[], object], count: int, device: torch.device) -> float:
    """Mean seconds of `count` calls."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(count):
        run()
    synchronise(device)
    return (time.perf_counter() - started) / count


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Run with this many threads, None for as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timings(operations: Sequence[Operation], seconds: Sequence[float]) -> pd.DataFrame:
    """One row per operation; the matrix product comes first and sets the floors."""
    rate = operations[0].macs / seconds[0]
    rows = [
        (o.network, o.name, o.k, 1e3 * s, o.macs, 1e3 * o.macs / rate, s * rate / o.macs)
        for o, s in zip(operations, seconds, strict=True)
    ]
    columns = ["network", "operation", "k", "milliseconds", "macs", "floor_ms", "times_floor"]
    return pd.DataFrame(rows, columns=columns)


def ratios(table: pd.DataFrame, subject: Subject) -> list[dict[str, Any]]:
    """What the timings of one network say, beside the aims."""
    rows = zip(*(table[c] for c in ("network", "operation", "k", "milliseconds")), strict=True)
    known = {(network, operation, k): ms for network, operation, k, ms in rows}
    own = {(o, k): ms for (network, o, k), ms in known.items() if network == subject.label}
    k = 1024 if 1024 in subject.ks else max(subject.ks)
    asked = own["encode + queries", COMPANY]
    values = [
        (f"plain / folded at K = {k}", own["plain", k] / own["folded", k], ">= 3"),
        ("folded at K = 1, ms", own["folded", 1], "< 2"),
        (f"(encode + {COMPANY} queries) / encode", asked / own["encode", 0], "<= 1.10"),
        (f"{DAV2_INPUT} / (encode + {COMPANY} queries)", known[DAV2, "dense", 0] / asked, ""),
    ]
    return [
        {"network": subject.label, "what": what, "value": float(value), "aim": aim}
        for what, value, aim in values
    ]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="on a CPU")
    parser.add_argument("--rounds", type=int, default=15)
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
    operations = [product_operation(device)]
    for subject in subjects:
        operations += subject_operations(subject, device)
    operations.append(depth_anything_operation(device, args.quick))
    tables, conclusions = [], []
    for threads in args.threads if device.type == "cpu" else [None]:
        with using_threads(threads):
            table = timings(operations, measure(operations, args.rounds, args.slot, device))
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
    write_table(args.out, table.round(6))
    write_json(args.out.with_suffix(".json"), record)
    print(f"median of {args.rounds} rounds; random weights; floor: MACs at a {PRODUCT}^3 product")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    print(pd.DataFrame(conclusions).to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    devices = [gpu["model"] for gpu in here["gpus"]] if args.device != "cpu" else []
    print(", ".join([here["cpu"], f"{here['cores']} cores", *devices]))
    print(f"torch {here['libraries']['torch']}; written to {args.out}")


if __name__ == "__main__":
    try:
        main()
    except SPDError as error:
        sys.exit(f"error: {error}")
