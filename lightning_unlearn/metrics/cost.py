"""What forgetting cost, and what remembering again would: acceleration and relearn time."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_unlearn.core.checks import in_range, shapes
from lightning_unlearn.functional import acceleration


class Acceleration(Metric):
    """How many times faster a method is than retraining; times of several runs add up.

    ``update`` takes the seconds of the method and of retraining, all that either needed included. Ranks work at
    the same time, so the slowest one's seconds count. ``compute`` returns a scalar above 0, see
    :func:`~lightning_unlearn.functional.acceleration` (Zuo et al., section IV-B c).

    Args:
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = Acceleration()
        >>> metric.update(2.0, 32.0)
        >>> metric.compute()
        tensor(16.)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    method_seconds: Tensor
    retrain_seconds: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("method_seconds", "retrain_seconds"):
            self.add_state(state, torch.zeros(()), dist_reduce_fx="max")

    def update(self, method_seconds: float, retrain_seconds: float) -> None:
        """Add the times of one run.

        Raises:
            ValueError: If a time is not a finite number above 0.
        """
        acceleration(retrain_seconds, method_seconds)  # checks both
        self.method_seconds = self.method_seconds + method_seconds
        self.retrain_seconds = self.retrain_seconds + retrain_seconds

    def compute(self) -> Tensor:
        """Ratio of the sums.

        Raises:
            ValueError: If no run was added.
        """
        if not self.method_seconds:
            raise ValueError("Acceleration has seen no run; call update with its seconds first")
        ratio = acceleration(float(self.retrain_seconds), float(self.method_seconds))
        return torch.tensor(ratio, dtype=torch.float32, device=self.method_seconds.device)


class RelearnTime(Metric):
    """Steps of training on D_f until its loss is at most a target; what :func:`relearn_time` counts, step by step.

    ``update`` takes the mean loss on D_f, a scalar, the same on every rank: once before the first step and once after
    each. ``compute`` returns a scalar: the number of steps, infinite as long as the target is not reached.

    Args:
        target: The loss to reach, such as :func:`~lightning_unlearn.functional.relearn_target` gives.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If the target is not finite.

    Example:
        >>> import torch
        >>> metric = RelearnTime(target=0.5)
        >>> for loss in (2.0, 1.0, 0.4):
        ...     metric.update(torch.tensor(loss))
        >>> metric.compute()
        tensor(2.)
    """

    is_differentiable = False
    full_state_update = False

    losses: Tensor
    steps: Tensor
    spoilt: Tensor

    def __init__(self, target: float, **kwargs: Any) -> None:
        in_range("target", target, "(-inf, inf)")
        super().__init__(**kwargs)
        self.target = target
        self.add_state("losses", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")
        self.add_state("steps", torch.tensor(math.inf), dist_reduce_fx="max")
        self.add_state("spoilt", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, loss: Tensor) -> None:
        """Take the loss after one more step; the first is the one before any.

        Raises:
            ValueError: If it is not one number.
        """
        if loss.numel() != 1:
            raise ValueError(f"loss must be one number, the mean over D_f, got shape {shapes(loss)}")
        loss = loss.detach().reshape(())
        # on the device throughout: asking for the value would wait for it at every step
        reached = torch.isinf(self.steps) & (loss <= self.target)
        self.steps = torch.where(reached, self.losses.to(self.steps.dtype), self.steps)
        self.losses = self.losses + 1
        self.spoilt = torch.maximum(self.spoilt, loss.isnan().to(self.spoilt))

    def compute(self) -> Tensor:
        """Steps until the target, infinite if it was not reached.

        Raises:
            ValueError: If there was no loss, or one was NaN.
        """
        if not self.losses:
            raise ValueError("RelearnTime has seen no loss; call update(loss) first")
        if self.spoilt:
            raise ValueError(
                "RelearnTime has seen NaN, which reaches no target; relearn with a smaller learning rate"
            )
        return self.steps
