"""The answer to "was it forgotten?", simulated: what forgot nothing is not called forgotten, few samples cannot tell."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from scipy import stats

from lightning_unlearn.functional.answer import Answer, Estimate, answer, auc_estimate, share_estimate


def simulated(n: int, m: int, trace: float, left: float, times: int = 100) -> tuple[float, Counter[str]]:
    """Answer for scores whose members lie ``trace`` above others before and ``left`` after, correlated as models are.

    Returns:
        How often the interval before holds the true area, and how often each answer was given.
    """
    generator = torch.Generator().manual_seed(n)
    true, covered, outcomes = 0.5 * (1 + math.erf(trace / 2)), 0, Counter[str]()
    for _ in range(times):
        forget, others, *noise = (torch.randn(size, generator=generator) for size in (n, m, n, m))
        before = auc_estimate(forget + trace, others)
        after = auc_estimate(0.8 * forget + 0.6 * noise[0] + left, 0.8 * others + 0.6 * noise[1])
        covered += before.low <= true <= before.high
        outcomes[answer(before, after, 0.5, samples=n).outcome] += 1
    return covered / times, outcomes


@pytest.mark.parametrize(("n", "m"), [(600, 600), (150, 180)])
def test_what_forgot_nothing_is_not_called_forgotten_and_what_forgot_is(n: int, m: int) -> None:
    coverage, nothing = simulated(n, m, 0.8, 0.8)
    assert coverage >= 0.9
    assert nothing["shown"] == 0
    assert nothing["not shown"] >= 90
    _, retrained = simulated(n, m, 0.8, 0.0)
    assert retrained["not shown"] <= 2
    assert retrained["shown"] >= (99 if n == 600 else 70)


def test_a_source_without_a_trace_and_a_handful_of_samples_cannot_tell() -> None:
    assert simulated(600, 600, 0.0, 0.0)[1]["shown"] == 0
    coverage, few = simulated(5, 100, 0.8, 0.0)
    assert coverage >= 0.9
    assert few["cannot tell"] == 100


def test_what_stays_just_beyond_half_of_the_gap_is_seldom_called_forgotten() -> None:
    half = float(stats.norm.ppf((0.5 + stats.norm.cdf(0.8 / math.sqrt(2))) / 2)) * math.sqrt(2)
    outcomes = simulated(300, 300, 0.8, half + 0.01)[1]
    assert outcomes["shown"] <= 5
    assert outcomes["not shown"] <= 5


def test_samples_that_look_less_known_than_unseen_ones_are_not_forgotten_but_wrong_labels_may_be() -> None:
    before, overshot = Estimate(0.7, 0.65, 0.75), Estimate(0.1, 0.05, 0.15)
    assert answer(before, overshot, 0.5, samples=300).outcome == "not shown"
    assert answer(before, overshot, 0.5, samples=300, below=True).outcome == "shown"


def test_a_gap_below_the_target_is_read_the_other_way_round() -> None:
    planted = Estimate(0.3, 0.25, 0.35)
    for after, outcome in ((0.48, "shown"), (0.3, "not shown"), (0.75, "not shown")):
        around = Estimate(after, after - 0.04, after + 0.04)
        assert answer(planted, around, 0.5, samples=300, compared=True).outcome == outcome
        alone = answer(planted, around, 0.5, samples=300)
        assert (alone.outcome, alone.needed) == ("cannot tell", None), "harder samples are no trace"


def test_however_wide_the_gap_a_class_that_is_often_named_is_not_forgotten() -> None:
    before, left = Estimate(1.0, 0.98, 1.0), Estimate(0.46, 0.43, 0.49)
    assert answer(before, left, 0.0, samples=300, below=True).outcome == "shown"
    assert answer(before, left, 0.0, samples=300, below=True, most=0.1).outcome == "not shown"
    gone = answer(before, Estimate(0.05, 0.03, 0.08), 0.0, samples=300, below=True, most=0.1)
    assert (gone.outcome, gone.within) == ("shown", 0.1)


def test_as_many_samples_as_are_said_to_be_needed_do_tell() -> None:
    def found(n: int) -> Answer:
        places = torch.linspace(0.5 / n, 1 - 0.5 / n, n)
        before, after = auc_estimate(places**0.6, places), auc_estimate(places**0.97, places)
        return answer(before, after, 0.5, samples=n)

    few = found(60)
    assert few.outcome == "cannot tell"
    assert few.needed is not None
    assert found(round(1.1 * few.needed)).outcome == "shown"
    assert found(round(0.9 * few.needed)).outcome == "cannot tell"
    assert answer(Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.4, 0.6), 0.5, samples=9).needed is None


def test_shares_have_exact_intervals_and_areas_bounded_ones() -> None:
    for hits in (0, 3, 5):
        value, low, high = share_estimate(torch.arange(5) < hits)
        exact = (stats.beta.ppf(0.025, hits, 6 - hits), stats.beta.ppf(0.975, hits + 1, 5 - hits))
        assert (value, low, high) == pytest.approx((hits / 5, *(e if e == e else hits / 5 for e in exact)))
    widths = [auc_estimate(torch.ones(n), torch.zeros(100)) for n in (5, 50, 500)]
    assert all(wide.low < narrow.low < 1 == narrow.high for wide, narrow in pairwise(widths))
    assert widths[0].low < 0.85  # that all five are found may be chance
