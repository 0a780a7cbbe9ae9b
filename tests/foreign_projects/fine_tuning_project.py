"""Cats and dogs as Lightning's example of fine-tuning has them: one logit, a frozen backbone with batch normalisation."""

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks.finetuning import BaseFinetuning
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy


class MilestonesFinetuning(BaseFinetuning):
    def __init__(self, milestone=2, train_bn=False):
        super().__init__()
        self.milestone = milestone
        self.train_bn = train_bn

    def freeze_before_training(self, pl_module):
        self.freeze(modules=pl_module.feature_extractor, train_bn=self.train_bn)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == self.milestone:
            self.unfreeze_and_add_param_group(
                modules=pl_module.feature_extractor[-4:], optimizer=optimizer, train_bn=self.train_bn
            )


class CatDogImages(L.LightningDataModule):
    def images(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        targets = torch.randint(2, (count,), generator=generator)
        images = torch.randn(count, 3, 8, 8, generator=generator) + (targets * 2 - 1).view(-1, 1, 1, 1) * 0.3
        if seed == 0:
            targets[::8] = 1 - targets[::8]  # whoever labelled these was tired
        return TensorDataset(images, targets)

    def train_dataloader(self):
        return DataLoader(self.images(160, 0), batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.images(40, 2), batch_size=32)

    def test_dataloader(self):
        return DataLoader(self.images(120, 1), batch_size=32)


class TransferLearningModel(L.LightningModule):
    def __init__(self, width=16, lr=1e-2):
        super().__init__()
        self.save_hyperparameters()
        self.feature_extractor = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * 16, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
        )
        self.fc = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        self.loss_func = F.binary_cross_entropy_with_logits
        self.train_acc = Accuracy(task="binary")
        self.valid_acc = Accuracy(task="binary")

    def forward(self, x):
        return self.fc(self.feature_extractor(x).squeeze(-1))

    def loss(self, logits, labels):
        return self.loss_func(input=logits, target=labels)

    def training_step(self, batch, batch_idx):
        x, y = batch
        y_logits = self.forward(x)
        y_scores = torch.sigmoid(y_logits)
        y_true = y.view((-1, 1)).type_as(x)
        train_loss = self.loss(y_logits, y_true)
        self.log("train_acc", self.train_acc(y_scores, y_true.int()), prog_bar=True)
        return train_loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", self.valid_acc(torch.sigmoid(self.forward(x)), y.view((-1, 1)).int()))

    def configure_optimizers(self):
        parameters = filter(lambda p: p.requires_grad, self.parameters())
        optimizer = optim.Adam(parameters, lr=self.hparams.lr)
        return [optimizer], [optim.lr_scheduler.MultiStepLR(optimizer, milestones=[40], gamma=0.1)]
