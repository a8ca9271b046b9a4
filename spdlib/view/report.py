"""Tables and sentences that notebooks share: what the numbers of a run say, and no more."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from spdlib.data.augment import AugmentConfig
from spdlib.errors import RunError
from spdlib.study.comparison import BEST, EPOCHS, NOT_STATED
from spdlib.study.config import RunConfig
from spdlib.study.diagnostics import alarms, range_table, wide_scores
from spdlib.study.experiments import EXPERIMENTS
from spdlib.study.generations import EqualTerms, compare_frames
from spdlib.study.recorded import recorded, recorded_facts
from spdlib.study.runs import DEFAULT_ROOT, Run, write_bytes
from spdlib.view.plots.style import BASELINE_GREYS, METRICS, model_name

BASELINES = tuple(BASELINE_GREYS)
"""Names of the image-free baselines in the tables, weakest first."""
RECORDED_NAMES = {
    **METRICS,
    "train_loss": "training loss",
    "dense_abs_rel": "AbsRel, dense path",
    "silog": "SILog (factor ½)",
    "scaled_abs_rel": "AbsRel after scaling by s*",
    "abs_rel_0_2m": "AbsRel, 0–2 m",
    "abs_rel_2_5m": "AbsRel, 2–5 m",
    "abs_rel_5_10m": "AbsRel, 5–10 m",
    "pred_min": "smallest prediction [m]",
    "pred_max": "largest prediction [m]",
    "gt_min": "smallest truth [m]",
    "gt_max": "largest truth [m]",
    "scale_gap": "scale gap [%]",
    "log_std": "deviation of ln p",
}
"""Scores of the log and their names for people."""
LOGGED = {
    "abs_rel": "AbsRel by epoch",
    "delta1": "δ1 by epoch",
    "s_star": "s* by epoch",
    "pred_max": "largest prediction [m]",
    "unique_l3": "cells of L3 routed to",
}
"""Scores by epoch that `log_table` shows."""
CHANGES = ("flip_p", "rotate_p", "gamma", "brightness", "channel_gain", "contrast", "saturation")
"""Settings of an augmentation that `log_table` shows."""
NO_INTERVAL = "no interval"
"""Stands for a verdict where frames were not scored one by one, so that there is none."""
SHORT_EVALUATIONS, SHORT_EPOCHS = 4, 4.0
"""A run with fewer evaluations or epochs than these is too short to judge."""
RUN_VARIANCE = 5.0
"""Percent of AbsRel by which two runs of one network can differ by chance. On another machine the
same seed moved selection AbsRel by 2.4 % in the median, 11 % at most (results/measured/h200)."""


def project_root() -> Path:
    """The checkout that the working folder lies in, else the working folder.

    Jupyter starts a notebook in its own folder, the runner where it was called: both shall write
    to the same place.
    """
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "pyproject.toml").is_file()), here)


def from_root(path: str) -> str:
    """A notebook's path parameter, from `project_root()` if it is relative; "" stays empty."""
    return str(project_root() / path) if path else ""


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


def score_table(metrics: pd.DataFrame, names: Sequence[str] = tuple(METRICS)) -> pd.DataFrame:
    """One row per protocol, sites and model, one column per metric, named for people.

    Args:
        metrics: metrics.csv of a run.
        names: which of `METRICS`.
    """
    table = wide_scores(metrics, names)
    return table.assign(model=table["model"].map(model_name)).rename(columns=METRICS)


def shown(table: pd.DataFrame, precision: int = 3) -> Styler:
    """A table as notebooks show it: no index, text to the left, empty cells for NaN.

    Args:
        table: any table.
        precision: decimals of numbers in numeric columns; others keep their shortest form.
    """
    number = table.select_dtypes("number").columns
    text = [column for column in table if column not in number]
    styled = table.style.hide(axis="index").format(precision=precision, na_rep="", thousands=",")
    styled = styled.format(_shortest, subset=text)
    styled = styled.set_properties(subset=text, **{"text-align": "left"})
    left: Any = [{"selector": "th", "props": "text-align: left"}]
    return styled.set_table_styles({column: left for column in text}, overwrite=False)


