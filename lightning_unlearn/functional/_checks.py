"""Check class scores, posteriors and populations of scores, and bring them to a dtype that is exact enough."""

import math

import torch
from torch import Tensor

from lightning_unlearn.core.checks import in_range, of_shape, shapes

# Posteriors computed in bfloat16 (8 significant bits) sum to one within 2**-8; anything further off is not a
# posterior.
POSTERIOR_SUM_TOLERANCE = 1e-2


def log_scale(base: float | None) -> float:
    """Return the factor that turns a quantity in nats into units of ``base`` (``None`` means nats)."""
    if base is None:
        return 1.0
    in_range("base", base, "(1, inf)", "; None gives nats")
    return 1.0 / math.log(base)


def as_float(name: str, value: Tensor, dim: int = -1) -> Tensor:
    """Return class scores in at least float32, after checking that they are class scores at all.

    Half precision has too few bits for sums of ``p * log(p)``: bfloat16 keeps three decimal digits.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}; use torch.as_tensor")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}; use .float()")
    if value.ndim == 0 or value.shape[dim] < 2:
        raise ValueError(f"{name} must hold at least two classes along dimension {dim}, got {shapes(value)}")
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def as_float_pair(
    first_name: str, first: Tensor, second_name: str, second: Tensor, dim: int = -1
) -> tuple[Tensor, Tensor]:
    """Return two sets of class scores of equal shape in one common dtype of at least float32."""
    a, b = as_float(first_name, first, dim), as_float(second_name, second, dim)
    if a.shape != b.shape:
        advice = "score the same samples with models of the same number of classes"
        names = f"{first_name} and {second_name}"
        raise ValueError(f"{names} must have the same shape, got {shapes(a, b)}; {advice}")
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def as_posteriors(name: str, value: Tensor) -> Tensor:
    """Return posteriors in at least float32."""
    value = as_float(name, value)
    _require_posteriors(name, value, -1)
    return value


def as_posterior_pair(p: Tensor, q: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Return two sets of posteriors of equal shape in one common dtype of at least float32."""
    p, q = as_float_pair("p", p, "q", q, dim)
    _require_posteriors("p", p, dim)
    _require_posteriors("q", q, dim)
    return p, q


def _require_posteriors(name: str, value: Tensor, dim: int) -> None:
    """Raise ``ValueError`` unless ``value`` is non-negative and sums to one along ``dim``; NaN fails too."""
    values = value.detach()
    sums_to_one = (values.sum(dim) - 1).abs() <= POSTERIOR_SUM_TOLERANCE
    # One reduction and one transfer: on an accelerator every look at a value waits for the device.
    if not bool(((values >= 0).all() & sums_to_one.all()).item()):
        advice = "apply softmax first, or call the function that takes logits"
        raise ValueError(
            f"{name} must hold posteriors, which sum to 1 along {dim}, not logits or NaN: {advice}"
        )


def require_classes(name: str, targets: Tensor) -> None:
    """Raise ``ValueError`` unless targets are integers."""
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(
            f"{name} must be integer class indices, got {targets.dtype}; pass argmax of one-hot labels"
        )


def as_populations(
    unlearned: Tensor, retrained: Tensor, statistic: str, least: int, advice: str, *, finite: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the scores of unlearned and of retrained models on the same samples; see :func:`as_population`."""
    of_shape(unlearned=(unlearned, "N samples"), retrained=(retrained, "M samples"))
    u = as_population("unlearned", unlearned, statistic, least, advice, finite=finite)
    return u, as_population("retrained", retrained, statistic, least, advice, finite=finite)


def as_population(
    name: str, scores: Tensor, statistic: str, least: int, advice: str, *, finite: bool = True
) -> Tensor:
    """Return the scores of many models, ``(models, samples)``, on the CPU in float64.

    Raises:
        ValueError: If the shape does not fit, there are fewer than ``least`` models, or a score is NaN or, where
            it must be ``finite``, infinite.
    """
    of_shape(**{name: (scores, "models samples")})
    if len(scores) < least:
        needed = f"{statistic} needs at least {least} of each kind"
        raise ValueError(f"{name} holds {len(scores)} models, and {needed}; {advice}")
    return as_scores(name, scores, finite=finite)


def as_scores(name: str, scores: Tensor, *, finite: bool = False) -> Tensor:
    """Return scores of any shape on the CPU in float64; refuse NaN and, where they must be ``finite``, infinity."""
    scores = scores.detach().to("cpu", torch.float64)
    if bool((~scores.isfinite() if finite else scores.isnan()).any()):
        what = "values that are not finite" if finite else "NaN"
        raise ValueError(
            f"{name} holds {what}; take φ from logit_scaled_confidence, and look for a NaN logit"
        )
    return scores


def require_resampling(level: float, resamples: int) -> None:
    """Check the arguments of a bootstrap."""
    in_range("level", level, "(0, 1)", "; for 95% pass 0.95")
    in_range("resamples", resamples, "[2, inf)", "; 1000 is usual", whole=True)
