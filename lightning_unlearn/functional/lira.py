"""Likelihood ratio attack (LiRA): does a sample's confidence look like that of models trained with it, or without?

All scores are computed on the CPU in float64 and are higher for "was trained on".
"""

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["gaussian_log_density", "lira_scores", "logit_scaled_confidence"]

Variance = Literal["per_sample", "global"]
Centre = Literal["median", "mean"]

# The competition and tensorflow-privacy add 1e-45 inside both logarithms, so that theirs ends near this too.
_BOUND = -math.log(1e-45)
# Standard deviations below this are taken for it: models that all agree would else divide by zero. In units of φ,
# of which float32 logits resolve about 1e-6.
STD_FLOOR = 1e-3
_LEAST = {"per_sample": 4, "global": 2}


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
        ValueError: If the shapes do not fit, a target is no class, or a φ is NaN.

    Example:
        >>> import torch
        >>> logit_scaled_confidence(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([0])).exp()
        tensor([2.3333], dtype=torch.float64)
    """
    if logits.ndim < 2 or logits.shape[-1] < 2:
        raise ValueError(
            f"logits must have shape (..., samples, classes) with at least 2 classes, got {tuple(logits.shape)}"
        )
    if targets.shape != logits.shape[-2:-1]:
        raise ValueError(
            f"targets must hold one class a sample, shape ({logits.shape[-2]},), got {tuple(targets.shape)}"
        )
    classes = logits.shape[-1]
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise ValueError(
            f"targets must lie in [0, {classes}), got {int(targets.min())} to {int(targets.max())}"
        )
    values = logits.detach().to("cpu", torch.float64)
    places = targets.to("cpu", torch.int64).unsqueeze(-1).expand(*values.shape[:-1], 1)
    own = values.gather(-1, places).squeeze(-1)
    confidence = own - values.scatter(-1, places, -math.inf).logsumexp(-1)
    if bool(confidence.isnan().any()):
        raise ValueError("logits hold NaN or infinite values; look for a model whose training diverged")
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
    if variance not in _LEAST:
        raise ValueError(f"variance must be 'per_sample' or 'global', got {variance!r}")
    if centre not in ("median", "mean"):
        raise ValueError(f"centre must be 'median' or 'mean', got {centre!r}")
    values, known = _finite("attacked", attacked), _finite("references", references)
    if known.ndim != 2 or values.ndim not in (1, 2) or values.shape[-1] != known.shape[1]:
        raise ValueError(
            "references must have shape (models, samples) and attacked (samples,) or (models, samples), got "
            f"{tuple(known.shape)} and {tuple(values.shape)}"
        )
    if members is None:
        out = torch.ones_like(known, dtype=torch.bool)
        mean, std = _fit(known, out, variance, centre, "without")
        above: Tensor = torch.special.log_ndtr((mean - values) / std)
        return -above
    inside = members.detach().to("cpu", torch.bool)
    if inside.shape != known.shape:
        raise ValueError(
            f"members must have the shape of references, {tuple(known.shape)}, got {tuple(inside.shape)}"
        )
    trained_with = gaussian_log_density(values, *_fit(known, inside, variance, centre, "with"))
    return trained_with - gaussian_log_density(values, *_fit(known, ~inside, variance, centre, "without"))


def gaussian_log_density(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Logarithm of the normal density, element by element; shapes broadcast, ``std`` is above 0.

    Example:
        >>> import torch
        >>> round(float(gaussian_log_density(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0))), 4)
        -0.9189
    """
    return -0.5 * ((values - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)


def _fit(
    scores: Tensor, chosen: Tensor, variance: Variance, centre: Centre, kind: str
) -> tuple[Tensor, Tensor]:
    """Centre and standard deviation of the chosen scores of each sample, ``(n,)`` each."""
    counts = chosen.sum(0)
    least = _LEAST[variance]
    if len(counts) and int(counts.min()) < least:
        advice = ", or take variance='global', which needs 2" if variance == "per_sample" else ""
        raise ValueError(
            f"variance={variance!r} needs at least {least} reference models trained {kind} each sample, and a sample "
            f"has {int(counts.min())}; train more{advice}"
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


def _finite(name: str, scores: Tensor) -> Tensor:
    scores = scores.detach().to("cpu", torch.float64)
    if not bool(scores.isfinite().all()):
        raise ValueError(f"{name} holds values that are not finite; take φ from logit_scaled_confidence")
    return scores
