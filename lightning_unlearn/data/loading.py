"""Loaders that serve whole batches in a reproducible order under any number of processes."""

import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_unlearn.core.checks import in_range
from lightning_unlearn.core.processes import in_group
from lightning_unlearn.core.seeds import derive_seed
from lightning_unlearn.data.tensors import TensorData


class Indexed(NamedTuple):
    """A batch together with the places of its samples in the stream it comes from.

    Attributes:
        batch: The batch as the dataset's collate function gives it.
        index: Places in the stream's list of positions, ``(B,)`` int64 in [0, stream length).
    """

    batch: Any
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks a batch


class OrderSampler:
    """Decides which sample is in which batch, from the seed alone.

    The samples form one endless sequence of permutations (or of passes in order, without ``shuffle``); epoch
    *e* takes the elements ``e·L`` to ``(e+1)·L`` of it, L = ``num_samples``. So a stream shorter than its
    epoch starts over within it, and a stream longer than its epoch goes on where the last epoch stopped:
    every sample is seen before any is seen twice.

    With W processes a step takes the next ``batch_size·W`` elements and gives rank *r* every W-th of them,
    so the samples of a step do not depend on how they are spread over processes. A last step of one sample, or too
    small to give every rank ``least``, joins the step before it; samples are repeated only if there are fewer of
    them than processes. With ``steps`` an epoch is cut into as many steps, as even as can be, whatever the batch size.

    Args:
        size: Number of samples, >= 1.
        batch_size: Samples a process takes each step, >= 1.
        shuffle: Whether to permute.
        seed: Seed of the permutations.
        num_samples: Length L of an epoch over all processes; ``None`` for ``size``.
        rank: Rank of this process and, with it,
        world_size: the number of processes; ``None`` asks ``torch.distributed`` when iteration begins.
        weights: With ``shuffle``, draw each pass with replacement in proportion to these, ``(size,)``, all positive,
            as :class:`~torch.utils.data.WeightedRandomSampler` does; ``None`` permutes.
        least: Fewest samples a rank is given in the last step: two where batch normalisation may be trained on them,
            one where that is seen to and steps are to be those of a single process.
        steps: Steps of an epoch; ``None`` for as many as the batch size makes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        num_samples: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        weights: Tensor | None = None,
        least: int = 2,
        steps: int | None = None,
    ) -> None:
        in_range("size", size, "[1, inf)", ": a loader over no samples cannot be made", whole=True)
        in_range("batch_size", batch_size, "[1, inf)", whole=True)
        self.size = size
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.num_samples = size if num_samples is None else num_samples
        self.epoch = 0
        self.weights = weights
        self.least = least
        self.steps = steps
        self._rank = rank
        self._world_size = world_size
        self._permutation: tuple[int, Tensor] | None = None

    @property
    def rank(self) -> int:
        """Rank of this process."""
        if self._rank is not None:
            return self._rank
        return torch.distributed.get_rank() if in_group() else 0

    @property
    def world_size(self) -> int:
        """Number of processes that share the samples."""
        if self._world_size is not None:
            return self._world_size
        return torch.distributed.get_world_size() if in_group() else 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.steps is not None:
            return self.steps
        world = self.world_size
        step = self.batch_size * world
        full, rest = divmod(self.num_samples, step)
        return max(1, full + (rest >= max(2, self.least * world))) if full else 1

    def share(self, step: int) -> float:
        """Return by what to weigh this rank's mean of a step, so that the mean over ranks is that over samples."""
        return self.own(step) * self.world_size / (self._end(step) - self._end(step - 1))

    def own(self, step: int) -> int:
        """Return how many samples of a step are this rank's; 0 where it is given one that does not count."""
        return len(range(self.rank, self._end(step) - self._end(step - 1), self.world_size))

    def _end(self, step: int) -> int:
        """Return where a step ends in the order of the epoch."""
        if self.steps is not None:
            return self.num_samples * (step + 1) // self.steps
        whole = (step + 1) * self.batch_size * self.world_size
        return self.num_samples if step == len(self) - 1 else whole

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches()

    def batches(self, start: int = 0) -> Iterator[Tensor]:
        """Yield this rank's places, one int64 tensor a step, from step ``start`` on."""
        order, rank, world = self._order(), self.rank, self.world_size
        for number in range(start, len(self)):
            stop = self._end(number)
            mine = order[self._end(number - 1) + rank : stop : world]
            yield mine if len(mine) else order[(rank - stop) % len(order)].reshape(1)

    def _order(self) -> Tensor:
        first = self.epoch * self.num_samples
        parts: list[Tensor] = []
        taken = 0
        while taken < self.num_samples:
            cycle, offset = divmod(first + taken, self.size)
            part = self._pass(cycle)[offset : offset + self.num_samples - taken]
            parts.append(part)
            taken += len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pass(self, cycle: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.size)
        if self._permutation is None or self._permutation[0] != cycle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", cycle))
            if self.weights is None:
                order = torch.randperm(self.size, generator=generator)
            else:
                order = torch.multinomial(self.weights, self.size, replacement=True, generator=generator)
            self._permutation = (cycle, order)
        return self._permutation[1]


