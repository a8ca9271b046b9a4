"""Predictions of somebody else's network, from files, scored as our own are.

They come as maps, one a frame, or as one table of points. Whoever made them says in which unit;
nothing is guessed, rescaled or filled. Both are entrants: evaluation does not know of files.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from spdlib.data.files import check_name, check_predicted, read_depth_npy, read_depth_png
from spdlib.data.frames import Frame, Frames
from spdlib.data.sources.base import refuse_duplicates
from spdlib.disk import file_hash
from spdlib.errors import ConfigError, DataError, RunError
from spdlib.machine import origin
from spdlib.reading import read_json, read_text, reading
from spdlib.settings import shown
from spdlib.study.entrants import IMAGE_FREE, Answers, Entrant, PixelMap
from spdlib.study.evaluation import Evaluation, showing_whole_frames
from spdlib.study.protocols import View
from spdlib.study.runs import Run, describe_frames, write_json

UNITS = {"m": 1.0, "mm": 0.001}
"""Metres of one."""
SUFFIXES = (".npy", ".png")
COLUMNS = ("frame", "u", "v", "depth")
REMEDY = "write it as CSV in UTF-8 with the columns frame,u,v,depth"
TABLES = ("metrics", "bins", "frames")
"""What a folder of scores has, as a run's has them."""
SCORED = "predictions"
"""In a record: what was scored, where that was no run."""


class Stored(Entrant):
    """Predictions in files."""

    files: Mapping[str, Path]
    """What was read, by a name that is no path of this machine."""


def metres_of(unit: str | None, scale: float | None) -> float:
    """Metres of a step of the files. ConfigError: neither was said, or both, or no such number."""
    if (unit is None) == (scale is None):
        said = "both are given" if unit is not None else "neither is given"
        raise ConfigError(
            f"say in which unit the predictions are: --unit m, --unit mm or --scale METRES of one "
            f"step; {said}"
        )
    if unit is not None and unit not in UNITS:
        raise ConfigError(f"unit is {unit!r}; choose one of {', '.join(UNITS)}, or give --scale")
    metres = UNITS[unit] if unit is not None else float(scale or 0)
    if not 0 < metres < np.inf:
        raise ConfigError(f"--scale is {scale}; give the metres of one step, such as 0.001")
    return metres


def open_predictions(
    path: str | Path,
    ids: Sequence[str],
    metres: float,
    *,
    name: str | None = None,
    resized: bool = False,
) -> Stored:
    """Maps in a folder, or points in a .csv, for the frames of these ids.

    Args:
        path: folder of ID.npy (floats) or ID.png (uint16), or a table of `COLUMNS`.
        ids: every frame that is scored; no more and no less must be predicted.
        metres: of one step of the files, see `metres_of`.
        name: in tables; default that of the folder or file.
        resized: maps may have another size than their frame.

    Raises:
        DataError: neither of the two, a frame without prediction or the reverse, a damaged table.
        ConfigError: a name that no table could hold, or points that are resized.
    """
    path = Path(path)
    called = path.resolve().stem if name is None else name
    check_name(called, "--name")
    if called in IMAGE_FREE:
        raise ConfigError(f"{called!r} is an image-free baseline in tables; give another --name")
    if path.is_dir():
        return StoredMaps(path, ids, metres, called, resized)
    if path.suffix.lower() == ".csv":
        if resized:
            raise ConfigError(f"{path}: points are of the frame's own pixels; leave --resized out")
        return StoredPoints(path, ids, metres, called)
    kind = "is neither a folder of depth maps nor a .csv" if path.exists() else "does not exist"
    raise DataError(f"{path}: {kind}; give a folder of ID.npy or ID.png, or a table {COLUMNS}")


class StoredMaps(Stored):
    """A folder of depth maps, ID.npy or ID.png; see `open_predictions`."""

    def __init__(
        self, folder: Path, ids: Sequence[str], metres: float, name: str, resized: bool = False
    ) -> None:
        self.name, self.metres, self.resized = name, metres, resized
        self.told = f"stored maps, {metres:g} m a step"
        if resized:
            self.told += ", of other sizes, read bilinearly under the half-pixel rule"
        files = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
        found = [path for path in files if path.suffix.lower() in SUFFIXES]
        named = [(path.relative_to(folder).with_suffix("").as_posix(), path) for path in found]
        refuse_duplicates(named, str(folder))
        self._maps = dict(named)
        _refuse_unpaired(self._maps, ids, str(folder), "ID.npy or ID.png")
        self.files = {path.relative_to(folder).as_posix(): path for path in found}

    def __call__(self, frame: Frame) -> PixelMap:
        """The frame's map. DataError: it cannot be read or used."""
        path = self._maps[frame.id]
        depth = read_depth_npy(path) if path.suffix.lower() == ".npy" else self._steps(path)
        depth = depth * np.float32(self.metres)
        check_predicted(depth, str(path))
        if depth.shape != frame.camera.size and not self.resized:
            ours, theirs = ("x".join(map(str, s)) for s in (frame.camera.size, depth.shape))
            turned = depth.shape == frame.camera.size[::-1]
            remedy = "transpose it" if turned else "give --resized to read it bilinearly"
            raise DataError(f"{path}: is {theirs}, but frame {frame.id!r} is {ours}; {remedy}")
        return PixelMap(torch.from_numpy(depth))

    def _steps(self, path: Path) -> np.ndarray:
        if self.metres == 1:
            raise DataError(
                f"{path}: a PNG holds whole numbers, which are no metres; give --unit mm, or "
                "--scale with the metres of one step"
            )
        return read_depth_png(path).astype(np.float32)


