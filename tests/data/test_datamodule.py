"""Wrapping a project's data: streams, splits, hooks and what is refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import pytest
import torch
from helpers.toys import (
    TEST,
    TRAIN,
    PlainData,
    PlainModule,
    blobs,
    quiet_trainer,
    test_set,
    toy_data,
    toy_source,
    train_set,
)
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from lightning_unlearn.data import Adapter, Classes, DatasetLoader, Ids, TensorLoader, UnlearningDataModule
from lightning_unlearn.data.datamodule import batches_of
from lightning_unlearn.methods import ReferenceKL, Retrain


def ready(data: UnlearningDataModule) -> UnlearningDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def rows(loader: Any) -> torch.Tensor:
    return torch.cat([batch[0] for batch in loader])


def test_streams_hold_exactly_their_samples() -> None:
    data = ready(toy_data(nonmember=7, shadow=10))
    x, _ = blobs(TRAIN, 0)
    test_x, _ = blobs(TEST, 1)
    split = data.split
    for stream, source in [
        ("forget", x),
        ("retain", x),
        ("shadow", x),
        ("nonmember", test_x),
        ("test", test_x),
    ]:
        assert torch.equal(rows(data.loader(stream)), source[getattr(split, stream)]), stream
    assert torch.equal(rows(data.loader("train")), x[np.union1d(split.forget, split.retain)])
    assert not set(split.shadow) & (set(split.forget) | set(split.retain))
    assert not set(split.nonmember) & set(split.test)
    shuffled = rows(data.loader("retain", train=True))
    assert not torch.equal(shuffled, x[split.retain])
    assert sorted(shuffled.flatten().tolist()) == sorted(x[split.retain].flatten().tolist())


def test_batches_have_another_size_only_for_a_while() -> None:
    data = ready(UnlearningDataModule(train_set(), 0.2, batch_size=8))

    def sizes() -> set[int]:
        return {len(batch[0]) for batch in data.loader("retain", train=True)}

    for size, largest in ((3, 3), (None, 8)):
        with suppress(ZeroDivisionError), batches_of(data, size):
            assert max(sizes()) == largest
            raise ZeroDivisionError
        assert max(sizes()) == data.batch_size == 8
    plain = PlainData()
    before = dict(vars(plain))
    with batches_of(plain, 3):
        assert vars(plain) == before


def test_a_projects_datamodule_gives_dataset_batch_size_and_collate_function() -> None:
    class Dicts(PlainData):
        def train_dataloader(self) -> DataLoader[Any]:
            def collate(samples: list[Any]) -> dict[str, torch.Tensor]:
                return {"x": torch.stack([x for x, _ in samples]), "y": torch.stack([y for _, y in samples])}

            return DataLoader(TensorDataset(*blobs(TRAIN, 0)), batch_size=5, shuffle=True, collate_fn=collate)

    data = ready(UnlearningDataModule(Dicts(), [3, 1]))
    loader = data.loader("forget")
    assert isinstance(loader, DatasetLoader)
    assert loader.batch_size == 5
    (batch,) = loader
    assert torch.equal(batch["x"], blobs(TRAIN, 0)[0][[1, 3]])
    assert isinstance(data.loader("test"), TensorLoader), "a plain TensorDataset is served from memory"


def test_test_samples_come_from_validation_data_if_there_is_no_test_loader() -> None:
    class NoTest(PlainData):
        test_dataloader = L.LightningDataModule.test_dataloader  # type: ignore[assignment]

    data = ready(UnlearningDataModule(NoTest(), 0.2, nonmember=4))
    x, _ = blobs(TEST, 2)
    assert torch.equal(rows(data.loader("nonmember")), x[data.split.nonmember])


def test_training_data_alone_will_do() -> None:
    data = ready(UnlearningDataModule(train_set(), 0.2, batch_size=8))
    assert data.stream_size("nonmember") == data.stream_size("test") == 0
    held_out = ready(UnlearningDataModule(train_set(), 0.2, nonmember=5, nonmember_from="train"))
    assert held_out.stream_size("nonmember") == 5
    assert not set(held_out.split.nonmember) & set(held_out.split.members)


@pytest.mark.parametrize("kind", ["subset", "list-like"])
def test_targets_are_found_in_any_dataset(kind: str) -> None:
    x, y = blobs(TRAIN, 0)

    class ListLike(Dataset[Any]):
        def __len__(self) -> int:
            return TRAIN

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"features": x[index], "species": y[index]}

    dataset: Dataset[Any] = (
        Subset(TensorDataset(x, y), list(range(TRAIN))) if kind == "subset" else ListLike()
    )
    adapter = Adapter() if kind == "subset" else Adapter(targets="species")
    data = ready(UnlearningDataModule(dataset, Classes(1), adapter=adapter))
    assert torch.equal(y[data.split.forget], torch.ones(TRAIN // 3, dtype=torch.int64))
    assert not (y[data.split.retain] == 1).any()


def test_a_column_is_a_field_an_attribute_or_a_key_of_the_samples_and_a_wrong_one_names_them() -> None:
    class Stamps(torch.utils.data.Dataset[Any]):
        attributes: ClassVar = {"age": np.arange(20)}

        def __init__(self) -> None:
            self.customer = [f"c{place // 4}" for place in range(20)]
            self.images = torch.zeros(20, 3)

        def __len__(self) -> int:
            return 20

        def __getitem__(self, place: int) -> dict[str, Any]:
            none = {"comment": None}
            return {"x": self.images[place], "label": place % 2, "shop": torch.tensor(place // 10), **none}

    def forgotten(rule: Any) -> list[int]:
        data = UnlearningDataModule(Subset(Stamps(), range(2, 20)), rule, test_dataset=test_set())
        data.setup("fit")
        return data.split.forget.tolist()

    assert forgotten(Ids(["c0"], "customer")) == [0, 1]
    assert forgotten(Ids([3], "age")) == [1]
    assert forgotten(Ids([0], "shop")) == list(range(8))
    offered = "offer: 'age', 'customer', 'label', 'shop'"
    with pytest.raises(ValueError, match=f"no attribute 'custmer'; did you mean customer\\? They {offered}"):
        forgotten(Ids(["c0"], "custmer"))
    with pytest.raises(ValueError, match=f"'nope'; they {offered}"):
        forgotten("group:nope=0.02")
    for no_column in ("x", "comment"):
        with pytest.raises(ValueError, match=f"no attribute {no_column!r}; they {offered}"):
            forgotten(Ids([3], no_column))
    with pytest.raises(ValueError, match=f"0 to 17; where .*they {offered}"):
        forgotten([1000])


def test_ids_of_a_column_are_looked_up(tmp_path: Path) -> None:
    from lightning_unlearn.data import Ids

    request = tmp_path / "request.csv"
    request.write_text("customer\nC7\nC3\n")
    customers = np.array([f"C{i}" for i in range(TRAIN)])
    rule = Ids(str(request), column="customer")
    data = ready(UnlearningDataModule(train_set(), rule, attributes={"customer": customers}))
    assert data.split.forget.tolist() == [3, 7]

    dataset = TensorDataset(*blobs(TRAIN, 0))
    dataset.customer = customers  # type: ignore[attr-defined]
    assert ready(UnlearningDataModule(dataset, rule)).split.forget.tolist() == [3, 7]


def test_a_second_request_never_puts_the_first_back(tmp_path: Path) -> None:
    first = ready(toy_data([1, 2, 3]))
    first.split.save(tmp_path / "first.npz")
    second = ready(toy_data([4, 5], previous=tmp_path / "first.npz"))
    assert not {1, 2, 3} & set(second.split.members)
    second.split.save(tmp_path / "second.npz")
    third = ready(toy_data(0.1, previous=[tmp_path / "first.npz", tmp_path / "second.npz"]))
    assert not {1, 2, 3, 4, 5} & set(third.split.members)
    with pytest.raises(ValueError, match="2"):
        ready(toy_data([2, 9], previous=tmp_path / "first.npz"))


def test_a_split_is_written_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "split.npz"
    first = ready(toy_data(0.2, split_path=path)).split
    written = path.read_bytes()
    assert ready(toy_data(0.2, split_path=path)).split.same_as(first)
    assert path.read_bytes() == written
    with pytest.raises(ValueError, match="holds another split"):
        ready(toy_data(0.3, split_path=path))


def test_a_run_keeps_its_split(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    from lightning_unlearn.data import Split

    logger = CSVLogger(tmp_path)
    data = toy_data()
    quiet_trainer(max_epochs=1, logger=logger).fit(toy_source(), data)
    assert Split.load(Path(logger.log_dir) / "split.npz").same_as(data.split)


def test_the_split_does_not_depend_on_the_runs_seed() -> None:
    L.seed_everything(5, verbose=False)
    first = ready(toy_data()).split
    L.seed_everything(6, verbose=False)
    assert ready(toy_data()).split.same_as(first)
    assert not ready(toy_data(seed=1)).split.same_as(first)


def test_a_method_gets_its_streams_and_any_other_module_gets_the_members() -> None:
    seen: list[Any] = []

    class Spy(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            seen.append(batch)

    data = toy_data()
    quiet_trainer(max_epochs=1, callbacks=[Spy()]).fit(ReferenceKL(toy_source(), reference_epochs=1), data)
    assert all(set(batch) == {"forget", "retain"} for batch in seen)
    assert sum(len(batch["forget"].index) for batch in seen) == len(data.split.forget)
    assert sum(len(batch["retain"][1]) for batch in seen) == len(data.split.forget)
    seen.clear()
    quiet_trainer(max_epochs=1, callbacks=[Spy()]).fit(toy_source(), data)
    assert sum(len(batch[1]) for batch in seen) == TRAIN
    seen.clear()
    quiet_trainer(max_epochs=1, callbacks=[Spy()]).fit(Retrain(toy_source()), data)
    retained = torch.cat([batch["retain"][0] for batch in seen])
    forgotten = blobs(TRAIN, 0)[0][data.split.forget]
    assert len(retained) == TRAIN - len(forgotten)
    assert not (retained[:, None] == forgotten[None]).all(-1).any(), "a forgotten sample was served"


class Shifted(PlainData):
    """A datamodule that changes batches on their way to the device."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return x + 100, y


