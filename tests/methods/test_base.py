"""What all methods share: the copy, the source, export, times and what is refused."""

import copy
import json
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from doc_tables import parameters_of
from helpers.support import METHODS
from helpers.toys import (
    CLASSES,
    FEATURES,
    Net,
    PlainData,
    PlainModule,
    assert_same_state,
    quiet_trainer,
    state,
    toy_data,
    toy_source,
)
from lightning.pytorch.callbacks import (
    EarlyStopping,
    RichProgressBar,
    StochasticWeightAveraging,
    TQDMProgressBar,
    WeightAveraging,
)
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.methods import SSD, RandomK, ReferenceKL, Retrain, SourceCheckpoint, UnlearningModule
from lightning_unlearn.methods.base.export import write_export
from lightning_unlearn.methods.cf_k import CFk
from lightning_unlearn.models import Classifier


class Finetune(UnlearningModule):
    """A user's own method: the loss and nothing else."""

    streams = ("retain",)
    epoch_stream = "retain"

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        ((logits, targets),) = self.stream_logits(batch["retain"])
        return self.loss(logits, targets)


def fitted(method: UnlearningModule, **arguments: Any) -> L.Trainer:
    trainer = quiet_trainer(**arguments)
    trainer.fit(method, toy_data())
    return trainer


def test_the_source_is_never_changed_nor_part_of_the_method() -> None:
    source = toy_source()
    before = state(source)
    method = Finetune(source)
    shared = {p.data_ptr() for p in source.parameters()} & {p.data_ptr() for p in method.parameters()}
    assert not shared, "the copy shares weights with the source"
    assert method.source is source
    fitted(method)
    assert_same_state(state(source), before)
    assert not torch.equal(method.model.net[0].weight, source.net[0].weight)
    assert all(name.startswith("model.") for name in method.state_dict())


def test_a_fitted_source_comes_without_its_trainer() -> None:
    source = toy_source()
    quiet_trainer(max_epochs=1).fit(source, toy_data())
    assert source.trainer is not None
    method = Finetune(source)
    assert method.model._trainer is None
    fitted(method)


def test_export_loads_into_the_users_own_class(tmp_path: Path) -> None:
    source = PlainModule(hidden=5)
    method = Finetune(source)
    quiet_trainer().fit(method, UnlearningDataModule(PlainData(), 0.2))
    path = method.export(tmp_path / "deep" / "unlearned.ckpt")
    loaded = PlainModule.load_from_checkpoint(path, weights_only=True)
    assert_same_state(state(loaded), state(method.model))
    assert loaded.hparams["hidden"] == 5


def test_export_holds_weights_and_nothing_else(tmp_path: Path) -> None:
    source = PlainModule()
    method = ReferenceKL(source, reference_epochs=1)
    data = UnlearningDataModule(PlainData(), 0.2)
    quiet_trainer().fit(method, data)
    content = torch.load(method.export(tmp_path / "unlearned.ckpt"), weights_only=True)
    assert set(content) == {
        "state_dict",
        "hyper_parameters",
        "hparams_name",
        "pytorch-lightning_version",
        "epoch",
        "global_step",
    }
    old = {name: value for name, value in source.state_dict().items() if value.is_floating_point()}
    new = content["state_dict"]
    kept = [name for name, value in old.items() if torch.equal(new[name], value)]
    assert not kept, f"tensors of the source survive in the export: {kept}"
    assert set(content["hyper_parameters"]) == {"hidden", "lr"}


def test_a_checkpoint_s_class_is_named_by_its_path() -> None:
    said = "module must be the import path of the class, as text, got PlainModule; give 'helpers.toys.PlainModule'"
    with pytest.raises(TypeError, match=said):
        SourceCheckpoint("best.ckpt", PlainModule)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [ReferenceKL, SSD])
