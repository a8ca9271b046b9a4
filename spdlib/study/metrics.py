"""Scores of depth predictions, as accumulators that take images and join other processes' ones.

`EigenMetrics` scores each image, then takes the mean: predictions are clamped to 1e-3..10 m, SILog
has factor 1 and is given times 100. `PooledMetrics` does the same to the pooled points of all
images. `RecordedMetrics` pools, too: SILog has factor 1/2, predictions are clamped from below only.
Shares such as delta1 are fractions. Sums are kept in float64, and a prediction that is not finite
shows in every mean that it belongs to.
"""

from __future__ import annotations

import functools
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


class Alone(NamedTuple):
    """What an `accelerate.Accelerator` says where there is one process."""

    num_processes: int = 1
    process_index: int = 0


class Accumulator(ABC):
    """Scores of one model at one kind of sites."""

    def update(
        self,
        prediction: Tensor,
        truth: Tensor,
        valid: Tensor,
        frame: int,
        edges: Tensor | None = None,
    ) -> None:
        """Add an image by its number.

        Prediction and truth are metres of any shape, the truth 0 where nothing was measured;
        `valid` tells the sites that count, `edges` those near depth edges (None: not told apart).

        DataError: the tensors differ in shape.
        """
        shapes = {tuple(t.shape) for t in (prediction, truth, valid)}
        if len(shapes) > 1:
            raise DataError(f"prediction, truth and mask must have one shape; got {sorted(shapes)}")
        mask = valid & (truth > 0)
        self._add(frame, prediction[mask], truth[mask], None if edges is None else edges[mask])

    @abstractmethod
    def _add(self, frame: int, prediction: Tensor, truth: Tensor, edges: Tensor | None) -> None:
        """Add an image's points that count, [N]."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add another process's scores."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Scores by name, and the number of "frames" behind them."""

    def metric_table(self) -> pd.DataFrame:
        """Rows metric, value, frames (behind the value)."""
        values = pd.Series(self.compute()).rename_axis("metric")
        return values.drop("frames").reset_index(name="value").assign(frames=int(values["frames"]))

    @abstractmethod
    def _bin_sums(self) -> np.ndarray:
        """`bin_sums` of all images' points."""

    def bin_table(self) -> pd.DataFrame:
        """Rows bin, abs_rel, delta1, count, pooled over all points; NaN where a bin is empty."""
        relative, close, count = self._bin_sums().T
        with np.errstate(invalid="ignore"):
            scores = {"abs_rel": relative / count, "delta1": close / count}
        names = [bin_name(low, high) for low, high in BINS]
        return pd.DataFrame({"bin": names, **scores, "count": count.astype(int)})

    @abstractmethod
    def frame_table(self, ids: Sequence[str]) -> pd.DataFrame:
        """Rows frame (its id) and the scores of each frame, by number."""


def frame_scores(prediction: Tensor, truth: Tensor, edges: Tensor | None = None) -> Tensor:
    """Eigen-protocol scores of an image's points [N]: float64 [11], as in `FRAME_METRICS`.

    Depths are metres, predictions clamped to 1e-3..10; `edges` tells the points near depth edges,
    bool. NaN stands where there is no point, and in the last two where `edges` is None.
    """
    # elementwise work keeps the input's precision (whole frames are large), sums take float64
    mean = functools.partial(torch.mean, dtype=torch.float64)

    error, log_error = prediction - truth, prediction.log() - truth.log()
    relative, ratio = error.abs() / truth, torch.maximum(prediction / truth, truth / prediction)
    near, far = (relative[:0],) * 2 if edges is None else (relative[edges], relative[~edges])
    return torch.stack(
        [
            mean(relative),
            mean(error.square() / truth),
            mean(error.square()).sqrt(),
            mean(log_error.square()).sqrt(),
            100 * mean((log_error - mean(log_error)).square()).sqrt(),
            mean(log_error.abs()) / math.log(10),
            *(mean((ratio < DELTA_BASE**n).to(ratio)) for n in (1, 2, 3)),
            mean(near),
            mean(far),
        ]
    )


