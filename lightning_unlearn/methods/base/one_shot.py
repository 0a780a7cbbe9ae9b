"""Edit a model's weights once, and train nothing."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.engine.statistics import estimate_statistics
from lightning_unlearn.engine.train import Loss
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.methods.base.export import require_finite
from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.methods.base.searched import SearchSpace
from lightning_unlearn.methods.base.source import Source
from lightning_unlearn.models.freezing import trainable
from lightning_unlearn.models.statistics import running_layers
from lightning_unlearn.models.surgery import head_of


class OneShotModule(UnlearningModule):
    """Base of methods that edit the weights once and take no step: ``Trainer(max_epochs=0)``.

    A method writes :meth:`edit`. Running statistics, which the forget set went through in training, are then estimated
    anew on the retain set. Evaluators, export, ledger and comparisons are as for every method; its time is that of
    preparing. Any other number of epochs is refused before anything happens. Where a strategy would spread the model
    over processes, it stays whole on each of them.

    Args:
        source: The source model.
        loss: Classification loss of logits ``(B, C)`` and targets ``(B,)``, a mean; ``None`` for the cross-entropy.
        adapter: How batches and outputs are taken apart; ``None`` for the usual layouts.
        frozen: Names of the parameters that the source was not trained on, which stay as they are; ``None`` for those
            that do not require a gradient.
    """

    one_shot = True
    searched: ClassVar[SearchSpace] = dict.fromkeys(("lr", "max_epochs", "warm_up", "batch_size"))

    def __init__(
        self,
        source: Source,
        *,
        loss: Loss | None = None,
        adapter: Adapter | None = None,
        frozen: Sequence[str] | None = None,
    ) -> None:
        super().__init__(source, loss=loss, adapter=adapter, frozen=frozen)

    def edit(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Edit the weights of ``self.model`` in place, alike on every rank.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer.
        """
        raise NotImplementedError(f"{type(self).__name__} must define edit()")

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Edit the weights, refuse what is not finite, and estimate running statistics on the retain set."""
        self.edit(data, runtime)
        require_finite(self.model, f"the model that {type(self).__name__} unlearned")
        self.estimate(data, runtime)

    def estimate(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Estimate running statistics on the retain set; an edit that asks the model for features needs that before."""
        if moving := [name for name, layer in running_layers(self.model).items() if layer.training]:
            estimate_statistics(self.model, moving, data, runtime, self.adapter)

    def head_rows(self, data: UnlearningDataModule, runtime: Runtime) -> tuple[dict[str, nn.Parameter], int]:
        """Return what is trained of the layer that gives the logits, by name, with a row a class, and their number.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer.

        Raises:
            ValueError: If a class is forgotten, and there is no such layer whose rows could be edited.
        """
        batch = runtime.to_device(next(iter(data.loader("retain", batch_size=2, rank=0, world_size=1))))
        inputs, answers = self.adapter.split(batch)[0], []
        with (
            torch.compiler.set_stance("force_eager"),  # hooks do not reach into a compiled network
            runtime.asking(self.model),
            runtime.forward_context(),
        ):
            head = head_of(self.model, lambda: answers.append(self.adapter.call(self.model, inputs)))
        own = {*head.parameters()}
        classes = answers[0].shape[1]
        rows = {n: p for n, p in trainable(self.model).items() if p in own and p.shape[:1] == (classes,)}
        if data.forgets_a_class and not rows:
            raise ValueError(
                f"{type(self).__name__} edits the class's row of the last layer, and {type(head).__name__} of "
                f"{type(self.model).__name__} has no trained weight with a row for each class; DELETE needs none"
            )
        return rows, classes

    def configure_model(self) -> None:
        """Keep the model whole: there is no step whose gradients would have to be spread."""
