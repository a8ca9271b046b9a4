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
from spdlib.errors import ConfigError, RunError, unknown_name
from spdlib.study.comparison import BEST, EPOCHS, NOT_STATED
from spdlib.study.config import RunConfig
from spdlib.study.diagnostics import alarms, range_table, wide_scores
from spdlib.study.experiments import EXPERIMENTS
from spdlib.study.generations import Comparison, compare_frames
from spdlib.study.recorded import recorded, recorded_facts
from spdlib.study.runs import DEFAULT_ROOT, Run, write_bytes
from spdlib.view.plots.style import BASELINE_GREYS, METRICS, SCORES, model_name

LOGGED = ("abs_rel", "delta1", "s_star", "pred_max", "unique_l3")
"""Scores by epoch that `log_table` shows."""
CHANGES = ("flip_p", "rotate_p", "gamma", "brightness", "channel_gain", "contrast", "saturation")
"""Settings of an augmentation that `log_table` shows."""
NO_INTERVAL = "no interval"
"""In place of a verdict where frames were not scored one by one."""
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

    Relative paths start at `project_root()`. A smoke run tests the code as it is now: by default it
    gets a new temporary folder, so that it continues no earlier run.
    """
    if profile == "smoke" and not out:
        return Path(tempfile.mkdtemp(prefix=f"{name}_smoke_"))
    default = DEFAULT_ROOT / (name if profile == "demo" else f"{name}_{profile}")
    return project_root() / (out or default)


def keep(folder: str | Path, name: str, figure: Figure) -> Figure:
    """Save a figure as FOLDER/figures/NAME.png (RunError if that fails) and hand it on."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    write_bytes(Path(folder) / "figures" / f"{name}.png", buffer.getvalue())
    return figure


def score_table(metrics: pd.DataFrame, names: Sequence[str] = tuple(METRICS)) -> pd.DataFrame:
    """One row per protocol, sites and model of metrics.csv, one column per name of `METRICS`."""
    table = wide_scores(metrics, names)
    return table.assign(model=table["model"].map(model_name)).rename(columns=METRICS)


def shown(table: pd.DataFrame) -> Styler:
    """A table as notebooks show it: no index, text to the left, empty cells for NaN.

    Numeric columns have three decimals, other numbers their shortest form.
    """
    text = list(table.select_dtypes(exclude="number"))
    styled = table.style.hide(axis="index").format(precision=3, na_rep="", thousands=",")
    styled = styled.format(lambda x: f"{x:g}" if isinstance(x, float) else str(x), subset=text)
    styled = styled.set_properties(subset=text, **{"text-align": "left"})
    left: Any = [{"selector": "th", "props": "text-align: left"}]
    return styled.set_table_styles({column: left for column in text}, overwrite=False)


def improvements(metrics: pd.DataFrame, frames: pd.DataFrame, model: str) -> pd.DataFrame:
    """How far a network's AbsRel lies below each image-free baseline's, per protocol and sites.

    `metrics` and `frames` are the tables of its evaluation.

    Returns:
        baseline, protocol, sites, score, baseline_score, improvement, low, high, verdict. The
        improvement is in percent of the baseline's score, as are the ends of the paired bootstrap
        interval (95 %, over frames). The recorded protocol takes as many points of every frame, so
        that its pooled score is their mean; its dense score pools frames of different weight, has
        no interval (NaN) and no verdict ("no interval").

    Raises:
        DataError: the score of a frame is NaN for one of two models.
    """
    keys = ["model", "protocol", "sites"]
    table = metrics[metrics["metric"] == "abs_rel"]
    scores: dict[Any, float] = table.set_index(keys)["value"].to_dict()
    rows = []
    for (name, protocol, sites), mine in scores.items():
        for baseline in BASELINE_GREYS:
            if name == model and (baseline, protocol, sites) in scores:
                theirs = scores[baseline, protocol, sites]
                found = _compared(frames, model, baseline, protocol, sites)
                ends = -100 * found.high / theirs, -100 * found.low / theirs
                gain = 100 * (1 - mine / theirs)
                rows.append((baseline, protocol, sites, mine, theirs, gain, *ends, found.verdict))
    columns = ["baseline", "protocol", "sites", "score", "baseline_score", "improvement"]
    return pd.DataFrame(rows, columns=[*columns, "low", "high", "verdict"])


