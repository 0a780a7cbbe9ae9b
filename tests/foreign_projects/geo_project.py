"""Satellite images as torchgeo's trainers have them: dict batches, one class for each kind of task, weights=None."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MultilabelAccuracy

SIDE = 8


class Tiles(Dataset):
    """Samples are dicts with an image and a label or a mask; some of the training set's are wrong."""

    def __init__(self, task, count, seed):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, 4, SIDE, SIDE, generator=generator)
        self.images = noise + torch.randn(count, 4, 1, 1, generator=generator)
        wrong = torch.zeros(count, dtype=torch.long)
        wrong[:: 8 if seed == 0 else count + 1] = 1
        means = self.images.mean(dim=(2, 3))
        if task == "binary":
            self.labels = (means[:, 0] > 0).long() ^ wrong
        elif task == "multiclass":
            self.labels = (means[:, :3].argmax(1) + wrong) % 3
        elif task == "multilabel":
            self.labels = (means > 0).long() ^ wrong[:, None]
        else:
            quadrants = self.images[:, :1].unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(4, 5)).squeeze(1)
            masks = (torch.bucketize(quadrants, torch.tensor([-0.4, 0.4])) + wrong[:, None, None]) % 3
            self.labels = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
            self.labels[:, :2] = 0  # clouds, which do not count
            self.labels[:, 2:] += 1
        self.key = "mask" if task == "segmentation" else "label"

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], self.key: self.labels[index]}


class TilesData(L.LightningDataModule):
    def __init__(self, task, batch_size=32):
        super().__init__()
        self.task = task
        self.batch_size = batch_size

    def setup(self, stage):
        self.train, self.val, self.test = (
            Tiles(self.task, n, seed) for n, seed in ((160, 0), (40, 2), (80, 1))
        )

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.val, self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.test, self.batch_size)


class BaseTask(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters()
        self.configure_models()
        self.configure_losses()
        self.configure_metrics()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=self.hparams["patience"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


class ClassificationTask(BaseTask):
    def __init__(self, in_channels=4, task="multiclass", num_classes=3, width=16, lr=1e-2, patience=10):
        super().__init__()

    def configure_models(self):
        outputs = 1 if self.hparams["task"] == "binary" else self.hparams["num_classes"]
        width = self.hparams["width"]
        self.model = nn.Sequential(
            nn.Conv2d(self.hparams["in_channels"], width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * width, 64),
            nn.ReLU(),
            nn.Linear(64, outputs),
        )

    def configure_losses(self):
        cross = self.hparams["task"] == "multiclass"
        self.criterion = nn.CrossEntropyLoss() if cross else nn.BCEWithLogitsLoss()

    def configure_metrics(self):
        accuracy = {
            "binary": BinaryAccuracy,
            "multiclass": lambda: MulticlassAccuracy(self.hparams["num_classes"]),
            "multilabel": lambda: MultilabelAccuracy(self.hparams["num_classes"]),
        }[self.hparams["task"]]
        self.train_metrics = MetricCollection({"OverallAccuracy": accuracy()}, prefix="train_")
        self.val_metrics = self.train_metrics.clone(prefix="val_")

    def _step(self, batch, stage):
        x, y = batch["image"], batch["label"]
        batch_size = x.shape[0]
        if self.hparams["task"] == "binary":
            y_hat = self(x).squeeze(1)
            loss = self.criterion(y_hat, y.float())
        elif self.hparams["task"] == "multilabel":
            y_hat = self(x)
            loss = self.criterion(y_hat, y.float())
        else:
            y_hat = self(x)
            loss = self.criterion(y_hat, y)
        self.log(f"{stage}_loss", loss, batch_size=batch_size)
        metrics = self.train_metrics if stage == "train" else self.val_metrics
        metrics(y_hat, y)
        self.log_dict(metrics, batch_size=batch_size)
        return loss

    def training_step(self, batch, batch_idx, dataloader_idx=0):
        return self._step(batch, "train")

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self._step(batch, "val")


class SemanticSegmentationTask(BaseTask):
    def __init__(self, in_channels=4, num_classes=4, ignore_index=0, width=48, lr=1e-2, patience=10):
        super().__init__()

    def configure_models(self):
        width, classes = self.hparams["width"], self.hparams["num_classes"]
        self.model = nn.Sequential(
            nn.Conv2d(self.hparams["in_channels"], width, 4, stride=4),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, classes, 4, stride=4),
        )

    def configure_losses(self):
        self.criterion = nn.CrossEntropyLoss(ignore_index=self.hparams["ignore_index"])

    def configure_metrics(self):
        self.val_metrics = MetricCollection(
            [MulticlassAccuracy(self.hparams["num_classes"], ignore_index=0)], prefix="val_"
        )

    def training_step(self, batch, batch_idx, dataloader_idx=0):
        return self.criterion(self(batch["image"]), batch["mask"])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        y_hat = self(batch["image"])
        self.log("val_loss", self.criterion(y_hat, batch["mask"]))
        self.val_metrics(y_hat, batch["mask"])
