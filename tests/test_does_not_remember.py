"""What a run leaves: the exported file of every method is opened and searched, and the rest is listed and removed."""

import json
import pickle
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.support import METHODS, settings_of
from helpers.toys import CLASSES, FEATURES, TRAIN, PlainModule, blobs, quiet_trainer, toy_data, toy_source
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from test_compare import timeless, toy_compare
from torch import Tensor, nn

from lightning_unlearn import MethodRun, ReferenceKL
from lightning_unlearn.callbacks import Export
from lightning_unlearn.callbacks.base.export import _name_wandb
from lightning_unlearn.cli.arguments import own_arguments, shown_arguments
from lightning_unlearn.cli.main import main
from lightning_unlearn.core.remembering import Remembering, remembering_files, without_names
from lightning_unlearn.data import Split, TensorData, UnlearningDataModule
from lightning_unlearn.methods import Retrain
from lightning_unlearn.models import Classifier

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)

# Positions with a pattern of bytes that nothing else has, on the last samples of a larger set.
SIZE = 5000
FORGET = [4243, 4321, 4567, 4777, 4801, 4999]


def marked_data(forget: Any = FORGET, **arguments: Any) -> UnlearningDataModule:
    return UnlearningDataModule(
        TensorData(*blobs(SIZE, 0)),
        forget,
        **{"test_dataset": TensorData(*blobs(31, 1)), "batch_size": 64, **arguments},
    )


def small_net() -> nn.Sequential:
    """Without a bias before the batch normalisation, which takes it out again, so that training leaves it."""
    return nn.Sequential(
        nn.Linear(FEATURES, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES)
    )


