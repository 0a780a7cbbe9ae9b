"""Find the layers of a network that keep running statistics, and choose what they normalise with."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.nn.functional import all_reduce

from lightning_unlearn.core.compat import AnyInstanceNorm, AnyRunningNorm
from lightning_unlearn.core.processes import in_group

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


class OtherOrderError(RuntimeError):
    """A layer's batch is not that of the model, so nobody can tell whose samples are where."""


@contextmanager
def by_last_statistics(layers: Sequence[AnyRunningNorm], size: int, last: int) -> Iterator[None]:
    """Normalise a whole batch by the statistics of its last samples, which the running ones follow.

    One pass gives what :func:`noted_statistics` and :func:`by_noted_statistics` give in two.

    Args:
        layers: Batch normalisations in training mode, for which :func:`are_plain` holds.
        size: Samples of the batch.
        last: How many of them, at the end, make the statistics.

    Raises:
        OtherOrderError: In the forward pass, if a layer is given another batch.
    """

    def normalise(layer: AnyRunningNorm, inputs: Tensor) -> Tensor:
        if len(inputs) != size:
            raise OtherOrderError(f"a batch of {size} reaches a layer as {len(inputs)}")
        assert layer.num_batches_tracked is not None
        layer.num_batches_tracked.add_(1)
        momentum = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        moved = layer.running_mean, layer.running_var, momentum
        function = _FusedByLast if inputs.is_cuda and _is_precise(layer) else _ByLast
        normalised: Tensor = function.apply(inputs, layer.weight, layer.bias, last, layer.eps, moved)
        return normalised

    with ExitStack() as stack:
        _see_changes(stack)
        for layer in layers:
            layer.forward = partial(normalise, layer)
            stack.callback(layer.__dict__.pop, "forward")
        yield


def are_plain(layers: Iterable[nn.Module]) -> bool:
    """Whether all are PyTorch's own batch normalisation of one process, which does nothing else."""
    return all(type(layer) in _PLAIN and "forward" not in vars(layer) for layer in layers)


_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _ByLast(torch.autograd.Function):
    """Batch normalisation by the statistics of the last samples of a batch, through which gradients flow."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        last: int,
        eps: float,
        moved: tuple[Tensor, Tensor, float],
    ) -> Tensor:
        known, (running_mean, running_variance, momentum) = _precise(inputs[-last:]), moved
        variance, mean = torch.var_mean(known, (0, *range(2, known.ndim)), correction=0)
        count = known.numel() // len(mean)
        unbiased = variance.mul(count / (count - 1)).to(running_variance.dtype)
        mean, variance = mean.to(running_mean.dtype), variance.to(running_variance.dtype)
        running_mean.lerp_(mean, momentum)
        running_variance.lerp_(unbiased, momentum)
        ctx.save_for_backward(inputs, weight, mean, variance)
        ctx.last, ctx.eps, ctx.has_bias = last, eps, bias is not None
        return F.batch_norm(inputs, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, variance = ctx.saved_tensors
        slope = torch.ones_like(mean) if weight is None else weight.detach()
        with torch.enable_grad():
            x, w, b = (value.detach().requires_grad_() for value in (inputs, slope, torch.zeros_like(slope)))
            outputs = F.batch_norm(x, mean, variance, w, b, training=False, eps=ctx.eps)
        back, of_weight, of_bias = torch.autograd.grad(outputs, (x, w, b), gradient)
        # through mean and variance, of which the last samples alone know
        last, mean, scale = (
            _precise(inputs[-ctx.last :]),
            _precise(mean),
            (_precise(variance) + ctx.eps).rsqrt(),
        )
        shape = (-1, *[1] * (inputs.ndim - 2))
        factor = (scale * slope).div(-(last.numel() // len(mean)))
        steep = factor * scale * of_weight
        back[-ctx.last :] += torch.addcmul(
            (factor * of_bias - steep * mean).view(shape), last, steep.view(shape)
        )
        return (
            back,
            None if weight is None else of_weight,
            of_bias if ctx.has_bias else None,
            None,
            None,
            None,
        )


class _FusedByLast(torch.autograd.Function):
    """The same by the kernels of ``SyncBatchNorm``, which only CUDA has: fewer launches, for which small steps wait."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        last: int,
        eps: float,
        moved: tuple[Tensor, Tensor, float],
    ) -> Tensor:
        inputs = inputs.contiguous(memory_format=_dense(inputs))
        running_mean, running_variance, momentum = moved
        known = inputs[-last:]
        means, scales = (values[None] for values in torch.batch_norm_stats(known, eps))
        count = known.numel() // inputs.shape[1]
        mean, scale = torch.batch_norm_gather_stats_with_counts(
            known,
            means,
            scales,
            running_mean,
            running_variance,
            momentum,
            eps,
            means.new_full((1,), count),
        )
        ctx.save_for_backward(inputs, weight, mean, scale)
        ctx.last, ctx.count, ctx.has_bias = last, count, bias is not None
        return torch.batch_norm_elemt(inputs, weight, bias, mean, scale, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, scale = ctx.saved_tensors
        gradient, last = gradient.contiguous(memory_format=_dense(inputs)), ctx.last
        total, product, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, inputs, mean, scale, weight, True, weight is not None, ctx.has_bias
        )
        nothing = torch.zeros_like(total)
        count = torch.full((1,), ctx.count, dtype=torch.int32, device=inputs.device)
        others, known = (
            torch.batch_norm_backward_elemt(
                gradient[part], inputs[part], mean, scale, weight, first, second, count
            )
            for part, first, second in (
                (slice(None, -last), nothing, nothing),
                (slice(-last, None), total, product),  # through mean and variance, of which these alone know
            )
        )
        return torch.cat((others, known)), of_weight, of_bias, None, None, None


