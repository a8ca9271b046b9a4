"""The log's results: what recorded.csv holds, how it is found and read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from spdlib.errors import ConfigError, DataError
from spdlib.study import recorded as module
from spdlib.study.comparison import _word
from spdlib.study.experiments import EXPERIMENTS
from spdlib.study.recorded import (
    SCORES,
    recorded,
    recorded_best,
    recorded_facts,
    recorded_table,
)

FACTS = {
    "network", "encoder", "data", "dataset", "train_images", "claimed_train_images", "image_size",
    "batch_size", "claimed_batch_size", "steps_per_epoch", "t_max", "epochs_planned", "epochs_run",
    "encoder_lr", "decoder_lr", "weight_decay", "final_lr", "warmup_steps", "clip", "precision",
    "supervision", "points", "silog_lambda", "silog_weight", "reduction", "aux_weight", "grid_rule",
    "input_norm", "augmentation", "head_bias_init", "val_frames", "val_view", "val_points",
    "chosen_on", "best_abs_rel", "log_depth_cap", "total_params", "encoder_params", "neck_params",
    "canvas_params", "precompute_params", "decoder_params", "vram_gb", "gpu",
}  # fmt: skip
SHARES = {"delta1", "delta2", "delta3"}
SOURCE = re.compile(
    r"(00[0-4]|v13\.md|v13_1\.md|v14\.md|v15\.md|evaluation_and_diagnostics\.md"
    r"|suspected_faults\.md):\d+"
)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return recorded_table()


def test_every_figure_stands_once(table: pd.DataFrame) -> None:
    twice = table[table.duplicated(["experiment", "epoch", "metric"], keep=False)]
    assert twice.empty, twice.to_string()


def test_every_row_has_a_known_metric_a_content_and_a_source(table: pd.DataFrame) -> None:
    assert set(table["metric"]) == set(SCORES) | FACTS
    assert (table["value"].notna() | (table["text"] != "")).all()
    for source in table["source"]:
        assert all(SOURCE.fullmatch(part) for part in source.split(" ")), source


def test_scores_are_numbers_and_facts_hold_for_all_epochs(table: pd.DataFrame) -> None:
    scores, facts = (table[table["metric"].isin(names)] for names in (SCORES, FACTS))
    assert scores["value"].notna().all()
    assert facts["epoch"].isna().all()
    assert table["epoch"].dropna().between(1, 10).all()
    others = scores[scores["metric"] != "scale_gap"]  # scaling by s* can harm
    assert (others["value"] > 0).all()


def test_shares_are_fractions(table: pd.DataFrame) -> None:
    shares = table[table["metric"].isin(SHARES)]["value"]
    assert len(shares) > 20
    assert shares.between(0, 1).all()
    errors = table[table["metric"].str.contains("abs_rel")]["value"]
    assert errors.between(0.1, 0.6).all()


def test_ranges_have_their_lower_end_first(table: pd.DataFrame) -> None:
    wide = table.pivot_table(index=["experiment", "epoch"], columns="metric", values="value")
    for side in ("pred", "gt"):
        ends = wide[[f"{side}_min", f"{side}_max"]].dropna()
        assert len(ends) > 20
        assert (ends[f"{side}_min"] < ends[f"{side}_max"]).all()


def test_texts_are_words_or_figures_not_sentences(table: pd.DataFrame) -> None:
    assert max(len(text.split()) for text in table["text"]) <= 5


def test_all_experiments_are_there(table: pd.DataFrame) -> None:
    found = {name.partition("_")[0] for name in table["experiment"]}
    assert found == {"setup", "distill"} | {f"exp{number:02d}" for number in range(1, 14)}


def test_quoted_bests_are_the_lowest_epochs_but_one(table: pd.DataFrame) -> None:
    quoted = table[table["metric"] == "best_abs_rel"].set_index("experiment")["value"]
    lowest = {name: recorded(str(name))["abs_rel"].min() for name in quoted.index}
    # the log's table of variants quotes the last epoch of exp01, not its first
    assert [name for name in quoted.index if quoted[name] != lowest[name]] == ["exp01"]


def test_epochs_are_rows_and_scores_are_columns() -> None:
    nine = recorded("exp09")
    assert nine.index.tolist() == [1, 2, 3]
    assert nine.index.name == "epoch"
    assert list(nine.loc[2, ["abs_rel", "delta1", "scale_gap"]]) == [0.2178, 0.566, -2.1]
    assert nine["train_loss"].isna().tolist() == [False, True, True]  # blank in the log
    assert [name for name in SCORES if name in nine] == list(nine.columns)


def test_exp13_is_the_sheets_table() -> None:
    table = recorded("exp13")
    assert len(table) == 7
    assert table["abs_rel"].min() == table.loc[6, "abs_rel"] == 0.1150
    assert table["dense_abs_rel"].min() == 0.1075
    assert table.loc[7, "train_loss"] == 0.0581


def test_an_epoch_that_is_not_on_record_is_missing() -> None:
    third = recorded("exp12_attempt3")
    assert third.index.isna().tolist() == [True]
    assert third["dense_abs_rel"].tolist() == [0.2411]


def test_a_corrected_experiment_has_the_record_of_the_faulty_one() -> None:
    pd.testing.assert_frame_equal(recorded("exp08_corrected"), recorded("exp08"))


def test_the_best_of_a_network_is_its_lowest_epoch_in_any_experiment() -> None:
    best = recorded_best("v14_dual")  # experiments 8 and 10
    assert (best["experiment"], best["epoch"], best["abs_rel"]) == ("exp08", 3, 0.2403)
    assert best["delta1"] == 0.471
    assert "rmse" not in best
    assert recorded_best("v15_0")["rmse"] == 0.7003
    assert recorded_best("v15_1")["experiment"] == "exp13"  # its first attempts did worse
    assert recorded_best("v14_plan") == {}


def test_facts_are_numbers_or_words() -> None:
    facts = recorded_facts("exp10")
    assert facts["claimed_batch_size"] == 92
    assert facts["image_size"] == "not stated"
    assert "batch_size" not in facts


def test_the_package_and_the_record_agree_on_exp13() -> None:
    facts = recorded_facts("exp13")
    record = EXPERIMENTS["v15_2"].record
    assert record is not None
    recorded_as = record.settings()
    shared = [name for name in facts.keys() - {"network"} if name in recorded_as]
    assert len(shared) > 12
    assert {n: _word(recorded_as[n]) for n in shared} == {n: _word(facts[n]) for n in shared}


def test_an_unknown_experiment_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no results of 'exp12' .* exp12_attempt2"):
        recorded("exp12")


def test_a_missing_or_damaged_table_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recorded.csv"
    monkeypatch.setattr(module, "table_path", lambda: path)
    with pytest.raises(DataError, match=r"recorded\.csv is missing.*restore it"):
        recorded("exp13")
    path.write_text("experiment,epoch,metric\nexp13,1,abs_rel\n")
    with pytest.raises(DataError, match=r"lacks the columns \['value', 'text', 'source'\]"):
        recorded_table()


def test_a_wheel_carries_the_table_beside_the_module(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.table_path() == repository / "results" / "recorded.csv"
    build = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packed = build["targets"]["wheel"]["force-include"]["results/recorded.csv"]
    installed = tmp_path / packed
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr(module, "__file__", str(installed.with_suffix(".py")))
    assert module.table_path() == installed
