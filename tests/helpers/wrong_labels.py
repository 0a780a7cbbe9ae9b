"""Digits with wrong labels that a network with batch normalisation knows by heart: a trace strong enough to be seen."""

import functools
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from helpers.toys import quiet_trainer
from lightning_unlearn.cli.demo import MislabelledDigits
from lightning_unlearn.data import Classes, Digits, UnlearningDataModule
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.methods.base.checkpoints import KEPT
from lightning_unlearn.models import ResNet8

CLASS = 3


class Project(L.LightningModule):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = ResNet8(10, 1, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@functools.cache
def known_by_heart() -> tuple[Project, UnlearningDataModule, Tensor, Tensor]:
    torch.manual_seed(0)
    source, data = Project(), MislabelledDigits()
    inputs, labels = data.wrong
    data.setup("fit")
    train_and_keep(source, data, epochs=40, every=4)
    assert answered(source, inputs, labels) == 1
    return source.eval(), data, inputs, labels


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # gone when the process ends


def train_and_keep(
    source: L.LightningModule, data: UnlearningDataModule, *, epochs: int, every: int
) -> list[Path]:
    """Train a source on the members, and keep its weights as a comparison does, where ``auto`` finds them."""
    _FOLDERS.append(tempfile.TemporaryDirectory())
    folder = Path(_FOLDERS[-1].name)
    keeper = ModelCheckpoint(
        folder, "{epoch:02d}", save_top_k=-1, every_n_epochs=every, save_weights_only=True
    )
    trainer = quiet_trainer(max_epochs=epochs, callbacks=[keeper], enable_checkpointing=True)
    trainer.fit(source, data.loader("train", train=True))
    KEPT[source] = folder, math.inf
    return sorted(folder.glob("*.ckpt"))


@torch.no_grad()
def answered(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return float((model.eval()(inputs).argmax(1) == labels).float().mean())


def unlearned(
    method: Callable[[nn.Module], UnlearningModule], folder: Path, epochs: int = 2
) -> tuple[float, float]:
    """Unlearn the wrong labels, export, load into the project's own class, and ask it in evaluation mode.

    Args:
        method: Makes the method of the source.
        folder: Where to export to.
        epochs: Passes over the retain set.

    Returns:
        The share of the wrong labels that it still gives, and the loss of test accuracy against the source.
    """
    source, data, inputs, labels = known_by_heart()
    unlearning = method(source)
    quiet_trainer(max_epochs=epochs, limit_val_batches=0).fit(unlearning, data)
    model = Project.load_from_checkpoint(unlearning.export(folder / "m.ckpt"), strict=True)
    test = [torch.cat(part) for part in zip(*data.loader("test"), strict=True)]
    return answered(model, inputs, labels), answered(source, *test) - answered(model, *test)


def check_wrong_labels_are_forgotten(
    method: Callable[[nn.Module], UnlearningModule],
    folder: Path,
    *,
    epochs: int = 2,
    left: float = 0.03,
    lost: float = 0.03,
) -> None:
    """Check what :func:`unlearned` returns.

    Args:
        method: Makes the method of the source.
        folder: Where to export to.
        epochs: Passes over the retain set.
        left: Share of the wrong labels that it may still give; the source gives all, a retrained model about 1%.
        lost: Loss of test accuracy that it may have against the source.
    """
    gives, loses = unlearned(method, folder, epochs)
    assert gives <= left, f"it still gives {gives:.1%} of the wrong labels"
    assert loses <= lost, f"test accuracy fell by {loses:.1%}"


@functools.cache
def knows_a_class() -> tuple[Project, UnlearningDataModule]:
    torch.manual_seed(0)
    source, data = Project(), UnlearningDataModule(Digits(), Classes([CLASS]), batch_size=64)
    data.setup("fit")
    quiet_trainer(max_epochs=6).fit(source, data.loader("train", train=True))
    return source.eval(), data


def check_a_class_is_forgotten(
    method: Callable[[nn.Module], UnlearningModule],
    folder: Path,
    *,
    epochs: int,
    left: float = 0.0,
    lost: float = 0.02,
) -> None:
    """Unlearn all of a class, export, load into the project's own class, and ask it in evaluation mode.

    Args:
        method: Makes the method of the source.
        folder: Where to export to.
        epochs: Epochs of the method.
        left: Share of the class's samples, of forget and test set, that it may still be right about; right is 0.
        lost: Loss of test accuracy on the other classes that it may have against the source.
    """
    source, data = knows_a_class()
    unlearning = method(source)
    quiet_trainer(max_epochs=epochs, limit_val_batches=0).fit(unlearning, data)
    model = Project.load_from_checkpoint(unlearning.export(folder / "m.ckpt"), strict=True)
    (x, y), (seen, known) = (map(torch.cat, zip(*data.loader(s), strict=True)) for s in ("test", "forget"))
    of_class = y == CLASS
    knows = max(answered(model, seen, known), answered(model, x[of_class], y[of_class]))
    right = answered(model, x[~of_class], y[~of_class])
    assert answered(source, seen, known) > 0.95
    assert knows <= left, f"it is still right about {knows:.1%} of the class"
    assert right >= answered(source, x[~of_class], y[~of_class]) - lost, f"test accuracy fell to {right:.1%}"