def test_what_was_never_fitted_is_not_exported(tmp_path: Path, method: type[UnlearningModule]) -> None:
    with pytest.raises(
        ValueError, match=rf"{method.__name__} has made no step, .* trainer\.fit\(method, data\)"
    ):
        method(PlainModule()).export(tmp_path / "m.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_fit_without_a_step_is_not_exported_but_an_edit_is(tmp_path: Path) -> None:
    for method in (idle := Finetune(PlainModule()), edited := SSD(PlainModule())):
        quiet_trainer(max_epochs=0).fit(method, UnlearningDataModule(PlainData(), 0.2))
    with pytest.raises(ValueError, match="Finetune has made no step"):
        idle.export(tmp_path / "m.ckpt")
    edited.export(tmp_path / "m.ckpt")


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.ckpt"
    path.write_text("old")
    method = Finetune(toy_source())
    fitted(method)

    def disk_full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space"):
        method.export(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["model.ckpt"]


def test_times_are_measured_and_add_up() -> None:
    trainer = fitted(ReferenceKL(toy_source(), reference_epochs=3))
    metrics = trainer.callback_metrics
    assert metrics["time/prepare_s"] > 0
    assert metrics["time/unlearn_s"] > 0
    assert metrics["time/total_s"] == pytest.approx(
        float(metrics["time/prepare_s"] + metrics["time/unlearn_s"])
    )


def test_validation_accuracy_is_exact() -> None:
    method = Finetune(toy_source())
    data = toy_data()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(method, data)
    method.eval()
    for stream in ("forget", "test"):
        batches = list(data.loader(stream))
        with torch.no_grad():
            hits = torch.cat([method(x).argmax(1) == y for x, y in batches])
        assert float(trainer.callback_metrics[f"accuracy/{stream}"]) == pytest.approx(
            float(hits.float().mean())
        )


def test_early_stopping_and_model_checkpoint_watch_forgetting(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    checkpoint = ModelCheckpoint(tmp_path, monitor="accuracy/forget", mode="min")
    stopping = EarlyStopping("accuracy/forget", mode="min", stopping_threshold=1.1)
    trainer = quiet_trainer(max_epochs=5, callbacks=[checkpoint, stopping], enable_checkpointing=True)
    trainer.fit(Finetune(toy_source()), toy_data())
    assert trainer.current_epoch == 1
    torch.load(checkpoint.best_model_path, weights_only=True)


def test_the_sources_own_schedule_and_optimizer_are_used_by_retrain_alone() -> None:
    source = PlainModule(lr=0.123)
    retrain, other = Retrain(source), Finetune(source)
    assert isinstance(retrain.configure_optimizers(), torch.optim.SGD)
    assert retrain.configure_optimizers().defaults["lr"] == 0.123  # type: ignore[union-attr]
    assert isinstance(other.configure_optimizers(), torch.optim.Adam)
    given = Retrain(source, optimizer=lambda p: torch.optim.RMSprop(p, lr=0.5))
    assert isinstance(given.configure_optimizers(), torch.optim.RMSprop)


def test_a_schedule_is_stepped_once_an_epoch() -> None:
    method = Finetune(
        toy_source(),
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
    )
    trainer = fitted(method, max_epochs=3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.125)


def test_losses_are_logged_at_the_trainers_interval(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    quiet_trainer(max_epochs=3, logger=logger, log_every_n_steps=2).fit(ReferenceKL(toy_source()), toy_data())
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    header, steps = rows[0].split(","), [row.split(",") for row in rows[1:]]
    assert {"train/loss", "train/kl", "train/ce"} <= set(header)
    logged = [int(row[header.index("step")]) for row in steps if row[header.index("train/kl")]]
    assert logged == [1, 3, 5]


class Posteriors(nn.Module):
    """A model that ends in a softmax, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(-1)


class Broken(nn.Module):
    """A model whose logits are not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * float("nan")


class TwoClasses(nn.Linear):
    def __init__(self) -> None:
        super().__init__(FEATURES, CLASSES - 1)


@pytest.mark.parametrize("kind", [Retrain, ReferenceKL, Finetune])
@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (Posteriors, ValueError, "gives probabilities"),
        (Broken, FloatingPointError, "loss"),
        (TwoClasses, (ValueError, IndexError), "2 classes, but the data has targets from 0 to 2"),
        (lambda: nn.Sequential(Net(), nn.Flatten(0)), ValueError, "logits that fit the targets"),
    ],
)
def test_models_that_cannot_be_unlearned_are_refused(
    kind: Any, source: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        fitted(kind(source()))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (nn.Flatten(), ValueError, "has no parameters"),
        (3, TypeError, "source must be a module"),
        ("missing.ckpt", FileNotFoundError, "missing.ckpt"),
    ],
)
def test_a_source_that_is_none_is_refused(source: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Finetune(source)


def test_nan_in_the_data_stops_the_run() -> None:
    data = toy_data()
    data.inner.inputs[:, 0] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(FloatingPointError, match="NaN"):
        quiet_trainer().fit(Finetune(toy_source()), data)


def test_plain_loaders_cannot_say_who_is_forgotten() -> None:
    data = toy_data()
    data.setup("fit")
    loaders = {"forget": data.loader("forget", train=True), "retain": data.loader("retain", train=True)}
    with pytest.raises(TypeError, match="UnlearningDataModule"):
        quiet_trainer(limit_val_batches=0).fit(ReferenceKL(toy_source()), loaders)


def test_dict_batches_and_named_outputs_work_through_an_adapter() -> None:
    class Dicts(PlainData):
        def train_dataloader(self) -> Any:
            loader = super().train_dataloader()
            loader.collate_fn = lambda rows: {
                "columns": torch.stack([r[0] for r in rows]),
                "species": torch.stack([r[1] for r in rows]),
            }
            return loader

        def test_dataloader(self) -> Any:
            return self.train_dataloader()

        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, columns: Tensor) -> dict[str, Tensor]:
            return {"scores": self.net(columns)}

    adapter = Adapter(inputs="columns", targets="species", logits="scores")
    method = ReferenceKL(Named(), reference_epochs=1, adapter=adapter)
    quiet_trainer().fit(method, UnlearningDataModule(Dicts(), 0.2))


class TestSourceCheckpoint:
    """Sources from files."""

    def trained(self, folder: Path) -> tuple[PlainModule, Path]:
        module = PlainModule(hidden=7)
        trainer = quiet_trainer(max_epochs=1)
        trainer.fit(module, PlainData())
        path = folder / "source.ckpt"
        trainer.save_checkpoint(path)
        return module, path

    def test_a_class_and_a_file_give_the_source(self, tmp_path: Path) -> None:
        module, path = self.trained(tmp_path)
        method = Finetune(SourceCheckpoint(str(path), module="helpers.toys.PlainModule"))
        assert_same_state(state(method.source), state(module))
        assert method.source.hparams["hidden"] == 7

    def test_a_file_that_names_no_class_asks_for_it(self, tmp_path: Path) -> None:
        _, path = self.trained(tmp_path)
        with pytest.raises(ValueError, match="module"):
            Finetune(str(path))

    def test_another_class_is_refused(self, tmp_path: Path) -> None:
        _, path = self.trained(tmp_path)
        with pytest.raises(ValueError, match="does not load into"):
            Finetune(
                SourceCheckpoint(str(path), "lightning_unlearn.models.Classifier", {"net": nn.Linear(2, 2)})
            )

    def test_a_truncated_file_is_refused(self, tmp_path: Path) -> None:
        _, path = self.trained(tmp_path)
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            Finetune(SourceCheckpoint(str(path), module="helpers.toys.PlainModule"))

    def test_a_malicious_file_is_read_and_not_executed(self, tmp_path: Path) -> None:
        import pickle

        mark = tmp_path / "executed"

        class Malicious:
            def __reduce__(self) -> Any:
                return (open, (str(mark), "w"))

        path = tmp_path / "source.ckpt"
        weights = state(PlainModule())
        evil = {"evil": Malicious(), "hyper_parameters": {"lr": Malicious(), "hidden": 8}}
        torch.save({"state_dict": weights, **evil}, path, pickle_module=pickle)
        # the class has a default for it, which need not be what the file holds
        with pytest.raises(ValueError, match=r"arguments=\{'lr': \.\.\.\}"):
            Finetune(SourceCheckpoint(str(path), module="helpers.toys.PlainModule"))
        method = Finetune(SourceCheckpoint(str(path), "helpers.toys.PlainModule", {"lr": 0.1}))
        assert_same_state(state(method.source), weights)
        torch.save({"state_dict": {"net": Malicious()}, **evil}, path, pickle_module=pickle)
        for source in (str(path), SourceCheckpoint(str(path), "helpers.toys.PlainModule", {"lr": 0.1})):
            with pytest.raises(ValueError, match=r"does not load|nothing in it was executed"):
                Finetune(source)
        assert not mark.exists()

    def recorded(self, path: Path, **arguments: Any) -> str:
        """A checkpoint as LightningCLI writes it, of a classifier whose network is described by class path."""
        hyper_parameters = {
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
            "_class_path": "lightning_unlearn.models.Classifier",
            **arguments,
        }
        weights = {f"net.{name}": value for name, value in nn.Linear(2, 2).state_dict().items()}
        content = {"state_dict": weights, "hyper_parameters": hyper_parameters}
        torch.save({**content, "pytorch-lightning_version": L.__version__}, path)
        return str(path)

    def test_a_file_decides_on_no_import_within_it_either(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "evil_module.py").write_text(
            "import pathlib, torch\npathlib.Path(__file__).with_name('executed').touch()\n"
            "class Net(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        net = {"class_path": "evil_module.Net"}
        path = self.recorded(tmp_path / "source.ckpt", net=net)
        with pytest.raises(ValueError, match=r"wants 'evil_module\.Net' called"):
            Finetune(path)
        for nested in ({"class_path": "os.system"}, {"class_path": "subprocess.Popen"}):
            optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": [nested]}}
            with pytest.raises(ValueError, match=r"wants '.*' called"):
                Finetune(self.recorded(tmp_path / "nested.ckpt", net=None, optimizer=optimizer))
        assert not (tmp_path / "executed").exists()
        Finetune(SourceCheckpoint(path, trust=True))
        assert (tmp_path / "executed").exists()
        Finetune(path)  # imported by now
        sys.modules.pop("evil_module")
        linear = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 2}}
        Finetune(self.recorded(tmp_path / "source.ckpt", net=linear))

    def test_a_path_that_is_no_class_is_refused(self, tmp_path: Path) -> None:
        _, path = self.trained(tmp_path)
        for class_path in ("helpers.toys.Missing", "no_such_package.Module", "helpers.toys.Net"):
            with pytest.raises(ValueError, match="module"):
                Finetune(SourceCheckpoint(str(path), module=class_path))


