"""What an export is good for: its class reads it, Lightning tests from it, and it is the same file every time."""

import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.toys import PlainData, PlainModule, assert_same_state, quiet_trainer, state, toy_data
from torch import Tensor, nn

from lightning_unlearn.callbacks import ForgettingMetrics
from lightning_unlearn.cli.forget import STATUS
from lightning_unlearn.cli.main import main
from lightning_unlearn.comparison.runs import MethodRun
from lightning_unlearn.core.ledger import Ledger
from lightning_unlearn.data import Classes, UnlearningDataModule
from lightning_unlearn.methods import CFk, EUk, ReferenceKL, Retrain, SourceCheckpoint, UnlearningModule
from lightning_unlearn.methods.base.export import write_export

PROJECTS = Path(__file__).parents[1] / "foreign_projects"


class Finetune(UnlearningModule):
    """Trains on the retain set."""

    streams = ("retain",)
    epoch_stream = "retain"

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.retain_loss(batch["retain"], batch_idx)


class Told(PlainModule):
    """Has all the steps a Trainer may ask for."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.test_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        answers: Tensor = self(batch[0])
        return answers


@pytest.fixture(scope="module")
def hydra() -> Iterator[Any]:
    """The project laid out as the Lightning-Hydra template."""
    sys.path.insert(0, str(PROJECTS))
    yield __import__("hydra_project")
    sys.path.remove(str(PROJECTS))
    for name in ("hydra_project", "image_project"):
        sys.modules.pop(name)


def test_lightning_tests_validates_and_predicts_from_an_export(tmp_path: Path) -> None:
    method = Finetune(Told())
    quiet_trainer(max_epochs=1).fit(method, UnlearningDataModule(PlainData(), 0.2))
    path = method.export(tmp_path / "m.ckpt")
    trainer, data = quiet_trainer(), PlainData()
    expected = trainer.test(method.model, data, verbose=False)
    assert trainer.test(Told(), data, ckpt_path=path, verbose=False) == expected
    assert trainer.validate(Told(), data, ckpt_path=path, verbose=False)
    assert trainer.predict(Told(), data.test_dataloader(), ckpt_path=path)
    with pytest.raises(KeyError, match="contains only the model"):
        trainer.fit(Told(), data, ckpt_path=path)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_hydra_project_goes_from_its_checkpoint_to_its_eval(
    hydra: Any, compiled: bool, tmp_path: Path
) -> None:
    L.seed_everything(0, verbose=False)
    trainer = quiet_trainer(max_epochs=3, limit_val_batches=0)
    trainer.fit(hydra.instantiate(compiled), hydra.DigitsData())
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)

    with pytest.raises(
        ValueError, match=r"arguments=\{'net': \.\.\., 'optimizer': \.\.\., 'scheduler'"
    ) as refusal:
        SourceCheckpoint(str(path), "hydra_project.DigitsModule").load()
    assert "save_checkpoint" not in str(refusal.value)
    with pytest.raises(ValueError, match="give SourceCheckpoint") as refusal:
        SourceCheckpoint(str(path)).load()
    assert "save_checkpoint" not in str(refusal.value)

    arguments = {
        "net": hydra.DenseNet(),
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=5),
    }
    source = SourceCheckpoint(str(path), "hydra_project.DigitsModule", arguments)
    assert source.load().hparams["compile"] is compiled
    method = ReferenceKL(source, reference_epochs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gives another sample each time.*")
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(
            method, UnlearningDataModule(hydra.DigitsData(), forget=list(range(30)))
        )
    with pytest.warns(
        UserWarning, match=r"net, optimizer, scheduler of DigitsModule.*load_from_checkpoint\(path, net"
    ):
        export = method.export(tmp_path / "unlearned.ckpt")

    (scores,) = hydra.evaluate(quiet_trainer(), export, compiled)
    assert scores == quiet_trainer().test(method.model, hydra.DigitsData(), verbose=False)[0]
    loaded = hydra.DigitsModule.load_from_checkpoint(export, **{**arguments, "net": hydra.DenseNet()})
    inputs = torch.rand(5, 1, 8, 8)
    assert torch.equal(loaded.eval()(inputs), method.model.eval()(inputs))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bare = method.export(tmp_path / "weights.pt", weights_only=True)
    again = hydra.instantiate()
    again.load_state_dict(torch.load(bare, weights_only=True))
    assert torch.equal(again.eval()(inputs), method.model.eval()(inputs))


@pytest.mark.slow
def test_one_command_unlearns_a_hydra_project(
    hydra: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a class that makes what the file does not hold."""
    monkeypatch.chdir(tmp_path)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(hydra.instantiate(), hydra.DigitsData())
    trainer.save_checkpoint("last.ckpt")
    Path("request.csv").write_text("id\n" + "\n".join(map(str, range(30))))
    given = ["--data=hydra_project.DigitsData", "--model=hydra_project.Configured"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the export cannot hold")  # which its class does not take
        assert main(["forget", "last.ckpt", "request.csv", *given, *quiet]) in STATUS.values()
    loaded = hydra.Configured.load_from_checkpoint("unlearned/model.ckpt", weights_only=True, strict=True)
    (scores,) = hydra.evaluate(quiet_trainer(), "unlearned/model.ckpt")
    assert scores == quiet_trainer().test(loaded, hydra.DigitsData(), verbose=False)[0]


def test_the_same_model_gives_the_same_file(tmp_path: Path) -> None:
    method = Finetune(PlainModule())
    quiet_trainer(max_epochs=1).fit(method, toy_data())
    for name in ("a.ckpt", "another.pt"):
        method.export(tmp_path / name)
    method.model.net[0].weight.data = method.model.net[0].weight.data.T.contiguous().T  # laid out otherwise
    method.export(tmp_path / "c.ckpt")
    write_export(PlainModule.load_from_checkpoint(tmp_path / "c.ckpt"), tmp_path / "d.ckpt")
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1


class CompilesInSetup(PlainModule):
    """Compiles its network when a Trainer sets it up."""

    def setup(self, stage: str) -> None:
        self.net = torch.compile(self.net, backend="eager")  # type: ignore[assignment]


def test_networks_that_are_compiled_later_are_exported_under_their_own_names(tmp_path: Path) -> None:
    trained = CompilesInSetup()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(trained, PlainData())
    trainer.save_checkpoint(tmp_path / "source.ckpt")
    outside = PlainModule()
    outside.net = torch.compile(outside.net, backend="eager")  # type: ignore[assignment]
    sources = (
        trained,
        SourceCheckpoint(str(tmp_path / "source.ckpt"), f"{__name__}.CompilesInSetup"),
        outside,
    )
    for source in sources:
        method = Finetune(source)
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, toy_data())
        path = method.export(tmp_path / "m.ckpt")
        loaded = type(method.model).load_from_checkpoint(path, weights_only=True)
        own = {name.replace("_orig_mod.", ""): value for name, value in state(method.model).items()}
        assert_same_state(state(loaded), own)