class EigenMetrics(Accumulator):
    """Scores of each frame and their means, and depth bins pooled over points.

    A frame that comes twice counts once, but for the pooled scores: `POOLED_EIGEN`, where they are
    wanted, of all frames' points (whole images would be many).
    """

    def __init__(self, pooled: bool = False) -> None:
        # number of a frame -> its scores [11], points behind them (all, near edges, far from
        # them), sums of its bins [3, 3]
        self._frames: dict[int, tuple[np.ndarray, tuple[int, int, int], np.ndarray]] = {}
        self._pooled = RecordedMetrics(by_frame=False) if pooled else None

    def _add(self, frame: int, prediction: Tensor, truth: Tensor, edges: Tensor | None) -> None:
        p, g = (x if x.dtype == torch.float64 else x.float() for x in (prediction, truth))
        p = p.clamp(EIGEN_MIN_DEPTH, EIGEN_MAX_DEPTH)
        near = 0 if edges is None else int(edges.sum())
        counts = len(p), near, 0 if edges is None else len(p) - near
        self._frames[frame] = frame_scores(p, g, edges).cpu().numpy(), counts, bin_sums(p, g)
        if self._pooled is not None:
            self._pooled._add(frame, p, g, None)

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
        scores = self._parts(0, len(FRAME_METRICS))
        valid, near, far = (self._parts(1, 3) > 0).T
        behind = [*[valid] * (len(FRAME_METRICS) - 2), near, far]
        means = {
            name: float(column[scored].mean()) if scored.any() else math.nan
            for name, column, scored in zip(FRAME_METRICS, scores.T, behind, strict=True)
        }
        pooled = self._pooled.compute() if self._pooled is not None else {}
        means |= {name: pooled[name] for name in POOLED_EIGEN if name in pooled}
        return means | {"frames": int(valid.sum())}

    def frame_table(self, ids: Sequence[str]) -> pd.DataFrame:
        """Rows frame (its id) and its scores, by number."""
        table = pd.DataFrame(self._parts(0, len(FRAME_METRICS)), columns=list(FRAME_METRICS))
        table.insert(0, "frame", [ids[n] for n in sorted(self._frames)])
        return table

    def _bin_sums(self) -> np.ndarray:
        sums: np.ndarray = self._parts(2, len(BINS), 3).sum(axis=0)
        return sums

    def _parts(self, which: int, *shape: int) -> np.ndarray:
        """One of the three arrays of all frames, by number, whatever their order of arrival."""
        return np.reshape([self._frames[n][which] for n in sorted(self._frames)], (-1, *shape))


