"""ReGUn: answer on a batch of the forget set as the source does, on average, on held-out samples of its classes."""

import functools
from typing import Any, ClassVar

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.functional import kl_from_logits
from lightning_unlearn.methods.base import Declared, Range, Source, UnlearningModule
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models import frozen


class ReGUn(UnlearningModule):
    r"""Pulls the answers on a batch of the forget set to the source's mean answer on held-out samples of its classes.

    .. math:: L = CE(D_r) + \lambda \, KL\Big(\tfrac{1}{m} \textstyle\sum_j P_{source}(\tilde x_j)
        \,\Big\|\, P(B_f)\Big)

    with :math:`\tilde x_j` drawn from the non-members, as many of each class as the batch :math:`B_f` has (of any class
    for one that they lack). Source: Mirlach, Laguna & Vogt, "Reference-Guided Machine Unlearning", 2026. All samples of
    a batch are pulled to one distribution, so that a batch of many classes unlearns what its samples are, not only that
    they were seen: the larger λ, the more is lost on all of the data. By a distribution a class, nothing of a label
    would be forgotten. Of m the paper's abstract says nothing; here it is the size of the batch.

    One epoch is one pass over the retain set, with as many samples of the forget set beside each batch. Unless
    ``lr_scheduler`` is given, the rate rises for a fifth of the steps and then falls to a fiftieth of its peak.

    Args:
        source: The source model.
        lambda_: Weight λ of the divergence, >= 0.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range; in ``fit``, if there are no non-members.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> ReGUn(MLP(in_features=4, hidden=(3,), num_classes=2), lambda_=-1.0)
        Traceback (most recent call last):
        ValueError: lambda_ must be at least 0, got -1.0; 0.2 is usual
    """

    epoch_stream = "retain"
    indexed_streams = ("forget",)
    prepares_again = True
    needs = ("loss", "classes")
    default_lr = 3e-3
    anneals = True
    searched: ClassVar[SearchSpace] = {"lambda_": Search(0.02, 1.0, log=True)}
    declared: ClassVar[Declared] = {"lambda_": Range("[0, inf)", "; 0.2 is usual")}

    def __init__(self, source: Source, lambda_: float = 0.2, **method: Any) -> None:
        super().__init__(source, **method)
        self.lambda_ = lambda_

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Ask the source once about the non-members, and keep its answers by class."""
        if not data.stream_size("nonmember"):
            raise ValueError(
                "ReGUn answers on the forget set as the source does on non-members, and there are none; give "
                "UnlearningDataModule(nonmember=...), or take NegGradPlus"
            )
        if reason := data.unlike_nonmembers:
            rank_zero_warn(
                f"ReGUn answers on the forget set as on non-members of the same labels, and {reason}, so that little "
                "or nothing of it would be forgotten; DELETE is the better choice for a class, NegGradPlus for the rest"
            )
        source = runtime.place(frozen(self.source))
        held = predict(source, data.loader("nonmember", indexed=True), runtime, self.adapter)
        count = torch.bincount(held.targets, minlength=held.logits.shape[1])
        first = (count.cumsum(0) - count).masked_fill(count == 0, 0)
        count = count.masked_fill(count == 0, len(held.targets))  # of a class without any, all stand for it
        self._held, self._count, self._first = (
            values.to(runtime.device) for values in (held.posteriors[held.targets.argsort()], count, first)
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Follow the mean held-out answer on D_f and the labels on D_r."""
        (forget, labels), retain = self.stream_logits(batch["forget"], batch["retain"])
        ce = self.retain_loss(batch["retain"], batch_idx, retain)
        reference = self._reference(batch["forget"].index, labels)
        kl = kl_from_logits(reference.log().expand_as(forget), forget)
        loss = ce + self.lambda_ * kl
        self.log_terms(loss=loss, ce=ce, kl=kl)
        return loss

    def _reference(self, index: Tensor, labels: Tensor) -> Tensor:
        """Return the mean answer on as many non-members of each class as the batch of all processes has, ``(C,)``."""
        seed = derive_seed(self.data.order_seed, "held out", self.current_epoch)
        drawn = _uniform(len(self.data.split.forget), seed, labels.device)[index.to(labels.device)]
        chosen = self._first[labels] + (drawn * self._count[labels]).long()
        # of this process's share of the batch
        mean = self.share * self._held[chosen].mean(dim=0, keepdim=True)
        return Runtime(self.trainer).gather(mean).mean(dim=0)


@functools.lru_cache(maxsize=2)  # one draw serves all steps of an epoch
def _uniform(count: int, seed: int, device: torch.device) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)).to(device)
