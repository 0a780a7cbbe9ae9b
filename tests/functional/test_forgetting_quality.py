"""Forgetting quality against the rules written out, and against the values of simulated unlearners."""

import math
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_unlearn.functional import (
    forgetting_final_score,
    forgetting_quality,
    forgetting_quality_intervals,
)

Array = NDArray[np.float64]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(models: int, samples: int, seed: int, mean: float = 0.0, std: float = 1.5) -> Tensor:
    return mean + std * torch.randn(models, samples, generator=generator(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- the rules, one threshold at a time


def bound(false_positive: int, negatives: int, false_negative: int, positives: int, delta: float) -> float:
    """ε of one threshold; NaN if it is discarded."""
    if false_positive == 0 and false_negative == 0:
        return math.inf
    if false_positive == 0 or false_negative == 0:
        return math.nan
    fpr, fnr = false_positive / negatives, false_negative / positives
    found = []
    if 1 - delta - fpr > 0:
        found.append(math.log(1 - delta - fpr) - math.log(fnr))
    if 1 - delta - fnr > 0:
        found.append(math.log(1 - delta - fnr) - math.log(fpr))
    return max(0.0, *found) if found else math.nan


def by_hand(u: Array, r: Array, delta: float, mode: str) -> float:
    """ε of one sample, ``u`` and ``r`` its scores under the unlearned and the retrained models."""
    positive, negative = (r, u) if np.median(r) > np.median(u) else (u, r)
    spread_p, spread_n = np.ptp(positive), np.ptp(negative)
    if min(spread_p, spread_n) / max(spread_p, spread_n) < 0.01:
        return 50.0
    peaked, wide = (negative, positive) if spread_p >= spread_n else (positive, negative)
    pooled = np.concatenate([u, r])
    if mode == "all":
        single = list(pooled)
        pairs = [(left, right) for left in pooled for right in pooled]
    else:
        single = list(np.linspace(pooled.min(), pooled.max(), math.ceil((pooled.max() - pooled.min()) * 100)))
        width = np.ptp(peaked)
        low, high = peaked.min() + width - 2.0, peaked.max() + 2.0
        pairs = [
            (left, right)
            for right in np.linspace(low, high, math.ceil((high - low) * 100))
            for left in np.linspace(right - width - 2.0, right - width + 2.0, 400)
        ]
    counts = {
        (int((negative >= t).sum()), len(negative), int((positive < t).sum()), len(positive)) for t in single
    }
    left, right = np.array(pairs).T[..., None]
    missed = ((peaked < left) | (peaked > right)).sum(1)
    caught = ((wide >= left) & (wide <= right)).sum(1)
    counts |= {(int(w), len(wide), int(p), len(peaked)) for w, p in zip(caught, missed, strict=True)}
    kept = [value for value in (bound(*c, delta) for c in counts) if not math.isnan(value)]
    return min(max(kept), 50.0) if kept else math.nan


CASES = {
    "equal": (gaussian(7, 3, 1), gaussian(7, 3, 2)),
    "shifted": (gaussian(9, 3, 3, mean=1.5), gaussian(9, 3, 4)),
    "shifted down": (gaussian(9, 3, 3, mean=-1.5), gaussian(9, 3, 4)),
    "narrow": (gaussian(8, 3, 5, std=0.4), gaussian(8, 3, 6)),
    "wide": (gaussian(8, 3, 5, std=4.0), gaussian(8, 3, 6)),
    "separate": (gaussian(5, 2, 7, mean=30.0), gaussian(5, 2, 8)),
    "peaked": (gaussian(5, 2, 7, std=0.001), gaussian(5, 2, 8)),
    "more unlearned": (gaussian(11, 3, 9, mean=0.5), gaussian(6, 3, 10)),
    "more retrained": (gaussian(6, 3, 9, mean=-0.5, std=0.8), gaussian(11, 3, 10)),
    "ties": (gaussian(8, 3, 11).round(), gaussian(8, 3, 12).round()),
    "many ties": (gaussian(20, 2, 13).round(), gaussian(20, 2, 14, mean=0.7).round()),
}


@pytest.mark.parametrize("mode", ["competition", "all"])
@pytest.mark.parametrize("case", CASES)
def test_epsilon_agrees_with_the_rules_written_out(case: str, mode: str) -> None:
    u, r = CASES[case]
    found = forgetting_quality(u, r, delta=1e-5, thresholds=mode).epsilon  # type: ignore[arg-type]
    expected = [by_hand(a, b, 1e-5, mode) for a, b in zip(u.T.numpy(), r.T.numpy(), strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9)


def test_the_epsilon_of_one_threshold() -> None:
    """Four models each, one on the wrong side: FPR = FNR = 1/4, and ε = ln((3/4 - δ) / (1/4))."""
    u = torch.tensor([[0.0], [0.1], [0.2], [3.0]], dtype=torch.float64)
    r = torch.tensor([[2.0], [2.1], [2.2], [-1.0]], dtype=torch.float64)
    found = forgetting_quality(u, r, delta=0.01, thresholds="all")
    assert float(found.epsilon) == pytest.approx(math.log(0.74 / 0.25), abs=1e-12)
    # ε = 1.085 lies in the third bucket, [1, 1.5); buckets end at ceil(ln 3) = 2
    assert found.epsilon_max == 2
    assert found.score == 0.25


def test_which_population_is_called_unlearned_does_not_matter() -> None:
    u, r = gaussian(16, 20, 1, mean=0.4, std=1.0), gaussian(16, 20, 2)
    for mode in ("competition", "all"):
        one, other = (forgetting_quality(a, b, thresholds=mode) for a, b in ((u, r), (r, u)))  # type: ignore[arg-type]
        assert torch.equal(one.epsilon, other.epsilon)


def test_more_thresholds_never_find_less() -> None:
    u, r = gaussian(16, 30, 1, mean=0.4), gaussian(16, 30, 2)
    grid, everything = forgetting_quality(u, r), forgetting_quality(u, r, thresholds="all")
    assert bool((everything.epsilon >= grid.epsilon - 1e-12).all())
    assert everything.score <= grid.score


def test_epsilon_of_zero_and_of_the_last_bucket() -> None:
    same = torch.ones(5, 1)
    assert float(forgetting_quality(same, same).epsilon) == 0.0, "nothing tells equal constants apart"
    assert forgetting_quality(same, same).score == 1.0
    assert float(forgetting_quality(same, same + 1).epsilon) == 50.0
    assert forgetting_quality(same, same + 1).score == 0.0


def test_scores_closer_than_the_grid_are_compared_directly() -> None:
    """The competition's thresholds lie 0.01 apart, and all of these scores between two of them."""
    u, r = gaussian(12, 12, 1) * 1e-5, gaussian(12, 12, 2) * 1e-5
    grid = np.array(
        [by_hand(a, b, 1e-5, "competition") for a, b in zip(u.T.numpy(), r.T.numpy(), strict=True)]
    )
    unusable = np.isnan(grid)
    assert unusable.any()
    found = forgetting_quality(u, r).epsilon.numpy()
    everything = forgetting_quality(u, r, thresholds="all").epsilon.numpy()
    np.testing.assert_allclose(found, np.where(unusable, everything, grid), rtol=0, atol=1e-9)


def test_a_larger_delta_allows_a_smaller_epsilon() -> None:
    u, r = gaussian(32, 10, 1, mean=1.0), gaussian(32, 10, 2)
    strict, lax = forgetting_quality(u, r, delta=1e-5), forgetting_quality(u, r, delta=0.1)
    assert bool((lax.epsilon <= strict.epsilon).all())
    assert float(lax.epsilon.mean()) < float(strict.epsilon.mean())


# ---------------------------------------------------------------------- simulated unlearners

# F of a simulated unlearner of the competition's rules, φ Gaussian with standard deviation 1.5: a perfect one, one
# shifted by a standard deviation, one of the same mean and half of it.
CALIBRATION = {16: (0.19, 0.098, 0.086), 32: (0.195, 0.063, 0.049), 64: (0.185, 0.047, 0.026)}


@pytest.mark.slow
@pytest.mark.parametrize("models", CALIBRATION)
def test_simulated_unlearners_score_as_published(models: int) -> None:
    samples = 300
    retrained = gaussian(models, samples, 1)
    unlearned = {
        "perfect": gaussian(models, samples, 2),
        "shifted": gaussian(models, samples, 3, mean=1.5),
        "narrow": gaussian(models, samples, 4, std=0.75),
    }
    for expected, (name, scores) in zip(CALIBRATION[models], unlearned.items(), strict=True):
        found = forgetting_quality(scores, retrained)
        # the points of 300 samples have a standard error of at most 0.013; the table is rounded to 0.01 for the
        # perfect one and 0.001 for the others
        error = float(found.points.std()) / math.sqrt(samples)
        assert abs(found.score - expected) < 3 * error + 0.01, name


def test_a_bad_unlearner_is_found_out_by_more_models() -> None:
    scores = [
        forgetting_quality(gaussian(n, 100, 3, mean=1.5), gaussian(n, 100, 1)).score for n in (16, 64, 256)
    ]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_a_perfect_unlearner_at_the_competitions_size_in_time() -> None:
    u, r = gaussian(512, 200, 1), gaussian(512, 200, 2)
    start = time.process_time()
    grid = forgetting_quality(u, r)
    seconds = time.process_time() - start
    assert grid.epsilon_max == 7
    assert grid.score == pytest.approx(0.18, abs=0.03)
    assert seconds < 10 / 5, "a fifth of 1000 samples"
    assert forgetting_quality(u, r, thresholds="all").score == pytest.approx(0.05, abs=0.015)


# ---------------------------------------------------------------------- what stands beside the score


def test_the_final_score_is_the_competitions() -> None:
    found = forgetting_final_score(
        0.18, retain_unlearned=0.95, retain_retrained=0.98, test_unlearned=0.80, test_retrained=0.90
    )
    assert found == pytest.approx(0.18 * (0.95 / 0.98) * (0.80 / 0.90), abs=1e-15)
    with pytest.raises(ValueError, match="retain_retrained"):
        forgetting_final_score(
            0.1, retain_unlearned=1, retain_retrained=0, test_unlearned=1, test_retrained=1
        )
    with pytest.raises(ValueError, match="score must lie"):
        forgetting_final_score(
            7.0, retain_unlearned=1, retain_retrained=1, test_unlearned=1, test_retrained=1
        )


def test_intervals_cover_what_they_are_of() -> None:
    """Over many sets of samples, a 95% interval of a mean must hold the true mean about as often."""
    draws = generator(0)
    values = torch.tensor([1.0, 0.5, 0.25, 0.125, 0.0], dtype=torch.float64)
    covered = 0
    for _ in range(200):
        points, null = (values[torch.randint(5, (80,), generator=draws)] for _ in range(2))
        found = forgetting_quality_intervals(points, null, draws, resamples=200)
        low, high = found["score"] or (0.0, 0.0)
        covered += low <= float(values.mean()) <= high
    assert 180 <= covered <= 199  # binomial with p = 0.94 for a percentile bootstrap of 80, four deviations


def test_the_ratio_is_paired_and_never_nan() -> None:
    points = torch.rand(50, generator=generator(), dtype=torch.float64)
    assert forgetting_quality_intervals(points, points, generator())["relative"] == (1.0, 1.0)
    rare = torch.zeros(50, dtype=torch.float64)
    rare[0] = 1.0
    assert forgetting_quality_intervals(points, rare, generator())["relative"] is None
    assert forgetting_quality_intervals(points, rare * 0, generator())["null"] == (0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thresholds": "some"}, "thresholds"),
        ({"delta": 1.0}, "delta"),
        ({"unlearned": torch.zeros(4)}, r"shapes must be unlearned .* got \(4,\)"),
        ({"unlearned": torch.zeros(4, 2)}, "got \\(4, 2\\) and \\(4, 3\\)"),
        ({"unlearned": torch.zeros(2, 3)}, "holds 2 models, .* at least 3"),
        ({"retrained": torch.full((4, 3), math.nan)}, "retrained holds values that are not finite"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forgetting_quality(**{"unlearned": torch.zeros(4, 3), "retrained": torch.zeros(4, 3), **arguments})  # type: ignore[arg-type]


def test_bad_input_to_the_intervals_is_refused() -> None:
    with pytest.raises(ValueError, match="resamples"):
        forgetting_quality_intervals(torch.ones(3), torch.ones(3), generator(), resamples=1)
    with pytest.raises(ValueError, match="level"):
        forgetting_quality_intervals(torch.ones(3), torch.ones(3), generator(), level=1.0)
    with pytest.raises(ValueError, match="shapes must be"):
        forgetting_quality_intervals(torch.ones(3), torch.ones(4), generator())
