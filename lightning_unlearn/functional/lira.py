"""Likelihood ratio attacks: LiRA on one model, U-LiRA on unlearned against retrained models.

All scores are computed on the CPU in float64. LiRA asks whether a sample's confidence looks like that of models trained
with it or without, and scores higher for "was trained on"; U-LiRA tells models that unlearned a sample from models that
never saw it, each model left out of its own fit.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_unlearn.core.checks import of_shape, one_of, shapes
from lightning_unlearn.functional._checks import (
    as_populations,
    as_scores,
    require_classes,
    require_resampling,
)
from lightning_unlearn.functional.membership import LOW_FPRS, tpr_at
from lightning_unlearn.functional.statistics import percentiles

__all__ = [
    "lira_scores",
    "logit_scaled_confidence",
    "u_lira_intervals",
    "u_lira_rates",
    "u_lira_scores",
]

Variance = Literal["per_sample", "global"]
Centre = Literal["median", "mean"]

# The competition and tensorflow-privacy add 1e-45 inside both logarithms, so that theirs ends near this too.
_BOUND = -math.log(1e-45)
# Standard deviations below this are taken for it: models that all agree would else divide by zero. In units of φ,
# of which float32 logits resolve about 1e-6.
STD_FLOOR = 1e-3
_LEAST = {"per_sample": 4, "global": 2}
_MIN_MODELS_U_LIRA = 4  # three are left to fit a mean and a variance when the attacked one is taken out


def logit_scaled_confidence(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Logit-scaled confidence :math:`φ = \ln p_y - \ln \sum_{c \ne y} p_c` of the true class.

    Over models it is close to Gaussian, which the posterior itself is not (Carlini et al., "Membership Inference
    Attacks From First Principles", 2022). It is computed from the logits as
    :math:`z_y - \mathrm{logsumexp}_{c \ne y} z_c`, so nothing is lost where the posterior rounds to 1. Published
    code adds 1e-45 inside both logarithms instead; that makes a difference only near its bound of 103.6, to which
    φ is clamped here.

    Args:
        logits: Logits, or logarithms of posteriors, shape ``(..., n, C)`` with at least two classes.
        targets: True classes, shape ``(n,)``, integers in ``[0, C)``.

    Returns:
        φ, shape ``(..., n)`` float64 on the CPU, in ``[-103.6, 103.6]``.

    Raises:
        ValueError: If the shapes do not fit, there is no sample, a target is no class, or a φ is NaN.

    Example:
        >>> import torch
        >>> logit_scaled_confidence(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([0])).exp()
        tensor([2.3333], dtype=torch.float64)
    """
    if logits.ndim < 2 or logits.shape[-1] < 2 or targets.shape != logits.shape[-2:-1] or not len(targets):
        wanted = "(..., samples, 2 or more classes) and targets (samples,), at least one"
        raise ValueError(f"logits must have shape {wanted}, got {shapes(logits, targets)}")
    require_classes("targets", targets)
    classes = logits.shape[-1]
    if not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        found = f"{int(targets.min())} to {int(targets.max())}"
        raise ValueError(f"targets must lie in [0, {classes}), got {found}")
    values = logits.detach().to("cpu", torch.float64)
    places = targets.to("cpu", torch.int64).unsqueeze(-1).expand(*values.shape[:-1], 1)
    own = values.gather(-1, places).squeeze(-1)
    confidence = own - values.scatter(-1, places, -math.inf).logsumexp(-1)
    if bool(confidence.isnan().any()):
        raise ValueError("logits hold NaN or infinite values; look for a model whose training diverged")
    return clamped(confidence)


def clamped(confidence: Tensor) -> Tensor:
    """Return φ within the bound that published code has."""
    return confidence.clamp(-_BOUND, _BOUND)


