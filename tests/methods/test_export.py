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


class Compiles(PlainModule):
    def setup(self, stage: str) -> None:
        if not hasattr(self.net, "_orig_mod"):
            self.net = torch.compile(self.net, backend="eager")


def test_a_network_that_was_compiled_later_is_exported_under_its_own_names(tmp_path: Path) -> None:
    inside, outside = Compiles(), PlainModule()
    inside.setup("fit")
    outside.net = torch.compile(outside.net, backend="eager")
    for source in (inside, outside):
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
    assert scores["test/acc"] > 0.8
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
    loaded = SourceCheckpoint("evil.ckpt", "toys.PlainModule").load()
    assert not Path("touched").exists()
    assert_same_state(state(loaded), state(source))
    assert loaded.hparams["lr"] == 0.05
