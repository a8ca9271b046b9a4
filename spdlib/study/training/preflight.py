"""Checks before the first step of every run: one table; a violation stops it.

Depth in the wrong unit, a validation set seen through another focal length, or frames that are in
both sets spoil a run without any error message; here they show in a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import default_collate

from spdlib.data.frames import Frame, Frames, evenly_spaced
from spdlib.data.queries import eigen_mask, lattice_truth
from spdlib.data.samples import TrainingSamples
from spdlib.errors import RunError
from spdlib.geometry import lattice_points, size_of
from spdlib.models import DepthModel
from spdlib.models.base import evaluating
from spdlib.study.config import RunConfig
from spdlib.study.objectives import LossValue, Objective
from spdlib.study.training.setup import build_objective, prepared

FRAMES = 8
"""Frames of each set that are looked at."""
POINTS = 256
FOCAL_TOLERANCE = 0.02
"""Largest relative difference, among training frames and between them and selection frames."""
DEPTH_MEDIAN = (0.3, 30.0)
"""Medians outside mean another unit: millimetres read as metres, or the reverse."""
DEPTH_LIMIT = 100.0
VALID_SHARE = 0.05
PREDICTION = (0.01, 1000.0)
"""Metres between which the median of an untrained network's answers lies; millimetres and broken
heads do not. A network as recorded, on a random encoder, begins with 135 m, points with 200 km."""


class PreflightError(RunError):
    """A check failed."""


Row = tuple[str, str, str, bool | None]
"""Check, value, what is allowed, and whether that holds; None marks what stops nothing."""


def check(
    model: DepthModel,
    train: Frames,
    selection: Frames,
    config: RunConfig,
    objective: Objective | None = None,
    keep: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Look at a few frames of both sets and at a first prediction.

    Without `objective` it is the config's; `keep` takes the table, also where a check fails. Its
    columns are check, value, allowed, ok ("yes" or "info").

    PreflightError: a check fails.
    """
    samples = TrainingSamples(train, config.sample_config())
    batch = default_collate([samples[(0, i)] for i in evenly_spaced(len(train), FRAMES)])
    chosen = [selection[index] for index in evenly_spaced(len(selection), FRAMES)]
    rows = [
        *_target_rows(batch["depth"]),
        *_image_rows(batch["image"]),
        *(_selection_rows(model, batch["camera"], chosen, config) if chosen else ()),
        *_prediction_rows(model, batch, config, objective or build_objective(config)),
        *_declared_rows(model, train, selection),
    ]
    words = {True: "yes", False: "NO", None: "info"}
    table = pd.DataFrame(rows, columns=["check", "value", "allowed", "ok"])
    table["ok"] = [words[ok] for *_, ok in rows]
    if keep is not None:
        keep(table)
    failed = table[table["ok"] == "NO"].itertuples()
    violations = [f"{row.check} is {row.value}, allowed is {row.allowed}" for row in failed]
    if violations:
        raise PreflightError(f"pre-flight stopped the run: {'; '.join(violations)}")
    return table


def _target_rows(depth: Tensor) -> list[Row]:
    measured = depth[depth > 0]
    share = measured.numel() / depth.numel()
    rows: list[Row] = [("valid share", f"{share:.3f}", f"> {VALID_SHARE}", share > VALID_SHARE)]
    if not measured.numel():
        return rows
    low, middle, high = (float(x) for x in (measured.min(), measured.median(), measured.max()))
    least, most = DEPTH_MEDIAN
    usual = f"{least:g}..{most:g} m (else: another unit)"
    finite = math.isfinite(high) and high < DEPTH_LIMIT
    # SILog with lambda 0 of the best constant is the deviation of ln g: what a network must beat
    constant = float(measured.log().std(correction=0))
    return [
        *rows,
        ("target median", f"{middle:.3f} m", usual, least < middle < most),
        ("target range", f"{low:.3f}..{high:.3f} m", f"0..{DEPTH_LIMIT:g} m, finite", finite),
        ("SILog of the constant predictor", f"{constant:.4f}", "to be beaten", None),
    ]


def _image_rows(image: Tensor) -> list[Row]:
    low, high, deviation = float(image.min()), float(image.max()), float(image.std())
    return [
        ("image range", f"{low:.3f}..{high:.3f}", "0..1", low >= 0 and high <= 1),
        ("image spread", f"{deviation:.3f}", "> 0.01 (else: blank)", deviation > 0.01),
    ]


