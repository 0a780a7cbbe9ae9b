"""What a model answered in a step: whether these are logits of the data's classes, and how many are right."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.loading import Indexed

__all__ = ["batch_accuracies", "require_logits"]

_SLACK, _HALF_SLACK = 1e-3, 3e-2  # how far from 1 posteriors may sum; bfloat16 has three digits


def require_logits(logits: Tensor, targets: Tensor, model: str) -> None:
    """Refuse posteriors in place of logits, and targets outside the classes.

    Args:
        logits: What a model answered, ``(B, C)``.
        targets: Classes that occur in the data, int64.
        model: The model's class, for the message.

    Raises:
        ValueError: If rows are posteriors, or a target is below 0 or at least C.
    """
    rows = logits.detach().float()
    slack = _SLACK if logits.dtype in (torch.float32, torch.float64) else _HALF_SLACK
    if bool((rows >= 0).all()) and torch.allclose(rows.sum(dim=-1), rows.new_ones(len(rows)), atol=slack):
        raise ValueError(
            f"the forward of {model} gives probabilities (rows are >= 0 and sum to 1); unlearning needs "
            "logits, so return the values before the softmax (or their logarithm, in an Adapter's call())"
        )
    classes = logits.shape[-1]
    if int(targets.max()) >= classes or int(targets.min()) < 0:
        raise ValueError(
            f"{model} has {classes} classes, but the data has targets from {int(targets.min())} to "
            f"{int(targets.max())}; use the model that was trained on this data, or say where logits and targets are "
            "with Adapter(logits=..., targets=...)"
        )


def batch_accuracies(
    answered: Iterable[tuple[Tensor, Tensor]], batch: Mapping[str, Any], adapter: Adapter
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
    # told by their targets: a strategy may have put the same tensors into new containers
    names = {id(adapter.split(part)[1]): name for name, part in parts.items()}
    return {
        names[id(targets)]: (logits.argmax(dim=-1) == targets).float().mean()
        for logits, targets in answered
        if id(targets) in names
    }
