"""A frozen model whose answers on one set of samples another model is pulled to."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_unlearn.data import Adapter, Indexed, UnlearningDataModule
from lightning_unlearn.ensembles import Runtime, predict
from lightning_unlearn.models import frozen


class Teacher:
    """A model that only answers; once and for all, where the samples are not augmented.

    It is no module, so that a method that holds one has it in no ``state_dict``, no optimizer and no export.

    Args:
        model: The model; of it a frozen copy is made when it is asked, and kept for as long as it is needed.
        stream: Which samples it answers on.
        positions: Those of the stream that a method takes (``stream_positions``); ``None`` for all.
    """

    def __init__(
        self,
        model: nn.Module,
        stream: str = "forget",
        positions: np.ndarray[Any, Any] | None = None,
    ) -> None:
        self.stream = stream
        self.positions = positions
        self._original: nn.Module | None = model
        self._model: nn.Module | None = None
        self._table: Tensor | None = None

    def ask(self, data: UnlearningDataModule, runtime: Runtime, adapter: Adapter) -> None:
        """Note all answers and let go of the model, or keep the model where the samples are augmented.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer; the answers, or the model, are put there.
            adapter: How batches and outputs are taken apart, which is known when preparing begins.
        """
        self.adapter = adapter
        if self._original is not None:
            self._model, self._original = frozen(self._original), None
        if self._model is not None:
            runtime.place(self._model)
            if not data.is_augmented(self.stream):
                self._table = self.answers(data, runtime)
                self._model = None
        if self._table is not None:
            self._table = self._table.to(runtime.device)

    def answers(self, data: UnlearningDataModule, runtime: Runtime) -> Tensor:
        """Return the logits ``(N, C)`` on all the samples as they are, not augmented, in their order.

        Args:
            data: The split data.
            runtime: Device, precision and ranks of the trainer.
        """
        if self._table is not None:
            return self._table
        assert self._model is not None
        loader = data.loader(self.stream, indexed=True, positions=self.positions)
        return predict(self._model, loader, runtime, self.adapter).logits.to(runtime.device)

    def logits(self, batch: Indexed) -> Tensor:
        """Return the logits ``(B, C)`` on a training batch, without a gradient.

        Args:
            batch: A batch of the stream.
        """
        if self._table is not None:
            return self._table[batch.index.to(self._table.device)]
        assert self._model is not None
        with torch.no_grad():
            return self.adapter.call(self._model, self.adapter.split(batch.batch)[0])

    def state(self) -> dict[str, Any]:
        """Return what it answers from: all answers, or the model's weights, as tensors."""
        return {
            "answers": None if self._table is None else self._table.cpu(),
            "model": None if self._model is None else self._model.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` returned; it must still be asked, which computes nothing twice."""
        if state["answers"] is not None:
            self._table, self._model, self._original = state["answers"], None, None
        else:
            assert self._original is not None
            self._model, self._original = frozen(self._original), None
            self._model.load_state_dict(state["model"])
