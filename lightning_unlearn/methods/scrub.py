"""SCRUB: leave the source's answers on the forget set and keep to them on the retain set, in turn."""

from typing import Any, ClassVar

from torch import Tensor

from lightning_unlearn.data import Phase, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.functional import bounded_ascent, distillation_loss
from lightning_unlearn.methods.base import Declared, Range, Source, Teacher, UnlearningModule

__all__ = ["SCRUB"]


class SCRUB(UnlearningModule):
    streams = ("forget", "retain")
    epoch_stream = "retain"
    indexed_streams = ("forget", "retain")
    default_lr = 3e-3
    anneals = True
    passes = 1

    def __init__(
        self,
        source: Source,
        msteps: int = 2,
        *,
        alpha: float = 0.5,
        gamma: float = 1.0,
        temperature: float = 4.0,
        clamp: float = 6.0,
        **method: Any,
    ) -> None:
        super().__init__(source, **method)
        self.msteps, self.alpha, self.gamma, self.temperature, self.clamp = msteps, alpha, gamma, temperature, clamp
        self._teachers: dict[str, Teacher] = {}

    def phase(self, epoch: int) -> Phase:
        last = (self.trainer.max_epochs or 1) - 1
        forgets = epoch % 2 == 1 and epoch < min(2 * self.msteps, last)
        stream = "forget" if forgets else "retain"
        return Phase((stream,), stream)

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        self._teachers = {stream: Teacher(self.source, self.adapter, stream) for stream in self.streams}
        for teacher in self._teachers.values():
            teacher.ask(data, runtime)

    def prepare_resumed(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        self.prepare(data, runtime)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        ((stream, part),) = batch.items()
        ((logits, labels),) = self.stream_logits(part)
        divergence = distillation_loss(self._teachers[stream].logits(part), logits, self.temperature)
        if stream == "forget":
            loss = bounded_ascent(divergence, self.clamp)
            self.log_terms(loss=loss, forget_kl=divergence)
            return loss
        ce = self.retain_loss(part, batch_idx, (logits, labels))
        loss = self.gamma * ce + self.alpha * divergence
        self.log_terms(loss=loss, ce=ce, kl=divergence)
        return loss
