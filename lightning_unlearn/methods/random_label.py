"""RandomLabel: train the forget set on wrong labels drawn at random, beside the retain set on its own."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.methods.base import Declared, Range, Source, UnlearningModule
from lightning_unlearn.methods.base.searched import Search, SearchSpace


class RandomLabel(UnlearningModule):
    r"""Trains the forget set on wrong labels, beside the retain set on the true ones.

    .. math:: L = \frac{1}{|D_r|} \Big( \sum_{D_r} CE(x, y) + \omega \sum_{D_f} CE(x, \tilde y) \Big)

    with :math:`\tilde y` uniform over the wrong classes. Source: Graves, Nagisetty & Ganesh, "Amnesiac Machine
    Learning", 2021; Golatkar et al., 2020, as a baseline. Public code often draws over all classes, so that one in C
    labels is the true one. Each sample has one wrong label a pass, by its index and the pass, the same in a resumed
    run. On random samples it goes too far: a retrained model is still right about many of them.

    One epoch is one pass over the retain set and one over the forget set, spread evenly beside it, as where both are
    shuffled together. Unless ``lr_scheduler`` is given, the rate rises for a fifth of the steps and then falls to a
    fiftieth of its peak.

    Args:
        source: The source model.
        weight: Weight ω of a sample of D_f against one of D_r, >= 0.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 3e-3.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> RandomLabel(MLP(in_features=4, hidden=(3,), num_classes=2), weight=-1.0)
        Traceback (most recent call last):
        ValueError: weight must be at least 0, got -1.0; 1 is usual
    """

    side_by_side = True
    epoch_stream = "retain"
    once = ("forget",)
    indexed_streams = ("forget",)
    needs: tuple[str, ...] = ("loss", "wrong targets")
    default_lr = 3e-3
    anneals = True
    searched: ClassVar[SearchSpace] = {"weight": Search(0.1, 3.0, log=True)}
    declared: ClassVar[Declared] = {"weight": Range("[0, inf)", "; 1 is usual")}

    def __init__(self, source: Source, weight: float = 1.0, **method: Any) -> None:
        super().__init__(source, **method)
        self.weight = weight

    def wrong_labels(self, index: Tensor, labels: Tensor, outputs: Tensor) -> Tensor:
        """Return a wrong label for each sample, of this epoch's draw.

        Args:
            index: Places of the samples in the forget set, ``(B,)``.
            labels: Their true classes, ``(B,)``.
            outputs: What a model answers, which tells how many classes there are.
        """
        seed = derive_seed(self.data.order_seed, "wrong labels", self.current_epoch)
        return self.task.wrong_targets(outputs, labels, index, count=len(self.data.split.forget), seed=seed)

    def given(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the wrong labels."""
        part = batch["forget"]
        return {"labels": self.wrong_labels(part.index, self.adapter.split(part.batch)[1], self.example)}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Train D_f on wrong labels and D_r on its own."""
        (forget, _), answered = self.stream_logits(batch["forget"], batch["retain"])
        given = self.given(batch)["labels"]
        relabelled = self.adapter.relabelled(batch["forget"].batch, given)
        wrong = self.retain_loss(relabelled, batch_idx, (forget, given))  # the same loss, on other labels
        ce = self.retain_loss(batch["retain"], batch_idx, answered)
        loss = ce + self.weight * self.samples_beside("forget") * wrong
        self.log_terms(loss=loss, ce=ce, wrong=wrong)
        return loss
