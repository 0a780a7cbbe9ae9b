"""A table classifier as its owner wrote it: batches are dicts, and the forward takes columns by their names."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Customers(Dataset):
    def __init__(self, rows, seed):
        generator = torch.Generator().manual_seed(seed)
        self.region = torch.randint(5, (rows,), generator=generator)
        self.numbers = torch.randn(rows, 6, generator=generator)
        score = self.numbers[:, 0] + self.numbers[:, 1] * (self.region - 2)
        self.risk = torch.bucketize(score, torch.tensor([-1.0, 1.0]))

    def __len__(self):
        return len(self.risk)

    def __getitem__(self, row):
        return {"numbers": self.numbers[row], "region": self.region[row], "risk": self.risk[row]}


class CustomerData(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Customers(400, seed=0), batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Customers(100, seed=1), batch_size=100)

    def test_dataloader(self):
        return DataLoader(Customers(200, seed=2), batch_size=100)


class RiskModel(L.LightningModule):
    def __init__(self, regions=5, hidden=32):
        super().__init__()
        self.save_hyperparameters()
        self.region_embedding = nn.Embedding(regions, 4)
        self.body = nn.Sequential(nn.Linear(10, hidden), nn.GELU(), nn.LayerNorm(hidden))
        self.head = nn.Linear(hidden, 3)

    def forward(self, numbers, region):
        features = self.body(torch.cat([numbers, self.region_embedding(region)], dim=1))
        return {"features": features, "risk_logits": self.head(features)}

    def _loss(self, batch):
        target = batch.pop("risk")
        return nn.functional.cross_entropy(self(**batch)["risk_logits"], target)

    def training_step(self, batch, batch_idx):
        return self._loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)