def tensors_of(content: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield path, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from tensors_of(value, f"{path}/{key}")
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from tensors_of(value, f"{path}/{number}")


def patterns_of_ids(ids: list[int]) -> list[bytes]:
    """Return the ids as each kind of file would hold several of them: arrays, pickles and texts."""
    arrays = [np.asarray(ids, dtype=kind).tobytes() for kind in ("<i8", "<i4", "<i2", "<f4", "<f8")]
    pickled = [pickle.dumps(ids[:2], protocol=2)[6:-2]]
    # two neighbours are enough to know a list
    pairs = [piece for a, b in pairwise(ids) for piece in (f"{a}, {b}", f"{a},{b}", f"{a}\n{b}")]
    return [*arrays, *pickled, *(pair.encode() for pair in pairs)]


def require_forgotten(path: Path, data: UnlearningDataModule, source: nn.Module, kept: set[str]) -> None:
    """Assert that a file holds no forgotten sample, no id, no momentum and, but for ``kept``, no tensor of the source."""
    raw = path.read_bytes()
    inputs = data.inner.inputs  # type: ignore[union-attr]
    for position in data.split.forget.tolist():
        for kind in (torch.float32, torch.float64, torch.float16):
            row = inputs[position].to(kind).numpy().tobytes()
            assert row not in raw, f"sample {position} is in the file"
            assert row[: len(row) // 2] not in raw, f"half of sample {position} is in the file"
    for pattern in patterns_of_ids(data.split.forget.tolist()):
        assert pattern not in raw, "the ids are in the file"
    content = torch.load(path, weights_only=True)
    assert not content.keys() & {
        "optimizer_states",
        "lr_schedulers",
        "callbacks",
        "lightning_unlearn",
        "datamodule",
    }
    assert "loops" not in content
    old = {name: value for name, value in source.state_dict().items() if value.is_floating_point()}
    found = list(tensors_of(content))
    shapes = {name: value.shape for name, value in source.state_dict().items()}
    assert {where.removeprefix("/state_dict/"): value.shape for where, value in found} == shapes, (
        "more than weights"
    )
    for where, value in found:
        for name, before in old.items():
            if name not in kept and bool((before != before.flatten()[:1]).any()):
                assert not torch.equal(value, before), f"{where} is {name} of the source"


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    data, source = marked_data(), toy_source()
    data.setup("fit")
    state = toy_source(1).state_dict()
    plain = {"state_dict": state}
    sample = data.inner.inputs[FORGET[2]].clone()  # type: ignore[union-attr]
    bad: dict[str, dict[str, Any]] = {
        "half of sample|sample 4567": {**plain, "x": sample},
        "ids are": {**plain, "ids": torch.as_tensor(FORGET)},
        "ids  are": {**plain, "ids": FORGET},
        "the ids are": {**plain, "ids": str(FORGET)},
        "optimizer_states": {**plain, "optimizer_states": []},
        "of the source": {
            "state_dict": {**state, "net.0.weight": source.state_dict()["net.0.weight"]},
        },
        "more than": {"state_dict": {**state, "exp_avg": torch.rand(3)}},
    }
    for number, (message, content) in enumerate(bad.items()):
        path = tmp_path / f"{number}.ckpt"
        torch.save(content, path)
        with pytest.raises(AssertionError, match=message.replace("  ", " ")):
            require_forgotten(path, data, source, set())
    torch.save(plain, tmp_path / "good.ckpt")
    require_forgotten(tmp_path / "good.ckpt", data, source, set())


@pytest.mark.slow
@every_method
def test_the_export_of_every_method_does_not_remember(method: Any, tmp_path: Path) -> None:
    source = Classifier(small_net())
    quiet_trainer(max_epochs=1).fit(source, marked_data())
    data = marked_data()
    unlearning = method(
        source,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        **settings_of(method, source=source),
    )
    trainer = quiet_trainer(limit_val_batches=0)
    trainer.fit(unlearning, data)
    path = unlearning.export(tmp_path / "unlearned.ckpt")
    # a method that is about a part of the weights keeps the others; what it changed must be gone
    kept: set[str] = set()
    if method.keeps_source_tensors:
        now, old = unlearning.model.state_dict(), source.state_dict()
        kept = {name for name in old if torch.equal(now[name], old[name])}
    assert kept < {name for name, _ in source.named_parameters()} | {
        name for name, _ in source.named_buffers()
    }
    require_forgotten(path, data, source, kept)
    loaded = Classifier.load_from_checkpoint(path, net=small_net(), weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), unlearning.model.state_dict().values(), strict=True))  # fmt: skip
    # and what the run would resume from does remember, which is why it is listed below
    trainer.save_checkpoint(tmp_path / "resume.ckpt")
    assert [item.file.name for item in remembering_files(tmp_path)] == ["resume.ckpt"]


def test_most_methods_keep_no_tensor() -> None:
    assert {m.__name__ for m in METHODS if not m.keeps_source_tensors} >= {"Retrain", "ReferenceKL", "WGAN"}


# ---------------------------------------------------------------- what is listed


def names(found: list[Remembering], folder: Path) -> dict[str, str]:
    return {item.file.relative_to(folder).as_posix(): item.reason for item in found}