def _shortest(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def improvements(metrics: pd.DataFrame, frames: pd.DataFrame, model: str) -> pd.DataFrame:
    """How far a network's AbsRel lies below each image-free baseline's, per protocol and sites.

    Args:
        metrics: table of an evaluation.
        frames: its scores of every frame.
        model: the network's name in both.

    Returns:
        baseline, protocol, sites, score, baseline_score, improvement, low, high, verdict. The
        improvement is in percent of the baseline's score, as are the ends of the paired bootstrap
        interval (95 %, over frames). The recorded protocol takes as many points of every frame, so
        that its pooled score is their mean; its dense score pools frames of different weight, has
        no interval (NaN) and no verdict ("no interval").

    Raises:
        DataError: the score of a frame is NaN for one of two models.
    """
    table = metrics[metrics["metric"] == "abs_rel"]
    keys = zip(table["model"], table["protocol"], table["sites"], strict=True)
    scores = dict(zip(keys, table["value"], strict=True))
    rows = []
    for (name, protocol, sites), mine in scores.items():
        for baseline in BASELINES:
            if name == model and (baseline, protocol, sites) in scores:
                where = {"baseline": baseline, "protocol": protocol, "sites": sites}
                theirs = scores[baseline, protocol, sites]
                pair = {"score": mine, "baseline_score": theirs}
                gain = {"improvement": 100 * (1 - mine / theirs)}
                rows.append(where | pair | gain | _interval(frames, model, where, theirs))
    columns = ["baseline", "protocol", "sites", "score", "baseline_score", "improvement"]
    return pd.DataFrame(rows, columns=[*columns, "low", "high", "verdict"])


def _interval(
    frames: pd.DataFrame, model: str, where: Mapping[str, str], score: float
) -> dict[str, Any]:
    """Ends of an improvement's interval in percent of the baseline's score, and the verdict."""
    baseline, protocol, sites = where.values()
    scored = frames[(frames["protocol"] == protocol) & (frames["sites"] == sites)]
    if not {model, baseline} <= set(scored["model"]):
        return {"low": math.nan, "high": math.nan, "verdict": NO_INTERVAL}
    found = compare_frames(frames, model, baseline, protocol, sites=sites)
    low, high = -100 * found.high / score, -100 * found.low / score
    return {"low": low, "high": high, "verdict": found.verdict}


def beside_recorded(compared: pd.DataFrame) -> pd.DataFrame:
    """A run's final scores beside the epoch that the record quotes, its best.

    Args:
        compared: of `comparison.compare`, with one run that was evaluated.

    Returns:
        score, this run, recorded; the column names say model, protocol and epoch.

    Raises:
        RunError: the run was not evaluated, or the record has only its training loss.
    """
    final = compared[compared["pairing"] != EPOCHS]
    best = final[final["pairing"] == BEST]
    # a record whose same or last epoch is its best has no other pair
    rows = (final if best.empty else best).dropna(subset="recorded")
    scores = rows[~rows["metric"].str.startswith("train_loss")]
    if scores.empty:
        raise RunError("the comparison has no final scores on both sides; evaluate the run first")
    first = scores.iloc[0]
    protocol, epoch = first["measured_protocol"], first["recorded_epoch"]
    when = f", epoch {epoch:.0f}" if math.isfinite(epoch) else ""
    names = rows["metric"].map(lambda metric: RECORDED_NAMES.get(metric, metric))
    table = pd.DataFrame({"score": names, "ours": rows["measured"], "theirs": rows["recorded"]})
    titles = {
        "ours": f"{first['measured_network']}, this run ({protocol.partition(',')[0]})",
        "theirs": f"{first['recorded_network']}, {first['experiment']}{when} (recorded)",
    }
    return table.rename(columns=titles).reset_index(drop=True)


def log_table(names: Sequence[str]) -> pd.DataFrame:
    """The log's own table: how experiments were run, and what they scored by epoch.

    Args:
        names: such as "exp08", of experiments on record.

    Returns:
        One row a setting or score, one column an experiment.
    """
    columns = {name: _logged(name) for name in names}
    order = dict.fromkeys(setting for said in columns.values() for setting in said.index)
    table = pd.DataFrame(columns).loc[list(order)].fillna("")
    return table.rename_axis("setting").reset_index()


def _logged(name: str) -> pd.Series:
    """An experiment's settings and scores in words."""
    recipe, scores = EXPERIMENTS[name].recorded or {}, recorded(name)
    settings = RunConfig.of({"experiment": name, "profile": "paper", **recipe}).settings()
    said = {
        "network": settings["network"],
        "loss": settings["loss"],
        "λ, reduction": f"{settings['silog_lambda']:g}, {settings['reduction']}",
        "batch": settings["batch_size"],
        "image": " × ".join(map(str, settings["image_size"])),
        "normalised": "yes" if settings["input_norm"] == "weights" else "no",
        "augmentation": ", ".join(_changes(settings["augment"])) or "none",
        "auxiliary loss": f"{settings['auxiliary_weight']:g}",
        **recipe["options"],
    }
    facts = recorded_facts(name)
    said |= {
        row: NOT_STATED
        for row, fact in (("image", "image_size"), ("augmentation", "augmentation"))
        if facts[fact] == NOT_STATED
    }
    for score, label in LOGGED.items():
        if score in scores:
            said[label] = " ".join(f"{value:.3g}" for value in scores[score].dropna())
    return pd.Series(said, dtype=object)


def _changes(augment: AugmentConfig) -> list[str]:
    """What an augmentation changes, in words."""
    plain = AugmentConfig()
    changed = [name for name in CHANGES if getattr(augment, name) != getattr(plain, name)]
    return [name.removesuffix("_p").replace("_", " ") for name in changed]


def settings_of(**parameters: Any) -> dict[str, Any]:
    """A notebook's parameters without those that keep the experiment's own: "", None, False, 0.

    A fraction of 0.0 is a setting.
    """
    return {
        name: value
        for name, value in parameters.items()
        if value or (isinstance(value, float) and not math.isnan(value))
    }


# -- sentences --------------------------------------------------------------------------------


def verdict(
    table: pd.DataFrame,
    history: pd.DataFrame,
    model: str,
    wanted: float,
    scores: Mapping[str, float],
) -> str:
    """What the numbers say about a network, as Markdown.

    Args:
        table: of `improvements`.
        history: history.csv of the run.
        model: the network's name.
        wanted: how many percent below both baselines its AbsRel should be, with 95 % confidence;
            0 wants any improvement.
        scores: under the recorded protocol, for the alarms of the log's reports.
    """
    lines = [f"**{_conclusion(table, history, model, wanted)}**", ""]
    if wanted:
        reason = (
            f"Wanted: AbsRel at least {wanted:g} % below both baselines. They know typical depths "
            f"but never see the image, and runs of one network differ by about {RUN_VARIANCE:g} %."
        )
        lines += [reason, ""]
    lines += [f"- {_comparison(row)}" for row in table.itertuples()]
    found = "; ".join(alarms(scores)) or "none"
    lines += ["", _ending(history), "", f"Alarms of the log's reports: {found}."]
    return "\n".join(lines)


def findings(history: pd.DataFrame, bins: pd.DataFrame, inside: pd.DataFrame, model: str) -> str:
    """What the log's own diagnostics say of a run, as Markdown.

    Args:
        history: history.csv of the run.
        bins: bins.csv of its evaluation.
        inside: of `diagnostics.look_inside`.
        model: the network's name.
    """
    last = range_table(history).iloc[-1]
    lines = [
        f"- **Range.** After the last epoch predictions lie between {last['pred_min']:.2f} and "
        f"{last['pred_max']:.2f} m, true depths between {last['gt_min']:.2f} and "
        f"{last['gt_max']:.2f} m: predictions cover {last['covered']:.0%} of the true range."
    ]
    own = bins[(bins["model"] == model) & (bins["sites"] == "points")]
    eigen = own[own["protocol"].str.startswith("eigen")].dropna(subset="abs_rel")
    eigen = eigen[eigen["protocol"] == eigen["protocol"].min()]  # of one truth
    if len(eigen) > 1:
        near, far = eigen.iloc[0], eigen.iloc[-1]
        lines.append(
            f"- **Near and far.** AbsRel is {near['abs_rel']:.3f} in {near['bin']} m and "
            f"{far['abs_rel']:.3f} in {far['bin']} m."
        )
    for name, rows in inside.groupby("diagnostic", sort=False):
        lines.append(f"- **{str(name).capitalize()}.** {_diagnosed(rows)}")
    return "\n".join(lines)


def _diagnosed(rows: pd.DataFrame) -> str:
    """A diagnostic's parts with their values, and those that alarm."""
    parts = "; ".join(f"{part} {value:.3g}" for part, value in rows[["part", "value"]].to_numpy())
    alarming = rows[rows["verdict"].ne("")]
    if alarming.empty:
        return f"{parts}."
    which = "; ".join(f"{row.part}: {row.verdict}" for row in alarming.itertuples())
    return f"{parts}. Alarm: {which}."


def equal_terms_verdict(terms: EqualTerms, first: Sequence[str], second: Sequence[str]) -> str:
    """Whether one generation beats another on equal terms, as Markdown.

    Each side is represented by its best network on the selection frames. It wins if even the lower
    end of the interval is above the variance of runs, because a network was trained only once.

    Args:
        terms: of `generations.equal_terms`.
        first: networks of the generation that should be better.
        second: networks of the other.
    """
    table = terms.networks
    protocol = next(name for name in table["protocol"] if name.startswith("eigen"))
    table = table[table["protocol"] == protocol].set_index("network")
    scores, selection = table["abs_rel"], table["sel_abs_rel"]
    mine, theirs = (selection[[n for n in names if n in scores]] for names in (first, second))
    if mine.empty or theirs.empty:
        return "**Not decided:** one side has no run on equal terms yet."
    best, rival = str(mine.idxmin()), str(theirs.idxmin())
    gain, low, high = gain_of(terms.pairs, best, rival, protocol, scores[rival])
    found = f"No clear winner between {best} and {rival}"
    if low > RUN_VARIANCE:
        found = f"{best} beats {rival}"
    elif high < -RUN_VARIANCE:
        found = f"{best} is worse than {rival}"
    lines = [
        f"**{found}.** AbsRel is {scores[best]:.3f} against {scores[rival]:.3f}, "
        f"{_lower(gain, low, high)}, {protocol}, points.",
        "",
        f"Differences below about {RUN_VARIANCE:g} % are within run-to-run variance: every network "
        f"was trained once, for {table['steps'].min():g} steps, and the interval is of test "
        "frames, not of seeds. The network of each side was chosen on the selection frames.",
    ]
    return "\n".join(lines)


def gain_of(
    pairs: pd.DataFrame, first: str, second: str, protocol: str, score: float
) -> tuple[float, float, float]:
    """By how many percent of the second's AbsRel the first's is lower, and the interval's ends."""
    rows = pairs[pairs["protocol"] == protocol].set_index(["first", "second"])
    ends = ["difference", "high", "low"]
    if (first, second) in rows.index:
        gain, low, high = -100 * rows.loc[(first, second), ends] / score
    else:
        gain, high, low = 100 * rows.loc[(second, first), ends] / score
    return gain, low, high


def _lower(gain: float, low: float, high: float) -> str:
    """A difference of scores in percent with its 95 % interval, in words."""
    sign, word = (1, "lower") if gain >= 0 else (-1, "higher")
    low, high = sorted((sign * low, sign * high))
    interval = f"95 % interval {low:.1f} to {high:.1f} %"
    if not math.isfinite(low):
        interval = "pooled over frames: no interval, not judged"
    return f"{sign * gain:.1f} % {word} ({interval})"


def too_short(history: pd.DataFrame) -> bool:
    """Whether a run saw too little to be judged."""
    return len(history) < SHORT_EVALUATIONS or history["epoch"].iloc[-1] < SHORT_EPOCHS


def _conclusion(table: pd.DataFrame, history: pd.DataFrame, model: str, wanted: float) -> str:
    """The verdict in a sentence; the comparison whose interval reaches lowest decides."""
    if too_short(history):
        epochs = history["epoch"].iloc[-1]
        return (
            f"Too short to judge: {len(history)} evaluations over {epochs:g} epochs. "
            "The numbers below only show that training and evaluation work."
        )
    judged = table[table["verdict"] != NO_INTERVAL]
    if judged.empty:
        return f"Not judged: no score of {model} has an interval."
    found = next(word for word in ("worse", "tie", "better") if word in set(judged["verdict"]))
    rows = judged[judged["verdict"] == found]
    row = rows.loc[rows["low"].idxmin()]
    where = f"the {model_name(str(row['baseline']))} ({row['protocol']}, {row['sites']})"
    difference = f"against {where} its AbsRel is {_lower(*row[['improvement', 'low', 'high']])}"
    if found == "worse":
        return f"{model} does not beat both image-free baselines: {difference}."
    if found == "tie":
        return f"{model} is not shown to beat both image-free baselines: {difference}."
    if row["low"] >= wanted:
        return (
            f"{model} beats both image-free baselines by at least "
            f"{math.floor(10 * row['low']) / 10:.1f} %: {difference}."
        )
    missed = "but by less than" if row["high"] < wanted else "but is not shown to do so by"
    return f"{model} beats both image-free baselines, {missed} {wanted:g} %: {difference}."


def _comparison(row: Any) -> str:
    difference = _lower(row.improvement, row.low, row.high)
    tie = ", a tie" if row.verdict == "tie" else ""
    return (
        f"{row.protocol}, {row.sites}: {row.score:.3f} against {row.baseline_score:.3f} of the "
        f"{model_name(row.baseline)}, {difference}{tie}"
    )


def _ending(history: pd.DataFrame) -> str:
    """Whether selection AbsRel still fell in the last fifth of the run."""
    last = history["step"].iloc[-1]
    early = history[history["step"] <= 0.8 * last]["sel_abs_rel"]
    best = history["sel_abs_rel"].min()
    if early.empty:
        return "The run is too short to say whether it had converged."
    gain = 100 * (1 - best / early.min())
    rise = 100 * (history["sel_abs_rel"].iloc[-1] / best - 1)
    if rise > 1:
        return (
            f"Selection AbsRel rose by {rise:.1f} % after its best: the weights kept are those of "
            f"step {history['step'].iloc[int(history['sel_abs_rel'].argmin())]:g} of {last:g}."
        )
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
    table = score_table(run.metrics, ("abs_rel", "rmse", "delta1", "s_star"))
    folder = run.folder
    if folder.is_absolute() and folder.is_relative_to(project_root()):
        folder = folder.relative_to(project_root())
    frames = int(run.metrics["frames"].max())
    text = table.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="")
    return f"run: {folder}\n{frames} test frames; AbsRel and RMSE: lower is better\n\n{text}"
