"""Intervals over seeds: what they cover, on data whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from lightning_unlearn.functional import auc
from lightning_unlearn.functional.intervals import pigeonhole_auc_interval, pooled_intervals


def test_two_models_by_hand() -> None:
    values = {"a": [1.0, 2.0, 3.0], "b": [5.0, 5.0, 8.0]}
    # variances 1 and 3: pooled 2. Mean squares: seeds 3.5 (2 df), residual 0.5 (2 df); 2 = 3.5/2 + 0.5/2
    half = float(stats.t.ppf(0.975, 2**2 / (1.75**2 / 2 + 0.25**2 / 2))) * np.sqrt(2 / 3)
    intervals = pooled_intervals(values)
    assert intervals["a"] == pytest.approx((2 - half, 2 + half))
    assert intervals["b"] == pytest.approx((6 - half, 6 + half))


def test_a_model_that_stands_out_is_judged_by_its_own() -> None:
    random = np.random.default_rng(0)
    values = {str(model): random.normal(0, 1, 3).tolist() for model in range(8)}
    values["wild"] = [-30.0, 0.0, 30.0]
    intervals = pooled_intervals(values)
    own = stats.t.interval(0.95, 2, 0.0, 30 / np.sqrt(3))
    assert intervals["wild"] == pytest.approx(own)
    assert max(high - low for name, (low, high) in intervals.items() if name != "wild") < 5


def test_shares_stay_within_and_equal_ones_are_not_taken_for_no_noise() -> None:
    intervals = pooled_intervals(
        {"a": [1.0, 1.0, 1.0], "b": [0.0, 0.0, 0.0], "c": [0.5, 0.5, 0.5]}, samples=20
    )
    for low, high in intervals.values():
        assert 0 <= low < high <= 1
    assert intervals["a"][1] == 1.0
    assert intervals["b"][0] == 0.0


def test_pooled_intervals_cover_where_t_over_three_seeds_does_not() -> None:
    # accuracies of nine models on 144 samples that differ from seed to seed
    random = np.random.default_rng(1)
    truth = np.linspace(0.90, 0.97, 9)
    pooled, single, widths = [], [], []
    for _ in range(400):
        scores = random.binomial(144, truth[:, None], (9, 3)) / 144
        intervals = pooled_intervals({str(m): row.tolist() for m, row in enumerate(scores)}, samples=144)
        for model in (0, 4, 8):
            low, high = intervals[str(model)]
            pooled.append(low <= truth[model] <= high)
            mean, half = scores[model].mean(), stats.t.ppf(0.975, 2) * scores[model].std(ddof=1) / np.sqrt(3)
            single.append(abs(mean - truth[model]) <= half)
            widths.append((high - low, 2 * half))
    assert 0.94 <= np.mean(pooled) <= 0.985, "the binomial floor errs on the side of width"
    assert np.mean([w[0] for w in widths]) < 0.8 * np.mean([w[1] for w in widths])
    assert np.mean(single) < np.mean(pooled)


@pytest.mark.parametrize(("models", "seeds"), [(9, 3), (12, 3), (9, 5), (9, 10)])
def test_what_a_seed_does_to_all_models_is_no_evidence_of_many(models: int, seeds: int) -> None:
    # a split of its own for each seed: sd .027 over splits, .008 over trainings
    random = np.random.default_rng(4)
    covered = []
    for _ in range(600):
        scores = random.normal(0, 0.027, seeds) + random.normal(0, 0.008, (models, seeds))
        low, high = pooled_intervals({str(m): row.tolist() for m, row in enumerate(scores)})["0"]
        covered.append(low <= 0 <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("values", [{"a": [0.5]}, {"a": [0.5, 1.2]}])
def test_what_has_no_interval_is_refused(values: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="at least two scores, shares in"):
        pooled_intervals(values, samples=10)


def test_one_resample_of_the_pigeonhole_is_the_auc() -> None:
    random = np.random.default_rng(2)
    forget, nonmember = (
        random.integers(0, 6, (3, 15)).astype(float),
        random.integers(0, 5, (3, 12)).astype(float),
    )
    mean = np.mean([auc(*map(_tensor, pair)) for pair in zip(forget, nonmember, strict=True)])
    low, high = pigeonhole_auc_interval(list(forget), list(nonmember), resamples=4000)
    assert low < mean < high

    # brute force: the same three draws, sample by sample
    brute = []
    for _ in range(4000):
        seeds, ours, theirs = random.integers(0, 3, 3), random.integers(0, 15, 15), random.integers(0, 12, 12)
        brute.append(np.mean([_auc(forget[s][ours], nonmember[s][theirs]) for s in seeds]))
    assert (low, high) == pytest.approx(tuple(np.quantile(brute, [0.025, 0.975])), abs=0.015)


@pytest.mark.slow
def test_the_pigeonhole_covers_where_t_over_seeds_does_not() -> None:
    # scores: a part of each sample, the same in all seeds, and a part of each seed; the true AUC is 0.5
    random = np.random.default_rng(3)
    covered, by_t = [], []
    for _ in range(150):
        ours, theirs = random.normal(0, 1, 60), random.normal(0, 1, 60)
        forget = [ours + random.normal(0, 0.4, 60) for _ in range(10)]
        nonmember = [theirs + random.normal(0, 0.4, 60) for _ in range(10)]
        low, high = pigeonhole_auc_interval(forget, nonmember, resamples=300)
        covered.append(low <= 0.5 <= high)
        values = [_auc(f, n) for f, n in zip(forget, nonmember, strict=True)]
        ends = stats.t.interval(0.95, 9, np.mean(values), stats.sem(values))
        by_t.append(ends[0] <= 0.5 <= ends[1])
    assert np.mean(covered) == pytest.approx(0.94, abs=0.05)
    assert np.mean(by_t) < 0.6


def test_seeds_that_do_not_share_the_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="the same samples in each seed"):
        pigeonhole_auc_interval([np.zeros(3), np.zeros(4)], [np.zeros(3)] * 2)


def _auc(forget: np.ndarray, nonmember: np.ndarray) -> float:  # type: ignore[type-arg]
    return float((np.sign(forget[:, None] - nonmember[None]) / 2 + 0.5).mean())


def _tensor(values: np.ndarray):  # type: ignore[no-untyped-def, type-arg]
    import torch

    return torch.from_numpy(values)
