"""Forgetting rate, retention, acceleration and Student-t intervals against the papers' tables and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from lightning_unlearn.functional import (
    acceleration,
    confidence_interval,
    forgetting_rate,
    memory_retention_rate,
)


def test_rates_reproduce_rows_of_the_published_table():
    # Zuo et al., table II, 5%: Top-K with Acc_UL 80.01% and FR 19.97% implies a source accuracy of 99.97%.
    assert forgetting_rate(0.9997, 0.8001) == pytest.approx(0.1997, abs=1e-4)
    # The same table's 10% row: Acc_RE 97.19%, MRR 97.21%.
    assert memory_retention_rate(0.9719, 0.9998) == pytest.approx(0.9721, abs=1e-4)


def test_rates_at_their_ends():
    assert forgetting_rate(0.8, 0.8) == 0.0
    assert forgetting_rate(0.8, 0.0) == 1.0
    assert forgetting_rate(0.5, 1.0) == -1.0
    assert memory_retention_rate(1.0, 0.5) == 2.0
    assert memory_retention_rate(0.0, 0.5) == 0.0
    assert acceleration(10.0, 40.0) == 0.25


@pytest.mark.parametrize("n", [2, 3, 30])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_matches_scipy(n, level):
    values = np.random.default_rng(n).normal(3.0, 2.0, n).tolist()
    expected = stats.t.interval(level, n - 1, loc=np.mean(values), scale=stats.sem(values))
    assert confidence_interval(values, level) == pytest.approx(expected)


def test_interval_of_too_few_or_equal_values():
    assert confidence_interval([]) is None
    assert confidence_interval([1.0]) is None
    assert confidence_interval([0.25, 0.25, 0.25]) == (0.25, 0.25)


def test_undefined_quotients_raise():
    with pytest.raises(ValueError, match="before is 0"):
        forgetting_rate(0.0, 0.0)
    with pytest.raises(ValueError, match="forget_before is 0"):
        memory_retention_rate(0.5, 0.0)
    for bad in (-0.1, 1.1, 97.0, math.nan):
        with pytest.raises(ValueError, match="before must lie in"):
            forgetting_rate(bad, 0.5)
        with pytest.raises(ValueError, match="after must lie in"):
            forgetting_rate(0.5, bad)
        with pytest.raises(ValueError, match="retain_after must lie in"):
            memory_retention_rate(bad, 0.5)
        with pytest.raises(ValueError, match="forget_before must lie in"):
            memory_retention_rate(0.5, bad)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="retrain_seconds must be above 0"):
            acceleration(bad, 1.0)
        with pytest.raises(ValueError, match="method_seconds must be above 0"):
            acceleration(1.0, bad)
    with pytest.raises(ValueError, match="values must be finite"):
        confidence_interval([1.0, math.nan])
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\)"):
        confidence_interval([1.0, 2.0], level=95)