class RecordedMetrics(Accumulator):
    """Scores pooled over the points of all images.

    Nothing tells the same frame twice apart here: several processes must share the frames out
    without filling up the last batch. `by_frame` also gives the AbsRel of each frame.
    """

    _largest = math.inf
    """Metres that predictions are clamped to."""

    def __init__(self, by_frame: bool = True) -> None:
        self._by_frame = by_frame
        self._images: list[tuple[float, ...]] = []
        """Of each image with a point: its number, then `IMAGE_COLUMNS`."""
        self._bins = np.zeros((len(BINS), 3))
        self.predictions, self.truths, self.ratios = LogSample(), LogSample(), LogSample()

    def _add(self, frame: int, prediction: Tensor, truth: Tensor, edges: Tensor | None) -> None:
        if not prediction.numel():
            return
        raw, g = prediction.double(), truth.double()
        p = raw.clamp(EIGEN_MIN_DEPTH, self._largest)
        self._images.append((frame, *torch.stack(list(_of_image(raw, p, g).values())).tolist()))
        self._bins += bin_sums(p, g)
        for sample, values in ((self.predictions, p), (self.truths, g), (self.ratios, g / p)):
            sample.add(values)

    def merge(self, other: RecordedMetrics) -> None:
        """Add another accumulator."""
        self._images += other._images
        self._bins += other._bins
        for name in ("predictions", "truths", "ratios"):
            getattr(self, name).merge(getattr(other, name))

    def compute(self) -> dict[str, float]:
        """All scores of the recorded reports; NaN where there is no point."""
        images = self._table()
        sums = images.sum(skipna=False)
        low, high = images.min(skipna=False), images.max(skipna=False)
        n, mean = sums["count"], sums / sums["count"]
        scale = self.ratios.median()
        scaled = self.ratios.mean(lambda ratio: (scale / ratio - 1).abs())
        scores: dict[str, float] = {
            "abs_rel": mean["abs_rel"],
            "sq_rel": mean["sq_rel"],
            "rmse": math.sqrt(mean["error2"]),
            "rmse_log": math.sqrt(mean["log_error2"]),
            "silog": self._silog(mean["log_error"], mean["log_error2"]),
            **{name: mean[name] for name in ("log10", "delta1", "delta2", "delta3")},
            "s_star": scale,
            "scaled_abs_rel": scaled,
            "scale_gap": 100 * (mean["abs_rel"] - scaled) / (mean["abs_rel"] + 1e-8),
        }
        for name, sample in (("pred", self.predictions), ("gt", self.truths)):
            scores |= {
                f"{name}_mean": mean[name],
                f"{name}_std": _deviation(mean, name, n),
                f"{name}_min": low[f"{name}_min"],
                f"{name}_median": sample.median(),
                f"{name}_max": high[f"{name}_max"],
                f"{name}_cv": _deviation(mean, name, n) / (mean[name] + 1e-8),
            }
        deviations = images.loc[images["count"] > 1, "deviation"]
        scores |= {
            "log_mean": mean["log"],
            "log_std": _deviation(mean, "log", n),
            "log_min": low["log_min"],
            "log_max": high["log_max"],
            "ratio_mean": mean["ratio"],
            "ratio_median": 1 / self.ratios.median(upper=True),
            "ratio_std": _deviation(mean, "ratio", n),
            "within_2x": mean["within_2x"],
            "intra_std_mean": deviations.mean(skipna=False),
            "intra_std_min": deviations.min(skipna=False),
            "nonfinite": sums["nonfinite"],
            "points": n,
            "frames": len(images),
        }
        return {name: float(value) for name, value in scores.items()}

    def _silog(self, error: float, squared: float) -> float:
        """SILog of the means of ln p - ln g and of its square."""
        return math.sqrt(squared - 0.5 * error**2 + 1e-8)

    def _bin_sums(self) -> np.ndarray:
        return self._bins

    def frame_table(self, ids: Sequence[str]) -> pd.DataFrame:
        """Rows frame, abs_rel of the images that had a point."""
        images = self._table().sort_values("frame") if self._by_frame else self._table()[:0]
        names, scores = [ids[int(n)] for n in images["frame"]], images["abs_rel"] / images["count"]
        return pd.DataFrame({"frame": names, "abs_rel": scores.tolist()})

    def _table(self) -> pd.DataFrame:
        return pd.DataFrame(self._images, columns=["frame", *IMAGE_COLUMNS], dtype=float)


class PooledMetrics(RecordedMetrics):
    """The eigen protocol's scores pooled over the points of all images.

    As `EigenMetrics`, predictions are clamped to 1e-3..10 m and SILog has factor 1 and is given
    times 100: nothing but the order of the means differs. Frames have no scores of their own.
    """

    _largest = EIGEN_MAX_DEPTH

    def __init__(self) -> None:
        super().__init__(by_frame=False)

    def _silog(self, error: float, squared: float) -> float:
        # rounding can make it slightly negative; NaN stays NaN
        variance = squared - error**2
        return 0.0 if variance < 0 else 100 * math.sqrt(variance)


