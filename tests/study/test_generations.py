"""Networks on equal terms: what is put side by side, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spdlib.errors import DataError, RunError
from spdlib.study.generations import (
    EqualTerms,
    equal_terms,
    files_of,
    paired_bootstrap,
    step_seconds,
)
from spdlib.study.profiles import resolve
from spdlib.study.runs import Run
from tests.records import FINISHED

FRAMES = 40
Write = Callable[..., Run]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a run's folder as `fit` and `evaluate_run` leave it, with errors of one's choice."""

    def written(
        network: str, errors: np.ndarray, seconds: float = 60.0, cpu: str = "fast",
        points: str = "1024 points", **config: object,
    ) -> Run:  # fmt: skip
        folder = tmp_path / f"{network}_{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        settings = {"network": network, "experiment": network, "options": {}, **config}
        terms = resolve("v15_2", "equal_terms", device="cpu", steps=20).but(**settings)
        (folder / "config.json").write_text(json.dumps(terms.to_dict()))
        evaluation = {"test": FINISHED["data"]["train"], "protocols": {"eigen/exact": points}}
        record = {
            **FINISHED, "evaluation": evaluation, "encoder_weights_sha256": "w",
            "machine": {**FINISHED["machine"], "cpu": cpu},
        }  # fmt: skip
        (folder / "record.json").write_text(json.dumps(record))
        run = Run.open(folder)
        run.write_table("history", pd.DataFrame({
            "step": [10, 20], "epoch": [1.0, 2.0], "seconds": [seconds / 2, seconds],
            "sel_abs_rel": [0.4, 0.2], "train_loss": [0.5, 0.3],
        }))  # fmt: skip
        keys = {"model": network, "protocol": "eigen/exact", "sites": "points"}
        scores = dict.fromkeys(("rmse", "delta1", "silog", "s_star"), 1.0)
        scores["abs_rel"] = float(errors.mean())
        rows = [keys | {"metric": name, "value": value} for name, value in scores.items()]
        run.write_table("metrics", pd.DataFrame(rows).assign(frames=FRAMES))
        run.write_table(
            "frames", pd.DataFrame({**keys, "frame": np.arange(FRAMES), "abs_rel": errors})
        )
        return run

    return written


def errors(mean: float) -> np.ndarray:
    """Errors of frames, of which every second one is hard, around a mean."""
    return mean + 0.05 * np.where(np.arange(FRAMES) % 2, 1, -1)


def test_scores_pairs_and_times_stand_side_by_side(write: Write) -> None:
    runs = [write("v13_1", errors(0.3), 120.0), write("v14_dual", errors(0.2))]
    terms = equal_terms([*runs, write("v15_2", errors(0.2))])
    table = terms.networks.set_index("network")
    assert table["abs_rel"].tolist() == pytest.approx([0.3, 0.2, 0.2])
    assert table["decoder_parameters"].tolist() == [5, 5, 5]
    assert table["minutes"].tolist() == [2, 1, 1]
    # after the fastest run's minute, the slow one was half-way
    assert table["abs_rel_at_equal_minutes"].tolist() == [0.4, 0.2, 0.2]
    pairs = terms.pairs.set_index(["first", "second"])
    assert pairs["verdict"].tolist() == ["worse", "worse", "tie"]
    assert pairs["difference"]["v13_1", "v14_dual"] == pytest.approx(0.1)
    assert len(terms.curves) == 6


def test_minutes_of_other_machines_and_before_the_first_evaluation_say_nothing(
    write: Write,
) -> None:
    slow, fast = write("v13_1", errors(0.3), 300.0), write("v14_dual", errors(0.2))
    table = equal_terms([slow, fast]).networks.set_index("network")
    assert table["abs_rel_at_equal_minutes"].tolist() == pytest.approx([np.nan, 0.2], nan_ok=True)
    other = write("v15_2", errors(0.2), cpu="slow")
    table = equal_terms([fast, other]).networks
    assert table["abs_rel_at_equal_minutes"].isna().all()
    assert table["machine"].tolist() == ["fast, 1 threads", "slow, 1 threads"]