def test_what_remembers_is_listed_with_its_reason(tmp_path: Path) -> None:
    data = toy_data([1, 2])
    data.setup("fit")
    data.split.save(tmp_path / "split.npz")
    np.savez(tmp_path / "table.npz", x=np.arange(3))
    (tmp_path / "config.yaml").write_text("data: {init_args: {forget: [1, 2]}}\n")
    (tmp_path / "rule.json").write_text(
        json.dumps({"forget": {"class_path": "Ids", "init_args": {"ids": ["ann"]}}})
    )
    (tmp_path / "fine.yaml").write_text("data: {init_args: {forget: 0.1, ids: 3}}\nhidden: [16, 16]\n")
    (tmp_path / "broken.yaml").write_text("{[\n")
    (tmp_path / "broken.json").write_text("{[\n")
    (tmp_path / "error.txt").write_text("Traceback: ids 3, 4")
    (tmp_path / ".model.0a1b2c3d.tmp.ckpt").write_bytes(b"half")
    (tmp_path / "junk.ckpt").write_bytes(b"half")
    (tmp_path / "metrics.csv").write_text("step,loss\n")
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    torch.save({"optimizer_states": [1]}, tmp_path / "foreign.ckpt")
    (tmp_path / "deep.json").write_text("[" * 100_000 + '"forget"' + "]" * 100_000)
    method = Retrain(toy_source())
    quiet_trainer(max_epochs=1).fit(method, toy_data())
    method.export(tmp_path / "unlearned.ckpt")
    for name, optimizer in (("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)):
        trainer = quiet_trainer(max_epochs=1)
        trainer.fit(Retrain(toy_source(), optimizer=lambda p, kind=optimizer: kind(p, lr=0.1)), toy_data())
        trainer.save_checkpoint(tmp_path / "deep" / f"{name}.ckpt")
    trainer.fit(PlainModule(), toy_data())
    trainer.save_checkpoint(tmp_path / "deep" / "kept.ckpt", weights_only=True)
    found = names(remembering_files(tmp_path), tmp_path)
    assert {name: reason.split()[0] for name, reason in found.items()} == {
        ".model.0a1b2c3d.tmp.ckpt": "left",
        "config.yaml": "a",
        "deep/adam.ckpt": "momentum",
        "deep/kept.ckpt": "weights",
        "deep/sgd.ckpt": "the",
        "deep.json": "nested",
        "error.txt": "a",
        "foreign.ckpt": "holds",
        "junk.ckpt": "cannot",
        "rule.json": "a",
        "split.npz": "positions",
    }
    with pytest.raises(NotADirectoryError, match="folder"):
        remembering_files(tmp_path / "missing")


def test_looking_through_a_folder_executes_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Malicious:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    torch.save({"state_dict": {}, "evil": Malicious()}, tmp_path / "a.ckpt", pickle_module=pickle)
    np.savez(tmp_path / "b.npz", forget=np.asarray([Malicious()], dtype=object))
    (tmp_path / "c.yaml").write_text(f"forget: !!python/object/apply:pathlib.Path.touch [{mark}]\n")
    assert set(names(remembering_files(tmp_path), tmp_path)) == {"a.ckpt", "b.npz"}
    assert not mark.exists()


@pytest.mark.parametrize(
    ("forget", "names_somebody"),
    [
        (0.1, False),
        ("requests.csv", False),
        ([1, 2], True),
        (["ann"], True),
        ("[1, 2]", True),
        ({"class_path": "Classes", "init_args": {"classes": [3, 4]}}, False),
        ({"class_path": "lightning_unlearn.data.Classes", "init_args": {"classes": [3]}}, False),
        ({"class_path": "Groups", "init_args": {"attribute": "identity", "fraction": 0.02}}, False),
        ({"class_path": "RandomFraction", "init_args": {"fraction": 0.1}}, False),
        ({"class_path": "Ids", "init_args": {"ids": [7], "column": "customer"}}, True),
        ({"class_path": "Ids", "init_args": {"ids": "requests.csv", "column": "customer"}}, False),
        ({"class_path": "my.Oldest", "init_args": {"n": 50}}, False),
        ({"class_path": "my.Customer", "init_args": {"mail": "ann@example.org"}}, True),
        ({"class_path": "my.Customer", "init_args": {"numbers": [17]}}, True),
    ],
)
def test_a_configuration_is_listed_if_it_names_somebody(
    forget: Any, names_somebody: bool, tmp_path: Path
) -> None:
    config = {
        "data": {"class_path": "UnlearningDataModule", "init_args": {"forget": forget}},
        "seeds": [0, 1],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "config.yaml").write_text(json.dumps(config))  # which YAML is too
    (tmp_path / "long.json").write_text(json.dumps({"filler": "x" * 2**21, **config}))
    found = names(remembering_files(tmp_path), tmp_path)
    assert set(found) == ({"config.json", "config.yaml", "long.json"} if names_somebody else set())
    (tmp_path / "config.json").write_text(json.dumps(without_names(config)))
    assert "config.json" not in names(remembering_files(tmp_path), tmp_path)


def test_what_names_somebody_is_found_wherever_it_stands(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "report.html").write_text("<td>my.Customer: mail: ann@example.org</td><style>@page {}</style>")
    (folder / "plain.html").write_text("<style>a{}@media print{}</style>")
    (folder / "scores.json").write_text(json.dumps({"failures": [{"error": "no ann@example.org"}]}))
    (elsewhere / "config.json").write_text(json.dumps({"forget": [1]}))
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(folder)
    (folder / "up").symlink_to(tmp_path)
    assert set(names(remembering_files(folder), folder)) == {
        "report.html",
        "scores.json",
        "linked/config.json",
    }


def test_the_page_of_a_report_that_names_samples_is_listed(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("forget: 1, 2")
    (tmp_path / "report.json").write_text(json.dumps({"config": {"forget": [1, 2]}}))
    assert set(names(remembering_files(tmp_path), tmp_path)) == {"report.html", "report.json"}


# ---------------------------------------------------------------- a comparison


def test_a_comparison_lists_what_remembers_and_removes_it_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    split = tmp_path / "split.npz"
    settings: dict[str, Any] = {
        "seeds": 1,
        "data": lambda: toy_data([1, 2, 3], nonmember=10, split_path=split),
        "methods": [
            MethodRun(lambda s: ReferenceKL(s, reference_epochs=2), "reference_kl", {"max_epochs": 2, "enable_checkpointing": True})
        ],
    }  # fmt: skip
    first = toy_compare(out, **settings)
    left = names(first.remembering, out)
    assert left["source/seed_0/model.ckpt"].startswith("the source model")
    assert left["split.npz"].startswith("positions")
    resume = [name for name in left if name.startswith("reference_kl/seed_0/log/checkpoints/")]
    assert left[resume[0]].startswith("momentum")
    assert not {"retrain/seed_0/model.ckpt", "reference_kl/seed_0/model.ckpt"} & left.keys()
    record = json.loads((out / "remembering.json").read_text())
    assert record == {"removed": False, "files": [{"file": f, "reason": r} for f, r in left.items()]}

    second = toy_compare(out, clean=True, **settings)
    assert second.remembering == []
    assert not [name for name in left if (out / name).exists()]
    assert remembering_files(out) == []
    assert json.loads((out / "remembering.json").read_text())["removed"]
    assert split.exists(), "the owner's own copy, outside the folder"
    assert second.report["models"] == first.report["models"]
    for name in (
        "report.json",
        "report.html",
        "reference_kl/seed_0/model.ckpt",
        "reference_kl/seed_0/metrics.json",
    ):
        assert (out / name).exists(), name

    again = toy_compare(out, **settings)
    assert timeless(again.report) == timeless(first.report), "a cleaned comparison can be run again"


def test_an_unfinished_comparison_is_not_cleaned(tmp_path: Path) -> None:
    class Fails(ReferenceKL):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("a fault")

    run = MethodRun(lambda s: Fails(s, reference_epochs=1), "fails", {"max_epochs": 1})
    result = toy_compare(tmp_path, seeds=1, methods=[run], clean=True)
    assert result.failed
    assert (tmp_path / "source" / "seed_0" / "model.ckpt").exists()
    listed = names(result.remembering, tmp_path)
    assert "fails/seed_0/error.txt" in listed
    assert not json.loads((tmp_path / "remembering.json").read_text())["removed"]


CONFIG = """
source:
  model: {class_path: Classifier, init_args: {net: {class_path: lightning_unlearn.models.MLP, init_args: {in_features: 64, hidden: [8], num_classes: 10}}}}
  trainer: {max_epochs: 1}
data: {class_path: UnlearningDataModule, init_args: {datamodule: {class_path: Digits}, forget: %s}}
methods: []
seeds: 1
retrain_2: false
short_retrainings: []
trainer: {accelerator: cpu}
"""


@pytest.mark.parametrize(
    "forget", ["[1401, 1402, 1403]", "{class_path: Ids, init_args: {ids: [1401, 1402, 1403]}}"]
)
def test_the_command_names_no_sample_in_what_it_leaves(
    forget: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "compare.yaml").write_text(CONFIG % forget)
    out, ledger = tmp_path / "out", tmp_path / "ledger.jsonl"
    arguments = ["compare", f"--config={tmp_path / 'compare.yaml'}", f"--output_dir={out}", "--quiet=true"]
    assert main([*arguments, f"--ledger={ledger}"]) == 0
    printed = capfd.readouterr().out
    assert "still remember what was forgotten (--clean=true removes them when all is done)" in printed
    assert f"{out}/source/seed_0/model.ckpt: the source model, trained on the forgotten samples" in printed
    assert "\n  3 files split.npz: positions of the forgotten samples\n" in printed
    assert main([*arguments, f"--ledger={ledger}", "--clean=true"]) == 0
    assert "still remember" not in capfd.readouterr().out
    np.savez(out / "mine.npz", forget=[1401])
    assert main([*arguments, f"--ledger={ledger}", "--clean=true"]) == 0
    printed = capfd.readouterr().out
    assert "what was forgotten (they are not the comparison's own, so --clean left them)" in printed
    (out / "mine.npz").unlink()
    assert json.loads((out / "report.json").read_text())["config"]["data"]["init_args"]["forget"] != [
        1401,
        1402,
        1403,
    ]
    for file in (*(path for path in out.rglob("*") if path.is_file()), ledger):
        raw = file.read_bytes()
        for pattern in patterns_of_ids([1401, 1402, 1403]):
            assert pattern not in raw, file
        if file.suffix not in (".png", ".html"):
            # as a number of its own: a score or a hash may hold these digits by chance
            assert not re.search(rb"(?<![\w.])1402(?![\w.])", raw) or file.suffix == ".ckpt", file


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--data.forget=[1, 2, 3]"], ["--data.forget=3 ids"]),
        (["--data.forget", "[1, 2]", "--seed", "3"], ["--data.forget", "2 ids", "--seed", "3"]),
        (["--data.init_args.forget=['ann']"], ["--data.init_args.forget=1 ids"]),
        (["--data.forget+=17"], ["--data.forget+=1 ids"]),
        (["--data.forget=Ids", "--data.forget.ids=[7, 8]"], ["--data.forget=Ids", "--data.forget.ids=2 ids"]),
        (["--data.forget=my.Rule", "--data.forget.mail=ann@example.org"], ["--data.forget=my.Rule", "--data.forget.mail=left out"]),
        (['--data={"init_args": {"forget": [1]}}'], ['--data={"init_args": {"forget": "1 ids"}}']),
        (["--data.forget=0.1"], ["--data.forget=0.1"]),
        (["--data.forget=ids.csv"], ["--data.forget=ids.csv"]),
        (["--data.forget=Classes", "--data.forget.classes=[3]"], ["--data.forget=Classes", "--data.forget.classes=[3]"]),
        (["--data.forget={["], ["--data.forget={["]),
    ],
)  # fmt: skip
def test_arguments_are_shown_without_ids(given: list[str], shown: list[str]) -> None:
    assert shown_arguments(["fit", *given]) == ["fit", *shown]


def test_ids_on_the_command_line_are_warned_of_and_hidden_from_wandb(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import wandb

    given = ["fit", "--data=UnlearningDataModule", "--data.datamodule=Digits", "--data.forget=[1401, 1402]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lightning-unlearn", *given, "--print_config"])
        patch.setenv("LIGHTNING_UNLEARN_ARGUMENTS", "[]")
        with pytest.warns(UserWarning, match="forget: ids on the command line"), pytest.raises(SystemExit):
            main()
        assert "1401" in capsys.readouterr().out, "the command itself is told the ids"
        assert wandb.Settings()._args == [*given[:-1], "--data.forget=2 ids", "--print_config"]
        # a process that Lightning starts with what is shown
        assert own_arguments() == [*given, "--print_config"]
        # and any other program is given its own
        patch.setattr("sys.argv", ["lightning-unlearn", "test"])
        assert own_arguments() == ["test"]


# ---------------------------------------------------------------- a fit


def test_export_leaves_the_unlearned_model_alone(tmp_path: Path) -> None:
    target, root = tmp_path / "run" / "unlearned.ckpt", tmp_path / "run"
    root.mkdir()
    (root / "mine.ckpt").write_bytes(b"not of this run")
    export = Export(str(target), clean=True)
    checkpoint = ModelCheckpoint(save_last=True, save_top_k=2, monitor="accuracy/test")
    elsewhere = ModelCheckpoint(
        dirpath=tmp_path / "elsewhere", every_n_epochs=1, save_top_k=-1, monitor="accuracy/forget"
    )
    trainer = quiet_trainer(
        default_root_dir=root,
        logger=CSVLogger(root),
        enable_checkpointing=True,
        callbacks=[export, checkpoint, elsewhere],
    )
    method = ReferenceKL(PlainModule(), reference_epochs=1)
    trainer.fit(method, toy_data())
    loaded = PlainModule.load_from_checkpoint(target, weights_only=True)
    assert torch.equal(loaded.net[0].weight, method.model.net[0].weight)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"unlearned.ckpt", "mine.ckpt", "metrics.csv", "hparams.yaml"}
    assert {item.file.name for item in export.removed} >= {"split.npz", "last.ckpt"}
    assert len(export.removed) >= 5


