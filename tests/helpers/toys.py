"""Toy data, networks and trainers that tests share; small enough to train in milliseconds."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn.data import TensorData, UnlearningDataModule
from lightning_unlearn.models import Classifier

CLASSES = 3
FEATURES = 6
TRAIN, TEST = 60, 31


def blobs(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three overlapping Gaussian classes."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % CLASSES
    centres = torch.eye(CLASSES, FEATURES) * 2
    return centres[targets] + torch.randn(n, FEATURES, generator=generator), targets


def train_set() -> TensorData:
    return TensorData(*blobs(TRAIN, 0))


def test_set() -> TensorData:
    return TensorData(*blobs(TEST, 1))


test_set.__test__ = False  # type: ignore[attr-defined]


def toy_data(forget: Any = 0.2, **arguments: Any) -> UnlearningDataModule:
    arguments = {"test_dataset": test_set(), "batch_size": 8, **arguments}
    return UnlearningDataModule(train_set(), forget, **arguments)


class Net(nn.Sequential):
    """Batch normalisation and dropout, so that modes, buffers and random states matter."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__(
            nn.Linear(FEATURES, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, CLASSES),
        )


def toy_source(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classifier(Net())


class PlainModule(L.LightningModule):
    """A user's module that knows nothing of unlearning and saves its hyper-parameters as Lightning teaches."""

    def __init__(self, hidden: int = 8, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = Net(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("loss", loss)
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)


class PlainData(L.LightningDataModule):
    """A user's datamodule with ordinary loaders."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*blobs(TRAIN, 0)), batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*blobs(TEST, 2)), batch_size=8)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*blobs(TEST, 1)), batch_size=8)


def quiet_trainer(**arguments: Any) -> L.Trainer:
    return L.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **arguments,
        }
    )


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, f"these tensors differ: {different}"
