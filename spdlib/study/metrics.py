"""Scores of depth predictions, as accumulators that take batches and join other processes' ones.

`EigenMetrics` scores each image, then takes the mean: predictions are clamped to 1e-3..10 m, SILog
has factor 1 and is given times 100. `RecordedMetrics` pools the points of all images: SILog has
factor 1/2, predictions are clamped from below only. Shares such as delta1 are fractions. Sums are
kept in float64, and a prediction that is not finite shows in every mean that it belongs to.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spdlib.data.queries import EIGEN_MAX_DEPTH, EIGEN_MIN_DEPTH
from spdlib.errors import DataError

BINS = ((0.0, 2.0), (2.0, 5.0), (5.0, 10.0))
"""Depth bins in metres: from, to (excluded)."""
EXACT_POINTS = 2_000_000
"""Medians are exact up to this many points; beyond, they come from a histogram of logarithms."""
LOG_BIN = 1e-4
LOG_LIMIT = 14.0
"""The histogram covers ln x from -14 to 14; what lies beyond counts in the end cells."""
DELTA_BASE = 1.25
FRAME_METRICS = (
    *("abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "log10", "delta1", "delta2", "delta3"),
    *("abs_rel_edge", "abs_rel_interior"),
)
"""Columns of the eigen protocol's table of frames."""
POOLED_EIGEN = (
    *("s_star", "scaled_abs_rel", "scale_gap", "pred_mean", "pred_std", "pred_min", "pred_median"),
    *("pred_max", "gt_mean", "gt_std", "gt_min", "gt_median", "gt_max", "within_2x", "log_std"),
)
"""Scores pooled over the eigen protocol's points, beside the means over images."""
MOMENTS = (
    *("count", "abs_rel", "sq_rel", "error2", "log_error", "log_error2", "log10"),
    *("delta1", "delta2", "delta3", "pred", "pred2", "gt", "gt2", "log", "log2"),
    *("ratio", "ratio2", "within_2x", "nonfinite"),
)
"""What `RecordedMetrics` sums over points."""


class Alone(NamedTuple):
    """What an `accelerate.Accelerator` says where there is one process."""

    num_processes: int = 1
    process_index: int = 0


