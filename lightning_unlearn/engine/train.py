"""Train one classifier on a Trainer's device, precision and ranks, outside its loop."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.seeds import derive_seed, isolated_rng
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.loading import BatchLoader
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.models.freezing import hold_statistics
from lightning_unlearn.models.statistics import by_running_statistics, running_layers

Loss = Callable[[Tensor, Tensor], Tensor]

default_optimizer = partial(torch.optim.Adam, lr=1e-3)
"""Makes the optimizer of whatever model is trained where none is given."""


def train_classifier(
    module: nn.Module,
    loader: BatchLoader,
    *,
    epochs: int,
    optimizer: OptimizerCallable,
    runtime: Runtime,
    lr_scheduler: LRSchedulerCallable | None = None,
    loss: Loss | None = None,
    step: Callable[[nn.Module, Any], Tensor] | None = None,
    adapter: Adapter | None = None,
    seed: int = 0,
) -> Tensor:
    """Train a classifier in place, as reference and shadow models are.

    Gradients are averaged over the samples of all ranks each step and buffers are shared at the end, so every rank
    ends with the same model. The global random state is left as it was; dropout draws from ``seed`` and the rank.

    Args:
        module: Any model whose output holds logits, already on the runtime's device.
        loader: Training batches; its epoch is set before each pass.
        epochs: Passes over the loader, >= 1.
        optimizer: Makes the optimizer from the trainable parameters.
        runtime: Device, precision and ranks.
        lr_scheduler: Makes a schedule that is stepped once an epoch; ``None`` for a constant rate.
        loss: Loss of logits ``(B, C)`` and targets ``(B,)``; ``None`` for the adapter's task's.
        step: Returns the loss of the module on a batch, in place of ``loss``.
        adapter: How batches and outputs are taken apart.
        seed: Seed of whatever the model itself draws.

    Returns:
        The loss curve, ``(epochs,)`` float32 on the CPU: each epoch's mean over this rank's steps.

    Raises:
        ValueError: If ``epochs`` < 1.
        FloatingPointError: If the loss of an epoch is not finite.
    """
    in_range("epochs", epochs, "[1, inf)", whole=True)
    adapter = adapter or Adapter()
    loss = loss or adapter.kind.batch_loss
    trainable = [p for p in module.parameters() if p.requires_grad]
    stepper = optimizer(trainable)
    schedule: Any = None if lr_scheduler is None else lr_scheduler(stepper)
    scaler = runtime.grad_scaler()
    normalisations = running_layers(module).values()
    curve = torch.empty(epochs)
    module.train()
    hold_statistics(module)
    with (
        isolated_rng(derive_seed(seed, "training", runtime.rank)),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        for epoch in range(epochs):
            loader.sampler.set_epoch(epoch)
            total = torch.zeros((), device=runtime.device)
            for number, batch in enumerate(loader):
                moved = runtime.to_device(batch)
                inputs, targets = adapter.split(moved)
                # a batch of one sample has no statistics of its own
                single = by_running_statistics(normalisations if len(targets) == 1 else ())
                with runtime.forward_context(), single:
                    value = step(module, moved) if step else loss(adapter.call(module, inputs), targets)
                stepper.zero_grad()
                scaler.scale(value * loader.sampler.share(number)).backward()  # type: ignore[no-untyped-call]
                runtime.average_gradients(module)
                scaler.step(stepper)
                scaler.update()
                total += value.detach()
            if schedule is not None:
                schedule.step()
            curve[epoch] = total / len(loader)
            runtime.require_finite(
                total,
                f"the loss became {{}} in epoch {epoch + 1} of training {type(module).__name__}; check the data for "
                "NaN or infinite values, or lower the learning rate",
            )
    stepper.zero_grad()  # or they would be held as long as the model
    runtime.share_buffers(module)
    return curve
