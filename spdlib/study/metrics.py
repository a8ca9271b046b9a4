"""Scores of depth predictions in both protocols (decisions 7; evaluation_and_diagnostics.md).

**eigen**: truth at full size inside the Eigen crop, predictions clamped to 1e-3..10 m, each metric
per image, then the mean; SILog with factor 1, times 100. **recorded**: points at the network's
size, pooled over all of them, SILog with factor 1/2, predictions clamped from below only.

Accumulators take batches (`update`), join others (`merge`, `merge_processes`) and give plain
dictionaries (`compute`). Shares such as delta1 are fractions. Sums are kept in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

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
    "abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "log10", "delta1", "delta2", "delta3",
    "abs_rel_edge", "abs_rel_interior",
)  # fmt: skip
"""Columns of the eigen protocol's table of frames."""

State = dict[str, Tensor]


class Accumulator(Protocol):
    """What `merge_processes` can join."""

    def state(self) -> State:
        """Everything accumulated, as float64 tensors whose first dimension may vary."""
        ...

    def merge_state(self, state: State) -> None:
        """Add another accumulator's state."""
        ...


AnyAccumulator = TypeVar("AnyAccumulator", bound=Accumulator)


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


class EigenMetrics:
    """Scores of the eigen protocol, frame by frame, and its depth bins (pooled over points)."""

    def __init__(self) -> None:
        self._rows: dict[int, np.ndarray] = {}
        self._bins: dict[int, np.ndarray] = {}
        self._counts: dict[int, np.ndarray] = {}

    def update(
        self,
        prediction: Tensor,
        truth: Tensor,
        valid: Tensor,
        frames: Sequence[int],
        edges: Tensor | None = None,
    ) -> None:
        """Add a batch; arguments as for `frame_scores`, `frames` are the images' numbers [B].

        A frame that comes twice (a sampler that fills up its last batch) counts once.

        Raises:
            DataError: the tensors differ in shape, or in number from `frames`.
        """
        _check_batch(prediction, truth, valid)
        if len(frames) != len(prediction):
            raise DataError(f"{len(prediction)} images came with {len(frames)} frame numbers")
        clamped = _wide(prediction).clamp(EIGEN_MIN_DEPTH, EIGEN_MAX_DEPTH)
        scores = frame_scores(prediction, truth, valid, edges).cpu().numpy()
        counts = frame_counts(valid, edges).double().cpu().numpy()
        for i, frame in enumerate(frames):
            self._rows[int(frame)], self._counts[int(frame)] = scores[i], counts[i]
            sums = bin_sums(clamped[i][valid[i]], truth[i][valid[i]])
            self._bins[int(frame)] = sums.cpu().numpy()

    def compute(self) -> dict[str, float]:
        """Mean over the frames that have valid pixels, and their number as "frames".

        Frames without edges (or without anything else) are left out of those two means; a NaN
        prediction is no reason to be left out.
        """
        table = self.frame_table()
        counts = np.reshape([self._counts[n] for n in sorted(self._counts)], (-1, 3))
        valid, near, far = (counts > 0).T
        behind = [*[valid] * (len(FRAME_METRICS) - 2), near, far]
        means = {
            name: float(table.loc[scored, name].mean(skipna=False))
            for name, scored in zip(FRAME_METRICS, behind, strict=True)
        }
        return means | {"frames": int(valid.sum())}

    def frame_table(self, ids: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per frame, by number: `frame` (its id if `ids` are given) and its scores."""
        numbers = sorted(self._rows)
        rows = np.stack([self._rows[n] for n in numbers]) if numbers else np.empty((0, 11))
        table = pd.DataFrame(rows, columns=list(FRAME_METRICS))
        names: list[Any] = numbers if ids is None else [ids[n] for n in numbers]
        table.insert(0, "frame", names)
        return table

    def bin_table(self) -> pd.DataFrame:
        """Rows bin, abs_rel, delta1, count, pooled over all points; NaN where a bin is empty."""
        # by frame number: the order of arrival must not change the last digit
        sums = [self._bins[frame] for frame in sorted(self._bins)]
        return _bin_frame(np.sum(np.reshape(sums, (-1, len(BINS), 3)), axis=0))

    def state(self) -> State:
        """Frame numbers [N], scores [N, 11], bin sums [N, 3, 3] and counts of pixels [N, 3]."""
        numbers = sorted(self._rows)
        rows = [self._rows[n] for n in numbers]
        bins = [self._bins[n] for n in numbers]
        counts = [self._counts[n] for n in numbers]
        return {
            "frames": torch.tensor(numbers, dtype=torch.float64),
            "rows": torch.from_numpy(np.reshape(rows, (-1, len(FRAME_METRICS)))),
            "bins": torch.from_numpy(np.reshape(bins, (-1, len(BINS), 3))),
            "counts": torch.from_numpy(np.reshape(counts, (-1, 3))),
        }

    def merge_state(self, state: State) -> None:
        """Add the frames of another state."""
        parts = [state[name].cpu().numpy() for name in ("rows", "bins", "counts")]
        for i, frame in enumerate(state["frames"].long().tolist()):
            self._rows[frame], self._bins[frame], self._counts[frame] = (part[i] for part in parts)

    def merge(self, other: EigenMetrics) -> None:
        """Add the frames of another accumulator."""
        self.merge_state(other.state())


class RecordedMetrics:
    """Scores of the recorded protocol, pooled over the points of all images.

    Nothing tells the same frame twice apart here: several processes must share the frames out
    without filling up the last batch.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(len(_MOMENTS), dtype=torch.float64)
        self._extremes = torch.tensor([math.inf, -math.inf] * 3, dtype=torch.float64)
        self._bins = torch.zeros(len(BINS), 3, dtype=torch.float64)
        self._spreads = torch.zeros(3, dtype=torch.float64)  # sum, images with one, all images
        self._least_spread = math.inf
        self._frames: dict[int, float] = {}
        self.predictions, self.truths, self.ratios = LogSample(), LogSample(), LogSample()

    def update(
        self,
        prediction: Tensor,
        truth: Tensor,
        valid: Tensor,
        frames: Sequence[int] | None = None,
    ) -> None:
        """Add a batch of predictions, truths [B, ...] in metres and their mask.

        Predictions that are not finite are counted before clamping and make the means NaN. The
        AbsRel of each image is kept under its number in `frames`, if they are given.

        Raises:
            DataError: the tensors differ in shape.
        """
        _check_batch(prediction, truth, valid)
        mask = valid & (truth > 0)
        for image, inside in zip(prediction, mask, strict=True):
            self._add_spread(image[inside].double().clamp(min=EIGEN_MIN_DEPTH))
        raw = prediction[mask].double()
        p, g = raw.clamp(min=EIGEN_MIN_DEPTH), truth[mask].double()
        self._sums += _moments(p, g, raw).cpu()
        if not p.numel():
            return
        if frames is not None:
            self._add_frames(prediction, truth, mask, frames)
        self._add_extremes(torch.stack([p.min(), p.max(), g.min(), g.max(),
                                        p.log().min(), p.log().max()]).cpu())  # fmt: skip
        self._bins += bin_sums(p, g).cpu()
        self.predictions.add(p)
        self.truths.add(g)
        self.ratios.add(g / p)

    def compute(self) -> dict[str, float]:
        """All scores of the recorded reports; NaN where there is no point."""
        s = dict(zip(_MOMENTS, self._sums.tolist(), strict=True))
        n = s["count"]
        means = {name: value / n if n else math.nan for name, value in s.items()}
        scale = self.ratios.median()
        scaled = self.ratios.mean(lambda ratio: (scale / ratio - 1).abs())
        abs_rel = means["abs_rel"]
        squared = means["log_error2"] - 0.5 * means["log_error"] ** 2
        result = {
            "abs_rel": abs_rel, "sq_rel": means["sq_rel"], "rmse": math.sqrt(means["error2"]),
            "rmse_log": math.sqrt(means["log_error2"]), "silog": math.sqrt(squared + 1e-8),
            "log10": means["log10"],
            "delta1": means["delta1"], "delta2": means["delta2"], "delta3": means["delta3"],
            "s_star": scale, "scaled_abs_rel": scaled,
            "scale_gap": 100 * (abs_rel - scaled) / (abs_rel + 1e-8),
        }  # fmt: skip
        result |= self._distribution(means, n)
        result |= self._ratio(means, n) | self._spread()
        return result | {
            "nonfinite": s["nonfinite"],
            "points": n,
            "frames": self._spreads[2].item(),
        }

    def bin_table(self) -> pd.DataFrame:
        """Rows bin, abs_rel, delta1, count; NaN where a bin is empty."""
        return _bin_frame(self._bins.numpy())

    def frame_table(self, ids: Sequence[str]) -> pd.DataFrame:
        """Rows frame, abs_rel of the images that came with a number and had a point."""
        numbers = sorted(self._frames)
        scores = [self._frames[n] for n in numbers]
        return pd.DataFrame({"frame": [ids[n] for n in numbers], "abs_rel": scores})

    def state(self) -> State:
        """Sums, extremes, scores of frames and the points themselves (or their histograms)."""
        numbers = sorted(self._frames)
        scores = [self._frames[n] for n in numbers]
        least = torch.tensor([self._least_spread], dtype=torch.float64)
        state = {"sums": self._sums, "extremes": self._extremes, "bins": self._bins,
                 "spreads": self._spreads, "least_spread": least,
                 "frames": torch.tensor(numbers, dtype=torch.float64),
                 "frame_abs_rel": torch.tensor(scores, dtype=torch.float64)}  # fmt: skip
        for name in _SAMPLES:
            state |= {f"{name}.{key}": part for key, part in getattr(self, name).state().items()}
        return state

    def merge_state(self, state: State) -> None:
        """Add another state."""
        state = {key: part.cpu() for key, part in state.items()}
        self._sums += state["sums"]
        self._bins += state["bins"]
        self._spreads += state["spreads"]
        self._least_spread = _lower(self._least_spread, state["least_spread"].item())
        self._add_extremes(state["extremes"])
        numbers = state["frames"].long().tolist()
        self._frames |= dict(zip(numbers, state["frame_abs_rel"].tolist(), strict=True))
        for name in _SAMPLES:
            parts = {key: state[f"{name}.{key}"] for key in ("values", "cells", "counts")}
            getattr(self, name).merge_state(parts)

    def merge(self, other: RecordedMetrics) -> None:
        """Add another accumulator."""
        self.merge_state(other.state())

    def _add_spread(self, image: Tensor) -> None:
        known = image.numel() > 1
        spread = image.std().item() if known else 0.0
        counts = [spread, float(known), float(image.numel() > 0)]
        self._spreads += torch.tensor(counts, dtype=torch.float64)
        if known:
            self._least_spread = _lower(self._least_spread, spread)

    def _add_frames(
        self, prediction: Tensor, truth: Tensor, mask: Tensor, frames: Sequence[int]
    ) -> None:
        for image, depth, inside, frame in zip(prediction, truth, mask, frames, strict=True):
            p, g = image[inside].double().clamp(min=EIGEN_MIN_DEPTH), depth[inside].double()
            if p.numel():
                self._frames[int(frame)] = ((p - g).abs() / g).mean().item()

    def _add_extremes(self, extremes: Tensor) -> None:
        low, high = extremes[::2], extremes[1::2]
        self._extremes[::2] = torch.minimum(self._extremes[::2], low)
        self._extremes[1::2] = torch.maximum(self._extremes[1::2], high)

    def _distribution(self, means: dict[str, float], n: float) -> dict[str, float]:
        values = self._extremes.tolist() if n else [math.nan] * 6
        result: dict[str, float] = {}
        for name, sample, low, high in (("pred", self.predictions, *values[0:2]),
                                        ("gt", self.truths, *values[2:4])):  # fmt: skip
            mean = means[name]
            std = _deviation(mean, means[f"{name}2"], n)
            result |= {f"{name}_mean": mean, f"{name}_std": std, f"{name}_min": low,
                       f"{name}_median": sample.median(), f"{name}_max": high,
                       f"{name}_cv": std / (mean + 1e-8)}  # fmt: skip
        log_std = _deviation(means["log"], means["log2"], n)
        return result | {"log_mean": means["log"], "log_std": log_std,
                         "log_min": values[4], "log_max": values[5]}  # fmt: skip

    def _ratio(self, means: dict[str, float], n: float) -> dict[str, float]:
        return {
            "ratio_mean": means["ratio"],
            "ratio_median": 1 / self.ratios.median(upper=True),
            "ratio_std": _deviation(means["ratio"], means["ratio2"], n),
            "within_2x": means["within_2x"],
        }

    def _spread(self) -> dict[str, float]:
        total, known, _ = self._spreads.tolist()
        mean = total / known if known else math.nan
        least = self._least_spread if math.isfinite(self._least_spread) else math.nan
        return {"intra_std_mean": mean, "intra_std_min": least}


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

    def state(self) -> State:
        """The kept values, or the filled cells and their counts."""
        counts = self._counts if self._counts is not None else torch.zeros(0, dtype=torch.int64)
        cells = torch.nonzero(counts).flatten()
        return {"values": self._values(), "cells": cells.double(), "counts": counts[cells].double()}

    def merge_state(self, state: State) -> None:
        """Add another sample's state."""
        self.add(state["values"])
        if state["cells"].numel():
            self._to_histogram()
            assert self._counts is not None
            self._counts.index_add_(0, state["cells"].long(), state["counts"].long())

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


class Comparison(NamedTuple):
    """Mean difference (first - second) with its 95 % interval, and what follows for the first."""

    difference: float
    low: float
    high: float
    verdict: str


def paired_bootstrap(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    higher_is_better: bool = False,
    samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two networks on the same frames.

    Args:
        first: one score per frame.
        second: the other network's scores, in the same order.
        higher_is_better: as for delta1; False for errors.
        samples: bootstrap samples of the frames.
        seed: of the samples.

    Returns:
        Difference, its 2.5th and 97.5th percentile and "better", "worse" or "tie" (0 lies inside).

    Raises:
        DataError: the scores differ in number, are not finite or are missing.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise DataError(f"paired scores need one length above 0; got {a.shape} and {b.shape}")
    difference = a - b
    if not np.isfinite(difference).all():
        bad = int(np.flatnonzero(~np.isfinite(difference))[0])
        raise DataError(f"the score of frame {bad} is not finite; leave it out in both networks")
    generator = np.random.default_rng(seed)
    means = np.concatenate([
        difference[generator.integers(0, a.size, (block, a.size))].mean(1)
        for block in _blocks(samples, max(1, 2_000_000 // a.size))
    ])  # fmt: skip
    low, high = np.percentile(means, [2.5, 97.5])
    verdict = "tie"
    if low > 0 or high < 0:
        verdict = "better" if (low > 0) == higher_is_better else "worse"
    return Comparison(float(difference.mean()), float(low), float(high), verdict)


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


def merge_processes(metrics: AnyAccumulator, accelerator: Any) -> AnyAccumulator:
    """Join the accumulators of all processes; every process gets the whole.

    Args:
        metrics: this process's accumulator.
        accelerator: `accelerate.Accelerator`.
    """
    if accelerator.num_processes == 1:
        return metrics
    states: list[State] = [{} for _ in range(accelerator.num_processes)]
    for name, part in metrics.state().items():
        for state, piece in zip(states, gather(part, accelerator), strict=True):
            state[name] = piece
    whole = type(metrics)()
    for state in states:
        whole.merge_state(state)
    return whole


def gather(part: Tensor, accelerator: Any) -> list[Tensor]:
    """The tensors of all processes, which may differ in their first dimension."""
    if accelerator.num_processes == 1:
        return [part]
    part = part.to(accelerator.device).contiguous()
    lengths = accelerator.gather(torch.tensor([len(part)], device=part.device)).tolist()
    longest = max(max(lengths), 1)
    padded = part.new_zeros(longest, *part.shape[1:])
    padded[: len(part)] = part
    gathered = accelerator.gather(padded).cpu().split(longest)
    return [piece[:length] for piece, length in zip(gathered, lengths, strict=True)]


_SAMPLES = ("predictions", "truths", "ratios")
_MOMENTS = (
    "count", "abs_rel", "sq_rel", "error2", "log_error", "log_error2", "log10",
    "delta1", "delta2", "delta3", "pred", "pred2", "gt", "gt2", "log", "log2",
    "ratio", "ratio2", "within_2x", "nonfinite",
)  # fmt: skip


def _moments(p: Tensor, g: Tensor, raw: Tensor) -> Tensor:
    """Sums over points of everything in `_MOMENTS`, float64."""
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


def _deviation(mean: float, mean_square: float, n: float) -> float:
    """Standard deviation with n - 1 from the means of x and x^2."""
    if n < 2:
        return math.nan
    variance = (mean_square - mean * mean) * n / (n - 1)
    # rounding can make it slightly negative; NaN stays NaN
    return 0.0 if variance < 0 else math.sqrt(variance)


def _lower(first: float, second: float) -> float:
    """The smaller of two numbers, NaN if one is: `min` would depend on their order."""
    return float(np.minimum(first, second))


def _cell_values(cells: Tensor) -> Tensor:
    return torch.exp((cells.double() + 0.5) * LOG_BIN - LOG_LIMIT)


def _bin_frame(sums: np.ndarray) -> pd.DataFrame:
    count = sums[:, 2]
    with np.errstate(invalid="ignore"):
        abs_rel, delta1 = sums[:, 0] / count, sums[:, 1] / count
    names = [bin_name(low, high) for low, high in BINS]
    columns = {"bin": names, "abs_rel": abs_rel, "delta1": delta1, "count": count.astype(int)}
    return pd.DataFrame(columns)


def _blocks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _check_batch(prediction: Tensor, truth: Tensor, valid: Tensor) -> None:
    shapes = {tuple(t.shape) for t in (prediction, truth, valid)}
    if len(shapes) > 1:
        raise DataError(f"prediction, truth and mask must have one shape; got {sorted(shapes)}")