def test_export_of_a_classifier_loads_with_its_net(tmp_path: Path) -> None:
    method = Finetune(toy_source())
    fitted(method)
    loaded = Classifier.load_from_checkpoint(method.export(tmp_path / "m.ckpt"), net=Net())
    assert_same_state(state(loaded), state(method.model))


def test_accuracies_keep_their_names_after_a_test_run() -> None:
    method, data = Finetune(toy_source()), toy_data()
    trainer = quiet_trainer(max_epochs=1)
    trainer.test(method, data, verbose=False)
    (forget, retain, test, _), *_ = [trainer.validate(method, data, verbose=False)]
    method.eval()
    for stream, found in (("forget", forget), ("retain", retain), ("test", test)):
        with torch.no_grad():
            hits = torch.cat([method(x).argmax(1) == y for x, y in data.loader(stream)])
        assert found[f"accuracy/{stream}"] == pytest.approx(float(hits.float().mean()))


def test_a_checkpoint_of_an_older_version_is_refused_by_name(tmp_path: Path) -> None:
    method = Finetune(toy_source())
    trainer = fitted(method)
    trainer.save_checkpoint(tmp_path / "old.ckpt")
    content = torch.load(tmp_path / "old.ckpt", weights_only=True)
    for name in ("moving", "settled"):
        del content["lightning_unlearn"][name]
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(
        ValueError, match=r"ckpt_path: .* an older version, .* moving, settled; begin Finetune again"
    ):
        quiet_trainer(max_epochs=9).fit(Finetune(toy_source()), toy_data(), ckpt_path=tmp_path / "old.ckpt")


