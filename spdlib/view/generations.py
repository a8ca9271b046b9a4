"""Figures of networks on equal terms: how they learn, and which pairs can be told apart.

`python -m spdlib equal-terms` writes them beside the tables of `spdlib.study.generations`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spdlib.models import list_models
from spdlib.study.comparison import compare, fairness
from spdlib.study.generations import EqualTerms, equal_terms, step_seconds
from spdlib.study.recorded import recorded_best
from spdlib.study.runs import Run, write_table
from spdlib.view.plots.style import (
    AFTER,
    along,
    figure,
    label_points,
    model_colours,
    outline,
    styled,
)
from spdlib.view.plots.training import recorded_beside
from spdlib.view.report import RUN_VARIANCE, gain_of, keep

AXES = {"step": "steps", "minutes": "minutes"}
SHADES = {
    "#7fc8ad": (f"lower by more than run-to-run variance, {RUN_VARIANCE:g} %", RUN_VARIANCE),
    "#d9efe6": ("lower, but within run-to-run variance", 0.0),
    "#ececec": ("a tie", -math.inf),
}
"""Colours of pairs, what they mean, and above what the interval's lower end lies."""


def add_equal_terms(parser: argparse.ArgumentParser) -> None:
    """Arguments of `equal-terms`."""
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, published ones too")
    files = "writes FILE.csv, FILE_pairs.csv, FILE_curves.csv, FILE/fairness.csv and FILE/figures/"
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=files)
    times = (
        "count minutes by the steps' cost in this table of `bench training`, not by the runs' own "
        "clocks, which also tell what else their machine did"
    )
    parser.add_argument("--step-times", type=Path, metavar="FILE", help=times)
    parser.set_defaults(command=_equal_terms)


def _equal_terms(args: argparse.Namespace) -> int:
    runs = [Run.open(folder) for folder in args.runs]
    points = runs[0].config.sampling.points
    found = equal_terms(runs, step_seconds(args.step_times, points) if args.step_times else None)
    print(markdown(found.networks))
    print(*found.save(args.out), sep="\n")
    folder, on_record = args.out.with_suffix(""), _on_record(runs)
    if on_record:
        reasons = pd.concat(fairness(compared) for compared in on_record.values())
        write_table(folder / "fairness.csv", reasons)
    for name, drawn in figures_of(found, on_record).items():
        keep(folder, name, drawn)
        print(folder / "figures" / f"{name}.png")
    return 0


