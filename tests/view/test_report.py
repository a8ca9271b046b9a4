"""Tables and sentences: they follow from the numbers, whatever those say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from spdlib.errors import ConfigError, DataError, RunError
from spdlib.study.comparison import Measured, compare_tables
from spdlib.study.runs import Run
from spdlib.view import report

SCORES = {
    "nonfinite": 0.0,
    "s_star": 1.5,
    "scale_gap": 30.0,
    "pred_cv": 0.4,
    "gt_cv": 0.5,
    "intra_std_min": 0.2,
    "log_std": 0.5,
}


@pytest.fixture
def table(metrics: pd.DataFrame, frames: pd.DataFrame) -> pd.DataFrame:
    return report.improvements(metrics, frames, "v15_2")


def test_improvements_are_percent_of_the_baselines_score(table: pd.DataFrame) -> None:
    assert len(table) == 8  # two baselines, two protocols, points and dense
    constant = table[table["baseline"] == "constant"]
    assert np.allclose(constant["improvement"], 50)
    assert np.allclose(table[table["baseline"] == "pixel_map"]["improvement"], 100 / 3)
    pooled = (table["protocol"] == "recorded/exact") & (table["sites"] == "dense")
    judged = table[~pooled]
    assert (judged["low"] < judged["improvement"]).all()
    assert (judged["improvement"] < judged["high"]).all()
    assert (judged["verdict"] == "better").all()
    assert table[pooled]["low"].isna().all()
    assert (table[pooled]["verdict"] == "no interval").all()


def test_a_frame_that_only_one_model_fails_at_is_not_skipped(
    metrics: pd.DataFrame, frames: pd.DataFrame
) -> None:
    frames.loc[frames.index[frames["model"] == "v15_2"][3], "abs_rel"] = np.nan
    with pytest.raises(DataError, match="frame 3 is not finite"):
        report.improvements(metrics, frames, "v15_2")


def test_scores_without_interval_decide_nothing(
    metrics: pd.DataFrame, frames: pd.DataFrame, history: pd.DataFrame
) -> None:
    dense = (metrics["protocol"] == "recorded/exact") & (metrics["sites"] == "dense")
    metrics.loc[dense & (metrics["model"] == "v15_2"), "value"] = 0.9
    table = report.improvements(metrics, frames, "v15_2")
    text = report.verdict(table, history, "v15_2", 20, SCORES)
    assert "**v15_2 beats both image-free baselines by at least 3" in text
    assert "% higher (pooled over frames: no interval, not judged)" in text
    none = report.improvements(metrics, frames[:0], "v15_2")
    assert "Not judged: no score of v15_2" in report.verdict(none, history, "v15_2", 20, SCORES)


def test_the_verdict_is_the_lowest_end_of_the_intervals(
    table: pd.DataFrame, history: pd.DataFrame
) -> None:
    text = report.verdict(table, history, "v15_2", 20, SCORES)
    low = np.floor(10 * table["low"].min()) / 10
    assert low < 33.3
    assert f"**v15_2 beats both image-free baselines by at least {low:.1f} %: against the" in text
    assert "Wanted: AbsRel at least 20 % below both baselines. They know typical depths" in text
    assert "0.200 against 0.400 of the best constant, 50.0 % lower (95 % interval 4" in text
    assert "scale bias: one global factor, s* = 1.500" in text
    assert "more steps of the same kind would change little" in text
    assert "Wanted" not in report.verdict(table, history, "v15_2", 0, SCORES)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (11, 31, "but is not shown to do so by 20 %: against the best per-pixel map"),
        (11, 19, "but by less than 20 %"),
    ],
)
def test_a_gain_counts_only_where_its_interval_ends(
    table: pd.DataFrame, history: pd.DataFrame, low: float, high: float, words: str
) -> None:
    row = table.index[table["baseline"] == "pixel_map"][0]
    table.loc[row, ["improvement", "low", "high"]] = (low + high) / 2, low, high
    text = report.verdict(table, history, "v15_2", 20, SCORES)
    assert words in text and "at least 2" not in text.splitlines()[0]


def test_the_verdict_is_silent_about_short_runs(table: pd.DataFrame, history: pd.DataFrame) -> None:
    text = report.verdict(table, history[:3], "v15_2", 20, SCORES)
    assert text.startswith("**Too short to judge: 3 evaluations over 3 epochs.")
    assert "beats" not in text


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1.0, "v15_2 is not shown to beat both"), (1.2, "v15_2 does not beat both")],
)
def test_ties_and_defeats_are_called_so(
    metrics: pd.DataFrame, frames: pd.DataFrame, history: pd.DataFrame, factor: float, words: str
) -> None:
    mine, theirs = metrics["model"] == "v15_2", metrics["model"] == "pixel_map"
    metrics.loc[mine, "value"] = factor * metrics.loc[theirs, "value"].to_numpy()
    mine, theirs = frames["model"] == "v15_2", frames["model"] == "pixel_map"
    jitter = np.resize([0.01, -0.01], mine.sum())
    frames.loc[mine, "abs_rel"] = factor * frames.loc[theirs, "abs_rel"].to_numpy() + jitter
    table = report.improvements(metrics, frames, "v15_2")
    text = report.verdict(table[table["protocol"] == "eigen/exact"], history, "v15_2", 20, SCORES)
    assert words in text


def test_a_falling_curve_asks_for_a_longer_run(table: pd.DataFrame, history: pd.DataFrame) -> None:
    falling = history.assign(sel_abs_rel=np.linspace(0.4, 0.2, len(history)))
    assert "a longer run would probably score better" in report.verdict(
        table, falling, "v15_2", 20, SCORES
    )


def test_the_quoted_epoch_of_the_record_stands_beside_ours(compared: pd.DataFrame) -> None:
    table = report.beside_recorded(compared)
    assert list(table.columns) == [
        "score",
        "v15_2, this run (recorded/exact)",
        "v15_1, exp13, epoch 6 (recorded)",
    ]
    rows = {name: pair for name, *pair in table.itertuples(index=False)}
    assert rows["AbsRel"] == [0.2, 0.115]
    assert rows["AbsRel, dense path"] == [0.2, 0.108]
    assert "AbsRel, 5–10 m" not in rows  # an empty bin


def test_a_record_without_epochs_names_none(measured: Measured) -> None:
    table = report.beside_recorded(compare_tables([measured], "exp12_attempt3"))
    assert table.columns[2] == "v15_1, exp12_attempt3 (recorded)"


def test_a_run_that_was_not_evaluated_has_nothing_to_stand_beside(measured: Measured) -> None:
    table = compare_tables([measured._replace(metrics=None, bins=None)], "exp13")
    with pytest.raises(RunError, match="no final scores on both sides; evaluate the run first"):
        report.beside_recorded(table)


def test_the_short_table_has_a_row_per_protocol_and_model(metrics: pd.DataFrame) -> None:
    table = report.score_table(metrics, ("abs_rel", "rmse"))
    assert list(table.columns) == ["protocol", "sites", "model", "AbsRel", "RMSE [m]"]
    assert len(table) == 12
    assert table["model"].tolist()[:3] == ["v15_2", "best constant", "best per-pixel map"]


def test_the_log_ends_with_folder_and_scores(
    metrics: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "results" / "runs" / "tiny")
    run.write_table("metrics", metrics)
    text = report.closing(run)
    assert text.startswith(f"run: {Path('results', 'runs', 'tiny')}\n")
    assert "20 test frames" in text
    assert "best per-pixel map" in text


def test_runs_go_to_the_checkout_whatever_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert report.run_folder("", "06_v15_2", "demo") == tmp_path / "results/runs/06_v15_2"
        assert report.run_folder("", "06_v15_2", "paper").name == "06_v15_2_paper"
        assert report.run_folder("mine", "06_v15_2", "demo") == tmp_path / "mine"
        assert report.run_folder(str(tmp_path / "x"), "06_v15_2", "demo") == tmp_path / "x"
        assert report.from_root("data/nyu.h5") == str(tmp_path / "data/nyu.h5")
    assert report.from_root("") == ""


def test_a_smoke_run_never_continues_another() -> None:
    folders = [report.run_folder("", "tiny", "smoke") for _ in range(2)]
    assert folders[0] != folders[1]
    for folder in folders:
        folder.rmdir()  # raises unless it is empty


def test_figures_are_saved_and_handed_on(tmp_path: Path) -> None:
    figure = Figure(figsize=(1, 1))
    assert report.keep(tmp_path, "empty", figure) is figure
    assert (tmp_path / "figures" / "empty.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        report.keep(tmp_path / "file", "empty", figure)


def test_tables_are_shown_without_index_and_with_short_numbers() -> None:
    table = pd.DataFrame({"field": ["rate", "size"], "used": [5e-6, [64, 96]], "n": [12345, 2]})
    page = report.shown(table.astype({"used": object})).to_html()
    assert "5e-06" in page and "[64, 96]" in page and "12,345" in page
    assert "text-align: left" in page
    assert ">0<" not in page  # no index


def test_missing_numbers_are_empty_cells() -> None:
    assert "nan" not in report.shown(pd.DataFrame({"value": [1.0, np.nan]})).to_html().lower()


def test_the_logs_table_shows_settings_and_scores_by_epoch() -> None:
    table = report.log_table(["exp05", "exp07"]).set_index("setting")
    assert table["exp05"]["normalised"] == "no"
    assert table["exp05"]["cells of L3 routed to, by epoch"] == ""
    assert report.log_table(["exp10"]).set_index("setting")["exp10"]["image"] == "not stated"
    with pytest.raises(ConfigError, match="unknown experiment with recorded settings 'exp14'"):
        report.log_table(["exp14"])
    assert table["exp07"]["normalised"] == "yes"
    assert table["exp07"]["augmentation"] == "flip, brightness, contrast, saturation"
    assert table["exp05"]["AbsRel, by epoch"] == "0.267 0.238 0.23 0.262"
    assert table["exp07"]["cells of L3 routed to, by epoch"] == "70.9 57.2 49.1"
    assert list(table.index[:3]) == ["network", "loss", "λ, reduction"]


def test_empty_parameters_keep_the_experiments_settings() -> None:
    assert report.settings_of(steps=0, grid_rule="", head_dtype="bfloat16") == {
        "head_dtype": "bfloat16"
    }


def test_a_run_that_got_worse_is_not_said_to_stand_still() -> None:
    history = pd.DataFrame({"step": [10, 20, 30, 40, 50], "sel_abs_rel": [0.5, 0.4, 0.3, 0.4, 0.6]})
    text = report._ending(history)
    assert "rose by 100.0 % after its best" in text
    assert "step 30 of 50" in text
    assert "would probably score better" in report._ending(
        history.assign(sel_abs_rel=1 / history["step"])
    )


def test_findings_say_range_bins_and_alarms(history: pd.DataFrame, bins: pd.DataFrame) -> None:
    inside = pd.DataFrame(
        {
            "diagnostic": ["gate", "gate", "canvas change"],
            "part": ["layer 1", "layer 2", "L2, layer 1"],
            "value": [0.25, 0.5, 0.001],
            "verdict": ["", "", "idle: below 1%"],
        }
    )
    text = report.findings(history, bins, inside, "v15_2")
    last = history.dropna(subset="pred_max").iloc[-1]
    assert f"and {last['pred_max']:.2f} m" in text
    assert "of the true range" in text
    assert "**Near and far.** AbsRel is" in text
    assert "**Gate.** layer 1 0.25; layer 2 0.5." in text
    assert "Alarm: L2, layer 1: idle: below 1%." in text
