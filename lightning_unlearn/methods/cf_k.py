"""CF-k: fine-tuning of the last k parameter tensors; the base of EU-k, which re-initialises them first."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from lightning_unlearn.methods.base import AscendingModule, Declared, Range, Source
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.metrics.declared import DeclaredMetric
from lightning_unlearn.models import count_parameters, last_parameter_tensors
from lightning_unlearn.models.freezing import share_frozen


class CFk(AscendingModule):
    """Fine-tunes the last k parameter tensors on the retain set, so that they forget catastrophically.

    All else is frozen and stays bit-identical to the source's: parameters, and the running statistics of
    layers none of whose parameters is trained. One epoch is one pass over the retain set. Source: Goel,
    Prabhu & Kumaraguru, "Evaluating Inexact Unlearning Requires Revisiting Forgetting", 2022, as used by Zuo
    et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", section IV-A. They count
    layers; meant are parameter tensors in the order of registration, a weight and its bias counting as two,
    since only so come out the numbers of the latter's table I.

    Args:
        source: The source model.
        k: How many parameter tensors, from 1 to as many as the source trains; 5 and 10 in the papers.
        optimizer: Makes the optimizer; ``None`` for Adam with learning rate 1e-4, the paper's.
        **ascending: Arguments of :class:`~lightning_unlearn.methods.base.ascent.AscendingModule`.

    Raises:
        ValueError: If ``k`` is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> CFk(MLP(in_features=4, hidden=(3,), num_classes=2), k=5)
        Traceback (most recent call last):
        ValueError: k must be from 1 to 4, the trainable parameter tensors of MLP, got 5
    """

    side_by_side = True
    keeps_source_tensors = True
    default_lr = 1e-4
    anneals = False
    searched: ClassVar[SearchSpace] = {"k": Search(1, 12, whole=True)}
    # how many there are, the source says
    declared: ClassVar[Declared] = {"k": Range("(-inf, inf)", whole=True)}
    metrics: ClassVar[Mapping[str, DeclaredMetric]] = {
        "trained_parameters": DeclaredMetric(
            "Trained weights", "trained", "How many weights the last k parameter tensors hold.", digits=0
        )
    }

    def __init__(self, source: Source, k: int = 5, **ascending: Any) -> None:
        self.k = k  # initial_model() asks for it
        super().__init__(source, **ascending)
        last = last_parameter_tensors(self.source, k)
        self.measured["trained_parameters"] = float(count_parameters(self.source, last))

    def initial_model(self, source: nn.Module) -> nn.Module:
        """Return a copy of the source, which must have k tensors to train."""
        last_parameter_tensors(source, self.k)
        return super().initial_model(source)

    def setup(self, stage: str) -> None:
        """Freeze all but the last k tensors while the method is fitted."""
        if stage == "fit":
            last = last_parameter_tensors(self.source, self.k)
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name in last)
            self.train()

    def teardown(self, stage: str) -> None:
        """Leave the model whole, and frozen as the source is."""
        super().teardown(stage)
        share_frozen(self.model, self.source)