class StoredPoints(Stored):
    """A table of predicted points, of whole frames' pixels; see `open_predictions`."""

    def __init__(self, table: Path, ids: Sequence[str], metres: float, name: str) -> None:
        self.name, self.told = name, f"stored points, {metres:g} m a step"
        self.files = {table.name: table}
        rows = _read_points(table)
        self._where = str(table)
        self._points = {
            str(frame): dict(zip(zip(own["u"], own["v"], strict=True), own["depth"], strict=True))
            for frame, own in rows.assign(depth=rows["depth"] * metres).groupby("frame")
        }
        _refuse_unpaired(self._points, ids, str(table), "rows (ids are text: 00045 is not 45)")
        check_predicted(rows["depth"].to_numpy() * metres, str(table))

    def __call__(self, frame: Frame) -> Callable[[View], Answers]:
        """The frame's points."""
        return lambda _: PointAnswers(self._points[frame.id], f"{self._where}: frame {frame.id!r}")


class PointAnswers(NamedTuple):
    """Depths of single pixels; nothing lies between them."""

    depth: Mapping[tuple[float, float], float]
    where: str

    def depth_at(self, points: Tensor, group: int | None = None) -> Tensor:
        """Depth [K] in metres at points [K, 2], each of which must be in the table."""
        asked = [(u, v) for u, v in points.tolist()]
        for u, v in asked:
            if (u, v) not in self.depth:
                raise DataError(
                    f"{self.where} has no point ({u:g}, {v:g}), at which it is scored; predict "
                    "every point of `spdlib score --points-of STORE`, for the same protocols"
                )
        return torch.tensor([self.depth[point] for point in asked])

    def dense(self) -> None:
        """No map."""


def points_to_answer(
    frames: Frames, protocols: Sequence[str] = ("eigen",), truths: Sequence[str] | None = None
) -> pd.DataFrame:
    """The points at which `evaluation.score` will look, for a table of predictions.

    Returns:
        A row a point: frame, u, v, in pixels of the whole frame.

    RunError, ConfigError, DataError: as of `evaluation.score`.
    """
    chosen, truths = showing_whole_frames(frames, protocols, truths)
    parts = []
    for index, name in enumerate(tqdm(frames.ids, "finding points", unit="frame", disable=None)):
        frame = frames[index]
        found = [
            sites.points
            for protocol in chosen
            for truth in truths
            for sites in protocol.sites(protocol.view(frame, truth)[1], frame.id).values()
            if sites.points is not None
        ]
        points = torch.cat(found).unique(dim=0).numpy()
        parts.append(pd.DataFrame({"frame": name, "u": points[:, 0], "v": points[:, 1]}))
    return pd.concat(parts, ignore_index=True)


def _refuse_unpaired(found: Mapping[str, Any], ids: Sequence[str], where: str, kind: str) -> None:
    """DataError unless there are predictions for exactly these frames."""
    missing, more = [name for name in ids if name not in found], sorted(found.keys() - set(ids))
    for names, problem, remedy in (
        (missing, "has no prediction for frame", f"; add its {kind}"),
        (more, "predicts", ", of which the test split has no frame; remove it"),
    ):
        if names:
            others = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise DataError(f"{where}: {problem} {names[0]!r}{others}{remedy}")


