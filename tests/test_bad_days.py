"""What goes wrong on other people's machines, done for real: one clear message, nothing half written, nothing lost."""

import errno
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.support import METHODS, settings_of
from helpers.toys import (
    FEATURES,
    Net,
    PlainModule,
    assert_same_state,
    quiet_trainer,
    state,
    test_set,
    toy_data,
    toy_source,
    train_set,
)
from test_compare import toy_compare
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_unlearn import ReferenceKL, Retrain, SourceRun
from lightning_unlearn.callbacks import Audit, Evaluator, ForgettingMetrics, MembershipInference
from lightning_unlearn.cli.main import main
from lightning_unlearn.core.ledger import read
from lightning_unlearn.data import Classes, Ids, UnlearningDataModule
from lightning_unlearn.methods import SourceCheckpoint, UnlearningModule
from lightning_unlearn.models import Classifier

every_method = pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)


def build(kind: type[UnlearningModule], source: nn.Module) -> UnlearningModule:
    return kind(source, **settings_of(kind, source=source))


def evaluators(**arguments: Any) -> list[Evaluator]:
    return [
        ForgettingMetrics(on_error="raise", **arguments),
        MembershipInference(bootstrap=10, attack="logistic", on_error="raise", **arguments),
    ]


class Mark:
    """Something that is executed when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


# ---------------------------------------------------------------- killed, and no space left


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="a comparison is killed in a fork of a process that stands ready"
)
def test_killed_or_out_of_space_and_started_again_it_ends_in_the_same(tmp_path: Path) -> None:
    program = Path(__file__).parent / "helpers" / "bad_days.py"
    environment = {**os.environ, "PYTHONPATH": str(program.parents[1])}
    done = subprocess.run(
        [sys.executable, program, tmp_path], capture_output=True, text=True, timeout=880, env=environment
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    whole = outcome["whole"]
    assert set(whole["scores"]) == {"source", "retrain", "reference_kl"}
    assert [name for name, _ in whole["ledger"]] == ["retrain", "reference_kl"]
    assert outcome["kills"] >= 8
    assert [number for number, found in enumerate(outcome["killed"]) if found != whole] == []
    statuses = [status for status, _, _ in outcome["full"]]
    assert 0 not in statuses, "the disk was never full"
    assert len(statuses) >= 5
    for status, left, again in outcome["full"]:
        assert status in (1, 3), "killed by a signal"
        assert left == [], "unfinished files take up the space"
        assert again == whole


def test_the_command_says_that_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = toy_data([1, 2])
    data.setup("fit")
    data.split.save(tmp_path / "split.npz")
    config = tmp_path / "compare.yaml"
    config.write_text(
        "source: {model: {class_path: Classifier, init_args: {net: {class_path: lightning_unlearn.models.MLP, init_args: "
        "{in_features: 64, num_classes: 10}}}}, trainer: {max_epochs: 1}}\n"
        "data: {class_path: UnlearningDataModule, init_args: {datamodule: {class_path: Digits}, forget: 0.1}}\n"
        "methods: []\ntrainer: {accelerator: cpu}\n"
    )
    monkeypatch.setattr("lightning_unlearn.core.files.os.fsync", full)
    assert main(["compare", f"--config={config}", f"--output_dir={tmp_path / 'out'}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: [Errno 28] No space left on device")
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a disk without space")
def test_a_split_on_a_full_disk_is_no_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy_data([1, 2])
    data.setup("fit")
    opened = Path.open

    def on_full(self: Path, *arguments: Any, **named: Any) -> Any:
        return opened(Path("/dev/full") if ".tmp" in self.name else self, *arguments, **named)

    monkeypatch.setattr(Path, "open", on_full)
    with pytest.raises(OSError, match="No space left"):
        data.split.save(tmp_path / "split.npz")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- NaN


def nan_data(position: int) -> UnlearningDataModule:
    data = toy_data([5, 6])
    data.inner.inputs[position, 0] = float("nan")  # type: ignore[union-attr]
    return data


@every_method
@pytest.mark.parametrize("position", [5, 20], ids=["forget", "retain"])
def test_a_nan_in_the_data_is_said(kind: Any, position: int) -> None:
    with pytest.raises((FloatingPointError, ValueError), match=r"NaN|non-finite") as caught:
        quiet_trainer(callbacks=evaluators()).fit(build(kind, toy_source()), nan_data(position))
    assert "sklearn" not in str(caught.traceback[-1].path), "a traceback from deep inside"


def test_a_nan_in_the_test_set_costs_the_scores_and_not_the_model(tmp_path: Path) -> None:
    def data() -> UnlearningDataModule:
        made = toy_data(nonmember=10)
        made.test_dataset.inputs[3, 0] = float("nan")  # type: ignore[union-attr]
        return made

    with pytest.warns(UserWarning, match="logits are NaN or infinite on 1 of"):
        report = toy_compare(tmp_path, seeds=1, data=data).report
    assert {failure["model"] for failure in report["failures"]} == {"source", "retrain", "reference_kl"}
    for failure in report["failures"]:
        assert "logits are NaN or infinite on 1 of" in failure["error"]
        assert "\n" not in failure["error"]
    assert report["models"]["reference_kl"].keys() == {
        "reference/accuracy_train",
        "reference/accuracy_forget",
        "reference/accuracy_test",
        "time/reference_s",
        "time/prepare_s",
        "time/unlearn_s",
        "time/total_s",
        "time/cpu_s",
        "acceleration",
        "acceleration/cpu",
    }
    assert (tmp_path / "reference_kl" / "seed_0" / "model.ckpt").exists()


# ---------------------------------------------------------------- evaluators


class Raises(Evaluator):
    """An evaluator with a fault."""

    default_name = "raises"

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        raise RuntimeError("a fault in the evaluator")


class Unfounded(Evaluator):
    """An evaluator that divides by nothing."""

    default_name = "unfounded"
    inside: Any = None

    def evaluate(self, model: nn.Module, audit: Audit) -> dict[str, float]:
        audit.details["deep"] = {"list": [1.0, self.inside]}
        return {"unfounded/score": float("nan") if self.inside is None else 1.0}


class UnfoundedDetail(Unfounded):
    """One whose details cannot be written."""

    inside = float("inf")


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (Raises, "a fault in the evaluator"),
        (Unfounded, "unfounded/score is nan"),
        (UnfoundedDetail, "details/deep/list is inf"),
    ],
)
def test_an_evaluator_that_fails_costs_its_own_scores_alone(
    faulty: Any, message: str, tmp_path: Path
) -> None:
    def fit(*more: Evaluator) -> tuple[Any, Any]:
        torch.manual_seed(3)
        method = Retrain(toy_source())
        path = tmp_path / f"{len(more)}.jsonl"
        trainer = quiet_trainer(callbacks=[*more, ForgettingMetrics(dirpath=tmp_path)])
        trainer.fit(method, toy_data(ledger=path))
        return method, read(path)[0]["metrics"]

    method, metrics = fit()
    with pytest.warns(UserWarning, match=message):
        disturbed, others = fit(faulty(dirpath=tmp_path))
    assert_same_state(state(disturbed.model), state(method.model))
    assert {k: v for k, v in metrics.items() if "time" not in k} == {
        k: v for k, v in others.items() if "time" not in k
    }
    content = json.loads((tmp_path / f"{faulty.default_name}.json").read_text())
    assert message in content["error"]
    assert content["metrics"] == content["details"] == {}


# ---------------------------------------------------------------- checkpoints


def checkpoint_of(folder: Path, module: Any = None) -> Path:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module or PlainModule(), toy_data())
    trainer.save_checkpoint(folder / "source.ckpt")
    return folder / "source.ckpt"


def test_a_checkpoint_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = checkpoint_of(tmp_path)
    whole = path.read_bytes()
    loaded = SourceCheckpoint(str(path), "helpers.toys.PlainModule").load()
    for size in np.linspace(0, len(whole) - 1, 15).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cannot be read as a checkpoint") as caught:
            SourceCheckpoint(str(path), "helpers.toys.PlainModule").load()
        assert "\n" not in str(caught.value)
    generator = np.random.default_rng(0)
    for place in generator.choice(len(whole), 60, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:  # a changed byte is found, or is one of those that say nothing, such as padding and dates
            again = SourceCheckpoint(str(path), "helpers.toys.PlainModule").load()
        except ValueError:
            continue
        assert_same_state(state(again), state(loaded))


@pytest.mark.parametrize("content", [3, [], {}, {"state_dict": 3}, {"weights": {}}])
def test_a_file_that_is_no_checkpoint_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="holds no 'state_dict'"):
        SourceCheckpoint(str(tmp_path / "x.ckpt"), "helpers.toys.PlainModule").load()


def of_two_classes(folder: Path) -> Path:
    torch.save({"state_dict": nn.Linear(FEATURES, 2).state_dict()}, folder / "two.ckpt")
    return folder / "two.ckpt"


def malicious(folder: Path) -> Path:
    torch.save({"state_dict": {}, "evil": Mark(folder / "mark")}, folder / "evil.ckpt", pickle_module=pickle)
    return folder / "evil.ckpt"


def cut(folder: Path) -> Path:
    path = checkpoint_of(folder)
    path.write_bytes(path.read_bytes()[:700])
    return path


def missing(folder: Path) -> Path:
    return folder / "missing.ckpt"


BAD_CHECKPOINTS = [
    (of_two_classes, "does not load into Classifier"),
    (malicious, "does not load into Classifier"),  # it holds no weights; nothing else in it is looked at
    (cut, "cannot be read as a checkpoint"),
    (missing, "there is no checkpoint"),
    (checkpoint_of, None),
]


@pytest.mark.parametrize(("made", "message"), BAD_CHECKPOINTS)
def test_a_comparison_says_what_is_wrong_with_its_source(
    made: Any, message: str | None, tmp_path: Path
) -> None:
    source = SourceRun(toy_source, {"max_epochs": 1}, str(made(tmp_path)))
    if message is None:  # the names and shapes happen to be the same
        assert not toy_compare(tmp_path / "out", seeds=1, source=source).failed
        return
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        toy_compare(tmp_path / "out", seeds=1, source=source)
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out").exists()


def test_a_source_of_another_class_count_is_refused_by_every_method() -> None:
    for kind in METHODS:
        with pytest.raises(ValueError, match="2 classes, but the data has targets from 0 to 2"):
            quiet_trainer().fit(
                build(kind, nn.Sequential(nn.Linear(FEATURES, 70), nn.Linear(70, 2))), toy_data()
            )


@pytest.mark.parametrize(
    ("part", "again"),
    [
        ("source/seed_0/model.ckpt", {"source"}),
        ("reference_kl/seed_0/model.ckpt", {"reference_kl"}),
        ("reference_kl/seed_0/training.json", {"reference_kl"}),
        ("reference_kl/seed_0/metrics.json", set()),
        ("reference_kl/seed_0/config.json", set()),
        ("report.json", set()),
        ("split.npz", set()),
    ],
)
@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: raw[:-9] + b"\xff" * 9],
    ids=["half", "empty", "garbled"],
)
def test_a_damaged_part_of_a_comparison_is_made_again(
    part: str, again: set[str], damage: Any, comparison: Path
) -> None:
    stamps = {path.parts[-3]: path.stat().st_mtime_ns for path in comparison.rglob("model.ckpt")}
    before = json.loads((comparison / "report.json").read_text())["models"]["reference_kl"]["accuracy/test"]
    (comparison / part).write_bytes(damage((comparison / part).read_bytes()))
    result = toy_compare(comparison, seeds=1, evaluators=[])
    assert not result.failed
    assert result.report["models"]["reference_kl"]["accuracy/test"] == before
    now = {path.parts[-3]: path.stat().st_mtime_ns for path in comparison.rglob("model.ckpt")}
    assert {name for name in now if now[name] != stamps[name]} == again


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small comparison, made once; each test damages a part and so mends it."""
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_unlearn.reports.writer.draw_figures", lambda *_: [])
        toy_compare(folder, seeds=1, evaluators=[])
    return folder


