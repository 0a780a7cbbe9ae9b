"""The right people are forgotten: deals, nested datasets, labels as served, samplers that choose."""

import os
import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import CLASSES, TRAIN, PlainData, PlainModule, blobs, quiet_trainer, toy_source
from lightning.pytorch.utilities import CombinedLoader
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from lightning_unlearn import SourceCheckpoint
from lightning_unlearn.data import Classes, Groups, Ids, UnlearningDataModule
from lightning_unlearn.data.loading import DatasetLoader
from lightning_unlearn.data.splits import Split
from lightning_unlearn.methods import Retrain

X, Y = blobs(TRAIN, 0)
KEPT = 40


def ready(data: UnlearningDataModule) -> UnlearningDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def rows(loader: Any) -> torch.Tensor:
    return torch.cat([batch[0] for batch in loader])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def entropy() -> list[int]:
    """A deal that no seed decides."""
    order = list(range(TRAIN))
    random.Random(os.urandom(8)).shuffle(order)
    return order


class Dealt(PlainData):
    """A project that deals training and validation set in its setup, whatever the stage."""

    def __init__(self, deal: Callable[[Dataset[Any]], Any]) -> None:
        super().__init__()
        self.deal = deal
        self.setups: list[str] = []

    def setup(self, stage: str) -> None:
        self.setups.append(stage)
        self.train, self.val, *rest = self.deal(TensorDataset(X, Y))
        self.test = rest[0] if rest else None

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, batch_size=8)

    test_dataloader = L.LightningDataModule.test_dataloader  # type: ignore[assignment]


class DealtThrice(Dealt):
    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.test, batch_size=8)


def from_entropy(dataset: Dataset[Any]) -> Any:
    order = entropy()
    return Subset(dataset, order[:KEPT]), Subset(dataset, order[KEPT:50]), Subset(dataset, order[50:])


def by_generator(dataset: Dataset[Any]) -> Any:
    return random_split(dataset, [KEPT, 20], generator=seeded())


def from_permutation(dataset: Dataset[Any]) -> Any:
    torch.rand(3)
    order = torch.randperm(TRAIN)
    return Subset(dataset, sorted(order[:KEPT].tolist())), Subset(dataset, order[KEPT:].tolist())


def seeds_itself(dataset: Dataset[Any]) -> Any:
    torch.manual_seed(0)
    torch.rand(3)
    return random_split(dataset, [KEPT, 20])


def from_numpy(dataset: Dataset[Any]) -> Any:
    order = np.random.permutation(TRAIN).tolist()  # noqa: NPY002
    return Subset(dataset, order[:KEPT]), Subset(dataset, order[KEPT:])


def from_seeded_numpy(dataset: Dataset[Any]) -> Any:
    np.random.seed(0)  # noqa: NPY002
    return from_numpy(dataset)


def parted(dataset: Dataset[Any], kept: Any) -> Any:
    """Return the samples at some positions, and the others."""
    return Subset(dataset, list(kept)), Subset(dataset, sorted({*range(TRAIN)} - {*kept}))


def from_sorted_choice(dataset: Dataset[Any]) -> Any:
    return parted(dataset, sorted(np.random.choice(TRAIN, KEPT, replace=False).tolist()))  # noqa: NPY002


def from_sample(dataset: Dataset[Any]) -> Any:
    return parted(dataset, sorted(random.sample(range(TRAIN), KEPT)))


def from_numpys_mask(dataset: Dataset[Any]) -> Any:
    return parted(dataset, np.flatnonzero(np.random.rand(TRAIN) < 0.7).tolist())  # noqa: NPY002


def from_torchs_mask(dataset: Dataset[Any]) -> Any:
    return parted(dataset, (torch.rand(TRAIN) < 0.7).nonzero().flatten().tolist())


def from_a_fresh_generator(dataset: Dataset[Any]) -> Any:
    return parted(dataset, sorted(np.random.default_rng().permutation(TRAIN)[:KEPT].tolist()))


