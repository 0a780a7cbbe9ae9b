"""U-LiRA: tells models that unlearned a sample from models that never saw it, each model left out of its own fit.

Everything is computed on the CPU in float64.
"""

import torch
from torch import Tensor

from lightning_unlearn.functional._checks import as_population, require_finite_scores, require_level
from lightning_unlearn.functional.lira import STD_FLOOR, gaussian_log_density

__all__ = ["u_lira_intervals", "u_lira_rates", "u_lira_scores"]

_MIN_MODELS = 4  # three are left to fit a mean and a variance when the attacked one is taken out


def u_lira_scores(unlearned: Tensor, retrained: Tensor) -> tuple[Tensor, Tensor]:
    r"""Log-ratio of the densities of φ under the unlearned and under the retrained models, for each model of both.

    For each sample, a Gaussian is fitted to φ of the models that were trained with it and then unlearned it, and one
    to those that never saw it (Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to Avoid a False
    Sense of Privacy", 2024, U-LiRA). A model's score is :math:`\ln N(φ; μ_u, σ_u) - \ln N(φ; μ_r, σ_r)`, with the model
    itself left out of the fit of its own kind: fitted to, every model would look a little more like its own. Above 0
    (p > 1/2) the sample is said to have been unlearned.

    Means and variances without one model follow from the sums, so all models are left out at once. Variances are
    unbiased; standard deviations are never below 1e-3.

    Args:
        unlearned: φ of N unlearned models on n samples, shape ``(N, n)``, N >= 4.
        retrained: φ of M models that never saw the samples, shape ``(M, n)``, M >= 4.

    Returns:
        Scores of the unlearned models, ``(N, n)``, and of the retrained ones, ``(M, n)``, float64, in nats.

    Raises:
        ValueError: If the shapes do not fit, there are fewer than 4 models of a kind, or a φ is not finite.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> retrained = torch.randn(32, 3, generator=generator)
        >>> ours, theirs = u_lira_scores(torch.randn(32, 3, generator=generator) + 9.0, retrained)
        >>> bool((ours > 0).all()), bool((theirs < 0).all())
        (True, True)
    """
    u, r = _checked("unlearned", unlearned), _checked("retrained", retrained)
    if u.shape[1] != r.shape[1]:
        raise ValueError(
            f"unlearned and retrained must hold the same samples, got {u.shape[1]} and {r.shape[1]}; both are "
            "(models, samples)"
        )
    of_u = gaussian_log_density(u, *_without_one(u)) - gaussian_log_density(u, *_with_all(r))
    of_r = gaussian_log_density(r, *_with_all(u)) - gaussian_log_density(r, *_without_one(r))
    return of_u, of_r


def u_lira_rates(unlearned_scores: Tensor, retrained_scores: Tensor) -> dict[str, float]:
    """Rates of the attack over all models and samples together.

    Args:
        unlearned_scores: Scores of the unlearned models, shape ``(N, n)``; see :func:`u_lira_scores`.
        retrained_scores: Scores of the retrained models, shape ``(M, n)``.

    Returns:
        ``auc`` and ``accuracy`` (mean of the shares of unlearned models above 0 and of retrained models at or below;
        0.5 is guessing for both), ``tpr_at_1pct_fpr`` and ``tpr_at_0.1pct_fpr``, all in ``[0, 1]``.

    Raises:
        ValueError: If the shapes do not fit or a score is NaN.

    Example:
        >>> import torch
        >>> rates = u_lira_rates(torch.tensor([[2.0], [-1.0]]), torch.tensor([[-2.0], [-3.0]]))
        >>> rates["auc"], rates["accuracy"]
        (1.0, 0.75)
    """
    ranked = _Ranked(unlearned_scores, retrained_scores)
    ones = torch.ones(1, dtype=torch.float64)
    return ranked.rates(
        ones.expand(ranked.models[0]), ones.expand(ranked.models[1]), ones.expand(ranked.samples)
    )


