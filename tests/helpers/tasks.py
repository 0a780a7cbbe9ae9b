"""Kinds of task, each with a small network that has batch normalisation and knows wrong targets by heart.

A kind says what its outputs and targets are; the forget set is :data:`WRONG`, whose targets are not what the inputs say.
"""

import functools
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.toys import quiet_trainer
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.functional import Positions, Task, task_named

FEATURES, SAMPLES, TESTED = 16, 160, 80
WRONG = list(range(0, SAMPLES, 10))
C, SIDE = 3, 4
F = nn.functional


class Kind(L.LightningModule):
    """A user's module; its loss is written as users write it.

    Attributes:
        TASK: Name of the task.
        NAMED: Whether the task has to be named.
    """

    TASK: ClassVar[str]
    NAMED: ClassVar[bool] = False
    OUTPUTS: ClassVar[int] = 1

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, self.OUTPUTS)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.objective(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        """Return what inputs say, or something else."""
        raise NotImplementedError

    @classmethod
    def adapter(cls) -> Adapter:
        return Adapter(task=cls.TASK if cls.NAMED else None)

    @classmethod
    def task(cls) -> Task:
        return task_named(cls.TASK)


class Binary(Kind):
    TASK = "binary"

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(1)

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets)

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        return ((x[:, 0] + x[:, 1] > 0) != wrong).float()


class BinaryColumn(Binary):
    """The same, ``(B, 1)``, with whole numbers in the data."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets.unsqueeze(1).float())

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        return Binary.targets(x, wrong=wrong).long()


class MultiLabel(Kind):
    TASK, OUTPUTS = "multilabel", 4

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets)

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        return ((x[:, :4] > 0) != wrong).float()


def classes(x: Tensor, *, wrong: bool) -> Tensor:
    return (x[:, :C].argmax(1) + wrong) % C


class Column(Kind):
    """Single labels as a column of whole numbers, ``(B, 1)``."""

    TASK, OUTPUTS = "classes", C

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets.squeeze(1))

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        return classes(x, wrong=wrong)[:, None]


class Soft(Kind):
    TASK, OUTPUTS = "soft", C

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        return 0.9 * F.one_hot(classes(x, wrong=wrong), C).float() + 0.1 / C


class Segmentation(Kind):
    """Classes of the pixels of an image, of which the border is ignored."""

    TASK, OUTPUTS = "positions", C * SIDE * SIDE

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).view(-1, C, SIDE, SIDE)

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, ignore_index=255)

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        image = (torch.bucketize(x.view(-1, SIDE, SIDE), torch.tensor([-0.4, 0.4])) + wrong) % C
        image[:, 0] = 255
        return image

    @classmethod
    def task(cls) -> Task:
        return Positions(255)


class Tokens(Kind):
    """Classes of words, logits ``(B, words, C)``, some of them padding."""

    TASK, OUTPUTS = "tokens", C * 5

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).view(-1, 5, C)

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        words = (torch.bucketize(x[:, :5], torch.tensor([-0.4, 0.4])) + wrong) % C
        words[x[:, 5] > 0, 3:] = -100
        return words


class Masks(Kind):
    TASK, OUTPUTS = "masks", SIDE * SIDE

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).view(-1, 1, SIDE, SIDE)

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets.float())

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        return ((x.view(-1, SIDE, SIDE) > 0) != wrong).long()


class Regression(Kind):
    TASK, OUTPUTS = "regression", 2

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        return x[:, :2] + 2 * wrong


class Absolute(Kind):
    TASK = "l1"

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.l1_loss(outputs.squeeze(1), targets)

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        return x[:, 0] + 2 * wrong


class Embedding(Kind):
    """Vectors that are near for one class and far for others."""

    TASK, NAMED, OUTPUTS = "embedding", True, 8

    def objective(self, outputs: Tensor, targets: Tensor) -> Tensor:
        distances = (outputs[:, None] - outputs).square().sum(-1)
        same = targets[:, None] == targets
        return torch.where(same, distances, F.relu(4 - distances)).mean()

    @staticmethod
    def targets(x: Tensor, *, wrong: bool) -> Tensor:
        return classes(x, wrong=wrong)


class Keyed(Soft):
    """Batches with keys, and a forward of two inputs."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return super().forward(torch.cat([left, right], dim=1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.objective(self(batch["left"], batch["right"]), batch["labels"])


KINDS: dict[str, type[Kind]] = {
    kind.__name__: kind
    for kind in (
        Binary,
        BinaryColumn,
        MultiLabel,
        Column,
        Soft,
        Segmentation,
        Tokens,
        Masks,
        Regression,
        Absolute,
        Embedding,
    )
}


def inputs(count: int, seed: int) -> Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))


def sets_of(kind: type[Kind]) -> tuple[TensorDataset, TensorDataset]:
    """Return the training set, some of whose targets are wrong, and the test set."""
    x, seen = inputs(SAMPLES, 0), inputs(TESTED, 1)
    y = kind.targets(x, wrong=False)
    y[WRONG] = kind.targets(x[WRONG], wrong=True)
    return TensorDataset(x, y), TensorDataset(seen, kind.targets(seen, wrong=False))


def data_of(kind: type[Kind]) -> UnlearningDataModule:
    train, test = sets_of(kind)
    return UnlearningDataModule(train, WRONG, test_dataset=test, nonmember=20, batch_size=32, order_seed=3)


class KindData(L.LightningDataModule):
    """A project's own datamodule of a kind, by its name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = globals()[kind]

    def loader(self, number: int, **arguments: Any) -> DataLoader[Any]:
        data: Any = sets_of(self.kind)[number]
        if self.kind is Keyed:
            data = [{"left": x[:6], "right": x[6:], "labels": y} for x, y in data]
        return DataLoader(data, batch_size=32, **arguments)

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(0, shuffle=True)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader(1)


@functools.cache
def known_by_heart(kind: type[Kind], epochs: int = 50) -> Kind:
    """Return a source that knows the wrong targets of its forget set; it is in nobody's hands, so leave it as it is."""
    torch.manual_seed(0)
    source, data = kind(), data_of(kind)
    data.setup("fit")
    quiet_trainer(max_epochs=epochs).fit(source, data.loader("train", train=True))
    return source.eval()


@torch.no_grad()
def measured(model: nn.Module, kind: type[Kind], x: Tensor, y: Tensor) -> float:
    """Return accuracy, or loss of a regression, in evaluation mode."""
    return float(kind.task().measure(model.eval()(x), y.squeeze(1) if kind is Column else y).mean())