def from_scikit_learn(dataset: Dataset[Any]) -> Any:
    return parted(dataset, sorted(train_test_split(range(TRAIN), train_size=KEPT)[0]))


def shuffled_beneath_a_plain_run(dataset: Dataset[Any]) -> Any:
    return Subset(from_shuffled_list(dataset)[0], range(30)), dataset


def seeds_scikit_learn(dataset: Dataset[Any]) -> Any:
    made = make_classification(TRAIN, 6, random_state=0)[0]
    return parted(dataset, train_test_split(range(len(made)), train_size=KEPT, random_state=0)[0])


def from_a_seeded_mask(dataset: Dataset[Any]) -> Any:
    return parted(dataset, np.flatnonzero(np.random.default_rng(0).random(TRAIN) < 0.7).tolist())


def reads_and_picks(dataset: Dataset[Any]) -> Any:
    """Pick classes after a pass for means, for which a loader draws a seed."""
    for batch in DataLoader(dataset, batch_size=8, shuffle=True):
        batch[0].mean()
    return parted(dataset, [place for place in range(TRAIN) if place % 3])


def makes_up_data(dataset: Dataset[Any]) -> Any:
    torch.randn(3)
    return parted(dataset, range(KEPT))


def from_shuffled_list(dataset: Dataset[Any]) -> Any:
    order = list(range(TRAIN))
    random.shuffle(order)  # of names of files, say
    return TensorDataset(X[order][:KEPT], Y[order][:KEPT]), TensorDataset(X[order][KEPT:], Y[order][KEPT:])


# ---------------------------------------------------------------- deals


@pytest.mark.parametrize(
    "deal",
    [
        lambda dataset: random_split(dataset, [KEPT, 20]),
        lambda dataset: random_split(random_split(dataset, [50, 10])[0], [0.8, 0.2], generator=seeded()),
        lambda dataset: (ConcatDataset(random_split(dataset, [30, 10, 20])[:2]), dataset),
        from_permutation,
    ],
    ids=["random_split", "beneath another", "concatenated", "randperm"],
)
def test_a_deal_from_the_global_random_state_is_refused(deal: Any) -> None:
    project = Dealt(deal)
    with pytest.raises(ValueError, match=r"Dealt deals its training set.*give random_split a generator"):
        UnlearningDataModule(project, [3, 4, 5]).setup("fit")
    assert project.setups == ["fit"], "once is enough"


@pytest.mark.parametrize(
    "deal",
    [
        by_generator,
        seeds_itself,
        from_seeded_numpy,
        seeds_scikit_learn,
        from_a_seeded_mask,
        reads_and_picks,
        makes_up_data,
    ],
)
def test_a_deal_that_is_the_same_each_time_passes_in_silence(deal: Any) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = ready(UnlearningDataModule(Dealt(deal), [3, 4, 5]))
    expected = deal(TensorDataset(X, Y))[0].indices
    assert torch.equal(rows(data.loader("forget")), X[expected][[3, 4, 5]])
    held_out = torch.cat([rows(data.loader("nonmember")), rows(data.loader("test"))])
    assert not (held_out[:, None] == X[expected][None]).all(-1).any(), "a test sample trained the source"


def test_a_seeded_deal_beside_other_draws_passes_in_silence() -> None:
    def beside(dataset: Dataset[Any]) -> Any:
        torch.nn.Linear(3, 2)  # its weights are drawn from the global state
        return random_split(dataset, [KEPT, 20], generator=seeded())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready(UnlearningDataModule(Dealt(beside), [3, 4, 5]))


@pytest.mark.parametrize(
    "sampled", [SubsetRandomSampler, lambda chosen: WeightedRandomSampler(np.isin(range(TRAIN), chosen), 9)]
)
@pytest.mark.parametrize("deal", [from_numpy, from_torchs_mask])
def test_a_deal_by_a_sampler_is_named(deal: Any, sampled: Any) -> None:
    class Project(PlainData):
        def setup(self, stage: str) -> None:
            self.chosen = deal(TensorDataset(X, Y))[0].indices

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(TensorDataset(X, Y), batch_size=8, sampler=sampled(self.chosen))

    with pytest.warns(UserWarning, match="Project drew from a global random state"):
        ready(UnlearningDataModule(Project(), 0.2))


def test_watching_the_setup_changes_nothing_that_it_draws() -> None:
    from lightning_unlearn.data.dealing import Deals

    before = torch.manual_seed
    torch.manual_seed(5)
    expected = torch.randperm(9), torch.rand(2)
    torch.manual_seed(5)
    with Deals():
        drawn = torch.randperm(9), torch.rand(2)
    assert all(map(torch.equal, drawn, expected))
    assert torch.manual_seed is before
    data = ready(UnlearningDataModule(Dealt(by_generator), [3, 4, 5]))
    assert pickle.loads(pickle.dumps(data)).split.same_as(data.split), "spawned processes are given the data"


@pytest.mark.parametrize(
    "deal",
    [
        from_numpy,
        from_shuffled_list,
        from_sorted_choice,
        from_sample,
        from_numpys_mask,
        from_torchs_mask,
        from_a_fresh_generator,
        from_scikit_learn,
        shuffled_beneath_a_plain_run,
    ],
)
def test_a_deal_by_another_random_state_is_named(deal: Any) -> None:
    with pytest.warns(
        UserWarning, match=r"Dealt drew from a global random state.*give random_split a generator"
    ):
        ready(UnlearningDataModule(Dealt(deal), [3]))


def test_test_and_training_set_come_from_one_deal() -> None:
    data = ready(UnlearningDataModule(DealtThrice(from_entropy), [3, 4, 5]))
    members = rows(data.loader("train"))
    held_out = torch.cat([rows(data.loader("nonmember")), rows(data.loader("test"))])
    assert len(members) == KEPT
    assert len(held_out) == 10
    assert not (held_out[:, None] == members[None]).all(-1).any(), "a test sample is a member"


def test_another_deal_than_an_earlier_one_is_refused_wherever_it_is_known(tmp_path: Path) -> None:
    first = ready(UnlearningDataModule(Dealt(from_entropy), [3, 4, 5], split_path=tmp_path / "split.npz"))
    with pytest.raises(
        ValueError, match=r"previous: an earlier split was made with a training set of another order"
    ):
        ready(UnlearningDataModule(Dealt(from_entropy), [6], previous=tmp_path / "split.npz"))
    with pytest.raises(ValueError, match=r"split_path: .* was made with a training set of another order"):
        ready(UnlearningDataModule(Dealt(from_entropy), [3, 4, 5], split_path=tmp_path / "split.npz"))
    first.teardown("fit")
    with pytest.raises(
        ValueError, match="the split of an earlier setup was made with a training set of another"
    ):
        first.setup("test")

    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(PlainModule(), UnlearningDataModule(Dealt(from_entropy), [3, 4, 5]))
    trainer.save_checkpoint(tmp_path / "source.ckpt")
    source = SourceCheckpoint(str(tmp_path / "source.ckpt"), "helpers.toys.PlainModule")
    with pytest.raises(
        ValueError, match="source: the checkpoint was made with a training set of another order"
    ):
        quiet_trainer(max_epochs=1).fit(Retrain(source), UnlearningDataModule(Dealt(from_entropy), [3, 4, 5]))
    with pytest.raises(
        ValueError, match="ckpt_path: the checkpoint was made with a training set of another order"
    ):
        quiet_trainer(max_epochs=2).fit(
            PlainModule(), UnlearningDataModule(Dealt(from_entropy), [3]), ckpt_path=tmp_path / "source.ckpt"
        )