def fit_and_clean(root: Path, **arguments: Any) -> tuple[Export, L.Trainer]:
    export = Export(str(root / "unlearned.ckpt"), clean=True)
    callbacks = [export, *arguments.pop("callbacks", [])]
    trainer = quiet_trainer(
        max_epochs=3,
        **{"default_root_dir": root, "enable_checkpointing": True, **arguments},
        callbacks=callbacks,
    )
    return export, trainer


def test_export_removes_every_checkpoint_of_its_run_and_none_of_another(tmp_path: Path) -> None:
    other = tmp_path / "other" / "version_3"
    other.mkdir(parents=True)
    data = toy_data([1, 2])
    data.setup("fit")
    data.split.save(other / "split.npz")
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(Retrain(toy_source()), toy_data())
    trainer.save_checkpoint(other / "resume.ckpt")
    trainer.save_checkpoint(tmp_path / "checkpoints" / "of_another_run.ckpt")
    (tmp_path / "notes.json").write_text(json.dumps({"forget": [1, 2]}))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    export, trainer = fit_and_clean(
        tmp_path,
        logger=CSVLogger(tmp_path, name="", version=""),
        callbacks=[ModelCheckpoint(save_top_k=-1, every_n_epochs=1, save_last=True)],
    )
    trainer.fit(Retrain(toy_source()), toy_data(split_path=tmp_path / "kept.npz"))
    left = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.name for path in left} == {"unlearned.ckpt", "metrics.csv", "hparams.yaml", "kept.npz"}
    assert before <= {path for path in tmp_path.rglob("*") if path.is_file()}, "files of others are gone"
    assert len([item for item in export.removed if item.file.suffix == ".ckpt"]) == 4
    assert trainer.save_checkpoint.__func__ is type(trainer).save_checkpoint


