"""Hand-written loops that do what a method does, and nothing else; they know no Trainer."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from lightning_unlearn.data import TensorData, UnlearningDataModule

__all__ = ["reference_kl_epoch"]


def reference_kl_epoch(
    model: nn.Module,
    reference: nn.Module,
    data: UnlearningDataModule,
    lambda_: float,
    batch_size: int,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Callable[[], None]:
    """Return an epoch of ReferenceKL over tensors in memory, the reference's answers kept.

    Both batches go through the model at once, unless it has batch normalisation.

    Args:
        model: Trained in place, by Adam with learning rate 1e-3.
        reference: The reference model.
        data: Split data that is held as one :class:`TensorData`.
        lambda_: Weight of the KL term.
        batch_size: Samples of either set a step.
        device: Where to compute.
        dtype: Type to compute forward passes in; ``None`` for float32.
    """
    train = data.inner
    assert isinstance(train, TensorData)
    device = device or torch.device("cpu")
    forget, retain = (torch.as_tensor(part, device=device) for part in (data.split.forget, data.split.retain))
    held = TensorData(train.inputs.to(device), train.targets.to(device), transform=train.transform)
    model, reference = model.to(device).train(), reference.to(device).eval()
    separate = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    precision = torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
    with torch.no_grad(), precision:
        answers = torch.cat([reference(held.batch(part)[0]).float() for part in forget.split(512)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def epoch() -> None:
        order = torch.randperm(len(forget), device=device)
        beside = retain[torch.randperm(len(retain), device=device)[: len(forget)]]
        for start in range(0, len(forget), batch_size):
            chosen = order[start : start + batch_size]
            forgotten, _ = held.batch(forget[chosen])
            retained, targets = held.batch(beside[start : start + batch_size])
            with precision:
                if separate:
                    ours, others = model(forgotten), model(retained)
                else:
                    ours, others = model(torch.cat([forgotten, retained])).split(
                        [len(forgotten), len(retained)]
                    )
            kl = F.kl_div(
                ours.float().log_softmax(-1),
                answers[chosen].log_softmax(-1),
                reduction="batchmean",
                log_target=True,
            )
            loss = lambda_ * kl + (1 - lambda_) * F.cross_entropy(others.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch
