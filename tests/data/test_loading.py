"""Order, sharding and resuming of the loaders."""

import copy
import itertools
import os
import random
from collections.abc import Iterable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.utils.data import Dataset, TensorDataset

from lightning_unlearn.data import DatasetLoader, TensorData, TensorLoader
from lightning_unlearn.data.loading import Indexed, OrderSampler


def places(**arguments: object) -> list[list[int]]:
    return [batch.tolist() for batch in OrderSampler(**arguments)]  # type: ignore[arg-type]


@given(
    size=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 4),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_ranks_share_every_sample_once(
    size: int, batch_size: int, world: int, shuffle: bool, epoch: int
) -> None:
    ranks = []
    for rank in range(world):
        sampler = OrderSampler(size, batch_size, shuffle=shuffle, seed=3, rank=rank, world_size=world)
        sampler.set_epoch(epoch)
        batches = [batch.tolist() for batch in sampler]
        assert len(batches) == len(sampler)
        ranks.append(batches)
    assert len({len(batches) for batches in ranks}) == 1, "ranks would wait for each other forever"
    together = list(itertools.chain.from_iterable(itertools.chain.from_iterable(ranks)))
    assert set(together) == set(range(size))
    if size >= world:
        assert len(together) == size, "a sample was repeated"
    if size >= 2 * world:
        assert min(len(batch) for batches in ranks for batch in batches) >= min(2, batch_size)


def test_a_step_holds_the_same_samples_under_any_number_of_processes() -> None:
    one = places(size=23, batch_size=6, shuffle=True, seed=5, rank=0, world_size=1)
    two = [places(size=23, batch_size=3, shuffle=True, seed=5, rank=rank, world_size=2) for rank in range(2)]
    assert [set(batch) for batch in one] == [set(a) | set(b) for a, b in zip(*two, strict=True)]


def test_a_longer_stream_goes_on_where_the_last_epoch_stopped() -> None:
    sampler = OrderSampler(10, 2, shuffle=True, seed=1, num_samples=4, rank=0, world_size=1)
    seen: list[int] = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        seen += torch.cat(list(sampler)).tolist()
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_shorter_stream_starts_over() -> None:
    assert places(size=3, batch_size=4, num_samples=7, rank=0, world_size=1) == [[0, 1, 2, 0], [1, 2, 0]]


def test_the_order_follows_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = places(size=20, batch_size=4, shuffle=True, seed=7)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert places(size=20, batch_size=4, shuffle=True, seed=7) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert places(size=20, batch_size=4, shuffle=True, seed=8) != first


@pytest.mark.parametrize(("name", "arguments"), [("size", {"size": 0}), ("batch_size", {"batch_size": 0})])
def test_bad_sizes_are_refused(name: str, arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        OrderSampler(**{"size": 5, "batch_size": 2, **arguments})


def noisy(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return inputs + torch.rand(inputs.shape, generator=generator)


def data(n: int = 11) -> TensorData:
    return TensorData(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n) % 3, augment=noisy)


def test_tensors_and_datasets_are_served_alike() -> None:
    held = data()
    plain = TensorDataset(held.inputs, held.targets)
    chosen = torch.tensor([9, 2, 5, 7, 1])
    order = {"batch_size": 2, "shuffle": True, "seed": 4, "indexed": True}
    for a, b in zip(TensorLoader(held, chosen, **order), DatasetLoader(plain, chosen, **order), strict=True):  # type: ignore[arg-type]
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.batch[0], b.batch[0])
        assert torch.equal(a.batch[0].squeeze(1).long(), chosen[a.index])
        assert torch.equal(a.batch[1], b.batch[1])


def test_workers_serve_the_same() -> None:
    held = data()
    plain = TensorDataset(held.inputs, held.targets)
    batches = [
        [
            x.squeeze(1).tolist()
            for x, _ in DatasetLoader(plain, batch_size=3, shuffle=True, seed=2, num_workers=n)
        ]
        for n in (0, 2)
    ]
    assert batches[0] == batches[1]