def test_export_removes_what_was_saved_before_the_run_was_resumed(tmp_path: Path) -> None:
    class Stops(Retrain):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 2 and self.stops:
                raise RuntimeError("a fault")

    for Stops.stops in (True, False):
        export, trainer = fit_and_clean(
            tmp_path,
            logger=CSVLogger(tmp_path, name="", version=""),
            callbacks=[ModelCheckpoint(dirpath=tmp_path / "saved", save_top_k=-1, every_n_epochs=1)],
        )
        found = sorted(tmp_path.glob("saved/*.ckpt"))
        (tmp_path / "saved").mkdir(exist_ok=True)
        (tmp_path / "saved" / "thesis.txt").write_text("mine")
        if Stops.stops:
            with pytest.raises(RuntimeError, match="a fault"):
                trainer.fit(Stops(toy_source()), toy_data())
        else:
            assert len(found) == 2
            trainer.fit(Stops(toy_source()), toy_data(), ckpt_path=found[-1])
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["thesis.txt"]
    # what a checkpoint of anybody's says was saved is no order to remove it
    export.load_state_dict(
        {"saved": [str(tmp_path / "saved" / "thesis.txt"), str(tmp_path / "unlearned.ckpt")]}
    )
    assert list(export._left(trainer)) == []


def test_export_names_the_wandb_run_that_names_samples(tmp_path: Path) -> None:
    class Logger(WandbLogger):
        def __init__(self, config: Any) -> None:
            self._experiment = SimpleNamespace(id="x1", dir=str(tmp_path), config=config)

        experiment = property(lambda self: self._experiment)

    named = Logger({"data": {"forget": [1, 2]}})
    with pytest.warns(UserWarning, match=r"W&B run x1 names forgotten samples .*config\.yaml"):
        _name_wandb(SimpleNamespace(loggers=[Logger({"forget": "2 ids"}), named]))  # type: ignore[arg-type]