def test_a_source_of_the_same_deal_is_unlearned(tmp_path: Path) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(PlainModule(), UnlearningDataModule(Dealt(by_generator), [3, 4, 5]))
    trainer.save_checkpoint(tmp_path / "source.ckpt")
    source = SourceCheckpoint(str(tmp_path / "source.ckpt"), "helpers.toys.PlainModule")
    quiet_trainer(max_epochs=1).fit(Retrain(source), UnlearningDataModule(Dealt(by_generator), [3, 4, 5]))


@pytest.mark.parametrize(("deal", "works"), [(from_entropy, False), (by_generator, True)])
def test_two_processes_forget_the_same_people_or_nobody(deal: Any, works: bool) -> None:
    data = UnlearningDataModule(Dealt(deal), [3, 4, 5])
    trainer = quiet_trainer(max_epochs=1, devices=2, strategy="ddp_fork")
    if works:
        return trainer.fit(Retrain(toy_source()), data)
    with pytest.raises(Exception, match="Dealt gives the processes different training sets"):
        trainer.fit(Retrain(toy_source()), data)
    return None


def test_a_second_request_never_puts_rows_of_the_first_back(tmp_path: Path) -> None:
    first = ready(UnlearningDataModule(Dealt(by_generator), [3, 4, 5], split_path=tmp_path / "first.npz"))
    gone = rows(first.loader("forget"))
    second = ready(UnlearningDataModule(Dealt(by_generator), 0.2, previous=tmp_path / "first.npz"))
    for stream in ("train", "forget", "retain", "nonmember", "test"):
        assert not (rows(second.loader(stream))[:, None] == gone[None]).all(-1).any(), stream


# ---------------------------------------------------------------- nested datasets


class Labelled(Dataset[Any]):
    """A project's own dataset with columns of its own; serves a dictionary or a pair."""

    def __init__(self, start: int = 0, target_transform: Any = None) -> None:
        self.targets = Y.tolist()
        self.attributes = {"customer": np.array([f"C{start + i}" for i in range(TRAIN)])}
        self.age = np.arange(TRAIN) + start
        self.target_transform = target_transform
        self.read = 0

    def __len__(self) -> int:
        return TRAIN

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read += 1
        target = self.targets[index]
        return X[index] + self.age[0], self.target_transform(target) if self.target_transform else target


def nested() -> tuple[Dataset[Any], list[int]]:
    first = list(range(TRAIN - 1, 9, -1))
    second = [7, 3, 11, 0, 25]
    return Subset(Subset(Labelled(), first), second), [first[place] for place in second]


@pytest.mark.parametrize(
    ("rule", "places"),
    [
        ([0, 2], [0, 2]),
        (Ids(["C52", "C34"], column="customer"), [0, 4]),
        (Ids([56], column="age"), [1]),
        (Ids([52, 48], innermost=True), [0, 2]),
    ],
)
def test_positions_and_columns_are_found_through_subsets(rule: Any, places: list[int]) -> None:
    dataset, origin = nested()
    assert origin == [52, 56, 48, 59, 34]
    data = ready(UnlearningDataModule(dataset, rule))
    assert data.split.forget.tolist() == places
    assert torch.equal(rows(data.loader("forget")), X[[origin[place] for place in places]])


def test_columns_are_found_through_concatenated_datasets() -> None:
    parts = [Subset(Labelled(), [5, 1]), Labelled(start=100)]
    data = ready(UnlearningDataModule(ConcatDataset(parts), Ids(["C1", "C103"], column="customer")))
    assert torch.equal(rows(data.loader("forget")), torch.stack([X[1], X[3] + 100]))
    assert data.known_targets().tolist() == Y[[5, 1]].tolist() + Y.tolist()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="the training set draws from 2 datasets"):
        ready(UnlearningDataModule(ConcatDataset(parts), Ids([1], innermost=True)))


