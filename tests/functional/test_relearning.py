"""Relearn time against counting by hand."""

import math

import numpy as np
import pytest

from lightning_unlearn.functional import relearn_target, relearn_time


def test_the_first_loss_at_or_below_the_target_counts() -> None:
    losses = np.random.default_rng(0).exponential(size=50).tolist()
    for target in (0.0, 0.05, 0.5, losses[0], 10.0):
        reached = np.flatnonzero(np.array(losses) <= target)
        assert relearn_time(losses, target) == (reached[0] if len(reached) else None)


def test_the_target_lies_a_margin_above_the_sources_loss() -> None:
    assert relearn_target(0.2) == pytest.approx(0.22)
    assert relearn_target(0.2, margin=0.0) == 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((math.nan,), "source_loss"),
        ((-1.0,), "source_loss"),
        ((1.0, -0.1), "margin"),
        ((1.0, math.inf), "margin"),
    ],
)
def test_what_no_loss_can_be_is_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        relearn_target(*arguments)


def test_no_loss_is_no_curve() -> None:
    with pytest.raises(ValueError, match="empty"):
        relearn_time([], 1.0)


def test_nan_is_no_loss_that_was_not_reached() -> None:
    with pytest.raises(ValueError, match="NaN"):
        relearn_time([2.0, float("nan"), 0.1], target=0.5)
