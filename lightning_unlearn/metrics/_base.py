"""Accumulators that the metrics of this room share."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_unlearn.core.checks import shapes
from lightning_unlearn.core.compat import AtLeastFloat32
from lightning_unlearn.functional._checks import require_classes


class SampleMean(AtLeastFloat32):
    """Mean over all samples of a value that a subclass computes for each; exact for uneven batches and ranks.

    The sum is as exact as one in float64, which not every device has: what each addition in float32 loses is summed
    beside it. It stays in float32 when the metric is converted, since its dtype must be alike on a rank that has seen a
    sample and one that has not.

    The sums of values, of what was lost and of samples are added up over the ranks. A subclass defines ``update`` and
    hands its values to :meth:`accumulate`.
    """

    full_state_update = False
    is_differentiable = True

    total: Tensor
    lost: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for state in ("total", "lost"):
            self.add_state(state, torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def accumulate(self, values: Tensor) -> None:
        """Add one value a sample, of any shape."""
        before, added = self.total, values.sum(dtype=self.total.dtype)
        self.total = before + added
        kept = self.total - before  # of what was added (Knuth's two-sum)
        self.lost = self.lost + (before - (self.total - kept)) + (added - kept)
        self.count = self.count + values.numel()

    def compute(self) -> Tensor:
        """Mean over all samples seen, in at least float32.

        Raises:
            ValueError: If no rank has seen a sample, or a value was NaN.
        """
        require_samples(type(self).__name__, self.count)
        mean = (self.total + self.lost) / self.count
        if bool(mean.isnan()):
            raise ValueError(f"{type(self).__name__} has seen NaN; look for a NaN in the logits it was given")
        return mean


class Counts(Metric):
    """Numbers that are added up over batches and ranks; a subclass names them."""

    full_state_update = False
    is_differentiable = False
    counted: ClassVar[tuple[str, ...]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self.counted:
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, **more: Tensor | int) -> None:
        """Add to the numbers, by their names."""
        for name, number in more.items():
            setattr(self, name, getattr(self, name) + number)

    def share(self, hits: str, of: str, what: str = "sample") -> float:
        """Return one number over another, of which there must be some."""
        require_samples(type(self).__name__, getattr(self, of), what)
        return int(getattr(self, hits)) / int(getattr(self, of))


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
