"""Streams: filtered into forget and retain streams, in loader processes, and what cannot be done on them refused."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import TEST, TRAIN, PlainModule, blobs, quiet_trainer, test_set
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightning_unlearn import forget
from lightning_unlearn.callbacks import MembershipInference
from lightning_unlearn.data import Classes, StreamRule, UnlearningDataModule, streaming
from lightning_unlearn.methods import FineTune, NegGradPlus, SourceCheckpoint

X, Y = blobs(TRAIN, 0)


class Shards(IterableDataset[Any]):
    """Gives every process its share, as a stream over shards does."""

    def __init__(self, shuffled: bool = False, noise: float = 0.0, seed: int = 0, n: int = TRAIN) -> None:
        self.shuffled, self.noise, self.seed, self.n = shuffled, noise, seed, n

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        x, y = blobs(self.n, self.seed)
        own = torch.arange(0 if info is None else info.id, self.n, 1 if info is None else info.num_workers)
        for place in own[torch.randperm(len(own))] if self.shuffled else own:
            yield {"x": x[place] + self.noise * torch.randn(6), "label": y[place], "number": int(place)}


def tenth(sample: Any) -> bool:
    return sample["number"] % 10 == 3


class Project(L.LightningDataModule):
    def __init__(self, stream: Any = None, workers: int = 0, size: int | None = 8) -> None:
        super().__init__()
        self.stream, self.workers, self.size = stream or Shards(), workers, size

    def train_dataloader(self) -> Any:
        return DataLoader(self.stream, batch_size=self.size, num_workers=self.workers)

    def test_dataloader(self) -> Any:
        return DataLoader(Shards(seed=1, n=TEST), batch_size=8)


def ready(project: Any, forget: Any = None, **options: Any) -> UnlearningDataModule:
    data = UnlearningDataModule(project, forget or StreamRule(tenth), **options)
    data.prepare_data()
    data.setup("fit")
    return data


def numbers(loader: Any) -> list[int]:
    return [int(number) for batch in loader for number in batch["number"]]


@pytest.mark.parametrize("workers", [0, 3])
def test_each_sample_is_in_its_stream_once(workers: int) -> None:
    data = ready(Project(workers=workers))
    wanted = {n for n in range(TRAIN) if n % 10 == 3}
    assert set(numbers(data.loader("forget"))) == wanted
    assert data.stream_size("forget") == len(wanted)
    retained = data.loader("retain", train=True)
    first = numbers(retained)
    assert sorted(first) == sorted(set(range(TRAIN)) - wanted)
    retained.sampler.set_epoch(1)
    second = numbers(retained)
    assert first != sorted(first)
    assert first != second
    assert sorted(first) == sorted(second)
    assert len(retained) == sum(1 for _ in retained)
    held, left = numbers(data.loader("nonmember")), numbers(data.loader("test"))
    assert sorted(held + left) == list(range(TEST))
    assert len(held) == data.stream_size("nonmember")
    assert data.forgets_a_class is False
    labels = data.known_targets()
    assert labels is not None
    assert sorted(labels) == sorted(Y.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_places_name_the_samples_whatever_the_order(workers: int) -> None:
    data = ready(Project(workers=workers))
    plain = {
        int(place): int(number)
        for item in data.loader("retain", indexed=True)
        for place, number in zip(item.index, item.batch["number"], strict=True)
    }
    assert sorted(plain) == list(range(54))
    for item in data.loader("retain", indexed=True, train=True):
        assert [plain[int(place)] for place in item.index] == item.batch["number"].tolist()
    some = data.split.retain[[5, 2, 40]]
    (item,) = data.loader("retain", positions=some, indexed=True, batch_size=64) if workers == 0 else [None]
    if item is not None:
        assert [plain[data.split.retain.searchsorted(p)] for p in some[item.index]] == item.batch[
            "number"
        ].tolist()


def test_a_pass_goes_on_over_epochs_and_after_a_resume() -> None:
    loader = ready(Project()).loader("retain", train=True, steps=3)
    served = []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        served += [batch["number"].tolist() for batch in loader]
    assert len(served) == 12
    one_pass = [n for batch in served[:7] for n in batch]
    assert len(one_pass) == len(set(one_pass)) == 54
    again = ready(Project()).loader("retain", train=True, steps=3)
    again.load_state_dict({"epoch": 2, "served": 1})
    again.sampler.set_epoch(2)
    assert [batch["number"].tolist() for batch in again] == served[7:9]


def test_a_stream_in_another_order_each_time_is_filtered_by_the_predicate() -> None:
    changing = Project(Shards(shuffled=True, noise=0.1))
    with pytest.raises(ValueError, match=r"gives other samples each time .*evaluation_dataset"):
        ready(changing)
    data = ready(changing, evaluation_dataset=Shards())
    assert all(n % 10 == 3 for n in numbers(data.loader("forget", train=True)))
    assert all(n % 10 != 3 for n in numbers(data.loader("retain", train=True)))
    assert sorted(numbers(data.loader("train", train=True))) == list(range(TRAIN))
    assert torch.equal(next(iter(data.loader("forget")))["x"][0], X[3])
    with pytest.raises(ValueError, match="needs to know each sample"):
        data.loader("retain", train=True, indexed=True)
    assert data.split.fingerprint == ready(changing, evaluation_dataset=Shards()).split.fingerprint


def trained(source: PlainModule) -> None:
    optimizer = torch.optim.Adam(source.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(source(X), Y).backward()
        optimizer.step()


class Tars(L.LightningDataModule):
    """Shards as webdataset has them: shuffled tar files with metadata, behind a WebLoader of its own."""

    def __init__(self, folder: Path, workers: int) -> None:
        super().__init__()
        self.wds = pytest.importorskip("webdataset", reason="installed by pip install -e '.[test]'")
        self.folder, self.workers = folder, workers
        for number in range(4):
            with self.wds.TarWriter(str(folder / f"train-{number}.tar")) as writer:
                for place in range(number, TRAIN, 4):
                    sample = {"x.npy": X[place].numpy(), "json": {"label": int(Y[place]), "number": place}}
                    writer.write({"__key__": f"{place:03}", **sample})

    def stream(self, shuffled: bool) -> Any:
        shards = str(self.folder / "train-{0..3}.tar")
        read = self.wds.WebDataset(shards, shardshuffle=4 if shuffled else False).decode()
        read = read.map(lambda sample: {"x": torch.from_numpy(sample["x.npy"]), **sample["json"]})
        return read.shuffle(20) if shuffled else read

    def train_dataloader(self) -> Any:
        return self.wds.WebLoader(self.stream(True), batch_size=8, num_workers=self.workers)

    def test_dataloader(self) -> Any:
        return DataLoader(Shards(seed=1, n=TEST), batch_size=8)


@pytest.mark.slow
def test_webdatasets_own_stream_is_filtered_by_what_its_samples_say(tmp_path: Path) -> None:
    project = Tars(tmp_path, workers=2)
    with pytest.raises(ValueError, match=r"WebDataset gives other samples each time .*evaluation_dataset="):
        ready(project)
    data = ready(project, evaluation_dataset=project.stream(False))
    wanted = {n for n in range(TRAIN) if n % 10 == 3}
    assert set(numbers(data.loader("forget"))) == wanted
    assert sorted(numbers(data.loader("retain", train=True))) == sorted(set(range(TRAIN)) - wanted)
    batched = Tars(tmp_path, workers=0)
    batched.train_dataloader = lambda: project.wds.WebLoader(project.stream(True).batched(8), batch_size=None)  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=r"whole batches from WebDataset .*have it yield samples"):
        ready(batched)
    batched.train_dataloader = lambda: project.train_dataloader().unbatched()  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="gives a WebLoader; give one DataLoader"):
        ready(batched)


@pytest.mark.slow
@pytest.mark.parametrize("tars", [False, True])
def test_a_stream_forgets_and_exports_what_a_dataset_does(tars: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = PlainModule()
    trained(source)
    project: Any = Tars(tmp_path, workers=0) if tars else Project()
    plain = project.stream(False) if tars else None
    rule = StreamRule(lambda sample: int(sample["label"]) == 0)
    data = UnlearningDataModule(project, rule, evaluation_dataset=plain)
    audit = MembershipInference()
    method = NegGradPlus(source, alpha=0.3, optimizer=partial(torch.optim.Adam, lr=0.05))
    trainer = quiet_trainer(max_epochs=12, callbacks=[audit])
    trainer.fit(method, data)
    assert data.forgets_a_class, "the classes of a stream are known"
    method.export(tmp_path / "out.ckpt")
    model = PlainModule.load_from_checkpoint(tmp_path / "out.ckpt").eval()
    right = model(X).argmax(1) == Y
    assert float(right[Y == 0].float().mean()) < 0.1 < 0.9 < float(right[Y != 0].float().mean())


def test_a_count_that_takes_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_PATIENCE", -1.0)
    with pytest.warns(UserWarning, match="Shards is read once, to count it, and gave 0 samples so far"):
        ready(Project())


class Once(IterableDataset[Any]):
    def __init__(self) -> None:
        self.samples = iter(Shards())

    def __iter__(self) -> Iterator[Any]:
        return self.samples


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: ready(Project(), 0.1), TypeError, "RandomFraction.* forget=StreamRule[(]predicate"),
        (lambda: ready(Project(), Classes(1)), TypeError, "Classes.* forget=StreamRule[(]predicate"),
        (lambda: ready(Shards(), [1, 2]), TypeError, r"Ids.* forget=StreamRule\(predicate"),
        (lambda: ready(test_set(), StreamRule(tenth)), TypeError, "is for an IterableDataset"),
        (lambda: ready(Project(size=None)), TypeError, "whole batches from Shards"),
        (lambda: ready(Project(), StreamRule(lambda _: False)), ValueError, "the forget set is empty"),
        (
            lambda: ready(Project(), previous="a.npz"),
            ValueError,
            "previous: Shards, a stream, takes one request",
        ),
        (lambda: ready(Project(Once())), ValueError, "gives other samples each time"),
        (
            lambda: ready(Project(), test_dataset=Shards(True, seed=1)),
            ValueError,
            r"Shards gives other samples each time .*[(]test_dataset=",
        ),
        (lambda: ready(Project()).loader("forget", world_size=2, rank=0), ValueError, "give devices=1"),
        (
            lambda: ready(Project(), evaluation_dataset=Shards(n=9)),
            ValueError,
            "predicate chooses 1 of its samples",
        ),
    ],
)
def test_what_cannot_be_done_on_a_stream_is_refused(build: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_a_stream_takes_one_request_and_it_is_said_how_more_are_forgotten(tmp_path: Path) -> None:
    def ask(output: str, source: Any, rule: Any, **arguments: Any) -> Any:
        quick = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
        arguments = {"method": FineTune, "trainer": quick, "output": tmp_path / output, **arguments}
        return forget(source, Project(), StreamRule(rule), **arguments)

    untouched = PlainModule()
    first = ask("1", untouched, tenth)
    source = SourceCheckpoint(str(first.file), "helpers.toys.PlainModule")
    said = r"a stream, takes one request, .* start from the source that no request has touched, with a rule that names"
    for given in ({"previous": tmp_path / "1"}, {}, {"ledger": tmp_path / "other.jsonl"}):
        with pytest.raises(ValueError, match=said):
            ask("2", source, lambda sample: sample["number"] % 10 == 4, **given)
    both = ask(
        "2", untouched, lambda sample: sample["number"] % 10 in (3, 4), ledger=tmp_path / "other.jsonl"
    )
    assert both.line["gone"]["count"] == 2 * first.line["gone"]["count"]
