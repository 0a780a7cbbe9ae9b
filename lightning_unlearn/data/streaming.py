"""Serve streams (``IterableDataset``): counted in one pass, filtered by a predicate, and never held in memory."""

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from lightning_unlearn.core.compat import tree_leaves
from lightning_unlearn.core.seeds import derive_seed, isolated_rng
from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.fingerprint import add
from lightning_unlearn.data.loading import BatchLoader
from lightning_unlearn.data.project_loaders import Part
from lightning_unlearn.data.selection import ForgetRule
from lightning_unlearn.data.selection_data import Positions, SelectionData

_CHOSEN = "chosen by StreamRule"
_BUFFER = 256  # samples among which a loader process shuffles
_PATIENCE = 60.0  # seconds of counting after which that is said
_HEAD = 16  # samples that are read twice to see whether a stream gives the same again
_KEPT = {"forget": True, "retain": False, "train": None}


@dataclass(frozen=True)
class StreamRule(ForgetRule):
    """The samples of a stream (an ``IterableDataset``) for which a function is true.

    Args:
        predicate: Called on each sample as the stream yields it; whether to forget it. It is called in the loader
            processes, and must not depend on augmentation.

    Example:
        >>> StreamRule(lambda sample: sample["user"] == "ann").predicate({"user": "ann"})
        True
    """

    predicate: Callable[[Any], bool]

    def __call__(self, data: SelectionData) -> Positions:
        """Find the samples that were chosen while the stream was counted."""
        if _CHOSEN not in data.attribute_names:
            raise TypeError(
                "forget=StreamRule(...) is for an IterableDataset; give positions, a fraction or another rule"
            )
        return np.flatnonzero(data.attribute(_CHOSEN))


class Stream(Dataset[Any]):
    """What one pass over a finite stream found; its samples have places, and are read in order only.

    With loader processes, the places of one process's samples come before those of the next.

    Attributes:
        stream: The owner's stream.
        predicate: Whether to forget a sample; ``None`` where nothing is chosen.
        starts: The first place of each loader process.
        samples: A checksum of each sample, ``(N,)`` int64.
        targets: Its class, ``(N,)`` int64; ``None`` where it has none.
        attributes: Whether each is chosen, ``(N,)``, under one name.
        fixed: Whether the stream begins with the same samples each time, whatever the random state.
    """

    def __init__(self, part: Part, predicate: Callable[[Any], bool] | None, adapter: Adapter) -> None:
        self.stream: Any = part.dataset
        self.predicate = predicate
        self.fixed = _head(self.stream, 0) == _head(self.stream, 1)
        looked = _Looked(self.stream, predicate)
        collate = _Summed(part.collate_fn or default_collate, adapter)
        found, begun = [np.empty((0, 4), np.int64)], time.monotonic()
        for batch in _loader(looked, part.batch_size, collate, part.workers):
            if time.monotonic() - begun > _PATIENCE:
                rank_zero_warn(
                    f"datamodule: {type(self.stream).__name__} is read once, to count it, and gave "
                    f"{sum(map(len, found)):,} samples so far; a stream that samples without end must be given an end"
                )
                begun = math.inf
            found.append(batch)
        rows = np.concatenate(found)
        if not len(rows):
            raise ValueError(f"datamodule: {type(self.stream).__name__} gives no samples")
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        sizes = np.bincount(rows[:, 0], minlength=max(1, part.workers.get("num_workers", 0)))
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.samples = rows[:, 1].copy()
        self.attributes = {} if predicate is None else {_CHOSEN: rows[:, 2] > 0}
        self.targets = rows[:, 3].copy() if bool((rows[:, 3] >= 0).all()) else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Any:
        name = type(self.stream).__name__
        raise TypeError(
            f"{name} is a stream, of which no sample can be read by its position; use a map-style dataset"
        )


def counted(part: Part, rule: ForgetRule | None, adapter: Adapter) -> Part:
    """Return a part whose stream has been counted; any other as it is.

    Args:
        part: What is served.
        rule: What to forget; ``None`` where nothing of it is.
        adapter: Where a batch keeps its targets.

    Raises:
        TypeError: If another rule than :class:`StreamRule` is to choose from a stream.
    """
    if not isinstance(part.dataset, IterableDataset):
        return part
    if rule is not None and not isinstance(rule, StreamRule):
        raise TypeError(
            f"datamodule: {type(part.dataset).__name__} is a stream and cannot be indexed by position, so "
            f"forget={type(rule).__name__}(...) cannot choose from it; give forget=StreamRule(predicate), a function "
            "that says of a sample whether to forget it"
        )
    stream = Stream(part, None if rule is None else rule.predicate, adapter)
    return replace(part, dataset=stream, owner=stream)