def test_positions_that_nobody_has_in_the_innermost_dataset_are_refused() -> None:
    with pytest.raises(
        ValueError, match="1 ids do not occur in attribute 'position in the innermost dataset'"
    ):
        ready(UnlearningDataModule(nested()[0], Ids([52, 1], innermost=True)))
    with pytest.raises(ValueError, match="leave out"):
        Ids([1], column="age", innermost=True)


def test_a_copy_that_would_stay_is_refused() -> None:
    repeated = ConcatDataset([Subset(data := TensorDataset(X, Y), [4, 5, 6]), Subset(data, [6, 7])])
    with pytest.raises(
        ValueError, match=r"1 samples to forget stand in the training set a second time.*positions 3"
    ):
        ready(UnlearningDataModule(repeated, [2]))
    assert ready(UnlearningDataModule(repeated, [2, 3])).split.forget.tolist() == [2, 3]


# ---------------------------------------------------------------- labels


class Relabelled(Subset[Any]):
    """A subset that serves labels of its own."""

    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return x, (int(y) + 1) % CLASSES

    __getitems__ = None  # type: ignore[assignment]


class FromOne(Labelled):
    """Lists its classes from 1 and serves them from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.targets = (Y + 1).tolist()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return X[index], self.targets[index] - 1


@pytest.mark.parametrize(
    ("dataset", "served"),
    [
        (Labelled(target_transform=lambda y: (y + 1) % CLASSES), (Y + 1) % CLASSES),
        (Subset(Labelled(target_transform=lambda y: (y + 1) % CLASSES), range(TRAIN)), (Y + 1) % CLASSES),
        (Relabelled(TensorDataset(X, Y), range(TRAIN)), (Y + 1) % CLASSES),
        (Relabelled(Labelled(), range(TRAIN)), (Y + 1) % CLASSES),
        (FromOne(), Y),
        (Labelled(), Y),
    ],
    ids=[
        "target_transform",
        "beneath a subset",
        "relabelling subset",
        "of a listing one",
        "from one",
        "as listed",
    ],
)
def test_classes_are_those_that_are_served(dataset: Any, served: torch.Tensor) -> None:
    data = ready(UnlearningDataModule(dataset, Classes(1)))
    assert data.split.forget.tolist() == np.flatnonzero(served == 1).tolist()
    assert (torch.cat([y for _, y in data.loader("forget")]) == 1).all()
    assert data.known_targets().tolist() == served.tolist()  # type: ignore[union-attr]


def test_only_a_bounded_sample_is_read_where_the_list_or_its_transform_tells() -> None:
    class Long(Labelled):
        def __init__(self, target_transform: Any = None) -> None:
            super().__init__(target_transform=target_transform)
            self.targets = (torch.arange(5000) % 10).tolist()

        def __len__(self) -> int:
            return 5000

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            self.read += 1
            return torch.tensor([float(index)]), (self.target_transform or int)(self.targets[index])

    for transform in (None, lambda y: 9 - y):
        dataset = Long(transform)
        data = ready(UnlearningDataModule(dataset, Classes(2)))
        assert len(data.split.forget) == 500
        assert dataset.read < 250


# ---------------------------------------------------------------- samplers


class Batches(Sampler[list[int]]):
    """A project's own batches."""

    batch_size = 8

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


class Sampled(PlainData):
    def __init__(self, dataset: Any = None, **arguments: Any) -> None:
        super().__init__()
        self.dataset = dataset or TensorDataset(X, Y)
        self.arguments = arguments

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset, **self.arguments)


