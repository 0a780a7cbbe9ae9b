"""Projects of other tasks than single labels are unlearned and audited as they are, and their own class loads the file."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import quiet_trainer

from lightning_unlearn import ForgettingMetrics, NegGradPlus, PopulationAttack, UnlearningDataModule
from lightning_unlearn.cli.forget import STATUS
from lightning_unlearn.cli.main import main
from lightning_unlearn.core.ledger import read

PROJECTS = Path(__file__).parent / "foreign_projects"
WRONG = list(range(0, 160, 8))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECTS))
    importlib.invalidate_caches()


def module(name: str) -> Any:
    return importlib.import_module(f"{name}_project")


def fine_tuning() -> tuple[Any, Any, list[L.Callback]]:
    names = module("fine_tuning")
    return names.TransferLearningModel(), names.CatDogImages, [names.MilestonesFinetuning()]


def geo(task: str) -> Callable[[], tuple[Any, Any, list[L.Callback]]]:
    def make() -> tuple[Any, Any, list[L.Callback]]:
        names = module("geo")
        classes = 4 if task == "multilabel" else 3
        segments = task == "segmentation"
        model = (
            names.SemanticSegmentationTask()
            if segments
            else names.ClassificationTask(task=task, num_classes=classes)
        )
        return model, lambda: names.TilesData(task), []

    return make


def torchgeo(task: str) -> Callable[[], tuple[Any, Any, list[L.Callback]]]:
    """Its own trainers, which are installed by whoever wants to see it: 400 MB."""

    def make() -> tuple[Any, Any, list[L.Callback]]:
        trainers = pytest.importorskip("torchgeo.trainers", reason="pip install -e '.[geo]'")
        arguments = {
            "binary": {"loss": "bce"},
            "multiclass": {"num_classes": 3},
            "multilabel": {"num_labels": 4, "loss": "bce"},
            "segmentation": {"num_classes": 4, "num_filters": 48, "ignore_index": 0},
        }[task] | {"in_channels": 4, "lr": 1e-2}
        model = (
            trainers.SemanticSegmentationTask("fcn", **arguments)
            if task == "segmentation"
            else trainers.ClassificationTask("resnet10t", task=task, **arguments)
        )
        return model, lambda: module("geo").TilesData(task), []

    return make


def prices() -> tuple[Any, Any, list[L.Callback]]:
    names = module("prices")
    return names.CategoryEmbeddingModel(), names.HomesData, []


def sequences() -> tuple[Any, Any, list[L.Callback]]:
    names = module("sequence")
    return names.AlarmLSTM(), names.SignalsData, []


PROJECTS_BY_TASK: dict[str, tuple[Callable[[], Any], str, int]] = {
    "Lightning's fine-tuning": (fine_tuning, "binary", 40),
    "torchgeo, binary": (geo("binary"), "binary", 25),
    "torchgeo, multi-class": (geo("multiclass"), "classes", 25),
    "torchgeo, multi-label": (geo("multilabel"), "multilabel", 25),
    "torchgeo, segmentation": (geo("segmentation"), "positions", 60),
    "torchgeo's own, binary": (torchgeo("binary"), "binary", 15),
    "torchgeo's own, multi-class": (torchgeo("multiclass"), "classes", 15),
    "torchgeo's own, multi-label": (torchgeo("multilabel"), "multilabel", 15),
    "torchgeo's own, segmentation": (torchgeo("segmentation"), "positions", 60),
    "tables with embeddings": (prices, "regression", 40),
    "packed sequences": (sequences, "binary", 50),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS_BY_TASK)
def test_a_project_is_unlearned_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, task, epochs = PROJECTS_BY_TASK[name]
    L.seed_everything(0, verbose=False)
    source, data, callbacks = make()
    trainer = quiet_trainer(max_epochs=epochs, callbacks=callbacks)
    trainer.fit(source, data())
    monkeypatch.chdir(tmp_path)
    trainer.save_checkpoint("best.ckpt")
    split = UnlearningDataModule(data(), WRONG)
    audits = [ForgettingMetrics(on_error="raise"), PopulationAttack(on_error="raise", bootstrap=20)]
    method = NegGradPlus(source)
    quiet_trainer(max_epochs=8, limit_val_batches=1.0, callbacks=audits).fit(method, split)
    assert method.task.name == task

    scores, measured = audits[0].results, method.task.measured
    forget, before = (scores[f"{prefix}{measured}/forget"] for prefix in ("", "source/"))
    test, tested = (scores[f"{prefix}{measured}/test"] for prefix in ("", "source/"))
    better = math.copysign(1, 1 if measured == "accuracy" else -1)
    print(name, before, forget, tested, test, audits[1].results["population_attack/auc"])
    assert better * (before - forget) > 0.2 * abs(before)
    assert better * (test - tested) > -0.05
    assert 0 <= audits[1].results["population_attack/auc"] < audits[1].results["source/population_attack/auc"]

    exported = type(source).load_from_checkpoint(
        method.export(tmp_path / "m.ckpt"), weights_only=True, strict=True
    )
    assert exported.hparams == source.hparams
    frozen = [n for n, p in source.named_parameters() if not p.requires_grad]
    assert bool(frozen) == (name == "Lightning's fine-tuning")
    assert all(torch.equal(exported.get_parameter(n), source.get_parameter(n)) for n in frozen)
    batch = next(iter(split.loader("test")))
    inputs, _ = method.adapter.split(batch)
    with torch.no_grad():
        ours, theirs = (method.adapter.call(model.eval(), inputs) for model in (method.model, exported))
    assert torch.equal(ours, theirs)
    if task != "classes" and not name.startswith("torchgeo's"):
        one_command(type(source), data())


def one_command(kind: type[L.LightningModule], data: L.LightningDataModule) -> None:
    """Forget from the command line what a file names, and load what it leaves into the project's own class."""
    Path("request.csv").write_text("id\n" + "\n".join(map(str, WRONG)))
    given = [
        f"--data={type(data).__module__}.{type(data).__qualname__}",
        *([f"--data.task={data.task}"] if hasattr(data, "task") else []),
        f"--model={kind.__module__}.{kind.__qualname__}",
        *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    ]
    assert main(["forget", "best.ckpt", "request.csv", *given]) in STATUS.values()
    after, before = (
        kind.load_from_checkpoint(file, weights_only=True, strict=True)
        for file in ("unlearned/model.ckpt", "best.ckpt")
    )
    assert any(not torch.equal(*pair) for pair in zip(after.parameters(), before.parameters(), strict=True))
    (line,) = read("deletions.jsonl")
    assert line["answer"]["after"] < line["answer"]["before"]
