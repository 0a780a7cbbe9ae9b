"""Accumulators that the metrics of this room share."""

from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.core.checks import shapes
from lightning_unlearn.core.compat import AtLeastFloat32
from lightning_unlearn.functional._checks import require_classes


class SampleMean(AtLeastFloat32):
    """Mean over all samples of a value that a subclass computes for each; exact for uneven batches and ranks.

    The sum stays in float32 when the metric is converted: one of 8 significant bits stops growing after a few hundred
    samples, and its dtype must be alike on a rank that has seen a sample and one that has not.

    Two sums are kept, of values and of samples, and both are added up over the ranks. A subclass defines
    ``update`` and hands its values to :meth:`accumulate`.
    """

    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def accumulate(self, values: Tensor) -> None:
        """Add one value a sample, of any shape."""
        self.total = self.total + values.float().sum()
        self.count = self.count + values.numel()

    def compute(self) -> Tensor:
        """Mean over all samples seen, in at least float32.

        Raises:
            ValueError: If no rank has seen a sample, or a value was NaN.
        """
        require_samples(type(self).__name__, self.count)
        if bool(self.total.isnan()):
            raise ValueError(f"{type(self).__name__} has seen NaN; look for a NaN in the logits it was given")
        return self.total / self.count


def require_samples(name: str, count: Tensor, what: str = "sample") -> None:
    """Raise ``ValueError`` if nothing was counted, because no mean is defined then."""
    if int(count) == 0:
        raise ValueError(f"{name} has seen no {what}; call update with at least one before compute")


def count_correct(logits: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Number of samples whose largest logit is the target's, and the number of samples.

    Args:
        logits: Logits of shape ``(N, C)``.
        targets: Class indices of shape ``(N,)``, an integer dtype.

    Raises:
        ValueError: If the shapes do not fit together or the targets are not integers.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        found = shapes(logits, targets)
        raise ValueError(f"logits must have shape (N, C) and targets shape (N,), got {found}")
    require_classes("targets", targets)
    return (logits.argmax(-1) == targets).sum(), targets.numel()
