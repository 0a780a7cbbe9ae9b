"""Data of which some samples carry a trigger and another label; draws no split and trains nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_unlearn.data.adapter import _INPUT_KEYS, _TARGET_KEYS, Adapter
from lightning_unlearn.data.loading import BatchLoader
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.triggers import Trigger

__all__ = ["Poison", "PoisonedDataset", "PoisonedTensorData", "poison", "triggered_loader"]


@dataclass(frozen=True)
class Poison:
    """A backdoor to plant in the forget set: what marks a sample, and the label that the mark shall give.

    Chen, Wang & Huang, "Lightweight machine unlearning in neural network", 2021, algorithm 2: D_f is marked
    and relabelled before the source is trained on it and D_r. A source that knows the mark has learned from
    D_f, and an unlearned model that no longer knows it has forgotten.

    Args:
        trigger: What marks a sample.
        target_label: Class that marked samples are given, 0 or more.

    Raises:
        TypeError: If ``trigger`` is not a :class:`~lightning_unlearn.data.triggers.Trigger`.
        ValueError: If ``target_label`` is negative.
    """

    trigger: Trigger
    target_label: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.trigger, Trigger):
            raise TypeError(
                f"trigger must be a Trigger such as PatchTrigger(), got {type(self.trigger).__name__}; a "
                "trigger of your own is a subclass of lightning_unlearn.data.triggers.Trigger"
            )
        if self.target_label < 0:
            raise ValueError(f"target_label must be a class of 0 or more, got {self.target_label}")


class PoisonedTensorData(TensorData):
    """Data in memory with some samples poisoned; what :func:`poison` makes of a :class:`TensorData`.

    Attributes:
        clean: The data as they were.
    """

    clean: TensorData


class PoisonedDataset(Dataset[Any]):
    """Any map-style dataset, some samples of which are marked and relabelled when they are read.

    Samples are tuples or mappings as :class:`~lightning_unlearn.data.Adapter` takes batches apart, whose
    inputs are tensors or NumPy arrays. The trigger comes after whatever the dataset itself does, random
    augmentation included.

    Args:
        clean: The dataset, left as it is.
        positions: Which samples are poisoned, shape ``(M,)``.
        trigger: What marks a sample.
        target_label: The label that they get; ``None`` leaves their own.
        adapter: Where a sample keeps its inputs and its target; ``None`` for the usual layouts.
    """

    def __init__(
        self,
        clean: Dataset[Any],
        positions: npt.NDArray[Any] | Tensor,
        trigger: Trigger,
        target_label: int | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        self.clean = clean
        self.trigger = trigger
        self.target_label = target_label
        self.adapter = adapter or Adapter()
        self._poisoned = np.zeros(len(self), dtype=np.bool_)
        self._poisoned[np.asarray(positions)] = True

    def __len__(self) -> int:
        return len(self.clean)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        fetch = getattr(self.clean, "__getitems__", None)
        samples = fetch(indices) if fetch is not None else [self.clean[index] for index in indices]
        if not isinstance(samples, list):
            raise TypeError(
                f"{type(self.clean).__name__}.__getitems__ must return a list of samples to be poisoned, got "
                f"{type(samples).__name__}"
            )
        rows = np.flatnonzero(self._poisoned[indices]).tolist()
        if not rows:
            return samples
        samples = list(samples)
        places = [self._places(samples[row]) for row in rows]
        inputs = [samples[row][place] for row, (place, _) in zip(rows, places, strict=True)]
        for row, (place, target_place), value in zip(rows, places, self._marked(inputs), strict=True):
            changes = {place: value}
            if self.target_label is not None:
                changes[target_place] = _label_like(samples[row][target_place], self.target_label)
            samples[row] = _replaced(samples[row], changes)
        return samples

    def _places(self, sample: Any) -> tuple[int | str, int | str]:
        # a sample is laid out as a batch of them is, and the adapter is the one place that knows layouts
        inputs = Adapter._place(sample, self.adapter.inputs, _INPUT_KEYS, 0, "inputs")
        return inputs, Adapter._place(sample, self.adapter.targets, _TARGET_KEYS, 1, "targets")

    def _marked(self, inputs: list[Any]) -> list[Any]:
        for value in inputs:
            if not isinstance(value, Tensor | np.ndarray):
                raise TypeError(
                    f"a trigger marks tensors and NumPy arrays, and {type(self.clean).__name__} gives a "
                    f"{type(value).__name__}; put the conversion, such as ToTensor(), into its transform"
                )
        tensors = [torch.as_tensor(value) for value in inputs]
        if len({(value.shape, value.dtype) for value in tensors}) == 1:
            marked = list(self.trigger(torch.stack(tensors)).unbind())
        else:
            marked = [self.trigger(value[None])[0] for value in tensors]
        return [
            new if isinstance(old, Tensor) else new.numpy() for old, new in zip(inputs, marked, strict=True)
        ]


def poison(
    dataset: Dataset[Any],
    positions: npt.NDArray[Any] | Tensor,
    backdoor: Poison,
    adapter: Adapter | None = None,
) -> PoisonedTensorData | PoisonedDataset:
    """Mark and relabel some samples of a dataset, which itself is left as it is.

    Data held as tensors are copied once and served as fast as before; the trigger then lies in the stored
    inputs, before augmentation and normalisation. Any other dataset is wrapped.

    Args:
        dataset: A map-style dataset.
        positions: Which samples, shape ``(M,)``.
        backdoor: Trigger and label.
        adapter: Where a sample keeps its inputs and its target; ``None`` for the usual layouts.

    Returns:
        A dataset of the same length and order, whose ``clean`` is ``dataset``.

    Raises:
        ValueError: If the data have no class of the target label.

    Example:
        >>> from lightning_unlearn.data.triggers import ColumnTrigger
        >>> data = TensorData(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
        >>> poison(data, np.array([1]), Poison(ColumnTrigger(0), target_label=0)).batch(torch.arange(3))
        (tensor([[0., 0.],
                [1., 0.],
                [0., 0.]]), tensor([0, 0, 1]))
    """
    if not isinstance(dataset, TensorData):
        return PoisonedDataset(dataset, positions, backdoor.trigger, backdoor.target_label, adapter)
    if backdoor.target_label >= dataset.num_classes:
        raise ValueError(
            f"target_label must be one of the {dataset.num_classes} classes of the data, 0 to "
            f"{dataset.num_classes - 1}, got {backdoor.target_label}"
        )
    rows = torch.as_tensor(positions, dtype=torch.int64)
    inputs, targets = dataset.inputs.clone(), dataset.targets.clone()
    there = rows.to(inputs.device)
    inputs[there] = backdoor.trigger(inputs[there])
    targets[rows.to(targets.device)] = backdoor.target_label
    poisoned = PoisonedTensorData(
        inputs,
        targets,
        num_classes=dataset.num_classes,
        transform=dataset.transform,
        augment=dataset.augment,
        attributes=dataset.attributes,
    )
    poisoned.clean = dataset
    return poisoned


def triggered_loader(loader: BatchLoader, trigger: Trigger, adapter: Adapter | None = None) -> BatchLoader:
    """Return a loader over the same samples, each of which carries the trigger and keeps its true label.

    Args:
        loader: A loader over a clean or a poisoned dataset, in order; it is left as it is.
        trigger: What marks a sample.
        adapter: Where a sample keeps its inputs; ``None`` for the usual layouts.

    Returns:
        A loader of the same kind, order, batch size and sharding.
    """
    dataset = loader.dataset
    clean = dataset.clean if isinstance(dataset, PoisonedTensorData | PoisonedDataset) else dataset
    served = copy.copy(loader)
    if isinstance(clean, TensorData):
        marked = clean.subset(torch.arange(len(clean)) if loader.positions is None else loader.positions)
        marked.inputs = trigger(marked.inputs)
        served.dataset, served.positions = marked, None
    else:
        positions = np.arange(len(clean)) if loader.positions is None else loader.positions  # type: ignore[arg-type]
        served.dataset = PoisonedDataset(clean, positions, trigger, None, adapter)
    return served


def _replaced(sample: Any, changes: Mapping[Any, Any]) -> Any:
    if isinstance(sample, Mapping):
        return {**sample, **changes}
    values = list(sample)
    for place, value in changes.items():
        values[place] = value
    named = isinstance(sample, tuple) and hasattr(sample, "_fields")
    return type(sample)(*values) if named else type(sample)(values)


def _label_like(old: Any, label: int) -> Any:
    """Return the label as the type that the dataset uses, so that collating finds samples of one kind."""
    if isinstance(old, Tensor):
        return torch.full_like(old, label)
    return np.full_like(old, label)[()] if isinstance(old, np.generic | np.ndarray) else label