class Accumulator(ABC):
    """Scores of one model at one kind of sites.

    `update` takes images [B, ...]: predictions and truths in metres, the sites that count, the
    images' numbers and, if they are told apart, the sites near depth edges. It refuses tensors that
    differ in shape with a DataError.
    """

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether nothing was scored."""

    @abstractmethod
    def update(
        self,
        prediction: Tensor,
        truth: Tensor,
        valid: Tensor,
        frames: Sequence[int],
        edges: Tensor | None = None,
    ) -> None:
        """Add images."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add another process's scores."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Scores by name, and the number of "frames" behind them."""

    @abstractmethod
    def bin_table(self) -> pd.DataFrame:
        """Rows bin, abs_rel, delta1, count, pooled over all points; NaN where a bin is empty."""

    @abstractmethod
    def frame_table(self, ids: Sequence[str]) -> pd.DataFrame:
        """Rows frame (its id) and the scores of each frame."""


def frame_scores(
    prediction: Tensor, truth: Tensor, valid: Tensor, edges: Tensor | None = None
) -> Tensor:
    """Eigen-protocol scores of each image, in the order of `FRAME_METRICS`.

    Args:
        prediction: [B, ...] metres; clamped here to 1e-3..10 m.
        truth: [B, ...] metres.
        valid: [B, ...] bool, the pixels that count (`queries.eigen_mask`).
        edges: [B, ...] bool, pixels near depth edges (`queries.edge_mask`), or None.

    Returns:
        float64 [B, 11]; NaN where no pixel counts, and where `edges` is None.
    """
    mask = valid.flatten(1)
    # elementwise work keeps the input's precision (whole frames are large), sums take float64
    p = _wide(prediction).flatten(1).clamp(EIGEN_MIN_DEPTH, EIGEN_MAX_DEPTH)
    g = torch.where(mask, _wide(truth).flatten(1), 1.0)
    p = torch.where(mask, p, 1.0)
    error, log_error = p - g, p.log() - g.log()
    relative = error.abs() / g
    ratio = torch.maximum(p / g, g / p)

    def mean(values: Tensor, where: Tensor = mask) -> Tensor:
        # dividing by a count of 0 marks the image with NaN
        return torch.where(where, values, 0.0).sum(1, dtype=torch.float64) / where.sum(1)

    spread = (log_error - mean(log_error)[:, None]).square()
    columns = [
        mean(relative), mean(error.square() / g), mean(error.square()).sqrt(),
        mean(log_error.square()).sqrt(), 100 * mean(spread).sqrt(),
        mean(log_error.abs()) / math.log(10),
        *(mean((ratio < DELTA_BASE**n).to(p)) for n in (1, 2, 3)),
    ]  # fmt: skip
    near = torch.zeros_like(mask) if edges is None else edges.flatten(1)
    far = torch.zeros_like(mask) if edges is None else ~edges.flatten(1)
    columns += [mean(relative, mask & near), mean(relative, mask & far)]
    return torch.stack(columns, 1)


def frame_counts(valid: Tensor, edges: Tensor | None = None) -> Tensor:
    """Pixels of each image behind `frame_scores`: all, near edges and far from them, [B, 3]."""
    mask = valid.flatten(1)
    near = torch.zeros_like(mask) if edges is None else mask & edges.flatten(1)
    far = torch.zeros_like(mask) if edges is None else mask & ~edges.flatten(1)
    return torch.stack([mask.sum(1), near.sum(1), far.sum(1)], 1)


class EigenMetrics(Accumulator):
    """Scores of each frame and their means, and depth bins pooled over points.

    Args:
        pooled: also pool the points of all frames, for `POOLED_EIGEN`; for points, as whole images
            are many.
    """

    def __init__(self, pooled: bool = False) -> None:
        # number of a frame -> its scores [11], pixels behind them [3], sums of its bins [3, 3]
        self._frames: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._pooled = RecordedMetrics(by_frame=False) if pooled else None

    @property
    def empty(self) -> bool:
        """Whether no frame was scored."""
        return not self._frames

    def update(
        self,
        prediction: Tensor,
        truth: Tensor,
        valid: Tensor,
        frames: Sequence[int],
        edges: Tensor | None = None,
    ) -> None:
        """Add images; one that comes twice counts once, but for the pooled scores."""
        _check_batch(prediction, truth, valid)
        if len(frames) != len(prediction):
            raise DataError(f"{len(prediction)} images came with {len(frames)} frame numbers")
        clamped = _wide(prediction).clamp(EIGEN_MIN_DEPTH, EIGEN_MAX_DEPTH)
        scores = frame_scores(prediction, truth, valid, edges).cpu().numpy()
        counts = frame_counts(valid, edges).double().cpu().numpy()
        for i, frame in enumerate(frames):
            sums = bin_sums(clamped[i][valid[i]], truth[i][valid[i]]).cpu().numpy()
            self._frames[int(frame)] = scores[i], counts[i], sums
        if self._pooled is not None:
            self._pooled.update(clamped, truth, valid, frames)

    def merge(self, other: EigenMetrics) -> None:
        """Add the frames of another accumulator."""
        self._frames |= other._frames
        if self._pooled is not None and other._pooled is not None:
            self._pooled.merge(other._pooled)

    def compute(self) -> dict[str, float]:
        """Mean over the frames that have valid pixels, and their number as "frames".

        Frames without edges (or without anything else) are left out of those two means; a NaN
        prediction is no reason to be left out.
        """
        table, counts = self.frame_table(), self._parts(1, 3)
        valid, near, far = (counts > 0).T
        behind = [*[valid] * (len(FRAME_METRICS) - 2), near, far]
        means = {
            name: float(table.loc[scored, name].mean(skipna=False))
            for name, scored in zip(FRAME_METRICS, behind, strict=True)
        }
        pooled = self._pooled.compute() if self._pooled is not None else {}
        means |= {name: pooled[name] for name in POOLED_EIGEN if name in pooled}
        return means | {"frames": int(valid.sum())}

    def frame_table(self, ids: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per frame, by number: `frame` (its id if `ids` are given) and its scores."""
        table = pd.DataFrame(self._parts(0, len(FRAME_METRICS)), columns=list(FRAME_METRICS))
        numbers = sorted(self._frames)
        names: list[Any] = numbers if ids is None else [ids[n] for n in numbers]
        table.insert(0, "frame", names)
        return table

    def bin_table(self) -> pd.DataFrame:
        """Rows bin, abs_rel, delta1, count, pooled over all points; NaN where a bin is empty."""
        return _bin_frame(self._parts(2, len(BINS), 3).sum(axis=0))

    def _parts(self, which: int, *shape: int) -> np.ndarray:
        """One of the three arrays of all frames, by number, whatever their order of arrival."""
        return np.reshape([self._frames[n][which] for n in sorted(self._frames)], (-1, *shape))


