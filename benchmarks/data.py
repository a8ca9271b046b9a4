"""Frames per second of the packed store against the files that people usually train from.

The same frames are written in every form and read through the same augmentation, in training's
batches, by 0, 1 and 2 workers. Sources take turns, so that a busy moment of the machine does not
count against one of them; the median over the rounds is shown, with the slowest and the fastest.
All files are in the system's file cache after the first round, which does not count.

    python -m spdlib bench data --data FOLDER      (a BTS folder; default: SPD_NYU_DIR)
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from spdlib.data.augment import augmentation
from spdlib.data.frames import Frames, Subset
from spdlib.data.samples import EpochBatches, SampleConfig, TrainingSamples
from spdlib.data.sources import BTSFolder, FastDepthFolder
from spdlib.data.store import PackedFrames, pack
from spdlib.errors import ConfigError, SPDError
from spdlib.machine import code_version, machine
from spdlib.study.runs import write_json, write_table

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "measured" / "bench_data.csv"
TRUTH = "inpainted"


def write_fastdepth(frames: Frames, root: Path, compression: str | None) -> FastDepthFolder:
    """The frames as FastDepth-style .h5 files of float32 metres."""
    folder = root / "train" / "scene"
    folder.mkdir(parents=True)
    for index in range(len(frames)):
        frame = frames[index]
        with h5py.File(folder / f"{index + 1:05d}.h5", "w") as file:
            rgb, depth = frame.image.transpose(2, 0, 1), frame.truth(TRUTH)
            file.create_dataset("rgb", data=rgb, compression=compression)
            file.create_dataset("depth", data=depth, compression=compression)
    return FastDepthFolder(root, "train")


def write_store(frames: Frames, path: Path, **options: object) -> PackedFrames:
    """The frames as a packed store."""
    pack({"train": frames}, path, {"layout": "benchmark"}, **options)  # type: ignore[arg-type]
    return PackedFrames(path)


def prepare(frames: Frames, folder: Path, size: tuple[int, int]) -> dict[str, Frames]:
    """Name -> the same frames in one form each."""
    name = f"packed store, resized to {size[0]}x{size[1]}"
    return {
        "packed store": write_store(frames, folder / "none.h5"),
        name: write_store(frames, folder / "small.h5", size=size),
        "packed store, gzip": write_store(frames, folder / "gzip.h5", compression="gzip"),
        "BTS folder (JPEG, PNG)": frames,
        "FastDepth .h5": write_fastdepth(frames, folder / "plain", None),
        "FastDepth .h5, deflated": write_fastdepth(frames, folder / "deflated", "gzip"),
    }


def check_same(sources: dict[str, Frames]) -> None:
    """All full-size forms must hold the same frames, or the comparison means nothing."""
    first, *others = [s for name, s in sources.items() if "resized" not in name]
    expected = first[0]
    for source in others:
        frame = source[0]
        same = (frame.image == expected.image).all()
        if not same or not (frame.truth(TRUTH) == expected.truth(TRUTH)).all():
            raise ConfigError("the written files differ from the source; the benchmark is wrong")


def batches(source: Frames, args: argparse.Namespace, workers: int, round_: int) -> DataLoader:
    """Training's loader over one pass of the frames."""
    config = SampleConfig(
        tuple(args.size), points=args.points, augment=augmentation(args.augment), truth=TRUTH
    )
    sampler = EpochBatches(len(source), args.batch, seed=round_, steps=len(source) // args.batch)
    return DataLoader(TrainingSamples(source, config), batch_sampler=sampler, num_workers=workers)


def loading_rate(source: Frames, args: argparse.Namespace, workers: int, round_: int) -> float:
    """Augmented frames per second, from the first batch's arrival to the last one's."""
    iterator = iter(batches(source, args, workers, round_))
    next(iterator)  # starting the workers is paid once a run, not per frame
    started, frames = time.perf_counter(), 0
    for batch in iterator:
        frames += len(batch["image"])
    return frames / (time.perf_counter() - started)


def reading_rate(source: Frames) -> float:
    """Decoded frames per second in this process, without augmentation."""
    started = time.perf_counter()
    for index in range(len(source)):
        source[index]
    return len(source) / (time.perf_counter() - started)


def measure(sources: dict[str, Frames], args: argparse.Namespace) -> pd.DataFrame:
    """One row per source, task and number of workers; rounds interleave the sources."""
    tasks: list[tuple[str, int, Callable[[Frames, int], float]]] = [
        ("read", 0, lambda source, _: reading_rate(source))
    ]
    for workers in args.workers:
        tasks.append(
            ("augmented", workers, lambda s, r, w=workers: loading_rate(s, args, w, r))  # type: ignore[misc]
        )
    rows = []
    steps = [(r, task, name) for r in range(args.rounds + 1) for task in tasks for name in sources]
    for round_, (task, workers, rate), name in tqdm(steps, mininterval=5, desc="measuring"):
        value = rate(sources[name], round_)
        if round_ > 0:
            rows.append((name, task, workers, value))
    table = pd.DataFrame(rows, columns=["source", "task", "workers", "frames_per_second"])
    groups = table.groupby(["source", "task", "workers"], sort=False)["frames_per_second"]
    return groups.agg(["median", "min", "max"]).reset_index()


def record(args: argparse.Namespace) -> dict[str, object]:
    """What the numbers depend on: settings, code and machine."""
    names = ("frames", "rounds", "size", "batch", "augment", "points", "threads")
    settings = {name: getattr(args, name) for name in names}
    return {"machine": machine(), "code": code_version(), "settings": settings}


def megabytes(source: Frames, data: Path) -> float:
    """Size of a source's files on disk."""
    if isinstance(source, PackedFrames):
        files = [source.path]
    elif isinstance(source, FastDepthFolder):
        files = source.files
    else:
        wanted = set(source.ids)
        pairs = [*data.rglob("rgb_*"), *data.rglob("sync_depth_*")]
        files = [path for path in pairs if path.stem.rsplit("_", 1)[-1] in wanted]
    return sum(path.stat().st_size for path in files) / 1e6


def show(table: pd.DataFrame, rounds: int) -> None:
    labels = [
        "read only" if task == "read" else f"augmented, {workers} workers"
        for task, workers in zip(table["task"], table["workers"], strict=True)
    ]
    pivot = table.assign(label=labels).pivot(index="source", columns="label", values="median")
    pivot = pivot.loc[table["source"].unique(), list(dict.fromkeys(labels))]
    pivot = pivot.rename_axis(index=None, columns=None)
    pivot.insert(0, "MB a frame", table.groupby("source")["megabytes_per_frame"].first())
    print(f"frames per second, median of {rounds} rounds")
    print(pivot.round(2).to_string(float_format=lambda value: f"{value:.4g}"))
    here = machine()
    print(f"{here['cpu']}, {here['cores']} cores, torch {here['libraries']['torch']}")


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    bts, what = os.environ.get("SPD_NYU_DIR"), "a BTS folder with 480x640 frames"
    parser.add_argument("--data", type=Path, default=bts, help=what)
    parser.add_argument("--frames", type=int, default=320, help="frames read per measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--augment", default="strong", help="a name of spdlib.data.augment.STYLES")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each process")
    parser.add_argument("--scratch", type=Path, help="folder for the written files")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    args = parser.parse_args(given)
    if args.data is None:
        raise ConfigError("name a BTS folder with --data, or set SPD_NYU_DIR")
    args.data = Path(args.data)
    return args


def main(given: Sequence[str] | None = None) -> None:
    args = arguments(given)
    torch.set_num_threads(args.threads)
    everything = BTSFolder(args.data, "train", truth=TRUTH)
    count = min(args.frames, len(everything))
    stride = len(everything) // count
    frames = Subset(everything, range(0, stride * count, stride))
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="bench_data_") as folder:
        sources = prepare(frames, Path(folder), tuple(args.size))
        check_same(sources)
        table = measure(sources, args)
        sizes = {name: megabytes(source, args.data) for name, source in sources.items()}
    table["megabytes_per_frame"] = table["source"].map(sizes) / len(frames)
    write_table(args.out, table.round(3))
    write_json(args.out.with_suffix(".json"), record(args))
    show(table, args.rounds)


if __name__ == "__main__":
    try:
        main()
    except SPDError as error:
        sys.exit(f"error: {error}")
