"""An image project laid out as the Lightning-Hydra template is: network and optimizer come in from outside."""

from functools import partial

import lightning as L
import torch
from image_project import DigitsData
from torch import nn
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import Accuracy

__all__ = ["DenseNet", "DigitsData", "DigitsModule", "evaluate", "instantiate"]


class DenseNet(nn.Module):
    def __init__(self, width: int = 32):
        super().__init__()
        self.model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10)
        )

    def forward(self, x):
        return self.model(x)


class DigitsModule(L.LightningModule):
    def __init__(self, net, optimizer, scheduler, compile):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.net = net
        self.criterion = nn.CrossEntropyLoss()
        self.train_acc = Accuracy(task="multiclass", num_classes=10)
        self.test_acc = Accuracy(task="multiclass", num_classes=10)
        self.train_loss = MeanMetric()
        self.best = MaxMetric()

    def forward(self, x):
        return self.net(x)

    def setup(self, stage):
        if self.hparams.compile and stage == "fit":
            self.net = torch.compile(self.net, backend="eager")

    def model_step(self, batch):
        x, y = batch
        logits = self.forward(x)
        return self.criterion(logits, y), logits.argmax(dim=1), y

    def training_step(self, batch, batch_idx):
        loss, guesses, targets = self.model_step(batch)
        self.train_acc(guesses, targets)
        self.train_loss(loss)
        return loss

    def test_step(self, batch, batch_idx):
        _, guesses, targets = self.model_step(batch)
        self.test_acc(guesses, targets)
        self.log("test/acc", self.test_acc, on_step=False, on_epoch=True)

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def validation_step(self, batch, batch_idx):
        self.test_step(batch, batch_idx)

    def configure_optimizers(self):
        optimizer = self.hparams.optimizer(params=self.trainer.model.parameters())
        return {"optimizer": optimizer, "lr_scheduler": self.hparams.scheduler(optimizer=optimizer)}


def instantiate(compile=False):
    return DigitsModule(
        net=DenseNet(),
        optimizer=partial(torch.optim.Adam, lr=0.01),
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=5),
        compile=compile,
    )


class Configured(DigitsModule):
    """As :func:`instantiate` makes it, for a command line that names a class."""

    def __init__(self):
        super().__init__(**dict(instantiate().hparams))


def evaluate(trainer, path, compile=False):
    """The project's own ``eval``: a new module, and the checkpoint's path for the Trainer."""
    return trainer.test(model=instantiate(compile), datamodule=DigitsData(), ckpt_path=path, verbose=False)