def _read_points(table: Path) -> pd.DataFrame:
    """Frame, u, v and depth as numbers; DataError names the line of what is none."""
    text = read_text(table, DataError, REMEDY)
    with reading(table, "is no readable table", REMEDY):
        options: Any = {"header": None, "dtype": str, "keep_default_na": False}
        cells = pd.read_csv(io.StringIO(text), skip_blank_lines=False, **options)
    cells = cells[(cells != "").any(axis=1)]
    columns = list(cells.iloc[0]) if len(cells) else []
    rows = cells[1:].set_axis(columns, axis=1)
    if not set(COLUMNS) <= set(columns) or len(set(columns)) < len(columns):
        raise DataError(f"{table}: has the columns {shown(columns)}; {REMEDY}")
    if rows.empty:
        raise DataError(f"{table}: has no rows; {REMEDY}")
    numbers = {name: pd.to_numeric(rows[name], errors="coerce") for name in COLUMNS[1:]}
    for name, values in numbers.items():
        for line in rows.index[~np.isfinite(values)][:1]:
            given = shown(str(rows.loc[line, name]))
            raise DataError(
                f"{table}, line {line + 1}: {name} is {given}, not a finite number; correct it"
            )
    rows = rows[["frame"]].assign(**numbers)
    for line in rows.index[rows.duplicated(["frame", "u", "v"])][:1]:
        raise DataError(f"{table}, line {line + 1}: this point was there before; keep one")
    return rows


# -- folders of scores ------------------------------------------------------------------------


def scores_folder(folder: str | Path) -> Run:
    """A folder for scores. RunError: it holds a run, a network, or another's record."""
    run = Run(Path(folder))
    recorded = read_json(run.record_path, RunError) if run.record_path.exists() else {SCORED: {}}
    if run.exists or SCORED not in recorded:
        raise RunError(
            f"{folder}: holds a run, or other files named config.json or record.json; choose "
            "another folder for the scores"
        )
    return run


def save_scores(folder: str | Path, scores: Evaluation, stored: Stored, frames: Frames) -> None:
    """Write metrics.csv, bins.csv, frames.csv and a record, for `side_by_side`.

    The record has the SHA-256 of every file of predictions, what was scored and how, code version
    and machine.

    RunError: the folder holds something else, or cannot be written.
    """
    run = scores_folder(folder)
    for name in TABLES:
        run.write_table(name, getattr(scores, name))
    files = {name: file_hash(path) for name, path in stored.files.items()}
    evaluation = {"test": describe_frames(frames), "protocols": dict(scores.notes), **origin()}
    predictions = {"name": stored.name, "told": stored.told, "files": files}
    write_json(run.record_path, {SCORED: predictions, "evaluation": evaluation})


class SideBySide(NamedTuple):
    """Tables of several folders that scored the same frames; see `Run` for their columns."""

    metrics: pd.DataFrame
    bins: pd.DataFrame
    frames: pd.DataFrame


def side_by_side(*folders: str | Path) -> SideBySide:
    """Evaluated runs and scored predictions in one set of tables, for figures and comparisons.

    `model` is the network's or the predictions' name, or the folder's where two have one name. The
    image-free baselines are those of the first folder that has them.

    RunError: a folder without scores, or other test frames than the first folder's.
    """
    runs = [Run(Path(folder)) for folder in folders]
    scored = [_scored(run) for run in runs]
    names = [name for name, _ in scored]
    labels = _told_apart(names, [run.folder.resolve() for run in runs])
    for run, (_, test) in zip(runs, scored, strict=True):
        if test != scored[0][1]:
            raise RunError(
                f"{run.folder} scored other test frames than {runs[0].folder}; score both on one "
                "store"
            )
    tables = []
    for table in TABLES:
        parts = [
            getattr(run, table).replace({"model": {name: label}})
            for run, name, label in zip(runs, names, labels, strict=True)
        ]
        keys = [
            k for k in ("model", "protocol", "sites", "metric", "bin", "frame") if k in parts[0]
        ]
        tables.append(pd.concat(parts, ignore_index=True).drop_duplicates(keys, ignore_index=True))
    return SideBySide(*tables)


def _told_apart(names: list[str], folders: list[Path]) -> list[str]:
    """Names, or the folders' where several have one name. RunError: a folder is given twice."""
    longer = [folder.name for folder in folders]
    if len(set(longer)) < len(longer):
        longer = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    pairs = zip(names, longer, strict=True)
    labels = [folder if names.count(name) > 1 else name for name, folder in pairs]
    if twice := sorted({name for name in labels if labels.count(name) > 1}):
        raise RunError(f"{twice[0]!r} is given twice; give every folder once")
    return labels


def _scored(run: Run) -> tuple[str, list[Any]]:
    """The name of what a folder scored, and what identifies the frames; RunError: nothing."""
    found = run.record_path.is_file()
    record = read_json(run.record_path, RunError) if found else {}
    if "evaluation" not in record:
        raise RunError(
            f"{run.folder} holds no scores; `spdlib evaluate` or `spdlib score --out` writes them"
        )
    with reading(run.record_path, "is no record of scores", "score again", RunError):
        test = record["evaluation"]["test"]
        name = record[SCORED]["name"] if SCORED in record else run.config.model.network
        return str(name), [test["ids_hash"], test.get("fingerprint")]
