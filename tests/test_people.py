"""Everything of one person is forgotten: what tells that it was, and who can tell nothing."""

import functools
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.people import write_vowels
from helpers.toys import quiet_trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_unlearn import Groups, Ids, SourceRun, UnlearningDataModule, compare, forget
from lightning_unlearn.cli.main import main
from lightning_unlearn.comparison import request
from lightning_unlearn.comparison.request import Result
from lightning_unlearn.comparison.splits import SeedSplits, set_up
from lightning_unlearn.data import Split
from lightning_unlearn.methods import WGAN, Rewind, RewindKL
from lightning_unlearn.reports.verdict import summary_sentences

PEOPLE, PHRASES, CLASSES = 16, 6, 5
WHO = 3


class Takes(Dataset[tuple[Tensor, int]]):
    """What people say: each phrase means something else for each of them, which only their own takes tell."""

    def __init__(self, people: list[int], takes: int, seed: int) -> None:
        meaning = np.random.default_rng(0).integers(CLASSES, size=(2 * PEOPLE, PHRASES))
        voices = np.random.default_rng(1).normal(size=(2 * PEOPLE, 8)) * 2
        who, phrase, _ = (m.ravel() for m in np.meshgrid(people, range(PHRASES), range(takes), indexing="ij"))
        clean = np.concatenate([voices[who], 2 * np.eye(PHRASES)[phrase]], axis=1)
        noise = np.random.default_rng(seed).normal(size=clean.shape) * 0.4
        self.x = torch.from_numpy(clean + noise).float()
        self.y = torch.from_numpy(meaning[who, phrase])
        self.person = who

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.x[index], int(self.y[index])


class Talk(L.LightningDataModule):
    """A project of its own: those it is tested on are in training as well, or are others."""

    def __init__(self, others: bool = False, without: int | None = None) -> None:
        super().__init__()
        self.people = [person for person in range(PEOPLE) if person != without]
        self.tested = list(range(PEOPLE, 2 * PEOPLE)) if others else list(range(PEOPLE))

    def setup(self, stage: str) -> None:
        self.train, self.test = Takes(self.people, 8, seed=2), Takes(self.tested, 4, seed=3)

    def train_dataloader(self) -> DataLoader[Any]:
        order = torch.Generator().manual_seed(0)
        return DataLoader(self.train, 32, shuffle=True, generator=order)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.test, 64)


