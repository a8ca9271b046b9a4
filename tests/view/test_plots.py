"""Figures: what they show, in which units, and that they leave the caller's settings alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import matplotlib as mpl
import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from pictures import drawn, words

import spdlib
from spdlib.errors import RunError
from spdlib.study.comparison import EPOCHS, Measured, compare_tables
from spdlib.view import plots
from spdlib.view.diagram import network_diagram
from spdlib.view.plots.style import model_colours


def axis_labels(figure: Figure) -> set[str]:
    return {label for ax in figure.axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label}


@pytest.fixture
def depth() -> np.ndarray:
    """A slope from 1 m to 4 m with an unmeasured corner."""
    metres = np.tile(np.linspace(1, 4, 32, dtype=np.float32), (24, 1))
    metres[:4, :4] = 0
    return metres


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)


def test_learning_curves_ring_the_best_evaluation(history: pd.DataFrame) -> None:
    figure = plots.learning_curves(history)
    assert len(figure.axes) == 3
    assert axis_labels(figure) >= {"epoch", "loss", "AbsRel"}
    assert figure.axes[1].get_title(loc="left").endswith(f"best {history['sel_abs_rel'].min():.3f}")
    ring = np.asarray(figure.axes[1].lines[-1].get_xdata())
    assert ring.tolist() == [history["epoch"].iloc[-1]]
    drawn(figure)


def test_ranges_show_both_bands_in_metres(history: pd.DataFrame) -> None:
    figure = plots.depth_ranges(history)
    assert "depth [m]" in axis_labels(figure)
    assert {"truth", "prediction"} <= set(words(figure))


def test_one_evaluation_is_enough_for_curves(history: pd.DataFrame) -> None:
    for figure in (plots.learning_curves(history[:1]), plots.depth_ranges(history[:1])):
        drawn(figure)


def test_the_recorded_run_stands_beside_ours(compared: pd.DataFrame) -> None:
    figure = plots.recorded_beside(compared)
    panels = figure.axes[:3]
    assert [ax.get_title(loc="left") for ax in panels] == ["AbsRel", "δ1", "s*"]
    epochs = [np.size(line.get_xdata()) for line in panels[0].lines]
    assert epochs == [7, 1, 10, 1]  # the record and its ring, the run and its diamond
    said = words(figure)
    assert "log: exp13, v15_1, recorded, 128 points, 654 test frames, nyu" in said
    assert "tiny, v15_2: eigen/exact, 1,024 points, 2 selection frames, rooms" in said
    assert "0.115" in said
    assert "not fair" not in " ".join(said)  # reasons stand in a table


def test_a_record_without_epochs_is_a_level(measured: Measured) -> None:
    table = compare_tables([measured], "exp12_attempt3")
    figure = plots.recorded_beside(table[table["metric"] != "s_star"])
    (panel,) = figure.axes  # δ1 is not on record
    level = np.asarray(panel.lines[0].get_ydata(), dtype=float)
    assert level.tolist() == [0.2282, 0.2282]
    drawn(figure)


def test_scores_are_written_where_no_line_is_long(compared: pd.DataFrame) -> None:
    """A smoke run beside a record of two epochs."""
    by_epoch = compared["pairing"] == EPOCHS
    few = compared[by_epoch].groupby("metric").head(2)
    figure = plots.recorded_beside(pd.concat([few, compared[~by_epoch]]))
    assert max(np.size(line.get_xdata()) for line in figure.axes[0].lines) == 2
    assert {"0.115", "0.200"} <= set(words(figure))


def test_metrics_that_are_not_compared_are_refused(compared: pd.DataFrame) -> None:
    losses = compared[compared["metric"] == "train_loss"]
    with pytest.raises(RunError, match=r"none of \['abs_rel', .*, but \['train_loss'\]"):
        plots.recorded_beside(losses)


def test_several_runs_have_their_own_colours(measured: Measured) -> None:
    again = measured._replace(name="again")
    figure = plots.recorded_beside(compare_tables([measured, again], "exp13"))
    lines = [line for line in figure.axes[0].lines if np.size(line.get_xdata()) == 10]
    assert len({line.get_color() for line in lines}) == 2
    assert any(text.startswith("again, v15_2: eigen") for text in words(figure))


def test_score_bars_show_the_deciding_protocol_and_write_the_others(metrics: pd.DataFrame) -> None:
    figure = plots.score_bars(metrics)
    assert [ax.get_title("left") for ax in figure.axes] == ["AbsRel", "RMSE [m]", "δ1"]
    said = "\n".join(words(figure))
    assert "eigen/exact, points, 20 test frames" in said
    assert "AbsRel of v15_2 otherwise: 0.200 (eigen/exact, dense), 0.200 (recorded" in said
    assert {"v15_2", "best constant", "best per-pixel map", "0.400"} <= set(said.splitlines())


def rules_applied() -> pd.DataFrame:
    """The same predictions by twelve rules: aligned by half, pooled by a tenth more."""
    aligned = ("as predicted", "aligned by the median (uses the truth)", "aligned by a fit")
    rows = [
        {
            "protocol": f"p{number}{mirrored}{averaged}/raw",
            "aligned": words,
            "mirrored": mirrored,
            "averaged": averaged,
            "abs_rel": 0.2 / (1 + number) * (1.1 if averaged != "per image" else 1),
            "s_star": np.nan,
        }
        for averaged in ("per image", "pooled over all images")
        for mirrored in (False, True)
        for number, words in enumerate(aligned)
    ]
    return pd.DataFrame(rows)


def test_rules_show_how_far_the_same_predictions_move() -> None:
    figure = plots.same_predictions(rules_applied(), "v15_2, 20 frames")
    assert [ax.get_title("left") for ax in figure.axes] == ["AbsRel"]  # s* is known of no row
    said = words(figure)
    assert {"v15_2, 20 frames", "aligned by a fit", "0.200", "0.100  −50 %"} <= set(said)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 12 and labels.count("with mirror image, pooled") == 3
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 6


def test_bin_bars_survive_an_empty_bin(bins: pd.DataFrame) -> None:
    figure = plots.bin_bars(bins)
    said = words(figure)
    assert {"0–2 m\n3% of pixels", "2–5 m\n97% of pixels", "5–10 m\n0% of pixels"} <= set(said)
    assert axis_labels(figure) >= {"true depth (eigen/exact, points)", "lower is better"}


def test_intervals_show_what_was_wanted() -> None:
    table = pd.DataFrame(
        {
            "baseline": ["constant", "pixel_map"],
            "protocol": ["eigen/exact", "recorded/exact"],
            "sites": "points",
            "improvement": [50.0, 33.0],
            "low": [45.0, np.nan],
            "high": [55.0, np.nan],
        }
    )
    said = words(plots.improvement_intervals(table, wanted=20))
    assert {"50.0 %", "33.0 %", "wanted: 20 %"} <= {text.strip() for text in said}


def test_predictions_are_drawn_on_equal_logarithmic_axes() -> None:
    truth = np.geomspace(0.8, 8, 5000)
    figure = plots.predicted_against_true(1.1 * truth, truth, "v15_2, eigen/exact")
    axes = figure.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlim() == axes.get_ylim()
    assert {"true depth [m]", "predicted depth [m]", "points"} <= axis_labels(figure)
    median = next(line for line in axes.lines if line.get_label() == "median prediction")
    x, y = np.asarray(median.get_xdata()), np.asarray(median.get_ydata())
    assert np.allclose(y / x, 1.1, rtol=0.03)
    drawn(figure)


def test_impossible_pairs_are_left_out() -> None:
    prediction = np.array([1.0, np.nan, 2.0, 0.0, 3.0])
    truth = np.array([1.0, 2.0, 0.0, 1.0, 3.0])
    mesh = plots.predicted_against_true(prediction, truth, "").axes[0].collections[0]
    assert np.nansum(np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan)) == 2


def test_small_differences_are_given_in_parts_per_million() -> None:
    dense = np.linspace(1, 5, 200)
    pairs = pd.concat(
        [
            pd.DataFrame({"where": "lattice sites", "sparse": dense * (1 + 1e-7), "dense": dense}),
            pd.DataFrame({"where": "image pixels", "sparse": dense * 1.01, "dense": dense}),
        ]
    )
    labels = axis_labels(figure := plots.sparse_against_dense(pairs))
    assert "(sparse − dense) / dense [ppm]" in labels
    assert "(sparse − dense) / dense [%]" in labels
    assert any("median 1 %" in text for text in words(figure))


def test_identical_answers_can_be_drawn(k_sweep: pd.DataFrame) -> None:
    dense = np.linspace(1, 5, 50)
    same = pd.DataFrame({"where": "lattice sites", "sparse": dense, "dense": dense})
    drawn(plots.sparse_against_dense(same))
    drawn(plots.accuracy_at_k(k_sweep.assign(max_abs_difference=0.0)))


def test_independent_queries_are_said_not_drawn(k_sweep: pd.DataFrame) -> None:
    figure = plots.accuracy_at_k(k_sweep)
    assert not any(ax.patches for ax in figure.axes)
    said = "\n".join(words(figure))
    assert "The queries are independent" in said
    assert "Largest change: 0.3 µm, which is rounding" in said
    assert "AbsRel 0.200 at 1,024 points of each of 20 frames" in said


def test_each_k_is_compared_with_256_at_the_same_points(k_sweep: pd.DataFrame) -> None:
    sweep = k_sweep.assign(
        abs_rel=[0.22, 0.19, 0.2, 0.2],
        abs_rel_same_points=[0.2, 0.2, 0.2, 0.2],
        max_abs_difference=[1.48, 0.7, 0.0, 0.6],
    )
    figure = plots.accuracy_at_k(sweep)
    changes = np.asarray(figure.axes[0].lines[-1].get_ydata(), dtype=float)
    assert np.allclose(changes, [10, -5, 0, 0])
    said = words(figure)
    assert {"1\n64 points", "1,024\n1,024 points", "+10.0 %", "1.48", "reference"} <= set(said)


@pytest.mark.parametrize(("whole", "crossing"), [(2.0, "about 46 queries\ncost as much"), (9, "")])
def test_times_mark_where_a_whole_map_is_cheaper(whole: float, crossing: str) -> None:
    rows = [("encode the image, once", 0, 20.0), ("queries", 1, 1.0), ("queries", 100, 2.3)]
    times = pd.DataFrame(
        [*rows, ("whole map", 9000, whole)], columns=["operation", "queries", "milliseconds"]
    )
    said = words(plots.answer_times(times))
    assert {"encode the image, once: 20 ms", f"whole map: {whole:.1f} ms", "2.3"} <= set(said)
    found = [text for text in said if "cost as much as" in text]
    assert [text.startswith(crossing) for text in found] == [True] * bool(crossing)


def test_histograms_leave_unmeasured_pixels_out(depth: np.ndarray) -> None:
    said = words(plots.depth_histogram({"slope": depth, "nothing": np.zeros(3)}))
    assert f"slope: median {np.median(depth[depth > 0]):.2f} m" in said
    assert "nothing: empty" in said


def test_contact_sheets_share_one_scale_in_metres(image: np.ndarray, depth: np.ndarray) -> None:
    figure = plots.contact_sheet([image] * 7, [depth * s for s in np.linspace(0.5, 2, 7)])
    pictures = [ax.images[0] for ax in figure.axes if ax.images]
    maps = [picture for picture in pictures if np.ma.asarray(picture.get_array()).ndim == 2]
    assert len(maps) == 7
    assert len({(m.norm.vmin, m.norm.vmax) for m in maps}) == 1
    assert "depth [m]" in axis_labels(figure)
    drawn(figure)


def test_error_maps_share_scales_and_mask_what_was_not_measured(
    image: np.ndarray, depth: np.ndarray
) -> None:
    figure = plots.error_maps([image, image], [depth, depth], [depth * 1.1, depth * 1.2], "v15_2")
    rows = np.reshape([ax for ax in figure.axes if ax.images], (2, 4))
    limits = {(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in rows[:, 1:3].flat}
    assert len(limits) == 1
    error = np.ma.filled(rows[1, 3].images[0].get_array(), np.nan)
    assert np.isnan(error[0, 0])
    assert np.isclose(np.nanmean(error), 0.2)
    assert rows[1, 3].images[0].norm.vmax == pytest.approx(0.2)
    assert min(rows[1, 3].images[0].cmap(1.0)[:3]) < 0.5 < max(rows[1, 3].images[0].cmap(1.0)[:3])
    assert "AbsRel 0.200" in words(figure)
    assert "relative error" in words(figure)
    assert {"depth [m]", "|prediction − truth| / truth"} <= axis_labels(figure)


def test_points_are_labelled_with_depth_and_truth(image: np.ndarray) -> None:
    figure = plots.points_picture(image, [(3, 4), (30, 20)], [1.5, 2.0], [1.25, 0.0], "two")
    assert {"1.50 m (1.25)", "2.00 m", "two"} <= set(words(figure))


def test_labels_cover_neither_each_other_nor_points(image: np.ndarray) -> None:
    places = np.array([(10, 10), (11, 10), (11, 11), (10, 12), (31, 23), (0, 0), (0, 23)])
    figure = plots.points_picture(image, places, np.linspace(1, 2, len(places)))
    drawn(figure)
    ax = figure.axes[0]
    boxes = [label.get_window_extent() for label in ax.texts]
    for box, other in itertools.combinations(boxes, 2):
        assert Bbox.intersection(box, other) is None
    for box in boxes:
        assert not any(box.contains(*mark) for mark in ax.transData.transform(places))
        assert ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1
        assert ax.bbox.y0 <= box.y0 and box.y1 <= ax.bbox.y1


def test_points_in_space_have_metric_axes(image: np.ndarray, depth: np.ndarray) -> None:
    v, u = np.mgrid[0:24, 0:32]
    xyz = np.stack([u * depth / 30, v * depth / 30, depth], -1).reshape(-1, 3)
    figure = plots.points_in_space(xyz, image.reshape(-1, 3))
    assert {"right [m]", "forward [m]"} <= axis_labels(figure)
    drawn(figure)


@pytest.fixture(scope="module")
def model() -> spdlib.models.DepthModel:
    return spdlib.create_model("v15_2", encoder="mobilenetv2_035", image_size=(64, 96))


def map_shapes(
    model: spdlib.models.DepthModel, size: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    return {name: shape for stage in model.stages(size) for name, shape in stage.maps.items()}


def test_the_diagram_reads_sizes_and_counts_from_the_model(model: spdlib.models.DepthModel) -> None:
    assert map_shapes(model, (64, 96)) == {"s8_L2": (128, 8, 12), "L1": (64, 16, 24)}
    said = "\n".join(words(network_diagram(model)))
    table = model.parameter_table().set_index("component")["parameters"]
    for component in ("encoder", "neck", "global_path", "total"):
        assert f"{table[component]:,}" in said
    assert "64 × 16 × 24" in said


def test_the_diagram_pads_as_encode_does(model: spdlib.models.DepthModel) -> None:
    assert map_shapes(model, (60, 90)) == map_shapes(model, (64, 96))


def test_figures_change_no_settings_and_stay_out_of_pyplot(history: pd.DataFrame) -> None:
    before = dict(mpl.rcParams)
    plots.learning_curves(history)
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


def test_two_calls_draw_the_same(history: pd.DataFrame) -> None:
    def draw(of: Callable[[pd.DataFrame], Figure]) -> np.ndarray:
        return drawn(of(history))

    assert np.array_equal(draw(plots.depth_ranges), draw(plots.depth_ranges))


def test_models_have_colours_of_their_own_and_baselines_are_grey() -> None:
    colours = model_colours(["v15_2", "constant", "v15_1", "pixel_map"])
    assert len(set(map(str, colours.values()))) == 4
    for name in ("constant", "pixel_map"):
        red, green, blue = mpl.colors.to_rgb(colours[name])
        assert red == green == blue
