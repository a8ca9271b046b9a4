"""What figures show of an evaluation: answers at points, whole maps of a few frames; their files.

They show frames of data that may not be redistributed, and are never published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from spdlib.data.frames import Frame
from spdlib.data.queries import PointSample, evaluation_points
from spdlib.errors import RunError
from spdlib.scene import GROUP
from spdlib.study.entrants import Look, SceneAnswers
from spdlib.study.metrics import of_all_processes
from spdlib.study.protocols import View
from spdlib.study.runs import Run, write_bytes

EXAMPLES_FILE = "examples.safetensors"
ANSWERS_FILE = "answers.safetensors"

Arrays = Mapping[str, Mapping[str, np.ndarray]]
"""Id of a frame -> name -> array."""


class Kept:
    """Answers of the network at the eigen points of every frame, and whole maps of a few frames."""

    def __init__(self, wanted: Sequence[int], truths: Sequence[str]) -> None:
        self.wanted, self.truths = wanted, truths
        self.points: dict[int, dict[str, np.ndarray]] = {}
        self.examples: dict[int, dict[str, np.ndarray]] = {}

    def add(self, frame: Frame, index: int, look: Look) -> None:
        """Keep the answers to one frame."""
        answers = look(View(frame.image, frame.camera, frame.camera))
        samples = {
            truth: evaluation_points(torch.from_numpy(frame.truth(truth)), frame.id)
            for truth in self.truths
        }
        self.points[index] = {}
        for truth, sample in samples.items():
            depth = answers.depth_at(sample.points, GROUP)
            for name, values in (("prediction", depth), ("truth", sample.truth)):
                self.points[index][f"{truth}.{name}"] = values.float()[sample.valid].numpy()
        if index in self.wanted:
            truth = self.truths[0]
            self.examples[index] = _example(answers, frame, truth, samples[truth])

    def by_frame(self, ids: Sequence[str], processes: Any) -> tuple[Arrays, Arrays]:
        """Examples and points of all processes, by frame id in the frames' order."""
        kept = []
        for mine in (self.examples, self.points):
            parts = of_all_processes(mine, processes)
            whole = {index: arrays for part in parts for index, arrays in part.items()}
            kept.append({ids[index]: whole[index] for index in sorted(whole)})
        return kept[0], kept[1]


def _example(
    answers: SceneAnswers, frame: Frame, truth: str, sample: PointSample
) -> dict[str, np.ndarray]:
    arrays = {
        "image": frame.image,
        "truth": frame.truth(truth).astype(np.float32),
        "points": sample.points.numpy(),
        "point_truth": sample.truth.numpy(),
        "point_depth": answers.depth_at(sample.points, GROUP).float().numpy(),
    }
    full = answers.dense()
    if full is None:
        return arrays
    sparse, dense = answers.lattice()
    maps = {"dense": full, "lattice_sparse": sparse, "lattice_dense": dense}
    return arrays | {name: values.float().numpy() for name, values in maps.items()}


def write_arrays(path: str | Path, arrays: Arrays) -> None:
    """Write arrays of frames to one safetensors file, by rename. RunError if that is impossible."""
    tensors = {
        f"{number}.{name}": torch.from_numpy(np.ascontiguousarray(array))
        for number, of_frame in enumerate(arrays.values())
        for name, array in of_frame.items()
    }
    write_bytes(path, safetensors.torch.save(tensors, {"ids": json.dumps(list(arrays))}))


def read_arrays(run: Run, name: str) -> dict[str, dict[str, np.ndarray]]:
    """Inverse of `write_arrays` for a file of a run.

    Raises:
        RunError: the run was not evaluated, or the file is damaged.
    """
    path = run.folder / name
    if not path.is_file():
        raise RunError(f"{run.folder} has no {name}; evaluate the run first")
    try:
        with safe_open(path, framework="np") as file:
            ids = json.loads((file.metadata() or {})["ids"])
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}); evaluate the run again") from error
    frames: dict[str, dict[str, np.ndarray]] = {frame_id: {} for frame_id in ids}
    for key, array in arrays.items():
        number, field = key.split(".", 1)
        frames[ids[int(number)]][field] = array
    return frames


def load_examples(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """Examples of a run's evaluation, by frame id.

    Each holds image (uint8 [H, W, 3]), truth [H, W] metres, points [K, 2], point_truth [K] and
    point_depth [K] metres; for networks with a dense path also dense [H, W] metres, and
    lattice_sparse and lattice_dense [N] metres: both paths at the sites of the network's lattice.

    Raises:
        RunError: the run was not evaluated, or the file is damaged.
    """
    return read_arrays(run, EXAMPLES_FILE)


def load_answers(run: Run, truth: str | None = None) -> pd.DataFrame:
    """Answers of a run's evaluation at the eigen points; see `points_table`.

    Raises:
        RunError: the run was not evaluated against that truth, or the file is damaged.
    """
    return points_table(read_arrays(run, ANSWERS_FILE), truth)


def points_table(answers: Arrays, truth: str | None = None) -> pd.DataFrame:
    """Answers at the eigen protocol's points of every frame, beside the truth.

    Args:
        answers: id of a frame -> "TRUTH.prediction" and "TRUTH.truth", float32 [K] metres.
        truth: name of the truth; None takes the one that was scored first.

    Returns:
        DataFrame frame, prediction, truth (metres), one row a point whose truth is known.

    Raises:
        RunError: no frame was scored against that truth.
    """
    kinds = list(dict.fromkeys(n.split(".")[0] for each in answers.values() for n in each))
    kind = truth or next(iter(kinds), None)
    if kind not in kinds:
        raise RunError(f"no answers were scored against {kind!r}, but against {kinds}")
    parts = [
        pd.DataFrame({"frame": frame, **{n: each[f"{kind}.{n}"] for n in ("prediction", "truth")}})
        for frame, each in answers.items()
    ]
    return pd.concat(parts, ignore_index=True)


def sparse_and_dense(examples: Arrays) -> pd.DataFrame:
    """Both paths' answers at the same places of the examples of a network with a dense path.

    Returns:
        DataFrame where, sparse, dense (metres): at all sites of the network's own lattice, where
        both paths compute the same function, and at pixels, where the dense map is interpolated.
    """
    parts = []
    for each in examples.values():
        u, v = each["points"].astype(np.int64).T
        pairs = {
            "lattice sites": (each["lattice_sparse"], each["lattice_dense"]),
            "image pixels": (each["point_depth"], each["dense"][v, u]),
        }
        for where, (sparse, dense) in pairs.items():
            parts.append(pd.DataFrame({"where": where, "sparse": sparse, "dense": dense}))
    return pd.concat(parts, ignore_index=True)
