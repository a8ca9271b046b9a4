"""Tables and sentences that notebooks share: what a run's numbers say, and nothing beyond it."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from spdlib.study.evaluation import compare_frames
from spdlib.study.runs import DEFAULT_ROOT, Run, write_bytes
from spdlib.view.plots import BASELINE_GREYS, model_name

BASELINES = tuple(BASELINE_GREYS)
"""Names of the image-free baselines in the tables, weakest first."""
SHORT = ("abs_rel", "rmse", "delta1", "s_star")
SHORT_EVALUATIONS, SHORT_EPOCHS = 4, 4.0
"""A run with fewer evaluations or epochs than these is too short to judge."""


def project_root() -> Path:
    """The checkout that the working folder lies in, else the working folder.

    Jupyter starts a notebook in its own folder, the runner where it was called: both shall write
    to the same place.
    """
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "pyproject.toml").is_file()), here)


def run_folder(out: str, name: str, profile: str) -> Path:
    """Where a notebook's run goes: `out`, or results/runs/NAME (NAME_PROFILE unless "demo").

    Relative paths start at `project_root()`. Profile "smoke" tests the code as it is now, so that
    its default is a new temporary folder: no earlier run is continued.
    """
    if profile == "smoke" and not out:
        return Path(tempfile.mkdtemp(prefix=f"{name}_smoke_"))
    default = DEFAULT_ROOT / (name if profile == "demo" else f"{name}_{profile}")
    return project_root() / (Path(out) if out else default)


def keep(folder: str | Path, name: str, figure: Figure) -> Figure:
    """Save a figure as `folder`/figures/`name`.png and hand it on for display.

    Raises:
        RunError: the file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    write_bytes(Path(folder) / "figures" / f"{name}.png", buffer.getvalue())
    return figure


# -- tables -----------------------------------------------------------------------------------


def score_table(metrics: pd.DataFrame, names: Sequence[str] = SHORT) -> pd.DataFrame:
    """One row per protocol, sites and model, one column per metric.

    Args:
        metrics: metrics.csv of a run.
        names: which metrics.
    """
    rows = metrics[metrics["metric"].isin(names)]
    keys = ["protocol", "sites", "model"]
    wide = rows.pivot_table(index=keys, columns="metric", values="value", sort=False)
    table = wide[[name for name in names if name in wide]].rename_axis(columns=None).reset_index()
    return table.assign(model=table["model"].map(model_name))


