"""The command `data` with its actions `pack`, `verify` and `info`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spdlib.data.files import MILLIMETRES
from spdlib.data.frames import LEAST_TRAINING, TRUTHS, Frames
from spdlib.data.sources import open_source
from spdlib.data.store import COMPRESSIONS, PackedFrames, info, pack, verify
from spdlib.errors import DataError


def add_data(parser: argparse.ArgumentParser) -> None:
    """Arguments of `data`; each of its actions sets `command`."""
    actions = parser.add_subparsers(dest="action", required=True)
    text = "pack a data set of any known layout into one HDF5 file (see data/README.md)"
    action = actions.add_parser("pack", help=text, description=text)
    action.add_argument("source", type=Path, help="folder or labelled .mat; the layout is detected")
    action.add_argument("out", type=Path, help="the store to write")
    action.add_argument("--truth", choices=TRUTHS, help="what the source's depth is")
    action.add_argument("--split-file", type=Path, help="other list of test frames for the .mat")
    action.add_argument("--list-file", type=Path, help="published list of a BTS sync folder")
    scale = f"metres per PNG step of your own folder (default {MILLIMETRES})"
    action.add_argument("--depth-scale", type=float, help=scale)
    size = "resize, so that the store travels"
    action.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help=size)
    action.add_argument("--compression", choices=COMPRESSIONS, default="none")
    action.set_defaults(command=_pack)
    for name, command, text in (
        ("verify", _verify, "recompute every checksum of a store and check every frame"),
        ("info", _info, "say what a store holds"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("store", type=Path, help="a packed store")
        action.set_defaults(command=command)


def _pack(args: argparse.Namespace) -> int:
    names = ("truth", "split_file", "list_file", "depth_scale")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.source.exists() and args.out.is_file() and args.out.samefile(args.source):
        raise DataError(f"{args.out}: is the source itself; choose another name")
    splits = open_source(args.source, **options)
    _check_splits(args.source, splits)
    first: Any = splits["train"]
    print(f"{args.source}: read as {first.expects}; {_counts(splits)} frames")
    if first.split_by:
        print(f"note: the split is made here: {first.split_by}")
    # names only, so that no machine's folders travel with the store
    described = {
        "layout": type(first).__name__,
        "source": args.source.resolve().name,
        "options": {k: v.name if isinstance(v, Path) else v for k, v in options.items()},
        **({"split_by": first.split_by} if first.split_by else {}),
    }
    size = tuple(args.size) if args.size else None
    pack(splits, args.out, described, size, args.compression, progress=True)
    assumed = "truth" not in options and getattr(first, "truth", None) == "raw"
    if assumed and "raw" not in info(args.out)["provenance"]["holes"]:
        print(
            "note: this depth, taken for raw, has no holes, so it is probably in-painted; if it "
            "is, pack it again with --truth inpainted"
        )
    print(_range_of(args.out, hasattr(first, "depth_scale")))
    return _info(argparse.Namespace(store=args.out))


def _range_of(store: Path, scaled: bool) -> str:
    """A line that lets a person see a wrong unit that is plausible."""
    frames = PackedFrames(store, "train")
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), 32)).astype(int)
    depth = np.concatenate([frames[int(i)].truth().ravel() for i in chosen])
    low, median, high = np.percentile(depth[depth > 0], (1, 50, 99))
    rescale = "pack again with --depth-scale, the metres per step (TUM: 0.0002)"
    remedy = rescale if scaled else "check the unit"
    return (
        f"depth in {len(chosen)} training frames: {low:.2f} to {high:.2f} m, "
        f"median {median:.2f} m; if these are not your rooms, {remedy}"
    )


def _check_splits(source: Path, splits: Mapping[str, Frames]) -> None:
    """Refuses what a training or its evaluation would refuse later."""
    for name, least in (("train", LEAST_TRAINING), ("test", 1)):
        if len(splits.get(name, ())) < least:
            raise DataError(
                f"{source}: has {_counts(splits)} frames, but a store needs at least {least} in "
                f"{name!r}; add frames, or name the splits 'train' and 'test'"
            )


def _counts(splits: Mapping[str, Frames]) -> str:
    return ", ".join(f"{len(frames)} {name}" for name, frames in splits.items())


def _verify(args: argparse.Namespace) -> int:
    report = verify(args.store, progress=True)
    print(f"{args.store}: all {report['frames']} frames agree with their checksums")
    return _info(args)


def _info(args: argparse.Namespace) -> int:
    report = info(args.store)
    provenance = report.pop("provenance")
    width = max(len(name) for name in report)
    for name, value in report.items():
        print(f"{name:<{width}}  {value}")
    print(f"{'provenance':<{width}}  {json.dumps(provenance)}")
    return 0
