"""Repeat a fit that callbacks had a say in: end each repetition where it ended, and name what is left out."""

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    BasePredictionWriter,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    ThroughputMonitor,
    Timer,
)
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_unlearn.callbacks.base.evaluator import Evaluator
from lightning_unlearn.callbacks.base.guard import CollapseGuard
from lightning_unlearn.callbacks.base.watching import Watcher
from lightning_unlearn.methods.base.again import Procedure

_LOOK_ON = (
    BasePredictionWriter,
    Checkpoint,
    DeviceStatsMonitor,
    Evaluator,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    ThroughputMonitor,
    Watcher,
)


class EndsAt(L.Callback):
    """Ends a repetition after as many steps as the fit took that it repeats.

    Args:
        steps: How many, as the Trainer counts them.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """End it."""
        if trainer.global_step >= self.steps:
            trainer.should_stop = True


def fit_again(
    build: Callable[[nn.Module], L.LightningModule],
    identity: Any,
    settings: dict[str, Any],
    trainer: L.Trainer,
    data: L.LightningDataModule | None,
) -> Procedure:
    """Return how the fit that a Trainer has ended is carried out again.

    Args:
        build: Makes what is fitted.
        identity: What tells it apart from others.
        settings: The Trainer's arguments before the fit.
        trainer: The Trainer.
        data: What it is given, if not the split data.
    """
    if not ended_early(trainer):
        return Procedure(build, lambda: dict(settings), [identity, settings], data)
    steps = trainer.global_step
    return Procedure(
        build, lambda: {**settings, "callbacks": [EndsAt(steps)]}, [identity, settings, steps], data
    )


def ended_early(trainer: L.Trainer) -> bool:
    """Return whether something else ended a Trainer's fit than the method, ``max_epochs`` or ``max_steps``."""
    if getattr(trainer.lightning_module, "ended_itself", False):
        return False  # each repetition ends itself as well
    epochs, steps = trainer.max_epochs, trainer.max_steps
    over = epochs not in (None, -1) and trainer.current_epoch >= epochs
    return trainer.global_step > 0 and not over and (steps == -1 or trainer.global_step < steps)


def warn_of_callbacks(evaluator: str, trainer: L.Trainer) -> None:
    """Warn of what decided a Trainer's fit, or may have, and has no part in its repetitions.

    Args:
        evaluator: The name of who repeats it.
        trainer: The Trainer, after the fit.
    """
    early = ended_early(trainer)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    named = list(dict.fromkeys(type(each).__name__ for each in callbacks if _decides(each, early)))
    if not named and not early:
        return
    epochs, steps = trainer.current_epoch, trainer.global_step
    of = "" if trainer.max_epochs in (None, -1) else f" of {trainer.max_epochs}"
    left_out = f"; {', '.join(named)} may have had a say in the fit, and none in these" if named else ""
    ended = (
        f"; the fit ended after {epochs}{of} epochs, and they end after as many steps ({steps})"
        if early
        else ""
    )
    rank_zero_warn(
        f"the evaluator {evaluator!r} carries the fit out again many times, without the Trainer's callbacks{left_out}"
        f"{ended}: what it measures may be of other models than the one that was fitted"
    )


def _decides(callback: L.Callback, early: bool) -> bool:
    """Whether a callback decided what was trained, or may have."""
    if isinstance(callback, CollapseGuard):
        return callback.stopped
    if isinstance(callback, EarlyStopping | Timer):  # they end a fit, and nothing else
        return early
    ours = type(callback).__module__.split(".")[0] == __name__.split(".")[0]
    return not (ours or isinstance(callback, _LOOK_ON))
