"""LiRA's, U-LiRA's, RMIA's and the population attack's scores against SciPy and against loops over models."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lightning_unlearn.functional import (
    auc,
    lira_scores,
    logit_scaled_confidence,
    population_attack_scores,
    rmia_scores,
    rmia_unlearned_scores,
    u_lira_intervals,
    u_lira_rates,
    u_lira_scores,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- logit-scaled confidence


def published_confidence(logits: Tensor, targets: Tensor) -> np.ndarray:
    """log(p_y + 1e-45) - log(Σ p_c + 1e-45), written out."""
    posteriors = special.softmax(logits.double().numpy(), axis=-1)
    rows = np.arange(len(targets))
    own = posteriors[rows, targets].copy()
    posteriors[rows, targets] = 0
    return np.log(own + 1e-45) - np.log(posteriors.sum(-1) + 1e-45)


def test_confidence_is_the_published_one_from_logits_and_from_log_posteriors() -> None:
    logits, targets = normal(200, 5) * 8, torch.arange(200) % 5
    expected = published_confidence(logits, targets)
    np.testing.assert_allclose(logit_scaled_confidence(logits, targets), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        logit_scaled_confidence(logits.log_softmax(-1), targets), expected, rtol=0, atol=1e-9
    )


def test_confidence_of_many_models_at_once() -> None:
    logits, targets = normal(4, 10, 3), torch.arange(10) % 3
    found = logit_scaled_confidence(logits.float(), targets)
    assert found.shape == (4, 10)
    assert found.dtype == torch.float64
    for rows, row in zip(logits.float(), found, strict=True):
        assert torch.equal(logit_scaled_confidence(rows, targets), row)


def test_confidence_of_certain_models_is_finite_and_exact_below_the_bound() -> None:
    logits = torch.tensor([[60.0, 0.0], [900.0, 0.0], [0.0, 900.0], [0.0, -math.inf], [-math.inf, 0.0]])
    found = logit_scaled_confidence(logits, torch.zeros(5, dtype=torch.int64))
    bound = 45 * math.log(10)
    assert found.tolist() == pytest.approx([60.0, bound, -bound, bound, -bound], abs=1e-12)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3), "2 or more classes"),
        (torch.zeros(3, 2), torch.zeros(2), r"at least one, got \(3, 2\) and \(2,\)"),
        (torch.zeros(3, 2), torch.full((3,), 2), "targets must lie in"),
        (torch.full((3, 2), math.nan), torch.zeros(3), "NaN"),
        (torch.zeros(4, 0, 2), torch.zeros(0), "at least one"),
    ],
)
def test_bad_logits_are_refused(logits: Tensor, targets: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logit_scaled_confidence(logits, targets.long())


# ---------------------------------------------------------------------- LiRA


def half_members(models: int, samples: int, seed: int = 3) -> Tensor:
    """Each sample in half of the models."""
    return torch.rand(models, samples, generator=generator(seed)).argsort(0) < models // 2


@pytest.mark.parametrize("centre", ["median", "mean"])
@pytest.mark.parametrize("variance", ["per_sample", "global"])
def test_online_scores_agree_with_scipy(variance: str, centre: str) -> None:
    references, members, attacked = normal(12, 7), half_members(12, 7), normal(3, 7, seed=1)
    found = lira_scores(attacked, references, members, variance=variance, centre=centre)  # type: ignore[arg-type]
    middle = np.median if centre == "median" else np.mean
    density = []
    for inside in (members.numpy(), ~members.numpy()):
        chosen = [references[:, s].numpy()[inside[:, s]] for s in range(7)]
        std = np.array([np.std(values, ddof=1) for values in chosen])
        if variance == "global":
            std[:] = math.sqrt(np.mean(std**2))  # all samples have equally many models here
        density.append(stats.norm.logpdf(attacked.numpy(), [middle(values) for values in chosen], std))
    np.testing.assert_allclose(found.numpy(), density[0] - density[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variance", ["per_sample", "global"])
def test_offline_scores_agree_with_scipy(variance: str) -> None:
    references, attacked = normal(9, 5), normal(5, seed=1) * 20
    found = lira_scores(attacked, references, variance=variance)  # type: ignore[arg-type]
    std = references.numpy().std(0, ddof=1)
    if variance == "global":
        std = math.sqrt(np.mean(std**2))
    expected = -stats.norm.logsf(attacked.numpy(), np.median(references.numpy(), axis=0), std)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_global_variance_weighs_samples_by_their_models() -> None:
    """Unequal numbers: the pooled variance is the sum of squares over the sum of degrees of freedom."""
    references, members = normal(9, 2), torch.zeros(9, 2, dtype=torch.bool)
    members[:3, 0], members[:6, 1] = True, True
    found = lira_scores(torch.zeros(2), references, members, variance="global", centre="mean")
    density = []
    for inside in (members.numpy(), ~members.numpy()):
        chosen = [references[:, s].numpy()[inside[:, s]] for s in range(2)]
        squares = sum(((values - values.mean()) ** 2).sum() for values in chosen)
        std = math.sqrt(squares / sum(len(values) - 1 for values in chosen))
        density.append(stats.norm.logpdf(0.0, [values.mean() for values in chosen], std))
    np.testing.assert_allclose(found.numpy(), density[0] - density[1], rtol=1e-10)


def test_models_that_all_agree_give_no_nan() -> None:
    references, members = torch.ones(8, 3), half_members(8, 3)
    for attacked in (torch.ones(3), torch.full((3,), -50.0)):
        assert bool(lira_scores(attacked, references, members).isfinite().all())
        assert bool(lira_scores(attacked, references).isfinite().all())
    assert lira_scores(torch.ones(3), references, members).tolist() == [0.0] * 3


def test_lira_finds_members() -> None:
    members = half_members(32, 400)
    references = normal(32, 400) + normal(400, seed=5) * 3 + 2.0 * members
    asked, truth = references[0], members[0].numpy()
    online = lira_scores(asked, references[1:], members[1:], variance="global")
    # two unit Gaussians two deviations apart: AUC is Φ(√2) = 0.921, minus what 15 models leave unknown
    assert 0.85 < roc_auc_score(truth, online.numpy()) < 0.95
    # beside it, one threshold for all samples
    assert roc_auc_score(truth, online.numpy()) > roc_auc_score(truth, asked.numpy()) + 0.1


@pytest.mark.parametrize(
    ("models", "variance", "message"),
    [
        (7, "per_sample", "at least 4 reference models trained with"),
        (3, "global", "at least 2 reference models trained with"),
        (8, "robust", "variance must be"),
    ],
)
def test_too_few_references_are_named(models: int, variance: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lira_scores(torch.zeros(2), normal(models, 2), half_members(models, 2), variance=variance)  # type: ignore[arg-type]


def test_bad_lira_input_is_refused() -> None:
    with pytest.raises(ValueError, match="trained without"):
        lira_scores(torch.zeros(2), normal(3, 2))
    with pytest.raises(ValueError, match="centre"):
        lira_scores(torch.zeros(2), normal(8, 2), centre="mode")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="references must have shape"):
        lira_scores(torch.zeros(3), normal(8, 2))
    with pytest.raises(ValueError, match="members and references must have"):
        lira_scores(torch.zeros(2), normal(8, 2), torch.ones(8, 3))
    with pytest.raises(ValueError, match="attacked holds"):
        lira_scores(torch.full((2,), math.inf), normal(8, 2))


# ---------------------------------------------------------------------- U-LiRA


def test_each_model_is_left_out_of_its_own_fit() -> None:
    u, r = normal(6, 4) + 0.5, normal(9, 4, seed=1) * 2
    ours, theirs = u_lira_scores(u, r)

    def density(value: np.ndarray, fitted: Tensor) -> np.ndarray:
        found: np.ndarray = stats.norm.logpdf(value, fitted.mean(0).numpy(), fitted.std(0).numpy())
        return found

    for i in range(6):
        others = torch.cat([u[:i], u[i + 1 :]])
        np.testing.assert_allclose(
            ours[i], density(u[i].numpy(), others) - density(u[i].numpy(), r), rtol=1e-10
        )
    for j in range(9):
        others = torch.cat([r[:j], r[j + 1 :]])
        np.testing.assert_allclose(
            theirs[j], density(r[j].numpy(), u) - density(r[j].numpy(), others), rtol=1e-10
        )


def test_a_perfect_unlearner_is_not_told_apart() -> None:
    """Without leaving out, the fit would favour a model's own kind; with it, guessing remains."""
    u, r = normal(8, 3000), normal(8, 3000, seed=1)
    rates = u_lira_rates(*u_lira_scores(u, r))
    # 24,000 scores a kind of 3000 samples: the standard error of both is below 0.006
    assert rates["auc"] == pytest.approx(0.5, abs=0.02)
    assert rates["accuracy"] == pytest.approx(0.5, abs=0.02)
    assert rates["tpr_at_1pct_fpr"] == pytest.approx(0.01, abs=0.005)

    def naive(values: Tensor) -> Tensor:
        return lira_scores(
            values, torch.cat([u, r]), (torch.arange(16) < 8).unsqueeze(1).expand(16, 3000), centre="mean"
        )

    assert u_lira_rates(naive(u), naive(r))["auc"] > 0.6


