"""BoundaryShrink: give the samples of the forget set the label of the nearest other class."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods.base import Declared, Range, Source, UnlearningModule
from lightning_unlearn.methods.base.limits import warn_without_a_class
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models import frozen
from lightning_unlearn.models.surgery import evaluating


class BoundaryShrink(UnlearningModule):
    r"""Trains the forget set on the labels of the nearest other classes, for forgetting whole classes.

    .. math:: L = CE(x_f, y'), \quad y' = argmax_{c \ne y} \, P_{source}(c \,|\, x'), \quad
        x' = clamp(x + bound \cdot sign \, \nabla_x CE(P_{source}(x), y))

    Source: Chen et al., "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision Boundary",
    CVPR 2023, boundary shrink. Where the step does not leave the true class, public code trains on that; here it is
    never the label. The paper's bound is in pixels of [0, 1]; here it is a share of the range of the inputs as the
    network sees them, and the clamp is to that range.

    One epoch is one pass over the forget set. No sample of the retain set is trained on; where layers keep running
    statistics, its batches normalise the forget set's. Unless ``lr_scheduler`` is given, the rate rises for a fifth of
    the steps and then falls to a fiftieth of its peak.

    Args:
        source: The source model, of inputs that are one floating-point tensor.
        bound: Length of the step towards the nearest class, as a share of the inputs' range, > 0.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 1e-3.
        **method: Arguments of :class:`~lightning_unlearn.methods.base.module.UnlearningModule`.

    Raises:
        ValueError: If an argument is outside its range; in ``fit``, if the inputs are no floating-point tensor.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> BoundaryShrink(MLP(in_features=4, hidden=(3,), num_classes=2), bound=0.0)
        Traceback (most recent call last):
        ValueError: bound must be above 0, got 0.0; 0.1 is the paper's
    """

    side_by_side = True
    indexed_streams = ("forget",)
    prepares_again = True
    needs = ("loss", "classes")
    anneals = True
    searched: ClassVar[SearchSpace] = {
        "max_epochs": Search(2, 20, whole=True),
        "lr": Search(1e-4, 1e-2, log=True),
        "bound": Search(0.02, 0.5, log=True),
    }
    declared: ClassVar[Declared] = {"bound": Range("(0, inf)", "; 0.1 is the paper's")}

    def __init__(self, source: Source, bound: float = 0.1, **method: Any) -> None:
        super().__init__(source, **method)
        self.streams = self.forget_alone
        self.bound = bound
        self._labels = torch.empty(0)

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Find the nearest other class of each sample, as it is without augmentation."""
        warn_without_a_class(self, forgets_a_class=data.forgets_a_class)
        model = runtime.place(frozen(self.source))
        # of few samples: every rank does the same, and nothing is gathered
        loader = data.loader("forget", indexed=True, rank=0, world_size=1)
        with evaluating(model), runtime.not_training(), runtime.forward_context(), torch.enable_grad():
            ranges = (self._inputs_of(batch.batch, runtime)[0].aminmax() for batch in loader)
            lows, highs = zip(*ranges, strict=True)
            low, high = (float(x) for x in (torch.stack(lows).min(), torch.stack(highs).max()))
            batches = (self._inputs_of(batch.batch, runtime) for batch in loader)
            self._labels = torch.cat([self._nearest(model, *batch, low, high) for batch in batches])

    def _inputs_of(self, batch: Any, runtime: Runtime) -> tuple[Tensor, Tensor]:
        inputs, labels = self.adapter.split(runtime.to_device(batch))
        if not (isinstance(inputs, Tensor) and inputs.is_floating_point()):
            raise ValueError(
                "BoundaryShrink takes a step in the inputs, which must be one floating-point tensor; DELETE takes none"
            )
        return inputs, labels

    def _nearest(self, model: nn.Module, inputs: Tensor, labels: Tensor, low: float, high: float) -> Tensor:
        inputs = inputs.detach().requires_grad_()
        loss = self.task.batch_loss(self.adapter.call(model, inputs).float(), labels)
        (gradient,) = torch.autograd.grad(loss, inputs)
        moved = (inputs.detach() + self.bound * (high - low) * gradient.sign()).clamp(low, high)
        with torch.no_grad():
            answers = self.adapter.call(model, moved).float()
        return self.task.answers(answers.scatter(1, labels[:, None], -torch.inf))

    def given(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the nearest other classes."""
        return {"nearest": self._labels[batch["forget"].index.to(self._labels.device)]}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Train D_f on the labels of the nearest other classes."""
        part = batch["forget"]
        logits = self.stream_logits(*batch.values())[0][0]
        given = self.given(batch)["nearest"]
        loss = self.retain_loss(self.adapter.relabelled(part.batch, given), batch_idx, (logits, given))
        self.log_terms(loss=loss)
        return loss