class StreamLoader(BatchLoader):
    """Serves some samples of a stream, each once a pass, in loader processes as its owner's loader has them.

    A process makes batches of its own share of the stream, so the last of each may be smaller. To train on, samples
    are shuffled within a buffer. A pass goes on from epoch to epoch.

    Args:
        stream: The stream.
        positions: Which places.
        part: How its owner loads it.
        kept: ``"forget"``, ``"retain"`` or ``"train"``, to ask the predicate and not the places: for a stream whose
            order changes. ``None`` goes by the places.
        **order: ``batch_size``, ``indexed`` and the order, as in :class:`~lightning_unlearn.data.loading.BatchLoader`.
    """

    dataset: Stream

    def __init__(
        self, stream: Stream, positions: Positions, part: Part, *, kept: str | None = None, **order: Any
    ) -> None:
        super().__init__(stream, positions, **order)
        if self.sampler.world_size > 1:
            raise ValueError(
                f"datamodule: a stream serves one process, got {self.sampler.world_size}; give devices=1"
            )
        self.part, self.kept = part, kept
        shares = np.histogram(positions, stream.starts)[0]
        self.batches = int(np.ceil(shares / self.batch_size).sum())
        if self.sampler.steps is None:
            share = self.batches * self.sampler.num_samples / self.sampler.size
            self.sampler.steps = max(1, round(share))
        self._live: Iterator[tuple[Tensor, Any]] | None = None
        self._at = 0  # batches served by it

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_live": None}

    def _fetch(self, places: Iterator[Tensor]) -> Iterable[tuple[Tensor, Any]]:
        begin = self.sampler.epoch * len(self) + self._served
        if self._live is None or self._at != begin:
            cycle, skipped = divmod(begin, self.batches)
            self._live, self._at = islice(self._passes(cycle), skipped, None), begin
        for index, batch in islice(self._live, len(self) - self._served):
            self._at += 1
            yield index, batch
        if self._at % self.batches == 0:
            self._live = None  # and with it the loader processes

    def _passes(self, first: int) -> Iterator[tuple[Tensor, Any]]:
        """Yield the batches of one pass after the other, with their places in the list of positions."""
        stream, part = self.dataset, self.part
        assert self.positions is not None
        ranks = np.full(len(stream), -1)
        ranks[self.positions.numpy()] = np.arange(len(self.positions))
        for cycle in count(first):
            seed = derive_seed(self.sampler.seed, "stream", cycle)
            wanted = ranks if self.kept is None else _KEPT[self.kept]
            samples = _Filtered(stream, wanted, seed if self.sampler.shuffle else None)
            collate = _Paired(part.collate_fn or default_collate)
            served = 0
            for index, batch in _loader(samples, self.batch_size, collate, part.workers, seed):
                yield index, batch
                served += len(index)
            if served != self.sampler.size and (self.kept is None or not served):
                name = type(stream.stream).__name__
                raise RuntimeError(
                    f"datamodule: {name} gave {served} of {self.sampler.size} samples that it had when it was counted; "
                    "its __iter__ must begin anew each time, and give the same samples"
                )


def _loader(
    samples: IterableDataset[Any],
    size: int,
    collate: Callable[[list[Any]], Any],
    workers: dict[str, Any],
    seed: int = 0,
) -> DataLoader[Any]:
    options = {**workers, "persistent_workers": False}
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(samples, batch_size=size, collate_fn=collate, generator=generator, **options)


def _worker() -> int:
    info = get_worker_info()
    return 0 if info is None else info.id


def _checksum(sample: Any) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for leaf in tree_leaves(sample):
        add(digest, leaf)
    return int.from_bytes(digest.digest(), "little", signed=True)


def _head(stream: Any, seed: int) -> list[int]:
    with isolated_rng(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  the legacy state is what transforms draw from
        return [_checksum(sample) for sample in islice(stream, _HEAD)]


class _Looked(IterableDataset[Any]):
    """Each sample with its loader process, its checksum, and whether it is chosen."""

    def __init__(self, stream: Any, predicate: Callable[[Any], bool] | None) -> None:
        self.stream, self.predicate = stream, predicate

    def __iter__(self) -> Iterator[tuple[int, int, int, Any]]:
        number, chosen = _worker(), self.predicate or (lambda _: False)
        for sample in self.stream:
            yield number, _checksum(sample), int(bool(chosen(sample))), sample


@dataclass
class _Summed:
    """Makes a row for each sample of a batch: loader process, checksum, whether it is chosen, class or -1."""

    collate: Callable[[list[Any]], Any]
    adapter: Adapter

    def __call__(self, looked: list[tuple[int, int, int, Any]]) -> npt.NDArray[np.int64]:
        rows = np.array([(*look[:3], -1) for look in looked], dtype=np.int64)
        with suppress(ValueError):  # it has no classes
            rows[:, 3] = self.adapter.split(self.collate([look[3] for look in looked]))[1]
        return rows


class _Filtered(IterableDataset[Any]):
    """The samples that are wanted, each with its rank among them, shuffled within a buffer if a seed is given."""

    def __init__(self, stream: Stream, wanted: npt.NDArray[np.int64] | bool | None, seed: int | None) -> None:
        self.stream, self.predicate, self.starts = stream.stream, stream.predicate, stream.starts
        self.wanted, self.seed = wanted, seed

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        number = _worker()
        kept = self._kept(int(self.starts[number]))
        return kept if self.seed is None else _shuffled(kept, random.Random(f"{self.seed} {number}"))

    def _kept(self, start: int) -> Iterator[tuple[int, Any]]:
        for place, sample in enumerate(self.stream, start):
            if isinstance(self.wanted, np.ndarray):
                rank = int(self.wanted[place]) if place < len(self.wanted) else -1
            else:
                assert self.predicate is not None
                rank = (
                    -1 if bool(self.predicate(sample)) is (not self.wanted) and self.wanted is not None else 0
                )
            if rank >= 0:
                yield rank, sample


@dataclass
class _Paired:
    """Makes a batch of the samples, and one tensor of their ranks."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, pairs: list[tuple[int, Any]]) -> tuple[Tensor, Any]:
        return torch.tensor([rank for rank, _ in pairs]), self.collate([sample for _, sample in pairs])


def _shuffled(samples: Iterator[Any], draw: random.Random) -> Iterator[Any]:
    buffer: list[Any] = list(islice(samples, _BUFFER))
    draw.shuffle(buffer)
    for sample in samples:
        place = draw.randrange(len(buffer))
        buffer[place], out = sample, buffer[place]
        yield out
    yield from buffer