def _of_image(raw: Tensor, p: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Sums over an image's points [N], float64, and its extremes; predictions also unclamped."""
    error, log_p = p - g, p.log()
    log_error, ratio = log_p - g.log(), p / g
    worst = torch.maximum(ratio, 1 / ratio)
    added = (
        dict(count=torch.ones_like(p), abs_rel=error.abs() / g, sq_rel=error.square() / g)
        | dict(error2=error.square(), log_error=log_error, log_error2=log_error.square())
        | dict(log10=log_error.abs() / math.log(10))
        | {f"delta{n}": worst < DELTA_BASE**n for n in (1, 2, 3)}
        | dict(pred=p, pred2=p.square(), gt=g, gt2=g.square(), log=log_p, log2=log_p.square())
        | dict(ratio=ratio, ratio2=ratio.square(), within_2x=(ratio > 0.5) & (ratio < 2))
        | dict(nonfinite=~raw.isfinite())
    )
    return {
        **{name: values.sum(dtype=torch.float64) for name, values in added.items()},
        "deviation": p.std() if len(p) > 1 else p.new_zeros(()),
        **dict(pred_min=p.min(), gt_min=g.min(), log_min=log_p.min()),
        **dict(pred_max=p.max(), gt_max=g.max(), log_max=log_p.max()),
    }


IMAGE_COLUMNS = tuple(_of_image(*[torch.ones(1)] * 3))
"""Names of what `RecordedMetrics` keeps of an image."""


class LogSample:
    """Positive numbers whose median is wanted: kept up to 2 M, then counted in cells of ln x.

    One cell more counts NaN, which makes median and mean NaN in both forms.
    """

    def __init__(self, limit: int = EXACT_POINTS) -> None:
        self.limit = limit
        self._chunks: list[Tensor] = []
        self._counts: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Add positive numbers of any shape."""
        self._chunks.append(values.detach().double().flatten().cpu())
        if self._counts is not None or sum(map(len, self._chunks)) > self.limit:
            self._to_histogram()

    def median(self, upper: bool = False) -> float:
        """Median; of an even count the lower of the two middle values, or the upper one."""
        values, counts = self._weighted()
        if not len(values) or values[-1].isnan():
            return math.nan
        total = int(counts.sum())
        middle = total // 2 if upper else (total - 1) // 2
        return float(values[torch.searchsorted(counts.cumsum(0), middle, right=True)])

    def mean(self, function: Callable[[Tensor], Tensor]) -> float:
        """Mean of an elementwise function of the numbers."""
        values, counts = self._weighted()
        return float((function(values) * counts).sum() / counts.sum())

    def merge(self, other: LogSample) -> None:
        """Add another sample."""
        for chunk in other._chunks:
            self.add(chunk)
        if other._counts is not None:
            self._counts = self._to_histogram() + other._counts

    def _weighted(self) -> tuple[Tensor, Tensor]:
        """Ascending values, NaN last, and how often each occurs."""
        if self._counts is None:
            values = torch.cat([torch.zeros(0, dtype=torch.float64), *self._chunks]).sort().values
            return values, torch.ones_like(values, dtype=torch.int64)
        cells = torch.nonzero(self._counts).flatten()
        values = torch.exp((cells.double() + 0.5) * LOG_BIN - LOG_LIMIT)
        is_nan = cells == len(self._counts) - 1
        return torch.where(is_nan, torch.nan, values), self._counts[cells]

    def _to_histogram(self) -> Tensor:
        last = round(2 * LOG_LIMIT / LOG_BIN)
        counts = torch.zeros(last + 1, dtype=torch.int64) if self._counts is None else self._counts
        for chunk in self._chunks:
            cells = ((chunk.log() + LOG_LIMIT) / LOG_BIN).floor().clamp(0, last - 1)
            cells = torch.where(cells.isnan(), last, cells).long()
            counts = counts + torch.bincount(cells, minlength=last + 1)
        self._chunks, self._counts = [], counts
        return counts


def bin_sums(prediction: Tensor, truth: Tensor) -> np.ndarray:
    """Sum of |p - g| / g, number with delta < 1.25 and count in each bin of g: [3, 3] float64."""
    relative = (prediction - truth).abs() / truth
    close = torch.maximum(prediction / truth, truth / prediction) < DELTA_BASE
    columns = torch.stack([relative, close.to(relative), torch.ones_like(relative)], -1).double()
    rows = [columns[(truth >= low) & (truth < high)].sum(0) for low, high in BINS]
    return torch.stack(rows).cpu().numpy()


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
    whole: dict[Any, Accumulator] = {}
    for part in of_all_processes(mine, processes):
        for key, scores in part.items():
            if key in whole:
                whole[key].merge(scores)
            else:
                whole[key] = scores
    return whole


def _deviation(means: Mapping[str, float], name: str, n: float) -> float:
    """Standard deviation with n - 1 from the means of x and x^2."""
    if n < 2:
        return math.nan
    variance = (means[f"{name}2"] - means[name] * means[name]) * n / (n - 1)
    # rounding can make it slightly negative; NaN stays NaN
    return 0.0 if variance < 0 else math.sqrt(variance)
