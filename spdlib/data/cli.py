"""The command `data` with its actions `pack`, `verify` and `info`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spdlib.data.files import MILLIMETRES
from spdlib.data.frames import TRUTHS, Frame, Frames
from spdlib.data.sources import open_source
from spdlib.data.store import COMPRESSIONS, info, pack, verify


class Joined:
    """The frames of several splits, one after the other."""

    def __init__(self, splits: Mapping[str, Frames]) -> None:
        self.splits = dict(splits)
        self.raw_holes = False
        self._places = [(name, i) for name, frames in splits.items() for i in range(len(frames))]

    @property
    def ids(self) -> list[str]:
        """Frame names in order."""
        return [name for frames in self.splits.values() for name in frames.ids]

    @property
    def split_of(self) -> dict[str, str]:
        """Frame id -> split."""
        names = (split for split, _ in self._places)
        return dict(zip(self.ids, names, strict=True))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Frame:
        split, position = self._places[index]
        frame = self.splits[split][position]
        self.raw_holes = self.raw_holes or ("raw" in frame.depths and _has_holes(frame))
        return frame


def _has_holes(frame: Frame) -> bool:
    """Whether the raw depth lacks a pixel inside the frame's valid box."""
    height, width = frame.image.shape[:2]
    top, left, bottom, right = frame.valid_box or (0, 0, height - 1, width - 1)
    return not frame.depths["raw"][top : bottom + 1, left : right + 1].all()


def add_data(parser: argparse.ArgumentParser) -> None:
    """Arguments of `data`; each of its actions sets `command`."""
    actions = parser.add_subparsers(dest="action", required=True)
    text = "pack a data set of any known layout into one HDF5 file (see data/README.md)"
    _add_pack(actions.add_parser("pack", help=text, description=text))
    for name, command, text in (
        ("verify", _verify, "recompute every checksum of a store and check every frame"),
        ("info", _info, "say what a store holds"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("store", type=Path, help="a packed store")
        action.set_defaults(command=command)


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder or labelled .mat; the layout is detected")
    parser.add_argument("out", type=Path, help="the store to write")
    parser.add_argument("--truth", choices=TRUTHS, help="what the source's depth is")
    parser.add_argument("--split-file", type=Path, help="splits.mat or test list for the .mat")
    parser.add_argument("--list-file", type=Path, help="published list of a BTS sync folder")
    parser.add_argument("--labels", type=Path, help="folder of labels_NNNNN.png for a BTS folder")
    scale = f"metres per PNG step of your own folder (default {MILLIMETRES})"
    parser.add_argument("--depth-scale", type=float, help=scale)
    size = "resize, so that the store travels"
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help=size)
    parser.add_argument("--compression", choices=COMPRESSIONS, default="none")
    parser.set_defaults(command=_pack)


def _pack(args: argparse.Namespace) -> int:
    names = ("truth", "split_file", "list_file", "labels", "depth_scale")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    splits = open_source(args.source, **options)
    joined = Joined(splits)
    counts = ", ".join(f"{name} {len(frames)}" for name, frames in splits.items())
    print(f"{args.source}: {type(next(iter(splits.values()))).__name__}, {counts}")
    if "all" in splits:
        print("note: the source names no split, so every frame is in the split 'all'")
    pack(
        joined,
        args.out,
        joined.split_of,
        _described(args.source, splits, options),
        size=tuple(args.size) if args.size else None,
        compression=args.compression,
        progress=True,
    )
    assumed_raw = any(getattr(frames, "truth", None) == "raw" for frames in splits.values())
    if assumed_raw and "truth" not in options and not joined.raw_holes:
        print(
            "note: this depth, taken for raw, has no holes, so it is probably in-painted; if it "
            "is, pack it again with --truth inpainted"
        )
    return _info(argparse.Namespace(store=args.out))


def _described(
    source: Path, splits: Mapping[str, Frames], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Provenance of a source: names only, so that no machine's folders travel with the store."""
    return {
        "layout": type(next(iter(splits.values()))).__name__,
        "source": source.resolve().name,
        "options": {k: v.name if isinstance(v, Path) else v for k, v in options.items()},
    }


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
