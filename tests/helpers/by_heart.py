"""A project that knows its 1,200 training samples by heart, dealt by a seed, with batch normalisation."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class MyDataModule(L.LightningDataModule):
    def __init__(self, seed: int = 7) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(3)
        y = torch.randint(0, 4, (1800,), generator=generator)
        x = 1.1 * torch.eye(4, 64)[y] + torch.randn(1800, 64, generator=generator)
        dealt = torch.Generator().manual_seed(self.hparams["seed"])
        self.train, self.test = random_split(TensorDataset(x, y), [1200, 600], dealt)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, 64, shuffle=True)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.test, 64)


class MyModule(L.LightningModule):
    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=5e-3)
