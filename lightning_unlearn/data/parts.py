"""A project's loaders taken apart and checked: what each reads, and how; splits and serves nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from lightning_unlearn.data.loading import BatchLoader
from lightning_unlearn.data.tensors import TensorData

__all__ = ["Part", "part_of_dataset", "part_of_loader", "require_apart"]

_DEFAULT_BATCH_SIZE = 128


@dataclass(frozen=True)
class Part:
    """A dataset and how its owner loads it.

    Attributes:
        dataset: What is served; the owner's dataset, or the same held as tensors.
        owner: The owner's dataset, which may know more about its samples.
        batch_size: Samples a process takes each step, >= 1.
        collate_fn: Makes a batch of samples; ``None`` for PyTorch's own.
        num_workers: As the loader's own, like the rest.
    """

    dataset: Dataset[Any]
    owner: Dataset[Any]
    batch_size: int
    collate_fn: Callable[[list[Any]], Any] | None = None
    num_workers: int = 0
    persistent_workers: bool = False
    pin_memory: bool = False
    worker_init_fn: Callable[[int], None] | None = None

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


def part_of_dataset(dataset: Dataset[Any], batch_size: int | None, argument: str) -> Part:
    """Return a dataset as a part that is loaded plainly, held as tensors where it is that already.

    Args:
        dataset: The dataset.
        batch_size: Samples a process takes each step; ``None`` for the default.
        argument: What the user gave the dataset as, for messages.

    Raises:
        TypeError: If it cannot be indexed by position.
    """
    return _indexable(Part(dataset, dataset, batch_size or _DEFAULT_BATCH_SIZE), argument)


def part_of_loader(loader: Any, where: str) -> Part:
    """Return what a project's loader reads and how, held as tensors where it is that already.

    Args:
        loader: A DataLoader, one of this package's, or a list of one of these.
        where: Where it comes from, for messages, such as ``Digits.train_dataloader()``.

    Raises:
        TypeError: If it is another loader, its samples cannot be told, or they cannot be indexed by position.

    Example:
        >>> loader = DataLoader(TensorDataset(torch.eye(4), torch.arange(4)), batch_size=2)
        >>> part = part_of_loader([loader], "train_dataloader()")
        >>> type(part.dataset).__name__, len(part), part.batch_size
        ('TensorData', 4, 2)
    """
    return _indexable(_taken_apart(loader, where), "datamodule")


def require_apart(train: Dataset[Any], test: Dataset[Any]) -> None:
    """Refuse a test set that shares samples with the training set; they would be no non-members."""
    (base, chosen), (other, others) = _base(train), _base(test)
    if base is other and len(shared := np.intersect1d(chosen, others)):
        raise ValueError(
            f"datamodule: {len(shared)} samples are in the training set and in the test set (positions "
            f"{shared[:5].tolist()} ... of one dataset); take them out of one of the two"
        )


def _taken_apart(loader: Any, where: str) -> Part:
    if isinstance(loader, BatchLoader):
        dataset = loader.dataset
        if loader.positions is not None:
            dataset = _subset(dataset, loader.positions)
        return Part(
            dataset,
            dataset,
            loader.batch_size,
            getattr(loader, "collate_fn", None),
            getattr(loader, "num_workers", 0),
            getattr(loader, "persistent_workers", False),
        )
    if isinstance(loader, list | tuple) and len(loader) == 1:
        return _taken_apart(loader[0], where)
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"{where} gives a {type(loader).__name__}; unlearning needs one DataLoader over one dataset there "
            "(for the test set, name one with test_dataset=...)"
        )
    default = loader.collate_fn is torch.utils.data.default_collate
    dataset = _sampled(loader, where)
    return Part(
        dataset,
        dataset,
        int(loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or _DEFAULT_BATCH_SIZE),
        None if default else loader.collate_fn,
        loader.num_workers,
        loader.persistent_workers,
        loader.pin_memory,
        loader.worker_init_fn,
    )


def _sampled(loader: DataLoader[Any], where: str) -> Dataset[Any]:
    """Return what a loader really reads: a sampler may leave out part of the dataset."""
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if isinstance(sampler, SubsetRandomSampler):
        return Subset(loader.dataset, list(sampler.indices))
    plain = isinstance(sampler, SequentialSampler | RandomSampler | DistributedSampler)
    if not plain and len(sampler) != len(loader.dataset):  # type: ignore[arg-type]
        raise TypeError(
            f"{where} has a {type(sampler).__name__} that takes {len(sampler)} of "  # type: ignore[arg-type]
            f"{len(loader.dataset)} samples; which ones cannot be known, so give it a Subset of the dataset instead"  # type: ignore[arg-type]
        )
    if not plain:
        rank_zero_warn(
            f"the order of {where}'s {type(sampler).__name__} is not kept: unlearning serves its own"
        )
    return loader.dataset


def _indexable(part: Part, argument: str) -> Part:
    dataset = part.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{argument}: {type(dataset).__name__} cannot be indexed by position, so no sample of it can "
            "be named and forgotten; give a map-style dataset with __len__ and __getitem__"
        )
    held = _as_tensor_data(dataset) if part.collate_fn is None else None
    return part if held is None else replace(part, dataset=held)


def _subset(dataset: Dataset[Any], positions: Tensor) -> Dataset[Any]:
    if isinstance(dataset, TensorData):
        return dataset.subset(positions)
    return Subset(dataset, positions.tolist())


def _as_tensor_data(dataset: Dataset[Any]) -> TensorData | None:
    """Return the dataset as tensors in memory if it already is that, else None."""
    if isinstance(dataset, TensorData):
        return dataset
    if type(dataset) is Subset:  # a subclass may transform its samples
        whole = _as_tensor_data(dataset.dataset)
        return None if whole is None else whole.subset(torch.as_tensor(dataset.indices))
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2 and dataset.tensors[1].ndim == 1:
        inputs, targets = dataset.tensors
        return TensorData(inputs, targets) if not targets.is_floating_point() else None
    return None


def _base(dataset: Dataset[Any]) -> tuple[Dataset[Any], np.ndarray[Any, Any]]:
    if isinstance(dataset, Subset):
        base, positions = _base(dataset.dataset)
        return base, positions[np.asarray(dataset.indices)]
    return dataset, np.arange(len(dataset))  # type: ignore[arg-type]
