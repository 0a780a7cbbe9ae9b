"""Take a project's loaders apart and check them: what each reads, and how."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_unlearn.core.seeds import isolated_rng
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.columns import Origin, origin_of, targets_of
from lightning_unlearn.data.fingerprint import spread
from lightning_unlearn.data.ids import shown
from lightning_unlearn.data.loading import WORKERS, BatchLoader, DatasetLoader
from lightning_unlearn.data.selection_data import Positions
from lightning_unlearn.data.tensors import TensorData

_DEFAULT_BATCH_SIZE = 128
# bytes of which a subset is copied; of more, which may lie in a file, samples are read as they come
_COPIED = 2**31
_NONE = np.empty(0, dtype=np.int64)
_COMPARED = 64  # samples, and again of different classes, whose listed label is compared with the served one


@dataclass(frozen=True)
class Part:
    """A dataset and how its owner loads it.

    Attributes:
        dataset: What is served; the owner's dataset, or the same held as tensors.
        owner: The owner's dataset, which may know more about its samples.
        batch_size: Samples a process takes each step, >= 1.
        collate_fn: Makes a batch of samples; ``None`` for PyTorch's own.
        workers: Of the loader's own, what a :class:`~lightning_unlearn.data.loading.DatasetLoader` takes of loader
            processes.
        weights: What a sampler draws each sample by, with replacement, ``(N,)``; ``None`` where it permutes.
        drawn: Positions of the samples that the loader's sampler draws, ``(M,)`` int64; ``None`` for all.
    """

    dataset: Dataset[Any]
    owner: Dataset[Any]
    batch_size: int
    collate_fn: Callable[[list[Any]], Any] | None = None
    workers: dict[str, Any] = field(default_factory=dict)
    weights: Tensor | None = None
    drawn: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @property
    def undrawn(self) -> Positions:
        """Positions of the samples that the loader's sampler never draws, sorted."""
        return np.setdiff1d(np.arange(len(self)), self.drawn) if self.drawn is not None else _NONE

    @property
    def narrowed(self) -> "Part":
        """The part with no samples but those that are drawn, among which positions then count."""
        if self.drawn is None:
            return self
        dataset, owner = (Subset(whole, self.drawn.tolist()) for whole in (self.dataset, self.owner))
        weights = None if self.weights is None else self.weights[torch.from_numpy(self.drawn)]
        return replace(self, dataset=dataset, owner=owner, weights=weights, drawn=None)

    def widened(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the labels of what is drawn as those of all samples, ``(N,)``; -1 for what is never drawn."""
        if self.drawn is None:
            return labels
        wide = np.full(len(self), -1, dtype=labels.dtype if labels.dtype.kind == "i" else np.int64)
        wide[self.drawn] = labels
        return wide


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


def part_of_loader(loader: Any, where: str, *, narrow: bool = False) -> Part:
    """Return what a project's loader reads and how, held as tensors where it is that already.

    Args:
        loader: A DataLoader, one of this package's, or a list of one of these.
        where: Where it comes from, for messages, such as ``Digits.train_dataloader()``.
        narrow: Whether to leave out what its sampler never draws, so that positions count among the rest; else they
            count in the loader's dataset.

    Raises:
        TypeError: If it is another loader, its samples cannot be told, or they cannot be indexed by position; unless
            narrowed also if its sampler draws a sample more than once.

    Example:
        >>> loader = DataLoader(TensorDataset(torch.eye(4), torch.arange(4)), batch_size=2)
        >>> part = part_of_loader([loader], "train_dataloader()")
        >>> type(part.dataset).__name__, len(part), part.batch_size
        ('TensorData', 4, 2)
    """
    part = _taken_apart(loader, where)
    return _indexable(part.narrowed if narrow else _each_once(part, where), "datamodule")


def require_apart(train: Dataset[Any], test: Dataset[Any]) -> None:
    """Refuse a test set that shares samples with the training set; they would be no non-members."""
    shared, _ = _shared(origin_of(train), origin_of(test))
    if len(shared):
        which = f"at positions {shown(shared)} of one dataset"
        raise ValueError(
            f"datamodule: {len(shared)} samples are in the training set and in the test set, {which}"
        )


def require_no_copies(train: Dataset[Any], forgotten: Positions, gone: Positions) -> None:
    """Refuse to forget a sample of which the training set keeps a copy: the model would still be trained on it.

    Args:
        train: The training set.
        forgotten: What is to be forgotten now.
        gone: What was forgotten before.
    """
    origin = origin_of(train)
    if origin.bases == [train]:
        return  # of which no position occurs twice
    keeps = np.ones(len(origin.base), dtype=np.bool_)
    keeps[forgotten] = keeps[gone] = False
    kept = np.flatnonzero(keeps)
    parts = [Origin(origin.bases, origin.base[at], origin.position[at]) for at in (forgotten, kept)]
    shared, copies = _shared(*parts)
    if len(shared):
        where = f"among those that are kept, at positions {shown(kept[copies])}"
        what = f"{len(shared)} samples to forget stand in the training set a second time"
        raise ValueError(f"forget: {what}, {where}; forget these too, or take the copies out")


def known_labels(part: Part, adapter: Adapter) -> npt.NDArray[Any] | None:
    """Return the class of every sample as it is served, ``(N,)``, without reading them all; -1 for what is never drawn.

    What the dataset lists is compared with a bounded sample of what it serves; where they disagree, its
    ``target_transform`` is applied to what it lists, and compared again.

    Returns:
        None where only reading all samples tells.
    """
    if part.drawn is not None:
        drawn = known_labels(part.narrowed, adapter)
        return None if drawn is None else part.widened(drawn)
    if isinstance(part.dataset, TensorData) and part.collate_fn is None:
        held: npt.NDArray[Any] = part.dataset.targets.cpu().numpy()
        return held
    listed = targets_of(part.owner, adapter)
    if listed is None or not len(listed):
        return None
    first = np.unique(listed, return_index=True)[1]
    places = np.union1d(first[spread(len(first), _COMPARED)], spread(len(listed), _COMPARED))
    try:
        with isolated_rng(0):
            served = served_labels(part, adapter, places)
    except ValueError:  # a batch laid out in a way that the adapter does not know: only the list is there
        return listed
    if np.array_equal(listed[places], served):
        return listed
    labels = _transformed(part.owner, listed)
    return labels if labels is not None and np.array_equal(labels[places], served) else None


def served_labels(
    part: Part, adapter: Adapter, positions: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Return the class of samples as they are served, in order, by reading them; -1 for what is never drawn.

    Raises:
        ValueError: If the adapter finds no targets in a batch, or they are no whole numbers.
    """
    if part.drawn is not None and positions is None:
        return part.widened(served_labels(part.narrowed, adapter))
    loader = DatasetLoader(
        part.dataset,
        positions,
        collate_fn=part.collate_fn,
        batch_size=part.batch_size,
        rank=0,
        world_size=1,
        **(part.workers if positions is None else {}),
    )
    labels = torch.cat([adapter.split(batch)[1].cpu() for batch in loader])
    if labels.ndim != 1 or bool((labels % 1 != 0).any()):
        raise ValueError(
            f"the targets, {tuple(labels.shape)} {labels.dtype}, are no classes to choose by; forget by positions, Ids "
            "or Groups"
        )
    return labels.long().numpy()


def mixes_samples(part: Part, adapter: Adapter) -> bool:
    """Return whether a part's own collate function makes distributions of classes, as mixup and cutmix do."""
    if part.collate_fn is None:
        return False
    try:
        with isolated_rng(0):
            served = part.narrowed.dataset
            samples = [served[place] for place in range(min(2, len(served)))]  # type: ignore[arg-type]
            mixed, plain = (
                adapter.split(make(samples))[1]
                for make in (part.collate_fn, torch.utils.data.default_collate)
            )
    except Exception:  # samples that only its own function can put together, which are then no plain classes
        return False
    return mixed.is_floating_point() and not plain.is_floating_point()


def _transformed(dataset: Dataset[Any], listed: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return what the innermost datasets' ``target_transform`` makes of the classes they list, if it can be told."""
    origin = origin_of(dataset)
    labels: npt.NDArray[Any] = listed.copy()
    for number, base in enumerate(origin.bases):
        transform = getattr(base, "target_transform", None)
        rows = origin.base == number
        if transform is None or not rows.any():
            continue
        classes, numbers = np.unique(listed[rows], return_inverse=True)
        try:
            labels[rows] = np.array([int(transform(label)) for label in classes.tolist()])[numbers]
        except Exception:  # whatever a user's function makes of a plain number; reading the samples will tell
            return None
    return labels


def _taken_apart(loader: Any, where: str) -> Part:
    kind = type(loader).__name__
    loader = getattr(loader, "pipeline", loader)  # where webdataset's WebLoader keeps its DataLoader
    if isinstance(loader, list | tuple) and len(loader) == 1:
        loader = loader[0]
    if isinstance(loader, BatchLoader):
        dataset, weights, drawn = loader.dataset, loader.sampler.weights, None
        if loader.positions is not None:
            drawn = loader.positions.numpy()
            if weights is not None:
                every = torch.zeros(len(dataset), dtype=weights.dtype)  # type: ignore[arg-type]
                weights = every.index_copy(0, loader.positions, weights)
    elif isinstance(loader, DataLoader):
        dataset, (weights, drawn) = loader.dataset, _followed(loader, where)
    else:
        advice = "give one DataLoader over one dataset there, or, for the test set, test_dataset=..."
        raise TypeError(f"{where} gives a {kind}; {advice}")
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or _DEFAULT_BATCH_SIZE
    collate_fn = getattr(loader, "collate_fn", None)
    if collate_fn is torch.utils.data.default_collate:
        collate_fn = None
    workers = getattr(
        loader, "workers", {name: getattr(loader, name) for name in WORKERS if hasattr(loader, name)}
    )
    return Part(dataset, dataset, int(size), collate_fn, workers, weights, drawn)


def _each_once(part: Part, where: str) -> Part:
    """Return a part whose drawn positions are sorted, or None where they are all; refuse those drawn repeatedly."""
    if part.drawn is None:
        return part
    from_start = np.where(part.drawn < 0, part.drawn + len(part), part.drawn)
    drawn, times = np.unique(from_start, return_counts=True)
    if (times > 1).any():
        raise TypeError(
            f"{where} has a sampler that draws {int((times > 1).sum())} samples more than once, at positions "
            f"{shown(drawn[times > 1])}; name each once, or draw with a WeightedRandomSampler"
        )
    return replace(part, drawn=drawn if len(drawn) < len(part) else None)


def _followed(loader: DataLoader[Any], where: str) -> tuple[Tensor | None, npt.NDArray[np.int64] | None]:
    """Return the weights that a loader draws by, and the positions that it draws, which may not be all."""
    dataset, batches = loader.dataset, loader.batch_sampler
    if isinstance(dataset, IterableDataset):
        if loader.batch_size is None:
            advice = "have it yield samples, and give the DataLoader batch_size=..."
            raise TypeError(
                f"{where} reads whole batches from {type(dataset).__name__} (batch_size=None); {advice}"
            )
        return None, None
    plain_batches = batches is None or type(batches) is BatchSampler
    sampler: Any = getattr(batches, "sampler", loader.sampler) if plain_batches else batches
    kind = type(sampler)
    if kind in (SequentialSampler, RandomSampler, DistributedSampler):
        covered = len(sampler.dataset if kind is DistributedSampler else sampler.data_source)
        if covered > len(dataset):  # type: ignore[arg-type]
            raise TypeError(
                f"{where} has a {kind.__name__} over {covered} samples of a dataset of {len(dataset)}; make it of that "  # type: ignore[arg-type]
                "dataset"
            )
        return None, np.arange(covered) if covered < len(dataset) else None  # type: ignore[arg-type]
    if kind is SubsetRandomSampler:
        return None, np.asarray(list(sampler.indices), dtype=np.int64)
    if kind is WeightedRandomSampler:
        return _weighted(dataset, sampler, where)
    _require_every_sample_once(sampler, plain_batches, len(dataset), where)  # type: ignore[arg-type]
    rank_zero_warn(f"the order of {where}'s {kind.__name__} is not kept: unlearning serves its own")
    return None, None


def _weighted(
    dataset: Dataset[Any], sampler: WeightedRandomSampler, where: str
) -> tuple[Tensor | None, npt.NDArray[np.int64] | None]:
    """Return the weights, and the positions of those above zero: nothing else is drawn."""
    weights = torch.as_tensor(sampler.weights, dtype=torch.float64)
    drawn = weights.nonzero().flatten()
    if len(weights) != len(dataset) or (not sampler.replacement and sampler.num_samples < len(drawn)):  # type: ignore[arg-type]
        raise TypeError(
            f"{where} has a WeightedRandomSampler of {len(weights)} weights that draws {sampler.num_samples} samples "
            f"{'with' if sampler.replacement else 'without'} replacement of a dataset of {len(dataset)}; give it one "  # type: ignore[arg-type]
            "weight a sample, and replacement=True"
        )
    return weights if sampler.replacement else None, drawn.numpy() if len(drawn) < len(weights) else None


def _require_every_sample_once(sampler: Any, plain: bool, size: int, where: str) -> None:
    """Look at one pass of a sampler, whose choice cannot be known otherwise."""
    with isolated_rng():
        flat = iter(sampler) if plain else chain.from_iterable(sampler)
        taken = np.array(list(islice(flat, 2 * size + 1)))
    distinct = np.unique(taken)
    left_over = size - len(distinct)
    # the last batch of a pass, left out for its size, is another one each time
    dropped = getattr(sampler, "drop_last", False) and left_over < getattr(sampler, "batch_size", 1)
    if len(distinct) != len(taken) or (left_over and not dropped):
        raise TypeError(
            f"{where} has a {type(sampler).__name__} that takes {len(distinct)} of {size} samples"
            f"{', some more than once' if len(taken) > len(distinct) else ''}; who was trained on, and how "
            "often, cannot be known from that. Give it a Subset of the dataset, or draw with a WeightedRandomSampler"
        )


def _indexable(part: Part, argument: str) -> Part:
    dataset = part.dataset
    if isinstance(dataset, IterableDataset):
        return part  # which is counted later
    if not hasattr(dataset, "__len__"):
        advice = "so no sample of it can be named; give a map-style dataset with __len__ and __getitem__"
        raise TypeError(f"{argument}: {type(dataset).__name__} cannot be indexed by position, {advice}")
    held = _as_tensor_data(dataset) if part.collate_fn is None else None
    return part if held is None else replace(part, dataset=held)


def _as_tensor_data(dataset: Dataset[Any]) -> TensorData | None:
    """Return the dataset as tensors in memory if it already is that, else None."""
    if isinstance(dataset, TensorData):
        return dataset
    if type(dataset) is Subset:  # a subclass may transform its samples
        whole = _as_tensor_data(dataset.dataset)
        return (
            None
            if whole is None or whole.inputs.nbytes > _COPIED
            else whole.subset(torch.as_tensor(dataset.indices))
        )
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2 and dataset.tensors[1].ndim == 1:
        inputs, targets = dataset.tensors
        return TensorData(inputs, targets) if not targets.is_floating_point() else None
    return None


def _shared(one: Origin, other: Origin) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the positions of the samples that are in both, in their innermost dataset and in the other."""
    places = shared = np.empty(0, dtype=np.int64)
    number_of = {id(base): number for number, base in enumerate(other.bases)}
    for number, base in enumerate(one.bases):
        there = np.flatnonzero(other.base == number_of.get(id(base), -1))
        found = there[np.isin(other.position[there], one.position[one.base == number])]
        places = np.concatenate([places, found])
        shared = np.concatenate([shared, np.unique(other.position[found])])
    return shared, places