class RecordedMetrics(Accumulator):
    """Scores pooled over the points of all images.

    Nothing tells the same frame twice apart here: several processes must share the frames out
    without filling up the last batch.

    Args:
        by_frame: also keep the AbsRel of each frame.
    """

    def __init__(self, by_frame: bool = True) -> None:
        self._by_frame = by_frame
        self._sums = torch.zeros(len(MOMENTS), dtype=torch.float64)
        self._bins = torch.zeros(len(BINS), 3, dtype=torch.float64)
        # sum of the images' standard deviations, images that have one, images with a point
        self._deviations = torch.zeros(3, dtype=torch.float64)
        # prediction, truth, ln prediction, and of the lowest: deviation of one image
        self._lowest = torch.full((4,), math.inf, dtype=torch.float64)
        self._highest = torch.full((3,), -math.inf, dtype=torch.float64)
        self._frames: dict[int, float] = {}
        self.predictions, self.truths, self.ratios = LogSample(), LogSample(), LogSample()

    @property
    def empty(self) -> bool:
        """Whether no point was scored."""
        return not self._sums[0]

    def update(
        self,
        prediction: Tensor,
        truth: Tensor,
        valid: Tensor,
        frames: Sequence[int],
        edges: Tensor | None = None,
    ) -> None:
        """Add images; predictions that are not finite are counted and make the means NaN."""
        _check_batch(prediction, truth, valid)
        mask = valid & (truth > 0)
        for image, depth, inside, frame in zip(prediction, truth, mask, frames, strict=True):
            self._add_image(_raised(image[inside]), depth[inside].double(), int(frame))
        raw = prediction[mask].double()
        p, g = _raised(raw), truth[mask].double()
        self._sums += _moments(p, g, raw).cpu()
        self._bins += bin_sums(p, g).cpu()
        for sample, values in ((self.predictions, p), (self.truths, g), (self.ratios, g / p)):
            sample.add(values)

    def _add_image(self, p: Tensor, g: Tensor, frame: int) -> None:
        """Add what needs one image's points: its deviation, its extremes, its AbsRel."""
        if not p.numel():
            return
        several = p.numel() > 1
        deviation = p.std() if several else p.new_zeros(())
        least = deviation if several else deviation + math.inf
        logs = p.log()
        lows, highs = (p.min(), g.min(), logs.min(), least), (p.max(), g.max(), logs.max())
        self._deviations += torch.stack([deviation, *p.new_tensor([several, 1.0])]).cpu()
        self._lowest = torch.minimum(self._lowest, torch.stack(lows).cpu())
        self._highest = torch.maximum(self._highest, torch.stack(highs).cpu())
        if self._by_frame:
            self._frames[frame] = ((p - g).abs() / g).mean().item()

    def merge(self, other: RecordedMetrics) -> None:
        """Add another accumulator."""
        self._sums += other._sums
        self._bins += other._bins
        self._deviations += other._deviations
        self._lowest = torch.minimum(self._lowest, other._lowest)  # NaN stays, in any order
        self._highest = torch.maximum(self._highest, other._highest)
        self._frames |= other._frames
        for name in ("predictions", "truths", "ratios"):
            getattr(self, name).merge(getattr(other, name))

    def compute(self) -> dict[str, float]:
        """All scores of the recorded reports; NaN where there is no point."""
        sums = dict(zip(MOMENTS, self._sums.tolist(), strict=True))
        n = sums["count"]
        means = {name: value / n if n else math.nan for name, value in sums.items()}
        return {
            **self._errors(means),
            **self._distributions(means, n),
            "nonfinite": sums["nonfinite"],
            "points": n,
            "frames": self._deviations[2].item(),
        }

    def bin_table(self) -> pd.DataFrame:
        """Rows bin, abs_rel, delta1, count; NaN where a bin is empty."""
        return _bin_frame(self._bins.numpy())

    def frame_table(self, ids: Sequence[str]) -> pd.DataFrame:
        """Rows frame, abs_rel of the images that had a point."""
        numbers = sorted(self._frames)
        scores = [self._frames[n] for n in numbers]
        return pd.DataFrame({"frame": [ids[n] for n in numbers], "abs_rel": scores})

    def _errors(self, means: Mapping[str, float]) -> dict[str, float]:
        scale = self.ratios.median()
        scaled = self.ratios.mean(lambda ratio: (scale / ratio - 1).abs())
        abs_rel = means["abs_rel"]
        squared = means["log_error2"] - 0.5 * means["log_error"] ** 2
        return {
            "abs_rel": abs_rel,
            "sq_rel": means["sq_rel"],
            "rmse": math.sqrt(means["error2"]),
            "rmse_log": math.sqrt(means["log_error2"]),
            "silog": math.sqrt(squared + 1e-8),
            **{name: means[name] for name in ("log10", "delta1", "delta2", "delta3")},
            "s_star": scale,
            "scaled_abs_rel": scaled,
            "scale_gap": 100 * (abs_rel - scaled) / (abs_rel + 1e-8),
        }

    def _distributions(self, means: Mapping[str, float], n: float) -> dict[str, float]:
        lowest, highest = (
            [x if n else math.nan for x in t.tolist()] for t in (self._lowest, self._highest)
        )
        result: dict[str, float] = {}
        for i, (name, sample) in enumerate((("pred", self.predictions), ("gt", self.truths))):
            mean, std = means[name], _deviation(means, name, n)
            result |= {
                f"{name}_mean": mean,
                f"{name}_std": std,
                f"{name}_min": lowest[i],
                f"{name}_median": sample.median(),
                f"{name}_max": highest[i],
                f"{name}_cv": std / (mean + 1e-8),
            }
        total, known, _ = self._deviations.tolist()
        return result | {
            "log_mean": means["log"],
            "log_std": _deviation(means, "log", n),
            "log_min": lowest[2],
            "log_max": highest[2],
            "ratio_mean": means["ratio"],
            "ratio_median": 1 / self.ratios.median(upper=True),
            "ratio_std": _deviation(means, "ratio", n),
            "within_2x": means["within_2x"],
            "intra_std_mean": total / known if known else math.nan,
            "intra_std_min": lowest[3] if known else math.nan,
        }


