"""A network with batch normalisation that was trained on digits, one class of which is to be forgotten."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.toys import quiet_trainer
from helpers.wrong_labels import Project, answered
from lightning_unlearn.data import Classes, Digits, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods import UnlearningModule
from lightning_unlearn.methods.base import OneShotModule

CLASS = 3


@functools.cache
def digits_source() -> tuple[Project, UnlearningDataModule]:
    torch.manual_seed(0)
    source, data = Project(), UnlearningDataModule(Digits(batch_size=64), Classes(CLASS))
    data.setup("fit")
    quiet_trainer(max_epochs=8).fit(source, data.loader("train", train=True))
    return source.eval(), data


def rows(data: UnlearningDataModule, stream: str) -> list[Tensor]:
    return [torch.cat(part) for part in zip(*data.loader(stream), strict=True)]


def remembered_and_kept(method: UnlearningModule, folder: Path) -> tuple[float, float]:
    """Unlearn the class, export, load into the project's own class, and ask it in evaluation mode.

    Returns:
        Accuracy on the test samples of the class, of which the source knows 97% or more, and on those of the others.
    """
    _, data = digits_source()
    quiet_trainer(max_epochs=0).fit(method, data)
    model = Project.load_from_checkpoint(method.export(folder / "m.ckpt"), strict=True)
    inputs, targets = rows(data, "test")
    gone = targets == CLASS
    return answered(model, inputs[gone], targets[gone]), answered(model, inputs[~gone], targets[~gone])


def check_the_class_is_forgotten(
    method: Callable[[Any], UnlearningModule], folder: Path, *, left: float = 0.05, lost: float = 0.05
) -> None:
    """Assert how much may be left of the class, and how much of the others' accuracy may be lost."""
    source, data = digits_source()
    inputs, targets = rows(data, "test")
    gone = targets == CLASS
    assert answered(source, inputs[gone], targets[gone]) > 0.9
    before = answered(source, inputs[~gone], targets[~gone])
    remembered, kept = remembered_and_kept(method(source), folder)
    assert remembered <= left, f"it still knows {remembered:.1%} of the class"
    assert kept >= before - lost, f"accuracy on the other classes fell from {before:.1%} to {kept:.1%}"


def instead(kind: type[OneShotModule], **streams: str) -> type[OneShotModule]:
    """Return the method with its essential term off: its edit is served other streams than those it asks for."""

    class Off(kind):  # type: ignore[misc, valid-type]
        def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
            view: Any = copy.copy(data)
            view.loader = lambda stream, **how: data.loader(streams.get(stream, stream), **how)
            super().edit(view, runtime)

    return Off
