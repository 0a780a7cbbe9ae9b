"""Metrics of accuracy lost on D_f and kept on D_r."""

from typing import Literal

import torch
from torch import Tensor

from lightning_unlearn.core.checks import one_of
from lightning_unlearn.functional import forgetting_rate, memory_retention_rate
from lightning_unlearn.metrics._base import Counts, count_correct


class ForgettingRate(Counts):
    """Share of the source model's accuracy on D_f that unlearning removed.

    Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", eq. 17; see
    :func:`~lightning_unlearn.functional.forgetting_rate`. ``higher_is_better`` is ``None``: what to aim at is
    the retrained model's value, and forgetting more than it shows too.

    ``update`` takes the logits on a batch of D_f of the source model (before) and of the unlearned model
    (after), both ``(N, C)``, and class indices ``(N,)``. ``compute`` returns a scalar of at most 1. Memory
    does not grow with the number of samples.

    Args:
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = ForgettingRate()
        >>> before = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> after = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
        >>> metric.update(before, after, torch.tensor([1, 0]))
        >>> metric.compute()
        tensor(0.5000)
    """

    counted = ("before", "after", "samples")

    def update(self, before_logits: Tensor, after_logits: Tensor, targets: Tensor) -> None:
        """Count a batch of D_f.

        Raises:
            ValueError: If the shapes do not fit together or the targets are not class indices.
        """
        before, n = count_correct(before_logits, targets)
        self.add(before=before, after=count_correct(after_logits, targets)[0], samples=n)

    def compute(self) -> Tensor:
        """Rate over all samples seen.

        Raises:
            ValueError: If no rank has seen a sample or the source model got none of them right.
        """
        rate = forgetting_rate(self.share("before", "samples"), self.share("after", "samples"))
        return torch.tensor(rate, dtype=torch.float32, device=self.device)


class MemoryRetentionRate(Counts):
    """Accuracy of the unlearned model on D_r over that of the source model on D_f.

    Zuo et al., "Machine Unlearning Through Fine-Grained Model Parameters Perturbation", eq. 18; see
    :func:`~lightning_unlearn.functional.memory_retention_rate`.

    The two sets differ in size, so each batch says which one it is of: ``update(logits, targets, "retain")``
    with the unlearned model's logits on D_r, ``update(logits, targets, "forget")`` with the source model's
    logits on D_f; logits ``(N, C)``, class indices ``(N,)``. Because one batch alone gives no rate, use
    ``update`` and ``compute``, not the call that returns a batch's value. ``compute`` returns a scalar that
    is not negative and can exceed 1. Memory does not grow with the number of samples.

    Args:
        kwargs: Passed on to :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = MemoryRetentionRate()
        >>> metric.update(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]), "retain")
        >>> metric.update(torch.tensor([[0.0, 1.0]]), torch.tensor([1]), "forget")
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True
    counted = ("right_retain", "of_retain", "right_forget", "of_forget")

    def update(self, logits: Tensor, targets: Tensor, stream: Literal["retain", "forget"]) -> None:
        """Count a batch of D_r (unlearned model) or of D_f (source model).

        Raises:
            ValueError: If the shapes do not fit together, the targets are not class indices or the stream is
                unknown.
        """
        one_of("stream", stream, "retain", "forget")
        correct, n = count_correct(logits, targets)
        self.add(**{f"right_{stream}": correct})
        self.add(**{f"of_{stream}": n})

    def compute(self) -> Tensor:
        """Rate over all samples seen.

        Raises:
            ValueError: If no rank has seen a sample of one of the two sets, or the source model got none of
                D_f right.
        """
        retain, forget = (
            self.share(f"right_{stream}", f"of_{stream}", f"sample of the {stream!r} stream")
            for stream in ("retain", "forget")
        )
        return torch.tensor(memory_retention_rate(retain, forget), dtype=torch.float32, device=self.device)