class BatchLoader:
    """What the two loaders share: an order, a length, and a place to resume from in the middle of an epoch.

    Lightning finds ``sampler.set_epoch`` and the state methods by their names, so order and position are right
    after a resume and no distributed sampler is put in between.

    Args:
        dataset: Where samples come from.
        positions: Which samples of the dataset, in stream order; ``None`` for all.
        batch_size: Samples a process takes each step.
        indexed: Whether batches come as :class:`Indexed`.
        **order: ``shuffle``, ``seed``, ``num_samples``, ``rank``, ``world_size``, ``weights``, ``least`` and ``steps``
            of :class:`OrderSampler`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        positions: np.ndarray[Any, Any] | Tensor | None = None,
        *,
        batch_size: int,
        indexed: bool = False,
        **order: Any,
    ) -> None:
        size = len(dataset) if positions is None else len(positions)  # type: ignore[arg-type]
        self.dataset = dataset
        self.positions = None if positions is None else torch.as_tensor(positions, dtype=torch.int64)
        self.indexed = indexed
        self.sampler = OrderSampler(size, batch_size, **order)
        self._start = (0, 0)  # an epoch, and the step of it to go on from
        self._served = 0

    @property
    def batch_size(self) -> int:
        """Samples a process takes each step."""
        return self.sampler.batch_size

    @property
    def batch_sampler(self) -> None:
        """None: Lightning asks whatever has a ``sampler`` for this too."""
        return

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        (epoch, served), self._start = self._start, (0, 0)
        start = served % len(self) if epoch == self.sampler.epoch else 0
        self._served = start
        places = self.sampler.batches(start)
        for place, batch in self._fetch(places):
            self._served += 1
            yield Indexed(batch, place) if self.indexed else batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the running epoch were served."""
        return {"epoch": self.sampler.epoch, "served": self._served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration go on after the batches that were served."""
        self._start = state["epoch"], state["served"]

    def _fetch(self, places: Iterator[Tensor]) -> Iterable[tuple[Tensor, Any]]:
        raise NotImplementedError


class TensorLoader(BatchLoader):
    """Serves data held as tensors a whole batch at a time: one gather, then augmentation and normalisation.

    Both run on ``device``; on an accelerator the data itself moves there once, if it takes less than a quarter
    of the free memory. Augmentation draws from a generator seeded by seed, epoch, step and rank, so it neither
    uses nor moves the global random state and is the same after a resume.

    Args:
        data: The samples.
        positions: Which samples, in stream order; ``None`` for all.
        augment: Whether to apply ``data.augment``.
        device: Where batches are wanted; ``None`` leaves them where the data is.
        **order: ``batch_size``, ``indexed`` and the order, as in :class:`BatchLoader`; ``seed`` is that of the
            augmentation too.
    """

    dataset: TensorData

    def __init__(
        self,
        data: TensorData,
        positions: np.ndarray[Any, Any] | Tensor | None = None,
        *,
        augment: bool = False,
        device: torch.device | None = None,
        **order: Any,
    ) -> None:
        super().__init__(data, positions, **order)
        self.augment = augment
        self.device = device

    def _fetch(self, places: Iterator[Tensor]) -> Iterable[tuple[Tensor, Any]]:
        data = self.dataset if self.device is None else _resident(self.dataset, self.device)
        augmented = self.augment and data.augment is not None
        for place in places:
            generator = self._generator() if augmented else None
            yield (
                place,
                data.batch(
                    _dataset_positions(self.positions, place), device=self.device, generator=generator
                ),
            )

    def _generator(self) -> torch.Generator:
        sampler = self.sampler
        seed = derive_seed(sampler.seed, "augment", sampler.epoch, self._served, sampler.rank)
        return torch.Generator().manual_seed(seed)


class SideBySideLoader(TensorLoader):
    """Serves, step by step, what several loaders of one data set serve: every tensor ``(k, ...)``.

    Args:
        loaders: A :class:`TensorLoader` each, of equally many samples. The epoch is the first one's.
    """

    def __init__(self, loaders: Sequence[BatchLoader]) -> None:
        vars(self).update(vars(loaders[0]))
        self.loaders = loaders

    def __iter__(self) -> Iterator[Any]:
        for loader in self.loaders:
            loader.sampler.set_epoch(self.sampler.epoch)
        if self.augment and self.dataset.augment is not None:
            # each augmentation draws from a generator of its own, as when it is served alone
            yield from (default_collate(list(batches)) for batches in zip(*self.loaders, strict=True))
            return
        data = self.dataset if self.device is None else _resident(self.dataset, self.device)
        places = torch.stack([torch.cat(list(loader.sampler)) for loader in self.loaders])
        rows = torch.stack([cast(Tensor, loader.positions) for loader in self.loaders]).gather(1, places)
        rows, end = rows.to(data.inputs.device), 0
        for size in map(len, self.sampler):
            place, chosen = places[:, end : end + size], rows[:, end : end + size]
            end += size
            # all are served as one batch: a deterministic transform treats each sample by itself
            inputs, targets = data.batch(chosen.flatten(), device=self.device)
            batch = inputs.view(*chosen.shape, *inputs.shape[1:]), targets.view(chosen.shape)
            yield Indexed(batch, place) if self.indexed else batch


class MarkedDataset(Dataset[Any]):
    """A dataset whose batches are changed in place once they are collated."""

    def mark(self, batch: Any, positions: Tensor) -> None:
        """Change a batch of the samples at some positions, ``(B,)``."""
        raise NotImplementedError


WORKERS = (  # what a DataLoader is told of its processes
    *("num_workers", "persistent_workers", "pin_memory"),
    *("worker_init_fn", "prefetch_factor", "multiprocessing_context"),
)


class DatasetLoader(BatchLoader):
    """Serves any map-style dataset through a :class:`~torch.utils.data.DataLoader`, in the same order.

    In loader processes each batch draws from a seed of its own, made of seed, epoch, step and rank: PyTorch's,
    NumPy's and Python's global states are set to it. So random transforms draw the same after a resume in the
    middle of an epoch, under any number of loader processes, kept or not. Without loader processes they draw from
    the global state of this one, as with any ``DataLoader``.

    Args:
        dataset: Where samples come from.
        positions: Which samples, in stream order; ``None`` for all.
        collate_fn: Makes a batch of samples; ``None`` for PyTorch's default.
        **options: ``batch_size``, ``indexed`` and the order, as in :class:`BatchLoader`; and how loader processes are
            started and fed, as in :class:`~torch.utils.data.DataLoader`, but ``persistent_workers`` unless asked
            otherwise, which saves starting them each epoch and leaves them with the dataset as it was then.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        positions: np.ndarray[Any, Any] | Tensor | None = None,
        *,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        **options: Any,
    ) -> None:
        given = {name: options.pop(name) for name in WORKERS if name in options}
        super().__init__(dataset, positions, **options)
        self.collate_fn = collate_fn
        self.workers = {"num_workers": 0, "persistent_workers": True, **given}
        self._kept: tuple[DataLoader[Any], _Batches] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loader processes behind: a copy, which may serve something else, starts its own."""
        return {**self.__dict__, "_kept": None}

    def _fetch(self, places: Iterator[Tensor]) -> Iterable[tuple[Tensor, Any]]:
        loader, batches = self._kept or self._made()
        self._kept = (loader, batches) if loader.persistent_workers else None
        batches.start = self._served
        for place, batch in zip(places, loader, strict=True):
            if isinstance(self.dataset, MarkedDataset):
                self.dataset.mark(batch, _dataset_positions(self.positions, place))
            yield place, batch

    def _made(self) -> "tuple[DataLoader[Any], _Batches]":
        several = self.workers["num_workers"] > 0
        batches = _Batches(self.sampler, self.positions, seeded=several)
        loader: DataLoader[Any] = DataLoader(
            _Seeded(self.dataset) if several else self.dataset,
            batch_sampler=batches,
            collate_fn=self.collate_fn,
            **{**self.workers, "persistent_workers": several and self.workers["persistent_workers"]},
            # of its own, so that starting to iterate does not draw from the global state
            generator=torch.Generator().manual_seed(derive_seed(self.sampler.seed, "workers")),
        )
        return loader, batches


@dataclass
class _Batches:
    """The rest of an epoch as lists of dataset positions, made one at a time; with a batch's seed in front, if asked.

    Attributes:
        start: The step to begin with.
    """

    sampler: OrderSampler
    positions: Tensor | None
    seeded: bool
    start: int = 0

    def __len__(self) -> int:
        return len(self.sampler) - self.start

    def __iter__(self) -> Iterator[list[int]]:
        sampler = self.sampler
        for step, place in enumerate(sampler.batches(self.start), self.start):
            chosen: list[int] = _dataset_positions(self.positions, place).tolist()
            if self.seeded:
                chosen.insert(0, derive_seed(sampler.seed, "sample", sampler.epoch, step, sampler.rank))
            yield chosen


class _Seeded(Dataset[Any]):
    """A dataset in a loader process: sets the process's random states for a batch, then reads its samples."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, batch: list[int]) -> Any:
        seed, *positions = batch
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  the legacy state is what transforms draw from
        random.seed(seed)
        together = getattr(self.dataset, "__getitems__", None)
        return together(positions) if together else [self.dataset[position] for position in positions]


def _dataset_positions(positions: Tensor | None, place: Tensor) -> Tensor:
    return place if positions is None else positions[place]


_FREE_MEMORY_SHARE = 0.25
_RESIDENT: weakref.WeakKeyDictionary[TensorData, dict[torch.device, TensorData]] = weakref.WeakKeyDictionary()


def _resident(data: TensorData, device: torch.device) -> TensorData:
    """Return the data on the device, moved there once for all loaders, or as it is if it would not fit."""
    if device.type != "cuda" or data.inputs.device == device:
        return data
    copies = _RESIDENT.setdefault(data, {})
    if device not in copies:
        free, _ = torch.cuda.mem_get_info(device)
        if data.inputs.nbytes > _FREE_MEMORY_SHARE * free:
            return data
        copies[device] = data.with_(data.inputs.to(device), data.targets.to(device), attributes=None)
    return copies[device]
