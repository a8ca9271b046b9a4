"""The K sweep: whether an answer depends on how many points are asked together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from spdlib.data.frames import Frame
from spdlib.data.queries import EIGEN_POINTS, evaluation_points
from spdlib.scene import GROUP
from spdlib.study.entrants import Answers
from spdlib.study.metrics import EigenMetrics, merge_processes, of_all_processes
from spdlib.study.protocols import View

SWEEP = (1, 64, 256, 1024)
SWEEP_SINGLES = 64
"""How many of a frame's points are asked one by one."""
SWEEP_FRAMES = 16
"""Frames of the K sweep, evenly spread. Few will do for its means, which compare the same points;
its largest change of an answer grows with their number."""
INDEPENDENT_SWEEP_FRAMES = 4
"""Frames that are enough where queries are independent by construction."""


class KSweep:
    """The eigen points of some frames, asked in groups of different size."""

    def __init__(self, wanted: Sequence[int], truth: str) -> None:
        self.wanted, self.truth = set(wanted), truth
        # of each row's points, in groups of k and in groups of 256
        self.scores = {(k, group): EigenMetrics() for k in SWEEP for group in ("k", "256")}
        self.difference = dict.fromkeys(SWEEP, 0.0)

    def add(self, frame: Frame, index: int, look: Callable[[View], Answers]) -> None:
        """Ask one frame's points in all groupings."""
        if index not in self.wanted:
            return
        answers = look(View(frame.image, frame.camera, frame.camera))
        sample = evaluation_points(torch.from_numpy(frame.truth(self.truth)), frame.id)
        reference = answers.depth_at(sample.points, GROUP)
        for k in SWEEP:
            some = slice(SWEEP_SINGLES if k == 1 else len(sample.points))
            depth, same = answers.depth_at(sample.points[some], k), reference[some]
            change = float((depth - same).abs().max())
            self.difference[k] = float(np.maximum(self.difference[k], change))  # keeps NaN
            known = sample.truth[None, some].to(depth), sample.valid[None, some]
            self.scores[k, "k"].update(depth[None], *known, [index])
            self.scores[k, "256"].update(same[None], *known, [index])

    def table(self, processes: Any, independent: bool) -> pd.DataFrame:
        """One row per group size."""
        merged = merge_processes(self.scores, processes)
        computed = {key: scores.compute() for key, scores in merged.items()}
        differences = of_all_processes(self.difference, processes)
        return pd.DataFrame(
            {
                "k": k,
                "points": SWEEP_SINGLES if k == 1 else EIGEN_POINTS,
                "abs_rel": computed[k, "k"]["abs_rel"],
                "abs_rel_same_points": computed[k, "256"]["abs_rel"],
                **{name: computed[k, "k"][name] for name in ("rmse", "delta1")},
                "max_abs_difference": np.max([each[k] for each in differences]),
                "frames": int(computed[k, "k"]["frames"]),
                "independent": independent,
            }
            for k in SWEEP
        )
