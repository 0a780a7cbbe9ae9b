"""Estimate a network's running statistics anew on the retain set, under the Trainer's strategy and precision."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from lightning_unlearn.core.compat import AnyRunningNorm
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.loading import BatchLoader
from lightning_unlearn.engine.runtime import Runtime
from lightning_unlearn.models.statistics import running_layers

_MOST_SAMPLES = 2000


def estimate_statistics(
    model: nn.Module,
    names: Sequence[str],
    data: UnlearningDataModule,
    runtime: Runtime,
    adapter: Adapter | None = None,
) -> None:
    """Set the running statistics of some layers to what they are on the retain set alone, in place.

    At most 2,000 retained samples, drawn by the datamodule's seed and not augmented, go through in batches of its
    batch size. A layer's mean and variance are the means, over these batches, of the batch's mean and unbiased
    variance, as a cumulative average gives them (``momentum=None``); the layers in front normalise by their batch
    meanwhile. Everything else is in evaluation mode, so no dropout is switched on. The batches are dealt to the
    ranks whole, so the result does not depend on how many there are.

    :func:`torch.optim.swa_utils.update_bn` is not enough: it resets frozen layers too, switches dropout on, leaves
    out instance normalisation, and knows no ranks.

    Args:
        model: The network, on the runtime's device.
        names: Layers of :func:`~lightning_unlearn.models.statistics.running_layers`; the others stay as they are.
        data: The split data, set up.
        runtime: Device, precision and ranks.
        adapter: How batches are taken apart.

    A single retained sample has no variance: then a warning says that they stay those of training.
    """
    adapter = adapter or Adapter()
    if len(data.split.retain) < 2:
        rank_zero_warn(
            "forget: it leaves one sample to retain, on which normalisation layers cannot be estimated; their running "
            "statistics stay those of training, which the forget set went through"
        )
        return
    loader, counted = _batches(data, runtime)
    layers = [layer for name, layer in running_layers(model).items() if name in set(names)]
    statistics = [[layer.running_mean, layer.running_var] for layer in layers]
    flat = [tensor for pair in statistics for tensor in pair if tensor is not None]
    kind = torch.float32 if runtime.device.type == "mps" else torch.float64
    with runtime.asking(model), _one_batch_each(layers):
        sums = [torch.zeros_like(tensor, dtype=kind) for tensor in flat]
        for number, batch in enumerate(loader):
            inputs, _ = adapter.split(runtime.to_device(batch))
            with runtime.forward_context():
                adapter.call(model, inputs)
            if number < counted:
                for total, tensor in zip(sums, flat, strict=True):
                    total += tensor
        count = torch.tensor(float(counted), device=runtime.device)
        runtime.add_up(*sums, count)
        for total, tensor in zip(sums, flat, strict=True):
            tensor.copy_(total / count.to(total.dtype))


def _batches(data: UnlearningDataModule, runtime: Runtime) -> tuple[BatchLoader, int]:
    """Return this rank's batches, as many on every rank, and how many of them count: the rest fill up."""
    retain = data.split.retain
    drawn = np.random.default_rng(derive_seed(data.order_seed, "statistics")).permutation(retain)[
        :_MOST_SAMPLES
    ]
    batches = max(1, len(drawn) // max(2, data.loader("retain").batch_size))
    size = len(drawn) // batches
    rounds = -(-batches // runtime.world_size)
    mine = [runtime.rank + number * runtime.world_size for number in range(rounds)]
    positions = np.concatenate([drawn[(k % batches) * size : (k % batches + 1) * size] for k in mine])
    loader = data.loader("retain", positions=positions, batch_size=size, rank=0, world_size=1)
    return loader, sum(number < batches for number in mine)


@contextmanager
def _one_batch_each(layers: Sequence[AnyRunningNorm]) -> Iterator[None]:
    """Have running statistics be those of the last batch alone, with everything else in evaluation mode.

    Layers that share statistics among processes (``sync_batchnorm=True``) take their own process's: each has another
    batch, or one that only fills up.
    """
    shared: list[tuple[Any, Any]] = [
        (layer, layer.process_group) for layer in layers if hasattr(layer, "process_group")
    ]
    alone = torch.distributed.new_subgroups(1)[0] if shared and torch.distributed.is_initialized() else None
    for layer, _ in shared:
        layer.process_group = alone
    before = [(layer, layer.momentum, layer.num_batches_tracked) for layer in layers]
    seen = [None if count is None else count.clone() for _, _, count in before]
    for layer in layers:
        layer.training, layer.momentum = True, 1.0
    try:
        yield
    finally:
        for layer, group in shared:
            layer.process_group = group
        if alone is not None:
            torch.distributed.destroy_process_group(alone)
        for (layer, momentum, count), value in zip(before, seen, strict=True):
            layer.momentum = momentum
            if count is not None and value is not None:
                count.copy_(value)
