"""Ratios and intervals from accuracies, times and repetitions. Plain numbers in and out, no tensors.

A quotient that is not defined raises ``ValueError`` instead of returning NaN: a metric that cannot be
measured is left out of the report, never written as a number.
"""

import math
from collections.abc import Sequence

from lightning_unlearn.functional._checks import require_level, require_positive_finite, require_unit_interval


def forgetting_rate(before: float, after: float) -> float:
    """Share of the accuracy on D_f that unlearning removed: ``(before - after) / before``.

    Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", eq. 17. It is
    relative to the source model; what to aim at is the retrained model's value, not the largest one.

    Args:
        before: Accuracy of the source model on D_f, in ``(0, 1]``.
        after: Accuracy of the unlearned model on D_f, in ``[0, 1]``.

    Returns:
        The rate, at most 1; negative if the accuracy rose.

    Raises:
        ValueError: If an accuracy is out of range or ``before`` is 0.

    Example:
        >>> forgetting_rate(1.0, 0.75)
        0.25
    """
    require_unit_interval("before", before)
    require_unit_interval("after", after)
    _require_known_forget_set("before", before)
    return (before - after) / before


def memory_retention_rate(retain_after: float, forget_before: float) -> float:
    """Accuracy on D_r after unlearning over the source model's on D_f: ``retain_after / forget_before``.

    Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", eq. 18. The
    denominator is the one of eq. 17, the source model on the *forget* set; the two sets are equally well
    known to the source model where D_f is a random part of its training data, and only there is the rate a
    retention.

    Args:
        retain_after: Accuracy of the unlearned model on D_r, in ``[0, 1]``.
        forget_before: Accuracy of the source model on D_f, in ``(0, 1]``.

    Returns:
        The rate, not negative; it can exceed 1.

    Raises:
        ValueError: If an accuracy is out of range or ``forget_before`` is 0.

    Example:
        >>> memory_retention_rate(0.9, 1.0)
        0.9
    """
    require_unit_interval("retain_after", retain_after)
    require_unit_interval("forget_before", forget_before)
    _require_known_forget_set("forget_before", forget_before)
    return retain_after / forget_before


def acceleration(retrain_seconds: float, method_seconds: float) -> float:
    """How many times faster a method is than retraining, all preparation of both counted.

    Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", section IV-B c.

    Args:
        retrain_seconds: Total wall-clock time of retraining, above 0.
        method_seconds: Total wall-clock time of the method, above 0.

    Returns:
        The ratio; above 1 the method is faster.

    Raises:
        ValueError: If a time is not a finite number above 0.

    Example:
        >>> acceleration(30.0, 2.0)
        15.0
    """
    require_positive_finite("retrain_seconds", retrain_seconds)
    require_positive_finite("method_seconds", method_seconds)
    return retrain_seconds / method_seconds


def confidence_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student-t confidence interval of the mean of independent repetitions (seeds).

    Args:
        values: One finite number a repetition.
        level: Coverage, strictly between 0 and 1.

    Returns:
        Lower and upper bound, or ``None`` for fewer than two values, which say nothing about spread.

    Raises:
        ValueError: If ``level`` is out of range or a value is not finite.

    Example:
        >>> low, high = confidence_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    require_level(level)
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"values must be finite, got {value}; leave out what was not measured")
    n = len(values)
    if n < 2:
        return None
    from scipy.stats import t

    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half_width = float(t.ppf((1.0 + level) / 2, n - 1)) * math.sqrt(variance / n)
    return mean - half_width, mean + half_width


def _require_known_forget_set(name: str, accuracy: float) -> None:
    if accuracy == 0:
        raise ValueError(
            f"{name} is 0: the source model gets no sample of the forget set right, so a rate relative "
            "to it is undefined; check that the source model and the labels of the forget set belong together"
        )
