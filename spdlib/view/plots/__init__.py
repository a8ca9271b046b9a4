"""Figures for notebooks. Each takes tables or arrays and returns a matplotlib Figure.

Figures are not registered with pyplot: a cell shows one when it is the cell's last value.
"""

from spdlib.view.plots.pictures import contact_sheet as contact_sheet
from spdlib.view.plots.pictures import depth_histogram as depth_histogram
from spdlib.view.plots.pictures import error_maps as error_maps
from spdlib.view.plots.pictures import points_in_space as points_in_space
from spdlib.view.plots.pictures import points_picture as points_picture
from spdlib.view.plots.pictures import relative_error as relative_error
from spdlib.view.plots.rules import same_pixels as same_pixels
from spdlib.view.plots.rules import same_predictions as same_predictions
from spdlib.view.plots.scores import accuracy_at_k as accuracy_at_k
from spdlib.view.plots.scores import answer_times as answer_times
from spdlib.view.plots.scores import bin_bars as bin_bars
from spdlib.view.plots.scores import improvement_intervals as improvement_intervals
from spdlib.view.plots.scores import predicted_against_true as predicted_against_true
from spdlib.view.plots.scores import score_bars as score_bars
from spdlib.view.plots.scores import sparse_against_dense as sparse_against_dense
from spdlib.view.plots.training import depth_ranges as depth_ranges
from spdlib.view.plots.training import learning_curves as learning_curves
from spdlib.view.plots.training import recorded_beside as recorded_beside
