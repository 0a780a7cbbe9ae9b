"""What an export is good for: its class reads it, Lightning tests from it, and it is the same file every time."""

import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from toys import PlainData, PlainModule, assert_same_state, quiet_trainer, state, toy_data, toy_source

from lightning_unlearn import CFk, EUk, MethodRun, ReferenceKL, UnlearningDataModule
from lightning_unlearn.callbacks import ForgettingMetrics
from lightning_unlearn.data import Classes
from lightning_unlearn.ledger import Ledger
from lightning_unlearn.methods import SourceCheckpoint

PROJECTS = Path(__file__).parents[1] / "foreign_projects"


class WithTest(PlainModule):
    """Has all of Lightning's steps."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.test_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])


class WithPredictions(PlainData):
    def predict_dataloader(self) -> Any:
        return self.test_dataloader()


def unlearned(source: nn.Module, **arguments: Any) -> ReferenceKL:
    method = ReferenceKL(source, reference_epochs=1, **arguments)
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(method, toy_data())
    return method


def test_lightning_validates_tests_and_predicts_from_an_export_and_does_not_resume_from_it(
    tmp_path: Path,
) -> None:
    method = unlearned(WithTest())
    path = method.export(tmp_path / "m.ckpt")
    fresh = WithTest()
    assert quiet_trainer().validate(fresh, WithPredictions(), ckpt_path=path, verbose=False)
    assert_same_state(state(fresh), state(method.model))
    (scores,) = quiet_trainer().test(WithTest(), WithPredictions(), ckpt_path=path, verbose=False)
    (same,) = quiet_trainer().test(method.model, WithPredictions(), verbose=False)
    assert scores == same
    answers = torch.cat(quiet_trainer().predict(WithTest(), WithPredictions(), ckpt_path=path))
    with torch.no_grad():
        expected = torch.cat([method.model.eval()(x) for x, _ in WithPredictions().test_dataloader()])
    torch.testing.assert_close(answers, expected)
    with pytest.raises(KeyError, match="checkpoint contains only the model"):
        quiet_trainer().fit(WithTest(), PlainData(), ckpt_path=path)


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    method = unlearned(PlainModule())
    first = method.export(tmp_path / "first.ckpt").read_bytes()
    assert method.export(tmp_path / "another name.ckpt").read_bytes() == first
    method.model.net[0].weight.data = method.model.net[0].weight.data.T.contiguous().T  # laid out otherwise
    assert method.export(tmp_path / "transposed.ckpt").read_bytes() == first
    other = PlainModule.load_from_checkpoint(tmp_path / "first.ckpt")
    assert ReferenceKL(other).export(tmp_path / "again.ckpt").read_bytes() == first


def test_weights_alone(tmp_path: Path) -> None:
    method = unlearned(PlainModule())
    fresh = PlainModule()
    fresh.load_state_dict(torch.load(method.export(tmp_path / "w.pt", weights_only=True)))
    assert_same_state(state(fresh), state(method.model))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_exported(value: float, tmp_path: Path) -> None:
    method = unlearned(PlainModule())
    with torch.no_grad():
        method.model.net[0].weight[0, 0] = value
    with pytest.raises(
        FloatingPointError, match=r"NaN or infinite values in 1 tensors, such as net\.0\.weight"
    ):
        method.export(tmp_path / "m.ckpt")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_end_a_fit() -> None:
    class Spoil(L.Callback):
        def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            pl_module.model.net[0].weight.data.fill_(torch.nan)

    method = ReferenceKL(PlainModule(), reference_epochs=1)
    with pytest.raises(FloatingPointError, match="the model that ReferenceKL unlearned holds NaN"):
        quiet_trainer(max_epochs=1, callbacks=[Spoil()]).fit(method, toy_data())


def test_spoilt_weights_are_not_put_on_record(tmp_path: Path) -> None:
    class Late(L.Callback):
        """Spoils a running statistic after the end of training."""

        def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            pl_module.model.net[1].running_var.fill_(torch.nan)

    ledger = Ledger(str(tmp_path / "ledger.jsonl"))
    method = ReferenceKL(PlainModule(), reference_epochs=1)
    with pytest.raises(FloatingPointError, match="put on record holds NaN"):
        quiet_trainer(max_epochs=1, callbacks=[Late()]).fit(method, toy_data(ledger=ledger))
    assert not Path(ledger.path).exists()
    masked = PlainModule()
    masked.register_buffer("mask", torch.full((2, 2), -torch.inf))  # as attention has them
    ReferenceKL(masked).export(tmp_path / "m.ckpt")


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

    method = unlearned(Whole())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.export(tmp_path / "m.ckpt")
    method = unlearned(Averaged())
    with pytest.warns(UserWarning, match="holds 1 tensors that are the source's, bit for bit: ema_weight"):
        method.export(tmp_path / "m.ckpt")


class Compiles(PlainModule):
    def setup(self, stage: str) -> None:
        if not hasattr(self.net, "_orig_mod"):
            self.net = torch.compile(self.net, backend="eager")


def test_a_network_that_was_compiled_later_is_exported_under_its_own_names(tmp_path: Path) -> None:
    inside, outside = Compiles(), PlainModule()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(inside, PlainData())
    trainer.save_checkpoint(tmp_path / "source.ckpt")
    saved = SourceCheckpoint(str(tmp_path / "source.ckpt"), f"{__name__}.Compiles").load()
    outside.net = torch.compile(outside.net, backend="eager")
    for source in (inside, saved, outside):
        method = unlearned(source)
        content = torch.load(method.export(tmp_path / "m.ckpt"), weights_only=True)
        assert not [name for name in content["state_dict"] if "_orig_mod" in name]
        loaded = type(source).load_from_checkpoint(tmp_path / "m.ckpt", strict=True).eval()
        inputs = torch.randn(5, 6)
        with torch.no_grad():
            torch.testing.assert_close(loaded(inputs), method.model.eval()(inputs))


def test_names_of_runs() -> None:
    assert [MethodRun(kind).label for kind in (CFk, EUk, ReferenceKL)] == ["cf_k", "eu_k", "reference_kl"]


def test_forgetting_a_class_tells_retained_and_forgotten_test_samples_apart() -> None:
    source = toy_source()
    quiet_trainer(max_epochs=20).fit(source, toy_data().inner and PlainData())
    data = toy_data(Classes(1))
    (scores,) = quiet_trainer(callbacks=[ForgettingMetrics(data=data)]).test(source, data, verbose=False)
    test = [torch.cat(part) for part in zip(*data.loader("test"), strict=True)]
    with torch.no_grad():
        right = source.eval()(test[0]).argmax(1) == test[1]
    assert scores["accuracy/test_forgotten_classes"] == pytest.approx(
        float(right[test[1] == 1].double().mean())
    )
    assert scores["accuracy/test_retained_classes"] == pytest.approx(
        float(right[test[1] != 1].double().mean())
    )
    plain = toy_data()
    (scores,) = quiet_trainer(callbacks=[ForgettingMetrics(data=plain)]).test(source, plain, verbose=False)
    assert "accuracy/test_forgotten_classes" not in scores


# ---------------------------------------------------------------- objects among the arguments


@pytest.fixture
def hydra(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(PROJECTS))
    for name in ("hydra_project", "image_project"):
        sys.modules.pop(name, None)
    import hydra_project

    return hydra_project


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_the_hydra_template_goes_from_its_checkpoint_to_its_eval(
    hydra: Any, compiled: bool, tmp_path: Path
) -> None:
    module = hydra.instantiate(compiled)
    trainer = quiet_trainer(max_epochs=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning advises against modules among the hyper-parameters
        trainer.fit(module, hydra.DigitsData())
        trainer.save_checkpoint(tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"SourceCheckpoint\(path, module=.*arguments=\{'net'") as refused:
        ReferenceKL(str(tmp_path / "best.ckpt"))
    assert "save_checkpoint" not in str(refused.value)
    arguments = {
        "net": hydra.DenseNet(),
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=5),
        "compile": False,
    }
    source = SourceCheckpoint(str(tmp_path / "best.ckpt"), "hydra_project.DigitsModule", arguments)
    method = ReferenceKL(source, 0.5, reference_epochs=2)
    data = UnlearningDataModule(hydra.DigitsData(), list(range(3, 300, 11)))
    quiet_trainer(max_epochs=8, limit_val_batches=0).fit(method, data)
    with pytest.warns(
        UserWarning, match=r"cannot hold the arguments net, optimizer, scheduler of DigitsModule"
    ):
        path = method.export(tmp_path / "unlearned.ckpt")
    (scores,) = hydra.evaluate(quiet_trainer(), path)
    (before,) = quiet_trainer().test(method.source, hydra.DigitsData(), verbose=False)
    assert scores["test/acc"] > before["test/acc"] - 0.1
    loaded = hydra.DigitsModule.load_from_checkpoint(path, strict=True, **arguments)
    inputs = next(iter(data.loader("test")))[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(inputs), method.model.eval()(inputs))


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_objects_in_a_checkpoint_are_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = PlainModule()
    content = {
        "state_dict": source.state_dict(),
        "pytorch-lightning_version": L.__version__,
        "hyper_parameters": {"hidden": 8, "lr": Evil(), "evil": [Evil()]},
    }
    torch.save(content, "evil.ckpt")
    monkeypatch.setattr(sys.modules["toys"], "PlainModule", PlainModule)
    # the class has a default, which need not be what the file holds
    with pytest.raises(ValueError, match=r"holds objects.*arguments=\{'lr': \.\.\., 'evil': \.\.\.\}"):
        SourceCheckpoint("evil.ckpt", "toys.PlainModule").load()
    loaded = SourceCheckpoint("evil.ckpt", "toys.PlainModule", {"lr": 0.1, "evil": None}).load()
    assert not Path("touched").exists()
    assert_same_state(state(loaded), state(source))
    assert loaded.hparams["lr"] == 0.1
