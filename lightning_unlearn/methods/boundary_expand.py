"""BoundaryExpand: give the samples of the forget set to one more class, which is gone when training ends."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods.base import Source, UnlearningModule
from lightning_unlearn.methods.base.limits import warn_without_a_class
from lightning_unlearn.methods.base.searched import SearchSpace
from lightning_unlearn.methods.delete import DELETE


class BoundaryExpand(UnlearningModule):
    r"""Trains the forget set on a class that no sample has, for forgetting whole classes.

    .. math:: L = CE\big([z,\, \bar z],\ C + 1\big)(D_f), \quad \bar z = \tfrac{1}{C} \textstyle\sum_c z_c

    Source: Chen et al., "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary",
    CVPR 2023, boundary expanding. There the head gets one more row, which is trained with it and cut off at the end;
    public code leaves it in the exported model. Here the row is always the mean of the others: so its answer follows
    from theirs, the model is the source's class at every step, and the true class has to fall below the mean of all. A
    row of its own learns to win while the true class stays first of those that are left.

    One epoch is one pass over the forget set. No sample of the retain set is trained on; where layers keep running
    statistics, its batches normalise the forget set's. Unless ``lr_scheduler`` is given, the rate rises for a fifth of
    the steps and then falls to a fiftieth of its peak.

    Args:
        source: The source model.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 1e-3.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> BoundaryExpand(MLP(in_features=4, hidden=(3,), num_classes=2)).streams
        ('forget',)
    """

    side_by_side = True
    needs = ("classes",)
    anneals = True
    searched: ClassVar[SearchSpace] = DELETE.searched

    def __init__(self, source: Source, **method: Any) -> None:
        super().__init__(source, **method)
        self.streams = self.forget_alone

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Warn of a forget set that is no class."""
        warn_without_a_class(self, forgets_a_class=data.forgets_a_class)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Train D_f on the class behind the last."""
        logits, labels = self.stream_logits(*batch.values())[0]
        expanded = torch.cat([logits, logits.mean(dim=1, keepdim=True)], dim=1)
        loss = self.task.batch_loss(expanded, torch.full_like(labels, logits.shape[1]))
        self.log_terms(loss=loss)
        return loss
