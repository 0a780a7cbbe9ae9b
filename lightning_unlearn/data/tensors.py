"""Data held in memory as tensors, served a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

_INTEGER_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def as_array(values: Any) -> np.ndarray[Any, Any]:
    """Return a tensor, an array or a sequence as an array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def column_of(name: str, values: Any, size: int) -> np.ndarray[Any, Any]:
    """Return values of samples as an array ``(size,)``.

    Raises:
        ValueError: If there is not one a sample.
    """
    column = as_array(values)
    if column.shape != (size,):
        raise ValueError(
            f"{name} must have one value for each of the {size} samples, got shape {column.shape}"
        )
    return column


class TensorData(Dataset[tuple[Tensor, Tensor]]):
    """A labelled dataset that lies in memory and hands out whole batches by one gather.

    It is an ordinary map-style dataset as well: ``data[i]`` and a plain
    :class:`~torch.utils.data.DataLoader` give the same samples, never augmented.

    Args:
        inputs: The raw inputs, shape ``(N, ...)``, any dtype; ``uint8`` images stay ``uint8`` until served.
        targets: Class of every sample, shape ``(N,)``, an integer dtype, values in ``[0, num_classes)``.
            Held as ``int64``.
        num_classes: Number of classes; the largest target plus one when left out.
        transform: Deterministic map over a batch of inputs, for instance
            :class:`~lightning_unlearn.data.transforms.Normalize`.
        augment: Random map over a batch of *raw* inputs, ``augment(inputs, generator)``, applied before
            ``transform`` and only by :meth:`batch` with a generator.
        attributes: Columns with one value per sample, such as ``"id"``, ``"identity"`` or ``"age"``.

    Attributes:
        clean: The data before some of it were poisoned; None where none were.

    Raises:
        TypeError: If ``inputs`` or ``targets`` are not tensors, or ``targets`` are not integers.
        ValueError: If lengths differ, the data are empty, or a target lies outside ``[0, num_classes)``.

    Example:
        >>> data = TensorData(torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 1]), transform=torch.neg)
        >>> data.batch(torch.tensor([2, 0]))
        (tensor([[-4., -5.],
                [-0., -1.]]), tensor([1, 0]))
        >>> data.num_classes
        2
    """

    clean: TensorData | None = None

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        num_classes: int | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        attributes: Mapping[str, np.ndarray | Tensor] | None = None,
    ) -> None:
        for name, value in (("inputs", inputs), ("targets", targets)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        shapes = f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
        if targets.dtype not in _INTEGER_DTYPES or targets.ndim != 1:
            raise TypeError(f"targets must be 1-D integer class indices, got {targets.dtype} of {shapes}")
        if inputs.ndim == 0 or len(inputs) != len(targets):
            raise ValueError(f"inputs and targets must have one entry per sample, got shapes {shapes}")
        if len(targets) == 0:
            raise ValueError("inputs and targets are empty; at least one sample is needed")
        low, high = int(targets.min()), int(targets.max())
        if num_classes is None:
            num_classes = high + 1
        if low < 0 or high >= num_classes:
            raise ValueError(f"targets must lie in [0, num_classes={num_classes}), got from {low} to {high}")
        self.inputs = inputs
        self.targets = targets.to(torch.int64)
        self.num_classes = num_classes
        self.transform = transform
        self.augment = augment
        self.attributes: dict[str, np.ndarray] = {
            name: column_of(f"attributes[{name!r}]", values, len(self))
            for name, values in (attributes or {}).items()
        }

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} samples")
        inputs, targets = self.batch(torch.tensor([index % len(self)]))
        return inputs[0], targets[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        inputs, targets = self.batch(torch.as_tensor(indices, dtype=torch.int64))
        return list(zip(inputs.unbind(), targets.unbind(), strict=True))

    def batch(
        self,
        positions: Tensor,
        *,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Gather a whole batch, move it, augment it if a generator is given, and transform it.

        Args:
            positions: Positions in ``[0, N)``, shape ``(B,)``, an integer dtype, on any device.
            device: Where the batch is wanted; where the data lie when left out. The raw inputs are moved
                first, so that augmentation and transform run there.
            generator: Source of the augmentation's randomness, on any device. Without it nothing is
                augmented.

        Returns:
            The inputs ``(B, ...)`` and the targets ``(B,)`` in ``int64``.
        """
        inputs = self.inputs.index_select(0, positions.to(self.inputs.device))
        targets = self.targets.index_select(0, positions.to(self.targets.device))
        if device is not None:
            inputs = inputs.to(device, non_blocking=True)
            targets = targets.to(device, non_blocking=True)
        else:
            targets = targets.to(inputs.device)
        if generator is not None and self.augment is not None:
            inputs = self.augment(inputs, generator)
        if self.transform is not None:
            inputs = self.transform(inputs)
        return inputs, targets

    def subset(self, positions: np.ndarray | Tensor) -> TensorData:
        """Return a dataset of its own with the samples at ``positions`` (shape ``(M,)``), in that order.

        Inputs, targets and attributes are copied; ``num_classes``, ``transform`` and ``augment`` are kept.
        """
        index = torch.as_tensor(positions, dtype=torch.int64)
        rows = index.cpu().numpy()
        return self.with_(
            self.inputs.index_select(0, index.to(self.inputs.device)),
            self.targets.index_select(0, index.to(self.targets.device)),
            {name: column[rows] for name, column in self.attributes.items()},
        )

    def with_(
        self, inputs: Tensor, targets: Tensor, attributes: Mapping[str, np.ndarray] | None
    ) -> TensorData:
        """Return other samples with the same classes, ``transform`` and ``augment``."""
        return TensorData(
            inputs,
            targets,
            num_classes=self.num_classes,
            transform=self.transform,
            augment=self.augment,
            attributes=attributes,
        )
