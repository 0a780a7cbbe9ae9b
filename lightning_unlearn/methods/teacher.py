"""A frozen model whose answers on the forget set others are pulled to; no loss and no training here."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn.data.adapter import Adapter
from lightning_unlearn.data.datamodule import UnlearningDataModule
from lightning_unlearn.data.loading import Indexed
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.models.surgery import frozen

__all__ = ["Teacher"]


class Teacher:
    """A model that only answers; on the forget set once and for all, where that set is not augmented.

    It is no module, so that a method that holds one has it in no ``state_dict``, no optimizer and no export.

    Args:
        model: The model; a frozen copy of it is kept.
        adapter: How batches and outputs are taken apart.

    Attributes:
        model: The frozen copy.
        ready: Whether it was asked, and so can answer batches.
    """

    def __init__(self, model: nn.Module, adapter: Adapter) -> None:
        self.model = frozen(model)
        self.adapter = adapter
        self.ready = False
        self._table: Tensor | None = None

    def ask(self, data: UnlearningDataModule, runtime: Runtime) -> None:
        """Put the model where batches are, and, unless the forget set is augmented, note all its answers.

        With the answers noted the model is not needed on the device any more, and leaves it.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer.
        """
        runtime.place(self.model)
        if not data.is_augmented("forget"):
            self._table = self.answers(data, runtime)
            self.model.cpu()
        self.ready = True

    def answers(self, data: UnlearningDataModule, runtime: Runtime) -> Tensor:
        """Return the logits ``(N, C)`` on the whole forget set as it is, not augmented, in its order.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer.
        """
        if self._table is not None:
            return self._table
        loader = data.loader("forget", indexed=True)
        return predict(self.model, loader, runtime, self.adapter).logits.to(runtime.device)

    def logits(self, batch: Any) -> Tensor:
        """Return the logits ``(B, C)`` on a training batch of the forget set, without a gradient.

        Args:
            batch: A batch of the stream ``forget``, :class:`~lightning_unlearn.data.loading.Indexed`.
        """
        if self._table is not None and isinstance(batch, Indexed):
            return self._table[batch.index.to(self._table.device)]
        inputs = self.adapter.split(batch.batch if isinstance(batch, Indexed) else batch)[0]
        with torch.no_grad():
            return self.adapter.call(self.model, inputs)
