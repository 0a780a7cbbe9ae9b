"""Multiply by the curvature of a model's loss over a stream, on all ranks together."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.engine.gradients import counted, differentiating, loss_of
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.models.freezing import trainable


def gauss_newton_product(
    model: nn.Module,
    data: UnlearningDataModule,
    stream: str,
    *,
    runtime: Runtime,
    loss: Loss | None = None,
    adapter: Adapter | None = None,
    positions: np.ndarray[Any, Any] | None = None,
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    r"""Return what multiplies by the Gauss-Newton matrix :math:`E[J^T H J]` of a loss over a stream.

    J is the Jacobian of the logits by the parameters, H the Hessian of a sample's loss by its logits. Of the
    cross-entropy the matrix is the Fisher information, positive semi-definite, and the loss's Hessian but for a term
    that vanishes as the model fits its data. In evaluation mode and full precision; each is a pass over the stream.

    Args:
        model: The model, on the runtime's device; its parameters that do not require a gradient are left out.
        data: The split data, set up.
        stream: Which samples.
        runtime: Device, precision and ranks.
        loss: A function of logits ``(B, C)`` and targets ``(B,)``, a mean over samples;
            ``None`` for that of the adapter's task.
        adapter: How batches and outputs are taken apart.
        positions: A subset of the stream, as positions in its dataset; ``None`` for all of it.

    Returns:
        A function of a vector, by parameter name, that returns the product, the same on every rank.
    """
    adapter = adapter or Adapter()
    loss = loss or adapter.kind.batch_loss
    logits_of = loss_of(model, adapter, lambda logits, _: logits)
    parameters = {name: parameter.detach() for name, parameter in trainable(model).items()}
    loader = data.loader(stream, positions=positions, indexed=True)

    def of_batch(inputs: Any, targets: Tensor, vector: dict[str, Tensor]) -> dict[str, Tensor]:
        def forward(own: dict[str, Tensor]) -> Tensor:
            return logits_of(own, inputs, targets)

        logits, pull = torch.func.vjp(forward, parameters)[:2]
        # J times the vector, as the gradient of what is linear: forward differentiation lacks more operations
        pull_twice = torch.func.vjp(lambda values: pull(values)[0], torch.zeros_like(logits))[1]
        tangent: Tensor = pull_twice(vector)[0].detach()
        slope = torch.func.grad(lambda values: loss(values, targets))
        curved = torch.func.grad(lambda values: (slope(values) * tangent).sum())(logits.detach())
        pulled: dict[str, Tensor] = pull(curved)[0]
        return pulled

    def product(vector: dict[str, Tensor]) -> dict[str, Tensor]:
        totals = {name: torch.zeros_like(value) for name, value in vector.items()}
        with differentiating(model, runtime):
            for batch in loader:
                inputs, targets, weights = counted(batch, adapter, runtime)
                for name, value in of_batch(inputs, targets, vector).items():
                    totals[name] += value.detach() * weights.sum()
        for total in totals.values():
            runtime.add_up(total)
            total /= loader.sampler.size
        return totals

    return product
