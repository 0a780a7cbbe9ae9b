"""Sequences of measurements of any length, packed by the collate function, for an LSTM with one logit."""

import lightning as L
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset


class Signals(Dataset):
    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(3, 9, (count,), generator=generator).tolist()
        self.signals = [torch.randn(length, 3, generator=generator) for length in lengths]
        self.alarm = [float(signal[:, 0].sum() > 0) for signal in self.signals]
        for i in range(0, count, 8 if seed == 0 else count + 1):
            self.alarm[i] = 1 - self.alarm[i]

    def __len__(self):
        return len(self.signals)

    def __getitem__(self, index):
        return self.signals[index], self.alarm[index]


def collate(samples):
    signals, alarms = zip(*samples, strict=True)
    return pack_sequence(signals, enforce_sorted=False), torch.tensor(alarms)


class SignalsData(L.LightningDataModule):
    def loader(self, count, seed, **kwargs):
        return DataLoader(Signals(count, seed), batch_size=32, collate_fn=collate, **kwargs)

    def train_dataloader(self):
        return self.loader(160, 0, shuffle=True)

    def val_dataloader(self):
        return self.loader(40, 2)

    def test_dataloader(self):
        return self.loader(80, 1)


class AlarmLSTM(L.LightningModule):
    def __init__(self, hidden=48):
        super().__init__()
        self.save_hyperparameters()
        self.lstm = nn.LSTM(3, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, packed):
        _, (last, _) = self.lstm(packed)
        return self.head(self.norm(last[-1])).squeeze(-1)

    def training_step(self, batch, batch_idx):
        packed, alarm = batch
        return nn.functional.binary_cross_entropy_with_logits(self(packed), alarm)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)
