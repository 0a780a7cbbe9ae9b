"""Per-sample columns that a dataset offers, found through Subset, random_split and ConcatDataset."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_unlearn.core.seeds import isolated_rng
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.tensors import as_array

_WRAPPERS_OWN = ("dataset", "indices", "datasets", "cumulative_sizes")


@dataclass(frozen=True)
class Origin:
    """Where the samples of a dataset come from, beneath every Subset and ConcatDataset.

    Attributes:
        bases: The innermost datasets, each once.
        base: Number of each sample's base, ``(N,)`` int64.
        position: Its position there, ``(N,)`` int64.
    """

    bases: list[Dataset[Any]]
    base: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]


def origin_of(dataset: Dataset[Any]) -> Origin:
    """Return where the samples of a dataset come from.

    Example:
        >>> import torch
        >>> data = TensorDataset(torch.arange(5))
        >>> origin_of(Subset(Subset(data, [4, 2, 0]), [1, 0])).position.tolist()
        [2, 4]
    """
    if _is_subset(dataset):
        whole, rows = origin_of(dataset.dataset), _rows(dataset)  # type: ignore[attr-defined]
        return Origin(whole.bases, whole.base[rows], whole.position[rows])
    if isinstance(dataset, ConcatDataset):
        parts = [origin_of(part) for part in dataset.datasets]
        bases = list({id(base): base for part in parts for base in part.bases}.values())
        number = {id(base): place for place, base in enumerate(bases)}
        numbers = [np.array([number[id(base)] for base in part.bases])[part.base] for part in parts]
        return Origin(bases, np.concatenate(numbers), np.concatenate([part.position for part in parts]))
    n = len(dataset)  # type: ignore[arg-type]
    return Origin([dataset], np.zeros(n, dtype=np.int64), np.arange(n))


def targets_of(dataset: Dataset[Any], adapter: Adapter) -> npt.NDArray[Any] | None:
    """Return the class of every sample without reading the samples, or None if the dataset does not offer it."""

    def own(part: Dataset[Any]) -> Any:
        if type(part) is TensorDataset:
            place = 1 if adapter.targets is None else adapter.targets
            found = [part.tensors[place]] if isinstance(place, int) and place < len(part.tensors) else []
        else:
            found = [getattr(part, name) for name in ("targets", "labels") if hasattr(part, name)]
        arrays = [array for array in map(as_array, found) if array.shape == (len(part),)]  # type: ignore[arg-type]
        return next((array for array in arrays if np.issubdtype(array.dtype, np.integer)), None)

    return _column(dataset, own)


def attribute_names(dataset: Dataset[Any]) -> list[str]:
    """Return the names of the columns that :func:`attribute_of` finds, but for properties."""
    parts = [dataset, *origin_of(dataset).bases]
    listed = {name for part in parts for name in _listed(part)}
    fields = {name for part in parts for name, field in _fields(part) if _is_column(name, field, part)}
    keys = {key for key, value in _first(dataset).items() if isinstance(key, str) and _is_single(value)}
    return sorted(listed | fields | keys)


def attribute_of(dataset: Dataset[Any], name: str) -> Any:
    """Return a column that the dataset lists, keeps as a field of that name, or has as a key of its samples.

    Only for a key are the samples read, all of them.

    Raises:
        KeyError: If it has none of these.
    """

    def own(part: Dataset[Any]) -> Any:
        listed = _listed(part)
        if name in listed:
            return as_array(listed[name])
        if not name.isidentifier() or (isinstance(part, Subset | ConcatDataset) and name in _WRAPPERS_OWN):
            return None
        field = getattr(part, name, None)
        return None if field is None or callable(field) else as_array(field)

    column = _column(dataset, own)
    if column is not None:
        return column
    if not _is_single(_first(dataset).get(name)):
        raise KeyError(name)
    with isolated_rng(0):  # whatever augments a sample
        values = [dataset[place][name] for place in range(len(dataset))]  # type: ignore[arg-type]
    return np.asarray([value.item() if isinstance(value, Tensor) else value for value in values])


def _column(dataset: Dataset[Any], own: Callable[[Dataset[Any]], Any]) -> npt.NDArray[Any] | None:
    """Return a dataset's own column, or that of the datasets it draws from, in its order; None without one."""
    column: npt.NDArray[Any] | None = own(dataset)
    # a subset that hands on what it does not know itself gives the column of the whole
    if column is not None and not (_is_subset(dataset) and column.shape[:1] != (len(dataset),)):  # type: ignore[arg-type]
        return column
    if _is_subset(dataset):
        whole = _column(dataset.dataset, own)  # type: ignore[attr-defined]
        return None if whole is None else whole[_rows(dataset)]
    if isinstance(dataset, ConcatDataset):
        parts = [part for of in dataset.datasets if (part := _column(of, own)) is not None]
        return np.concatenate(parts) if len(parts) == len(dataset.datasets) else None
    return None


def _is_subset(dataset: Dataset[Any]) -> bool:
    return isinstance(dataset, Subset) and len(dataset) == len(dataset.indices)


def _rows(dataset: Any) -> npt.NDArray[np.int64]:
    return np.asarray(dataset.indices, dtype=np.int64)


def _listed(dataset: Dataset[Any]) -> Mapping[str, Any]:
    attributes = getattr(dataset, "attributes", None)
    return attributes if isinstance(attributes, Mapping) else {}


def _is_column(name: str, field: Any, dataset: Any) -> bool:
    """Whether a field holds one value a sample; by its type, since another's items may be costly to read."""
    if name.startswith("_") or name in _WRAPPERS_OWN:
        return False
    if isinstance(field, list | tuple):
        return len(field) == len(dataset) and isinstance(next(iter(field), None), str | int | float)
    return isinstance(field, Tensor | np.ndarray) and field.shape == (len(dataset),)


def _fields(dataset: Any) -> list[tuple[str, Any]]:
    return list(getattr(dataset, "__dict__", {}).items())


def _first(dataset: Any) -> Mapping[Any, Any]:
    """Return the first sample where samples have keys, and can be read."""
    # a stream has no positions, and a file that a sampler never draws may be damaged: its names are for messages
    with isolated_rng(0), suppress(Exception):
        if len(dataset) and isinstance(sample := dataset[0], Mapping):
            return sample
    return {}


def _is_single(value: Any) -> bool:
    return value is not None and np.ndim(value) == 0
