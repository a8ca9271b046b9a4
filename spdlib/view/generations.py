"""Networks on equal terms: how they learn, which pairs can be told apart, which is better.

`python -m spdlib equal-terms` writes the figures beside the tables of `spdlib.study.generations`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spdlib.models import list_models
from spdlib.study.comparison import compare, fairness
from spdlib.study.generations import EqualTerms, equal_terms, files_of, step_seconds
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
from spdlib.view.report import RUN_VARIANCE, difference_in_words, keep

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
    files_of(args.out)  # a name that is none is refused before the work
    runs = [Run.open(folder) for folder in args.runs]
    points = runs[0].config.sampling.points
    found = equal_terms(runs, step_seconds(args.step_times, points) if args.step_times else None)
    print(markdown(found.networks))
    print(*found.save(args.out), sep="\n")
    figures = {"learning": learning_side_by_side(found.curves), "pairs": pairs_apart(found)}
    folder, reasons = args.out.with_suffix(""), []
    for run in runs:
        network = run.config.model.network
        if recorded_best(network):
            beside = compare(run, run.config.experiment)
            figures[f"recorded_{network}"] = recorded_beside(beside)
            reasons.append(fairness(beside))
    if reasons:
        write_table(folder / "fairness.csv", pd.concat(reasons))
    for name, drawn in figures.items():
        keep(folder, name, drawn)
        print(folder / "figures" / f"{name}.png")
    return 0


def markdown(networks: pd.DataFrame) -> str:
    """The first protocol's scores as a Markdown table, best first; docs/results.md shows it.

    "At equal minutes" is AbsRel on the selection frames, in the minutes of the fastest network.
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


def eigen_scores(terms: EqualTerms) -> tuple[str, pd.DataFrame]:
    """The eigen protocol, which decides, and its rows of `networks` by name, best first."""
    protocol = next(name for name in terms.networks["protocol"] if name.startswith("eigen/"))
    rows = terms.networks[terms.networks["protocol"] == protocol]
    return protocol, rows.set_index("network").sort_values("abs_rel")


def gains(terms: EqualTerms) -> dict[tuple[str, str], tuple[float, float, float]]:
    """By how many percent of the second's AbsRel the first's is lower, and the interval's ends.

    Every pair of networks under the eigen protocol has both orders.
    """
    protocol, networks = eigen_scores(terms)
    percent, found = 100 / networks["abs_rel"], {}
    for pair in terms.pairs[terms.pairs["protocol"] == protocol].to_dict("records"):
        first, second = pair["first"], pair["second"]
        middle, low, high = pair["difference"], pair["low"], pair["high"]
        one, other = percent[first], percent[second]
        found[first, second] = -other * middle, -other * high, -other * low
        found[second, first] = one * middle, one * low, one * high
    return found


def equal_terms_verdict(terms: EqualTerms, first: Sequence[str], second: Sequence[str]) -> str:
    """Whether the networks `first` beat the networks `second` on equal terms, as Markdown.

    Each side is represented by its best network on the selection frames. It wins if even the lower
    end of the interval is above the variance of runs, because a network was trained only once.
    """
    protocol, networks = eigen_scores(terms)
    scores, selection = networks["abs_rel"], networks["sel_abs_rel"]
    mine, theirs = (selection[selection.index.isin(names)] for names in (first, second))
    if mine.empty or theirs.empty:
        return "**Not decided:** one side has no run on equal terms yet."
    best, rival = str(mine.idxmin()), str(theirs.idxmin())
    gain, low, high = gains(terms)[best, rival]
    found = f"No clear winner between {best} and {rival}"
    if low > RUN_VARIANCE:
        found = f"{best} beats {rival}"
    elif high < -RUN_VARIANCE:
        found = f"{best} is worse than {rival}"
    return (
        f"**{found}.** AbsRel is {scores[best]:.3f} against {scores[rival]:.3f}, "
        f"{difference_in_words(gain, low, high)}, {protocol}, points.\n\n"
        f"Differences below about {RUN_VARIANCE:g} % are within run-to-run variance: every network "
        f"was trained once, for {networks['steps'].min():g} steps, and the interval is of test "
        "frames, not of seeds. The network of each side was chosen on the selection frames."
    )


@styled
def learning_side_by_side(curves: pd.DataFrame) -> Figure:
    """Selection AbsRel of every network as it learns, by steps and by minutes.

    The axis ends above the first evaluations of slow starters, so that the ends can be told apart.
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
        names, own = list(last["network"]), [colours[name] for name in last["network"]]
        lines = [along(*line.get_data()) for line in ax.lines]
        ends = last[[axis, "sel_abs_rel"]]
        ax.set_xticks([tick for tick in ax.get_xticks() if tick <= curves[axis].max()])
        label_points(ax, ends, names, own, lines, AFTER, path_effects=outline())
    return fig


@styled
def pairs_apart(terms: EqualTerms) -> Figure:
    """By how many percent the row's AbsRel is below the column's, with 95 % intervals.

    Intervals are of a paired bootstrap over frames. Each network was trained once, so that only
    differences beyond the variance of runs are in full colour.
    """
    protocol, networks = eigen_scores(terms)
    scores, known = networks["abs_rel"], gains(terms)
    names = list(scores.index)
    fig, ax = figure(1, 1, 0.62 * len(names) + 0.9)
    for (row, better), (column, worse) in combinations(enumerate(names), 2):
        if (better, worse) in known:
            _cell(ax, column, row, *known[better, worse])
    ax.set(xlim=(0.5, len(names) - 0.5), ylim=(len(names) - 1.5, -0.5))
    ax.set_xticks(range(1, len(names)), [f"{name}\n{scores[name]:.3f}" for name in names[1:]])
    ax.set_yticks(range(len(names) - 1), [f"{name}  {scores[name]:.3f}" for name in names[:-1]])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_title(f"by how much the row's AbsRel is below the column's ({protocol}, points)")
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    # in the empty triangle
    swatches = [Rectangle((0, 0), 1, 1, color=shade) for shade in SHADES]
    texts, title = [text for text, _ in SHADES.values()], "with the 95 % interval over frames:"
    look: dict[str, Any] = {"fontsize": "medium", "alignment": "left"}
    ax.legend(swatches, texts, loc="lower left", title=title, **look)
    return fig


def _cell(ax: Axes, column: int, row: int, gain: float, low: float, high: float) -> None:
    shade = next(shade for shade, (_, least) in SHADES.items() if low > least)
    look: dict[str, Any] = {"facecolor": shade, "linewidth": 2, "edgecolor": "white"}
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **look))
    ax.text(column, row - 0.14, f"{gain:.1f} %", ha="center", va="center", fontweight="bold")
    interval = f"{low:.1f} to {high:.1f}"
    ax.text(column, row + 0.2, interval, ha="center", va="center", fontsize="small")
