"""Checks before the first step of every run: one table; a violation stops it.

Depth in the wrong unit, a validation set seen through another focal length, or frames that are in
both sets spoil a run without any error message; here they show in a second.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from spdlib.data.frames import Frame, Frames, spread
from spdlib.data.queries import eigen_mask
from spdlib.data.samples import TrainingSamples
from spdlib.errors import RunError
from spdlib.models import DepthModel
from spdlib.models.base import evaluating
from spdlib.study.config import RunConfig
from spdlib.study.losses import silog
from spdlib.study.objectives import Objective
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
heads do not. v14 as recorded, on a random encoder, begins with 135 m, single points with 200 km."""


class PreflightError(RunError):
    """A check failed; `table` holds all of them."""

    def __init__(self, message: str, table: pd.DataFrame) -> None:
        super().__init__(message)
        self.table = table


class Check(NamedTuple):
    """One row of the table; `ok` None marks information that stops nothing."""

    check: str
    value: str
    allowed: str
    ok: bool | None


def check(
    model: DepthModel,
    train: Frames,
    selection: Frames,
    config: RunConfig,
    objective: Objective | None = None,
) -> pd.DataFrame:
    """Look at a few frames of both sets and at a first prediction.

    Args:
        model: the network before its first step.
        train: frames to learn from.
        selection: held-out frames.
        config: of the run.
        objective: of the run; None makes the config's.

    Returns:
        DataFrame with columns check, value, allowed, ok ("yes" or "info").

    Raises:
        PreflightError: a check fails.
    """
    samples = _samples(train, config)
    chosen = [selection[index] for index in spread(len(selection), FRAMES)]
    rows = [
        *_target_rows(samples["depth"]),
        *_image_rows(samples["image"]),
        *_selection_rows(model, samples["camera"], chosen, config),
        *_prediction_rows(model, samples, config, objective or build_objective(config)),
        _displacement_row(model),
        *_set_rows(train, selection),
    ]
    words = {True: "yes", False: "NO", None: "info"}
    table = pd.DataFrame(
        [(row.check, row.value, row.allowed, words[row.ok]) for row in rows],
        columns=["check", "value", "allowed", "ok"],
    )
    failed = [f"{r.check} is {r.value}, allowed is {r.allowed}" for r in rows if r.ok is False]
    if failed:
        raise PreflightError(f"pre-flight stopped the run: {'; '.join(failed)}", table)
    return table


def _samples(frames: Frames, config: RunConfig) -> dict[str, Tensor]:
    samples = TrainingSamples(frames, config.sample_config())
    parts = [samples[(0, index)] for index in spread(len(frames), FRAMES)]
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def _target_rows(depth: Tensor) -> list[Check]:
    measured = depth[depth > 0]
    share = measured.numel() / depth.numel()
    valid = Check("valid share", f"{share:.3f}", f"> {VALID_SHARE}", share > VALID_SHARE)
    if not measured.numel():
        return [valid]
    low, middle, high = measured.min(), measured.median(), measured.max()
    inside = bool(DEPTH_MEDIAN[0] < middle < DEPTH_MEDIAN[1])
    return [
        valid,
        Check(
            "target median",
            f"{middle:.3f} m",
            f"{DEPTH_MEDIAN[0]:g}..{DEPTH_MEDIAN[1]:g} m (else: another unit)",
            inside,
        ),
        Check(
            "target range",
            f"{low:.3f}..{high:.3f} m",
            f"0..{DEPTH_LIMIT:g} m, finite",
            bool(torch.isfinite(measured).all() and high < DEPTH_LIMIT),
        ),
        _constant_row(depth),
    ]


def _constant_row(depth: Tensor) -> Check:
    """SILog (lambda 0) of the best constant: what a network must beat."""
    measured = torch.where(depth > 0, depth, 1.0).log()
    centre = measured[depth > 0].mean().exp()
    loss = silog(torch.full_like(depth, float(centre)), depth, None, 0.0, "pooled")
    value = f"{float(loss.value):.4f}"
    return Check("SILog of the constant predictor", value, "to be beaten", None)


def _image_rows(image: Tensor) -> list[Check]:
    low, high = float(image.min()), float(image.max())
    spread = float(image.std())
    return [
        Check("image range", f"{low:.3f}..{high:.3f}", "0..1", low >= 0 and high <= 1),
        Check("image spread", f"{spread:.3f}", "> 0.01 (else: blank)", spread > 0.01),
    ]


def _selection_rows(
    model: DepthModel, cameras: Tensor, selection: list[Frame], config: RunConfig
) -> list[Check]:
    if not selection:  # which has its own row
        return []
    return [*_focal_rows(model, cameras, selection, config), _scored_row(selection, config)]


