"""CF-k: fine-tuning of the last k parameter tensors; the base of EU-k, which re-initialises them first."""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.ensembles.training import Loss
from lightning_unlearn.methods.base import Step, UnlearningModule
from lightning_unlearn.methods.checks import require_integers
from lightning_unlearn.methods.freezing import hold_statistics
from lightning_unlearn.methods.source import Source
from lightning_unlearn.models.surgery import clone, last_parameter_tensors

__all__ = ["CFk"]


class CFk(UnlearningModule):
    """Fine-tunes the last k parameter tensors on the retain set, so that they forget catastrophically.

    All else is frozen and stays bit-identical to the source's: parameters, and the running statistics of
    layers none of whose parameters is trained. One epoch is one pass over the retain set. Source: Goel,
    Prabhu & Kumaraguru, "Evaluating Inexact Unlearning Requires Revisiting Forgetting", 2022, as used by Zuo
    et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", section IV-A. They count
    layers; meant are parameter tensors in the order of registration, a weight and its bias counting as two,
    since only so come out the numbers of the latter's table I.

    Args:
        source: The source model.
        k: How many parameter tensors, from 1 to as many as there are; 5 and 10 in the papers.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 1e-4, the paper's.
        lr_scheduler: Makes a schedule; ``None`` for a constant rate.
        loss: Classification loss; ``None`` for the cross-entropy.
        step: ``"loss"``, or ``"source"`` for the source's own training step on the retain set.
        adapter: How batches and outputs are taken apart.

    Raises:
        ValueError: If ``k`` is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> method = CFk(MLP(in_features=4, hidden=(3,), num_classes=2), k=2)
        >>> [name for name, parameter in method.model.named_parameters() if parameter.requires_grad]
        ['layers.2.weight', 'layers.2.bias']
    """

    streams = ("retain",)
    epoch_stream = "retain"
    keeps_source_tensors = True

    def __init__(
        self,
        source: Source,
        k: int = 5,
        *,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: Loss | None = None,
        step: Step = "loss",
        adapter: Adapter | None = None,
    ) -> None:
        require_integers(k=k)
        self.k = k  # initial_model() asks for it
        super().__init__(
            source,
            optimizer=optimizer or _adam,
            lr_scheduler=lr_scheduler,
            loss=loss,
            step=step,
            adapter=adapter,
        )
        self.train()

    def initial_model(self, source: nn.Module) -> nn.Module:
        """Return a copy of the source of which only the last k parameter tensors can be trained."""
        model = clone(source)
        model.requires_grad_(False)
        for name in last_parameter_tensors(model, self.k):
            model.get_parameter(name).requires_grad_(True)
        return model

    def train(self, mode: bool = True) -> "CFk":
        """Set the mode; running statistics of frozen layers do not follow the data."""
        super().train(mode)
        if mode:
            hold_statistics(self.model, (p for p in self.model.parameters() if p.requires_grad))
        return self

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy on the retain set."""
        loss = self.retain_loss(batch["retain"], batch_idx)
        self.log_terms(loss=loss)
        return loss


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-4)
