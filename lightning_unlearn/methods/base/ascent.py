"""Train on the retain set and, where asked, ascend on the forget set beside it: bounded, and for the first steps."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_unlearn.core.checks import Declared, Range
from lightning_unlearn.functional import bounded_ascent
from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.methods.base.source import Source

ASCENT_SEARCH: SearchSpace = {"ascent": Search(0.0, 0.8), "ascent_share": Search(0.1, 0.9)}
"""What a search tries of the ascent, for methods of which it is a part; a baseline stays what it is."""


class AscendingModule(UnlearningModule):
    r"""Base of methods that train on the retain set and may ascend on the forget set beside it.

    .. math:: L = CE(D_r) - ascent \cdot \min(CE(D_f), clamp)

    for the first ``ascent_share`` of the steps, and :math:`CE(D_r)` alone afterwards and where ``ascent`` is 0, when
    the forget set is not read. What :meth:`penalty` returns is added to both. One epoch is one pass over the retain
    set, with as many samples of the forget set beside each batch. Unless ``lr_scheduler`` is given, the rate rises for
    a fifth of the steps and then falls to a fiftieth of its peak.

    Args:
        source: The source model.
        ascent: Weight of the ascent, >= 0.
        clamp: Mean loss on a batch of D_f beyond which nothing ascends, > 0; for the cross-entropy choose it above
            log C, C the number of classes.
        ascent_share: Share of the steps that ascend, in (0, 1].
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range.
    """

    streams: tuple[str, ...] = ("retain",)
    epoch_stream = "retain"
    default_lr = 3e-3
    anneals = True
    retain_weight: float = 1.0  # of CE(D_r) while D_f ascends
    declared: ClassVar[Declared] = {
        "ascent": Range("[0, inf)", "; 0.3 is usual, 0 does without"),
        "clamp": Range("(0, inf)", "; 6 is a usual bound"),
        "ascent_share": Range("(0, 1]", "; 1 ascends to the end"),
    }

    def __init__(
        self,
        source: Source,
        *,
        ascent: float = 0.0,
        clamp: float = 6.0,
        ascent_share: float = 0.6,
        **method: Any,
    ) -> None:
        super().__init__(source, **method)
        others = tuple(stream for stream in self.streams if stream != "forget")
        self.streams = ("forget", *others) if ascent else others
        self.ascent = ascent
        self.clamp = clamp
        self.ascent_share = ascent_share

    def penalty(self) -> dict[str, Tensor]:
        """Return the terms, by the names they are logged under, that a method adds to the loss; none here."""
        return {}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Descend on D_r and ascend on D_f, or descend alone."""
        terms, penalties = {}, self.penalty()
        if self.ascent and self.trainer.global_step < max(1, round(self.ascent_share * self.total_steps)):
            asked, answered = self.stream_logits(batch["forget"], batch["retain"])
            ce = self.retain_loss(batch["retain"], batch_idx, answered)
            terms["forget_ce"] = self.retain_loss(batch["forget"], batch_idx, asked)  # the same loss, on D_f
            loss = self.retain_weight * ce + self.ascent * bounded_ascent(terms["forget_ce"], self.clamp)
        else:
            loss = ce = self.retain_loss(batch["retain"], batch_idx)
        loss = sum(penalties.values(), loss)
        self.log_terms(loss=loss, ce=ce, **penalties, **terms)
        return loss
