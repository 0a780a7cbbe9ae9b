"""Stop an unlearning that destroys its model, with the last weights that were still good."""

from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.methods.base.trial import COLLAPSED


class CollapseGuard(L.Callback):
    """Ends a fit when the model collapses, and gives it back the weights of the last look at which it had not.

    It looks at every validation, of which there is one each epoch where ``retain`` is given. Collapsed is a model whose
    accuracy on the retain set is below a floor, or whose accuracy on the forget set is far below that on non-members:
    being wrong about just these samples tells who they were. The second is looked at only where non-members are like
    the forget set (a random request, or one by ids); of a class, a backdoor or wrong labels nothing is to be left.

    The command ``fit`` has ``CollapseGuard(below=1.0)`` by default, where it validates and no other is given.

    Args:
        retain: Least accuracy on the retain set, in [0, 1]; ``None`` for half of the source's. Then nothing is refused
            and a fit goes on that begins below it, whose method passes through a collapse by design (its
            ``may_collapse``), or whose task has no right answers.
        below: How far the accuracy on the forget set may fall below that on non-members, in [0, 1]; 1 for as far as it
            likes. A hundred samples give either by 0.05, so choose it well above.

    Attributes:
        stopped: Whether it ended the fit.

    Raises:
        TypeError: If what is fitted is no unlearning method.
        ValueError: If an argument is outside its range, or nothing is validated.
        RuntimeError: If the model is below ``retain=...`` at the first look already.
    """

    def __init__(self, retain: float | None = None, below: float = 0.2) -> None:
        in_range("retain", retain, "[0, 1]", ": it is an accuracy", none=True)
        in_range("below", below, "[0, 1]", ": it is a difference of accuracies")
        self.retain = retain
        self.below = below
        self.needs = () if retain is None else ("correct",)
        self.waits = retain is not None  # for a validation after each epoch
        self.stopped = self._began_below = False
        self._good: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what shows no accuracies, and forget an earlier fit."""
        if not isinstance(pl_module, UnlearningModule):
            raise TypeError(
                f"CollapseGuard guards an unlearning method, got {type(pl_module).__name__}, which logs no accuracies "
                "on retain and forget set"
            )
        if not trainer.limit_val_batches:
            raise ValueError(
                "CollapseGuard looks at every validation, and limit_val_batches=0 leaves all out; set it to 1.0"
            )
        self.stopped, self._good, self._began_below = False, {}, False

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Keep the weights, or put back those that were kept and stop."""
        lenient = self.retain is None
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not fitting or self.stopped or self._began_below or (lenient and pl_module.may_collapse):
            return
        floor = self.retain
        if floor is None:
            floor = COLLAPSED * (pl_module.source_accuracy or 0.0)
        reason = self._collapsed(
            {name: float(value) for name, value in trainer.callback_metrics.items()}, floor
        )
        if not reason:
            self._keep(pl_module.model)
            return
        if not self._good:
            if lenient:
                self._began_below = True
                return
            raise RuntimeError(
                f"CollapseGuard: {reason} at the first validation, so there are no good weights to go back to; lower "
                "the learning rate or the ascent, or validate more often with val_check_interval"
            )
        pl_module.model.load_state_dict(self._good, strict=False)
        rank_zero_warn(f"CollapseGuard: {reason}; training ends with the weights of the validation before")
        self.stopped = trainer.should_stop = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let go of the weights that were kept."""
        self._good = {}

    def _keep(self, model: nn.Module) -> None:
        """Keep the weights that move, in the memory of those that were kept before."""
        still = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
        for name, value in model.state_dict().items():
            if name in self._good:
                self._good[name].copy_(value)
            elif isinstance(value, Tensor) and name not in still:
                self._good[name] = value.detach().clone()

    def _collapsed(self, metrics: dict[str, float], floor: float) -> str:
        """Return what has collapsed, or nothing."""
        retain = metrics.get("accuracy/retain", 1.0)
        if retain < floor:
            limit = "half of the source's" if self.retain is None else f"retain={self.retain}"
            return f"the accuracy on the retain set fell to {retain:.1%}, below {limit}"
        forget, nonmember = metrics.get("accuracy/forget", 1.0), metrics.get("accuracy/nonmember", 0.0)
        if forget < nonmember - self.below:
            fell = f"the accuracy on the forget set fell to {forget:.1%}"
            return f"{fell}, more than below={self.below} under non-members' {nonmember:.1%}"
        return ""