def _is_precise(layer: AnyRunningNorm) -> bool:
    """Whether weights and statistics are in one type of full precision, as those kernels ask for."""
    kinds = {value.dtype for value in (layer.running_mean, layer.weight, layer.bias) if value is not None}
    return kinds in ({torch.float32}, {torch.float64})


def _dense(values: Tensor) -> torch.memory_format:
    """Return how values lie, or would without gaps."""
    for layout, axes in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if values.ndim == axes and values.is_contiguous(memory_format=layout):
            return layout
    return torch.contiguous_format


def _precise(values: Tensor) -> Tensor:
    """Return values in float32 at least."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _see_changes(stack: ExitStack) -> None:
    """Have compiled networks run as they were written: what is changed after compiling they do not see."""
    if "torch._dynamo" in sys.modules:  # or nothing was compiled
        stack.enter_context(torch.compiler.set_stance("force_eager"))


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
        _see_changes(stack)
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
        _see_changes(stack)
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
    if isinstance(layer, AnyInstanceNorm):
        # in evaluation mode it has one mean and variance for all instances
        variance, mean = torch.var_mean(values, tuple(range(2, values.ndim)), keepdim=True)
        mean, variance = mean.mean(0, keepdim=True), variance.mean(0, keepdim=True)
    else:
        around = (0, *range(2, values.ndim))
        variance, mean = torch.var_mean(values, around, correction=0, keepdim=True)
        if isinstance(layer, nn.SyncBatchNorm) and _world_size(layer) > 1:
            count = values.new_full((), values.numel() / values.shape[1])
            sums = torch.stack([mean * count, (variance + mean.square()) * count, count.expand_as(mean)])
            group = layer.process_group or torch.distributed.group.WORLD
            first, second, total = all_reduce(sums, group=group)  # type: ignore[no-untyped-call]
            mean = first / total
            variance = second / total - mean.square()
    return mean, torch.rsqrt(variance + layer.eps)


def _world_size(layer: nn.SyncBatchNorm) -> int:
    return torch.distributed.get_world_size(layer.process_group) if in_group() else 1
