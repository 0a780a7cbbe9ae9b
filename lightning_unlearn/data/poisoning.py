"""Data of which some samples carry a trigger and another label."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.loading import BatchLoader, MarkedDataset
from lightning_unlearn.data.tensors import TensorData
from lightning_unlearn.data.triggers import Trigger


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
                f"trigger must be a Trigger such as PatchTrigger(), got {type(self.trigger).__name__}"
            )
        in_range("target_label", self.target_label, "[0, inf)", whole=True)


class PoisonedDataset(MarkedDataset):
    """Any other map-style dataset, with a note of which samples are poisoned.

    The samples are marked once they are collated, since only a batch is known to be laid out as an
    :class:`~lightning_unlearn.data.Adapter` says: read it through a
    :class:`~lightning_unlearn.data.loading.DatasetLoader`, which calls :meth:`mark`. So the trigger comes after
    whatever the dataset itself does, random augmentation included.

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
        self._poisoned = torch.zeros(len(self), dtype=torch.bool)
        self._poisoned[torch.as_tensor(positions)] = True

    def __len__(self) -> int:
        return len(self.clean)  # type: ignore[arg-type]

    def __getitems__(self, indices: list[int]) -> Any:
        fetch = getattr(self.clean, "__getitems__", None)
        return fetch(indices) if fetch is not None else [self.clean[index] for index in indices]

    def mark(self, batch: Any, positions: Tensor) -> None:
        """Mark and relabel what is poisoned of a batch, in place.

        Args:
            batch: A batch as a collate function gives it, one row a sample, whose tensors are its own.
            positions: Which samples it holds, shape ``(B,)``, int64.

        Raises:
            TypeError: If the inputs are not one tensor.
        """
        rows = self._poisoned[positions].nonzero().flatten()
        if not len(rows):
            return
        inputs, targets = self.adapter.split(batch)
        if not isinstance(inputs, Tensor):
            found = f"the batches of {type(self.clean).__name__} hold a {type(inputs).__name__} there"
            advice = "say where it is with UnlearningDataModule(adapter=Adapter(inputs=...))"
            raise TypeError(f"a trigger marks a tensor of inputs, and {found}; {advice}")
        inputs[rows] = self.trigger(inputs[rows])
        if self.target_label is not None:
            targets[rows] = self.target_label


def poison(
    dataset: Dataset[Any],
    positions: npt.NDArray[Any] | Tensor,
    backdoor: Poison,
    adapter: Adapter | None = None,
) -> TensorData | PoisonedDataset:
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
        classes = f"{dataset.num_classes} classes of the data, 0 to {dataset.num_classes - 1}"
        raise ValueError(f"target_label must be one of the {classes}, got {backdoor.target_label}")
    rows = torch.as_tensor(positions, dtype=torch.int64)
    inputs, targets = dataset.inputs.clone(), dataset.targets.clone()
    there = rows.to(inputs.device)
    inputs[there] = backdoor.trigger(inputs[there])
    targets[rows.to(targets.device)] = backdoor.target_label
    poisoned = dataset.with_(inputs, targets, dataset.attributes)
    poisoned.clean = dataset
    return poisoned


def triggered_loader(
    loader: BatchLoader, trigger: Trigger, adapter: Adapter | None = None, target_label: int | None = None
) -> BatchLoader:
    """Return a loader over the same samples, each of which carries the trigger.

    Args:
        loader: A loader over a clean or a poisoned dataset, in order; it is left as it is.
        trigger: What marks a sample.
        adapter: Where a batch keeps inputs and targets; ``None`` for the usual layouts.
        target_label: The label that they get; ``None`` leaves their true ones.

    Returns:
        A loader of the same kind, order, batch size and sharding.
    """
    dataset = loader.dataset
    clean = (dataset.clean or dataset) if isinstance(dataset, TensorData | PoisonedDataset) else dataset
    served = copy.copy(loader)
    if isinstance(clean, TensorData):
        marked = clean.subset(torch.arange(len(clean)) if loader.positions is None else loader.positions)
        marked.inputs = trigger(marked.inputs)
        if target_label is not None:
            marked.targets.fill_(target_label)
        served.dataset, served.positions = marked, None
    else:
        positions = np.arange(len(clean)) if loader.positions is None else loader.positions  # type: ignore[arg-type]
        served.dataset = PoisonedDataset(clean, positions, trigger, target_label, adapter)
    return served