def test_models_far_apart_are_told_apart_and_copies_give_no_nan() -> None:
    r = normal(16, 20)
    copies = torch.full((16, 20), 3.0)
    ours, theirs = u_lira_scores(copies, r)
    assert bool(ours.isfinite().all() and theirs.isfinite().all())
    rates = u_lira_rates(ours, theirs)
    assert rates["auc"] == pytest.approx(1.0, abs=1e-6)
    assert rates["accuracy"] > 0.99


def test_rates_agree_with_scikit_learn() -> None:
    u, r = normal(5, 30).round(decimals=1) + 0.5, normal(7, 30, seed=1).round(decimals=1)
    labels = np.repeat([1, 0], [150, 210])
    scores = torch.cat([u.flatten(), r.flatten()]).numpy()
    rates = u_lira_rates(u, r)
    assert rates["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert rates["auc"] == pytest.approx(auc(u.flatten(), r.flatten()), abs=1e-12)
    assert rates["accuracy"] == pytest.approx(
        (float((u > 0).double().mean()) + float((r <= 0).double().mean())) / 2
    )
    for name, allowed in (("tpr_at_1pct_fpr", 2), ("tpr_at_0.1pct_fpr", 0)):  # false positives of 210
        threshold = np.sort(r.flatten().numpy())[::-1][allowed]
        assert rates[name] == pytest.approx(float((u > threshold).double().mean()))


def test_intervals_widen_with_fewer_models() -> None:
    def width(models: int) -> float:
        u, r = normal(models, 40) + 0.5 * normal(models, 1, seed=7), normal(models, 40, seed=1)
        low, high = u_lira_intervals(u, r, generator(), resamples=200)["auc"]
        assert low <= u_lira_rates(u, r)["auc"] <= high
        return high - low

    assert width(4) > 1.5 * width(64)


def test_bad_u_lira_input_is_refused() -> None:
    with pytest.raises(ValueError, match="unlearned holds 3 models, and U-LiRA needs at least 4"):
        u_lira_scores(normal(3, 2), normal(8, 2))
    with pytest.raises(ValueError, match="shapes must be"):
        u_lira_scores(normal(8, 3), normal(8, 2))
    with pytest.raises(ValueError, match="not finite"):
        u_lira_scores(normal(8, 2) * math.inf, normal(8, 2))
    with pytest.raises(ValueError, match="shapes must be"):
        u_lira_scores(normal(8), normal(8, 2))
    with pytest.raises(ValueError, match="shapes must be unlearned_scores"):
        u_lira_rates(normal(8, 2), normal(8, 3))
    with pytest.raises(ValueError, match="holds NaN"):
        u_lira_rates(normal(8, 2) * math.nan, normal(8, 2))
    with pytest.raises(ValueError, match="resamples"):
        u_lira_intervals(normal(8, 2), normal(8, 2), generator(), resamples=1)


# ---------------------------------------------------------------------- RMIA and the population attack


@pytest.mark.parametrize("offline", [None, 0.0, 0.33, 1.0])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia_agrees_with_the_formula_written_out(offline: float | None, gamma: float) -> None:
    def posteriors(*shape: int, seed: int) -> Tensor:
        return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)

    own, own_references = posteriors(6, seed=1), posteriors(3, 6, seed=2)
    population, population_references = posteriors(11, seed=3), posteriors(3, 11, seed=4)
    found = rmia_scores(
        own.log(),
        own_references.log(),
        population.log(),
        population_references.log(),
        gamma=gamma,
        offline=offline,
    )

    def ratio(p: Tensor, references: Tensor) -> Tensor:
        mean = references.mean(0)
        return p / (mean if offline is None else 0.5 * ((1 + offline) * mean + 1 - offline))

    x, z = ratio(own, own_references), ratio(population, population_references)
    expected = [np.mean([float(a / b) > gamma for b in z]) for a in x]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [1.0, 1.5])
