"""Find the layers of a network that keep running statistics, and choose what they normalise with."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from lightning_unlearn.core.compat import AnyInstanceNorm, AnyRunningNorm

__all__ = [
    "by_noted_statistics",
    "by_running_statistics",
    "noted_statistics",
    "other_buffers",
    "running_layers",
]

# of each layer, for each time it was called: the mean, and one over the standard deviation
Noted: TypeAlias = dict[AnyRunningNorm, list[tuple[Tensor, Tensor]]]


def running_layers(model: nn.Module) -> dict[str, AnyRunningNorm]:
    """Return the batch and instance normalisations that keep running statistics, by name.

    Ask anew each time: Lightning converts layers after a module is built (``sync_batchnorm=True``).

    Args:
        model: Any module.

    Example:
        >>> list(running_layers(nn.Sequential(nn.BatchNorm1d(3), nn.InstanceNorm1d(3), nn.LayerNorm(3))))
        ['0']
    """
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, AnyRunningNorm) and layer.running_mean is not None
    }


def other_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers that may follow the batches in a way we do not know, by name.

    Left out are those of :func:`running_layers`, integers, and the power iteration of spectral norm, which follows
    the weights alone.
    """
    known = tuple(f"{name}." for name in running_layers(model)) or ("\0",)
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point()
        and not name.startswith(known)
        and ".parametrizations." not in f".{name}"
        and not name.endswith(("weight_u", "weight_v"))
    }


@contextmanager
def by_running_statistics(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Normalise by the running statistics, as in evaluation mode, and do not move them.

    Layers that share statistics among processes (SyncBatchNorm) stay as they are: their batch is that of all
    processes, and one that did not take part would make the others wait.

    Args:
        layers: The normalisation layers.
    """
    training = [layer for layer in layers if layer.training and not isinstance(layer, nn.SyncBatchNorm)]
    for layer in training:
        layer.training = False
    try:
        yield
    finally:
        for layer in training:
            layer.training = True


@contextmanager
def noted_statistics(layers: Sequence[AnyRunningNorm]) -> Iterator[Noted]:
    """Note what layers normalise a batch with, as tensors that gradients flow through.

    Args:
        layers: Layers in training mode.

    Yields:
        What was noted, for :func:`by_noted_statistics`.
    """
    noted: Noted = {layer: [] for layer in layers}

    def note(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, AnyRunningNorm)
        noted[layer].append(_statistics(layer, arguments[0]))

    with ExitStack() as stack:
        # a compiled forward does not see hooks that came after it was compiled
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(note).remove)
        yield noted


@contextmanager
def by_noted_statistics(noted: Noted) -> Iterator[None]:
    """Normalise another batch by what was noted of the last one, and move no running statistics.

    A layer's input is standardised in front of it; the layer itself, which may do more than normalise, runs in
    evaluation mode with mean 0 and variance 1.

    Args:
        noted: What :func:`noted_statistics` gave.
    """
    left = {layer: list(values) for layer, values in noted.items()}
    before = {layer: (layer.running_mean, layer.running_var) for layer in noted}

    def standardise(layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert isinstance(layer, AnyRunningNorm)
        mean, scale = left[layer].pop(0)
        inputs, *others = arguments
        return ((inputs.float() - mean) * scale).to(inputs.dtype), *others

    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for layer, (mean, variance) in before.items():
            assert mean is not None
            assert variance is not None
            stack.callback(layer.register_forward_pre_hook(standardise).remove)
            layer.training = False
            layer.running_mean, layer.running_var = (
                torch.zeros_like(mean),
                torch.full_like(variance, 1 - layer.eps),
            )
        try:
            yield
        finally:
            for layer, (mean, variance) in before.items():
                layer.training = True
                layer.running_mean, layer.running_var = mean, variance


def _statistics(layer: AnyRunningNorm, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and one over the standard deviation of a batch ``(B, C, ...)``, shaped to be broadcast to it."""
    values = inputs.float()
    if isinstance(
        layer, AnyInstanceNorm
    ):  # in evaluation mode it has one mean and variance for all instances
        variance, mean = torch.var_mean(values, tuple(range(2, values.ndim)), keepdim=True)
        mean, variance = mean.mean(0, keepdim=True), variance.mean(0, keepdim=True)
    else:
        around = (0, *range(2, values.ndim))
        variance, mean = torch.var_mean(values, around, correction=0, keepdim=True)
        if isinstance(layer, nn.SyncBatchNorm) and _world_size(layer) > 1:
            count = values.new_full((), values.numel() / values.shape[1])
            sums = torch.stack([mean * count, (variance + mean.square()) * count, count.expand_as(mean)])
            first, second, total = all_reduce(
                sums, group=layer.process_group or torch.distributed.group.WORLD
            )  # type: ignore[no-untyped-call]
            mean = first / total
            variance = second / total - mean.square()
    return mean, torch.rsqrt(variance + layer.eps)


def _world_size(layer: nn.SyncBatchNorm) -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size(layer.process_group) if ready else 1
