"""A deletion request in one call and in one command: what it answers, leaves behind, and refuses."""

import copy
import dataclasses
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers import overfitted
from helpers.toys import PlainData, PlainModule, quiet_trainer, test_set, toy_data, toy_source, train_set
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_unlearn import (
    ForgettingMetrics,
    Ids,
    MethodRun,
    SourceRun,
    UnlearningDataModule,
    compare,
    forget,
)
from lightning_unlearn.callbacks import PopulationAttack
from lightning_unlearn.cli.forget import _asked
from lightning_unlearn.cli.main import main
from lightning_unlearn.comparison import request
from lightning_unlearn.comparison.attempts import Attempts, Judging
from lightning_unlearn.comparison.request import Result, _split_data
from lightning_unlearn.core.files import model_hash
from lightning_unlearn.core.ledger import read
from lightning_unlearn.data import Classes, SelectionData, Split
from lightning_unlearn.engine.answering import Answered, answered, measure_of
from lightning_unlearn.ensembles import Outputs
from lightning_unlearn.functional.answer import Estimate, answer
from lightning_unlearn.functional.tasks import task_named
from lightning_unlearn.methods import RUM, CFk, FineTune, NegGradPlus, SourceCheckpoint, UnlearningModule
from lightning_unlearn.methods.base.source import read_checkpoint

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
NOTHING: Any = functools.partial(CFk, optimizer=functools.partial(torch.optim.SGD, lr=0.0))
"""A method that changes no weight."""


@functools.cache
def trained() -> tuple[SourceCheckpoint, tempfile.TemporaryDirectory[str]]:
    folder = tempfile.TemporaryDirectory()
    return SourceCheckpoint(str(overfitted.train(Path(folder.name))), "helpers.overfitted.Module"), folder


@pytest.fixture
def owned() -> SourceCheckpoint:
    """A source that knows all of its training samples by heart, with earlier checkpoints beside it."""
    return trained()[0]


@pytest.fixture
def ask(owned: SourceCheckpoint, tmp_path: Path) -> Any:
    def ask(ids: Any, output: str = "unlearned", **arguments: Any) -> Result:
        source = arguments.pop("source", owned)
        record = tmp_path / arguments.pop("ledger", "deletions.jsonl")
        return forget(
            source,
            overfitted.Data(),
            ids,
            output=tmp_path / output,
            ledger=record,
            **{"trainer": QUIET, **arguments},
        )

    return ask


def answers(result: Result, part: str) -> tuple[Tensor, Tensor]:
    """Load the export into its own class, and return what it answers in evaluation mode, and the labels."""
    model = overfitted.Module.load_from_checkpoint(result.file, weights_only=True, strict=True).eval()
    data = overfitted.Data()
    data.setup("fit")
    x, y = getattr(data, part).tensors
    with torch.no_grad():
        return model(x).argmax(1), y


# ---------------------------------------------------------------------- what it answers


@pytest.mark.slow
@pytest.mark.parametrize("rewinds", [True, False])
def test_wrong_labels_are_forgotten_and_the_answer_says_so(ask: Any, owned: Any, rewinds: bool) -> None:
    earlier = Path(owned.path).parent if rewinds else None
    result = ask(overfitted.WRONG, wrong_labels=True, checkpoints=earlier)
    given, labels = (each[overfitted.WRONG] for each in answers(result, "train"))
    assert result.outcome == "shown" or (result.outcome == "cannot tell" and not rewinds), "more is left then"
    assert result.answered.answer.before.value == 1
    assert float((given == labels).double().mean()) == result.answered.answer.after.value < 0.25
    test, true = answers(result, "test")
    assert float((test == true).double().mean()) > 0.77, "the model was better before"
    assert "the given labels still answered 100 →" in result.answered.text


@pytest.mark.slow
def test_a_class_is_forgotten_and_its_test_samples_are_no_loss(ask: Any) -> None:
    result = ask("class:3")
    given, labels = answers(result, "train")
    assert result.outcome == "shown"
    assert float((given[labels == 3] == 3).double().mean()) < 0.05
    test, true = answers(result, "test")
    others = float((test == true)[true != 3].double().mean())
    assert result.answered.test[1] == pytest.approx(others, abs=0.02)
    assert others > 0.75


@pytest.mark.slow
def test_random_samples_are_compared_with_unseen_ones(ask: Any) -> None:
    result = ask(0.1)
    before, after, unseen = result.answered.shares
    assert result.outcome == "shown"
    assert result.answered.answer.before.low > 0.7
    assert before > 0.99
    assert abs(after - unseen) < 0.15
    split = Split.load(result.file.parent / "split.npz")
    given, labels = (each[split.forget] for each in answers(result, "train"))
    assert float((given == labels).double().mean()) == pytest.approx(after)
    assert {path.name for path in result.file.parent.iterdir()} == {
        "model.ckpt",
        "split.npz",
        "certificate.html",
    }
    (line,) = read(result.ledger)
    assert line == result.line
    assert line["answer"] == result.answered.record()
    assert line["answer"]["text"].startswith("Forgotten: SHOWN. 240 samples: accuracy 100 →")
    assert line["answer"]["samples"] == 240
    assert "shown" in result.certificate.read_text().lower()