def test_rmia_with_unlearned_references_agrees_with_the_formula_written_out(gamma: float) -> None:
    """Both kinds of references weigh one half, and the attacked model is none of its own."""
    rng = np.random.default_rng(0)
    p = {"u": rng.random((5, 6)), "r": rng.random((3, 6))}
    z = {"u": rng.random((5, 40)), "r": rng.random((3, 40))}
    tensors = [torch.from_numpy(x).log() for x in (p["u"], p["r"], z["u"], z["r"])]
    for own, other, found in zip("ur", "ru", rmia_unlearned_scores(*tensors, gamma=gamma), strict=True):
        for k in range(len(p[own])):
            kept = [i for i in range(len(p[own])) if i != k]
            ratios = [x[own][k] / (0.5 * (x[own][kept].mean(0) + x[other].mean(0))) for x in (p, z)]
            expected = [np.mean([a / b > gamma for b in ratios[1]]) for a in ratios[0]]
            assert found[k].tolist() == pytest.approx(expected)


def test_rmia_with_unlearned_references_does_not_tell_a_perfect_unlearner_apart() -> None:
    def posteriors(samples: int, seed: int, shift: float = 0.0) -> Tensor:
        return torch.nn.functional.logsigmoid(normal(8, samples, seed=seed) + shift)

    retrained, population = posteriors(2000, 1), (posteriors(500, 2), posteriors(500, 3))
    perfect = u_lira_rates(*rmia_unlearned_scores(posteriors(2000, 0), retrained, *population))
    assert perfect["auc"] == pytest.approx(0.5, abs=0.02)  # 16,000 scores a kind of 2000 samples
    known = rmia_unlearned_scores(posteriors(2000, 0, 1.5), retrained, *population)
    assert u_lira_rates(*known)["auc"] > 0.7


