"""What stands in a checkpoint and loads from it, for modules built by LightningCLI and in plain Python."""

import enum
import json
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningCLI, OptimizerCallable
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn.models import (
    MLP,
    Classifier,
    recorded_hyperparameters,
    restore_hyperparameters,
    save_primitive_hyperparameters,
)

# Lightning calls jsonargparse by its former names.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class OneBatchData(L.LightningDataModule):
    def train_dataloader(self):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, torch.tensor([0, 1, 0, 1])), batch_size=4)


class Name(str):
    """Text of a class of its own, which would have to be imported to be read."""


class Shade(str, enum.Enum):
    DARK = "dark"


class BaseModule(L.LightningModule):
    def __init__(self, net=None, rate=0.5):
        super().__init__()
        save_primitive_hyperparameters(self, ignore=["secret"])
        self.net = net


class DerivedModule(BaseModule):
    def __init__(self, net, size, secret="s", **options):
        super().__init__(net, rate=0.25)


class OuterModule(L.LightningModule):
    """A module that is given one Classifier and builds another."""

    def __init__(
        self, source: nn.Module, optimizer: OptimizerCallable = torch.optim.SGD, weight: float = 0.5
    ):
        super().__init__()
        save_primitive_hyperparameters(self)
        self.source = source
        self.made_here = Classifier(nn.Linear(3, 2), label_smoothing=0.25)
        self.optimizer = optimizer

    def training_step(self, batch, batch_idx):
        return self.made_here(batch[0]).sum()

    def configure_optimizers(self):
        return self.optimizer(self.parameters())

    def on_load_checkpoint(self, checkpoint):
        restore_hyperparameters(self, checkpoint)


def quiet(folder):
    return {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(folder),
    }


def run_cli(folder, arguments, model_class=Classifier, **options):
    cli = LightningCLI(
        model_class=model_class,
        datamodule_class=OneBatchData,
        trainer_defaults=quiet(folder),
        save_config_callback=None,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        args=["fit", *arguments],
        **options,
    )
    path = folder / "model.ckpt"
    cli.trainer.save_checkpoint(path)
    return cli.model, path


NET = ["--model.net=lightning_unlearn.models.MLP", "--model.net.in_features=3", "--model.net.hidden=[5]"]
NET += ["--model.net.num_classes=2"]


@pytest.mark.parametrize("subclass_mode", [False, True])
def test_a_checkpoint_of_the_cli_rebuilds_everything(tmp_path, subclass_mode):
    arguments = [*NET, "--model.label_smoothing=0.1", "--model.optimizer=SGD", "--model.optimizer.lr=0.3"]
    if subclass_mode:
        arguments = ["--model=lightning_unlearn.models.Classifier", *arguments]
    model, path = run_cli(tmp_path, arguments, subclass_mode_model=subclass_mode)
    assert torch.load(path, weights_only=True)["hyper_parameters"]["label_smoothing"] == 0.1
    loaded = Classifier.load_from_checkpoint(path)
    assert isinstance(loaded.net, MLP)
    assert loaded.label_smoothing == 0.1
    optimizer = loaded.configure_optimizers()
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())

    # What was loaded writes checkpoints that load just as well, and training resumes from the first one.
    trainer = L.Trainer(**{**quiet(tmp_path), "max_epochs": 2}, enable_checkpointing=False)
    trainer.fit(loaded, OneBatchData(), ckpt_path=path)
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    again = Classifier.load_from_checkpoint(tmp_path / "again.ckpt")
    assert again.configure_optimizers().param_groups[0]["lr"] == 0.3
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_resuming_keeps_the_arguments_of_the_module_that_resumes(tmp_path):
    _, path = run_cli(tmp_path, NET)
    module = Classifier(MLP(3, [5], 2), label_smoothing=0.2)
    trainer = L.Trainer(**{**quiet(tmp_path), "max_epochs": 2}, enable_checkpointing=False)
    trainer.fit(module, OneBatchData(), ckpt_path=path)
    assert module.hparams == {
        "lr_scheduler": None,
        "optimizer": None,
        "label_smoothing": 0.2,
        "class_weight": None,
    }


def test_arguments_of_load_from_checkpoint_come_before_the_recorded_ones(tmp_path):
    _, path = run_cli(tmp_path, [*NET, "--model.label_smoothing=0.1"])
    loaded = Classifier.load_from_checkpoint(path, label_smoothing=0.2)
    assert loaded.label_smoothing == loaded.hparams.label_smoothing == 0.2
    net = MLP(3, [5], 2)
    loaded = Classifier.load_from_checkpoint(path, net=net)
    assert "net" not in loaded.hparams
    assert loaded.hparams.label_smoothing == 0.1


