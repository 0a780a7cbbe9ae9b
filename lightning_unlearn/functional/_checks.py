"""Argument checks that several topics of this room share; no mathematics lives here."""

import math

import torch
from torch import Tensor

# Posteriors computed in bfloat16 (8 significant bits) sum to one within 2**-8; anything further off is not a
# posterior.
POSTERIOR_SUM_TOLERANCE = 1e-2


def require_unit_interval(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``0 <= value <= 1``."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value}; choose a value in that range")


def require_level(level: float) -> None:
    """Raise ``ValueError`` unless ``level`` is a confidence level strictly between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}; for 95% pass 0.95")


def require_positive_finite(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is finite and greater than zero."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number greater than 0, got {value}")


def log_scale(base: float | None) -> float:
    """Return the factor that turns a quantity in nats into units of ``base`` (``None`` means nats)."""
    if base is None:
        return 1.0
    if not (math.isfinite(base) and base > 1):
        raise ValueError(f"base must be a finite number greater than 1, or None for nats, got {base}")
    return 1.0 / math.log(base)


def as_float(name: str, value: Tensor, dim: int = -1) -> Tensor:
    """Return class scores in at least float32, after checking that they are class scores at all.

    Half precision has too few bits for sums of ``p * log(p)``: bfloat16 keeps three decimal digits.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}; wrap it in torch.as_tensor"
        )
    if not value.is_floating_point():
        raise TypeError(
            f"{name} must be a floating-point tensor, got {value.dtype}; convert it with .float()"
        )
    if value.ndim == 0 or value.shape[dim] < 2:
        raise ValueError(
            f"{name} must hold at least two classes along dimension {dim}, got shape {tuple(value.shape)}; "
            "pass one score per class"
        )
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def as_float_pair(
    first_name: str, first: Tensor, second_name: str, second: Tensor, dim: int = -1
) -> tuple[Tensor, Tensor]:
    """Return two sets of class scores of equal shape in one common dtype of at least float32."""
    a, b = as_float(first_name, first, dim), as_float(second_name, second, dim)
    if a.shape != b.shape:
        raise ValueError(
            f"{first_name} and {second_name} must have the same shape, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}; "
            "score the same samples with models of the same number of classes"
        )
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def require_posteriors(name: str, value: Tensor, dim: int = -1) -> None:
    """Raise ``ValueError`` unless ``value`` is non-negative and sums to one along ``dim``; NaN fails too."""
    values = value.detach()
    sums_to_one = (values.sum(dim) - 1).abs() <= POSTERIOR_SUM_TOLERANCE
    # One reduction and one transfer: on an accelerator every look at a value waits for the device.
    if not bool(((values >= 0).all() & sums_to_one.all()).item()):
        raise ValueError(
            f"{name} must hold posteriors, that is non-negative values that sum to 1 along dimension {dim}; "
            "found others (logits or NaN?): apply softmax first, or call the function that takes logits"
        )


def as_population(name: str, scores: Tensor, statistic: str, least: int, advice: str) -> Tensor:
    """Return the scores of many models, ``(models, samples)``, on the CPU in float64.

    Infinite scores are let through and NaN is not: which of them a statistic can take it says itself.

    Raises:
        ValueError: If the shape does not fit, there are fewer than ``least`` models, or a score is NaN.
    """
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(
            f"{name} must be one score a model and sample, shape (models, samples), got {tuple(scores.shape)}"
        )
    if len(scores) < least:
        raise ValueError(
            f"{name} holds {len(scores)} models, and {statistic} needs at least {least} of each kind; {advice}"
        )
    scores = scores.detach().to("cpu", torch.float64)
    if bool(scores.isnan().any()):
        raise ValueError(f"{name} holds values that are not finite: NaN; look for a NaN logit")
    return scores


def require_finite_scores(name: str, scores: Tensor) -> None:
    """Raise ``ValueError`` if a score of a population is infinite."""
    if bool(scores.isinf().any()):
        raise ValueError(
            f"{name} holds values that are not finite; use logit_scaled_confidence, which bounds what saturates"
        )
