"""Two networks on the same frames."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spdlib.errors import DataError
from spdlib.study.scores import paired_bootstrap


def test_bootstrap_verdicts() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0.1, 0.3, 300)
    better = base - 0.02 + rng.normal(0, 0.05, 300)
    noise = base + rng.normal(0, 0.05, 300)
    result = paired_bootstrap(better, base)
    assert result.verdict == "better" and result.low < result.difference < result.high < 0
    assert result.difference == pytest.approx((better - base).mean())
    assert paired_bootstrap(base, better).verdict == "worse"
    assert paired_bootstrap(better, base, higher_is_better=True).verdict == "worse"
    assert paired_bootstrap(noise, base).verdict == "tie"
    assert paired_bootstrap(base, base) == (0.0, 0.0, 0.0, "tie")
    # the interval of a mean: 1.96 standard errors
    width = 2 * 1.96 * (noise - base).std(ddof=1) / math.sqrt(300)
    interval = paired_bootstrap(noise, base)
    assert interval.high - interval.low == pytest.approx(width, rel=0.05)


def test_scores_without_a_partner_are_refused() -> None:
    with pytest.raises(DataError, match="one length"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(DataError, match="frame 1"):
        paired_bootstrap([1.0, math.nan], [1.0, 2.0])
