"""Acceleration and relearn time as metrics: sums over runs, steps counted one at a time."""

import math
import pickle

import pytest
import torch

from lightning_unlearn.functional import relearn_time
from lightning_unlearn.metrics import Acceleration, RelearnTime


def test_acceleration_is_the_ratio_of_the_summed_times() -> None:
    metric = Acceleration()
    for method, retrain in ((1.0, 10.0), (3.0, 70.0)):
        metric.update(method, retrain)
    assert float(metric.compute()) == pytest.approx(80 / 4)
    metric.reset()
    with pytest.raises(ValueError, match="no run"):
        metric.compute()


@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, math.nan), (-1.0, 1.0)])
def test_a_time_that_is_none_is_refused(times: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="seconds"):
        Acceleration().update(*times)


def test_relearn_time_counts_as_the_function_does() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(40, generator=generator)
    for target in (-1.0, 0.02, 0.3, 2.0):
        metric = RelearnTime(target)
        for loss in losses:
            metric.update(loss)
        expected = relearn_time(losses.tolist(), target)
        assert float(metric.compute()) == (math.inf if expected is None else expected)


def test_relearn_time_survives_pickling_half_way() -> None:
    metric = RelearnTime(0.5)
    metric.update(torch.tensor(1.0))
    metric = pickle.loads(pickle.dumps(metric))
    metric.update(torch.tensor(0.25))
    metric.update(torch.tensor(0.75))
    assert float(metric.compute()) == 1
    metric.reset()
    with pytest.raises(ValueError, match="no loss"):
        metric.compute()


def test_a_target_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="target"):
        RelearnTime(math.nan)


def test_a_loss_that_is_no_number_is_no_relearn_time() -> None:
    metric = RelearnTime(0.5)
    metric.update(torch.tensor(math.nan))
    metric.update(torch.tensor(0.1))
    with pytest.raises(ValueError, match="has seen NaN"):
        metric.compute()
    for shape in ((0,), (2,)):
        with pytest.raises(ValueError, match=r"loss must be one number, .* got shape \("):
            metric.update(torch.zeros(shape))
