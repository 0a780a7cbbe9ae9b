"""Ratios and intervals from accuracies, times and repetitions, and relearn times from curves of losses.

A quotient that is not defined raises ``ValueError`` instead of returning NaN: a metric that cannot be
measured is left out of the report, never written as a number.
"""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from lightning_unlearn.core.checks import in_range

__all__ = [
    "acceleration",
    "confidence_interval",
    "epochs_needed",
    "forgetting_rate",
    "memory_retention_rate",
    "relearn_target",
    "relearn_time",
]


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
    _require_known_forget_set("before", before)
    in_range("after", after, "[0, 1]")
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
    in_range("retain_after", retain_after, "[0, 1]")
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
    in_range("retrain_seconds", retrain_seconds, "(0, inf)")
    in_range("method_seconds", method_seconds, "(0, inf)")
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
    in_range("level", level, "(0, 1)", "; for 95% pass 0.95")
    for value in values:
        in_range("values", value, "(-inf, inf)", "; leave out what was not measured")
    n = len(values)
    if n < 2:
        return None
    from scipy.stats import t

    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half_width = float(t.ppf((1.0 + level) / 2, n - 1)) * math.sqrt(variance / n)
    return mean - half_width, mean + half_width


def epochs_needed(accuracies: Sequence[float], samples: int) -> int:
    """Return after how many epochs a training was about as good as it ever got.

    Args:
        accuracies: Validation accuracy in [0, 1] before training and after each epoch.
        samples: How many samples each was measured on, >= 1.

    Returns:
        The first epoch within one binomial standard error of the best accuracy.

    Raises:
        ValueError: If there is no accuracy, or no sample.

    Example:
        >>> epochs_needed([0.1, 0.70, 0.89, 0.90, 0.91], samples=100)
        2
    """
    if not accuracies or samples < 1:
        raise ValueError(f"accuracies and samples must not be empty, got {accuracies} and {samples}")
    best = max(accuracies)
    least = best - math.sqrt(best * (1 - best) / samples)
    return next(epoch for epoch, accuracy in enumerate(accuracies) if accuracy >= least)


def percentiles(values: Tensor, level: float, *, nearest: bool = False) -> tuple[float, float]:
    """Bounds of the middle ``level`` of resampled values, shape ``(resamples,)``, between two of them or one itself."""
    between: Literal["nearest", "linear"] = "nearest" if nearest else "linear"
    tails = values.new_tensor([(1.0 - level) / 2, (1.0 + level) / 2])
    low, high = values.quantile(tails, interpolation=between).tolist()
    return low, high


def relearn_target(source_loss: float, margin: float = 0.1) -> float:
    """Loss on D_f at which it counts as learned again: the source model's, and a margin above it.

    Args:
        source_loss: Mean loss of the source model on D_f, finite and not negative.
        margin: How far above it still counts, as a fraction of it, at least 0.

    Returns:
        ``(1 + margin) * source_loss``.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> relearn_target(0.5, margin=0.5)
        0.75
    """
    in_range("source_loss", source_loss, "[0, inf)")
    in_range("margin", margin, "[0, inf)", "; 0.1 is a tenth of the loss")
    return (1 + margin) * source_loss


def relearn_time(losses: Sequence[float], target: float) -> int | None:
    """Steps until the loss on D_f is first at most the target.

    Golatkar et al., "Eternal sunshine of the spotless net", 2020, section 6: a model that kept traces of D_f
    learns it again in fewer steps than one that never saw it.

    Args:
        losses: Mean loss on D_f before the first step and after each.
        target: The loss to reach.

    Returns:
        The number of steps, 0 if the first loss will do; None if no loss does.

    Raises:
        ValueError: If there is no loss, or one is NaN.

    Example:
        >>> relearn_time([2.0, 1.0, 0.4, 0.6], target=0.5)
        2
        >>> relearn_time([2.0, 1.0], target=0.5) is None
        True
    """
    if not losses:
        raise ValueError("losses is empty; give at least the loss before the first step")
    if any(math.isnan(loss) for loss in losses):
        raise ValueError("losses holds NaN, which reaches no target; relearn with a smaller learning rate")
    return next((step for step, loss in enumerate(losses) if loss <= target), None)


def _require_known_forget_set(name: str, accuracy: float) -> None:
    in_range(name, accuracy, "[0, 1]")
    if accuracy == 0:
        raise ValueError(
            f"{name} is 0: the source model gets no sample of the forget set right, so a rate relative "
            "to it is undefined; check that the source model and the labels of the forget set belong together"
        )
