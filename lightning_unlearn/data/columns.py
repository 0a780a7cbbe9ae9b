"""Per-sample columns that a dataset offers: targets and attributes, known without reading a sample."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset, TensorDataset

from lightning_unlearn.data.adapter import Adapter

__all__ = ["attribute_of", "attributes_of", "targets_of"]


def targets_of(dataset: Dataset[Any], adapter: Adapter) -> np.ndarray[Any, Any] | None:
    """Return the class of every sample without reading the samples, or None if the dataset does not offer it."""
    if isinstance(dataset, Subset):
        whole = targets_of(dataset.dataset, adapter)
        return None if whole is None else whole[np.asarray(dataset.indices)]
    if type(dataset) is TensorDataset:
        place = 1 if adapter.targets is None else adapter.targets
        found = [dataset.tensors[place]] if isinstance(place, int) and place < len(dataset.tensors) else []
    else:
        found = [getattr(dataset, name) for name in ("targets", "labels") if hasattr(dataset, name)]
    for targets in map(np.asarray, found):
        if targets.shape == (len(dataset),) and np.issubdtype(targets.dtype, np.integer):  # type: ignore[arg-type]
            return targets
    return None


def attributes_of(dataset: Dataset[Any]) -> Mapping[str, Any]:
    """Return the columns that a dataset lists in its ``attributes``, by name; none where it has no such mapping."""
    if isinstance(dataset, Subset):
        places = np.asarray(dataset.indices)
        return {name: np.asarray(column)[places] for name, column in attributes_of(dataset.dataset).items()}
    attributes = getattr(dataset, "attributes", None)
    return attributes if isinstance(attributes, Mapping) else {}


def attribute_of(dataset: Dataset[Any], name: str) -> Any:
    """Return a column that the dataset lists, or keeps as a field of that name.

    Raises:
        KeyError: If it has neither.
    """
    columns = attributes_of(dataset)
    column = columns[name] if name in columns else _field(dataset, name)
    if column is None:
        raise KeyError(name)
    return column


def _field(dataset: Dataset[Any], name: str) -> Any:
    if isinstance(dataset, Subset):
        whole = _field(dataset.dataset, name)
        return None if whole is None else np.asarray(whole)[np.asarray(dataset.indices)]
    column = getattr(dataset, name, None) if name.isidentifier() else None
    return None if callable(column) else column
