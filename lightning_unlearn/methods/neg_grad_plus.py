"""NegGradPlus: descend on the retain set and, for the first part of the steps, ascend on the forget set."""

from typing import Any, ClassVar

from lightning_unlearn.core.checks import check_arguments
from lightning_unlearn.methods.base import AscendingModule, Declared, Range, Source
from lightning_unlearn.methods.base.searched import Search, SearchSpace


class NegGradPlus(AscendingModule):
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
        alpha: Weight α of the retain set in [0, 1]; at 1 the forget set is not read. The paper has 0.95 to 0.9999 with
            SGD and more epochs.
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
    side_by_side = True
    searched: ClassVar[SearchSpace] = {"alpha": Search(0.4, 1.0), "ascent_share": Search(0.1, 0.9)}
    declared: ClassVar[Declared] = {
        "alpha": Range("[0, 1]", ": it weighs the retain set against the forget set"),
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
        check_arguments(self.declared, {"alpha": alpha})  # before it is subtracted
        super().__init__(source, ascent=1 - alpha, clamp=clamp, ascent_share=ascent_share, **method)
        self.alpha = self.retain_weight = alpha