def test_bad_input_of_rmia_with_unlearned_references_is_refused() -> None:
    one, two, far = torch.zeros(2, 3), torch.zeros(2, 4), torch.full((2, 3), -5000.0)
    assert torch.equal(rmia_unlearned_scores(far, far, far, far)[0], torch.zeros(2, 3).double())
    with pytest.raises(ValueError, match=r"retrained holds 1 models, .* needs at least 2"):
        rmia_unlearned_scores(one, one[:1], two, two[:1])
    with pytest.raises(ValueError, match="shapes must be"):
        rmia_unlearned_scores(one, one, torch.zeros(3, 4), two)
    with pytest.raises(ValueError, match="shapes must be"):
        rmia_unlearned_scores(one, torch.zeros(2, 5), two, two)
    with pytest.raises(ValueError, match="shapes must be"):  # as many in all
        rmia_unlearned_scores(one, two, two, one)
    with pytest.raises(ValueError, match="shapes must be"):
        rmia_unlearned_scores(one, one, two[:, :0], two[:, :0])
    with pytest.raises(ValueError, match="logarithms"):
        rmia_unlearned_scores(one, one, two + 1, two)
    with pytest.raises(ValueError, match="gamma"):
        rmia_unlearned_scores(one, one, two, two, gamma=math.inf)


def test_rmia_of_posteriors_too_small_for_a_float_is_finite() -> None:
    tiny = torch.full((2,), -5000.0)
    for offline in (0.3, 1.0, None):
        found = rmia_scores(tiny, tiny.expand(3, 2), tiny, tiny.expand(3, 2), offline=offline)
        assert found.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.0}, "gamma"),
        ({"offline": 1.5}, "offline"),
        ({"attacked": torch.ones(2)}, "logarithms"),
        ({"references": torch.zeros(0, 2)}, "shapes must be"),
        (
            {"population_attacked": torch.zeros(0), "population_references": torch.zeros(3, 0)},
            "shapes must be",
        ),
    ],
)
def test_bad_rmia_input_is_refused(arguments: dict[str, object], message: str) -> None:
    usual = {
        "attacked": torch.zeros(2),
        "references": torch.zeros(3, 2),
        "population_attacked": torch.zeros(4),
        "population_references": torch.zeros(3, 4),
    }
    with pytest.raises(ValueError, match=message):
        rmia_scores(**{**usual, **arguments})  # type: ignore[arg-type]


def test_the_population_attack_has_the_false_positives_it_promises() -> None:
    losses = normal(4000, seed=1).exp()
    scores = population_attack_scores(losses[:2000], losses[2000:])
    for allowed in (0.01, 0.1, 0.5):
        # a binomial of 2000, three standard errors, plus the error of the threshold itself
        assert float((scores >= 1 - allowed).double().mean()) == pytest.approx(
            allowed, abs=0.04 * allowed**0.5 + 0.005
        )


def test_the_population_attack_ranks_as_percentiles() -> None:
    losses, others = normal(50).round(decimals=1), normal(80, seed=1).round(decimals=1)
    expected = [1 - stats.percentileofscore(others.numpy(), x, kind="mean") / 100 for x in losses.numpy()]
    np.testing.assert_allclose(population_attack_scores(losses, others), expected, atol=1e-12)


def test_bad_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="none of them 0"):
        population_attack_scores(torch.zeros(2), torch.zeros(0))
    with pytest.raises(ValueError, match="shapes must be losses"):
        population_attack_scores(torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="holds NaN"):
        population_attack_scores(torch.zeros(2), torch.full((2,), math.nan))


def test_confidence_of_float_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="targets must be integer class indices"):
        logit_scaled_confidence(torch.zeros(2, 3), torch.zeros(2))
