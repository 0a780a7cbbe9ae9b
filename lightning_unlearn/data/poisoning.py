"""Data of which some samples carry a trigger and another label."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.loading import BatchLoader, DatasetLoader
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.triggers import Trigger

__all__ = [
    "CollatePoisoned",
    "Poison",
    "PoisonedDataset",
    "PoisonedTensorData",
    "collate_for",
    "poison",
    "triggered_loader",
]

Collate: TypeAlias = Callable[[Any], Any]


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
    """Any other map-style dataset, with a note of which samples are poisoned.

    The samples are marked once they are collated, since only a batch is known to be laid out as an
    :class:`~lightning_unlearn.data.Adapter` says: read it through a loader whose ``collate_fn`` is
    :class:`CollatePoisoned`. So the trigger comes after whatever the dataset itself does, random augmentation
    included.

    Args:
        clean: The dataset, left as it is.
        positions: Which samples are poisoned, shape ``(M,)``.
        trigger: What marks a sample.
        target_label: The label that they get; ``None`` leaves their own.
        adapter: Where a batch keeps inputs and targets; ``None`` for the usual layouts.
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

    def __getitems__(self, indices: list[int]) -> _Noted:
        fetch = getattr(self.clean, "__getitems__", None)
        samples = fetch(indices) if fetch is not None else [self.clean[index] for index in indices]
        return _Noted(samples, torch.from_numpy(np.flatnonzero(self._poisoned[indices])), self)

    def mark(self, batch: Any, rows: Tensor) -> None:
        """Mark and relabel some rows of a batch in place.

        Args:
            batch: A batch as a collate function gives it, one row a sample, whose tensors are its own.
            rows: Which rows, shape ``(R,)``, int64.

        Raises:
            TypeError: If the inputs are not one tensor.
        """
        inputs, targets = self.adapter.split(batch)
        if not isinstance(inputs, Tensor):
            raise TypeError(
                f"a trigger marks a tensor of inputs, and the batches of {type(self.clean).__name__} hold a "
                f"{type(inputs).__name__} there; say where the tensor is with "
                "UnlearningDataModule(adapter=Adapter(inputs=...))"
            )
        inputs[rows] = self.trigger(inputs[rows])
        if self.target_label is not None:
            targets[rows] = self.target_label


class _Noted(NamedTuple):
    """Samples on their way to the collate function, with the rows that are poisoned."""

    samples: Any
    rows: Tensor
    dataset: PoisonedDataset


class CollatePoisoned:
    """Makes a batch of what a :class:`PoisonedDataset` hands out, and marks it.

    Args:
        collate_fn: Makes a batch of samples; ``None`` for PyTorch's default.
    """

    def __init__(self, collate_fn: Collate | None = None) -> None:
        self.collate_fn = collate_fn or default_collate

    def __call__(self, noted: _Noted) -> Any:
        """Return the marked batch."""
        batch = self.collate_fn(noted.samples)
        if len(noted.rows):
            noted.dataset.mark(batch, noted.rows)
        return batch


def collate_for(dataset: Dataset[Any], collate_fn: Collate | None) -> Collate | None:
    """Return the collate function to load a dataset with, given that of its clean samples."""
    if not isinstance(dataset, PoisonedDataset) or isinstance(collate_fn, CollatePoisoned):
        return collate_fn
    return CollatePoisoned(collate_fn)


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
        adapter: Where a batch keeps inputs and targets; ``None`` for the usual layouts.

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
        adapter: Where a batch keeps inputs and targets; ``None`` for the usual layouts.

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
        if isinstance(served, DatasetLoader):
            served.collate_fn = collate_for(served.dataset, served.collate_fn)
    return served
