"""TaskNegation: learn the forget set once more, and go as far the other way."""

from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable

from lightning_unlearn.data import UnlearningDataModule
from lightning_unlearn.engine.train import train_classifier
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods.base import Declared, OneShotModule, Range, Source
from lightning_unlearn.methods.base.limits import OF_ITS_OWN, warn_without_a_class
from lightning_unlearn.methods.base.searched import Search, SearchSpace
from lightning_unlearn.models import clone
from lightning_unlearn.models.freezing import trainable


class TaskNegation(OneShotModule):
    r"""Fine-tunes a copy on the forget set, and takes what that changed off the source.

    .. math:: \theta \leftarrow \theta_{source} - scale \cdot (\theta_{tuned} - \theta_{source})

    Source: Ilharco et al., "Editing Models with Task Arithmetic", 2023, section 3. It is made for a task: a class, or
    another part of the data with answers of its own. Of random samples what fine-tuning changes is everybody's.

    Args:
        source: The source model.
        scale: How far to go the other way, > 0.
        epochs: Passes over the forget set that the copy is fine-tuned, >= 1.
        optimizer: Makes the copy's optimizer; ``None`` for SGD with learning rate 0.05.
        **one_shot: Arguments of :class:`~lightning_unlearn.methods.base.one_shot.OneShotModule`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from lightning_unlearn.models import MLP
        >>> TaskNegation(MLP(in_features=4, hidden=(3,), num_classes=2), scale=0.0)
        Traceback (most recent call last):
        ValueError: scale must be above 0, got 0.0; 1 goes as far as fine-tuning went
    """

    declared: ClassVar[Declared] = {
        "scale": Range("(0, inf)", "; 1 goes as far as fine-tuning went"),
        "epochs": Range("[1, inf)", whole=True),
    }

    searched: ClassVar[SearchSpace] = {
        "scale": Search(0.2, 4.0, log=True),
        "epochs": Search(1, 10, whole=True),
    }

    def __init__(
        self,
        source: Source,
        scale: float = 1.5,
        *,
        epochs: int = 5,
        optimizer: OptimizerCallable | None = None,
        **one_shot: Any,
    ) -> None:
        super().__init__(source, **one_shot)
        self.scale = scale
        self.epochs = epochs
        self._tuner = optimizer or partial(torch.optim.SGD, lr=0.05)

    def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Fine-tune a copy on D_f, and go the other way."""
        apart = data.forgets_a_class or data.backdoor is not None
        warn_without_a_class(self, forgets_a_class=apart, does=OF_ITS_OWN)
        tuned = clone(self.model)
        train_classifier(
            tuned,
            data.loader("forget", train=True),
            epochs=self.epochs,
            optimizer=self._tuner,
            runtime=runtime,
            loss=self.loss,
            adapter=self.adapter,
            seed=data.order_seed,
        )
        with torch.no_grad():
            for name, parameter in trainable(self.model).items():
                parameter.add_(parameter - tuned.get_parameter(name), alpha=self.scale)
