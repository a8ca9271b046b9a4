"""Bad predictions of other networks: folders of maps, tables of points, and commands."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile.bench import (
    BINARY,
    DIGITS,
    INF,
    NAN,
    Bad,
    Bench,
    content,
    cut,
    npy,
    replaced,
)

MAP = "view 5.npy"
Given = Callable[[Bench], tuple[Path, float, dict[str, Any]]]


def _map(change: Any, metres: float = 1.0, **options: Any) -> Given:
    """The folder after a change of its map."""
    return lambda b: (b.damaged("maps", change, MAP), metres, options)


def _array(array: np.ndarray, metres: float = 1.0, **options: Any) -> Given:
    pickled = array.dtype.hasobject
    return _map(content(npy(array, pickled)), metres, **options)


def _filled(value: float, metres: float = 1.0) -> Given:
    return _array(np.full((12, 16), value, np.float32), metres)


def _spot(value: float) -> Given:
    depth = np.full((12, 16), 2.0, np.float32)
    depth[3, 5] = value
    return _array(depth)


def _picture(array: np.ndarray, metres: float = 0.001) -> Given:
    """The folder with a PNG in place of the map."""

    def made(b: Bench) -> tuple[Path, float, dict[str, Any]]:
        folder = b.without("maps", MAP)
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "png")
        b.written("maps/view 5.png", stream.getvalue())
        return folder, metres, {}

    return made


def _more(name: str) -> Given:
    """The folder with one more file."""

    def made(b: Bench) -> tuple[Path, float, dict[str, Any]]:
        folder = b.copy("maps")
        b.written(f"maps/{name}", npy(np.ones((12, 16))))
        return folder, 1.0, {}

    return made


def _table(change: Any, metres: float = 1.0, **options: Any) -> Given:
    return lambda b: (b.damaged("answers", change), metres, options)


def _first_line(data: bytes) -> bytes:
    return data.splitlines(keepends=True)[0]


def _one_less(data: bytes) -> bytes:
    first, _, *others = data.splitlines(keepends=True)
    return b"".join([first, *others])


def _twice(data: bytes) -> bytes:
    return data + data.splitlines(keepends=True)[1]


MAPS = (
    Bad("score", "no such folder", lambda b: (b.root / "none", 1.0, {}), r"none: does not exist"),
    Bad("score", "a text", lambda b: (b.written("p.txt", "a"), 1.0, {}), r"p\.txt: is neither"),
    Bad("score", "an empty folder", lambda b: (b.root, 1.0, {}), r"'view 5'; add its ID\.npy"),
    Bad("score", "no map of a frame", lambda b: (b.without("maps", MAP), 1.0, {}),
        r"no prediction for frame 'view 5'; add"),
    Bad("score", "a map of no frame", _more("ghost.npy"), r"'ghost', of which.*no frame; remove"),
    Bad("score", "two maps of a frame", _more("view 5.png"), r"'view 5' occurs twice.*drop"),
    Bad("score", "the name of a baseline",
        lambda b: (b.copy("maps"), 1.0, {"name": "constant"}), r"'constant'.*another --name"),
    Bad("score", "a name with a line break",
        lambda b: (b.copy("maps"), 1.0, {"name": "a\nb"}), r"--name: .*rename"),
    Bad("score", "half as large", _array(np.full((6, 8), 2.0)), r"5\.npy: is 6x8.*--resized"),
    Bad("score", "transposed", _array(np.full((16, 12), 2.0)), r"16x12, but.*transpose it"),
    Bad("score", "NaN", _spot(NAN), r"view 5\.npy: NaN or infinite depth in 1 place"),
    Bad("score", "infinite", _spot(INF), r"view 5\.npy: NaN or infinite"),
    Bad("score", "negative", _spot(-1), r"view 5\.npy: 0 or negative depth in 1 .*above 0"),
    Bad("score", "0", _spot(0), r"view 5\.npy: 0 or negative depth"),
    Bad("score", "beyond float32", _array(np.full((12, 16), 1e300)), r"NaN or infinite"),
    Bad("score", "millimetres as metres", _filled(2500), r"5\.npy: median.*correct the unit"),
    Bad("score", "metres as millimetres", _filled(2.5, 0.001), r"median.*correct the unit"),
    Bad("score", "whole numbers", _array(np.ones((12, 16), np.int32)), r"int32.*convert"),
    Bad("score", "three axes", _array(np.ones((1, 12, 16))), r"\[1, 12, 16\].*convert"),
    Bad("score", "objects", _array(np.full((2, 2), None)), r"view 5\.npy.*save"),
    Bad("score", "a map cut", _map(cut(0.7)), r"view 5\.npy.*save"),
    Bad("score", "a map of text", _map(content("depth")), r"view 5\.npy.*save"),
    Bad("score", "a pipe", lambda b: (b.piped("maps", MAP), 1.0, {}), r"view 5\.npy.*pipe"),
    Bad("score", "an 8-bit PNG", _picture(np.full((12, 16), 9, np.uint8)), r"16 bits"),
    Bad("score", "a PNG of 65535", _picture(np.full((12, 16), 65535, np.uint16)), r"65535"),
    Bad("score", "a PNG in metres", _picture(np.full((12, 16), 2, np.uint16), 1.0), r"--unit mm"),
    Bad("score", "a folder called PNG", _more("view 5.png/x.npy"), r"'view 5\.png/x', of which"),
)  # fmt: skip

POINTS = (
    Bad("score", "no table", lambda b: (b.root / "p.csv", 1.0, {}), r"p\.csv: no such file"),
    Bad("score", "a table to resize", _table(content(""), resized=True), r"leave --resized out"),
    Bad("score", "an empty table", _table(content("")), r"points\.csv.*columns frame,u,v,depth"),
    Bad("score", "a binary table", _table(content(BINARY)), r"points\.csv.*UTF-8"),
    Bad("score", "blank lines", _table(content("\n\n\n")), r"points\.csv.*frame,u,v,depth"),
    Bad("score", "no rows", _table(_first_line), r"points\.csv: has no rows"),
    Bad("score", "no column depth", _table(replaced("depth", "disparity")),
        r"'disparity'.*frame,u,v,depth"),
    Bad("score", "a word", _table(replaced("2.5", "near")), r"line 2: depth is 'near'.*correct"),
    Bad("score", "nothing", _table(replaced("2.5", "")), r"line 2: depth is ''.*correct it"),
    Bad("score", "NaN in a table", _table(replaced("2.5", "nan")), r"line 2: depth is 'nan'"),
    Bad("score", "inf in a table", _table(replaced("2.5", "inf")), r"line 2: depth is 'inf'"),
    Bad("score", "5,000 digits", _table(replaced("2.5", DIGITS)), r"line 2: depth is '111"),
    Bad("score", "a cell too many", _table(replaced("2.5", "2.5,1")), r"points\.csv.*line 2"),
    Bad("score", "a cell too few", _table(replaced(",2.5", "")), r"points\.csv, line 2: depth"),
    Bad("score", "a column twice", _table(replaced("v,depth", "u,v,depth")), r"'u', 'u'"),
    Bad("score", "a negative depth", _table(replaced("2.5", "-2.5")), r"0 or negative depth in 1"),
    Bad("score", "a point twice", _table(_twice), r"line \d+: this point was there before"),
    Bad("score", "a missing point", _table(_one_less), r"has no point.*--points-of"),
    Bad("score", "an unknown frame", _table(replaced("view 5", "view 9")),
        r"'view 9', of which.*remove"),
    Bad("score", "no row of a frame",
        _table(lambda data: data.replace(b"view 5", b"5")), r"'view 5'; add its rows"),
    Bad("score", "a table in millimetres", _table(lambda data: data, 1000.0), r"median"),
)  # fmt: skip


def _score(*words: Any) -> Callable[[Bench], list[Any]]:
    return lambda b: [
        *("score", b.copy("maps"), "--data", b.valid.store),
        *(word(b) if callable(word) else word for word in words),
    ]


CALLS = (
    Bad("command", "score without a unit", _score(), r"--unit m, --unit mm or --scale"),
    Bad("command", "score with two units", _score("--unit", "m", "--scale", "1"), r"both"),
    Bad("command", "score in feet", _score("--unit", "ft"), r"'ft'.*m, mm.*--scale"),
    Bad("command", "score with scale 0", _score("--scale", "0"), r"--scale is 0"),
    Bad("command", "score by an unknown protocol",
        _score("--unit", "m", "--protocols", "eigne"), r"'eigne'.*'eigen'"),
    Bad("command", "score maps with the mirror image",
        _score("--unit", "m", "--protocols", "eigen_mirrored"), r"'eigen_mirrored'.*leave it out"),
    Bad("command", "score into a run",
        _score("--unit", "m", "--out", lambda b: b.copy("run")), r"run: holds a run.*another"),
    Bad("command", "score nothing", lambda b: ["score", "--unit", "m"], r"--points-of STORE"),
    Bad("command", "points of nothing",
        lambda b: ["score", "--points-of", b.root / "n.h5"], r"n\.h5"),
)  # fmt: skip

PEERS = (*MAPS, *POINTS, *CALLS)