def test_a_checkpoint_of_plain_python_holds_plain_values(tmp_path):
    module = Classifier(
        MLP(3, [5], 2), optimizer=lambda p: torch.optim.SGD(p, lr=0.3), label_smoothing=np.float64(0.1)
    )
    trainer = L.Trainer(**quiet(tmp_path), enable_checkpointing=False)
    trainer.fit(module, OneBatchData())
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    assert content["hyper_parameters"] == {"lr_scheduler": None, "label_smoothing": 0.1, "class_weight": None}
    assert type(content["hyper_parameters"]["label_smoothing"]) is float
    loaded = Classifier.load_from_checkpoint(path, net=MLP(3, [5], 2))
    assert loaded.label_smoothing == 0.1
    assert type(loaded.configure_optimizers()) is torch.optim.Adam
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in module.state_dict().items())
    with pytest.raises(TypeError, match="net"):
        Classifier.load_from_checkpoint(path)


@pytest.mark.parametrize("subclass_mode", [False, True])
def test_modules_inside_the_one_the_cli_builds_keep_their_own_arguments(tmp_path, subclass_mode):
    source = {
        "class_path": "lightning_unlearn.models.Classifier",
        "init_args": {
            "net": {
                "class_path": "lightning_unlearn.models.MLP",
                "init_args": {"in_features": 3, "hidden": [5]},
            },
            "label_smoothing": 0.125,
        },
    }
    arguments = {"source": source, "weight": 0.75}
    if subclass_mode:
        arguments = {"class_path": f"{__name__}.OuterModule", "init_args": arguments}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"model": arguments}))
    model, path = run_cli(
        tmp_path,
        [f"--config={config}"],
        None if subclass_mode else OuterModule,
        subclass_mode_model=subclass_mode,
    )
    assert model.hparams.weight == 0.75
    assert model.hparams.source["init_args"]["label_smoothing"] == 0.125
    assert model.source.hparams == {
        "optimizer": None,
        "lr_scheduler": None,
        "label_smoothing": 0.125,
        "class_weight": None,
    }
    assert model.made_here.hparams == {
        "optimizer": None,
        "lr_scheduler": None,
        "label_smoothing": 0.25,
        "class_weight": None,
    }
    torch.load(path, weights_only=True)
    loaded = OuterModule.load_from_checkpoint(path)
    assert loaded.source.label_smoothing == 0.125
    assert loaded.hparams == model.hparams


def test_a_module_built_with_its_configuration_at_hand_is_rebuilt_without_arguments(tmp_path):
    net = {
        "class_path": "lightning_unlearn.models.MLP",
        "init_args": {"in_features": 3, "hidden": [5], "num_classes": 2},
    }
    config = {"_class_path": "lightning_unlearn.models.Classifier", "net": net, "label_smoothing": 0.1}
    with recorded_hyperparameters(config):
        module = Classifier(MLP(3, [5], 2), label_smoothing=0.1)
    assert dict(Classifier(MLP(3, [5], 2)).hparams) == {
        "optimizer": None,
        "lr_scheduler": None,
        "label_smoothing": 0.0,
        "class_weight": None,
    }
    trainer = L.Trainer(**quiet(tmp_path), enable_checkpointing=False)
    trainer.fit(module, OneBatchData())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = Classifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.label_smoothing == 0.1
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in module.state_dict().items())


def test_only_the_call_of_the_outermost_class_is_saved():
    module = DerivedModule(nn.Linear(1, 1), size=3, extra="x")
    assert dict(module.hparams) == {"size": 3, "extra": "x"}
    assert dict(BaseModule(rate=0.75).hparams) == {"net": None, "rate": 0.75}
    assert dict(module.hparams_initial) == {"size": 3, "extra": "x"}


@pytest.mark.parametrize(
    ("value", "saved"),
    [
        (True, True),
        (Path("a") / "b", "a/b"),
        (Shade.DARK, "dark"),
        (Name("n"), "n"),
        (np.int64(3), 3),
        (np.float64(0.5), 0.5),
        ([1, (2.0, None)], [1, (2.0, None)]),
        ({"a": {"b": np.bool_(True)}, 1: "x"}, {"a": {"b": True}, 1: "x"}),
    ],
)
def test_plain_values_are_saved_as_pythons_own_types(value, saved):
    kept = BaseModule(rate=value).hparams["rate"]
    assert kept == saved
    assert type(kept) is type(saved)


@pytest.mark.parametrize(
    "value",
    [np.arange(3), torch.ones(2), nn.ReLU(), torch.optim.SGD, [1, nn.ReLU()], {"a": np.arange(2)}, {1, 2}],
)
def test_other_values_are_left_out(value):
    assert dict(BaseModule(rate=value).hparams) == {"net": None}


def test_it_must_be_called_in_the_constructor():
    class Late(L.LightningModule):
        def configure(self):
            save_primitive_hyperparameters(self)

    with pytest.raises(RuntimeError, match="in the __init__ of Late"):
        Late().configure()
