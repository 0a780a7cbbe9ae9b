"""Robust membership inference attack (RMIA): is a sample likelier under the model than random others are?

Everything is computed on the CPU in float64, from logarithms, so that no posterior is too small.
"""

import math

import torch
from torch import Tensor

from lightning_unlearn.core.checks import in_range, of_shape
from lightning_unlearn.functional._checks import as_population

__all__ = ["rmia_scores", "rmia_unlearned_scores"]

_GAMMA_HINT = "; 1 or 2 are usual"
_MIN_MODELS = 2  # one is left as a reference when the attacked one is taken out
# a posterior below float64's smallest number is taken for that number
_LEAST = math.log(torch.finfo(torch.float64).tiny)


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

    (Zarifzadeh, Liu & Shokri, "Low-Cost High-Power Membership Inference Attacks", 2024). With references that were
    unlearned themselves, the attack is :func:`rmia_unlearned_scores`.

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
    in_range("gamma", gamma, "(0, inf)", _GAMMA_HINT)
    in_range("offline", offline, "[0, 1]", "; 0.3 is usual, None takes the mean of all references", none=True)
    of_shape(
        attacked=(attacked, "n"),
        references=(references, "K n"),
        population_attacked=(population_attacked, "Z"),
        population_references=(population_references, "K Z"),
    )
    ratios = _log_ratio("attacked", attacked, "references", references, offline)
    population = _log_ratio(
        "population_attacked", population_attacked, "population_references", population_references, offline
    )
    below = torch.searchsorted(population.sort().values, ratios - math.log(gamma))
    return below.double() / len(population)


def rmia_unlearned_scores(
    unlearned: Tensor,
    retrained: Tensor,
    population_unlearned: Tensor,
    population_retrained: Tensor,
    *,
    gamma: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""RMIA with references that were unlearned, on each model of both kinds, the attacked one left out.

    The scores are those of :func:`rmia_scores` in its online form, whose references were trained with the sample for
    one half and without it for the other. Here the first half are models that were trained with it and unlearned it,
    as U-LiRA's are, so that what unlearning does to a model anyhow is not taken for memory:

    .. math:: \Pr(x) = ½ \big(\bar p_{unlearned}(x) + \bar p_{retrained}(x)\big)

    Every model is attacked and left out of the mean of its own kind; both kinds keep their weight of one half. The
    population's samples are in no model's training set, and their :math:`\Pr(z)` is the same mean.

    Args:
        unlearned: Logarithms of the posteriors of the true class under N models that were trained with the attacked
            samples and unlearned them, shape ``(N, n)``, N >= 2.
        retrained: The same of M models that never saw the samples, ``(M, n)``, M >= 2.
        population_unlearned: The same of the N unlearned models on the population, ``(N, Z)``.
        population_retrained: The same of the M retrained models, ``(M, Z)``.
        gamma: γ, above 0; how far a sample must dominate another.

    Returns:
        Scores of the unlearned models, ``(N, n)``, and of the retrained ones, ``(M, n)``, float64, in ``[0, 1]``;
        higher for "was trained on".

    Raises:
        ValueError: If a shape or ``gamma`` does not fit, there are fewer than 2 models of a kind or no population, or
            a value is no logarithm of a posterior.

    Example:
        >>> import torch
        >>> ours, theirs = rmia_unlearned_scores(
        ...     torch.tensor([[0.9], [0.8]]).log(), torch.tensor([[0.2], [0.3]]).log(),
        ...     torch.full((2, 4), 0.5).log(), torch.full((2, 4), 0.5).log())
        >>> ours.squeeze(1).tolist(), theirs.squeeze(1).tolist()
        ([1.0, 1.0], [0.0, 0.0])
    """
    in_range("gamma", gamma, "(0, inf)", _GAMMA_HINT)
    of_shape(
        unlearned=(unlearned, "N n"),
        retrained=(retrained, "M n"),
        population_unlearned=(population_unlearned, "N Z"),
        population_retrained=(population_retrained, "M Z"),
    )
    kinds = [
        _joined("unlearned", unlearned, "population_unlearned", population_unlearned),
        _joined("retrained", retrained, "population_retrained", population_retrained),
    ]
    samples = unlearned.shape[1]
    scores = []
    for own, others in (kinds, kinds[::-1]):
        average = torch.logaddexp(_log_mean_of_others(own), _log_mean(others)) - math.log(2)
        ratios = own - average
        population = ratios[:, samples:].sort(dim=1).values
        below = torch.searchsorted(population, ratios[:, :samples] - math.log(gamma))
        scores.append(below.double() / population.shape[1])
    return scores[0], scores[1]


def _joined(name: str, attacked: Tensor, population_name: str, population: Tensor) -> Tensor:
    """Return a kind's logarithms on the attacked samples and the population behind them, ``(models, n + Z)``."""
    parts = [
        as_population(each, values, "RMIA with unlearned references", _MIN_MODELS, "64 give a usable score")
        for each, values in ((name, attacked), (population_name, population))
    ]
    _require_logarithms(name, population_name, *parts)
    return torch.cat(parts, dim=1).clamp_min(_LEAST)


def _require_logarithms(name: str, other_name: str, *parts: Tensor) -> None:
    if not all(bool((part <= 0).all()) for part in parts):
        wanted = "logarithms of posteriors, none above 0 or NaN"
        raise ValueError(f"{name} and {other_name} must be {wanted}; apply log_softmax")


def _log_mean(values: Tensor) -> Tensor:
    return values.logsumexp(0) - math.log(len(values))


def _log_mean_of_others(values: Tensor) -> Tensor:
    """Logarithm of the mean over all models but one, for each of them, ``(models, samples)``.

    It is put together of the sums before and behind the one: taking it off the whole sum would lose the rest where it
    is much the largest.
    """
    none = values.new_full((1, values.shape[1]), -math.inf)
    before = torch.cat([none, values[:-1].logcumsumexp(0)])
    behind = torch.cat([values[1:].flip(0).logcumsumexp(0).flip(0), none])
    return torch.logaddexp(before, behind) - math.log(len(values) - 1)


def _log_ratio(name: str, own: Tensor, others_name: str, others: Tensor, offline: float | None) -> Tensor:
    own, others = own.detach().to("cpu", torch.float64), others.detach().to("cpu", torch.float64)
    _require_logarithms(name, others_name, own, others)
    average = _log_mean(others)
    if offline is not None:
        # a = 1 leaves no constant, whose logarithm is then -inf and adds nothing
        constant = average.new_tensor((1 - offline) / 2).log()
        average = torch.logaddexp(average + math.log((1 + offline) / 2), constant)
    return own.clamp_min(_LEAST) - average.clamp_min(_LEAST)
