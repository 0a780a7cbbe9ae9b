"""RewindKL: answer on the forget set as an earlier checkpoint of the source does, less what that had memorised."""

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.functional import kl_from_logits, memory_of_labels
from lightning_unlearn.methods.base import Declared, Range, Source, Teacher, UnlearningModule
from lightning_unlearn.methods.base.checkpoints import (
    checkpoints_in,
    content_of,
    kept_of,
    state_gone_back_to,
    steps_of,
)
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models import clone
from lightning_unlearn.models.surgery import load_state


class RewindKL(UnlearningModule):
    r"""Pulls the answers on the forget set to an earlier checkpoint's, less what that had memorised of the labels.

    .. math:: L = \lambda \, KL(softmax(z_{earlier} - \delta \, e_y) \| P(D_f)) + (1 - \lambda) \, CE(D_r)

    What a network knows of single samples it learns late, so an earlier checkpoint of the source's own training answers
    D_f nearly as a network that never saw it; and the source, which the training starts from, keeps what it knows of
    all else, more than :class:`~lightning_unlearn.methods.Rewind` can win back in a few passes. The checkpoint has
    memorised a little too: :math:`\delta \ge 0` lowers the logit of each label y until the mean loss on D_f is that on
    non-members. Where non-members are not like D_f (a class, a backdoor, wrong labels that the data names), the
    label is left out of the answer instead. This is ours; the loss is that of Chen et al., 2024, eq. 3
    (:class:`~lightning_unlearn.methods.ReferenceKL`) with another reference model, and to leave the label out that of
    Zhou et al., 2025 (:class:`~lightning_unlearn.methods.DELETE`).

    One epoch is one pass over the forget set with as many retain samples beside it. Unless ``lr_scheduler`` is given,
    the rate rises for a fifth of the steps and then falls to a fiftieth of its peak.

    Args:
        source: The source model.
        checkpoint: A file, a folder, ``"auto"`` or a name, as for :class:`~lightning_unlearn.methods.Rewind`, which
            says which file of a folder is taken.
        lambda_: Weight λ of the KL term in [0, 1].
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If an argument is outside its range or no folder is known. When preparing, if a checkpoint is of
            another architecture, training set or training, is later than the source, or cannot be read without
            executing something.
    """

    side_by_side = True
    epoch_stream = "forget"
    indexed_streams = ("forget",)
    prepares_again = True
    needs = ("loss", "classes")
    default_lr = 3e-3
    anneals = True
    searched: ClassVar[SearchSpace] = {"lambda_": Search(0.1, 0.9), "max_epochs": Search(2, 12, whole=True)}
    declared: ClassVar[Declared] = {
        "lambda_": Range("[0, 1]", ": it weighs the KL term against the cross-entropy")
    }

    def __init__(
        self, source: Source, checkpoint: str | Path = "auto", *, lambda_: float = 0.5, **method: Any
    ) -> None:
        super().__init__(source, **method)
        self.lambda_ = lambda_
        self.checkpoint = kept_of(source, checkpoint)
        self._files = checkpoints_in(self.checkpoint, steps_of(source), self.source)
        self._contents = list(map(content_of, self._files))  # by which a comparison tells other files
        self._teacher = Teacher(self.source)
        self._memorised = 0.0
        self._gone = torch.empty(
            0, dtype=torch.int64
        )  # classes forgotten whole, which no retrained model knows

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Choose the checkpoint, find out what it has memorised, and ask it once where D_f is not augmented."""
        earlier = clone(self.source)
        state = state_gone_back_to(self.checkpoint, self._files, self.source, data, runtime, self.adapter)
        load_state(earlier, state)
        self._teacher = Teacher(earlier)
        self._gone = torch.tensor(data.forgotten_classes, dtype=torch.int64)
        if data.forgets_a_class or data.wrong_labels or data.backdoor is not None:
            self._memorised = math.inf
        elif reason := data.unlike_nonmembers:
            self._memorised = 0.0
            fix = "test on other values" if data.unlike_groups else "give UnlearningDataModule(nonmember=...)"
            rank_zero_warn(
                f"RewindKL: {reason}, and nothing else tells what {self.checkpoint} has memorised, so that is not "
                f"taken off; {fix}, or name an earlier checkpoint"
            )
        else:
            runtime.place(earlier).eval()
            forget, unseen = (
                predict(earlier, data.loader(stream, indexed=True), runtime, self.adapter)
                for stream in ("forget", "nonmember")
            )
            loss = float(self.task.batch_loss(unseen.logits.double(), unseen.targets))
            stays = ~torch.isin(forget.targets, self._gone.to(forget.targets.device))
            self._memorised = memory_of_labels(forget.logits[stays], forget.targets[stays], loss)
        self._gone = self._gone.to(runtime.device)  # once, and not at every step
        self._teacher.ask(data, runtime, self.adapter)

    def given(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the checkpoint's answers on D_f, the labels' logits lowered by what it has memorised."""
        logits = self._teacher.logits(batch["forget"]).float()
        labels = self.adapter.split(batch["forget"].batch)[1]
        memorised = torch.full_like(labels, self._memorised, dtype=logits.dtype)
        memorised = memorised.masked_fill(torch.isin(labels, self._gone), math.inf)
        lowered = logits.gather(1, labels[:, None]) - memorised[:, None]
        return {"earlier": logits.scatter(1, labels[:, None], lowered)}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Follow those answers on D_f and the labels on as many samples of D_r."""
        (forget, _), retain = self.stream_logits(batch["forget"], batch["retain"])
        ce = self.retain_loss(batch["retain"], batch_idx, retain)
        kl = kl_from_logits(self.given(batch)["earlier"], forget)
        loss = self.lambda_ * kl + (1.0 - self.lambda_) * ce
        self.log_terms(loss=loss, kl=kl, ce=ce)
        return loss
