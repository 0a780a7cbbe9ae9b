"""Log the curves of a fit, and stop it at a loss that is not finite."""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_unlearn.core.compat import batches_stepped
from lightning_unlearn.data import Adapter, Indexed
from lightning_unlearn.models.sharding import whole

GAP = "gap/forget"
"""How far the accuracies on forget set and non-members lie apart, logged where the two can be compared."""


class Curves:
    """What is logged of a step, at the Trainer's logging interval only.

    Lightning would throw away what is logged in between, after it has cost a quarter of a millisecond each; the
    counter is the one that its own interval counts.

    Attributes:
        answered: Logits and targets of the running step, if it is shown.
    """

    def __init__(self) -> None:
        self.answered: list[tuple[Tensor, Tensor]] = []
        self._losses: Tensor | None = None  # their sum, which is as finite as they are

    def shows(self, trainer: L.Trainer) -> bool:
        """Return whether the running step is one that a logger is shown."""
        return (batches_stepped(trainer) + 1) % _interval(trainer) == 0

    def log_terms(self, method: L.LightningModule, terms: Mapping[str, Tensor]) -> None:
        """Log the terms of a loss; of an epoch's last step too, for callbacks that watch a loss."""
        if self.shows(method.trainer) or method.trainer.is_last_batch:
            for name, value in terms.items():
                method.log(f"train/{name}", value.detach(), prog_bar=name == "loss")

    def log_accuracies(self, method: L.LightningModule, batch: Any, adapter: Adapter) -> None:
        """Log the share of right answers in each stream's batch, of the answers that the loss was made of."""
        answered, self.answered = self.answered, []
        if answered and isinstance(batch, Mapping) and "loss" in adapter.kind.offers:
            for name, accuracy in batch_accuracies(answered, batch, adapter).items():
                method.log(f"train/{adapter.kind.measured}_{name}", accuracy)

    def log_gradients(
        self, method: L.LightningModule, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the norm of the model's gradients, before they are clipped."""
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        gradients = [p.grad for p in model.parameters() if p.grad is not None and id(p) in stepped]
        if gradients:  # none where a method steps a model of its own, such as a critic
            norm = torch.nn.utils.get_total_norm(gradients)
            method.log("train/gradient_norm", whole(norm))

    def log_gap(self, method: L.LightningModule, forget: MeanMetric, nonmember: MeanMetric) -> None:
        """Log how far the accuracies on the forget set and on non-members lie apart: SCRUB's rewind looks at it."""
        gap = (forget.compute() - nonmember.compute()).abs()  # of all processes, the same on each
        method.log(GAP, gap, sync_dist=True, reduce_fx="max")

    def watch(self, method: L.LightningModule, loss: Tensor, batch_idx: int) -> None:
        """Note a loss, and look at it now and then: to wait for a device at every step would cost too much."""
        self._losses = loss.detach() if self._losses is None else self._losses + loss.detach()
        if loss.device.type == "cpu" or batch_idx % _interval(method.trainer) == 0:
            self.require_finite(method)

    def require_finite(self, method: L.LightningModule) -> None:
        """Stop at a loss since the last look that is not finite.

        Raises:
            FloatingPointError: If there was one.
        """
        value = 0.0 if self._losses is None else float(self._losses)
        self._losses = None
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of {type(method).__name__} became {value} at step {method.trainer.global_step}; check the "
                "data for NaN or infinite values, or lower the learning rate"
            )


def batch_accuracies(
    answered: list[tuple[Tensor, Tensor]], batch: Mapping[str, Any], adapter: Adapter
) -> dict[str, Tensor]:
    """Return the share of right answers in each stream's batch, of the answers that a loss was made of.

    Args:
        answered: Logits ``(B, C)`` and targets ``(B,)``, in any order.
        batch: The streams' batches; an answer is told by its targets, which are the very tensors of a batch.
        adapter: How batches are taken apart.

    Returns:
        Scalars in [0, 1] on the logits' device, by the stream's name.
    """
    parts = {name: part.batch if isinstance(part, Indexed) else part for name, part in batch.items()}
    # told by where their targets lie: a strategy may have put the same tensors into new containers
    names = {adapter.split(part)[1].data_ptr(): name for name, part in parts.items()}
    return {
        names[targets.data_ptr()]: adapter.kind.measure(logits, targets).mean()
        for logits, targets in answered
        if targets.data_ptr() in names
    }


def _interval(trainer: L.Trainer) -> int:
    return max(1, int(trainer.log_every_n_steps))  # type: ignore[attr-defined]