def u_lira_intervals(
    unlearned_scores: Tensor,
    retrained_scores: Tensor,
    generator: torch.Generator,
    level: float = 0.95,
    resamples: int = 1000,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of :func:`u_lira_rates`, over the models and the samples alike.

    Unlearned models, retrained models and samples are each drawn with replacement, and a score counts as often as
    its model times its sample was drawn (Owen, "The pigeonhole bootstrap", 2007, which errs on the wide side). With
    few models the intervals are wide, as they should be. The fitted Gaussians are held fixed.

    Args:
        unlearned_scores: Scores of the unlearned models, shape ``(N, n)``.
        retrained_scores: Scores of the retrained models, shape ``(M, n)``.
        generator: Source of randomness, on the CPU.
        level: Coverage, strictly between 0 and 1.
        resamples: How many resamples, at least 2.

    Returns:
        Lower and upper bound by name of the rate.

    Raises:
        ValueError: If ``level`` or ``resamples`` is out of range, the shapes do not fit or a score is NaN.
    """
    require_level(level)
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, got {resamples}; 1000 is usual")
    ranked = _Ranked(unlearned_scores, retrained_scores)
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        drawn = [_drawn(size, generator) for size in (*ranked.models, ranked.samples)]
        for name, value in ranked.rates(*drawn).items():
            found.setdefault(name, []).append(value)
    tails = torch.tensor([(1.0 - level) / 2, (1.0 + level) / 2], dtype=torch.float64)
    intervals: dict[str, tuple[float, float]] = {}
    for name, values in found.items():
        low, high = torch.tensor(values, dtype=torch.float64).quantile(tails).tolist()
        intervals[name] = (low, high)
    return intervals


class _Ranked:
    """All scores in descending order, sorted once, so that a resample is a change of weights."""

    def __init__(self, unlearned: Tensor, retrained: Tensor) -> None:
        for name, scores in (("unlearned_scores", unlearned), ("retrained_scores", retrained)):
            if scores.ndim != 2 or not scores.numel() or scores.shape[1] != unlearned.shape[-1]:
                raise ValueError(
                    f"{name} must be one score a model and sample, of the same samples, shape (models, samples), got "
                    f"{tuple(scores.shape)}"
                )
            if bool(scores.isnan().any()):
                raise ValueError(f"{name} holds NaN; take the scores from u_lira_scores")
        self.models = (len(unlearned), len(retrained))
        self.samples = unlearned.shape[1]
        scores, order = torch.cat([unlearned, retrained]).double().flatten().sort(descending=True)
        self.model, self.sample = order // self.samples, order % self.samples
        self.ours = self.model < len(unlearned)
        self.positive = scores > 0
        # scores that are equal stand or fall together: only after the last of them is there a threshold
        self.last = (
            torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)]).nonzero().squeeze(1)
        )

    def rates(self, unlearned: Tensor, retrained: Tensor, samples: Tensor) -> dict[str, float]:
        """Rates where each model and each sample counts as often as its weight says."""
        weights = torch.cat([unlearned, retrained])[self.model] * samples[self.sample]
        ours, theirs = weights * self.ours, weights * ~self.ours
        tpr = (ours.cumsum(0) / ours.sum())[self.last]
        fpr = (theirs.cumsum(0) / theirs.sum())[self.last]
        start = tpr.new_zeros(1)
        area = torch.trapezoid(torch.cat([start, tpr]), torch.cat([start, fpr]))
        right = (ours * self.positive).sum() / ours.sum() + (theirs * ~self.positive).sum() / theirs.sum()
        return {
            "auc": float(area),
            "accuracy": float(right / 2),
            "tpr_at_1pct_fpr": _tpr_at(tpr, fpr, 0.01),
            "tpr_at_0.1pct_fpr": _tpr_at(tpr, fpr, 0.001),
        }


def _tpr_at(tpr: Tensor, fpr: Tensor, allowed: float) -> float:
    return float(torch.where(fpr <= allowed, tpr, 0.0).max())


def _drawn(size: int, generator: torch.Generator) -> Tensor:
    """How often each of ``size`` is drawn in as many draws with replacement."""
    return torch.bincount(torch.randint(size, (size,), generator=generator), minlength=size).double()


def _checked(name: str, scores: Tensor) -> Tensor:
    scores = as_population(name, scores, "U-LiRA", _MIN_MODELS, "32 give a usable score")
    require_finite_scores(name, scores)
    return scores


def _with_all(scores: Tensor) -> tuple[Tensor, Tensor]:
    return scores.mean(0), scores.std(0).clamp_min(STD_FLOOR)


def _without_one(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the others, for each model: ``(K, n)`` each."""
    k = len(scores)
    deviation = scores - scores.mean(0)  # about the mean, so that large equal scores do not cancel
    mean = scores.mean(0) - deviation / (k - 1)
    squares = (deviation**2).sum(0) - deviation**2 * (k / (k - 1))
    return mean, (squares.clamp_min(0.0) / (k - 2)).sqrt().clamp_min(STD_FLOOR)