class Drawing(Dataset[Any]):
    """Draws from all three global random states, and says which process served a sample."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> tuple[float, float, float, int]:
        return float(torch.rand(())), float(np.random.rand()), random.random(), os.getpid()  # noqa: NPY002


def drawn(loader: DatasetLoader, epochs: Iterable[int]) -> tuple[list[list[float]], set[int]]:
    batches, processes = [], set()
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        for *values, process in loader:
            batches.append(torch.stack(values).flatten().tolist())
            processes |= set(process.tolist())
    return batches, processes


def test_loader_processes_are_kept_and_draw_by_epoch_and_step() -> None:
    order: dict[str, Any] = {"batch_size": 3, "shuffle": True, "seed": 2}
    before = torch.get_rng_state()
    kept, processes = drawn(DatasetLoader(Drawing(), num_workers=2, **order), range(3))
    assert len(processes) == 2, "loader processes were started anew"
    assert torch.equal(torch.get_rng_state(), before)
    anew, processes = drawn(
        DatasetLoader(Drawing(), num_workers=1, persistent_workers=False, **order), range(3)
    )
    assert len(processes) == 3
    assert kept == anew
    assert len(set(map(tuple, kept))) == len(kept), "two batches drew the same"


def test_a_resume_within_an_epoch_goes_on_with_the_draws_of_loader_processes() -> None:
    order: dict[str, Any] = {"batch_size": 3, "seed": 2, "num_workers": 2}
    whole, _ = drawn(DatasetLoader(Drawing(), **order), [1])
    begun = DatasetLoader(Drawing(), **order)
    begun.sampler.set_epoch(1)
    iterator = iter(begun)
    next(iterator), next(iterator)
    resumed = DatasetLoader(Drawing(), **order)
    resumed.load_state_dict(begun.state_dict())
    assert drawn(resumed, [1])[0] == whole[2:]
    assert drawn(begun, [1])[0] == whole, "an epoch that was left begins anew"


def test_a_copy_of_a_loader_has_processes_of_its_own() -> None:
    loader = DatasetLoader(Drawing(), batch_size=3, num_workers=1)
    _, first = drawn(loader, [0])
    other = copy.copy(loader)
    other.dataset = TensorDataset(torch.arange(11))
    assert torch.equal(torch.cat([x for (x,) in other]), torch.arange(11))
    assert drawn(loader, [0])[1] == first


def test_an_epoch_goes_on_after_a_resume_with_the_same_augmentation() -> None:
    whole = TensorLoader(data(), batch_size=3, shuffle=True, augment=True, seed=6)
    whole.sampler.set_epoch(2)
    expected = [x for x, _ in whole]
    begun = TensorLoader(data(), batch_size=3, shuffle=True, augment=True, seed=6)
    begun.sampler.set_epoch(2)
    iterator = iter(begun)
    first = [next(iterator)[0] for _ in range(2)]
    resumed = TensorLoader(data(), batch_size=3, shuffle=True, augment=True, seed=6)
    resumed.load_state_dict(begun.state_dict())
    resumed.sampler.set_epoch(2)
    rest = [x for x, _ in resumed]
    assert len(first) + len(rest) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(first + rest, expected, strict=True))
    assert len(list(resumed)) == len(expected), "the epoch after the resumed one is whole"


def test_a_state_at_the_end_of_an_epoch_starts_the_next_one() -> None:
    loader = TensorLoader(data(), batch_size=3)
    list(loader)
    fresh = TensorLoader(data(), batch_size=3)
    fresh.load_state_dict(loader.state_dict())
    assert len(list(fresh)) == len(loader)


def test_augmentation_differs_by_epoch_and_step_and_is_off_unless_asked() -> None:
    loader = TensorLoader(data(), batch_size=4, augment=True, seed=1)
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        epochs.append(torch.cat([x for x, _ in loader]) - data().inputs)
    assert not torch.equal(epochs[0], epochs[1])
    assert len(epochs[0].unique()) == 11
    plain = torch.cat([x for x, _ in TensorLoader(data(), batch_size=4)])
    assert torch.equal(plain, data().inputs)


def test_indexed_batches_say_where_their_samples_stand() -> None:
    (batch,) = TensorLoader(data(), [8, 3], batch_size=2, indexed=True)  # type: ignore[arg-type]
    assert isinstance(batch, Indexed)
    assert batch.index.tolist() == [0, 1]
    assert batch.batch[0].squeeze(1).tolist() == [8.0, 3.0]
