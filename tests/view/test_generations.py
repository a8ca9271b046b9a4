"""Figures and sentences of networks on equal terms."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from pictures import drawn

from spdlib import __main__ as command_line
from spdlib.study.generations import EqualTerms
from spdlib.view.generations import (
    SHADES,
    equal_terms_verdict,
    learning_side_by_side,
    markdown,
    pairs_apart,
)
from spdlib.view.report import RUN_VARIANCE

PROTOCOL = "eigen/inpainted"


@pytest.fixture
def terms() -> EqualTerms:
    """v14 is worse than v13 by a tenth, v15 ties with v13."""
    names, scores = ["v13_1", "v14_dual", "v15_2"], [0.20, 0.22, 0.201]
    networks = pd.DataFrame(
        {
            "network": names,
            "protocol": PROTOCOL,
            "abs_rel": scores,
            "sel_abs_rel": scores,
            "steps": 600,
        }
    )
    pairs = pd.DataFrame(
        [
            ("v13_1", "v14_dual", PROTOCOL, -0.02, -0.03, -0.01, "better"),
            ("v13_1", "v15_2", PROTOCOL, -0.001, -0.004, 0.002, "tie"),
            ("v14_dual", "v15_2", PROTOCOL, 0.019, 0.01, 0.03, "worse"),
        ],
        columns=["first", "second", "protocol", "difference", "low", "high", "verdict"],
    )
    curves = pd.DataFrame(
        {
            "network": [name for name in names for _ in range(2)],
            "step": [300, 600] * 3,
            "minutes": [1.0, 2.0, 3.0, 6.0, 2.0, 4.0],
            "sel_abs_rel": [0.3, 0.2, 0.3, 0.22, 0.25, 0.2],
        }
    )
    return EqualTerms(networks, pairs, curves)


def test_every_pair_is_said_once_with_its_interval(terms: EqualTerms) -> None:
    figure = pairs_apart(terms)
    ax = figure.axes[0]
    said = [text.get_text() for text in ax.texts]
    # best first: v13_1 against v15_2 and v14_dual, then v15_2 against v14_dual
    assert said == ["0.5 %", "-1.0 to 2.0", "9.1 %", "4.5 to 13.6", "8.6 %", "4.5 to 13.6"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["v13_1  0.200", "v15_2  0.201"]
    tie, clear, within = SHADES["#ececec"], SHADES["#7fc8ad"], SHADES["#d9efe6"]
    assert tie[1] < within[1] < clear[1] == RUN_VARIANCE
    drawn_in = [to_hex(patch.get_facecolor()) for patch in ax.patches]
    assert drawn_in == ["#ececec", "#d9efe6", "#d9efe6"]


def test_curves_are_drawn_by_step_and_by_minutes(terms: EqualTerms) -> None:
    figure = learning_side_by_side(terms.curves)
    steps, minutes = figure.axes
    assert [len(ax.get_lines()) for ax in (steps, minutes)] == [3, 3]
    assert minutes.get_xlim()[1] > 6
    for ax in (steps, minutes):
        assert {text.get_text() for text in ax.texts} == set(terms.curves["network"])
    assert [ax.get_title("left") for ax in figure.axes] == ["at equal steps", "at equal minutes"]
    drawn(figure)


def test_slow_starters_do_not_press_the_others_together(terms: EqualTerms) -> None:
    terms.curves.loc[0, "sel_abs_rel"] = 9.0
    ax, _ = learning_side_by_side(terms.curves).axes
    assert ax.get_ylim()[1] < 0.3


def test_the_verdict_asks_more_than_the_variance_of_runs(terms: EqualTerms) -> None:
    v13, v14, v15 = ["v13_log_depth", "v13_1"], ["v14_plan", "v14_dual"], ["v15_2"]
    text = equal_terms_verdict(terms, v14, v13)
    assert "No clear winner between v14_dual and v13_1" in text  # its interval begins at 5 %
    assert "10.0 % higher (95 % interval 5.0 to 15.0 %)" in text
    assert "Differences below about 5 % are within run-to-run variance" in text
    assert "No clear winner between v15_2 and v13_1" in equal_terms_verdict(terms, v15, v13)
    clear = terms._replace(pairs=terms.pairs.assign(low=-0.03, high=-0.02))
    assert "v13_1 beats v14_dual" in equal_terms_verdict(clear, v13, v14)
    assert "v14_dual is worse than v13_1" in equal_terms_verdict(clear, v14, v13)
    assert "Not decided" in equal_terms_verdict(terms, ["v13_plan"], v13)


def test_published_runs_make_the_published_tables(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And their figures; a network without a record, v14_plan, stands beside nothing."""
    published, out = repository / "results" / "measured", tmp_path / "generations"
    terms = EqualTerms.read(published / "generations_nyu_labeled")
    runs = published / "generations"
    folders = [runs / name for name in terms.networks["network"].unique()]
    assert {path.name for path in folders} == {path.name for path in runs.iterdir()}
    quiet = ["--step-times", str(published / "bench_training.csv")]
    assert command_line.main(["equal-terms", *map(str, folders), *quiet, "--out", str(out)]) == 0
    for mine, theirs in zip(EqualTerms.read(out), terms, strict=True):
        pd.testing.assert_frame_equal(mine, theirs)
    figures = {path.stem: path for path in (out / "figures").glob("*.png")}
    recorded = {path.name for path in folders} - {"v14_plan", "v15_2"}
    assert set(figures) == {"learning", "pairs"} | {f"recorded_{name}" for name in recorded}
    assert all(matplotlib.image.imread(path)[..., :3].std() > 0.01 for path in figures.values())
    printed, page = capsys.readouterr().out, (repository / "docs" / "results.md").read_text()
    assert str(figures["pairs"]) in printed
    table = markdown(terms.networks)
    assert table in printed
    assert table in page


def test_results_say_how_far_the_runs_on_a_gpu_came(repository: Path) -> None:
    curves = pd.read_csv(repository / "results" / "measured" / "h200" / "equal_terms_curves.csv")
    page = " ".join((repository / "docs" / "results.md").read_text().split())
    last = curves.groupby("network").tail(1)
    assert len(last) == 7
    for row in last.to_dict("records"):
        assert f"{row['sel_abs_rel']:.3f} (`{row['network']}`, {row['step']:,})" in page


def test_a_network_has_one_colour_whoever_it_is_compared_with(terms: EqualTerms) -> None:
    def colours(curves: pd.DataFrame) -> dict[str, object]:
        ax, _ = learning_side_by_side(curves).axes
        return {str(line.get_label()): line.get_color() for line in ax.get_lines()}

    all_of_them = colours(terms.curves)
    assert len(set(all_of_them.values())) == 3
    fewer = colours(terms.curves[terms.curves["network"] != "v13_1"])
    assert fewer == {name: all_of_them[name] for name in ("v14_dual", "v15_2")}
