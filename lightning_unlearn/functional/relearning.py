"""Relearn time from a curve of losses. Plain numbers in and out."""

import math
from collections.abc import Sequence


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
    if not (math.isfinite(source_loss) and source_loss >= 0):
        raise ValueError(f"source_loss must be finite and not negative, got {source_loss}")
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin must be finite and not negative, got {margin}; 0.1 is a tenth of the loss")
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
        ValueError: If there is no loss.

    Example:
        >>> relearn_time([2.0, 1.0, 0.4, 0.6], target=0.5)
        2
        >>> relearn_time([2.0, 1.0], target=0.5) is None
        True
    """
    if not losses:
        raise ValueError("losses is empty; give at least the loss before the first step")
    return next((step for step, loss in enumerate(losses) if loss <= target), None)