class Listener(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(8 + PHRASES, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(64, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def trained(without: int | None = None) -> Listener:
    torch.manual_seed(0)
    module = Listener()
    quiet_trainer(max_epochs=30).fit(module, Talk(without=without))
    return module.eval()


@dataclass(frozen=True)
class Known:
    source: Listener
    retrained: Listener

    def right(self, model: nn.Module, *, new: bool = False) -> float:
        """Share of the person's samples that a model answers rightly; of new takes of theirs."""
        said = Takes([WHO], 20 if new else 8, seed=4 if new else 2)
        of_training = Takes(list(range(PEOPLE)), 8, seed=2)
        mine = of_training.person == WHO
        x, y = (said.x, said.y) if new else (of_training.x[mine], of_training.y[mine])
        with torch.no_grad():
            return float((model(x).argmax(1) == y).float().mean())


@functools.cache
def trained_once() -> Known:
    return Known(trained(), trained(without=WHO))


@pytest.fixture
def known() -> Known:
    return trained_once()


def ask(known: Known, folder: Path, *, others: bool, **arguments: Any) -> Result:
    quick = {"accelerator": "cpu", "enable_progress_bar": False}
    data = Talk(others)
    return forget(
        known.source, data, [WHO], column="person", output=folder / "out", trainer=quick, **arguments
    )


def exported(folder: Path) -> Listener:
    module = Listener()
    module.load_state_dict(torch.load(folder / "out" / "model.ckpt", weights_only=True)["state_dict"])
    return module.eval()


@pytest.mark.slow
def test_a_person_is_forgotten_by_the_exported_network(known: Known, tmp_path: Path) -> None:
    assert known.right(known.source) == 1.0
    assert known.right(known.source, new=True) > 0.9
    assert known.right(known.retrained) < 0.5, "others tell nothing of this one"
    result = ask(known, tmp_path, others=True)
    assert result.outcome == "shown", str(result)
    left = exported(tmp_path)
    assert known.right(left) < 0.5
    assert known.right(left, new=True) < 0.6
    apart = Takes([person for person in range(PEOPLE) if person != WHO], 8, seed=2)
    with torch.no_grad():
        assert (left(apart.x).argmax(1) == apart.y).float().mean() > 0.95


@pytest.mark.slow
def test_new_samples_of_those_who_stay_tell_nothing_of_one_who_is_forgotten(
    known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that never saw that one answers them worse than those, so what is left would pass for forgotten."""
    result = ask(known, tmp_path, others=False)
    assert result.outcome == "cannot tell"
    said = " ".join(str(result).replace("|", " ").split())
    assert "Non-members are of values of 'person' that stay in training" in said
    assert "Retraining alone tells" in said
    assert "milder" not in said, "it forgot as it should"
    assert "wrong_labels" not in said
    monkeypatch.setattr(request, "steps_of", lambda _: 720.0)
    with pytest.raises(
        ValueError, match=r"budget: nothing tells which of several recipes forgot best, since non-m"
    ):
        ask(known, tmp_path / "more", others=False, budget=0.1)


@pytest.mark.slow
def test_a_retrained_model_tells_nevertheless(known: Known, tmp_path: Path) -> None:
    result = ask(known, tmp_path, others=False, retrained=known.retrained)
    assert result.answered.unlike == ""
    assert "Retraining alone tells" not in str(result)


def split_of(data: L.LightningDataModule, forget: Any, **arguments: Any) -> UnlearningDataModule:
    split = UnlearningDataModule(data, forget, **arguments)
    split.setup("fit")
    return split


@pytest.mark.parametrize("rule", [Groups("person", 0.1), Ids([WHO], column="person")])
def test_whether_they_are_of_those_who_stay_is_found_out(rule: Any) -> None:
    assert (
        split_of(Talk(), rule).unlike_nonmembers
        == "non-members are of values of 'person' that stay in training"
    )
    assert split_of(Talk(others=True), rule).unlike_nonmembers == ""
    held_out = split_of(Talk(others=True), rule, nonmember=0.2, nonmember_from="train")
    assert held_out.unlike_nonmembers
    assert "nonmember" not in held_out.validation_streams
    assert split_of(Talk(), 0.1).unlike_nonmembers == "", "single samples are like new ones of anybody"


def set_up_once() -> Talk:
    """A project whose sets a test may change."""
    data = Talk()
    data.setup("fit")
    data.setup = lambda stage: None  # type: ignore[method-assign]
    return data


class Named(Dataset[dict[str, Any]]):
    """Samples that say themselves whose they are, and which were read."""

    def __init__(self, takes: Takes) -> None:
        self.takes, self.read = takes, set[int]()

    def __len__(self) -> int:
        return len(self.takes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read.add(index)
        x, y = self.takes[index]
        return {"x": x, "y": y, "person": int(self.takes.person[index])}


def test_what_each_sample_has_for_itself_makes_no_groups() -> None:
    data = set_up_once()
    data.train.person, data.test.person = np.arange(len(data.train)), np.arange(len(data.test))
    assert split_of(data, Ids([5, 7], column="person")).unlike_nonmembers == ""


@pytest.mark.parametrize(
    "made",
    [lambda who: who.astype(str), lambda who: who.astype(float), lambda who: [*map(str, who[:-1]), None]],
    ids=["text", "floats", "one missing"],
)
def test_a_column_is_the_same_however_it_is_written(made: Any) -> None:
    data = set_up_once()
    data.test.person = np.asarray(made(data.test.person))
    assert split_of(data, Groups("person", 0.1)).unlike_groups


def test_of_keys_in_samples_those_of_non_members_are_read() -> None:
    data = set_up_once()
    data.test = Named(data.test)
    split = split_of(data, Ids([WHO], column="person"), nonmember=20)
    assert split.unlike_groups
    assert len(data.test.read - set(split.split.nonmember.tolist())) <= 1, "one is looked at for its keys"


@pytest.mark.parametrize("column", [None, 3, np.arange(5)])
def test_a_test_set_without_the_column_is_named(column: Any) -> None:
    data = set_up_once()
    data.test.person = column
    with pytest.warns(
        UserWarning, match=r"forget: the test set has no 'person', so nobody can tell whether non-m"
    ):
        assert split_of(data, Groups("person", 0.1)).unlike_nonmembers == ""
    wrong = UnlearningDataModule(data, Groups("person", 0.1), wrong_labels=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="forget: the test set")
        wrong.setup("fit")  # what is still given tells, whoever the non-members are
    assert wrong.unlike_groups == ""


@pytest.mark.slow
def test_the_benchmarks_person_is_found_in_the_file_that_its_page_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_vowels(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "benchmark.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(program, {})
    fewer = [
        "--seeds=1",
        "--trainer.limit_train_batches=1",
        "--short_retrainings=[]",
        "--quiet=true",
        "--page=false",
    ]
    assert main(["compare", "--recipe", "benchmark/identity", *fewer]) == 0
    report = json.loads(Path("runs/benchmark/identity/report.json").read_text())
    assert report["data"]["n_forget"] == 22, "all takes of one person"
    assert {"neg_grad_plus", "rewind", "shrink_perturb"} <= report["models"].keys()


def test_what_goes_by_non_members_says_that_they_tell_nothing(tmp_path: Path) -> None:
    earlier, source = str(tmp_path / "{epoch}"), Listener()
    keeps = ModelCheckpoint(filename=earlier, save_top_k=-1)
    quiet_trainer(callbacks=[keeps], enable_checkpointing=True, max_epochs=2).fit(source, Talk())
    data, first = UnlearningDataModule(Talk(), Groups("person", 0.1)), tmp_path / "epoch=0.ckpt"
    with pytest.warns(
        UserWarning, match=r"RewindKL: non-members are of values of 'person' that stay in training"
    ):
        quiet_trainer(max_epochs=1).fit(RewindKL(source.eval(), first), data)
    with pytest.warns(UserWarning, match=r"WGAN answers .* non-members are of values of 'person' that stay"):
        quiet_trainer(max_epochs=1).fit(WGAN(source), data)
    watched = ModelCheckpoint(tmp_path, monitor="gap/forget")
    with pytest.raises(ValueError, match=r"monitor='gap/forget'\): non-members are of values of 'person'"):
        quiet_trainer(callbacks=[watched], enable_checkpointing=True).fit(Rewind(source, first), data)


def test_people_are_known_where_the_source_is_given_and_its_positions_are_kept() -> None:
    def build() -> UnlearningDataModule:
        return UnlearningDataModule(Talk(), Groups("person", 0.1))

    given = build()
    set_up(given, 0, None, anew=False)
    told = {
        source_given: SeedSplits(given, build, "all", source_given).of(1).unlike_groups
        for source_given in (False, True)
    }
    assert told[True] == told[False] == "non-members are of values of 'person' that stay in training"


class Uneven(Talk):
    """Of each person there are more takes than of the one before."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.train.person = (np.arange(len(self.train)) ** 0.5).astype(int)


def test_seeds_that_forget_differently_many_are_told_with_the_fewest_and_the_most(tmp_path: Path) -> None:
    comparison = compare(
        SourceRun(Listener, {"max_epochs": 1}),
        lambda: UnlearningDataModule(Uneven(others=True), Groups("person", 0.1)),
        [],
        seeds=3,
        retrain_2=False,
        short_retrainings=(),
        output_dir=tmp_path / "out",
        page=False,
        quiet=True,
        trainer={"accelerator": "cpu"},
    )
    splits = (Split.load(tmp_path / f"out/source/seed_{seed}/split.npz") for seed in range(3))
    sizes = sorted(len(split.forget) for split in splits)
    assert sizes[0] < sizes[-1]
    data, total = comparison.report["data"], PEOPLE * PHRASES * 8
    assert (data["n_forget"], data["n_forget_most"]) == (sizes[0], sizes[-1])
    assert data["n_forget"] + data["n_retain"] == total
    first = summary_sentences(comparison.report)[0]
    assert first.startswith(f"{sizes[0]} to {sizes[-1]} of the {total} training samples")
