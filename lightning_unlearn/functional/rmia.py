"""Robust membership inference attack (RMIA): is a sample likelier under the model than random others are?

Everything is computed on the CPU in float64, from logarithms, so that no posterior is too small.
"""

import math

import torch
from torch import Tensor

__all__ = ["rmia_scores"]


def rmia_scores(
    attacked: Tensor,
    references: Tensor,
    population_attacked: Tensor,
    population_references: Tensor,
    *,
    gamma: float = 1.0,
    offline: float | None = 0.3,
) -> Tensor:
    r"""Share of a population that each sample dominates.

    With :math:`\Pr(x \mid θ)` the attacked model's posterior of the true class, a sample's ratio is
    :math:`\Pr(x \mid θ) / \Pr(x)`, and its score the share of the population's samples z for which

    .. math:: \frac{\Pr(x \mid θ)}{\Pr(x)} \cdot \Big(\frac{\Pr(z \mid θ)}{\Pr(z)}\Big)^{-1} > γ

    (Zarifzadeh, Liu & Shokri, "Low-Cost High-Power Membership Inference Attacks", 2024). To test
    unlearning, references are models that never saw the sample, or ones that were trained with other samples and
    unlearned those, so that what unlearning does to a model anyhow is not taken for memory.

    Args:
        attacked: Logarithms of the attacked model's posteriors of the true class, shape ``(n,)``.
        references: The same of K reference models, ``(K, n)``, K >= 1.
        population_attacked: Logarithms of the attacked model's posteriors on the population, ``(Z,)``: samples like
            the attacked ones that no model was trained on.
        population_references: The same of the reference models, ``(K, Z)``.
        gamma: γ, above 0; how far a sample must dominate another.
        offline: Share ``a`` in ``[0, 1]`` with which the posterior of models trained with the sample is guessed
            from that of models trained without: :math:`\Pr(x) = ½ ((1 + a) \bar p_{out}(x) + 1 - a)`. All references
            must then be without it. ``None`` takes the mean of all references instead, half of which should have
            been trained with each sample.

    Returns:
        Scores, shape ``(n,)`` float64, in ``[0, 1]``; higher for "was trained on".

    Raises:
        ValueError: If a shape or an option does not fit, or a value is no logarithm of a posterior.

    Example:
        >>> import torch
        >>> scores = rmia_scores(
        ...     torch.tensor([0.9, 0.2]).log(), torch.tensor([[0.3, 0.2]]).log(),
        ...     torch.tensor([0.3, 0.4]).log(), torch.tensor([[0.3, 0.3]]).log())
        >>> scores.tolist()
        [1.0, 0.0]
    """
    if not (math.isfinite(gamma) and gamma > 0):
        raise ValueError(f"gamma must be a finite number above 0, got {gamma}; 1 or 2 are usual")
    if offline is not None and not 0.0 <= offline <= 1.0:
        raise ValueError(f"offline must lie in [0, 1] or be None, got {offline}; 0.3 is usual")
    ratios = _log_ratio("attacked", attacked, "references", references, offline)
    population = _log_ratio(
        "population_attacked", population_attacked, "population_references", population_references, offline
    )
    if not len(population):
        raise ValueError("population_attacked must hold at least one sample; give the data a larger test set")
    below = torch.searchsorted(population.sort().values, ratios - math.log(gamma))
    return below.double() / len(population)


def _log_ratio(name: str, own: Tensor, others_name: str, others: Tensor, offline: float | None) -> Tensor:
    own, others = own.detach().to("cpu", torch.float64), others.detach().to("cpu", torch.float64)
    if own.ndim != 1 or others.ndim != 2 or others.shape[1] != len(own) or not len(others):
        raise ValueError(
            f"{name} must have shape (samples,) and {others_name} (models, samples) with at least one model, got "
            f"{tuple(own.shape)} and {tuple(others.shape)}"
        )
    if not bool((own <= 0).all() and (others <= 0).all()):
        raise ValueError(
            f"{name} and {others_name} must be logarithms of posteriors, none above 0 or NaN; apply log_softmax"
        )
    average = others.logsumexp(0) - math.log(len(others))
    if offline is not None:
        # a = 1 leaves no constant, whose logarithm is then -inf and adds nothing
        constant = average.new_tensor((1 - offline) / 2).log()
        average = torch.logaddexp(average + math.log((1 + offline) / 2), constant)
    # a posterior below float64's smallest number is taken for that number
    least = math.log(torch.finfo(torch.float64).tiny)
    return own.clamp_min(least) - average.clamp_min(least)