def test_what_the_source_did_not_train_does_not_remember(tmp_path: Path) -> None:
    class Whole(PlainModule):
        """A network beside what training leaves alone."""

        def __init__(self) -> None:
            super().__init__()
            self.criterion = nn.CrossEntropyLoss(weight=torch.rand(3))
            self.backbone = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).requires_grad_(False)
            self.register_buffer("mean", torch.rand(6))
            self.register_buffer("positions", torch.rand(8, 6))

    class Averaged(Whole):
        """Keeps a copy of its weights as a buffer."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("ema_weight", self.net[0].weight.detach() * 0.9 + 0.001)

    method = Finetune(Whole())
    quiet_trainer(max_epochs=1).fit(method, toy_data())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.export(tmp_path / "m.ckpt")
    method = Finetune(Averaged())
    quiet_trainer(max_epochs=1).fit(method, toy_data())
    with pytest.warns(UserWarning, match="holds 1 tensors that are the source's, bit for bit: ema_weight"):
        method.export(tmp_path / "m.ckpt")


def test_spoilt_weights_are_refused_everywhere(tmp_path: Path) -> None:
    class Spoils(Finetune):
        """Ends with a weight that no loss has shown."""

        def on_train_epoch_end(self) -> None:
            with torch.no_grad():
                self.model.net[0].weight[0, 0] = torch.inf

    class Late(L.Callback):
        """Spoils a running statistic after the end of training."""

        def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            pl_module.model.net[1].running_var.fill_(torch.nan)

    ledger = Ledger(str(tmp_path / "ledger.jsonl"))
    with pytest.raises(FloatingPointError, match=r"Spoils unlearned holds NaN or infinite.*net\.0\.weight"):
        quiet_trainer(max_epochs=1, limit_val_batches=0).fit(Spoils(PlainModule()), toy_data(ledger=ledger))
    method = Finetune(PlainModule())
    with pytest.raises(FloatingPointError, match="put on record holds NaN"):
        quiet_trainer(max_epochs=1, callbacks=[Late()]).fit(method, toy_data(ledger=ledger))
    assert not Path(ledger.path).exists()
    with pytest.raises(FloatingPointError, match=r"exported holds NaN.*running_var"):
        method.export(tmp_path / "m.ckpt")
    assert not (tmp_path / "m.ckpt").exists()
    masked = PlainModule()
    masked.register_buffer("mask", torch.full((2, 2), -torch.inf))
    write_export(masked, tmp_path / "m.ckpt")


def test_last_layer_methods_name_themselves() -> None:
    assert [MethodRun(method).label for method in (CFk, EUk, ReferenceKL)] == ["cf_k", "eu_k", "reference_kl"]


def test_classes_forgotten_whole_have_a_test_accuracy_of_their_own() -> None:
    names = {"accuracy/test_retained_classes", "accuracy/test_forgotten_classes"}
    for forget in (Classes(1), 0.2):
        evaluator = ForgettingMetrics()
        data = toy_data(forget)
        trainer = quiet_trainer(max_epochs=8, callbacks=[evaluator], limit_val_batches=0)
        trainer.fit(Retrain(PlainModule()), data)
        results = evaluator.results
        if forget == 0.2:
            assert not names & results.keys()
            continue
        kept = (data.split.test % 3 != 1).mean()  # the toy data's classes take turns
        assert results["accuracy/test_forgotten_classes"] == 0
        assert results["accuracy/test_retained_classes"] * kept == pytest.approx(results["accuracy/test"])


class Evil:
    """Would call a method of a class, which pickle looks up with getattr."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_objects_in_a_checkpoint_are_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = PlainModule()
    arguments = {"hidden": 8, "lr": Evil(), "evil": [Evil()]}
    torch.save({"state_dict": source.state_dict(), "hyper_parameters": arguments}, "evil.ckpt")
    # the class has a default, which need not be what the file holds
    with pytest.raises(ValueError, match=r"holds objects.*arguments=\{'lr': \.\.\.\}"):
        SourceCheckpoint("evil.ckpt", "helpers.toys.PlainModule").load()
    loaded = SourceCheckpoint("evil.ckpt", "helpers.toys.PlainModule", {"lr": 0.1}).load()
    assert not Path("touched").exists()
    assert_same_state(state(loaded), state(source))
    assert loaded.hparams["lr"] == 0.1
