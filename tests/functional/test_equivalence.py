"""The verdict's statistics against scipy, closed forms, and the simulated operating characteristics."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from lightning_unlearn.functional.equivalence import (
    Difference,
    Noise,
    holm,
    paired_difference,
    pooled_noise,
    room_to_halfway,
    seeds_to_decide,
    share_of_gap,
)

Array = np.ndarray[Any, Any]


def table(seeds: int, offset: float, *, models: int = 8, sd: float = 0.8, seed: int = 0) -> Array:
    """Scores of which row 0 is the source, row 1 the retrained model and row 2 a method at an offset from it."""
    draw = np.random.default_rng(seed)
    means = np.full(models, 95.9)
    means[0], means[2] = 99.98, 95.9 + offset
    return means[:, None] + draw.normal(0, 1.0, seeds) + draw.normal(0, sd, (models, seeds))


def share(condition: Any, seeds: int, offset: float, *, runs: int = 400, **given: Any) -> float:
    """How often a condition on the method's difference holds in simulated comparisons."""
    hits = 0
    for run in range(runs):
        scores = table(seeds, offset, seed=run, **given)
        hits += condition(paired_difference(scores, 2, 1, pooled_noise(scores)))
    return hits / runs


def close(difference: Difference, margin: float = 2.04) -> bool:
    return difference.p_inside(margin) <= 0.05


def test_the_noise_is_the_residual_of_a_two_way_table_without_interaction() -> None:
    scores = table(5, 0.0)
    models, seeds = np.indices(scores.shape)
    design = np.column_stack(
        [models.ravel() == m for m in range(8)] + [seeds.ravel() == s for s in range(1, 5)]
    ).astype(float)
    _, squares, rank, _ = np.linalg.lstsq(design, scores.ravel(), rcond=None)
    noise = pooled_noise(scores)
    assert noise.df == scores.size - rank
    assert noise.variance == pytest.approx(squares[0] / noise.df)


def test_two_models_give_the_paired_t_test() -> None:
    scores = table(6, 1.0)[1:3]
    difference = paired_difference(scores, 1, 0, pooled_noise(scores))
    expected = stats.ttest_rel(scores[1], scores[0])
    assert difference.mean / difference.se == pytest.approx(expected.statistic)
    assert difference.p_outside(0.0) == pytest.approx(expected.pvalue)
    assert difference.interval(0.95) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_cochran_takes_the_published_critical_value_and_the_unstable_out() -> None:
    # Eisenhart, Hastay & Wallis, table 15.2: k = 8 variances of 2 degrees of freedom, 1%: 0.6152
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(8, 3))
    wild = rows.copy()
    wild[3] = [0.0, 40.0, 42.0]
    assert pooled_noise(rows).apart == (False,) * 8
    assert pooled_noise(wild).apart == tuple(row == 3 for row in range(8))
    from lightning_unlearn.functional.equivalence import cochran

    assert cochran(8, 2) == pytest.approx(0.6152, abs=5e-4)
    assert cochran(5, 4, 0.05) == pytest.approx(0.5441, abs=5e-4)


@pytest.mark.parametrize(("seeds", "expected"), [(3, 0.833), (10, 1.0), (30, 1.0)])
def test_a_perfect_method_is_close_ever_more_often_and_hardly_ever_not(seeds: int, expected: float) -> None:
    assert share(close, seeds, 0.0) == pytest.approx(expected, abs=3 * 0.02)
    assert share(lambda d: d.p_outside(2.04) <= 0.05, seeds, 0.0) <= 0.05


@pytest.mark.parametrize("seeds", [3, 10, 30])
def test_a_method_at_the_margin_is_close_in_five_percent(seeds: int) -> None:
    assert share(close, seeds, -2.04, runs=1000) <= 0.05 + 3 * 0.0069


@pytest.mark.parametrize("share_closed", [0.5, 1.5], ids=["halfway", "overshot by half"])
@pytest.mark.parametrize("gap", [0.3, -0.3])
def test_a_method_at_half_the_gap_is_close_and_is_not_in_five_percent(
    share_closed: float, gap: float
) -> None:
    """Half the gap is measured, too: its noise counts, on both sides and whichever way the gap lies."""
    rng, runs, found = np.random.default_rng(0), 2000, [0, 0]
    for _ in range(runs):
        truth = np.array([gap, 0.0, gap * (1 - share_closed), 0.1, 0.2])  # source, goal, method and two more
        scores = truth[:, None] + rng.normal(0, 0.02, (5, 5)) + rng.normal(0, 0.05, 5)
        rooms = room_to_halfway(scores, 0, 1, 2, pooled_noise(scores))
        found[0] += max(room.p_above() for room in rooms) <= 0.05
        found[1] += min(room.p_below() for room in rooms) <= 0.05
    assert np.array(found) / runs == pytest.approx([0.05, 0.05], abs=3 * 0.0049)