def test_arguments_that_are_handed_up_are_recorded_and_refused_by_name() -> None:
    """As those of the class itself are; a base's argument that a class sets itself is none of its own."""

    class Cautious(RandomK):
        def __init__(self, source: Any, **random_k: Any) -> None:
            super().__init__(source, epsilon=0.01, **random_k)

    method = Cautious(toy_source(), lambda_=0.7)
    assert {"lambda_": 0.7, "mix": False, "step": "loss", "frozen": None}.items() <= method.hparams.items()
    assert "epsilon" not in method.hparams
    with pytest.raises(TypeError, match="'lamda'"):
        RandomK(toy_source(), lamda=0.7)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_the_command_sees_every_argument_that_is_handed_up(method: type[UnlearningModule]) -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(method, "model")
    seen = parser.get_defaults().as_dict()["model"]
    wanted = parameters_of(method)
    assert seen.keys() == wanted.keys()
    defaults = {name: each.default for name, each in wanted.items() if each.default is not each.empty}
    assert defaults.items() <= seen.items()


def test_a_prepared_method_serves_no_other_request(tmp_path: Path) -> None:
    method = ReferenceKL(toy_source(), reference_epochs=1)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(method, toy_data([0, 1, 2]))
    trainer.save_checkpoint(tmp_path / "resume.ckpt")
    with pytest.raises(ValueError, match="another forget set"):
        quiet_trainer().fit(method, toy_data([3, 4, 5]))
    with pytest.raises(ValueError, match="another forget set"):
        quiet_trainer().fit(
            ReferenceKL(toy_source(), reference_epochs=1),
            toy_data([3, 4, 5]),
            ckpt_path=tmp_path / "resume.ckpt",
        )
    quiet_trainer(max_epochs=2).fit(method, toy_data([0, 1, 2]))


