"""Hand-written loops that do what a method does, and nothing else; they know no Trainer."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_unlearn import methods as unlearn
from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.functional import annealed, bounded_ascent

__all__ = ["METHODS", "answers", "bare_epoch", "beside", "divergence", "reference_kl_epoch"]

METHODS = ("ReferenceKL", "FineTune", "NegGradPlus", "SCRUB")
"""Those that :func:`beside` has a loop for."""

Loss = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], Tensor]
"""Of the logits and the targets of each stream, and the places of the first stream's samples in it."""


def bare_epoch(
    model: nn.Module,
    data: UnlearningDataModule,
    streams: Sequence[str],
    loss: Loss,
    batch_size: int,
    *,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    epochs: int = 0,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Callable[[], None]:
    """Return one pass over the first stream, with as many samples of the second beside it, over tensors in memory.

    Both batches go through the model at once, unless it has batch normalisation.

    Args:
        model: Trained in place.
        data: Split data that is held as one :class:`TensorData`.
        streams: One or two of ``forget`` and ``retain``.
        loss: What is minimised.
        batch_size: Samples of either stream a step.
        optimizer: Makes the optimizer; None for Adam with learning rate 1e-3.
        epochs: Epochs over which the rate warms up and falls, step by step; 0 for a constant rate.
        device: Where to compute.
        dtype: Type to compute forward passes in; ``None`` for float32.
    """
    train = data.inner
    assert isinstance(train, TensorData)
    device = device or torch.device("cpu")
    parts = [torch.as_tensor(getattr(data.split, stream), device=device) for stream in streams]
    held = TensorData(train.inputs.to(device), train.targets.to(device), transform=train.transform)
    model = model.to(device).train()
    separate = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    precision = torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
    stepper = (optimizer or (lambda ours: torch.optim.Adam(ours, lr=1e-3)))(model.parameters())
    steps = epochs * -(-len(parts[0]) // batch_size)
    schedule = steps and LambdaLR(
        stepper, lambda step: annealed(min(step, steps - 1), steps, warm_up=0.2, end=0.02)
    )

    def epoch() -> None:
        size = len(parts[0])
        orders = [
            torch.cat([torch.randperm(len(part), device=device) for _ in range(-(-size // len(part)))])
            for part in parts
        ]
        for start in range(0, size, batch_size):
            chosen = [order[:size][start : start + batch_size] for order in orders]
            batches = [held.batch(part[places]) for part, places in zip(parts, chosen, strict=True)]
            with precision:
                if separate:
                    logits = [model(inputs) for inputs, _ in batches]
                else:
                    logits = list(
                        model(torch.cat([x for x, _ in batches])).split([len(x) for x, _ in batches])
                    )
            value = loss([one.float() for one in logits], [targets for _, targets in batches], chosen[0])
            stepper.zero_grad()
            value.backward()
            stepper.step()
            if schedule:
                schedule.step()

    return epoch


def answers(
    model: nn.Module,
    data: UnlearningDataModule,
    stream: str,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the logits of a teacher on a stream, as they are kept for all epochs."""
    train, device = data.inner, device or torch.device("cpu")
    model = model.to(device).eval()
    with (
        torch.no_grad(),
        torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        places = torch.as_tensor(getattr(data.split, stream)).split(512)
        return torch.cat([model(train.batch(part, device=device)[0]).float() for part in places])


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence from a teacher's answers."""
    return F.kl_div(logits.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


def reference_kl_epoch(
    model: nn.Module,
    reference: nn.Module,
    data: UnlearningDataModule,
    lambda_: float,
    batch_size: int,
    *,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    **where: Any,
) -> Callable[[], None]:
    """Return an epoch of ReferenceKL, the reference's answers kept; ``where`` is device and dtype."""
    known = answers(reference, data, "forget", **where)

    def loss(logits: Sequence[Tensor], targets: Sequence[Tensor], chosen: Tensor) -> Tensor:
        return lambda_ * divergence(logits[0], known[chosen]) + (1 - lambda_) * F.cross_entropy(
            logits[1], targets[1]
        )

    return bare_epoch(model, data, ("forget", "retain"), loss, batch_size, optimizer=optimizer, **where)


def beside(
    name: str, net: nn.Module, data: UnlearningDataModule, batch_size: int, epochs: int, **how: Any
) -> tuple[unlearn.UnlearningModule, Callable[[], None]]:
    """Return one of :data:`METHODS` and an epoch of a bare loop that does its arithmetic: of SCRUB on the retain set.

    Args:
        name: The method.
        net: The source; the loop trains a copy.
        data: Split data that is held as one :class:`TensorData`.
        batch_size: Samples of either stream a step.
        epochs: Those of the fit, over which three of them anneal the rate.
        **how: ``optimizer`` of both, and ``device`` and ``dtype`` of the loop.
    """
    method, other, teacher = getattr(unlearn, name), copy.deepcopy(net), copy.deepcopy(net)
    own: dict[str, Any] = {"optimizer": how.get("optimizer")}
    if name == "ReferenceKL":
        ours = method(net, 0.01, teacher, **own)
        return ours, reference_kl_epoch(other, teacher, data, 0.01, batch_size, **how)
    if name == "SCRUB":
        own["msteps"] = 1
        where = {key: value for key, value in how.items() if key != "optimizer"}
        known = answers(teacher, data, "retain", **where)
    if name == "NegGradPlus":
        own["ascent_share"] = 1.0

    def loss(logits: Sequence[Tensor], targets: Sequence[Tensor], chosen: Tensor) -> Tensor:
        ce = F.cross_entropy(logits[0], targets[0])
        if name == "SCRUB":
            return ce + 0.1 * divergence(logits[0], known[chosen])
        if name == "NegGradPlus":
            return 0.77 * ce + 0.23 * bounded_ascent(F.cross_entropy(logits[1], targets[1]), 6.0)
        return ce

    streams = ("retain", "forget") if name == "NegGradPlus" else ("retain",)
    return method(net, **own), bare_epoch(other, data, streams, loss, batch_size, epochs=epochs, **how)