def test_minutes_can_be_counted_by_the_cost_of_a_step(write: Write, tmp_path: Path) -> None:
    """Whatever the clocks of the two runs, on two machines, say."""
    runs = [write("v13_1", errors(0.3), 9000.0), write("v15_2", errors(0.2), cpu="slow")]
    table = tmp_path / "bench.csv"
    rows = [("v13_1", "step", 64, 6000), ("v15_2", "step", 64, 3000), ("v15_2", "step", 256, 9000)]
    columns = ["network", "operation", "k", "milliseconds"]
    pd.DataFrame(rows, columns=columns).to_csv(table)
    seconds = step_seconds(table, 64)
    assert seconds == {"v13_1": 6.0, "v15_2": 3.0}
    terms = equal_terms(runs, seconds)
    found = terms.networks.set_index("network")
    assert found["minutes"].tolist() == [2, 1]
    assert found["abs_rel_at_equal_minutes"].tolist() == [0.4, 0.2]
    assert terms.curves["minutes"].tolist() == [1, 2, 0.5, 1]


def test_costs_that_do_not_fit_are_refused(write: Write, tmp_path: Path) -> None:
    runs = [write("v13_1", errors(0.3)), write("v15_2", errors(0.2))]
    with pytest.raises(RunError, match=r"no cost of a step of v13_1; .*\['v15_2'\]"):
        equal_terms(runs, {"v15_2": 1.0})
    table = tmp_path / "bench.csv"
    with pytest.raises(RunError, match=r"bench.csv: no such file"):
        step_seconds(table, 64)
    pd.DataFrame({"network": ["v13_1"]}).to_csv(table)
    with pytest.raises(RunError, match=r"bench.csv: has no column 'operation'; .*bench training"):
        step_seconds(table, 64)
    for time in (0, -1, None):
        step = {"network": ["v13_1"], "operation": "step", "k": 64, "milliseconds": time}
        pd.DataFrame(step).to_csv(table)
        with pytest.raises(RunError, match=r"bench.csv.* positive time .*v13_1"):
            step_seconds(table, 64)
    twice = {"network": ["v13_1"] * 2, "operation": "step", "k": 64, "milliseconds": 9}
    pd.DataFrame(twice).to_csv(table)
    with pytest.raises(RunError, match="has 2 steps of 64 points for 1 networks"):
        step_seconds(table, 64)
    with pytest.raises(RunError, match="has 0 steps of 256 points"):
        step_seconds(table, 256)


def test_networks_that_are_asked_otherwise_are_no_pair(write: Write) -> None:
    runs = [write("v14_dual", errors(0.2)), write("v15_2", errors(0.2), points="128 points")]
    terms = equal_terms(runs)
    assert len(terms.networks) == 2
    assert terms.pairs.empty


def test_tables_survive_a_round_trip(write: Write, tmp_path: Path) -> None:
    made = equal_terms([write("v13_1", errors(0.3)), write("v14_dual", errors(0.2))])
    out = tmp_path / "tables" / "generations"
    assert [path.name for path in made.save(out)] == [
        "generations.csv", "generations_pairs.csv", "generations_curves.csv",
    ]  # fmt: skip
    for mine, theirs in zip(EqualTerms.read(out), made, strict=True):
        pd.testing.assert_frame_equal(mine, theirs)
    with pytest.raises(RunError, match=r"nothing\.csv: no such file"):
        EqualTerms.read(tmp_path / "nothing")


def test_unequal_terms_are_refused_by_name(write: Write) -> None:
    first = write("v13_1", errors(0.3))
    with pytest.raises(RunError, match=r"steps is 20 .* and 30"):
        equal_terms([first, write("v14_dual", errors(0.2), steps=30)])
    with pytest.raises(RunError, match="v13_1 occurs twice"):
        equal_terms([first, write("v13_1", errors(0.2))])
    with pytest.raises(RunError, match="two runs or more"):
        equal_terms([first])
    other = write("v14_dual", errors(0.2))
    test = first.record["evaluation"]["test"]
    for described in ({"ids_hash": "other"}, {"ids_hash": "same", "fingerprint": "other"}):
        other.update_record({"evaluation": {"test": test | described, "protocols": {}}})
        with pytest.raises(RunError, match=r"test is \('same', None\) .* and \(.*'other'"):
            equal_terms([first, other])
    weights = {"encoder_weights_sha256": "other"}
    other.update_record({"evaluation": first.record["evaluation"], **weights})
    with pytest.raises(RunError, match=r"encoder_weights_sha256 is 'w' .* and 'other'"):
        equal_terms([first, other])
    record = {name: value for name, value in other.record.items() if name != "evaluation"}
    other.record_path.write_text(json.dumps(record))
    with pytest.raises(RunError, match="was not evaluated"):
        equal_terms([first, other])


CUT = "frames.csv: holds 37 frames of v14_dual eigen/exact points, but .* of 40; .*again"


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("metrics.csv", lambda text: text[: text.index("s_star")], "metrics.csv"),
        ("metrics.csv", lambda text: "\n".join(text.split("\n")[:5]),
         "metrics.csv has no abs_rel of v14_dual under eigen/exact"),
        ("metrics.csv", lambda text: text.splitlines()[0], "metrics.csv: has no row"),
        ("history.csv", lambda text: text.splitlines()[0], "history.csv: has no row"),
        ("history.csv", lambda text: "\n".join(text.split("\n")[:2]),
         "history.csv ends at step 10 of 20; train the run again"),
        ("frames.csv", lambda text: text.splitlines()[0], "frames.csv: has no row"),
        ("frames.csv", lambda text: text.replace("0.25", "good"), "'abs_rel' holds 'good', not a"),
        ("frames.csv", lambda text: text.replace("abs_rel", "rel"), "has no column 'abs_rel'"),
        ("frames.csv", lambda text: "\n".join(text.split("\n")[:38]), CUT),
    ],
)  # fmt: skip
def test_damaged_tables_of_a_run_are_refused(
    write: Write, file: str, damage: Callable[[str], str], says: str
) -> None:
    runs = [write("v13_1", errors(0.3)), write("v14_dual", errors(0.2))]
    table = runs[1].folder / file
    table.write_text(damage(table.read_text()))
    with pytest.raises(RunError, match=says):
        equal_terms(runs)


def test_unfinished_runs_and_protocols_of_one_are_no_comparison(write: Write) -> None:
    first, other = write("v13_1", errors(0.3)), write("v14_dual", errors(0.2))
    other.update_record({"status": "interrupted"})
    with pytest.raises(RunError, match="has not finished"):
        equal_terms([first, other])


@pytest.mark.parametrize("path", [".", "/", "..", ""])
def test_tables_need_a_name(path: str) -> None:
    with pytest.raises(RunError, match="names no file"):
        files_of(path)


def test_numbers_of_routed_cells_may_differ_but_no_fault_be_on(write: Write) -> None:
    routed = write("v13_1", errors(0.3), options={"routed_l3": 3, "head_bias": "median"})
    assert len(equal_terms([routed, write("v14_dual", errors(0.2))]).networks) == 2
    faulty = write("v14_triple", errors(0.2), options={"msda_init": "default"})
    with pytest.raises(RunError, match=r"v14_triple has msda_init='default' .* 'directional'"):
        equal_terms([routed, faulty])


def test_bootstrap_verdicts() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.1, 0.3, 300)
    better = base - 0.02 + rng.normal(0, 0.05, 300)
    noise = base + rng.normal(0, 0.05, 300)
    result = paired_bootstrap(better, base)
    assert result.verdict == "better" and result.low < result.difference < result.high < 0
    assert result.difference == pytest.approx((better - base).mean())
    assert paired_bootstrap(base, better).verdict == "worse"
    assert paired_bootstrap(noise, base).verdict == "tie"
    assert paired_bootstrap(base, base) == (0.0, 0.0, 0.0, "tie")
    # the interval of a mean: 1.96 standard errors
    width = 2 * 1.96 * (noise - base).std(ddof=1) / math.sqrt(300)
    interval = paired_bootstrap(noise, base)
    assert interval.high - interval.low == pytest.approx(width, rel=0.05)


def test_scores_without_a_partner_are_refused() -> None:
    with pytest.raises(DataError, match="one length"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="frame 1"):
        paired_bootstrap([1.0, math.nan], [1.0, 2.0])
