"""What a method answered when it was validated or tested last, for evaluators that ask the same."""

from typing import TYPE_CHECKING

import lightning as L
import torch
from torch import Tensor, nn

from lightning_unlearn.core.compat import trainer_of
from lightning_unlearn.data import Adapter, UnlearningDataModule
from lightning_unlearn.data.hooks import transfer_hooks
from lightning_unlearn.data.loading import TensorLoader
from lightning_unlearn.ensembles import Outputs, Runtime, isolated_rng, predict
from lightning_unlearn.functional import Task
from lightning_unlearn.models.surgery import content_of

if TYPE_CHECKING:
    from lightning_unlearn.methods.base.module import UnlearningModule


class Validated:
    """Answers that the last validation gave, which evaluators take as long as they would be given the same.

    They are of whole streams held in memory, of one process, and of a model that has not changed by a bit since; its
    first batch is asked again, and must be answered alike, in case something else has changed.

    Attributes:
        wanted: Whether an evaluator will ask; nothing is kept otherwise.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._keeps = False
        self._of = ""
        self._answers: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def begin(self, trainer: L.Trainer) -> None:
        """Let go of what was kept; keep what comes now, unless it is of some samples only."""
        limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
        self._keeps = self.wanted and trainer.world_size == 1 and not isinstance(limit, int)
        self._answers = {}

    def add(self, stream: str, model: nn.Module, logits: Tensor, targets: Tensor) -> None:
        """Keep the next batch of a stream."""
        if self._keeps:
            self._of = self._of if self._answers else content_of(model)
            self._answers.setdefault(stream, []).append((logits.float().cpu(), targets.cpu()))

    def outputs(
        self,
        stream: str,
        method: "UnlearningModule",
        data: UnlearningDataModule,
        runtime: Runtime,
        adapter: Adapter,
    ) -> Outputs | None:
        """Return the answers on a whole stream as :func:`~lightning_unlearn.engine.predict.ask` would, or None."""
        own = data is getattr(trainer_of(method), "datamodule", None) and adapter == method.adapter
        plain = type(adapter.kind).kept is Task.kept and adapter.kind.judged_as is adapter.kind
        if (
            not (own and plain)
            or stream not in self._answers
            or transfer_hooks(data)
            or transfer_hooks(method)
        ):
            return None
        loader = data.evaluated(stream)
        logits, targets = map(torch.cat, zip(*self._answers[stream], strict=True))
        size = len(self._answers[stream][0][1])
        whole = len(targets) == loader.sampler.size and size == min(len(targets), loader.batch_size)
        if type(loader) is not TensorLoader or not whole or self._of != content_of(method.model):
            return None
        assert loader.positions is not None
        first = data.evaluated(stream, positions=loader.positions[:size].numpy())
        with isolated_rng():
            again = predict(method, first, runtime, adapter)
        targets = targets.to(again.targets.dtype)
        alike = torch.equal(again.logits, logits[:size]) and torch.equal(again.targets, targets[:size])
        return Outputs(logits, targets, adapter.kind) if alike else None