def chunks(order: list[int]) -> list[list[int]]:
    return [order[start : start + 8] for start in range(0, len(order), 8)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sampler": Batches(chunks(list(range(40))))}, "a Batches that takes 40 of 60 samples"),
        (
            {"batch_sampler": Batches(chunks([*range(TRAIN), 3]))},
            "takes 60 of 60 samples, some more than once",
        ),
        ({"sampler": [0, 1, 1, *range(3, TRAIN)]}, "a list that takes 59 of 60 samples, some more than once"),
        (
            {"sampler": WeightedRandomSampler([1.0] * TRAIN, 9, replacement=False)},
            "60 weights that draws 9 samples without replacement",
        ),
        ({"sampler": WeightedRandomSampler([1.0] * 9, 9)}, "9 weights .* of a dataset of 60"),
        ({"sampler": RandomSampler(range(70))}, "RandomSampler over 70 samples of a dataset of 60"),
    ],
)
def test_samplers_of_part_of_the_data_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ready(UnlearningDataModule(Sampled(**arguments), 0.2))


@pytest.mark.parametrize(
    "sampler",
    [
        RandomSampler(range(40)),
        SequentialSampler(range(40)),
        DistributedSampler(range(40), num_replicas=1, rank=0),  # type: ignore[arg-type]
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_sampler_over_fewer_samples_trains_on_no_others(sampler: Any) -> None:
    data = ready(UnlearningDataModule(Sampled(sampler=sampler), [3]))
    assert data.stream_size("train") == 40
    assert max(data.split.retain) < 40
    with pytest.raises(ValueError, match="55"):
        ready(UnlearningDataModule(Sampled(sampler=sampler), [55]))


def test_batches_of_all_samples_are_served_in_another_order() -> None:
    whole = chunks(list(reversed(range(TRAIN))))
    short = Batches(whole[:-1])
    short.drop_last = True  # type: ignore[attr-defined]
    for batches in (Batches(whole), short):
        with pytest.warns(UserWarning, match="the order of .* Batches is not kept"):
            data = ready(UnlearningDataModule(Sampled(batch_sampler=batches), 0.2))
        assert data.split.train_size == TRAIN
    plain = BatchSampler(WeightedRandomSampler([1.0, 0.0] * 30, TRAIN), 8, drop_last=True)
    assert ready(UnlearningDataModule(Sampled(batch_sampler=plain), 0.2)).stream_size("train") == 30


def test_weights_are_kept_for_what_is_trained_on() -> None:
    weights = torch.where(Y == 0, 8.0, 1.0)
    weights[5] = 0
    data = ready(UnlearningDataModule(Sampled(sampler=WeightedRandomSampler(weights, TRAIN)), [0, 1, 2]))
    assert torch.equal(rows(data.loader("train")), torch.cat([X[:5], X[6:]])), "no weight, no member"
    loader = data.loader("retain", train=True)
    drawn = torch.zeros(CLASSES)
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)
        drawn += torch.bincount(torch.cat([y for _, y in loader]), minlength=CLASSES)
    assert abs(drawn[0] / drawn.sum() - 0.8) < 0.05
    project = Sampled(sampler=WeightedRandomSampler(weights, TRAIN))
    shadows = ready(UnlearningDataModule(project, [0, 1, 2], shadow=20))
    chosen = weights[shadows.split.shadow]
    assert shadows.loader("shadow", train=True).sampler.weights.tolist() == chosen.tolist()  # type: ignore[union-attr]
    forgotten = rows(data.loader("forget", train=True))
    assert sorted(forgotten[:, 0].tolist()) == sorted(X[:3, 0].tolist()), "what is forgotten is seen whole"


DRAWN = [*range(39, 29, -1), *range(10, 30)]
SOME = torch.zeros(TRAIN, dtype=torch.float64).index_fill(0, torch.tensor(DRAWN), 2.0)


@pytest.fixture(params=["subset", "weighted", "batches", "own loader"])
def choosing(request: pytest.FixtureRequest) -> L.LightningDataModule:
    """A project whose loader draws the samples 10 to 39 of 60, in another order."""
    subset = SubsetRandomSampler(DRAWN)
    arguments: dict[str, Any] = {
        "subset": {"sampler": subset},
        "weighted": {"sampler": WeightedRandomSampler(SOME, TRAIN)},
        "batches": {"batch_sampler": BatchSampler(subset, 8, drop_last=False)},
    }.get(request.param, {})
    project = Sampled(Labelled(), **arguments)
    if not arguments:
        project.train_dataloader = lambda: DatasetLoader(project.dataset, np.array(DRAWN), batch_size=8)  # type: ignore[assignment,return-value]
    return project


@pytest.mark.parametrize(
    ("rule", "places"),
    [
        ([15, 10, 39], [10, 15, 39]),
        (np.array([15, 10, 39]), [10, 15, 39]),
        (Ids([15, 39], innermost=True), [15, 39]),
        (Ids(["C15", "C39"], column="customer"), [15, 39]),
        (lambda data: [15, 39], [15, 39]),
        (lambda data: np.isin(np.arange(data.n), [15, 39]), [15, 39]),
        (lambda data: data.targets == 1, range(10, 40, 3)),
        (Classes(1), range(10, 40, 3)),
    ],
)
def test_positions_count_in_the_dataset_of_a_loader_that_draws_some(
    choosing: Any, rule: Any, places: Any, tmp_path: Path
) -> None:
    data = ready(UnlearningDataModule(choosing, rule, shadow=0.2, split_path=tmp_path / "split.npz"))
    assert data.split.forget.tolist() == list(places)
    assert torch.equal(rows(data.loader("forget")), X[list(places)])
    assert len(data.split.shadow) == 6, "a fifth of those that are drawn"
    used = torch.cat([rows(data.loader(stream)) for stream in ("train", "shadow")])
    assert sorted(used.tolist()) == sorted(X[10:40].tolist()), "nothing else is retained or held out"
    again = ready(UnlearningDataModule(choosing, data.split.forget, shadow=0.2))
    assert again.split.same_as(Split.load(tmp_path / "split.npz")), "positions of a split mean the same"
    if (weights := data.loader("retain", train=True).sampler.weights) is not None:
        assert (weights == 2).all()
    second = ready(UnlearningDataModule(choosing, 0.1, shadow=6, previous=tmp_path / "split.npz"))
    assert not np.intersect1d(second.split.members, data.split.forget).size


def test_shares_are_of_what_is_drawn(choosing: Any) -> None:
    for rule in (0.2, Groups("customer", 0.2)):
        split = ready(UnlearningDataModule(choosing, rule)).split
        assert len(split.forget) == 6
        assert set(split.members) == set(DRAWN)


@pytest.mark.parametrize(
    "rule",
    [
        [5, 15],
        Ids([5, 15], innermost=True),
        Ids(["C5", "C15"], column="customer"),
        lambda data: [5, 15],
        lambda data: np.arange(data.n) < 15,
    ],
)
def test_a_position_that_is_never_drawn_is_refused(choosing: Any, rule: Any) -> None:
    with pytest.raises(ValueError, match=r"that the sampler of the training loader never draws.*: (5|0, 1)"):
        ready(UnlearningDataModule(choosing, rule))


def test_evaluation_data_and_columns_have_a_row_for_each_sample_of_the_dataset(choosing: Any) -> None:
    plain = TensorDataset(X + 1, Y)
    columns = {"age": np.arange(TRAIN) + 100}
    rule = Ids([115], column="age")
    data = ready(UnlearningDataModule(choosing, rule, attributes=columns, evaluation_dataset=plain))
    assert torch.equal(rows(data.loader("forget")), X[[15]] + 1)
    for wrong in ({"evaluation_dataset": Subset(plain, DRAWN)}, {"attributes": {"age": np.arange(30) + 100}}):
        with pytest.raises(ValueError, match="60"):
            ready(UnlearningDataModule(choosing, rule, **{"attributes": columns, **wrong}))


def test_who_else_a_sampler_draws_is_part_of_the_fingerprint() -> None:
    def fingerprint(sampler: Any) -> str:
        return ready(UnlearningDataModule(Sampled(sampler=sampler), [15])).split.fingerprint

    one = fingerprint(SubsetRandomSampler(DRAWN))
    assert (
        one == fingerprint(SubsetRandomSampler(sorted(DRAWN))) == fingerprint(WeightedRandomSampler(SOME, 9))
    )
    assert one != fingerprint(SubsetRandomSampler(range(11, 40)))
    inside = ready(UnlearningDataModule(Subset(TensorDataset(X, Y), DRAWN), [15])).split.fingerprint
    assert one != inside, "positions in a Subset are others"
    assert fingerprint(SubsetRandomSampler(entropy())) == fingerprint(SubsetRandomSampler(range(TRAIN)))


def test_a_sampler_that_draws_a_sample_twice_is_refused() -> None:
    with pytest.raises(TypeError, match=r"draws 2 samples more than once, at positions 3, 4"):
        ready(UnlearningDataModule(Sampled(sampler=SubsetRandomSampler([3, 4, 3, 4, 9])), [9]))


def test_labels_of_what_is_never_drawn_are_not_looked_at() -> None:
    class Unlabelled(Labelled):
        def __init__(self) -> None:
            super().__init__()
            self.targets = None  # type: ignore[assignment]

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            if index not in DRAWN:
                raise AssertionError(f"{index} was read")
            return X[index], int(Y[index])

    project = Sampled(Unlabelled(), sampler=SubsetRandomSampler(DRAWN), batch_size=8)
    data = UnlearningDataModule(project, Classes(1))
    quiet_trainer(max_epochs=1).fit(Retrain(toy_source()), data)
    assert data.split.forget.tolist() == list(range(10, 40, 3))


def test_a_retrained_model_keeps_the_recall_of_the_minority(tmp_path: Path) -> None:
    y = (torch.arange(2000) % 25 == 0).long()
    x = torch.randn(2000, 6, generator=seeded()) + 1.6 * y[:, None] * torch.eye(6)[0]
    weights = torch.where(y == 1, 24.0, 1.0)
    project = Sampled(TensorDataset(x, y), batch_size=50, sampler=WeightedRandomSampler(weights, 2000))
    forget = np.flatnonzero(y == 0)[:200].tolist()

    def recall(module: L.LightningModule) -> float:
        fresh = torch.randn(2000, 6, generator=seeded(1)) + 1.6 * torch.eye(6)[0]
        with torch.no_grad():
            return (module.eval()(fresh)[:, 1:2].flatten() > module(fresh)[:, 0]).float().mean().item()

    torch.manual_seed(0)
    source = PlainModule()
    quiet_trainer(max_epochs=4, limit_val_batches=0).fit(source, project)
    method = Retrain(source)
    quiet_trainer(max_epochs=4, limit_val_batches=0).fit(method, UnlearningDataModule(project, forget))
    method.export(tmp_path / "retrained.ckpt")
    retrained = recall(PlainModule.load_from_checkpoint(tmp_path / "retrained.ckpt"))
    assert recall(source) > 0.6
    assert abs(retrained - recall(source)) < 0.1


# ---------------------------------------------------------------- loaders without a length


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.zeros(6), 0


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda: DataLoader(Endless()), "Endless is a stream and cannot be indexed by position"),
        (
            lambda: CombinedLoader({"a": DataLoader(TensorDataset(X, Y))}),
            "gives a CombinedLoader; give one DataLoader",
        ),
        (lambda: {"a": DataLoader(TensorDataset(X, Y))}, "gives a dict; give one DataLoader"),
    ],
)
def test_loaders_that_serve_no_positions_are_named(loader: Any, message: str) -> None:
    class Project(PlainData):
        def train_dataloader(self) -> Any:
            return loader()

    with pytest.raises(TypeError, match=message):
        ready(UnlearningDataModule(Project(), 0.2))