def test_export_without_clean_removes_nothing_and_a_fault_neither(tmp_path: Path) -> None:
    class Stops(Retrain):
        def on_train_epoch_end(self) -> None:
            if self.current_epoch == 1:
                raise RuntimeError("a fault")

    def fit(kind: Any, **arguments: Any) -> None:
        quiet_trainer(
            default_root_dir=tmp_path,
            logger=CSVLogger(tmp_path),
            enable_checkpointing=True,
            callbacks=[Export(str(tmp_path / "unlearned.ckpt"), **arguments)],
        ).fit(kind(toy_source()), toy_data())

    with pytest.raises(RuntimeError, match="a fault"):
        fit(Stops, clean=True)
    assert not (tmp_path / "unlearned.ckpt").exists()
    (resume,) = tmp_path.rglob("epoch=*.ckpt")
    fit(Retrain)
    assert resume.exists()
    assert (tmp_path / "unlearned.ckpt").exists()
    assert len(list(tmp_path.rglob("split.npz"))) == 2


def test_only_an_unlearning_method_is_exported(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Export writes the model of an unlearning method, got Classifier"):
        quiet_trainer(callbacks=[Export(str(tmp_path / "x.ckpt"))]).fit(toy_source(), toy_data())
    quiet_trainer(fast_dev_run=True, callbacks=[Export(str(tmp_path / "x.ckpt"), clean=True)]).fit(
        Retrain(toy_source()), toy_data()
    )
    assert not (tmp_path / "x.ckpt").exists()


def test_a_split_is_what_the_next_request_needs(tmp_path: Path) -> None:
    """What clean removes, ``split_path`` keeps, and the next request reads it."""
    kept = tmp_path / "kept.npz"
    toy_compare(
        tmp_path / "out",
        seeds=1,
        methods=[],
        clean=True,
        data=lambda: toy_data([1, 2, 3], nonmember=10, split_path=kept),
    )
    second = toy_data([4], previous=kept)
    second.setup("fit")
    assert second.split.previous.tolist() == Split.load(kept).forget.tolist() == [1, 2, 3]
    assert len(second.split.retain) == TRAIN - 4
