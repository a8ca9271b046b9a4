"""Recorded against measured: which figures are paired, and when that is called fair."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spdlib.errors import RunError
from spdlib.study.comparison import (
    BEST,
    EPOCHS,
    LAST,
    SAME,
    Measured,
    _word,
    as_recorded,
    compare,
    compare_tables,
    fairness,
    recorded_scores,
)
from spdlib.study.config import RunConfig
from spdlib.study.experiments import SHARD
from spdlib.study.profiles import resolve
from spdlib.study.recorded import recorded_facts
from spdlib.study.runs import Run

Change = Callable[[Measured], Measured]


@pytest.fixture
def twin() -> Measured:
    """A run with every setting of exp13 on record, evaluated as the log did, kept at epoch 5."""
    config = of_network(resolve("v15_2", "paper"), "v15_1")
    epochs = np.arange(1.0, 11.0)
    history = pd.DataFrame({"step": 23_792 * epochs, "epoch": epochs, "train_loss": 0.1,
                            "sel_abs_rel": 0.2, "sel_s_star": 1.0})  # fmt: skip
    scores = {"abs_rel": 0.12, "s_star": 1.01, "silog": 0.17, "points": 654 * 128}
    keys = ("v15_1", "recorded/inpainted")
    rows = [(*keys, "points", name, value, 654) for name, value in scores.items()]
    rows.append((*keys, "dense", "abs_rel", 0.11, 654))
    metrics = pd.DataFrame(
        rows, columns=["model", "protocol", "sites", "metric", "value", "frames"]
    )
    bins = pd.DataFrame(
        [(*keys, "points", name, value) for name, value in (("[2, 5)", 0.1), ("[5, 10)", 0.19))],
        columns=["model", "protocol", "sites", "bin", "abs_rel"],
    )
    data = {"train": {"frames": 47_584}, "selection": {"frames": 80}}
    return Measured("twin", config, {"data": data, "best_step": 118_960}, history, metrics, bins)


def of_abs_rel(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["metric"] == "abs_rel"]


def final(table: pd.DataFrame) -> pd.DataFrame:
    return of_abs_rel(table[table["pairing"] != EPOCHS]).set_index("pairing")


def of_network(config: RunConfig, network: str) -> RunConfig:
    """The config with another network's name, also of one that is only on record."""
    renamed = copy.copy(config)
    object.__setattr__(renamed, "model", replace(config.model, network=network))
    return renamed


def configured(**changes: Any) -> Change:
    """Changes of settings; the network keeps a name that is only on record."""

    def change(run: Measured) -> Measured:
        changed = of_network(run.config, "v15_2").but(**changes)
        return run._replace(config=of_network(changed, run.config.model.network))

    return change


def renamed(network: str) -> Change:
    def change(run: Measured) -> Measured:
        assert run.metrics is not None and run.bins is not None
        return run._replace(
            config=of_network(run.config, network),
            metrics=run.metrics.assign(model=network),
            bins=run.bins.assign(model=network),
        )

    return change


def scored(**changes: float) -> Change:
    def change(run: Measured) -> Measured:
        assert run.metrics is not None
        values = run.metrics["metric"].map(changes)
        return run._replace(metrics=run.metrics.assign(value=values.fillna(run.metrics["value"])))

    return change


def test_the_same_epoch_of_a_run_that_agrees_with_the_record_is_fair(twin: Measured) -> None:
    rows = final(compare_tables([twin], "exp13"))
    assert rows["fair"].to_dict() == {SAME: True, BEST: False}
    assert list(rows.loc[SAME, ["recorded", "measured"]]) == [0.1154, 0.12]
    assert list(rows.loc[SAME, ["recorded_epoch", "measured_epoch"]]) == [5, 5]
    assert rows.loc[BEST, "measured_otherwise"] == (
        "epoch 5 (log: 6); epoch chosen on selection frames (log: test frames)"
    )
    verdicts = fairness(of_abs_rel(compare_tables([twin], "exp13"))).set_index("comparison")
    assert list(verdicts.loc[SAME, ["verdict", "because"]]) == ["fair", "measured alike"]
    assert verdicts.loc["training", "because"] == "everything as on record"


def test_what_was_measured_alike_may_be_trained_otherwise(twin: Measured) -> None:
    other = configured(silog_lambda=0.85)(twin)
    verdicts = fairness(of_abs_rel(compare_tables([other], "exp13"))).set_index("comparison")
    said = list(verdicts.loc[SAME, ["verdict", "because"]])
    assert said == ["not fair", "measured alike, trained otherwise"]


