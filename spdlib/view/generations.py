"""Figures of networks on equal terms: how they learn, and which pairs can be told apart.

`python -m spdlib equal-terms` writes them beside the tables of `spdlib.study.generations`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from spdlib.models import list_models
from spdlib.study.comparison import compare
from spdlib.study.generations import EqualTerms, equal_terms, step_seconds
from spdlib.study.recorded import recorded_best
from spdlib.study.runs import Run
from spdlib.view.plots import FAINT, figure, model_colours, recorded_beside, styled
from spdlib.view.report import keep

AXES = {"step": "steps", "minutes": "minutes"}
TURNED = {"better": "worse", "worse": "better", "tie": "tie"}
COLOURS = {"better": "#029e73", "worse": "#d55e00", "tie": FAINT}


def add_equal_terms(parser: argparse.ArgumentParser) -> None:
    """Arguments of `equal-terms`."""
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, published ones too")
    files = "writes FILE.csv, FILE_pairs.csv, FILE_curves.csv and FILE/figures/"
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
    folder = args.out.with_suffix("")
    for name, drawn in figures_of(found, runs).items():
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


def figures_of(terms: EqualTerms, runs: Sequence[Run]) -> dict[str, Figure]:
    """All figures of a comparison by name.

    Args:
        terms: of `generations.equal_terms`.
        runs: those that it is of; each whose network is on record stands beside its record.
    """
    protocol = str(terms.networks["protocol"].iloc[0])
    beside = {
        f"recorded_{run.config.model.network}": recorded_beside(compare(run, run.config.experiment))
        for run in runs
        if recorded_best(run.config.model.network)
    }
    return {
        "learning": learning_side_by_side(terms.curves),
        "pairs": pairs_apart(terms.pairs, terms.networks, protocol),
        **beside,
    }


@styled
def learning_side_by_side(curves: pd.DataFrame) -> Figure:
    """Selection AbsRel of every network as it learns, by steps and by minutes.

    Args:
        curves: of `generations.equal_terms`.
    """
    fig, axes = figure(1, 2, 3.6, sharey=True)
    colours = model_colours(list_models())  # a network's own, whichever others it stands beside
    for ax, (axis, title) in zip(axes, AXES.items(), strict=True):
        for network, rows in curves.groupby("network", sort=False):
            ax.plot(rows[axis], rows["sel_abs_rel"], "o-", markersize=4, label=network,
                    color=colours[str(network)])  # fmt: skip
        ax.set(xlabel=axis, xlim=(0, None), title=f"at equal {title}")
    # logarithmic: a network that starts badly must not press the others together
    axes[0].set(yscale="log", ylabel="AbsRel on selection frames")
    axes[0].yaxis.set_major_locator(MaxNLocator(8))
    axes[0].yaxis.set_major_formatter(ScalarFormatter())
    axes[0].yaxis.set_minor_locator(NullLocator())
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center")
    return fig


@styled
def pairs_apart(pairs: pd.DataFrame, networks: pd.DataFrame, protocol: str) -> Figure:
    """Every pair's difference in AbsRel in percent: the row's network less the column's.

    Green cells are better, red ones worse, by a paired bootstrap over frames (95 %); grey is a tie.
    That is one run a network: the interval is not of seeds, and the figure says so.

    Args:
        pairs: of `generations.equal_terms`.
        networks: likewise.
        protocol: one of theirs.
    """
    scores = networks[networks["protocol"] == protocol].set_index("network")["abs_rel"]
    names = list(scores.sort_values().index)
    fig, ax = figure(1, 1, 0.62 * len(names) + 1.1)
    known = pairs[pairs["protocol"] == protocol]
    for row in known.to_dict("records"):
        first, second, difference = row["first"], row["second"], 100 * row["difference"]
        place = names.index(second), names.index(first)
        _cell(ax, place, difference / scores[second], row["verdict"])
        _cell(ax, place[::-1], -difference / scores[first], TURNED[row["verdict"]])
    places = range(len(names))
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    ax.set_xticks(places, names)
    ax.set_yticks(places, [f"{name}  {scores[name]:.3f}" for name in names])
    ax.set_title(
        f"AbsRel against the column's network, {protocol}, points\n"
        "one seed each: verdicts hold for other frames, not for other seeds"
    )
    ax.grid(visible=False)
    return fig


def _cell(ax: Axes, place: tuple[int, ...], gain: float, verdict: str) -> None:
    column, row = place
    corner = (column - 0.5, row - 0.5)
    ax.add_patch(Rectangle(corner, 1, 1, color=COLOURS[verdict], alpha=0.25, linewidth=0))
    ax.text(column, row, f"{gain:+.1f} %\n{verdict}", ha="center", va="center", fontsize="small")
