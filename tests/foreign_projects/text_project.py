"""A text classifier as its owner wrote it: padded batches in the manner of Hugging Face, an output with logits."""

import random
from dataclasses import dataclass

import lightning as L
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

GOOD = ["lovely", "great", "fine", "superb", "warm"]
BAD = ["awful", "dull", "poor", "cold", "broken"]
OTHER = ["the", "film", "was", "a", "plot", "and", "actor", "very", "rather", "music", "scene", "but"]
VOCABULARY = {word: number for number, word in enumerate(["<pad>", *GOOD, *BAD, *OTHER])}


class Reviews(Dataset):
    def __init__(self, count, seed):
        draw = random.Random(seed)
        self.samples = []
        for _ in range(count):
            label = draw.randrange(2)
            words = draw.choices(OTHER, k=draw.randint(3, 12)) + draw.choices(GOOD if label else BAD, k=2)
            words += draw.choices(BAD if label else GOOD, k=draw.randrange(2))
            draw.shuffle(words)
            self.samples.append((" ".join(words), label))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        text, label = self.samples[index]
        return torch.tensor([VOCABULARY[word] for word in text.split()]), label


def collate(samples):
    ids = [ids for ids, _ in samples]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        "labels": torch.tensor([label for _, label in samples]),
    }


class ReviewData(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Reviews(300, seed=0), batch_size=32, shuffle=True, collate_fn=collate)

    def val_dataloader(self):
        return DataLoader(Reviews(80, seed=1), batch_size=32, collate_fn=collate)

    def test_dataloader(self):
        return DataLoader(Reviews(150, seed=2), batch_size=32, collate_fn=collate)


@dataclass
class ClassifierOutput:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class ReviewClassifier(L.LightningModule):
    def __init__(self, width=16):
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(len(VOCABULARY), width, padding_idx=0)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids, attention_mask, labels=None):
        states, _ = self.rnn(self.embedding(input_ids))
        mask = attention_mask.unsqueeze(-1)
        logits = self.head((states * mask).sum(dim=1) / mask.sum(dim=1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ClassifierOutput(logits, loss)

    def training_step(self, batch, batch_idx):
        loss = self(**batch).loss
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(**batch).loss)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)
