"""NegGradPlus: descend on the retain set and, for the first part of the steps, ascend on the forget set."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_unlearn.functional import bounded_ascent
from lightning_unlearn.methods.base import Declared, Range, Source, UnlearningModule

__all__ = ["NegGradPlus"]


class NegGradPlus(UnlearningModule):
    r"""Descends on the retain set while it ascends on the forget set.

    .. math:: L = \alpha \, CE(D_r) - (1 - \alpha) \, \min(CE(D_f), clamp)

    for the first ``ascent_share`` of the steps, and :math:`CE(D_r)` alone afterwards. Source: Kurmanji et al.,
    "Towards Unbounded Machine Unlearning", 2023, the baseline NegGrad+; with α = 0 and ``ascent_share`` = 1 it is
    gradient ascent (Golatkar et al., 2020, NegGrad). The bound, the early end and the annealed rate are ours: the
    cross-entropy has no upper bound, so the published form ends in NaN or in answers that are worse than those of
    a model that never saw D_f.

    One epoch is one pass over the retain set, with as many samples of the forget set beside each batch. Unless
    ``lr_scheduler`` is given, the rate rises for a fifth of the steps and then falls to a fiftieth of its peak.

    Args:
        source: The source model.
        alpha: Weight α of the retain set in [0, 1]. The paper has 0.95 to 0.9999 with SGD and more epochs.
        clamp: Mean loss on a batch of D_f beyond which nothing ascends, > 0; for the cross-entropy choose it above
            log C, C the number of classes.
        ascent_share: Share of the steps that ascend, in (0, 1].
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        step: ``"loss"``, or ``"source"`` to take both terms from the source's own training step.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> NegGradPlus(MLP(in_features=4, hidden=(3,), num_classes=2), alpha=1.5)
        Traceback (most recent call last):
        ValueError: alpha must lie in [0, 1], got 1.5: it weighs the retain set against the forget set
    """

    streams = ("forget", "retain")
    epoch_stream = "retain"
    default_lr = 3e-3
    anneals = True
    declared: ClassVar[Declared] = {
        "alpha": Range("[0, 1]", ": it weighs the retain set against the forget set"),
        "clamp": Range("(0, inf)", "; 6 is a usual bound"),
        "ascent_share": Range("(0, 1]", "; 1 ascends to the end"),
    }

    def __init__(
        self,
        source: Source,
        alpha: float = 0.77,
        *,
        clamp: float = 6.0,
        ascent_share: float = 0.6,
        **method: Any,
    ) -> None:
        self.check(alpha=alpha, clamp=clamp, ascent_share=ascent_share)
        super().__init__(source, **method)
        self.alpha = alpha
        self.clamp = clamp
        self.ascent_share = ascent_share
        self._last_ascent = 0

    def on_train_start(self) -> None:
        """Note when ascent ends."""
        super().on_train_start()
        self._last_ascent = max(1, round(self.ascent_share * self.total_steps))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Descend on D_r and ascend on D_f, or descend alone once ascent has ended."""
        if self.trainer.global_step >= self._last_ascent:
            return super().training_step(batch, batch_idx)
        (forget, labels), answered = self.stream_logits(batch["forget"], batch["retain"])
        ce = self.retain_loss(batch["retain"], batch_idx, answered)
        forget_ce = self.retain_loss(batch["forget"], batch_idx, (forget, labels))  # the same loss, on D_f
        loss = self.alpha * ce + (1 - self.alpha) * bounded_ascent(forget_ce, self.clamp)
        self.log_terms(loss=loss, ce=ce, forget_ce=forget_ce)
        return loss