def test_a_folder_whose_mark_is_damaged_is_not_written_to(comparison: Path) -> None:
    mark = comparison / "comparison.json"
    whole = mark.read_bytes()
    mark.write_bytes(whole[:20])
    with pytest.raises(ValueError, match=r"holds another comparison .*is damaged"):
        toy_compare(comparison, seeds=1, evaluators=[])
    assert mark.read_bytes() == whole[:20]
    mark.write_bytes(whole)


# ---------------------------------------------------------------- resuming


def resume(method: Any, path: Path) -> None:
    quiet_trainer(max_epochs=2).fit(method, toy_data(), ckpt_path=path)


def test_only_a_methods_own_checkpoint_is_resumed(tmp_path: Path) -> None:
    source = toy_source()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(ReferenceKL(source, reference_epochs=1), toy_data())
    own = tmp_path / "own.ckpt"
    trainer.save_checkpoint(own)
    resume(ReferenceKL(source, reference_epochs=1), own)
    with pytest.raises(ValueError, match="ckpt_path: the checkpoint was written by ReferenceKL and cannot be resumed by Retrain"):  # fmt: skip
        resume(Retrain(source), own)
    quiet_trainer().test(Retrain(source), toy_data(), ckpt_path=own, verbose=False)  # to be looked at by any
    with pytest.raises(
        ValueError, match=r"ckpt_path: the checkpoint is of another model .*model\.net\.0\.weight"
    ):
        resume(ReferenceKL(Classifier(Net(9)), reference_epochs=1), own)
    with pytest.raises(ValueError, match="ckpt_path: the checkpoint was not written by an unlearning method"):
        resume(Retrain(source), checkpoint_of(tmp_path))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (malicious, "objects that would have to be executed"),
        (cut, "cannot be read as a checkpoint"),
        (of_two_classes, "was not written by Lightning"),
    ],
)
def test_the_command_says_what_it_cannot_resume_from(
    made: Any,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = made(tmp_path)
    capsys.readouterr()
    arguments = [
        "--model=ReferenceKL",
        "--model.source=s.ckpt",
        "--data=UnlearningDataModule",
        "--data.datamodule=Digits",
    ]
    for verb in ("fit", "test"):
        assert main([verb, *arguments, "--data.forget=0.1", f"--ckpt_path={path}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ckpt_path: ")
        assert message in error
        assert "Traceback" not in error
    assert not (tmp_path / "mark").exists()


def test_a_malicious_checkpoint_is_not_executed_when_resumed_in_python(tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError):
        resume(Retrain(toy_source()), malicious(tmp_path))
    assert not (tmp_path / "mark").exists()


# ---------------------------------------------------------------- splits and ids


@pytest.mark.parametrize("place", ["split_path", "previous"])
def test_a_malicious_or_damaged_split_is_refused(place: str, tmp_path: Path) -> None:
    data = toy_data([1, 2])
    data.setup("fit")
    good = tmp_path / "good.npz"
    data.split.save(good)
    whole, mark = good.read_bytes(), tmp_path / "mark"
    arrays = dict(np.load(good))
    np.savez(
        tmp_path / "objects.npz", **{**arrays, "forget": np.asarray([Mark(mark), Mark(mark)], dtype=object)}
    )
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive, archive.open("forget.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<i8", "fortran_order": False, "shape": (10**13,)}
        )
    np.savez_compressed(tmp_path / "bomb.npz", **{**arrays, "forget": np.zeros(2**24, dtype=np.int64)})
    files = {
        "huge.npz": (tmp_path / "huge.npz").read_bytes(),
        "bomb.npz": (tmp_path / "bomb.npz").read_bytes(),
        "objects.npz": (tmp_path / "objects.npz").read_bytes(),
        "pickle.npz": pickle.dumps(Mark(mark)),
        "empty.npz": b"",
        "half.npz": whole[: len(whole) // 2],
        "text.npz": b"forget: [1, 2]",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a saved split"):
            toy_data([3, 4], **{place: tmp_path / name}).setup("fit")
        assert (tmp_path / name).read_bytes() == content
    assert not mark.exists()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "the forget set is empty"),
        ([60], "1 ids are out of range: 60"),
        ([-1, 3], "1 ids are out of range: -1"),
        ([3, 4, 3], "1 ids are repeated: 3"),
        (list(range(60)), "the forget set is the whole training set"),
    ],
)
def test_bad_requests_are_refused_in_every_form(ids: list[int], message: str, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("id\n" + "".join(f"{number}\n" for number in ids))
    (tmp_path / "ids.txt").write_text("".join(f"{number}\n" for number in ids))
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    forms: list[Any] = [ids, np.asarray(ids, dtype=np.int64), torch.as_tensor(ids), Ids(ids), lambda _: ids]
    forms += [tmp_path / f"ids.{kind}" for kind in ("csv", "txt", "json")]
    for form in forms:
        wanted = message
        if callable(form) and not isinstance(form, Ids):
            wanted = "forget set|outside the training set|more than once"
        method = Retrain(toy_source())
        with pytest.raises(ValueError, match=wanted):
            quiet_trainer().fit(method, toy_data(form, split_path=tmp_path / "split.npz"))
        assert method.times["time/total_s"] == 0
        assert not (tmp_path / "split.npz").exists()


# ---------------------------------------------------------------- small and lopsided sets


@every_method
def test_a_class_that_is_forgotten_whole(kind: Any) -> None:
    data = toy_data(Classes(1), nonmember=10)
    trainer = quiet_trainer(callbacks=evaluators())
    unlearning = build(kind, toy_source())
    trainer.fit(unlearning, data)
    assert data.split.forget.tolist() == list(range(1, 60, 3))
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    assert all(value.isfinite().all() for value in unlearning.model.state_dict().values())


class Rows(Dataset[dict[str, Tensor]]):
    """The toy data, a dict a sample."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.data.inputs[index], "y": self.data.targets[index]}


ONE_SAMPLE: dict[str, Callable[[], UnlearningDataModule]] = {
    "one forgotten": lambda: toy_data([5]),
    "one forgotten, dicts": lambda: UnlearningDataModule(Rows(train_set()), [5], test_dataset=Rows(test_set()), batch_size=8),
    "batches of one": lambda: toy_data([5, 6, 7], batch_size=1),
    "a last batch of one": lambda: toy_data(list(range(9)), batch_size=8),
    "one retained": lambda: toy_data(list(range(59)), nonmember=5),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.exhaustive(one_of=3)
@every_method
@pytest.mark.parametrize("data", ONE_SAMPLE.values(), ids=ONE_SAMPLE.keys())
def test_batches_of_one_sample_with_batch_normalisation(kind: Any, data: Any) -> None:
    unlearning = build(kind, toy_source())
    quiet_trainer(max_epochs=1).fit(unlearning, data())
    assert all(value.isfinite().all() for value in unlearning.model.state_dict().values())


def test_a_batch_of_one_is_normalised_by_the_running_statistics() -> None:
    method = ReferenceKL(toy_source())
    layer = method.model.net[1]
    layer.running_mean.fill_(0.3)
    before = state(method.model)
    x, y = train_set().inputs[:1], train_set().targets[:1]
    method.model.net[3].p = 0.0
    ((logits, _),) = method.stream_logits((x, y))
    method.model.eval()
    torch.testing.assert_close(logits, method.model(x))
    assert_same_state(state(method.model), before)
    method.model.train()
    method.stream_logits((x, y), (train_set().inputs[:8], train_set().targets[:8]))
    assert layer.num_batches_tracked == before["net.1.num_batches_tracked"] + 1, "the retain batch moves them"


# ---------------------------------------------------------------- probabilities


class Posteriors(nn.Module):
    """A model that ends in a softmax, in training or only in evaluation mode."""

    def __init__(self, always: bool = True) -> None:
        super().__init__()
        self.net = Net()
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(-1) if self.always or not self.training else self.net(x)


@pytest.mark.slow
@pytest.mark.parametrize("always", [True, False], ids=["always", "in evaluation mode"])
def test_a_model_that_gives_probabilities_is_told(always: bool, tmp_path: Path) -> None:
    for kind in METHODS:
        with pytest.raises(ValueError, match=r"gives probabilities .*unlearning needs logits"):
            quiet_trainer(max_epochs=1).fit(build(kind, Classifier(Posteriors(always))), toy_data())
    source = SourceRun(lambda: Classifier(Posteriors(always)), {"max_epochs": 1})
    report = toy_compare(tmp_path, seeds=1, source=source, evaluators=[]).report
    errors = {failure["model"]: failure["error"] for failure in report["failures"]}
    assert "gives probabilities" in errors["retrain"]
    assert "gives probabilities" in errors["reference_kl"]
