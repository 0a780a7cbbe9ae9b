"""Retraining as a control: once more with another seed, and for a small part of its steps."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L

from lightning_unlearn.comparison.runs import MethodRun
from lightning_unlearn.core.files import write_json_atomic
from lightning_unlearn.functional import annealed

SHARES = (0.025, 0.05, 0.1, 0.2)
"""Parts of the retraining's steps that a short retraining takes, unless others are asked for."""
_LENGTHS = ("min_epochs", "max_steps", "min_steps")
_MOST_CHANGES = 1000


def short_name(share: float) -> str:
    """Return what a short retraining is called.

    Example:
        >>> short_name(0.025)
        'retrain_2.5pct'
    """
    return f"retrain_{100 * share:g}pct"


class RatesRecorder(L.Callback):
    """Writes how many steps a training took and the learning rates in them to a JSON file.

    Args:
        path: The file; ``steps``, and for each parameter group in ``rates`` the steps that changed its rate, with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rates: list[list[tuple[int, float]]] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Note the rates that have changed."""
        groups = _groups(trainer)
        self.rates += [[] for _ in groups[len(self.rates) :]]  # some are added while it trains
        for changes, group in zip(self.rates, groups, strict=True):
            rate = float(group["lr"] or 0.0)  # an optimizer may choose its own
            if not changes or changes[-1][1] != rate:
                changes.append((trainer.global_step, rate))
            if len(changes) > 2 * _MOST_CHANGES:  # a rate of every step's own
                changes[:] = [*changes[:-1:2], changes[-1]]

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file, on the first rank."""
        if trainer.is_global_zero:
            write_json_atomic(self.path, {"steps": trainer.global_step, "rates": self.rates})


@dataclass
class Rates(L.Callback):
    """Trains with the learning rates of a longer training, compressed, and brought down to almost nothing at the end.

    Args:
        steps: Steps of the training.
        long_steps: Steps of the longer one.
        rates: Its rates, as :class:`RatesRecorder` writes them.
    """

    steps: int
    long_steps: int
    rates: list[list[tuple[int, float]]] = field(default_factory=list)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Set the rates of the step, whatever the recipe's own schedule says."""
        step = trainer.global_step
        place = step * (self.long_steps - 1) // max(1, self.steps - 1)  # the last step has the last rate
        for changes, group in zip(self.rates, _groups(trainer), strict=False):
            at = bisect_right([change for change, _ in changes], place)
            falls = changes[-1][1] <= 0.05 * max(rate for _, rate in changes)
            down = 1.0 if falls else annealed(step, self.steps, warm_up=0.0)
            if group["lr"] is not None:
                group["lr"] = changes[max(at - 1, 0)][1] * down


def short_run(retrain: MethodRun, trained: Mapping[str, Any], share: float) -> tuple[MethodRun, Rates]:
    """Return the run that retrains for a share of the steps, and the rates that it trains with.

    Args:
        retrain: The retraining.
        trained: What :class:`RatesRecorder` wrote of it.
        share: The share, in (0, 1).
    """
    steps = max(1, round(share * trained["steps"]))
    others = {key: value for key, value in retrain.trainer.items() if key not in _LENGTHS}
    run = MethodRun(retrain.method, short_name(share), {**others, "max_steps": steps}, retrain.batch_size)
    return run, Rates(steps, trained["steps"], trained["rates"])


def _groups(trainer: L.Trainer) -> list[dict[str, Any]]:
    return [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