class LogSample:
    """Positive numbers whose median is wanted: kept up to 2 M, then counted in cells of ln x.

    One cell more counts NaN, which makes median and mean NaN in both forms.
    """

    def __init__(self, limit: int = EXACT_POINTS) -> None:
        self.limit = limit
        self._chunks: list[Tensor] = []
        self._kept = 0
        self._counts: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Add positive numbers of any shape."""
        values = values.detach().double().flatten().cpu()
        if self._counts is None and self._kept + values.numel() <= self.limit:
            self._chunks.append(values)
            self._kept += values.numel()
            return
        self._to_histogram()
        self._count(values)

    def median(self, upper: bool = False) -> float:
        """Median; of an even count the lower of the two middle values, or the upper one."""
        if self._counts is None:
            values = self._values()
            if not values.numel():
                return math.nan
            middle = values.numel() // 2 if upper else (values.numel() - 1) // 2
            # kthvalue sorts NaN last; a median must not hide one
            has_nan = bool(values.isnan().any())
            return math.nan if has_nan else values.kthvalue(middle + 1).values.item()
        if self._counts[-1]:
            return math.nan
        total = int(self._counts.sum())
        middle = total // 2 if upper else (total - 1) // 2
        cell = torch.searchsorted(self._counts.cumsum(0), middle, right=True)
        return float(_cell_values(cell))

    def mean(self, function: Callable[[Tensor], Tensor]) -> float:
        """Mean of an elementwise function of the numbers."""
        if self._counts is None:
            return float(function(self._values()).mean()) if self._kept else math.nan
        if self._counts[-1]:
            return math.nan
        filled = torch.nonzero(self._counts).flatten()
        weights = self._counts[filled].double()
        return float((function(_cell_values(filled)) * weights).sum() / weights.sum())

    def merge(self, other: LogSample) -> None:
        """Add another sample."""
        self.add(other._values())
        if other._counts is not None:
            self._to_histogram()
            assert self._counts is not None
            self._counts += other._counts

    def _values(self) -> Tensor:
        return torch.cat(self._chunks) if self._chunks else torch.zeros(0, dtype=torch.float64)

    def _to_histogram(self) -> None:
        if self._counts is None:
            self._counts = torch.zeros(round(2 * LOG_LIMIT / LOG_BIN) + 1, dtype=torch.int64)
        chunks, self._chunks, self._kept = self._chunks, [], 0
        for chunk in chunks:
            self._count(chunk)

    def _count(self, values: Tensor) -> None:
        assert self._counts is not None
        last = self._counts.numel() - 1
        cells = ((values.log() + LOG_LIMIT) / LOG_BIN).floor().clamp(0, last - 1)
        cells = torch.where(cells.isnan(), last, cells).long()
        self._counts += torch.bincount(cells, minlength=last + 1)


def bin_sums(prediction: Tensor, truth: Tensor) -> Tensor:
    """Sum of |p - g| / g, number with delta < 1.25 and count in each bin of g: [3, 3] float64."""
    relative = (prediction - truth).abs() / truth
    close = torch.maximum(prediction / truth, truth / prediction) < DELTA_BASE
    columns = torch.stack([relative, close.to(relative), torch.ones_like(relative)], -1).double()
    rows = [columns[(truth >= low) & (truth < high)].sum(0) for low, high in BINS]
    return torch.stack(rows)


def bin_name(low: float, high: float) -> str:
    """Name of a depth bin, such as "[0, 2)"."""
    return f"[{low:g}, {high:g})"


Parts = TypeVar("Parts", bound=Mapping[Any, Any])


def of_all_processes(mine: Parts, processes: Any) -> list[Parts]:
    """The tables by key of all processes, in their order; every process gets them."""
    if processes.num_processes == 1:
        return [mine]
    from accelerate.utils import gather_object  # slow to import, and rarely needed

    gathered: list[Parts] = gather_object([mine])
    return gathered


def merge_processes(mine: Mapping[Any, Accumulator], processes: Any) -> dict[Any, Accumulator]:
    """Join the accumulators of all processes, key by key; every process gets the whole."""
    first, *others = of_all_processes(mine, processes)
    whole = dict(first)
    for other in others:
        for key, part in other.items():
            if key in whole:
                whole[key].merge(part)
            else:
                whole[key] = part
    return whole


def _moments(p: Tensor, g: Tensor, raw: Tensor) -> Tensor:
    """Sums over points of everything in `MOMENTS`, float64."""
    error, log_p = p - g, p.log()
    log_error, ratio = log_p - g.log(), p / g
    worst = torch.maximum(ratio, 1 / ratio)
    columns = [
        torch.ones_like(p), error.abs() / g, error.square() / g, error.square(),
        log_error, log_error.square(), log_error.abs() / math.log(10),
        *((worst < DELTA_BASE**n).to(p) for n in (1, 2, 3)),
        p, p.square(), g, g.square(), log_p, log_p.square(),
        ratio, ratio.square(), ((ratio > 0.5) & (ratio < 2)).to(p), (~raw.isfinite()).to(p),
    ]  # fmt: skip
    return torch.stack([column.sum() for column in columns])


def _deviation(means: Mapping[str, float], name: str, n: float) -> float:
    """Standard deviation with n - 1 from the means of x and x^2."""
    if n < 2:
        return math.nan
    variance = (means[f"{name}2"] - means[name] * means[name]) * n / (n - 1)
    # rounding can make it slightly negative; NaN stays NaN
    return 0.0 if variance < 0 else math.sqrt(variance)


def _cell_values(cells: Tensor) -> Tensor:
    return torch.exp((cells.double() + 0.5) * LOG_BIN - LOG_LIMIT)


def _bin_frame(sums: np.ndarray) -> pd.DataFrame:
    count = sums[:, 2]
    with np.errstate(invalid="ignore"):
        abs_rel, delta1 = sums[:, 0] / count, sums[:, 1] / count
    names = [bin_name(low, high) for low, high in BINS]
    columns = {"bin": names, "abs_rel": abs_rel, "delta1": delta1, "count": count.astype(int)}
    return pd.DataFrame(columns)


def _raised(prediction: Tensor) -> Tensor:
    """Predictions in float64, clamped from below."""
    return prediction.double().clamp(min=EIGEN_MIN_DEPTH)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _check_batch(prediction: Tensor, truth: Tensor, valid: Tensor) -> None:
    shapes = {tuple(t.shape) for t in (prediction, truth, valid)}
    if len(shapes) > 1:
        raise DataError(f"prediction, truth and mask must have one shape; got {sorted(shapes)}")
