"""Small tables as a run writes them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spdlib.study.comparison import Measured, compare_tables
from spdlib.study.profiles import resolve

MODELS = {"v15_2": 0.2, "constant": 0.4, "pixel_map": 0.3}
PROTOCOLS = [(p, s) for p in ("eigen/exact", "recorded/exact") for s in ("points", "dense")]
METRICS = ("abs_rel", "rmse", "delta1", "s_star", "scaled_abs_rel", "silog")


@pytest.fixture
def history() -> pd.DataFrame:
    """Ten evaluations of a run that learns and has converged."""
    epoch = np.arange(1, 11)
    error = 0.2 + 0.2 * np.exp(-epoch / 1.2)
    return pd.DataFrame(
        {
            "step": 10 * epoch,
            "epoch": epoch.astype(float),
            "train_loss": error,
            "sel_abs_rel": error,
            "sel_rmse": 2 * error,
            "sel_delta1": 1 - error,
            "sel_s_star": 1 + 0.1 / epoch,
            "pred_min": 1.0,
            "pred_max": 4.0 + 0.1 * epoch,
            "gt_min": 0.5,
            "gt_max": 9.5,
        }
    )


@pytest.fixture
def metrics() -> pd.DataFrame:
    """The network halves the constant's error and takes a third off the map's."""
    rows = [
        (model, protocol, sites, metric, score, 20)
        for protocol, sites in PROTOCOLS
        for model, score in MODELS.items()
        for metric in METRICS
    ]
    return pd.DataFrame(rows, columns=["model", "protocol", "sites", "metric", "value", "frames"])


@pytest.fixture
def bins() -> pd.DataFrame:
    """Three bins, the last one empty."""
    rows = [
        (model, protocol, sites, name, np.nan if count == 0 else score, 0.5, count)
        for protocol, sites in PROTOCOLS
        for model, score in MODELS.items()
        for name, count in (("[0, 2)", 1200), ("[2, 5)", 34000), ("[5, 10)", 0))
    ]
    return pd.DataFrame(
        rows, columns=["model", "protocol", "sites", "bin", "abs_rel", "delta1", "count"]
    )


@pytest.fixture
def frames() -> pd.DataFrame:
    """Twenty frames whose errors scatter about the models' scores; recorded/dense has none."""
    noise = np.random.default_rng(0).normal(0, 0.01, 20)
    tables = [
        pd.DataFrame(
            {
                "model": model,
                "protocol": protocol,
                "sites": sites,
                "frame": [f"frame_{i}" for i in range(20)],
                "abs_rel": score + noise - noise.mean() + 0.001 * i * np.resize([1, -1], 20),
            }
        )
        for protocol, sites in PROTOCOLS[:3]
        for i, (model, score) in enumerate(MODELS.items())
    ]
    return pd.concat(tables, ignore_index=True)


@pytest.fixture
def k_sweep() -> pd.DataFrame:
    """The sweep of a network whose queries are independent."""
    return pd.DataFrame(
        {
            "k": [1, 64, 256, 1024],
            "points": [64, 1024, 1024, 1024],
            "abs_rel": [0.21, 0.2, 0.2, 0.2],
            "abs_rel_same_points": [0.21, 0.2, 0.2, 0.2],
            "rmse": 0.5,
            "delta1": 0.7,
            "max_abs_difference": [2e-7, 1e-7, 0.0, 3e-7],
            "frames": 20,
            "independent": True,
        }
    )


@pytest.fixture
def measured(history: pd.DataFrame, metrics: pd.DataFrame, bins: pd.DataFrame) -> Measured:
    """A small run on rooms that kept the weights of its tenth epoch."""
    data = {"train": {"frames": 8}, "selection": {"frames": 2}}
    record = {"data": data, "best_step": 100}
    return Measured("tiny", resolve("v15_2", "smoke"), record, history, metrics, bins)


@pytest.fixture
def compared(measured: Measured) -> pd.DataFrame:
    """That run beside exp13."""
    return compare_tables([measured], "exp13")