def _selection_rows(
    model: DepthModel, cameras: Tensor, selection: list[Frame], config: RunConfig
) -> list[Row]:
    """Focal lengths of the images that the network is trained with and will be scored on."""
    trained = (cameras[:, 0] * cameras[:, 1]).sqrt()
    middle = float(trained.median())
    squash, truth = config.data.validation == "squash", config.data.truth
    scored = [
        frame.camera.resized(*model.encode(frame.image, frame.camera, squash=squash).resized).focal
        for frame in selection
    ]
    ratio = max((focal / middle for focal in scored), key=lambda ratio: abs(math.log(ratio)))
    depths = (torch.from_numpy(frame.truth(truth)) for frame in selection)
    fewest = min(int(eigen_mask(depth).sum()) for depth in depths)
    return [
        ("focal length in training", f"{middle:.1f} px", "", None),
        _ratio_row("focal ratio within training", float(trained.max() / trained.min()), config),
        ("focal length in validation", f"{min(scored):.1f}..{max(scored):.1f} px", "", None),
        _ratio_row("focal ratio validation / training", ratio, config),
        ("fewest scored pixels of a selection frame", str(fewest), "at least 1", fewest > 0),
    ]


def _ratio_row(name: str, ratio: float, config: RunConfig) -> Row:
    limit = f"within {100 * FOCAL_TOLERANCE:g} %"
    if config.data.focal_mismatch:
        return name, f"{ratio:.4f}", f"{limit} (the experiment allows more)", None
    return name, f"{ratio:.4f}", limit, abs(math.log(ratio)) <= math.log1p(FOCAL_TOLERANCE)


@torch.no_grad()
def _prediction_rows(
    model: DepthModel, samples: dict[str, Tensor], config: RunConfig, objective: Objective
) -> list[Row]:
    depth, side = samples["depth"], math.isqrt(config.sampling.points or POINTS)
    truth = lattice_truth(depth, (side, side)).flatten(1)
    grid = lattice_points((side, side), size_of(depth))
    points = (grid + 0.5).floor().expand(len(depth), -1, -1)  # the pixels of these depths
    images = model.pad(samples["image"].to(model.device, model.dtype))
    network = evaluating(model)
    first = network(images, points.to(images)).depth.cpu()
    # the network alone is told that it trains, for its auxiliary maps; its parts are not
    network.training = True
    loss = objective(network, prepared(samples, model, objective))
    if not isinstance(loss, LossValue):
        raise PreflightError(
            f"objective {objective.name!r} returns a {type(loss).__name__}; it must return a "
            "LossValue(value, images, points)"
        )
    low, middle, high = (float(x) for x in (first.min(), first.median(), first.max()))
    least, most = PREDICTION
    inside = math.isfinite(low + high) and least <= middle <= most
    metres = f"{low:.3f}..{high:.3f} m, median {middle:.3f} m"
    order = _rank_correlation(first, truth)
    return [
        ("first prediction", metres, f"finite, median {least:g}..{most:g} m", inside),
        ("loss before training", f"{float(loss.value):.4f}", "", None),
        ("order (rank correlation)", f"{order:+.3f}", "about 0 before training", None),
    ]


def _rank_correlation(prediction: Tensor, truth: Tensor) -> float:
    valid = truth > 0
    ranks = [pd.Series(x[valid].double().numpy()).rank() for x in (prediction, truth)]
    return float(ranks[0].corr(ranks[1])) if len(ranks[0]) > 1 else math.nan


def _declared_rows(model: DepthModel, train: Frames, selection: Frames) -> list[Row]:
    """What the encoder and the sets say of themselves."""
    shifts = model.encoder.displacement
    words = " ".join("unknown" if shift is None else f"{shift:+g}" for shift in shifts)
    ours, theirs = set(train.ids), set(selection.ids)
    both = len(ours & theirs)
    twice = len(train) - len(ours) + len(selection) - len(theirs)
    sizes = f"{len(train)} / {len(selection)}"
    return [
        ("encoder displacement per level", f"{words} px", "declared, not corrected", None),
        ("frames training / selection", sizes, "at least 1 each", bool(ours and theirs)),
        ("frames in both sets", str(both), "0", both == 0),
        ("ids that occur twice", str(twice), "0", twice == 0),
    ]
