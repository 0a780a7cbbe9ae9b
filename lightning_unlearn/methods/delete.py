"""DELETE: answer on the forget set as the source does when it may not say the true class."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import kl_from_logits
from lightning_unlearn.methods.base import Source, Teacher, UnlearningModule
from lightning_unlearn.methods.base.limits import warn_without_a_class
from lightning_unlearn.methods.base.searched import Search, SearchSpace


class DELETE(UnlearningModule):
    r"""Learns, on the forget set, the source's answers without the true class, for forgetting whole classes.

    .. math:: L = KL(q \| P)(D_f), \quad q = softmax(z_{source}, \ z_y = -\infty)

    Source: Zhou et al., "Decoupled Distillation to Erase: A General Unlearning Method for Any Class-centric Tasks",
    CVPR 2025. What is left of the source's answer keeps its knowledge of the other classes, so that no sample of the
    retain set is trained on; where layers keep running statistics, its batches normalise the forget set's. Its target
    is a posterior of 0 for the true class: of a random forget set, a retrained model gives the true class to much.

    One epoch is one pass over the forget set. Unless ``lr_scheduler`` is given, the rate rises for a fifth of the steps
    and then falls to a fiftieth of its peak.

    Args:
        source: The source model.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 1e-3.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> DELETE(MLP(in_features=4, hidden=(3,), num_classes=2)).streams
        ('forget',)
    """

    side_by_side = True
    indexed_streams = ("forget",)
    prepares_again = True
    needs = ("classes",)
    anneals = True
    searched: ClassVar[SearchSpace] = {
        "max_epochs": Search(2, 20, whole=True),
        "lr": Search(1e-4, 1e-2, log=True),
    }

    def __init__(self, source: Source, **method: Any) -> None:
        super().__init__(source, **method)
        self.streams = self.forget_alone
        self._teacher = Teacher(self.source)

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Ask the source once where the forget set is not augmented."""
        warn_without_a_class(self, forgets_a_class=data.forgets_a_class)
        self._teacher.ask(data, runtime, self.adapter)

    def given(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the source's answers on D_f."""
        return {"source": self._teacher.logits(batch["forget"])}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Follow the source's answers without the true class."""
        logits, labels = self.stream_logits(*batch.values())[0]
        target = self.given(batch)["source"].float()
        loss = kl_from_logits(target.scatter(1, labels[:, None], -torch.inf), logits)
        self.log_terms(loss=loss)
        return loss