def test_three_seeds_cannot_decide_an_auc() -> None:
    # the digits' attack: sd .020 over seeds, half the gap is .024
    def narrow(difference: Difference) -> bool:
        return close(difference, 1.2 * 0.8)

    assert share(narrow, 3, 0.0) == pytest.approx(0.03, abs=0.04)
    assert share(narrow, 10, 0.0) == pytest.approx(0.69, abs=0.07)


def test_an_unstable_method_is_never_close() -> None:
    for run in range(200):
        scores = table(3, 0.0, seed=run)
        scores[2] = [86.9, 99.9, 99.9]
        noise = pooled_noise(scores)
        assert noise.apart[2]
        assert not close(paired_difference(scores, 2, 1, noise))


def test_few_stable_models_are_taken_for_unstable() -> None:
    caught = [any(pooled_noise(table(3, 0.0, seed=run)).apart) for run in range(1000)]
    assert np.mean(caught) <= 0.02 + 3 * 0.0044


def test_a_loss_is_judged_on_one_side() -> None:
    gain = Difference(5.0, 0.5, 14)
    assert gain.p_inside(1.0, below_only=True) < 1e-6
    assert gain.p_outside(1.0, below_only=True) == pytest.approx(1.0)
    assert gain.p_outside(1.0) < 1e-5
    assert Difference(-5.0, 0.5, 14).p_outside(1.0, below_only=True) < 1e-5


def test_the_share_of_the_gap_and_fiellers_interval() -> None:
    noise = Noise(0.64, 14, (False,) * 3)
    scores = np.array([[100.0, 100.0, 100.0], [96.0, 96.0, 96.0], [97.0, 97.0, 97.0]])
    closed, interval = share_of_gap(scores, 0, 1, 2, noise)
    assert closed == pytest.approx(0.75)
    assert interval is not None
    # each end is where (closed − θ gap) is t standard errors from 0
    t = stats.t.ppf(0.975, 14)
    for end in interval:
        se = np.sqrt(0.64 / 3 * (2 - 2 * end + 2 * end**2))
        assert abs(3.0 - end * 4.0) == pytest.approx(t * se)
    assert share_of_gap(scores, 0, 1, 2, Noise(64.0, 14, (False,) * 3))[1] is None
    with pytest.raises(ValueError, match="no gap to close"):
        share_of_gap(scores, 0, 0, 2, noise)


def test_fiellers_interval_covers() -> None:
    covered = []
    for run in range(600):
        scores = table(5, 1.02, seed=run)  # three quarters of the gap of 4.08
        interval = share_of_gap(scores, 0, 1, 2, pooled_noise(scores))[1]
        assert interval is not None
        covered.append(interval[0] <= 0.75 <= interval[1])
    assert np.mean(covered) == pytest.approx(0.95, abs=3 * 0.009)


def test_holm_is_the_stepwise_rule() -> None:
    from itertools import permutations

    p = [0.001, 0.012, 0.02, 0.2]
    for order in permutations(range(4)):
        adjusted = holm([p[i] for i in order])
        assert adjusted == pytest.approx([[0.004, 0.036, 0.04, 0.2][i] for i in order])
    assert holm([]) == []


def test_equal_values_are_not_taken_for_no_noise() -> None:
    scores = np.array([[100.0, 100.0, 100.0], [96.0, 96.0, 96.0]])
    assert pooled_noise(scores).variance == 0
    noise = pooled_noise(scores, floor=1.5)
    assert noise.variance == 1.5
    assert paired_difference(scores, 0, 1, noise).se == pytest.approx(1.0)


def test_seeds_that_would_tell() -> None:
    noise = Noise(0.64, 14, (False,) * 8)
    needed = seeds_to_decide(0.5, noise, 8)
    assert needed is not None
    for seeds, enough in ((needed, True), (needed - 1, False)):
        half = stats.t.ppf(0.95, 7 * (seeds - 1)) * np.sqrt(2 * 0.64 / seeds)
        assert bool(half <= 0.5) == enough
    assert seeds_to_decide(0.0, noise, 8) is None
    assert seeds_to_decide(1e-6, noise, 8) is None


@pytest.mark.parametrize("scores", [np.zeros((1, 3)), np.zeros((3, 1)), np.full((2, 2), np.nan), np.zeros(3)])
def test_tables_that_cannot_be_judged(scores: Array) -> None:
    with pytest.raises(ValueError, match="at least 2 models"):
        pooled_noise(scores)
