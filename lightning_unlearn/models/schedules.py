"""Learning rates over the steps of a fit, however many these are."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim.lr_scheduler import LRScheduler

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.functional import annealed


class Annealed(LRScheduler):
    """Warms the rate up, then lets it fall linearly to almost nothing, in shares of all steps of the fit.

    A method, and a :class:`~lightning_unlearn.models.Classifier`, tells it how many steps there are and steps it after
    each: ``lr_scheduler: {class_path: lightning_unlearn.models.Annealed, init_args: {warm_up: 0.1}}``.

    Args:
        optimizer: The optimizer, at its peak rate.
        warm_up: Share of the steps in which the rate rises, in [0, 1).
        end: Share of the peak that is left at the last step, in [0, 1].

    Raises:
        ValueError: If an argument is outside its range, or it is stepped without knowing how many steps there are.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule, rates = Annealed(optimizer, end=0.0), []
        >>> schedule.over(5)
        >>> for _ in range(5):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 2))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def __init__(self, optimizer: torch.optim.Optimizer, warm_up: float = 0.2, end: float = 0.02) -> None:
        in_range("warm_up", warm_up, "[0, 1)", ": a share of the steps")
        in_range("end", end, "[0, 1]", ": a share of the peak")
        self.warm_up = warm_up
        self.end = end
        self.steps: int | None = None
        super().__init__(optimizer)

    def over(self, steps: int) -> None:
        """Spread it over this many steps."""
        self.steps = steps
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where it was; of a fit that goes on for longer, over all of its steps."""
        super().load_state_dict({**state_dict, "steps": self.steps or state_dict["steps"]})
        if self.steps is not None:
            self.over(self.steps)

    def get_lr(self) -> list[Any]:
        """Return the rates of the step that comes next."""
        if self.steps is None and self.last_epoch:
            raise ValueError(
                "lr_scheduler: Annealed goes by a fit's steps, which nobody told it here; give a schedule by epochs, "
                "such as torch.optim.lr_scheduler.CosineAnnealingLR"
            )
        steps = self.steps or 1
        share = annealed(self.last_epoch, steps, warm_up=self.warm_up, end=self.end)
        return [rate * share for rate in self.base_lrs]


def scheduled(
    optimizer: torch.optim.Optimizer, lr_scheduler: LRSchedulerCallable | None, steps: Callable[[], int]
) -> OptimizerLRScheduler:
    """Return an optimizer with its schedule, if there is one, as Lightning takes them.

    Args:
        optimizer: The optimizer.
        lr_scheduler: Makes the schedule, which is stepped once an epoch, an :class:`Annealed` one at each step.
        steps: Returns how many steps the fit has.
    """
    if lr_scheduler is None:
        return optimizer
    config: dict[str, Any] = {"scheduler": lr_scheduler(optimizer)}
    if isinstance(config["scheduler"], Annealed):
        config["scheduler"].over(steps())
        config["interval"] = "step"
    if monitor := getattr(config["scheduler"], "monitor", None):
        config["monitor"] = monitor
    return {"optimizer": optimizer, "lr_scheduler": config}  # type: ignore[return-value]