def improvements(metrics: pd.DataFrame, frames: pd.DataFrame, model: str) -> pd.DataFrame:
    """How far a network's AbsRel lies below each image-free baseline's, per protocol and sites.

    Args:
        metrics: table of an evaluation.
        frames: its scores of every frame.
        model: the network's name in both.

    Returns:
        baseline, protocol, sites, score, baseline_score, improvement, low, high, verdict. The
        improvement is in percent of the baseline's score, as are the ends of the paired bootstrap
        interval (95 %, over frames); the recorded protocol pools its points and has none (NaN).
    """
    table = metrics[metrics["metric"] == "abs_rel"]
    keys = zip(table["model"], table["protocol"], table["sites"], strict=True)
    scores = dict(zip(keys, table["value"], strict=True))
    rows = []
    for (name, protocol, sites), mine in scores.items():
        for baseline in BASELINES:
            if name == model and (baseline, protocol, sites) in scores:
                pair = mine, scores[baseline, protocol, sites]
                interval = _interval(frames, model, baseline, protocol, sites, pair)
                gain = 100 * (1 - pair[0] / pair[1])
                rows.append((baseline, protocol, sites, *pair, gain, *interval))
    columns = ["baseline", "protocol", "sites", "score", "baseline_score", "improvement", "low",
               "high", "verdict"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _interval(
    frames: pd.DataFrame,
    model: str,
    baseline: str,
    protocol: str,
    sites: str,
    pair: tuple[float, float],
) -> tuple[float, float, str]:
    if not protocol.startswith("eigen"):
        return math.nan, math.nan, "better" if pair[0] < pair[1] else "worse"
    found = compare_frames(frames, model, baseline, protocol, sites=sites)
    return -100 * found.high / pair[1], -100 * found.low / pair[1], found.verdict


def beside_recorded(
    metrics: pd.DataFrame, bins: pd.DataFrame, model: str, recorded: pd.DataFrame
) -> pd.DataFrame:
    """This run under the recorded protocol beside the best epoch of a recorded run.

    Args:
        metrics: table of an evaluation.
        bins: its table of depth bins.
        model: the network's name in both.
        recorded: one row an epoch, as `recorded_v15_1()`.

    Returns:
        score, this run, recorded; the column names say model and protocol.
    """
    best = recorded.iloc[int(recorded["abs_rel"].argmin())]
    mine = metrics[(metrics["model"] == model) & metrics["protocol"].str.startswith("recorded")]
    protocol = str(mine["protocol"].iloc[0])
    mine = mine[mine["protocol"] == protocol]
    points = mine[mine["sites"] == "points"].set_index("metric")["value"]
    dense = mine[mine["sites"] == "dense"].set_index("metric")["value"]
    far = bins[(bins["model"] == model) & (bins["protocol"] == protocol)
               & (bins["sites"] == "points") & (bins["bin"] == "[5, 10)")]["abs_rel"]  # fmt: skip
    names = {"abs_rel": "AbsRel", "s_star": "s*", "scaled_abs_rel": "AbsRel after scaling by s*",
             "delta1": "δ1", "silog": "SILog (factor ½)"}  # fmt: skip
    rows = [(label, points[name], best[name]) for name, label in names.items()]
    rows.append(("AbsRel, dense path", dense.get("abs_rel", math.nan), best["dense_abs_rel"]))
    rows.append(("AbsRel, 5–10 m", far.iloc[0] if len(far) else math.nan, best["abs_rel_5_10m"]))
    columns = ["score", f"{model}, this run ({protocol})",
               f"v15.1, Exp 13, epoch {best['epoch']:.0f} (recorded, NYU)"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


# -- sentences --------------------------------------------------------------------------------


def verdict(table: pd.DataFrame, history: pd.DataFrame, model: str, wanted: float) -> str:
    """What the numbers say about the network against images never looked at, as Markdown.

    Args:
        table: of `improvements`.
        history: history.csv of the run.
        model: the network's name.
        wanted: improvement in percent over both baselines that was asked for.
    """
    weakest = table.iloc[int(table["improvement"].argmin())]
    lines = [f"**{_conclusion(table, weakest, history, model, wanted)}**", ""]
    for row in table.itertuples():
        lines.append(f"- {_comparison(row, model)}")
    lines += ["", _ending(history)]
    return "\n".join(lines)


def too_short(history: pd.DataFrame) -> bool:
    """Whether a run saw too little to be judged."""
    return len(history) < SHORT_EVALUATIONS or history["epoch"].iloc[-1] < SHORT_EPOCHS


def _conclusion(
    table: pd.DataFrame, weakest: pd.Series, history: pd.DataFrame, model: str, wanted: float
) -> str:
    where = f"({weakest['protocol']}, {weakest['sites']})"
    against = f"the {model_name(str(weakest['baseline']))} {where}"
    gain = weakest["improvement"]
    if too_short(history):
        epochs = history["epoch"].iloc[-1]
        return (
            f"Too short to judge: {len(history)} evaluations over {epochs:g} epochs. "
            "The numbers below only show that the path works from end to end."
        )
    if (table["verdict"] == "worse").any():
        return f"{model} does not beat every image-free baseline: it is worse than {against}."
    if (table["verdict"] == "tie").any():
        return f"A tie: {model} cannot be told apart from {against}."
    if gain >= wanted:
        return (
            f"{model} beats both image-free baselines in both protocols by at least "
            f"{math.floor(10 * gain) / 10:.1f} % in AbsRel (asked for: {wanted:g} %). "
            "It reads depth from the image."
        )
    return (
        f"{model} beats both image-free baselines, but by less than the {wanted:g} % asked for: "
        f"only {gain:.1f} % against {against}."
    )


def _comparison(row: Any, model: str) -> str:
    interval = "pooled points, no interval"
    if math.isfinite(row.low):
        interval = f"95 % interval {row.low:.1f} to {row.high:.1f} %"
        interval += ", a tie" if row.verdict == "tie" else ""
    word = "below" if row.improvement >= 0 else "above"
    return (
        f"{row.protocol}, {row.sites}: {model} {row.score:.3f}, {abs(row.improvement):.1f} % "
        f"{word} the {model_name(row.baseline)}'s {row.baseline_score:.3f} ({interval})"
    )


def _ending(history: pd.DataFrame) -> str:
    """Whether selection AbsRel still fell in the last fifth of the run."""
    last = history["step"].iloc[-1]
    early = history[history["step"] <= 0.8 * last]["sel_abs_rel"]
    best = history["sel_abs_rel"].min()
    if early.empty:
        return "The run is too short to say whether it had converged."
    gain = 100 * (1 - best / early.min())
    if gain > 1:
        return (
            f"Selection AbsRel still fell by {gain:.1f} % in the last fifth of the {last:g} "
            "steps: a longer run would probably score better."
        )
    return (
        f"Selection AbsRel fell by {max(gain, 0):.1f} % in the last fifth of the {last:g} steps: "
        "more steps of the same kind would change little."
    )


def closing(run: Run) -> str:
    """The end of a notebook's log: where the run lies and its short table."""
    table = score_table(run.metrics)
    folder = run.folder
    if folder.is_absolute() and folder.is_relative_to(project_root()):
        folder = folder.relative_to(project_root())
    frames = int(run.metrics["frames"].max())
    text = table.to_string(index=False, float_format=lambda value: f"{value:.3f}")
    return f"run: {folder}\n{frames} test frames; AbsRel and RMSE [m]: lower is better\n\n{text}"
