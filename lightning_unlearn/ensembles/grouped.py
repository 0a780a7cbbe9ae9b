"""Stacked models without ``vmap``: linear layers as batched products, convolutions as grouped ones.

``torch.func.vmap`` batches whatever a network does, but it turns convolutions into grouped ones in a layout that
costs more than it saves. Here the layout is chosen: images of k models lie side by side as channels, ``(B, k·C, H,
W)``, so that convolution, normalisation and pooling are one call each; rows lie as ``(k, B, F)``, so that a
linear layer is one batched product. Only the operations of ordinary image classifiers are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.models.surgery import call_with

__all__ = ["SideBySide", "grouped_forward"]


class SideBySide:
    """The same activation of k models; looks to a network like that of one.

    Args:
        data: ``(k, B, F)``, or ``(B, k·C, H, W)``.
        models: Number of models k.
    """

    def __init__(self, data: Tensor, models: int) -> None:
        self.data = data
        self.models = models

    @classmethod
    def of(cls, inputs: Tensor, models: int, shared: bool) -> SideBySide:
        """Lay out inputs ``(k, B, ...)``, or ``(B, ...)`` for all models alike when ``shared``."""
        if shared:
            inputs = inputs.expand(models, *inputs.shape)
        if inputs.ndim == 3:
            return cls(inputs, models)
        if inputs.ndim == 5:
            k, count, channels, height, width = inputs.shape
            # One copy, into channels_last.
            laid = inputs.permute(1, 3, 4, 0, 2).reshape(count, height, width, k * channels)
            return cls(laid.permute(0, 3, 1, 2), models)
        raise NotImplementedError(
            f"inputs of {inputs.ndim - 1} dimensions are known to be neither rows nor images"
        )

    @property
    def images(self) -> bool:
        """Whether this holds images and not rows."""
        return self.data.ndim == 4

    @property
    def shape(self) -> torch.Size:
        """The shape one model sees."""
        if self.images:
            count, channels, height, width = self.data.shape
            return torch.Size((count, channels // self.models, height, width))
        return self.data.shape[1:]

    @property
    def ndim(self) -> int:
        """The number of dimensions one model sees."""
        return len(self.shape)

    def dim(self) -> int:
        """Return the number of dimensions one model sees."""
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        """Return the shape one model sees, or one entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} of grouped models is not known")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the elements."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.data.device

    def contiguous(self) -> SideBySide:
        """Return itself: the layout is nobody else's business."""
        return self

    def like(self, data: Tensor) -> SideBySide:
        """Return another activation of the same models."""
        return SideBySide(data, self.models)

    def rows(self) -> Tensor:
        """Return everything a model has of a sample as one row, ``(k, B, F)``."""
        if not self.images:
            return self.data
        # The order of a row is channel, row, column, as in one model's flatten.
        return self.data.reshape(len(self), self.models, -1).transpose(0, 1)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> SideBySide:
        """Return rows; a batch can only be flattened behind its first dimension."""
        if start_dim != 1 or end_dim not in (-1, self.ndim - 1):
            raise NotImplementedError(f"flatten({start_dim}, {end_dim}) would mix samples or keep images")
        return self.like(self.rows())

    def view(self, *shape: Any) -> SideBySide:
        """Return rows, as ``view(len(x), -1)`` does."""
        wanted = shape[0] if len(shape) == 1 else shape
        if len(wanted) != 2 or wanted[0] != len(self):
            raise NotImplementedError(f"view{tuple(wanted)} keeps no rows")
        return self.like(self.rows())

    reshape = view

    def __add__(self, other: SideBySide) -> SideBySide:
        if not isinstance(other, SideBySide) or other.data.shape != self.data.shape:
            return NotImplemented
        return self.like(self.data + other.data)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> SideBySide:
        if func in _ELEMENTWISE or func in _IMAGEWISE:
            first = args[0]
            if not isinstance(first, SideBySide) or (func in _IMAGEWISE and not first.images):
                raise NotImplementedError(f"{func.__name__} of this is not known")
            return first.like(func(first.data, *args[1:], **(kwargs or {})))
        if func not in _RULES:
            raise NotImplementedError(f"{getattr(func, '__name__', func)} of grouped models is not known")
        return _RULES[func](*args, **(kwargs or {}))


def grouped_forward(
    network: nn.Module, adapter: Adapter, tensors: Mapping[str, Tensor], inputs: Tensor, shared: bool = False
) -> Tensor:
    """Compute the logits of stacked models layer by layer for all; see :data:`~.stacked.Forward`.

    Raises:
        NotImplementedError: If the network does anything no rule is known for.
    """
    models = len(next(iter(tensors.values())))
    output = call_with(network, tensors, SideBySide.of(inputs, models, shared))
    if not isinstance(output, SideBySide) or output.images:
        raise NotImplementedError("the network gives something else than logits")
    return output.data


def _linear(x: SideBySide, weight: Tensor, bias: Tensor | None = None) -> SideBySide:
    if x.images or weight.ndim != 3:
        raise NotImplementedError(
            "a linear layer over images, or with one weight for all models, is not known"
        )
    if bias is None:
        return x.like(torch.bmm(x.data, weight.transpose(1, 2)))
    return x.like(torch.baddbmm(bias[:, None], x.data, weight.transpose(1, 2)))


def _conv2d(
    x: SideBySide,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> SideBySide:
    if not x.images or weight.ndim != 5:
        raise NotImplementedError("a convolution over rows, or with one weight for all models, is not known")
    data = F.conv2d(
        x.data,
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride,
        padding,
        dilation,
        groups * x.models,
    )
    return x.like(data)


def _batch_norm(
    x: SideBySide,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> SideBySide:
    # Rows are normalised as (B, k·F), the models side by side as channels.
    data = x.data if x.images else x.data.transpose(0, 1).flatten(1)
    # view: the running statistics are updated in place
    mean, var = (None if value is None else value.view(-1) for value in (running_mean, running_var))
    scale, shift = (None if value is None else value.flatten() for value in (weight, bias))
    data = F.batch_norm(data, mean, var, scale, shift, training, momentum, eps)
    return x.like(data if x.images else data.view(len(x), x.models, -1).transpose(0, 1))


def _dropout(x: SideBySide, p: float = 0.5, training: bool = True, inplace: bool = False) -> SideBySide:
    if training and p > 0:
        raise NotImplementedError("each model's dropout would have to draw from its own random numbers")
    return x


def _flatten(x: SideBySide, start_dim: int = 0, end_dim: int = -1) -> SideBySide:
    return x.flatten(start_dim, end_dim)


_RULES: dict[Callable[..., Any], Callable[..., SideBySide]] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    torch.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
    torch.flatten: _flatten,
}
_ELEMENTWISE: frozenset[Callable[..., Any]] = frozenset(
    (
        F.relu,
        torch.relu,
        torch.relu_,
        F.relu6,
        F.hardtanh,
        F.leaky_relu,
        F.elu,
        F.selu,
        F.gelu,
        F.silu,
        F.mish,
        F.softplus,
        F.sigmoid,
        F.tanh,
        torch.tanh,
        torch.sigmoid,
        F.hardswish,
        F.hardsigmoid,
    )
)
_IMAGEWISE: frozenset[Callable[..., Any]] = frozenset(
    (
        F.max_pool2d,
        torch.max_pool2d,
        F.avg_pool2d,
        F.adaptive_avg_pool2d,
        F.adaptive_max_pool2d,
    )
)