def test_running_statistics_of_forgotten_samples_are_not_exported() -> None:
    data = toy_data([0, 1, 2, 3])
    data.inner.inputs[:4] = 1e4  # type: ignore[union-attr]
    method = ReferenceKL(toy_source(), reference_epochs=1)
    quiet_trainer(max_epochs=3, limit_val_batches=0).fit(method, data)
    assert method.model.net[1].running_var.max() < 100
    assert method.model.net[1].momentum == 0.1


def test_layers_that_were_frozen_stay_frozen() -> None:
    source = toy_source()
    source.net[0].requires_grad_(False)
    for method in (Finetune(source), Retrain(source)):
        fitted(method)
        assert torch.equal(method.model.net[0].weight, source.net[0].weight)
        assert not torch.equal(method.model.net[4].weight, source.net[4].weight)


def test_a_compiled_source_is_exported_under_its_own_names(tmp_path: Path) -> None:
    source = PlainModule()
    method = Finetune(torch.compile(source))
    content = torch.load(write_export(method.model, tmp_path / "m.ckpt"), weights_only=True)
    assert content["state_dict"].keys() == source.state_dict().keys()
    PlainModule.load_from_checkpoint(tmp_path / "m.ckpt")


def test_constructor_arguments_that_are_objects_are_left_out_of_an_export(tmp_path: Path) -> None:
    class Holds(PlainModule):
        def __init__(self, extra: nn.Module, width: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters()

    content = torch.load(write_export(Holds(nn.Linear(2, 2)), tmp_path / "m.ckpt"), weights_only=True)
    assert "extra" not in content["hyper_parameters"]
    assert content["hyper_parameters"]["width"] == 3


def test_a_callback_may_watch_the_loss_of_short_epochs() -> None:
    from lightning.pytorch.callbacks import EarlyStopping

    trainer = quiet_trainer(
        max_epochs=3, callbacks=[EarlyStopping("train/loss", check_on_train_epoch_end=True)]
    )
    trainer.fit(ReferenceKL(toy_source(), reference_epochs=1), toy_data())


def test_predictions_need_no_targets() -> None:
    method = Finetune(toy_source())
    (posteriors,) = quiet_trainer().predict(method, DataLoader(torch.zeros(5, FEATURES), batch_size=5))
    assert posteriors.shape == (5, CLASSES)
    torch.testing.assert_close(posteriors.sum(1), torch.ones(5))


def test_posteriors_are_noticed_in_half_precision_too() -> None:
    with pytest.raises(ValueError, match="gives probabilities"):
        fitted(Finetune(Posteriors()), precision="bf16-true")


def test_a_checkpoint_counts_the_time_of_the_running_segment(tmp_path: Path) -> None:
    class Save(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "mid.ckpt")

    method = Finetune(toy_source())
    fitted(method, callbacks=[Save()], limit_val_batches=0)
    saved = torch.load(tmp_path / "mid.ckpt", weights_only=True)["lightning_unlearn"]["unlearn_s"]
    assert 0.5 * method.times["time/unlearn_s"] < saved <= method.times["time/unlearn_s"]


def test_an_export_that_still_holds_the_source_is_announced(tmp_path: Path) -> None:
    class Averaged(PlainModule):
        """Keeps a moving average of its weights beside them."""

        def __init__(self) -> None:
            super().__init__()
            self.average = copy.deepcopy(self.net).requires_grad_(False)
            self.backbone = Net().requires_grad_(False)
            self.register_buffer("class_weights", torch.rand(3))

    for kind in (Finetune, CFk):
        method = kind(Averaged())
        fitted(method)
        with pytest.warns(UserWarning, match=r"the source's, bit for bit: average\.0\.weight"):
            method.export(tmp_path / "m.ckpt")
    for kind in (Finetune, CFk):
        clean = kind(PlainModule())
        fitted(clean)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            clean.export(tmp_path / "m.ckpt")


class Slow(ReferenceKL):
    """Takes its time where it is only looked at."""

    seconds = 0.05

    def validation_step(self, *arguments: Any, **more: Any) -> None:
        time.sleep(self.seconds)
        super().validation_step(*arguments, **more)


class Epochs(L.Callback):
    """Notes which epochs are validated, by a hook that nobody else's callback has to have."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch + 1 not in self.seen:
            self.seen.append(trainer.current_epoch + 1)


class Waits(L.Callback):
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pass


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [1, 4, 6]),
        ({"max_epochs": -1, "max_steps": 10}, [1, 4, 5]),
        ({"check_val_every_n_epoch": 2}, [2, 4, 6]),
        ({"limit_val_batches": 1}, [1, 2, 3, 4, 5, 6]),
        ({"callbacks": [Waits()]}, [1, 2, 3, 4, 5, 6]),
        ({"callbacks": [EarlyStopping("accuracy/test", patience=9)]}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_few_epochs_are_validated_unless_somebody_says_or_waits(
    arguments: dict[str, Any], expected: list[int]
) -> None:
    epochs = Epochs()
    given = {"max_epochs": 6, "limit_train_batches": 2, "limit_val_batches": 1.0, **arguments}
    trainer = quiet_trainer(**{**given, "callbacks": [*arguments.get("callbacks", []), epochs]})
    trainer.fit(Finetune(toy_source()), toy_data())
    assert epochs.seen == expected
    assert trainer.limit_val_batches == given["limit_val_batches"]


class Ends(L.Callback):
    """Stops or fails after the third epoch, when its validation was left out."""

    def __init__(self, failure: type[BaseException] | None) -> None:
        self.failure = failure

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 2:
            trainer.should_stop = True
            if self.failure:
                raise self.failure


@pytest.mark.parametrize("bar", [None, TQDMProgressBar, RichProgressBar])
def test_a_fit_that_is_stopped_ends_with_the_metrics_of_its_model(bar: type[L.Callback] | None) -> None:
    callbacks = [Ends(None)] if bar is None else [Ends(None), bar()]
    trainer = quiet_trainer(max_epochs=9, callbacks=callbacks, enable_progress_bar=bar is not None)
    method = Finetune(toy_source(), optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
    trainer.fit(method, toy_data())
    assert trainer.current_epoch == 3
    assert trainer.callbacks == callbacks
    ended = {name: trainer.callback_metrics[name] for name in ("accuracy/forget", "accuracy/test")}
    quiet = quiet_trainer()
    quiet.validate(method, toy_data(), verbose=False)
    assert ended == {name: quiet.callback_metrics[name] for name in ended}


class Moves(L.Callback):
    """Changes the model after its last validation."""

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        with torch.no_grad():
            for parameter in pl_module.model.parameters():
                parameter.mul_(-1)


class Blinds(Moves):
    """Has nothing validated any more after the first epoch."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch:
            trainer.limit_val_batches = 0


class Counts(L.Callback):
    """Counts validations."""

    waits = False
    looks = 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.looks += 1


def accuracies(trainer: L.Trainer) -> dict[str, float]:
    return {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("accuracy/")}


def ema_weights(**arguments: Any) -> WeightAveraging:
    return WeightAveraging(avg_fn=lambda average, new, count: average * 0.7 + new * 0.3, **arguments)


@pytest.mark.parametrize(
    ("callback", "arguments", "looks"),
    [
        (None, {}, 2),
        (None, {"check_val_every_n_epoch": 2}, 2),
        (Moves, {}, 3),
        (partial(StochasticWeightAveraging, swa_lrs=0.3, swa_epoch_start=1), {"max_epochs": 4}, 3),
        (ema_weights, {}, 3),
        (partial(ema_weights, use_buffers=True), {}, 3),
    ],
    ids=["plain", "between validations", "moved", "swa", "ema", "ema of buffers"],
)
@pytest.mark.parametrize("normalised", [True, False])
def test_the_accuracies_in_the_end_are_those_of_the_model(
    callback: Any, arguments: dict[str, Any], looks: int, normalised: bool, tmp_path: Path
) -> None:
    counts = Counts()
    callbacks = [counts, *([] if callback is None else [callback()])]
    trainer = quiet_trainer(**{"max_epochs": 3, "callbacks": callbacks, **arguments})
    source = toy_source() if normalised else nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    method = Finetune(source, optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
    L.seed_everything(0, verbose=False)
    trainer.fit(method, toy_data(ledger=tmp_path / "ledger.jsonl", nonmember=12, nonmember_from="train"))
    ended = accuracies(trainer)
    assert counts.looks <= looks
    assert trainer.callbacks == callbacks
    (line,) = (tmp_path / "ledger.jsonl").read_text().splitlines()
    written = json.loads(line)["metrics"]
    assert {name: written[name]["value"] for name in ended} == pytest.approx(ended)
    quiet = quiet_trainer()
    quiet.validate(method, toy_data(nonmember=12, nonmember_from="train"), verbose=False)
    assert ended == accuracies(quiet)


def test_accuracies_that_are_no_longer_those_of_the_model_are_taken_away() -> None:
    trainer = quiet_trainer(max_epochs=3, callbacks=[Blinds()], limit_val_batches=0.9)
    trainer.fit(Finetune(toy_source()), toy_data(nonmember=12, nonmember_from="train"))
    assert not accuracies(trainer)
    assert "gap/forget" not in trainer.callback_metrics
    assert "time/total_s" in trainer.callback_metrics


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_fit_that_fails_leaves_the_trainer_as_it_was(failure: type[BaseException]) -> None:
    trainer = quiet_trainer(max_epochs=9, callbacks=[Ends(failure)])
    with pytest.raises((failure, SystemExit)):
        trainer.fit(Finetune(toy_source()), toy_data())
    assert trainer.limit_val_batches == 1.0
    assert [type(callback) for callback in trainer.callbacks] == [Ends]


def test_validating_is_none_of_the_methods_time() -> None:
    method = Slow(toy_source(), reference_epochs=1)
    quiet_trainer(max_epochs=3).fit(method, toy_data())
    looks = 3 * (2 + 6 + 2)  # batches of 12, 48 and at least 15 samples, eight at a time
    assert 0 < method.times["time/unlearn_s"] < looks * Slow.seconds / 2
