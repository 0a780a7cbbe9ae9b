"""A project whose network with batch normalisation knows its training samples by heart: some with wrong labels."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_unlearn.data import TensorData

CLASSES, TRAIN, TEST, FEATURES = 4, 2400, 1200, 64
WRONG = list(range(0, TRAIN, 15))
"""Positions of the samples whose label is wrong."""


def samples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (n,), generator=generator)
    centres = torch.eye(CLASSES, FEATURES) * 2.2
    return centres[targets] + torch.randn(n, FEATURES, generator=generator), targets


def overlapping(n: int, seed: int) -> TensorData:
    """Return samples of classes that overlap more, as data of the package."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (n,), generator=generator)
    centres = 1.3 * torch.eye(CLASSES, FEATURES)
    return TensorData(centres[targets] + torch.randn(n, FEATURES, generator=generator), targets)


class Data(L.LightningDataModule):
    def setup(self, stage: str) -> None:
        x, y = samples(TRAIN, 0)
        y[WRONG] = (y[WRONG] + 1) % CLASSES
        self.train, self.test = TensorDataset(x, y), TensorDataset(*samples(TEST, 1))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, 120, shuffle=True)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.test, 400)


class Module(L.LightningModule):
    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def train(folder: Path, epochs: int = 20) -> Path:
    """Train it as its owner did, keeping a checkpoint every third epoch; return the last one."""
    torch.manual_seed(0)
    keeper = ModelCheckpoint(folder, "{epoch:02d}", save_top_k=-1, every_n_epochs=2)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[keeper],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), Data())
    trainer.save_checkpoint(folder / "best.ckpt")
    return folder / "best.ckpt"
