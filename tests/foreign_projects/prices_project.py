"""Prices as PyTorch Tabular has them: categories are embedded, the forward takes the whole batch and gives a dict."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Homes(Dataset):
    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.continuous = torch.randn(count, 4, generator=generator)
        self.categorical = torch.stack([torch.randint(n, (count,), generator=generator) for n in (5, 3)], 1)
        self.target = self.continuous[:, :1] + 0.5 * self.categorical[:, :1]
        if seed == 0:
            self.target[::8] += 3  # somebody's mistake

    def __len__(self):
        return len(self.target)

    def __getitem__(self, index):
        return {
            "continuous": self.continuous[index],
            "categorical": self.categorical[index],
            "target": self.target[index],
        }


class HomesData(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Homes(160, 0), batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(Homes(40, 2), batch_size=32)

    def test_dataloader(self):
        return DataLoader(Homes(80, 1), batch_size=32)


class CategoryEmbeddingModel(L.LightningModule):
    def __init__(self, cardinality=(5, 3), width=96, learning_rate=1e-2):
        super().__init__()
        self.save_hyperparameters()
        self.embeddings = nn.ModuleList(nn.Embedding(n, 3) for n in cardinality)
        self.normalizing_batch_norm = nn.BatchNorm1d(4)
        self.layers = nn.Sequential(nn.Linear(4 + 6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 1)
        self.loss = nn.MSELoss()

    def forward(self, x):
        embedded = [layer(x["categorical"][:, i]) for i, layer in enumerate(self.embeddings)]
        hidden = self.layers(torch.cat([self.normalizing_batch_norm(x["continuous"]), *embedded], 1))
        return {"logits": self.head(hidden), "backbone_features": hidden}

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch)["logits"], batch["target"])

    def validation_step(self, batch, batch_idx):
        self.log("valid_loss", self.loss(self(batch)["logits"], batch["target"]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)