def lira_scores(
    attacked: Tensor,
    references: Tensor,
    members: Tensor | None = None,
    *,
    variance: Variance = "per_sample",
    centre: Centre = "median",
) -> Tensor:
    r"""Scores of the likelihood ratio attack on one model, or on several.

    With ``members``, online: :math:`\ln N(φ; μ_{in}, σ_{in}) - \ln N(φ; μ_{out}, σ_{out})` (Carlini et al.,
    "Membership Inference Attacks From First Principles", 2022, algorithm 1). Without, offline: all references are
    models that never saw the samples, and the score is :math:`-\ln \Pr[Z > φ]`, Z from N(μ_out, σ_out) (section VI-C;
    the published code takes the density instead, which counts an unusually low φ for membership too).

    The standard deviation is the unbiased estimate about the mean, never below 1e-3. ``"global"`` takes one for all
    samples, from each sample's deviations from its own mean: what the published code calls fixed variance, whose
    single deviation about the mean of *all* samples also contains how different the samples are.

    Args:
        attacked: φ of the attacked model, shape ``(n,)``, or of several, ``(A, n)``.
        references: φ of K reference models on the same samples, shape ``(K, n)``. The attacked model is not among
            them.
        members: Whether a reference was trained with a sample, ``(K, n)`` booleans; ``None`` for the offline attack.
        variance: ``"per_sample"`` fits each sample's own variance and needs at least 4 references in and out of
            it; ``"global"`` needs 2 and is the better choice below about 64.
        centre: ``"median"`` (published code) or ``"mean"`` (the paper) of the references.

    Returns:
        Scores in nats, in the shape of ``attacked``, float64. None is infinite or NaN.

    Raises:
        ValueError: If a shape or an option does not fit, a φ is not finite, or a sample has too few references.

    Example:
        >>> import torch
        >>> references = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0]])
        >>> members = references > 4.5
        >>> lira_scores(torch.tensor([[4.5], [6.5]]), references, members).squeeze(1).tolist()
        [0.0, 4.800000000000001]
    """
    one_of("variance", variance, *_LEAST)
    one_of("centre", centre, "median", "mean")
    values, known = (
        as_scores("attacked", attacked, finite=True),
        as_scores("references", references, finite=True),
    )
    if known.ndim != 2 or values.ndim not in (1, 2) or values.shape[-1] != known.shape[1]:
        wanted = "shape (models, samples) and attacked (samples,) or (models, samples)"
        raise ValueError(f"references must have {wanted}, got {shapes(known, values)}")
    if members is None:
        out = torch.ones_like(known, dtype=torch.bool)
        mean, std = _fit(known, out, variance, centre, "without")
        above: Tensor = torch.special.log_ndtr((mean - values) / std)
        return -above
    inside = members.detach().to("cpu", torch.bool)
    if inside.shape != known.shape:
        raise ValueError(f"members and references must have one shape, got {shapes(inside, known)}")
    trained_with = _log_density(values, *_fit(known, inside, variance, centre, "with"))
    return trained_with - _log_density(values, *_fit(known, ~inside, variance, centre, "without"))


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
    advice = "32 give a usable score"
    u, r = as_populations(unlearned, retrained, "U-LiRA", _MIN_MODELS_U_LIRA, advice)
    of_u = _log_density(u, *_without_one(u)) - _log_density(u, *_with_all(r))
    of_r = _log_density(r, *_with_all(u)) - _log_density(r, *_without_one(r))
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
    return ranked.rates(*(torch.ones(size, dtype=torch.float64) for size in ranked.sizes))


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
    require_resampling(level, resamples)
    ranked = _Ranked(unlearned_scores, retrained_scores)
    found = [ranked.rates(*(_drawn(size, generator) for size in ranked.sizes)) for _ in range(resamples)]
    return {
        name: percentiles(torch.tensor([rates[name] for rates in found], dtype=torch.float64), level)
        for name in found[0]
    }


class _Ranked:
    """All scores in descending order, sorted once, so that a resample is a change of weights."""

    def __init__(self, unlearned: Tensor, retrained: Tensor) -> None:
        of_shape(unlearned_scores=(unlearned, "N samples"), retrained_scores=(retrained, "M samples"))
        as_scores("unlearned_scores", unlearned)
        as_scores("retrained_scores", retrained)
        samples = unlearned.shape[1]
        self.sizes = (len(unlearned), len(retrained), samples)
        scores, order = torch.cat([unlearned, retrained]).double().flatten().sort(descending=True)
        self.model, self.sample = order // samples, order % samples
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
            **{name: float(tpr_at(tpr, fpr, allowed)) for name, allowed in LOW_FPRS.items()},
        }


def _drawn(size: int, generator: torch.Generator) -> Tensor:
    """How often each of ``size`` is drawn in as many draws with replacement."""
    return torch.bincount(torch.randint(size, (size,), generator=generator), minlength=size).double()


def _with_all(scores: Tensor) -> tuple[Tensor, Tensor]:
    return scores.mean(0), scores.std(0).clamp_min(STD_FLOOR)


def _without_one(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the others, for each model: ``(K, n)`` each."""
    k = len(scores)
    deviation = scores - scores.mean(0)  # about the mean, so that large equal scores do not cancel
    mean = scores.mean(0) - deviation / (k - 1)
    squares = (deviation**2).sum(0) - deviation**2 * (k / (k - 1))
    return mean, (squares.clamp_min(0.0) / (k - 2)).sqrt().clamp_min(STD_FLOOR)


def _log_density(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Logarithm of the normal density, element by element; shapes broadcast, ``std`` is above 0."""
    return -0.5 * ((values - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)


def _fit(
    scores: Tensor, chosen: Tensor, variance: Variance, centre: Centre, kind: str
) -> tuple[Tensor, Tensor]:
    """Centre and standard deviation of the chosen scores of each sample, ``(n,)`` each."""
    counts = chosen.sum(0)
    least = _LEAST[variance]
    if len(counts) and int(counts.min()) < least:
        advice = ", or take variance='global', which needs 2" if variance == "per_sample" else ""
        needed = f"at least {least} reference models trained {kind} each sample"
        raise ValueError(
            f"variance={variance!r} needs {needed}, one has {int(counts.min())}; train more{advice}"
        )
    mean = (scores * chosen).sum(0) / counts
    squares = ((scores - mean) ** 2 * chosen).sum(0)
    pooled = variance == "global"
    spread = (squares.sum() / (counts - 1).sum()).expand_as(mean) if pooled else squares / (counts - 1)
    return mean if centre == "mean" else _median(scores, chosen, counts), spread.sqrt().clamp_min(STD_FLOOR)


def _median(scores: Tensor, chosen: Tensor, counts: Tensor) -> Tensor:
    ordered = scores.masked_fill(~chosen, math.inf).sort(0).values
    middle = torch.stack([(counts - 1) // 2, counts // 2])
    return ordered.gather(0, middle).mean(0)