def markdown(networks: pd.DataFrame) -> str:
    """The first protocol's scores as a Markdown table, best first; docs/results.md shows it.

    "At equal minutes" is AbsRel on the selection frames, in the minutes of the fastest network.

    Args:
        networks: of `generations.equal_terms`.
    """
    own = networks[networks["protocol"] == networks["protocol"].iloc[0]].sort_values("abs_rel")
    lines = [
        "| network | parameters outside the encoder | AbsRel | RMSE [m] | δ1 | s* | minutes "
        "| at equal minutes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in own.to_dict("records"):
        scores = " | ".join(f"{row[name]:.3f}" for name in ("abs_rel", "rmse", "delta1", "s_star"))
        millions = f"{row['decoder_parameters'] / 1e6:.1f} M"
        alike = row["abs_rel_at_equal_minutes"]
        minutes = f"{row['minutes']:.0f} | " + ("–" if pd.isna(alike) else f"{alike:.3f}")
        lines.append(f"| `{row['network']}` | {millions} | {scores} | {minutes} |")
    return "\n".join(lines)


def _on_record(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Runs beside what the log has of their networks."""
    return {
        run.config.model.network: compare(run, run.config.experiment)
        for run in runs
        if recorded_best(run.config.model.network)
    }


def figures_of(terms: EqualTerms, on_record: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """All figures of a comparison by name.

    Args:
        terms: of `generations.equal_terms`.
        on_record: network -> its run beside its record, of `comparison.compare`.
    """
    protocol = str(terms.networks["protocol"].iloc[0])
    beside = {f"recorded_{name}": recorded_beside(table) for name, table in on_record.items()}
    return {
        "learning": learning_side_by_side(terms.curves),
        "pairs": pairs_apart(terms.pairs, terms.networks, protocol),
        **beside,
    }


@styled
def learning_side_by_side(curves: pd.DataFrame) -> Figure:
    """Selection AbsRel of every network as it learns, by steps and by minutes.

    The axis ends above the first evaluations of slow starters, so that the ends can be told apart.

    Args:
        curves: of `generations.equal_terms`.
    """
    fig, axes = figure(1, 2, 4.2, sharey=True)
    colours = model_colours(list_models())  # a network's own, whichever others it stands beside
    last = curves.groupby("network", sort=False).tail(1).sort_values("sel_abs_rel")
    low, high = curves["sel_abs_rel"].min(), 1.3 * last["sel_abs_rel"].max()
    for ax, (axis, title) in zip(axes, AXES.items(), strict=True):
        for network, rows in curves.groupby("network", sort=False):
            look = {"markersize": 4, "label": network, "color": colours[str(network)]}
            ax.plot(rows[axis], rows["sel_abs_rel"], "o-", **look)
        ax.set(xlabel=title, xlim=(0, 1.36 * curves[axis].max()), title=f"at equal {title}")
        ax.set_ylim(low - 0.1 * (high - low), high)
    axes[0].set_ylabel("AbsRel on selection frames")
    for ax, axis in zip(axes, AXES, strict=True):
        bold = {"fontweight": "bold", "path_effects": outline()}
        looks = [{"color": colours[name], **bold} for name in last["network"]]
        lines = np.concatenate([along(*line.get_data()) for line in ax.lines])
        ends = last[[axis, "sel_abs_rel"]]
        ax.set_xticks([tick for tick in ax.get_xticks() if tick <= curves[axis].max()])
        label_points(ax, ends, list(last["network"]), looks, lines, AFTER)
    return fig


@styled
def pairs_apart(pairs: pd.DataFrame, networks: pd.DataFrame, protocol: str) -> Figure:
    """By how many percent the row's AbsRel is below the column's, with 95 % intervals.

    Intervals are of a paired bootstrap over frames. Each network was trained once, so that only
    differences beyond the variance of runs are in full colour.

    Args:
        pairs: of `generations.equal_terms`.
        networks: likewise.
        protocol: one of theirs.
    """
    scores = networks[networks["protocol"] == protocol].set_index("network")["abs_rel"]
    scores = scores.sort_values()
    names = list(scores.index)
    fig, ax = figure(1, 1, 0.62 * len(names) + 0.9)
    known = pairs[pairs["protocol"] == protocol].set_index(["first", "second"])
    for (row, better), (column, worse) in combinations(enumerate(names), 2):
        if (better, worse) in known.index or (worse, better) in known.index:
            ends = gain_of(pairs, better, worse, protocol, scores[worse])
            _cell(ax, column, row, *ends)
    ax.set(xlim=(0.5, len(names) - 0.5), ylim=(len(names) - 1.5, -0.5))
    ax.set_xticks(range(1, len(names)), [f"{name}\n{scores[name]:.3f}" for name in names[1:]])
    ax.set_yticks(range(len(names) - 1), [f"{name}  {scores[name]:.3f}" for name in names[:-1]])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_title(f"by how much the row's AbsRel is below the column's ({protocol}, points)")
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    _legend(ax)
    return fig


def _cell(ax: Axes, column: int, row: int, gain: float, low: float, high: float) -> None:
    shade = next(shade for shade, (_, least) in SHADES.items() if low > least)
    look = {"facecolor": shade, "linewidth": 2, "edgecolor": "white"}
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **look))
    ax.text(column, row - 0.14, f"{gain:.1f} %", ha="center", va="center", fontweight="bold")
    interval = f"{low:.1f} to {high:.1f}"
    ax.text(column, row + 0.2, interval, ha="center", va="center", fontsize="small")


def _legend(ax: Axes) -> None:
    """In the empty triangle."""
    swatches = [Rectangle((0, 0), 1, 1, color=shade) for shade in SHADES]
    texts = [text for text, _ in SHADES.values()]
    look: dict[str, Any] = {"fontsize": "medium", "alignment": "left"}
    ax.legend(
        swatches, texts, loc="lower left", title="with the 95 % interval over frames:", **look
    )
