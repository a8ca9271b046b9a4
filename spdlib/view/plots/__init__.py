"""Figures for notebooks. Each takes tables or arrays and returns a matplotlib Figure.

Figures are not registered with pyplot: a cell shows one when it is the cell's last value.
"""

from spdlib.view.plots.pictures import (
    contact_sheet,
    depth_histogram,
    error_maps,
    points_in_space,
    points_picture,
    relative_error,
)
from spdlib.view.plots.scores import (
    accuracy_at_k,
    answer_times,
    bin_bars,
    improvement_intervals,
    predicted_against_true,
    score_bars,
    sparse_against_dense,
)
from spdlib.view.plots.training import depth_ranges, learning_curves, recorded_beside

__all__ = [
    "accuracy_at_k",
    "answer_times",
    "bin_bars",
    "contact_sheet",
    "depth_histogram",
    "depth_ranges",
    "error_maps",
    "improvement_intervals",
    "learning_curves",
    "points_in_space",
    "points_picture",
    "predicted_against_true",
    "recorded_beside",
    "relative_error",
    "score_bars",
    "sparse_against_dense",
]
