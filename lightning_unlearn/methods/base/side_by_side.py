"""Step K methods of one kind as one computation."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.func import vmap
from torch.utils.data import default_collate

from lightning_unlearn.data import Phase, UnlearningDataModule
from lightning_unlearn.data.loading import BatchLoader, SideBySideLoader
from lightning_unlearn.ensembles import Runtime
from lightning_unlearn.ensembles.chunk import fuse
from lightning_unlearn.methods.base.module import UnlearningModule
from lightning_unlearn.models.surgery import call_with, tensors_of

_TOLERANCE = 0.05  # sums in another order differ by 1e-2 in bfloat16


class SideBySide(nn.Module):
    """K methods of one class, and a runner of that class whose tensors are those of all K, stacked.

    The runner is what a Trainer fits. Its loaders serve the batches of all K, and its step is ``training_step`` under
    :func:`torch.func.vmap`, so that it is written once. What is prepared, and what a loss is given from elsewhere, is
    each method's own.

    Args:
        runner: The one that is fitted.
        methods: The K, before their first step.
        views: The data, as each of them alone would be served it.

    Attributes:
        data: What the Trainer is given.
    """

    def __init__(
        self,
        runner: UnlearningModule,
        methods: Sequence[UnlearningModule],
        views: Sequence[UnlearningDataModule],
    ) -> None:
        super().__init__()
        self.runner = runner
        self.methods = [*zip(methods, views, strict=True)]
        self.data = views[0].served_alone(views[0].order_seed)
        self.data.stream_loaders = self._loaders  # type: ignore[method-assign]
        self._step = runner.training_step
        self._gives = is_overridden("given", runner, UnlearningModule)
        for hook in ("prepare", "training_step", "log"):
            setattr(runner, hook, getattr(self, hook))

    def forward(self, *step: Any) -> Tensor:
        """Return the loss of the method whose tensors the runner has now."""
        return self._step(*step)

    def prepare(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Prepare each method, and stack their tensors."""
        for method, view in self.methods:
            view.trainer = self.runner.trainer
            method.trainer = _Beside(view)  # type: ignore[assignment]
            method.example = self.runner.example
            method._use(self.runner.adapter)
            runtime.place(method.model)
            method.prepare(view, runtime)
        for name, own in tensors_of(self.runner.model).items():
            own.data = torch.stack([tensors_of(method.model)[name].detach() for method, _ in self.methods])
        fuse(self.runner.trainer.optimizers[0])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the sum of all losses: none depends on another's tensors."""
        tensors = {f"runner.model.{name}": own for name, own in tensors_of(self.runner.model).items()}

        def step(tensors: dict[str, Tensor], given: dict[str, Tensor], batch: dict[str, Any]) -> Tensor:
            self.runner.given = lambda batch: given  # type: ignore[method-assign]
            loss: Tensor = call_with(self, tensors, batch, batch_idx)
            return loss

        methods = self.methods if self._gives else []
        given = default_collate([m.given(_of(batch, k)) for k, (m, _) in enumerate(methods)] or [{}])
        losses: Tensor = vmap(step, randomness="error")(tensors, given, batch)
        if batch_idx == 0:  # what vmap hides, such as requires_grad, would go unseen
            alone = step(*(_of(each, 0) for each in (tensors, given, batch)))
            if not torch.allclose(losses[0], alone, rtol=_TOLERANCE, atol=_TOLERANCE):
                raise RuntimeError(
                    f"{type(self.runner).__name__}: training_step has another loss under torch.func.vmap "
                    f"({losses[0].item():.4g}) than alone ({alone.item():.4g}); set its side_by_side to False"
                )
        return losses.sum()

    def log(self, *terms: Any, **options: Any) -> None:
        """Log nothing: a term is of all K, and there is no logger."""

    def unlearned(self) -> list[nn.Module]:
        """Return the K models."""
        stacked = tensors_of(self.runner.model)
        for number, (method, _) in enumerate(self.methods):
            for name, own in tensors_of(method.model).items():
                own.data = stacked[name].detach()[number].clone()
        return [method.model for method, _ in self.methods]

    def _loaders(self, module: Any, phase: Phase) -> dict[str, BatchLoader]:
        served = [view.stream_loaders(method, phase) for method, view in self.methods]
        return {stream: SideBySideLoader([each[stream] for each in served]) for stream in phase.streams}


class _Beside:
    """The runner's Trainer, as one of the K sees it: with the data as that one is served it."""

    def __init__(self, view: UnlearningDataModule) -> None:
        self.datamodule = view

    def __getattr__(self, name: str) -> Any:
        return getattr(self.datamodule.trainer, name)


def _of(batch: Any, k: int) -> Any:
    """Return the ``k``-th of every tensor."""
    if isinstance(batch, Tensor):
        return batch[k]
    if isinstance(batch, dict):
        return {name: _of(part, k) for name, part in batch.items()}
    parts = [_of(part, k) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else parts