def _compared(
    frames: pd.DataFrame, first: str, second: str, protocol: str, sites: str
) -> Comparison:
    """Two models on the same frames; NaN where these were not scored one by one."""
    here = (frames["protocol"] == protocol) & (frames["sites"] == sites)
    if {first, second} <= set(frames[here]["model"]):
        return compare_frames(frames, first, second, protocol, sites=sites)
    return Comparison(math.nan, math.nan, math.nan, NO_INTERVAL)


def beside_recorded(compared: pd.DataFrame) -> pd.DataFrame:
    """A run's final scores beside the epoch that the record quotes, its best.

    Of a table of `comparison.compare` with one run. Returns score, this run, recorded; the column
    names say model, protocol and epoch.

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
    protocol, epoch = first["measured_protocol"].partition(",")[0], first["recorded_epoch"]
    when = f", epoch {epoch:.0f}" if math.isfinite(epoch) else ""
    columns = {
        "metric": "score",
        "measured": f"{first['measured_network']}, this run ({protocol})",
        "recorded": f"{first['recorded_network']}, {first['experiment']}{when} (recorded)",
    }
    table = rows[list(columns)].replace({"metric": SCORES})
    return table.rename(columns=columns).reset_index(drop=True)


def log_table(names: Sequence[str]) -> pd.DataFrame:
    """The log's own table: settings and scores by epoch of experiments on record ("exp08").

    ConfigError: the settings of one of them are not on record.
    """
    columns = {name: _logged(name) for name in names}
    order = dict.fromkeys(setting for said in columns.values() for setting in said)
    table = pd.DataFrame(columns, index=pd.Index(order, name="setting"), dtype=object)
    return table.fillna("").reset_index()


def _logged(name: str) -> dict[str, Any]:
    """An experiment's settings and scores in words."""
    known = {each.name: each.recorded for each in EXPERIMENTS.values() if each.recorded}
    if name not in known:
        raise ConfigError(unknown_name("experiment with recorded settings", name, known))
    recipe, scores = known[name], recorded(name)
    settings = RunConfig.of({"experiment": name, "profile": "paper", **recipe}).settings()
    augment, plain = settings["augment"], AugmentConfig()
    changed = [change for change in CHANGES if getattr(augment, change) != getattr(plain, change)]
    changes = [change.removesuffix("_p").replace("_", " ") for change in changed]
    said = {
        "network": settings["network"],
        "loss": settings["loss"],
        "λ, reduction": f"{settings['silog_lambda']:g}, {settings['reduction']}",
        "batch": settings["batch_size"],
        "image": " × ".join(map(str, settings["image_size"])),
        "normalised": "yes" if settings["input_norm"] == "weights" else "no",
        "augmentation": ", ".join(changes) or "none",
        "auxiliary loss": f"{settings['auxiliary_weight']:g}",
        **recipe["options"],
    }
    facts = recorded_facts(name)
    for row, fact in (("image", "image_size"), ("augmentation", "augmentation")):
        if facts[fact] == NOT_STATED:
            said[row] = NOT_STATED
    for score in LOGGED:
        if score in scores:
            values = " ".join(f"{value:.3g}" for value in scores[score].dropna())
            said[f"{SCORES[score]}, by epoch"] = values
    return said


def settings_of(**parameters: Any) -> dict[str, Any]:
    """A notebook's parameters that set something: not "", None, False or the whole number 0."""
    return {name: value for name, value in parameters.items() if value or isinstance(value, float)}


def verdict(
    table: pd.DataFrame,
    history: pd.DataFrame,
    model: str,
    wanted: float,
    scores: Mapping[str, float],
) -> str:
    """What a table of `improvements` and history.csv say about a network, as Markdown.

    `wanted` is by how many percent its AbsRel should be below both baselines, with 95 % confidence
    (0: by any); `scores` are those under the recorded protocol, for the log's alarms.
    """
    lines = [f"**{_conclusion(table, history, model, wanted)}**", ""]
    if wanted:
        reason = (
            f"Wanted: AbsRel at least {wanted:g} % below both baselines. They know typical depths "
            f"but never see the image, and runs of one network differ by about {RUN_VARIANCE:g} %."
        )
        lines += [reason, ""]
    for row in table.to_dict("records"):
        difference = difference_in_words(row["improvement"], row["low"], row["high"])
        tie = ", a tie" if row["verdict"] == "tie" else ""
        lines.append(
            f"- {row['protocol']}, {row['sites']}: {row['score']:.3f} against "
            f"{row['baseline_score']:.3f} of the {model_name(row['baseline'])}, {difference}{tie}"
        )
    found = "; ".join(alarms(scores)) or "none"
    lines += ["", _ending(history), "", f"Alarms of the log's reports: {found}."]
    return "\n".join(lines)


