"""Random-TopK unlearning of Zuo et al.: a random choice of weights that holds the most sensitive ones."""

from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import select_random_top_k
from lightning_unlearn.functional.sensitivity import Granularity
from lightning_unlearn.methods.base.module import Step
from lightning_unlearn.methods.base.perturbation import require_fraction
from lightning_unlearn.methods.base.source import Source
from lightning_unlearn.methods.top_k import Sensitivity, SensitivityStream, TopK
from lightning_unlearn.models.freezing import trainable
from lightning_unlearn.models.surgery import count_parameters

__all__ = ["RandomTopK"]


class RandomTopK(TopK):
    """Perturbs as many weights as Random-k, the K most sensitive ones among them, then fine-tunes.

    K members of Random-k's choice make room for the Top-K. Source: Zuo et al., "Machine Unlearning Through
    Fine-Grained Model Parameters Perturbation", section IV-C4, figure 8. The choice is that of
    :class:`~lightning_unlearn.methods.random_k.RandomK` and :class:`~lightning_unlearn.methods.top_k.TopK`;
    perturbation, loss and remaining arguments are those of
    :class:`~lightning_unlearn.methods.base.perturbation.Perturbation`.

    Args:
        source: The source model.
        k: How many of the weights are the most sensitive ones (whole tensors with ``granularity="tensor"``);
            not more than are perturbed.
        fraction: Share of the weights that are perturbed, in (0, 1]; 0.05 in the paper.
        epsilon: Coefficient ε of the perturbation.
        mix: Whether chosen weights are mixed with one another (algorithm 1, line 12), not scaled (eq. 7).
        sensitivity: Gradient of what: of the argument ``"loss"``, or of ``"output_norm"``, the squared L2 norm of the
            logits.
        sensitivity_samples: Over how many samples at most; ``None`` for all.
        sensitivity_stream: Of which set they are a random choice: ``"train"``, ``"forget"`` or ``"retain"``.
        sensitivity_per_sample: ``False`` takes the gradient of each batch's mean instead.
        granularity: What is sensitive: single weights (``"scalar"``) or whole tensors (``"tensor"``).
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
        TypeError: If ``k`` is not an integer.
        ValueError: If an argument is outside its range, or the most sensitive weights are more than are
            perturbed.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> RandomTopK(MLP(in_features=4, hidden=(3,), num_classes=2), k=5, fraction=0.1)
        Traceback (most recent call last):
        ValueError: k=5 weights are more than the 2 that fraction=0.1 perturbs; lower k or raise fraction
    """

    def __init__(
        self,
        source: Source,
        k: int = 45,
        fraction: float = 0.05,
        *,
        epsilon: float = 0.1,
        mix: bool = False,
        sensitivity: Sensitivity = "loss",
        sensitivity_samples: int | None = 128,
        sensitivity_stream: SensitivityStream = "train",
        sensitivity_per_sample: bool = True,
        granularity: Granularity = "scalar",
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
            k,
            epsilon=epsilon,
            mix=mix,
            sensitivity=sensitivity,
            sensitivity_samples=sensitivity_samples,
            sensitivity_stream=sensitivity_stream,
            sensitivity_per_sample=sensitivity_per_sample,
            granularity=granularity,
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
        if granularity == "scalar":
            self._require_room(k)

    def _require_room(self, count: int) -> None:
        perturbed = round(self.fraction * count_parameters(self.model, list(trainable(self.model))))
        if count > perturbed:
            what = "weights" if self.granularity == "scalar" else f"tensors of {count} weights"
            raise ValueError(
                f"k={self.k} {what} are more than the {perturbed} that fraction={self.fraction} perturbs; "
                "lower k or raise fraction"
            )

    def select(
        self, data: UnlearningDataModule, runtime: Runtime, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Choose at random, and put the most sensitive in the place of as many others."""
        top = self.top_k(self.sensitivities(data, runtime))
        count = sum(len(positions) for positions in top.values())
        self._require_room(count)
        marks: dict[str, Tensor] = {}
        for name, parameter in trainable(self.model).items():
            marks[name] = torch.zeros(parameter.numel(), device=parameter.device)
            marks[name][top[name]] = 1
        return select_random_top_k(marks, self.fraction, count, generator)