@pytest.mark.slow
def test_what_does_nothing_is_not_shown_and_five_samples_cannot_tell(
    ask: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = ask(0.1, method=NOTHING)
    assert nothing.outcome == "not shown"
    assert (
        ask(overfitted.WRONG, "b", wrong_labels=True, method=NOTHING, ledger="b.jsonl").outcome == "not shown"
    )
    few = ask([3, 4, 5, 6, 7], "c", ledger="c.jsonl")
    assert few.outcome == "cannot tell"
    assert "like them would tell" in few.answered.text
    capsys.readouterr()
    assert main(["ledger", "verify", str(nothing.ledger)]) == 0
    assert "chain intact; outcome: not shown\n" in capsys.readouterr().out


@pytest.mark.slow
def test_within_a_budget_several_are_tried_and_the_answer_is_of_other_samples(ask: Any) -> None:
    result = ask(0.1, budget=1.0)
    assert result.answered.tried >= 2
    assert result.line["answer"]["tried"] == result.answered.tried
    assert f"The best of {result.answered.tried} tried" in result.answered.text
    assert ask(0.1, "once", budget=0.01).answered.tried == 1


@pytest.mark.slow
def test_a_retrained_model_is_the_target_where_there_is_one(ask: Any, owned: Any) -> None:
    result = ask(overfitted.WRONG, wrong_labels=True, retrain=True, checkpoints=Path(owned.path).parent)
    oracle = SourceCheckpoint(str(result.file.parent / "retrained.ckpt"), "helpers.overfitted.Module")
    assert result.answered.compared
    assert result.outcome == "shown"
    assert result.answered.answer.target < 0.1
    assert "retrained model" in str(result)
    assert "Not compared" not in str(result)
    again = ask(overfitted.WRONG, "again", wrong_labels=True, retrained=oracle)
    assert again.answered.answer.target == result.answered.answer.target


def test_a_source_that_guesses_is_refused(tmp_path: Path) -> None:
    source = toy_source()
    for parameter in source.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(ValueError, match=r"guessing about .* whether the data is that of its training"):
        forget(
            source,
            toy_data(0.3, nonmember=12, batch_size=64),
            output=tmp_path,
            method=FineTune,
            trainer=QUIET,
        )


@pytest.mark.slow
def test_a_second_request_starts_from_the_first(ask: Any) -> None:
    first = ask([*range(0, 200)], "first")
    with pytest.raises(ValueError, match=r"made another model forget 200 samples .*previous='.*first'"):
        ask([*range(200, 400)], "second")
    successor = SourceCheckpoint(str(first.file), "helpers.overfitted.Module")
    with pytest.raises(ValueError, match=r"it is not the model of previous="):
        ask([*range(200, 400)], "second", previous=first.file.parent)
    again = ask([*range(200)], "again", method=FineTune)
    second = ask([*range(200, 400)], "second", source=successor, previous=first.file.parent)
    successor = SourceCheckpoint(str(again.file), "helpers.overfitted.Module")
    with pytest.raises(
        ValueError, match=r"forget 200 samples which this one remembers; .*previous='.*second'"
    ):
        ask([*range(400, 600)], "third", source=successor, previous=again.file.parent)
    split = Split.load(second.file.parent / "split.npz")
    assert split.previous.tolist() == [*range(200)]
    assert split.retain.min() == 400
    assert second.line["gone"]["count"] == 400
    assert [line["ids"]["count"] for line in read(second.ledger)] == [200, 200, 200]


@pytest.mark.slow
def test_what_was_forgotten_does_not_come_back_with_the_next_request(ask: Any) -> None:
    """Whichever ledger is beside the next output."""
    earlier, later = overfitted.WRONG[:80], overfitted.WRONG[80:]
    first = ask(earlier, "first", wrong_labels=True)
    successor = SourceCheckpoint(str(first.file), "helpers.overfitted.Module")
    asked: dict[str, Any] = {"source": successor, "wrong_labels": True, "ledger": "other.jsonl"}
    with pytest.raises(
        ValueError, match=r"forget 80 samples, and it would be .* previous='.*first/split.npz'"
    ):
        ask(later, "second", **asked)
    second = ask(later, "second", **asked, previous=first.file.parent / "split.npz")
    given, labels = answers(second, "train")
    assert float((given == labels)[earlier].double().mean()) < 0.25


@pytest.mark.slow
def test_of_two_requests_at_once_none_is_lost(ask: Any, tmp_path: Path) -> None:
    one, other = overfitted.WRONG[:80], overfitted.WRONG[80:]
    done: list[Result] = []

    class Meanwhile(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            done.append(ask(other, "other", wrong_labels=True))

    at_once = {"trainer": {**QUIET, "callbacks": [Meanwhile()]}, "wrong_labels": True}
    with pytest.raises(ValueError, match=r"forget 80 samples which this one remembers; .*previous='.*other'"):
        ask(one, "one", **at_once)
    assert not (tmp_path / "one" / "model.ckpt").exists()
    successor = SourceCheckpoint(str(done[0].file), "helpers.overfitted.Module")
    result = ask(one, "one", source=successor, previous=tmp_path / "other", wrong_labels=True)
    given, labels = answers(result, "train")
    assert float((given == labels)[overfitted.WRONG].double().mean()) < 0.25
    assert [line["gone"]["count"] for line in read(result.ledger)] == [80, 160]


def test_after_an_earlier_request_only_a_retrained_model_compares(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"method": FineTune, "trainer": {"max_epochs": 1, **QUIET}}
    first = forget(PlainModule(), PlainData(), [1, 2, 3], output=tmp_path / "1", **asked)
    assert "`retrained=model` or `retrain=True` with source=" in unboxed(str(first))
    asked |= {"source": SourceCheckpoint(str(first.file), "helpers.toys.PlainModule"), "ids": [4, 5]}
    asked |= {"data": PlainData(), "output": tmp_path / "2", "previous": tmp_path / "1"}
    for given in ({"retrain": True}, {"budget": 0.1, "method": "auto"}):
        with pytest.raises(
            ValueError, match=r"after an earlier request leave it out, .* retrained=\.\.\., a model"
        ):
            forget(**{**asked, **given})
    second = forget(**asked, retrained=PlainModule())
    assert second.answered.compared
    told = forget(**{**asked, "output": tmp_path / "3"})
    assert "add `retrained=model` for that." in unboxed(str(told))
    assert "add `--retrained FILE` for that." in unboxed(told.told(command=True))


@pytest.mark.parametrize("blanked", [True, False])
def test_rows_stay_until_the_last_request_or_another_ledger_is_begun(tmp_path: Path, blanked: bool) -> None:
    class Deleted(PlainData):
        def train_dataloader(self) -> Any:
            x, y = train_set().inputs.clone(), train_set().targets
            x[:3] = 0
            rows = slice(0 if blanked else 3, None)
            return DataLoader(TensorDataset(x[rows], y[rows]), batch_size=8, shuffle=True)

    asked: dict[str, Any] = {"method": FineTune, "trainer": {"max_epochs": 1, **QUIET}}
    first = forget(PlainModule(), PlainData(), [0, 1, 2], output=tmp_path / "1", **asked)
    source = SourceCheckpoint(str(first.file), "helpers.toys.PlainModule")
    asked |= {"output": tmp_path / "2"}
    said = r"ows .*must stay in their places.* until the last request; once they are deleted, .*begin another ledger"
    with pytest.raises(ValueError, match=rf"previous: an earlier split .*{said}"):
        forget(source, Deleted(), [4, 5], previous=tmp_path / "1", **asked)
    with (
        pytest.raises(ValueError, match=rf"previous: the source is the model that .*{said}"),
        pytest.warns(UserWarning, match="samples of another training set"),
    ):
        forget(source, Deleted(), [4, 5], **asked)
    with pytest.warns(UserWarning, match="samples of another training set"):
        forget(source, Deleted(), [4, 5], ledger=tmp_path / "other.jsonl", **asked)


def test_of_two_requests_at_once_one_has_the_folder(tmp_path: Path) -> None:
    def ask(ids: list[int], *callbacks: L.Callback) -> Result:
        given = {"max_epochs": 1, "callbacks": list(callbacks), **QUIET}
        folder = tmp_path / "unlearned"
        return forget(PlainModule(), PlainData(), ids, output=folder, method=FineTune, trainer=given)

    class Meanwhile(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            ask([1, 2])

    with pytest.raises(FileExistsError, match="holds the model of a request already"):
        ask([3, 4, 5], Meanwhile())
    (line,) = read(tmp_path / "deletions.jsonl")
    assert Split.load(tmp_path / "unlearned" / "split.npz").forget.tolist() == [1, 2]
    written = read_checkpoint(tmp_path / "unlearned" / "model.ckpt")["state_dict"]
    assert line["model"]["after"] == model_hash(written)


def test_a_model_that_a_request_left_is_known_wherever_it_is_a_source(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"trainer": {"max_epochs": 1, **QUIET}}
    first = forget(PlainModule(), PlainData(), [1, 2, 3], output=tmp_path / "1", method=FineTune, **quick)
    source = SourceCheckpoint(str(first.file), "helpers.toys.PlainModule")
    asked: dict[str, Any] = {"method": FineTune, "ledger": tmp_path / "other.jsonl", **quick}
    known = r"previous: the source is what the request in .*1 left, which made it forget 3 samples"
    with pytest.raises(ValueError, match=known):
        forget(source, PlainData(), [4, 5], output=tmp_path / "2", **asked)
    with pytest.raises(ValueError, match=known):
        quiet_trainer().fit(FineTune(source), UnlearningDataModule(PlainData(), 0.2))
    beside = SourceCheckpoint(str(tmp_path / "1" / "best.ckpt"), "helpers.toys.PlainModule")
    shutil.copy(first.file, beside.path)  # stands for the source, whose folder the request was written to
    quiet_trainer().fit(FineTune(beside), UnlearningDataModule(PlainData(), [4, 5]))
    described = SourceRun(PlainModule, checkpoint=str(first.file))

    def compared(folder: str, data: UnlearningDataModule) -> None:
        compare(described, lambda: data, [MethodRun(FineTune)], output_dir=tmp_path / folder, **quick)

    with pytest.raises(ValueError, match=known):
        compared("3", UnlearningDataModule(PlainData(), [4, 5]))
    assert not (tmp_path / "3").exists()
    file = tmp_path / "1" / "split.npz"
    quiet_trainer().fit(FineTune(source), UnlearningDataModule(PlainData(), [4, 5], previous=file))
    second = forget(source, PlainData(), [4, 5], output=tmp_path / "2", previous=file, **asked)
    source = SourceCheckpoint(str(second.file), "helpers.toys.PlainModule")
    with pytest.raises(ValueError, match=r"in .*2 left, which made it forget 5 samples"):  # all that are gone
        quiet_trainer().fit(FineTune(source), UnlearningDataModule(PlainData(), [6], previous=file))
    with pytest.warns(UserWarning, match="forget 5 samples of another training set than this one"):
        quiet_trainer().fit(FineTune(source), UnlearningDataModule(test_set(), 0.2, test_dataset=train_set()))
    (tmp_path / "2" / "certificate.html").unlink()  # as beside a comparison's source
    source.load()
    quiet_trainer().fit(FineTune(source), UnlearningDataModule(PlainData(), [4, 5]))


@pytest.mark.parametrize("step", ["save", "answered", "export", "record_fit", "write_certificate", "rename"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_request_that_is_cut_off_at_its_end_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, begun: bool
) -> None:
    places: dict[str, Any] = {
        "save": (Split, "save"),
        "answered": (Attempts, "answered"),
        "export": (FineTune, "export"),
        "rename": (os, "replace"),
    }
    owner, name = places.get(step, (request, step))
    whole = getattr(owner, name)

    def cut(*given: Any, **arguments: Any) -> Any:
        if step == "rename" and Path(given[1]).name != "model.ckpt":
            return whole(*given, **arguments)
        if begun:
            whole(*given, **arguments)
        raise KeyboardInterrupt

    def ask(data: Any = None) -> Result:
        L.seed_everything(0, verbose=False)
        data = data or toy_data(0.3, nonmember=12)
        return forget(toy_source(), data, output=tmp_path / "unlearned", method=FineTune, trainer=QUIET)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, cut)
        with pytest.raises(KeyboardInterrupt):
            ask()
    on_record = step in ("write_certificate", "rename") or (step == "record_fit" and begun)
    if on_record and not (step == "rename" and begun):
        with pytest.raises(
            ValueError, match=r"latest attempt \(if it was cut off, make it once more\): source="
        ):
            ask(toy_data([1, 2], nonmember=12))
    if step == "rename" and begun:  # there was nothing left to do
        with pytest.raises(FileExistsError):
            ask()
    else:
        assert not (tmp_path / "unlearned" / "model.ckpt").exists()
        ask()
    left = {path.name for path in (tmp_path / "unlearned").iterdir()}
    assert left == {"model.ckpt", "split.npz", "certificate.html"}
    (line,) = read(tmp_path / "deletions.jsonl")
    written = read_checkpoint(tmp_path / "unlearned" / "model.ckpt")["state_dict"]
    assert line["model"]["after"] == model_hash(written)
    assert line["model"]["file"] == "unlearned/model.ckpt"
    assert line["ids"]["hmac_sha256"] in (tmp_path / "unlearned" / "certificate.html").read_text(), (
        "not of the file that was being written"
    )
    assert ".tmp" not in (tmp_path / "unlearned" / "certificate.html").read_text()


# ---------------------------------------------------------------------- the command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owned: SourceCheckpoint) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("their_project.py").write_text(
        Path(overfitted.__file__).read_text().replace("class Data", "class MyData")
    )
    yield Path(owned.path)
    sys.modules.pop("their_project", None)


@pytest.mark.slow
def test_the_command_answers_by_its_exit_status(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data=their_project.MyData", *(f"--trainer.{key}={value}" for key, value in QUIET.items())]
    Path("request.csv").write_text("id\n" + "\n".join(map(str, overfitted.WRONG)))
    asked = ["forget", str(project), "request.csv", *given, "--wrong_labels=true"]
    assert main([*asked, f"--checkpoints={project.parent}"]) == 0
    printed = capsys.readouterr().out
    assert "| Forgotten: SHOWN. 160 samples: " in printed
    assert "Model:       unlearned/model.ckpt\n" in printed
    assert main(asked) == 2
    assert "give another folder" in capsys.readouterr().err
    nothing = [
        "--method=CFk",
        "--method.optimizer=torch.optim.SGD",
        "--method.optimizer.lr=0.0",
        "--ledger=b.jsonl",
    ]
    assert main([*asked, *nothing, "--output=b"]) == 3
    Path("few.csv").write_text("id\n3\n4\n5\n6\n7\n")
    assert main(["forget", str(project), "few.csv", *given, "--output=c", "--ledger=c.jsonl"]) == 4
    assert "| Forgotten: CANNOT TELL. 5 samples: " in capsys.readouterr().out


def test_the_help_begins_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["forget", "--help"])
    first = capsys.readouterr().out.splitlines()[0]
    assert (
        first
        == "example: lightning-unlearn forget best.ckpt deletion_request.csv --data my_project.MyDataModule"
    )


@pytest.mark.parametrize("asked", ["3", "3.0", "1"])
def test_a_bare_number_on_the_command_line_says_what_to_write_there(
    asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data=helpers.overfitted.Data", "--model=helpers.overfitted.Module"]
    assert main(["forget", "best.ckpt", asked, *given]) == 2
    said = f"ids: {asked} could mean a class or a sample; write class:{asked[0]} to forget a class, and to forget a "
    assert f"{said}sample give the path of a .csv, .json, .txt file" in capsys.readouterr().err


def test_a_number_on_the_command_line_is_a_value_of_the_column() -> None:
    for values in ([5, 7, 7], [5.0, 7.0, 7.0], ["5", "7", "7"]):
        data = SelectionData(3, attributes={"customer": values})
        assert Ids(_asked("7", "customer"), "customer")(data).tolist() == [1, 2]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got '0\.5'"):
        Ids(_asked("0.5", "customer"), "customer")  # type: ignore[arg-type]


# ---------------------------------------------------------------------- what it refuses, before anything is trained


def test_what_cannot_be_done_rightly_is_refused(tmp_path: Path) -> None:
    def ask(data: Any, ids: Any = None, **arguments: Any) -> None:
        forget(toy_source(), data, ids, output=tmp_path / "unlearned", trainer=QUIET, **arguments)

    with pytest.raises(ValueError, match="ids must say what to forget"):
        ask(train_set())
    with pytest.raises(ValueError, match="ids, column: the data is an UnlearningDataModule"):
        ask(toy_data(), [1], column="customer")
    with pytest.raises(ValueError, match=r"budget goes by the steps .*=SourceCheckpoint\('best.ckpt'"):
        ask(toy_data(), budget=0.1)
    with pytest.raises(
        ValueError, match=r"retrain goes by .* source=SourceCheckpoint\('best.ckpt', '[\w.]+Classifier'\)"
    ):
        ask(toy_data(), retrain=True)
    with pytest.raises(ValueError, match=r"budget must be a share, such as 10% or 0.1, got 'much'"):
        ask(toy_data(), budget="much")
    with pytest.raises(ValueError, match=r"budget must lie in \(0, 1\], got 2.0"):
        ask(toy_data(), budget="200%")
    torch.save({"state_dict": {"w": torch.ones(1)}, "global_step": 9}, tmp_path / "best.ckpt")
    with pytest.raises(
        ValueError, match=r"class it belongs to .* give SourceCheckpoint\('.*best.ckpt', 'my_project.MyM"
    ):
        forget(tmp_path / "best.ckpt", toy_data(), retrain=True)
    with pytest.raises(ValueError, match=r"budget must lie in \(0, 1\]"):
        ask(toy_data(), budget=10.0)
    with pytest.raises(ValueError, match=r"leave it out, or method"):
        ask(toy_data(), budget=0.1, method=NOTHING)
    kept = toy_data(ledger=tmp_path / "own.jsonl")
    with pytest.raises(ValueError, match=r"forget works in one process, and this Trainer has 2"):
        forget(toy_source(), kept, output=tmp_path / "two", trainer={"devices": 2, "accelerator": "cpu"})
    assert kept.ledger is not None, "the next fit is to be recorded"
    with pytest.raises(ValueError, match=r"leave one out"):
        ask(toy_data(), retrain=True, retrained=toy_source())
    with pytest.raises(
        ValueError, match=r"TensorData has 0 samples .* give LightningDataModule.from_datasets\("
    ):
        ask(train_set(), [1, 2])
    with pytest.raises(
        TypeError, match=r"data must be your LightningDataModule, got DataLoader; .*from_datasets\("
    ):
        ask(torch.utils.data.DataLoader(train_set()), [1, 2])
    (tmp_path / "unlearned").mkdir()
    (tmp_path / "unlearned" / "model.ckpt").touch()
    with pytest.raises(
        FileExistsError, match=r"further request source='.*model.ckpt' with previous='.*unlearned'"
    ):
        ask(toy_data())


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("ReferencKL", r"method: there is none called 'ReferencKL'; did you mean ReferenceKL\?"),
        ("unlearn", r"method: there is none called 'unlearn'; there are CT, DELETE, .*UNSIR, WGAN"),
        ("UnlearningModule", r"there is none called 'UnlearningModule'"),
        (1, r"must make an unlearning method .* got int object; give the class ReferenceKL, its name, or"),
        (None, r"got NoneType object"),
        (torch.nn.Linear, r"got Linear; give the class ReferenceKL"),
        (CFk(PlainModule()), r"got CFk object; give the class CFk, its name, or .* partial\(CFk, \.\.\.\)"),
        (
            lambda source: source,
            r"method must make an unlearning method of the source; <lambda> made PlainModule",
        ),
    ],
)
def test_what_makes_no_method_is_refused(tmp_path: Path, method: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        forget(PlainModule(), PlainData(), [1, 2, 3], output=tmp_path / "1", method=method, trainer=QUIET)
    assert not (tmp_path / "1").exists()
    if method is not None and type(method).__name__ != "function":
        with pytest.raises((TypeError, ValueError), match=said):
            MethodRun(method, name="own")
        with pytest.raises((TypeError, ValueError), match=said):
            RUM(toy_source(), [FineTune, method])


def test_a_method_may_be_named(tmp_path: Path) -> None:
    trainer = {"max_epochs": 1, **QUIET}
    forget(PlainModule(), PlainData(), [1, 2, 3], output=tmp_path / "1", method="FineTune", trainer=trainer)
    (line,) = read(tmp_path / "deletions.jsonl")
    assert line["method"]["class"].endswith("FineTune")
    assert MethodRun("CFk").label == "cf_k"  # type: ignore[arg-type]


def test_a_retrained_model_that_is_the_source_is_refused(tmp_path: Path) -> None:
    source = PlainModule()
    for same in (source, copy.deepcopy(source)):
        said = r"retrained: it is the source itself, weight for weight; .* trained without these samples"
        with pytest.raises(ValueError, match=said):
            forget(source, PlainData(), [1, 2, 3], output=tmp_path / "1", retrained=same, trainer=QUIET)
        with pytest.raises(ValueError, match=said):
            quiet_trainer(callbacks=[PopulationAttack(retrained=same)]).fit(FineTune(source), toy_data())
    assert not list(tmp_path.iterdir())


def test_an_argument_that_no_trainer_has_is_named_with_the_nearest(tmp_path: Path) -> None:
    said = r"a Trainer has no argument 'max_epoch'; did you mean max_epochs\?"
    given: Any = {"trainer": {"max_epoch": 3, **QUIET}}
    with pytest.raises(ValueError, match=f"trainer: {said}"):
        forget(PlainModule(), PlainData(), [1, 2, 3], output=tmp_path / "1", **given)
    source = SourceRun(PlainModule, {"max_epochs": 1})
    with pytest.raises(ValueError, match=f"trainer of 'source': {said}"):
        compare(source, toy_data, [MethodRun(FineTune)], output_dir=tmp_path / "2", **given)
    source = SourceRun(PlainModule, {"max_epochs": 1})
    with pytest.raises(ValueError, match=f"trainer of 'fine_tune': {said}"):
        compare(
            source,
            toy_data,
            [MethodRun(FineTune, trainer={"max_epoch": 3})],
            output_dir=tmp_path / "2",
            trainer={"max_epochs": 1, **QUIET},
        )


def test_classes_are_asked_for_as_everywhere() -> None:
    assert _split_data(train_set(), "class:0,2", None, False, None).rule == Classes([0, 2])


class Dealt(PlainData):
    """Which samples are trained on, its seed decides."""

    def __init__(self, seed: int = 7) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(self.hparams.seed)
        return DataLoader(random_split(train_set(), [48, 12], generator)[0], 8, shuffle=True)


def test_the_split_is_that_of_the_source(tmp_path: Path) -> None:
    trainer = quiet_trainer(max_epochs=20, limit_val_batches=0)
    trainer.fit(PlainModule(), Dealt())
    trainer.save_checkpoint(file := tmp_path / "best.ckpt")
    source = SourceCheckpoint(str(file), "helpers.toys.PlainModule")
    refused = r"Dealt has seed=8, .* Dealt\(seed=7\) .*--data\.seed 7"
    with pytest.raises(ValueError, match=refused):
        forget(source, Dealt(8), [1, 2, 3], output=tmp_path / "other", trainer=QUIET)
    with pytest.raises(ValueError, match=refused):
        quiet_trainer().fit(FineTune(source), UnlearningDataModule(Dealt(8), 0.2))
    with pytest.raises(ValueError, match=refused):
        compare(
            SourceRun(PlainModule, checkpoint=str(file)),
            lambda: UnlearningDataModule(Dealt(8), 0.2),
            [MethodRun(FineTune)],
            trainer={"max_epochs": 1, **QUIET},
            output_dir=tmp_path / "compared",
        )
    assert not (tmp_path / "compared").exists()
    forget(source, Dealt(), [1, 2, 3], output=tmp_path / "unlearned", trainer=QUIET, method=NOTHING)


@pytest.mark.parametrize("when", ["in training", "in measuring"])
def test_a_recipe_that_diverges_does_not_end_the_request(when: str) -> None:
    """Whatever says so: its own training, or losses that are NaN afterwards."""

    class Diverges(FineTune):
        def on_train_end(self) -> None:
            if when == "in training":
                raise FloatingPointError("the loss is NaN")
            next(self.model.parameters()).data.fill_(float("nan"))

    split = toy_data(0.3, nonmember=12)
    split.setup("fit")
    request = Attempts(toy_source(), split, QUIET)
    with pytest.warns(UserWarning, match="passed over: .* NaN"):
        best = request.best([(Diverges, {}), (FineTune, {})], 1000.0)
    assert type(best) is FineTune
    assert request.tried == 1
    with pytest.raises(FloatingPointError, match="NaN"):
        request.best([(Diverges, {})], 0.0)


def test_a_budget_for_one_recipe_says_what_would_allow_more_as_it_was_asked() -> None:
    split = toy_data(0.3, nonmember=12)
    split.setup("fit")
    request = Attempts(toy_source(), split, QUIET)
    request.best([(FineTune, {}), (FineTune, {})], 1e-6)
    assert request.room is not None
    assert request.room > 1
    result = Result(request.answered(), Path(), Path(), Path(), {}, room=(4, 0.25))
    assert "1 recipe fits into the 4 steps of the budget; budget=0.25 would" in unboxed(result.told())
    assert "add `retrained=model` or `retrain=True` for that" in unboxed(str(result))
    told = unboxed(result.told(command=True))
    assert "add `--retrained FILE` or `--retrain true` for that" in told
    assert "--budget 25% would allow another" in told


def unboxed(text: str) -> str:
    return " ".join(line.strip("| ") for line in text.splitlines()[1:-1])


def test_the_class_comes_from_the_command_line_and_not_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": {}}, "best.ckpt")
    assert main(["forget", "best.ckpt", "0.1", "--data=Digits"]) == 2
    assert (
        "--model: best.ckpt does not say which class it belongs to; give --model CLASS"
        in capsys.readouterr().err
    )


# ---------------------------------------------------------------------- a fit that ends with it


@functools.cache
def data() -> UnlearningDataModule:
    return toy_data(0.3, nonmember=12)


def fitted(*callbacks: Any, method: UnlearningModule | None = None, **arguments: Any) -> UnlearningModule:
    method = method or FineTune(toy_source())
    quiet_trainer(max_epochs=1, callbacks=list(callbacks), limit_val_batches=0, **arguments).fit(
        method, data()
    )
    return method


def test_a_fit_with_evaluators_ends_with_the_answer_once(capsys: pytest.CaptureFixture[str]) -> None:
    method = fitted(PopulationAttack(), ForgettingMetrics())
    printed = capsys.readouterr().out
    assert printed.count("Forgotten: CANNOT TELL. 18 samples:") == 1
    assert method.answer is not None
    assert method.answer["before"] == pytest.approx(
        float(method.trainer.callback_metrics["source/population_attack/auc"])
    )
    assert method.answer["after"] == pytest.approx(
        float(method.trainer.callback_metrics["population_attack/auc"])
    )
    assert "points of test accuracy" in method.answer["text"], "the test set was asked by the second"


def test_only_what_was_measured_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    method = fitted(PopulationAttack())
    assert method.answer is not None
    assert "test accuracy" not in method.answer["text"]
    fitted(PopulationAttack(), fast_dev_run=True)
    fitted()
    assert capsys.readouterr().out.count("Forgotten:") == 1
    assert fitted(PopulationAttack(controls=False)).answer is None


def test_other_tasks_are_asked_what_has_a_meaning_for_them() -> None:
    def outputs(logits: Tensor, targets: Tensor, task: str) -> Outputs:
        return Outputs(logits, targets, task_named(task))

    logits, wrong = torch.randn(90), torch.zeros(90)
    binary = {
        "forget": outputs(logits.abs(), wrong + 1, "binary"),
        "nonmember": outputs(logits, wrong, "binary"),
    }
    after = {**binary, "forget": outputs(-logits.abs(), wrong + 1, "binary")}
    found = answered(binary, after, "labels")
    assert found is not None
    assert found.answer.outcome == "shown"
    assert found.answer.target == pytest.approx(float((logits > 0).double().mean()))
    assert "That is within half of the gap and 10 points: up to" in found.text
    rare = torch.arange(100) < 5  # half of the few positives are missed, and no negative is
    unseen = outputs(torch.where(torch.arange(100) < 2, 1.0, -1.0), rare.float()[:, None], "binary")
    asked = {"forget": outputs(torch.ones(30, 1), torch.ones(30, 1), "binary"), "nonmember": unseen}
    found = answered(asked, asked, "labels")
    assert found is not None
    assert found.answer.target == 0, "no negative is taken for a positive"
    numbers = {part: outputs(logits, wrong, "regression") for part in ("forget", "nonmember", "test")}
    assert answered(numbers, numbers, "labels") is None
    found = answered(numbers, numbers, "membership", seconds=12.0)
    assert found is not None
    assert "accuracy" not in found.text
    loss = f"{float(logits.square().mean()):.3g}"
    assert f"samples: loss {loss} → {loss} (unseen samples {loss}), an attacker" in found.text
    assert f"Cost: test loss {loss} → {loss}, 12 s." in found.text
    assert "wrong_labels" not in found.text, "which would be refused"


def test_samples_that_became_less_known_than_unseen_ones_are_named_whatever_the_answer() -> None:
    less, unseen = Estimate(0.4, 0.3, 0.49), Estimate(0.49, 0.4, 0.58)
    for before in (unseen, Estimate(0.58, 0.51, 0.65)):
        several = task_named("multilabel")
        found = Answered(answer(before, less, 0.5, samples=60), "membership", (1.0, 0.78, 0.98), task=several)
        assert found.answer.outcome == "cannot tell"
        assert "now less known than unseen samples, which also tells who they were" in found.text
        assert ("keep the source" in found.text) == (before is unseen)
        assert "would tell" not in found.text
        assert "accuracy (all labels right) 100 → 78%" in found.text
    worse = Answered(answer(less, less, 0.5, samples=60), "membership", (0.1, 0.3, 0.9))
    for found in (worse, Answered(worse.answer, "membership", ())):
        first = (
            "The source is less sure of them than of unseen samples, as of wrong labels: if theirs are wrong"
        )
        assert found.text.split(". ")[2].startswith(first)
        assert "no trace" not in found.text
        assert "keep the source" not in found.text
        assert found.text.count("wrong_labels") == 1
    hardly = answer(Estimate(0.51, 0.42, 0.6), unseen, 0.5, samples=60)
    assert hardly.needed is None, "nobody brings a hundred times as many"
    without = Answered(hardly, "class", (1.0, 0.0), (0.9, 0.9))
    assert "Cost: 0.0 points of test accuracy of the other classes." in without.text


def test_where_too_much_is_left_no_more_samples_are_asked_for_but_what_forgets_more() -> None:
    knew = Estimate(0.8, 0.75, 0.85)
    for after in (
        knew,
        Estimate(0.68, 0.62, 0.74),
    ):  # not shown, and an interval that reaches within half the gap
        found = Answered(answer(knew, after, 0.5, samples=500), "membership", (), steps=8)
        assert found.answer.outcome == ("not shown" if after is knew else "cannot tell")
        assert "Too much is left after 8 steps: more epochs, or a stronger method would tell." in found.text
        assert "like them" not in found.text
        told = functools.partial(Result, found, Path(), Path(), Path(), {})
        assert "To forget more: `trainer={'max_epochs': N}` or `method='auto'`." in unboxed(str(told()))
        assert "`--trainer.max_epochs N` or `--method auto`." in unboxed(told().told(command=True))
        assert "or `budget='10%'`, which tries several recipes." in unboxed(
            str(told(auto=True, several=True))
        )
        assert "budget" not in unboxed(str(told(auto=True))), "there was one, or none can be had"
        once = dataclasses.replace(found, steps=0)
        assert "Too much is left: a stronger method would tell." in once.text
    few = Answered(answer(knew, Estimate(0.6, 0.5, 0.7), 0.5, samples=50), "membership", (), steps=8)
    assert "Too few samples: about" in few.text
    assert "Too much" not in few.text


def test_the_measure_fits_the_request() -> None:
    def measure(forget: Any, **arguments: Any) -> str:
        split = UnlearningDataModule(train_set(), forget, test_dataset=test_set(), **arguments)
        split.setup("fit")
        return measure_of(split)

    of_class = np.flatnonzero(train_set().targets.numpy() == 1)
    assert measure(0.2) == "membership"
    assert measure(Ids(of_class)) == "class"
    assert measure(Ids([*of_class, 0])) == "membership", "one sample of another class is no class"
    assert measure(0.2, wrong_labels=True) == "labels"


def test_where_steps_are_asked_for_the_number_of_epochs_is_shown() -> None:
    data, trainer = (
        toy_data(0.3, nonmember=12),
        L.Trainer(**QUIET, max_steps=7, logger=False, enable_checkpointing=False),
    )
    trainer.callbacks.append(Judging(data))  # type: ignore[attr-defined]
    trainer.fit(FineTune(toy_source()), data)
    batches = int(trainer.num_training_batches)
    assert batches < 7
    assert (trainer.global_step, trainer.max_epochs) == (7, -(-7 // batches))


def test_steps_that_are_asked_for_are_made(tmp_path: Path) -> None:
    """The recipe's own epochs end sooner."""
    steps: list[int] = []

    class Count(L.Callback):
        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            steps.append(trainer.global_step)

    trainer = {**QUIET, "max_steps": 70, "callbacks": [Count()]}
    data = toy_data(0.3, nonmember=12)
    forget(toy_source(), data, output=tmp_path / "out", method=NegGradPlus, trainer=trainer)
    assert steps == [70]


def test_lightnings_own_default_of_steps_asks_for_none(tmp_path: Path) -> None:
    trainer = {**QUIET, "max_steps": -1}
    forget(
        toy_source(), toy_data(0.3, nonmember=12), output=tmp_path / "out", method=FineTune, trainer=trainer
    )
    assert (tmp_path / "out" / "model.ckpt").is_file()