def test_history_is_never_fair_as_it_is_measured_otherwise(twin: Measured) -> None:
    table = of_abs_rel(compare_tables([twin], "exp13"))
    rows = table[table["pairing"] == EPOCHS]
    assert not rows["fair"].any()
    assert rows["measured_epoch"].tolist() == list(range(1, 11))
    assert rows["recorded"].isna().tolist() == 7 * [False] + 3 * [True]
    assert set(rows["measured_protocol"]) == {"eigen/inpainted, 1,024 points"}
    assert set(rows["recorded_protocol"]) == {"recorded, 128 points"}
    assert set(rows["measured_set"]) == {"80 selection frames, nyu"}
    assert set(rows["recorded_set"]) == {"654 test frames, nyu"}
    for part in ("protocol eigen", "scored on 80 selection", "frames whole"):
        assert part in rows["measured_otherwise"].iloc[0]


@pytest.mark.parametrize(
    ("change", "column", "reason"),
    [
        (renamed("v15_2"), "trained", "network v15_2 (log: v15_1)"),
        (configured(encoder="resnet10t"), "trained", "encoder resnet10t (log: vit_small_patch14"),
        (configured(image_size=[240, 320]), "trained", "image_size 240x320 (log: 350x476)"),
        (configured(silog_lambda=0.85), "trained", "silog_lambda 0.85 (log: 0.5)"),
        (configured(steps=23_792), "trained", "epochs_planned 1 (log: 10)"),
        (configured(augment={"crop": "native"}), "trained", "augmentation other (log: bts_native)"),
        (
            configured(data="nyu_labeled"),
            "trained",
            "data nyu_labeled, 47,584 frames (log: nyu_full, 47,584 frames)",
        ),
        (
            configured(data="rooms", train_frames=1, selection_frames=1, test_frames=1),
            "measured",
            "654 test frames, rooms (log: 654 test frames, nyu",
        ),
        (configured(augment={"crop": "fit"}), "measured", "frames scaled to fit (log: unscaled"),
        (scored(points=654 * 256), "measured", "recorded, 256 points (log: recorded, 128 points)"),
    ],
)
def test_whatever_contradicts_the_record_is_named(
    twin: Measured, change: Change, column: str, reason: str
) -> None:
    row = final(compare_tables([change(twin)], "exp13")).loc[SAME]
    assert not row["fair"]
    assert reason in row[f"{column}_otherwise"]


def test_a_run_that_outlasts_the_record_stands_beside_its_last_and_best(twin: Measured) -> None:
    longer = twin._replace(record={**twin.record, "best_step": 237_920})
    rows = final(compare_tables([longer], "exp13"))
    assert rows["recorded_epoch"].to_dict() == {LAST: 7, BEST: 6}
    assert rows.loc[LAST, "measured_otherwise"] == "epoch 10 (log: 7)"


def test_a_best_epoch_that_is_also_the_same_stands_once(twin: Measured) -> None:
    sixth = twin._replace(record={**twin.record, "best_step": 142_752})
    rows = final(compare_tables([sixth], "exp13"))
    assert rows.index.tolist() == [SAME]
    assert rows["fair"].all()


def test_what_the_record_leaves_open_is_never_fair(twin: Measured) -> None:
    rows = final(compare_tables([twin], "exp12_attempt3"))
    assert rows["recorded_epoch"].isna().all()
    assert "epoch 5 (log: not stated)" in str(rows.loc[LAST, "measured_otherwise"])
    tenth = of_abs_rel(compare_tables([twin], "exp10"))
    assert "image_size 350x476 (log: not stated)" in tenth["trained_otherwise"].iloc[0]
    assert "frames unscaled crop (log: not stated)" in final(tenth)["measured_otherwise"].iloc[0]
    first = compare_tables([twin], "exp12_attempt1")
    assert not first["fair"].any()


def test_all_kinds_of_scores_find_their_figures(twin: Measured) -> None:
    table = compare_tables([twin], "exp13")
    rows = table[table["pairing"] == SAME].set_index("metric")
    assert list(rows.loc["dense_abs_rel", ["recorded", "measured"]]) == [0.1075, 0.11]
    assert rows.loc["dense_abs_rel", "measured_protocol"] == "recorded/inpainted, all pixels"
    assert list(rows.loc["abs_rel_5_10m", ["recorded", "measured"]]) == [0.184, 0.19]
    assert list(rows.loc["train_loss", ["recorded", "measured"]]) == [0.0662, 0.1]
    assert rows.loc["train_loss", "measured_set"] == "training frames"
    assert "delta1" not in rows.index  # on record, but this run did not measure it


