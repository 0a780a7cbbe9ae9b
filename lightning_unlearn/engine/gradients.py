"""Measure statistics of a model's gradients over a stream, per sample, on all ranks together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.loading import Indexed
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.functional.gradients import Statistic, add_statistics, sample_gradients
from lightning_unlearn.models.freezing import trainable
from lightning_unlearn.models.surgery import call_with, evaluating

Objective = Callable[[Mapping[str, Tensor], Any, Tensor], Tensor]


def gradient_statistics(
    model: nn.Module,
    data: UnlearningDataModule,
    stream: str,
    statistics: Sequence[Statistic],
    *,
    runtime: Runtime,
    loss: Loss | None = None,
    adapter: Adapter | None = None,
    positions: np.ndarray[Any, Any] | None = None,
    per_sample: bool = True,
) -> dict[Statistic, dict[str, Tensor]]:
    """Average statistics of the samples' own gradients over a stream.

    In evaluation mode, so that no sample touches another and no running statistics move, not augmented, and in full
    precision. The result does not depend on the batch size, nor on the number of ranks, but for rounding. A model that
    :func:`torch.func.vmap` cannot batch over samples is asked one sample at a time, with a warning.

    Args:
        model: The model, on the runtime's device; its parameters that do not require a gradient are left out.
        data: The split data, set up.
        stream: Which samples: ``forget``, ``retain``, ``train`` or ``nonmember``.
        statistics: What to measure: ``"mean"`` of the gradients (which costs one pass), ``"magnitude"`` for the mean of
            :math:`|g|`, ``"square"`` for that of :math:`g^2`, ``"norm"`` for that of the L2 norm by whole tensors.
        runtime: Device, precision and ranks.
        loss: Of what: a function of logits ``(B, C)`` and targets ``(B,)``, a mean over samples;
            ``None`` for that of the adapter's task.
        adapter: How batches and outputs are taken apart.
        positions: A subset of the stream, as positions in its dataset; ``None`` for all of it.
        per_sample: ``False`` takes each batch's mean for the gradient of all its samples.

    Returns:
        Float32 means (or of the parameters' type, if that is wider) by statistic and parameter name, of the parameters'
        shapes (scalars for ``"norm"``), on the model's device, the same on every rank.
    """
    adapter = adapter or Adapter()
    objective = loss_of(model, adapter, loss or adapter.kind.batch_loss)
    parameters = {name: parameter.detach() for name, parameter in trainable(model).items()}
    totals = {
        kind: {name: _zeros(p, scalar=kind == "norm") for name, p in parameters.items()}
        for kind in statistics
    }
    loader = data.loader(stream, positions=positions, indexed=True)
    gradients_of = _of_batch if not per_sample or set(statistics) <= {"mean"} else None
    with differentiating(model, runtime):
        for batch in loader:
            inputs, targets, weights = counted(batch, adapter, runtime)
            gradients_of = gradients_of or _way(objective, parameters, inputs, targets)
            for gradients, counts in gradients_of(objective, parameters, inputs, targets, weights):
                add_statistics(totals, gradients, counts)
    for by_name in totals.values():
        for total in by_name.values():
            runtime.add_up(total)
            total /= loader.sampler.size
    return totals


@contextmanager
def differentiating(model: nn.Module, runtime: Runtime) -> Iterator[None]:
    """Let gradients be taken of a model in evaluation mode and full precision, whatever the trainer is at."""
    with (
        evaluating(model),
        runtime.not_training(),
        runtime.forward_context(),
        torch.autocast(runtime.device.type, enabled=False),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield


def counted(batch: Any, adapter: Adapter, runtime: Runtime) -> tuple[Any, Tensor, Tensor]:
    """Return inputs, targets and weights ``(B,)`` of a batch, 0 for a sample repeated to give every rank one."""
    assert isinstance(batch, Indexed)
    inputs, targets = adapter.split(runtime.to_device(batch.batch))
    weights = (batch.index % runtime.world_size == runtime.rank).to(runtime.device, torch.float32)
    return inputs, targets, weights


def loss_of(model: nn.Module, adapter: Adapter, loss: Loss) -> Objective:
    """Return a loss on a batch as a function of the model's parameters, by name, inputs and targets."""
    module = _Objective(model, adapter, loss)

    def objective(parameters: Mapping[str, Tensor], inputs: Any, targets: Tensor) -> Tensor:
        own = {f"model.{name}": value for name, value in parameters.items()}
        value: Tensor = call_with(module, own, inputs, targets)
        return value

    return objective


class _Objective(nn.Module):
    """A loss on a batch as a module, so that the model's parameters can be replaced."""

    def __init__(self, model: nn.Module, adapter: Adapter, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.adapter = adapter
        self.loss = loss

    def forward(self, inputs: Any, targets: Tensor) -> Tensor:
        return self.loss(self.adapter.call(self.model, inputs), targets)


Gradients = Iterator[tuple[dict[str, Tensor], Tensor]]


def _zeros(parameter: Tensor, *, scalar: bool) -> Tensor:
    kind = torch.promote_types(parameter.dtype, torch.float32)
    return torch.zeros(() if scalar else parameter.shape, dtype=kind, device=parameter.device)


def _way(
    objective: Objective, parameters: Mapping[str, Tensor], inputs: Any, targets: Tensor
) -> Callable[..., Gradients]:
    """Return how to take a batch's gradients: all samples at once, or one by one where that fails."""
    first = apply_to_collection((inputs, targets), Tensor, lambda value: value[:1])
    try:
        list(sample_gradients(_of_sample(objective), parameters, first))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        rank_zero_warn(
            "gradients are taken one sample at a time, which is slow: the model does something that torch.func.vmap "
            f"cannot batch over samples ({str(error).splitlines()[0]})"
        )
        return _one_by_one
    return _all_at_once


def _of_sample(objective: Objective) -> Objective:
    def of_sample(parameters: Mapping[str, Tensor], inputs: Any, target: Tensor) -> Tensor:
        batch = apply_to_collection((inputs, target), Tensor, lambda value: value.unsqueeze(0))
        return objective(parameters, *batch)

    return of_sample


def _all_at_once(
    objective: Objective, parameters: Mapping[str, Tensor], inputs: Any, targets: Tensor, weights: Tensor
) -> Gradients:
    for chosen, gradients in sample_gradients(_of_sample(objective), parameters, (inputs, targets)):
        yield gradients, weights[chosen]


def _one_by_one(
    objective: Objective, parameters: Mapping[str, Tensor], inputs: Any, targets: Tensor, weights: Tensor
) -> Gradients:
    for place in range(len(targets)):
        one = slice(place, place + 1)
        own = apply_to_collection(inputs, Tensor, lambda value: value[one])  # noqa: B023  used at once
        yield from _of_batch(objective, parameters, own, targets[one], weights[one])


def _of_batch(
    objective: Objective, parameters: Mapping[str, Tensor], inputs: Any, targets: Tensor, weights: Tensor
) -> Gradients:
    """Yield the gradient of the batch's mean, with the weight of all its samples."""
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    found = torch.autograd.grad(
        objective(leaves, inputs, targets), list(leaves.values()), materialize_grads=True
    )
    yield (
        {name: gradient.unsqueeze(0) for name, gradient in zip(leaves, found, strict=True)},
        weights.sum().unsqueeze(0),
    )