def _focal_rows(
    model: DepthModel, cameras: Tensor, selection: list[Frame], config: RunConfig
) -> list[Check]:
    """Focal lengths of the images that the network is trained with and will be scored on."""
    trained = (cameras[:, 0] * cameras[:, 1]).sqrt()
    middle = float(trained.median())
    squash = config.data.validation == "squash"
    seen = [_seen_focal(model, frame, squash) for frame in selection]
    ratio = max((focal / middle for focal in seen), key=lambda ratio: abs(math.log(ratio)))
    return [
        Check("focal length in training", f"{middle:.1f} px", "", None),
        _ratio_row("focal ratio within training", float(trained.max() / trained.min()), config),
        Check("focal length in validation", f"{min(seen):.1f}..{max(seen):.1f} px", "", None),
        _ratio_row("focal ratio validation / training", ratio, config),
    ]


def _ratio_row(name: str, ratio: float, config: RunConfig) -> Check:
    limit = f"within {100 * FOCAL_TOLERANCE:g} %"
    if config.data.focal_mismatch:
        return Check(name, f"{ratio:.4f}", f"{limit} (the experiment allows more)", None)
    close = abs(math.log(ratio)) <= math.log1p(FOCAL_TOLERANCE)
    return Check(name, f"{ratio:.4f}", limit, close)


def _seen_focal(model: DepthModel, frame: Frame, squash: bool) -> float:
    """Focal length in pixels of the image that `encode` makes of a frame."""
    scene = model.encode(frame.image, frame.camera, squash=squash)
    return frame.camera.resized(*scene.resized).focal


def _scored_row(selection: list[Frame], config: RunConfig) -> Check:
    """Fewest pixels that a selection frame can be scored at."""
    depths = (torch.from_numpy(frame.truth(config.data.truth)) for frame in selection)
    fewest = min(int(eigen_mask(depth).sum()) for depth in depths)
    return Check("fewest scored pixels of a selection frame", str(fewest), "at least 1", fewest > 0)


@torch.no_grad()
def _prediction_rows(
    model: DepthModel, samples: dict[str, Tensor], config: RunConfig, objective: Objective
) -> list[Check]:
    depth = samples["depth"]
    truth, points = _valid_points(depth, config.sampling.points or POINTS)
    images = samples["image"].to(model.device, model.dtype)
    asked = points.to(model.device, model.dtype)
    with evaluating(model):
        first = model(model.pad(images), asked).depth.cpu()
        # the network alone is told that it trains, for its auxiliary maps; its parts are not
        model.training = True
        start = objective(model, prepared(samples, model, objective))
    low, middle, high = (float(x) for x in (first.min(), first.median(), first.max()))
    inside = math.isfinite(low + high) and PREDICTION[0] <= middle <= PREDICTION[1]
    order = _rank_correlation(first, truth)
    return [
        Check(
            "first prediction",
            f"{low:.3f}..{high:.3f} m, median {middle:.3f} m",
            f"finite, median {PREDICTION[0]:g}..{PREDICTION[1]:g} m",
            inside,
        ),
        Check("loss before training", f"{float(start.value):.4f}", "", None),
        Check("order (rank correlation)", f"{order:+.3f}", "about 0 before training", None),
    ]


def _valid_points(depth: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Truth [B, K] and integer points [B, K, 2] on a regular grid, at most `count`."""
    height, width = depth.shape[-2:]
    side = math.isqrt(count)
    rows = ((torch.arange(side) + 0.5) * height / side).long()
    columns = ((torch.arange(side) + 0.5) * width / side).long()
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([u, v], -1).reshape(1, -1, 2).float().expand(len(depth), -1, -1)
    return depth[:, v, u].flatten(1), points


def _rank_correlation(prediction: Tensor, truth: Tensor) -> float:
    valid = truth > 0
    ranks = [pd.Series(x[valid].double().numpy()).rank() for x in (prediction, truth)]
    return float(ranks[0].corr(ranks[1])) if len(ranks[0]) > 1 else math.nan


def _displacement_row(model: DepthModel) -> Check:
    shifts = model.encoder.displacement
    words = ("unknown" if shift is None else f"{shift:+g}" for shift in shifts)
    return Check(
        "encoder displacement per level",
        " ".join(words) + " px",
        "declared, not corrected",
        None,
    )


def _set_rows(train: Frames, selection: Frames) -> list[Check]:
    ours, theirs = set(train.ids), set(selection.ids)
    both = len(ours & theirs)
    twice = len(train) - len(ours) + len(selection) - len(theirs)
    sizes = f"{len(train)} / {len(selection)}"
    return [
        Check("frames training / selection", sizes, "at least 1 each", bool(ours and theirs)),
        Check("frames in both sets", str(both), "0", both == 0),
        Check("ids that occur twice", str(twice), "0", twice == 0),
    ]