def test_a_run_without_evaluation_has_its_history_only(twin: Measured) -> None:
    table = compare_tables([twin._replace(metrics=None, bins=None)], "exp13")
    assert set(table["pairing"]) == {EPOCHS}


def test_several_runs_are_judged_one_by_one(twin: Measured) -> None:
    other = renamed("v15_2")(twin)._replace(name="other")
    table = of_abs_rel(compare_tables([twin, other], "exp13"))
    assert table.groupby("run", sort=False)["fair"].any().to_dict() == {
        "twin": True,
        "other": False,
    }
    verdicts = fairness(table)
    assert verdicts["run"].tolist() == 4 * ["twin"] + 4 * ["other"]
    assert verdicts["comparison"].tolist() == 2 * [EPOCHS, SAME, BEST, "training"]


def test_recorded_scores_name_their_protocol(twin: Measured) -> None:
    assert twin.metrics is not None
    protocol, scores = recorded_scores(twin.metrics, "v15_1")
    assert protocol == "recorded/inpainted"
    assert scores["abs_rel"] == 0.12
    assert recorded_scores(twin.metrics, "v15_1", "dense")[1] == {"abs_rel": 0.11}
    with pytest.raises(RunError, match=r"no scores of 'v15_2' under the recorded protocol among"):
        recorded_scores(twin.metrics, "v15_2")


def test_faults_that_are_off_are_told_from_the_record() -> None:
    config = resolve("exp08_corrected", "paper", auxiliary_weight=0.0, cosine_steps=3 * 5170)
    used, facts = as_recorded(config, SHARD), recorded_facts("exp08")
    differing = {fact for fact in facts if fact in used and _word(used[fact]) != _word(facts[fact])}
    assert differing == {"grid_rule", "aux_weight", "t_max", "data"}


def test_runs_of_the_log_agree_with_what_the_record_says_of_them() -> None:
    """Every setting that both a recorded experiment and its record have is the same."""
    for number in range(1, 10):
        name = f"exp{number:02d}"
        facts = recorded_facts(name)
        config = as_recorded(resolve(name, "paper"), SHARD)
        shared = [fact for fact in facts if fact in config]
        assert {"data", "grid_rule", "t_max"} < set(shared), name
        used = {fact: _word(config[fact]) for fact in shared}
        assert used == {fact: _word(facts[fact]) for fact in shared}, name


def test_committed_runs_stand_beside_the_record(repository: Path) -> None:
    folders = [repository / "results" / "measured" / f"v15_2_nyu_labeled{end}"
               for end in ("", "_lambda085")]  # fmt: skip
    table = of_abs_rel(compare([Run(folders[0]), str(folders[1])], "exp13"))
    assert list(table["run"].unique()) == [folder.name for folder in folders]
    best = table[table["pairing"] == BEST]
    assert best["measured"].round(3).tolist() == [0.171, 0.168]
    assert not table["fair"].any()
    assert "699 frames (log: nyu_full, 47,584 frames)" in best["trained_otherwise"].iloc[0]
    assert table.groupby("run")["trained_otherwise"].nunique().eq(1).all()
    pd.testing.assert_frame_equal(compare(folders[0], "exp13"), compare([folders[0]], "exp13"))


def test_runs_of_one_name_are_told_apart(repository: Path, tmp_path: Path) -> None:
    committed = repository / "results" / "measured" / "v15_2_nyu_labeled"
    copy = tmp_path / committed.name
    copy.mkdir()
    for name in ("config.json", "record.json", "history.csv"):
        (copy / name).write_bytes((committed / name).read_bytes())
    table = compare([committed, copy], "exp13")
    parents = ["measured", tmp_path.name]
    assert list(table["run"].unique()) == [f"{parent}/{copy.name}" for parent in parents]


def test_comparing_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        compare(tmp_path, "exp13")


def test_a_run_without_any_score_is_refused(twin: Measured) -> None:
    nothing = twin._replace(history=twin.history[["step", "epoch"]], metrics=None, bins=None)
    with pytest.raises(RunError, match="exp13 and the runs have no score in common; train or"):
        compare_tables([nothing], "exp13")
