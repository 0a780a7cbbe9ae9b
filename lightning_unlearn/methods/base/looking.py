"""Validate a fit in few of its epochs, unless somebody said how often or waits for it."""

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from lightning_unlearn.core.files import model_hash
from lightning_unlearn.models.sharding import local_part
from lightning_unlearn.models.surgery import tensors_of

_MOST_LAST_LOOKS = 2  # at the first a CollapseGuard may put back the weights that it kept
_HOOKS = ("on_validation_start", "on_validation_epoch_end", "on_validation_end")


class Looking:
    """Which epochs of a fit are validated: the first, the fourth, the sixteenth and so on, and the last.

    Validating every epoch would cost half as much again as the training. It stays so where the Trainer is given
    ``check_val_every_n_epoch``, ``val_check_interval`` or ``limit_val_batches``, and where a callback or a schedule
    waits for what is validated. The model that a fit ends with is validated in any case, if any was: one that is
    stopped after an epoch whose validation was left out, and one whose weights have changed since, be it by a step, an
    average of weights, noise, or by going back.
    """

    def __init__(self) -> None:
        self._limit: float | None = None
        self._left_out = False
        self._seen: str | None = None

    def begin(self, trainer: L.Trainer) -> None:
        """Find out whether all epochs are validated."""
        limit, callbacks = trainer.limit_val_batches, trainer.callbacks  # type: ignore[attr-defined]
        given = trainer.check_val_every_n_epoch != 1 or trainer.val_check_interval != 1.0 or limit != 1.0
        waits = any(map(_waits, callbacks)) or any(c.reduce_on_plateau for c in trainer.lr_scheduler_configs)
        asked = given or isinstance(limit, int) or waits
        self._limit, self._left_out, self._seen = None if asked else limit, False, None
        if self._limit is not None:
            trainer.callbacks.append(_AfterFailure(self))  # type: ignore[attr-defined]

    def end_step(self, trainer: L.Trainer) -> None:
        """Leave the validation out that would follow the last step of most epochs."""
        shown = _is_last(trainer) or _is_shown(trainer.current_epoch)
        if self._limit is not None and trainer.is_last_batch and not shown:
            trainer.limit_val_batches, self._left_out = 0, True

    def look(self, model: nn.Module) -> None:
        """Note which weights are being validated."""
        self._left_out, self._seen = False, _content(model)

    def end(self, trainer: L.Trainer, model: nn.Module) -> bool:
        """Leave the Trainer as it was, and validate the model that the fit ends with, unless that has been done.

        Returns:
            Whether what was validated last, if anything, is this model.
        """
        self.let_go(trainer)
        for _ in range(_MOST_LAST_LOOKS):
            if not self._is_other(trainer, model):
                return True
            if not trainer.enable_validation:
                return False
            _validate(trainer)
        return not self._is_other(trainer, model)

    def _is_other(self, trainer: L.Trainer, model: nn.Module) -> bool:
        """Whether the model is not the one that was validated last; all processes say the same."""
        other = self._left_out or (self._seen is not None and self._seen != _content(model))
        return trainer.strategy.reduce_boolean_decision(other, all=False)

    def put_back(self, trainer: L.Trainer) -> None:
        """Validate again."""
        if self._limit is not None:
            trainer.limit_val_batches = self._limit

    def let_go(self, trainer: L.Trainer) -> None:
        """Leave the Trainer of a fit that ends, or fails, as it was."""
        self.put_back(trainer)
        # another list, since Lightning may be going through this one
        others = [each for each in trainer.callbacks if not isinstance(each, _AfterFailure)]  # type: ignore[attr-defined]
        trainer.callbacks = others  # type: ignore[attr-defined]
        self._limit = None


class _AfterFailure(L.Callback):
    """Put the Trainer's setting back when a fit fails, of which a module is not told."""

    def __init__(self, looking: Looking) -> None:
        self._looking = looking

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Put it back."""
        self._looking.let_go(trainer)


def _content(model: nn.Module) -> str:
    """Return a hash of this process's part of a model: of what is learned, since validating may move a counter."""
    learned = {
        name: tensor
        for name, tensor in tensors_of(model).items()
        if isinstance(tensor, nn.Parameter) or ".running_" in f".{name}"
    }
    return model_hash({name: local_part(tensor) for name, tensor in learned.items()})


def _validate(trainer: L.Trainer) -> None:
    """Validate once more after the last step, as Lightning does within an epoch."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    # the model is its average by now, and must not be exchanged for it
    others = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]
    trainer.callbacks = others  # type: ignore[attr-defined]
    trainer.validating = True
    try:
        trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
    trainer.training = True


def _waits(callback: L.Callback) -> bool:
    """Whether a callback watches a score, or is no Lightning's and looks at every validation, unless it says no."""
    if not getattr(callback, "waits", True):
        return False
    foreign = not type(callback).__module__.startswith("lightning.")
    return getattr(callback, "monitor", None) is not None or (
        foreign and any(is_overridden(hook, callback, parent=L.Callback) for hook in _HOOKS)
    )


def _is_shown(epoch: int) -> bool:
    """Whether an epoch, from 0, is the first, the fourth, the sixteenth, ...

    Example:
        >>> [epoch + 1 for epoch in range(100) if _is_shown(epoch)]
        [1, 4, 16, 64]
    """
    number = epoch + 1
    return number.bit_count() == 1 and number.bit_length() % 2 == 1


def _is_last(trainer: L.Trainer) -> bool:
    over = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return over or trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
