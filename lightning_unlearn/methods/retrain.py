"""Retrain: the oracle that every unlearned model is measured against."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.ensembles.training import Loss
from lightning_unlearn.methods.base import UnlearningModule
from lightning_unlearn.methods.source import Source
from lightning_unlearn.models.surgery import fresh_copy

__all__ = ["Retrain"]


class Retrain(UnlearningModule):
    """Trains a fresh model of the source's architecture on the retain set alone.

    The baseline of all the papers. No weight and no running statistic of the source survives: every layer is
    drawn anew by its own scheme. Unless an optimizer is given, the source's own ``configure_optimizers``
    is used; its ``training_step`` is not, so pass ``loss`` where that is not the plain cross-entropy. Parameters
    that are frozen in the source among trainable ones (a pretrained backbone) were not trained on anybody's
    samples and are kept. One epoch is one pass over the retain set.

    Args:
        source: The source model; only its architecture (and optimizer recipe) is used.
        fresh: Builds a new model, for architectures whose layers cannot be drawn anew one by one; ``None`` resets
            the layers of a copy.
        optimizer: Makes the optimizer; ``None`` for the source's own recipe, or Adam with learning rate 1e-3.
        lr_scheduler: Makes the schedule that goes with ``optimizer``.
        loss: Classification loss; ``None`` for the cross-entropy.
        adapter: How batches and outputs are taken apart.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> method = Retrain(MLP(in_features=4, hidden=(3,), num_classes=2))
        >>> method.epoch_stream
        'retain'
    """

    streams = ("retain",)
    epoch_stream = "retain"
    follows_source_recipe: ClassVar[bool] = True

    def __init__(
        self,
        source: Source,
        *,
        fresh: Callable[[], nn.Module] | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: Loss | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        self._fresh = fresh
        super().__init__(source, optimizer=optimizer, lr_scheduler=lr_scheduler, loss=loss, adapter=adapter)

    def initial_model(self, source: nn.Module) -> nn.Module:
        """Return a model that shares the source's architecture and nothing else."""
        model = fresh_copy(source, self._fresh)
        kept = {name for name, parameter in source.named_parameters() if not parameter.requires_grad}
        if len(kept) == len(list(source.parameters())):
            model.requires_grad_(
                True
            )  # a source frozen as a whole; layers frozen among others were never trained
            return model
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in kept:
                    parameter.copy_(source.get_parameter(name))
                    parameter.requires_grad_(False)
        return model

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy on the retain set."""
        ((logits, targets),) = self.stream_logits(batch["retain"])
        loss = self.loss(logits, targets)
        self.log_terms(loss=loss)
        return loss