class ShiftedModule(PlainModule):
    """A module that does."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return x + 100, y


@pytest.mark.parametrize("owner", ["datamodule", "module"])
def test_a_projects_transfer_hooks_are_applied_to_every_stream(owner: str) -> None:
    seen: list[torch.Tensor] = []

    class Spy(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            seen.extend([batch["forget"].batch[0], batch["retain"][0]])

    inner = Shifted() if owner == "datamodule" else PlainData()
    source = PlainModule() if owner == "datamodule" else ShiftedModule()
    data = UnlearningDataModule(inner, 0.2)
    quiet_trainer(max_epochs=1, callbacks=[Spy()]).fit(ReferenceKL(source, reference_epochs=1), data)
    assert all((x > 50).all() for x in seen)


def test_evaluation_uses_the_samples_without_augmentation() -> None:
    class Noisy(Dataset[Any]):
        def __len__(self) -> int:
            return TRAIN

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.full((6,), 999.0), index % 3

    plain = TensorDataset(*blobs(TRAIN, 0))
    data = ready(UnlearningDataModule(Noisy(), [0, 1], evaluation_dataset=plain))
    assert (rows(data.loader("forget", train=True)) == 999).all()
    assert torch.equal(rows(data.loader("forget")), blobs(TRAIN, 0)[0][:2])
    assert data.is_augmented("forget"), "what a project's own dataset draws cannot be known"
    assert not ready(toy_data()).is_augmented("forget")


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.zeros(6), 0


class TwoLoaders(PlainData):
    def train_dataloader(self) -> Any:
        return [super().train_dataloader(), super().train_dataloader()]


class TwoTests(PlainData):
    def test_dataloader(self) -> Any:
        return [super().test_dataloader(), super().test_dataloader()]


def test_a_test_set_can_be_named() -> None:
    data = ready(UnlearningDataModule(TwoTests(), 0.1, test_dataset=test_set()))
    assert torch.equal(rows(data.loader("test")), blobs(TEST, 1)[0][data.split.test])


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: UnlearningDataModule(Endless(), 0.1), TypeError, "cannot be indexed by position"),
        (lambda: UnlearningDataModule(TwoLoaders(), 0.1), TypeError, "one DataLoader over one dataset"),
        (lambda: UnlearningDataModule("MNIST", 0.1), TypeError, "datamodule must be a LightningDataModule"),
        (lambda: UnlearningDataModule(TwoTests(), 0.1), TypeError, "test_dataset=..."),
        (lambda: toy_data(batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
        (lambda: toy_data(evaluation_dataset=test_set()), ValueError, "evaluation_dataset has 31 samples"),
        (lambda: toy_data(7), (TypeError, ValueError), "Classes"),
        (lambda: toy_data([]), ValueError, "forget"),
        (lambda: toy_data([0, 0]), ValueError, "0"),
        (lambda: toy_data([TRAIN]), ValueError, str(TRAIN)),
        (lambda: toy_data(list(range(TRAIN))), ValueError, "forget"),
        (lambda: toy_data(1.5), ValueError, "1.5"),
        (lambda: toy_data("missing.csv"), FileNotFoundError, "missing.csv"),
    ],
)
def test_bad_input_stops_with_a_message(build: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ready(build())


class OneDataset(PlainData):
    """Training and test samples of one dataset, told apart by samplers."""

    def __init__(self, train: range, test: range) -> None:
        super().__init__()
        self.dataset = TensorDataset(*blobs(TRAIN, 0))
        self.parts = (list(train), list(test))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset, batch_size=8, sampler=SubsetRandomSampler(self.parts[0]))

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset, batch_size=8, sampler=SubsetRandomSampler(self.parts[1]))


def test_samplers_that_choose_samples_are_obeyed() -> None:
    x, _ = blobs(TRAIN, 0)
    for rule in (0.2, [25, 30]):
        project = OneDataset(range(20, TRAIN), range(20))
        data = ready(UnlearningDataModule(project, rule, nonmember=5))
        assert torch.equal(rows(data.loader("train")), x[20:])
        held_out = torch.cat([rows(data.loader("nonmember")), rows(data.loader("test"))])
        assert not (held_out[:, None] == x[None, 20:]).all(-1).any()
    assert torch.equal(rows(data.loader("forget")), x[[25, 30]])


def test_samples_in_both_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="5 samples are in the training set and in the test set"):
        ready(UnlearningDataModule(OneDataset(range(40), range(35, TRAIN)), 0.2))


def test_a_sampler_that_hides_its_choice_is_refused() -> None:
    class Some(Sampler[int]):
        def __len__(self) -> int:
            return 7

        def __iter__(self) -> Any:
            return iter(range(7))

    class Hidden(PlainData):
        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(TensorDataset(*blobs(TRAIN, 0)), batch_size=8, sampler=Some())

    with pytest.raises(TypeError, match="a Some that takes 7 of 60 samples"):
        ready(UnlearningDataModule(Hidden(), 0.2))


def test_a_subset_with_a_transform_of_its_own_keeps_it() -> None:
    class Sevens(Subset[Any]):
        def __getitem__(self, index: Any) -> Any:
            x, y = super().__getitem__(index)
            return x * 0 + 7, y

        def __getitems__(self, indices: list[int]) -> Any:
            return [self[index] for index in indices]

    data = ready(UnlearningDataModule(Sevens(TensorDataset(*blobs(TRAIN, 0)), list(range(30))), [0, 1]))
    assert (rows(data.loader("forget")) == 7).all()


def test_classes_are_read_from_the_targets_place() -> None:
    x, y = blobs(TRAIN, 0)
    dataset = TensorDataset(x, y, torch.arange(1000, 1000 + TRAIN))
    data = ready(UnlearningDataModule(dataset, Classes(1)))
    assert (y[data.split.forget] == 1).all()
    assert len(data.split.forget) == TRAIN // 3


def test_a_datamodule_that_cleans_up_serves_a_second_run() -> None:
    class Cleans(PlainData):
        def setup(self, stage: str) -> None:
            self.held: Any = TensorDataset(*blobs(TRAIN, 0))

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.held, batch_size=8)

        def teardown(self, stage: str) -> None:
            self.held = None

    data = UnlearningDataModule(Cleans(), 0.2)
    for _ in range(2):
        quiet_trainer(max_epochs=1).fit(Retrain(toy_source()), data)


def test_random_samples_are_announced() -> None:
    class Noisy(Dataset[Any]):
        def __len__(self) -> int:
            return TRAIN

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.rand(6), index % 3

    with pytest.warns(UserWarning, match="evaluation_dataset"):
        ready(UnlearningDataModule(Noisy(), [0, 1]))


def test_audits_do_not_count_as_training_for_a_projects_hooks() -> None:
    from lightning_unlearn.callbacks import ForgettingMetrics

    class Augments(PlainData):
        seen: ClassVar[list[tuple[bool, int]]] = []

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.seen.append((self.trainer.training, len(batch[1])))
            return batch

    inner = Augments()
    data = UnlearningDataModule(inner, 0.2)
    evaluator = ForgettingMetrics(on_error="raise", controls=False)
    quiet_trainer(max_epochs=1, limit_val_batches=0, callbacks=[evaluator]).fit(Retrain(toy_source()), data)
    in_training = sum(size for training, size in inner.seen if training)
    assert in_training == len(data.split.retain)
