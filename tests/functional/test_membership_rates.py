"""Attack rates against scikit-learn and brute force, bootstrap intervals against a loop and the truth."""

import math
import time

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.testing import assert_close

from lightning_unlearn.functional import (
    auc,
    bootstrap_intervals,
    confusion_matrix,
    membership_rates,
    ranking_intervals,
    ranking_rates,
    roc_curve,
    tpr_at_fpr,
)

RATES = ("hit_rate", "auc", "fnr", "fpr", "balanced_accuracy", "tpr_at_1pct_fpr")


def scores(
    seed: int, n: int = 150, m: int = 230, digits: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of members somewhat above those of non-members; rounded to have ties."""
    g = torch.Generator().manual_seed(seed)
    forget = torch.sigmoid(torch.randn(n, generator=g, dtype=torch.float64) + 0.7)
    nonmember = torch.sigmoid(torch.randn(m, generator=g, dtype=torch.float64))
    return (
        (forget, nonmember)
        if digits is None
        else (forget.round(decimals=digits), nonmember.round(decimals=digits))
    )


def labelled(forget: torch.Tensor, nonmember: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    return np.r_[np.ones(len(forget)), np.zeros(len(nonmember))], torch.cat([forget, nonmember]).numpy()


@pytest.mark.parametrize("digits", [None, 2, 1, 0])
def test_auc_and_roc_curve_match_sklearn(digits):
    forget, nonmember = scores(0, digits=digits)
    labels, values = labelled(forget, nonmember)
    assert auc(forget, nonmember) == pytest.approx(metrics.roc_auc_score(labels, values), abs=1e-12)
    expected = metrics.roc_curve(labels, values, drop_intermediate=False)
    for ours, theirs in zip(roc_curve(forget, nonmember), expected, strict=True):
        assert_close(ours.numpy(), theirs)


def test_auc_is_the_mann_whitney_statistic():
    forget, nonmember = scores(1, n=40, m=30, digits=1)
    difference = forget.unsqueeze(1) - nonmember
    assert auc(forget, nonmember) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean().item())


@pytest.mark.parametrize("digits", [None, 2, 1])
@pytest.mark.parametrize("target", [0.0, 0.001, 0.01, 0.05, 0.29, 0.5, 1.0])
def test_tpr_at_fpr_matches_sklearn(target, digits):
    forget, nonmember = scores(2, m=100, digits=digits)
    fpr, tpr, _ = metrics.roc_curve(*labelled(forget, nonmember), drop_intermediate=False)
    assert tpr_at_fpr(forget, nonmember, target) == pytest.approx(tpr[fpr <= target].max(), abs=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.62, 1.0, 2.0])
@pytest.mark.parametrize("digits", [None, 2])
def test_rates_match_sklearn(threshold, digits):
    forget, nonmember = scores(3, digits=digits)
    labels, values = labelled(forget, nonmember)
    decisions = values >= threshold
    tn, fp, fn, tp = metrics.confusion_matrix(labels, decisions, labels=[0, 1]).ravel()
    rates = membership_rates(forget, nonmember, threshold)
    assert tuple(rates) == RATES
    assert rates["hit_rate"] == pytest.approx(tp / len(forget))
    assert rates["fnr"] == pytest.approx(fn / (tp + fn))
    assert rates["fpr"] == pytest.approx(fp / (fp + tn))
    assert rates["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, decisions))
    assert rates["auc"] == pytest.approx(auc(forget, nonmember))
    assert rates["tpr_at_1pct_fpr"] == tpr_at_fpr(forget, nonmember, 0.01)
    assert confusion_matrix(forget, nonmember, threshold).tolist() == [[tp, fn], [fp, tn]]


def test_decisions_are_scores():
    forget, nonmember = torch.tensor([True, True, False, True]), torch.tensor([False, True])
    rates = membership_rates(forget, nonmember)
    assert rates["hit_rate"] == 0.75
    assert rates["fpr"] == 0.5
    assert rates["auc"] == pytest.approx(0.625)
    assert confusion_matrix(forget, nonmember).tolist() == [[3, 1], [1, 1]]


def test_infinite_scores_are_ordered():
    forget, nonmember = torch.tensor([math.inf, 0.0]), torch.tensor([-math.inf, 0.0])
    assert auc(forget, nonmember) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert tpr_at_fpr(forget, nonmember, 0.0) == 0.5


def test_float32_scores_stay_distinct_in_float64():
    forget, nonmember = scores(4)
    assert auc(forget.float(), nonmember.float()) == pytest.approx(
        auc(forget.float().double(), nonmember.float().double())
    )
    assert auc(forget.bfloat16(), nonmember.bfloat16()) == pytest.approx(auc(forget, nonmember), abs=0.01)


def test_bootstrap_matches_a_loop_over_resamples():
    forget, nonmember = scores(5, n=200, m=150, digits=2)
    ours = bootstrap_intervals(forget, nonmember, torch.Generator().manual_seed(0), resamples=4000)
    assert tuple(ours) == RATES

    rng, rows = np.random.default_rng(0), []
    for _ in range(2000):
        f, n = (rng.choice(s.numpy(), len(s)) for s in (forget, nonmember))
        wins = np.mean((f[:, None] > n) + 0.5 * (f[:, None] == n))
        low_fpr = np.mean(f > np.sort(n)[-2])  # one false positive in 150 is below 1%, two are not
        rows.append(((f >= 0.5).mean(), wins, (f < 0.5).mean(), (n >= 0.5).mean(), low_fpr))
    expected = np.percentile(rows, [2.5, 97.5], axis=0).T
    for name, bounds in zip(("hit_rate", "auc", "fnr", "fpr", "tpr_at_1pct_fpr"), expected, strict=True):
        assert ours[name] == pytest.approx(tuple(bounds), abs=0.0101), name


def test_rates_without_a_threshold_are_the_same_ones():
    forget, nonmember = scores(5, n=200, m=1500, digits=3)
    rates = ranking_rates(forget, nonmember)
    expected = [auc(forget, nonmember), *(tpr_at_fpr(forget, nonmember, fpr) for fpr in (0.01, 0.001))]
    assert list(rates.values()) == expected
    draw = [torch.Generator().manual_seed(0) for _ in range(2)]
    ours, theirs = (
        ranking_intervals(forget, nonmember, draw[0]),
        bootstrap_intervals(forget, nonmember, draw[1]),
    )
    assert {name: ours[name] for name in ("auc", "tpr_at_1pct_fpr")} == {
        name: theirs[name] for name in ("auc", "tpr_at_1pct_fpr")
    }
    low, high = ours["tpr_at_0.1pct_fpr"]
    assert low <= rates["tpr_at_0.1pct_fpr"] <= high <= ours["tpr_at_1pct_fpr"][1]


def test_bootstrap_intervals_cover_the_truth():
    truth = torch.special.ndtr(
        torch.tensor(0.5, dtype=torch.float64)
    ).item()  # AUC of unit normals sqrt(1/2) apart
    g = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(100):
        forget, nonmember = torch.randn(120, generator=g) + math.sqrt(0.5), torch.randn(120, generator=g)
        low, high = bootstrap_intervals(forget, nonmember, g, level=0.9, resamples=200)["auc"]
        covered += low <= truth <= high
    assert 80 <= covered <= 98


def test_bootstrap_follows_the_generator_and_leaves_the_global_state_alone():
    forget, nonmember = scores(6)
    state = torch.get_rng_state()
    draw = lambda seed: bootstrap_intervals(  # noqa: E731
        forget, nonmember, torch.Generator().manual_seed(seed), resamples=100
    )
    assert draw(0) == draw(0) != draw(1)
    assert torch.equal(state, torch.get_rng_state())


def test_bootstrap_does_not_depend_on_block_boundaries(monkeypatch):
    forget, nonmember = scores(7)
    whole = bootstrap_intervals(forget, nonmember, torch.Generator().manual_seed(0), resamples=1500)
    monkeypatch.setattr("lightning_unlearn.functional.membership._BLOCK_COUNTS", 1000)
    blocks = bootstrap_intervals(forget, nonmember, torch.Generator().manual_seed(0), resamples=1500)
    for name in RATES:
        assert blocks[name] == pytest.approx(whole[name], abs=0.02)  # other draws, same distribution


def test_bootstrap_is_fast():
    forget, nonmember = scores(8, n=600, m=600)
    start = time.process_time()
    bootstrap_intervals(forget, nonmember, torch.Generator().manual_seed(0))
    assert time.process_time() - start < 2.0  # takes about 0.05 s


def test_arguments_are_checked():
    good, g = torch.tensor([0.1, 0.9]), torch.Generator()
    for bad, message in [
        (torch.tensor([]), "none of them 0"),
        (torch.tensor([[0.5]]), "none of them 0"),
        (torch.tensor([math.nan, 0.5]), "holds NaN"),
    ]:
        for function in (auc, roc_curve, tpr_at_fpr, confusion_matrix, membership_rates, ranking_rates):
            with pytest.raises(ValueError, match=f"forget_scores.*{message}"):
                function(bad, good)
            with pytest.raises(ValueError, match=f"nonmember_scores.*{message}"):
                function(good, bad)
        for intervals in (bootstrap_intervals, ranking_intervals):
            with pytest.raises(ValueError, match=message):
                intervals(bad, good, g)
    with pytest.raises(ValueError, match=r"fpr must lie in \[0, 1\]"):
        tpr_at_fpr(good, good, 1.5)
    with pytest.raises(ValueError, match="threshold must be a number"):
        membership_rates(good, good, math.nan)
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match=r"level must lie in \(0, 1\)"):
            bootstrap_intervals(good, good, g, level=level)
    with pytest.raises(ValueError, match="resamples must be at least 2"):
        bootstrap_intervals(good, good, g, resamples=1)