def findings(history: pd.DataFrame, bins: pd.DataFrame, inside: pd.DataFrame, model: str) -> str:
    """What history.csv, bins.csv and inside.csv of a network's run say, as Markdown."""
    last = range_table(history).iloc[-1]
    lines = [
        f"- **Range.** After the last epoch predictions lie between {last['pred_min']:.2f} and "
        f"{last['pred_max']:.2f} m, true depths between {last['gt_min']:.2f} and "
        f"{last['gt_max']:.2f} m: predictions cover {last['covered']:.0%} of the true range."
    ]
    own = bins[(bins["model"] == model) & (bins["sites"] == "points")]
    eigen = own[own["protocol"].str.startswith("eigen/")].dropna(subset="abs_rel")
    eigen = eigen[eigen["protocol"] == eigen["protocol"].min()]  # of one truth
    if len(eigen) > 1:
        near, far = eigen.iloc[0], eigen.iloc[-1]
        lines.append(
            f"- **Near and far.** AbsRel is {near['abs_rel']:.3f} in {near['bin']} m and "
            f"{far['abs_rel']:.3f} in {far['bin']} m."
        )
    for name, rows in inside.groupby("diagnostic", sort=False):
        found = rows.to_dict("records")
        parts = [f"{row['part']} {row['value']:.3g}" for row in found]
        alarming = [f"{row['part']}: {row['verdict']}" for row in found if row["verdict"]]
        alarm = f" Alarm: {'; '.join(alarming)}." if alarming else ""
        lines.append(f"- **{str(name).capitalize()}.** {'; '.join(parts)}.{alarm}")
    return "\n".join(lines)


def difference_in_words(gain: float, low: float, high: float) -> str:
    """A difference of scores in percent with its 95 % interval, in words."""
    sign, word = (1, "lower") if gain >= 0 else (-1, "higher")
    low, high = sorted((sign * low, sign * high))
    interval = f"95 % interval {low:.1f} to {high:.1f} %"
    if not math.isfinite(low):
        interval = "pooled over frames: no interval, not judged"
    return f"{sign * gain:.1f} % {word} ({interval})"


def _conclusion(table: pd.DataFrame, history: pd.DataFrame, model: str, wanted: float) -> str:
    """The verdict in a sentence; the comparison whose interval reaches lowest decides."""
    evaluations, epochs = len(history), history["epoch"].iloc[-1]
    if evaluations < SHORT_EVALUATIONS or epochs < SHORT_EPOCHS:
        return (
            f"Too short to judge: {evaluations} evaluations over {epochs:g} epochs. "
            "The numbers below only show that training and evaluation work."
        )
    judged = table[table["verdict"] != NO_INTERVAL]
    if judged.empty:
        return f"Not judged: no score of {model} has an interval."
    found = next(word for word in ("worse", "tie", "better") if word in set(judged["verdict"]))
    rows = judged[judged["verdict"] == found]
    row = rows.iloc[int(rows["low"].argmin())]
    gain, low, high = row[["improvement", "low", "high"]]
    where = f"the {model_name(str(row['baseline']))} ({row['protocol']}, {row['sites']})"
    difference = f"against {where} its AbsRel is {difference_in_words(gain, low, high)}"
    if found == "worse":
        return f"{model} does not beat both image-free baselines: {difference}."
    if found == "tie":
        return f"{model} is not shown to beat both image-free baselines: {difference}."
    if low >= wanted:
        least = math.floor(10 * low) / 10
        return f"{model} beats both image-free baselines by at least {least:.1f} %: {difference}."
    missed = "but by less than" if high < wanted else "but is not shown to do so by"
    return f"{model} beats both image-free baselines, {missed} {wanted:g} %: {difference}."


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
