"""Random-k unlearning of Zuo et al.: a random share of the weights is perturbed, then all are fine-tuned."""

from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import select_random
from lightning_unlearn.methods.base.module import Step
from lightning_unlearn.methods.base.perturbation import Perturbation, require_fraction
from lightning_unlearn.methods.base.source import Source
from lightning_unlearn.models.freezing import trainable

__all__ = ["RandomK"]


class RandomK(Perturbation):
    """Perturbs a random share k of all weights, then fine-tunes.

    Exactly ``round(fraction * total)`` weights are chosen, where the mask of algorithm 1, line 10, chooses
    that many on average. Line 12 of the algorithm mixes each chosen weight with another, while eq. 7 scales
    it; ``mix`` says which. Source: Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters
    Perturbation", section III-B. Perturbation, loss and remaining arguments are those of
    :class:`~lightning_unlearn.methods.base.perturbation.Perturbation`.

    Args:
        source: The source model.
        fraction: Share k of the weights that are perturbed, in (0, 1]; 0.05 in the paper.
        epsilon: Coefficient ε of the perturbation.
        mix: Whether chosen weights are mixed with one another (line 12), not scaled (eq. 7).
        lambda_: Weight λ of the JS term, >= 0.
        teacher: Whose posteriors on the forget set the JS term pulls to: ``"source"`` or another model.
        update: Which weights fine-tuning moves: ``"all"`` or ``"selected"``.
        similarity_threshold: Mean of 1 − JS on the forget set at which training stops; ``None`` for never.
        epoch: Which set an epoch is one pass over: ``"retain"`` or ``"forget"``.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 1e-3.
        lr_scheduler: Makes a schedule; ``None`` for a constant rate.
        loss: Classification loss; ``None`` for the cross-entropy.
        step: ``"loss"``, or ``"source"`` for the source's own training step on the retain set.
        adapter: How batches and outputs are taken apart.
        frozen: Names of what the source was not trained on, ``[]`` for nothing; ``None`` for what is frozen in it.

    Raises:
        ValueError: If an argument is outside its range, or no weight would be chosen.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> RandomK(MLP(in_features=4, hidden=(3,), num_classes=2), fraction=5)
        Traceback (most recent call last):
        ValueError: fraction must lie in (0, 1] and choose at least one of 23 weights, got 5; 5% is 0.05
    """

    def __init__(
        self,
        source: Source,
        fraction: float = 0.05,
        *,
        epsilon: float = 0.1,
        mix: bool = False,
        lambda_: float = 0.1,
        teacher: Source = "source",
        update: Literal["all", "selected"] = "all",
        similarity_threshold: float | None = None,
        epoch: Literal["retain", "forget"] = "retain",
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: Loss | None = None,
        step: Step = "loss",
        adapter: Adapter | None = None,
        frozen: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            source,
            epsilon=epsilon,
            mix=mix,
            lambda_=lambda_,
            teacher=teacher,
            update=update,
            similarity_threshold=similarity_threshold,
            epoch=epoch,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            loss=loss,
            step=step,
            adapter=adapter,
            frozen=frozen,
        )
        require_fraction(fraction, self.model)
        self.fraction = fraction

    def select(
        self, data: UnlearningDataModule, runtime: Runtime, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Choose at random, every set of that many weights being equally likely."""
        return select_random(trainable(self.model), self.fraction, generator)
